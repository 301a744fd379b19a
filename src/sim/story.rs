//! The story of the demo: `scenarios/demo.yaml`, told by people's clocks: who asks for what and when, what fails how, and
//! what the person does.
//!
//! Times are the team's, counted from the first submission. Nothing here runs; `demo.rs` does. What has already
//! happened is read from the durable record, so that a demo that was killed goes on where it was.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::breakage::{on_the_wire, said_by};
use super::play::filled;
use super::repository;
use super::scene::{Scene, Watcher};
use super::script::{Answer, Behaviour, Script, When};
use crate::agent::ModelRef;
use crate::config::{ChannelConfig, Config, OnCall, ProviderConfig, Timeouts, Wire};
use crate::definitions::{self, Problems};
use crate::retry::{Backoff, RetryPolicy};
use crate::scenario::{Latency, Window};
use crate::task::{AgentName, Effect, IdempotencyKey, Integration, TaskError, TaskType, words};
use crate::team::desk::NewTask;
use crate::time::Timestamp;

/// How many tasks are submitted.
pub const TASKS: usize = 60;
/// For how long Anthropic asks for silence whenever the review with tools is at its middle.
pub const REVIEW_LIMIT: Duration = secs(20);
/// How long the person needs to take an incident on.
pub const ACKNOWLEDGE_AFTER: Duration = secs(40);
/// When the person cancels what is not needed any more.
pub const CANCEL_AT: Duration = secs(380);
/// When the person has paid the first invoice by other means.
pub const PAID_AT: Duration = secs(80);
/// When the person decides for the whole incident.
pub const OVERRIDE_AT: Duration = secs(480);
/// When nothing more is to come.
pub const CURTAIN: Duration = secs(550);
/// The words with which the person sends refused work round again.
pub const PERMISSION: &str = "We own this system and have agreed to this audit in writing (SEC-104).";
/// The fault that is the outage, and its switch.
pub const OUTAGE_SWITCH: &str = "outage";
const RATE_LIMIT_SWITCH: &str = "rate limit";
/// The person on call.
pub const PERSON: &str = "you";
/// The file.
const FILE: &str = "demo.yaml";

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

words! {
    /// What one task is in the story for, when it is not only work; the word stands in parentheses in its input.
    Part, "part", "blip, careless, panic, hopeless, payment, late-payment, declined, urgent, obsolete, review" {
        /// Its first call meets a 500.
        Blip = "blip",
        /// Its first answer lacks the title.
        Careless = "careless",
        /// Its agent panics under it, once.
        Panic = "panic",
        /// Its agent's answers never meet the schema; another's do.
        Hopeless = "hopeless",
        /// A payment whose call fails; the person pays by other means.
        Payment = "payment",
        /// Another one, at the end; it waits for the person who watches.
        LatePayment = "late-payment",
        /// The model declines until a person gives permission.
        Declined = "declined",
        /// It cannot wait: it falls back early in the outage.
        Urgent = "urgent",
        /// Cancelled while it waits.
        Obsolete = "obsolete",
        /// A review with tools, cut half-way by a rate limit that outlasts its retries.
        Review = "review",
    }
}

impl Part {
    /// How it stands in an input.
    #[must_use]
    pub fn mark(self) -> String {
        format!("({self})")
    }

    fn of(payload: &Value) -> Option<Self> {
        let text = payload.to_string();
        Self::ALL.iter().copied().find(|part| text.contains(&part.mark()))
    }
}

/// One task of the story.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its number, first = 1.
    pub number: usize,
    /// When it is submitted.
    pub at: Duration,
    /// To whom.
    pub agent: AgentName,
    /// Of which type.
    pub task_type: TaskType,
    /// What is asked, with the ticket in its place.
    pub payload: Value,
    /// What it is in the story for.
    pub part: Option<Part>,
}

impl Ask {
    /// Its ticket, which stands in its prompt and nowhere else.
    #[must_use]
    pub fn ticket(&self) -> String {
        format!("BS-{:03}", self.number)
    }

    /// The submission. The key makes a second one of a resumed demo the same task.
    ///
    /// # Errors
    /// Never, as the names are constants; the checks are those of every submission.
    pub fn task(&self, seed: u64) -> Result<NewTask, TaskError> {
        Ok(NewTask {
            task_type: self.task_type.clone(),
            payload: self.payload.clone(),
            agent: Some(self.agent.clone()),
            effect: None,
            priority: None,
            idempotency_key: Some(IdempotencyKey::new(key(seed, self.number))?),
            deadline: None,
            tenant: None,
            prompt: None,
        })
    }
}

/// The whole story for one seed.
#[derive(Clone, Debug)]
pub struct Story {
    /// Where its chances come from.
    pub seed: u64,
    /// What is asked, in order of time.
    pub asks: Vec<Ask>,
    /// Anthropic answers everything with 500: from, and until when at the earliest.
    pub outage: (Duration, Duration),
    /// When OpenAI begins to ask for silence, and for how long.
    pub rate_limit: (Duration, Duration),
    /// What fails and what is answered, at the team's pace.
    script: Script,
}

/// What is asked for, and of whom. Types of the default team, Anthropic's agents and OpenAI's mixed.
const WORK: [(&str, &str); 10] = [
    ("cto", "code_review"),
    ("marketing", "blog_post"),
    ("backend", "backend.endpoint"),
    ("devops", "infra.plan"),
    ("cso", "security_review"),
    ("frontend", "frontend.component"),
    ("ceo", "weekly_report"),
    ("cto", "architecture.review"),
    ("cso", "charge_card"),
    ("frontend", "frontend.tokens"),
];

/// Which model each agent asks in the demo, and to which it may fall back.
const MODELS: [(&str, &str, &str); 7] = [
    ("ceo", "anthropic/claude-opus-5-5", "openai/gpt-6-sol"),
    ("cto", "anthropic/claude-opus-5-5", "openai/gpt-6-sol"),
    ("cso", "anthropic/claude-opus-5-5", "openai/gpt-6-sol"),
    ("backend", "anthropic/claude-sonnet-5-5", "openai/gpt-6-sol"),
    ("frontend", "openai/gpt-6-sol", "anthropic/claude-sonnet-5-5"),
    ("marketing", "openai/gpt-6-sol", "anthropic/claude-sonnet-5-5"),
    ("devops", "openai/gpt-6-sol", "anthropic/claude-sonnet-5-5"),
];

fn key(seed: u64, number: usize) -> String {
    format!("demo/{seed}/{number}")
}

impl Story {
    /// The story with this seed: the same tasks, other moments and other latencies.
    ///
    /// # Errors
    /// Never for the file that is built in; the checks are those of every scenario.
    pub fn new(seed: u64) -> Result<Self, Problems> {
        let (_, text) = super::library::named("demo").unwrap_or_default();
        let loaded = definitions::scenario_text(FILE, text, None)?;
        // Nothing in the file is left to chance but what the dice below add.
        let windows = loaded.scenario.windows(&|_, _, _| 0.0);
        let script = on_the_wire(&loaded, &windows, seed, false).script;
        let dice = Script::new(seed);
        let mut asks: Vec<Ask> = Vec::new();
        for (index, (at, load)) in loaded.scenario.arrivals(&|_, _, _| 0.0).into_iter().enumerate() {
            let load = &loaded.scenario.load[load];
            let handles = loaded.config.agents.values().find(|agent| agent.handles(&load.task_type));
            let agent = load.agent.clone().or_else(|| handles.map(|agent| agent.name.clone()));
            asks.extend(agent.map(|agent| Ask {
                number: 0,
                at: at + Duration::from_millis(dice.dice(&["arrival", &index.to_string()]) % 1_500),
                agent,
                task_type: load.task_type.clone(),
                part: Part::of(&load.payload),
                payload: load.payload.clone(),
            }));
        }
        asks.sort_by_key(|ask| ask.at);
        for (index, ask) in asks.iter_mut().enumerate() {
            ask.number = index + 1;
            ask.payload = filled(&ask.payload, &ask.ticket());
        }
        let window = |name: &str| {
            let named = |window: &&Window| loaded.scenario.faults[window.fault].name == name;
            windows.iter().find(named).map_or((Duration::MAX, Duration::MAX), |window| (window.from, window.until))
        };
        let (limited, free) = window(RATE_LIMIT_SWITCH);
        let rate_limit = (limited, free.saturating_sub(limited));
        Ok(Self { seed, asks, outage: window(OUTAGE_SWITCH), rate_limit, script })
    }

    /// The tasks with this part.
    pub fn cast(&self, part: Part) -> impl Iterator<Item = &Ask> {
        self.asks.iter().filter(move |ask| ask.part == Some(part))
    }

    /// The idempotency key of a task.
    #[must_use]
    pub fn key(&self, ask: &Ask) -> String {
        key(self.seed, ask.number)
    }

    /// How often each rule of a task must have matched after `calls` calls of it.
    #[must_use]
    pub fn recalled(&self, ask: &Ask, calls: u64) -> Vec<(String, u64)> {
        match ask.part {
            Some(Part::Blip) => vec![("blip".to_owned(), calls)],
            Some(Part::Payment) => vec![("payment".to_owned(), calls)],
            Some(Part::LatePayment) => vec![("late payment".to_owned(), calls)],
            // The second of the fixed answers, and the third.
            Some(Part::Hopeless) => vec![(said_by("*", 1), calls), (said_by("*", 2), calls.saturating_sub(1))],
            Some(Part::Careless | Part::Panic | Part::Declined | Part::Urgent | Part::Obsolete | Part::Review)
            | None => Vec::new(),
        }
    }

    /// Which switches of the script are on. Each trouble lasts until it has had its effect, so that a slow machine sees
    /// the same story.
    #[must_use]
    pub fn switches(&self, elapsed: Duration, now: Timestamp, watcher: &Watcher) -> [(&'static str, bool); 2] {
        let silent_until = Integration::new("openai").ok().and_then(|openai| watcher.first_gate(&openai));
        // Over a little before it was said to be: whoever asks on the dot must not be too early.
        let limited = elapsed >= self.rate_limit.0 && silent_until.is_none_or(|until| now + secs(5) < until);
        let felt = watcher.seen().contains(&Scene::BreakerOpen) && watcher.seen().contains(&Scene::Parked);
        let down = elapsed >= self.outage.0 && !(elapsed >= self.outage.1 && felt);
        [(RATE_LIMIT_SWITCH, limited), (OUTAGE_SWITCH, down)]
    }

    /// What the outage server does. Latencies shrink with the speed, so that they take the team the same time.
    #[must_use]
    pub fn script(&self, speed: f64) -> Script {
        let mut script = self.script.clone();
        for (_, latency) in &mut script.paces {
            if let Latency::Between(least, most) = latency {
                (*least, *most) = (least.div_f64(speed), most.div_f64(speed));
            }
        }
        // A refusal takes as long as an answer: on a screen things that happen at once are hard to follow.
        script.refusal = None;
        for rule in &mut script.rules {
            if let Some(switch) = [OUTAGE_SWITCH, RATE_LIMIT_SWITCH].into_iter().find(|name| *name == rule.name) {
                rule.when.between = None;
                rule.when.switch = Some(switch.to_owned());
            }
        }
        let say = |body: Value| Behaviour::Answer(Answer::Text(body.to_string()));
        for ask in &self.asks {
            if ask.part == Some(Part::Review) {
                script = review(script, &ask.ticket());
            }
            // With tools on offer a server that is only compatible with OpenAI's is not sent the schema of the answer.
            if let Some(answer) = answer(ask) {
                let unasked = When::any().prompt_has(ask.ticket()).wire(Wire::OpenAi).offers(repository::TOOLS[0]);
                script = script.rule(format!("{} answer", ask.ticket()), unasked, say(answer));
            }
        }
        script
    }

    /// The default team, pointed at the stubs.
    ///
    /// # Errors
    /// Never, as the names are constants; the checks are those of every configuration.
    pub fn config(&self, base: Config, stubs: &Stubs) -> Result<Config, TaskError> {
        let mut config = base;
        config.team = "demo".to_owned();
        config.providers.clear();
        for (name, wire, url) in
            [("anthropic", Wire::Anthropic, &stubs.anthropic), ("openai", Wire::OpenAi, &stubs.openai)]
        {
            config.providers.insert(Integration::new(name)?, provider(wire, url));
        }
        for (agent, model, fallback) in MODELS {
            let Some(agent) = config.agents.get_mut(&AgentName::new(agent)?) else { continue };
            agent.model = model.parse::<ModelRef>()?;
            agent.fallback_models = vec![fallback.parse()?];
            agent.retry = None;
            agent.concurrency = agent.concurrency.max(2);
        }
        if let Some(cto) = config.agents.get_mut(&AgentName::new("cto")?) {
            cto.tools = repository::TOOLS.map(str::to_owned).to_vec();
        }
        for (agent, task_type) in WORK {
            let (agent, task_type) = (AgentName::new(agent)?, TaskType::new(task_type)?);
            let prompt = config.prompt_for(&task_type, None).to_owned();
            let has_schema = config.output_schema(&task_type, &prompt, &agent).is_some();
            let mut declared = config.task_types.remove(&task_type).unwrap_or_default();
            declared.effect.get_or_insert(Effect::ReadOnly);
            declared.retry = retry(task_type.as_str(), &config.retry).or(declared.retry);
            declared.output_schema = declared.output_schema.or_else(|| (!has_schema).then(note));
            config.task_types.insert(task_type, declared);
        }
        config.ceo.adviser = None;
        config.escalation.on_call = vec![OnCall {
            name: PERSON.to_owned(),
            channels: vec![
                ChannelConfig::PagerDuty {
                    routing_key: SecretString::from("0123456789abcdef0123456789abcdef"),
                    url: stubs.pagerduty.clone(),
                    webhook_secret: None,
                },
                ChannelConfig::Email {
                    smtp: SecretString::from(stubs.smtp.clone()),
                    from: "backstop@demo.example".to_owned(),
                    to: vec!["you@demo.example".to_owned()],
                },
            ],
        }];
        Ok(config)
    }
}

/// Where the stubs listen.
#[derive(Clone, Debug)]
pub struct Stubs {
    /// The base URL of Anthropic's wire.
    pub anthropic: String,
    /// The base URL of OpenAI's wire.
    pub openai: String,
    /// Where PagerDuty events go.
    pub pagerduty: String,
    /// `smtp://…`
    pub smtp: String,
}

fn provider(wire: Wire, url: &str) -> ProviderConfig {
    ProviderConfig {
        api_key: Some(SecretString::from("demo-key-of-no-account")),
        // These run by the wall, however fast the team's clock is.
        timeouts: Timeouts {
            connect: secs(2),
            first_byte: secs(5),
            first_content: secs(5),
            idle: secs(5),
            total: secs(10),
        },
        ..ProviderConfig::new(wire, url)
    }
}

/// What three types need for the story to fit a minute; the others keep what the team says.
fn retry(task_type: &str, default: &RetryPolicy) -> Option<RetryPolicy> {
    match task_type {
        "code_review" => Some(RetryPolicy { backoff: Backoff::List(vec![secs(15), secs(20)]), ..default.clone() }),
        "architecture.review" => Some(RetryPolicy { park_at_most: secs(80), ..default.clone() }),
        "frontend.tokens" => Some(RetryPolicy { max_deliveries: 2, ..default.clone() }),
        _ => None,
    }
}

/// The review with tools, turn by turn, the same on every wire; but Anthropic never gets beyond the middle of it.
fn review(script: Script, ticket: &str) -> Script {
    let [list, search, read] = repository::TOOLS;
    let turns = [
        vec![(list, json!({}))],
        vec![(search, json!({"text": "retry_with_jitter"}))],
        vec![(read, json!({"path": "src/fetch.rs"}))],
        vec![(read, json!({"path": "src/backoff.rs"})), (read, json!({"path": "tests/fetch.rs"}))],
    ];
    let middle = turns.len() as u64 - 1;
    let limit = When::any().wire(Wire::Anthropic).prompt_has(ticket).turns(middle);
    let limited = Behaviour::RateLimited { retry_after: Some(REVIEW_LIMIT) };
    let script = script.rule(format!("{ticket} half-way"), limit, limited);
    turns.into_iter().zip(0..).fold(script, |script, (calls, turn)| {
        let this = When::any().prompt_has(ticket).turns(turn).offers(list);
        script.rule(format!("{ticket} turn {turn}"), this, Behaviour::Answer(Answer::calls("", calls)))
    })
}

/// What is answered to the agent with tools, where the server is not told the schema.
fn answer(ask: &Ask) -> Option<Value> {
    match ask.task_type.as_str() {
        "code_review" => Some(json!({
            "verdict": "request_changes",
            "summary": "The jitter is right; the fifth try still sleeps before it gives up.",
            "findings": [{"file": "src/fetch.rs", "line": 13, "severity": "should", "message": "Count before the wait."}],
        })),
        "architecture.review" => Some(json!({"title": "Ship it", "body": "Small, and it fails safely."})),
        _ => None,
    }
}

/// What an answer must be where the team asks for nothing else.
fn note() -> Value {
    json!({
        "type": "object",
        "required": ["title", "body"],
        "properties": {"title": {"type": "string", "minLength": 3}, "body": {"type": "string"}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_has_the_same_cast_in_order_of_time() {
        for seed in [0, 7, u64::MAX] {
            let story = Story::new(seed).expect("sound");
            assert_eq!(story.asks.len(), TASKS);
            assert!(story.asks.iter().enumerate().all(|(index, ask)| ask.number == index + 1));
            assert!(story.asks.windows(2).all(|pair| pair[0].at <= pair[1].at));
            for (part, count) in [
                (Part::Blip, 1),
                (Part::Careless, 1),
                (Part::Panic, 1),
                (Part::Hopeless, 1),
                (Part::Payment, 1),
                (Part::LatePayment, 1),
                (Part::Declined, 2),
                (Part::Urgent, 4),
                (Part::Obsolete, 1),
                (Part::Review, 1),
            ] {
                assert_eq!(story.cast(part).count(), count, "{part:?}");
            }
            for (agent, _, _) in MODELS {
                assert!(story.asks.iter().any(|ask| ask.agent.as_str() == agent), "{agent} has no work");
            }
        }
    }

    #[test]
    fn the_work_is_declared_and_every_submission_is_sound() {
        for ask in &Story::new(7).expect("sound").asks {
            assert!(
                WORK.iter().any(|(agent, kind)| (*agent, *kind) == (ask.agent.as_str(), ask.task_type.as_str())),
                "{ask:?}"
            );
            ask.task(7).expect("a sound task");
        }
    }

    #[test]
    fn the_outage_meets_at_least_five_calls_at_once() {
        let story = Story::new(7).expect("sound");
        let meets = |ask: &&Ask| {
            let anthropic =
                MODELS.iter().any(|(name, model, _)| *name == ask.agent.as_str() && model.starts_with("anthropic/"));
            anthropic && ask.at >= story.outage.0 && ask.at < story.outage.0 + secs(30)
        };
        assert!(story.asks.iter().filter(meets).count() >= 8);
    }
}
