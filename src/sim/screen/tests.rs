//! What each event looks like, and that nothing foreign escapes onto the screen.

use super::*;
use crate::agent::Incarnation;
use crate::cause::Usage;
use crate::delivery::Hold;
use crate::failure::{Action, Class, Fallback, Origin, Signal};
use crate::failure::{Failure, Kind};
use crate::task::Priority;
use crate::task::{AgentName, Effect, Integration, TaskType};
use crate::triage::{Decided, DeciderKind};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1_000)
}

fn id(number: u8) -> TaskId {
    TaskId::new(at(0), [number; 10])
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("a name")
}

fn kind_of(name: &str) -> TaskType {
    TaskType::new(name).expect("a name")
}

fn anthropic() -> Integration {
    Integration::new("anthropic").expect("a name")
}

fn failure(class: Class, kind: Kind, message: &str) -> Failure {
    Failure {
        class,
        kind,
        origin: Origin::Integration,
        action: Action::Backoff,
        retry: true,
        retry_after: None,
        fallback: Fallback::AfterRetries,
        signal: Signal::Count,
        page: false,
        message: message.to_owned(),
        rule: "test".to_owned(),
        integration: (class == Class::Transient).then(anthropic),
        status: (kind == Kind::Overloaded).then_some(529),
        code: None,
        request_id: None,
    }
}

fn event(seconds: i64, task: Option<u8>, what: Happening) -> Event {
    Event { seq: 1, at: at(seconds), task: task.map(id), what }
}

fn submitted(task: u8, effect: Effect) -> Event {
    let what = Happening::Submitted {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        effect,
        priority: Priority::Normal,
    };
    event(0, Some(task), what)
}

fn names() -> Names {
    let mut names = Names::default();
    names.note(&submitted(1, Effect::ReadOnly));
    names.note(&submitted(2, Effect::Payment));
    let closed = Happening::GateClosed { integration: anthropic(), until: at(61), asked: "x".to_owned() };
    names.note(&event(1, None, closed));
    names
}

fn retried(failure: Failure, amended: bool, due: i64) -> Happening {
    Happening::RetryScheduled {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        attempt: 1,
        due: at(due),
        failure: Box::new(failure),
        amended,
        model: None,
        usage: Usage::default(),
        micro_usd: None,
    }
}

fn died(failure: Failure, attempts: u32) -> Happening {
    Happening::DeadLettered {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        generation: 1,
        attempts,
        failure: Box::new(failure),
        why: "logic failures are not retried".to_owned(),
        model: None,
        usage: Usage::default(),
        micro_usd: None,
    }
}

fn decided(decision: Decision, by: DeciderKind) -> Happening {
    Happening::Decided {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        decided: Box::new(Decided {
            number: 1,
            generation: 1,
            decision,
            by,
            who: None,
            at: at(0),
            reasons: vec!["the agents are healthy".to_owned()],
            rejected: vec![],
        }),
    }
}

#[test]
fn each_event_has_its_sentence() {
    let overloaded = || failure(Class::Transient, Kind::Overloaded, "Overloaded");
    type Row = (Option<u8>, Happening, Option<(&'static str, &'static str)>);
    let table: Vec<Row> = vec![
        (
            Some(1),
            retried(overloaded(), false, 54),
            Some(("retry", "cto/code_review #1 failed: Overloaded (transient: overloaded); attempt 2 in 34s")),
        ),
        (
            Some(1),
            retried(failure(Class::Validation, Kind::MissingField, "/title: missing"), true, 20),
            Some((
                "invalid",
                "cto/code_review #1 refused: /title: missing -> requeued at once with this error in its prompt",
            )),
        ),
        (
            Some(1),
            retried(failure(Class::Infrastructure, Kind::Crash, "panic: on cue"), false, 23),
            Some(("panic", "cto/code_review #1: the agent panicked in mid-task (panic: on cue); attempt 2 in 3s")),
        ),
        (
            Some(1),
            Happening::Parked {
                agent: agent("cto"),
                task_type: kind_of("code_review"),
                why: Hold::BreakerOpen,
                integration: Some(anthropic()),
                until: at(130),
            },
            Some(("parked", "cto/code_review #1 waits until 02:10: breaker of anthropic open; no delivery spent")),
        ),
        (
            Some(1),
            died(failure(Class::Logic, Kind::Refused, "the model declined"), 1),
            Some((
                "dead",
                "cto/code_review #1 -> dead letter queue after 1 delivery (logic: refused): the model declined; logic failures are not retried",
            )),
        ),
        (
            Some(2),
            died(overloaded(), 1),
            Some((
                "payment",
                "cto/code_review #2: payment failed (transient: overloaded: Overloaded) -> never repeated by itself; a person decides",
            )),
        ),
        (
            Some(1),
            decided(
                Decision::RetryOnFallback { model: "openai/gpt-5.4".parse().expect("a model") },
                DeciderKind::Table,
            ),
            Some(("ceo", "cto/code_review #1 -> retry on fallback model openai/gpt-5.4 (\"the agents are healthy\")")),
        ),
        (
            Some(1),
            decided(Decision::RunAgain { amendment: None }, DeciderKind::Human),
            Some(("human", "cto/code_review #1 -> run again (\"the agents are healthy\")")),
        ),
        (
            None,
            Happening::BreakerChanged {
                integration: anthropic(),
                from: "closed".to_owned(),
                to: "open".to_owned(),
                until: Some(at(80)),
                why: "5 failures in 30s".to_owned(),
            },
            Some(("breaker", "anthropic OPEN (was closed) until 01:20: 5 failures in 30s")),
        ),
        (
            None,
            Happening::GateClosed { integration: anthropic(), until: at(61), asked: "retry after 41s".to_owned() },
            Some(("gate", "anthropic says retry after 41s: the whole team keeps silent until 01:01")),
        ),
        (
            None,
            Happening::ProbeSent { integration: anthropic(), agent: agent("cto") },
            Some(("probe", "anthropic: one call, by cto, goes through to see")),
        ),
        (
            Some(1),
            Happening::Resumed {
                agent: agent("cto"),
                task_type: kind_of("code_review"),
                model: "openai/gpt-6-sol".parse().expect("a model"),
                steps: 6,
                usage: Usage { input: 4_000, output: 312, ..Usage::default() },
                micro_usd: None,
            },
            Some((
                "resume",
                "cto/code_review #1 goes on after step 6 on openai/gpt-6-sol: 4,312 tokens not paid again",
            )),
        ),
        (None, Happening::AgentStarted { agent: agent("cto"), incarnation: Incarnation(1) }, None),
        (
            None,
            Happening::AgentStarted { agent: agent("cto"), incarnation: Incarnation(2) },
            Some(("agent", "cto is back (start 2)")),
        ),
        (
            None,
            Happening::IncidentAcknowledged { incident: "INC-1".to_owned(), by: "you".to_owned() },
            Some(("human", "INC-1 acknowledged by you")),
        ),
        (None, Happening::IncidentUpdated { incident: "INC-1".to_owned(), dead_letters: 4 }, None),
    ];
    for (task, what, expected) in table {
        let told = line(&event(20, task, what), &names());
        assert_eq!(told.as_ref().map(|line| (line.word, line.text.as_str())), expected);
    }
}

#[test]
fn numbers_have_their_commas() {
    let table = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
    for (number, expected) in table {
        assert_eq!(grouped(number), expected);
    }
}

#[test]
fn a_done_task_is_told_only_when_it_has_a_story() {
    let done = Happening::Done {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        attempt: 2,
        generation: 1,
        model: None,
        usage: Usage::default(),
        micro_usd: None,
    };
    let mut names = names();
    assert_eq!(line(&event(20, Some(1), done.clone()), &names), None);
    names.note(&event(10, Some(1), retried(failure(Class::Validation, Kind::Schema, "x"), true, 10)));
    let told = line(&event(20, Some(1), done), &names).expect("a line");
    assert_eq!(told.text, "cto/code_review #1 done on attempt 2, with the error in its prompt");
}

#[test]
fn foreign_text_cannot_steer_the_terminal_nor_flood_it() {
    let hostile = format!("\x1b[2J\u{202e}\r\n{}", "x".repeat(5_000));
    let told =
        line(&event(20, Some(1), retried(failure(Class::Transient, Kind::Timeout, &hostile), false, 54)), &names());
    let text = told.expect("a line").text;
    assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
    assert!(text.len() < 400, "{}", text.len());
}

fn parked(task: u8, seconds: i64) -> Event {
    let what = Happening::Parked {
        agent: agent("cto"),
        task_type: kind_of("code_review"),
        why: Hold::BreakerOpen,
        integration: Some(anthropic()),
        until: at(130),
    };
    event(seconds, Some(task), what)
}

fn shown(screen: &mut Screen, now: i64) -> String {
    let mut out = Vec::new();
    screen.print(at(now), &mut out).expect("written");
    String::from_utf8(out).expect("text")
}

#[test]
fn what_happens_to_many_is_one_line_and_order_is_kept() {
    let mut screen = Screen::new(Style::default());
    for task in 1..=4 {
        screen.feed(&submitted(task, Effect::ReadOnly));
    }
    for task in 1..=4 {
        screen.feed(&parked(task, 10 + i64::from(task)));
    }
    screen.feed(&event(12, None, Happening::AgentStarted { agent: agent("cto"), incarnation: Incarnation(2) }));
    assert_eq!(shown(&mut screen, 18), "", "others like it may still come, and nothing overtakes");
    let expected = concat!(
        " 00:11 parked  4 tasks wait until 02:10: breaker of anthropic open; no delivery\n",
        "               spent (#1 #2 #3 #4)\n",
        " 00:12 agent   cto is back (start 2)\n",
    );
    assert_eq!(shown(&mut screen, 19), expected);
    assert_eq!(shown(&mut screen, 60), " 01:00         4 tasks: 4 parked\n");
    assert_eq!(shown(&mut screen, 61), "");
    assert_eq!(shown(&mut screen, 120), "", "the counters are the same");
}

#[test]
fn two_are_still_two_lines_and_waiting_on_is_no_news() {
    let mut screen = Screen::new(Style::default());
    for (task, seconds) in [(1, 10), (2, 10), (1, 11), (2, 12)] {
        screen.feed(&submitted(task, Effect::ReadOnly));
        screen.feed(&parked(task, seconds));
    }
    let text = shown(&mut screen, 30);
    assert_eq!(text.matches("cto/code_review #1 waits").count(), 1, "{text}");
    assert_eq!(text.matches("cto/code_review #2 waits").count(), 1, "{text}");
}

#[test]
fn of_the_calls_after_a_silence_only_the_first_is_told() {
    let mut screen = Screen::new(Style::default());
    let probe = |seconds| event(seconds, None, Happening::ProbeSent { integration: anthropic(), agent: agent("cto") });
    let gate = Happening::GateClosed { integration: anthropic(), until: at(61), asked: "retry after 41s".to_owned() };
    for told in [event(1, None, gate.clone()), probe(2), probe(3), event(4, None, gate), probe(5)] {
        screen.feed(&told);
    }
    assert_eq!(shown(&mut screen, 30).matches("goes through to see").count(), 2);
}

#[test]
fn no_row_is_wider_than_the_screen() {
    let long = "word ".repeat(60) + &"x".repeat(200);
    for row in wrap(&long, WIDTH - MARGIN) {
        assert!(row.chars().count() <= WIDTH - MARGIN, "{row}");
    }
    assert_eq!(wrap(&long, 65).concat().replace(' ', ""), long.replace(' ', ""));
    assert_eq!(wrap("", 65), [""]);
}

#[test]
fn without_style_there_is_no_escape_and_with_it_the_words_are_the_same() {
    let tell = |style| {
        let mut screen = Screen::new(style);
        screen.feed(&submitted(1, Effect::ReadOnly));
        screen.feed(&parked(1, 10));
        shown(&mut screen, 30)
    };
    let plain = tell(Style::default());
    assert!(!plain.contains('\x1b'));
    let coloured = tell(Style { colour: true, cursor: true });
    assert!(coloured.contains("\x1b[33mparked \x1b[0m") && coloured.contains("waits until 02:10"));
}
