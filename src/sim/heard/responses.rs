//! Requests of OpenAI Responses: instructions, and an input that is words or a list of items.

use serde_json::Value;

use super::{Read, Said, Who, first, flag, ids, model, offered, words_of};

pub(super) fn read(body: &Value) -> Result<Read, String> {
    let model = model(body)?;
    let instructions = body.get("instructions").map(words_of).unwrap_or_default();
    let mut said = vec![Said { who: Who::System, words: instructions }];
    match body.get("input") {
        Some(Value::String(words)) => said.push(Said { who: Who::Asker, words: words.clone() }),
        Some(Value::Array(items)) if !items.is_empty() => {
            said.extend(items.iter().map(item));
            if let Some(complaint) = unpaired(items) {
                return Err(complaint);
            }
        }
        Some(_) | None => return Err("Missing required parameter: 'input'.".to_owned()),
    }
    Ok(Read {
        model,
        said,
        tools: offered(body.get("tools"), &["/name"], &["/parameters"]),
        schema: first(body, &["/text/format/schema"]),
        stream: flag(body, "/stream"),
        usage_chunk: false,
    })
}

fn item(item: &Value) -> Said {
    match item["type"].as_str() {
        Some("function_call_output") => Said { who: Who::Asker, words: words_of(&item["output"]) },
        Some("function_call" | "reasoning") => Said { who: Who::Model, words: String::new() },
        Some(_) | None => {
            let who = if item["role"] == "assistant" { Who::Model } else { Who::Asker };
            Said { who, words: words_of(&item["content"]) }
        }
    }
}

/// What is wrong with calls and results, in the vendor's words: each has the other somewhere in the input.
fn unpaired(items: &[Value]) -> Option<String> {
    let of = |kind: &str| ids(items.iter().filter(|item| item["type"] == kind), "call_id");
    let (called, told) = (of("function_call"), of("function_call_output"));
    if let Some(id) = called.iter().find(|id| !told.contains(id)) {
        return Some(format!("No tool output found for function call {id}."));
    }
    let id = told.iter().find(|id| !called.contains(id))?;
    Some(format!("No tool call found for function call output with call_id {id}."))
}
