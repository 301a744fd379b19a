//! Dead letters, the decisions about them, and sending them round again.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::groups::{Group, groups as group};
use super::input::{Input, Params, decision, nothing_else, wrong};
use super::problem::Problem;
use super::tasks::find;
use super::{Answer, Door, Items, json, ok};
use crate::event::{Event, Happening};
use crate::query::{Filter, Page, PageAsk, Unreadable};
use crate::record::Record;
use crate::replay::{RATE_MAX, RATE_MIN, Replay, ReplayAsk, is_rate};
use crate::time::Timestamp;
use crate::triage::Decision;

/// The most letters one listing of groups reads.
const GROUPED_MAX: usize = 20_000;

pub(super) async fn list(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let page = params.page();
    let filter = asked(params, door.desk.now())?;
    ok(&door.desk.shown(&door.desk.engine().dead_letters(filter, page).await?))
}

/// The filter of a request for dead letters. Whoever discards what is listed must not be shown more than was asked for.
fn asked(params: Params, now: Timestamp) -> Result<Filter, Problem> {
    let filter = params.filter(now)?;
    filter.asks_letters().map_err(|error| wrong(error.field(), error.to_string()))?;
    Ok(filter)
}

/// Dead letters by what went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    /// The largest first.
    pub items: Vec<Group>,
    /// There are more letters than were read.
    pub truncated: bool,
    /// What belongs here and cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
}

pub(super) async fn groups(State(door): State<Door>, input: Input) -> Answer {
    let filter = asked(input.params()?, door.desk.now())?;
    let mut page = PageAsk { after: None, limit: 1_000, oldest_first: false };
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    loop {
        let got = door.desk.engine().dead_letters(filter.clone(), page.clone()).await?;
        records.extend(got.items);
        unreadable.extend(got.unreadable);
        page.after = got.next;
        if page.after.is_none() || records.len() >= GROUPED_MAX {
            break;
        }
    }
    ok(&door.desk.shown(&Groups { items: group(&records), truncated: page.after.is_some(), unreadable }))
}

/// A dead letter with its journal: everything anybody needs to understand it, and no credential.
pub(super) async fn show(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let id = letter(&door, &id).await?.task.id;
    ok(&door.desk.shown(&door.desk.letter(id).await?))
}

async fn letter(door: &Door, id: &str) -> Result<Record, Problem> {
    let record = find(door, id).await?;
    if record.letter.is_none() { Err(Problem::not_found("dead letter", id)) } else { Ok(record) }
}

pub(super) async fn decide(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, reason) = input.actor(&mut fields)?;
    let decision = decision(fields)?;
    let id = letter(&door, &id).await?.task.id;
    ok(&door.desk.shown(&door.desk.decide(id, decision, &by, &reason).await?))
}

pub(super) async fn discard(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, reason) = input.actor(&mut fields)?;
    nothing_else(&fields, &["by", "reason"])?;
    if reason.trim().is_empty() {
        return Err(wrong("/reason", "is missing; say why this work may be given up for good"));
    }
    let id = letter(&door, &id).await?.task.id;
    let decision = Decision::Discard { why: reason.clone() };
    ok(&door.desk.shown(&door.desk.decide(id, decision, &by, &reason).await?))
}

/// The decisions of the feed, newest first; `before` is the number of the last one read.
pub(super) async fn decisions(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let limit = params.page_size() as usize;
    let before = params.read::<u64>("before", "the number of an event");
    params.end(&["limit", "before"])?;
    let engine = door.desk.engine();
    let mut end = before.unwrap_or(u64::MAX).min(engine.watch().borrow().saturating_add(1));
    let mut items: Vec<Event> = Vec::new();
    while end > 1 && items.len() < limit {
        let start = end.saturating_sub(1_001);
        let window = engine.events(start, 1_000).await?;
        let decided = |event: &Event| matches!(event.what, Happening::Decided { .. }) && event.seq < end;
        items.extend(window.into_iter().filter(decided).rev());
        end = start + 1;
    }
    let more = end > 1 || items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|event| event.seq.to_string());
    ok(&door.desk.shown(&Page { items, next, unreadable: Vec::new() }))
}

pub(super) async fn replays(State(door): State<Door>) -> Answer {
    ok(&door.desk.shown(&Items { items: door.desk.replays().await? }))
}

/// `dry_run=true` answers with the plan and changes nothing.
pub(super) async fn start_replay(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let mut dry_run = params.flag("dry_run");
    params.end(&["dry_run"])?;
    let mut fields = input.object()?;
    match fields.remove("dry_run") {
        None => {}
        Some(Value::Bool(asked)) => dry_run = dry_run || asked,
        Some(_) => return Err(wrong("/dry_run", "must be true or false")),
    }
    let (by, reason) = input.actor(&mut fields)?;
    fields.insert("by".to_owned(), Value::String(by));
    fields.insert("reason".to_owned(), Value::String(reason));
    let ask: ReplayAsk = super::input::read_json(Value::Object(fields).to_string().as_bytes())?;
    if !is_rate(ask.rate) {
        return Err(wrong("/rate", format!("must be from {RATE_MIN} (one a day) to {RATE_MAX} letters a second")));
    }
    ask.filter.asks_letters().map_err(|not| wrong(&format!("/filter/{}", not.field()), not.to_string()))?;
    if dry_run {
        return ok(&door.desk.shown(&door.desk.plan_replay(&ask).await?));
    }
    json(StatusCode::CREATED, &door.desk.start_replay(ask).await?)
}

pub(super) async fn replay(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let mut replays: Vec<Replay> = door.desk.replays().await?;
    replays.retain(|replay| replay.id == id);
    match replays.first() {
        Some(replay) => ok(&door.desk.shown(replay)),
        None => Err(Problem::not_found("replay", &id)),
    }
}

pub(super) async fn steer_replay(
    State(door): State<Door>,
    Path((id, verb)): Path<(String, String)>,
    input: Input,
) -> Answer {
    let mut fields = input.object()?;
    let (by, _) = input.actor(&mut fields)?;
    nothing_else(&fields, &["by", "reason"])?;
    match verb.as_str() {
        "pause" => ok(&door.desk.pause_replay(&id, &by).await?),
        "resume" => ok(&door.desk.resume_replay(&id, &by).await?),
        "cancel" => ok(&door.desk.cancel_replay(&id, &by).await?),
        _ => Err(Problem::not_found("action on a replay (pause, resume, cancel)", &verb)),
    }
}
