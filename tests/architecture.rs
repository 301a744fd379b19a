//! Files decide, folders do.
//!
//! What is *not* in a file cannot be seen in it, so it is written down here: which words a pure file never says, who
//! may know whom, and what every file owes its reader. Each rule is a function over a text and is tried on a bad one.

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{File, files};

/// Words no pure file says: the world, the clock, chance, waiting, and memory shared between threads.
const WORLDLY: &[&str] = &[
    "async",
    "await",
    "tokio",
    "tokio_util",
    "futures_util",
    "ractor",
    "reqwest",
    "axum",
    "rusqlite",
    "rustls",
    "lettre",
    "clap",
    "metrics",
    "tracing",
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "rand",
    "getrandom",
    "RandomState",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "Atomic",
    "AtomicBool",
    "AtomicU32",
    "AtomicU64",
    "AtomicUsize",
    "RefCell",
    "thread_local",
    "print",
    "println",
    "eprint",
    "eprintln",
    "dbg",
];
/// Files that are pure but for one word, and why.
const BUT_FOR: &[(&str, &str, &str)] = &[(
    "src/mutant.rs",
    "thread_local",
    "only in builds with seeded bugs: where a bug is seeded, nobody could hand the switch down",
)];
/// Doors of the standard library no pure file opens.
const DOORS: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "net", "UdpSocket"],
    &["std", "io"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "os"],
    &["std", "sync", "mpsc"],
    &["std", "sync", "atomic"],
];

/// Which folders a folder may know besides itself and the pure files. Whoever is not listed may know none.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("llm", &[]),
    ("pager", &[]),
    ("tools", &[]),
    ("definitions", &[]),
    ("team", &["engine", "llm", "pager", "tools"]),
    ("sim", &["engine", "llm", "pager", "tools", "team", "definitions"]),
    ("api", &["engine", "llm", "pager", "tools", "team", "definitions"]),
    ("cli", &["engine", "llm", "pager", "tools", "team", "definitions", "sim", "api"]),
];

/// More lines than this, and a file is two files, or says here why it is not.
const LINES_MAX: usize = 700;
const LONG: &[(&str, &str)] = &[
    ("src/breaker.rs", "a third are its tests: every state with every event"),
    ("src/ledger.rs", "the one state machine of a task: every command in every state, nearly half of it tests"),
    ("src/scenario.rs", "the words of a scenario, a type each, and what they mean at a moment"),
    ("tests/team.rs", "a list: one story each of a task and its actors"),
];

/// The modules of `lib.rs` in reading order: files first, then folders.
fn modules(lib: &str) -> Vec<String> {
    let lines = lib.lines().map(str::trim);
    lines.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect()
}

/// Pure files say no worldly word, not even in their tests.
fn worldly(file: &File) -> Vec<String> {
    let (said, paths) = (file.words(), file.paths());
    let excused = |word: &str| BUT_FOR.iter().any(|(path, but, _)| *path == file.path && *but == word);
    let words = WORLDLY.iter().filter(|word| said.contains(**word) && !excused(word));
    let words = words.map(|word| format!("says `{word}`"));
    let leads = |door: &[&str], path: &[String]| path.len() >= door.len() && path.iter().zip(door).all(|(a, b)| a == b);
    let doors = DOORS.iter().filter(|door| paths.iter().any(|path| leads(door, path)));
    words.chain(doors.map(|door| format!("opens `{}`", door.join("::")))).collect()
}

/// Pure files use only what stands above them in `lib.rs`, and nothing that `lib.rs` itself hands out.
fn out_of_order(file: &File, order: &[String]) -> Vec<String> {
    let place = |name: &str| order.iter().position(|module| module == name);
    let Some(own) = place(file.stem()) else { return vec!["is not in lib.rs".to_owned()] };
    let uses = file.uses_of_the_crate();
    // What is no module is a type of the root's; in lower case it is an inline module's `super`, the file itself.
    let late = |used: &&String| place(used).map_or(used.starts_with(char::is_uppercase), |there| there > own);
    uses.iter().filter(late).map(|used| format!("uses `{used}`, which does not stand above it in lib.rs")).collect()
}

/// Folders know only those below them; nobody knows a folder that is not listed.
fn wrong_way(file: &File, folders: &[String]) -> Vec<String> {
    let Some(own) = file.folder() else { return Vec::new() };
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(folder, _)| *folder == own) else {
        return vec![format!("is in a folder without a direction: `{own}`")];
    };
    let uses = file.uses_of_the_crate();
    let wrong =
        uses.iter().filter(|used| folders.contains(used) && used.as_str() != own && !allowed.contains(&used.as_str()));
    wrong.map(|used| format!("`{own}` may not know `{used}`")).collect()
}

/// Every `allow` and `expect` says why.
fn unexplained(file: &File) -> Vec<String> {
    let attributes = file.attributes();
    let silent = attributes.iter().filter(|(_, text)| {
        let text = text.replace(' ', "");
        let lint =
            ["allow(", "expect("].iter().any(|lint| text.starts_with(lint) || text.contains(&format!(",{lint}")));
        lint && !text.contains("reason=")
    });
    silent.map(|(line, _)| format!("line {line}: an `allow` without `reason`")).collect()
}

/// Outside tests, what cannot fail says why it cannot.
fn unwraps(file: &File) -> Vec<String> {
    let code = file.code_outside_tests();
    let lines = code.lines().enumerate().filter(|(_, line)| line.contains(".unwrap()"));
    lines.map(|(index, _)| format!("line {}: `unwrap()`; say why it holds with `expect`", index + 1)).collect()
}

/// What is to be done is in the issues.
fn promises_of_work(text: &str) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
    let says = |line: &str| marks.iter().any(|mark| source::words_of(line).contains(*mark));
    let lines = text.lines().enumerate().filter(|(_, line)| says(line));
    lines.map(|(index, _)| format!("line {}: work left for later", index + 1)).collect()
}

/// The first line is the file's business card.
fn without_a_card(file: &File) -> Vec<String> {
    let first = file.text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") && first.len() > 12 { Vec::new() } else { vec!["has no `//!` first line".to_owned()] }
}

/// No longer than a file should be, unless it says why.
fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let excused = LONG.iter().any(|(long, _)| *long == path);
    match (lines > LINES_MAX, excused) {
        (true, false) => vec![format!("has {lines} lines; split it, or say in tests/architecture.rs why not")],
        // Not `lines < LINES_MAX`: a file at the border would change the list with every line.
        (false, true) if lines < LINES_MAX * 8 / 10 => vec![format!("has {lines} lines and needs no excuse any more")],
        _ => Vec::new(),
    }
}

/// Fails with everything that is wrong at once.
fn none(rule: &str, wrong: &BTreeMap<String, Vec<String>>) {
    let all: Vec<String> =
        wrong.iter().flat_map(|(path, says)| says.iter().map(move |what| format!("{path}: {what}"))).collect();
    assert!(all.is_empty(), "{rule}\n  {}", all.join("\n  "));
}

fn check(rule: &str, folders: &[&str], look: impl Fn(&File) -> Vec<String>) {
    let all = files(folders);
    assert!(!all.is_empty(), "nothing to look at");
    none(rule, &all.iter().map(|file| (file.path.clone(), look(file))).collect());
}

fn lib() -> (Vec<String>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = fs::read_to_string(root.join("lib.rs")).expect("lib.rs");
    modules(&text).into_iter().partition(|module| root.join(format!("{module}.rs")).is_file())
}

const OURS: &[&str] = &["src", "tests", "examples", "benches", "fuzz"];

#[test]
fn files_decide() {
    check("files under src/ are pure", &["src"], |file| if file.is_pure() { worldly(file) } else { Vec::new() });
}

#[test]
fn files_stand_in_reading_order() {
    let (pure, folders) = lib();
    assert!(pure.len() > 30 && folders.len() > 5, "{pure:?} {folders:?}");
    let order = [pure, folders].concat();
    check("files use only what stands above them", &["src"], |file| {
        if file.is_pure() { out_of_order(file, &order) } else { Vec::new() }
    });
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    assert_eq!(modules(&text), order, "lib.rs lists files first, then folders");
}

#[test]
fn folders_know_only_those_below() {
    let (_, folders) = lib();
    check("folders have a direction", &["src"], |file| wrong_way(file, &folders));
}

#[test]
fn every_allow_has_a_reason() {
    check("an `allow` says why", OURS, unexplained);
}

#[test]
fn nothing_is_unwrapped() {
    check("no `unwrap` outside tests", &["src", "examples"], unwraps);
}

#[test]
fn nothing_is_left_for_later() {
    check("work left for later is in the issues", OURS, |file| promises_of_work(&file.text));
}

#[test]
fn every_file_has_a_card() {
    check("every file opens with a sentence", OURS, without_a_card);
}

#[test]
fn no_file_is_endless() {
    check("no file is endless", OURS, |file| too_long(&file.path, &file.text));
    let known: BTreeSet<String> = files(OURS).into_iter().map(|file| file.path).collect();
    for (path, word, why) in BUT_FOR {
        assert!(known.contains(*path), "{path} is excused for `{word}` ({why}) but not there");
    }
    for (path, why) in LONG {
        assert!(known.contains(*path), "{path} is excused ({why}) but not there");
    }
}

#[test]
fn every_test_is_run_and_every_table_is_read() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let main = fs::read_to_string(tests.join("main.rs")).expect("main.rs");
    let manifest = fs::read_to_string(tests.join("../Cargo.toml")).expect("Cargo.toml");
    let all = files(&["tests"]);
    for file in &all {
        let path = Path::new(file.path.trim_start_matches("tests/"));
        // `a/mod.rs` is the module `a`, declared where `a` stands.
        let module = if path.ends_with("mod.rs") { path.parent().expect("a folder") } else { path };
        let name = module.file_stem().expect("a name").to_string_lossy().into_owned();
        let folder = module.parent().expect("a folder");
        let declared = match (folder.as_os_str().is_empty(), path.ends_with("main.rs")) {
            (true, root) => root || main.contains(&format!("mod {name};")),
            // A command of its own.
            (false, true) => manifest.contains(&format!("path = \"{}\"", file.path)),
            (false, false) => {
                let parents = [folder.with_extension("rs"), folder.join("mod.rs"), folder.join("main.rs")];
                let mut parents = parents.iter().filter_map(|parent| fs::read_to_string(tests.join(parent)).ok());
                parents.any(|parent| parent.contains(&format!("mod {name};")))
            }
        };
        assert!(declared, "{} is no module of tests/main.rs and no target of its own: it is never run", file.path);
    }
    for entry in fs::read_dir(tests.join("conformance")).expect("tables") {
        let name = entry.expect("a table").file_name().into_string().expect("a name");
        let read = all.iter().any(|file| file.text.contains(&format!("conformance/{name}\"")));
        assert!(read, "tests/conformance/{name} is read by no test");
    }
}

#[cfg(test)]
mod the_rules_bite {
    use super::*;

    fn pure(text: &str) -> File {
        File::new("src/thing.rs", text)
    }

    #[test]
    fn a_worldly_word_is_heard_in_code_only() {
        for bad in [
            "async fn go() {}",
            "use tokio::time::sleep;",
            "use std::{fmt, fs};",
            "use std::{collections::BTreeMap, sync::{Arc, Mutex}};",
            "fn f() { std::env::var(\"A\"); }",
            "fn f() -> SystemTime { todo() }",
            "fn f() { std::thread::yield_now(); }",
            "#[cfg(test)] mod tests { use std::net::TcpListener; }",
            "fn f() { let quote = '\"'; let x = rand(); let other = '\"'; }",
        ] {
            assert!(!worldly(&pure(bad)).is_empty(), "{bad}");
        }
        for good in [
            "// async tokio std::fs",
            "/* Mutex /* nested */ rand */ fn f() {}",
            "const A: &str = \"await \\\" tokio\"; fn f<'async_>() {}",
            "const A: &str = r#\"rand \" Mutex\"#;",
            "use std::{fmt, time::Duration}; fn awaited(fs: u8) {}",
            "/// [`std::fs`]\nfn f() {}",
        ] {
            assert_eq!(worldly(&pure(good)), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn a_use_of_what_stands_below_is_seen() {
        let order: Vec<String> = ["above", "thing", "below", "engine"].map(str::to_owned).into();
        for bad in [
            "use crate::below::B;",
            "use crate::{above::A, below::B};",
            "fn f() { crate::below::g() }",
            "use crate::engine::Engine;",
            "use super::below::B;",
            "use crate::{above, below};",
            "use crate::Team;",
        ] {
            assert_eq!(out_of_order(&pure(bad), &order).len(), 1, "{bad}");
        }
        for good in
            ["use crate::above::A;", "//! [`crate::below`]", "fn f() { crate::thing::g() }", "mod t { use super::*; }"]
        {
            assert_eq!(out_of_order(&pure(good), &order), Vec::<String>::new(), "{good}");
        }
        assert_eq!(out_of_order(&File::new("src/new.rs", ""), &order), ["is not in lib.rs"]);
    }

    #[test]
    fn a_folder_that_looks_up_is_seen() {
        let folders: Vec<String> = ["engine", "llm", "team", "api", "cli", "cellar"].map(str::to_owned).into();
        for (path, bad) in [
            ("src/engine/memory.rs", "use crate::team::Team;"),
            ("src/engine/deep/row.rs", "use super::super::super::llm::Request;"),
            ("src/llm/mod.rs", "use crate::{engine::Engine, task::Task};"),
            ("src/team/root.rs", "fn f() { crate::api::serve() }"),
            ("src/api/mod.rs", "use crate::cli::main;"),
            ("src/cellar/mod.rs", "fn f() {}"),
        ] {
            assert_eq!(wrong_way(&File::new(path, bad), &folders).len(), 1, "{bad}");
        }
        for (path, good) in [
            ("src/team/root.rs", "use crate::engine::Engine; use crate::task::Task; use super::Team;"),
            ("src/engine/deep/row.rs", "use super::super::Engine; use super::llm;"),
            ("src/cli/mod.rs", "use crate::api::serve; // crate::main"),
        ] {
            assert_eq!(wrong_way(&File::new(path, good), &folders), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn a_silent_allow_is_seen() {
        for bad in [
            "#[allow(dead_code)] fn f() {}",
            "#![allow(dead_code)]",
            "#[allow(\n    dead_code,\n    unused\n)]\nfn f() {}",
            "#[expect(dead_code)] fn f() {}",
            "#[cfg_attr(test, allow(dead_code))] fn f() {}",
        ] {
            assert_eq!(unexplained(&pure(bad)).len(), 1, "{bad}");
        }
        for good in [
            "#[allow(dead_code, reason = \"for readers\")] fn f() {}",
            "fn f() { table.allow(x); option.expect(why); }",
            "// #[allow(dead_code)]",
            "#[serde(deny_unknown_fields)] struct A;",
        ] {
            assert_eq!(unexplained(&pure(good)), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn an_unwrap_outside_tests_is_seen() {
        let bad =
            "fn f() { g().unwrap(); }\n#[cfg(test)]\nmod tests { fn t() { g().unwrap(); } }\nfn h() { g().unwrap() }";
        assert_eq!(unwraps(&pure(bad)).len(), 2);
        let good = "#[cfg(test)]\nmod tests { fn t() { if a { g().unwrap(); } } }\n// .unwrap()\nconst A: &str = \".unwrap()\";";
        assert_eq!(unwraps(&pure(good)), Vec::<String>::new());
    }

    #[test]
    fn the_others_bite_too() {
        assert_eq!(promises_of_work(concat!("// TO", "DO: later\nfn to_do() {}\n// FIX", "ME")).len(), 2);
        assert_eq!(without_a_card(&pure("use std::fmt;")).len(), 1);
        assert_eq!(without_a_card(&pure("//! What a thing is.\n")), Vec::<String>::new());
        let long = "\n".repeat(LINES_MAX + 1);
        assert_eq!(too_long("src/new.rs", &long).len(), 1);
        assert_eq!(too_long("src/ledger.rs", &long), Vec::<String>::new());
        assert_eq!(too_long("src/ledger.rs", "\n").len(), 1);
        assert_eq!(modules("pub mod a;\nmod c;\n// pub mod d;\npub mod b;\npub use a::X;"), ["a", "b"]);
    }
}
