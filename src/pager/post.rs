//! One HTTP POST and what its answer means for a page.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};

use super::{Error, Receipt, details};
use crate::error_chain::in_full;
use crate::incident::visible;
use crate::redact::Redactor;

/// The most bytes of an answer that are read.
const ANSWER_MAX: usize = 16 * 1024;

/// Where one channel posts to, and how long that may take.
pub(super) struct Post {
    channel: &'static str,
    client: Client,
    url: Url,
    /// Never to appear in an error, also when the other side repeats it: the secret, and an address that may be one.
    hidden: Redactor,
}

impl Post {
    pub(super) fn new(channel: &'static str, url: &str, secret: &str, timeout: Duration) -> Result<Self, Error> {
        // Whoever came first has installed the same one; that is no error.
        drop(rustls::crypto::ring::default_provider().install_default());
        // The address itself may be a secret (a token in its path), so it is not repeated.
        let url = Url::parse(url).map_err(|why| Error::never(channel, format!("its url is none: {why}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Error::never(channel, "its url must begin with https:// or http:// and name a host"));
        }
        let builder = || {
            Client::builder()
                .timeout(timeout)
                .connect_timeout(timeout)
                // A page goes where it was meant to go, or nowhere.
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
        };
        let built = match url.scheme() {
            // A proxy may be asked by HTTPS: with the system's certificates where there are any.
            "http" => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
            _ => builder().build(),
        };
        let client = built.map_err(|why| Error::never(channel, format!("no HTTP client: {}", in_full(&why))))?;
        let hidden = Redactor::new([secret, url.as_str(), url.query().unwrap_or_default(), url.path()]);
        Ok(Self { channel, client, url, hidden })
    }

    /// The other side's name.
    pub(super) fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    /// Sends once. 2xx is taken; 408, 429, 5xx and trouble on the way mean later; everything else means never.
    pub(super) async fn send(&self, headers: HeaderMap, body: Vec<u8>) -> Result<Receipt, Error> {
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(Error::later(self.channel, self.clean(&in_full(&error.without_url())))),
        };
        let status = answer.status();
        let retry_after_s = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.trim().parse().ok());
        let mut said = Vec::new();
        // What it says is for people only: the status alone decides, so a body that breaks off changes nothing.
        while said.len() < ANSWER_MAX {
            match answer.chunk().await {
                Ok(Some(chunk)) => said.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break,
            }
        }
        let said = self.clean(&String::from_utf8_lossy(&said));
        let detail = format!("{status} {said}").trim().to_owned();
        if status.is_success() {
            return Ok(Receipt { to: self.host(), detail });
        }
        let passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if passing || status.is_server_error() {
            return Err(Error::Later { channel: self.channel.to_owned(), detail, retry_after_s });
        }
        Err(Error::never(self.channel, detail))
    }

    /// One visible line of at most 300 characters, without what is hidden.
    fn clean(&self, text: &str) -> String {
        details::cut(&visible(&self.hidden.redact(text)), 300)
    }
}
