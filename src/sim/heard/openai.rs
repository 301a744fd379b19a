//! Requests of OpenAI Chat Completions: messages by role, calls with ids, results that name them.

use serde_json::Value;

use super::{Read, Said, Who, first, flag, ids, list, messages, model, offered};

pub(super) fn read(body: &Value) -> Result<Read, String> {
    let model = model(body)?;
    let all = list(body, "messages")?;
    let mut said = vec![Said { who: Who::System, words: String::new() }];
    said.extend(messages(all)?);
    if let Some(complaint) = unpaired(all) {
        return Err(complaint);
    }
    Ok(Read {
        model,
        said,
        tools: offered(body.get("tools"), &["/function/name"], &["/function/parameters"]),
        schema: first(body, &["/response_format/json_schema/schema"]),
        stream: flag(body, "/stream"),
        usage_chunk: flag(body, "/stream_options/include_usage"),
    })
}

/// What is wrong with calls and results, in the vendor's words: each call has its result before anybody else speaks.
fn unpaired(messages: &[Value]) -> Option<String> {
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
