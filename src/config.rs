//! The configuration of a team, known to be sound: what `backstop.yaml`, `agents/` and `prompts/` say, checked once.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

use crate::agent::{Agent, ModelRef};
use crate::breaker::BreakerConfig;
use crate::prompt::Prompt;
use crate::retry::RetryPolicy;
use crate::task::{AgentName, Effect, Integration, Priority, TaskType};

/// A team's whole configuration, checked. Built by `definitions/` from files, or in code by library users.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The team's name; part of every dedup key.
    pub team: String,
    /// Its agents, by name.
    pub agents: BTreeMap<AgentName, Agent>,
    /// Its prompts, by name; the built-in ones included.
    pub prompts: BTreeMap<String, Prompt>,
    /// Its providers of language models.
    pub providers: BTreeMap<Integration, ProviderConfig>,
    /// What is declared of task types.
    pub task_types: BTreeMap<TaskType, TaskTypeConfig>,
    /// The team's default retry policy.
    pub retry: RetryPolicy,
    /// The default breaker of an integration.
    pub breaker: BreakerConfig,
    /// How the CEO decides.
    pub ceo: CeoConfig,
    /// When and how humans are called.
    pub escalation: EscalationConfig,
    /// The operator's door.
    pub api: ApiConfig,
    /// How long running work may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// SHA-256 over everything that was read, first 12 hex digits: which configuration was in force.
    pub fingerprint: String,
}

/// Which wire a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI Chat Completions, and everything compatible with it.
    OpenAi,
    /// Google Gemini generateContent.
    Gemini,
    /// Ollama's own chat.
    Ollama,
}

/// A provider of language models.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Which wire it speaks.
    pub wire: Wire,
    /// Where it is, without a trailing slash.
    pub base_url: String,
    /// Its key; absent for providers that want none.
    pub api_key: Option<SecretString>,
    /// Run by the operator? Then a refused connection is infrastructure, not weather.
    pub self_hosted: bool,
    /// More headers for each request, such as Azure's or OpenRouter's.
    pub headers: BTreeMap<String, String>,
    /// Its own retry policy, above the team's.
    pub retry: Option<RetryPolicy>,
    /// Its own breaker.
    pub breaker: Option<BreakerConfig>,
    /// Its timers.
    pub timeouts: Timeouts,
    /// What is known of its models.
    pub models: BTreeMap<String, ModelFacts>,
}

/// What is known of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// How many tokens its context holds.
    pub context: Option<u64>,
    /// US dollars for a million tokens read. Unknown is unknown, never 0.
    pub usd_per_million_input: Option<f64>,
    /// US dollars for a million tokens written.
    pub usd_per_million_output: Option<f64>,
}

/// The timers of a model call; each ends the call with its own reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From then until the first byte of the response.
    pub first_byte: Duration,
    /// From then until the first content.
    pub first_content: Duration,
    /// Between two pieces of content; pings and comments do not count.
    pub idle: Duration,
    /// In all.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Connect 5 s and total 600 s are the official SDKs'; the others tell slow from hung.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            first_content: Duration::from_secs(120),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(600),
        }
    }
}

/// What is declared of a task type.
#[derive(Clone, Debug, Default)]
pub struct TaskTypeConfig {
    /// What doing it does to the world; undeclared means mutation, and `check` says so.
    pub effect: Option<Effect>,
    /// Its retry policy, above the agent's.
    pub retry: Option<RetryPolicy>,
    /// Which prompt renders it.
    pub prompt: Option<String>,
    /// Its urgency unless said at submission.
    pub priority: Option<Priority>,
    /// The schema its payload must meet.
    pub input_schema: Option<Value>,
    /// The schema its answer must meet, above the agent's.
    pub output_schema: Option<Value>,
}

/// How the CEO decides.
#[derive(Clone, Debug, PartialEq)]
pub struct CeoConfig {
    /// The language model that may choose among admissible decisions; none: the table decides alone.
    pub adviser: Option<AdviserConfig>,
}

/// The CEO's adviser and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct AdviserConfig {
    /// Which model.
    pub model: ModelRef,
    /// How long it may take; then the table decides.
    pub within: Duration,
    /// How many tokens it may write.
    pub max_output_tokens: u32,
    /// How many US dollars its advice may cost in an hour, in millionths; beyond, the table decides.
    pub micro_usd_per_hour: u64,
}

/// When and how humans are called.
#[derive(Clone, Debug)]
pub struct EscalationConfig {
    /// How many dead letters within `window` call a human (seed B: 3).
    pub threshold: u32,
    /// The sliding window (seed B: one hour).
    pub window: Duration,
    /// After how long without acknowledgement the page goes out again, to the next person (R4: 15 minutes).
    pub repage_after: Duration,
    /// How often at most (R4: 4).
    pub repages_max: u32,
    /// After how long an acknowledged incident is brought up again (R5: one hour).
    pub reminder_after: Duration,
    /// Who is called, in order.
    pub on_call: Vec<OnCall>,
    /// What the page tells the human to do first; the built-in text when absent.
    pub runbook: Option<String>,
}

/// A step of the escalation: through which channels one person is reached.
#[derive(Clone, Debug)]
pub struct OnCall {
    /// Whom, for people.
    pub name: String,
    /// Through what.
    pub channels: Vec<ChannelConfig>,
}

/// A channel to a human.
#[derive(Clone, Debug)]
pub enum ChannelConfig {
    /// PagerDuty Events v2.
    PagerDuty {
        /// The integration's routing key.
        routing_key: SecretString,
        /// Where events go; `https://events.pagerduty.com/v2/enqueue` unless told otherwise.
        url: String,
    },
    /// E-mail through SMTP.
    Email {
        /// `smtp://` or `smtps://`, with credentials if any.
        smtp: SecretString,
        /// The sender.
        from: String,
        /// The recipients.
        to: Vec<String>,
    },
    /// A signed POST.
    Webhook {
        /// Where.
        url: String,
        /// The key of its HMAC-SHA256 signature.
        secret: SecretString,
    },
    /// A line at ERROR in the log. Always there, as the last resort.
    Log,
}

/// The operator's door.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: std::net::SocketAddr,
    /// What callers must present; without one only loopback is served.
    pub token: Option<SecretString>,
}
