//! A store that takes no writes calls a person past the outbox, for the outbox lies on the disk that fails.
//!
//! The incident and its calls are kept in memory until no write has failed for a minute; then it is stored as one that is over,
//! and its end goes out through the outbox to everybody who was called. A process that dies while nothing can be written
//! forgets it: whoever was called ends it at the pager. So its name is made of the time, and is never that of a later one.
//!
//! The trap: the smallest write may be taken where all others fail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::drawer;
use super::escalate;
use super::office::Office;
use crate::engine;
use crate::escalation::{self, Step};
use crate::event::NewEvent;
use crate::incident::{self, BY_ITSELF, Incident, IncidentCommand, IncidentRefused, Opening, Page, Trigger};
use crate::time::Timestamp;

/// How often a store that fails is tried: nobody else may have anything to write.
const TRIED_EVERY: Duration = Duration::from_secs(5);

/// What is known of a store whose writes fail.
#[derive(Default)]
pub(crate) struct Alarm(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when they fail, with no quiet minute between.
    failing: Option<Timestamp>,
    /// What one met that was followed by others that were taken, before this was looked at.
    said: Option<String>,
    /// When one was seen to have failed last.
    met: Option<Timestamp>,
    /// What somebody was called about, and what the feed is told of it once that can be written.
    called: Option<(Incident, Vec<NewEvent>)>,
    /// When somebody was called last, about this or an earlier time.
    last_call: Option<Timestamp>,
    /// Was it looked for what the process before this one called about, and did not end?
    inherited: bool,
}

impl Alarm {
    /// A write has failed just now.
    pub(super) fn hears(&self, why: String) {
        self.known().said = Some(why);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees whether the store takes writes. What is to be sent now, past the outbox; and when to look again.
pub(super) async fn look(office: &Office) -> (Vec<Page>, Option<Timestamp>) {
    let trouble = office.engine.write_trouble();
    // Before it is tried here: that is the smallest write there is, and what others have to write may fail all the same.
    let met = office.alarm.known().said.take();
    let met = trouble.borrow().clone().or(met);
    if met.is_some() || office.alarm.known().failing.is_some() {
        let tried = office.engine.writable().await;
        tracing::debug!(taken = tried.is_ok(), "the store was tried");
    }
    let met = trouble.borrow().clone().or(met);
    match met {
        Some(why) => (call(office, &why), Some(office.now() + TRIED_EVERY)),
        None => match end(office).await {
            Ok(next) => (Vec::new(), next),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the end of a call about the store is not stored yet");
                (Vec::new(), Some(office.now() + TRIED_EVERY))
            }
        },
    }
}

/// The calls that are due.
fn call(office: &Office, why: &str) -> Vec<Page> {
    let (rules, now) = (escalate::rules(office), office.now());
    let mut known = office.alarm.known();
    known.met = Some(now);
    let failing = *known.failing.get_or_insert(now);
    let change = match &known.called {
        Some((incident, _)) => {
            let again = incident.standing().is_some_and(|open| escalation::remind(&open, now).contains(&Step::Repage));
            if !again {
                return Vec::new();
            }
            incident::apply(incident, IncidentCommand::Repage, &rules, now).ok()
        }
        None => (escalation::store_call_at(failing, known.last_call, &rules) <= now).then(|| {
            let opening = Opening {
                id: format!("STORE-{}", now.millis()),
                trigger: Trigger::StoreDown,
                subject: "store".to_owned(),
                deaths: Vec::new(),
                why: office.one_line(why, 500),
                runbook: office.config.escalation.runbook.clone(),
                in_doubt: Vec::new(),
            };
            incident::open(opening, &rules, now)
        }),
    };
    let Some(change) = change else { return Vec::new() };
    // Also where no channel takes it.
    tracing::error!(incident = change.incident.id, "{}", change.incident.summary);
    let mut pages = escalate::written_out(office, &change);
    // A call that is still tried through this channel arrives with the channel.
    pages.retain(|page| !office.under_way.holds_through(&change.incident.id, &page.channel));
    let before = known.called.take().map(|(_, events)| events).unwrap_or_default();
    known.called = Some((change.incident, before.into_iter().chain(change.events).collect()));
    known.last_call = Some(now);
    pages
}

/// A person takes on what cannot be stored yet; none where that is not what somebody was called about.
pub(super) fn acknowledge(
    office: &Office,
    id: &str,
    by: &str,
    note: &str,
) -> Option<Result<Incident, IncidentRefused>> {
    let (rules, now) = (escalate::rules(office), office.now());
    let mut known = office.alarm.known();
    let (incident, events) = known.called.as_mut().filter(|(incident, _)| incident.id == id)?;
    let taken_on = IncidentCommand::Acknowledge { by: by.to_owned(), note: note.to_owned() };
    Some(incident::apply(incident, taken_on, &rules, now).map(|change| {
        events.extend(change.events);
        incident.clone_from(&change.incident);
        change.incident
    }))
}

/// No write has failed since the last look. Once none has for a minute, what somebody was called about is stored, with its
/// end; when to look again.
async fn end(office: &Office) -> Result<Option<Timestamp>, engine::Error> {
    let now = office.now();
    if !office.alarm.known().inherited {
        inherit(office).await?;
    }
    let called = {
        let mut known = office.alarm.known();
        if let Some(quiet) = known.met.map(escalation::store_quiet_at).filter(|quiet| *quiet > now) {
            return Ok(Some(quiet));
        }
        known.failing = None;
        known.met = None;
        known.called.clone()
    };
    let Some((incident, mut events)) = called else { return Ok(None) };
    // What came of its calls is written first, by whoever sends them; then this is looked at again.
    if office.under_way.holds(&incident.id) {
        return Ok(None);
    }
    let over = IncidentCommand::Resolve { by: BY_ITSELF.to_owned(), note: "the store takes writes again".to_owned() };
    let change = match incident::apply(&incident, over, &escalate::rules(office), now) {
        Ok(change) => change,
        Err(refused) => {
            // Nobody can end it before; if somebody has, the next trouble must not be taken for this one.
            tracing::error!(%refused, "a call about the store had ended");
            office.alarm.known().called = None;
            return Ok(None);
        }
    };
    let mut documents = vec![drawer::document(&change.incident, 0)];
    documents.extend(escalate::pages(office, &change));
    events.extend(change.events);
    match office.engine.save(documents, events, now).await {
        // It was stored, and what was said of that was lost.
        Ok(()) | Err(engine::Error::DocumentConflict { .. }) => office.alarm.known().called = None,
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// What the process before this one called about, and did not live to store: its pages are in the outbox, and its end is told
/// by this one.
async fn inherit(office: &Office) -> Result<(), engine::Error> {
    let incidents = office.kept::<Incident>().await?;
    let pages = office.kept::<Page>().await?;
    let stored = |page: &Page| incidents.iter().any(|incident| incident.value.id == page.incident.id);
    let orphans = pages.iter().map(|page| &page.value).filter(|page| page.incident.trigger == Trigger::StoreDown);
    let last = orphans.filter(|page| !stored(page)).max_by_key(|page| page.incident.messages);
    let mut known = office.alarm.known();
    if known.called.is_none() {
        known.called = last.map(|page| (page.incident.clone(), Vec::new()));
    }
    known.inherited = true;
    Ok(())
}
