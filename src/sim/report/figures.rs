//! A value for every measure.
//!
//! Some are of nothing when nothing happened: of no tasks all are done, of no dead letters all were recovered, so that
//! what an assertion asks for is not missed by a run in which it had no occasion.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bill::Bill;
use super::ends::{Ends, Took};
use crate::assertion::Measure;
use crate::event::Happening;
use crate::incident::Trigger;
use crate::record::State;
use crate::scenario::Scenario;
use crate::sim::play::Run;
use crate::sim::uptime;
use crate::task::Effect;

/// The value that so many of a hundred do not exceed (nearest rank), of values in ascending order.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: u32) -> Duration {
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub(super) fn measures(
    scenario: &Scenario,
    run: &Run,
    moments: &[Duration],
    ends: &Ends,
    bill: &Bill,
    violations: usize,
) -> BTreeMap<Measure, f64> {
    let uptime = uptime::measure(scenario, run, moments).share;
    let value = |measure| value(measure, run, ends, bill, violations, uptime);
    Measure::ALL.iter().map(|measure| (*measure, value(*measure))).collect()
}

fn value(measure: Measure, run: &Run, ends: &Ends, bill: &Bill, violations: usize, uptime: f64) -> f64 {
    let books = &run.books;
    let submitted = books.asked.len() as u64;
    let given_up = ends.given_up.len() as u64;
    let done = ends.took.len() as u64;
    let stands = |states: &[State]| run.records.iter().filter(|record| states.contains(&record.state)).count() as u64;
    let told = |is: &dyn Fn(&Happening) -> bool| run.events.iter().filter(|event| is(&event.what)).count() as u64;
    let delay = |percent| percentile(&ends.delays, percent).as_secs_f64();
    match measure {
        Measure::Submitted => count(submitted),
        Measure::Lost => count(ends.lost),
        Measure::Done => count(done),
        Measure::DoneShare => share(done, submitted, 1.0),
        Measure::DoneFirstTry => count(ends.by(Took::First)),
        Measure::DoneAfterRetry => count(ends.by(Took::Retry)),
        Measure::DoneOnFallback => count(ends.by(Took::Fallback)),
        Measure::DoneAfterReassignment => count(ends.by(Took::Reassignment)),
        Measure::DoneByHuman => count(ends.by(Took::Human)),
        Measure::DeadLetters => count(told(&|what| matches!(what, Happening::DeadLettered { .. }))),
        Measure::DeadLetterShare => share(given_up, submitted, 0.0),
        Measure::RecoveredShare => {
            let alone = |id| ends.took.get(id).is_some_and(|took| *took != Took::Human);
            share(ends.given_up.iter().filter(|id| alone(id)).count() as u64, given_up, 1.0)
        }
        Measure::WaitingHuman => count(stands(&[State::WaitingHuman])),
        Measure::Cancelled => count(stands(&[State::Cancelled])),
        Measure::Dead => count(stands(&[State::Dead])),
        Measure::Open => count(stands(&[State::Ready, State::Scheduled, State::Parked, State::Running])),
        Measure::Pages => count(pages(run)),
        Measure::Uptime => uptime,
        Measure::Incidents => {
            count(run.incidents.iter().filter(|incident| incident.trigger != Trigger::Test).count() as u64)
        }
        Measure::Doubled => count(ends.doubled),
        Measure::PaymentsRepeated => count(payments_repeated(run)),
        Measure::Calls => count(books.calls.len() as u64),
        Measure::CallsPerTask => share(books.calls.len() as u64, submitted, 0.0),
        Measure::CallsPerLogicalCall => bill.calls_per_answer(),
        Measure::CallsWhileDown => count(books.calls.iter().filter(|call| call.fault.is_some()).count() as u64),
        Measure::Retries => count(told(&|what| matches!(what, Happening::RetryScheduled { .. }))),
        Measure::Parks => count(told(&|what| matches!(what, Happening::Parked { .. }))),
        Measure::Decisions => count(told(&|what| matches!(what, Happening::Decided { .. }))),
        Measure::DelayP50 => delay(50),
        Measure::DelayP95 => delay(95),
        Measure::DelayP99 => delay(99),
        Measure::DelayMax => delay(100),
        Measure::Tokens => count(bill.tokens),
        Measure::Usd => dollars(bill.micro_usd),
        Measure::WastedTokens => count(bill.wasted_tokens),
        Measure::WastedUsd => dollars(bill.wasted_micro_usd),
        Measure::Violations => count(violations as u64),
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

fn share(part: u64, of: u64, of_nothing: f64) -> f64 {
    if of == 0 { of_nothing } else { count(part) / count(of) }
}

fn dollars(micro_usd: Option<u64>) -> f64 {
    micro_usd.map_or(f64::NAN, |micro_usd| count(micro_usd) / 1e6)
}

/// Calls of the person: one for each message that calls, through however many channels it came.
fn pages(run: &Run) -> u64 {
    let calls = run.books.pages.iter().filter(|page| page.taken && page.action == "trigger");
    calls.map(|page| (page.incident.as_str(), page.number)).collect::<BTreeSet<_>>().len() as u64
}

/// Calls of a model for payments beyond the first and one more each time the person had it done again.
fn payments_repeated(run: &Run) -> u64 {
    let calls = run.books.calls_by_task();
    let payments = run.books.asked.iter().filter(|asked| asked.effect == Effect::Payment);
    let beyond = payments.map(|asked| {
        let allows = |word: &&crate::sim::play::books::Word| {
            word.task == Some(asked.id) && matches!(word.what.as_str(), "run-again" | "did-not-happen")
        };
        let allowed = 1 + run.books.words.iter().filter(allows).count() as u64;
        (calls.get(&asked.id).map_or(0, Vec::len) as u64).saturating_sub(allowed)
    });
    beyond.sum()
}
