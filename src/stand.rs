//! Where the work on a task stands, read from its journal, and what is done about a call of which nobody knows.
//!
//! The next delivery, by whatever agent, model or vendor, goes on where [`stand`] says: what is paid for is not asked
//! again, what was done is not done again. An intent without a known outcome is a state of its own, and [`remedy`] is the
//! one rule about it, for retry, redelivery, fallback, reassignment and replay alike: repeat what may be repeated, else
//! look (the declared probe), else ask a person. Money is never repeated by anybody but a person, not even after a look.

use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::conversation::{Message, ToolCall, ToolResult, call_id, visible};
use crate::failure::{Action, Failure};
use crate::journal::{Intent, Judge, Outcome, Step};
use crate::mutant;
use crate::stuck;
use crate::tool::{CallClass, Repeat};

/// The calls in doubt: a person, or a probe, must say of each whether it happened. `running` as in [`Step::in_doubt`].
#[must_use]
pub fn in_doubt(steps: &[Step], running: u64) -> Vec<&Step> {
    let last = |step: &&Step| match step.call() {
        Some(call) => !steps.iter().any(|other| {
            other.number > step.number
                && other.call().is_some_and(|later| (later.ask, later.index) == (call.ask, call.index))
        }),
        None => false,
    };
    steps.iter().filter(|step| step.in_doubt(running)).filter(last).collect()
}

/// Where the work on a task stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Stand {
    /// The conversation as far as it was paid for, results of tools included once all of a turn are there.
    pub messages: Vec<Message>,
    /// The model that gave each answer in it, in order.
    pub said_by: Vec<ModelRef>,
    /// The system prompt it was led under last.
    pub system: Option<String>,
    /// How many of the task's amendments the conversation knows.
    pub amended: u32,
    /// What is to be done next.
    pub next: Next,
    /// Tokens in the conversation's answers: they need not be paid again.
    pub kept: Usage,
    /// How many steps are kept.
    pub steps: u32,
}

impl Stand {
    /// The conversation as one model may be given it. Thoughts and signatures are of one model under one account: from
    /// another they are refused, at some vendors with the whole request.
    #[must_use]
    pub fn messages_for(&self, model: &ModelRef) -> Vec<Message> {
        let mut said_by = self.said_by.iter();
        let mut messages = self.messages.clone();
        for message in &mut messages {
            let Message::Assistant { calls, opaque, .. } = message else { continue };
            if said_by.next() != Some(model) {
                opaque.clear();
                calls.iter_mut().for_each(|call| call.signature = None);
            }
        }
        messages
    }

    /// Nothing to go on from.
    fn begin(system: Option<String>) -> Self {
        Self {
            messages: Vec::new(),
            said_by: Vec::new(),
            system,
            amended: 0,
            next: Next::Begin,
            kept: Usage::default(),
            steps: 0,
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Say the prompt: there is nothing to go on from.
    Begin,
    /// Ask the model: the conversation stands; if its last answer was not accepted, with the reason.
    Ask {
        /// Why the last answer was not accepted.
        refused: Option<String>,
    },
    /// Call the tools the last answer wants.
    Act {
        /// The step with that answer.
        ask: u32,
        /// Its calls, in order, and how each stands.
        calls: Vec<Standing>,
    },
    /// Accept the answer that was given.
    Answer {
        /// The step with the answer.
        ask: u32,
        /// The answer.
        text: String,
    },
}

/// A call a model wants, and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its place among the calls of its answer.
    pub index: usize,
    /// What is wanted.
    pub call: ToolCall,
    /// How it stands.
    pub state: CallState,
}

/// How a call stands.
#[derive(Clone, Debug, PartialEq)]
pub enum CallState {
    /// It was not made, or may be made again, under its key.
    Due,
    /// It is not known whether it happened: see [`remedy`].
    InDoubt {
        /// The step.
        step: u32,
    },
    /// It is done, and this is what the model is told.
    Done(ToolResult),
}

/// Reads where the work stands. `fence` is that of the delivery that asks; what others left open is over.
#[must_use]
pub fn stand(steps: &[Step], fence: u64) -> Stand {
    let mut stand = Stand::begin(None);
    let mut tools_used = false;
    for step in steps {
        let (Some(ask), Some(reply)) = (step.ask().filter(|ask| ask.purpose.is_work() && !step.late), step.reply())
        else {
            // The system prompt of a call that came to nothing is no news for the next one.
            continue;
        };
        if ask.fresh {
            stand = Stand::begin(stand.system);
            tools_used = false;
        }
        stand.system = ask.system.clone().or(stand.system);
        stand.amended = ask.amended;
        stand.messages.extend(ask.said.iter().cloned());
        stand.messages.push(Message::Assistant {
            text: reply.text.clone(),
            calls: reply.calls.clone(),
            opaque: reply.opaque.clone(),
        });
        stand.said_by.push(ask.model.clone());
        stand.kept = stand.kept.plus(reply.usage);
        stand.steps += 1;
        let calls: Vec<Standing> = reply
            .calls
            .iter()
            .enumerate()
            .map(|(index, call)| Standing {
                index,
                call: call.clone(),
                state: match (state(steps, step.number, index, call, fence), &step.refused) {
                    // An answer that was refused: what it wanted and was not begun is not done.
                    (CallState::Due, Some(why)) => CallState::Done(ToolResult {
                        id: call_id(step.number, index),
                        name: call.name.clone(),
                        text: format!("Error: not called. {why}"),
                        failed: true,
                    }),
                    (state, _) => state,
                },
            })
            .collect();
        if calls.is_empty() {
            stand.next = match &step.refused {
                Some(why) => Next::Ask { refused: Some(why.clone()) },
                None => Next::Answer { ask: step.number, text: reply.text.clone() },
            };
            continue;
        }
        tools_used = true;
        let done: Option<Vec<ToolResult>> = calls
            .iter()
            .map(|standing| match &standing.state {
                CallState::Done(result) => Some(result.clone()),
                CallState::Due | CallState::InDoubt { .. } => None,
            })
            .collect();
        stand.steps += u32::try_from(calls.iter().filter(|call| matches!(call.state, CallState::Done(_))).count())
            .unwrap_or(u32::MAX);
        stand.next = match done {
            Some(results) => {
                stand.messages.push(Message::Results { results });
                Next::Ask { refused: None }
            }
            None => Next::Act { ask: step.number, calls },
        };
    }
    // Refused answers alone are nothing to go on from: the prompt is said anew, with what was wrong in it.
    if let (false, Next::Ask { .. }) = (tools_used, &stand.next) {
        return Stand::begin(stand.system);
    }
    stand
}

/// How one call stands after everything that was tried.
fn state(steps: &[Step], ask: u32, index: usize, call: &ToolCall, fence: u64) -> CallState {
    let mine = |step: &&Step| step.call().is_some_and(|made| made.ask == ask && made.index as usize == index);
    let Some(last) = steps.iter().rev().find(mine) else { return CallState::Due };
    // The journal keeps what was said to the letter; a model is told nothing that does not show.
    let told = |text: &str, failed| {
        let text = visible(text).into_owned();
        CallState::Done(ToolResult { id: call_id(ask, index), name: call.name.clone(), text, failed })
    };
    match &last.outcome {
        Some(Outcome::Returned { text, failed, .. }) => told(text, *failed),
        Some(Outcome::Judged { happened: true, by, note }) => {
            let who = match by {
                Judge::Probe { .. } => "a look at it",
                Judge::Person { .. } => "a person",
            };
            told(&format!("This call was carried out, as {who} confirmed; its own answer was lost. {note}"), false)
        }
        _ if last.in_doubt(fence) && !mutant::on("effect-repeated") => CallState::InDoubt { step: last.number },
        Some(Outcome::Failed { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. } | Outcome::Replied(_))
        | None => CallState::Due,
    }
}

/// What an earlier delivery of the same round found out for good.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<'a> {
    /// Its call ended in a failure after which nobody asks again in this round.
    Failed(&'a Failure),
    /// The model said the same over and over; the evidence.
    Circles(String),
}

/// What an earlier delivery of this round found out for good and could not settle with, because its lease was over when
/// the store took anything again. A round ends with such a failure: whoever comes next has it from the journal, and does
/// not pay to hear it a second time.
#[must_use]
pub fn found_out(steps: &[Step], generation: u32, fence: u64) -> Option<Found<'_>> {
    let last = steps.iter().rev().find(|step| step.ask().is_some_and(|ask| ask.purpose.is_work()))?;
    // Who retries what is hopeless must not be saved by the journal, or nobody would see it.
    if last.generation != generation || last.fence == fence || mutant::on("logic-retried") {
        return None;
    }
    match &last.outcome {
        Some(Outcome::Failed { failure, .. }) => match failure.action {
            Action::DeadLetter | Action::FallbackNow | Action::Human => Some(Found::Failed(failure)),
            Action::Backoff | Action::ParkIntegration | Action::ModifyRequeue => None,
        },
        Some(Outcome::Replied(reply)) if last.refused.is_some() => {
            stuck::chant(&reply.text).map(|chant| Found::Circles(chant.evidence()))
        }
        Some(Outcome::Replied(_) | Outcome::Returned { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. })
        | None => None,
    }
}

/// What is done about a call in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It is made again, under the same key.
    Repeat,
    /// Its declared probe is asked.
    Look,
    /// A person is asked.
    Ask,
}

/// The one rule about a call in doubt. `probe`: is one declared? `looked`: did one come to nothing since the last
/// decision about the task?
#[must_use]
pub const fn remedy(class: CallClass, probe: bool, looked: bool) -> Remedy {
    match class.repeat {
        Repeat::Freely | Repeat::SameKey => Remedy::Repeat,
        Repeat::Never if probe && !looked => Remedy::Look,
        Repeat::Never => Remedy::Ask,
    }
}

/// Was a call in doubt looked at in this round, without a result?
#[must_use]
pub fn looked(steps: &[Step], step: u32, generation: u32) -> bool {
    steps.iter().any(|other| {
        other.generation == generation
            && matches!(&other.intent, Intent::Probe { of, .. } if *of == step)
            && matches!(other.outcome, Some(Outcome::Returned { .. }))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cause::Cause;
    use crate::failure::{Failure, Kind};
    use crate::journal::{Ask, Call, Purpose, Replied};
    use crate::judgement::{Judgement, Scene, classify};
    use crate::task::{AgentName, Effect, IdempotencyKey};
    use crate::time::Timestamp;

    const READ: CallClass = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
    const NOTE: CallClass = CallClass { effect: Effect::Notification, repeat: Repeat::SameKey };
    const WRITE: CallClass = CallClass { effect: Effect::Mutation, repeat: Repeat::Never };
    const PAY: CallClass = CallClass { effect: Effect::Payment, repeat: Repeat::Never };

    fn step(number: u32, intent: Intent, outcome: Option<Outcome>) -> Step {
        Step {
            number,
            generation: 1,
            attempt: 1,
            fence: 1,
            agent: AgentName::new("cto").expect("a name"),
            at: Timestamp::from_millis(0),
            intent,
            outcome,
            ended_at: None,
            counted: 0,
            refused: None,
            late: false,
        }
    }

    fn failure() -> Failure {
        let Judgement::Failed(failure) =
            classify(&Cause::LeaseLapsed, &Scene::new(Effect::ReadOnly, Timestamp::from_millis(0)))
        else {
            panic!("a failure")
        };
        failure
    }

    fn failed() -> Outcome {
        Outcome::Failed { failure: failure(), usage: Usage::default(), micro_usd: None }
    }

    fn unknown() -> Outcome {
        Outcome::Unknown { failure: failure() }
    }

    fn returned(text: &str) -> Outcome {
        Outcome::Returned { text: text.to_owned(), failed: false, failure: None }
    }

    fn judged(happened: bool, by: Judge) -> Outcome {
        Outcome::Judged { happened, by, note: "Seen.".to_owned() }
    }

    fn person() -> Judge {
        Judge::Person { who: "ana".to_owned() }
    }

    fn replied(text: &str, tools: &[&str]) -> Outcome {
        let calls = tools.iter().map(|name| ToolCall::written("x", *name, "{}")).collect();
        let usage = Usage { input: 10, output: 5, ..Usage::default() };
        Outcome::Replied(Box::new(Replied { text: text.to_owned(), calls, usage, ..Replied::default() }))
    }

    /// A call of a model that says something new.
    fn ask(number: u32, said: &str, outcome: Option<Outcome>) -> Step {
        let ask = Ask {
            model: "primary/opus".parse().expect("a model"),
            purpose: Purpose::Work,
            hash: String::new(),
            fresh: number == 1,
            system: (number == 1).then(|| "You are the cto.".to_owned()),
            said: (!said.is_empty()).then(|| Message::user(said)).into_iter().collect(),
            amended: number,
            compaction: None,
        };
        step(number, Intent::Ask(Box::new(ask)), outcome)
    }

    fn call(number: u32, index: u32, class: CallClass, outcome: Option<Outcome>) -> Step {
        let tool = "shop/do".parse().expect("a tool");
        let key = IdempotencyKey::new("k-1").expect("a key");
        step(number, Intent::Call(Call { ask: 1, index, tool, class, key }), outcome)
    }

    fn changed(step: Step, change: fn(&mut Step)) -> Step {
        let mut step = step;
        change(&mut step);
        step
    }

    fn refused(step: Step) -> Step {
        changed(step, |step| step.refused = Some("not JSON".to_owned()))
    }

    fn fresh(step: Step) -> Step {
        changed(step, |step| {
            if let Intent::Ask(ask) = &mut step.intent {
                ask.fresh = true;
            }
        })
    }

    /// Seed 1016 of `backstop sim fuzz`: a disk was full for 67 s, a lease of 60 s ended meanwhile, and what its delivery
    /// knew, that the model declines, came into the journal a second after the task was given out anew. The next delivery
    /// read that journal, asked the same model the same, paid, and was declined again.
    #[test]
    fn what_ends_a_round_is_not_asked_again_by_who_comes_later_in_it() {
        let ended = |kind: Kind| {
            let failure = Failure { kind, action: kind.profile().action, ..failure() };
            Some(Outcome::Failed { failure, usage: Usage::default(), micro_usd: None })
        };
        let chant = "Let me look at it once more, and then again. ".repeat(20);
        let other_round = |step| changed(step, |step| step.generation = 2);
        for (what, steps, expected) in [
            ("nothing was asked", vec![], ""),
            ("it is under way", vec![ask(1, "do it", None)], ""),
            ("declined", vec![ask(1, "do it", ended(Kind::Refused))], "refused"),
            ("the model is gone", vec![ask(1, "do it", ended(Kind::ModelUnavailable))], "model_unavailable"),
            ("it passes", vec![ask(1, "do it", ended(Kind::Overloaded))], ""),
            ("the integration is parked", vec![ask(1, "do it", ended(Kind::Auth))], ""),
            ("of another round", vec![other_round(ask(1, "do it", ended(Kind::Refused)))], ""),
            ("asked anew since", vec![ask(1, "do it", ended(Kind::Refused)), ask(2, "", ended(Kind::Overloaded))], ""),
            ("in circles", vec![refused(ask(1, "do it", Some(replied(&chant, &[]))))], "circles"),
            ("no good answer", vec![refused(ask(1, "do it", Some(replied("so so", &[]))))], ""),
            ("a good answer", vec![ask(1, "do it", Some(replied("{}", &[])))], ""),
        ] {
            let found = match found_out(&steps, 1, 2) {
                Some(Found::Failed(failure)) => failure.kind.to_string(),
                Some(Found::Circles(_)) => "circles".to_owned(),
                None => String::new(),
            };
            assert_eq!(found, expected, "{what}");
            assert_eq!(found_out(&steps, 1, 1), None, "{what}: of this very delivery");
        }
    }

    fn in_words(next: &Next) -> String {
        match next {
            Next::Begin => "begin".to_owned(),
            Next::Ask { refused: None } => "ask".to_owned(),
            Next::Ask { refused: Some(why) } => format!("ask: {why}"),
            Next::Act { ask, calls } => {
                let states = calls.iter().map(|call| match &call.state {
                    CallState::Due => "due".to_owned(),
                    CallState::InDoubt { step } => format!("in doubt {step}"),
                    CallState::Done(result) => format!("done {}", result.text),
                });
                format!("act {ask}: {}", states.collect::<Vec<_>>().join(", "))
            }
            Next::Answer { ask, text } => format!("answer {ask}: {text}"),
        }
    }

    #[test]
    fn where_the_work_goes_on() {
        let wants = |tools: &[&str]| ask(1, "Do it.", Some(replied("", tools)));
        let table: &[(Vec<Step>, &str, usize)] = &[
            (vec![], "begin", 0),
            (vec![ask(1, "Do it.", None)], "begin", 0),
            (vec![ask(1, "Do it.", Some(failed()))], "begin", 0),
            (vec![ask(1, "Do it.", Some(replied("fine", &[])))], "answer 1: fine", 2),
            (vec![ask(1, "Do it.", Some(failed())), ask(2, "Do it.", Some(replied("fine", &[])))], "answer 2: fine", 2),
            // A refused answer alone is nothing to go on from.
            (vec![refused(ask(1, "Do it.", Some(replied("no", &[]))))], "begin", 0),
            (
                vec![
                    wants(&["a"]),
                    call(2, 0, READ, Some(returned("A"))),
                    refused(ask(3, "", Some(replied("no", &[])))),
                ],
                "ask: not JSON",
                4,
            ),
            (vec![wants(&["a", "b"])], "act 1: due, due", 2),
            (vec![wants(&["a", "b"]), call(2, 1, READ, Some(returned("B")))], "act 1: due, done B", 2),
            (
                vec![wants(&["a", "b"]), call(2, 1, READ, Some(returned("B"))), call(3, 0, READ, Some(returned("A")))],
                "ask",
                3,
            ),
            (
                vec![wants(&["a"]), call(2, 0, READ, Some(returned("A"))), ask(3, "", Some(replied("fine", &[])))],
                "answer 3: fine",
                4,
            ),
            // Late, of another purpose, or begun anew: no part of the conversation.
            (
                vec![
                    changed(wants(&["a"]), |step| step.late = true),
                    fresh(ask(2, "Do it.", Some(replied("fine", &[])))),
                ],
                "answer 2: fine",
                2,
            ),
            (
                vec![
                    ask(1, "Do it.", Some(replied("fine", &[]))),
                    changed(ask(2, "Is it?", Some(replied("yes", &[]))), |step| {
                        if let Intent::Ask(ask) = &mut step.intent {
                            ask.purpose = Purpose::Verify;
                        }
                    }),
                ],
                "answer 1: fine",
                2,
            ),
            (
                vec![
                    refused(ask(1, "Do it.", Some(replied("no", &[])))),
                    fresh(ask(2, "Do it better.", Some(replied("fine", &[])))),
                ],
                "answer 2: fine",
                2,
            ),
            (
                vec![
                    refused(ask(1, "Do it.", Some(replied("no", &[])))),
                    refused(fresh(ask(2, "Better.", Some(replied("no", &[]))))),
                ],
                "begin",
                0,
            ),
        ];
        for (steps, expected, messages) in table {
            let stand = stand(steps, 9);
            assert_eq!((in_words(&stand.next).as_str(), stand.messages.len()), (*expected, *messages), "{steps:#?}");
        }
    }

    #[test]
    fn what_is_kept_is_counted_and_the_system_prompt_found_again() {
        let steps = [
            ask(1, "Do it.", Some(replied("", &["a"]))),
            call(2, 0, READ, Some(returned("A"))),
            ask(3, "", Some(failed())),
        ];
        let stand = stand(&steps, 9);
        assert_eq!((stand.kept.total(), stand.steps, stand.amended), (15, 2, 1));
        assert_eq!(stand.system.as_deref(), Some("You are the cto."));
        let result = ToolResult { id: call_id(1, 0), name: "a".to_owned(), text: "A".to_owned(), failed: false };
        assert_eq!(stand.messages[2], Message::Results { results: vec![result] });
    }

    #[test]
    fn how_a_call_stands_after_what_came_of_it() {
        let probe = || Judge::Probe { step: 9 };
        let table = [
            (None, "due", "due", "in doubt 2", "in doubt 2"),
            (Some(unknown()), "due", "due", "in doubt 2", "in doubt 2"),
            (Some(failed()), "due", "due", "due", "in doubt 2"),
            (Some(judged(false, probe())), "due", "due", "due", "in doubt 2"),
            (Some(judged(false, person())), "due", "due", "due", "due"),
        ];
        for (outcome, read, note, write, pay) in table {
            for (class, expected) in [(READ, read), (NOTE, note), (WRITE, write), (PAY, pay)] {
                // A second call that is due keeps the turn open.
                let steps = [ask(1, "", Some(replied("", &["a", "b"]))), call(2, 0, class, outcome.clone())];
                let next = stand(&steps, 9).next;
                assert_eq!(in_words(&next), format!("act 1: {expected}, due"), "{class:?} {outcome:?}");
                let doubts: Vec<u32> = in_doubt(&steps, 0).iter().map(|step| step.number).collect();
                assert_eq!(doubts, if expected == "in doubt 2" { vec![2] } else { vec![] }, "{class:?} {outcome:?}");
            }
        }
        for (outcome, expected) in [
            (returned("paid"), "paid"),
            (
                judged(true, person()),
                "This call was carried out, as a person confirmed; its own answer was lost. Seen.",
            ),
            (
                judged(true, probe()),
                "This call was carried out, as a look at it confirmed; its own answer was lost. Seen.",
            ),
            (returned("\u{202e}paid\u{e0041}"), "\\u{202e}paid\\u{e0041}"),
        ] {
            for class in [READ, NOTE, WRITE, PAY] {
                let steps = [ask(1, "", Some(replied("", &["a", "b"]))), call(2, 0, class, Some(outcome.clone()))];
                assert_eq!(in_words(&stand(&steps, 9).next), format!("act 1: done {expected}, due"), "{class:?}");
            }
        }
    }

    #[test]
    fn the_last_try_of_a_call_counts() {
        let wants = || ask(1, "", Some(replied("", &["a"])));
        let steps = [wants(), call(2, 0, WRITE, Some(failed())), call(3, 0, WRITE, None)];
        assert_eq!(in_words(&stand(&steps, 9).next), "act 1: in doubt 3");
        assert_eq!(in_doubt(&steps, 0).len(), 1);
        let steps = [wants(), call(2, 0, WRITE, None), call(3, 0, WRITE, Some(returned("A")))];
        assert_eq!(in_words(&stand(&steps, 9).next), "ask");
        assert!(in_doubt(&steps, 0).is_empty(), "a later try has made it known");
    }

    #[test]
    fn what_runs_is_under_way_and_not_in_doubt() {
        let steps = [ask(1, "", Some(replied("", &["a"]))), call(2, 0, WRITE, None)];
        assert_eq!((in_doubt(&steps, 1).len(), in_doubt(&steps, 0).len(), in_doubt(&steps, 2).len()), (0, 1, 1));
    }

    #[test]
    fn the_one_rule_about_a_call_in_doubt() {
        use Remedy::{Ask, Look, Repeat};
        for (class, without, with, after_a_look) in [
            (READ, Repeat, Repeat, Repeat),
            (NOTE, Repeat, Repeat, Repeat),
            (WRITE, Ask, Look, Ask),
            (PAY, Ask, Look, Ask),
        ] {
            assert_eq!(remedy(class, false, false), without, "{class:?}");
            assert_eq!(remedy(class, true, false), with, "{class:?}");
            assert_eq!(remedy(class, true, true), after_a_look, "{class:?}");
            assert_eq!(remedy(class, false, true), without, "{class:?}");
        }
    }

    #[test]
    fn a_look_counts_in_its_round_and_when_it_saw_something() {
        let probe = |of, outcome| {
            let tool = "shop/get".parse().expect("a tool");
            step(3, Intent::Probe { of, tool, arguments: json!({}) }, outcome)
        };
        for (probe, expected) in [
            (probe(2, Some(returned("pending"))), true),
            (probe(2, Some(failed())), false),
            (probe(2, None), false),
            (probe(1, Some(returned("pending"))), false),
            (changed(probe(2, Some(returned("pending"))), |step| step.generation = 2), false),
        ] {
            assert_eq!(looked(std::slice::from_ref(&probe), 2, 1), expected, "{probe:?}");
        }
    }
}
