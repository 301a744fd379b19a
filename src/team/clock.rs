//! The one clock and the one pair of dice: where time and chance enter.
//!
//! Everything else takes them as arguments, so that the same code runs in a demo at twenty times the speed and in a
//! test on tokio's paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::task::TaskId;
use crate::time::Timestamp;

/// The team's time: monotonic inside a process, `max(stored, wall)` across restarts, and as fast as one likes.
#[derive(Clone, Debug)]
pub struct Clock {
    start: tokio::time::Instant,
    origin: Timestamp,
    factor: f64,
}

impl Clock {
    /// A clock that shows `origin` now and runs `factor` times as fast as the world (1 is the world's pace).
    #[must_use]
    pub fn starting_at(origin: Timestamp, factor: f64) -> Self {
        Self { start: tokio::time::Instant::now(), origin, factor: factor.max(f64::MIN_POSITIVE) }
    }

    /// The world's time, but never before `high_water`, the latest time the store has seen: a wall clock set back
    /// between two runs must not make leases and windows young again.
    #[must_use]
    pub fn world(high_water: Timestamp) -> Self {
        Self::starting_at(wall().max(high_water), 1.0)
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.origin + self.start.elapsed().mul_f64(self.factor)
    }

    /// How many times as fast as the world it runs.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// Waits until the clock shows `then`.
    pub async fn sleep_until(&self, then: Timestamp) {
        self.sleep(self.now().until(then)).await;
    }

    /// Waits for a span of this clock. A span beyond a year is cut to one: whoever waits looks again then.
    pub async fn sleep(&self, span: Duration) {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        // One millisecond more than asked: tokio rounds to milliseconds, and waking early would find nothing due.
        let real = span.min(YEAR).div_f64(self.factor) + Duration::from_millis(u64::from(span > Duration::ZERO));
        tokio::time::sleep(real).await;
    }
}

/// The wall clock. Only [`Clock::world`], the stamps of files and whoever is told a time by somebody else ask for it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Chance, from a seed: the same question gives the same answer, whatever else happens in between.
#[derive(Clone, Debug)]
pub struct Dice {
    seed: u64,
    ids: Arc<AtomicU64>,
}

impl Dice {
    /// Dice that always fall the same way for one seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ids: Arc::default() }
    }

    /// Dice nobody can foresee.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place where chance enters; from here on it is the seed's")]
    pub fn from_the_system() -> Self {
        let mut bytes = [0; 8];
        // Without entropy jitter is still correct, only foreseeable; there is nothing better to do about it.
        if getrandom::fill(&mut bytes).is_err() {
            bytes = wall().millis().to_le_bytes();
        }
        Self::seeded(u64::from_le_bytes(bytes))
    }

    /// A number in [0, 1) for one purpose about one thing.
    #[must_use]
    pub fn roll(&self, purpose: &str, about: &str, number: u64) -> f64 {
        if crate::mutant::on("real-dice") && purpose == "backoff" {
            return Self::from_the_system().roll("of the world", about, number);
        }
        let bits = self.bits(purpose, about, number)[0] >> 11;
        // 53 bits are what a double holds exactly.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let fraction = bits as f64 / (1_u64 << 53) as f64;
        fraction
    }

    /// A new task's id.
    #[must_use]
    pub fn task_id(&self, now: Timestamp) -> TaskId {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let [high, low] = self.bits("task-id", &now.to_string(), number);
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes()[..2]);
        TaskId::new(now, bytes)
    }

    fn bits(&self, purpose: &str, about: &str, number: u64) -> [u64; 2] {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(about.as_bytes());
        hash.update(number.to_le_bytes());
        let digest = hash.finalize();
        let word = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[from..from + 8]);
            u64::from_le_bytes(bytes)
        };
        [word(0), word(8)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_depend_on_the_question_only() {
        let dice = Dice::seeded(7);
        let first = dice.roll("backoff", "a", 1);
        assert!((0.0..1.0).contains(&first));
        assert!((first - Dice::seeded(7).roll("backoff", "a", 1)).abs() < f64::EPSILON);
        for other in
            [dice.roll("backoff", "a", 2), dice.roll("backoff", "b", 1), Dice::seeded(8).roll("backoff", "a", 1)]
        {
            assert!((first - other).abs() > f64::EPSILON);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_clock_sleeps_less() {
        let clock = Clock::starting_at(Timestamp::from_millis(0), 20.0);
        let before = tokio::time::Instant::now();
        clock.sleep_until(Timestamp::from_millis(20_000)).await;
        assert!(clock.now() >= Timestamp::from_millis(20_000));
        assert!(before.elapsed() < Duration::from_millis(1_010));
    }
}
