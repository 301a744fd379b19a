//! What is known about providers beyond the corpus, fact by fact: one line each, judged from the raw answer.

use backstop::cause::{Cause, Fault, LlmFailure, Phase};
use backstop::failure::{Action, Class, Kind, Signal};
use backstop::judgement::{Judgement, Scene, classify, outcome_unknown};
use backstop::task::Effect;
use backstop::time::Timestamp;

use super::observe;

fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T23:00:00Z").expect("a time")
}

/// The judgement in short: the kind, then what differs from it, then the hint in ms.
fn short(judgement: Judgement) -> String {
    let Judgement::Failed(failure) = judgement else { return format!("{judgement:?}").to_lowercase() };
    let mut text = failure.kind.to_string();
    let profile = failure.kind.profile();
    if failure.class != profile.class {
        text += &format!(" {}", failure.class);
    }
    if failure.action != profile.action {
        text += &format!(" {}", failure.action);
    }
    if failure.fallback != profile.fallback {
        text += &format!(" fallback={}", failure.fallback);
    }
    if let Some(span) = failure.retry_after {
        text += &format!(" {}", span.as_millis());
    }
    text
}

fn judge(failure: LlmFailure) -> String {
    short(classify(&Cause::Llm(Box::new(failure)), &Scene::new(Effect::ReadOnly, now())))
}

fn answer(provider: &str, status: u16, headers: &[(&str, &str)], body: &str) -> LlmFailure {
    LlmFailure {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        body: body.to_owned(),
        ..observe::blank(provider, Phase::Headers, Fault::Status, Some(status), now())
    }
}

#[test]
fn anthropic() {
    for (status, kind, code, message, expected) in [
        (400, "invalid_request_error", "", "prompt is too long: 210000 tokens > 200000 maximum", "context_too_long"),
        (
            400,
            "invalid_request_error",
            "",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
            "context_too_long",
        ),
        (
            400,
            "invalid_request_error",
            "",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
            "quota_exhausted",
        ),
        (400, "invalid_request_error", "tool_name_conflict", "x", "invalid_request"),
        (400, "invalid_request_error", "compaction_signature_invalid", "x", "invalid_request"),
        (400, "invalid_request_error", "cmek_key_disabled", "x", "permission"),
        (400, "invalid_request_error", "thread_continue_in_flight", "x", "in_flight_conflict"),
        (400, "invalid_request_error", "request_body_timeout", "x", "timeout"),
        (400, "invalid_request_error", "", "timeout must be > 0 and not 529", "invalid_request"),
        (402, "billing_error", "linked_organization_billing_unavailable", "x", "quota_exhausted"),
        (403, "permission_error", "user_profile_not_billable", "x", "permission"),
        (
            403,
            "permission_error",
            "",
            "Your API key does not have permission to use the specified resource.",
            "permission",
        ),
        (404, "not_found_error", "thread_not_found", "x", "invalid_request validation modify_requeue"),
        (404, "not_found_error", "", "Not Found", "endpoint_config"),
        (429, "rate_limit_error", "contract_spend_limit_reached", "x", "quota_exhausted"),
        (429, "rate_limit_error", "", "Number of request tokens has exceeded your daily rate limit", "quota_exhausted"),
        (500, "api_error", "", "Internal server error", "server_error"),
        (503, "api_error", "cmek_context_unavailable", "x", "server_error"),
        (529, "overloaded_error", "", "Overloaded", "overloaded"),
    ] {
        let details = if code.is_empty() { serde_json::Value::Null } else { serde_json::json!({"error_code": code}) };
        let body =
            serde_json::json!({"type": "error", "error": {"type": kind, "message": message, "details": details}});
        assert_eq!(
            judge(answer("anthropic", status, &[], &body.to_string())),
            expected,
            "{status} {kind} {code} {message}"
        );
    }
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#;
    let reset = [
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-requests-reset", "2026-11-21T23:00:20Z"),
        ("anthropic-ratelimit-tokens-remaining", "100"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-21T23:01:00Z"),
    ];
    assert_eq!(judge(answer("anthropic", 429, &reset, body)), "rate_limited 20000");
    assert_eq!(judge(answer("anthropic", 429, &[("retry-after", "301")], body)), "quota_exhausted 301000");
    assert_eq!(judge(answer("anthropic", 429, &[("retry-after", "300")], body)), "rate_limited 300000");
    assert_eq!(
        judge(answer("anthropic", 429, &[("x-should-retry", "false"), ("retry-after", "9")], body)),
        "rate_limited fallback_now fallback=now"
    );
}

#[test]
fn openai() {
    for (status, kind, code, message, expected) in [
        (400, "invalid_request_error", "context_length_exceeded", "x", "context_too_long"),
        (
            400,
            "invalid_request_error",
            "",
            "Invalid schema for response_format 'x': 'additionalProperties' is required",
            "invalid_request",
        ),
        (
            400,
            "invalid_request_error",
            "",
            "max_tokens is too large: 300000. This model supports at most 16384 completion tokens",
            "invalid_request",
        ),
        (
            400,
            "invalid_request_error",
            "unsupported_value",
            "'temperature' is not supported with this model.",
            "invalid_request",
        ),
        (400, "invalid_request_error", "previous_response_not_found", "x", "invalid_request validation modify_requeue"),
        (401, "invalid_request_error", "ip_not_authorized", "x", "auth"),
        (401, "invalid_request_error", "", "You didn't provide an API key.", "auth"),
        (404, "invalid_request_error", "", "Invalid URL (POST /v1/chatt/completions)", "endpoint_config"),
        (409, "invalid_request_error", "", "x", "in_flight_conflict"),
        (
            429,
            "requests",
            "rate_limit_exceeded",
            "Limit 500, Used 500, Requested 1. Please try again in 900ms.",
            "rate_limited 900",
        ),
        (429, "insufficient_quota", "insufficient_quota", "x", "quota_exhausted"),
        (429, "insufficient_quota", "organization_spend_limit_exceeded", "x", "quota_exhausted"),
        (429, "insufficient_quota", "organization_usage_limit_exceeded", "x", "quota_exhausted"),
        (429, "tokens", "rate_limit_exceeded", "on tokens per min: Limit 30000, Requested 41000.", "request_too_large"),
        (500, "server_error", "", "The server had an error while processing your request.", "server_error"),
        (501, "not_supported_error", "", "This feature is not supported", "endpoint_config"),
        (504, "server_error", "", "x", "timeout"),
    ] {
        let code = if code.is_empty() { serde_json::Value::Null } else { code.into() };
        let body = serde_json::json!({"error": {"type": kind, "message": message, "code": code, "param": null}});
        assert_eq!(
            judge(answer("openai", status, &[], &body.to_string())),
            expected,
            "{status} {kind} {code} {message}"
        );
    }
    for (code, expected) in [
        ("server_error", "server_error"),
        ("rate_limit_exceeded", "rate_limited"),
        ("invalid_prompt", "invalid_request"),
        ("bio_policy", "refused"),
        ("vector_store_timeout", "timeout"),
        ("image_too_large", "request_too_large"),
        ("image_content_policy_violation", "refused"),
        ("invalid_base64_image", "invalid_request"),
        ("misalignment_policy_violation", "policy_block"),
    ] {
        for body in [
            serde_json::json!({"status": "failed", "error": {"code": code, "message": "x"}}),
            serde_json::json!({"type": "response.failed", "response": {"status": "failed", "error": {"code": code, "message": "x"}}}),
            serde_json::json!({"type": "error", "code": code, "message": "x", "param": null}),
        ] {
            let failure = LlmFailure { fault: Fault::ErrorEvent, ..answer("openai", 200, &[], &body.to_string()) };
            assert_eq!(judge(failure), expected, "{body}");
        }
    }
}

#[test]
fn google() {
    let info = |reason: &str| format!(r#"{{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"{reason}"}}"#);
    let quota = |id: &str| {
        format!(r#"{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":"{id}"}}]}}"#)
    };
    let delay = |text: &str| format!(r#"{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{text}"}}"#);
    let both = format!("{},{}", quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), delay("5s"));
    let minute = format!("{},{}", quota("GenerateRequestsPerMinutePerProject"), delay("300s"));
    for (status, canonical, message, details, expected) in [
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details.",
            both.as_str(),
            "quota_exhausted",
        ),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details.",
            minute.as_str(),
            "rate_limited 300000",
        ),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details.",
            "",
            "rate_limited",
        ),
        (429, "RESOURCE_EXHAUSTED", "Please retry in 34.074824224s.", "", "rate_limited 34075"),
        (429, "RESOURCE_EXHAUSTED", "No capacity", &info("MODEL_CAPACITY_EXHAUSTED"), "overloaded fallback=now"),
        (429, "RESOURCE_EXHAUSTED", "x", &info("QUOTA_EXHAUSTED"), "quota_exhausted"),
        (429, "RESOURCE_EXHAUSTED", "x", &info("RATE_LIMIT_EXCEEDED"), "rate_limited"),
        (400, "INVALID_ARGUMENT", "Request contains an invalid argument.", "", "invalid_request"),
        (400, "FAILED_PRECONDITION", "Gemini API free tier is not available in your country.", "", "permission"),
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", "", "auth"),
        (403, "PERMISSION_DENIED", "x", &info("SERVICE_DISABLED"), "permission"),
        (404, "NOT_FOUND", "models/gemini-1.0 is not found for API version v1beta", "", "model_unavailable"),
        (499, "CANCELLED", "The operation was cancelled.", "", "cancelled"),
        (503, "UNAVAILABLE", "x", "", "overloaded"),
        (504, "DEADLINE_EXCEEDED", "x", "", "timeout"),
    ] {
        let error = format!(
            r#"{{"error":{{"code":{status},"message":"{message}","status":"{canonical}","details":[{details}]}}}}"#
        );
        for body in [error.clone(), format!("[{error}]")] {
            assert_eq!(judge(answer("gemini", status, &[], &body)), expected, "{body}");
        }
    }
    for (code, expected) in
        [("not_found", "model_unavailable"), ("unavailable", "overloaded"), ("resource_exhausted", "rate_limited")]
    {
        let body = format!(r#"{{"event_type":"error","error":{{"code":"{code}","message":"x"}}}}"#);
        let failure = LlmFailure { fault: Fault::ErrorEvent, ..answer("gemini", 200, &[], &body) };
        assert_eq!(judge(failure), expected, "{body}");
    }
}

#[test]
fn the_others() {
    for (provider, status, headers, body, expected) in [
        (
            "azure_openai",
            400,
            "",
            r#"{"error":{"code":"content_filter","message":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            "refused",
        ),
        (
            "azure_openai",
            429,
            "x-ms-retry-after-ms: 1200",
            r#"{"error":{"code":"429","message":"x"}}"#,
            "rate_limited 1200",
        ),
        (
            "azure_openai",
            429,
            "",
            r#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 7 seconds."}"#,
            "rate_limited 7000",
        ),
        (
            "azure_openai",
            403,
            "",
            r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 02:05:11."}"#,
            "quota_exhausted",
        ),
        ("azure_openai", 404, "", r#"{"error":{"code":"404","message":"Resource not found"}}"#, "endpoint_config"),
        ("bedrock", 429, "x-amzn-errortype: ModelNotReadyException:http://x/", r#"{"message":"x"}"#, "overloaded"),
        (
            "bedrock",
            424,
            "x-amzn-errortype: ModelErrorException",
            r#"{"message":"x","originalStatusCode":400}"#,
            "invalid_request",
        ),
        ("bedrock", 408, "x-amzn-errortype: ModelTimeoutException", r#"{"message":"x"}"#, "timeout"),
        (
            "bedrock",
            400,
            "x-amzn-errortype: ValidationException",
            r#"{"message":"Input is too long for requested model."}"#,
            "context_too_long",
        ),
        (
            "bedrock",
            400,
            "x-amzn-errortype: ValidationException",
            r#"{"message":"Malformed input request: extraneous key [x] is not permitted"}"#,
            "invalid_request",
        ),
        ("bedrock", 403, "x-amzn-errortype: ExpiredTokenException", r#"{"message":"x"}"#, "auth"),
        ("bedrock", 403, "x-amzn-errortype: UnrecognizedClientException", r#"{"message":"x"}"#, "auth"),
        (
            "mistral",
            400,
            "",
            r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500"}"#,
            "model_unavailable",
        ),
        (
            "mistral",
            400,
            "",
            r#"{"object":"error","message":"Prompt contains 40000 tokens, too large for model with 32768 maximum context length","type":"invalid_request_error","code":"3051"}"#,
            "context_too_long",
        ),
        (
            "mistral",
            422,
            "",
            r#"{"object":"error","message":{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]},"type":"invalid_request_error"}"#,
            "invalid_request",
        ),
        ("mistral", 429, "", r#"{"message":"Requests rate limit exceeded"}"#, "rate_limited"),
        (
            "groq",
            429,
            "",
            r#"{"error":{"message":"Rate limit reached on tokens per day (TPD): Limit 500000, Used 499000, Requested 2000. Please try again in 2m52s.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            "quota_exhausted",
        ),
        (
            "groq",
            429,
            "",
            r#"{"error":{"message":"Rate limit reached on requests per day (RPD). Please try again in 1h12m.","type":"requests","code":"rate_limit_exceeded"}}"#,
            "quota_exhausted 4320000",
        ),
        (
            "groq",
            400,
            "",
            r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"<x>"}}"#,
            "bad_output",
        ),
        (
            "deepseek",
            400,
            "",
            r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
            "model_unavailable",
        ),
        (
            "deepseek",
            401,
            "",
            r#"{"error":{"message":"Authentication Fails","type":"authentication_error","code":"invalid_request_error"}}"#,
            "auth",
        ),
        (
            "deepseek",
            503,
            "",
            r#"{"error":{"message":"Service is too busy.","type":"service_unavailable_error","code":"invalid_request_error"}}"#,
            "overloaded",
        ),
        (
            "xai",
            429,
            "",
            r#"{"code":"Some resource has been exhausted","error":"Too many requests for team x and model grok-4.3. Your team's rate limit is 480 requests per minute."}"#,
            "rate_limited",
        ),
        (
            "xai",
            404,
            "",
            r#"{"code":"Some requested entity was not found","error":"The model grok-9 does not exist or your team does not have access to it."}"#,
            "model_unavailable",
        ),
        (
            "xai",
            400,
            "",
            r#"{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 131072 but the request contains 200000 tokens."}"#,
            "context_too_long",
        ),
        (
            "openrouter",
            402,
            "retry-after: 3",
            r#"{"error":{"code":402,"message":"x","metadata":{"limit_source":"openrouter_in_flight_budget"}}}"#,
            "rate_limited 3000",
        ),
        (
            "openrouter",
            429,
            "",
            r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-day","metadata":{"headers":{"X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795305600000"}}}}"#,
            "quota_exhausted 3600000",
        ),
        (
            "openrouter",
            404,
            "",
            r#"{"error":{"code":404,"message":"No endpoints found that support tool use."}}"#,
            "model_unavailable",
        ),
        (
            "openrouter",
            400,
            "",
            r#"{"error":{"code":400,"message":"a/b is not a valid model ID"}}"#,
            "model_unavailable",
        ),
        ("ollama", 404, "", r#"{"error":"model \"x\" not found, try pulling it first"}"#, "model_unavailable"),
        ("ollama", 400, "", r#"{"error":"library/x does not support tools"}"#, "model_unavailable"),
        (
            "ollama",
            400,
            "",
            r#"{"error":"prompt too long; exceeded max context length by 10 tokens"}"#,
            "context_too_long",
        ),
        ("ollama", 500, "", r#"{"error":"llama runner process has terminated: signal: killed"}"#, "local_unavailable"),
        (
            "vllm",
            400,
            "",
            r#"{"object":"error","message":"This model's maximum context length is 1024 tokens.","type":"BadRequestError","param":null,"code":400}"#,
            "context_too_long",
        ),
        (
            "openrouter",
            403,
            "",
            r#"{"error":{"code":403,"message":"Key limit exceeded (daily limit)."}}"#,
            "quota_exhausted",
        ),
        (
            "openai",
            400,
            "",
            r#"{"error":{"message":"Invalid value: 'insufficient credits, overloaded, 529'","type":"invalid_request_error"}}"#,
            "invalid_request",
        ),
        ("openai", 401, "retry-after: 900", "", "auth"),
        ("vllm", 401, "", r#"{"error":"Unauthorized"}"#, "auth"),
        (
            "llama_cpp",
            400,
            "",
            r#"{"error":{"code":400,"message":"x","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#,
            "context_too_long",
        ),
        (
            "llama_cpp",
            501,
            "",
            r#"{"error":{"code":501,"message":"This server does not support embeddings","type":"not_supported_error"}}"#,
            "endpoint_config",
        ),
        (
            "litellm_proxy",
            429,
            "llm_provider-retry-after: 4",
            r#"{"error":{"message":"litellm.RateLimitError: RateLimitError: OpenAIException - Rate limit reached","type":"throttling_error","param":null,"code":"429"}}"#,
            "rate_limited 4000",
        ),
        (
            "litellm_proxy",
            400,
            "",
            r#"{"error":{"message":"litellm.ContentPolicyViolationError: x","type":"invalid_request_error","code":"400"}}"#,
            "refused",
        ),
        (
            "litellm_proxy",
            400,
            "",
            r#"{"error":{"message":"Budget has been exceeded! Current cost: 5.1, Max budget: 5.0","type":"budget_exceeded","code":"400"}}"#,
            "quota_exhausted",
        ),
        (
            "litellm_proxy",
            408,
            "",
            r#"{"error":{"message":"litellm.Timeout: APITimeoutError","type":null,"code":"408"}}"#,
            "timeout",
        ),
        (
            "litellm_proxy",
            500,
            "",
            r#"{"error":{"message":"litellm.InternalServerError: connection error","type":"internal_server_error","code":"500"}}"#,
            "server_error",
        ),
        ("openai", 524, "cf-ray: x", "error code: 524", "timeout"),
        ("openai", 520, "cf-ray: x", "<html>timeout 429 quota</html>", "server_error"),
        ("openai", 504, "", "<html>", "timeout"),
        ("openai", 418, "", "I am a teapot: 529 overloaded, try again in 5s", "invalid_request"),
        ("openai", 599, "", "", "timeout"),
        ("openai", 556, "", "{}", "server_error"),
        ("openai", 302, "location: /login", "", "endpoint_config"),
    ] {
        let headers: Vec<(&str, &str)> = headers.split_once(": ").into_iter().collect();
        assert_eq!(judge(answer(provider, status, &headers, body)), expected, "{provider} {status} {body}");
    }
}

#[test]
fn stop_reasons() {
    for (stop, detail, expected) in [
        ("max_tokens", "", "output_cut"),
        ("length", "tool arguments are not JSON", "output_cut"),
        ("pause_turn", "", "continue"),
        ("CONTINUATION", "", "continue"),
        ("refusal", "", "refused"),
        ("content_filtered", "", "refused"),
        ("SPII", "", "refused"),
        ("BLOCKLIST", "", "refused"),
        ("MODEL_ARMOR", "", "refused"),
        ("RECITATION", "", "recitation"),
        ("UNEXPECTED_TOOL_CALL", "", "bad_output"),
        ("MALFORMED_RESPONSE", "", "bad_output"),
        ("malformed_model_output", "", "bad_output"),
        ("PUP_LIMITED_DISABLED", "", "permission"),
        ("TOO_MANY_TOOL_CALLS", "", "loop"),
        ("model_context_window_exceeded", "", "context_too_long"),
        ("insufficient_system_resource", "", "overloaded"),
        ("error", "", "server_error"),
        ("stop", "empty answer", "empty_output"),
        ("tool_calls", "tool arguments are not JSON", "bad_output"),
        ("stop", "refused", "refused"),
        ("a reason of next year", "", "bad_output"),
    ] {
        let failure = observe::blank("any", Phase::Semantic, Fault::Stop, Some(200), now());
        let failure = LlmFailure { stop: Some(stop.to_owned()), detail: detail.to_owned(), ..failure };
        assert_eq!(judge(failure), expected, "{stop} {detail}");
    }
}

#[test]
fn what_broke_mechanically() {
    for (fault, phase, self_hosted, expected) in [
        (Fault::Dns, Phase::Dns, false, "network"),
        (Fault::Refused, Phase::Connect, false, "network"),
        (Fault::Refused, Phase::Connect, true, "local_unavailable"),
        (Fault::Certificate, Phase::Tls, false, "endpoint_config"),
        (Fault::Tls, Phase::Tls, false, "network"),
        (Fault::InvalidUrl, Phase::Connect, false, "endpoint_config"),
        (Fault::ProxyAuth, Phase::Connect, false, "auth"),
        (Fault::Timeout, Phase::Body, false, "timeout"),
        (Fault::Eof, Phase::Body, false, "network"),
        (Fault::Truncated, Phase::Stream, false, "truncated_stream"),
        (Fault::Malformed, Phase::Decode, false, "malformed_response"),
        (Fault::Cancelled, Phase::Headers, false, "cancelled"),
    ] {
        let failure = observe::blank("any", phase, fault, None, now());
        assert_eq!(judge(LlmFailure { self_hosted, ..failure }), expected, "{fault} {phase} {self_hosted}");
    }
}

#[test]
fn what_nobody_knows_is_tried_again_once_and_only_where_it_does_no_harm() {
    let cause = Cause::Unknown { detail: "?".to_owned() };
    for (effect, before, class, retry) in [
        (Effect::ReadOnly, false, Class::Transient, true),
        (Effect::Notification, false, Class::Transient, true),
        (Effect::ReadOnly, true, Class::Logic, false),
        (Effect::Mutation, false, Class::Logic, false),
        (Effect::Payment, false, Class::Logic, false),
    ] {
        let scene = Scene { unknown_before: before, ..Scene::new(effect, now()) };
        let Judgement::Failed(failure) = classify(&cause, &scene) else { panic!("a failure") };
        assert_eq!((failure.kind, failure.class, failure.retry), (Kind::Unknown, class, retry), "{effect} {before}");
    }
}

#[test]
fn a_payment_that_may_have_happened_is_known_as_such() {
    let call = |fault, status, sent| {
        let failure = observe::blank("any", Phase::Headers, fault, status, now());
        Cause::Llm(Box::new(LlmFailure { sent, ..failure }))
    };
    for (cause, unknown) in [
        (call(Fault::Reset, None, true), true),
        (call(Fault::Timeout, None, true), true),
        (call(Fault::Truncated, Some(200), true), true),
        (call(Fault::Status, Some(504), true), true),
        (call(Fault::Status, Some(529), true), false),
        (call(Fault::Refused, None, false), false),
        (call(Fault::Timeout, None, false), false),
        (Cause::LeaseLapsed, true),
        (Cause::DeadlinePassed, false),
    ] {
        assert_eq!(outcome_unknown(&cause, Effect::Payment), unknown, "{cause:?}");
        assert!(!outcome_unknown(&cause, Effect::ReadOnly), "{cause:?}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_a_provider_answers_the_judgement_is_consistent(
        status in 100_u16..700,
        words in "(overloaded|timeout|529|insufficient_quota|limit: 0|try again in [0-9]{1,6}(s|ms|h)|model| |\\{|\"|é|\\[){0,8}",
        code in "(rate_limit_exceeded|invalid_request_error|overloaded_error|context_length_exceeded|429|x)",
        wrapped in proptest::bool::ANY,
        retry_after in "[0-9]{0,6}",
    ) {
        let body = match wrapped {
            true => serde_json::json!({"error": {"message": words, "code": code, "type": code}}).to_string(),
            false => words,
        };
        let failure = answer("openai", status, &[("retry-after", &retry_after)], &body);
        let scene = Scene::new(Effect::ReadOnly, now());
        if let Judgement::Failed(failure) = classify(&Cause::Llm(Box::new(failure)), &scene) {
            assert_eq!(failure.retry, failure.action == Action::Backoff);
            assert!(failure.message.chars().count() <= 500);
            assert!(!failure.retry || failure.retry_after.is_none_or(|span| span <= scene.hint_cap));
            assert!(!failure.retry || matches!(failure.class, Class::Transient | Class::Infrastructure));
            assert_eq!(failure.page, failure.signal == Signal::Open || failure.kind == Kind::PolicyBlock);
        }
    }
}

#[test]
fn messages_are_one_line_without_secrets() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-proj-abcdefghijklmnop.\nTry\u202e again.","code":"invalid_api_key"}}"#;
    let failure = answer("openai", 401, &[], body);
    let Judgement::Failed(failure) = classify(&Cause::Llm(Box::new(failure)), &Scene::new(Effect::ReadOnly, now()))
    else {
        panic!("a failure")
    };
    assert_eq!(
        failure.message,
        "openai 401 (invalid_api_key): Incorrect API key provided: [redacted]. Try\\u{202e} again."
    );
    let long = answer("openai", 500, &[], &serde_json::json!({"error": "ä".repeat(100_000)}).to_string());
    let Judgement::Failed(failure) = classify(&Cause::Llm(Box::new(long)), &Scene::new(Effect::ReadOnly, now())) else {
        panic!("a failure")
    };
    assert_eq!(failure.message.chars().count(), 500);
}
