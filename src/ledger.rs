//! The one function that changes the record of a task.
//!
//! Every engine stores, finds and orders records in its own way; none decides what a command means. The
//! compare-and-set that protects an [`apply`] is the fence for everything said under a lease, the generation for
//! everything decided, and both for what is said of waiting work ([`Seen`]).

use std::time::Duration;

use serde_json::Value;

use crate::agent::Incarnation;
use crate::dead_letter::Circumstances;
use crate::decision::{Decided, DeciderKind, Decision};
use crate::delivery::{Amendment, AmendmentSource, Attempt, AttemptEnd, Hold, Lease, Parking, Settlement, Spent};
use crate::event::{Happening, NewEvent};
use crate::failure::{Failure, Kind};
use crate::mutant;
use crate::record::{Letter, LetterStatus, Record, Seen, State};
use crate::task::{AgentName, Effect, Integration, Task};
use crate::time::Timestamp;

/// What can be asked of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// An agent takes it.
    Claim {
        /// Who.
        agent: AgentName,
        /// Which start of it.
        incarnation: Incarnation,
        /// Which run of the process.
        epoch: u64,
        /// For how long, unless renewed.
        lease_for: Duration,
    },
    /// Its holder is still making progress.
    Renew {
        /// Under this fence.
        fence: u64,
        /// For how long from now.
        lease_for: Duration,
    },
    /// Its holder is finished with it.
    Settle {
        /// Under this fence.
        fence: u64,
        /// The fate of the delivery.
        settlement: Settlement,
        /// What it consumed.
        spent: Spent,
    },
    /// The team says its holder is gone: dead, silent past the deadline, or of an earlier run.
    Lapse {
        /// The fence whose holder is gone.
        fence: u64,
        /// The fate of the delivery.
        settlement: Settlement,
        /// What is known to have been consumed, and why it ended.
        spent: Spent,
    },
    /// It waits for its integration, without having been claimed; or until now, when what held it holds it no longer.
    Park {
        /// As it was seen.
        seen: Seen,
        /// Until when.
        until: Timestamp,
        /// What for.
        why: Hold,
    },
    /// It waited too long, or its deadline passed, without being claimed: to the dead letter queue.
    GiveUp {
        /// As it was seen.
        seen: Seen,
        /// Why.
        failure: Failure,
        /// Which rule.
        why: String,
        /// How things stand.
        circumstances: Box<Circumstances>,
    },
    /// Somebody decided about its dead letter, or what it does instead of waiting.
    Decide {
        /// What, by whom and why.
        decided: Decided,
        /// As a rule saw it, if it waits. A person answers a round.
        seen: Option<Seen>,
        /// The integration its next delivery will call, after this decision.
        integration: Integration,
    },
    /// A replay sends its dead letter round again.
    Replay {
        /// The person or replay that does.
        by: String,
        /// Is `by` a person who named this very task? Payments need that.
        named_by_person: bool,
        /// Why.
        reason: String,
        /// A corrected payload is a new task; only words can be added here.
        amendment: Option<String>,
    },
    /// A person cancels it.
    Cancel {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

/// A command that does not apply. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The lease is no longer held: it ended, was lost, or another was granted. The worker must abort.
    #[error("the lease with fence {said} is over (the current fence is {current})")]
    Stale {
        /// The fence under which the command was said.
        said: u64,
        /// The record's fence.
        current: u64,
    },
    /// The task is not in a state this applies to.
    #[error("the task is {state}; {needs}")]
    WrongState {
        /// Where it stands.
        state: State,
        /// What the command needs.
        needs: &'static str,
    },
    /// It is not due yet.
    #[error("the task is not due before {due}")]
    NotDue {
        /// When it is.
        due: Timestamp,
    },
    /// Its deadline has passed: no delivery begins any more, it can only be given up.
    #[error("the task's deadline {deadline} has passed; no delivery begins after it")]
    PastDeadline {
        /// The deadline.
        deadline: Timestamp,
    },
    /// It was said of another round.
    #[error("the task is in round {current}; this was said of round {said}")]
    OtherRound {
        /// The round meant.
        said: u32,
        /// The round it is in.
        current: u32,
    },
    /// It was claimed, or its wait ended, since it was looked at.
    #[error("the task has changed since it was looked at")]
    Changed,
    /// Only a person may have a payment done again.
    #[error("a payment is never repeated automatically; a person must decide for this very task")]
    PaymentNeedsPerson,
    /// Only a person may take this decision.
    #[error("only a person may decide {0}")]
    OnlyPerson(&'static str),
    /// The CEO has used its decisions for this task.
    #[error("{DECISIONS_MAX} decisions were taken for this task; the next is a person's")]
    DecisionsUsedUp,
    /// The same decision was taken before.
    #[error("the same decision was taken for this task before")]
    SameDecisionAgain,
    /// There is no such step in the task's journal.
    #[error("the task's journal has no step {step}")]
    NoStep {
        /// Which.
        step: u32,
    },
    /// What came of the step is known already.
    #[error("what came of step {step} is known already; `backstop why` tells it")]
    Concluded {
        /// Which.
        step: u32,
    },
    /// It was replayed as often as it may be.
    #[error("replayed {REPLAYS_MAX} times; decide about it one by one (`backstop ceo decide`)")]
    ReplaysUsedUp,
}

/// The most automatic decisions for one task (ACCEPTANCE M11).
pub const DECISIONS_MAX: usize = 3;
/// The most replays of one dead letter (ACCEPTANCE criterion 9).
pub const REPLAYS_MAX: u32 = 3;

/// A changed record and what is to be appended to the feed with it, in one transaction.
pub type Change = (Record, Vec<NewEvent>);

impl Record {
    /// The record of a task just accepted.
    #[must_use]
    pub fn new(task: Task, integration: Integration, now: Timestamp) -> Change {
        let event = Happening::Submitted {
            agent: task.agent.clone(),
            task_type: task.task_type.clone(),
            effect: task.effect,
            priority: task.priority,
        };
        let record = Self {
            agent: task.agent.clone(),
            state: State::Ready,
            model: None,
            integration,
            generation: 1,
            attempt: 0,
            fence: 0,
            due: now,
            since: None,
            lease: None,
            parking: None,
            amendments: Vec::new(),
            attempts: Vec::new(),
            answer: None,
            ended_at: None,
            letter: None,
            decisions: Vec::new(),
            replays: 0,
            updated_at: now,
            task,
        };
        let event = record.event(event);
        (record, vec![event])
    }

    fn event(&self, what: Happening) -> NewEvent {
        NewEvent { task: Some(self.task.id), what }
    }

    /// `by`: who holds it, where it is not the integration of its model.
    fn parked_until(&mut self, until: Timestamp, why: Hold, by: Option<Integration>, now: Timestamp) -> NewEvent {
        let integration = matches!(why, Hold::BreakerOpen | Hold::Gate | Hold::IntegrationParked | Hold::RetryBudget)
            .then(|| by.unwrap_or_else(|| self.integration.clone()));
        // A pause somebody decided on is no waiting for an integration: the patience begins after it.
        let waiting = self.parking.as_ref().filter(|parking| parking.why != Hold::Paused);
        let (since, worked) = waiting.map_or((now, Duration::ZERO), |parking| (parking.since, parking.worked));
        let owes_retry = why == Hold::RetryBudget || self.owes_retry();
        self.state = State::Parked;
        self.waits_until(until);
        self.parking = Some(Parking { why, integration: integration.clone(), since, worked, owes_retry });
        self.event(Happening::Parked {
            agent: self.agent.clone(),
            task_type: self.task.task_type.clone(),
            why,
            integration,
            until,
        })
    }

    fn end_attempt(&mut self, end: AttemptEnd, failure: Option<Failure>, spent: &Spent, now: Timestamp) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended_at = Some(now);
            attempt.end = Some(end);
            attempt.failure = failure;
            attempt.spent = spent.clone();
        }
    }

    /// Through nothing it did: it keeps its place in the line.
    fn waits_until(&mut self, due: Timestamp) {
        self.since = Some(self.since.unwrap_or(self.due).min(due));
        self.due = due;
    }

    /// It stands in line anew from then on.
    fn due_anew(&mut self, due: Timestamp) {
        self.since = None;
        self.due = due;
    }

    fn send_again(&mut self, due: Timestamp, now: Timestamp) {
        self.generation = self.generation.saturating_add(1);
        self.attempt = 0;
        match self.state {
            // Moved while it waited: it keeps its place in the line.
            State::Ready | State::Scheduled | State::Parked => self.waits_until(due),
            State::Running | State::Done | State::Dead | State::WaitingHuman | State::Cancelled => self.due_anew(due),
        }
        self.state = if due <= now { State::Ready } else { State::Scheduled };
        self.parking = None;
        self.ended_at = None;
        if let Some(letter) = &mut self.letter {
            letter.status = LetterStatus::SentAgain;
        }
    }

    fn give_up(
        &mut self,
        failure: Failure,
        why: String,
        circumstances: Box<Circumstances>,
        spent: &Spent,
        now: Timestamp,
    ) -> NewEvent {
        let first_at = self.letter.as_ref().map_or(now, |letter| letter.first_at);
        self.state = State::Dead;
        self.due_anew(now);
        self.parking = None;
        self.ended_at = Some(now);
        let event = self.event(Happening::DeadLettered {
            agent: self.agent.clone(),
            task_type: self.task.task_type.clone(),
            generation: self.generation,
            attempts: self.attempt,
            failure: Box::new(failure.clone()),
            why: why.clone(),
            model: spent.model.clone(),
            usage: spent.usage,
            micro_usd: spent.micro_usd,
        });
        self.letter = Some(Letter {
            status: if mutant::on("letter-dropped") { LetterStatus::Discarded } else { LetterStatus::Open },
            at: now,
            first_at,
            generation: self.generation,
            deliveries: self.attempt,
            failure,
            why,
            circumstances,
        });
        event
    }
}

/// Applies a command to a record: the changed record and its events, or why nothing changes.
///
/// # Errors
/// [`Refused`], saying what stands against it. A refusal changes nothing.
pub fn apply(record: &Record, command: Command, now: Timestamp) -> Result<Change, Refused> {
    let mut next = record.clone();
    next.updated_at = now;
    let events = match command {
        Command::Claim { agent, incarnation, epoch, lease_for } => {
            claim(&mut next, agent, incarnation, epoch, lease_for, now)?
        }
        Command::Renew { fence, lease_for } => {
            held(&next, fence, now)?;
            if let Some(lease) = &mut next.lease {
                lease.deadline = lease.deadline.max(now + lease_for);
            }
            Vec::new()
        }
        Command::Settle { fence, settlement, spent } => {
            held(&next, fence, now)?;
            settled(&mut next, settlement, spent, now)
        }
        Command::Lapse { fence, settlement, spent } => {
            running(&next, fence)?;
            settled(&mut next, settlement, spent, now)
        }
        Command::Park { seen, until, why } => {
            waits_as(&next, seen)?;
            // A retry that waits for its backoff must not come earlier for being parked.
            let until = if next.state == State::Scheduled { until.max(next.due) } else { until };
            // Whose hold is over held it to the end.
            let by = if until <= now { next.held_by().clone() } else { next.integration.clone() };
            vec![next.parked_until(until, why, Some(by), now)]
        }
        Command::GiveUp { seen, failure, why, circumstances } => {
            waits_as(&next, seen)?;
            vec![next.give_up(failure, why, circumstances, &Spent::default(), now)]
        }
        Command::Decide { decided, seen, integration } => decide(&mut next, decided, seen, integration, now)?,
        Command::Replay { by, named_by_person, reason, amendment } => {
            replay(&mut next, by, named_by_person, reason, amendment, now)?
        }
        Command::Cancel { by, reason } => cancel(&mut next, by, reason, now)?,
    };
    Ok((next, events))
}

/// Is what a holder says under its lease said in the run of the process that granted it? A restart voids every lease
/// at once: the holder died with the process. Engines ask before they [`apply`].
///
/// # Errors
/// [`Refused::Stale`] for a `Renew` or `Settle` under a lease of another epoch.
pub fn of_this_run(record: &Record, command: &Command, epoch: u64) -> Result<(), Refused> {
    match command {
        Command::Renew { fence, .. } | Command::Settle { fence, .. } => match &record.lease {
            Some(lease) if lease.epoch != epoch => Err(Refused::Stale { said: *fence, current: record.fence }),
            Some(_) | None => Ok(()),
        },
        Command::Claim { .. }
        | Command::Lapse { .. }
        | Command::Park { .. }
        | Command::GiveUp { .. }
        | Command::Decide { .. }
        | Command::Replay { .. }
        | Command::Cancel { .. } => Ok(()),
    }
}

fn running(record: &Record, fence: u64) -> Result<&Lease, Refused> {
    match &record.lease {
        Some(lease) if record.state == State::Running && (lease.fence == fence || mutant::on("no-fence")) => Ok(lease),
        Some(_) | None => Err(Refused::Stale { said: fence, current: record.fence }),
    }
}

/// Does this run of the process hold the task under this fence? Who writes an intent into its journal must.
///
/// # Errors
/// [`Refused::Stale`] when the lease is over, another's, or of an earlier run.
pub fn holds(record: &Record, fence: u64, epoch: u64, now: Timestamp) -> Result<(), Refused> {
    held(record, fence, now)?;
    match &record.lease {
        Some(lease) if lease.epoch == epoch => Ok(()),
        Some(_) | None => Err(Refused::Stale { said: fence, current: record.fence }),
    }
}

/// A lease is void at `now >= deadline`, even before anybody noticed.
fn held(record: &Record, fence: u64, now: Timestamp) -> Result<(), Refused> {
    match running(record, fence)?.deadline > now || mutant::on("no-fence") {
        true => Ok(()),
        false => Err(Refused::Stale { said: fence, current: record.fence }),
    }
}

fn waiting(record: &Record) -> Result<(), Refused> {
    match record.state {
        State::Ready | State::Scheduled | State::Parked => Ok(()),
        State::Running | State::Done | State::Dead | State::WaitingHuman | State::Cancelled => {
            Err(Refused::WrongState { state: record.state, needs: "it must be waiting to be claimed" })
        }
    }
}

/// Does it still wait as whoever speaks of it saw it?
fn waits_as(record: &Record, seen: Seen) -> Result<(), Refused> {
    waiting(record)?;
    if seen.generation != record.generation {
        return Err(Refused::OtherRound { said: seen.generation, current: record.generation });
    }
    // What must wait longer meanwhile is held all the more.
    if seen.fence != record.fence || record.due < seen.due {
        return Err(Refused::Changed);
    }
    Ok(())
}

fn claim(
    record: &mut Record,
    agent: AgentName,
    incarnation: Incarnation,
    epoch: u64,
    lease_for: Duration,
    now: Timestamp,
) -> Result<Vec<NewEvent>, Refused> {
    waiting(record)?;
    if record.due > now {
        return Err(Refused::NotDue { due: record.due });
    }
    if let Some(deadline) = record.task.deadline.filter(|deadline| *deadline <= now) {
        return Err(Refused::PastDeadline { deadline });
    }
    // What is read from a damaged row may stand at its end.
    record.attempt = record.attempt.saturating_add(1);
    record.fence = record.fence.saturating_add(1);
    record.state = State::Running;
    record.lease = Some(Lease {
        task: record.task.id,
        fence: record.fence,
        agent: agent.clone(),
        incarnation,
        epoch,
        deadline: now + lease_for,
    });
    let waiting_since = record.attempts.last().and_then(|last| last.ended_at).unwrap_or(record.task.created_at);
    record.attempts.push(Attempt {
        generation: record.generation,
        number: record.attempt,
        fence: record.fence,
        agent: agent.clone(),
        incarnation,
        started_at: now,
        waited: now.since(waiting_since),
        ended_at: None,
        end: None,
        failure: None,
        spent: Spent::default(),
    });
    Ok(vec![record.event(Happening::Claimed {
        agent,
        incarnation,
        task_type: record.task.task_type.clone(),
        attempt: record.attempt,
        generation: record.generation,
        fence: record.fence,
    })])
}

fn settled(record: &mut Record, settlement: Settlement, spent: Spent, now: Timestamp) -> Vec<NewEvent> {
    record.lease = None;
    let agent = record.agent.clone();
    let task_type = record.task.task_type.clone();
    match settlement {
        Settlement::Ack { answer } => {
            record.end_attempt(AttemptEnd::Done, None, &spent, now);
            record.state = State::Done;
            record.answer = Some(answer);
            record.ended_at = Some(now);
            record.parking = None;
            if let Some(letter) = &mut record.letter {
                letter.status = LetterStatus::Resolved;
            }
            vec![record.event(Happening::Done {
                agent,
                task_type,
                attempt: record.attempt,
                generation: record.generation,
                model: spent.model.clone(),
                usage: spent.usage,
                micro_usd: spent.micro_usd,
            })]
        }
        Settlement::Retry { due, failure, amendment } => {
            record.end_attempt(AttemptEnd::Retry, Some(failure.clone()), &spent, now);
            record.state = if due <= now { State::Ready } else { State::Scheduled };
            if failure.kind == Kind::ProcessDied {
                record.waits_until(due);
            } else {
                record.due_anew(due);
            }
            record.parking = None;
            let amended = amendment.is_some();
            record.amendments.extend(amendment);
            vec![record.event(Happening::RetryScheduled {
                agent,
                task_type,
                attempt: record.attempt,
                due,
                failure: Box::new(failure),
                amended,
                model: spent.model.clone(),
                usage: spent.usage,
                micro_usd: spent.micro_usd,
            })]
        }
        Settlement::Release { due, why, failure } => {
            // The budget of retries is its model's, whoever failed.
            let found_out = failure.as_ref().filter(|_| why != Hold::RetryBudget);
            let by = found_out.and_then(|failure| failure.integration.clone());
            released(record, (due, why, by), failure, &spent, now)
        }
        Settlement::Held { due, why, by } => released(record, (due, why, Some(by)), None, &spent, now),
        Settlement::DeadLetter { failure, why, circumstances } => {
            record.end_attempt(AttemptEnd::DeadLetter, Some(failure.clone()), &spent, now);
            vec![record.give_up(failure, why, circumstances, &spent, now)]
        }
    }
}

/// Given back uncounted: until when, why, and who holds it where that is not the integration of its model.
fn released(
    record: &mut Record,
    (due, why, by): (Timestamp, Hold, Option<Integration>),
    failure: Option<Failure>,
    spent: &Spent,
    now: Timestamp,
) -> Vec<NewEvent> {
    record.attempt = record.attempt.saturating_sub(1);
    // It has waited as long as before it ran.
    let ran = record.running_attempt().map_or(Duration::ZERO, |attempt| now.since(attempt.started_at));
    if let Some(parking) = record.parking.as_mut().filter(|parking| parking.why != Hold::Paused) {
        parking.worked = parking.worked.saturating_add(ran);
    }
    // What was seen by a real call and what was paid for is kept, though it does not count.
    if failure.is_some() || *spent != Spent::default() {
        // The retry it owed is made.
        if let Some(parking) = &mut record.parking {
            parking.owes_retry = false;
        }
        record.end_attempt(AttemptEnd::Released, failure, spent, now);
    } else {
        record.attempts.pop();
    }
    let released = record.event(Happening::Released {
        agent: record.agent.clone(),
        task_type: record.task.task_type.clone(),
        why,
        due,
        model: spent.model.clone(),
        usage: spent.usage,
        micro_usd: spent.micro_usd,
    });
    match why {
        Hold::Drain => {
            record.state = if due <= now { State::Ready } else { State::Scheduled };
            record.waits_until(due);
            if mutant::on("lost-at-drain") {
                (record.state, record.due) = (State::Scheduled, now + Duration::from_secs(1_000_000_000));
            }
            vec![released]
        }
        Hold::BreakerOpen
        | Hold::Gate
        | Hold::RetryBudget
        | Hold::IntegrationParked
        | Hold::DiskFull
        | Hold::Paused => {
            vec![released, record.parked_until(due, why, by, now)]
        }
    }
}

fn decide(
    record: &mut Record,
    mut decided: Decided,
    seen: Option<Seen>,
    integration: Integration,
    now: Timestamp,
) -> Result<Vec<NewEvent>, Refused> {
    let by_person = decided.by == DeciderKind::Human;
    let open = match record.state {
        State::Dead => record.letter.as_ref().is_some_and(|letter| letter.status == LetterStatus::Open) || by_person,
        State::WaitingHuman => by_person,
        // What waits for an integration may be moved on before it dies of waiting, and need not have begun to wait where it
        // may not; what waits for an agent that does not come back goes to another.
        State::Ready | State::Scheduled | State::Parked => {
            matches!(decided.decision, Decision::RetryOnFallback { .. } | Decision::Reassign { .. })
        }
        State::Running | State::Done | State::Cancelled => false,
    };
    if !open {
        return Err(Refused::WrongState {
            state: record.state,
            needs: "only what waits or is an open dead letter can be decided about, and only by a person once a person is asked",
        });
    }
    if decided.generation != record.generation {
        return Err(Refused::OtherRound { said: decided.generation, current: record.generation });
    }
    if let Some(seen) = seen
        && waiting(record).is_ok()
    {
        waits_as(record, seen)?;
    }
    if !by_person {
        automatic_decision_allowed(record, &decided.decision)?;
    }
    decided.number = u32::try_from(record.decisions.len()).unwrap_or(u32::MAX).saturating_add(1);
    decided.at = now;
    let before = record.agent.clone();
    match &decided.decision {
        Decision::RetryOnFallback { model } => {
            record.model = Some(model.clone());
            record.send_again(now, now);
        }
        Decision::RetryAfterCheck { due, .. } => record.send_again(*due, now),
        Decision::Park { until, .. } => {
            record.send_again(*until, now);
            record.state = State::Parked;
            record.parking = Some(Parking {
                why: Hold::Paused,
                integration: None,
                since: now,
                worked: Duration::ZERO,
                owes_retry: false,
            });
        }
        Decision::Reassign { agent, amendment } => {
            record.agent = agent.clone();
            record.model = None;
            let from = if by_person { AmendmentSource::Human } else { AmendmentSource::Ceo };
            record.amendments.push(Amendment { from, text: amendment.clone() });
            record.send_again(now, now);
        }
        Decision::RunAgain { amendment } => {
            record.amendments.extend(amendment.clone().map(|text| Amendment { from: AmendmentSource::Human, text }));
            record.send_again(now, now);
        }
        Decision::Discard { .. } => set_letter(record, LetterStatus::Discarded, State::Dead, Some(now)),
        Decision::PageHuman { .. } if mutant::on("ceo-decides-twice") && record.decisions.len().is_multiple_of(2) => {}
        Decision::PageHuman { .. } => set_letter(record, LetterStatus::WithHuman, State::WaitingHuman, None),
        Decision::Resolve { note } => {
            record.answer = Some(Value::String(note.clone()));
            set_letter(record, LetterStatus::Resolved, State::Done, Some(now));
        }
    }
    record.integration = integration;
    let event = record.event(Happening::Decided {
        agent: before,
        task_type: record.task.task_type.clone(),
        decided: Box::new(decided.clone()),
    });
    record.decisions.push(decided);
    Ok(vec![event])
}

fn set_letter(record: &mut Record, status: LetterStatus, state: State, ended_at: Option<Timestamp>) {
    record.state = state;
    record.ended_at = ended_at;
    if let Some(letter) = &mut record.letter {
        letter.status = status;
    }
}

/// What stands here stands for everybody who is no person: the table, the adviser, the replay.
fn automatic_decision_allowed(record: &Record, decision: &Decision) -> Result<(), Refused> {
    match decision {
        Decision::PageHuman { .. } => return Ok(()),
        Decision::Resolve { .. } => return Err(Refused::OnlyPerson("that a task was done by other means")),
        Decision::RunAgain { .. } => return Err(Refused::OnlyPerson("to have a task done again as it is")),
        Decision::Discard { .. } => {}
        // Parking sends it again later: harmless for a payment only if no delivery of it was ever begun.
        Decision::Park { .. } => {
            if record.task.effect == Effect::Payment && !record.attempts.is_empty() {
                return Err(Refused::PaymentNeedsPerson);
            }
        }
        Decision::RetryOnFallback { .. } | Decision::RetryAfterCheck { .. } | Decision::Reassign { .. } => {
            if record.task.effect == Effect::Payment && !mutant::on("payment-on-fallback") {
                return Err(Refused::PaymentNeedsPerson);
            }
        }
    }
    let automatic = record.decisions.iter().filter(|decided| decided.by != DeciderKind::Human);
    if automatic.clone().count() >= DECISIONS_MAX && !mutant::on("ceo-without-cap") {
        return Err(Refused::DecisionsUsedUp);
    }
    if automatic.clone().any(|decided| same(&decided.decision, decision)) {
        return Err(Refused::SameDecisionAgain);
    }
    Ok(())
}

/// Two decisions are the same when they would do the same; wording and times do not make them differ.
#[must_use]
pub fn same(one: &Decision, other: &Decision) -> bool {
    match (one, other) {
        (Decision::RetryOnFallback { model: a }, Decision::RetryOnFallback { model: b }) => a == b,
        (Decision::Reassign { agent: a, .. }, Decision::Reassign { agent: b, .. }) => a == b,
        (a, b) => a.kind() == b.kind() && !mutant::on("decision-repeated"),
    }
}

fn replay(
    record: &mut Record,
    by: String,
    named_by_person: bool,
    reason: String,
    amendment: Option<String>,
    now: Timestamp,
) -> Result<Vec<NewEvent>, Refused> {
    let open = record.letter.as_ref().is_some_and(Letter::is_open);
    match record.state {
        State::Dead | State::WaitingHuman if open => {}
        State::Ready
        | State::Scheduled
        | State::Parked
        | State::Running
        | State::Done
        | State::Dead
        | State::WaitingHuman
        | State::Cancelled => {
            return Err(Refused::WrongState { state: record.state, needs: "only an open dead letter can be replayed" });
        }
    }
    if record.task.effect == Effect::Payment && !named_by_person {
        return Err(Refused::PaymentNeedsPerson);
    }
    if record.replays >= REPLAYS_MAX {
        return Err(Refused::ReplaysUsedUp);
    }
    record.replays += 1;
    record.amendments.extend(amendment.map(|text| Amendment { from: AmendmentSource::Human, text }));
    record.send_again(now, now);
    Ok(vec![record.event(Happening::Replayed {
        agent: record.agent.clone(),
        task_type: record.task.task_type.clone(),
        generation: record.generation,
        by,
        reason,
    })])
}

fn cancel(record: &mut Record, by: String, reason: String, now: Timestamp) -> Result<Vec<NewEvent>, Refused> {
    match record.state {
        State::Done | State::Cancelled => {
            return Err(Refused::WrongState {
                state: record.state,
                needs: "only a task that has not ended can be cancelled",
            });
        }
        State::Ready | State::Scheduled | State::Parked | State::Running | State::Dead | State::WaitingHuman => {}
    }
    if let Some(attempt) = record.attempts.last_mut().filter(|attempt| attempt.end.is_none()) {
        attempt.end = Some(AttemptEnd::Cancelled);
        attempt.ended_at = Some(now);
    }
    record.lease = None;
    record.parking = None;
    record.state = State::Cancelled;
    record.ended_at = Some(now);
    if let Some(letter) = &mut record.letter {
        letter.status = LetterStatus::Discarded;
    }
    Ok(vec![record.event(Happening::Cancelled {
        agent: record.agent.clone(),
        task_type: record.task.task_type.clone(),
        by,
        reason,
    })])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use serde_json::json;

    use crate::absence::Absences;
    use crate::cause::Usage;
    use crate::task::Priority;

    const NOW: Timestamp = Timestamp::from_millis(10_000);
    const LATER: Timestamp = Timestamp::from_millis(60_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn busy() -> Failure {
        let failure = json!({
            "class": "transient", "kind": "overloaded", "origin": "integration", "action": "backoff", "retry": true,
            "fallback": "after_retries", "signal": "count", "page": false, "message": "busy", "rule": "test",
        });
        serde_json::from_value(failure).expect("a failure")
    }

    fn task(created_at: Timestamp) -> Task {
        let task = json!({
            "id": "01900000-0000-7000-8000-000000000001", "type": "code_review", "agent": "cto", "payload": {},
            "effect": "mutation", "priority": "normal", "created_at": created_at,
        });
        serde_json::from_value(task).expect("a task")
    }

    fn settle(fence: u64, settlement: Settlement) -> Command {
        Command::Settle { fence, settlement, spent: Spent::default() }
    }

    fn dead() -> Settlement {
        Settlement::DeadLetter { failure: busy(), why: "3 of 3".to_owned(), circumstances: Box::default() }
    }

    /// A server of tools lets nobody through.
    fn held_by_tools(due: Timestamp) -> Settlement {
        let by = Integration::new("github").expect("a name");
        Settlement::Held { due, why: Hold::BreakerOpen, by }
    }

    fn park(record: &Record, until: Timestamp) -> Command {
        Command::Park { seen: Seen::of(record), until, why: Hold::Gate }
    }

    fn give_up(record: &Record) -> Command {
        Command::GiveUp {
            seen: Seen::of(record),
            failure: busy(),
            why: "late".to_owned(),
            circumstances: Box::default(),
        }
    }

    fn claim_command() -> Command {
        let agent = AgentName::new("cto").expect("a name");
        Command::Claim { agent, incarnation: Incarnation(1), epoch: 1, lease_for: MINUTE }
    }

    fn decision(generation: u32, by: DeciderKind, decision: Decision) -> Command {
        let decided = Decided {
            number: 0,
            generation,
            decision,
            by,
            who: None,
            at: Timestamp::default(),
            reasons: Vec::new(),
            rejected: Vec::new(),
        };
        Command::Decide { decided, seen: None, integration: Integration::new("openai").expect("a name") }
    }

    fn reassign(to: &str) -> Decision {
        Decision::Reassign { agent: AgentName::new(to).expect("a name"), amendment: "again".to_owned() }
    }

    fn replayed(named_by_person: bool) -> Command {
        Command::Replay { by: "ann".to_owned(), named_by_person, reason: "fixed".to_owned(), amendment: None }
    }

    fn done(record: &Record, command: Command, now: Timestamp) -> Record {
        apply(record, command, now).expect("it applies").0
    }

    fn fresh(effect: Effect) -> Record {
        let task = Task { effect, ..task(NOW) };
        Record::new(task, Integration::new("anthropic").expect("a name"), NOW).0
    }

    fn running_one(effect: Effect) -> Record {
        done(&fresh(effect), claim_command(), NOW)
    }

    fn dead_one(effect: Effect) -> Record {
        done(&running_one(effect), settle(1, dead()), NOW)
    }

    fn standing(state: State) -> Record {
        let (ready, running) = (fresh(Effect::Mutation), running_one(Effect::Mutation));
        let record = match state {
            State::Ready => ready,
            State::Scheduled => {
                done(&running, settle(1, Settlement::Retry { due: LATER, failure: busy(), amendment: None }), NOW)
            }
            State::Parked => done(&ready, park(&ready, LATER), NOW),
            State::Running => running,
            State::Done => done(&running, settle(1, Settlement::Ack { answer: Value::Null }), NOW),
            State::Dead => dead_one(Effect::Mutation),
            State::WaitingHuman => {
                let page = Decision::PageHuman { why: "look".to_owned() };
                done(&dead_one(Effect::Mutation), decision(1, DeciderKind::Table, page), NOW)
            }
            State::Cancelled => done(&ready, Command::Cancel { by: "ann".to_owned(), reason: "no".to_owned() }, NOW),
        };
        assert_eq!(record.state, state);
        record
    }

    #[test]
    fn every_command_in_every_state() {
        use DeciderKind::{Human, Table};
        let retry = |due| Settlement::Retry { due, failure: busy(), amendment: None };
        let release = |due, why| Settlement::Release { due, why, failure: None };
        let note = || "by hand".to_owned();
        let ready = standing(State::Ready);
        let parks = Decision::Park { until: LATER, why: note() };
        let check = Decision::RetryAfterCheck { due: LATER, checked: note() };
        let fallback = Decision::RetryOnFallback { model: "openai/gpt-5".parse().expect("a model") };
        let cancel = Command::Cancel { by: note(), reason: note() };
        let lapse = Command::Lapse { fence: 1, settlement: retry(NOW), spent: Spent::default() };
        let table: &[(&str, Command, Timestamp, [&str; 8])] = &[
            // ready, scheduled, parked, running, done, dead, waiting-human, cancelled
            ("claim", claim_command(), NOW, ["running", "-", "-", "-", "-", "-", "-", "-"]),
            ("claim due", claim_command(), LATER, ["running", "running", "running", "-", "-", "-", "-", "-"]),
            (
                "renew",
                Command::Renew { fence: 1, lease_for: MINUTE },
                NOW,
                ["-", "-", "-", "running", "-", "-", "-", "-"],
            ),
            ("renew late", Command::Renew { fence: 1, lease_for: MINUTE }, NOW + MINUTE, ["-"; 8]),
            (
                "ack",
                settle(1, Settlement::Ack { answer: Value::Null }),
                NOW,
                ["-", "-", "-", "done", "-", "-", "-", "-"],
            ),
            ("ack late", settle(1, Settlement::Ack { answer: Value::Null }), NOW + MINUTE, ["-"; 8]),
            ("ack of another", settle(2, Settlement::Ack { answer: Value::Null }), NOW, ["-"; 8]),
            ("retry", settle(1, retry(NOW)), NOW, ["-", "-", "-", "ready", "-", "-", "-", "-"]),
            ("retry later", settle(1, retry(LATER)), NOW, ["-", "-", "-", "scheduled", "-", "-", "-", "-"]),
            ("release", settle(1, release(LATER, Hold::Gate)), NOW, ["-", "-", "-", "parked", "-", "-", "-", "-"]),
            ("held", settle(1, held_by_tools(LATER)), NOW, ["-", "-", "-", "parked", "-", "-", "-", "-"]),
            ("drain", settle(1, release(NOW, Hold::Drain)), NOW, ["-", "-", "-", "ready", "-", "-", "-", "-"]),
            ("dead letter", settle(1, dead()), NOW, ["-", "-", "-", "dead", "-", "-", "-", "-"]),
            ("lapse", lapse, NOW + MINUTE, ["-", "-", "-", "ready", "-", "-", "-", "-"]),
            ("park", park(&ready, LATER), NOW, ["parked", "parked", "parked", "-", "-", "-", "-", "-"]),
            ("give up", give_up(&ready), NOW, ["dead", "dead", "dead", "-", "-", "-", "-", "-"]),
            (
                "table reassigns",
                decision(1, Table, reassign("cso")),
                NOW,
                ["ready", "ready", "ready", "-", "-", "ready", "-", "-"],
            ),
            (
                "table falls back",
                decision(1, Table, fallback),
                NOW,
                ["ready", "ready", "ready", "-", "-", "ready", "-", "-"],
            ),
            ("table checks", decision(1, Table, check), NOW, ["-", "-", "-", "-", "-", "scheduled", "-", "-"]),
            ("table parks", decision(1, Table, parks), NOW, ["-", "-", "-", "-", "-", "parked", "-", "-"]),
            (
                "table discards",
                decision(1, Table, Decision::Discard { why: note() }),
                NOW,
                ["-", "-", "-", "-", "-", "dead", "-", "-"],
            ),
            (
                "table pages",
                decision(1, Table, Decision::PageHuman { why: note() }),
                NOW,
                ["-", "-", "-", "-", "-", "waiting-human", "-", "-"],
            ),
            ("table resolves", decision(1, Table, Decision::Resolve { note: note() }), NOW, ["-"; 8]),
            (
                "adviser runs it again",
                decision(1, DeciderKind::Adviser, Decision::RunAgain { amendment: None }),
                NOW,
                ["-"; 8],
            ),
            ("another round", decision(2, Human, reassign("cso")), NOW, ["-"; 8]),
            (
                "person reassigns",
                decision(1, Human, reassign("cso")),
                NOW,
                ["ready", "ready", "ready", "-", "-", "ready", "ready", "-"],
            ),
            (
                "person runs it again",
                decision(1, Human, Decision::RunAgain { amendment: None }),
                NOW,
                ["-", "-", "-", "-", "-", "ready", "ready", "-"],
            ),
            (
                "person resolves",
                decision(1, Human, Decision::Resolve { note: note() }),
                NOW,
                ["-", "-", "-", "-", "-", "done", "done", "-"],
            ),
            (
                "person discards",
                decision(1, Human, Decision::Discard { why: note() }),
                NOW,
                ["-", "-", "-", "-", "-", "dead", "dead", "-"],
            ),
            ("replay", replayed(false), NOW, ["-", "-", "-", "-", "-", "ready", "ready", "-"]),
            (
                "cancel",
                cancel,
                NOW,
                ["cancelled", "cancelled", "cancelled", "cancelled", "-", "cancelled", "cancelled", "-"],
            ),
        ];
        for (name, command, now, expected) in table {
            for (&state, expected) in State::ALL.iter().zip(expected) {
                let (before, mut command) = (standing(state), command.clone());
                if let Command::Park { seen, .. } | Command::GiveUp { seen, .. } = &mut command {
                    *seen = Seen::of(&before);
                }
                let after = apply(&before, command.clone(), *now);
                let told = after.as_ref().map_or("-", |(record, _)| record.state.as_str());
                assert_eq!(told, *expected, "{name} when {state}: {after:?}");
                if let Ok((after, events)) = after {
                    sound(&after, name);
                    assert!(
                        after.fence >= before.fence && after.generation >= before.generation,
                        "{name} when {state}"
                    );
                    assert!(events.iter().all(|event| event.task == Some(after.task.id)), "{name} when {state}");
                    assert_eq!(events.is_empty(), matches!(command, Command::Renew { .. }), "{name} when {state}");
                }
            }
        }
    }

    /// What holds of every record, however it came about.
    fn sound(record: &Record, name: &str) {
        let running = record.state == State::Running;
        assert_eq!(record.lease.is_some(), running, "{name}: a lease while it runs and only then");
        assert_eq!(record.running_attempt().is_some(), running, "{name}: an open attempt while it runs and only then");
        let ended = matches!(record.state, State::Done | State::Dead | State::Cancelled);
        assert_eq!(record.ended_at.is_some(), ended, "{name}: an end when it has ended");
        let fences: BTreeSet<_> = record.attempts.iter().map(|attempt| attempt.fence).collect();
        assert_eq!(fences.len(), record.attempts.len(), "{name}: a fence of its own for each delivery");
    }

    #[test]
    fn a_payment_is_sent_again_by_nobody_but_a_person() {
        let record = dead_one(Effect::Payment);
        let model = "openai/gpt-5".parse().expect("a model");
        for again in [
            Decision::RetryOnFallback { model },
            Decision::RetryAfterCheck { due: NOW, checked: "up".to_owned() },
            Decision::Park { until: LATER, why: "later".to_owned() },
            reassign("cso"),
        ] {
            for by in [DeciderKind::Table, DeciderKind::Adviser] {
                let refused = apply(&record, decision(1, by, again.clone()), NOW);
                assert_eq!(refused, Err(Refused::PaymentNeedsPerson), "{again:?}");
            }
        }
        assert_eq!(apply(&record, replayed(false), NOW), Err(Refused::PaymentNeedsPerson));
        assert_eq!(done(&record, replayed(true), NOW).state, State::Ready);
        let person = decision(1, DeciderKind::Human, Decision::RunAgain { amendment: None });
        assert_eq!(done(&record, person, NOW).state, State::Ready);

        let never_begun = done(&fresh(Effect::Payment), give_up(&fresh(Effect::Payment)), NOW);
        let park = Decision::Park { until: LATER, why: "later".to_owned() };
        assert_eq!(done(&never_begun, decision(1, DeciderKind::Table, park), NOW).state, State::Parked);
    }

    #[test]
    fn decisions_and_replays_are_bounded() {
        let mut record = dead_one(Effect::Mutation);
        for round in 1..=3 {
            record = done(&record, decision(round, DeciderKind::Table, reassign(&format!("a{round}"))), NOW);
            record = done(&record, claim_command(), NOW);
            record = done(&record, settle(record.fence, dead()), NOW);
        }
        let fourth = decision(4, DeciderKind::Table, reassign("a4"));
        assert_eq!(apply(&record, fourth, NOW), Err(Refused::DecisionsUsedUp));
        let page = decision(4, DeciderKind::Table, Decision::PageHuman { why: String::new() });
        assert_eq!(done(&record, page, NOW).state, State::WaitingHuman, "a person may always be asked");
        let first = done(&dead_one(Effect::Mutation), decision(1, DeciderKind::Table, reassign("a")), NOW);
        let again = done(&done(&first, claim_command(), NOW), settle(2, dead()), NOW);
        let same = decision(2, DeciderKind::Table, reassign("a"));
        assert_eq!(apply(&again, same, NOW), Err(Refused::SameDecisionAgain));

        let mut record = dead_one(Effect::Mutation);
        for _ in 0..REPLAYS_MAX {
            record = done(&done(&record, replayed(true), NOW), claim_command(), NOW);
            record = done(&record, settle(record.fence, dead()), NOW);
        }
        assert_eq!(apply(&record, replayed(true), NOW), Err(Refused::ReplaysUsedUp));
        assert_eq!((record.generation, record.attempt, record.fence), (4, 1, 4));
    }

    #[test]
    fn a_release_costs_no_attempt_but_forgets_no_money() {
        let running = running_one(Effect::Mutation);
        let release = |failure| Settlement::Release { due: LATER, why: Hold::Gate, failure };
        let unworked = done(&running, settle(1, release(None)), NOW);
        assert_eq!((unworked.attempt, unworked.attempts.len()), (0, 0));
        let found_out = done(&running, settle(1, release(Some(busy()))), NOW);
        assert_eq!((found_out.attempt, found_out.attempts.len()), (0, 1));
        let spent = Spent { usage: Usage { input: 7, ..Usage::default() }, ..Spent::default() };
        let command = Command::Settle { fence: 1, settlement: release(None), spent: spent.clone() };
        let paid = done(&running, command, NOW);
        assert_eq!((paid.attempt, &paid.attempts[0].spent), (0, &spent));
        assert_eq!(done(&paid, claim_command(), LATER).fence, 2, "fences grow all the same");
    }

    /// A task that had waited 20 s at a gate and worked for nine minutes then counted as one that had waited nine minutes, and
    /// died of that at the next gate; one that the CEO had parked had used up its patience when it was due.
    #[test]
    fn only_what_it_waited_at_holds_counts_as_such() {
        let after = |seconds| NOW + Duration::from_secs(seconds);
        let waited = |record: &Record, seconds| record.waited_at_holds(&Absences::default(), after(seconds)).as_secs();
        let gate = |due| Settlement::Release { due, why: Hold::Gate, failure: None };
        let held = done(&running_one(Effect::ReadOnly), settle(1, gate(after(20))), NOW);
        assert_eq!(waited(&held, 20), 20);
        let works = done(&held, claim_command(), after(20));
        assert_eq!(waited(&works, 60), 20, "what it runs is no wait");
        let again = done(&works, settle(works.fence, gate(after(100))), after(60));
        assert_eq!(waited(&again, 70), 30);
        let drained = Settlement::Release { due: after(60), why: Hold::Drain, failure: None };
        let drained = done(&works, settle(works.fence, drained), after(60));
        assert_eq!(waited(&drained, 60), 20);

        let park = Decision::Park { until: after(900), why: "its server is away".to_owned() };
        let parked = done(&dead_one(Effect::ReadOnly), decision(1, DeciderKind::Table, park), NOW);
        let works = done(&parked, claim_command(), after(900));
        assert_eq!(waited(&works, 901), 0);
    }

    /// The process was stopped for a night while a task waited at a gate, and that counted: it was given up on in the morning
    /// at the first look, although nobody had been there who could have let it go.
    #[test]
    fn a_night_in_which_nobody_was_there_is_no_wait() {
        let after = |seconds| NOW + Duration::from_secs(seconds);
        let night = Absences::default().with(after(60), after(30_000));
        let waited = |record: &Record, seconds| record.waited_at_holds(&night, after(seconds)).as_secs();
        let gate = |due| Settlement::Release { due, why: Hold::Gate, failure: None };
        let held = done(&running_one(Effect::ReadOnly), settle(1, gate(after(90))), NOW);
        assert_eq!([waited(&held, 50), waited(&held, 20_000), waited(&held, 30_010)], [50, 60, 70]);
        // In the morning it runs for longer than it had waited, and is held again.
        let works = done(&held, claim_command(), after(30_010));
        let again = done(&works, settle(works.fence, gate(after(30_100))), after(30_065));
        assert_eq!([waited(&works, 30_060), waited(&again, 30_065), waited(&again, 30_075)], [70, 70, 80]);
        let held_anew = done(&again, park(&again, after(31_000)), after(30_100));
        assert_eq!(waited(&held_anew, 30_200), 205);
    }

    /// What the budget of retries had held took nothing out of it when it was made. It does now: once, whatever else held it
    /// before, and a second time only for a second retry.
    #[test]
    fn a_held_retry_is_owed_until_it_is_made() {
        let after = |seconds| NOW + Duration::from_secs(seconds);
        let release = |why, failure| Settlement::Release { due: NOW, why, failure };
        let running = running_one(Effect::ReadOnly);
        let at_gate = done(&running, settle(1, release(Hold::Gate, Some(busy()))), NOW);
        assert!(!at_gate.owes_retry(), "a gate holds whoever comes");
        let held = done(&running, settle(1, release(Hold::RetryBudget, Some(busy()))), NOW);
        let behind_a_gate = done(&held, park(&held, after(1)), NOW);
        assert!(held.owes_retry() && behind_a_gate.owes_retry());

        let again = done(&behind_a_gate, claim_command(), after(1));
        assert!(again.owes_retry(), "it has not called yet");
        for why in [Hold::RetryBudget, Hold::BreakerOpen, Hold::Drain] {
            assert!(done(&again, settle(2, release(why, None)), after(1)).owes_retry(), "not made: {why}");
            let made = done(&again, settle(2, release(why, Some(busy()))), after(1));
            assert_eq!(made.owes_retry(), why == Hold::RetryBudget, "made, and then {why}");
        }
        let retry = Settlement::Retry { due: NOW, failure: busy(), amendment: None };
        assert!(!done(&again, settle(2, retry), after(1)).owes_retry());
    }

    /// The wait before that decorrelated jitter goes on from was all the time since the last try, in line and at holds, and for
    /// the first try that since it was submitted: after an hour in line the next wait was an hour.
    #[test]
    fn what_it_was_made_to_wait_is_not_what_it_stood_in_line() {
        let after = |seconds| NOW + Duration::from_secs(seconds);
        let first = done(&fresh(Effect::ReadOnly), claim_command(), after(7_200));
        assert_eq!(first.backed_off(), Duration::ZERO);
        let retry = Settlement::Retry { due: after(7_210), failure: busy(), amendment: None };
        let waits = done(&first, settle(first.fence, retry), after(7_205));
        let second = done(&waits, claim_command(), after(9_000));
        assert_eq!(second.backed_off(), Duration::from_secs(5));
    }

    #[test]
    fn parking_never_shortens_a_backoff() {
        let waiting = standing(State::Scheduled);
        let parked = done(&waiting, park(&waiting, NOW + Duration::from_secs(1)), NOW);
        assert_eq!(parked.due, LATER);
        let held = standing(State::Parked);
        let sooner = done(&held, park(&held, NOW), NOW);
        assert_eq!(sooner.due, NOW, "what only waits for its integration may come sooner");
    }

    /// What a server of tools held was written down as waiting for its model: closing the server's breaker woke nobody.
    #[test]
    fn what_is_parked_waits_for_whoever_holds_it() {
        let by = |record: &Record| {
            let parking = record.parking.as_ref().expect("it is parked");
            assert_eq!(parking.integration.as_ref(), Some(record.held_by()));
            record.held_by().to_string()
        };
        let running = running_one(Effect::ReadOnly);
        let waits = done(&running, settle(1, held_by_tools(LATER)), NOW);
        assert_eq!((by(&waits).as_str(), waits.integration.as_str()), ("github", "anthropic"));
        assert_eq!((waits.attempt, waits.attempts.len(), waits.due), (0, 0, LATER), "it costs nothing");
        assert_eq!(by(&done(&waits, park(&waits, NOW), NOW)), "github", "whose hold is over held it to the end");
        assert_eq!(by(&done(&waits, park(&waits, LATER + MINUTE), LATER)), "anthropic", "its model is held, too");
        let told = apply(&running, settle(1, held_by_tools(LATER)), NOW).expect("it applies").1;
        let of = |event: &NewEvent| {
            let Happening::Parked { integration, .. } = &event.what else { return None };
            integration.as_ref().map(ToString::to_string)
        };
        assert_eq!(told.iter().find_map(of).as_deref(), Some("github"), "{told:?}");
        // The delivery that found out names it; the budget of retries is its model's, whoever failed.
        let failed = Failure { integration: Some(Integration::new("github").expect("a name")), ..busy() };
        let release = |why| Settlement::Release { due: LATER, why, failure: Some(failed.clone()) };
        for (why, holder) in [(Hold::IntegrationParked, "github"), (Hold::RetryBudget, "anthropic")] {
            assert_eq!(by(&done(&running, settle(1, release(why)), NOW)), holder, "{why}");
        }
        assert_eq!(standing(State::Parked).held_by().as_str(), "anthropic");
    }

    #[test]
    fn what_is_said_of_waiting_work_does_not_befall_what_it_has_become() {
        let seen = fresh(Effect::Mutation);
        let moved = Decision::RetryOnFallback { model: "openai/gpt-5".parse().expect("a model") };
        let moved = done(&seen, decision(1, DeciderKind::Table, moved), NOW);
        let handed_on = done(&seen, decision(1, DeciderKind::Human, reassign("cso")), NOW);
        let release = Settlement::Release { due: NOW, why: Hold::Drain, failure: None };
        let given_back = done(&running_one(Effect::Mutation), settle(1, release), NOW);
        let other_round = Err(Refused::OtherRound { said: 1, current: 2 });
        let freed = done(&standing(State::Parked), park(&standing(State::Parked), NOW), NOW);
        let changed = Err(Refused::Changed);
        for (became, refused) in [(moved, &other_round), (handed_on, &other_round), (given_back, &changed)] {
            assert_eq!(apply(&became, park(&seen, LATER), NOW), *refused, "{became:?}");
            assert_eq!(apply(&became, give_up(&seen), NOW), *refused, "{became:?}");
            assert_eq!(done(&became, give_up(&became), NOW).state, State::Dead);
        }
        // Held when it was looked at, and free when the command came.
        let held = standing(State::Parked);
        assert_eq!(apply(&freed, give_up(&held), NOW), changed);
        let by_rule = |record| {
            let mut command = decision(1, DeciderKind::Table, reassign("cso"));
            if let Command::Decide { seen, .. } = &mut command {
                *seen = Some(Seen::of(record));
            }
            command
        };
        assert_eq!(apply(&freed, by_rule(&held), NOW), changed);
        let held_on = done(&held, park(&held, LATER + MINUTE), NOW);
        assert_eq!(done(&held_on, by_rule(&held), NOW).generation, 2, "held still");
        assert_eq!(done(&freed, by_rule(&freed), NOW).generation, 2);
        assert_eq!(done(&freed, decision(1, DeciderKind::Human, reassign("cso")), NOW).generation, 2);
    }

    #[test]
    fn what_was_never_tried_is_new_work_in_its_old_place_wherever_it_is_moved() {
        let parked = standing(State::Parked);
        let moved = Decision::RetryOnFallback { model: "openai/gpt-5".parse().expect("a model") };
        let moved = done(&parked, decision(1, DeciderKind::Table, moved), LATER);
        assert_eq!((moved.was_tried(), moved.since, moved.due), (false, Some(NOW), LATER));
        let cut_off = Failure { kind: Kind::ProcessDied, ..busy() };
        let retry = |failure| Settlement::Retry { due: LATER, failure, amendment: None };
        let died = done(&running_one(Effect::Mutation), settle(1, retry(cut_off)), NOW);
        assert!(!died.was_tried());
        assert!(!done(&died, decision(1, DeciderKind::Table, reassign("cso")), NOW).was_tried());
        let failed = done(&running_one(Effect::Mutation), settle(1, retry(busy())), NOW);
        let failed = done(&failed, decision(1, DeciderKind::Table, reassign("cso")), NOW);
        assert_eq!((failed.was_tried(), failed.since), (true, Some(NOW)), "moved before its backoff was over");
        let dead = done(&fresh(Effect::Mutation), give_up(&fresh(Effect::Mutation)), NOW);
        assert!(done(&dead, decision(1, DeciderKind::Table, reassign("cso")), NOW).was_tried(), "a dead letter");
    }

    #[test]
    fn no_delivery_begins_after_the_deadline() {
        let task = Task { deadline: Some(LATER), priority: Priority::Low, ..task(NOW) };
        let record = Record::new(task, Integration::new("anthropic").expect("a name"), NOW).0;
        assert!(apply(&record, claim_command(), Timestamp::from_millis(59_999)).is_ok());
        assert_eq!(apply(&record, claim_command(), LATER), Err(Refused::PastDeadline { deadline: LATER }));
    }

    #[test]
    fn what_is_said_under_a_lease_of_another_run_is_stale() {
        let running = running_one(Effect::Mutation);
        let ack = settle(1, Settlement::Ack { answer: Value::Null });
        assert_eq!(of_this_run(&running, &ack, 1), Ok(()));
        assert_eq!(of_this_run(&running, &ack, 2), Err(Refused::Stale { said: 1, current: 1 }));
        let lapse = Command::Lapse { fence: 1, settlement: dead(), spent: Spent::default() };
        assert_eq!(of_this_run(&running, &lapse, 2), Ok(()), "the team may still say that it is over");
    }
}
