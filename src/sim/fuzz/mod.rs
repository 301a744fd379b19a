//! Random load, faults and configuration from a seed, played and held against every invariant.
//!
//! Each seed is a safety phase, in which things break, and then a liveness phase, in which nothing does and everything
//! must come to its end. It is played twice and must tell the same story to the byte. What fails is made as small as it
//! can be and kept as a file, so that it is never forgotten.

pub mod bank;
pub mod coverage;
pub mod draw;
pub mod file;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod shrink;
pub mod team;

use std::panic::{self, PanicHookInfo};
use std::sync::Once;

use self::bank::Shop;
use self::team::Knobs;
use super::invariants::{self, Violation};
use super::play::{Error, Run, play_with};
use crate::definitions::LoadedScenario;
use crate::scenario::Scenario;

pub use self::coverage::Coverage;
pub use self::draw::draw;

/// What a seed came to: the seed of its dice, the turned knobs, the scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The seed of the run's dice.
    pub seed: u64,
    /// The knobs of its team.
    pub knobs: Knobs,
    /// Its load and its faults.
    pub scenario: Scenario,
}

/// How a seed ended.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What does not hold; empty when everything does.
    pub violations: Vec<Violation>,
    /// Which states were reached.
    pub coverage: Coverage,
    /// How many tasks it had.
    pub tasks: u64,
}

impl Drawn {
    /// The scenario with its team.
    #[must_use]
    pub fn loaded(&self) -> LoadedScenario {
        let config = team::config(&self.knobs).expect("the drawn team has constant names");
        LoadedScenario { scenario: self.scenario.clone(), config }
    }

    /// Plays it once.
    ///
    /// # Errors
    /// When the team does not start, or panics where nobody catches it.
    pub fn play(&self, loaded: &LoadedScenario) -> Result<Run, Error> {
        play_with(loaded, self.seed, Some(Shop::new(&self.knobs)))
    }

    /// Plays it twice and checks everything.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let loaded = self.loaded();
        let mut verdict = self.judge_once(&loaded);
        // What is broken already need not be broken twice.
        if verdict.0.violations.is_empty()
            && let Some(hash) = verdict.1
        {
            let evidence = match self.play(&loaded) {
                Ok(again) if again.hash == hash => return verdict.0,
                Ok(again) => format!("{hash} first, {} the second time", again.hash),
                Err(error) => error.to_string(),
            };
            verdict.0.violations.push(Violation::of_run("I-34", "the same seed told two stories", evidence));
        }
        verdict.0
    }

    /// Plays it once and checks everything but that it is the same twice; and the hash of its story.
    #[must_use]
    pub fn judge_once(&self, loaded: &LoadedScenario) -> (Verdict, Option<String>) {
        match self.play(loaded) {
            Ok(run) => {
                let violations = invariants::check(loaded, &run);
                let verdict = Verdict { violations, coverage: Coverage::of(&run), tasks: run.books.asked.len() as u64 };
                (verdict, Some(run.hash))
            }
            Err(error) => {
                let violation = Violation::of_run("I-33", "the team itself broke", error.to_string());
                (Verdict { violations: vec![violation], ..Verdict::default() }, None)
            }
        }
    }
}

/// Panics on cue are part of a run: they are caught, and not told on stderr. Any other is told as ever.
pub fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let words = info.payload().downcast_ref::<&str>().copied();
            if !words.is_some_and(|words| words.contains("on cue")) {
                before(info);
            }
        }));
    });
}
