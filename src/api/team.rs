//! The team itself: agents, breakers, the feed, why a policy applies, counts and health.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::Value;

use super::input::{Input, nothing_else, wrong};
use super::problem::Problem;
use super::{Answer, Door, Items, filter, ok, status, stream};
use crate::balance::Balance;
use crate::query::Page;
use crate::task::{AgentName, Integration, TaskType};
use crate::time::parse_duration;

pub(super) async fn agents(State(door): State<Door>) -> Answer {
    ok(&door.desk.shown(&Items { items: door.desk.agents().await? }))
}

pub(super) async fn agent(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let agents = door.desk.agents().await?;
    match agents.iter().find(|agent| agent.name.as_str() == name) {
        Some(agent) => ok(&door.desk.shown(agent)),
        None => Err(Problem::not_found("agent", &name)),
    }
}

pub(super) async fn breakers(State(door): State<Door>) -> Answer {
    ok(&door.desk.shown(&Items { items: door.desk.breakers().await? }))
}

/// `for` is a span such as `10m`; without it the breaker stays open until somebody closes it.
pub(super) async fn open_breaker(State(door): State<Door>, Path(name): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, reason) = input.actor(&mut fields)?;
    let span = match fields.remove("for") {
        None | Some(Value::Null) => None,
        Some(Value::String(span)) => Some(parse_duration(&span).map_err(|error| wrong("/for", error.to_string()))?),
        Some(_) => return Err(wrong("/for", "must be a duration such as \"10m\"")),
    };
    nothing_else(&fields, &["by", "reason", "for"])?;
    ok(&door.desk.open_breaker(&Integration::new(name)?, span, &by, &reason).await?)
}

pub(super) async fn close_breaker(State(door): State<Door>, Path(name): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, reason) = input.actor(&mut fields)?;
    nothing_else(&fields, &["by", "reason"])?;
    ok(&door.desk.close_breaker(&Integration::new(name)?, &by, &reason).await?)
}

/// A page of the feed, or with `Accept: text/event-stream` the feed itself. A stream begins after `Last-Event-ID`,
/// `after` or `since`, and else with what happens next; it says first after which event that is.
pub(super) async fn events(State(door): State<Door>, input: Input) -> Answer {
    let now = door.desk.now();
    let mut params = input.params()?;
    let limit = params.page_size();
    let mut after = params.read::<u64>("after", "the number of an event");
    if let Some(since) = params.text("since") {
        let since = filter::point(&since, now).map_err(|why| wrong("since", why))?;
        let from = stream::seq_before(door.desk.engine(), since).await?;
        after = Some(after.unwrap_or(0).max(from));
    }
    params.end(&["limit", "after", "since"])?;
    if stream::wanted(&input.headers) {
        let last = *door.desk.engine().watch().borrow();
        let after = stream::last_event_id(&input.headers)?.or(after).unwrap_or(last);
        return Ok(stream::follow(door, after));
    }
    let items = door.desk.engine().events(after.unwrap_or(0), limit).await?;
    let next = items.last().filter(|_| items.len() == limit as usize).map(|event| event.seq.to_string());
    ok(&door.desk.shown(&Page { items, next, unreadable: Vec::new() }))
}

/// `type=code_review`, with `agent=cto` if it matters, or `task=<id>`.
pub(super) async fn explain(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let (task, task_type, agent) = (params.text("task"), params.text("type"), params.text("agent"));
    params.end(&["task", "type", "agent"])?;
    match (task, task_type) {
        (Some(id), None) => {
            let id = super::tasks::find(&door, &id).await?.task.id;
            ok(&door.desk.shown(&door.desk.explain_task(id).await?))
        }
        (None, Some(task_type)) => {
            let agent = agent.map(AgentName::new).transpose()?;
            ok(&door.desk.explain_type(&TaskType::new(task_type)?, agent.as_ref())?)
        }
        (Some(_), Some(_)) => Err(wrong("task", "give `task` or `type`, not both")),
        (None, None) => Err(wrong("type", "is missing; give `type=code_review` or `task=<id>`")),
    }
}

/// One round of forgetting what ended long ago, first tasks, then incidents and replays: `older_than` (a span; else as the
/// configuration says), `dry_run`, and `after`, the `next` of the round before.
pub(super) async fn prune(State(door): State<Door>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, _) = input.actor(&mut fields)?;
    let older_than = match fields.remove("older_than") {
        None | Some(Value::Null) => None,
        Some(Value::String(span)) => {
            Some(parse_duration(&span).map_err(|error| wrong("/older_than", error.to_string()))?)
        }
        Some(_) => return Err(wrong("/older_than", "must be a duration such as \"30d\"")),
    };
    let dry_run = match fields.remove("dry_run") {
        None => false,
        Some(Value::Bool(dry_run)) => dry_run,
        Some(_) => return Err(wrong("/dry_run", "must be true or false")),
    };
    let after = match fields.remove("after") {
        None | Some(Value::Null) => 0,
        Some(after) => after.as_u64().ok_or_else(|| wrong("/after", "must be the `next` of the round before"))?,
    };
    nothing_else(&fields, &["by", "reason", "older_than", "dry_run", "after"])?;
    ok(&door.desk.prune(older_than, after, dry_run, &by).await?)
}

#[derive(Serialize)]
struct Account {
    #[serde(flatten)]
    balance: Balance,
    lost: u64,
}

pub(super) async fn balance(State(door): State<Door>) -> Answer {
    let balance = door.desk.engine().balance().await?;
    ok(&Account { lost: balance.lost(), balance })
}

pub(super) async fn status(State(door): State<Door>) -> Answer {
    let desk = &door.desk;
    let balance = desk.engine().balance().await?;
    let (agents, breakers, incidents) = (desk.agents().await?, desk.breakers().await?, desk.incidents().await?);
    let (readiness, unheard) = (desk.readiness(), desk.unheard().await);
    let status = status::status(balance, &agents, breakers, incidents, &readiness, unheard, desk.now());
    ok(&desk.shown(&status))
}

pub(super) async fn metrics(State(door): State<Door>) -> Answer {
    let text = door.metrics.render(&door.desk).await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Ready to take work: 200, else 503. `?verbose` lists the checks.
pub(super) async fn readyz(State(door): State<Door>, input: Input) -> Answer {
    let mut params = input.params()?;
    let verbose = params.flag("verbose");
    params.end(&["verbose"])?;
    let readiness = door.desk.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if verbose {
        return super::json(status, &readiness);
    }
    if readiness.ready {
        return Ok("ok\n".into_response());
    }
    let failed: Vec<String> =
        readiness.checks.iter().filter(|check| !check.1).map(|check| format!("{}: {}", check.0, check.2)).collect();
    Err(Problem::new(status, "not-ready", "Not ready", failed.join("; ")))
}
