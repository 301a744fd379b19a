//! Whether an agent is well: deaths, restarts, and when to stop restarting it.
//!
//! An agent that dies is started again after a wait that doubles. One that dies too often without a healthy spell in
//! between is in a *crash loop*: it is left down, its siblings go on, the CEO moves its work, and one start every
//! quarter of an hour looks whether it has recovered. Counting deaths in a row, not deaths in a window, is on purpose:
//! five doubling waits take longer than any short window, so a window alone could never be exceeded. Where an operator
//! sets `restart: { max, within }` that window counts as well.
//!
//! A task that kills its agent every time it is delivered counts once, however often it is tried: it is the task that is
//! given up on, and not the agent with everything else that waits for it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::TaskId;
use crate::time::{self, Timestamp};

/// How an agent is restarted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RestartPolicy {
    /// The wait before the first restart; doubled for each death in a row.
    #[serde(with = "time::text")]
    pub delay: Duration,
    /// The longest wait.
    #[serde(with = "time::text")]
    pub delay_max: Duration,
    /// More deaths in a row than this are a crash loop; those of one task count once. Turned up: more patience, more restarts
    /// for nothing.
    pub max: u32,
    /// More deaths than `max` within this are a crash loop too, healthy spells or not; zero: only those in a row count.
    #[serde(with = "time::text")]
    pub within: Duration,
    /// Alive for so long, it is well again and its deaths are forgotten.
    #[serde(with = "time::text")]
    pub healthy_after: Duration,
    /// In a crash loop: how long until one more start is tried.
    #[serde(with = "time::text")]
    pub probe_every: Duration,
}

impl Default for RestartPolicy {
    /// 0.5 s doubled up to 60 s; more than 5 in a row without 10 healthy minutes; a probe every 15 minutes.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(500),
            delay_max: Duration::from_secs(60),
            max: 5,
            within: Duration::ZERO,
            healthy_after: Duration::from_secs(600),
            probe_every: Duration::from_secs(900),
        }
    }
}

impl RestartPolicy {
    /// The wait before the restart after the `n`-th death in a row (first = 1); jitter adds up to a tenth.
    #[must_use]
    pub fn wait(&self, n: u32, roll: f64) -> Duration {
        let doublings = n.saturating_sub(1).min(31);
        let base = self.delay.saturating_mul(1 << doublings).min(self.delay_max);
        base + base.mul_f64(0.1 * roll.clamp(0.0, 1.0))
    }
}

/// What to do about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDeath {
    /// Start it again after this wait.
    Restart {
        /// How long to wait.
        after: Duration,
    },
    /// Leave it down and tell the CEO; start it once at that time to see.
    CrashLoop {
        /// When.
        probe_at: Timestamp,
    },
}

/// The health of one agent, as its supervisor sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    policy: RestartPolicy,
    /// Deaths without a healthy spell in between.
    in_a_row: u32,
    /// Those of them that count towards a crash loop.
    counted: u32,
    /// Who killed it in these.
    killers: BTreeSet<TaskId>,
    /// When it died, of what counts.
    recent: VecDeque<Timestamp>,
    up_since: Option<Timestamp>,
    crash_loop: bool,
}

impl Health {
    /// An agent that never died.
    #[must_use]
    pub const fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            in_a_row: 0,
            counted: 0,
            killers: BTreeSet::new(),
            recent: VecDeque::new(),
            up_since: None,
            crash_loop: false,
        }
    }

    /// It was started.
    pub const fn started(&mut self, now: Timestamp) {
        self.up_since = Some(now);
    }

    /// It died, or failed to start: of these tasks, where that is known. `roll` spreads the restarts of agents that died
    /// together.
    pub fn died(&mut self, now: Timestamp, killers: &BTreeSet<TaskId>, roll: f64) -> AfterDeath {
        self.look(now);
        self.up_since = None;
        self.in_a_row = self.in_a_row.saturating_add(1);
        let within = self.policy.within;
        let known = !killers.is_empty() && killers.is_subset(&self.killers);
        if !known {
            self.counted = self.counted.saturating_add(1);
            self.recent.push_back(now);
            self.killers.extend(killers);
        }
        self.recent.retain(|death| now.since(*death) < within);
        let max = usize::try_from(self.policy.max).unwrap_or(usize::MAX);
        let too_often = self.counted > self.policy.max || self.recent.len() > max;
        self.crash_loop |= too_often;
        if self.crash_loop {
            return AfterDeath::CrashLoop { probe_at: now + self.policy.probe_every };
        }
        AfterDeath::Restart { after: self.policy.wait(self.in_a_row, roll) }
    }

    /// Notices a healthy spell: alive for long enough, its deaths are forgotten, and a crash loop is over.
    fn look(&mut self, now: Timestamp) {
        if self.up_since.is_some_and(|since| now.since(since) >= self.policy.healthy_after) {
            self.in_a_row = 0;
            self.counted = 0;
            self.killers.clear();
            self.crash_loop = false;
        }
    }

    /// Deaths without a healthy spell in between.
    #[must_use]
    pub const fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    const fn nobody() -> BTreeSet<TaskId> {
        BTreeSet::new()
    }

    fn killer(n: u8) -> TaskId {
        TaskId::new(at(0), [n; 10])
    }

    #[test]
    fn waits_double_up_to_a_minute_and_jitter_only_adds() {
        let policy = RestartPolicy::default();
        let waits: Vec<u128> = (1..=9).map(|n| policy.wait(n, 0.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(policy.wait(1, 1.0), Duration::from_millis(550));
        assert_eq!(policy.wait(u32::MAX, 0.0), Duration::from_secs(60));
    }

    #[test]
    fn the_sixth_death_in_a_row_is_a_crash_loop_with_one_probe_a_quarter_of_an_hour() {
        let mut health = Health::new(RestartPolicy::default());
        for n in 0..5 {
            health.started(at(n));
            assert!(matches!(health.died(at(n), &nobody(), 0.0), AfterDeath::Restart { .. }), "{n}");
        }
        health.started(at(100));
        assert_eq!(health.died(at(100), &nobody(), 0.0), AfterDeath::CrashLoop { probe_at: at(1_000) });
        // A probe that comes up is no recovery yet, nor are ten minutes but for a second.
        health.started(at(1_000));
        assert_eq!(health.died(at(1_001), &nobody(), 0.0), AfterDeath::CrashLoop { probe_at: at(1_901) });
        health.started(at(1_901));
        assert_eq!(health.died(at(2_500), &nobody(), 0.0), AfterDeath::CrashLoop { probe_at: at(3_400) });
        health.started(at(3_400));
        let after = Duration::from_millis(500);
        assert_eq!(health.died(at(4_000), &nobody(), 0.0), AfterDeath::Restart { after }, "it left the crash loop");
    }

    /// A task that was sent again by two decisions killed its agent six times: the agent was left down, and everything that
    /// waited for it went to a person.
    #[test]
    fn a_task_that_kills_it_again_and_again_counts_once() {
        let task = |n| BTreeSet::from([killer(n)]);
        let mut health = Health::new(RestartPolicy { within: Duration::from_secs(3_600), ..RestartPolicy::default() });
        for n in 0..20 {
            health.started(at(n));
            assert!(matches!(health.died(at(n), &task(1), 0.0), AfterDeath::Restart { .. }), "{n}");
        }
        assert_eq!(health.died(at(20), &task(1), 0.0), AfterDeath::Restart { after: Duration::from_secs(60) });
        // Others count, and so does who is not known.
        for n in 2..=4 {
            assert!(matches!(health.died(at(20), &task(n), 0.0), AfterDeath::Restart { .. }), "{n}");
        }
        let both = BTreeSet::from([killer(1), killer(5)]);
        assert!(matches!(health.died(at(21), &both, 0.0), AfterDeath::Restart { .. }), "five: one of the two is new");
        assert!(matches!(health.died(at(22), &both, 0.0), AfterDeath::Restart { .. }));
        assert!(matches!(health.died(at(23), &nobody(), 0.0), AfterDeath::CrashLoop { .. }), "the sixth");
    }

    #[test]
    fn after_a_healthy_spell_a_task_that_killed_it_counts_again() {
        let mut health = Health::new(RestartPolicy { max: 1, ..RestartPolicy::default() });
        let one = BTreeSet::from([killer(1)]);
        health.started(at(0));
        health.died(at(1), &one, 0.0);
        health.started(at(2));
        health.died(at(700), &one, 0.0);
        assert!(matches!(health.died(at(701), &nobody(), 0.0), AfterDeath::CrashLoop { .. }));
    }

    #[test]
    fn a_healthy_spell_forgets_deaths_in_a_row_but_not_those_of_a_configured_window() {
        for (within, loops) in [(0, false), (3_600, true)] {
            let policy = RestartPolicy { max: 2, within: Duration::from_secs(within), ..RestartPolicy::default() };
            let mut health = Health::new(policy);
            let mut looped = false;
            for n in 0..3 {
                health.started(at(n * 700));
                looped = matches!(health.died(at(n * 700 + 650), &nobody(), 0.0), AfterDeath::CrashLoop { .. });
            }
            assert_eq!((health.in_a_row(), looped), (1, loops), "within {within} s");
        }
    }
}
