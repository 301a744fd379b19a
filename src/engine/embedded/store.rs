//! The writer's side of the store: each method is one change, made inside the transaction of its group.
//!
//! Whatever can be refused is refused before the first write of a change, so that a refusal needs no rollback. An
//! error of SQLite itself ends the whole group and this [`Store`] with it: it is opened anew from the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, MAIN_DB, OptionalExtension, Params, Row, params};

use super::depth::Depths;
use super::indexes::{Indexes, is_corrupt};
use super::listed::{self, insert_death, insert_letter, insert_task, update_task};
use super::mend;
use super::recent::Recent;
use super::row;
use super::schema;
use super::types::Types;
use super::unreadable::UnreadableTasks;
use crate::engine::{Document, Error, Journaled, KEY_RETENTION, LeaseAsk, OVER_ANY, Submitted};
use crate::event::NewEvent;
use crate::failure::Class;
use crate::journal::{self, End, Step};
use crate::ledger::{self, Command};
use crate::query::{Death, Unreadable, failure_told};
use crate::queue::{Entry, Queues};
use crate::record::Record;
use crate::task::{Integration, Task, TaskId};
use crate::time::Timestamp;

/// An hour, in milliseconds: the grain of the roll-ups.
pub(super) const HOUR: i64 = 3_600_000;

/// Why a piece of work did not succeed: refused in order, or the store failed under it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Refused; nothing was written.
    Refused(Error),
    /// SQLite failed: nothing of the group can be trusted.
    Sqlite(rusqlite::Error),
    /// A row does not hold what we wrote: found before anything was written.
    Damaged(Box<dyn std::error::Error + Send + Sync>),
    /// The same, of a task.
    Unreadable(Unreadable),
}

impl From<rusqlite::Error> for Trouble {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(source: serde_json::Error) -> Self {
        Self::Damaged(Box::new(source))
    }
}

impl From<Error> for Trouble {
    fn from(refused: Error) -> Self {
        Self::Refused(refused)
    }
}

impl From<ledger::Refused> for Trouble {
    fn from(refused: ledger::Refused) -> Self {
        Self::Refused(refused.into())
    }
}

/// The result of one piece of work.
pub(super) type Work<T> = Result<T, Trouble>;

/// The connection that writes, and what is kept in memory beside it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) db: Connection,
    queues: Queues,
    pub(super) depths: Depths,
    pub(super) types: Types,
    pub(super) recent: Recent,
    pub(super) unreadable: Arc<UnreadableTasks>,
    epoch: u64,
    pub(super) last_event: u64,
    pub(super) last_task: u64,
    high_water: Timestamp,
    saved_high_water: Timestamp,
}

impl Store {
    /// Opens the file and reads what waits.
    pub(super) fn open(path: &Path, unreadable: Arc<UnreadableTasks>, indexes: &Indexes) -> rusqlite::Result<Self> {
        Self::over(schema::connect_writer(path)?, unreadable, indexes).map_err(|failed| failed.1)
    }

    /// Reads what waits through this connection; gives it back when that fails.
    pub(super) fn over(
        db: Connection,
        unreadable: Arc<UnreadableTasks>,
        indexes: &Indexes,
    ) -> Result<Self, Box<(Connection, rusqlite::Error)>> {
        let mut store = Self {
            db,
            queues: Queues::default(),
            depths: Depths::default(),
            types: Types::default(),
            recent: Recent::default(),
            unreadable,
            epoch: 0,
            last_event: 0,
            last_task: 0,
            high_water: Timestamp::from_millis(0),
            saved_high_water: Timestamp::from_millis(0),
        };
        match store.read(indexes) {
            Ok(()) => Ok(store),
            Err(source) => Err(Box::new((store.db, source))),
        }
    }

    fn read(&mut self, indexes: &Indexes) -> rusqlite::Result<()> {
        let number = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, i64>(0));
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        // What bore the last number may be forgotten.
        let last = |table: &str| {
            let sql = "(SELECT value FROM meta WHERE key = 'last_";
            let last = number(&format!("SELECT max({sql}{table}'), coalesce((SELECT max(seq) FROM {table}), 0))"))?;
            Ok::<_, rusqlite::Error>(unsigned(last))
        };
        self.high_water = Timestamp::from_millis(number("SELECT value FROM meta WHERE key = 'high_water'")?);
        self.saved_high_water = self.high_water;
        self.epoch = unsigned(number("SELECT value FROM meta WHERE key = 'epoch'")?);
        (self.last_event, self.last_task) = (last("event")?, last("task")?);
        mend::rows(&self.db, &self.unreadable)?;
        self.depths = Depths::read(&self.db)?;
        self.types = Types::read(&self.db, self.last_task)?;
        self.load_queues(indexes)
    }

    /// What waits. Where a page of the table is lost, all but what lies on it; an index that leads nowhere looks the same until
    /// it is made anew.
    fn load_queues(&mut self, indexes: &Indexes) -> rusqlite::Result<()> {
        match self.load_waiting("state IN ('ready', 'scheduled', 'parked')", []) {
            Err(failed) if is_corrupt(&failed) && indexes.made_anew() => {
                tracing::error!(error = %failed, "what waits cannot be read at once; it is read one by one");
            }
            loaded => return loaded,
        }
        self.queues = Queues::default();
        for number in self.numbers_of_waiting()? {
            match self.load_waiting("seq = ?1", [number]) {
                Err(failed) if is_corrupt(&failed) => {
                    if let Ok(seq) = self.unreadable.seq(number) {
                        self.unreadable.lose(seq, &failed);
                    }
                }
                loaded => loaded?,
            }
        }
        Ok(())
    }

    /// By their index alone.
    fn numbers_of_waiting(&self) -> rusqlite::Result<Vec<i64>> {
        let mut found = self.db.prepare("SELECT seq FROM task WHERE state IN ('ready', 'scheduled', 'parked')")?;
        found.query_map([], |row| row.get(0))?.collect()
    }

    /// These, as their rows say it; those that cannot be read are mended first.
    fn load_waiting(&mut self, which: &str, params: impl Params) -> rusqlite::Result<()> {
        let mut waiting = self.db.prepare_cached(&format!(
            "SELECT seq, agent, priority, tenant, integration, again, due, deadline, created_at FROM task WHERE {which}",
        ))?;
        // What was never moved stands in line since it was submitted. A record that cannot be read is told when it is claimed.
        let mut times = self.db.prepare_cached(
            "SELECT record ->> '$.due', record ->> '$.since' FROM progress WHERE seq = ?1 AND json_valid(record)",
        )?;
        // Mended after the look, and once each: of two rows with one number the one that is found by it is written, and whoever
        // looks on behind that one comes to the other again, for ever.
        let mut strange = BTreeSet::new();
        let mut rows = waiting.query(params)?;
        while let Some(row) = rows.next()? {
            let Ok(seq) = self.unreadable.seq(row.get(0)?) else { continue };
            match row::sound(listed::entry(row, &mut times))? {
                Some(entry) => self.queues.enter(seq, &entry),
                None => drop(strange.insert(seq)),
            }
        }
        drop(rows);
        for seq in strange {
            let record = mend::row(&self.db, &self.unreadable, seq)?;
            record.and_then(|record| Entry::of(&record)).iter().for_each(|entry| self.queues.enter(seq, entry));
        }
        Ok(())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn last_event(&self) -> u64 {
        self.last_event
    }

    pub(super) fn high_water(&self) -> Timestamp {
        self.high_water
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// Makes everything since [`Store::begin`] durable.
    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.write_down()?;
        self.db.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    /// What is counted in memory and has moved.
    pub(super) fn write_down(&mut self) -> rusqlite::Result<()> {
        if self.high_water > self.saved_high_water {
            self.db
                .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'high_water'")?
                .execute([self.high_water.millis()])?;
            self.saved_high_water = self.high_water;
        }
        self.depths.write(&self.db)?;
        self.types.write(&self.db, self.last_task)
    }

    /// Bounds the file, in pages.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn limit_pages(&self, pages: u32) -> rusqlite::Result<()> {
        self.db.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))
    }

    pub(super) fn told(&mut self, now: Timestamp) {
        self.high_water = self.high_water.max(now);
    }

    /// A new run of the process begins.
    pub(super) fn start_epoch(&mut self) -> rusqlite::Result<()> {
        self.epoch += 1;
        self.db.execute("UPDATE meta SET value = ?1 WHERE key = 'epoch'", [self.epoch]).map(drop)
    }

    /// A write that changes nothing anybody reads, to see that it can be done.
    pub(super) fn probe(&self) -> Work<()> {
        self.db
            .prepare_cached("INSERT INTO meta VALUES ('probe', 1) ON CONFLICT DO UPDATE SET value = value + 1")?
            .execute([])?;
        Ok(())
    }

    /// Writes the log into the file itself, so that the file alone is the store.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// The same after a failed sync, and it must succeed. The system takes pages whose sync failed for written: they can
    /// still be read, a later sync says nothing of them, and a power cut shows the hole. The log is read up to its first
    /// hole, so whatever were acknowledged behind it would be lost with it.
    pub(super) fn renew_log(&self) -> rusqlite::Result<()> {
        let held_up: bool = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if held_up {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, Some("the log is being read".to_owned())));
        }
        Ok(())
    }

    pub(super) fn next_due(&self, now: Timestamp) -> Work<Option<Timestamp>> {
        let lease: Option<i64> = self
            .db
            .prepare_cached("SELECT min(lease_until) FROM task WHERE state = 'running' AND lease_until > ?1")?
            .query_row([now.millis()], |row| row.get(0))?;
        Ok(lease.map(Timestamp::from_millis).into_iter().chain(self.queues.next_due(now)).min())
    }

    pub(super) fn overdue(&mut self, now: Timestamp, limit: u32) -> Work<Vec<Record>> {
        let mut overdue = Vec::new();
        let mut mended = 0;
        for (passed, seq) in self.queues.overdue(now) {
            if overdue.len() + mended >= limit as usize {
                break;
            }
            let record = match self.load(seq) {
                Err(Trouble::Unreadable(_)) => continue,
                record => record?,
            };
            let entry = Entry::of(&record);
            if entry.as_ref().is_some_and(|entry| entry.deadline.is_some_and(|deadline| deadline <= now)) {
                overdue.push(record);
                continue;
            }
            // Its row says another deadline than its record, which is the one that holds.
            mended += 1;
            self.queues.not_overdue(passed, seq);
            entry.iter().for_each(|entry| self.queues.enter(seq, entry));
            mend::row(&self.db, &self.unreadable, seq)?;
        }
        Ok(overdue)
    }

    pub(super) fn submit(&mut self, task: Task, integration: Integration, now: Timestamp) -> Work<Submitted> {
        let fingerprint = task.idempotency_key.is_some().then(|| task.fingerprint());
        if let Some(key) = &task.idempotency_key {
            let known: Option<(u64, String)> = self
                .db
                .prepare_cached("SELECT seq, fingerprint FROM idempotency WHERE key = ?1")?
                .query_row([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
                .map_err(of_row)?;
            if let Some((seq, content)) = known {
                let record = self.load(seq)?;
                if record.ended_at.is_none_or(|ended| now < ended + KEY_RETENTION) {
                    return if Some(content) == fingerprint {
                        Ok(Submitted { record, new: false })
                    } else {
                        Err(Error::KeyConflict { key: key.to_string(), task: record.task.id }.into())
                    };
                }
            }
        }
        if self.find(task.id)?.is_some() {
            return Err(Error::SameId(task.id).into());
        }
        let seq = self.last_task + 1;
        let body = serde_json::to_string(&task)?;
        let (record, events) = Record::new(task, integration, now);
        let (record, progress) = row::write(record)?;
        insert_task(&self.db, seq, &record)?;
        self.db.prepare_cached("INSERT INTO body VALUES (?1, ?2)")?.execute(params![seq, body])?;
        self.db.prepare_cached("INSERT INTO progress VALUES (?1, ?2)")?.execute(params![seq, progress])?;
        if let (Some(key), Some(fingerprint)) = (&record.task.idempotency_key, fingerprint) {
            self.db.prepare_cached("INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3)")?.execute(params![
                key.as_str(),
                seq,
                fingerprint
            ])?;
        }
        self.append(&events, Some(seq), now)?;
        self.last_task = seq;
        self.types.enter(&record.task.task_type, seq);
        self.depths.enter(&record.agent, record.state);
        Entry::of(&record).iter().for_each(|entry| self.queues.enter(seq, entry));
        self.recent.keep(seq, &record, body.len());
        Ok(Submitted { record, new: true })
    }

    pub(super) fn lease(&mut self, ask: &LeaseAsk, now: Timestamp) -> Work<Vec<Record>> {
        let (mut claimed, mut refused_once) = (Vec::new(), BTreeSet::new());
        while claimed.len() < ask.slots as usize {
            let Some(seq) = self.queues.next(&ask.agent, now, &ask.except) else { break };
            let before = match self.load(seq) {
                // It is told to a person. Those claimed before it must be told to whoever asked, or nobody would do them
                // until their leases lapse; those behind it are as good as ever.
                Err(Trouble::Unreadable(_)) => continue,
                before => before?,
            };
            match ledger::apply(&before, ask.claim(self.epoch), now) {
                Ok((record, events)) => claimed.push(self.change(seq, &before, record, &events, now)?),
                Err(refused) => {
                    // Its row says something else than its record. It stands where its record says, those behind it go on.
                    Entry::of(&before).iter().for_each(|entry| self.queues.enter(seq, entry));
                    if refused_once.insert(seq) {
                        mend::row(&self.db, &self.unreadable, seq)?;
                    } else {
                        // The queue and the ledger disagree: our bug. It must not cost the task its place, nor lose those
                        // already claimed.
                        if claimed.is_empty() {
                            return Err(refused.into());
                        }
                        break;
                    }
                }
            }
        }
        Ok(claimed)
    }

    pub(super) fn command(&mut self, id: TaskId, command: Command, now: Timestamp) -> Work<Record> {
        let seq = self.find(id)?.ok_or(Error::NoTask(id))?;
        let before = self.load(seq)?;
        ledger::of_this_run(&before, &command, self.epoch)?;
        let failed = failure_told(&command).map(|failure| failure.class);
        let (record, events) = ledger::apply(&before, command, now)?;
        self.count_failure(&before, failed, now)?;
        self.change(seq, &before, record, &events, now)
    }

    pub(super) fn journal(&mut self, id: TaskId, entry: journal::Entry, now: Timestamp) -> Work<Journaled> {
        let seq = self.find(id)?.ok_or(Error::NoTask(id))?;
        let before = self.load(seq)?;
        let mut found = Vec::new();
        for number in entry.changes() {
            found.extend(self.step(seq, number)?);
        }
        let steps = journal::write(&before, &found, self.journal_end(seq)?, &entry, self.epoch, now)?;
        let told = |what| NewEvent { task: Some(id), what };
        let mut events: Vec<NewEvent> = entry.events.into_iter().map(told).collect();
        let record = match entry.command {
            Some(command) => {
                ledger::of_this_run(&before, &command, self.epoch)?;
                let failed = failure_told(&command).map(|failure| failure.class);
                let (record, more) = ledger::apply(&before, command, now)?;
                events.extend(more);
                self.count_failure(&before, failed, now)?;
                self.change(seq, &before, record, &events, now)?
            }
            None => {
                self.append(&events, Some(seq), now)?;
                before
            }
        };
        for step in &steps {
            let asks = step.ask().is_some_and(|ask| ask.purpose.is_work());
            self.db.prepare_cached("INSERT OR REPLACE INTO step VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
                params![
                    seq,
                    step.number,
                    asks,
                    step.at.millis(),
                    step.agent.as_str(),
                    i64::try_from(step.counted).unwrap_or(i64::MAX),
                    serde_json::to_string(step)?
                ],
            )?;
        }
        Ok(Journaled { record, steps })
    }

    fn step(&self, seq: u64, number: u32) -> Work<Option<Step>> {
        let mut found = self.db.prepare_cached("SELECT step FROM step WHERE task = ?1 AND number = ?2")?;
        let mut rows = found.query(params![seq, number])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        match row::json(row, 0) {
            Err(Trouble::Damaged(why)) => {
                Err(Trouble::Unreadable(self.unreadable.note_row(&self.db, seq, &of_journal(&why))?))
            }
            read => read.map(Some),
        }
    }

    fn journal_end(&self, seq: u64) -> Work<End> {
        let mut last = self.db.prepare_cached(
            "SELECT coalesce(max(number), 0), coalesce(max(number) FILTER (WHERE asks), 0) FROM step WHERE task = ?1",
        )?;
        match last.query_row([seq], |row| Ok(End { step: row.get(0)?, ask: row.get(1)? })).map_err(of_row) {
            Err(Trouble::Damaged(why)) => {
                Err(Trouble::Unreadable(self.unreadable.note_row(&self.db, seq, &of_journal(&why))?))
            }
            read => read,
        }
    }

    fn count_failure(&self, before: &Record, failed: Option<Class>, now: Timestamp) -> Work<()> {
        let Some(class) = failed else { return Ok(()) };
        let hour = now.millis().div_euclid(HOUR);
        let (agent, task_type) = (before.agent.as_str(), before.task.task_type.as_str());
        self.db
            .prepare_cached("INSERT INTO failure (at, agent, type, class) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![now.millis(), agent, task_type, class.as_str()])?;
        self.db
            .prepare_cached(
                "INSERT INTO failure_hour VALUES (?1, ?2, ?3, ?4, 1)
                 ON CONFLICT DO UPDATE SET failures = failures + 1",
            )?
            .execute(params![hour, agent, task_type, class.as_str()])?;
        Ok(())
    }

    pub(super) fn publish(&mut self, events: &[NewEvent], now: Timestamp) -> Work<()> {
        let tasks = self.tasks_of(events)?;
        for (event, task) in events.iter().zip(tasks) {
            self.append(std::slice::from_ref(event), task, now)?;
        }
        Ok(())
    }

    pub(super) fn save(&mut self, documents: Vec<Document>, events: &[NewEvent], now: Timestamp) -> Work<()> {
        let mut versions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for Document { kind, key, version, .. } in &documents {
            let stored = match versions.get(&(kind.as_str(), key.as_str())) {
                Some(version) => *version,
                None => self
                    .db
                    .prepare_cached("SELECT version FROM document WHERE kind = ?1 AND key = ?2")?
                    .query_row([kind, key], |row| Ok(row::sound(row.get(0))?.unwrap_or(OVER_ANY)))
                    .optional()?
                    .unwrap_or(0),
            };
            if stored != *version && *version != OVER_ANY {
                return Err(Error::DocumentConflict { kind: kind.clone(), key: key.clone() }.into());
            }
            versions.insert((kind, key), next(*version));
        }
        self.tasks_of(events)?;
        for Document { kind, key, version, body } in &documents {
            if body.is_null() {
                self.db.prepare_cached("DELETE FROM document WHERE kind = ?1 AND key = ?2")?.execute([kind, key])?;
                continue;
            }
            self.db.prepare_cached("INSERT OR REPLACE INTO document VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                kind,
                key,
                next(*version),
                serde_json::to_string(body)?
            ])?;
        }
        self.publish(events, now)
    }

    fn tasks_of(&self, events: &[NewEvent]) -> Work<Vec<Option<u64>>> {
        let seq = |id| Ok(Some(self.find(id)?.ok_or(Error::NoTask(id))?));
        events.iter().map(|event| event.task.map_or(Ok(None), seq)).collect()
    }

    fn find(&self, id: TaskId) -> Work<Option<u64>> {
        if let Some(seq) = self.recent.find(id) {
            return Ok(Some(seq));
        }
        let mut found = self.db.prepare_cached("SELECT seq FROM task WHERE id = ?1")?;
        let seq: Option<i64> = found.query_row([id.to_string()], |row| row.get(0)).optional()?;
        seq.map(|seq| self.unreadable.seq(seq)).transpose()
    }

    pub(super) fn load(&mut self, seq: u64) -> Work<Record> {
        if let Some(record) = self.recent.get(seq) {
            return Ok(record.clone());
        }
        let (record, bytes) = load_measured(&self.db, &self.unreadable, seq)?;
        self.recent.keep(seq, &record, bytes);
        Ok(record)
    }

    /// The only place where a stored record changes: with its events, and every row it is found by.
    fn change(
        &mut self,
        seq: u64,
        before: &Record,
        record: Record,
        events: &[NewEvent],
        now: Timestamp,
    ) -> Work<Record> {
        let (record, progress) = row::write(record)?;
        update_task(&self.db, seq, &record)?;
        self.db.prepare_cached("UPDATE progress SET record = ?2 WHERE seq = ?1")?.execute(params![seq, progress])?;
        self.replace_letter(seq, before, &record)?;
        for death in events.iter().filter_map(|event| Death::told_by(event, now)) {
            insert_death(&self.db, &death)?;
        }
        self.append(events, Some(seq), now)?;
        if (&before.agent, before.state) != (&record.agent, record.state) {
            self.depths.leave(&before.agent, before.state);
            self.depths.enter(&record.agent, record.state);
        }
        Entry::of(before).iter().for_each(|entry| self.queues.leave(seq, entry));
        Entry::of(&record).iter().for_each(|entry| self.queues.enter(seq, entry));
        self.recent.update(seq, &record);
        Ok(record)
    }

    fn append(&mut self, events: &[NewEvent], task: Option<u64>, now: Timestamp) -> Work<()> {
        for event in events {
            let what = serde_json::to_string(&event.what)?;
            self.db.prepare_cached("INSERT INTO event VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                self.last_event + 1,
                now.millis(),
                task,
                what
            ])?;
            self.last_event += 1;
        }
        Ok(())
    }

    fn replace_letter(&self, seq: u64, before: &Record, record: &Record) -> Work<()> {
        if let Some(old) = &before.letter {
            self.db
                .prepare_cached("DELETE FROM letter WHERE at = ?1 AND seq = ?2")?
                .execute(params![old.at.millis(), seq])?;
        }
        Ok(insert_letter(&self.db, seq, record)?)
    }
}

/// The version a document is stored under that is based on this one. At the end of what a column holds it begins anew, so that
/// a damaged one can be written over: what it is based on is still another.
const fn next(version: u64) -> u64 {
    if version >= i64::MAX.unsigned_abs() { 1 } else { version + 1 }
}

/// So many of those that can be read; the others are noted. One damaged row must not hold up what is done for all the rest.
pub(super) fn readable(found: impl Iterator<Item = Work<Record>>, limit: usize) -> Work<Vec<Record>> {
    found.filter(|record| !matches!(record, Err(Trouble::Unreadable(_)))).take(limit).collect()
}

/// Reads one record; one that cannot be read is noted.
pub(super) fn load(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> Work<Record> {
    load_measured(db, unreadable, seq).map(|(record, _)| record)
}

/// The same, with how many bytes it takes there.
fn load_measured(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> Work<(Record, usize)> {
    if let Some(lost) = unreadable.lost(seq) {
        return Err(Trouble::Unreadable(lost));
    }
    match record(db, seq) {
        Err(Trouble::Damaged(why)) => Err(Trouble::Unreadable(unreadable.note_row(db, seq, &why)?)),
        // No index leads to these rows, so their page is lost. SQLite lets nothing be written in a transaction that met such
        // a page: who writes fails, and from the next time on it is not looked at again.
        Err(Trouble::Sqlite(why)) if is_corrupt(&why) => {
            let lost = unreadable.lose(seq, &why);
            Err(if db.is_readonly(MAIN_DB)? { Trouble::Unreadable(lost) } else { Trouble::Sqlite(why) })
        }
        read => read,
    }
}

fn record(db: &Connection, seq: u64) -> Work<(Record, usize)> {
    let mut rows = db.prepare_cached(
        "SELECT body.task, progress.record, task.id FROM body JOIN progress USING (seq) JOIN task USING (seq)
         WHERE seq = ?1",
    )?;
    let text = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row::word::<TaskId>(row, 2)));
    let (task, progress, id) = rows.query_row([seq], text).map_err(of_row)?;
    let (record, id) = (row::read(&task, &progress)?, id.map_err(of_row)?);
    // Under another id its journal is not found, and what was done would be done again.
    if record.task.id != id {
        return Err(Trouble::Damaged(format!("its row has the id {id}, what was asked {}", record.task.id).into()));
    }
    Ok((record, task.len() + progress.len()))
}

/// What reading a row came to. Where the row failed and not the store, that need not be opened anew.
pub(super) fn of_row(source: rusqlite::Error) -> Trouble {
    if row::is_damage(&source) { Trouble::Damaged(Box::new(source)) } else { Trouble::Sqlite(source) }
}

/// Why a task cannot be read whose journal cannot.
pub(super) fn of_journal(why: &dyn Display) -> String {
    format!("its journal: {why}")
}
