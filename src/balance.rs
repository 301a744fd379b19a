//! The equation of the promise: every accepted task stands somewhere, and none is missing.

use serde::{Deserialize, Serialize};

use crate::record::State;

/// How many accepted tasks stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Accepted, ever.
    pub submitted: u64,
    /// Ready, scheduled or parked.
    pub waiting: u64,
    /// Leased.
    pub running: u64,
    /// Parked among the waiting.
    pub parked: u64,
    /// Scheduled among the waiting.
    pub retrying: u64,
    /// Done.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// With a person.
    pub waiting_human: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Ended long ago and forgotten since: see [`crate::retention`].
    #[serde(default)]
    pub pruned: u64,
}

impl Balance {
    /// Accepted tasks that are nowhere: zero, or the promise is broken.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let ended = self.done + self.dead + self.cancelled + self.pruned;
        self.submitted.saturating_sub(self.waiting + self.running + self.waiting_human + ended)
    }

    /// Counts so many that have ended and are forgotten.
    pub const fn add_pruned(&mut self, tasks: u64) {
        self.submitted += tasks;
        self.pruned += tasks;
    }

    /// Has everything come to an end or to a person?
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    /// Counts one record.
    pub fn add(&mut self, state: State) {
        self.add_many(state, 1);
    }

    /// Counts so many records in one state.
    pub fn add_many(&mut self, state: State, records: u64) {
        // Counts are read from rows, and those may be damaged.
        let count = |counts: &mut u64| *counts = counts.saturating_add(records);
        count(&mut self.submitted);
        match state {
            State::Ready => count(&mut self.waiting),
            State::Scheduled => {
                count(&mut self.waiting);
                count(&mut self.retrying);
            }
            State::Parked => {
                count(&mut self.waiting);
                count(&mut self.parked);
            }
            State::Running => count(&mut self.running),
            State::Done => count(&mut self.done),
            State::Dead => count(&mut self.dead),
            State::WaitingHuman => count(&mut self.waiting_human),
            State::Cancelled => count(&mut self.cancelled),
        }
    }
}
