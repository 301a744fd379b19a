//! The last resort: a line at ERROR in the log.

use super::{Channel, Receipt, Sending, details};
use crate::incident::Page;

/// Always takes the page.
pub(super) struct Log {
    team: String,
}

impl Log {
    pub(super) fn new(team: &str) -> Self {
        Self { team: team.to_owned() }
    }
}

impl Channel for Log {
    fn name(&self) -> &str {
        "log"
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            tracing::error!(
                incident = %page.incident.id,
                action = %page.action,
                dedup_key = %page.dedup_key,
                team = %self.team,
                dead_letters = page.incident.size(),
                pattern = %page.incident.pattern.iter().map(|line| crate::incident::visible(line)).collect::<Vec<_>>().join("; "),
                runbook = %crate::incident::visible(&page.incident.runbook),
                "{}: {}",
                details::heading(page),
                details::summary(page),
            );
            Ok(Receipt { to: "the log".to_owned(), detail: "written at ERROR".to_owned() })
        })
    }
}
