//! Reaching a human: one channel each, one attempt per call.
//!
//! Pages are durable things in the engine's outbox; `team/incident.rs` sends them through a [`Channel`] until
//! delivered. A channel never retries by itself, and every try ends within [`TIMEOUT`].

mod details;
#[cfg(feature = "smtp")]
mod email;
mod log;
mod pagerduty;
mod post;
mod webhook;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::config::ChannelConfig;
use crate::incident::Page;

/// How long one try may take in all.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The end of one attempt to reach a human.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send + 'a>>;

/// A way to reach a human.
pub trait Channel: Send + Sync + 'static {
    /// Its name, such as `pagerduty`, `email`, `webhook`, `log`.
    fn name(&self) -> &str;

    /// Sends once.
    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a>;
}

/// Proof that a channel took a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// To whom it went, as the channel names them (no secrets).
    pub to: String,
    /// What the other side said.
    pub detail: String,
}

/// Why a page was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It may be taken later: network, 429, 5xx.
    #[error("{channel} did not take the page: {detail}")]
    Later {
        /// Which channel.
        channel: String,
        /// What it said.
        detail: String,
        /// What it said about when, in seconds.
        retry_after_s: Option<u64>,
    },
    /// It will never be taken as it is: a bad key, a bad address, a bad request.
    #[error("{channel} refused the page for good: {detail}")]
    Never {
        /// Which channel.
        channel: String,
        /// What it said.
        detail: String,
    },
}

impl Error {
    fn later(channel: &str, detail: impl Into<String>) -> Self {
        Self::Later { channel: channel.to_owned(), detail: detail.into(), retry_after_s: None }
    }

    fn never(channel: &str, detail: impl Into<String>) -> Self {
        Self::Never { channel: channel.to_owned(), detail: detail.into() }
    }
}

/// The channel a configuration describes. `team` is named in what it sends.
///
/// # Errors
/// [`Error::Never`] when the configuration can never work: a bad address, a key that is none, a feature not built in.
pub fn channel(config: &ChannelConfig, team: &str) -> Result<Arc<dyn Channel>, Error> {
    channel_within(config, team, TIMEOUT)
}

/// [`channel`], with another limit for one try.
///
/// # Errors
/// As [`channel`].
pub fn channel_within(config: &ChannelConfig, team: &str, timeout: Duration) -> Result<Arc<dyn Channel>, Error> {
    Ok(match config {
        ChannelConfig::PagerDuty { routing_key, url, .. } => {
            Arc::new(pagerduty::PagerDuty::new(routing_key.clone(), url, team, timeout)?)
        }
        #[cfg(feature = "smtp")]
        ChannelConfig::Email { smtp, from, to } => Arc::new(email::Email::new(smtp, from, to, team, timeout)?),
        #[cfg(not(feature = "smtp"))]
        ChannelConfig::Email { .. } => {
            return Err(Error::never("email", "this build has no e-mail; build it with the feature `smtp`"));
        }
        ChannelConfig::Webhook { url, secret } => {
            Arc::new(webhook::Webhook::new(url.expose_secret(), secret.clone(), team, timeout)?)
        }
        ChannelConfig::Log => last_resort(team),
    })
}

/// The log: always there, always takes the page.
#[must_use]
pub fn last_resort(team: &str) -> Arc<dyn Channel> {
    Arc::new(log::Log::new(team))
}
