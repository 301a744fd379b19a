//! Pages: a person is called when, and only when, the window says so; under one key; and until somebody takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;
use super::case::Case;
use crate::event::{Event, Happening};
use crate::incident::{Incident, IncidentState, Trigger};
use crate::sim::play::books::Message;
use crate::task::TaskId;
use crate::time::Timestamp;

/// How long the way from a dead letter to an incident, and from there to a channel, may take.
const WAY: Duration = Duration::from_secs(10);

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    window(case, found);
    for incident in &case.run.incidents {
        delivered(case, incident, found);
        repeated(case, incident, found);
    }
}

/// R1, R2, R3, R6 and R7 of `page_window.toml`, written anew: distinct (task, round) younger than the window, each
/// counted once in its life, call a human when there are enough of them and none is open.
fn window(case: &Case<'_>, found: &mut Vec<Violation>) {
    let rules = &case.run.config.escalation;
    let threshold = rules.threshold as usize;
    let of_letters: BTreeMap<&str, &Incident> = case
        .run
        .incidents
        .iter()
        .filter(|incident| incident.trigger == Trigger::DeadLetters)
        .map(|incident| (incident.id.as_str(), incident))
        .collect();
    let explained = |pair: (TaskId, u32)| {
        // What an integration's own incident explains is not counted a second time.
        case.run
            .incidents
            .iter()
            .any(|incident| incident.trigger == Trigger::Integration && incident.deaths.contains(&pair))
    };
    let mut fresh: BTreeMap<(TaskId, u32), Timestamp> = BTreeMap::new();
    let mut seen: BTreeSet<(TaskId, u32)> = BTreeSet::new();
    let mut open: Option<&str> = None;
    let mut due: Option<Timestamp> = None;
    for event in &case.run.events {
        let young = |fresh: &BTreeMap<(TaskId, u32), Timestamp>, now: Timestamp| {
            fresh.values().filter(|at| now.since(**at) < rules.window).count()
        };
        if let Some(since) = due.filter(|since| *since + WAY < event.at) {
            due = None;
            if case.was_well(since, since + WAY) {
                let evidence = format!("{} within {:?}", young(&fresh, since), rules.window);
                found.push(Violation::at("I-11", since, "enough dead letters, and nobody was called", evidence));
            }
        }
        #[allow(clippy::wildcard_enum_match_arm, reason = "only what the window counts")]
        match &event.what {
            Happening::DeadLettered { generation, .. } => {
                let Some(pair) = event.task.map(|task| (task, *generation)) else { continue };
                if seen.insert(pair) && !explained(pair) && open.is_none() {
                    fresh.insert(pair, event.at);
                    if young(&fresh, event.at) >= threshold {
                        due.get_or_insert(event.at);
                    }
                }
            }
            Happening::IncidentOpened { incident, .. } if of_letters.contains_key(incident.as_str()) => {
                opened(case, event, incident, young(&fresh, event.at), open, found);
                open = Some(incident);
                due = None;
                fresh.clear();
            }
            Happening::IncidentResolved { incident, .. } if open == Some(incident.as_str()) => open = None,
            _ => {}
        }
    }
}

fn opened(
    case: &Case<'_>,
    event: &Event,
    incident: &str,
    young: usize,
    open: Option<&str>,
    found: &mut Vec<Violation>,
) {
    let threshold = case.run.config.escalation.threshold as usize;
    if let Some(before) = open {
        let evidence = format!("{incident} while {before} is open");
        found.push(Violation::at("I-11", event.at, "a second incident of the same trouble", evidence));
    }
    if young < threshold {
        let evidence = format!("{incident}: {young} dead letters are young enough, {threshold} call");
        found.push(Violation::at("I-11", event.at, "a human was called too early", evidence));
    }
}

/// I-12: taken by at least one channel, under one key, which no other incident has; and nothing after its end.
fn delivered(case: &Case<'_>, incident: &Incident, found: &mut Vec<Violation>) {
    let pages: Vec<_> = case.run.books.pages.iter().filter(|page| page.incident == incident.id).collect();
    let keys: BTreeSet<&str> = pages.iter().map(|page| page.dedup_key.as_str()).collect();
    let shared =
        case.run.books.pages.iter().any(|page| page.incident != incident.id && keys.contains(page.dedup_key.as_str()));
    if keys.len() > 1 || shared {
        let evidence = format!("{} has {keys:?}", incident.id);
        found.push(Violation::at("I-12", incident.opened_at, "one incident has several keys, or shares one", evidence));
    }
    for end in pages.iter().filter(|page| page.taken && page.action == "resolve") {
        // What arrives after the end opens an alert that nobody ends; the end itself may come again under its key.
        let after = |page: &&&Message| page.taken && page.action != "resolve" && page.at > end.at;
        if let Some(late) = pages.iter().filter(after).find(|page| page.channel == end.channel) {
            let evidence = format!("{}: {} was told {} after the end", incident.id, late.channel, late.action);
            found.push(Violation::at("I-12", case.clock(late.at), "an incident was told of after its end", evidence));
        }
    }
    told_of_the_end(case, incident, &pages, found);
    let called = pages.iter().any(|page| page.taken && page.action == "trigger");
    // One that was over before any channel came back calls nobody for nothing.
    let over = incident.state == IncidentState::Resolved;
    if !called && !over {
        let evidence = format!("{} ({}): {} tries", incident.id, incident.summary, pages.len());
        found.push(Violation::at("I-12", incident.opened_at, "no channel ever took the call", evidence));
    }
    let first_time = |channel: &str| {
        pages
            .iter()
            .filter(|page| page.channel == channel && page.taken && !page.again && page.action == "trigger")
            .count()
    };
    for channel in ["pagerduty", "email"] {
        // Once, and once more for each time it could not be noted: the process died, or the disk was full.
        let full = |window: &&crate::scenario::Window| {
            case.scenario.faults[window.fault].kind == crate::scenario::FaultKind::DiskFull
        };
        let times = first_time(channel);
        if times > case.run.books.runs.len() + case.run.windows.iter().filter(full).count() {
            let evidence = format!("{} reached {channel} {times} times as if for the first time", incident.id);
            found.push(Violation::at("I-12", incident.opened_at, "a call was sent several times", evidence));
        }
    }
}

/// Where a call was taken the end is sent, too.
fn told_of_the_end(case: &Case<'_>, incident: &Incident, pages: &[&Message], found: &mut Vec<Violation>) {
    let ends =
        |event: &&Event| matches!(&event.what, Happening::IncidentResolved { incident: of, .. } if *of == incident.id);
    let in_time =
        |over: &&Event| over.at + WAY <= case.clock(case.run.elapsed) && case.was_well(over.at, over.at + WAY);
    let over = case.run.events.iter().find(ends).filter(in_time);
    let Some(over) = over else { return };
    for channel in ["pagerduty", "email"] {
        let sent = |action: &str| pages.iter().filter(|page| page.channel == channel && page.action == action).count();
        let called = pages.iter().any(|page| page.taken && page.channel == channel && page.action == "trigger");
        if called && sent("resolve") == 0 {
            let evidence = format!("{}: {channel} was called {} times", incident.id, sent("trigger"));
            found.push(Violation::at("I-12", over.at, "who was called was not told of the end", evidence));
        }
    }
}

/// R4 and R5: what nobody takes on is sent again, to the end of patience; what somebody took on, once, later.
fn repeated(case: &Case<'_>, incident: &Incident, found: &mut Vec<Violation>) {
    let rules = &case.run.config.escalation;
    let answered = incident.answers.first();
    let until = answered.map_or_else(|| case.clock(case.run.elapsed), |answer| answer.at);
    let calls: Vec<Timestamp> = case
        .run
        .books
        .pages
        .iter()
        .filter(|page| page.incident == incident.id && page.action == "trigger" && page.again)
        .map(|page| case.clock(page.at))
        .collect();
    let mut expect = |from: Timestamp, due: Timestamp, until: Timestamp| {
        let last = due + WAY;
        // A clock that was set between shows other times than those that passed.
        if last >= until || !case.was_well(from, last) {
            return;
        }
        if !calls.iter().any(|at| due <= *at && *at <= last) {
            let evidence = format!("{}: due {due}, sent again at {calls:?}", incident.id);
            found.push(Violation::at("I-11", due, "nobody answered, and nobody was called again", evidence));
        }
    };
    for number in 1..=rules.repages_max {
        expect(incident.opened_at, incident.opened_at + rules.repage_after * number, until);
    }
    if let Some(taken) = answered.filter(|answer| answer.state == IncidentState::Acknowledged) {
        let next = incident.answers.get(1).map_or_else(|| case.clock(case.run.elapsed), |answer| answer.at);
        expect(taken.at, taken.at + rules.reminder_after, next);
    }
}
