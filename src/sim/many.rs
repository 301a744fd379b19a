//! Many seeds of one scenario on as many threads as there are cores: what came of them, in the order of the seeds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, mpsc};
use std::thread;

use super::play::{self, Error, Run};
use crate::definitions::LoadedScenario;

/// What the threads of a simulation are called: by this a panic on cue is told from one of the program itself.
const THREAD: &str = "simulation";
/// Room for the deepest call chain of an unoptimised build.
const STACK: usize = 8 * 1024 * 1024;

/// Plays a scenario once with each seed and keeps of each run what `of` makes of it, in the order of the seeds.
///
/// # Errors
/// The first run, in that order, that could not be played.
pub fn play_all<T: Send>(
    loaded: &LoadedScenario,
    seeds: &[u64],
    of: impl Fn(&Run) -> T + Sync,
) -> Result<Vec<T>, Error> {
    keep_simulated_panics_off_the_screen();
    let workers = thread::available_parallelism().map_or(1, usize::from).min(seeds.len()).max(1);
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| -> Result<(), Error> {
        for _ in 0..workers {
            let (sender, next, of) = (sender.clone(), &next, &of);
            let work = move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(place) else { break };
                    let played = play::play(loaded, *seed).map(|run| of(&run));
                    // Who listens waits for all of them.
                    let _ = sender.send((place, played));
                }
            };
            thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK).spawn_scoped(scope, work)?;
        }
        Ok(())
    })?;
    drop(sender);
    let mut played: Vec<(usize, Result<T, Error>)> = results.into_iter().collect();
    played.sort_by_key(|(place, _)| *place);
    played.into_iter().map(|(_, result)| result).collect()
}

/// What panics in a simulation is a part of it, or is told by [`Error::Panicked`]; its message and backtrace would tear
/// the screen. Panics of all other threads are reported as ever.
fn keep_simulated_panics_off_the_screen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(THREAD) {
                usual(panic);
            }
        }));
    });
}
