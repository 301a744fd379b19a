//! Decisions: one chain a task, from the closed set, within the policy, and in time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use super::case::{Case, Story};
use crate::agent::Agent;
use crate::decision::{Decided, DeciderKind, Decision};
use crate::event::{Event, Happening};
use crate::incident::Incident;
use crate::record::{LetterStatus, State};
use crate::task::{AgentName, Effect};
use crate::time::Timestamp;

/// How long the CEO may take when everything is well, its adviser included.
const TRIAGE: Duration = Duration::from_secs(60);
/// How long it may take until a person who is waited for was called. Where the CEO dies between what it writes and what it
/// says, the incident actor finds it when the letter would be overdue, ten minutes after it was given up.
const CALLED: Duration = Duration::from_secs(660);
/// The most decisions about one task that no person took.
const AUTOMATIC_MAX: usize = 3;

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    for story in &case.stories {
        let decided: Vec<(&Event, &AgentName, &Decided)> =
            story.events.iter().filter_map(|event| Some((*event, of(event)?.0, of(event)?.1))).collect();
        chain(story, &decided, found);
        within_policy(case, story, &decided, found);
        in_time(case, story, found);
    }
}

fn of(event: &Event) -> Option<(&AgentName, &Decided)> {
    let Happening::Decided { agent, decided, .. } = &event.what else { return None };
    Some((agent, decided))
}

/// I-08: numbered one after the other, and at most one that nobody but the product took for each round.
fn chain(story: &Story<'_>, decided: &[(&Event, &AgentName, &Decided)], found: &mut Vec<Violation>) {
    let mut automatic: BTreeMap<u32, u32> = BTreeMap::new();
    for (place, (event, _, decided)) in decided.iter().enumerate() {
        if decided.number as usize != place + 1 {
            let evidence = format!("decision {} of the feed has number {}", place + 1, decided.number);
            found.push(Violation::of_task("I-08", story.id(), Some(event.at), "the decisions are no chain", evidence));
        }
        if decided.by != DeciderKind::Human {
            let of_round = automatic.entry(decided.generation).or_default();
            *of_round += 1;
            if *of_round > 1 {
                let evidence =
                    format!("{} decisions of round {}; the last: {:?}", of_round, decided.generation, decided.decision);
                found.push(Violation::of_task(
                    "I-08",
                    story.id(),
                    Some(event.at),
                    "one dead letter was decided about twice",
                    evidence,
                ));
            }
        }
    }
    if let Some(record) = story.record
        && record.decisions.len() != decided.len()
    {
        let evidence = format!("{} in the record, {} in the feed", record.decisions.len(), decided.len());
        found.push(Violation::of_task("I-08", story.id(), None, "a decision is not in the feed", evidence));
    }
}

/// I-10: nothing that the policy forbids, whatever an adviser says.
fn within_policy(
    case: &Case<'_>,
    story: &Story<'_>,
    decided: &[(&Event, &AgentName, &Decided)],
    found: &mut Vec<Violation>,
) {
    let automatic: Vec<_> = decided.iter().filter(|(_, _, decided)| decided.by != DeciderKind::Human).collect();
    let acting = automatic.iter().filter(|(_, _, decided)| !matches!(decided.decision, Decision::PageHuman { .. }));
    if acting.clone().count() > AUTOMATIC_MAX {
        let evidence = format!("{} decisions that no person took", acting.count());
        found.push(Violation::of_task("I-10", story.id(), None, "more was decided by itself than may be", evidence));
    }
    for (event, agent, decided) in automatic {
        if let Some(why) = forbidden(case, story, agent, decided) {
            let evidence = format!("{why}: {:?} by {}", decided.decision, decided.by);
            found.push(Violation::of_task("I-10", story.id(), Some(event.at), "a decision that may not be", evidence));
        }
        let again = decided_before(&decided.decision, event, story);
        if again {
            let evidence = format!("{:?}", decided.decision);
            found.push(Violation::of_task("I-10", story.id(), Some(event.at), "the same was decided again", evidence));
        }
    }
}

fn decided_before(decision: &Decision, event: &Event, story: &Story<'_>) -> bool {
    let same = |other: &Decision| match (decision, other) {
        (Decision::RetryOnFallback { model: one }, Decision::RetryOnFallback { model: other }) => one == other,
        (Decision::Reassign { agent: one, .. }, Decision::Reassign { agent: other, .. }) => one == other,
        (Decision::PageHuman { .. }, _) => false,
        (one, other) => one.kind() == other.kind(),
    };
    let before = story.events.iter().take_while(|earlier| earlier.seq < event.seq);
    before.filter_map(|earlier| of(earlier)).any(|(_, other)| other.by != DeciderKind::Human && same(&other.decision))
}

fn forbidden(case: &Case<'_>, story: &Story<'_>, agent: &AgentName, decided: &Decided) -> Option<&'static str> {
    let agents = &case.run.config.agents;
    let pays = story.asked.effect == Effect::Payment;
    let begun = !story.calls.is_empty();
    match &decided.decision {
        Decision::PageHuman { .. } | Decision::Discard { .. } => None,
        Decision::Resolve { .. } | Decision::RunAgain { .. } => Some("only a person may decide that"),
        Decision::Park { .. } if pays && begun => Some("a payment is a person's"),
        Decision::Park { .. } => None,
        _ if pays => Some("a payment is a person's"),
        Decision::RetryAfterCheck { .. } => None,
        Decision::RetryOnFallback { model } => {
            let allowed = agents.get(agent).is_some_and(|agent| agent.fallback_models.contains(model));
            (!allowed).then_some("the model is on no list of its agent")
        }
        Decision::Reassign { agent: to, .. } => {
            // Who stands in for the one it was meant for stands in whoever has it by now.
            let meant_for = story.record.map(|record| &record.task.agent);
            let covers =
                |to: &Agent| [Some(agent), meant_for].into_iter().flatten().any(|of| to.covers_for.contains(of));
            let takes = |to: &Agent| covers(to) || to.handles(&story.asked.task_type);
            (!agents.get(to).is_some_and(takes)).then_some("the agent cannot do it")
        }
    }
}

/// I-09: nothing lies undecided.
fn in_time(case: &Case<'_>, story: &Story<'_>, found: &mut Vec<Violation>) {
    for (place, event) in story.events.iter().enumerate() {
        if !matches!(event.what, Happening::DeadLettered { .. }) {
            continue;
        }
        let next = story.events[place + 1..].iter().find(|later| {
            matches!(later.what, Happening::Decided { .. } | Happening::Replayed { .. } | Happening::Cancelled { .. })
        });
        let until = next.map_or_else(|| case.clock(case.run.elapsed), |next| next.at);
        let late = event.at + TRIAGE < until && case.was_well(event.at, event.at + TRIAGE);
        if late {
            let evidence = format!("given up at {}, decided {:?}", event.at, next.map(|next| next.at));
            found.push(Violation::of_task("I-09", story.id(), Some(event.at), "a dead letter lay undecided", evidence));
        }
    }
    let Some(record) = story.record else { return };
    let open = record.letter.as_ref().is_some_and(|letter| letter.status == LetterStatus::Open);
    if record.state == State::Dead && open {
        found.push(Violation::of_task(
            "I-09",
            story.id(),
            None,
            "a dead letter was never decided about",
            String::new(),
        ));
    }
    // Who waits for a person must have one who was called.
    let asks =
        |event: &Event| of(event).is_some_and(|(_, decided)| matches!(decided.decision, Decision::PageHuman { .. }));
    for (place, event) in story.events.iter().enumerate().filter(|(_, event)| asks(event)) {
        // What was over before anybody need have looked, or while nothing could be written, may be in no incident of its own.
        let until = story.events.get(place + 1).map_or_else(|| case.clock(case.run.elapsed), |next| next.at);
        let lasted = event.at + CALLED < until && case.was_well(event.at, event.at + CALLED);
        let called = called_for(case, story, lasted.then_some(event.at));
        if !called {
            let evidence = "no incident with it was taken by any channel, or each was over before it waited".to_owned();
            found.push(Violation::of_task(
                "I-09",
                story.id(),
                Some(event.at),
                "a person is waited for and nobody was called",
                evidence,
            ));
        }
    }
}

/// Was anybody called for this task, and if it has waited `since` then: for this wait? A call for an earlier round, which
/// somebody has answered, brings nobody a second time. Whether the later call arrived is for I-12 to say.
fn called_for(case: &Case<'_>, story: &Story<'_>, since: Option<Timestamp>) -> bool {
    let with_it = |incident: &&Incident| {
        incident.deaths.iter().any(|(task, _)| *task == story.id()) || incident.subject == story.id().to_string()
    };
    let with_it: Vec<&Incident> = case.run.incidents.iter().filter(with_it).collect();
    let taken = |id: &str| case.run.books.pages.iter().any(|page| page.incident == id && page.taken);
    // The end is the last that changes an incident.
    let open = |since: Timestamp| with_it.iter().any(|incident| incident.is_open() || incident.updated_at >= since);
    with_it.iter().any(|incident| taken(&incident.id)) && since.is_none_or(open)
}
