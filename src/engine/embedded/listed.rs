//! The rows by which tasks, dead letters and deaths are found: what the record of a task says, said again where an index
//! leads to it.

use rusqlite::{Connection, Row, Statement, named_params, params};

use super::row;
use crate::query::{Death, failed_integration, fold};
use crate::queue::Entry;
use crate::record::Record;
use crate::task::Integration;
use crate::time::Timestamp;

/// A new task.
pub(super) fn insert_task(db: &Connection, seq: u64, record: &Record) -> rusqlite::Result<()> {
    let task = &record.task;
    db.prepare_cached(
        "INSERT INTO task (seq, id, agent, type, effect, priority, tenant, integration, state, due, deadline, again,
               created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, ?12)",
    )?
    .execute(params![
        seq,
        task.id.to_string(),
        record.agent.as_str(),
        task.task_type.as_str(),
        task.effect.as_str(),
        task.priority.as_str(),
        task.tenant.as_deref().unwrap_or_default(),
        record.integration.as_str(),
        record.state.as_str(),
        record.due.millis(),
        task.deadline.map(Timestamp::millis),
        task.created_at.millis(),
    ])?;
    Ok(())
}

/// What a row says of where its task stands.
pub(super) fn update_task(db: &Connection, seq: u64, record: &Record) -> rusqlite::Result<()> {
    let lease = record.lease.as_ref();
    let failure = record.last_failure();
    db.prepare_cached(
        "UPDATE task SET agent = :agent, integration = :integration, state = :state, due = :due, again = :again,
               lease_agent = :lease_agent, lease_incarnation = :lease_incarnation, lease_epoch = :lease_epoch,
               lease_until = :lease_until, class = :class, kind = :kind, folded = :folded, status = :status,
               ended_at = :ended_at
             WHERE seq = :seq",
    )?
    .execute(named_params! {
        ":seq": seq,
        ":agent": record.agent.as_str(),
        ":integration": record.integration.as_str(),
        ":state": record.state.as_str(),
        ":due": record.due.millis(),
        ":again": Entry::of(record).is_some_and(|entry| entry.again),
        ":lease_agent": lease.map(|lease| lease.agent.as_str()),
        ":lease_incarnation": lease.map(|lease| lease.incarnation.0),
        ":lease_epoch": lease.map(|lease| lease.epoch),
        ":lease_until": lease.map(|lease| lease.deadline.millis()),
        ":class": failure.map(|failure| failure.class.as_str()),
        ":kind": failure.map(|failure| failure.kind.as_str()),
        ":folded": failure.map(|failure| fold(&failure.message)),
        ":status": record.letter.as_ref().map(|letter| letter.status.as_str()),
        ":ended_at": record.ended_at.map(Timestamp::millis),
    })?;
    Ok(())
}

/// Its dead letter, if it has one.
pub(super) fn insert_letter(db: &Connection, seq: u64, record: &Record) -> rusqlite::Result<()> {
    let Some(letter) = &record.letter else { return Ok(()) };
    let failure = &letter.failure;
    db.prepare_cached("INSERT INTO letter VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")?
        .execute(params![
            letter.at.millis(),
            seq,
            record.task.id.to_string(),
            letter.status.as_str(),
            record.state.as_str(),
            record.agent.as_str(),
            record.task.task_type.as_str(),
            record.task.effect.as_str(),
            record.task.priority.as_str(),
            failed_integration(record, failure).as_str(),
            failure.class.as_str(),
            failure.kind.as_str(),
            failure.message,
            fold(&failure.message),
        ])?;
    Ok(())
}

/// A death.
pub(super) fn insert_death(db: &Connection, death: &Death) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO death (at, task, generation, agent, type, class, kind, integration)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        death.at.millis(),
        death.task.to_string(),
        death.generation,
        death.agent.as_str(),
        death.task_type.as_str(),
        death.class.as_str(),
        death.kind.as_str(),
        death.integration.as_ref().map(Integration::as_str),
    ])?;
    Ok(())
}

/// Where a task stands in line, as its row says it; where that was moved, by the times of its record, if they can be read.
pub(super) fn entry(row: &Row<'_>, times: &mut Statement<'_>) -> rusqlite::Result<Entry> {
    let due = row::time(row, 6)?;
    let of_record = if due == row::time(row, 8)? {
        None
    } else {
        let time = |text: Option<String>| text.and_then(|time| Timestamp::parse(&time).ok());
        let read = times.query_row([row.get::<_, u64>(0)?], |row| Ok((time(row.get(0)?), time(row.get(1)?))));
        // Its page may be lost: that is told when it is claimed.
        read.ok()
    };
    let (moved, since) = of_record.unwrap_or_default();
    let due = moved.unwrap_or(due);
    Ok(Entry {
        agent: row::word(row, 1)?,
        priority: row::word(row, 2)?,
        tenant: row.get(3)?,
        integration: row::word(row, 4)?,
        again: row.get(5)?,
        since: since.unwrap_or(due),
        due,
        deadline: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_millis),
    })
}
