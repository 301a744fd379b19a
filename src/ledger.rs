//! The record of a task, and the one function that changes it.
//!
//! Every engine stores, finds and orders records in its own way; none decides what a command means. The
//! compare-and-set that protects an [`apply`] is the fence for everything said under a lease, and the generation for
//! everything decided about a dead letter.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Incarnation, ModelRef};
use crate::dead_letter::Circumstances;
use crate::delivery::{Amendment, AmendmentSource, Attempt, AttemptEnd, Hold, Lease, Parking, Settlement, Spent};
use crate::event::{Happening, NewEvent};
use crate::failure::Failure;
use crate::task::{AgentName, Effect, Integration, Task, words};
use crate::time::Timestamp;
use crate::triage::{Decided, DeciderKind, Decision};

words! {
    /// Where a task stands. Every accepted task is in exactly one of these.
    State, "state", "ready, scheduled, parked, running, done, dead, waiting-human, cancelled" {
        /// May be claimed now.
        Ready = "ready",
        /// May be claimed when it is due (a retry waits).
        Scheduled = "scheduled",
        /// Waits for its integration without spending a delivery.
        Parked = "parked",
        /// Leased to an agent.
        Running = "running",
        /// Done: its answer is stored.
        Done = "done",
        /// In the dead letter queue.
        Dead = "dead",
        /// A person is asked.
        WaitingHuman = "waiting-human",
        /// Cancelled by a person.
        Cancelled = "cancelled",
    }
}

words! {
    /// Where a dead letter stands.
    LetterStatus, "dead letter status", "open, sent-again, with-human, resolved, discarded" {
        /// Nobody has decided yet.
        Open = "open",
        /// Retried, reassigned or replayed.
        SentAgain = "sent-again",
        /// A person is asked.
        WithHuman = "with-human",
        /// Done after all, by a later round or by other means.
        Resolved = "resolved",
        /// Given up for good.
        Discarded = "discarded",
    }
}

/// The last time a task was given up on. Kept when it is sent again: the entry stays the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Where it stands.
    pub status: LetterStatus,
    /// When it was given up, last.
    pub at: Timestamp,
    /// When it was given up, first.
    pub first_at: Timestamp,
    /// In which round, last.
    pub generation: u32,
    /// Deliveries of that round.
    pub deliveries: u32,
    /// Why it failed.
    pub failure: Failure,
    /// Which rule gave up.
    pub why: String,
    /// How things stood.
    pub circumstances: Box<Circumstances>,
}

/// Everything known of a task: what was asked, and all that has happened to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked.
    pub task: Task,
    /// Where it stands.
    pub state: State,
    /// Whose turn it is: the agent addressed, or the one it was reassigned to.
    pub agent: AgentName,
    /// The model chosen for it instead of its agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// The integration its next delivery will call.
    pub integration: Integration,
    /// Its round: 1, and one more each time a decision or replay sends it again.
    pub generation: u32,
    /// Deliveries claimed in this round and not given back.
    pub attempt: u32,
    /// The fence of the last claim; only grows.
    pub fence: u64,
    /// When it may next be claimed.
    pub due: Timestamp,
    /// Who holds it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Why it waits, since it was last begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parking: Option<Parking>,
    /// Words added to its prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amendments: Vec<Amendment>,
    /// Every delivery, of every round, oldest first. Those given back unworked are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The answer, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// When it came to an end (done, dead, cancelled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The last time it was given up on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Letter>,
    /// Everything decided about it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decided>,
    /// How often a replay has sent it again.
    #[serde(default)]
    pub replays: u32,
    /// When it last changed.
    pub updated_at: Timestamp,
}

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
    /// It waits for its integration, without having been claimed.
    Park {
        /// Until when.
        until: Timestamp,
        /// What for.
        why: Hold,
    },
    /// It waited too long, or its deadline passed, without being claimed: to the dead letter queue.
    GiveUp {
        /// Why.
        failure: Failure,
        /// Which rule.
        why: String,
        /// How things stand.
        circumstances: Box<Circumstances>,
    },
    /// Somebody decided about its dead letter.
    Decide {
        /// What, by whom and why.
        decided: Decided,
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
    /// The decision answers another round.
    #[error("the task is in round {current}; this decision answers round {said}")]
    OtherRound {
        /// The round answered.
        said: u32,
        /// The round it is in.
        current: u32,
    },
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

    /// May it be claimed now?
    #[must_use]
    pub fn claimable(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Ready | State::Scheduled | State::Parked) && self.due <= now
    }

    /// The delivery running now.
    #[must_use]
    pub fn running_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.end.is_none())
    }

    /// The deliveries of the current round that count, oldest first.
    pub fn round(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.generation == self.generation)
    }

    fn event(&self, what: Happening) -> NewEvent {
        NewEvent { task: Some(self.task.id), what }
    }

    fn parked_until(&mut self, until: Timestamp, why: Hold, now: Timestamp) -> NewEvent {
        let integration = matches!(why, Hold::BreakerOpen | Hold::Gate | Hold::IntegrationParked | Hold::RetryBudget)
            .then(|| self.integration.clone());
        let since = self.parking.as_ref().map_or(now, |parking| parking.since);
        self.state = State::Parked;
        self.due = until;
        self.parking = Some(Parking { why, integration: integration.clone(), since });
        self.event(Happening::Parked {
            agent: self.agent.clone(),
            task_type: self.task.task_type.clone(),
            why,
            integration,
            until,
        })
    }

    fn send_again(&mut self, due: Timestamp, now: Timestamp) {
        self.generation += 1;
        self.attempt = 0;
        self.due = due;
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
        self.due = now;
        self.parking = None;
        self.ended_at = Some(now);
        let event = self.event(Happening::DeadLettered {
            agent: self.agent.clone(),
            task_type: self.task.task_type.clone(),
            generation: self.generation,
            attempts: self.attempt,
            failure: failure.clone(),
            why: why.clone(),
            usage: spent.usage,
            micro_usd: spent.micro_usd,
        });
        self.letter = Some(Letter {
            status: LetterStatus::Open,
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
        Command::Park { until, why } => {
            waiting(&next)?;
            vec![next.parked_until(until, why, now)]
        }
        Command::GiveUp { failure, why, circumstances } => {
            waiting(&next)?;
            vec![next.give_up(failure, why, circumstances, &Spent::default(), now)]
        }
        Command::Decide { decided, integration } => decide(&mut next, decided, integration, now)?,
        Command::Replay { by, named_by_person, reason, amendment } => {
            replay(&mut next, by, named_by_person, reason, amendment, now)?
        }
        Command::Cancel { by, reason } => cancel(&mut next, by, reason, now)?,
    };
    Ok((next, events))
}

fn running(record: &Record, fence: u64) -> Result<&Lease, Refused> {
    match &record.lease {
        Some(lease) if record.state == State::Running && lease.fence == fence => Ok(lease),
        Some(_) | None => Err(Refused::Stale { said: fence, current: record.fence }),
    }
}

/// A lease is void at `now >= deadline`, even before anybody noticed.
fn held(record: &Record, fence: u64, now: Timestamp) -> Result<(), Refused> {
    match running(record, fence)?.deadline > now {
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
    record.attempt += 1;
    record.fence += 1;
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
    let end = |record: &mut Record, end: AttemptEnd, failure: Option<Failure>| {
        if let Some(attempt) = record.attempts.last_mut() {
            attempt.ended_at = Some(now);
            attempt.end = Some(end);
            attempt.failure = failure;
            attempt.spent = spent.clone();
        }
    };
    match settlement {
        Settlement::Ack { answer } => {
            end(record, AttemptEnd::Done, None);
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
            end(record, AttemptEnd::Retry, Some(failure.clone()));
            record.state = if due <= now { State::Ready } else { State::Scheduled };
            record.due = due;
            record.parking = None;
            let amended = amendment.is_some();
            record.amendments.extend(amendment);
            vec![record.event(Happening::RetryScheduled {
                agent,
                task_type,
                attempt: record.attempt,
                due,
                failure,
                amended,
                usage: spent.usage,
                micro_usd: spent.micro_usd,
            })]
        }
        Settlement::Release { due, why, failure } => {
            record.attempt = record.attempt.saturating_sub(1);
            match failure {
                // It found out by a real call: keep what was seen and what it cost, though it does not count.
                Some(failure) => end(record, AttemptEnd::Released, Some(failure)),
                None => drop(record.attempts.pop()),
            }
            let released = record.event(Happening::Released { agent, task_type, why, due });
            match why {
                Hold::Drain => {
                    record.state = if due <= now { State::Ready } else { State::Scheduled };
                    record.due = due;
                    vec![released]
                }
                Hold::BreakerOpen | Hold::Gate | Hold::RetryBudget | Hold::IntegrationParked | Hold::Paused => {
                    vec![released, record.parked_until(due, why, now)]
                }
            }
        }
        Settlement::DeadLetter { failure, why, circumstances } => {
            end(record, AttemptEnd::DeadLetter, Some(failure.clone()));
            vec![record.give_up(failure, why, circumstances, &spent, now)]
        }
    }
}

fn decide(
    record: &mut Record,
    mut decided: Decided,
    integration: Integration,
    now: Timestamp,
) -> Result<Vec<NewEvent>, Refused> {
    let by_person = decided.by == DeciderKind::Human;
    let open = match record.state {
        State::Dead => record.letter.as_ref().is_some_and(|letter| letter.status == LetterStatus::Open) || by_person,
        State::WaitingHuman => by_person,
        State::Ready | State::Scheduled | State::Parked | State::Running | State::Done | State::Cancelled => false,
    };
    if !open {
        return Err(Refused::WrongState {
            state: record.state,
            needs: "only an open dead letter can be decided about, and only by a person once a person is asked",
        });
    }
    if decided.generation != record.generation {
        return Err(Refused::OtherRound { said: decided.generation, current: record.generation });
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
            record.parking = Some(Parking { why: Hold::Paused, integration: None, since: now });
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
        Decision::Discard { .. } | Decision::Park { .. } => {}
        Decision::RetryOnFallback { .. } | Decision::RetryAfterCheck { .. } | Decision::Reassign { .. } => {
            if record.task.effect == Effect::Payment {
                return Err(Refused::PaymentNeedsPerson);
            }
        }
    }
    let automatic = record.decisions.iter().filter(|decided| decided.by != DeciderKind::Human);
    if automatic.clone().count() >= DECISIONS_MAX {
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
        (a, b) => a.kind() == b.kind(),
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
    match record.state {
        State::Dead | State::WaitingHuman => {}
        State::Ready | State::Scheduled | State::Parked | State::Running | State::Done | State::Cancelled => {
            return Err(Refused::WrongState { state: record.state, needs: "only a dead letter can be replayed" });
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

/// How many accepted tasks stand where. The equation of the promise: nothing is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Accepted, ever.
    pub submitted: u64,
    /// Ready, scheduled or parked.
    pub waiting: u64,
    /// Leased.
    pub running: u64,
    /// Parked among the waiting.
    pub parked: u64,
    /// Scheduled among the waiting.
    pub retrying: u64,
    /// Done.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// With a person.
    pub waiting_human: u64,
    /// Cancelled.
    pub cancelled: u64,
}

impl Balance {
    /// Accepted tasks that are nowhere: zero, or the promise is broken.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.submitted
            .saturating_sub(self.waiting + self.running + self.done + self.dead + self.waiting_human + self.cancelled)
    }

    /// Has everything come to an end or to a person?
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    /// Counts one record.
    pub fn add(&mut self, state: State) {
        self.submitted += 1;
        match state {
            State::Ready => self.waiting += 1,
            State::Scheduled => {
                self.waiting += 1;
                self.retrying += 1;
            }
            State::Parked => {
                self.waiting += 1;
                self.parked += 1;
            }
            State::Running => self.running += 1,
            State::Done => self.done += 1,
            State::Dead => self.dead += 1,
            State::WaitingHuman => self.waiting_human += 1,
            State::Cancelled => self.cancelled += 1,
        }
    }
}
