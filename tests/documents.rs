//! The pages under `docs/` and beside it are true: each test and command they name is there, and each fault has its row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(root().join("docs")).expect("docs").map(|file| file.expect("a file").path());
    let beside = ["CONTRIBUTING.md", "benches/README.md"].map(|path| root().join(path));
    files.chain(beside).map(|path| (path.clone(), fs::read_to_string(&path).expect("a page"))).collect()
}

/// What stands between single backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

pub(crate) fn has_test(file: &Path, test: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}(")))
}

/// The file of a module of tests/main.rs.
fn file_of(module: &str) -> PathBuf {
    let flat = root().join("tests").join(format!("{module}.rs"));
    if flat.is_file() { flat } else { root().join("tests").join(module).join("mod.rs") }
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut named = 0;
    for (page, text) in pages() {
        for word in quoted(&text) {
            let missing = |what: &str| panic!("{}: `{word}`: {what}", page.display());
            if let Some((file, test)) = word.split_once(".rs::") {
                named += 1;
                if !has_test(&root().join(format!("{file}.rs")), test) {
                    missing("there is no such test");
                }
            } else if let Some(filter) = word.strip_prefix("cargo test --test main ") {
                named += 1;
                let (module, test) = filter.split_once("::").unwrap_or_else(|| missing("is no filter"));
                let file = file_of(module);
                if !file.is_file() || !(test.is_empty() || has_test(&file, test)) {
                    missing("runs no test");
                }
            } else if (word.starts_with("tests/") || word.starts_with("src/")) && !word.contains(['*', '<', ' ']) {
                let path = root().join(word);
                if !path.exists() {
                    missing("is not there");
                }
            }
        }
    }
    assert!(named > 50, "only {named} tests are named");
}

#[test]
fn every_command_that_is_named_is_one() {
    let binary = env!("CARGO_BIN_EXE_backstop");
    for (page, text) in pages() {
        for word in quoted(&text).into_iter().filter_map(|word| word.strip_prefix("backstop ")) {
            let verbs: Vec<&str> =
                word.split(' ').take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect();
            // Up to two: what follows is an argument.
            let known = (1..=verbs.len().min(2)).rev().any(|n| {
                let output = Command::new(binary).args(&verbs[..n]).arg("--help").output().expect("the binary runs");
                output.status.success()
            });
            assert!(known, "{}: `backstop {word}` is no command", page.display());
        }
        for name in text.split("sim `").skip(1).filter_map(|rest| rest.split('`').next()) {
            assert!(
                root().join("scenarios").join(format!("{name}.yaml")).is_file(),
                "{}: no scenario {name}",
                page.display()
            );
        }
    }
}

#[test]
fn every_fault_has_its_row() {
    let text = fs::read_to_string(root().join("docs/faults.md")).expect("the table");
    let mut rows = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| F-")) {
        let numbers: Vec<u32> = line
            .split('|')
            .nth(1)
            .expect("a cell")
            .split("F-")
            .skip(1)
            .map(|n| n[..2].parse().expect("a number"))
            .collect();
        for number in numbers[0]..=*numbers.last().expect("one") {
            assert!(rows.insert(number), "F-{number:02} has two rows");
        }
        let says = line.contains("not injected") || line.contains("do not apply");
        assert!(says || line.split('|').nth(3).is_some_and(|tests| tests.contains('`')), "no test: {line}");
    }
    assert_eq!(rows, (1..=48).collect(), "the catalogue has 48");
}
