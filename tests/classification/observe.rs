//! From a row of the corpus to the cause an adapter would have written: facts only, judged elsewhere.

use std::time::Duration;

use backstop::budget::{Ask, Caps, Purse};
use backstop::cause::{Cause, Fault, LlmFailure, OutputFault, OutputReason, Phase, Usage, Violation};
use backstop::provider_code::{self, Stop};
use backstop::stuck;
use backstop::task::{AgentName, Integration, TaskId};
use backstop::time::Timestamp;
use serde_json::Value;

/// A call that failed, with nothing seen of it yet.
pub(crate) fn blank(provider: &str, phase: Phase, fault: Fault, status: Option<u16>, at: Timestamp) -> LlmFailure {
    LlmFailure {
        integration: Integration::new("provider").expect("a name"),
        provider: provider.to_owned(),
        model: "m".to_owned(),
        phase,
        fault,
        status,
        headers: Vec::new(),
        body: String::new(),
        code: None,
        stop: None,
        request_id: None,
        partial: String::new(),
        usage: Usage::default(),
        sent: status.is_some(),
        self_hosted: false,
        at,
        elapsed: Duration::from_secs(1),
        detail: String::new(),
    }
}

fn only_known_keys(id: &str, value: &Value, known: &[&str]) {
    for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
        assert!(known.contains(&key.as_str()), "{id}: unknown key {key:?}");
    }
}

/// The cause a row describes; `None` when nothing is wrong with what it describes.
pub(crate) fn row(row: &Value, now: Timestamp) -> Option<Cause> {
    let id = row["id"].as_str().expect("an id");
    only_known_keys(
        id,
        row,
        &[
            "id",
            "provider",
            "api",
            "phase",
            "status",
            "headers",
            "body",
            "stream",
            "stream_ends",
            "transport",
            "request",
            "expect",
            "why",
            "source",
            "confidence",
        ],
    );
    let request = &row["request"];
    if row["api"] != "loop" {
        only_known_keys(id, request, &["stream", "schema", "tools", "endpoint", "self_hosted"]);
    }
    let provider = row["provider"].as_str().expect("a provider");
    let api = row["api"].as_str().expect("an api");
    if api == "loop" {
        return going_round(id, request);
    }
    let phase: Phase = row["phase"].as_str().expect("a phase").parse().expect("a phase");
    let status = row["status"].as_u64().map(|status| u16::try_from(status).expect("a status"));
    let headers = row["headers"].as_object().into_iter().flatten();
    let mut failure = LlmFailure {
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.as_str().expect("text").to_owned())).collect(),
        self_hosted: request["endpoint"] == "self_hosted"
            || request["self_hosted"] == true
            || row["transport"]["endpoint"] == "self_hosted",
        ..blank(provider, phase, Fault::Status, status, now)
    };
    if let Some(transport) = row.get("transport") {
        only_known_keys(id, transport, &["kind", "endpoint", "request_sent", "status", "detail"]);
        failure.fault = transport_fault(id, transport["kind"].as_str().expect("a kind"));
        failure.sent = transport["request_sent"].as_bool().unwrap_or(false);
        failure.status = transport["status"].as_u64().and_then(|status| u16::try_from(status).ok()).or(status);
        return (failure.fault != Fault::Stop).then(|| Cause::Llm(Box::new(failure)));
    }
    if let Some(frames) = row.get("stream") {
        let ends = row["stream_ends"].as_str().expect("stream_ends");
        return read_stream(id, api, provider, frames.as_array().expect("frames"), ends, request, failure);
    }
    failure.body = row["body"].as_str().unwrap_or_default().to_owned();
    if status.is_none_or(|status| status >= 300) {
        return Some(Cause::Llm(Box::new(failure)));
    }
    let Ok(value) = serde_json::from_str::<Value>(&failure.body) else {
        failure.fault = Fault::Malformed;
        return Some(Cause::Llm(Box::new(failure)));
    };
    if carries_error(&value) {
        failure.fault = Fault::ErrorBody;
        return Some(Cause::Llm(Box::new(failure)));
    }
    match read_body(api, provider, &value) {
        Some(answer) => judge_answer(answer, request, failure),
        None => {
            failure.fault = Fault::Malformed;
            Some(Cause::Llm(Box::new(failure)))
        }
    }
}

fn transport_fault(id: &str, kind: &str) -> Fault {
    match kind {
        _ if kind.contains("dns") || kind.contains("nxdomain") || kind.contains("resolve") => Fault::Dns,
        _ if kind.contains("refused") => Fault::Refused,
        "eof" | "closed" | "incomplete" | "incomplete_message" | "truncated" | "truncated_body" => Fault::Eof,
        "reset" | "aborted" | "broken_pipe" | "goaway" | "connection_closed" => Fault::Reset,
        "proxy_auth" => Fault::ProxyAuth,
        "cancelled" | "canceled" | "cancel" | "aborted_by_us" | "abort" => Fault::Cancelled,
        "unreachable" | "network_unreachable" | "host_unreachable" | "other" => Fault::Transport,
        "tls" | "handshake" | "tls_handshake" | "tls_alert" => Fault::Tls,
        _ if kind.contains("timeout") || kind.contains("timed_out") || kind.contains("stall") => Fault::Timeout,
        _ if kind.contains("hostname") || kind.contains("issuer") || kind.contains("expired") => Fault::Certificate,
        _ if kind.contains("cert") || kind.contains("self_signed") => Fault::Certificate,
        _ if kind.contains("cancel") => Fault::Cancelled,
        _ if kind.contains("reset") || kind.contains("abort") => Fault::Reset,
        _ if kind.contains("eof") || kind.contains("close") || kind.contains("short") => Fault::Eof,
        _ if kind.contains("tls") || kind.contains("handshake") => Fault::Tls,
        _ if kind.contains("proxy") => Fault::ProxyAuth,
        _ if kind.contains("url") || kind.contains("scheme") => Fault::InvalidUrl,
        _ => panic!("{id}: unknown transport trouble {kind:?}"),
    }
}

/// What an agent did so far. Limits come in pairs: `steps` and `max_steps`, `spent_usd` and `budget_usd`.
fn going_round(id: &str, request: &Value) -> Option<Cause> {
    let request = request.as_object().unwrap_or_else(|| panic!("{id}: nothing to look at"));
    let mut found = None;
    for (key, value) in request {
        let number = |name: &str| {
            request.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{id}: {key:?} without {name:?}"))
        };
        let cause = match key.as_str() {
            "history" => {
                let calls = value.as_array().expect("a history").iter();
                let history: Vec<(&str, &str)> = calls
                    .map(|call| (call[0].as_str().expect("a name"), call[1].as_str().expect("arguments")))
                    .collect();
                stuck::circle(&history).map(|stuck| Cause::Loop { evidence: stuck.evidence() })
            }
            "text" | "output" | "content" => {
                stuck::chant(value.as_str().expect("a text")).map(|stuck| Cause::Loop { evidence: stuck.evidence() })
            }
            "max_steps" => {
                stuck::out_of_steps(request["steps"].as_u64().expect("steps"), value.as_u64().expect("a limit"))
                    .map(|stuck| Cause::Loop { evidence: stuck.evidence() })
            }
            "steps" => None,
            _ => match (key.strip_prefix("max_"), key.strip_prefix("budget"), key.strip_prefix("spent")) {
                (Some(what), _, _) => out_of_budget(number(what), number(key)),
                (_, Some(what), _) => out_of_budget(number(&format!("spent{what}")), number(key)),
                (_, _, Some(what)) => Some(number(&format!("budget{what}"))).and(None),
                (None, None, None) => Some(number(&format!("max_{key}"))).and(None),
            }
            .map(|evidence| Cause::Budget { evidence }),
        };
        found = found.or(cause);
    }
    found
}

/// Would even the cheapest further call pass the cap on its task?
fn out_of_budget(spent: f64, budget: f64) -> Option<String> {
    let micros = |amount: f64| (amount * 1e6).round() as u64;
    let agent = AgentName::new("agent").expect("a name");
    let now = Timestamp::default();
    let ask = Ask { task: TaskId::new(now, [0; 10]), task_spent: micros(spent), agent: &agent, micro_usd: 1 };
    let caps = Caps { task: Some(micros(budget)), ..Caps::default() };
    Purse::new().reserve(&ask, &caps, now).err().map(|over| over.to_string())
}

/// Is this an error in the dress of a success?
fn carries_error(value: &Value) -> bool {
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(value);
    value.get("error").is_some_and(|error| !error.is_null())
        || value["type"] == "error"
        || value["object"] == "error"
        || value["status"] == "failed"
        || value["response"]["error"].is_object()
        || value["choices"][0]["error"].is_object()
}

/// What a model said, whatever the wire.
#[derive(Default)]
struct Answer {
    text: String,
    refusal: Option<String>,
    stop: Option<String>,
    calls: Vec<(String, Arguments)>,
}

enum Arguments {
    Text(String),
    Parsed(Value),
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Reads a whole body; `None` when it has not the shape its wire promises.
fn read_body(api: &str, provider: &str, body: &Value) -> Option<Answer> {
    let mut answer = Answer::default();
    match (api, provider) {
        ("messages", _) => {
            for block in body["content"].as_array()? {
                match block["type"].as_str()? {
                    "text" => answer.text += block["text"].as_str()?,
                    "tool_use" => {
                        answer.calls.push((text_of(&block["name"])?, Arguments::Parsed(block["input"].clone())))
                    }
                    _ => {}
                }
            }
            answer.stop = Some(text_of(&body["stop_reason"])?);
        }
        (_, "ollama") if body.get("choices").is_none() => {
            answer.text = text_of(&body["message"]["content"]).or(text_of(&body["response"]))?;
            for call in body["message"]["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                answer.calls.push((text_of(&function["name"])?, Arguments::Parsed(function["arguments"].clone())));
            }
            answer.stop = text_of(&body["done_reason"]).or(Some("stop".to_owned()));
        }
        ("chat" | "completions", _) => {
            let choice = body["choices"].get(0)?;
            answer.text = text_of(&choice["message"]["content"]).unwrap_or_default();
            answer.refusal = text_of(&choice["message"]["refusal"]);
            for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                let arguments = Arguments::Text(text_of(&function["arguments"])?);
                answer.calls.push((text_of(&function["name"])?, arguments));
            }
            answer.stop = Some(text_of(&choice["finish_reason"])?);
        }
        ("responses", _) => {
            read_response(body, &mut answer)?;
        }
        ("generateContent" | "streamGenerateContent", _) => {
            let body = body.as_array().and_then(|list| list.last()).unwrap_or(body);
            read_candidate(body, &mut answer)?;
            answer.stop.as_ref()?;
        }
        ("converse" | "converse_stream" | "invoke", _) => {
            for block in body["output"]["message"]["content"].as_array()? {
                answer.text += block["text"].as_str().unwrap_or_default();
                if let Some(call) = block.get("toolUse") {
                    answer.calls.push((text_of(&call["name"])?, Arguments::Parsed(call["input"].clone())));
                }
            }
            answer.stop = Some(text_of(&body["stopReason"])?);
        }
        ("interactions", _) => {
            for output in body["outputs"].as_array().into_iter().flatten() {
                answer.text += output["text"].as_str().unwrap_or_default();
            }
            answer.stop = Some(text_of(&body["status"])?);
        }
        _ => panic!("unknown api {api:?} of {provider:?}"),
    }
    Some(answer)
}

fn read_response(body: &Value, answer: &mut Answer) -> Option<()> {
    for item in body["output"].as_array()? {
        match item["type"].as_str()? {
            "message" => {
                for part in item["content"].as_array()? {
                    answer.text += part["text"].as_str().unwrap_or_default();
                    answer.refusal = text_of(&part["refusal"]).or(answer.refusal.take());
                }
            }
            "function_call" => {
                let arguments = Arguments::Text(text_of(&item["arguments"])?);
                answer.calls.push((text_of(&item["name"])?, arguments));
            }
            _ => {}
        }
    }
    answer.stop = text_of(&body["incomplete_details"]["reason"]).or(text_of(&body["status"]));
    Some(())
}

fn read_candidate(body: &Value, answer: &mut Answer) -> Option<()> {
    if let Some(reason) = text_of(&body["promptFeedback"]["blockReason"]) {
        // Whatever the reason's name, the prompt was blocked.
        answer.stop = Some("blocked".to_owned());
        answer.refusal = Some(reason);
        return Some(());
    }
    let candidate = body["candidates"].get(0)?;
    for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
        if part["thought"] == true {
            continue;
        }
        answer.text += part["text"].as_str().unwrap_or_default();
        if let Some(call) = part.get("functionCall") {
            answer.calls.push((text_of(&call["name"])?, Arguments::Parsed(call["args"].clone())));
        }
    }
    answer.stop = text_of(&candidate["finishReason"]).or(answer.stop.take());
    Some(())
}

/// A complete answer: is it one that can be used?
fn judge_answer(answer: Answer, request: &Value, mut failure: LlmFailure) -> Option<Cause> {
    failure.fault = Fault::Stop;
    failure.stop.clone_from(&answer.stop);
    failure.partial.clone_from(&answer.text);
    let normal = answer.stop.as_deref().and_then(provider_code::stop) == Some(Stop::Normal);
    if !normal {
        return Some(Cause::Llm(Box::new(failure)));
    }
    let mut stopped = |detail: &str| {
        detail.clone_into(&mut failure.detail);
        Some(Cause::Llm(Box::new(failure.clone())))
    };
    if answer.refusal.is_some() {
        return stopped("refused");
    }
    for (name, arguments) in &answer.calls {
        let arguments = match arguments {
            Arguments::Parsed(value) => value.clone(),
            Arguments::Text(text) => match serde_json::from_str(text) {
                Ok(value) => value,
                Err(_) => return stopped("tool arguments are not JSON"),
            },
        };
        let Some(tools) = request["tools"].as_array() else { continue };
        let Some(tool) = tools.iter().find(|tool| tool["name"] == name.as_str()) else {
            return stopped("unknown tool");
        };
        if !violations(&tool["schema"], &arguments).is_empty() {
            return stopped("tool arguments break their schema");
        }
    }
    if !answer.calls.is_empty() {
        return None;
    }
    if answer.text.trim().is_empty() {
        return stopped("empty answer");
    }
    let schema = request.get("schema")?;
    let output =
        |reason, violations| Some(Cause::Output(OutputFault { reason, violations, excerpt: answer.text.clone() }));
    let Ok(instance) = serde_json::from_str::<Value>(&answer.text) else {
        return output(OutputReason::NotJson, Vec::new());
    };
    let violations = violations(schema, &instance);
    if violations.is_empty() { None } else { output(OutputReason::Schema, violations) }
}

fn violations(schema: &Value, instance: &Value) -> Vec<Violation> {
    let validator = jsonschema::validator_for(schema).expect("a schema");
    validator
        .iter_errors(instance)
        .map(|error| Violation { path: error.instance_path().to_string(), message: error.to_string() })
        .collect()
}

/// Reads the frames of a stream to its end, whichever end that is.
fn read_stream(
    id: &str,
    api: &str,
    provider: &str,
    frames: &[Value],
    ends: &str,
    request: &Value,
    mut failure: LlmFailure,
) -> Option<Cause> {
    let mut answer = Answer::default();
    let mut terminal = false;
    failure.sent = true;
    for frame in frames {
        let event = frame[0].as_str().unwrap_or_default();
        let data = frame[1].as_str().expect("data");
        if event == ":" || data.trim() == "[DONE]" {
            continue;
        }
        let failed = |failure: &mut LlmFailure, fault| {
            failure.fault = fault;
            data.clone_into(&mut failure.body);
            Some(Cause::Llm(Box::new(failure.clone())))
        };
        if let Some(exception) = event.strip_prefix("exception:") {
            failure.code = Some(exception.to_owned());
            return failed(&mut failure, Fault::ErrorEvent);
        }
        let Ok(value) = serde_json::from_str::<Value>(data) else { return failed(&mut failure, Fault::Malformed) };
        // Vertex streams its events as a list of one.
        let value = value.as_array().filter(|list| list.len() == 1).map_or(value.clone(), |list| list[0].clone());
        if event == "error" || value["event_type"] == "error" || carries_error(&value) {
            return failed(&mut failure, Fault::ErrorEvent);
        }
        let kind = if event.is_empty() { value["type"].as_str().unwrap_or_default() } else { event };
        match (api, provider) {
            ("messages", _) => match kind {
                "content_block_start" if value["content_block"]["type"] == "tool_use" => {
                    let name = text_of(&value["content_block"]["name"]).expect("a name");
                    answer.calls.push((name, Arguments::Text(String::new())));
                }
                "content_block_delta" => {
                    answer.text += value["delta"]["text"].as_str().unwrap_or_default();
                    if let Some(piece) = value["delta"]["partial_json"].as_str()
                        && let Some((_, Arguments::Text(text))) = answer.calls.last_mut()
                    {
                        text.push_str(piece);
                    }
                }
                "message_delta" => answer.stop = text_of(&value["delta"]["stop_reason"]).or(answer.stop.take()),
                "message_stop" => terminal = true,
                _ => {}
            },
            ("responses", _) => match kind {
                "response.completed" | "response.incomplete" => {
                    answer = Answer::default();
                    read_response(&value["response"], &mut answer);
                    terminal = true;
                }
                "response.failed" => return failed(&mut failure, Fault::ErrorEvent),
                _ => {}
            },
            ("generateContent" | "streamGenerateContent", _) => {
                read_candidate(&value, &mut answer);
                terminal = answer.stop.is_some();
            }
            ("interactions", _) => {
                if value["event_type"] == "interaction.complete" {
                    answer.stop = Some("completed".to_owned());
                    terminal = true;
                }
                answer.text += value["delta"]["text"].as_str().unwrap_or_default();
            }
            ("converse_stream" | "converse", _) => match event {
                "contentBlockStart" => {
                    if let Some(name) = value["start"]["toolUse"]["name"].as_str() {
                        answer.calls.push((name.to_owned(), Arguments::Text(String::new())));
                    }
                }
                "contentBlockDelta" => {
                    answer.text += value["delta"]["text"].as_str().unwrap_or_default();
                    if let Some(piece) = value["delta"]["toolUse"]["input"].as_str()
                        && let Some((_, Arguments::Text(text))) = answer.calls.last_mut()
                    {
                        text.push_str(piece);
                    }
                }
                "messageStop" => {
                    answer.stop = text_of(&value["stopReason"]);
                    terminal = true;
                }
                _ => {}
            },
            (_, "ollama") if value.get("choices").is_none() => {
                answer.text += value["message"]["content"].as_str().unwrap_or_default();
                if value["done"] == true {
                    answer.stop = text_of(&value["done_reason"]).or(Some("stop".to_owned()));
                    terminal = true;
                }
            }
            ("chat" | "completions", _) => {
                let choice = &value["choices"][0];
                answer.text += choice["delta"]["content"].as_str().unwrap_or_default();
                answer.refusal = text_of(&choice["delta"]["refusal"]).or(answer.refusal.take());
                for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                    if let Some(name) = call["function"]["name"].as_str() {
                        answer.calls.push((name.to_owned(), Arguments::Text(String::new())));
                    }
                    if let Some((_, Arguments::Text(text))) = answer.calls.last_mut() {
                        text.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
                    }
                }
                if let Some(stop) = text_of(&choice["finish_reason"]) {
                    answer.stop = Some(stop);
                    terminal = true;
                }
            }
            _ => panic!("{id}: unknown api {api:?} of {provider:?}"),
        }
    }
    failure.partial.clone_from(&answer.text);
    if terminal {
        // A tool called without arguments sends none.
        for (_, arguments) in &mut answer.calls {
            if let Arguments::Text(text) = arguments
                && text.is_empty()
            {
                *arguments = Arguments::Parsed(serde_json::json!({}));
            }
        }
        return judge_answer(answer, request, failure);
    }
    (failure.fault, failure.detail) = match ends {
        "clean" => (Fault::Truncated, "no terminal event".to_owned()),
        "abort" => (Fault::Reset, "the connection broke".to_owned()),
        "hang" => (Fault::Timeout, "no content".to_owned()),
        _ => panic!("{id}: unknown end of a stream {ends:?}"),
    };
    Some(Cause::Llm(Box::new(failure)))
}
