//! Every metric, by name: what it counts, in which unit, with which labels; and how the feed and the desk fill it.
//!
//! Counters are readers of the event feed, gauges are read when somebody scrapes. No label is ever an id or a text:
//! the number of time series is bounded by the configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio_util::sync::CancellationToken;

use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::engine;
use crate::event::{Event, Happening};
use crate::failure::{Class, Kind};
use crate::incident::IncidentState;
use crate::query::{Filter, PageAsk};
use crate::record::{LetterStatus, State};
use crate::task::{AgentName, TaskId, TaskType};
use crate::team::desk::{AgentState, Desk, DeskError};
use crate::time::Timestamp;
use crate::triage::DeciderKind;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How observations are distributed.
    Histogram,
}

/// One metric, as documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics_table {
    ($($CONST:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = $help] pub const $CONST: &str = $name;)+
        /// Every metric there is.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help,
        }),+];
    };
}

metrics_table! {
    TASKS = "backstop_tasks_total", Counter, ["agent", "task_type", "outcome"], "Tasks by what became of them: submitted, done, dead or cancelled.";
    ATTEMPTS = "backstop_attempts_total", Counter, ["agent", "task_type", "class", "result"], "Deliveries that ended, by class of failure (none when it was done) and result.";
    TASK_DURATION = "backstop_task_duration_seconds", Histogram, ["agent", "task_type"], "From acceptance to done, every wait included.";
    QUEUE_DEPTH = "backstop_queue_depth", Gauge, ["agent", "state"], "Tasks by whose turn it is and where they stand.";
    LOST = "backstop_tasks_lost", Gauge, [], "Accepted tasks that are nowhere. Anything but 0 is a bug.";
    PARKED = "backstop_tasks_parked", Gauge, ["integration"], "Tasks that wait for an integration without spending a delivery.";
    DLQ_DEPTH = "backstop_dlq_depth", Gauge, ["class"], "Undecided dead letters, those with a person included.";
    DEAD_LETTERS = "backstop_dead_letters_total", Counter, ["agent", "task_type", "class"], "Tasks given up on, once for each round.";
    DLQ_OLDEST_AGE = "backstop_dlq_oldest_age_seconds", Gauge, [], "The age of the oldest undecided dead letter.";
    RETRIES_SCHEDULED = "backstop_retries_scheduled", Gauge, ["agent"], "Tasks that wait for their next delivery.";
    BREAKER_STATE = "backstop_breaker_state", Gauge, ["integration", "state"], "1 for the state the breaker is in, 0 for the others.";
    BREAKER_TRANSITIONS = "backstop_breaker_transitions_total", Counter, ["integration", "to"], "Changes of a breaker's state.";
    GATES_CLOSED = "backstop_gates_closed_total", Counter, ["integration"], "Times an integration asked the whole team for silence.";
    PROBES = "backstop_probes_total", Counter, ["integration"], "Single calls let through a half-open breaker.";
    AGENT_RESTARTS = "backstop_agent_restarts_total", Counter, ["agent"], "Starts of an agent after a death.";
    AGENT_UP = "backstop_agent_up", Gauge, ["agent"], "1 while the agent can work.";
    AGENT_CRASH_LOOPS = "backstop_agent_crash_loops_total", Counter, ["agent"], "Times an agent died too often in a row.";
    DECISIONS = "backstop_decisions_total", Counter, ["decision", "trigger"], "Decisions about dead letters, by what and by whom (table, adviser, human).";
    INCIDENTS_OPEN = "backstop_incidents_open", Gauge, [], "Incidents that are not over.";
    PAGES = "backstop_pages_total", Counter, ["channel", "result"], "Attempts to reach a human: delivered or failed.";
    LLM_TOKENS = "backstop_llm_tokens_total", Counter, ["provider", "model", "direction"], "Tokens, those of failed calls included.";
    LLM_COST = "backstop_llm_cost_usd_total", Counter, ["provider", "model", "wasted"], "US dollars where the price is known; wasted is what failed attempts cost.";
    RESUMES = "backstop_resumes_total", Counter, ["agent"], "Deliveries that went on where an earlier one had stopped.";
    TOKENS_KEPT = "backstop_tokens_kept_total", Counter, ["agent"], "Tokens that were not paid again because the journal had the answers.";
    COMPACTIONS = "backstop_compactions_total", Counter, ["agent"], "Conversations shortened so that they fit a model.";
    OUTCOMES_UNKNOWN = "backstop_outcomes_unknown_total", Counter, ["integration"], "Calls of tools of which nobody knew whether they had happened.";
    OUTCOMES_JUDGED = "backstop_outcomes_judged_total", Counter, ["verdict"], "Calls in doubt that a probe or a person judged: happened or did-not-happen.";
    REPLAYS = "backstop_replay_tasks_total", Counter, ["result"], "Dead letters sent round again.";
    RELEASES = "backstop_releases_total", Counter, ["agent", "why"], "Deliveries given back unworked; they cost no attempt.";
    EVENT_SEQ = "backstop_event_seq", Gauge, [], "The number of the last event of the feed.";
    BUILD_INFO = "backstop_build_info", Gauge, ["version"], "Always 1.";
}

/// From a tenth of a second to half a day: model calls at one end, waits for people at the other.
const BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 150.0, 450.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0];
const BREAKER_STATES: [&str; 4] = ["closed", "open", "half-open", "forced-open"];

/// The counters and gauges of one team.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    // The exporter's counters are whole numbers; money is kept in millionths and written by us.
    micro_usd: Mutex<BTreeMap<(String, String, bool), u64>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero. A registry of its own, not the process's: two teams in one process do not mix.
    #[must_use]
    pub fn new() -> Self {
        let buckets = Matcher::Full(TASK_DURATION.to_owned());
        let builder = PrometheusBuilder::new();
        let recorder = match builder.set_buckets_for_metric(buckets, &BUCKETS) {
            Ok(builder) => builder.build_recorder(),
            Err(_) => PrometheusBuilder::new().build_recorder(),
        };
        let handle = recorder.handle();
        let metrics = Self { recorder, handle, micro_usd: Mutex::default() };
        metrics::with_local_recorder(&metrics.recorder, describe_all);
        metrics
    }

    /// Counts what happens, from now on, until told to stop. A reader that falls behind catches up; it misses nothing.
    pub async fn follow(self: Arc<Self>, desk: Desk, stop: CancellationToken) {
        let mut watch = desk.engine().watch();
        let mut after = *watch.borrow_and_update();
        loop {
            match desk.engine().events(after, 500).await {
                Ok(events) if !events.is_empty() => {
                    events.iter().for_each(|event| self.record(event));
                    after = events.last().map_or(after, |event| event.seq);
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "counting events has to wait"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = watch.changed() => if changed.is_err() { return },
            }
            watch.borrow_and_update();
        }
    }

    /// Counts one event.
    pub fn record(&self, event: &Event) {
        metrics::with_local_recorder(&self.recorder, || record(event));
        if let Some((model, micro_usd, wasted)) = cost(&event.what) {
            let (provider, model) = model_labels(model);
            let mut spent = self.micro_usd.lock().unwrap_or_else(PoisonError::into_inner);
            *spent.entry((provider, model, wasted)).or_default() += micro_usd;
        }
    }

    /// Reads the gauges and writes everything as Prometheus text.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn render(&self, desk: &Desk) -> Result<String, DeskError> {
        let facts = gather(desk).await?;
        metrics::with_local_recorder(&self.recorder, || gauges(&facts));
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        let spent = self.micro_usd.lock().unwrap_or_else(PoisonError::into_inner);
        if !spent.is_empty() {
            let _ = writeln!(text, "# HELP {LLM_COST} {}\n# TYPE {LLM_COST} counter", help(LLM_COST));
        }
        for ((provider, model, wasted), micro_usd) in &*spent {
            let (provider, model) = (escape(provider), escape(model));
            let usd = *micro_usd as f64 / 1e6;
            let _ = writeln!(text, "{LLM_COST}{{provider=\"{provider}\",model=\"{model}\",wasted=\"{wasted}\"}} {usd}");
        }
        Ok(text)
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn help(name: &str) -> &'static str {
    ALL.iter().find(|metric| metric.name == name).map_or("", |metric| metric.help)
}

/// Tells the recorder in force what each metric means.
pub fn describe_all() {
    for metric in ALL.iter().filter(|metric| metric.name != LLM_COST) {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Counts one event on the recorder in force.
pub fn record(event: &Event) {
    match &event.what {
        Happening::Submitted { agent, task_type, .. } => outcome(agent, task_type, "submitted"),
        Happening::Done { agent, task_type, model, usage, .. } => {
            outcome(agent, task_type, "done");
            attempt(agent, task_type, "none", "done");
            tokens(model.clone(), *usage);
            if let Some(id) = event.task {
                let took = event.at.since(accepted_at(id)).as_secs_f64();
                histogram!(TASK_DURATION, "agent" => agent.to_string(), "task_type" => task_type.to_string())
                    .record(took);
            }
        }
        Happening::RetryScheduled { agent, task_type, failure, model, usage, .. } => {
            attempt(agent, task_type, failure.class.as_str(), "retry");
            tokens(model.clone(), *usage);
        }
        Happening::Released { agent, task_type, why, model, usage, .. } => {
            tokens(model.clone(), *usage);
            attempt(agent, task_type, "none", "released");
            counter!(RELEASES, "agent" => agent.to_string(), "why" => why.as_str()).increment(1);
        }
        Happening::DeadLettered { agent, task_type, failure, model, usage, .. } => {
            outcome(agent, task_type, "dead");
            if !unworked(failure.kind) {
                attempt(agent, task_type, failure.class.as_str(), "dead-letter");
            }
            tokens(model.clone(), *usage);
            let (agent, task_type) = (agent.to_string(), task_type.to_string());
            let class = failure.class.as_str();
            counter!(DEAD_LETTERS, "agent" => agent, "task_type" => task_type, "class" => class).increment(1);
        }
        Happening::Decided { decided, .. } => {
            let trigger = match decided.by {
                DeciderKind::Table => "table",
                DeciderKind::Adviser => "adviser",
                DeciderKind::Human => "human",
            };
            counter!(DECISIONS, "decision" => decided.decision.kind().as_str(), "trigger" => trigger).increment(1);
        }
        Happening::Resumed { agent, usage, .. } => {
            counter!(RESUMES, "agent" => agent.to_string()).increment(1);
            counter!(TOKENS_KEPT, "agent" => agent.to_string()).increment(usage.total());
        }
        Happening::Compacted { agent, .. } => counter!(COMPACTIONS, "agent" => agent.to_string()).increment(1),
        Happening::OutcomeUnknown { tool, .. } => {
            counter!(OUTCOMES_UNKNOWN, "integration" => tool.server.to_string()).increment(1);
        }
        Happening::OutcomeJudged { happened, .. } => {
            let said = if *happened { "happened" } else { "did-not-happen" };
            counter!(OUTCOMES_JUDGED, "verdict" => said).increment(1);
        }
        Happening::Replayed { .. } => counter!(REPLAYS, "result" => "released").increment(1),
        Happening::Cancelled { agent, task_type, .. } => outcome(agent, task_type, "cancelled"),
        Happening::BreakerChanged { integration, to, .. } => {
            counter!(BREAKER_TRANSITIONS, "integration" => integration.to_string(), "to" => to.clone()).increment(1);
        }
        Happening::GateClosed { integration, .. } => {
            counter!(GATES_CLOSED, "integration" => integration.to_string()).increment(1);
        }
        Happening::ProbeSent { integration, .. } => {
            counter!(PROBES, "integration" => integration.to_string()).increment(1);
        }
        Happening::AgentStarted { agent, incarnation } => {
            let restarts = u64::from(incarnation.0 > 1);
            counter!(AGENT_RESTARTS, "agent" => agent.to_string()).increment(restarts);
        }
        Happening::CrashLoop { agent, .. } => {
            counter!(AGENT_CRASH_LOOPS, "agent" => agent.to_string()).increment(1);
        }
        Happening::PageDelivered { channel, .. } => {
            counter!(PAGES, "channel" => channel.clone(), "result" => "delivered").increment(1);
        }
        Happening::PageFailed { channel, .. } => {
            counter!(PAGES, "channel" => channel.clone(), "result" => "failed").increment(1);
        }
        Happening::Claimed { .. }
        | Happening::Parked { .. }
        | Happening::AgentDied { .. }
        | Happening::IncidentOpened { .. }
        | Happening::IncidentUpdated { .. }
        | Happening::IncidentAcknowledged { .. }
        | Happening::IncidentOverridden { .. }
        | Happening::IncidentResolved { .. }
        | Happening::ReplayChanged { .. }
        | Happening::TeamStarted { .. }
        | Happening::Draining { .. }
        | Happening::Pruned { .. } => {}
    }
}

fn outcome(agent: &AgentName, task_type: &TaskType, outcome: &'static str) {
    let (agent, task_type) = (agent.to_string(), task_type.to_string());
    counter!(TASKS, "agent" => agent, "task_type" => task_type, "outcome" => outcome).increment(1);
}

fn attempt(agent: &AgentName, task_type: &TaskType, class: &'static str, result: &'static str) {
    let (agent, task_type) = (agent.to_string(), task_type.to_string());
    counter!(ATTEMPTS, "agent" => agent, "task_type" => task_type, "class" => class, "result" => result).increment(1);
}

fn tokens(model: Option<ModelRef>, usage: Usage) {
    let (provider, model) = model_labels(model);
    for (direction, count) in [
        ("input", usage.input),
        ("output", usage.output),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
    ] {
        if count > 0 {
            let (provider, model) = (provider.clone(), model.clone());
            counter!(LLM_TOKENS, "provider" => provider, "model" => model, "direction" => direction).increment(count);
        }
    }
}

/// Given up without a delivery: there is no attempt to count.
const fn unworked(kind: Kind) -> bool {
    matches!(kind, Kind::ParkedTooLong | Kind::NoAgent | Kind::Deadline)
}

fn model_labels(model: Option<ModelRef>) -> (String, String) {
    let unknown = || "unknown".to_owned();
    model.map_or_else(|| (unknown(), unknown()), |model| (model.provider.to_string(), model.model))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "whatever else happens costs nothing")]
fn cost(what: &Happening) -> Option<(Option<ModelRef>, u64, bool)> {
    match what {
        Happening::Done { model, micro_usd: Some(spent), .. } => Some((model.clone(), *spent, false)),
        Happening::RetryScheduled { model, micro_usd: Some(spent), .. }
        | Happening::Released { model, micro_usd: Some(spent), .. }
        | Happening::DeadLettered { model, micro_usd: Some(spent), .. } => Some((model.clone(), *spent, true)),
        _ => None,
    }
}

/// A task's id holds the millisecond it was accepted in (RFC 9562).
fn accepted_at(id: TaskId) -> Timestamp {
    Timestamp::from_millis(i64::try_from(id.uuid().as_u128() >> 80).unwrap_or(0))
}

/// What the gauges say, read at once.
struct Facts {
    depths: Vec<(AgentName, State, u64)>,
    agents: Vec<(AgentName, bool)>,
    breakers: Vec<(String, String, u64)>,
    letters: BTreeMap<Class, u64>,
    oldest: Option<Duration>,
    incidents_open: usize,
    lost: u64,
    seq: u64,
}

async fn gather(desk: &Desk) -> Result<Facts, DeskError> {
    let engine = desk.engine();
    let depths = engine.depths().await?.into_iter().map(|depth| (depth.agent, depth.state, depth.tasks)).collect();
    let agents = desk.agents().await?.into_iter().map(|agent| (agent.name, is_up(agent.state))).collect();
    let breakers = desk.breakers().await?.into_iter();
    let breakers = breakers.map(|b| (b.integration.to_string(), b.state, b.parked)).collect();
    let incidents = desk.incidents().await?;
    let (letters, oldest) = open_letters(desk).await?;
    Ok(Facts {
        depths,
        agents,
        breakers,
        letters,
        oldest,
        incidents_open: incidents.iter().filter(|incident| incident.state != IncidentState::Resolved).count(),
        lost: engine.balance().await?.lost(),
        seq: *engine.watch().borrow(),
    })
}

/// Undecided letters by class, at most 10,000 of them: a gauge of ten thousand says the same as one of twenty.
async fn open_letters(desk: &Desk) -> Result<(BTreeMap<Class, u64>, Option<Duration>), engine::Error> {
    let status = vec![LetterStatus::Open, LetterStatus::WithHuman];
    let filter = Filter { status, ..Filter::default() };
    let mut page = PageAsk { after: None, limit: 1_000, oldest_first: true };
    let mut classes: BTreeMap<Class, u64> = Class::ALL.iter().map(|class| (*class, 0)).collect();
    let mut oldest = None;
    for _ in 0..10 {
        let got = desk.engine().dead_letters(filter.clone(), page.clone()).await?;
        for letter in got.items.iter().filter_map(|record| record.letter.as_ref()) {
            *classes.entry(letter.failure.class).or_default() += 1;
            let age = desk.now().since(letter.at);
            oldest = oldest.max(Some(age));
        }
        page.after = got.next;
        if page.after.is_none() {
            break;
        }
    }
    Ok((classes, oldest))
}

const fn is_up(state: AgentState) -> bool {
    match state {
        AgentState::Healthy | AgentState::Busy | AgentState::Draining => true,
        AgentState::Restarting | AgentState::CrashLoop | AgentState::Wedged => false,
    }
}

fn gauges(facts: &Facts) {
    // What the store no longer mentions is zero, not what it was.
    for (agent, up) in &facts.agents {
        for state in State::ALL {
            gauge!(QUEUE_DEPTH, "agent" => agent.to_string(), "state" => state.as_str()).set(0.0);
        }
        gauge!(RETRIES_SCHEDULED, "agent" => agent.to_string()).set(0.0);
        gauge!(AGENT_UP, "agent" => agent.to_string()).set(f64::from(u8::from(*up)));
    }
    for (agent, state, tasks) in &facts.depths {
        gauge!(QUEUE_DEPTH, "agent" => agent.to_string(), "state" => state.as_str()).set(*tasks as f64);
        if *state == State::Scheduled {
            gauge!(RETRIES_SCHEDULED, "agent" => agent.to_string()).set(*tasks as f64);
        }
    }
    for (integration, state, parked) in &facts.breakers {
        for word in BREAKER_STATES {
            let is = f64::from(u8::from(word == state));
            gauge!(BREAKER_STATE, "integration" => integration.clone(), "state" => word).set(is);
        }
        gauge!(PARKED, "integration" => integration.clone()).set(*parked as f64);
    }
    for (class, letters) in &facts.letters {
        gauge!(DLQ_DEPTH, "class" => class.as_str()).set(*letters as f64);
    }
    gauge!(DLQ_OLDEST_AGE).set(facts.oldest.unwrap_or_default().as_secs_f64());
    gauge!(INCIDENTS_OPEN).set(facts.incidents_open as f64);
    gauge!(LOST).set(facts.lost as f64);
    gauge!(EVENT_SEQ).set(facts.seq as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_and_are_used_once() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        for metric in ALL {
            assert!(metric.name.starts_with("backstop_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == MetricKind::Counter, "{}", metric.name);
            assert!(metric.labels.iter().all(|label| !label.contains("id") || *label == "provider"), "{metric:?}");
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
        assert!(ALL.len() >= 25, "{} metrics", ALL.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn events_become_counts() {
        let metrics = Metrics::new();
        let id = TaskId::new(Timestamp::from_millis(1_000), [1; 10]);
        let agent: AgentName = "cto".parse().expect("a name");
        let task_type: TaskType = "code_review".parse().expect("a name");
        let done = Happening::Done {
            agent: agent.clone(),
            task_type: task_type.clone(),
            attempt: 1,
            generation: 1,
            model: Some("anthropic/claude".parse().expect("a model")),
            usage: Usage { input: 10, output: 5, cache_read: 0, cache_write: 0 },
            micro_usd: Some(1_500_000),
        };
        metrics.record(&Event { seq: 1, at: Timestamp::from_millis(3_000), task: Some(id), what: done.clone() });
        metrics.record(&Event { seq: 2, at: Timestamp::from_millis(4_000), task: Some(id), what: done });
        let text = metrics.handle.render();
        for line in [
            "backstop_tasks_total{agent=\"cto\",task_type=\"code_review\",outcome=\"done\"} 2",
            "backstop_llm_tokens_total{provider=\"anthropic\",model=\"claude\",direction=\"input\"} 20",
            "backstop_task_duration_seconds_sum{agent=\"cto\",task_type=\"code_review\"} 5",
            "backstop_task_duration_seconds_bucket{agent=\"cto\",task_type=\"code_review\",le=\"5\"} 2",
            "# TYPE backstop_tasks_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(metrics.micro_usd.lock().expect("a lock").values().sum::<u64>(), 3_000_000);
    }
}
