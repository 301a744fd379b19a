//! Retries stay a share of first tries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::breaker::BreakerConfig;
use backstop::delivery::{Hold, Outcome, Settlement};
use backstop::failure::{Action, Class, Kind};
use backstop::llm::simulated::Scripted;
use backstop::record::State;
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::retry_budget::{RetryBudget, RetryBudgetConfig};
use backstop::settle::settle;
use backstop::task::{AgentName, TaskId};
use backstop::time::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::backoff::{facts, failure};
use crate::support::Roll;
use crate::team::{Stage, config, status};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "titles and sources are for readers of the table")]
struct Case {
    id: String,
    title: String,
    source: String,
    cfg: Option<Cfg>,
    steps: Option<Vec<Step>>,
    flood: Option<Flood>,
    parked: Option<Parked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cfg {
    ttl: u64,
    min_per_sec: u32,
    percent: f64,
}

impl Cfg {
    fn budget(&self) -> RetryBudget {
        let ttl = Duration::from_millis(self.ttl);
        RetryBudget::new(RetryBudgetConfig { ttl, min_per_sec: self.min_per_sec, percent: self.percent })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Withdraw(i64, String, bool),
    Deposit(i64, String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flood {
    cfg: Cfg,
    /// First tries a second; each fails, and so does every retry.
    rate: u32,
    seconds: u32,
    retries_max: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parked {
    kind: Option<String>,
    /// How many attempts it cost to find the budget empty.
    attempts_consumed: Option<u32>,
    /// By how much `retry_budget_exhausted` grew: once for each release for that reason.
    metric: Option<u32>,
    /// How much a full budget shrank.
    withdraws: Option<u64>,
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn steps(case: &Case, steps: &[Step]) {
    let mut budget = case.cfg.as_ref().expect("`steps` come with `cfg`").budget();
    for step in steps {
        match step {
            Step::Deposit(t, op) if op == "dep" => budget.deposit(at(*t)),
            Step::Withdraw(t, op, expected) if op == "wd" => {
                assert_eq!(budget.withdraw(at(*t)), *expected, "{} at {t}", case.id);
            }
            Step::Deposit(t, op) | Step::Withdraw(t, op, _) => panic!("{}: unknown step {op} at {t}", case.id),
        }
    }
}

/// Each first try fails, each granted retry fails and asks again a second later.
fn flood(case: &Case, flood: &Flood) {
    let mut budget = flood.cfg.budget();
    let mut retries = 0;
    let mut asking: Vec<i64> = Vec::new();
    for t in 0..i64::from(flood.seconds) * 1_000 {
        for _ in 0..due(flood.rate, t) {
            budget.deposit(at(t));
            asking.push(t);
        }
        let (now, later) = asking.into_iter().partition(|due| *due <= t);
        asking = later;
        let now: Vec<i64> = now;
        for _ in now {
            if budget.withdraw(at(t)) {
                retries += 1;
                asking.push(t + 1_000);
            }
        }
    }
    assert!(retries <= flood.retries_max, "{}: {retries} retries", case.id);
    assert!(retries > 0, "{}: a budget that allows nothing proves nothing", case.id);
}

/// How many of `rate` a second fall on this millisecond.
fn due(rate: u32, t: i64) -> i64 {
    let until = |t: i64| t * i64::from(rate) / 1_000;
    until(t + 1) - until(t)
}

fn parked(case: &Case, parked: &Parked) {
    let failure = match parked.kind.as_deref() {
        Some("validation") => failure(Class::Validation, Kind::Schema, Action::ModifyRequeue),
        None | Some("transient") => failure(Class::Transient, Kind::ServerError, Action::Backoff),
        Some(other) => panic!("{}: unknown kind {other}", case.id),
    };
    let policy = RetryPolicy::seed_b();
    let settled =
        |budget: &mut RetryBudget| settle(&facts(&policy), Outcome::Failed(failure.clone()), Some(budget), at(0), 0.0);
    let mut checked = 0;
    if parked.attempts_consumed.is_some() || parked.metric.is_some() {
        let empty = settled(&mut Cfg { ttl: 1_000, min_per_sec: 0, percent: 1.0 }.budget());
        let released = matches!(&empty, Settlement::Release { why: Hold::RetryBudget, due, failure: Some(_) }
            if *due == at(30_000));
        // A release costs no attempt and is counted by its reason; anything else would cost one.
        assert_eq!(u32::from(!released), parked.attempts_consumed.unwrap_or(0), "{}: {empty:?}", case.id);
        assert_eq!(u32::from(released), parked.metric.unwrap_or(1), "{}: {empty:?}", case.id);
        checked += 1;
    }
    if let Some(withdraws) = parked.withdraws {
        let mut full = Cfg { ttl: 1_000, min_per_sec: 5, percent: 1.0 }.budget();
        assert!(matches!(settled(&mut full), Settlement::Retry { .. }), "{}", case.id);
        assert_eq!(5 - full.left(at(0)), withdraws, "{}", case.id);
        checked += 1;
    }
    assert!(checked > 0, "{} says nothing", case.id);
}

const CASES: &str = include_str!("conformance/retry_budget.toml");

#[test]
fn the_retry_budget_follows_its_table() {
    let table: Table = toml::from_str(CASES).expect("a known table");
    let mut roll = Roll::of("retry_budget", CASES);
    for case in &table.case {
        match case {
            Case { steps: Some(found), .. } => steps(case, found),
            Case { flood: Some(found), .. } => flood(case, found),
            Case { parked: Some(found), .. } => parked(case, found),
            Case { id, .. } => panic!("{id} says nothing"),
        }
        roll.held(&case.id);
    }
    roll.complete();
}

/// Two hundred tasks that all fail until the switch is off. Their budget has 140 retries for them in ten seconds: 100 in
/// reserve, and one for each five that were begun; a retry waits for a second.
async fn two_hundred_fail(park_at_most: Duration) -> (Stage, Vec<TaskId>, Arc<AtomicBool>) {
    let mut wide = config();
    wide.breaker = BreakerConfig { failures: u32::MAX, ..BreakerConfig::default() };
    let each_second = Backoff::List(vec![Duration::from_secs(1)]);
    wide.retry = RetryPolicy { backoff: each_second, jitter: Jitter::None, park_at_most, ..RetryPolicy::seed_b() };
    let backend = AgentName::new("backend").expect("a name");
    wide.agents.get_mut(&backend).expect("the backend").concurrency = 200;
    let down = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&down);
    let stage = Stage::new(wide, move |_, _| match still.load(Ordering::Relaxed) {
        true => status(500, "{}"),
        false => Scripted::text("ok"),
    })
    .await;
    let mut ids = Vec::new();
    for n in 0..200 {
        ids.push(stage.submit_with("build", json!({ "n": n })).await);
    }
    (stage, ids, down)
}

/// Two hundred tasks failed at once. Those for whom the budget had no retry were held for a second and made then, taking
/// nothing out of it, and again after the next second: nine hundred calls of a provider that was to be spared.
#[tokio::test(start_paused = true)]
async fn a_retry_that_was_held_is_taken_out_of_the_budget_when_it_is_made() {
    let (stage, ids, down) = two_hundred_fail(Duration::from_secs(450)).await;
    // All that was taken out is remembered still.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let calls = stage.primary.calls();
    assert!((300..=340).contains(&calls), "{calls} calls of 200 tasks and 140 retries");
    down.store(false, Ordering::Relaxed);
    for id in ids {
        let record = stage.ended(id).await;
        assert_eq!((record.state, record.letter.is_none()), (State::Done, true));
    }
}

/// What may wait no longer is not given up on for the sake of our own budget: its retry is made, and counted all the same.
#[tokio::test(start_paused = true)]
async fn a_held_retry_is_made_before_its_patience_ends() {
    let (stage, ids, down) = two_hundred_fail(Duration::from_secs(4)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    down.store(false, Ordering::Relaxed);
    let mut waits = Vec::new();
    for id in ids {
        let record = stage.ended(id).await;
        assert_eq!((record.state, record.letter.is_none()), (State::Done, true));
        waits.push(record.ended_at.expect("an end").since(record.task.created_at).as_secs());
    }
    waits.sort_unstable();
    assert_eq!((waits[0], waits[120], waits[199]), (1, 1, 3), "those in the budget, and those beyond it: {waits:?}");
}
