//! How long a decision takes, beside reading the clock and hashing a line in the same run.
//!
//! `cargo bench --bench decide`. Goals: less than 5 µs to classify a failure, 2 µs to settle a delivery, 1 µs for a breaker
//! to admit a call and hear of its end, 20 µs for a triage.

#[path = "../tests/classification/observe.rs"]
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use backstop::agent::{Agent, Incarnation};
use backstop::breaker::BreakerConfig;
use backstop::dead_letter::Circumstances;
use backstop::delivery::{Outcome, Settlement, Spent};
use backstop::engine::conformance::{at, integration, task};
use backstop::failure::Failure;
use backstop::guard::{Admission, Guard, Report};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::ledger::{self, Command};
use backstop::record::Record;
use backstop::retry::RetryPolicy;
use backstop::settle::{SettleFacts, settle};
use backstop::task::Effect;
use backstop::time::Timestamp;
use backstop::triage::{self, AgentFacts, Condition, Facts};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Calls between two looks at the clock: one look costs as much as a quick decision.
const BATCH: u32 = 64;
/// Batches of which the median is taken.
const BATCHES: usize = 301;

fn main() {
    let clock = median(now);
    let hash = median(|| Sha256::digest(black_box([7_u8; 64])));
    println!("for comparison: the clock {clock:?}, SHA-256 of 64 bytes {hash:?}\n");
    let failures = classified(hash);
    settled(hash, &failures);
    guarded(hash, &failures);
    triaged(hash, &failures);
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// The median over batches of what one call takes.
fn median<T>(mut call: impl FnMut() -> T) -> Duration {
    let mut spans: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let started = now();
            (0..BATCH).for_each(|_| drop(black_box(call())));
            now().duration_since(started) / BATCH
        })
        .collect();
    spans.sort();
    spans[BATCHES / 2]
}

/// Every row of the corpus of failures seen in the field.
fn classified(hash: Duration) -> Vec<Failure> {
    let text = include_str!("../tests/conformance/provider-failures.json");
    let file: Value = serde_json::from_str(text).expect("JSON");
    let at = Timestamp::parse(file["now"].as_str().expect("now")).expect("a time");
    let scene = Scene::new(Effect::ReadOnly, at);
    let (mut spans, mut failures) = (Vec::new(), Vec::new());
    for row in file["rows"].as_array().expect("rows") {
        let Some(cause) = observe::row(row, at) else { continue };
        let span = median(|| classify(black_box(&cause), &scene));
        spans.push((span, row["id"].as_str().expect("an id").to_owned()));
        if let Judgement::Failed(failure) = classify(&cause, &scene) {
            failures.push(failure);
        }
    }
    spans.sort();
    let (middle, (worst, id)) = (spans[spans.len() / 2].0, spans.last().expect("rows"));
    println!("classify, {} rows: median {middle:.1?} = {:.1} hashes (goal 5 µs)", spans.len(), over(middle, hash));
    println!("classify, worst row: {worst:.1?} = {:.1} hashes ({id})", over(*worst, hash));
    failures
}

fn settled(hash: Duration, failures: &[Failure]) {
    let policy = RetryPolicy::default();
    let facts = SettleFacts {
        effect: Effect::ReadOnly,
        attempt: 1,
        due: Timestamp::from_millis(0),
        crashes: 0,
        outcome_unknown: false,
        previous_delay: Duration::ZERO,
        deadline: None,
        policy: &policy,
        integration: Some(integration("anthropic")),
        probe: false,
        given_back: 0,
        own: true,
        hold: None,
        parked_for: Duration::ZERO,
        correction: None,
        same_output_again: false,
        circumstances: Circumstances::default(),
    };
    let spans = failures.iter().map(|failure| {
        // The outcome is made outside: it is the caller's, and given away.
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut batches: Vec<Duration> = (0..BATCHES)
            .map(|_| {
                outcomes.extend((0..BATCH).map(|_| Outcome::Failed(failure.clone())));
                let started = now();
                outcomes.drain(..).for_each(|outcome| drop(black_box(settle(&facts, outcome, None, at(0), 0.5))));
                now().duration_since(started) / BATCH
            })
            .collect();
        batches.sort();
        batches[BATCHES / 2]
    });
    let mut spans: Vec<Duration> = spans.collect();
    spans.sort();
    let middle = spans[spans.len() / 2];
    println!("settle, {} failures: median {middle:.1?} = {:.1} hashes (goal 2 µs)", spans.len(), over(middle, hash));
}

/// A dead letter of each failure, decided about in a team of seven.
fn triaged(hash: Duration, failures: &[Failure]) {
    let names = ["ceo", "cto", "cso", "backend", "frontend", "marketing", "devops"];
    let agents = names.map(|name| {
        let agent =
            Agent::new(name, "anthropic/claude-opus-5-5").and_then(|agent| agent.falling_back_to("openai/gpt-6-sol"));
        agent.expect("an agent").handling("*")
    });
    let agents: Vec<AgentFacts<'_>> =
        agents.iter().map(|agent| AgentFacts { agent, condition: Condition::Up, load: 0 }).collect();
    let mut spans: Vec<Duration> = failures
        .iter()
        .map(|failure| {
            let record = dead(failure);
            let facts = Facts {
                record: &record,
                steps: &[],
                agents: &agents,
                models: &BTreeMap::new(),
                servers: &BTreeSet::new(),
                systemic: false,
                now: at(1),
            };
            median(|| triage::decide(black_box(&facts)))
        })
        .collect();
    spans.sort();
    let middle = spans[spans.len() / 2];
    println!(
        "triage, {} dead letters, seven agents: median {middle:.1?} = {:.1} hashes (goal 20 µs)",
        spans.len(),
        over(middle, hash)
    );
}

fn dead(failure: &Failure) -> Record {
    let (record, _) = Record::new(task(0, at(0)), integration("anthropic"), at(0));
    let agent = record.task.agent.clone();
    let claim = Command::Claim { agent, incarnation: Incarnation(1), epoch: 1, lease_for: Duration::from_secs(300) };
    let (claimed, _) = ledger::apply(&record, claim, at(0)).expect("claimed");
    let settlement: Settlement = backstop::engine::conformance::dead(failure.clone());
    let settle = Command::Settle { fence: claimed.fence, settlement, spent: Spent::default() };
    ledger::apply(&claimed, settle, at(1)).expect("settled").0
}

fn guarded(hash: Duration, failures: &[Failure]) {
    let at = |n: u64| Timestamp::from_millis(1_800_000_000_000) + Duration::from_millis(n);
    let print = |what: &str, span| println!("{what}: {span:.1?} = {:.1} hashes (goal 1 µs)", over(span, hash));

    let mut guard = Guard::new(BreakerConfig::default());
    let mut n = 0;
    let healthy = median(|| {
        n += 1;
        if let Admission::Go(permit) = guard.admit(at(n), 0.5) {
            black_box(guard.report(permit, Report::Healthy, at(n + 1)));
        }
    });
    print("breaker, admit and a healthy end", healthy);

    // One failure in a while, so that it counts and never opens.
    let mut guard = Guard::new(BreakerConfig::default());
    let failing = median(|| {
        n += 10_000;
        if let Admission::Go(permit) = guard.admit(at(n), 0.5) {
            let failure = &failures[usize::try_from(n / 10_000).expect("small") % failures.len()];
            black_box(guard.report(permit, Report::Failed(failure), at(n + 1)));
        }
        // What parks the integration would end the comparison.
        if !matches!(guard.admit(at(n), 0.5), Admission::Go(_)) {
            guard = Guard::new(BreakerConfig::default());
        }
    });
    print("breaker, admit and a failure", failing);

    let mut guard = Guard::new(BreakerConfig::default());
    guard.force_open(None, "bench", at(n));
    let refused = median(|| guard.admit(at(n), 0.5));
    print("breaker, open and asked", refused);
}

fn over(span: Duration, limit: Duration) -> f64 {
    span.as_secs_f64() / limit.as_secs_f64()
}
