//! The engine that remembers as long as the process lives: for tests and simulation.
//!
//! One mutex, synchronous inside, every future ready at once: it works under paused time and never moves the clock.
//! What is asked at every turn (who stands where, which letters are open) is kept counted and sorted, so that a
//! simulated year costs what happens in it; other listings look at every record, for nobody keeps a million tasks here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::agent::Incarnation;
use crate::balance::Balance;
use crate::engine::{
    Document, Engine, Error, Journaled, KEY_RETENTION, LeaseAsk, OVER_ANY, Pending, PruneAsk, Stretch, Submitted,
};
use crate::error_chain::in_full;
use crate::event::{Event, NewEvent};
use crate::failure::Class;
use crate::journal::{self, End, Spending, Step};
use crate::ledger::{self, Command};
use crate::mutant;
use crate::query::{Cursor, Death, Depth, FailureRate, Filter, Page, PageAsk, failure_told};
use crate::queue::{Entry, Queues};
use crate::record::{LetterStatus, Record, State};
use crate::retention::{Pruned, Standing, Verdict, verdict};
use crate::task::{AgentName, IdempotencyKey, Integration, Task, TaskId, TaskType};
use crate::time::Timestamp;

/// An engine in memory. A clone of its content can be opened again as a restart would: [`Memory::reopened`].
#[derive(Debug)]
pub struct Memory {
    shelf: Mutex<Shelf>,
    last_event: watch::Sender<u64>,
    write_trouble: watch::Sender<Option<String>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty one, in its first epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::holding(Shelf { epoch: 1, ..Shelf::default() })
    }

    /// The same content in the next epoch, as after the process ended and started again. This one is closed.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let mut shelf = std::mem::take(&mut *self.locked());
        shelf.lose_what_was_not_synced();
        self.locked().closed = true;
        shelf.epoch += 1;
        shelf.closed = false;
        Self::holding(shelf)
    }

    fn holding(shelf: Shelf) -> Self {
        let last_event = watch::Sender::new(shelf.last_event);
        Self { shelf: Mutex::new(shelf), last_event, write_trouble: watch::Sender::new(None) }
    }

    /// From now on every write fails, as on a disk that breaks; or is taken again.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail_writes(&self, failing: bool) {
        self.locked().failing = failing;
    }

    fn locked(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: Send + 'static>(&self, work: impl FnOnce(&Shelf) -> Result<T, Error>) -> Pending<'_, T> {
        let shelf = self.locked();
        let answer = if shelf.closed { Err(Error::Closed) } else { work(&shelf) };
        Box::pin(ready(answer))
    }

    fn write<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl FnOnce(&mut Shelf) -> Result<T, Error>,
    ) -> Pending<'_, T> {
        let mut shelf = self.locked();
        if shelf.closed {
            return Box::pin(ready(Err(Error::Closed)));
        }
        if let Err(error) = self.tried(&shelf) {
            return Box::pin(ready(Err(error)));
        }
        shelf.high_water = shelf.high_water.max(now);
        let before = shelf.last_event;
        let answer = work(&mut shelf);
        let after = shelf.last_event;
        drop(shelf);
        if after != before {
            self.last_event.send_replace(after);
        }
        Box::pin(ready(answer))
    }

    /// Can it be written? Noted for [`Engine::write_trouble`].
    fn tried(&self, shelf: &Shelf) -> Result<(), Error> {
        if !shelf.failing {
            self.write_trouble.send_if_modified(|trouble| trouble.take().is_some());
            return Ok(());
        }
        let source = Box::new(std::io::Error::other("it was told to fail"));
        let error = Error::Io { path: "memory".to_owned(), doing: "write", source };
        let said = in_full(&error);
        self.write_trouble.send_if_modified(|trouble| trouble.replace(said).is_none());
        Err(error)
    }
}

/// Everything remembered. Tasks are numbered in order of submission, from 1; the place of one that is forgotten stays
/// empty.
#[derive(Debug, Default)]
struct Shelf {
    records: Vec<Option<Record>>,
    ids: HashMap<TaskId, u64>,
    keys: HashMap<IdempotencyKey, u64>,
    queues: Queues,
    running: BTreeSet<(Timestamp, u64)>,
    /// Which tasks stand in which state.
    standing: BTreeMap<State, BTreeSet<u64>>,
    /// How many tasks of each agent stand in each state; what is zero is left out.
    depths: BTreeMap<(AgentName, State), u64>,
    /// Tasks that have a letter, by where it stands and its time.
    letters: BTreeMap<LetterStatus, BTreeSet<(Timestamp, u64)>>,
    events: Vec<Event>,
    /// The number of the last event, remembered or not.
    last_event: u64,
    /// How many tasks are forgotten.
    pruned: u64,
    deaths: Vec<Death>,
    failures: Vec<(Timestamp, AgentName, TaskType, Class)>,
    documents: BTreeMap<(String, String), Document>,
    journals: HashMap<u64, Vec<Step>>,
    /// How often documents were saved.
    saves: u64,
    epoch: u64,
    high_water: Timestamp,
    closed: bool,
    /// Told to take no writes: see [`Memory::fail_writes`].
    failing: bool,
}

impl Shelf {
    /// What a store that acknowledges before it syncs would lose with its process.
    fn lose_what_was_not_synced(&mut self) {
        if mutant::on("submit-not-durable")
            && let Some(last) = self.records.pop().flatten()
        {
            let seq = self.records.len() as u64 + 1;
            Entry::of(&last).iter().for_each(|entry| self.queues.leave(seq, entry));
            self.running.retain(|(_, running)| *running != seq);
            self.letters.values_mut().for_each(|letters| letters.retain(|(_, letter)| *letter != seq));
            self.stands_no_more(seq, (last.agent.clone(), last.state));
            self.keys.retain(|_, keyed| *keyed != seq);
            self.ids.remove(&last.task.id);
            self.journals.remove(&seq);
        }
        if mutant::on("done-not-durable")
            && let Some(place) = self
                .records
                .iter()
                .rposition(|record| record.as_ref().is_some_and(|record| record.state == State::Done))
        {
            let mut record = self.at(place as u64 + 1).clone();
            (record.state, record.answer, record.ended_at, record.due) = (State::Ready, None, None, self.high_water);
            self.journals.remove(&(place as u64 + 1));
            self.store(place as u64 + 1, record, Vec::new(), self.high_water);
        }
    }

    fn at(&self, seq: u64) -> &Record {
        self.records[index(seq)].as_ref().expect("what is found by its number is remembered")
    }

    fn seq(&self, id: TaskId) -> Result<u64, Error> {
        self.ids.get(&id).copied().ok_or(Error::NoTask(id))
    }

    /// The only place where a record changes: with its events, and everything that is found by it.
    fn store(&mut self, seq: u64, record: Record, events: Vec<NewEvent>, now: Timestamp) {
        let index = index(seq);
        if let Some(before) = self.records.get(index).and_then(Option::as_ref) {
            if let Some(entry) = Entry::of(before) {
                self.queues.leave(seq, &entry);
            }
            if let Some(lease) = &before.lease {
                self.running.remove(&(lease.deadline, seq));
            }
            if let Some(letter) = &before.letter
                && let Some(letters) = self.letters.get_mut(&letter.status)
            {
                letters.remove(&(letter.at, seq));
            }
            let before = (before.agent.clone(), before.state);
            self.stands_no_more(seq, before);
        }
        self.standing.entry(record.state).or_default().insert(seq);
        *self.depths.entry((record.agent.clone(), record.state)).or_default() += 1;
        if let Some(letter) = &record.letter {
            self.letters.entry(letter.status).or_default().insert((letter.at, seq));
        }
        if let Some(entry) = Entry::of(&record) {
            self.queues.enter(seq, &entry);
        }
        self.running.extend(record.lease.as_ref().map(|lease| (lease.deadline, seq)));
        self.deaths.extend(events.iter().filter_map(|event| Death::told_by(event, now)));
        self.append(events, now);
        if index < self.records.len() {
            self.records[index] = Some(record);
        } else {
            self.ids.insert(record.task.id, seq);
            self.records.push(Some(record));
        }
    }

    fn stands_no_more(&mut self, seq: u64, place: (AgentName, State)) {
        if let Some(tasks) = self.standing.get_mut(&place.1) {
            tasks.remove(&seq);
        }
        if let Some(tasks) = self.depths.get_mut(&place) {
            *tasks -= 1;
            if *tasks == 0 {
                self.depths.remove(&place);
            }
        }
    }

    fn append(&mut self, events: Vec<NewEvent>, at: Timestamp) {
        for NewEvent { task, what } in events {
            self.last_event += 1;
            self.events.push(Event { seq: self.last_event, at, task, what });
        }
    }

    fn submit(&mut self, task: Task, integration: Integration, now: Timestamp) -> Result<Submitted, Error> {
        if let Some(key) = &task.idempotency_key
            && let Some(&seq) = self.keys.get(key)
        {
            let known = self.at(seq);
            if known.ended_at.is_none_or(|ended| now < ended + KEY_RETENTION) {
                return if known.task.fingerprint() == task.fingerprint() {
                    Ok(Submitted { record: known.clone(), new: false })
                } else {
                    Err(Error::KeyConflict { key: key.to_string(), task: known.task.id })
                };
            }
        }
        if let Some(&seq) = self.ids.get(&task.id) {
            return Err(Error::SameId(self.at(seq).task.id));
        }
        let seq = self.records.len() as u64 + 1;
        self.keys.extend(task.idempotency_key.clone().map(|key| (key, seq)));
        let (record, events) = Record::new(task, integration, now);
        self.store(seq, record.clone(), events, now);
        Ok(Submitted { record, new: true })
    }

    fn lease(&mut self, ask: &LeaseAsk, now: Timestamp) -> Result<Vec<Record>, Error> {
        let mut claimed = Vec::new();
        for _ in 0..ask.slots {
            let Some(seq) = self.queues.next(&ask.agent, now, &ask.except) else { break };
            let (record, events) = match ledger::apply(self.at(seq), ask.claim(self.epoch), now) {
                Ok(change) => change,
                Err(refused) => {
                    // The queue and the ledger disagree: our bug. It must not cost the task its place, nor lose those
                    // already claimed.
                    Entry::of(self.at(seq)).iter().for_each(|entry| self.queues.enter(seq, entry));
                    if claimed.is_empty() {
                        return Err(refused.into());
                    }
                    break;
                }
            };
            self.store(seq, record.clone(), events, now);
            claimed.push(record);
        }
        Ok(claimed)
    }

    fn command(&mut self, id: TaskId, command: Command, now: Timestamp) -> Result<Record, Error> {
        let seq = self.seq(id)?;
        let before = self.at(seq);
        ledger::of_this_run(before, &command, self.epoch)?;
        let failed = failure_told(&command).map(|failure| failure.class);
        let agent = before.agent.clone();
        let (record, events) = ledger::apply(before, command, now)?;
        self.failures.extend(failed.map(|class| (now, agent, record.task.task_type.clone(), class)));
        self.store(seq, record.clone(), events, now);
        Ok(record)
    }

    fn journal(&mut self, id: TaskId, entry: journal::Entry, now: Timestamp) -> Result<Journaled, Error> {
        let seq = self.seq(id)?;
        let record = self.at(seq);
        let known = self.journals.get(&seq).map_or(&[][..], Vec::as_slice);
        let asks = |step: &&Step| step.ask().is_some_and(|ask| ask.purpose.is_work());
        let end = End {
            step: known.last().map_or(0, |step| step.number),
            ask: known.iter().rev().find(asks).map_or(0, |step| step.number),
        };
        let steps = journal::write(record, known, end, &entry, self.epoch, now)?;
        let task = Some(id);
        let mut events: Vec<NewEvent> = entry.events.into_iter().map(|what| NewEvent { task, what }).collect();
        let record = match entry.command {
            Some(command) => {
                ledger::of_this_run(record, &command, self.epoch)?;
                let failed = failure_told(&command).map(|failure| failure.class);
                let agent = record.agent.clone();
                let (record, more) = ledger::apply(record, command, now)?;
                self.failures.extend(failed.map(|class| (now, agent, record.task.task_type.clone(), class)));
                events.extend(more);
                self.store(seq, record.clone(), events, now);
                record
            }
            None => {
                let record = record.clone();
                self.append(events, now);
                record
            }
        };
        let kept = self.journals.entry(seq).or_default();
        for step in &steps {
            match kept.iter_mut().find(|known| known.number == step.number) {
                Some(known) => known.clone_from(step),
                None => kept.push(step.clone()),
            }
        }
        Ok(Journaled { record, steps })
    }

    fn save(&mut self, documents: Vec<Document>, events: Vec<NewEvent>, now: Timestamp) -> Result<(), Error> {
        self.check_tasks(&events)?;
        let mut changed: BTreeMap<(String, String), Document> = BTreeMap::new();
        for document in documents {
            let name = (document.kind.clone(), document.key.clone());
            let stored = changed.get(&name).or_else(|| self.documents.get(&name)).map_or(0, |stored| stored.version);
            if stored != document.version && document.version != OVER_ANY {
                return Err(Error::DocumentConflict { kind: document.kind, key: document.key });
            }
            let version = if document.version == OVER_ANY { 1 } else { stored + 1 };
            changed.insert(name, Document { version, ..document });
        }
        self.saves += 1;
        for (name, document) in changed {
            match document.body.is_null() {
                true => drop(self.documents.remove(&name)),
                false => drop(self.documents.insert(name, document)),
            }
        }
        self.append(events, now);
        Ok(())
    }

    fn check_tasks(&self, events: &[NewEvent]) -> Result<(), Error> {
        events.iter().filter_map(|event| event.task).try_for_each(|id| self.seq(id).map(drop))
    }

    /// All in one stretch: nobody waits long for what is in memory. There is no size to press.
    fn prune(&mut self, ask: &PruneAsk, now: Timestamp) -> Pruned {
        let goes = |record: &Record| {
            let standing = Standing {
                state: record.state,
                letter: record.letter.as_ref().map(|letter| letter.status),
                ended_at: record.ended_at,
                needed: ask.needed.contains(&record.task.id),
            };
            verdict(&standing, &ask.retention, false, now) == Verdict::Goes
        };
        let numbered = (1..).zip(&self.records).skip(usize::try_from(ask.after).unwrap_or(usize::MAX));
        let going: Vec<u64> =
            numbered.filter_map(|(seq, record)| record.as_ref().is_some_and(goes).then_some(seq)).collect();
        let mut pruned = Pruned::default();
        going.iter().for_each(|seq| pruned.count(self.at(*seq).state));
        if ask.dry_run {
            return pruned;
        }
        let gone: BTreeSet<TaskId> = going.into_iter().filter_map(|seq| self.forget(seq)).collect();
        self.pruned += pruned.tasks();
        let horizon = ask.retention.horizon(now);
        let old = |at: Timestamp| horizon.is_some_and(|horizon| at < horizon);
        let before = self.events.len();
        self.events.retain(|event| match event.task {
            Some(task) => !gone.contains(&task),
            None => !old(event.at),
        });
        pruned.events = (before - self.events.len()) as u64;
        self.deaths.retain(|death| !old(death.at));
        self.failures.retain(|(at, ..)| !old(*at));
        pruned
    }

    fn forget(&mut self, seq: u64) -> Option<TaskId> {
        let record = self.records[index(seq)].take()?;
        self.stands_no_more(seq, (record.agent.clone(), record.state));
        if let Some(letter) = &record.letter
            && let Some(letters) = self.letters.get_mut(&letter.status)
        {
            letters.remove(&(letter.at, seq));
        }
        if let Some(key) = &record.task.idempotency_key
            && self.keys.get(key) == Some(&seq)
        {
            self.keys.remove(key);
        }
        self.journals.remove(&seq);
        self.ids.remove(&record.task.id);
        Some(record.task.id)
    }

    fn records(&self, filter: &Filter, page: &PageAsk) -> Result<Page<Record>, Error> {
        let after = match page.cursor()? {
            None => None,
            Some(Cursor::Task(seq)) => Some(seq),
            Some(Cursor::Letter(..)) => return Err(page.bad_cursor()),
        };
        let last = self.records.len() as u64;
        let (from, to) = match after {
            None => (1, last),
            Some(after) if page.oldest_first => (after.saturating_add(1), last),
            Some(after) => (1, after.saturating_sub(1)),
        };
        let seqs: Vec<u64> = if filter.states.is_empty() {
            (from..=to).filter(|seq| self.records.get(index(*seq)).is_some_and(Option::is_some)).collect()
        } else {
            // Each state once, whatever was asked for.
            let states: BTreeSet<State> = filter.states.iter().copied().collect();
            let standing = states.iter().filter_map(|state| self.standing.get(state)).flatten();
            let mut seqs: Vec<u64> = standing.copied().filter(|seq| (from..=to).contains(seq)).collect();
            seqs.sort_unstable();
            seqs
        };
        let found = seqs.into_iter().map(|seq| (Cursor::Task(seq), self.at(seq)));
        let mut found = found.filter(|(_, record)| filter.matches(record));
        Ok(if page.oldest_first { cut(&mut found, page) } else { cut(&mut found.rev(), page) })
    }

    fn dead_letters(&self, filter: &Filter, page: &PageAsk) -> Result<Page<Record>, Error> {
        let after = match page.cursor()? {
            None => None,
            Some(cursor @ Cursor::Letter(..)) => Some(cursor),
            Some(Cursor::Task(_)) => return Err(page.bad_cursor()),
        };
        let wanted = |status: &LetterStatus| filter.status.is_empty() || filter.status.contains(status);
        let letters = self.letters.iter().filter(|(status, _)| wanted(status)).flat_map(|(_, letters)| letters);
        let mut letters: Vec<(Timestamp, u64)> = letters.copied().collect();
        letters.sort_unstable();
        let found = letters.into_iter().map(|(at, seq)| (Cursor::Letter(at, seq), self.at(seq)));
        let found = found.filter(|(_, record)| filter.matches_letter(record));
        let follows =
            |cursor: &Cursor| after.is_none_or(|after| (*cursor > after) == page.oldest_first && *cursor != after);
        let mut found = found.filter(|(cursor, _)| follows(cursor));
        Ok(if page.oldest_first { cut(&mut found, page) } else { cut(&mut found.rev(), page) })
    }

    fn failure_rates(&self, since: Timestamp) -> Vec<FailureRate> {
        let mut counts: BTreeMap<(&AgentName, &TaskType, Class), u64> = BTreeMap::new();
        for (_, agent, task_type, class) in self.failures.iter().filter(|(at, ..)| *at > since) {
            *counts.entry((agent, task_type, *class)).or_default() += 1;
        }
        let rate = |((agent, task_type, class), failures): ((&AgentName, &TaskType, Class), u64)| FailureRate {
            agent: agent.clone(),
            task_type: task_type.clone(),
            class,
            failures,
        };
        counts.into_iter().map(rate).collect()
    }

    fn depths(&self) -> Vec<Depth> {
        let depth = |((agent, state), tasks): (&(AgentName, State), &u64)| Depth {
            agent: agent.clone(),
            state: *state,
            tasks: *tasks,
        };
        self.depths.iter().map(depth).collect()
    }

    /// Running tasks, in the order of their deadlines.
    fn running(&self) -> impl Iterator<Item = &Record> {
        self.running.iter().map(|&(_, seq)| self.at(seq))
    }

    fn lapsed(&self, now: Timestamp, limit: u32) -> Vec<Record> {
        let over = |record: &&Record| {
            record.lease.as_ref().is_some_and(|lease| lease.deadline <= now || lease.epoch != self.epoch)
        };
        if mutant::on("lease-never-lapses") {
            return Vec::new();
        }
        self.running().filter(over).take(limit as usize).cloned().collect()
    }
}

/// Where the task of this number stands among the records.
fn index(seq: u64) -> usize {
    usize::try_from(seq).map_or(usize::MAX, |seq| seq.saturating_sub(1))
}

/// The first page of what is in the order that was asked for.
fn cut(found: &mut dyn Iterator<Item = (Cursor, &Record)>, page: &PageAsk) -> Page<Record> {
    let mut keyed: Vec<(Cursor, &Record)> = found.take(page.size() + 1).collect();
    let more = keyed.len() > page.size();
    keyed.truncate(page.size());
    let next = keyed.last().filter(|_| more).map(|(cursor, _)| cursor.to_string());
    Page { items: keyed.into_iter().map(|(_, record)| record.clone()).collect(), next, unreadable: Vec::new() }
}

impl Engine for Memory {
    fn submit(&self, task: Task, integration: Integration, now: Timestamp) -> Pending<'_, Submitted> {
        self.write(now, |shelf| shelf.submit(task, integration, now))
    }

    fn lease(&self, ask: LeaseAsk, now: Timestamp) -> Pending<'_, Vec<Record>> {
        self.write(now, |shelf| shelf.lease(&ask, now))
    }

    fn command(&self, id: TaskId, command: Command, now: Timestamp) -> Pending<'_, Record> {
        self.write(now, |shelf| shelf.command(id, command, now))
    }

    fn journal(&self, id: TaskId, entry: journal::Entry, now: Timestamp) -> Pending<'_, Journaled> {
        self.write(now, |shelf| shelf.journal(id, entry, now))
    }

    fn steps(&self, id: TaskId) -> Pending<'_, Vec<Step>> {
        self.read(|shelf| Ok(shelf.ids.get(&id).and_then(|seq| shelf.journals.get(seq)).cloned().unwrap_or_default()))
    }

    fn spendings(&self, since: Timestamp) -> Pending<'_, Vec<Spending>> {
        self.read(|shelf| {
            let of_task = |(seq, steps): (&u64, &Vec<Step>)| -> Vec<Spending> {
                let counts = |step: &&Step| step.at > since && step.counted > 0;
                let task = shelf.at(*seq).task.id;
                let spending =
                    |step: &Step| Spending { at: step.at, task, agent: step.agent.clone(), micro_usd: step.counted };
                steps.iter().filter(counts).map(spending).collect()
            };
            let mut all: Vec<Spending> = shelf.journals.iter().flat_map(of_task).collect();
            all.sort_by_key(|spending| (spending.at, spending.task));
            Ok(all)
        })
    }

    fn lapsed(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        self.read(|shelf| Ok(shelf.lapsed(now, limit)))
    }

    fn overdue(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        self.read(|shelf| {
            let passed = shelf.queues.overdue(now).into_iter().take(limit as usize);
            Ok(passed.map(|(_, seq)| shelf.at(seq).clone()).collect())
        })
    }

    fn held_by(&self, agent: AgentName, incarnation: Option<Incarnation>) -> Pending<'_, Vec<Record>> {
        self.read(|shelf| {
            let held = |record: &&Record| {
                record.lease.as_ref().is_some_and(|lease| {
                    lease.agent == agent && incarnation.is_none_or(|incarnation| lease.incarnation == incarnation)
                })
            };
            Ok(shelf.running().filter(held).cloned().collect())
        })
    }

    fn next_due(&self, now: Timestamp) -> Pending<'_, Option<Timestamp>> {
        self.read(|shelf| {
            let lease = shelf.running.iter().map(|&(deadline, _)| deadline).find(|deadline| *deadline > now);
            Ok(lease.into_iter().chain(shelf.queues.next_due(now)).min())
        })
    }

    fn record(&self, id: TaskId) -> Pending<'_, Option<Record>> {
        self.read(|shelf| Ok(shelf.ids.get(&id).map(|&seq| shelf.at(seq).clone())))
    }

    fn records(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(|shelf| shelf.records(&filter, &page))
    }

    fn dead_letters(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(|shelf| shelf.dead_letters(&filter, &page))
    }

    fn deaths(&self, since: Timestamp) -> Pending<'_, Vec<Death>> {
        self.read(|shelf| {
            let mut deaths: Vec<_> = shelf.deaths.iter().filter(|death| death.at > since).cloned().collect();
            deaths.sort_by_key(|death| death.at);
            Ok(deaths)
        })
    }

    fn failure_rates(&self, since: Timestamp) -> Pending<'_, Vec<FailureRate>> {
        self.read(|shelf| Ok(shelf.failure_rates(since)))
    }

    fn balance(&self) -> Pending<'_, Balance> {
        self.read(|shelf| {
            let mut balance = Balance::default();
            for (state, tasks) in &shelf.standing {
                balance.add_many(*state, tasks.len() as u64);
            }
            balance.add_pruned(shelf.pruned);
            Ok(balance)
        })
    }

    fn depths(&self) -> Pending<'_, Vec<Depth>> {
        self.read(|shelf| Ok(shelf.depths()))
    }

    fn publish(&self, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.write(now, |shelf| {
            shelf.check_tasks(&events)?;
            shelf.append(events, now);
            Ok(())
        })
    }

    fn events(&self, after: u64, limit: u32) -> Pending<'_, Vec<Event>> {
        self.read(|shelf| {
            let skip = shelf.events.partition_point(|event| event.seq <= after);
            Ok(shelf.events.iter().skip(skip).take(limit as usize).cloned().collect())
        })
    }

    fn history(&self, id: TaskId) -> Pending<'_, Vec<Event>> {
        self.read(|shelf| Ok(shelf.events.iter().filter(|event| event.task == Some(id)).cloned().collect()))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.last_event.subscribe()
    }

    fn save(&self, documents: Vec<Document>, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.write(now, |shelf| shelf.save(documents, events, now))
    }

    fn documents(&self, kind: &'static str) -> Pending<'_, Vec<Document>> {
        self.read(|shelf| Ok(shelf.documents.values().filter(|document| document.kind == kind).cloned().collect()))
    }

    fn saves(&self) -> Option<u64> {
        Some(self.locked().saves)
    }

    fn prune(&self, ask: PruneAsk, now: Timestamp) -> Pending<'_, Stretch> {
        self.write(now, |shelf| Ok(Stretch { pruned: shelf.prune(&ask, now), next: None }))
    }

    fn epoch(&self) -> u64 {
        self.locked().epoch
    }

    fn high_water(&self) -> Timestamp {
        self.locked().high_water
    }

    fn writable(&self) -> Pending<'_, ()> {
        let shelf = self.locked();
        let answer = if shelf.closed { Err(Error::Closed) } else { self.tried(&shelf) };
        Box::pin(ready(answer))
    }

    fn write_trouble(&self) -> watch::Receiver<Option<String>> {
        self.write_trouble.subscribe()
    }

    fn close(&self) -> Pending<'_, ()> {
        self.locked().closed = true;
        Box::pin(ready(Ok(())))
    }
}
