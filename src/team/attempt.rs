//! One attempt at a task, from admission to settlement: the pipeline every delivery goes through.
//!
//! Runs as a child task of its agent and writes the settlement straight to the engine, so that an answer which is
//! paid for cannot die with an actor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::guards::{Admitted, Lent};
use super::office::Office;
use super::seat::Seat;
use crate::agent::ModelRef;
use crate::answer;
use crate::cause::{Cause, Crash, Death, Fault, LlmFailure, OutputFault, OutputReason, Phase, Usage, Violation};
use crate::delivery::{Hold, Outcome, SettleFacts, Settlement, Spent, is_crash, settle};
use crate::engine;
use crate::failure::{Class, Kind};
use crate::guard::Report;
use crate::judgement::{Judgement, Scene, classify};
use crate::ledger::{Command, Record, State};
use crate::llm::{Message, Progress, Reply, Request, Role};
use crate::prices;
use crate::prompt;
use crate::task::Effect;
use crate::time::Timestamp;

/// Why a running call is halted from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// Its task was cancelled: nothing is to be settled.
    Cancelled,
    /// The team stops: give it back uncounted.
    Draining,
}

/// How the world's part of an attempt ended.
enum Tried {
    /// The model was asked, and this is what came of it.
    Called { model: ModelRef, result: Result<Reply, Box<LlmFailure>>, lent: Lent },
    /// Never got that far, or was cut short by ourselves.
    Failed(Cause, Spent),
    /// Not let through, or stopped by ourselves.
    Held(Hold, Timestamp),
    /// The lease is lost, or the task was cancelled: nobody waits for a settlement.
    Abandoned,
}

/// Works on one delivery and settles it.
pub(crate) async fn run(
    office: Arc<Office>,
    seat: Arc<Seat>,
    record: Record,
    halt: CancellationToken,
    why: Arc<Mutex<Halt>>,
) {
    let tried = attempt(&office, &seat, &record, &halt, &why).await;
    // From here on nothing may be lost: an actor that dies now must not take an answer with it that is paid for.
    let settled = tokio::spawn(settle_it(office, record, tried).in_current_span());
    if let Err(error) = settled.await {
        tracing::error!(%error, "a delivery could not be settled; its lease will lapse");
    }
}

async fn settle_it(office: Arc<Office>, record: Record, tried: Tried) {
    match tried {
        Tried::Called { model, result: Ok(reply), lent } => {
            lent.report(Report::Healthy).await;
            accept(&office, &record, &model, reply).await;
        }
        Tried::Called { model, result: Err(failure), lent } => {
            let usage = failure.usage;
            let excerpt =
                (!failure.partial.is_empty()).then(|| office.redactor.redact(&cut(&failure.partial)).into_owned());
            let cause = Cause::Llm(failure);
            match classify(&cause, &scene(&office, &record)) {
                Judgement::Failed(failure) => lent.report(Report::Failed(&failure)).await,
                Judgement::Cancelled | Judgement::Continue => lent.report(Report::Dropped).await,
            }
            let micro_usd = price(&office, &model, usage);
            fail(&office, &record, cause, Spent { model: Some(model), usage, micro_usd, excerpt, cause: None }).await;
        }
        Tried::Failed(cause, spent) => fail(&office, &record, cause, spent).await,
        Tried::Held(hold, until) => {
            finish(&office, &record, Outcome::NotBegun { why: hold, until }, Spent::default(), None).await;
        }
        Tried::Abandoned => tracing::info!("the lease is lost or the task cancelled; the call was aborted"),
    }
}

/// Settles a delivery whose call panicked.
pub(crate) async fn crashed(office: &Office, record: &Record, panic: &str) {
    let detail = office.one_line(panic, 500);
    tracing::error!(task = %record.task.id, panic = %detail, "the agent panicked");
    fail(office, record, Cause::Crash(Crash { how: Death::Panic, detail }), Spent::default()).await;
}

async fn attempt(
    office: &Arc<Office>,
    seat: &Seat,
    record: &Record,
    halt: &CancellationToken,
    why: &Mutex<Halt>,
) -> Tried {
    let now = office.now();
    if record.task.deadline.is_some_and(|deadline| deadline <= now) {
        return Tried::Failed(Cause::DeadlinePassed, Spent::default());
    }
    let Some(model) = office.model_of(record).cloned() else {
        return Tried::Failed(Cause::NoAgent { wanted: record.agent.to_string() }, Spent::default());
    };
    let Some(provider) = office.providers.get(&model.provider).cloned() else {
        let detail = format!("no provider `{}` is configured for model {model}", model.provider);
        return Tried::Failed(Cause::Unknown { detail }, Spent::default());
    };
    let request = match compose(office, seat, record, &model) {
        Ok(request) => request,
        Err(cause) => return Tried::Failed(cause, Spent::default()),
    };
    let admission = office.admit(&model.provider, &record.agent).await;
    office.guards.came(record.task.id, record.fence);
    let lent = match admission {
        Some(Admitted::Through(lent)) => lent,
        Some(Admitted::Held { why, until }) => return Tried::Held(why, until),
        None => {
            let detail = format!("{} has no guard", model.provider);
            return Tried::Failed(Cause::Unknown { detail }, Spent::default());
        }
    };
    if !still_ours(office, record).await {
        return Tried::Abandoned;
    }
    if record.attempt == 1 {
        office.guards.with_budget(&model.provider, |budget| budget.deposit(now));
    }
    let progress = Progress::default();
    let asked = tokio::select! {
        biased;
        () = halt.cancelled() => Asked::Halted,
        () = lease_lost(office, record, &lent) => Asked::LeaseLost,
        result = provider.ask(&request, &progress) => Asked::Ended(result),
        () = deadline(office, record) => Asked::TooLate,
        () = tokio::time::sleep(patience(office, &model)) => Asked::Hung,
    };
    let spent = Spent { model: Some(model.clone()), ..Spent::default() };
    match asked {
        Asked::Ended(result) => Tried::Called { model, result, lent },
        Asked::LeaseLost => Tried::Abandoned,
        Asked::TooLate => Tried::Failed(cut_short(record, Cause::DeadlinePassed), spent),
        Asked::Hung => {
            let patience = patience(office, &model);
            Tried::Called { result: Err(Box::new(hung(office, &model, patience))), model, lent }
        }
        Asked::Halted => match *why.lock().unwrap_or_else(PoisonError::into_inner) {
            Halt::Cancelled => Tried::Abandoned,
            Halt::Draining if record.task.effect == Effect::Payment => {
                Tried::Failed(cut_short(record, Cause::LeaseLapsed), spent)
            }
            Halt::Draining => Tried::Held(Hold::Drain, office.now()),
        },
    }
}

enum Asked {
    Ended(Result<Reply, Box<LlmFailure>>),
    Halted,
    LeaseLost,
    TooLate,
    Hung,
}

/// A call we cut short ourselves. Of a payment nobody can say whether it happened: that is the cause then, and it is
/// not made again by anybody but a person.
fn cut_short(record: &Record, cause: Cause) -> Cause {
    match record.task.effect {
        Effect::Payment => {
            Cause::Crash(Crash { how: Death::Cancelled, detail: "the call was cut short while it was out".to_owned() })
        }
        Effect::ReadOnly | Effect::Notification | Effect::Mutation => cause,
    }
}

/// Is the delivery still this one's to work on? It may have been cancelled between the claim and now.
async fn still_ours(office: &Office, record: &Record) -> bool {
    match office.engine.record(record.task.id).await {
        Ok(Some(now)) => now.state == State::Running && now.fence == record.fence,
        Ok(None) => false,
        // A store that cannot be read says nothing; the fence decides in the end.
        Err(_) => true,
    }
}

/// Renews the lease, and the place at the guard, while the call runs; ends when the lease is lost.
async fn lease_lost(office: &Office, record: &Record, lent: &Lent) {
    let lease_for = office.policy_of(record).policy.ack_wait;
    let mut ends = record.lease.as_ref().map_or_else(|| office.now() + lease_for, |lease| lease.deadline);
    loop {
        let left = office.now().until(ends);
        // A fifth of what is left, but often enough for a probe to keep its place.
        office.clock.sleep((left.min(lease_for) / 5).min(BEAT)).await;
        lent.renew();
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

/// How often a call that runs says so at its integration's guard.
const BEAT: Duration = Duration::from_secs(30);
/// How long a provider made in code may take: those configured have timers of their own, which end first.
const PATIENCE: Duration = Duration::from_secs(3600);

fn patience(office: &Office, model: &ModelRef) -> Duration {
    let configured = office.config.providers.get(&model.provider);
    configured.map_or(PATIENCE, |provider| provider.timeouts.total + Duration::from_secs(60))
}

async fn deadline(office: &Office, record: &Record) {
    match record.task.deadline {
        Some(deadline) => office.clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A provider that neither answers nor fails: our own timer ends the wait.
fn hung(office: &Office, model: &ModelRef, patience: Duration) -> LlmFailure {
    LlmFailure {
        integration: model.provider.clone(),
        provider: model.provider.to_string(),
        model: model.model.clone(),
        phase: Phase::Headers,
        fault: Fault::Timeout,
        status: None,
        headers: Vec::new(),
        body: String::new(),
        code: None,
        stop: None,
        request_id: None,
        partial: String::new(),
        usage: Usage::default(),
        sent: true,
        self_hosted: false,
        at: office.now(),
        elapsed: patience,
        detail: format!("total timeout: no answer for {}", crate::time::format_duration(patience)),
    }
}

fn compose(office: &Office, seat: &Seat, record: &Record, model: &ModelRef) -> Result<Request, Cause> {
    let input = |message: String| Cause::Input { violations: vec![Violation { path: String::new(), message }] };
    let prompt = office.prompt_of(record).ok_or_else(|| input("its prompt is not defined".to_owned()))?;
    let schema = office.schema_of(record);
    let scene = prompt::Scene {
        team: &office.config.team,
        agent: &seat.agent,
        task: &record.task,
        attempt: record.attempt,
        max_deliveries: office.policy_of(record).policy.max_deliveries,
        fault: last_fault(record),
        amendments: &record.amendments,
        schema,
        prompts: &office.config.prompts,
        now: office.now(),
    };
    let rendered = prompt::render(prompt, &scene).map_err(|error| input(error.to_string()))?;
    Ok(Request {
        model: model.model.clone(),
        system: rendered.system,
        messages: vec![Message { role: Role::User, text: rendered.user }],
        max_output_tokens: seat.agent.max_output_tokens,
        schema: schema.cloned(),
    })
}

/// What was wrong with the last answer, if that is why this delivery is made.
fn last_fault(record: &Record) -> Option<&OutputFault> {
    let before = record.attempts.iter().rev().find(|attempt| attempt.end.is_some())?;
    match before.spent.cause.as_deref() {
        Some(Cause::Output(fault)) => Some(fault),
        Some(_) | None => None,
    }
}

async fn accept(office: &Office, record: &Record, model: &ModelRef, reply: Reply) {
    let micro_usd = price(office, model, reply.usage);
    let spent = Spent { model: Some(model.clone()), usage: reply.usage, micro_usd, ..Spent::default() };
    let validator = office.schema_of(record).and_then(|schema| office.validators.of(schema));
    let before = last_fault(record).map(|fault| fault.excerpt.as_str());
    match answer::validate(&reply.text, validator.as_deref(), before) {
        Ok(answer) => finish(office, record, Outcome::Answered(answer), spent, None).await,
        Err(fault) => {
            let excerpt = Some(fault.excerpt.clone());
            fail(office, record, Cause::Output(fault), Spent { excerpt, ..spent }).await;
        }
    }
}

fn price(office: &Office, model: &ModelRef, usage: Usage) -> Option<u64> {
    prices::price(usage, &office.config.model_facts(model))
}

fn cut(text: &str) -> String {
    text.chars().take(4096).collect()
}

fn scene(office: &Office, record: &Record) -> Scene {
    let unknown_before =
        record.round().any(|attempt| attempt.failure.as_ref().is_some_and(|failure| failure.kind == Kind::Unknown));
    Scene { unknown_before, ..Scene::new(record.task.effect, office.now()) }
}

async fn fail(office: &Office, record: &Record, cause: Cause, spent: Spent) {
    let judged = match classify(&cause, &scene(office, record)) {
        Judgement::Failed(failure) => Some(failure),
        // The other side ended the call (a 499, a turn it wants continued). Not our word, so it counts like any
        // other answer that is none: given back uncounted it would be asked, and paid for, without an end.
        Judgement::Cancelled | Judgement::Continue => {
            let message = "the other side ended the call without an answer".to_owned();
            let ended = Cause::Reported { class: Class::Transient, kind: Kind::TruncatedStream, message };
            match classify(&ended, &scene(office, record)) {
                Judgement::Failed(failure) => Some(failure),
                Judgement::Cancelled | Judgement::Continue => None,
            }
        }
    };
    let Some(failure) = judged else { return };
    tracing::warn!(class = %failure.class, kind = %failure.kind, rule = %failure.rule, "{}", failure.message);
    let spent = Spent { cause: Some(Box::new(cause.clone())), ..spent };
    finish(office, record, Outcome::Failed(failure), spent, Some(&cause)).await;
}

async fn finish(office: &Office, record: &Record, outcome: Outcome, spent: Spent, cause: Option<&Cause>) {
    let settlement = decide(office, record, outcome, cause);
    let write = || {
        let command = Command::Settle { fence: record.fence, settlement: settlement.clone(), spent: spent.clone() };
        office.engine.command(record.task.id, command, office.now())
    };
    let until = office.now() + office.policy_of(record).policy.ack_wait;
    match office.insist(until, write).await {
        Ok(_) => {}
        Err(engine::Error::Refused(refused)) => tracing::warn!(%refused, "a late result was refused"),
        Err(error) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "a result could not be stored; its lease will lapse"
        ),
    }
    office.kick();
}

/// What becomes of a delivery: gathers the facts for [`settle`], the pure decision.
pub(crate) fn decide(office: &Office, record: &Record, outcome: Outcome, cause: Option<&Cause>) -> Settlement {
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
    let same_output_again = matches!(cause, Some(Cause::Output(fault)) if fault.reason == OutputReason::SameAgain);
    let facts = SettleFacts {
        effect: record.task.effect,
        attempt: record.attempt,
        crashes: u32::try_from(crashes).unwrap_or(u32::MAX),
        previous_delay: record.attempts.last().map_or(Duration::ZERO, |attempt| attempt.waited),
        deadline: record.task.deadline,
        policy: &effective.policy,
        integration: Some(record.integration.clone()),
        hold: failure.and_then(|failure| office.held_after(failure, now)),
        parked_for: record.parking.as_ref().map_or(Duration::ZERO, |parking| now.since(parking.since)),
        correction,
        same_output_again,
        outcome_unknown: cause.is_some_and(|cause| crate::judgement::outcome_unknown(cause, record.task.effect)),
        circumstances: *office.circumstances(&effective),
    };
    let roll = office.dice.roll("backoff", &record.task.id.to_string(), record.fence);
    let settled =
        |budget: Option<&mut crate::retry_budget::RetryBudget>| settle(&facts, outcome.clone(), budget, now, roll);
    office.guards.with_budget(&record.integration, |budget| settled(Some(budget))).unwrap_or_else(|| settled(None))
}
