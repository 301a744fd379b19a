//! Seeded dice, and what they say a round of chaos is: how long, which faults when, and how it ends.

use std::time::Duration;

use serde_json::{Value, json};

/// SplitMix64: the same seed, the same throws.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From the first to the last, both included.
    pub(super) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.throw() % (last - first + 1)
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.throw().is_multiple_of(many)
    }
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// SIGSTOP, then SIGCONT.
    Stopped,
    /// No room on the disk.
    Full,
    /// Each sync takes so many milliseconds longer.
    Slow(i64),
    /// The pager refuses.
    PagerDown,
    /// The provider fails, as the outage server calls it, and is not asked for a while after.
    Outage { fault: Value, echo: Duration },
    /// The wall clock jumps by so many milliseconds, and stays there.
    Clock(i64),
}

impl Fault {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Full => "disk full",
            Self::Slow(_) => "disk slow",
            Self::PagerDown => "pager down",
            Self::Outage { .. } => "outages",
            Self::Clock(_) => "clock steps",
        }
    }
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    Terminate,
}

/// One round: from a start to an end of the process.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// How long the process lives, at least.
    pub(super) lives: Duration,
    /// What goes wrong: when after its start, and for how long.
    pub(super) faults: Vec<(Duration, Duration, Fault)>,
    pub(super) end: End,
    /// The clock jumps while nobody runs.
    pub(super) step_meanwhile: Option<i64>,
}

/// After a restart nothing else is broken for so long: what was orphaned is to run again in it.
pub(super) const QUIET: Duration = Duration::from_millis(2_500);
/// The clock is wrong by no more than this, in milliseconds.
const WRONG_MAX: i64 = 60_000;

/// What the next round is. `wrong`: by how much the clock is wrong after it.
pub(super) fn round(dice: &mut Dice, number: u64, wrong: &mut i64) -> Round {
    let lives = Duration::from_millis(dice.between(5_000, 20_000));
    // Every fourth is told to stop; the dice say which of four.
    let end = if dice.one_in(4) || number == 2 { End::Terminate } else { End::Kill };
    let mut faults = Vec::new();
    // The first rounds show each kind once, whatever the seed; each of the others has up to three.
    let many = if number < 6 { 1 } else { dice.between(0, 3) };
    for nth in 0..many {
        let kind = if number < 6 { number } else { dice.between(0, 5) };
        let lasts = |dice: &mut Dice, first: u64, last: u64| Duration::from_millis(dice.between(first, last));
        let (fault, lasts) = match kind {
            0 => (Fault::Stopped, lasts(dice, 1_000, 8_000)),
            1 => (Fault::Full, lasts(dice, 1_000, 6_000)),
            2 => (Fault::PagerDown, lasts(dice, 2_000, 30_000)),
            3 => (outage(dice), lasts(dice, 3_000, 15_000)),
            4 => {
                (Fault::Slow(i64::try_from(dice.between(200, 2_000)).expect("two seconds")), lasts(dice, 2_000, 8_000))
            }
            _ => (Fault::Clock(step(dice, wrong)), Duration::ZERO),
        };
        let latest = u64::try_from(lives.as_millis()).expect("a few seconds").max(2_600);
        // One after the other: a process that stands still cannot meet a full disk.
        let begins = Duration::from_millis(dice.between(2_500, latest)) + Duration::from_millis(nth * 200);
        faults.push((begins, lasts, fault));
    }
    faults.sort_by_key(|(begins, ..)| *begins);
    let step_meanwhile = dice.one_in(5).then(|| step(dice, wrong));
    Round { lives, faults, end, step_meanwhile }
}

fn step(dice: &mut Dice, wrong: &mut i64) -> i64 {
    let by = i64::try_from(dice.between(2_000, 45_000)).expect("less than a minute");
    let by = if dice.one_in(2) { -by } else { by };
    let by = if (*wrong + by).abs() > WRONG_MAX { -by } else { by };
    *wrong += by;
    by
}

fn outage(dice: &mut Dice) -> Fault {
    let wait = dice.between(3, 15);
    let (fault, echo) = match dice.between(0, 6) {
        0 => (json!({ "fault": "server-error" }), 0),
        1 => (json!({ "fault": "overloaded", "share": 0.7 }), 0),
        2 => (json!({ "fault": "unavailable" }), 0),
        3 => (json!({ "fault": "hang", "share": 0.5 }), 0),
        4 => (json!({ "fault": "truncated", "share": 0.6 }), 0),
        5 => (json!({ "fault": "rate-limited", "retry-after": format!("{wait}s") }), wait),
        _ => (json!({ "fault": "reset", "share": 0.5 }), 0),
    };
    Fault::Outage { fault, echo: Duration::from_secs(echo) }
}
