//! Which incidents and replays may be forgotten: those that ended long ago, and that nobody comes back to.
//!
//! They go like the dead letters that they are about, and by the same age; an incident goes with its pages, or not at all.
//!
//! The trap: their names are counted, so the last of each stays, however old it is. Without it the next one would be given
//! the name of one that was forgotten, and with the name the key under which a pager knows that.

use std::time::Duration;

use crate::incident::{Incident, Page};
use crate::replay::Replay;
use crate::retention::{COUNTS_LEAST, KEY_RETENTION, Retention, Verdict};
use crate::time::Timestamp;

/// What the name of an incident begins with; its number follows.
pub const INCIDENT: &str = "INC-";
/// What the name of a replay begins with; its number follows.
pub const REPLAY: &str = "RPL-";

/// The largest number among these names, 0 without any. A new one is given the next, and never one between, which may
/// have been another's: so these are all there are, also those that cannot be read.
#[must_use]
pub fn last(prefix: &str, names: impl IntoIterator<Item = impl AsRef<str>>) -> u64 {
    names.into_iter().filter_map(|name| number(prefix, name.as_ref())).max().unwrap_or(0)
}

fn number(prefix: &str, name: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// What lies in the outbox of an incident.
#[derive(Clone, Copy, Debug)]
pub struct Outbox<'a> {
    /// Every page of it that can be read.
    pub pages: &'a [&'a Page],
    /// Are there others? Whether they were sent nobody knows.
    pub unreadable: bool,
}

/// May this incident be forgotten, and all its pages with it? `last` as said by [`last`].
#[must_use]
pub fn of_incident(
    incident: &Incident,
    outbox: Outbox<'_>,
    last: u64,
    retention: &Retention,
    now: Timestamp,
) -> Verdict {
    if incident.is_open() {
        return Verdict::Open;
    }
    let pending = outbox.pages.iter().any(|page| page.delivered_at.is_none() && !page.abandoned);
    if pending || outbox.unreadable || number(INCIDENT, &incident.id) == Some(last) {
        return Verdict::Needed;
    }
    // One that was given up says no more than when it was due.
    let sent = outbox.pages.iter().map(|page| page.delivered_at.unwrap_or(page.due));
    let ended_at = sent.fold(incident.updated_at, Ord::max);
    // By it, what was counted once is not counted again.
    aged(ended_at, retention.dead_letters.map(|keep| keep.max(COUNTS_LEAST)), now)
}

/// May this replay be forgotten? `last` as said by [`last`].
#[must_use]
pub fn of_replay(replay: &Replay, last: u64, retention: &Retention, now: Timestamp) -> Verdict {
    if !replay.is_over() {
        return Verdict::Open;
    }
    if number(REPLAY, &replay.id) == Some(last) {
        return Verdict::Needed;
    }
    // Of one that was stored before its end was kept, what it did last is known.
    let ended_at = replay.ended_at.unwrap_or(replay.next_at);
    aged(ended_at, retention.dead_letters.map(|keep| keep.max(KEY_RETENTION)), now)
}

fn aged(ended_at: Timestamp, keep: Option<Duration>, now: Timestamp) -> Verdict {
    match keep {
        Some(keep) if ended_at + keep <= now => Verdict::Goes,
        Some(_) | None => Verdict::Young,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escalation::Rules;
    use crate::incident::{self, IncidentCommand, Opening, PageAction, PageDraft, Trigger};
    use crate::outbox;
    use crate::query::Filter;
    use crate::replay::{self, Plan, ReplayAsk, ReplayCommand};
    use crate::task::TaskId;

    const DAY: i64 = 24 * 3_600_000;
    const NOW: Timestamp = Timestamp::from_millis(1_000 * DAY);
    /// The last number given to any.
    const LAST: u64 = 9;

    fn ago(days: i64) -> Timestamp {
        Timestamp::from_millis(NOW.millis() - days * DAY)
    }

    fn older_than(days: u64) -> Retention {
        Retention::older_than(Duration::from_secs(days * 24 * 3_600))
    }

    fn opened(number: u64, days: i64) -> Incident {
        let opening = Opening {
            id: format!("{INCIDENT}{number}"),
            trigger: Trigger::DeadLetters,
            subject: String::new(),
            deaths: Vec::new(),
            why: String::new(),
            runbook: None,
            in_doubt: Vec::new(),
        };
        incident::open(opening, &Rules::default(), ago(days)).incident
    }

    fn told(incident: &Incident, command: IncidentCommand, days: i64) -> Incident {
        incident::apply(incident, command, &Rules::default(), ago(days)).expect("it is open").incident
    }

    fn resolved(number: u64, days: i64) -> Incident {
        let resolve = IncidentCommand::Resolve { by: "ana".to_owned(), note: String::new() };
        told(&opened(number, days + 1), resolve, days)
    }

    fn overridden(number: u64, days: i64) -> Incident {
        let (by, note, decision) = ("ana".to_owned(), String::new(), "discard".to_owned());
        let decide = IncidentCommand::Override { by, note, decision, tasks: 0, covers: 0 };
        told(&opened(number, days + 1), decide, days)
    }

    /// The end of an incident as told to ana: taken so many days ago, or given up, or neither.
    fn page(incident: &Incident, delivered: Option<i64>, abandoned: bool) -> Page {
        let draft = PageDraft { action: PageAction::Resolve, again: true, level: 0 };
        let steps = [vec!["ana/email".to_owned()]];
        let page = outbox::pages(incident, &draft, "acme", &steps, incident.updated_at).remove(0);
        Page { delivered_at: delivered.map(ago), abandoned, ..page }
    }

    /// An incident that was over lay in the record for ever, was read at every start and looked through at every look; so did the
    /// pages of one that ended while nobody looked.
    #[test]
    fn an_incident_goes_with_its_pages_when_it_is_over_for_long_and_sent_and_not_the_last() {
        let default = Retention::default();
        let letters_for_ever = Retention { dead_letters: None, ..default };
        let done_for_ever = Retention { done: None, ..default };
        let tight = Retention { size_max: Some(1), ..default };
        let old = resolved(1, 90);
        let (sent, given_up, waits) = (page(&old, Some(90), false), page(&old, None, true), page(&old, None, false));
        let late = page(&old, Some(89), false);
        for (incident, pages, unreadable, retention, expected) in [
            (&old, &[][..], false, default, "goes"),
            (&resolved(1, 89), &[], false, default, "young"),
            (&old, &[], false, done_for_ever, "goes"),
            (&resolved(1, 900), &[], false, letters_for_ever, "young"),
            (&resolved(1, 900), &[], false, Retention::FOR_EVER, "young"),
            (&resolved(1, 89), &[], false, tight, "young"),
            // What is not over stays, however old it is.
            (&opened(1, 900), &[], false, default, "open"),
            (&overridden(1, 900), &[], false, default, "open"),
            // Its pages go with it: not before the last of them, and never one that is to be sent.
            (&old, &[&sent, &given_up], false, default, "goes"),
            (&old, &[&sent, &late], false, default, "young"),
            (&old, &[&sent, &waits], false, default, "needed"),
            (&old, &[&waits], false, older_than(1), "needed"),
            (&old, &[], true, default, "needed"),
            // The next is numbered after it.
            (&resolved(LAST, 900), &[], false, default, "needed"),
            (&resolved(LAST - 1, 900), &[], false, default, "goes"),
            // Windows of a month look at it, whatever is asked.
            (&resolved(1, 30), &[], false, older_than(1), "young"),
            (&resolved(1, 31), &[], false, older_than(1), "goes"),
            (&resolved(1, 59), &[], false, older_than(60), "young"),
            (&resolved(1, 60), &[], false, older_than(60), "goes"),
        ] {
            let verdict = of_incident(incident, Outbox { pages, unreadable }, LAST, &retention, NOW);
            assert_eq!(verdict.as_str(), expected, "{incident:?}, {pages:?}, {retention:?}");
        }
    }

    fn running(number: u64, days: i64) -> Replay {
        let entries = vec![(TaskId::new(ago(days), [1; 10]), replay::Verdict::Replay)];
        let ask = ReplayAsk { all: true, ..ReplayAsk::new(Filter::default(), "ana", "fixed") };
        let plan = Plan { entries, ..Plan::default() };
        replay::start(format!("{REPLAY}{number}"), ask, plan, ago(days)).expect("sound").0
    }

    fn ordered(replay: &Replay, command: ReplayCommand, days: i64) -> Replay {
        replay::command(replay, command, "ana", ago(days)).expect("it can be done").0
    }

    /// A replay that had ended lay in the record for ever, with every letter it ever sent round.
    #[test]
    fn a_replay_goes_when_it_ended_long_ago_and_is_not_the_last() {
        let default = Retention::default();
        let cancelled = |number, days| ordered(&running(number, 500), ReplayCommand::Cancel, days);
        // As one was stored before its end was kept.
        let before = |days| Replay { ended_at: None, ..ordered(&running(1, days), ReplayCommand::Cancel, 1) };
        let finished = |days| {
            let (ask, plan) = (running(1, days).ask, Plan::default());
            replay::start(format!("{REPLAY}1"), ask, plan, ago(days)).expect("sound").0
        };
        for (replay, retention, expected) in [
            (cancelled(1, 90), default, "goes"),
            (cancelled(1, 89), default, "young"),
            (finished(90), default, "goes"),
            (finished(89), default, "young"),
            (before(90), default, "goes"),
            (before(89), default, "young"),
            (running(1, 900), default, "open"),
            (ordered(&running(1, 900), ReplayCommand::Pause, 900), default, "open"),
            (cancelled(LAST, 400), default, "needed"),
            (cancelled(LAST - 1, 400), default, "goes"),
            (cancelled(1, 400), Retention { dead_letters: None, ..default }, "young"),
            (cancelled(1, 400), Retention::FOR_EVER, "young"),
            (cancelled(1, 0), Retention::older_than(Duration::ZERO), "young"),
            (cancelled(1, 1), Retention::older_than(Duration::ZERO), "goes"),
        ] {
            let verdict = of_replay(&replay, LAST, &retention, NOW);
            assert_eq!(verdict.as_str(), expected, "{replay:?}, {retention:?}");
        }
    }

    /// Names were counted on from those that are there: had all incidents been forgotten, the next would have been INC-1 again.
    #[test]
    fn the_last_number_is_the_largest_and_what_has_none_does_not_count() {
        for (names, expected) in [
            (&[][..], 0),
            (&["INC-1"], 1),
            (&["INC-9", "INC-10", "INC-2"], 10),
            (&["INC-3", "RPL-7", "TEST-99", "INC-", "INC-x"], 3),
        ] {
            assert_eq!(last(INCIDENT, names), expected, "{names:?}");
        }
    }
}
