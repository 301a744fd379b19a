//! Forgetting: readers look through a stretch and decide, the writer takes out what goes in small batches.
//!
//! Between two batches whatever else was asked is written, so nobody waits for more than one. What frees pages is used
//! again by what is written next; giving them back to the file system would move pages about on every commit
//! (`auto_vacuum`), or hold everybody up (`VACUUM`): the file grows to the size of what is kept, and stays there.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::store::{HOUR, Store, Trouble, Work, of_row};
use super::unreadable::UnreadableTasks;
use super::{Embedded, find, row, schema};
use crate::engine::{Error, PruneAsk, Stretch};
use crate::record::State;
use crate::retention::{Pruned, Retention, Standing, Verdict, verdict};
use crate::task::{AgentName, TaskId, TaskType};
use crate::time::Timestamp;

/// How many tasks one stretch looks at.
const STRETCH: usize = 2_000;
/// How many rows the writer takes out at once, or somewhat more, for a task goes whole: a few milliseconds. Rows and not
/// tasks: a task with a long journal takes as long as fifty short ones.
const ROWS: u64 = 500;
/// How many rows of each kind of counts, and events of no task, it takes out at once.
const COUNTS: u32 = 150;
/// After how many rows the log is written into the file: little enough at a time that the disk has room for a commit
/// beside it.
const ROWS_IN_LOG: u64 = 1_200;
/// Fewer rows than this are left in the log at the end of a stretch.
const ROWS_LEFT: u64 = 300;
/// So few pages that came while the others were written aside may be left to the writer.
const PAGES_LEFT: u64 = 128;
/// How many times at most is written aside before: the first takes what was there, each of the others what came meanwhile.
const ROUNDS: u32 = 3;

/// One stretch: see [`crate::engine::Engine::prune`].
pub(super) async fn stretch(engine: &Embedded, ask: PruneAsk, now: Timestamp) -> Result<Stretch, Error> {
    let seen = {
        let ask = ask.clone();
        engine.read(move |db, unreadable| look(db, unreadable, &ask, now)).await?
    };
    let mut pruned = Pruned::default();
    if ask.dry_run {
        seen.goes.iter().for_each(|(_, state)| pruned.count(*state));
        return Ok(Stretch { pruned, next: seen.next });
    }
    let mut log = Log { aside: None, rows: 0 };
    let goes: Arc<[u64]> = seen.goes.iter().map(|(seq, _)| *seq).collect();
    let mut from = 0;
    while from < goes.len() {
        let (goes, retention, pressed) = (Arc::clone(&goes), ask.retention, seen.pressed);
        let needed = Arc::clone(&ask.needed);
        let batch = engine.writer.ask(move |store| store.forget(&goes[from..], &retention, pressed, &needed, now));
        let batch = batch.await?;
        pruned.add(batch.pruned);
        from += batch.looked_at;
        log.wrote(engine, batch.rows).await?;
    }
    if let (None, Some(horizon)) = (seen.next, ask.retention.horizon(now)) {
        loop {
            let (rows, events) = engine.writer.ask(move |store| store.forget_counts(horizon)).await?;
            pruned.events += events;
            if rows == 0 {
                break;
            }
            log.wrote(engine, rows).await?;
        }
    }
    log.end(engine).await?;
    Ok(Stretch { pruned, next: seen.next })
}

/// Keeps the log short while much is taken out. Left to itself it grows until a commit of the writer passes its bound,
/// and whoever asked for that one waits until a thousand pages are written. Written aside alone it grows as well: it
/// begins anew only when nothing is left in it, and under load something has always come meanwhile. So the writer writes
/// the last few itself, between two groups.
struct Log {
    /// The connection that writes it into the file.
    aside: Option<Connection>,
    /// How many rows were taken out since.
    rows: u64,
}

impl Log {
    async fn wrote(&mut self, engine: &Embedded, rows: u64) -> Result<(), Error> {
        self.rows += rows;
        if self.rows < ROWS_IN_LOG {
            return Ok(());
        }
        self.shorten(engine).await
    }

    /// The end of a stretch. Where little goes of much no stretch comes to a log's worth, and all of them together would
    /// leave a long one.
    async fn end(&mut self, engine: &Embedded) -> Result<(), Error> {
        if self.rows < ROWS_LEFT { Ok(()) } else { self.shorten(engine).await }
    }

    async fn shorten(&mut self, engine: &Embedded) -> Result<(), Error> {
        self.rows = 0;
        let mut before = None;
        for _ in 0..ROUNDS {
            let (path, aside) = (engine.path(), self.aside.take());
            let write = move |_: &Connection| {
                let aside = aside.map_or_else(|| schema::connect_writer(&path), Ok)?;
                let pages = schema::checkpoint(&aside)?;
                Ok((aside, pages))
            };
            let (aside, pages) = engine.readers.ask(write).await?;
            self.aside = Some(aside);
            let (Some(pages), few) = (pages, before.map(|before| before + PAGES_LEFT)) else { break };
            if few.is_some_and(|few| pages <= few) {
                break;
            }
            before = Some(pages);
        }
        engine.writer.shorten_log().await
    }
}

/// What the writer took out at once.
struct Batch {
    pruned: Pruned,
    /// How many tasks are done with, gone or not.
    looked_at: usize,
    rows: u64,
}

/// What was seen of a stretch.
struct Seen {
    /// What goes, by its number, and where it stands.
    goes: Vec<(u64, State)>,
    pressed: bool,
    next: Option<u64>,
}

/// A task as far as it matters here.
struct Found {
    seq: u64,
    id: TaskId,
    agent: AgentName,
    task_type: TaskType,
    standing: Standing,
    created_at: Timestamp,
}

const COLUMNS: &str = "seq, id, agent, state, status, ended_at, created_at, type";

fn found(row: &Row<'_>, needed: &BTreeSet<TaskId>) -> rusqlite::Result<Found> {
    let id = row::word(row, 1)?;
    let letter = row::word_or_none(row, 4)?;
    let ended_at = row.get::<_, Option<i64>>(5)?.map(Timestamp::from_millis);
    let standing = Standing { state: row::word(row, 3)?, letter, ended_at, needed: needed.contains(&id) };
    let (agent, task_type) = (row::word(row, 2)?, row::word(row, 7)?);
    Ok(Found { seq: row.get(0)?, id, agent, task_type, standing, created_at: row::time(row, 6)? })
}

fn look(db: &Connection, unreadable: &UnreadableTasks, ask: &PruneAsk, now: Timestamp) -> Work<Seen> {
    // A dry run frees nothing, so the size would press for ever.
    let pressed = !ask.dry_run && ask.retention.presses(find::bytes(db)?);
    let Some(youngest) = ask.retention.youngest(pressed, now) else {
        return Ok(Seen { goes: Vec::new(), pressed, next: None });
    };
    let sql = format!("SELECT {COLUMNS} FROM task WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let after = i64::try_from(ask.after).unwrap_or(i64::MAX);
    let mut asked = db.prepare_cached(&sql)?;
    let mut rows = asked.query(params![after, STRETCH])?;
    let (mut tasks, mut looked_at, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let Ok(seq) = unreadable.seq(row.get(0)?) else { continue };
        last = Some(seq);
        match found(row, &ask.needed).map_err(of_row) {
            Err(Trouble::Damaged(why)) => drop(unreadable.note_row(db, seq, &why)?),
            read => tasks.push(read?),
        }
    }
    // Numbers follow the time of submission, roughly: after a whole stretch of what is too young nothing is old.
    let more = looked_at == STRETCH && (tasks.is_empty() || tasks.iter().any(|task| task.created_at <= youngest));
    let next = last.filter(|_| more);
    let goes = |task: &Found| verdict(&task.standing, &ask.retention, pressed, now) == Verdict::Goes;
    let goes = tasks.iter().filter(|task| goes(task)).map(|task| (task.seq, task.standing.state)).collect();
    Ok(Seen { goes, pressed, next })
}

impl Store {
    /// Takes out the first of these tasks, as far as they still may go: a person may have sent one round again meanwhile.
    fn forget(
        &mut self,
        seqs: &[u64],
        retention: &Retention,
        pressed: bool,
        needed: &BTreeSet<TaskId>,
        now: Timestamp,
    ) -> Work<Batch> {
        self.told(now);
        let mut pruned = Pruned::default();
        let (mut looked_at, mut rows) = (0, 0);
        for seq in seqs {
            if rows >= ROWS {
                break;
            }
            looked_at += 1;
            let sql = format!("SELECT {COLUMNS} FROM task WHERE seq = ?1");
            let mut asked = self.db.prepare_cached(&sql)?;
            let task = asked.query_row([seq], |row| found(row, needed)).optional().map_err(of_row);
            drop(asked);
            let task = match task {
                Err(Trouble::Damaged(why)) => {
                    self.unreadable.note_row(&self.db, *seq, &why)?;
                    continue;
                }
                task => task?,
            };
            let Some(task) = task.filter(|task| verdict(&task.standing, retention, pressed, now) == Verdict::Goes)
            else {
                continue;
            };
            let before = self.db.total_changes();
            // What cannot be read stays: a person is called for it.
            let Some(events) = self.take_out(&task)? else { continue };
            pruned.events += events;
            rows += self.db.total_changes() - before;
            pruned.count(task.standing.state);
        }
        for (state, tasks) in
            [(State::Done, pruned.done), (State::Dead, pruned.dead), (State::Cancelled, pruned.cancelled)]
        {
            if tasks > 0 {
                let count =
                    "INSERT INTO pruned VALUES (?1, ?2) ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks";
                self.db.prepare_cached(count)?.execute(params![state.as_str(), tasks])?;
            }
        }
        // The bearers of the last numbers may be among them.
        for (key, number) in [("last_task", self.last_task), ("last_event", self.last_event)] {
            self.db.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?.execute(params![key, number])?;
        }
        Ok(Batch { pruned, looked_at, rows })
    }

    /// Takes one task out, with all that hangs on it: how many events that were. `None`: it cannot be read.
    fn take_out(&mut self, task: &Found) -> Work<Option<u64>> {
        let seq = task.seq;
        let letter = match task.standing.letter.is_some().then(|| self.load(seq)).transpose() {
            Err(Trouble::Unreadable(_)) => return Ok(None),
            read => read?.and_then(|record| record.letter),
        };
        if let Some(letter) = letter {
            let sql = "DELETE FROM letter WHERE at = ?1 AND seq = ?2";
            self.db.prepare_cached(sql)?.execute(params![letter.at.millis(), seq])?;
        }
        // A later task may have the key by now.
        let key = "DELETE FROM idempotency WHERE seq = ?1
                   AND key = (SELECT task ->> '$.idempotency_key' FROM body WHERE body.seq = ?1 AND json_valid(task))";
        self.db.prepare_cached(key)?.execute([seq])?;
        let events = self.db.prepare_cached("DELETE FROM event WHERE task = ?1")?.execute([seq])?;
        for table in [
            "DELETE FROM step WHERE task = ?1",
            "DELETE FROM progress WHERE seq = ?1",
            "DELETE FROM body WHERE seq = ?1",
            "DELETE FROM task WHERE seq = ?1",
        ] {
            self.db.prepare_cached(table)?.execute([seq])?;
        }
        self.depths.leave(&task.agent, task.standing.state);
        self.types.leave(&task.task_type);
        self.recent.forget(seq, task.id);
        Ok(Some(events as u64))
    }

    /// Takes out some of what was counted, and told of no task, before the horizon: how many rows, and how many of them
    /// were events.
    fn forget_counts(&mut self, horizon: Timestamp) -> Work<(u64, u64)> {
        let mut rows = 0;
        for sql in [
            "DELETE FROM death WHERE n IN (SELECT n FROM death WHERE at < ?1 ORDER BY at LIMIT ?2)",
            "DELETE FROM failure WHERE n IN (SELECT n FROM failure WHERE at < ?1 ORDER BY at LIMIT ?2)",
        ] {
            rows += self.db.prepare_cached(sql)?.execute(params![horizon.millis(), COUNTS])?;
        }
        let hours = "DELETE FROM failure_hour WHERE (hour, agent, type, class) IN
                     (SELECT hour, agent, type, class FROM failure_hour WHERE hour < ?1 ORDER BY hour LIMIT ?2)";
        rows += self.db.prepare_cached(hours)?.execute(params![horizon.millis().div_euclid(HOUR), COUNTS])?;
        let told = "DELETE FROM event WHERE seq IN
                    (SELECT seq FROM event WHERE task IS NULL AND at < ?1 ORDER BY at LIMIT ?2)";
        let events = self.db.prepare_cached(told)?.execute(params![horizon.millis(), COUNTS])?;
        if events > 0 {
            let last = "UPDATE meta SET value = ?1 WHERE key = 'last_event'";
            self.db.prepare_cached(last)?.execute([self.last_event])?;
        }
        Ok(((rows + events) as u64, events as u64))
    }
}
