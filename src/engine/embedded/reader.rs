//! The readers: a few threads with connections of their own, that see what is committed and hold nobody up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::indexes::Indexes;
use super::schema;
use super::store::{Trouble, Work};
use super::writer::{Shared, spoken};
use crate::engine::{Error, Pending};

/// How many readers: two, so that one long listing does not hold up every screen.
const READERS: usize = 2;

/// Reads on the connection, or says why not when there is none; `true`: the connection can be kept.
type Job = Box<dyn FnOnce(Result<&mut Connection, Error>, &Path) -> bool + Send>;

/// The handle of the readers' threads.
#[derive(Debug)]
pub(super) struct Readers {
    desk: Arc<Desk>,
    indexes: Arc<Indexes>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn spawn(shared: &Shared) -> std::io::Result<Self> {
        let mut readers = Self { desk: Arc::default(), indexes: Arc::clone(&shared.indexes), threads: Vec::new() };
        readers.desk.line().readers = READERS;
        for number in 0..READERS {
            let (path, desk) = (shared.path.clone(), Serving { desk: Arc::clone(&readers.desk), number });
            let thread = std::thread::Builder::new().name("backstop-reader".to_owned());
            readers.threads.push(thread.spawn(move || desk.serve(&path))?);
        }
        Ok(readers)
    }

    /// Has something read, all of it from one moment.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Work<T> + Send + 'static,
    ) -> Pending<'_, T> {
        let (reply, answer) = oneshot::channel();
        let indexes = Arc::clone(&self.indexes);
        let job: Job = Box::new(move |connection, path| {
            let outcome = match connection {
                Ok(connection) => in_one_moment(connection, work),
                Err(none) => Err(Trouble::Refused(none)),
            };
            let mut sound = true;
            if let Err(Trouble::Sqlite(failed)) = &outcome {
                sound = false;
                indexes.failed_a_reader(failed);
            }
            // Whoever asked may have stopped waiting.
            let _nobody_waits = reply.send(outcome.map_err(|trouble| spoken(trouble, path)));
            sound
        });
        let taken = self.desk.take(job);
        Box::pin(async move { if taken { answer.await.unwrap_or(Err(Error::Closed)) } else { Err(Error::Closed) } })
    }

    /// Takes no more questions; those asked before are answered.
    pub(super) fn close(&self) {
        self.desk.close();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A panic of the thread has already shown itself as `Closed` to whoever asked.
            let _panicked = thread.join();
        }
    }
}

/// Where questions wait for a reader, and readers for a question.
#[derive(Default)]
struct Desk {
    line: Mutex<Line>,
    bells: [Condvar; READERS],
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// Who waits, the last that came at the end.
    idle: Vec<usize>,
    /// How many are there at all.
    readers: usize,
    closed: bool,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: nobody is there to answer.
    fn take(&self, job: Job) -> bool {
        let mut line = self.line();
        if line.closed {
            return false;
        }
        line.jobs.push_back(job);
        // The one that read last: its statements are prepared and its pages are at hand. The other opens no connection, and
        // keeps no cache, before two are needed; but for a question that comes before who answered the last is back in line.
        if let Some(bell) = line.idle.pop().and_then(|number| self.bells.get(number)) {
            bell.notify_one();
        }
        true
    }

    /// What this reader is to do next, once there is something. None: nothing any more.
    fn next(&self, number: usize) -> Option<Job> {
        let bell = self.bells.get(number)?;
        let mut line = self.line();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                line.idle.retain(|idle| *idle != number);
                return Some(job);
            }
            if line.closed {
                return None;
            }
            if !line.idle.contains(&number) {
                line.idle.push(number);
            }
            line = bell.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.line().closed = true;
        self.bells.iter().for_each(Condvar::notify_all);
    }
}

/// One reader at its desk.
struct Serving {
    desk: Arc<Desk>,
    number: usize,
}

impl Serving {
    fn serve(self, path: &Path) {
        let mut connection = None;
        while let Some(job) = self.desk.next(self.number) {
            let opened = match connection.take() {
                Some(open) => Ok(open),
                None => schema::connect_reader(path),
            };
            match opened {
                Ok(mut open) => connection = job(Ok(&mut open), path).then_some(open),
                Err(source) => {
                    job(Err(schema::io(path, "open the store for reading", source)), path);
                }
            }
        }
    }
}

impl Drop for Serving {
    /// A reader that panicked leaves the questions to the other; when none is left, nobody may wait for an answer.
    fn drop(&mut self) {
        let unanswered = {
            let mut line = self.desk.line();
            line.readers -= 1;
            line.closed |= line.readers == 0;
            if line.readers == 0 { std::mem::take(&mut line.jobs) } else { VecDeque::new() }
        };
        drop(unanswered);
    }
}

fn in_one_moment<T>(connection: &mut Connection, work: impl FnOnce(&Connection) -> Work<T>) -> Work<T> {
    let moment = connection.transaction()?;
    let found = work(&moment)?;
    moment.finish()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(readers: usize) -> Arc<Desk> {
        let desk = Arc::<Desk>::default();
        desk.line().readers = readers;
        desk
    }

    fn asked(desk: &Desk) -> (bool, oneshot::Receiver<()>) {
        let (reply, answer) = oneshot::channel();
        let taken = desk.take(Box::new(move |_, _| reply.send(()).is_ok()));
        (taken, answer)
    }

    #[test]
    fn the_reader_that_came_last_is_called_first() {
        let desk = desk(2);
        desk.line().idle = vec![1, 0];
        let (taken, _answer) = asked(&desk);
        assert!(taken);
        assert_eq!(desk.line().idle, [1]);
    }

    #[test]
    fn nobody_waits_for_readers_that_are_gone() {
        let desk = desk(2);
        drop(Serving { desk: Arc::clone(&desk), number: 0 });
        let (taken, mut answer) = asked(&desk);
        assert!(taken, "one is left");
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(Serving { desk: Arc::clone(&desk), number: 1 });
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(!asked(&desk).0);
    }

    #[test]
    fn what_was_asked_before_it_closed_is_answered() {
        let desk = desk(1);
        let (_, mut answer) = asked(&desk);
        desk.close();
        assert!(!asked(&desk).0);
        Serving { desk, number: 0 }.serve(Path::new("nowhere"));
        assert_eq!(answer.try_recv(), Ok(()));
    }
}
