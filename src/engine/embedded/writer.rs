//! The writer: one thread, one transaction for all that has gathered, one sync, then every answer.
//!
//! While a group is being synced the next one gathers; that is the whole of the throughput. When the store fails
//! under a group, nobody in it is told that anything was done, and the store is opened anew from the file before the
//! next group. A sync is never tried again: after a failed one nobody knows what the disk holds, so the log is written
//! into the file and begun anew before anything else is acknowledged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::indexes::Indexes;
use super::schema::{checkpoint, io};
use super::store::{Store, Trouble, Work};
use super::unreadable::UnreadableTasks;
use crate::engine::{Error, Pending};
use crate::error_chain::in_full;
use crate::query::Unreadable;
use crate::time::Timestamp;

/// The most pieces of work in one transaction: bounds how long the first of them waits for its answer.
const GROUP_MAX: usize = 2_048;

/// A piece of work and who waits for it.
trait Job: Send {
    /// Does it. `Err`: the store failed.
    fn run(&mut self, store: &mut Store) -> Result<(), Arc<rusqlite::Error>>;
    /// Tells the outcome, once it is durable or known not to be.
    fn answer(self: Box<Self>, path: &Path, failed: Option<&Arc<rusqlite::Error>>);
}

struct Asked<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, Trouble>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, F: FnOnce(&mut Store) -> Work<T> + Send> Job for Asked<T, F> {
    fn run(&mut self, store: &mut Store) -> Result<(), Arc<rusqlite::Error>> {
        let Some(work) = self.work.take() else { return Ok(()) };
        match work(store) {
            Err(Trouble::Sqlite(source)) => Err(Arc::new(source)),
            outcome => {
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, path: &Path, failed: Option<&Arc<rusqlite::Error>>) {
        let answer = match (failed, self.outcome) {
            (Some(source), _) => Err(io(path, "write", Arc::clone(source))),
            (None, Some(outcome)) => outcome.map_err(|trouble| spoken(trouble, path)),
            (None, None) => Err(Error::Closed),
        };
        // Whoever asked may have stopped waiting; the work is done all the same.
        let _nobody_waits = self.reply.send(answer);
    }
}

/// Trouble as the seam tells it.
pub(super) fn spoken(trouble: Trouble, path: &Path) -> Error {
    match trouble {
        Trouble::Refused(refused) => refused,
        Trouble::Sqlite(source) => io(path, "read", source),
        Trouble::Damaged(source) => Error::NotAStore {
            path: path.display().to_string(),
            why: format!("a row does not hold what was written: {source}"),
        },
        Trouble::Unreadable(Unreadable { id, why }) => Error::Unreadable { id, why },
    }
}

enum Message {
    Work(Box<dyn Job>),
    ShortenLog(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// What the handle of the writer sees of it.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// The number of the last event committed.
    pub(super) last_event: Arc<watch::Sender<u64>>,
    /// The latest time committed.
    pub(super) high_water: Arc<watch::Sender<Timestamp>>,
    /// What the last group met; none where it was committed.
    pub(super) write_trouble: Arc<watch::Sender<Option<String>>>,
    /// The most pages the file may have; 0: no bound. For tests of a full disk.
    pub(super) pages_max: Arc<AtomicU32>,
    /// What cannot be read.
    pub(super) unreadable: Arc<UnreadableTasks>,
    /// What is known of the indexes.
    pub(super) indexes: Arc<Indexes>,
}

/// The handle of the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    inbox: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn spawn(store: Store, shared: Shared) -> std::io::Result<Self> {
        let (inbox, messages) = channel();
        let thread = std::thread::Builder::new()
            .name("backstop-writer".to_owned())
            .spawn(move || Loop { store: Some(store), shared, pages_max: 0 }.run(&messages))?;
        Ok(Self { inbox: Some(inbox), thread: Some(thread) })
    }

    /// Has a piece of work done in the next group.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Work<T> + Send + 'static,
    ) -> Pending<'_, T> {
        let (reply, answer) = oneshot::channel();
        let job = Asked { work: Some(work), outcome: None, reply };
        let sent = self.inbox.as_ref().is_some_and(|inbox| inbox.send(Message::Work(Box::new(job))).is_ok());
        Box::pin(async move { if sent { answer.await.unwrap_or(Err(Error::Closed)) } else { Err(Error::Closed) } })
    }

    /// Has what is left of the log written into the file, between two groups, so that it begins anew.
    pub(super) fn shorten_log(&self) -> Pending<'_, ()> {
        let (done, shortened) = oneshot::channel();
        let sent = self.inbox.as_ref().is_some_and(|inbox| inbox.send(Message::ShortenLog(done)).is_ok());
        Box::pin(async move { if sent { shortened.await.or(Err(Error::Closed)) } else { Err(Error::Closed) } })
    }

    /// Ends the thread after all that was asked before.
    pub(super) fn close(&self) -> Pending<'_, ()> {
        let (done, closed) = oneshot::channel();
        let sent = self.inbox.as_ref().is_some_and(|inbox| inbox.send(Message::Close(done)).is_ok());
        Box::pin(async move {
            if sent {
                // An error here means that the thread has ended: closed all the same.
                let _ended = closed.await;
            }
            Ok(())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already shown itself as `Closed` to everybody who asked.
            let _panicked = thread.join();
        }
    }
}

/// What is told of a group.
struct Committed {
    last_event: u64,
    high_water: Timestamp,
    /// Did it change any row?
    wrote: bool,
}

struct Loop {
    store: Option<Store>,
    shared: Shared,
    pages_max: u32,
}

impl Loop {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let mut group = Vec::new();
            let mut shorten = Vec::new();
            let mut close = None;
            for message in std::iter::once(first).chain(messages.try_iter().take(GROUP_MAX)) {
                match message {
                    Message::Work(job) => group.push(job),
                    Message::ShortenLog(done) => shorten.push(done),
                    Message::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
            }
            self.commit(group);
            if !shorten.is_empty() {
                self.shorten_log();
                for done in shorten {
                    let _nobody_waits = done.send(());
                }
            }
            if let Some(done) = close {
                if let Some(store) = self.store.take() {
                    // A log left behind is read at the next start; the checkpoint only saves that work.
                    let _left_behind = store.checkpoint();
                }
                let _nobody_waits = done.send(());
                return;
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Job>>) {
        if group.is_empty() {
            return;
        }
        let outcome = self.transact(&mut group);
        match &outcome {
            Ok(Committed { last_event, high_water, wrote }) => {
                self.shared.high_water.send_replace(*high_water);
                let moved = |seen: &mut u64| std::mem::replace(seen, *last_event) != *last_event;
                self.shared.last_event.send_if_modified(moved);
                // A group that only reads is committed on a full disk, too.
                if *wrote {
                    self.shared.write_trouble.send_if_modified(|trouble| trouble.take().is_some());
                }
            }
            Err(failed) => {
                tracing::error!(path = %self.shared.path.display(), error = %failed, "the store failed; opening it anew");
                self.store = None;
                self.shared.indexes.failed_the_writer(failed);
                let said = in_full(&io(&self.shared.path, "write", Arc::clone(failed)));
                self.shared.write_trouble.send_if_modified(|trouble| trouble.replace(said).is_none());
            }
        }
        let failed = outcome.err();
        group.into_iter().for_each(|job| job.answer(&self.shared.path, failed.as_ref()));
    }

    fn transact(&mut self, group: &mut [Box<dyn Job>]) -> Result<Committed, Arc<rusqlite::Error>> {
        match self.shared.indexes.mend(&self.shared.path) {
            // What waits was read by them, and is read again; the store that is open is well, if that should fail.
            Ok(true) if self.store.is_some() => match self.open() {
                Ok(store) => self.store = Some(store),
                Err(failed) => tracing::error!(error = %failed, "what waits is not read again yet"),
            },
            Ok(_) => {}
            // What needs none of them can be done meanwhile.
            Err(failed) => tracing::error!(error = %failed, "the indexes are not made anew yet"),
        }
        let mut store = match self.store.take() {
            Some(store) => store,
            None => {
                let store = self.open()?;
                store.renew_log()?;
                store
            }
        };
        self.bound(&store)?;
        let before = store.db.total_changes();
        store.begin()?;
        for job in group {
            job.run(&mut store)?;
        }
        store.commit()?;
        let (last_event, high_water) = (store.last_event(), store.high_water());
        let wrote = store.db.total_changes() != before;
        self.store = Some(store);
        Ok(Committed { last_event, high_water, wrote })
    }

    fn open(&mut self) -> rusqlite::Result<Store> {
        self.pages_max = 0;
        Store::open(&self.shared.path, Arc::clone(&self.shared.unreadable), &self.shared.indexes)
    }

    /// All that is in the log is synced there already: what fails here is tried again the next time, as with the
    /// checkpoints SQLite makes by itself.
    fn shorten_log(&self) {
        let Some(store) = &self.store else { return };
        if let Err(failed) = checkpoint(&store.db) {
            tracing::warn!(path = %self.shared.path.display(), error = %failed, "the log was not written into the file");
        }
    }

    #[cfg(any(test, feature = "testing"))]
    fn bound(&mut self, store: &Store) -> rusqlite::Result<()> {
        let wanted = self.shared.pages_max.load(Ordering::Relaxed);
        if wanted != self.pages_max {
            store.limit_pages(if wanted == 0 { u32::MAX - 1 } else { wanted })?;
            self.pages_max = wanted;
        }
        Ok(())
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn bound(&mut self, _store: &Store) -> rusqlite::Result<()> {
        self.pages_max = self.shared.pages_max.load(Ordering::Relaxed);
        Ok(())
    }
}
