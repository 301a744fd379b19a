//! Which hour was the worst, and what happened in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::timeline::Tally;
use crate::decision::{DeciderKind, DecisionKind, in_words};
use crate::event::Happening;
use crate::scenario::{Scenario, Target, Window};
use crate::sim::play::Run;
use crate::sim::play::books::CallEnd;
use crate::task::{AgentName, Integration, TaskId};

const HOUR: Duration = Duration::from_secs(3_600);

/// What happened to the breaker of one integration.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    /// When it opened, first, and why.
    pub(super) opened: Option<(Duration, String)>,
    /// How often a call was let through to see.
    pub(super) probes: u32,
    /// When it was closed again, last.
    pub(super) closed: Option<Duration>,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Over {
    /// When the last of what came to its end did.
    pub(super) at: Duration,
    /// Tasks that did not.
    pub(super) tasks: u64,
    /// Submissions that were never taken.
    pub(super) refused: u64,
    /// Incidents that did not.
    pub(super) incidents: BTreeSet<String>,
}

/// The windows of what strikes no calls and lasts, as long as anything breaks at all.
fn lasting<'a>(scenario: &'a Scenario, run: &'a Run) -> impl Iterator<Item = Window> + 'a {
    let lasts = |window: &Window| {
        let kind = scenario.faults.get(window.fault).map(|fault| fault.kind);
        kind.is_some_and(|kind| kind.target() != Target::Calls && !kind.is_moment())
    };
    let until = |window: &Window| Window { until: window.until.min(scenario.run), ..*window };
    run.windows.iter().filter(|window| window.from < scenario.run).filter(move |window| lasts(window)).map(until)
}

/// What happened in the worst hour.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// When it began.
    pub(super) from: Duration,
    /// When it ended.
    pub(super) until: Duration,
    /// Calls that met each fault, by its place in the scenario.
    pub(super) met: BTreeMap<usize, u64>,
    /// Calls that failed, or came to no answer, without one.
    pub(super) unbidden: u64,
    /// Breakers that opened.
    pub(super) breakers: BTreeMap<Integration, Breaker>,
    /// Gates: how often the other side asked for silence, how often the team held back by itself, and for how long at
    /// the longest.
    pub(super) gates: BTreeMap<Integration, (u32, u32, Duration)>,
    /// The most tasks that waited at once, and when.
    pub(super) waited: (u32, Duration),
    /// Tasks parked, and deliveries tried again by schedule.
    pub(super) parked: u64,
    pub(super) retried: u64,
    /// Agents that died, and how often.
    pub(super) died: BTreeMap<AgentName, u32>,
    /// Agents in a crash loop.
    pub(super) looping: BTreeSet<AgentName>,
    /// When the process was down.
    pub(super) down: Vec<(Duration, Duration)>,
    /// Tasks given up, by class and kind.
    pub(super) given_up: BTreeMap<String, u64>,
    /// What the CEO decided, and how often.
    pub(super) decided: BTreeMap<DecisionKind, u64>,
    /// Its first decision: when, what, why.
    pub(super) first: Option<(Duration, String, String)>,
    /// Messages that called the person: when, of which incident, in which words.
    pub(super) paged: Vec<(Duration, String, String)>,
    /// Messages that no channel took.
    pub(super) unheard: u64,
    /// Submissions turned away with an answer: how many, and the first: when, with which words.
    pub(super) refused: Option<(u64, Duration, String)>,
    /// Clients that came while no process was there to answer.
    pub(super) unanswered: u64,
    /// When everything that had trouble in it had come to its end, or what of it never did.
    pub(super) over: Over,
}

/// How bad it was, event by event.
fn troubles(scenario: &Scenario, run: &Run, moments: &[Duration]) -> Vec<(Duration, u64)> {
    let weight = |what: &Happening| {
        #[allow(clippy::wildcard_enum_match_arm, reason = "what is not named here is no trouble")]
        match what {
            Happening::IncidentOpened { .. } | Happening::CrashLoop { .. } => 10,
            Happening::DeadLettered { .. } => 5,
            Happening::BreakerChanged { to, .. } if to == "open" => 5,
            Happening::AgentDied { .. } | Happening::GateClosed { .. } => 3,
            Happening::RetryScheduled { .. } | Happening::Parked { .. } => 1,
            _ => 0,
        }
    };
    let told = run.events.iter().zip(moments).map(|(event, at)| (*at, weight(&event.what)));
    let met = run.books.calls.iter().filter(|call| call.fault.is_some()).map(|call| (call.at, 1));
    // What is broken by hand is in the books; a disk or a pager is asked each time whether it is.
    let struck: BTreeSet<usize> = run.books.struck.iter().map(|(_, fault)| *fault).collect();
    let on = lasting(scenario, run).filter(|window| !struck.contains(&window.fault)).map(|window| (window.from, 5));
    let struck = run.books.struck.iter().map(|(at, _)| (*at, 5));
    // A client that comes again every minute is no new trouble each time.
    let mut seen = BTreeSet::new();
    let refused = run.books.refused.iter().filter(move |refused| seen.insert(refused.number));
    let refused = refused.map(|refused| (refused.at, 1));
    let all = told.chain(met).chain(struck).chain(on).chain(refused);
    let mut troubles: Vec<(Duration, u64)> = all.filter(|(_, weight)| *weight > 0).collect();
    troubles.sort_unstable();
    troubles
}

/// The hour with the most trouble, by the moment of its first: the first of several that are as bad.
fn worst(troubles: &[(Duration, u64)]) -> Option<Duration> {
    let (mut last, mut sum, mut best) = (0, 0, None::<(u64, Duration)>);
    for (from, weight) in troubles {
        while let Some((_, weight)) = troubles.get(last).filter(|(at, _)| *at < *from + HOUR) {
            sum += weight;
            last += 1;
        }
        if best.is_none_or(|(most, _)| sum > most) {
            best = Some((sum, *from));
        }
        sum -= weight;
    }
    best.map(|(_, from)| from)
}

impl Facts {
    /// None when nothing went wrong.
    pub(super) fn of(scenario: &Scenario, run: &Run, moments: &[Duration]) -> Option<Self> {
        let from = worst(&troubles(scenario, run, moments))?;
        let mut facts = Self { from, until: from + HOUR, ..Self::default() };
        facts.feed(run, moments);
        facts.books(scenario, run);
        facts.over = facts.end(scenario, run, moments);
        Some(facts)
    }

    fn holds(&self, at: Duration) -> bool {
        (self.from..self.until).contains(&at)
    }

    fn feed(&mut self, run: &Run, moments: &[Duration]) {
        let mut tally = Tally::default();
        for (event, at) in run.events.iter().zip(moments) {
            tally.note(event.task, &event.what);
            if !self.holds(*at) {
                continue;
            }
            if tally.now.waits() > self.waited.0 {
                self.waited = (tally.now.waits(), *at);
            }
            #[allow(clippy::wildcard_enum_match_arm, reason = "what is not named here is no part of the story")]
            match &event.what {
                Happening::BreakerChanged { integration, to, why, .. } => {
                    let breaker = self.breakers.entry(integration.clone()).or_default();
                    match to.as_str() {
                        "open" if breaker.opened.is_none() => breaker.opened = Some((*at, why.clone())),
                        "half-open" => breaker.probes += 1,
                        "closed" => breaker.closed = Some(*at),
                        _ => {}
                    }
                }
                Happening::GateClosed { integration, until, asked } => {
                    let gate = self.gates.entry(integration.clone()).or_default();
                    *(if asked.starts_with("retry after") { &mut gate.0 } else { &mut gate.1 }) += 1;
                    gate.2 = gate.2.max(until.since(event.at));
                }
                Happening::RetryScheduled { .. } => self.retried += 1,
                Happening::Parked { .. } => self.parked += 1,
                Happening::AgentDied { agent, .. } => *self.died.entry(agent.clone()).or_default() += 1,
                Happening::CrashLoop { agent, .. } => drop(self.looping.insert(agent.clone())),
                Happening::DeadLettered { failure, .. } => {
                    *self.given_up.entry(format!("{}/{}", failure.class, failure.kind)).or_default() += 1;
                }
                Happening::Decided { decided, .. } if decided.by != DeciderKind::Human => {
                    *self.decided.entry(decided.decision.kind()).or_default() += 1;
                    self.first.get_or_insert_with(|| {
                        let why = decided.reasons.first().cloned().unwrap_or_default();
                        (*at, in_words(&decided.decision), why)
                    });
                }
                _ => {}
            }
        }
        self.breakers.retain(|_, breaker| breaker.opened.is_some() || breaker.closed.is_some());
    }

    fn books(&mut self, scenario: &Scenario, run: &Run) {
        let hour = self.from..self.until;
        for call in run.books.calls.iter().filter(|call| hour.contains(&call.at)) {
            match (call.fault, call.ended) {
                (Some(fault), _) => *self.met.entry(fault).or_default() += 1,
                (None, Some((_, CallEnd::Failed | CallEnd::Flawed))) => self.unbidden += 1,
                (None, Some((_, CallEnd::Answered | CallEnd::GivenUp)) | None) => {}
            }
        }
        for (_, fault) in run.books.struck.iter().filter(|(at, _)| hour.contains(at)) {
            self.met.entry(*fault).or_default();
        }
        // What strikes no calls is told for as long as it lasts.
        for window in run.windows.iter().filter(|window| window.from < self.until && window.until > self.from) {
            if scenario.faults.get(window.fault).is_some_and(|fault| fault.kind.target() != Target::Calls) {
                self.met.entry(window.fault).or_default();
            }
        }
        for pair in run.books.runs.windows(2) {
            let (died, up) = (pair[0].1, pair[1].0);
            if died < self.until && up > self.from {
                self.down.push((died, up));
            }
        }
        let mut seen = BTreeSet::new();
        for page in run.books.pages.iter().filter(|page| page.action == "trigger" && hour.contains(&page.at)) {
            if !page.taken {
                self.unheard += 1;
            } else if seen.insert((page.incident.clone(), page.number)) {
                self.paged.push((page.at, page.incident.clone(), page.summary.clone()));
            }
        }
        let mut turned_away = BTreeSet::new();
        for refused in run.books.refused.iter().filter(|refused| hour.contains(&refused.at)) {
            turned_away.insert(refused.number);
            let (number, ..) = self.refused.get_or_insert_with(|| (0, refused.at, refused.why.clone()));
            *number = turned_away.len() as u64;
        }
        let refused: BTreeSet<u64> = run.books.refused.iter().map(|refused| refused.number).collect();
        let unanswered = run.books.asked.iter().filter(|asked| hour.contains(&asked.first_at));
        let unanswered = unanswered.filter(|asked| asked.at > asked.first_at && !refused.contains(&asked.number));
        self.unanswered = unanswered.count() as u64;
    }

    /// When the tasks that were in trouble, the breakers that opened and the incidents had come to their end, and what was
    /// broken was whole again.
    fn end(&self, scenario: &Scenario, run: &Run, moments: &[Duration]) -> Over {
        let (mut tasks, mut breakers, mut incidents) = (BTreeSet::<TaskId>::new(), BTreeSet::new(), BTreeSet::new());
        let hour = self.from..self.until;
        let whole = lasting(scenario, run).filter(|window| window.from < self.until && window.until > self.from);
        let whole = whole.map(|window| window.until.min(run.elapsed)).chain(self.down.iter().map(|(_, up)| *up));
        let mut over = whole.max().unwrap_or(self.from).max(self.from);
        // Whoever was turned away came again, and their task is not at its end before it has begun.
        let waited = run.books.asked.iter().filter(|asked| asked.at > asked.first_at && asked.at > self.from);
        tasks.extend(waited.filter(|asked| asked.first_at < self.until).map(|asked| asked.id));
        let taken: BTreeSet<u64> = run.books.asked.iter().map(|asked| asked.number).collect();
        let refused =
            run.books.refused.iter().filter(|refused| hour.contains(&refused.at)).map(|refused| refused.number);
        let refused = refused.filter(|number| !taken.contains(number)).collect::<BTreeSet<u64>>().len() as u64;
        for (event, at) in run.events.iter().zip(moments).filter(|(_, at)| **at >= self.from) {
            let within = self.holds(*at);
            let ends = |ended: bool, over: &mut Duration| {
                if ended {
                    *over = (*over).max(*at);
                }
            };
            #[allow(clippy::wildcard_enum_match_arm, reason = "only trouble and its end")]
            match &event.what {
                Happening::RetryScheduled { .. } | Happening::Parked { .. } | Happening::DeadLettered { .. }
                    if within =>
                {
                    tasks.extend(event.task);
                }
                Happening::Done { .. } | Happening::Cancelled { .. } => {
                    ends(event.task.is_some_and(|task| tasks.remove(&task)), &mut over);
                }
                Happening::Decided { decided, .. }
                    if matches!(decided.decision.kind(), DecisionKind::Discard | DecisionKind::Resolve) =>
                {
                    ends(event.task.is_some_and(|task| tasks.remove(&task)), &mut over);
                }
                Happening::BreakerChanged { integration, to, .. } => {
                    if to == "closed" {
                        ends(breakers.remove(integration), &mut over);
                    } else if within {
                        breakers.insert(integration.clone());
                    }
                }
                Happening::IncidentOpened { incident, .. } if within => {
                    incidents.insert(incident.clone());
                }
                Happening::IncidentResolved { incident, .. } => ends(incidents.remove(incident), &mut over),
                _ => {}
            }
        }
        // A breaker nobody calls stays open; that is nobody's trouble.
        Over { at: over, tasks: tasks.len() as u64, refused, incidents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_hour_is_the_one_with_the_most_trouble() {
        let at = |minutes: u64| Duration::from_secs(60 * minutes);
        for (troubles, from) in [
            (vec![], None),
            (vec![(at(5), 1)], Some(at(5))),
            // Two hours that are as bad: the first.
            (vec![(at(5), 3), (at(200), 3)], Some(at(5))),
            (vec![(at(5), 3), (at(200), 2), (at(230), 2)], Some(at(200))),
            // An hour later is the next hour.
            (vec![(at(0), 3), (at(60), 4)], Some(at(60))),
            (vec![(at(0), 3), (at(59), 4)], Some(at(0))),
        ] {
            assert_eq!(worst(&troubles), from, "{troubles:?}");
        }
    }
}
