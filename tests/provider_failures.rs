//! The table of failures seen in the field, served over loopback: each arrives with its facts.

use std::collections::{BTreeMap, BTreeSet};

use backstop::cause::{Cause, Fault, LlmFailure, Phase};
use backstop::config::{ProviderConfig, Timeouts, Wire};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::llm::Progress;
use backstop::task::Effect;
use backstop::time::Timestamp;
use serde_json::{Value, json};

use crate::provider_stubs::{JSON, PATIENT, SHORT, ask, clean, config, event};
use crate::support::{self, Play, Stub, chunk, chunked, response};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "version")]
    _version: u64,
    now: Timestamp,
    #[serde(rename = "hint_cap_ms")]
    _hint_cap_ms: u64,
    #[serde(rename = "notes")]
    _notes: String,
    #[serde(rename = "causes")]
    _causes: Value,
    rows: Vec<Row>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    provider: String,
    api: String,
    phase: String,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    stream: Option<Vec<(Option<String>, String)>>,
    stream_ends: Option<String>,
    transport: Option<Transport>,
    #[serde(default)]
    request: Value,
    expect: Value,
    #[serde(rename = "why", default)]
    _why: Value,
    #[serde(rename = "source", default)]
    _source: Value,
    #[serde(rename = "confidence", default)]
    _confidence: Value,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Transport {
    kind: String,
    endpoint: String,
    #[serde(default, rename = "request_sent")]
    _request_sent: bool,
    status: Option<u16>,
}

impl Row {
    /// The wire it comes over; `None` for what these adapters do not speak.
    fn wire(&self) -> Option<Wire> {
        match (self.provider.as_str(), self.api.as_str()) {
            ("anthropic", "messages") => Some(Wire::Anthropic),
            ("gemini", "generateContent") => Some(Wire::Gemini),
            ("ollama", "chat") => Some(Wire::Ollama),
            (_, "chat") | ("any", "any") => Some(Wire::OpenAi),
            ("openai", "responses") => Some(Wire::Responses),
            ("bedrock", "converse" | "converse_stream") | ("gemini", "interactions") | ("agent", "loop") => None,
            unknown => panic!("{}: unknown provider and API {unknown:?}", self.id),
        }
    }

    fn self_hosted(&self) -> bool {
        let endpoint = self
            .transport
            .as_ref()
            .map(|transport| transport.endpoint.as_str())
            .or_else(|| self.request["endpoint"].as_str());
        match endpoint {
            Some("self_hosted") => true,
            Some("remote") | None => false,
            Some(unknown) => panic!("{}: unknown endpoint {unknown}", self.id),
        }
    }

    /// What the stub plays for it, and the timers under which it shows.
    fn play(&self, wire: Wire) -> (Vec<Play>, Timeouts) {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let status = self.status.unwrap_or(200);
        let Some(events) = &self.stream else {
            let body = self.body.as_deref().unwrap_or_else(|| panic!("{}: neither body nor stream", self.id));
            return (vec![Play::Send(response(status, &headers, body)), Play::Close], PATIENT);
        };
        let mut plays = vec![Play::Send(chunked(status, &headers))];
        plays.extend(events.iter().map(|(name, data)| Play::Send(chunk(&event(wire, name.as_deref(), data)))));
        match self.stream_ends.as_deref() {
            Some("clean") => plays.extend(clean()),
            Some("abort") => plays.push(Play::Reset),
            Some("hang") => {
                plays.push(Play::Hang);
                return (plays, Timeouts { first_content: SHORT, idle: SHORT, ..PATIENT });
            }
            unknown => panic!("{}: unknown end of stream {unknown:?}", self.id),
        }
        (plays, PATIENT)
    }

    /// Where the stub for a broken transport is, what it plays, and the timers under which it shows.
    async fn transport(&self, transport: &Transport) -> (Option<Stub>, String, Timeouts) {
        let stub = |plays| async { Some(Stub::playing(plays).await) };
        let json_head = chunked(transport.status.unwrap_or(200), JSON);
        let (stub, timeouts) = match (transport.kind.as_str(), self.phase.as_str()) {
            ("dns", _) => return (None, "http://backstop-nowhere.invalid".to_owned(), PATIENT),
            ("refused", _) => return (None, support::refused_url().await, PATIENT),
            ("certificate", _) => return (None, support::untrusted_tls(), PATIENT),
            ("timeout", "connect" | "tls") => (stub(vec![Play::Hang]).await, Timeouts { connect: SHORT, ..PATIENT }),
            ("timeout", "headers") => (stub(vec![Play::Hang]).await, Timeouts { first_byte: SHORT, ..PATIENT }),
            ("timeout", "body") => {
                let plays = vec![Play::Send(json_head), Play::Send(chunk("{\"id\":")), Play::Hang];
                (stub(plays).await, Timeouts { idle: SHORT, ..PATIENT })
            }
            ("eof", "tls" | "headers") => (stub(vec![Play::Close]).await, PATIENT),
            ("reset", "tls" | "headers") => (stub(vec![Play::Reset]).await, PATIENT),
            ("eof", "body") => {
                (stub(vec![Play::Send(json_head), Play::Send(chunk("{\"id\":")), Play::Close]).await, PATIENT)
            }
            ("reset", "body") => {
                (stub(vec![Play::Send(json_head), Play::Send(chunk("{\"id\":")), Play::Reset]).await, PATIENT)
            }
            ("proxy_auth", _) => (Some(Stub::answering(407, &[], "").await), PATIENT),
            unknown => panic!("{}: unknown transport {unknown:?}", self.id),
        };
        let up = stub.as_ref().expect("a stub");
        let encrypted = matches!(self.phase.as_str(), "connect" | "tls") && transport.kind != "proxy_auth";
        let url = if encrypted { up.https() } else { up.url() };
        (stub, url, timeouts)
    }

    /// The fault that shows in what is served.
    fn faults(&self) -> &'static [Fault] {
        if let Some(transport) = &self.transport {
            return match transport.kind.as_str() {
                "dns" => &[Fault::Dns],
                "refused" => &[Fault::Refused],
                "certificate" => &[Fault::Certificate],
                "timeout" => &[Fault::Timeout],
                "eof" | "reset" => &[Fault::Eof, Fault::Reset],
                "proxy_auth" => &[Fault::ProxyAuth],
                unknown => panic!("{}: unknown transport {unknown}", self.id),
            };
        }
        if self.status.is_some_and(|status| status >= 300) {
            return &[Fault::Status];
        }
        let cause = self.expect["cause"].as_str().unwrap_or_default();
        match (self.stream_ends.as_deref(), self.phase.as_str()) {
            (Some("hang"), _) => &[Fault::Timeout],
            (Some("abort"), _) => &[Fault::Eof, Fault::Reset],
            (Some(_), _) if cause == "truncated_stream" => &[Fault::Truncated],
            (Some(_), _) if cause == "malformed_response" => &[Fault::Malformed],
            (Some(_), _) => &[Fault::ErrorEvent, Fault::Stop],
            (None, "body") => &[Fault::ErrorBody],
            (None, "decode") => &[Fault::Malformed],
            // A response that says of itself that it failed holds an error.
            (None, "semantic") if self.failed_response() => &[Fault::ErrorBody],
            (None, "semantic") => &[Fault::Stop],
            (None, unknown) => panic!("{}: unknown phase {unknown} of a success", self.id),
        }
    }

    fn failed_response(&self) -> bool {
        self.api == "responses" && self.body.as_ref().is_some_and(|body| body.contains(r#""status": "failed""#))
    }

    /// The stop reason that stands in what is served.
    fn stop(&self) -> Option<String> {
        let documents = self.body.iter().chain(self.stream.iter().flatten().map(|(_, data)| data));
        let documents: Vec<Value> = documents.filter_map(|text| serde_json::from_str(text).ok()).collect();
        let refusal = |document: &Value| document.pointer("/choices/0/message/refusal").is_some_and(Value::is_string);
        if documents.iter().any(refusal) {
            return Some("refusal".to_owned());
        }
        let places = [
            "/stop_reason",
            "/delta/stop_reason",
            "/choices/0/finish_reason",
            "/candidates/0/finishReason",
            "/promptFeedback/blockReason",
            "/incomplete_details/reason",
            "/done_reason",
        ];
        let found =
            documents.iter().flat_map(|document| places.iter().filter_map(|place| document.pointer(place)?.as_str()));
        found.last().map(str::to_owned)
    }

    fn check(&self, failure: &LlmFailure) {
        let id = &self.id;
        assert!(self.faults().contains(&failure.fault), "{id}: {failure:?}");
        if self.provider != "any" {
            assert_eq!(failure.provider, self.provider, "{id}");
            assert_eq!(failure.status, self.status, "{id}");
        }
        for (name, value) in &self.headers {
            assert_eq!(failure.header(name), Some(value.as_str()), "{id}: {name}");
        }
        let phase = failure.phase.to_string();
        // In a stream, what broke may be the transport, an event or the stop reason.
        let family = phase == self.phase
            || self.failed_response()
            || (self.phase == "stream" && matches!(failure.phase, Phase::Semantic | Phase::Decode));
        assert!(family, "{id}: {phase} instead of {}", self.phase);
        match failure.fault {
            Fault::Status | Fault::ErrorBody | Fault::Malformed => {
                assert_eq!(Some(&failure.body), self.body.as_ref(), "{id}")
            }
            Fault::ErrorEvent => {
                assert_eq!(Some(&failure.body), self.stream.iter().flatten().last().map(|(_, data)| data), "{id}")
            }
            Fault::Stop => assert_eq!(failure.stop, self.stop(), "{id}"),
            Fault::Dns
            | Fault::Refused
            | Fault::Timeout
            | Fault::Tls
            | Fault::Certificate
            | Fault::Reset
            | Fault::Eof
            | Fault::ProxyAuth
            | Fault::InvalidUrl
            | Fault::Truncated
            | Fault::Cancelled
            | Fault::Transport => {}
        }
        assert_eq!(failure.self_hosted, self.self_hosted(), "{id}");
    }
}

impl Row {
    /// What an adapter saw leads to the same judgement as the table's own reading of the row.
    fn check_judgement(&self, failure: LlmFailure, now: Timestamp) {
        let judged = match classify(&Cause::Llm(Box::new(failure)), &Scene::new(Effect::ReadOnly, now)) {
            Judgement::Cancelled => json!(["none", false, null, "cancelled"]),
            Judgement::Continue => json!(["none", false, null, "continue"]),
            Judgement::Failed(failure) => {
                let wait = failure.retry_after.map(|wait| u64::try_from(wait.as_millis()).expect("a wait"));
                json!([failure.class.as_str(), failure.retry, wait, failure.action.as_str()])
            }
        };
        let expect = |key: &str| self.expect[key].clone();
        let expected = json!([expect("class"), expect("retry"), expect("retry_after_ms"), expect("action")]);
        assert_eq!(judged, expected, "{}", self.id);
    }
}

#[tokio::test]
async fn every_failure_of_the_table_arrives_with_its_facts() {
    let table: Table = serde_json::from_str(include_str!("conformance/provider-failures.json")).expect("the table");
    let mut served = BTreeSet::new();
    for row in &table.rows {
        let Some(wire) = row.wire() else { continue };
        let (stub, url, timeouts) = match &row.transport {
            Some(transport) => row.transport(transport).await,
            None => {
                let (plays, timeouts) = row.play(wire);
                let stub = Stub::playing(plays).await;
                let url = stub.url();
                (Some(stub), url, timeouts)
            }
        };
        let config = ProviderConfig { timeouts, self_hosted: row.self_hosted(), ..config(wire, &url) };
        let outcome = ask(&row.provider, &config, &Progress::default()).await;
        if let Some(stub) = stub.filter(|_| url.starts_with("http://")) {
            stub.next_request().await;
            assert_eq!(stub.heard().len(), 1, "{}: one request per call", row.id);
        }
        match outcome {
            Err(failure) => {
                row.check(&failure);
                row.check_judgement(*failure, table.now);
            }
            // Whether an answer meets its schema is not the provider's to say.
            Ok(reply) => {
                assert!(row.request.get("schema").is_some() && !reply.text.is_empty(), "{}: {reply:?}", row.id)
            }
        }
        served.insert(format!("{} {}", row.provider, row.api));
    }
    assert!(served.len() >= 10, "the table covers many providers: {served:?}");
}
