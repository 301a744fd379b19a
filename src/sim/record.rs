//! A stretch of a real event feed as a scenario: the work that came, and what seems to have broken.
//!
//! The feed tells what failed and not why, so faults are inferred, and the file says at its top which and from what: it
//! is a beginning to be read and corrected, not a proof.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::agent::ModelRef;
use crate::decision::{DeciderKind, DecisionKind};
use crate::event::{Event, Happening};
use crate::failure::{Failure, Kind};
use crate::redact::one_line;
use crate::scenario::{FaultKind, HumanDecision, LONGEST_RUN, Target};
use crate::task::{Integration, TaskId};
use crate::time::{Timestamp, format_duration};

/// Failures of one kind that are further apart are two faults.
const GAP: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
/// How a gate says that the other side asked for silence. Without it the team holds its own calls back.
const ASKED: &str = "retry after";

/// A scenario made of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The scenario file.
    pub yaml: String,
    /// The file of its load, as JSON lines: the first event and every submission.
    pub load: String,
    /// How much work came.
    pub tasks: usize,
    /// How many faults were inferred.
    pub faults: usize,
}

/// Why a feed is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A line is no event.
    #[error("line {line} is no event: {why}")]
    NoEvent {
        /// Which, first = 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing came in it.
    #[error("no task was submitted in this stretch of the feed; begin earlier, such as --since 1d")]
    NoWork,
    /// It is longer than a scenario may be.
    #[error("the stretch is {0} long; a scenario is at most two years")]
    TooLong(String),
}

/// Reads a feed of JSON lines, as `backstop events -o jsonl` writes it.
///
/// # Errors
/// The first line that is no event.
pub fn feed(text: &str) -> Result<Vec<Event>, RecordError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| RecordError::NoEvent { line: number + 1, why: error.to_string() })
    };
    lines.map(read).collect()
}

/// A fault that was inferred.
#[derive(Clone, Debug)]
struct Inferred {
    kind: FaultKind,
    of: String,
    from: Duration,
    until: Duration,
    failed: u32,
    sound: u32,
    retry_after: Option<Duration>,
    by_gate: bool,
}

/// Makes a scenario of a feed. `load_file` is what its load will be called, beside the scenario; `team` what stands under
/// `team`.
///
/// # Errors
/// When nothing was submitted in it, or it is too long.
pub fn record(events: &[Event], load_file: &str, team: &str) -> Result<Recorded, RecordError> {
    let submitted = |event: &&Event| matches!(event.what, Happening::Submitted { .. });
    let tasks = events.iter().filter(submitted).count();
    let (Some(first), Some(last)) = (events.first(), events.iter().map(|event| event.at).max()) else {
        return Err(RecordError::NoWork);
    };
    if tasks == 0 {
        return Err(RecordError::NoWork);
    }
    let start = first.at;
    let run = whole(last.since(start)).max(Duration::from_secs(60));
    if run > LONGEST_RUN {
        return Err(RecordError::TooLong(format_duration(run)));
    }
    let (faults, unknown) = infer(events, start, run);
    let kept = events.iter().enumerate().filter(|(place, event)| *place == 0 || submitted(event));
    let line = |(_, event): (usize, &Event)| serde_json::to_string(event).expect("an event is JSON") + "\n";
    let mut yaml = String::new();
    preamble(&mut yaml, &faults, &unknown, start, last);
    let _ = writeln!(yaml, "about: {}", quoted(&format!("Recorded from a feed that began at {start}.")));
    let _ = writeln!(yaml, "team: {}", quoted(team));
    let _ = writeln!(yaml, "start: {start}");
    let _ = writeln!(yaml, "run: {}", format_duration(run));
    let _ = writeln!(yaml, "load:\n  - {{ recorded: {} }}", quoted(load_file));
    yaml.push_str(&models(events));
    if !faults.is_empty() {
        yaml.push_str("faults:\n");
    }
    for fault in &faults {
        yaml.push_str(&fault.line());
    }
    yaml.push_str(&human(events));
    yaml.push_str("assert:\n  - lost == 0\n  - doubled == 0\n  - payments-repeated == 0\n");
    Ok(Recorded { yaml, load: kept.map(line).collect(), tasks, faults: faults.len() })
}

/// Whole seconds, more rather than less, and one at least.
fn whole(span: Duration) -> Duration {
    Duration::from_secs(span.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)).max(SECOND)
}

/// A text as YAML reads it: JSON is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

fn preamble(
    yaml: &mut String,
    faults: &[Inferred],
    unknown: &BTreeMap<String, u32>,
    start: Timestamp,
    last: Timestamp,
) {
    let _ = writeln!(yaml, "# Recorded by `backstop sim record` from a feed, {start} to {last}.");
    yaml.push_str(
        "# The work is what came. What broke is inferred from what failed; look at it before you trust it:\n",
    );
    for fault in faults {
        let _ = writeln!(yaml, "#   {}", one_line(&fault.reason(), 300));
    }
    if faults.is_empty() {
        yaml.push_str("#   nothing seems to have broken.\n");
    }
    for (what, number) in unknown {
        let _ = writeln!(
            yaml,
            "#   {number} failures of {} are of no kind a fault could bring about.",
            one_line(what, 100)
        );
    }
}

impl Inferred {
    /// The share of calls that failed; what is nearly all is all.
    fn percent(&self) -> u32 {
        let all = self.failed + self.sound;
        let percent = (u64::from(self.failed) * 100).div_ceil(u64::from(all.max(1)));
        u32::try_from(percent).unwrap_or(100).max(1)
    }

    fn line(&self) -> String {
        let scope = if self.kind == FaultKind::AgentKill {
            format!(", agent: {}", self.of)
        } else if self.kind.target() == Target::Calls {
            format!(", provider: {}", self.of)
        } else {
            String::new()
        };
        let mut line = format!("  - {{ fault: {}{scope}, at: {}", self.kind, format_duration(self.from));
        if !self.kind.is_moment() {
            let _ = write!(line, ", for: {}", format_duration(whole(self.until.saturating_sub(self.from))));
        }
        if self.percent() < 95 {
            let _ = write!(line, ", share: {}%", self.percent());
        }
        if let Some(hint) = self.retry_after.filter(|_| self.kind == FaultKind::RateLimited) {
            let _ = write!(line, ", retry-after: {}", format_duration(whole(hint)));
        }
        line.push_str(" }\n");
        line
    }

    fn reason(&self) -> String {
        let from = format_duration(self.from);
        if self.kind == FaultKind::AgentKill {
            return format!("agent-kill of {} at {from}: its actor died", self.of);
        }
        if self.kind == FaultKind::ProcessKill {
            return format!("process-kill at {from}: the team started again without having drained");
        }
        let gate = if self.by_gate { "; it asked for silence" } else { "" };
        format!("{} of {} at {from}: {} failed, {} were done{gate}", self.kind, self.of, self.failed, self.sound)
    }
}

/// The fault that brings about a failure of this kind.
const fn fault_of(kind: Kind) -> Option<FaultKind> {
    Some(match kind {
        Kind::RateLimited => FaultKind::RateLimited,
        Kind::Overloaded => FaultKind::Overloaded,
        Kind::ServerError => FaultKind::ServerError,
        Kind::Timeout => FaultKind::FirstByteTimeout,
        Kind::Network => FaultKind::Reset,
        Kind::TruncatedStream => FaultKind::Truncated,
        Kind::MalformedResponse => FaultKind::MalformedJson,
        Kind::LocalUnavailable => FaultKind::Refused,
        Kind::Auth | Kind::Permission => FaultKind::RevokedKey,
        Kind::QuotaExhausted => FaultKind::Quota,
        Kind::ModelUnavailable => FaultKind::ModelRetired,
        Kind::ContextTooLong | Kind::RequestTooLarge => FaultKind::TooLong,
        Kind::OutputCut => FaultKind::Cut,
        Kind::BadOutput | Kind::EmptyOutput | Kind::Schema | Kind::MissingField | Kind::Constraint => {
            FaultKind::SchemaInvalid
        }
        Kind::Refused | Kind::PolicyBlock | Kind::Recitation => FaultKind::Refusal,
        Kind::Loop => FaultKind::Loop,
        Kind::InFlightConflict
        | Kind::LocalOom
        | Kind::EndpointConfig
        | Kind::SameOutput
        | Kind::InvalidRequest
        | Kind::InvalidInput
        | Kind::Contradiction
        | Kind::Dependency
        | Kind::Budget
        | Kind::Deadline
        | Kind::Crash
        | Kind::ProcessDied
        | Kind::LeaseLapsed
        | Kind::Storage
        | Kind::ParkedTooLong
        | Kind::NoAgent
        | Kind::Declined
        | Kind::OutcomeUnknown
        | Kind::Unknown => return None,
    })
}

/// Kinds that follow from what else happened, and need no fault of their own.
const fn follows(kind: Kind) -> bool {
    matches!(kind, Kind::Crash | Kind::ProcessDied | Kind::LeaseLapsed | Kind::ParkedTooLong | Kind::Deadline)
}

#[derive(Default)]
struct Inference {
    /// When the delivery of a task that runs now began.
    claimed: BTreeMap<TaskId, Duration>,
    open: BTreeMap<(Integration, FaultKind), Inferred>,
    faults: Vec<Inferred>,
    unknown: BTreeMap<String, u32>,
    /// Deliveries that were done: on whose model, and when they began.
    sound: Vec<(Integration, Duration)>,
}

impl Inference {
    fn failed(&mut self, at: Duration, task: Option<TaskId>, failure: &Failure, model: Option<&ModelRef>, billed: u64) {
        let integration = failure.integration.as_ref().or(model.map(|model| &model.provider));
        let kind = match (failure.kind, billed) {
            // What billed nothing was hardly begun.
            (Kind::Network, 0) => Some(FaultKind::Refused),
            (kind, _) => fault_of(kind),
        };
        let (Some(kind), Some(integration)) = (kind, integration) else {
            if !follows(failure.kind) {
                *self.unknown.entry(failure.kind.to_string()).or_default() += 1;
            }
            return;
        };
        let began = task.and_then(|task| self.claimed.get(&task)).copied().unwrap_or(at);
        let fault = self.fault(integration, kind, began, at);
        fault.failed += 1;
        fault.retry_after = fault.retry_after.max(failure.retry_after);
    }

    fn fault(&mut self, of: &Integration, kind: FaultKind, began: Duration, at: Duration) -> &mut Inferred {
        let key = (of.clone(), kind);
        if self.open.get(&key).is_some_and(|fault| began > fault.until + GAP) {
            self.faults.extend(self.open.remove(&key));
        }
        let new = Inferred {
            kind,
            of: of.to_string(),
            from: Duration::from_secs(began.as_secs()),
            until: at,
            failed: 0,
            sound: 0,
            retry_after: None,
            by_gate: false,
        };
        let fault = self.open.entry(key).or_insert(new);
        fault.until = fault.until.max(at + SECOND);
        fault
    }

    fn gate(&mut self, of: &Integration, at: Duration, until: Duration) {
        let fault = self.fault(of, FaultKind::RateLimited, at, until);
        fault.retry_after = fault.retry_after.max(Some(until.saturating_sub(at)));
        fault.by_gate = true;
        fault.failed = fault.failed.max(1);
    }

    fn sound(&mut self, at: Duration, task: Option<TaskId>, model: &ModelRef) {
        let began = task.and_then(|task| self.claimed.get(&task)).copied().unwrap_or(at);
        self.sound.push((model.provider.clone(), began));
    }

    /// All faults, and with each what was done by the same provider while it seems to have been on: it struck not all
    /// calls. How long one lasts is known only at the end.
    fn told(mut self) -> Vec<Inferred> {
        self.faults.extend(self.open.into_values());
        for fault in self.faults.iter_mut().filter(|fault| fault.kind.target() == Target::Calls) {
            let during = |(of, began): &&(Integration, Duration)| {
                of.as_str() == fault.of && (fault.from..fault.until).contains(began)
            };
            fault.sound = u32::try_from(self.sound.iter().filter(during).count()).unwrap_or(u32::MAX);
        }
        self.faults
    }
}

fn infer(events: &[Event], start: Timestamp, run: Duration) -> (Vec<Inferred>, BTreeMap<String, u32>) {
    let mut seen = Inference::default();
    let (mut before, mut drained) = (None::<Duration>, false);
    for (place, event) in events.iter().enumerate() {
        let at = event.at.since(start);
        #[allow(clippy::wildcard_enum_match_arm, reason = "what is not named here tells of no fault")]
        match &event.what {
            Happening::Claimed { .. } => {
                seen.claimed.extend(event.task.map(|task| (task, at)));
            }
            Happening::RetryScheduled { failure, model, usage, .. }
            | Happening::DeadLettered { failure, model, usage, .. } => {
                seen.failed(at, event.task, failure, model.as_ref(), usage.total());
            }
            Happening::Done { model: Some(model), .. } => seen.sound(at, event.task, model),
            Happening::GateClosed { integration, until, asked }
                if asked.starts_with(ASKED) && !another_kind(&events[place..], integration) =>
            {
                seen.gate(integration, at, until.since(start));
            }
            Happening::AgentDied { agent, .. } => {
                seen.faults.push(struck(FaultKind::AgentKill, agent.as_str(), at, at))
            }
            Happening::Draining { .. } => drained = true,
            Happening::TeamStarted { .. } => {
                if let Some(died) = before.filter(|_| !drained) {
                    seen.faults.push(struck(FaultKind::ProcessKill, "", died, at.max(died + SECOND)));
                }
                drained = false;
            }
            _ => {}
        }
        before = Some(at);
    }
    let unknown = std::mem::take(&mut seen.unknown);
    let mut faults = seen.told();
    faults.retain(|fault| fault.from < run);
    faults.sort_by(|a, b| (a.from, a.kind, &a.of).cmp(&(b.from, b.kind, &b.of)));
    (faults, unknown)
}

/// Did something else than a rate limit close this gate? Who is out of capacity may ask for silence too.
fn another_kind(events: &[Event], gated: &Integration) -> bool {
    let now = events.first().map(|event| event.at).unwrap_or_default();
    let failure = |event: &Event| {
        let (Happening::RetryScheduled { failure, .. } | Happening::DeadLettered { failure, .. }) = &event.what else {
            return None;
        };
        (failure.integration.as_ref() == Some(gated)).then_some(failure.kind)
    };
    let soon = events.iter().take_while(|event| event.at.since(now) <= SECOND);
    soon.filter_map(failure).next().is_some_and(|kind| kind != Kind::RateLimited)
}

fn struck(kind: FaultKind, of: &str, from: Duration, until: Duration) -> Inferred {
    let from = Duration::from_secs(from.as_secs());
    Inferred { kind, of: of.to_owned(), from, until, failed: 1, sound: 0, retry_after: None, by_gate: false }
}

/// How long deliveries took, and how much was written, as the feed tells it.
fn models(events: &[Event]) -> String {
    let mut claimed: BTreeMap<TaskId, Timestamp> = BTreeMap::new();
    let (mut spans, mut tokens) = (Vec::new(), Vec::new());
    for event in events {
        let Some(task) = event.task else { continue };
        #[allow(clippy::wildcard_enum_match_arm, reason = "only deliveries and their answers")]
        match &event.what {
            Happening::Claimed { .. } => drop(claimed.insert(task, event.at)),
            Happening::Done { usage, .. } => {
                spans.extend(claimed.get(&task).map(|at| event.at.since(*at)));
                tokens.extend(Some(usage.output).filter(|output| *output > 0));
            }
            _ => {}
        }
    }
    spans.sort_unstable();
    tokens.sort_unstable();
    let Some(longest) = spans.last() else { return String::new() };
    let at_least = |span: Duration| span.max(Duration::from_millis(1));
    let latency = if spans.len() < 20 {
        format!("[{}, {}]", format_duration(at_least(spans[0])), format_duration(at_least(*longest)))
    } else {
        let (median, p99) =
            (super::report::figures::percentile(&spans, 50), super::report::figures::percentile(&spans, 99));
        format!("{{ median: {}, p99: {} }}", format_duration(at_least(median)), format_duration(at_least(p99)))
    };
    let written = match (tokens.first(), tokens.last()) {
        (Some(least), Some(most)) => {
            format!(", output-tokens: [{}, {}]", (*least).min(1_000_000), (*most).min(1_000_000))
        }
        _ => String::new(),
    };
    format!("models:\n  \"*\": {{ latency: {latency}{written} }}\n")
}

/// The person on call, as far as the feed tells of one.
fn human(events: &[Event]) -> String {
    let mut paged: BTreeMap<&str, Timestamp> = BTreeMap::new();
    let mut last_page = None;
    let (mut taken, mut decided, mut closed, mut discards) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for event in events {
        #[allow(clippy::wildcard_enum_match_arm, reason = "only what calls a person and what they say")]
        match &event.what {
            Happening::PageDelivered { incident, .. } => {
                paged.entry(incident).or_insert(event.at);
                last_page.get_or_insert(event.at);
            }
            Happening::IncidentAcknowledged { incident, .. } => {
                taken.extend(paged.get(incident.as_str()).map(|page| event.at.since(*page)));
            }
            Happening::IncidentResolved { incident, .. } => {
                closed.extend(paged.get(incident.as_str()).map(|page| event.at.since(*page)));
                last_page = None;
            }
            Happening::Decided { decided: one, .. } if one.by == DeciderKind::Human => {
                decided.extend(last_page.map(|page| event.at.since(page)));
                discards += usize::from(one.decision.kind() == DecisionKind::Discard);
            }
            _ => {}
        }
    }
    let middle = |mut spans: Vec<Duration>| {
        spans.sort_unstable();
        let middle = super::report::figures::percentile(&spans, 50);
        (!spans.is_empty()).then(|| format_duration(whole(middle).min(Duration::from_secs(30 * 86_400))))
    };
    let decision = if discards * 2 > decided.len() { HumanDecision::Discard } else { HumanDecision::RunAgain };
    let mut said: Vec<String> = Vec::new();
    said.extend(middle(taken).map(|after| format!("acknowledges-after: {after}")));
    // Who decided about nothing still closed the incident.
    said.extend(
        middle(decided).or(middle(closed)).map(|after| format!("decides-after: {after}, decision: {decision}")),
    );
    if said.is_empty() { String::new() } else { format!("human: {{ {} }}\n", said.join(", ")) }
}
