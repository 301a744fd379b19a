//! The configuration of a team, known to be sound: what `backstop.yaml`, `agents/` and `prompts/` say, checked once.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

use crate::agent::{Agent, ModelRef};
use crate::breaker::BreakerConfig;
use crate::budget::Caps;
use crate::prices;
pub use crate::prices::ModelFacts;
use crate::prompt::{self, Prompt, Prompted};
use crate::retention::Retention;
use crate::retry::{Effective, Level, Levels, RetryPolicy};
use crate::task::{AgentName, Effect, Integration, Priority, TaskType};
use crate::tool::ToolRule;
pub use crate::tool_config::{Host, HostRule, HttpConfig, McpConfig, Setting, ToolsConfig, Transport, Verify};

/// How long after its provider's own timers a call is given up by the team.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long a call of a provider may take that is made in code and has no timers of its own.
pub const PATIENCE: Duration = Duration::from_secs(3_600);

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
    /// Its servers of tools, and what is declared of their tools.
    pub tools: ToolsConfig,
    /// The team's default retry policy.
    pub retry: RetryPolicy,
    /// The default breaker of an integration.
    pub breaker: BreakerConfig,
    /// What may be spent.
    pub budget: BudgetConfig,
    /// How the CEO decides.
    pub ceo: CeoConfig,
    /// When and how humans are called.
    pub escalation: EscalationConfig,
    /// The operator's door.
    pub api: ApiConfig,
    /// How long running work may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long what has ended is kept.
    pub retention: Retention,
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
    /// OpenAI Responses.
    Responses,
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
    /// More headers for each request, such as Azure's or OpenRouter's. What came from the environment is taken for a secret,
    /// and taken out of everything that is shown: what is none stands in the file.
    pub headers: BTreeMap<String, Setting>,
    /// Its own retry policy, above the team's.
    pub retry: Option<RetryPolicy>,
    /// Its own breaker.
    pub breaker: Option<BreakerConfig>,
    /// Its timers.
    pub timeouts: Timeouts,
    /// What is known of its models.
    pub models: BTreeMap<String, ModelFacts>,
}

impl ProviderConfig {
    /// A provider of this wire there, somebody else's, without a key and with what all have by default.
    #[must_use]
    pub fn new(wire: Wire, base_url: impl Into<String>) -> Self {
        Self {
            wire,
            base_url: base_url.into(),
            api_key: None,
            self_hosted: false,
            headers: BTreeMap::new(),
            retry: None,
            breaker: None,
            timeouts: Timeouts::default(),
            models: BTreeMap::new(),
        }
    }
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
    /// How its answer is verified before it is accepted.
    pub verify: Option<Verify>,
    /// The most one task of it may cost, in millionths of a US dollar; the agent's and the team's caps hold besides.
    pub max_micro_usd: Option<u64>,
}

/// What may be spent, in millionths of a US dollar; none: no cap of the team's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetConfig {
    /// On one task, over all its rounds. Turned up: long work is finished, a hopeless task costs more.
    pub micro_usd_per_task: Option<u64>,
    /// By the whole team within an hour. Turned up: a bad hour costs more.
    pub micro_usd_per_hour: Option<u64>,
    /// By the whole team within a day. Turned up: a bad night costs more.
    pub micro_usd_per_day: Option<u64>,
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
        /// What its webhooks (v3) are signed with, if they come here: who acknowledges there has acknowledged.
        webhook_secret: Option<SecretString>,
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
        /// Where. Some services take whoever knows the address for the one who may post.
        url: SecretString,
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
    /// What callers may present who only look: for dashboards and scrapers.
    pub read_token: Option<SecretString>,
}

/// Every default in one place, each with where it comes from.
pub mod defaults {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use crate::breaker::BreakerConfig;
    use crate::retry::RetryPolicy;

    /// How long running work may take to finish after SIGTERM: below the 30 s Kubernetes grants.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
    /// The door of `surfaces.md`: loopback only, because nothing is listened to without a token elsewhere.
    pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7420);
    /// Dead letters within [`ESCALATION_WINDOW`] that call a human (seed B: "3+ DLQ entries in 1 hour").
    pub const ESCALATION_THRESHOLD: u32 = 3;
    /// The sliding window of the escalation (seed B).
    pub const ESCALATION_WINDOW: Duration = Duration::from_secs(3_600);
    /// A page not acknowledged goes out again after this long.
    pub const REPAGE_AFTER: Duration = Duration::from_secs(15 * 60);
    /// And so many times at most.
    pub const REPAGES_MAX: u32 = 4;
    /// An acknowledged incident is brought up again after this long.
    pub const REMINDER_AFTER: Duration = Duration::from_secs(3_600);
    /// How long the CEO's adviser may take before the table decides.
    pub const ADVICE_WITHIN: Duration = Duration::from_secs(20);
    /// How many tokens the adviser may write.
    pub const ADVICE_TOKENS: u32 = 1_000;
    /// What advice may cost in an hour, in millionths of a US dollar.
    pub const ADVICE_MICRO_USD_PER_HOUR: u64 = 1_000_000;

    /// The names of the ready-made schedules.
    pub const PRESETS: &[&str] = &["patient", "quick"];

    /// A ready-made schedule: `patient` is seed B's to the letter, `quick` seed A's (1-2-4-8-16 s, up to 10 % later).
    #[must_use]
    pub fn preset(name: &str) -> Option<RetryPolicy> {
        match name {
            "patient" => Some(RetryPolicy::seed_b()),
            "quick" => Some(RetryPolicy::seed_a()),
            _ => None,
        }
    }

    /// Seed B's 3 deliveries, 30 s / 2 m / 5 m and 5-minute lease, with the jitter of DESIGN 3.2.
    #[must_use]
    pub fn retry() -> RetryPolicy {
        RetryPolicy::team_default()
    }

    /// Seed A: "5 failures in 30 seconds"; open for the 60 s that most outages of providers outlast a first probe by.
    #[must_use]
    pub fn breaker() -> BreakerConfig {
        BreakerConfig::default()
    }
}

impl Config {
    /// A team without agents, with every default and the built-in prompts: the start of a configuration written in code.
    #[must_use]
    pub fn new(team: impl Into<String>) -> Self {
        Self {
            team: team.into(),
            agents: BTreeMap::new(),
            prompts: prompt::builtin(),
            providers: BTreeMap::new(),
            task_types: BTreeMap::new(),
            tools: ToolsConfig::default(),
            retry: defaults::retry(),
            breaker: defaults::breaker(),
            budget: BudgetConfig::default(),
            ceo: CeoConfig { adviser: None },
            escalation: EscalationConfig {
                threshold: defaults::ESCALATION_THRESHOLD,
                window: defaults::ESCALATION_WINDOW,
                repage_after: defaults::REPAGE_AFTER,
                repages_max: defaults::REPAGES_MAX,
                reminder_after: defaults::REMINDER_AFTER,
                on_call: Vec::new(),
                runbook: None,
            },
            api: ApiConfig { listen: defaults::LISTEN, token: None, read_token: None },
            drain_timeout: defaults::DRAIN_TIMEOUT,
            retention: Retention::default(),
            fingerprint: String::new(),
        }
    }

    /// With this agent, in place of one of the same name.
    #[must_use]
    pub fn agent(mut self, agent: Agent) -> Self {
        self.agents.insert(agent.name.clone(), agent);
        self
    }

    /// With this prompt, in place of one of the same name.
    #[must_use]
    pub fn prompt(mut self, prompt: Prompt) -> Self {
        self.prompts.insert(prompt.name.clone(), prompt);
        self
    }

    /// With this provider of language models, in place of one of the same name.
    #[must_use]
    pub fn provider(mut self, name: Integration, provider: ProviderConfig) -> Self {
        self.providers.insert(name, provider);
        self
    }

    /// With this said of a type of task.
    #[must_use]
    pub fn task_type(mut self, name: TaskType, said: TaskTypeConfig) -> Self {
        self.task_types.insert(name, said);
        self
    }

    /// With this MCP server, in place of one of the same name.
    #[must_use]
    pub fn mcp(mut self, name: Integration, server: McpConfig) -> Self {
        self.tools.mcp.insert(name, server);
        self
    }

    /// With this host for the built-in HTTP request, in place of the same.
    #[must_use]
    pub fn http_host(mut self, host: Host, rule: HostRule) -> Self {
        self.tools.http.hosts.insert(host, rule);
        self
    }

    /// With this declared of a function made in code, above what its code says.
    #[must_use]
    pub fn local_tool(mut self, name: impl Into<String>, rule: ToolRule) -> Self {
        self.tools.local.insert(name.into(), rule);
        self
    }

    /// With this retry policy for the whole team.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// With this person called after those before.
    #[must_use]
    pub fn on_call(mut self, name: impl Into<String>, channels: Vec<ChannelConfig>) -> Self {
        self.escalation.on_call.push(OnCall { name: name.into(), channels });
        self
    }

    /// With these caps for the whole team.
    #[must_use]
    pub fn budget(mut self, budget: BudgetConfig) -> Self {
        self.budget = budget;
        self
    }

    /// What is known of a model: what the provider declares, and field by field what the dated table knows.
    #[must_use]
    pub fn model_facts(&self, model: &ModelRef) -> ModelFacts {
        let provider = self.providers.get(&model.provider);
        let declared = provider.and_then(|provider| provider.models.get(&model.model)).copied().unwrap_or_default();
        declared.or(prices::listed(model).unwrap_or_default())
    }

    /// The longest a call of a provider may take; then it is ended.
    #[must_use]
    pub fn call_takes(&self, provider: &Integration) -> Duration {
        let own = self.providers.get(provider);
        own.map_or(PATIENCE, |own| own.timeouts.total.saturating_add(GRACE))
    }

    /// What a model without a known price is taken to cost where money is set aside: the dearest that is known here.
    #[must_use]
    pub fn dearest(&self) -> ModelFacts {
        prices::dearest(self.providers.values().flat_map(|provider| provider.models.values().copied()))
    }

    /// The templates of its prompts and agents, read once.
    #[must_use]
    pub fn prompted(&self) -> Prompted {
        Prompted::new(&self.prompts, self.agents.values().map(|agent| agent.system_prompt.as_str()))
    }

    /// The caps on a call: for one task the smallest of its type's, its agent's and the team's.
    #[must_use]
    pub fn caps(&self, task_type: &TaskType, agent: &AgentName) -> Caps {
        let of_type = self.task_types.get(task_type).and_then(|said| said.max_micro_usd);
        let agent = self.agents.get(agent);
        let of_agent = agent.and_then(|agent| agent.max_micro_usd);
        Caps {
            task: [of_type, of_agent, self.budget.micro_usd_per_task].into_iter().flatten().min(),
            agent_hour: agent.and_then(|agent| agent.max_micro_usd_per_hour),
            team_hour: self.budget.micro_usd_per_hour,
            team_day: self.budget.micro_usd_per_day,
        }
    }

    /// The policy in force for a type of task in an agent's hands, calling an integration.
    #[must_use]
    pub fn policy(&self, task_type: &TaskType, agent: &AgentName, integration: &Integration) -> Effective {
        let [of_type, of_agent, of_provider] = self.policies_set(task_type, agent, integration);
        let level =
            |name: &str, policy: Option<&RetryPolicy>| Some(Level { name: name.to_owned(), policy: policy.cloned() });
        Levels {
            step: None,
            task_type: level(task_type.as_str(), of_type),
            agent: level(agent.as_str(), of_agent),
            integration: level(integration.as_str(), of_provider),
            team: self.retry.clone(),
        }
        .effective()
    }

    /// The policy of [`Config::policy`] by itself, without how it came about: asked at every step of a delivery.
    #[must_use]
    pub fn policy_in_force(&self, task_type: &TaskType, agent: &AgentName, integration: &Integration) -> &RetryPolicy {
        let set = self.policies_set(task_type, agent, integration);
        set.into_iter().flatten().next().unwrap_or(&self.retry)
    }

    /// What the task type, the agent and the integration set, in order of precedence.
    fn policies_set(
        &self,
        task_type: &TaskType,
        agent: &AgentName,
        integration: &Integration,
    ) -> [Option<&RetryPolicy>; 3] {
        [
            self.task_types.get(task_type).and_then(|declared| declared.retry.as_ref()),
            self.agents.get(agent).and_then(|agent| agent.retry.as_ref()),
            self.providers.get(integration).and_then(|provider| provider.retry.as_ref()),
        ]
    }

    /// The prompt that renders a task of this type: what the type names, else the prompt of the type's own name (also
    /// with `-` for `_`), else `task`.
    #[must_use]
    pub fn prompt_for<'a>(&'a self, task_type: &TaskType, asked: Option<&'a str>) -> &'a str {
        let declared = self.task_types.get(task_type).and_then(|said| said.prompt.as_deref());
        if let Some(name) = asked.or(declared) {
            return name;
        }
        let dashed = task_type.as_str().replace('_', "-");
        let named = |name: &str| self.prompts.get_key_value(name).map(|(name, _)| name.as_str());
        named(task_type.as_str()).or_else(|| named(&dashed)).unwrap_or("task")
    }

    /// The schema an answer must meet: the task type's, else the prompt's, else the agent's.
    #[must_use]
    pub fn output_schema(&self, task_type: &TaskType, prompt: &str, agent: &AgentName) -> Option<&Value> {
        let of_type = self.task_types.get(task_type).and_then(|said| said.output_schema.as_ref());
        let of_prompt = || self.prompts.get(prompt).and_then(|prompt| prompt.output_schema.as_ref());
        let of_agent = || self.agents.get(agent).and_then(|agent| agent.output_schema.as_ref());
        of_type.or_else(of_prompt).or_else(of_agent)
    }

    /// What doing a task of this type does to the world: declared by the type, else by its prompt, else mutation.
    #[must_use]
    pub fn effect(&self, task_type: &TaskType, prompt: &str) -> Effect {
        let of_type = self.task_types.get(task_type).and_then(|said| said.effect);
        of_type.or_else(|| self.prompts.get(prompt).and_then(|prompt| prompt.class)).unwrap_or(Effect::Mutation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team() -> (Config, TaskType, AgentName) {
        let agent = Agent::new("cto", "local/large").expect("an agent");
        let name = agent.name.clone();
        (Config::new("t").agent(agent), TaskType::new("review").expect("a type"), name)
    }

    fn provider() -> ProviderConfig {
        ProviderConfig { self_hosted: true, ..ProviderConfig::new(Wire::OpenAi, "http://localhost") }
    }

    #[test]
    fn the_smallest_cap_on_a_task_wins() {
        for (of_type, of_agent, of_team, expected) in [
            (None, None, None, None),
            (Some(3), None, None, Some(3)),
            (None, Some(2), Some(3), Some(2)),
            (Some(2), Some(3), Some(1), Some(1)),
            (Some(1), Some(2), Some(3), Some(1)),
        ] {
            let (mut config, task_type, agent) = team();
            config.agents.get_mut(&agent).expect("there").max_micro_usd = of_agent;
            config.budget.micro_usd_per_task = of_team;
            let config = config
                .task_type(task_type.clone(), TaskTypeConfig { max_micro_usd: of_type, ..TaskTypeConfig::default() });
            assert_eq!(config.caps(&task_type, &agent).task, expected, "{of_type:?} {of_agent:?} {of_team:?}");
        }
    }

    #[test]
    fn the_policy_in_force_is_the_one_that_wins() {
        let integration = Integration::new("local").expect("a name");
        let of = |max_deliveries| RetryPolicy { max_deliveries, ..RetryPolicy::team_default() };
        for (of_type, of_agent, of_provider, expected) in
            [(2, 4, 5, 2), (0, 4, 5, 4), (0, 0, 5, 5), (2, 0, 0, 2), (0, 0, 0, 9)]
        {
            let (mut config, task_type, agent) = team();
            let set = |max: u32| (max > 0).then(|| of(max));
            config.retry = of(9);
            config.agents.get_mut(&agent).expect("there").retry = set(of_agent);
            let said = TaskTypeConfig { retry: set(of_type), ..TaskTypeConfig::default() };
            let provider = ProviderConfig { retry: set(of_provider), ..provider() };
            let config = config.task_type(task_type.clone(), said).provider(integration.clone(), provider);
            let policy = config.policy_in_force(&task_type, &agent, &integration);
            assert_eq!(policy.max_deliveries, expected, "{of_type} {of_agent} {of_provider}");
            assert_eq!(*policy, config.policy(&task_type, &agent, &integration).policy);
        }
    }

    #[test]
    fn caps_by_time_are_the_agents_and_the_teams() {
        let (mut config, task_type, agent) = team();
        config.agents.get_mut(&agent).expect("there").max_micro_usd_per_hour = Some(5);
        let config = config.budget(BudgetConfig {
            micro_usd_per_task: None,
            micro_usd_per_hour: Some(7),
            micro_usd_per_day: Some(9),
        });
        let expected = Caps { task: None, agent_hour: Some(5), team_hour: Some(7), team_day: Some(9) };
        assert_eq!(config.caps(&task_type, &agent), expected);
        let nobody = AgentName::new("nobody").expect("a name");
        assert_eq!(config.caps(&task_type, &nobody), Caps { agent_hour: None, ..expected });
    }
}
