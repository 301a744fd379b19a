//! A store that takes no writes calls a person past the outbox, for the outbox lies on the disk that fails.
//!
//! The incident and its calls are kept in memory until writes are taken again; then it is stored as one that is over, and its
//! end goes out through the outbox to everybody who was called. A process that dies meanwhile forgets it: whoever was called
//! ends it at the pager. So its name is made of the time, and is never that of a later incident.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::drawer;
use super::escalate;
use super::office::Office;
use crate::engine;
use crate::escalation::{self, Step};
use crate::event::NewEvent;
use crate::incident::{self, BY_ITSELF, Incident, IncidentCommand, Opening, Page, Trigger};
use crate::time::Timestamp;

/// How often a store that fails is tried: nobody else may have anything to write.
const TRIED_EVERY: Duration = Duration::from_secs(5);

/// What is known of a store that takes no writes.
#[derive(Default)]
pub(crate) struct Alarm(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when it takes none.
    failing: Option<Timestamp>,
    /// What somebody was called about, and what the feed is told of it once that can be written.
    called: Option<(Incident, Vec<NewEvent>)>,
    /// When somebody was called last, about this or an earlier time.
    last_call: Option<Timestamp>,
}

impl Alarm {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees whether the store takes writes. What is to be sent now, past the outbox; and when to look again.
pub(super) async fn look(office: &Office) -> (Vec<Page>, Option<Timestamp>) {
    let trouble = office.engine.write_trouble();
    if trouble.borrow().is_some() {
        let tried = office.engine.writable().await;
        tracing::debug!(taken = tried.is_ok(), "the store was tried");
    }
    let trouble = trouble.borrow().clone();
    match trouble {
        Some(why) => (call(office, &why), Some(office.now() + TRIED_EVERY)),
        None => (Vec::new(), end(office).await),
    }
}

/// The calls that are due.
fn call(office: &Office, why: &str) -> Vec<Page> {
    let (rules, now) = (escalate::rules(office), office.now());
    let mut known = office.alarm.known();
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
    let pages = escalate::written_out(office, &change);
    let before = known.called.take().map(|(_, events)| events).unwrap_or_default();
    known.called = Some((change.incident, before.into_iter().chain(change.events).collect()));
    known.last_call = Some(now);
    pages
}

/// The store takes writes. What somebody was called about is stored, with its end; when to try that again.
async fn end(office: &Office) -> Option<Timestamp> {
    let now = office.now();
    let called = {
        let mut known = office.alarm.known();
        known.failing = None;
        known.called.clone()
    };
    let (incident, mut events) = called?;
    // What came of its calls is written first, by whoever sends them; then this is looked at again.
    if office.under_way.holds(&incident.id) {
        return None;
    }
    let over = IncidentCommand::Resolve { by: BY_ITSELF.to_owned(), note: "the store takes writes again".to_owned() };
    let stored = match incident::apply(&incident, over, &escalate::rules(office), now) {
        Ok(change) => {
            let mut documents = vec![drawer::document(&change.incident, 0)];
            documents.extend(escalate::pages(office, &change));
            events.extend(change.events);
            office.engine.save(documents, events, now).await
        }
        // Nobody else has it.
        Err(_) => Ok(()),
    };
    match stored {
        // It was stored, and what was said of that was lost.
        Ok(()) | Err(engine::Error::DocumentConflict { .. }) => {
            office.alarm.known().called = None;
            None
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the end of a call about the store is not stored yet"
            );
            Some(now + TRIED_EVERY)
        }
    }
}
