//! The journal of a task: every call of a model and of a tool as one durable step, intent before, outcome after.
//!
//! Here is what a step is, and the one function that writes one ([`write()`]): every engine stores and finds journals in its
//! own way, and none decides what may be written. Where the work stands, read from a journal, is in `stand.rs`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::conversation::{Compaction, Message, Opaque, ToolCall};
use crate::event::Happening;
use crate::failure::Failure;
use crate::ledger::{self, Command, Refused};
use crate::record::{Record, State};
use crate::task::{AgentName, Effect, IdempotencyKey, TaskId, words};
use crate::time::Timestamp;
use crate::tool::{CallClass, Repeat, ToolRef};

/// One step: what was about to be done, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its number in the journal of its task, first = 1.
    pub number: u32,
    /// In which round.
    pub generation: u32,
    /// In which delivery of that round.
    pub attempt: u32,
    /// Under which fence: which delivery, over all rounds.
    pub fence: u64,
    /// By whom.
    pub agent: AgentName,
    /// When its intent was written: durable before anything was sent.
    pub at: Timestamp,
    /// What was about to be done.
    pub intent: Intent,
    /// What came of it; absent while it runs, and for ever when whoever did it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What the limits of money count for it, in millionths of a US dollar: its worst while nothing is known.
    #[serde(default)]
    pub counted: u64,
    /// Why its answer was not accepted, when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its answer came when the work had gone on without it: paid for, and no part of the conversation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// What is about to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "kebab-case")]
pub enum Intent {
    /// A model is asked.
    Ask(Box<Ask>),
    /// A tool is called, as a model wanted.
    Call(Call),
    /// A read-only look whether another call happened.
    Probe {
        /// The step in doubt.
        of: u32,
        /// What is asked.
        tool: ToolRef,
        /// With these arguments.
        arguments: Value,
    },
}

/// A call of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Which.
    pub model: ModelRef,
    /// What for.
    #[serde(default, skip_serializing_if = "Purpose::is_work")]
    pub purpose: Purpose,
    /// SHA-256 of the request, in hexadecimal.
    pub hash: String,
    /// Does the conversation begin anew here? Then nothing before counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// The system prompt, where it is another than that of the call before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What is said that was not said before: the prompt, a correction, an amendment. Results of tools are not repeated
    /// here, they are in their own steps.
    pub said: Vec<Message>,
    /// How many of the words added to the task (its amendments) the conversation knows after this.
    #[serde(default)]
    pub amended: u32,
    /// What was taken out so that it fits this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
}

words! {
    /// What a model is asked for.
    #[derive(Default)]
    Purpose, "purpose", "work, verify" {
        /// The task itself.
        #[default]
        Work = "work",
        /// To judge another agent's answer.
        Verify = "verify",
    }
}

impl Purpose {
    /// Is it the task itself?
    #[must_use]
    pub const fn is_work(&self) -> bool {
        matches!(self, Self::Work)
    }
}

/// A call of a tool. Its arguments stand in the answer that asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The step whose answer wants it.
    pub ask: u32,
    /// Its place among the calls of that answer, first = 0.
    pub index: u32,
    /// What is called.
    pub tool: ToolRef,
    /// What that does, as it was known then.
    pub class: CallClass,
    /// Under which key the other side may know it again: the same however often it is made.
    pub key: IdempotencyKey,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A model answered.
    Replied(Box<Replied>),
    /// A tool said something; perhaps that it failed, which is the model's to deal with.
    Returned {
        /// What it said, as the model is told.
        text: String,
        /// Did it fail?
        #[serde(default)]
        failed: bool,
        /// The judgement on that, when it is ours and not the tool's own word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// Nothing came of it: a model did not answer; a call did not happen, or only reads.
    Failed {
        /// Why.
        failure: Failure,
        /// Tokens of a model that were reported all the same.
        #[serde(default)]
        usage: Usage,
        /// Their price in millionths of a US dollar, if it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        micro_usd: Option<u64>,
    },
    /// Nobody knows whether the call happened. One that the other side knows by its key is made again all the same.
    Unknown {
        /// What was seen.
        failure: Failure,
    },
    /// Somebody found out whether it happened.
    Judged {
        /// Did it?
        happened: bool,
        /// Who says so.
        by: Judge,
        /// What they saw or say; told to the model.
        note: String,
    },
}

/// A model's answer, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replied {
    /// Its words.
    pub text: String,
    /// The tools it wants called, under their names in the conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// What only its vendor understands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<Opaque>,
    /// The model, as it names itself.
    pub model: String,
    /// The raw stop reason.
    pub stop: String,
    /// The provider's name for the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// Their price in millionths of a US dollar; absent when it is unknown, which is not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd: Option<u64>,
}

/// Who found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "judge", rename_all = "kebab-case")]
pub enum Judge {
    /// The declared probe, in this step.
    Probe {
        /// Its number.
        step: u32,
    },
    /// A person.
    Person {
        /// Their name.
        who: String,
    },
}

/// What is written into a journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A new step: what is about to be done, and the worst it may cost in millionths of a US dollar.
    Intend {
        /// What.
        intent: Intent,
        /// The worst it may cost.
        worst: u64,
    },
    /// What came of a step, and what the limits of money count for it now.
    Conclude {
        /// Which.
        step: u32,
        /// What.
        outcome: Outcome,
        /// What counts.
        counted: u64,
    },
    /// Its answer was not accepted.
    Refuse {
        /// Which.
        step: u32,
        /// Why.
        why: String,
    },
    /// A person says whether a call in doubt happened.
    Judge {
        /// Which.
        step: u32,
        /// Did it?
        happened: bool,
        /// Who says so.
        who: String,
        /// What they saw.
        note: String,
    },
}

/// What is written at once: all of it or nothing, durable before anything is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Under which fence it is said; not looked at for what a person says.
    pub fence: u64,
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// What is told to everybody with it.
    pub events: Vec<Happening>,
    /// What becomes of the delivery or the dead letter with it.
    pub command: Option<Command>,
}

/// What an engine must know of a journal to write into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The number of the last step; 0 for none.
    pub step: u32,
    /// The number of the last call of a model for the task itself; 0 for none.
    pub ask: u32,
}

impl Entry {
    /// The steps it changes, which [`write()`] must be given.
    pub fn changes(&self) -> impl Iterator<Item = u32> {
        self.lines.iter().filter_map(|line| match line {
            Line::Conclude { step, .. } | Line::Refuse { step, .. } | Line::Judge { step, .. } => Some(*step),
            Line::Intend { .. } => None,
        })
    }
}

/// Writes lines: the steps as they are now, new and changed. The record is the task's as it stands before the entry's
/// own command.
///
/// An intent needs the lease. What came of a step is taken also from a delivery that has lost its lease: it can neither
/// complete nor acknowledge the task, but what it knows is true.
///
/// # Errors
/// [`Refused`], saying what stands against it; then nothing is written.
pub fn write(
    record: &Record,
    found: &[Step],
    end: End,
    entry: &Entry,
    epoch: u64,
    now: Timestamp,
) -> Result<Vec<Step>, Refused> {
    let mut end = end;
    let mut changed: Vec<Step> = Vec::new();
    for line in &entry.lines {
        let step = match line {
            Line::Intend { intent, worst } => {
                ledger::holds(record, entry.fence, epoch, now)?;
                end.step += 1;
                if let Intent::Ask(ask) = intent
                    && ask.purpose.is_work()
                {
                    end.ask = end.step;
                }
                Step {
                    number: end.step,
                    generation: record.generation,
                    attempt: record.attempt,
                    fence: entry.fence,
                    agent: record.agent.clone(),
                    at: now,
                    intent: intent.clone(),
                    outcome: None,
                    ended_at: None,
                    counted: *worst,
                    refused: None,
                    late: false,
                }
            }
            Line::Conclude { step, outcome, counted } => {
                let before = known(&changed, found, *step)?;
                let late = matches!(&before.intent, Intent::Ask(ask) if ask.purpose.is_work()) && end.ask > *step;
                match before.in_the_open() {
                    true => Step {
                        outcome: Some(outcome.clone()),
                        ended_at: Some(now),
                        counted: *counted,
                        late,
                        ..before.clone()
                    },
                    // Said twice, as after a write of which nobody knew whether it was taken, it is still the same.
                    false if before.outcome.as_ref() == Some(outcome) => before.clone(),
                    false => return Err(Refused::Concluded { step: *step }),
                }
            }
            Line::Refuse { step, why } => Step { refused: Some(why.clone()), ..known(&changed, found, *step)?.clone() },
            Line::Judge { step, happened, who, note } => {
                let before = known(&changed, found, *step)?;
                if record.state == State::Running {
                    let needs = "it is running; what came of its calls is known when it has ended";
                    return Err(Refused::WrongState { state: record.state, needs });
                }
                if !before.in_doubt(0) {
                    return Err(Refused::Concluded { step: *step });
                }
                let by = Judge::Person { who: who.clone() };
                let outcome = Outcome::Judged { happened: *happened, by, note: note.clone() };
                Step { outcome: Some(outcome), ended_at: Some(now), ..before.clone() }
            }
        };
        match changed.iter_mut().find(|other| other.number == step.number) {
            Some(other) => *other = step,
            None => changed.push(step),
        }
    }
    Ok(changed)
}

fn known<'a>(changed: &'a [Step], found: &'a [Step], number: u32) -> Result<&'a Step, Refused> {
    let mut all = changed.iter().chain(found);
    all.find(|step| step.number == number).ok_or(Refused::NoStep { step: number })
}

impl Step {
    /// May an outcome still be written? Until one is known.
    fn in_the_open(&self) -> bool {
        matches!(self.outcome, None | Some(Outcome::Unknown { .. }))
    }

    /// The call it is, if it is one.
    #[must_use]
    pub const fn call(&self) -> Option<&Call> {
        match &self.intent {
            Intent::Call(call) => Some(call),
            Intent::Ask(_) | Intent::Probe { .. } => None,
        }
    }

    /// The call of a model it is, if it is one.
    #[must_use]
    pub fn ask(&self) -> Option<&Ask> {
        match &self.intent {
            Intent::Ask(ask) => Some(ask),
            Intent::Call(_) | Intent::Probe { .. } => None,
        }
    }

    /// The answer of a model, if it is one.
    #[must_use]
    pub fn reply(&self) -> Option<&Replied> {
        match &self.outcome {
            Some(Outcome::Replied(reply)) => Some(reply),
            Some(
                Outcome::Returned { .. } | Outcome::Failed { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. },
            )
            | None => None,
        }
    }

    /// Is it a call of a tool of which it is not known whether it happened, and that may not simply be made again?
    /// Steps of the delivery with fence `running` are under way, not in doubt; 0 when none runs.
    #[must_use]
    pub fn in_doubt(&self, running: u64) -> bool {
        let Some(call) = self.call() else { return false };
        let payment = call.class.effect == Effect::Payment;
        match &self.outcome {
            None => self.fence != running && call.class.repeat == Repeat::Never,
            Some(Outcome::Unknown { .. }) => call.class.repeat == Repeat::Never,
            // Money that did not move is not moved again by itself, whoever says that it did not.
            Some(Outcome::Failed { .. }) => payment,
            Some(Outcome::Judged { happened, by: Judge::Probe { .. }, .. }) => payment && !happened,
            Some(Outcome::Judged { by: Judge::Person { .. }, .. } | Outcome::Returned { .. } | Outcome::Replied(_)) => {
                false
            }
        }
    }

    /// Tokens it used, as far as they were told.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.outcome {
            Some(Outcome::Replied(reply)) => reply.usage,
            Some(Outcome::Failed { usage, .. }) => *usage,
            Some(Outcome::Returned { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. }) | None => {
                Usage::default()
            }
        }
    }

    /// The price of these, if it is known.
    #[must_use]
    pub fn micro_usd(&self) -> Option<u64> {
        match &self.outcome {
            Some(Outcome::Replied(reply)) => reply.micro_usd,
            Some(Outcome::Failed { micro_usd, .. }) => *micro_usd,
            Some(Outcome::Returned { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. }) | None => None,
        }
    }
}

/// What a model wanted called in one round, oldest first, as loops are looked for in it: names, and arguments to the letter.
#[must_use]
pub fn wanted(steps: &[Step], generation: u32) -> Vec<(String, String)> {
    let replies = steps.iter().filter(|step| step.generation == generation && !step.late).filter_map(Step::reply);
    replies
        .flat_map(|reply| &reply.calls)
        .map(|call| (call.name.clone(), call.malformed.clone().unwrap_or_else(|| call.arguments.to_string())))
        .collect()
}

/// How often models were asked for a purpose in one round, with whatever result.
#[must_use]
pub fn asked(steps: &[Step], generation: u32, purpose: Purpose) -> u32 {
    let asks = steps.iter().filter(|step| step.generation == generation).filter_map(Step::ask);
    u32::try_from(asks.filter(|ask| ask.purpose == purpose).count()).unwrap_or(u32::MAX)
}

/// What a part of a journal used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls of models.
    pub asks: u32,
    /// Calls of tools, probes included.
    pub calls: u32,
    /// Tokens, as far as they were told.
    pub usage: Usage,
    /// Their price in millionths of a US dollar, as far as prices are known.
    pub micro_usd: u64,
    /// Calls of models whose price is unknown: then `micro_usd` is a lower bound.
    pub unpriced: u32,
    /// What the limits of money count, in millionths of a US dollar: lost answers at their worst.
    pub counted: u64,
    /// Tokens of answers that came to nothing: failed, refused or late.
    pub wasted: Usage,
    /// Their price, as far as it is known.
    pub wasted_micro_usd: u64,
}

/// Adds up steps.
pub fn tally<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Tally {
    let mut sum = Tally::default();
    for step in steps {
        match &step.intent {
            Intent::Ask(_) => sum.asks += 1,
            Intent::Call(_) | Intent::Probe { .. } => sum.calls += 1,
        }
        let (usage, price) = (step.usage(), step.micro_usd());
        sum.usage = sum.usage.plus(usage);
        sum.micro_usd = sum.micro_usd.saturating_add(price.unwrap_or(0));
        sum.counted = sum.counted.saturating_add(step.counted);
        // What was not told may have been billed, if the limits of money count it.
        let billed = usage.is_told() || (step.outcome.is_some() && step.counted > 0);
        if billed && price.is_none() {
            sum.unpriced += 1;
        }
        if step.late || step.refused.is_some() || step.reply().is_none() {
            sum.wasted = sum.wasted.plus(usage);
            sum.wasted_micro_usd = sum.wasted_micro_usd.saturating_add(price.unwrap_or(0));
        }
    }
    sum
}

/// Money counted for one step, as it is found again at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    /// When it was set aside.
    pub at: Timestamp,
    /// For which task.
    pub task: TaskId,
    /// By which agent.
    pub agent: AgentName,
    /// How much, in millionths of a US dollar.
    pub micro_usd: u64,
}
