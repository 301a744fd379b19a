//! The cases of the abuse table that come through the operator's door: raw bytes on a real socket, read from the table.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use backstop::api::Tokens;
use backstop::config::{ChannelConfig, Config};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::Case;
use crate::api::{House, start, start_saying, start_with};

/// The longest any answer here may take before the test is called hanging.
const TOO_LONG: Duration = Duration::from_secs(20);

/// What the door said.
struct Told {
    status: u16,
    head: String,
    body: String,
}

/// A house on threads of its own, so that the test may block on its sockets.
struct Street {
    runtime: tokio::runtime::Runtime,
    house: Option<House>,
}

fn threads() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime")
}

impl Street {
    fn new(token: Option<&str>) -> Self {
        let runtime = threads();
        let house = runtime.block_on(start(token));
        Self { runtime, house: Some(house) }
    }

    /// A house with an open incident, where PagerDuty's callbacks are signed with [`OLD`] or [`NEW`].
    fn with_pagerduty() -> (Self, String) {
        let runtime = threads();
        let channel = |secret: &str| ChannelConfig::PagerDuty {
            routing_key: "key".into(),
            url: "http://127.0.0.1:9/".to_owned(),
            webhook_secret: Some(secret.into()),
        };
        let config = Config::new("test").on_call("ana", vec![channel(OLD), channel(NEW)]);
        let (house, incident) = runtime.block_on(async {
            let house = start_with(config, Tokens::default()).await;
            let incident = house.incident().await;
            (house, incident)
        });
        (Self { runtime, house: Some(house) }, incident)
    }

    /// A house whose model says this: it has a task that is done with it, whose id this is, and one given up for it.
    fn saying(words: &str) -> (Self, String) {
        let runtime = threads();
        let (house, done) = runtime.block_on(async {
            let house = start_saying(words).await;
            let done = house.answered().await;
            house.incident().await;
            (house, done)
        });
        (Self { runtime, house: Some(house) }, done)
    }

    fn address(&self) -> &str {
        self.house.as_ref().expect("a house").url.trim_start_matches("http://")
    }

    /// Sends a head and a body as they are; a case names headers, the rest is what every client sends.
    fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Told {
        self.ask_over(TcpStream::connect(self.address()).expect("the door"), line, headers, body)
    }

    /// A connection from another address of this machine. Linux has all of 127.0.0.0/8; others have to be told.
    fn stream_from_elsewhere(&self) -> TcpStream {
        let door: SocketAddr = self.address().parse().expect("an address");
        let stream = self.runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("an address of ours");
            socket.connect(door).await.and_then(tokio::net::TcpStream::into_std).expect("the door")
        });
        stream.set_nonblocking(false).expect("a stream that blocks");
        stream
    }

    fn ask_over(&self, mut stream: TcpStream, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Told {
        stream.set_read_timeout(Some(TOO_LONG)).expect("a timeout");
        let named = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut head = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !named("host") {
            head.push_str(&format!("Host: {}\r\n", self.address()));
        }
        if !named("content-length") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        // The door may close before it has heard all of it; what it said is read all the same.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).into_owned();
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Told {
            status: status.unwrap_or_else(|| panic!("no answer to {line}: {said}")),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// A request as a case has it.
    fn play(&self, case: &Case) -> Told {
        let asked = |name: &str| case.input.get(name).and_then(Value::as_str);
        let path = ours(asked("path").unwrap_or("/api/tasks"));
        let body = body_of(case);
        let method = asked("method").unwrap_or(if body.is_empty() { "GET" } else { "POST" });
        let headers: Vec<(String, String)> = case.input["headers"]
            .as_object()
            .map(|headers| headers.iter().map(|(n, v)| (n.clone(), v.as_str().expect("a text").to_owned())).collect())
            .unwrap_or_default();
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
            headers.push(("Content-Type", "application/json"));
        }
        self.ask(&format!("{method} {path}"), &headers, &body)
    }

    /// How many tasks there are: the state that nobody may change.
    fn tasks(&self) -> u64 {
        let told = self.ask("GET /api/v1/balance", &[("Authorization", "Bearer s3cret")], b"");
        let balance: Value = serde_json::from_str(&told.body).unwrap_or_else(|_| panic!("{}", told.body));
        balance["submitted"].as_u64().expect("a number")
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        if let Some(house) = self.house.take() {
            self.runtime.block_on(house.close());
        }
    }
}

/// The path the table means, as this door has it.
fn ours(path: &str) -> String {
    match path {
        "/" => "/".to_owned(),
        "/api/dlq/replay" => "/api/v1/replays".to_owned(),
        "/api/dlq/e1/replay" => "/api/v1/replays/e1/pause".to_owned(),
        "/api/dlq/e1/decide" => "/api/v1/dead-letters/e1/decide".to_owned(),
        path => path.replace("/api/dlq", "/api/v1/dead-letters").replace("/api/tasks", "/api/v1/tasks"),
    }
}

fn body_of(case: &Case) -> Vec<u8> {
    let asked = |name: &str| case.input.get(name).and_then(Value::as_str);
    match (asked("body"), asked("body_hex"), asked("body_gen")) {
        (Some(body), _, _) => body.as_bytes().to_vec(),
        (_, Some(hex), _) => {
            let digits: Vec<char> = hex.chars().collect();
            let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex");
            digits.chunks(2).map(byte).collect()
        }
        (_, _, Some("'['*100000")) => vec![b'['; 100_000],
        // Three times what the door takes: the rest of the gibibyte would only be refused longer.
        (_, _, Some("1 GiB of 'a'")) => vec![b'a'; 6 * 1024 * 1024],
        // Its first bytes: it is refused by its header, before it is inflated.
        (_, _, Some("gzip bomb 1 MB -> 1 GB")) => vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0],
        (_, _, Some(other)) => panic!("a body nobody can make: {other}"),
        (None, None, None) => Vec::new(),
    }
}

/// Refused with this status and this kind of problem, and nothing was changed.
fn refused(street: &Street, told: &Told, status: u16, slug: &str) {
    assert_eq!(told.status, status, "{}\n{}", told.head, told.body);
    let problem: Value = serde_json::from_str(&told.body).unwrap_or_else(|_| panic!("no problem: {}", told.body));
    let kind = problem["type"].as_str().unwrap_or_default();
    assert!(kind.ends_with(&format!("/{slug}")), "{kind}");
    assert_eq!(street.tasks(), 0);
}

pub(super) fn a_foreign_page_changes_nothing(case: &Case) {
    let street = Street::new(None);
    refused(&street, &street.play(case), 403, "origin-not-allowed");
    // Its own page, with a body that no form can be stopped from sending.
    let own = format!("http://{}", street.address());
    let told = street.ask("POST /api/v1/tasks", &[("Origin", &own), ("Content-Type", "text/plain")], b"{}");
    refused(&street, &told, 415, "not-json");
}

pub(super) fn looking_changes_nothing(case: &Case) {
    let street = Street::new(None);
    refused(&street, &street.play(case), 405, "method-not-allowed");
    for path in [
        "tasks/e1/cancel",
        "tasks/e1/outcome",
        "dead-letters/e1/decide",
        "dead-letters/e1/discard",
        "replays/e1/stop",
        "incidents/e1/acknowledge",
        "incidents/e1/override",
        "incidents/e1/resolve",
        "page-test",
        "breakers/sim/open",
        "breakers/sim/close",
    ] {
        let told = street.ask(&format!("GET /api/v1/{path}"), &[], b"");
        assert_eq!(told.status, 405, "{path}");
        assert!(told.head.contains("allow: post"), "{path}: {}", told.head);
    }
}

pub(super) fn a_foreign_name_stays_out(case: &Case) {
    let street = Street::new(None);
    let slug = if case.input["headers"].get("Origin").is_some() { "origin-not-allowed" } else { "host-not-allowed" };
    refused(&street, &street.play(case), 403, slug);
}

pub(super) fn nothing_is_shown_in_a_frame(case: &Case) {
    let street = Street::new(None);
    for told in [street.play(case), street.ask("GET /metrics", &[], b""), street.ask("GET /livez", &[], b"")] {
        assert!(told.head.contains("x-frame-options: deny"), "{}", told.head);
        assert!(told.head.contains("frame-ancestors 'none'"), "{}", told.head);
    }
}

pub(super) fn nobody_comes_in_without_the_token(case: &Case) {
    let street = Street::new(Some("s3cret"));
    refused(&street, &street.play(case), 401, "token-needed");
}

/// The header of a case, with the token that is right here.
fn authorization(case: &Case) -> String {
    case.input["headers"]["Authorization"].as_str().expect("a header").replace("CORRECT", "s3cret")
}

pub(super) fn the_scheme_may_be_written_small(case: &Case) {
    let street = Street::new(Some("s3cret"));
    let told = street.ask("GET /api/v1/tasks", &[("Authorization", &authorization(case))], b"");
    assert_eq!(told.status, 200, "{}", told.body);
}

pub(super) fn a_token_is_compared_to_its_end(case: &Case) {
    let street = Street::new(Some("s3cret"));
    let header = authorization(case);
    assert!(header.starts_with("Bearer s3cret\0"), "{header:?}");
    let ask = |header: &str| street.ask("GET /api/v1/tasks", &[("Authorization", header)], b"").status;
    // A header no server takes: refused before anybody is asked who they are.
    assert_eq!(ask(&header), 400);
    // What a proxy might make of it. Only what is cut at the NUL is the token.
    for made in ["", "%00", " ", "\\0"] {
        assert_eq!(ask(&header.replace('\0', made)), 401, "{made:?}");
    }
    assert_eq!(ask(header.split('\0').next().expect("a token")), 200);
}

pub(super) fn guesses_are_not_heard_for_long(case: &Case) {
    assert!(case.said().contains("100 wrong tokens"), "{}", case.said());
    let street = Street::new(Some("s3cret"));
    let ask = |token: &str| street.ask("GET /api/v1/tasks", &[("Authorization", &format!("Bearer {token}"))], b"");
    let statuses: Vec<u16> = (0..100).map(|guess| ask(&format!("guess-{guess}")).status).collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 90]);
    // Whoever found it by guessing would not know.
    let right = ask("s3cret");
    assert_eq!(right.status, 429);
    assert!(right.head.contains("retry-after: "), "{}", right.head);
    // Whoever stands elsewhere has guessed nothing. That addresses are told apart is shown everywhere by `lockout.rs`.
    if cfg!(target_os = "linux") {
        let elsewhere = |token: &str| {
            let headers = [("Authorization", token)];
            street.ask_over(street.stream_from_elsewhere(), "GET /api/v1/tasks", &headers, b"").status
        };
        assert_eq!((elsewhere("Bearer s3cret"), elsewhere("Bearer guess")), (200, 401));
    }
    assert_eq!(street.ask("GET /livez", &[], b"").status, 200, "probes are no guesses");
}

pub(super) fn a_token_for_looking_decides_nothing(case: &Case) {
    let street = Street::new(Some("s3cret"));
    let viewer = ("Authorization", "Bearer l00k");
    assert_eq!(case.input["role"], json!("viewer"));
    let path = ours(case.input["path"].as_str().expect("a path"));
    let told = street.ask(&format!("POST {path}"), &[viewer, ("Content-Type", "application/json")], b"{}");
    refused(&street, &told, 403, "read-only-token");
    assert_eq!(street.ask("GET /api/v1/tasks", &[viewer], b"").status, 200);
}

pub(super) fn too_much_is_refused(case: &Case) {
    let street = Street::new(None);
    let told = street.play(case);
    match case.id.as_str() {
        "AB-077" => refused(&street, &told, 413, "too-large"),
        "AB-080" => refused(&street, &told, 400, "malformed-json"),
        "AB-082" | "AB-083" => {
            assert_eq!(told.status, 400, "{}", told.body);
            assert_eq!(street.tasks(), 0);
        }
        "AB-085" => refused(&street, &told, 415, "encoded"),
        // Said, not clamped: a page of another size than asked for is a surprise.
        "AB-086" => refused(&street, &told, 400, "invalid-request"),
        other => panic!("{other} is played by nobody"),
    }
}

pub(super) fn a_flood_of_headers_is_refused(case: &Case) {
    assert_eq!(case.input["headers_gen"], json!("10,000 headers"));
    let street = Street::new(None);
    let names: Vec<String> = (0..10_000).map(|number| format!("X-{number}")).collect();
    let flood: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(street.ask("GET /api/v1/tasks", &flood, b"").status, 431);
    // What has come by the time it is looked at may be twice the bound.
    let large = "x".repeat(300_000);
    assert_eq!(street.ask("GET /api/v1/tasks", &[("X-Large", &large)], b"").status, 431);
    assert_eq!(street.ask("GET /api/v1/tasks", &[], b"").status, 200, "everybody else is served");
}

/// Is this said by a text of a JSON value?
fn says(value: &Value, words: &str) -> bool {
    match value {
        Value::String(text) => text.contains(words),
        Value::Array(items) => items.iter().any(|item| says(item, words)),
        Value::Object(members) => members.values().any(|member| says(member, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What a model says, as an answer and as an error, is data wherever the API tells it, and no browser may make a page of it.
pub(super) fn what_a_model_says_is_no_page(case: &Case) {
    let (street, done) = Street::saying(case.said());
    let no_page = |path: &str, kind: &str| {
        let told = street.ask(&format!("GET {path}"), &[], b"");
        assert_eq!(told.status, 200, "{path}: {}", told.body);
        for word in [kind, "x-content-type-options: nosniff", "content-security-policy: default-src 'none'"] {
            assert!(told.head.contains(word), "{path}: {word} is not in {}", told.head);
        }
        told.body
    };
    let data = |path: &str| -> Value {
        let body = no_page(&format!("/api/v1/{path}"), "content-type: application/json");
        let value: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
        assert!(says(&value, case.said()), "{path} does not tell it: {value}");
        value
    };
    let letters = data("dead-letters");
    let dead = letters["items"][0]["task"]["id"].as_str().expect("a dead letter");
    assert_eq!(data(&format!("tasks/{done}"))["answer"], json!(case.said()), "to the letter");
    for path in [format!("tasks/{dead}"), format!("dead-letters/{dead}"), "events?limit=1000".to_owned()] {
        data(&path);
    }
    assert!(!no_page("/metrics", "content-type: text/plain").contains(case.said()), "counts quote nobody");
}

pub(super) fn a_filter_is_a_value(case: &Case) {
    let street = Street::new(None);
    let wanted = case.said().strip_prefix("agent=").expect("a filter on the agent");
    let encoded: String = wanted.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for path in ["tasks", "dead-letters"] {
        let told = street.ask(&format!("GET /api/v1/{path}?agent={encoded}"), &[], b"");
        // A name that none can have is said to be one; a text that any can have finds nothing.
        assert_eq!(told.status, 400, "{}", told.body);
        let told = street.ask(&format!("GET /api/v1/{path}?text={encoded}"), &[], b"");
        let page: Value = serde_json::from_str(&told.body).unwrap_or_else(|_| panic!("{}", told.body));
        assert_eq!((told.status, page["items"].as_array().map(Vec::len)), (200, Some(0)), "{page}");
    }
}

const OLD: &str = "the secret before";
const NEW: &str = "the secret now";

fn signature(secret: &str, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key").chain_update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn acknowledged(incident: &str, number: u32, at: &str) -> String {
    json!({ "event": {
        "id": format!("event-{number}"), "event_type": "incident.acknowledged", "occurred_at": at,
        "agent": { "type": "user_reference", "summary": "Bo" },
        "data": { "type": "incident", "incident_key": format!("backstop/test/{incident}") },
    }})
    .to_string()
}

/// Delivers a callback; what was answered, and who has the incident then.
fn callback(street: &Street, incident: &str, signed: Option<&str>, body: &str) -> (u16, Option<String>) {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(signed.map(|signed| ("X-PagerDuty-Signature", signed)));
    let told = street.ask("POST /webhooks/pagerduty", &headers, body.as_bytes());
    let shown = street.ask(&format!("GET /api/v1/incidents/{incident}"), &[], b"");
    let shown: Value = serde_json::from_str(&shown.body).unwrap_or_else(|_| panic!("{}", shown.body));
    (told.status, shown["answers"][0]["by"].as_str().map(str::to_owned))
}

/// The time of the test, as PagerDuty writes it.
fn today(street: &Street) -> String {
    street.house.as_ref().expect("a house").now().to_string()
}

pub(super) fn a_callback_is_heard_only_when_signed(case: &Case) {
    let (street, incident) = Street::with_pagerduty();
    let body = acknowledged(&incident, 1, &today(&street));
    let (old, new) = (signature(OLD, &body), signature(NEW, &body));
    let by = Some("Bo (PagerDuty)".to_owned());
    match case.id.as_str() {
        "AB-068" => {
            let body = case.input["body"].as_str().expect("a body");
            assert_eq!(callback(&street, &incident, None, body), (400, None));
        }
        "AB-070" => {
            let wrong = signature("of somebody else", &body);
            let both = format!("v1={wrong},v1={new}");
            assert_eq!(callback(&street, &incident, Some(&both), &body), (202, by));
        }
        "AB-071" => assert_eq!(callback(&street, &incident, Some(&format!("v0={new}")), &body), (403, None)),
        "AB-073" => {
            let upper = format!("v1={}", old.to_uppercase());
            assert_eq!(callback(&street, &incident, Some(&upper), &body), (202, by));
        }
        "AB-076" => {
            // What is over the limit is refused before anybody signs it: no signature is asked for.
            let body = "x".repeat(5 * 1024 * 1024);
            assert_eq!(callback(&street, &incident, None, &body), (413, None));
        }
        other => panic!("{other} is played by nobody"),
    }
}

pub(super) fn a_callback_is_heard_once(case: &Case) {
    assert!(case.said().contains("delivered again 1 h later"), "{}", case.said());
    let (street, incident) = Street::with_pagerduty();
    let body = acknowledged(&incident, 1, &today(&street));
    let signed = format!("v1={}", signature(NEW, &body));
    let answered = (202, Some("Bo (PagerDuty)".to_owned()));
    assert_eq!(callback(&street, &incident, Some(&signed), &body), answered);
    let house = street.house.as_ref().expect("a house");
    let times = || street.runtime.block_on(house.acknowledged(&incident));
    assert_eq!(times(), 1);
    assert_eq!(callback(&street, &incident, Some(&signed), &body), answered);
    assert_eq!(times(), 1, "it was heard before");
    let (other, second) = Street::with_pagerduty();
    let body = acknowledged(&second, 2, "2020-01-01T00:00:00Z");
    let signed = format!("v1={}", signature(NEW, &body));
    assert_eq!(callback(&other, &second, Some(&signed), &body), (202, None), "older than PagerDuty tries for");
}
