//! What happened to a task, told line by line: who did what, when, and by which rule.

use crate::decision;
use crate::event::{Event, Happening};
use crate::failure::Failure;
use crate::time::Timestamp;

/// One event as a line for people. Names the rule wherever one decided.
#[must_use]
pub fn line(event: &Event) -> String {
    format!("{}  {}", event.at, told(&event.what))
}

fn told(what: &Happening) -> String {
    let judged =
        |failure: &Failure| format!("{}/{} by rule {}: {}", failure.class, failure.kind, failure.rule, failure.message);
    let until = |until: &Option<Timestamp>| until.map(|until| format!(" until {until}")).unwrap_or_default();
    match what {
        Happening::Submitted { agent, effect, priority, .. } => {
            format!("accepted for {agent} ({effect}, {priority} priority)")
        }
        Happening::Claimed { agent, attempt, generation, fence, .. } => {
            format!("claimed by {agent}: attempt {attempt} of round {generation} (fence {fence})")
        }
        Happening::Done { agent, usage, .. } => format!("done by {agent}, {} tokens", usage.total()),
        Happening::RetryScheduled { attempt, due, failure, amended, .. } => {
            let amended = if *amended { ", with the error in its prompt" } else { "" };
            format!("attempt {attempt} failed, {}; again at {due}{amended}", judged(failure))
        }
        Happening::Parked { why, integration, until, .. } => {
            let whom = integration.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
            format!("parked{whom} until {until} ({why}); costs no attempt")
        }
        Happening::Released { why, due, .. } => {
            format!("given back ({why}), to be looked at again at {due}; costs no attempt")
        }
        Happening::DeadLettered { failure, why, .. } => format!("given up ({why}): {}", judged(failure)),
        Happening::Decided { decided, .. } => {
            format!(
                "{} decided: {} ({})",
                decided.by,
                decision::in_words(&decided.decision),
                decided.reasons.join("; ")
            )
        }
        Happening::Replayed { generation, by, reason, .. } => {
            format!("replayed by {by} into round {generation} ({reason})")
        }
        Happening::Cancelled { by, reason, .. } => format!("cancelled by {by} ({reason})"),
        Happening::BreakerChanged { integration, from, to, until: end, why } => {
            format!("breaker {integration}: {from} -> {to}{} ({why})", until(end))
        }
        Happening::GateClosed { integration, until, asked } => {
            format!("gate {integration} closed until {until} ({asked})")
        }
        Happening::ProbeSent { integration, agent } => format!("{agent} probes {integration}"),
        Happening::AgentStarted { agent, incarnation } => format!("{agent} started (start {})", incarnation.0),
        Happening::AgentDied { agent, how, detail, .. } => format!("{agent} died ({how}): {detail}"),
        Happening::CrashLoop { agent, deaths } => format!("{agent} is in a crash loop after {deaths} deaths"),
        Happening::IncidentOpened { incident, summary } => format!("{incident} opened: {summary}"),
        Happening::IncidentUpdated { incident, dead_letters } => format!("{incident} has {dead_letters} dead letters"),
        Happening::IncidentAcknowledged { incident, by } => format!("{incident} acknowledged by {by}"),
        Happening::IncidentOverridden { incident, by, decision, tasks } => {
            format!("{incident} overridden by {by}: {decision} for {tasks} tasks")
        }
        Happening::IncidentResolved { incident, by } => format!("{incident} resolved by {by}"),
        Happening::PageDelivered { incident, channel, to, .. } => {
            format!("page for {incident} delivered through {channel} to {to}")
        }
        Happening::PageFailed { incident, channel, error, .. } => {
            format!("page for {incident} failed through {channel}: {error}")
        }
        Happening::ReplayChanged { replay, state, released, total } => {
            format!("replay {replay} is {state}: {released} of {total} released")
        }
        Happening::TeamStarted { epoch, agents, open_tasks } => {
            format!("the team of {agents} started (run {epoch}) with {open_tasks} open tasks")
        }
        Happening::Draining { running } => format!("draining, {running} running"),
    }
}
