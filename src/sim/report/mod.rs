//! What a run came to: a value for every measure, the story of its worst hour, and what happened when.
//!
//! Everything is read from what the world wrote down (`play/books.rs`), from the event feed and from the records, never
//! from the product's own counters: a product that miscounts is found out here.
//!
//! - `ends` says how each task ended and how long it took; `bill` what the models cost, and for what.
//! - [`figures`] makes a value of every measure; [`timeline`] says what stood when; [`story`] tells the worst hour.
//! - [`spread`] holds many seeds against each other; [`text`], [`junit`] and [`html`] write it down.

mod bill;
mod ends;
pub mod figures;
pub mod html;
mod html_parts;
pub mod junit;
pub mod spread;
pub mod story;
mod story_facts;
mod svg;
pub mod text;
pub mod timeline;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use self::bill::Bill;
use self::ends::Ends;
use self::timeline::Timeline;
use super::broker;
use super::invariants;
use super::play::{self, Run};
use super::published::{self, Row, Sides};
use crate::agent::ModelRef;
use crate::assertion::{Assertion, Comparison, Measure, Unit};
use crate::decision::DecisionKind;
use crate::definitions::LoadedScenario;
use crate::event::Happening;
use crate::failure::{Class, Kind};
use crate::redact::one_line;
use crate::time::Timestamp;

/// The version of the JSON form of a report.
pub const FORMAT: u32 = 1;

/// The most characters of what a client was told.
const REASON_MAX: usize = 300;

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// The name of the team.
    pub team: String,
    /// The fingerprint of its configuration.
    pub configuration: String,
    /// The seed of the dice.
    pub seed: u64,
    /// What the clock showed at the beginning.
    pub start: Timestamp,
    /// For how long work came, in seconds of virtual time.
    pub run_s: f64,
    /// When everything had come to rest, in seconds of virtual time.
    pub elapsed_s: f64,
    /// Did everything come to rest in time?
    pub at_rest: bool,
    /// SHA-256 of the event feed as JSON lines.
    pub hash: String,
    /// Every measure; one that is not known is null.
    pub measures: BTreeMap<Measure, f64>,
    /// What must be true, and whether it is.
    pub assertions: Vec<Checked>,
    /// What of [`invariants::HERE`] does not hold.
    pub violations: Vec<String>,
    /// Deaths by the class of their last failure.
    pub deaths_by_class: BTreeMap<Class, u64>,
    /// Deaths by its kind.
    pub deaths_by_kind: BTreeMap<Kind, u64>,
    /// Decisions by what was decided.
    pub decisions: BTreeMap<DecisionKind, u64>,
    /// What each model cost.
    pub bill: Vec<BillLine>,
    /// What each fault of the scenario did.
    pub faults: Vec<FaultLine>,
    /// Submissions that were turned away with an answer, if there were any.
    pub refused: Option<Refusals>,
    /// What was published of the real thing beside this run and the broker's, when the scenario says so.
    pub published: Option<Beside>,
    /// The worst hour, a sentence each.
    pub story: Vec<String>,
    /// What stood when.
    pub timeline: Timeline,
}

/// Submissions that were turned away with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// How many were, at least once.
    pub submissions: u64,
    /// How often in all: a client comes again every minute.
    pub times: u64,
    /// How many of them were never taken.
    pub never_taken: u64,
    /// What the first was told, on one line.
    pub first: String,
}

/// What was published beside ours and the broker's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Beside {
    /// Where it was published.
    pub source: String,
    /// A figure a row, with why they differ.
    pub rows: Vec<Row>,
    /// The same for people.
    pub text: String,
}

/// An assertion and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// What must be true.
    pub assertion: String,
    /// What was measured; null when it is not known.
    pub measured: f64,
    /// The same for people.
    pub words: String,
    /// Is it true?
    pub holds: bool,
}

/// The bill of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BillLine {
    /// Which.
    pub model: ModelRef,
    /// How often it was called.
    pub calls: u64,
    /// Tokens it read and wrote.
    pub tokens: u64,
    /// Their price in millionths of a US dollar; null when it is not known, which is not zero.
    pub micro_usd: Option<u64>,
}

/// What one fault of the scenario did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultLine {
    /// Its name.
    pub name: String,
    /// What breaks where, such as `overloaded of anthropic`.
    pub what: String,
    /// How often it struck.
    pub times: u64,
    /// For how long in all, in seconds.
    pub seconds: f64,
    /// How many calls met it.
    pub calls: u64,
}

impl Report {
    /// What a run came to. That no invariant is broken must be true of every run, whatever its scenario asserts.
    #[must_use]
    pub fn of(loaded: &LoadedScenario, run: &Run) -> Self {
        let scenario = &loaded.scenario;
        let moments = run.books.moments(&run.events);
        let ends = Ends::of(run, &moments);
        let bill = Bill::of(run, &ends);
        let violations: Vec<String> = invariants::check(loaded, run).iter().map(ToString::to_string).collect();
        let unbroken = Assertion { measure: Measure::Violations, comparison: Comparison::Equal, value: 0.0 };
        let asked: Vec<Assertion> =
            scenario.assertions.iter().copied().filter(|asked| *asked != unbroken).chain([unbroken]).collect();
        let mut report = Self {
            format: FORMAT,
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            team: run.config.team.clone(),
            configuration: run.config.fingerprint.clone(),
            seed: run.seed,
            start: scenario.start,
            run_s: scenario.run.as_secs_f64(),
            elapsed_s: run.elapsed.as_secs_f64(),
            at_rest: run.at_rest,
            hash: run.hash.clone(),
            measures: figures::measures(scenario, run, &moments, &ends, &bill, violations.len()),
            assertions: Vec::new(),
            violations,
            refused: refusals(run),
            published: None,
            deaths_by_class: BTreeMap::new(),
            deaths_by_kind: BTreeMap::new(),
            decisions: BTreeMap::new(),
            faults: faults(loaded, run),
            story: story::worst_hour(scenario, run, &moments),
            timeline: Timeline::of(scenario, run, &moments, &bill),
            bill: bill.lines,
        };
        report.count(run);
        report.assertions = asked.iter().map(|asked| report.checked(asked)).collect();
        report
    }

    /// The same, with what was published beside it when the scenario has that: plays seed B's configuration, too.
    ///
    /// # Errors
    /// When the broker's run cannot be played.
    pub fn beside_what_was_published(mut self, loaded: &LoadedScenario, run: &Run) -> Result<Self, play::Error> {
        if let Some(said) = &loaded.scenario.published {
            let broker = broker::play(loaded, run.seed)?;
            let ours = |measure| self.measure(measure);
            let sides = Sides { scenario: &loaded.scenario, run, ours: &ours, broker: &broker };
            let rows = published::rows(said, &sides);
            let text = published::text(said, &rows);
            self.published = Some(Beside { source: said.source.clone(), rows, text });
        }
        Ok(self)
    }

    /// The value of a measure; not a number when it is not known.
    #[must_use]
    pub fn measure(&self, measure: Measure) -> f64 {
        self.measures.get(&measure).copied().unwrap_or(f64::NAN)
    }

    /// A measure for people.
    #[must_use]
    pub fn words(&self, measure: Measure) -> String {
        words(measure, self.measure(measure))
    }

    /// Is everything true that must be?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.assertions.iter().all(|checked| checked.holds)
    }

    /// A count and what is counted: `1 page`, `3 pages`.
    fn many(&self, measure: Measure, what: &str) -> String {
        let words = self.words(measure);
        let plural = if words == "1" { "" } else { "s" };
        format!("{words} {what}{plural}")
    }

    fn checked(&self, assertion: &Assertion) -> Checked {
        let measured = self.measure(assertion.measure);
        Checked {
            assertion: assertion.to_string(),
            measured,
            words: words(assertion.measure, measured),
            // What is not known is not true.
            holds: !measured.is_nan() && assertion.holds(measured),
        }
    }

    fn count(&mut self, run: &Run) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "of the feed only deaths and decisions are counted here")]
        for event in &run.events {
            match &event.what {
                Happening::DeadLettered { failure, .. } => {
                    *self.deaths_by_class.entry(failure.class).or_default() += 1;
                    *self.deaths_by_kind.entry(failure.kind).or_default() += 1;
                }
                Happening::Decided { decided, .. } => {
                    *self.decisions.entry(decided.decision.kind()).or_default() += 1;
                }
                _ => {}
            }
        }
    }
}

/// A value of a measure for people.
#[must_use]
pub fn words(measure: Measure, value: f64) -> String {
    if value.is_nan() {
        "not known".to_owned()
    } else if value.is_infinite() {
        "without end".to_owned()
    } else if measure.unit() == Unit::Count && value.fract() != 0.0 && value < 100.0 {
        // The middle of two counts.
        format!("{value:.1}")
    } else if measure.unit() == Unit::Seconds && value >= 10.0 {
        measure.unit().words(value.round())
    } else {
        measure.unit().words(value)
    }
}

fn refusals(run: &Run) -> Option<Refusals> {
    let first = run.books.refused.first()?;
    let taken: BTreeSet<u64> = run.books.asked.iter().map(|asked| asked.number).collect();
    let refused: BTreeSet<u64> = run.books.refused.iter().map(|refused| refused.number).collect();
    Some(Refusals {
        submissions: refused.len() as u64,
        times: run.books.refused.len() as u64,
        never_taken: refused.difference(&taken).count() as u64,
        first: one_line(&first.why, REASON_MAX),
    })
}

fn faults(loaded: &LoadedScenario, run: &Run) -> Vec<FaultLine> {
    let line = |(place, fault): (usize, &crate::scenario::Fault)| {
        let windows = run.windows.iter().filter(|window| window.fault == place);
        FaultLine {
            name: fault.name.clone(),
            what: fault.to_string(),
            times: windows.clone().count() as u64,
            seconds: windows.map(|window| window.until.saturating_sub(window.from).as_secs_f64()).sum(),
            calls: run.books.calls.iter().filter(|call| call.fault == Some(place)).count() as u64,
        }
    };
    loaded.scenario.faults.iter().enumerate().map(line).collect()
}
