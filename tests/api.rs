//! The operator's door, through real sockets: a team with a scripted model behind the real API and the real binary.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use backstop::agent::Agent;
use backstop::api;
use backstop::config::Config;
use backstop::engine::Engine;
use backstop::engine::embedded::Embedded;
use backstop::engine::memory::Memory;
use backstop::event::{Event, Happening};
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::task::TaskId;
use backstop::team::Team;
use backstop::team::desk::Desk;
use backstop::time::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::engine::Scratch;

/// A running team and its door.
pub(crate) struct House {
    team: Team,
    pub(crate) url: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), api::Error>>,
    http: reqwest::Client,
}

/// Whoever is asked to fail fails for good, with this body; everybody else answers this at once.
fn answers(request: &Request, answer: &str, error: &str) -> Scripted {
    let asked = request.messages.iter().any(|message| message.text().contains("please fail"));
    let provider = "sim".parse().expect("a name");
    if asked { Scripted::status(provider, 500, error, Timestamp::from_millis(0)) } else { Scripted::text(answer) }
}

fn script(request: &Request, _: u64) -> Scripted {
    answers(request, "{\"ok\": true}", "{}")
}

pub(crate) async fn start(token: Option<&str>) -> House {
    let tokens = api::Tokens { all: token.map(SecretString::from), read: token.map(|_| "l00k".into()) };
    start_with(Config::new("test"), tokens).await
}

pub(crate) async fn start_with(config: Config, tokens: api::Tokens) -> House {
    start_over(config, tokens, Arc::new(Memory::new())).await
}

/// A house whose model says these words: as its answer, and as its error where it is asked to fail.
pub(crate) async fn start_saying(words: &str) -> House {
    let (words, error) = (words.to_owned(), json!({ "error": { "message": words } }).to_string());
    let says = move |request: &Request, _: u64| answers(request, &words, &error);
    start_scripted(Config::new("test"), api::Tokens::default(), Arc::new(Memory::new()), says).await
}

async fn start_over(config: Config, tokens: api::Tokens, engine: Arc<dyn Engine>) -> House {
    start_scripted(config, tokens, engine, script).await
}

async fn start_scripted(
    config: Config,
    tokens: api::Tokens,
    engine: Arc<dyn Engine>,
    script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static,
) -> House {
    let mut cto = Agent::new("cto", "sim/model").expect("an agent");
    cto.handles = vec!["*".to_owned()];
    let team = Team::builder(config.agent(cto))
        .engine(engine)
        .provider(Simulated::new("sim".parse().expect("a name"), script))
        .seed(7)
        .start()
        .await
        .expect("the team starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(team.desk(), listener, tokens, stop.clone().cancelled_owned()));
    backstop::cli::client::install_tls();
    House { team, url, stop, serving, http: reqwest::Client::new() }
}

impl House {
    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.http.get(format!("{}{path}", self.url))).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// A task that its model has answered.
    pub(crate) async fn answered(&self) -> String {
        self.submit(&json!({ "type": "mail", "payload": {} }), done).await
    }

    /// A payment that fails: a person is called, and there is an incident.
    pub(crate) async fn incident(&self) -> String {
        self.submit(&payment(), decided).await;
        let mut watch = self.team.desk().engine().watch();
        loop {
            watch.borrow_and_update();
            if let Some(incident) = self.team.desk().incidents().await.expect("incidents").first() {
                return incident.id.clone();
            }
            watch.changed().await.expect("the engine lives");
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.team.desk().now()
    }

    /// How often somebody took this incident on.
    pub(crate) async fn acknowledged(&self, incident: &str) -> usize {
        let events = self.team.desk().engine().events(0, 10_000).await.expect("events");
        let taken = |event: &&Event| matches!(&event.what, Happening::IncidentAcknowledged { incident: of, .. } if of == incident);
        events.iter().filter(taken).count()
    }

    /// Submits and waits until the task has ended as expected.
    async fn submit(&self, body: &Value, ends: fn(&Happening) -> bool) -> String {
        let (status, submitted) = self.post("/api/v1/tasks", body).await;
        assert_eq!(status, 201, "{submitted}");
        let id = submitted["record"]["task"]["id"].as_str().expect("an id").to_owned();
        until(&self.team.desk(), id.parse().expect("an id"), ends).await;
        id
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.serving.await.expect("no panic").expect("served well");
    }

    /// The real binary against this team.
    async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).env_clear().env("BACKSTOP_URL", &self.url).env("USER", "ana").stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().expect("the binary runs")).await.expect("it ends")
    }

    /// The same, with its exit code checked; stdout and stderr.
    async fn cli_ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.cli(arguments).await;
        let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let (stdout, stderr) = (stdout.expect("UTF-8"), stderr.expect("UTF-8"));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.expect("a body")).unwrap_or(Value::Null))
}

/// Reads the feed until something happened to a task.
async fn until(desk: &Desk, task: TaskId, wanted: fn(&Happening) -> bool) {
    let mut watch = desk.engine().watch();
    loop {
        watch.borrow_and_update();
        let events: Vec<Event> = desk.engine().history(task).await.expect("a history");
        if events.iter().any(|event| wanted(&event.what)) {
            return;
        }
        watch.changed().await.expect("the engine lives");
    }
}

fn done(what: &Happening) -> bool {
    matches!(what, Happening::Done { .. })
}

/// A payment that failed is with a person once the CEO has looked at it.
fn decided(what: &Happening) -> bool {
    matches!(what, Happening::Decided { .. })
}

fn payment() -> Value {
    json!({ "type": "charge", "effect": "payment", "payload": { "note": "please fail" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_is_forgotten_on_a_word_and_nothing_else() {
    let house = start(None).await;
    let id = house.submit(&json!({ "type": "mail", "payload": {} }), done).await;
    let nothing =
        json!({ "done": 0, "dead": 0, "cancelled": 0, "incidents": 0, "replays": 0, "events": 0, "next": null });
    for body in [json!({}), json!({ "older_than": "1d" }), json!({ "dry_run": true, "after": 0, "by": "ana" })] {
        assert_eq!(house.post("/api/v1/prune", &body).await, (200, nothing.clone()), "{body}");
    }
    for (body, pointer) in [
        (json!({ "older_than": "1h" }), "/older_than"),
        (json!({ "older_than": "soon" }), "/older_than"),
        (json!({ "older_than": 30 }), "/older_than"),
        (json!({ "dry_run": "yes" }), "/dry_run"),
        (json!({ "after": -1 }), "/after"),
        (json!({ "older": "30d" }), "/older"),
    ] {
        let (status, problem) = house.post("/api/v1/prune", &body).await;
        assert!((400..500).contains(&status), "{body}: {status}");
        assert!(problem.to_string().contains(pointer), "{body}: {problem}");
    }
    assert_eq!(house.get(&format!("/api/v1/tasks/{id}")).await.0, 200, "it is still there");
    assert_eq!(house.get("/api/v1/prune").await.0, 405, "nothing is forgotten by looking");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_accepted_done_and_found_again() {
    let house = start(None).await;
    let id = house.submit(&json!({ "type": "mail", "payload": { "to": "a" } }), done).await;
    let (status, record) = house.get(&format!("/api/v1/tasks/{id}")).await;
    assert_eq!((status, &record["state"]), (200, &json!("done")));
    let (status, by_prefix) = house.get(&format!("/api/v1/tasks/{}", &id[..18])).await;
    assert_eq!((status, &by_prefix["task"]["id"]), (200, &json!(id)), "{by_prefix}");
    let (_, listed) = house.get("/api/v1/tasks?type=mail&states=done&limit=1").await;
    assert_eq!(listed["items"][0]["task"]["id"], json!(id));
    let (_, balance) = house.get("/api/v1/balance").await;
    assert_eq!((&balance["submitted"], &balance["done"], &balance["lost"]), (&json!(1), &json!(1), &json!(0)));
    for (path, status) in [
        ("/api/v1/tasks/0192d5a1-7c3e-7000-8000-000000000001", 404),
        ("/api/v1/tasks/nonsense", 400),
        ("/api/v1/tasks?agnet=cto", 400),
        ("/api/v1/tasks?after=nonsense", 400),
        ("/api/v1/dead-letters?where=zzz", 400),
        ("/api/v1/dead-letters?due_by=1h", 400),
        ("/api/v1/dead-letters/groups?where=due_by:1h", 400),
        ("/api/v1/agents/nobody", 404),
        ("/api/v1/incidents/INC-9", 404),
        ("/api/v1/replays/RPL-9", 404),
        ("/api/v1/explain", 400),
    ] {
        let (found, problem) = house.get(path).await;
        assert_eq!((found, &problem["status"]), (status, &json!(status)), "{path}: {problem}");
        assert_eq!(problem["instance"], json!(path.split('?').next()));
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_submission_safe_to_repeat() {
    let house = start(None).await;
    let submit = async |body: Value| {
        let request = house.http.post(format!("{}/api/v1/tasks", house.url)).header("Idempotency-Key", "order-42");
        answer(request.json(&body)).await
    };
    let (first, one) = submit(json!({ "type": "mail", "payload": { "to": "a" } })).await;
    let (second, two) = submit(json!({ "type": "mail", "payload": { "to": "a" } })).await;
    assert_eq!((first, second), (201, 200));
    assert_eq!(one["record"]["task"]["id"], two["record"]["task"]["id"]);
    let (third, problem) = submit(json!({ "type": "mail", "payload": { "to": "b" } })).await;
    assert_eq!(third, 409);
    assert_eq!(problem["type"], json!("https://backstop.dev/problems/idempotency-key-conflict"));
    let (fourth, problem) = submit(json!({ "type": "mail", "idempotency_key": "other" })).await;
    assert_eq!((fourth, &problem["errors"][0]["pointer"]), (400, &json!("/idempotency_key")));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_waits_for_a_person_and_no_replay_takes_it() {
    let house = start(None).await;
    let id = house.submit(&payment(), decided).await;
    let (_, letters) = house.get("/api/v1/dead-letters?effect=payment").await;
    assert_eq!(letters["items"][0]["task"]["id"], json!(id), "{letters}");
    let (_, groups) = house.get("/api/v1/dead-letters/groups").await;
    assert_eq!((&groups["items"][0]["letters"], &groups["items"][0]["example"]), (&json!(1), &json!(id)));
    let (_, log) = house.get("/api/v1/decisions").await;
    assert_eq!(log["items"][0]["task"], json!(id), "{log}");

    let ask = json!({ "filter": { "type": "charge" }, "reason": "again" });
    let (status, plan) = house.post("/api/v1/replays?dry_run=true", &ask).await;
    assert_eq!((status, &plan["entries"]), (200, &json!([[id, "needs-person"]])), "{plan}");
    let unasked = "2026-11-21T23:00:00Z";
    for (filter, expected, pointer) in [
        (json!({}), 409, Value::Null),
        (json!({ "text": "" }), 400, json!("/filter/text")),
        (json!({ "due_by": unasked, "type": "charge" }), 400, json!("/filter/due_by")),
    ] {
        let ask = json!({ "reason": "everything", "filter": filter });
        let (status, problem) = house.post("/api/v1/replays", &ask).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (expected, &pointer), "{filter}: {problem}");
    }

    let path = format!("/api/v1/dead-letters/{id}");
    let (status, problem) = house.post(&format!("{path}/discard"), &json!({})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/reason")));
    let (status, problem) = house.post(&format!("{path}/decide"), &json!({ "decision": "reasign" })).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("did you mean `reassign`?")), "{problem}");
    let decision = json!({ "decision": "resolve", "note": "charged by hand", "by": "ana", "reason": "receipt 17" });
    let (status, record) = house.post(&format!("{path}/decide"), &decision).await;
    assert_eq!((status, &record["letter"]["status"]), (200, &json!("resolved")), "{record}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_resumed_without_a_gap() {
    let house = start(None).await;
    house.submit(&json!({ "type": "mail" }), done).await;
    let (_, page) = house.get("/api/v1/events?limit=1000").await;
    let all: Vec<u64> = page["items"].as_array().expect("items").iter().filter_map(|e| e["seq"].as_u64()).collect();
    let last = *all.last().expect("events");
    assert_eq!(all, (1..=last).collect::<Vec<_>>());
    let (_, since) = house.get("/api/v1/events?since=1h&limit=1000").await;
    assert_eq!(since["items"].as_array().map(Vec::len), Some(all.len()));

    let url = format!("{}/api/v1/events", house.url);
    let request = house.http.get(&url).header("Accept", "text/event-stream").header("Last-Event-ID", "2");
    let mut stream = request.send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    // What happens after the stream was opened comes through the same stream.
    house.submit(&json!({ "type": "mail" }), done).await;
    let mut text = String::new();
    while !text.contains("\"event\":\"done\"") || text.matches("\"event\":\"done\"").count() < 2 {
        let chunk = stream.chunk().await.expect("a chunk").expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    assert!(text.contains("retry: 2000"), "{text}");
    let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    // The first says where the stream begins.
    assert_eq!(ids, (2..2 + ids.len() as u64).collect::<Vec<_>>());
    assert!(ids.contains(&(last + 1)), "{ids:?}");
    let wrong = house.http.get(&url).header("Accept", "text/event-stream").header("Last-Event-ID", "x");
    assert_eq!(answer(wrong).await.0, 400);

    // An open stream does not hold the server up.
    house.stop.cancel();
    while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    house.close().await;
}

/// Reads a stream until it has said this.
async fn heard(stream: &mut reqwest::Response, what: &str) -> String {
    let mut text = String::new();
    while !text.contains(what) {
        let chunk = stream.chunk().await.expect("a chunk").expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    text
}

/// A stream that broke before its first event had told its reader no number: they came back to what happened next, and what
/// had happened meanwhile never reached them.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_before_its_first_event_is_resumed_without_a_gap() {
    let house = start(None).await;
    house.submit(&json!({ "type": "mail" }), done).await;
    let stream = || house.http.get(format!("{}/api/v1/events", house.url)).header("Accept", "text/event-stream");
    let mut first = stream().send().await.expect("a stream");
    let greeting = heard(&mut first, "\n\n").await;
    drop(first);
    let last = greeting.lines().find_map(|line| line.strip_prefix("id: ")).expect("where it begins");
    let meanwhile = house.submit(&json!({ "type": "mail" }), done).await;
    let mut again = stream().header("Last-Event-ID", last).send().await.expect("a stream");
    let text = heard(&mut again, "\"event\":\"done\"").await;
    drop(again);
    assert!(text.contains("\"event\":\"submitted\"") && text.contains(&meanwhile), "{text}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_speak_of_the_team() {
    let house = start(None).await;
    house.submit(&json!({ "type": "mail" }), done).await;
    let text = async |path: &str| {
        let response = house.http.get(format!("{}{path}", house.url)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    };
    assert_eq!(text("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(text("/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(text("/healthz").await.0, 200);
    assert!(text("/readyz?verbose").await.1.contains("checks"));
    let (status, metrics) = text("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "backstop_agent_up{agent=\"cto\"} 1",
        "backstop_queue_depth{agent=\"cto\",state=\"done\"} 1",
        "backstop_breaker_state{integration=\"sim\",state=\"closed\"} 1",
        "backstop_tasks_lost 0",
        "backstop_incidents_open 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("NaN"), "{metrics}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_foreign_hosts_stay_out() {
    let house = start(Some("s3cret")).await;
    assert_eq!(house.get("/api/v1/tasks").await.0, 401);
    assert_eq!(house.get("/metrics").await.0, 401);
    assert_eq!(house.get("/livez").await.0, 200);
    let with = house.http.get(format!("{}/api/v1/tasks", house.url)).bearer_auth("s3cret");
    assert_eq!(answer(with).await.0, 200);
    let (_, stderr) = house.cli_ends(&["status"], 3).await;
    assert!(stderr.contains("BACKSTOP_TOKEN"), "{stderr}");
    house.close().await;
    let open = start(None).await;
    let foreign = open.http.get(format!("{}/api/v1/tasks", open.url)).header("Host", "evil.example.com");
    assert_eq!(answer(foreign).await.0, 403);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_team_takes_no_more_and_says_when_to_come_back() {
    let house = start(None).await;
    house.team.drain(std::time::Duration::ZERO).await.expect("drained");
    let url = format!("{}/api/v1/tasks", house.url);
    let response = house.http.post(url).json(&json!({ "type": "mail" })).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "30");
    let ready = house.http.get(format!("{}/readyz", house.url)).send().await.expect("an answer");
    assert_eq!(ready.status().as_u16(), 503);
    house.stop.cancel();
    house.serving.await.expect("no panic").expect("served well");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_work_against_a_running_team() {
    let house = start(None).await;
    let (stdout, stderr) = house.cli_ends(&["task", "submit", "mail", "to=a", "--wait"], 0).await;
    assert!(stdout.contains("\"ok\""), "{stdout}");
    assert!(stderr.contains("next: backstop task show"), "{stderr}");
    let id = house.submit(&payment(), decided).await;
    for (arguments, expected) in [
        (&["status"][..], "submitted"),
        (&["task", "ls"], "mail"),
        (&["task", "ls", "-o", "name"], id.as_str()),
        (&["task", "show", &id], "payment"),
        (&["dlq", "ls"], "(payment)"),
        (&["dlq", "groups"], "charge"),
        (&["dlq", "show", &id], "dead letter"),
        (&["dlq", "replay", "--all", "--dry-run"], "1 needs-person"),
        (&["replay", "ls"], "no replays"),
        (&["agent", "ls"], "cto"),
        (&["agent", "show", "cto"], "sim/model"),
        (&["ceo", "log"], "table"),
        (&["ceo", "explain", &id], "because"),
        (&["incident", "ls", "-o", "json"], "items"),
        (&["breaker", "ls"], "sim"),
        (&["breaker", "open", "sim", "--for", "10m", "--reason", "drill"], "sim"),
        (&["breaker", "close", "sim"], "closed"),
        (&["events", "--since", "1h"], "\"event\":\"submitted\""),
        (&["events", "--task", &id], "\"event\":\"dead-lettered\""),
        (&["explain", "mail"], "deliveries"),
        (&["explain", &id], "what happened"),
        (&["healthcheck"], "ready"),
        (&["dlq", "discard", &id, "--reason", "drill"], "discarded"),
    ] {
        let (stdout, stderr) = house.cli_ends(arguments, 0).await;
        assert!(stdout.contains(expected), "{arguments:?} does not say {expected}:\n{stdout}{stderr}");
        assert!(!stdout.contains('\u{1b}'), "{arguments:?}: {stdout:?}");
        assert!(
            stdout.lines().all(|l| l.starts_with('{') || l.chars().count() <= 80 || arguments.contains(&"json")),
            "{stdout}"
        );
    }
    let explained = async |id: &str, format: &str| house.cli_ends(&["ceo", "explain", id, "-o", format], 0).await.0;
    // The CEO's, and the discard of just now.
    assert_eq!(explained(id.as_str(), "name").await, "page-human\ndiscard\n");
    let lines = explained(id.as_str(), "jsonl").await;
    let decided = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["decision"].clone());
    assert_eq!(decided.collect::<Vec<_>>(), ["page-human", "discard"], "{lines}");
    let undecided = house.submit(&json!({ "type": "mail" }), done).await;
    for (format, expected) in [("json", "[]\n"), ("jsonl", ""), ("name", "")] {
        assert_eq!(explained(undecided.as_str(), format).await, expected, "{format}");
    }
    let (_, stderr) =
        house.cli_ends(&["dlq", "discard", "0192d5a1-7c3e-7000-8000-000000000001", "--reason", "x"], 1).await;
    assert!(stderr.contains("error:"), "{stderr}");
    assert_eq!(house.cli(&["agent", "show", "nobody"]).await.status.code(), Some(1));
    house.close().await;
}

/// Of two letters one could not be read, and whoever grouped, replayed or discarded them by a filter was told of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_choice_of_letters_tells_those_that_cannot_be_read() {
    let scratch = Scratch::new();
    let engine = Arc::new(Embedded::open(scratch.path(), Timestamp::from_millis(0)).expect("a store"));
    let house = start_over(Config::new("test"), api::Tokens::default(), engine).await;
    let damaged = house.submit(&payment(), decided).await;
    let sound = house.submit(&payment(), decided).await;
    let db = rusqlite::Connection::open(scratch.path().join("backstop.db")).expect("a store");
    let sql = "UPDATE progress SET record = '{' WHERE seq = (SELECT seq FROM task WHERE id = ?1)";
    assert_eq!(db.execute(sql, [&damaged]), Ok(1));
    for (arguments, expected) in [
        (&["task", "ls"][..], "charge"),
        (&["dlq", "ls"], "(payment)"),
        (&["dlq", "groups"], "charge"),
        (&["dlq", "replay", "--all", "--dry-run"], "1 needs-person"),
        (&["dlq", "discard", "--where", "type:charge", "--reason", "drill", "--dry-run"], "(payment)"),
        (&["dlq", "discard", "--where", "type:charge", "--reason", "drill", "--yes", "-o", "json"], &damaged),
        // Now there is none left but that one.
        (&["dlq", "discard", "--where", "type:charge", "--reason", "drill", "--yes"], ""),
    ] {
        let (stdout, stderr) = house.cli_ends(arguments, 1).await;
        assert!(stdout.contains(expected), "{arguments:?} does not say {expected}:\n{stdout}{stderr}");
        let told = format!("cannot be read: {damaged} (");
        assert!(stderr.contains(&told), "{arguments:?}: {stderr}");
    }
    let record = house.get(&format!("/api/v1/tasks/{sound}")).await.1;
    assert_eq!(record["letter"]["status"], "discarded", "{record}");
    house.close().await;
}
