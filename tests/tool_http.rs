//! The built-in HTTP request over real sockets: one request a call, bounded answers, and troubles that say what happened.

use std::sync::Arc;
use std::time::Duration;

use backstop::Config;
use backstop::cause::ToolFault;
use backstop::config::{Host, HostRule, Setting, Verify};
use backstop::task::{IdempotencyKey, TaskId, TaskType};
use backstop::time::Timestamp;
use backstop::tool::KeyPlace;
use backstop::tools::verify::{Verdict, Verifier};
use backstop::tools::{Calling, RESULT_MAX, Said, ToolServer, Trouble, servers};
use serde_json::{Value, json};

use crate::support::{Play, Stub};

const SECRET: &str = "Bearer s3cr3t-t0ken";

fn config(stub: &Stub) -> Config {
    let host: Host = stub.url().strip_prefix("http://").expect("plain").parse().expect("a host");
    let rule = HostRule {
        methods: ["GET", "POST", "DELETE"].map(str::to_owned).into(),
        headers: [("Authorization".to_owned(), Setting::Secret(SECRET.into()))].into(),
        private: false,
    };
    Config::new("t").http_host(host, rule)
}

fn server(stub: &Stub) -> Arc<dyn ToolServer> {
    servers(&config(stub)).expect("made").pop().expect("one")
}

fn calling(tool: &str, arguments: Value) -> Calling {
    let key = IdempotencyKey::new("key-1").expect("a key");
    let within = Duration::from_secs(60);
    Calling { tool: tool.to_owned(), arguments, key, key_place: KeyPlace::Default, within }
}

async fn get(stub: &Stub) -> Result<Said, Box<Trouble>> {
    server(stub).call(&calling("get", json!({"url": format!("{}/a/b?key=hidden", stub.url())}))).await
}

#[tokio::test]
async fn every_answer_means_something() {
    let long = "x".repeat(RESULT_MAX + 1);
    let most = "x".repeat(RESULT_MAX);
    let said = |text: &str, failed| Ok(Said { text: text.to_owned(), failed });
    let text: &[(&str, &str)] = &[("content-type", "text/plain")];
    for (status, headers, body, expected) in [
        (200, text, "hello", said("hello", false)),
        (200, text, most.as_str(), said(&most, false)),
        (200, &[], "", said("status 200, no body", false)),
        (
            302,
            &[("location", "http://169.254.169.254/latest/meta-data/")][..],
            "",
            said(
                "status 302: moved to http://169.254.169.254/latest/meta-data/; redirects are not followed, ask there if it is allowed",
                true,
            ),
        ),
        (200, text, long.as_str(), Err((ToolFault::TooLarge, None, "has more than the 65536 bytes that are taken"))),
        (
            200,
            &[("content-type", "image/png")],
            "\u{0}PNG",
            Err((ToolFault::NotText, None, "is no text but image/png")),
        ),
        (404, text, "no such issue", Err((ToolFault::Status, None, "status 404: no such issue"))),
        (429, &[("retry-after", "17")], "slow down", Err((ToolFault::Status, Some(17), "status 429: slow down"))),
        (
            503,
            &[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"), ("date", "Wed, 21 Oct 2026 07:28:00 GMT")],
            "",
            Err((ToolFault::Status, Some(30), "status 503")),
        ),
        (503, &[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT")], "", Err((ToolFault::Status, None, "status 503"))),
        (401, text, "bad token s3cr3t-t0ken", Err((ToolFault::Status, None, "status 401: bad token [redacted]"))),
        (500, text, long.as_str(), Err((ToolFault::Status, None, "status 500: xxx"))),
    ] {
        let stub = Stub::answering(status, headers, body).await;
        let found = get(&stub).await;
        match (&found, &expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(trouble), Err((fault, wait, detail))) => {
                assert_eq!((trouble.fault, trouble.sent), (*fault, true), "{status}: {}", trouble.detail);
                assert_eq!((trouble.status, trouble.retry_after_s), (Some(status), *wait), "{}", trouble.detail);
                assert!(trouble.detail.contains(detail), "{}", trouble.detail);
                assert!(trouble.detail.starts_with("http/get GET 127.0.0.1/a/b: status"), "{}", trouble.detail);
                assert!(!trouble.detail.contains("hidden") && trouble.detail.len() <= 4_096, "{}", trouble.detail);
            }
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{status}: {found:?}"),
        }
        assert_eq!(stub.heard().len(), 1, "{status}: one request a call");
    }
}

#[tokio::test]
async fn a_flood_is_read_to_its_limit_and_a_broken_answer_is_known_to_have_been_asked_for() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n".to_vec();
    let flood = Stub::playing(vec![Play::Send(head), Play::Flood(vec![b'x'; 64 * 1024])]).await;
    assert_eq!(get(&flood).await.expect_err("a flood").fault, ToolFault::TooLarge);
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    for (plays, fault, sent) in [
        (vec![Play::Send(half), Play::Close], ToolFault::Died, true),
        (vec![Play::Close], ToolFault::Died, true),
        (vec![Play::Reset], ToolFault::Died, true),
    ] {
        let stub = Stub::playing(plays.clone()).await;
        let url = format!("{}/x", stub.url());
        let post = calling("request", json!({"method": "POST", "url": url, "body": {"a": 1}}));
        let trouble = server(&stub).call(&post).await.expect_err("broken");
        assert_eq!((trouble.fault, trouble.sent), (fault, sent), "{plays:?}: {}", trouble.detail);
        assert_eq!(stub.heard().len(), 1, "sent once, whatever the client thinks of it");
    }
    // A form that was taken often answers with a redirect to what it made; that was once told as a failure, and the
    // model sent the form again.
    for (status, known) in [(301, false), (302, false), (303, false), (307, true), (308, true)] {
        let stub = Stub::answering(status, &[("location", "/done")], "").await;
        let post = calling("request", json!({"method": "POST", "url": format!("{}/x", stub.url()), "body": "x"}));
        match server(&stub).call(&post).await {
            Ok(said) => assert!(known && said.failed, "{status}: {said:?}"),
            Err(trouble) => {
                assert_eq!((known, trouble.fault, trouble.sent), (false, ToolFault::Protocol, true), "{status}");
                assert!(trouble.detail.contains(&status.to_string()), "{}", trouble.detail);
            }
        }
    }
    let stub = Stub::playing(vec![Play::Hang]).await;
    let hanging = Calling { within: Duration::from_millis(200), ..calling("get", json!({"url": stub.url()})) };
    let trouble = server(&stub).call(&hanging).await.expect_err("late");
    assert_eq!((trouble.fault, trouble.sent), (ToolFault::Timeout, true));
    assert_eq!(trouble.detail, "http/get GET 127.0.0.1/: no answer within 200ms");
    // Nobody listens where somebody did.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let rule = HostRule { methods: vec!["POST".to_owned()], ..HostRule::default() };
    let config = Config::new("t").http_host(address.to_string().parse().expect("a host"), rule);
    let nobody = servers(&config).expect("made").pop().expect("one");
    let post = calling("request", json!({"method": "POST", "url": format!("http://{address}/"), "body": "x"}));
    let trouble = nobody.call(&post).await.expect_err("nobody");
    assert_eq!((trouble.fault, trouble.sent), (ToolFault::Unreachable, false), "{}", trouble.detail);
}

#[tokio::test]
async fn a_request_carries_its_key_our_headers_and_what_the_model_may_set() {
    let stub = Stub::answering(200, &[], "ok").await;
    let server = server(&stub);
    let arguments = json!({
        "method": "POST", "url": format!("{}/charge", stub.url()), "body": {"amount": 5},
        "headers": {"X-Trace": "t-1", "Idempotency-Key": "the model's"}
    });
    let plain = calling("request", arguments.clone());
    server.call(&plain).await.expect("said");
    let keyed = Calling { key_place: KeyPlace::Header("X-Request-Id".to_owned()), ..plain };
    server.call(&keyed).await.expect("said");
    let reads = json!({"url": format!("{}/charge", stub.url()), "method": "HEAD"});
    server.call(&calling("get", reads)).await.expect("said");
    let heard = stub.heard();
    assert_eq!(heard[0].line, "POST /charge HTTP/1.1");
    assert_eq!(heard[0].json(), json!({"amount": 5}));
    for (name, value) in [
        ("idempotency-key", "key-1"),
        ("authorization", SECRET),
        ("x-trace", "t-1"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(heard[0].header(name), Some(value), "{name}");
    }
    assert_eq!(heard[1].header("x-request-id"), Some("key-1"));
    assert_eq!((heard[2].line.as_str(), heard[2].header("idempotency-key")), ("HEAD /charge HTTP/1.1", None));
}

#[tokio::test]
async fn what_may_not_be_asked_is_refused_before_anything_is_sent() {
    let stub = Stub::answering(200, &[], "ok").await;
    let server = server(&stub);
    let url = stub.url();
    let header = |name: &str| json!({"method": "POST", "url": url, "headers": {name: "x"}});
    for (tool, arguments, fault) in [
        ("get", json!({"url": "http://169.254.169.254/latest/meta-data/"}), ToolFault::Refused),
        ("get", json!({"url": url.replace("127.0.0.1", "0x7f000001")}), ToolFault::Refused),
        ("get", json!({"url": url.replace("127.0.0.1", "2130706433")}), ToolFault::Refused),
        ("get", json!({"url": url.replace("127.0.0.1", "localhost")}), ToolFault::Refused),
        ("get", json!({"url": url.replace("http://", "http://user@")}), ToolFault::Refused),
        ("get", json!({"url": "file:///etc/passwd"}), ToolFault::Refused),
        ("request", json!({"method": "PUT", "url": url}), ToolFault::Refused),
        ("request", header("Authorization"), ToolFault::Refused),
        ("request", header("Host"), ToolFault::Refused),
        ("request", header("Cookie"), ToolFault::Refused),
        ("request", header("X-Api-Key"), ToolFault::Refused),
        ("request", header("Transfer-Encoding"), ToolFault::Refused),
        ("request", header("a\r\nb"), ToolFault::Refused),
        ("request", json!({"method": "POST", "url": url, "headers": {"a": "b\r\nHost: c"}}), ToolFault::Refused),
        ("get", json!({"method": "POST", "url": url}), ToolFault::BadArguments),
        ("get", json!({"url": url, "body": "x"}), ToolFault::BadArguments),
        ("get", json!({}), ToolFault::BadArguments),
        ("get", json!([url]), ToolFault::BadArguments),
        ("request", json!({"url": url}), ToolFault::BadArguments),
        ("request", json!({"method": "PO ST", "url": url}), ToolFault::BadArguments),
        ("delete", json!({"url": url}), ToolFault::Gone),
    ] {
        let trouble = server.call(&calling(tool, arguments.clone())).await.expect_err("refused");
        assert_eq!((trouble.fault, trouble.sent), (fault, false), "{tool} {arguments}: {}", trouble.detail);
    }
    assert_eq!(stub.heard().len(), 0);
    let offered = server.offered().await.expect("offered");
    let names: Vec<&str> = offered.iter().map(|offered| offered.tool.as_str()).collect();
    assert_eq!(names, ["get", "request"]);
    assert_eq!(offered[0].hints.and_then(|hints| hints.read_only), Some(true));
    assert_eq!(offered[1].schema["properties"]["method"]["enum"], json!(["DELETE", "POST"]));
}

#[tokio::test]
async fn an_answer_is_verified_by_a_listed_host() {
    let verdict = async |status, body: &str| {
        let stub = Stub::answering(status, &[], body).await;
        let verifier = Verifier::new(&config(&stub).tools).expect("a verifier");
        let verify = Verify::Url { url: format!("{}/verify", stub.url()), within: Duration::from_secs(60) };
        let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
        let task_type = TaskType::new("bug_fix").expect("a type");
        let verdict = verifier.check(&verify, task, &task_type, &json!({"patch": 1})).await;
        assert_eq!(stub.heard()[0].json(), json!({"patch": 1}));
        verdict.map_err(|trouble| (trouble.fault, trouble.status))
    };
    let refused = |text: &str| Ok(Verdict::Refused(text.to_owned()));
    assert_eq!(verdict(200, "whatever").await, Ok(Verdict::Accepted));
    assert_eq!(verdict(204, "").await, Ok(Verdict::Accepted));
    assert_eq!(verdict(422, "the patch does not apply").await, refused("the patch does not apply"));
    assert_eq!(verdict(400, "").await, refused("status 400"));
    assert_eq!(verdict(404, "").await, Err((ToolFault::Status, Some(404))));
    assert_eq!(verdict(503, "").await, Err((ToolFault::Status, Some(503))));
    assert_eq!(verdict(302, "").await, Err((ToolFault::Protocol, Some(302))));
    let elsewhere = Verify::Url { url: "https://other.example/".to_owned(), within: Duration::from_secs(1) };
    let verifier = Verifier::new(&Config::new("t").tools).expect("a verifier");
    let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
    let task_type = TaskType::new("bug_fix").expect("a type");
    let trouble = verifier.check(&elsewhere, task, &task_type, &json!(1)).await.expect_err("not listed");
    assert_eq!((trouble.fault, trouble.sent), (ToolFault::Refused, false));
}
