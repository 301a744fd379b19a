//! Anthropic Messages: the request, and the stream of events that answers it.
//!
//! The stream ends with `message_stop` and with nothing else; `input_tokens` excludes what the cache counts have.
//! Thoughts come back unchanged and before everything else of their turn, or the next request is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::calling::{self, Called};
use super::sse::Event;
use super::wire::{self, Answer, Object, Outgoing, Reader, Step, Trouble};
use super::{Message, Opaque, Request, ToolCall, ToolResult};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// Whose thoughts these are.
const VENDOR: &str = "anthropic";

/// The request as HTTP. The base URL may end in `/v1` or before it.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>) -> Outgoing {
    let path = if config.base_url.trim_end_matches('/').ends_with("/v1") { "/messages" } else { "/v1/messages" };
    let mut body = json!({
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "messages": turns(request),
        "stream": true,
    });
    if !request.system.is_empty() {
        body["system"] = json!(request.system);
    }
    if let Some(schema) = &request.schema {
        body["output_config"] = json!({"format": {"type": "json_schema", "schema": schema}});
    }
    if !request.tools.is_empty() {
        let tool = |tool: &crate::conversation::ToolSpec| json!({"name": tool.name, "description": tool.description, "input_schema": calling::parameters(tool)});
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    let mut headers = vec![("anthropic-version", "2023-06-01".to_owned())];
    headers.extend(key.map(|key| ("x-api-key", key.to_owned())));
    Outgoing { url: wire::join(&config.base_url, path), headers, body }
}

/// The conversation in turns. All results of a turn are in one turn of the user's, and what the user says then as well:
/// results must come right after their calls, and two turns of the same side are one.
fn turns(request: &Request) -> Vec<Value> {
    let mut turns: Vec<Value> = Vec::new();
    for message in calling::conversation(request).iter() {
        match message {
            Message::User { text } => match turns.last_mut() {
                Some(Value::Object(turn)) if turn["role"] == "user" && turn["content"].is_array() => {
                    let blocks = turn["content"].as_array_mut();
                    blocks.into_iter().for_each(|blocks| blocks.extend(spoken(text)));
                }
                Some(_) | None => turns.push(json!({"role": "user", "content": text})),
            },
            Message::Assistant { text, calls, opaque } => {
                let own: Vec<&Value> = calling::own(opaque, VENDOR).collect();
                turns.push(json!({"role": "assistant", "content": said(text, calls, &own)}));
            }
            Message::Results { results } => {
                turns.push(json!({"role": "user", "content": results.iter().map(result).collect::<Vec<_>>()}));
            }
        }
    }
    turns
}

/// Words as a block; blank ones are refused.
fn spoken(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

/// A turn of the model's: words alone are a text, everything else is blocks.
fn said(text: &str, calls: &[ToolCall], thoughts: &[&Value]) -> Value {
    if calls.is_empty() && thoughts.is_empty() {
        return json!(text);
    }
    let call = |call: &ToolCall| json!({"type": "tool_use", "id": call.id, "name": calling::name(&call.name), "input": calling::arguments(call)});
    let thoughts = thoughts.iter().map(|thought| (*thought).clone());
    thoughts.chain(spoken(text)).chain(calls.iter().map(call)).collect()
}

fn result(result: &ToolResult) -> Value {
    let mut block = json!({"type": "tool_result", "tool_use_id": result.id, "content": result.text});
    if result.failed {
        block["is_error"] = json!(true);
    }
    block
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    answer: Answer,
    /// Which block of the stream is which call or thought.
    places: BTreeMap<u64, Place>,
}

/// What a block is a piece of.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The n-th call.
    Call(usize),
    /// The n-th thought.
    Thought(usize),
}

impl Messages {
    /// Counts are cumulative: a later one replaces an earlier one, an absent one leaves it.
    fn usage(&mut self, usage: &Value) {
        let Usage { input, output, cache_read, cache_write } = &mut self.answer.usage;
        for (field, name) in [
            (input, "/input_tokens"),
            (output, "/output_tokens"),
            (cache_read, "/cache_read_input_tokens"),
            (cache_write, "/cache_creation_input_tokens"),
        ] {
            *field = wire::count(usage, name).unwrap_or(*field);
        }
    }

    fn message(&mut self, message: &Value) {
        self.answer.model = wire::text(message, "/model").to_owned();
        self.usage(message.get("usage").unwrap_or(&Value::Null));
    }

    fn start_block(&mut self, index: u64, block: &Value) -> usize {
        match wire::text(block, "/type") {
            "text" => self.answer.text.push_str(wire::text(block, "/text")),
            "tool_use" => {
                // A stream begins with an empty object and sends the arguments after; a document has them here.
                let arguments = match block.get("input") {
                    Some(Value::Object(members)) if members.is_empty() => String::new(),
                    input => calling::written(input),
                };
                let (id, name) = (wire::text(block, "/id").to_owned(), wire::text(block, "/name").to_owned());
                self.places.insert(index, Place::Call(self.answer.calls.len()));
                self.answer.calls.push(Called { id, name, arguments, signature: None });
            }
            "thinking" | "redacted_thinking" => {
                self.places.insert(index, Place::Thought(self.answer.opaque.len()));
                self.answer.opaque.push(calling::opaque(VENDOR, block.clone()));
            }
            // Blocks of kinds to come: content, but no part of the answer.
            _ => {}
        }
        wire::text(block, "/text").len()
    }

    fn delta(&mut self, index: u64, delta: &Value) -> usize {
        let text = wire::text(delta, "/text");
        let arguments = wire::text(delta, "/partial_json");
        let (thinking, signature) = (wire::text(delta, "/thinking"), wire::text(delta, "/signature"));
        self.answer.text.push_str(text);
        match self.places.get(&index) {
            Some(Place::Call(place)) => self.answer.calls[*place].arguments.push_str(arguments),
            Some(Place::Thought(place)) => {
                think(&mut self.answer.opaque[*place], "thinking", thinking);
                think(&mut self.answer.opaque[*place], "signature", signature);
            }
            None => {}
        }
        text.len() + arguments.len() + thinking.len() + signature.len()
    }

    fn stop(&mut self, holder: &Value, raw: &str) {
        if let Some(stop) = holder.get("stop_reason").and_then(Value::as_str) {
            self.answer.stop = Some(stop.to_owned());
            raw.clone_into(&mut self.answer.last);
        }
    }
}

/// An event that is a piece of text and nothing else, as nearly all of an answer are: read without a tree of values.
/// Whatever has a member more, or one of another kind, is not read as this.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    delta: Object<PlainDelta<'a>>,
    #[serde(default, rename = "index")]
    _index: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainDelta<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// The words of such an event.
fn plain(data: &str) -> Option<Cow<'_, str>> {
    let Object(Plain { r#type, delta: Object(delta), .. }) = serde_json::from_str(data).ok()?;
    (r#type == "content_block_delta" && delta.r#type == "text_delta").then_some(delta.text)
}

/// Adds a piece to a member of a thought.
fn think(thought: &mut Opaque, member: &str, piece: &str) {
    if !piece.is_empty() {
        thought.value[member] = json!(format!("{}{piece}", thought.value[member].as_str().unwrap_or_default()));
    }
}

impl Reader for Messages {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        if event.name == "error" {
            return Err(Trouble::error_event(&*event.data));
        }
        if let Some(words) = plain(&event.data) {
            self.answer.text.push_str(&words);
            return Ok(Step { content: words.len(), over: false });
        }
        let data = wire::parse(event)?;
        if wire::is_error(&data) {
            return Err(Trouble::error_event(&*event.data));
        }
        let absent = Value::Null;
        let member = |name: &str| data.get(name).unwrap_or(&absent);
        let index = data.get("index").and_then(Value::as_u64).unwrap_or_default();
        let mut step = Step::default();
        match wire::text(&data, "/type") {
            "message_start" => self.message(member("message")),
            "content_block_start" => step.content = self.start_block(index, member("content_block")),
            "content_block_delta" => step.content = self.delta(index, member("delta")),
            "message_delta" => {
                self.stop(member("delta"), &event.data);
                self.usage(member("usage"));
            }
            "message_stop" => {
                self.answer.complete = true;
                step.over = true;
            }
            // `ping`, `content_block_stop`, and what may be added: the API's versioning rule says to ignore it.
            _ => {}
        }
        Ok(step)
    }

    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble> {
        let Some(blocks) = document.get("content").and_then(Value::as_array) else {
            return Err(Trouble::malformed(text, "no `content` in the message"));
        };
        self.message(document);
        for (index, block) in (0..).zip(blocks) {
            self.start_block(index, block);
        }
        self.stop(document, text);
        self.answer.complete = self.answer.stop.is_some();
        Ok(())
    }

    fn answer(&self) -> &Answer {
        &self.answer
    }

    fn stopped_well(&self, stop: &str) -> bool {
        matches!(stop, "end_turn" | "stop_sequence")
    }

    fn wants_tools(&self, stop: &str) -> bool {
        stop == "tool_use"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that nobody knows has an event read as a tree: both ways must say the same of it.
    #[test]
    fn a_plain_event_says_the_same_when_it_is_read_as_a_tree() {
        for (event, is_plain) in [
            (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#, true),
            (r#"{"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":"a\n\u00e9"}}"#, true),
            (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}"#, true),
            (r#"{"type":"error","delta":{"type":"text_delta","text":"x"}}"#, false),
            (r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"x"}}"#, false),
            (r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}"#, false),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"},"error":{"type":"x"}}"#, false),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}"#, false),
            (r#"{"type":"content_block_delta","delta":["text_delta","x"]}"#, false),
            (r#"["content_block_delta",{"type":"text_delta","text":"x"},0]"#, false),
        ] {
            assert_eq!(plain(event).is_some(), is_plain, "{event}");
            if !is_plain {
                continue;
            }
            let cut = event.strip_suffix('}').expect("an object");
            let [read, as_a_tree] = [event.to_owned(), format!("{cut},\"unknown\":0}}")].map(|data| {
                let mut reader = Messages::default();
                let step = reader.event(&Event { name: "content_block_delta".to_owned(), data });
                (step, reader.answer)
            });
            assert_eq!(read, as_a_tree, "{event}");
        }
    }
}
