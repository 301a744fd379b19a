//! What somebody asked the team to do: a task, its names, its effect on the world and its urgency.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::time::Timestamp;

/// The identity of a task: a UUID v7, so that ids sort by the time they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// A new id from the time of submission and 80 random bits (RFC 9562, section 5.7).
    #[must_use]
    pub fn new(now: Timestamp, dice: [u8; 10]) -> Self {
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &dice).into_uuid())
    }

    /// The id as a UUID.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        Uuid::try_parse(text).map(Self).map_err(|_| TaskError::NotAnId(text.to_owned()))
    }
}

/// What is wrong with a task somebody submitted. Each names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// Not a task id.
    #[error("`{0}` is not a task id; `backstop task ls -o name` lists them")]
    NotAnId(String),
    /// An idempotency key outside 1 to 255 characters, or with control characters.
    #[error("idempotency key: {0}")]
    BadKey(&'static str),
    /// A name that does not follow the rules of names.
    #[error("{field} `{name}`: {why}")]
    BadName {
        /// Which field it stood in.
        field: &'static str,
        /// What stood there, cut to 80 characters.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A word that is none of a closed set.
    #[error("{field} `{word}` is not one of {allowed}")]
    UnknownWord {
        /// Which field it stood in.
        field: &'static str,
        /// What stood there.
        word: String,
        /// The words that may stand there.
        allowed: &'static str,
    },
    /// A payload over the limit.
    #[error("payload is {size} bytes; the limit is {limit}")]
    PayloadTooLarge {
        /// Its size as JSON, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Checks a name used in files, URLs and metrics: 1 to 64 characters of `a-z A-Z 0-9 _ - .`, the first a letter or digit.
fn check_name(field: &'static str, name: &str) -> Result<(), TaskError> {
    let bad = |why| Err(TaskError::BadName { field, name: name.chars().take(80).collect(), why });
    match name.chars().next() {
        None => return bad("must not be empty"),
        Some(first) if !first.is_ascii_alphanumeric() => return bad("must begin with a letter or a digit"),
        Some(_) => {}
    }
    if name.len() > 64 {
        return bad("must have at most 64 characters");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
        return bad("may only hold letters, digits, `_`, `-` and `.`");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $Name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $Name(String);

        impl $Name {
            /// The name, checked.
            ///
            /// # Errors
            /// When it is empty, longer than 64 characters, or holds anything but letters, digits, `_`, `-` and `.`.
            pub fn new(name: impl Into<String>) -> Result<Self, TaskError> {
                let name = name.into();
                check_name($field, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $Name {
            type Err = TaskError;

            fn from_str(text: &str) -> Result<Self, TaskError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $Name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of an agent, such as `cto`: the stem of its file in `agents/`.
    AgentName, "agent"
}
name! {
    /// The type of a task, such as `code_review`: what decides which agents can do it and which policy applies.
    TaskType, "type"
}
name! {
    /// The name of an integration, such as `anthropic`: one remote party with one health, one breaker and one gate.
    Integration, "integration"
}

/// The caller's name for a submission: the same key and content is the same task (1 to 255 characters, no control characters).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key, checked. 255 characters is Stripe's limit, which callers know.
    ///
    /// # Errors
    /// When it is empty, longer than 255 characters or holds a control character.
    pub fn new(key: impl Into<String>) -> Result<Self, TaskError> {
        let key = key.into();
        match key.chars().count() {
            0 => return Err(TaskError::BadKey("must not be empty; leave it out to have none")),
            1..=255 => {}
            _ => return Err(TaskError::BadKey("must have at most 255 characters")),
        }
        if key.chars().any(char::is_control) {
            return Err(TaskError::BadKey("must not hold control characters"));
        }
        Ok(Self(key))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $Name:ident, $field:literal, $allowed:literal { $($(#[$vdoc:meta])* $Variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $Name { $($(#[$vdoc])* #[serde(rename = $word)] $Variant),+ }

        impl $Name {
            /// Every one of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// The word for it in files, JSON, metrics and on screens.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$Variant => $word),+ }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $Name {
            type Err = $crate::task::TaskError;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$Variant),)+
                    _ => Err($crate::task::TaskError::UnknownWord { field: $field, word: word.to_owned(), allowed: $allowed }),
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What doing a task does to the world. Undeclared means mutation, the safe assumption.
    Effect, "effect", "read-only, notification, mutation, payment" {
        /// Nothing: it may be done again freely.
        ReadOnly = "read-only",
        /// Somebody is told: a few repeats are tolerable.
        Notification = "notification",
        /// Something is created or changed: repeated only while no side effect can have happened, or with an idempotency key.
        Mutation = "mutation",
        /// Money moves: never repeated automatically, by anybody.
        Payment = "payment",
    }
}

words! {
    /// How urgent a task is among those of its agent. Dispatch is 6 : 3 : 1, so that low is never starved.
    Priority, "priority", "high, normal, low" {
        /// First in every round.
        High = "high",
        /// The default.
        Normal = "normal",
        /// When there is room, and at least one in ten.
        Low = "low",
    }
}

/// The largest payload accepted, in bytes of JSON. An LLM context is a few megabytes of text at most.
pub const PAYLOAD_LIMIT: usize = 1024 * 1024;

/// A task as accepted: what was asked, by whom it is to be done, and what doing it does to the world. Never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// Its type, which decides policy and capable agents.
    #[serde(rename = "type")]
    pub task_type: TaskType,
    /// The agent it was addressed to (by name, or chosen by capability when it was accepted).
    pub agent: AgentName,
    /// The input, as JSON. Data, never instructions to the engine.
    pub payload: Value,
    /// What doing it does to the world.
    pub effect: Effect,
    /// How urgent it is.
    pub priority: Priority,
    /// The caller's name for this submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// When an answer is of no use any more; no delivery begins after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// On whose behalf: tenants share agents fairly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Which prompt template of `prompts/` renders it; `task` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

impl Task {
    /// What makes two submissions under one key the same: type and payload, regardless of key order and blanks.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.task_type, &self.payload)
    }
}

/// SHA-256 in hex over type and canonical JSON (object keys sorted, no blanks, as in RFC 8785).
#[must_use]
pub fn fingerprint(task_type: &TaskType, payload: &Value) -> String {
    let mut canonical = String::new();
    write_canonical(payload, &mut canonical);
    let mut hash = Sha256::new();
    hash.update(task_type.as_str().as_bytes());
    hash.update([0]);
    hash.update(canonical.as_bytes());
    hex(&hash.finalize())
}

/// Bytes as lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key under which one step of a workflow has its effect: the same on every attempt, by every agent and model,
/// another for each workflow, step and direction (`forward`, `compensate`).
#[must_use]
pub fn effect_key(workflow: &str, step: &str, direction: &str) -> IdempotencyKey {
    let mut hash = Sha256::new();
    for part in [workflow, step, direction] {
        // With its length before it, no part can be mistaken for the end of another.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    IdempotencyKey(format!("effect-{}", hex(&hash.finalize())))
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_sort_by_time_and_read_back() {
        let early = TaskId::new(Timestamp::from_millis(1_000), [255; 10]);
        let late = TaskId::new(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!("42".parse::<TaskId>().is_err());
    }

    #[test]
    fn names_and_words_say_what_is_wrong() {
        assert_eq!(AgentName::new("").expect_err("empty").to_string(), "agent ``: must not be empty");
        assert_eq!(
            TaskType::new("code review").expect_err("blank").to_string(),
            "type `code review`: may only hold letters, digits, `_`, `-` and `.`"
        );
        assert!(AgentName::new("a".repeat(64)).is_ok());
        assert!(AgentName::new("a".repeat(65)).is_err());
        assert_eq!(
            "paymant".parse::<Effect>().expect_err("typo").to_string(),
            "effect `paymant` is not one of read-only, notification, mutation, payment"
        );
    }

    #[test]
    fn fingerprints_ignore_key_order_but_not_array_order() {
        let mail = TaskType::new("mail").expect("a name");
        let of = |value| fingerprint(&mail, &value);
        assert_eq!(of(json!({"to": "a", "n": {"y": 1, "x": 2}})), of(json!({"n": {"x": 2, "y": 1}, "to": "a"})));
        assert_ne!(of(json!(["a", "b"])), of(json!(["b", "a"])));
        assert_ne!(fingerprint(&TaskType::new("pay").expect("a name"), &json!({})), of(json!({})));
    }
}
