//! Providers behind loopback stubs: how each wire says the same few things.

use std::sync::Arc;
use std::time::Duration;

use backstop::cause::{LlmFailure, Usage};
use backstop::config::{ProviderConfig, Timeouts, Wire};
use backstop::llm::{self, Message, Progress, Provider, Reply, Request};
use backstop::task::Integration;
use backstop::time::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::{Play, Stub, chunk, chunked, last_chunk};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_302_000_000);
pub(crate) const SECRET: &str = "sk-very-secret-key";
pub(crate) const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
pub(crate) const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];
pub(crate) const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];
pub(crate) const WIRES: [Wire; 5] = [Wire::Anthropic, Wire::OpenAi, Wire::Responses, Wire::Gemini, Wire::Ollama];
pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const SHORT: Duration = Duration::from_millis(200);
pub(crate) const PATIENT: Timeouts =
    Timeouts { connect: LONG, first_byte: LONG, first_content: LONG, idle: LONG, total: LONG };

/// A provider of this wire there, with timers that do not end the test.
pub(crate) fn config(wire: Wire, base_url: &str) -> ProviderConfig {
    ProviderConfig {
        api_key: Some(SecretString::from(SECRET)),
        timeouts: PATIENT,
        ..ProviderConfig::new(wire, base_url)
    }
}

pub(crate) fn build(integration: &str, config: &ProviderConfig) -> Result<Arc<dyn Provider>, llm::Error> {
    llm::provider(Integration::new(integration).expect("a name"), config, Arc::new(|| NOW))
}

pub(crate) fn request() -> Request {
    Request {
        model: "model-1".to_owned(),
        system: "Be brief.".to_owned(),
        messages: vec![Message::user("Hello"), Message::assistant("Yes?"), Message::user("Count.")],
        max_output_tokens: 64,
        tools: Vec::new(),
        schema: None,
    }
}

/// Asks once.
pub(crate) async fn ask(
    integration: &str,
    config: &ProviderConfig,
    progress: &Progress,
) -> Result<Reply, Box<LlmFailure>> {
    build(integration, config).expect("a sound configuration").ask(&request(), progress).await
}

/// Asks once and expects a failure.
pub(crate) async fn fail(config: &ProviderConfig) -> LlmFailure {
    match ask("stub", config, &Progress::default()).await {
        Ok(reply) => panic!("an answer where none was expected: {reply:?}"),
        Err(failure) => *failure,
    }
}

/// A stub that plays this, and a provider that asks it.
pub(crate) async fn serve(wire: Wire, plays: Vec<Play>, timeouts: Timeouts) -> (Stub, Arc<dyn Provider>) {
    let stub = Stub::playing(plays).await;
    let config = ProviderConfig { timeouts, ..config(wire, &stub.url()) };
    (stub, build("stub", &config).expect("a sound configuration"))
}

/// Asks once, expects a failure, and that it was one request.
pub(crate) async fn fails_once((stub, provider): (Stub, Arc<dyn Provider>)) -> LlmFailure {
    let failure = match provider.ask(&request(), &Progress::default()).await {
        Ok(reply) => panic!("an answer where none was expected: {reply:?}"),
        Err(failure) => *failure,
    };
    // A timer may run out before the stub gets to hear what has long arrived.
    tokio::time::timeout(LONG, stub.next_request()).await.expect("a request");
    assert_eq!(stub.heard().len(), 1, "one request per call: {failure:?}");
    assert!(failure.sent, "a request that was heard was sent: {failure:?}");
    assert_eq!(failure.at, NOW);
    failure
}

/// Serves this, expects a failure, and that it was one request.
pub(crate) async fn fails(wire: Wire, plays: Vec<Play>, timeouts: Timeouts) -> LlmFailure {
    fails_once(serve(wire, plays, timeouts).await).await
}

/// Headers of the wire's stream.
pub(crate) fn stream_headers(wire: Wire) -> &'static [(&'static str, &'static str)] {
    match wire {
        Wire::Anthropic | Wire::OpenAi | Wire::Responses | Wire::Gemini => SSE,
        Wire::Ollama => NDJSON,
    }
}

/// One event of the wire, as it stands in the body.
pub(crate) fn event(wire: Wire, name: Option<&str>, data: &str) -> String {
    match (wire, name) {
        (Wire::Ollama, _) => format!("{data}\n"),
        (_, Some(":")) => format!(":{data}\n\n"),
        (_, Some(name)) => format!("event: {name}\ndata: {data}\n\n"),
        (_, None) => format!("data: {data}\n\n"),
    }
}

/// The first events of an answer that says "Half", without its end.
pub(crate) fn half(wire: Wire) -> Vec<String> {
    match wire {
        Wire::Anthropic => vec![
            event(
                wire,
                Some("message_start"),
                r#"{"type":"message_start","message":{"model":"claude","usage":{"input_tokens":12,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":1}}}"#,
            ),
            event(
                wire,
                Some("content_block_start"),
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            ),
            event(
                wire,
                Some("content_block_delta"),
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Half"}}"#,
            ),
        ],
        Wire::OpenAi => vec![
            event(
                wire,
                None,
                r#"{"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            ),
            event(
                wire,
                None,
                r#"{"model":"gpt","choices":[{"index":0,"delta":{"content":"Half"},"finish_reason":null}]}"#,
            ),
        ],
        Wire::Responses => vec![
            event(
                wire,
                Some("response.created"),
                r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","error":null,"model":"gpt","output":[]}}"#,
            ),
            event(
                wire,
                Some("response.output_item.added"),
                r#"{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}}"#,
            ),
            event(
                wire,
                Some("response.output_text.delta"),
                r#"{"type":"response.output_text.delta","sequence_number":2,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Half"}"#,
            ),
        ],
        Wire::Gemini => vec![event(
            wire,
            None,
            r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"Half"}]},"index":0}],"usageMetadata":{"promptTokenCount":112},"modelVersion":"gemini"}"#,
        )],
        Wire::Ollama => {
            vec![event(wire, None, r#"{"model":"llama","message":{"role":"assistant","content":"Half"},"done":false}"#)]
        }
    }
}

/// The last events, with this stop reason.
pub(crate) fn end(wire: Wire, stop: &str) -> Vec<String> {
    match wire {
        Wire::Anthropic => vec![
            event(
                wire,
                Some("message_delta"),
                &format!(
                    r#"{{"type":"message_delta","delta":{{"stop_reason":"{stop}"}},"usage":{{"output_tokens":30}}}}"#
                ),
            ),
            event(wire, Some("message_stop"), r#"{"type":"message_stop"}"#),
        ],
        Wire::OpenAi => vec![
            event(
                wire,
                None,
                &format!(r#"{{"model":"gpt","choices":[{{"index":0,"delta":{{}},"finish_reason":"{stop}"}}]}}"#),
            ),
            event(
                wire,
                None,
                r#"{"model":"gpt","choices":[],"usage":{"prompt_tokens":112,"completion_tokens":30,"total_tokens":142,"prompt_tokens_details":{"cached_tokens":100}}}"#,
            ),
            event(wire, None, "[DONE]"),
        ],
        Wire::Responses => {
            let response = response(json!([]), stop);
            let name = if stop == "completed" { "response.completed" } else { "response.incomplete" };
            vec![event(
                wire,
                Some(name),
                &json!({"type": name, "sequence_number": 9, "response": response}).to_string(),
            )]
        }
        Wire::Gemini => vec![event(
            wire,
            None,
            &format!(
                r#"{{"candidates":[{{"finishReason":"{stop}","index":0}}],"usageMetadata":{{"promptTokenCount":112,"cachedContentTokenCount":100,"candidatesTokenCount":20,"thoughtsTokenCount":10}},"modelVersion":"gemini"}}"#
            ),
        )],
        Wire::Ollama => vec![event(
            wire,
            None,
            &format!(
                r#"{{"model":"llama","message":{{"role":"assistant","content":""}},"done":true,"done_reason":"{stop}","prompt_eval_count":12,"eval_count":30}}"#
            ),
        )],
    }
}

/// A response of the Responses API with this output, which is complete, or ended for this reason.
pub(crate) fn response(output: Value, stop: &str) -> Value {
    let complete = stop == "completed";
    json!({
        "id": "resp_1", "object": "response", "status": if complete { "completed" } else { "incomplete" },
        "error": null, "incomplete_details": if complete { Value::Null } else { json!({"reason": stop}) },
        "model": "gpt", "output": output,
        "usage": {"input_tokens": 112, "input_tokens_details": {"cached_tokens": 100}, "output_tokens": 30,
            "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 142},
    })
}

/// A whole body of the wire: this text, this stop reason.
pub(crate) fn document(wire: Wire, text: &str, stop: &str) -> String {
    let body = match wire {
        Wire::Anthropic => {
            json!({"type": "message", "model": "claude", "content": [{"type": "text", "text": text}], "stop_reason": stop,
            "usage": {"input_tokens": 12, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7, "output_tokens": 30}})
        }
        Wire::OpenAi => {
            json!({"model": "gpt", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stop}],
            "usage": {"prompt_tokens": 112, "completion_tokens": 30, "total_tokens": 142, "prompt_tokens_details": {"cached_tokens": 100}}})
        }
        Wire::Responses => {
            let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
            let message = json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content});
            response(json!([message]), stop)
        }
        Wire::Gemini => {
            json!({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": stop}], "modelVersion": "gemini",
            "usageMetadata": {"promptTokenCount": 112, "cachedContentTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 10}})
        }
        Wire::Ollama => {
            json!({"model": "llama", "message": {"role": "assistant", "content": text}, "done": true, "done_reason": stop,
            "prompt_eval_count": 12, "eval_count": 30})
        }
    };
    body.to_string()
}

/// The stop reason of a good end, and of one at the token limit.
pub(crate) fn stops(wire: Wire) -> (&'static str, &'static str) {
    match wire {
        Wire::Anthropic => ("end_turn", "max_tokens"),
        Wire::OpenAi | Wire::Ollama => ("stop", "length"),
        Wire::Responses => ("completed", "max_output_tokens"),
        Wire::Gemini => ("STOP", "MAX_TOKENS"),
    }
}

pub(crate) fn usage(wire: Wire) -> Usage {
    match wire {
        Wire::Anthropic => Usage { input: 12, output: 30, cache_read: 100, cache_write: 7 },
        Wire::OpenAi | Wire::Responses | Wire::Gemini => {
            Usage { input: 12, output: 30, cache_read: 100, cache_write: 0 }
        }
        Wire::Ollama => Usage { input: 12, output: 30, ..Usage::default() },
    }
}

/// Plays a stream: these events, a chunk each, then this end.
pub(crate) fn stream(wire: Wire, events: &[String], ending: &[Play]) -> Vec<Play> {
    let mut plays = vec![Play::Send(chunked(200, stream_headers(wire)))];
    plays.extend(events.iter().map(|event| Play::Send(chunk(event))));
    plays.extend_from_slice(ending);
    plays
}

/// The clean end of a chunked body.
pub(crate) fn clean() -> [Play; 2] {
    [Play::Send(last_chunk()), Play::Close]
}
