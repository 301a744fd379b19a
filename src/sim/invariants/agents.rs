//! Agents: only who was struck dies, and who died is back in time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Violation;
use super::case::Case;
use crate::event::Happening;
use crate::scenario::FaultKind;
use crate::sim::play::books::CallEnd;
use crate::task::AgentName;

/// How much later than announced a start may come.
const SLACK: Duration = Duration::from_secs(1);

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    let mut struck: BTreeSet<&AgentName> = BTreeSet::new();
    for window in &case.run.windows {
        let fault = &case.scenario.faults[window.fault];
        if matches!(fault.kind, FaultKind::AgentKill | FaultKind::AgentWedge) {
            struck.extend(&fault.scope.agent);
        }
    }
    for call in &case.run.books.calls {
        let panicked = case.met(call) == Some(FaultKind::AgentPanic);
        if panicked && call.ended.is_some_and(|(_, end)| end == CallEnd::Failed) {
            struck.extend(&call.agent);
        }
    }
    // A tool whose own code breaks takes the delivery with it, and the agent that made it.
    let tools_break = case.run.books.tools.iter().any(|used| !used.told);
    for (place, event) in case.run.events.iter().enumerate() {
        let Happening::AgentDied { agent, incarnation, how, restart_in, .. } = &event.what else { continue };
        let has_tools = case.run.config.agents.get(agent).is_some_and(|agent| !agent.tools.is_empty());
        if !(struck.contains(agent) || tools_break && has_tools) {
            let evidence = format!("{agent} ({how}); struck were {struck:?}");
            found.push(Violation::at("I-29", event.at, "an agent died of another's fault", evidence));
        }
        let back = event.at + *restart_in + SLACK;
        let stays_down = case.clock(case.run.elapsed) <= back || !case.was_well(event.at, back);
        let started = case.run.events[place..].iter().any(|later| {
            later.at <= back
                && matches!(&later.what, Happening::AgentStarted { agent: who, incarnation: again } if who == agent && again > incarnation)
        });
        if !started && !stays_down {
            let evidence = format!("{agent} died at {} and was to be back within {restart_in:?}", event.at);
            found.push(Violation::at("I-33", event.at, "an agent did not come back", evidence));
        }
    }
}
