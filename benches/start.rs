//! From the start of the process to the first task done, and what idle teams take in memory: of seven, and of 10,000.
//!
//! `cargo bench --bench start`. The process is started anew each time; beside it stands a process that does nothing,
//! which is what this machine needs to start one at all. Memory is told in two parts: what is the process's own, and
//! the pages of its files, which the kernel lends it 64 KB at a time and takes back whenever it needs them.

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

/// As the command has it: what an allocator keeps is part of what is measured.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STARTS: usize = 21;
/// The agents of the large team.
const AGENTS: usize = 10_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("nothing") => {}
        Some("task") => first_task(Path::new(&arguments[2])),
        Some("agents") => agents(Path::new(&arguments[2]), arguments[3].parse().expect("a number")),
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
    let seven = idle();
    println!("an idle team of seven: {seven}");
    let (one, _) = idle_agents(1);
    let (many, until) = idle_agents(AGENTS);
    let each = (many.own - one.own) / AGENTS as f64;
    println!("{AGENTS} idle agents: {many}; {each:.1} KB each; the last of them did its first task after {until:.1?}");
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

/// Starts a team of so many agents, has the last of them do a task, and stays until its standard input ends.
fn agents(dir: &Path, count: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let engine = Embedded::open(dir, wall()).expect("the store opens");
        let model = Simulated::new(Integration::new("local").expect("a name"), |_, _| Scripted::text("done"));
        let agent = |n: usize| {
            let agent = Agent::new(&format!("worker-{n:05}"), "local/any").expect("an agent");
            agent
                .handling(format!("work-{n:05}"))
                .told("You work for {{ team.name }}. Be brief; ask nobody; say what you do not know.")
        };
        let config = (0..count).fold(Config::new("bench"), |config, n| config.agent(agent(n)));
        let team = Team::builder(config).engine(Arc::new(engine)).provider(model).start().await.expect("a team");
        // Agents are started in the order of their names.
        let last = TaskType::new(format!("work-{:05}", count - 1)).expect("a name");
        let accepted = team.desk().submit(NewTask::new(last, json!({}))).await.expect("accepted").record;
        println!("{}", team.desk().wait(accepted.task.id).await.expect("ended").state);
        std::io::stdin().read_line(&mut String::new()).expect("read");
    });
}

/// The memory of a team of so many agents that has nothing to do, and how long it took to have one that had.
fn idle_agents(count: usize) -> (Memory, Duration) {
    let own = std::env::current_exe().expect("a path");
    let dir = scratch(&format!("agents-{count}")).display().to_string();
    let mut command = Command::new(own);
    command.args(["agents".to_owned(), dir, count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = now();
    let mut team = command.spawn().expect("started");
    let mut line = String::new();
    BufReader::new(team.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    assert_eq!(line, "done\n", "the last agent works");
    let until = now().duration_since(started);
    let memory = Memory::of(team.id());
    team.kill().expect("ended");
    team.wait().expect("ended");
    (memory, until)
}

/// The memory of `backstop up` on the default team of seven, once it serves.
fn idle() -> Memory {
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
    let memory = Memory::of(team.id());
    team.kill().expect("ended");
    team.wait().expect("ended");
    memory
}

/// What a process has in memory, in kilobytes.
struct Memory {
    /// Nobody else's: heaps, stacks.
    own: f64,
    /// Pages of files, its program's before all.
    files: f64,
}

impl Memory {
    fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok()).unwrap_or(f64::NAN)
        };
        Self { own: kilobytes("RssAnon"), files: kilobytes("RssFile") + kilobytes("RssShmem") }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [own, files] = [self.own, self.files].map(|kilobytes| kilobytes / 1_000.0);
        write!(f, "{:.1} MB resident, {own:.1} of it its own and {files:.1} pages of files", own + files)
    }
}

fn root() -> PathBuf {
    std::env::temp_dir().join(format!("backstop-bench-start-{}", std::process::id()))
}

fn scratch(name: &str) -> PathBuf {
    let dir = root().join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}
