//! The built-in HTTP request, to hosts the operator listed: `http/get` only reads, `http/request` is everything else.
//!
//! Two tools, because what a call does to the world is said of a tool and not of its arguments.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::reach::{Ask, Door, Got};
use super::{Calling, Error, Offered, Pending, Said, Teller, ToolServer, Trouble};
use crate::cause::ToolFault;
use crate::redact::is_secret_header;
use crate::task::Integration;
use crate::tool::{GET, HTTP, Hints, KeyPlace, REQUEST};
use crate::tool_config::{HostRule, HttpConfig};

/// Where the idempotency key goes unless told otherwise.
const KEY_HEADER: &str = "idempotency-key";
/// Headers that are the connection's business, or carry credentials, which do not pass through a model.
const NOT_THEIRS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
    "keep-alive",
];

/// The server of both tools.
pub(super) struct Http {
    teller: Teller,
    door: Door,
    offered: Vec<Offered>,
}

impl Http {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, Error> {
        let name = Integration::new(HTTP).expect("`http` is a name");
        let door = Door::new(&name, &config.hosts)?;
        let teller = Teller::new(name, config.hosts.values().flat_map(|rule| rule.headers.values()));
        let offered = offered(config, &door);
        Ok(Self { teller, door, offered })
    }

    async fn made(&self, calling: &Calling) -> Result<Said, Box<Trouble>> {
        let tool = calling.tool.as_str();
        if !self.offered.iter().any(|offered| offered.tool == tool) {
            return Err(self.teller.unsent(ToolFault::Gone, tool, "there is no such tool"));
        }
        let wanted = match Wanted::of(&calling.arguments, tool == GET) {
            Ok(wanted) => wanted,
            Err(why) => return Err(self.teller.unsent(ToolFault::BadArguments, tool, why)),
        };
        let refused = |why: String| self.teller.unsent(ToolFault::Refused, tool, why);
        let target = self.door.target(wanted.method.as_str(), wanted.url).map_err(refused)?;
        let mut headers = wanted.headers().map_err(refused)?;
        if tool != GET {
            let name = match &calling.key_place {
                KeyPlace::Header(name) => name.as_str(),
                KeyPlace::Default | KeyPlace::Argument(_) => KEY_HEADER,
            };
            let bad = |_| self.teller.unsent(ToolFault::Refused, tool, "the header of the key cannot be sent");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
            headers.insert(name, HeaderValue::from_str(calling.key.as_str()).map_err(|_| bad(()))?);
        }
        // Its host and path, and not its query, where keys stand.
        let place = format!("{}{}", target.url.host_str().unwrap_or_default(), target.url.path());
        let doing = format!("{tool} {} {place}", wanted.method);
        let Wanted { method, body, .. } = wanted;
        let ask = Ask { method, target, headers, body, within: calling.within, takes: &[] };
        let got = self.door.ask(ask, &doing, &self.teller).await?;
        // Forms answer so when they are done, and doors when nothing was: nobody can tell.
        if tool != GET && matches!(got.status, 300..=306) {
            let detail =
                format!("{doing}: status {} and no word of what was done; redirects are not followed", got.status);
            return Err(Box::new(Trouble { status: Some(got.status), ..*Trouble::sent(ToolFault::Protocol, detail) }));
        }
        Ok(said(got))
    }
}

impl ToolServer for Http {
    fn name(&self) -> &Integration {
        &self.teller.server
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        Box::pin(async { Ok(self.offered.clone()) })
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(self.made(calling))
    }
}

/// What a response below 400 says to a model.
fn said(got: Got) -> Said {
    let Got { status, location, text } = got;
    if let (300..=399, Some(location)) = (status, &location) {
        let text =
            format!("status {status}: moved to {location}; redirects are not followed, ask there if it is allowed");
        return Said { text, failed: true };
    }
    let text = if text.is_empty() { format!("status {status}, no body") } else { text };
    Said { text, failed: !(200..=299).contains(&status) }
}

/// The tools, as far as any host allows them.
fn offered(config: &HttpConfig, door: &Door) -> Vec<Offered> {
    let hosts = door.told();
    let reads = |rule: &HostRule| rule.allows("GET") || rule.allows("HEAD");
    let mut writing: Vec<&str> = config.hosts.values().flat_map(|rule| &rule.methods).map(String::as_str).collect();
    writing.retain(|method| !matches!(*method, "GET" | "HEAD"));
    writing.sort_unstable();
    writing.dedup();
    let url = json!({ "type": "string", "description": "http:// or https://, of a host that may be asked" });
    let headers = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let mut offered = Vec::new();
    if config.hosts.values().any(reads) {
        offered.push(Offered {
            tool: GET.to_owned(),
            description: format!("Reads a URL and gives its body as text. Hosts that may be asked: {hosts}"),
            schema: json!({
                "type": "object",
                "properties": { "url": url, "method": { "enum": ["GET", "HEAD"] }, "headers": headers },
                "required": ["url"],
                "additionalProperties": false
            }),
            hints: Some(Hints { read_only: Some(true), destructive: Some(false), idempotent: Some(true) }),
        });
    }
    if !writing.is_empty() {
        offered.push(Offered {
            tool: REQUEST.to_owned(),
            description: format!(
                "Makes one HTTP request and gives the body of its answer. Hosts that may be asked: {hosts}"
            ),
            schema: json!({
                "type": "object",
                "properties": {
                    "method": { "enum": writing },
                    "url": url,
                    "headers": headers,
                    "body": { "description": "a text, or JSON" }
                },
                "required": ["method", "url"],
                "additionalProperties": false
            }),
            hints: Some(Hints { read_only: Some(false), ..Hints::default() }),
        });
    }
    offered
}

/// What a model wants to be asked.
struct Wanted<'a> {
    method: Method,
    url: &'a str,
    given: Option<&'a Map<String, Value>>,
    body: Option<Bytes>,
    content_type: &'static str,
}

impl<'a> Wanted<'a> {
    fn of(arguments: &'a Value, reads: bool) -> Result<Self, String> {
        let arguments = arguments.as_object().ok_or("the arguments are no object")?;
        let known: &[&str] = if reads { &["url", "method", "headers"] } else { &["url", "method", "headers", "body"] };
        if let Some(other) = arguments.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("there is no argument `{other}`; there are {}", known.join(", ")));
        }
        let url = arguments.get("url").and_then(Value::as_str).ok_or("`url` must be a text")?;
        let method = match arguments.get("method") {
            Some(method) => method.as_str().ok_or("`method` must be a text")?,
            None if reads => "GET",
            None => return Err("`method` is missing".to_owned()),
        };
        if reads && !matches!(method, "GET" | "HEAD") {
            return Err(format!("`method` must be GET or HEAD here; {method} is for http_request"));
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "`method` is no method of HTTP")?;
        let given = match arguments.get("headers") {
            Some(headers) => Some(headers.as_object().ok_or("`headers` must be an object of texts")?),
            None => None,
        };
        let is_json =
            |text: &str| text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_ok();
        let (body, content_type) = match arguments.get("body") {
            None | Some(Value::Null) => (None, ""),
            Some(Value::String(text)) if !is_json(text) => (Some(text.clone()), "text/plain; charset=utf-8"),
            Some(Value::String(text)) => (Some(text.clone()), "application/json"),
            Some(value) => (Some(value.to_string()), "application/json"),
        };
        Ok(Self { method, url, given, body: body.filter(|body| !body.is_empty()).map(Bytes::from), content_type })
    }

    /// Its headers, none of them ours or the connection's.
    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        for (name, value) in self.given.into_iter().flatten() {
            let shown: String = name.chars().take(80).collect();
            if is_secret_header(name) || NOT_THEIRS.iter().any(|header| name.eq_ignore_ascii_case(header)) {
                return Err(format!("header `{shown}` is not a model's to set"));
            }
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{shown}` is no header"))?;
            let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
            headers.insert(key, value.ok_or_else(|| format!("header `{shown}` has a value that cannot be sent"))?);
        }
        Ok(headers)
    }
}
