//! Forgetting what ended long ago: round by round, when a person asks, and by the hour.
//!
//! No actor of its own: a round owns nothing, and the record is as sound in the middle of one as before it. Played
//! scenarios never begin it, so that what is checked at their end is all that was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absences;
use super::desk::Desk;
use super::drawer::{self, Stored};
use super::views::{DeskError, FieldProblem};
use crate::bygone::{self, Outbox};
use crate::engine::{self, Document, Engine, PruneAsk};
use crate::event::Happening;
use crate::incident::{Incident, IncidentState, Page};
use crate::replay::{Replay, ReplayState};
use crate::retention::{KEY_RETENTION, Pruned, Retention, Verdict};
use crate::task::TaskId;
use crate::time::{Timestamp, format_duration};

/// How many stretches of the record one round looks at: a few seconds of work at most.
const STRETCHES: u32 = 5;
/// How many incidents, with their pages, or replays the writer takes out at once: a few milliseconds. Others write between.
const BATCH: usize = 20;
/// How many times one round has it do so.
const BATCHES: usize = 20;
/// How long after the start the first round begins: a start has better things to do.
const FIRST: Duration = Duration::from_secs(5 * 60);
/// How long after the last round of one time the first of the next begins.
const EVERY: Duration = Duration::from_secs(3_600);

/// What one round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// What went, or in a dry run would go.
    #[serde(flatten)]
    pub pruned: Pruned,
    /// Where the next round begins; none: this was the last.
    pub next: Option<u64>,
}

/// One round, from `after` on (0: from the oldest task); after the last task, incidents and replays. Tells the feed what went.
///
/// # Errors
/// The engine's; what went before it is gone and counted.
pub async fn round(
    engine: &dyn Engine,
    retention: Retention,
    after: u64,
    dry_run: bool,
    by: &str,
    now: Timestamp,
) -> Result<Round, engine::Error> {
    let needed = Arc::new(needed(engine).await?);
    let (mut round, mut last) = (Round { pruned: Pruned::default(), next: Some(after) }, after);
    for _ in 0..STRETCHES {
        let Some(after) = round.next else { break };
        let stretch = engine.prune(PruneAsk { retention, needed: Arc::clone(&needed), dry_run, after }, now).await?;
        round.pruned.add(stretch.pruned);
        (round.next, last) = (stretch.next, after);
    }
    if round.next.is_none() {
        let (pruned, more) = forget_bygones(engine, &retention, dry_run, now).await?;
        round.pruned.add(pruned);
        round.next = more.then_some(last);
    }
    if !dry_run && round.pruned != Pruned::default() {
        let Pruned { done, dead, cancelled, incidents, replays, events } = round.pruned;
        let told = Happening::Pruned { done, dead, cancelled, incidents, replays, events, by: by.to_owned() };
        engine.publish(vec![told.into()], now).await?;
    }
    Ok(round)
}

/// What is to be said before the first round over the record of a stopped team: what a round tells the feed is no sign of life
/// of the team's, and who waits at a hold has not waited until then.
///
/// # Errors
/// The engine's.
pub async fn nobody_was_there(engine: &dyn Engine, now: Timestamp) -> Result<(), engine::Error> {
    absences::restore(engine, now).await.map(drop)
}

/// The tasks of every incident and replay that is not over.
async fn needed(engine: &dyn Engine) -> Result<BTreeSet<TaskId>, engine::Error> {
    let mut needed = BTreeSet::new();
    for stored in drawer::all::<Incident>(engine).await? {
        let incident = stored.value;
        if incident.state != IncidentState::Resolved {
            needed.extend(incident.deaths.iter().map(|(task, _)| *task));
            needed.extend(incident.subject.parse::<TaskId>().ok());
        }
    }
    for stored in drawer::all::<Replay>(engine).await? {
        let replay = stored.value;
        if matches!(replay.state, ReplayState::Running | ReplayState::Paused) {
            needed.extend(replay.pending.iter().copied());
            needed.extend(replay.released.iter().map(|(task, _)| *task));
        }
    }
    Ok(needed)
}

/// An incident or a replay that may be forgotten: what is counted, and what is taken out together.
struct Bygone {
    pruned: Pruned,
    documents: Vec<Document>,
}

/// Takes out incidents and replays, batch by batch: what went, or in a dry run would go, and whether there is more of it.
async fn forget_bygones(
    engine: &dyn Engine,
    retention: &Retention,
    dry_run: bool,
    now: Timestamp,
) -> Result<(Pruned, bool), engine::Error> {
    let mut found = incidents(engine, retention, now).await?;
    found.extend(replays(engine, retention, now).await?);
    let mut pruned = Pruned::default();
    if dry_run {
        found.iter().for_each(|bygone| pruned.add(bygone.pruned));
        return Ok((pruned, false));
    }
    for batch in found.chunks(BATCH).take(BATCHES) {
        let documents = batch.iter().flat_map(|bygone| bygone.documents.clone()).collect();
        match engine.save(documents, Vec::new(), now).await {
            Ok(()) => batch.iter().for_each(|bygone| pruned.add(bygone.pruned)),
            // One of them changed meanwhile, as a page does that the incident actor takes out: next time all are looked at anew.
            Err(engine::Error::DocumentConflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // Where nothing went, to go on at once would find the same again.
    Ok((pruned, found.len() > BATCH * BATCHES && pruned != Pruned::default()))
}

async fn incidents(engine: &dyn Engine, retention: &Retention, now: Timestamp) -> Result<Vec<Bygone>, engine::Error> {
    let incidents = drawer::all::<Incident>(engine).await?;
    // In this order: of those that are over by now, all there are.
    let pages = drawer::all::<Page>(engine).await?;
    let names = drawer::names::<Page>(engine).await?;
    let readable: BTreeSet<&str> = pages.iter().map(|page| page.value.id.as_str()).collect();
    // A page is called by its incident first.
    let others = names.iter().filter(|name| !readable.contains(name.as_str()));
    let others: BTreeSet<&str> = others.filter_map(|name| name.split('.').next()).collect();
    let mut outboxes: BTreeMap<&str, Vec<&Stored<Page>>> = BTreeMap::new();
    for page in &pages {
        outboxes.entry(page.value.incident.id.as_str()).or_default().push(page);
    }
    let last = bygone::last(bygone::INCIDENT, incidents.iter().map(|stored| &stored.value.id));
    let mut found = Vec::new();
    for Stored { version, value: incident } in &incidents {
        let stored = outboxes.get(incident.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let pages: Vec<&Page> = stored.iter().map(|page| &page.value).collect();
        let outbox = Outbox { pages: &pages, unreadable: others.contains(incident.id.as_str()) };
        if bygone::of_incident(incident, outbox, last, retention, now) == Verdict::Goes {
            let mut documents = vec![drawer::removed(incident, *version)];
            documents.extend(stored.iter().map(|page| drawer::removed(&page.value, page.version)));
            found.push(Bygone { pruned: Pruned { incidents: 1, ..Pruned::default() }, documents });
        }
    }
    Ok(found)
}

async fn replays(engine: &dyn Engine, retention: &Retention, now: Timestamp) -> Result<Vec<Bygone>, engine::Error> {
    let replays = drawer::all::<Replay>(engine).await?;
    let last = bygone::last(bygone::REPLAY, replays.iter().map(|stored| &stored.value.id));
    let goes = |stored: &&Stored<Replay>| bygone::of_replay(&stored.value, last, retention, now) == Verdict::Goes;
    let taken_out = |stored: &Stored<Replay>| Bygone {
        pruned: Pruned { replays: 1, ..Pruned::default() },
        documents: vec![drawer::removed(&stored.value, stored.version)],
    };
    Ok(replays.iter().filter(goes).map(taken_out).collect())
}

impl Desk {
    /// Forgets what ended longer ago than `older_than`, or than the configuration keeps it, a round at a time: `after`
    /// is where the round before ended. By age only, so that a dry run tells beforehand what goes; to the size the
    /// team looks by itself.
    ///
    /// # Errors
    /// When it is shorter than keys are remembered, or the engine's.
    pub async fn prune(
        &self,
        older_than: Option<Duration>,
        after: u64,
        dry_run: bool,
        by: &str,
    ) -> Result<Round, DeskError> {
        if let Some(short) = older_than.filter(|span| *span < KEY_RETENTION) {
            let message = format!(
                "{} is too short: a key is remembered for a day after its task has ended; write 1d or more",
                format_duration(short)
            );
            return Err(DeskError::Invalid(vec![FieldProblem { field: "/older_than".to_owned(), message }]));
        }
        let configured = Retention { size_max: None, ..self.office.config.retention };
        let retention = older_than.map_or(configured, Retention::older_than);
        Ok(round(self.engine(), retention, after, dry_run, by, self.now()).await?)
    }

    /// Forgets by the hour what the configuration keeps no longer, until the team drains. Nothing is lost when it is
    /// dropped, at any time.
    pub async fn keep_retention(self) {
        let retention = self.office.config.retention;
        if retention == Retention::FOR_EVER {
            return;
        }
        self.office.clock.sleep(FIRST).await;
        loop {
            let mut next = Some(0);
            while let Some(after) = next {
                if self.office.draining() {
                    return;
                }
                next = match round(self.engine(), retention, after, false, "retention", self.now()).await {
                    Ok(round) => round.next,
                    Err(engine::Error::Closed) => return,
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "what ended long ago was not forgotten"
                        );
                        None
                    }
                };
            }
            self.office.clock.sleep(EVERY).await;
        }
    }
}
