//! The wire formats the outage server speaks, written as the vendors write them.
//!
//! [`write()`] turns a behaviour into bytes; it is pure, and a simulation calls it without a server. Each vendor's own
//! words are in a file of theirs; what is the same for all is here. Sending, with its pauses and breaks, is
//! `outage`'s work; what a request says is read in `heard`.

mod anthropic;
mod gemini;
mod hints;
mod models;
mod ollama;
mod openai;
mod responses;

use std::time::Duration;

use serde_json::{Value, json};

use hints::{hinted, in_words, limits, rate_limited, rfc3339, seconds};
pub use models::{Listing, listing};

use super::heard::{Incoming, Offered};
use super::sample::{breaking, sample};
use super::script::{Answer, Behaviour};
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
    /// It does not end: pings, where the vendor has some, for as long as somebody listens.
    Pings,
    /// It does not even begin.
    Silence,
}

/// Why there is no answer. Each vendor has a status and words of its own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint<'a> {
    /// Out of capacity.
    Overloaded,
    /// Something broke.
    ServerError,
    /// Down, not for want of capacity.
    Unavailable,
    /// Somebody in between gave up waiting.
    GatewayTimeout,
    /// Too many requests; with the time to wait when the body is to tell it.
    RateLimited(Option<Duration>),
    /// No key came.
    NoKey,
    /// The key is not, or no longer, known.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// The account is out of money.
    OutOfCredit,
    /// There is no model of this name.
    NoSuchModel(&'a str),
    /// The prompt is longer than the context.
    TooLong,
    /// The request has more bytes than are read.
    TooLarge,
    /// The request is wrong, in these words.
    Invalid(&'a str),
    /// There is nothing at this method and path.
    NoSuchPath(&'a str),
    /// What stands behind the proxy did not answer.
    BadGateway(&'a str),
}

/// The header that names a request in this vendor's responses; Ollama has none.
#[must_use]
pub const fn request_id_header(wire: Wire) -> Option<&'static str> {
    match wire {
        Wire::Anthropic => Some("request-id"),
        Wire::OpenAi | Wire::Responses => Some("x-request-id"),
        Wire::Gemini => Some("x-goog-request-id"),
        Wire::Ollama => None,
    }
}

/// The name of a wire in our files and on our screens.
#[must_use]
pub const fn name(wire: Wire) -> &'static str {
    match wire {
        Wire::Anthropic => "anthropic",
        Wire::OpenAi => "openai",
        Wire::Responses => "openai-responses",
        Wire::Gemini => "gemini",
        Wire::Ollama => "ollama",
    }
}

/// All wires, in the order people name them.
pub const WIRES: [Wire; 5] = [Wire::Anthropic, Wire::OpenAi, Wire::Responses, Wire::Gemini, Wire::Ollama];

/// Writes the response to `incoming` that shows `behaviour`.
#[must_use]
pub fn write(incoming: &Incoming, behaviour: &Behaviour, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let wire = asked.wire;
    let fail = |complaint| complain(wire, draw, complaint);
    let whole = |answer: &Answer, stop| say(incoming, &said(answer, incoming, draw), stop, draw);
    let broken = |end| {
        let mut half = whole(&Answer::Sample, Stop::End);
        half.cut_in_half(wire, end);
        half
    };
    match behaviour {
        Behaviour::Answer(answer) => whole(answer, Stop::End),
        Behaviour::Slow { answer, pause } => {
            let mut slow = Outgoing { pause: *pause, ..whole(answer, Stop::End) };
            if let [only] = slow.pieces.as_slice() {
                slow.pieces = quarters(only);
            }
            slow
        }
        Behaviour::Cut(answer) => whole(answer, Stop::Length),
        Behaviour::Refuse(text) => say(incoming, &Said::words(text), Stop::Refusal, draw),
        Behaviour::SchemaInvalid => {
            let text = match &incoming.schema {
                Some(schema) => breaking(schema, draw.words).to_string(),
                None => "Sure! Here is what you asked for, as well as I can put it.".to_owned(),
            };
            whole(&Answer::Text(text), Stop::End)
        }
        Behaviour::WrongArguments => {
            whole(&call_of(incoming, |tool| breaking(&tool.parameters, draw.words)), Stop::End)
        }
        // Not the words of the request: the same call whatever is said in between.
        Behaviour::Loop => whole(&call_of(incoming, |tool| sample(&tool.parameters, 0)), Stop::End),
        Behaviour::Overloaded => fail(Complaint::Overloaded),
        Behaviour::ServerError => fail(Complaint::ServerError),
        Behaviour::Unavailable => fail(Complaint::Unavailable),
        Behaviour::GatewayTimeout => fail(Complaint::GatewayTimeout),
        Behaviour::RateLimited { retry_after } => rate_limited(wire, draw, retry_after.unwrap_or_default()),
        Behaviour::RateLimitedHinting { hint, retry_after } => {
            hinted(wire, draw, *hint, retry_after.unwrap_or_default())
        }
        Behaviour::RateLimitedSilently => fail(Complaint::RateLimited(None)),
        Behaviour::Unauthorized => fail(Complaint::Unauthorized),
        Behaviour::Forbidden => fail(Complaint::Forbidden),
        Behaviour::OutOfCredit => fail(Complaint::OutOfCredit),
        Behaviour::NoSuchModel => fail(Complaint::NoSuchModel(&asked.model)),
        Behaviour::TooLong => fail(Complaint::TooLong),
        Behaviour::ErrorMidStream if !asked.stream => fail(Complaint::Overloaded),
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
        Behaviour::Hang => Outgoing { end: End::Silence, ..fail(Complaint::ServerError) },
        Behaviour::Malformed => {
            let mut odd = whole(&Answer::Sample, Stop::End);
            let middle = odd.pieces.len() / 2;
            odd.pieces[middle] = malformed(&odd.pieces[middle]);
            odd
        }
        Behaviour::Html => Outgoing {
            status: 200,
            headers: vec![("content-type", "text/html".to_owned())],
            pieces: vec!["<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>".to_owned()],
            ..fail(Complaint::ServerError)
        },
    }
}

/// A call of the first tool on offer, or an answer when there is none.
fn call_of(incoming: &Incoming, arguments: impl Fn(&Offered) -> Value) -> Answer {
    match incoming.tools.first() {
        Some(tool) => Answer::calls("", [(tool.name.as_str(), arguments(tool))]),
        None => Answer::Sample,
    }
}

/// What the model stops for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    End,
    Length,
    Refusal,
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

    /// Is there text to write? Who calls nothing says something, if only nothing.
    fn speaks(&self) -> bool {
        !self.text.is_empty() || self.calls.is_empty()
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

/// One turn of a model, about to be written.
#[derive(Clone, Copy)]
struct Turn<'a> {
    incoming: &'a Incoming,
    said: &'a Said,
    stop: Stop,
    input: u64,
    output: u64,
    draw: Draw,
}

impl Turn<'_> {
    fn model(&self) -> &str {
        &self.incoming.asked.model
    }
}

fn say(incoming: &Incoming, said: &Said, stop: Stop, draw: Draw) -> Outgoing {
    let asked = &incoming.asked;
    let (input, output) = (tokens(&asked.prompt), said.tokens());
    let turn = Turn { incoming, said, stop, input, output, draw };
    let pieces = match (asked.wire, asked.stream) {
        (Wire::Anthropic, false) => vec![anthropic::message(&turn).to_string()],
        (Wire::Anthropic, true) => anthropic::events(&turn),
        (Wire::OpenAi, false) => vec![openai::completion(&turn).to_string()],
        (Wire::OpenAi, true) => openai::chunks(&turn),
        (Wire::Responses, false) => vec![responses::response(&turn).to_string()],
        (Wire::Responses, true) => responses::events(&turn),
        (Wire::Gemini, false) => vec![gemini::response(&turn).to_string()],
        (Wire::Gemini, true) => gemini::chunks(&turn),
        (Wire::Ollama, false) => vec![ollama::answer(&turn).to_string()],
        (Wire::Ollama, true) => ollama::lines(&turn),
    };
    let content_type = match (asked.wire, asked.stream) {
        (Wire::Ollama, true) => "application/x-ndjson",
        (Wire::Gemini, _) if incoming.is_array() => "application/json",
        (Wire::Anthropic | Wire::OpenAi | Wire::Responses, true) => "text/event-stream; charset=utf-8",
        (Wire::Gemini, true) => "text/event-stream",
        (Wire::Anthropic | Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama, false) => "application/json",
    };
    let mut headers = headers(asked.wire, draw, content_type);
    headers.extend(limits(asked.wire, draw, None));
    Outgoing {
        status: 200,
        headers,
        pieces,
        pause: Duration::ZERO,
        end: End::Clean,
        input_tokens: input,
        output_tokens: output,
    }
}

/// How many events at the end of a stream are its end, which must not come when the stream breaks.
pub(super) const fn tail(wire: Wire) -> usize {
    match wire {
        // The block's end, the message's delta with its stop reason, the message's end.
        Wire::Anthropic => 3,
        // The finish reason, the usage, `[DONE]`.
        Wire::OpenAi => 3,
        // The end of the text, of its part, of the item, of the response.
        Wire::Responses => 4,
        Wire::Gemini | Wire::Ollama => 1,
    }
}

impl Outgoing {
    /// Half of it, then this end. Of a stream half the events; of a body half the bytes.
    fn cut_in_half(&mut self, wire: Wire, end: End) {
        if let [only] = self.pieces.as_mut_slice() {
            let half = (0..=only.len() / 2).rev().find(|at| only.is_char_boundary(*at)).unwrap_or(0);
            only.truncate(half);
        } else {
            let most = self.pieces.len().saturating_sub(tail(wire)).max(1);
            self.pieces.truncate(self.pieces.len().div_ceil(2).min(most));
        }
        self.end = end;
        self.output_tokens = self.output_tokens.div_ceil(2);
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

/// A body in four pieces.
pub(super) fn quarters(body: &str) -> Vec<String> {
    let letters: Vec<char> = body.chars().collect();
    letters.chunks(letters.len().div_ceil(4).max(1)).map(|piece| piece.iter().collect()).collect()
}

/// The same piece with a colon missing after its first key.
pub(super) fn malformed(piece: &str) -> String {
    piece.replacen("\":", "\" ", 1)
}

/// What names a request: in a body, and in the header.
fn request_id(wire: Wire, draw: Draw) -> String {
    match wire {
        Wire::Anthropic => format!("req_01sim{:016x}", draw.dice),
        Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => format!("req_{:032x}", draw.dice),
    }
}

fn headers(wire: Wire, draw: Draw, content_type: &str) -> Vec<(&'static str, String)> {
    let named = request_id_header(wire).map(|header| (header, request_id(wire, draw)));
    [("content-type", content_type.to_owned())].into_iter().chain(named).collect()
}

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// Sent between content to keep a connection warm; says nothing about progress. Some vendors have none.
#[must_use]
pub fn ping(wire: Wire) -> Option<String> {
    match wire {
        Wire::Anthropic => Some(event("ping", &json!({"type": "ping"}))),
        Wire::OpenAi | Wire::Responses => Some(": keep-alive\n\n".to_owned()),
        Wire::Gemini | Wire::Ollama => None,
    }
}

/// A complaint in the vendor's envelope, under the vendor's status.
#[must_use]
pub fn complain(wire: Wire, draw: Draw, complaint: Complaint<'_>) -> Outgoing {
    let (status, body) = match wire {
        Wire::Anthropic => anthropic::complaint(complaint, draw),
        Wire::OpenAi | Wire::Responses => openai::complaint(complaint),
        Wire::Gemini => gemini::complaint(complaint),
        Wire::Ollama => ollama::complaint(complaint),
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

/// What comes in place of the rest of a stream.
pub(super) fn error_event(wire: Wire, draw: Draw) -> String {
    match wire {
        Wire::Anthropic => event("error", &anthropic::complaint(Complaint::Overloaded, draw).1),
        Wire::OpenAi => format!("data: {}\n\n", openai::complaint(Complaint::ServerError).1),
        Wire::Responses => responses::error_event(),
        Wire::Gemini => format!("data: {}\r\n\r\n", gemini::complaint(Complaint::Overloaded).1),
        Wire::Ollama => format!("{}\n", ollama::complaint(Complaint::ServerError).1),
    }
}

#[cfg(test)]
mod tests;
