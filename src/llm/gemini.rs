//! Google Gemini generateContent, streamed as server-sent events.
//!
//! The answer is complete once a `finishReason` or a `blockReason` came. `promptTokenCount` includes what was cached;
//! `candidatesTokenCount` excludes the thoughts.

use serde_json::{Value, json};

use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use super::{Request, Role};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// The request as HTTP. A base URL without a path gets the version this was written for. The key goes into a header:
/// as a part of the URL it would be in every log.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>) -> Outgoing {
    let version = if wire::is_bare(&config.base_url) { "/v1beta" } else { "" };
    // A name with a slash is a resource of its own, such as `tunedModels/x`.
    let model = if request.model.contains('/') {
        escaped(&request.model)
    } else {
        format!("models/{}", escaped(&request.model))
    };
    let contents: Vec<Value> = request
        .messages
        .iter()
        .map(|message| json!({"role": role(message.role), "parts": [{"text": message.text}]}))
        .collect();
    let mut generation = json!({"maxOutputTokens": request.max_output_tokens});
    if let Some(schema) = &request.schema {
        generation["responseMimeType"] = json!("application/json");
        generation["responseJsonSchema"] = schema.clone();
    }
    let mut body = json!({"contents": contents, "generationConfig": generation});
    if !request.system.is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": request.system}]});
    }
    let url = wire::join(&config.base_url, &format!("{version}/{model}:streamGenerateContent"));
    let url = format!("{url}{}alt=sse", if url.contains('?') { '&' } else { '?' });
    Outgoing { url, headers: key.map(|key| ("x-goog-api-key", key.to_owned())).into_iter().collect(), body }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Assistant => "model",
    }
}

/// A model's name as a part of a path.
fn escaped(model: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'@' | b'/');
    model.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    answer: Answer,
}

impl Contents {
    /// Takes up one response, of which a stream has many. Returns bytes of content.
    fn take(&mut self, response: &Value, raw: &str) -> usize {
        if let Some(model) = response.get("modelVersion").and_then(Value::as_str) {
            model.clone_into(&mut self.answer.model);
        }
        if let Some(id) = response.get("responseId").and_then(Value::as_str) {
            self.answer.request_id = Some(id.to_owned());
        }
        if let Some(counts) = response.get("usageMetadata").filter(|counts| counts.is_object()) {
            self.answer.usage = usage(counts);
        }
        if let Some(reason) = response.pointer("/promptFeedback/blockReason").and_then(Value::as_str) {
            self.answer.blocked = Some(reason.to_owned());
            self.ends(reason, raw);
        }
        let Some(candidate) = response.pointer("/candidates/0") else { return 0 };
        let parts = candidate.pointer("/content/parts").and_then(Value::as_array);
        let content = parts.into_iter().flatten().map(|part| self.part(part)).sum();
        if let Some(reason) = candidate.get("finishReason").and_then(Value::as_str) {
            self.ends(reason, raw);
        }
        content
    }

    fn part(&mut self, part: &Value) -> usize {
        let text = wire::text(part, "/text");
        // A thought is content, but no part of the answer.
        if part.get("thought").and_then(Value::as_bool) != Some(true) {
            self.answer.text.push_str(text);
        }
        let Some(call) = part.get("functionCall") else { return text.len() };
        let arguments = call.get("args").map(Value::to_string).unwrap_or_default();
        let content = text.len() + arguments.len() + 1;
        self.answer.calls.push((wire::text(call, "/name").to_owned(), arguments));
        content
    }

    fn ends(&mut self, reason: &str, raw: &str) {
        self.answer.stop = Some(reason.to_owned());
        self.answer.complete = true;
        raw.clone_into(&mut self.answer.last);
    }
}

fn usage(counts: &Value) -> Usage {
    let n = |pointer: &str| wire::count(counts, pointer).unwrap_or(0);
    let cache_read = n("/cachedContentTokenCount");
    Usage {
        input: n("/promptTokenCount").saturating_sub(cache_read) + n("/toolUsePromptTokenCount"),
        output: n("/candidatesTokenCount") + n("/thoughtsTokenCount"),
        cache_read,
        cache_write: 0,
    }
}

impl Reader for Contents {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        if event.name == "error" {
            return Err(Trouble::error_event(&*event.data));
        }
        let response = wire::parse(event)?;
        if wire::is_error(&response) {
            return Err(Trouble::error_event(&*event.data));
        }
        Ok(Step { content: self.take(&response, &event.data), over: false })
    }

    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble> {
        if document.get("candidates").is_none() && document.get("promptFeedback").is_none() {
            return Err(Trouble::malformed(text, "no `candidates` in the response"));
        }
        self.take(document, text);
        Ok(())
    }

    fn answer(&self) -> &Answer {
        &self.answer
    }

    fn stopped_well(&self, stop: &str) -> bool {
        stop == "STOP"
    }

    fn wants_tools(&self, _stop: &str) -> bool {
        // A turn that wants tools ends in STOP like any other; the calls themselves tell.
        false
    }
}
