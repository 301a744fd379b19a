//! How each task ended, by what it took, and how long that was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decision::{DeciderKind, Decision};
use crate::event::Happening;
use crate::record::{Record, State};
use crate::sim::play::Run;
use crate::task::TaskId;

/// What it took to have a task done. The first that applies, from the most help to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Took {
    /// A person decided about it, or said what came of a call.
    Human,
    /// Another agent did it.
    Reassignment,
    /// Another model than its agent's own did it.
    Fallback,
    /// A later delivery did it.
    Retry,
    /// Its first delivery did it.
    First,
}

/// How the tasks of a run ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// What it took, of every task that is done.
    pub(super) took: BTreeMap<TaskId, Took>,
    /// From a client's first try to submit it until it was done, shortest first.
    pub(super) delays: Vec<Duration>,
    /// Accepted tasks that the engine does not have.
    pub(super) lost: u64,
    /// Tasks done more than once.
    pub(super) doubled: u64,
    /// Tasks that were given up at least once.
    pub(super) given_up: BTreeSet<TaskId>,
    /// Tasks whose answer was accepted.
    pub(super) answered: BTreeSet<TaskId>,
}

/// What the feed says of the end of one task.
#[derive(Default)]
struct Told {
    done: u64,
    at: Duration,
    by_other: bool,
    on_other: bool,
    later: bool,
    human: bool,
}

impl Ends {
    pub(super) fn of(run: &Run, moments: &[Duration]) -> Self {
        let mut told: BTreeMap<TaskId, Told> = BTreeMap::new();
        let mut ends = Self::default();
        let addressed: BTreeMap<TaskId, &Record> = run.records.iter().map(|record| (record.task.id, record)).collect();
        for (event, at) in run.events.iter().zip(moments) {
            let Some(id) = event.task else { continue };
            let entry = told.entry(id).or_default();
            #[allow(clippy::wildcard_enum_match_arm, reason = "only what ends a task, or helps it to its end")]
            match &event.what {
                Happening::Done { agent, attempt, generation, model, .. } => {
                    entry.done += 1;
                    entry.at = *at;
                    entry.later = *attempt > 1 || *generation > 1;
                    entry.by_other = addressed.get(&id).is_some_and(|record| record.task.agent != *agent);
                    let own = run.config.agents.get(agent).map(|agent| &agent.model);
                    entry.on_other = model.as_ref().is_some_and(|model| own.is_some_and(|own| own != model));
                    ends.answered.insert(id);
                }
                Happening::DeadLettered { .. } => {
                    ends.given_up.insert(id);
                }
                Happening::Decided { decided, .. } => {
                    entry.human |= decided.by == DeciderKind::Human;
                    if matches!(decided.decision, Decision::Resolve { .. }) {
                        entry.at = *at;
                    }
                }
                Happening::Replayed { .. } => entry.human = true,
                _ => {}
            }
        }
        // What a person says about a call in doubt is in the books: who says it stands there and not in the feed.
        let words = run.books.words.iter().filter(|word| matches!(word.what.as_str(), "happened" | "did-not-happen"));
        for task in words.filter_map(|word| word.task) {
            told.entry(task).or_default().human = true;
        }
        ends.doubled = told.values().filter(|told| told.done > 1).count() as u64;
        for asked in &run.books.asked {
            let Some(record) = addressed.get(&asked.id) else {
                ends.lost += 1;
                continue;
            };
            if record.state != State::Done {
                continue;
            }
            let nothing = Told::default();
            let told = told.get(&asked.id).unwrap_or(&nothing);
            ends.took.insert(asked.id, told.took());
            ends.delays.push(told.at.saturating_sub(asked.first_at));
        }
        ends.delays.sort_unstable();
        ends
    }

    /// How many were done by this.
    pub(super) fn by(&self, took: Took) -> u64 {
        self.took.values().filter(|by| **by == took).count() as u64
    }
}

impl Told {
    /// One without an answer was ended by a person's word.
    const fn took(&self) -> Took {
        if self.human || self.done == 0 {
            Took::Human
        } else if self.by_other {
            Took::Reassignment
        } else if self.on_other {
            Took::Fallback
        } else if self.later {
            Took::Retry
        } else {
            Took::First
        }
    }
}
