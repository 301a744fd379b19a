//! `backstop ceo`: what was decided about dead letters, why, and deciding it yourself.

use clap::{Args, Subcommand};
use serde_json::json;

use super::decision::DecisionArgs;
use super::output::{Table, ago, cut, cut_id, short, wrapped};
use super::{Context, Error, actor, now};
use crate::event::{Event, Happening};
use crate::query::Page;
use crate::record::Record;
use crate::task::TaskId;
use crate::triage::{Decided, Decision};

/// What the CEO decided and why; decide yourself.
#[derive(Debug, Subcommand)]
pub(super) enum Ceo {
    /// Decisions, newest first
    #[command(after_help = "Examples:\n  backstop ceo log\n  backstop ceo log -o jsonl | jq .decision")]
    Log {
        /// How many at most
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Older than this event
        #[arg(long)]
        before: Option<u64>,
    },
    /// Every decision about a task: reasons, and what was rejected
    #[command(after_help = "Examples:\n  backstop ceo explain 0192d5a1-7c3e")]
    Explain {
        /// Its id, or the beginning of it
        task: String,
    },
    /// Decide about a dead letter yourself
    #[command(
        after_help = "Examples:\n  backstop ceo decide 0192d5a1-7c3e reassign --agent backend --reason 'cto is on it'\n  backstop ceo decide 0192d5a1-7c3e run-again --reason 'bank: not charged'"
    )]
    Decide(Decide),
}

#[derive(Args, Debug)]
pub(super) struct Decide {
    /// The task: its id, or the beginning of it
    task: String,
    /// Why; recorded with the decision
    #[arg(long, default_value = "", global = true)]
    reason: String,
    #[command(subcommand)]
    decision: DecisionArgs,
}

impl Ceo {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Log { limit, before } => {
                let mut query = vec![("limit".to_owned(), limit.to_string())];
                query.extend(before.map(|before| ("before".to_owned(), before.to_string())));
                let got = context.client.get::<Page<Event>>(&["api", "v1", "decisions"], &query).await?;
                context.out.data(&got.raw, "/task", || log(&got.it.items))?;
                match got.it.items.first().and_then(|event| event.task) {
                    Some(task) => context.out.next(&format!("backstop ceo explain {task}")),
                    None => context.out.next("backstop status"),
                }
            }
            Self::Explain { task } => {
                let got = context.client.get::<Record>(&["api", "v1", "tasks", &task], &[]).await?;
                let record = &got.it;
                // A record of no decisions has no such field.
                let decisions = got.raw.get("decisions").cloned().unwrap_or_else(|| json!([]));
                context.out.data(&decisions, "/decision", || explain(record))?;
                context.out.next(&format!("backstop ceo decide {} <decision> --reason '...'", record.task.id));
            }
            Self::Decide(Decide { task, reason, decision }) => {
                let body = decision.body(&actor(), &reason)?;
                let path = ["api", "v1", "dead-letters", &task, "decide"];
                let got = context.client.post::<Record>(&path, &body).await?;
                context.out.data(&got.raw, "/task/id", || format!("{} {}\n", got.it.task.id, got.it.state))?;
                context.out.next(&format!("backstop task show {}", got.it.task.id));
            }
        }
        Ok(())
    }
}

fn log(events: &[Event]) -> String {
    let ids: Vec<TaskId> = events.iter().filter_map(|event| event.task).collect();
    let length = short(&ids);
    let mut table = Table::new(&["AGO", "TASK", "AGENT", "BY", "DECISION", "BECAUSE"]);
    for event in events {
        let Happening::Decided { agent, decided, .. } = &event.what else { continue };
        table.row(&[
            ago(now(), event.at),
            event.task.map(|id| cut_id(id, length)).unwrap_or_default(),
            agent.to_string(),
            decided.who.clone().unwrap_or_else(|| decided.by.to_string()),
            words(&decided.decision),
            cut(&decided.reasons.join("; "), 120),
        ]);
    }
    table.render("nothing was decided yet")
}

fn explain(record: &Record) -> String {
    if record.decisions.is_empty() {
        return format!("nothing was decided about {}; it is {}\n", record.task.id, record.state);
    }
    decisions(&record.decisions)
}

/// Decisions with their reasons and what was rejected.
pub(super) fn decisions(decided: &[Decided]) -> String {
    let mut text = String::new();
    for one in decided {
        let by = one.who.clone().unwrap_or_else(|| one.by.to_string());
        let headline = format!(
            "{}. {} (round {}, by {by}, {} ago)",
            one.number,
            words(&one.decision),
            one.generation,
            ago(now(), one.at)
        );
        text.push_str(&format!("{}\n", wrapped(&headline, 0)));
        for reason in &one.reasons {
            text.push_str(&format!("{}\n", wrapped(&format!("because {reason}"), 3)));
        }
        for rejected in &one.rejected {
            text.push_str(&format!("{}\n", wrapped(&format!("not {}: {}", rejected.what, rejected.why), 3)));
        }
    }
    text
}

/// A decision in a few words.
fn words(decision: &Decision) -> String {
    match decision {
        Decision::RetryOnFallback { model } => format!("retry on {model}"),
        Decision::RetryAfterCheck { due, checked } => format!("retry at {due}: {checked}"),
        Decision::Reassign { agent, .. } => format!("reassign to {agent}"),
        Decision::Park { until, why } => format!("park until {until}: {why}"),
        Decision::Discard { why } => format!("discard: {why}"),
        Decision::PageHuman { why } => format!("page a human: {why}"),
        Decision::Resolve { note } => format!("resolved: {note}"),
        Decision::RunAgain { .. } => "run again".to_owned(),
    }
}
