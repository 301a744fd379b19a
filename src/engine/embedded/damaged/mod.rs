//! A store whose rows say something else than what was written: what a start, every question and the first work after it
//! make of that. Fuzzing plays it; nothing stays of what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::{Type, Value};
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::find;
use super::indexes::Indexes;
use super::row;
use super::schema::{self, DirLock};
use super::store::{Store, Trouble, Work};
use super::unreadable::UnreadableTasks;
use super::writer::spoken;
use crate::engine::Error;
use crate::engine::conformance::{ack, ask, at, integration, settle, task};
use crate::query::{Filter, PageAsk};
use crate::record::Record;
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
    /// Is it one of the numbers of the store itself? Without them it cannot be opened.
    pub of_store: bool,
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
    /// The ids of those that were noted as unreadable by any of it.
    pub unreadable: Vec<String>,
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
        let noted = Arc::new(UnreadableTasks::default());
        let records = self.records(&db, &noted, &BTreeSet::new());
        let mut all = Vec::new();
        let (db, worked_on) = self.started(db, &noted, &mut all);
        let after = self.records(&db, &noted, &worked_on);
        db.execute_batch("ROLLBACK").map_err(trouble)?;
        self.db = Some(db);
        let unreadable = noted.all().into_iter().map(|one| one.id).collect();
        Ok(Answers { all, records, unreadable, after })
    }

    fn records(
        &self,
        db: &Connection,
        noted: &UnreadableTasks,
        without: &BTreeSet<TaskId>,
    ) -> BTreeMap<u64, Result<Option<Record>, Error>> {
        let ids = self.ids.iter().filter(|(_, id)| !without.contains(id));
        ids.map(|(seq, id)| (*seq, find::record(db, noted, *id).map_err(|trouble| spoken(trouble, &self.path))))
            .collect()
    }

    /// What a start over it, every question, and the first work say; and on whom that work was done.
    fn started(
        &self,
        db: Connection,
        noted: &Arc<UnreadableTasks>,
        all: &mut Vec<(&'static str, Result<(), Error>)>,
    ) -> (Connection, BTreeSet<TaskId>) {
        let mut said =
            |what, outcome: Work<()>| all.push((what, outcome.map_err(|trouble| spoken(trouble, &self.path))));
        let page = PageAsk { limit: 1_000, ..PageAsk::default() };
        let filter = Filter::default();
        said("records", find::records(&db, noted, &filter, &page).map(drop));
        said("dead letters", find::dead_letters(&db, noted, &filter, &page).map(drop));
        said("lapsed", find::lapsed(&db, noted, at(10), 9, 100).map(drop));
        said("deaths", find::deaths(&db, noted, at(0)).map(drop));
        said("failure rates", find::failure_rates(&db, noted, at(0)).map(drop));
        said("depths", find::depths(&db, noted).map(drop));
        said("balance", find::balance(&db, noted).map(drop));
        said("events", find::events(&db, noted, 0, 1_000).map(drop));
        said("spendings", find::spendings(&db, noted, at(0)).map(drop));
        said("documents", find::documents(&db, noted, "incident").map(drop));
        for (_, id) in &self.ids {
            said("history", find::history(&db, noted, *id).map(drop));
            said("steps", find::steps(&db, noted, *id).map(drop));
        }
        let mut store = match Store::over(db, Arc::clone(noted), &Indexes::default()) {
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
                let needed = ["epoch", "high_water", "last_task", "last_event"];
                let of_store = table == "meta"
                    && matches!(key.first(), Some((_, Value::Text(name))) if needed.contains(&name.as_str()));
                cells.push(Cell { table, column, key, value, record_of, of_store });
            }
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests;
