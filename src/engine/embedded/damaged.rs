//! A store whose rows say something else than what was written: what a start, every question and the first work after it
//! make of that. Fuzzing plays it; nothing stays of what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::types::{Type, Value};
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::find;
use super::row;
use super::schema::{self, DirLock};
use super::store::{Store, Trouble, Work};
use super::writer::spoken;
use crate::engine::Error;
use crate::engine::conformance::{ack, ask, at, integration, settle, task};
use crate::ledger::Record;
use crate::query::{Filter, PageAsk};
use crate::task::TaskId;

/// One value of one row.
#[derive(Debug)]
pub struct Cell {
    table: String,
    column: String,
    key: Vec<(String, Value)>,
    value: Value,
    /// The number of the task whose record it is part of.
    pub record_of: Option<u64>,
}

impl Cell {
    /// What is written there, as it is told: a number in decimal digits; nothing, as no bytes.
    #[must_use]
    pub fn told(&self) -> Vec<u8> {
        match &self.value {
            Value::Text(text) => text.clone().into_bytes(),
            Value::Integer(number) => number.to_string().into_bytes(),
            Value::Null | Value::Real(_) | Value::Blob(_) => Vec::new(),
        }
    }

    /// Those bytes as a value of this column: what is no number in digits is one in binary.
    fn other(&self, bytes: &[u8]) -> Value {
        let digits = || std::str::from_utf8(bytes).ok()?.parse().ok();
        let binary = || bytes.iter().rev().take(8).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
        match self.value.data_type() {
            Type::Integer => Value::Integer(digits().unwrap_or_else(binary)),
            Type::Null if bytes.is_empty() => Value::Null,
            Type::Null => digits().map_or_else(|| Value::Blob(bytes.to_vec()), Value::Integer),
            Type::Text | Type::Blob | Type::Real => Value::Blob(bytes.to_vec()),
        }
    }

    /// Bytes are bound as such and told to be text by the statement: so that they need not be UTF-8.
    fn update(&self) -> String {
        let Self { table, column, key, .. } = self;
        let key: Vec<_> = key.iter().enumerate().map(|(n, (name, _))| format!("\"{name}\" IS ?{}", n + 2)).collect();
        let value = "CASE typeof(?1) WHEN 'blob' THEN CAST(?1 AS TEXT) ELSE ?1 END";
        format!("UPDATE \"{table}\" SET \"{column}\" = {value} WHERE {}", key.join(" AND "))
    }
}

/// What was said by the store as it was damaged.
#[derive(Debug)]
pub struct Answers {
    /// Of everything that was tried, in order.
    pub all: Vec<(&'static str, Result<(), Error>)>,
    /// Each task's record, by its number.
    pub records: BTreeMap<u64, Result<Option<Record>, Error>>,
    /// The same after the first work of a start, without those that this was done on.
    pub after: BTreeMap<u64, Result<Option<Record>, Error>>,
}

/// A store to be damaged.
#[derive(Debug)]
pub struct Damaged {
    path: PathBuf,
    db: Option<Connection>,
    cells: Vec<Cell>,
    ids: Vec<(u64, TaskId)>,
    _lock: DirLock,
}

impl Damaged {
    /// Takes a store that nobody has open.
    ///
    /// # Errors
    /// As [`super::Embedded::open`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let lock = DirLock::take(dir)?;
        let path = schema::prepare(dir)?;
        let sqlite = |source| schema::io(&path, "read", source);
        let db = schema::connect_writer(&path).map_err(sqlite)?;
        let (cells, ids) = (cells(&db).map_err(sqlite)?, ids(&db).map_err(sqlite)?);
        Ok(Self { path, db: Some(db), cells, ids, _lock: lock })
    }

    /// Every value there is.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// With other bytes in these cells, as far as the schema takes them: what everything says then.
    ///
    /// # Errors
    /// When the store cannot be damaged or mended.
    pub fn with(&mut self, changes: &[(usize, Vec<u8>)]) -> Result<Answers, Error> {
        let trouble = |source| spoken(Trouble::Sqlite(source), &self.path);
        let db = match self.db.take() {
            Some(db) => db,
            None => schema::connect_writer(&self.path).map_err(trouble)?,
        };
        db.execute_batch("BEGIN IMMEDIATE").map_err(trouble)?;
        for (cell, bytes) in changes {
            let Some(cell) = self.cells.get(*cell) else { continue };
            let key = cell.key.iter().map(|(_, value)| value.clone());
            let values = std::iter::once(cell.other(bytes)).chain(key);
            let changed = db.prepare_cached(&cell.update()).and_then(|mut set| set.execute(params_from_iter(values)));
            match changed.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
                // Another row has this key, or the column takes no such value: it stays as it is.
                Ok(_) | Err(Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)) => {}
                Err(_) => drop(changed.map_err(trouble)?),
            }
        }
        let records = self.records(&db, &BTreeSet::new());
        let mut all = Vec::new();
        let (db, worked_on) = self.started(db, &mut all);
        let after = self.records(&db, &worked_on);
        db.execute_batch("ROLLBACK").map_err(trouble)?;
        self.db = Some(db);
        Ok(Answers { all, records, after })
    }

    fn records(&self, db: &Connection, without: &BTreeSet<TaskId>) -> BTreeMap<u64, Result<Option<Record>, Error>> {
        let ids = self.ids.iter().filter(|(_, id)| !without.contains(id));
        ids.map(|(seq, id)| (*seq, find::record(db, *id).map_err(|trouble| spoken(trouble, &self.path)))).collect()
    }

    /// What a start over it, every question, and the first work say; and on whom that work was done.
    fn started(
        &self,
        db: Connection,
        all: &mut Vec<(&'static str, Result<(), Error>)>,
    ) -> (Connection, BTreeSet<TaskId>) {
        let mut said =
            |what, outcome: Work<()>| all.push((what, outcome.map_err(|trouble| spoken(trouble, &self.path))));
        let page = PageAsk { limit: 1_000, ..PageAsk::default() };
        let filter = Filter::default();
        said("records", find::records(&db, &filter, &page).map(drop));
        said("dead letters", find::dead_letters(&db, &filter, &page).map(drop));
        said("lapsed", find::lapsed(&db, at(10), 9, 100).map(drop));
        said("deaths", find::deaths(&db, at(0)).map(drop));
        said("failure rates", find::failure_rates(&db, at(0)).map(drop));
        said("depths", find::depths(&db).map(drop));
        said("balance", find::balance(&db).map(drop));
        said("events", find::events(&db, 0, 1_000).map(drop));
        said("spendings", find::spendings(&db, at(0)).map(drop));
        said("documents", find::documents(&db, "incident").map(drop));
        for (_, id) in &self.ids {
            said("history", find::history(&db, *id).map(drop));
            said("steps", find::steps(&db, *id).map(drop));
        }
        let mut store = match Store::over(db) {
            Ok(store) => store,
            Err(failed) => {
                let (db, source) = *failed;
                said("start", Err(Trouble::Sqlite(source)));
                return (db, BTreeSet::new());
            }
        };
        said("start", store.start_epoch().map_err(Trouble::Sqlite));
        store.told(at(10));
        said("next due", store.next_due(at(10)).map(drop));
        said("overdue", store.overdue(at(10), 100).map(drop));
        let leased = store.lease(&ask(9, 2), at(10));
        let held = leased.as_ref().map(|records| records.iter().map(|held| (held.task.id, held.fence)).collect());
        let held: BTreeMap<_, _> = held.unwrap_or_default();
        said("lease", leased.map(drop));
        for (&id, &fence) in &held {
            said("settle", store.command(id, settle(fence, ack()), at(10)).map(drop));
        }
        said("submit", store.submit(task(99, at(10)), integration("anthropic"), at(10)).map(drop));
        said("counts", store.write_down().map_err(Trouble::Sqlite));
        (store.db, held.into_keys().collect())
    }
}

/// Every task, by its number.
fn ids(db: &Connection) -> rusqlite::Result<Vec<(u64, TaskId)>> {
    let mut tasks = db.prepare("SELECT seq, id FROM task")?;
    tasks.query_map([], |row| Ok((row.get(0)?, row::word(row, 1)?)))?.collect()
}

/// Every value of every table of ours.
fn cells(db: &Connection) -> rusqlite::Result<Vec<Cell>> {
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut cells = Vec::new();
    for table in tables {
        let columns: Vec<(String, bool)> = db
            .prepare(&format!("SELECT name, pk > 0 FROM pragma_table_info('{table}')"))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut all = db.prepare(&format!("SELECT * FROM \"{table}\""))?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..columns.len()).map(|n| row.get(n)).collect::<rusqlite::Result<_>>()?;
            let of_key = columns.iter().zip(&values).filter(|((_, is_key), _)| *is_key);
            let key: Vec<_> = of_key.map(|((name, _), value)| (name.clone(), value.clone())).collect();
            let record_of = match (table.as_str(), key.first()) {
                ("task" | "body" | "progress", Some((_, Value::Integer(seq)))) => u64::try_from(*seq).ok(),
                _ => None,
            };
            for ((column, _), value) in columns.iter().zip(values) {
                let (table, column, key) = (table.clone(), column.clone(), key.clone());
                cells.push(Cell { table, column, key, value, record_of });
            }
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::embedded::Embedded;

    #[tokio::test]
    async fn what_is_changed_is_seen_and_nothing_stays_of_it() {
        let dir = std::env::temp_dir().join(format!("backstop-damaged-{}", std::process::id()));
        let engine = Embedded::open(&dir, at(0)).expect("a store");
        for n in 1..=2 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        engine.close().await.expect("closed");
        drop(engine);
        let mut store = Damaged::open(&dir).expect("a store");
        let place = |store: &Damaged, table: &str, column: &str| {
            let is = |cell: &Cell| cell.table == table && cell.column == column;
            store.cells.iter().position(is).expect("a cell")
        };
        let failed = |answers: &Answers| {
            answers.all.iter().filter(|(_, said)| said.is_err()).map(|(what, _)| *what).collect::<Vec<_>>()
        };
        let sound = store.with(&[]).expect("undamaged");
        assert_eq!(failed(&sound), [""; 0], "{sound:?}");
        let record = place(&store, "progress", "record");
        let damaged = store.with(&[(record, b"{\xff".to_vec())]).expect("damaged");
        let error = damaged.records[&1].as_ref().expect_err("it cannot be read");
        assert!(error.to_string().contains("backstop.db"), "{error}");
        assert_eq!(damaged.records[&2].as_ref().expect("read"), sound.records[&2].as_ref().expect("read"));
        assert_eq!(failed(&damaged), ["records", "lease"], "{damaged:?}");
        // The second of two claims could not be read: the first was stored, and nobody was told of it.
        let second = store.cells.iter().rposition(|cell| cell.table == "progress" && cell.column == "record");
        for bytes in [b"{".to_vec(), b"\xff".to_vec()] {
            let damaged = store.with(&[(second.expect("a cell"), bytes)]).expect("damaged");
            assert_eq!(failed(&damaged), ["records"], "{damaged:?}");
            assert_eq!(damaged.after.keys().copied().collect::<Vec<_>>(), [2], "the first is claimed and was told");
        }
        let number = place(&store, "meta", "value");
        let damaged = store.with(&[(number, b"-1".to_vec()), (record, Vec::new())]).expect("damaged");
        assert!(!failed(&damaged).is_empty());
        // A number at the end of its range was counted further: in a build with checks that ended the writer's thread.
        let told = String::from_utf8(store.cells[record].told()).expect("JSON");
        let at_the_end = |name: &str, most: &str| told.replace(&format!("\"{name}\":0"), &format!("\"{name}\":{most}"));
        let most = i64::MAX.to_string().into_bytes();
        for damage in [
            vec![(record, at_the_end("fence", "18446744073709551615").into_bytes())],
            vec![(record, at_the_end("attempt", "4294967295").into_bytes())],
            store
                .cells
                .iter()
                .enumerate()
                .filter(|(_, cell)| cell.column == "tasks")
                .map(|(n, _)| (n, most.clone()))
                .collect(),
            store
                .cells
                .iter()
                .enumerate()
                .filter(|(_, cell)| cell.table == "meta")
                .map(|(n, _)| (n, most.clone()))
                .collect(),
        ] {
            assert!(!damage.is_empty() && damage.iter().all(|(cell, bytes)| store.cells[*cell].told() != *bytes));
            store.with(&damage).expect("damaged and mended");
        }
        let again = store.with(&[]).expect("mended");
        assert_eq!(failed(&again), [""; 0]);
        assert_eq!(again.records[&1].as_ref().expect("read"), sound.records[&1].as_ref().expect("read"));
        drop(store);
        std::fs::remove_dir_all(&dir).expect("cleared away");
    }
}
