//! Published figures beside ours and beside what the same configuration on its own broker would have done, and why they differ.
//!
//! Every explanation is put together from the two runs: it says what happened in them, in numbers, and claims nothing of
//! a world that was not played.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::time::Duration;

use super::broker::BrokerRun;
use super::play::Run;
use super::uptime;
use serde::Serialize;

use crate::assertion::{Measure, Unit};
use crate::event::Happening;
use crate::scenario::{Figure, Published, Scenario, Target};
use crate::task::TaskId;
use crate::time::format_duration;
use crate::triage::DeciderKind;

/// The two runs that stand beside what was published.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// What was played.
    pub scenario: &'a Scenario,
    /// Our run.
    pub run: &'a Run,
    /// What is measured of it.
    pub ours: &'a dyn Fn(Measure) -> f64,
    /// The broker's run of the same seed.
    pub broker: &'a BrokerRun,
}

/// One figure, three times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is called.
    pub name: String,
    /// Ours.
    pub ours: String,
    /// The broker's; a dash where it has no such thing.
    pub broker: String,
    /// Theirs, as they write it.
    pub theirs: String,
    /// What has to be known to compare them.
    pub note: String,
    /// Why they differ; empty when they do not.
    pub why: String,
}

/// The figures of a scenario, each with ours, the broker's and theirs.
#[must_use]
pub fn rows(published: &Published, sides: &Sides<'_>) -> Vec<Row> {
    published.figures.iter().map(|figure| row(figure, sides)).collect()
}

fn row(figure: &Figure, sides: &Sides<'_>) -> Row {
    let (ours, broker) = ((sides.ours)(figure.measure), sides.broker.measure(figure.measure));
    let theirs = Theirs::read(&figure.theirs, figure.measure.unit());
    let agrees = |value: f64| theirs.is_some_and(|theirs| theirs.agrees(value));
    let differ = !agrees(ours) || broker.is_some_and(|broker| !agrees(broker));
    Row {
        name: figure.name.clone(),
        ours: figure.measure.unit().words(ours),
        broker: broker.map_or_else(|| "-".to_owned(), |broker| figure.measure.unit().words(broker)),
        theirs: figure.theirs.clone(),
        note: figure.note.clone(),
        why: if differ { why(figure, sides, ours, broker, theirs) } else { String::new() },
    }
}

/// The table and a paragraph for every difference.
#[must_use]
pub fn text(published: &Published, rows: &[Row]) -> String {
    let head = ["", "ours", "the broker's", "theirs"].map(str::to_owned);
    let cells = |row: &Row| [row.name.clone(), row.ours.clone(), row.broker.clone(), row.theirs.clone()];
    let lines: Vec<[String; 4]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let wide = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [wide(0), wide(1), wide(2), wide(3)];
    let mut text = format!("Beside what was published: {}\n\n", published.source);
    for (number, line) in lines.iter().enumerate() {
        let note = number.checked_sub(1).and_then(|place| rows.get(place)).map_or("", |row| row.note.as_str());
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let written = format!("  {}  {note}", cells.collect::<Vec<_>>().join("  "));
        text.push_str(written.trim_end());
        text.push('\n');
    }
    for row in rows.iter().filter(|row| !row.why.is_empty()) {
        text.push_str(&format!("\n{}: {}\n", row.name, row.why));
    }
    text
}

/// A published value, as far as it is a number: `24,500`, `< 0.5 %`, `~24`, `$11,500`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Theirs {
    bound: Bound,
    value: f64,
    /// Half a unit of the last digit that was written.
    within: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Exactly,
    About,
    Below,
    Above,
}

impl Theirs {
    fn read(text: &str, unit: Unit) -> Option<Self> {
        let text = text.trim();
        let (bound, rest) = match text.chars().next()? {
            '<' => (Bound::Below, &text[1..]),
            '>' => (Bound::Above, &text[1..]),
            '~' => (Bound::About, &text[1..]),
            _ => (Bound::Exactly, text),
        };
        let digits = rest.trim().trim_start_matches('$').trim_end_matches('%').trim().replace(',', "");
        let value: f64 = digits.parse().ok()?;
        let places = digits.split_once('.').map_or(0, |(_, places)| places.len());
        let scale = if unit == Unit::Share { 0.01 } else { 1.0 };
        let half = 0.5 / 10_f64.powi(i32::try_from(places).ok()?);
        Some(Self { bound, value: value * scale, within: half * scale })
    }

    fn agrees(&self, value: f64) -> bool {
        match self.bound {
            Bound::Exactly => (value - self.value).abs() <= self.within,
            Bound::About => (value - self.value).abs() <= self.value * 0.1,
            Bound::Below => value < self.value,
            Bound::Above => value > self.value,
        }
    }
}

/// Why the three differ, from what happened in the two runs.
fn why(figure: &Figure, sides: &Sides<'_>, ours: f64, broker: Option<f64>, theirs: Option<Theirs>) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "what has no story of its own is told by its numbers")]
    let told = match figure.measure {
        Measure::DeadLetterShare | Measure::DeadLetters => sides.given_up(),
        Measure::RecoveredShare => sides.recovered(),
        Measure::DoneByHuman | Measure::WaitingHuman => sides.by_people(),
        Measure::Uptime => sides.uptime(),
        Measure::Usd | Measure::Tokens | Measure::WastedUsd | Measure::WastedTokens => sides.money(theirs),
        _ => {
            let unit = figure.measure.unit();
            let broker = broker.map_or_else(String::new, |broker| format!(", the broker's {}", unit.words(broker)));
            format!("ours is {}{broker}; nothing else that was played tells of it.", unit.words(ours))
        }
    };
    told
}

impl Sides<'_> {
    fn count(&self, measure: Measure) -> f64 {
        (self.ours)(measure)
    }

    fn broker(&self, measure: Measure) -> f64 {
        self.broker.measure(measure).unwrap_or_default()
    }

    /// Tasks that we gave up at least once, with what ended them first.
    fn ours_given_up(&self) -> BTreeMap<TaskId, String> {
        let mut given_up = BTreeMap::new();
        for event in &self.run.events {
            if let (Some(task), Happening::DeadLettered { failure, .. }) = (event.task, &event.what) {
                given_up.entry(task).or_insert_with(|| format!("{}/{}", failure.class, failure.kind));
            }
        }
        given_up
    }

    /// How often a call met a fault or came to nothing, and how long the whole provider was gone.
    fn weather(&self) -> String {
        let calls = &self.run.books.calls;
        let met = calls.iter().filter(|call| call.fault.is_some()).count();
        let theirs = self.broker.books.calls.iter().filter(|call| call.fault.is_some()).count();
        format!(
            "{met} of our {} calls met a fault ({}), and {theirs} of the broker's {} ({})",
            calls.len(),
            percent(met, calls.len()),
            self.broker.books.calls.len(),
            percent(theirs, self.broker.books.calls.len()),
        )
    }

    fn given_up(&self) -> String {
        let ours = self.ours_given_up();
        let orders = &self.broker.orders;
        let entries: u32 = orders.iter().map(|order| order.entries).sum();
        let dead = orders.iter().filter(|order| order.entries > 0).count();
        let answered = orders.iter().filter(|order| order.entries > 0 && order.answers > 0).count();
        let mut longest: Vec<Duration> = Vec::new();
        for window in &self.run.windows {
            let fault = &self.scenario.faults[window.fault];
            if fault.kind.target() == Target::Calls && fault.share >= 1.0 {
                longest.push(window.until.saturating_sub(window.from));
            }
        }
        let beyond = longest.iter().filter(|span| **span > Duration::from_secs(150)).count();
        format!(
            "{}. We gave up {} tasks{}. Each failure falls on a call by itself, so a task is given up only by what \
             outlasts its deliveries or is never tried again: of {} spells in which the whole provider was gone, {beyond} \
             lasted longer than the 150 s that three deliveries span. The broker made {entries} entries for {dead} tasks, \
             of which {answered} came to an answer all the same, and {} advisories were heard by nobody. It delivered {} times for {} \
             tasks, {} each, because a delivery that is silent for 30 s is made again while the first worker still works.",
            self.weather(),
            ours.len(),
            listed(ours.values()),
            longest.len(),
            self.broker.unheard,
            self.broker.deliveries,
            orders.len(),
            ratio(self.broker.deliveries, orders.len()),
        )
    }

    fn recovered(&self) -> String {
        let given_up = self.ours_given_up();
        let mut decisions: Vec<String> = Vec::new();
        let mut people: BTreeSet<TaskId> = BTreeSet::new();
        for event in &self.run.events {
            if let (Some(task), Happening::Decided { decided, .. }) = (event.task, &event.what)
                && given_up.contains_key(&task)
            {
                decisions.push(decided.decision.kind().to_string());
                if decided.by == DeciderKind::Human {
                    people.insert(task);
                }
            }
        }
        let alone = given_up.len() - people.len();
        let orders = || self.broker.orders.iter().filter(|order| order.entries > 0);
        let founder = orders().filter(|order| order.founder).count();
        let ours = match given_up.len() {
            0 => "we gave up no task, so ours is a share of nothing".to_owned(),
            given_up => format!(
                "of our {given_up} tasks that were given up {alone} needed nobody and {} a person, and one task is {} of them; \
                 decided about them{}",
                people.len(),
                percent(1, given_up),
                listed(decisions.iter()),
            ),
        };
        format!(
            "{ours}. Of the broker's {} {founder} went to the founder: those that were used up on the agent's next model \
             too, for every entry says `timeout` and gets the same answer first.",
            orders().count(),
        )
    }

    fn by_people(&self) -> String {
        let given_up = self.ours_given_up();
        let people: BTreeSet<TaskId> = self
            .run
            .events
            .iter()
            .filter_map(|event| match (&event.what, event.task) {
                (Happening::Decided { decided, .. }, Some(task)) if decided.by == DeciderKind::Human => Some(task),
                _ => None,
            })
            .collect();
        let kinds: Vec<String> = people.iter().filter_map(|task| given_up.get(task)).cloned().collect();
        let founder = self.broker.orders.iter().filter(|order| order.founder).count();
        let answered = self.broker.orders.iter().filter(|order| order.founder && order.answers > 1).count();
        format!(
            "a person decided about {} of our tasks{}, and was called {} times. The broker's founder was called {} times \
             and had {founder} tasks to look at, {answered} of which had more than one answer in the end.",
            people.len(),
            listed(kinds.iter()),
            self.count(Measure::Pages),
            self.broker.pages.len(),
        )
    }

    fn uptime(&self) -> String {
        let told = uptime::measure(self.scenario, self.run, &self.run.books.moments(&self.run.events));
        let agents = u32::try_from(self.run.config.agents.len()).unwrap_or(u32::MAX);
        let all = self.scenario.run * agents;
        let mut by_fault: BTreeMap<&str, Duration> = BTreeMap::new();
        for window in &self.run.windows {
            let fault = &self.scenario.faults[window.fault];
            if fault.share >= 1.0 && !fault.kind.is_moment() {
                *by_fault.entry(fault.name.as_str()).or_default() += window.until.saturating_sub(window.from);
            }
        }
        let lasted = by_fault.iter().map(|(name, span)| format!("{name} {}", span_of(*span))).collect::<Vec<_>>();
        format!(
            "of {} of agents' time we lost {} with the provider held by breaker or gate and {} with the agent or the \
             process down. The faults that strike everybody lasted, over the {} of the run: {}. The broker has no breaker \
             and no gate: its agents go on calling, and {} of their time is counted as lost to a dead pod or to a \
             provider that turns everybody away. More than these faults can cost is not in what was played.",
            span_of(all),
            span_of(told.held),
            span_of(told.down),
            span_of(self.scenario.run),
            if lasted.is_empty() { "none".to_owned() } else { lasted.join(", ") },
            Unit::Share.words(1.0 - self.broker.uptime),
        )
    }

    fn money(&self, theirs: Option<Theirs>) -> String {
        let tasks = self.count(Measure::Submitted).max(1.0);
        let (ours, broker) = (self.count(Measure::Usd), self.broker(Measure::Usd));
        let published = theirs.map_or_else(String::new, |theirs| {
            format!(
                " What was published comes to ${:.3} a task; how many tokens that bought is not said.",
                theirs.value / tasks
            )
        });
        format!(
            "we made {} calls for {} tasks, {:.0} tokens and ${:.4} each; the broker made {}, {:.0} tokens and ${:.4} each, and \
             ${:.2} of its ${broker:.2} went into failures and into answers to what was answered. A task cost ${:.4} with us and \
             ${:.4} there: {} of its tasks were answered more than once.{published}",
            self.count(Measure::Calls),
            self.count(Measure::Submitted),
            self.count(Measure::Tokens) / self.count(Measure::Calls).max(1.0),
            ours / self.count(Measure::Calls).max(1.0),
            self.broker(Measure::Calls),
            self.broker(Measure::Tokens) / self.broker(Measure::Calls).max(1.0),
            broker / self.broker(Measure::Calls).max(1.0),
            self.broker(Measure::WastedUsd),
            ours / tasks,
            broker / tasks,
            self.broker(Measure::Doubled),
        )
    }
}

/// ` (transient/overloaded 3, logic/loop 1)`, most frequent first; nothing of nothing.
fn listed<'a, T: Display + 'a>(items: impl Iterator<Item = &'a T>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(item.to_string()).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if counts.is_empty() {
        return String::new();
    }
    let words: Vec<String> = counts.into_iter().map(|(what, count)| format!("{what} {count}")).collect();
    format!(" ({})", words.join(", "))
}

#[allow(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn percent(part: usize, of: usize) -> String {
    if of == 0 { "none".to_owned() } else { Unit::Share.words(part as f64 / of as f64) }
}

#[allow(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn ratio(part: u64, of: usize) -> String {
    format!("{:.2}", part as f64 / of.max(1) as f64)
}

/// A span of hours or days, to the second.
fn span_of(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs()))
}

impl fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sides").field("scenario", &self.scenario.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_read_with_its_bound_and_its_digits() {
        for (text, unit, agrees, differs) in [
            ("24,500", Unit::Count, 24_500.0, 24_501.0),
            ("< 0.5 %", Unit::Share, 0.0049, 0.005),
            ("> 3", Unit::Count, 4.0, 3.0),
            ("78 %", Unit::Share, 0.784, 0.79),
            ("97.4 %", Unit::Share, 0.9744, 0.975),
            ("~24", Unit::Count, 22.0, 21.0),
            ("$11,500", Unit::Dollars, 11_500.4, 11_501.0),
        ] {
            let theirs = Theirs::read(text, unit).unwrap_or_else(|| panic!("{text} is a number"));
            assert!(theirs.agrees(agrees), "{text} and {agrees}");
            assert!(!theirs.agrees(differs), "{text} and {differs}");
        }
        for text in ["", "a few", "24 of 109"] {
            assert_eq!(Theirs::read(text, Unit::Count), None, "{text}");
        }
    }

    #[test]
    fn what_is_listed_says_the_most_frequent_first() {
        for (items, words) in
            [(vec![], ""), (vec!["loop"], " (loop 1)"), (vec!["a", "b", "c", "b", "c", "b"], " (b 3, c 2, a 1)")]
        {
            assert_eq!(listed(items.iter()), words, "{items:?}");
        }
    }
}
