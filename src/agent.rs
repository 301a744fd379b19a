//! Who does the work: an agent's definition, what it handles and for whom it may stand in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::retry::RetryPolicy;
use crate::task::{AgentName, Effect, Integration, TaskError, TaskType};

/// A language model of a provider, written `provider/model`, such as `anthropic/claude-opus-5-5`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRef {
    /// The integration that serves it: a key of `providers` in `backstop.yaml`.
    pub provider: Integration,
    /// The model's name as the provider knows it; may itself hold slashes.
    pub model: String,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.provider, self.model))
    }
}

impl FromStr for ModelRef {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        let bad = |why| TaskError::BadName { field: "model", name: text.chars().take(80).collect(), why };
        let (provider, model) = text.split_once('/').ok_or_else(|| bad("must be written provider/model"))?;
        if model.is_empty() || model.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("needs a model name without blanks after the slash"));
        }
        Ok(Self { provider: Integration::new(provider)?, model: model.to_owned() })
    }
}

impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One start of an agent's actor. Grows with every restart; work of an older one is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// An agent as defined: `agents/<name>.md`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name, the stem of its file.
    pub name: AgentName,
    /// What it is for, in a sentence; the CEO's adviser reads it.
    pub description: String,
    /// The model it asks.
    pub model: ModelRef,
    /// The models the CEO may fall back to, in order of preference.
    pub fallback_models: Vec<ModelRef>,
    /// The task types it accepts: names, or patterns ending in `*`. Empty: only tasks addressed to it by name.
    pub handles: Vec<String>,
    /// The agents whose work the CEO may reassign to it.
    pub covers_for: Vec<AgentName>,
    /// The JSON Schema its answers must meet; a miss is a validation failure.
    pub output_schema: Option<Value>,
    /// Its own retry policy, above the integration's and the team's.
    pub retry: Option<RetryPolicy>,
    /// How many tasks it works on at once. More is faster and spends faster.
    pub concurrency: u32,
    /// The most tokens one answer may have.
    pub max_output_tokens: u32,
    /// The most one task may cost, in millionths of a US dollar; none: no limit of the agent's own.
    pub max_micro_usd: Option<u64>,
    /// The most it may spend within an hour on all its tasks, in millionths of a US dollar; none: only the team's caps.
    pub max_micro_usd_per_hour: Option<u64>,
    /// The most calls of a model in one round of a task. Turned up: longer work is finished, a loop costs more.
    pub max_steps: u32,
    /// The most calls of tools in one answer. Turned up: larger batches, more done before anybody looks.
    pub max_tool_calls: u32,
    /// The most tokens it may read and write within a minute. Turned up: a runaway is noticed later.
    pub max_tokens_per_minute: u64,
    /// How long a task may go without a finished step. Turned up: slow tools are waited for, hung ones too.
    pub stall: Duration,
    /// The tools it may use, by name or pattern.
    pub tools: Vec<String>,
    /// How many deaths it survives.
    pub restart: RestartLimits,
    /// Its system prompt: the body of its file, a template.
    pub system_prompt: String,
}

/// How many deaths of an agent are survived within a window; one more is a crash loop. Those of one task count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartLimits {
    /// So many are survived. Turned up: a sick agent burns work for longer.
    pub max: u32,
    /// Counted within this window.
    pub within: Duration,
}

impl Default for RestartLimits {
    /// More than 5 in 10 minutes is a crash loop: restarts wait 0.5 s doubling, so fewer could be one bad minute.
    fn default() -> Self {
        Self { max: 5, within: Duration::from_secs(600) }
    }
}

impl Agent {
    /// Tasks an agent works on at once, unless it says otherwise.
    pub const CONCURRENCY: u32 = 2;
    /// Tokens one answer may have, unless the agent says otherwise: what every vendor's current models allow.
    pub const MAX_OUTPUT_TOKENS: u32 = 8_000;
    /// Model calls of one round of a task, unless the agent says otherwise.
    pub const MAX_STEPS: u32 = 50;
    /// Tool calls of one answer, unless the agent says otherwise.
    pub const MAX_TOOL_CALLS: u32 = 64;
    /// Tokens read and written within a minute, unless the agent says otherwise: a full context of today's models.
    pub const MAX_TOKENS_PER_MINUTE: u64 = 1_000_000;
    /// The longest without a finished step, unless the agent says otherwise: longer than a model call may take in all.
    pub const STALL: Duration = Duration::from_secs(15 * 60);

    /// An agent that asks `model`, with every default. It takes tasks addressed to it until [`Agent::handling`] says more.
    ///
    /// # Errors
    /// When the name breaks the rules of names, or the model is not written `provider/model`.
    pub fn new(name: &str, model: &str) -> Result<Self, TaskError> {
        Ok(Self {
            name: AgentName::new(name)?,
            description: String::new(),
            model: model.parse()?,
            fallback_models: Vec::new(),
            handles: Vec::new(),
            covers_for: Vec::new(),
            output_schema: None,
            retry: None,
            concurrency: Self::CONCURRENCY,
            max_output_tokens: Self::MAX_OUTPUT_TOKENS,
            max_micro_usd: None,
            max_micro_usd_per_hour: None,
            max_steps: Self::MAX_STEPS,
            max_tool_calls: Self::MAX_TOOL_CALLS,
            max_tokens_per_minute: Self::MAX_TOKENS_PER_MINUTE,
            stall: Self::STALL,
            tools: Vec::new(),
            restart: RestartLimits::default(),
            system_prompt: String::new(),
        })
    }

    /// With one more type of task it accepts: a name, or a pattern ending in `*`.
    #[must_use]
    pub fn handling(mut self, pattern: impl Into<String>) -> Self {
        self.handles.push(pattern.into());
        self
    }

    /// With one more model the CEO may fall back to.
    ///
    /// # Errors
    /// When the model is not written `provider/model`.
    pub fn falling_back_to(mut self, model: &str) -> Result<Self, TaskError> {
        self.fallback_models.push(model.parse()?);
        Ok(self)
    }

    /// With one more agent whose work it may be given.
    ///
    /// # Errors
    /// When the name breaks the rules of names.
    pub fn covering_for(mut self, agent: &str) -> Result<Self, TaskError> {
        self.covers_for.push(AgentName::new(agent)?);
        Ok(self)
    }

    /// With this system prompt, a template.
    #[must_use]
    pub fn told(mut self, system_prompt: impl Into<String>) -> Self {
        self.system_prompt = system_prompt.into();
        self
    }

    /// With this schema for its answers.
    #[must_use]
    pub fn answering(mut self, schema: Value) -> Self {
        self.output_schema = Some(schema);
        self
    }

    /// Does it accept tasks of this type?
    #[must_use]
    pub fn handles(&self, task_type: &TaskType) -> bool {
        self.handles.iter().any(|pattern| matches_pattern(pattern, task_type.as_str()))
    }

    /// May the CEO give it this task of `from`? It covers for that agent, or handles the type itself.
    #[must_use]
    pub fn can_take_over(&self, from: &AgentName, task_type: &TaskType) -> bool {
        self.name != *from && (self.covers_for.contains(from) || self.handles(task_type))
    }

    /// What asking its model for a task does to the world, as far as trying again is concerned. With tools it acts through
    /// them, and the journal knows of each call whether it may be made again: the asking itself moves no money. Without,
    /// the asking is the act.
    #[must_use]
    pub fn effect_of_asking(&self, of_task: Effect) -> Effect {
        match of_task {
            Effect::Payment if !self.tools.is_empty() => Effect::Mutation,
            Effect::ReadOnly | Effect::Notification | Effect::Mutation | Effect::Payment => of_task,
        }
    }
}

/// `*` at the end of a pattern stands for any rest; anything else must be equal.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_written_provider_slash_model() {
        let model: ModelRef = "openrouter/meta-llama/llama-3.3".parse().expect("a model");
        assert_eq!((model.provider.as_str(), model.model.as_str()), ("openrouter", "meta-llama/llama-3.3"));
        assert_eq!(model.to_string(), "openrouter/meta-llama/llama-3.3");
        for wrong in ["opus", "anthropic/", "/opus", "anthropic/claude opus"] {
            assert!(wrong.parse::<ModelRef>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn asking_moves_money_where_there_are_no_tools_to_move_it() {
        for (tools, of_task, expected) in [
            (&[][..], Effect::Payment, Effect::Payment),
            (&["mcp:bank/*"], Effect::Payment, Effect::Mutation),
            (&["mcp:bank/*"], Effect::ReadOnly, Effect::ReadOnly),
            (&["mcp:bank/*"], Effect::Notification, Effect::Notification),
        ] {
            let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
            let agent = Agent { tools, ..Agent::new("a", "local/a").expect("an agent") };
            assert_eq!(agent.effect_of_asking(of_task), expected, "{of_task} {:?}", agent.tools);
        }
    }

    #[test]
    fn patterns_end_in_a_star_or_are_exact() {
        for (pattern, name, expected) in [
            ("code_review", "code_review", true),
            ("architecture.*", "architecture.adr", true),
            ("*", "x", true),
            ("code", "code_review", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
