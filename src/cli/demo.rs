//! `backstop demo`: a team of seven through an LLM outage, in this process, without a key.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;

use super::check::env;
use super::{Context, Error};
use crate::error_chain::in_full;
use crate::sim::demo;

/// Take a team through an LLM outage, in this process, without a key.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop demo\n  backstop demo --plain --seed 7\n  backstop demo --keep /tmp/demo, then kill -9 it, then backstop demo --resume /tmp/demo"
)]
pub(super) struct Demo {
    /// The same seed tells the same story
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How many times as fast as the world
    #[arg(long, default_value_t = 20.0, value_parser = speed)]
    speed: f64,
    /// No colour, no cursor movement: for logs and CI
    #[arg(long)]
    plain: bool,
    /// Keep the durable record there
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    keep: Option<PathBuf>,
    /// Go on with a record that was kept
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (1.0..=200.0).contains(&speed) => Ok(speed),
        Ok(_) | Err(_) => Err("must be a number from 1 to 200".to_owned()),
    }
}

impl Demo {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        // A cursor is only moved where there is one: the screen is stdout, so stdout decides.
        let terminal = io::stdout().is_terminal() && context.color.wanted(true, env);
        let options = demo::Options {
            seed: self.seed,
            speed: self.speed,
            plain: self.plain || !terminal,
            keep: self.keep,
            resume: self.resume,
        };
        let kept = options.keep.as_ref().or(options.resume.as_ref());
        let mut out = io::stdout();
        let again = kept.map(|dir| format!("backstop demo --resume {}", dir.display()));
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                context.out.say("interrupted");
                if let Some(again) = again {
                    context.out.next(&again);
                }
                Err(Error::Silent(130))
            }
            // It says itself what was seen, what it cost and what to run next.
            outcome = demo::run(options, &mut out) => outcome.map(drop).map_err(not_shown),
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "only wrong usage and a closed pipe are told apart from failing")]
fn not_shown(error: demo::Error) -> Error {
    let usage =
        |error: demo::Error| Error::Usage { message: error.to_string(), next: Some("backstop demo --help".to_owned()) };
    match error {
        demo::Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Error::Stdout(source),
        error @ (demo::Error::Speed(_) | demo::Error::NotEmpty(_) | demo::Error::NoDemo(_)) => usage(error),
        error => Error::Failed { message: in_full(&error), next: Some("backstop demo --seed 7 --plain".to_owned()) },
    }
}
