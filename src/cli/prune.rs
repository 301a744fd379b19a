//! `backstop prune`: forgets what ended long ago, in a running team or in the record of a stopped one.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::confirm::confirm;
use super::output::details;
use super::{Context, Error, actor, now};
use crate::engine::Engine;
use crate::engine::embedded::Embedded;
use crate::error_chain::in_full;
use crate::retention::{KEY_RETENTION, Pruned, Retention};
use crate::team::retention::{Round, nobody_was_there, round};
use crate::time::{format_duration, parse_duration};

/// Forget what ended long ago: tasks, replays, and incidents with their pages. What is open, waits for a person, or is
/// part of an incident or replay that is not over always stays, so do the last incident and the last replay, and every
/// incident for 31 days; a running team does this by itself every hour, as `retention` in backstop.yaml says. Of a stopped
/// team (--data) that file is not read: only what --older-than names goes, and nothing without it.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop prune --dry-run\n  backstop prune --older-than 30d --yes\n  backstop prune --data .backstop/data --compact     of a stopped team: nothing goes, the file shrinks\n  backstop prune --data .backstop/data --older-than 90d --compact --yes"
)]
pub(super) struct Prune {
    /// What ended longer ago than this; in a running team as `retention` in backstop.yaml says unless told otherwise
    /// (30d, and 90d for what was in the dead letter queue, incidents and replays)
    #[arg(long, value_parser = parse_duration, value_name = "SPAN")]
    older_than: Option<Duration>,
    /// Show what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The record of a stopped team, instead of a running one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the file anew without its free pages, forgetting nothing unless --older-than is given; needs as much room
    /// again while it does
    #[arg(long, requires = "data", conflicts_with = "dry_run")]
    compact: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Where the rounds are done.
enum Place<'a> {
    Team(&'a Context),
    File(Embedded),
}

impl Prune {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        if let Some(short) = self.older_than.filter(|span| *span < KEY_RETENTION) {
            let message =
                format!("--older-than {} is too short: what ended within a day stays", format_duration(short));
            return Err(Error::Usage { message, next: Some("backstop prune --older-than 1d --dry-run".to_owned()) });
        }
        if self.data.is_some() && self.older_than.is_none() && !self.compact {
            let message = "what may go? the backstop.yaml of a stopped team is not read: give --older-than to forget what \
                           ended longer ago, or --compact to forget nothing and write the file anew";
            let next = Some("backstop prune --data .backstop/data --older-than 90d --dry-run".to_owned());
            return Err(Error::Usage { message: message.to_owned(), next });
        }
        let place = match &self.data {
            None => Place::Team(context),
            Some(dir) if dir.join("backstop.db").is_file() => {
                Place::File(Embedded::open(dir, now()).map_err(|error| failed(&error))?)
            }
            Some(dir) => {
                let message = format!("there is no record in {}", dir.display());
                return Err(Error::Usage {
                    message,
                    next: Some("backstop prune --data .backstop/data --compact".to_owned()),
                });
            }
        };
        let mut pruned = self.rounds(&place, true).await?;
        let others = pruned.incidents + pruned.replays;
        let all = pruned.tasks() + others;
        if !self.dry_run && all > 0 {
            let what = if others > 0 { "tasks, incidents and replays" } else { "tasks" };
            confirm("forget", what, usize::try_from(all).unwrap_or(usize::MAX), self.yes)?;
        }
        if !self.dry_run {
            if let Place::File(engine) = &place {
                nobody_was_there(engine, now()).await.map_err(|error| failed(&error))?;
            }
            pruned = self.rounds(&place, false).await?;
        }
        if let Place::File(engine) = place {
            engine.close().await.map_err(|error| failed(&error))?;
        }
        let mut raw = json!({
            "done": pruned.done,
            "dead": pruned.dead,
            "cancelled": pruned.cancelled,
            "incidents": pruned.incidents,
            "replays": pruned.replays,
            "events": pruned.events,
            "dry_run": self.dry_run,
        });
        let mut shown = vec![
            ("done", pruned.done.to_string()),
            ("dead", pruned.dead.to_string()),
            ("cancelled", pruned.cancelled.to_string()),
            ("incidents", pruned.incidents.to_string()),
            ("replays", pruned.replays.to_string()),
        ];
        if !self.dry_run {
            shown.push(("events", pruned.events.to_string()));
        }
        if let Some(dir) = self.data.as_ref().filter(|_| self.compact) {
            let (before, after) = Embedded::compact(dir).map_err(|error| failed(&error))?;
            raw["bytes_before"] = before.into();
            raw["bytes_after"] = after.into();
            shown.push(("file", format!("{before} bytes before, {after} after")));
        }
        context.out.say(match (&self.data, self.older_than) {
            (Some(_), None) => "nothing was forgotten, as no --older-than was given; the file was written anew:",
            (None, _) | (Some(_), Some(_)) if self.dry_run => "would be forgotten:",
            (None, _) | (Some(_), Some(_)) => "forgotten:",
        });
        context.out.data(&raw, "/done", || details(&shown))?;
        context.out.next(match (self.dry_run, &self.data) {
            (true, _) => "the same without --dry-run",
            (false, None) => "backstop status",
            (false, Some(_)) => "backstop up",
        });
        Ok(())
    }

    async fn rounds(&self, place: &Place<'_>, dry_run: bool) -> Result<Pruned, Error> {
        let (mut pruned, mut next) = (Pruned::default(), Some(0));
        while let Some(after) = next {
            let done = match place {
                Place::Team(context) => {
                    let older_than = self.older_than.map(format_duration);
                    let body = json!({ "by": actor(), "older_than": older_than, "dry_run": dry_run, "after": after });
                    context.client.post::<Round>(&["api", "v1", "prune"], &body).await?.it
                }
                Place::File(engine) => {
                    // What its team keeps stands in a file that is not read here: without a word nothing goes.
                    let retention = self.older_than.map_or(Retention::FOR_EVER, Retention::older_than);
                    let done = round(engine, retention, after, dry_run, &actor(), now()).await;
                    done.map_err(|error| failed(&error))?
                }
            };
            pruned.add(done.pruned);
            next = done.next;
        }
        Ok(pruned)
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::Failed { message: in_full(error), next: Some("backstop prune --dry-run".to_owned()) }
}
