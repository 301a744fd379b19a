//! Random load, faults and configuration from seeds, held against every invariant; and every seed that ever failed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use backstop::event::{Event, Happening};
use backstop::scenario::{Fault, FaultKind, When};
use backstop::sim::fuzz::{Coverage, draw, file, hush};
use backstop::sim::invariants::{HERE, NOT_HERE};
use serde::Deserialize;

/// How many seeds are played unless `BACKSTOP_SEEDS` says otherwise.
const SEEDS: u64 = 100;

fn seeds() -> u64 {
    std::env::var("BACKSTOP_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn whatever_a_seed_draws_every_invariant_holds() {
    hush();
    let (next, seeds) = (AtomicU64::new(0), seeds());
    let (coverage, broken) = (Mutex::new(Coverage::default()), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    // That the same is told twice is seen as well in one seed of five.
                    let drawn = draw(seed);
                    let once = || drawn.judge_once(&drawn.loaded()).0;
                    let verdict = if seed.is_multiple_of(5) { drawn.judge() } else { once() };
                    coverage.lock().expect("not poisoned").add(&verdict.coverage);
                    let told = |violation: &dyn ToString| format!("seed {seed}: {}", violation.to_string());
                    let all = verdict.violations.iter().map(|violation| told(violation));
                    broken.lock().expect("not poisoned").extend(all);
                }
            });
        }
    });
    let broken = broken.into_inner().expect("not poisoned");
    assert!(broken.is_empty(), "backstop sim fuzz --from SEED --seeds 1\n{}", broken.join("\n"));
    // What a hundred seeds reach; ten thousand reach everything.
    let coverage = coverage.into_inner().expect("not poisoned");
    if seeds >= SEEDS {
        assert_eq!(coverage.missing(), RARE, "I-34: a state is never reached any more");
    }
}

/// States that take more than a hundred seeds.
const RARE: [&str; 0] = [];

#[test]
fn no_seed_that_ever_failed_fails_again() {
    hush();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let mut broken = Vec::new();
    for entry in fs::read_dir(dir).expect("kept seeds") {
        let path = entry.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let drawn = file::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            broken.extend(drawn.judge().violations.iter().map(|violation| format!("{}: {violation}", path.display())));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Seed 1266 of `backstop sim fuzz`: a revoked key parked two providers, and the person on call closed both breakers
/// while the disk was full. They were closed, the change was not stored and was owed to nobody; a minute later the
/// person said it again, which changed nothing any more, so that nothing was stored then either, and the incidents were
/// resolved. The feed told both forced open to its end, and so would the next process have held them: parked until a
/// person acts, with nobody called.
#[test]
fn a_breaker_that_was_closed_while_the_disk_was_full_is_closed_for_the_next_process() {
    hush();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds/I-13-1266.yaml");
    let mut drawn = file::read(&path).expect("a kept seed");
    let disk =
        drawn.scenario.faults.iter().find(|fault| fault.kind == FaultKind::DiskFull).expect("a full disk").clone();
    let dies = Fault {
        name: "the process dies".to_owned(),
        kind: FaultKind::ProcessKill,
        // The person's words come at 1,013 s and, as the disk is full until 1,028 s, again at 1,073 s.
        when: When::At(Duration::from_secs(1_200)),
        lasts: (Duration::from_secs(10), Duration::from_secs(10)),
        ..disk
    };
    drawn.scenario.faults.push(dies);
    let run = drawn.play(&drawn.loaded()).expect("it is played");
    let restarted = run.books.starts.get(1).expect("the process is started again").1;
    let told = |name: &str| {
        let mut changes = Vec::new();
        for event in &run.events {
            if let Happening::BreakerChanged { integration, to, .. } = &event.what
                && integration.as_str() == name
            {
                changes.push(to.as_str());
            }
        }
        changes
    };
    assert_eq!([told("alpha"), told("beta")], [["forced-open", "closed"], ["forced-open", "closed"]]);
    let held = |event: &&Event| event.at >= restarted && matches!(event.what, Happening::Parked { .. });
    assert_eq!(run.events.iter().filter(held).count(), 0, "nothing waits for them any more");
}

#[derive(Deserialize)]
struct Table {
    inv: Vec<Invariant>,
}

#[derive(Deserialize)]
struct Invariant {
    id: String,
}

#[test]
fn every_invariant_is_checked_or_says_where_else_it_is() {
    let table: Table = toml::from_str(include_str!("invariants.toml")).expect("the table");
    let all: BTreeSet<&str> = table.inv.iter().map(|invariant| invariant.id.as_str()).collect();
    let here: BTreeSet<&str> = HERE.iter().copied().collect();
    let elsewhere: BTreeSet<&str> = NOT_HERE.iter().map(|(id, _, _)| *id).collect();
    assert_eq!(here.intersection(&elsewhere).count(), 0);
    assert_eq!(here.union(&elsewhere).copied().collect::<BTreeSet<_>>(), all);
    for (id, why, test) in NOT_HERE {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(test).is_file() || test.starts_with("none");
        assert!(why.len() > 20 && there, "{id}: {why}: {test} is no test");
    }
}

/// A check that never fails shows nothing: each bug that is seeded on purpose must be found, and within a few seeds.
#[cfg(feature = "mutants")]
#[test]
fn every_seeded_bug_is_found() {
    use backstop::sim::fuzz::mutants::{MUTANTS, hunt};

    hush();
    assert!(MUTANTS.len() >= 30);
    let (next, lost) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let place = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("a place in a list");
                while let Some(mutant) = MUTANTS.get(place()) {
                    let hunted = hunt(*mutant, 0, 500);
                    if hunted.found.is_none() {
                        lost.lock().expect("not poisoned").push(mutant.0);
                    }
                }
            });
        }
    });
    let lost = lost.into_inner().expect("not poisoned");
    assert!(lost.is_empty(), "not found: {}", lost.join(", "));
}
