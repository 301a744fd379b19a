//! When a server says when to come back, nobody comes earlier.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::breaker::BreakerConfig;
use backstop::cause::{Cause, Fault, LlmFailure, Phase};
use backstop::failure::Failure;
use backstop::guard::{Admission, Guard, Report};
use backstop::hint::{Seen, Wait, asked, wait};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::task::Effect;
use backstop::time::Timestamp;
use serde::Deserialize;

use crate::classification::observe::blank;
use crate::support::Roll;

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
    /// Instead of the table's, in ms.
    max_wait: Option<u64>,
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
    for case in &table.case {
        match &case.gate {
            Some(gate) => check_gate(case, gate),
            None => check_wait(case, table.max_wait),
        }
        roll.held(&case.id);
    }
    roll.complete();
}

fn check_wait(case: &Case, max_wait: u64) {
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
    let said = asked(&Seen { status: case.status, headers: &headers, body: &case.body, at });
    let backoff = Duration::from_millis(case.backoff.unwrap_or_else(|| panic!("{about}: no backoff")));
    let found = wait(backoff, said, Duration::from_millis(case.max_wait.unwrap_or(max_wait)));
    match (case.wait, case.action.as_deref()) {
        (Some(millis), None | Some("retry" | "wait")) => {
            assert_eq!(found, Wait::For(Duration::from_millis(millis)), "{about}");
        }
        (None, Some("too_long")) => assert!(matches!(found, Wait::TooLong(_)), "{about}: {found:?}"),
        (wait, action) => panic!("{about}: cannot expect wait {wait:?} with action {action:?}"),
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
    let call = LlmFailure {
        headers: vec![("retry-after".to_owned(), retry_after.to_string())],
        ..blank("anthropic", Phase::Headers, Fault::Status, Some(429), at)
    };
    match classify(&Cause::Llm(Box::new(call)), &Scene::new(Effect::ReadOnly, at)) {
        Judgement::Failed(failure) => failure,
        Judgement::Cancelled | Judgement::Continue => panic!("a 429 is a failure"),
    }
}
