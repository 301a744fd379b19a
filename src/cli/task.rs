//! `backstop task`: give the team work and see what became of it.

use std::io::Read;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::{Table, ago, cut, cut_id, details, short, wrapped};
use super::select::Select;
use super::{Context, Error, actor, now, waterfall};
use crate::api::Items;
use crate::api::filter::query_pairs;
use crate::delivery::Attempt;
use crate::diff;
use crate::doubt::{self, Doubt};
use crate::engine::Submitted;
use crate::journal::Step;
use crate::query::Page;
use crate::record::{Record, State};
use crate::redact::Redactor;
use crate::said;
use crate::task::{AgentName, Effect, IdempotencyKey, Priority, TaskId, TaskType};
use crate::time::{Timestamp, format_duration, parse_duration};

/// Give the team work and see what became of it.
#[derive(Debug, Subcommand)]
pub(super) enum Task {
    /// Hand in a task
    #[command(
        after_help = "Examples:\n  backstop task submit code_review diff=@my.patch language=rust --wait\n  backstop task submit blog_post '{\"topic\": \"outages\"}' --agent marketing\n  jq .order order.json | backstop task submit charge - --effect payment --idempotency-key order-42"
    )]
    Submit(Submit),
    /// List tasks, newest first
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  backstop task ls --state parked\n  backstop task ls --where 'agent:cto age:<1h' -o name"
    )]
    Ls(Ls),
    /// Everything known of a task, its deliveries as a picture
    #[command(
        after_help = "Examples:\n  backstop task show 0192d5a1-7c3e\n  backstop task show 0192d5a1-7c3e --prompt-diff\n  backstop task show 0192d5a1-7c3e --prompt-diff 1..3"
    )]
    Show {
        /// Its id, or the beginning of it
        id: String,
        /// What was said to the model differently in two deliveries; the last two unless told otherwise
        #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "A..B")]
        prompt_diff: Option<String>,
    },
    /// Every call of a model and of a tool, in order
    #[command(
        after_help = "Examples:\n  backstop task journal 0192d5a1-7c3e\n  backstop task journal 0192d5a1-7c3e -o jsonl | jq .outcome"
    )]
    Journal {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Say whether a call happened of which nobody knows; the task goes on by itself
    #[command(
        after_help = "Examples:\n  backstop task outcome 0192d5a1-7c3e --happened --note 'the bank shows charge ch_42'\n  backstop task outcome 0192d5a1-7c3e --did-not-happen --step 4 --note 'no such order'"
    )]
    Outcome(OutcomeOf),
    /// Give up a task that has not ended
    #[command(after_help = "Examples:\n  backstop task cancel 0192d5a1-7c3e --reason 'sent by mistake'")]
    Cancel {
        /// Its id, or the beginning of it
        id: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// What somebody found out.
#[derive(Args, Debug)]
pub(super) struct OutcomeOf {
    /// The task: its id, or the beginning of it
    id: String,
    /// It happened: it is not made again, and the model is told your note
    #[arg(long, required_unless_present = "did_not_happen", conflicts_with = "did_not_happen")]
    happened: bool,
    /// It did not happen: it is made again, under the same key
    #[arg(long)]
    did_not_happen: bool,
    /// Which call, when several are in doubt
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    step: Option<u32>,
    /// What you saw; told to the model when it happened
    #[arg(long, default_value = "")]
    note: String,
}

/// What is handed in.
#[derive(Args, Debug)]
pub(super) struct Submit {
    /// The type of the task
    task_type: TaskType,
    /// The input: JSON, @file, - for stdin, or name=text, name=@file and name:=json
    payload: Vec<String>,
    /// To whom; otherwise the least loaded agent that handles the type
    #[arg(long)]
    agent: Option<AgentName>,
    /// What doing it does to the world: read-only, notification, mutation, payment
    #[arg(long)]
    effect: Option<Effect>,
    /// How urgent it is: high, normal, low
    #[arg(long)]
    priority: Option<Priority>,
    /// Your name for it: the same key and content is the same task
    #[arg(long, value_name = "KEY", value_parser = |key: &str| IdempotencyKey::new(key))]
    idempotency_key: Option<IdempotencyKey>,
    /// When an answer is of no use any more: 2h from now, or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// On whose behalf
    #[arg(long)]
    tenant: Option<String>,
    /// Which prompt renders it
    #[arg(long)]
    prompt: Option<String>,
    /// Wait until it has ended, and print its answer
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "1h", value_parser = parse_duration, value_name = "SPAN")]
    wait_at_most: Duration,
}

#[derive(Args, Debug)]
pub(super) struct Ls {
    /// Standing in this state; may be given several times
    #[arg(long)]
    state: Vec<State>,
    #[command(flatten)]
    select: Select,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the next page begins
    #[arg(long)]
    after: Option<String>,
}

const TASKS: [&str; 3] = ["api", "v1", "tasks"];

impl Task {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Submit(submit) => submit.run(context).await,
            Self::Ls(ls) => ls.run(context).await,
            Self::Show { id, prompt_diff: Some(which) } => prompt_diff(context, &id, &which).await,
            Self::Show { id, prompt_diff: None } => {
                let got = context.client.get::<Record>(&path(&[&id]), &[]).await?;
                let id = got.it.task.id.to_string();
                let steps = context.client.get::<Items<Step>>(&path(&[&id, "journal"]), &[]).await?.it.items;
                context.out.data(&got.raw, "/task/id", || show(&got.it, &steps, now()))?;
                context.out.next(&next_for(&got.it, &steps));
                Ok(())
            }
            Self::Journal { id } => {
                let got = context.client.get::<Items<Step>>(&path(&[&id, "journal"]), &[]).await?;
                context.out.data(&got.raw, "/intent/intent", || waterfall::table(&got.it.items))?;
                context.out.next(&format!("backstop why {id}"));
                Ok(())
            }
            Self::Outcome(outcome) => outcome.run(context).await,
            Self::Cancel { id, reason } => {
                let body = json!({ "by": actor(), "reason": reason });
                let got = context.client.post::<Record>(&path(&[&id, "cancel"]), &body).await?;
                context.out.data(&got.raw, "/task/id", || format!("{} {}\n", got.it.task.id, got.it.state))?;
                context.out.next("backstop task ls --state cancelled");
                Ok(())
            }
        }
    }
}

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    TASKS.iter().copied().chain(rest.iter().copied()).collect()
}

impl OutcomeOf {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let body = json!({ "step": self.step, "happened": self.happened, "note": self.note, "by": actor() });
        let got = context.client.post::<Record>(&path(&[&self.id, "outcome"]), &body).await?;
        let record = &got.it;
        context.out.data(&got.raw, "/task/id", || format!("{} {}\n", record.task.id, record.state))?;
        context.out.next(&match record.state {
            // Another call is in doubt, or a person decides what becomes of it.
            State::Dead | State::WaitingHuman => format!("backstop why {}", record.task.id),
            State::Ready | State::Scheduled | State::Parked | State::Running | State::Done | State::Cancelled => {
                format!("backstop task show {}", record.task.id)
            }
        });
        Ok(())
    }
}

/// What was said to the model differently in two deliveries.
async fn prompt_diff(context: &Context, id: &str, which: &str) -> Result<(), Error> {
    let steps = context.client.get::<Items<Step>>(&path(&[id, "journal"]), &[]).await?.it.items;
    let asked = said::deliveries(&steps);
    let usage = |message: String| Error::Usage { message, next: Some(format!("backstop task journal {id}")) };
    let (from, to) = match (which, asked.as_slice()) {
        ("", [.., from, to]) => (*from, *to),
        ("", _) => {
            let message = format!("{} delivery asked a model; a difference needs two", asked.len());
            return Err(Error::Failed { message, next: Some(format!("backstop task show {id}")) });
        }
        (which, _) => {
            let two = which.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
            two.ok_or_else(|| usage(format!("`{which}` is not A..B, the numbers of two deliveries such as 1..2")))?
        }
    };
    let text = |fence: u64| {
        let known: Vec<String> = asked.iter().map(ToString::to_string).collect();
        let none = || usage(format!("delivery {fence} asked no model; these did: {}", known.join(", ")));
        said::said(&steps, fence).ok_or_else(none)
    };
    let lines = diff::lines(&text(from)?, &text(to)?);
    let raw = json!({ "from": from, "to": to, "items": lines });
    context.out.data(&raw, "/text", || {
        let told = diff::told(&lines, 3);
        let told = if told.is_empty() { vec!["  nothing differs".to_owned()] } else { told };
        let told: Vec<String> = told.iter().map(|line| super::output::visible(line)).collect();
        format!("--- delivery {from}\n+++ delivery {to}\n{}\n", told.join("\n"))
    })?;
    context.out.next(&format!("backstop why {id}"));
    Ok(())
}

impl Submit {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(self.task_type));
        body.insert("payload".to_owned(), payload(&self.payload)?);
        let deadline = self.deadline.as_deref().map(deadline).transpose()?;
        for (name, value) in [
            ("agent", json!(self.agent)),
            ("effect", json!(self.effect)),
            ("priority", json!(self.priority)),
            ("idempotency_key", json!(self.idempotency_key)),
            ("deadline", json!(deadline)),
            ("tenant", json!(self.tenant)),
            ("prompt", json!(self.prompt)),
        ] {
            if !value.is_null() {
                body.insert(name.to_owned(), value);
            }
        }
        let got = context.client.post::<Submitted>(&TASKS, &Value::Object(body)).await?;
        let id = got.it.record.task.id;
        if !got.it.new {
            context.out.say("this idempotency key already names this task; nothing new was accepted");
        }
        if self.wait {
            return wait(context, id, self.wait_at_most).await;
        }
        context.out.data(&got.raw, "/record/task/id", || format!("{id}\n"))?;
        context.out.next(&format!("backstop task show {id}"));
        Ok(())
    }
}

/// Looks until the task has ended: its answer on stdout, what it does meanwhile on stderr.
async fn wait(context: &Context, id: TaskId, at_most: Duration) -> Result<(), Error> {
    let id_text = id.to_string();
    let end = now() + at_most;
    let mut shown = None;
    loop {
        let got = context.client.get::<Record>(&path(&[&id_text]), &[]).await?;
        let record = &got.it;
        let stand = (record.state, record.attempt, record.generation);
        if shown.replace(stand) != Some(stand) {
            context.out.say(&format!("{id_text} {} (attempt {}, {})", record.state, record.attempt, record.agent));
        }
        match record.state {
            State::Done => {
                context.out.data(&got.raw, "/task/id", || answer(record))?;
                context.out.next(&format!("backstop task show {id_text}"));
                return Ok(());
            }
            // The CEO is at it: most of what is given up on is sent on.
            State::Dead if record.is_undecided() => {}
            State::Dead | State::WaitingHuman | State::Cancelled => {
                let why = record.letter.as_ref().map(|letter| format!(": {}", letter.failure.message));
                let message = format!("the task is {}{}", record.state, why.unwrap_or_default());
                return Err(Error::Failed { message, next: Some(format!("backstop ceo explain {id_text}")) });
            }
            State::Ready | State::Scheduled | State::Parked | State::Running => {}
        }
        if now() >= end {
            let message = format!("still {} after {}; it goes on", record.state, format_duration(at_most));
            return Err(Error::Failed { message, next: Some(format!("backstop task show {id_text}")) });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn answer(record: &Record) -> String {
    match &record.answer {
        Some(Value::String(text)) => format!("{}\n", super::output::visible_lines(text)),
        Some(value) => super::output::json_page(value),
        None => "null\n".to_owned(),
    }
}

fn deadline(text: &str) -> Result<Timestamp, Error> {
    let wrong = |message| Error::Usage { message, next: Some("backstop task submit --help".to_owned()) };
    match parse_duration(text) {
        Ok(span) => Ok(now() + span),
        Err(_) => Timestamp::parse(text).map_err(|_| {
            wrong(format!("--deadline `{text}` is neither a span from now such as 2h nor an RFC 3339 time"))
        }),
    }
}

/// One JSON text, or `name=value` pairs.
fn payload(arguments: &[String]) -> Result<Value, Error> {
    let usage = |message: String| Error::Usage { message, next: Some("backstop task submit --help".to_owned()) };
    match arguments {
        [] => Ok(json!({})),
        [one] if one == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            read.map_err(|source| Error::File { path: "stdin".to_owned(), doing: "read", source })?;
            from_json(&text, "stdin").map_err(usage)
        }
        [one] if one.starts_with('@') => {
            let file = &one[1..];
            from_json(&read(file)?, file).map_err(usage)
        }
        [one] if !is_pair(one) => from_json(one, "the payload").map_err(usage),
        pairs => {
            let mut fields = Map::new();
            for pair in pairs {
                let Some((name, value)) = pair.split_once('=') else {
                    return Err(usage(format!("`{pair}` is not name=text, name=@file or name:=json")));
                };
                let (name, value) = match (name.strip_suffix(':'), value.strip_prefix('@')) {
                    (Some(name), Some(file)) => (name, from_json(&read(file)?, file).map_err(usage)?),
                    (Some(name), None) => (name, from_json(value, name).map_err(usage)?),
                    (None, Some(file)) => (name, Value::String(read(file)?)),
                    (None, None) => (name, Value::String(value.to_owned())),
                };
                if fields.insert(name.to_owned(), value).is_some() {
                    return Err(usage(format!("`{name}` is given twice")));
                }
            }
            Ok(Value::Object(fields))
        }
    }
}

fn is_pair(text: &str) -> bool {
    let name = text.split('=').next().unwrap_or("").trim_end_matches(':');
    text.contains('=') && !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn from_json(text: &str, from: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{from} is not JSON: {error}"))
}

fn read(file: &str) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|source| Error::File { path: file.to_owned(), doing: "read", source })
}

impl Ls {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut filter = self.select.filter()?;
        filter.states.extend(self.state);
        let mut query = query_pairs(&filter);
        query.push(("limit".to_owned(), self.limit.to_string()));
        query.extend(self.after.map(|after| ("after".to_owned(), after)));
        let got = context.client.get::<Page<Record>>(&TASKS, &query).await?;
        context.out.data(&got.raw, "/task/id", || table(&got.it.items, now()))?;
        match (&got.it.next, got.it.items.first()) {
            (Some(next), _) => context.out.next(&format!("backstop task ls ... --after {next}")),
            (None, Some(record)) => context.out.next(&format!("backstop task show {}", record.task.id)),
            (None, None) => context.out.next("backstop task submit <type> <payload> --wait"),
        }
        context.out.unreadable(&got.it.unreadable)
    }
}

/// Tasks as a table: id, state, agent, type, attempt, age, and what is wrong.
fn table(records: &[Record], now: Timestamp) -> String {
    let ids: Vec<TaskId> = records.iter().map(|record| record.task.id).collect();
    let length = short(&ids);
    let mut table = Table::new(&["ID", "STATE", "AGENT", "TYPE", "TRY", "AGE", "NOTE"]);
    for record in records {
        table.row(&[
            cut_id(record.task.id, length),
            record.state.to_string(),
            record.agent.to_string(),
            record.task.task_type.to_string(),
            record.attempt.to_string(),
            ago(now, record.task.created_at),
            cut(&note(record, now), 60),
        ]);
    }
    table.render("no tasks match")
}

/// What a person should know about it at a glance.
fn note(record: &Record, now: Timestamp) -> String {
    let last = record.attempts.iter().rev().find_map(|attempt| attempt.failure.as_ref());
    let failed = last.map(|failure| failure.message.clone()).unwrap_or_default();
    match record.state {
        State::Scheduled => format!("retry in {}: {failed}", format_duration(whole(now.until(record.due)))),
        State::Parked => {
            let why = record.parking.as_ref().map_or("", |parking| parking.why.as_str());
            format!("{why} ({})", record.held_by())
        }
        State::Dead | State::WaitingHuman => {
            record.letter.as_ref().map_or(failed, |letter| letter.failure.message.clone())
        }
        State::Ready | State::Running | State::Done | State::Cancelled => String::new(),
    }
}

fn whole(span: Duration) -> Duration {
    Duration::from_secs(span.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX))
}

/// Everything about one task.
///
/// The payload is its owner's and stands whole in `-o json`; on a screen, which others may look at, it is shown without
/// what looks like a credential.
pub(super) fn show(record: &Record, steps: &[Step], now: Timestamp) -> String {
    let task = &record.task;
    let payload = Redactor::default().value(&task.payload);
    let some = |text: Option<String>| text.unwrap_or_default();
    let mut text = details(&[
        ("id", task.id.to_string()),
        ("type", task.task_type.to_string()),
        ("state", record.state.to_string()),
        ("agent", record.agent.to_string()),
        ("model", some(record.model.as_ref().map(ToString::to_string))),
        ("effect", task.effect.to_string()),
        ("priority", task.priority.to_string()),
        ("accepted", format!("{} ({} ago)", task.created_at, ago(now, task.created_at))),
        ("round", format!("{}, attempt {}", record.generation, record.attempt)),
        ("due", if record.due > now { record.due.to_string() } else { String::new() }),
        ("waits", if record.state == State::Parked { note(record, now) } else { String::new() }),
        ("key", some(task.idempotency_key.as_ref().map(ToString::to_string))),
        ("deadline", some(task.deadline.map(|at| at.to_string()))),
        ("payload", cut(&payload.to_string(), 400)),
        ("answer", some(record.answer.as_ref().map(|answer| cut(&answer.to_string(), 400)))),
    ]);
    if !record.attempts.is_empty() {
        text.push_str("\nattempts\n");
        text.push_str(&attempts(&record.attempts));
    }
    text.push_str(&pictured(&record.attempts, steps, now));
    text.push_str(&in_doubt(task.id, &Doubt::all(steps, running(record))));
    if let Some(letter) = &record.letter {
        text.push_str("\ndead letter\n");
        text.push_str(&details(&[
            ("status", letter.status.to_string()),
            ("given up", format!("{} ({} ago)", letter.at, ago(now, letter.at))),
            ("because", letter.why.clone()),
            ("failure", format!("{}/{}", letter.failure.class, letter.failure.kind)),
            ("error", letter.failure.message.clone()),
            ("rule", letter.failure.rule.clone()),
            ("policy", letter.circumstances.policy_from.clone()),
            ("replays", record.replays.to_string()),
        ]));
    }
    if !record.decisions.is_empty() {
        text.push_str("\ndecisions\n");
        text.push_str(&super::ceo::decisions(&record.decisions));
    }
    text
}

/// The deliveries and their steps as a picture; nothing when there is no journal.
pub(super) fn pictured(attempts: &[Attempt], steps: &[Step], now: Timestamp) -> String {
    if steps.is_empty() {
        return String::new();
    }
    format!("\nsteps\n{}", waterfall::waterfall(attempts, steps, now))
}

/// Calls of which nobody knows whether they happened, and how to answer.
pub(super) fn in_doubt(task: TaskId, doubts: &[Doubt]) -> String {
    if doubts.is_empty() {
        return String::new();
    }
    let lines = doubts.iter().map(|doubt| {
        format!(
            "{}\n{}\n",
            wrapped(&doubt.line(), 2),
            wrapped(&format!("answer: {}", doubt::command(task, Some(doubt.step))), 4)
        )
    });
    format!("\nin doubt: did these happen?\n{}", lines.collect::<String>())
}

/// The fence under which it runs; 0 when it does not.
fn running(record: &Record) -> u64 {
    if record.state == State::Running { record.fence } else { 0 }
}

pub(super) fn attempts(attempts: &[Attempt]) -> String {
    let mut table = Table::new(&["ROUND", "TRY", "AGENT", "WAITED", "TOOK", "END", "TOKENS", "ERROR"]);
    for attempt in attempts {
        let took = attempt.ended_at.map(|end| format_duration(end.since(attempt.started_at)));
        let error = attempt.failure.as_ref().map(|failure| format!("{}: {}", failure.kind, failure.message));
        table.row(&[
            attempt.generation.to_string(),
            attempt.number.to_string(),
            attempt.agent.to_string(),
            format_duration(attempt.waited),
            took.unwrap_or_default(),
            attempt.end.map_or("running", |end| end.as_str()).to_owned(),
            attempt.spent.usage.total().to_string(),
            cut(&error.unwrap_or_default(), 120),
        ]);
    }
    table.render("none yet")
}

fn next_for(record: &Record, steps: &[Step]) -> String {
    let id = record.task.id;
    match record.state {
        State::Dead | State::WaitingHuman if !Doubt::all(steps, 0).is_empty() => format!("backstop why {id}"),
        State::Dead | State::WaitingHuman => format!("backstop ceo decide {id} run-again --reason '...'"),
        State::Parked => "backstop breaker ls".to_owned(),
        State::Ready | State::Scheduled | State::Running => format!("backstop task cancel {id}"),
        State::Done | State::Cancelled => format!("backstop why {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_or_pairs() {
        let of = |arguments: &[&str]| payload(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        for (arguments, expected) in [
            (&[][..], json!({})),
            (&[r#"{"a": 1}"#], json!({"a": 1})),
            (&["[1,2]"], json!([1, 2])),
            (&[r#""a=b""#], json!("a=b")),
            (
                &["title=Hello world", "n:=3", "url=http://x/?a=b"],
                json!({"title": "Hello world", "n": 3, "url": "http://x/?a=b"}),
            ),
            (&["a="], json!({"a": ""})),
        ] {
            assert_eq!(of(arguments).expect("a payload"), expected, "{arguments:?}");
        }
        for (arguments, expected) in [
            (&["{"][..], "the payload is not JSON: EOF"),
            (&["hello"], "the payload is not JSON"),
            (&["a=1", "b"], "`b` is not name=text"),
            (&["a=1", "a=2"], "`a` is given twice"),
            (&["n:=three"], "n is not JSON"),
            (&["a=1", "@/nowhere"], "is not name=text"),
        ] {
            let error = of(arguments).expect_err("refused");
            assert!(error.to_string().contains(expected), "{arguments:?}: {error}");
        }
        assert!(matches!(of(&["@/nowhere/at.all"]), Err(Error::File { .. })));
    }
}
