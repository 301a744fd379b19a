//! What fuzzing found worth keeping is played in every `cargo test`: see "Fuzzing" in CONTRIBUTING.md.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

fn play(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = fuzz().join("corpus").join(name);
    let files = names(&corpus);
    assert!(files.len() >= 5, "{} has {} files: nothing is tried", corpus.display(), files.len());
    let mut broken = Vec::new();
    for file in &files {
        let data = fs::read(corpus.join(file)).expect("a file of the corpus");
        if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
            broken.push(file.as_str());
        }
    }
    assert!(broken.is_empty(), "fuzz/corpus/{name}: {}", broken.join(", "));
}

#[test]
fn every_target_has_a_corpus_a_program_and_a_test() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), known);
    let programs: BTreeSet<String> = known.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    let (manifest, own) = (include_str!("../fuzz/Cargo.toml"), include_str!("corpus.rs"));
    for name in known {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no program of fuzz/Cargo.toml");
        assert!(own.contains(&format!("play(\"{name}\")")), "{name} is not played here");
    }
}

#[test]
fn front_matter() {
    play("front_matter");
}

#[test]
fn configuration() {
    play("configuration");
}

#[test]
fn scenario() {
    play("scenario");
}

#[test]
fn filter() {
    play("filter");
}

#[test]
fn hint() {
    play("hint");
}

#[test]
fn frames() {
    play("frames");
}

#[test]
fn answer() {
    play("answer");
}

#[test]
fn callback() {
    play("callback");
}

#[test]
fn recovery() {
    play("recovery");
}

#[test]
fn rows() {
    play("rows");
}
