//! What providers' machine-readable words mean: codes, error types, exception names and stop reasons, as tables.
//!
//! Two tables of codes, because some words only repeat the status and sometimes lie (`invalid_request_error` under a
//! 401): [`exact`] decides at once, [`general`] only after text and status had their say. Words are compared without
//! regard to case. A new word of a provider is one more entry here and one more row in the corpus.

use crate::failure::Kind;

/// Words that mean one thing, whatever the status says.
const EXACT: &[(Kind, &[&str])] = &[
    (Kind::PolicyBlock, &["misalignment_policy_violation"]),
    (
        Kind::Overloaded,
        &[
            "overloaded_error",
            "overloaded",
            "server_is_overloaded",
            "engine_overloaded_error",
            "capacity_exceeded",
            "service_tier_capacity_exceeded",
            "3505",
            "compaction_unavailable",
            "MODEL_CAPACITY_EXHAUSTED",
            "ModelNotReadyException",
            "ServiceUnavailableException",
            "NoCapacity",
        ],
    ),
    (
        Kind::RateLimited,
        &[
            "slow_down",
            "ramp_limit_exceeded",
            "1300",
            "rate_limited",
            "rate_limit_reached",
            "RATE_LIMIT_EXCEEDED_PER_MINUTE",
            "ThrottlingException",
            "TooManyRequestsException",
            "openrouter_in_flight_budget",
        ],
    ),
    (
        Kind::QuotaExhausted,
        &[
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
            "linked_organization_spend_limit_reached",
            "linked_organization_billing_unavailable",
            "billing_error",
            "organization_on_hold",
            "ServiceQuotaExceededException",
            "openrouter_credits",
            "openrouter_key_limit",
            "INSUFFICIENT_G1_CREDITS_BALANCE",
            "QUOTA_EXHAUSTED",
            "BILLING_DISABLED",
            "QuotaExceeded",
            "exceeded_current_quota_error",
            "insufficient_balance",
            "budget_exceeded",
            "BudgetExceededError",
        ],
    ),
    (
        Kind::Auth,
        &[
            "authentication_error",
            "invalid_api_key",
            "incorrect_api_key",
            "api_key_expired",
            "ip_not_authorized",
            "account_deactivated",
            "token_expired",
            "token_not_found_in_db",
            "expired_key",
            "auth_error",
            "unauthorized",
            "API_KEY_INVALID",
            "ACCESS_TOKEN_EXPIRED",
            "UNAUTHENTICATED",
            "AuthenticationError",
            "UnrecognizedClientException",
            "ExpiredTokenException",
            "InvalidSignatureException",
            "IncompleteSignature",
            "MissingAuthenticationTokenException",
        ],
    ),
    (
        Kind::Permission,
        &[
            "permission_error",
            "unsupported_country_region_territory",
            "user_profile_billing_not_authorized",
            "user_profile_not_billable",
            "api_key_scope_missing",
            "organization_level_scoped_api_key_required",
            "cmek_key_disabled",
            "cmek_key_network_blocked",
            "key_model_access_denied",
            "model_terms_required",
            "AccessDeniedException",
            "PERMISSION_DENIED",
            "PermissionDeniedError",
            "SERVICE_DISABLED",
            "CONSUMER_SUSPENDED",
            "CONSUMER_INVALID",
            "USER_PROJECT_DENIED",
            "VALIDATION_REQUIRED",
            "API_KEY_SERVICE_BLOCKED",
            "API_KEY_HTTP_REFERRER_BLOCKED",
            "API_KEY_IP_ADDRESS_BLOCKED",
        ],
    ),
    (
        Kind::EndpointConfig,
        &[
            "not_supported_error",
            "unknown_url",
            "data_residency_mismatch",
            "UNIMPLEMENTED",
            "UnknownOperationException",
        ],
    ),
    (
        Kind::ModelUnavailable,
        &[
            "model_not_found",
            "model_not_available",
            "model_decommissioned",
            "model_deprecated",
            "invalid_model",
            "unsupported_model",
            "DeploymentNotFound",
            "OperationNotSupported",
            "ResourceNotFoundException",
        ],
    ),
    (
        Kind::ContextTooLong,
        &[
            "context_length_exceeded",
            "context_window_exceeded",
            "exceed_context_size_error",
            "model_context_window_exceeded",
            "ContextWindowExceededError",
        ],
    ),
    (
        Kind::RequestTooLarge,
        &[
            "request_too_large",
            "image_dimensions_too_large",
            "image_too_large",
            "image_file_too_large",
            "request_body_too_large_after_decoding",
            "payload_too_large",
        ],
    ),
    (
        Kind::Refused,
        &[
            "content_policy_violation",
            "image_content_policy_violation",
            "cyber_policy",
            "bio_policy",
            "content_filter",
            "moderation_blocked",
            "ResponsibleAIPolicyViolation",
            "ContentPolicyViolationError",
        ],
    ),
    (Kind::BadOutput, &["tool_use_failed", "json_validate_failed", "output_parse_failed"]),
    (Kind::OutputCut, &["max_output_tokens", "max_messages"]),
    (
        Kind::Timeout,
        &[
            "timeout_error",
            "request_timeout",
            "request_body_timeout",
            "gateway_timeout",
            "vector_store_timeout",
            "external_key_validation_timed_out",
            "DEADLINE_EXCEEDED",
            "ModelTimeoutException",
        ],
    ),
    (Kind::InFlightConflict, &["thread_continue_in_flight", "conflict_error", "ConflictException", "ABORTED"]),
    (
        Kind::ServerError,
        &[
            "ModelErrorException",
            "ModelStreamErrorException",
            "InternalServerException",
            "cmek_key_unreachable",
            "cmek_context_unavailable",
            "registration_pending",
        ],
    ),
    (
        Kind::InvalidRequest,
        &[
            "string_above_max_length",
            "array_above_max_length",
            "unsupported_parameter",
            "unsupported_value",
            "invalid_value",
            "missing_required_parameter",
            "unknown_parameter",
            "invalid_json_schema",
            "invalid_function_parameters",
            "invalid_prompt",
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_url",
            "invalid_image_mode",
            "image_too_small",
            "image_parse_error",
            "image_file_not_found",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
            "tool_name_conflict",
        ],
    ),
];

/// Words that say little more than a status does. `invalid_request_error` and its kin are not here for a status to
/// believe: Mistral uses them for overload, OpenAI for bad keys.
const GENERAL: &[(Kind, &[&str])] = &[
    (
        Kind::RateLimited,
        &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "rateLimitExceeded",
            "RateLimitError",
            "throttling_error",
            "too_many_requests",
            "RESOURCE_EXHAUSTED",
        ],
    ),
    (Kind::Overloaded, &["service_unavailable_error", "UNAVAILABLE", "unavailable_error", "ServiceUnavailableError"]),
    (Kind::Timeout, &["timeout", "TimeoutError"]),
    (
        Kind::ServerError,
        &[
            "server_error",
            "api_error",
            "internal",
            "internal_error",
            "internal_server_error",
            "InternalServerError",
            "UNKNOWN",
            "DATA_LOSS",
        ],
    ),
    (Kind::ModelUnavailable, &["not_found_error", "NOT_FOUND", "NotFoundError"]),
    (Kind::Permission, &["request_forbidden", "forbidden"]),
    (
        Kind::InvalidRequest,
        &[
            "invalid_request_error",
            "invalid_request",
            "bad_request",
            "BadRequestError",
            "INVALID_ARGUMENT",
            "FAILED_PRECONDITION",
            "OUT_OF_RANGE",
            "UnprocessableEntityError",
            "ValidationException",
        ],
    ),
];

/// Codes whose documented cure is to send the whole conversation again: a changed request, not a dead one.
const LOST_THREAD: &[&str] =
    &["thread_not_found", "thread_already_continued", "thread_fingerprint_mismatch", "previous_response_not_found"];

/// What a word means that decides by itself.
#[must_use]
pub fn exact(word: &str) -> Option<Kind> {
    // Anthropic's compaction codes are all about the request, but for the one in the table.
    let compaction = || word.starts_with("compaction_").then_some(Kind::InvalidRequest);
    find(EXACT, word).or_else(compaction)
}

/// What a word means that only repeats, or belies, the status.
#[must_use]
pub fn general(word: &str) -> Option<Kind> {
    find(GENERAL, word)
}

/// Is the conversation kept by the provider lost, so that all of it has to be sent again?
#[must_use]
pub fn is_lost_thread(word: &str) -> bool {
    LOST_THREAD.contains(&word)
}

/// Did the provider say that the call was cancelled?
#[must_use]
pub fn is_cancelled(word: &str) -> bool {
    word.eq_ignore_ascii_case("cancelled") || word.eq_ignore_ascii_case("canceled")
}

fn find(table: &[(Kind, &[&str])], word: &str) -> Option<Kind> {
    // AWS writes exceptions with a namespace in front and a URL behind, and in lower camel case inside a stream.
    let word = word.split(':').next().unwrap_or(word);
    let word = word.rsplit('#').next().unwrap_or(word);
    table.iter().find(|(_, words)| words.iter().any(|known| known.eq_ignore_ascii_case(word))).map(|(kind, _)| *kind)
}

/// What a stop reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model had said what it wanted to say; if that is unusable, the evidence tells why.
    Normal,
    /// It is not over: the same conversation goes on with what there is.
    Continue,
    /// No usable answer, for this reason.
    Failed(Kind),
}

/// Stop reasons that end an answer as it should end.
const NORMAL: &[&str] =
    &["end_turn", "stop", "stop_sequence", "tool_use", "tool_calls", "function_call", "eos", "completed", "complete"];

/// Stop reasons after which the same conversation is simply continued.
const CONTINUED: &[&str] = &["pause_turn", "CONTINUATION", "steered"];

/// Stop reasons that leave no usable answer.
const FAILED: &[(Kind, &[&str])] = &[
    (
        Kind::OutputCut,
        &["max_tokens", "length", "model_length", "max_output_tokens", "max_messages", "max_completion_tokens"],
    ),
    (Kind::ContextTooLong, &["model_context_window_exceeded", "context_length_exceeded", "context_window_exceeded"]),
    (
        Kind::Refused,
        &[
            "refusal",
            "content_filter",
            "content_filtered",
            "guardrail_intervened",
            "SAFETY",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "MODEL_ARMOR",
            "ESCALATION",
            "JAILBREAK",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "blocked",
            "sensitive",
        ],
    ),
    (Kind::Recitation, &["RECITATION", "IMAGE_RECITATION"]),
    (
        Kind::BadOutput,
        &[
            "malformed_tool_use",
            "malformed_model_output",
            "MALFORMED_FUNCTION_CALL",
            "UNEXPECTED_TOOL_CALL",
            "MALFORMED_RESPONSE",
            "LANGUAGE",
            "IMAGE_OTHER",
        ],
    ),
    (Kind::EmptyOutput, &["NO_IMAGE", "load", "unload"]),
    (Kind::Loop, &["TOO_MANY_TOOL_CALLS"]),
    (Kind::InvalidRequest, &["MISSING_THOUGHT_SIGNATURE"]),
    (Kind::Permission, &["PUP_LIMITED_DISABLED"]),
    (Kind::Overloaded, &["insufficient_system_resource"]),
    (Kind::ServerError, &["error", "failed", "abort"]),
];

/// What a raw stop reason means; `None` when nobody knows it.
#[must_use]
pub fn stop(reason: &str) -> Option<Stop> {
    let among = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(reason));
    if among(NORMAL) {
        return Some(Stop::Normal);
    }
    if among(CONTINUED) {
        return Some(Stop::Continue);
    }
    find(FAILED, reason).map(Stop::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_stands_in_a_table_twice() {
        for table in [EXACT, GENERAL, FAILED] {
            let mut words: Vec<String> =
                table.iter().flat_map(|(_, words)| words.iter().map(|word| word.to_ascii_lowercase())).collect();
            let count = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), count);
        }
    }

    #[test]
    fn exceptions_are_known_with_and_without_their_wrapping() {
        for word in [
            "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/",
            "throttlingException",
            "com.amazon.coral.availability#ThrottlingException",
        ] {
            assert_eq!(exact(word), Some(Kind::RateLimited), "{word}");
        }
    }
}
