//! The worst case of every task is known beforehand, from the files of a team alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstop::bound::{self, Bound};
use backstop::config::{BudgetConfig, Config};
use backstop::definitions::{Purpose, load};
use backstop::task::{Effect, TaskType};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The shipped team, read where no key is set.
fn shipped() -> Config {
    let nowhere = |name: &str| name.starts_with("BACKSTOP_SYSTEM").then(|| "/nonexistent".to_owned());
    load(Path::new(ROOT), &nowhere, Purpose::Bound).expect("sound").config
}

fn of(config: &Config, task_type: &str) -> Bound {
    bound::task_type(config, &TaskType::new(task_type).expect("a type"))
}

#[test]
fn a_review_of_the_shipped_team() {
    let bound = of(&shipped(), "code_review");
    // 4 rounds of 3 + 5 calls; the dearest is claude-opus-5-5: a million tokens into the cache at 5, 8000 out at 20.
    assert_eq!((bound.effect, bound.calls), (Effect::ReadOnly, Some(32)));
    assert_eq!((bound.uncut_micro_usd, bound.micro_usd), (Some(32 * 5_160_000), Some(10_000_000)));
    // The longest context is gemini-3.8-flash's, to which backend falls back.
    assert_eq!(bound.tokens, Some(32 * (1_048_576 + 8_000)));
    // A round: 8 calls of 11 min, 8 times 7.5 min parked, waits of 5.5 min twice, 3 leases of 5 min; 3 hours between.
    assert_eq!(bound.lasts, Some(Duration::from_secs(4 * (88 + 60 + 11 + 15) * 60 + 3 * 3_600)));
    assert_eq!(
        bound.path,
        [
            "4 rounds: the first, and one for each of 3 decisions of the CEO",
            "8 calls a round by cto: 3 deliveries, 5 spare for calls given back",
            "each call at most 1000000 tokens in and 8000 out on anthropic/claude-opus-5-5: $5.16",
            "cut from $165.12 to $10.00 by budget.max-usd-per-task of the team",
            "time of a round with cto: 8 calls of 11m, 1h at closed doors (park-at-most), 11m of backoff, 15m until dead workers are noticed (ack-wait)",
            "1h before each further round: the longest the CEO lets it wait",
            "not in it: what people or replays send round again, waiting for a free agent, a Retry-After above 5m",
        ]
    );
}

#[test]
fn a_payment_of_the_shipped_team() {
    let bound = of(&shipped().budget(BudgetConfig::default()), "charge_card");
    assert_eq!((bound.effect, bound.calls), (Effect::Payment, Some(6)));
    assert_eq!((bound.micro_usd, bound.tokens), (Some(6 * 5_160_000), Some(6 * 1_056_576)));
    assert_eq!(bound.lasts, Some(Duration::from_secs((66 + 45 + 5) * 60)));
    assert_eq!(bound.path[0], "1 round of 1 delivery: a payment is never repeated automatically");
}

/// The command in a directory; exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    let output = command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("the binary runs");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    (output.status.code(), stdout, stderr)
}

#[test]
fn the_command_needs_no_team_and_no_key() {
    let (code, stdout, stderr) = run(&["bound", ROOT, "--type", "charge_card"]);
    assert_eq!(code, Some(0), "{stderr}");
    let row: Vec<&str> = stdout.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row, ["charge_card", "payment", "6", "6339456", "$10.00", "1h56m"]);
    assert!(stdout.contains("\n  1 round of 1 delivery"), "{stdout}");
    let (code, stdout, _) = run(&["bound", ROOT, "-o", "json"]);
    let json: Value = serde_json::from_str(&stdout).expect("json");
    let types = json["items"].as_array().expect("items");
    assert_eq!((code, types.len()), (Some(0), shipped().task_types.len()));
    let review = types.iter().find(|bound| bound["task_type"] == "code_review").expect("a review");
    assert_eq!((&review["calls"], &review["micro_usd"]), (&32.into(), &10_000_000.into()));
    assert_eq!(review["lasts_s"], 52_560);
}

#[test]
fn the_command_refuses_files_that_are_not_sound() {
    let (code, stdout, stderr) = run(&["bound", "/nonexistent"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("try: backstop check"), "{stderr}");
}
