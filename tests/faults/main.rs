//! The real process under faults of its disk: killed at every operation, told that the disk fails or is full, cut from power; and under chaos.
//!
//! A command of its own, not part of `cargo test`:
//!
//! ```text
//! cargo test --release --test faults -- kill-points [--every K] [--mode MODE] [--phase NAME] [--only N] [--jobs J]
//! cargo test --release --test faults -- power-cuts [--rounds N]
//! cargo test --release --test faults -- chaos [--minutes N] [--seed S] [--rate R]
//! ```
//!
//! Each part can be had alone: [`project`] is a team's directory and its process, [`world`] what stands outside of it (the
//! model, the shop, the pager), [`ledger`] what its clients were promised, [`verdict`] holds the one against the other, and
//! [`called`] says whom it must have called by then.

mod called;
mod chaos;
mod disk;
mod kill_points;
mod ledger;
mod phases;
mod power_cuts;
mod project;
mod verdict;
mod world;

use std::process::ExitCode;

/// What went wrong, in words for whoever runs this.
type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = arguments.iter().map(String::as_str);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    backstop::cli::client::install_tls();
    let outcome = match words.next() {
        Some("kill-points") => {
            kill_points::Asked::read(words).and_then(|asked| runtime.block_on(kill_points::run(asked)))
        }
        Some("power-cuts") => power_cuts::Asked::read(words).and_then(|asked| runtime.block_on(power_cuts::run(asked))),
        Some("chaos") => chaos::Asked::read(words).and_then(|asked| runtime.block_on(chaos::run(asked))),
        Some(_) | None => Err(format!("kill-points, power-cuts or chaos? {}\n{}", kill_points::USAGE, chaos::USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Reads `--name value` pairs.
fn options<'a>(
    mut words: impl Iterator<Item = &'a str>,
    mut take: impl FnMut(&str, &str) -> Outcome<bool>,
    usage: &str,
) -> Outcome<()> {
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} wants a value\n{usage}"))?;
        if !take(name, value)? {
            return Err(format!("there is no {name}\n{usage}"));
        }
    }
    Ok(())
}

/// The value of an option, read.
fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> Outcome<T> {
    value.parse().map_err(|_| format!("{name}: `{value}` cannot be read"))
}
