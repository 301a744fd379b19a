//! The feed of events, as pages and as a stream that a reader can leave and rejoin without a gap.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Door;
use super::problem::Problem;
use crate::engine::{self, Engine};
use crate::event::Event;
use crate::time::Timestamp;

/// How many events are read from the engine at a time.
const BATCH: u32 = 500;
/// How long a reader waits before it reconnects.
const RETRY: Duration = Duration::from_secs(2);
/// How often a silent stream says that it is alive: proxies cut what is silent for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Does the caller want a stream?
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// Where a reader left off: `Last-Event-ID`, as browsers send it on their own.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || super::input::wrong("Last-Event-ID", format!("`{text}` is not the number of an event"));
    text.parse().map(Some).map_err(|_| wrong())
}

/// The number of the last event before a point in time, by halving: times never fall along the feed.
pub(crate) async fn seq_before(engine: &dyn Engine, since: Timestamp) -> Result<u64, engine::Error> {
    let (mut low, mut high) = (0, *engine.watch().borrow());
    while low < high {
        let middle = low + (high - low) / 2;
        match engine.events(middle, 1).await?.first() {
            Some(event) if event.at < since => low = event.seq,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

struct Reader {
    door: Door,
    watch: tokio::sync::watch::Receiver<u64>,
    after: u64,
    batch: VecDeque<Event>,
    greeted: bool,
}

/// Everything after `after`, and then everything that happens, until the server stops.
pub(super) fn follow(door: Door, after: u64) -> Response {
    let watch = door.desk.engine().watch();
    let reader = Reader { door, watch, after, batch: VecDeque::new(), greeted: false };
    let messages = stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await?;
        Some((Ok::<_, Infallible>(message), reader))
    });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive")).into_response()
}

impl Reader {
    /// The next message; none when the server stops or the store fails (the reader then comes back by itself).
    async fn next(&mut self) -> Option<SseEvent> {
        if !self.greeted {
            self.greeted = true;
            // Where the stream begins: who has seen no event yet comes back to this place, not to what happens next.
            let began = SseEvent::default().id(self.after.to_string());
            return Some(began.retry(RETRY).comment("backstop events"));
        }
        loop {
            if let Some(event) = self.batch.pop_front() {
                self.after = event.seq;
                let shown = self.door.desk.shown(&event);
                return SseEvent::default().id(event.seq.to_string()).json_data(&shown).ok();
            }
            // Seen before reading, so that an event committed between reading and waiting wakes us at once.
            self.watch.borrow_and_update();
            self.batch = self.door.desk.engine().events(self.after, BATCH).await.ok()?.into();
            if self.batch.is_empty() {
                tokio::select! {
                    biased;
                    () = self.door.stopping.cancelled() => return None,
                    changed = self.watch.changed() => changed.ok()?,
                }
            } else if self.door.stopping.is_cancelled() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_wanted_by_its_media_type_and_resumed_by_number() {
        let mut headers = HeaderMap::new();
        assert!(!wanted(&headers));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream;q=0.9"));
        assert!(wanted(&headers));
        assert_eq!(last_event_id(&headers), Ok(None));
        headers.insert("last-event-id", HeaderValue::from_static("17"));
        assert_eq!(last_event_id(&headers), Ok(Some(17)));
        headers.insert("last-event-id", HeaderValue::from_static("x"));
        assert_eq!(last_event_id(&headers).expect_err("not a number").status, 400);
    }
}
