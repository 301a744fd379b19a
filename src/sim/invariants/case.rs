//! A run laid out for checking: each task's calls beside its claims, and the times in which the machine itself was broken.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{Event, Happening};
use crate::record::Record;
use crate::scenario::{FaultKind, Scenario, Window};
use crate::sim::play::Run;
use crate::sim::play::books::{Asked, Call};
use crate::task::{AgentName, TaskId};
use crate::time::Timestamp;

/// A run, laid out.
pub(super) struct Case<'a> {
    pub(super) run: &'a Run,
    pub(super) scenario: &'a Scenario,
    /// Every task that was acknowledged, in the order of acknowledgement.
    pub(super) stories: Vec<Story<'a>>,
    /// When the process was dead, the disk full or the CEO struck, by the team's clock.
    pub(super) broken: Vec<(Timestamp, Timestamp)>,
}

/// A task: what was asked, what its models saw, what the feed tells.
pub(super) struct Story<'a> {
    pub(super) asked: &'a Asked,
    pub(super) record: Option<&'a Record>,
    pub(super) calls: Vec<&'a Call>,
    pub(super) events: Vec<&'a Event>,
    pub(super) claims: Vec<Claim<'a>>,
}

/// A delivery as the feed tells it.
pub(super) struct Claim<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) generation: u32,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(super) from: Timestamp,
    /// The event that ended it; none while it is held.
    pub(super) end: Option<&'a Event>,
}

impl Claim<'_> {
    /// Until when it was held.
    pub(super) fn until(&self) -> Timestamp {
        self.end.map_or(Timestamp::from_millis(i64::MAX), |end| end.at)
    }

    /// Was a call begun under it? At the very ends it may have been under its neighbour.
    pub(super) fn holds(&self, call: &Call) -> bool {
        self.from <= call.clock && call.clock <= self.until()
    }
}

impl<'a> Case<'a> {
    pub(super) fn of(loaded: &'a crate::definitions::LoadedScenario, run: &'a Run) -> Self {
        let records: BTreeMap<TaskId, &Record> = run.records.iter().map(|record| (record.task.id, record)).collect();
        let mut calls = run.books.calls_by_task();
        let mut events: BTreeMap<TaskId, Vec<&Event>> = BTreeMap::new();
        for event in &run.events {
            if let Some(task) = event.task {
                events.entry(task).or_default().push(event);
            }
        }
        let story = |asked: &'a Asked| {
            let events = events.remove(&asked.id).unwrap_or_default();
            let claims = claims(&events);
            let calls = calls.remove(&asked.id).unwrap_or_default();
            Story { asked, record: records.get(&asked.id).copied(), calls, events, claims }
        };
        let stories = run.books.asked.iter().map(story).collect();
        let mut case = Self { run, scenario: &loaded.scenario, stories, broken: Vec::new() };
        case.broken = case.broken_times();
        case
    }

    /// What the team's clock showed then.
    pub(super) fn clock(&self, elapsed: Duration) -> Timestamp {
        let start = self.run.books.starts.iter().rev().find(|(at, _)| *at <= elapsed);
        start.map_or(self.scenario.start + elapsed, |(at, shown)| *shown + elapsed.saturating_sub(*at))
    }

    fn broken_times(&self) -> Vec<(Timestamp, Timestamp)> {
        let mut broken = Vec::new();
        for window in &self.run.windows {
            // What broke takes a little while to be itself again.
            let kind = self.scenario.faults[window.fault].kind;
            let slack = if matches!(kind, FaultKind::ProcessKill | FaultKind::DiskFull) {
                Duration::from_secs(65)
            } else if kind == FaultKind::CeoKill {
                Duration::from_secs(10)
            } else {
                continue;
            };
            let until = window.until.min(self.run.elapsed);
            broken.push((self.clock(window.from), self.clock(until).max(self.clock(window.from)) + slack));
        }
        // A clock that was set makes a restart look like hours.
        for (at, shown) in self.run.books.starts.iter().skip(1) {
            let before = self.run.books.starts.iter().rev().find(|(earlier, _)| earlier < at);
            let would = before.map_or(*shown, |(earlier, then)| *then + at.saturating_sub(*earlier));
            broken.push((would.min(*shown), *shown + Duration::from_secs(65)));
        }
        broken
    }

    /// Was the machine itself well all that time?
    pub(super) fn was_well(&self, from: Timestamp, until: Timestamp) -> bool {
        !self.broken.iter().any(|(begin, end)| *begin <= until && from <= *end)
    }

    /// Could what a call came to be written down before another began? Whoever knows it tries once a second for as long
    /// as a lease lasts, and dies with its process. Where a disk was full all that time nobody can know it any more.
    pub(super) fn could_be_written(&self, call: &Call, before: &Call, lease: Duration) -> bool {
        let Some((ended, _)) = call.ended else { return false };
        let died = self.run.books.runs.iter().map(|(_, until)| *until).find(|until| *until >= ended);
        let last = before.at.min(ended + lease).min(died.unwrap_or(before.at));
        let mut tries = std::iter::successors(Some(ended), |at| Some(*at + Duration::from_secs(1)));
        tries.by_ref().take_while(|at| *at < last).any(|at| !self.disk_full(at))
    }

    fn disk_full(&self, at: Duration) -> bool {
        // Nothing breaks any more once the run itself is over.
        let full = |window: &&Window| self.scenario.faults[window.fault].kind == FaultKind::DiskFull;
        at < self.scenario.run
            && self.run.windows.iter().filter(full).any(|window| (window.from..window.until).contains(&at))
    }

    /// The kind of the fault that a call met.
    pub(super) fn met(&self, call: &Call) -> Option<FaultKind> {
        call.fault.map(|place| self.scenario.faults[place].kind)
    }

    /// When a call ended, by the team's clock.
    pub(super) fn ended(&self, call: &Call) -> Option<Timestamp> {
        call.ended.map(|(at, _)| call.clock + at.saturating_sub(call.at))
    }
}

impl Story<'_> {
    pub(super) fn id(&self) -> TaskId {
        self.asked.id
    }

    /// The delivery under which a call was begun: the last that held it.
    pub(super) fn claim_of(&self, call: &Call) -> Option<&Claim<'_>> {
        self.claims
            .iter()
            .rev()
            .find(|claim| claim.holds(call) && call.agent.as_ref().is_none_or(|by| by == claim.agent))
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what neither begins nor ends a delivery is passed by")]
fn claims<'a>(events: &[&'a Event]) -> Vec<Claim<'a>> {
    let mut claims: Vec<Claim<'a>> = Vec::new();
    for event in events {
        match &event.what {
            Happening::Claimed { agent, attempt, generation, fence, .. } => claims.push(Claim {
                agent,
                generation: *generation,
                attempt: *attempt,
                fence: *fence,
                from: event.at,
                end: None,
            }),
            Happening::Done { .. }
            | Happening::RetryScheduled { .. }
            | Happening::Released { .. }
            | Happening::DeadLettered { .. }
            | Happening::Cancelled { .. } => {
                if let Some(last) = claims.last_mut().filter(|last| last.end.is_none()) {
                    last.end = Some(event);
                }
            }
            _ => {}
        }
    }
    claims
}
