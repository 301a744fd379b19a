//! Every command in the README does what the README says.
//!
//! They run in the order in which they are written, in a new directory with an empty home, against the binary under
//! test. A command that is not listed here fails: it was written down and never tried.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backstop::config::Config;
use backstop::definitions::{Purpose, load, templates};
use backstop::task::Effect;

const README: &str = include_str!("../README.md");

/// How a command of the README is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Run; it must succeed.
    Runs,
    /// Goes on until told to stop: started, found alive, and stopped at the end.
    Serves,
    /// Means the shell itself.
    Shell,
    /// By cargo, from the repository.
    Cargo,
    /// Not here, for this reason.
    Not(&'static str),
}

const KNOWN: &[(&str, How)] = &[
    ("cargo run --release -- demo", How::Runs),
    ("cargo test", How::Not("this is it")),
    ("cargo install --path .", How::Not("the binary under test stands for it")),
    ("backstop init my-team", How::Runs),
    ("cd my-team", How::Shell),
    ("export ANTHROPIC_API_KEY=...", How::Shell),
    ("backstop check", How::Runs),
    ("backstop up", How::Serves),
    ("backstop status", How::Runs),
    ("backstop task submit code_review diff='+ let total = a - b;' language=rust", How::Runs),
    ("backstop task ls", How::Runs),
    ("backstop agent ls", How::Runs),
    ("backstop dlq groups", How::Runs),
    ("backstop ceo log", How::Runs),
    ("backstop breaker ls", How::Runs),
    ("backstop events --since 1h", How::Runs),
    ("backstop explain code_review --agent cto", How::Runs),
    ("backstop bound --type code_review", How::Runs),
    ("backstop page test", How::Runs),
    ("backstop sim run anthropic-outage", How::Runs),
    ("backstop sim compare brown-out key-revoked --seeds 1..5", How::Runs),
    ("backstop sim ls", How::Runs),
    (
        "backstop outage serve --fault overloaded,wire=anthropic",
        How::Not(".ci/sdks runs it with the Python below it; its port is taken by whoever else tests here"),
    ),
    ("cargo run --example hello_team", How::Cargo),
    ("cargo run --example own_provider", How::Cargo),
    ("cargo run --example llm_outage", How::Cargo),
    ("cargo run --example code_review", How::Cargo),
    ("cargo run --example own_tool", How::Cargo),
];

/// The lines of the blocks of this language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(fence) => inside = !inside && fence.trim() == language,
            None if inside && !line.trim().is_empty() => lines.push(line.trim().to_owned()),
            None => {}
        }
    }
    lines
}

/// Each command with how it is tried, or those nobody knows.
fn plan(text: &str) -> Result<Vec<(String, How)>, Vec<String>> {
    let known: BTreeMap<&str, How> = KNOWN.iter().copied().collect();
    let (mut plan, mut unknown) = (Vec::new(), Vec::new());
    for line in blocks(text, "sh") {
        match known.get(line.as_str()) {
            Some(how) => plan.push((line, *how)),
            None => unknown.push(line),
        }
    }
    if unknown.is_empty() { Ok(plan) } else { Err(unknown) }
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("backstop-readme-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

/// A team that serves, and is not left behind.
struct Team(Child);

impl Drop for Team {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
        let _waited_before = self.0.wait();
    }
}

/// Somebody at a terminal.
struct Person {
    dir: PathBuf,
    env: BTreeMap<String, String>,
    team: Option<Team>,
}

impl Person {
    /// In an empty directory, with an empty home and `backstop` in reach.
    fn new(scratch: &Path) -> Self {
        let [home, bin, dir] = ["home", "bin", "work"].map(|name| scratch.join(name));
        [&home, &bin, &dir].into_iter().for_each(|dir| fs::create_dir_all(dir).expect("a directory"));
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_backstop"), bin.join("backstop")).expect("a link");
        let env = [("HOME", home.display().to_string()), ("PATH", format!("{}:/usr/bin:/bin", bin.display()))];
        Self { dir, env: env.map(|(name, value)| (name.to_owned(), value)).into(), team: None }
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.dir).env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    fn runs(&self, line: &str) {
        let said = line.replace("cargo run --release --", "backstop");
        let output = self.shell(&said).output().expect("a shell");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}`: {}\n{out}\n{err}", output.status);
        assert!(!err.contains("panicked"), "`{line}`\n{err}");
    }

    fn tells_the_shell(&mut self, line: &str) {
        if let Some(dir) = line.strip_prefix("cd ") {
            self.dir = self.dir.join(dir);
            return self.takes_the_models_away();
        }
        let (name, value) = line.strip_prefix("export ").and_then(|set| set.split_once('=')).expect("cd or export");
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// The README means real providers; a test asks nobody outside this machine.
    fn takes_the_models_away(&self) {
        let file = self.dir.join("backstop.yaml");
        let text = fs::read_to_string(&file).expect("a team");
        let nowhere = text.replace("_API_KEY}\" }", "_API_KEY}\", base-url: \"http://127.0.0.1:9\" }");
        assert_ne!(nowhere, text, "the providers are where they were");
        fs::write(&file, nowhere).expect("written");
    }

    /// Starts it on a free port and looks whether it lives.
    fn serves(&mut self, line: &str) {
        self.env.insert("BACKSTOP_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        let child = self.shell(&format!("exec {line}")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut team = Team(child.expect("a shell"));
        let mut words = BufReader::new(team.0.stderr.take().expect("a pipe"));
        let mut heard = String::new();
        let address = loop {
            let mut said = String::new();
            assert_ne!(words.read_line(&mut said).expect("words"), 0, "`{line}` ended:\n{heard}");
            if let Some(at) = said.find("http://127.0.0.1:") {
                let rest = &said[at + "http://".len()..];
                break rest.split([',', ' ', '\n']).next().expect("an address").to_owned();
            }
            heard.push_str(&said);
        };
        // Somebody has to go on reading, or the team would wait for us.
        std::thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
        let mut stream = TcpStream::connect(&address).expect("somebody listens");
        write!(stream, "GET /livez HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        self.env.insert("BACKSTOP_URL".to_owned(), format!("http://{address}"));
        self.team = Some(team);
    }

    /// Stops what serves, as an operator would.
    fn leaves(mut self) {
        let mut team = self.team.take().expect("a team");
        self.runs(&format!("kill -TERM {}", team.0.id()));
        let ended = team.0.wait().expect("an end");
        assert!(ended.success(), "drained and ended well: {ended}");
    }
}

fn by_cargo(line: &str) {
    let mut words = line.split(' ').skip(1);
    let mut command = Command::new(env!("CARGO"));
    command.arg(words.next().expect("a subcommand")).args(["--quiet", "--locked"]).args(words);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "`{line}`\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "`{line}` shows something");
}

#[test]
fn every_command_runs() {
    let plan = plan(README).unwrap_or_else(|unknown| panic!("the README says what nobody tried: {unknown:#?}"));
    let scratch = Scratch::new("commands");
    let mut person = Person::new(&scratch.0);
    for (line, how) in &plan {
        match how {
            How::Runs => person.runs(line),
            How::Serves => person.serves(line),
            How::Shell => person.tells_the_shell(line),
            How::Cargo => by_cargo(line),
            How::Not(why) => assert!(!why.is_empty()),
        }
    }
    person.leaves();
    for (line, _) in KNOWN {
        assert!(plan.iter().any(|(said, _)| said == line), "`{line}` is not in the README any more");
    }
}

#[test]
fn the_two_commands_come_first() {
    assert_eq!(blocks(README, "sh")[..2], ["cargo run --release -- demo", "cargo test"]);
}

#[test]
fn every_command_that_is_named_exists() {
    let named: Vec<&str> = README.split('`').filter(|code| code.starts_with("backstop ")).collect();
    assert!(named.len() > 10, "{named:?}");
    for code in named {
        let words: Vec<&str> = code.split(' ').skip(1).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_backstop")).args(&words).arg("--help").env_clear().output();
        assert!(output.expect("the binary runs").status.success(), "`{code}` is no command");
    }
}

#[test]
fn the_library_is_used_as_the_example_does() {
    let example = include_str!("../examples/hello_team.rs");
    let lines = blocks(README, "rust");
    assert!(lines.len() > 5);
    for line in lines {
        assert!(example.contains(&line), "not in examples/hello_team.rs: {line}");
    }
}

/// The shipped team with its `backstop.yaml` changed, and its CTO allowed `tools`, as `check` finds it.
fn checked(name: &str, change: impl Fn(&str) -> String, tools: &str) -> Config {
    let scratch = Scratch::new(name);
    for (file, text) in templates().iter().copied() {
        let text = match file {
            "backstop.yaml" => change(text),
            "agents/cto.md" => text.replace("\ncolor: blue\n", &format!("\ntools: {tools}\ncolor: blue\n")),
            _ => text.to_owned(),
        };
        let path = scratch.0.join(file);
        fs::create_dir_all(path.parent().expect("inside the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    let set = |name: &str| (!name.starts_with("BACKSTOP_")).then(|| "something".to_owned());
    let loaded = load(&scratch.0, &set, Purpose::Check).expect("sound");
    // Nobody is on call yet in the shipped team.
    let of_tools: Vec<_> = loaded.warnings.iter().filter(|warning| !warning.field.starts_with("escalation")).collect();
    assert!(of_tools.is_empty(), "{of_tools:?}");
    loaded.config
}

#[test]
fn the_tools_of_the_readme_and_of_the_shipped_file_are_read() {
    let block = README.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    assert!(block.lines().count() <= 12, "{block}");
    let config = checked("tools", |text| format!("{text}\n{block}"), r#"["mcp:github/*", "mcp:bank/transfer"]"#);
    let transfer = config.tools.rule(&"bank/transfer".parse().expect("a tool")).expect("a rule");
    assert_eq!(transfer.effect, Some(Effect::Payment));
    let probe = transfer.probe.as_ref().expect("a probe");
    assert_eq!((probe.verdict(r#"{"found":true}"#), probe.verdict(r#"{"found":false}"#)), (Some(true), Some(false)));

    let uncommented = |text: &str| {
        let (before, rest) = text.split_once("# tools:\n").expect("an example");
        let lines = rest.lines().take_while(|line| line.starts_with('#')).count();
        let shown: String = rest.lines().take(lines).map(|line| format!("{}\n", &line[2..])).collect();
        format!(
            "{before}tools:\n{shown}{}",
            rest.lines().skip(lines).map(|line| format!("{line}\n")).collect::<String>()
        )
    };
    let config = checked("shipped", uncommented, r#"["mcp:github/*", http:get]"#);
    assert_eq!(config.tools.servers().collect::<Vec<_>>(), ["github", "http", "local"]);
}

#[test]
fn what_nobody_tried_is_found() {
    let text = "```sh\nbackstop fly\n\nbackstop check\n```\n```text\nbackstop swim\n```\n```sh\nrm -rf /\n```";
    assert_eq!(plan(text).expect_err("two are unknown"), ["backstop fly", "rm -rf /"]);
    assert_eq!(plan("```sh\nbackstop up\n```").expect("known"), [("backstop up".to_owned(), How::Serves)]);
}
