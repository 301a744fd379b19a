//! A record as rows: what was asked as one JSON, what became of it as another.

use rusqlite::types::Type;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::{Trouble, Work};
use crate::agent::ModelRef;
use crate::delivery::{Amendment, Attempt, Lease, Parking};
use crate::record::{Letter, Record, State};
use crate::task::{AgentName, Integration, Task};
use crate::time::Timestamp;
use crate::triage::Decided;

/// A [`Record`] without its task. Taken apart and put together by naming every field, so that none is forgotten.
#[derive(Serialize, Deserialize)]
struct Progress {
    state: State,
    agent: AgentName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<ModelRef>,
    integration: Integration,
    generation: u32,
    attempt: u32,
    fence: u64,
    due: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parking: Option<Parking>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    amendments: Vec<Amendment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Attempt>,
    /// An answer may be `null`; that is not the same as none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    answer: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    letter: Option<Letter>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    decisions: Vec<Decided>,
    #[serde(default)]
    replays: u32,
    updated_at: Timestamp,
}

fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What became of a task, as JSON; gives the record back unchanged.
pub(super) fn write(record: Record) -> Result<(Record, String), serde_json::Error> {
    let Record {
        task,
        state,
        agent,
        model,
        integration,
        generation,
        attempt,
        fence,
        due,
        since,
        lease,
        parking,
        amendments,
        attempts,
        answer,
        ended_at,
        letter,
        decisions,
        replays,
        updated_at,
    } = record;
    let progress = Progress {
        state,
        agent,
        model,
        integration,
        generation,
        attempt,
        fence,
        due,
        since,
        lease,
        parking,
        amendments,
        attempts,
        answer,
        ended_at,
        letter,
        decisions,
        replays,
        updated_at,
    };
    let json = serde_json::to_string(&progress)?;
    Ok((join(task, progress), json))
}

/// The record from its two JSONs.
pub(super) fn read(task: &str, progress: &str) -> Result<Record, serde_json::Error> {
    Ok(join(serde_json::from_str(task)?, serde_json::from_str(progress)?))
}

fn join(task: Task, progress: Progress) -> Record {
    let Progress {
        state,
        agent,
        model,
        integration,
        generation,
        attempt,
        fence,
        due,
        since,
        lease,
        parking,
        amendments,
        attempts,
        answer,
        ended_at,
        letter,
        decisions,
        replays,
        updated_at,
    } = progress;
    Record {
        task,
        state,
        agent,
        model,
        integration,
        generation,
        attempt,
        fence,
        due,
        since,
        lease,
        parking,
        amendments,
        attempts,
        answer,
        ended_at,
        letter,
        decisions,
        replays,
        updated_at,
    }
}

/// Did the row fail, that does not hold what was written, and not the store?
pub(super) fn is_damage(source: &rusqlite::Error) -> bool {
    matches!(
        source,
        rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

/// What could be read of a row; none of one that is damaged.
pub(super) fn sound<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(source) if is_damage(&source) => Ok(None),
        read => read.map(Some),
    }
}

/// Reads a column that holds a word or name of ours.
pub(super) fn word<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|why| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(why)))
}

/// The same, of a column that may hold nothing.
pub(super) fn word_or_none<T>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if row.get_ref(column)? == rusqlite::types::ValueRef::Null { Ok(None) } else { word(row, column).map(Some) }
}

/// Reads a column that holds JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> Work<T> {
    let text = row.get_ref(column)?.as_str().map_err(|why| Trouble::Damaged(Box::new(why)))?;
    Ok(serde_json::from_str(text)?)
}

/// Reads a column that holds a time.
pub(super) fn time(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}
