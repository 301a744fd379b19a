//! OpenAI Responses: one response made of items, and a numbered event for everything that happens to it.

use serde_json::{Value, json};

use super::{Call, Stop, Turn, event, pieces};

fn status(turn: &Turn<'_>) -> &'static str {
    match turn.stop {
        Stop::End | Stop::Refusal => "completed",
        Stop::Length => "incomplete",
    }
}

/// The response with these items in this state.
fn shell(turn: &Turn<'_>, status: &str, output: &[Value]) -> Value {
    let over = status != "in_progress";
    let usage = over.then(|| {
        json!({"input_tokens": turn.input, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": turn.output, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": turn.input + turn.output})
    });
    json!({
        "id": format!("resp_sim{:016x}", turn.draw.dice), "object": "response", "created_at": turn.draw.created,
        "status": status, "background": false, "completed_at": (status == "completed").then_some(turn.draw.created),
        "error": null,
        "incomplete_details": (status == "incomplete").then(|| json!({"reason": "max_output_tokens"})),
        "instructions": null, "max_output_tokens": null, "metadata": {}, "model": turn.model(), "output": output,
        "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
        "service_tier": "default", "store": false, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": usage, "user": null,
    })
}

fn message_id(turn: &Turn<'_>) -> String {
    format!("msg_sim{:016x}", turn.draw.dice)
}

/// The part of a message its words are in.
fn part(turn: &Turn<'_>, text: &str) -> Value {
    match turn.stop {
        Stop::Refusal => json!({"type": "refusal", "refusal": text}),
        Stop::End | Stop::Length => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
    }
}

fn message(turn: &Turn<'_>, status: &str, content: &[Value]) -> Value {
    json!({"id": message_id(turn), "type": "message", "status": status, "role": "assistant", "content": content})
}

fn call_id(turn: &Turn<'_>, place: usize) -> String {
    format!("fc_sim{:016x}{place:02}", turn.draw.dice)
}

fn call(id: &str, call: &Call, status: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function_call", "status": status, "call_id": call.id, "name": call.name,
        "arguments": arguments})
}

fn items(turn: &Turn<'_>) -> Vec<Value> {
    let words = turn.said.speaks().then(|| message(turn, status(turn), &[part(turn, &turn.said.text)]));
    let calls = turn.said.calls.iter().enumerate();
    let calls = calls.map(|(place, one)| call(&call_id(turn, place), one, status(turn), &one.written()));
    words.into_iter().chain(calls).collect()
}

/// The whole response.
pub(super) fn response(turn: &Turn<'_>) -> Value {
    shell(turn, status(turn), &items(turn))
}

/// The response as a stream.
pub(super) fn events(turn: &Turn<'_>) -> Vec<String> {
    let mut all = vec![
        json!({"type": "response.created", "response": shell(turn, "in_progress", &[])}),
        json!({"type": "response.in_progress", "response": shell(turn, "in_progress", &[])}),
    ];
    let done = items(turn);
    let mut index = 0;
    if turn.said.speaks() {
        let (kind, field) = match turn.stop {
            Stop::Refusal => ("response.refusal", "refusal"),
            Stop::End | Stop::Length => ("response.output_text", "text"),
        };
        let at = |kind: &str| json!({"type": kind, "item_id": message_id(turn), "output_index": 0, "content_index": 0});
        let with = |mut event: Value, fields: Value| {
            event.as_object_mut().expect("an object").extend(fields.as_object().cloned().unwrap_or_default());
            // Words have odds, refusals have not.
            if kind == "response.output_text" && event.get("part").is_none() {
                event["logprobs"] = json!([]);
            }
            event
        };
        all.push(json!({"type": "response.output_item.added", "output_index": 0,
            "item": message(turn, "in_progress", &[])}));
        all.push(with(at("response.content_part.added"), json!({"part": part(turn, "")})));
        let delta = |piece: &String| with(at(&format!("{kind}.delta")), json!({"delta": piece}));
        all.extend(pieces(&turn.said.text).iter().map(delta));
        all.push(with(at(&format!("{kind}.done")), json!({field: turn.said.text})));
        all.push(with(at("response.content_part.done"), json!({"part": part(turn, &turn.said.text)})));
        all.push(json!({"type": "response.output_item.done", "output_index": 0, "item": done[0]}));
        index = 1;
    }
    for (place, one) in turn.said.calls.iter().enumerate() {
        let id = call_id(turn, place);
        all.push(json!({"type": "response.output_item.added", "output_index": index,
            "item": call(&id, one, "in_progress", "")}));
        let at = |kind: &str, field: &str, text: &str| json!({"type": kind, "item_id": id, "output_index": index, field: text});
        all.extend(
            pieces(&one.written()).iter().map(|piece| at("response.function_call_arguments.delta", "delta", piece)),
        );
        let mut whole = at("response.function_call_arguments.done", "arguments", &one.written());
        whole["name"] = json!(one.name);
        all.push(whole);
        all.push(json!({"type": "response.output_item.done", "output_index": index, "item": done[index]}));
        index += 1;
    }
    all.push(json!({"type": format!("response.{}", status(turn)), "response": shell(turn, status(turn), &done)}));
    let numbered = |(number, mut one): (usize, Value)| {
        one["sequence_number"] = json!(number);
        event(one["type"].as_str().unwrap_or_default(), &one)
    };
    all.into_iter().enumerate().map(numbered).collect()
}

/// What comes in place of the rest.
pub(super) fn error_event() -> String {
    let message = "The server had an error while processing your request. Sorry about that!";
    let error =
        json!({"type": "error", "sequence_number": 99, "code": "server_error", "message": message, "param": null});
    event("error", &error)
}
