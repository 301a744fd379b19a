//! What can be asked of the record of all work: filters, pages and counts.

use serde::{Deserialize, Serialize};

use crate::failure::{Class, Kind};
use crate::ledger::{LetterStatus, State};
use crate::task::{AgentName, Effect, Integration, Priority, TaskId, TaskType};
use crate::time::Timestamp;

/// Which tasks or dead letters. All given must hold; an empty filter matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Standing in one of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// Whose turn it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Of this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub task_type: Option<TaskType>,
    /// That failed with this class, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// That failed with this kind, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Whose next (or failed) call goes to this integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integration: Option<Integration>,
    /// With this effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// With this priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Whose dead letter stands in one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<LetterStatus>,
    /// Accepted (tasks) or given up (dead letters) at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Accepted (tasks) or given up (dead letters) before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whose failure message holds this text, ignoring case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Exactly these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskId>,
}

/// A page of a listing: where to go on, and how many. Keyset paging: stable under writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageAsk {
    /// The cursor of the page before; none for the first.
    pub after: Option<String>,
    /// How many; at most 1,000.
    pub limit: u32,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
}

impl Default for PageAsk {
    fn default() -> Self {
        Self { after: None, limit: 50, oldest_first: false }
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// Where the next one begins; none when this is the last.
    pub next: Option<String>,
}

/// A task given up on, once for each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// Which task.
    pub task: TaskId,
    /// In which round.
    pub generation: u32,
    /// When.
    pub at: Timestamp,
    /// On whose hands.
    pub agent: AgentName,
    /// Of which type.
    pub task_type: TaskType,
    /// Of which class.
    pub class: Class,
    /// Of which kind.
    pub kind: Kind,
    /// Through which integration, if one is known.
    pub integration: Option<Integration>,
}

/// Failures of deliveries, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureRate {
    /// Whose.
    pub agent: AgentName,
    /// Of which type of task.
    pub task_type: TaskType,
    /// Of which class.
    pub class: Class,
    /// How many.
    pub failures: u64,
}

/// Tasks of one agent in one state, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// Whose turn it is.
    pub agent: AgentName,
    /// Where they stand.
    pub state: State,
    /// How many.
    pub tasks: u64,
}
