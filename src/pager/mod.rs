//! Reaching a human: one channel each, one attempt per call.
//!
//! Pages are durable things in the engine's outbox; `team/incident.rs` sends them through a [`Channel`] until
//! delivered. A channel never retries by itself.

use std::future::Future;
use std::pin::Pin;

use crate::incident::Page;

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
