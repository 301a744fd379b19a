//! What happened, as the append-only feed tells it: every change of state, with a number and a time.
//!
//! Screens, the SSE stream, metrics and the demo are readers of this feed and of nothing else.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::{Incarnation, ModelRef};
use crate::cause::Usage;
use crate::decision::Decided;
use crate::delivery::Hold;
use crate::failure::Failure;
use crate::task::{AgentName, Effect, Integration, Priority, TaskId, TaskType};
use crate::time::{self, Timestamp};
use crate::tool::ToolRef;

/// An event as stored: numbered in the order of commitment, without gaps but for those that are forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; the `id` of its SSE message.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The task it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened. The tag `event` is a stable, kebab-case name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the nouns their types define")]
pub enum Happening {
    /// A task was accepted.
    Submitted { agent: AgentName, task_type: TaskType, effect: Effect, priority: Priority },
    /// A delivery was claimed.
    Claimed {
        agent: AgentName,
        incarnation: Incarnation,
        task_type: TaskType,
        attempt: u32,
        generation: u32,
        fence: u64,
    },
    /// The task is done.
    Done {
        agent: AgentName,
        task_type: TaskType,
        attempt: u32,
        generation: u32,
        model: Option<ModelRef>,
        usage: Usage,
        micro_usd: Option<u64>,
    },
    /// A delivery failed and another is scheduled.
    RetryScheduled {
        agent: AgentName,
        task_type: TaskType,
        attempt: u32,
        due: Timestamp,
        failure: Box<Failure>,
        amended: bool,
        model: Option<ModelRef>,
        usage: Usage,
        micro_usd: Option<u64>,
    },
    /// A delivery goes on where an earlier one stopped: what was paid for is not asked again.
    Resumed {
        agent: AgentName,
        task_type: TaskType,
        model: ModelRef,
        /// Steps that are kept.
        steps: u32,
        /// Tokens that need not be paid again.
        usage: Usage,
        /// Their price in millionths of a US dollar, if it is known for all of them.
        micro_usd: Option<u64>,
    },
    /// A conversation was shortened so that it fits a model.
    Compacted { agent: AgentName, task_type: TaskType, model: ModelRef, results: u32, before: u64, after: u64 },
    /// Nobody knows whether a call of a tool happened.
    OutcomeUnknown { agent: AgentName, task_type: TaskType, step: u32, tool: ToolRef, why: String },
    /// A probe, or a person, found out whether a call happened.
    OutcomeJudged { agent: AgentName, task_type: TaskType, step: u32, happened: bool, by: String, note: String },
    /// A task waits without spending a delivery.
    Parked { agent: AgentName, task_type: TaskType, why: Hold, integration: Option<Integration>, until: Timestamp },
    /// A delivery was given back; its attempt does not count.
    Released {
        agent: AgentName,
        task_type: TaskType,
        why: Hold,
        due: Timestamp,
        model: Option<ModelRef>,
        usage: Usage,
        micro_usd: Option<u64>,
    },
    /// A task was given up on.
    DeadLettered {
        agent: AgentName,
        task_type: TaskType,
        generation: u32,
        attempts: u32,
        failure: Box<Failure>,
        why: String,
        model: Option<ModelRef>,
        usage: Usage,
        micro_usd: Option<u64>,
    },
    /// Somebody decided about a dead letter.
    Decided {
        agent: AgentName,
        task_type: TaskType,
        // Not flattened: a decision has an `agent` and a time of its own.
        decided: Box<Decided>,
    },
    /// A dead letter was sent round again by a person or a replay.
    Replayed { agent: AgentName, task_type: TaskType, generation: u32, by: String, reason: String },
    /// A person cancelled the task.
    Cancelled { agent: AgentName, task_type: TaskType, by: String, reason: String },
    /// An integration's breaker or gate changed.
    BreakerChanged { integration: Integration, from: String, to: String, until: Option<Timestamp>, why: String },
    /// An integration asked for silence until a time, and the whole team honours it.
    GateClosed { integration: Integration, until: Timestamp, asked: String },
    /// A half-open breaker let one call through to see.
    ProbeSent { integration: Integration, agent: AgentName },
    /// An agent's actor started.
    AgentStarted { agent: AgentName, incarnation: Incarnation },
    /// An agent's actor died.
    AgentDied {
        agent: AgentName,
        incarnation: Incarnation,
        how: String,
        detail: String,
        #[serde(with = "time::seconds")]
        restart_in: Duration,
    },
    /// An agent died too often in a row: the others go on.
    CrashLoop { agent: AgentName, deaths: u32 },
    /// An incident opened.
    IncidentOpened { incident: String, summary: String },
    /// An incident grew.
    IncidentUpdated { incident: String, dead_letters: u32 },
    /// A person took an incident on.
    IncidentAcknowledged { incident: String, by: String },
    /// A person decided for all of an incident's tasks.
    IncidentOverridden { incident: String, by: String, decision: String, tasks: u32 },
    /// An incident is over.
    IncidentResolved { incident: String, by: String },
    /// A page reached a channel.
    PageDelivered {
        incident: String,
        channel: String,
        to: String,
        again: bool,
        /// What it does there: trigger, update, acknowledge, resolve.
        #[serde(default)]
        action: String,
    },
    /// A page did not reach a channel and will be tried again.
    PageFailed { incident: String, channel: String, error: String, next: Option<Timestamp> },
    /// A replay changed its state.
    ReplayChanged { replay: String, state: String, released: u32, total: u32 },
    /// The team started or resumed.
    TeamStarted { epoch: u64, agents: u32, open_tasks: u64 },
    /// The team began to drain.
    Draining { running: u32 },
    /// What ended long ago was forgotten.
    Pruned {
        done: u64,
        dead: u64,
        cancelled: u64,
        #[serde(default)]
        incidents: u64,
        #[serde(default)]
        replays: u64,
        events: u64,
        by: String,
    },
}

impl Happening {
    /// Does its task wait or run after this, so that nobody who waits for its end need look?
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        match self {
            Self::Submitted { .. }
            | Self::Claimed { .. }
            | Self::RetryScheduled { .. }
            | Self::Resumed { .. }
            | Self::Compacted { .. }
            | Self::Parked { .. }
            | Self::Released { .. }
            | Self::Replayed { .. } => true,
            Self::Done { .. }
            | Self::OutcomeUnknown { .. }
            | Self::OutcomeJudged { .. }
            | Self::DeadLettered { .. }
            | Self::Decided { .. }
            | Self::Cancelled { .. }
            | Self::BreakerChanged { .. }
            | Self::GateClosed { .. }
            | Self::ProbeSent { .. }
            | Self::AgentStarted { .. }
            | Self::AgentDied { .. }
            | Self::CrashLoop { .. }
            | Self::IncidentOpened { .. }
            | Self::IncidentUpdated { .. }
            | Self::IncidentAcknowledged { .. }
            | Self::IncidentOverridden { .. }
            | Self::IncidentResolved { .. }
            | Self::PageDelivered { .. }
            | Self::PageFailed { .. }
            | Self::ReplayChanged { .. }
            | Self::TeamStarted { .. }
            | Self::Draining { .. }
            | Self::Pruned { .. } => false,
        }
    }
}

/// What is appended together with a change of state; the engine adds number and time.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The task it is about, if it is about one.
    pub task: Option<TaskId>,
    /// What happened.
    pub what: Happening,
}

impl From<Happening> for NewEvent {
    fn from(what: Happening) -> Self {
        Self { task: None, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{DeciderKind, Decision};

    #[test]
    fn a_decision_reads_back_with_both_agents() {
        let agent = |name| AgentName::new(name).expect("a name");
        let at = Timestamp::from_millis(1_000);
        let decided = Decided {
            number: 1,
            generation: 2,
            decision: Decision::Reassign { agent: agent("backend"), amendment: "again".to_owned() },
            by: DeciderKind::Table,
            who: None,
            at,
            reasons: Vec::new(),
            rejected: Vec::new(),
        };
        let what = Happening::Decided {
            agent: agent("cto"),
            task_type: TaskType::new("code_review").expect("a name"),
            decided: Box::new(decided),
        };
        let event = Event { seq: 7, at, task: None, what };
        let json = serde_json::to_string(&event).expect("json");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("the same"), event, "{json}");
    }
}
