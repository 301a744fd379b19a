//! The record of a task: what was asked, where it stands, and all that has happened to it.
//!
//! What can be read off it is answered here; what changes it is `ledger.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::absence::Absences;
use crate::agent::ModelRef;
use crate::dead_letter::Circumstances;
use crate::decision::Decided;
use crate::delivery::{Amendment, Attempt, AttemptEnd, Hold, Lease, Parking};
use crate::failure::{Failure, Kind};
use crate::task::{AgentName, Integration, Task, words};
use crate::time::Timestamp;

words! {
    /// Where a task stands. Every accepted task is in exactly one of these.
    State, "state", "ready, scheduled, parked, running, done, dead, waiting-human, cancelled" {
        /// May be claimed now.
        Ready = "ready",
        /// May be claimed when it is due (a retry waits).
        Scheduled = "scheduled",
        /// Waits for its integration without spending a delivery.
        Parked = "parked",
        /// Leased to an agent.
        Running = "running",
        /// Done: its answer is stored.
        Done = "done",
        /// In the dead letter queue.
        Dead = "dead",
        /// A person is asked.
        WaitingHuman = "waiting-human",
        /// Cancelled by a person.
        Cancelled = "cancelled",
    }
}

words! {
    /// Where a dead letter stands.
    LetterStatus, "dead letter status", "open, sent-again, with-human, resolved, discarded" {
        /// Nobody has decided yet.
        Open = "open",
        /// Retried, reassigned or replayed.
        SentAgain = "sent-again",
        /// A person is asked.
        WithHuman = "with-human",
        /// Done after all, by a later round or by other means.
        Resolved = "resolved",
        /// Given up for good.
        Discarded = "discarded",
    }
}

/// The last time a task was given up on. Kept when it is sent again: the entry stays the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Where it stands.
    pub status: LetterStatus,
    /// When it was given up, last.
    pub at: Timestamp,
    /// When it was given up, first.
    pub first_at: Timestamp,
    /// In which round, last.
    pub generation: u32,
    /// Deliveries of that round.
    pub deliveries: u32,
    /// Why it failed.
    pub failure: Failure,
    /// Which rule gave up.
    pub why: String,
    /// How things stood.
    pub circumstances: Box<Circumstances>,
}

impl Letter {
    /// Is it still to be dealt with?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.status, LetterStatus::Open | LetterStatus::WithHuman)
    }
}

/// Everything known of a task: what was asked, and all that has happened to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked.
    pub task: Task,
    /// Where it stands.
    pub state: State,
    /// Whose turn it is: the agent addressed, or the one it was reassigned to.
    pub agent: AgentName,
    /// The model chosen for it instead of its agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// The integration its next delivery will call.
    pub integration: Integration,
    /// Its round: 1, and one more each time a decision or replay sends it again.
    pub generation: u32,
    /// Deliveries claimed in this round and not given back.
    pub attempt: u32,
    /// The fence of the last claim; only grows.
    pub fence: u64,
    /// When it may next be claimed.
    pub due: Timestamp,
    /// Since when it stands in line (`queue.rs`), where that is not `due`: when it was due before a hold, a stop, a death of
    /// the process or a decision while it waited moved that. None: `due`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Who holds it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Why it waits, since it was last begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parking: Option<Parking>,
    /// Words added to its prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amendments: Vec<Amendment>,
    /// Every delivery, of every round, oldest first. Those given back unworked are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The answer, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// When it came to an end (done, dead, cancelled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The last time it was given up on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Letter>,
    /// Everything decided about it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decided>,
    /// How often a replay has sent it again.
    #[serde(default)]
    pub replays: u32,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// In which round, after which claim and until when work waited when it was looked at: what is said of it must not befall
/// what it has become meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub(crate) generation: u32,
    pub(crate) fence: u64,
    pub(crate) due: Timestamp,
}

impl Seen {
    /// As it stands here.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        Self { generation: record.generation, fence: record.fence, due: record.due }
    }
}

impl Record {
    /// May it be claimed now?
    #[must_use]
    pub fn claimable(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Ready | State::Scheduled | State::Parked) && self.due <= now
    }

    /// The delivery running now.
    #[must_use]
    pub fn running_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.end.is_none())
    }

    /// The deliveries of the current round that count, oldest first.
    pub fn round(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.generation == self.generation)
    }

    /// Was it delivered or given up on before? What only waited, was moved while it did, or only lost the process it ran
    /// in is new work still.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        let befell = |attempt: &Attempt| match attempt.end {
            None | Some(AttemptEnd::Released) => false,
            Some(AttemptEnd::Retry) => attempt.failure.as_ref().is_none_or(|failure| failure.kind != Kind::ProcessDied),
            Some(AttemptEnd::Done | AttemptEnd::DeadLetter | AttemptEnd::Cancelled) => true,
        };
        self.letter.is_some() || self.attempts.iter().any(befell)
    }

    /// Was it given up on, with nobody having decided yet what becomes of it? It may go on, so whoever waits for it waits.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        let open = self.letter.as_ref().is_some_and(|letter| letter.status == LetterStatus::Open);
        open && self.state == State::Dead
    }

    /// The latest failure known: of a delivery, or the one it was given up for without any.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        let delivered =
            self.attempts.iter().rev().find_map(|attempt| Some((attempt.ended_at, attempt.failure.as_ref()?)));
        match (&self.letter, delivered) {
            (Some(letter), Some((at, _))) if Some(letter.at) >= at => Some(&letter.failure),
            (_, Some((_, failure))) => Some(failure),
            (letter, None) => letter.as_ref().map(|letter| &letter.failure),
        }
    }

    /// How long it has waited at holds in this round. Neither what it ran nor a pause that somebody decided on is such a wait,
    /// nor is the time in which nobody was there to let it go.
    #[must_use]
    pub fn waited_at_holds(&self, absences: &Absences, now: Timestamp) -> Duration {
        let Some(parking) = self.parking.as_ref().filter(|parking| parking.why != Hold::Paused) else {
            return Duration::ZERO;
        };
        let running = self.attempts.last().filter(|_| self.state == State::Running);
        let until = running.map_or(now, |attempt| attempt.started_at);
        let no_wait = parking.worked.saturating_add(absences.within(parking.since, until));
        until.since(parking.since).saturating_sub(no_wait)
    }

    /// Is its next call a retry that the budget of its integration held? Other holds since change nothing about it.
    #[must_use]
    pub fn owes_retry(&self) -> bool {
        self.parking.as_ref().is_some_and(|parking| parking.owes_retry)
    }

    /// How long it was made to wait before the delivery that runs, after one of this round that failed: what a schedule goes
    /// on from. Zero for the first of a round; what it stood in line or at holds does not count.
    #[must_use]
    pub fn backed_off(&self) -> Duration {
        let failed = self.round().filter(|attempt| attempt.end == Some(AttemptEnd::Retry)).last();
        let ended = failed.and_then(|attempt| attempt.ended_at);
        ended.map_or(Duration::ZERO, |ended| self.since.unwrap_or(self.due).since(ended))
    }

    /// Who holds it while it is parked: perhaps a server of tools, or the provider of who verifies, and not who its next
    /// delivery calls first.
    #[must_use]
    pub fn held_by(&self) -> &Integration {
        self.parking.as_ref().and_then(|parking| parking.integration.as_ref()).unwrap_or(&self.integration)
    }
}
