//! A row of the table of tasks only says again what the record of its task says, so that tasks are found by it. Where what it
//! says is no word of ours it is written again from the record: a task that nobody finds would wait for ever.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::row;
use super::store::{Trouble, load, update_task};
use super::unreadable::UnreadableTasks;
use crate::ledger::{Record, State};
use crate::task::AgentName;

/// Text as it is stored, whatever it is.
struct Stored(Vec<u8>);

impl ToSql for Stored {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

impl Stored {
    fn of(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Self> {
        Ok(Self(row.get_ref(column)?.as_bytes()?.to_vec()))
    }
}

/// Mends the rows of tasks whose agent or state is no such thing. Of each agent and state one row is looked at, by their index.
pub(super) fn rows(db: &Connection, unreadable: &UnreadableTasks) -> rusqlite::Result<()> {
    let mut next =
        db.prepare("SELECT agent, state FROM task WHERE (agent, state) > (?1, ?2) ORDER BY agent, state LIMIT 1")?;
    let mut last = (Stored(Vec::new()), Stored(Vec::new()));
    loop {
        let found = next.query_row(params![last.0, last.1], |row| {
            let words = (row::word::<AgentName>(row, 0), row::word::<State>(row, 1));
            let sound = row::sound(words.0)?.is_some() && row::sound(words.1)?.is_some();
            Ok((Stored::of(row, 0)?, Stored::of(row, 1)?, sound))
        });
        let Some((agent, state, sound)) = found.optional()? else { return Ok(()) };
        if !sound {
            let mut those = db.prepare("SELECT seq FROM task WHERE agent = ?1 AND state = ?2")?;
            let seqs = those.query_map(params![agent, state], |row| row.get(0))?.collect::<Result<Vec<u64>, _>>()?;
            for seq in seqs {
                row(db, unreadable, seq)?;
            }
        }
        last = (agent, state);
    }
}

/// Writes a row again; none where the record cannot be read either, which is noted.
pub(super) fn row(db: &Connection, unreadable: &UnreadableTasks, seq: u64) -> rusqlite::Result<Option<Record>> {
    let record = match load(db, unreadable, seq) {
        Ok(record) => record,
        Err(Trouble::Sqlite(source)) => return Err(source),
        Err(Trouble::Unreadable(_) | Trouble::Damaged(_) | Trouble::Refused(_)) => return Ok(None),
    };
    tracing::error!(task = %record.task.id, "a row of the table of tasks is damaged; it is written again from the record");
    update_task(db, seq, &record)?;
    let task = &record.task;
    let tenant = task.tenant.as_deref().unwrap_or_default();
    db.execute(
        "UPDATE task SET type = ?2, effect = ?3, priority = ?4, tenant = ?5 WHERE seq = ?1",
        params![seq, task.task_type.as_str(), task.effect.as_str(), task.priority.as_str(), tenant],
    )?;
    Ok(Some(record))
}
