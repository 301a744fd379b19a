//! What a tool is to us: how it is named, who may use it, what calling it does, and whether a call may be repeated.
//!
//! The effect of a call is what the operator declares; else what a trusted server says of its own tool; else a mutation
//! that is never repeated blindly. A model's word counts for nothing here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::agent::matches_pattern;
use crate::task::{Effect, IdempotencyKey, Integration, TaskError, TaskId, effect_key, words};

/// The server of tools made in code by a library user.
pub const LOCAL: &str = "local";
/// The server of the built-in HTTP request. It has two tools, because what a call may do is said of a tool: [`GET`]
/// only reads, [`REQUEST`] is everything else.
pub const HTTP: &str = "http";
/// The tool of the HTTP server that reads.
pub const GET: &str = "get";
/// The tool of the HTTP server that may change something.
pub const REQUEST: &str = "request";

/// A tool of a server, written `server/tool`, such as `github/create_issue`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolRef {
    /// Whose: a key of `tools.mcp` in `backstop.yaml`, [`HTTP`] or [`LOCAL`]. An integration with a breaker of its own.
    pub server: Integration,
    /// Its name as the server knows it.
    pub tool: String,
}

impl fmt::Display for ToolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.server, self.tool))
    }
}

impl FromStr for ToolRef {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        let bad = |why| TaskError::BadName { field: "tool", name: text.chars().take(80).collect(), why };
        let (server, tool) = text.split_once('/').ok_or_else(|| bad("must be written server/tool"))?;
        if tool.is_empty() || tool.chars().any(char::is_control) {
            return Err(bad("needs a tool's name after the slash"));
        }
        Ok(Self { server: Integration::new(server)?, tool: tool.to_owned() })
    }
}

impl Serialize for ToolRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ToolRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl ToolRef {
    /// May an agent with these patterns use it? `mcp:server/tool`, `mcp:server/*`, `mcp:*`, `http` (all the built-in
    /// HTTP request can do), `http:get` (only reading), `http:request`, or the name of a tool made in code. Nothing
    /// listed, nothing allowed.
    #[must_use]
    pub fn allowed(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| match pattern.strip_prefix("mcp:") {
            Some(pattern) => {
                !matches!(self.server.as_str(), LOCAL | HTTP) && matches_pattern(pattern, &self.to_string())
            }
            None => match self.server.as_str() {
                HTTP => pattern == HTTP || pattern.strip_prefix("http:") == Some(self.tool.as_str()),
                LOCAL => matches_pattern(pattern, &self.tool),
                _ => false,
            },
        })
    }

    /// Its name for models: letters, digits, `_` and `-`, at most 64 of them, as every vendor wants. Tools of MCP
    /// servers have their server's name before theirs, so that two servers may each have a `search`.
    #[must_use]
    pub fn wire_name(&self) -> String {
        let plain = match self.server.as_str() {
            HTTP => format!("http_{}", self.tool),
            LOCAL => self.tool.clone(),
            server => format!("{server}__{}", self.tool),
        };
        let clean: String =
            plain.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        // The first `__` ends the server's name. Where it would not, `a__b` with `c` reads like `a` with `b__c`.
        let ends_elsewhere = match self.server.as_str() {
            HTTP | LOCAL => false,
            server => server.contains("__") || server.ends_with('_'),
        };
        if clean == plain && clean.len() <= 64 && !ends_elsewhere {
            return clean;
        }
        // What had to be changed must not fall together with another name.
        let mark: String =
            effect_key(self.server.as_str(), &self.tool, "name").as_str().chars().rev().take(8).collect();
        format!("{}_{mark}", clean.chars().take(55).collect::<String>())
    }
}

words! {
    /// May a call be made again when nobody knows whether it happened?
    Repeat, "repeat", "freely, same-key, never" {
        /// Yes: it changes nothing.
        Freely = "freely",
        /// Yes, under the same idempotency key: the other side takes it for the same call.
        SameKey = "same-key",
        /// No: only a look or a person can tell.
        Never = "never",
    }
}

/// What a call does to the world, and whether it may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallClass {
    /// What it does.
    pub effect: Effect,
    /// Whether it may be repeated blindly.
    pub repeat: Repeat,
}

/// What a server says of its own tool (MCP's annotations); absent means the protocol's default. Believed of trusted
/// servers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `readOnlyHint`, by default false.
    pub read_only: Option<bool>,
    /// `destructiveHint`, by default true.
    pub destructive: Option<bool>,
    /// `idempotentHint`, by default false.
    pub idempotent: Option<bool>,
}

/// What the operator declares of a tool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolRule {
    /// What calling it does.
    pub effect: Option<Effect>,
    /// Does the other side take two calls with the same key for one?
    pub idempotent: Option<bool>,
    /// Where the key goes, unless [`KeyPlace::Default`] serves.
    pub key: KeyPlace,
    /// How to find out whether a call happened.
    pub probe: Option<Probe>,
    /// How long a call may take; the server's timeout when absent.
    pub timeout: Option<Duration>,
}

/// Where the idempotency key of a call goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyPlace {
    /// MCP: `_meta` under `backstop/idempotency-key`; HTTP: the header `Idempotency-Key`; code: handed over.
    #[default]
    Default,
    /// A header of this name (HTTP).
    Header(String),
    /// An argument of this name, laid over whatever the model wrote there.
    Argument(String),
}

/// A read-only call that tells whether another call happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The tool, of the same server.
    pub tool: String,
    /// Its arguments; `$key` stands for the idempotency key, `$arguments.name` for an argument of the call in doubt.
    pub arguments: Map<String, Value>,
    /// It happened if the answer has this.
    pub happened: Sign,
    /// It did not if the answer has this. Neither, or both: a person is asked.
    pub did_not_happen: Sign,
}

/// What is looked for in a probe's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    /// Where, as a JSON pointer into the answer; empty for the whole of it.
    pub at: String,
    /// What stands there.
    pub is: Value,
}

impl Sign {
    /// Is it in this answer? An answer that is no JSON is a text.
    #[must_use]
    pub fn seen_in(&self, answer: &str) -> bool {
        let value = serde_json::from_str(answer).unwrap_or_else(|_| Value::String(answer.to_owned()));
        value.pointer(&self.at) == Some(&self.is)
    }
}

impl Probe {
    /// Its arguments for one call in doubt. An argument the call did not have is `null`.
    #[must_use]
    pub fn arguments_for(&self, key: &IdempotencyKey, call: &Value) -> Value {
        let filled = |value: &Value| match value.as_str() {
            Some("$key") => Value::String(key.as_str().to_owned()),
            Some(text) => match text.strip_prefix("$arguments.") {
                Some(name) => call.get(name).cloned().unwrap_or(Value::Null),
                None => value.clone(),
            },
            None => value.clone(),
        };
        Value::Object(self.arguments.iter().map(|(name, value)| (name.clone(), filled(value))).collect())
    }

    /// What its answer says: happened, did not, or nothing (`None`).
    #[must_use]
    pub fn verdict(&self, answer: &str) -> Option<bool> {
        match (self.happened.seen_in(answer), self.did_not_happen.seen_in(answer)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) | (false, false) => None,
        }
    }
}

/// The class of a tool's calls: declared, else hinted by a trusted server, else a mutation that is never repeated.
///
/// Money is never repeated, whatever anybody says of it.
#[must_use]
pub fn class(rule: Option<&ToolRule>, hints: Option<&Hints>, trusted: bool) -> CallClass {
    let hints = hints.filter(|_| trusted).copied().unwrap_or_default();
    let hinted = if hints.read_only == Some(true) { Effect::ReadOnly } else { Effect::Mutation };
    let effect = rule.and_then(|rule| rule.effect).unwrap_or(hinted);
    let idempotent = rule.and_then(|rule| rule.idempotent).or(hints.idempotent).unwrap_or(false);
    let repeat = match effect {
        Effect::ReadOnly => Repeat::Freely,
        Effect::Payment => Repeat::Never,
        // A few of the same are tolerable, and the key lets the other side tell them.
        Effect::Notification => Repeat::SameKey,
        Effect::Mutation if idempotent => Repeat::SameKey,
        Effect::Mutation => Repeat::Never,
    };
    CallClass { effect, repeat }
}

/// The key under which one call of a task has its effect: the same on every attempt, by every agent, model and vendor.
#[must_use]
pub fn call_key(task: TaskId, ask: u32, index: usize) -> IdempotencyKey {
    effect_key(&task.to_string(), &format!("{ask}.{index}"), "forward")
}

/// Words in a tool's name that smell of money: `check` warns when such a tool is not declared a payment.
pub const MONEY: &[&str] = &["pay", "charge", "refund", "transfer", "payout", "invoice", "purchase", "withdraw"];

/// Does this name smell of money?
#[must_use]
pub fn smells_of_money(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    MONEY.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(text: &str) -> ToolRef {
        text.parse().expect("a tool")
    }

    #[test]
    fn an_agent_may_use_what_is_listed_and_nothing_else() {
        for (name, patterns, expected) in [
            ("github/create_issue", &["mcp:github/*"][..], true),
            ("github/create_issue", &["mcp:github/create_issue"], true),
            ("github/create_issue", &["mcp:github/create"], false),
            ("github/create_issue", &["mcp:git/*"], false),
            ("github/create_issue", &["mcp:*"], true),
            ("github/create_issue", &["github/create_issue"], false),
            ("github/create_issue", &["*"], false),
            ("github/create_issue", &[], false),
            ("http/get", &["http"], true),
            ("http/request", &["http"], true),
            ("http/get", &["http:get"], true),
            ("http/request", &["http:get"], false),
            ("http/request", &["http:request"], true),
            ("http/get", &["mcp:*"], false),
            ("http/get", &["mcp:http/get"], false),
            ("http/get", &["*"], false),
            ("local/http", &["http:get"], false),
            ("local/weather", &["weather"], true),
            ("local/weather", &["wea*"], true),
            ("local/weather", &["mcp:*"], false),
            ("local/weather", &["mcp:local/weather"], false),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            assert_eq!(tool(name).allowed(&patterns), expected, "{name} {patterns:?}");
        }
    }

    #[test]
    fn names_for_models_are_plain_and_differ() {
        assert_eq!(tool("github/create_issue").wire_name(), "github__create_issue");
        assert_eq!(tool("http/request").wire_name(), "http_request");
        assert_eq!(tool("http/get").wire_name(), "http_get");
        assert_eq!(tool("local/weather").wire_name(), "weather");
        let odd = [tool("a.b/x"), tool("a_b/x"), tool("a/ä"), tool("a/ö"), tool(&format!("a/{}", "x".repeat(80)))];
        let names: std::collections::BTreeSet<String> = odd.iter().map(ToolRef::wire_name).collect();
        assert_eq!(names.len(), odd.len());
        for name in &names {
            assert!(
                name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')),
                "{name}"
            );
        }
    }

    /// Of the tools of two servers that had one name for models, the model was offered one and could not say which it
    /// meant: a payment could go to the other server.
    #[test]
    fn where_a_servers_name_ends_is_never_in_doubt() {
        let table =
            [("a__b/c", "a/b__c"), ("a_/_b", "a/__b"), ("a_/b", "a/_b"), ("a/_b", "a__/b"), ("a___b/c", "a/_b__c")];
        for (one, other) in table {
            assert_ne!(tool(one).wire_name(), tool(other).wire_name(), "{one} {other}");
        }
        assert_eq!(tool("a/b__c").wire_name(), "a__b__c", "a tool may be named as it likes");
    }

    #[test]
    fn declared_beats_hinted_beats_mutation() {
        let hints = |read_only, idempotent| Hints { read_only, destructive: None, idempotent };
        let rule = |effect, idempotent| ToolRule { effect, idempotent, ..ToolRule::default() };
        let table = [
            (None, None, true, Effect::Mutation, Repeat::Never),
            (None, Some(hints(Some(true), None)), true, Effect::ReadOnly, Repeat::Freely),
            (None, Some(hints(Some(true), None)), false, Effect::Mutation, Repeat::Never),
            (None, Some(hints(None, Some(true))), true, Effect::Mutation, Repeat::SameKey),
            (None, Some(hints(None, Some(true))), false, Effect::Mutation, Repeat::Never),
            (
                Some(rule(Some(Effect::Mutation), None)),
                Some(hints(Some(true), None)),
                true,
                Effect::Mutation,
                Repeat::Never,
            ),
            (Some(rule(None, Some(true))), None, false, Effect::Mutation, Repeat::SameKey),
            (Some(rule(None, Some(false))), Some(hints(None, Some(true))), true, Effect::Mutation, Repeat::Never),
            (Some(rule(Some(Effect::ReadOnly), None)), None, false, Effect::ReadOnly, Repeat::Freely),
            (Some(rule(Some(Effect::Notification), None)), None, false, Effect::Notification, Repeat::SameKey),
            (
                Some(rule(Some(Effect::Payment), Some(true))),
                Some(hints(Some(true), Some(true))),
                true,
                Effect::Payment,
                Repeat::Never,
            ),
        ];
        for (rule, hints, trusted, effect, repeat) in table {
            assert_eq!(
                class(rule.as_ref(), hints.as_ref(), trusted),
                CallClass { effect, repeat },
                "{rule:?} {hints:?} {trusted}"
            );
        }
    }

    #[test]
    fn a_probe_is_asked_with_key_and_arguments_and_says_yes_no_or_nothing() {
        let sign = |at: &str, is| Sign { at: at.to_owned(), is };
        let arguments = json!({"key": "$key", "amount": "$arguments.amount", "none": "$arguments.nothing", "fixed": 1});
        let probe = Probe {
            tool: "get_charge".to_owned(),
            arguments: arguments.as_object().expect("an object").clone(),
            happened: sign("/status", json!("succeeded")),
            did_not_happen: sign("/status", json!("none")),
        };
        let key = IdempotencyKey::new("k-1").expect("a key");
        assert_eq!(
            probe.arguments_for(&key, &json!({"amount": 5})),
            json!({"key": "k-1", "amount": 5, "none": null, "fixed": 1})
        );
        for (answer, expected) in [
            (r#"{"status":"succeeded"}"#, Some(true)),
            (r#"{"status":"none"}"#, Some(false)),
            (r#"{"status":"pending"}"#, None),
            ("the charge succeeded", None),
            ("", None),
        ] {
            assert_eq!(probe.verdict(answer), expected, "{answer}");
        }
        assert!(sign("", json!("yes")).seen_in("yes"), "a text is a JSON text");
    }

    #[test]
    fn keys_differ_by_task_step_and_place_only() {
        let task = |dice| TaskId::new(crate::time::Timestamp::from_millis(1), [dice; 10]);
        let keys = [call_key(task(1), 1, 0), call_key(task(1), 1, 1), call_key(task(1), 2, 0), call_key(task(2), 1, 0)];
        let unique: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(unique.len(), 4);
        assert_eq!(call_key(task(1), 1, 0), keys[0]);
    }
}
