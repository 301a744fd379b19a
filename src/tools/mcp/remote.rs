//! An MCP server elsewhere, over streamable HTTP: one POST a message, nothing sent twice, no redirect followed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Url};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError};

use super::stdio::LINE_MAX;
use crate::cause::ToolFault;
use crate::error_chain::in_full;
use crate::hint::{self, Seen};
use crate::task::Integration;
use crate::time::Timestamp;
use crate::tool_config::Setting;
use crate::tools::Error;

/// How much of an error's body is kept, in bytes.
const ERROR_BODY: usize = 2 * 1024;

/// Where a server is, and how it is asked.
pub(super) struct Remote {
    url: String,
    headers: HashMap<HeaderName, HeaderValue>,
    client: Client,
}

/// What an error of the transport says, as far as it is known to.
pub(super) struct Broken {
    pub(super) fault: ToolFault,
    pub(super) sent: bool,
    pub(super) status: Option<u16>,
    pub(super) retry_after_s: Option<u64>,
    pub(super) what: String,
    /// Is the connection over with it?
    pub(super) over: bool,
}

impl Remote {
    pub(super) fn new(server: &Integration, url: &str, headers: &BTreeMap<String, Setting>) -> Result<Self, Error> {
        let bad = |why| Error::BadUrl { server: server.clone(), why };
        let parsed = Url::parse(url).map_err(|_| bad("is none"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad("must begin with http:// or https://"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad("must not hold credentials; use a header"));
        }
        let mut map = HashMap::new();
        for (name, value) in headers {
            let bad = || Error::BadHeader { of: server.to_string(), name: name.clone() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
            value.set_sensitive(true);
            map.insert(key, value);
        }
        // An application may have chosen a provider before us; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0);
        // Without redirects and proxies plain HTTP stays plain: the system's certificates need not be there.
        if parsed.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|source| Error::Client { server: server.clone(), source })?;
        Ok(Self { url: url.to_owned(), headers: map, client })
    }

    /// A transport that gives up rather than tries again: who retries is decided elsewhere, and an expired session is a
    /// new start.
    pub(super) fn transport(&self) -> StreamableHttpClientTransport<Client> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(self.url.as_str())
            .custom_headers(self.headers.clone())
            .max_json_response_size(LINE_MAX)
            .max_error_response_size(ERROR_BODY)
            .reinit_on_expired_session(false);
        config.retry_config = Arc::new(NeverRetry::default());
        StreamableHttpClientTransport::with_client(self.client.clone(), config)
    }
}

/// What went wrong with a message over HTTP. `None`: it was not over HTTP.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Option<Broken> {
    let error = error.downcast_ref::<StreamableHttpError<reqwest::Error>>()?;
    let plain =
        |fault, sent, what: String| Broken { fault, sent, status: None, retry_after_s: None, what, over: false };
    let status = |status: u16, what: String| Broken { status: Some(status), ..plain(ToolFault::Status, true, what) };
    #[allow(clippy::wildcard_enum_match_arm, reason = "the SDK has many words for an answer that is none")]
    Some(match error {
        StreamableHttpError::Client(error) => match error.status() {
            Some(code) => status(code.as_u16(), format!("status {}", code.as_u16())),
            None if error.is_connect() => plain(ToolFault::Unreachable, false, in_words(error)),
            None => plain(ToolFault::Died, true, in_words(error)),
        },
        StreamableHttpError::HttpStatus(error) => {
            let headers: Vec<(String, String)> =
                error.retry_after.iter().map(|value| ("retry-after".to_owned(), value.clone())).collect();
            // A date cannot be read without the other side's own; seconds can.
            let by_date = error.retry_after.as_ref().is_some_and(|value| value.contains(char::is_alphabetic));
            let seen = Seen { status: Some(error.status), headers: &headers, body: "", at: Timestamp::from_millis(0) };
            let wait = if by_date { None } else { hint::asked(&seen) };
            let retry_after_s = wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            Broken { retry_after_s, ..status(error.status, format!("status {}", error.status)) }
        }
        StreamableHttpError::AuthRequired(_) => status(401, "status 401: it wants a credential".to_owned()),
        StreamableHttpError::InsufficientScope(_) => status(403, "status 403: the credential is not enough".to_owned()),
        // The server does not know the session, so it has not done what it was asked in it.
        StreamableHttpError::SessionExpired => Broken {
            over: true,
            ..plain(ToolFault::Unreachable, false, "the session is over; the next use begins another".to_owned())
        },
        StreamableHttpError::ResponseBodyTooLarge { max_size } => {
            plain(ToolFault::TooLarge, true, format!("its answer has more than {max_size} bytes"))
        }
        StreamableHttpError::UnexpectedServerResponse(text) => match status_in(text) {
            Some(code) => status(code, text.replacen("HTTP", "status", 1)),
            None => plain(ToolFault::Protocol, true, text.to_string()),
        },
        StreamableHttpError::UnexpectedContentType(kind) => {
            let kind = kind.as_deref().unwrap_or("no declared type");
            plain(ToolFault::Protocol, true, format!("its answer is of {kind}, which the protocol does not know"))
        }
        StreamableHttpError::Deserialize(error) => plain(ToolFault::Protocol, true, error.to_string()),
        StreamableHttpError::ReservedHeaderConflict(name) => {
            plain(ToolFault::Unreachable, false, format!("header `{name}` is the protocol's own and cannot be set"))
        }
        other => Broken { over: true, ..plain(ToolFault::Died, true, other.to_string()) },
    })
}

fn status_in(text: &str) -> Option<u16> {
    text.strip_prefix("HTTP ")?.get(..3)?.parse().ok().filter(|status| (300..600).contains(status))
}

/// An error and what caused it, without the address, where keys may stand.
fn in_words(error: &reqwest::Error) -> String {
    let address = error.url().map(|url| format!(" for url ({url})")).unwrap_or_default();
    in_full(error).replace(&address, "")
}
