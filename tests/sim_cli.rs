//! `backstop sim` keeps its word: the same story in every process, failures with their command, mistakes with their place.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::support::Stub;

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("backstop-sim-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn with(&self, name: &str, content: &str) -> &Self {
        fs::write(self.0.join(name), content).expect("a file");
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the real binary in it, with an environment of its own.
    fn sim(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.arg("sim").args(arguments).env_clear().current_dir(&self.0).stdin(Stdio::null());
        command.output().expect("the binary runs")
    }

    /// The same; checks the exit code. Its stdout and stderr.
    fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.sim(arguments);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        (out, err)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SHORT: &str = r#"
about: A short outage.
run: 20m
load: [{ type: code_review, every: 2m }, { type: charge_card, at: [6m] }]
models: { "*": { latency: [10s, 40s], output-tokens: [100, 300] } }
faults:
  - { fault: overloaded, provider: anthropic, at: 3m, for: 4m }
  - { fault: agent-panic, agent: backend, at: 9m, calls: 1, for: 5m }
human: { acknowledges-after: 1m, decides-after: 5m }
assert: [lost == 0]
"#;

#[test]
fn the_same_seed_tells_the_same_story_in_every_process() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    for (seed, feed) in [("3", "a.jsonl"), ("3", "b.jsonl"), ("4", "c.jsonl")] {
        let (_, err) = dir.ends(0, &["run", "short.yaml", "--seed", seed, "--feed", feed]);
        // A panic on cue is part of the story, and its trace is not.
        assert!(!err.contains("panicked"), "{err}");
    }
    let (a, b, c) = (dir.read("a.jsonl"), dir.read("b.jsonl"), dir.read("c.jsonl"));
    assert!(a.lines().count() > 30 && a.contains("agent-died"), "{a}");
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn a_failed_assertion_ends_with_1_and_the_command_to_see_it_again() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    let (out, err) = dir.ends(
        1,
        &["run", "short.yaml", "--seeds", "2..3", "--assert", "calls-while-down == 0", "--assert", "lost == 0"],
    );
    assert!(out.contains("FAILED  calls-while-down == 0") && out.contains("0 of 2 seeds; not with 2, 3"), "{out}");
    assert!(err.contains("error: 2 assertions failed\n  calls-while-down == 0 with seed 2: it is "), "{err}");
    let command = err.lines().find_map(|line| line.trim().strip_prefix("try: ")).expect("a command");
    assert_eq!(command, "backstop sim run short.yaml --seed 2 --assert 'calls-while-down == 0' --assert 'lost == 0'");
    let (out, _) = dir.ends(1, &["run", "short.yaml", "--seed", "2", "--assert", "calls-while-down == 0"]);
    assert!(out.contains("THE WORST HOUR") && out.contains("FAILED  calls-while-down == 0"), "{out}");
}

const MISWRITTEN: &str = "\
abuot: A typo.
run: 10m
load:
  - { type: code_review, per-hour: -3 }
  - { type: code_review, per-day: 10, total: 4 }
  - { type: code_review }
  - { type: code_review, every: 1m, over: 5m }
  - { type: code_review, at: [5m, 90m] }
  - { type: code_review, at: [1m, 5m], from: 2m, until: 4m }
  - { type: code_review, at: [] }
  - { type: code_review, burst: 5, at: [2m, 3m] }
  - { type: code_review, burst: 5, at: 2m, from: 3m }
models:
  \"*\": { latency: [2m, 1m], refusals: 200%, schema-breaks: 0.5 }
faults:
  - { fault: overlaoded }
  - { fault: agent-kill, agent: cto, at: 1m, for: 2m }
  - { fault: agent-kill, at: 1m }
  - { fault: overloaded, share: 200% }
  - { fault: overloaded, flap: { on: 0s, off: 30s } }
  - { fault: overloaded, at: 1m, every: 2h, for: 1m }
  - { fault: overloaded, every: 2h }
  - { fault: overloaded, retry-after: 5s }
  - { fault: clock-jump, at: 1m }
  - { fault: overloaded, region: eu }
  - { fault: overloaded, region: us }
  - { fault: overloaded, provider: [] }
  - { fault: pager-down, agent: cto }
  - { fault: disk-full, provider: anthropic, region: us, at: 5m, for: 1m, flap: { on: 1s, off: 1s } }
  - { fault: ceo-kill, share: 0%, at: 5m, prompt-has: x, prompt-lacks: y }
  - { fault: process-kill, calls: 3, at: 5m, for: 1m, flap: { on: 1s, off: 1s } }
  - { fault: agent-wedge, agent: cto, type: blog_post, model: gpt-6-sol, at: 5m, for: 1m }
  - { fault: adviser-down, agent: cto, type: code_review }
regions: { us: [] }
human: { decision: maybe }
assert:
  - lots == 0
  - done-share >= 95
";

const IMPOSSIBLE: &str = "\
run: 10m
load:
  - { type: code_reviews, every: 1m }
  - { type: code_review, agent: ctoo, every: 1m }
  - { type: blog_post, agent: cso, every: 1m }
  - { type: code_review, every: 1m, from: 10m }
  - { type: code_review, every: 1m, from: 5m, until: 2m }
  - { type: code_review, burst: 5, at: 5m, over: 30m }
  - { type: code_review, burst: 5, from: 1m, until: 2m, over: 3m }
models:
  \"*\": { latency: 5s }
  nope/x: { latency: 5s }
  anthropic/claude-opsu-5-5: { latency: 5s }
  gemini/*: { latency: 5s }
  gpt-6-sol: { latency: 5s }
faults:
  - { fault: overloaded, provider: antropic }
  - { fault: overloaded, at: 20m, for: 1m }
  - { fault: agent-kill, agent: nobody, at: 1m }
  - { fault: model-retired, model: gpt-7 }
  - { fault: adviser-down }
  - { fault: process-kill, at: 1m, for: 5m }
  - { fault: process-kill, at: 3m, for: 1m }
  - { fault: process-kill, at: 5m, for: 30s }
";

const EMPTY: &str = "run: 10m\nload: []\n";

const ENDLESS: &str = "\
run: 732d
load:
  - { type: code_review, every: 1ms }
  - { type: code_review, per-hour: 1000 }
  - { type: code_review, per-day: 100, until: 700d }
faults:
  - { fault: ceo-kill, every: 1s }
";

const TOGETHER: &str = "\
run: 1d
load:
  - { type: code_review, total: 600000 }
  - { type: code_review, burst: 600000, at: 1h }
";

#[test]
fn every_mistake_in_a_scenario_is_told_at_once_with_its_place() {
    let dir = Dir::new();
    let mut all = String::new();
    for (file, text) in [
        ("miswritten.yaml", MISWRITTEN),
        ("impossible.yaml", IMPOSSIBLE),
        ("empty.yaml", EMPTY),
        ("endless.yaml", ENDLESS),
        ("together.yaml", TOGETHER),
    ] {
        dir.with(file, text);
        let (out, err) = dir.ends(3, &["run", file]);
        let places = out.lines().filter(|line| line.contains(": error: "));
        assert!(places.clone().all(|line| line.starts_with(&format!("{file}:"))), "{out}");
        assert!(err.contains(&format!("error: {} error(s) in this scenario", places.count())), "{err}");
        all.push_str(&out);
    }
    insta::with_settings!({ snapshot_path => "definitions/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("bad_scenarios", all);
    });
}

#[test]
fn wrong_usage_is_told_before_anything_runs() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT).with("there.yaml", SHORT);
    for (arguments, words) in [
        (vec!["run", "antropic-outage"], "did you mean `anthropic-outage`?"),
        (vec!["run", "short.yaml", "--assert", "lots == 0"], "did you mean `lost`?"),
        (vec!["run", "short.yaml", "--seeds", "9..1"], "is before the first"),
        (vec!["run", "short.yaml", "--seeds", "1..2", "--seed", "3"], "cannot be used with"),
        (vec!["run", "short.yaml", "--seeds", "1..2", "--feed", "x"], "cannot be used with"),
        (vec!["record", "--feed", "x", "--out", "night.json"], "must end in .yaml"),
        (vec!["record", "--feed", "x", "--out", "there.yaml"], "--force writes over it"),
    ] {
        let (_, err) = dir.ends(2, &arguments);
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    let (out, _) = dir.ends(3, &["run", "short.yaml", "--team", "nowhere"]);
    assert!(out.starts_with("nowhere/backstop.yaml: error: does not exist"), "{out}");
    let (out, _) = dir.ends(3, &["run", "short.yaml", "--team", "/nonexistent"]);
    assert!(out.starts_with("/nonexistent/backstop.yaml: error: does not exist"), "{out}");
}

#[test]
fn a_file_is_named_as_it_was_written() {
    let dir = Dir::new();
    fs::create_dir_all(dir.0.join("bad/team")).expect("a directory");
    dir.with("bad/unknown.yaml", &SHORT.replace("fault: overloaded", "fault: overloded"));
    let here = dir.0.join("bad/unknown.yaml").display().to_string();
    for file in ["bad/unknown.yaml", "./bad/unknown.yaml", &here] {
        let (out, _) = dir.ends(3, &["run", file]);
        assert!(out.starts_with(&format!("{file}:7:14: error: faults.0.fault: ")), "{out}");
    }
    // What two can make impossible only together, and a team that the scenario names.
    dir.with("bad/nobody.yaml", &SHORT.replace("agent: backend", "agent: nobody"));
    dir.with("bad/other.yaml", &format!("team: team{SHORT}"));
    dir.with("bad/team/backstop.yaml", "team: t\nproviderz: {}\n");
    for (file, words) in [
        ("bad/nobody.yaml", "bad/nobody.yaml:8:34: error: faults.1.agent: "),
        ("bad/other.yaml", "bad/team/backstop.yaml:2:1: error: providerz: "),
    ] {
        let (out, _) = dir.ends(3, &["run", file]);
        assert!(out.contains(words), "{file}: {out}");
    }
}

#[test]
fn what_init_writes_plays_the_team_that_init_writes() {
    let dir = Dir::new();
    let init = Command::new(env!("CARGO_BIN_EXE_backstop")).arg("init").env_clear().current_dir(&dir.0).output();
    assert!(init.expect("the binary runs").status.success());
    let scenarios = ["scenarios/anthropic-outage.yaml", "scenarios/friday-night.yaml"];
    assert_eq!(fs::read_dir(dir.0.join("scenarios")).expect("a directory").count(), scenarios.len());
    for file in scenarios {
        dir.ends(0, &["run", file]);
    }
    let team = dir.read("backstop.yaml");
    dir.with("backstop.yaml", &format!("{team}\nproviderz: {{}}\n"));
    for file in scenarios {
        let (out, _) = dir.ends(3, &["run", file]);
        assert!(out.starts_with("backstop.yaml:") && out.contains("providerz"), "{out}");
    }
    // The one that is shipped under the same name is for the team that is shipped, wherever it is played.
    dir.ends(0, &["run", "anthropic-outage"]);
}

#[test]
fn the_end_of_a_kept_feed_is_recorded() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    dir.ends(0, &["run", "short.yaml", "--feed", "feed.jsonl"]);
    let event = |line: &str| -> Value { serde_json::from_str(line).expect("an event") };
    let feed = dir.read("feed.jsonl");
    let came: Vec<&str> = feed.lines().filter(|line| event(line)["event"] == "submitted").collect();
    let third = event(came[came.len() - 3])["at"].as_str().expect("a time").to_owned();
    let record = |since: &str| {
        dir.ends(0, &["record", "--feed", "feed.jsonl", "--since", since, "--out", "night.yaml", "--force"]).0
    };
    assert!(record(&third).starts_with("night.yaml: tasks 3, "), "{third}");
    assert!(record("30d").starts_with(&format!("night.yaml: tasks {}, ", came.len())));
    dir.ends(0, &["run", "night.yaml"]);
    // What stands below what was recorded is told at its own place, and what was recorded is not cut in silence.
    dir.with("more.yaml", "run: 40m\nload:\n  - { recorded: feed.jsonl }\n  - { type: nobodys, every: 5m }\n");
    let (out, _) = dir.ends(3, &["run", "more.yaml"]);
    assert!(out.starts_with("more.yaml:4:13: error: load.1.type: no agent handles `nobodys`"), "{out}");
    dir.with("less.yaml", "run: 5m\nload:\n  - { recorded: feed.jsonl }\n");
    let (out, _) = dir.ends(3, &["run", "less.yaml"]);
    assert!(out.starts_with("less.yaml:3:17: error: load.0.recorded: feed.jsonl goes on until 18m"), "{out}");
    // A span counts from the last event: only the team coming to rest is in the last second.
    let (_, err) = dir.ends(1, &["record", "--feed", "feed.jsonl", "--since", "1ms", "--out", "x.yaml"]);
    assert!(err.contains("no task was submitted in this stretch"), "{err}");
    let (_, err) = dir.ends(2, &["record", "--feed", "feed.jsonl", "--since", "soon", "--out", "x.yaml"]);
    assert!(err.contains("--since: `soon` is not a time"), "{err}");
}

#[test]
fn a_report_comes_in_every_form() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    let (out, _) = dir.ends(0, &["run", "short.yaml", "-o", "json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["format"], &json["scenario"], &json["holds"]), (&1.into(), &"short".into(), &true.into()));
    assert_eq!(json["reports"][0]["measures"]["submitted"], 11.0);
    let (out, err) = dir.ends(0, &["run", "short.yaml", "--report", "html"]);
    assert!(out.is_empty() && err.contains("written: sim-short.html"), "{out}{err}");
    assert!(dir.read("sim-short.html").starts_with("<!doctype html>"));
    let (out, _) = dir.ends(0, &["run", "short.yaml", "--report", "junit", "--seeds", "5..8"]);
    let each = out.split("violations == 0 (seed ").skip(1);
    let seeds: Vec<&str> = each.filter_map(|rest| rest.split(')').next()).collect();
    assert_eq!(seeds, ["5", "6", "7", "8"], "in the order of the seeds: {out}");
    let (out, _) = dir.ends(0, &["ls", "-o", "name"]);
    assert!(out.lines().any(|line| line == "anthropic-outage"), "{out}");
}

#[test]
fn a_scenario_differs_from_itself_by_nothing() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT).with("calm.yaml", SHORT.split("faults:").next().expect("a beginning"));
    let compared = |arguments: &[&str]| -> Value {
        let (out, _) = dir.ends(0, &[&["compare"], arguments, &["--seeds", "1..3", "-o", "json"]].concat());
        serde_json::from_str(&out).expect("JSON")
    };
    let rows = |compared: &Value| compared["measures"].as_array().cloned().expect("a list");
    let same = compared(&["short.yaml", "short.yaml"]);
    let known: Vec<Value> = rows(&same).into_iter().filter(|row| row["of"] == 3).collect();
    assert!(known.len() > 30, "{same}");
    for row in known {
        assert_eq!((&row["difference"]["least"], &row["difference"]["most"]), (&0.0.into(), &0.0.into()), "{row}");
        assert_eq!(row["agree"], 3, "{row}");
    }
    // And from a calm one by its failures, with every seed.
    let other = compared(&["short.yaml", "calm.yaml"]);
    let retries = rows(&other).into_iter().find(|row| row["measure"] == "calls-while-down").expect("a row");
    assert!(retries["difference"]["most"].as_f64().expect("a number") < 0.0 && retries["agree"] == 3, "{retries}");
    // Two teams in one scenario; here the same one.
    let (out, _) = dir.ends(0, &["compare", "shipped", "shipped", "--scenario", "short.yaml", "--seeds", "1..2"]);
    assert!(out.contains("A  team shipped in short.yaml") && out.contains("2 seeds, 1 to 2"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
}

#[test]
fn a_recorded_feed_is_played_again() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    dir.ends(0, &["run", "short.yaml", "--feed", "feed.jsonl"]);
    let (out, _) = dir.ends(0, &["record", "--feed", "feed.jsonl", "--out", "kept/night.yaml"]);
    assert!(out.starts_with("kept/night.yaml: tasks 11, "), "{out}");
    let yaml = dir.read("kept/night.yaml");
    for words in [
        "# Recorded by `backstop sim record`",
        "#   overloaded of anthropic at ",
        "fault: overloaded, provider: anthropic, at: ",
        "fault: agent-kill, agent: backend, at: 10m",
        "recorded: \"night.jsonl\"",
        "team: \"shipped\"",
        "acknowledges-after: 1m",
    ] {
        assert!(yaml.contains(words), "{words}\n{yaml}");
    }
    let (out, _) = dir.ends(0, &["run", "kept/night.yaml", "-o", "json"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    let measures = &json["reports"][0]["measures"];
    assert_eq!((&measures["submitted"], &measures["lost"]), (&11.0.into(), &0.0.into()));
    assert!(measures["calls-while-down"].as_f64() > Some(0.0), "{measures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_of_a_running_team_is_recorded() {
    let dir = Dir::new();
    dir.with("short.yaml", SHORT);
    dir.ends(0, &["run", "short.yaml", "--feed", "feed.jsonl"]);
    let items: Vec<Value> =
        dir.read("feed.jsonl").lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let page = serde_json::json!({ "items": items, "next": null }).to_string();
    let team = Stub::answering(200, &[("content-type", "application/json")], &page).await;
    let url = team.url();
    let (out, _) = dir.ends(0, &["record", "--url", &url, "--since", "8h", "--out", "night.yaml"]);
    assert!(out.starts_with("night.yaml: tasks 11, "), "{out}");
    assert!(team.heard()[0].line.contains("/api/v1/events?limit=1000&since=8h"), "{:?}", team.heard()[0].line);
    dir.ends(0, &["run", "night.yaml"]);
}
