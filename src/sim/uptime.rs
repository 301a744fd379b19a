//! Uptime, from the feed: the share of the agents' time in which an agent could work.
//!
//! An agent could not work while its actor was dead, while the process was, and while its own model's provider was held:
//! from the moment the breaker opened until it would let a call through, and as long as a gate was closed. What its
//! fallbacks could have done is not counted for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::play::Run;
use crate::event::Happening;
use crate::scenario::Scenario;
use crate::task::{AgentName, Integration};

/// A stretch of time since the beginning of the run: from, until.
pub type Span = (Duration, Duration);

/// What kept agents from working, in agent-time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Uptime {
    /// The share of the agents' time in which an agent could work.
    pub share: f64,
    /// While its actor or the process was down.
    pub down: Duration,
    /// While its provider was held by breaker or gate.
    pub held: Duration,
}

/// Measures a run, given when each of its events happened.
#[must_use]
pub fn measure(scenario: &Scenario, run: &Run, moments: &[Duration]) -> Uptime {
    let mut away: BTreeMap<AgentName, Vec<Span>> = BTreeMap::new();
    let mut held: BTreeMap<Integration, Vec<Span>> = BTreeMap::new();
    let mut died: BTreeMap<AgentName, Duration> = BTreeMap::new();
    let mut opened: BTreeMap<Integration, (Duration, Option<Duration>)> = BTreeMap::new();
    for (event, at) in run.events.iter().zip(moments.iter().copied()) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "nothing else says who could work")]
        match &event.what {
            Happening::AgentDied { agent, .. } => {
                died.entry(agent.clone()).or_insert(at);
            }
            Happening::AgentStarted { agent, .. } => {
                if let Some(from) = died.remove(agent) {
                    away.entry(agent.clone()).or_default().push((from, at));
                }
            }
            Happening::GateClosed { integration, until, .. } => {
                held.entry(integration.clone()).or_default().push((at, at + until.since(event.at)));
            }
            Happening::BreakerChanged { integration, to, until, .. } => {
                if let Some((from, end)) = opened.remove(integration) {
                    held.entry(integration.clone()).or_default().push((from, end.map_or(at, |end| end.min(at))));
                }
                if matches!(to.as_str(), "open" | "forced-open") {
                    opened.insert(integration.clone(), (at, until.map(|until| at + until.since(event.at))));
                }
            }
            _ => {}
        }
    }
    for (integration, (from, end)) in opened {
        held.entry(integration).or_default().push((from, end.unwrap_or(scenario.run)));
    }
    for (agent, from) in died {
        away.entry(agent).or_default().push((from, scenario.run));
    }
    let dead = run.books.runs.windows(2).map(|pair| (pair[0].1, pair[1].0)).collect::<Vec<Span>>();
    let mut told = Uptime { share: 1.0, ..Uptime::default() };
    for agent in run.config.agents.values() {
        let mut spans = away.get(&agent.name).cloned().unwrap_or_default();
        spans.extend(&dead);
        let down = covered(spans.clone(), scenario.run);
        spans.extend(held.get(&agent.model.provider).into_iter().flatten());
        told.down += down;
        told.held += covered(spans, scenario.run).saturating_sub(down);
    }
    let agents = u32::try_from(run.config.agents.len()).unwrap_or(u32::MAX);
    let all = scenario.run.as_secs_f64() * f64::from(agents);
    if all > 0.0 {
        told.share = 1.0 - (told.down + told.held).as_secs_f64() / all;
    }
    told
}

/// How much of the time until `end` is in at least one of the spans.
#[must_use]
pub fn covered(mut spans: Vec<Span>, end: Duration) -> Duration {
    spans.sort_unstable();
    let (mut sum, mut reached) = (Duration::ZERO, Duration::ZERO);
    for (from, until) in spans {
        let (from, until) = (from.max(reached), until.min(end));
        if until > from {
            sum += until - from;
            reached = until;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_counted_once_and_what_comes_after_the_end_not_at_all() {
        let span = |from, until| (Duration::from_secs(from), Duration::from_secs(until));
        for (spans, expected) in [
            (vec![], 0),
            (vec![span(10, 20)], 10),
            (vec![span(10, 20), span(15, 30)], 20),
            (vec![span(15, 30), span(10, 40), span(20, 25)], 30),
            (vec![span(10, 20), span(30, 40)], 20),
            (vec![span(90, 200)], 10),
            (vec![span(200, 300), span(50, 50)], 0),
        ] {
            assert_eq!(covered(spans.clone(), Duration::from_secs(100)), Duration::from_secs(expected), "{spans:?}");
        }
    }
}
