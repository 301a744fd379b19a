//! A PagerDuty that pages nobody: Events v2 on loopback, as strict as the real one, with every event remembered.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The largest event PagerDuty takes, in bytes.
const EVENT_LIMIT: usize = 512 * 1024;

/// A running stub.
pub struct PagerDutyStub {
    address: SocketAddr,
    desk: Arc<Desk>,
    stop: CancellationToken,
}

/// One event as taken (202).
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// `trigger`, `acknowledge` or `resolve`.
    pub action: String,
    /// The alert it speaks of; made up for a trigger that named none.
    pub dedup_key: String,
    /// Did it change anything? An acknowledgement without an open alert is taken, and dropped.
    pub mattered: bool,
    /// The event.
    pub body: Value,
}

struct Desk {
    room: Mutex<Room>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Room {
    taken: Vec<Taken>,
    refused: u64,
    open: Vec<(String, String)>,
    failing: Option<u16>,
}

impl PagerDutyStub {
    /// Starts one.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(Desk { room: Mutex::default(), count: watch::Sender::new(0) });
        let app = Router::new()
            .route("/v2/enqueue", post(enqueue))
            .layer(DefaultBodyLimit::max(4 * EVENT_LIMIT))
            .with_state(desk.clone());
        let stop = CancellationToken::new();
        let until = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned()).await {
                tracing::warn!(%error, "the PagerDuty stub ended");
            }
        });
        Ok(Self { address, desk, stop })
    }

    /// Where events go.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v2/enqueue", self.address)
    }

    /// Every event taken, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Taken> {
        self.desk.room().taken.clone()
    }

    /// The dedup keys of open alerts, oldest first.
    #[must_use]
    pub fn alerts(&self) -> Vec<String> {
        self.desk.room().open.iter().map(|(_, key)| key.clone()).collect()
    }

    /// How many requests were refused, for their own fault or on cue.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.desk.room().refused
    }

    /// Answers everything with this status from now on (such as 500 or 429); none: works again.
    pub fn fail(&self, status: Option<u16>) {
        self.desk.room().failing = status;
    }

    /// Waits until at least `count` events were taken.
    pub async fn taken(&self, count: usize) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.desk.count.subscribe().wait_for(|so_far| *so_far >= count).await;
    }
}

impl Drop for PagerDutyStub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Desk {
    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn enqueue(State(desk): State<Arc<Desk>>, body: Bytes) -> impl IntoResponse {
    let answer = take(&mut desk.room(), &body);
    let taken = desk.room().taken.len();
    desk.count.send_replace(taken);
    let (status, body) = answer;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/json")], body.to_string())
}

fn take(room: &mut Room, body: &[u8]) -> (u16, Value) {
    if let Some(status) = room.failing {
        room.refused += 1;
        return (status, json!({"status": "throttle exceeded", "message": "on cue"}));
    }
    if body.len() > EVENT_LIMIT {
        room.refused += 1;
        return (413, json!({"status": "event size exceeded", "message": "Event size exceeds the 512 KB limit"}));
    }
    let event: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let errors = faults(&event);
    if !errors.is_empty() {
        room.refused += 1;
        return (400, json!({"status": "invalid event", "message": "Event object is invalid", "errors": errors}));
    }
    let word = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (action, routing) = (word("/event_action"), word("/routing_key"));
    let dedup_key = match word("/dedup_key") {
        none if none.is_empty() => format!("made-up-{}", room.taken.len() + 1),
        given => given,
    };
    let alert = (routing, dedup_key.clone());
    let open = room.open.iter().position(|known| *known == alert);
    let mattered = match (action.as_str(), open) {
        ("trigger", None) => {
            room.open.push(alert);
            true
        }
        ("resolve", Some(at)) => {
            room.open.remove(at);
            true
        }
        (_, open) => open.is_some(),
    };
    room.taken.push(Taken { action, dedup_key: dedup_key.clone(), mattered, body: event });
    (202, json!({"status": "success", "message": "Event processed", "dedup_key": dedup_key}))
}

/// What is wrong with an event, in PagerDuty's manner.
fn faults(event: &Value) -> Vec<String> {
    let word = |path: &str| event.pointer(path).and_then(Value::as_str);
    let mut errors = Vec::new();
    if word("/routing_key").is_none_or(|key| key.len() != 32) {
        errors.push("'routing_key' is invalid (must be 32 characters)".to_owned());
    }
    let action = word("/event_action").unwrap_or_default();
    if !["trigger", "acknowledge", "resolve"].contains(&action) {
        errors.push("'event_action' is missing or not one of trigger, acknowledge, resolve".to_owned());
    }
    if word("/dedup_key").is_some_and(|key| key.chars().count() > 255) {
        errors.push("'dedup_key' is too long (maximum is 255 characters)".to_owned());
    }
    if action != "trigger" {
        if word("/dedup_key").is_none_or(str::is_empty) {
            errors.push("'dedup_key' is missing or blank".to_owned());
        }
        return errors;
    }
    match word("/payload/summary") {
        None | Some("") => errors.push("'payload.summary' is missing or blank".to_owned()),
        Some(text) if text.chars().count() > 1024 => {
            errors.push("'payload.summary' is too long (maximum is 1024 characters)".to_owned());
        }
        Some(_) => {}
    }
    if word("/payload/source").is_none_or(str::is_empty) {
        errors.push("'payload.source' is missing or blank".to_owned());
    }
    if word("/payload/severity").is_none_or(|word| !["critical", "error", "warning", "info"].contains(&word)) {
        errors
            .push("'payload.severity' is invalid (must be one of: 'critical', 'error', 'warning', 'info')".to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Value {
        json!({"routing_key": "0123456789abcdef0123456789abcdef", "event_action": action, "dedup_key": "backstop/t/INC-1",
            "payload": {"summary": "3 dead letters", "source": "backstop", "severity": "critical"}})
    }

    #[test]
    fn events_are_judged_as_the_real_one_judges_them() {
        type Spoil = fn(&mut Value);
        let table: [(Spoil, &str); 6] = [
            (|e| e["routing_key"] = json!("short"), "routing_key"),
            (|e| e["event_action"] = json!("update"), "event_action"),
            (|e| e["dedup_key"] = json!("x".repeat(256)), "dedup_key"),
            (|e| e["payload"]["summary"] = json!("x".repeat(1025)), "payload.summary"),
            (|e| e["payload"]["severity"] = json!("bad"), "payload.severity"),
            (|e| e["payload"]["source"] = json!(""), "payload.source"),
        ];
        for (spoil, field) in table {
            let mut bad = event("trigger");
            spoil(&mut bad);
            let (status, body) = take(&mut Room::default(), bad.to_string().as_bytes());
            assert_eq!(status, 400);
            assert!(body["errors"][0].as_str().expect("an error").contains(field), "{body}");
        }
        assert_eq!(take(&mut Room::default(), b"nonsense").0, 400);
        assert_eq!(take(&mut Room::default(), &vec![b' '; EVENT_LIMIT + 1]).0, 413);
    }

    #[test]
    fn an_alert_is_open_from_its_trigger_to_its_resolution() {
        let mut room = Room::default();
        let mut send = |action| {
            take(&mut room, event(action).to_string().as_bytes());
            room.taken.last().expect("taken").mattered
        };
        let mattered = ["acknowledge", "trigger", "trigger", "acknowledge", "resolve", "resolve"].map(&mut send);
        assert_eq!(mattered, [false, true, true, true, true, false]);
        assert!(room.open.is_empty());
    }
}
