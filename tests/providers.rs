//! The adapters against real loopback HTTP: every way a provider can fail is seen and kept.
//!
//! Nothing here calls a parser. Each failing call also shows that it was one request.

use std::time::Duration;

use backstop::cause::{BODY_LIMIT, Fault, Phase, Usage};
use backstop::config::{ProviderConfig, Setting, Timeouts, Wire};
use backstop::llm::{self, Progress, Request};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::provider_stubs::{
    JSON, PATIENT, SECRET, SHORT, SSE, WIRES, ask, build, clean, config, document, end, event, fails, half, request,
    stops, stream, usage,
};
use crate::support::{Play, Stub, chunk, chunked, response};

// What goes out, and answers that come.

#[tokio::test]
async fn each_wire_is_spoken_as_its_provider_wants_it() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
    for wire in WIRES {
        let stub = Stub::answering(200, JSON, &document(wire, "{}", stops(wire).0)).await;
        let mut config = config(wire, &stub.url());
        config.headers.insert("x-title".to_owned(), Setting::Plain("backstop".to_owned()));
        let asked = Request { schema: Some(schema.clone()), ..request() };
        build("stub", &config).expect("sound").ask(&asked, &Progress::default()).await.expect("an answer");
        let heard = stub.heard();
        assert_eq!(heard.len(), 1);
        let (heard, body) = (&heard[0], heard[0].json());
        assert_eq!(heard.header("x-title"), Some("backstop"));
        assert_eq!(heard.header("content-type"), Some("application/json"));
        assert_eq!(heard.header("content-length"), Some(heard.body.len().to_string().as_str()));
        match wire {
            Wire::Anthropic => {
                assert_eq!(heard.line, "POST /v1/messages HTTP/1.1");
                assert_eq!(heard.header("x-api-key"), Some(SECRET));
                assert_eq!(heard.header("anthropic-version"), Some("2023-06-01"));
                assert_eq!(
                    body,
                    json!({"model": "model-1", "max_tokens": 64, "system": "Be brief.", "stream": true,
                        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Count."}],
                        "output_config": {"format": {"type": "json_schema", "schema": schema}}})
                );
            }
            Wire::OpenAi => {
                assert_eq!(heard.line, "POST /chat/completions HTTP/1.1");
                assert_eq!(heard.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
                assert_eq!(
                    body,
                    json!({"model": "model-1", "max_tokens": 64, "stream": true, "stream_options": {"include_usage": true},
                        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
                            {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Count."}],
                        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}}})
                );
            }
            Wire::Responses => {
                assert_eq!(heard.line, "POST /responses HTTP/1.1");
                assert_eq!(heard.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
                assert_eq!(
                    body,
                    json!({"model": "model-1", "max_output_tokens": 64, "stream": true, "store": false, "instructions": "Be brief.",
                        "include": ["reasoning.encrypted_content"],
                        "input": [{"type": "message", "role": "user", "content": "Hello"}, {"type": "message", "role": "assistant", "content": "Yes?"},
                            {"type": "message", "role": "user", "content": "Count."}],
                        "text": {"format": {"type": "json_schema", "name": "answer", "strict": true, "schema": schema}}})
                );
            }
            Wire::Gemini => {
                assert_eq!(heard.line, "POST /v1beta/models/model-1:streamGenerateContent?alt=sse HTTP/1.1");
                assert_eq!(heard.header("x-goog-api-key"), Some(SECRET));
                assert_eq!(
                    body,
                    json!({"systemInstruction": {"parts": [{"text": "Be brief."}]},
                        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}, {"role": "model", "parts": [{"text": "Yes?"}]},
                            {"role": "user", "parts": [{"text": "Count."}]}],
                        "generationConfig": {"maxOutputTokens": 64, "responseMimeType": "application/json", "responseJsonSchema": schema}})
                );
            }
            Wire::Ollama => {
                assert_eq!(heard.line, "POST /api/chat HTTP/1.1");
                assert_eq!(
                    body,
                    json!({"model": "model-1", "stream": true, "options": {"num_predict": 64}, "format": schema,
                        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
                            {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Count."}]})
                );
            }
        }
    }
}

#[tokio::test]
async fn azure_is_the_openai_wire_with_a_query_in_its_base_url_and_headers_of_its_own() {
    let stub = Stub::answering(200, JSON, &document(Wire::OpenAi, "ok", "stop")).await;
    let config = config(Wire::OpenAi, &format!("{}/openai/deployments/d?api-version=2024-10-21", stub.url()));
    ask("azure-openai", &config, &Progress::default()).await.expect("an answer");
    let heard = &stub.heard()[0];
    assert_eq!(heard.line, "POST /openai/deployments/d/chat/completions?api-version=2024-10-21 HTTP/1.1");
    assert_eq!((heard.header("api-key"), heard.header("authorization")), (Some(SECRET), None));
    assert_eq!(heard.json()["max_completion_tokens"], json!(64));
}

#[tokio::test]
async fn a_stream_and_a_whole_body_give_the_same_answer() {
    for wire in WIRES {
        let good = stops(wire).0;
        let events: Vec<String> = half(wire).into_iter().chain(end(wire, good)).collect();
        let whole = vec![
            Play::Send(response(
                200,
                &[JSON[0], ("Request-Id", "req_1"), ("set-cookie", "a=b")],
                &document(wire, "Half", good),
            )),
            Play::Close,
        ];
        for plays in [stream(wire, &events, &clean()), whole.clone()] {
            let streamed = plays.len() != whole.len();
            let stub = Stub::playing(plays).await;
            let progress = Progress::default();
            let reply = ask("stub", &config(wire, &stub.url()), &progress)
                .await
                .unwrap_or_else(|failure| panic!("{wire:?}: {failure:?}"));
            assert_eq!(
                (reply.text.as_str(), reply.stop.as_str(), reply.usage),
                ("Half", good, usage(wire)),
                "{wire:?}"
            );
            let named = match wire {
                Wire::Anthropic => "claude",
                Wire::OpenAi | Wire::Responses => "gpt",
                Wire::Gemini => "gemini",
                Wire::Ollama => "llama",
            };
            assert_eq!(reply.model, named);
            if streamed {
                // Gemini's thought counts as content and is no part of the text.
                assert_eq!(progress.bytes(), if wire == Wire::Gemini { 6 } else { 4 }, "{wire:?}");
            } else {
                assert_eq!(reply.request_id.as_deref(), Some("req_1"));
                assert!(reply.headers.iter().all(|(name, _)| name != "set-cookie"), "{:?}", reply.headers);
                assert!(progress.bytes() > 0);
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_over_does_not_wait_for_the_connection() {
    for wire in WIRES {
        let events: Vec<String> = half(wire).into_iter().chain(end(wire, stops(wire).0)).collect();
        // Gemini has no last event of its own: what may follow is awaited until the idle timer, and then it is enough.
        let timeouts =
            if wire == Wire::Gemini { Timeouts { idle: Duration::from_millis(500), ..PATIENT } } else { PATIENT };
        for ending in [Play::Hang, Play::Reset] {
            let stub = Stub::playing(stream(wire, &events, &[ending])).await;
            let reply =
                ask("stub", &ProviderConfig { timeouts, ..config(wire, &stub.url()) }, &Progress::default()).await;
            assert_eq!(reply.map(|reply| reply.text).ok().as_deref(), Some("Half"), "{wire:?}");
        }
    }
}

#[tokio::test]
async fn odd_but_sound_answers_are_taken() {
    let openai_finish = r#"{"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}"#;
    for (wire, headers, body) in [
        // No content type; carriage returns; a byte order mark; the last line end missing.
        (Wire::OpenAi, &[][..], format!("\u{feff}: hi\r\n\r\ndata: {openai_finish}\r\n\r\ndata: [DONE]")),
        // A stream that calls itself JSON.
        (Wire::OpenAi, JSON, format!("data: {openai_finish}\n\n")),
        // An array of responses, as Gemini streams without `alt=sse`.
        (Wire::Gemini, JSON, r#"[{"candidates":[{"content":{"parts":[{"text":"o"}]}}]},{"candidates":[{"content":{"parts":[{"text":"k"}]},"finishReason":"STOP"}]}]"#.to_owned()),
        // Lines that call themselves a document, and a document over several lines.
        (Wire::Ollama, JSON, "{\"message\":{\"content\":\"o\"},\"done\":false}\n{\"message\":{\"content\":\"k\"},\"done\":true}\n".to_owned()),
        (Wire::Ollama, JSON, "{\n\"message\": {\"content\": \"ok\"},\n\"done\": true\n}".to_owned()),
        // Events without data, pings by name, an error that says nothing.
        (Wire::OpenAi, SSE, format!("data:\n\nevent: ping\ndata: now\n\ndata: {}\n\n", openai_finish.replacen('{', r#"{"error":{},"#, 1))),
        // Content in parts, a null error, blanks to keep the connection alive.
        (Wire::OpenAi, JSON, r#"
          {"error":null,"choices":[{"message":{"content":[{"type":"text","text":"ok"}]},"finish_reason":"stop"}]}"#.to_owned()),
    ] {
        let stub = Stub::answering(200, headers, &body).await;
        let reply = ask("stub", &config(wire, &stub.url()), &Progress::default()).await;
        assert_eq!(reply.map(|reply| reply.text).map_err(|failure| failure.detail), Ok("ok".to_owned()), "{body}");
    }
}

// Failures inside a 200.

#[tokio::test]
async fn a_stream_that_ends_cleanly_without_its_end_is_truncated() {
    for wire in WIRES {
        let mut endings = vec![half(wire), Vec::new()];
        // Cut inside an event.
        let mut cut = half(wire);
        cut.push(end(wire, stops(wire).0)[0].chars().take(30).collect());
        endings.push(cut);
        for events in endings {
            let failure = fails(wire, stream(wire, &events, &clean()), PATIENT).await;
            assert_eq!(
                (failure.fault, failure.phase, failure.status),
                (Fault::Truncated, Phase::Stream, Some(200)),
                "{wire:?} {events:?}"
            );
            assert_eq!(failure.partial, if events.is_empty() { "" } else { "Half" });
            if wire == Wire::Anthropic && !events.is_empty() {
                assert_eq!(failure.usage, Usage { input: 12, output: 1, cache_read: 100, cache_write: 7 });
            }
        }
    }
    // [DONE] without a finish reason is no end either.
    let mut events = half(Wire::OpenAi);
    events.push(event(Wire::OpenAi, None, "[DONE]"));
    assert_eq!(fails(Wire::OpenAi, stream(Wire::OpenAi, &events, &clean()), PATIENT).await.fault, Fault::Truncated);
}

#[tokio::test]
async fn an_error_in_mid_stream_is_found_with_its_code_and_what_came_before() {
    for (wire, name, data, code) in [
        (
            Wire::Anthropic,
            Some("error"),
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_7"}"#,
            "overloaded_error",
        ),
        (
            Wire::Anthropic,
            None,
            r#"{"type":"error","error":{"type":"api_error","message":"x","details":{"error_code":"cmek_key_unreachable"}}}"#,
            "cmek_key_unreachable",
        ),
        (Wire::OpenAi, None, r#"{"error":{"message":"x","type":"server_error","code":null}}"#, "server_error"),
        (Wire::OpenAi, Some("error"), r#"{"code":500,"type":"server_error","message":"x"}"#, "server_error"),
        (
            Wire::OpenAi,
            None,
            r#"{"id":"x","error":{"code":502,"message":"x"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
            "502",
        ),
        (
            Wire::OpenAi,
            None,
            r#"{"choices":[{"index":0,"delta":{},"error":{"code":"server_is_overloaded"},"finish_reason":"error"}]}"#,
            "server_is_overloaded",
        ),
        (
            Wire::Responses,
            Some("error"),
            r#"{"type":"error","sequence_number":3,"code":"rate_limit_exceeded","message":"x","param":null}"#,
            "rate_limit_exceeded",
        ),
        (
            Wire::Responses,
            Some("error"),
            r#"{"type":"error","sequence_number":3,"error":{"type":"server_error","code":"server_error","message":"x"}}"#,
            "server_error",
        ),
        (
            Wire::Responses,
            Some("response.failed"),
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"invalid_prompt","message":"x"},"output":[]}}"#,
            "invalid_prompt",
        ),
        (Wire::Gemini, None, r#"{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}"#, "UNAVAILABLE"),
        (Wire::Gemini, None, r#"[{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}]"#, "UNAVAILABLE"),
        (Wire::Ollama, None, r#"{"error":"an error was encountered while running the model"}"#, ""),
    ] {
        let mut events = half(wire);
        events.push(event(wire, name, data));
        let failure = fails(wire, stream(wire, &events, &clean()), PATIENT).await;
        assert_eq!(
            (failure.fault, failure.phase, failure.status),
            (Fault::ErrorEvent, Phase::Stream, Some(200)),
            "{data}"
        );
        assert_eq!((failure.code.as_deref().unwrap_or_default(), failure.partial.as_str()), (code, "Half"), "{data}");
        assert!(
            serde_json::from_str::<Value>(&failure.body).is_ok_and(|body| body.to_string().contains("error")),
            "{}",
            failure.body
        );
        if data.contains("req_7") {
            assert_eq!(failure.request_id.as_deref(), Some("req_7"));
        }
    }
    // llama.cpp's field of its own.
    let mut events = half(Wire::OpenAi);
    events.push("error: {\"code\":500,\"message\":\"x\",\"type\":\"server_error\"}\n\n".to_owned());
    let failure = fails(Wire::OpenAi, stream(Wire::OpenAi, &events, &clean()), PATIENT).await;
    assert_eq!((failure.fault, failure.code.as_deref()), (Fault::ErrorEvent, Some("server_error")));
}

#[tokio::test]
async fn an_error_after_the_stop_reason_still_counts() {
    let mut events = half(Wire::OpenAi);
    events.push(end(Wire::OpenAi, "stop").remove(0));
    events.push(event(Wire::OpenAi, None, r#"{"error":{"type":"server_error"}}"#));
    assert_eq!(fails(Wire::OpenAi, stream(Wire::OpenAi, &events, &clean()), PATIENT).await.fault, Fault::ErrorEvent);
}

#[tokio::test]
async fn an_error_object_in_place_of_the_answer_is_found() {
    for wire in WIRES {
        for (headers, body) in [
            (JSON, r#"{"error":{"type":"server_error","message":"x"}}"#),
            (JSON, r#"[{"error":{"type":"server_error","message":"x"}}]"#),
            (SSE, r#"{"error":{"type":"server_error","message":"x"}}"#),
        ] {
            let failure = fails(wire, vec![Play::Send(response(200, headers, body)), Play::Close], PATIENT).await;
            // A line of Ollama's is an event.
            let in_stream = failure.fault == Fault::ErrorEvent && wire == Wire::Ollama;
            assert!(
                in_stream || (failure.fault, failure.phase) == (Fault::ErrorBody, Phase::Body),
                "{wire:?} {failure:?}"
            );
            assert_eq!((failure.code.as_deref(), failure.status), (Some("server_error"), Some(200)));
            assert!(failure.body.contains(r#""message":"x""#), "{}", failure.body);
        }
    }
}

#[tokio::test]
async fn what_is_not_the_wire_format_is_malformed() {
    for wire in WIRES {
        let whole = document(wire, "text", stops(wire).0);
        for (headers, body) in [
            (&[("content-type", "text/html")][..], "<html>login</html>"),
            (SSE, "<html>login</html>"),
            (JSON, &whole[..whole.len() / 2]),
            (JSON, "{}"),
            (JSON, "[]"),
            (JSON, "null"),
            (JSON, ""),
            (&[], "error code: 524"),
            (&[("content-type", "text/plain")], "OK"),
        ] {
            let failure = fails(wire, vec![Play::Send(response(200, headers, body)), Play::Close], PATIENT).await;
            assert_eq!(
                (failure.fault, failure.phase, failure.status),
                (Fault::Malformed, Phase::Decode, Some(200)),
                "{wire:?} {body} {failure:?}"
            );
            assert_eq!(failure.body, body);
        }
        // In mid-stream.
        let mut events = half(wire);
        events.push(event(wire, None, "{\"half\": "));
        events.push(event(wire, None, "{}"));
        let failure = fails(wire, stream(wire, &events, &clean()), PATIENT).await;
        assert_eq!(
            (failure.fault, failure.partial.as_str(), failure.body.trim()),
            (Fault::Malformed, "Half", "{\"half\":"),
            "{wire:?}"
        );
    }
}

#[tokio::test]
async fn a_stop_reason_that_leaves_no_answer_is_kept_as_it_came() {
    let anthropic = ["max_tokens", "pause_turn", "refusal", "model_context_window_exceeded", "tool_use", "compaction"];
    let openai = [
        "length",
        "content_filter",
        "tool_calls",
        "function_call",
        "error",
        "model_length",
        "insufficient_system_resource",
        "abort",
    ];
    let gemini = [
        "MAX_TOKENS",
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "CONTINUATION",
        "MODEL_ARMOR",
        "OTHER",
        "FINISH_REASON_UNSPECIFIED",
    ];
    let ollama = ["length", "load", "unload"];
    let responses = ["max_output_tokens", "content_filter", "max_messages", "steered"];
    for (wire, reasons) in [
        (Wire::Anthropic, &anthropic[..]),
        (Wire::OpenAi, &openai),
        (Wire::Responses, &responses),
        (Wire::Gemini, &gemini),
        (Wire::Ollama, &ollama),
    ] {
        for reason in reasons {
            let events: Vec<String> = half(wire).into_iter().chain(end(wire, reason)).collect();
            let whole = vec![Play::Send(response(200, JSON, &document(wire, "Half", reason))), Play::Close];
            for plays in [stream(wire, &events, &clean()), whole] {
                let failure = fails(wire, plays, PATIENT).await;
                assert_eq!(
                    (failure.fault, failure.phase, failure.stop.as_deref()),
                    (Fault::Stop, Phase::Semantic, Some(*reason)),
                    "{wire:?}"
                );
                assert_eq!(
                    (failure.partial.as_str(), failure.usage, failure.status),
                    ("Half", usage(wire), Some(200)),
                    "{wire:?} {reason}"
                );
                assert!(failure.body.contains(reason), "{}", failure.body);
            }
        }
    }
}

#[tokio::test]
async fn a_complete_answer_of_nothing_is_empty() {
    for wire in WIRES {
        let good = stops(wire).0;
        let whole = vec![Play::Send(response(200, JSON, &document(wire, " \n", good))), Play::Close];
        for plays in [stream(wire, &end(wire, good), &clean()), whole] {
            let failure = fails(wire, plays, PATIENT).await;
            assert_eq!(
                (failure.fault, failure.stop.as_deref(), failure.detail.as_str()),
                (Fault::Stop, Some(good), "empty answer"),
                "{wire:?}"
            );
        }
    }
}

#[tokio::test]
async fn refusals_in_fields_of_their_own_are_found() {
    let refusal = |piece: &str, finish: &str| {
        event(Wire::OpenAi, None, &format!(r#"{{"choices":[{{"index":0,"delta":{piece},"finish_reason":{finish}}}]}}"#))
    };
    let events = [
        refusal(r#"{"refusal":"I can't "}"#, "null"),
        refusal(r#"{"refusal":"help."}"#, "null"),
        refusal("{}", "\"stop\""),
    ];
    let failure = fails(Wire::OpenAi, stream(Wire::OpenAi, &events, &clean()), PATIENT).await;
    assert_eq!(
        (failure.fault, failure.stop.as_deref(), failure.partial.as_str()),
        (Fault::Stop, Some("refusal"), "I can't help.")
    );

    let wire = Wire::Responses;
    let refused = json!({"type": "message", "content": [{"type": "refusal", "refusal": "I can't help."}]});
    let whole = crate::provider_stubs::response(json!([refused]), "completed").to_string();
    let pieces: Vec<String> = ["I can't ", "help."]
        .map(|piece| json!({"type": "response.refusal.delta", "output_index": 0, "delta": piece}))
        .map(|data| event(wire, Some("response.refusal.delta"), &data.to_string()))
        .into_iter()
        .chain(end(wire, "completed"))
        .collect();
    for plays in [stream(wire, &pieces, &clean()), vec![Play::Send(response(200, JSON, &whole)), Play::Close]] {
        let failure = fails(wire, plays, PATIENT).await;
        assert_eq!(
            (failure.fault, failure.stop.as_deref(), failure.partial.as_str()),
            (Fault::Stop, Some("refusal"), "I can't help.")
        );
    }

    let events = [event(
        Wire::Gemini,
        None,
        r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":12}}"#,
    )];
    let failure = fails(Wire::Gemini, stream(Wire::Gemini, &events, &clean()), PATIENT).await;
    assert_eq!(
        (failure.fault, failure.stop.as_deref(), failure.usage.input),
        (Fault::Stop, Some("PROHIBITED_CONTENT"), 12)
    );
    assert_eq!(failure.detail, "the prompt was blocked: PROHIBITED_CONTENT");
}

#[tokio::test]
async fn tool_calls_are_no_answer_and_broken_arguments_are_told_apart() {
    let call = |arguments: &str| json!({"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": "save", "arguments": arguments}}]}, "finish_reason": "tool_calls"}]});
    for (arguments, detail) in [
        ("{\"a\": ", "tool arguments are not JSON"),
        ("{\"a\": 1}", "tools were called and none was offered: save"),
        ("", "tools were called and none was offered: save"),
    ] {
        let failure = fails(
            Wire::OpenAi,
            vec![Play::Send(response(200, JSON, &call(arguments).to_string())), Play::Close],
            PATIENT,
        )
        .await;
        assert_eq!(
            (failure.fault, failure.stop.as_deref(), failure.detail.as_str()),
            (Fault::Stop, Some("tool_calls"), detail)
        );
    }
    // The same in pieces, from Anthropic.
    let wire = Wire::Anthropic;
    let mut events = vec![event(
        wire,
        None,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"save","input":{}}}"#,
    )];
    for piece in [r#"{\"text\":"#, r#"\"abc"#] {
        events.push(event(wire, None, &format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"input_json_delta","partial_json":"{piece}"}}}}"#)));
    }
    for (stop, detail) in [("tool_use", "tool arguments are not JSON"), ("max_tokens", "stopped for `max_tokens`")] {
        let events: Vec<String> = events.iter().cloned().chain(end(wire, stop)).collect();
        let failure = fails(wire, stream(wire, &events, &clean()), PATIENT).await;
        assert_eq!((failure.stop.as_deref(), failure.detail.as_str()), (Some(stop), detail));
    }
}

#[tokio::test]
async fn an_answer_without_measure_is_refused() {
    let long = "x".repeat(1 << 20);
    let piece = event(Wire::OpenAi, None, &json!({"choices": [{"delta": {"content": long}}]}).to_string());
    let flood = vec![Play::Send(chunked(200, SSE)), Play::Flood(chunk(&piece))];
    let failure = fails(Wire::OpenAi, flood, PATIENT).await;
    assert_eq!((failure.fault, failure.detail.as_str()), (Fault::Malformed, "the answer is larger than any we take"));
    assert!(failure.body.len() <= BODY_LIMIT);

    let endless_event = vec![Play::Send(chunked(200, SSE)), Play::Send(chunk("data: ")), Play::Flood(chunk(&long))];
    assert_eq!(fails(Wire::OpenAi, endless_event, PATIENT).await.fault, Fault::Malformed);
}

// Error statuses.

#[tokio::test]
async fn an_error_status_keeps_headers_body_code_and_request_id() {
    let body = r#"{"error":{"type":"tokens","code":"rate_limit_exceeded","message":"slow"}}"#;
    let headers = [
        JSON[0],
        ("Retry-After", "7"),
        ("retry-after-ms", "6500"),
        ("X-Request-Id", "req_9"),
        ("Set-Cookie", "s=1"),
        ("x-ratelimit-remaining-tokens", "0"),
    ];
    for wire in WIRES {
        let failure = fails(wire, vec![Play::Send(response(429, &headers, body)), Play::Close], PATIENT).await;
        assert_eq!((failure.fault, failure.phase, failure.status), (Fault::Status, Phase::Headers, Some(429)));
        assert_eq!((failure.header("retry-after"), failure.header("retry-after-ms")), (Some("7"), Some("6500")));
        assert_eq!((failure.header("x-ratelimit-remaining-tokens"), failure.header("set-cookie")), (Some("0"), None));
        assert_eq!((failure.body.as_str(), failure.code.as_deref()), (body, Some("rate_limit_exceeded")));
        assert_eq!(failure.request_id.as_deref(), Some("req_9"));
    }
}

#[tokio::test]
async fn an_error_body_is_bounded_and_may_break_off() {
    let long = "é".repeat(BODY_LIMIT);
    let failure = fails(Wire::OpenAi, vec![Play::Send(response(500, &[], &long)), Play::Close], PATIENT).await;
    assert!(failure.body.len() <= BODY_LIMIT && failure.body.len() > BODY_LIMIT - 4, "{}", failure.body.len());

    let broken = [Play::Send(chunked(503, JSON)), Play::Send(chunk("{\"error\":")), Play::Reset];
    let failure = fails(Wire::OpenAi, broken.to_vec(), PATIENT).await;
    assert_eq!((failure.fault, failure.status), (Fault::Status, Some(503)));

    let hanging = vec![Play::Send([chunked(529, JSON), chunk("{}")].concat()), Play::Hang];
    let failure = fails(Wire::Anthropic, hanging, Timeouts { idle: SHORT, ..PATIENT }).await;
    assert_eq!((failure.fault, failure.status, failure.body.as_str()), (Fault::Status, Some(529), "{}"));
}

#[tokio::test]
async fn redirects_are_not_followed_and_secrets_are_not_kept() {
    let elsewhere = Stub::answering(200, JSON, &document(Wire::OpenAi, "ok", "stop")).await;
    let location = format!("{}/chat/completions", elsewhere.url());
    let failure = fails(
        Wire::OpenAi,
        vec![Play::Send(response(307, &[("location", location.as_str())], "")), Play::Close],
        PATIENT,
    )
    .await;
    assert_eq!((failure.status, elsewhere.heard().len()), (Some(307), 0));

    let echo = format!("{{\"error\":{{\"message\":\"bad key {SECRET}\"}}}}");
    let failure =
        fails(Wire::OpenAi, vec![Play::Send(response(401, &[("x-echo", SECRET)], &echo)), Play::Close], PATIENT).await;
    assert!(!format!("{failure:?}").contains(SECRET), "{failure:?}");
    assert!(failure.body.contains("[redacted]"));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_before_anything_is_asked() {
    for (url, says) in [
        ("api.example.com", "is not a URL"),
        ("ftp://api.example.com", "must begin with http"),
        ("https://user:hunter2@api.example.com", "must not hold credentials"),
        ("ftp//user:hunter2@api.example.com", "is not a URL"),
    ] {
        let error = build("stub", &config(Wire::OpenAi, url)).err().expect("refused").to_string();
        assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
    }
    let mut bad = config(Wire::OpenAi, "https://api.example.com");
    bad.headers.insert("two words".to_owned(), Setting::Plain("x".to_owned()));
    assert!(matches!(build("stub", &bad), Err(llm::Error::BadHeader { .. })));
    bad.headers.clear();
    bad.api_key = Some(SecretString::from("line\nbreak"));
    let error = build("stub", &bad).err().expect("refused").to_string();
    assert!(!error.contains("break"), "{error}");
}

#[tokio::test]
async fn configured_headers_win() {
    let stub = Stub::answering(200, JSON, &document(Wire::Anthropic, "ok", "end_turn")).await;
    let mut config = config(Wire::Anthropic, &format!("{}/v1", stub.url()));
    config.headers.insert("Anthropic-Version".to_owned(), Setting::Plain("2026-10-21".to_owned()));
    ask("stub", &config, &Progress::default()).await.expect("an answer");
    let heard = &stub.heard()[0];
    assert_eq!(heard.line, "POST /v1/messages HTTP/1.1");
    assert_eq!(heard.headers.iter().filter(|(name, _)| name == "anthropic-version").count(), 1);
    assert_eq!(heard.header("anthropic-version"), Some("2026-10-21"));
}
