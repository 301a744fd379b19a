//! The outage server as others meet it: every wire, every failure, its control API and its proxy, over real loopback.

use std::io::BufRead;
use std::process::{Command, Stdio};

use backstop::config::{ProviderConfig, Wire};
use backstop::llm::{Message, Progress, Request};
use backstop::sim::outage::{self, Options};
use backstop::sim::script::Rule;
use backstop::sim::spec::rule_of;
use backstop::sim::{Answer, Behaviour, OutageServer, Script, When};
use serde_json::{Value, json};

use crate::provider_stubs::{PATIENT, WIRES, build, config, request};
use crate::provider_tools::{offering, result};
use crate::support::{Stub, refused_url};

fn client() -> reqwest::Client {
    // A second installation is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// Asks OpenAI's chat wire once.
async fn chat(url: &str, stream: bool) -> reqwest::Response {
    let body = json!({"model": "m-1", "stream": stream, "messages": [{"role": "user", "content": "Hello."}]});
    let post = client().post(format!("{url}/v1/chat/completions?trace=1")).bearer_auth("sk-very-secret");
    let post = post.header("content-type", "application/json").header("x-mine", "1").header("connection", "x-hop");
    post.header("x-hop", "1").body(body.to_string()).send().await.expect("a response")
}

async fn open(script: Script, options: Options) -> OutageServer {
    OutageServer::open(script, options).await.expect("a port")
}

/// Says this to the control API: the status, and what it answers.
async fn order(server: &OutageServer, order: &str) -> (u16, Value) {
    let sent = client().post(format!("{}/_outage", server.url())).body(order.to_owned()).send().await;
    let response = sent.expect("a response");
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.expect("a body")).expect("JSON"))
}

async fn look(server: &OutageServer, path: &str) -> Value {
    let text = client().get(format!("{}{path}", server.url())).send().await.expect("a response").text().await;
    serde_json::from_str(&text.expect("a body")).expect("JSON")
}

#[tokio::test]
async fn our_own_providers_understand_the_outage_server_on_every_wire() {
    let script = Script::new(1)
        .rule("look", When::any().prompt_has("Look.").turns(0), Behaviour::Loop)
        .rule("down", When::any().prompt_has("Fail."), Behaviour::ErrorMidStream)
        .rule("cut", When::any().prompt_has("Stop."), Behaviour::Truncated);
    let server = OutageServer::start(script).await.expect("a port");
    for wire in WIRES {
        let config = ProviderConfig { timeouts: PATIENT, ..config(wire, &server.base_url(wire)) };
        let provider = build("stub", &config).expect("a sound configuration");
        let ask = async |messages: Vec<Message>| provider.ask(&offering(messages), &Progress::default()).await;
        let reply = ask(vec![Message::user("Look.")]).await.expect("a call");
        assert_eq!(reply.calls.len(), 1, "{wire:?}");
        let told = result(&reply.calls[0].id, &reply.calls[0].name, "fn main() {}", false);
        let said = Message::Assistant { text: reply.text, calls: reply.calls, opaque: reply.opaque };
        let messages = vec![Message::user("Look."), said, Message::Results { results: vec![told] }];
        let reply = ask(messages).await.expect("an answer");
        assert!(reply.text.contains("summary") && reply.usage.input > 0 && reply.usage.output > 0, "{wire:?}");
        let bare = |words: &str| Request { messages: vec![Message::user(words)], ..request() };
        for words in ["Fail.", "Stop."] {
            let failure = provider.ask(&bare(words), &Progress::default()).await.expect_err("a failure");
            assert_eq!(failure.status, Some(200), "{wire:?} {words}");
        }
    }
}

#[tokio::test]
async fn rules_come_and_go_while_it_runs() {
    let server = open(Script::new(7), Options::default()).await;
    let status = async || chat(&server.url(), false).await.status().as_u16();
    assert_eq!(status().await, 200);
    let (code, shown) = order(&server, r#"{"add": {"fault": "overloaded", "wire": "openai"}}"#).await;
    assert_eq!(
        (code, &shown["rules"]),
        (200, &json!([{"name": "overloaded", "fault": "overloaded", "wire": "openai"}]))
    );
    assert_eq!(status().await, 503);
    order(&server, r#"{"add": [{"fault": "hang", "switch": "x"}, {"fault": "too-long"}]}"#).await;
    assert_eq!(status().await, 400, "what is added later is tried first, a list in its order");
    order(&server, r#"{"remove": "too-long"}"#).await;
    assert_eq!(status().await, 503);
    let (_, shown) =
        order(&server, r#"{"clear": true, "add": {"fault": "html", "switch": "night"}, "switch": {"night": true}}"#)
            .await;
    assert_eq!((&shown["rules"][0]["name"], &shown["switches"]), (&json!("html"), &json!(["night"])));
    assert_eq!(chat(&server.url(), false).await.headers()["content-type"], "text/html");
    server.add(Rule { name: "mine".into(), when: When::any(), then: Behaviour::Forbidden });
    assert_eq!(status().await, 403);
    assert!(server.remove("mine") && !server.remove("mine"));

    let log = look(&server, "/_outage/log").await;
    let statuses: Vec<u64> =
        log["requests"].as_array().expect("a list").iter().filter_map(|one| one["status"].as_u64()).collect();
    assert_eq!(statuses, [200, 503, 400, 503, 200, 403], "newest last");
    assert_eq!(log["requests"][1]["fault"], "overloaded");
    assert_eq!(log["counters"]["by_status"], json!({"200": 2, "400": 1, "403": 1, "503": 2}));
    assert_eq!(log["counters"]["by_rule"]["overloaded"], 2);
    assert!(!log.to_string().contains("sk-very-secret"));
}

#[tokio::test]
async fn orders_that_cannot_be_are_refused_by_key_and_change_nothing() {
    let server = open(Script::new(7), Options::default()).await;
    for (said, key, message) in [
        ("{", "body", "is not JSON"),
        ("[]", "body", "must be an object"),
        ("{}", "body", "says nothing"),
        (r#"{"ad": {}}"#, "ad", "did you mean `add`?"),
        (r#"{"add": {"fault": "hang", "shre": 1}}"#, "shre", "did you mean `share`?"),
        (r#"{"add": {"wire": "openai"}}"#, "fault", "is missing"),
        (r#"{"add": [{"fault": "hang"}, {"fault": "hangs"}]}"#, "fault", "did you mean `hang`?"),
        (r#"{"add": {"fault": "hang"}, "clear": "yes"}"#, "clear", "true or false"),
        (r#"{"remove": "hang"}"#, "remove", "unknown"),
        (r#"{"switch": {"night": 1}}"#, "switch", "must name switches"),
    ] {
        let (status, answer) = order(&server, said).await;
        assert_eq!((status, &answer["error"]["key"]), (400, &json!(key)), "{said}: {answer}");
        assert!(answer["error"]["message"].as_str().expect("words").contains(message), "{said}: {answer}");
    }
    assert_eq!(look(&server, "/_outage").await["rules"], json!([]));
}

#[tokio::test]
async fn no_web_page_can_drive_it_and_only_a_post_changes_it() {
    let server = open(Script::new(7), Options::default()).await;
    let url = format!("{}/_outage", server.url());
    let rule = r#"{"add": {"fault": "hang"}}"#;
    for (header, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("host", "evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        for request in [client().post(&url), client().get(&url), client().get(format!("{url}/log"))] {
            let response = request.header(header, value).body(rule).send().await.expect("a response");
            assert_eq!(response.status().as_u16(), 403, "{header}: {value}");
        }
    }
    for request in [client().put(&url), client().delete(&url), client().post(format!("{url}/log"))] {
        assert_eq!(request.body(rule).send().await.expect("a response").status().as_u16(), 405);
    }
    assert_eq!(client().get(format!("{url}/lgo")).send().await.expect("a response").status().as_u16(), 404);
    assert_eq!(look(&server, "/_outage").await["rules"], json!([]));
    let own = client().post(&url).header("origin", server.url()).body(rule).send().await.expect("a response");
    assert_eq!(own.status().as_u16(), 200);
}

#[tokio::test]
async fn the_latest_requests_are_remembered_and_all_are_counted() {
    let server = open(Script::new(7), Options { remembered: 2, ..Options::default() }).await;
    for _ in 0..5 {
        chat(&server.url(), false).await;
    }
    let numbers: Vec<u64> = server.requests().iter().map(|one| one.number).collect();
    assert_eq!((numbers, server.counters().requests), (vec![4, 5], 5));
}

#[tokio::test]
async fn a_request_of_more_bytes_than_are_read_is_refused_in_the_vendors_shape_and_counted() {
    let server = open(Script::new(7), Options::default()).await;
    let body = vec![b' '; 33 * 1024 * 1024];
    for (wire, path, status, pointer, kind) in [
        (Wire::Anthropic, "/v1/messages", 413, "/error/type", "request_too_large"),
        (Wire::OpenAi, "/v1/chat/completions", 413, "/error/type", "invalid_request_error"),
        (Wire::Gemini, "/v1beta/models/gemini-3.8-flash:generateContent", 400, "/error/status", "INVALID_ARGUMENT"),
        (Wire::Ollama, "/api/chat", 413, "/error", "http: request body too large"),
    ] {
        let response = client().post(format!("{}{path}", server.url())).body(body.clone()).send().await;
        let response = response.expect("a response");
        assert_eq!(response.status().as_u16(), status, "{wire:?}");
        let told: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
        assert_eq!(told.pointer(pointer).and_then(Value::as_str), Some(kind), "{wire:?}: {told}");
    }
    assert_eq!(server.counters().requests, 4);
}

#[tokio::test]
async fn at_another_speed_hints_are_that_much_shorter() {
    let limited = rule_of("rate-limited,hint=millis,retry-after=60s").expect("a rule");
    let server = open(Script::new(7), Options { speed: 30.0, ..Options::default() }).await;
    server.add(limited);
    assert_eq!(chat(&server.url(), false).await.headers()["retry-after-ms"], "2000");
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let refused = OutageServer::open(Script::new(7), Options { speed, ..Options::default() }).await;
        assert!(matches!(refused, Err(outage::Error::Speed(_))), "{speed}");
    }
}

#[tokio::test]
async fn models_are_listed_as_each_vendor_lists_them() {
    let server = open(Script::new(7), Options::default()).await;
    for (path, version, pointer) in [
        ("/v1/models", true, "/data/0/display_name"),
        ("/v1/models", false, "/data/0/owned_by"),
        ("/v1/models/gpt-5.4", false, "/owned_by"),
        ("/v1/models/none", false, "/error/code"),
        ("/v1beta/models", false, "/models/0/supportedGenerationMethods/0"),
        ("/v1beta/models/gemini-3.8-flash", false, "/name"),
        ("/api/tags", false, "/models/0/details/family"),
    ] {
        let mut request = client().get(format!("{}{path}", server.url()));
        if version {
            request = request.header("anthropic-version", "2023-06-01");
        }
        let text = request.send().await.expect("a response").text().await.expect("a body");
        let body: Value = serde_json::from_str(&text).expect("JSON");
        assert!(body.pointer(pointer).is_some_and(Value::is_string), "{path}: {body}");
    }
}

// The proxy.

#[tokio::test]
async fn what_no_rule_is_for_goes_through_as_it_is() {
    let stub = Stub::answering(418, &[("content-type", "text/x-odd"), ("x-theirs", "1")], "odd \u{fffd} body").await;
    let options = Options { upstream: Some(format!("{}/base", stub.url())), ..Options::default() };
    let server = open(Script::new(7), options).await;
    let response = chat(&server.url(), false).await;
    assert_eq!(response.status().as_u16(), 418);
    assert_eq!(
        (&response.headers()["content-type"], &response.headers()["x-theirs"]),
        (&"text/x-odd".parse().expect("a header"), &"1".parse().expect("a header"))
    );
    assert_eq!(response.text().await.expect("a body"), "odd \u{fffd} body");
    let heard = &stub.heard()[0];
    assert!(heard.line.starts_with("POST /base/v1/chat/completions?trace=1 "), "{}", heard.line);
    assert_eq!((heard.header("authorization"), heard.header("x-mine")), (Some("Bearer sk-very-secret"), Some("1")));
    assert_eq!(heard.header("x-hop"), None, "what is about the connection stays on it");
    assert_eq!(heard.json()["messages"][0]["content"], "Hello.");
    // What is no door of ours passes too.
    let response = client().delete(format!("{}/v1/files/f-1", server.url())).send().await.expect("a response");
    assert_eq!(response.status().as_u16(), 418);
    assert!(stub.heard()[1].line.starts_with("DELETE /base/v1/files/f-1 "));
    let requests = server.requests();
    assert!(requests.iter().all(|one| one.upstream && one.status == 418 && one.rule.is_none()), "{requests:?}");
}

#[tokio::test]
async fn a_rule_answers_for_the_upstream_and_a_dead_upstream_is_a_502() {
    let real = open(Script::new(7), Options::default()).await;
    let server = open(Script::new(7), Options { upstream: Some(real.url()), ..Options::default() }).await;
    server.add(rule_of("rate-limited,calls=1,retry-after=3s").expect("a rule"));
    assert_eq!(chat(&server.url(), false).await.status().as_u16(), 429);
    assert_eq!(real.counters().requests, 0, "the upstream was not asked");
    assert_eq!(chat(&server.url(), false).await.status().as_u16(), 200);
    assert_eq!(real.counters().requests, 1);

    let dead = open(Script::new(7), Options { upstream: Some(refused_url().await), ..Options::default() }).await;
    for wire in WIRES {
        let config = ProviderConfig { timeouts: PATIENT, ..config(wire, &dead.base_url(wire)) };
        let provider = build("stub", &config).expect("a sound configuration");
        let failure = provider.ask(&request(), &Progress::default()).await.expect_err("a 502");
        assert_eq!(failure.status, Some(502), "{wire:?}");
        assert!(failure.body.contains("the upstream did not answer"), "{}", failure.body);
    }
}

const ENDS: [&str; 5] = ["message_stop", "[DONE]", "response.completed", "finishReason", "\"done\":true"];

#[tokio::test]
async fn real_streams_break_after_their_first_words_and_never_end_well() {
    let words = "the quick brown fox jumps over the lazy dog and then it does so again and again";
    let real = open(
        Script::new(7).rule("say", When::any(), Behaviour::Answer(Answer::Text(words.into()))),
        Options::default(),
    )
    .await;
    for (wire, end) in WIRES.into_iter().zip(ENDS) {
        for (fault, broken) in [
            ("truncated", false),
            ("reset", true),
            ("error-mid-stream", false),
            ("malformed", false),
            ("slow,pause=1ms", false),
            ("stall", true),
        ] {
            let server = open(Script::new(7), Options { upstream: Some(real.url()), ..Options::default() }).await;
            server.add(rule_of(fault).expect("a rule"));
            let mut response = streaming(&server, wire).await;
            assert_eq!(response.status().as_u16(), 200);
            let mut seen = String::new();
            let ended = loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => seen.push_str(&String::from_utf8_lossy(&chunk)),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
                // A stall has no end but ours.
                if fault == "stall" && seen.contains("the quick") {
                    server.remove("stall");
                    break false;
                }
            };
            assert_eq!(ended, !broken, "{wire:?} {fault}: {seen}");
            assert!(seen.contains("the quick"), "{wire:?} {fault} said no word: {seen}");
            let whole = fault.starts_with("slow") || fault == "malformed";
            assert_eq!(seen.contains(end), whole, "{wire:?} {fault}: {seen}");
            let error = ["event: error", "\"error\":{", "{\"error\":\""].iter().any(|error| seen.contains(error));
            assert_eq!(error, fault == "error-mid-stream", "{wire:?} {fault}: {seen}");
            assert_eq!(server.requests()[0].status, 200);
        }
    }
}

/// A stream of this wire, as its vendor's client would ask for it.
async fn streaming(server: &OutageServer, wire: Wire) -> reqwest::Response {
    let user = json!([{"role": "user", "content": "Hello."}]);
    let (path, body) = match wire {
        Wire::Anthropic => ("/v1/messages", json!({"model": "m", "max_tokens": 9, "stream": true, "messages": user})),
        Wire::OpenAi => ("/v1/chat/completions", json!({"model": "m", "stream": true, "messages": user})),
        Wire::Responses => ("/v1/responses", json!({"model": "m", "stream": true, "input": "Hello."})),
        Wire::Gemini => (
            "/v1beta/models/m:streamGenerateContent?alt=sse&key=k",
            json!({"contents": [{"role": "user", "parts": [{"text": "Hello."}]}]}),
        ),
        Wire::Ollama => ("/api/chat", json!({"model": "m", "messages": user})),
    };
    let post = client().post(format!("{}{path}", server.url())).bearer_auth("k");
    post.header("anthropic-version", "2026-10-21").body(body.to_string()).send().await.expect("a response")
}

// The command.

#[cfg(unix)]
#[test]
fn the_command_says_where_it_is_and_ends_well_when_told_to() {
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .args([
                "outage",
                "serve",
                "--port",
                "0",
                "--fault",
                "hang,calls=1",
                "--fault",
                "hang,calls=2",
                "-o",
                "jsonl",
            ])
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let url = said["url"].as_str().expect("a URL");
        assert_eq!(said["wires"]["openai-responses"], format!("{url}/v1"));
        assert_eq!(said["control"], format!("{url}/_outage"));
        let pid = i32::try_from(child.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("told");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
