//! What advice has cost, and what it was: no journal tells of it. What is not written down before an adviser is asked is
//! free again after a crash, and what is not written down when it has spoken is asked, and paid for, again.

use serde::{Deserialize, Serialize};

use crate::budget::DAY;
use crate::decision::Decision;
use crate::task::TaskId;
use crate::time::Timestamp;

/// What advice has cost within the last day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fees(pub Vec<Fee>);

/// What it cost to ask once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fee {
    /// When the adviser was asked.
    pub at: Timestamp,
    /// About which task.
    pub task: TaskId,
    /// In which of its rounds.
    pub generation: u32,
    /// How much, in millionths of a US dollar: the most it can have cost until the answer tells.
    pub micro_usd: u64,
    /// What was said, until that is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opinion: Option<Opinion>,
}

/// What came of asking the adviser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opinion {
    /// One of the decisions that were admissible when it was asked.
    Chosen(Decision),
    /// Nothing usable, and why.
    Useless(String),
}

impl Fees {
    /// What was said about this round of a task, and is not carried out yet.
    #[must_use]
    pub fn said_about(&self, task: TaskId, generation: u32) -> Option<&Fee> {
        let about = |fee: &&Fee| (fee.task, fee.generation) == (task, generation) && fee.opinion.is_some();
        self.0.iter().rev().find(about)
    }

    /// With this one, in the place of what was noted of the same question; without those of more than a day before it,
    /// whatever was said: nothing here is kept for ever because somebody else decided, or the process died in between.
    #[must_use]
    pub fn with(&self, fee: Fee) -> Self {
        let same = |known: &Fee| (known.at, known.task, known.generation) == (fee.at, fee.task, fee.generation);
        let mut kept: Vec<Fee> =
            self.0.iter().filter(|known| known.at + DAY > fee.at && !same(known)).cloned().collect();
        kept.push(fee);
        Self(kept)
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
            opinion: None,
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

    #[test]
    fn what_was_said_is_found_until_it_is_carried_out() {
        let task = |n: u8| TaskId::new(Timestamp::from_millis(0), [n; 10]);
        let fee = |n: u8, generation, opinion| Fee {
            at: Timestamp::from_millis(0),
            task: task(n),
            generation,
            micro_usd: 40,
            opinion,
        };
        let said = || Some(Opinion::Useless("silence".to_owned()));
        let fees = Fees::default().with(fee(1, 1, None)).with(fee(2, 1, said()));
        assert_eq!(fees.said_about(task(1), 1), None, "it is still being asked");
        assert_eq!(fees.said_about(task(2), 2), None, "of another round");
        let fees = fees.with(fee(1, 1, said()));
        assert_eq!(fees.said_about(task(1), 1), Some(&fee(1, 1, said())));
        let text = serde_json::to_string(&fees).expect("JSON");
        assert_eq!(serde_json::from_str::<Fees>(&text).expect("JSON"), fees);
        let fees = fees.with(fee(1, 1, None));
        assert_eq!((fees.said_about(task(1), 1), fees.0.len()), (None, 2), "its cost stays, once");
        let before = r#"[{"at":"1970-01-01T00:00:00.000Z","task":"TASK","generation":1,"micro_usd":40}]"#;
        let before = before.replace("TASK", &task(1).to_string());
        let read: Fees = serde_json::from_str(&before).expect("as it was written before this was kept");
        assert_eq!(read.0, [fee(1, 1, None)]);
    }
}
