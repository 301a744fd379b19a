//! What stood when: faults, tasks, breakers, deaths, pages and money over the time of a run, no finer than a page can show.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::bill::Bill;
use crate::decision::Decision;
use crate::event::Happening;
use crate::scenario::{Scenario, Window};
use crate::sim::play::Run;
use crate::task::{Integration, TaskId};

/// Into how many pieces the time of a run is cut.
pub const PIECES: u32 = 480;

/// What stood when, in seconds since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    /// How long it is.
    pub span_s: f64,
    /// Faults, a row for each kind.
    pub faults: Vec<Row>,
    /// How many tasks stood where, at the worst moment of each piece.
    pub depth: Vec<Depth>,
    /// Breakers and gates, a row for each integration that had trouble.
    pub breakers: Vec<Row>,
    /// Deaths: when, and the class of the last failure.
    pub deaths: Vec<Mark>,
    /// Pages that a channel took: when, and of which incident.
    pub pages: Vec<Mark>,
    /// Dollars spent by then, as far as prices are known, and of it on calls without an answer.
    pub spend: Vec<Spend>,
}

/// A row of stretches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Of what.
    pub name: String,
    /// In order of time.
    pub stretches: Vec<Stretch>,
}

/// Something that lasts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// From when.
    pub from_s: f64,
    /// Until when.
    pub until_s: f64,
    /// What it is: a fault's name, or `open`, `half-open`, `gate`.
    pub what: String,
}

/// How many tasks stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Depth {
    /// When.
    pub at_s: f64,
    /// Waiting for an agent or for their time.
    pub waiting: u32,
    /// Worked on.
    pub running: u32,
    /// Parked until an integration is well again.
    pub parked: u32,
    /// Waiting for a person.
    pub with_human: u32,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// When.
    pub at_s: f64,
    /// What.
    pub what: String,
    /// How many at once.
    pub count: u32,
}

/// Money spent by a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spend {
    /// When.
    pub at_s: f64,
    /// Dollars in all.
    pub usd: f64,
    /// Of it for calls that ended without an answer that was one.
    pub unanswered_usd: f64,
}

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Waiting,
    Running,
    Parked,
    Human,
    Over,
}

/// Where a task stands after an event; none when that says nothing of it.
pub(super) fn stands(what: &Happening) -> Option<Stands> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "what is not named here moves no task")]
    match what {
        Happening::Submitted { .. }
        | Happening::Released { .. }
        | Happening::Replayed { .. }
        | Happening::RetryScheduled { .. } => Some(Stands::Waiting),
        Happening::Claimed { .. } => Some(Stands::Running),
        Happening::Parked { .. } => Some(Stands::Parked),
        Happening::Done { .. } | Happening::Cancelled { .. } | Happening::DeadLettered { .. } => Some(Stands::Over),
        Happening::Decided { decided, .. } => Some(match &decided.decision {
            Decision::RetryOnFallback { .. }
            | Decision::RetryAfterCheck { .. }
            | Decision::Reassign { .. }
            | Decision::RunAgain { .. } => Stands::Waiting,
            Decision::Park { .. } => Stands::Parked,
            Decision::PageHuman { .. } => Stands::Human,
            Decision::Discard { .. } | Decision::Resolve { .. } => Stands::Over,
        }),
        _ => None,
    }
}

/// Counts where tasks stand while the feed is read.
#[derive(Default)]
pub(super) struct Tally {
    tasks: BTreeMap<TaskId, Stands>,
    pub(super) now: Depth,
}

impl Tally {
    pub(super) fn note(&mut self, task: Option<TaskId>, what: &Happening) {
        let (Some(task), Some(stands)) = (task, stands(what)) else { return };
        if let Some(before) = self.tasks.insert(task, stands)
            && let Some(count) = self.place(before)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.place(stands) {
            *count += 1;
        }
        if stands == Stands::Over {
            self.tasks.remove(&task);
        }
    }

    const fn place(&mut self, stands: Stands) -> Option<&mut u32> {
        match stands {
            Stands::Waiting => Some(&mut self.now.waiting),
            Stands::Running => Some(&mut self.now.running),
            Stands::Parked => Some(&mut self.now.parked),
            Stands::Human => Some(&mut self.now.with_human),
            Stands::Over => None,
        }
    }
}

impl Depth {
    /// All that wait, for whatever.
    pub(super) const fn waits(self) -> u32 {
        self.waiting + self.parked + self.with_human
    }
}

impl Timeline {
    pub(super) fn of(scenario: &Scenario, run: &Run, moments: &[Duration], bill: &Bill) -> Self {
        let span = run.elapsed.max(Duration::from_secs(1));
        let pieces = Pieces { span };
        Self {
            span_s: span.as_secs_f64(),
            faults: faults(scenario, run, &pieces),
            depth: depth(run, moments, &pieces),
            breakers: breakers(run, moments, &pieces),
            deaths: deaths(run, moments, &pieces),
            pages: pages(run, &pieces),
            spend: spend(run, bill, &pieces),
        }
    }
}

/// The time of a run in equal pieces.
struct Pieces {
    span: Duration,
}

impl Pieces {
    fn of(&self, at: Duration) -> u32 {
        let share = at.as_secs_f64() / self.span.as_secs_f64() * f64::from(PIECES);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the number of pieces")]
        let piece = share.clamp(0.0, f64::from(PIECES - 1)) as u32;
        piece
    }

    fn start(&self, piece: u32) -> f64 {
        self.span.as_secs_f64() * f64::from(piece) / f64::from(PIECES)
    }

    /// What lasts, with what cannot be told apart on a page made one.
    fn merged(&self, mut stretches: Vec<(Duration, Duration, String)>) -> Vec<Stretch> {
        stretches.sort();
        let mut merged: Vec<(Duration, Duration, String)> = Vec::new();
        for (from, until, what) in stretches {
            match merged.last_mut() {
                Some(last) if last.2 == what && self.of(from) <= self.of(last.1) => last.1 = last.1.max(until),
                _ => merged.push((from, until, what)),
            }
        }
        let stretch = |(from, until, what): (Duration, Duration, String)| Stretch {
            from_s: from.as_secs_f64(),
            until_s: until.min(self.span).as_secs_f64(),
            what,
        };
        merged.into_iter().map(stretch).collect()
    }

    /// What happened, those of one piece and kind made one.
    fn marks(&self, happened: impl Iterator<Item = (Duration, String)>) -> Vec<Mark> {
        let mut marks: BTreeMap<(u32, String), (Duration, u32)> = BTreeMap::new();
        for (at, what) in happened {
            marks.entry((self.of(at), what)).or_insert((at, 0)).1 += 1;
        }
        let mark = |((_, what), (at, count))| Mark { at_s: Duration::as_secs_f64(&at), what, count };
        marks.into_iter().map(mark).collect()
    }
}

fn faults(scenario: &Scenario, run: &Run, pieces: &Pieces) -> Vec<Row> {
    let mut rows: BTreeMap<String, Vec<(Duration, Duration, String)>> = BTreeMap::new();
    // What was to strike after everything was at rest did not strike.
    let struck = run.windows.iter().filter(|window| window.from <= run.elapsed);
    for Window { from, until, fault } in struck {
        let fault = &scenario.faults[*fault];
        rows.entry(fault.kind.to_string()).or_default().push((*from, (*until).min(scenario.run), fault.to_string()));
    }
    rows.into_iter().map(|(name, stretches)| Row { name, stretches: pieces.merged(stretches) }).collect()
}

fn depth(run: &Run, moments: &[Duration], pieces: &Pieces) -> Vec<Depth> {
    let mut tally = Tally::default();
    let mut worst: BTreeMap<u32, Depth> = BTreeMap::new();
    let mut piece = 0;
    for (event, at) in run.events.iter().zip(moments) {
        // What stood at the end of a piece stands at the beginning of the next.
        let here = pieces.of(*at);
        while piece < here {
            piece += 1;
            worst.insert(piece, Depth { at_s: pieces.start(piece), ..tally.now });
        }
        tally.note(event.task, &event.what);
        let now = Depth { at_s: pieces.start(here), ..tally.now };
        let seen = worst.entry(here).or_insert(now);
        if now.waits() + now.running >= seen.waits() + seen.running {
            *seen = now;
        }
    }
    while piece + 1 < PIECES {
        piece += 1;
        worst.insert(piece, Depth { at_s: pieces.start(piece), ..tally.now });
    }
    worst.into_values().collect()
}

fn breakers(run: &Run, moments: &[Duration], pieces: &Pieces) -> Vec<Row> {
    let mut rows: BTreeMap<Integration, Vec<(Duration, Duration, String)>> = BTreeMap::new();
    let mut open: BTreeMap<Integration, (Duration, String)> = BTreeMap::new();
    for (event, at) in run.events.iter().zip(moments) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "only breakers and gates")]
        match &event.what {
            Happening::BreakerChanged { integration, to, .. } => {
                if let Some((from, state)) = open.remove(integration) {
                    rows.entry(integration.clone()).or_default().push((from, *at, state));
                }
                if to != "closed" {
                    open.insert(integration.clone(), (*at, to.clone()));
                }
            }
            Happening::GateClosed { integration, until, .. } => {
                let over = *at + until.since(event.at);
                rows.entry(integration.clone()).or_default().push((*at, over, "gate".to_owned()));
            }
            // Who starts has closed breakers.
            Happening::TeamStarted { .. } => {
                for (integration, (from, state)) in std::mem::take(&mut open) {
                    rows.entry(integration).or_default().push((from, *at, state));
                }
            }
            _ => {}
        }
    }
    for (integration, (from, state)) in open {
        rows.entry(integration).or_default().push((from, run.elapsed, state));
    }
    rows.into_iter().map(|(name, row)| Row { name: name.to_string(), stretches: pieces.merged(row) }).collect()
}

fn deaths(run: &Run, moments: &[Duration], pieces: &Pieces) -> Vec<Mark> {
    let died = run.events.iter().zip(moments).filter_map(|(event, at)| {
        let Happening::DeadLettered { failure, .. } = &event.what else { return None };
        Some((*at, failure.class.to_string()))
    });
    pieces.marks(died)
}

fn pages(run: &Run, pieces: &Pieces) -> Vec<Mark> {
    let mut first: BTreeMap<(&str, u32), Duration> = BTreeMap::new();
    for page in run.books.pages.iter().filter(|page| page.taken && page.action == "trigger") {
        first.entry((page.incident.as_str(), page.number)).or_insert(page.at);
    }
    pieces.marks(first.into_iter().map(|((incident, _), at)| (at, incident.to_owned())))
}

#[allow(clippy::cast_precision_loss, reason = "micro-dollars of one run")]
fn spend(run: &Run, bill: &Bill, pieces: &Pieces) -> Vec<Spend> {
    use crate::sim::play::books::CallEnd;
    let mut ended: Vec<(Duration, u64, bool)> = Vec::new();
    for (call, price) in run.books.calls.iter().zip(&bill.each) {
        let (at, answered) = call.ended.map_or((call.at, false), |(at, end)| (at, end == CallEnd::Answered));
        ended.push((at, price.unwrap_or_default(), answered));
    }
    ended.sort_unstable();
    let mut sum = Spend::default();
    let mut line: BTreeMap<u32, Spend> = BTreeMap::new();
    let mut piece = 0;
    for (at, price, answered) in ended {
        let here = pieces.of(at);
        while piece < here {
            piece += 1;
            line.insert(piece, Spend { at_s: pieces.start(piece), ..sum });
        }
        sum.usd += price as f64 / 1e6;
        sum.unanswered_usd += if answered { 0.0 } else { price as f64 / 1e6 };
        line.insert(here, Spend { at_s: pieces.start(here), ..sum });
    }
    line.insert(PIECES - 1, Spend { at_s: pieces.span.as_secs_f64(), ..sum });
    line.into_values().collect()
}
