//! The circuit breaker of one integration, and its gate.

use std::time::Duration;

/// How a breaker judges (placeholder; see the conformance tables).
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// How many failures within `window` open it.
    pub failures: u32,
    /// The sliding window.
    pub window: Duration,
    /// How long it stays open.
    pub open_for: Duration,
}
