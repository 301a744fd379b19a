//! Tools over every wire: what is offered, what is called, and what comes of it.

use backstop::cause::{Cause, Fault, LlmFailure, Phase};
use backstop::config::Wire;
use backstop::failure::{Class, Kind};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::llm::{Message, Opaque, Progress, Reply, Request, ToolCall, ToolResult, ToolSpec};
use backstop::task::Effect;
use serde_json::{Value, json};

use crate::provider_stubs::{JSON, WIRES, build, clean, config, document, event, request, response, stops, stream};
use crate::support::{Play, Stub, response as http};

fn tools() -> Vec<ToolSpec> {
    let path = json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]});
    vec![
        ToolSpec { name: "read_file".to_owned(), description: "Reads a file.".to_owned(), schema: path },
        ToolSpec { name: "list".to_owned(), description: "Lists.".to_owned(), schema: json!({"type": "object"}) },
    ]
}

pub(crate) fn offering(messages: Vec<Message>) -> Request {
    Request { messages, tools: tools(), ..request() }
}

fn call(id: &str, name: &str, arguments: Value) -> ToolCall {
    ToolCall { id: id.to_owned(), name: name.to_owned(), arguments, malformed: None, signature: None }
}

pub(crate) fn result(id: &str, name: &str, text: &str, failed: bool) -> ToolResult {
    ToolResult { id: id.to_owned(), name: name.to_owned(), text: text.to_owned(), failed }
}

fn opaque(vendor: &str, value: Value) -> Opaque {
    Opaque { vendor: vendor.to_owned(), value }
}

/// Asks a stub that plays this, on behalf of this integration.
pub(crate) async fn asked(
    integration: &str,
    wire: Wire,
    plays: Vec<Play>,
    request: &Request,
) -> Result<Reply, Box<LlmFailure>> {
    let stub = Stub::playing(plays).await;
    let provider = build(integration, &config(wire, &stub.url())).expect("a sound configuration");
    provider.ask(request, &Progress::default()).await
}

/// What goes out for this request, on behalf of this integration.
pub(crate) async fn sent(integration: &str, wire: Wire, request: &Request) -> Value {
    let stub = Stub::answering(200, JSON, &document(wire, "{}", stops(wire).0)).await;
    let provider = build(integration, &config(wire, &stub.url())).expect("a sound configuration");
    provider.ask(request, &Progress::default()).await.expect("an answer");
    stub.heard()[0].json()
}

fn whole(body: &Value) -> Vec<Play> {
    vec![Play::Send(http(200, JSON, &body.to_string())), Play::Close]
}

// What goes out.

/// Two calls at once, one of them nonsense and one failed, then a word of the asker's.
fn history() -> Vec<Message> {
    let nonsense = ToolCall::written("s00010001", "read file", "{\"path\":");
    vec![
        Message::user("Review it."),
        Message::Assistant {
            text: "I look.".to_owned(),
            calls: vec![call("s00010000", "list", json!({"depth": 2})), nonsense],
            opaque: Vec::new(),
        },
        Message::Results {
            results: vec![
                result("s00010000", "list", "a.rs", false),
                result("s00010001", "read file", "the arguments are no object", true),
            ],
        },
        Message::user("Be brief."),
    ]
}

#[tokio::test]
async fn tools_calls_and_results_go_out_in_the_form_of_each_wire() {
    let path = json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]});
    let none = json!({"type": "object", "properties": {}});
    let functions = json!([
        {"type": "function", "function": {"name": "read_file", "description": "Reads a file.", "parameters": path}},
        {"type": "function", "function": {"name": "list", "description": "Lists.", "parameters": none}},
    ]);
    for wire in WIRES {
        let schema = Some(json!({"type": "object"}));
        let body = sent("stub", wire, &Request { schema: schema.clone(), ..offering(history()) }).await;
        let expected = match wire {
            Wire::Anthropic => json!({
                "model": "model-1", "max_tokens": 64, "system": "Be brief.", "stream": true,
                "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
                "tools": [
                    {"name": "read_file", "description": "Reads a file.", "input_schema": path},
                    {"name": "list", "description": "Lists.", "input_schema": none},
                ],
                "messages": [
                    {"role": "user", "content": "Review it."},
                    {"role": "assistant", "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "s00010000", "name": "list", "input": {"depth": 2}},
                        {"type": "tool_use", "id": "s00010001", "name": "read_file", "input": {}},
                    ]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "s00010000", "content": "a.rs"},
                        {"type": "tool_result", "tool_use_id": "s00010001", "content": "the arguments are no object", "is_error": true},
                        {"type": "text", "text": "Be brief."},
                    ]},
                ],
            }),
            // The schema would forbid calls at most servers that are merely compatible.
            Wire::OpenAi => json!({
                "model": "model-1", "max_tokens": 64, "stream": true, "stream_options": {"include_usage": true},
                "tools": functions,
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Review it."},
                    {"role": "assistant", "content": "I look.", "tool_calls": [
                        {"id": "s00010000", "type": "function", "function": {"name": "list", "arguments": "{\"depth\":2}"}},
                        {"id": "s00010001", "type": "function", "function": {"name": "read_file", "arguments": "{}"}},
                    ]},
                    {"role": "tool", "tool_call_id": "s00010000", "content": "a.rs"},
                    {"role": "tool", "tool_call_id": "s00010001", "content": "the arguments are no object"},
                    {"role": "user", "content": "Be brief."},
                ],
            }),
            Wire::Responses => json!({
                "model": "model-1", "max_output_tokens": 64, "stream": true, "store": false, "instructions": "Be brief.",
                "include": ["reasoning.encrypted_content"],
                "tools": [
                    {"type": "function", "name": "read_file", "description": "Reads a file.", "parameters": path, "strict": false},
                    {"type": "function", "name": "list", "description": "Lists.", "parameters": none, "strict": false},
                ],
                "input": [
                    {"type": "message", "role": "user", "content": "Review it."},
                    {"type": "message", "role": "assistant", "content": "I look."},
                    {"type": "function_call", "call_id": "s00010000", "name": "list", "arguments": "{\"depth\":2}"},
                    {"type": "function_call", "call_id": "s00010001", "name": "read_file", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "s00010000", "output": "a.rs"},
                    {"type": "function_call_output", "call_id": "s00010001", "output": "the arguments are no object"},
                    {"type": "message", "role": "user", "content": "Be brief."},
                ],
            }),
            Wire::Gemini => json!({
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "generationConfig": {"maxOutputTokens": 64},
                "tools": [{"functionDeclarations": [
                    {"name": "read_file", "description": "Reads a file.", "parametersJsonSchema": path},
                    {"name": "list", "description": "Lists.", "parametersJsonSchema": none},
                ]}],
                "contents": [
                    {"role": "user", "parts": [{"text": "Review it."}]},
                    {"role": "model", "parts": [
                        {"text": "I look."},
                        {"functionCall": {"id": "s00010000", "name": "list", "args": {"depth": 2}},
                            "thoughtSignature": "skip_thought_signature_validator"},
                        {"functionCall": {"id": "s00010001", "name": "read_file", "args": {}}},
                    ]},
                    {"role": "user", "parts": [
                        {"functionResponse": {"id": "s00010000", "name": "list", "response": {"output": "a.rs"}}},
                        {"functionResponse": {"id": "s00010001", "name": "read_file", "response": {"error": "the arguments are no object"}}},
                    ]},
                    {"role": "user", "parts": [{"text": "Be brief."}]},
                ],
            }),
            Wire::Ollama => json!({
                "model": "model-1", "stream": true, "options": {"num_predict": 64}, "tools": functions,
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Review it."},
                    {"role": "assistant", "content": "I look.", "tool_calls": [
                        {"id": "s00010000", "function": {"name": "list", "arguments": {"depth": 2}}},
                        {"id": "s00010001", "function": {"name": "read_file", "arguments": {}}},
                    ]},
                    {"role": "tool", "tool_name": "list", "tool_call_id": "s00010000", "content": "a.rs"},
                    {"role": "tool", "tool_name": "read_file", "tool_call_id": "s00010001", "content": "the arguments are no object"},
                    {"role": "user", "content": "Be brief."},
                ],
            }),
        };
        assert_eq!(body, expected, "{wire:?}");
    }
}

#[tokio::test]
async fn without_tools_on_offer_a_conversation_is_told_as_text() {
    for wire in WIRES {
        let body = sent("stub", wire, &Request { messages: history(), ..request() }).await;
        assert_eq!(body.get("tools"), None);
        let text = body.to_string();
        assert!(text.contains("[called list with {\\\"depth\\\":2}]") && text.contains("[list returned]"), "{text}");
        for word in ["tool_use", "tool_calls", "function_call", "functionCall", "tool_name"] {
            assert!(!text.contains(word), "{wire:?}: {word} in {text}");
        }
    }
}

#[tokio::test]
async fn vendors_of_the_openai_wire_have_manners_of_their_own() {
    // OpenAI itself, here at Azure, can do both: a schema for the answer, and calls before it.
    for wire in [Wire::OpenAi, Wire::Responses] {
        let asks = Request { schema: Some(json!({"type": "string"})), ..offering(history()) };
        let body = sent("azure-openai", wire, &asks).await;
        assert!(body["tools"].is_array());
        assert!(body.get("response_format").or(body.get("text")).is_some(), "{body}");
    }

    // Mistral refuses a user who speaks right after a tool.
    let body = sent("mistral", Wire::OpenAi, &offering(history())).await;
    let messages = body["messages"].as_array().expect("messages");
    assert_eq!(
        messages.last(),
        Some(
            &json!({"role": "tool", "tool_call_id": "s00010001", "content": "the arguments are no object\n\nBe brief."})
        )
    );

    // DeepSeek wants the thoughts of turns with calls back, if there were none then empty ones.
    let thinks = json!({"choices": [{"message": {"content": null, "reasoning_content": "hm", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "list", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}]});
    let reply = asked("deepseek", Wire::OpenAi, whole(&thinks), &offering(vec![Message::user("Look.")])).await;
    let reply = reply.expect("calls");
    assert_eq!(reply.opaque, [opaque("deepseek", json!("hm"))]);
    for (opaque, integration, expected) in [
        (reply.opaque, "deepseek", json!("hm")),
        (Vec::new(), "deepseek", json!("")),
        (vec![opaque("deepseek", json!("hm"))], "stub", Value::Null),
    ] {
        let mut messages = history();
        if let Message::Assistant { opaque: own, .. } = &mut messages[1] {
            *own = opaque;
        }
        let body = sent(integration, Wire::OpenAi, &offering(messages)).await;
        assert_eq!(body["messages"][2]["reasoning_content"], expected, "{integration}");
    }
}

// What comes.

/// An answer of "I look." and two calls at once: in pieces as its vendor streams them, and whole.
pub(crate) fn calling(wire: Wire) -> (Vec<String>, Value) {
    let named = |name: &str, data: &Value| event(wire, Some(name), &data.to_string());
    let plain = |data: &Value| event(wire, None, &data.to_string());
    match wire {
        Wire::Anthropic => {
            let block = |index: u64, block: Value, deltas: &[Value]| {
                let start = named(
                    "content_block_start",
                    &json!({"type": "content_block_start", "index": index, "content_block": block}),
                );
                let deltas = deltas.iter().map(|delta| {
                    named(
                        "content_block_delta",
                        &json!({"type": "content_block_delta", "index": index, "delta": delta}),
                    )
                });
                let stop = named("content_block_stop", &json!({"type": "content_block_stop", "index": index}));
                std::iter::once(start).chain(deltas).chain([stop]).collect::<Vec<_>>()
            };
            let input = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
            let events = [
                vec![named("message_start", &json!({"type": "message_start", "message": {"model": "claude"}}))],
                block(
                    0,
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    &[
                        json!({"type": "thinking_delta", "thinking": "h"}),
                        json!({"type": "thinking_delta", "thinking": "m"}),
                        json!({"type": "signature_delta", "signature": "c2ln"}),
                    ],
                ),
                block(1, json!({"type": "redacted_thinking", "data": "secret"}), &[]),
                block(2, json!({"type": "text", "text": ""}), &[json!({"type": "text_delta", "text": "I look."})]),
                block(
                    3,
                    json!({"type": "tool_use", "id": "v1", "name": "read_file", "input": {}}),
                    &[input("{\"path\":"), input(" \"a.rs\"}")],
                ),
                block(4, json!({"type": "tool_use", "id": "v2", "name": "list", "input": {}}), &[input("")]),
                vec![
                    named("message_delta", &json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}})),
                    named("message_stop", &json!({"type": "message_stop"})),
                ],
            ];
            let content = json!([
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "secret"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "v1", "name": "read_file", "input": {"path": "a.rs"}},
                {"type": "tool_use", "id": "v2", "name": "list", "input": {}},
            ]);
            (
                events.concat(),
                json!({"type": "message", "model": "claude", "content": content, "stop_reason": "tool_use"}),
            )
        }
        Wire::OpenAi => {
            let delta = |delta: Value, finish: Value| {
                plain(&json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
            };
            let piece = |index: u64, arguments: &str| {
                delta(json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}), Value::Null)
            };
            let begun = |index: u64, id: &str, name: &str| {
                delta(
                    json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]}),
                    Value::Null,
                )
            };
            let events = vec![
                delta(json!({"role": "assistant", "content": "I look."}), Value::Null),
                begun(0, "v1", "read_file"),
                begun(1, "v2", "list"),
                // Interleaved.
                piece(0, "{\"path\":"),
                piece(1, "{"),
                piece(0, " \"a.rs\"}"),
                piece(1, "}"),
                delta(json!({}), json!("tool_calls")),
                event(wire, None, "[DONE]"),
            ];
            let calls = json!([
                {"id": "v1", "type": "function", "function": {"name": "read_file", "arguments": "{\"path\": \"a.rs\"}"}},
                {"id": "v2", "type": "function", "function": {"name": "list", "arguments": "{}"}},
            ]);
            let message = json!({"role": "assistant", "content": "I look.", "tool_calls": calls});
            (events, json!({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}))
        }
        Wire::Responses => {
            let output = json!([
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA", "status": "completed"},
                {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
                {"type": "function_call", "id": "fc_1", "call_id": "v1", "name": "read_file", "arguments": "{\"path\": \"a.rs\"}", "status": "completed"},
                {"type": "function_call", "id": "fc_2", "call_id": "v2", "name": "list", "arguments": "{}", "status": "completed"},
            ]);
            let begun = |index: usize, item: Value| json!({"type": "response.output_item.added", "output_index": index, "item": item});
            let done = |index: usize| json!({"type": "response.output_item.done", "output_index": index, "item": output[index]});
            let piece = |index: usize, delta: &str| json!({"type": "response.function_call_arguments.delta", "output_index": index, "delta": delta});
            let events = [
                json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}),
                // What is encrypted is not whole before the item is done.
                begun(0, json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gA"})),
                done(0),
                begun(1, json!({"type": "message", "content": []})),
                json!({"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "I look."}),
                done(1),
                begun(2, json!({"type": "function_call", "call_id": "v1", "name": "read_file", "arguments": ""})),
                begun(3, json!({"type": "function_call", "call_id": "v2", "name": "list", "arguments": ""})),
                piece(2, "{\"path\":"),
                piece(3, "{}"),
                piece(2, " \"a.rs\"}"),
                json!({"type": "response.function_call_arguments.done", "output_index": 2, "arguments": "{\"path\": \"a.rs\"}"}),
                done(2),
                done(3),
                json!({"type": "response.completed", "response": response(output.clone(), "completed")}),
            ];
            let events = events.iter().map(|data| named(data["type"].as_str().expect("a type"), data)).collect();
            (events, response(output, "completed"))
        }
        Wire::Gemini => {
            let call =
                |id: &str, name: &str, args: Value| json!({"functionCall": {"id": id, "name": name, "args": args}});
            let mut first = call("v1", "read_file", json!({"path": "a.rs"}));
            first["thoughtSignature"] = json!("Y2FsbA==");
            let second = call("v2", "list", json!({}));
            let signed = json!({"text": "look.", "thoughtSignature": "dGV4dA=="});
            let parts = |parts: Value| json!({"candidates": [{"content": {"role": "model", "parts": parts}}]});
            let events = vec![
                plain(&parts(json!([{"text": "hm", "thought": true}, {"text": "I "}]))),
                plain(&parts(json!([signed]))),
                plain(&parts(json!([first]))),
                plain(&parts(json!([second]))),
                plain(&json!({"candidates": [{"finishReason": "STOP"}]})),
            ];
            let content = json!({"role": "model", "parts": [{"text": "I "}, signed, first, second]});
            (events, json!({"candidates": [{"content": content, "finishReason": "STOP"}]}))
        }
        Wire::Ollama => {
            let calls = json!([
                {"id": "v1", "function": {"index": 0, "name": "read_file", "arguments": {"path": "a.rs"}}},
                {"id": "v2", "function": {"index": 1, "name": "list", "arguments": {}}},
            ]);
            let events = vec![
                plain(&json!({"message": {"role": "assistant", "content": "I look."}, "done": false})),
                plain(
                    &json!({"message": {"role": "assistant", "content": "", "tool_calls": [calls[0]]}, "done": false}),
                ),
                plain(
                    &json!({"message": {"role": "assistant", "content": "", "tool_calls": [calls[1]]}, "done": false}),
                ),
                plain(&json!({"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop"})),
            ];
            let message = json!({"role": "assistant", "content": "I look.", "tool_calls": calls});
            (events, json!({"message": message, "done": true, "done_reason": "stop"}))
        }
    }
}

/// What only its vendor understands of such an answer.
fn thoughts(wire: Wire) -> Vec<Opaque> {
    match wire {
        Wire::Anthropic => vec![
            opaque("anthropic", json!({"type": "thinking", "thinking": "hm", "signature": "c2ln"})),
            opaque("anthropic", json!({"type": "redacted_thinking", "data": "secret"})),
        ],
        Wire::Responses => {
            let thought = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"});
            vec![opaque("responses", thought)]
        }
        Wire::Gemini => vec![opaque("gemini", json!({"thoughtSignature": "dGV4dA==", "from": 2, "to": 7}))],
        Wire::OpenAi | Wire::Ollama => Vec::new(),
    }
}

#[tokio::test]
async fn two_calls_at_once_are_read_in_pieces_and_whole() {
    for wire in WIRES {
        let (events, body) = calling(wire);
        let mut first = call("v1", "read_file", json!({"path": "a.rs"}));
        if wire == Wire::Gemini {
            first.signature = Some(opaque("gemini", json!("Y2FsbA==")));
        }
        for plays in [stream(wire, &events, &clean()), whole(&body)] {
            let reply = asked("stub", wire, plays, &offering(vec![Message::user("Look.")])).await;
            let reply = reply.unwrap_or_else(|failure| panic!("{wire:?}: {failure:?}"));
            assert_eq!(reply.text, "I look.", "{wire:?}");
            assert_eq!(reply.calls, [first.clone(), call("v2", "list", json!({}))], "{wire:?}");
            assert_eq!(reply.opaque, thoughts(wire), "{wire:?}");
        }
    }
}

/// One call with these arguments, as they are written, and this stop reason; `None` ends as a call ends.
fn one_call(wire: Wire, arguments: &str, stop: Option<&str>) -> Value {
    // Where arguments are no text, what is no JSON cannot come.
    let value: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
    match wire {
        Wire::Anthropic => {
            json!({"content": [{"type": "tool_use", "id": "v1", "name": "list", "input": value}], "stop_reason": stop.unwrap_or("tool_use")})
        }
        Wire::OpenAi => {
            let call = json!({"id": "v1", "function": {"name": "list", "arguments": arguments}});
            json!({"choices": [{"message": {"content": null, "tool_calls": [call]}, "finish_reason": stop.unwrap_or("tool_calls")}]})
        }
        Wire::Responses => {
            let call = json!({"type": "function_call", "call_id": "v1", "name": "list", "arguments": arguments});
            response(json!([call]), stop.unwrap_or("completed"))
        }
        Wire::Gemini => {
            let part = json!({"functionCall": {"id": "v1", "name": "list", "args": value}});
            json!({"candidates": [{"content": {"parts": [part]}, "finishReason": stop.unwrap_or("STOP")}]})
        }
        Wire::Ollama => {
            let call = json!({"id": "v1", "function": {"name": "list", "arguments": value}});
            json!({"message": {"content": "", "tool_calls": [call]}, "done": true, "done_reason": stop.unwrap_or("stop")})
        }
    }
}

#[tokio::test]
async fn arguments_that_are_no_object_are_given_back_as_such() {
    for wire in WIRES {
        for malformed in ["[1]", "7", "{\"a\": "] {
            let request = offering(vec![Message::user("Look.")]);
            let reply = asked("stub", wire, whole(&one_call(wire, malformed, None)), &request).await.expect("a call");
            let [call] = reply.calls.as_slice() else { panic!("{wire:?}: {reply:?}") };
            assert_eq!((&call.arguments, call.name.as_str()), (&json!({}), "list"));
            assert_eq!(call.malformed.as_deref(), Some(malformed), "{wire:?}");
        }
        for nothing in ["{}", "null", ""] {
            if nothing.is_empty() && !matches!(wire, Wire::OpenAi | Wire::Responses) {
                continue;
            }
            let request = offering(vec![Message::user("Look.")]);
            let reply = asked("stub", wire, whole(&one_call(wire, nothing, None)), &request).await.expect("a call");
            assert_eq!(reply.calls, [call("v1", "list", json!({}))], "{wire:?} {nothing:?}");
        }
    }
    // In pieces, the last of which is missing.
    let events = calling(Wire::Anthropic).0;
    let events: Vec<String> = events.into_iter().filter(|event| !event.contains("a.rs")).collect();
    let plays = stream(Wire::Anthropic, &events, &clean());
    let reply = asked("stub", Wire::Anthropic, plays, &offering(vec![Message::user("Look.")])).await.expect("calls");
    assert_eq!(reply.calls[0].malformed.as_deref(), Some("{\"path\":"));
    assert_eq!(reply.calls[1], call("v2", "list", json!({})));
}

/// What a failure comes to.
fn judged(failure: LlmFailure) -> (Class, Kind) {
    let at = failure.at;
    match classify(&Cause::Llm(Box::new(failure)), &Scene::new(Effect::ReadOnly, at)) {
        Judgement::Failed(failure) => (failure.class, failure.kind),
        other @ (Judgement::Cancelled | Judgement::Continue) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn half_a_call_is_an_answer_that_was_cut_whatever_stands_in_it() {
    for wire in WIRES {
        // Sound JSON, and yet perhaps not all of it.
        let (_, cut) = stops(wire);
        let request = offering(vec![Message::user("Look.")]);
        let outcome = asked("stub", wire, whole(&one_call(wire, "{\"path\":\"/\"}", Some(cut))), &request).await;
        let failure = *outcome.expect_err("a cut answer");
        assert_eq!((failure.fault, failure.phase, failure.stop.as_deref()), (Fault::Stop, Phase::Semantic, Some(cut)));
        assert_eq!(judged(failure), (Class::Validation, Kind::OutputCut), "{wire:?}");
    }
    // A stream that ends in the middle of a call.
    for wire in WIRES {
        let (mut events, _) = calling(wire);
        events.truncate(events.len() - if matches!(wire, Wire::Anthropic | Wire::OpenAi) { 2 } else { 1 });
        let request = offering(vec![Message::user("Look.")]);
        let failure = asked("stub", wire, stream(wire, &events, &clean()), &request).await.expect_err("a cut stream");
        assert_eq!((failure.fault, failure.partial.as_str()), (Fault::Truncated, "I look."), "{wire:?}");
    }
}

#[tokio::test]
async fn calls_that_nobody_offered_have_no_name_or_are_none_leave_no_answer() {
    let none = json!({"choices": [{"message": {"content": "So."}, "finish_reason": "tool_calls"}]});
    let nameless = json!({"choices": [{"message": {"tool_calls": [{"id": "v1", "function": {"arguments": "{}"}}]}, "finish_reason": "tool_calls"}]});
    for (body, tools, detail) in [
        (one_call(Wire::OpenAi, "{}", None), Vec::new(), "tools were called and none was offered: list"),
        (none, tools(), "stopped to call tools and called none"),
        (nameless, tools(), "a tool was called without a name"),
    ] {
        let request = Request { tools, ..request() };
        let failure = *asked("stub", Wire::OpenAi, whole(&body), &request).await.expect_err("no answer");
        assert_eq!((failure.fault, failure.detail.as_str()), (Fault::Stop, detail));
        assert_eq!(judged(failure), (Class::Validation, Kind::BadOutput));
    }
}

#[tokio::test]
async fn more_calls_than_anybody_needs_are_a_loop() {
    let many = |count: usize| -> Value {
        let call = |at: usize| json!({"id": format!("v{at}"), "function": {"name": "list", "arguments": "{}"}});
        let calls: Vec<Value> = (0..count).map(call).collect();
        json!({"choices": [{"message": {"content": null, "tool_calls": calls}, "finish_reason": "tool_calls"}]})
    };
    let request = offering(vec![Message::user("Look.")]);
    let reply = asked("stub", Wire::OpenAi, whole(&many(1_000)), &request).await.expect("as many as may be");
    assert_eq!(reply.calls.len(), 1_000);
    let failure = *asked("stub", Wire::OpenAi, whole(&many(1_001)), &request).await.expect_err("one too many");
    assert_eq!(failure.detail, "more than 1000 tool calls in one answer");
    assert_eq!(judged(failure), (Class::Logic, Kind::Loop));
    // In a stream it is not waited for the end, which does not come.
    let piece = |at: usize| json!({"choices": [{"delta": {"tool_calls": [{"index": at, "id": format!("v{at}"), "function": {"name": "list"}}]}}]});
    let events: Vec<String> = (0..1_001).map(|at| event(Wire::OpenAi, None, &piece(at).to_string())).collect();
    let plays = stream(Wire::OpenAi, &[events.concat()], &[Play::Hang]);
    let failure = *asked("stub", Wire::OpenAi, plays, &request).await.expect_err("one too many");
    assert_eq!(judged(failure), (Class::Logic, Kind::Loop));
}

#[tokio::test]
async fn servers_that_are_nearly_compatible_are_understood() {
    let chunk = |calls: Value, finish: Value| {
        let data = json!({"choices": [{"delta": {"tool_calls": calls}, "finish_reason": finish}]});
        event(Wire::OpenAi, None, &data.to_string())
    };
    for (what, events) in [
        (
            "one index for all, each call whole",
            vec![
                chunk(
                    json!([{"index": 0, "id": "v1", "function": {"name": "read_file", "arguments": "{\"path\": \"a.rs\"}"}}]),
                    Value::Null,
                ),
                chunk(
                    json!([{"index": 0, "id": "v2", "function": {"name": "list", "arguments": "{}"}}]),
                    json!("stop"),
                ),
            ],
        ),
        (
            "no index at all",
            vec![
                chunk(json!([{"id": "v1", "function": {"name": "read_file", "arguments": "{\"path\":"}}]), Value::Null),
                chunk(json!([{"function": {"arguments": " \"a.rs\"}"}}]), Value::Null),
                chunk(json!([{"id": "v2", "function": {"name": "list", "arguments": "{}"}}]), json!("tool_calls")),
            ],
        ),
        (
            "names with each piece, counted from one, and an object",
            vec![
                chunk(
                    json!([{"index": 1, "id": "v1", "function": {"name": "read_file", "arguments": "{\"path\":"}}]),
                    Value::Null,
                ),
                chunk(json!([{"index": 2, "id": "v2", "function": {"name": "list", "arguments": {}}}]), Value::Null),
                chunk(
                    json!([{"index": 1, "id": "v1", "function": {"name": "read_file", "arguments": " \"a.rs\"}"}}]),
                    json!("tool_calls"),
                ),
            ],
        ),
    ] {
        let request = offering(vec![Message::user("Look.")]);
        let reply = asked("stub", Wire::OpenAi, stream(Wire::OpenAi, &events, &clean()), &request).await.expect(what);
        let expected = [call("v1", "read_file", json!({"path": "a.rs"})), call("v2", "list", json!({}))];
        assert_eq!(reply.calls, expected, "{what}");
    }
    let body = one_call(Wire::Gemini, "{}", Some("FUNCTION_CALL"));
    let reply =
        asked("stub", Wire::Gemini, whole(&body), &offering(vec![Message::user("Look.")])).await.expect("a call");
    assert_eq!(reply.calls, [call("v1", "list", json!({}))]);
    // A server of the Responses wire that says nothing before the end.
    let (events, _) = calling(Wire::Responses);
    let plays = stream(Wire::Responses, &events[events.len() - 1..], &clean());
    let reply = asked("stub", Wire::Responses, plays, &offering(vec![Message::user("Look.")])).await.expect("calls");
    assert_eq!((reply.text.as_str(), reply.calls.len(), reply.opaque.len()), ("I look.", 2, 1));
}
