//! Values out of trees, with every mistake noted at its place instead of ending the reading.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::yaml::{Broken, Key, Kind, Node, Place, cut};
use super::{Diagnostic, Env};
use crate::spelling::nearest;
use crate::time::{format_duration, parse_duration};

/// The file of what comes from no file.
pub(super) const ENVIRONMENT: &str = "environment variable";

/// What was found wrong or odd so far, and where each value came from.
#[derive(Default)]
pub(super) struct Notes<'a> {
    /// Where `BACKSTOP_*` variables come from.
    pub(super) env: Option<Env<'a>>,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) origins: BTreeMap<String, Place>,
}

impl Notes<'_> {
    pub(super) fn error(&mut self, place: &Place, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(diagnostic(place, field, message.into(), remedy.into()));
    }

    pub(super) fn warning(
        &mut self,
        place: &Place,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(diagnostic(place, field, message.into(), remedy.into()));
    }

    pub(super) fn broken(&mut self, broken: Broken) {
        self.error(&broken.place, "", broken.message, broken.remedy);
    }

    /// The place of a value, or of the nearest thing around it that was written.
    pub(super) fn place_of(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.origins.get(path) {
                return Some(place);
            }
            path = &path[..path.rfind('.')?];
        }
    }
}

fn diagnostic(place: &Place, field: &str, message: String, remedy: String) -> Diagnostic {
    Diagnostic {
        file: place.file.to_string(),
        line: place.line,
        column: place.column,
        field: field.to_owned(),
        message,
        remedy,
    }
}

/// How the keys of a file may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// kebab-case only: `backstop.yaml`.
    Kebab,
    /// Kebab, snake and camel case: agent and prompt files, which people bring along from other tools.
    AnyCase,
}

/// A key as kebab-case.
pub(super) fn kebab(key: &str) -> String {
    let mut out = String::new();
    for (i, c) in key.chars().enumerate() {
        match c {
            '_' => out.push('-'),
            c if c.is_ascii_uppercase() && i > 0 => out.extend(['-', c.to_ascii_lowercase()]),
            c => out.push(c),
        }
    }
    out
}

/// A value with its path. Dots are between the levels of `path`; `field` is how the operator of this file sees it.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) node: Node,
    pub(super) path: String,
    prefix: usize,
    keys: Keys,
}

impl Value {
    /// The root of a file; `prefix` stands before its paths in the whole configuration (`agents.cto`).
    pub(super) fn root(node: Node, prefix: &str, keys: Keys, notes: &mut Notes<'_>) -> Self {
        let prefix_len = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
        notes.origins.insert(prefix.to_owned(), node.place.clone());
        Self { node, path: prefix.to_owned(), prefix: prefix_len, keys }
    }

    pub(super) fn place(&self) -> &Place {
        &self.node.place
    }

    /// The key as it stands in this file.
    pub(super) fn field(&self) -> &str {
        self.path.get(self.prefix..).unwrap_or("")
    }

    fn below(&self, key: &str, node: Node, notes: &mut Notes<'_>) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        notes.origins.insert(path.clone(), node.place.clone());
        Self { node, path, prefix: self.prefix, keys: self.keys }
    }

    pub(super) fn error(&self, notes: &mut Notes<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        notes.error(self.place(), self.field(), message, remedy);
    }

    /// A map with fixed keys.
    pub(super) fn table(&self, notes: &mut Notes<'_>) -> Option<Table> {
        let Kind::Map(entries) = &self.node.kind else {
            if self.node.is_null() {
                return Some(Table { value: self.clone(), entries: Vec::new(), asked: Vec::new() });
            }
            self.error(
                notes,
                format!("expected a map, found {}", self.node.describe()),
                "write `key: value` lines below it",
            );
            return None;
        };
        let mut unique: Vec<(Key, Node)> = Vec::new();
        for (key, node) in entries {
            let name = if self.keys == Keys::AnyCase { kebab(&key.text) } else { key.text.clone() };
            if let Some((first, _)) = unique.iter().find(|(known, _)| known.text == name) {
                let message = format!("`{}` is written twice", cut(&key.text));
                notes.error(
                    &key.place,
                    self.below_field(&name).as_str(),
                    message,
                    format!("keep one; the first is on line {}", first.place.line),
                );
            } else {
                unique.push((Key { place: key.place.clone(), text: name }, node.clone()));
            }
        }
        Some(Table { value: self.clone(), entries: unique, asked: Vec::new() })
    }

    fn below_field(&self, key: &str) -> String {
        let key = cut(key);
        if self.field().is_empty() { key } else { format!("{}.{key}", self.field()) }
    }

    /// A map whose keys are names the operator chose, each checked by `T`'s parser.
    pub(super) fn named<T: FromStr<Err: Display>>(&self, what: &str, notes: &mut Notes<'_>) -> Vec<(T, Self)> {
        let before = Self { keys: Keys::Kebab, ..self.clone() };
        let Some(table) = before.table(notes) else { return Vec::new() };
        let mut found = Vec::new();
        for (key, node) in table.entries {
            match key.text.parse::<T>() {
                Ok(name) => {
                    let mut value = self.below(&key.text, node, notes);
                    value.keys = self.keys;
                    if value.node.is_null() {
                        value.node = Node::nothing(key.place.clone());
                    }
                    notes.origins.insert(value.path.clone(), key.place);
                    found.push((name, value));
                }
                Err(error) => {
                    let remedy = format!("name {what} with letters, digits, `_`, `-` and `.`, at most 64");
                    notes.error(&key.place, &self.below_field(&key.text), error.to_string(), remedy);
                }
            }
        }
        found
    }

    /// The items of a list. A single text stands for a list of one.
    pub(super) fn list(&self, notes: &mut Notes<'_>) -> Vec<Self> {
        match &self.node.kind {
            Kind::List(items) => {
                let items = items.clone();
                items.into_iter().enumerate().map(|(i, node)| self.below(&i.to_string(), node, notes)).collect()
            }
            Kind::Scalar { .. } if !self.node.is_null() => vec![self.below("0", self.node.clone(), notes)],
            Kind::Scalar { .. } => Vec::new(),
            Kind::Map(_) => {
                self.error(notes, "expected a list, found a map", "write `[a, b]`, or one `- item` a line");
                Vec::new()
            }
        }
    }

    /// The items of a list in which something must stand: an empty one would say the opposite of what it looks like.
    pub(super) fn some(&self, remedy: &str, notes: &mut Notes<'_>) -> Vec<Self> {
        if matches!(&self.node.kind, Kind::List(items) if items.is_empty()) {
            self.error(notes, "the list is empty", remedy);
        }
        self.list(notes)
    }

    /// A text. Numbers and flags must be quoted to be texts, so that `1.10` does not quietly become `1.1` somewhere.
    pub(super) fn text(&self, notes: &mut Notes<'_>) -> Option<String> {
        match &self.node.kind {
            Kind::Scalar { text, plain: false } => Some(text.clone()),
            Kind::Scalar { text, plain: true } if self.is_word(text) => Some(text.clone()),
            Kind::Scalar { text, .. } => {
                let remedy = if self.node.is_null() {
                    "write a text, or remove the key".to_owned()
                } else {
                    format!("quote it: \"{}\"", cut(text))
                };
                self.error(notes, format!("expected a text, found {}", self.node.describe()), remedy);
                None
            }
            Kind::List(_) | Kind::Map(_) => {
                self.error(
                    notes,
                    format!("expected a text, found {}", self.node.describe()),
                    "write one text; quote it when it holds `[`, `{` or `: `",
                );
                None
            }
        }
    }

    fn is_word(&self, text: &str) -> bool {
        !self.node.is_null() && text != "true" && text != "false" && text.parse::<f64>().is_err()
    }

    /// A text that means something to `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, remedy: &str, notes: &mut Notes<'_>) -> Option<T> {
        let text = self.text(notes)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(notes, error.to_string(), remedy);
                None
            }
        }
    }

    /// One of a closed set of words.
    pub(super) fn word<T: FromStr>(&self, allowed: &[&str], notes: &mut Notes<'_>) -> Option<T> {
        let text = self.text(notes)?;
        if let Ok(value) = text.parse() {
            return Some(value);
        }
        let remedy = match nearest(&text, allowed.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => "write one of them".to_owned(),
        };
        self.error(notes, format!("`{}` is none of {}", cut(&text), allowed.join(", ")), remedy);
        None
    }

    /// A span of time between two limits.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>, notes: &mut Notes<'_>) -> Option<Duration> {
        let Kind::Scalar { text, .. } = &self.node.kind else {
            self.error(
                notes,
                format!("expected a duration, found {}", self.node.describe()),
                "write a number with a unit, such as 250ms, 30s, 2m, 1h30m or 1d",
            );
            return None;
        };
        let Ok(span) = parse_duration(text) else {
            let remedy = if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
                format!("write the unit: {text}s for seconds, {text}m for minutes")
            } else {
                "write a number with a unit, such as 250ms, 30s, 2m, 1h30m or 1d".to_owned()
            };
            self.error(notes, format!("expected a duration, found {}", self.node.describe()), remedy);
            return None;
        };
        if !range.contains(&span) {
            let limits = format!("write {} to {}", format_duration(*range.start()), format_duration(*range.end()));
            self.error(notes, format!("{} is out of range", format_duration(span)), limits);
            return None;
        }
        Some(span)
    }

    /// A whole number between two limits.
    pub(super) fn whole(&self, range: RangeInclusive<u64>, notes: &mut Notes<'_>) -> Option<u64> {
        let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
        let number = match &self.node.kind {
            Kind::Scalar { text, plain: true } => text.replace('_', "").parse::<u64>().ok().or_else(|| {
                let exact = text.parse::<f64>().ok().filter(|n| n.is_finite())?;
                self.error(notes, format!("{exact} is out of range"), remedy.clone());
                Some(u64::MAX)
            }),
            Kind::Scalar { .. } | Kind::List(_) | Kind::Map(_) => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(u64::MAX) => None,
            Some(number) => {
                self.error(notes, format!("{number} is out of range"), remedy);
                None
            }
            None => {
                self.error(notes, format!("expected a whole number, found {}", self.node.describe()), remedy);
                None
            }
        }
    }

    /// A whole number that fits into 32 bits.
    pub(super) fn count(&self, range: RangeInclusive<u32>, notes: &mut Notes<'_>) -> Option<u32> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.whole(wide, notes).and_then(|number| u32::try_from(number).ok())
    }

    /// A number between two limits.
    pub(super) fn number(&self, range: RangeInclusive<f64>, notes: &mut Notes<'_>) -> Option<f64> {
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        let number = match &self.node.kind {
            Kind::Scalar { text, plain: true } => text.parse::<f64>().ok(),
            Kind::Scalar { .. } | Kind::List(_) | Kind::Map(_) => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(number) => {
                self.error(notes, format!("{number} is out of range"), remedy);
                None
            }
            None => {
                self.error(notes, format!("expected a number, found {}", self.node.describe()), remedy);
                None
            }
        }
    }

    /// An amount of bytes, such as `20GB` or `512MiB`, from `least` on.
    pub(super) fn bytes(&self, least: u64, notes: &mut Notes<'_>) -> Option<u64> {
        let remedy = "write a whole number with a unit, such as 500MB, 20GB or 1TB (or MiB, GiB, TiB)";
        let said = match &self.node.kind {
            Kind::Scalar { text, .. } => {
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let unit: Option<u64> = match &text[digits.len()..] {
                    "MB" => Some(1_000_000),
                    "GB" => Some(1_000_000_000),
                    "TB" => Some(1_000_000_000_000),
                    "MiB" => Some(1 << 20),
                    "GiB" => Some(1 << 30),
                    "TiB" => Some(1 << 40),
                    _ => None,
                };
                digits.trim_end().replace('_', "").parse::<u64>().ok().zip(unit)
            }
            Kind::List(_) | Kind::Map(_) => None,
        };
        let Some((number, unit)) = said else {
            self.error(notes, format!("expected an amount of bytes, found {}", self.node.describe()), remedy);
            return None;
        };
        let bytes = number.saturating_mul(unit);
        if bytes < least {
            let (said, least) = (self.node.describe(), least / 1_000_000);
            self.error(notes, format!("{said} is too little"), format!("write {least}MB or more"));
            return None;
        }
        Some(bytes)
    }

    /// US dollars, as millionths.
    pub(super) fn dollars(&self, notes: &mut Notes<'_>) -> Option<u64> {
        let dollars = self.number(0.000_001..=1_000_000.0, notes)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10^12")]
        Some((dollars * 1e6).round() as u64)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, notes: &mut Notes<'_>) -> Option<bool> {
        match &self.node.kind {
            Kind::Scalar { text, plain: true } if text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if text == "false" => Some(false),
            Kind::Scalar { .. } | Kind::List(_) | Kind::Map(_) => {
                self.error(notes, format!("expected a flag, found {}", self.node.describe()), "write true or false");
                None
            }
        }
    }
}

/// A map whose keys are known. Keys that nobody asked for are mistakes.
pub(super) struct Table {
    pub(super) value: Value,
    entries: Vec<(Key, Node)>,
    asked: Vec<String>,
}

impl Table {
    /// The value under a key, if one is written.
    pub(super) fn take(&mut self, key: &str, notes: &mut Notes<'_>) -> Option<Value> {
        self.asked.push(key.to_owned());
        self.lay_environment_over(key, notes);
        let at = self.entries.iter().position(|(known, _)| known.text == key)?;
        let (key, node) = self.entries.remove(at);
        let value = self.value.below(&key.text, node, notes);
        if value.node.is_null() {
            notes.error(&key.place, value.field(), "nothing is written here", "write a value, or remove the key");
            return None;
        }
        Some(value)
    }

    /// Is something written under a key?
    pub(super) fn says(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known.text == key)
    }

    /// The environment's word, above the file's: `BACKSTOP_API__LISTEN` for `api.listen`. It is read as YAML.
    fn lay_environment_over(&mut self, key: &str, notes: &mut Notes<'_>) {
        if self.value.keys == Keys::AnyCase {
            return;
        }
        let field = self.value.below_field(key);
        let name = format!("BACKSTOP_{}", field.replace('.', "__").replace('-', "_").to_uppercase());
        let Some(text) = notes.env.and_then(|env| env(&name)) else { return };
        self.entries.retain(|(known, _)| known.text != key);
        let file = format!("{ENVIRONMENT} {name}");
        match super::yaml::parse(&file, &text, 0) {
            Ok(mut node) => {
                node.place = Place::file(&file);
                self.entries.push((Key { place: node.place.clone(), text: key.to_owned() }, node));
            }
            Err(broken) => notes.broken(broken),
        }
    }

    /// The value under a key; an empty map when it is not written.
    pub(super) fn take_or_empty(&mut self, key: &str, notes: &mut Notes<'_>) -> Value {
        self.take(key, notes).unwrap_or_else(|| {
            let path = if self.value.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.value.path) };
            Value {
                node: Node::nothing(self.value.node.place.clone()),
                path,
                prefix: self.value.prefix,
                keys: self.value.keys,
            }
        })
    }

    /// A map under a key; an empty one when it is not written.
    pub(super) fn section(&mut self, key: &str, notes: &mut Notes<'_>) -> Table {
        let value = self.take_or_empty(key, notes);
        value.table(notes).unwrap_or_else(|| Table { value, entries: Vec::new(), asked: Vec::new() })
    }

    /// The value under a key that must be written.
    pub(super) fn must(&mut self, key: &str, remedy: &str, notes: &mut Notes<'_>) -> Option<Value> {
        let written = self.entries.iter().any(|(known, _)| known.text == key);
        let value = self.take(key, notes);
        if !written {
            let field = self.value.below_field(key);
            notes.error(self.value.place(), &field, format!("`{key}` is missing"), remedy);
        }
        value
    }

    /// Notes every key that nobody asked for. `foreign` knows keys of other tools, which are only warned of.
    pub(super) fn finish(self, foreign: &dyn Fn(&str) -> Option<&'static str>, notes: &mut Notes<'_>) {
        for (key, _) in &self.entries {
            let field = self.value.below_field(&key.text);
            if let Some(tool) = foreign(&key.text) {
                notes.warning(
                    &key.place,
                    &field,
                    format!("`{}` belongs to {tool}; ignored", cut(&key.text)),
                    "remove it when it is not needed there",
                );
                continue;
            }
            let asked = self.asked.iter().map(String::as_str);
            let remedy = match nearest(&key.text, asked.clone()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("the keys here are: {}", asked.collect::<Vec<_>>().join(", ")),
            };
            notes.error(&key.place, &field, format!("unknown key `{}`", cut(&key.text)), remedy);
        }
    }
}

/// No other tool's keys are expected.
pub(super) fn ours_only(_: &str) -> Option<&'static str> {
    None
}

/// Why a `${NAME}` text could not be filled in.
pub(super) enum Unset {
    /// These variables are not set.
    Variables(Vec<String>),
    /// `${` without a name and `}`.
    Malformed,
}

/// Fills in `${NAME}`. Says whether there was any.
pub(super) fn interpolate(text: &str, env: Env<'_>) -> Result<(String, bool), Unset> {
    let (mut out, mut rest, mut missing, mut any) = (String::new(), text, Vec::new(), false);
    while let Some(start) = rest.find("${") {
        let name_on = &rest[start + 2..];
        let end = name_on.find('}').ok_or(Unset::Malformed)?;
        let name = &name_on[..end];
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Unset::Malformed);
        }
        out.push_str(&rest[..start]);
        match env(name).filter(|value| !value.is_empty()) {
            Some(value) => out.push_str(value.trim_end_matches(['\r', '\n'])),
            None => missing.push(name.to_owned()),
        }
        any = true;
        rest = &name_on[end + 1..];
    }
    out.push_str(rest);
    if missing.is_empty() { Ok((out, any)) } else { Err(Unset::Variables(missing)) }
}

/// A secret as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Secret {
    /// Here it is.
    Known(SecretString),
    /// These variables are not set; whether that matters is decided by who uses it.
    Unset(Vec<String>),
}
