//! The contract of engines as an executable suite: an engine is done when [`check`] passes.
//!
//! For those who write an engine of their own (feature `testing`): implement [`Site`] for a place it can be opened in,
//! and call [`check`] from a test. Each check gets a site of its own and panics with what is broken.

mod forget;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Incarnation;
use crate::dead_letter::Circumstances;
use crate::delivery::{Hold, Settlement, Spent};
use crate::engine::{Document, Engine, Error, KEY_RETENTION, LeaseAsk};
use crate::event::{Happening, NewEvent};
use crate::failure::{Action, Class, Failure, Fallback, Kind, Origin, Signal};
use crate::journal::{Ask, Entry, Intent, Line, Outcome, Purpose, Replied};
use crate::ledger::{Command, Refused};
use crate::query::{Filter, PAGE_MAX, PageAsk};
use crate::queue::FRESH_BETWEEN_RETRIES;
use crate::record::{Record, Seen, State};
use crate::task::{AgentName, Effect, IdempotencyKey, Integration, Priority, Task, TaskId, TaskType};
use crate::time::Timestamp;

pub use forget::prune;

/// A place one store lives in: empty at first, and opened again as often as asked.
pub trait Site {
    /// Opens the store as a new run of the process would. What was opened before has been dropped by the caller.
    fn open(&mut self, now: Timestamp) -> Arc<dyn Engine>;
}

type Check = for<'a> fn(&'a mut dyn Site) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Every check, by the sentence it keeps.
const CHECKS: &[(&str, Check)] = &[
    ("a key names one task until a day after it ended", |site| Box::pin(keys(site))),
    ("a hundred submissions at once make one task", |site| Box::pin(one_of_many(site))),
    ("a claim counts, fences and excludes everybody else", |site| Box::pin(claims(site))),
    ("a lease is void at its deadline and comes up as lapsed", |site| Box::pin(lapses(site))),
    ("what the process died under goes before what came later", |site| Box::pin(cut_off(site))),
    ("new work keeps its place", |site| Box::pin(keeps_its_place(site))),
    ("what is not due, held or overdue is not claimed", |site| Box::pin(waits(site))),
    ("events are numbered without gaps and committed with the change", |site| Box::pin(feed(site))),
    ("a journal is written under the lease, all of an entry or nothing", |site| Box::pin(journals(site))),
    ("documents are saved all together or not at all", |site| Box::pin(documents(site))),
    ("deaths and failures are counted", |site| Box::pin(counts(site))),
    ("listings match their filter and page without gaps", |site| Box::pin(listings(site))),
    ("what ended long ago is forgotten and still counted", |site| Box::pin(forget::forgets(site))),
    ("nothing is lost by a restart, and leases of before are void", |site| Box::pin(restarts(site))),
    ("a closed store says so", |site| Box::pin(closes(site))),
];

/// Checks the whole contract, each part on a site of its own; gives back what was checked.
///
/// # Panics
/// When the engine breaks a promise.
pub async fn check<S: Site>(mut make: impl FnMut() -> S) -> Vec<&'static str> {
    let mut kept = Vec::new();
    for (promise, check) in CHECKS {
        check(&mut make()).await;
        kept.push(*promise);
    }
    kept
}

/// `seconds` after the epoch.
#[must_use]
pub const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// An agent to test with.
///
/// # Panics
/// When it is no name.
#[must_use]
pub fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("a name")
}

/// An integration to test with.
///
/// # Panics
/// When it is no name.
#[must_use]
pub fn integration(name: &str) -> Integration {
    Integration::new(name).expect("a name")
}

/// A task for `cto` whose id is made of `n`; change what matters to the test.
#[must_use]
pub fn task(n: u64, now: Timestamp) -> Task {
    let mut dice = [0; 10];
    dice[2..].copy_from_slice(&n.to_be_bytes());
    Task {
        id: TaskId::new(now, dice),
        task_type: TaskType::new("code_review").expect("a name"),
        agent: agent("cto"),
        payload: json!({ "n": n }),
        effect: Effect::Mutation,
        priority: Priority::Normal,
        idempotency_key: None,
        deadline: None,
        tenant: None,
        prompt: None,
        created_at: now,
    }
}

/// A failure of a kind.
#[must_use]
pub fn failure(class: Class, kind: Kind, message: &str) -> Failure {
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
        integration: None,
        status: None,
        code: None,
        request_id: None,
    }
}

/// Asks for work for `cto`, for five minutes.
#[must_use]
pub fn ask(incarnation: u64, slots: u32) -> LeaseAsk {
    LeaseAsk {
        agent: agent("cto"),
        incarnation: Incarnation(incarnation),
        slots,
        lease_for: Duration::from_secs(300),
        except: Vec::new(),
    }
}

/// The holder is finished.
#[must_use]
pub fn settle(fence: u64, settlement: Settlement) -> Command {
    Command::Settle { fence, settlement, spent: Spent::default() }
}

/// Done, with an answer.
#[must_use]
pub fn ack() -> Settlement {
    Settlement::Ack { answer: json!({ "ok": true }) }
}

/// Given up.
#[must_use]
pub fn dead(failure: Failure) -> Settlement {
    let circumstances = Box::new(Circumstances::default());
    Settlement::DeadLetter { failure, why: "3 of 3 deliveries used".to_owned(), circumstances }
}

async fn submit(engine: &dyn Engine, task: Task, now: Timestamp) -> Record {
    engine.submit(task, integration("anthropic"), now).await.expect("accepted").record
}

async fn claim_one(engine: &dyn Engine, now: Timestamp) -> Record {
    let mut claimed = engine.lease(ask(1, 1), now).await.expect("leased");
    assert_eq!(claimed.len(), 1, "one task is claimed");
    claimed.remove(0)
}

async fn keys(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let keyed = |n, now, payload: Value| Task {
        idempotency_key: Some(IdempotencyKey::new("k1").expect("a key")),
        payload,
        ..task(n, now)
    };
    let send =
        |n, seconds, payload| engine.submit(keyed(n, at(seconds), payload), integration("anthropic"), at(seconds));
    let first = send(1, 0, json!({"a": 1, "b": 2})).await.expect("accepted");
    assert!(first.new);
    let again = send(2, 1, json!({"b": 2, "a": 1})).await.expect("recognized");
    assert_eq!((again.new, &again.record), (false, &first.record), "key order does not matter");
    match send(3, 2, json!({"a": 2})).await {
        Err(Error::KeyConflict { key, task }) => assert_eq!((key.as_str(), task), ("k1", first.record.task.id)),
        other => panic!("other content under the same key must be refused, not {other:?}"),
    }
    let fence = claim_one(&*engine, at(10)).await.fence;
    engine.command(first.record.task.id, settle(fence, ack()), at(20)).await.expect("settled");
    let last_second = 20 + i64::try_from(KEY_RETENTION.as_secs()).expect("a day") - 1;
    let known = send(4, last_second, json!({"a": 1, "b": 2})).await.expect("recognized");
    assert_eq!((known.new, known.record.state), (false, State::Done), "known until a day after the end");
    let forgotten = send(5, last_second + 1, json!({"a": 9})).await.expect("accepted");
    assert!(forgotten.new, "a key is forgotten a day after the end");
    let same = engine.submit(task(1, at(0)), integration("anthropic"), at(30)).await;
    assert!(matches!(same, Err(Error::SameId(_))), "an id is used once: {same:?}");
    assert_eq!(engine.balance().await.expect("balance").submitted, 2);
}

async fn one_of_many(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let send = |n| {
        let key = Some(IdempotencyKey::new("k").expect("a key"));
        let task = Task { idempotency_key: key, payload: json!({}), ..task(n, at(0)) };
        engine.submit(task, integration("anthropic"), at(0))
    };
    let answers = futures_util::future::join_all((0..100).map(send)).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("accepted")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.new).count(), 1, "exactly one is new");
    assert!(answers.iter().all(|answer| answer.record.task.id == answers[0].record.task.id), "all are the same task");
}

async fn claims(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let id = submit(&*engine, task(1, at(0)), at(0)).await.task.id;
    let claimed = claim_one(&*engine, at(1)).await;
    let lease = claimed.lease.clone().expect("a lease");
    assert_eq!((claimed.state, claimed.attempt, claimed.fence, lease.fence), (State::Running, 1, 1, 1));
    assert_eq!((lease.deadline, lease.epoch), (at(301), engine.epoch()));
    assert_eq!(engine.record(id).await.expect("read"), Some(claimed), "the claim is stored before anybody hears of it");
    assert_eq!(engine.lease(ask(2, 5), at(2)).await.expect("leased"), [], "nobody else gets it");
    for fence in [0, 2] {
        match engine.command(id, settle(fence, ack()), at(3)).await {
            Err(Error::Refused(Refused::Stale { said, current: 1 })) => assert_eq!(said, fence),
            other => panic!("a guessed fence must be stale, not {other:?}"),
        }
    }
    let renewed = engine
        .command(id, Command::Renew { fence: 1, lease_for: Duration::from_secs(300) }, at(100))
        .await
        .expect("renewed");
    assert_eq!(renewed.lease.map(|lease| lease.deadline), Some(at(400)));
    let done = engine.command(id, settle(1, ack()), at(399)).await.expect("settled");
    assert_eq!((done.state, done.answer, done.ended_at), (State::Done, Some(json!({"ok": true})), Some(at(399))));
    let twice = engine.command(id, settle(1, ack()), at(399)).await;
    assert!(matches!(twice, Err(Error::Refused(Refused::Stale { .. }))), "a second result is stale: {twice:?}");
    let nobody = task(9, at(0)).id;
    assert!(matches!(engine.command(nobody, settle(1, ack()), at(0)).await, Err(Error::NoTask(id)) if id == nobody));
    assert_eq!(engine.record(nobody).await.expect("read"), None);
}

async fn lapses(site: &mut dyn Site) {
    let engine = site.open(at(0));
    for n in 1..=3 {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    let first = claim_one(&*engine, at(0)).await;
    let second = engine.lease(ask(2, 1), at(10)).await.expect("leased").remove(0);
    assert_eq!(engine.lapsed(at(299), 9).await.expect("read"), []);
    assert_eq!(engine.lapsed(at(300), 9).await.expect("read"), std::slice::from_ref(&first), "void at its deadline");
    assert_eq!(
        engine.lapsed(at(310), 1).await.expect("read"),
        std::slice::from_ref(&first),
        "at most so many, the oldest first"
    );
    assert_eq!(engine.held_by(agent("cto"), None).await.expect("read"), [first.clone(), second.clone()]);
    assert_eq!(engine.held_by(agent("cto"), Some(Incarnation(2))).await.expect("read"), [second]);
    assert_eq!(engine.held_by(agent("cso"), None).await.expect("read"), []);
    let late = engine.command(first.task.id, settle(1, ack()), at(300)).await;
    assert!(matches!(late, Err(Error::Refused(Refused::Stale { .. }))), "late although nobody noticed: {late:?}");
    let failure = failure(Class::Infrastructure, Kind::LeaseLapsed, "silent");
    let settlement = Settlement::Retry { due: at(330), failure, amendment: None };
    let command = Command::Lapse { fence: 1, settlement, spent: Spent::default() };
    let lapsed = engine.command(first.task.id, command, at(300)).await.expect("lapsed");
    assert_eq!((lapsed.state, lapsed.attempt), (State::Scheduled, 1));
    assert_eq!(engine.lapsed(at(300), 9).await.expect("read"), []);
    let next = engine.lease(ask(1, 9), at(330)).await.expect("leased");
    assert_eq!(next.len(), 2, "the new one and the one that waited");
    assert!(next.iter().any(|record| record.task.id == first.task.id && record.fence == 2), "fences grow");
}

/// What the process died under stands in front again, all of it: a crowd that came later, and the share of retries, are behind.
async fn cut_off(site: &mut dyn Site) {
    let engine = site.open(at(0));
    for n in 1..=2 {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    let running = engine.lease(ask(1, 2), at(10)).await.expect("leased");
    for n in 3..=9 {
        submit(&*engine, task(n, at(11)), at(11)).await;
    }
    for record in &running {
        let failure = failure(Class::Infrastructure, Kind::ProcessDied, "gone");
        let settlement = Settlement::Retry { due: record.due, failure, amendment: None };
        let command = Command::Lapse { fence: record.fence, settlement, spent: Spent::default() };
        let again = engine.command(record.task.id, command, at(12)).await.expect("lapsed");
        assert_eq!((again.state, again.due, again.attempt), (State::Ready, at(0), 1));
    }
    drop(engine);
    let engine = site.open(at(12));
    let next = engine.lease(ask(1, 2), at(12)).await.expect("leased");
    let ids = |records: &[Record]| records.iter().map(|record| record.task.id).collect::<Vec<_>>();
    assert_eq!(ids(&next), ids(&running));
    // Again: it waits this time, and its place waits for it.
    for record in &next {
        let failure = failure(Class::Infrastructure, Kind::ProcessDied, "gone");
        let settlement = Settlement::Retry { due: at(42), failure, amendment: None };
        let command = Command::Lapse { fence: record.fence, settlement, spent: Spent::default() };
        engine.command(record.task.id, command, at(12)).await.expect("lapsed");
    }
    drop(engine);
    let engine = site.open(at(13));
    let other = engine.lease(ask(1, 1), at(41)).await.expect("leased");
    assert!(!ids(&running).contains(&other[0].task.id), "not due yet");
    assert_eq!(ids(&engine.lease(ask(1, 2), at(42)).await.expect("leased")), ids(&running));
    // A retry: when it was begun nobody stood before it, and of what was submitted since no more than the share that is
    // due to new work.
    drop(engine);
    let engine = site.open(at(50));
    let agent = agent("coo");
    let ask = LeaseAsk { agent: agent.clone(), ..ask(1, 1) };
    let of = |n, now| Task { agent: agent.clone(), ..task(n, now) };
    let id = submit(&*engine, of(21, at(51)), at(51)).await.task.id;
    for (begun, ended, due, kind) in [(52, 53, 54, Kind::Timeout), (55, 62, 70, Kind::ProcessDied)] {
        let record = engine.lease(ask.clone(), at(begun)).await.expect("leased").remove(0);
        let failure = failure(Class::Transient, kind, "gone");
        let settlement = Settlement::Retry { due: at(due), failure, amendment: None };
        let command = Command::Lapse { fence: record.fence, settlement, spent: Spent::default() };
        engine.command(id, command, at(ended)).await.expect("lapsed");
    }
    for n in 22..=29 {
        submit(&*engine, of(n, at(62)), at(62)).await;
    }
    drop(engine);
    let engine = site.open(at(63));
    let ask = LeaseAsk { slots: FRESH_BETWEEN_RETRIES + 1, ..ask };
    assert!(ids(&engine.lease(ask, at(70)).await.expect("leased")).contains(&id));
}

/// What was handed back or waited at a hold goes before what was submitted later, whenever it is due.
async fn keeps_its_place(site: &mut dyn Site) {
    let engine = site.open(at(0));
    for n in 1..=3 {
        submit(&*engine, task(n, at(0)), at(i64::try_from(n).expect("small"))).await;
    }
    let back = claim_one(&*engine, at(4)).await;
    let settlement = Settlement::Release { due: at(8), why: Hold::Drain, failure: None };
    engine.command(back.task.id, settle(back.fence, settlement), at(5)).await.expect("handed back");
    drop(engine);
    let engine = site.open(at(6));
    let next = engine.lease(ask(1, 1), at(8)).await.expect("leased");
    assert_eq!(next[0].task.id, back.task.id);
    assert_eq!(engine.lease(ask(1, 9), at(8)).await.expect("leased").len(), 2);
}

async fn waits(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let held = submit(&*engine, task(1, at(0)), at(0)).await;
    let until = Command::Park { seen: Seen::of(&held), until: at(60), why: Hold::Gate };
    assert_eq!(engine.command(held.task.id, until, at(0)).await.expect("parked").state, State::Parked);
    let other = engine.submit(task(2, at(0)), integration("openai"), at(0)).await.expect("accepted").record;
    let deadline = submit(&*engine, Task { deadline: Some(at(30)), ..task(3, at(0)) }, at(0)).await;
    assert_eq!(engine.next_due(at(0)).await.expect("read"), Some(at(30)), "the deadline of a waiting task");
    assert_eq!(engine.next_due(at(30)).await.expect("read"), Some(at(60)), "what is due already is not told again");
    assert_eq!(engine.overdue(at(29), 9).await.expect("read"), []);
    assert_eq!(engine.overdue(at(30), 9).await.expect("read"), std::slice::from_ref(&deadline));
    let except = LeaseAsk { except: vec![integration("openai")], ..ask(1, 9) };
    assert_eq!(engine.lease(except, at(30)).await.expect("leased"), [], "overdue, held and parked are left");
    let claimed = engine.lease(ask(1, 9), at(30)).await.expect("leased");
    assert_eq!(claimed.iter().map(|record| record.task.id).collect::<Vec<_>>(), [other.task.id]);
    let failure = failure(Class::Logic, Kind::Deadline, "too late");
    let seen = Seen::of(&deadline);
    let give_up = Command::GiveUp { seen, failure, why: "its deadline".to_owned(), circumstances: Box::default() };
    engine.command(deadline.task.id, give_up, at(31)).await.expect("given up");
    assert_eq!(engine.overdue(at(31), 9).await.expect("read"), []);
    assert_eq!(engine.next_due(at(60)).await.expect("read"), Some(at(330)), "the end of a lease");
    assert_eq!(engine.lease(ask(1, 9), at(60)).await.expect("leased").len(), 1, "parked until then, no longer");
}

async fn feed(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let watch = engine.watch();
    let id = submit(&*engine, task(1, at(0)), at(0)).await.task.id;
    claim_one(&*engine, at(1)).await;
    let _refused = engine.command(id, settle(7, ack()), at(2)).await.expect_err("a guess");
    engine.command(id, settle(1, ack()), at(3)).await.expect("settled");
    let started: NewEvent = Happening::TeamStarted { epoch: 1, agents: 7, open_tasks: 0 }.into();
    engine.publish(vec![started.clone()], at(4)).await.expect("published");
    let events = engine.events(0, 100).await.expect("read");
    let told: Vec<_> = events.iter().map(|event| (event.seq, event.at, event.task)).collect();
    assert_eq!(told, [(1, at(0), Some(id)), (2, at(1), Some(id)), (3, at(3), Some(id)), (4, at(4), None)]);
    assert_eq!(events[3].what, started.what);
    assert_eq!(*watch.borrow(), 4, "the watch follows what is committed");
    assert_eq!(engine.events(2, 1).await.expect("read"), events[2..3]);
    assert_eq!(engine.history(id).await.expect("read"), events[..3]);
    let stranger = NewEvent { task: Some(task(9, at(0)).id), what: started.what.clone() };
    let refused = engine.publish(vec![started, stranger], at(5)).await;
    assert!(matches!(refused, Err(Error::NoTask(_))), "an event about no task: {refused:?}");
    assert_eq!(engine.events(4, 9).await.expect("read"), [], "all or nothing");
}

async fn journals(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let other = submit(&*engine, task(2, at(0)), at(0)).await;
    submit(&*engine, task(1, at(0)), at(1)).await;
    let record = claim_one(&*engine, at(1)).await;
    let id = record.task.id;
    assert_eq!(id, other.task.id, "first come, first served");
    let entry = |fence, lines| Entry { fence, lines, ..Entry::default() };
    let asked = |worst| Line::Intend { intent: intent(), worst };
    let written = engine.journal(id, entry(record.fence, vec![asked(7)]), at(2)).await.expect("written");
    assert_eq!((written.record.state, written.steps.len(), written.steps[0].number), (State::Running, 1, 1));
    for (fence, now) in [(record.fence + 1, at(2)), (record.fence, at(301))] {
        let late = engine.journal(id, entry(fence, vec![asked(1)]), now).await;
        assert!(matches!(late, Err(Error::Refused(Refused::Stale { .. }))), "an intent needs the lease: {late:?}");
    }
    let nobody = TaskId::new(at(0), [9; 10]);
    let none = engine.journal(nobody, entry(1, vec![asked(1)]), at(2)).await;
    assert!(matches!(none, Err(Error::NoTask(_))), "{none:?}");

    // All or nothing: the second line names no step, so the first is not written either.
    let half = vec![asked(1), conclude(99, 5)];
    let refused = engine.journal(id, entry(record.fence, half), at(2)).await;
    assert!(matches!(refused, Err(Error::Refused(Refused::NoStep { step: 99 }))), "{refused:?}");
    let ack = settle(record.fence + 1, ack());
    let refused = Entry { command: Some(ack), ..entry(record.fence, vec![conclude(1, 5)]) };
    let refused = engine.journal(id, refused, at(2)).await;
    assert!(matches!(refused, Err(Error::Refused(Refused::Stale { .. }))), "{refused:?}");
    let steps = engine.steps(id).await.expect("read");
    assert_eq!((steps.len(), steps[0].outcome.is_none()), (1, true), "a refused command keeps the lines out too");

    // What a delivery knows is taken also when its lease is over; what is known stands.
    engine.journal(id, entry(record.fence, vec![conclude(1, 5)]), at(400)).await.expect("known");
    let again = engine.journal(id, entry(record.fence, vec![conclude(1, 6)]), at(401)).await.expect("the same");
    assert_eq!((again.steps[0].counted, again.steps[0].ended_at), (5, Some(at(400))), "said twice is said once");
    let other = Outcome::Replied(Box::new(Replied { text: "else".to_owned(), ..Replied::default() }));
    let again = Line::Conclude { step: 1, outcome: other, counted: 6 };
    let again = engine.journal(id, entry(record.fence, vec![again]), at(401)).await;
    assert!(matches!(again, Err(Error::Refused(Refused::Concluded { step: 1 }))), "{again:?}");
    let second = claim_one(&*engine, at(2)).await;
    let lines = vec![asked(3), asked(0)];
    engine.journal(second.task.id, entry(second.fence, lines), at(3)).await.expect("written");
    let told = Happening::Released {
        agent: agent("cto"),
        task_type: second.task.task_type.clone(),
        why: Hold::Drain,
        due: at(3),
        model: None,
        usage: Default::default(),
        micro_usd: None,
    };
    let done = Entry {
        events: vec![told.clone()],
        command: Some(settle(second.fence, self::ack())),
        ..entry(second.fence, vec![conclude(1, 2)])
    };
    let done = engine.journal(second.task.id, done, at(4)).await.expect("written");
    assert_eq!((done.record.state, done.steps[0].counted), (State::Done, 2));
    let history = engine.history(second.task.id).await.expect("read");
    assert_eq!(history.iter().filter(|event| event.what == told).count(), 1, "told with it");

    let spent: Vec<(i64, u64)> = engine
        .spendings(at(1))
        .await
        .expect("read")
        .iter()
        .map(|spent| (spent.at.millis() / 1_000, spent.micro_usd))
        .collect();
    assert_eq!(spent, [(2, 5), (3, 2)], "what counts for nothing is left out");
    assert!(engine.spendings(at(3)).await.expect("read").is_empty(), "later than, not at");
    let before = (engine.steps(id).await.expect("read"), engine.steps(second.task.id).await.expect("read"));
    drop(engine);
    let engine = site.open(at(500));
    let after = (engine.steps(id).await.expect("read"), engine.steps(second.task.id).await.expect("read"));
    assert_eq!(before, after, "a restart changes no journal");
    assert!(engine.steps(nobody).await.expect("read").is_empty());
}

/// A call of a model that is about to be made.
#[must_use]
pub fn intent() -> Intent {
    Intent::Ask(Box::new(Ask {
        model: "anthropic/claude-opus-5-5".parse().expect("a model"),
        purpose: Purpose::Work,
        hash: String::new(),
        fresh: true,
        system: None,
        said: Vec::new(),
        amended: 0,
        compaction: None,
    }))
}

/// A step that was answered, and what that counts in millionths of a US dollar.
#[must_use]
pub fn conclude(step: u32, counted: u64) -> Line {
    Line::Conclude { step, outcome: Outcome::Replied(Box::default()), counted }
}

async fn documents(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let document = |key: &str, version| Document {
        kind: "incident".to_owned(),
        key: key.to_owned(),
        version,
        body: json!({ "v": version }),
    };
    let told = || vec![NewEvent::from(Happening::Draining { running: 0 })];
    engine.save(vec![document("b", 0), document("a", 0)], told(), at(0)).await.expect("saved");
    for wrong in [0, 2] {
        match engine.save(vec![document("c", 0), document("a", wrong)], told(), at(1)).await {
            Err(Error::DocumentConflict { kind, key }) => assert_eq!((kind.as_str(), key.as_str()), ("incident", "a")),
            other => panic!("a stale version must be refused, not {other:?}"),
        }
    }
    let saves = engine.saves();
    engine.save(vec![document("a", 1)], told(), at(2)).await.expect("saved");
    assert!(saves.is_none() || engine.saves() != saves, "who counts saves counts each");
    let stored = engine.documents("incident").await.expect("read");
    let versions: Vec<_> = stored.iter().map(|stored| (stored.key.as_str(), stored.version, &stored.body)).collect();
    assert_eq!(versions, [("a", 2, &json!({"v": 1})), ("b", 1, &json!({"v": 0}))]);
    assert_eq!(engine.documents("page").await.expect("read"), []);
    assert_eq!(engine.events(0, 9).await.expect("read").len(), 2, "a refused save tells nothing");
}

async fn counts(site: &mut dyn Site) {
    let engine = site.open(at(0));
    let overloaded = failure(Class::Transient, Kind::Overloaded, "busy");
    for n in 0..3 {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    for (seconds, settlement) in [
        (3_599, Settlement::Retry { due: at(3_599), failure: overloaded.clone(), amendment: None }),
        (3_600, Settlement::Release { due: at(9_999), why: Hold::Gate, failure: Some(overloaded.clone()) }),
        (3_601, dead(overloaded.clone())),
        (7_201, dead(failure(Class::Logic, Kind::Loop, "in circles"))),
    ] {
        let claimed = claim_one(&*engine, at(seconds)).await;
        engine.command(claimed.task.id, settle(claimed.fence, settlement), at(seconds)).await.expect("settled");
    }
    let rates = async |since| -> Vec<_> {
        let rates = engine.failure_rates(since).await.expect("read");
        rates.iter().map(|rate| (rate.agent.to_string(), rate.class, rate.failures)).collect()
    };
    let expect = |class, failures| ("cto".to_owned(), class, failures);
    assert_eq!(rates(at(0)).await, [expect(Class::Transient, 3), expect(Class::Logic, 1)]);
    assert_eq!(rates(at(3_599)).await, [expect(Class::Transient, 2), expect(Class::Logic, 1)], "after, not at");
    assert_eq!(rates(at(3_600)).await, [expect(Class::Transient, 1), expect(Class::Logic, 1)]);
    assert_eq!(rates(at(7_201)).await, []);
    let deaths = engine.deaths(at(3_600)).await.expect("read");
    let told: Vec<_> = deaths.iter().map(|death| (death.at, death.generation, death.kind)).collect();
    assert_eq!(told, [(at(3_601), 1, Kind::Overloaded), (at(7_201), 1, Kind::Loop)]);
    assert_eq!(engine.deaths(at(3_601)).await.expect("read").len(), 1);
    let balance = engine.balance().await.expect("read");
    assert_eq!((balance.submitted, balance.dead, balance.parked, balance.lost()), (3, 2, 1, 0));
    let depths = engine.depths().await.expect("read");
    let told: Vec<_> = depths.iter().map(|depth| (depth.agent.as_str(), depth.state, depth.tasks)).collect();
    assert_eq!(told, [("cto", State::Parked, 1), ("cto", State::Dead, 2)]);
}

async fn listings(site: &mut dyn Site) {
    let engine = site.open(at(0));
    for n in 0..7 {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    for n in 0..5 {
        let claimed = claim_one(&*engine, at(10)).await;
        // Two of them at the same moment: the order must hold all the same.
        let now = at(10 + n / 2);
        let message = if n == 3 { "Straße ZU" } else { "busy" };
        let fate = dead(failure(Class::Transient, Kind::Overloaded, message));
        engine.command(claimed.task.id, settle(1, fate), now).await.expect("settled");
    }
    for oldest_first in [false, true] {
        let mut seen = Vec::new();
        let mut page = PageAsk { after: None, limit: 2, oldest_first };
        loop {
            let found = engine.dead_letters(Filter::default(), page.clone()).await.expect("read");
            seen.extend(found.items.into_iter().map(|record| record.task.payload["n"].as_u64().expect("a number")));
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, if oldest_first { [0, 1, 2, 3, 4] } else { [4, 3, 2, 1, 0] });
    }
    let all = engine.records(Filter::default(), PageAsk { limit: 3, ..PageAsk::default() }).await.expect("read");
    assert_eq!(all.items.iter().map(|record| &record.task.payload["n"]).collect::<Vec<_>>(), [6, 5, 4]);
    let rest = PageAsk { after: all.next, limit: u32::MAX, oldest_first: false };
    assert_eq!(engine.records(Filter::default(), rest).await.expect("read").items.len(), 4);
    let text = Filter { text: Some("straSSE zu".replace("SS", "ß")), ..Filter::default() };
    assert_eq!(engine.dead_letters(text, PageAsk::default()).await.expect("read").items.len(), 1);
    let since = Filter { since: Some(at(11)), until: Some(at(12)), ..Filter::default() };
    assert_eq!(engine.dead_letters(since, PageAsk::default()).await.expect("read").items.len(), 2, "from, and before");
    for cursor in ["", "nonsense", "t", "t1x", "d1", "t-1", "d1.1.1"] {
        let page = PageAsk { after: Some(cursor.to_owned()), ..PageAsk::default() };
        for answer in [
            engine.records(Filter::default(), page.clone()).await,
            engine.dead_letters(Filter::default(), page.clone()).await,
        ] {
            assert!(matches!(&answer, Err(Error::BadCursor(text)) if text == cursor), "{cursor}: {answer:?}");
        }
    }
    for n in 100..100 + u64::from(PAGE_MAX) {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    let most = PageAsk { limit: u32::MAX, ..PageAsk::default() };
    let page = engine.records(Filter::default(), most).await.expect("read");
    assert_eq!(page.items.len(), PAGE_MAX as usize, "a page has an end");
    assert!(page.next.is_some());
}

async fn restarts(site: &mut dyn Site) {
    let engine = site.open(at(5));
    let epoch = engine.epoch();
    let running = submit(&*engine, Task { tenant: Some("blue".to_owned()), ..task(1, at(5)) }, at(5)).await;
    let held = claim_one(&*engine, at(6)).await;
    let waiting = submit(&*engine, task(2, at(6)), at(6)).await;
    let document = Document { kind: "page".to_owned(), key: "p".to_owned(), version: 0, body: json!(null) };
    engine.save(vec![document], Vec::new(), at(99)).await.expect("saved");
    let before = (engine.events(0, 99).await.expect("read"), engine.documents("page").await.expect("read"));
    engine.close().await.expect("closed");
    drop(engine);

    let engine = site.open(at(7));
    assert_eq!(engine.epoch(), epoch + 1, "every start is an epoch");
    assert_eq!(engine.high_water(), at(99), "time does not go back");
    let after = (engine.events(0, 99).await.expect("read"), engine.documents("page").await.expect("read"));
    assert_eq!(before, after);
    assert_eq!(*engine.watch().borrow(), 3);
    assert_eq!(engine.record(running.task.id).await.expect("read"), Some(held.clone()));
    assert_eq!(engine.record(waiting.task.id).await.expect("read"), Some(waiting.clone()));
    assert_eq!(engine.lapsed(at(7), 9).await.expect("read"), [held], "leases of before are void at once");
    let old = engine.command(running.task.id, settle(1, ack()), at(8)).await;
    assert!(matches!(old, Err(Error::Refused(Refused::Stale { .. }))), "said under a lease of before: {old:?}");
    assert_eq!(claim_one(&*engine, at(8)).await.task.id, waiting.task.id, "what waited still waits");
    let third = submit(&*engine, task(3, at(8)), at(8)).await;
    assert_eq!(engine.history(third.task.id).await.expect("read")[0].seq, 5, "numbers go on");
}

async fn closes(site: &mut dyn Site) {
    let engine = site.open(at(0));
    engine.writable().await.expect("writable");
    engine.close().await.expect("closed");
    let answer = engine.submit(task(1, at(0)), integration("anthropic"), at(0)).await;
    assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
    assert!(matches!(engine.balance().await, Err(Error::Closed)));
    assert!(matches!(engine.writable().await, Err(Error::Closed)));
    engine.close().await.expect("closing twice is closing");
}
