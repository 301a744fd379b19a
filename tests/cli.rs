//! The command line keeps its word: help with examples, exit codes, refusals, data on stdout and words on stderr.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use backstop::engine::Engine;
use backstop::engine::conformance::{ask, at, dead, failure, integration, settle, task};
use backstop::engine::memory::Memory;
use backstop::failure::{Class, Kind};
use backstop::record::{LetterStatus, Record, State};
use serde_json::{Value, json};

use crate::engine::Scratch;
use crate::support::{Play, Stub, response};

/// The real binary, with an environment of its own.
fn backstop(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs it and checks the exit code; stdout and stderr.
fn check(arguments: &[&str], code: i32) -> (String, String) {
    let output = backstop(arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

/// An address where nobody listens: a port that was free a moment ago.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

const COMMANDS: &[&[&str]] = &[
    &["demo"],
    &["outage", "serve"],
    &["sim", "agree"],
    &["init"],
    &["check"],
    &["bound"],
    &["up"],
    &["status"],
    &["task", "submit"],
    &["task", "ls"],
    &["task", "show"],
    &["task", "journal"],
    &["task", "outcome"],
    &["task", "cancel"],
    &["dlq", "ls"],
    &["dlq", "groups"],
    &["dlq", "show"],
    &["dlq", "replay"],
    &["dlq", "discard"],
    &["replay", "ls"],
    &["replay", "show"],
    &["replay", "pause"],
    &["replay", "resume"],
    &["replay", "cancel"],
    &["agent", "ls"],
    &["agent", "show"],
    &["ceo", "log"],
    &["ceo", "explain"],
    &["ceo", "decide"],
    &["incident", "ls"],
    &["incident", "show"],
    &["incident", "ack"],
    &["incident", "override"],
    &["incident", "resolve"],
    &["breaker", "ls"],
    &["breaker", "open"],
    &["breaker", "close"],
    &["events"],
    &["page", "test"],
    &["prune"],
    &["explain"],
    &["why"],
    &["healthcheck"],
    &["completions"],
    &["version"],
];

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in COMMANDS {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let (stdout, stderr) = check(&arguments, 0);
        assert!(stdout.contains("Examples:\n  "), "{command:?}:\n{stdout}");
        assert!(stderr.is_empty(), "{command:?}: {stderr}");
    }
    assert!(check(&["--help"], 0).0.contains("backstop demo"));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_meant() {
    for (arguments, expected) in [
        (&["stats"][..], "'status'"),
        (&["task", "submitt"], "'submit'"),
        (&["task", "submit"], "<TASK_TYPE>"),
        (&["task", "submit", "code review"], "may only hold letters"),
        (&["task", "submit", "mail", "--effect", "paymant"], "read-only, notification, mutation, payment"),
        (&["task", "submit", "mail", "{"], "the payload is not JSON"),
        (&["task", "submit", "mail", "--deadline", "soon"], "neither a span from now"),
        (&["task", "ls", "--state", "sleeping"], "ready, scheduled, parked"),
        (&["task", "ls", "--limit", "0"], "1..=1000"),
        (&["task", "outcome", "0192d5a1"], "--happened"),
        (&["task", "outcome", "0192d5a1", "--happened", "--did-not-happen"], "cannot be used with"),
        (&["task", "outcome", "0192d5a1", "--happened", "--step", "0"], "1.."),
        (&["dlq", "ls", "--where", "clas:transient"], "did you mean `class`?"),
        (&["dlq", "ls", "--where", "age:1h"], "`age:>1h` for older"),
        (&["dlq", "ls", "--where", "agent:a", "--agent", "b"], "give one of them"),
        (&["dlq", "replay", "--rate", "fast"], "10/s"),
        (&["dlq", "replay", "--error", ""], "--error is empty"),
        (&["task", "ls", "--error", ""], "--error is empty"),
        (&["dlq", "replay", "--where", "due_by:1h"], "a dead letter is not due"),
        (&["dlq", "discard", "--where", "due_by:1h", "--reason", "old"], "a dead letter is not due"),
        (&["breaker", "open", "anthropic", "--for", "10"], "is not a duration"),
        (&["ceo", "decide", "0192d5a1", "retry"], "retry-on-fallback"),
        (&["ceo", "decide", "0192d5a1", "retry-on-fallback", "--model", "opus"], "must be written provider/model"),
        (&["ceo", "decide", "0192d5a1", "discard"], "needs --reason"),
        (&["--url", "ftp://x", "status"], "must begin with http"),
        (&["--url", "nonsense", "status"], "is not the address of a team"),
        (&["demo", "--speed", "0"], "1 to 200"),
        (&["outage", "serve", "--fault", "overloded"], "did you mean `overloaded`?"),
        (&["outage", "serve", "--fault", "hang,shre=1"], "did you mean `share`?"),
        (&["outage", "serve", "--speed", "0", "--port", "0"], "is no speed"),
        (&["outage", "serve", "--upstream", "ftp://x", "--port", "0"], "must begin with http"),
        (&["demo", "--keep", "a", "--resume", "b"], "cannot be used with"),
        (&[], "Usage"),
    ] {
        let (stdout, stderr) = check(arguments, 2);
        assert!(stderr.contains(expected), "{arguments:?} does not say {expected}:\n{stderr}");
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
    }
}

#[test]
fn an_unreachable_team_ends_with_4_and_a_command_to_try() {
    let url = nobody();
    for command in [
        &["status"][..],
        &["healthcheck"],
        &["task", "ls"],
        &["task", "submit", "mail", "to=a"],
        &["dlq", "groups"],
        &["dlq", "replay", "--all", "--yes"],
        &["events", "--follow"],
        &["page", "test"],
        &["explain", "mail"],
    ] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--url", &url]).collect();
        let (stdout, stderr) = check(&arguments, 4);
        assert!(stderr.contains("is `backstop up` running?") && stderr.contains("try: backstop up"), "{stderr}");
        assert!(stdout.is_empty(), "{stdout}");
    }
}

/// Whoever had the password of a proxy in BACKSTOP_URL read it in every error about that address, and in every help.
#[test]
fn the_password_of_an_address_is_not_shown() {
    let there = nobody().replace("http://", "http://ops:hunter2secret@");
    for (command, url, code) in [
        (&["status"][..], there.as_str(), 4),
        (&["events", "--follow"], &there, 4),
        (&["status"], "ftp://ops:hunter2secret@127.0.0.1:9", 2),
        (&["status"], "ops:hunter2secret@127.0.0.1:9", 2),
        (&["status"], "http://ops:hunter2secret/x@127.0.0.1:9", 2),
        (&["status", "--help"], &there, 0),
    ] {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_backstop"));
        asked.args(command).env_clear().env("BACKSTOP_URL", url).stdin(Stdio::null());
        let output = asked.output().expect("the binary runs");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?} {url}: {said}");
        assert!(!said.contains("hunter2secret"), "{command:?} {url}: {said}");
    }
}

/// Whoever mistyped the scheme of `--upstream` read the whole address in the error, its password with it.
#[test]
fn the_password_of_an_upstream_is_not_shown() {
    for upstream in [
        "ftp://ops:hunter2secret@127.0.0.1:9",
        "ops:hunter2secret@127.0.0.1:9",
        "https://ops:hunter2secret/x@127.0.0.1:9",
        "ftp://127.0.0.1:9/?key=hunter2secret",
    ] {
        let (stdout, stderr) = check(&["outage", "serve", "--port", "0", "--upstream", upstream], 2);
        assert!(stderr.contains("127.0.0.1:9") && stderr.contains("is no upstream"), "{upstream}: {stderr}");
        assert!(!stderr.contains("hunter2secret") && stdout.is_empty(), "{upstream}: {stdout}{stderr}");
    }
}

#[test]
fn dangerous_commands_are_refused_before_anybody_is_asked() {
    let url = nobody();
    for (command, code, expected) in [
        (&["dlq", "replay"][..], 2, "--all"),
        (&["dlq", "replay", "--where", ""], 2, "--all"),
        (&["dlq", "replay", "--payment", "0192d5a1-7c3e-7000-8000-000000000001"], 5, "--reason"),
        (&["dlq", "discard", "--reason", "old"], 2, "--all"),
        (&["dlq", "discard", "--all"], 2, "--reason"),
        (&["dlq", "discard", "--all", "--reason", " "], 2, "--reason"),
        (&["dlq", "discard", "0192d5a1-7c3e", "--agent", "cto", "--reason", "old"], 2, "both choose"),
    ] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--url", &url]).collect();
        let (stdout, stderr) = check(&arguments, code);
        assert!(stderr.contains(expected), "{command:?}: {stderr}");
        assert!(stdout.is_empty(), "{command:?}: {stdout}");
    }
}

/// `task submit --wait` ended with 1 while the CEO was deciding about a dead letter: the task was sent on and done, and
/// whoever had waited for it was told that it had failed.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_task_waits_while_the_ceo_decides() {
    let engine = Memory::new();
    let submitted = engine.submit(task(1, at(0)), integration("sim"), at(0)).await.expect("accepted");
    let id = submitted.record.task.id;
    let fence = engine.lease(ask(1, 1), at(0)).await.expect("leased")[0].fence;
    let given_up = settle(fence, dead(failure(Class::Transient, Kind::Timeout, "slow")));
    let undecided = engine.command(id, given_up, at(0)).await.expect("settled");
    let then = |state: State, status: LetterStatus| {
        let mut record: Record = undecided.clone();
        record.state = state;
        record.letter.as_mut().expect("a letter").status = status;
        record
    };
    let play = |body: Value| {
        let headers = [("content-type", "application/json"), ("connection", "close")];
        vec![Play::Send(response(200, &headers, &body.to_string())), Play::Close]
    };
    for (state, status, code) in [
        (State::Done, LetterStatus::Resolved, 0),
        (State::Dead, LetterStatus::Discarded, 1),
        (State::WaitingHuman, LetterStatus::WithHuman, 1),
    ] {
        let plays = vec![play(json!(submitted)), play(json!(undecided)), play(json!(then(state, status)))];
        let stub = Stub::in_turn(plays).await;
        let (_, stderr) = check(&["task", "submit", "code_review", "n:=1", "--wait", "--url", &stub.url()], code);
        assert!(stderr.contains(&format!("{id} dead (attempt")), "{state}: {stderr}");
        assert_eq!(stub.heard().len(), 3, "{state}: it looked until that was decided: {stderr}");
    }
}

#[test]
fn completions_and_versions_are_data() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (stdout, stderr) = check(&["completions", shell], 0);
        assert!(stdout.contains("backstop") && stdout.contains("dlq"), "{shell}");
        assert!(stderr.is_empty(), "{shell}: {stderr}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(check(&["version"], 0).0, format!("backstop {version}\n"));
    assert_eq!(check(&["--version"], 0).0, format!("backstop {version}\n"));
    let json: serde_json::Value = serde_json::from_str(&check(&["version", "--json"], 0).0).expect("json");
    assert_eq!(json["version"], version);
    assert_eq!(check(&["version", "-o", "yaml"], 0).0, format!("name: backstop\nversion: \"{version}\"\n"));
    assert_eq!(check(&["version", "-o", "name"], 0).0, format!("{version}\n"));
}

/// As in an image that holds the binary and nothing else.
#[test]
fn without_the_systems_certificates_all_works_that_needs_none() {
    let bare = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command
            .args(arguments)
            .env_clear()
            .env("SSL_CERT_FILE", "/dev/null")
            .env("HOOK", "hook-secret")
            .stdin(Stdio::null());
        command
    };
    let url = nobody();
    for (command, code) in [
        (&["version"][..], 0),
        (&["version", "--url", "https://backstop.example"], 0),
        (&["status", "--url", &url], 4),
        // Not this machine by its name, and nobody there.
        (&["status", "--url", "http://0.0.0.0:1"], 4),
        (&["status", "--url", "https://127.0.0.1:1"], 2),
    ] {
        let output = bare(command).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output.stderr));
    }

    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("agents")).expect("a directory");
    let team = "team: bare
providers: { ollama: { base-url: \"http://127.0.0.1:1\" } }
tools:
  http: { hosts: { \"127.0.0.1:1\": { methods: [GET] } } }
  mcp: { far: { url: \"http://127.0.0.1:1\" } }
escalation:
  on-call: [{ name: ana, channels: [{ webhook: { url: \"http://127.0.0.1:1\", secret: \"${HOOK}\" } }] }]
";
    std::fs::write(scratch.path().join("backstop.yaml"), team).expect("written");
    let agent = "---\nname: worker\ndescription: Works.\nmodel: ollama/any\nhandles: [work]\ntools: [\"http:get\", \"mcp:far/*\"]\n---\nBe brief.\n";
    std::fs::write(scratch.path().join("agents/worker.md"), agent).expect("written");
    let dir = scratch.path().display().to_string();
    let mut up =
        bare(&["up", "--listen", "127.0.0.1:0", &dir]).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut said = Vec::new();
    for line in BufReader::new(up.stderr.take().expect("stderr")).lines() {
        said.push(line.expect("UTF-8"));
        if said.iter().any(|line| line.contains("http://")) {
            break;
        }
    }
    assert!(said.iter().any(|line| line.starts_with("bare: 1 agents, http://127.0.0.1:")), "{said:?}");
    up.kill().expect("ended");
    up.wait().expect("ended");
}

/// `check` said "ok" of a mail server and of a sender that `up` then refused, without a file or a line.
#[cfg(feature = "smtp")]
#[test]
fn mail_that_cannot_be_sent_is_told_with_its_place() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("agents")).expect("a directory");
    let agent = "---\nname: worker\ndescription: Works.\nmodel: ollama/any\nhandles: [work]\n---\nBe brief.\n";
    std::fs::write(scratch.path().join("agents/worker.md"), agent).expect("written");
    let dir = scratch.path().display().to_string();
    let said = |command: &[&str], smtp: &str, from: &str, code: i32| {
        let team = format!(
            "team: mail
providers: {{ ollama: {{ base-url: \"http://127.0.0.1:1\" }} }}
escalation:
  on-call:
    - {{ name: ana, channels: [log, {{ email: {{ smtp: \"${{SMTP_URL}}\", from: \"{from}\", to: ana@example.com }} }}] }}
"
        );
        std::fs::write(scratch.path().join("backstop.yaml"), team).expect("written");
        let mut asked = Command::new(env!("CARGO_BIN_EXE_backstop"));
        asked.args(command).arg(&dir).env_clear().env("SMTP_URL", smtp).stdin(Stdio::null());
        let output = asked.output().expect("the binary runs");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert!(!said.contains("hunter2secret"), "{command:?}: {said}");
        said
    };
    let sound = "smtp://ops:hunter2secret@127.0.0.1:25";
    said(&["check"], sound, "Backstop <a@b.example>", 0);
    // Not set on the machine that checks.
    said(&["check"], "", "a@b.example", 0);
    for (smtp, from, expected) in [
        (sound, "a b@c", "`a b@c` is not an address"),
        ("smpt://ops:hunter2secret@mail.example", "a@b.example", "its server must be written smtp://host:port"),
    ] {
        for command in [&["check"][..], &["up", "--listen", "127.0.0.1:0"]] {
            let said = said(command, smtp, from, 3);
            let told = format!("backstop.yaml:5: error: escalation.on-call.0.channels.1.email: {expected}");
            assert!(said.contains(&told), "{command:?}: {said}");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(["completions", "bash"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_answers_but_is_no_team_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).expect("a request");
        stream.write_all(b"HTTP/1.1 500 no\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").expect("an answer");
    });
    let (_, stderr) = check(&["status", "--url", &url], 4);
    assert!(stderr.contains("is not a backstop team (HTTP 500)"), "{stderr}");
    answering.join().expect("it answered");
}
