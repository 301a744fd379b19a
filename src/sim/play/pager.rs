//! The inboxes of the person on call: PagerDuty and mail in virtual time, which can be down.

use std::time::Duration;

use tokio::sync::mpsc;

use super::books::Message;
use super::stage::Shared;
use crate::incident::{Page, PageAction};
use crate::pager::{Channel, Error, Receipt, Sending};
use crate::scenario::FaultKind;

/// One inbox.
pub(super) struct Inbox {
    name: &'static str,
    down: FaultKind,
    stage: Shared,
    /// Tells the person of each incident that calls.
    calls: mpsc::UnboundedSender<String>,
}

impl Inbox {
    pub(super) fn pagerduty(stage: Shared, calls: mpsc::UnboundedSender<String>) -> Self {
        Self { name: "pagerduty", down: FaultKind::PagerDown, stage, calls }
    }

    pub(super) fn mail(stage: Shared, calls: mpsc::UnboundedSender<String>) -> Self {
        Self { name: "email", down: FaultKind::MailDown, stage, calls }
    }
}

/// A call with all its dead letters takes longer to get through than a word that it is over.
fn taken_after(action: PageAction) -> Duration {
    Duration::from_millis(match action {
        PageAction::Trigger | PageAction::Update => 300,
        PageAction::Acknowledge | PageAction::Resolve => 50,
    })
}

impl Channel for Inbox {
    fn name(&self) -> &str {
        self.name
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            tokio::time::sleep(taken_after(page.action)).await;
            let taken = !self.stage.is_on(self.down);
            self.stage.books.open().pages.push(Message {
                at: self.stage.elapsed(),
                channel: self.name.to_owned(),
                incident: page.incident.id.clone(),
                number: page.incident.messages,
                action: page.action.as_str().to_owned(),
                again: page.again,
                summary: page.incident.summary.clone(),
                taken,
                dedup_key: page.dedup_key.clone(),
            });
            if !taken {
                let (channel, detail) = (self.name.to_owned(), "503 Service Unavailable".to_owned());
                return Err(Error::Later { channel, detail, retry_after_s: None });
            }
            if page.action == PageAction::Trigger {
                // A person who has gone home hears nothing.
                let _ = self.calls.send(page.incident.id.clone());
            }
            Ok(Receipt { to: "the person on call".to_owned(), detail: "accepted".to_owned() })
        })
    }
}
