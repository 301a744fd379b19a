//! When a human is called: three dead letters within a sliding hour, once per incident.
//!
//! The window counts distinct (task, round) pairs with `age < window`, team-wide. While an incident is open nothing
//! pages a second time: what comes is appended, told at most once a minute, and brought up again when nobody answers.
//!
//! The trap: a dead letter counts once in its life. The one that was in an incident never counts towards another,
//! also when that incident was resolved within the hour; a replay that fails again is another round, and counts.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mutant;
use crate::query::Death;
use crate::record::Record;
use crate::task::{TaskId, TaskType};
use crate::time::Timestamp;

/// The type of a task that itself reaches a human. Its dead letters never page: a broken pager must not call itself.
pub const PAGE_TASK_TYPE: &str = "notification.page";

/// The numbers of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many dead letters within `window` call a human. Turned up: fewer pages, later.
    pub threshold: u32,
    /// The sliding window.
    pub window: Duration,
    /// After how long without an answer the page goes out again, to the next person.
    pub repage_after: Duration,
    /// How often at most.
    pub repages_max: u32,
    /// After how long an acknowledged incident is brought up again, once.
    pub reminder_after: Duration,
    /// How far apart updates of one incident are, at least.
    pub update_every: Duration,
}

impl Default for Rules {
    /// Three within an hour; again after 15 minutes, four times; a reminder after an hour; an update a minute.
    fn default() -> Self {
        Self {
            threshold: 3,
            window: Duration::from_secs(3600),
            repage_after: Duration::from_secs(900),
            repages_max: 4,
            reminder_after: Duration::from_secs(3600),
            update_every: Duration::from_secs(60),
        }
    }
}

/// What the rules need to know of an incident that is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Does it hold dead letters no human was told of yet?
    pub untold: bool,
    /// When an update may next be sent; at once when absent.
    pub update_at: Option<Timestamp>,
    /// When it is next sent again, unless somebody answers; never when absent.
    pub repage_at: Option<Timestamp>,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Open an incident about these and call a human.
    Open(Vec<Death>),
    /// Add these to the open incident.
    Append(Vec<Death>),
    /// Tell what was added.
    Update,
    /// Call again; tells everything, an update included.
    Repage,
}

/// The rules for dead letters. `counted` are the (task, round) pairs of every incident about dead letters so far,
/// the open one and those resolved; older than the window may be left out. Harmless to call too often.
#[must_use]
pub fn judge(
    deaths: &[Death],
    counted: &BTreeSet<(TaskId, u32)>,
    open: Option<&Open>,
    rules: &Rules,
    now: Timestamp,
) -> Vec<Step> {
    let fresh = fresh(deaths, counted, rules, now);
    let rules = &Rules {
        threshold: match () {
            () if mutant::on("page-at-two") => rules.threshold - 1,
            () if mutant::on("page-at-four") => rules.threshold + 1,
            () => rules.threshold,
        },
        ..*rules
    };
    match open {
        None if fresh.len() >= usize::try_from(rules.threshold).unwrap_or(usize::MAX).max(1) => vec![Step::Open(fresh)],
        None => Vec::new(),
        Some(open) if fresh.is_empty() => remind(open, now),
        Some(open) => {
            let mut steps = vec![Step::Append(fresh)];
            steps.extend(remind(&Open { untold: true, ..*open }, now));
            steps
        }
    }
}

/// What an open incident needs by itself as time passes: the whole rule for incidents that are not about dead letters.
#[must_use]
pub fn remind(open: &Open, now: Timestamp) -> Vec<Step> {
    let lost = mutant::on("reminder-lost") || mutant::on("reminder-in-circles");
    if open.repage_at.is_some_and(|at| at <= now) && !lost {
        vec![Step::Repage]
    } else if open.untold && open.update_at.is_none_or(|at| at <= now) {
        vec![Step::Update]
    } else {
        Vec::new()
    }
}

/// When to look again if nothing happens meanwhile; never, when absent. Dead letters growing old call nobody.
#[must_use]
pub fn next_at(open: &Open) -> Option<Timestamp> {
    let update = if open.untold { open.update_at } else { None };
    let repage = open.repage_at.filter(|_| !mutant::on("reminder-lost"));
    [repage, update].into_iter().flatten().min()
}

/// How long a dead letter may lie undecided before the CEO counts as stalled.
const TRIAGE_WITHIN: Duration = Duration::from_secs(600);
/// How long a CEO that was started with the process has at least for what lay there, beside what its adviser may take.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// From when on a dead letter that nobody decided about is overdue: its CEO neither decides nor dies, and a human is called.
/// What lay there while no process was up is decided about after its start, perhaps with the adviser's help (`advice`).
#[must_use]
pub fn overdue_at(letter: Timestamp, began: Timestamp, advice: Duration) -> Timestamp {
    (letter + TRIAGE_WITHIN).max(began + BEGUN_WITHIN + advice)
}

/// How long writes may fail before a person is called, and none may before that is forgotten: what fills up and is emptied
/// calls nobody, and a disk that takes a small write now and then is full all the same.
const STORE_FAILS_FOR: Duration = Duration::from_secs(60);

/// When a person is called about a store whose writes have failed since `failing`. One that fails on and off calls no sooner
/// than an unanswered call is repeated.
#[must_use]
pub fn store_call_at(failing: Timestamp, last_call: Option<Timestamp>, rules: &Rules) -> Timestamp {
    let again = last_call.map_or(failing, |at| at + rules.repage_after);
    (failing + STORE_FAILS_FOR).max(again)
}

/// When the trouble of a store is over whose last write to fail was at `met`: that one was taken since does not say that the
/// next will be.
#[must_use]
pub fn store_quiet_at(met: Timestamp) -> Timestamp {
    met + STORE_FAILS_FOR
}

/// As many dead letters within the window, or tasks that wait for a person, are a crowd.
const CROWD: usize = 1_000;
/// How often a crowd is looked through. Turned up: less work in a storm; what the storm hides is found later.
const CROWD_EVERY: Duration = Duration::from_secs(5);

/// When so many are looked through again; at the next change of anything, when absent. All of them are read each time, and
/// whoever is to be called for a crowd was called for the first three of it.
#[must_use]
pub fn rest(found: usize, now: Timestamp) -> Option<Timestamp> {
    (found >= CROWD).then(|| now + CROWD_EVERY)
}

/// Until when so many have died within the window that a human is called in any case, whatever dies meanwhile; none while they
/// are fewer. `deaths` are those within the window, oldest first.
#[must_use]
pub fn systemic_until(deaths: &[Death], rules: &Rules) -> Option<Timestamp> {
    let enough = usize::try_from(rules.threshold).unwrap_or(usize::MAX).max(1);
    let first = deaths.len().checked_sub(enough)?;
    deaths.get(first).map(|death| death.at + rules.window)
}

/// Does a dead letter of this type count? All do but the pager's own.
#[must_use]
pub fn counts(task_type: &TaskType) -> bool {
    task_type.as_str() != PAGE_TASK_TYPE
}

/// The death of a task that stands in the dead letter queue or with a person; none when it has no letter.
#[must_use]
pub fn death_of(record: &Record) -> Option<Death> {
    let letter = record.letter.as_ref()?;
    Some(Death {
        task: record.task.id,
        generation: letter.generation,
        at: letter.at,
        agent: record.agent.clone(),
        task_type: record.task.task_type.clone(),
        class: letter.failure.class,
        kind: letter.failure.kind,
        integration: letter.failure.integration.clone().or_else(|| Some(record.integration.clone())),
    })
}

/// Within the window, counted for the first time, each once; oldest first.
fn fresh(deaths: &[Death], counted: &BTreeSet<(TaskId, u32)>, rules: &Rules, now: Timestamp) -> Vec<Death> {
    let mut seen = counted.clone();
    let mut fresh: Vec<Death> = Vec::new();
    for death in deaths {
        let age = now.since(death.at);
        let young = age < rules.window || (mutant::on("window-inclusive") && age == rules.window);
        if young && counts(&death.task_type) && seen.insert((death.task, death.generation)) {
            fresh.push(death.clone());
        }
    }
    fresh.sort_by_key(|death| (death.at, death.task, death.generation));
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, Kind};
    use crate::task::AgentName;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn when_somebody_is_called_about_a_store_that_takes_no_writes() {
        for (failing, last_call, expected, why) in [
            (100, None, 160, "after a minute"),
            (1_000, Some(0), 1_060, "also when one was called long ago"),
            (300, Some(160), 1_060, "not again within a quarter of an hour"),
        ] {
            let due = store_call_at(at(failing), last_call.map(at), &Rules::default());
            assert_eq!(due, at(expected), "{why}");
        }
    }

    #[test]
    fn when_a_letter_nobody_decided_about_is_overdue() {
        for (letter, began, advice, expected, why) in [
            (1_000, 0, 0, 1_600, "ten minutes"),
            (1_000, 0, 60, 1_600, "within which the adviser is heard"),
            (1_000, 1_570, 0, 1_630, "a minute after the start, where that is later"),
            (1_000, 1_570, 60, 1_690, "and what its adviser may take"),
            (1_000, 90_000, 30, 90_090, "a night down is no fault of the CEO's"),
            (1_000, 1_540, 0, 1_600, "the later of the two, which here are one"),
        ] {
            assert_eq!(overdue_at(at(letter), at(began), Duration::from_secs(advice)), at(expected), "{why}");
        }
    }

    #[test]
    fn only_a_crowd_rests() {
        for (found, expected) in [(0, None), (999, None), (1_000, Some(12)), (10_000, Some(12))] {
            assert_eq!(rest(found, at(7)), expected.map(at), "{found}");
        }
    }

    #[test]
    fn three_deaths_call_a_human_until_the_third_last_is_an_hour_old() {
        let death = |seconds: i64| Death {
            task: TaskId::new(at(0), [0; 10]),
            generation: 1,
            at: at(seconds),
            agent: AgentName::new("cto").expect("a name"),
            task_type: TaskType::new("code_review").expect("a name"),
            class: Class::Transient,
            kind: Kind::Overloaded,
            integration: None,
        };
        for (died, expected) in
            [(&[10, 20][..], None), (&[], None), (&[10, 20, 30], Some(3_610)), (&[10, 20, 30, 30, 50], Some(3_630))]
        {
            let deaths: Vec<Death> = died.iter().map(|seconds| death(*seconds)).collect();
            assert_eq!(systemic_until(&deaths, &Rules::default()), expected.map(at), "{died:?}");
        }
    }
}
