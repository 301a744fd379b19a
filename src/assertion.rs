//! What must be true of a run: a measure, a comparison and a value, such as `lost == 0` or `delay-p99 < 10m`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spelling::nearest;
use crate::task::words;
use crate::time::{format_duration, parse_duration};

words! {
    /// What can be measured of a run.
    Measure, "measure", "submitted, lost, done, done-share, done-first-try, done-after-retry, done-on-fallback, done-after-reassignment, done-by-human, dead-letters, dead-letter-share, recovered-share, waiting-human, cancelled, dead, pages, incidents, doubled, payments-repeated, calls, calls-per-task, calls-per-logical-call, calls-while-down, retries, parks, decisions, delay-p50, delay-p95, delay-p99, delay-max, tokens, usd, wasted-tokens, wasted-usd, violations, open, uptime" {
        /// Tasks accepted.
        Submitted = "submitted",
        /// Accepted tasks that are nowhere.
        Lost = "lost",
        /// Tasks done.
        Done = "done",
        /// Of all accepted.
        DoneShare = "done-share",
        /// Done by their first delivery.
        DoneFirstTry = "done-first-try",
        /// Done after a retry by schedule.
        DoneAfterRetry = "done-after-retry",
        /// Done on a fallback model.
        DoneOnFallback = "done-on-fallback",
        /// Done by another agent.
        DoneAfterReassignment = "done-after-reassignment",
        /// Done after a person decided.
        DoneByHuman = "done-by-human",
        /// Deaths: tasks given up, once a round.
        DeadLetters = "dead-letters",
        /// Tasks that were ever given up, of all accepted.
        DeadLetterShare = "dead-letter-share",
        /// Of the tasks that were ever given up, those that were done without a person.
        RecoveredShare = "recovered-share",
        /// Tasks that wait for a person at the end.
        WaitingHuman = "waiting-human",
        /// Tasks cancelled.
        Cancelled = "cancelled",
        /// Tasks that are dead letters at the end.
        Dead = "dead",
        /// Pages delivered, reminders included.
        Pages = "pages",
        /// Incidents opened.
        Incidents = "incidents",
        /// Tasks done more than once.
        Doubled = "doubled",
        /// Payments attempted more often than people allowed.
        PaymentsRepeated = "payments-repeated",
        /// Calls of models, as the providers saw them.
        Calls = "calls",
        /// Calls a task.
        CallsPerTask = "calls-per-task",
        /// Calls made for each answer that was used.
        CallsPerLogicalCall = "calls-per-logical-call",
        /// Calls that met a fault.
        CallsWhileDown = "calls-while-down",
        /// Retries by schedule.
        Retries = "retries",
        /// Times a task was parked.
        Parks = "parks",
        /// Decisions of the CEO and of people.
        Decisions = "decisions",
        /// From submission to the end of a task: half of those done were quicker.
        DelayP50 = "delay-p50",
        /// 95 of 100.
        DelayP95 = "delay-p95",
        /// 99 of 100.
        DelayP99 = "delay-p99",
        /// The longest.
        DelayMax = "delay-max",
        /// Tokens of all answers.
        Tokens = "tokens",
        /// Their price.
        Usd = "usd",
        /// Tokens of answers that came to nothing.
        WastedTokens = "wasted-tokens",
        /// Their price.
        WastedUsd = "wasted-usd",
        /// Invariants broken.
        Violations = "violations",
        /// Tasks that came to no end in time.
        Open = "open",
        /// The share of the agents' time in which an agent could work: it was up, and its provider not held.
        Uptime = "uptime",
    }
}

/// In what a measure is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A count.
    Count,
    /// A share of one; written as percent.
    Share,
    /// Seconds; written as a duration.
    Seconds,
    /// US dollars.
    Dollars,
    /// So many for each.
    Ratio,
}

impl Measure {
    /// In what it is told.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::DoneShare | Self::DeadLetterShare | Self::RecoveredShare | Self::Uptime => Unit::Share,
            Self::DelayP50 | Self::DelayP95 | Self::DelayP99 | Self::DelayMax => Unit::Seconds,
            Self::Usd | Self::WastedUsd => Unit::Dollars,
            Self::CallsPerTask | Self::CallsPerLogicalCall => Unit::Ratio,
            Self::Submitted
            | Self::Lost
            | Self::Done
            | Self::DoneFirstTry
            | Self::DoneAfterRetry
            | Self::DoneOnFallback
            | Self::DoneAfterReassignment
            | Self::DoneByHuman
            | Self::DeadLetters
            | Self::WaitingHuman
            | Self::Cancelled
            | Self::Dead
            | Self::Pages
            | Self::Incidents
            | Self::Doubled
            | Self::PaymentsRepeated
            | Self::Calls
            | Self::CallsWhileDown
            | Self::Retries
            | Self::Parks
            | Self::Decisions
            | Self::Tokens
            | Self::WastedTokens
            | Self::Violations
            | Self::Open => Unit::Count,
        }
    }
}

impl Unit {
    /// A value in words: `0.45 %`, `7m30s`, `$1.20`.
    #[must_use]
    pub fn words(self, value: f64) -> String {
        match self {
            Self::Count => format!("{value:.0}"),
            Self::Ratio => format!("{value:.3}"),
            Self::Share => format!("{} %", percent(value * 100.0)),
            Self::Dollars => format!("${value:.2}"),
            Self::Seconds => {
                let tenths = (value.max(0.0) * 10.0).round() / 10.0;
                format_duration(std::time::Duration::from_secs_f64(if value >= 60.0 { value.round() } else { tenths }))
            }
        }
    }
}

/// With two places, and with more where they would tell nothing from a little, or everything from nearly everything.
fn percent(value: f64) -> String {
    let told = (2..=6).map(|places| trimmed(value, places));
    let mut told = told.skip_while(|text| (text == "0" && value > 0.0) || (text == "100" && value < 100.0));
    told.next().unwrap_or_else(|| trimmed(value, 6))
}

fn trimmed(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

const SIGNS: [(&str, Comparison); 7] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Below),
    (">", Comparison::Above),
    ("=", Comparison::Equal),
];

impl Comparison {
    fn sign(self) -> &'static str {
        SIGNS.iter().find(|(_, comparison)| *comparison == self).map_or("==", |(sign, _)| sign)
    }

    fn holds(self, left: f64, right: f64) -> bool {
        let equal = (left - right).abs() <= 1e-9 * right.abs().max(1.0);
        match self {
            Self::Equal => equal,
            Self::Unequal => !equal,
            Self::Below => left < right && !equal,
            Self::AtMost => left < right || equal,
            Self::Above => left > right && !equal,
            Self::AtLeast => left > right || equal,
        }
    }
}

/// Something that must be true of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assertion {
    /// What is measured.
    pub measure: Measure,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what: a count, a share of one, seconds or dollars.
    pub value: f64,
}

impl Assertion {
    /// Is it true of this value?
    #[must_use]
    pub fn holds(&self, measured: f64) -> bool {
        self.comparison.holds(measured, self.value)
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.measure, self.comparison.sign(), self.measure.unit().words(self.value))
    }
}

/// Why a text is no assertion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssertionError {
    /// There is no comparison in it.
    #[error("`{0}` compares nothing; write a measure, a comparison and a value, such as `lost == 0`")]
    NoComparison(String),
    /// There is no such measure.
    #[error("there is no measure `{word}`; {remedy}")]
    NoMeasure {
        /// What was written.
        word: String,
        /// What is near.
        remedy: String,
    },
    /// The value is none, or in another unit.
    #[error("`{value}` is no value of {measure}; write {example}")]
    NoValue {
        /// What was written.
        value: String,
        /// Of what.
        measure: Measure,
        /// What could be written.
        example: &'static str,
    },
}

impl FromStr for Assertion {
    type Err = AssertionError;

    fn from_str(text: &str) -> Result<Self, AssertionError> {
        let found = SIGNS.iter().filter_map(|(sign, comparison)| Some((text.find(sign)?, *sign, *comparison)));
        // The leftmost, and of those the longest: `<=` is not `<`.
        let (at, sign, comparison) = found
            .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())))
            .ok_or_else(|| AssertionError::NoComparison(text.to_owned()))?;
        let (word, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        let measure: Measure = word.parse().map_err(|_| AssertionError::NoMeasure {
            word: word.to_owned(),
            remedy: match nearest(word, Measure::ALL.iter().map(|measure| measure.as_str())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "there are {}",
                    Measure::ALL.iter().map(|measure| measure.as_str()).collect::<Vec<_>>().join(", ")
                ),
            },
        })?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        let (read, example) = match measure.unit() {
            Unit::Count | Unit::Ratio => (number(&value.replace('_', "")), "a number, such as 3"),
            Unit::Share => {
                let share = value.strip_suffix('%').and_then(number).map(|percent| percent / 100.0);
                (share.filter(|share| *share <= 1.0), "a share in percent, such as 99%")
            }
            Unit::Seconds => (parse_duration(value).ok().map(|span| span.as_secs_f64()), "a duration, such as 7m30s"),
            Unit::Dollars => (number(value.trim_start_matches('$')), "US dollars, such as 12.50"),
        };
        let value = read.ok_or_else(|| AssertionError::NoValue { value: value.to_owned(), measure, example })?;
        Ok(Self { measure, comparison, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_everything_is_not_everything_and_a_little_is_not_nothing() {
        for (share, words) in [
            (1.0, "100 %"),
            (0.0, "0 %"),
            (0.5, "50 %"),
            (0.974, "97.4 %"),
            (0.85714, "85.71 %"),
            (0.99997, "99.997 %"),
            (0.999_999_9, "99.99999 %"),
            (0.000_004, "0.0004 %"),
        ] {
            assert_eq!(Unit::Share.words(share), words);
        }
    }

    #[test]
    fn assertions_are_read_compared_and_written() {
        for (text, measured, holds, written) in [
            ("lost == 0", 0.0, true, "lost == 0"),
            ("lost=0", 1.0, false, "lost == 0"),
            ("pages<=1", 1.0, true, "pages <= 1"),
            ("pages < 1", 1.0, false, "pages < 1"),
            ("done-share >= 99.5%", 0.995, true, "done-share >= 99.5 %"),
            ("done-share >= 99.5%", 0.9949, false, "done-share >= 99.5 %"),
            ("delay-p99 < 7m30s", 449.0, true, "delay-p99 < 7m30s"),
            ("delay-p99 < 7m30s", 450.0, false, "delay-p99 < 7m30s"),
            ("usd <= $12.50", 12.5, true, "usd <= $12.50"),
            ("calls-per-logical-call <= 1.02", 1.021, false, "calls-per-logical-call <= 1.020"),
            ("dead-letters != 0", 3.0, true, "dead-letters != 0"),
            ("calls > 1_000", 1_001.0, true, "calls > 1000"),
        ] {
            let assertion: Assertion = text.parse().expect(text);
            assert_eq!(assertion.holds(measured), holds, "{text} of {measured}");
            assert_eq!(assertion.to_string(), written);
            assert_eq!(written.parse::<Assertion>().as_ref(), Ok(&assertion), "{written}");
        }
    }

    #[test]
    fn what_is_no_assertion_is_told_with_the_nearest_right_word() {
        for (text, words) in [
            ("lost", "compares nothing"),
            ("lots == 0", "did you mean `lost`?"),
            ("done-share >= 99", "such as 99%"),
            ("done-share >= 101%", "such as 99%"),
            ("delay-p50 < 10", "such as 7m30s"),
            ("pages <= -1", "such as 3"),
            ("pages <= many", "such as 3"),
        ] {
            let error = text.parse::<Assertion>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
