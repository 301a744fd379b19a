//! `backstop sim fuzz` and `backstop sim mutants`: what must hold whatever happens, and whether we would see it if not.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use crate::cli::output::Table;
use crate::cli::{Context, Error};
use crate::error_chain::in_full;
use crate::sim::fuzz::{Coverage, Drawn, Verdict, draw, file, hush, shrink};
use crate::sim::invariants::Violation;

/// Random load, faults and configuration from seeds, held against every invariant.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop sim fuzz --seeds 1000\n  backstop sim fuzz --from 42 --seeds 1      see one seed again\n  backstop sim fuzz --replay tests/seeds/I-05-42.yaml"
)]
pub(in crate::cli) struct Fuzz {
    /// How many seeds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many are played at once; by default as many as there are cores
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Where a failing seed is kept, as small as it can be made
    #[arg(long, value_name = "DIR", default_value = "tests/seeds")]
    keep: PathBuf,
    /// Play a kept seed instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from"])]
    replay: Option<PathBuf>,
}

/// What all threads write into.
#[derive(Default)]
struct Sum {
    verdict: Verdict,
    failed: Vec<(u64, Vec<Violation>)>,
}

impl Fuzz {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        hush();
        if let Some(path) = &self.replay {
            let drawn = file::read(path).map_err(|error| chain(&error))?;
            return replayed(context, &drawn, &path.display().to_string());
        }
        let began = Instant::now();
        let mut sum = self.play_all(context);
        sum.failed.sort_by_key(|(seed, _)| *seed);
        let took = began.elapsed();
        let cores = self.cores();
        let missing = sum.verdict.coverage.missing();
        report(context, &sum, self.seeds, took, cores)?;
        for line in sum.failed.iter().map(|(seed, violations)| failed_line(*seed, violations)) {
            context.out.say(&line);
        }
        let Some((seed, violations)) = sum.failed.first() else {
            // A handful of seeds need not reach everything.
            if self.seeds >= 1_000 && !missing.is_empty() {
                let message = format!("I-34: never reached: {}", missing.join(", "));
                return Err(Error::Failed { message, next: None });
            }
            return Ok(());
        };
        let first = &violations[0];
        context.out.say(&format!("making seed {seed} small\n  seen: {}", first.evidence));
        let still = |drawn: &Drawn| {
            let judged = if first.id == "I-34" { drawn.judge() } else { drawn.judge_once(&drawn.loaded()).0 };
            judged.violations.iter().any(|violation| violation.id == first.id)
        };
        let small = aside(|| shrink::shrink(&draw(*seed), &still));
        let kept = file::keep(&self.keep, &small, first).map_err(|error| chain(&error))?;
        let message = format!("{} of {} seeds failed; the first is kept in {kept}", sum.failed.len(), self.seeds);
        Err(Error::Failed { message, next: Some(format!("backstop sim fuzz --replay {kept}")) })
    }

    fn cores(&self) -> u64 {
        let cores = || thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        self.threads.unwrap_or_else(cores).min(self.seeds)
    }

    fn play_all(&self, context: &Context) -> Sum {
        let next = AtomicU64::new(0);
        let sum = Mutex::new(Sum::default());
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..self.cores() {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds {
                            return;
                        }
                        let seed = self.from.saturating_add(number);
                        let verdict = draw(seed).judge();
                        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        sum.verdict.coverage.add(&verdict.coverage);
                        sum.verdict.tasks += verdict.tasks;
                        if !verdict.violations.is_empty() {
                            sum.failed.push((seed, verdict.violations));
                        }
                        let done = number + 1;
                        if done.is_power_of_two() && done >= 64 {
                            let rate = per_second(done, began.elapsed());
                            context.out.say(&format!("{done} seeds, {rate:.0} a second, {} failed", sum.failed.len()));
                        }
                    }
                });
            }
        });
        sum.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plays on a thread of its own: a run has a runtime, and this thread is in one already.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A seed that failed, in a line: what does not hold first, and how much more.
fn failed_line(seed: u64, violations: &[Violation]) -> String {
    let first = violations.first().map(ToString::to_string).unwrap_or_default();
    let first = first.lines().next().unwrap_or_default();
    match violations.len().saturating_sub(1) {
        0 => format!("seed {seed}: {first}"),
        more => format!("seed {seed}: {first} (and {more} more)"),
    }
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

fn report(context: &Context, sum: &Sum, seeds: u64, took: Duration, cores: u64) -> Result<(), Error> {
    let Coverage(reached) = &sum.verdict.coverage;
    let rate = per_second(seeds, took);
    let raw = json!({
        "seeds": seeds,
        "failed": sum.failed.iter().map(|(seed, violations)| json!({
            "seed": seed, "violations": violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "tasks": sum.verdict.tasks,
        "seconds": took.as_secs_f64(),
        "seeds_per_second": rate,
        "seeds_per_second_per_core": rate / cores as f64,
        "coverage": reached,
        "never_reached": sum.verdict.coverage.missing(),
    });
    context.out.data(&raw, "/seeds", || {
        let mut table = Table::new(&["REACHED", "TIMES"]);
        for word in Coverage::ALL {
            table.row(&[(*word).to_owned(), reached.get(word).copied().unwrap_or(0).to_string()]);
        }
        format!(
            "{}\n{seeds} seeds (each twice), {} tasks, {} failed, in {:.1} s: {rate:.1} seeds a second, {:.1} a core\n",
            table.render("nothing"),
            sum.verdict.tasks,
            sum.failed.len(),
            took.as_secs_f64(),
            rate / cores as f64,
        )
    })
}

fn replayed(context: &Context, drawn: &Drawn, path: &str) -> Result<(), Error> {
    let verdict = aside(|| drawn.judge());
    let raw = json!({
        "seed": drawn.seed,
        "violations": verdict.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    context.out.data(&raw, "/seed", || {
        let lines: Vec<String> = verdict.violations.iter().map(ToString::to_string).collect();
        if lines.is_empty() { format!("{path}: everything holds\n") } else { format!("{}\n", lines.join("\n")) }
    })?;
    match verdict.violations.len() {
        0 => Ok(()),
        count => Err(Error::Failed { message: format!("{path}: {count} violations"), next: None }),
    }
}

fn chain(error: &file::Error) -> Error {
    Error::Failed { message: in_full(error), next: None }
}

/// Does the simulation find the bugs that are seeded for it?
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop sim mutants --seeds 500\n  backstop sim mutants --only no-fence\n\nNeeds a build with the bugs in it: cargo build --release --features mutants"
)]
pub(in crate::cli) struct Mutants {
    /// How many seeds are tried for each at most
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

impl Mutants {
    #[cfg(not(feature = "mutants"))]
    pub(super) fn run(self, _context: &Context) -> Result<(), Error> {
        let Self { seeds, from, only } = self;
        let only = only.map(|name| format!(" --only {name}")).unwrap_or_default();
        let next = format!("cargo run --release --features mutants -- sim mutants --seeds {seeds} --from {from}{only}");
        Err(Error::Usage { message: "this build has no seeded bugs in it".to_owned(), next: Some(next) })
    }

    #[cfg(feature = "mutants")]
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        use crate::sim::fuzz::mutants::{Hunted, MUTANTS, hunt};

        hush();
        let wanted: Vec<_> =
            MUTANTS.iter().filter(|mutant| self.only.as_ref().is_none_or(|only| only == mutant.0)).collect();
        if wanted.is_empty() {
            let names: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.0).collect();
            let message = format!("there is no such bug; there are: {}", names.join(", "));
            return Err(Error::Usage { message, next: None });
        }
        let next = AtomicU64::new(0);
        let hunted: Mutex<Vec<Hunted>> = Mutex::default();
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(mutant) =
                        usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|place| wanted.get(place))
                    {
                        let found = hunt(**mutant, self.from, self.seeds);
                        let how = match found.found {
                            Some((invariant, seed, _)) => format!("found by {invariant} with seed {seed}"),
                            None => format!("not found in {} seeds", found.tried),
                        };
                        context.out.say(&format!("{}: {how}", mutant.0));
                        hunted.lock().unwrap_or_else(PoisonError::into_inner).push(found);
                    }
                });
            }
        });
        let mut hunted = hunted.into_inner().unwrap_or_else(PoisonError::into_inner);
        hunted.sort_by_key(|one| MUTANTS.iter().position(|mutant| mutant.0 == one.mutant.0));
        let lost = hunted.iter().filter(|one| one.found.is_none()).count();
        let raw: Vec<_> = hunted
            .iter()
            .map(|one| {
                let (invariant, seed) = (one.found.map(|found| found.0), one.found.map(|found| found.1));
                json!({
                    "mutant": one.mutant.0, "file": one.mutant.1, "what": one.mutant.2,
                    "found_by": invariant, "seed": seed, "seeds_tried": one.tried,
                })
            })
            .collect();
        context.out.data(&json!({ "items": raw, "not_found": lost }), "/mutant", || {
            let mut table = Table::new(&["BUG", "WHAT IT DOES", "FOUND BY", "SEED", "SEEDS"]);
            for one in &hunted {
                let (by, seed) = match one.found {
                    Some((invariant, seed, _)) => (invariant.to_owned(), seed.to_string()),
                    None => ("NOT FOUND".to_owned(), "-".to_owned()),
                };
                let (name, _, what) = one.mutant;
                table.row(&[name.to_owned(), what.to_owned(), by, seed, one.tried.to_string()]);
            }
            table.render("no bug was looked for")
        })?;
        match lost {
            0 => Ok(()),
            lost => Err(Error::Failed {
                message: format!("{lost} of {} seeded bugs were not found", hunted.len()),
                next: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_seed_is_told_in_one_line() {
        let found = |text: &str| Violation::of_run("I-17", text, "much evidence".to_owned());
        let one = [found("it never came to rest")];
        let two = [found("it never came to rest"), found("so it did not")];
        assert_eq!(failed_line(7, &one), "seed 7: I-17: it never came to rest");
        assert_eq!(failed_line(42, &two), "seed 42: I-17: it never came to rest (and 1 more)");
    }
}
