//! The outage server and its inboxes over real loopback, byte by byte; then the demo: every scene, and a ledger that balances.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstop::config::Wire;
use backstop::sim::demo::{self, Options};
use backstop::sim::script::{Answer, Behaviour, Script, When};
use backstop::sim::{OutageServer, PagerDutyStub, SmtpStub};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const BOTH: [Wire; 2] = [Wire::Anthropic, Wire::OpenAi];

fn client() -> reqwest::Client {
    // A second installation is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

fn call(server: &OutageServer, wire: Wire, stream: bool, prompt: &str) -> reqwest::RequestBuilder {
    let mut body = json!({"model": "model-1", "max_tokens": 64, "stream": stream,
        "messages": [{"role": "user", "content": prompt}]});
    if wire == Wire::OpenAi && stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    let request = match wire {
        Wire::OpenAi => client().post(format!("{}/chat/completions", server.base_url(wire))).bearer_auth("sk-nothing"),
        Wire::Anthropic | Wire::Responses | Wire::Gemini | Wire::Ollama => client()
            .post(format!("{}/v1/messages", server.base_url(wire)))
            .header("x-api-key", "sk-nothing")
            .header("anthropic-version", "2023-06-01"),
    };
    request.header("content-type", "application/json").body(body.to_string())
}

async fn on_cue(behaviour: Behaviour) -> OutageServer {
    let script = Script::new(7).rule("cue", When::any(), behaviour);
    OutageServer::start(script).await.expect("a port")
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_str(&response.text().await.expect("a body")).expect("JSON")
}

/// The `data:` lines of a stream, parsed; `[DONE]` as a string.
fn data_of(stream: &str) -> Vec<Value> {
    let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
}

#[tokio::test]
async fn answers_have_every_field_the_official_clients_read() {
    let server = on_cue(Behaviour::Answer(Answer::Text("the quick brown fox jumps over".into()))).await;
    let response = call(&server, Wire::Anthropic, false, "BS-001").send().await.expect("a response");
    assert!(response.headers()["request-id"].to_str().expect("text").starts_with("req_"));
    let body = json_of(response).await;
    assert_eq!(body["type"], "message");
    assert_eq!(body["role"], "assistant");
    assert_eq!(body["model"], "model-1");
    assert_eq!(body["content"], json!([{"type": "text", "text": "the quick brown fox jumps over"}]));
    assert_eq!(body["stop_reason"], "end_turn");
    assert_eq!((&body["usage"]["input_tokens"], &body["usage"]["output_tokens"]), (&json!(2), &json!(8)));

    let response = call(&server, Wire::OpenAi, false, "BS-001").send().await.expect("a response");
    assert!(response.headers()["x-request-id"].to_str().expect("text").starts_with("req_"));
    let body = json_of(response).await;
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "model-1");
    assert!(body["created"].is_i64());
    assert_eq!(body["choices"][0]["message"]["content"], "the quick brown fox jumps over");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["total_tokens"], 10);
    server.shutdown().await;
}

#[tokio::test]
async fn streams_carry_the_same_words_usage_and_end() {
    let text = "the quick brown fox jumps over the lazy dog";
    let server = on_cue(Behaviour::Answer(Answer::Text(text.into()))).await;
    let stream = call(&server, Wire::Anthropic, true, "BS-001").send().await.expect("a response");
    assert_eq!(stream.headers()["content-type"], "text/event-stream; charset=utf-8");
    let events = data_of(&stream.text().await.expect("a stream"));
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(&kinds[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(&kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let said: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(said, text);
    assert_eq!(events[0]["message"]["stop_reason"], Value::Null);
    assert_eq!(events[events.len() - 2]["usage"]["output_tokens"], 11);

    let stream = call(&server, Wire::OpenAi, true, "BS-001").send().await.expect("a response");
    let chunks = data_of(&stream.text().await.expect("a stream"));
    let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, text);
    let [.., finish, usage, done] = chunks.as_slice() else { panic!("too short: {chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(11)));
    assert_eq!(done, "[DONE]");
    server.shutdown().await;
}

#[tokio::test]
async fn statuses_and_headers_are_the_vendors_own() {
    let wait = Behaviour::RateLimited { retry_after: Some(Duration::from_millis(41_500)) };
    for (behaviour, anthropic, openai) in [
        (Behaviour::Overloaded, 529, 503),
        (Behaviour::ServerError, 500, 500),
        (wait, 429, 429),
        (Behaviour::Unauthorized, 401, 401),
        (Behaviour::OutOfCredit, 400, 429),
        (Behaviour::NoSuchModel, 404, 404),
        (Behaviour::TooLong, 400, 400),
    ] {
        let limited = matches!(behaviour, Behaviour::RateLimited { .. });
        let server = on_cue(behaviour).await;
        for (wire, status) in BOTH.into_iter().zip([anthropic, openai]) {
            for stream in [false, true] {
                let response = call(&server, wire, stream, "x").send().await.expect("a response");
                assert_eq!(response.status().as_u16(), status);
                assert_eq!(response.headers()["content-type"], "application/json");
                let wait = response.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
                assert_eq!(wait.as_deref(), limited.then_some("42"), "whole seconds, rounded up");
                let body = json_of(response).await;
                assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
            }
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn failures_inside_a_200_look_whole_until_they_break() {
    for wire in BOTH {
        let server = on_cue(Behaviour::ErrorMidStream).await;
        let events =
            data_of(&call(&server, wire, true, "x").send().await.expect("a response").text().await.expect("whole"));
        assert!(events.len() > 1 && events.last().expect("an event")["error"]["type"].is_string());

        let server = on_cue(Behaviour::Truncated).await;
        let stream = call(&server, wire, true, "x").send().await.expect("a response");
        assert_eq!(stream.status().as_u16(), 200);
        let text = stream.text().await.expect("a clean end");
        assert!(!text.contains("message_stop") && !text.contains("[DONE]") && !text.contains("finish_reason\":\"stop"));
        let body = call(&server, wire, false, "x").send().await.expect("a response").text().await.expect("a clean end");
        assert!(serde_json::from_str::<Value>(&body).is_err(), "half a body is no JSON: {body}");

        let server = on_cue(Behaviour::Reset).await;
        for stream in [false, true] {
            let response = call(&server, wire, stream, "x").send().await.expect("headers");
            assert_eq!(response.status().as_u16(), 200);
            assert!(response.text().await.is_err(), "the connection breaks");
        }

        let server = on_cue(Behaviour::Html).await;
        let response = call(&server, wire, true, "x").send().await.expect("a response");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/html".parse().expect("a header"))
        );

        let server = on_cue(Behaviour::Refuse("I cannot help with that.".into())).await;
        let body = json_of(call(&server, wire, false, "x").send().await.expect("a response")).await;
        let refused = body["stop_reason"] == "refusal" || body["choices"][0]["message"]["refusal"].is_string();
        assert!(refused, "{body}");

        let server = on_cue(Behaviour::Cut(Answer::Text("{\"a\": ".into()))).await;
        let body = json_of(call(&server, wire, false, "x").send().await.expect("a response")).await;
        assert!(body["stop_reason"] == "max_tokens" || body["choices"][0]["finish_reason"] == "length", "{body}");
    }
}

#[tokio::test]
async fn a_stall_pings_and_a_hang_says_nothing_until_the_server_lets_go() {
    for wire in BOTH {
        let server = on_cue(Behaviour::Stall).await;
        let mut response = call(&server, wire, true, "x").send().await.expect("headers");
        let mut seen = String::new();
        while seen.matches(if wire == Wire::Anthropic { "event: ping" } else { ": keep-alive" }).count() < 2 {
            let chunk = response.chunk().await.expect("more").expect("no end");
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(!seen.contains("content_block_delta"), "pings are no content");
        server.shutdown().await;
        while let Ok(Some(_)) = response.chunk().await {}

        let server = on_cue(Behaviour::Hang).await;
        let hanging = tokio::spawn(call(&server, wire, true, "x").send());
        server.seen(1).await;
        assert!(!hanging.is_finished());
        server.shutdown().await;
        // Let go: an error or a broken response, but an end.
        let _ended = hanging.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_schema_in_the_request_is_met_by_a_sample() {
    let schema =
        json!({"type": "object", "required": ["title"], "properties": {"title": {"type": "string", "minLength": 30}}});
    let server = OutageServer::start(Script::new(7)).await.expect("a port");
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    let url = format!("{}/chat/completions", server.base_url(Wire::OpenAi));
    let mut answers = Vec::new();
    for _ in 0..2 {
        let sent = client().post(&url).bearer_auth("k").body(body.to_string()).send().await.expect("a response");
        let said = json_of(sent).await["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
        assert!(jsonschema::is_valid(&schema, &serde_json::from_str(&said).expect("JSON")), "{said}");
        answers.push(said);
    }
    assert_eq!(answers[0], answers[1], "the same question has the same answer");
}

#[tokio::test]
async fn rules_switches_and_the_record_agree() {
    let script = Script::new(7)
        .rule("down", When::any().wire(Wire::Anthropic).switch("outage"), Behaviour::Overloaded)
        .rule("blip", When::any().prompt_has("BS-003").calls(1..=1), Behaviour::ServerError);
    let server = OutageServer::start(script).await.expect("a port");
    let mut seen = Vec::new();
    for (wire, prompt, outage) in [
        (Wire::OpenAi, "BS-003", false),
        (Wire::OpenAi, "BS-003", false),
        (Wire::Anthropic, "BS-004", true),
        (Wire::OpenAi, "BS-005", true),
        (Wire::Anthropic, "BS-004", false),
    ] {
        server.switch("outage", outage);
        seen.push(call(&server, wire, false, prompt).send().await.expect("a response").status().as_u16());
    }
    assert_eq!(seen, [500, 200, 529, 200, 200]);
    let record = server.requests();
    assert_eq!(record.iter().map(|one| one.status).collect::<Vec<_>>(), seen);
    let rules: Vec<_> = record.iter().map(|one| one.rule.as_deref()).collect();
    assert_eq!(rules, [Some("blip"), None, Some("down"), None, None]);
    assert!(record[1].answered() && !record[2].answered() && record[1].output_tokens > 0);
    assert_eq!((record[4].number, record[4].prompt.trim()), (5, "BS-004"));
}

#[tokio::test]
async fn callers_without_a_key_or_a_body_hear_what_the_vendor_would_say() {
    let server = OutageServer::start(Script::new(7)).await.expect("a port");
    let messages = format!("{}/v1/messages", server.url());
    let chat = format!("{}/v1/chat/completions", server.url());
    let version = ("anthropic-version", "2026-10-21");
    let none = ("x-nothing", "1");
    for (url, key, extra, status) in [
        (&messages, "", version, 401),
        (&messages, "Bearer k", none, 400),
        (&messages, "Bearer k", version, 400),
        (&chat, "", none, 401),
        (&chat, "Bearer k", none, 400),
        (&format!("{}/v2/nothing", server.url()), "Bearer k", none, 404),
    ] {
        let sent = client().post(url).header("authorization", key).header(extra.0, extra.1).body("{}");
        let response = sent.send().await.expect("a response");
        assert_eq!(response.status().as_u16(), status, "{url} {key}");
        assert!(json_of(response).await["error"]["message"].is_string());
    }
    assert!(server.requests().iter().all(|one| one.behaviour.is_none()));
}

#[tokio::test]
async fn pagerduty_takes_what_the_real_one_takes() {
    let stub = PagerDutyStub::start().await.expect("a port");
    let send = |body: Value| client().post(stub.url()).body(body.to_string()).send();
    let event = json!({"routing_key": "0123456789abcdef0123456789abcdef", "event_action": "trigger",
        "dedup_key": "backstop/acme/INC-1", "payload": {"summary": "3 dead letters", "source": "backstop", "severity": "critical"}});
    let taken = send(event.clone()).await.expect("a response");
    assert_eq!(taken.status().as_u16(), 202);
    assert_eq!(json_of(taken).await["dedup_key"], "backstop/acme/INC-1");
    let refused = send(json!({"routing_key": "short"})).await.expect("a response");
    assert_eq!(refused.status().as_u16(), 400);
    stub.fail(Some(503));
    assert_eq!(send(event.clone()).await.expect("a response").status().as_u16(), 503);
    stub.fail(None);
    assert_eq!(send(event).await.expect("a response").status().as_u16(), 202);
    stub.taken(2).await;
    assert_eq!((stub.events().len(), stub.refused(), stub.alerts()), (2, 2, vec!["backstop/acme/INC-1".to_owned()]));
}

#[tokio::test]
async fn smtp_takes_a_mail_and_refuses_on_cue() {
    let stub = SmtpStub::start().await.expect("a port");
    let talk = async |script: &[&str]| {
        let socket = tokio::net::TcpStream::connect(stub.url().trim_start_matches("smtp://")).await.expect("connected");
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut codes = Vec::new();
        let mut say = script.iter();
        loop {
            let line = lines.next_line().await.expect("a line").expect("a reply");
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            codes.push(line[..3].to_owned());
            let Some(next) = say.next() else { return codes };
            write.write_all(format!("{next}\r\n").as_bytes()).await.expect("sent");
        }
    };
    let mail = "Subject: INC-1:\r\n three dead letters\r\nTo: you@example.com\r\n\r\nhello\r\n..dot\r\n.";
    let script =
        ["EHLO me", "DATA", "MAIL FROM:<backstop@example.com>", "RCPT TO:<you@example.com>", "DATA", mail, "QUIT"];
    assert_eq!(talk(&script).await, ["220", "250", "503", "250", "250", "354", "250", "221"]);
    stub.left(1).await;
    let left = &stub.mails()[0];
    assert_eq!((left.from.as_str(), left.to.as_slice()), ("backstop@example.com", &["you@example.com".to_owned()][..]));
    assert_eq!(left.header("subject").as_deref(), Some("INC-1: three dead letters"));
    assert!(left.text.ends_with("\n\nhello\n.dot\n"), "{:?}", left.text);
    stub.fail(Some(451));
    assert_eq!(talk(&["EHLO me", "MAIL FROM:<a@example.com>"]).await, ["220", "250", "451"]);
    assert_eq!(stub.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_every_scene_and_its_ledger_balances() {
    let options = Options { speed: 60.0, plain: true, ..Options::default() };
    let mut out = Vec::new();
    let outcome = demo::run(options, &mut out).await;
    let screen = String::from_utf8(out).expect("text");
    let outcome = outcome.unwrap_or_else(|error| panic!("{error:?}\n{screen}"));
    assert_eq!(outcome.scenes_missing, [], "{screen}");
    assert_eq!((outcome.balance.submitted, outcome.balance.lost()), (60, 0), "{screen}");
    assert!(
        outcome.balance.settled() && outcome.balance.waiting_human == 1 && outcome.balance.cancelled == 1,
        "{screen}"
    );
    assert!(outcome.failed.total() > 0 && outcome.failed.total() < outcome.spent.total());
    // List, search, three files: each once, whatever came between.
    assert_eq!(outcome.tool_calls, 5, "{screen}");
    assert!(
        outcome.saved.total() > 1_000 && screen.contains("tokens not paid again thanks to the journal"),
        "{screen}"
    );
    assert!(screen.contains("60 submitted = ") && screen.contains(", lost 0"), "{screen}");
    assert!(!screen.contains('\x1b'), "plain is plain");
    let first_word = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let words: BTreeSet<String> = screen.lines().filter(|line| line.contains(':')).filter_map(first_word).collect();
    for word in [
        "retry", "breaker", "parked", "probe", "gate", "invalid", "panic", "again", "dead", "payment", "ceo", "page",
        "human", "resume",
    ] {
        assert!(words.contains(word), "no line says `{word}`:\n{screen}");
    }
    for line in screen.lines().filter(|line| !line.contains("State in")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// A demo in a process of its own, killed without warning as soon as its screen says `cue`.
fn killed_at(cue: &str, arguments: &[&str]) -> String {
    let mut child = backstop(arguments).stdout(Stdio::piped()).spawn().expect("started");
    let mut seen = String::new();
    for line in std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        seen.push_str(&line.expect("text"));
        seen.push('\n');
        if seen.contains(cue) {
            break;
        }
    }
    assert!(seen.contains(cue), "it ended before `{cue}`:\n{seen}");
    child.kill().expect("killed");
    child.wait().expect("gone");
    seen
}

fn backstop(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(arguments).env_clear();
    command
}

#[test]
fn a_demo_killed_twice_goes_on_to_the_same_ledger() {
    let parent = std::env::temp_dir().join(format!("backstop-demo-test-{}", std::process::id()));
    let dir = parent.display().to_string();
    killed_at("panicked in mid-task", &["demo", "--plain", "--speed", "60", "--keep", &dir]);
    let second = killed_at("OPEN (was closed)", &["demo", "--plain", "--speed", "60", "--resume", &dir]);
    assert!(second.contains("Going on at"), "{second}");
    let output = backstop(&["demo", "--plain", "--speed", "60", "--resume", &dir]).output().expect("run");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{screen}{}", String::from_utf8_lossy(&output.stderr));
    let ledger = screen.lines().find(|line| line.contains("submitted = ")).unwrap_or_default();
    assert!(ledger.starts_with(" 60 submitted = ") && ledger.ends_with(", lost 0"), "{screen}");
    assert!(!screen.contains("still open"), "{screen}");
    std::fs::remove_dir_all(&parent).expect("removed");
}

/// Ctrl-C ended it with 1, as a failure does, where 130 is documented.
#[cfg(unix)]
#[test]
fn a_demo_that_is_interrupted_ends_with_130() {
    let mut demo = backstop(&["demo", "--plain", "--speed", "60"]);
    let mut child = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut screen = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
    screen.next().expect("it begins").expect("text");
    let told = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(told.expect("a shell").success());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
}

#[test]
fn a_demo_refuses_what_it_cannot_do_and_says_what_can_be_done() {
    for (arguments, words) in [
        (&["demo", "--resume", "/nonexistent"][..], "backstop demo --keep /nonexistent"),
        (&["demo", "--keep", env!("CARGO_MANIFEST_DIR")][..], "is not empty"),
        (&["demo", "--speed", "0"][..], "1 to 200"),
    ] {
        let output = backstop(arguments).output().expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
