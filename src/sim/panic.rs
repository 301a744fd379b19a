//! A provider that panics in mid-task on cue, and otherwise passes the call on: how a test kills an agent at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::llm::{Call, Progress, Provider, Request};
use crate::task::Integration;

/// Wraps a provider; panics in the first calls whose prompt holds the marker.
pub struct PanickingProvider {
    inner: Arc<dyn Provider>,
    marker: String,
    left: AtomicU32,
}

impl PanickingProvider {
    /// Panics in the first `times` calls whose system prompt or messages hold `marker`.
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, marker: impl Into<String>, times: u32) -> Self {
        Self { inner, marker: marker.into(), left: AtomicU32::new(times) }
    }

    fn is_cue(&self, request: &Request) -> bool {
        let marked = request.system.contains(&self.marker)
            || request.messages.iter().any(|message| message.text().contains(&self.marker));
        marked && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Provider for PanickingProvider {
    fn integration(&self) -> &Integration {
        self.inner.integration()
    }

    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> Call<'a> {
        Box::pin(async move {
            if self.is_cue(request) {
                panic!("on cue at {}", self.marker);
            }
            self.inner.ask(request, progress).await
        })
    }
}
