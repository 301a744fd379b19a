//! `backstop sim run`: a scenario, played once or with many seeds, and what came of it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{again, load, not_played, played, seeds, team, write};
use crate::assertion::Assertion;
use crate::cli::output::{Format, json_page};
use crate::cli::{Context, Error};
use crate::definitions::LoadedScenario;
use crate::sim::play;
use crate::sim::report::spread::Played;
use crate::sim::report::{Report, html, junit, text};

/// Play a scenario in virtual time and say what came of it.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop sim run anthropic-outage\n  backstop sim run scenarios/night.yaml --seeds 1..50 --assert 'delay-p99 < 10m'\n  backstop sim run anthropic-outage --report html --out outage.html\n  backstop sim run anthropic-outage --team my-team --report junit > outage.xml\n\nExit codes: 0 everything is true that must be, 1 an assertion failed, 3 the scenario is wrong."
)]
pub(in crate::cli) struct RunOf {
    /// A scenario file, or the name of a shipped one (`backstop sim ls`)
    file: String,
    /// The seed of the dice: the same one tells the same story
    #[arg(long, default_value_t = 7, conflicts_with = "seeds")]
    seed: u64,
    /// Play it with each of these seeds, both ends included
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<(u64, u64)>,
    /// What must be true besides: `lost == 0`, `delay-p99 < 10m`
    #[arg(long, value_name = "EXPR")]
    assert: Vec<Assertion>,
    /// How it is told
    #[arg(long, value_enum, value_name = "text|html|json|junit", hide_possible_values = true)]
    report: Option<Form>,
    /// Write the report there; a page goes to sim-<name>.html by itself
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the event feed there, as JSON lines; of one seed
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    feed: Option<PathBuf>,
    /// Beside what was published of the real thing, and what its own broker would have done, where the scenario has that
    #[arg(long, conflicts_with = "feed")]
    published: bool,
    /// Whose agents, instead of those the scenario names: a directory, or `shipped`
    #[arg(long, value_name = "DIR|shipped")]
    team: Option<String>,
}

/// How a report is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Html,
    Json,
    Junit,
}

impl RunOf {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let source = self.team.as_deref().map(team);
        let mut loaded = load(context, &self.file, source.as_ref())?;
        loaded.scenario.assertions.extend(self.assert.iter().copied());
        let seeds: Vec<u64> = match self.seeds {
            Some((first, last)) => (first..=last).collect(),
            None => vec![self.seed],
        };
        let reports = match &self.feed {
            Some(path) => self.with_feed(&loaded, path)?,
            None => played(&loaded, &seeds, self.published, &|seed| self.again(seed))?,
        };
        let played = Played::of(reports);
        self.tell(context, &played)?;
        if played.holds {
            let next = match self.report {
                Some(Form::Html) => return Ok(()),
                _ if seeds.len() > 1 => self.again(seeds[0]),
                Some(Form::Text | Form::Json | Form::Junit) | None => {
                    format!("{} --report html", self.again(seeds[0]))
                }
            };
            context.out.next(&next);
            return Ok(());
        }
        Err(self.failed(&played))
    }

    /// Plays the one seed and writes its feed.
    fn with_feed(&self, loaded: &LoadedScenario, path: &Path) -> Result<Vec<Report>, Error> {
        let of = |run: &play::Run| (Report::of(loaded, run), play::feed(&run.events));
        let both = crate::sim::many::play_all(loaded, &[self.seed], of);
        let both = both.map_err(|error| not_played(&error, &|seed| self.again(seed)))?;
        let mut reports = Vec::new();
        for (report, feed) in both {
            write(path, &feed)?;
            reports.push(report);
        }
        Ok(reports)
    }

    fn again(&self, seed: u64) -> String {
        again(&self.file, seed, self.team.as_deref(), &self.assert)
    }

    fn tell(&self, context: &Context, played: &Played) -> Result<(), Error> {
        let raw = || serde_json::to_value(played).unwrap_or(Value::Null);
        let again = |seed| self.again(seed);
        let form = self.report.unwrap_or(match context.out.format {
            Format::Json => Form::Json,
            Format::Table | Format::Jsonl | Format::Yaml | Format::Name => Form::Text,
        });
        let content = match form {
            Form::Text if self.out.is_none() => {
                return context.out.data(&raw(), "/scenario", || text::text(played));
            }
            Form::Text => text::text(played),
            Form::Json => json_page(&raw()),
            Form::Junit => junit::junit(played, &again),
            Form::Html => html::html(played, &again),
        };
        let out = self.out.clone().or_else(|| (form == Form::Html).then(|| PathBuf::from(page(&played.scenario))));
        match out {
            Some(path) => {
                write(&path, &content)?;
                context.out.say(&format!("written: {}", path.display()));
                Ok(())
            }
            None => context.out.text(&content),
        }
    }

    /// Which assertions failed, what was measured, and how to see it again.
    fn failed(&self, played: &Played) -> Error {
        const SHOWN: usize = 10;
        let mut failed = Vec::new();
        for report in &played.reports {
            for checked in report.assertions.iter().filter(|checked| !checked.holds) {
                failed.push(format!("{} with seed {}: it is {}", checked.assertion, report.seed, checked.words));
            }
        }
        let count = failed.len();
        let mut lines: Vec<String> = failed.into_iter().take(SHOWN).map(|line| format!("  {line}")).collect();
        if count > SHOWN {
            lines.push(format!("  and {} more", count - SHOWN));
        }
        let seed = played.shown().map_or(self.seed, |report| report.seed);
        let was = if count == 1 { "assertion" } else { "assertions" };
        Error::Failed { message: format!("{count} {was} failed\n{}", lines.join("\n")), next: Some(self.again(seed)) }
    }
}

/// The file of a scenario's page.
fn page(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    format!("sim-{}.html", name.chars().map(safe).take(80).collect::<String>())
}
