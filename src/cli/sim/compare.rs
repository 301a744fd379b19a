//! `backstop sim compare`: two scenarios, or two teams in one, with the same seeds.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{again, load, played, seeds, team, write};
use crate::cli::{Context, Error};
use crate::sim::report::spread::Compared;
use crate::sim::report::text;

/// Play two scenarios, or two teams in one, with the same seeds and say what differs.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop sim compare before.yaml after.yaml\n  backstop sim compare shipped my-team --scenario anthropic-outage --seeds 1..50"
)]
pub(in crate::cli) struct Compare {
    /// A scenario; with --scenario, the directory of a team, or `shipped`
    a: String,
    /// What it is compared with
    b: String,
    /// Play both teams in this scenario
    #[arg(long, value_name = "FILE")]
    scenario: Option<String>,
    /// The seeds, both ends included
    #[arg(long, value_name = "A..B", default_value = "1..20", value_parser = seeds)]
    seeds: (u64, u64),
    /// Write what is printed there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Compare {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let one = |name: &str| match &self.scenario {
            Some(file) => load(context, file, Some(&team(name))),
            None => load(context, name, None),
        };
        // Both are read before either is played.
        let (a, b) = (one(&self.a)?, one(&self.b)?);
        let seeds: Vec<u64> = (self.seeds.0..=self.seeds.1).collect();
        let again = |name: &str, seed| match &self.scenario {
            Some(file) => again(file, seed, Some(name), &[]),
            None => again(name, seed, None, &[]),
        };
        let played_a = played(&a, &seeds, false, &|seed| again(&self.a, seed))?;
        let played_b = played(&b, &seeds, false, &|seed| again(&self.b, seed))?;
        let named = |name: &str| match &self.scenario {
            Some(file) => format!("team {name} in {file}"),
            None => name.to_owned(),
        };
        let compared = Compared::of((&named(&self.a), &played_a), (&named(&self.b), &played_b));
        match &self.out {
            Some(path) => {
                write(path, &text::compared(&compared))?;
                context.out.say(&format!("written: {}", path.display()));
            }
            None => {
                let raw = serde_json::to_value(&compared).unwrap_or(Value::Null);
                context.out.data(&raw, "/b", || text::compared(&compared))?;
            }
        }
        Ok(())
    }
}
