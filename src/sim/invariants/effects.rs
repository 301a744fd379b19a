//! Effects: money moves at most once for each time a person allowed it, and nothing else happens twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;
use super::case::{Case, Story};
use crate::scenario::FaultKind;
use crate::sim::fuzz::bank::PROBE;
use crate::sim::play::books::{Call, CallEnd, Used};
use crate::task::{Effect, TaskId};

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    let mut allowed: BTreeMap<TaskId, usize> = BTreeMap::new();
    for word in &case.run.books.words {
        // A person who says that it did not happen, or that it is to be done again, allows it once more.
        if let Some(task) = word.task.filter(|_| matches!(word.what.as_str(), "run-again" | "did-not-happen")) {
            *allowed.entry(task).or_default() += 1;
        }
    }
    let mut of_ticket: BTreeMap<&str, Vec<&Used>> = BTreeMap::new();
    for used in case.run.books.tools.iter().filter(|used| used.tool != PROBE) {
        of_ticket.entry(used.ticket.as_str()).or_default().push(used);
    }
    for story in &case.stories {
        let allowed = allowed.get(&story.id()).copied().unwrap_or(0);
        if story.asked.effect == Effect::Payment {
            asked_to_pay(case, story, allowed, found);
        }
        let ticket = format!("T-{:05}", story.asked.number);
        tools(story, of_ticket.get(ticket.as_str()).map_or(&[][..], Vec::as_slice), allowed, found);
    }
}

/// I-06, for agents without tools: asking is paying.
fn asked_to_pay(case: &Case<'_>, story: &Story<'_>, allowed: usize, found: &mut Vec<Violation>) {
    let paid = story.calls.iter().filter(|call| {
        let refused = call.ended.is_some_and(|(_, end)| end == CallEnd::Failed);
        !(refused && turned_away(case, call))
    });
    let paid: Vec<_> = paid.collect();
    if paid.len() > 1 + allowed {
        let seen: Vec<String> =
            paid.iter().map(|call| format!("{} {} {:?}", call.clock, call.model, call.ended)).collect();
        let evidence = format!("asked {} times, allowed {}: {}", paid.len(), 1 + allowed, seen.join("; "));
        found.push(Violation::of_task(
            "I-06",
            story.id(),
            paid.last().map(|call| call.clock),
            "a payment was tried again by itself",
            evidence,
        ));
    }
}

/// The longest time an integration may ask for that is waited for like any other.
const PATIENCE: Duration = Duration::from_secs(300);

/// Turned away at the door nothing was done, and the whole integration waits until it lets somebody in: a delivery that
/// found it shut is none, and the call is made then. A limit that is over within minutes is turned away, too, but is an
/// ordinary failure: of a payment it goes to a person, so that to be asked again after one is a repetition.
fn turned_away(case: &Case<'_>, call: &Call) -> bool {
    match case.met(call) {
        Some(FaultKind::Quota | FaultKind::RevokedKey) => true,
        Some(FaultKind::RateLimited) => call.retry_after.is_some_and(|asked| asked > PATIENCE),
        Some(_) | None => false,
    }
}

/// I-06 and I-07, for agents with tools: by the shop's books.
fn tools(story: &Story<'_>, used: &[&Used], allowed: usize, found: &mut Vec<Violation>) {
    for tool in ["charge", "ship", "upsert"] {
        let calls: Vec<&&Used> = used.iter().filter(|used| used.tool == tool).collect();
        let keys: BTreeSet<&str> = calls.iter().map(|used| used.key.as_str()).collect();
        let done: Vec<&&&Used> = calls.iter().filter(|used| used.done).collect();
        let done_keys: BTreeSet<&str> = done.iter().map(|used| used.key.as_str()).collect();
        let last = calls.last().map(|used| used.clock);
        let told = || {
            let line = |used: &&&Used| format!("{} under {} (done: {})", used.clock, used.key, used.done);
            calls.iter().map(line).collect::<Vec<_>>().join("; ")
        };
        if tool == "charge" && calls.len() > 1 + allowed {
            let evidence = format!("charged {} times, allowed {}: {}", calls.len(), 1 + allowed, told());
            found.push(Violation::of_task("I-06", story.id(), last, "a payment was made again by itself", evidence));
        }
        if tool == "charge" && keys.len() > 1 {
            found.push(Violation::of_task("I-06", story.id(), last, "one payment went out under several keys", told()));
        }
        if tool == "ship" && done.len() > 1 {
            found.push(Violation::of_task("I-07", story.id(), last, "what knows no keys was done twice", told()));
        }
        if done_keys.len() > 1 {
            let text = format!("{tool} had its effect under several keys");
            found.push(Violation::of_task("I-07", story.id(), last, text, told()));
        }
    }
}
