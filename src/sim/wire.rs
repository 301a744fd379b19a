//! The two wire formats the outage server speaks, written as the vendors write them.
//!
//! [`write()`] turns a behaviour into bytes; it is pure. Sending them, with their pauses and breaks, is `outage.rs`; what
//! a request says is read in `heard.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use super::heard::Incoming;
use super::sample::sample;
use super::script::{Answer, Asked, Behaviour};
use crate::config::Wire;

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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => "x-request-id",
    }
}

/// Writes the response to `incoming` that shows `behaviour`.
#[must_use]
pub fn write(incoming: &Incoming, behaviour: &Behaviour, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let wire = asked.wire;
    let anthropic = wire == Wire::Anthropic;
    let fail = |status, kind, code, message: &str| error(wire, draw, status, kind, code, message);
    let whole = |answer: &Answer, stop| say(incoming, &said(answer, incoming, draw), stop, draw);
    let broken = |end| {
        let mut half = whole(&Answer::Sample, Stop::End);
        half.cut_in_half(end);
        half
    };
    match behaviour {
        Behaviour::Answer(answer) => whole(answer, Stop::End),
        Behaviour::Slow { answer, pause } => Outgoing { pause: *pause, ..whole(answer, Stop::End) },
        Behaviour::Cut(answer) => whole(answer, Stop::Length),
        Behaviour::Refuse(text) => say(incoming, &Said::words(text), Stop::Refusal, draw),
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
    const fn anthropic(self, said: &Said) -> &'static str {
        match self {
            Self::End if !said.calls.is_empty() => "tool_use",
            Self::End => "end_turn",
            Self::Length => "max_tokens",
            Self::Refusal => "refusal",
        }
    }

    const fn openai(self, said: &Said) -> &'static str {
        match self {
            Self::End if !said.calls.is_empty() => "tool_calls",
            Self::End | Self::Refusal => "stop",
            Self::Length => "length",
        }
    }
}

/// What a model says: words, calls, or both.
struct Said {
    text: String,
    calls: Vec<Call>,
}

/// One call of a tool.
struct Call {
    id: String,
    name: String,
    arguments: Value,
}

impl Call {
    /// The arguments as they are written in a stream, or as a text. A string stands for arguments that are no JSON.
    fn written(&self) -> String {
        self.arguments.as_str().map_or_else(|| self.arguments.to_string(), str::to_owned)
    }
}

impl Said {
    fn words(text: &str) -> Self {
        Self { text: text.to_owned(), calls: Vec::new() }
    }

    fn tokens(&self) -> u64 {
        let calls: String = self.calls.iter().map(|call| format!("{}{}", call.name, call.written())).collect();
        tokens(&format!("{}{calls}", self.text))
    }
}

fn said(answer: &Answer, incoming: &Incoming, draw: Draw) -> Said {
    match (answer, &incoming.schema) {
        (Answer::Text(text), _) => Said::words(text),
        (Answer::Sample, Some(schema)) => Said::words(&sample(schema, draw.words).to_string()),
        (Answer::Sample, None) => Said::words(&json!({ "summary": sample(&json!({}), draw.words) }).to_string()),
        (Answer::Calls { text, calls }, _) => {
            let prefix = if incoming.asked.wire == Wire::Anthropic { "toolu_01sim" } else { "call_sim" };
            let call = |(place, (name, arguments)): (usize, &(String, Value))| Call {
                id: format!("{prefix}{:016x}{place:02}", draw.dice),
                name: name.clone(),
                arguments: arguments.clone(),
            };
            Said { text: text.clone(), calls: calls.iter().enumerate().map(call).collect() }
        }
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => {
            (format!("chatcmpl-sim{:016x}", draw.dice), format!("req_{:032x}", draw.dice))
        }
    }
}

fn headers(wire: Wire, draw: Draw, content_type: &str) -> Vec<(&'static str, String)> {
    vec![("content-type", content_type.to_owned()), (request_id_header(wire), ids(wire, draw).1)]
}

fn say(incoming: &Incoming, said: &Said, stop: Stop, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let (input, output) = (tokens(&asked.prompt), said.tokens());
    let bodies = match (asked.wire, asked.stream) {
        (Wire::Anthropic, false) => vec![anthropic_message(asked, said, stop, input, output, draw).to_string()],
        (Wire::Anthropic, true) => anthropic_events(asked, said, stop, input, output, draw),
        (Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama, false) => {
            vec![openai_completion(asked, said, stop, input, output, draw).to_string()]
        }
        (Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama, true) => {
            openai_chunks(incoming, said, stop, input, output, draw)
        }
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

fn anthropic_message(asked: &Asked, said: &Said, stop: Stop, input: u64, output: u64, draw: Draw) -> Value {
    let words = (!said.text.is_empty() || said.calls.is_empty()).then(|| json!({"type": "text", "text": said.text}));
    let call = |call: &Call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments});
    let content: Vec<Value> = words.into_iter().chain(said.calls.iter().map(call)).collect();
    json!({
        "id": ids(asked.wire, draw).0, "type": "message", "role": "assistant", "model": asked.model,
        "content": content,
        "stop_reason": stop.anthropic(said), "stop_sequence": null,
        "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output, "service_tier": "standard"},
    })
}

fn anthropic_events(asked: &Asked, said: &Said, stop: Stop, input: u64, output: u64, draw: Draw) -> Vec<String> {
    let mut opening = anthropic_message(asked, &Said::words(""), stop, input, 1, draw);
    opening["content"] = json!([]);
    opening["stop_reason"] = Value::Null;
    let mut events = vec![named("message_start", &json!({"type": "message_start", "message": opening}))];
    let block = |index: usize, block: Value, deltas: Vec<Value>| {
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        let delta = |delta: Value| {
            named("content_block_delta", &json!({"type": "content_block_delta", "index": index, "delta": delta}))
        };
        let stop = json!({"type": "content_block_stop", "index": index});
        let mut events = vec![named("content_block_start", &start)];
        // As the vendor does: a ping once something has begun.
        events.extend((index == 0).then(|| ping(asked.wire)));
        events.extend(deltas.into_iter().map(delta));
        events.push(named("content_block_stop", &stop));
        events
    };
    let mut index = 0;
    if !said.text.is_empty() || said.calls.is_empty() {
        let deltas = pieces(&said.text).iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect();
        events.extend(block(index, json!({"type": "text", "text": ""}), deltas));
        index += 1;
    }
    for call in &said.calls {
        let delta = |piece: &String| json!({"type": "input_json_delta", "partial_json": piece});
        let begun = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        events.extend(block(index, begun, pieces(&call.written()).iter().map(delta).collect()));
        index += 1;
    }
    let delta = json!({"stop_reason": stop.anthropic(said), "stop_sequence": null});
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

fn openai_completion(asked: &Asked, said: &Said, stop: Stop, input: u64, output: u64, draw: Draw) -> Value {
    let (content, refusal) =
        if stop == Stop::Refusal { (Value::Null, json!(said.text)) } else { (json!(said.text), Value::Null) };
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
        "id": ids(asked.wire, draw).0, "object": "chat.completion", "created": draw.created, "model": asked.model,
        "choices": [{"index": 0, "logprobs": null, "finish_reason": stop.openai(said), "message": message}],
        "usage": openai_usage(input, output), "service_tier": "default", "system_fingerprint": "fp_backstop",
    })
}

fn openai_chunks(incoming: &Incoming, said: &Said, stop: Stop, input: u64, output: u64, draw: Draw) -> Vec<String> {
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
    chunks.extend(pieces(&said.text).iter().map(|piece| choice(json!({field: piece}), Value::Null)));
    for (index, call) in said.calls.iter().enumerate() {
        let begun = json!({"index": index, "id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        chunks.push(choice(json!({"tool_calls": [begun]}), Value::Null));
        chunks.extend(pieces(&call.written()).iter().map(|piece| {
            choice(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), Value::Null)
        }));
    }
    chunks.push(choice(json!({}), json!(stop.openai(said))));
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => ": keep-alive\n\n".to_owned(),
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => {
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => {
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => error(
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
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => {
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
        super::super::heard::read(wire, body.to_string().as_bytes(), DRAW).expect("a request")
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

    #[test]
    fn calls_are_written_the_vendors_way_with_and_without_a_stream() {
        let calls = [("look", json!({"at": "a cat"})), ("save", Value::String("{\"half".to_owned()))];
        for (wire, stop, pieces, whole) in [
            (
                Wire::Anthropic,
                "tool_use",
                [r#""partial_json":"{\"at\":\"a cat\"}""#, r#""partial_json":"{\"half""#],
                [r#""input":{"at":"a cat"}"#, r#""input":"{\"half""#],
            ),
            (
                Wire::OpenAi,
                "tool_calls",
                [r#"{"arguments":"{\"at\":\"a cat\"}"}"#, r#"{"arguments":"{\"half"}"#],
                [r#""arguments":"{\"at\":\"a cat\"}""#, r#""arguments":"{\"half""#],
            ),
        ] {
            for (stream, expected) in [(true, pieces), (false, whole)] {
                let answer = Answer::calls("I look.", calls.clone());
                let out = write(&incoming(wire, stream), &Behaviour::Answer(answer), DRAW);
                let body = out.pieces.concat();
                assert_eq!(out.status, 200);
                assert!(body.contains("I look.") && body.contains(&format!("\"{stop}\"")), "{body}");
                for piece in expected {
                    assert!(body.contains(piece), "{piece} in {body}");
                }
                let cut = write(&incoming(wire, stream), &Behaviour::Cut(Answer::calls("", calls.clone())), DRAW);
                let length = if wire == Wire::Anthropic { "max_tokens" } else { "length" };
                assert!(cut.pieces.concat().contains(&format!("\"{length}\"")));
            }
        }
    }
}
