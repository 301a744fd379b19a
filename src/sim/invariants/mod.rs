//! What must hold of every run, computed from what the world saw and not from what the product counts.
//!
//! The books of a run ([`crate::sim::play::books`]) are kept by the stand-ins for models, tools, channels and clients.
//! Each check below holds them against the feed, the way the column `check` of `tests/invariants.toml` says:
//!
//! | Id | Held against | Where |
//! |---|---|---|
//! | I-01 I-02 I-27 I-31 | the client's ledger against the records | `tasks` |
//! | I-03 I-04 I-05 I-17 I-18 I-19 I-32 | calls of models against claims and ends in the feed | `tasks` |
//! | I-06 I-07 | the shop's books against what people allowed | `effects` |
//! | I-08 I-09 I-10 | the chain of decisions against the team's definitions | `decisions` |
//! | I-11 I-12 | the inboxes against a reference model of the window | `pages` |
//! | I-13 I-14 I-15 I-16 | calls of each provider against transitions, hints, first tries and prices | `calls` |
//! | I-29 I-33 | deaths and starts of agents against what was struck | `agents` |
//! | I-30 | everything that is told against planted secrets | `secrets` |
//! | I-34 | the same seed twice, and the states that must be reached | `crate::sim::fuzz` |
//!
//! [`NOT_HERE`] lists the others, and which tests hold them.

mod agents;
mod calls;
mod case;
mod decisions;
mod effects;
mod pages;
mod secrets;
mod tasks;

use std::fmt;

use self::case::Case;
use super::play::Run;
use crate::definitions::LoadedScenario;
use crate::task::TaskId;
use crate::time::Timestamp;

/// The ids that are checked of every run.
pub const HERE: &[&str] = &[
    "I-01", "I-02", "I-03", "I-04", "I-05", "I-06", "I-07", "I-08", "I-09", "I-10", "I-11", "I-12", "I-13", "I-14",
    "I-15", "I-16", "I-17", "I-18", "I-19", "I-27", "I-29", "I-30", "I-31", "I-32", "I-33", "I-34",
];

/// The ids that a simulated run in one process cannot show: why, and which tests show them instead.
pub const NOT_HERE: &[(&str, &str, &str)] = &[
    (
        "I-20",
        "a share of dispatches needs a queue that is never empty, which a drawn run seldom has",
        "tests/priority.rs",
    ),
    ("I-21", "recovery of bytes is the embedded engine's, and a run keeps its record in memory", "tests/engine.rs"),
    (
        "I-22",
        "torn and un-synced writes are the embedded engine's; the restarts of a run are held by I-01",
        "tests/engine.rs",
    ),
    ("I-23", "nobody looks at a dashboard in a run", "tests/dlq_replay.rs"),
    ("I-24", "nobody replays in a run", "tests/dlq_replay.rs"),
    ("I-25", "there are no workflows yet, so nothing is compensated", "none until there are"),
    ("I-26", "there are no approvals yet, so nothing is gated", "none until there are"),
    ("I-28", "limits of memory and disk are the process's", "tests/abuse/mod.rs"),
];

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub id: &'static str,
    /// What is wrong, in a sentence.
    pub text: String,
    /// Of which task, if it is of one.
    pub task: Option<TaskId>,
    /// When, by the team's clock, if it is at a moment.
    pub at: Option<Timestamp>,
    /// What was seen.
    pub evidence: String,
}

impl Violation {
    /// One of a run as a whole.
    #[must_use]
    pub fn of_run(id: &'static str, text: impl Into<String>, evidence: String) -> Self {
        Self { id, text: text.into(), task: None, at: None, evidence }
    }

    fn of_task(
        id: &'static str,
        task: TaskId,
        at: Option<Timestamp>,
        text: impl Into<String>,
        evidence: String,
    ) -> Self {
        Self { id, text: text.into(), task: Some(task), at, evidence }
    }

    fn at(id: &'static str, at: Timestamp, text: impl Into<String>, evidence: String) -> Self {
        Self { id, text: text.into(), task: None, at: Some(at), evidence }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.text)?;
        if let Some(task) = self.task {
            write!(f, "; task {task}")?;
        }
        if let Some(at) = self.at {
            write!(f, " at {at}")?;
        }
        if self.evidence.is_empty() { Ok(()) } else { write!(f, "\n  seen: {}", self.evidence) }
    }
}

/// Everything that does not hold of a run, in the order of the table above. Prompts must have been kept.
#[must_use]
pub fn check(loaded: &LoadedScenario, run: &Run) -> Vec<Violation> {
    let case = Case::of(loaded, run);
    let mut found = Vec::new();
    tasks::check(&case, &mut found);
    effects::check(&case, &mut found);
    decisions::check(&case, &mut found);
    pages::check(&case, &mut found);
    calls::check(&case, &mut found);
    agents::check(&case, &mut found);
    secrets::check(&case, &mut found);
    found
}
