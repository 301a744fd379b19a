//! One handing-over of a task to an agent: under a lease, counted when claimed, ended by exactly one settlement.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Incarnation, ModelRef};
use crate::cause::{Cause, Usage};
use crate::dead_letter::Circumstances;
use crate::failure::Failure;
use crate::task::{AgentName, Integration, TaskId, words};
use crate::time::{self, Timestamp};

/// The right to work on a task until a deadline. Void at `now >= deadline`, and from the moment another is granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task it is for.
    pub task: TaskId,
    /// Its fencing token: only grows, per task. A result under an older one changes nothing.
    pub fence: u64,
    /// Who holds it.
    pub agent: AgentName,
    /// Which start of that agent.
    pub incarnation: Incarnation,
    /// Which run of the process: leases of an earlier one are void at once.
    pub epoch: u64,
    /// When it ends unless renewed.
    pub deadline: Timestamp,
}

/// How a delivery ended, before anything is decided about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An answer that meets the schema.
    Answered(Value),
    /// No answer, and the judgement on why (see `judgement.rs`).
    Failed(Failure),
    /// Not even begun: the integration is held until then (breaker open or gate closed), or the team drains.
    NotBegun {
        /// Why not.
        why: Hold,
        /// When to look again.
        until: Timestamp,
    },
}

words! {
    /// Why a task waits without spending a delivery.
    Hold, "hold", "breaker-open, gate, drain, retry-budget, integration-parked, disk-full, paused" {
        /// The breaker of its integration is open.
        BreakerOpen = "breaker-open",
        /// Its integration asked for silence until a time (Retry-After).
        Gate = "gate",
        /// The team is shutting down.
        Drain = "drain",
        /// The integration's budget of retries is used up for now.
        RetryBudget = "retry-budget",
        /// The integration is unusable until somebody acts (credentials, billing, endpoint).
        IntegrationParked = "integration-parked",
        /// There was no room on disk to write down what came of it.
        DiskFull = "disk-full",
        /// Somebody decided that it should wait.
        Paused = "paused",
    }
}

/// Words added to the prompt of the next delivery: what was wrong, or what to do differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// Who adds them.
    pub from: AmendmentSource,
    /// The words. Data when they quote an answer; the template fences them.
    pub text: String,
}

words! {
    /// Who amends a prompt.
    AmendmentSource, "amendment source", "validation, ceo, human" {
        /// The validator: the exact error.
        Validation = "validation",
        /// The CEO, on reassignment.
        Ceo = "ceo",
        /// A person.
        Human = "human",
    }
}

/// The one value that ends a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "settle", rename_all = "kebab-case")]
pub enum Settlement {
    /// Done: the answer is stored and the task never runs again.
    Ack {
        /// The answer.
        answer: Value,
    },
    /// Another delivery when it is due.
    Retry {
        /// When.
        due: Timestamp,
        /// Why.
        failure: Failure,
        /// What to say differently.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amendment: Option<Amendment>,
    },
    /// Given back unworked; costs no attempt.
    Release {
        /// When to look again.
        due: Timestamp,
        /// Why.
        why: Hold,
        /// The failure that closed the integration, when this delivery is the one that found out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// Given back not begun, or between two steps: this integration lets nobody through. Costs no attempt.
    Held {
        /// When to look again.
        due: Timestamp,
        /// Why.
        why: Hold,
        /// Who holds it: its model's integration, a server of tools, or the provider of who verifies.
        by: Integration,
    },
    /// Given up by the automatic rules: to the dead letter queue, where the CEO looks.
    DeadLetter {
        /// Why.
        failure: Failure,
        /// What gave up: the rule in words, such as "3 of 3 deliveries used".
        why: String,
        /// How things stood at the time.
        circumstances: Box<Circumstances>,
    },
}

/// What a delivery consumed, whatever came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// The model asked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// Its tokens.
    #[serde(default)]
    pub usage: Usage,
    /// Their price in millionths of a US dollar; absent when the price is unknown, which is not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_usd: Option<u64>,
    /// The beginning of what was answered, when it was refused (at most 4 KiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
    /// The evidence of what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<Cause>>,
}

/// One delivery as remembered in the task's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which round of the task: 1 at first, one more after each decision or replay that sends it again.
    pub generation: u32,
    /// Its number within the round, first = 1.
    pub number: u32,
    /// Its fence.
    pub fence: u64,
    /// Who worked on it.
    pub agent: AgentName,
    /// Which start of that agent.
    pub incarnation: Incarnation,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// How long it had waited since it was due to be tried (queue, backoff and parking together).
    #[serde(with = "time::seconds")]
    pub waited: Duration,
    /// When it was settled; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
    /// What was wrong, when something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it consumed.
    #[serde(default)]
    pub spent: Spent,
}

words! {
    /// How a delivery ended.
    AttemptEnd, "attempt end", "done, retry, released, dead-letter, cancelled" {
        /// Accepted.
        Done = "done",
        /// To be tried again.
        Retry = "retry",
        /// Given back; did not count.
        Released = "released",
        /// Given up.
        DeadLetter = "dead-letter",
        /// The task was cancelled under it.
        Cancelled = "cancelled",
    }
}

/// Why a task is parked, since when, and for how long it has been in this round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parking {
    /// What it waits for.
    pub why: Hold,
    /// Which integration holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration: Option<Integration>,
    /// Since when, in this round.
    pub since: Timestamp,
    /// How long of that deliveries ran that were given back: that is no wait.
    #[serde(default, with = "time::seconds", skip_serializing_if = "Duration::is_zero")]
    pub worked: Duration,
    /// Is its next call a retry that the budget held, and that is to be taken out of it when it is made?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owes_retry: bool,
}
