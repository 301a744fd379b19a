//! What a scenario asks for and can never be: of its team, and of its own timeline.
//!
//! A scenario that says something without a meaning is played as another one than was meant, and proves nothing; so it is
//! refused before anything runs. Who reads the file knows each word by itself; here is what only the whole shows.

use std::time::Duration;

use crate::agent::{ModelRef, matches_pattern};
use crate::config::Config;
use crate::scenario::{Arrival, FaultKind, MOST_TASKS, Scenario, When};
use crate::spelling::nearest;
use crate::task::{AgentName, Integration};
use crate::time::format_duration;

/// Something in a scenario that cannot be, with where it stands: the path of its key, with dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// Where, such as `faults.2.provider`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Everything in a scenario that its team or its own timeline makes impossible.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a constant far below 2^53")]
pub fn impossible(scenario: &Scenario, config: &Config) -> Vec<Impossible> {
    let mut found = Vec::new();
    let mut wrong = |path: String, message: String, remedy: String| found.push(Impossible { path, message, remedy });
    let agents = || config.agents.keys().map(AgentName::as_str);
    let providers = || config.providers.keys().map(Integration::as_str);
    for (place, load) in scenario.load.iter().enumerate() {
        let of = |key: &str| format!("load.{place}.{key}");
        if !config.agents.values().any(|agent| agent.handles(&load.task_type)) {
            let handled = config.agents.values().flat_map(|agent| &agent.handles).map(String::as_str);
            wrong(
                of("type"),
                format!("no agent handles `{}`", load.task_type),
                one_of(load.task_type.as_str(), handled),
            );
        }
        if let Some(name) = &load.agent {
            match config.agents.get(name) {
                None => wrong(of("agent"), format!("there is no agent `{name}`"), one_of(name.as_str(), agents())),
                Some(agent) if !agent.handles(&load.task_type) => {
                    let remedy = "name an agent that does, or leave `agent` out".to_owned();
                    wrong(of("agent"), format!("{name} does not handle `{}`", load.task_type), remedy);
                }
                Some(_) => {}
            }
        }
        let expected = load.expected(scenario.run);
        if expected > MOST_TASKS as f64 {
            wrong(format!("load.{place}"), too_many("tasks", expected), FEWER.to_owned());
        }
        let by_moments = matches!(load.arrival, Arrival::At(_));
        let until = load.until.min(scenario.run);
        if load.from >= scenario.run && !by_moments {
            let message = format!("begins at {}, when the run is over", format_duration(load.from));
            wrong(of("from"), message, format!("begin before `run: {}`", format_duration(scenario.run)));
        } else if load.until <= load.from && !by_moments {
            wrong(
                of("until"),
                "ends before it begins".to_owned(),
                format!("write more than {}", format_duration(load.from)),
            );
        } else if let Some(last) = load.last().filter(|last| *last > until) {
            let message =
                format!("the last task comes at {}, and work until {}", format_duration(last), format_duration(until));
            wrong(of("over"), message, "let it come earlier, or over a shorter span".to_owned());
        }
    }
    let all: f64 = scenario.load.iter().map(|load| load.expected(scenario.run)).sum();
    if all > MOST_TASKS as f64 && scenario.load.iter().all(|load| load.expected(scenario.run) <= MOST_TASKS as f64) {
        wrong("load".to_owned(), too_many("tasks", all), FEWER.to_owned());
    }
    for (pattern, _) in &scenario.models {
        let names: Vec<String> = asked(config).map(ToString::to_string).collect();
        let fits =
            |model: &ModelRef| matches_pattern(pattern, &model.to_string()) || matches_pattern(pattern, &model.model);
        // All models of a provider that is there is a plain thing to say, even when nobody asks one of them now.
        let whole = pattern.strip_suffix("/*").is_some_and(|provider| providers().any(|known| known == provider));
        if !whole && !asked(config).any(fits) {
            let message = format!("no agent asks a model that fits `{pattern}`");
            wrong(format!("models.{pattern}"), message, one_of(pattern, names.iter().map(String::as_str)));
        }
    }
    for (place, fault) in scenario.faults.iter().enumerate() {
        let of = |key: &str| format!("faults.{place}.{key}");
        if let When::At(at) = fault.when
            && at >= scenario.run
        {
            let message = format!("strikes at {}, when the run is over", format_duration(at));
            wrong(of("at"), message, format!("strike before `run: {}`", format_duration(scenario.run)));
        }
        for provider in &fault.scope.providers {
            if !config.providers.contains_key(provider) {
                let message = format!("there is no provider `{provider}`");
                wrong(of("provider"), message, one_of(provider.as_str(), providers()));
            }
        }
        if let Some(name) = &fault.scope.agent
            && !config.agents.contains_key(name)
        {
            wrong(of("agent"), format!("there is no agent `{name}`"), one_of(name.as_str(), agents()));
        }
        if let Some(pattern) = &fault.scope.model {
            let names: Vec<String> = asked(config).map(|model| model.model.clone()).collect();
            if !names.iter().any(|name| matches_pattern(pattern, name)) {
                let message = format!("no agent asks a model that fits `{pattern}`");
                wrong(of("model"), message, one_of(pattern, names.iter().map(String::as_str)));
            }
        }
        let expected = fault.expected(scenario.run);
        if expected > MOST_TASKS as f64 {
            wrong(of("every"), too_many("strikes", expected), FEWER.to_owned());
        }
        if fault.kind == FaultKind::AdviserDown && config.ceo.adviser.is_none() {
            let remedy = "give the team one in backstop.yaml: ceo.adviser".to_owned();
            wrong(of("fault"), "the CEO of this team asks no model".to_owned(), remedy);
        }
    }
    for (region, members) in &scenario.regions {
        for provider in members.iter().filter(|provider| !config.providers.contains_key(*provider)) {
            let message = format!("there is no provider `{provider}`");
            wrong(format!("regions.{region}"), message, one_of(provider.as_str(), providers()));
        }
    }
    found.extend(overlaps(scenario));
    found
}

/// What to do about too many.
const FEWER: &str = "let less come, or run for a shorter time";

fn too_many(what: &str, expected: f64) -> String {
    format!("it comes to {expected:.0} {what}, and at most {MOST_TASKS} can be played")
}

/// Every model that somebody in the team asks.
fn asked(config: &Config) -> impl Iterator<Item = &ModelRef> {
    let models = config.agents.values().flat_map(|agent| std::iter::once(&agent.model).chain(&agent.fallback_models));
    models.chain(config.ceo.adviser.iter().map(|adviser| &adviser.model))
}

/// A process that is dead cannot die. One that dies again and again may by chance be dead already when it is killed, and
/// then stays dead for as long as the longer of the two says.
fn overlaps(scenario: &Scenario) -> Vec<Impossible> {
    let mut deaths: Vec<(Duration, Duration, usize)> = Vec::new();
    for (place, fault) in scenario.faults.iter().enumerate() {
        if let (FaultKind::ProcessKill, When::At(at)) = (fault.kind, fault.when) {
            deaths.push((at, at + fault.lasts.1, place));
        }
    }
    deaths.sort();
    let mut dead_until = Duration::ZERO;
    let mut found = Vec::new();
    for (at, until, place) in deaths {
        if at < dead_until {
            found.push(Impossible {
                path: format!("faults.{place}.at"),
                message: format!("the process is dead already, until {}", format_duration(dead_until)),
                remedy: "kill it when it is up again".to_owned(),
            });
        }
        dead_until = dead_until.max(until);
    }
    found
}

fn one_of<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", known.join(", ")),
    }
}
