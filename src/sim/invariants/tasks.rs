//! Tasks: none lost, none invented, none done twice, none tried more often, sooner or otherwise than its rules allow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;
use super::case::{Case, Claim, Story};
use crate::balance::Balance;
use crate::delivery::Hold;
use crate::event::Happening;
use crate::failure::Kind;
use crate::retry::{Backoff, Jitter, RetryPolicy};
use crate::scenario::{FaultKind, Window};
use crate::sim::play::books::CallEnd;
use crate::task::{Effect, TaskId};
use crate::time::Timestamp;

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    ledger(case, found);
    for story in &case.stories {
        once(story, found);
        leases(story, found);
        lapsed(case, story, found);
        attempts(case, story, found);
        classes(case, story, found);
        backoff(case, story, found);
    }
    drained(case, found);
    handed_back(case, found);
}

/// I-01, I-02, I-27, I-31.
fn ledger(case: &Case<'_>, found: &mut Vec<Violation>) {
    let run = case.run;
    let asked: BTreeSet<TaskId> = run.books.asked.iter().map(|asked| asked.id).collect();
    for story in case.stories.iter().filter(|story| story.record.is_none()) {
        let evidence = format!("acknowledged as ticket {} after {:?}", story.asked.number, story.asked.at);
        found.push(Violation::of_task("I-01", story.id(), None, "an acknowledged task is not in the store", evidence));
    }
    for record in run.records.iter().filter(|record| !asked.contains(&record.task.id)) {
        let evidence = record.task.payload.to_string();
        found.push(Violation::of_task("I-02", record.task.id, None, "a task that nobody submitted", evidence));
    }
    let mut counted = Balance::default();
    run.records.iter().for_each(|record| counted.add(record.state));
    if counted != run.balance || run.balance.lost() != 0 {
        let evidence = format!("{:?}, but the records come to {counted:?}", run.balance);
        found.push(Violation::of_run("I-27", "the balance is not what the records come to", evidence));
    }
    let mut tickets: BTreeMap<u64, TaskId> = BTreeMap::new();
    for asked in &run.books.asked {
        if *tickets.entry(asked.number).or_insert(asked.id) != asked.id {
            let evidence = format!("ticket {} is two tasks", asked.number);
            found.push(Violation::of_task("I-31", asked.id, None, "one key became two tasks", evidence));
        }
    }
    for (first, again) in &run.books.asked_again {
        let same = again.as_ref().is_ok_and(|again| again == first);
        // A store that took nothing said so, and named no other task.
        if !same && again.is_ok() {
            found.push(Violation::of_task("I-31", *first, None, "one key became two tasks", format!("{again:?}")));
        }
    }
}

/// I-03: done once, and never worked on again.
fn once(story: &Story<'_>, found: &mut Vec<Violation>) {
    let done = story.events.iter().filter(|event| matches!(event.what, Happening::Done { .. }));
    let done: Vec<_> = done.collect();
    let Some(first) = done.first() else { return };
    if done.len() > 1 {
        let evidence = format!("events {:?}", done.iter().map(|event| event.seq).collect::<Vec<_>>());
        found.push(Violation::of_task("I-03", story.id(), Some(done[1].at), "it was done twice", evidence));
    }
    if let Some(late) = story.calls.iter().find(|call| call.clock > first.at) {
        let evidence = format!("done at {}, and {} was asked again", first.at, late.model);
        found.push(Violation::of_task(
            "I-03",
            story.id(),
            Some(late.clock),
            "it was worked on after it was done",
            evidence,
        ));
    }
}

/// I-04: one holder at a time, fences only grow, and nobody works without holding it.
fn leases(story: &Story<'_>, found: &mut Vec<Violation>) {
    let mut wrong =
        |at, text: &str, evidence| found.push(Violation::of_task("I-04", story.id(), Some(at), text, evidence));
    for pair in story.claims.windows(2) {
        if pair[1].fence <= pair[0].fence {
            wrong(pair[1].from, "a fence did not grow", format!("{} after {}", pair[1].fence, pair[0].fence));
        }
        if pair[0].end.is_none() {
            let evidence = format!("{} holds it under fence {}", pair[0].agent, pair[0].fence);
            wrong(pair[1].from, "it was claimed while it was held", evidence);
        }
    }
    for call in &story.calls {
        if story.claim_of(call).is_none() {
            let evidence = format!("{:?} asked {} (ended {:?})", call.agent, call.model, call.ended);
            wrong(call.clock, "a model was asked by somebody who did not hold the task", evidence);
        }
    }
    let mut holder: Option<(u32, u32)> = None;
    for event in &story.events {
        #[allow(clippy::wildcard_enum_match_arm, reason = "only the beginning and the result of a delivery count here")]
        match &event.what {
            Happening::Claimed { generation, attempt, .. } => holder = Some((*generation, *attempt)),
            Happening::Done { generation, attempt, .. } if holder.take() != Some((*generation, *attempt)) => {
                let evidence = format!("event {}, of round {generation}, delivery {attempt}", event.seq);
                wrong(event.at, "a result was taken from somebody who did not hold the task", evidence);
            }
            Happening::RetryScheduled { .. } | Happening::Released { .. } | Happening::DeadLettered { .. } => {
                holder = None
            }
            _ => {}
        }
    }
}

/// I-04: nothing can be renewed on a full disk, so a lease granted before is over when it was full for as long as a lease
/// lasts; whoever worked under it completes nothing any more, whether or not anybody noticed.
fn lapsed(case: &Case<'_>, story: &Story<'_>, found: &mut Vec<Violation>) {
    let full = |window: &&Window| {
        let fault = &case.scenario.faults[window.fault];
        fault.kind == FaultKind::DiskFull && fault.flap.is_none()
    };
    for window in case.run.windows.iter().filter(full) {
        let full_from = case.clock(window.from);
        // In calm weather no disk is full.
        let full_until = case.clock(window.until.min(case.scenario.run));
        // Where a later process went by a clock that was set back, what it claimed long after looks as if it were from before.
        let set_back = |(at, shown): &(Duration, Timestamp)| {
            *at > window.from && *shown + Duration::from_secs(1) < full_from + (*at - window.from)
        };
        if case.run.books.starts.iter().any(set_back) {
            continue;
        }
        for claim in story.claims.iter().filter(|claim| claim.from <= full_from) {
            let over = full_from + policy(case, story, claim).ack_wait;
            let Some(end) = claim.end.filter(|end| matches!(end.what, Happening::Done { .. })) else { continue };
            if over <= full_until && over < end.at {
                let evidence = format!(
                    "{} held it from {}; the disk was full from {full_from} until {full_until}, and the lease over at {over} at the latest",
                    claim.agent, claim.from
                );
                let text = "a result was taken under a lease that was over";
                found.push(Violation::of_task("I-04", story.id(), Some(end.at), text, evidence));
            }
        }
    }
}

/// I-05: no more deliveries than the policy allows, by what the models saw.
fn attempts(case: &Case<'_>, story: &Story<'_>, found: &mut Vec<Violation>) {
    let mut rounds: BTreeMap<u32, Vec<&Claim<'_>>> = BTreeMap::new();
    for claim in &story.claims {
        rounds.entry(claim.generation).or_default().push(claim);
    }
    for (generation, claims) in rounds {
        let limit = claims.iter().map(|claim| limit(case, story, claim)).max().unwrap_or(1);
        let given_back =
            |claim: &&&Claim<'_>| claim.end.is_some_and(|end| matches!(end.what, Happening::Released { .. }));
        let counted = claims.iter().filter(|claim| !given_back(claim)).count();
        let asks = |claim: &&Claim<'_>| story.calls.iter().filter(|call| claim.holds(call)).count();
        // Without tools each delivery asks once, at most.
        let asked: usize = claims.iter().map(|claim| asks(claim).min(1)).sum();
        let released = claims.iter().filter(given_back).count();
        if counted > limit as usize || asked > limit as usize + released {
            let evidence = format!(
                "round {generation}: {counted} deliveries, {asked} with a call, {released} given back; {limit} allowed"
            );
            found.push(Violation::of_task(
                "I-05",
                story.id(),
                claims.last().map(|claim| claim.from),
                "it was delivered too often",
                evidence,
            ));
        }
        for claim in claims.iter().filter(|claim| !has_tools(case, claim)) {
            let calls = asks(claim);
            let neighbours =
                story.claims.iter().filter(|other| other.from == claim.until() || other.until() == claim.from).count();
            if calls > 1 + neighbours {
                let evidence = format!("{calls} calls in delivery {} of round {generation}", claim.attempt);
                found.push(Violation::of_task(
                    "I-05",
                    story.id(),
                    Some(claim.from),
                    "one delivery asked several times",
                    evidence,
                ));
            }
        }
    }
}

fn has_tools(case: &Case<'_>, claim: &Claim<'_>) -> bool {
    case.run.config.agents.get(claim.agent).is_some_and(|agent| !agent.tools.is_empty())
}

fn policy(case: &Case<'_>, story: &Story<'_>, claim: &Claim<'_>) -> RetryPolicy {
    let config = &case.run.config;
    let integration = config.agents.get(claim.agent).map(|agent| agent.model.provider.clone());
    integration.map_or_else(
        || config.retry.clone(),
        |integration| config.policy(&story.asked.task_type, claim.agent, &integration).policy,
    )
}

fn limit(case: &Case<'_>, story: &Story<'_>, claim: &Claim<'_>) -> u32 {
    let acts_by_tools = has_tools(case, claim);
    match story.asked.effect {
        Effect::Payment if !acts_by_tools => 1,
        Effect::Payment | Effect::ReadOnly | Effect::Notification | Effect::Mutation => {
            policy(case, story, claim).max_deliveries
        }
    }
}

/// What a call met that trying again cannot help.
const HOPELESS: [FaultKind; 2] = [FaultKind::Refusal, FaultKind::Loop];

/// I-18: what is hopeless is tried once; what was faulty is told so.
fn classes(case: &Case<'_>, story: &Story<'_>, found: &mut Vec<Violation>) {
    for pair in story.calls.windows(2) {
        let (Some(one), Some(other)) = (story.claim_of(pair[0]), story.claim_of(pair[1])) else { continue };
        let same_round = one.generation == other.generation && one.fence != other.fence;
        let answered = pair[0].ended.is_some_and(|(_, end)| end == CallEnd::Flawed);
        if !same_round || !answered {
            continue;
        }
        let at = Some(pair[1].clock);
        let known = || case.could_be_written(pair[0], pair[1], policy(case, story, one).ack_wait);
        // Of an agent with tools a circle is several calls of one delivery.
        let hopeless = |met: &FaultKind| HOPELESS.contains(met) && !has_tools(case, one) && known();
        if let Some(met) = case.met(pair[0]).filter(hopeless) {
            let evidence = format!("met {met} and was asked again in round {}", one.generation);
            found.push(Violation::of_task("I-18", story.id(), at, "what cannot be helped was tried again", evidence));
        }
        // Only an answer that was taken and refused: one that came too late, or to nobody, corrects nothing. It is told in
        // the prompt that is said anew, or, where tools were used, in the conversation that goes on.
        let refused = one.end.is_some_and(
            |end| matches!(&end.what, Happening::RetryScheduled { failure, .. } if failure.kind == Kind::MissingField),
        );
        if refused && !pair[1].prompt.contains("is required but missing") {
            let evidence = format!("asked then: {}", tail(&pair[1].prompt));
            let text = "it was asked again without being told what was wrong";
            found.push(Violation::of_task("I-18", story.id(), at, text, evidence));
        }
    }
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(300);
    text.chars().skip(skip).collect()
}

/// What a call met that passes by itself, after which a wait is due.
const PASSING: [FaultKind; 12] = [
    FaultKind::Overloaded,
    FaultKind::ServerError,
    FaultKind::Unavailable,
    FaultKind::Refused,
    FaultKind::Dns,
    FaultKind::ConnectTimeout,
    FaultKind::FirstByteTimeout,
    FaultKind::Hang,
    FaultKind::MidStreamTimeout,
    FaultKind::Truncated,
    FaultKind::Reset,
    FaultKind::RateLimited,
];

/// The shortest wait after the n-th delivery, taken from the policy's numbers and not from the code that draws it.
fn least_wait(policy: &RetryPolicy, attempt: u32) -> Duration {
    let nth = attempt.saturating_sub(1);
    let base = match &policy.backoff {
        Backoff::List(list) => list.get(nth as usize).or(list.last()).copied().unwrap_or_default(),
        Backoff::Exponential { initial, factor, cap } => {
            initial.mul_f64(factor.powi(i32::try_from(nth).unwrap_or(0)).min(1e6)).min(*cap)
        }
    };
    match policy.jitter {
        Jitter::None | Jitter::Additive(_) => base,
        Jitter::Around(spread) => base.mul_f64((1.0 - spread).max(0.0)),
        Jitter::Equal => base / 2,
        Jitter::Full | Jitter::Decorrelated => Duration::ZERO,
    }
}

/// I-19: nobody comes back sooner than the policy's wait with all its luck.
fn backoff(case: &Case<'_>, story: &Story<'_>, found: &mut Vec<Violation>) {
    for pair in story.calls.windows(2) {
        let (Some(one), Some(other)) = (story.claim_of(pair[0]), story.claim_of(pair[1])) else { continue };
        let failed = pair[0].ended.is_some_and(|(_, end)| end == CallEnd::Failed);
        let passing = case.met(pair[0]).is_some_and(|met| PASSING.contains(&met));
        let next = one.generation == other.generation && other.attempt == one.attempt + 1;
        let counted = one.end.is_some_and(|end| matches!(end.what, Happening::RetryScheduled { .. }));
        let Some(ended) = case.ended(pair[0]).filter(|_| failed && passing && next && counted) else { continue };
        let least = least_wait(&policy(case, story, one), one.attempt);
        if pair[1].clock < ended + least {
            let evidence = format!("{} after it failed at {ended}; at least {least:?} is due", pair[1].clock);
            found.push(Violation::of_task(
                "I-19",
                story.id(),
                Some(pair[1].clock),
                "it was tried again too soon",
                evidence,
            ));
        }
    }
}

/// I-17: once nothing breaks any more, everything comes to its end.
fn drained(case: &Case<'_>, found: &mut Vec<Violation>) {
    let run = case.run;
    if let Some(at) = run.books.circled {
        let evidence = "the store was asked over and over while the clock stood still".to_owned();
        found.push(Violation::at("I-17", case.clock(at), "somebody in the team goes round in circles", evidence));
    }
    if run.at_rest && run.balance.settled() {
        return;
    }
    let ended = |record: &&crate::record::Record| {
        use crate::record::State;
        match record.state {
            State::Done | State::Cancelled => true,
            State::Dead => record.letter.as_ref().is_none_or(|letter| !letter.is_open()),
            State::Ready | State::Scheduled | State::Parked | State::Running | State::WaitingHuman => false,
        }
    };
    let mut left = run.records.iter().filter(|record| !ended(record));
    let first = left.next().map(|record| {
        format!(
            "; the first is {} of {} for {}, {}, due {}, round {}, {:?}",
            record.task.id,
            record.task.task_type,
            record.agent,
            record.state,
            record.due,
            record.generation,
            record.last_failure().map(|failure| &failure.message)
        )
    });
    let evidence = format!("{:?}{}", run.balance, first.unwrap_or_default());
    found.push(Violation::of_run("I-17", "it never came to rest", evidence));
}

/// I-32: a process that is told to stop claims nothing more, and what it hands back has cost no attempt.
///
/// The next process ends the draining when it starts, by the books: while the disk is full it starts all the same, and
/// its feed cannot say so.
fn handed_back(case: &Case<'_>, found: &mut Vec<Violation>) {
    let started = |since: Timestamp, until: Timestamp| {
        case.run.books.starts.iter().skip(1).any(|(_, shown)| since <= *shown && *shown <= until)
    };
    let mut draining = None;
    for event in &case.run.events {
        #[allow(clippy::wildcard_enum_match_arm, reason = "only claims, between the word and the next start")]
        match &event.what {
            Happening::Draining { .. } => draining = Some(event.at),
            Happening::TeamStarted { .. } => draining = None,
            Happening::Claimed { agent, .. } => {
                // What was being handed out at that very moment was before it.
                if let Some(since) = draining.filter(|since| event.at > *since && !started(*since, event.at)) {
                    let evidence = format!("{agent} claimed {:?} after {since}", event.task);
                    found.push(Violation::at("I-32", event.at, "work was begun while the team drained", evidence));
                }
            }
            _ => {}
        }
    }
    for story in &case.stories {
        for pair in story.claims.windows(2) {
            let drained =
                pair[0].end.is_some_and(|end| matches!(end.what, Happening::Released { why: Hold::Drain, .. }));
            if drained && pair[0].generation == pair[1].generation && pair[1].attempt != pair[0].attempt {
                let evidence = format!("delivery {} before, {} after", pair[0].attempt, pair[1].attempt);
                found.push(Violation::of_task(
                    "I-32",
                    story.id(),
                    Some(pair[1].from),
                    "what was handed back cost an attempt",
                    evidence,
                ));
            }
        }
    }
}
