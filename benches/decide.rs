//! How long a decision takes, beside reading the clock and hashing a line in the same run.
//!
//! `cargo bench --bench decide`. Goals: less than 5 µs to classify a failure, less than 1 µs for a breaker to admit a
//! call and hear of its end.

#[path = "../tests/classification/observe.rs"]
mod observe;

use std::hint::black_box;
use std::time::{Duration, Instant};

use backstop::breaker::BreakerConfig;
use backstop::failure::Failure;
use backstop::guard::{Admission, Guard, Report};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::task::Effect;
use backstop::time::Timestamp;
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
    guarded(hash, &failures);
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
