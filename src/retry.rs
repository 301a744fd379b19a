//! When to try again: backoff, jitter and limits of one policy, and which policy applies.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time;

/// How long to wait between deliveries, before jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backoff {
    /// The n-th wait is the n-th entry; the last entry repeats.
    List(Vec<Duration>),
    /// `min(cap, initial * factor^(n-1))`.
    Exponential {
        /// The first wait.
        initial: Duration,
        /// By what each wait grows; at least 1.
        factor: f64,
        /// No wait (before jitter) is longer.
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
