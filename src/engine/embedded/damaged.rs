//! A store whose rows say something else than what was written: what a start, every question and the first work after it
//! make of that. Fuzzing plays it; nothing stays of what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::{Type, Value};
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::find;
use super::row;
use super::schema::{self, DirLock};
use super::store::{Store, Trouble, Work};
use super::unreadable::UnreadableTasks;
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
        let mut store = match Store::over(db, Arc::clone(noted)) {
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
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::engine::conformance::{dead, failure, intent};
    use crate::engine::embedded::Embedded;
    use crate::engine::{Document, Engine};
    use crate::failure::{Class, Kind};
    use crate::journal::{Entry, Line};
    use crate::query::Unreadable;
    use crate::task::Task;
    use crate::time::Timestamp;

    /// A store of its own, gone when dropped; nobody has it open.
    struct Site(PathBuf);

    impl Site {
        async fn new(name: &str, work: impl AsyncFn(&Embedded)) -> Self {
            let dir = std::env::temp_dir().join(format!("backstop-damaged-{name}-{}", std::process::id()));
            let engine = Embedded::open(&dir, at(0)).expect("a store");
            work(&engine).await;
            engine.close().await.expect("closed");
            Self(dir)
        }

        async fn of_two_that_wait(name: &str) -> Self {
            let work = async |engine: &Embedded| {
                for n in 1..=2 {
                    engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
                }
            };
            Self::new(name, work).await
        }

        fn open(&self) -> Damaged {
            Damaged::open(&self.0).expect("a store")
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("cleared away");
        }
    }

    impl Damaged {
        /// All cells of this column, the first task's first.
        fn column(&self, table: &str, column: &str) -> Vec<usize> {
            let is = |n: &usize| self.cells[*n].table == table && self.cells[*n].column == column;
            (0..self.cells.len()).filter(is).collect()
        }

        /// The same bytes in all of these.
        fn damaged(&mut self, cells: &[usize], bytes: &[u8]) -> Answers {
            assert!(
                !cells.is_empty() && cells.iter().all(|cell| self.cells[*cell].told() != bytes),
                "nothing is changed"
            );
            let changes: Vec<_> = cells.iter().map(|cell| (*cell, bytes.to_vec())).collect();
            self.with(&changes).expect("damaged and mended")
        }
    }

    impl Answers {
        fn failed(&self) -> Vec<&'static str> {
            self.all.iter().filter(|(_, said)| said.is_err()).map(|(what, _)| *what).collect()
        }
    }

    #[tokio::test]
    async fn what_is_changed_is_seen_and_nothing_stays_of_it() {
        let site = Site::of_two_that_wait("seen").await;
        let mut store = site.open();
        let sound = store.with(&[]).expect("undamaged");
        assert_eq!(sound.failed(), [""; 0], "{sound:?}");
        let first = store.column("progress", "record")[0];
        let damaged = store.damaged(&[first], b"{\xff");
        let error = damaged.records[&1].as_ref().expect_err("it cannot be read");
        assert!(error.to_string().contains(&store.ids[0].1.to_string()), "{error}");
        assert_eq!(damaged.records[&2].as_ref().expect("read"), sound.records[&2].as_ref().expect("read"));
        assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
        assert_eq!(damaged.unreadable, [store.ids[0].1.to_string()], "{damaged:?}");
        let again = store.with(&[]).expect("mended");
        assert_eq!(again.failed(), [""; 0]);
        assert_eq!(again.records[&1].as_ref().expect("read"), sound.records[&1].as_ref().expect("read"));
    }

    /// One task that could not be read failed every listing it belonged to: of tasks, of dead letters, of what is parked.
    #[tokio::test]
    async fn a_listing_tells_what_it_cannot_read_beside_all_that_it_can() {
        let work = async |engine: &Embedded| {
            for n in 1..=2 {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
            for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
                let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
                engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
            }
        };
        let site = Site::new("listing", work).await;
        let store = site.open();
        let (db, noted) = (store.db.as_ref().expect("open"), UnreadableTasks::default());
        let (first, second) = (store.ids[0].1, store.ids[1].1);
        db.execute("UPDATE progress SET record = '{' WHERE seq = 1", []).expect("damaged");
        for id in [first.to_string(), "(row 1)".to_owned()] {
            for size in [1, 2, 50] {
                let mut page = PageAsk { limit: size, ..PageAsk::default() };
                for list in [find::records, find::dead_letters] {
                    let (mut read, mut not_read) = (Vec::new(), Vec::new());
                    page.after = None;
                    loop {
                        let found = list(db, &noted, &Filter::default(), &page).expect("read");
                        read.extend(found.items.iter().map(|record| record.task.id));
                        not_read.extend(found.unreadable);
                        page.after = found.next;
                        if page.after.is_none() {
                            break;
                        }
                    }
                    assert_eq!(read, [second]);
                    let [Unreadable { id: told, why }] = not_read.as_slice() else { panic!("{not_read:?}") };
                    assert_eq!(*told, id);
                    assert!(why.contains("EOF"), "{why}");
                }
            }
            db.execute("UPDATE task SET id = CAST(x'ff' AS TEXT) WHERE seq = 1", []).expect("damaged");
        }
    }

    /// An agent with two free slots asked for two tasks. The second could not be read, so it was told of an error; the claim
    /// of the first was stored all the same, and nobody did it until its lease lapsed.
    #[tokio::test]
    async fn what_was_claimed_before_one_that_cannot_be_read_is_told() {
        let site = Site::of_two_that_wait("told").await;
        let mut store = site.open();
        let second = store.column("progress", "record")[1];
        for bytes in [&b"{"[..], b"\xff"] {
            let damaged = store.damaged(&[second], bytes);
            assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
            assert_eq!(damaged.after.keys().copied().collect::<Vec<_>>(), [2], "the first was worked on");
        }
    }

    /// One task that cannot be read kept all others from being handed back after a crash, and from ending at their deadlines.
    #[tokio::test]
    async fn one_that_cannot_be_read_holds_up_no_other() {
        let work = async |engine: &Embedded| {
            engine.submit(task(1, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            assert_eq!(engine.lease(ask(1, 1), at(1)).await.expect("leased").len(), 1);
            let late = Task { deadline: Some(at(5)), ..task(2, at(0)) };
            engine.submit(late, integration("anthropic"), at(1)).await.expect("accepted");
        };
        let site = Site::new("others", work).await;
        let mut store = site.open();
        let records = store.column("progress", "record");
        let damaged = store.damaged(&records, b"{");
        assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
        assert_eq!(damaged.unreadable.len(), 2);
    }

    /// Of two lapsed leases and two deadlines that have passed only the first were looked at when one was asked for, and those
    /// could not be read: whatever stood behind as many as are asked for at once was never taken back.
    #[tokio::test]
    async fn those_that_cannot_be_read_take_nobodys_place() {
        let work = async |engine: &Embedded| {
            for n in 1..=4 {
                let late = Task { deadline: Some(at(5)), ..task(n, at(0)) };
                engine.submit(late, integration("anthropic"), at(0)).await.expect("accepted");
            }
            assert_eq!(engine.lease(ask(1, 2), at(1)).await.expect("leased").len(), 2);
        };
        let site = Site::new("place", work).await;
        let mut store = site.open();
        let ids: Vec<TaskId> = store.ids.iter().map(|(_, id)| *id).collect();
        let (db, noted) = (store.db.take().expect("open"), Arc::new(UnreadableTasks::default()));
        db.execute("UPDATE progress SET record = '{' WHERE seq IN (1, 3)", []).expect("damaged");
        db.execute("UPDATE event SET what = '{' WHERE seq = 2", []).expect("damaged");
        // Whoever pages takes a page that is not full for the last.
        let events = find::events(&db, &noted, 0, 2).expect("read");
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 3]);
        let lapsed = find::lapsed(&db, &noted, at(1_000), 9, 1).expect("read");
        assert_eq!(lapsed.iter().map(|record| record.task.id).collect::<Vec<_>>(), [ids[1]]);
        let mut store = Store::over(db, Arc::clone(&noted)).expect("a start");
        let overdue = store.overdue(at(10), 1).expect("read");
        assert_eq!(overdue.iter().map(|record| record.task.id).collect::<Vec<_>>(), [ids[3]]);
        assert_eq!(noted.all().len(), 3);
    }

    /// One damaged row of a count kept the team from starting, one of a death the CEO and the pager from their work, one of an
    /// event everybody who followed the feed, one of an incident all who look at any.
    #[tokio::test]
    async fn a_row_of_no_one_task_is_told_and_left_out() {
        let work = async |engine: &Embedded| {
            for n in 1..=3 {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
            for (held, gone) in engine.lease(ask(1, 2), at(1)).await.expect("leased").into_iter().zip([true, false]) {
                let lines = vec![Line::Intend { intent: intent(), worst: 7 }];
                let asked = Entry { fence: held.fence, lines, ..Entry::default() };
                engine.journal(held.task.id, asked, at(1)).await.expect("written");
                if gone {
                    let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
                    engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
                }
            }
            let body = serde_json::json!({ "n": 1 });
            let incident = Document { kind: "incident".to_owned(), key: "INC-1".to_owned(), version: 0, body };
            engine.save(vec![incident], Vec::new(), at(3)).await.expect("saved");
        };
        let site = Site::new("others-rows", work).await;
        let mut store = site.open();
        let sound = store.with(&[]).expect("undamaged");
        let (first, waits) = (store.ids[0].1, 2);
        let metas = store.column("meta", "key");
        let is_count = |cell: &usize| store.cells[*cell].told().starts_with(b"type_first/");
        let counted = metas.iter().position(is_count).expect("a count of types");
        let read = |records: &BTreeMap<u64, Result<Option<Record>, Error>>| -> Vec<Record> {
            let each = records.values().map(|record| record.as_ref().expect("read").clone().expect("a task"));
            each.collect()
        };
        // What is damaged, and what is noted of it.
        let told = |what: String| vec![what];
        for (table, column, row, noted) in [
            ("death", "class", 0, told("(death 1)".to_owned())),
            ("death", "task", 0, told("(death 1)".to_owned())),
            ("event", "what", 0, told("(event 1)".to_owned())),
            ("document", "body", 0, told("(incident INC-1)".to_owned())),
            ("failure", "class", 0, told("(failures of cto)".to_owned())),
            ("step", "agent", 0, told(format!("(spending of {first})"))),
            ("depth", "state", 0, told("(count of cto)".to_owned())),
            // What a row of a task says is in its record, too.
            ("task", "agent", waits, Vec::new()),
            ("task", "state", waits, Vec::new()),
            ("task", "priority", waits, Vec::new()),
            ("task", "integration", waits, Vec::new()),
            ("letter", "status", 0, Vec::new()),
            ("meta", "key", counted, Vec::new()),
        ] {
            let cell = store.column(table, column)[row];
            for bytes in [&b"{"[..], b"\xff"] {
                let damaged = store.damaged(&[cell], bytes);
                let case = format!("{table}.{column}: {bytes:?}");
                assert_eq!(damaged.failed(), [""; 0], "{case}: {damaged:?}");
                assert_eq!(damaged.unreadable, noted, "{case}");
                assert_eq!(read(&damaged.records), read(&sound.records), "{case}");
                assert_eq!(read(&damaged.after), read(&sound.after), "{case}: another task was worked on");
            }
        }
    }

    /// One row that holds no JSON failed whatever was asked of a view in the sqlite3 shell.
    #[tokio::test]
    async fn the_views_show_what_can_be_read() {
        let work = async |engine: &Embedded| {
            for n in 1..=2 {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
            for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
                let lines = vec![Line::Intend { intent: intent(), worst: 7 }];
                let asked = Entry { fence: held.fence, lines, ..Entry::default() };
                engine.journal(held.task.id, asked, at(1)).await.expect("written");
                let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
                engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
            }
        };
        let site = Site::new("views", work).await;
        let mut store = site.open();
        let db = store.db.take().expect("open");
        let shown = |view, column| {
            let mut all = db.prepare(&format!("SELECT {column} FROM {view}"))?;
            all.query_map([], |row| row.get::<_, Option<String>>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        for (damage, view, column) in [
            ("UPDATE body SET task = '{' WHERE seq = 1", "tasks", "payload"),
            ("UPDATE progress SET record = '{' WHERE seq = 1", "dlq", "why"),
            ("UPDATE step SET step = '{' WHERE task = 1", "steps", "asks"),
        ] {
            let before = shown(view, column).expect("shown");
            assert!(before.len() == 2 && before.iter().all(Option::is_some), "{view}: {before:?}");
            db.execute(damage, []).expect("damaged");
            let after = shown(view, column).expect("shown");
            assert_eq!(after.len(), 2, "{view}");
            assert_eq!(after.iter().flatten().count(), 1, "{view}: {after:?}");
        }
    }

    /// Under another id the journal of a task was not found, and it began again from nothing: what it had done to the world was
    /// done a second time. And who asked the ledger by the id of the record was told that there is no such task, which ended
    /// every look of the dispatcher.
    #[tokio::test]
    async fn a_task_of_two_ids_is_nobodys_to_work_on() {
        let work = async |engine: &Embedded| {
            for n in 1..=2 {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
        };
        let site = Site::new("two-ids", work).await;
        let mut store = site.open();
        let [first, second] = [store.ids[0].1, store.ids[1].1];
        let (ids, bodies) = (store.column("task", "id"), store.column("body", "task"));
        let other = task(7, at(0)).id.to_string();
        let body = String::from_utf8(store.cells[bodies[0]].told()).expect("JSON").replace(&first.to_string(), &other);
        for (cell, bytes, named) in [(ids[0], other.clone(), other), (bodies[0], body, first.to_string())] {
            let damaged = store.damaged(&[cell], bytes.as_bytes());
            assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
            assert_eq!(damaged.unreadable, [named]);
            assert!(!damaged.after.contains_key(&2), "{second} was worked on: {:?}", damaged.after);
        }
    }

    /// A row that is due before its record failed the claim; one whose record is claimed already, or is due before its row,
    /// waited for nobody.
    #[tokio::test]
    async fn a_row_gives_way_to_its_record() {
        let site = Site::of_two_that_wait("gives-way").await;
        let engine = Embedded::open(&site.0, at(0)).expect("a store");
        for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
            let failure = failure(Class::Transient, Kind::RateLimited, "rate limit");
            let due = if held.task.id == task(1, at(0)).id { at(100) } else { at(5) };
            let retry = crate::delivery::Settlement::Retry { due, failure, amendment: None };
            engine.command(held.task.id, settle(held.fence, retry), at(2)).await.expect("settled");
        }
        engine.close().await.expect("closed");
        drop(engine);
        let db = Connection::open(site.0.join("backstop.db")).expect("a store");
        let due = |seq: u64, at: Timestamp| {
            assert_eq!(db.execute("UPDATE task SET due = ?2 WHERE seq = ?1", params![seq, at.millis()]), Ok(1));
        };
        due(1, at(3));
        due(2, at(1_000_000));
        drop(db);
        let engine = Embedded::open(&site.0, at(10)).expect("a store");
        let held = engine.lease(ask(2, 2), at(10)).await.expect("leased");
        assert_eq!(held.iter().map(|held| held.task.id).collect::<Vec<_>>(), [task(2, at(0)).id]);
        let held = engine.lease(ask(2, 2), at(100)).await.expect("leased");
        assert_eq!(held.iter().map(|held| held.task.id).collect::<Vec<_>>(), [task(1, at(0)).id]);
        engine.close().await.expect("closed");
        drop(engine);
        // Claimed by the process that died, which its row does not say.
        let db = Connection::open(site.0.join("backstop.db")).expect("a store");
        let lies = "UPDATE task SET state = 'ready', due = created_at WHERE seq = 1";
        assert_eq!(db.execute(lies, []), Ok(1));
        drop(db);
        let engine = Embedded::open(&site.0, at(100)).expect("a store");
        assert_eq!(engine.lease(ask(3, 2), at(100)).await.expect("leased"), []);
        let lapsed = engine.lapsed(at(100), 9).await.expect("read");
        assert_eq!(lapsed.len(), 2, "it is taken back like the other: {lapsed:?}");
        engine.close().await.expect("closed");
    }

    /// An index entry that no longer fits its row fails whoever changes the row, and a start that mends it: for ever, with
    /// everybody whose change was in the same group.
    #[tokio::test]
    async fn indexes_that_do_not_fit_are_made_anew() {
        let site = Site::of_two_that_wait("index").await;
        let path = site.0.join("backstop.db");
        let (agent, state) = (b"ctoready".to_vec(), b"ctoreadx".to_vec());
        let bytes = std::fs::read(&path).expect("read");
        let places: Vec<usize> =
            (0..bytes.len() - agent.len()).filter(|from| bytes[*from..].starts_with(&agent)).collect();
        assert!(!places.is_empty(), "the index holds agent and state side by side");
        let mut damaged = bytes;
        for place in places {
            damaged[place..place + state.len()].copy_from_slice(&state);
        }
        std::fs::write(&path, damaged).expect("written");
        let check = |path: &Path| -> String {
            let db = Connection::open(path).expect("a store");
            db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).expect("checked")
        };
        assert_ne!(check(&path), "ok", "nothing is damaged");
        let engine = Embedded::open(&site.0, at(0)).expect("a start");
        let held = engine.lease(ask(1, 2), at(1)).await.expect("leased");
        assert_eq!(held.len(), 2);
        engine.close().await.expect("closed");
        drop(engine);
        assert_eq!(check(&path), "ok");
    }

    /// Counts are of rows that are there, so they are made again.
    #[tokio::test]
    async fn counts_that_cannot_be_read_are_counted_anew() {
        let site = Site::of_two_that_wait("anew").await;
        let engine = Embedded::open(&site.0, at(0)).expect("a store");
        let sound = engine.balance().await.expect("read");
        assert_eq!(sound.waiting, 2);
        engine.close().await.expect("closed");
        drop(engine);
        let db = Connection::open(site.0.join("backstop.db")).expect("a store");
        assert_eq!(db.execute("UPDATE depth SET state = 'gone', tasks = 7", []), Ok(1));
        assert_eq!(db.execute("UPDATE meta SET value = -1 WHERE key GLOB 'type_tasks/*'", []), Ok(1));
        drop(db);
        let engine = Embedded::open(&site.0, at(0)).expect("a store");
        assert_eq!(engine.balance().await.expect("read"), sound);
        let of_type = Filter { task_type: Some(task(1, at(0)).task_type), ..Filter::default() };
        assert_eq!(engine.records(of_type, PageAsk::default()).await.expect("read").items.len(), 2);
        assert_eq!(engine.unreadable(), []);
        engine.close().await.expect("closed");
    }

    /// A number that stood at the end of its range was counted further: in a build with checks that ended the writer's thread,
    /// without them a fence began anew.
    #[tokio::test]
    async fn a_number_at_the_end_of_its_range_stays_there() {
        let work = async |engine: &Embedded| {
            for n in 1..=4 {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
            let held = engine.lease(ask(1, 2), at(1)).await.expect("leased").remove(0);
            engine.command(held.task.id, settle(held.fence, ack()), at(2)).await.expect("settled");
        };
        // One done, one that runs, two that wait: something is counted in each of these when the next is claimed and done.
        let site = Site::new("range", work).await;
        let mut store = site.open();
        let waits = store.column("progress", "record")[2];
        let told = String::from_utf8(store.cells[waits].told()).expect("JSON");
        for (name, most) in [("fence", u64::MAX), ("attempt", u64::from(u32::MAX))] {
            let other = told.replace(&format!("\"{name}\":0"), &format!("\"{name}\":{most}"));
            store.damaged(&[waits], other.as_bytes());
        }
        // One at a time, and counts all together: what adds them up is another place.
        let (depths, metas) = (store.column("depth", "tasks"), store.column("meta", "value"));
        let each = depths.iter().chain(&metas).map(|&cell| vec![cell]);
        for cells in each.chain([depths.clone()]) {
            store.damaged(&cells, i64::MAX.to_string().as_bytes());
        }
    }
}
