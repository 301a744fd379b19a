//! How long it takes until the model is asked again about what a kill cut off.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::load::Load;
use super::outside::Outside;
use crate::project::{Client, Gone};

/// What is orphaned is to run again so soon.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);

/// Of so many kills in so long a run some have orphaned somebody.
const MUST_KILLS: u32 = 3;
const MUST_SPAN: Duration = Duration::from_secs(120);

/// How long the orphans of all kills took.
#[derive(Clone, Debug, Default)]
pub(super) struct Orphans {
    /// From the start of the process, of every orphan.
    each: Vec<Duration>,
    /// The last of each restart.
    last: Vec<Duration>,
    /// Restarts with orphans that are not measured: the provider was failing, or the disk full, when they came.
    unmeasured: u32,
    /// Whose last delivery was cut: given up on, and not to run again before the CEO has decided.
    given_up: Vec<String>,
    /// Those that had not come again when the next round began, and were to.
    not_again: Vec<String>,
}

impl Orphans {
    /// Restarts whose orphans cannot be told from those of an outage.
    pub(super) const fn pass_over(&mut self) {
        self.unmeasured += 1;
    }

    /// Adds those of the kill before this start, now that the round is over.
    pub(super) async fn measure(
        &mut self,
        orphaned: &[String],
        started: Instant,
        client: &Client,
        load: &Load,
        outside: &Outside,
    ) {
        let again = outside.look(|books| books.since(started, |call| Some(call.at)));
        let mut each = Vec::new();
        for ticket in orphaned {
            let came = again.get(ticket).map(|at| *at - started);
            if came.is_none_or(|took| took > AGAIN_WITHIN) && was_cut_at_its_last(client, load, ticket).await {
                self.given_up.push(ticket.clone());
                continue;
            }
            if came.is_none() {
                self.not_again.push(ticket.clone());
            }
            each.push(came.unwrap_or_else(|| started.elapsed()));
        }
        self.last.extend(each.iter().max());
        self.each.extend(each);
    }

    /// Why they were too late, or nobody knows whether they were, after so many kills; none when they were not.
    pub(super) fn late(&self, kills: u32, span: Duration) -> Option<String> {
        let Some(late) = percentile(&self.each, 99) else {
            let must = kills >= MUST_KILLS && span >= MUST_SPAN;
            return must.then(|| {
                format!(
                    "NOT MEASURED: how soon orphans run again; {kills} kills in {span:.0?}, {} restarts in an outage, {} given up",
                    self.unmeasured,
                    self.given_up.len()
                )
            });
        };
        (late > AGAIN_WITHIN)
            .then(|| format!("LATE: orphans ran again after {late:.1?} (p99), the goal is {AGAIN_WITHIN:?}"))
    }

    /// The last of each restart, in short.
    pub(super) fn brief(&self) -> String {
        measured(&self.last)
    }

    /// Rows of the table.
    pub(super) fn rows(&self) -> [(&'static str, String); 3] {
        let some = |names: &[String]| format!("{} {:?}", names.len(), names.iter().take(5).collect::<Vec<_>>());
        [
            (
                "restarts",
                format!(
                    "the last orphan of each: {}; every orphan: {}; {} restarts in an outage not measured",
                    measured(&self.last),
                    measured(&self.each),
                    self.unmeasured
                ),
            ),
            ("given up", format!("orphans whose last delivery was cut: {}", some(&self.given_up))),
            ("not again", format!("other orphans, in the round after: {}", some(&self.not_again))),
        ]
    }
}

/// Chaos with seed 19 told of an orphan that ran again after 10 s: the delivery that was cut was its third of three, so it
/// was a dead letter, and had no place in the line to come back to.
async fn was_cut_at_its_last(client: &Client, load: &Load, ticket: &str) -> bool {
    let id = load.with(|promises| promises.tickets.get(ticket).cloned().flatten());
    // Nobody was told of it yet: it cannot be asked about.
    let Some(id) = id else { return false };
    match client.get(&format!("/api/v1/tasks/{id}")).await {
        Ok((200, task)) => task["attempts"].as_array().is_some_and(|attempts| gave_up(attempts)),
        // Who cannot be asked is not excused.
        Ok(_) | Err(Gone) => false,
    }
}

/// Was it given up on when the process died under it, the last time it did? One that has no end yet was cut as well.
fn gave_up(attempts: &[Value]) -> bool {
    let is_cut = |attempt: &&Value| attempt["end"].is_null() || attempt["failure"]["kind"] == "process_died";
    let cut = attempts.iter().rev().find(is_cut);
    cut.is_some_and(|attempt| attempt["end"] == "dead-letter")
}

/// The value below which so many of a hundred are.
fn percentile(all: &[Duration], percent: usize) -> Option<Duration> {
    let mut all = all.to_vec();
    all.sort_unstable();
    let nth = (all.len() * percent).div_ceil(100).checked_sub(1)?;
    all.get(nth).copied()
}

/// As [`spread`]; that there are none is no time they kept.
fn measured(all: &[Duration]) -> String {
    if all.is_empty() { "not measured".to_owned() } else { spread(all) }
}

/// How many there are, and how long they took.
pub(super) fn spread(all: &[Duration]) -> String {
    match (percentile(all, 50), percentile(all, 99), all.iter().max()) {
        (Some(half), Some(most), Some(max)) => format!("{}, p50 {half:.2?}, p99 {most:.2?}, most {max:.2?}", all.len()),
        _ => "none".to_owned(),
    }
}
