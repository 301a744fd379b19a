//! OpenAI Chat Completions, and everything compatible with it: vLLM, llama.cpp, Groq, OpenRouter, LiteLLM, Azure …
//!
//! The answer is complete once a `finish_reason` came; the usage and `[DONE]` follow. `prompt_tokens` includes cached
//! tokens, `completion_tokens` the thoughts (but not at xAI, which the total shows).

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::calling::{self, Called};
use super::sse::Event;
use super::wire::{self, Answer, Object, Outgoing, Reader, Step, Trouble};
use super::{Message, Request, ToolCall};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// The request as HTTP: `/chat/completions` after the base URL.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>, vendor: &str) -> Outgoing {
    let mut body = json!({"model": request.model, "messages": messages(request, vendor), "stream": true});
    // The newer models of OpenAI refuse the old name; the compatible servers know only that.
    let its_own = is_its_own(config, vendor);
    let limit = if its_own { "max_completion_tokens" } else { "max_tokens" };
    body[limit] = json!(request.max_output_tokens);
    // Mistral reports usage unasked and refuses members it does not know.
    if vendor != "mistral" {
        body["stream_options"] = json!({"include_usage": true});
    }
    // Most compatible servers hold every answer to the schema, and a call is none, or refuse the two together.
    if let Some(schema) = request.schema.as_ref().filter(|_| its_own || request.tools.is_empty()) {
        let format = json!({"name": "answer", "schema": schema, "strict": can_be_strict(schema)});
        body["response_format"] = json!({"type": "json_schema", "json_schema": format});
    }
    if !request.tools.is_empty() {
        body["tools"] = calling::functions(&request.tools);
    }
    Outgoing { url: wire::join(&config.base_url, "/chat/completions"), headers: headers(key, vendor), body }
}

/// Is it OpenAI itself, be it at Azure, and not somebody compatible?
pub(crate) fn is_its_own(config: &ProviderConfig, vendor: &str) -> bool {
    vendor == "azure_openai" || wire::host(&config.base_url) == "api.openai.com"
}

/// The key, in the header it belongs in.
pub(crate) fn headers(key: Option<&str>, vendor: &str) -> Vec<(&'static str, String)> {
    let header = |key: &str| match vendor {
        "azure_openai" => ("api-key", key.to_owned()),
        _ => ("authorization", format!("Bearer {key}")),
    };
    key.map(header).into_iter().collect()
}

fn messages(request: &Request, vendor: &str) -> Vec<Value> {
    let system = (!request.system.is_empty()).then(|| json!({"role": "system", "content": request.system}));
    let mut messages: Vec<Value> = system.into_iter().collect();
    for message in calling::conversation(request).iter() {
        match message {
            Message::User { text } => match messages.last_mut() {
                // Mistral refuses a user who speaks right after a tool.
                Some(last) if vendor == "mistral" && last["role"] == "tool" => {
                    last["content"] = json!(format!("{}\n\n{text}", wire::text(last, "/content")));
                }
                Some(_) | None => messages.push(json!({"role": "user", "content": text})),
            },
            Message::Assistant { text, calls, .. } if calls.is_empty() => {
                messages.push(json!({"role": "assistant", "content": text}));
            }
            Message::Assistant { text, calls, opaque } => {
                let content = if text.is_empty() { Value::Null } else { json!(text) };
                let calls: Vec<Value> = calls.iter().map(call).collect();
                let mut message = json!({"role": "assistant", "content": content, "tool_calls": calls});
                if vendor == DEEPSEEK {
                    let thoughts = calling::own(opaque, DEEPSEEK).next().cloned();
                    message["reasoning_content"] = thoughts.unwrap_or_else(|| json!(""));
                }
                messages.push(message);
            }
            Message::Results { results } => messages.extend(
                results.iter().map(|result| json!({"role": "tool", "tool_call_id": result.id, "content": result.text})),
            ),
        }
    }
    messages
}

/// It alone wants the thoughts of each turn that called tools back, be they empty, and refuses the request otherwise.
const DEEPSEEK: &str = "deepseek";

fn call(call: &ToolCall) -> Value {
    json!({"id": call.id, "type": "function",
        "function": {"name": calling::name(&call.name), "arguments": calling::arguments(call).to_string()}})
}

/// Strict schemas must require every property and allow no others; asking for it of any other schema is a 400.
pub(crate) fn can_be_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let closed = match members.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let required: Vec<&str> = members
                        .get("required")
                        .and_then(Value::as_array)
                        .map(|names| names.iter().filter_map(Value::as_str).collect())
                        .unwrap_or_default();
                    members.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(|name| required.contains(&name.as_str()))
                }
                None => members.get("type").and_then(Value::as_str) != Some("object"),
            };
            closed && members.values().all(can_be_strict)
        }
        Value::Array(items) => items.iter().all(can_be_strict),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Completions {
    answer: Answer,
    vendor: &'static str,
    /// What each call is called in the stream.
    indices: Vec<Option<u64>>,
    /// DeepSeek's thoughts.
    thoughts: String,
}

impl Completions {
    /// Reads what this vendor answers.
    pub(crate) fn of(vendor: &'static str) -> Self {
        Self { vendor, ..Self::default() }
    }

    /// Takes up a chunk, or a whole completion, which differ only in `delta` and `message`. Returns bytes of content.
    fn take(&mut self, chunk: &Value, raw: &str) -> usize {
        if let Some(model) = chunk.get("model").and_then(Value::as_str).filter(|model| !model.is_empty()) {
            model.clone_into(&mut self.answer.model);
        }
        if let Some(counts) = chunk.get("usage").filter(|usage| usage.is_object()) {
            self.answer.usage = usage(counts);
        }
        // Groq reports the usage of a stream under a name of its own.
        if let Some(counts) = wire::at(chunk, "/x_groq/usage").filter(|usage| usage.is_object()) {
            self.answer.usage = usage(counts);
        }
        let Some(choice) = wire::at(chunk, "/choices/0") else { return 0 };
        let piece = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
        let content = self.content(piece);
        if let Some(stop) = choice.get("finish_reason").and_then(Value::as_str).filter(|stop| !stop.is_empty()) {
            self.answer.stop = Some(stop.to_owned());
            self.answer.complete = true;
            raw.clone_into(&mut self.answer.last);
            if self.vendor == DEEPSEEK && !self.thoughts.is_empty() {
                self.answer.opaque = vec![calling::opaque(DEEPSEEK, json!(self.thoughts))];
            }
        }
        content
    }

    /// Takes up a chunk that is a piece of text and nothing else. Returns bytes of content; none: it is more than that.
    fn take_plain(&mut self, data: &str) -> Option<usize> {
        let Object(plain): Object<Plain<'_>> = serde_json::from_str(data).ok()?;
        if plain.object.is_some_and(|object| object != "chat.completion.chunk") {
            return None;
        }
        if let Some(model) = plain.model.filter(|model| !model.is_empty() && *model != self.answer.model) {
            model.clone_into(&mut self.answer.model);
        }
        let [Object(PlainChoice { delta: Object(delta), .. })] = plain.choices;
        self.answer.text.push_str(&delta.content);
        Some(delta.content.len())
    }

    fn content(&mut self, piece: &Value) -> usize {
        let before = self.answer.text.len();
        match piece.get("content") {
            Some(Value::String(text)) => self.answer.text.push_str(text),
            // Mistral's and others' content in parts.
            Some(Value::Array(parts)) => {
                parts.iter().for_each(|part| self.answer.text.push_str(wire::text(part, "/text")))
            }
            Some(_) | None => {}
        }
        let mut content = self.answer.text.len() - before;
        let refusal = wire::text(piece, "/refusal");
        self.answer.refusal.push_str(refusal);
        content +=
            refusal.len() + wire::text(piece, "/reasoning_content").len() + wire::text(piece, "/reasoning").len();
        if self.vendor == DEEPSEEK {
            self.thoughts.push_str(wire::text(piece, "/reasoning_content"));
        }
        let calls = piece.get("tool_calls").and_then(Value::as_array);
        content + calls.into_iter().flatten().map(|call| self.call(call)).sum::<usize>()
    }

    /// Takes up a call, or the next piece of one. Returns bytes of content.
    fn call(&mut self, piece: &Value) -> usize {
        let (id, name) = (wire::text(piece, "/id"), wire::text(piece, "/function/name"));
        let arguments = calling::written(wire::at(piece, "/function/arguments"));
        let index = piece.get("index").and_then(Value::as_u64);
        let calls = &mut self.answer.calls;
        let place = match index {
            // Some servers give all calls of an answer the same index, and names of their own.
            Some(_) => self.indices.iter().rposition(|known| *known == index).filter(|place| {
                let known = &calls[*place].id;
                id.is_empty() || known.is_empty() || known == id
            }),
            // Without an index, what has no name goes on with the call before.
            None if id.is_empty() && name.is_empty() => calls.len().checked_sub(1),
            None => None,
        };
        let place = place.unwrap_or_else(|| {
            calls.push(Called::default());
            self.indices.push(index);
            calls.len() - 1
        });
        let call = &mut calls[place];
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        // Some servers repeat the name with each piece.
        if call.name != name {
            call.name.push_str(name);
        }
        call.arguments.push_str(&arguments);
        name.len() + arguments.len()
    }
}

/// A chunk that is a piece of text and nothing else, as nearly all of an answer are: read without a tree of values.
/// Whatever has a member more, or one of another kind, is not read as this.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    object: Option<&'a str>,
    model: Option<&'a str>,
    #[serde(borrow)]
    choices: [Object<PlainChoice<'a>>; 1],
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(default, rename = "created")]
    _created: IgnoredAny,
    #[serde(default, rename = "system_fingerprint")]
    _system_fingerprint: IgnoredAny,
    #[serde(default, rename = "service_tier")]
    _service_tier: IgnoredAny,
    #[serde(default, rename = "usage")]
    _no_usage: (),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainChoice<'a> {
    #[serde(borrow)]
    delta: Object<PlainDelta<'a>>,
    #[serde(default, rename = "index")]
    _index: IgnoredAny,
    #[serde(default, rename = "logprobs")]
    _logprobs: IgnoredAny,
    #[serde(default, rename = "finish_reason")]
    _not_finished: (),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainDelta<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default, rename = "role")]
    _role: IgnoredAny,
}

/// OpenRouter puts an error into a choice: shown as the envelope everybody else uses.
fn error_in_choice(chunk: &Value) -> Option<String> {
    let error = wire::at(chunk, "/choices/0/error").filter(|error| !error.is_null())?;
    Some(json!({"error": error}).to_string())
}

fn usage(counts: &Value) -> Usage {
    let n = |pointer: &str| wire::count(counts, pointer).unwrap_or(0);
    let prompt = n("/prompt_tokens");
    let cache_read = n("/prompt_tokens_details/cached_tokens").max(n("/prompt_cache_hit_tokens"));
    let cache_write = n("/prompt_tokens_details/cache_write_tokens");
    let completion = n("/completion_tokens");
    let thoughts = n("/completion_tokens_details/reasoning_tokens");
    let apart = thoughts > 0 && n("/total_tokens") == prompt + completion + thoughts;
    Usage {
        input: prompt.saturating_sub(cache_read + cache_write),
        output: if apart { completion + thoughts } else { completion },
        cache_read,
        cache_write,
    }
}

impl Reader for Completions {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        if event.data.trim() == "[DONE]" {
            return Ok(Step { content: 0, over: true });
        }
        if event.name == "error" {
            return Err(Trouble::error_event(&*event.data));
        }
        if let Some(content) = self.take_plain(&event.data) {
            return Ok(Step { content, over: false });
        }
        let chunk = wire::parse(event)?;
        if wire::is_error(&chunk) {
            return Err(Trouble::error_event(&*event.data));
        }
        if let Some(error) = error_in_choice(&chunk) {
            return Err(Trouble::error_event(error));
        }
        Ok(Step { content: self.take(&chunk, &event.data), over: false })
    }

    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble> {
        if let Some(error) = error_in_choice(document) {
            return Err(Trouble::error_body(error));
        }
        if wire::at(document, "/choices/0").is_none() {
            return Err(Trouble::malformed(text, "no `choices` in the completion"));
        }
        self.take(document, text);
        Ok(())
    }

    fn answer(&self) -> &Answer {
        &self.answer
    }

    fn stopped_well(&self, stop: &str) -> bool {
        matches!(stop, "stop" | "end_turn" | "eos" | "eos_token" | "stop_sequence")
    }

    fn wants_tools(&self, stop: &str) -> bool {
        matches!(stop, "tool_calls" | "function_call")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_is_asked_only_of_schemas_that_can_be_strict() {
        for (schema, expected) in [
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}),
                true,
            ),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}), false),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}), false),
            (json!({"type": "array", "items": {"type": "object"}}), false),
            (json!({"type": "string"}), true),
        ] {
            assert_eq!(can_be_strict(&schema), expected, "{schema}");
        }
    }

    /// A member that nobody knows has a chunk read as a tree: both ways must say the same of it.
    #[test]
    fn a_plain_chunk_says_the_same_when_it_is_read_as_a_tree() {
        let cut = |chunk: &str| format!("{},\"unknown\":0}}", chunk.trim_end().strip_suffix('}').expect("an object"));
        for (chunk, plain) in [
            (
                r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
                true,
            ),
            (r#"{"choices":[{"delta":{"content":"a\n\u00e9"}}]}"#, true),
            (r#"{"model":"","choices":[{"delta":{"content":""}}]}"#, true),
            (r#"{"object":"error","choices":[{"delta":{"content":"x"}}]}"#, false),
            (r#"{"error":{"message":"x"},"choices":[{"delta":{"content":"x"}}]}"#, false),
            (r#"{"choices":[{"error":{"code":502},"delta":{"content":"x"}}]}"#, false),
            (r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#, false),
            (r#"{"choices":[{"delta":{"content":"x","refusal":"no"}}]}"#, false),
            (
                r#"{"choices":[{"delta":{"content":"x","tool_calls":[{"index":0,"id":"1","function":{"name":"f","arguments":"{}"}}]}}]}"#,
                false,
            ),
            (r#"{"choices":[{"delta":{"content":null}}]}"#, false),
            (r#"{"choices":[{"delta":{"content":[{"type":"text","text":"x"}]}}]}"#, false),
            (r#"{"choices":[{"delta":{"content":"x"}},{"delta":{"content":"y"}}]}"#, false),
            (r#"{"choices":[]}"#, false),
            (r#"{"choices":[[{"content":"x"}]]}"#, false),
            (r#"{"choices":[{"delta":["x"]}]}"#, false),
            (r#"[null,null,[{"delta":{"content":"x"}}]]"#, false),
            (r#"{"choices":[{"delta":{"content":"x"}}"#, false),
        ] {
            assert_eq!(Completions::of("openai").take_plain(chunk).is_some(), plain, "{chunk}");
            if !plain {
                continue;
            }
            let [read, as_a_tree] = [chunk.to_owned(), cut(chunk)].map(|data| {
                let mut reader = Completions::of("openai");
                let step = reader.event(&Event { name: String::new(), data });
                (step, reader.answer)
            });
            assert_eq!(read, as_a_tree, "{chunk}");
        }
    }

    #[test]
    fn tokens_are_counted_by_each_vendors_rule() {
        for (counts, expected) in [
            (json!({"prompt_tokens": 12, "completion_tokens": 3}), Usage { input: 12, output: 3, ..Usage::default() }),
            (
                json!({"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130, "prompt_tokens_details": {"cached_tokens": 64},
                    "completion_tokens_details": {"reasoning_tokens": 20}}),
                Usage { input: 36, output: 30, cache_read: 64, cache_write: 0 },
            ),
            (
                json!({"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 150, "completion_tokens_details": {"reasoning_tokens": 20}}),
                Usage { input: 100, output: 50, ..Usage::default() },
            ),
            (
                json!({"prompt_tokens": 100, "prompt_cache_hit_tokens": 90, "prompt_cache_miss_tokens": 10, "completion_tokens": 1}),
                Usage { input: 10, output: 1, cache_read: 90, cache_write: 0 },
            ),
        ] {
            assert_eq!(usage(&counts), expected, "{counts}");
        }
    }
}
