//! Secrets are in the store, for the work goes on from it, and nowhere else: 35 of them, planted in every shape in a
//! task that goes wrong, are looked for in everything anybody can read.

use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use backstop::agent::Agent;
use backstop::api;
use backstop::cause::ToolFault;
use backstop::config::Config;
use backstop::conversation::{Message, ToolCall};
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::pager::{Channel, Receipt, Sending};
use backstop::record::State;
use backstop::task::{Integration, TaskId};
use backstop::team::Team;
use backstop::team::desk::{Desk, NewTask};
use backstop::time::Timestamp;
use backstop::tools::{Calling, Offered, Pending, Said, ToolServer, Trouble};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the operator configured as a secret, and how it looks in Base64, in a URL and in hexadecimal.
const CONFIGURED: &str = "op3rator's/own+secret";
const CONFIGURED_BASE64: &str = "b3AzcmF0b3Incy9vd24rc2VjcmV0";
const CONFIGURED_URL: &str = "op3rator%27s%2Fown%2Bsecret";
const CONFIGURED_HEX: &str = "6f7033726174";

/// The n-th secret: nothing about it looks like one but the place it stands in.
fn canary(n: u32) -> String {
    format!("canary{n:02}x7Qz")
}

/// In the arguments of a call, as a model writes them.
fn in_arguments() -> Value {
    let c = canary;
    let inner = json!({ "passphrase": c(14) }).to_string();
    json!({
        "password": c(1),
        "apiKey": c(2),
        "headers": { "Authorization": format!("Bearer {}", c(3)), "Accept": "text/plain" },
        "pairs": [["X-Api-Key", c(4)], ["Accept", "text/plain"]],
        "named": [{ "name": "Cookie", "value": c(5) }],
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", c(6)),
        "db": { "clientSecret": c(7), "DB_PASSWORD": c(8) },
        "url": format!("https://user:{}@example.com/x", c(9)),
        "query": format!("https://example.com/?access_token={}&page=2", c(10)),
        "note": format!("use my key sk-ant-api03-{} please", c(11)),
        "nested": json!({ "refresh_token": c(12) }).to_string(),
        "tokens": [c(13)],
        "deep": json!({ "inner": inner }).to_string(),
        "max_tokens": 4096,
    })
}

/// In what a tool says.
fn in_results() -> String {
    let c = canary;
    [
        json!({ "session": { "secret": c(15) } }).to_string(),
        format!("token: {}", c(16)),
        format!("Set-Cookie: sid={}; Path=/", c(17)),
        format!("ghp_{}0123456789", c(18)),
        format!("eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl", c(19)),
        format!("postgres://app:{}@db/x", c(20)),
        format!("AccountKey={};EndpointSuffix=core", c(21)),
        format!("accessToken={}", c(22)),
        format!("{{\"credentials\": \"{}\"}}", c(23)),
        CONFIGURED.to_owned(),
        CONFIGURED_BASE64.to_owned(),
    ]
    .join("\n")
}

/// In what a server says when it fails.
fn in_errors() -> String {
    let c = canary;
    format!("local died; password={} Authorization: Basic {}\nx-api-key: {} q={CONFIGURED_URL}", c(24), c(25), c(26),)
}

/// A tool that answers, fails, dies in mid-call, and is well again.
#[derive(Clone)]
struct Leaky {
    name: Integration,
    calls: Arc<AtomicU32>,
}

impl ToolServer for Leaky {
    fn name(&self) -> &Integration {
        &self.name
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        let description = "Fetches.".to_owned();
        let fetch = Offered { tool: "fetch".to_owned(), description, schema: json!({"type": "object"}), hints: None };
        Box::pin(async move { Ok(vec![fetch]) })
    }

    fn call<'a>(&'a self, _: &'a Calling) -> Pending<'a, Said> {
        Box::pin(async move {
            match self.calls.fetch_add(1, Ordering::Relaxed) {
                0 => Ok(Said { text: in_results(), failed: false }),
                1 => Ok(Said { text: format!("no: secret={}", canary(27)), failed: true }),
                2 => Err(Trouble::sent(ToolFault::Died, in_errors())),
                _ => Ok(Said { text: "fine".to_owned(), failed: false }),
            }
        })
    }
}

/// Fetches three times; a task that is to fail is refused with a secret in the error.
fn script(request: &Request, _: u64) -> Scripted {
    if request.messages.iter().any(|message| message.text().contains("please fail")) {
        let key = format!("sk-proj-{}abcdef", canary(28));
        let said = format!("bad key {key}; api_key={}", canary(29));
        let body = json!({ "error": { "type": "invalid_request_error", "message": said } }).to_string();
        return Scripted::status(Integration::new("sim").expect("a name"), 400, body, Timestamp::from_millis(0));
    }
    let turns = request.messages.iter().filter(|message| matches!(message, Message::Results { .. })).count();
    if turns == 3 {
        return Scripted::text("done");
    }
    let mut scripted = Scripted::text(format!("I use password: {}", canary(30)));
    if let Ok(reply) = &mut scripted.result {
        let mut arguments = in_arguments();
        arguments["page"] = json!(turns);
        reply.calls = vec![ToolCall::written("", "fetch", &arguments.to_string())];
    }
    scripted
}

#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<Value>>>);

impl Channel for Inbox {
    fn name(&self) -> &str {
        "inbox"
    }

    fn send<'a>(&'a self, page: &'a backstop::incident::Page) -> Sending<'a> {
        Box::pin(async move {
            self.0.lock().expect("not poisoned").push(serde_json::to_value(page).expect("JSON"));
            Ok(Receipt { to: "ana".into(), detail: "taken".into() })
        })
    }
}

/// What is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned()
    }
}

struct Readers {
    desk: Desk,
    url: String,
    inbox: Inbox,
    log: Log,
    http: reqwest::Client,
    read: Vec<(String, String)>,
}

impl Readers {
    async fn get(&mut self, path: &str) -> String {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        let text = response.text().await.expect("a body");
        self.read.push((path.to_owned(), text.clone()));
        text
    }

    async fn cli(&mut self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).env_clear().env("BACKSTOP_URL", &self.url).env("USER", "ana").stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
        self.read.push((arguments.join(" "), text));
    }

    async fn everything(&mut self, id: TaskId) {
        let id = id.to_string();
        for path in [
            "/api/v1/tasks",
            "/api/v1/dead-letters",
            "/api/v1/dead-letters/groups",
            "/api/v1/decisions",
            "/api/v1/incidents",
            "/api/v1/events?limit=1000",
            "/api/v1/agents",
            "/api/v1/breakers",
            "/api/v1/status",
            "/metrics",
        ] {
            self.get(path).await;
        }
        for part in ["journal", "why", "events"] {
            self.get(&format!("/api/v1/tasks/{id}/{part}")).await;
        }
        self.get(&format!("/api/v1/dead-letters/{id}")).await;
        self.get(&format!("/api/v1/explain?task={id}")).await;
        for arguments in [
            &["why", &id][..],
            &["why", &id, "-o", "yaml"],
            &["task", "ls"],
            &["task", "show", &id],
            &["task", "journal", &id],
            &["task", "journal", &id, "-o", "json"],
            &["dlq", "ls"],
            &["dlq", "ls", "-o", "json"],
            &["dlq", "show", &id],
            &["dlq", "show", &id, "-o", "json"],
            &["ceo", "explain", &id],
            &["incident", "ls"],
            &["explain", &id],
            &["events", "--since", "1h"],
        ] {
            self.cli(arguments).await;
        }
    }

    async fn page(&self) {
        let mut watch = self.desk.engine().watch();
        loop {
            watch.borrow_and_update();
            if !self.inbox.0.lock().expect("not poisoned").is_empty() {
                return;
            }
            watch.changed().await.expect("the engine lives");
        }
    }
}

async fn ends(desk: &Desk, payload: Value) -> TaskId {
    let task = NewTask::new("fetching".parse().expect("a type"), payload);
    let id = desk.submit(task).await.expect("accepted").record.task.id;
    let record = desk.wait(id).await.expect("it ends");
    assert_eq!(record.state, State::WaitingHuman, "{record:?}");
    id
}

// On one thread, so that everything the team does is logged here.
#[tokio::test]
async fn thirty_five_planted_secrets_are_in_the_store_and_nowhere_else() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _listening = tracing::subscriber::set_default(subscriber);

    let mut clerk = Agent::new("clerk", "sim/model").expect("an agent").handling("fetching");
    clerk.tools = vec!["fetch".to_owned()];
    let mut config = Config::new("house").agent(clerk).agent(Agent::new("ceo", "sim/model").expect("an agent"));
    config.prompts = backstop::prompt::builtin();
    config.api.token = Some(SecretString::from(CONFIGURED));
    let inbox = Inbox::default();
    let team = Team::builder(config)
        .provider(Simulated::new(Integration::new("sim").expect("a name"), script))
        .tools(Leaky { name: Integration::new("local").expect("a name"), calls: Arc::default() })
        .on_call("ana", vec![Arc::new(inbox.clone())])
        .seed(7)
        .start()
        .await
        .expect("the team starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    let desk = team.desk();
    tokio::spawn(api::serve(desk.clone(), listener, api::Tokens::default(), stop.clone().cancelled_owned()));
    backstop::cli::client::install_tls();
    let mut readers = Readers { desk: desk.clone(), url, inbox, log, http: reqwest::Client::new(), read: Vec::new() };

    let payload = json!({ "api_key": canary(31), "ask": format!("my token is sk-ant-api03-{}", canary(32)) });
    let id = ends(&desk, payload.clone()).await;
    readers.page().await;
    readers.everything(id).await;
    let failing = ends(&desk, json!({ "ask": "please fail", "db": { "password": canary(33) } })).await;
    readers.everything(failing).await;
    // A person leaks, too.
    let note = format!("I used token={} and secret: {}", canary(34), canary(35));
    desk.judge(id, None, false, &note, "ana").await.expect("taken");
    assert_eq!(desk.wait(id).await.expect("it ends").state, State::Done);
    readers.everything(id).await;
    readers.cli(&["task", "show", &id.to_string(), "--prompt-diff"]).await;

    // It is all in the store, exact: the work goes on from it. Errors are clean before they get there.
    let stored = serde_json::to_string(&desk.journal(id).await.expect("a journal")).expect("JSON");
    for n in (1..=23).chain([27, 30, 34, 35]) {
        assert!(stored.contains(&canary(n)), "{} was not planted", canary(n));
    }
    assert!(stored.contains(CONFIGURED_BASE64));
    // And its owner, who asks for it by its id, has the payload as it was.
    let owned: Value = serde_json::from_str(&readers.get(&format!("/api/v1/tasks/{id}")).await).expect("JSON");
    readers.read.pop();
    assert_eq!(owned["task"]["payload"], payload);

    stop.cancel();
    readers.read.push(("log".to_owned(), readers.log.text()));
    let pages = serde_json::to_string(&*readers.inbox.0.lock().expect("not poisoned")).expect("JSON");
    assert!(pages.contains("did this happen?"), "{pages}");
    readers.read.push(("pages".to_owned(), pages));
    let secrets =
        (1..=35).map(canary).chain([CONFIGURED, CONFIGURED_BASE64, CONFIGURED_URL, CONFIGURED_HEX].map(str::to_owned));
    let mut leaks = Vec::new();
    for secret in secrets {
        for (whose, text) in &readers.read {
            if let Some(at) = text.find(&secret) {
                let around: String = text[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
                leaks.push(format!("{secret} in {whose}: …{around}"));
            }
        }
    }
    assert!(leaks.is_empty(), "{} leaks\n{}", leaks.len(), leaks.join("\n"));
    // What is no secret stays readable.
    let journal = readers.read.iter().find(|(whose, _)| whose.ends_with("/journal")).map(|(_, text)| text.as_str());
    assert!(journal.is_some_and(|text| text.contains("\"max_tokens\":4096") && text.contains("please")), "{journal:?}");
}
