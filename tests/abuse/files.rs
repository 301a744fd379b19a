//! The cases of the abuse table that come through files: what a page shows, and which files are read. By the real binary.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::Case;
use crate::engine::Scratch;

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

pub(super) fn a_page_shows_text(case: &Case) {
    let dir = Scratch::new();
    let about = json!(case.said());
    let load = "run: 10m\nload: [{ type: code_review, at: [0s, 1m] }]\n";
    write(&dir, "said.yaml", &format!("name: said\nabout: {about}\n{load}"));
    let output = backstop(&dir, &["sim", "run", "said.yaml", "--report", "html"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut page = std::fs::read_dir(dir.path()).expect("a directory").map(|file| file.expect("a file").path());
    let page = page.find(|path| path.extension().is_some_and(|kind| kind == "html")).expect("a page");
    let page = std::fs::read_to_string(page).expect("UTF-8");
    let escaped = case.said().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let shown = page.replace("&quot;", "\"").replace("&#39;", "'");
    assert!(shown.contains(&escaped), "{} is not shown as it is:\n{}", case.said(), &page[..page.len().min(3_000)]);
    for word in ["<script", "<img", "<iframe", "<a ", "<textarea", "<style>@import"] {
        assert!(!page.contains(word), "{word}");
    }
}

pub(super) fn only_files_of_the_project_are_read(case: &Case) {
    let dir = Scratch::new();
    // It is there, one level up: what is refused is refused for where it lies, not for being absent.
    write(&dir, "etc/passwd", "{ \"type\": \"canary\" }");
    let team = "team: t\nproviders: { anthropic: { api-key: \"${ANTHROPIC_API_KEY}\" } }\n";
    let types = format!("task-types: {{ review: {{ effect: read-only, output-schema: {} }} }}\n", json!(case.said()));
    write(&dir, "project/backstop.yaml", &format!("{team}{types}"));
    write(
        &dir,
        "project/agents/cto.md",
        "---\nname: cto\ndescription: Reviews.\nmodel: anthropic/claude-sonnet-5-5\nhandles: [review]\n---\nYou review.\n",
    );
    let output = backstop(&dir, &["check", "project"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("backstop.yaml:3:") && said.contains("output-schema"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}
