//! What agents may do to the world: servers of tools, each an integration with a breaker of its own.
//!
//! A [`ToolServer`] makes exactly one call per call. It never retries and never judges: whether a call may be made
//! again is decided from the journal (`journal.rs`), and whoever is asked is asked once. What it says is data.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::answer::SchemaError;
use crate::cause::ToolFault;
use crate::config::Config;
use crate::redact::{Redactor, one_line};
use crate::task::{IdempotencyKey, Integration};
use crate::tool::{Hints, KeyPlace, ToolRule};
use crate::tool_config::{McpConfig, Setting};

mod child;
mod http;
mod local;
#[cfg(feature = "mcp")]
mod mcp;
mod reach;
pub mod verify;

pub use local::{Function, Local, function};

/// An answer of a server, some time from now, or why there is none.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<Trouble>>> + Send + 'a>>;

/// A server of tools.
pub trait ToolServer: Send + Sync + 'static {
    /// The integration it is, whose breaker and gate guard it.
    fn name(&self) -> &Integration;

    /// Its tools as they are now, in a fixed order. Asked before every call of a model, so it must be cheap while
    /// nothing changes.
    fn offered(&self) -> Pending<'_, Vec<Offered>>;

    /// What who made the server declares of a tool. The operator's word goes before it.
    fn rule(&self, _tool: &str) -> Option<ToolRule> {
        None
    }

    /// Makes one call. Dropping the future gives it up; whether it happened is then unknown.
    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said>;
}

impl<T: ToolServer + ?Sized> ToolServer for Arc<T> {
    fn name(&self) -> &Integration {
        (**self).name()
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        (**self).offered()
    }

    fn rule(&self, tool: &str) -> Option<ToolRule> {
        (**self).rule(tool)
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        (**self).call(calling)
    }
}

/// A tool as its server describes it. Untrusted: a schema that is none, or a lie, is found out when it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// Its name as the server knows it.
    pub tool: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub schema: Value,
    /// What the server says of its effect.
    pub hints: Option<Hints>,
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub struct Calling {
    /// The tool.
    pub tool: String,
    /// Its arguments: an object.
    pub arguments: Value,
    /// Under which key the other side may know the call again: the same however often it is made.
    pub key: IdempotencyKey,
    /// Where the key goes.
    pub key_place: KeyPlace,
    /// How long it may take.
    pub within: Duration,
}

/// What a tool said: text for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its words; at most [`RESULT_MAX`] bytes.
    pub text: String,
    /// Does it say that it failed?
    pub failed: bool,
}

/// Why a call gave nothing, as the server's door saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What broke.
    pub fault: ToolFault,
    /// Did the call, or a part of it, leave this process?
    pub sent: bool,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The other side's own word on when to come back, in seconds.
    pub retry_after_s: Option<u64>,
    /// In words, at most 4 KiB; names the server and what it did.
    pub detail: String,
}

impl Trouble {
    /// Trouble before anything was sent.
    #[must_use]
    pub fn unsent(fault: ToolFault, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { fault, sent: false, status: None, retry_after_s: None, detail: detail.into() })
    }

    /// Trouble after the call had left.
    #[must_use]
    pub fn sent(fault: ToolFault, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { fault, sent: true, status: None, retry_after_s: None, detail: detail.into() })
    }
}

/// The servers a configuration names, none of them started: the MCP servers, and the built-in HTTP request when it may
/// ask any host.
///
/// # Errors
/// When a server cannot be made of what is configured: a bad address, a bad header, a feature that is not built in.
pub fn servers(config: &Config) -> Result<Vec<Arc<dyn ToolServer>>, Error> {
    let mut servers: Vec<Arc<dyn ToolServer>> = Vec::new();
    for (name, server) in &config.tools.mcp {
        servers.push(mcp_server(name, server)?);
    }
    if !config.tools.http.hosts.is_empty() {
        servers.push(Arc::new(http::Http::new(&config.tools.http)?));
    }
    Ok(servers)
}

#[cfg(feature = "mcp")]
fn mcp_server(name: &Integration, server: &McpConfig) -> Result<Arc<dyn ToolServer>, Error> {
    Ok(Arc::new(mcp::Server::new(name.clone(), server)?))
}

#[cfg(not(feature = "mcp"))]
fn mcp_server(name: &Integration, _: &McpConfig) -> Result<Arc<dyn ToolServer>, Error> {
    Err(Error::NotBuilt { server: name.clone() })
}

/// Why a server of tools could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MCP is not built in.
    #[error("tools: `{server}` is an MCP server, and this build has none; build with the feature `mcp`")]
    NotBuilt {
        /// Which server.
        server: Integration,
    },
    /// The address is none.
    #[error("tools: the address of `{server}` {why}")]
    BadUrl {
        /// Whose.
        server: Integration,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no program to start.
    #[error("tools: `{server}` has no command")]
    NoCommand {
        /// Whose.
        server: Integration,
    },
    /// A header cannot be sent.
    #[error("tools: header `{name}` of `{of}` cannot be sent")]
    BadHeader {
        /// Of which server or host.
        of: String,
        /// The header's name.
        name: String,
    },
    /// A function cannot be offered under its name.
    #[error("tools: a function cannot be called `{name}`: {why}")]
    BadName {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The schema of a function's arguments is none.
    #[error("tools: the schema of `{name}` is none")]
    BadSchema {
        /// The function.
        name: String,
        /// Why.
        #[source]
        source: SchemaError,
    },
    /// The HTTP client could not be set up.
    #[error("tools: no HTTP client for `{server}`")]
    Client {
        /// For which server.
        server: Integration,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

/// The most characters of a detail: within 4 KiB whatever they are.
const DETAIL_MAX: usize = 1_000;
/// The most characters of a tool's description.
const DESCRIPTION_MAX: usize = 1_024;

/// What is told of trouble: one line, without secrets, the server and what it did first.
struct Teller {
    server: Integration,
    secrets: Redactor,
}

impl Teller {
    fn new<'a>(server: Integration, settings: impl IntoIterator<Item = &'a Setting>) -> Self {
        Self::hiding(server, settings.into_iter().flat_map(Setting::secrets))
    }

    fn hiding(server: Integration, secrets: impl IntoIterator<Item = SecretString>) -> Self {
        let secrets = secrets.into_iter();
        Self { server, secrets: Redactor::new(secrets.map(|secret| secret.expose_secret().to_owned())) }
    }

    fn tell(&self, doing: &str, what: &str) -> String {
        // Cleaned before it is cut, so that no half of a secret is left at the end.
        let place = if doing.is_empty() { self.server.to_string() } else { format!("{}/{doing}", self.server) };
        one_line(&self.clean(&format!("{place}: {}", cut(what, 64 * 1024))), DETAIL_MAX)
    }

    fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.secrets.redact(text)
    }

    fn unsent(&self, fault: ToolFault, doing: &str, what: impl AsRef<str>) -> Box<Trouble> {
        Trouble::unsent(fault, self.tell(doing, what.as_ref()))
    }

    fn sent(&self, fault: ToolFault, doing: &str, what: impl AsRef<str>) -> Box<Trouble> {
        Trouble::sent(fault, self.tell(doing, what.as_ref()))
    }

    fn late(&self, doing: &str, within: Duration, sent: bool) -> Box<Trouble> {
        let what = format!("no answer within {}", crate::time::format_duration(within));
        Box::new(Trouble { sent, ..*self.sent(ToolFault::Timeout, doing, what) })
    }
}

/// At most `max` bytes, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Lays the key over an argument, where that is its place.
fn with_key(calling: &Calling) -> Value {
    let mut arguments = calling.arguments.clone();
    if let (KeyPlace::Argument(name), Some(arguments)) = (&calling.key_place, arguments.as_object_mut()) {
        arguments.insert(name.clone(), Value::String(calling.key.as_str().to_owned()));
    }
    arguments
}

/// The most bytes of an answer that are taken: a quarter of what a model's context of 64,000 tokens holds.
pub const RESULT_MAX: usize = 64 * 1024;
