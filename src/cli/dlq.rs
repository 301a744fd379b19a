//! `backstop dlq`: work that was given up on; look at it, send it round again, discard it.

use clap::{Args, Subcommand};
use serde_json::json;

use super::confirm::confirm;
use super::output::{Table, ago, cut, cut_id, details, short};
use super::select::Select;
use super::{Context, Error, actor, now};
use crate::api::filter::query_pairs;
use crate::api::groups::Group;
use crate::budget::dollars;
use crate::doubt;
use crate::letter::DeadLetter;
use crate::query::{Filter, Page, Unreadable};
use crate::record::{LetterStatus, Record, State};
use crate::replay::{Plan, RATE_MAX, RATE_MIN, Replay, Verdict, is_rate};
use crate::task::{Effect, TaskId};
use crate::time::Timestamp;

/// Work that was given up on.
#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// List dead letters nobody has decided about, newest first
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  backstop dlq ls\n  backstop dlq ls --where 'class:transient agent:cto age:>1h error:~timeout'\n  backstop dlq ls --status resolved,discarded --since 1d"
    )]
    Ls(Ls),
    /// Dead letters by what went wrong
    #[command(after_help = "Examples:\n  backstop dlq groups\n  backstop dlq groups --class transient")]
    Groups(Groups),
    /// Everything known of a dead letter
    #[command(after_help = "Examples:\n  backstop dlq show 0192d5a1-7c3e")]
    Show {
        /// The id of its task, or the beginning of it
        id: String,
    },
    /// Send dead letters round again, slowly, oldest first
    #[command(
        after_help = "Examples:\n  backstop dlq replay --where 'class:transient' --dry-run\n  backstop dlq replay --where 'class:transient' --rate 10/s --reason 'provider is back' --yes\n  backstop dlq replay 0192d5a1-7c3e-7000-8000-000000000001 --reason 'fixed'\n  backstop dlq replay --payment 0192d5a1-7c3e-7000-8000-000000000001 --reason 'bank: not charged'"
    )]
    Replay(ReplayArgs),
    /// Give dead letters up for good
    #[command(
        after_help = "Examples:\n  backstop dlq discard 0192d5a1-7c3e --reason 'order was cancelled'\n  backstop dlq discard --where 'type:newsletter age:>1d' --reason obsolete --dry-run"
    )]
    Discard(Discard),
}

#[derive(Args, Debug)]
pub(super) struct Ls {
    /// Standing so: open, sent-again, with-human, resolved, discarded; the undecided ones unless told otherwise
    #[arg(long, value_delimiter = ',')]
    status: Vec<LetterStatus>,
    #[command(flatten)]
    select: Select,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the next page begins
    #[arg(long)]
    after: Option<String>,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
}

#[derive(Args, Debug)]
pub(super) struct Groups {
    #[command(flatten)]
    select: Select,
}

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Exactly these tasks
    ids: Vec<TaskId>,
    #[command(flatten)]
    select: Select,
    /// Every undecided dead letter
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Show what would become of each, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How many: 10/s, 30/m, 5/h
    #[arg(long, default_value = "10/s", value_parser = rate, value_name = "RATE")]
    rate: f64,
    /// A payment you want done again, named one by one
    #[arg(long, value_name = "ID")]
    payment: Vec<TaskId>,
    /// Words added to every prompt
    #[arg(long)]
    amendment: Option<String>,
    /// Why; recorded with each
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Debug)]
pub(super) struct Discard {
    /// Exactly these tasks: ids, or the beginnings of them
    ids: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// Every undecided dead letter
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Show which, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why they may be given up; recorded with each
    #[arg(long)]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

const LETTERS: [&str; 3] = ["api", "v1", "dead-letters"];

impl Dlq {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Ls(ls) => ls.run(context).await,
            Self::Groups(groups) => groups.run(context).await,
            Self::Show { id } => {
                let got = context.client.get::<DeadLetter>(&["api", "v1", "dead-letters", &id], &[]).await?;
                context.out.data(&got.raw, "/id", || show(&got.it, now()))?;
                context.out.next(&match got.it.in_doubt.as_slice() {
                    [doubt, ..] if got.it.state != State::Running => doubt::command(got.it.id, Some(doubt.step)),
                    [..] => format!("backstop why {}", got.it.id),
                });
                Ok(())
            }
            Self::Replay(replay) => replay.run(context).await,
            Self::Discard(discard) => discard.run(context).await,
        }
    }
}

fn undecided(filter: &mut Filter) {
    if filter.status.is_empty() {
        filter.status = vec![LetterStatus::Open, LetterStatus::WithHuman];
    }
}

/// An empty choice means a mistake more often than it means everything.
fn refuse_empty(filter: &Filter, all: bool, verb: &str) -> Result<(), Error> {
    if all || filter.chooses_letters() {
        return Ok(());
    }
    Err(Error::Usage {
        message: format!("which dead letters? give ids, a filter, or --all for every one of them; nothing was {verb}"),
        next: Some("backstop dlq groups".to_owned()),
    })
}

impl Ls {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut filter = self.select.letters()?;
        filter.status.extend(self.status);
        undecided(&mut filter);
        let mut query = query_pairs(&filter);
        query.push(("limit".to_owned(), self.limit.to_string()));
        query.extend(self.after.map(|after| ("after".to_owned(), after)));
        if self.oldest_first {
            query.push(("oldest_first".to_owned(), "true".to_owned()));
        }
        let got = context.client.get::<Page<Record>>(&LETTERS, &query).await?;
        context.out.data(&got.raw, "/task/id", || table(&got.it.items, now()))?;
        match (&got.it.next, got.it.items.first()) {
            (Some(next), _) => context.out.next(&format!("backstop dlq ls ... --after {next}")),
            (None, Some(_)) => context.out.next("backstop dlq groups"),
            (None, None) => context.out.next("backstop status"),
        }
        context.out.unreadable(&got.it.unreadable)
    }
}

/// Everything about one dead letter.
fn show(letter: &DeadLetter, now: Timestamp) -> String {
    let some = |text: Option<String>| text.unwrap_or_default();
    let spent = &letter.spent;
    let least = if letter.unpriced_attempts > 0 || spent.unpriced > 0 { "at least " } else { "" };
    let mut text = details(&[
        ("dead letter", letter.id.to_string()),
        ("type", letter.task_type.to_string()),
        ("status", format!("{} (the task is {})", letter.status, letter.state)),
        ("agent", letter.agent.to_string()),
        ("model", some(letter.model.as_ref().map(ToString::to_string))),
        ("effect", letter.effect.to_string()),
        ("given up", format!("{} ({} ago)", letter.timestamp, ago(now, letter.timestamp))),
        ("because", letter.why.clone()),
        ("failure", format!("{}/{}, by rule {}", letter.class, letter.kind, letter.failure.rule)),
        ("error", letter.last_error.clone()),
        ("group", letter.group.clone()),
        (
            "round",
            format!("{}, {} deliveries, replayed {} times", letter.generation, letter.delivery_count, letter.replays),
        ),
        ("policy", letter.circumstances.policy_from.clone()),
        ("key", some(letter.idempotency_key.as_ref().map(ToString::to_string))),
        ("deadline", some(letter.deadline.map(|at| at.to_string()))),
        ("accepted", letter.created_at.to_string()),
        ("payload", cut(&letter.payload.to_string(), 400)),
        (
            "took",
            format!(
                "{} calls of models, {} of tools, {} tokens, {least}{}; of that for nothing: {} tokens, {}",
                spent.asks,
                spent.calls,
                letter.usage.total(),
                dollars(letter.micro_usd.max(spent.micro_usd)),
                spent.wasted.total(),
                dollars(spent.wasted_micro_usd),
            ),
        ),
    ]);
    if !letter.attempts.is_empty() {
        text.push_str("\nattempts\n");
        text.push_str(&super::task::attempts(&letter.attempts));
    }
    text.push_str(&super::task::pictured(&letter.attempts, &letter.journal, now));
    if !letter.side_effects.is_empty() {
        let mut table = Table::new(&["STEP", "TOOL", "EFFECT", "KEY", "AT", "SAID"]);
        for done in &letter.side_effects {
            table.row(&[
                done.step.to_string(),
                done.tool.to_string(),
                done.effect.to_string(),
                done.key.to_string(),
                done.at.to_string(),
                cut(&done.said, 60),
            ]);
        }
        text.push_str(&format!("\ndone, and not done again\n{}", table.render("")));
    }
    text.push_str(&super::task::in_doubt(letter.id, &letter.in_doubt));
    if !letter.decisions.is_empty() {
        text.push_str("\ndecisions\n");
        text.push_str(&super::ceo::decisions(&letter.decisions));
    }
    text
}

/// Dead letters as a table.
fn table(records: &[Record], now: Timestamp) -> String {
    let ids: Vec<TaskId> = records.iter().map(|record| record.task.id).collect();
    let length = short(&ids);
    let mut table = Table::new(&["ID", "STATUS", "KIND", "AGENT", "TYPE", "AGE", "ERROR"]);
    for record in records {
        let Some(letter) = &record.letter else { continue };
        let payment = if record.task.effect == Effect::Payment { "(payment) " } else { "" };
        table.row(&[
            cut_id(record.task.id, length),
            letter.status.to_string(),
            letter.failure.kind.to_string(),
            record.agent.to_string(),
            record.task.task_type.to_string(),
            ago(now, letter.at),
            format!("{payment}{}", cut(&letter.failure.message, 80)),
        ]);
    }
    table.render("no dead letters match")
}

impl Groups {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut filter = self.select.letters()?;
        undecided(&mut filter);
        let path = ["api", "v1", "dead-letters", "groups"];
        let got = context.client.get::<crate::api::Groups>(&path, &query_pairs(&filter)).await?;
        context.out.data(&got.raw, "/example", || group_table(&got.it.items, now()))?;
        if got.it.truncated {
            context.out.say("there are more letters than were counted; narrow the filter");
        }
        match got.it.items.first() {
            Some(group) => context.out.next(&format!(
                "backstop dlq replay --where 'class:{} kind:{} type:{}' --dry-run",
                group.class, group.kind, group.task_type
            )),
            None => context.out.next("backstop status"),
        }
        context.out.unreadable(&got.it.unreadable)
    }
}

fn group_table(groups: &[Group], now: Timestamp) -> String {
    let mut table = Table::new(&["COUNT", "CLASS/KIND", "VIA", "TYPE", "AGENTS", "FIRST", "LAST", "ERROR"]);
    for group in groups {
        let agents: Vec<&str> = group.agents.iter().map(crate::task::AgentName::as_str).collect();
        table.row(&[
            group.letters.to_string(),
            format!("{}/{}", group.class, group.kind),
            group.integration.as_ref().map(ToString::to_string).unwrap_or_default(),
            group.task_type.to_string(),
            agents.join(" "),
            ago(now, group.first_at),
            ago(now, group.last_at),
            cut(&group.error, 80),
        ]);
    }
    table.render("no dead letters")
}

/// `10`, `10/s`, `30/m`: letters a second.
fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3_600.0),
        Some(_) => return Err("write 10/s, 30/m or 100/h".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(count) if is_rate(count / per) => Ok(count / per),
        Ok(_) => Err(format!("must be from {RATE_MIN}/s (one a day) to {RATE_MAX}/s")),
        Err(_) => Err("write 10/s, 30/m or 100/h".to_owned()),
    }
}

impl ReplayArgs {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut filter = self.select.letters()?;
        filter.ids.extend(self.ids.iter().chain(&self.payment).copied());
        refuse_empty(&filter, self.all, "replayed")?;
        if !self.payment.is_empty() && self.reason.trim().is_empty() {
            return Err(Error::Policy {
                message: "a payment is only repeated by a person who says why: add --reason".to_owned(),
                next: Some("backstop dlq replay --payment <task id> --reason '...'".to_owned()),
            });
        }
        let reason = if self.reason.is_empty() { "replayed by hand" } else { &self.reason };
        let mut body = json!({
            "filter": filter, "all": self.all, "rate": self.rate, "by": actor(), "reason": reason,
            "payments": self.payment, "amendment": self.amendment, "dry_run": true,
        });
        let plan = context.client.post::<Plan>(&["api", "v1", "replays"], &body).await?;
        let count = plan.it.entries.iter().filter(|(_, verdict)| *verdict == Verdict::Replay).count();
        if self.dry_run {
            context.out.data(&plan.raw, "/entries", || plan_table(&plan.it))?;
            context.out.next("the same without --dry-run");
            return context.out.unreadable(&plan.it.unreadable);
        }
        if count == 0 {
            context.out.say(&plan_table(&plan.it));
            context.out.unreadable(&plan.it.unreadable)?;
            let message = "none of them would be sent again; nothing was changed".to_owned();
            return Err(Error::Failed { message, next: Some("the same with --dry-run".to_owned()) });
        }
        confirm("Replay", "tasks", count, self.yes)?;
        body["dry_run"] = json!(false);
        let got = context.client.post::<Replay>(&["api", "v1", "replays"], &body).await?;
        context.out.data(&got.raw, "/id", || super::replay::show(&got.it))?;
        context.out.next(&format!("backstop replay show {}", got.it.id));
        context.out.unreadable(&plan.it.unreadable)
    }
}

fn plan_table(plan: &Plan) -> String {
    let mut table = Table::new(&["TASK", "VERDICT", "MEANS"]);
    for (id, verdict) in plan.entries.iter().take(50) {
        table.row(&[id.to_string(), verdict.to_string(), means(*verdict).to_owned()]);
    }
    let mut text = table.render("no dead letters match");
    if plan.entries.len() > 50 {
        text.push_str(&format!("... and {} more\n", plan.entries.len() - 50));
    }
    let counted = Verdict::ALL.iter().filter_map(|verdict| {
        let count = plan.entries.iter().filter(|(_, v)| v == verdict).count();
        (count > 0).then(|| format!("{count} {verdict}"))
    });
    let counted: Vec<String> = counted.collect();
    if !counted.is_empty() {
        text.push_str(&format!("{} in all: {}\n", plan.entries.len(), counted.join(", ")));
    }
    text
}

const fn means(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Replay => "will be sent again",
        Verdict::NeedsPerson => "payment: name it (--payment)",
        Verdict::AnswerFirst => "say whether its call happened (backstop task outcome)",
        Verdict::NoAgent => "no agent can do it",
        Verdict::Resolved => "done, discarded or running",
        Verdict::ReplaysUsedUp => "replayed often enough; decide by hand",
        Verdict::AlreadyReplaying => "another replay has it",
        Verdict::AfterFailed => "an earlier one of the same key failed",
    }
}

impl Discard {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let mut filter = self.select.letters()?;
        let by_filter = self.all || filter.chooses_letters();
        if self.ids.is_empty() {
            refuse_empty(&filter, self.all, "discarded")?;
        } else if by_filter {
            return Err(Error::Usage {
                message: "ids and a filter both choose; give one of them".to_owned(),
                next: Some("backstop dlq discard --help".to_owned()),
            });
        }
        if self.reason.trim().is_empty() {
            return Err(Error::Usage {
                message: "--reason must say why this work may be given up for good".to_owned(),
                next: Some("backstop dlq discard --reason 'order was cancelled' ...".to_owned()),
            });
        }
        undecided(&mut filter);
        let (letters, unreadable) =
            if by_filter { self.matching(context, &filter).await? } else { (self.named(context).await?, Vec::new()) };
        if self.dry_run {
            let found = Page { items: letters, next: None, unreadable };
            context.out.data(&json!(found), "/task/id", || table(&found.items, now()))?;
            context.out.next("the same without --dry-run");
            return context.out.unreadable(&found.unreadable);
        }
        if letters.is_empty() {
            context.out.unreadable(&unreadable)?;
            return Err(Error::Failed {
                message: "no dead letters match".to_owned(),
                next: Some("backstop dlq ls".to_owned()),
            });
        }
        confirm("Discard", "tasks for good", letters.len(), self.yes || (!by_filter && letters.len() == 1))?;
        let (mut done, mut refused) = (Vec::new(), None);
        for letter in &letters {
            let id = letter.task.id.to_string();
            let body = json!({ "by": actor(), "reason": self.reason });
            match context.client.post::<Record>(&["api", "v1", "dead-letters", &id, "discard"], &body).await {
                Ok(got) => done.push(got.it),
                Err(error @ Error::Refused(_)) => {
                    context.out.say(&format!("{id}: {error}"));
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let discarded = Page { items: done, next: None, unreadable };
        context.out.data(&json!(discarded), "/task/id", || table(&discarded.items, now()))?;
        context.out.next("backstop dlq ls");
        refused.map_or(Ok(()), Err)?;
        context.out.unreadable(&discarded.unreadable)
    }

    /// And those that match and cannot be read.
    async fn matching(&self, context: &Context, filter: &Filter) -> Result<(Vec<Record>, Vec<Unreadable>), Error> {
        let (mut letters, mut unreadable) = (Vec::new(), Vec::new());
        let mut query = query_pairs(filter);
        query.push(("limit".to_owned(), "1000".to_owned()));
        let mut page = context.client.get::<Page<Record>>(&LETTERS, &query).await?.it;
        loop {
            letters.append(&mut page.items);
            unreadable.append(&mut page.unreadable);
            let Some(next) = page.next else { return Ok((letters, unreadable)) };
            let mut query = query.clone();
            query.push(("after".to_owned(), next));
            page = context.client.get::<Page<Record>>(&LETTERS, &query).await?.it;
        }
    }

    async fn named(&self, context: &Context) -> Result<Vec<Record>, Error> {
        let mut letters = Vec::new();
        for id in &self.ids {
            let letter = context.client.get::<DeadLetter>(&["api", "v1", "dead-letters", id], &[]).await?.it;
            let id = letter.id.to_string();
            letters.push(context.client.get::<Record>(&["api", "v1", "tasks", &id], &[]).await?.it);
        }
        Ok(letters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_letters_a_second() {
        for (text, expected) in
            [("10", 10.0), ("10/s", 10.0), ("30/m", 0.5), ("0.5/s", 0.5), ("3600/h", 1.0), ("9/h", 0.002_5)]
        {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "ten", "10/d", "inf", "NaN", "5000/s", "10/", "0.01/h"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_choice_is_refused() {
        assert!(refuse_empty(&Filter::default(), false, "replayed").is_err());
        assert!(refuse_empty(&Filter::default(), true, "replayed").is_ok());
        let text = |text: &str| Filter { text: Some(text.to_owned()), ..Filter::default() };
        assert!(refuse_empty(&text("x"), false, "replayed").is_ok());
        assert!(refuse_empty(&text(""), false, "replayed").is_err());
    }

    #[test]
    fn a_plan_is_counted_by_verdict() {
        let id = TaskId::new(Timestamp::from_millis(1), [0; 10]);
        let entries = vec![(id, Verdict::Replay), (id, Verdict::NeedsPerson), (id, Verdict::Replay)];
        let plan = Plan { entries, ..Plan::default() };
        let text = plan_table(&plan);
        assert!(text.ends_with("3 in all: 2 replay, 1 needs-person\n"), "{text}");
        assert!(text.contains("payment: name it (--payment)"), "{text}");
    }
}
