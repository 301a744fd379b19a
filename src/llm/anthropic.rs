//! Anthropic Messages: the request, and the stream of events that answers it.
//!
//! The stream ends with `message_stop` and with nothing else; `input_tokens` excludes what the cache counts have.

use serde_json::{Value, json};

use super::Request;
use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// The request as HTTP. The base URL may end in `/v1` or before it.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>) -> Outgoing {
    let path = if config.base_url.trim_end_matches('/').ends_with("/v1") { "/messages" } else { "/v1/messages" };
    let messages: Vec<Value> = request.messages.iter().map(wire::turn).collect();
    let mut body = json!({
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "messages": messages,
        "stream": true,
    });
    if !request.system.is_empty() {
        body["system"] = json!(request.system);
    }
    if let Some(schema) = &request.schema {
        body["output_config"] = json!({"format": {"type": "json_schema", "schema": schema}});
    }
    let mut headers = vec![("anthropic-version", "2023-06-01".to_owned())];
    headers.extend(key.map(|key| ("x-api-key", key.to_owned())));
    Outgoing { url: wire::join(&config.base_url, path), headers, body }
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    answer: Answer,
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

    fn start_block(&mut self, block: &Value) -> usize {
        match wire::text(block, "/type") {
            "text" => self.answer.text.push_str(wire::text(block, "/text")),
            "tool_use" => {
                // A stream begins with an empty object and sends the arguments after; a document has them here.
                let arguments = match block.get("input") {
                    Some(input) if input.as_object().is_none_or(|members| !members.is_empty()) => input.to_string(),
                    Some(_) | None => String::new(),
                };
                self.answer.calls.push((wire::text(block, "/name").to_owned(), arguments));
            }
            // Thoughts and blocks of kinds to come: content, but no part of the answer.
            _ => {}
        }
        wire::text(block, "/text").len()
    }

    fn delta(&mut self, delta: &Value) -> usize {
        let text = wire::text(delta, "/text");
        let arguments = wire::text(delta, "/partial_json");
        self.answer.text.push_str(text);
        if let Some((_, so_far)) = self.answer.calls.last_mut() {
            so_far.push_str(arguments);
        }
        text.len() + arguments.len() + wire::text(delta, "/thinking").len() + wire::text(delta, "/signature").len()
    }

    fn stop(&mut self, holder: &Value, raw: &str) {
        if let Some(stop) = holder.get("stop_reason").and_then(Value::as_str) {
            self.answer.stop = Some(stop.to_owned());
            raw.clone_into(&mut self.answer.last);
        }
    }
}

impl Reader for Messages {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        if event.name == "error" {
            return Err(Trouble::error_event(&*event.data));
        }
        let data = wire::parse(event)?;
        if wire::is_error(&data) {
            return Err(Trouble::error_event(&*event.data));
        }
        let absent = Value::Null;
        let member = |name: &str| data.get(name).unwrap_or(&absent);
        let mut step = Step::default();
        match wire::text(&data, "/type") {
            "message_start" => self.message(member("message")),
            "content_block_start" => step.content = self.start_block(member("content_block")),
            "content_block_delta" => step.content = self.delta(member("delta")),
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
        for block in blocks {
            self.start_block(block);
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
