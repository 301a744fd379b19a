//! Google Gemini generateContent, streamed as server-sent events.
//!
//! The answer is complete once a `finishReason` or a `blockReason` came. `promptTokenCount` includes what was cached;
//! `candidatesTokenCount` excludes the thoughts. Thoughts are signed: the signature goes back on the part it came with.

use serde_json::{Value, json};

use super::calling::{self, Called};
use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use super::{Message, Opaque, Request, ToolCall, ToolResult, ToolSpec};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// Whose signatures these are.
const VENDOR: &str = "gemini";

/// What Google documents to be sent in place of a signature where there can be none: the first call of a turn has to
/// have one, and calls of other vendors' models have none.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

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
    let contents: Vec<Value> = calling::conversation(request).iter().map(content).collect();
    let mut generation = json!({"maxOutputTokens": request.max_output_tokens});
    // Models before Gemini 3 refuse functions together with a JSON answer.
    if let Some(schema) = request.schema.as_ref().filter(|_| request.tools.is_empty()) {
        generation["responseMimeType"] = json!("application/json");
        generation["responseJsonSchema"] = schema.clone();
    }
    let mut body = json!({"contents": contents, "generationConfig": generation});
    if !request.system.is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": request.system}]});
    }
    if !request.tools.is_empty() {
        let declared = |tool: &ToolSpec| json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": calling::parameters(tool)});
        let declared: Vec<Value> = request.tools.iter().map(declared).collect();
        body["tools"] = json!([{"functionDeclarations": declared}]);
    }
    let url = wire::join(&config.base_url, &format!("{version}/{model}:streamGenerateContent"));
    let url = format!("{url}{}alt=sse", if url.contains('?') { '&' } else { '?' });
    Outgoing { url, headers: key.map(|key| ("x-goog-api-key", key.to_owned())).into_iter().collect(), body }
}

fn content(message: &Message) -> Value {
    match message {
        Message::User { text } => json!({"role": "user", "parts": [{"text": text}]}),
        Message::Assistant { text, calls, opaque } => {
            let mut parts = texts(text, opaque);
            parts.extend(calls.iter().enumerate().map(|(place, called)| call(called, place)));
            // A turn of nothing at all still has to have a part.
            if parts.is_empty() {
                parts.push(json!({"text": text}));
            }
            json!({"role": "model", "parts": parts})
        }
        Message::Results { results } => {
            json!({"role": "user", "parts": results.iter().map(response).collect::<Vec<_>>()})
        }
    }
}

/// The text in the parts it came in, as far as they were signed: signed parts must not be joined with others.
fn texts(text: &str, opaque: &[Opaque]) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut from = 0;
    let unsigned = |parts: &mut Vec<Value>, piece: &str| {
        if !piece.is_empty() {
            parts.push(json!({"text": piece}));
        }
    };
    for signed in calling::own(opaque, VENDOR) {
        let place = |name: &str| signed.get(name).and_then(Value::as_u64).and_then(|place| usize::try_from(place).ok());
        let (Some(start), Some(end)) = (place("from"), place("to")) else { continue };
        // Where the text is no longer what was signed, nothing fits any more.
        let (Some(before), Some(piece)) = (text.get(from..start), text.get(start..end)) else { break };
        unsigned(&mut parts, before);
        parts.push(json!({"text": piece, "thoughtSignature": signed["thoughtSignature"]}));
        from = end;
    }
    unsigned(&mut parts, text.get(from..).unwrap_or_default());
    parts
}

fn call(call: &ToolCall, place: usize) -> Value {
    let mut part = json!({"functionCall": {
        "id": call.id, "name": calling::name(&call.name), "args": calling::arguments(call)}});
    let own = call.signature.as_ref().filter(|signature| signature.vendor == VENDOR);
    if let Some(signature) = own {
        part["thoughtSignature"] = signature.value.clone();
    } else if place == 0 {
        part["thoughtSignature"] = json!(NO_SIGNATURE);
    }
    part
}

fn response(result: &ToolResult) -> Value {
    let what = if result.failed { "error" } else { "output" };
    json!({"functionResponse": {
        "id": result.id, "name": calling::name(&result.name), "response": {what: result.text}}})
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
        if let Some(reason) = wire::at(response, "/promptFeedback/blockReason").and_then(Value::as_str) {
            self.answer.blocked = Some(reason.to_owned());
            self.ends(reason, raw);
        }
        let Some(candidate) = wire::at(response, "/candidates/0") else { return 0 };
        let parts = wire::at(candidate, "/content/parts").and_then(Value::as_array);
        let content = parts.into_iter().flatten().map(|part| self.part(part)).sum();
        if let Some(reason) = candidate.get("finishReason").and_then(Value::as_str) {
            self.ends(reason, raw);
        }
        content
    }

    fn part(&mut self, part: &Value) -> usize {
        let text = wire::text(part, "/text");
        let from = self.answer.text.len();
        // A thought is content, but no part of the answer.
        if part.get("thought").and_then(Value::as_bool) != Some(true) {
            self.answer.text.push_str(text);
        }
        let signature = part.get("thoughtSignature").filter(|signature| signature.is_string());
        let Some(call) = part.get("functionCall") else {
            if let Some(signature) = signature {
                let signed = json!({"thoughtSignature": signature, "from": from, "to": self.answer.text.len()});
                self.answer.opaque.push(calling::opaque(VENDOR, signed));
            }
            return text.len();
        };
        let arguments = calling::written(call.get("args"));
        let content = text.len() + arguments.len() + 1;
        self.answer.calls.push(Called {
            id: wire::text(call, "/id").to_owned(),
            name: wire::text(call, "/name").to_owned(),
            arguments,
            signature: signature.map(|signature| calling::opaque(VENDOR, signature.clone())),
        });
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

    fn wants_tools(&self, stop: &str) -> bool {
        // At Google a turn that wants tools ends in STOP like any other; the calls themselves tell. Others who speak
        // this wire have a word for it.
        stop == "FUNCTION_CALL"
    }
}
