//! What each vendor writes: answers, failures and broken streams.

use super::*;
use crate::sim::heard::{self, Door};
use crate::sim::script::Hint;

const DRAW: Draw = Draw { dice: 7, words: 7, created: 1_790_000_000 };

/// A request with one tool and, if wanted, a schema.
fn asking(wire: Wire, stream: bool, schema: Option<Value>) -> Incoming {
    let parameters = json!({"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}});
    let body = json!({"model": "m-1", "max_tokens": 100, "stream": stream, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "BS-014"}], "input": "BS-014",
        "contents": [{"role": "user", "parts": [{"text": "BS-014"}]}]});
    let door = Door { model: Some("m-1".into()), stream: Some(stream), ..wire.into() };
    let mut incoming = heard::read(&door, body.to_string().as_bytes(), DRAW).expect("a request");
    incoming.tools = vec![Offered { name: "look".into(), parameters }];
    incoming.schema = schema;
    incoming
}

fn incoming(wire: Wire, stream: bool) -> Incoming {
    asking(wire, stream, None)
}

fn shown(wire: Wire, stream: bool, behaviour: &Behaviour) -> String {
    write(&incoming(wire, stream), behaviour, DRAW).pieces.concat()
}

/// Status and words of each failure on the wires of Anthropic, OpenAI (both), Gemini and Ollama.
#[test]
fn failures_have_the_status_and_the_words_of_the_vendor() {
    let limited = Behaviour::RateLimited { retry_after: Some(Duration::from_secs(9)) };
    type Said = (u16, &'static str);
    let table: [(Behaviour, [Said; 4]); 11] = [
        (
            Behaviour::Overloaded,
            [(529, "overloaded_error"), (503, "server_is_overloaded"), (503, "overloaded"), (503, "server busy")],
        ),
        (
            Behaviour::ServerError,
            [(500, "api_error"), (500, "server_error"), (500, "\"INTERNAL\""), (500, "unexpected EOF")],
        ),
        (
            Behaviour::Unavailable,
            [(503, "api_error"), (503, "Service unavailable"), (503, "currently unavailable"), (503, "loading model")],
        ),
        (
            Behaviour::GatewayTimeout,
            [(504, "timeout_error"), (504, "timeout"), (504, "DEADLINE_EXCEEDED"), (504, "timeout")],
        ),
        (
            limited,
            [(429, "rate_limit_error"), (429, "rate_limit_exceeded"), (429, "PerMinute"), (429, "rate limit exceeded")],
        ),
        (
            Behaviour::RateLimitedSilently,
            [(429, "rate_limit_error"), (429, "rate_limit_exceeded"), (429, "PerMinute"), (429, "rate limit exceeded")],
        ),
        (
            Behaviour::Unauthorized,
            [(401, "authentication_error"), (401, "invalid_api_key"), (400, "API_KEY_INVALID"), (401, "unauthorized")],
        ),
        (
            Behaviour::Forbidden,
            [
                (403, "permission_error"),
                (403, "unsupported_country"),
                (403, "PERMISSION_DENIED"),
                (403, "subscription"),
            ],
        ),
        (
            Behaviour::OutOfCredit,
            [
                (400, "credit balance is too low"),
                (429, "insufficient_quota"),
                (429, "prepayment credits are depleted"),
                (429, "usage limit"),
            ],
        ),
        (
            Behaviour::NoSuchModel,
            [
                (404, "model: m-1"),
                (404, "model_not_found"),
                (404, "models/m-1 is not found"),
                (404, "pulling it first"),
            ],
        ),
        (
            Behaviour::TooLong,
            [
                (400, "prompt is too long"),
                (400, "context_length_exceeded"),
                (400, "exceeds the maximum number of tokens"),
                (400, "exceeds the context length"),
            ],
        ),
    ];
    for (behaviour, [anthropic, openai, gemini, ollama]) in table {
        for (wire, (status, words)) in WIRES.into_iter().zip([anthropic, openai, openai, gemini, ollama]) {
            let out = write(&incoming(wire, true), &behaviour, DRAW);
            assert_eq!(out.status, status, "{wire:?} {behaviour:?}");
            assert!(out.pieces.concat().contains(words), "{wire:?} {behaviour:?}: {:?}", out.pieces);
            let named = request_id_header(wire);
            assert!(named.is_none_or(|id| out.headers.iter().any(|(name, _)| *name == id)), "{wire:?}");
        }
    }
}

#[test]
fn a_rate_limit_hints_in_the_style_asked_for_and_in_no_other() {
    let wait = Some(Duration::from_millis(41_500));
    let styled = |hint| Behaviour::RateLimitedHinting { hint, retry_after: wait };
    for (behaviour, seconds, millis, in_words) in [
        (styled(Hint::Seconds), Some("42"), None, false),
        (styled(Hint::Millis), None, Some("41500"), false),
        (styled(Hint::Date), Some("Mon, 21 Sep 2026 14:14:02 GMT"), None, false),
        (styled(Hint::Body), None, None, true),
        (Behaviour::RateLimitedSilently, None, None, false),
    ] {
        for wire in WIRES {
            let out = write(&incoming(wire, false), &behaviour, DRAW);
            let header = |name| out.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str());
            assert_eq!((header("retry-after"), header("retry-after-ms")), (seconds, millis), "{wire:?} {behaviour:?}");
            assert_eq!(out.pieces[0].contains("41.5s"), in_words, "{}", out.pieces[0]);
            assert!(out.headers.iter().all(|(name, _)| !name.contains("ratelimit")), "those are hints too");
        }
    }
    let own = |wire| write(&incoming(wire, false), &Behaviour::RateLimited { retry_after: wait }, DRAW);
    let header =
        |wire, name: &str| own(wire).headers.into_iter().find(|(header, _)| *header == name).map(|(_, value)| value);
    assert_eq!(header(Wire::Anthropic, "retry-after").as_deref(), Some("42"));
    let reset = header(Wire::Anthropic, "anthropic-ratelimit-requests-reset");
    assert_eq!(reset.as_deref(), Some("2026-09-21T14:14:02Z"));
    assert_eq!(header(Wire::Anthropic, "anthropic-ratelimit-input-tokens-limit").as_deref(), Some("40000"));
    assert_eq!(header(Wire::Responses, "retry-after-ms").as_deref(), Some("41500"));
    assert_eq!(header(Wire::OpenAi, "x-ratelimit-reset-requests").as_deref(), Some("42s"));
    assert_eq!(header(Wire::Gemini, "retry-after"), None);
    assert!(own(Wire::Gemini).pieces[0].contains(r#""retryDelay":"41.5s""#));
}

const ENDS: [&str; 5] = ["message_stop", "[DONE]", "response.completed", "finishReason", "\"done\":true"];

#[test]
fn a_broken_stream_lacks_exactly_its_end() {
    for (wire, end) in WIRES.into_iter().zip(ENDS) {
        let ask = incoming(wire, true);
        let whole = write(&ask, &Behaviour::Answer(Answer::Text("one two three four five six".into())), DRAW);
        assert!(whole.pieces.last().expect("an end").contains(end));
        for (behaviour, how) in
            [(Behaviour::Truncated, End::Clean), (Behaviour::Reset, End::Abort), (Behaviour::Stall, End::Pings)]
        {
            let out = write(&ask, &behaviour, DRAW);
            assert_eq!((out.status, out.end), (200, how));
            assert!(!out.pieces.is_empty() && !out.pieces.concat().contains(end), "{wire:?} {behaviour:?}");
        }
        let out = write(&ask, &Behaviour::ErrorMidStream, DRAW);
        let pieces = out.pieces.as_slice();
        assert!(pieces.len() > 1 && pieces.last().expect("an error").contains("error"), "{wire:?}: {pieces:?}");
        assert!(!pieces.concat().contains(end), "{wire:?}");
        assert_eq!(write(&incoming(wire, false), &Behaviour::ErrorMidStream, DRAW).status / 100, 5);
    }
}

#[test]
fn what_is_malformed_is_malformed_in_one_place() {
    for wire in WIRES {
        let body = shown(wire, false, &Behaviour::Malformed);
        assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
        let stream = shown(wire, true, &Behaviour::Malformed);
        let data =
            stream.lines().filter_map(|line| line.strip_prefix("data: ").or(line.strip_prefix('{').and(Some(line))));
        let wrong = data.filter(|data| *data != "[DONE]" && serde_json::from_str::<Value>(data).is_err()).count();
        assert_eq!(wrong, 1, "{wire:?}: {stream}");
    }
}

#[test]
fn usage_is_the_same_with_and_without_a_stream() {
    for wire in WIRES {
        let say = Behaviour::Answer(Answer::Text("twelve chars".into()));
        let unary = write(&incoming(wire, false), &say, DRAW);
        let stream = write(&incoming(wire, true), &say, DRAW);
        assert_eq!((unary.input_tokens, unary.output_tokens), (stream.input_tokens, stream.output_tokens));
        assert_eq!(unary.output_tokens, 3);
    }
}

#[test]
fn calls_are_written_the_vendors_way_with_and_without_a_stream() {
    let calls = [("look", json!({"at": "a cat"})), ("save", Value::String("{\"half".to_owned()))];
    let escaped = [r#""arguments":"{\"at\":\"a cat\"}""#, r#""arguments":"{\"half""#];
    for (wire, stop, pieces, whole) in [
        (
            Wire::Anthropic,
            "tool_use",
            [r#""partial_json":"{\"at\":\"a cat\"}""#, r#""partial_json":"{\"half""#],
            [r#""input":{"at":"a cat"}"#, r#""input":"{\"half""#],
        ),
        (Wire::OpenAi, "tool_calls", [r#"{"arguments":"{\"at\":\"a cat\"}"}"#, r#"{"arguments":"{\"half"}"#], escaped),
        (Wire::Responses, "completed", escaped, escaped),
        (Wire::Ollama, "stop", [r#""arguments":{"at":"a cat"}"#; 2], [r#""arguments":{"at":"a cat"}"#; 2]),
    ] {
        for (stream, expected) in [(true, pieces), (false, whole)] {
            let body = shown(wire, stream, &Behaviour::Answer(Answer::calls("I look.", calls.clone())));
            assert!(body.contains("I look.") && body.contains(&format!("\"{stop}\"")), "{body}");
            for piece in expected {
                assert!(body.contains(piece), "{piece} in {body}");
            }
        }
    }
    for stream in [false, true] {
        let body = shown(Wire::Gemini, stream, &Behaviour::Answer(Answer::calls("I look.", calls[..1].to_vec())));
        assert!(body.contains(r#""args":{"at":"a cat"}"#) && body.contains(r#""finishReason":"STOP""#), "{body}");
        let body = shown(Wire::Gemini, stream, &Behaviour::Answer(Answer::calls("", calls.clone())));
        assert!(body.contains("MALFORMED_FUNCTION_CALL") && !body.contains("functionCall"), "{body}");
    }
}

#[test]
fn refusals_and_cuts_are_the_vendors_own() {
    for (wire, refused, cut) in [
        (Wire::Anthropic, "\"stop_reason\":\"refusal\"", "\"stop_reason\":\"max_tokens\""),
        (Wire::OpenAi, "\"refusal\":\"I will not.\"", "\"finish_reason\":\"length\""),
        (Wire::Responses, "\"refusal\":\"I will not.\"", "\"reason\":\"max_output_tokens\""),
        (Wire::Gemini, "\"finishReason\":\"SAFETY\"", "\"finishReason\":\"MAX_TOKENS\""),
        (Wire::Ollama, "I will not.", "\"done_reason\":\"length\""),
    ] {
        for stream in [false, true] {
            let body = shown(wire, stream, &Behaviour::Refuse("I will not.".into()));
            assert!(body.contains(refused), "{wire:?}: {body}");
            let body = shown(wire, stream, &Behaviour::Cut(Answer::Text("half".into())));
            assert!(body.contains(cut), "{wire:?}: {body}");
        }
    }
}

#[test]
fn models_break_schemas_arguments_and_never_stop_on_cue() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    for wire in WIRES {
        let text = |behaviour| {
            let body = write(&asking(wire, false, Some(schema.clone())), &behaviour, DRAW).pieces.concat();
            serde_json::from_str::<Value>(&body).expect("JSON")
        };
        let at = match wire {
            Wire::Anthropic => ("/content/0/text", "/content/0/input"),
            Wire::OpenAi => ("/choices/0/message/content", "/choices/0/message/tool_calls/0/function/arguments"),
            Wire::Responses => ("/output/0/content/0/text", "/output/0/arguments"),
            Wire::Gemini => ("/candidates/0/content/parts/0/text", "/candidates/0/content/parts/0/functionCall/args"),
            Wire::Ollama => ("/message/content", "/message/tool_calls/0/function/arguments"),
        };
        let plain = |value: &Value| match value.as_str() {
            Some(text) => serde_json::from_str(text).expect("JSON"),
            None => value.clone(),
        };
        let said = text(Behaviour::SchemaInvalid);
        let said = plain(said.pointer(at.0).unwrap_or_else(|| panic!("{said}")));
        assert!(!jsonschema::is_valid(&schema, &said), "{wire:?}: {said}");
        let arguments = |behaviour| {
            let said = text(behaviour);
            plain(said.pointer(at.1).unwrap_or_else(|| panic!("{said}")))
        };
        let tool = &incoming(wire, false).tools[0].parameters;
        assert!(!jsonschema::is_valid(tool, &arguments(Behaviour::WrongArguments)), "{wire:?}");
        assert!(jsonschema::is_valid(tool, &arguments(Behaviour::Loop)), "{wire:?}");
        let later = Draw { dice: 8, words: 8, ..DRAW };
        let again = write(&incoming(wire, false), &Behaviour::Loop, later).pieces.concat();
        assert!(again.contains(arguments(Behaviour::Loop)["at"].as_str().expect("words")), "the same call: {again}");
    }
}

#[test]
fn events_of_responses_are_numbered_and_tell_the_whole_story() {
    let out = write(
        &incoming(Wire::Responses, true),
        &Behaviour::Answer(Answer::calls("I look.", [("look", json!({"at": "x"}))])),
        DRAW,
    );
    let events: Vec<Value> = out
        .pieces
        .iter()
        .map(|piece| {
            serde_json::from_str(piece.lines().nth(1).expect("data").trim_start_matches("data: ")).expect("JSON")
        })
        .collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..13).collect::<Vec<_>>());
    assert_eq!(events[12]["response"]["output"][1]["arguments"], r#"{"at":"x"}"#);
}
