//! `backstop sim`: outages on demand, in virtual time, against the production code.

mod agree;
mod compare;
mod fuzz;
mod record;
mod run;

use std::fs;
use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::json;

use super::check::lines;
use super::output::Table;
use super::{Context, Error};
use crate::assertion::Assertion;
use crate::definitions::{self, LoadedScenario, Problems};
use crate::error_chain::in_full;
use crate::scenario::TeamSource;
use crate::sim::library;
use crate::sim::play::{self, Run};
use crate::sim::report::Report;
use crate::spelling::nearest;
use crate::time::format_duration;

/// Simulate outages against a team in virtual time: months in seconds, the same seed the same story.
#[derive(Subcommand, Debug)]
pub(super) enum Sim {
    /// Play a scenario and say what came of it
    Run(run::RunOf),
    /// Play two scenarios, or two teams, with the same seeds and say what differs
    Compare(compare::Compare),
    /// Make a scenario of a stretch of a real event feed
    Record(record::Record),
    /// Play a scenario in virtual time and over real HTTP, and compare the counts
    Agree(agree::Agree),
    /// Random load, faults and configuration from seeds, held against every invariant
    Fuzz(fuzz::Fuzz),
    /// Does the simulation find the bugs that are seeded for it?
    Mutants(fuzz::Mutants),
    /// The scenarios that are shipped
    Ls(Ls),
}

/// The scenarios that are shipped.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  backstop sim ls\n  backstop sim ls -o name | xargs -n1 backstop sim run")]
pub(super) struct Ls {}

impl Sim {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Run(run) => run.run(context),
            Self::Compare(compare) => compare.run(context),
            Self::Record(record) => record.run(context).await,
            Self::Agree(agree) => agree.run(context),
            Self::Fuzz(fuzz) => fuzz.run(context),
            Self::Mutants(mutants) => mutants.run(context),
            Self::Ls(Ls {}) => list(context),
        }
    }
}

fn list(context: &Context) -> Result<(), Error> {
    let mut items = Vec::new();
    let mut table = Table::new(&["NAME", "RUN", "ABOUT"]);
    for (name, text) in library::SHIPPED {
        let loaded = definitions::scenario_text(&format!("{name}.yaml"), text, None);
        let loaded = loaded.map_err(|problems| refuse(context, &problems))?;
        let (run, about) = (format_duration(loaded.scenario.run), loaded.scenario.about);
        table.row(&[(*name).to_owned(), run.clone(), about.clone()]);
        items.push(json!({ "name": name, "run": run, "about": about }));
    }
    context.out.data(&json!({ "items": items }), "/name", || table.render("no scenario is shipped"))?;
    context.out.next(&format!("backstop sim run {}", library::SHIPPED[0].0));
    Ok(())
}

/// Diagnostics as `check` prints them, and the error to end with.
fn refuse(context: &Context, problems: &Problems) -> Error {
    let Problems { errors, warnings } = problems;
    let raw = json!({ "ok": errors.is_empty(), "errors": errors, "warnings": warnings });
    let said = context.out.data(&raw, "/ok", || lines(errors, "error") + &lines(warnings, "warning"));
    if let Err(error) = said {
        return error;
    }
    Error::Config { message: format!("{} error(s) in this scenario or its team", errors.len()), next: None }
}

/// `shipped`, or the directory of a team.
fn team(text: &str) -> TeamSource {
    match text {
        "shipped" => TeamSource::Shipped,
        path => TeamSource::Directory(super::check::directory(Path::new(path)).display().to_string()),
    }
}

/// A scenario by the path of its file, or by the name of a shipped one.
pub(super) fn load(context: &Context, file: &str, team: Option<&TeamSource>) -> Result<LoadedScenario, Error> {
    let path = Path::new(file);
    let loaded = if path.is_file() {
        definitions::scenario(path, team)
    } else if let Some((name, text)) = library::named(file) {
        definitions::scenario_text(&format!("{name}.yaml"), text, team)
    } else {
        let names = || library::SHIPPED.iter().map(|(name, _)| *name);
        let near = nearest(file, names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let message = format!("`{file}` is no file, and no shipped scenario has this name{near}");
        return Err(Error::Usage { message, next: Some("backstop sim ls".to_owned()) });
    };
    loaded.map_err(|problems| refuse(context, &problems))
}

/// `A..B`, both included.
fn seeds(text: &str) -> Result<(u64, u64), String> {
    const MOST: u64 = 1_000_000;
    let wrong = || "write the first and the last seed, such as 1..20 for twenty of them".to_owned();
    let (first, last) = text.split_once("..").ok_or_else(wrong)?;
    let last = last.strip_prefix('=').unwrap_or(last);
    let (first, last): (u64, u64) = first.trim().parse().ok().zip(last.trim().parse().ok()).ok_or_else(wrong)?;
    if last < first {
        return Err(format!("the last seed, {last}, is before the first, {first}"));
    }
    if last - first >= MOST {
        return Err(format!("at most {MOST} seeds are played at once"));
    }
    Ok((first, last))
}

/// Plays a scenario with each of these seeds, seed B's configuration beside it if that is wanted; `again` is the command
/// that plays one of them.
fn played(
    loaded: &LoadedScenario,
    seeds: &[u64],
    published: bool,
    again: &dyn Fn(u64) -> String,
) -> Result<Vec<Report>, Error> {
    let of = |run: &Run| {
        let report = Report::of(loaded, run);
        if published { report.beside_what_was_published(loaded, run) } else { Ok(report) }
    };
    let played = crate::sim::many::play_all(loaded, seeds, of);
    let played = played.and_then(|reports| reports.into_iter().collect::<Result<Vec<_>, _>>());
    played.map_err(|error| not_played(&error, again))
}

fn not_played(error: &play::Error, again: &dyn Fn(u64) -> String) -> Error {
    let next = match error {
        play::Error::Panicked { seed, .. } => again(*seed),
        play::Error::Runtime(_)
        | play::Error::Start(_)
        | play::Error::Engine(_)
        | play::Error::Task(_)
        | play::Error::SameWire { .. } => "backstop sim ls".to_owned(),
    };
    Error::Failed { message: in_full(error), next: Some(next) }
}

/// Writes a file of ours whole.
fn write(path: &Path, content: &str) -> Result<(), Error> {
    let file = |doing| {
        let path = path.display().to_string();
        move |source| Error::File { path, doing, source }
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(file("created"))?;
    }
    fs::write(path, content).map_err(file("written"))
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-' | '=' | ':' | ',' | '@' | '+');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The command that plays this very run again.
fn again(file: &str, seed: u64, team: Option<&str>, asserted: &[Assertion]) -> String {
    let mut command = format!("backstop sim run {} --seed {seed}", shell(file));
    if let Some(team) = team {
        command.push_str(&format!(" --team {}", shell(team)));
    }
    for assertion in asserted {
        command.push_str(&format!(" --assert {}", shell(&assertion.to_string())));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_with_both_ends() {
        assert_eq!(seeds("1..20"), Ok((1, 20)));
        assert_eq!(seeds("7..=7"), Ok((7, 7)));
        for (text, words) in [
            ("7", "such as 1..20"),
            ("..5", "such as 1..20"),
            ("-1..5", "such as 1..20"),
            ("5..4", "before the first"),
            ("0..99999999", "at most 1000000"),
        ] {
            let error = seeds(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_to_be_run_again_can_be_pasted() {
        let asserted: Vec<Assertion> = vec!["delay-p99 < 7m30s".parse().expect("an assertion")];
        assert_eq!(
            again("my scenarios/it's.yaml", 3, Some("teams/a"), &asserted),
            "backstop sim run 'my scenarios/it'\\''s.yaml' --seed 3 --team teams/a --assert 'delay-p99 < 7m30s'"
        );
    }
}
