//! The engine in one SQLite file: durable, for one process, and open to the sqlite3 shell.
//!
//! WAL with `synchronous=FULL`; one thread writes in groups, others read. Acknowledged means synced. The order of
//! dispatch is kept in memory and rebuilt from the file at a start. It answers from threads of its own, so under
//! tokio's paused time the clock may run ahead of an answer: simulations use [`super::memory`].
//!
//! `sqlite3 backstop.db 'SELECT * FROM dlq'` and `… FROM tasks` show what is there, also while the team runs.

#[cfg(any(test, feature = "testing"))]
pub mod damaged;
mod depth;
mod find;
mod indexes;
mod listed;
mod mend;
mod prune;
mod reader;
mod recent;
mod row;
mod schema;
mod store;
mod types;
mod unreadable;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rusqlite::Connection;
use tokio::sync::watch;

use crate::agent::Incarnation;
use crate::balance::Balance;
use crate::engine::{Document, Engine, Error, Journaled, LeaseAsk, Pending, PruneAsk, Stretch, Submitted};
use crate::event::{Event, NewEvent};
use crate::journal::{Entry, Spending, Step};
use crate::ledger::Command;
use crate::query::{Death, Depth, FailureRate, Filter, Page, PageAsk, Unreadable};
use crate::record::Record;
use crate::task::{AgentName, Integration, Task, TaskId};
use crate::time::Timestamp;
use indexes::{Indexes, is_corrupt};
use reader::Readers;
use schema::{DirLock, io};
use store::{Store, Work};
use unreadable::UnreadableTasks;
use writer::{Shared, Writer};

/// The durable engine. Dropping it ends its threads and gives the directory back.
#[derive(Debug)]
pub struct Embedded {
    // In this order: threads end before the lock is given back.
    writer: Writer,
    readers: Readers,
    shared: Shared,
    epoch: u64,
    lock: std::sync::Mutex<Option<DirLock>>,
}

impl Embedded {
    /// Opens the store in a directory, creating both if need be, and begins a new epoch.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::NewerFormat`] when a newer version wrote it,
    /// [`Error::NotAStore`] when the file is something else or damaged, [`Error::Io`] for everything else.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| io(dir, "create the directory", source))?;
        let lock = DirLock::take(dir)?;
        let path = schema::prepare(dir)?;
        let unreadable = Arc::new(UnreadableTasks::default());
        let indexes = Arc::new(Indexes::default());
        let begin = || -> rusqlite::Result<Store> {
            let opened = Store::open(&path, Arc::clone(&unreadable), &indexes);
            let mut store = match opened {
                Err(failed) if is_corrupt(&failed) => {
                    tracing::error!(path = %path.display(), error = %failed, "the store cannot be opened yet");
                    indexes.failed_the_writer(&failed);
                    indexes.mend(&path)?;
                    Store::open(&path, Arc::clone(&unreadable), &indexes)?
                }
                opened => opened?,
            };
            store.begin()?;
            store.start_epoch()?;
            store.told(now);
            store.commit()?;
            Ok(store)
        };
        let store = begin().map_err(|source| io(&path, "open the store", source))?;
        let epoch = store.epoch();
        let shared = Shared {
            last_event: Arc::new(watch::Sender::new(store.last_event())),
            high_water: Arc::new(watch::Sender::new(store.high_water())),
            write_trouble: Arc::new(watch::Sender::new(None)),
            pages_max: Arc::new(AtomicU32::new(0)),
            unreadable,
            indexes,
            path,
        };
        let no_thread = |source| io(&shared.path, "start its threads", source);
        let readers = Readers::spawn(&shared).map_err(no_thread)?;
        let writer = Writer::spawn(store, shared.clone()).map_err(no_thread)?;
        Ok(Self { writer, readers, shared, epoch, lock: std::sync::Mutex::new(Some(lock)) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.shared.path.clone()
    }

    /// Writes the file of a closed store anew, without its free pages: how many bytes it had, and has. Needs as much
    /// room again while it does.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn compact(dir: &Path) -> Result<(u64, u64), Error> {
        let _lock = DirLock::take(dir)?;
        let path = schema::prepare(dir)?;
        let size = || fs::metadata(&path).map(|file| file.len()).map_err(|source| io(&path, "read its size", source));
        let before = size()?;
        schema::compact(&path).map_err(|source| io(&path, "write the store anew", source))?;
        Ok((before, size()?))
    }

    /// Reads rows, and notes those that cannot be read. Where an index may not fit its table, they are read again once the
    /// writer has seen to that: whoever only asks would be failed by it for ever.
    fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection, &UnreadableTasks) -> Work<T> + Send + Sync + 'static,
    ) -> Pending<'_, T> {
        let work = Arc::new(work);
        let ask = move || {
            let (work, unreadable) = (Arc::clone(&work), Arc::clone(&self.shared.unreadable));
            self.readers.ask(move |db| work(db, &unreadable))
        };
        let indexes = &self.shared.indexes;
        let (before, asked) = (indexes.made_anew(), ask());
        Box::pin(async move {
            match asked.await {
                Err(_) if indexes.doubted() || indexes.made_anew() != before => {
                    // It mends them before it does anything; what else it says is for who wants something written.
                    let _nothing_asked = self.writer.ask(|_| Ok(())).await;
                    ask().await
                }
                answer => answer,
            }
        })
    }

    /// Lets the file grow to so many pages of 4 KiB and no further, as a full disk would; 0: no bound.
    #[cfg(any(test, feature = "testing"))]
    pub fn limit_pages(&self, pages: u32) {
        self.shared.pages_max.store(pages, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Engine for Embedded {
    fn submit(&self, task: Task, integration: Integration, now: Timestamp) -> Pending<'_, Submitted> {
        self.writer.ask(move |store| {
            store.told(now);
            store.submit(task, integration, now)
        })
    }

    fn lease(&self, ask: LeaseAsk, now: Timestamp) -> Pending<'_, Vec<Record>> {
        self.writer.ask(move |store| {
            store.told(now);
            store.lease(&ask, now)
        })
    }

    fn command(&self, id: TaskId, command: Command, now: Timestamp) -> Pending<'_, Record> {
        self.writer.ask(move |store| {
            store.told(now);
            store.command(id, command, now)
        })
    }

    fn journal(&self, id: TaskId, entry: Entry, now: Timestamp) -> Pending<'_, Journaled> {
        self.writer.ask(move |store| {
            store.told(now);
            store.journal(id, entry, now)
        })
    }

    fn steps(&self, id: TaskId) -> Pending<'_, Vec<Step>> {
        self.read(move |db, unreadable| find::steps(db, unreadable, id))
    }

    fn spendings(&self, since: Timestamp) -> Pending<'_, Vec<Spending>> {
        self.read(move |db, unreadable| find::spendings(db, unreadable, since))
    }

    fn lapsed(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        let epoch = self.epoch;
        self.read(move |db, unreadable| find::lapsed(db, unreadable, now, epoch, limit))
    }

    fn overdue(&self, now: Timestamp, limit: u32) -> Pending<'_, Vec<Record>> {
        self.writer.ask(move |store| store.overdue(now, limit))
    }

    fn held_by(&self, agent: AgentName, incarnation: Option<Incarnation>) -> Pending<'_, Vec<Record>> {
        self.read(move |db, unreadable| find::held_by(db, unreadable, &agent, incarnation))
    }

    fn note_unreadable(&self, what: &str, why: &str) {
        self.shared.unreadable.note(&format!("({what})"), &why);
    }

    fn unreadable(&self) -> Vec<Unreadable> {
        self.shared.unreadable.all()
    }

    fn next_due(&self, now: Timestamp) -> Pending<'_, Option<Timestamp>> {
        self.writer.ask(move |store| store.next_due(now))
    }

    fn record(&self, id: TaskId) -> Pending<'_, Option<Record>> {
        self.read(move |db, unreadable| find::record(db, unreadable, id))
    }

    fn records(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(move |db, unreadable| find::records(db, unreadable, &filter, &page))
    }

    fn dead_letters(&self, filter: Filter, page: PageAsk) -> Pending<'_, Page<Record>> {
        self.read(move |db, unreadable| find::dead_letters(db, unreadable, &filter, &page))
    }

    fn deaths(&self, since: Timestamp) -> Pending<'_, Vec<Death>> {
        self.read(move |db, unreadable| find::deaths(db, unreadable, since))
    }

    fn failure_rates(&self, since: Timestamp) -> Pending<'_, Vec<FailureRate>> {
        self.read(move |db, unreadable| find::failure_rates(db, unreadable, since))
    }

    fn balance(&self) -> Pending<'_, Balance> {
        self.read(find::balance)
    }

    fn depths(&self) -> Pending<'_, Vec<Depth>> {
        self.read(find::depths)
    }

    fn publish(&self, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.writer.ask(move |store| {
            store.told(now);
            store.publish(&events, now)
        })
    }

    fn events(&self, after: u64, limit: u32) -> Pending<'_, Vec<Event>> {
        self.read(move |db, unreadable| find::events(db, unreadable, after, limit))
    }

    fn history(&self, id: TaskId) -> Pending<'_, Vec<Event>> {
        self.read(move |db, unreadable| find::history(db, unreadable, id))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.last_event.subscribe()
    }

    fn save(&self, documents: Vec<Document>, events: Vec<NewEvent>, now: Timestamp) -> Pending<'_, ()> {
        self.writer.ask(move |store| {
            store.told(now);
            store.save(documents, &events, now)
        })
    }

    fn documents(&self, kind: &'static str) -> Pending<'_, Vec<Document>> {
        self.read(move |db, unreadable| find::documents(db, unreadable, kind))
    }

    fn prune(&self, ask: PruneAsk, now: Timestamp) -> Pending<'_, Stretch> {
        Box::pin(prune::stretch(self, ask, now))
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn high_water(&self) -> Timestamp {
        *self.shared.high_water.borrow()
    }

    fn writable(&self) -> Pending<'_, ()> {
        self.writer.ask(|store| store.probe())
    }

    fn write_trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.write_trouble.subscribe()
    }

    fn close(&self) -> Pending<'_, ()> {
        self.readers.close();
        let closed = self.writer.close();
        Box::pin(async move {
            closed.await?;
            self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            Ok(())
        })
    }
}
