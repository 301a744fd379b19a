//! Google Gemini generateContent: candidates of parts, a stream without an end mark, errors with details.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Call, Complaint, Stop, Turn, in_words, pieces};

/// Arguments that are no JSON never leave Google: the turn ends without a call.
fn is_malformed(turn: &Turn<'_>) -> bool {
    turn.said.calls.iter().any(|call| call.arguments.is_string())
}

fn stop(turn: &Turn<'_>) -> &'static str {
    match turn.stop {
        Stop::End if is_malformed(turn) => "MALFORMED_FUNCTION_CALL",
        Stop::End => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Refusal => "SAFETY",
    }
}

fn call(call: &Call) -> Value {
    json!({"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}})
}

/// One response with these parts; the last one also says why it ends.
fn piece(turn: &Turn<'_>, parts: &[Value], last: bool) -> Value {
    let mut candidate = json!({"index": 0});
    // A refusal and a malformed call come without a word.
    if turn.stop != Stop::Refusal && !is_malformed(turn) {
        candidate["content"] = json!({"parts": parts, "role": "model"});
    }
    let mut usage = json!({"promptTokenCount": turn.input, "totalTokenCount": turn.input,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": turn.input}]});
    if last {
        candidate["finishReason"] = json!(stop(turn));
        usage["candidatesTokenCount"] = json!(turn.output);
        usage["totalTokenCount"] = json!(turn.input + turn.output);
    }
    json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": turn.model(),
        "responseId": format!("sim{:016x}", turn.draw.dice)})
}

/// The whole response.
pub(super) fn response(turn: &Turn<'_>) -> Value {
    let words = turn.said.speaks().then(|| json!({"text": turn.said.text}));
    let parts: Vec<Value> = words.into_iter().chain(turn.said.calls.iter().map(call)).collect();
    piece(turn, &parts, true)
}

/// The response as a stream: events, or an array when nobody asked for events.
pub(super) fn chunks(turn: &Turn<'_>) -> Vec<String> {
    let mut all: Vec<Value> = Vec::new();
    if turn.stop != Stop::Refusal && !is_malformed(turn) {
        all.extend(pieces(&turn.said.text).iter().map(|text| piece(turn, &[json!({"text": text})], false)));
        all.extend(turn.said.calls.iter().map(|one| piece(turn, &[call(one)], false)));
    }
    all.push(piece(turn, &[json!({"text": ""})], true));
    if !turn.incoming.is_array() {
        return all.iter().map(|one| format!("data: {one}\r\n\r\n")).collect();
    }
    let last = all.len() - 1;
    let bracketed = |(index, one): (usize, &Value)| {
        format!("{}{one}{}", if index == 0 { "[" } else { ",\r\n" }, if index == last { "]" } else { "" })
    };
    all.iter().enumerate().map(bracketed).collect()
}

/// Which quota is used up, and when to come back.
fn quota(id: &str, wait: Option<Duration>) -> Vec<Value> {
    let failure = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests", "quotaId": id,
        "quotaDimensions": {"location": "global"}, "quotaValue": "500"}]});
    let delay = |wait: Duration| json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}s", wait.as_secs_f64())});
    [failure].into_iter().chain(wait.map(delay)).collect()
}

/// Status and body of a complaint.
pub(super) fn complaint(complaint: Complaint<'_>) -> (u16, Value) {
    let plain = |status: u16, name: &'static str, message: &str| (status, name, message.to_owned(), Vec::new());
    let (status, name, message, details) = match complaint {
        Complaint::Overloaded => plain(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        Complaint::ServerError => plain(500, "INTERNAL", "An internal error has occurred."),
        Complaint::Unavailable => plain(503, "UNAVAILABLE", "The service is currently unavailable."),
        Complaint::GatewayTimeout => plain(504, "DEADLINE_EXCEEDED", "The request timed out. Please try again."),
        Complaint::RateLimited(wait) => (
            429,
            "RESOURCE_EXHAUSTED",
            format!("You exceeded your current quota, please check your plan and billing details. {}", in_words(wait)),
            quota("GenerateRequestsPerMinutePerProjectPerModel", wait),
        ),
        Complaint::NoKey => plain(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
        ),
        Complaint::Unauthorized => {
            let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID",
                "domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}});
            let message = "API key not valid. Please pass a valid API key.";
            (400, "INVALID_ARGUMENT", message.to_owned(), vec![info])
        }
        Complaint::Forbidden => {
            plain(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.")
        }
        Complaint::OutOfCredit => plain(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
        Complaint::NoSuchModel(model) => plain(
            404,
            "NOT_FOUND",
            &format!(
                "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."
            ),
        ),
        Complaint::TooLarge => {
            plain(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes.")
        }
        Complaint::TooLong => plain(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        Complaint::Invalid(message) => plain(400, "INVALID_ARGUMENT", message),
        Complaint::NoSuchPath(what) => plain(404, "NOT_FOUND", &format!("Requested entity was not found: {what}")),
        Complaint::BadGateway(message) => plain(502, "UNAVAILABLE", message),
    };
    let mut error = json!({"code": status, "message": message, "status": name});
    if !details.is_empty() {
        error["details"] = json!(details);
    }
    (status, json!({"error": error}))
}
