//! Retries stay a share of first tries: the budget that keeps an outage from doubling its own load.
//!
//! Why a budget and not only a maximum per task? Three deliveries each are harmless for one task and three times the
//! traffic for a fleet, sent to a provider that is failing already. Each first try deposits a share of a retry, each
//! retry withdraws a whole one, both are forgotten after `ttl`, and a small reserve lets a quiet client retry at all.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{self, Timestamp};

/// How much may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryBudgetConfig {
    /// How long deposits and withdrawals are remembered.
    #[serde(with = "time::text")]
    pub ttl: Duration,
    /// Retries a second that are always allowed. Turned up: a quiet client recovers faster, an outage is hit harder.
    pub min_per_sec: u32,
    /// Retries for each first try: 0.2 is one in five. Turned up: more work is saved in a flurry, an outage is hit harder.
    pub percent: f64,
}

impl Default for RetryBudgetConfig {
    /// One retry in five and ten a second, over ten seconds.
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), min_per_sec: 10, percent: 0.2 }
    }
}

/// Whole retries are counted in millionths, so that shares add up exactly.
const RETRY: i64 = 1_000_000;

/// The budget of one integration.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    /// Deposits (positive) and withdrawals (negative), one entry a millisecond, oldest first.
    entries: VecDeque<(Timestamp, i64)>,
}

impl RetryBudget {
    /// A budget nothing was paid into yet.
    #[must_use]
    pub const fn new(config: RetryBudgetConfig) -> Self {
        Self { config, entries: VecDeque::new() }
    }

    /// A first try was made.
    pub fn deposit(&mut self, now: Timestamp) {
        let share = (self.config.percent * 1e6).round().clamp(0.0, 1e12);
        #[allow(clippy::cast_possible_truncation, reason = "clamped to a range that an i64 holds")]
        self.enter(share as i64, now);
    }

    /// Takes one retry out, if there is one; `false` changes nothing.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.take(false, now)
    }

    /// Takes one retry out, `anyway` also where there is none: what comes after it waits the longer.
    pub fn take(&mut self, anyway: bool, now: Timestamp) -> bool {
        let allowed = anyway || self.available(now) >= RETRY;
        if allowed {
            self.enter(-RETRY, now);
        }
        allowed
    }

    /// How many whole retries could be withdrawn now.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> u64 {
        u64::try_from(self.available(now) / RETRY).unwrap_or(0)
    }

    fn available(&self, now: Timestamp) -> i64 {
        let millis = i64::try_from(self.config.ttl.as_millis()).unwrap_or(i64::MAX);
        let reserve = i64::from(self.config.min_per_sec).saturating_mul(millis).saturating_mul(RETRY / 1_000);
        let remembered = self.entries.iter().filter(|(at, _)| now.since(*at) < self.config.ttl);
        remembered.fold(reserve, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    fn enter(&mut self, amount: i64, now: Timestamp) {
        while self.entries.front().is_some_and(|(at, _)| now.since(*at) >= self.config.ttl) {
            self.entries.pop_front();
        }
        match self.entries.back_mut() {
            Some((at, sum)) if *at == now => *sum = sum.saturating_add(amount),
            Some(_) | None => self.entries.push_back((now, amount)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_first_tries_pay_for_one_retry() {
        let mut budget = RetryBudget::new(RetryBudgetConfig { min_per_sec: 0, ..RetryBudgetConfig::default() });
        let at = Timestamp::from_millis;
        for n in 0..4 {
            budget.deposit(at(n));
            assert!(!budget.withdraw(at(n)), "after {n}");
        }
        budget.deposit(at(4));
        assert_eq!(budget.left(at(4)), 1);
        assert!(budget.withdraw(at(5)));
        assert!(!budget.withdraw(at(5)));
    }

    #[test]
    fn a_refused_withdrawal_costs_nothing() {
        let mut budget = RetryBudget::new(RetryBudgetConfig { min_per_sec: 1, ..RetryBudgetConfig::default() });
        let at = Timestamp::from_millis;
        assert!((0..10).all(|n| budget.withdraw(at(n))));
        assert!((10..9_999).all(|n| !budget.withdraw(at(n))));
        assert!(budget.withdraw(at(10_000)), "the first withdrawal is ten seconds old and forgotten");
    }

    #[test]
    fn what_is_taken_anyway_is_owed() {
        let mut budget = RetryBudget::new(RetryBudgetConfig { min_per_sec: 0, ..RetryBudgetConfig::default() });
        let at = Timestamp::from_millis;
        assert!(!budget.take(false, at(0)));
        assert!(budget.take(true, at(0)));
        (1..=5).for_each(|n| budget.deposit(at(n)));
        assert_eq!(budget.left(at(5)), 0, "five first tries have paid for the one that was taken");
        assert!(!budget.withdraw(at(5)));
        (6..=10).for_each(|n| budget.deposit(at(n)));
        assert!(budget.withdraw(at(10)));
    }
}
