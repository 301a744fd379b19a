//! Finds out at a start since when nobody was there, and keeps it: what waits across several stops needs all of them.

use super::drawer::{self, Kept};
use crate::absence::Absences;
use crate::engine::{self, Engine};
use crate::time::Timestamp;

impl Kept for Absences {
    const KIND: &'static str = "absences";

    fn key(&self) -> &str {
        "process"
    }
}

/// How many of the last events are read: the very last may be damaged.
const LAST_EVENTS: u32 = 16;

/// The times in which nobody was there, this start's included. The last sign of life is the last event of the feed: when the
/// store was opened it noted the time of that, and knows no more when it was written last. A process that lived on without
/// a word counts as gone: whoever waited has the longer patience.
///
/// # Errors
/// When the store cannot be read. What cannot be written is said in the log: it holds for this process all the same.
pub(super) async fn restore(engine: &dyn Engine, now: Timestamp) -> Result<Absences, engine::Error> {
    let known = drawer::one::<Absences>(engine, Absences::default().key()).await?;
    let known = known.map(|stored| stored.value).unwrap_or_default();
    let watch = engine.watch();
    let last = *watch.borrow();
    let told = engine.events(last.saturating_sub(u64::from(LAST_EVENTS)), LAST_EVENTS).await?;
    let Some(event) = told.last() else { return Ok(known) };
    let absences = known.with(event.at, now);
    if let Err(error) = drawer::change_only(engine, now, |_: Absences| absences.clone()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "since when nobody was there could not be stored");
    }
    Ok(absences)
}
