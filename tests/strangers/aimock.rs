//! npm's aimock answers on every wire we speak from one set of fixtures, and breaks on cue: each adapter has to make of it
//! what it is.
//!
//! What it says is in `aimock.json`, by the name of the model that is asked. It answers only requests that it reads as the
//! fixture wants them: the system prompt, the turns, the tools and their results, each where the wire has it.
//!
//! Where aimock 1.43.0 is not what the vendors are, nothing is asserted that would bind us to it:
//! - It reads the schema of an answer on the OpenAI chat wire only (`response_format`).
//! - Of Ollama it knows neither the counts of tokens nor a reason to stop but `stop` (`OLLAMA_DONE` in its ollama.js), so
//!   that a cut answer is not to be known for one there.
//! - A response that is cut ends in `response.completed` with the status `incomplete` and no `incomplete_details`
//!   (`responsesStatus` in its responses.js); OpenAI's ends in `response.incomplete` and says why. A filtered one has
//!   the status `failed`. We take neither for an answer; why it was cut, nobody could say.
//! - On Gemini's wire the word beside a status is OpenAI's, and a turn with calls ends in `FUNCTION_CALL`; Google's does in
//!   `STOP`.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::cause::{Cause, Fault, LlmFailure, Phase, Usage};
use backstop::config::{ProviderConfig, Setting, Timeouts, Wire};
use backstop::failure::{Failure, Kind};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::llm::{Message, Progress, Reply, Request, ToolResult, ToolSpec};
use backstop::task::Effect;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::process::Command;

use super::Stranger;
use crate::provider_stubs::{NOW, PATIENT, SECRET, SHORT, build, config, stops};
use crate::support::peer;

/// Every wire it offers that we speak, and where: five, and four that others speak in dialects of them.
const WIRES: [(&str, Wire, &str); 9] = [
    ("anthropic", Wire::Anthropic, ""),
    ("openai", Wire::OpenAi, "/v1"),
    ("responses", Wire::Responses, "/v1"),
    ("gemini", Wire::Gemini, ""),
    ("ollama", Wire::Ollama, ""),
    ("azure-openai", Wire::OpenAi, "/openai/deployments/d?api-version=2024-10-21"),
    ("openrouter", Wire::OpenAi, "/api/v1"),
    ("byteplus", Wire::OpenAi, "/api/v3"),
    ("vertex", Wire::Gemini, "/v1/projects/p/locations/l/publishers/google"),
];

/// How to start aimock, if it is there.
fn command() -> Option<Command> {
    let path = "peers/node_modules/@copilotkit/aimock/dist/cli.js";
    let aimock = peer("BACKSTOP_TEST_AIMOCK", path, "aimock, which answers as vendors do,", "npm")?;
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/strangers/aimock.json");
    let mut command = Stranger::command("node");
    command.arg(aimock).args([
        "--port",
        "0",
        "--strict",
        "--validate-on-load",
        "--journal-max",
        "0",
        "--fixtures",
        fixtures,
    ]);
    Some(command)
}

/// One of its wires, and a provider that speaks it.
struct Line {
    name: &'static str,
    wire: Wire,
    config: ProviderConfig,
}

impl Line {
    /// All of them.
    fn all(aimock: &Stranger) -> Vec<Self> {
        let line = |(name, wire, path)| Self { name, wire, config: config(wire, &format!("{}{path}", aimock.url)) };
        WIRES.into_iter().map(line).collect()
    }

    /// Asks once.
    async fn ask(&self, request: &Request) -> Result<Reply, Box<LlmFailure>> {
        self.ask_as(&self.config, request).await
    }

    async fn ask_as(&self, config: &ProviderConfig, request: &Request) -> Result<Reply, Box<LlmFailure>> {
        let progress = Progress::default();
        let outcome = build(self.name, config).expect("a sound configuration").ask(request, &progress).await;
        if let Ok(reply) = &outcome {
            assert!(progress.bytes() >= reply.text.len() as u64, "{}: told of its progress", self.name);
        }
        outcome
    }

    /// Asks once and expects an answer.
    async fn answer(&self, request: &Request) -> Reply {
        self.ask(request).await.unwrap_or_else(|failure| panic!("{} {}: {failure:#?}", self.name, request.model))
    }

    /// Asks once, expects a failure, and judges it.
    async fn failure(&self, config: &ProviderConfig, model: &str) -> (LlmFailure, Failure) {
        let failure = match self.ask_as(config, &request(model)).await {
            Ok(reply) => panic!("{} {model}: an answer where none was expected: {reply:?}", self.name),
            Err(failure) => failure,
        };
        assert!(failure.sent, "{}: {failure:?}", self.name);
        match classify(&Cause::Llm(failure.clone()), &Scene::new(Effect::ReadOnly, NOW)) {
            Judgement::Failed(judged) => (*failure, judged),
            other @ (Judgement::Cancelled | Judgement::Continue) => panic!("{} {model}: {other:?}", self.name),
        }
    }
}

fn request(model: &str) -> Request {
    Request {
        model: model.to_owned(),
        system: "Be brief.".to_owned(),
        messages: vec![Message::user("Hello")],
        tools: Vec::new(),
        max_output_tokens: 64,
        schema: None,
    }
}

/// The same with a tool on offer.
fn offering(model: &str) -> Request {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let description = "Today's weather of a city".to_owned();
    Request { tools: vec![ToolSpec { name: "weather".to_owned(), description, schema }], ..request(model) }
}

/// The conversation goes on: what the model said is given back as a team gives it, with these results of its calls.
fn with_results(mut request: Request, reply: Reply, results: &[&str]) -> Request {
    let mut calls = reply.calls;
    assert_eq!(calls.len(), results.len());
    for (n, call) in calls.iter_mut().enumerate() {
        // Gemini's and Ollama's calls have no names.
        if call.id.is_empty() {
            call.id = format!("call-{n}");
        }
    }
    let result = |(call, text): (&backstop::llm::ToolCall, &&str)| ToolResult {
        id: call.id.clone(),
        name: call.name.clone(),
        text: (*text).to_owned(),
        failed: false,
    };
    let results = calls.iter().zip(results).map(result).collect();
    request.messages.push(Message::Assistant { text: reply.text, calls, opaque: reply.opaque });
    request.messages.push(Message::Results { results });
    request
}

fn called(reply: &Reply) -> Vec<(&str, &Value)> {
    reply.calls.iter().map(|call| (call.name.as_str(), &call.arguments)).collect()
}

/// Everything it can answer, on one wire. Returns how often it was asked.
async fn answers(line: &Line) -> usize {
    let name = line.name;
    let reply = line.answer(&request("answers")).await;
    assert_eq!(
        reply.text, "Grüß dich, Welt! 你好 🙂\nThat is all there is to say, and it is said in pieces.",
        "{name}"
    );
    let counts = match line.wire {
        Wire::Ollama => Usage::default(),
        Wire::Anthropic | Wire::OpenAi | Wire::Responses | Wire::Gemini => {
            Usage { input: 12, output: 30, ..Usage::default() }
        }
    };
    let found = (reply.model.as_str(), reply.stop.as_str(), reply.usage);
    assert_eq!(found, ("answers", stops(line.wire).0, counts), "{name}");
    assert!(reply.calls.is_empty() && reply.request_id.is_some_and(|id| !id.is_empty()), "{name}");

    // It hears the system prompt, and that the last of the user's words come after a turn of its own.
    let said = vec![Message::user("Hello"), Message::assistant("Yes?"), Message::user("Count.")];
    let reply = line.answer(&Request { messages: said, ..request("hears") }).await;
    assert_eq!(reply.text, "One, two.", "{name}");

    // Two calls at once, arguments with all that has to be escaped, and an answer to what came of them.
    let asks = offering("calls");
    let reply = line.answer(&asks).await;
    let arguments = [json!({"city": "Paris", "note": "\"é\"\n"}), json!({"city": "Rome"})];
    assert_eq!(called(&reply), [("weather", &arguments[0]), ("weather", &arguments[1])], "{name}");
    assert!(reply.text.is_empty() && reply.calls.iter().all(|call| call.malformed.is_none()), "{name}: {reply:?}");
    let reply = line.answer(&with_results(asks, reply, &["It rains.", "It hails."])).await;
    assert_eq!((reply.text.as_str(), called(&reply)), ("It rains in Paris and hails in Rome.", vec![]), "{name}");

    // Words and a call, in either order.
    let asks = offering("both");
    let reply = line.answer(&asks).await;
    assert_eq!(
        (reply.text.as_str(), called(&reply)),
        ("I look.", vec![("weather", &json!({"city": "Paris"}))]),
        "{name}"
    );
    let reply = line.answer(&with_results(asks, reply, &["It rains."])).await;
    assert_eq!((reply.text.as_str(), called(&reply)), ("It rains in Paris.", vec![]), "{name}");
    let reply = line.answer(&offering("tool-first")).await;
    assert_eq!(
        (reply.text.as_str(), called(&reply)),
        ("I look.", vec![("weather", &json!({"city": "Paris"}))]),
        "{name}"
    );
    let reply = line.answer(&offering("no-arguments")).await;
    assert_eq!(called(&reply), [("weather", &json!({}))], "{name}");

    // Thoughts are no part of the answer; given back with their turn they are no trouble.
    let mut asks = request("thinks");
    let reply = line.answer(&asks).await;
    assert_eq!(reply.text, "Forty-two.", "{name}");
    asks.messages.push(Message::Assistant { text: reply.text, calls: Vec::new(), opaque: reply.opaque });
    asks.messages.push(Message::user("Again?"));
    assert_eq!(line.answer(&asks).await.text, "As I said: forty-two.", "{name}");
    let asked = 10;
    if line.wire != Wire::OpenAi {
        return asked;
    }
    let schema = json!({"type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"]});
    let reply = line.answer(&Request { schema: Some(schema), ..request("schema") }).await;
    assert_eq!(reply.text, r#"{"verdict":"good"}"#, "{name}");
    asked + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn aimock_is_understood_on_every_wire_it_offers_that_we_speak() {
    let Some(command) = command() else { return };
    let aimock = Stranger::start(command).await;
    let lines = Line::all(&aimock);
    let asked: usize = futures_util::future::join_all(lines.iter().map(answers)).await.into_iter().sum();
    // It heard one request for each call, and refused none.
    let journal = aimock.control(Method::GET, "/__aimock/journal", None).await;
    let statuses: Vec<&Value> =
        journal.as_array().expect("a list").iter().map(|entry| &entry["response"]["status"]).collect();
    assert_eq!(statuses, vec![&json!(200); asked]);
}

/// Everything that it can fail at, on one wire.
async fn failures(line: &Line) {
    let (name, wire) = (line.name, line.wire);
    // OpenRouter has only numbers for codes, and no word that would be believed before the status.
    let of_503 = if name == "openrouter" { Kind::Overloaded } else { Kind::ServerError };
    for (model, kind, wait) in [
        ("400", Kind::InvalidRequest, None),
        ("401", Kind::Auth, None),
        ("403", Kind::Permission, None),
        ("404", Kind::ModelUnavailable, None),
        ("413", Kind::RequestTooLarge, None),
        ("429", Kind::RateLimited, Some(7)),
        ("429-quota", Kind::QuotaExhausted, None),
        ("500", Kind::ServerError, None),
        ("502", Kind::ServerError, None),
        ("503", of_503, None),
        ("504", Kind::Timeout, None),
        ("529", Kind::Overloaded, None),
    ] {
        let (failure, judged) = line.failure(&line.config, model).await;
        let status = model[..3].parse().expect("a status");
        assert_eq!(
            (failure.fault, failure.phase, failure.status),
            (Fault::Status, Phase::Headers, Some(status)),
            "{name}"
        );
        assert_eq!(
            (judged.kind, judged.retry_after),
            (kind, wait.map(Duration::from_secs)),
            "{name} {model}: {failure:?}"
        );
    }

    // Answers that are none.
    let (cut, filtered) = match wire {
        Wire::Responses => (Kind::BadOutput, Kind::ServerError),
        Wire::Anthropic | Wire::OpenAi | Wire::Gemini | Wire::Ollama => (Kind::OutputCut, Kind::Refused),
    };
    let told = wire != Wire::Ollama;
    for (model, kind) in [("empty", Kind::EmptyOutput), ("cut", cut), ("filtered", filtered)] {
        if model == "empty" || told {
            let (failure, judged) = line.failure(&line.config, model).await;
            let found = (failure.fault, failure.phase, failure.status, judged.kind);
            assert_eq!(found, (Fault::Stop, Phase::Semantic, Some(200), kind), "{name} {model}: {failure:?}");
        }
    }

    // What breaks on the way: before the headers, or in the middle of what is then no answer.
    for (model, phase) in [("breaks-off-at-once", Phase::Headers), ("breaks-off", Phase::Stream)] {
        let (failure, judged) = line.failure(&line.config, model).await;
        assert!(matches!(failure.fault, Fault::Eof | Fault::Reset), "{name} {model}: {failure:?}");
        assert_eq!((failure.phase, judged.kind), (phase, Kind::Network), "{name} {model}: {failure:?}");
        assert_eq!(failure.partial.starts_with("Once upon"), phase == Phase::Stream, "{name} {model}: {failure:?}");
    }
    for (model, timeouts, phase) in [
        ("stalls", Timeouts { first_byte: SHORT, ..PATIENT }, Phase::Headers),
        ("stalls-later", Timeouts { first_content: SHORT, idle: SHORT, ..PATIENT }, Phase::Stream),
    ] {
        let (failure, judged) = line.failure(&ProviderConfig { timeouts, ..line.config.clone() }, model).await;
        assert_eq!(
            (failure.fault, failure.phase, judged.kind),
            (Fault::Timeout, phase, Kind::Timeout),
            "{name} {model}"
        );
    }

    // Its chaos, certain by a header.
    for (chaos, share, faults, status, kind) in [
        ("drop", "1", &[Fault::Status][..], Some(500), Kind::ServerError),
        ("malformed", "1", &[Fault::Malformed], Some(200), Kind::MalformedResponse),
        ("ratelimit", "1", &[Fault::Status], Some(429), Kind::RateLimited),
        ("disconnect", "1", &[Fault::Eof, Fault::Reset], None, Kind::Network),
        ("latency", "30000", &[Fault::Timeout], None, Kind::Timeout),
    ] {
        let headers = BTreeMap::from([(format!("x-aimock-chaos-{chaos}"), Setting::Plain(share.to_owned()))]);
        let first_byte = if chaos == "latency" { SHORT } else { PATIENT.first_byte };
        let timeouts = Timeouts { first_byte, ..PATIENT };
        let (failure, judged) =
            line.failure(&ProviderConfig { headers, timeouts, ..line.config.clone() }, "answers").await;
        assert!(faults.contains(&failure.fault), "{name} {chaos}: {failure:?}");
        assert_eq!((failure.status, judged.kind), (status, kind), "{name} {chaos}: {failure:?}");
        assert_eq!(judged.retry_after, (chaos == "ratelimit").then_some(Duration::from_secs(1)), "{name} {chaos}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aimock_breaks_is_known_for_what_it_is_on_every_wire() {
    let Some(command) = command() else { return };
    let aimock = Stranger::start(command).await;
    let lines = Line::all(&aimock);
    futures_util::future::join_all(lines.iter().map(failures)).await;
}

/// Each wire has a place of its own for the key; wherever aimock finds one, it has to be right.
#[tokio::test(flavor = "multi_thread")]
async fn aimock_finds_the_key_where_each_wire_has_it() {
    let Some(mut command) = command() else { return };
    command.env("AIMOCK_API_KEYS", SECRET);
    let aimock = Stranger::start(command).await;
    for line in Line::all(&aimock) {
        line.answer(&request("answers")).await;
        for key in [Some("sk-another"), None] {
            let config = ProviderConfig { api_key: key.map(SecretString::from), ..line.config.clone() };
            let (failure, judged) = line.failure(&config, "answers").await;
            assert_eq!((failure.status, judged.kind), (Some(401), Kind::Auth), "{}: {failure:?}", line.name);
        }
    }
}
