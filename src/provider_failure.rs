//! What a provider's failing answer means: judged by phase, status, machine code and headers first, text last.
//!
//! The order is the policy. What broke mechanically needs no reading. Then the codes that mean one thing; then the
//! facts a code leaves open (Google's quota ids, "Limit 30000, Requested 41000"); then wording, each phrase only under
//! the statuses where it was seen; then the status; then nothing is known, and the judgement errs on the safe side: an
//! unknown 5xx passes, an unknown 4xx does not. Neither a `529` nor a `timeout` inside a sentence means anything.

use serde_json::Value;

use crate::cause::{Fault, LlmFailure};
use crate::error_body::{self, ErrorBody};
use crate::failure::{Action, Class, Fallback, Kind, Profile};
use crate::hint;
use crate::provider_code::{self as code, Stop};

/// What a call's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It failed.
    Failed(Ruling),
    /// It was given up at our own word.
    Cancelled,
    /// The model paused: the conversation goes on.
    Continue,
}

/// The kind of a failure, what differs from the kind's profile, and the rule that found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Its kind.
    pub kind: Kind,
    /// What is to be done; the kind's profile unless the evidence says otherwise.
    pub profile: Profile,
    /// The rule's name.
    pub rule: &'static str,
}

impl Ruling {
    const fn new(kind: Kind, rule: &'static str) -> Self {
        Self { kind, profile: kind.profile(), rule }
    }

    const fn verdict(self) -> Verdict {
        Verdict::Failed(self)
    }
}

/// Judges a failure; `body` is what [`ErrorBody::of`] found in `failure.body`.
#[must_use]
pub fn judge(failure: &LlmFailure, body: &ErrorBody<'_>) -> Verdict {
    let mechanical = |kind| Ruling::new(kind, "fault").verdict();
    match failure.fault {
        Fault::Cancelled => Verdict::Cancelled,
        Fault::Refused if failure.self_hosted => mechanical(Kind::LocalUnavailable),
        Fault::Dns | Fault::Refused | Fault::Tls | Fault::Reset | Fault::Eof | Fault::Transport => {
            mechanical(Kind::Network)
        }
        Fault::Timeout => mechanical(Kind::Timeout),
        Fault::Certificate | Fault::InvalidUrl => mechanical(Kind::EndpointConfig),
        Fault::ProxyAuth => mechanical(Kind::Auth),
        Fault::Truncated => mechanical(Kind::TruncatedStream),
        Fault::Malformed if failure.status.is_none_or(|status| status < 400) => mechanical(Kind::MalformedResponse),
        Fault::Stop => by_stop(failure, body),
        Fault::Malformed | Fault::Status | Fault::ErrorEvent | Fault::ErrorBody => {
            obey(failure, by_error(failure, body))
        }
    }
}

/// The model stopped without a usable answer: its stop reason first, then what was wrong with what it said.
fn by_stop(failure: &LlmFailure, body: &ErrorBody<'_>) -> Verdict {
    match failure.stop.as_deref().map(code::stop) {
        Some(Some(Stop::Failed(kind))) => return Ruling::new(kind, "stop-reason").verdict(),
        Some(Some(Stop::Continue)) => return Verdict::Continue,
        Some(None) if failure.stop.as_deref().is_some_and(code::is_cancelled) => return Verdict::Cancelled,
        Some(Some(Stop::Normal) | None) | None => {}
    }
    // A Responses object is no error and still carries a code.
    if let Some(kind) = failure.code.as_deref().into_iter().chain(body.codes()).find_map(code::exact) {
        return Ruling::new(kind, "stop-code").verdict();
    }
    let detail = failure.detail.as_str();
    let (kind, rule) = match detail {
        _ if detail.starts_with("empty") => (Kind::EmptyOutput, "stop-empty"),
        // Ours: so many calls in one answer are a model that turns in circles.
        _ if detail.starts_with("more than") && detail.contains("tool calls") => (Kind::Loop, "stop-calls"),
        _ if detail.contains("refus") || detail.contains("blocked") => (Kind::Refused, "stop-refusal"),
        _ => (Kind::BadOutput, "stop-unusable"),
    };
    Ruling::new(kind, rule).verdict()
}

/// `x-should-retry: false` is the provider's last word; `true` counts only where we know nothing ourselves.
fn obey(failure: &LlmFailure, verdict: Verdict) -> Verdict {
    let Verdict::Failed(ruling) = verdict else { return verdict };
    let word = hint::header(&failure.headers, "x-should-retry").next();
    match word {
        Some("false") if ruling.profile.retry => {
            let profile =
                Profile { retry: false, action: Action::FallbackNow, fallback: Fallback::Now, ..ruling.profile };
            Verdict::Failed(Ruling { profile, rule: "x-should-retry", ..ruling })
        }
        Some("true") if ruling.rule == "status" && ruling.kind == Kind::InvalidRequest => {
            Ruling::new(Kind::ServerError, "x-should-retry").verdict()
        }
        Some(_) | None => verdict,
    }
}

/// An error status, or an error reported inside a 200.
fn by_error(failure: &LlmFailure, body: &ErrorBody<'_>) -> Verdict {
    // The status of the exchange, else the one the body speaks of.
    let status = failure.status.filter(|status| !(200..300).contains(status)).or(body.number);
    let header = hint::header(&failure.headers, "x-amzn-errortype").next();
    let words: Vec<&str> =
        body.exact.iter().copied().chain(header).chain(failure.code.as_deref()).chain(body.codes()).collect();

    if status == Some(499) || words.iter().any(|word| code::is_cancelled(word)) {
        return Verdict::Cancelled;
    }
    if body.exact.contains(&"steered") {
        return Verdict::Continue;
    }
    by_structure(status, body, &words)
        .or_else(|| by_upstream(body))
        .or_else(|| by_text(failure, status, body))
        .or_else(|| by_status(failure, status, body, &words))
        .unwrap_or_else(|| Ruling::new(Kind::ServerError, "unknown"))
        .verdict()
}

/// Codes and other facts that decide alone.
fn by_structure(status: Option<u16>, body: &ErrorBody<'_>, words: &[&str]) -> Option<Ruling> {
    if words.iter().any(|word| code::is_lost_thread(word)) {
        let profile =
            Profile { class: Class::Validation, action: Action::ModifyRequeue, ..Kind::InvalidRequest.profile() };
        return Some(Ruling { kind: Kind::InvalidRequest, profile, rule: "lost-thread" });
    }
    if body.quotas.iter().any(|quota| quota.contains("PerDay") || quota.contains("Daily")) {
        return Some(Ruling::new(Kind::QuotaExhausted, "daily-quota"));
    }
    if body.moderated && status == Some(403) {
        return Some(Ruling::new(Kind::Refused, "moderation"));
    }
    if body.failed_generation {
        return Some(Ruling::new(Kind::BadOutput, "failed-generation"));
    }
    let kind = words.iter().find_map(|word| code::exact(word))?;
    // A model behind a gateway that answered 4xx would answer so again.
    let ruling = Ruling::new(kind, "code");
    match (kind, body.number) {
        (Kind::ServerError, Some(inner @ 400..=499))
            if status == Some(424) && ![408, 409, 424, 429].contains(&inner) =>
        {
            plain_status(inner, "upstream-status")
        }
        // Google's 404 and Bedrock's speak of models; elsewhere capacity means: not here, not now.
        (Kind::Overloaded, _) if words.contains(&"MODEL_CAPACITY_EXHAUSTED") => {
            Some(Ruling { profile: Profile { fallback: Fallback::Now, ..ruling.profile }, ..ruling })
        }
        _ => Some(ruling),
    }
}

/// A proxy's message often holds the upstream's own error as JSON, or names the exception it made of it.
fn by_upstream(body: &ErrorBody<'_>) -> Option<Ruling> {
    let decide = |value: &Value| {
        let inner = ErrorBody::of("", Some(value));
        inner.codes().find_map(code::exact).map(|kind| Ruling::new(kind, "upstream-code"))
    };
    let raw = body.raw.and_then(error_body::embedded);
    let inside = || error_body::embedded(&body.message);
    if let Some(ruling) = raw.or_else(inside).as_ref().and_then(decide) {
        return Some(ruling);
    }
    body.message.split("litellm.").skip(1).find_map(|rest| {
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        code::exact(name)
            .or((name == "Timeout").then_some(Kind::Timeout))
            .map(|kind| Ruling::new(kind, "upstream-name"))
    })
}

/// Servers an operator runs by name; their memory is our memory even when nobody said so.
fn runs_here(failure: &LlmFailure) -> bool {
    failure.self_hosted || matches!(failure.provider.as_str(), "ollama" | "vllm" | "llama_cpp" | "llamacpp")
}

/// Wording, where no code decides. Each phrase counts only under the statuses under which providers use it.
fn by_text(failure: &LlmFailure, status: Option<u16>, body: &ErrorBody<'_>) -> Option<Ruling> {
    let text = body.message.to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    let found = |kind, rule| Some(Ruling::new(kind, rule));
    let inside_200 = status.is_none();
    let broken = inside_200 || status.is_some_and(|status| status >= 500);
    let refused = inside_200 || matches!(status, Some(400 | 404 | 422));
    let limited = matches!(status, Some(413 | 429));

    if limited && (says(&["request too large"]) || wants_more_than_the_limit(&text)) {
        return found(Kind::RequestTooLarge, "text-request-too-large");
    }
    if (refused || broken || status == Some(413)) && says(CONTEXT) {
        return found(Kind::ContextTooLong, "text-context");
    }
    if broken && runs_here(failure) && says(MEMORY) {
        return found(Kind::LocalOom, "text-memory");
    }
    if broken && runs_here(failure) && says(NOT_READY) {
        return found(Kind::LocalUnavailable, "text-not-ready");
    }
    // Google says "check your plan and billing" under every 429; there the details decide.
    let google = body.status.is_some();
    let spent = says(SPENT) || mentions_limit_zero(&text) || (!google && says(&["exceeded your current quota"]));
    // A 400 may quote the caller's own words, so that only whole sentences of providers count there.
    if ((inside_200 || matches!(status, Some(402 | 403 | 429))) && spent) || (status == Some(400) && says(SPENT_400)) {
        return found(Kind::QuotaExhausted, "text-spent");
    }
    if status == Some(429) && !google && says(LONG_WINDOW) {
        return found(Kind::QuotaExhausted, "text-long-window");
    }
    if (broken || matches!(status, Some(429 | 498))) && says(CAPACITY) {
        let ruling = Ruling::new(Kind::Overloaded, "text-capacity");
        if says(&["no available model provider"]) {
            return Some(Ruling { profile: Profile { fallback: Fallback::Now, ..ruling.profile }, ..ruling });
        }
        return Some(ruling);
    }
    if matches!(status, Some(400 | 403)) && says(&["api key", "api_key", "x-api-key"]) && says(BAD_KEY) {
        // A leaked key under a 403 has the right shape and no rights: permission, as Google calls it.
        return found(Kind::Auth, "text-key");
    }
    if refused && says(&["location is not supported", "country, region", "not available in your country"]) {
        return found(Kind::Permission, "text-location");
    }
    if (refused || status == Some(403)) && says(POLICY) {
        return found(Kind::Refused, "text-policy");
    }
    if refused && (says(NO_MODEL) || (says(&["model", "deployment"]) && says(GONE))) {
        return found(Kind::ModelUnavailable, "text-model");
    }
    None
}

/// The question is longer than the model's window.
const CONTEXT: &[&str] = &[
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "context length",
    "context window",
    "context size",
    "context limit",
    "maximum prompt length",
    "exceeds the maximum number of tokens",
    "reduce the length of the messages",
    "reduce the length of the prompt",
    "reduce the length of the input",
];

/// Our own host is short of memory.
const MEMORY: &[&str] = &[
    "out of memory",
    "requires more system memory",
    "insufficient memory",
    "not enough memory",
    "failed to allocate",
    "resource limitations",
];

/// Our own server is there, its model is not.
const NOT_READY: &[&str] = &[
    "loading model",
    "model is loading",
    "runner process has terminated",
    "runner process no longer running",
    "timed out waiting for llama runner",
    "error was encountered while running the model",
    "error loading model",
    "enginecore",
    "enginedead",
    "engine is dead",
    "engine is not running",
    "background loop",
];

/// Money or quota is used up.
const SPENT: &[&str] = &[
    "credit balance is too low",
    "credit balance is depleted",
    "credits are depleted",
    "insufficient balance",
    "insufficient credits",
    "insufficient funds",
    "requires more credits",
    "available credits",
    "any credits",
    "spending limit",
    "spend limit",
    "billing hard limit",
    "billing details to",
    "budget has been exceeded",
    "exceededbudget",
    "usage limit",
    "out of call volume quota",
    "key limit exceeded",
];

/// Money is used up, under a 400.
const SPENT_400: &[&str] =
    &["credit balance is too low", "budget has been exceeded", "exceededbudget", "billing hard limit has been reached"];

/// A limit that refills in days.
const LONG_WINDOW: &[&str] = &["per day", "per-day", "(tpd)", "(rpd)", "daily", "per month", "monthly", "weekly"];

/// Too busy, whoever is asking.
const CAPACITY: &[&str] = &[
    "high demand",
    "overloaded",
    "capacity exceeded",
    "at capacity",
    "enough capacity",
    "server busy",
    "maximum pending requests",
    "no available model provider",
    "no slot available",
];

/// What is wrong with a key.
const BAD_KEY: &[&str] = &["incorrect", "invalid", "not valid", "expired", "missing", "not found", "revoked"];

/// A rule of the provider's against the content.
const POLICY: &[&str] = &[
    "content management policy",
    "content filtering policy",
    "content policy",
    "usage guidelines",
    "usage policies",
    "safety system",
    "was flagged",
];

/// The model is not there, or cannot do what was asked.
const NO_MODEL: &[&str] = &[
    "try pulling it first",
    "model identifier is invalid",
    "not a valid model",
    "invalid model",
    "unknown model",
    "model not exist",
    "does not support tools",
    "support tool use",
    "no endpoints found",
    "no allowed providers",
];

/// What became of the model.
const GONE: &[&str] = &[
    "does not exist",
    "not found",
    "decommissioned",
    "deprecated",
    "no longer supported",
    "no longer available",
    "retired",
    "end of life",
    "end of its life",
];

/// "Limit 30000, Requested 41000": no waiting makes room for that.
fn wants_more_than_the_limit(text: &str) -> bool {
    let number_after = |word: &str| -> Option<u64> {
        let rest = &text[text.find(word)? + word.len()..];
        let digits = rest.trim_start_matches([' ', ':']);
        digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
    };
    matches!((number_after("limit "), number_after("requested ")), (Some(limit), Some(asked)) if asked > limit)
}

/// "limit: 0" never refills; "limit: 0.5" and "limit: 05" do not occur, "limit: 03" would be a number.
fn mentions_limit_zero(text: &str) -> bool {
    text.match_indices("limit: 0")
        .any(|(at, found)| !text[at + found.len()..].starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

/// The status, refined by the words that only repeat it.
fn by_status(failure: &LlmFailure, status: Option<u16>, body: &ErrorBody<'_>, words: &[&str]) -> Option<Ruling> {
    let general = words.iter().find_map(|word| code::general(word));
    let Some(status) = status else {
        return general.map(|kind| Ruling::new(kind, "type"));
    };
    match (status, general) {
        // A busy provider says so under other statuses, too; size is size whatever the type says.
        (413, _) => plain_status(413, "status"),
        (_, Some(Kind::RateLimited)) if status != 402 => Some(Ruling::new(Kind::RateLimited, "type")),
        (400, _) if words.contains(&"FAILED_PRECONDITION") => Some(Ruling::new(Kind::Permission, "precondition")),
        (404, _) => Some(not_found(body, general)),
        (501, _) => plain_status(501, "status"),
        (500.., Some(kind @ (Kind::Overloaded | Kind::ServerError | Kind::Timeout)))
            if status != 504 && status != 529 =>
        {
            Some(Ruling::new(kind, "type"))
        }
        (502 | 503, None) if failure.self_hosted => Some(Ruling::new(Kind::LocalUnavailable, "status")),
        _ => plain_status(status, "status"),
    }
}

/// A 404 speaks of the model or of the address.
fn not_found(body: &ErrorBody<'_>, general: Option<Kind>) -> Ruling {
    let text = body.message.to_ascii_lowercase();
    if text.contains("invalid url") || text.contains("unknown request url") {
        return Ruling::new(Kind::EndpointConfig, "not-found-url");
    }
    let of_model = text.contains("model") || text.contains("deployment") || body.status.is_some();
    match general {
        _ if of_model => Ruling::new(Kind::ModelUnavailable, "not-found-model"),
        Some(Kind::ModelUnavailable) if !text.is_empty() && text != "not found" => {
            Ruling::new(Kind::ModelUnavailable, "not-found-type")
        }
        Some(_) | None => Ruling::new(Kind::EndpointConfig, "not-found-url"),
    }
}

/// What a status means by itself.
fn plain_status(status: u16, rule: &'static str) -> Option<Ruling> {
    let kind = match status {
        401 | 407 | 511 => Kind::Auth,
        402 => Kind::QuotaExhausted,
        403 | 451 => Kind::Permission,
        405 | 421 | 426 | 501 | 505 | 300..=399 => Kind::EndpointConfig,
        404 => Kind::EndpointConfig,
        408 | 504 | 522 | 524 | 598 | 599 => Kind::Timeout,
        409 | 423 => Kind::InFlightConflict,
        410 => Kind::ModelUnavailable,
        413 => Kind::RequestTooLarge,
        424 | 425 => Kind::ServerError,
        429 => Kind::RateLimited,
        498 | 503 | 529 => Kind::Overloaded,
        400..=499 => Kind::InvalidRequest,
        500..=599 => Kind::ServerError,
        _ => return None,
    };
    Some(Ruling::new(kind, rule))
}
