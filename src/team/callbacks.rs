//! A person's answer that comes by way of PagerDuty: carried out once, like an answer given here.

use super::clock::wall;
use super::desk::{Desk, DeskError};
use super::drawer;
use crate::callback::{self, Event, Heard, Unheard, Wish};
use crate::config::ChannelConfig;
use crate::engine;
use crate::time::Timestamp;

impl Desk {
    /// What PagerDuty says of an incident: signature and body as they came. `None` when it was carried out, else why there
    /// was nothing to do.
    ///
    /// # Errors
    /// The engine's; then it is to be said again. [`Unheard`] when it is not to be listened to.
    pub async fn pagerduty_said(
        &self,
        signature: &str,
        body: &[u8],
    ) -> Result<Result<Option<String>, Unheard>, DeskError> {
        let channels = self.config().escalation.on_call.iter().flat_map(|person| &person.channels);
        let secrets = channels.filter_map(|channel| match channel {
            ChannelConfig::PagerDuty { webhook_secret, .. } => webhook_secret.as_ref(),
            ChannelConfig::Email { .. } | ChannelConfig::Webhook { .. } | ChannelConfig::Log => None,
        });
        let event = match callback::signed(body, signature, secrets).and_then(|()| callback::read(body)) {
            Ok(event) => event,
            Err(unheard) => {
                tracing::warn!(%unheard, "a callback was refused");
                return Ok(Err(unheard));
            }
        };
        let heard = drawer::one::<Heard>(self.engine(), drawer::Kept::key(&Heard::default())).await?;
        let heard = heard.map(|stored| stored.value).unwrap_or_default();
        let note = "answered in PagerDuty";
        // The team's clock never goes back: where the host's was set right meanwhile, it is the one that tells how old this is.
        let now = self.now().min(wall());
        let told = match callback::wish(&event, &heard, &self.config().team, now) {
            Wish::Nothing(why) => {
                let aloud = self.is_unheard(&event, &heard, now).await?;
                return Ok(Ok(Some(aloud.unwrap_or_else(|| why.to_owned()))));
            }
            Wish::Acknowledge(incident) => self.acknowledge(&incident, &event.by, note).await,
            Wish::Resolve(incident) => self.resolve(&incident, &event.by, note).await,
        };
        let said = match told {
            Ok(_) => None,
            // Heard all the same: the next delivery of it would be told the same.
            Err(error @ (DeskError::Policy(_) | DeskError::NotFound { .. })) => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        // After the effect: cut in between it comes again, and acknowledging or resolving twice changes nothing.
        match self.remember(&event).await {
            // What was heard before cannot be read, now or later. Said again, this one is carried out again.
            Err(DeskError::Engine(error @ engine::Error::DocumentConflict { .. })) => {
                tracing::error!(%error, "what PagerDuty says is heard, and not remembered");
            }
            remembered => remembered?,
        }
        Ok(Ok(said))
    }

    async fn remember(&self, event: &Event) -> Result<(), DeskError> {
        self.office.unheard(None);
        Ok(drawer::change_only(self.engine(), self.now(), |heard: Heard| heard.with(event)).await?)
    }

    /// Says aloud that an answer to an open incident is not heard for its age: whoever gave it is called again, and learns of
    /// it nowhere else.
    async fn is_unheard(&self, event: &Event, heard: &Heard, now: Timestamp) -> Result<Option<String>, DeskError> {
        let Some(id) = callback::too_late_for(event, heard, &self.config().team, now) else { return Ok(None) };
        let incident = match self.incident(&id).await {
            Err(DeskError::NotFound { .. }) => return Ok(None),
            found => found?,
        };
        if !incident.is_open() {
            return Ok(None);
        }
        let why = self.office.one_line(&callback::unheard(event, &id, incident.opened_at, now), 500);
        tracing::error!(incident = id, "{why}");
        self.office.unheard(Some((id, why.clone())));
        Ok(Some(why))
    }

    /// Why the last answer was not heard, while its incident is open still and no other was.
    pub async fn unheard(&self) -> Option<String> {
        let (id, why) = self.office.last_unheard()?;
        self.incident(&id).await.is_ok_and(|incident| incident.is_open()).then_some(why)
    }
}
