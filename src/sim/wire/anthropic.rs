//! Anthropic Messages: blocks, events by name, and an envelope that says `error` twice.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Call, Complaint, Draw, Said, Stop, Turn, event, in_words, pieces, ping, request_id, rfc3339};
use crate::config::Wire;

fn stop(turn: &Turn<'_>) -> &'static str {
    match turn.stop {
        Stop::End if !turn.said.calls.is_empty() => "tool_use",
        Stop::End => "end_turn",
        Stop::Length => "max_tokens",
        Stop::Refusal => "refusal",
    }
}

/// Why a refusal, which nothing else has.
fn details(turn: &Turn<'_>) -> Value {
    match turn.stop {
        Stop::Refusal => json!({"type": "refusal", "category": "cyber", "explanation": null}),
        Stop::End | Stop::Length => Value::Null,
    }
}

/// The whole message.
pub(super) fn message(turn: &Turn<'_>) -> Value {
    let words = turn.said.speaks().then(|| json!({"type": "text", "text": turn.said.text}));
    let call = |call: &Call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments});
    let content: Vec<Value> = words.into_iter().chain(turn.said.calls.iter().map(call)).collect();
    json!({
        "id": format!("msg_01sim{:016x}", turn.draw.dice), "type": "message", "role": "assistant",
        "model": turn.model(), "content": content,
        "stop_reason": stop(turn), "stop_sequence": null, "stop_details": details(turn),
        "usage": {"input_tokens": turn.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": turn.output, "service_tier": "standard"},
    })
}

/// The message as a stream.
pub(super) fn events(turn: &Turn<'_>) -> Vec<String> {
    let opening = Turn { said: &Said::words(""), output: 1, ..*turn };
    let mut opening = message(&opening);
    opening["content"] = json!([]);
    opening["stop_reason"] = Value::Null;
    opening["stop_details"] = Value::Null;
    let mut events = vec![event("message_start", &json!({"type": "message_start", "message": opening}))];
    let block = |index: usize, block: Value, deltas: Vec<Value>| {
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        let delta = |delta: Value| {
            event("content_block_delta", &json!({"type": "content_block_delta", "index": index, "delta": delta}))
        };
        let stop = json!({"type": "content_block_stop", "index": index});
        let mut events = vec![event("content_block_start", &start)];
        // As the vendor does: a ping once something has begun.
        events.extend(ping(Wire::Anthropic).filter(|_| index == 0));
        events.extend(deltas.into_iter().map(delta));
        events.push(event("content_block_stop", &stop));
        events
    };
    let mut index = 0;
    if turn.said.speaks() {
        let deltas = pieces(&turn.said.text).iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect();
        events.extend(block(index, json!({"type": "text", "text": ""}), deltas));
        index += 1;
    }
    for call in &turn.said.calls {
        let delta = |piece: &String| json!({"type": "input_json_delta", "partial_json": piece});
        let begun = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        events.extend(block(index, begun, pieces(&call.written()).iter().map(delta).collect()));
        index += 1;
    }
    let delta = json!({"stop_reason": stop(turn), "stop_sequence": null, "stop_details": details(turn)});
    let usage = json!({"input_tokens": turn.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "output_tokens": turn.output});
    events.push(event("message_delta", &json!({"type": "message_delta", "delta": delta, "usage": usage})));
    events.push(event("message_stop", &json!({"type": "message_stop"})));
    events
}

/// The headers of both generations: all tokens together, and what is read apart from what is written.
pub(super) fn limits(draw: Draw, used_up: Option<Duration>) -> Vec<(&'static str, String)> {
    let wait = used_up.map_or(0, |wait| i64::try_from(super::seconds(wait)).unwrap_or(i64::MAX));
    let reset = rfc3339(draw.created.saturating_add(wait));
    let left = |most: &str| if used_up.is_some() { "0".to_owned() } else { most.to_owned() };
    let plenty = |most: &str| most.to_owned();
    vec![
        ("anthropic-ratelimit-requests-limit", plenty("50")),
        ("anthropic-ratelimit-requests-remaining", left("49")),
        ("anthropic-ratelimit-requests-reset", reset.clone()),
        ("anthropic-ratelimit-tokens-limit", plenty("48000")),
        ("anthropic-ratelimit-tokens-remaining", plenty("47000")),
        ("anthropic-ratelimit-tokens-reset", reset.clone()),
        ("anthropic-ratelimit-input-tokens-limit", plenty("40000")),
        ("anthropic-ratelimit-input-tokens-remaining", plenty("39000")),
        ("anthropic-ratelimit-input-tokens-reset", reset.clone()),
        ("anthropic-ratelimit-output-tokens-limit", plenty("8000")),
        ("anthropic-ratelimit-output-tokens-remaining", plenty("8000")),
        ("anthropic-ratelimit-output-tokens-reset", reset),
    ]
}

/// Status and body of a complaint.
pub(super) fn complaint(complaint: Complaint<'_>, draw: Draw) -> (u16, Value) {
    let (status, kind, message) = match complaint {
        Complaint::Overloaded => (529, "overloaded_error", "Overloaded".to_owned()),
        Complaint::ServerError => (500, "api_error", "Internal server error".to_owned()),
        Complaint::Unavailable => (503, "api_error", "Service unavailable".to_owned()),
        Complaint::GatewayTimeout => (504, "timeout_error", "Request timed out.".to_owned()),
        Complaint::RateLimited(wait) => {
            let mut message =
                "This request would exceed your organization's rate limit of 50 requests per minute.".to_owned();
            if wait.is_some() {
                message = format!("{message} {}", in_words(wait));
            }
            (429, "rate_limit_error", message)
        }
        Complaint::NoKey => (401, "authentication_error", "x-api-key header is required".to_owned()),
        Complaint::Unauthorized => (401, "authentication_error", "invalid x-api-key".to_owned()),
        Complaint::Forbidden => (
            403,
            "permission_error",
            "Your API key does not have permission to use the specified resource.".to_owned(),
        ),
        Complaint::OutOfCredit => (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.".to_owned(),
        ),
        Complaint::NoSuchModel(model) => (404, "not_found_error", format!("model: {model}")),
        Complaint::TooLong => {
            (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum".to_owned())
        }
        Complaint::TooLarge => (413, "request_too_large", "Request exceeds the maximum size".to_owned()),
        Complaint::Invalid(message) => (400, "invalid_request_error", message.to_owned()),
        Complaint::NoSuchPath(_) => (404, "not_found_error", "Not Found".to_owned()),
        Complaint::BadGateway(message) => (502, "api_error", message.to_owned()),
    };
    let error = json!({"type": kind, "message": message});
    (status, json!({"type": "error", "error": error, "request_id": request_id(Wire::Anthropic, draw)}))
}
