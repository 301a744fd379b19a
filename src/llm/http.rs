//! The one place that sends: exactly one request per call, five timers, and the evidence when there is no answer.
//!
//! Nothing is retried here, nor below: redirects and the client's own retries are off, and each call opens a connection
//! of its own, because a client that finds a pooled one dead sends again. That costs a handshake, little beside a
//! model's thinking, and makes "did it leave this machine" a fact: the body is asked for once the connection stands.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::body::Body;
use super::calling::Called;
use super::wire::{self, Outgoing, Reader, Trouble};
use super::{Call, Clock, Error, Progress, Provider, Reply, Request};
use super::{anthropic, diagnosis, gemini, ollama, openai, responses};
use crate::cause::{BODY_LIMIT, Fault, LlmFailure, Phase};
use crate::config::{ProviderConfig, Setting, Timeouts, Wire};
use crate::redact::{self, Redactor};
use crate::task::Integration;

/// Response headers that name the request, the provider's own first.
const REQUEST_IDS: [&str; 9] = [
    "request-id",
    "x-request-id",
    "apim-request-id",
    "x-amzn-requestid",
    "x-amzn-request-id",
    "x-goog-request-id",
    "mistral-correlation-id",
    "llm_provider-x-request-id",
    "cf-ray",
];

/// Headers that are never kept: credentials, ours or a session's.
const CREDENTIALS: [&str; 10] = [
    "set-cookie",
    "set-cookie2",
    "cookie",
    "authorization",
    "proxy-authorization",
    "authentication-info",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-amz-security-token",
];

/// A provider behind HTTP.
pub(super) struct Adapter {
    integration: Integration,
    config: ProviderConfig,
    vendor: &'static str,
    extra_headers: HeaderMap,
    /// Never to be seen in evidence, should the other side echo them, plain or encoded.
    secrets: Redactor,
    client: Client,
    clock: Clock,
}

impl Adapter {
    /// An adapter for this configuration.
    pub(super) fn new(integration: Integration, config: &ProviderConfig, clock: Clock) -> Result<Self, Error> {
        check_url(&integration, &config.base_url)?;
        let extra_headers = headers(&integration, config)?;
        let key = config.api_key.iter().map(|key| key.expose_secret().to_owned());
        let of_headers = config.headers.iter().flat_map(|(name, value)| hidden(name, value));
        // Short ones are test keys, and removing them would mutilate the evidence.
        let secrets = Redactor::new(key.chain(of_headers).filter(|secret| secret.len() >= 8));
        // An application may have chosen a provider before us; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            .connect_timeout(config.timeouts.connect);
        // Without redirects and proxies plain HTTP stays plain: the system's certificates need not be read, nor be there.
        if Url::parse(&config.base_url).is_ok_and(|url| url.scheme() == "http") {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|source| Error::Client { integration: integration.clone(), source })?;
        let vendor = wire::vendor(integration.as_str(), config);
        Ok(Self { integration, config: config.clone(), vendor, extra_headers, secrets, client, clock })
    }

    async fn call(&self, request: &Request, progress: &Progress) -> Result<Reply, Box<LlmFailure>> {
        let mut exchange = Exchange {
            timeouts: self.config.timeouts,
            started: Instant::now(),
            sent: Arc::default(),
            status: None,
            headers: Vec::new(),
            offered: !request.tools.is_empty(),
            reader: reader(self.config.wire, self.vendor),
        };
        let outcome = exchange.run(self.outgoing(request), self, progress).await;
        let answer = exchange.reader.answer();
        let named = REQUEST_IDS.iter().find_map(|id| exchange.headers.iter().find(|(name, _)| name == id));
        let request_id = named.map(|(_, value)| value.clone()).or_else(|| answer.request_id.clone());
        let request_id = request_id.map(|id| self.redacted(id));
        match outcome {
            Ok(()) => Ok(Reply {
                text: answer.text.clone(),
                calls: answer.calls.iter().map(Called::call).collect(),
                opaque: answer.opaque.clone(),
                model: if answer.model.is_empty() { request.model.clone() } else { answer.model.clone() },
                usage: answer.usage,
                stop: answer.stop.clone().unwrap_or_default(),
                request_id,
                headers: exchange.headers.into_iter().map(|(name, value)| (name, self.redacted(value))).collect(),
            }),
            Err(trouble) => {
                let body = self.redacted(cut(trouble.body, BODY_LIMIT));
                let partial = if answer.text.is_empty() { &answer.refusal } else { &answer.text };
                Err(Box::new(LlmFailure {
                    integration: self.integration.clone(),
                    provider: self.vendor.to_owned(),
                    model: request.model.clone(),
                    phase: trouble.phase,
                    fault: trouble.fault,
                    status: exchange.status,
                    code: match trouble.fault {
                        Fault::Status | Fault::ProxyAuth | Fault::ErrorBody | Fault::ErrorEvent => wire::code(&body),
                        // An answer, or a piece of one: its words are no code.
                        Fault::Dns
                        | Fault::Refused
                        | Fault::Timeout
                        | Fault::Tls
                        | Fault::Certificate
                        | Fault::Reset
                        | Fault::Eof
                        | Fault::InvalidUrl
                        | Fault::Truncated
                        | Fault::Malformed
                        | Fault::Stop
                        | Fault::Cancelled
                        | Fault::Transport => None,
                    },
                    stop: trouble.stop.or_else(|| answer.stop.clone()),
                    request_id: request_id.or_else(|| id_in(&body)),
                    partial: self.redacted(partial.clone()),
                    usage: answer.usage,
                    sent: exchange.sent.connected.load(Ordering::Acquire) || exchange.status.is_some(),
                    self_hosted: self.config.self_hosted,
                    at: (self.clock)(),
                    elapsed: exchange.started.elapsed(),
                    detail: self.redacted(trouble.detail),
                    headers: exchange.headers.into_iter().map(|(name, value)| (name, self.redacted(value))).collect(),
                    body,
                }))
            }
        }
    }

    fn outgoing(&self, request: &Request) -> Outgoing {
        let key = self.config.api_key.as_ref().map(ExposeSecret::expose_secret);
        match self.config.wire {
            Wire::Anthropic => anthropic::request(request, &self.config, key),
            Wire::OpenAi => openai::request(request, &self.config, key, self.vendor),
            Wire::Gemini => gemini::request(request, &self.config, key),
            Wire::Ollama => ollama::request(request, &self.config, key),
            Wire::Responses => responses::request(request, &self.config, key, self.vendor),
        }
    }

    /// The headers of a request: the wire's, then the operator's, which win.
    fn headers(&self, wire: &[(&'static str, String)]) -> Result<HeaderMap, Trouble> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in wire {
            let bad = |_| Trouble::new(Phase::Connect, Fault::InvalidUrl, format!("header `{name}` cannot be sent"));
            let mut value = HeaderValue::from_str(value).map_err(bad)?;
            value.set_sensitive(true);
            headers.insert(*name, value);
        }
        headers.extend(self.extra_headers.clone());
        Ok(headers)
    }

    fn redacted(&self, text: String) -> String {
        match self.secrets.redact(&text) {
            Cow::Owned(clean) => clean,
            Cow::Borrowed(_) => text,
        }
    }
}

impl Provider for Adapter {
    fn integration(&self) -> &Integration {
        &self.integration
    }

    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> Call<'a> {
        Box::pin(self.call(request, progress))
    }
}

pub(super) fn reader(wire: Wire, vendor: &'static str) -> Box<dyn Reader> {
    match wire {
        Wire::Anthropic => Box::new(anthropic::Messages::default()),
        Wire::OpenAi => Box::new(openai::Completions::of(vendor)),
        Wire::Gemini => Box::new(gemini::Contents::default()),
        Wire::Ollama => Box::new(ollama::Chat::default()),
        Wire::Responses => Box::new(responses::Items::default()),
    }
}

fn check_url(integration: &Integration, url: &str) -> Result<(), Error> {
    let bad = |url: &str, why| Err(Error::BadUrl { integration: integration.clone(), url: redact::address(url), why });
    match Url::parse(url) {
        Err(_) => bad(url, "is not a URL; write one such as https://api.example.com/v1"),
        // Not quoted: it holds a password.
        Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            bad("…", "must not hold credentials; use `api_key`")
        }
        Ok(parsed) if !matches!(parsed.scheme(), "http" | "https") => bad(url, "must begin with http:// or https://"),
        Ok(parsed) if parsed.host_str().is_none() => bad(url, "names no host"),
        Ok(_) => Ok(()),
    }
}

fn headers(integration: &Integration, config: &ProviderConfig) -> Result<HeaderMap, Error> {
    let bad = |name: &str, why| Error::BadHeader { integration: integration.clone(), name: name.to_owned(), why };
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let secret = !hidden(name, value).is_empty();
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name, "is not a header's name"))?;
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|_| bad(name, "has a value that cannot be sent"))?;
        value.set_sensitive(secret);
        headers.insert(key, value);
    }
    if let Some(key) = &config.api_key {
        HeaderValue::from_str(key.expose_secret()).map_err(|_| bad("api_key", "has a value that cannot be sent"))?;
    }
    Ok(headers)
}

/// What must not be seen of a header: what came from outside of the files, and what its name says is a credential.
fn hidden(name: &str, value: &Setting) -> Vec<String> {
    match value {
        Setting::Secret(_) => value.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect(),
        Setting::Plain(text) if is_credential(name) => vec![text.clone()],
        Setting::Plain(_) => Vec::new(),
    }
}

fn is_credential(name: &str) -> bool {
    CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential))
}

fn id_in(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    body.get("request_id").and_then(Value::as_str).map(str::to_owned)
}

/// One request and what has been seen of its response.
struct Exchange {
    timeouts: Timeouts,
    started: Instant,
    sent: Arc<Sent>,
    status: Option<u16>,
    headers: Vec<(String, String)>,
    /// Were tools offered?
    offered: bool,
    reader: Box<dyn Reader>,
}

impl Exchange {
    async fn run(&mut self, outgoing: Outgoing, adapter: &Adapter, progress: &Progress) -> Result<(), Trouble> {
        let url = Url::parse(&outgoing.url)
            .map_err(|error| Trouble::new(Phase::Connect, Fault::InvalidUrl, format!("not a URL: {error}")))?;
        let headers = adapter.headers(&outgoing.headers)?;
        let response = self.send(&adapter.client, url, headers, &outgoing.body).await?;
        let status = response.status();
        self.status = Some(status.as_u16());
        self.headers = kept(response.headers());
        if status.is_success() {
            self.read(response, adapter.config.wire, progress).await
        } else {
            Err(self.error_status(response).await)
        }
    }

    /// Sends and waits for the headers. The first-byte timer starts once the connection stands.
    async fn send(&self, client: &Client, url: Url, headers: HeaderMap, body: &Value) -> Result<Response, Trouble> {
        let https = url.scheme() == "https";
        let upload = Upload { body: Some(Bytes::from(body.to_string())), sent: Arc::clone(&self.sent) };
        let response = client.post(url).headers(headers).body(reqwest::Body::wrap(upload)).send();
        let Timeouts { connect, first_byte, total, .. } = self.timeouts;
        let no_first_byte = async {
            self.sent.stands.notified().await;
            sleep_until(deadline(Instant::now(), first_byte)).await;
        };
        tokio::select! {
            response = response => response.map_err(|error| match diagnosis::before_headers(error, https) {
                trouble if trouble.fault == Fault::Timeout && trouble.phase == Phase::Connect => {
                    Trouble { detail: format!("connect timeout: no connection within {}", span(connect)), ..trouble }
                }
                trouble => trouble,
            }),
            () = no_first_byte => {
                let detail = format!("first byte timeout: no byte for {}", span(first_byte));
                Err(Trouble::new(Phase::Headers, Fault::Timeout, detail))
            }
            () = sleep_until(deadline(self.started, total)) => {
                let connected = self.sent.connected.load(Ordering::Acquire);
                Err(out_of_time(if connected { Phase::Headers } else { Phase::Connect }, total))
            }
        }
    }

    /// Reads as much of an error's body as is kept. That this breaks off does not change that the status is an error.
    async fn error_status(&self, mut response: Response) -> Trouble {
        let mut body = Vec::new();
        let status = response.status();
        let mut detail = format!("status {status}");
        while body.len() < BODY_LIMIT {
            let idle = deadline(Instant::now(), self.timeouts.idle);
            match timeout_at(idle.min(deadline(self.started, self.timeouts.total)), response.chunk()).await {
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    let trouble = diagnosis::in_body(error, Phase::Headers);
                    detail.push_str(&format!("; its body broke off: {}", trouble.detail));
                    break;
                }
                Err(_) => {
                    detail.push_str("; its body did not come in time");
                    break;
                }
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        // 407 comes from a proxy, whatever stands behind it.
        let (phase, fault) = match status.as_u16() {
            407 => (Phase::Connect, Fault::ProxyAuth),
            _ => (Phase::Headers, Fault::Status),
        };
        Trouble { body, ..Trouble::new(phase, fault, detail) }
    }

    /// Reads the body of a success to its end, or until the answer is over.
    async fn read(&mut self, mut response: Response, wire: Wire, progress: &Progress) -> Result<(), Trouble> {
        let content_type = self.headers.iter().find(|(name, _)| name == "content-type");
        let content_type = content_type.map(|(_, value)| value.to_ascii_lowercase()).unwrap_or_default();
        let mut body = Body::new(wire, self.offered, content_type);
        let total = deadline(self.started, self.timeouts.total);
        let mut awaited = deadline(Instant::now(), self.timeouts.first_content);
        loop {
            let until = awaited.min(total);
            // A peer that sends pings without pause always has a chunk ready: time is looked at first.
            let chunk = match Instant::now() < until {
                true => timeout_at(until, response.chunk()).await.ok(),
                false => None,
            };
            let step = match chunk {
                Some(Ok(Some(chunk))) => body.take(&chunk, &mut *self.reader)?,
                Some(Ok(None)) => break,
                // Nothing that is missing now would change the answer.
                Some(Err(_)) | None if self.reader.answer().complete => break,
                Some(Err(error)) => return Err(diagnosis::in_body(error, body.phase())),
                None => {
                    return Err(self.too_late(body.phase(), until == total, body.content > 0));
                }
            };
            if step.content > 0 {
                progress.advance(step.content);
                awaited = deadline(Instant::now(), self.timeouts.idle);
            }
            if step.over {
                break;
            }
        }
        body.end(&mut *self.reader)
    }

    fn too_late(&self, phase: Phase, total: bool, begun: bool) -> Trouble {
        let Timeouts { first_content, idle, .. } = self.timeouts;
        let detail = match (total, begun) {
            (true, _) => return out_of_time(phase, self.timeouts.total),
            (false, true) => format!("idle timeout: no content for {}", span(idle)),
            (false, false) => format!("first content timeout: no content for {}", span(first_content)),
        };
        Trouble::new(phase, Fault::Timeout, detail)
    }
}

fn out_of_time(phase: Phase, total: Duration) -> Trouble {
    Trouble::new(phase, Fault::Timeout, format!("total timeout: no complete answer within {}", span(total)))
}

fn span(span: Duration) -> String {
    crate::time::format_duration(span)
}

/// A deadline; one beyond what the clock can tell is a century away.
fn deadline(from: Instant, span: Duration) -> Instant {
    from.checked_add(span).unwrap_or_else(|| from + Duration::from_secs(100 * 365 * 86_400))
}

/// Names in lower case, in the order they came, without credentials.
fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter(|(name, _)| !is_credential(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

/// At most `limit` bytes, cut between characters.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Has the request left?
#[derive(Debug, Default)]
struct Sent {
    connected: AtomicBool,
    stands: Notify,
}

/// The request's body, which notes when it is asked for: then the connection stands, and what follows has been sent.
struct Upload {
    body: Option<Bytes>,
    sent: Arc<Sent>,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if !self.sent.connected.swap(true, Ordering::AcqRel) {
            self.sent.stands.notify_one();
        }
        Poll::Ready(self.body.take().map(|body| Ok(http_body::Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}
