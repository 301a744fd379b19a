//! What can be done with a dead letter: the closed set of decisions, and how one is recorded.
//!
//! Who chooses among them, and by which table, is `triage.rs`.

use serde::{Deserialize, Serialize};

use crate::agent::ModelRef;
use crate::task::{AgentName, words};
use crate::time::Timestamp;

/// What is to be done with a dead letter (or a parked group).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// The same agent, another model.
    RetryOnFallback {
        /// Which.
        model: ModelRef,
    },
    /// The same agent and model again, once the resource that failed has been checked.
    RetryAfterCheck {
        /// Not before.
        due: Timestamp,
        /// What was checked and found, in words.
        checked: String,
    },
    /// Another, capable agent, with words added to the prompt.
    Reassign {
        /// To whom.
        agent: AgentName,
        /// What is added; contains the exact error when there is one.
        amendment: String,
    },
    /// Wait until then, then look again.
    Park {
        /// Until when.
        until: Timestamp,
        /// What for.
        why: String,
    },
    /// Give it up for good: obsolete, or a duplicate.
    Discard {
        /// Why.
        why: String,
    },
    /// Only a person can judge.
    PageHuman {
        /// What the person is asked.
        why: String,
    },
    /// A person says that it was done by other means; counts as done.
    Resolve {
        /// What was done.
        note: String,
    },
    /// A person has it done again as it is: the only way a payment is ever repeated.
    RunAgain {
        /// Words added to the prompt, if any.
        amendment: Option<String>,
    },
}

words! {
    /// The names of the decisions, for filters, metrics and the log.
    DecisionKind, "decision", "retry-on-fallback, retry-after-check, reassign, park, discard, page-human, resolve, run-again" {
        /// See [`Decision::RetryOnFallback`].
        RetryOnFallback = "retry-on-fallback",
        /// See [`Decision::RetryAfterCheck`].
        RetryAfterCheck = "retry-after-check",
        /// See [`Decision::Reassign`].
        Reassign = "reassign",
        /// See [`Decision::Park`].
        Park = "park",
        /// See [`Decision::Discard`].
        Discard = "discard",
        /// See [`Decision::PageHuman`].
        PageHuman = "page-human",
        /// See [`Decision::Resolve`].
        Resolve = "resolve",
        /// See [`Decision::RunAgain`].
        RunAgain = "run-again",
    }
}

impl Decision {
    /// Its name.
    #[must_use]
    pub const fn kind(&self) -> DecisionKind {
        match self {
            Self::RetryOnFallback { .. } => DecisionKind::RetryOnFallback,
            Self::RetryAfterCheck { .. } => DecisionKind::RetryAfterCheck,
            Self::Reassign { .. } => DecisionKind::Reassign,
            Self::Park { .. } => DecisionKind::Park,
            Self::Discard { .. } => DecisionKind::Discard,
            Self::PageHuman { .. } => DecisionKind::PageHuman,
            Self::Resolve { .. } => DecisionKind::Resolve,
            Self::RunAgain { .. } => DecisionKind::RunAgain,
        }
    }
}

words! {
    /// Who decides.
    DeciderKind, "decider", "table, adviser, human" {
        /// The CEO's table.
        Table = "table",
        /// The CEO's language model, among the admissible decisions.
        Adviser = "adviser",
        /// A person.
        Human = "human",
    }
}

/// A decision as recorded with the task: what, by whom, why, and what else was considered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Its number among the decisions about this task, first = 1.
    pub number: u32,
    /// The round of the task it answers: a decision for another round is refused.
    pub generation: u32,
    /// What.
    #[serde(flatten)]
    pub decision: Decision,
    /// Who.
    pub by: DeciderKind,
    /// The person's name, when a person decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Why, one sentence a reason.
    pub reasons: Vec<String>,
    /// What else was admissible or considered, and why not.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// An alternative not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// What it was, in words, such as "reassign to backend".
    pub what: String,
    /// Why not.
    pub why: String,
}

/// A decision in a few words, such as "reassign to backend".
#[must_use]
pub fn in_words(decision: &Decision) -> String {
    match decision {
        Decision::RetryOnFallback { model } => format!("retry on {model}"),
        Decision::RetryAfterCheck { due, .. } => format!("retry at {due}"),
        Decision::Reassign { agent, .. } => format!("reassign to {agent}"),
        Decision::Park { until, .. } => format!("park until {until}"),
        Decision::Discard { .. } => "discard".to_owned(),
        Decision::PageHuman { .. } => "page a human".to_owned(),
        Decision::Resolve { .. } => "resolve".to_owned(),
        Decision::RunAgain { .. } => "run again".to_owned(),
    }
}
