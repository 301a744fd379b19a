//! One line of a task's story: what a step or an event was, in plain words, and the rule behind it.
//!
//! Every change of a task's state names its rule. Words of models, tools and providers are quoted without credentials, on
//! one line, cut; which lines there are and in which order is said in `why.rs`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::dollars;
use crate::cause::Usage;
use crate::decision::{self, Decided, DeciderKind};
use crate::doubt::arguments_of;
use crate::event::{Event, Happening};
use crate::failure::{Action, Class, Failure, Kind};
use crate::journal::{Ask, Call, Intent, Judge, Outcome, Step};
use crate::redact::{Redactor, one_line};
use crate::task::words;
use crate::time::{Timestamp, format_duration};
use crate::tool::Repeat;

words! {
    /// What a line of the story is about.
    ToldKind, "kind of line", "accepted, delivery, resume, model, tool, probe, compaction, doubt, failure, wait, decision, human, end, other" {
        /// It was handed in.
        Accepted = "accepted",
        /// An agent took it.
        Delivery = "delivery",
        /// It goes on where it stopped.
        Resume = "resume",
        /// A model was asked.
        Model = "model",
        /// A tool was called.
        Tool = "tool",
        /// A look whether a call happened.
        Probe = "probe",
        /// The conversation was shortened.
        Compaction = "compaction",
        /// A call in doubt, or what was found out about one.
        Doubt = "doubt",
        /// Something went wrong.
        Failure = "failure",
        /// It waits.
        Wait = "wait",
        /// The CEO decided.
        Decision = "decision",
        /// A person did something.
        Human = "human",
        /// It came to an end.
        End = "end",
        /// Not about the task alone.
        Other = "other",
    }
}

/// A line of the story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// What about.
    pub kind: ToldKind,
    /// What happened, for people.
    pub words: String,
    /// The rule or reason behind it; every change of state has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The step of the journal, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// How long it took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_s: Option<f64>,
    /// The tokens of it, if it used any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Their price in millionths of a US dollar, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd: Option<u64>,
}

fn line(at: Timestamp, kind: ToldKind, words: String) -> Told {
    Told { at, kind, words, rule: None, step: None, took_s: None, usage: None, micro_usd: None }
}

fn by_rule(at: Timestamp, kind: ToldKind, words: String, rule: impl Into<String>) -> Told {
    Told { rule: Some(rule.into()), ..line(at, kind, words) }
}

/// What a failure means, by its class.
const fn meaning(failure: &Failure) -> &'static str {
    if matches!(failure.kind, Kind::OutcomeUnknown) {
        return "what may have happened must not happen twice";
    }
    match failure.class {
        Class::Transient => "it will probably pass by itself",
        Class::Infrastructure => "the machinery broke, not the task",
        Class::Validation => "what was asked or answered is not acceptable as it is",
        Class::Logic => "trying the same again cannot help",
    }
}

/// What is done about it.
const fn remedy(action: Action) -> &'static str {
    match action {
        Action::Backoff => "the same is sent again after a wait",
        Action::ParkIntegration => "everything for this integration waits until somebody acts",
        Action::FallbackNow => "another model is to do it",
        Action::ModifyRequeue => "it is sent again with what was wrong in the prompt, or smaller",
        Action::DeadLetter => "this agent does not try it again; the CEO looks at it",
        Action::Human => "only a person can judge",
    }
}

/// A failure, the rule that judged it and what that means.
fn judged(failure: &Failure, redactor: &Redactor) -> String {
    format!(
        "{}; rule {} calls it {}/{}: {}, so {}",
        redactor.redact(&failure.message),
        failure.rule,
        failure.class,
        failure.kind,
        meaning(failure),
        remedy(failure.action)
    )
}

/// A step as a line. `steps`: the journal it is of.
#[must_use]
pub fn of_step(step: &Step, steps: &[Step], redactor: &Redactor) -> Told {
    let number = step.number;
    let (kind, words) = match &step.intent {
        Intent::Ask(ask) => (ToldKind::Model, format!("step {number}: {}", asked(step, ask, redactor))),
        Intent::Call(call) => {
            let arguments = arguments_of(steps, call).cloned().unwrap_or(Value::Null);
            (ToldKind::Tool, format!("step {number}: {}", called(step, call, &arguments, redactor)))
        }
        Intent::Probe { of, tool, .. } => {
            let came = came(step, redactor);
            (ToldKind::Probe, format!("step {number}: {tool} was asked whether step {of} happened: {came}"))
        }
    };
    let usage = step.usage();
    Told {
        rule: failure_of(step).map(|failure| failure.rule.clone()),
        step: Some(number),
        took_s: step.ended_at.map(|end| end.since(step.at).as_secs_f64()),
        usage: (usage != Usage::default()).then_some(usage),
        micro_usd: step.micro_usd(),
        ..line(step.at, kind, words)
    }
}

const fn failure_of(step: &Step) -> Option<&Failure> {
    match &step.outcome {
        Some(Outcome::Failed { failure, .. } | Outcome::Unknown { failure }) => Some(failure),
        Some(Outcome::Returned { failure, .. }) => failure.as_ref(),
        Some(Outcome::Replied(_) | Outcome::Judged { .. }) | None => None,
    }
}

fn asked(step: &Step, ask: &Ask, redactor: &Redactor) -> String {
    let what = if ask.purpose.is_work() { "" } else { " to verify an answer" };
    let anew = if ask.fresh && step.number > 1 { ", beginning anew" } else { "" };
    let mut words = format!("{} was asked{what}{anew}{}: {}", ask.model, took(step), came(step, redactor));
    let usage = step.usage();
    if usage != Usage::default() {
        let price = step.micro_usd().map_or("price unknown".to_owned(), dollars);
        words.push_str(&format!(" [{} tokens in, {} out, {price}]", usage.total() - usage.output, usage.output));
    }
    if let Some(why) = &step.refused {
        words.push_str(&format!("; not accepted: {}", quoted(why, redactor)));
    }
    if step.late {
        words.push_str("; its answer came when the work had gone on without it");
    }
    words
}

fn called(step: &Step, call: &Call, arguments: &Value, redactor: &Redactor) -> String {
    let again = match call.class.repeat {
        Repeat::Freely => "may be repeated",
        Repeat::SameKey => "may be repeated under its key",
        Repeat::Never => "never repeated blindly",
    };
    format!(
        "{} was called ({}, {again}) with {} under key {}{}: {}",
        call.tool,
        call.class.effect,
        one_line(&redactor.value(arguments).to_string(), QUOTE_MAX),
        call.key,
        took(step),
        came(step, redactor)
    )
}

fn took(step: &Step) -> String {
    step.ended_at.map(|end| format!(" for {}", format_duration(end.since(step.at)))).unwrap_or_default()
}

/// What came of a step.
fn came(step: &Step, redactor: &Redactor) -> String {
    match &step.outcome {
        None => "nothing is known of it yet".to_owned(),
        Some(Outcome::Replied(reply)) if reply.calls.is_empty() => "it answered".to_owned(),
        Some(Outcome::Replied(reply)) => {
            let names: Vec<&str> = reply.calls.iter().map(|call| call.name.as_str()).collect();
            format!("it wants {} called", one_line(&names.join(", "), QUOTE_MAX))
        }
        Some(Outcome::Returned { text, failed: false, .. }) => format!("it said {}", quoted(text, redactor)),
        Some(Outcome::Returned { text, failed: true, failure }) => {
            let rule = failure.as_ref().map(|failure| format!(" (rule {})", failure.rule)).unwrap_or_default();
            format!("it failed, and the model was told so{rule}: {}", quoted(text, redactor))
        }
        Some(Outcome::Failed { failure, .. }) => format!("it failed: {}", judged(failure, redactor)),
        Some(Outcome::Unknown { failure }) => {
            format!("nobody knows whether it happened: {}", judged(failure, redactor))
        }
        Some(Outcome::Judged { happened, by, note }) => {
            let by = match by {
                Judge::Probe { step } => format!("the look of step {step}"),
                Judge::Person { who } => who.clone(),
            };
            let happened = if *happened { "it happened" } else { "it did not happen" };
            format!("{happened}, says {by}: {}", quoted(note, redactor))
        }
    }
}

/// The most characters of others quoted in a line.
const QUOTE_MAX: usize = 200;

/// Words of others: without credentials, on one line, cut.
fn quoted(text: &str, redactor: &Redactor) -> String {
    let clean = redactor.value(&Value::String(text.to_owned()));
    format!("\"{}\"", one_line(clean.as_str().unwrap_or_default(), QUOTE_MAX))
}

/// An event as lines: mostly one; a failure and what follows from it are two.
#[must_use]
pub fn of_event(event: &Event, redactor: &Redactor) -> Vec<Told> {
    let at = event.at;
    let clean = |text: &str| one_line(&redactor.redact(text), 500);
    let other = |words: String| vec![line(at, ToldKind::Other, words)];
    match &event.what {
        Happening::Submitted { agent, effect, priority, .. } => {
            let words = format!("accepted for {agent} ({effect}, {priority} priority)");
            vec![by_rule(at, ToldKind::Accepted, words, "what is accepted is durable first")]
        }
        Happening::Claimed { agent, attempt, generation, fence, .. } => {
            let words = format!("{agent} took it: attempt {attempt} of round {generation} (delivery {fence})");
            vec![by_rule(at, ToldKind::Delivery, words, "it was due and a slot was free")]
        }
        Happening::Resumed { agent, model, steps, usage, micro_usd, .. } => {
            let saved = micro_usd.map(|price| format!(" ({})", dollars(price))).unwrap_or_default();
            let words = format!(
                "{agent} goes on after {steps} answered steps, on {model}; {} tokens{saved} are not paid again",
                usage.total()
            );
            vec![line(at, ToldKind::Resume, words)]
        }
        Happening::Compacted { model, results, before, after, .. } => {
            let words = format!(
                "{results} results of tools were left out so that the conversation fits {model}: {before} to {after} bytes"
            );
            vec![by_rule(at, ToldKind::Compaction, words, "the oldest results go first")]
        }
        Happening::OutcomeUnknown { step, tool, why, .. } => {
            let words = format!("nobody knows whether step {step} ({tool}) happened: {}", clean(why));
            vec![by_rule(at, ToldKind::Doubt, words, "what may have happened is not done again unseen")]
        }
        Happening::OutcomeJudged { step, happened, by, note, .. } => {
            let (happened, then) = match happened {
                true => ("happened", "its note is told to the model, and it is not made again"),
                false => ("did not happen", "it may be made, under the same key"),
            };
            let words = format!("step {step} {happened}, says {}: {}", clean(by), clean(note));
            vec![by_rule(at, ToldKind::Doubt, words, then)]
        }
        Happening::Done { agent, attempt, generation, .. } => {
            let words = format!("done by {agent} in attempt {attempt} of round {generation}");
            vec![by_rule(at, ToldKind::End, words, "the answer was accepted")]
        }
        Happening::RetryScheduled { attempt, due, failure, amended, .. } => {
            let words = format!("attempt {attempt} failed: {}", judged(failure, redactor));
            let amended = if *amended { ", with the error in its prompt" } else { "" };
            let wait = format!("waits {} until {due}, then it is tried again{amended}", format_duration(due.since(at)));
            let rule = match failure.retry_after {
                Some(asked) => format!("the other side asked for {}", format_duration(asked)),
                None => "backoff by its retry policy".to_owned(),
            };
            vec![
                by_rule(at, ToldKind::Failure, words, failure.rule.clone()),
                by_rule(at, ToldKind::Wait, format!("{wait} ({rule})"), rule),
            ]
        }
        Happening::Parked { why, integration, until, .. } => {
            let whom = integration.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
            let words = format!("waits{whom} until {until} at the latest ({why}); costs no attempt");
            vec![by_rule(at, ToldKind::Wait, words, why.as_str())]
        }
        Happening::Released { why, due, .. } => {
            let words = format!("given back ({why}), to be looked at again at {due}; costs no attempt");
            vec![by_rule(at, ToldKind::Wait, words, why.as_str())]
        }
        Happening::DeadLettered { failure, why, attempts, .. } => {
            let words = format!("attempt {attempts} failed: {}", judged(failure, redactor));
            vec![
                by_rule(at, ToldKind::Failure, words, failure.rule.clone()),
                by_rule(at, ToldKind::End, format!("given up: {}", clean(why)), clean(why)),
            ]
        }
        Happening::Decided { decided, .. } => vec![decision(at, decided, redactor)],
        Happening::Replayed { generation, by, reason, .. } => {
            let words = format!("{} sent it round again, into round {generation}: {}", clean(by), clean(reason));
            vec![by_rule(at, ToldKind::Human, words, clean(reason))]
        }
        Happening::Cancelled { by, reason, .. } => {
            let reason = if reason.is_empty() { "no reason given".to_owned() } else { clean(reason) };
            vec![by_rule(at, ToldKind::Human, format!("cancelled by {}: {reason}", clean(by)), reason)]
        }
        // Not about the task alone.
        Happening::BreakerChanged { integration, from, to, why, .. } => {
            other(format!("breaker {integration}: {from} -> {to} ({})", clean(why)))
        }
        Happening::GateClosed { integration, until, asked } => {
            other(format!("gate {integration} closed until {until} ({})", clean(asked)))
        }
        Happening::ProbeSent { integration, agent } => other(format!("{agent} probes {integration}")),
        Happening::AgentStarted { agent, incarnation } => other(format!("{agent} started (start {})", incarnation.0)),
        Happening::AgentDied { agent, how, detail, .. } => other(format!("{agent} died ({how}): {}", clean(detail))),
        Happening::CrashLoop { agent, deaths } => other(format!("{agent} is in a crash loop after {deaths} deaths")),
        Happening::IncidentOpened { incident, summary } => other(format!("{incident} opened: {}", clean(summary))),
        Happening::IncidentUpdated { incident, dead_letters } => {
            other(format!("{incident} has {dead_letters} dead letters"))
        }
        Happening::IncidentAcknowledged { incident, by } => other(format!("{incident} acknowledged by {}", clean(by))),
        Happening::IncidentOverridden { incident, by, decision, tasks } => {
            other(format!("{incident} overridden by {}: {decision} for {tasks} tasks", clean(by)))
        }
        Happening::IncidentResolved { incident, by } => other(format!("{incident} resolved by {}", clean(by))),
        Happening::PageDelivered { incident, channel, to, .. } => {
            other(format!("page for {incident} delivered through {channel} to {}", clean(to)))
        }
        Happening::PageFailed { incident, channel, error, .. } => {
            other(format!("page for {incident} failed through {channel}: {}", clean(error)))
        }
        Happening::ReplayChanged { replay, state, released, total } => {
            other(format!("replay {replay} is {state}: {released} of {total} released"))
        }
        Happening::TeamStarted { epoch, agents, open_tasks } => {
            other(format!("the team of {agents} started (run {epoch}) with {open_tasks} open tasks"))
        }
        Happening::Draining { running } => other(format!("draining, {running} running")),
        Happening::Pruned { done, dead, cancelled, incidents, replays, by, .. } => {
            let tasks = format!("{done} done, {dead} dead and {cancelled} cancelled tasks");
            let what = match (incidents, replays) {
                (0, 0) => tasks,
                _ => format!("{tasks}, {incidents} incidents and {replays} replays"),
            };
            other(format!("{what} of long ago were forgotten, by {}", clean(by)))
        }
    }
}

fn decision(at: Timestamp, decided: &Decided, redactor: &Redactor) -> Told {
    let clean = |text: &str| one_line(&redactor.redact(text), 500);
    let who = match (&decided.who, decided.by) {
        (Some(who), _) => clean(who),
        (None, DeciderKind::Table) => "the CEO's table".to_owned(),
        (None, DeciderKind::Adviser) => "the CEO's adviser".to_owned(),
        (None, DeciderKind::Human) => "a person".to_owned(),
    };
    let kind = match decided.by {
        DeciderKind::Human => ToldKind::Human,
        DeciderKind::Table | DeciderKind::Adviser => ToldKind::Decision,
    };
    let given: Vec<String> =
        decided.reasons.iter().filter(|reason| !reason.is_empty()).map(|reason| clean(reason)).collect();
    let reasons = if given.is_empty() { "no reason given".to_owned() } else { given.join("; ") };
    let mut words = format!("{who} decided: {}, because {reasons}", decision::in_words(&decided.decision));
    for rejected in &decided.rejected {
        words.push_str(&format!("; not {}: {}", clean(&rejected.what), clean(&rejected.why)));
    }
    by_rule(at, kind, words, reasons)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::agent::Incarnation;
    use crate::decision::{Decision, Rejected};
    use crate::delivery::Hold;
    use crate::doubt::tests::{at, failure, task};
    use crate::task::{AgentName, Effect, Integration, Priority, TaskType};

    pub(crate) fn agent() -> AgentName {
        AgentName::new("cto").expect("a name")
    }

    pub(crate) fn review() -> TaskType {
        TaskType::new("code_review").expect("a name")
    }

    pub(crate) fn events(all: Vec<(i64, Happening)>) -> Vec<Event> {
        let numbered = all.into_iter().zip(1..);
        numbered.map(|((seconds, what), seq)| Event { seq, at: at(seconds), task: Some(task()), what }).collect()
    }

    pub(crate) fn claimed(attempt: u32) -> Happening {
        Happening::Claimed {
            agent: agent(),
            incarnation: Incarnation(1),
            task_type: review(),
            attempt,
            generation: 1,
            fence: u64::from(attempt),
        }
    }

    fn overloaded() -> Failure {
        Failure {
            class: Class::Transient,
            kind: Kind::Overloaded,
            action: Action::Backoff,
            rule: "status-529".to_owned(),
            ..failure("sim 529: busy, key sk-ant-0123456789abcdef")
        }
    }

    fn decided(by: DeciderKind) -> Happening {
        let decided = Decided {
            number: 1,
            generation: 1,
            decision: Decision::RunAgain { amendment: None },
            by,
            who: (by == DeciderKind::Human).then(|| "ana".to_owned()),
            at: at(0),
            reasons: vec!["the bank says no".to_owned()],
            rejected: vec![Rejected { what: "discard".to_owned(), why: "it is wanted".to_owned() }],
        };
        Happening::Decided { agent: agent(), task_type: review(), decided: Box::new(decided) }
    }

    /// Every happening that moves a task from one state to another; the others are listed so that a new one is thought of.
    pub(crate) fn transitions() -> Vec<Happening> {
        let (model, usage) = (None, Usage::default());
        let due = at(60);
        let all = vec![
            Happening::Submitted {
                agent: agent(),
                task_type: review(),
                effect: Effect::ReadOnly,
                priority: Priority::Normal,
            },
            claimed(1),
            Happening::Done {
                agent: agent(),
                task_type: review(),
                attempt: 1,
                generation: 1,
                model: model.clone(),
                usage,
                micro_usd: None,
            },
            Happening::RetryScheduled {
                agent: agent(),
                task_type: review(),
                attempt: 1,
                due,
                failure: Box::new(overloaded()),
                amended: true,
                model: model.clone(),
                usage,
                micro_usd: None,
            },
            Happening::Parked {
                agent: agent(),
                task_type: review(),
                why: Hold::BreakerOpen,
                integration: Some(Integration::new("sim").expect("a name")),
                until: due,
            },
            Happening::Released {
                agent: agent(),
                task_type: review(),
                why: Hold::Drain,
                due,
                model: model.clone(),
                usage,
                micro_usd: None,
            },
            Happening::DeadLettered {
                agent: agent(),
                task_type: review(),
                generation: 1,
                attempts: 3,
                failure: Box::new(overloaded()),
                why: "3 of 3 deliveries used".to_owned(),
                model,
                usage,
                micro_usd: None,
            },
            decided(DeciderKind::Table),
            decided(DeciderKind::Human),
            Happening::Replayed {
                agent: agent(),
                task_type: review(),
                generation: 2,
                by: "ana".to_owned(),
                reason: "it is back".to_owned(),
            },
            Happening::Cancelled { agent: agent(), task_type: review(), by: "ana".to_owned(), reason: String::new() },
        ];
        for what in &all {
            match what {
                Happening::Submitted { .. }
                | Happening::Claimed { .. }
                | Happening::Done { .. }
                | Happening::RetryScheduled { .. }
                | Happening::Parked { .. }
                | Happening::Released { .. }
                | Happening::DeadLettered { .. }
                | Happening::Decided { .. }
                | Happening::Replayed { .. }
                | Happening::Cancelled { .. } => {}
                Happening::Resumed { .. }
                | Happening::Compacted { .. }
                | Happening::OutcomeUnknown { .. }
                | Happening::OutcomeJudged { .. }
                | Happening::BreakerChanged { .. }
                | Happening::GateClosed { .. }
                | Happening::ProbeSent { .. }
                | Happening::AgentStarted { .. }
                | Happening::AgentDied { .. }
                | Happening::CrashLoop { .. }
                | Happening::IncidentOpened { .. }
                | Happening::IncidentUpdated { .. }
                | Happening::IncidentAcknowledged { .. }
                | Happening::IncidentOverridden { .. }
                | Happening::IncidentResolved { .. }
                | Happening::PageDelivered { .. }
                | Happening::PageFailed { .. }
                | Happening::ReplayChanged { .. }
                | Happening::TeamStarted { .. }
                | Happening::Draining { .. }
                | Happening::Pruned { .. } => panic!("no change of a task's state: {what:?}"),
            }
        }
        all
    }

    #[test]
    fn every_change_of_state_names_its_rule() {
        let redactor = Redactor::default();
        let expected = [
            "accepted: accepted for cto (read-only, normal priority) <- what is accepted is durable first",
            "delivery: cto took it: attempt 1 of round 1 (delivery 1) <- it was due and a slot was free",
            "end: done by cto in attempt 1 of round 1 <- the answer was accepted",
            "failure: attempt 1 failed: sim 529: busy, key [redacted]; rule status-529 calls it transient/overloaded: it will probably pass by itself, so the same is sent again after a wait <- status-529",
            "wait: waits 1m until 1970-01-01T00:01:00.000Z, then it is tried again, with the error in its prompt (backoff by its retry policy) <- backoff by its retry policy",
            "wait: waits for sim until 1970-01-01T00:01:00.000Z at the latest (breaker-open); costs no attempt <- breaker-open",
            "wait: given back (drain), to be looked at again at 1970-01-01T00:01:00.000Z; costs no attempt <- drain",
            "failure: attempt 3 failed: sim 529: busy, key [redacted]; rule status-529 calls it transient/overloaded: it will probably pass by itself, so the same is sent again after a wait <- status-529",
            "end: given up: 3 of 3 deliveries used <- 3 of 3 deliveries used",
            "decision: the CEO's table decided: run again, because the bank says no; not discard: it is wanted <- the bank says no",
            "human: ana decided: run again, because the bank says no; not discard: it is wanted <- the bank says no",
            "human: ana sent it round again, into round 2: it is back <- it is back",
            "human: cancelled by ana: no reason given <- no reason given",
        ];
        let told = events(transitions().into_iter().map(|what| (0, what)).collect());
        let told = told.iter().flat_map(|event| of_event(event, &redactor));
        let told: Vec<String> =
            told.map(|line| format!("{}: {} <- {}", line.kind, line.words, line.rule.expect("a rule"))).collect();
        assert_eq!(told, expected);
    }
}
