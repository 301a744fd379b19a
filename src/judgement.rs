//! What a cause means for its task: every cause gets a class, a kind and what may be done about it, in one place.
//!
//! [`classify`] matches every cause without a wildcard. It says what the failure *is*; what policy, budget and effect
//! make of it is said in `settle.rs`. Only [`outcome_unknown`] looks at the effect, because a payment that may have
//! happened is a fact about the world and no matter of policy.

use std::time::Duration;

use crate::cause::{Cause, Death, Fault, LlmFailure, OutputFault, OutputReason, ToolFailure};
use crate::error_body::{self, ErrorBody};
use crate::failure::{Action, Class, Failure, Fallback, Kind, Origin, Profile, Signal};
use crate::hint::{self, Seen};
use crate::provider_failure::{self, Ruling, Verdict};
use crate::redact::{one_line, redact};
use crate::task::{Effect, Integration};
use crate::time::{Timestamp, format_duration};
use crate::tool_failure;

/// The longest wait another party may ask of us before it counts as parked.
pub const HINT_CAP: Duration = Duration::from_secs(300);

/// What has to be known beside the cause to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// What doing the task does to the world.
    pub effect: Effect,
    /// The present.
    pub now: Timestamp,
    /// Has an earlier delivery of this task ended in something unknown as well?
    pub unknown_before: bool,
    /// A hint longer than this is not slept on.
    pub hint_cap: Duration,
}

impl Scene {
    /// The scene of a first failure, with [`HINT_CAP`].
    #[must_use]
    pub const fn new(effect: Effect, now: Timestamp) -> Self {
        Self { effect, now, unknown_before: false, hint_cap: HINT_CAP }
    }
}

/// The judgement of a cause.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "made once per failure and taken apart at once")]
pub enum Judgement {
    /// It failed, and this is how.
    Failed(Failure),
    /// It was given up at our own word: no failure.
    Cancelled,
    /// It is not over: ask again with what there is so far.
    Continue,
}

/// The most characters of a failure's message.
pub const MESSAGE_MAX: usize = 500;

/// Judges a cause.
#[must_use]
pub fn classify(cause: &Cause, scene: &Scene) -> Judgement {
    let of =
        |kind: Kind, rule: &'static str, message: &str| Judgement::Failed(failure(kind, kind.profile(), rule, message));
    match cause {
        Cause::Llm(call) => judge_call(call, scene),
        Cause::Output(fault) => of(kind_of_output(fault), "output", &describe_output(fault)),
        Cause::Tool(call) => Judgement::Failed(Failure {
            integration: Some(call.tool.server.clone()),
            status: call.status,
            retry_after: call.retry_after_s.map(Duration::from_secs).filter(|asked| !asked.is_zero()),
            ..judge_tool(call)
        }),
        Cause::OutcomeUnknown { step, tool, why, .. } => Judgement::Failed(Failure {
            integration: Some(tool.server.clone()),
            ..failure(
                Kind::OutcomeUnknown,
                Kind::OutcomeUnknown.profile(),
                "tool-outcome",
                &format!("step {step}, {tool}, may or may not have happened: {why}"),
            )
        }),
        Cause::Input { violations } => {
            let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
            of(Kind::InvalidInput, "input", &format!("the input is unusable: {}", list.join("; ")))
        }
        Cause::Crash(crash) => of(kind_of_death(crash.how), "crash", &format!("{}: {}", crash.how, crash.detail)),
        Cause::LeaseLapsed => of(Kind::LeaseLapsed, "lease", "the worker fell silent and its lease ended"),
        Cause::Storage { detail, full: true } => of(Kind::Storage, "storage-full", detail),
        Cause::Storage { detail, full: false } => {
            // Any other trouble of the disk is met by re-opening the store; the delivery is done again.
            let profile = Profile { action: Action::Backoff, retry: true, ..Kind::Storage.profile() };
            Judgement::Failed(failure(
                Kind::Storage,
                profile,
                "storage",
                &format!("it could not go on without the store: {detail}"),
            ))
        }
        Cause::Reported { class, kind, message } => {
            Judgement::Failed(failure(*kind, reported(*class, *kind), "reported", message))
        }
        Cause::Declined { reason } => of(Kind::Declined, "declined", reason),
        Cause::Loop { evidence } => of(Kind::Loop, "loop", evidence),
        Cause::Budget { evidence } => of(Kind::Budget, "budget", evidence),
        Cause::DeadlinePassed => of(Kind::Deadline, "deadline", "the task's deadline passed"),
        Cause::ParkedTooLong { integration, waited } => {
            let message = format!("waited {} for {}", format_duration(*waited), integration.as_str());
            Judgement::Failed(Failure {
                integration: Some(integration.clone()),
                ..failure(Kind::ParkedTooLong, Kind::ParkedTooLong.profile(), "parked-too-long", &message)
            })
        }
        Cause::NoAgent { wanted } => of(Kind::NoAgent, "no-agent", &format!("no agent can do this: {wanted}")),
        Cause::Unknown { detail } => Judgement::Failed(unknown(detail, scene)),
    }
}

/// May the world have changed without our knowing? True when a payment's request left this machine, or its worker died,
/// and no outcome was seen: nobody repeats it but a person.
#[must_use]
pub fn outcome_unknown(cause: &Cause, effect: Effect) -> bool {
    if effect != Effect::Payment {
        return false;
    }
    match cause {
        Cause::Llm(call) => call.sent && !outcome_seen(call),
        Cause::Crash(crash) => crash.how != Death::StartFailed,
        Cause::LeaseLapsed | Cause::Storage { .. } | Cause::Unknown { .. } | Cause::OutcomeUnknown { .. } => true,
        Cause::Tool(call) => call.outcome_unknown(),
        Cause::Output(_)
        | Cause::Input { .. }
        | Cause::Reported { .. }
        | Cause::Declined { .. }
        | Cause::Loop { .. }
        | Cause::Budget { .. }
        | Cause::DeadlinePassed
        | Cause::ParkedTooLong { .. }
        | Cause::NoAgent { .. } => false,
    }
}

/// Is what a call cost not known? A model may have answered, and the answer been lost on the way: then it may be billed
/// all the same; an answer that broke off in an error event is billed as far as it had come, and nobody says how far that
/// is; nor what one used that came and is none.
#[must_use]
pub fn cost_unknown(call: &LlmFailure) -> bool {
    call.sent && (call.fault == Fault::ErrorEvent || usage_untold(call) || !outcome_seen(call))
}

/// Did a model answer, if not usably, and its provider not tell what that used?
#[must_use]
pub fn usage_untold(call: &LlmFailure) -> bool {
    call.fault == Fault::Stop && !call.usage.is_told()
}

/// Did the other side itself say how the call ended? A gateway that lost its upstream does not know either.
fn outcome_seen(call: &LlmFailure) -> bool {
    match call.fault {
        Fault::Status | Fault::ProxyAuth => !matches!(call.status, Some(408 | 502 | 504 | 520 | 522 | 524)),
        Fault::ErrorEvent | Fault::ErrorBody | Fault::Stop => true,
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
        | Fault::Cancelled
        | Fault::Transport => false,
    }
}

/// A call of a tool that failed under the delivery. Another model would fail the same way.
fn judge_tool(call: &ToolFailure) -> Failure {
    let kind = tool_failure::kind(call);
    let profile = match kind.profile() {
        profile if profile.fallback == Fallback::Never => profile,
        profile => Profile { fallback: Fallback::Never, ..profile },
    };
    let status = call.status.map(|status| format!(" {status}")).unwrap_or_default();
    failure(kind, profile, "tool", &format!("{}{status} ({}): {}", call.tool, call.fault, call.detail))
}

fn judge_call(call: &LlmFailure, scene: &Scene) -> Judgement {
    let value = error_body::parse(&call.body);
    let body = ErrorBody::of(&call.body, value.as_ref());
    let ruling = match provider_failure::judge(call, &body) {
        Verdict::Failed(ruling) => ruling,
        Verdict::Cancelled => return Judgement::Cancelled,
        Verdict::Continue => return Judgement::Continue,
    };
    let (ruling, retry_after) = hold(ruling, asked(call, &body), scene.hint_cap);
    let code = call.code.as_deref().or_else(|| body.codes().next());
    Judgement::Failed(Failure {
        retry_after,
        integration: Some(call.integration.clone()),
        status: call.status,
        code: code.map(|code| one_line(code, 100)),
        request_id: call.request_id.clone(),
        ..failure(ruling.kind, ruling.profile, ruling.rule, &describe_call(call, &body, code))
    })
}

/// The other side's word, where it spoke at all.
fn asked(call: &LlmFailure, body: &ErrorBody<'_>) -> Option<Duration> {
    match call.fault {
        // A cut 200 may hold any words of a model; they are nobody's hint.
        Fault::Malformed if call.status.is_none_or(|status| status < 400) => None,
        Fault::Status | Fault::ErrorEvent | Fault::ErrorBody | Fault::Malformed => {
            hint::asked_with(&Seen { status: call.status, headers: &call.headers, body: &call.body, at: call.at }, body)
        }
        Fault::Dns
        | Fault::Refused
        | Fault::Timeout
        | Fault::Tls
        | Fault::Certificate
        | Fault::Reset
        | Fault::Eof
        | Fault::ProxyAuth
        | Fault::InvalidUrl
        | Fault::Truncated
        | Fault::Stop
        | Fault::Cancelled
        | Fault::Transport => None,
    }
}

/// A hint above the cap is never slept on: the integration is parked until then. A short hint counts only where the
/// same request may be sent again: Google sends 26 s with a quota of a day.
fn hold(ruling: Ruling, asked: Option<Duration>, cap: Duration) -> (Ruling, Option<Duration>) {
    match asked {
        Some(asked) if asked > cap && ruling.profile.retry => {
            let kind = Kind::QuotaExhausted;
            (Ruling { kind, profile: kind.profile(), rule: "hint-over-cap" }, Some(asked))
        }
        Some(asked) if ruling.profile.retry || (asked > cap && ruling.kind == Kind::QuotaExhausted) => {
            (ruling, Some(asked))
        }
        Some(_) | None => (ruling, None),
    }
}

fn describe_call(call: &LlmFailure, body: &ErrorBody<'_>, code: Option<&str>) -> String {
    let mut text = call.provider.clone();
    if let Some(status) = call.status.filter(|status| *status != 200) {
        text.push_str(&format!(" {status}"));
    }
    if let Some(word) = code.or(call.stop.as_deref()) {
        text.push_str(&format!(" ({word})"));
    }
    let mut said = [body.message.as_str(), call.detail.as_str()].into_iter().filter(|words| !words.is_empty());
    match said.next() {
        // Far more than is shown, and little enough to search for credentials.
        Some(words) => text.extend(": ".chars().chain(words.chars().take(4_096))),
        None => text.push_str(&format!(": {} ({})", call.fault, call.phase)),
    }
    text
}

fn kind_of_output(fault: &OutputFault) -> Kind {
    match fault.reason {
        OutputReason::NotJson | OutputReason::ErrorText | OutputReason::NotVerified => Kind::BadOutput,
        OutputReason::Schema => Kind::Schema,
        OutputReason::MissingField => Kind::MissingField,
        OutputReason::Constraint => Kind::Constraint,
        OutputReason::Empty => Kind::EmptyOutput,
        OutputReason::SameAgain => Kind::SameOutput,
    }
}

fn describe_output(fault: &OutputFault) -> String {
    let list: Vec<String> = fault.violations.iter().map(ToString::to_string).collect();
    match list.is_empty() {
        true => format!("the answer is unusable: {}", fault.reason),
        false => format!("the answer is unusable ({}): {}", fault.reason, list.join("; ")),
    }
}

fn kind_of_death(how: Death) -> Kind {
    match how {
        Death::Panic | Death::Killed | Death::Cancelled | Death::Wedged | Death::StartFailed => Kind::Crash,
        Death::ProcessDied => Kind::ProcessDied,
        Death::OutOfMemory => Kind::Oom,
        Death::Evicted => Kind::Evicted,
    }
}

/// An agent's word on its own failure is believed, but it parks no integration and opens no breaker: nothing was seen.
fn reported(class: Class, kind: Kind) -> Profile {
    let profile = Profile { origin: Origin::AgentOutput, signal: Signal::Ignore, ..kind.profile() };
    if class == kind.profile().class {
        return match profile.action {
            Action::ParkIntegration => Profile { action: Action::DeadLetter, ..profile },
            Action::Backoff | Action::FallbackNow | Action::ModifyRequeue | Action::DeadLetter | Action::Human => {
                profile
            }
        };
    }
    let (action, retry) = match class {
        Class::Transient | Class::Infrastructure => (Action::Backoff, true),
        Class::Validation => (Action::ModifyRequeue, false),
        Class::Logic => (Action::DeadLetter, false),
    };
    Profile { class, action, retry, ..profile }
}

/// Nobody foresaw it. Harmless work is tried once more; anything that could do harm twice is not.
fn unknown(detail: &str, scene: &Scene) -> Failure {
    let harmless = match scene.effect {
        Effect::ReadOnly | Effect::Notification => true,
        Effect::Mutation | Effect::Payment => false,
    };
    let profile = Kind::Unknown.profile();
    if harmless && !scene.unknown_before {
        let once = Profile { class: Class::Transient, action: Action::Backoff, retry: true, ..profile };
        return failure(Kind::Unknown, once, "unknown-once", detail);
    }
    failure(Kind::Unknown, profile, "unknown", detail)
}

fn failure(kind: Kind, profile: Profile, rule: &'static str, message: &str) -> Failure {
    let Profile { class, origin, action, retry, fallback, signal, page } = profile;
    Failure {
        class,
        kind,
        origin,
        action,
        retry,
        retry_after: None,
        fallback,
        signal,
        page,
        message: one_line(&redact(message), MESSAGE_MAX),
        rule: rule.to_owned(),
        integration: None::<Integration>,
        status: None,
        code: None,
        request_id: None,
    }
}
