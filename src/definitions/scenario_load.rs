//! The work that comes in a scenario file: at a rate, all at once, at moments, or as it was recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::{Notes, Table, Value, ours_only};
use super::files::Files;
use super::scenario_file::SHORT;
use super::tools::json;
use super::yaml::cut;
use crate::event::{Event, Happening};
use crate::scenario::{Arrival, LONGEST_RUN, Load, MOST_TASKS};
use crate::task::{AgentName, Priority, TaskType};
use crate::time::{Timestamp, format_duration};

/// A recorded feed, in bytes.
const FEED_LIMIT: u64 = 256 * 1024 * 1024;

/// Loads of one entry: a recorded feed is one for each type, agent and priority in it.
pub(super) fn load(value: &Value, run: Duration, files: &Files<'_>, notes: &mut Notes<'_>) -> Vec<Load> {
    let Some(mut table) = value.table(notes) else { return Vec::new() };
    let span = |table: &mut Table, key: &str, notes: &mut Notes<'_>| {
        table.take(key, notes).and_then(|value| value.duration(Duration::ZERO..=LONGEST_RUN, notes))
    };
    if let Some(recorded) = table.take("recorded", notes) {
        let loads = recorded.text(notes).map(|path| self::recorded(&recorded, &path, run, files, notes));
        table.finish(&ours_only, notes);
        return loads.unwrap_or_default();
    }
    let remedy = "write which type of task: `type: code_review`";
    let task_type = table.must("type", remedy, notes).and_then(|v| v.parsed::<TaskType>("name a task type", notes));
    let agent = table.take("agent", notes).and_then(|v| v.parsed::<AgentName>("name an agent", notes));
    let words: Vec<&str> = Priority::ALL.iter().map(|priority| priority.as_str()).collect();
    let priority = table.take("priority", notes).and_then(|v| v.word::<Priority>(&words, notes));
    let payload = table.take("payload", notes).map(|value| json(&value.node));
    let rate = ["every", "per-day", "per-hour", "total", "burst", "at"];
    let said: Vec<&str> = rate.iter().copied().filter(|key| table.says(key)).collect();
    let every = table.take("every", notes).and_then(|v| v.duration(SHORT..=LONGEST_RUN, notes)).map(Arrival::Every);
    let per_day = table.take("per-day", notes).and_then(|v| v.number(0.001..=1e7, notes)).map(Arrival::PerDay);
    let per_hour = table.take("per-hour", notes).and_then(|v| v.number(0.001..=1e6, notes));
    let total = table.take("total", notes).and_then(|v| v.whole(1..=MOST_TASKS, notes)).map(Arrival::Total);
    let burst = table.take("burst", notes).and_then(|v| v.whole(1..=MOST_TASKS, notes));
    let at = table.take("at", notes);
    let over = span(&mut table, "over", notes);
    let from = span(&mut table, "from", notes);
    let until = span(&mut table, "until", notes);
    let within = (from.unwrap_or_default(), until.unwrap_or(run).min(run));
    let moments = at.as_ref().map(|value| moments(value, within, burst.is_some(), notes)).unwrap_or_default();
    table.finish(&ours_only, notes);
    let field = value.field();
    match said.as_slice() {
        [_] | ["burst", "at"] => {}
        [] => notes.error(
            value.place(),
            field,
            "nothing says when it comes",
            format!("write one of: {}", rate.join(", ")),
        ),
        several => notes.error(
            value.place(),
            field,
            format!("{} are written together", several.join(" and ")),
            "keep one of them; `at` goes with `burst`",
        ),
    }
    if over.is_some() && burst.is_none() {
        notes.error(value.place(), field, "`over` goes with `burst`", "write `burst: 20`, or remove it");
    }
    if let (Some(value), Some(_), Some(_)) = (&at, burst, from) {
        value.error(notes, "`at` and `from` both say when the burst comes", "keep one of them");
    }
    let first = moments.iter().min().copied().unwrap_or_default();
    let (arrival, from) = match burst {
        Some(count) => {
            let over = over.unwrap_or_default();
            (Some(Arrival::Burst { count, over }), from.unwrap_or(first))
        }
        None if at.is_some() => (Some(Arrival::At(moments)), from.unwrap_or(first)),
        None => (
            every.or(per_day).or(per_hour.map(|rate| Arrival::PerDay(rate * 24.0))).or(total),
            from.unwrap_or_default(),
        ),
    };
    let loaded = |task_type, arrival| Load {
        task_type,
        agent,
        priority,
        payload: payload.unwrap_or_else(ticket),
        arrival,
        from,
        until: until.unwrap_or(run),
    };
    task_type.zip(arrival).map(|(task_type, arrival)| loaded(task_type, arrival)).into_iter().collect()
}

/// The moments that are listed, each between the two: one that nobody lives to see is a mistake. A burst has one.
fn moments(value: &Value, (from, until): (Duration, Duration), burst: bool, notes: &mut Notes<'_>) -> Vec<Duration> {
    let mut moments = Vec::new();
    let items = value.some("write when it comes: `at: [5m, 20m]`", notes);
    if burst && items.len() > 1 {
        let message = format!("a burst comes once, and {} moments are listed", items.len());
        value.error(notes, message, "write a burst for each");
    }
    for item in &items {
        let Some(at) = item.duration(Duration::ZERO..=LONGEST_RUN, notes) else { continue };
        if burst || (from..=until).contains(&at) {
            moments.push(at);
        } else {
            let message = format!("{} is no moment at which it can come", format_duration(at));
            let remedy = format!("write {} to {}", format_duration(from), format_duration(until));
            item.error(notes, message, remedy);
        }
    }
    moments
}

/// What is asked when nobody says: the ticket, under every name that a shipped prompt asks for.
fn ticket() -> serde_json::Value {
    serde_json::json!({"ticket": "{ticket}", "ask": "Do what {ticket} asks for.", "diff": "{ticket}: +1 -1",
        "topic": "{ticket}", "notes": "{ticket}", "to": "team@example.com", "about": "{ticket}"})
}

fn recorded(value: &Value, path: &str, run: Duration, files: &Files<'_>, notes: &mut Notes<'_>) -> Vec<Load> {
    let text = match files.text(path, FEED_LIMIT) {
        Ok(text) => text,
        Err(why) => {
            value.error(notes, format!("{} {why}", cut(path)), "record one: `backstop sim record`");
            return Vec::new();
        }
    };
    let mut groups: BTreeMap<(TaskType, AgentName, Priority), Vec<Timestamp>> = BTreeMap::new();
    let mut first = None;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let event: Event = match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => {
                let message = format!("{} line {} is no event: {error}", cut(path), number + 1);
                value.error(notes, message, "a feed is what `backstop events -o jsonl` writes");
                return Vec::new();
            }
        };
        first.get_or_insert(event.at);
        // Of a feed only what was asked for is played again.
        if let Happening::Submitted { agent, task_type, priority, .. } = event.what {
            groups.entry((task_type, agent, priority)).or_default().push(event.at);
        }
    }
    let first = first.unwrap_or_default();
    if groups.is_empty() {
        value.error(notes, format!("{} tells of no submission", cut(path)), "record a stretch in which work came");
    }
    let last = groups.values().flatten().max().map(|at| at.since(first)).unwrap_or_default();
    if last > run {
        let message = format!("{} goes on until {}, when the run is over", cut(path), format_duration(last));
        value.error(notes, message, format!("run longer than {}", format_duration(last)));
    }
    let loaded = |((task_type, agent, priority), times): ((TaskType, AgentName, Priority), Vec<Timestamp>)| {
        let moments: Vec<Duration> = times.iter().map(|at| at.since(first)).collect();
        let from = moments.first().copied().unwrap_or_default();
        Load {
            task_type,
            agent: Some(agent),
            priority: Some(priority),
            payload: ticket(),
            arrival: Arrival::At(moments),
            from,
            until: run,
        }
    };
    groups.into_iter().map(loaded).collect()
}
