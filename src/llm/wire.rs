//! What the five wire formats share: what goes out, what has come in so far, and whether it is an answer.
//!
//! Nothing here does I/O. An adapter translates a request into an [`Outgoing`] and reads frames into an [`Answer`];
//! `http.rs` sends the one and feeds the other.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::calling::{CALLS_LIMIT, Called};
use super::sse::Event;
use crate::cause::{Fault, Phase, Usage};
use crate::config::{ProviderConfig, Wire};
use crate::conversation::Opaque;

/// A request as HTTP. Not `Debug`: it holds the key.
pub(crate) struct Outgoing {
    /// Where to.
    pub(crate) url: String,
    /// Headers, the key among them; configured headers are added later and win.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The body, JSON.
    pub(crate) body: Value,
}

/// A struct read from a JSON object and from nothing else: alone, serde takes an array of its members for it as well.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, words: &mut fmt::Formatter<'_>) -> fmt::Result {
                words.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// What went wrong while an answer was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// How far it had come.
    pub(crate) phase: Phase,
    /// What broke.
    pub(crate) fault: Fault,
    /// The evidence: an error object, the event that ended the stream, the document.
    pub(crate) body: String,
    /// The raw stop reason, when that is the trouble.
    pub(crate) stop: Option<String>,
    /// In words.
    pub(crate) detail: String,
}

impl Trouble {
    pub(crate) fn new(phase: Phase, fault: Fault, detail: impl Into<String>) -> Self {
        Self { phase, fault, body: String::new(), stop: None, detail: detail.into() }
    }

    /// Not what the wire format promises.
    pub(crate) fn malformed(body: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { body: body.into(), ..Self::new(Phase::Decode, Fault::Malformed, detail) }
    }

    /// An error object instead of the answer.
    pub(crate) fn error_body(body: impl Into<String>) -> Self {
        Self { body: body.into(), ..Self::new(Phase::Body, Fault::ErrorBody, "an error in place of the answer") }
    }

    /// An error event where more of the answer was promised.
    pub(crate) fn error_event(data: impl Into<String>) -> Self {
        Self { body: data.into(), ..Self::new(Phase::Stream, Fault::ErrorEvent, "an error event in the stream") }
    }
}

/// How one frame moved the answer on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of content in it: text, thoughts, tool arguments. Pings have none.
    pub(crate) content: usize,
    /// Nothing more will come that we need.
    pub(crate) over: bool,
}

/// What has come so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// The text.
    pub(crate) text: String,
    /// The model, as it names itself.
    pub(crate) model: String,
    /// Tokens.
    pub(crate) usage: Usage,
    /// The raw stop reason: the terminal marker of every wire but Anthropic's, which has `over` besides.
    pub(crate) stop: Option<String>,
    /// Text of a refusal given in a field of its own.
    pub(crate) refusal: String,
    /// Why the prompt itself was blocked.
    pub(crate) blocked: Option<String>,
    /// Tools called, in the model's order.
    pub(crate) calls: Vec<Called>,
    /// What only the vendor understands, in order.
    pub(crate) opaque: Vec<Opaque>,
    /// The terminal marker was seen.
    pub(crate) complete: bool,
    /// The provider's name for this request, when the body has it.
    pub(crate) request_id: Option<String>,
    /// The data of the event, or the document, that carried the stop reason.
    pub(crate) last: String,
}

/// Reads one wire format.
pub(crate) trait Reader: Send + Sync {
    /// Takes an event of a stream.
    fn event(&mut self, event: &Event) -> Result<Step, Trouble>;

    /// Takes a body that came whole. `text` is the document as it was written.
    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble>;

    /// What has come so far.
    fn answer(&self) -> &Answer;

    /// Is this a stop reason of a usable answer? Any other is a failure, unknown ones included: what we do not know
    /// may mean that the answer is cut.
    fn stopped_well(&self, stop: &str) -> bool;

    /// Is this the stop reason of a turn that wants tools run?
    fn wants_tools(&self, stop: &str) -> bool;
}

/// Are these more calls than we take? Asked as they come, so that nobody fills our memory with them.
pub(crate) fn bounded(reader: &dyn Reader) -> Result<(), Trouble> {
    let calls = reader.answer().calls.len();
    if calls <= CALLS_LIMIT {
        return Ok(());
    }
    Err(Trouble::new(Phase::Semantic, Fault::Stop, format!("more than {CALLS_LIMIT} tool calls in one answer")))
}

/// Is what has come a usable answer? Asked once nothing more will come. `offered`: were there tools to call?
///
/// A call that its stop reason cut off is never one: half of its arguments may be sound JSON and mean something else.
pub(crate) fn verdict(reader: &dyn Reader, offered: bool) -> Result<(), Trouble> {
    bounded(reader)?;
    let answer = reader.answer();
    let stopped = |stop: &str, detail: String| Trouble {
        body: answer.last.clone(),
        stop: Some(stop.to_owned()),
        ..Trouble::new(Phase::Semantic, Fault::Stop, detail)
    };
    if !answer.complete {
        return Err(Trouble::new(Phase::Stream, Fault::Truncated, "the stream ended without its terminal event"));
    }
    if let Some(reason) = &answer.blocked {
        return Err(stopped(reason, format!("the prompt was blocked: {reason}")));
    }
    let stop = answer.stop.as_deref().unwrap_or_default();
    if !answer.refusal.trim().is_empty() {
        return Err(stopped("refusal", format!("refused in a field of its own; the stop reason is `{stop}`")));
    }
    let wants_tools = reader.wants_tools(stop) || (reader.stopped_well(stop) && !answer.calls.is_empty());
    if wants_tools && !offered && answer.calls.iter().any(|call| !is_json(&call.arguments)) {
        return Err(stopped(stop, "tool arguments are not JSON".to_owned()));
    }
    if wants_tools && !offered {
        let names: Vec<&str> = answer.calls.iter().map(|call| call.name.as_str()).collect();
        return Err(stopped(stop, format!("tools were called and none was offered: {}", names.join(", "))));
    }
    if wants_tools && answer.calls.is_empty() {
        return Err(stopped(stop, "stopped to call tools and called none".to_owned()));
    }
    if wants_tools && answer.calls.iter().any(|call| call.name.is_empty()) {
        return Err(stopped(stop, "a tool was called without a name".to_owned()));
    }
    // Arguments that are none are no failure of the answer: the model is told, call by call.
    if wants_tools {
        return Ok(());
    }
    if !reader.stopped_well(stop) {
        return Err(stopped(stop, format!("stopped for `{stop}`")));
    }
    if answer.text.trim().is_empty() {
        return Err(stopped(stop, "empty answer".to_owned()));
    }
    Ok(())
}

/// No arguments at all are an empty object.
fn is_json(arguments: &str) -> bool {
    arguments.trim().is_empty() || serde_json::from_str::<Value>(arguments).is_ok()
}

/// Reads the data of an event, or says that it is none.
pub(crate) fn parse(event: &Event) -> Result<Value, Trouble> {
    serde_json::from_str(&event.data).map_err(|error| Trouble::malformed(&*event.data, format!("not JSON: {error}")))
}

/// The error object in a frame or document, if it is one: `{"error": …}`, `{"type": "error"}`, `{"object": "error"}`,
/// and the same wrapped in a list.
pub(crate) fn is_error(value: &Value) -> bool {
    let value = unwrapped(value);
    value.get("error").is_some_and(says_something)
        || value.get("type").and_then(Value::as_str) == Some("error")
        || value.get("object").and_then(Value::as_str) == Some("error")
}

/// Some servers have an `error` member in every chunk, empty while all is well.
fn says_something(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// The only element of a list of one; anything else as it is.
fn unwrapped(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([only]) => only,
        Some(_) | None => value,
    }
}

/// The machine code in an error body, as the provider spells it: words before numbers, the more precise first.
pub(crate) fn code(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    let value = unwrapped(&value);
    // An event of Responses has the whole response in it.
    let value = value.get("response").filter(|response| response.is_object()).unwrap_or(value);
    let error = value.get("error").unwrap_or(value);
    let words = [
        error.pointer("/details/error_code"),
        error.get("code"),
        value.get("code"),
        // The envelope's own `type: error` is no code; it only shows when there is no inner object.
        error.get("type"),
        error.get("status"),
    ];
    let word = words.into_iter().flatten().filter_map(Value::as_str).find(|word| !word.is_empty());
    let number = || {
        [error.get("code"), value.get("code"), value.get("statusCode")]
            .into_iter()
            .flatten()
            .find(|code| code.is_number())
    };
    word.map(str::to_owned).or_else(|| number().map(Value::to_string))
}

/// A path after a base URL that may have a query of its own, as Azure's has.
pub(crate) fn join(base: &str, path: &str) -> String {
    match base.split_once('?') {
        Some((base, query)) => format!("{}{path}?{query}", base.trim_end_matches('/')),
        None => format!("{}{path}", base.trim_end_matches('/')),
    }
}

/// The host of a URL, without its port, in lower case.
pub(crate) fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

/// Has the URL nothing after its host?
pub(crate) fn is_bare(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/').find('/').is_none()
}

/// Vendors of the OpenAI wire with manners of their own: name and the end of their host.
const VENDORS: [(&str, &str); 7] = [
    ("openai", "api.openai.com"),
    ("azure_openai", ".azure.com"),
    ("groq", "api.groq.com"),
    ("mistral", "api.mistral.ai"),
    ("deepseek", "api.deepseek.com"),
    ("xai", "api.x.ai"),
    ("openrouter", "openrouter.ai"),
];

/// Servers an operator runs, or proxies, which only their name tells.
const SERVERS: [&str; 3] = ["vllm", "llama_cpp", "litellm_proxy"];

/// Who speaks, for those who judge failures: the wire's name, or the vendor's for a compatible wire. It is told by the
/// host; where that says nothing, by an integration that bears a known name (`llama-cpp` is `llama_cpp`).
pub(crate) fn vendor(integration: &str, config: &ProviderConfig) -> &'static str {
    match config.wire {
        Wire::Anthropic => return "anthropic",
        Wire::Gemini => return "gemini",
        Wire::Ollama => return "ollama",
        Wire::OpenAi | Wire::Responses => {}
    }
    let host = host(&config.base_url);
    let name = integration.to_ascii_lowercase().replace(['-', '.'], "_");
    let by_host = VENDORS.iter().find(|(_, end)| host.ends_with(end)).map(|(name, _)| *name);
    let by_name = || VENDORS.iter().map(|(vendor, _)| *vendor).chain(SERVERS).find(|vendor| *vendor == name);
    by_host.or_else(by_name).unwrap_or("openai")
}

/// What stands at a place such as `/choices/0`; no member named there has a slash or a tilde in it. As
/// [`Value::pointer`], which copies every name on the way twice: a stream asks ten times an event.
pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, step| match value {
        Value::Object(members) => members.get(step),
        Value::Array(items) => step.parse::<usize>().ok().and_then(|place| items.get(place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// A text member, or nothing.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A count of tokens, if it is there. More than any model can count is nonsense, and must not overflow our sums.
pub(crate) fn count(value: &Value, pointer: &str) -> Option<u64> {
    at(value, pointer).and_then(Value::as_u64).map(|count| count.min(1_000_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_most_precise_word_or_a_number() {
        for (body, expected) in [
            (
                r#"{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"ramp_limit_exceeded"}}}"#,
                Some("ramp_limit_exceeded"),
            ),
            (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, Some("overloaded_error")),
            (
                r#"{"error":{"type":"insufficient_quota","code":"credit_balance_exhausted"}}"#,
                Some("credit_balance_exhausted"),
            ),
            (r#"{"error":{"type":"server_error","code":null}}"#, Some("server_error")),
            (r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#, Some("RESOURCE_EXHAUSTED")),
            (r#"[{"error":{"code":503,"status":"UNAVAILABLE"}}]"#, Some("UNAVAILABLE")),
            (r#"{"error":{"code":402,"message":"x"}}"#, Some("402")),
            (r#"{"object":"error","type":"invalid_request_error","code":"3505"}"#, Some("3505")),
            (
                r#"{"code":"Some resource has been exhausted","error":"Your team"}"#,
                Some("Some resource has been exhausted"),
            ),
            (r#"{"statusCode":401,"message":"x"}"#, Some("401")),
            (
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded"}}}"#,
                Some("rate_limit_exceeded"),
            ),
            (r#"{"error":"server busy"}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(code(body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn paths_go_before_the_query_of_a_base_url() {
        for (base, expected) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
            (
                "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
                "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
        ] {
            assert_eq!(join(base, "/chat/completions"), expected);
        }
        assert_eq!(host("https://API.x.ai:443/v1"), "api.x.ai");
        assert!(is_bare("http://localhost:11434/") && !is_bare("https://example.com/v1"));
    }
}
