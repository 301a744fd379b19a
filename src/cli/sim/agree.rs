//! `backstop sim agree`: one scenario in virtual time and over real HTTP, and whether the counts agree.

use clap::Args;
use serde_json::json;

use super::{again, load, not_played};
use crate::cli::output::Table;
use crate::cli::{Context, Error};
use crate::sim::agree::{SLACK, TOLERANCE, agree};
use crate::time::format_duration;

/// Play a scenario in virtual time and in real time over HTTP, and compare the counts.
#[derive(Args, Debug)]
#[command(
    after_help = "Shares and flaps of a fault, and latencies near a timeout, are drawn anew by each side: what is compared must not hang on\nthem. Counts that differ by two or less agree.\n\nExamples:\n  backstop sim agree agreement              a minute of real time\n  backstop sim agree agreement --seed 3 -o json\n\nExit codes: 0 they agree, 1 they do not, 3 the scenario is wrong."
)]
pub(in crate::cli) struct Agree {
    /// A scenario file, or the name of a shipped one; it is played in real time, so take a short one
    file: String,
    /// The seed of the dice
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

impl Agree {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let loaded = load(context, &self.file, None)?;
        let real = format_duration(loaded.scenario.run);
        context.out.say(&format!("playing {real} over HTTP in real time, and until everything is at rest"));
        // A runtime of its own lives on a thread of its own.
        let played = std::thread::scope(|scope| scope.spawn(|| agree(&loaded, self.seed)).join());
        let played = played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let counted = played.map_err(|error| not_played(&error, &|seed| again(&self.file, seed, None, &[])))?;
        let mut table = Table::new(&["WHAT", "SIMULATED", "OVER HTTP", ""]);
        for line in &counted {
            let verdict = if line.agrees { "agrees" } else { "DIFFERS" };
            table.row(&[line.what.to_owned(), line.simulated.to_string(), line.real.to_string(), verdict.to_owned()]);
        }
        let apart: Vec<&str> = counted.iter().filter(|line| !line.agrees).map(|line| line.what).collect();
        let raw = json!({"agrees": apart.is_empty(), "seed": self.seed, "counts": counted});
        context.out.data(&raw, "/agrees", || table.render("nothing was counted"))?;
        if apart.is_empty() {
            context.out.say(&format!("every count agrees within {} % (or {SLACK})", TOLERANCE * 100.0));
            return Ok(());
        }
        Err(Error::Failed {
            message: format!("simulation and reality differ in {}", apart.join(", ")),
            next: Some(again(&self.file, self.seed, None, &[])),
        })
    }
}
