//! Secrets and addresses: never in a file, always from the environment or from a file of their own.

use std::collections::BTreeMap;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use super::decode::{ENVIRONMENT, Notes, Secret, Table, Unset, Value, interpolate};
use super::files::{Files, SECRET_LIMIT};
use super::yaml::Kind;
use crate::redact::{is_secret_header, redact};
use crate::tool_config::Setting;

/// Stands where an address could not be made; `.invalid` never resolves (RFC 2606).
pub(super) const UNSET_URL: &str = "http://unset.invalid";

/// A secret: `${NAME}` under its key, or a path under `<key>-file`.
pub(super) fn secret(table: &mut Table, key: &str, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<Secret> {
    let written = table.take(key, notes);
    let in_file = table.take(&format!("{key}-file"), notes);
    if let (Some(_), Some(file)) = (&written, &in_file) {
        file.error(notes, format!("`{key}` and `{key}-file` are both written"), "keep one of them");
        return None;
    }
    if let Some(value) = in_file {
        let path = value.text(notes)?;
        return match files.text(&path, SECRET_LIMIT) {
            Ok(text) if !text.trim().is_empty() => Some(Secret::Known(SecretString::from(text.trim().to_owned()))),
            Ok(_) => {
                value.error(notes, "the file is empty", "write the secret into it, and nothing else");
                None
            }
            Err(why) => {
                let remedy = format!("write the secret into that file, or use `{key}: ${{NAME}}`");
                value.error(notes, format!("the file {why}"), remedy);
                None
            }
        };
    }
    let value = written?;
    let Kind::Scalar { text, .. } = &value.node.kind else {
        value.error(notes, format!("expected a text, found {}", value.node.describe()), "write ${NAME}");
        return None;
    };
    // What the environment says itself, and a mail server without credentials, are no secrets in a file.
    let harmless = value.place().file.starts_with(ENVIRONMENT) || key == "smtp" && !text.contains('@');
    match interpolate(text, files.env) {
        Ok((text, from_env)) if from_env || harmless => Some(Secret::Known(SecretString::from(text))),
        Ok(_) => {
            let name = variable_for(key, &value.path);
            let remedy = format!(
                "write `{key}: ${{{name}}}` and set {name} in the environment, or use `{key}-file`; then change the secret, it has been seen"
            );
            value.error(notes, "a secret stands in the file", remedy);
            None
        }
        Err(Unset::Variables(names)) => Some(Secret::Unset(names)),
        Err(Unset::Malformed) => {
            value.error(notes, "`${` without a name and `}`", "write ${NAME} with letters, digits and `_`");
            None
        }
    }
}

/// The variable that a secret usually comes from.
fn variable_for(key: &str, path: &str) -> String {
    let provider = path.strip_prefix("providers.").and_then(|rest| rest.split('.').next());
    match (key, provider) {
        (key, Some(provider)) => format!("{provider}_{key}").replace(['-', '.'], "_").to_uppercase(),
        ("routing-key", None) => "PAGERDUTY_ROUTING_KEY".to_owned(),
        ("smtp", None) => "SMTP_URL".to_owned(),
        ("secret", None) => "PAGE_WEBHOOK_SECRET".to_owned(),
        (key, None) => format!("BACKSTOP_{}", key.replace('-', "_").to_uppercase()),
    }
}

/// A secret that must be there. What is missing is noted, and ends the reading; an empty one stands in its place.
pub(super) fn must_secret(table: &mut Table, key: &str, files: &Files<'_>, notes: &mut Notes<'_>) -> SecretString {
    let before = notes.errors.len();
    match secret(table, key, files, notes) {
        Some(Secret::Known(secret)) if !secret.expose_secret().is_empty() => return secret,
        Some(Secret::Unset(names)) => {
            let field = format!("{}.{key}", table.value.path);
            files.unset(&field, &names, "nobody can be reached through this channel", notes);
        }
        Some(Secret::Known(_)) | None => {
            if notes.errors.len() == before {
                let field = format!("{}.{key}", table.value.field());
                let remedy = format!("write `{key}: ${{NAME}}`, or `{key}-file` and a path");
                notes.error(table.value.place(), &field, format!("`{key}` is missing"), remedy);
            }
        }
    }
    SecretString::from(String::new())
}

/// Texts that may be secrets: what looks like one comes from the environment. `without` says what it would mean if one were
/// not set there.
pub(super) fn settings<T: FromStr<Err = &'static str> + Into<String>>(
    value: &Value,
    what: &str,
    without: &str,
    files: &Files<'_>,
    notes: &mut Notes<'_>,
) -> BTreeMap<String, Setting> {
    let mut found = BTreeMap::new();
    for (name, value) in value.named::<T>(what, notes) {
        let name: String = name.into();
        let Some(text) = value.text(notes) else { continue };
        match interpolate(&text, files.env) {
            Ok((_, false)) if is_secret_header(&name) || redact(&text) != text => {
                let remedy = "write ${NAME} for the secret part and set it in the environment; then change the secret, it has been seen";
                value.error(notes, "a secret stands in the file", remedy);
            }
            Ok((text, _)) if text.chars().any(char::is_control) => {
                value.error(notes, "it cannot hold control characters", "write it on one line");
            }
            Ok((text, from_env)) => {
                let secret = || Setting::Secret(SecretString::from(text.clone()));
                found.insert(name, if from_env { secret() } else { Setting::Plain(text) });
            }
            Err(Unset::Variables(names)) => files.unset(&value.path, &names, without, notes),
            Err(Unset::Malformed) => {
                value.error(notes, "`${` without a name and `}`", "write ${NAME} with letters, digits and `_`");
            }
        }
    }
    found
}

/// A text that may hold `${NAME}`.
fn filled(value: &Value, text: &str, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<String> {
    match interpolate(text, files.env) {
        Ok((text, _)) => Some(text),
        Err(Unset::Variables(names)) => {
            files.unset(&value.path, &names, "the value cannot be made", notes);
            Some(UNSET_URL.to_owned())
        }
        Err(Unset::Malformed) => {
            value.error(notes, "`${` without a name and `}`", "write ${NAME} with letters, digits and `_`");
            None
        }
    }
}

pub(super) fn url(value: &Value, schemes: &[&str], files: &Files<'_>, notes: &mut Notes<'_>) -> Option<String> {
    let text = value.text(notes)?;
    let text = filled(value, &text, files, notes)?;
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)?.strip_prefix("://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        Some(host) if host.contains('@') => {
            value.error(
                notes,
                "credentials stand in the address",
                "put them where secrets go: `api-key: ${NAME}`, or a header",
            );
            None
        }
        Some(host) if !host.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Some(text.trim_end_matches('/').to_owned())
        }
        Some(_) | None => {
            value.error(notes, "not an address", format!("write {}://host/path", schemes.join("://host/path or ")));
            None
        }
    }
}
