//! Whether an answer can be accepted: JSON, and every violation of its schema with its path.
//!
//! The only file that knows which JSON Schema validator is used. An answer is untrusted text: its size, depth and
//! duplicate keys are limited before anybody looks at what it says.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::cause::{OutputFault, OutputReason, Violation};
use crate::schema_cost;

/// The largest answer accepted, in bytes. Models write less than a tenth of it.
pub const ANSWER_LIMIT: usize = 1024 * 1024;
/// How much of a refused answer is kept, in bytes.
pub const EXCERPT_LIMIT: usize = 4 * 1024;
/// How many violations are told; a model corrects none of the rest either.
const VIOLATIONS_MAX: usize = 20;
/// How long one violation's text may be, in characters: it may quote the answer.
const MESSAGE_MAX: usize = 300;

/// A JSON Schema, compiled once and used for many answers.
#[derive(Clone, Debug)]
pub struct Validator {
    inner: jsonschema::Validator,
    /// The schema, where it refers to parts of itself: what it takes depends on the value then.
    referring: Option<Referring>,
}

#[derive(Clone, Debug)]
struct Referring {
    schema: Value,
    /// Does who only asks whether a value is right remember what was found of its parts?
    remembered: bool,
}

/// A schema that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable JSON Schema at `{path}`: {message}")]
pub struct SchemaError {
    /// JSON pointer into the schema; empty for the whole of it.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl Validator {
    /// Compiles a schema.
    ///
    /// # Errors
    /// When it is not a valid JSON Schema, refers to another document, or refers to so much that no value could be held
    /// against it in our time.
    pub fn new(schema: &Value) -> Result<Self, SchemaError> {
        let refers = schema_cost::refers(schema);
        if refers && !schema_cost::is_finite(schema) {
            let message = format!(
                "its `$ref`s lead back to where they stand, or to more than {} schemas, each counted as often as it is \
                 reached; let fewer of them lead to the same place",
                schema_cost::EXPANDED_MAX
            );
            return Err(SchemaError { path: String::new(), message });
        }
        jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .map(|inner| Self {
                inner,
                referring: refers
                    .then(|| Referring { schema: schema.clone(), remembered: schema_cost::is_remembered(schema) }),
            })
            .map_err(|error| SchemaError { path: error.instance_path().to_string(), message: schema_message(&error) })
    }

    /// Everything that is wrong with a value, with its paths; empty when it meets the schema.
    #[must_use]
    pub fn violations(&self, value: &Value) -> Vec<Violation> {
        self.judge(value).map_or_else(Vec::new, |(_, violations)| violations)
    }

    fn judge(&self, value: &Value) -> Option<(OutputReason, Vec<Violation>)> {
        let Some(Referring { schema, remembered }) = &self.referring else { return self.judge_all(value) };
        // Nothing could stop it once it is begun. Whether it is right is told quickly, and all that is wrong is not.
        if *remembered && self.inner.is_valid(value) {
            return None;
        }
        if schema_cost::affords(schema, value) {
            return self.judge_all(value);
        }
        let message = "is too large or too deep for a schema that refers to itself so often: nest less".to_owned();
        Some((OutputReason::Constraint, vec![Violation { path: String::new(), message }]))
    }

    fn judge_all(&self, value: &Value) -> Option<(OutputReason, Vec<Violation>)> {
        let (mut found, mut missing, mut shape, mut bounds) = (Vec::new(), 0, 0, 0);
        for error in self.inner.iter_errors(value) {
            match reason_of(error.kind()) {
                OutputReason::MissingField => missing += 1,
                OutputReason::Constraint => bounds += 1,
                OutputReason::NotJson
                | OutputReason::Schema
                | OutputReason::Empty
                | OutputReason::ErrorText
                | OutputReason::NotVerified
                | OutputReason::SameAgain => shape += 1,
            }
            found.extend(tell(&error));
        }
        let reason = match (missing, shape, bounds) {
            (0, 0, 0) => return None,
            (_, 0, 0) => OutputReason::MissingField,
            (0, 0, _) => OutputReason::Constraint,
            _ => OutputReason::Schema,
        };
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup();
        let more = found.len().saturating_sub(VIOLATIONS_MAX);
        found.truncate(VIOLATIONS_MAX);
        if more > 0 {
            found.push(Violation { path: String::new(), message: format!("and {more} more") });
        }
        Some((reason, found))
    }
}

/// Accepts an answer, or says everything that is wrong with it. Without a schema any text that is not blank is accepted.
///
/// # Errors
/// When the answer is empty, too large, no JSON, or breaks the schema; and when it is, to the letter, a refused one again.
pub fn validate(
    text: &str,
    validator: Option<&Validator>,
    previous_excerpt: Option<&str>,
) -> Result<Value, OutputFault> {
    let fault = |reason, violations| OutputFault {
        reason: if previous_excerpt == Some(text) { OutputReason::SameAgain } else { reason },
        violations,
        excerpt: excerpt(text).to_owned(),
    };
    let whole = |message: String| vec![Violation { path: String::new(), message }];
    if text.trim().is_empty() {
        return Err(fault(OutputReason::Empty, whole("the answer is empty".to_owned())));
    }
    if text.len() > ANSWER_LIMIT {
        let message = format!("the answer is {} bytes; the limit is {ANSWER_LIMIT}", text.len());
        return Err(fault(OutputReason::Constraint, whole(message)));
    }
    let Some(validator) = validator else {
        return match error_text(text) {
            Some(what) => {
                let message = format!("this is {what}, not a result; if it cannot be done, say why in a sentence");
                Err(fault(OutputReason::ErrorText, whole(message)))
            }
            None => Ok(Value::String(text.to_owned())),
        };
    };
    let value = match serde_json::from_str::<Strict>(unfenced(text)) {
        Ok(Strict(value)) => value,
        Err(error) => {
            let message = format!("not JSON: {}", cut(&error.to_string(), MESSAGE_MAX));
            return Err(fault(OutputReason::NotJson, whole(message)));
        }
    };
    match validator.judge(&value) {
        None => Ok(value),
        Some((reason, violations)) => Err(fault(reason, violations)),
    }
}

/// How programs begin when they failed. An answer about an error does not begin so.
const ERRORS: &[&str] = &["error:", "exception:", "fatal:", "panic:", "traceback (most recent call last)"];

/// Is it the words of a program that failed, handed on as if they were the result? Told by its form alone: how it
/// begins, or an object with an `error` and nothing that could be a result. A schema is the better net.
fn error_text(text: &str) -> Option<&'static str> {
    let begins = |prefix: &&str| {
        text.trim_start()
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if ERRORS.iter().any(begins) {
        return Some("the text of an error");
    }
    let value: Value = serde_json::from_str(unfenced(text)).ok()?;
    let members = value.as_object()?;
    let only_error = members.keys().all(|key| matches!(key.as_str(), "error" | "message" | "code" | "status" | "type"));
    (members.get("error").is_some_and(|error| !error.is_null()) && only_error).then_some("an error object")
}

/// The beginning of an answer, at most [`EXCERPT_LIMIT`] bytes, never cut inside a character.
#[must_use]
pub fn excerpt(text: &str) -> &str {
    let mut end = text.len().min(EXCERPT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One fence around the whole answer is a habit of models, not a mistake worth a delivery. Text before or after is.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    match inner.and_then(|inner| inner.split_once('\n')) {
        Some((language, body)) if matches!(language.trim(), "" | "json" | "JSON") => body.trim(),
        Some(_) | None => text,
    }
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What is wrong with a schema, in words for who wrote it.
fn schema_message(error: &jsonschema::ValidationError<'_>) -> String {
    if matches!(error.kind(), ValidationErrorKind::Referencing(_)) {
        return "a `$ref` leads to what is not in this file".to_owned();
    }
    let told: Vec<String> = tell(error).into_iter().map(|violation| violation.message).collect();
    cut(&told.join("; "), MESSAGE_MAX)
}

/// Which of our reasons a violation is.
fn reason_of(kind: &ValidationErrorKind) -> OutputReason {
    use ValidationErrorKind as Kind;
    match kind {
        Kind::Required { .. } => OutputReason::MissingField,
        Kind::Constant { .. }
        | Kind::Contains
        | Kind::ContentEncoding { .. }
        | Kind::ContentMediaType { .. }
        | Kind::Enum { .. }
        | Kind::ExclusiveMaximum { .. }
        | Kind::ExclusiveMinimum { .. }
        | Kind::Format { .. }
        | Kind::MaxItems { .. }
        | Kind::Maximum { .. }
        | Kind::MaxLength { .. }
        | Kind::MaxProperties { .. }
        | Kind::MinItems { .. }
        | Kind::Minimum { .. }
        | Kind::MinLength { .. }
        | Kind::MinProperties { .. }
        | Kind::MultipleOf { .. }
        | Kind::Pattern { .. }
        | Kind::UniqueItems => OutputReason::Constraint,
        Kind::AdditionalItems { .. }
        | Kind::AdditionalProperties { .. }
        | Kind::AnyOf { .. }
        | Kind::BacktrackLimitExceeded { .. }
        | Kind::RegexEngineFailure { .. }
        | Kind::Custom { .. }
        | Kind::FalseSchema
        | Kind::FromUtf8 { .. }
        | Kind::Not { .. }
        | Kind::OneOfMultipleValid { .. }
        | Kind::OneOfNotValid { .. }
        | Kind::PropertyNames { .. }
        | Kind::Type { .. }
        | Kind::UnevaluatedItems { .. }
        | Kind::UnevaluatedProperties { .. }
        | Kind::Referencing(_) => OutputReason::Schema,
    }
}

/// A violation in words a model can act on: a missing or unknown property has its own path, and of several
/// alternatives the nearest is told, not "none of them".
fn tell(error: &jsonschema::ValidationError<'_>) -> Vec<Violation> {
    use ValidationErrorKind as Kind;
    let at = error.instance_path().to_string();
    let below = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other kind says itself what is wrong")]
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().map_or_else(|| property.to_string(), str::to_owned);
            vec![Violation { path: below(&name), message: "is required but missing".to_owned() }]
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => unexpected
            .iter()
            .map(|name| Violation {
                path: below(&cut(name, 80)),
                message: "is not a property of the schema".to_owned(),
            })
            .collect(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            let nearest = context.iter().filter(|errors| !errors.is_empty()).min_by_key(|errors| errors.len());
            let mut told =
                vec![Violation { path: at, message: "meets none of the alternatives of the schema".to_owned() }];
            told.extend(nearest.into_iter().flatten().flat_map(tell));
            told
        }
        _ => vec![Violation { path: at, message: cut(&error.to_string(), MESSAGE_MAX) }],
    }
}

/// JSON in which a key may stand once. `serde_json` itself keeps the last of two, and readers differ in which they believe.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key `{}` stands twice in one object", cut(&key, 80))));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Validator {
        Validator::new(&json!({
            "type": "object",
            "required": ["verdict", "notes"],
            "additionalProperties": false,
            "properties": {
                "verdict": {"enum": ["approve", "reject"]},
                "notes": {"type": "array", "items": {"type": "string", "minLength": 2}}
            }
        }))
        .expect("a schema")
    }

    fn refused(text: &str) -> (OutputReason, Vec<String>) {
        let fault = validate(text, Some(&schema()), None).expect_err(text);
        (fault.reason, fault.violations.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn good_answers_are_accepted_also_inside_one_fence() {
        let good = json!({"verdict": "approve", "notes": []});
        for text in [
            r#"{"verdict":"approve","notes":[]}"#,
            "  {\"verdict\":\"approve\",\"notes\":[]}\n",
            "```json\n{\"verdict\":\"approve\",\"notes\":[]}\n```",
            "```\n{\"verdict\":\"approve\",\"notes\":[]}\n```\n",
        ] {
            assert_eq!(validate(text, Some(&schema()), None).as_ref(), Ok(&good), "{text}");
        }
        assert_eq!(validate("done.", None, None), Ok(Value::String("done.".to_owned())));
    }

    #[test]
    fn an_error_handed_on_as_a_result_is_none() {
        for (text, refused) in [
            ("Error: connection refused", true),
            ("  ERROR: no such file", true),
            ("Traceback (most recent call last):\n  File \"a.py\"", true),
            (r#"{"error": "not found"}"#, true),
            (r#"{"error": {"code": 1}, "message": "no"}"#, true),
            ("```json\n{\"error\": \"no\"}\n```", true),
            ("Errors are handled in one place: `main`.", false),
            ("The error: a missing bracket in line 3.", false),
            (r#"{"error": null, "message": "fine"}"#, false),
            (r#"{"error": "none", "verdict": "approve"}"#, false),
            ("fatalism is not an error", false),
        ] {
            let reason = validate(text, None, None).err().map(|fault| fault.reason);
            assert_eq!(reason, refused.then_some(OutputReason::ErrorText), "{text}");
        }
    }

    #[test]
    fn every_violation_is_told_with_its_path() {
        assert_eq!(
            refused(r#"{"verdict":"maybe","notes":[1,"x"],"mood":"fine"}"#),
            (
                OutputReason::Schema,
                vec![
                    "/mood: is not a property of the schema".to_owned(),
                    "/notes/0: 1 is not of type \"string\"".to_owned(),
                    "/notes/1: \"x\" is shorter than 2 characters".to_owned(),
                    "/verdict: \"maybe\" is not one of \"approve\" or \"reject\"".to_owned(),
                ]
            )
        );
    }

    #[test]
    fn reasons_tell_missing_from_bounds_from_shape() {
        assert_eq!(
            refused(r#"{"notes":[]}"#),
            (OutputReason::MissingField, vec!["/verdict: is required but missing".to_owned()])
        );
        assert_eq!(refused(r#"{"verdict":"no","notes":[]}"#).0, OutputReason::Constraint);
        assert_eq!(refused(r#"{"verdict":"no"}"#).0, OutputReason::Schema);
        assert_eq!(refused("[]").0, OutputReason::Schema);
    }

    #[test]
    fn what_is_not_one_strict_json_value_is_refused() {
        for text in [
            "Sure! {\"verdict\":\"approve\",\"notes\":[]}",
            "{\"verdict\":\"approve\",\"notes\":[]} Hope this helps.",
            "```json\n{\"verdict\":\"approve\",\"notes\":[]}\n``` done",
            "{\"verdict\":\"approve\",\"verdict\":\"reject\",\"notes\":[]}",
            "{\"verdict\":NaN}",
            "{\"verdict\":1e999}",
            "{\"verdict\":\"approve\",\"notes\":[]",
            "{'verdict':'approve'}",
        ] {
            assert_eq!(refused(text).0, OutputReason::NotJson, "{text}");
        }
        assert_eq!(refused(&format!("{}{}", "[".repeat(200), "]".repeat(200))).0, OutputReason::NotJson);
        assert_eq!(refused(" \n ").0, OutputReason::Empty);
        assert_eq!(refused(&"x".repeat(ANSWER_LIMIT + 1)).0, OutputReason::Constraint);
    }

    #[test]
    fn the_same_refused_answer_again_is_said_to_be_so_but_a_good_one_never() {
        let bad = r#"{"notes":[]}"#;
        let fault = validate(bad, Some(&schema()), Some(bad)).expect_err("refused");
        assert_eq!((fault.reason, fault.violations.len()), (OutputReason::SameAgain, 1));
        let good = r#"{"verdict":"approve","notes":[]}"#;
        assert!(validate(good, Some(&schema()), Some(good)).is_ok());
    }

    #[test]
    fn many_violations_are_cut_and_counted() {
        let text = json!({"verdict": "approve", "notes": vec![1; 50]}).to_string();
        let (_, violations) = refused(&text);
        assert_eq!((violations.len(), violations.last().map(String::as_str)), (21, Some("and 30 more")));
    }

    #[test]
    fn of_alternatives_the_nearest_is_told() {
        let validator = Validator::new(&json!({"anyOf": [
            {"type": "object", "required": ["a", "b", "c"]},
            {"type": "object", "required": ["a"]}
        ]}))
        .expect("a schema");
        let told: Vec<String> = validator.violations(&json!({})).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["meets none of the alternatives of the schema", "/a: is required but missing"]);
    }

    #[test]
    fn schemas_that_are_none_are_refused_with_their_path() {
        let error = Validator::new(&json!({"properties": {"a": {"type": "strnig"}}})).expect_err("no schema");
        assert_eq!(error.path, "/properties/a/type");
        assert!(Validator::new(&json!({"$ref": "https://example.com/other.json"})).is_err());
    }

    /// Two kilobytes of a server's schema held a thread for ever: forty definitions, each of which referred twice to the
    /// next. No timer could end it, for it never waited.
    #[test]
    fn what_would_take_for_ever_is_refused_and_a_tree_is_not() {
        let twice = |to: String| json!({"allOf": [{"$ref": to}, {"$ref": to}]});
        let mut all: Map<String, Value> =
            (0..40).map(|n| (format!("a{n}"), twice(format!("#/$defs/a{}", n + 1)))).collect();
        all.insert("a40".to_owned(), json!({}));
        let error = Validator::new(&json!({"$ref": "#/$defs/a0", "$defs": all})).expect_err("refused");
        assert!(error.message.contains("let fewer of them lead to the same place"), "{error}");

        let nested = |depth: usize| (0..depth).fold(json!({}), |value, _| json!({"x": value}));
        let of = |x: Value| json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"x": x}}}});
        let tree = Validator::new(&of(json!({"$ref": "#/$defs/n"}))).expect("a schema");
        assert!(tree.violations(&nested(100)).is_empty());
        assert_eq!(tree.violations(&json!({"x": 1})).len(), 1);
        let doubles = Validator::new(&of(twice("#/$defs/n".to_owned()))).expect("a schema");
        assert!(doubles.violations(&nested(60)).is_empty(), "what is right is told so, however deep");
        let wrong = |depth: usize| (0..depth).fold(json!(1), |value, _| json!({"x": value}));
        assert_eq!(doubles.violations(&wrong(8)).len(), 1);
        let told = doubles.violations(&wrong(60));
        assert!(matches!(told.as_slice(), [one] if one.message.ends_with("nest less")), "{told:?}");
    }

    /// An answer in eight kinds of blocks within each other was right, and refused from the sixth level on.
    #[test]
    fn an_answer_of_many_kinds_of_blocks_may_go_deep() {
        let kinds: Vec<String> = (0..8).map(|n| format!("k{n}")).collect();
        let block = |kind: &String| {
            let children = json!({"type": "array", "items": {"$ref": "#/$defs/block"}});
            json!({"type": "object", "required": ["type"],
                "properties": {"type": {"const": kind}, "children": children}})
        };
        let mut all: Map<String, Value> = kinds.iter().map(|kind| (kind.clone(), block(kind))).collect();
        let each: Vec<Value> = kinds.iter().map(|kind| json!({"$ref": format!("#/$defs/{kind}")})).collect();
        all.insert("block".to_owned(), json!({"oneOf": each}));
        let validator = Validator::new(&json!({"$ref": "#/$defs/block", "$defs": all})).expect("a schema");
        let deep =
            (0..20).fold(json!({"type": "k7"}), |value, n: usize| json!({"type": kinds[n % 8], "children": [value]}));
        assert!(validator.violations(&deep).is_empty());
    }
}
