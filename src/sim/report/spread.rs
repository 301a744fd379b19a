//! Many seeds held against each other: the middle and the spread of every measure, of one scenario or of two.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{FORMAT, Report, words};
use crate::assertion::{Measure, Unit};

/// The runs of one scenario, in the order of their seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Played {
    /// The version of this form.
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// Is everything true that must be, with every seed?
    pub holds: bool,
    /// Every measure over the seeds.
    pub spread: BTreeMap<Measure, Spread>,
    /// A report for each seed.
    pub reports: Vec<Report>,
}

/// Where the values of one measure lie. What is not known of a seed is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// One in ten is below.
    pub p10: f64,
    /// One in ten is above.
    pub p90: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these values; all of it not a number when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).max(1) - 1;
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => at(half),
            _ => f64::midpoint(at(half - 1), at(half)),
        };
        Self { median, p10: at(rank(10)), p90: at(rank(90)), least: at(0), most: at(sorted.len().wrapping_sub(1)) }
    }
}

impl Played {
    /// The runs of one scenario.
    #[must_use]
    pub fn of(reports: Vec<Report>) -> Self {
        let spread = |measure: &Measure| (*measure, Spread::of(reports.iter().map(|report| report.measure(*measure))));
        let first = reports.first();
        Self {
            format: FORMAT,
            scenario: first.map(|report| report.scenario.clone()).unwrap_or_default(),
            about: first.map(|report| report.about.clone()).unwrap_or_default(),
            holds: reports.iter().all(Report::holds),
            spread: Measure::ALL.iter().map(spread).collect(),
            reports,
        }
    }

    /// The seed to look at: the first of which something is not true that must be, or the first.
    #[must_use]
    pub fn shown(&self) -> Option<&Report> {
        self.reports.iter().find(|report| !report.holds()).or(self.reports.first())
    }
}

/// Two configurations, or two scenarios, on the same seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The version of this form.
    pub format: u32,
    /// What the first is.
    pub a: String,
    /// What the second is.
    pub b: String,
    /// The seeds both were played with.
    pub seeds: Vec<u64>,
    /// Every measure.
    pub measures: Vec<Difference>,
}

/// One measure of two, seed by seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Which.
    pub measure: Measure,
    /// The middle one of the first.
    pub a: f64,
    /// The middle one of the second.
    pub b: f64,
    /// Second less first, of each seed.
    pub difference: Spread,
    /// With how many seeds the difference has the sign of its middle one.
    pub agree: usize,
    /// Of so many seeds of which both are known.
    pub of: usize,
}

impl Compared {
    /// `a` and `b`, each with its name; report by report of the same seed.
    #[must_use]
    pub fn of(a: (&str, &[Report]), b: (&str, &[Report])) -> Self {
        let measures = Measure::ALL.iter().map(|measure| Difference::of(*measure, a.1, b.1));
        Self {
            format: FORMAT,
            a: a.0.to_owned(),
            b: b.0.to_owned(),
            seeds: a.1.iter().map(|report| report.seed).collect(),
            measures: measures.collect(),
        }
    }
}

impl Difference {
    fn of(measure: Measure, a: &[Report], b: &[Report]) -> Self {
        let values = |reports: &[Report]| reports.iter().map(|report| report.measure(measure)).collect::<Vec<f64>>();
        Self::between(measure, &values(a), &values(b))
    }

    /// Between the values of the same seeds.
    #[must_use]
    pub fn between(measure: Measure, a: &[f64], b: &[f64]) -> Self {
        let pairs = a.iter().zip(b).map(|(a, b)| b - a);
        let differences: Vec<f64> = pairs.filter(|difference| !difference.is_nan()).collect();
        let difference = Spread::of(differences.iter().copied());
        let agree = differences.iter().filter(|one| sign(**one) == sign(difference.median)).count();
        Self {
            measure,
            a: Spread::of(a.iter().copied()).median,
            b: Spread::of(b.iter().copied()).median,
            difference,
            agree,
            of: differences.len(),
        }
    }

    /// Is there nothing to tell?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let zero = |value: f64| value == 0.0 || value.is_nan();
        zero(self.a) && zero(self.b) && zero(self.difference.least) && zero(self.difference.most)
    }

    /// A difference for people, with its sign: `+3`, `-1m30s`, `0`.
    #[must_use]
    pub fn signed(&self, value: f64) -> String {
        let sign = match sign(value) {
            1 => "+",
            -1 => "-",
            _ => "",
        };
        let unit = self.measure.unit();
        let words = words(self.measure, value.abs());
        match unit {
            // Percent of percent would be read wrong: these are points.
            Unit::Share => format!("{sign}{}", words.replace('%', "pp")),
            Unit::Count | Unit::Seconds | Unit::Dollars | Unit::Ratio => format!("{sign}{words}"),
        }
    }
}

/// 1, -1, or 0; too little to be seen is 0.
fn sign(value: f64) -> i8 {
    if value > 1e-9 {
        1
    } else if value < -1e-9 {
        -1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_spread_are_those_of_the_known() {
        let spread = |values: &[f64]| {
            let spread = Spread::of(values.iter().copied());
            [spread.median, spread.p10, spread.p90, spread.least, spread.most]
        };
        assert_eq!(spread(&[3.0]), [3.0; 5]);
        assert_eq!(spread(&[4.0, 1.0]), [2.5, 1.0, 4.0, 1.0, 4.0]);
        assert_eq!(spread(&[5.0, f64::NAN, 1.0, 3.0]), [3.0, 1.0, 5.0, 1.0, 5.0]);
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(spread(&twenty), [10.5, 2.0, 18.0, 1.0, 20.0]);
        assert!(spread(&[]).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn differences_are_of_the_same_seed() {
        // The medians are the same, and still the second is more with every seed but one.
        let difference = Difference::between(Measure::Pages, &[1.0, 2.0, 9.0], &[2.0, 3.0, 1.0]);
        assert_eq!((difference.a, difference.b, difference.difference.median), (2.0, 2.0, 1.0));
        assert_eq!((difference.agree, difference.of), (2, 3));
        assert_eq!((difference.difference.p10, difference.difference.p90), (-8.0, 1.0));
        let unknown = Difference::between(Measure::Usd, &[f64::NAN, 1.0], &[1.0, 1.0]);
        assert_eq!((unknown.agree, unknown.of, unknown.difference.median), (1, 1, 0.0));
    }

    #[test]
    fn differences_are_told_with_their_sign_and_unit() {
        for (measure, value, words) in [
            (Measure::Pages, 3.0, "+3"),
            (Measure::Pages, 0.0, "0"),
            (Measure::DelayP99, -90.0, "-1m30s"),
            (Measure::DoneShare, 0.015, "+1.5 pp"),
            (Measure::Usd, -0.5, "-$0.50"),
            (Measure::Usd, f64::NAN, "not known"),
        ] {
            assert_eq!(Difference::between(measure, &[], &[]).signed(value), words);
        }
    }
}
