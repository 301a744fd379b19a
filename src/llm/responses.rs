//! OpenAI Responses: the request, and the stream of events about items that answers it.
//!
//! Nothing is kept at OpenAI (`store: false`): the whole conversation goes along each time, thoughts included, which
//! come encrypted. The stream ends with `response.completed`, `response.incomplete` or `response.failed`, each of which
//! holds the whole response. `input_tokens` includes cached tokens, `output_tokens` the thoughts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::calling::{self, Called};
use super::sse::Event;
use super::wire::{self, Answer, Outgoing, Reader, Step, Trouble};
use super::{Message, Opaque, Request, ToolCall, ToolSpec, openai};
use crate::cause::Usage;
use crate::config::ProviderConfig;

/// Whose thoughts these are.
const VENDOR: &str = "responses";

/// The request as HTTP: `/responses` after the base URL.
pub(crate) fn request(request: &Request, config: &ProviderConfig, key: Option<&str>, vendor: &str) -> Outgoing {
    let mut body = json!({
        "model": request.model,
        "input": input(request),
        "max_output_tokens": request.max_output_tokens,
        "stream": true,
        "store": false,
    });
    // Models that do not think refuse to be asked for it.
    if !request.model.starts_with("gpt-4") {
        body["include"] = json!(["reasoning.encrypted_content"]);
    }
    if !request.system.is_empty() {
        body["instructions"] = json!(request.system);
    }
    // As on the chat wire: elsewhere a schema may forbid calls.
    let both = openai::is_its_own(config, vendor) || request.tools.is_empty();
    if let Some(schema) = request.schema.as_ref().filter(|_| both) {
        let strict = openai::can_be_strict(schema);
        body["text"] = json!({"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": strict}});
    }
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    Outgoing { url: wire::join(&config.base_url, "/responses"), headers: openai::headers(key, vendor), body }
}

/// Strict by default here, which most tools' schemas cannot be; we look at the arguments ourselves.
fn tool(tool: &ToolSpec) -> Value {
    json!({"type": "function", "name": tool.name, "description": tool.description,
        "parameters": calling::parameters(tool), "strict": false})
}

fn input(request: &Request) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for message in calling::conversation(request).iter() {
        match message {
            Message::User { text } => items.push(json!({"type": "message", "role": "user", "content": text})),
            Message::Assistant { text, calls, opaque } => said(&mut items, text, calls, opaque),
            Message::Results { results } => items.extend(
                results
                    .iter()
                    .map(|result| json!({"type": "function_call_output", "call_id": result.id, "output": result.text})),
            ),
        }
    }
    items
}

/// A turn of the model's: thoughts, words, calls. A thought has to be followed by something it led to.
fn said(items: &mut Vec<Value>, text: &str, calls: &[ToolCall], opaque: &[Opaque]) {
    let own = || calling::own(opaque, VENDOR);
    if !(text.is_empty() && calls.is_empty()) {
        items.extend(own().filter(|piece| wire::text(piece, "/type") == "reasoning").cloned());
    }
    if !text.is_empty() {
        let mut message = json!({"type": "message", "role": "assistant", "content": text});
        if let Some(phase) = own().find_map(|piece| piece.get("phase")) {
            message["phase"] = phase.clone();
        }
        items.push(message);
    }
    items.extend(calls.iter().map(|call| {
        json!({"type": "function_call", "call_id": call.id, "name": calling::name(&call.name),
            "arguments": calling::arguments(call).to_string()})
    }));
}

/// Reads the answer.
#[derive(Debug, Default)]
pub(crate) struct Items {
    answer: Answer,
    /// What came at which place of the output.
    places: BTreeMap<u64, Place>,
}

/// What stands at a place of the output.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Words; were any of them, or a refusal, heard yet?
    Message { heard: bool },
    /// The n-th call.
    Call(usize),
    /// A thought, or an item of a kind we did not ask for.
    Other,
}

impl Items {
    /// What a response says of itself.
    fn head(&mut self, response: &Value) {
        if let Some(model) = response.get("model").and_then(Value::as_str) {
            model.clone_into(&mut self.answer.model);
        }
        if let Some(id) = response.get("id").and_then(Value::as_str) {
            self.answer.request_id = Some(id.to_owned());
        }
        if let Some(counts) = response.get("usage").filter(|counts| counts.is_object()) {
            self.answer.usage = usage(counts);
        }
    }

    /// An item begins. In most of a stream it is empty; in some it is whole.
    fn begin(&mut self, index: u64, item: &Value) {
        let place = match wire::text(item, "/type") {
            "message" => {
                self.phase(wire::text(item, "/phase"));
                Place::Message { heard: false }
            }
            "function_call" => {
                self.answer.calls.push(Called {
                    id: wire::text(item, "/call_id").to_owned(),
                    name: wire::text(item, "/name").to_owned(),
                    ..Called::default()
                });
                Place::Call(self.answer.calls.len() - 1)
            }
            _ => Place::Other,
        };
        self.places.insert(index, place);
    }

    /// Some models say what they are about to do before they say their answer; then only the answer is one.
    fn phase(&mut self, phase: &str) {
        if phase.is_empty() {
            return;
        }
        let commented = |opaque: &Opaque| wire::text(&opaque.value, "/phase") == "commentary";
        if phase == "final_answer" && self.answer.opaque.iter().any(commented) {
            self.answer.text.clear();
        }
        self.answer.opaque.retain(|opaque| opaque.value.get("phase").is_none());
        self.answer.opaque.push(calling::opaque(VENDOR, json!({"phase": phase})));
    }

    /// Words, or a refusal, at this place.
    fn hears(&mut self, index: u64) {
        self.places.insert(index, Place::Message { heard: true });
    }

    /// An item is whole: what of it was not heard in pieces is taken up now. Returns bytes of content.
    fn done(&mut self, index: u64, item: &Value) -> usize {
        if !self.places.contains_key(&index) {
            self.begin(index, item);
        }
        match (wire::text(item, "/type"), self.places.get(&index)) {
            ("message", Some(Place::Message { heard: false })) => {
                let parts = item.get("content").and_then(Value::as_array);
                let content = |part: &Value| {
                    let (text, refusal) = (wire::text(part, "/text"), wire::text(part, "/refusal"));
                    self.answer.text.push_str(text);
                    self.answer.refusal.push_str(refusal);
                    text.len() + refusal.len()
                };
                parts.into_iter().flatten().map(content).sum()
            }
            ("function_call", Some(Place::Call(place))) => {
                let call = &mut self.answer.calls[*place];
                let before = call.arguments.len();
                for (pointer, member) in
                    [("/call_id", &mut call.id), ("/name", &mut call.name), ("/arguments", &mut call.arguments)]
                {
                    let whole = wire::text(item, pointer);
                    if !whole.is_empty() {
                        whole.clone_into(member);
                    }
                }
                call.arguments.len().saturating_sub(before)
            }
            // Without what is encrypted it would be a name OpenAI has not kept, and refused.
            ("reasoning", _) if !wire::text(item, "/encrypted_content").is_empty() => {
                let summary = item.get("summary").filter(|summary| summary.is_array());
                let summary = summary.cloned().unwrap_or_else(|| json!([]));
                let thought = json!({"type": "reasoning", "id": item["id"], "summary": summary,
                    "encrypted_content": item["encrypted_content"]});
                self.answer.opaque.push(calling::opaque(VENDOR, thought));
                wire::text(item, "/encrypted_content").len()
            }
            _ => 0,
        }
    }

    /// The response as it is in the end.
    fn ends(&mut self, response: &Value, raw: &str) {
        self.head(response);
        // Some servers send nothing before the end.
        if self.places.is_empty() {
            for (index, item) in (0..).zip(response.get("output").and_then(Value::as_array).into_iter().flatten()) {
                self.done(index, item);
            }
        }
        let status = wire::text(response, "/status");
        let stop = match status {
            "incomplete" => wire::text(response, "/incomplete_details/reason"),
            _ => "",
        };
        let stop = if stop.is_empty() { status } else { stop };
        // `in_progress`, `queued`: not over.
        self.answer.complete = matches!(status, "completed" | "incomplete" | "failed" | "cancelled");
        self.answer.stop = Some(stop.to_owned());
        raw.clone_into(&mut self.answer.last);
    }
}

fn usage(counts: &Value) -> Usage {
    let n = |pointer: &str| wire::count(counts, pointer).unwrap_or(0);
    let cache_read = n("/input_tokens_details/cached_tokens");
    let cache_write = n("/input_tokens_details/cache_write_tokens");
    Usage {
        input: n("/input_tokens").saturating_sub(cache_read + cache_write),
        output: n("/output_tokens"),
        cache_read,
        cache_write,
    }
}

impl Reader for Items {
    fn event(&mut self, event: &Event) -> Result<Step, Trouble> {
        if event.data.trim() == "[DONE]" {
            return Ok(Step { content: 0, over: true });
        }
        if event.name == "error" {
            return Err(Trouble::error_event(&*event.data));
        }
        let data = wire::parse(event)?;
        if wire::is_error(&data) {
            return Err(Trouble::error_event(&*event.data));
        }
        let absent = Value::Null;
        let member = |name: &str| data.get(name).unwrap_or(&absent);
        let index = data.get("output_index").and_then(Value::as_u64).unwrap_or_default();
        let delta = wire::text(&data, "/delta");
        let mut step = Step { content: delta.len(), over: false };
        match wire::text(&data, "/type") {
            "response.created" | "response.in_progress" => self.head(member("response")),
            "response.output_item.added" => self.begin(index, member("item")),
            "response.output_text.delta" => {
                self.answer.text.push_str(delta);
                self.hears(index);
            }
            "response.refusal.delta" => {
                self.answer.refusal.push_str(delta);
                self.hears(index);
            }
            "response.function_call_arguments.delta" => {
                if let Some(Place::Call(place)) = self.places.get(&index) {
                    self.answer.calls[*place].arguments.push_str(delta);
                }
            }
            "response.output_item.done" => step.content = self.done(index, member("item")),
            "response.completed" | "response.incomplete" => {
                self.ends(member("response"), &event.data);
                step.over = true;
            }
            "response.failed" => {
                self.head(member("response"));
                return Err(Trouble::error_event(&*event.data));
            }
            // Thoughts in words, the ends of parts, and what may be added.
            _ => {}
        }
        Ok(step)
    }

    fn document(&mut self, document: &Value, text: &str) -> Result<(), Trouble> {
        if !document.get("output").is_some_and(Value::is_array) {
            return Err(Trouble::malformed(text, "no `output` in the response"));
        }
        self.ends(document, text);
        Ok(())
    }

    fn answer(&self) -> &Answer {
        &self.answer
    }

    fn stopped_well(&self, stop: &str) -> bool {
        stop == "completed"
    }

    fn wants_tools(&self, _stop: &str) -> bool {
        // A turn that wants tools is completed like any other; the calls themselves tell.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_without_what_the_cache_had() {
        for (counts, expected) in [
            (json!({"input_tokens": 12, "output_tokens": 3}), Usage { input: 12, output: 3, ..Usage::default() }),
            (
                json!({"input_tokens": 112, "input_tokens_details": {"cached_tokens": 90, "cache_write_tokens": 10},
                    "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 20}}),
                Usage { input: 12, output: 30, cache_read: 90, cache_write: 10 },
            ),
        ] {
            assert_eq!(usage(&counts), expected, "{counts}");
        }
    }

    #[test]
    fn only_models_that_think_are_asked_for_their_thoughts() {
        let config = ProviderConfig::new(crate::config::Wire::Responses, "https://api.openai.com/v1");
        for (model, asked) in [("gpt-6-sol", true), ("o4-mini", true), ("gpt-4.1", false), ("gpt-4o-mini", false)] {
            let tool = ToolSpec { name: "t".to_owned(), description: String::new(), schema: json!({}) };
            let asks = Request {
                model: model.to_owned(),
                system: String::new(),
                messages: vec![Message::user("Look.")],
                tools: vec![tool],
                max_output_tokens: 100,
                schema: Some(json!({"type": "string"})),
            };
            let outgoing = request(&asks, &config, None, "openai");
            assert_eq!(outgoing.url, "https://api.openai.com/v1/responses");
            assert_eq!(outgoing.body.get("include").is_some(), asked, "{model}");
            // OpenAI itself can do both: a schema for the answer, and calls before it.
            assert!(outgoing.body["text"]["format"]["schema"].is_object() && outgoing.body["tools"].is_array());
        }
    }

    #[test]
    fn what_was_said_before_the_answer_is_no_part_of_it() {
        let message = |phase: &str, text: &str| json!({"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]});
        let mut items = Items::default();
        let output = json!([message("commentary", "I look."), message("final_answer", "{}")]);
        items.ends(&json!({"status": "completed", "output": output}), "");
        assert_eq!((items.answer.text.as_str(), items.answer.opaque.len()), ("{}", 1));

        let mut items = Items::default();
        items.ends(&json!({"status": "completed", "output": [message("commentary", "I look.")]}), "");
        assert_eq!(items.answer.text, "I look.");
    }
}
