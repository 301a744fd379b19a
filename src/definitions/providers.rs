//! Providers of language models: where they are, what they want, what is known of their models.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::{Notes, Secret, Value, ours_only};
use super::files::Files;
use super::policies::{breaker, retry};
use super::secrets::{UNSET_URL, secret, settings, url};
use super::team_file::TeamWide;
use crate::breaker::BreakerConfig;
use crate::config::{ModelFacts, ProviderConfig, Timeouts, Wire};
use crate::retry::RetryPolicy;
use crate::task::Integration;

/// US dollars for a million tokens.
const PRICE: std::ops::RangeInclusive<f64> = 0.0..=100_000.0;
const DAY: Duration = Duration::from_secs(86_400);

/// The wire a provider of this name speaks and where it is, when its name is known.
fn known(name: &str) -> Option<(Wire, &'static str)> {
    match name {
        "anthropic" => Some((Wire::Anthropic, "https://api.anthropic.com")),
        "openai" => Some((Wire::OpenAi, "https://api.openai.com/v1")),
        "gemini" => Some((Wire::Gemini, "https://generativelanguage.googleapis.com")),
        "ollama" => Some((Wire::Ollama, "http://127.0.0.1:11434")),
        _ => None,
    }
}

pub(super) fn provider(
    name: &Integration,
    value: &Value,
    (team_retry, team_breaker): (&RetryPolicy, &BreakerConfig),
    wide: &mut TeamWide,
    files: &Files<'_>,
    notes: &mut Notes<'_>,
) -> Option<ProviderConfig> {
    let mut table = value.table(notes)?;
    let known = known(name.as_str());
    let wire = match table.take("wire", notes) {
        Some(value) => value.word::<WireWord>(WIRES, notes).map(|word| word.0),
        None if known.is_some() => known.map(|(wire, _)| wire),
        None => {
            let remedy = "write `wire: openai` for anything compatible with OpenAI, else anthropic, gemini or ollama";
            notes.error(value.place(), &format!("{}.wire", value.field()), "`wire` is missing", remedy);
            None
        }
    };
    let base_url = match table.take("base-url", notes) {
        Some(value) => url(&value, &["http", "https"], files, notes),
        None => match known {
            Some((_, url)) => Some(url.to_owned()),
            None => {
                let remedy = "write where it is, such as `base-url: http://127.0.0.1:8000/v1`";
                notes.error(value.place(), &format!("{}.base-url", value.field()), "`base-url` is missing", remedy);
                None
            }
        },
    };
    let api_key = match secret(&mut table, "api-key", files, notes) {
        Some(Secret::Known(key)) => Some(key),
        Some(Secret::Unset(names)) => {
            wide.keyless.insert(name.clone(), (names, format!("{}.api-key", value.path)));
            None
        }
        None => None,
    };
    let self_hosted = match table.take("self-hosted", notes) {
        Some(value) => value.flag(notes).unwrap_or(false),
        None => wire == Some(Wire::Ollama),
    };
    let headers = table.take("headers", notes).map_or_else(BTreeMap::new, |value| {
        settings::<HeaderName>(&value, "a header", "the provider would be without it", files, notes)
    });
    let retry = table.take("retry", notes).map(|value| retry(&value, team_retry, notes));
    let breaker = table.take("breaker", notes).map(|value| breaker(&value, team_breaker, notes));
    let timeouts = table.take("timeouts", notes).map_or_else(Timeouts::default, |value| timeouts(&value, notes));
    let models = table.take("models", notes).map_or_else(BTreeMap::new, |value| models(&value, notes));
    table.finish(&ours_only, notes);
    // What is missing has been noted, and ends the reading; with something in its place nothing else complains of it.
    let wire = wire.unwrap_or(Wire::OpenAi);
    let base_url = base_url.unwrap_or_else(|| UNSET_URL.to_owned());
    Some(ProviderConfig { wire, base_url, api_key, self_hosted, headers, retry, breaker, timeouts, models })
}

/// The words for the wires.
const WIRES: &[&str] = &["anthropic", "openai", "openai-responses", "gemini", "ollama"];

struct WireWord(Wire);

impl std::str::FromStr for WireWord {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "anthropic" => Ok(Self(Wire::Anthropic)),
            "openai" => Ok(Self(Wire::OpenAi)),
            "openai-responses" => Ok(Self(Wire::Responses)),
            "gemini" => Ok(Self(Wire::Gemini)),
            "ollama" => Ok(Self(Wire::Ollama)),
            _ => Err(()),
        }
    }
}

/// The name of an HTTP header.
pub(super) struct HeaderName(String);

impl From<HeaderName> for String {
    fn from(name: HeaderName) -> Self {
        name.0
    }
}

impl std::str::FromStr for HeaderName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(token) {
            return Err("not the name of an HTTP header");
        }
        Ok(Self(name.to_owned()))
    }
}

struct ModelName(String);

impl std::str::FromStr for ModelName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a model's name has no blanks");
        }
        Ok(Self(name.to_owned()))
    }
}

fn timeouts(value: &Value, notes: &mut Notes<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(mut table) = value.table(notes) else { return timeouts };
    for (key, timer) in [
        ("connect", &mut timeouts.connect),
        ("first-byte", &mut timeouts.first_byte),
        ("first-content", &mut timeouts.first_content),
        ("idle", &mut timeouts.idle),
        ("total", &mut timeouts.total),
    ] {
        if let Some(value) = table.take(key, notes) {
            *timer = value.duration(Duration::from_millis(10)..=DAY, notes).unwrap_or(*timer);
        }
    }
    table.finish(&ours_only, notes);
    timeouts
}

fn models(value: &Value, notes: &mut Notes<'_>) -> BTreeMap<String, ModelFacts> {
    let mut models = BTreeMap::new();
    for (name, value) in value.named::<ModelName>("a model", notes) {
        let Some(mut table) = value.table(notes) else { continue };
        let facts = ModelFacts {
            context: table.take("context", notes).and_then(|v| v.whole(1..=1_000_000_000, notes)),
            max_output: table.take("max-output", notes).and_then(|v| v.whole(1..=1_000_000_000, notes)),
            usd_per_million_input: table.take("usd-per-million-input", notes).and_then(|v| v.number(PRICE, notes)),
            usd_per_million_output: table.take("usd-per-million-output", notes).and_then(|v| v.number(PRICE, notes)),
            usd_per_million_cache_read: table
                .take("usd-per-million-cache-read", notes)
                .and_then(|v| v.number(PRICE, notes)),
            usd_per_million_cache_write: table
                .take("usd-per-million-cache-write", notes)
                .and_then(|v| v.number(PRICE, notes)),
            long: None,
        };
        table.finish(&ours_only, notes);
        models.insert(name.0, facts);
    }
    models
}
