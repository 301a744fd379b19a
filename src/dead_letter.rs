//! A task given up on, with everything needed to understand it and to run it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::retry::RetryPolicy;
use crate::task::{AgentName, Integration};

/// How things stood when a task was given up: the context an operator wants and cannot reconstruct later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// The state of each integration's breaker, as its word.
    #[serde(default)]
    pub breakers: BTreeMap<Integration, String>,
    /// The health of each agent, as its word.
    #[serde(default)]
    pub agents: BTreeMap<AgentName, String>,
    /// The policy in force, and who set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RetryPolicy>,
    /// Which level the policy came from, in words: "type code_review", "agent cto", "team default" …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy_from: String,
    /// The configuration's fingerprint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config: String,
}
