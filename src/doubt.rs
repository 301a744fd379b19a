//! A call of which nobody knows whether it happened, with everything a person needs to say so.
//!
//! Read from the journal whenever somebody asks; [`crate::stand::in_doubt`] says which calls those are. What a tool was
//! given and what it said is data of others: whoever shows a doubt shows it [without credentials](Doubt::without_secrets).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::{Call, Intent, Judge, Outcome, Step};
use crate::redact::{Redactor, one_line};
use crate::stand;
use crate::task::{AgentName, Effect, IdempotencyKey, TaskId};
use crate::time::Timestamp;
use crate::tool::ToolRef;

/// A call in doubt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Doubt {
    /// Its step in the journal.
    pub step: u32,
    /// What was called, of which server.
    pub tool: ToolRef,
    /// What calling it does to the world.
    pub effect: Effect,
    /// With which arguments; `null` when the answer that wanted it is not in the journal.
    pub arguments: Value,
    /// Under which key the other side may know it.
    pub key: IdempotencyKey,
    /// When it was about to be sent.
    pub at: Timestamp,
    /// By whom.
    pub agent: AgentName,
    /// In which round.
    pub generation: u32,
    /// In which delivery of that round.
    pub attempt: u32,
    /// What was seen, and why that does not tell.
    pub why: String,
    /// What was looked at since, and what it said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<String>,
}

impl Doubt {
    /// The doubts of a journal. `running` as in [`Step::in_doubt`].
    #[must_use]
    pub fn all(steps: &[Step], running: u64) -> Vec<Self> {
        let of = |step: &Step| {
            let call = step.call()?;
            Some(Self {
                step: step.number,
                tool: call.tool.clone(),
                effect: call.class.effect,
                arguments: arguments_of(steps, call).cloned().unwrap_or(Value::Null),
                key: call.key.clone(),
                at: step.at,
                agent: step.agent.clone(),
                generation: step.generation,
                attempt: step.attempt,
                why: seen(step),
                looks: looks(steps, step.number),
            })
        };
        stand::in_doubt(steps, running).into_iter().filter_map(of).collect()
    }

    /// The same without credentials.
    #[must_use]
    pub fn without_secrets(self, redactor: &Redactor) -> Self {
        let clean = |text: &String| redactor.redact(text).into_owned();
        Self {
            arguments: redactor.value(&self.arguments),
            why: clean(&self.why),
            looks: self.looks.iter().map(clean).collect(),
            ..self
        }
    }

    /// It in a line: what, how, under which key, when, by whom and what was seen.
    #[must_use]
    pub fn line(&self) -> String {
        let looks: String = self.looks.iter().map(|look| format!("; {look}")).collect();
        format!(
            "step {}: {} ({}) with {} under key {}, sent {} by {} in attempt {} of round {}: {}{}",
            self.step,
            self.tool,
            self.effect,
            one_line(&self.arguments.to_string(), 300),
            self.key,
            self.at,
            self.agent,
            self.attempt,
            self.generation,
            one_line(&self.why, 300),
            one_line(&looks, 300),
        )
    }
}

/// The command that answers it. In brackets, so that a shell it is pasted into says no instead of answering.
#[must_use]
pub fn command(task: TaskId, step: Option<u32>) -> String {
    let step = step.map(|step| format!(" --step {step}")).unwrap_or_default();
    format!("backstop task outcome {task}{step} (--happened | --did-not-happen)")
}

/// Why nothing is done before these are answered.
#[must_use]
pub fn answer_first(task: TaskId, doubts: &[Doubt]) -> String {
    let named: Vec<String> = doubts.iter().map(|doubt| format!("step {} ({})", doubt.step, doubt.tool)).collect();
    let step = if doubts.len() > 1 { doubts.first().map(|doubt| doubt.step) } else { None };
    format!(
        "nobody knows whether {} happened; answer first: `{}`, and the task goes on by itself",
        named.join(" and "),
        command(task, step)
    )
}

/// The arguments of a call, out of the answer that wanted it.
#[must_use]
pub fn arguments_of<'a>(steps: &'a [Step], call: &Call) -> Option<&'a Value> {
    let reply = steps.iter().find(|step| step.number == call.ask)?.reply()?;
    reply.calls.get(usize::try_from(call.index).ok()?).map(|wanted| &wanted.arguments)
}

/// What was seen of a call in doubt.
fn seen(step: &Step) -> String {
    match &step.outcome {
        None => "whoever made it ended before anything was heard".to_owned(),
        Some(Outcome::Unknown { failure }) => failure.message.clone(),
        Some(Outcome::Failed { failure, .. }) => {
            format!("{}; money that did not move is moved again by a person only", failure.message)
        }
        Some(Outcome::Judged { happened: false, by: Judge::Probe { step }, note }) => {
            format!("a look (step {step}) says that it did not happen ({note}); money is moved again by a person only")
        }
        // These are not in doubt.
        Some(Outcome::Judged { note, .. }) => note.clone(),
        Some(Outcome::Returned { text, .. }) => text.clone(),
        Some(Outcome::Replied(_)) => String::new(),
    }
}

fn looks(steps: &[Step], of: u32) -> Vec<String> {
    let looked = steps.iter().filter_map(|step| match (&step.intent, &step.outcome) {
        (Intent::Probe { of: doubted, tool, .. }, Some(Outcome::Returned { text, .. })) if *doubted == of => {
            Some(format!("{tool} was asked (step {}) and said: {}", step.number, one_line(text, 300)))
        }
        (Intent::Probe { of: doubted, tool, .. }, Some(Outcome::Failed { failure, .. })) if *doubted == of => {
            Some(format!("{tool} was asked (step {}) and failed: {}", step.number, failure.message))
        }
        (Intent::Probe { .. } | Intent::Ask(_) | Intent::Call(_), _) => None,
    });
    looked.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::cause::Usage;
    use crate::conversation::{ToolCall, call_id};
    use crate::failure::Failure;
    use crate::journal::{Ask, Purpose, Replied};
    use crate::settle::deadline_passed;
    use crate::tool::{CallClass, Repeat, call_key};

    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    pub(crate) fn task() -> TaskId {
        TaskId::new(at(0), [7; 10])
    }

    pub(crate) fn failure(message: &str) -> Failure {
        Failure { message: message.to_owned(), ..deadline_passed(None) }
    }

    fn step(number: u32, fence: u64, intent: Intent, outcome: Option<Outcome>) -> Step {
        let ended_at = outcome.as_ref().map(|_| at(i64::from(number) * 10 + 2));
        Step {
            number,
            generation: 1,
            attempt: u32::try_from(fence).expect("few"),
            fence,
            agent: AgentName::new("cto").expect("a name"),
            at: at(i64::from(number) * 10),
            intent,
            outcome,
            ended_at,
            counted: 0,
            refused: None,
            late: false,
        }
    }

    /// A model asked: 10 tokens in, 5 out, a hundredth of a dollar, wanting these tools.
    pub(crate) fn asks(number: u32, fence: u64, said: &str, wants: &[(&str, Value)]) -> Step {
        let calls = wants.iter().enumerate().map(|(index, (name, arguments))| ToolCall {
            id: call_id(number, index),
            name: (*name).to_owned(),
            arguments: arguments.clone(),
            malformed: None,
            signature: None,
        });
        let replied = Replied {
            text: if wants.is_empty() { "fine".to_owned() } else { String::new() },
            calls: calls.collect(),
            model: "m".to_owned(),
            stop: "end_turn".to_owned(),
            usage: Usage { input: 10, output: 5, ..Usage::default() },
            micro_usd: Some(10_000),
            ..Replied::default()
        };
        let ask = Ask {
            model: "sim/m".parse().expect("a model"),
            purpose: Purpose::Work,
            hash: String::new(),
            fresh: number == 1,
            system: (number == 1).then(|| "You review.".to_owned()),
            said: if said.is_empty() { Vec::new() } else { vec![crate::conversation::Message::user(said)] },
            amended: 0,
            compaction: None,
        };
        step(number, fence, Intent::Ask(Box::new(ask)), Some(Outcome::Replied(Box::new(replied))))
    }

    /// A call of a tool with this effect.
    pub(crate) fn calls(number: u32, fence: u64, ask: u32, effect: Effect, outcome: Option<Outcome>) -> Step {
        let repeat = if effect == Effect::ReadOnly { Repeat::Freely } else { Repeat::Never };
        let call = Call {
            ask,
            index: 0,
            tool: "shop/charge".parse().expect("a tool"),
            class: CallClass { effect, repeat },
            key: call_key(task(), ask, 0),
        };
        step(number, fence, Intent::Call(call), outcome)
    }

    pub(crate) fn looks_at(number: u32, fence: u64, of: u32, says: &str) -> Step {
        let tool = "shop/get_charge".parse().expect("a tool");
        let said = Outcome::Returned { text: says.to_owned(), failed: false, failure: None };
        step(number, fence, Intent::Probe { of, tool, arguments: json!({}) }, Some(said))
    }

    #[test]
    fn a_doubt_says_everything_needed_to_decide_and_no_secret() {
        let wants = [("charge", json!({"amount": 5, "api_key": "hunter2"}))];
        let unknown = Outcome::Unknown { failure: failure("shop/charge did not answer; password=hunter2") };
        let steps = [
            asks(1, 1, "Charge it.", &wants),
            calls(2, 1, 1, Effect::Mutation, Some(unknown)),
            looks_at(3, 1, 2, "pending"),
        ];
        let doubts = Doubt::all(&steps, 0);
        let [doubt] = doubts.as_slice() else { panic!("{doubts:?}") };
        assert_eq!(doubt.arguments, wants[0].1, "the journal itself is exact");
        let line = doubt.clone().without_secrets(&Redactor::default()).line();
        let expected = format!(
            "step 2: shop/charge (mutation) with {{\"amount\":5,\"api_key\":\"[redacted]\"}} under key {}, sent 1970-01-01T00:00:20.000Z by cto in attempt 1 of round 1: shop/charge did not answer; password=[redacted]; shop/get_charge was asked (step 3) and said: pending",
            doubt.key
        );
        assert_eq!(line, expected);
        let first = answer_first(task(), &doubts);
        assert!(first.contains(&format!("`backstop task outcome {} (--happened", task())), "{first}");
    }

    #[test]
    fn what_is_known_is_no_doubt_and_what_was_never_heard_of_is() {
        let judged = |happened, by| Some(Outcome::Judged { happened, by, note: "seen".to_owned() });
        let person = || Judge::Person { who: "ana".to_owned() };
        let failed = || Some(Outcome::Failed { failure: failure("no"), usage: Usage::default(), micro_usd: None });
        for (effect, outcome, expected) in [
            (Effect::Mutation, None, Some("whoever made it ended")),
            (Effect::ReadOnly, None, None),
            (Effect::Mutation, failed(), None),
            (Effect::Payment, failed(), Some("no; money that did not move")),
            (Effect::Payment, judged(false, Judge::Probe { step: 3 }), Some("a look (step 3) says")),
            (Effect::Mutation, judged(false, Judge::Probe { step: 3 }), None),
            (Effect::Payment, judged(false, person()), None),
            (Effect::Payment, judged(true, person()), None),
        ] {
            let steps = [asks(1, 1, "x", &[("charge", json!({}))]), calls(2, 1, 1, effect, outcome.clone())];
            let doubts = Doubt::all(&steps, 0);
            let why = doubts.first().map(|doubt| doubt.why.as_str());
            assert_eq!(why.is_some(), expected.is_some(), "{effect} {outcome:?}");
            assert!(why.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{why:?}");
        }
    }
}
