//! Who waits for a task is woken when it may have come to its end, and by little else.
//!
//! A thousand callers who each look at their task at every commit read a million records a second for nothing. Here one
//! reader follows the feed for all of them, for as long as anybody waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::office::Office;
use crate::task::TaskId;

/// How many events are read at once.
const BATCH: u32 = 1_000;

/// The bells of the tasks that somebody waits for.
#[derive(Default)]
pub(crate) struct Bells(Mutex<Hung>);

#[derive(Default)]
struct Hung {
    /// With how many wait for each.
    bells: HashMap<TaskId, (usize, Arc<Notify>)>,
    /// Does somebody follow the feed?
    followed: bool,
}

/// The bell of one task, while somebody waits for it.
pub(crate) struct Bell {
    office: Arc<Office>,
    task: TaskId,
    rings: Arc<Notify>,
}

impl Bells {
    fn hung(&self) -> MutexGuard<'_, Hung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    /// Rings when this task may have come to its end, from now on.
    pub(crate) fn of(office: &Arc<Office>, task: TaskId) -> Self {
        let mut hung = office.bells.hung();
        let (waiting, rings) = hung.bells.entry(task).or_default();
        *waiting += 1;
        let rings = Arc::clone(rings);
        if !std::mem::replace(&mut hung.followed, true) {
            tokio::spawn(follow(Arc::downgrade(office), office.engine.watch()));
        }
        drop(hung);
        Self { office: Arc::clone(office), task, rings }
    }

    /// Ends at the next ring. What is looked at after this was called, and before it is awaited, is not missed.
    pub(crate) fn next(&self) -> impl Future<Output = ()> {
        let mut ring = Box::pin(Arc::clone(&self.rings).notified_owned());
        ring.as_mut().enable();
        ring
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut hung = self.office.bells.hung();
        if let Some((waiting, _)) = hung.bells.get_mut(&self.task) {
            *waiting -= 1;
            if *waiting == 0 {
                hung.bells.remove(&self.task);
            }
        }
    }
}

impl Bells {
    /// Wakes everybody: each looks for itself.
    pub(crate) fn ring_all(&self) {
        self.hung().bells.values().for_each(|(_, bell)| bell.notify_waiters());
    }

    fn ring(&self, tasks: impl Iterator<Item = TaskId>) {
        let hung = self.hung();
        tasks.filter_map(|task| hung.bells.get(&task)).for_each(|(_, bell)| bell.notify_waiters());
    }

    /// Nobody waits any more: the follower may go.
    fn over(&self) -> bool {
        let mut hung = self.hung();
        hung.followed = !hung.bells.is_empty();
        !hung.followed
    }
}

/// Follows the feed until nobody waits any more. Between two looks it holds nothing: who waits holds the office, and a
/// team that is dropped lets go of its store at once.
async fn follow(office: Weak<Office>, mut watch: watch::Receiver<u64>) {
    let mut after = *watch.borrow_and_update();
    // What happened between the first bell and now: whoever waits looks once more.
    if let Some(office) = office.upgrade() {
        office.bells.ring_all();
    }
    while let Some(office) = office.upgrade() {
        while after < *watch.borrow_and_update() {
            match office.engine.events(after, BATCH).await {
                Ok(events) => {
                    let read = events.len() as u64;
                    let Some(last) = events.last() else {
                        office.bells.ring_all();
                        break;
                    };
                    // One that cannot be read may be an end.
                    if last.seq - std::mem::replace(&mut after, last.seq) != read {
                        office.bells.ring_all();
                    }
                    let ends = events.iter().filter(|event| !event.what.goes_on());
                    office.bells.ring(ends.filter_map(|event| event.task));
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the feed cannot be read");
                    office.bells.ring_all();
                    break;
                }
            }
        }
        if office.bells.over() {
            return;
        }
        drop(office);
        if watch.changed().await.is_err() {
            return;
        }
    }
}
