//! How many tasks there are of each type, and between which numbers they stand: a listing by type looks no further.
//!
//! No index leads from a type to its tasks: it would be one more to write with every task, for a question that is asked
//! now and then, and a type that nobody has took 220 ms among a million. Counted in memory, and stored with the change
//! that moved them among the numbers of the store, whose page nearly every group writes anyway. A store that another
//! version wrote to is counted once, when it is opened.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::row;
use crate::task::TaskType;

/// Up to which task they are counted.
const COUNTED: &str = "types_counted";
/// What is kept of each: the key is this and the type.
const TASKS: &str = "type_tasks/";
const FIRST: &str = "type_first/";
const LAST: &str = "type_last/";

/// The tasks of a type. What stood at an end may be gone.
#[derive(Clone, Copy, Debug)]
struct Span {
    tasks: i64,
    first: u64,
    last: u64,
}

/// The types that tasks have.
#[derive(Debug, Default)]
pub(super) struct Types {
    spans: BTreeMap<TaskType, Span>,
    moved: BTreeSet<TaskType>,
    /// What is stored was counted anew, and replaces all that was.
    anew: bool,
}

impl Types {
    /// As they are stored, if that is of this last task and can be read; counted otherwise.
    pub(super) fn read(db: &Connection, last_task: u64) -> rusqlite::Result<Self> {
        let of_task = db.query_row("SELECT value FROM meta WHERE key = ?1", [COUNTED], |row| row.get(0)).optional();
        if row::sound(of_task)?.flatten() == Some(last_task) {
            let mut stored = Self::default();
            let sql = "SELECT substr(tasks.key, length(?1) + 1), tasks.value, first.value, last.value
                       FROM meta AS tasks
                       LEFT JOIN meta AS first ON first.key = ?2 || substr(tasks.key, length(?1) + 1)
                       LEFT JOIN meta AS last ON last.key = ?3 || substr(tasks.key, length(?1) + 1)
                       WHERE tasks.key GLOB ?1 || '*'";
            if stored.add(db, sql, params![TASKS, FIRST, LAST])? {
                return Ok(stored);
            }
        }
        let mut counted = Self { anew: true, ..Self::default() };
        let _whole = counted.add(db, "SELECT type, count(*), min(seq), max(seq) FROM task GROUP BY type", [])?;
        counted.moved = counted.spans.keys().cloned().collect();
        Ok(counted)
    }

    /// Were these all of them?
    fn add(&mut self, db: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<bool> {
        let mut found = db.prepare(sql)?;
        let mut rows = found.query(params)?;
        let mut whole = true;
        while let Some(row) = rows.next()? {
            let span = |row| Ok((row::word(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            match row::sound(span(row))? {
                Some((task_type, tasks, first, last)) if tasks > 0 => {
                    self.spans.insert(task_type, Span { tasks, first, last });
                }
                Some(_) | None => whole = false,
            }
        }
        Ok(whole)
    }

    /// One more, with this number: a higher one than any before.
    pub(super) fn enter(&mut self, task_type: &TaskType, seq: u64) {
        match self.spans.get_mut(task_type) {
            Some(span) => (span.tasks, span.last) = (span.tasks.saturating_add(1), seq),
            None => {
                self.spans.insert(task_type.clone(), Span { tasks: 1, first: seq, last: seq });
            }
        }
        self.moves(task_type);
    }

    /// One less.
    pub(super) fn leave(&mut self, task_type: &TaskType) {
        if let Some(span) = self.spans.get_mut(task_type) {
            span.tasks = span.tasks.saturating_sub(1);
            self.moves(task_type);
        }
    }

    fn moves(&mut self, task_type: &TaskType) {
        if !self.moved.contains(task_type) {
            self.moved.insert(task_type.clone());
        }
    }

    /// Stores those that have moved, as of this last task. What nobody has any more is forgotten.
    pub(super) fn write(&mut self, db: &Connection, last_task: u64) -> rusqlite::Result<()> {
        if self.anew {
            for of in [TASKS, FIRST, LAST] {
                db.execute("DELETE FROM meta WHERE key GLOB ?1 || '*'", [of])?;
            }
        } else if self.moved.is_empty() {
            return Ok(());
        }
        self.anew = false;
        let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value
                   WHERE value <> excluded.value";
        let mut store = db.prepare_cached(sql)?;
        store.execute(params![COUNTED, last_task])?;
        for task_type in std::mem::take(&mut self.moved) {
            let Some(span) = self.spans.get(&task_type).copied() else { continue };
            if span.tasks > 0 {
                store.execute(params![format!("{TASKS}{task_type}"), span.tasks])?;
                store.execute(params![format!("{FIRST}{task_type}"), span.first])?;
                store.execute(params![format!("{LAST}{task_type}"), span.last])?;
            } else {
                self.spans.remove(&task_type);
                for of in [TASKS, FIRST, LAST] {
                    let gone = "DELETE FROM meta WHERE key = ?1";
                    db.prepare_cached(gone)?.execute([format!("{of}{task_type}")])?;
                }
            }
        }
        Ok(())
    }
}

/// Between which numbers the tasks of a type stand, both ends among them; none when there are none. Ends that cannot be read
/// may be anywhere: the next start counts anew.
pub(super) fn between(db: &Connection, task_type: &TaskType) -> rusqlite::Result<Option<(u64, u64)>> {
    let sql =
        "SELECT first.value, last.value FROM meta AS first JOIN meta AS last WHERE first.key = ?1 AND last.key = ?2";
    let ends = params![format!("{FIRST}{task_type}"), format!("{LAST}{task_type}")];
    let span = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found = db.prepare_cached(sql)?.query_row(ends, |row| row::sound(span(row))).optional()?;
    Ok(found.map(|span| span.unwrap_or((0, u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> TaskType {
        TaskType::new(name).expect("a name")
    }

    fn stored(db: &Connection) -> Vec<(String, Option<(u64, u64)>)> {
        let of = |name: &str| (name.to_owned(), between(db, &named(name)).expect("read"));
        ["audit", "build", "none"].map(of).to_vec()
    }

    fn store(tasks: &[(u64, &str)], meta: &[(&str, u64)]) -> Connection {
        let db = Connection::open_in_memory().expect("a store");
        db.execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
             CREATE TABLE task (seq INTEGER PRIMARY KEY, type TEXT NOT NULL) STRICT;",
        )
        .expect("tables");
        for (seq, task_type) in tasks {
            db.execute("INSERT INTO task VALUES (?1, ?2)", params![seq, task_type]).expect("written");
        }
        for (key, value) in meta {
            db.execute("INSERT INTO meta VALUES (?1, ?2)", params![key, value]).expect("written");
        }
        db
    }

    fn expect(audit: Option<(u64, u64)>, build: Option<(u64, u64)>) -> Vec<(String, Option<(u64, u64)>)> {
        vec![("audit".to_owned(), audit), ("build".to_owned(), build), ("none".to_owned(), None)]
    }

    #[test]
    fn what_comes_and_goes_moves_the_ends_and_is_found_again() {
        let db = store(&[], &[]);
        let mut types = Types::read(&db, 0).expect("counted");
        for (seq, name) in [(1, "audit"), (2, "build"), (3, "audit")] {
            types.enter(&named(name), seq);
        }
        types.write(&db, 3).expect("stored");
        assert_eq!(stored(&db), expect(Some((1, 3)), Some((2, 2))));
        let mut again = Types::read(&db, 3).expect("read");
        assert!(!again.anew, "what is stored is of the last task");
        again.leave(&named("audit"));
        again.leave(&named("build"));
        again.enter(&named("audit"), 4);
        again.write(&db, 4).expect("stored");
        assert_eq!(stored(&db), expect(Some((1, 4)), None), "the last of a type takes it along");
        let mut again = Types::read(&db, 4).expect("read");
        again.leave(&named("audit"));
        again.leave(&named("audit"));
        again.enter(&named("build"), 5);
        again.write(&db, 5).expect("stored");
        assert_eq!(stored(&db), expect(None, Some((5, 5))));
        assert_eq!(Types::read(&db, 5).expect("read").spans.len(), 1);
    }

    #[test]
    fn ends_that_cannot_be_read_may_be_anywhere() {
        let db = store(&[(1, "audit")], &[("type_first/audit", 1), ("type_last/audit", 1)]);
        assert_eq!(between(&db, &named("audit")).expect("read"), Some((1, 1)));
        db.execute("UPDATE meta SET value = -1 WHERE key = 'type_last/audit'", []).expect("damaged");
        assert_eq!(between(&db, &named("audit")).expect("read"), Some((0, u64::MAX)));
    }

    #[test]
    fn what_another_version_wrote_is_counted_anew() {
        let tasks = [(3, "build"), (5, "audit"), (9, "build")];
        for (case, meta) in [
            ("never counted", vec![]),
            ("counted up to a task before", vec![(COUNTED, 5), ("type_tasks/gone", 1), ("type_first/gone", 1)]),
            (
                "with ends that are not true any more",
                vec![
                    (COUNTED, 8),
                    ("type_tasks/none", 7),
                    ("type_first/none", 1),
                    ("type_last/none", 7),
                    ("type_last/build", 3),
                ],
            ),
        ] {
            let db = store(&tasks, &meta);
            let mut types = Types::read(&db, 9).expect("counted");
            types.write(&db, 9).expect("stored");
            assert_eq!(stored(&db), expect(Some((5, 5)), Some((3, 9))), "{case}");
            let again = Types::read(&db, 9).expect("read");
            assert!(!again.anew && again.spans.len() == 2, "{case}: {again:?}");
        }
    }
}
