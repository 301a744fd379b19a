//! `backstop sim`: outages in virtual time, against the production code.

use clap::Subcommand;

use super::sim_fuzz::{Fuzz, Mutants};
use super::{Context, Error};

/// Simulate outages against the production code, in virtual time.
#[derive(Debug, Subcommand)]
pub(super) enum Sim {
    /// Random load, faults and configuration from seeds, held against every invariant
    Fuzz(Fuzz),
    /// Does the simulation find the bugs that are seeded for it?
    Mutants(Mutants),
}

impl Sim {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Fuzz(fuzz) => fuzz.run(context),
            Self::Mutants(mutants) => mutants.run(context),
        }
    }
}
