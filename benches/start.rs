//! From the start of the process to the first task done, and what an idle team of seven takes in memory.
//!
//! `cargo bench --bench start`. The process is started anew each time; beside it stands a process that does nothing,
//! which is what this machine needs to start one at all.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::agent::Agent;
use backstop::engine::embedded::Embedded;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::task::{Integration, TaskType};
use backstop::team::clock::wall;
use backstop::team::desk::NewTask;
use backstop::{Config, Team};
use serde_json::json;

const STARTS: usize = 21;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("nothing") => {}
        Some("task") => first_task(Path::new(&arguments[2])),
        _ => compare(),
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn compare() {
    let nothing = median(|_| vec!["nothing".to_owned()]);
    let fresh = median(|n| vec!["task".to_owned(), scratch(&format!("fresh-{n}")).display().to_string()]);
    let kept = scratch("kept").display().to_string();
    let again = median(|_| vec!["task".to_owned(), kept.clone()]);
    println!("a process that does nothing: {nothing:.1?}");
    for (what, span) in [("a new directory", fresh), ("a directory with its record", again)] {
        let ratio = span.as_secs_f64() / nothing.as_secs_f64();
        println!("process start to first task done, {what}: {span:.1?} ({ratio:.1} empty processes)");
    }
    for (what, kilobytes) in idle() {
        println!("{what}: {:.1} MB", kilobytes / 1_000.0);
    }
    let _left_behind = std::fs::remove_dir_all(root());
}

/// The median of starting this program with these arguments until it has ended.
fn median(arguments: impl Fn(usize) -> Vec<String>) -> Duration {
    let own = std::env::current_exe().expect("a path");
    let mut spans: Vec<Duration> = (0..STARTS)
        .map(|n| {
            let mut command = Command::new(&own);
            command.args(arguments(n)).stdout(Stdio::piped());
            let started = now();
            let mut child = command.spawn().expect("started");
            let mut line = String::new();
            let out = child.stdout.take().expect("a pipe");
            BufReader::new(out).read_line(&mut line).expect("read");
            let span = now().duration_since(started);
            assert!(child.wait().expect("ended").success());
            span
        })
        .collect();
    spans.sort();
    spans[STARTS / 2]
}

fn first_task(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let engine = Embedded::open(dir, wall()).expect("the store opens");
        let model = Simulated::new(Integration::new("local").expect("a name"), |_, _| Scripted::text("done"));
        let agent = Agent::new("worker", "local/any").expect("an agent").handling("work");
        let config = Config::new("bench").agent(agent);
        let team = Team::builder(config).engine(Arc::new(engine)).provider(model).start().await.expect("a team");
        let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({}));
        let accepted = team.desk().submit(ask).await.expect("accepted").record;
        let ended = team.desk().wait(accepted.task.id).await.expect("ended");
        println!("{}", ended.state);
        std::io::stdout().flush().expect("flushed");
        team.drain(Duration::from_secs(1)).await.expect("drained");
    });
}

/// The memory of `backstop up` on the default team of seven, once it serves.
fn idle() -> Vec<(&'static str, f64)> {
    let dir = scratch("seven");
    let binary = env!("CARGO_BIN_EXE_backstop");
    let made = Command::new(binary).arg("init").arg(&dir).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(made.expect("init runs").success());
    let mut team = Command::new(binary)
        .args(["up", "--listen", "127.0.0.1:0"])
        .arg(&dir)
        .env("ANTHROPIC_API_KEY", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("up runs");
    let mut words = BufReader::new(team.stderr.take().expect("a pipe")).lines();
    assert!(words.any(|line| line.is_ok_and(|line| line.contains("http://"))), "the team came up");
    let status = std::fs::read_to_string(format!("/proc/{}/status", team.id())).unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok()).unwrap_or(f64::NAN)
    };
    let figures = vec![
        ("an idle team of seven, resident", kilobytes("VmRSS")),
        ("of it its own, not files", kilobytes("RssAnon")),
    ];
    team.kill().expect("ended");
    team.wait().expect("ended");
    figures
}

fn root() -> PathBuf {
    std::env::temp_dir().join(format!("backstop-bench-start-{}", std::process::id()))
}

fn scratch(name: &str) -> PathBuf {
    let dir = root().join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}
