//! What was observed when something went wrong: typed facts with their evidence, not yet judged.
//!
//! A folder that meets trouble writes a [`Cause`] and keeps what it saw (status, headers, body, phase). What it
//! *means* is decided in `judgement.rs`, in one place, so that a new rule needs no new evidence.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Class, Kind};
use crate::task::{Effect, IdempotencyKey, Integration, words};
use crate::time::{self, Timestamp};
use crate::tool::{CallClass, Repeat, ToolRef};

/// Why a delivery did not end in an accepted answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// A call to a language model failed, or answered with something that is no answer.
    Llm(Box<LlmFailure>),
    /// The answer came, complete, but breaks the output schema or another rule about answers.
    Output(OutputFault),
    /// A call of a tool failed in a way the model can do nothing about.
    Tool(Box<ToolFailure>),
    /// A call of a tool may or may not have happened, may not be repeated blindly, and no probe could tell.
    OutcomeUnknown {
        /// The step of the journal that has no known outcome.
        step: u32,
        /// What was called.
        tool: ToolRef,
        /// Under which key the other side knows it.
        key: IdempotencyKey,
        /// Why nobody knows.
        why: String,
    },
    /// The task's own input is unusable; nobody's retry will change that.
    Input {
        /// What is wrong, one entry a violation.
        violations: Vec<Violation>,
    },
    /// The agent, its actor or the whole process died under the delivery.
    Crash(Crash),
    /// The lease ended without a word: the worker is silent, whatever it does.
    LeaseLapsed,
    /// The durable store could not take a result.
    Storage {
        /// What the store said.
        detail: String,
        /// No room is left (as opposed to any other I/O trouble).
        full: bool,
    },
    /// The agent (or library code acting as one) judged its own failure.
    Reported {
        /// The class it claims.
        class: Class,
        /// The kind it claims.
        kind: Kind,
        /// Its words.
        message: String,
    },
    /// The other side said no for reasons of business: card declined, out of stock. Not an error, and not retried.
    Declined {
        /// The reason, in the other side's words.
        reason: String,
    },
    /// The agent went round in circles or past its step limit.
    Loop {
        /// What was seen, such as "read_file {\"path\":\"a\"} 5 times".
        evidence: String,
    },
    /// A limit of money, tokens or steps was reached.
    Budget {
        /// Which limit and how far, in words.
        evidence: String,
    },
    /// The task's deadline passed before it was done.
    DeadlinePassed,
    /// It waited at an open breaker or a gate for longer than its policy allows.
    ParkedTooLong {
        /// Which integration it waited for.
        integration: Integration,
        /// How long it waited in all.
        #[serde(with = "time::seconds")]
        waited: Duration,
    },
    /// No agent can do this type of task.
    NoAgent {
        /// What was looked for.
        wanted: String,
    },
    /// Something nobody foresaw; judged on the safe side.
    Unknown {
        /// What is known of it.
        detail: String,
    },
}

words! {
    /// How far a call to a provider had come when it failed.
    Phase, "phase", "dns, connect, tls, headers, body, decode, stream, semantic" {
        /// Looking up the name.
        Dns = "dns",
        /// Opening the connection.
        Connect = "connect",
        /// Agreeing on encryption.
        Tls = "tls",
        /// Waiting for, or reading, the status line and headers; error statuses are here.
        Headers = "headers",
        /// Reading a body that was promised whole.
        Body = "body",
        /// Making sense of a whole body.
        Decode = "decode",
        /// Reading a stream of events.
        Stream = "stream",
        /// The exchange was sound; its content is no usable answer.
        Semantic = "semantic",
    }
}

words! {
    /// What broke, mechanically. The judgement also reads status, headers and body.
    Fault, "fault", "dns, refused, timeout, tls, certificate, reset, eof, proxy-auth, invalid-url, status, error-event, error-body, truncated, malformed, stop, cancelled, transport" {
        /// The name does not resolve.
        Dns = "dns",
        /// The connection was refused.
        Refused = "refused",
        /// A timer of ours ran out: connect, first byte, first content, idle, total (see `detail`).
        Timeout = "timeout",
        /// The handshake failed for a reason that may pass.
        Tls = "tls",
        /// The certificate is bad: configuration, not weather.
        Certificate = "certificate",
        /// The connection was reset or closed by the peer.
        Reset = "reset",
        /// The peer closed before the message was complete.
        Eof = "eof",
        /// A proxy wants credentials.
        ProxyAuth = "proxy-auth",
        /// The endpoint's address is not one.
        InvalidUrl = "invalid-url",
        /// An error status.
        Status = "status",
        /// An error event inside a stream that began with 200; `body` holds the event's data.
        ErrorEvent = "error-event",
        /// An error object in the body of a 200.
        ErrorBody = "error-body",
        /// The stream ended cleanly, but without the terminal event of its wire format.
        Truncated = "truncated",
        /// A 200 that is not what the wire format promises: HTML, cut JSON, missing fields.
        Malformed = "malformed",
        /// The model stopped for a reason that leaves no usable answer; `stop` holds the raw reason.
        Stop = "stop",
        /// We, or the peer at our word, gave the call up.
        Cancelled = "cancelled",
        /// Any other trouble of the transport.
        Transport = "transport",
    }
}

/// Tokens of one call, counted by the vendor's rule: `input` excludes what the cache counts have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read at full price.
    pub input: u64,
    /// Tokens written, thoughts included.
    pub output: u64,
    /// Tokens read from the provider's cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    #[serde(default)]
    pub cache_write: u64,
}

impl Usage {
    /// All tokens, of every kind.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }

    /// Was any told? A model that answered has read and written something: nothing but zeros is a provider's silence.
    #[must_use]
    pub fn is_told(self) -> bool {
        self != Self::default()
    }

    /// The sum of two.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            output: self.output + other.output,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
        }
    }
}

/// The most of a body that is kept as evidence, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// A call to a language model that gave no answer, with everything that was seen of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlmFailure {
    /// Whose breaker this speaks to.
    pub integration: Integration,
    /// The wire format: `anthropic`, `openai`, `gemini`, `ollama`, `bedrock` …; vendors of a compatible wire under their own name.
    pub provider: String,
    /// The model asked.
    pub model: String,
    /// How far the call had come.
    pub phase: Phase,
    /// What broke.
    pub fault: Fault,
    /// The HTTP status, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Response headers, names in lower case, in the order they came; credentials removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The response body, or the data of the event that ended the stream; at most [`BODY_LIMIT`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// The machine-readable code inside the body, as the provider spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The raw stop reason (`stop_reason`, `finish_reason`, `done_reason` …), once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// The provider's name for this request, to quote to its support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The text received before it broke; never used as an answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub partial: String,
    /// Tokens reported before it broke: they are billed all the same.
    #[serde(default)]
    pub usage: Usage,
    /// Did the request, or a part of it, leave this machine? If so the provider may have produced and billed an answer.
    pub sent: bool,
    /// Is the endpoint run by the operator (Ollama, vLLM, llama.cpp)? Then a refused connection is infrastructure.
    #[serde(default)]
    pub self_hosted: bool,
    /// When the failure was seen, by our clock.
    pub at: Timestamp,
    /// How long the call had run.
    #[serde(with = "time::seconds")]
    pub elapsed: Duration,
    /// The mechanical detail in words, such as "no byte for 30s".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl LlmFailure {
    /// The first header of this name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

words! {
    /// What broke about a call of a tool, mechanically.
    ToolFault, "tool fault", "not-offered, bad-arguments, refused, unreachable, timeout, died, protocol, status, gone, too-large, not-text, said-no" {
        /// The model named a tool it was not offered.
        NotOffered = "not-offered",
        /// The arguments are no JSON object, or break the tool's schema.
        BadArguments = "bad-arguments",
        /// A rule of ours forbids this call: a host that is not listed, a payment made before.
        Refused = "refused",
        /// The server could not be started or reached; nothing was sent.
        Unreachable = "unreachable",
        /// No answer in time.
        Timeout = "timeout",
        /// The server ended, or the connection broke, under the call.
        Died = "died",
        /// The server answered with something its protocol does not allow, or with an error of the protocol.
        Protocol = "protocol",
        /// An error status (HTTP).
        Status = "status",
        /// The tool was offered, and is not there any more.
        Gone = "gone",
        /// The answer is larger than is taken.
        TooLarge = "too-large",
        /// The answer is nothing a model can read.
        NotText = "not-text",
        /// The tool itself says that it failed.
        SaidNo = "said-no",
    }
}

/// A call of a tool that did not give what was asked, with everything that was seen of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolFailure {
    /// What was called.
    pub tool: ToolRef,
    /// What broke.
    pub fault: ToolFault,
    /// What calling it does, and whether it may be repeated.
    pub class: CallClass,
    /// Did the call, or a part of it, leave this process?
    pub sent: bool,
    /// The HTTP status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The other side's own word on when to come back, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// In words, for people and for the model; at most 4 KiB. Untrusted where a server wrote it.
    pub detail: String,
    /// When it was seen, by our clock.
    pub at: Timestamp,
    /// How long the call had run.
    #[serde(with = "time::seconds")]
    pub elapsed: Duration,
}

impl ToolFailure {
    /// Did the other side itself say that it did nothing? If not, and the call was sent, nobody knows.
    #[must_use]
    pub fn outcome_seen(&self) -> bool {
        match self.fault {
            ToolFault::NotOffered | ToolFault::BadArguments | ToolFault::Refused | ToolFault::Unreachable => true,
            ToolFault::Gone | ToolFault::SaidNo => true,
            // It answered, so it was done; only the answer is of no use. With money that is too little to go by.
            ToolFault::TooLarge | ToolFault::NotText => !self.sent || self.class.effect != Effect::Payment,
            ToolFault::Status => !self.sent || self.status.is_some_and(|status| status < 500 && status != 408),
            ToolFault::Timeout | ToolFault::Died | ToolFault::Protocol => !self.sent,
        }
    }

    /// May the call have happened, and must it not be repeated blindly?
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        !self.outcome_seen() && self.class.repeat == Repeat::Never
    }
}

/// One violation of a schema: where, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// JSON pointer into the instance; empty for the whole of it.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}", self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// A complete answer that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFault {
    /// What is wrong with it.
    pub reason: OutputReason,
    /// Every violation found, with its path.
    pub violations: Vec<Violation>,
    /// The answer, cut to 4 KiB.
    pub excerpt: String,
}

words! {
    /// What is wrong with an answer.
    OutputReason, "output reason", "not-json, schema, missing-field, constraint, empty, error-text, not-verified, same-again" {
        /// JSON was asked for and this is none.
        NotJson = "not-json",
        /// JSON of another shape: wrong types, unknown properties.
        Schema = "schema",
        /// Only required properties are missing.
        MissingField = "missing-field",
        /// The right shape with values out of bounds.
        Constraint = "constraint",
        /// Nothing was answered.
        Empty = "empty",
        /// An error text where a result was wanted.
        ErrorText = "error-text",
        /// Its verification refused it.
        NotVerified = "not-verified",
        /// To the letter the answer that was refused before.
        SameAgain = "same-again",
    }
}

/// How an agent or the process died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The way it died.
    pub how: Death,
    /// The panic's message, the exit status, the signal …
    pub detail: String,
}

words! {
    /// The ways an agent can die under its task.
    Death, "death", "panic, killed, cancelled, wedged, process-died, out-of-memory, evicted, start-failed" {
        /// It panicked.
        Panic = "panic",
        /// Its actor was killed.
        Killed = "killed",
        /// Its call was aborted from outside.
        Cancelled = "cancelled",
        /// It stopped answering and was given up.
        Wedged = "wedged",
        /// The whole process ended; found at the next start.
        ProcessDied = "process-died",
        /// The operating system killed it for its memory (exit 137): known of agents that are processes of their own. Here all
        /// are one, and it is found at its next start.
        OutOfMemory = "out-of-memory",
        /// Its host was taken away.
        Evicted = "evicted",
        /// It could not even start.
        StartFailed = "start-failed",
    }
}
