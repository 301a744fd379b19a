//! Calling tools, as far as the wires have it in common: what is sent of tools, calls and results, and what is read.
//!
//! A conversation begun with one vendor goes on with another, so nothing a vendor wrote is sent to anyone as it came:
//! names are made plain, arguments that were none are an empty object, and what only one vendor understands goes back
//! to that one.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::Request;
use crate::conversation::{Message, Opaque, ToolCall, ToolSpec, flattened};

/// The most calls one answer may make. More is a model that has lost itself, and would be work without end for us.
pub(crate) const CALLS_LIMIT: usize = 1_000;

/// A call as it is read: piece by piece, its arguments as text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Called {
    /// The vendor's name for it; empty where the vendor gives none.
    pub(crate) id: String,
    /// The tool.
    pub(crate) name: String,
    /// The arguments so far.
    pub(crate) arguments: String,
    /// What the vendor wants back with it.
    pub(crate) signature: Option<Opaque>,
}

impl Called {
    /// The call, once all of it is there.
    pub(crate) fn call(&self) -> ToolCall {
        let signature = self.signature.clone();
        ToolCall { signature, ..ToolCall::written(&*self.id, &*self.name, &self.arguments) }
    }
}

/// Arguments as text: some write an object, some a text that holds one, some both in their time.
pub(crate) fn written(arguments: Option<&Value>) -> String {
    match arguments {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other @ (Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Number(_))) => other.to_string(),
    }
}

/// The conversation as it may be sent: vendors refuse calls and results where no tools are offered.
pub(crate) fn conversation(request: &Request) -> Cow<'_, [Message]> {
    if request.tools.is_empty() { Cow::Owned(flattened(&request.messages)) } else { Cow::Borrowed(&request.messages) }
}

/// The schema of a tool's arguments as everybody takes it: an object that says so and names its properties. Tools
/// without arguments often say neither, which OpenAI and Anthropic refuse.
pub(crate) fn parameters(tool: &ToolSpec) -> Value {
    let mut schema = tool.schema.as_object().cloned().unwrap_or_default();
    schema.entry("type").or_insert_with(|| json!("object"));
    schema.entry("properties").or_insert_with(|| json!({}));
    Value::Object(schema)
}

/// The tools as OpenAI's chat and Ollama want them.
pub(crate) fn functions(tools: &[ToolSpec]) -> Value {
    let function = |tool: &ToolSpec| {
        json!({"type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": parameters(tool)}})
    };
    tools.iter().map(function).collect()
}

/// A called name as it may be said again: a model may have made one up that vendors refuse to hear.
pub(crate) fn name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    let plain: String = name.chars().take(64).map(plain).collect();
    if plain.is_empty() { "unnamed".to_owned() } else { plain }
}

/// The arguments as they may be said again. What was no object is an empty one; the result of the call tells the model.
pub(crate) fn arguments(call: &ToolCall) -> Value {
    match (&call.arguments, &call.malformed) {
        (arguments @ Value::Object(_), None) => arguments.clone(),
        (_, _) => Value::Object(Map::new()),
    }
}

/// What of these is this vendor's own.
pub(crate) fn own<'a>(opaque: &'a [Opaque], vendor: &'a str) -> impl Iterator<Item = &'a Value> {
    opaque.iter().filter(move |piece| piece.vendor == vendor).map(|piece| &piece.value)
}

/// Something for this vendor alone.
pub(crate) fn opaque(vendor: &str, value: Value) -> Opaque {
    Opaque { vendor: vendor.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_offered_can_be_said_again() {
        for (said, expected) in [
            ("read_file", "read_file"),
            ("functions.read file", "functions_read_file"),
            ("", "unnamed"),
            ("ä", "_"),
            (&*"x".repeat(80), &*"x".repeat(64)),
        ] {
            assert_eq!(name(said), expected, "{said}");
        }
    }

    #[test]
    fn schemas_say_that_they_are_objects_and_of_what() {
        for (schema, expected) in [
            (json!({}), json!({"type": "object", "properties": {}})),
            (json!({"type": "object"}), json!({"type": "object", "properties": {}})),
            (json!(true), json!({"type": "object", "properties": {}})),
            (
                json!({"properties": {"a": {}}, "required": ["a"]}),
                json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}),
            ),
        ] {
            let tool = ToolSpec { name: "t".to_owned(), description: String::new(), schema };
            assert_eq!(parameters(&tool), expected);
        }
    }
}
