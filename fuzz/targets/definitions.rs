//! The files an operator writes: refused at a place that is in the file, or sound.

use std::cell::OnceCell;

use backstop::bound;
use backstop::check::check;
use backstop::config::Config;
use backstop::definitions::{Diagnostic, Problems, Purpose, load_given, scenario_for, shipped_team};
use backstop::prompt;
use backstop::scenario::{LONGEST_RUN, MOST_TASKS};

use super::NOW;

const TEAM: &str = "team: t
providers: { anthropic: { api-key: \"${ANTHROPIC_API_KEY}\" } }
task-types: { code_review: { effect: read-only } }
";
const AGENT: &str = "---
name: cto
description: Reviews
model: anthropic/claude-opus-5-5
handles: [code_review]
---
You are the CTO of {{ team.name }}.
";
/// What no diagnostic may say.
const KEY: &str = "sk-ant-0123456789";

fn env(name: &str) -> Option<String> {
    (name == "ANTHROPIC_API_KEY").then(|| KEY.to_owned())
}

/// Agent files, and prompt files when the first byte is `P`.
pub(crate) fn front_matter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((head, body)) = prompt::front_matter(text) {
        assert!(text.contains(head) && text.ends_with(['\n', '\r']) | text.ends_with(body));
        assert!(!body.starts_with('\n') && !body.ends_with('\n'), "blank lines around a prompt");
    }
    match text.strip_prefix('P') {
        Some(prompt) => read(&[("backstop.yaml", TEAM), ("agents/cto.md", AGENT), ("prompts/code_review.md", prompt)]),
        None => read(&[("backstop.yaml", TEAM), ("agents/cto.md", text)]),
    }
}

/// `backstop.yaml`.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    read(&[("backstop.yaml", text), ("agents/cto.md", AGENT)]);
}

fn read(files: &[(&str, &str)]) {
    match load_given(files, &env, Purpose::Run) {
        Ok(loaded) => {
            told(files, &loaded.warnings);
            let fatal: Vec<_> = check(&loaded.config, &[]).into_iter().filter(|flaw| flaw.fatal).collect();
            assert!(fatal.is_empty(), "sound, and not: {fatal:?}");
            used(&loaded.config);
        }
        Err(problems) => refused(files, &problems),
    }
}

/// What `up` and `check` do with a configuration that was read.
fn used(config: &Config) {
    assert_eq!(bound::all(config).len(), config.task_types.len(), "every task type has a bound");
    for agent in config.agents.values() {
        // It may fail, in words, where a template divides by nothing; what it may not is run for ever.
        let _rendered = prompt::system(agent, &config.team, NOW);
    }
}

fn refused(files: &[(&str, &str)], problems: &Problems) {
    assert!(!problems.errors.is_empty(), "refused for nothing");
    told(files, &problems.errors);
    told(files, &problems.warnings);
}

/// Each says what is wrong and what to do about it, at a place that is there.
fn told(files: &[(&str, &str)], diagnostics: &[Diagnostic]) {
    for told in diagnostics {
        assert!(!told.message.is_empty() && !told.remedy.is_empty(), "{told:?}");
        // A key is told as we write keys, in small letters and with hyphens: it may become what looks like the secret.
        let as_a_key = |text: &str| text.to_lowercase().replace('_', "-");
        let written = files.iter().any(|(_, text)| as_a_key(text).contains(KEY));
        assert!(written || !told.to_string().contains(KEY), "a secret is told: {told:?}");
        let Some((_, text)) = files.iter().find(|(path, _)| *path == told.file) else {
            panic!("about a file that nobody wrote: {told:?}");
        };
        if told.line == 0 {
            assert_eq!(told.column, 0, "a column of no line: {told:?}");
            continue;
        }
        // Twice: what is left of `\r\r\n` once it is read is one line end to YAML.
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace("\r\n", "\n");
        // One more than there are: the end of a file that ends in a line end.
        let lines: Vec<&str> = text.split(['\n', '\r']).collect();
        let Some(line) = lines.get(told.line - 1) else {
            panic!("line {} of {}: {told:?}", told.line, lines.len());
        };
        assert!((1..=line.chars().count() + 1).contains(&told.column), "column {} of {line:?}: {told:?}", told.column);
    }
}

thread_local! {
    /// The team scenarios are held against; read once, as it is what a reading costs most.
    static SHIPPED: OnceCell<Config> = const { OnceCell::new() };
}

/// Scenario files, for the shipped team: sound ones can be played to their end.
pub(crate) fn scenario(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let team = SHIPPED.with(|team| team.get_or_init(|| shipped_team().expect("the shipped team is sound")).clone());
    let scenario = match scenario_for("scenario.yaml", text, team) {
        Ok(loaded) => loaded.scenario,
        Err(problems) => return refused(&[("scenario.yaml", text)], &problems),
    };
    assert!(!scenario.run.is_zero() && scenario.run <= LONGEST_RUN, "{:?}", scenario.run);
    let tasks: f64 = scenario.load.iter().map(|load| load.expected(scenario.run)).sum();
    let strikes: f64 = scenario.faults.iter().map(|fault| fault.expected(scenario.run)).sum();
    assert!(tasks.is_finite() && tasks <= MOST_TASKS as f64 * 1.01, "{tasks} tasks");
    assert!(strikes.is_finite() && strikes <= MOST_TASKS as f64, "{strikes} strikes");
    // A million of either is sound, and takes too long to be done ten million times.
    if tasks + strikes > 2_000.0 {
        return;
    }
    for dice in [0.0, 0.5, 1.0 - f64::EPSILON] {
        let roll = |_: &str, _: &str, number: u64| if number % 7 == 3 { 0.5 } else { dice };
        // The smallest of rolls draws a crowd out of a mean: all in the first moment.
        if dice == 0.0 && scenario.load.iter().any(|load| load.last().is_none()) {
            continue;
        }
        for (at, place) in scenario.arrivals(&roll) {
            let load = &scenario.load[place];
            assert!(at >= load.from && at <= scenario.run.max(load.from), "{at:?} {load:?}");
        }
        if dice > 0.0 {
            let windows = scenario.windows(&roll);
            assert!(windows.iter().all(|window| window.from <= window.until), "{windows:?}");
            assert!(windows.is_sorted());
        }
    }
}
