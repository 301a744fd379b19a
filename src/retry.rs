//! When to try again: backoff, jitter and limits of one policy, and which policy applies.
//!
//! A policy is data and the same loop runs them all: [`crate::settle::settle`] asks [`RetryPolicy::delay`] for the
//! n-th wait and nothing else in this program decides to try again. The trap is the cap: it applies *before* jitter,
//! so that waits at the cap are still spread.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mutant;
use crate::task::Effect;
use crate::time::{self, Timestamp};

/// How long to wait between deliveries, before jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backoff {
    /// The n-th wait is the n-th entry; the last entry repeats.
    List(#[serde(with = "list")] Vec<Duration>),
    /// `min(cap, initial * factor^(n-1))`.
    Exponential {
        /// The first wait.
        #[serde(with = "time::seconds")]
        initial: Duration,
        /// By what each wait grows; at least 1.
        factor: f64,
        /// No wait (before jitter) is longer.
        #[serde(with = "time::seconds")]
        cap: Duration,
    },
}

/// How waits are spread so that what failed together does not return together. `roll` is uniform in [0, 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jitter {
    /// Exactly the base.
    None,
    /// `base + roll * f * base`: never earlier than the base (seed A: f = 0.1).
    Additive(f64),
    /// `base * (1 - f + roll * 2 f)`: around the base (team default: f = 0.5).
    Around(f64),
    /// `roll * base`.
    Full,
    /// `base/2 + roll * base/2`.
    Equal,
    /// `min(cap, initial + roll * (3 * previous - initial))`.
    Decorrelated,
}

/// One policy of retrying: data, the same loop runs them all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Deliveries in all, the first included. Turned up: longer until a dead letter, more money for the same failure.
    pub max_deliveries: u32,
    /// The waits between them.
    pub backoff: Backoff,
    /// How they are spread.
    pub jitter: Jitter,
    /// How long a silent worker keeps its task. Turned up: fewer false redeliveries, later recovery of a dead worker.
    #[serde(with = "time::seconds")]
    pub ack_wait: Duration,
    /// How long a task may wait at open breakers and gates in all before the CEO gets it. Zero: fall back at once.
    #[serde(with = "time::seconds")]
    pub park_at_most: Duration,
}

/// What is wrong with a policy, by the key an operator wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PolicyError {
    /// The key: `initial`, `factor`, `cap`, `jitter`, `retries`, `list` or `ack_wait`.
    pub field: &'static str,
    /// What is wrong and what may stand there.
    pub message: String,
}

/// What [`RetryPolicy::UNLIMITED`] comes to where it may not be unlimited: ten deliveries (ACCEPTANCE T1).
pub const UNLIMITED_COMES_TO: u32 = 10;

impl RetryPolicy {
    /// As `max_deliveries`: as often as it takes. Only reads, and only up to a deadline; see [`RetryPolicy::limit`].
    pub const UNLIMITED: u32 = u32::MAX;

    /// The team's default: 3 deliveries, waits of 30 s and 2 min (then 5 min), half of each either way.
    #[must_use]
    pub fn team_default() -> Self {
        Self { jitter: Jitter::Around(0.5), ..Self::seed_b() }
    }

    /// The first seed article to the letter: five retries after 1, 2, 4, 8 and 16 s, each plus 0 to 10 %.
    #[must_use]
    pub fn seed_a() -> Self {
        Self {
            max_deliveries: 6,
            backoff: Backoff::Exponential {
                initial: Duration::from_secs(1),
                factor: 2.0,
                cap: Duration::from_secs(3_600),
            },
            jitter: Jitter::Additive(0.1),
            ..Self::seed_b()
        }
    }

    /// The second seed article to the letter: 3 deliveries, 30 s / 2 min / 5 min, a 5-minute lease, no jitter.
    #[must_use]
    pub fn seed_b() -> Self {
        let list = [30, 120, 300].map(Duration::from_secs);
        Self {
            max_deliveries: 3,
            backoff: Backoff::List(list.to_vec()),
            jitter: Jitter::None,
            ack_wait: Duration::from_secs(300),
            park_at_most: list.iter().sum(),
        }
    }

    /// The wait before the `n`-th retry (first = 1), to the millisecond; `None` when the deliveries are used up.
    /// `previous` is the wait before the retry before it (zero for the first).
    #[must_use]
    pub fn delay(&self, n: u32, previous: Duration, roll: f64) -> Option<Duration> {
        if n == 0 || n >= self.max_deliveries {
            return None;
        }
        let base = millis(self.backoff.base(n));
        let spread = match self.jitter {
            Jitter::None => base,
            Jitter::Additive(f) => base + roll * f * base,
            Jitter::Around(f) if mutant::on("jitter-below-floor") => base * (1.0 - f + roll * 2.0 * f) / 2.0,
            Jitter::Around(f) => base * (1.0 - f + roll * 2.0 * f),
            Jitter::Full => roll * base,
            Jitter::Equal => base / 2.0 + roll * base / 2.0,
            Jitter::Decorrelated => {
                let (initial, cap) = (millis(self.backoff.base(1)), millis(self.backoff.longest()));
                let previous = if previous.is_zero() { initial } else { millis(previous) };
                (initial + roll * (3.0 * previous - initial)).min(cap)
            }
        };
        Some(rounded(spread))
    }

    /// The waits between deliveries before jitter, in order; of an unlimited policy the first sixteen.
    #[must_use]
    pub fn waits(&self) -> Vec<Duration> {
        let retries = if self.max_deliveries == Self::UNLIMITED { 16 } else { self.max_deliveries.saturating_sub(1) };
        (1..=retries).map(|n| self.backoff.base(n)).collect()
    }

    /// How many deliveries this policy gives to a task: unlimited only for reads, and never without a deadline.
    #[must_use]
    pub fn limit(&self, effect: Effect, deadline: Option<Timestamp>) -> u32 {
        match (self.max_deliveries, effect) {
            (_, Effect::Payment) if !mutant::on("payment-retried") => 1,
            (Self::UNLIMITED, Effect::ReadOnly) if deadline.is_some() => Self::UNLIMITED,
            (Self::UNLIMITED, Effect::ReadOnly | Effect::Notification | Effect::Mutation | Effect::Payment) => {
                UNLIMITED_COMES_TO
            }
            (limit, Effect::ReadOnly | Effect::Notification | Effect::Mutation | Effect::Payment) => limit,
        }
    }

    /// The deliveries that a number of retries, as an operator writes it, comes to.
    ///
    /// # Errors
    /// When it is negative or beyond counting; the error names `retries`.
    pub fn deliveries(retries: i64) -> Result<u32, PolicyError> {
        u32::try_from(retries)
            .ok()
            .and_then(|retries| retries.checked_add(1))
            .filter(|deliveries| *deliveries < Self::UNLIMITED)
            .ok_or_else(|| wrong("retries", format!("{retries} is no number of retries; write 0 or more")))
    }

    /// Everything that is wrong with it; empty when it is sound.
    #[must_use]
    pub fn check(&self) -> Vec<PolicyError> {
        let mut errors = self.backoff.check();
        match self.jitter {
            Jitter::Additive(f) if !(f.is_finite() && f >= 0.0) => {
                errors.push(wrong("jitter", format!("{f} is no share of a wait; write 0 or more, such as 0.1")));
            }
            Jitter::Around(f) if !(0.0..=1.0).contains(&f) => {
                errors.push(wrong("jitter", format!("{f} is no share of a wait to vary by; write 0 to 1")));
            }
            Jitter::None
            | Jitter::Additive(_)
            | Jitter::Around(_)
            | Jitter::Full
            | Jitter::Equal
            | Jitter::Decorrelated => {}
        }
        if self.max_deliveries == 0 {
            errors.push(wrong("retries", "no delivery at all; a task is delivered at least once".to_owned()));
        }
        if self.ack_wait.is_zero() {
            errors.push(wrong("ack_wait", "a lease of no time ends before it begins; write 5m".to_owned()));
        }
        errors
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::team_default()
    }
}

impl Backoff {
    /// The n-th wait (first = 1) before jitter; the cap has been applied.
    fn base(&self, n: u32) -> Duration {
        match self {
            Self::List(list) => {
                let index = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
                list.get(index).or(list.last()).copied().unwrap_or_default()
            }
            Self::Exponential { initial, factor, cap } => {
                let power = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
                let grown = millis(*initial) * factor.powi(power);
                // Past the cap, also past what a float can hold, the cap it is.
                if grown < millis(*cap) { rounded(grown) } else { *cap }
            }
        }
    }

    fn longest(&self) -> Duration {
        match self {
            Self::List(list) => list.iter().max().copied().unwrap_or_default(),
            Self::Exponential { cap, .. } => *cap,
        }
    }

    fn check(&self) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        match self {
            Self::List(list) => {
                if list.is_empty() {
                    errors.push(wrong("list", "names no wait; write one or more, such as [30s, 2m, 5m]".to_owned()));
                }
            }
            Self::Exponential { initial, factor, cap } => {
                if initial.is_zero() {
                    errors.push(wrong("initial", "a first wait of zero never grows; write 1s or so".to_owned()));
                }
                if !(factor.is_finite() && *factor >= 1.0) {
                    errors.push(wrong("factor", format!("{factor} does not let waits grow; write 1 or more")));
                }
                if cap < initial {
                    errors.push(wrong("cap", format!("{cap:?} is below the first wait of {initial:?}")));
                }
            }
        }
        errors
    }
}

/// A level that may set a policy: its name, and the policy if it sets one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Which step, task type, agent or integration.
    pub name: String,
    /// Its policy, if it sets one.
    pub policy: Option<RetryPolicy>,
}

/// Everything that could set the policy of a delivery. The first that does wins: step, task type, agent, integration, team.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// The step of a workflow.
    pub step: Option<Level>,
    /// The type of the task.
    pub task_type: Option<Level>,
    /// The agent it is given to.
    pub agent: Option<Level>,
    /// The integration it calls.
    pub integration: Option<Level>,
    /// The team's default, which is always there.
    pub team: RetryPolicy,
}

/// The policy in force, and how that came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The policy.
    pub policy: RetryPolicy,
    /// Who set it, in words: "step pay", "task type code_review", "agent cto", "integration anthropic", "team default".
    pub winner: String,
    /// Every level in order of precedence, with what it says.
    pub levels: Vec<(String, Option<RetryPolicy>)>,
}

impl Levels {
    /// Which policy applies.
    #[must_use]
    pub fn effective(&self) -> Effective {
        let named = [
            ("step", &self.step),
            ("task type", &self.task_type),
            ("agent", &self.agent),
            ("integration", &self.integration),
        ];
        let mut levels: Vec<(String, Option<RetryPolicy>)> = named
            .into_iter()
            .filter_map(|(word, level)| {
                level.as_ref().map(|level| (format!("{word} {}", level.name), level.policy.clone()))
            })
            .collect();
        levels.push(("team default".to_owned(), Some(self.team.clone())));
        let (winner, policy) = levels
            .iter()
            .find_map(|(name, policy)| policy.as_ref().map(|policy| (name.clone(), policy.clone())))
            .unwrap_or_else(|| ("team default".to_owned(), self.team.clone()));
        Effective { policy, winner, levels }
    }
}

fn wrong(field: &'static str, message: String) -> PolicyError {
    PolicyError { field, message }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

/// To the nearest millisecond; what is no time at all is no wait.
fn rounded(millis: f64) -> Duration {
    let seconds = (millis.round() / 1_000.0).max(0.0);
    // The seconds are a binary fraction: round once more, or 1.1 s would be 1.0999… s.
    let nanos = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_nanos();
    Duration::from_millis(u64::try_from((nanos + 500_000) / 1_000_000).unwrap_or(u64::MAX))
}

mod list {
    use std::time::Duration;

    use serde::ser::SerializeSeq;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::time;

    #[derive(Serialize, Deserialize)]
    struct Seconds(#[serde(with = "time::seconds")] Duration);

    pub(super) fn serialize<S: Serializer>(list: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(list.len()))?;
        for span in list {
            seq.serialize_element(&Seconds(*span))?;
        }
        seq.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Seconds>::deserialize(deserializer)?.into_iter().map(|seconds| seconds.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn presets_are_sound_and_wait_as_the_articles_say() {
        for (policy, waits) in [
            (RetryPolicy::team_default(), vec![S(30), S(120)]),
            (RetryPolicy::seed_b(), vec![S(30), S(120)]),
            (RetryPolicy::seed_a(), vec![S(1), S(2), S(4), S(8), S(16)]),
        ] {
            assert_eq!(policy.check(), [], "{policy:?}");
            assert_eq!(policy.waits(), waits);
            assert_eq!(policy.park_at_most, S(450));
        }
    }

    #[test]
    fn the_team_default_spreads_half_of_each_wait_either_way() {
        let policy = RetryPolicy::team_default();
        for (n, roll, expected) in
            [(1, 0.0, Some(15)), (1, 0.5, Some(30)), (1, 1.0, Some(45)), (2, 0.0, Some(60)), (3, 0.5, None)]
        {
            assert_eq!(policy.delay(n, Duration::ZERO, roll), expected.map(S), "{n} {roll}");
        }
    }

    #[test]
    fn unlimited_is_for_reads_with_a_deadline() {
        let policy = RetryPolicy { max_deliveries: RetryPolicy::UNLIMITED, ..RetryPolicy::team_default() };
        let deadline = Some(Timestamp::from_millis(1));
        for (effect, deadline, expected) in [
            (Effect::ReadOnly, deadline, RetryPolicy::UNLIMITED),
            (Effect::ReadOnly, None, 10),
            (Effect::Notification, deadline, 10),
            (Effect::Mutation, deadline, 10),
            (Effect::Payment, deadline, 1),
        ] {
            assert_eq!(policy.limit(effect, deadline), expected, "{effect} {deadline:?}");
        }
        assert_eq!(policy.waits().len(), 16);
        assert_eq!(policy.delay(1_000, S(1), 0.5), Some(S(300)));
    }

    #[test]
    fn growth_past_all_counting_is_the_cap() {
        let policy = RetryPolicy { max_deliveries: RetryPolicy::UNLIMITED, ..RetryPolicy::seed_a() };
        assert_eq!(policy.delay(u32::MAX - 1, Duration::ZERO, 0.0), Some(S(3_600)));
    }

    #[test]
    fn the_nearest_level_wins_and_all_are_named() {
        let level = |name: &str, policy: Option<RetryPolicy>| Some(Level { name: name.to_owned(), policy });
        let mut levels = Levels {
            step: level("pay", Some(RetryPolicy::seed_b())),
            task_type: level("code_review", Some(RetryPolicy::seed_a())),
            agent: level("cto", Some(RetryPolicy::seed_a())),
            integration: level("anthropic", Some(RetryPolicy::seed_b())),
            team: RetryPolicy::team_default(),
        };
        let mut winners = Vec::new();
        for clear in [0, 1, 2, 3, 4] {
            let effective = levels.effective();
            assert_eq!(effective.levels.len(), 5);
            winners.push(effective.winner);
            let level = match clear {
                0 => &mut levels.step,
                1 => &mut levels.task_type,
                2 => &mut levels.agent,
                _ => &mut levels.integration,
            };
            if let Some(level) = level {
                level.policy = None;
            }
        }
        assert_eq!(
            winners,
            ["step pay", "task type code_review", "agent cto", "integration anthropic", "team default"]
        );
    }

    #[test]
    fn policies_are_written_in_seconds() {
        let json = serde_json::to_value(RetryPolicy::seed_b()).expect("json");
        assert_eq!(json["backoff"], serde_json::json!({"list": [30.0, 120.0, 300.0]}));
        assert_eq!(serde_json::from_value::<RetryPolicy>(json).expect("json"), RetryPolicy::seed_b());
    }
}
