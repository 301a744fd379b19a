//! Who is on the stage besides models and the person on call: the other side of tools, and who knows what happened.
//!
//! A scenario file says nothing of tools; whoever plays one with agents that use them brings both sides along.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::stage::Shared;
use crate::llm::Request;
use crate::tools::ToolServer;

/// The others on a stage.
pub trait Cast: Send + Sync + fmt::Debug {
    /// The server of tools, for a process that starts now. What it did is in the books and outlives the process.
    fn tools(&self, stage: &Shared) -> Option<Arc<dyn ToolServer>>;

    /// The tools that a model which is well wants called next, with their arguments; none: it answers.
    fn wants(&self, request: &Request) -> Vec<(String, Value)>;

    /// Did the call under this key have its effect? And what a person who looked it up notes.
    fn happened(&self, stage: &Shared, key: &str) -> (bool, String);

    /// Is the process told before it ends, and how long may running work take then? None: it is killed.
    fn grace(&self) -> Option<Duration>;
}
