//! How the outage server answers: the door, the vendor's first look, the rule, the bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use futures_util::stream;

use super::control;
use super::house::{Fate, House, Sent};
use super::proxy::{self, Bend};
use crate::config::Wire;
use crate::sim::heard::{self, Door};
use crate::sim::wire::{self, Complaint, Draw, End, Listing, Outgoing};

/// How long between two pings of a stalled stream.
const PING_EVERY: Duration = Duration::from_millis(200);

/// How long what was said has to leave before the connection breaks.
const LEAVES_WITHIN: Duration = Duration::from_millis(20);

/// A request as it came.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Whatever comes: the control API, a door of one of the wires, a list of models, or nothing of ours.
pub(super) async fn anything(
    State(house): State<Arc<House>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let whole = body.is_ok();
    let call = Call { method, uri, headers, body: body.unwrap_or_default() };
    if call.uri.path() == "/_outage" || call.uri.path().starts_with("/_outage/") {
        return control::answer(&house, peer, &call);
    }
    match Door::find(call.uri.path(), call.uri.query()) {
        Some(door) if !whole => {
            let draw = house.draw(door.wire, &call.body);
            let refused = wire::complain(door.wire, draw, Complaint::TooLarge);
            house.remember(house.now(), door.wire, None, Fate::default(), Sent::from(&refused));
            send(&house, door.wire, refused)
        }
        Some(door) if call.method == Method::POST => serve(&house, &door, &call).await,
        Some(_) | None => elsewhere(&house, &call).await,
    }
}

/// What is no question to a model.
async fn elsewhere(house: &Arc<House>, call: &Call) -> Response {
    let wire = Door::guess(call.uri.path(), |name| call.headers.contains_key(name));
    let draw = house.draw(wire, &call.body);
    if house.upstream.is_some() {
        return proxy::forward(house, wire, call, draw, None, None).await;
    }
    let listed = if call.method == Method::GET { models(wire, call.uri.path(), draw) } else { None };
    let path = format!("{} {}", call.method, call.uri.path());
    send(house, wire, listed.unwrap_or_else(|| wire::complain(wire, draw, Complaint::NoSuchPath(&path))))
}

/// A list of models, or one of them, if that is what this path is.
fn models(wire: Wire, path: &str, draw: Draw) -> Option<Outgoing> {
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

async fn serve(house: &Arc<House>, door: &Door, call: &Call) -> Response {
    let wire = door.wire;
    let at = house.now();
    let draw = house.draw(wire, &call.body);
    let read = match complaint(wire, call.uri.query(), &call.headers) {
        Some(refused) => Err(Box::new(wire::complain(wire, draw, refused))),
        None => heard::read(door, &call.body, draw),
    };
    let incoming = match read {
        Ok(incoming) => incoming,
        // Whether a real vendor would complain, it says better itself.
        Err(_) if house.upstream.is_some() => return proxy::forward(house, wire, call, draw, None, None).await,
        Err(refused) => {
            house.remember(at, wire, None, Fate::default(), Sent::from(&*refused));
            return send(house, wire, *refused);
        }
    };
    let (cue, thinking) = house.cue(&incoming.asked);
    if house.upstream.is_some() {
        match (&cue.rule, Bend::of(&cue.then, incoming.asked.stream)) {
            (None, _) => return proxy::forward(house, wire, call, draw, Some(&incoming), None).await,
            (Some(_), Some(bend)) => {
                let bent = Some((cue, bend));
                return proxy::forward(house, wire, call, draw, Some(&incoming), bent).await;
            }
            // A failure that needs no upstream.
            (Some(_), None) => {}
        }
    }
    let mut outgoing = wire::write(&incoming, &cue.then, draw);
    let mut thinking = thinking;
    if cue.rule.is_none() && incoming.asked.stream {
        (thinking, outgoing.pause) = flowing(thinking, outgoing.pieces.len());
    }
    let fate = Fate { rule: cue.rule, behaviour: Some(cue.then), upstream: false };
    house.remember(at, wire, Some(&incoming), fate, Sent::from(&outgoing));
    // A timer rounds up to a millisecond, which is long for a server that is asked thousands of times a second.
    if !thinking.is_zero() {
        tokio::select! {
            biased;
            () = house.stop.cancelled() => {}
            () = tokio::time::sleep(thinking) => {}
        }
    }
    if outgoing.end == End::Silence {
        house.stop.cancelled().await;
    }
    send(house, wire, outgoing)
}

/// A model that takes its time has begun to answer long before it ends: how long until the first piece of its stream, and
/// how long between any two.
fn flowing(latency: Duration, pieces: usize) -> (Duration, Duration) {
    const FIRST: Duration = Duration::from_secs(1);
    let between = u32::try_from(pieces.saturating_sub(1)).unwrap_or(u32::MAX);
    let first = if between == 0 { latency } else { (latency / 10).min(FIRST) };
    (first, (latency - first).checked_div(between).unwrap_or_default())
}

/// What the vendor says before it looks at the body, if anything. Of Anthropic's two generations of headers either will
/// do: `x-api-key` or a bearer, and any version.
fn complaint(wire: Wire, query: Option<&str>, headers: &HeaderMap) -> Option<Complaint<'static>> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    let bearer = bearer.is_some_and(|value| value.starts_with("Bearer ") && value.len() > 7);
    let header = |name: &str| headers.get(name).is_some_and(|key| !key.is_empty());
    let is_key = |pair: &str| pair.starts_with("key=") && pair.len() > 4;
    let in_query = || query.is_some_and(|query| query.split('&').any(is_key));
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

/// Sends this as it is told to.
pub(super) fn send(house: &Arc<House>, wire: Wire, outgoing: Outgoing) -> Response {
    let Outgoing { status, headers, pieces, pause, end, .. } = outgoing;
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT));
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = body(house, wire, pieces, pause, end);
    response.body(body).unwrap_or_else(|_| Response::new(Body::empty()))
}

/// A body of these pieces. What comes at once goes out at once.
pub(super) fn body(house: &Arc<House>, wire: Wire, pieces: Vec<String>, pause: Duration, end: End) -> Body {
    if end == End::Clean && pause.is_zero() {
        return if pieces.len() <= 1 { Body::from(pieces.concat()) } else { at_once(pieces) };
    }
    piecewise(house.clone(), wire, pieces, pause, end)
}

/// Pieces without a pause between them: a stream still, but one that needs no timer.
fn at_once(pieces: Vec<String>) -> Body {
    Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, io::Error>)))
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
            (None, End::Pings) => {
                let ping = ping(&house, wire).await;
                let next = ping.is_ok().then_some((house, pieces, false));
                Some((ping, next))
            }
            (None, End::Abort) => Some((Err(reset(&house).await), None)),
            (None, End::Clean | End::Silence) => None,
        }
    }))
}

/// A ping; where the vendor has none, silence until the server stops.
pub(super) async fn ping(house: &House, wire: Wire) -> io::Result<String> {
    if let Some(ping) = wire::ping(wire) {
        return Ok(ping);
    }
    house.stop.cancelled().await;
    Err(broken())
}

/// Waits for the time of the next ping; an error when the server stops.
pub(super) async fn until_ping(house: &House) -> io::Result<()> {
    tokio::select! {
        biased;
        () = house.stop.cancelled() => Err(broken()),
        () = tokio::time::sleep(PING_EVERY) => Ok(()),
    }
}

/// Breaks the connection, once what was said has left: whatever is not yet written when a body fails is thrown away.
pub(super) async fn reset(house: &House) -> io::Error {
    tokio::select! {
        biased;
        () = house.stop.cancelled() => {}
        () = tokio::time::sleep(LEAVES_WITHIN) => {}
    }
    broken()
}

pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on cue")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_begins_long_before_it_ends_and_takes_as_long_as_it_should() {
        let ms = Duration::from_millis;
        for (latency, pieces, first, pause) in [
            (ms(0), 9, ms(0), ms(0)),
            (ms(500), 1, ms(500), ms(0)),
            (ms(1_000), 10, ms(100), ms(100)),
            (ms(241_000), 25, ms(1_000), ms(10_000)),
        ] {
            assert_eq!(flowing(latency, pieces), (first, pause), "{latency:?} in {pieces}");
        }
    }
}
