//! Simulation and reality agree: each fault, on each wire, is judged the same in virtual time and over real HTTP.
//!
//! One task for each vendor meets the fault at its first call; the team asks the outage server through its own adapters,
//! or the model in virtual time. What the two say of the failed deliveries must be the same, to the class and the kind.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::breaker::BreakerConfig;
use backstop::config::{Config, ProviderConfig, Timeouts, Wire};
use backstop::definitions::LoadedScenario;
use backstop::retry::{Backoff, RetryPolicy};
use backstop::scenario::{
    Arrival, Fault, FaultKind, Latency, Load, ModelBehaviour, START, Scenario, Scope, Target, TeamSource, When,
};
use backstop::sim::play::{Run, play, play_on_the_wire};
use backstop::task::{Integration, TaskType};
use serde_json::json;

const WIRES: [(&str, Wire); 5] = [
    ("anthropic", Wire::Anthropic),
    ("openai", Wire::OpenAi),
    ("responses", Wire::Responses),
    ("gemini", Wire::Gemini),
    ("ollama", Wire::Ollama),
];

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A team with an agent for each wire, in a hurry.
fn config() -> Config {
    let mut config = Config::new("agreement");
    config.retry = RetryPolicy { backoff: Backoff::List(vec![millis(200), millis(200)]), ..config.retry };
    // What is compared is one call; a breaker would be another story.
    config.breaker = BreakerConfig { failures: 100, ..BreakerConfig::default() };
    for (name, wire) in WIRES {
        let agent = Agent::new(name, &format!("{name}/model-1")).expect("a name");
        config = config.agent(agent.handling(format!("{name}.ask")));
        let provider = ProviderConfig {
            api_key: Some("a key nobody looks at".into()),
            timeouts: Timeouts {
                connect: millis(4_000),
                first_byte: millis(4_000),
                first_content: millis(4_000),
                idle: millis(2_000),
                total: millis(8_000),
            },
            ..ProviderConfig::new(wire, "http://127.0.0.1:1")
        };
        config.providers.insert(Integration::new(name).expect("a name"), provider);
    }
    config
}

fn scenario(kind: FaultKind) -> LoadedScenario {
    let load = |name: &str| Load {
        task_type: TaskType::new(format!("{name}.ask")).expect("a name"),
        agent: None,
        priority: None,
        payload: json!({"ticket": "{ticket}"}),
        arrival: Arrival::At(vec![Duration::ZERO]),
        from: Duration::ZERO,
        until: millis(6_000),
    };
    let fault = Fault {
        name: kind.to_string(),
        kind,
        when: When::At(Duration::ZERO),
        lasts: (millis(6_000), millis(6_000)),
        scope: Scope::default(),
        share: 1.0,
        flap: None,
        calls: None,
        retry_after: Some(millis(1_000)).filter(|_| kind == FaultKind::RateLimited),
        times: 1.0,
        by_millis: 0,
    };
    let scenario = Scenario {
        name: kind.to_string(),
        about: String::new(),
        team: TeamSource::Shipped,
        start: START,
        // Long enough for a busy machine to make the first call, and for every timer of that to run out.
        run: millis(6_000),
        drain: Duration::ZERO,
        load: WIRES.iter().map(|(name, _)| load(name)).collect(),
        models: vec![(
            "*".to_owned(),
            ModelBehaviour { latency: Latency::Between(millis(20), millis(40)), ..ModelBehaviour::default() },
        )],
        regions: BTreeMap::new(),
        faults: vec![fault],
        human: None,
        assertions: Vec::new(),
        published: None,
    };
    LoadedScenario { scenario, config: config() }
}

/// Of each vendor's task: what its first delivery failed of.
fn judged(run: &Run) -> BTreeMap<String, Option<String>> {
    let of = |record: &backstop::record::Record| {
        let failures = record.attempts.iter().filter_map(|attempt| attempt.failure.as_ref());
        let letter = record.letter.iter().map(|letter| &letter.failure);
        failures.chain(letter).next().map(|failure| format!("{}/{}", failure.class, failure.kind))
    };
    run.records.iter().map(|record| (record.agent.to_string(), of(record))).collect()
}

/// Faults that need a tool on offer or a connection that does not come about cannot be served to these tasks.
fn played() -> Vec<FaultKind> {
    let elsewhere = BTreeSet::from([
        // The server would have to not be there.
        FaultKind::Refused,
        FaultKind::Dns,
        FaultKind::ConnectTimeout,
        // Need tools.
        FaultKind::WrongArguments,
        FaultKind::Loop,
        // A slow answer is an answer.
        FaultKind::SlowStream,
        FaultKind::AdviserDown,
        FaultKind::AgentPanic,
        // Without a schema an answer that breaks it says nothing in virtual time, and prose on the wire.
        FaultKind::SchemaInvalid,
    ]);
    let calls = FaultKind::ALL.iter().copied().filter(|kind| kind.target() == Target::Calls);
    calls.filter(|kind| !elsewhere.contains(kind)).collect()
}

#[test]
fn each_fault_is_judged_the_same_on_every_wire_and_in_virtual_time() {
    let mut wrong = Vec::new();
    let play_both = |kind: FaultKind| {
        thread::spawn(move || {
            let loaded = scenario(kind);
            let simulated = judged(&play(&loaded, 1).expect("it plays"));
            let real = judged(&play_on_the_wire(&loaded, 1).expect("it plays"));
            (kind, simulated, real)
        })
    };
    let kinds = played();
    assert!(kinds.len() >= 18);
    // A few at a time: each starts a team, and a machine with two cores has only so many.
    for some in kinds.chunks(6) {
        for player in some.iter().copied().map(play_both).collect::<Vec<_>>() {
            let (kind, simulated, real) = player.join().expect("it ends");
            assert_eq!(simulated.len(), WIRES.len(), "{kind}");
            for (name, told) in simulated {
                // Ollama has no stop reason for a refusal: where no schema asks for more, its words are an answer.
                let an_answer = kind == FaultKind::Refusal && name == "ollama";
                assert_eq!(told.is_none(), an_answer, "{kind} on {name} in virtual time: {told:?}");
                if real[&name] != told {
                    wrong.push(format!("{kind} on {name}: simulated {told:?}, real {:?}", real[&name]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
