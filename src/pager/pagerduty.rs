//! PagerDuty Events API v2: trigger, acknowledge and resolve under one dedup key.
//!
//! An update is a trigger under the same key: PagerDuty adds it to the open alert. After a resolve, the same key would
//! open a new one; our keys are per incident and a resolved incident sends nothing more.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::post::Post;
use super::{Channel, Error, Sending, details};
use crate::incident::{Page, PageAction};

/// The largest body PagerDuty takes, in bytes.
const BODY_MAX: usize = 512_000;

/// Calls through one integration's routing key.
pub(super) struct PagerDuty {
    routing_key: SecretString,
    team: String,
    post: Post,
}

impl PagerDuty {
    pub(super) fn new(routing_key: SecretString, url: &str, team: &str, timeout: Duration) -> Result<Self, Error> {
        if routing_key.expose_secret().trim().is_empty() {
            return Err(Error::never("pagerduty", "its routing key is empty"));
        }
        let post = Post::new("pagerduty", url, routing_key.expose_secret(), timeout)?;
        Ok(Self { routing_key, team: team.to_owned(), post })
    }

    /// The event, as large as it may be: lists give way first, then all details but the counts, and it says so.
    fn body(&self, page: &Page) -> Vec<u8> {
        let whole = self.event(page, details::details(page, &self.team, usize::MAX));
        if whole.len() <= BODY_MAX {
            return whole;
        }
        let mut fewer = details::details(page, &self.team, 20);
        fewer["shortened"] = json!("lists are cut to 20 entries to fit PagerDuty's 512 KB; counts are complete");
        let fewer = self.event(page, fewer);
        if fewer.len() <= BODY_MAX {
            return fewer;
        }
        self.event(
            page,
            json!({
                "incident": page.incident.id,
                "dead_letters": page.incident.size(),
                "agents_affected": page.incident.agents.len(),
                "shortened": "the details did not fit PagerDuty's 512 KB",
            }),
        )
    }

    fn event(&self, page: &Page, custom_details: Value) -> Vec<u8> {
        let incident = &page.incident;
        let action = match page.action {
            PageAction::Trigger | PageAction::Update => "trigger",
            PageAction::Acknowledge => "acknowledge",
            PageAction::Resolve => "resolve",
        };
        let mut event = json!({
            "routing_key": self.routing_key.expose_secret(),
            "event_action": action,
            "dedup_key": page.dedup_key,
        });
        if action == "trigger" {
            let class = incident.pattern.first().map_or(incident.trigger.as_str(), String::as_str);
            let component = if incident.subject.is_empty() { "dead letter queue" } else { &incident.subject };
            event["client"] = json!("Backstop");
            event["payload"] = json!({
                "summary": details::summary(page),
                "severity": details::severity(incident.trigger),
                "source": format!("backstop/{}", self.team),
                "timestamp": incident.updated_at,
                "component": details::cut(&crate::incident::visible(component), 255),
                "group": self.team,
                "class": details::cut(&crate::incident::visible(class), 255),
                "custom_details": custom_details,
            });
        }
        event.to_string().into_bytes()
    }
}

impl Channel for PagerDuty {
    fn name(&self) -> &str {
        "pagerduty"
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            self.post.send(headers, self.body(page)).await
        })
    }
}
