//! The two wire formats the outage server speaks, written as the vendors write them.
//!
//! [`read`] turns a request into what a script can see of it, or into the vendor's own complaint; [`write()`] turns a
//! behaviour into bytes. Both are pure; sending them, with their pauses and breaks, is `outage.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use super::sample::sample;
use super::script::{Answer, Asked, Behaviour};
use crate::config::Wire;

/// A request, read: what rules see, and what is needed to answer it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What rules see.
    pub asked: Asked,
    /// The schema the answer is to meet, if one was sent.
    pub schema: Option<Value>,
    /// OpenAI: does the client want a usage chunk at the end of its stream?
    pub usage_chunk: bool,
}

/// Names and numbers of one exchange, drawn by the server.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// For ids: another one for each request.
    pub dice: u64,
    /// For words: the same for the same request.
    pub words: u64,
    /// Seconds since the Unix epoch, for `created`.
    pub created: i64,
}

/// How a response goes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The status.
    pub status: u16,
    /// Headers, `content-type` included.
    pub headers: Vec<(&'static str, String)>,
    /// The body in pieces; streams have one piece an event.
    pub pieces: Vec<String>,
    /// Between two pieces.
    pub pause: Duration,
    /// After the last piece.
    pub end: End,
    /// Tokens said to be read.
    pub input_tokens: u64,
    /// Tokens said to be written, up to where it ends.
    pub output_tokens: u64,
}

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Clean,
    /// The connection breaks.
    Abort,
    /// It does not end: pings for as long as somebody listens.
    Pings,
    /// It does not even begin.
    Silence,
}

/// The header that names a request in this vendor's responses.
#[must_use]
pub const fn request_id_header(wire: Wire) -> &'static str {
    match wire {
        Wire::Anthropic => "request-id",
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => "x-request-id",
    }
}

/// Reads a request body, or says what this vendor would complain about: status and body.
///
/// # Errors
/// The vendor's own 400 when the body is no request.
pub fn read(wire: Wire, body: &[u8], draw: Draw) -> Result<Incoming, Box<Outgoing>> {
    let bad = |message: String| Box::new(error(wire, draw, 400, "invalid_request_error", None, &message));
    let body: Value = serde_json::from_slice(body).map_err(|problem| bad(format!("invalid JSON: {problem}")))?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let model = text("model");
    if model.is_empty() {
        return Err(bad("model: Field required".to_owned()));
    }
    let messages = body.get("messages").and_then(Value::as_array).filter(|all| !all.is_empty());
    let Some(messages) = messages else { return Err(bad("messages: Field required".to_owned())) };
    if wire == Wire::Anthropic && body.get("max_tokens").and_then(Value::as_u64).is_none_or(|most| most == 0) {
        return Err(bad("max_tokens: Field required".to_owned()));
    }
    let mut prompt = body.get("system").map(words_of).unwrap_or_default();
    for message in messages {
        let Some(content) = message.get("content") else { return Err(bad("messages: content is required".to_owned())) };
        prompt.push('\n');
        prompt.push_str(&words_of(content));
    }
    let schema = ["/response_format/json_schema/schema", "/output_format/schema", "/output_config/format/schema"]
        .iter()
        .find_map(|path| body.pointer(path))
        .cloned();
    let flag = |path: &str| body.pointer(path).and_then(Value::as_bool).unwrap_or(false);
    Ok(Incoming {
        asked: Asked { wire, model, prompt, stream: flag("/stream") },
        schema,
        usage_chunk: flag("/stream_options/include_usage"),
    })
}

/// The text of a `content` or `system`: a string, or blocks with a `text` each.
fn words_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter_map(|block| block.get("text").and_then(Value::as_str)).collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// Writes the response to `incoming` that shows `behaviour`.
#[must_use]
pub fn write(incoming: &Incoming, behaviour: &Behaviour, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let wire = asked.wire;
    let anthropic = wire == Wire::Anthropic;
    let fail = |status, kind, code, message: &str| error(wire, draw, status, kind, code, message);
    let whole = |answer: &Answer, stop| say(incoming, &words(answer, incoming, draw), stop, draw);
    let broken = |end| {
        let mut half = whole(&Answer::Sample, Stop::End);
        half.cut_in_half(end);
        half
    };
    match behaviour {
        Behaviour::Answer(answer) => whole(answer, Stop::End),
        Behaviour::Slow { answer, pause } => Outgoing { pause: *pause, ..whole(answer, Stop::End) },
        Behaviour::Cut(answer) => whole(answer, Stop::Length),
        Behaviour::Refuse(text) => say(incoming, text, Stop::Refusal, draw),
        Behaviour::Overloaded if anthropic => fail(529, "overloaded_error", None, "Overloaded"),
        Behaviour::Overloaded => fail(
            503,
            "service_unavailable_error",
            Some("server_is_overloaded"),
            "The server is overloaded. Please try again later.",
        ),
        Behaviour::ServerError if anthropic => fail(500, "api_error", None, "Internal server error"),
        Behaviour::ServerError => {
            fail(500, "server_error", None, "The server had an error while processing your request. Sorry about that!")
        }
        Behaviour::RateLimited { retry_after } => rate_limited(wire, draw, retry_after.unwrap_or_default()),
        Behaviour::Unauthorized if anthropic => fail(401, "authentication_error", None, "invalid x-api-key"),
        Behaviour::Unauthorized => {
            fail(401, "invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided.")
        }
        Behaviour::OutOfCredit if anthropic => fail(
            400,
            "invalid_request_error",
            None,
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
        ),
        Behaviour::OutOfCredit => fail(
            429,
            "insufficient_quota",
            Some("insufficient_quota"),
            "You exceeded your current quota, please check your plan and billing details.",
        ),
        Behaviour::NoSuchModel if anthropic => fail(404, "not_found_error", None, &format!("model: {}", asked.model)),
        Behaviour::NoSuchModel => fail(
            404,
            "invalid_request_error",
            Some("model_not_found"),
            &format!("The model `{}` does not exist or you do not have access to it.", asked.model),
        ),
        Behaviour::TooLong if anthropic => {
            fail(400, "invalid_request_error", None, "prompt is too long: 208310 tokens > 200000 maximum")
        }
        Behaviour::TooLong => fail(
            400,
            "invalid_request_error",
            Some("context_length_exceeded"),
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 131202 tokens.",
        ),
        Behaviour::ErrorMidStream if !asked.stream => write(incoming, &Behaviour::Overloaded, draw),
        Behaviour::ErrorMidStream => {
            let mut half = broken(End::Clean);
            half.pieces.push(error_event(wire, draw));
            half
        }
        Behaviour::Truncated => broken(End::Clean),
        Behaviour::Reset => broken(End::Abort),
        Behaviour::Stall => {
            let mut begun = broken(End::Pings);
            begun.pieces.truncate(if asked.stream { 1 } else { 0 });
            begun
        }
        Behaviour::Hang => Outgoing { end: End::Silence, ..fail(500, "api_error", None, "") },
        Behaviour::Html => Outgoing {
            status: 200,
            headers: vec![("content-type", "text/html".to_owned())],
            pieces: vec!["<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>".to_owned()],
            ..fail(502, "api_error", None, "")
        },
    }
}

/// What the model stops for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    End,
    Length,
    Refusal,
}

impl Stop {
    const fn anthropic(self) -> &'static str {
        match self {
            Self::End => "end_turn",
            Self::Length => "max_tokens",
            Self::Refusal => "refusal",
        }
    }

    const fn openai(self) -> &'static str {
        match self {
            Self::End | Self::Refusal => "stop",
            Self::Length => "length",
        }
    }
}

fn words(answer: &Answer, incoming: &Incoming, draw: Draw) -> String {
    match (answer, &incoming.schema) {
        (Answer::Text(text), _) => text.clone(),
        (Answer::Sample, Some(schema)) => sample(schema, draw.words).to_string(),
        (Answer::Sample, None) => json!({ "summary": sample(&json!({}), draw.words) }).to_string(),
    }
}

/// A token is about four characters; everything costs at least one.
fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4).max(1)
}

/// Text in pieces of about four words, as models stream it.
fn pieces(text: &str) -> Vec<String> {
    text.split_inclusive(' ').collect::<Vec<_>>().chunks(4).map(<[&str]>::concat).collect()
}

fn ids(wire: Wire, draw: Draw) -> (String, String) {
    match wire {
        Wire::Anthropic => (format!("msg_01sim{:016x}", draw.dice), format!("req_01sim{:016x}", draw.dice)),
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => {
            (format!("chatcmpl-sim{:016x}", draw.dice), format!("req_{:032x}", draw.dice))
        }
    }
}

fn headers(wire: Wire, draw: Draw, content_type: &str) -> Vec<(&'static str, String)> {
    vec![("content-type", content_type.to_owned()), (request_id_header(wire), ids(wire, draw).1)]
}

fn say(incoming: &Incoming, text: &str, stop: Stop, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let (input, output) = (tokens(&asked.prompt), tokens(text));
    let bodies = match (asked.wire, asked.stream) {
        (Wire::Anthropic, false) => vec![anthropic_message(asked, text, stop, input, output, draw).to_string()],
        (Wire::Anthropic, true) => anthropic_events(asked, text, stop, input, output, draw),
        (Wire::OpenAi | Wire::Gemini | Wire::Ollama, false) => {
            vec![openai_completion(asked, text, stop, input, output, draw).to_string()]
        }
        (Wire::OpenAi | Wire::Gemini | Wire::Ollama, true) => openai_chunks(incoming, text, stop, input, output, draw),
    };
    let content_type = if asked.stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    Outgoing {
        status: 200,
        headers: headers(asked.wire, draw, content_type),
        pieces: bodies,
        pause: Duration::ZERO,
        end: End::Clean,
        input_tokens: input,
        output_tokens: output,
    }
}

impl Outgoing {
    /// Half of it, then this end. Of a stream half the events; of a body half the bytes.
    fn cut_in_half(&mut self, end: End) {
        if let [only] = self.pieces.as_mut_slice() {
            let half = (0..=only.len() / 2).rev().find(|at| only.is_char_boundary(*at)).unwrap_or(0);
            only.truncate(half);
        } else {
            // The last three events of either wire are the end that must not come.
            let most = self.pieces.len().saturating_sub(3).max(1);
            self.pieces.truncate(self.pieces.len().div_ceil(2).min(most));
        }
        self.end = end;
        self.output_tokens = self.output_tokens.div_ceil(2);
    }
}

fn anthropic_message(asked: &Asked, text: &str, stop: Stop, input: u64, output: u64, draw: Draw) -> Value {
    json!({
        "id": ids(asked.wire, draw).0, "type": "message", "role": "assistant", "model": asked.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop.anthropic(), "stop_sequence": null,
        "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output, "service_tier": "standard"},
    })
}

fn anthropic_events(asked: &Asked, text: &str, stop: Stop, input: u64, output: u64, draw: Draw) -> Vec<String> {
    let mut opening = anthropic_message(asked, "", stop, input, 1, draw);
    opening["content"] = json!([]);
    opening["stop_reason"] = Value::Null;
    let mut events = vec![
        named("message_start", &json!({"type": "message_start", "message": opening})),
        named(
            "content_block_start",
            &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ),
        ping(asked.wire),
    ];
    events.extend(pieces(text).iter().map(|piece| {
        let delta = json!({"type": "text_delta", "text": piece});
        named("content_block_delta", &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    }));
    let delta = json!({"stop_reason": stop.anthropic(), "stop_sequence": null});
    events.push(named("content_block_stop", &json!({"type": "content_block_stop", "index": 0})));
    events.push(named(
        "message_delta",
        &json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}),
    ));
    events.push(named("message_stop", &json!({"type": "message_stop"})));
    events
}

fn openai_usage(input: u64, output: u64) -> Value {
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn openai_completion(asked: &Asked, text: &str, stop: Stop, input: u64, output: u64, draw: Draw) -> Value {
    let (content, refusal) =
        if stop == Stop::Refusal { (Value::Null, json!(text)) } else { (json!(text), Value::Null) };
    json!({
        "id": ids(asked.wire, draw).0, "object": "chat.completion", "created": draw.created, "model": asked.model,
        "choices": [{"index": 0, "logprobs": null, "finish_reason": stop.openai(),
            "message": {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}}],
        "usage": openai_usage(input, output), "service_tier": "default", "system_fingerprint": "fp_backstop",
    })
}

fn openai_chunks(incoming: &Incoming, text: &str, stop: Stop, input: u64, output: u64, draw: Draw) -> Vec<String> {
    let asked = &incoming.asked;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": ids(asked.wire, draw).0, "object": "chat.completion.chunk", "created": draw.created,
            "model": asked.model, "service_tier": "default", "system_fingerprint": "fp_backstop", "choices": choices,
        });
        if incoming.usage_chunk {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let choice = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let field = if stop == Stop::Refusal { "refusal" } else { "content" };
    let mut chunks = vec![choice(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null)];
    chunks.extend(pieces(text).iter().map(|piece| choice(json!({field: piece}), Value::Null)));
    chunks.push(choice(json!({}), json!(stop.openai())));
    if incoming.usage_chunk {
        chunks.push(chunk(json!([]), openai_usage(input, output)));
    }
    chunks.push("data: [DONE]\n\n".to_owned());
    chunks
}

fn named(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

/// Sent between content to keep a connection warm; says nothing about progress.
#[must_use]
pub fn ping(wire: Wire) -> String {
    match wire {
        Wire::Anthropic => named("ping", &json!({"type": "ping"})),
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => ": keep-alive\n\n".to_owned(),
    }
}

/// An error in the vendor's envelope.
pub(super) fn error(wire: Wire, draw: Draw, status: u16, kind: &str, code: Option<&str>, message: &str) -> Outgoing {
    let body = match wire {
        Wire::Anthropic => {
            let mut inner = json!({"type": kind, "message": message});
            if let Some(code) = code {
                inner["details"] = json!({"error_code": code});
            }
            json!({"type": "error", "error": inner, "request_id": ids(wire, draw).1})
        }
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => {
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        }
    };
    Outgoing {
        status,
        headers: headers(wire, draw, "application/json"),
        pieces: vec![body.to_string()],
        pause: Duration::ZERO,
        end: End::Clean,
        input_tokens: 0,
        output_tokens: 0,
    }
}

fn error_event(wire: Wire, draw: Draw) -> String {
    match wire {
        Wire::Anthropic => named(
            "error",
            &json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"},
                "request_id": ids(wire, draw).1}),
        ),
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => {
            let inner = json!({"message": "The server had an error while processing your request.",
                "type": "server_error", "param": null, "code": null});
            format!("data: {}\n\n", json!({"error": inner}))
        }
    }
}

fn rate_limited(wire: Wire, draw: Draw, wait: Duration) -> Outgoing {
    let seconds = wait.as_millis().div_ceil(1_000).max(1);
    let mut response = match wire {
        Wire::Anthropic => error(
            wire,
            draw,
            429,
            "rate_limit_error",
            None,
            "This request would exceed your organization's rate limit of 50 requests per minute.",
        ),
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => error(
            wire,
            draw,
            429,
            "requests",
            Some("rate_limit_exceeded"),
            "Rate limit reached for requests. Limit: 500 / min. Please try again later.",
        ),
    };
    response.headers.push(("retry-after", seconds.to_string()));
    match wire {
        Wire::Anthropic => {
            response.headers.push(("anthropic-ratelimit-requests-limit", "50".to_owned()));
            response.headers.push(("anthropic-ratelimit-requests-remaining", "0".to_owned()));
        }
        Wire::OpenAi | Wire::Gemini | Wire::Ollama => {
            response.headers.push(("x-ratelimit-limit-requests", "500".to_owned()));
            response.headers.push(("x-ratelimit-remaining-requests", "0".to_owned()));
            response.headers.push(("x-ratelimit-reset-requests", format!("{seconds}s")));
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAW: Draw = Draw { dice: 7, words: 7, created: 1_790_000_000 };

    fn request(extra: Value) -> Value {
        let mut body = json!({"model": "m-1", "max_tokens": 100, "system": [{"type": "text", "text": "You are cto."}],
            "messages": [{"role": "user", "content": "BS-014"}]});
        body.as_object_mut().expect("object").extend(extra.as_object().cloned().unwrap_or_default());
        body
    }

    fn incoming(wire: Wire, stream: bool) -> Incoming {
        let body = request(json!({"stream": stream, "stream_options": {"include_usage": true}}));
        read(wire, body.to_string().as_bytes(), DRAW).expect("a request")
    }

    #[test]
    fn requests_are_read_as_rules_need_them() {
        let schema = json!({"type": "object"});
        for (wire, extra) in [
            (Wire::OpenAi, json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})),
            (Wire::Anthropic, json!({"output_format": {"type": "json_schema", "schema": schema}})),
            (Wire::Anthropic, json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}})),
        ] {
            let read = read(wire, request(extra).to_string().as_bytes(), DRAW).expect("a request");
            assert_eq!(read.schema, Some(schema.clone()));
            assert_eq!(read.asked.prompt, "You are cto.\nBS-014");
        }
        for (body, complaint) in [
            ("{", "invalid JSON"),
            ("{}", "model"),
            (r#"{"model":"m"}"#, "messages"),
            (r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens"),
        ] {
            let refused = read(Wire::Anthropic, body.as_bytes(), DRAW).expect_err("not a request");
            assert_eq!(refused.status, 400);
            assert!(refused.pieces[0].contains(complaint), "{body}: {}", refused.pieces[0]);
        }
    }

    #[test]
    fn failures_have_the_status_and_the_words_of_the_vendor() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (behaviour, anthropic, openai) in [
            (Behaviour::Overloaded, (529, "overloaded_error"), (503, "server_is_overloaded")),
            (Behaviour::ServerError, (500, "api_error"), (500, "server_error")),
            (
                Behaviour::RateLimited { retry_after: seconds(9) },
                (429, "rate_limit_error"),
                (429, "rate_limit_exceeded"),
            ),
            (Behaviour::Unauthorized, (401, "authentication_error"), (401, "invalid_api_key")),
            (Behaviour::OutOfCredit, (400, "credit balance is too low"), (429, "insufficient_quota")),
            (Behaviour::NoSuchModel, (404, "not_found_error"), (404, "model_not_found")),
            (Behaviour::TooLong, (400, "prompt is too long"), (400, "context_length_exceeded")),
        ] {
            for (wire, (status, words)) in [(Wire::Anthropic, anthropic), (Wire::OpenAi, openai)] {
                let out = write(&incoming(wire, true), &behaviour, DRAW);
                assert_eq!(out.status, status, "{behaviour:?}");
                assert!(out.pieces.concat().contains(words), "{behaviour:?}: {:?}", out.pieces);
                assert!(out.headers.iter().any(|(name, _)| *name == request_id_header(wire)));
            }
        }
    }

    #[test]
    fn a_broken_stream_lacks_exactly_its_end() {
        for (wire, end) in [(Wire::Anthropic, "message_stop"), (Wire::OpenAi, "[DONE]")] {
            let ask = incoming(wire, true);
            let whole = write(&ask, &Behaviour::Answer(Answer::Text("one two three four five six".into())), DRAW);
            assert!(whole.pieces.last().expect("an end").contains(end));
            for (behaviour, how) in
                [(Behaviour::Truncated, End::Clean), (Behaviour::Reset, End::Abort), (Behaviour::Stall, End::Pings)]
            {
                let out = write(&ask, &behaviour, DRAW);
                assert_eq!((out.status, out.end), (200, how));
                assert!(!out.pieces.concat().contains(end), "{behaviour:?}");
            }
            let out = write(&ask, &Behaviour::ErrorMidStream, DRAW);
            assert!(out.pieces.last().expect("an error").contains("\"error\""));
        }
    }

    #[test]
    fn usage_is_the_same_with_and_without_a_stream() {
        for wire in [Wire::Anthropic, Wire::OpenAi] {
            let say = Behaviour::Answer(Answer::Text("twelve chars".into()));
            let unary = write(&incoming(wire, false), &say, DRAW);
            let stream = write(&incoming(wire, true), &say, DRAW);
            assert_eq!((unary.input_tokens, unary.output_tokens), (stream.input_tokens, stream.output_tokens));
            assert_eq!(unary.output_tokens, 3);
        }
    }
}
