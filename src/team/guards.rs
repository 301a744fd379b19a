//! The guards of all integrations: one breaker and one gate each, shared by every agent.
//!
//! A mutex each and no actor: a call would cost microseconds, and a restarting guard would be a hole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::office::Office;
use crate::breaker::BreakerState;
use crate::config::Config;
use crate::delivery::Hold;
use crate::engine::{self, Document, Engine, OVER_ANY};
use crate::event::{Happening, NewEvent};
use crate::failure::Failure;
use crate::guard::{Admission, Guard, Permit, Report, Snapshot, Stance, Transition};
use crate::retry_budget::{RetryBudget, RetryBudgetConfig};
use crate::task::{AgentName, Integration, TaskId};
use crate::time::Timestamp;

/// The kind of the documents breakers are saved as.
pub(crate) const BREAKER: &str = "breaker";

/// One integration's guard, and what is stored of it.
struct Watched {
    guard: Guard,
    budget: RetryBudget,
    /// Since when its breaker was seen closed at each look of who asked.
    well_since: Option<Timestamp>,
}

/// All guards, by integration.
pub(crate) struct Guards {
    all: BTreeMap<Integration, Mutex<Watched>>,
    /// Deliveries handed out that have not yet asked to be let through: while an integration is probed, each of them
    /// has its place there already.
    coming: Mutex<BTreeMap<(TaskId, u64), Integration>>,
    /// What is stored of each, locked while it is saved.
    saved: BTreeMap<Integration, tokio::sync::Mutex<Saved>>,
    /// Is anything owed to the store?
    owing: AtomicBool,
    asked: AtomicU64,
}

/// What is stored of a guard.
#[derive(Default)]
struct Saved {
    version: u64,
    /// What happened while the store took nothing: stored with the next save, in its order. No more than what was
    /// running then brings about, for nothing new is handed out, and what people do.
    owed: Vec<NewEvent>,
    /// How many of them the last save had that was told to have failed.
    tried: usize,
    /// Is what is stored older than the guard itself, because the store took nothing?
    behind: bool,
}

impl Guards {
    /// The guards of a team's providers, as they stood when the process last ended.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn restore(
        config: &Config,
        integrations: impl Iterator<Item = &Integration>,
        engine: &dyn Engine,
    ) -> Result<Self, engine::Error> {
        let mut saved: BTreeMap<String, Document> =
            engine.documents(BREAKER).await?.into_iter().map(|document| (document.key.clone(), document)).collect();
        let mut guards = BTreeMap::new();
        let mut versions = BTreeMap::new();
        for integration in integrations {
            let own = config.providers.get(integration).and_then(|provider| provider.breaker.clone());
            let settings = own.unwrap_or_else(|| config.breaker.clone());
            let document = saved.remove(integration.as_str());
            let version = document.as_ref().map_or(0, |document| document.version);
            let guard = match document.map(|document| serde_json::from_value::<Snapshot>(document.body)) {
                Some(Ok(snapshot)) => Guard::restore(settings, snapshot),
                Some(Err(why)) => {
                    engine.note_unreadable(&format!("{BREAKER} {integration}"), &why.to_string());
                    Guard::new(settings)
                }
                None => Guard::new(settings),
            };
            versions.insert(integration.clone(), tokio::sync::Mutex::new(Saved { version, ..Saved::default() }));
            let watched = Watched { guard, budget: RetryBudget::new(RetryBudgetConfig::default()), well_since: None };
            guards.insert(integration.clone(), Mutex::new(watched));
        }
        let (owing, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { all: guards, coming: Mutex::default(), saved: versions, owing, asked })
    }

    fn watched(&self, integration: &Integration) -> Option<MutexGuard<'_, Watched>> {
        self.all.get(integration).map(|watched| watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at a guard, or changes it.
    pub(crate) fn with<T>(&self, integration: &Integration, look: impl FnOnce(&mut Guard) -> T) -> Option<T> {
        self.watched(integration).map(|mut watched| look(&mut watched.guard))
    }

    /// Looks at a retry budget, or changes it.
    pub(crate) fn with_budget<T>(
        &self,
        integration: &Integration,
        look: impl FnOnce(&mut RetryBudget) -> T,
    ) -> Option<T> {
        self.watched(integration).map(|mut watched| look(&mut watched.budget))
    }

    /// Since when its breaker is closed, as far as this was asked in this process; none while it is not, or of an integration
    /// there is not.
    pub(crate) fn well_since(&self, integration: &Integration, now: Timestamp) -> Option<Timestamp> {
        let mut watched = self.watched(integration)?;
        match watched.guard.state(now) {
            BreakerState::Closed | BreakerState::Disabled => Some(*watched.well_since.get_or_insert(now)),
            BreakerState::Open | BreakerState::HalfOpen | BreakerState::ForcedOpen => {
                watched.well_since = None;
                None
            }
        }
    }

    /// Whether calls are let through now. An unknown integration has no guard.
    pub(crate) fn peek(&self, integration: &Integration, now: Timestamp) -> Stance {
        self.with(integration, |guard| guard.peek(now)).unwrap_or(Stance::Free)
    }

    /// A delivery is handed out that will call this integration.
    pub(crate) fn coming(&self, integration: &Integration, task: TaskId, fence: u64) {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).insert((task, fence), integration.clone());
    }

    /// A delivery has asked to be let through, or never will.
    pub(crate) fn came(&self, task: TaskId, fence: u64) {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&(task, fence));
    }

    /// How many are on their way to this integration.
    pub(crate) fn on_their_way(&self, integration: &Integration) -> u32 {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(coming.values().filter(|other| *other == integration).count()).unwrap_or(u32::MAX)
    }

    /// Every breaker's state as its word.
    pub(crate) fn words(&self, now: Timestamp) -> BTreeMap<Integration, String> {
        let word = |integration: &Integration| {
            self.with(integration, |guard| guard.state(now).to_string()).unwrap_or_default()
        };
        self.all.keys().map(|integration| (integration.clone(), word(integration))).collect()
    }

    /// The integrations there are.
    pub(crate) fn integrations(&self) -> impl Iterator<Item = &Integration> {
        self.all.keys()
    }

    /// Is something owed to the store, which did not take it when it happened?
    pub(crate) fn owing(&self) -> bool {
        self.owing.load(Ordering::Relaxed)
    }

    /// Saves a guard with its events, and before them what is owed. One save of a guard at a time, so that versions
    /// cannot overtake each other; what is stored is always the guard as it is now.
    async fn save(
        &self,
        engine: &dyn Engine,
        integration: &Integration,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<(), engine::Error> {
        let Some(saved) = self.saved.get(integration) else { return engine.publish(events, now).await };
        let mut saved = saved.lock().await;
        let Saved { version, owed, tried, behind } = &mut *saved;
        owed.extend(events);
        let body = self.with(integration, |guard| serde_json::to_value(guard.snapshot()).unwrap_or(Value::Null));
        let document = |version: u64| Document {
            kind: BREAKER.to_owned(),
            key: integration.to_string(),
            version,
            body: body.clone().unwrap_or(Value::Null),
        };
        let stored = async || {
            let documents = engine.documents(BREAKER).await?;
            let stored = documents.into_iter().find(|stored| stored.key == integration.as_str());
            Ok::<_, engine::Error>(stored.map(|stored| stored.version))
        };
        let outcome = async {
            // Of the save that was told to have failed nobody knows whether it was taken: with what was in it.
            if *behind && let Some(stored) = stored().await? {
                owed.drain(..if stored > *version { *tried } else { 0 });
                *version = stored;
            }
            (*behind, *tried) = (true, owed.len());
            match engine.save(vec![document(*version)], owed.clone(), now).await {
                Err(engine::Error::DocumentConflict { .. }) => {
                    // What is there and cannot be read is known to be ours, and gives way.
                    let over = stored().await?.unwrap_or(OVER_ANY);
                    *version = if over == OVER_ANY { 0 } else { over };
                    engine.save(vec![document(over)], owed.clone(), now).await
                }
                result => result,
            }
        };
        match outcome.await {
            Ok(()) => {
                *version += 1;
                (*behind, *tried) = (false, 0);
                owed.clear();
                Ok(())
            }
            Err(error) => {
                *behind = true;
                self.owing.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Is something of this one owed?
    async fn owes(&self, integration: &Integration) -> bool {
        match self.saved.get(integration) {
            Some(saved) => saved.lock().await.behind,
            None => false,
        }
    }
}

/// The answer to somebody who wants to call.
pub(crate) enum Admitted {
    /// Go ahead, and report how it ended.
    Through(Lent),
    /// Not now.
    Held { why: Hold, until: Timestamp },
}

/// A permit that cannot be lost: dropped without a report (its holder panicked, was killed, was never asked) it goes
/// back as such, so that a probe's place is free again at once.
pub(crate) struct Lent {
    office: Arc<Office>,
    integration: Integration,
    permit: Option<Permit>,
}

impl Lent {
    /// Is it a probe of the breaker?
    pub(crate) fn is_of_breaker(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_of_breaker)
    }

    /// How the call ended.
    pub(crate) async fn report(mut self, report: Report<'_>) {
        if let Some(permit) = self.permit.take() {
            self.office.report(&self.integration, permit, report).await;
        }
    }

    /// The call still runs.
    pub(crate) fn renew(&self) {
        if let Some(permit) = &self.permit {
            self.office.guards.with(&self.integration, |guard| guard.renew(permit, self.office.now()));
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(permit), Ok(runtime)) = (self.permit.take(), tokio::runtime::Handle::try_current()) else { return };
        let (office, integration) = (Arc::clone(&self.office), self.integration.clone());
        runtime.spawn(async move {
            office.report(&integration, permit, Report::Dropped).await;
            office.kick()
        });
    }
}

impl Office {
    /// Asks to be let through to an integration. `None`: it has no guard.
    pub(crate) async fn admit(self: &Arc<Self>, integration: &Integration, agent: &AgentName) -> Option<Admitted> {
        let now = self.now();
        // Rolled for each asker: who is turned away together must not come back together.
        let roll = self.dice.roll("gate", agent.as_str(), self.guards.asked.fetch_add(1, Ordering::Relaxed));
        let (admission, changes) =
            self.guards.with(integration, |guard| (guard.admit(now, roll), guard.changes(now)))?;
        let admitted = match admission {
            Admission::Go(permit) => Admitted::Through(Lent {
                office: Arc::clone(self),
                integration: integration.clone(),
                permit: Some(permit),
            }),
            Admission::Held { why, until } => Admitted::Held { why, until },
        };
        let probe = matches!(&admitted, Admitted::Through(lent) if lent.permit.as_ref().is_some_and(Permit::is_probe));
        let sent = || Happening::ProbeSent { integration: integration.clone(), agent: agent.clone() };
        // The guard itself stands; only its memory across a restart and the feed wait for the store.
        let _ = self.announce(integration, changes, probe.then(|| sent().into()).into_iter().collect()).await;
        Some(admitted)
    }

    /// Tells an integration's guard how a call went, and everybody what came of it.
    async fn report(&self, integration: &Integration, permit: Permit, report: Report<'_>) {
        let now = self.now();
        let asked = match &report {
            Report::Failed(failure) => failure.retry_after,
            Report::Healthy | Report::Dropped => None,
        };
        let reported = self.guards.with(integration, |guard| {
            let (before, stood_open) = (guard.gate_until(now), guard.gate_stands_open());
            let transitions = guard.report(permit, report, now);
            let closed = guard.gate_until(now).filter(|until| Some(*until) != before);
            (transitions, closed, !stood_open && guard.gate_stands_open())
        });
        let Some((transitions, closed, reopened)) = reported else { return };
        let asked = || match asked {
            Some(span) => format!("retry after {}", crate::time::format_duration(span)),
            None => "its limit is reached".to_owned(),
        };
        let closed = closed
            .map(|until| Happening::GateClosed { integration: integration.clone(), until, asked: asked() }.into());
        if reopened && transitions.is_empty() {
            // Nothing to tell anybody, but the next process must not begin with a gate that was closed long ago.
            let _ = self.store_guard(integration, Vec::new()).await;
        } else {
            let _ = self.announce(integration, transitions, closed.into_iter().collect()).await;
        }
    }

    /// Saves a guard and tells everybody that it changed.
    ///
    /// # Errors
    /// The store's. What it did not take is owed to it: [`Office::repay`].
    pub(crate) async fn announce(
        &self,
        integration: &Integration,
        transitions: Vec<Transition>,
        mut events: Vec<NewEvent>,
    ) -> Result<(), engine::Error> {
        if transitions.is_empty() && events.is_empty() && !self.guards.owing() {
            return Ok(());
        }
        events.extend(transitions.into_iter().map(|transition| {
            NewEvent::from(Happening::BreakerChanged {
                integration: integration.clone(),
                from: transition.from.to_string(),
                to: transition.to.to_string(),
                until: transition.until,
                why: transition.why,
            })
        }));
        let saved = self.store_guard(integration, events).await;
        self.kick();
        saved
    }

    /// Stores a guard as it is now, and events with it.
    ///
    /// # Errors
    /// As [`Office::announce`].
    pub(crate) async fn store_guard(
        &self,
        integration: &Integration,
        events: Vec<NewEvent>,
    ) -> Result<(), engine::Error> {
        let saved = self.guards.save(&*self.engine, integration, events, self.now()).await;
        if let Err(error) = &saved {
            tracing::error!(%integration, error = error as &dyn std::error::Error, "a breaker's change could not be stored yet");
        }
        saved
    }

    /// Stores the changes of guards that the store did not take when they happened: else the next process would start
    /// with breakers as they stood before, one forced open among them that a person has closed since.
    pub(crate) async fn repay(&self) {
        if !self.guards.owing.swap(false, Ordering::Relaxed) {
            return;
        }
        for integration in self.guards.integrations() {
            if self.guards.owes(integration).await
                && let Err(error) = self.guards.save(&*self.engine, integration, Vec::new(), self.now()).await
            {
                tracing::error!(%integration, error = &error as &dyn std::error::Error, "a breaker's change cannot be stored yet");
                self.guards.owing.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Whether the integration a failure speaks of is held now, and until when.
    pub(crate) fn held_after(&self, failure: &Failure, now: Timestamp) -> Option<(crate::delivery::Hold, Timestamp)> {
        let integration = failure.integration.as_ref()?;
        match self.guards.peek(integration, now) {
            Stance::Held { why, until } => Some((why, until)),
            Stance::Free | Stance::Probing { .. } => None,
        }
    }
}
