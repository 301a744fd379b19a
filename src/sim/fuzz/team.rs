//! The drawn team: six agents on three providers, work of every effect, and knobs that each seed turns anew.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bank::{PLAN, PROBE};
use crate::agent::Agent;
use crate::config::{
    AdviserConfig, BudgetConfig, ChannelConfig, Config, ModelFacts, ProviderConfig, Setting, TaskTypeConfig, Wire,
};
use crate::retry::{Backoff, Jitter, RetryPolicy};
use crate::task::{Effect, Integration, TaskError, TaskType};
use crate::tool::{Probe, Sign, ToolRule};

/// Secrets that are planted where the team keeps its own, and must be seen nowhere.
pub const CANARIES: [&str; 4] =
    ["canary-alpha-7f3c9b1e", "canary-beta-2d8e4a6f", "canary-gamma-9c1b5e7d", "canary-header-4f6a8c2e"];

/// The agents that faults may strike.
pub const AGENTS: [&str; 5] = ["ada", "bob", "cyd", "teller", "clerk"];
/// The providers they ask; `wise` is only the adviser's.
pub const PROVIDERS: [&str; 3] = ["alpha", "beta", "gamma"];
/// What may be asked, with what doing it does.
pub const WORK: [(&str, Effect); 6] = [
    ("read", Effect::ReadOnly),
    ("report", Effect::ReadOnly),
    ("note", Effect::Notification),
    ("write", Effect::Mutation),
    ("pay", Effect::Payment),
    ("order", Effect::Mutation),
];

/// What of a configuration is drawn. Spans in seconds, money in millionths of a US dollar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Knobs {
    /// Deliveries of a round.
    pub deliveries: u32,
    /// Waits between them.
    pub waits: Vec<u64>,
    /// Spread around the wait (negative: only upwards).
    pub jitter: f64,
    /// The lease.
    pub lease: u64,
    /// The bound of parking.
    pub park: u64,
    /// Tasks an agent works on at once.
    pub concurrency: u32,
    /// Deaths of an agent that are survived.
    pub restarts: u32,
    /// Failures that open a breaker.
    pub breaker: u32,
    /// How long it stays open.
    pub open_for: u64,
    /// Dead letters that call a human.
    pub threshold: u32,
    /// The sliding window.
    pub window: u64,
    /// The cap on one task.
    pub task_cap: Option<u64>,
    /// The team's cap on an hour.
    pub hour_cap: Option<u64>,
    /// What the adviser answers; none: there is none.
    pub adviser: Option<String>,
    /// Have agents fallback models?
    pub fallbacks: bool,
    /// The share of calls of tools that go wrong.
    pub tool_troubles: f64,
    /// Does the process drain before it ends?
    pub drains: bool,
}

/// The configuration of the drawn team.
///
/// # Errors
/// Never, as the names are constants; the checks are those of every configuration.
pub fn config(knobs: &Knobs) -> Result<Config, TaskError> {
    let mut config = Config::new("drawn");
    let providers = [
        ("alpha", Wire::Anthropic, CANARIES[0]),
        ("beta", Wire::OpenAi, CANARIES[1]),
        ("gamma", Wire::Gemini, CANARIES[2]),
        ("wise", Wire::Responses, CANARIES[2]),
    ];
    for (name, wire, key) in providers {
        config = config.provider(Integration::new(name)?, provider(wire, key));
    }
    for (name, effect) in WORK {
        let said = TaskTypeConfig {
            effect: Some(effect),
            output_schema: Some(if name == "report" { report() } else { answer() }),
            ..TaskTypeConfig::default()
        };
        config = config.task_type(TaskType::new(name)?, said);
    }
    for agent in agents(knobs)? {
        config = config.agent(agent);
    }
    config = config.local_tool("charge", charge()).retry(policy(knobs));
    config.breaker.failures = knobs.breaker;
    config.breaker.open_for = Duration::from_secs(knobs.open_for);
    config.escalation.threshold = knobs.threshold;
    config.escalation.window = Duration::from_secs(knobs.window);
    config.budget = BudgetConfig {
        micro_usd_per_task: knobs.task_cap,
        micro_usd_per_hour: knobs.hour_cap,
        micro_usd_per_day: knobs.hour_cap.map(|cap| cap * 8),
    };
    if knobs.adviser.is_some() {
        config.ceo.adviser = Some(AdviserConfig {
            model: "wise/sage".parse()?,
            within: Duration::from_secs(20),
            max_output_tokens: 500,
            micro_usd_per_hour: 60_000,
        });
    }
    let routing_key = SecretString::from(CANARIES[3]);
    let url = "https://pages.example/v2/enqueue".to_owned();
    config = config.on_call("ana", vec![ChannelConfig::PagerDuty { routing_key, url, webhook_secret: None }]);
    Ok(config)
}

fn policy(knobs: &Knobs) -> RetryPolicy {
    RetryPolicy {
        max_deliveries: knobs.deliveries,
        backoff: Backoff::List(knobs.waits.iter().copied().map(Duration::from_secs).collect()),
        jitter: match knobs.jitter {
            spread if spread < 0.0 => Jitter::Additive(-spread),
            spread => Jitter::Around(spread),
        },
        ack_wait: Duration::from_secs(knobs.lease),
        park_at_most: Duration::from_secs(knobs.park),
    }
}

fn agents(knobs: &Knobs) -> Result<Vec<Agent>, TaskError> {
    let tools: Vec<String> = PLAN.iter().chain(&[PROBE]).map(|tool| (*tool).to_owned()).collect();
    let plain: &[&str] = &["read", "report", "note", "write"];
    let made = [
        ("ada", "alpha/a1", &["beta/b1", "gamma/g1"][..], &["read", "report", "note", "write", "pay"][..]),
        ("bob", "beta/b1", &["alpha/a1"], plain),
        ("cyd", "gamma/g1", &["alpha/a1"], &["report", "note"]),
        ("teller", "beta/b2", &["alpha/a2"], &["order"]),
        ("clerk", "alpha/a2", &[], &["order"]),
        ("ceo", "alpha/a1", &[], &[]),
    ];
    let mut agents = Vec::new();
    for (name, model, fallbacks, handles) in made {
        let mut agent = Agent::new(name, model)?.told(format!("You are {name}."));
        for fallback in fallbacks.iter().filter(|_| knobs.fallbacks) {
            agent = agent.falling_back_to(fallback)?;
        }
        for pattern in handles {
            agent = agent.handling(*pattern);
        }
        agent.concurrency = knobs.concurrency;
        agent.restart.max = knobs.restarts;
        agent.max_output_tokens = 1_500;
        if handles.contains(&"order") {
            agent.tools.clone_from(&tools);
        }
        agents.push(agent);
    }
    agents[1] = agents[1].clone().covering_for("ada")?;
    // Not for bob: who stands in for the first may get it from the second.
    agents[2] = agents[2].clone().covering_for("ada")?;
    agents[4] = agents[4].clone().covering_for("teller")?;
    Ok(agents)
}

fn provider(wire: Wire, key: &str) -> ProviderConfig {
    // Dear, so that caps are met.
    let facts = ModelFacts {
        context: Some(100_000),
        usd_per_million_input: Some(5.0),
        usd_per_million_output: Some(25.0),
        ..ModelFacts::default()
    };
    ProviderConfig {
        api_key: Some(SecretString::from(key)),
        headers: [("x-api-key".to_owned(), Setting::Secret(CANARIES[3].into()))].into(),
        models: ["a1", "a2", "b1", "b2", "g1", "sage"].map(|model| (model.to_owned(), facts)).into(),
        ..ProviderConfig::new(wire, "https://models.example")
    }
}

fn answer() -> Value {
    json!({"type": "object", "required": ["ok"], "properties": {"ok": {"type": "boolean"}}})
}

fn report() -> Value {
    json!({
        "type": "object",
        "required": ["title", "body"],
        "properties": {"title": {"type": "string", "minLength": 3}, "body": {"type": "string"}},
    })
}

fn charge() -> ToolRule {
    let sign = |is: &str| Sign { at: "/status".to_owned(), is: json!(is) };
    ToolRule {
        effect: Some(Effect::Payment),
        probe: Some(Probe {
            tool: PROBE.to_owned(),
            arguments: json!({"key": "$key"}).as_object().cloned().unwrap_or_default(),
            happened: sign("succeeded"),
            did_not_happen: sign("none"),
        }),
        ..ToolRule::default()
    }
}
