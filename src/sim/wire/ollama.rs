//! Ollama's own wire: lines of JSON, the last of which says `done`; an error is a sentence.

use serde_json::{Value, json};

use super::{Complaint, Stop, Turn, pieces, rfc3339};
use crate::sim::heard::Form;

fn stop(turn: &Turn<'_>) -> &'static str {
    match turn.stop {
        // These models have no way to refuse but in words.
        Stop::End | Stop::Refusal => "stop",
        Stop::Length => "length",
    }
}

/// One line that says this and calls these.
fn line(turn: &Turn<'_>, text: &str, calls: &[Value], done: bool) -> Value {
    let mut line = json!({"model": turn.model(), "created_at": rfc3339(turn.draw.created), "done": done});
    match turn.incoming.form {
        Form::Generate => line["response"] = json!(text),
        Form::Chat | Form::Array => {
            line["message"] = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                line["message"]["tool_calls"] = json!(calls);
            }
        }
    }
    if done {
        line["done_reason"] = json!(stop(turn));
        // Nanoseconds, at the pace of a laptop.
        line["total_duration"] = json!(turn.output * 20_000_000 + 60_000_000);
        line["load_duration"] = json!(10_000_000);
        line["prompt_eval_count"] = json!(turn.input);
        line["prompt_eval_duration"] = json!(50_000_000);
        line["eval_count"] = json!(turn.output);
        line["eval_duration"] = json!(turn.output * 20_000_000);
    }
    line
}

fn calls(turn: &Turn<'_>) -> Vec<Value> {
    let call = |(index, call): (usize, &super::Call)| json!({"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}});
    turn.said.calls.iter().enumerate().map(call).collect()
}

/// The whole answer.
pub(super) fn answer(turn: &Turn<'_>) -> Value {
    line(turn, &turn.said.text, &calls(turn), true)
}

/// The answer as a stream.
pub(super) fn lines(turn: &Turn<'_>) -> Vec<String> {
    let mut all: Vec<Value> = pieces(&turn.said.text).iter().map(|text| line(turn, text, &[], false)).collect();
    if !turn.said.calls.is_empty() {
        all.push(line(turn, "", &calls(turn), false));
    }
    all.push(line(turn, "", &[], true));
    all.iter().map(|one| format!("{one}\n")).collect()
}

/// Status and body of a complaint.
pub(super) fn complaint(complaint: Complaint<'_>) -> (u16, Value) {
    let (status, message) = match complaint {
        Complaint::Overloaded => (503, "server busy, please try again.  maximum pending requests exceeded".to_owned()),
        Complaint::ServerError => (500, "an error was encountered while running the model: unexpected EOF".to_owned()),
        Complaint::Unavailable => (503, "llm server loading model".to_owned()),
        Complaint::GatewayTimeout => (504, "gateway timeout".to_owned()),
        Complaint::RateLimited(None) => (429, "rate limit exceeded".to_owned()),
        Complaint::RateLimited(wait) => (429, format!("rate limit exceeded. {}", super::in_words(wait))),
        Complaint::NoKey | Complaint::Unauthorized => (401, "unauthorized".to_owned()),
        Complaint::Forbidden => {
            (403, "this model requires a subscription, upgrade for access: https://ollama.com/upgrade".to_owned())
        }
        Complaint::OutOfCredit => (
            429,
            "you have reached your weekly usage limit, upgrade for higher limits: https://ollama.com/upgrade"
                .to_owned(),
        ),
        Complaint::NoSuchModel(model) => (404, format!("model \"{model}\" not found, try pulling it first")),
        Complaint::TooLong => (400, "the input length exceeds the context length".to_owned()),
        Complaint::TooLarge => (413, "http: request body too large".to_owned()),
        Complaint::Invalid(message) => (400, message.to_owned()),
        Complaint::NoSuchPath(_) => (404, "404 page not found".to_owned()),
        Complaint::BadGateway(message) => (502, message.to_owned()),
    };
    (status, json!({"error": message}))
}
