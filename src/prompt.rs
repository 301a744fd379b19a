//! What we say to models: prompt templates, rendered strictly, with the failure in them when there was one.

use serde_json::Value;

use crate::task::Effect;

/// A prompt as defined: `prompts/<name>.md`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Its name, the stem of its file.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it wants to be given from the payload.
    pub arguments: Vec<Argument>,
    /// What doing it does to the world, unless the task type says otherwise.
    pub class: Option<Effect>,
    /// The schema its answer must meet.
    pub output_schema: Option<Value>,
    /// The template.
    pub body: String,
}

/// An argument of a prompt; the shape of MCP's `PromptArgument`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Must it be given?
    pub required: bool,
}
