//! The store of a played scenario: the engine's own code, behind a disk that can be full and a CEO that can die in
//! the middle of a decision.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::stage::Shared;
use crate::agent::Incarnation;
use crate::balance::Balance;
use crate::decision::DeciderKind;
use crate::engine::memory::Memory;
use crate::engine::{Document, Engine, Error, Journaled, LeaseAsk, Pending, PruneAsk, Stretch, Submitted};
use crate::error_chain::in_full;
use crate::event::{Event, NewEvent};
use crate::journal::{Entry, Spending, Step};
use crate::ledger::Command;
use crate::query::{Death, Depth, FailureRate, Filter, Page, PageAsk};
use crate::record::{Record, State};
use crate::scenario::FaultKind;
use crate::task::{AgentName, Integration, Task, TaskId};
use crate::time::Timestamp;

/// What kills the CEO.
pub(super) type Blow = Box<dyn Fn() + Send + Sync>;

/// The store.
pub(super) struct Store {
    memory: Memory,
    stage: Shared,
    write_trouble: watch::Sender<Option<String>>,
    /// Armed: the next decision of the CEO is its last; before it is written, or after.
    armed: Mutex<Option<(Blow, bool)>>,
    /// How often it was asked since the clock last moved.
    asked: Mutex<(Duration, u32)>,
}

/// How often a store is asked while the clock stands still, at most: a hundred times what anybody sound does.
const ASKED_AT_ONCE: u32 = 500_000;

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn new(memory: Memory, stage: Shared) -> Self {
        let write_trouble = watch::Sender::new(None);
        Self { memory, stage, write_trouble, armed: Mutex::default(), asked: Mutex::default() }
    }

    /// What the disk holds when the process dies, opened by the next one.
    pub(super) fn reopened(&self) -> Self {
        Self::new(self.memory.reopened(), Arc::clone(&self.stage))
    }

    /// Kills the CEO in the middle of its next decision: before it is written, or after.
    pub(super) fn arm(&self, blow: Blow, before: bool) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((blow, before));
    }

    /// Writes, unless the disk is full.
    fn write<'a, T: Send + 'a>(&'a self, work: impl FnOnce(&'a Memory) -> Pending<'a, T>) -> Pending<'a, T> {
        if self.stage.is_on(FaultKind::DiskFull) {
            let source = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device");
            let error = Error::Full { path: "the simulated disk".to_owned(), source: Box::new(source) };
            let said = in_full(&error);
            self.write_trouble.send_if_modified(|trouble| trouble.replace(said).is_none());
            return Box::pin(std::future::ready(Err(error)));
        }
        self.write_trouble.send_if_modified(|trouble| trouble.take().is_some());
        self.read(work)
    }

    /// Answers, unless whoever asks goes round in circles. Time stands still while anybody has something to do, so that
    /// circle would never end and nobody would hear of it: its next question is left unanswered, and the books say so.
    fn read<'a, T: Send + 'a>(&'a self, work: impl FnOnce(&'a Memory) -> Pending<'a, T>) -> Pending<'a, T> {
        if self.is_asked_for_ever() {
            return Box::pin(pending());
        }
        work(&self.memory)
    }

    fn is_asked_for_ever(&self) -> bool {
        let now = self.stage.elapsed();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = if asked.0 == now { asked.1 + 1 } else { 1 };
        let over = times > ASKED_AT_ONCE;
        // Only the one that asks so often is left waiting.
        *asked = (now, if over { 0 } else { times });
        if over {
            self.stage.books.open().circled.get_or_insert(now);
        }
        over
    }
}

impl Engine for Store {
    fn submit(&self, task: Task, integration: Integration, now: Timestamp) -> Pending<'_, Submitted> {
        self.write(|memory| memory.submit(task, integration, now))
    }

    fn lease(&self, ask: LeaseAsk, now: Timestamp) -> Pending<'_, Vec<Record>> {
        self.write(|memory| memory.lease(ask, now))
    }

    fn command(&self, id: TaskId, command: Command, now: Timestamp) -> Pending<'_, Record> {
        let decides = matches!(&command, Command::Decide { decided, .. } if decided.by != DeciderKind::Human);
        if !decides || self.armed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return self.write(|memory| memory.command(id, command, now));
        }
        Box::pin(async move {
            // Of what is no dead letter yet the dispatcher disposes, by the same table; it must not die for the CEO.
            let dead = self.memory.record(id).await?.is_some_and(|record| record.state == State::Dead);
            let armed = if dead { self.armed.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
            let Some((blow, before)) = armed else {
                return self.write(|memory| memory.command(id, command, now)).await;
            };
            if !before {
                let written = self.write(|memory| memory.command(id, command, now)).await;
                drop(written);
            }
            blow();
            // Whoever waits here is dead.
            pending().await
        })
    }

    fn journal(&self, id: TaskId, entry: Entry, now: Timestamp) -> Pending<'_, Journaled> {
        self.write(|memory| memory.journal(id, entry, now))
    }

    fn steps(&self, id: TaskId) -> Pending<'_, Vec<Step>> {
        self.read(|memory| memory.steps(id))
    }

    fn spendings(&self, since: Timestamp) -> Pending<'_, Vec<Spending>> {
        self.read(|memory| memory.spendings(since))
    }

    fn lapsed(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        self.read(|memory| memory.lapsed(now, limit))
    }

    fn overdue(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        self.read(|memory| memory.overdue(now, limit))
    }

    fn held_by(&self, agent: AgentName, incarnation: Option<Incarnation>) -> Pending<'_, Vec<Record>> {
        self.read(|memory| memory.held_by(agent, incarnation))
    }

    fn next_due(&self, now: Timestamp) -> Pending<'_, Option<Timestamp>> {
        self.read(|memory| memory.next_due(now))
    }

    fn record(&self, id: TaskId) -> Pending<'_, Option<Record>> {
        self.read(|memory| memory.record(id))
    }

    fn records(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(|memory| memory.records(filter, page))
    }

    fn dead_letters(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(|memory| memory.dead_letters(filter, page))
    }

    fn deaths(&self, since: Timestamp) -> Pending<'_, Vec<Death>> {
        self.read(|memory| memory.deaths(since))
    }

    fn failure_rates(&self, since: Timestamp) -> Pending<'_, Vec<FailureRate>> {
        self.read(|memory| memory.failure_rates(since))
    }

    fn balance(&self) -> Pending<'_, Balance> {
        self.read(Memory::balance)
    }

    fn depths(&self) -> Pending<'_, Vec<Depth>> {
        self.read(Memory::depths)
    }

    fn publish(&self, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.write(|memory| memory.publish(events, now))
    }

    fn events(&self, after: u64, limit: u32) -> Pending<'_, Vec<Event>> {
        self.read(|memory| memory.events(after, limit))
    }

    fn history(&self, id: TaskId) -> Pending<'_, Vec<Event>> {
        self.read(|memory| memory.history(id))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.memory.watch()
    }

    fn save(&self, documents: Vec<Document>, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.write(|memory| memory.save(documents, events, now))
    }

    fn documents(&self, kind: &'static str) -> Pending<'_, Vec<Document>> {
        self.read(|memory| memory.documents(kind))
    }

    fn saves(&self) -> Option<u64> {
        self.memory.saves()
    }

    fn prune(&self, ask: PruneAsk, now: Timestamp) -> Pending<'_, Stretch> {
        self.write(|memory| memory.prune(ask, now))
    }

    fn epoch(&self) -> u64 {
        self.memory.epoch()
    }

    fn high_water(&self) -> Timestamp {
        self.memory.high_water()
    }

    fn writable(&self) -> Pending<'_, ()> {
        self.write(Memory::writable)
    }

    fn write_trouble(&self) -> watch::Receiver<Option<String>> {
        self.write_trouble.subscribe()
    }

    fn close(&self) -> Pending<'_, ()> {
        self.memory.close()
    }
}
