//! The durable record of all work: the seam every store of tasks stands behind.
//!
//! An engine stores, finds and orders [`Record`]s. It never decides: each change is one call of [`crate::ledger::apply`],
//! committed together with its events in one transaction. Acknowledged means durable. `conformance` is the contract
//! as an executable suite (feature `testing`).

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod embedded;
pub mod memory;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::Incarnation;
use crate::balance::Balance;
use crate::cause::Cause;
use crate::event::{Event, NewEvent};
use crate::journal::{Entry, Spending, Step};
use crate::ledger::{Command, Refused};
use crate::query::{Cursor, Death, Depth, FailureRate, Filter, Page, PageAsk, Unreadable};
use crate::record::Record;
use crate::retention::{Pruned, Retention};
use crate::task::{AgentName, Integration, Task, TaskId};
use crate::time::Timestamp;

/// An answer of the engine, some time from now.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The durable record of all work. Small and object-safe; verbs of the trade.
///
/// Every `now` is the caller's clock ([`crate::team`] has the only one). Calls may be made from any task at any time.
pub trait Engine: Send + Sync + 'static {
    /// Accepts a task, or recognizes it: the same idempotency key with the same type and payload is the same task
    /// for as long as it has not ended, and [`KEY_RETENTION`] beyond.
    ///
    /// # Errors
    /// [`Error::KeyConflict`] when the key is known with other content.
    fn submit(&self, task: Task, integration: Integration, now: Timestamp) -> Pending<'_, Submitted>;

    /// Claims up to `ask.slots` tasks for an agent, in fair order (see [`crate::queue`]), each by [`Command::Claim`].
    /// Tasks whose deadline has passed are not claimed: see [`Engine::overdue`].
    fn lease(&self, ask: LeaseAsk, now: Timestamp) -> Pending<'_, Vec<Record>>;

    /// Applies one command to one task: the record as it is now, or why nothing changed.
    ///
    /// # Errors
    /// [`Error::Refused`] when the ledger refuses it (also a `Renew` or `Settle` under a lease of another epoch),
    /// [`Error::NoTask`] when there is no such task.
    fn command(&self, id: TaskId, command: Command, now: Timestamp) -> Pending<'_, Record>;

    /// Writes into a task's journal, by [`crate::journal::write`], and applies the entry's command after it, all of it at once:
    /// the record as it is now, and the steps that are new or changed.
    ///
    /// # Errors
    /// [`Error::Refused`] when a line or the command is refused; then nothing is written. [`Error::NoTask`].
    fn journal(&self, id: TaskId, entry: Entry, now: Timestamp) -> Pending<'_, Journaled>;

    /// The journal of a task, oldest step first; empty when there is none.
    fn steps(&self, id: TaskId) -> Pending<'_, Vec<Step>>;

    /// What the limits of money count, for every step with `at > since` that counts for something, oldest first.
    fn spendings(&self, since: Timestamp) -> Pending<'_, Vec<Spending>>;

    /// Running tasks whose lease is over: `deadline <= now`, or of another epoch than [`Engine::epoch`]. At most `limit`.
    fn lapsed(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>>;

    /// Waiting tasks whose deadline has passed (`deadline <= now`), to be given up; nobody can claim them. At most `limit`.
    fn overdue(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>>;

    /// Running tasks held by one agent; with an incarnation, by that start of it only.
    fn held_by(&self, agent: AgentName, incarnation: Option<Incarnation>) -> Pending<'_, Vec<Record>>;

    /// The first time after `now` when something will be due (a wait, a lease's end, a deadline of a waiting task), if
    /// anything will. What is due at `now` is not told here: ask [`Engine::lapsed`], [`Engine::overdue`] and
    /// [`Engine::lease`] first, then sleep until then.
    fn next_due(&self, now: Timestamp) -> Pending<'_, Option<Timestamp>>;

    /// Tasks and other rows that were come across since the start and cannot be read, in that order. They are left out where
    /// others are read.
    fn unreadable(&self) -> Vec<Unreadable> {
        Vec::new()
    }

    /// Takes note of something it gave out that whoever asked cannot read, as `incident INC-3`: it is told by
    /// [`Engine::unreadable`], where that tells anything.
    fn note_unreadable(&self, what: &str, why: &str) {
        tracing::error!(what, why, "what is stored cannot be read");
    }

    /// One task with its whole history.
    fn record(&self, id: TaskId) -> Pending<'_, Option<Record>>;

    /// Tasks that match, newest first, a page at a time.
    fn records(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>>;

    /// Dead letters that match (tasks that have a letter), newest death first, a page at a time.
    fn dead_letters(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>>;

    /// Every death (a task given up on, once per round) with `at > since`, oldest first: what the page window counts.
    fn deaths(&self, since: Timestamp) -> Pending<'_, Vec<Death>>;

    /// Failures of deliveries by agent, type and class with `at > since`, in the order of these names.
    fn failure_rates(&self, since: Timestamp) -> Pending<'_, Vec<FailureRate>>;

    /// How many tasks stand where.
    fn balance(&self) -> Pending<'_, Balance>;

    /// How many tasks of each agent stand in each state, in the order of agents and states; what is zero is left out.
    fn depths(&self) -> Pending<'_, Vec<Depth>>;

    /// Appends events that are not part of a task's change.
    ///
    /// # Errors
    /// [`Error::NoTask`] when one is about a task that does not exist; then none is appended.
    fn publish(&self, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()>;

    /// Events with `seq > after`, oldest first, at most `limit`.
    fn events(&self, after: u64, limit: u32) -> Pending<'_, Vec<Event>>;

    /// Events of one task, oldest first.
    fn history(&self, id: TaskId) -> Pending<'_, Vec<Event>>;

    /// The number of the last event committed; changes when more is. A hint to look again, never lost.
    fn watch(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Saves small documents (incidents, pages, replays, breakers …) and events in one transaction. A body of `null`
    /// takes the document out.
    ///
    /// # Errors
    /// [`Error::DocumentConflict`] when a document's `version` is not the stored one, nor [`OVER_ANY`]; then nothing is saved.
    fn save(&self, documents: Vec<Document>, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()>;

    /// All documents of a kind, by key.
    fn documents(&self, kind: &'static str) -> Pending<'_, Vec<Document>>;

    /// A number that is another one once a document was saved, so that who read them all need not read them again;
    /// `None` where nobody counts.
    fn saves(&self) -> Option<u64> {
        None
    }

    /// Forgets what [`crate::retention::verdict`] lets go, with its steps, events and key, in one stretch of the record,
    /// oldest submission first; what is counted by [`Engine::balance`] stays counted. After the last stretch, counts of
    /// failures and deaths and events of no task from before [`Retention::horizon`] are forgotten too. Other writes go
    /// between: nobody waits for more than a small batch of it.
    fn prune(&self, ask: PruneAsk, now: Timestamp) -> Pending<'_, Stretch>;

    /// The number of this run of the process over this store: 1 at first, one more at every start.
    fn epoch(&self) -> u64;

    /// The latest `now` the store has ever been told, over all runs: clocks start from the later of it and the wall.
    fn high_water(&self) -> Timestamp;

    /// Is the store able to take writes? Tries one that changes nothing anybody reads; `Err` says in words why not.
    fn writable(&self) -> Pending<'_, ()>;

    /// What the last write met, in words; none where it was taken, however small it was. Costs nothing, so that whoever only asks writes nothing.
    /// Who follows it is woken when the one becomes the other.
    fn write_trouble(&self) -> tokio::sync::watch::Receiver<Option<String>>;

    /// Waits until everything acknowledged is durable and closes the store. Later calls fail with [`Error::Closed`].
    fn close(&self) -> Pending<'_, ()>;
}

pub use crate::retention::KEY_RETENTION;

/// What is to be forgotten, and from where on it is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PruneAsk {
    /// By which rule.
    pub retention: Retention,
    /// Tasks that an incident or a replay that is not over needs.
    pub needed: Arc<BTreeSet<TaskId>>,
    /// Look only, and change nothing. The size does not press then.
    pub dry_run: bool,
    /// Where the stretch before ended; 0: from the oldest task on.
    pub after: u64,
}

/// What went of one stretch of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// What went, or would go.
    pub pruned: Pruned,
    /// Where the next stretch begins; none: this was the last.
    pub next: Option<u64>,
}

/// What became of an entry in a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Journaled {
    /// The task, as it is now.
    pub record: Record,
    /// The steps that are new or changed, as they are now.
    pub steps: Vec<Step>,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// The task: the new one, or the one this key already names.
    pub record: Record,
    /// Was it new?
    pub new: bool,
}

/// Who wants work, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseAsk {
    /// For which agent.
    pub agent: AgentName,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// How many at most.
    pub slots: u32,
    /// For how long, unless renewed.
    pub lease_for: Duration,
    /// Tasks that would call one of these are left where they are.
    pub except: Vec<Integration>,
}

impl LeaseAsk {
    /// The command by which each task is claimed in this run of the process.
    #[must_use]
    pub fn claim(&self, epoch: u64) -> Command {
        Command::Claim { agent: self.agent.clone(), incarnation: self.incarnation, epoch, lease_for: self.lease_for }
    }
}

impl PageAsk {
    /// The cursor it goes on from, read.
    ///
    /// # Errors
    /// [`Error::BadCursor`] when the text is not one.
    pub fn cursor(&self) -> Result<Option<Cursor>, Error> {
        match &self.after {
            None => Ok(None),
            Some(text) => Cursor::parse(text).map(Some).ok_or_else(|| self.bad_cursor()),
        }
    }

    /// The refusal of its cursor.
    #[must_use]
    pub fn bad_cursor(&self) -> Error {
        Error::BadCursor(self.after.clone().unwrap_or_default())
    }
}

/// A small document that changes as a whole: an incident, a page, a replay, a breaker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What it is, such as `incident`.
    pub kind: String,
    /// Its name among its kind.
    pub key: String,
    /// The version this is based on: 0 for a new one. [`Engine::save`] stores another, one more as a rule.
    pub version: u64,
    /// Its content.
    pub body: Value,
}

/// The version of a document that replaces whatever is stored, and is the first of its name again: for what cannot be read, and
/// has one owner.
pub const OVER_ANY: u64 = u64::MAX;

/// What went wrong in the store itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger refused the command.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No such task.
    #[error("there is no task {0}")]
    NoTask(TaskId),
    /// The key names a task with other content.
    #[error("idempotency key `{key}` already names task {task} with another type or payload")]
    KeyConflict {
        /// The key.
        key: String,
        /// The task it names.
        task: TaskId,
    },
    /// A task with this id was submitted before; ids are made once.
    #[error("task {0} was submitted before")]
    SameId(TaskId),
    /// A document was changed by somebody else meanwhile.
    #[error("{kind} `{key}` was changed meanwhile; read it again")]
    DocumentConflict {
        /// What it is.
        kind: String,
        /// Its name.
        key: String,
    },
    /// Not a cursor this engine gave out.
    #[error("`{0}` is not a page cursor; leave it out to begin at the first page")]
    BadCursor(String),
    /// Another process has the store open.
    #[error("{dir} is in use by another backstop process{}; stop it, or choose another directory", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        dir: String,
        /// The other process, if it said.
        pid: Option<u32>,
    },
    /// The store was written by a newer version.
    #[error("{path} has format {found}, newer than the {known} this version knows; use the version that wrote it")]
    NewerFormat {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is not ours, or damaged.
    #[error("{path} cannot be used as a store: {why}")]
    NotAStore {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// What is stored of this task is not what was written; nothing was changed.
    #[error("task {id} cannot be read, for its row is damaged or of a newer version: {why}")]
    Unreadable {
        /// Its id, as far as that can be read.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed; nothing was acknowledged.
    #[error("the store at {path} failed to {doing}")]
    Io {
        /// The file or directory.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No room is left to write in; nothing was acknowledged. When there is room again, writes are taken again.
    #[error("no room is left for the store at {path}; nothing was written, and work goes on once there is room")]
    Full {
        /// The file or directory.
        path: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// What a delivery fails of that cannot go on without the store.
    #[must_use]
    pub fn to_cause(&self) -> Cause {
        Cause::Storage { detail: self.to_string(), full: matches!(self, Self::Full { .. }) }
    }
}
