//! What a failure means: its class, its kind, where it comes from and what may be done about it.
//!
//! The words and one table: [`Kind::profile`] says what each kind means by default. Which kind a cause is of is
//! decided in `judgement.rs`, the providers' part of it in `provider_failure.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::{Integration, words};
use crate::time;

words! {
    /// The four classes of failure (seed B). The class decides the shape of the recovery, the kind its details.
    Class, "class", "transient, infrastructure, validation, logic" {
        /// It will probably pass by itself: retried by schedule.
        Transient = "transient",
        /// The machinery broke, not the task: retried, or the integration is parked.
        Infrastructure = "infrastructure",
        /// The answer or the request is not acceptable: requeued with what was wrong.
        Validation = "validation",
        /// Trying again cannot help: straight to the dead letter queue.
        Logic = "logic",
    }
}

words! {
    /// What kind of failure it is, within its class. Stable names: they are metric labels and filter words.
    Kind, "kind", "rate_limited, overloaded, server_error, timeout, network, truncated_stream, malformed_response, in_flight_conflict, local_oom, local_unavailable, auth, permission, quota_exhausted, endpoint_config, model_unavailable, context_too_long, request_too_large, bad_output, empty_output, output_cut, recitation, schema, missing_field, constraint, same_output, invalid_request, invalid_input, refused, policy_block, loop, contradiction, dependency, budget, deadline, crash, oom, evicted, process_died, lease_lapsed, storage, parked_too_long, no_agent, declined, outcome_unknown, unknown" {
        /// Too many requests for now.
        RateLimited = "rate_limited",
        /// The provider is out of capacity (529 and its kin).
        Overloaded = "overloaded",
        /// The provider broke.
        ServerError = "server_error",
        /// A timer ran out, ours or the provider's.
        Timeout = "timeout",
        /// The network broke.
        Network = "network",
        /// The stream ended without its end.
        TruncatedStream = "truncated_stream",
        /// Not the wire format it claims to be.
        MalformedResponse = "malformed_response",
        /// Another request on the same thread is still running.
        InFlightConflict = "in_flight_conflict",
        /// Our own model server is out of memory.
        LocalOom = "local_oom",
        /// Our own model server is not there or still loading.
        LocalUnavailable = "local_unavailable",
        /// The credentials are wrong.
        Auth = "auth",
        /// The credentials do not allow this.
        Permission = "permission",
        /// The money or the quota is used up; waiting minutes will not help.
        QuotaExhausted = "quota_exhausted",
        /// The endpoint is misconfigured: certificate, address, method.
        EndpointConfig = "endpoint_config",
        /// The model is gone, or was never there.
        ModelUnavailable = "model_unavailable",
        /// More context than the model takes.
        ContextTooLong = "context_too_long",
        /// A larger request than the provider takes.
        RequestTooLarge = "request_too_large",
        /// The model produced something unusable.
        BadOutput = "bad_output",
        /// The model produced nothing.
        EmptyOutput = "empty_output",
        /// The answer was cut at the token limit.
        OutputCut = "output_cut",
        /// The answer was withheld as a recitation of training data.
        Recitation = "recitation",
        /// The answer has another shape than the schema asks.
        Schema = "schema",
        /// The answer lacks required fields.
        MissingField = "missing_field",
        /// The answer has values out of bounds.
        Constraint = "constraint",
        /// The answer is to the letter the one refused before.
        SameOutput = "same_output",
        /// We asked something that can never be answered: our bug or the operator's.
        InvalidRequest = "invalid_request",
        /// The task's own input is bad.
        InvalidInput = "invalid_input",
        /// The model declined.
        Refused = "refused",
        /// The provider's policy blocked it and a person should look.
        PolicyBlock = "policy_block",
        /// The agent went in circles.
        Loop = "loop",
        /// The instructions contradict each other.
        Contradiction = "contradiction",
        /// Something it depends on cannot be had.
        Dependency = "dependency",
        /// A limit of money, tokens or steps was reached.
        Budget = "budget",
        /// The deadline passed.
        Deadline = "deadline",
        /// The agent died.
        Crash = "crash",
        /// Killed for its memory.
        Oom = "oom",
        /// Its host was taken away.
        Evicted = "evicted",
        /// The whole process died.
        ProcessDied = "process_died",
        /// The worker fell silent and its lease ended.
        LeaseLapsed = "lease_lapsed",
        /// The durable store would not take it.
        Storage = "storage",
        /// It waited at a breaker or gate for as long as it may.
        ParkedTooLong = "parked_too_long",
        /// Nobody can do this type of task.
        NoAgent = "no_agent",
        /// The other side said no.
        Declined = "declined",
        /// It may or may not have happened; only a look can tell.
        OutcomeUnknown = "outcome_unknown",
        /// Nothing we know.
        Unknown = "unknown",
    }
}

words! {
    /// Where the failure comes from.
    Origin, "origin", "input, agent-output, integration, host, policy, business" {
        /// The task's input.
        Input = "input",
        /// What the agent produced.
        AgentOutput = "agent-output",
        /// A remote party.
        Integration = "integration",
        /// The machine or process we run on.
        Host = "host",
        /// A rule of ours or of a provider.
        Policy = "policy",
        /// The outside world's business.
        Business = "business",
    }
}

words! {
    /// What is to be done about it, before policy, budget and effect have their say.
    Action, "action", "backoff, park_integration, fallback_now, modify_requeue, dead_letter, human" {
        /// Send the same again after a wait.
        Backoff = "backoff",
        /// The integration itself is unusable: hold everything for it, tell a human once and the CEO at once.
        ParkIntegration = "park_integration",
        /// Not on this model: the CEO chooses another.
        FallbackNow = "fallback_now",
        /// Not the same again: with what was wrong in the prompt, or smaller.
        ModifyRequeue = "modify_requeue",
        /// Nothing automatic on this agent: to the dead letter queue, where the CEO looks at it.
        DeadLetter = "dead_letter",
        /// Only a person can judge.
        Human = "human",
    }
}

words! {
    /// When another model may be tried.
    Fallback, "fallback", "after_retries, now, larger_context, policy, never" {
        /// Once the retries are used up.
        AfterRetries = "after_retries",
        /// At once.
        Now = "now",
        /// At once, on one with a larger context.
        LargerContext = "larger_context",
        /// Only if the operator declared a policy fallback.
        Policy = "policy",
        /// Another model would fail the same way.
        Never = "never",
    }
}

words! {
    /// What the failure tells the breaker of its integration.
    Signal, "signal", "count, throttle, open, ignore" {
        /// Unhealthy: counts toward opening.
        Count = "count",
        /// Busy, not unhealthy: holds the gate, does not count.
        Throttle = "throttle",
        /// Unusable: forces it open until a person acts.
        Open = "open",
        /// Says nothing about the integration's health.
        Ignore = "ignore",
    }
}

/// What a kind means unless the evidence says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its class.
    pub class: Class,
    /// Where it comes from.
    pub origin: Origin,
    /// What is to be done about it.
    pub action: Action,
    /// May the identical request be sent again to the same model?
    pub retry: bool,
    /// When another model may be tried.
    pub fallback: Fallback,
    /// What it tells the integration's breaker.
    pub signal: Signal,
    /// Should a person be told, whatever else happens?
    pub page: bool,
}

impl Kind {
    /// What this kind means by default: class, action, retry, fallback, breaker and page, in one table.
    #[must_use]
    pub const fn profile(self) -> Profile {
        /// It will pass, and speaks of the integration's health.
        const PASSING: Profile = Profile {
            class: Class::Transient,
            origin: Origin::Integration,
            action: Action::Backoff,
            retry: true,
            fallback: Fallback::AfterRetries,
            signal: Signal::Count,
            page: false,
        };
        /// The integration as a whole is of no use until somebody acts.
        const PARKED: Profile = Profile {
            class: Class::Infrastructure,
            origin: Origin::Integration,
            action: Action::ParkIntegration,
            retry: false,
            fallback: Fallback::Now,
            signal: Signal::Open,
            page: true,
        };
        /// The answer, or the size of the question, has to change.
        const REWORDED: Profile = Profile {
            class: Class::Validation,
            origin: Origin::AgentOutput,
            action: Action::ModifyRequeue,
            retry: false,
            fallback: Fallback::AfterRetries,
            signal: Signal::Ignore,
            page: false,
        };
        /// Trying again cannot help.
        const FINAL: Profile = Profile {
            class: Class::Logic,
            origin: Origin::Policy,
            action: Action::DeadLetter,
            retry: false,
            fallback: Fallback::Never,
            signal: Signal::Ignore,
            page: false,
        };
        /// Our side broke under the delivery, not the task.
        const HOST: Profile = Profile {
            class: Class::Infrastructure,
            origin: Origin::Host,
            action: Action::Backoff,
            retry: true,
            fallback: Fallback::Never,
            signal: Signal::Ignore,
            page: false,
        };
        match self {
            Self::Overloaded
            | Self::ServerError
            | Self::Timeout
            | Self::Network
            | Self::TruncatedStream
            | Self::MalformedResponse => PASSING,
            Self::RateLimited => Profile { signal: Signal::Throttle, ..PASSING },
            Self::InFlightConflict => Profile { signal: Signal::Ignore, fallback: Fallback::Never, ..PASSING },
            Self::LocalOom | Self::LocalUnavailable => {
                Profile { class: Class::Infrastructure, origin: Origin::Host, ..PASSING }
            }
            Self::Auth | Self::Permission | Self::QuotaExhausted | Self::EndpointConfig => PARKED,
            Self::ModelUnavailable => {
                Profile { action: Action::FallbackNow, signal: Signal::Ignore, page: false, ..PARKED }
            }
            Self::ContextTooLong | Self::RequestTooLarge => {
                Profile { origin: Origin::Input, fallback: Fallback::LargerContext, ..REWORDED }
            }
            Self::BadOutput
            | Self::EmptyOutput
            | Self::OutputCut
            | Self::Recitation
            | Self::Schema
            | Self::MissingField
            | Self::Constraint => REWORDED,
            Self::SameOutput => Profile { action: Action::DeadLetter, ..REWORDED },
            Self::InvalidRequest | Self::Contradiction => Profile { origin: Origin::Input, ..FINAL },
            Self::InvalidInput => Profile { class: Class::Validation, origin: Origin::Input, ..FINAL },
            Self::Refused => Profile { fallback: Fallback::Policy, ..FINAL },
            Self::PolicyBlock => Profile { action: Action::Human, page: true, ..FINAL },
            Self::Loop => Profile { origin: Origin::AgentOutput, ..FINAL },
            Self::Dependency => Profile { origin: Origin::Integration, ..FINAL },
            Self::Budget | Self::Deadline => FINAL,
            Self::Crash | Self::Oom | Self::Evicted | Self::ProcessDied | Self::LeaseLapsed => HOST,
            // A person is called about the store, and not for each task.
            Self::Storage => Profile {
                signal: Signal::Ignore,
                origin: Origin::Host,
                fallback: Fallback::Never,
                page: false,
                ..PARKED
            },
            Self::ParkedTooLong => Profile {
                action: Action::DeadLetter,
                retry: false,
                fallback: Fallback::Now,
                signal: Signal::Ignore,
                ..PASSING
            },
            Self::NoAgent => Profile { action: Action::DeadLetter, retry: false, ..HOST },
            Self::Declined => Profile { origin: Origin::Business, ..FINAL },
            Self::OutcomeUnknown => Profile { action: Action::Human, origin: Origin::Integration, page: true, ..FINAL },
            Self::Unknown => Profile { origin: Origin::Host, ..FINAL },
        }
    }
}

/// A failure, judged. Small enough to keep with every attempt; the evidence stays in the cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// Its kind.
    pub kind: Kind,
    /// Where it comes from.
    pub origin: Origin,
    /// What is to be done about it.
    pub action: Action,
    /// May the identical request be sent again to the same model?
    pub retry: bool,
    /// The other side's own word on when to come back: a floor, never a ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_seconds")]
    pub retry_after: Option<Duration>,
    /// When another model may be tried.
    pub fallback: Fallback,
    /// What it tells the integration's breaker.
    pub signal: Signal,
    /// Should a person be told, whatever else happens?
    pub page: bool,
    /// What happened, for people: one line, no secrets, at most 500 characters.
    pub message: String,
    /// The rule that judged it, by its name in `failure.rs` or `provider_failure.rs`.
    pub rule: String,
    /// The integration it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration: Option<Integration>,
    /// The HTTP status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The provider's machine code, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider's request id, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::time;

    #[derive(Deserialize)]
    struct Seconds(#[serde(with = "time::seconds")] Duration);

    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => time::seconds::serialize(span, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Seconds>::deserialize(deserializer)?.map(|seconds| seconds.0))
    }
}
