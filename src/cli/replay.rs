//! `backstop replay`: dead letters being sent round again.

use clap::Subcommand;
use serde_json::json;

use super::output::{Table, ago, details};
use super::{Context, Error, actor, now};
use crate::api::Items;
use crate::replay::{Replay as Record, ReplayState};

/// Dead letters being sent round again.
#[derive(Debug, Subcommand)]
pub(super) enum Replay {
    /// List replays, newest first
    #[command(visible_alias = "list", after_help = "Examples:\n  backstop replay ls")]
    Ls,
    /// How a replay goes
    #[command(after_help = "Examples:\n  backstop replay show RPL-1")]
    Show {
        /// Its name
        id: String,
    },
    /// Hold a replay
    #[command(after_help = "Examples:\n  backstop replay pause RPL-1")]
    Pause {
        /// Its name
        id: String,
    },
    /// Let a held replay go on
    #[command(after_help = "Examples:\n  backstop replay resume RPL-1")]
    Resume {
        /// Its name
        id: String,
    },
    /// End a replay; what was not released stays in the queue
    #[command(after_help = "Examples:\n  backstop replay cancel RPL-1")]
    Cancel {
        /// Its name
        id: String,
    },
}

impl Replay {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let (id, verb) = match self {
            Self::Ls => return list(context).await,
            Self::Show { id } => {
                let got = context.client.get::<Record>(&["api", "v1", "replays", &id], &[]).await?;
                context.out.data(&got.raw, "/id", || show(&got.it))?;
                context.out.next(&next_for(&got.it));
                return Ok(());
            }
            Self::Pause { id } => (id, "pause"),
            Self::Resume { id } => (id, "resume"),
            Self::Cancel { id } => (id, "cancel"),
        };
        let path = ["api", "v1", "replays", &id, verb];
        let got = context.client.post::<Record>(&path, &json!({ "by": actor() })).await?;
        context.out.data(&got.raw, "/id", || show(&got.it))?;
        context.out.next(&next_for(&got.it));
        Ok(())
    }
}

async fn list(context: &Context) -> Result<(), Error> {
    let got = context.client.get::<Items<Record>>(&["api", "v1", "replays"], &[]).await?;
    context.out.data(&got.raw, "/id", || {
        let mut table = Table::new(&["ID", "STATE", "BY", "AGE", "WAITING", "OUT", "OK", "FAILED", "LEFT OUT", "NOTE"]);
        for replay in &got.it.items {
            table.row(&[
                replay.id.clone(),
                replay.state.to_string(),
                replay.ask.by.clone(),
                ago(now(), replay.started_at),
                replay.pending.len().to_string(),
                replay.released.len().to_string(),
                replay.succeeded.len().to_string(),
                replay.failed.len().to_string(),
                replay.left_out.len().to_string(),
                replay.note.clone(),
            ]);
        }
        table.render("no replays")
    })?;
    match got.it.items.first() {
        Some(replay) => context.out.next(&format!("backstop replay show {}", replay.id)),
        None => context.out.next("backstop dlq groups"),
    }
    Ok(())
}

/// One replay.
pub(super) fn show(replay: &Record) -> String {
    details(&[
        ("id", replay.id.clone()),
        ("state", replay.state.to_string()),
        ("by", replay.ask.by.clone()),
        ("reason", replay.ask.reason.clone()),
        ("rate", format!("{}/s", replay.ask.rate)),
        ("started", replay.started_at.to_string()),
        ("waiting", replay.pending.len().to_string()),
        ("running", replay.released.len().to_string()),
        ("succeeded", replay.succeeded.len().to_string()),
        ("failed again", replay.failed.len().to_string()),
        ("left out", replay.left_out.len().to_string()),
        ("note", replay.note.clone()),
    ])
}

fn next_for(replay: &Record) -> String {
    match replay.state {
        ReplayState::Running => format!("backstop replay pause {}", replay.id),
        ReplayState::Paused => format!("backstop replay resume {}", replay.id),
        ReplayState::Finished | ReplayState::Cancelled | ReplayState::Aborted => "backstop dlq groups".to_owned(),
    }
}
