//! The command line's way to a running team: typed calls over the HTTP API.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;
use crate::api::problem::{PROBLEM_JSON, Problem};
use crate::error_chain::in_full;
use crate::redact;

/// A team, by the address of its API.
#[derive(Clone, Debug)]
pub struct Client {
    /// Set up when something is first asked: most commands that run a team ask nothing of one.
    http: OnceLock<reqwest::Client>,
    base: Url,
    token: Option<SecretString>,
}

/// An answer, as it came and as what it means.
#[derive(Clone, Debug)]
pub struct Got<T> {
    /// Verbatim, for `-o json`.
    pub raw: Value,
    /// Understood, for tables.
    pub it: T,
}

/// Chooses the one TLS implementation this program has. Calling it again does nothing.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Client {
    /// The team at `url`.
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, Error> {
        install_tls();
        let base: Url = url.parse().map_err(|error| no_address(url, &format!("{error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(no_address(url, "it must begin with http:// or https://"));
        }
        Ok(Self { http: OnceLock::new(), base, token })
    }

    fn http(&self) -> Result<&reqwest::Client, Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // A proxy of the environment is for the internet, never for this machine.
        let here = |host| matches!(host, "localhost" | "[::1]") || str::starts_with(host, "127.");
        let here = self.base.host_str().is_some_and(here);
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(5))
                .read_timeout(Duration::from_secs(60))
                .redirect(reqwest::redirect::Policy::none());
            if here { builder.no_proxy() } else { builder }
        };
        // Nobody has to prove who they are over plain HTTP: the system's certificates need not be read, or be there.
        let without = || builder().tls_certs_only([]).build();
        let built = match (self.base.scheme(), here) {
            ("http", true) => without(),
            // A proxy may be asked by HTTPS: with certificates where there are any.
            ("http", false) => builder().build().or_else(|_| without()),
            _ => builder().build(),
        };
        let http = built.map_err(|error| no_address(self.base.as_str(), &in_full(&error)))?;
        Ok(self.http.get_or_init(|| http))
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When the team cannot be reached, refuses, or answers something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(String, String)]) -> Result<Got<T>, Error> {
        self.understood(self.send(Method::GET, path, query, None, HeaderMap::new()).await?).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &Value) -> Result<Got<T>, Error> {
        self.understood(self.send(Method::POST, path, &[], Some(body), HeaderMap::new()).await?).await
    }

    /// The stream of events after one, or of those to come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn events(&self, after: Option<u64>, query: &[(String, String)]) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(after) = after {
            headers.insert("last-event-id", HeaderValue::from(after));
        }
        let response = self.send(Method::GET, &["api", "v1", "events"], query, None, headers).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    /// A path outside the API, as text: its status and body.
    ///
    /// # Errors
    /// When the team cannot be reached.
    pub async fn plain(&self, path: &str) -> Result<(u16, String), Error> {
        let response = self.send(Method::GET, &[path], &[], None, HeaderMap::new()).await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(|error| self.unreachable(error))?))
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(String, String)],
        body: Option<&Value>,
        mut headers: HeaderMap,
    ) -> Result<Response, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        if let Some(token) = &self.token {
            let bearer =
                HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| Error::Usage {
                    message: "BACKSTOP_TOKEN holds characters that a header cannot carry".to_owned(),
                    next: None,
                })?;
            headers.insert(AUTHORIZATION, bearer);
        }
        let mut request = self.http()?.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        request.send().await.map_err(|error| self.unreachable(error))
    }

    async fn understood<T: DeserializeOwned>(&self, response: Response) -> Result<Got<T>, Error> {
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(error))?;
        let strange = |source| Error::Strange { url: self.address(), source };
        let raw: Value = serde_json::from_slice(&bytes).map_err(strange)?;
        let it = T::deserialize(&raw).map_err(strange)?;
        Ok(Got { raw, it })
    }

    async fn refused(&self, response: Response) -> Error {
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.starts_with(PROBLEM_JSON) {
            return Error::NotBackstop { url: self.address(), status: status.as_u16() };
        }
        match response.json::<Problem>().await {
            Ok(problem) => Error::Refused(Box::new(problem)),
            Err(_) => Error::NotBackstop { url: self.address(), status: status.as_u16() },
        }
    }

    /// As it may be shown.
    fn address(&self) -> String {
        redact::address(self.base.as_str())
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        Error::Unreachable { url: self.address(), source: source.without_url() }
    }
}

fn no_address(url: &str, why: &str) -> Error {
    Error::Usage {
        message: format!("`{}` is not the address of a team: {why}", redact::address(url)),
        next: Some("backstop --url http://127.0.0.1:7420 status".to_owned()),
    }
}
