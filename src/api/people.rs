//! What people are called for and what they answer: incidents, and trying the pager.

use axum::extract::{Path, State};
use serde_json::Value;

use super::input::{Input, decision, nothing_else, wrong};
use super::problem::Problem;
use super::{Answer, Door, Items, ok};

pub(super) async fn incidents(State(door): State<Door>) -> Answer {
    ok(&door.desk.shown(&Items { items: door.desk.incidents().await? }))
}

pub(super) async fn incident(State(door): State<Door>, Path(id): Path<String>) -> Answer {
    let incidents = door.desk.incidents().await?;
    match incidents.iter().find(|incident| incident.id == id) {
        Some(incident) => ok(&door.desk.shown(incident)),
        None => Err(Problem::not_found("incident", &id)),
    }
}

pub(super) async fn acknowledge(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let (by, note) = answer(&input)?;
    ok(&door.desk.shown(&door.desk.acknowledge(&id, &by, &note).await?))
}

pub(super) async fn resolve(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let (by, note) = answer(&input)?;
    ok(&door.desk.shown(&door.desk.resolve(&id, &by, &note).await?))
}

pub(super) async fn override_all(State(door): State<Door>, Path(id): Path<String>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, note) = input.actor(&mut fields)?;
    let decision = decision(fields)?;
    ok(&door.desk.shown(&door.desk.override_incident(&id, decision, &by, &note).await?))
}

fn answer(input: &Input) -> Result<(String, String), Problem> {
    let mut fields = input.object()?;
    let answer = input.actor(&mut fields)?;
    nothing_else(&fields, &["by", "note", "reason"])?;
    Ok(answer)
}

pub(super) async fn page_test(State(door): State<Door>, input: Input) -> Answer {
    let mut fields = input.object()?;
    let (by, _) = input.actor(&mut fields)?;
    let channel = match fields.remove("channel") {
        None | Some(Value::Null) => None,
        Some(Value::String(channel)) => Some(channel),
        Some(_) => return Err(wrong("/channel", "must be the name of a channel, such as `pagerduty`")),
    };
    nothing_else(&fields, &["by", "channel"])?;
    ok(&Items { items: door.desk.page_test(channel.as_deref(), &by).await? })
}
