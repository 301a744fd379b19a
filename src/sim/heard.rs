//! What the outage server hears: a request, read as far as a script can see it, or the vendor's own complaint.
//!
//! It complains of what the vendors complain of, so that a conversation that only works here does not pass: calls
//! without results, results without calls, tools that were called and are not offered.

use serde_json::Value;

use super::script::Asked;
use super::wire::{Draw, Outgoing, error};
use crate::config::Wire;

/// A request, read: what rules see, and what is needed to answer it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What rules see.
    pub asked: Asked,
    /// The schema the answer is to meet, if one was sent.
    pub schema: Option<Value>,
    /// OpenAI: does the client want a usage chunk at the end of its stream?
    pub usage_chunk: bool,
}

/// Reads a request body, or says what this vendor would complain about: status and body.
///
/// # Errors
/// The vendor's own 400 when the body is no request.
pub fn read(wire: Wire, body: &[u8], draw: Draw) -> Result<Incoming, Box<Outgoing>> {
    let bad = |message: String| Box::new(error(wire, draw, 400, "invalid_request_error", None, &message));
    let body: Value = serde_json::from_slice(body).map_err(|problem| bad(format!("invalid JSON: {problem}")))?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let model = text("model");
    if model.is_empty() {
        return Err(bad("model: Field required".to_owned()));
    }
    let messages = body.get("messages").and_then(Value::as_array).filter(|all| !all.is_empty());
    let Some(messages) = messages else { return Err(bad("messages: Field required".to_owned())) };
    if wire == Wire::Anthropic && body.get("max_tokens").and_then(Value::as_u64).is_none_or(|most| most == 0) {
        return Err(bad("max_tokens: Field required".to_owned()));
    }
    let mut prompt = body.get("system").map(words_of).unwrap_or_default();
    let (mut last, mut turns) = (String::new(), 0);
    for message in messages {
        let content = message.get("content").or_else(|| message.get("tool_calls").map(|_| &Value::Null));
        let Some(content) = content else { return Err(bad("messages: content is required".to_owned())) };
        let words = words_of(content);
        prompt.push('\n');
        prompt.push_str(&words);
        match message["role"].as_str() {
            Some("assistant") => {
                turns += 1;
                last.clear();
            }
            // All that was said since the model's last turn.
            _ => {
                last.push_str(&words);
                last.push('\n');
            }
        }
    }
    if let Some(complaint) = unpaired(wire, messages, body.get("tools").is_some()) {
        return Err(bad(complaint));
    }
    let schema = ["/response_format/json_schema/schema", "/output_format/schema", "/output_config/format/schema"]
        .iter()
        .find_map(|path| body.pointer(path))
        .cloned();
    let flag = |path: &str| body.pointer(path).and_then(Value::as_bool).unwrap_or(false);
    Ok(Incoming {
        asked: Asked { wire, model, prompt, last, turns, tools: tools(&body), stream: flag("/stream") },
        schema,
        usage_chunk: flag("/stream_options/include_usage"),
    })
}

/// The names of the tools on offer.
fn tools(body: &Value) -> Vec<String> {
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let name =
        |tool: &Value| tool.pointer("/function/name").or(tool.get("name")).and_then(Value::as_str).map(String::from);
    tools.filter_map(name).collect()
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

/// Ids at this place in each of these.
fn ids<'a>(of: impl IntoIterator<Item = &'a Value>, place: &str) -> Vec<&'a str> {
    of.into_iter().filter_map(|value| value.get(place)?.as_str()).collect()
}

/// What is wrong with calls and results, in the vendor's words: each call has its result in the very next turn.
fn unpaired(wire: Wire, messages: &[Value], offered: bool) -> Option<String> {
    match wire {
        Wire::Anthropic => unpaired_blocks(messages, offered),
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => unpaired_messages(messages),
    }
}

fn unpaired_blocks(messages: &[Value], offered: bool) -> Option<String> {
    let blocks = |message: &'_ Value, kind: &str| -> Vec<Value> {
        let blocks = message["content"].as_array().into_iter().flatten();
        blocks.filter(|block| block["type"] == kind).cloned().collect()
    };
    for (at, message) in messages.iter().enumerate() {
        let (used, told) = (blocks(message, "tool_use"), blocks(message, "tool_result"));
        let any = !used.is_empty() || !told.is_empty();
        if any && !offered {
            return Some(
                "Requests which have `tool_use` or `tool_result` blocks in messages must define tools.".to_owned(),
            );
        }
        let next = messages.get(at + 1).map(|next| blocks(next, "tool_result")).unwrap_or_default();
        let answered = ids(&next, "tool_use_id");
        let missing: Vec<&str> = ids(&used, "id").into_iter().filter(|id| !answered.contains(id)).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Some(format!(
                "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}."
            ));
        }
        let before = at.checked_sub(1).map(|before| blocks(&messages[before], "tool_use")).unwrap_or_default();
        let called = ids(&before, "id");
        if let Some(id) = ids(&told, "tool_use_id").into_iter().find(|id| !called.contains(id)) {
            return Some(format!("messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}."));
        }
    }
    None
}

fn unpaired_messages(messages: &[Value]) -> Option<String> {
    for (at, message) in messages.iter().enumerate() {
        let is_result = |message: &&Value| message["role"] == "tool";
        let called = ids(message["tool_calls"].as_array().into_iter().flatten(), "id");
        let answered = ids(messages[at + 1..].iter().take_while(is_result), "tool_call_id");
        let missing: Vec<&str> = called.into_iter().filter(|id| !answered.contains(id)).collect();
        if !missing.is_empty() {
            return Some(format!(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
                missing.join(", ")
            ));
        }
        let caller = messages[..at].iter().rev().find(|message| !is_result(message));
        let called = caller.map(|caller| ids(caller["tool_calls"].as_array().into_iter().flatten(), "id"));
        let known = message["tool_call_id"].as_str().is_some_and(|id| called.unwrap_or_default().contains(&id));
        if is_result(&message) && !known {
            return Some(
                "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.".to_owned(),
            );
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DRAW: Draw = Draw { dice: 7, words: 7, created: 1_790_000_000 };

    fn heard(wire: Wire, body: &Value) -> Result<Incoming, String> {
        read(wire, body.to_string().as_bytes(), DRAW).map_err(|refused| {
            assert_eq!(refused.status, 400);
            refused.pieces.concat()
        })
    }

    fn request(extra: Value) -> Value {
        let mut body = json!({"model": "m-1", "max_tokens": 100, "system": [{"type": "text", "text": "You are cto."}],
            "messages": [{"role": "user", "content": "BS-014"}]});
        body.as_object_mut().expect("object").extend(extra.as_object().cloned().unwrap_or_default());
        body
    }

    #[test]
    fn requests_are_read_as_rules_need_them() {
        let schema = json!({"type": "object"});
        for (wire, extra) in [
            (Wire::OpenAi, json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})),
            (Wire::Anthropic, json!({"output_format": {"type": "json_schema", "schema": schema}})),
            (Wire::Anthropic, json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}})),
        ] {
            let heard = heard(wire, &request(extra)).expect("a request");
            assert_eq!(heard.schema, Some(schema.clone()));
            assert_eq!(heard.asked.prompt, "You are cto.\nBS-014");
        }
        for (body, complaint) in [
            ("{", "invalid JSON"),
            ("{}", "model"),
            (r#"{"model":"m"}"#, "messages"),
            (r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens"),
            (r#"{"model":"m","max_tokens":1,"messages":[{"role":"user"}]}"#, "content is required"),
        ] {
            let refused = read(Wire::Anthropic, body.as_bytes(), DRAW).expect_err("not a request");
            assert_eq!(refused.status, 400);
            assert!(refused.pieces[0].contains(complaint), "{body}: {}", refused.pieces[0]);
        }
    }

    /// A conversation with one call and these results, on both wires.
    fn conversation(wire: Wire, results: &[&str]) -> Value {
        match wire {
            Wire::Anthropic => json!({"tools": [{"name": "look", "input_schema": {"type": "object"}}], "messages": [
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
                {"role": "user", "content": results.iter().map(|id| json!({"type": "tool_result", "tool_use_id": id, "content": "a cat"}))
                    .chain([json!({"type": "text", "text": "And?"})]).collect::<Vec<_>>()},
            ]}),
            Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => {
                let call = json!({"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}});
                let mut messages = vec![
                    json!({"role": "user", "content": "Look."}),
                    json!({"role": "assistant", "tool_calls": [call]}),
                ];
                messages
                    .extend(results.iter().map(|id| json!({"role": "tool", "tool_call_id": id, "content": "a cat"})));
                messages.push(json!({"role": "user", "content": "And?"}));
                json!({"tools": [{"type": "function", "function": {"name": "look"}}], "messages": messages})
            }
        }
    }

    #[test]
    fn results_of_tools_are_words_of_the_prompt_and_turns_are_counted() {
        for wire in [Wire::Anthropic, Wire::OpenAi] {
            let asked = heard(wire, &request(conversation(wire, &["c1"]))).expect("a request").asked;
            assert!(asked.prompt.contains("Look.") && asked.prompt.contains("a cat"), "{}", asked.prompt);
            assert_eq!((asked.last.as_str(), asked.turns), ("a cat\nAnd?\n", 1));
            assert_eq!(asked.tools, ["look"]);
        }
    }

    #[test]
    fn calls_and_results_that_do_not_match_are_complained_of() {
        for (wire, results, complaint) in [
            (Wire::Anthropic, &[][..], "without `tool_result` blocks immediately after: c1"),
            (Wire::Anthropic, &["c1", "c2"], "unexpected `tool_use_id` found in `tool_result` blocks: c2"),
            (Wire::OpenAi, &[], "did not have response messages: c1"),
            (Wire::OpenAi, &["c1", "c2"], "must be a response to a preceeding message"),
        ] {
            let refused = heard(wire, &request(conversation(wire, results))).expect_err("refused");
            assert!(refused.contains(complaint), "{refused}");
        }
        let mut body = request(conversation(Wire::Anthropic, &["c1"]));
        body.as_object_mut().expect("object").remove("tools");
        assert!(heard(Wire::Anthropic, &body).expect_err("refused").contains("must define tools"));
    }
}
