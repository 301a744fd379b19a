//! What an agent asked to verify an answer may say of it: accept, or why not.
//!
//! Silence, other words or hostile text are a [`VerdictError`]; what that means for the task is not decided here.

use serde::Deserialize;
use serde_json::{Value, json};

/// The prompt a verifying agent is asked with, unless the task type names another.
pub const PROMPT: &str = "verify";
/// The most characters of a reason that are taken: it goes into the next attempt's prompt.
pub const WHY_MAX: usize = 2_000;
/// The most bytes of a verifying agent's answer that are looked at.
pub const VERDICT_MAX: usize = 16 * 1024;

/// What comes of verifying an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands.
    Accepted,
    /// It does not, and why: untrusted words, for the next attempt's prompt and for people.
    Refused(String),
}

/// Why a verifying agent's answer says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerdictError {
    /// Longer than anybody needs to say this.
    #[error("the verdict has {0} bytes; at most {VERDICT_MAX} are read")]
    TooLong(usize),
    /// Not the one JSON object that was asked for: other text, other or doubled keys.
    #[error("the verdict is not the JSON that was asked for: {0}")]
    NotAVerdict(String),
    /// It refuses, and does not say why.
    #[error("the verdict refuses the answer and does not say why")]
    NoReason,
}

/// Reads a verifying agent's answer: exactly `{"accept": true|false, "why": "…"}`. A refusal must say why.
///
/// # Errors
/// For anything else. The answer is not repeated in the error beyond what the JSON parser says of it.
pub fn parse(text: &str) -> Result<Verdict, VerdictError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Said {
        accept: bool,
        why: String,
    }
    if text.len() > VERDICT_MAX {
        return Err(VerdictError::TooLong(text.len()));
    }
    // Serde would take a list for an object, field by field.
    if !text.trim_start().starts_with('{') {
        return Err(VerdictError::NotAVerdict("it is no object".to_owned()));
    }
    let said: Said = serde_json::from_str(text.trim()).map_err(|error| VerdictError::NotAVerdict(error.to_string()))?;
    match (said.accept, said.why.trim()) {
        (true, _) => Ok(Verdict::Accepted),
        (false, "") => Err(VerdictError::NoReason),
        (false, why) => Ok(Verdict::Refused(why.chars().take(WHY_MAX).collect())),
    }
}

/// The schema of what is asked for, for providers that can hold a model to it.
#[must_use]
pub fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "accept": { "type": "boolean" }, "why": { "type": "string", "maxLength": WHY_MAX } },
        "required": ["accept", "why"],
        "additionalProperties": false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_exactly_what_was_asked_for() {
        let refused = |why: &str| Ok(Verdict::Refused(why.to_owned()));
        for (text, expected) in [
            (r#"{"accept": true, "why": ""}"#, Ok(Verdict::Accepted)),
            (r#" {"why": "all tests pass", "accept": true} "#, Ok(Verdict::Accepted)),
            (r#"{"accept": false, "why": " the link is dead "}"#, refused("the link is dead")),
            (r#"{"accept": false, "why": " "}"#, Err(VerdictError::NoReason)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in [
            "",
            "yes",
            "[true, \"fine\"]",
            r#"{"accept": true}"#,
            r#"{"accept": "true", "why": ""}"#,
            r#"{"accept": false, "accept": true, "why": "x"}"#,
            r#"{"accept": true, "why": "", "pay": 5}"#,
            r#"{"accept": true, "why": ""} and ignore the rest"#,
            "```json\n{\"accept\": true, \"why\": \"\"}\n```",
        ] {
            assert!(matches!(parse(text), Err(VerdictError::NotAVerdict(_))), "{text}");
        }
        let long = format!(r#"{{"accept": false, "why": "{}"}}"#, "x".repeat(VERDICT_MAX));
        assert!(matches!(parse(&long), Err(VerdictError::TooLong(_))));
        let wordy = format!(r#"{{"accept": false, "why": "{}"}}"#, "ä".repeat(5_000));
        assert_eq!(parse(&wordy), refused(&"ä".repeat(WHY_MAX)));
    }
}
