//! Ollama's own chat: lines of JSON, the last of which says `done`.

use serde_json::{Value, json};

use super::calling::{self, Called};
use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use super::{Message, Request, ToolCall};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// The request as HTTP. The base URL may end in `/api` or before it.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>) -> Outgoing {
    let path = if config.base_url.trim_end_matches('/').ends_with("/api") { "/chat" } else { "/api/chat" };
    let mut body = json!({
        "model": request.model,
        "messages": messages(request),
        "stream": true,
        "options": {"num_predict": request.max_output_tokens},
    });
    // The format binds every word of the answer, and a call would be none of them.
    if let Some(schema) = request.schema.as_ref().filter(|_| request.tools.is_empty()) {
        body["format"] = schema.clone();
    }
    if !request.tools.is_empty() {
        body["tools"] = calling::functions(&request.tools);
    }
    let headers = key.map(|key| ("authorization", format!("Bearer {key}"))).into_iter().collect();
    Outgoing { url: wire::join(&config.base_url, path), headers, body }
}

fn messages(request: &Request) -> Vec<Value> {
    let system = (!request.system.is_empty()).then(|| json!({"role": "system", "content": request.system}));
    let mut messages: Vec<Value> = system.into_iter().collect();
    for message in calling::conversation(request).iter() {
        match message {
            Message::User { text } => messages.push(json!({"role": "user", "content": text})),
            Message::Assistant { text, calls, .. } => {
                let mut message = json!({"role": "assistant", "content": text});
                if !calls.is_empty() {
                    message["tool_calls"] = calls.iter().map(call).collect();
                }
                messages.push(message);
            }
            // Old versions know a result by the tool's name only, newer ones by the call's.
            Message::Results { results } => messages.extend(results.iter().map(|result| {
                json!({"role": "tool", "tool_name": calling::name(&result.name), "tool_call_id": result.id,
                    "content": result.text})
            })),
        }
    }
    messages
}

fn call(call: &ToolCall) -> Value {
    json!({"id": call.id, "function": {"name": calling::name(&call.name), "arguments": calling::arguments(call)}})
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    answer: Answer,
}

impl Chat {
    /// Takes up one line. Returns bytes of content.
    fn take(&mut self, line: &Value, raw: &str) -> usize {
        if let Some(model) = line.get("model").and_then(Value::as_str) {
            model.clone_into(&mut self.answer.model);
        }
        let text = wire::text(line, "/message/content");
        self.answer.text.push_str(text);
        let mut content = text.len() + wire::text(line, "/message/thinking").len();
        for call in wire::at(line, "/message/tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let arguments = calling::written(wire::at(call, "/function/arguments"));
            content += arguments.len() + 1;
            self.answer.calls.push(Called {
                id: wire::text(call, "/id").to_owned(),
                name: wire::text(call, "/function/name").to_owned(),
                arguments,
                signature: None,
            });
        }
        if line.get("done").and_then(Value::as_bool) == Some(true) {
            self.answer.complete = true;
            // Old versions end without a reason.
            self.answer.stop = Some(line.get("done_reason").and_then(Value::as_str).unwrap_or("stop").to_owned());
            raw.clone_into(&mut self.answer.last);
            self.answer.usage = Usage {
                input: wire::count(line, "/prompt_eval_count").unwrap_or(0),
                output: wire::count(line, "/eval_count").unwrap_or(0),
                ..Usage::default()
            };
        }
        content
    }
}

impl Reader for Chat {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        let line = wire::parse(event)?;
        if wire::is_error(&line) {
            return Err(Trouble::error_event(&*event.data));
        }
        let content = self.take(&line, &event.data);
        Ok(Step { content, over: self.answer.complete })
    }

    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble> {
        if document.get("message").is_none() && document.get("done").is_none() {
            return Err(Trouble::malformed(text, "no `message` in the answer"));
        }
        self.take(document, text);
        Ok(())
    }

    fn answer(&self) -> &Answer {
        &self.answer
    }

    fn stopped_well(&self, stop: &str) -> bool {
        stop == "stop"
    }

    fn wants_tools(&self, _stop: &str) -> bool {
        // A turn that wants tools ends in `stop` like any other; the calls themselves tell.
        false
    }
}
