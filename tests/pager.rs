//! A page reaches a human, or the channel says precisely why not: against servers on real sockets.

use std::sync::Arc;
use std::time::Duration;

use backstop::config::ChannelConfig;
use backstop::escalation::Rules;
use backstop::failure::{Class, Kind};
use backstop::incident::{self, IncidentCommand, Opening, Page, Trigger};
use backstop::outbox;
use backstop::pager::{self, Channel, Error};
use backstop::query::Death;
use backstop::task::{AgentName, Integration, TaskId, TaskType};
use backstop::time::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn deaths(n: u8) -> Vec<Death> {
    let death = |i: u8| Death {
        task: TaskId::new(NOW, [i; 10]),
        generation: 1,
        at: NOW,
        agent: AgentName::new(if i.is_multiple_of(2) { "cto" } else { "backend" }).expect("a name"),
        task_type: TaskType::new("code_review").expect("a name"),
        class: Class::Transient,
        kind: Kind::Overloaded,
        integration: Some(Integration::new("anthropic").expect("a name")),
    };
    (0..n).map(death).collect()
}

/// The first page of an incident about three dead letters, and the pages of what happens to it then.
fn pages_of(commands: Vec<IncidentCommand>, runbook: Option<String>) -> Vec<Page> {
    let steps = [vec!["channel".to_owned()]];
    let opening = Opening {
        id: "INC-7".to_owned(),
        trigger: Trigger::DeadLetters,
        subject: String::new(),
        deaths: deaths(3),
        why: String::new(),
        runbook,
        in_doubt: Vec::new(),
    };
    let mut change = incident::open(opening, &Rules::default(), NOW);
    let mut pages = outbox::pages(&change.incident, &change.pages[0], "acme", &steps, NOW);
    for command in commands {
        change = incident::apply(&change.incident, command, &Rules::default(), NOW).expect("accepted");
        for draft in &change.pages {
            pages.extend(outbox::pages(&change.incident, draft, "acme", &steps, NOW));
        }
    }
    pages
}

fn first_page() -> Page {
    pages_of(Vec::new(), None).remove(0)
}

/// What the stub was sent: the head (request line and headers, lower case) and the body.
type Request = (String, Vec<u8>);

/// A server on loopback that answers every request with the same bytes, or never; tells what it was sent.
async fn http(answer: Option<&'static str>) -> (String, mpsc::UnboundedReceiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v2/enqueue?token=url-secret", listener.local_addr().expect("an address"));
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let request = read_request(&mut socket).await;
                drop(tell.send(request));
                match answer {
                    Some(answer) => drop(socket.write_all(answer.as_bytes()).await),
                    None => std::future::pending().await,
                }
            });
        }
    });
    (url, told)
}

async fn read_request(socket: &mut TcpStream) -> Request {
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a head");
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).expect("a length");
    let mut body = vec![0; length.trim().parse().expect("a number")];
    reader.read_exact(&mut body).await.expect("a body");
    (lower, body)
}

fn pagerduty(url: &str) -> Arc<dyn Channel> {
    let config =
        ChannelConfig::PagerDuty { routing_key: "R0UT1NGKEY".into(), url: url.to_owned(), webhook_secret: None };
    pager::channel_within(&config, "acme", Duration::from_secs(5)).expect("a channel")
}

const ACCEPTED: &str =
    "HTTP/1.1 202 Accepted\r\ncontent-length: 20\r\nconnection: close\r\n\r\n{\"status\":\"success\"}";

#[tokio::test]
async fn pagerduty_is_triggered_updated_acknowledged_and_resolved_under_one_key() {
    let (url, mut told) = http(Some(ACCEPTED)).await;
    let channel = pagerduty(&url);
    let by = || "ana".to_owned();
    let commands = vec![
        IncidentCommand::Append(deaths(5)),
        IncidentCommand::Update,
        IncidentCommand::Acknowledge { by: by(), note: String::new() },
        IncidentCommand::Resolve { by: by(), note: String::new() },
    ];
    let mut events = Vec::new();
    for page in pages_of(commands, None) {
        let receipt = channel.send(&page).await.expect("taken");
        assert_eq!(receipt.to, "127.0.0.1");
        let (head, body) = told.recv().await.expect("a request");
        assert!(head.starts_with("post /v2/enqueue") && head.contains("content-type: application/json"), "{head}");
        events.push(serde_json::from_slice::<Value>(&body).expect("JSON"));
    }
    let actions: Vec<&str> = events.iter().map(|event| event["event_action"].as_str().expect("a word")).collect();
    assert_eq!(actions, ["trigger", "trigger", "acknowledge", "resolve"]);
    for event in &events {
        assert_eq!((&event["routing_key"], &event["dedup_key"]), (&"R0UT1NGKEY".into(), &"backstop/acme/INC-7".into()));
    }
    let payload = &events[0]["payload"];
    assert_eq!(
        payload["summary"],
        "3 dead letters within 1h (backend 1, cto 2): transient/overloaded via anthropic: 3"
    );
    assert_eq!((&payload["severity"], &payload["source"]), (&"critical".into(), &"backstop/acme".into()));
    let details = &payload["custom_details"];
    assert_eq!(details["agents"], serde_json::json!({"backend": 1, "cto": 2}));
    assert_eq!(details["tasks"].as_array().map(Vec::len), Some(3));
    assert!(details["runbook"].as_str().is_some_and(|text| text.contains("backstop incident ack INC-7")), "{details}");
    assert_eq!(events[1]["payload"]["custom_details"]["dead_letters"], 5);
    assert!(events[2].get("payload").is_none());
}

/// How one answer is understood: `later`, `later in <s>` or `never`, and that nothing secret is told.
async fn understood(answer: &'static str) -> String {
    let (url, _told) = http(Some(answer)).await;
    match pagerduty(&url).send(&first_page()).await {
        Ok(receipt) => format!("taken: {}", receipt.detail),
        Err(error) => {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("R0UT1NGKEY") && !text.contains("url-secret"), "{text}");
            match error {
                Error::Later { retry_after_s: Some(after), .. } => format!("later in {after}"),
                Error::Later { .. } => "later".to_owned(),
                Error::Never { .. } => "never".to_owned(),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_pagerduty_answers_decides_between_later_and_never() {
    for (answer, expected) in [
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 27\r\n\r\n{\"message\":\"bad R0UT1NGKEY\"}", "never"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "never"),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "never"),
        ("HTTP/1.1 429 Too Many Requests\r\nretry-after: 90\r\ncontent-length: 0\r\n\r\n", "later in 90"),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "later"),
        ("HTTP/1.1 503 No\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n", "later in 5"),
        ("garbage\r\n\r\n", "later"),
        ("", "later"),
    ] {
        assert_eq!(understood(answer).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_means_later_in_time() {
    let (url, mut told) = http(None).await;
    let config = ChannelConfig::PagerDuty { routing_key: "R0UT1NGKEY".into(), url, webhook_secret: None };
    let channel = pager::channel_within(&config, "acme", Duration::from_millis(50)).expect("a channel");
    assert!(matches!(channel.send(&first_page()).await, Err(Error::Later { .. })));
    assert!(told.recv().await.is_some(), "it was asked");
    assert!(told.try_recv().is_err(), "and only once");

    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    assert!(matches!(pagerduty(&format!("http://{free}/")).send(&first_page()).await, Err(Error::Later { .. })));
}

#[tokio::test]
async fn a_body_over_512_kb_loses_its_lists_but_not_its_counts() {
    let (url, mut told) = http(Some(ACCEPTED)).await;
    let mut page = first_page();
    for i in 0..20_000 {
        page.incident.agents.insert(AgentName::new(format!("agent-{i:058}")).expect("a name"), 1);
    }
    pagerduty(&url).send(&page).await.expect("taken");
    let (_, body) = told.recv().await.expect("a request");
    assert!(body.len() < 512_000, "{}", body.len());
    let event: Value = serde_json::from_slice(&body).expect("JSON");
    let details = &event["payload"]["custom_details"];
    assert_eq!((&details["dead_letters"], &details["agents_affected"]), (&20_003.into(), &20_002.into()));
    assert!(details["shortened"].as_str().is_some_and(|text| text.contains("512 KB")), "{details}");
}

#[tokio::test]
async fn words_of_others_are_shown_and_never_obeyed() {
    let (url, mut told) = http(Some(ACCEPTED)).await;
    let mut page = first_page();
    page.incident.summary = format!("\u{202e}evil\u{1b}[31m\r\nBcc: all@example.com {}", "x".repeat(2_000));
    pagerduty(&url).send(&page).await.expect("taken");
    let event: Value = serde_json::from_slice(&told.recv().await.expect("a request").1).expect("JSON");
    let summary = event["payload"]["summary"].as_str().expect("text");
    assert!(summary.starts_with("[U+202E]evil[U+001B][31m  Bcc: all@example.com"), "{summary}");
    assert_eq!(summary.chars().count(), 1024);
}

#[tokio::test]
async fn a_webhook_is_signed_over_time_and_body() {
    let (url, mut told) = http(Some("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let config = ChannelConfig::Webhook { url: url.into(), secret: "hook-secret".into() };
    let channel = pager::channel(&config, "acme").expect("a channel");
    let page = first_page();
    channel.send(&page).await.expect("taken");
    let (head, body) = told.recv().await.expect("a request");
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.expect("the header").trim().to_owned()
    };
    let timestamp = header("x-backstop-timestamp");
    let mut mac = Hmac::<Sha256>::new_from_slice(b"hook-secret").expect("a key");
    mac.update(format!("{timestamp}.{}", String::from_utf8(body.clone()).expect("text")).as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header("x-backstop-signature"), format!("v1={hex}"));
    assert!(timestamp.parse::<u64>().is_ok_and(|seconds| seconds > 1_600_000_000), "{timestamp}");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((&body["action"], &body["dedup_key"]), (&"trigger".into(), &page.dedup_key.as_str().into()));
    assert_eq!(body["details"]["dead_letters"], 3);
}

/// The address of a webhook may be all that somebody needs to post there: who repeats it in an answer is not repeated.
#[tokio::test]
async fn a_webhook_that_repeats_its_address_is_not_repeated() {
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 42\r\nconnection: close\r\n\r\nno hook at /v2/enqueue?token=url-secret....";
    let (url, _told) = http(Some(answer)).await;
    let config = ChannelConfig::Webhook { url: url.into(), secret: "hook-secret".into() };
    let channel = pager::channel_within(&config, "acme", Duration::from_secs(5)).expect("a channel");
    let error = channel.send(&first_page()).await.expect_err("refused");
    let text = format!("{error} {error:?}");
    assert!(text.contains("no hook at") && !text.contains("enqueue") && !text.contains("url-secret"), "{text}");
}

#[tokio::test]
async fn the_log_takes_every_page() {
    let channel = pager::channel(&ChannelConfig::Log, "acme").expect("a channel");
    assert_eq!(channel.name(), "log");
    assert_eq!(channel.send(&first_page()).await.expect("taken").to, "the log");
}

#[test]
fn a_channel_that_can_never_work_is_refused_without_telling_its_secrets() {
    let bad = [
        ChannelConfig::PagerDuty {
            routing_key: "".into(),
            url: "https://events.pagerduty.com/v2/enqueue".to_owned(),
            webhook_secret: None,
        },
        ChannelConfig::PagerDuty { routing_key: "k".into(), url: "no url s3cret".to_owned(), webhook_secret: None },
        ChannelConfig::Webhook { url: "ftp://example.com/s3cret".into(), secret: "x".into() },
        ChannelConfig::Webhook { url: "https://example.com".into(), secret: "".into() },
        ChannelConfig::Email { smtp: "http://u:s3cret@host".into(), from: "a@example.com".to_owned(), to: Vec::new() },
    ];
    for config in bad {
        let error = pager::channel(&config, "acme").err().expect("refused");
        assert!(matches!(error, Error::Never { .. }), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[cfg(feature = "smtp")]
mod email {
    use super::*;

    /// A mail server on loopback that accepts everything, but answers `at` (such as `RCPT`) with `with`. Tells each mail.
    async fn smtp(at: &'static str, with: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("smtp://robot:p4ssw0rd@{}", listener.local_addr().expect("an address"));
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, at, with, tell.clone()));
            }
        });
        (url, told)
    }

    async fn serve(socket: TcpStream, at: &str, with: &str, tell: mpsc::UnboundedSender<String>) {
        let (read, mut write) = socket.into_split();
        let mut lines = BufReader::new(read).lines();
        let greeting = if at == "CONNECT" { with } else { "220 mail.example.com ready" };
        drop(write.write_all(format!("{greeting}\r\n").as_bytes()).await);
        while let Ok(Some(line)) = lines.next_line().await {
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
            let answer = match verb.as_str() {
                verb if verb == at => with,
                "EHLO" => "250-mail.example.com\r\n250 AUTH PLAIN LOGIN",
                "AUTH" => "235 welcome",
                "DATA" => "354 go ahead",
                "QUIT" => "221 bye",
                _ => "250 ok",
            };
            if with == "hang" && verb == at {
                std::future::pending::<()>().await;
            }
            drop(write.write_all(format!("{answer}\r\n").as_bytes()).await);
            if answer.starts_with("354") {
                let mut mail = String::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line == "." {
                        break;
                    }
                    mail.push_str(&format!("{line}\n"));
                }
                let answer = if at == "." { with } else { "250 queued as 42" };
                drop(write.write_all(format!("{answer}\r\n").as_bytes()).await);
                drop(tell.send(mail));
            }
        }
    }

    fn channel(smtp: &str, timeout: Duration) -> Arc<dyn Channel> {
        let config = ChannelConfig::Email {
            smtp: smtp.to_owned().into(),
            from: "Backstop <robot@example.com>".to_owned(),
            to: vec!["ana@example.com".to_owned(), "Ben <ben@example.com>".to_owned()],
        };
        pager::channel_within(&config, "acme", timeout).expect("a channel")
    }

    fn header<'a>(mail: &'a str, name: &str) -> Option<&'a str> {
        let head = mail.split("\n\n").next().unwrap_or_default();
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[tokio::test]
    async fn mails_of_one_incident_are_one_thread() {
        let (url, mut told) = smtp("", "").await;
        let channel = channel(&url, Duration::from_secs(5));
        let acknowledge = IncidentCommand::Acknowledge { by: "ana".to_owned(), note: "on it".to_owned() };
        let mut mails = Vec::new();
        for page in pages_of(vec![acknowledge], None) {
            let receipt = channel.send(&page).await.expect("taken");
            assert_eq!(receipt.to, "ana@example.com, ben@example.com");
            mails.push(told.recv().await.expect("a mail"));
        }
        let (first, second) = (&mails[0], &mails[1]);
        assert_eq!(header(first, "Message-ID"), Some("<INC-7.acme@example.com>"));
        assert_eq!(header(first, "In-Reply-To"), None);
        assert_eq!(header(second, "In-Reply-To"), Some("<INC-7.acme@example.com>"));
        assert_eq!(header(second, "References"), Some("<INC-7.acme@example.com>"));
        assert_ne!(header(second, "Message-ID"), header(first, "Message-ID"));
        for mail in &mails {
            assert_eq!(header(mail, "Auto-Submitted"), Some("auto-generated"), "{mail}");
        }
        assert!(header(first, "Subject").is_some_and(|text| text.starts_with("[acme] INC-7 PAGE: 3 dead")), "{first}");
        assert!(first.contains("Agents: backend 1, cto 2") && first.contains("(round 1)"), "{first}");
        assert!(second.contains("acknowledged: by ana at"), "{second}");
    }

    #[tokio::test]
    async fn the_reply_code_decides_between_later_and_never() {
        for (at, with, never) in [
            ("RCPT", "550 no such user p4ssw0rd", true),
            ("RCPT", "451 greylisted, come back", false),
            ("CONNECT", "421 too busy", false),
            ("AUTH", "535 bad credentials", true),
            (".", "452 disk full", false),
            (".", "554 spam", true),
        ] {
            let (url, _told) = smtp(at, with).await;
            let error = channel(&url, Duration::from_secs(5)).send(&first_page()).await.expect_err("refused");
            assert_eq!(matches!(error, Error::Never { .. }), never, "{at} {with}: {error}");
            assert!(!error.to_string().contains("p4ssw0rd"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_mail_server_that_hangs_means_later_in_time() {
        let (url, _told) = smtp("EHLO", "hang").await;
        let error = channel(&url, Duration::from_millis(50)).send(&first_page()).await.expect_err("no answer");
        assert!(matches!(error, Error::Later { .. }), "{error}");
    }

    #[tokio::test]
    async fn nothing_of_a_subject_becomes_a_header() {
        let (url, mut told) = smtp("", "").await;
        let mut page = first_page();
        page.incident.summary = "broken\r\nBcc: all@example.com".to_owned();
        page.incident.id = "INC-7\r\nBcc: all@example.com".to_owned();
        channel(&url, Duration::from_secs(5)).send(&page).await.expect("taken");
        let mail = told.recv().await.expect("a mail");
        assert_eq!(header(&mail, "Bcc"), None, "{mail}");
    }
}
