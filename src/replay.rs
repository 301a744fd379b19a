//! Sending dead letters round again: selected, slowly, oldest first, and stopped by itself when it does not help.

use serde::{Deserialize, Serialize};

use crate::query::Filter;
use crate::task::{TaskId, words};
use crate::time::Timestamp;

/// What somebody wants replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayAsk {
    /// Which dead letters. An empty filter is refused without `all`.
    #[serde(default)]
    pub filter: Filter,
    /// Every open dead letter is meant.
    #[serde(default)]
    pub all: bool,
    /// How many a second (seed A: 10).
    #[serde(default = "ten")]
    pub rate: f64,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Payments named one by one by `by`, a person; others are left for a person.
    #[serde(default)]
    pub payments: Vec<TaskId>,
    /// Words added to every prompt.
    #[serde(default)]
    pub amendment: Option<String>,
}

const fn ten() -> f64 {
    10.0
}

words! {
    /// What would become of one dead letter in a replay.
    Verdict, "verdict", "replay, needs-person, no-agent, resolved, replays-used-up, already-replaying" {
        /// It would be sent again.
        Replay = "replay",
        /// A payment: a person must name it.
        NeedsPerson = "needs-person",
        /// No agent can do it any more.
        NoAgent = "no-agent",
        /// It is resolved, discarded or running again already.
        Resolved = "resolved",
        /// Replayed as often as it may be.
        ReplaysUsedUp = "replays-used-up",
        /// Another replay has it.
        AlreadyReplaying = "already-replaying",
    }
}

/// What a replay would do, letter by letter, oldest first. Making one changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Each letter and its fate.
    pub entries: Vec<(TaskId, Verdict)>,
}

words! {
    /// Where a replay stands.
    ReplayState, "replay state", "running, paused, finished, cancelled, aborted" {
        /// Releasing letters at its rate.
        Running = "running",
        /// Held by a person.
        Paused = "paused",
        /// All released, all results in.
        Finished = "finished",
        /// Ended by a person; what was not released stays.
        Cancelled = "cancelled",
        /// Ended by itself: too many failed again.
        Aborted = "aborted",
    }
}

/// A replay, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Its name, such as `RPL-1`.
    pub id: String,
    /// Where it stands.
    pub state: ReplayState,
    /// What was asked.
    pub ask: ReplayAsk,
    /// When it was started.
    pub started_at: Timestamp,
    /// When the next letter may be released.
    pub next_at: Timestamp,
    /// Letters not yet released, oldest first.
    pub pending: Vec<TaskId>,
    /// Letters released whose result is not in: with the round each was released into.
    pub released: Vec<(TaskId, u32)>,
    /// Letters that ended well, in the order of their results.
    pub succeeded: Vec<TaskId>,
    /// Letters that failed again.
    pub failed: Vec<TaskId>,
    /// Letters left out, and why.
    pub left_out: Vec<(TaskId, Verdict)>,
    /// Results in the order they came (`true` = it failed again): what the abort rule reads.
    pub results: Vec<bool>,
    /// Why it is paused or ended, in words.
    #[serde(default)]
    pub note: String,
}
