//! Whether simulation and reality agree: one scenario played in virtual time and over real HTTP, and the counts of both.
//!
//! Chance is the same in both (the same seed, drawn for the same tickets), time is not: real calls take a few
//! milliseconds more, and what is decided on the edge of a window may fall on its other side. So counts are held
//! against each other within [`TOLERANCE`], and small ones within [`SLACK`].

use serde::Serialize;

use super::play::{Error, Run, play, play_on_the_wire};
use crate::definitions::LoadedScenario;
use crate::event::Happening;

/// By how much two counts may differ, of the larger.
pub const TOLERANCE: f64 = 0.05;
/// By how much two small counts may differ: one thing that fell on the other side of an edge, and what follows from it.
pub const SLACK: u64 = 2;

/// What was counted on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// What.
    pub what: &'static str,
    /// In virtual time.
    pub simulated: u64,
    /// Over HTTP, in real time.
    pub real: u64,
    /// Is the difference small enough?
    pub agrees: bool,
}

/// Plays a scenario both ways and counts.
///
/// # Errors
/// As [`play`] and [`play_on_the_wire`].
pub fn agree(loaded: &LoadedScenario, seed: u64) -> Result<Vec<Counted>, Error> {
    let simulated = counts(&play(loaded, seed)?);
    let real = counts(&play_on_the_wire(loaded, seed)?);
    let pairs = simulated.into_iter().zip(real);
    Ok(pairs
        .map(|((what, simulated), (_, real))| Counted { what, simulated, real, agrees: near(simulated, real) })
        .collect())
}

#[allow(clippy::cast_precision_loss, reason = "counts of a minute")]
fn near(one: u64, other: u64) -> bool {
    let apart = one.abs_diff(other);
    apart <= SLACK || apart as f64 <= TOLERANCE * one.max(other) as f64
}

fn counts(run: &Run) -> Vec<(&'static str, u64)> {
    let told =
        |counts: &dyn Fn(&Happening) -> bool| run.events.iter().filter(|event| counts(&event.what)).count() as u64;
    vec![
        ("tasks", run.balance.submitted),
        ("done", run.balance.done),
        ("calls", run.books.calls.len() as u64),
        ("retries", told(&|what| matches!(what, Happening::RetryScheduled { .. }))),
        // Tasks that were parked at all: how often they look again depends on when they do.
        ("parks", parked(run)),
        ("dead letters", told(&|what| matches!(what, Happening::DeadLettered { .. }))),
        ("decisions", told(&|what| matches!(what, Happening::Decided { .. }))),
        ("pages", told(&|what| matches!(what, Happening::PageDelivered { .. }))),
    ]
}

fn parked(run: &Run) -> u64 {
    let parked = run.events.iter().filter(|event| matches!(event.what, Happening::Parked { .. }));
    parked.filter_map(|event| event.task).collect::<std::collections::BTreeSet<_>>().len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_hundred_is_near_and_two_of_a_few() {
        for (one, other, expected) in [
            (0, 0, true),
            (0, 2, true),
            (0, 3, false),
            (100, 105, true),
            (100, 106, false),
            (40, 43, false),
            (57, 60, true),
        ] {
            assert_eq!(near(one, other), expected, "{one} and {other}");
            assert_eq!(near(other, one), expected, "{other} and {one}");
        }
    }
}
