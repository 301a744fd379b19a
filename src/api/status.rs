//! How the team is, in one sentence and a few numbers: what `status` and a dashboard show first.

use serde::{Deserialize, Serialize};

use crate::balance::Balance;
use crate::incident::{Incident, IncidentState};
use crate::task::words;
use crate::team::desk::{AgentState, AgentView, BreakerView, Readiness};
use crate::time::{Timestamp, format_duration};

words! {
    /// How the team is, all in all.
    Level, "level", "ok, degraded, incident" {
        /// Nothing needs anybody.
        Ok = "ok",
        /// Something is down, and is being handled.
        Degraded = "degraded",
        /// A human is needed.
        Incident = "incident",
    }
}

/// The team at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// All in all.
    pub level: Level,
    /// The same as a sentence.
    pub sentence: String,
    /// When this was so.
    pub at: Timestamp,
    /// How many tasks stand where.
    pub balance: Balance,
    /// Accepted tasks that are nowhere: 0, or the promise is broken.
    pub lost: u64,
    /// Agents that are up, of all.
    pub agents_up: (u64, u64),
    /// Integrations that are not closed.
    pub breakers: Vec<BreakerView>,
    /// Incidents that are not over.
    pub incidents: Vec<Incident>,
    /// May work be submitted?
    pub ready: bool,
}

/// Puts the facts together.
#[must_use]
pub fn status(
    balance: Balance,
    agents: &[AgentView],
    breakers: Vec<BreakerView>,
    incidents: Vec<Incident>,
    readiness: &Readiness,
    unheard: Option<String>,
    now: Timestamp,
) -> Status {
    // One that opens step by step is over its trouble: `breaker ls` tells it.
    let breakers: Vec<BreakerView> =
        breakers.into_iter().filter(|breaker| breaker.state != "closed" || breaker.gate_closed).collect();
    let incidents: Vec<Incident> =
        incidents.into_iter().filter(|incident| incident.state != IncidentState::Resolved).collect();
    let down: Vec<&AgentView> = agents.iter().filter(|agent| !up(agent.state)).collect();
    let lost = balance.lost();
    let level = if lost > 0 || !incidents.is_empty() {
        Level::Incident
    } else if !breakers.is_empty() || !down.is_empty() || !readiness.ready {
        Level::Degraded
    } else {
        Level::Ok
    };
    let mut said = Vec::new();
    if lost > 0 {
        said.push(format!("{} unaccounted for", tasks(lost)));
    }
    for incident in &incidents {
        said.push(format!("{} is {}: {}", incident.id, incident.state, incident.summary));
    }
    for breaker in &breakers {
        let until = breaker.until.map(|at| format!(", next try in {}", whole_seconds(now, at))).unwrap_or_default();
        let how = match breaker.state.as_str() {
            "closed" => "asked for silence".to_owned(),
            state => format!("is {state}"),
        };
        said.push(format!("{} {how}, {} parked{until}", breaker.integration, tasks(breaker.parked)));
    }
    for agent in &down {
        said.push(format!("{} is {}", agent.name, agent.state));
    }
    for (name, _, detail) in readiness.checks.iter().filter(|(_, passed, _)| !passed) {
        said.push(format!("{name}: {detail}"));
    }
    said.extend(unheard);
    if lost == 0 {
        said.push("nothing lost".to_owned());
    }
    let word = match level {
        Level::Ok => "All well",
        Level::Degraded => "Degraded",
        Level::Incident => "Incident",
    };
    Status {
        level,
        sentence: format!("{word}: {}", said.join("; ")),
        at: now,
        lost,
        balance,
        agents_up: ((agents.len() - down.len()) as u64, agents.len() as u64),
        breakers,
        incidents,
        ready: readiness.ready,
    }
}

/// Can it work?
pub(crate) const fn up(state: AgentState) -> bool {
    match state {
        AgentState::Healthy | AgentState::Busy | AgentState::Draining => true,
        AgentState::Restarting | AgentState::CrashLoop | AgentState::Wedged => false,
    }
}

fn tasks(count: u64) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

fn whole_seconds(now: Timestamp, at: Timestamp) -> String {
    format_duration(std::time::Duration::from_secs(now.until(at).as_secs_f64().ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn breaker(state: &str, gate_closed: bool) -> BreakerView {
        BreakerView {
            integration: "anthropic".parse().expect("a name"),
            state: state.to_owned(),
            until: Some(Timestamp::from_millis(17_400)),
            failures: 5,
            threshold: 5,
            gate_closed,
            ramp: None,
            parked: 12,
            why: "5 failures in 30s".to_owned(),
        }
    }

    fn ready(ready: bool) -> Readiness {
        Readiness { ready, checks: vec![("store".to_owned(), ready, "writable".to_owned())] }
    }

    #[test]
    fn the_sentence_says_what_is_wrong_and_that_nothing_is_lost() {
        let of = |breakers, ok| status(Balance::default(), &[], breakers, Vec::new(), &ready(ok), None, NOW);
        let well = of(vec![breaker("closed", false)], true);
        assert_eq!((well.level, well.sentence.as_str()), (Level::Ok, "All well: nothing lost"));
        let open = of(vec![breaker("open", false)], true);
        assert_eq!(open.level, Level::Degraded);
        assert_eq!(open.sentence, "Degraded: anthropic is open, 12 tasks parked, next try in 18s; nothing lost");
        let gate = of(vec![breaker("closed", true)], true);
        assert!(gate.sentence.contains("anthropic asked for silence"), "{}", gate.sentence);
        assert_eq!(of(Vec::new(), false).level, Level::Degraded);
        let lost = Balance { submitted: 3, done: 2, ..Balance::default() };
        let lost = status(lost, &[], Vec::new(), Vec::new(), &ready(true), None, NOW);
        assert_eq!((lost.level, lost.lost), (Level::Incident, 1));
        assert_eq!(lost.sentence, "Incident: 1 task unaccounted for");
        let answer = Some("the answer of Ana to INC-7 was not heard".to_owned());
        let unheard = status(Balance::default(), &[], Vec::new(), Vec::new(), &ready(true), answer, NOW);
        // In life its incident is open beside it.
        assert!(unheard.sentence.contains("the answer of Ana to INC-7 was not heard; "), "{}", unheard.sentence);
    }
}
