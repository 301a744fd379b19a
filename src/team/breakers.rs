//! What an operator sees of the breakers, and does to them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::desk::{BreakerView, Desk, DeskError};
use crate::delivery::Hold;
use crate::engine;
use crate::guard::{Guard, Transition};
use crate::incident::Trigger;
use crate::ledger::Command;
use crate::query::{Filter, PageAsk};
use crate::record::{Seen, State};
use crate::task::Integration;

impl Desk {
    /// Every integration, by name.
    ///
    /// # Errors
    /// The engine's.
    pub async fn breakers(&self) -> Result<Vec<BreakerView>, DeskError> {
        let parked = self.parked().await?;
        self.office.guards.integrations().map(|integration| self.breaker(integration, &parked)).collect()
    }

    /// How many tasks wait for each integration. Looked at are the first thousand parked ones of each model's integration;
    /// who holds them may be another.
    async fn parked(&self) -> Result<BTreeMap<Integration, u64>, DeskError> {
        let mut parked: BTreeMap<Integration, u64> = BTreeMap::new();
        for integration in self.office.guards.integrations() {
            let filter =
                Filter { states: vec![State::Parked], integration: Some(integration.clone()), ..Filter::default() };
            let page = PageAsk { limit: 1000, ..PageAsk::default() };
            let found = self.office.engine.records(filter, page).await?;
            for record in &found.items {
                *parked.entry(record.held_by().clone()).or_default() += 1;
            }
            *parked.entry(integration.clone()).or_default() += found.unreadable.len() as u64;
        }
        Ok(parked)
    }

    fn breaker(
        &self,
        integration: &Integration,
        parked: &BTreeMap<Integration, u64>,
    ) -> Result<BreakerView, DeskError> {
        let now = self.now();
        let view = |guard: &mut Guard| BreakerView {
            integration: integration.clone(),
            state: guard.state(now).to_string(),
            until: guard.until(now).into_iter().chain(guard.gate_until(now)).max(),
            failures: guard.failures(now),
            threshold: guard.threshold(),
            gate_closed: guard.gate_until(now).is_some(),
            ramp: guard.ramp(now),
            parked: parked.get(integration).copied().unwrap_or_default(),
            why: guard.why().to_owned(),
        };
        self.office.guards.with(integration, view).ok_or_else(|| no_integration(integration))
    }

    /// Forces a breaker open, until it is closed by hand or `span` has passed.
    ///
    /// # Errors
    /// When there is no such integration.
    pub async fn open_breaker(
        &self,
        integration: &Integration,
        span: Option<Duration>,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        let now = self.now();
        let until = span.map(|span| now + span);
        self.force(integration, |guard| guard.force_open(until, &format!("opened by {by}: {reason}"), now)).await
    }

    /// Closes a breaker and its gate, forgets its failures, and ends the incident about it. One whose tasks wait for a person
    /// stays open: it reminds of them, and ends by itself when none does.
    ///
    /// # Errors
    /// When there is no such integration.
    pub async fn close_breaker(
        &self,
        integration: &Integration,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        let now = self.now();
        let view = self.force(integration, |guard| guard.close(&format!("closed by {by}: {reason}"), now)).await?;
        self.unpark(integration).await?;
        self.end_integration_incident(integration, by, reason).await?;
        Ok(view)
    }

    async fn force(
        &self,
        integration: &Integration,
        change: impl FnOnce(&mut Guard) -> Vec<Transition>,
    ) -> Result<BreakerView, DeskError> {
        let transitions = self.office.guards.with(integration, change).ok_or_else(|| no_integration(integration))?;
        // Said to be done when it is durable. Said again after an error, it changes nothing and is stored then.
        if transitions.is_empty() {
            // The gate may have been opened, which is no event.
            self.office.store_guard(integration, Vec::new()).await?;
        } else {
            self.office.announce(integration, transitions, Vec::new()).await?;
        }
        self.breaker(integration, &self.parked().await?)
    }

    /// What waited for it need not wait until the old time. What somebody paused goes on waiting.
    async fn unpark(&self, integration: &Integration) -> Result<(), DeskError> {
        let now = self.now();
        // All that is parked: a server of tools holds tasks whatever their models are.
        let filter = Filter { states: vec![State::Parked], ..Filter::default() };
        for record in self.office.every(filter).await?.into_iter().filter(|record| record.held_by() == integration) {
            let why = record.parking.as_ref().map_or(Hold::BreakerOpen, |parking| parking.why);
            if why == Hold::Paused {
                continue;
            }
            let command = Command::Park { seen: Seen::of(&record), until: now, why };
            match self.office.engine.command(record.task.id, command, now).await {
                // Claimed meanwhile: so much the better.
                Ok(_) | Err(engine::Error::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.office.kick();
        Ok(())
    }

    async fn end_integration_incident(
        &self,
        integration: &Integration,
        by: &str,
        reason: &str,
    ) -> Result<(), DeskError> {
        for incident in self.incidents().await? {
            if incident.is_open()
                && incident.trigger == Trigger::Integration
                && incident.subject == integration.as_str()
            {
                match self.resolve(&incident.id, by, reason).await {
                    // The breaker is closed, whatever keeps this one open; or somebody else was faster.
                    Ok(_) | Err(DeskError::Policy(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn no_integration(integration: &Integration) -> DeskError {
    DeskError::NotFound { what: "integration", name: integration.to_string() }
}
