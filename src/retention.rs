//! What may be forgotten, and when.
//!
//! A record that only grows is lost in the end, with its disk. What has come to an end goes once it is old enough, with
//! its steps, its events and its key. What is open, waits for a person, or is needed by an incident or a replay that is
//! not over, stays however old it is. What went is still counted: see [`crate::balance::Balance::pruned`]. Incidents and
//! replays themselves go by `bygone.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{LetterStatus, State};
use crate::task::words;
use crate::time::Timestamp;

/// How long a key is remembered after its task has ended (Stripe keeps keys for at least 24 hours). Nothing is
/// forgotten before, whatever is asked: the limits of money look back as far, too.
pub const KEY_RETENTION: Duration = Duration::from_secs(24 * 3_600);
/// Counts of failures and deaths, events of no task, and incidents are kept this long at least: windows of a month stay exact.
pub const COUNTS_LEAST: Duration = Duration::from_secs(31 * 24 * 3_600);
/// The grain of the counts, in milliseconds: an hour is kept whole or not at all.
const HOUR: i64 = 3_600_000;

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Tasks done or cancelled that were never given up on, after their end; none: for ever. Turned up: answers can be
    /// looked up longer, and the file is larger.
    pub done: Option<Duration>,
    /// Tasks that were given up on, after they were resolved, discarded, or done after all, and incidents and replays, which are
    /// about these, after their end; none: for ever.
    pub dead_letters: Option<Duration>,
    /// How many bytes the record may take before tasks that ended go earlier, oldest first; none: no bound. What is open
    /// may pass it.
    pub size_max: Option<u64>,
}

impl Default for Retention {
    /// Thirty days for what went well, ninety for what did not, whatever the size.
    fn default() -> Self {
        let days = |days: u64| Some(Duration::from_secs(days * 24 * 3_600));
        Self { done: days(30), dead_letters: days(90), size_max: None }
    }
}

impl Retention {
    /// Everything for ever.
    pub const FOR_EVER: Self = Self { done: None, dead_letters: None, size_max: None };

    /// Everything that ended longer ago than this, whatever became of it.
    #[must_use]
    pub const fn older_than(span: Duration) -> Self {
        Self { done: Some(span), dead_letters: Some(span), size_max: None }
    }

    /// Does a record of so many bytes press?
    #[must_use]
    pub fn presses(&self, bytes: u64) -> bool {
        self.size_max.is_some_and(|max| bytes > max)
    }

    /// What was accepted later than this cannot be old enough; nothing can, when there is none.
    #[must_use]
    pub fn youngest(&self, pressed: bool, now: Timestamp) -> Option<Timestamp> {
        let spans = [self.done, self.dead_letters, pressed.then_some(KEY_RETENTION)];
        let least = spans.into_iter().flatten().min()?.max(KEY_RETENTION);
        Some(before(now, least))
    }

    /// Counts and events of no task from before this go; a whole hour, so that sums by the hour stay true.
    #[must_use]
    pub fn horizon(&self, now: Timestamp) -> Option<Timestamp> {
        let longest = self.done?.max(self.dead_letters?).max(COUNTS_LEAST);
        let moment = before(now, longest).millis();
        Some(Timestamp::from_millis(moment.div_euclid(HOUR).saturating_mul(HOUR)))
    }
}

fn before(now: Timestamp, span: Duration) -> Timestamp {
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.millis().saturating_sub(millis))
}

/// What decides about one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub state: State,
    /// Where its dead letter stands, if it has one.
    pub letter: Option<LetterStatus>,
    /// When it came to its end, if it has.
    pub ended_at: Option<Timestamp>,
    /// Is it part of an incident or a replay that is not over?
    pub needed: bool,
}

words! {
    /// What becomes of a task, an incident or a replay.
    Verdict, "verdict", "goes, open, needed, young" {
        /// It is old enough, and nobody needs it.
        Goes = "goes",
        /// It has not come to an end, or waits for a person.
        Open = "open",
        /// An incident or a replay that is not over is about it; or it is one, and something still hangs on it.
        Needed = "needed",
        /// It ended not long ago.
        Young = "young",
    }
}

/// May this task be forgotten? `pressed`: the record is too large (see [`Retention::presses`]).
#[must_use]
pub fn verdict(standing: &Standing, retention: &Retention, pressed: bool, now: Timestamp) -> Verdict {
    let over = match standing.state {
        State::Done | State::Cancelled => true,
        State::Dead => match standing.letter {
            Some(LetterStatus::Discarded) => true,
            Some(LetterStatus::Open | LetterStatus::SentAgain | LetterStatus::WithHuman | LetterStatus::Resolved)
            | None => false,
        },
        State::Ready | State::Scheduled | State::Parked | State::Running | State::WaitingHuman => false,
    };
    let Some(ended_at) = standing.ended_at.filter(|_| over) else { return Verdict::Open };
    if standing.needed {
        return Verdict::Needed;
    }
    let keep = if standing.letter.is_some() { retention.dead_letters } else { retention.done };
    let keep = if pressed { Some(KEY_RETENTION) } else { keep };
    match keep {
        Some(keep) if ended_at + keep.max(KEY_RETENTION) <= now => Verdict::Goes,
        Some(_) | None => Verdict::Young,
    }
}

/// What went, or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Tasks that were done.
    pub done: u64,
    /// Tasks given up on for good: discarded dead letters.
    pub dead: u64,
    /// Tasks cancelled.
    pub cancelled: u64,
    /// Incidents that were over, each with its pages.
    #[serde(default)]
    pub incidents: u64,
    /// Replays that had ended.
    #[serde(default)]
    pub replays: u64,
    /// Events; unknown, and zero, in a dry run.
    pub events: u64,
}

impl Pruned {
    /// How many tasks.
    #[must_use]
    pub const fn tasks(&self) -> u64 {
        self.done + self.dead + self.cancelled
    }

    /// Counts one task that stood so.
    pub const fn count(&mut self, state: State) {
        match state {
            State::Done => self.done += 1,
            State::Dead => self.dead += 1,
            State::Cancelled => self.cancelled += 1,
            State::Ready | State::Scheduled | State::Parked | State::Running | State::WaitingHuman => {}
        }
    }

    /// Counts what went besides.
    pub const fn add(&mut self, more: Self) {
        self.done += more.done;
        self.dead += more.dead;
        self.cancelled += more.cancelled;
        self.incidents += more.incidents;
        self.replays += more.replays;
        self.events += more.events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600;
    const NOW: Timestamp = Timestamp::from_millis(1_000 * DAY as i64 * 1_000);

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * DAY)
    }

    #[test]
    fn what_ended_goes_when_it_is_old_and_nothing_else_does() {
        use LetterStatus::{Discarded, Open, Resolved, SentAgain, WithHuman};
        use State::{Cancelled, Dead, Done, Parked, Ready, Running, Scheduled, WaitingHuman};
        let default = Retention::default();
        let short = Retention::older_than(Duration::from_secs(60));
        let done_only = Retention { dead_letters: None, ..default };
        // State, letter, ended so many days ago, needed, by which rule, pressed.
        for (state, letter, ago, needed, rule, pressed, expected) in [
            (Done, None, Some(30), false, default, false, "goes"),
            (Done, None, Some(29), false, default, false, "young"),
            (Done, None, Some(30), true, default, false, "needed"),
            (Cancelled, None, Some(30), false, default, false, "goes"),
            (Cancelled, Some(Discarded), Some(30), false, default, false, "young"),
            (Cancelled, Some(Discarded), Some(90), false, default, false, "goes"),
            (Done, Some(Resolved), Some(89), false, default, false, "young"),
            (Done, Some(Resolved), Some(90), false, default, false, "goes"),
            (Done, Some(SentAgain), Some(90), false, default, false, "goes"),
            (Dead, Some(Discarded), Some(90), false, default, false, "goes"),
            (Dead, Some(Discarded), Some(90), true, default, false, "needed"),
            (Dead, Some(Discarded), Some(900), false, done_only, false, "young"),
            (Dead, Some(Open), Some(900), false, default, true, "open"),
            (Dead, Some(WithHuman), Some(900), false, default, true, "open"),
            (Dead, Some(SentAgain), Some(900), false, default, true, "open"),
            (Dead, None, Some(900), false, default, true, "open"),
            (WaitingHuman, Some(WithHuman), None, false, default, true, "open"),
            (Ready, None, None, false, default, true, "open"),
            (Scheduled, Some(SentAgain), None, false, default, true, "open"),
            (Parked, None, None, false, default, true, "open"),
            (Running, None, Some(900), false, default, true, "open"),
            (Done, None, None, false, default, true, "open"),
            // However short it is asked for, and however large the record: not before keys are forgotten.
            (Done, None, Some(0), false, short, true, "young"),
            (Done, None, Some(1), false, short, false, "goes"),
            (Dead, Some(Discarded), Some(1), false, short, false, "goes"),
            (Done, None, Some(1), false, default, true, "goes"),
            (Done, None, Some(1), true, default, true, "needed"),
            (Done, None, Some(1), false, Retention::FOR_EVER, true, "goes"),
            (Done, None, Some(900), false, Retention::FOR_EVER, false, "young"),
        ] {
            let ended_at = ago.map(|ago| before(NOW, days(ago)));
            let standing = Standing { state, letter, ended_at, needed };
            let verdict = verdict(&standing, &rule, pressed, NOW);
            assert_eq!(verdict.as_str(), expected, "{standing:?}, {rule:?}, pressed: {pressed}");
            // Nobody looks further than where something could go.
            if verdict == Verdict::Goes {
                let youngest = rule.youngest(pressed, NOW).expect("something can go");
                assert!(ended_at.is_some_and(|ended| ended <= youngest), "{standing:?}");
            }
        }
    }

    #[test]
    fn how_far_is_looked_and_how_long_is_counted() {
        let ago = |days_ago| Some(before(NOW, days(days_ago)));
        for (retention, pressed, youngest, horizon) in [
            (Retention::default(), false, ago(30), ago(90)),
            (Retention::default(), true, ago(1), ago(90)),
            (Retention::older_than(Duration::ZERO), false, ago(1), ago(31)),
            (Retention { done: None, ..Retention::default() }, false, ago(90), None),
            (Retention::FOR_EVER, false, None, None),
            (Retention::FOR_EVER, true, ago(1), None),
        ] {
            assert_eq!(retention.youngest(pressed, NOW), youngest, "{retention:?}");
            assert_eq!(retention.horizon(NOW), horizon, "{retention:?}");
        }
        let odd = Timestamp::from_millis(NOW.millis() + 12_345);
        assert_eq!(Retention::default().horizon(odd), ago(90), "whole hours");
        let bound = Retention { size_max: Some(10), ..Retention::default() };
        assert_eq!([9, 10, 11].map(|bytes| bound.presses(bytes)), [false, false, true]);
        assert!(!Retention::default().presses(u64::MAX));
    }
}
