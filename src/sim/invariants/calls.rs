//! Calls of each provider: none while its breaker is open, none before it asked for, none beyond the budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;
use super::case::Case;
use crate::agent::ModelRef;
use crate::event::Happening;
use crate::prices;
use crate::scenario::FaultKind;
use crate::sim::play::books::{Call, CallEnd};
use crate::task::{AgentName, Integration, TaskId};
use crate::time::Timestamp;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    let mut of: BTreeMap<&Integration, Vec<&Call>> = BTreeMap::new();
    for call in &case.run.books.calls {
        of.entry(&call.provider).or_default().push(call);
    }
    for (provider, calls) in &of {
        breaker(case, provider, calls, found);
        gate(case, provider, calls, found);
        retries(case, provider, calls, found);
    }
    money(case, found);
}

/// How a breaker stood, since when, until the next change.
struct Stand<'a> {
    state: &'a str,
    from: Timestamp,
    until: Timestamp,
    /// When it is to let a probe through, if it said so.
    probe_at: Option<Timestamp>,
}

fn stands<'a>(case: &'a Case<'_>, provider: &Integration) -> Vec<Stand<'a>> {
    let mut stands: Vec<Stand<'a>> = Vec::new();
    let end = Timestamp::from_millis(i64::MAX);
    for event in &case.run.events {
        if let Happening::BreakerChanged { integration, to, until, .. } = &event.what
            && integration == provider
        {
            if let Some(last) = stands.last_mut() {
                last.until = event.at;
            }
            stands.push(Stand { state: to, from: event.at, until: end, probe_at: *until });
        }
    }
    stands
}

/// I-13: open, nobody calls; half-open, one does; and enough failures in a row open it.
fn breaker(case: &Case<'_>, provider: &Integration, calls: &[&Call], found: &mut Vec<Violation>) {
    let config = case.run.config.providers.get(provider).and_then(|own| own.breaker.as_ref());
    let config = config.unwrap_or(&case.run.config.breaker);
    let stands = stands(case, provider);
    for stand in &stands {
        let shut = match (stand.state, stand.probe_at) {
            ("open" | "forced-open", Some(probe_at)) => probe_at.min(stand.until),
            ("open" | "forced-open", None) => stand.until,
            _ => stand.from,
        };
        // A person let it go; while the disk was full the feed could not say so.
        let let_go = let_go(case, provider).into_iter().filter(|at| *at >= stand.from).min();
        let shut = let_go.map_or(shut, |at| at.min(shut));
        if let Some(call) = calls.iter().find(|call| stand.from < call.clock && call.clock < shut) {
            let evidence =
                format!("{provider} is {} from {} until {shut}; {:?} called", stand.state, stand.from, call.agent);
            found.push(Violation::at("I-13", call.clock, "a call went through an open breaker", evidence));
        }
        // From the moment a probe may pass until somebody says that it closed.
        let half = match stand.state {
            "open" => stand.probe_at.unwrap_or(stand.until).max(stand.from),
            "half-open" => stand.from,
            _ => continue,
        };
        // The first probe begins in the very moment in which it is told that one may.
        let began = calls.iter().filter(|call| half <= call.clock && call.clock < stand.until);
        let mut out: Vec<&&Call> = Vec::new();
        for call in began {
            out.retain(|other| case.ended(other).is_none_or(|ended| ended > call.clock));
            out.push(call);
            if out.len() > config.permits as usize {
                let evidence = format!("{} calls of {provider} are out at once", out.len());
                found.push(Violation::at("I-13", call.clock, "a half-open breaker let too many through", evidence));
                break;
            }
        }
    }
    never_opened(case, provider, calls, &stands, found);
    never_told(case, provider, &stands, found);
}

/// What a person let go is told to be closed, if not at once (the disk was full), then when it can be; else the next
/// process would hold everybody again, and nobody would be called for it.
fn never_told(case: &Case<'_>, provider: &Integration, stands: &[Stand<'_>], found: &mut Vec<Violation>) {
    let Some(last) = stands.last().filter(|last| last.state == "forced-open" && last.probe_at.is_none()) else {
        return;
    };
    if let Some(at) = let_go(case, provider).into_iter().find(|at| *at >= last.from && case.run.at_rest) {
        let evidence = format!("{provider} is forced-open since {}; it was let go at {at}", last.from);
        found.push(Violation::at("I-13", at, "that a person closed a breaker was never told", evidence));
    }
}

/// Failures that count for every vendor, whatever the wire.
const COUNTED: [FaultKind; 2] = [FaultKind::ServerError, FaultKind::Unavailable];

fn never_opened(
    case: &Case<'_>,
    provider: &Integration,
    calls: &[&Call],
    stands: &[Stand<'_>],
    found: &mut Vec<Violation>,
) {
    let config = case.run.config.providers.get(provider).and_then(|own| own.breaker.as_ref());
    let config = config.unwrap_or(&case.run.config.breaker);
    let failed = |call: &&&Call| {
        let met = case.met(call).is_some_and(|met| COUNTED.contains(&met)) && !call.adviser;
        met && call.ended.is_some_and(|(_, end)| end == CallEnd::Failed)
    };
    let mut failures: Vec<(Timestamp, Timestamp)> =
        calls.iter().filter(failed).filter_map(|call| Some((case.ended(call)?, call.clock))).collect();
    failures.sort_unstable();
    for several in failures.windows(config.failures as usize) {
        let (first, last) = (several[0].0, several[several.len() - 1].0);
        let began = several.iter().map(|(_, began)| *began).min().unwrap_or(first);
        let in_window = last.since(first) < config.window;
        // Whoever changed it meanwhile began to count anew.
        let changed = stands.iter().any(|stand| began <= stand.from && stand.from <= last + Duration::from_secs(1));
        let stood = stands.iter().rev().find(|stand| stand.from <= began).map_or("closed", |stand| stand.state);
        if in_window && !changed && stood == "closed" && case.was_well(began, last + Duration::from_secs(1)) {
            let evidence = format!("{} failures of {provider} from {first} to {last}", several.len());
            found.push(Violation::at("I-13", last, "a breaker did not open", evidence));
            return;
        }
    }
}

/// When a person closed the breaker of a provider.
fn let_go(case: &Case<'_>, provider: &Integration) -> Vec<Timestamp> {
    let words = case.run.books.words.iter();
    let closed = words.filter(|word| word.what == "close-breaker" && word.about == provider.as_str());
    closed.map(|word| case.clock(word.at)).collect()
}

/// I-14: nobody comes before the time that was asked for.
fn gate(case: &Case<'_>, provider: &Integration, calls: &[&Call], found: &mut Vec<Violation>) {
    let let_go = let_go(case, provider);
    for call in calls {
        let (Some(hint), Some(ended)) = (call.retry_after, case.ended(call)) else { continue };
        let heard = call.ended.is_some_and(|(_, end)| end == CallEnd::Failed);
        let until = ended + hint.min(DAY);
        // Nobody can keep a promise over a restart that could not be written down.
        if !heard || !case.was_well(ended, ended) {
            continue;
        }
        let early = calls.iter().find(|other| {
            let freed = let_go.iter().any(|at| ended <= *at && *at <= other.clock);
            ended < other.clock && other.clock < until && !freed
        });
        if let Some(early) = early {
            let evidence =
                format!("{provider} asked at {ended} for {hint:?}; {:?} called at {}", early.agent, early.clock);
            found.push(Violation::at("I-14", early.clock, "a call came before the time that was asked for", evidence));
            return;
        }
    }
}

/// I-15: retries are a share of first tries, and a reserve.
fn retries(case: &Case<'_>, provider: &Integration, calls: &[&Call], found: &mut Vec<Violation>) {
    // The defaults of the budget, in its own words: one in five, and ten a second, over ten seconds.
    const TTL: Duration = Duration::from_secs(10);
    const RESERVE: f64 = 100.0;
    const SHARE: f64 = 0.2;
    let attempts: BTreeMap<TaskId, &super::case::Story<'_>> =
        case.stories.iter().map(|story| (story.id(), story)).collect();
    let mut recent: Vec<(Timestamp, bool)> = Vec::new();
    for call in calls {
        let claim = call.task.and_then(|task| attempts.get(&task)).and_then(|story| story.claim_of(call));
        let Some(claim) = claim else { continue };
        recent.retain(|(at, _)| call.clock.since(*at) < TTL);
        recent.push((call.clock, claim.attempt > 1));
        let again = recent.iter().filter(|(_, again)| *again).count() as f64;
        let first = recent.len() as f64 - again;
        if again > RESERVE + SHARE * first + 1.0 {
            let evidence = format!("{again} retries beside {first} first tries of {provider} within {TTL:?}");
            found.push(Violation::at("I-15", call.clock, "more was retried than the budget allows", evidence));
            return;
        }
    }
}

/// I-16: by the providers' bill, no cap is ever passed.
fn money(case: &Case<'_>, found: &mut Vec<Violation>) {
    let config = &case.run.config;
    let bill = |call: &Call| {
        let model = ModelRef { provider: call.provider.clone(), model: call.model.clone() };
        prices::price(call.usage, &config.model_facts(&model)).unwrap_or(0)
    };
    let mut by_task: BTreeMap<TaskId, u64> = BTreeMap::new();
    let mut agents: BTreeMap<TaskId, BTreeSet<&AgentName>> = BTreeMap::new();
    for call in case.run.books.calls.iter().filter(|call| !call.adviser) {
        if let Some(task) = call.task {
            *by_task.entry(task).or_default() += bill(call);
            agents.entry(task).or_default().extend(&call.agent);
        }
    }
    for story in &case.stories {
        let spent = by_task.get(&story.id()).copied().unwrap_or(0);
        let of_agents = agents.get(&story.id()).into_iter().flatten();
        // Whoever had it, the widest of their caps was in force at the end.
        let cap = of_agents.map(|agent| config.caps(&story.asked.task_type, agent).task.unwrap_or(u64::MAX)).max();
        if let Some(cap) = cap.filter(|cap| spent > *cap) {
            let evidence = format!("{spent} of {cap} millionths of a dollar");
            found.push(Violation::of_task("I-16", story.id(), None, "a task cost more than it may", evidence));
        }
    }
    for (cap, span, what) in
        [(config.budget.micro_usd_per_hour, HOUR, "an hour"), (config.budget.micro_usd_per_day, DAY, "a day")]
    {
        let Some(cap) = cap else { continue };
        let mut recent: std::collections::VecDeque<(Timestamp, u64)> = std::collections::VecDeque::new();
        let mut sum = 0;
        for call in &case.run.books.calls {
            while recent.front().is_some_and(|(at, _)| call.clock.since(*at) >= span) {
                sum -= recent.pop_front().map_or(0, |(_, bill)| bill);
            }
            recent.push_back((call.clock, bill(call)));
            sum += bill(call);
            if sum > cap {
                let evidence = format!("{sum} of {cap} millionths of a dollar");
                found.push(Violation::at(
                    "I-16",
                    call.clock,
                    format!("the team spent more in {what} than it may"),
                    evidence,
                ));
                break;
            }
        }
    }
    advice(case, &bill, found);
}

fn advice(case: &Case<'_>, bill: &dyn Fn(&Call) -> u64, found: &mut Vec<Violation>) {
    let Some(adviser) = &case.run.config.ceo.adviser else { return };
    let asked: Vec<&Call> = case.run.books.calls.iter().filter(|call| call.adviser).collect();
    for (place, call) in asked.iter().enumerate() {
        let recent = asked[..=place].iter().filter(|other| call.clock.since(other.clock) < HOUR);
        let sum: u64 = recent.map(|call| bill(call)).sum();
        // It is asked while its money is not used up: the last call may pass the line, by one call at most.
        if sum > adviser.micro_usd_per_hour + bill(call) {
            let evidence = format!("{sum} of {} millionths of a dollar", adviser.micro_usd_per_hour);
            found.push(Violation::at("I-16", call.clock, "advice cost more than it may", evidence));
            return;
        }
    }
}
