//! Faults by name: what `--fault` and the control API say, as rules of a script.
//!
//! One flat set of keys for both, every one of them known: a mistyped key must not become a fault that never comes.
//! `rate-limited,wire=openai,share=0.3` and `{"fault": "rate-limited", "wire": "openai", "share": 0.3}` are the same.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::script::{Answer, Behaviour, Hint, Rule, When};
use super::wire::{WIRES, name};
use crate::spelling::nearest;
use crate::time::{format_duration, parse_duration};

/// Every fault there is, by name.
pub const FAULTS: [&str; 24] = [
    "answer",
    "slow",
    "cut",
    "refusal",
    "schema-invalid",
    "wrong-arguments",
    "loop",
    "overloaded",
    "server-error",
    "unavailable",
    "gateway-timeout",
    "rate-limited",
    "unauthorized",
    "forbidden",
    "out-of-credit",
    "no-such-model",
    "too-long",
    "error-mid-stream",
    "truncated",
    "reset",
    "stall",
    "hang",
    "malformed",
    "html",
];

/// Every key of a rule.
pub const KEYS: [&str; 19] = [
    "fault",
    "name",
    "wire",
    "model",
    "prompt-has",
    "prompt-lacks",
    "turns",
    "tool",
    "calls",
    "from",
    "to",
    "for",
    "switch",
    "stream",
    "share",
    "retry-after",
    "hint",
    "pause",
    "text",
];

const HINTS: [&str; 6] = ["own", "none", "seconds", "millis", "date", "body"];

/// A key that is none, or says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct Error {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

impl Error {
    /// This is wrong with this key.
    pub(super) fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into() }
    }

    /// No such word here, and the nearest right one.
    pub(super) fn unknown(key: &str, what: &str, words: &[&str]) -> Self {
        let message = match nearest(what, words.iter().copied()) {
            Some(meant) => format!("`{what}` is unknown; did you mean `{meant}`?"),
            None => format!("`{what}` is unknown; known are {}", words.join(", ")),
        };
        Self::new(key, message)
    }
}

/// A rule as the command line writes it: `fault,key=value,...`.
///
/// # Errors
/// For an unknown key or fault, or a value that cannot be.
pub fn rule_of(spec: &str) -> Result<Rule, Error> {
    let mut fields = Map::new();
    for (index, part) in spec.split(',').enumerate() {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), value.trim()),
            None if index == 0 => ("fault", part.trim()),
            None => return Err(Error::new(part, "must be written key=value")),
        };
        if fields.insert(key.to_owned(), json!(value)).is_some() {
            return Err(Error::new(key, "is said twice"));
        }
    }
    rule(&fields, Duration::ZERO)
}

/// A rule of these keys; `elapsed` since the beginning, for spans that begin now.
///
/// # Errors
/// For an unknown key or fault, or a value that cannot be.
pub fn rule(fields: &Map<String, Value>, elapsed: Duration) -> Result<Rule, Error> {
    let said = Said::new(fields)?;
    let fault = said
        .text("fault")
        .ok_or_else(|| Error::new("fault", format!("is missing; known are {}", FAULTS.join(", "))))?;
    let then = behaviour(&fault, &said)?;
    Ok(Rule { name: said.text("name").unwrap_or(fault), when: when(&said, elapsed)?, then })
}

/// The fields of a rule, all of them known, as text.
struct Said(Vec<(String, String)>);

impl Said {
    fn new(fields: &Map<String, Value>) -> Result<Self, Error> {
        let one = |(key, value): (&String, &Value)| {
            let folded = key.replace('_', "-");
            if !KEYS.contains(&folded.as_str()) {
                return Err(Error::unknown(key, key, &KEYS));
            }
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(Error::new(key, "must be a word, a number, or true or false"));
                }
            };
            if text.is_empty() { Err(Error::new(key, "is empty")) } else { Ok((folded, text)) }
        };
        fields.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone())
    }

    /// The value of a key, read; `what` says what it should have been.
    fn read<T>(&self, key: &str, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::new(key, format!("`{text}` is not {what}"))),
        }
    }

    fn span(&self, key: &str) -> Result<Option<Duration>, Error> {
        self.read(key, "a duration such as 30s or 2m", |text| parse_duration(text).ok())
    }

    /// Refuses keys that only go with other faults.
    fn only(&self, fault: &str, allowed: &[&str]) -> Result<(), Error> {
        let belongs = [
            ("retry-after", "rate-limited"),
            ("hint", "rate-limited"),
            ("pause", "slow"),
            ("text", "answer, slow, cut or refusal"),
        ];
        for (key, to) in belongs {
            if self.text(key).is_some() && !allowed.contains(&key) {
                return Err(Error::new(key, format!("goes with {to}, not with {fault}")));
            }
        }
        Ok(())
    }
}

fn behaviour(fault: &str, said: &Said) -> Result<Behaviour, Error> {
    let answer = || said.text("text").map_or(Answer::Sample, Answer::Text);
    let allowed: &[&str] = match fault {
        "answer" | "cut" | "refusal" => &["text"],
        "slow" => &["text", "pause"],
        "rate-limited" => &["retry-after", "hint"],
        _ => &[],
    };
    said.only(fault, allowed)?;
    Ok(match fault {
        "answer" => Behaviour::Answer(answer()),
        "slow" => {
            let pause = said.span("pause")?.unwrap_or(Duration::from_secs(1));
            Behaviour::Slow { answer: answer(), pause }
        }
        "cut" => Behaviour::Cut(answer()),
        "refusal" => Behaviour::Refuse(said.text("text").unwrap_or_else(|| "I can't help with that.".to_owned())),
        "schema-invalid" => Behaviour::SchemaInvalid,
        "wrong-arguments" => Behaviour::WrongArguments,
        "loop" => Behaviour::Loop,
        "overloaded" => Behaviour::Overloaded,
        "server-error" => Behaviour::ServerError,
        "unavailable" => Behaviour::Unavailable,
        "gateway-timeout" => Behaviour::GatewayTimeout,
        "rate-limited" => rate_limited(said)?,
        "unauthorized" => Behaviour::Unauthorized,
        "forbidden" => Behaviour::Forbidden,
        "out-of-credit" => Behaviour::OutOfCredit,
        "no-such-model" => Behaviour::NoSuchModel,
        "too-long" => Behaviour::TooLong,
        "error-mid-stream" => Behaviour::ErrorMidStream,
        "truncated" => Behaviour::Truncated,
        "reset" => Behaviour::Reset,
        "stall" => Behaviour::Stall,
        "hang" => Behaviour::Hang,
        "malformed" => Behaviour::Malformed,
        "html" => Behaviour::Html,
        _ => return Err(Error::unknown("fault", fault, &FAULTS)),
    })
}

fn rate_limited(said: &Said) -> Result<Behaviour, Error> {
    let retry_after = said.span("retry-after")?;
    let hint = match said.text("hint").as_deref() {
        None | Some("own") => return Ok(Behaviour::RateLimited { retry_after }),
        Some("none") if retry_after.is_some() => {
            return Err(Error::new("retry-after", "says when, and `hint: none` that nobody says"));
        }
        Some("none") => return Ok(Behaviour::RateLimitedSilently),
        Some("seconds") => Hint::Seconds,
        Some("millis") => Hint::Millis,
        Some("date") => Hint::Date,
        Some("body") => Hint::Body,
        Some(other) => return Err(Error::unknown("hint", other, &HINTS)),
    };
    Ok(Behaviour::RateLimitedHinting { hint, retry_after })
}

fn when(said: &Said, elapsed: Duration) -> Result<When, Error> {
    let mut when = When::any();
    if let Some(text) = said.text("wire") {
        let names = WIRES.map(name);
        let wire = WIRES.into_iter().find(|wire| name(*wire) == text);
        when = when.wire(wire.ok_or_else(|| Error::unknown("wire", &text, &names))?);
    }
    when.model = said.text("model");
    when.has = said.text("prompt-has").into_iter().collect();
    when.lacks = said.text("prompt-lacks").into_iter().collect();
    when.tool = said.text("tool");
    when.switch = said.text("switch");
    when.turns = said.read("turns", "a number of turns", |text| text.parse().ok())?;
    when.streamed = said.read("stream", "true or false", |text| text.parse().ok())?;
    when.share = said.read("share", "a number from 0 to 1", |text| {
        text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share))
    })?;
    when.calls = said.read("calls", "a number, or two as in 1-3, the first call being 1", calls)?;
    let (from, to, span) = (said.span("from")?, said.span("to")?, said.span("for")?);
    if to.is_some() && span.is_some() {
        return Err(Error::new("for", "says when it ends, and so does `to`; give one of them"));
    }
    if from.is_some() || to.is_some() || span.is_some() {
        let from = from.unwrap_or(if span.is_some() { elapsed } else { Duration::ZERO });
        let end = to.or_else(|| span.map(|span| from.saturating_add(span))).unwrap_or(Duration::MAX);
        if end <= from {
            let key = if to.is_some() { "to" } else { "for" };
            return Err(Error::new(key, "ends before it begins"));
        }
        when = when.between(from, end);
    }
    Ok(when)
}

fn calls(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (1 <= first && first <= last).then_some(first..=last)
}

/// The name of a behaviour among the faults.
#[must_use]
pub const fn fault(behaviour: &Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Answer(_) => "answer",
        Behaviour::Slow { .. } => "slow",
        Behaviour::Cut(_) => "cut",
        Behaviour::Refuse(_) => "refusal",
        Behaviour::SchemaInvalid => "schema-invalid",
        Behaviour::WrongArguments => "wrong-arguments",
        Behaviour::Loop => "loop",
        Behaviour::Overloaded => "overloaded",
        Behaviour::ServerError => "server-error",
        Behaviour::Unavailable => "unavailable",
        Behaviour::GatewayTimeout => "gateway-timeout",
        Behaviour::RateLimited { .. } | Behaviour::RateLimitedHinting { .. } | Behaviour::RateLimitedSilently => {
            "rate-limited"
        }
        Behaviour::Unauthorized => "unauthorized",
        Behaviour::Forbidden => "forbidden",
        Behaviour::OutOfCredit => "out-of-credit",
        Behaviour::NoSuchModel => "no-such-model",
        Behaviour::TooLong => "too-long",
        Behaviour::ErrorMidStream => "error-mid-stream",
        Behaviour::Truncated => "truncated",
        Behaviour::Reset => "reset",
        Behaviour::Stall => "stall",
        Behaviour::Hang => "hang",
        Behaviour::Malformed => "malformed",
        Behaviour::Html => "html",
    }
}

/// A rule in the words it could be written in.
#[must_use]
pub fn shown(rule: &Rule) -> Value {
    let when = &rule.when;
    let span = |span: Duration| (span < Duration::MAX).then(|| format_duration(span));
    let all = json!({
        "name": rule.name,
        "fault": fault(&rule.then),
        "wire": when.wire.map(name),
        "model": when.model,
        "prompt-has": (!when.has.is_empty()).then(|| when.has.join(", ")),
        "prompt-lacks": (!when.lacks.is_empty()).then(|| when.lacks.join(", ")),
        "turns": when.turns,
        "tool": when.tool,
        "calls": when.calls.as_ref().map(|calls| format!("{}-{}", calls.start(), calls.end())),
        "from": when.between.map(|(from, _)| format_duration(from)),
        "to": when.between.and_then(|(_, to)| span(to)),
        "switch": when.switch,
        "stream": when.streamed,
        "share": when.share,
    });
    all.as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_and_is_read_by_it() {
        for name in FAULTS {
            assert_eq!(fault(&rule_of(name).expect(name).then), name);
        }
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for (spec, expected) in [
            ("overloaded", json!({"name": "overloaded", "fault": "overloaded"})),
            (
                "rate-limited,name=q,wire=openai,share=0.25,retry-after=30s",
                json!({"name": "q", "fault": "rate-limited", "wire": "openai", "share": 0.25}),
            ),
            (
                "stall,model=claude-*,stream=true,calls=2-3,from=10s,to=1m",
                json!({"name": "stall", "fault": "stall", "model": "claude-*", "stream": true, "calls": "2-3",
                    "from": "10s", "to": "1m"}),
            ),
        ] {
            assert_eq!(shown(&rule_of(spec).expect(spec)), expected);
        }
        let fields = json!({"fault": "hang", "for": "5s"});
        let later = rule(fields.as_object().expect("fields"), Duration::from_secs(60)).expect("a rule");
        assert_eq!((&shown(&later)["from"], &shown(&later)["to"]), (&json!("1m"), &json!("1m5s")), "from now on");
    }

    #[test]
    fn what_cannot_be_is_refused_by_key_with_the_nearest_right_word() {
        for (spec, expected) in [
            ("overloded", "`fault`: `overloded` is unknown; did you mean `overloaded`?"),
            ("hang,shre=1", "`shre`: `shre` is unknown; did you mean `share`?"),
            ("hang,share=1.5", "`share`: `1.5` is not a number from 0 to 1"),
            ("hang,share=nan", "`share`: `nan` is not a number from 0 to 1"),
            ("hang,wire=opneai", "`wire`: `opneai` is unknown; did you mean `openai`?"),
            ("hang,calls=0", "`calls`: `0` is not a number, or two as in 1-3, the first call being 1"),
            ("hang,from=2m,to=1m", "`to`: ends before it begins"),
            ("hang,to=1m,for=1m", "`for`: says when it ends, and so does `to`; give one of them"),
            ("hang,pause=1s", "`pause`: goes with slow, not with hang"),
            ("hang,quick", "`quick`: must be written key=value"),
            ("hang,share=1,share=0", "`share`: is said twice"),
            ("hang,model=", "`model`: is empty"),
            ("rate-limited,hint=secods", "`hint`: `secods` is unknown; did you mean `seconds`?"),
            ("rate-limited,retry-after=soon", "`retry-after`: `soon` is not a duration such as 30s or 2m"),
        ] {
            assert_eq!(rule_of(spec).expect_err(spec).to_string(), expected);
        }
    }
}
