//! A conversation begun with one vendor goes on with every other: nothing in it is lost, nothing foreign is sent.

use backstop::config::{ProviderConfig, Wire};
use backstop::llm::{Message, Progress, Reply};
use backstop::sim::{Answer, Behaviour, OutageServer, Script, When};
use serde_json::{Value, json};

use crate::provider_stubs::{PATIENT, WIRES, build, clean, config, stream};
use crate::provider_tools::{asked, calling, offering, result, sent};

/// The conversation after this vendor's answer, with our names for the calls and a result for each.
async fn begun_with(wire: Wire) -> Vec<Message> {
    let (events, _) = calling(wire);
    let reply = asked("stub", wire, stream(wire, &events, &clean()), &offering(vec![Message::user("Look.")])).await;
    let Reply { text, mut calls, opaque, .. } = reply.expect("calls");
    for (index, call) in calls.iter_mut().enumerate() {
        call.id = backstop::conversation::call_id(1, index);
    }
    let results = calls.iter().map(|call| result(&call.id, &call.name, "done", false)).collect();
    vec![Message::user("Look."), Message::Assistant { text, calls, opaque }, Message::Results { results }]
}

/// Members of an object, sorted.
fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// What must hold of any request of the wire that has two calls and two results in it, as its documentation has it.
fn sound(wire: Wire, body: &Value) {
    let turns = match wire {
        Wire::Anthropic | Wire::OpenAi | Wire::Ollama => &body["messages"],
        Wire::Responses => &body["input"],
        Wire::Gemini => &body["contents"],
    };
    let turns: Vec<&Value> = turns.as_array().expect("turns").iter().filter(|turn| turn["role"] != "system").collect();
    let ids = ["s00010000", "s00010001"];
    let of = |parts: &Value, kind: &str, id: &str| -> Vec<String> {
        let parts = parts.as_array().expect("parts").iter().filter(|part| part["type"] == kind);
        parts.map(|part| part[id].as_str().expect("an id").to_owned()).collect()
    };
    match wire {
        Wire::Anthropic => {
            let [user, model, results] = turns.as_slice() else { panic!("{body}") };
            assert_eq!(
                (&user["role"], &model["role"], &results["role"]),
                (&json!("user"), &json!("assistant"), &json!("user"))
            );
            assert_eq!(of(&model["content"], "tool_use", "id"), ids);
            assert_eq!(of(&results["content"], "tool_result", "tool_use_id"), ids);
            // Thoughts stand first, and calls last.
            let kinds: Vec<&str> = model["content"]
                .as_array()
                .expect("blocks")
                .iter()
                .filter_map(|block| block["type"].as_str())
                .collect();
            let rank =
                |kind: &&str| ["thinking", "redacted_thinking", "text", "tool_use"].iter().position(|k| k == kind);
            assert!(kinds.is_sorted_by_key(rank) && kinds.iter().all(|kind| rank(kind).is_some()), "{kinds:?}");
        }
        Wire::OpenAi | Wire::Ollama => {
            let [user, model, first, second] = turns.as_slice() else { panic!("{body}") };
            assert_eq!((&user["role"], &model["role"]), (&json!("user"), &json!("assistant")));
            assert_eq!(members(model), ["content", "role", "tool_calls"]);
            let calls = model["tool_calls"].as_array().expect("calls");
            for (at, result) in [first, second].into_iter().enumerate() {
                assert_eq!((&result["role"], &result["tool_call_id"]), (&json!("tool"), &calls[at]["id"]));
                assert_eq!(calls[at]["id"], ids[at]);
                let arguments = &calls[at]["function"]["arguments"];
                assert!(
                    if wire == Wire::OpenAi { arguments.is_string() } else { arguments.is_object() },
                    "{arguments}"
                );
            }
        }
        Wire::Responses => {
            let kinds: Vec<&str> = turns.iter().filter_map(|item| item["type"].as_str()).collect();
            let calls = ["function_call", "function_call", "function_call_output", "function_call_output"];
            assert_eq!(kinds[kinds.len() - 4..], calls, "{body}");
            let named: Vec<&Value> = turns[turns.len() - 4..].iter().map(|item| &item["call_id"]).collect();
            assert_eq!(named, [ids[0], ids[1], ids[0], ids[1]]);
            // An item of the model's that is named must be one OpenAI can know.
            assert!(turns.iter().all(|item| item["type"] == "reasoning" || item.get("id").is_none()), "{body}");
        }
        Wire::Gemini => {
            let [user, model, results] = turns.as_slice() else { panic!("{body}") };
            assert_eq!(
                (&user["role"], &model["role"], &results["role"]),
                (&json!("user"), &json!("model"), &json!("user"))
            );
            let calls: Vec<&Value> = model["parts"]
                .as_array()
                .expect("parts")
                .iter()
                .filter(|part| part.get("functionCall").is_some())
                .collect();
            let results = results["parts"].as_array().expect("parts");
            assert_eq!((calls.len(), results.len()), (2, 2));
            assert!(calls[0]["thoughtSignature"].is_string() && calls[1].get("thoughtSignature").is_none());
            for (call, result) in calls.iter().zip(results) {
                assert_eq!(call["functionCall"]["name"], result["functionResponse"]["name"]);
                assert_eq!(call["functionCall"]["id"], result["functionResponse"]["id"]);
                assert!(result["functionResponse"]["response"].is_object());
            }
        }
    }
}

#[tokio::test]
async fn a_conversation_begun_with_any_vendor_goes_on_with_every_other() {
    // What each leaves behind that only it understands.
    let marks = ["c2ln", "gAAA", "Y2FsbA==", "dGV4dA=="];
    for begun in WIRES {
        let messages = begun_with(begun).await;
        for goes_on in WIRES {
            let body = sent("stub", goes_on, &offering(messages.clone())).await;
            sound(goes_on, &body);
            let text = body.to_string();
            assert!(text.contains("I ") && text.contains("a.rs") && text.contains("done"), "{text}");
            let own = match goes_on {
                Wire::Anthropic => &marks[..1],
                Wire::Responses => &marks[1..2],
                Wire::Gemini => &marks[2..],
                Wire::OpenAi | Wire::Ollama => &[],
            };
            for mark in marks {
                let expected = begun == goes_on && own.contains(&mark);
                assert_eq!(text.contains(mark), expected, "{begun:?} to {goes_on:?}: {mark}");
            }
        }
    }
}

#[tokio::test]
async fn what_only_its_vendor_understands_comes_back_in_its_place() {
    let body = sent("stub", Wire::Anthropic, &offering(begun_with(Wire::Anthropic).await)).await;
    assert_eq!(
        body["messages"][1]["content"].as_array().expect("blocks")[..2],
        [
            json!({"type": "thinking", "thinking": "hm", "signature": "c2ln"}),
            json!({"type": "redacted_thinking", "data": "secret"})
        ]
    );
    let body = sent("stub", Wire::Responses, &offering(begun_with(Wire::Responses).await)).await;
    assert_eq!(
        body["input"][1],
        json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"})
    );
    assert_eq!(body["input"][2], json!({"type": "message", "role": "assistant", "content": "I look."}));
    let mut messages = begun_with(Wire::Gemini).await;
    let signed = |text: &str| json!({"text": text, "thoughtSignature": "dGV4dA=="});
    let body = sent("stub", Wire::Gemini, &offering(messages.clone())).await;
    let parts = &body["contents"][1]["parts"];
    assert_eq!(parts[0], json!({"text": "I "}));
    assert_eq!(parts[1], signed("look."));
    assert_eq!(parts[2]["thoughtSignature"], json!("Y2FsbA=="));
    // A text that was changed is no longer what was signed.
    if let Message::Assistant { text, .. } = &mut messages[1] {
        *text = "I".to_owned();
    }
    let body = sent("stub", Wire::Gemini, &offering(messages)).await;
    assert_eq!(body["contents"][1]["parts"][0], json!({"text": "I"}));
    assert!(!body.to_string().contains("dGV4dA=="));
}

// The outage server.

#[tokio::test]
async fn the_outage_server_calls_tools_step_by_step() {
    let calls = || [("read_file", json!({"path": "a.rs"})), ("list", json!("{\"half"))];
    let script = Script::new(1)
        .rule("look", When::any().turns(0).offers("read_file"), Behaviour::Answer(Answer::calls("I look.", calls())))
        .rule(
            "done",
            When::any().turns(1).last_has("fn main"),
            Behaviour::Answer(Answer::Text("It is fine.".to_owned())),
        );
    let server = OutageServer::start(script).await.expect("a port");
    for wire in [Wire::Anthropic, Wire::OpenAi, Wire::Responses] {
        let config = ProviderConfig { timeouts: PATIENT, ..config(wire, &server.base_url(wire)) };
        let provider = build("stub", &config).expect("a sound configuration");
        let mut messages = vec![Message::user("Look.")];
        let reply = provider.ask(&offering(messages.clone()), &Progress::default()).await.expect("calls");
        assert_eq!((reply.text.as_str(), reply.calls.len()), ("I look.", 2));
        assert_eq!(reply.calls[0].arguments, json!({"path": "a.rs"}));
        assert_eq!(reply.calls[1].malformed.as_deref(), Some("{\"half"));
        let results = reply.calls.iter().map(|call| result(&call.id, &call.name, "fn main() {}", false)).collect();
        messages.push(Message::Assistant { text: reply.text, calls: reply.calls, opaque: reply.opaque });
        // Calls without results are what the vendors complain of.
        let failure = provider.ask(&offering(messages.clone()), &Progress::default()).await.expect_err("a 400");
        assert_eq!(failure.status, Some(400));
        messages.push(Message::Results { results });
        let reply = provider.ask(&offering(messages), &Progress::default()).await.expect("an answer");
        assert_eq!(reply.text, "It is fine.");
    }
}
