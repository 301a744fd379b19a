//! `backstop up` as a process of its own, in a project directory of its own: started, listened to, killed.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::engine::Scratch;

/// The key the provider is called with: it must be seen nowhere else.
pub(crate) const KEY: &str = "sk-ant-api03-CANARY7Zq9vXw2Lk4PpRt8sYb1Nc5Md6Ef3Gh-Jk0AA";
/// The longest anything here may take before the test is called hanging.
const TOO_LONG: Duration = Duration::from_secs(60);

/// A team's directory, an empty home beside it.
pub(crate) struct Project(Scratch);

impl Project {
    /// A team of two, whose one provider is at `url`.
    pub(crate) fn new(url: &str) -> Self {
        let project = Self(Scratch::new());
        project.write("backstop.yaml", &TEAM.replace("{url}", url));
        project.write("agents/cto.md", &AGENT.replace("{name}", "cto").replace("{handles}", "review, \"slow.*\""));
        project.write("agents/cso.md", &AGENT.replace("{name}", "cso").replace("{handles}", "charge"));
        std::fs::create_dir_all(project.0.path().join("home")).expect("a home");
        project
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join("team").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    /// With this in place of that in backstop.yaml.
    pub(crate) fn with(self, that: &str, this: &str) -> Self {
        let text = std::fs::read_to_string(self.dir().join("backstop.yaml")).expect("a file");
        assert!(text.contains(that), "{that} is not in:\n{text}");
        self.write("backstop.yaml", &text.replace(that, this));
        self
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.path().join("team")
    }

    /// `backstop up` of this directory, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["up", "--listen", "127.0.0.1:0"]).args(arguments);
        command.env_clear().env("HOME", self.0.path().join("home")).env("TEAM_KEY", KEY);
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A start that is refused: what it said, its exit code checked.
    pub(crate) fn refused(&self, without_key: bool, code: i32) -> String {
        let mut command = self.command(&[]);
        if without_key {
            command.env_remove("TEAM_KEY");
        }
        Self::refused_by(command, code)
    }

    /// The same, where it may open no more than so many files.
    pub(crate) fn refused_with_files(&self, most: u32, code: i32) -> String {
        // What whoever runs the tests left open is not ours to count.
        let limited = format!("exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n {most}; exec \"$0\" \"$@\"");
        Self::refused_by(self.command_by("/bin/sh", &["-c", &limited]), code)
    }

    /// `backstop up` of this directory, run by a program with these arguments.
    fn command_by(&self, program: &str, arguments: &[&str]) -> Command {
        let plain = self.command(&[]);
        let mut command = Command::new(program);
        command.args(arguments).arg(plain.get_program()).args(plain.get_args()).env_clear();
        command.current_dir(self.dir()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    pub(crate) fn refused_by(mut command: Command, code: i32) -> String {
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        said
    }

    /// Starts it and waits until it says where it is.
    pub(crate) fn up(&self, arguments: &[&str]) -> Up {
        Self::up_by(self.command(arguments))
    }

    /// The same, with a token in its environment.
    pub(crate) fn up_behind(&self, token: &str) -> Up {
        let mut command = self.command(&[]);
        command.env("BACKSTOP_TOKEN", token);
        Self::up_by(command)
    }

    /// The same, by `env` with an option: whoever runs the tests may have ignored signals for all that they start.
    pub(crate) fn up_with(&self, option: &str) -> Up {
        Self::up_by(self.command_by("env", &[option]))
    }

    fn up_by(mut command: Command) -> Up {
        let mut child = command.spawn().expect("the binary runs");
        let said = Arc::new(Said::default());
        said.listen(child.stdout.take().expect("stdout"));
        said.listen(child.stderr.take().expect("stderr"));
        let mut up = Up { child, url: String::new(), said, http: client() };
        up.url = address(&up.says(", data in "));
        up
    }

    /// Starts it, and listens to its log no longer than until it says where it is.
    pub(crate) fn up_unheard(&self, reader: Reader) -> Up {
        let (from, to) = std::io::pipe().expect("a pipe");
        let mut command = self.command(&[]);
        let mut child = command.stderr(to.try_clone().expect("its other end")).spawn().expect("the binary runs");
        // It has a copy of the end that is written to.
        drop(command);
        let said = Arc::new(Said::default());
        said.listen(child.stdout.take().expect("stdout"));
        let mut from = BufReader::new(from);
        let mut line = String::new();
        while !line.contains(", data in ") {
            line.clear();
            assert!(from.read_line(&mut line).expect("a line") > 0, "it ended without saying where it is");
        }
        match reader {
            Reader::Gone => {}
            Reader::StandsStill => {
                let (tell, full) = std::sync::mpsc::channel();
                drop(std::thread::spawn(move || full_for_ever(to, from, &tell)));
                full.recv_timeout(TOO_LONG).expect("it fills");
            }
        }
        Up { child, url: address(&line), said, http: client() }
    }
}

/// What became of whoever read the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// It is gone: what is written fails, as on a full disk.
    Gone,
    /// It reads no more: what is written waits.
    StandsStill,
}

/// Fills the pipe, and waits in it; tells when next to nothing more goes in.
fn full_for_ever(mut to: PipeWriter, _unread: BufReader<PipeReader>, tell: &Sender<()>) {
    let line = [b'.'; 64];
    for written in 0_usize.. {
        if to.write_all(&line).is_err() {
            return;
        }
        // A pipe holds 64 KiB.
        if written * line.len() == 60 * 1024 {
            // Whoever waited for it may be gone.
            let _ = tell.send(());
        }
    }
}

/// The address in the line that says it.
fn address(line: &str) -> String {
    let from = line.find("http://").expect("an address");
    line[from..].split(',').next().expect("its end").to_owned()
}

const TEAM: &str = r#"team: process
providers:
  anthropic: { api-key: "${TEAM_KEY}", base-url: "{url}" }
task-types:
  review: { effect: read-only }
  charge: { effect: payment }
retry: { max-deliveries: 3, backoff: [1ms], jitter: none, ack-wait: 10m, park-at-most: 10m }
breaker: { failures: 100, window: 30s, open-for: 60s }
escalation: { threshold: 1, window: 1h, on-call: [{ name: founder, channels: [log] }] }
drain-timeout: 1s
"#;

const AGENT: &str = "---
name: {name}
description: Works.
model: anthropic/claude-sonnet-5-5
handles: [{handles}]
limits: { concurrency: 4 }
---
You answer.
";

fn client() -> reqwest::Client {
    backstop::cli::client::install_tls();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// A running team.
pub(crate) struct Up {
    child: Child,
    pub(crate) url: String,
    said: Arc<Said>,
    http: reqwest::Client,
}

impl Up {
    /// Waits until it has said a line with these words; the line.
    pub(crate) fn says(&self, words: &str) -> String {
        self.said.line(words)
    }

    /// Every line it has said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let told = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(told.expect("a shell").success());
    }

    /// Dies at once, as by `kill -9`.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it dies");
        self.child.wait().expect("it died");
        self.said.until_silent();
        self.said()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.said.until_silent();
        self.child.wait().expect("it ended")
    }

    /// Asks the API.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub(crate) async fn task(&self, id: &str) -> Value {
        self.json(&format!("/api/v1/tasks/{id}")).await
    }

    /// Follows the feed from its beginning until an event is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let request = self.http.get(format!("{}/api/v1/events?after=0", self.url));
        let mut response = request.header("accept", "text/event-stream").send().await.expect("the feed");
        let follow = async {
            let mut text = String::new();
            loop {
                let bytes = response.chunk().await.expect("the feed goes on").expect("the feed goes on");
                text.push_str(&String::from_utf8_lossy(&bytes));
                while let Some(end) = text.find('\n') {
                    let line: String = text.drain(..=end).collect();
                    let Some(data) = line.strip_prefix("data:") else { continue };
                    let event: Value = serde_json::from_str(data.trim()).expect("an event");
                    if wanted(&event) {
                        return event;
                    }
                }
            }
        };
        let followed = tokio::time::timeout(TOO_LONG, follow).await;
        followed.unwrap_or_else(|_| panic!("it did not happen; said:\n{}", self.said().join("\n")))
    }

    /// Until this happened to this task.
    pub(crate) async fn happens(&self, task: &str, event: &str) -> Value {
        self.until(|it| it["task"] == task && it["event"] == event).await
    }

    /// The command line against it, from another process.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.asked(arguments).output().expect("the binary runs")
    }

    /// The same, with a token in its environment.
    pub(crate) fn cli_with(&self, token: &str, arguments: &[&str]) -> Output {
        self.asked(arguments).env("BACKSTOP_TOKEN", token).output().expect("the binary runs")
    }

    fn asked(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).env_clear().env("BACKSTOP_URL", &self.url).env("USER", "ana").stdin(Stdio::null());
        command
    }

    /// The same with its exit code checked: stdout.
    pub(crate) fn cli_ends(&self, arguments: &[&str], code: i32) -> String {
        let output = self.cli(arguments);
        let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let (stdout, stderr) = (stdout.expect("UTF-8"), stderr.expect("UTF-8"));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}\n{}", self.said().join("\n"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        if code == 0 { stdout } else { stderr }
    }

    /// The same as JSON, after it was fine as a table too.
    pub(crate) fn reads(&self, arguments: &[&str]) -> (String, Value) {
        let table = self.cli_ends(arguments, 0);
        let json = self.cli_ends(&[arguments, &["-o", "json"]].concat(), 0);
        (table, serde_json::from_str(&json).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{json}")))
    }

    /// Hands in a task: its id.
    pub(crate) fn submit(&self, task_type: &str, about: &str) -> String {
        let about = format!("about={about}");
        self.cli_ends(&["task", "submit", task_type, &about, "-o", "name"], 0).trim().to_owned()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process says, line by line, and whether it still can.
#[derive(Default)]
struct Said {
    lines: Mutex<(Vec<String>, usize)>,
    news: Condvar,
}

impl Said {
    fn listen(self: &Arc<Self>, from: impl Read + Send + 'static) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        let said = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                said.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
                said.news.notify_all();
            }
            said.lines.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
            said.news.notify_all();
        });
    }

    /// Waits for a line with these words.
    fn line(&self, words: &str) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |lines: &[String]| lines.iter().find(|line| line.contains(words)).cloned();
        let waited = self.news.wait_timeout_while(lines, TOO_LONG, |(lines, open)| found(lines).is_none() && *open > 0);
        let (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        found(&lines.0).unwrap_or_else(|| panic!("it never said `{words}`:\n{}", lines.0.join("\n")))
    }

    /// Waits until it can say no more: it has ended.
    fn until_silent(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.news.wait_timeout_while(lines, TOO_LONG, |(_, open)| *open > 0);
        let (lines, late) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "it goes on:\n{}", lines.0.join("\n"));
    }
}
