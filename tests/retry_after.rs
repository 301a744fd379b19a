//! When a server says when to come back, nobody comes earlier.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::breaker::BreakerConfig;
use backstop::cause::{Cause, Fault, LlmFailure, Phase};
use backstop::delivery::{Hold, Outcome, Settlement};
use backstop::failure::Failure;
use backstop::guard::{Admission, Guard, Report};
use backstop::hint::{Seen, asked};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::settle::{HINT_MAX, settle};
use backstop::task::Effect;
use backstop::time::{Timestamp, format_duration};
use serde::Deserialize;

use crate::backoff::facts;
use crate::classification::observe::blank;
use crate::support::{Roll, say};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The longest wait that is slept, in ms.
    max_wait: u64,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    #[serde(rename = "source")]
    _source: String,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMore>,
    #[serde(default)]
    body: String,
    /// Our wall clock at receipt.
    recv: Option<String>,
    /// What the policy alone would wait, in ms.
    backoff: Option<u64>,
    /// What is waited, in ms.
    wait: Option<u64>,
    action: Option<String>,
    gate: Option<Gate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Several tasks of one integration; the first call is answered 429 with `retry_after` seconds.
#[derive(Deserialize)]
struct Gate {
    tasks: usize,
    first_429_at: u64,
    retry_after: u64,
    #[serde(flatten)]
    calls: BTreeMap<String, usize>,
}

const CASES: &str = include_str!("conformance/retry_after.toml");

#[test]
fn every_server_is_given_the_time_it_asked_for() {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("retry_after", CASES);
    let max_wait = Duration::from_millis(table.max_wait);
    for case in &table.case {
        match &case.gate {
            Some(gate) => check_gate(case, gate),
            None => check_wait(case, max_wait),
        }
        roll.held(&case.id);
    }
    roll.complete();
    // No case lies between the two.
    let [ours, theirs] = [HINT_MAX, max_wait].map(format_duration);
    say(&format!("conformance retry_after: max_wait, otherwise than the table says: {ours} for its {theirs}"));
}

/// What becomes of a call that was answered so.
#[derive(Debug, PartialEq)]
enum Becomes {
    /// It is made again after so long.
    After(Duration),
    /// It is not slept on: the task is parked, and then it is the CEO's.
    Parked,
}

fn check_wait(case: &Case, max_wait: Duration) {
    let about = format!("{}: {}", case.id, case.title);
    let mut headers = Vec::new();
    for (name, value) in &case.headers {
        let name = name.to_lowercase();
        match value {
            OneOrMore::One(value) => headers.push((name, value.clone())),
            OneOrMore::More(values) => headers.extend(values.iter().map(|value| (name.clone(), value.clone()))),
        }
    }
    let at = case.recv.as_deref().map_or(Timestamp::from_millis(0), |at| Timestamp::parse(at).expect("a time"));
    let backoff = Duration::from_millis(case.backoff.unwrap_or_else(|| panic!("{about}: no backoff")));
    if case.status.is_some_and(|status| status < 400) {
        // Nothing failed, so nothing is made again; and the one who reads hints sees none.
        let seen = Seen { status: case.status, headers: &headers, body: &case.body, at };
        assert_eq!((asked(&seen), case.wait, backoff), (None, Some(0), Duration::ZERO), "{about}");
        return;
    }
    let call = LlmFailure {
        headers,
        body: case.body.clone(),
        ..blank("anthropic", Phase::Headers, Fault::Status, case.status, at)
    };
    let failure = judged(call, at);
    match (case.wait, case.action.as_deref()) {
        (Some(millis), None | Some("retry" | "wait")) => {
            let wait = Duration::from_millis(millis);
            assert!(wait <= HINT_MAX.min(max_wait), "{about}: longer than anybody should sleep");
            assert_eq!(becomes(&failure, backoff, at, 0.0), Becomes::After(wait), "{about}");
            // Jitter comes on top, and is never below.
            match becomes(&failure, backoff, at, 0.999) {
                Becomes::After(spread) => assert!(spread >= wait && spread <= wait.mul_f64(1.1), "{about}: {spread:?}"),
                Becomes::Parked => panic!("{about}: parked for its jitter"),
            }
        }
        (None, Some("too_long")) => {
            assert!(failure.retry_after.is_some_and(|asked| asked > max_wait), "{about}: {failure:?}");
            assert_eq!(becomes(&failure, backoff, at, 0.0), Becomes::Parked, "{about}");
        }
        (wait, action) => panic!("{about}: cannot expect wait {wait:?} with action {action:?}"),
    }
}

/// A first delivery fails so, under a policy that alone would wait for `backoff`.
fn becomes(failure: &Failure, backoff: Duration, now: Timestamp, roll: f64) -> Becomes {
    let policy =
        RetryPolicy { backoff: Backoff::List(vec![backoff]), jitter: Jitter::None, ..RetryPolicy::team_default() };
    match settle(&facts(&policy), Outcome::Failed(failure.clone()), None, now, roll) {
        Settlement::Retry { due, .. } => Becomes::After(due.since(now)),
        Settlement::Release { why: Hold::Gate | Hold::IntegrationParked, .. } => Becomes::Parked,
        other @ (Settlement::Ack { .. }
        | Settlement::Release { .. }
        | Settlement::Held { .. }
        | Settlement::DeadLetter { .. }) => panic!("{failure:?}: {other:?}"),
    }
}

/// All tasks share the guard of the integration. Whoever is held comes back when told; every call but the first goes
/// well and takes no time. Time jumps from event to event.
fn check_gate(case: &Case, gate: &Gate) {
    let about = format!("{}: {}", case.id, case.title);
    let second = |seconds: u64| Timestamp::from_millis(i64::try_from(seconds * 1_000).expect("a short time"));
    let mut guard = Guard::new(BreakerConfig::default());
    let mut due: Vec<Timestamp> = vec![second(gate.first_429_at); gate.tasks];
    let mut calls: Vec<Timestamp> = Vec::new();
    let mut rounds = 0;
    while let Some(next) = (0..due.len()).min_by_key(|task| due[*task]) {
        let now = due[next];
        rounds += 1;
        assert!(rounds < 10_000, "{about}: they never get through");
        let permit = match guard.admit(now, 0.0) {
            Admission::Held { until, .. } => {
                assert!(until > now, "{about}: told to come back at once");
                due[next] = until;
                continue;
            }
            Admission::Go(permit) => permit,
        };
        calls.push(now);
        if calls.len() == 1 {
            let failure = rate_limited(gate.retry_after, now);
            due[next] = now + failure.retry_after.expect("a hint");
            guard.report(permit, Report::Failed(&failure), now);
        } else {
            due.swap_remove(next);
            guard.report(permit, Report::Healthy, now);
        }
    }
    for (key, count) in &gate.calls {
        let counted = |limit: &str, before: bool| {
            let limit = second(limit.parse().unwrap_or_else(|_| panic!("{about}: unknown key {key}")));
            calls.iter().filter(|at| (**at < limit) == before).count()
        };
        let (least, key) = key.strip_suffix("_min").map_or((false, key.as_str()), |key| (true, key));
        let key = key.strip_suffix('s').unwrap_or(key);
        let found = match (key.strip_prefix("calls_before_"), key.strip_prefix("calls_at_or_after_")) {
            (Some(limit), _) => counted(limit, true),
            (_, Some(limit)) => counted(limit, false),
            (None, None) => panic!("{about}: unknown key {key}"),
        };
        assert!(if least { found >= *count } else { found == *count }, "{about}: {key}: {found} calls, {calls:?}");
    }
}

fn rate_limited(retry_after: u64, at: Timestamp) -> Failure {
    let headers = vec![("retry-after".to_owned(), retry_after.to_string())];
    judged(LlmFailure { headers, ..blank("anthropic", Phase::Headers, Fault::Status, Some(429), at) }, at)
}

fn judged(call: LlmFailure, at: Timestamp) -> Failure {
    match classify(&Cause::Llm(Box::new(call)), &Scene::new(Effect::ReadOnly, at)) {
        Judgement::Failed(failure) => failure,
        Judgement::Cancelled | Judgement::Continue => panic!("an error status is a failure"),
    }
}
