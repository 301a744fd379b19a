//! One attempt at a task, from admission to settlement: the pipeline every delivery goes through.
//!
//! Runs as a child task of its agent and writes the settlement straight to the engine, so that an answer which is
//! paid for cannot die with an actor.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::office::Office;
use super::seat::Seat;
use super::work::{Tried, Work, judged};
use crate::cause::{Cause, Crash, Death, OutputFault, OutputReason, Usage};
use crate::delivery::{AttemptEnd, Hold, Outcome, Settlement, Spent};
use crate::engine;
use crate::journal::{Entry, Line, Step};
use crate::ledger::Command;
use crate::mutant;
use crate::prompt;
use crate::record::Record;
use crate::settle::{SettleFacts, is_crash, settle};
use crate::stuck;
use crate::task::{Effect, Integration};
use crate::time::Timestamp;

/// Why a running call is halted from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// Its task was cancelled: nothing is to be settled.
    Cancelled,
    /// The team stops: give it back uncounted.
    Draining,
}

/// Works on one delivery and settles it.
pub(crate) async fn run(
    office: Arc<Office>,
    seat: Arc<Seat>,
    record: Arc<Record>,
    halt: CancellationToken,
    why: Arc<Mutex<Halt>>,
) {
    // The first delivery of a task has no journal to read.
    let reads = record.fence > 1 && !mutant::on("journal-not-read");
    let steps = if reads { read(&office, &record).await } else { Ok(Vec::new()) };
    let unread = steps.as_ref().err().map(engine::Error::to_cause);
    let mut work = Work::new(office, seat, record, steps.unwrap_or_default());
    let tried = match unread {
        None => attempt(&mut work, &halt, &why).await,
        // Begun from nothing it would pay, and act, a second time.
        Some(cause) => Tried::Failed(cause),
    };
    // From here on nothing may be lost: an actor that dies now must not take an answer with it that is paid for.
    let settled = tokio::spawn(settle_it(work, tried).in_current_span());
    if let Err(error) = settled.await {
        tracing::error!(%error, "a delivery could not be settled; its lease will lapse");
    }
}

/// The journal of a task; tried again while its lease lasts, for without it nothing may be done.
async fn read(office: &Office, record: &Record) -> Result<Vec<Step>, engine::Error> {
    let until = record.lease.as_ref().map_or_else(|| office.now(), |lease| lease.deadline);
    let steps = office.insist(until, || office.engine.steps(record.task.id)).await;
    if let Err(error) = &steps {
        tracing::error!(error = error as &dyn std::error::Error, "a journal could not be read");
    }
    steps
}

async fn settle_it(work: Work, tried: Tried) {
    match tried {
        Tried::Answered { answer: Ok(answer), .. } => {
            let spent = work.spent();
            finish(work, Outcome::Answered(answer), spent, None, None, Vec::new()).await;
        }
        // Boxed: what is rare need not make room in every task.
        Tried::Answered { ask, answer: Err(fault) } => Box::pin(refuse(work, ask, fault)).await,
        Tried::Failed(cause) => Box::pin(fail(work, cause, Vec::new())).await,
        Tried::Known(failure) => {
            tracing::info!(kind = %failure.kind, "an earlier delivery found this out: {}", failure.message);
            let spent = work.spent();
            finish(work, Outcome::Failed(*failure), spent, None, None, Vec::new()).await;
        }
        Tried::Held { why, until, integration } => {
            let outcome = Outcome::NotBegun { why, until };
            // A delivery that used nothing leaves no trace in the history; its steps are in the journal.
            let spent = Some(work.spent()).filter(|spent| spent.usage != Usage::default()).unwrap_or_default();
            finish(work, outcome, spent, None, integration, Vec::new()).await;
        }
        Tried::Abandoned => {
            tracing::info!("the lease is lost or the task cancelled; the call was aborted");
            write_rest(&work).await;
        }
    }
}

/// Settles a delivery whose call panicked.
pub(crate) async fn crashed(office: &Arc<Office>, seat: &Arc<Seat>, record: &Arc<Record>, panic: &str) {
    let detail = office.one_line(panic, 500);
    tracing::error!(task = %record.task.id, panic = %detail, "the agent panicked");
    let steps = read(office, record).await.unwrap_or_default();
    let work = Work::new(Arc::clone(office), Arc::clone(seat), Arc::clone(record), steps);
    fail(work, Cause::Crash(Crash { how: Death::Panic, detail }), Vec::new()).await;
}

async fn attempt(work: &mut Work, halt: &CancellationToken, why: &Mutex<Halt>) -> Tried {
    let office = Arc::clone(&work.office);
    let record = Arc::clone(&work.record);
    let stall = office.limits(&record).stall;
    let progress = Arc::clone(&work.progress);
    let ended = tokio::select! {
        biased;
        () = halt.cancelled() => Ended::Halted,
        () = lease_lost(&office, &record) => Ended::LeaseLost,
        tried = work.go() => return tried,
        () = deadline(&office, &record) => Ended::TooLate,
        stuck = stalled(&office, &progress, stall) => Ended::Stalled(stuck),
    };
    match ended {
        Ended::LeaseLost => Tried::Abandoned,
        Ended::TooLate => Tried::Failed(cut_short(&office, &record, Cause::DeadlinePassed)),
        Ended::Stalled(evidence) => Tried::Failed(cut_short(&office, &record, Cause::Loop { evidence })),
        Ended::Halted => match *why.lock().unwrap_or_else(PoisonError::into_inner) {
            Halt::Cancelled => Tried::Abandoned,
            Halt::Draining if office.effect_of_asking(&record) == Effect::Payment => {
                Tried::Failed(cut_short(&office, &record, Cause::LeaseLapsed))
            }
            Halt::Draining => Tried::Held { why: Hold::Drain, until: office.now(), integration: None },
        },
    }
}

/// How the work was ended from outside.
enum Ended {
    Halted,
    LeaseLost,
    TooLate,
    Stalled(String),
}

/// Ends when nothing new has become known for too long, with the evidence.
async fn stalled(office: &Office, progress: &AtomicI64, limit: Duration) -> String {
    loop {
        let since = Timestamp::from_millis(progress.load(Ordering::Relaxed));
        office.clock.sleep_until(since + limit).await;
        let since = Timestamp::from_millis(progress.load(Ordering::Relaxed));
        if let Some(stuck) = stuck::stalled(office.now().since(since), limit) {
            return stuck.evidence();
        }
    }
}

/// A call we cut short ourselves. Of a payment nobody can say whether it happened: that is the cause then, and it is
/// not made again by anybody but a person.
fn cut_short(office: &Office, record: &Record, cause: Cause) -> Cause {
    match office.effect_of_asking(record) {
        Effect::Payment => {
            Cause::Crash(Crash { how: Death::Cancelled, detail: "the call was cut short while it was out".to_owned() })
        }
        Effect::ReadOnly | Effect::Notification | Effect::Mutation => cause,
    }
}

/// Renews the lease while the work goes on; ends when it is lost.
async fn lease_lost(office: &Office, record: &Record) {
    let lease_for = office.retry_of(record).ack_wait;
    let mut ends = record.lease.as_ref().map_or_else(|| office.now() + lease_for, |lease| lease.deadline);
    loop {
        let left = office.now().until(ends);
        office.clock.sleep(left.min(lease_for) / 5).await;
        if office.now().until(ends) > lease_for.mul_f64(0.8) {
            continue;
        }
        let renew = Command::Renew { fence: record.fence, lease_for };
        match office.engine.command(record.task.id, renew, office.now()).await {
            Ok(renewed) => ends = renewed.lease.map_or(ends, |lease| lease.deadline),
            Err(engine::Error::Refused(refused)) => {
                tracing::warn!(%refused, "the lease could not be renewed");
                return;
            }
            // The store may be back before the lease is over; the fence decides in the end.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the lease could not be renewed yet");
                office.clock.sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn deadline(office: &Office, record: &Record) {
    match record.task.deadline {
        Some(deadline) => office.clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// An answer that is not accepted: the journal says so, and why.
async fn refuse(mut work: Work, ask: u32, fault: OutputFault) {
    work.excerpt = Some(fault.excerpt.clone());
    let why = prompt::correction(&fault);
    fail(work, Cause::Output(fault), vec![Line::Refuse { step: ask, why }]).await;
}

async fn fail(work: Work, cause: Cause, lines: Vec<Line>) {
    let failure = judged(&work.office, &work.record, &cause);
    tracing::warn!(class = %failure.class, kind = %failure.kind, rule = %failure.rule, "{}", failure.message);
    let integration = if matches!(cause, Cause::Tool(_)) { failure.integration.clone() } else { None };
    let spent = Spent { cause: Some(Box::new(cause.clone())), ..work.spent() };
    finish(work, Outcome::Failed(failure), spent, Some(&cause), integration, lines).await;
}

/// Writes what came of the delivery, with the last of its journal, at once.
async fn finish(
    work: Work,
    outcome: Outcome,
    spent: Spent,
    cause: Option<&Cause>,
    integration: Option<Integration>,
    lines: Vec<Line>,
) {
    let (office, record) = (&work.office, &work.record);
    let settlement = decide(office, record, outcome, cause, integration, work.probe);
    let lines: Vec<Line> = work.unwritten.iter().cloned().chain(lines).collect();
    let write = || {
        let command = Command::Settle { fence: record.fence, settlement: settlement.clone(), spent: spent.clone() };
        let entry = Entry { fence: record.fence, lines: lines.clone(), events: Vec::new(), command: Some(command) };
        office.engine.journal(record.task.id, entry, office.now())
    };
    let until = office.now() + office.retry_of(record).ack_wait;
    match office.insist(until, write).await {
        Ok(_) => {}
        Err(engine::Error::Refused(refused)) => {
            tracing::warn!(%refused, "a late result was refused");
            write_rest(&work).await;
        }
        Err(error) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "a result could not be stored; its lease will lapse"
        ),
    }
    office.kick();
}

/// What is known and not yet durable is written by itself: a delivery that has lost its lease completes nothing, but
/// what it knows is paid for, and true.
async fn write_rest(work: &Work) {
    if work.unwritten.is_empty() {
        return;
    }
    let entry = Entry { fence: work.record.fence, lines: work.unwritten.clone(), ..Entry::default() };
    let written = work.office.engine.journal(work.record.task.id, entry, work.office.now()).await;
    if let Err(error) = written {
        tracing::warn!(error = &error as &dyn std::error::Error, "the last steps of a delivery could not be written");
    }
}

/// What becomes of a delivery: gathers the facts for [`settle`], the pure decision. `probe`: the call that failed
/// was an open breaker's.
pub(crate) fn decide(
    office: &Office,
    record: &Record,
    outcome: Outcome,
    cause: Option<&Cause>,
    integration: Option<Integration>,
    probe: bool,
) -> Settlement {
    let now = office.now();
    let effective = office.policy_of(record);
    let correction = match cause {
        Some(Cause::Output(fault)) => Some(prompt::correction(fault)),
        Some(_) | None => None,
    };
    let failure = match &outcome {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Answered(_) | Outcome::NotBegun { .. } => None,
    };
    let crashes = record
        .round()
        .filter_map(|attempt| attempt.failure.as_ref())
        .chain(failure)
        .filter(|failure| is_crash(failure.kind))
        .count();
    let given_back =
        record.round().filter(|attempt| attempt.end == Some(AttemptEnd::Released) && attempt.failure.is_some()).count();
    let same_output_again = matches!(cause, Some(Cause::Output(fault)) if fault.reason == OutputReason::SameAgain);
    let effect = office.effect_of_asking(record);
    // What failed may be the provider of who verifies.
    let called = failure.and_then(|failure| failure.integration.as_ref()).or(integration.as_ref());
    let facts = SettleFacts {
        effect,
        attempt: record.attempt,
        due: record.due,
        crashes: u32::try_from(crashes).unwrap_or(u32::MAX),
        previous_delay: record.backed_off(),
        deadline: record.task.deadline,
        policy: &effective.policy,
        probe,
        given_back: u32::try_from(given_back).unwrap_or(u32::MAX),
        own: called.is_none_or(|integration| *integration == record.integration),
        integration: Some(integration.unwrap_or_else(|| record.integration.clone())),
        hold: failure.and_then(|failure| office.held_after(failure, now)),
        parked_for: office.waited_at_holds(record, now),
        correction,
        same_output_again,
        outcome_unknown: cause.is_some_and(|cause| crate::judgement::outcome_unknown(cause, effect)),
        circumstances: *office.circumstances(&effective),
    };
    let roll = office.dice.roll("backoff", &record.task.id.to_string(), record.fence);
    let settled =
        |budget: Option<&mut crate::retry_budget::RetryBudget>| settle(&facts, outcome.clone(), budget, now, roll);
    office.guards.with_budget(&record.integration, |budget| settled(Some(budget))).unwrap_or_else(|| settled(None))
}
