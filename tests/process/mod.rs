//! `backstop up` as a process that is started, asked, killed and told to stop, against a provider that fails on cue.
#![cfg(unix)]

mod house;
mod tools;

use std::time::Duration;

use backstop::sim::OutageServer;
use backstop::sim::script::{Answer, Behaviour, Script, When};
use serde_json::{Value, json};

use crate::support::{Play, Stub, response};
use house::{KEY, Project, Reader, Up};

/// A provider that answers, unless the prompt asks for something else.
async fn provider() -> OutageServer {
    let script = Script::new(7)
        .rule("hang once", When::any().prompt_has("hang once").calls(1..=1), Behaviour::Hang)
        .rule("hang", When::any().prompt_has("hang always"), Behaviour::Hang)
        .rule("fail", When::any().prompt_has("please fail"), Behaviour::ServerError);
    OutageServer::start(script).await.expect("a port")
}

/// How each attempt of a task ended: `kind`, and whether it counted.
fn failures(record: &Value) -> Vec<String> {
    let attempts = record["attempts"].as_array().expect("attempts");
    let ended = attempts.iter().filter(|attempt| attempt["failure"].is_object());
    ended.map(|attempt| attempt["failure"]["kind"].as_str().expect("a kind").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_against_a_running_team() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let up = project.up(&[]);
    // Work that is done.
    let answer = up.cli_ends(&["task", "submit", "review", "about=this", "--wait"], 0);
    assert!(!answer.trim().is_empty());
    let done = up.cli_ends(&["task", "ls", "--state", "done", "-o", "name"], 0).trim().to_owned();
    let (table, shown) = up.reads(&["task", "show", &done]);
    assert!(table.contains("done"), "{table}");
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("done"), &json!(1)), "{shown}");
    assert_eq!(up.reads(&["task", "show", &done[..13]]).1["task"]["id"], json!(done));
    up.cli_ends(&["healthcheck"], 0);
    assert_eq!(up.reads(&["agent", "ls"]).1["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(up.reads(&["agent", "show", "cto"]).1["name"], "cto");
    assert_eq!(up.reads(&["dlq", "ls"]).1["items"], json!([]));
    assert_eq!(up.reads(&["incident", "ls"]).1["items"], json!([]));
    assert!(up.reads(&["explain", "review"]).0.contains('3'));
    assert!(up.reads(&["explain", &done]).0.contains('3'));
    assert!(up.reads(&["status"]).1.is_object());
    up.cli_ends(&["status", "--exit-code"], 0);

    // Work that is cancelled while it runs.
    let hung = up.submit("review", "hang always");
    up.happens(&hung, "claimed").await;
    provider.seen(2).await;
    up.cli_ends(&["task", "cancel", &hung, "--reason", "sent by mistake"], 0);
    assert_eq!(up.task(&hung).await["state"], "cancelled");
    assert!(up.cli_ends(&["task", "cancel", &hung], 1).contains("cancelled"));
    assert!(up.cli_ends(&["task", "show", "0192d5a1-7c3e"], 1).contains("there is no task"));

    // Work that is given up on: a payment whose provider failed after it was sent waits for a person.
    let charge = up.submit("charge", "please fail");
    up.happens(&charge, "decided").await;
    up.until(|event| event["event"] == "incident-opened").await;
    let output = up.cli(&["task", "submit", "charge", "about=please fail", "--wait"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(up.reads(&["dlq", "ls"]).1["items"].as_array().map(Vec::len), Some(2));
    assert!(up.reads(&["dlq", "groups"]).0.contains("charge"));
    assert!(up.reads(&["dlq", "show", &charge]).0.contains(&charge));
    assert!(up.reads(&["ceo", "log"]).0.contains("page a human"));
    assert!(up.reads(&["ceo", "explain", &charge]).1.is_array());
    up.cli_ends(&["status", "--exit-code"], 11);
    let (_, incidents) = up.reads(&["incident", "ls", "--open"]);
    let incident = incidents["items"][0]["id"].as_str().expect("an incident").to_owned();
    assert_eq!(up.reads(&["incident", "show", &incident]).1["id"], json!(incident));
    up.cli_ends(&["incident", "ack", &incident, "--note", "looking"], 0);
    assert!(up.cli_ends(&["incident", "show", &incident], 0).contains("ana"));

    // A payment is only repeated by name; the plan changes nothing.
    let (plan, raw) = up.reads(&["dlq", "replay", "--all", "--dry-run"]);
    assert!(plan.contains("2 needs-person"), "{plan}");
    assert_eq!(raw["entries"].as_array().map(Vec::len), Some(2));
    assert!(up.cli_ends(&["dlq", "replay", "--all", "--yes"], 1).contains("none of them would be sent again"));
    assert!(up.cli_ends(&["dlq", "replay", "--payment", &charge], 5).contains("--reason"));
    let replay = up
        .cli_ends(&["dlq", "replay", "--payment", &charge, "--reason", "bank: not charged", "--yes", "-o", "name"], 0);
    let replay = replay.trim();
    up.until(|event| event["event"] == "replayed" && event["task"] == json!(charge)).await;
    assert!(up.reads(&["replay", "ls"]).0.contains(replay));
    assert_eq!(up.reads(&["replay", "show", replay]).1["id"], json!(replay));
    assert!(up.cli_ends(&["replay", "pause", replay], 5).contains("finished"));

    // Decided by hand, discarded, and the incident closed.
    up.until(|event| event["event"] == "dead-lettered" && event["task"] == json!(charge) && event["generation"] == 2)
        .await;
    up.cli_ends(&["ceo", "decide", &charge, "resolve", "--reason", "charged by hand"], 0);
    assert_eq!(up.task(&charge).await["state"], "done");
    let other = up.cli_ends(&["dlq", "ls", "-o", "name"], 0).trim().to_owned();
    assert!(up.cli_ends(&["dlq", "discard", &other], 2).contains("--reason"));
    up.cli_ends(&["dlq", "discard", &other, "--reason", "order was cancelled", "--dry-run"], 0);
    up.cli_ends(&["dlq", "discard", &other, "--reason", "order was cancelled"], 0);
    assert_eq!(up.reads(&["dlq", "ls"]).1["items"], json!([]));
    up.cli_ends(&["incident", "resolve", &incident, "--note", "done"], 0);
    assert!(up.cli_ends(&["incident", "resolve", &incident], 5).contains("resolved"));

    // Breakers by hand: what waits is parked, and goes on.
    assert!(up.reads(&["breaker", "ls"]).0.contains("closed"));
    up.cli_ends(&["breaker", "open", "anthropic", "--for", "30m", "--reason", "maintenance"], 0);
    assert!(up.cli_ends(&["status"], 0).contains("forced-open"));
    let parked = up.submit("review", "later");
    up.happens(&parked, "parked").await;
    assert_eq!(up.cli_ends(&["task", "ls", "--state", "parked", "-o", "name"], 0).trim(), parked);
    up.cli_ends(&["breaker", "close", "anthropic", "--reason", "over"], 0);
    up.happens(&parked, "done").await;
    assert!(up.cli_ends(&["breaker", "open", "nobody"], 1).contains("nobody"));

    // An incident answered for all its tasks at once.
    let last = up.submit("charge", "please fail, the last");
    up.happens(&last, "decided").await;
    let opened = up
        .until(|it| {
            it["event"] == "incident-opened"
                && it["incident"] != incident.as_str()
                && it["summary"].as_str().is_some_and(|summary| summary.contains("dead letter"))
        })
        .await;
    let second = opened["incident"].as_str().expect("its name");
    up.cli_ends(&["incident", "override", second, "discard", "--reason", "orders were cancelled"], 0);
    assert_eq!(up.task(&last).await["letter"]["status"], "discarded");

    // The feed and the pager.
    let events = up.cli_ends(&["events"], 0);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(
        up.cli_ends(&["events", "--task", &parked], 0).lines().count(),
        events.iter().filter(|e| e["task"] == json!(parked)).count()
    );
    assert!(up.reads(&["page", "test"]).0.contains("log"));
    assert!(up.cli_ends(&["page", "test", "--channel", "pigeon"], 1).contains("pigeon"));

    // And it was counted.
    let (_, metrics) = up.get("/metrics").await;
    for line in [
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"submitted\"} 3",
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"done\"} 2",
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"cancelled\"} 1",
        "backstop_tasks_lost 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_resumes_its_work_at_once_and_the_attempt_counted() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let up = project.up(&[]);
    let task = up.submit("review", "hang once");
    provider.seen(1).await;
    assert_eq!(up.task(&task).await["state"], "running");
    up.kill();
    // Its lease would have lasted another ten minutes.
    let up = project.up(&[]);
    up.happens(&task, "done").await;
    let record = up.task(&task).await;
    assert_eq!(failures(&record), ["process_died"], "{record}");
    assert_eq!((&record["attempt"], &record["generation"]), (&json!(2), &json!(1)), "{record}");
    assert_eq!(up.json("/api/v1/balance").await["lost"], 0);
    assert_eq!(provider.requests().len(), 2);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_with_three_processes_is_buried_and_the_rest_goes_on() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let mut poison = String::new();
    for round in 1..=3 {
        let up = project.up(&[]);
        if round == 1 {
            poison = up.submit("review", "hang always");
        }
        up.until(|event| event["event"] == "claimed" && event["task"] == json!(poison) && event["attempt"] == round)
            .await;
        let other = up.submit("review", "something else");
        up.happens(&other, "done").await;
        up.kill();
    }
    let up = project.up(&[]);
    let buried = up.happens(&poison, "dead-lettered").await;
    assert_eq!(buried["attempts"], 3, "{buried}");
    let record = up.task(&poison).await;
    assert_eq!(failures(&record), ["process_died"; 3], "{record}");
    let states: Vec<Value> =
        up.json("/api/v1/tasks?states=done").await["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(states.len(), 3);
    assert_eq!(provider.requests().iter().filter(|served| served.prompt.contains("hang always")).count(), 3);
    provider.shutdown().await;
}

/// The next process once buried such a payment after its CEO had looked for letters, and told nobody: the letter lay
/// undecided, and nobody was called, until something else happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_ran_when_the_process_died_is_never_sent_again() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let up = project.up(&[]);
    let charge = up.submit("charge", "hang once");
    provider.seen(1).await;
    up.kill();
    let up = project.up(&[]);
    up.happens(&charge, "decided").await;
    let record = up.task(&charge).await;
    assert_eq!(record["state"], "waiting-human", "{record}");
    assert_eq!(record["letter"]["failure"]["kind"], "outcome_unknown", "{record}");
    // Whatever else the team does meanwhile, and after another start: the bank heard of it once.
    let other = up.submit("review", "this");
    up.happens(&other, "done").await;
    up.kill();
    let up = project.up(&[]);
    let other = up.submit("review", "that");
    up.happens(&other, "done").await;
    assert_eq!(up.task(&charge).await["state"], "waiting-human");
    assert_eq!(provider.requests().iter().filter(|served| served.prompt.contains("hang once")).count(), 1);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_gives_running_work_back_uncounted() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let mut up = project.up(&[]);
    let task = up.submit("review", "hang once");
    provider.seen(1).await;
    up.signal("TERM");
    up.says("draining");
    let status = up.ended();
    assert_eq!(status.code(), Some(0), "{}", up.said().join("\n"));
    let up = project.up(&[]);
    up.happens(&task, "done").await;
    let record = up.task(&task).await;
    assert_eq!((failures(&record), &record["attempt"]), (Vec::new(), &json!(1)), "{record}");
    provider.shutdown().await;
}

/// A terminal that goes away says so twice, by itself and by its shell: that is no word to stop at once.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn when_its_terminal_goes_away_it_stops_as_it_would_when_told() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let mut up = project.up_with("--default-signal=HUP");
    let task = up.submit("review", "hang once");
    provider.seen(1).await;
    up.signal("HUP");
    up.says("draining");
    up.signal("HUP");
    let status = up.ended();
    assert_eq!(status.code(), Some(0), "{}", up.said().join("\n"));
    let up = project.up(&[]);
    up.happens(&task, "done").await;
    assert_eq!(failures(&up.task(&task).await), Vec::<String>::new());
    provider.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn started_by_nohup_it_goes_on_without_its_terminal() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let mut up = project.up_with("--ignore-signal=HUP");
    up.signal("HUP");
    let task = up.submit("review", "this");
    up.happens(&task, "done").await;
    up.signal("TERM");
    assert_eq!(up.ended().code(), Some(0), "{}", up.said().join("\n"));
    provider.shutdown().await;
}

/// A log on a full disk stopped the whole team: what `tracing` said about it went to the log as well, and panicked in the
/// agent that had logged, between its call and its record. Its tasks were running for ever, and told to stop the process
/// went on. One whose reader stood still did the same, by waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let provider = provider().await;
    for reader in [Reader::Gone, Reader::StandsStill] {
        let project = Project::new(&provider.url());
        let mut up = project.up_unheard(reader);
        let failing = up.submit("review", "please fail");
        up.happens(&failing, "decided").await;
        let well = up.submit("review", "this");
        up.happens(&well, "done").await;
        up.signal("TERM");
        assert_eq!(up.ended().code(), Some(0), "{reader:?}");
    }
    provider.shutdown().await;
}

/// A second signal was once missed when it came while the first was being obeyed.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_it_says_so_and_takes_nothing_new() {
    let provider = provider().await;
    let project = Project::new(&provider.url()).with("drain-timeout: 1s", "drain-timeout: 5m");
    let mut up = project.up(&[]);
    assert_eq!(up.get("/readyz").await.0, 200);
    let task = up.submit("review", "hang once");
    provider.seen(1).await;
    up.signal("TERM");
    up.until(|event| event["event"] == "draining").await;
    let (status, text) = up.get("/readyz").await;
    assert!(status == 503 && text.contains("draining"), "{status} {text}");
    assert_eq!(up.get("/livez").await.0, 200);
    let refused = up.cli_ends(&["task", "submit", "review", "about=this"], 4);
    assert!(refused.contains("draining"), "{refused}");
    up.cli_ends(&["healthcheck"], 1);
    assert_eq!(up.task(&task).await["state"], "running", "what runs may still be looked at");
    // Five minutes are too long for somebody.
    up.signal("INT");
    let status = up.ended();
    assert_eq!(status.code(), Some(130), "{}", up.said().join("\n"));
    // That was as good as a kill: it counted.
    let up = project.up(&[]);
    up.happens(&task, "done").await;
    assert_eq!(failures(&up.task(&task).await), ["process_died"]);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_ends_within_the_grace_is_finished() {
    let pause = Duration::from_millis(300);
    let slow = Behaviour::Slow { answer: Answer::Text("slow and sure, word by word".into()), pause };
    let provider = OutageServer::start(Script::new(7).rule("slow", When::any(), slow)).await.expect("a port");
    let project = Project::new(&provider.url()).with("drain-timeout: 1s", "drain-timeout: 5m");
    let mut up = project.up(&[]);
    let task = up.submit("review", "this");
    provider.seen(1).await;
    up.signal("TERM");
    let status = up.ended();
    assert_eq!(status.code(), Some(0), "{}", up.said().join("\n"));
    let up = project.up(&[]);
    let record = up.task(&task).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("done"), &json!(1)), "{record}");
    assert_eq!(provider.requests().len(), 1);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let said = project.refused(true, 3);
    assert!(said.contains("TEAM_KEY") && said.contains("not started"), "{said}");
    assert!(!project.dir().join(".backstop").exists(), "nothing was begun");

    let broken = Project::new(&provider.url()).with("threshold: 1", "threshold: none").with("1ms", "soon");
    broken.write("agents/cto.md", "---\nname: cto\nmodell: x\n---\n");
    let said = broken.refused(false, 3);
    for mistake in ["threshold", "backoff", "modell"] {
        assert!(said.contains(mistake), "{mistake} is not in\n{said}");
    }
    assert!(!broken.dir().join(".backstop").exists(), "nothing was begun");

    let up = project.up(&[]);
    let said = project.refused(false, 3);
    assert!(said.contains("in use by another backstop process"), "{said}");
    // The first one did not notice.
    let task = up.submit("review", "this");
    up.happens(&task, "done").await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_is_named_in_one_sentence() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    project.write("afile", "no directory");
    let below = project.dir().join("afile/data");
    let said = Project::refused_by(project.command(&["--data", below.to_str().expect("UTF-8")]), 3);
    assert!(said.contains("not started") && said.contains("afile/data") && said.contains("Not a directory"), "{said}");
    let said = project.refused_with_files(12, 3);
    assert!(said.contains("not started") && said.contains("backstop.db"), "{said}");
    // Nothing of that stands in the way when there is room again.
    let up = project.up(&[]);
    let task = up.submit("review", "this");
    up.happens(&task, "done").await;
    provider.shutdown().await;
}

/// Everything a process shows of itself, whoever asks.
async fn everything(up: &Up, task: &str) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for path in [
        "/api/v1/tasks",
        "/api/v1/dead-letters",
        "/api/v1/dead-letters/groups",
        "/api/v1/events?limit=1000",
        "/api/v1/decisions",
        "/api/v1/incidents",
        "/api/v1/agents",
        "/api/v1/breakers",
        "/api/v1/status",
        "/api/v1/explain?type=review",
        "/metrics",
    ] {
        shown.push((path.to_owned(), up.get(path).await.1));
    }
    for path in [format!("/api/v1/tasks/{task}"), format!("/api/v1/tasks/{task}/events")] {
        let (status, text) = up.get(&path).await;
        assert_eq!(status, 200, "{path}: {text}");
        shown.push((path, text));
    }
    shown
}

/// Only the plain key and its usual shapes were once taken out of the evidence; a gateway that echoed the header in
/// Base64 put it into the log, the record and the dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_provider_echoes_is_shown_nowhere() {
    let encoded = base64(format!("Authorization: Bearer {KEY}").as_bytes());
    let message = format!("Incorrect API key provided: {KEY}. You sent {encoded} and x-api-key: {KEY}");
    let body = json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).to_string();
    let html = format!("<html>{message}</html>");
    for (ends, answer) in [
        ("parked", response(401, &[("x-echo", KEY), ("request-id", KEY)], &body)),
        ("parked", response(400, &[("request-id", KEY)], &body)),
        ("decided", response(500, &[("location", KEY)], &message)),
        ("decided", response(200, &[("content-type", "text/html")], &html)),
    ] {
        let plays = vec![Play::Send(answer), Play::Close];
        let provider = Stub::playing(plays).await;
        let project = Project::new(&provider.url());
        let up = project.up(&["--log", "json", "-vv"]);
        let task = up.submit("review", "this");
        up.happens(&task, ends).await;
        assert!(provider.heard().iter().all(|heard| heard.header("x-api-key") == Some(KEY)));
        let mut shown = everything(&up, &task).await;
        for arguments in [&["task", "show", &task][..], &["dlq", "ls"], &["events"], &["ceo", "explain", &task]] {
            shown.push((arguments.join(" "), up.cli_ends(arguments, 0)));
        }
        shown.push(("stdout and stderr".to_owned(), up.kill().join("\n")));
        for file in std::fs::read_dir(project.dir().join(".backstop/data")).expect("the data") {
            let file = file.expect("a file").path();
            shown.push((
                file.display().to_string(),
                String::from_utf8_lossy(&std::fs::read(&file).expect("read")).into(),
            ));
        }
        for (place, text) in shown {
            for part in ["CANARY7Zq9", "Lk4PpRt8sYb1Nc5Md6", &base64(&KEY.as_bytes()[..30]), &encoded[20..60]] {
                assert!(!text.contains(part), "{part} is shown by {place}:\n{text}");
            }
        }
    }
}

/// As providers' gateways do it (RFC 4648, without padding).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = |chunk: &[u8]| {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let letters = [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63]));
        letters.into_iter().take(chunk.len() + 1).collect::<String>()
    };
    bytes.chunks(3).map(sextets).collect()
}

/// Where it is and that it drains were once said as plain words between the lines of JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_json_is_json_to_the_last_line() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let mut up = project.up(&["--log", "json"]);
    let task = up.submit("review", "please fail");
    up.happens(&task, "dead-lettered").await;
    up.signal("TERM");
    assert_eq!(up.ended().code(), Some(0));
    let lines: Vec<Value> = up
        .said()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let attempts: Vec<&Value> = lines.iter().filter(|line| line["span"]["name"] == "attempt").collect();
    let numbers: Vec<&Value> = attempts.iter().map(|line| &line["span"]["attempt"]).collect();
    assert_eq!(numbers, [1, 2, 3], "{attempts:?}");
    let of_the_task = |line: &Value| {
        line["spans"].as_array().is_some_and(|spans| spans.iter().any(|span| span["task"] == json!(task)))
    };
    for line in attempts {
        assert_eq!((of_the_task(line), &line["span"]["agent"]), (true, &json!("cto")), "{line}");
        assert_eq!(
            (&line["level"], &line["class"], &line["kind"]),
            (&json!("WARN"), &json!("transient"), &json!("server_error")),
            "{line}"
        );
    }
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_was_counted() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let up = project.up(&[]);
    let done = up.submit("review", "this");
    up.happens(&done, "done").await;
    let failed = up.submit("review", "please fail");
    up.happens(&failed, "dead-lettered").await;
    let (_, metrics) = up.get("/metrics").await;
    let tokens = provider.requests()[0].input_tokens;
    for line in [
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"submitted\"} 2".to_owned(),
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"done\"} 1".to_owned(),
        "backstop_tasks_total{agent=\"cto\",task_type=\"review\",outcome=\"dead\"} 1".to_owned(),
        "backstop_dead_letters_total{agent=\"cto\",task_type=\"review\",class=\"transient\"} 1".to_owned(),
        "backstop_attempts_total{agent=\"cto\",task_type=\"review\",class=\"transient\",result=\"dead-letter\"} 1"
            .to_owned(),
        format!(
            "backstop_llm_tokens_total{{provider=\"anthropic\",model=\"claude-sonnet-5-5\",direction=\"input\"}} {tokens}"
        ),
        "backstop_tasks_lost 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    provider.shutdown().await;
}

/// The team took a token with the end of its line for another one than anybody could send, and let nobody in; whoever asked
/// with the same was told that a header cannot carry it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_the_same_with_and_without_the_end_of_its_line() {
    let provider = provider().await;
    let project = Project::new(&provider.url());
    let up = project.up_behind("t0k\n");
    for (token, code) in [("t0k", 0), ("t0k\n", 0), (" t0k\r\n", 0), ("t1k", 3)] {
        let output = up.cli_with(token, &["status"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{token:?}: {stderr}");
    }
    provider.shutdown().await;
}
