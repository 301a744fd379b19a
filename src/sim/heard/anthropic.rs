//! Anthropic's requests: a `system` of its own, blocks of text, calls and results.

use serde_json::Value;

use super::{Read, Said, Who, first, flag, ids, list, messages, model, offered, words_of};

pub(super) fn read(body: &Value) -> Result<Read, String> {
    let model = model(body)?;
    let all = list(body, "messages")?;
    if body.get("max_tokens").and_then(Value::as_u64).is_none_or(|most| most == 0) {
        return Err("max_tokens: Field required".to_owned());
    }
    let mut said = vec![Said { who: Who::System, words: body.get("system").map(words_of).unwrap_or_default() }];
    said.extend(messages(all)?);
    if let Some(complaint) = unpaired(all, body.get("tools").is_some()) {
        return Err(complaint);
    }
    Ok(Read {
        model,
        said,
        tools: offered(body.get("tools"), &["/name"], &["/input_schema"]),
        schema: first(body, &["/output_format/schema", "/output_config/format/schema"]),
        stream: flag(body, "/stream"),
        usage_chunk: false,
    })
}

/// What is wrong with calls and results, in the vendor's words: each call has its result in the very next turn.
fn unpaired(messages: &[Value], offered: bool) -> Option<String> {
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
