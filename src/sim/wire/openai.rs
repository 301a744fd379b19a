//! OpenAI Chat Completions: choices, chunks without a name, `[DONE]`; and the envelope of all of OpenAI's errors.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Call, Complaint, Stop, Turn, in_words, pieces, seconds};

fn stop(turn: &Turn<'_>) -> &'static str {
    match turn.stop {
        Stop::End if !turn.said.calls.is_empty() => "tool_calls",
        Stop::End | Stop::Refusal => "stop",
        Stop::Length => "length",
    }
}

fn id(turn: &Turn<'_>) -> String {
    format!("chatcmpl-sim{:016x}", turn.draw.dice)
}

fn usage(turn: &Turn<'_>) -> Value {
    json!({
        "prompt_tokens": turn.input, "completion_tokens": turn.output, "total_tokens": turn.input + turn.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

/// The whole completion.
pub(super) fn completion(turn: &Turn<'_>) -> Value {
    let said = turn.said;
    let (content, refusal) =
        if turn.stop == Stop::Refusal { (Value::Null, json!(said.text)) } else { (json!(said.text), Value::Null) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": refusal, "annotations": []});
    if !said.calls.is_empty() {
        let call = |call: &Call| {
            json!({"id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.written()}})
        };
        message["tool_calls"] = said.calls.iter().map(call).collect();
        if said.text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    json!({
        "id": id(turn), "object": "chat.completion", "created": turn.draw.created, "model": turn.model(),
        "choices": [{"index": 0, "logprobs": null, "finish_reason": stop(turn), "message": message}],
        "usage": usage(turn), "service_tier": "default", "system_fingerprint": "fp_backstop",
    })
}

/// The completion as a stream.
pub(super) fn chunks(turn: &Turn<'_>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": id(turn), "object": "chat.completion.chunk", "created": turn.draw.created,
            "model": turn.model(), "service_tier": "default", "system_fingerprint": "fp_backstop", "choices": choices,
        });
        if turn.incoming.usage_chunk {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let choice = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let field = if turn.stop == Stop::Refusal { "refusal" } else { "content" };
    let mut chunks = vec![choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null)];
    chunks.extend(pieces(&turn.said.text).iter().map(|piece| choice(json!({field: piece}), Value::Null)));
    for (index, call) in turn.said.calls.iter().enumerate() {
        let begun = json!({"index": index, "id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        chunks.push(choice(json!({"tool_calls": [begun]}), Value::Null));
        chunks.extend(pieces(&call.written()).iter().map(|piece| {
            choice(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), Value::Null)
        }));
    }
    chunks.push(choice(json!({}), json!(stop(turn))));
    if turn.incoming.usage_chunk {
        chunks.push(chunk(json!([]), usage(turn)));
    }
    chunks.push("data: [DONE]\n\n".to_owned());
    chunks
}

/// What is left, and how long it takes until all of it is there again.
pub(super) fn limits(used_up: Option<Duration>) -> Vec<(&'static str, String)> {
    let (left, reset) = match used_up {
        Some(wait) => ("0".to_owned(), format!("{}s", seconds(wait))),
        None => ("499".to_owned(), "120ms".to_owned()),
    };
    vec![
        ("x-ratelimit-limit-requests", "500".to_owned()),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", reset),
        ("x-ratelimit-limit-tokens", "200000".to_owned()),
        ("x-ratelimit-remaining-tokens", "199000".to_owned()),
        ("x-ratelimit-reset-tokens", "12ms".to_owned()),
    ]
}

/// Status and body of a complaint.
pub(super) fn complaint(complaint: Complaint<'_>) -> (u16, Value) {
    const INVALID: &str = "invalid_request_error";
    let (status, kind, code, message) = match complaint {
        Complaint::Overloaded => (
            503,
            "service_unavailable_error",
            Some("server_is_overloaded"),
            "The server is overloaded. Please try again later.".to_owned(),
        ),
        Complaint::ServerError => (
            500,
            "server_error",
            None,
            "The server had an error while processing your request. Sorry about that!".to_owned(),
        ),
        Complaint::Unavailable => (503, "server_error", None, "Service unavailable".to_owned()),
        Complaint::GatewayTimeout => (504, "server_error", None, "Gateway timeout".to_owned()),
        Complaint::RateLimited(wait) => (
            429,
            "requests",
            Some("rate_limit_exceeded"),
            format!("Rate limit reached for requests. Limit: 500 / min. {}", in_words(wait)),
        ),
        Complaint::NoKey => (401, INVALID, Some("invalid_api_key"), "You didn't provide an API key.".to_owned()),
        Complaint::Unauthorized => (401, INVALID, Some("invalid_api_key"), "Incorrect API key provided.".to_owned()),
        Complaint::Forbidden => (
            403,
            "request_forbidden",
            Some("unsupported_country_region_territory"),
            "Country, region, or territory not supported".to_owned(),
        ),
        Complaint::OutOfCredit => (
            429,
            "insufficient_quota",
            Some("insufficient_quota"),
            "You exceeded your current quota, please check your plan and billing details.".to_owned(),
        ),
        Complaint::NoSuchModel(model) => (
            404,
            INVALID,
            Some("model_not_found"),
            format!("The model `{model}` does not exist or you do not have access to it."),
        ),
        Complaint::TooLarge => (413, INVALID, None, "Maximum content size limit exceeded".to_owned()),
        Complaint::TooLong => (
            400,
            INVALID,
            Some("context_length_exceeded"),
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 131202 tokens."
                .to_owned(),
        ),
        Complaint::Invalid(message) => (400, INVALID, None, message.to_owned()),
        Complaint::NoSuchPath(what) => (404, INVALID, None, format!("Invalid URL ({what})")),
        Complaint::BadGateway(message) => (502, "server_error", None, message.to_owned()),
    };
    (status, json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}
