//! The cases of the abuse table that come through files: what a page shows, and which files are read.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use backstop::event::{Event, Happening};
use backstop::llm::simulated::Scripted;
use backstop::sim::play::books::{Message, Refused};
use backstop::sim::report::html;
use backstop::sim::report::spread::Played;
use backstop::time::Timestamp;
use serde_json::json;

use super::stage::{Stage, integration};
use super::{Case, door, in_paused_time};
use crate::engine::Scratch;
use crate::sim_report::{changed, tags_are_balanced};

fn backstop(dir: &Scratch, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(arguments).env_clear().env("HOME", dir.path()).current_dir(dir.path()).stdin(Stdio::null());
    command.output().expect("the binary runs")
}

fn write(dir: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(&path, text).expect("a file");
    path
}

/// As HTML has it between tags.
fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A page with its quotes as they are read. It has no element but those that it is built of.
fn read(page: &str) -> String {
    for word in ["<script", "<img", "<iframe", "<a ", "<textarea", "<style>@import", "=\"javascript"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(tags_are_balanced(page), "{page}");
    page.replace("&quot;", "\"").replace("&#39;", "'")
}

pub(super) fn a_page_shows_text(case: &Case) {
    what_an_operator_wrote_and_a_model_answers(case);
    what_the_story_quotes_of_an_error(case);
    door::what_a_model_says_is_no_page(case);
}

/// By the real binary. The page shows no answer: it counts what was given up for them.
fn what_an_operator_wrote_and_a_model_answers(case: &Case) {
    let dir = Scratch::new();
    let said = json!(case.said());
    let load = "run: 10m\nload: [{ type: code_review, at: [0s, 1m] }]\n";
    let models = format!("models: {{ \"*\": {{ answers: [{{ text: {said} }}] }} }}\n");
    let human = "human: { acknowledges-after: 1m, decides-after: 2m, decision: discard }\n";
    write(&dir, "said.yaml", &format!("name: said\nabout: {said}\n{load}{models}{human}"));
    let output = backstop(&dir, &["sim", "run", "said.yaml", "--report", "html"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut page = std::fs::read_dir(dir.path()).expect("a directory").map(|file| file.expect("a file").path());
    let page = page.find(|path| path.extension().is_some_and(|kind| kind == "html")).expect("a page");
    let page = std::fs::read_to_string(page).expect("UTF-8");
    assert!(page.contains("given up: "), "no schema takes what the models answer");
    let shown = read(&page);
    assert!(shown.contains(&escaped(case.said())), "{} is not shown as it is:\n{shown}", case.said());
}

/// What the team tells of a model whose error says this: why its breaker opened, and the sentence on a person's screen.
fn told_of_an_error(case: &Case) -> (String, String) {
    let mut told = None;
    in_paused_time(async {
        let body = json!({ "error": { "message": case.said() } }).to_string();
        let stage = Stage::plain(move |_, _| {
            Scripted::status(integration("primary"), 401, body.as_str(), Timestamp::from_millis(0))
        })
        .await;
        stage.ended("read", json!({})).await;
        let pages = || stage.inbox.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut watch = stage.desk.engine().watch();
        while pages().is_empty() {
            watch.changed().await.expect("a page comes");
        }
        let events = stage.desk.engine().events(0, 10_000).await.expect("events");
        let why = events.iter().find_map(|event| {
            let Happening::BreakerChanged { why, .. } = &event.what else { return None };
            Some(why.clone())
        });
        told = why.zip(pages().first().map(|page| page.incident.summary.clone()));
    });
    let (why, summary) = told.expect("its breaker opens, and a person is called");
    for words in [&why, &summary] {
        assert!(words.contains(case.said()), "{words}");
    }
    (why, summary)
}

/// The providers of a simulation fail in words of their own. So what the team told of one that fails in these is put into
/// the books of a run, wherever a story quotes.
fn what_the_story_quotes_of_an_error(case: &Case) {
    let (why, summary) = told_of_an_error(case);
    let report = changed(|run| {
        let (seq, at) = run.events.last().map(|last| (last.seq + 1, last.at)).expect("a run has events");
        let opened = Happening::BreakerChanged {
            integration: integration("anthropic"),
            from: "closed".to_owned(),
            to: "open".to_owned(),
            until: None,
            why: why.clone(),
        };
        run.events.push(Event { seq, at, task: None, what: opened });
        let at = Duration::from_secs(60);
        run.books.refused.push(Refused { at, number: 2, why: why.clone() });
        run.books.pages.push(Message {
            at,
            channel: "pagerduty".to_owned(),
            incident: "INC-1".to_owned(),
            number: 1,
            action: "trigger".to_owned(),
            again: false,
            summary: summary.clone(),
            taken: true,
            dedup_key: "key".to_owned(),
        });
    });
    let page = html::html(&Played::of(vec![report]), &|seed: u64| format!("backstop sim run said --seed {seed}"));
    let (shown, why) = (read(&page), escaped(&why));
    for quoted in [
        format!(", on \"{why}\"; it "),
        format!(" for INC-1 (\"{}\")", escaped(&summary)),
        format!("refused, the first at 00:01:00 (1m in): \"{why}\"."),
    ] {
        assert!(shown.contains(&quoted), "{quoted} is not in\n{shown}");
    }
}

const CANARY: &str = "{ \"type\": \"object\", \"title\": \"canary\" }";

/// What `backstop check` says of a project whose tasks have this schema.
fn checked(dir: &Scratch, schema: &str) -> (Option<i32>, String) {
    let team = "team: t\nproviders: { anthropic: { api-key: \"${ANTHROPIC_API_KEY}\" } }\n";
    let types = format!("task-types: {{ review: {{ effect: read-only, output-schema: {} }} }}\n", json!(schema));
    write(dir, "home/team/backstop.yaml", &format!("{team}{types}"));
    write(
        dir,
        "home/team/agents/cto.md",
        "---\nname: cto\ndescription: Reviews.\nmodel: anthropic/claude-sonnet-5-5\nhandles: [review]\n---\nYou review.\n",
    );
    let output = backstop(dir, &["check", "home/team"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

pub(super) fn only_files_of_the_project_are_read(case: &Case) {
    let refused = |(code, said): (Option<i32>, String), why: &str| {
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("backstop.yaml:3:") && said.contains("output-schema") && said.contains(why), "{said}");
        assert!(!said.contains("canary"), "{said}");
    };
    let dir = Scratch::new();
    // A schema that would be taken: in the project, where `..%2f..%2f` leads when it is decoded, and under what is left of a
    // name that is cut at its NUL. `/etc/passwd` itself is there on any Unix, and would be told to be no JSON.
    for path in ["home/team/schemas/review.json", "etc/passwd", "home/team/a"] {
        write(&dir, path, CANARY);
    }
    let (code, said) = checked(&dir, "schemas/review.json");
    assert_eq!(code, Some(0), "the canary is taken where it may be: {said}");
    let absolute = case.said().starts_with('/');
    refused(checked(&dir, case.said()), if absolute { "leads out of the project" } else { "there is no file" });
    // The same words as the name of a link to what lies outside: now the canary is within reach as they stand.
    #[cfg(unix)]
    {
        if !case.said().contains(['/', '\0']) {
            let link = dir.path().join("home/team").join(case.said());
            std::os::unix::fs::symlink(dir.path().join("etc/passwd"), link).expect("a link");
            refused(checked(&dir, case.said()), "leads out of the project");
        }
    }
}
