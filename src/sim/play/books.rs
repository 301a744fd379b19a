//! What the world saw of a run, kept outside of the product: the books every check and every report is held against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cause::Usage;
use crate::event::{Event, Happening};
use crate::task::{AgentName, Effect, Integration, TaskId, TaskType};
use crate::time::Timestamp;

/// The books of one run. Clones are the same books.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<Ledgers>>);

/// Everything written down.
#[derive(Clone, Debug, Default)]
pub struct Ledgers {
    /// What was accepted, in the order of acceptance.
    pub asked: Vec<Asked>,
    /// Every call of a model, in the order in which they began.
    pub calls: Vec<Call>,
    /// Every message a channel was given.
    pub pages: Vec<Message>,
    /// What the person said.
    pub words: Vec<Word>,
    /// Submissions that were refused, each time they were.
    pub refused: Vec<Refused>,
    /// Moments at which something was broken by hand: when, and by which fault of the scenario.
    pub struck: Vec<(Duration, usize)>,
    /// When the process was up: from, until.
    pub runs: Vec<(Duration, Duration)>,
    /// What the team's clock showed each time the process started.
    pub starts: Vec<(Duration, Timestamp)>,
    /// Submissions made again under their key: of which task, and the task that was named, or why none was.
    pub asked_again: Vec<(TaskId, Result<TaskId, String>)>,
    /// Every call of a tool, as its server saw it.
    pub tools: Vec<Used>,
    /// When the store was first asked over and over without any time passing.
    pub circled: Option<Duration>,
}

/// One call of a tool, as the other side saw it.
#[derive(Clone, Debug)]
pub struct Used {
    /// When it came.
    pub at: Duration,
    /// When it came, by the team's clock.
    pub clock: Timestamp,
    /// Which tool.
    pub tool: String,
    /// For which ticket.
    pub ticket: String,
    /// Under which key.
    pub key: String,
    /// Did it have its effect?
    pub done: bool,
    /// Was the answer lost, or the call turned away?
    pub told: bool,
}

/// A task that was acknowledged to its client.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its id.
    pub id: TaskId,
    /// Its ticket, first = 1.
    pub number: u64,
    /// When its client first asked: earlier than [`Asked::at`] when it was turned away.
    pub first_at: Duration,
    /// When it was accepted.
    pub at: Duration,
    /// Of which type.
    pub task_type: TaskType,
    /// What doing it does.
    pub effect: Effect,
}

/// A submission that was turned away with an answer. Where no process answered, nothing is written down here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at: Duration,
    /// Its ticket, first = 1.
    pub number: u64,
    /// What its client was told.
    pub why: String,
}

/// One call of a model, as its provider saw it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it came.
    pub at: Duration,
    /// When it came, by the team's clock.
    pub clock: Timestamp,
    /// To which provider.
    pub provider: Integration,
    /// Of which model.
    pub model: String,
    /// By whom.
    pub agent: Option<AgentName>,
    /// For which task.
    pub task: Option<TaskId>,
    /// Was it the CEO's adviser that was asked?
    pub adviser: bool,
    /// Which fault of the scenario it met, by its place.
    pub fault: Option<usize>,
    /// When it ended, and how; none while it runs.
    pub ended: Option<(Duration, CallEnd)>,
    /// Tokens it read and wrote, billed whether or not they were used.
    pub usage: Usage,
    /// The last words said to the model; kept when checks want them.
    pub prompt: String,
    /// How long its provider asked the client to keep silent, if it did.
    pub retry_after: Option<Duration>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// With an answer that is one.
    Answered,
    /// With an answer made to be refused: against its schema, cut, declined, in circles.
    Flawed,
    /// Without an answer.
    Failed,
    /// The asker went away.
    GivenUp,
}

/// One message to a person.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it was given to the channel.
    pub at: Duration,
    /// Which channel.
    pub channel: String,
    /// Of which incident.
    pub incident: String,
    /// Which message of its incident it is, first = 1: the same through every channel.
    pub number: u32,
    /// What it does there: trigger, update, acknowledge, resolve.
    pub action: String,
    /// Is it a reminder?
    pub again: bool,
    /// The sentence on the person's screen.
    pub summary: String,
    /// Did the channel take it?
    pub taken: bool,
    /// The key under which the other side knows the incident.
    pub dedup_key: String,
}

/// Something the person did.
#[derive(Clone, Debug)]
pub struct Word {
    /// When.
    pub at: Duration,
    /// About which incident; a breaker's closing is about its integration.
    pub about: String,
    /// What: acknowledge, run-again, discard, happened, did-not-happen, close-breaker, resolve.
    pub what: String,
    /// For which task, when it is for one.
    pub task: Option<TaskId>,
}

impl Books {
    /// The books, to read or to write.
    pub fn open(&self) -> MutexGuard<'_, Ledgers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a call down; its number.
    pub(super) fn begin(&self, call: Call) -> usize {
        let mut books = self.open();
        books.calls.push(call);
        books.calls.len() - 1
    }

    /// Writes down how a call ended.
    pub(super) fn end(&self, number: usize, at: Duration, end: CallEnd, usage: Usage) {
        if let Some(call) = self.open().calls.get_mut(number) {
            call.ended = Some((at, end));
            call.usage = usage;
        }
    }
}

impl Ledgers {
    /// When each event happened since the beginning of the run. The wall clock may be set, time itself cannot: each start
    /// of the process is a fixed point of both. The team's clock never goes back, not over a restart either, so that an
    /// event belongs to the last start before its time; who starts with the disk full cannot say so in the feed.
    #[must_use]
    pub fn moments(&self, events: &[Event]) -> Vec<Duration> {
        let (mut start, mut last) = (0, Duration::ZERO);
        let moment = |event: &Event| {
            if let Happening::TeamStarted { epoch, .. } = event.what {
                // The first start is the first epoch.
                let said = usize::try_from(epoch.saturating_sub(1)).unwrap_or(usize::MAX);
                start = start.max(said.min(self.starts.len().saturating_sub(1)));
            }
            // The very time of the next start is that of the last event before it, when the wall clock was behind.
            while self.starts.get(start + 1).is_some_and(|(_, shown)| *shown < event.at) {
                start += 1;
            }
            let (began, shown) = self.starts.get(start).copied().unwrap_or((Duration::ZERO, event.at));
            last = last.max(began + event.at.since(shown));
            last
        };
        events.iter().map(moment).collect()
    }

    /// Calls of each task, in their order.
    #[must_use]
    pub fn calls_by_task(&self) -> BTreeMap<TaskId, Vec<&Call>> {
        let mut calls: BTreeMap<TaskId, Vec<&Call>> = BTreeMap::new();
        for call in self.calls.iter().filter(|call| !call.adviser) {
            if let Some(task) = call.task {
                calls.entry(task).or_default().push(call);
            }
        }
        calls
    }
}
