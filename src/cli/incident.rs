//! `backstop incident`: what people were called for, and their answers.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::decision::DecisionArgs;
use super::output::{Table, ago, cut, details};
use super::{Context, Error, actor, now};
use crate::api::Items;
use crate::incident::{Incident as Record, IncidentState};
use crate::outbox::PAGE_DEATHS_MAX;
use crate::team::desk::Overridden;

/// What people were called for.
#[derive(Debug, Subcommand)]
pub(super) enum Incident {
    /// List incidents, newest first
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  backstop incident ls\n  backstop incident ls --open -o name"
    )]
    Ls {
        /// Only those that are not over
        #[arg(long)]
        open: bool,
    },
    /// Everything known of an incident
    #[command(after_help = "Examples:\n  backstop incident show INC-1")]
    Show {
        /// Its name
        id: String,
    },
    /// Take an incident on; its pages stop
    #[command(visible_alias = "acknowledge", after_help = "Examples:\n  backstop incident ack INC-1 --note 'looking'")]
    Ack(Said),
    /// Decide for every undecided task of an incident
    #[command(
        name = "override",
        after_help = "Examples:\n  backstop incident override INC-1 retry-on-fallback --model openai/gpt-5.4 --reason 'provider is down'"
    )]
    Override(Override),
    /// End an incident
    #[command(after_help = "Examples:\n  backstop incident resolve INC-1 --note 'provider is back'")]
    Resolve(Said),
}

#[derive(Args, Debug)]
pub(super) struct Said {
    /// Its name
    id: String,
    /// Your words, for the record
    #[arg(long, visible_alias = "reason", default_value = "")]
    note: String,
}

#[derive(Args, Debug)]
pub(super) struct Override {
    /// Its name
    id: String,
    /// Why; recorded with each task
    #[arg(long, visible_alias = "note", default_value = "", global = true)]
    reason: String,
    #[command(subcommand)]
    decision: DecisionArgs,
}

impl Incident {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Ls { open } => list(context, open).await,
            Self::Show { id } => {
                let got = context.client.get::<Record>(&["api", "v1", "incidents", &id], &[]).await?;
                tell(context, &got.raw, &got.it)
            }
            Self::Ack(said) => answer(context, said, "acknowledge").await,
            Self::Resolve(said) => answer(context, said, "resolve").await,
            Self::Override(Override { id, reason, decision }) => {
                let body = decision.body(&actor(), &reason)?;
                let path = ["api", "v1", "incidents", &id, "override"];
                let got = context.client.post::<Overridden>(&path, &body).await?;
                context.out.data(&got.raw, "/incident/id", || overridden(&got.it))?;
                context.out.next(&format!("backstop incident show {id}"));
                if got.it.refused.is_empty() { Ok(()) } else { Err(Error::Silent(5)) }
            }
        }
    }
}

/// The tasks a decision was applied to, and those that refused it.
fn overridden(answer: &Overridden) -> String {
    let mut table = Table::new(&["TASK", "RESULT"]);
    for task in &answer.decided {
        table.row(&[task.to_string(), "decided".to_owned()]);
    }
    for (task, why) in &answer.refused {
        table.row(&[task.to_string(), why.clone()]);
    }
    table.render("no undecided task is left in it")
}

async fn list(context: &Context, open: bool) -> Result<(), Error> {
    let mut got = context.client.get::<Items<Record>>(&["api", "v1", "incidents"], &[]).await?;
    if open {
        got.it.items.retain(|incident| incident.state != IncidentState::Resolved);
        got.raw = json!({ "items": got.it.items });
    }
    context.out.data(&got.raw, "/id", || {
        let mut table = Table::new(&["ID", "STATE", "TRIGGER", "LETTERS", "OPENED", "SUMMARY"]);
        for incident in &got.it.items {
            table.row(&[
                incident.id.clone(),
                incident.state.to_string(),
                incident.trigger.to_string(),
                incident.deaths.len().to_string(),
                format!("{} ago", ago(now(), incident.opened_at)),
                cut(&incident.summary, 120),
            ]);
        }
        table.render("no incidents")
    })?;
    match got.it.items.iter().find(|incident| incident.state == IncidentState::Triggered) {
        Some(incident) => context.out.next(&format!("backstop incident ack {}", incident.id)),
        None => context.out.next("backstop status"),
    }
    Ok(())
}

async fn answer(context: &Context, said: Said, verb: &str) -> Result<(), Error> {
    let body = json!({ "by": actor(), "note": said.note });
    let got = context.client.post::<Record>(&["api", "v1", "incidents", &said.id, verb], &body).await?;
    tell(context, &got.raw, &got.it)
}

fn tell(context: &Context, raw: &Value, incident: &Record) -> Result<(), Error> {
    context.out.data(raw, "/id", || show(incident))?;
    let id = &incident.id;
    context.out.next(&match incident.state {
        IncidentState::Triggered => format!("backstop incident ack {id}"),
        IncidentState::Acknowledged => format!("backstop incident override {id} <decision> --reason '...'"),
        IncidentState::Overridden => format!("backstop incident resolve {id}"),
        IncidentState::Resolved => "backstop dlq groups".to_owned(),
    });
    Ok(())
}

fn show(incident: &Record) -> String {
    let agents: Vec<String> = incident.agents.iter().map(|(agent, deaths)| format!("{agent} ({deaths})")).collect();
    let tasks = incident.deaths.iter().take(PAGE_DEATHS_MAX);
    let mut tasks: Vec<String> = tasks.map(|(id, round)| format!("{id} (round {round})")).collect();
    // As on a page: what to do first stands below them.
    if incident.deaths.len() > tasks.len() {
        tasks.push(format!("and {} more; `-o json` tells them all", incident.deaths.len() - tasks.len()));
    }
    let answers = incident.answers.iter();
    let answers: Vec<String> = answers.map(|a| format!("{} by {} at {} {}", a.state, a.by, a.at, a.note)).collect();
    details(&[
        ("id", incident.id.clone()),
        ("state", incident.state.to_string()),
        ("trigger", incident.trigger.to_string()),
        ("subject", incident.subject.clone()),
        ("summary", incident.summary.clone()),
        ("opened", format!("{} ({} ago)", incident.opened_at, ago(now(), incident.opened_at))),
        ("agents", agents.join(", ")),
        ("pattern", incident.pattern.join("\n")),
        ("tasks", tasks.join("\n")),
        ("in doubt", incident.in_doubt.join("\n")),
        ("do first", incident.runbook.clone()),
        ("paged again", incident.repages.to_string()),
        ("answers", answers.join("\n")),
    ])
}
