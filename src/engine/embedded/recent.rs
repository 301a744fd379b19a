//! Records that will probably change again soon, so that a change need not read what the last one wrote.
//!
//! Two generations: what is used while it is in the older one moves to the younger; when that is full the older one goes.
//! So what runs stays, however long the line of those that wait behind it.

use std::collections::HashMap;

use crate::record::Record;
use crate::task::TaskId;

/// How many records a generation holds: as many as run at once where much does, so that two of them hold what runs.
const GENERATION: usize = 2_048;
/// A record that takes more than this in its rows, in bytes, is not kept.
const BYTES_MAX: usize = 8 * 1024;

/// One generation.
#[derive(Debug, Default)]
struct Generation {
    records: HashMap<u64, Box<Record>>,
    ids: HashMap<TaskId, u64>,
}

impl Generation {
    fn take(&mut self, seq: u64, id: TaskId) -> Option<Box<Record>> {
        self.ids.remove(&id);
        self.records.remove(&seq)
    }
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: Generation,
    old: Generation,
}

impl Recent {
    /// The record of this number, if it is kept.
    pub(super) fn get(&self, seq: u64) -> Option<&Record> {
        [&self.young, &self.old].into_iter().find_map(|generation| generation.records.get(&seq)).map(|kept| &**kept)
    }

    /// The number of this task, if its record is kept.
    pub(super) fn find(&self, id: TaskId) -> Option<u64> {
        [&self.young, &self.old].into_iter().find_map(|generation| generation.ids.get(&id)).copied()
    }

    /// Keeps a record that was just written or read, and takes so many bytes there.
    pub(super) fn keep(&mut self, seq: u64, record: &Record, bytes: usize) {
        if bytes <= BYTES_MAX {
            self.enter(seq, Box::new(record.clone()));
        }
    }

    /// What is kept of it is this now; what has ended is let go of.
    pub(super) fn update(&mut self, seq: u64, record: &Record) {
        if record.ended_at.is_some() {
            self.forget(seq, record.task.id);
        } else if let Some(kept) = self.young.records.get_mut(&seq) {
            kept.as_mut().clone_from(record);
        } else if let Some(mut kept) = self.old.take(seq, record.task.id) {
            kept.as_mut().clone_from(record);
            self.enter(seq, kept);
        }
    }

    fn enter(&mut self, seq: u64, record: Box<Record>) {
        if self.young.records.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.ids.insert(record.task.id, seq);
        self.young.records.insert(seq, record);
    }

    /// Lets go of one.
    pub(super) fn forget(&mut self, seq: u64, id: TaskId) {
        for generation in [&mut self.young, &mut self.old] {
            let _not_kept = generation.take(seq, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::conformance::{at, integration, task};

    fn record(n: u64) -> Record {
        Record::new(task(n, at(0)), integration("anthropic"), at(0)).0
    }

    /// All that were kept were let go of at once when there were too many: with a long line of work waiting, what ran was read
    /// from the file again for each of its changes.
    #[test]
    fn what_runs_is_kept_however_much_waits_behind_it() {
        let mut recent = Recent::default();
        let mut runs = record(0);
        recent.keep(0, &runs, 100);
        let line = GENERATION as u64 * 3;
        for n in 1..=line {
            recent.keep(n, &record(n), 100);
            runs.fence = n;
            recent.update(0, &runs);
            assert_eq!(recent.get(0), Some(&runs));
        }
        assert_eq!(recent.find(runs.task.id), Some(0));
        assert_eq!((recent.get(1), recent.find(record(1).task.id)), (None, None), "the line has grown past it");
        assert!(recent.get(line).is_some());
        assert!(recent.young.records.len() <= GENERATION && recent.old.records.len() <= GENERATION);
    }

    #[test]
    fn what_is_large_or_over_is_not_kept() {
        let mut recent = Recent::default();
        let mut one = record(1);
        recent.keep(1, &one, BYTES_MAX + 1);
        recent.update(1, &one);
        assert_eq!((recent.get(1), recent.find(one.task.id)), (None, None));
        recent.keep(1, &one, BYTES_MAX);
        one.ended_at = Some(at(1));
        recent.update(1, &one);
        assert_eq!((recent.get(1), recent.find(one.task.id)), (None, None));
    }
}
