//! What advice has cost: no journal tells of it, and what is not written down before an adviser is asked is free again
//! after a crash.

use serde::{Deserialize, Serialize};

use crate::budget::DAY;
use crate::task::TaskId;
use crate::time::Timestamp;

/// What advice has cost within the last day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fees(pub Vec<Fee>);

/// What it cost to ask once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fee {
    /// When the adviser was asked.
    pub at: Timestamp,
    /// About which task.
    pub task: TaskId,
    /// In which of its rounds.
    pub generation: u32,
    /// How much, in millionths of a US dollar: the most it can have cost until the answer tells.
    pub micro_usd: u64,
}

impl Fees {
    /// With this one, in the place of what was noted of the same question; without those of more than a day before it.
    #[must_use]
    pub fn with(&self, fee: Fee) -> Self {
        let same = |known: &Fee| (known.at, known.task, known.generation) == (fee.at, fee.task, fee.generation);
        let kept = self.0.iter().filter(|known| known.at + DAY > fee.at && !same(known));
        Self(kept.copied().chain([fee]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fee_takes_the_place_of_what_was_set_aside_for_it_and_lasts_a_day() {
        const HOUR: i64 = 3_600_000;
        let fee = |at: i64, task: u8, micro_usd| Fee {
            at: Timestamp::from_millis(at),
            task: TaskId::new(Timestamp::from_millis(0), [task; 10]),
            generation: 1,
            micro_usd,
        };
        let mut fees = Fees::default();
        for (next, expected) in [
            (fee(0, 1, 900), vec![(1, 900)]),
            (fee(0, 1, 40), vec![(1, 40)]),
            (fee(HOUR, 2, 900), vec![(1, 40), (2, 900)]),
            (fee(24 * HOUR, 3, 5), vec![(2, 900), (3, 5)]),
        ] {
            fees = fees.with(next);
            let kept: Vec<(TaskId, u64)> = fees.0.iter().map(|fee| (fee.task, fee.micro_usd)).collect();
            let of = |task: u8| TaskId::new(Timestamp::from_millis(0), [task; 10]);
            let expected: Vec<(TaskId, u64)> = expected.into_iter().map(|(task, fee)| (of(task), fee)).collect();
            assert_eq!(kept, expected);
        }
    }
}
