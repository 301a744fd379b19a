//! What may be written into a journal, and what is refused: intents need the lease, outcomes do not.

use std::time::Duration;

use backstop::agent::Incarnation;
use backstop::cause::{Cause, Usage};
use backstop::conversation::{Message, ToolCall};
use backstop::failure::Failure;
use backstop::journal::{
    self, Ask, Call, End, Entry, Intent, Judge, Line, Outcome, Purpose, Replied, Step, asked, tally, wanted, write,
};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::ledger::{self, Command, Refused};
use backstop::record::{Record, State};
use backstop::task::{AgentName, Effect, IdempotencyKey, Integration, Priority, Task, TaskId, TaskType};
use backstop::time::Timestamp;
use backstop::tool::{CallClass, Repeat};
use serde_json::{Value, json};

/// When everything here happens.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
/// Classes of calls.
pub(crate) const READ: CallClass = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
pub(crate) const NOTE: CallClass = CallClass { effect: Effect::Notification, repeat: Repeat::SameKey };
pub(crate) const WRITE: CallClass = CallClass { effect: Effect::Mutation, repeat: Repeat::Never };
pub(crate) const PAY: CallClass = CallClass { effect: Effect::Payment, repeat: Repeat::Never };

/// A failure with these words.
pub(crate) fn failure(message: &str) -> Failure {
    let cause = Cause::Declined { reason: message.to_owned() };
    let Judgement::Failed(failure) = classify(&cause, &Scene::new(Effect::ReadOnly, NOW)) else { panic!("a failure") };
    failure
}

/// A step of the first delivery.
pub(crate) fn step(number: u32, intent: Intent, outcome: Option<Outcome>) -> Step {
    Step {
        number,
        generation: 1,
        attempt: 1,
        fence: 1,
        agent: AgentName::new("cto").expect("a name"),
        at: NOW,
        intent,
        outcome,
        ended_at: None,
        counted: 0,
        refused: None,
        late: false,
    }
}

/// What is asked of a model.
pub(crate) fn ask_intent(purpose: Purpose) -> Intent {
    Intent::Ask(Box::new(Ask {
        model: "primary/opus".parse().expect("a model"),
        purpose,
        hash: String::new(),
        fresh: false,
        system: None,
        said: vec![Message::user("Do it.")],
        amended: 0,
        compaction: None,
    }))
}

/// A model's answer that wants these tools called.
pub(crate) fn asked_for(number: u32, calls: &[(&str, Value)]) -> Step {
    let calls = calls.iter().map(|(name, arguments)| ToolCall::written("x", *name, &arguments.to_string())).collect();
    let usage = Usage { input: 100, output: 20, ..Usage::default() };
    let replied = Replied { calls, usage, micro_usd: Some(700), ..Replied::default() };
    let step = step(number, ask_intent(Purpose::Work), Some(Outcome::Replied(Box::new(replied))));
    Step { counted: 700, ..step }
}

/// A call that the answer in step `ask` wants.
pub(crate) fn called(
    number: u32,
    (ask, index): (u32, u32),
    tool: &str,
    class: CallClass,
    outcome: Option<Outcome>,
) -> Step {
    let key = IdempotencyKey::new(format!("k-{ask}.{index}")).expect("a key");
    let call = Call { ask, index, tool: tool.parse().expect("a tool"), class, key };
    step(number, Intent::Call(call), outcome)
}

/// A tool's word.
pub(crate) fn returned(text: &str) -> Option<Outcome> {
    Some(Outcome::Returned { text: text.to_owned(), failed: false, failure: None })
}

fn failed(why: &str) -> Outcome {
    Outcome::Failed { failure: failure(why), usage: Usage::default(), micro_usd: None }
}

fn task() -> Task {
    Task {
        id: TaskId::new(NOW, [7; 10]),
        task_type: TaskType::new("code_review").expect("a name"),
        agent: AgentName::new("cto").expect("a name"),
        payload: json!({}),
        effect: Effect::Mutation,
        priority: Priority::Normal,
        idempotency_key: None,
        deadline: None,
        tenant: None,
        prompt: None,
        created_at: NOW,
    }
}

/// A record under a lease of a minute, in epoch 1, with fence 1.
fn running() -> Record {
    let (record, _) = Record::new(task(), Integration::new("primary").expect("a name"), NOW);
    let claim = Command::Claim {
        agent: record.agent.clone(),
        incarnation: Incarnation(1),
        epoch: 1,
        lease_for: Duration::from_secs(60),
    };
    ledger::apply(&record, claim, NOW).expect("claimed").0
}

fn entry(fence: u64, lines: Vec<Line>) -> Entry {
    Entry { fence, lines, ..Entry::default() }
}

fn intend(intent: Intent) -> Line {
    Line::Intend { intent, worst: 900 }
}

fn conclude(step: u32, outcome: Outcome) -> Line {
    Line::Conclude { step, outcome, counted: 5 }
}

fn judge(step: u32, happened: bool) -> Line {
    Line::Judge { step, happened, who: "ana".to_owned(), note: "Seen in the books.".to_owned() }
}

#[test]
fn an_intent_is_written_under_the_lease_and_under_nothing_else() {
    let record = running();
    let late = NOW + Duration::from_secs(60);
    for (fence, epoch, now, allowed) in
        [(1, 1, NOW, true), (0, 1, NOW, false), (2, 1, NOW, false), (1, 2, NOW, false), (1, 1, late, false)]
    {
        let entry = entry(fence, vec![intend(ask_intent(Purpose::Work))]);
        let written = write(&record, &[], End::default(), &entry, epoch, now);
        assert_eq!(written.is_ok(), allowed, "fence {fence}, epoch {epoch}, {now}: {written:?}");
    }
    let mut waiting = record.clone();
    (waiting.state, waiting.lease) = (State::Ready, None);
    let refused = write(&waiting, &[], End::default(), &entry(1, vec![intend(ask_intent(Purpose::Work))]), 1, NOW);
    assert!(refused.is_err(), "nobody holds it");
}

#[test]
fn steps_are_numbered_on_and_carry_who_when_and_the_worst() {
    let record = running();
    let lines = vec![intend(ask_intent(Purpose::Work)), intend(ask_intent(Purpose::Verify))];
    let end = End { step: 7, ask: 3 };
    let written = write(&record, &[], end, &entry(1, lines), 1, NOW).expect("written");
    let shown: Vec<_> = written.iter().map(|step| (step.number, step.fence, step.attempt, step.counted)).collect();
    assert_eq!(shown, [(8, 1, 1, 900), (9, 1, 1, 900)]);
    assert!(written.iter().all(|step| step.outcome.is_none() && step.at == NOW && step.agent.as_str() == "cto"));
}

#[test]
fn an_outcome_is_taken_also_from_a_lost_lease_and_a_known_one_stands() {
    let record = running();
    let mut over = record.clone();
    (over.state, over.lease, over.fence) = (State::Ready, None, 5);
    let open = || called(2, (1, 0), "shop/buy", WRITE, None);
    for record in [&record, &over] {
        let written =
            write(record, &[open()], End { step: 2, ask: 1 }, &entry(1, vec![conclude(2, failed("no"))]), 1, NOW);
        let written = written.expect("what is known is true");
        assert_eq!((written.len(), written[0].counted, written[0].ended_at), (1, 5, Some(NOW)));
        assert_eq!(written[0].outcome, Some(failed("no")));
    }
    let unknown = Outcome::Unknown { failure: failure("silence") };
    for (before, allowed) in [
        (None, true),
        (Some(unknown), true),
        (returned("bought"), false),
        (Some(failed("no")), false),
        (Some(Outcome::Judged { happened: true, by: Judge::Probe { step: 3 }, note: String::new() }), false),
    ] {
        let known = called(2, (1, 0), "shop/buy", WRITE, before.clone());
        let line = conclude(2, Outcome::Returned { text: "again".to_owned(), failed: false, failure: None });
        let written = write(&record, &[known], End { step: 2, ask: 1 }, &entry(1, vec![line]), 1, NOW);
        match allowed {
            true => assert!(written.is_ok(), "{before:?}"),
            false => assert_eq!(written, Err(Refused::Concluded { step: 2 }), "{before:?}"),
        }
    }
    let nowhere = write(&record, &[], End::default(), &entry(1, vec![conclude(4, failed("no"))]), 1, NOW);
    assert_eq!(nowhere, Err(Refused::NoStep { step: 4 }));
}

#[test]
fn an_answer_after_the_work_went_on_is_late_and_no_part_of_it() {
    let record = running();
    let reply = || Outcome::Replied(Box::default());
    for (purpose, last_ask, late) in [(Purpose::Work, 1, false), (Purpose::Work, 2, true), (Purpose::Verify, 2, false)]
    {
        let open = step(1, ask_intent(purpose), None);
        let end = End { step: 2, ask: last_ask };
        let written = write(&record, &[open], end, &entry(1, vec![conclude(1, reply())]), 1, NOW).expect("written");
        assert_eq!(written[0].late, late, "{purpose} {last_ask}");
    }
    // The same within one entry: asked anew, then the old answer comes.
    let open = step(1, ask_intent(Purpose::Work), None);
    let lines = vec![intend(ask_intent(Purpose::Work)), conclude(1, reply()), conclude(2, reply())];
    let written = write(&record, &[open], End { step: 1, ask: 1 }, &entry(1, lines), 1, NOW).expect("written");
    let shown: Vec<(u32, bool)> = written.iter().map(|step| (step.number, step.late)).collect();
    assert_eq!(shown, [(2, false), (1, true)]);
}

#[test]
fn all_lines_are_written_or_none() {
    let record = running();
    let lines = vec![intend(ask_intent(Purpose::Work)), conclude(99, failed("no"))];
    assert_eq!(
        write(&record, &[], End::default(), &entry(1, lines.clone()), 1, NOW),
        Err(Refused::NoStep { step: 99 })
    );
    assert_eq!(entry(1, lines).changes().collect::<Vec<_>>(), [99]);
}

#[test]
fn a_refused_answer_says_why() {
    let answered = asked_for(1, &[]);
    let line = Line::Refuse { step: 1, why: "not JSON".to_owned() };
    let written = write(&running(), &[answered], End { step: 1, ask: 1 }, &entry(1, vec![line]), 1, NOW);
    assert_eq!(written.expect("written")[0].refused.as_deref(), Some("not JSON"));
}

#[test]
fn a_person_says_of_a_call_in_doubt_whether_it_happened_and_of_no_other() {
    let mut waiting = running();
    (waiting.state, waiting.lease) = (State::WaitingHuman, None);
    let unknown = || Some(Outcome::Unknown { failure: failure("silence") });
    let by_probe = |happened| Some(Outcome::Judged { happened, by: Judge::Probe { step: 3 }, note: String::new() });
    let by_person =
        Some(Outcome::Judged { happened: false, by: Judge::Person { who: "ana".to_owned() }, note: String::new() });
    for (class, before, allowed) in [
        (WRITE, None, true),
        (WRITE, unknown(), true),
        (WRITE, Some(failed("no")), false),
        (WRITE, by_probe(false), false),
        (WRITE, returned("done"), false),
        (READ, None, false),
        (NOTE, unknown(), false),
        (PAY, None, true),
        (PAY, unknown(), true),
        (PAY, Some(failed("no")), true),
        (PAY, by_probe(false), true),
        (PAY, by_probe(true), false),
        (PAY, by_person, false),
        (PAY, returned("paid"), false),
    ] {
        for happened in [true, false] {
            let known = called(2, (1, 0), "shop/buy", class, before.clone());
            let end = End { step: 2, ask: 1 };
            let written = write(&waiting, &[known], end, &entry(0, vec![judge(2, happened)]), 7, NOW);
            match allowed {
                true => {
                    let step = &written.expect("judged")[0];
                    let by = Judge::Person { who: "ana".to_owned() };
                    let note = "Seen in the books.".to_owned();
                    assert_eq!(step.outcome, Some(Outcome::Judged { happened, by, note }));
                    assert!(!step.in_doubt(0), "a person's word ends the doubt");
                }
                false => assert_eq!(written, Err(Refused::Concluded { step: 2 }), "{class:?} {before:?}"),
            }
        }
    }
    let known = called(2, (1, 0), "shop/buy", WRITE, None);
    let refused = write(&running(), &[known], End { step: 2, ask: 1 }, &entry(0, vec![judge(2, true)]), 1, NOW);
    assert!(matches!(refused, Err(Refused::WrongState { state: State::Running, .. })), "{refused:?}");
    assert_eq!(
        write(&waiting, &[], End::default(), &entry(0, vec![judge(2, true)]), 1, NOW),
        Err(Refused::NoStep { step: 2 })
    );
}

#[test]
fn a_journal_is_added_up_with_what_was_wasted() {
    let usage = Usage { input: 40, output: 2, ..Usage::default() };
    let lost = Outcome::Failed { failure: failure("cut"), usage, micro_usd: None };
    let steps = [
        asked_for(1, &[("a", json!({"x": 1})), ("b", json!({}))]),
        called(2, (1, 0), "shop/a", READ, returned("A")),
        Step { counted: 900, ..step(3, ask_intent(Purpose::Work), Some(lost)) },
        Step { late: true, ..asked_for(4, &[("late", json!({}))]) },
        Step { generation: 2, ..asked_for(5, &[]) },
    ];
    let sum = tally(&steps);
    assert_eq!((sum.asks, sum.calls, sum.usage.total(), sum.micro_usd), (4, 1, 402, 2_100));
    assert_eq!((sum.unpriced, sum.counted, sum.wasted.total(), sum.wasted_micro_usd), (1, 3_000, 162, 700));
    let asked = |round, purpose| asked(&steps, round, purpose);
    assert_eq!([asked(1, Purpose::Work), asked(2, Purpose::Work), asked(1, Purpose::Verify)], [3, 1, 0]);
    let names = [("a".to_owned(), r#"{"x":1}"#.to_owned()), ("b".to_owned(), "{}".to_owned())];
    assert_eq!(wanted(&steps, 1), names, "what came late is no part of a circle");
    assert_eq!(journal::wanted(&steps, 2), Vec::<(String, String)>::new());
}
