//! An HTTP server that speaks the wires of five vendors, and fails on cue.
//!
//! It listens on loopback, on a port the system chooses, and follows a [`Script`]. Every request is remembered with
//! what became of it, so that a test can hold the team's record against the truth. Dropping the handle ends it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::any;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::heard::{self, Door, Incoming};
use super::script::{Behaviour, Script, Turns};
use super::wire::{self, Complaint, Draw, End, Listing, Outgoing};
use crate::config::Wire;
use crate::time::Timestamp;

/// What tells the server the time; the team's own clock in the demo.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long between two pings of a stalled stream.
const PING_EVERY: Duration = Duration::from_millis(200);
/// How much of a prompt is remembered, in characters.
const EXCERPT: usize = 400;
/// The largest request taken, in bytes: Anthropic's own limit.
const REQUEST_LIMIT: usize = 32 * 1024 * 1024;

/// A running server.
pub struct OutageServer {
    address: SocketAddr,
    house: Arc<House>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its number, in the order of arrival, first = 1.
    pub number: u64,
    /// When it came, by the server's clock.
    pub at: Timestamp,
    /// On which wire.
    pub wire: Wire,
    /// Of which model.
    pub model: String,
    /// Was a stream wanted?
    pub stream: bool,
    /// The rule that decided; none when no rule matched, or the request was refused before any was asked.
    pub rule: Option<String>,
    /// What happened; none when the request was refused before any rule was asked.
    pub behaviour: Option<Behaviour>,
    /// The status sent.
    pub status: u16,
    /// The end of its prompt, at most 400 characters.
    pub prompt: String,
    /// Tokens said to be read.
    pub input_tokens: u64,
    /// Tokens said to be written.
    pub output_tokens: u64,
}

impl Served {
    /// Was it given a whole answer?
    #[must_use]
    pub fn answered(&self) -> bool {
        matches!(self.behaviour, Some(Behaviour::Answer(_) | Behaviour::Slow { .. }))
    }
}

struct House {
    script: Script,
    now: Now,
    origin: Timestamp,
    room: Mutex<Room>,
    count: watch::Sender<u64>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Room {
    turns: Turns,
    served: Vec<Served>,
}

impl OutageServer {
    /// Starts a server whose clock counts from now.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start(script: Script) -> io::Result<Self> {
        let began = Instant::now();
        let now: Now = Arc::new(move || Timestamp::default() + began.elapsed());
        Self::start_at(script, now, Timestamp::default()).await
    }

    /// Starts a server on another clock; windows of rules count from `origin`.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start_at(script: Script, now: Now, origin: Timestamp) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let house = Arc::new(House {
            script,
            now,
            origin,
            room: Mutex::default(),
            count: watch::Sender::new(0),
            stop: stop.clone(),
        });
        let app =
            Router::new().fallback(any(anything)).layer(DefaultBodyLimit::max(REQUEST_LIMIT)).with_state(house.clone());
        let until = stop.clone();
        let served = tokio::spawn(async move {
            let server = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned());
            if let Err(error) = server.await {
                tracing::warn!(%error, "the outage server ended");
            }
        });
        Ok(Self { address, house, stop, served })
    }

    /// Where it is: `http://127.0.0.1:port`, the base URL of Anthropic's wire.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL of one wire: OpenAI's ends in `/v1`.
    #[must_use]
    pub fn base_url(&self, wire: Wire) -> String {
        match wire {
            Wire::Anthropic | Wire::Gemini | Wire::Ollama => self.url(),
            Wire::OpenAi | Wire::Responses => format!("{}/v1", self.url()),
        }
    }

    /// Turns a switch of the script on or off.
    pub fn switch(&self, name: &str, on: bool) {
        self.house.room().turns.switch(name, on);
    }

    /// Takes `calls` earlier matches of a rule as made: what a resumed scenario tells a new server.
    pub fn recall(&self, rule: &str, calls: u64) {
        self.house.room().turns.recall(rule, calls);
    }

    /// Every request so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Served> {
        self.house.room().served.clone()
    }

    /// Waits until at least `count` requests have come.
    pub async fn seen(&self, count: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.house.count.subscribe().wait_for(|so_far| *so_far >= count).await;
    }

    /// Ends it: hanging requests are let go, connections closed.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.served).await {
            tracing::warn!(%error, "the outage server did not end in order");
        }
    }
}

impl Drop for OutageServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl House {
    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names and numbers for this request: words that depend on it alone, ids that differ from all others'.
    fn draw(&self, wire: Wire, body: &[u8], now: Timestamp) -> Draw {
        let nth = self.room().served.len().to_string();
        let body = String::from_utf8_lossy(body);
        let wire = wire::name(wire);
        Draw {
            dice: self.script.dice(&["ids", wire, &nth, &body]),
            words: self.script.dice(&["words", wire, &body]),
            created: now.millis().div_euclid(1_000),
        }
    }

    fn remember(
        &self,
        at: Timestamp,
        wire: Wire,
        incoming: Option<&Incoming>,
        cue: (Option<String>, Option<Behaviour>),
        out: &Outgoing,
    ) {
        let number = {
            let mut room = self.room();
            let number = room.served.len() as u64 + 1;
            let prompt = incoming.map(|incoming| incoming.asked.prompt.as_str()).unwrap_or_default();
            room.served.push(Served {
                number,
                at,
                wire,
                model: incoming.map(|incoming| incoming.asked.model.clone()).unwrap_or_default(),
                stream: incoming.is_some_and(|incoming| incoming.asked.stream),
                rule: cue.0,
                behaviour: cue.1,
                status: out.status,
                prompt: prompt.chars().skip(prompt.chars().count().saturating_sub(EXCERPT)).collect(),
                input_tokens: out.input_tokens,
                output_tokens: out.output_tokens,
            });
            number
        };
        self.count.send_replace(number);
    }
}

/// Whatever comes: a door of one of the wires, a list of models, or nothing of ours.
async fn anything(
    State(house): State<Arc<House>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match Door::find(uri.path(), uri.query()) {
        Some(door) if method == Method::POST => serve(&house, &door, &uri, &headers, &body).await,
        Some(_) | None => {
            let draw = house.draw(Wire::OpenAi, &body, (house.now)());
            let found = if method == Method::GET { models(uri.path(), &headers, draw) } else { None };
            let wire = Door::guess(uri.path(), headers.contains_key("anthropic-version"));
            let path = format!("{method} {}", uri.path());
            let outgoing = found.unwrap_or_else(|| wire::complain(wire, draw, Complaint::NoSuchPath(&path)));
            send(&house, wire, outgoing)
        }
    }
}

/// A list of models, or one of them, if that is what this path is.
fn models(path: &str, headers: &HeaderMap, draw: Draw) -> Option<Outgoing> {
    let wire = Door::guess(path, headers.contains_key("anthropic-version"));
    if path == "/api/tags" {
        return Some(wire::listing(Wire::Ollama, Listing::All, draw));
    }
    let rest = path.strip_prefix("/v1beta/models").or_else(|| path.strip_prefix("/v1/models"))?;
    let listing = match rest.strip_prefix('/') {
        Some(name) => Listing::One(name),
        None if rest.is_empty() => Listing::All,
        None => return None,
    };
    Some(wire::listing(wire, listing, draw))
}

async fn serve(house: &Arc<House>, door: &Door, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response {
    let wire = door.wire;
    let at = (house.now)();
    let draw = house.draw(wire, body, at);
    let read = match complaint(wire, uri.query(), headers) {
        Some(refused) => Err(Box::new(wire::complain(wire, draw, refused))),
        None => heard::read(door, body, draw),
    };
    let incoming = match read {
        Ok(incoming) => incoming,
        Err(refused) => {
            house.remember(at, wire, None, (None, None), &refused);
            return send(house, wire, *refused);
        }
    };
    let cue = house.script.cue(&incoming.asked, at.since(house.origin), &mut house.room().turns);
    let outgoing = wire::write(&incoming, &cue.then, draw);
    house.remember(at, wire, Some(&incoming), (cue.rule, Some(cue.then)), &outgoing);
    tokio::select! {
        biased;
        () = house.stop.cancelled() => {}
        () = tokio::time::sleep(house.script.thinking(&incoming.asked)) => {}
    }
    if outgoing.end == End::Silence {
        house.stop.cancelled().await;
    }
    send(house, wire, outgoing)
}

/// What the vendor says before it looks at the body, if anything. Of Anthropic's two generations of headers either will
/// do: `x-api-key` or a bearer, and any version.
fn complaint(wire: Wire, query: Option<&str>, headers: &HeaderMap) -> Option<Complaint<'static>> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    let bearer = bearer.is_some_and(|value| value.starts_with("Bearer ") && value.len() > 7);
    let header = |name: &str| headers.get(name).is_some_and(|key| !key.is_empty());
    let in_query =
        || query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("key=") && pair.len() > 4));
    match wire {
        Wire::Anthropic if !bearer && !header("x-api-key") => Some(Complaint::NoKey),
        Wire::Anthropic if !headers.contains_key("anthropic-version") => {
            Some(Complaint::Invalid("anthropic-version: header is required"))
        }
        Wire::OpenAi | Wire::Responses if !bearer => Some(Complaint::NoKey),
        Wire::Gemini if !bearer && !header("x-goog-api-key") && !in_query() => Some(Complaint::NoKey),
        Wire::Anthropic | Wire::OpenAi | Wire::Responses | Wire::Gemini | Wire::Ollama => None,
    }
}

fn send(house: &Arc<House>, wire: Wire, outgoing: Outgoing) -> Response {
    let Outgoing { status, headers, pieces, pause, end, .. } = outgoing;
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT));
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let whole = end == End::Clean && pieces.len() <= 1 && pause.is_zero();
    let body = if whole { Body::from(pieces.concat()) } else { piecewise(house.clone(), wire, pieces, pause, end) };
    response.body(body).unwrap_or_else(|_| Response::new(Body::empty()))
}

/// A body that comes in pieces, with pauses, and ends as it is told to; at once when the server stops.
fn piecewise(house: Arc<House>, wire: Wire, pieces: Vec<String>, pause: Duration, end: End) -> Body {
    let state = (house, pieces.into_iter(), true);
    Body::from_stream(stream::unfold(Some(state), move |state| async move {
        let (house, mut pieces, first) = state?;
        let wait = match pieces.len() {
            0 if end == End::Pings => PING_EVERY,
            _ if first => Duration::ZERO,
            _ => pause,
        };
        tokio::select! {
            biased;
            () = house.stop.cancelled() => return Some((Err(broken()), None)),
            () = tokio::time::sleep(wait) => {}
        }
        match (pieces.next(), end) {
            (Some(piece), _) => Some((Ok(piece), Some((house, pieces, false)))),
            // Where there are no pings, nothing: an empty piece is not sent.
            (None, End::Pings) => Some((Ok(wire::ping(wire).unwrap_or_default()), Some((house, pieces, false)))),
            (None, End::Abort) => Some((Err(broken()), None)),
            (None, End::Clean | End::Silence) => None,
        }
    }))
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on cue")
}
