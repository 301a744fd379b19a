//! Language models: an answer, or precisely why not.
//!
//! A [`Provider`] makes exactly one request per call. It never retries, never sleeps and never judges: that is done by
//! the one owner of retries (`settle.rs`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cause::{LlmFailure, Usage};
use crate::config::ProviderConfig;
pub use crate::conversation::{Message, Opaque, ToolCall, ToolResult, ToolSpec};
use crate::task::Integration;
use crate::time::Timestamp;

mod wire;
mod calling;
mod anthropic;
mod openai;
mod responses;
mod gemini;
mod ollama;
mod sse;
mod body;
mod http;
mod diagnosis;
#[cfg(any(test, feature = "testing"))]
pub mod pieces;
pub mod simulated;

/// An answer some time from now, or why there is none.
pub type Call<'a> = Pin<Box<dyn Future<Output = Result<Reply, Box<LlmFailure>>> + Send + 'a>>;

/// A place that serves language models.
pub trait Provider: Send + Sync + 'static {
    /// The integration it is, whose breaker and gate guard it.
    fn integration(&self) -> &Integration;

    /// Asks once. Dropping the future aborts the request. `progress` is told of every byte of content received, so
    /// that a slow answer and a hung one differ.
    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> Call<'a>;
}

/// What is asked of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model's name as the provider knows it.
    pub model: String,
    /// The system prompt.
    pub system: String,
    /// The conversation, oldest first; the last turn is the asker's words or the results of tools.
    pub messages: Vec<Message>,
    /// The tools the model may call; without any, calls in the conversation are told as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolSpec>,
    /// The most tokens the answer may have.
    pub max_output_tokens: u32,
    /// The JSON Schema the answer must meet, handed to providers that can enforce it. The answer is validated by us in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// A usable answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The answer's text; may be empty when tools are called.
    pub text: String,
    /// The tools it wants called, in its order, under the names its vendor gave the calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// What only its vendor understands, to be given back with this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<Opaque>,
    /// The model that answered, as it names itself.
    pub model: String,
    /// Tokens, by the vendor's rule. All zero: none were told, and the call counts as the most it can cost.
    pub usage: Usage,
    /// The raw stop reason.
    pub stop: String,
    /// The provider's name for this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Response headers, names in lower case (rate limits of a success are worth knowing).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// How much content a running call has received: what its lease is renewed for.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Notes that more content has come.
    pub fn advance(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of content so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells the time. Handed in, so that nothing here reads a clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why a provider cannot be built from its configuration. Each is the operator's to mend before anything is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The base URL is not one.
    #[error("provider {integration}: base URL `{url}` {why}")]
    BadUrl {
        /// Whose.
        integration: Integration,
        /// What stood there.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A configured header cannot be sent.
    #[error("provider {integration}: header `{name}` {why}")]
    BadHeader {
        /// Whose.
        integration: Integration,
        /// Which one; its value may be a secret and is not told.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The HTTP client could not be set up.
    #[error("provider {integration}: cannot set up HTTP")]
    Client {
        /// Whose.
        integration: Integration,
        /// What it said.
        #[source]
        source: reqwest::Error,
    },
}

/// The provider that speaks `config.wire`.
///
/// # Errors
/// When the configuration cannot work: a base URL that is none, a header that cannot be sent, no HTTP client.
pub fn provider(integration: Integration, config: &ProviderConfig, clock: Clock) -> Result<Arc<dyn Provider>, Error> {
    Ok(Arc::new(http::Adapter::new(integration, config, clock)?))
}
