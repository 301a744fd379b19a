//! When nobody was there: from the last sign of life of one process until the start of the next.
//!
//! Who waits at a hold waits for somebody to let it go, and has patience for so long. While the process is down there is
//! nobody, and that is no wait. The trap is that there may be several such times within one wait: they are kept, and not
//! only the last.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The most that are kept: what waits across more of them has waited for long, whatever is forgotten of it.
const KEPT_MAX: usize = 200;

/// The times in which nobody was there, oldest first: from when until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absences(Vec<(Timestamp, Timestamp)>);

impl Absences {
    /// With one more, of which nothing was heard since `from`: whoever was there meanwhile has told nothing.
    #[must_use]
    pub fn with(&self, from: Timestamp, until: Timestamp) -> Self {
        let before = self.0.iter().filter(|(gone, _)| *gone < from).map(|(gone, back)| (*gone, (*back).min(from)));
        let mut kept: Vec<_> = before.chain([(from, until)]).filter(|(gone, back)| gone < back).collect();
        // The shortest matters least: a process that dies each few seconds must not push out the night before.
        while kept.len() > KEPT_MAX {
            let shortest = (0..kept.len()).min_by_key(|n| kept[*n].1.since(kept[*n].0));
            kept.remove(shortest.unwrap_or_default());
        }
        Self(kept)
    }

    /// How long of this time nobody was there.
    #[must_use]
    pub fn within(&self, from: Timestamp, until: Timestamp) -> Duration {
        self.0.iter().map(|(gone, back)| until.min(*back).since(from.max(*gone))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn what_lies_in_a_span_of_two_nights() {
        let nights = Absences::default().with(at(100), at(200)).with(at(300), at(400));
        for (from, until, expected) in [
            (0, 100, 0),
            (0, 150, 50),
            (0, 500, 200),
            (150, 350, 100),
            (120, 130, 10),
            (200, 300, 0),
            (400, 500, 0),
            (350, 320, 0),
        ] {
            assert_eq!(nights.within(at(from), at(until)), Duration::from_secs(expected), "{from} to {until}");
        }
    }

    /// A process that was up on a full disk until it was killed has told nothing: two absences that overlap are one.
    #[test]
    fn none_counts_twice() {
        let silent = Absences::default().with(at(100), at(200)).with(at(100), at(300));
        assert_eq!(silent, Absences(vec![(at(100), at(300))]));
        let set_back = Absences::default().with(at(100), at(200)).with(at(150), at(300));
        assert_eq!(set_back.within(at(0), at(900)), Duration::from_secs(200));
        assert_eq!(Absences::default().with(at(100), at(100)), Absences::default(), "back at once");
    }

    #[test]
    fn what_is_kept_has_an_end() {
        let mut many = Absences::default().with(at(-36_000), at(-10));
        for n in 0..i64::try_from(KEPT_MAX).expect("few") + 10 {
            many = many.with(at(10 * n), at(10 * n + 1));
        }
        assert_eq!(
            (many.0.len(), many.0[0]),
            (KEPT_MAX, (at(-36_000), at(-10))),
            "a night is not pushed out by moments"
        );
    }
}
