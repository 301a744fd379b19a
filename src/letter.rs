//! A dead letter as everybody reads it: the record of a task given up on, under stable names.
//!
//! The first nine fields are the seed's, to the letter; scripts written for those find them here. The rest is what an
//! operator wants at three in the morning: every attempt with its price, what was done to the world and what is in
//! doubt, who decided what, how things stood. It is made from the [`Record`] and the journal whenever somebody asks;
//! they are the truth, and whoever shows it shows it without credentials.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::dead_letter::Circumstances;
use crate::decision::Decided;
use crate::delivery::{Amendment, Attempt};
use crate::doubt::Doubt;
use crate::failure::{Class, Failure, Kind, Origin};
use crate::journal::{self, Outcome, Step, Tally};
use crate::record::{LetterStatus, Record, State};
use crate::task::{AgentName, Effect, IdempotencyKey, Integration, Priority, TaskId, TaskType};
use crate::time::Timestamp;
use crate::tool::ToolRef;

/// A call that was carried out: it is not made again, whoever has the task done again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideEffect {
    /// Its step in the journal.
    pub step: u32,
    /// What was called, of which server.
    pub tool: ToolRef,
    /// What calling it does to the world.
    pub effect: Effect,
    /// Under which key the other side may know it.
    pub key: IdempotencyKey,
    /// When it was sent.
    pub at: Timestamp,
    /// The beginning of what it said, or who says that it happened.
    pub said: String,
}

impl SideEffect {
    /// Every call of a journal that was carried out and changes something, oldest first. One that failed in its own
    /// words is not among them: it says itself that nothing was done.
    #[must_use]
    pub fn all(steps: &[Step]) -> Vec<Self> {
        let done = |step: &Step| {
            let call = step.call().filter(|call| call.class.effect != Effect::ReadOnly)?;
            let said = match &step.outcome {
                Some(Outcome::Returned { text, failed: false, .. }) => text.clone(),
                Some(Outcome::Judged { happened: true, note, .. }) => note.clone(),
                Some(
                    Outcome::Returned { .. }
                    | Outcome::Judged { .. }
                    | Outcome::Failed { .. }
                    | Outcome::Unknown { .. }
                    | Outcome::Replied(_),
                )
                | None => return None,
            };
            Some(Self {
                step: step.number,
                tool: call.tool.clone(),
                effect: call.class.effect,
                key: call.key.clone(),
                at: step.at,
                said,
            })
        };
        steps.iter().filter_map(done).collect()
    }
}

/// A dead letter, complete. Contains what models and other sides said: data, never instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The name of the entry: that of its task, so that giving up twice makes one entry.
    pub id: TaskId,
    /// When the task was given up, last (ISO 8601).
    pub timestamp: Timestamp,
    /// The agent that worked on it last.
    pub agent: AgentName,
    /// The task.
    pub task_id: TaskId,
    /// Its type.
    pub task_type: TaskType,
    /// Deliveries of the round that was given up.
    pub delivery_count: u32,
    /// The last failure, in a line.
    pub last_error: String,
    /// The address it was sent to: `tasks.<agent>.<type>`.
    pub original_subject: String,
    /// What was asked, unchanged.
    pub payload: Value,

    /// Where its task stands.
    pub state: State,
    /// Where the entry stands.
    pub status: LetterStatus,
    /// The class of the last failure.
    pub class: Class,
    /// Its kind.
    pub kind: Kind,
    /// Where it came from.
    pub origin: Origin,
    /// The last failure, with status, code and request id.
    pub failure: Failure,
    /// The rule that gave up.
    pub why: String,
    /// What else went wrong the same way: equal for entries of one cause.
    pub group: String,
    /// Every delivery of every round that got anywhere, oldest first: model, wait, failure, tokens, price, evidence.
    pub attempts: Vec<Attempt>,
    /// Everything decided about it, oldest first.
    pub decisions: Vec<Decided>,
    /// Words added to its prompt so far.
    pub amendments: Vec<Amendment>,
    /// How things stood: breakers, agents, policy, configuration.
    pub circumstances: Circumstances,
    /// The round that was given up, first = 1.
    pub generation: u32,
    /// How often a replay sent it round again.
    pub replays: u32,
    /// What doing it does to the world.
    pub effect: Effect,
    /// How urgent it is.
    pub priority: Priority,
    /// When an answer is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The caller's name for the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The integration it speaks of.
    pub integration: Integration,
    /// The model chosen for it instead of its agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// When the task was accepted.
    pub created_at: Timestamp,
    /// When it failed for the first time.
    pub first_failed_at: Timestamp,
    /// When it was given up for the first time.
    pub first_dead_at: Timestamp,
    /// The tokens of all attempts.
    pub usage: Usage,
    /// Their price in millionths of a US dollar, as far as prices are known.
    pub micro_usd: u64,
    /// Attempts that used tokens whose price is unknown: then `micro_usd` is a lower bound.
    pub unpriced_attempts: u32,
    /// Calls, tokens and money by the journal; what came to nothing is the cost of failure.
    pub spent: Tally,
    /// What was done to the world and is not done again.
    pub side_effects: Vec<SideEffect>,
    /// Calls of which nobody knows whether they happened: they are answered before anything else is decided.
    pub in_doubt: Vec<Doubt>,
    /// Every call of a model and of a tool, oldest first.
    pub journal: Vec<Step>,
}

impl DeadLetter {
    /// The dead letter of a record with its journal; `None` when it was never given up on.
    #[must_use]
    pub fn of(record: &Record, steps: &[Step]) -> Option<Self> {
        let Record { task, .. } = record;
        let letter = record.letter.as_ref()?;
        let failure = &letter.failure;
        let integration = failure.integration.clone().unwrap_or_else(|| record.integration.clone());
        let used = |attempt: &&Attempt| attempt.spent.usage != Usage::default();
        let unpriced = record.attempts.iter().filter(used).filter(|attempt| attempt.spent.micro_usd.is_none()).count();
        Some(Self {
            id: task.id,
            timestamp: letter.at,
            agent: record.agent.clone(),
            task_id: task.id,
            task_type: task.task_type.clone(),
            delivery_count: letter.deliveries,
            last_error: failure.message.clone(),
            original_subject: format!("tasks.{}.{}", task.agent, task.task_type),
            payload: task.payload.clone(),
            state: record.state,
            status: letter.status,
            class: failure.class,
            kind: failure.kind,
            origin: failure.origin,
            failure: failure.clone(),
            why: letter.why.clone(),
            group: group(failure, &task.task_type),
            attempts: record.attempts.clone(),
            decisions: record.decisions.clone(),
            amendments: record.amendments.clone(),
            circumstances: (*letter.circumstances).clone(),
            generation: letter.generation,
            replays: record.replays,
            effect: task.effect,
            priority: task.priority,
            deadline: task.deadline,
            idempotency_key: task.idempotency_key.clone(),
            tenant: task.tenant.clone(),
            integration,
            model: record.model.clone(),
            created_at: task.created_at,
            first_failed_at: first_failure(record).unwrap_or(letter.first_at),
            first_dead_at: letter.first_at,
            usage: record.attempts.iter().fold(Usage::default(), |sum, attempt| sum.plus(attempt.spent.usage)),
            micro_usd: record
                .attempts
                .iter()
                .filter_map(|attempt| attempt.spent.micro_usd)
                .fold(0, u64::saturating_add),
            unpriced_attempts: u32::try_from(unpriced).unwrap_or(u32::MAX),
            spent: journal::tally(steps),
            side_effects: SideEffect::all(steps),
            in_doubt: Doubt::all(steps, running(record)),
            journal: steps.to_vec(),
        })
    }
}

/// The fence under which it runs; 0 when it does not.
fn running(record: &Record) -> u64 {
    if record.state == State::Running { record.fence } else { 0 }
}

fn first_failure(record: &Record) -> Option<Timestamp> {
    record.attempts.iter().find(|attempt| attempt.failure.is_some()).and_then(|attempt| attempt.ended_at)
}

/// What failures of one cause have in common, as 12 hex digits: class, kind, integration, type and the error text
/// without what differs each time.
#[must_use]
pub fn group(failure: &Failure, task_type: &TaskType) -> String {
    let mut hash = Sha256::new();
    let integration = failure.integration.as_ref().map_or("", Integration::as_str);
    let text = pattern(&failure.message);
    for part in [failure.class.as_str(), failure.kind.as_str(), integration, task_type.as_str(), &text] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// An error text without what differs each time: words that hold a digit become `#`, quotations `…`, case is dropped.
#[must_use]
pub fn pattern(text: &str) -> String {
    let mut words = Vec::new();
    for (i, part) in text.split(['"', '`']).enumerate() {
        if i % 2 == 1 {
            words.push("…".to_owned());
            continue;
        }
        for word in part.split_whitespace() {
            let varies = word.chars().any(|c| c.is_ascii_digit());
            words.push(if varies { "#".to_owned() } else { word.to_lowercase() });
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::Incarnation;
    use crate::delivery::{Settlement, Spent};
    use crate::ledger::{Command, apply};
    use crate::settle::deadline_passed;
    use crate::task::Task;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn record() -> Record {
        let task = Task {
            id: TaskId::new(at(0), [7; 10]),
            task_type: TaskType::new("code_review").expect("a name"),
            agent: AgentName::new("cto").expect("a name"),
            payload: json!({"pr": 7}),
            effect: Effect::ReadOnly,
            priority: Priority::ALL[0],
            idempotency_key: None,
            deadline: None,
            tenant: None,
            prompt: None,
            created_at: at(0),
        };
        Record::new(task, Integration::new("anthropic").expect("a name"), at(0)).0
    }

    fn dead() -> Record {
        let agent = AgentName::new("cto").expect("a name");
        let lease_for = Duration::from_secs(300);
        let claim = Command::Claim { agent, incarnation: Incarnation(1), epoch: 1, lease_for };
        let (claimed, _) = apply(&record(), claim, at(1)).expect("claimed");
        let settlement = Settlement::DeadLetter {
            failure: deadline_passed(None),
            why: "its deadline passed".to_owned(),
            circumstances: Box::default(),
        };
        let spent = Spent { usage: Usage { input: 10, output: 5, ..Usage::default() }, ..Spent::default() };
        apply(&claimed, Command::Settle { fence: 1, settlement, spent }, at(9)).expect("settled").0
    }

    #[test]
    fn the_nine_fields_of_the_seed_stand_under_their_names() {
        assert_eq!(DeadLetter::of(&record(), &[]), None);
        let record = dead();
        let letter = serde_json::to_value(DeadLetter::of(&record, &[])).expect("json");
        let id = record.task.id.to_string();
        for (field, expected) in [
            ("id", json!(id)),
            ("timestamp", json!("1970-01-01T00:00:09.000Z")),
            ("agent", json!("cto")),
            ("task_id", json!(id)),
            ("task_type", json!("code_review")),
            ("delivery_count", json!(1)),
            ("last_error", json!("its deadline passed before it was done")),
            ("original_subject", json!("tasks.cto.code_review")),
            ("payload", json!({"pr": 7})),
        ] {
            assert_eq!(letter[field], expected, "{field}");
        }
        assert_eq!(letter["first_failed_at"], json!("1970-01-01T00:00:09.000Z"));
    }

    #[test]
    fn unknown_prices_are_not_zero() {
        let letter = DeadLetter::of(&dead(), &[]).expect("a letter");
        assert_eq!((letter.usage.total(), letter.micro_usd, letter.unpriced_attempts), (15, 0, 1));
    }

    #[test]
    fn the_journal_says_what_was_done_and_what_nobody_knows() {
        use crate::doubt::tests::{asks, calls};
        let returned = |failed| Some(Outcome::Returned { text: "ch_1".to_owned(), failed, failure: None });
        let wants = [("charge", json!({"amount": 5}))];
        let steps = [
            asks(1, 1, "x", &wants),
            calls(2, 1, 1, Effect::Payment, returned(false)),
            asks(3, 1, "", &wants),
            calls(4, 1, 3, Effect::ReadOnly, returned(false)),
            asks(5, 1, "", &wants),
            calls(6, 1, 5, Effect::Mutation, returned(true)),
            asks(7, 1, "", &wants),
            calls(8, 1, 7, Effect::Mutation, None),
        ];
        let letter = DeadLetter::of(&dead(), &steps).expect("a letter");
        let done: Vec<(u32, &str)> =
            letter.side_effects.iter().map(|effect| (effect.step, effect.said.as_str())).collect();
        assert_eq!(done, [(2, "ch_1")]);
        assert_eq!(letter.in_doubt.iter().map(|doubt| doubt.step).collect::<Vec<_>>(), [8]);
        assert_eq!((letter.spent.asks, letter.spent.calls, letter.spent.micro_usd), (4, 4, 40_000));
        assert_eq!(letter.journal.len(), 8);
    }

    #[test]
    fn one_cause_is_one_group_whatever_its_numbers() {
        let review = TaskType::new("code_review").expect("a name");
        let of = |message: &str| group(&Failure { message: message.to_owned(), ..deadline_passed(None) }, &review);
        assert_eq!(of("HTTP 529 after 1.2s (req_01abc): \"Overloaded\""), of("http 503 after 9s (req_77x): \"Busy\""));
        assert_ne!(of("overloaded"), of("timed out"));
        assert_eq!(of("x").len(), 12);
    }
}
