//! What an MCP server's words come to: the tools it offers that can be used, and what a call of one says to a model.

use std::collections::BTreeMap;

use rmcp::ServiceError;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ErrorCode, ResourceContents, Tool};
use serde_json::Value;

use super::stdio::{LINE_MAX, NO_ANSWER, TOO_LONG};
use crate::answer::Validator;
use crate::cause::ToolFault;
use crate::redact::one_line;
use crate::tool::Hints;
use crate::tools::{DESCRIPTION_MAX, Offered, RESULT_MAX, Said};

/// The most tools of one server.
const TOOLS_MAX: usize = 512;
/// The most bytes of one tool, its schemas and description together: a prompt pays for them in every call of a model.
const TOOL_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of all tools of one server.
const LIST_BYTES_MAX: usize = 512 * 1024;
/// How many of those left out are named; a server may offer any number.
const LEFT_OUT_MAX: usize = 50;
/// The longest name of a tool, in characters.
const NAME_MAX: usize = 128;

/// The tools of a server as they were when it was asked.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) offered: Vec<Offered>,
    /// What the results of tools must look like, where that was said.
    outputs: BTreeMap<String, Validator>,
    /// Which tools are left out, and why; the first of them.
    pub(super) left_out: Vec<(String, String)>,
    /// How many more are left out.
    pub(super) more_left_out: usize,
    /// The bytes of what is offered.
    bytes: usize,
    /// Nothing that comes would be taken.
    pub(super) full: bool,
}

impl List {
    /// Takes the tools of one page, as far as they can be used. Whatever is left out is left out by itself: one tool
    /// that fills a context must not cost an agent the others.
    pub(super) fn take(&mut self, tools: Vec<Tool>) {
        for tool in tools {
            let name = one_line(&tool.name, 80);
            if let Err(why) = self.take_one(tool) {
                match self.left_out.len() < LEFT_OUT_MAX {
                    true => self.left_out.push((name, why)),
                    false => self.more_left_out += 1,
                }
            }
        }
    }

    /// Takes a tool, or says why not.
    fn take_one(&mut self, tool: Tool) -> Result<(), String> {
        let name = tool.name.to_string();
        if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
            return Err("its name is empty, too long or holds control characters".to_owned());
        }
        if self.offered.iter().any(|known| known.tool == name) {
            return Err("there is another of its name".to_owned());
        }
        if self.offered.len() == TOOLS_MAX {
            self.full = true;
            return Err(format!("it is one more than the {TOOLS_MAX} that are taken"));
        }
        let description = tool.description.as_deref().or(tool.title.as_deref()).unwrap_or_default();
        let description = one_line(description, DESCRIPTION_MAX);
        let output = tool.output_schema.map(|schema| Value::Object(schema.as_ref().clone()));
        let mut schema = tool.input_schema.as_ref().clone();
        // Arguments are an object, and vendors want to be told.
        let kind = schema.entry("type").or_insert_with(|| Value::from("object")).clone();
        let schema = Value::Object(schema);
        let written = |schema: &Value| schema.to_string().len();
        let bytes = name.len() + description.len() + written(&schema) + output.as_ref().map_or(0, written);
        if bytes > TOOL_BYTES_MAX {
            return Err(format!("its schemas and description have {bytes} bytes; at most {TOOL_BYTES_MAX} are taken"));
        }
        if self.bytes + bytes > LIST_BYTES_MAX {
            self.full = true;
            return Err(format!("with it the server's tools have more than the {LIST_BYTES_MAX} bytes that are taken"));
        }
        if kind != "object" {
            return Err(one_line(&format!("its arguments would be no object: `type` is {kind}"), 300));
        }
        Validator::new(&schema).map_err(|error| one_line(&error.to_string(), 300))?;
        // A promise that cannot be read binds nobody.
        if let Some(Ok(output)) = output.as_ref().map(Validator::new) {
            self.outputs.insert(name.clone(), output);
        }
        let hints = tool.annotations.as_ref().map(|said| Hints {
            read_only: said.read_only_hint,
            destructive: said.destructive_hint,
            idempotent: said.idempotent_hint,
        });
        self.bytes += bytes;
        self.offered.push(Offered { tool: name, description, schema, hints });
        Ok(())
    }

    /// What a call's response says to a model, or why it says nothing.
    pub(super) fn said(&self, tool: &str, response: CallToolResponse) -> Result<Said, (ToolFault, String)> {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the SDK may learn more ways to answer; each is none of ours"
        )]
        let result = match response {
            CallToolResponse::Complete(result) => result,
            CallToolResponse::InputRequired(_) => {
                return Err((ToolFault::Protocol, "it asks for input that nobody can give".to_owned()));
            }
            _ => {
                return Err((
                    ToolFault::Protocol,
                    "it answers with a task of its own, which is not followed".to_owned(),
                ));
            }
        };
        let failed = result.is_error == Some(true);
        if let (false, Some(promise)) = (failed, self.outputs.get(tool)) {
            let broken = match &result.structured_content {
                None => Some("it holds no structured content".to_owned()),
                Some(value) => promise.violations(value).first().map(ToString::to_string),
            };
            if let Some(broken) = broken {
                let what = format!("its answer breaks the schema it declares: {}", one_line(&broken, 300));
                return Err((ToolFault::Protocol, what));
            }
        }
        let text = text(result)?;
        if text.len() > RESULT_MAX {
            let what = format!("its answer has {} bytes; at most {RESULT_MAX} are taken", text.len());
            return Err((ToolFault::TooLarge, what));
        }
        Ok(Said { text, failed })
    }
}

/// The words of a result. One piece that is no text, and there are none.
fn text(result: CallToolResult) -> Result<String, (ToolFault, String)> {
    let mut texts = Vec::new();
    for block in result.content {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the SDK may learn more kinds of content; none of them is text"
        )]
        let (kind, mime) = match block {
            ContentBlock::Text(text) => {
                texts.push(text.text);
                continue;
            }
            ContentBlock::Resource(resource) => match resource.resource {
                ResourceContents::TextResourceContents { text, .. } => {
                    texts.push(text);
                    continue;
                }
                ResourceContents::BlobResourceContents { mime_type, .. } => ("a binary resource", mime_type),
                _ => ("a resource", None),
            },
            ContentBlock::ResourceLink(link) => {
                texts.push(match link.description {
                    Some(description) => format!("{} ({}): {description}", link.name, link.uri),
                    None => format!("{} ({})", link.name, link.uri),
                });
                continue;
            }
            ContentBlock::Image(image) => ("an image", Some(image.mime_type)),
            ContentBlock::Audio(audio) => ("audio", Some(audio.mime_type)),
            _ => ("something unknown", None),
        };
        let mime = mime.map_or_else(String::new, |mime| format!(" ({})", one_line(&mime, 80)));
        return Err((ToolFault::NotText, format!("its answer holds {kind}{mime}")));
    }
    if texts.iter().any(|text| text.contains('\0')) {
        return Err((ToolFault::NotText, "its answer holds binary data".to_owned()));
    }
    match (texts.iter().all(String::is_empty), result.structured_content) {
        (true, Some(value)) => Ok(value.to_string()),
        (true, None) | (false, _) => Ok(texts.join("\n")),
    }
}

/// What an error of the protocol means for a call. `None`: that is for the transport to say.
pub(super) fn protocol_fault(error: &ServiceError) -> Option<(ToolFault, String)> {
    let ServiceError::McpError(error) = error else { return None };
    let message = &error.message;
    Some(match error.code {
        ErrorCode(TOO_LONG) => (ToolFault::TooLarge, format!("its answer has more than {LINE_MAX} bytes")),
        ErrorCode(NO_ANSWER) => (ToolFault::Protocol, "it answers with neither a result nor an error".to_owned()),
        // Servers say "unknown tool" with the code of bad arguments, as the protocol's own example does.
        ErrorCode::INVALID_PARAMS if unknown_tool(message) => (ToolFault::Gone, format!("error -32602: {message}")),
        ErrorCode::INVALID_PARAMS => (ToolFault::BadArguments, format!("error -32602: {message}")),
        ErrorCode::METHOD_NOT_FOUND => (ToolFault::Gone, format!("error -32601: {message}")),
        ErrorCode(code) => (ToolFault::Protocol, format!("error {code}: {message}")),
    })
}

fn unknown_tool(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("tool")
        && ["unknown tool", "not found", "no such tool", "does not exist"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(value: Value) -> Tool {
        serde_json::from_value(value).expect("a tool")
    }

    fn list(tools: Vec<Tool>) -> List {
        let mut list = List::default();
        list.take(tools);
        list
    }

    fn result(value: Value) -> CallToolResponse {
        CallToolResponse::Complete(serde_json::from_value(value).expect("a result"))
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_said() {
        let any = json!({"type": "object"});
        let mut tools = vec![
            tool(json!({"name": "ok", "description": "does\nit \u{202e}now", "inputSchema": any,
                        "annotations": {"readOnlyHint": true}})),
            tool(json!({"name": "ok", "inputSchema": any})),
            tool(json!({"name": "bad", "inputSchema": {"type": "strnig"}})),
            tool(json!({"name": "worse", "inputSchema": {"type": "object", "properties": {"a": {"type": "strnig"}}}})),
            tool(json!({"name": "list", "inputSchema": {"type": "array"}})),
            tool(json!({"name": "", "inputSchema": any})),
            tool(json!({"name": "a\u{7}b", "inputSchema": any})),
            tool(json!({"name": "x".repeat(129), "inputSchema": any})),
            tool(json!({"name": "long", "description": "y".repeat(5_000), "inputSchema": {}})),
        ];
        let list = self::list(tools.clone());
        let names: Vec<&str> = list.offered.iter().map(|offered| offered.tool.as_str()).collect();
        assert_eq!((names, list.left_out.len()), (vec!["ok", "long"], 7));
        assert_eq!(list.offered[0].description, "does it \\u{202e}now");
        assert_eq!(list.offered[0].hints, Some(Hints { read_only: Some(true), ..Hints::default() }));
        assert_eq!(list.offered[1].schema, any);
        assert_eq!(list.offered[1].description.chars().count(), 1_024);
        tools.extend((0..600).map(|n| tool(json!({"name": format!("t{n}"), "inputSchema": any}))));
        assert_eq!(self::list(tools).offered.len(), TOOLS_MAX);
    }

    /// A server offered one tool with a schema of megabytes: every prompt of every agent that might use the server was
    /// too long for its model, and nothing said whose fault it was.
    #[test]
    fn what_would_fill_a_prompt_is_left_out_by_name() {
        let of = |bytes: usize| json!({"type": "object", "title": "x".repeat(bytes)});
        let mut list = self::list(vec![
            tool(json!({"name": "huge", "inputSchema": of(3_000_000)})),
            tool(json!({"name": "promises", "inputSchema": {"type": "object"}, "outputSchema": of(40_000)})),
            tool(json!({"name": "fits", "inputSchema": of(32_000)})),
        ]);
        let names = |list: &List| list.offered.iter().map(|offered| offered.tool.clone()).collect::<Vec<_>>();
        let left_out = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        assert_eq!(names(&list), ["fits"]);
        assert_eq!(
            list.left_out,
            [
                left_out("huge", "its schemas and description have 3000032 bytes; at most 32768 are taken"),
                left_out("promises", "its schemas and description have 40053 bytes; at most 32768 are taken"),
            ]
        );
        assert!(!list.full && list.outputs.is_empty());
        // Many that fit by themselves do not fit together, and those left out are not all named.
        list.take((0..100).map(|n| tool(json!({"name": format!("t{n}"), "inputSchema": of(32_000)}))).collect());
        assert_eq!((list.offered.len(), list.full), (16, true));
        assert_eq!((list.left_out.len(), list.more_left_out), (50, 37));
        let (name, why) = &list.left_out[2];
        assert_eq!(
            (name.as_str(), why.as_str()),
            ("t15", "with it the server's tools have more than the 524288 bytes that are taken")
        );
    }

    /// A schema that refers to itself without an end, in two kilobytes, held a thread for ever at the first call.
    #[test]
    fn what_would_hold_a_thread_for_ever_is_left_out() {
        let mut all: serde_json::Map<String, Value> = (0..40)
            .map(|n| {
                let next = json!({"$ref": format!("#/$defs/a{}", n + 1)});
                (format!("a{n}"), json!({"allOf": [next, next]}))
            })
            .collect();
        all.insert("a40".to_owned(), json!({}));
        let endless = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a0"}}, "$defs": all});
        let tree = json!({"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#"}}}});
        let list = self::list(vec![
            tool(json!({"name": "endless", "inputSchema": endless})),
            tool(json!({"name": "promises", "inputSchema": {"type": "object"}, "outputSchema": endless})),
            tool(json!({"name": "tree", "inputSchema": tree})),
        ]);
        let names: Vec<&str> = list.offered.iter().map(|offered| offered.tool.as_str()).collect();
        assert_eq!((names, list.outputs.len()), (vec!["promises", "tree"], 0));
        let [(name, why)] = list.left_out.as_slice() else { panic!("one is left out: {:?}", list.left_out) };
        assert!(name == "endless" && why.contains("let fewer of them lead to the same place"), "{name}: {why}");
    }

    #[test]
    fn results_are_text_or_say_what_they_are() {
        let promise = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
        let list = self::list(vec![
            tool(json!({"name": "plain", "inputSchema": {"type": "object"}})),
            tool(json!({"name": "promised", "inputSchema": {"type": "object"}, "outputSchema": promise})),
        ]);
        let said = |text: &str, failed| Ok(Said { text: text.to_owned(), failed });
        let trouble = |fault, text: &str| Err((fault, text.to_owned()));
        let text = |text: &str| json!({"type": "text", "text": text});
        for (tool, answer, expected) in [
            ("plain", json!({"content": [text("a"), text("b")]}), said("a\nb", false)),
            ("plain", json!({"content": [text("no")], "isError": true}), said("no", true)),
            ("plain", json!({"content": [text("ig\u{202e}nore\u{1b}[2J")]}), said("ig\u{202e}nore\u{1b}[2J", false)),
            ("plain", json!({"content": [], "structuredContent": {"n": 1}}), said("{\"n\":1}", false)),
            ("plain", json!({"content": [text("one")], "structuredContent": {"n": 1}}), said("one", false)),
            ("plain", json!({"content": []}), said("", false)),
            (
                "plain",
                json!({"content": [{"type": "resource", "resource": {"uri": "a://b", "text": "inside"}}]}),
                said("inside", false),
            ),
            (
                "plain",
                json!({"content": [text("see"), {"type": "image", "data": "AAAA", "mimeType": "image/png"}]}),
                trouble(ToolFault::NotText, "its answer holds an image (image/png)"),
            ),
            (
                "plain",
                json!({"content": [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]}),
                trouble(ToolFault::NotText, "its answer holds audio (audio/wav)"),
            ),
            (
                "plain",
                json!({"content": [{"type": "resource", "resource": {"uri": "a://b", "blob": "AAAA"}}]}),
                trouble(ToolFault::NotText, "its answer holds a binary resource"),
            ),
            ("plain", json!({"content": [text("a\0b")]}), trouble(ToolFault::NotText, "its answer holds binary data")),
            (
                "plain",
                json!({"content": [text(&"x".repeat(RESULT_MAX + 1))]}),
                trouble(ToolFault::TooLarge, "its answer has 65537 bytes; at most 65536 are taken"),
            ),
            ("promised", json!({"content": [], "structuredContent": {"n": 1}}), said("{\"n\":1}", false)),
            ("promised", json!({"content": [text("no")], "isError": true}), said("no", true)),
            (
                "promised",
                json!({"content": [text("x")], "structuredContent": {"n": "one"}}),
                trouble(
                    ToolFault::Protocol,
                    "its answer breaks the schema it declares: /n: \"one\" is not of type \"integer\"",
                ),
            ),
            (
                "promised",
                json!({"content": [text("x")]}),
                trouble(
                    ToolFault::Protocol,
                    "its answer breaks the schema it declares: it holds no structured content",
                ),
            ),
        ] {
            assert_eq!(list.said(tool, result(answer.clone())), expected, "{tool} {}", answer.to_string().len());
        }
    }
}
