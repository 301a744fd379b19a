//! What seed B's configuration made of a scenario, measured as ours is.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::ModelRef;
use crate::assertion::Measure;
use crate::config::Config;
use crate::prices;
use crate::sim::play::books::{Call, CallEnd, Ledgers};
use crate::task::{Effect, Task, TaskId};

/// What seed B's configuration made of a scenario.
#[derive(Debug)]
pub struct BrokerRun {
    /// What the world saw: its calls above all.
    pub books: Ledgers,
    /// Every task, in the order of its ticket.
    pub orders: Vec<Order>,
    /// Moments at which the founder was called.
    pub pages: Vec<Duration>,
    /// Advisories that nobody heard.
    pub unheard: u64,
    /// How often a message was delivered to a worker.
    pub deliveries: u64,
    /// The share of the agents' time in which an agent could work.
    pub uptime: f64,
    pub(super) config: Config,
}

/// One task on the broker.
#[derive(Clone, Debug)]
pub struct Order {
    /// The task.
    pub task: Task,
    /// When its client first came with it.
    pub at: Duration,
    /// How often somebody began to work on it.
    pub executions: u32,
    /// How often somebody came to an answer.
    pub answers: u32,
    /// When the first answer was acknowledged.
    pub done: Option<Duration>,
    /// How often it was an entry of the dead letter queue.
    pub entries: u32,
    /// Did the founder have to look at it?
    pub founder: bool,
    /// Does it wait for the founder?
    pub waits: bool,
    /// Had the founder sent it again before it was done?
    pub by_founder: bool,
    /// Did its first answer come from another model than its agent's own?
    pub on_fallback: bool,
}

impl BrokerRun {
    /// A measure as it stands beside ours; none where there is no such thing on the broker.
    #[must_use]
    pub fn measure(&self, measure: Measure) -> Option<f64> {
        let count = |fits: &dyn Fn(&Order) -> bool| number(self.orders.iter().filter(|order| fits(order)).count());
        let share = |part: f64, of: f64| if of > 0.0 { part / of } else { 0.0 };
        let all = number(self.orders.len());
        let done = count(&|order| order.done.is_some());
        let dead = count(&|order| order.entries > 0);
        let calls = number(self.books.calls.len());
        let tokens = |wasted: bool| -> f64 {
            number_of(self.calls(wasted).map(|call| call.usage.input + call.usage.output).sum())
        };
        let usd = |wasted: bool| -> f64 {
            let priced = self.calls(wasted).filter_map(|call| {
                let model = ModelRef { provider: call.provider.clone(), model: call.model.clone() };
                prices::price(call.usage, &self.config.model_facts(&model))
            });
            number_of(priced.sum()) / 1e6
        };
        Some(match measure {
            Measure::Submitted => all,
            Measure::Lost => count(&|order| order.done.is_none() && order.entries == 0),
            Measure::Done => done,
            Measure::DoneShare => share(done, all),
            Measure::DoneFirstTry => count(&|order| order.done.is_some() && order.executions == 1),
            Measure::DoneAfterRetry => {
                count(&|order| order.done.is_some() && order.executions > 1 && order.entries == 0)
            }
            Measure::DoneOnFallback => count(&|order| order.done.is_some() && order.on_fallback),
            Measure::DoneByHuman => count(&|order| order.done.is_some() && order.by_founder),
            Measure::DeadLetters => self.orders.iter().map(|order| f64::from(order.entries)).sum(),
            Measure::DeadLetterShare => share(dead, all),
            Measure::RecoveredShare => {
                share(count(&|order| order.entries > 0 && order.done.is_some() && !order.founder), dead)
            }
            Measure::WaitingHuman => count(&|order| order.done.is_none() && order.waits),
            Measure::Pages => number(self.pages.len()),
            Measure::Doubled => count(&|order| order.answers > 1),
            Measure::PaymentsRepeated => {
                count(&|order| order.task.effect == Effect::Payment && self.acted(order.task.id) > 1)
            }
            Measure::Calls => calls,
            Measure::CallsPerTask => share(calls, all),
            Measure::CallsPerLogicalCall => share(calls, done),
            Measure::CallsWhileDown => number(self.books.calls.iter().filter(|call| call.fault.is_some()).count()),
            Measure::Tokens => tokens(false),
            Measure::Usd => usd(false),
            Measure::WastedTokens => tokens(true),
            Measure::WastedUsd => usd(true),
            Measure::DelayP50 => self.delay(0.50),
            Measure::DelayP95 => self.delay(0.95),
            Measure::DelayP99 => self.delay(0.99),
            Measure::DelayMax => self.delay(1.0),
            Measure::Uptime => self.uptime,
            Measure::Open => count(&|order| order.done.is_none() && order.entries > 0 && !order.waits),
            Measure::DoneAfterReassignment
            | Measure::Cancelled
            | Measure::Dead
            | Measure::Incidents
            | Measure::Retries
            | Measure::Parks
            | Measure::Decisions
            | Measure::Violations => return None,
        })
    }

    /// Every call, or those that came to nothing: no answer, or one to a task that had one.
    fn calls(&self, wasted: bool) -> impl Iterator<Item = &Call> {
        let mut answered = BTreeSet::new();
        self.books.calls.iter().filter(move |call| {
            let first = matches!(call.ended, Some((_, CallEnd::Answered))) && answered.insert(call.task);
            !wasted || !first
        })
    }

    /// Calls for a task that reached a model and were not turned away.
    fn acted(&self, task: TaskId) -> usize {
        let calls = self.books.calls.iter().filter(|call| call.task == Some(task));
        calls.filter(|call| !matches!(call.ended, Some((_, CallEnd::Failed)))).count()
    }

    fn delay(&self, share: f64) -> f64 {
        let mut delays: Vec<Duration> =
            self.orders.iter().filter_map(|order| Some(order.done?.saturating_sub(order.at))).collect();
        delays.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank among the delays")]
        let rank = (share * number(delays.len())).ceil() as usize;
        delays.get(rank.saturating_sub(1)).map_or(0.0, Duration::as_secs_f64)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "tokens and prices of one run are far below 2^52")]
fn number_of(count: u64) -> f64 {
    count as f64
}
