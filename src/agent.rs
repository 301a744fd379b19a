//! Who does the work: an agent's definition, what it handles and for whom it may stand in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::retry::RetryPolicy;
use crate::task::{AgentName, Integration, TaskError, TaskType};

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
    /// Its system prompt: the body of its file, a template.
    pub system_prompt: String,
}

impl Agent {
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
