//! What an operator sees of a running team, and what they hand in: plain data, the bodies of the HTTP API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Incarnation, ModelRef};
use crate::engine;
use crate::incident::Incident;
use crate::retry::RetryPolicy;
use crate::task::{AgentName, Effect, IdempotencyKey, Integration, Priority, TaskError, TaskId, TaskType, words};
use crate::time::Timestamp;

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

impl NewTask {
    /// A task of this type with this input, everything else as its type declares it.
    #[must_use]
    pub const fn new(task_type: TaskType, payload: Value) -> Self {
        Self {
            task_type,
            payload,
            agent: None,
            effect: None,
            priority: None,
            idempotency_key: None,
            deadline: None,
            tenant: None,
            prompt: None,
        }
    }
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
    /// How many calls may be out at once while its gate opens step by step; none while it is closed or stands open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<u32>,
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
