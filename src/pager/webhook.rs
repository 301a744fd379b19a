//! A signed POST to an address of the operator's.
//!
//! `X-Backstop-Signature: v1=<hex HMAC-SHA256 over "<timestamp>.<body>">` with the same seconds in
//! `X-Backstop-Timestamp`: a receiver computes it over the raw body, compares in constant time and refuses old ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::Sha256;

use super::post::Post;
use super::{Channel, Error, Sending, details};
use crate::incident::Page;
use crate::task::hex;

/// Posts to one address, signed with one secret.
pub(super) struct Webhook {
    secret: SecretString,
    team: String,
    post: Post,
}

impl Webhook {
    pub(super) fn new(url: &str, secret: SecretString, team: &str, timeout: Duration) -> Result<Self, Error> {
        if secret.expose_secret().is_empty() {
            return Err(Error::never(
                "webhook",
                "its secret is empty; without one nobody can tell our pages from others'",
            ));
        }
        let post = Post::new("webhook", url, secret.expose_secret(), timeout)?;
        Ok(Self { secret, team: team.to_owned(), post })
    }

    fn body(&self, page: &Page) -> Vec<u8> {
        json!({
            "id": page.id,
            "action": page.action,
            "dedup_key": page.dedup_key,
            "summary": details::summary(page),
            "severity": details::severity(page.incident.trigger),
            "details": details::details(page, &self.team, crate::outbox::PAGE_DEATHS_MAX),
        })
        .to_string()
        .into_bytes()
    }

    fn headers(&self, timestamp: u64, body: &[u8]) -> Result<HeaderMap, Error> {
        let never = || Error::never("webhook", "its signature cannot be made");
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose_secret().as_bytes()).map_err(|_| never())?;
        mac.update(format!("{timestamp}.").as_bytes());
        mac.update(body);
        let signature = format!("v1={}", hex(&mac.finalize().into_bytes()));
        Ok(HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("x-backstop-timestamp"), HeaderValue::from(timestamp)),
            (HeaderName::from_static("x-backstop-signature"), HeaderValue::try_from(signature).map_err(|_| never())?),
        ]))
    }
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        "webhook"
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            let body = self.body(page);
            let headers = self.headers(wall_seconds(), &body)?;
            self.post.send(headers, body).await
        })
    }
}

/// The wall clock, for the receiver's check of age: it decides nothing here, and a page may be sent long after it was written.
#[allow(clippy::disallowed_methods, reason = "the receiver's wall clock is meant, not the team's")]
fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
