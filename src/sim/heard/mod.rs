//! What the outage server hears: a request, read as far as a script can see it, or the vendor's own complaint.
//!
//! It complains of what the vendors complain of, so that a conversation that only works here does not pass: calls
//! without results, results without calls, tools that were called and are not offered. Each vendor's file brings its
//! requests into the same few turns; what is counted from those is counted here.

mod anthropic;
mod door;
mod gemini;
mod ollama;
mod openai;
mod responses;

use serde_json::Value;

pub use door::{Door, Form};

use super::script::Asked;
use super::wire::{Complaint, Draw, Outgoing, complain};
use crate::config::Wire;

/// A request, read: what rules see, and what is needed to answer it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What rules see.
    pub asked: Asked,
    /// The schema the answer is to meet, if one was sent.
    pub schema: Option<Value>,
    /// The tools on offer.
    pub tools: Vec<Offered>,
    /// OpenAI: does the client want a usage chunk at the end of its stream?
    pub usage_chunk: bool,
    /// In which form the answer is wanted.
    pub form: Form,
}

/// A tool on offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
}

impl Incoming {
    /// A request without a schema and without tools: for those who write answers to requests that came on no wire.
    #[must_use]
    pub const fn plain(asked: Asked) -> Self {
        Self { asked, schema: None, tools: Vec::new(), usage_chunk: false, form: Form::Chat }
    }

    /// Gemini: is the stream to be an array?
    pub(super) fn is_array(&self) -> bool {
        self.form == Form::Array && self.asked.stream
    }
}

/// Who spoke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// What stands before everything else.
    System,
    /// The asker, or a tool.
    Asker,
    Model,
}

/// What was said, brought into one form.
struct Said {
    who: Who,
    words: String,
}

/// A request's body, brought into one form.
struct Read {
    model: String,
    said: Vec<Said>,
    tools: Vec<Offered>,
    schema: Option<Value>,
    stream: bool,
    usage_chunk: bool,
}

/// Reads a request body, or says what this vendor would complain about: status and body.
///
/// # Errors
/// The vendor's own 400 when the body is no request.
pub fn read(door: &Door, body: &[u8], draw: Draw) -> Result<Incoming, Box<Outgoing>> {
    let bad = |message: String| Box::new(complain(door.wire, draw, Complaint::Invalid(&message)));
    let body: Value = serde_json::from_slice(body).map_err(|problem| bad(format!("invalid JSON: {problem}")))?;
    let read = match door.wire {
        Wire::Anthropic => anthropic::read(&body),
        Wire::OpenAi => openai::read(&body),
        Wire::Responses => responses::read(&body),
        Wire::Gemini => gemini::read(&body),
        Wire::Ollama => ollama::read(&body, door.form),
    };
    let mut read = read.map_err(bad)?;
    if let Some(model) = &door.model {
        model.clone_into(&mut read.model);
    }
    Ok(incoming(read, door))
}

fn incoming(read: Read, door: &Door) -> Incoming {
    let (mut prompt, mut last, mut turns) = (String::new(), String::new(), 0);
    let mut before = Who::System;
    for said in &read.said {
        // The system's words stand first, or are none.
        if said.who != Who::System || !prompt.is_empty() {
            prompt.push('\n');
        }
        prompt.push_str(&said.words);
        match said.who {
            Who::Model => {
                // Words and calls that follow each other are one turn, however many items they are.
                turns += u64::from(before != Who::Model);
                last.clear();
            }
            // All that was said since the model's last turn.
            Who::Asker => {
                last.push_str(&said.words);
                last.push('\n');
            }
            Who::System => {}
        }
        before = said.who;
    }
    let tools = read.tools.iter().map(|tool| tool.name.clone()).collect();
    let stream = door.stream.unwrap_or(read.stream);
    Incoming {
        asked: Asked { wire: door.wire, model: read.model, prompt, last, turns, tools, stream },
        schema: read.schema,
        tools: read.tools,
        usage_chunk: read.usage_chunk,
        form: door.form,
    }
}

/// The model asked for in the body.
fn model(body: &Value) -> Result<String, String> {
    match body.get("model").and_then(Value::as_str) {
        Some(model) if !model.is_empty() => Ok(model.to_owned()),
        Some(_) | None => Err("model: Field required".to_owned()),
    }
}

/// The list under this key, which must not be empty.
fn list<'a>(body: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    let list = body.get(key).and_then(Value::as_array).filter(|all| !all.is_empty());
    list.ok_or_else(|| format!("{key}: Field required"))
}

fn flag(body: &Value, path: &str) -> bool {
    body.pointer(path).and_then(Value::as_bool).unwrap_or(false)
}

/// The first of these places where something is.
fn first(body: &Value, paths: &[&str]) -> Option<Value> {
    paths.iter().find_map(|path| body.pointer(path)).filter(|found| !found.is_null()).cloned()
}

/// Tools with their name and schema at one of these places.
fn offered(tools: Option<&Value>, name: &[&str], parameters: &[&str]) -> Vec<Offered> {
    let one = |tool: &Value| {
        let name = first(tool, name)?.as_str()?.to_owned();
        Some(Offered { name, parameters: first(tool, parameters).unwrap_or(Value::Null) })
    };
    tools.and_then(Value::as_array).into_iter().flatten().filter_map(one).collect()
}

/// The text of a `content` or `system`: a string, or blocks with a `text` each, or the `content` of a tool's result.
fn words_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let words = |block: &Value| match block.get("text").and_then(Value::as_str) {
                Some(text) => Some(text.to_owned()),
                None => block.get("content").map(words_of),
            };
            blocks.iter().filter_map(words).collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// Chat messages with a role and a content each; a content may be missing where there are calls.
fn messages(messages: &[Value]) -> Result<Vec<Said>, String> {
    let one = |message: &Value| {
        let content = message.get("content").or_else(|| message.get("tool_calls").map(|_| &Value::Null));
        let content = content.ok_or_else(|| "messages: content is required".to_owned())?;
        let who = if message["role"] == "assistant" { Who::Model } else { Who::Asker };
        Ok(Said { who, words: words_of(content) })
    };
    messages.iter().map(one).collect()
}

/// Ids at this place in each of these.
fn ids<'a>(of: impl IntoIterator<Item = &'a Value>, place: &str) -> Vec<&'a str> {
    of.into_iter().filter_map(|value| value.get(place)?.as_str()).collect()
}

#[cfg(test)]
mod tests;
