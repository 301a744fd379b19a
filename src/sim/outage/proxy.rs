//! The server as a proxy: what no rule is for goes to the upstream and comes back as it is; what is to break half-way
//! breaks on the real stream.
//!
//! Nothing is retried and no redirect followed: whoever asks has to see what the upstream said. Credentials pass
//! through and are written down nowhere.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use futures_util::stream;
use reqwest::Url;

use super::house::{Fate, House, Sent};
use super::serve::{Call, body, broken, ping, reset, send, until_ping};
use crate::config::Wire;
use crate::error_chain::in_full;
use crate::redact;
use crate::sim::heard::Incoming;
use crate::sim::script::{Behaviour, Cue};
use crate::sim::wire::{self, Complaint, Draw, End};

/// Headers that are about one connection and not about what is said over it.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is no upstream.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no upstream: {why}")]
pub struct BadUpstream {
    url: String,
    why: String,
}

/// The real provider.
pub(super) struct Upstream {
    client: reqwest::Client,
    base: Url,
}

impl Upstream {
    pub(super) fn new(url: &str) -> Result<Self, BadUpstream> {
        let bad = |why: &str| BadUpstream { url: quoted(url), why: why.to_owned() };
        let base = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad("it must begin with http:// or https://"));
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(bad("it must hold neither credentials nor a query"));
        }
        // An application may have chosen a provider before us; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(10))
            .build();
        Ok(Self { client: client.map_err(|error| bad(&error.to_string()))?, base })
    }

    pub(super) fn shown(&self) -> String {
        self.base.to_string()
    }

    /// The same path and query there. What the base and the path have in common, such as `/v1`, is not doubled.
    fn url(&self, call: &Call) -> Url {
        let (prefix, path) = (self.base.path().trim_end_matches('/'), call.uri.path());
        let begins = !prefix.is_empty() && path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let mut url = self.base.clone();
        url.set_path(&if begins { path.to_owned() } else { format!("{prefix}{path}") });
        url.set_query(call.uri.query());
        url
    }

    async fn ask(&self, call: &Call, plain: bool) -> Result<reqwest::Response, reqwest::Error> {
        let mut headers = passed_on(&call.headers);
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        if plain {
            // What is to be cut between two events must be readable.
            headers.remove(header::ACCEPT_ENCODING);
        }
        let request = self.client.request(call.method.clone(), self.url(call)).headers(headers);
        // A GET without a body must not become one with an empty body.
        let request = if call.body.is_empty() { request } else { request.body(call.body.clone()) };
        request.send().await
    }
}

/// An address as it may be quoted: without whoever logs in by it, and without its query, where keys stand.
fn quoted(url: &str) -> String {
    redact::address(url).split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Headers without those of the connection they came on.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
    for name in named {
        passed.remove(name);
    }
    for name in HOP_BY_HOP {
        passed.remove(name);
    }
    passed
}

/// How a real answer is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bend {
    Slow(Duration),
    Truncate,
    Reset,
    Stall,
    Error,
    Malform,
}

impl Bend {
    /// What breaks half-way breaks on the real stream. All else needs no upstream.
    pub(super) const fn of(behaviour: &Behaviour, stream: bool) -> Option<Self> {
        match behaviour {
            Behaviour::Slow { pause, .. } => Some(Self::Slow(*pause)),
            Behaviour::Truncated => Some(Self::Truncate),
            Behaviour::Reset => Some(Self::Reset),
            Behaviour::Stall => Some(Self::Stall),
            Behaviour::ErrorMidStream if stream => Some(Self::Error),
            Behaviour::Malformed => Some(Self::Malform),
            Behaviour::Answer(_)
            | Behaviour::Cut(_)
            | Behaviour::Refuse(_)
            | Behaviour::SchemaInvalid
            | Behaviour::WrongArguments
            | Behaviour::Loop
            | Behaviour::Overloaded
            | Behaviour::ServerError
            | Behaviour::Unavailable
            | Behaviour::GatewayTimeout
            | Behaviour::RateLimited { .. }
            | Behaviour::RateLimitedHinting { .. }
            | Behaviour::RateLimitedSilently
            | Behaviour::Unauthorized
            | Behaviour::Forbidden
            | Behaviour::OutOfCredit
            | Behaviour::NoSuchModel
            | Behaviour::TooLong
            | Behaviour::ErrorMidStream
            | Behaviour::Hang
            | Behaviour::Html => None,
        }
    }
}

/// Asks the upstream and hands its answer on, bent if it is to be.
pub(super) async fn forward(
    house: &Arc<House>,
    wire: Wire,
    call: &Call,
    draw: Draw,
    incoming: Option<&Incoming>,
    bent: Option<(Cue, Bend)>,
) -> Response {
    let at = house.now();
    let (cue, bend) = bent.map_or((None, None), |(cue, bend)| (Some(cue), Some(bend)));
    let fate = match cue {
        Some(cue) => Fate { rule: cue.rule, behaviour: Some(cue.then), upstream: true },
        None => Fate { upstream: true, ..Fate::default() },
    };
    let Some(upstream) = &house.upstream else { return Response::new(Body::empty()) };
    let asked = tokio::select! {
        biased;
        () = house.stop.cancelled() => return Response::new(Body::empty()),
        asked = upstream.ask(call, bend.is_some()) => asked,
    };
    match asked {
        Ok(response) => {
            house.remember(at, wire, incoming, fate, Sent::status(response.status().as_u16()));
            let bend = bend.filter(|_| response.status().is_success());
            let stream = incoming.is_some_and(|incoming| incoming.asked.stream);
            pass(house, wire, draw, response, bend, stream).await
        }
        Err(error) => {
            // The address may hold a key.
            let error = error.without_url();
            tracing::warn!(error = %in_full(&error), "the upstream did not answer");
            let outgoing =
                wire::complain(wire, draw, Complaint::BadGateway("backstop outage: the upstream did not answer"));
            house.remember(at, wire, incoming, fate, Sent::from(&outgoing));
            send(house, wire, outgoing)
        }
    }
}

/// The upstream's answer: status, headers, and the body as it comes.
async fn pass(
    house: &Arc<House>,
    wire: Wire,
    draw: Draw,
    response: reqwest::Response,
    bend: Option<Bend>,
    stream: bool,
) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = passed_on(response.headers());
    if bend.is_some() {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    *answer.body_mut() = match bend {
        None => as_it_is(house.clone(), response),
        Some(bend) if stream => bent(house.clone(), wire, draw, response, bend),
        Some(bend) => match response.text().await {
            Ok(text) => broken_body(house, wire, &text, bend),
            Err(_) => Body::from_stream(stream::iter([Err::<Bytes, _>(broken())])),
        },
    };
    answer
}

fn as_it_is(house: Arc<House>, response: reqwest::Response) -> Body {
    Body::from_stream(stream::unfold(Some((house, response)), |state| async move {
        let (house, mut response) = state?;
        match chunk(&house, &mut response).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some((house, response)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

async fn chunk(house: &House, response: &mut reqwest::Response) -> io::Result<Option<Bytes>> {
    tokio::select! {
        biased;
        () = house.stop.cancelled() => Err(broken()),
        chunk = response.chunk() => chunk.map_err(|error| io::Error::other(error.without_url())),
    }
}

/// A whole body, broken.
fn broken_body(house: &Arc<House>, wire: Wire, text: &str, bend: Bend) -> Body {
    let half = || vec![text.chars().take(text.chars().count() / 2).collect::<String>()];
    match bend {
        Bend::Slow(pause) => body(house, wire, wire::quarters(text), pause, End::Clean),
        Bend::Truncate => body(house, wire, half(), Duration::ZERO, End::Clean),
        Bend::Reset => body(house, wire, half(), Duration::ZERO, End::Abort),
        Bend::Stall => body(house, wire, Vec::new(), Duration::ZERO, End::Pings),
        Bend::Malform | Bend::Error => Body::from(wire::malformed(text)),
    }
}

/// A stream, broken after its first words.
fn bent(house: Arc<House>, wire: Wire, draw: Draw, response: reqwest::Response, bend: Bend) -> Body {
    let bending = Bending { house, wire, draw, response, bend, cutter: Cutter::new(wire), sent: 0, over: false };
    Body::from_stream(stream::unfold(Some(bending), |state| async move {
        let mut bending = state?;
        match bending.next().await {
            Some(Ok(bytes)) => Some((Ok(bytes), Some(bending))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    }))
}

/// A stream that is being broken.
struct Bending {
    house: Arc<House>,
    wire: Wire,
    draw: Draw,
    response: reqwest::Response,
    bend: Bend,
    cutter: Cutter,
    sent: usize,
    over: bool,
}

impl Bending {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        // Words have come by then, and the end has not.
        let breaks = self.bend != Bend::Malform && !matches!(self.bend, Bend::Slow(_));
        if breaks && (self.over || self.sent == beginning(self.wire)) {
            return self.breaks().await;
        }
        loop {
            let held = if breaks { wire::tail(self.wire) } else { 0 };
            if let Some(piece) = self.cutter.piece(held) {
                return Some(self.let_go(piece).await);
            }
            match chunk(&self.house, &mut self.response).await {
                Ok(Some(bytes)) => self.cutter.take(&bytes),
                Ok(None) if breaks => return self.breaks().await,
                Ok(None) => {
                    let rest = self.cutter.rest()?;
                    return Some(self.let_go(rest).await);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// One event goes out, late or wrong if that is what is asked for.
    async fn let_go(&mut self, piece: Vec<u8>) -> io::Result<Bytes> {
        self.sent += 1;
        match self.bend {
            Bend::Slow(pause) => tokio::select! {
                biased;
                () = self.house.stop.cancelled() => Err(broken()),
                () = tokio::time::sleep(pause) => Ok(piece.into()),
            },
            Bend::Malform if self.sent == beginning(self.wire) => {
                Ok(wire::malformed(&String::from_utf8_lossy(&piece)).into())
            }
            Bend::Malform | Bend::Truncate | Bend::Reset | Bend::Stall | Bend::Error => Ok(piece.into()),
        }
    }

    /// What comes in place of the rest.
    async fn breaks(&mut self) -> Option<io::Result<Bytes>> {
        let first = !std::mem::replace(&mut self.over, true);
        match self.bend {
            Bend::Error if first => Some(Ok(wire::error_event(self.wire, self.draw).into())),
            Bend::Stall => {
                let ping = match until_ping(&self.house).await {
                    Ok(()) => ping(&self.house, self.wire).await,
                    Err(error) => Err(error),
                };
                Some(ping.map(Bytes::from))
            }
            Bend::Reset => Some(Err(reset(&self.house).await)),
            Bend::Error | Bend::Truncate | Bend::Slow(_) | Bend::Malform => None,
        }
    }
}

/// After how many events there has been a word.
const fn beginning(wire: Wire) -> usize {
    match wire {
        Wire::Anthropic => 4,
        Wire::OpenAi => 2,
        Wire::Responses => 5,
        Wire::Gemini | Wire::Ollama => 1,
    }
}

/// Cuts a stream of bytes into events, and holds some back, for the end must not come.
struct Cutter {
    by: &'static [&'static [u8]],
    buffer: Vec<u8>,
    held: VecDeque<Vec<u8>>,
}

impl Cutter {
    const fn new(wire: Wire) -> Self {
        let by: &[&[u8]] = match wire {
            Wire::Ollama => &[b"\n"],
            Wire::Anthropic | Wire::OpenAi | Wire::Responses | Wire::Gemini => &[b"\n\n", b"\r\n\r\n"],
        };
        Self { by, buffer: Vec::new(), held: VecDeque::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        let end = |buffer: &[u8], by: &[u8]| buffer.windows(by.len()).position(|at| at == by).map(|at| at + by.len());
        while let Some(end) = self.by.iter().filter_map(|by| end(&self.buffer, by)).min() {
            let rest = self.buffer.split_off(end);
            self.held.push_back(std::mem::replace(&mut self.buffer, rest));
        }
    }

    /// The next event, when at least so many have come after it.
    fn piece(&mut self, held: usize) -> Option<Vec<u8>> {
        if self.held.len() > held { self.held.pop_front() } else { None }
    }

    /// What came after the last whole event.
    fn rest(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.buffer);
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_between_events_however_it_comes() {
        for (wire, bytes, expected) in [
            (Wire::OpenAi, "data: 1\n\ndata: 2\n\nda", &["data: 1\n\n", "data: 2\n\n"][..]),
            (Wire::Gemini, "data: 1\r\n\r\ndata: 2\r\n\r\n", &["data: 1\r\n\r\n", "data: 2\r\n\r\n"]),
            (Wire::Ollama, "{}\n{}\n{", &["{}\n", "{}\n"]),
        ] {
            for size in 1..bytes.len() {
                let mut cutter = Cutter::new(wire);
                let mut seen = Vec::new();
                for piece in bytes.as_bytes().chunks(size) {
                    cutter.take(piece);
                    seen.extend(std::iter::from_fn(|| cutter.piece(0)));
                }
                let seen: Vec<String> = seen.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
                assert_eq!(seen, expected, "{size}");
            }
        }
        let mut cutter = Cutter::new(Wire::Ollama);
        cutter.take(b"1\n2\n3\n");
        assert_eq!((cutter.piece(2), cutter.piece(2)), (Some(b"1\n".to_vec()), None), "two are held back");
    }

    #[test]
    fn the_upstream_is_an_address_without_secrets_and_its_path_is_not_doubled() {
        for (url, why) in [
            ("ftp://x", "must begin with http"),
            ("x", "relative URL"),
            ("https://user:pass@x.example", "neither credentials"),
            ("https://x.example/?key=s3cret", "neither credentials"),
            // The scheme was looked at first, and what was refused for it quoted as it stood.
            ("ftp://user:s3cret@x.example", "must begin with http"),
            ("ftp://x.example/?key=s3cret", "must begin with http"),
            ("user:s3cret@x.example", "must begin with http"),
            ("https://user:s3cret/4@x.example", "invalid port"),
        ] {
            let said = Upstream::new(url).err().expect(url).to_string();
            assert!(said.contains(why) && !said.contains("pass@") && !said.contains("s3cret"), "{said}");
        }
        for (base, path, expected) in [
            ("https://x.example", "/v1/messages?a=1", "https://x.example/v1/messages?a=1"),
            ("https://x.example/v1", "/v1/responses", "https://x.example/v1/responses"),
            ("https://x.example/v1/", "/chat/completions", "https://x.example/v1/chat/completions"),
            ("https://x.example/team", "/v1/messages", "https://x.example/team/v1/messages"),
        ] {
            let call = Call {
                method: axum::http::Method::POST,
                uri: path.parse().expect("a path"),
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            assert_eq!(Upstream::new(base).expect("an upstream").url(&call).as_str(), expected);
        }
    }
}
