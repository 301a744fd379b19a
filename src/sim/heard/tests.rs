//! Requests of five vendors, read and complained of.

use serde_json::json;

use super::*;
use crate::sim::wire::WIRES;

const DRAW: Draw = Draw { dice: 7, words: 7, created: 1_790_000_000 };

fn door(wire: Wire) -> Door {
    let model = (wire == Wire::Gemini).then(|| "m-1".to_owned());
    Door { model, ..wire.into() }
}

fn heard(wire: Wire, body: &Value) -> Result<Incoming, String> {
    read(&door(wire), body.to_string().as_bytes(), DRAW).map_err(|refused| {
        assert_eq!(refused.status, 400);
        refused.pieces.concat()
    })
}

/// A request with a schema and a tool, as each vendor's own client writes it.
fn request(wire: Wire, extra: Value) -> Value {
    let schema = json!({"type": "object"});
    let (text, user) =
        (json!([{"type": "text", "text": "You are cto."}]), json!({"role": "user", "content": "BS-014"}));
    let system = json!({"role": "system", "content": "You are cto."});
    let function = json!([{"type": "function", "function": {"name": "look", "parameters": schema}}]);
    let mut body = match wire {
        Wire::Anthropic => json!({"model": "m-1", "max_tokens": 100, "system": text, "messages": [user],
            "tools": [{"name": "look", "input_schema": schema}],
            "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        Wire::OpenAi => json!({"model": "m-1", "messages": [system, user], "tools": function,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
        Wire::Responses => json!({"model": "m-1", "instructions": "You are cto.", "input": "BS-014",
            "tools": [{"type": "function", "name": "look", "parameters": schema}],
            "text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}}),
        Wire::Gemini => json!({"systemInstruction": {"parts": [{"text": "You are cto."}]},
            "contents": [{"role": "user", "parts": [{"text": "BS-014"}]}],
            "tools": [{"functionDeclarations": [{"name": "look", "parameters": {"type": "OBJECT"}}]}],
            "generationConfig": {"responseSchema": {"type": "OBJECT"}}}),
        Wire::Ollama => json!({"model": "m-1", "messages": [system, user], "tools": function, "format": schema}),
    };
    body.as_object_mut().expect("object").extend(extra.as_object().cloned().unwrap_or_default());
    body
}

#[test]
fn requests_are_read_as_rules_need_them() {
    for wire in WIRES {
        let heard = heard(wire, &request(wire, json!({}))).expect("a request");
        assert_eq!(heard.schema, Some(json!({"type": "object"})), "{wire:?}");
        assert_eq!(heard.tools, [Offered { name: "look".into(), parameters: json!({"type": "object"}) }]);
        assert_eq!(heard.asked.prompt.trim(), "You are cto.\nBS-014");
        assert_eq!((heard.asked.model.as_str(), heard.asked.turns), ("m-1", 0));
        assert_eq!(heard.asked.stream, wire == Wire::Ollama, "only Ollama streams unasked");
    }
    let generate = Door { form: Form::Generate, ..Wire::Ollama.into() };
    let body = json!({"model": "m-1", "system": "You are cto.", "prompt": "BS-014", "stream": false});
    let heard = read(&generate, body.to_string().as_bytes(), DRAW).expect("a request");
    assert_eq!((heard.asked.prompt.as_str(), heard.asked.stream), ("You are cto.\nBS-014", false));
}

#[test]
fn what_is_no_request_is_complained_of() {
    for (wire, body, complaint) in [
        (Wire::Anthropic, "{", "invalid JSON"),
        (Wire::Anthropic, "{}", "model"),
        (Wire::Anthropic, r#"{"model":"m"}"#, "messages"),
        (Wire::Anthropic, r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens"),
        (Wire::Anthropic, r#"{"model":"m","max_tokens":1,"messages":[{"role":"user"}]}"#, "content is required"),
        (Wire::OpenAi, r#"{"model":"m"}"#, "messages"),
        (Wire::Responses, r#"{"model":"m"}"#, "'input'"),
        (Wire::Responses, r#"{"input":"x"}"#, "model"),
        (Wire::Gemini, "{}", "contents is not specified"),
        (Wire::Ollama, "{}", "model is required"),
        (Wire::Ollama, r#"{"model":"m","messages":[]}"#, "messages"),
    ] {
        let refused = read(&door(wire), body.as_bytes(), DRAW).expect_err("not a request");
        assert_eq!(refused.status, 400);
        assert!(refused.pieces[0].contains(complaint), "{body}: {}", refused.pieces[0]);
    }
}

/// A conversation with one call and these results.
fn conversation(wire: Wire, results: &[&str]) -> Value {
    match wire {
        Wire::Anthropic => json!({"messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
            {"role": "user", "content": results.iter().map(|id| json!({"type": "tool_result", "tool_use_id": id, "content": "a cat"}))
                .chain([json!({"type": "text", "text": "And?"})]).collect::<Vec<_>>()},
        ]}),
        Wire::OpenAi | Wire::Ollama => {
            let call = json!({"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}});
            let mut messages =
                vec![json!({"role": "user", "content": "Look."}), json!({"role": "assistant", "tool_calls": [call]})];
            messages.extend(results.iter().map(|id| json!({"role": "tool", "tool_call_id": id, "content": "a cat"})));
            messages.push(json!({"role": "user", "content": "And?"}));
            json!({ "messages": messages })
        }
        Wire::Responses => {
            let mut input = vec![
                json!({"role": "user", "content": [{"type": "input_text", "text": "Look."}]}),
                json!({"type": "reasoning", "id": "r1", "summary": []}),
                json!({"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}),
            ];
            input.extend(
                results.iter().map(|id| json!({"type": "function_call_output", "call_id": id, "output": "a cat"})),
            );
            input.push(json!({"role": "user", "content": "And?"}));
            json!({ "input": input })
        }
        Wire::Gemini => json!({"contents": [
            {"role": "user", "parts": [{"text": "Look."}]},
            {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}}}]},
            {"role": "user", "parts": results.iter()
                .map(|_| json!({"functionResponse": {"name": "look", "response": {"output": "a cat"}}})).collect::<Vec<_>>()},
            {"role": "user", "parts": [{"text": "And?"}]},
        ]}),
    }
}

#[test]
fn results_of_tools_are_words_of_the_prompt_and_turns_are_counted() {
    for wire in WIRES {
        let asked = heard(wire, &request(wire, conversation(wire, &["c1"]))).expect("a request").asked;
        assert!(asked.prompt.contains("Look.") && asked.prompt.contains("a cat"), "{}", asked.prompt);
        assert_eq!((asked.last.as_str(), asked.turns), ("a cat\nAnd?\n", 1), "{wire:?}");
        assert_eq!(asked.tools, ["look"]);
    }
}

#[test]
fn calls_and_results_that_do_not_match_are_complained_of() {
    for (wire, results, complaint) in [
        (Wire::Anthropic, &[][..], "without `tool_result` blocks immediately after: c1"),
        (Wire::Anthropic, &["c1", "c2"], "unexpected `tool_use_id` found in `tool_result` blocks: c2"),
        (Wire::OpenAi, &[], "did not have response messages: c1"),
        (Wire::OpenAi, &["c1", "c2"], "must be a response to a preceeding message"),
        (Wire::Responses, &[], "No tool output found for function call c1."),
        (Wire::Responses, &["c1", "c2"], "No tool call found for function call output with call_id c2."),
        (Wire::Gemini, &[], "number of function response parts is equal"),
        (Wire::Gemini, &["c1", "c2"], "number of function response parts is equal"),
    ] {
        let refused = heard(wire, &request(wire, conversation(wire, results))).expect_err("refused");
        assert!(refused.contains(complaint), "{refused}");
    }
    let mut body = request(Wire::Anthropic, conversation(Wire::Anthropic, &["c1"]));
    body.as_object_mut().expect("object").remove("tools");
    assert!(heard(Wire::Anthropic, &body).expect_err("refused").contains("must define tools"));
}
