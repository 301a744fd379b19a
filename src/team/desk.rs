//! Everything an operator can ask of a running team: what the HTTP API, the CLI and the demo call.
#![allow(clippy::unimplemented, unused_variables, reason = "signatures only")]

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Incarnation, ModelRef};
use crate::config::Config;
use crate::engine::{self, Engine, Submitted};
use crate::incident::Incident;
use crate::ledger::Record;
use crate::replay::{Plan, Replay, ReplayAsk};
use crate::retry::RetryPolicy;
use crate::task::{AgentName, Effect, IdempotencyKey, Integration, Priority, TaskError, TaskId, TaskType, words};
use crate::time::Timestamp;
use crate::triage::Decision;

/// A task as somebody asks for it. What is left out is filled in from the task type's declaration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// Its type.
    #[serde(rename = "type")]
    pub task_type: TaskType,
    /// The input.
    #[serde(default)]
    pub payload: Value,
    /// To whom; the least loaded agent that handles the type when left out.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// What doing it does to the world.
    #[serde(default)]
    pub effect: Option<Effect>,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// The caller's name for it.
    #[serde(default)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// When an answer is of no use any more.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// On whose behalf.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Which prompt renders it.
    #[serde(default)]
    pub prompt: Option<String>,
}

/// Why an operator's request was not carried out. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// The request itself is wrong; every field that is, with what to do.
    #[error("{}", .0.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldProblem>),
    /// Nothing of that name.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Policy stands against it (payments, empty filters).
    #[error("{0}")]
    Policy(String),
    /// The team is draining and takes no more.
    #[error("the team is draining; submit again once it is back")]
    Draining,
    /// A name or word is wrong.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The store.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldProblem {
    /// JSON pointer, such as `/payload/title`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

words! {
    /// How an agent is.
    AgentState, "agent state", "healthy, busy, restarting, crash-loop, wedged, draining" {
        /// Up, with free slots.
        Healthy = "healthy",
        /// Up, all slots taken.
        Busy = "busy",
        /// Down, and coming back.
        Restarting = "restarting",
        /// Down too often in a row; its work goes to others.
        CrashLoop = "crash-loop",
        /// Alive but silent.
        Wedged = "wedged",
        /// Finishing, taking no more.
        Draining = "draining",
    }
}

/// An agent, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// What it is for.
    pub description: String,
    /// How it is.
    pub state: AgentState,
    /// Since when.
    pub since: Timestamp,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Deaths in a row without a healthy spell.
    pub deaths: u32,
    /// What killed it last.
    pub last_death: Option<String>,
    /// The model it asks.
    pub model: ModelRef,
    /// Its fallback models.
    pub fallback_models: Vec<ModelRef>,
    /// What it handles.
    pub handles: Vec<String>,
    /// For whom it stands in.
    pub covers_for: Vec<AgentName>,
    /// How many tasks it may work on at once.
    pub slots: u32,
    /// What it works on now.
    pub running: Vec<TaskId>,
    /// How many wait for it.
    pub waiting: u64,
    /// How many of its tasks are dead or with a human.
    pub dead: u64,
}

/// An integration, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerView {
    /// Which.
    pub integration: Integration,
    /// `closed`, `open`, `half-open`, `forced-open`.
    pub state: String,
    /// Until when it is open, or its gate closed.
    pub until: Option<Timestamp>,
    /// Failures that count, in the window.
    pub failures: u32,
    /// How many open it.
    pub threshold: u32,
    /// Is its gate closed (Retry-After)?
    pub gate_closed: bool,
    /// How many tasks wait for it.
    pub parked: u64,
    /// Why it is as it is.
    pub why: String,
}

/// Which policy applies, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Of what.
    pub subject: String,
    /// What applies.
    pub policy: RetryPolicy,
    /// Who set it, such as `task type code_review`.
    pub winner: String,
    /// Every level, strongest first: its name and what it says (none: nothing).
    pub levels: Vec<(String, Option<String>)>,
    /// Its effect, and what that means for retries.
    pub effect: String,
    /// The waits, without jitter, in seconds.
    pub waits_s: Vec<f64>,
    /// For a task: what happened and which rule decided, line by line.
    pub story: Vec<String>,
}

/// What `page test` saw on one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageTest {
    /// Which channel, of whom.
    pub channel: String,
    /// Did it take the page?
    pub delivered: bool,
    /// What it said.
    pub detail: String,
}

/// Is the team ready to take work?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readiness {
    /// Is it?
    pub ready: bool,
    /// Each check: name, passed, detail.
    pub checks: Vec<(String, bool, String)>,
}

/// The operator's view of a running team. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    office: Arc<()>,
}

impl Desk {
    /// The durable record, for reading.
    pub fn engine(&self) -> &dyn Engine {
        unimplemented!()
    }
    /// The configuration in force.
    pub fn config(&self) -> &Config {
        unimplemented!()
    }
    /// The team's clock.
    pub fn now(&self) -> Timestamp {
        unimplemented!()
    }
    /// Accepts a task.
    pub async fn submit(&self, ask: NewTask) -> Result<Submitted, DeskError> {
        unimplemented!()
    }
    /// Cancels a task that has not ended.
    pub async fn cancel(&self, id: TaskId, by: &str, reason: &str) -> Result<Record, DeskError> {
        unimplemented!()
    }
    /// A person's decision about a dead letter.
    pub async fn decide(&self, id: TaskId, decision: Decision, by: &str, reason: &str) -> Result<Record, DeskError> {
        unimplemented!()
    }
    /// Every agent, by name.
    pub async fn agents(&self) -> Result<Vec<AgentView>, DeskError> {
        unimplemented!()
    }
    /// Every integration, by name.
    pub async fn breakers(&self) -> Result<Vec<BreakerView>, DeskError> {
        unimplemented!()
    }
    /// Forces a breaker open, until it is closed by hand or `span` has passed.
    pub async fn open_breaker(
        &self,
        integration: &Integration,
        span: Option<Duration>,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        unimplemented!()
    }
    /// Closes a breaker and forgets its failures.
    pub async fn close_breaker(
        &self,
        integration: &Integration,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        unimplemented!()
    }
    /// Every incident, newest first.
    pub async fn incidents(&self) -> Result<Vec<Incident>, DeskError> {
        unimplemented!()
    }
    /// Takes an incident on.
    pub async fn acknowledge(&self, incident: &str, by: &str, note: &str) -> Result<Incident, DeskError> {
        unimplemented!()
    }
    /// Decides for every undecided task of an incident; the tasks it was applied to, and those that refused it with why.
    pub async fn override_incident(
        &self,
        incident: &str,
        decision: Decision,
        by: &str,
        note: &str,
    ) -> Result<Overridden, DeskError> {
        unimplemented!()
    }
    /// Ends an incident.
    pub async fn resolve(&self, incident: &str, by: &str, note: &str) -> Result<Incident, DeskError> {
        unimplemented!()
    }
    /// What a replay would do; changes nothing.
    pub async fn plan_replay(&self, ask: &ReplayAsk) -> Result<Plan, DeskError> {
        unimplemented!()
    }
    /// Starts a replay.
    pub async fn start_replay(&self, ask: ReplayAsk) -> Result<Replay, DeskError> {
        unimplemented!()
    }
    /// Every replay, newest first.
    pub async fn replays(&self) -> Result<Vec<Replay>, DeskError> {
        unimplemented!()
    }
    /// Holds a running replay.
    pub async fn pause_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        unimplemented!()
    }
    /// Lets a paused replay go on.
    pub async fn resume_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        unimplemented!()
    }
    /// Ends a replay; what was not released stays in the queue.
    pub async fn cancel_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        unimplemented!()
    }
    /// Which policy applies to a task type (and agent), and why.
    pub fn explain_type(&self, task_type: &TaskType, agent: Option<&AgentName>) -> Result<Explanation, DeskError> {
        unimplemented!()
    }
    /// Which policy applies to a task, and what happened to it by which rule.
    pub async fn explain_task(&self, id: TaskId) -> Result<Explanation, DeskError> {
        unimplemented!()
    }
    /// Sends a test page through every channel (or the named one) at once and resolves it.
    pub async fn page_test(&self, channel: Option<&str>, by: &str) -> Result<Vec<PageTest>, DeskError> {
        unimplemented!()
    }
    /// Is the team ready to take work?
    pub async fn readiness(&self) -> Readiness {
        unimplemented!()
    }
}

/// What an override did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overridden {
    /// The incident as it is now.
    pub incident: Incident,
    /// Tasks the decision was applied to.
    pub decided: Vec<TaskId>,
    /// Tasks that refused it, and why.
    pub refused: Vec<(TaskId, String)>,
}
