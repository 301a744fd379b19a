//! A person's answer that comes by way of PagerDuty: carried out once, like an answer given here.

use super::desk::{Desk, DeskError};
use super::drawer;
use crate::callback::{self, Event, Heard, Unheard, Wish};
use crate::config::ChannelConfig;
use crate::engine;

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
        let told = match callback::wish(&event, &heard, &self.config().team, self.now()) {
            Wish::Nothing(why) => return Ok(Ok(Some(why.to_owned()))),
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
        let now = self.now();
        Ok(drawer::change_only(self.engine(), now, |heard: Heard| heard.with(event, now)).await?)
    }
}
