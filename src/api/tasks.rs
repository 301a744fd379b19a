//! Tasks: submit, look at, cancel; what happened to one and why, and a person's answer about a call in doubt.
//!
//! Everything is shown without credentials, except the payload and the answer of a task asked for by its id: they are
//! its owner's.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::input::{IDEMPOTENCY_KEY, Input, nothing_else, wrong};
use super::problem::Problem;
use super::{Answer, Door, Items, json as answer, ok};
use crate::engine::Engine;
use crate::query::{Filter, PageAsk, Unreadable};
use crate::record::Record;
use crate::task::{IdempotencyKey, TaskId};
use crate::team::desk::NewTask;
use crate::time::Timestamp;

pub(super) async fn list(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let page = params.page();
    let filter = params.filter(door.desk.now())?;
    ok(&door.desk.shown(&door.desk.engine().records(filter, page).await?))
}

/// 201 for a new task, 200 for one that its idempotency key already names.
pub(super) async fn submit(State(door): State<Door>, input: Input) -> Answer {
    input.params()?.end(&[])?;
    let mut ask: NewTask = input.json()?;
    if let Some(value) = input.headers.get(IDEMPOTENCY_KEY) {
        let text = value.to_str().map_err(|_| wrong("Idempotency-Key", "must be printable ASCII"))?;
        let key = IdempotencyKey::new(text).map_err(|error| wrong("Idempotency-Key", error.to_string()))?;
        match &ask.idempotency_key {
            Some(other) if *other != key => {
                return Err(wrong("/idempotency_key", "differs from the header `Idempotency-Key`; send one of them"));
            }
            Some(_) | None => ask.idempotency_key = Some(key),
        }
    }
    let submitted = door.desk.submit(ask).await?;
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, &json!({ "record": door.desk.owned(&submitted.record), "new": submitted.new }))
}

pub(super) async fn show(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    ok(&door.desk.owned(&find(&door, &id).await?))
}

pub(super) async fn cancel(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, reason) = input.actor(&mut fields)?;
    nothing_else(&fields, &["by", "reason"])?;
    let id = find(&door, &id).await?.task.id;
    ok(&door.desk.owned(&door.desk.cancel(id, &by, &reason).await?))
}

/// `happened` is yes or no; `step` names the call where several are in doubt; `note` (or `reason`) says what was seen.
pub(super) async fn outcome(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let step = match fields.remove("step") {
        None | Some(Value::Null) => None,
        Some(step) => match step.as_u64().and_then(|step| u32::try_from(step).ok()).filter(|step| *step > 0) {
            Some(step) => Some(step),
            None => return Err(wrong("/step", "must be the number of a step; `backstop task journal` lists them")),
        },
    };
    let happened = match fields.remove("happened") {
        Some(Value::Bool(happened)) => happened,
        None => return Err(wrong("/happened", "is missing; true if the call happened, false if it did not")),
        Some(_) => return Err(wrong("/happened", "must be true or false")),
    };
    let note = match fields.remove("note") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(note)) if note.chars().count() <= 2_000 => note,
        Some(Value::String(_)) => return Err(wrong("/note", "must have at most 2,000 characters")),
        Some(_) => return Err(wrong("/note", "must be a text")),
    };
    let (by, reason) = input.actor(&mut fields)?;
    nothing_else(&fields, &["step", "happened", "note", "by", "reason"])?;
    let note = [note, reason].into_iter().filter(|said| !said.trim().is_empty()).collect::<Vec<_>>().join("; ");
    let id = find(&door, &id).await?.task.id;
    ok(&door.desk.owned(&door.desk.judge(id, step, happened, &note, &by).await?))
}

/// Every call of a model and of a tool, oldest first.
pub(super) async fn journal(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let id = find(&door, &id).await?.task.id;
    ok(&door.desk.shown(&Items { items: door.desk.journal(id).await? }))
}

/// What happened to a task, and by which rules.
pub(super) async fn why(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let id = find(&door, &id).await?.task.id;
    ok(&door.desk.shown(&door.desk.why(id).await?))
}

pub(super) async fn history(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let id = find(&door, &id).await?.task.id;
    ok(&door.desk.shown(&Items { items: door.desk.engine().history(id).await? }))
}

/// The task of an id, or of the beginning of one if only one task has it.
pub(super) async fn find(door: &Door, id: &str) -> Result<Record, Problem> {
    let engine = door.desk.engine();
    if let Ok(id) = id.parse::<TaskId>() {
        return engine.record(id).await?.ok_or_else(|| Problem::not_found("task", &id.to_string()));
    }
    let prefix = Prefix::read(id).ok_or_else(|| {
        wrong(
            "/id",
            format!("`{id}` is not a task id or its first 8 or more characters; `backstop task ls -o name` lists them"),
        )
    })?;
    let found = begin_with(engine, &prefix).await?;
    match <[Record; 1]>::try_from(found) {
        Ok([record]) => Ok(record),
        Err(none) if none.is_empty() => Err(Problem::not_found("task", id)),
        Err(several) => {
            let ids: Vec<String> = several.iter().take(5).map(|record| record.task.id.to_string()).collect();
            let detail = format!("several tasks begin with `{id}`: {}; write more of it", ids.join(", "));
            Err(Problem::new(StatusCode::CONFLICT, "ambiguous-id", "Several tasks begin so", detail))
        }
    }
}

/// The beginning of an id is a span of time (RFC 9562), so the engine looks only at the tasks accepted in it.
async fn begin_with(engine: &dyn Engine, prefix: &Prefix) -> Result<Vec<Record>, Problem> {
    let filter = Filter { since: Some(prefix.first), until: Some(prefix.end), ..Filter::default() };
    let mut page = PageAsk { after: None, limit: 1_000, oldest_first: false };
    let mut found = Vec::new();
    loop {
        let got = engine.records(filter.clone(), page.clone()).await?;
        // It may be the one that is meant: to take another would be a guess.
        let meant = |one: &Unreadable| one.id.parse().is_ok_and(|id| prefix.matches(id));
        if let Some(Unreadable { id, why }) = got.unreadable.into_iter().find(meant) {
            return Err(crate::engine::Error::Unreadable { id, why }.into());
        }
        found.extend(got.items.into_iter().filter(|record| prefix.matches(record.task.id)));
        if got.next.is_none() || found.len() > 5 {
            return Ok(found);
        }
        page.after = got.next;
    }
}

/// At least 8 hexadecimal digits, with or without hyphens.
struct Prefix {
    digits: String,
    first: Timestamp,
    end: Timestamp,
}

impl Prefix {
    fn read(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        if !(8..32).contains(&digits.len()) || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let time = &digits[..digits.len().min(12)];
        let shift = 4 * (12 - time.len());
        let first = i64::from_str_radix(time, 16).ok()? << shift;
        Some(Self { first: Timestamp::from_millis(first), end: Timestamp::from_millis(first + (1 << shift)), digits })
    }

    fn matches(&self, id: TaskId) -> bool {
        id.uuid().simple().to_string().starts_with(&self.digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_a_span_of_time() {
        let id = TaskId::new(Timestamp::from_millis(0x0192_1234_5678), [7; 10]);
        let text = id.to_string();
        for length in [8, 9, 13, 18, 30] {
            let prefix = Prefix::read(&text[..length]).expect("a prefix");
            assert!(prefix.matches(id), "{length}");
            assert!(prefix.first.millis() <= 0x0192_1234_5678 && 0x0192_1234_5678 < prefix.end.millis(), "{length}");
        }
        assert_eq!(Prefix::read("01921234").map(|p| p.end.millis() - p.first.millis()), Some(0x1_0000));
        for wrong in ["", "0192123", "01921234z", "-------", "INC-1"] {
            assert!(Prefix::read(wrong).is_none(), "{wrong}");
        }
    }
}
