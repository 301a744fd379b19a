//! An incident: one per cause, triggered, acknowledged or overridden, resolved; and the pages it sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{AgentName, TaskId, words};
use crate::time::Timestamp;

words! {
    /// Where an incident stands.
    IncidentState, "incident state", "triggered, acknowledged, overridden, resolved" {
        /// A human was called and has not answered.
        Triggered = "triggered",
        /// A human has it.
        Acknowledged = "acknowledged",
        /// A human decided for all its tasks.
        Overridden = "overridden",
        /// It is over.
        Resolved = "resolved",
    }
}

words! {
    /// Why an incident was opened.
    Trigger, "trigger", "dead-letters, integration, judgement, ceo-down, test" {
        /// Three dead letters within the hour.
        DeadLetters = "dead-letters",
        /// An integration is unusable until somebody acts.
        Integration = "integration",
        /// A single task needs a person's judgement.
        Judgement = "judgement",
        /// The CEO itself died or stalls.
        CeoDown = "ceo-down",
        /// A person tries the pager.
        Test = "test",
    }
}

/// One incident, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name, such as `INC-1`.
    pub id: String,
    /// Why it was opened.
    pub trigger: Trigger,
    /// What it is about, beyond the trigger: an integration's name, a task's id; one open incident per (trigger, subject).
    pub subject: String,
    /// Where it stands.
    pub state: IncidentState,
    /// One sentence for the pager's screen.
    pub summary: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it last changed in a way a human should see.
    pub updated_at: Timestamp,
    /// The dead letters in it: (task, round).
    pub deaths: Vec<(TaskId, u32)>,
    /// Agents affected, with their number of dead letters.
    pub agents: BTreeMap<AgentName, u32>,
    /// What fails, most frequent first, such as "transient/overloaded via anthropic: 4".
    pub pattern: Vec<String>,
    /// What the human should do first.
    pub runbook: String,
    /// Who took it on or ended it, and when.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// How often it was sent again.
    #[serde(default)]
    pub repages: u32,
    /// When it is next sent again, unless somebody answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repage_at: Option<Timestamp>,
    /// When updates may next be sent (at most one per minute).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_at: Option<Timestamp>,
}

/// What a human said to an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What: acknowledged, overridden, resolved.
    pub state: IncidentState,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Their words.
    #[serde(default)]
    pub note: String,
}

words! {
    /// What a page does at the other end.
    PageAction, "page action", "trigger, update, acknowledge, resolve" {
        /// Calls somebody.
        Trigger = "trigger",
        /// Adds to a call already made.
        Update = "update",
        /// Says that somebody has it.
        Acknowledge = "acknowledge",
        /// Says that it is over.
        Resolve = "resolve",
    }
}

/// A page: one message of one incident for one channel, stored before it is sent and until it is delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Its name in the outbox.
    pub id: String,
    /// The incident as it was when the page was written.
    pub incident: Incident,
    /// The channel it goes through.
    pub channel: String,
    /// What it does there.
    pub action: PageAction,
    /// The same for every page of one incident: `backstop/<team>/<incident>`, at most 255 characters.
    pub dedup_key: String,
    /// Has this incident called before?
    pub again: bool,
    /// The escalation step it is for: 0 the first on call, 1 the next …
    pub level: u32,
    /// When it may be tried next.
    pub due: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// When it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// What the channel said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Given up: the channel refused it for good, or for too long.
    #[serde(default)]
    pub abandoned: bool,
}
