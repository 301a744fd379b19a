//! Ollama's own chat: lines of JSON, the last of which says `done`.

use serde_json::{Value, json};

use super::Request;
use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// The request as HTTP. The base URL may end in `/api` or before it.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>) -> Outgoing {
    let path = if config.base_url.trim_end_matches('/').ends_with("/api") { "/chat" } else { "/api/chat" };
    let messages = wire::chat(request);
    let mut body = json!({
        "model": request.model,
        "messages": messages,
        "stream": true,
        "options": {"num_predict": request.max_output_tokens},
    });
    if let Some(schema) = &request.schema {
        body["format"] = schema.clone();
    }
    let headers = key.map(|key| ("authorization", format!("Bearer {key}"))).into_iter().collect();
    Outgoing { url: wire::join(&config.base_url, path), headers, body }
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
        for call in line.pointer("/message/tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let arguments = match call.pointer("/function/arguments") {
                Some(Value::String(text)) => text.clone(),
                Some(arguments) => arguments.to_string(),
                None => String::new(),
            };
            content += arguments.len() + 1;
            self.answer.calls.push((wire::text(call, "/function/name").to_owned(), arguments));
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
