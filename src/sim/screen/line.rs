//! What each event is called on the screen: the whole meaning, and pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::delivery::Hold;
use crate::event::{Event, Happening};
use crate::failure::{Failure, Kind};
use crate::task::{AgentName, Effect, Integration, TaskId, TaskType};
use crate::time::{Timestamp, format_duration};
use crate::triage::{Decided, DeciderKind, Decision};

/// The most of a foreign text that is shown, in characters.
const QUOTE: usize = 150;

/// What a line is about: its colour, where there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something failed.
    Bad,
    /// Something waits.
    Wait,
    /// Something is well again.
    Good,
    /// The CEO decided.
    Ceo,
    /// A person is called, or acts.
    Human,
    /// For the record.
    Plain,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about.
    pub tone: Tone,
    /// What happened, in a word of at most seven letters.
    pub word: &'static str,
    /// What happened, in a sentence.
    pub text: String,
    /// How to tell it when it happens to many at once.
    pub fold: Option<Fold>,
}

/// How to tell of many at once: `head`, the number of them, `tail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// What is the same for all of them.
    pub key: String,
    /// Before the number.
    pub head: String,
    /// After it.
    pub tail: String,
    /// The name of this one.
    pub member: String,
}

/// What the screen knows of tasks: their numbers, and what each went through.
#[derive(Clone, Debug, Default)]
pub struct Names {
    origin: Option<Timestamp>,
    tasks: BTreeMap<TaskId, Tale>,
    /// Integrations that were closed, and no call has gone to see since.
    unprobed: BTreeSet<Integration>,
}

/// One task, as the screen remembers it.
#[derive(Clone, Debug)]
struct Tale {
    number: usize,
    effect: Effect,
    /// What is worth saying when it is done after all.
    plot: Option<String>,
    /// The agent died under it, and it has not been claimed since.
    orphan: bool,
    /// It waits, and that was told: trying in vain to go on is not news.
    held: Option<Hold>,
}

impl Names {
    /// Learns from an event what [`line()`] must know to tell it and the next ones.
    pub fn note(&mut self, event: &Event) {
        self.origin.get_or_insert(event.at);
        if let Happening::GateClosed { integration, .. } | Happening::BreakerChanged { integration, .. } = &event.what {
            self.unprobed.insert(integration.clone());
        }
        let Some(id) = event.task else { return };
        if let Happening::Submitted { effect, .. } = &event.what {
            let number = self.tasks.len() + 1;
            self.tasks.entry(id).or_insert(Tale { number, effect: *effect, plot: None, orphan: false, held: None });
        }
        let Some(tale) = self.tasks.get_mut(&id) else { return };
        if let Happening::RetryScheduled { .. } | Happening::DeadLettered { .. } = &event.what {
            tale.held = None;
        }
        if let Happening::RetryScheduled { failure, amended, .. } = &event.what {
            tale.orphan = failure.kind == Kind::Crash;
            tale.plot = match (tale.orphan, amended) {
                (true, _) => Some("after its agent panicked".to_owned()),
                (false, true) => Some("with the error in its prompt".to_owned()),
                (false, false) => tale.plot.take(),
            };
        }
        if let Happening::Resumed { .. } = &event.what {
            tale.plot.get_or_insert_with(|| "from where it was cut".to_owned());
        }
        if let Happening::Decided { decided, .. } = &event.what {
            tale.plot = match &decided.decision {
                Decision::Reassign { agent, .. } => Some(format!("by {agent}, to whom it was reassigned")),
                Decision::RunAgain { .. } => Some("as a person decided".to_owned()),
                Decision::RetryOnFallback { .. }
                | Decision::RetryAfterCheck { .. }
                | Decision::Park { .. }
                | Decision::Discard { .. }
                | Decision::PageHuman { .. }
                | Decision::Resolve { .. } => None,
            };
        }
    }

    /// Learns from an event what was told by it. To be called after [`line()`] was.
    pub fn told(&mut self, event: &Event) {
        if let Happening::ProbeSent { integration, .. } = &event.what {
            self.unprobed.remove(integration);
        }
        let Some(tale) = event.task.and_then(|id| self.tasks.get_mut(&id)) else { return };
        if let Happening::Claimed { .. } = &event.what {
            tale.orphan = false;
        }
        if let Happening::Parked { why, .. } = &event.what {
            tale.held = Some(*why);
        }
    }

    fn is_held(&self, id: Option<TaskId>, why: Hold) -> bool {
        id.and_then(|id| self.tasks.get(&id)).is_some_and(|tale| tale.held == Some(why))
    }

    /// Minutes and seconds since the first event.
    #[must_use]
    pub fn clock(&self, at: Timestamp) -> String {
        let seconds = at.since(self.origin.unwrap_or(at)).as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    fn number(&self, id: Option<TaskId>) -> String {
        let tale = id.and_then(|id| self.tasks.get(&id));
        tale.map_or_else(|| "#?".to_owned(), |tale| format!("#{}", tale.number))
    }

    fn is_payment(&self, id: Option<TaskId>) -> bool {
        id.and_then(|id| self.tasks.get(&id)).is_some_and(|tale| tale.effect == Effect::Payment)
    }

    fn is_orphan(&self, id: Option<TaskId>) -> bool {
        id.and_then(|id| self.tasks.get(&id)).is_some_and(|tale| tale.orphan)
    }

    fn plot(&self, id: Option<TaskId>) -> Option<&str> {
        id.and_then(|id| self.tasks.get(&id)).and_then(|tale| tale.plot.as_deref())
    }
}

/// What to tell of an event; none when it only moves a counter.
#[must_use]
pub fn line(event: &Event, names: &Names) -> Option<Line> {
    let id = event.task;
    let who = |agent: &AgentName, task_type: &TaskType| format!("{agent}/{task_type} {}", names.number(id));
    let tell = |tone, word, text: String| Some(Line { tone, word, text, fold: None });
    match &event.what {
        Happening::Submitted { .. } => None,
        Happening::Claimed { agent, task_type, attempt, .. } => names
            .is_orphan(id)
            .then(|| format!("{} delivered again, attempt {attempt}", who(agent, task_type)))
            .and_then(|text| tell(Tone::Plain, "again", text)),
        Happening::Done { agent, task_type, attempt, .. } => {
            let plot = names.plot(id)?;
            tell(Tone::Good, "done", format!("{} done on attempt {attempt}, {plot}", who(agent, task_type)))
        }
        Happening::RetryScheduled { agent, task_type, attempt, due, failure, amended, .. } => {
            Some(retry(&who(agent, task_type), event.at, *due, *attempt, failure, *amended))
        }
        Happening::Parked { why, .. } if names.is_held(id, *why) => None,
        Happening::Parked { agent, task_type, why, integration, until } => {
            let why = held(*why, integration.as_ref());
            let until = names.clock(*until);
            Some(Line {
                tone: Tone::Wait,
                word: "parked",
                text: format!("{} waits until {until}: {why}; no delivery spent", who(agent, task_type)),
                fold: Some(Fold {
                    key: format!("parked {why}"),
                    head: String::new(),
                    tail: format!(" tasks wait until {until}: {why}; no delivery spent"),
                    member: names.number(id),
                }),
            })
        }
        // The others are told by the `Parked` that follows.
        Happening::Released { agent, task_type, why, .. } => (*why == Hold::Drain)
            .then(|| format!("{} given back unfinished; its attempt does not count", who(agent, task_type)))
            .and_then(|text| tell(Tone::Wait, "release", text)),
        Happening::DeadLettered { agent, task_type, attempts, failure, why, .. } => {
            Some(dead(&who(agent, task_type), &names.number(id), names.is_payment(id), *attempts, failure, why))
        }
        Happening::Decided { agent, task_type, decided } => {
            Some(decision(&who(agent, task_type), &names.number(id), decided, names))
        }
        Happening::Replayed { agent, task_type, by, reason, .. } => {
            let text = format!("{} sent again by {}: {}", who(agent, task_type), quote(by), quote(reason));
            tell(Tone::Human, "replay", text)
        }
        Happening::Cancelled { agent, task_type, by, reason } => {
            let text = format!("{} cancelled by {}: {}", who(agent, task_type), quote(by), quote(reason));
            tell(Tone::Human, "cancel", text)
        }
        Happening::BreakerChanged { integration, from, to, until, why } => {
            let tone = if to == "closed" { Tone::Good } else { Tone::Bad };
            let until = until.map(|until| format!(" until {}", names.clock(until))).unwrap_or_default();
            let why = if why.is_empty() { String::new() } else { format!(": {}", quote(why)) };
            let text = format!("{integration} {} (was {}){until}{why}", plain(to).to_uppercase(), plain(from));
            tell(tone, "breaker", text)
        }
        Happening::GateClosed { integration, until, asked } => {
            let until = names.clock(*until);
            let text = format!("{integration} says {}: the whole team keeps silent until {until}", quote(asked));
            tell(Tone::Wait, "gate", text)
        }
        // The calls after the first are the ramp.
        Happening::ProbeSent { integration, agent } => names
            .unprobed
            .contains(integration)
            .then(|| format!("{integration}: one call, by {agent}, goes through to see"))
            .and_then(|text| tell(Tone::Wait, "probe", text)),
        Happening::Resumed { agent, task_type, model, steps, usage, .. } => {
            let tokens = grouped(usage.total());
            let text = format!(
                "{} goes on after step {steps} on {model}: {tokens} tokens not paid again",
                who(agent, task_type)
            );
            tell(Tone::Good, "resume", text)
        }
        Happening::Compacted { agent, task_type, model, results, .. } => {
            let text = format!("{}: {results} results left out so that it fits {model}", who(agent, task_type));
            tell(Tone::Wait, "compact", text)
        }
        Happening::OutcomeUnknown { agent, task_type, tool, .. } => {
            let text = format!("{}: {tool} may or may not have happened; not done again", who(agent, task_type));
            tell(Tone::Bad, "unknown", text)
        }
        Happening::OutcomeJudged { agent, task_type, happened, by, .. } => {
            let happened = if *happened { "happened" } else { "did not happen" };
            tell(Tone::Good, "known", format!("{}: it {happened}, says {by}", who(agent, task_type)))
        }
        Happening::AgentStarted { agent, incarnation } => (incarnation.0 > 1)
            .then(|| format!("{agent} is back (start {})", incarnation.0))
            .and_then(|text| tell(Tone::Good, "agent", text)),
        Happening::AgentDied { agent, how, detail, restart_in, .. } => {
            let back = format_duration(*restart_in);
            tell(Tone::Bad, "agent", format!("{agent} died ({}: {}); back in {back}", plain(how), quote(detail)))
        }
        Happening::CrashLoop { agent, deaths } => {
            tell(Tone::Bad, "agent", format!("{agent} is in a crash loop ({deaths} deaths in a row); the others go on"))
        }
        Happening::IncidentOpened { incident, summary } => {
            tell(Tone::Human, "page", format!("{} opened: {}", plain(incident), quote(summary)))
        }
        Happening::IncidentUpdated { .. } => None,
        Happening::IncidentAcknowledged { incident, by } => {
            tell(Tone::Human, "human", format!("{} acknowledged by {}", plain(incident), quote(by)))
        }
        Happening::IncidentOverridden { incident, by, decision, tasks } => {
            let (incident, by) = (plain(incident), quote(by));
            tell(Tone::Human, "human", format!("{incident} overridden by {by}: {} for {tasks} tasks", quote(decision)))
        }
        Happening::IncidentResolved { incident, by } => {
            tell(Tone::Good, "human", format!("{} resolved by {}", plain(incident), quote(by)))
        }
        // That a call was answered or has grown is told by what made it so.
        Happening::PageDelivered { action, .. } if action != "trigger" => None,
        Happening::PageDelivered { incident, channel, to, again, .. } => {
            let again = if *again { " again" } else { "" };
            let (person, channel) = channel.split_once('/').unwrap_or(("the person on call", channel));
            let (incident, person, channel) = (plain(incident), quote(person), plain(channel));
            tell(Tone::Human, "page", format!("{incident} delivered{again} to {person} by {channel} ({})", quote(to)))
        }
        Happening::PageFailed { incident, channel, error, next } => {
            let next = next.map_or("given up".to_owned(), |next| format!("next try {}", names.clock(next)));
            let (incident, channel) = (plain(incident), plain(channel));
            tell(Tone::Bad, "page", format!("{incident} not delivered by {channel} ({}); {next}", quote(error)))
        }
        Happening::ReplayChanged { replay, state, released, total } => {
            tell(Tone::Plain, "replay", format!("{} {}: {released} of {total} released", plain(replay), plain(state)))
        }
        Happening::TeamStarted { epoch, agents, open_tasks } => {
            let more =
                if *epoch > 1 { format!(" again (run {epoch}), {open_tasks} tasks open") } else { String::new() };
            tell(Tone::Plain, "team", format!("{agents} agents at work{more}"))
        }
        Happening::Draining { running } => tell(Tone::Wait, "team", format!("draining; {running} tasks still run")),
        Happening::Pruned { done, dead, cancelled, .. } => {
            tell(Tone::Plain, "team", format!("{} tasks of long ago forgotten", done + dead + cancelled))
        }
    }
}

fn retry(who: &str, at: Timestamp, due: Timestamp, attempt: u32, failure: &Failure, amended: bool) -> Line {
    let wait = if due > at { format!("in {}", format_duration(whole(at.until(due)))) } else { "at once".to_owned() };
    let next = attempt + 1;
    let message = quote(&failure.message);
    let label = format!("{}: {}", failure.class, failure.kind);
    if amended {
        let text = format!("{who} refused: {message} -> requeued {wait} with this error in its prompt");
        return Line { tone: Tone::Bad, word: "invalid", text, fold: None };
    }
    if failure.kind == Kind::Crash {
        let text = format!("{who}: the agent panicked in mid-task ({message}); attempt {next} {wait}");
        return Line { tone: Tone::Bad, word: "panic", text, fold: None };
    }
    let fold = Fold {
        key: format!("retry {}", kind(failure)),
        head: String::new(),
        tail: format!(" tasks failed ({}); each is tried again by its schedule", kind(failure)),
        member: who.rsplit(' ').next().unwrap_or_default().to_owned(),
    };
    let text = format!("{who} failed: {message} ({label}); attempt {next} {wait}");
    Line { tone: Tone::Bad, word: "retry", text, fold: Some(fold) }
}

fn dead(who: &str, number: &str, payment: bool, attempts: u32, failure: &Failure, why: &str) -> Line {
    let (message, why) = (quote(&failure.message), quote(why));
    let label = format!("{}: {}", failure.class, failure.kind);
    if payment {
        let text = format!("{who}: payment failed ({label}: {message}) -> never repeated by itself; a person decides");
        return Line { tone: Tone::Bad, word: "payment", text, fold: None };
    }
    let deliveries = match attempts {
        0 => String::new(),
        1 => " after 1 delivery".to_owned(),
        several => format!(" after {several} deliveries"),
    };
    let text = format!("{who} -> dead letter queue{deliveries} ({label}): {message}; {why}");
    let fold = Fold {
        key: format!("dead {}", kind(failure)),
        head: String::new(),
        tail: format!(" tasks -> dead letter queue ({}), as one group; {why}", kind(failure)),
        member: number.to_owned(),
    };
    Line { tone: Tone::Bad, word: "dead", text, fold: Some(fold) }
}

fn decision(who: &str, number: &str, decided: &Decided, names: &Names) -> Line {
    let human = decided.by == DeciderKind::Human;
    let (tone, word) = if human { (Tone::Human, "human") } else { (Tone::Ceo, "ceo") };
    let what = match &decided.decision {
        Decision::RetryOnFallback { model } => format!("retry on fallback model {model}"),
        Decision::RetryAfterCheck { due, checked } => {
            format!("retry at {} after a check: {}", names.clock(*due), quote(checked))
        }
        Decision::Reassign { agent, .. } => format!("reassign to {agent} with an amended prompt"),
        Decision::Park { until, why } => format!("wait until {}: {}", names.clock(*until), quote(why)),
        Decision::Discard { why } => format!("give up for good: {}", quote(why)),
        Decision::PageHuman { why } => format!("a person must judge: {}", quote(why)),
        Decision::Resolve { note } => format!("done by other means: {}", quote(note)),
        Decision::RunAgain { amendment: Some(words) } => format!("run again with the words: {}", quote(words)),
        Decision::RunAgain { amendment: None } => "run again".to_owned(),
    };
    let reason = match decided.reasons.last() {
        Some(reason) if !what.contains(reason.as_str()) => format!(" (\"{}\")", quote(reason)),
        Some(_) | None => String::new(),
    };
    let fold = Fold {
        key: format!("{word} {what}"),
        head: String::new(),
        tail: format!(" tasks -> {what}{reason}"),
        member: number.to_owned(),
    };
    Line { tone, word, text: format!("{who} -> {what}{reason}"), fold: Some(fold) }
}

fn kind(failure: &Failure) -> String {
    let via = failure.integration.as_ref().map(|integration| format!(", {integration}")).unwrap_or_default();
    let status = failure.status.map(|status| format!(" {status}")).unwrap_or_default();
    format!("{}: {}{status}{via}", failure.class, failure.kind)
}

fn held(why: Hold, integration: Option<&Integration>) -> String {
    let whose = integration.map(|integration| format!(" of {integration}")).unwrap_or_default();
    match why {
        Hold::BreakerOpen => format!("breaker{whose} open"),
        Hold::Gate => format!("gate{whose} closed (Retry-After)"),
        Hold::Drain => "the team drains".to_owned(),
        Hold::RetryBudget => format!("retry budget{whose} used up"),
        Hold::IntegrationParked => format!("integration{whose} unusable until somebody acts"),
        Hold::DiskFull => "no room on disk".to_owned(),
        Hold::Paused => "somebody decided so".to_owned(),
    }
}

/// Spans on the screen have whole seconds once they have any.
fn whole(span: Duration) -> Duration {
    if span < Duration::from_secs(1) { span } else { Duration::from_secs(span.as_secs()) }
}

/// A number as people read it: `4,312`.
pub(in crate::sim) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Foreign text, safe to print: control and direction characters escaped.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let steers =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || steers {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Foreign text, safe to print and no longer than a sentence.
fn quote(text: &str) -> String {
    let mut characters = text.trim().chars();
    let mut short = plain(&characters.by_ref().take(QUOTE).collect::<String>());
    if characters.next().is_some() {
        short.push_str("...");
    }
    short
}
