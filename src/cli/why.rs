//! `backstop why`: what happened to a task, step by step, and by which rules.

use clap::Args;

use super::output::{details, wrapped};
use super::{Context, Error};
use crate::budget::dollars;
use crate::doubt;
use crate::record::State;
use crate::time::format_duration;
use crate::told::Told;
use crate::why::{Totals, Why};

/// Why a task is where it is.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop why 0192d5a1-7c3e\n  backstop why 0192d5a1-7c3e -o json | jq '.lines[] | {kind, words, rule}'"
)]
pub(super) struct WhyOf {
    /// Its id, or the beginning of it
    task: String,
}

impl WhyOf {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let got = context.client.get::<Why>(&["api", "v1", "tasks", &self.task, "why"], &[]).await?;
        context.out.data(&got.raw, "/task", || show(&got.it))?;
        let id = got.it.task;
        context.out.next(&match (got.it.in_doubt.as_slice(), got.it.state) {
            ([doubt, ..], State::Dead | State::WaitingHuman) => doubt::command(id, Some(doubt.step)),
            (_, State::Dead | State::WaitingHuman) => format!("backstop dlq show {id}"),
            (_, _) => format!("backstop task show {id}"),
        });
        Ok(())
    }
}

fn show(why: &Why) -> String {
    let mut text = details(&[
        ("task", format!("{} ({})", why.task, why.task_type)),
        ("agent", why.agent.to_string()),
        ("stands", why.stands.clone()),
        ("took", totals(&why.totals)),
    ]);
    text.push_str("\nwhat happened\n");
    for line in &why.lines {
        text.push_str(&format!("{}\n{}\n", line.at, wrapped(&words(line), 4)));
    }
    text
}

/// The words of a line, and its rule where they do not say it.
fn words(line: &Told) -> String {
    match &line.rule {
        Some(rule) if !line.words.contains(rule.as_str()) => format!("{} ({rule})", line.words),
        Some(_) | None => line.words.clone(),
    }
}

/// What a task took, in a line, failures apart.
pub(super) fn totals(totals: &Totals) -> String {
    let spent = &totals.spent;
    let least = if spent.unpriced > 0 { "at least " } else { "" };
    let span = |seconds: f64| {
        let whole = std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        format_duration(std::time::Duration::from_millis(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX)))
    };
    let mut text = format!(
        "{} deliveries, {} calls of models, {} of tools; {} tokens, {least}{}; of that cost of failure: {} tokens, {}",
        totals.deliveries,
        spent.asks,
        spent.calls,
        spent.usage.total(),
        dollars(spent.micro_usd),
        spent.wasted.total(),
        dollars(spent.wasted_micro_usd),
    );
    if totals.saved.total() > 0 {
        text.push_str(&format!("; not paid again: {} tokens", totals.saved.total()));
    }
    text.push_str(&format!("; worked {}, waited {}", span(totals.worked_s), span(totals.waited_s)));
    text
}
