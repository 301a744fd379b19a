//! The readers: a few threads with connections of their own, that see what is committed and hold nobody up.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema;
use super::store::{Trouble, Work};
use super::writer::spoken;
use crate::engine::{Error, Pending};

/// How many readers: two, so that one long listing does not hold up every screen.
const READERS: usize = 2;

/// Reads on the connection, or says why not when there is none; `true`: the connection can be kept.
type Job = Box<dyn FnOnce(Result<&mut Connection, Error>, &Path) -> bool + Send>;

/// The handle of the readers' threads.
#[derive(Debug)]
pub(super) struct Readers {
    inbox: Mutex<Option<Sender<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn spawn(path: &Path) -> std::io::Result<Self> {
        let (inbox, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let spawn = |_| {
            let (path, jobs) = (path.to_owned(), Arc::clone(&jobs));
            std::thread::Builder::new().name("backstop-reader".to_owned()).spawn(move || serve(&path, &jobs))
        };
        let threads = (0..READERS).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { inbox: Mutex::new(Some(inbox)), threads })
    }

    /// Has something read, all of it from one moment.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Work<T> + Send + 'static,
    ) -> Pending<'_, T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection, path| {
            let outcome = match connection {
                Ok(connection) => in_one_moment(connection, work),
                Err(none) => Err(Trouble::Refused(none)),
            };
            let sound = !matches!(outcome, Err(Trouble::Sqlite(_)));
            // Whoever asked may have stopped waiting.
            let _nobody_waits = reply.send(outcome.map_err(|trouble| spoken(trouble, path)));
            sound
        });
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sent = inbox.is_some_and(|inbox| inbox.send(job).is_ok());
        Box::pin(async move { if sent { answer.await.unwrap_or(Err(Error::Closed)) } else { Err(Error::Closed) } })
    }

    /// Takes no more questions; those asked before are answered.
    pub(super) fn close(&self) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

fn in_one_moment<T>(connection: &mut Connection, work: impl FnOnce(&Connection) -> Work<T>) -> Work<T> {
    let moment = connection.transaction()?;
    let found = work(&moment)?;
    moment.finish()?;
    Ok(found)
}

fn serve(path: &Path, jobs: &Mutex<Receiver<Job>>) {
    let mut connection = None;
    loop {
        let Ok(job) = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
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
