//! A row of the table of tasks, or of dead letters, only says again what the record of its task says, so that tasks are found
//! by it. Where what it says is no word of ours it is written again from the record: what nobody finds would wait for ever.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::listed::{insert_letter, update_task};
use super::row;
use super::store::{Trouble, load};
use super::unreadable::UnreadableTasks;
use crate::record::{LetterStatus, Record, State};
use crate::task::AgentName;
use crate::time::Timestamp;

/// Text as it is stored, whatever it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stored(Vec<u8>);

impl ToSql for Stored {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

impl Stored {
    /// None: no text.
    fn of(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Self>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Text(text) => Some(Self(text.to_vec())),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => None,
        })
    }
}

/// Two columns that an index is in order of.
type Pair = (Stored, Stored);

/// Mends the rows of tasks whose agent or state is no such thing, and of dead letters that stand nowhere.
pub(super) fn rows(db: &Connection, unreadable: &UnreadableTasks) -> rusqlite::Result<()> {
    let first = "SELECT agent, state FROM task WHERE (agent, state) >= (?1, ?2) ORDER BY agent, state LIMIT 1";
    let next = "SELECT agent, state FROM task WHERE (agent, state) > (?1, ?2) ORDER BY agent, state LIMIT 1";
    let sound = |row: &Row<'_>| {
        let words = (row::word::<AgentName>(row, 0), row::word::<State>(row, 1));
        Ok(row::sound(words.0)?.is_some() && row::sound(words.1)?.is_some())
    };
    let those = "SELECT seq FROM task WHERE agent = ?1 AND state = ?2";
    for seq in strange(db, [first, next], sound, those)? {
        row(db, unreadable, seq)?;
    }
    let first = "SELECT status, '' FROM letter WHERE status >= ?1 AND ?2 = '' ORDER BY status LIMIT 1";
    let next = "SELECT status, '' FROM letter WHERE status > ?1 AND ?2 = '' ORDER BY status LIMIT 1";
    let sound = |row: &Row<'_>| Ok(row::sound(row::word::<LetterStatus>(row, 0))?.is_some());
    let those = "SELECT seq FROM letter WHERE status = ?1 AND ?2 = ''";
    for seq in strange(db, [first, next], sound, those)? {
        letter(db, unreadable, seq)?;
    }
    Ok(())
}

/// The rows whose words are none of ours. Of each pair of words one row is looked at, by their index; what is no text at all
/// ends the look, for nothing is in order behind it.
fn strange(
    db: &Connection,
    [first, next]: [&str; 2],
    sound: impl Fn(&Row<'_>) -> rusqlite::Result<bool>,
    those: &str,
) -> rusqlite::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut last: Option<Pair> = None;
    loop {
        let mut look = db.prepare(if last.is_none() { first } else { next })?;
        let (one, other) = last.clone().unwrap_or_else(|| (Stored(Vec::new()), Stored(Vec::new())));
        let seen =
            look.query_row(params![one, other], |row| Ok((Stored::of(row, 0)?.zip(Stored::of(row, 1)?), sound(row)?)));
        let Some((Some(pair), sound)) = seen.optional()? else { return Ok(found) };
        if last.as_ref().is_some_and(|last| pair <= *last) {
            return Ok(found);
        }
        if !sound {
            let mut those = db.prepare(those)?;
            let seqs = those.query_map(params![pair.0, pair.1], |row| row.get::<_, i64>(0))?;
            let seqs = seqs.collect::<Result<Vec<_>, _>>()?;
            found.extend(seqs.into_iter().filter_map(|seq| u64::try_from(seq).ok()));
        }
        last = Some(pair);
    }
}

/// Writes the row of a task again; none where its record cannot be read either, which is noted.
pub(super) fn row(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> rusqlite::Result<Option<Record>> {
    let Some(record) = record(db, unreadable, seq)? else { return Ok(None) };
    tracing::error!(task = %record.task.id, "its row says something else than its record, and is written again");
    let task = &record.task;
    let tenant = task.tenant.as_deref().unwrap_or_default();
    db.execute(
        "UPDATE task SET type = ?2, effect = ?3, priority = ?4, tenant = ?5, deadline = ?6, created_at = ?7
         WHERE seq = ?1",
        params![
            seq,
            task.task_type.as_str(),
            task.effect.as_str(),
            task.priority.as_str(),
            tenant,
            task.deadline.map(Timestamp::millis),
            task.created_at.millis()
        ],
    )?;
    // What it is found by comes last: cut in between, it is found again.
    update_task(db, seq, &record)?;
    Ok(Some(record))
}

fn letter(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> rusqlite::Result<()> {
    let Some(record) = record(db, unreadable, seq)? else { return Ok(()) };
    tracing::error!(task = %record.task.id, "its dead letter says something else than its record, and is written again");
    // In a transaction or not: a start mends before it begins one.
    db.execute_batch("SAVEPOINT mend")?;
    let gone = db.execute("DELETE FROM letter WHERE seq = ?1", [seq]);
    let written = gone.and_then(|_| insert_letter(db, seq, &record));
    let ended = db.execute_batch(if written.is_ok() { "RELEASE mend" } else { "ROLLBACK TO mend; RELEASE mend" });
    written.and(ended)
}

fn record(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> rusqlite::Result<Option<Record>> {
    match load(db, unreadable, seq) {
        Ok(record) => Ok(Some(record)),
        Err(Trouble::Sqlite(source)) => Err(source),
        Err(Trouble::Unreadable(_) | Trouble::Damaged(_) | Trouble::Refused(_)) => Ok(None),
    }
}
