//! Who is called when judgement is needed, when, and through what.

use std::time::Duration;

use super::decode::{Notes, Secret, Table, Value, ours_only};
use super::files::Files;
use super::secrets::{must_secret, secret, url};
use super::yaml::{Kind, cut};
use crate::config::{ChannelConfig, Config, OnCall};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn escalation(mut table: Table, config: &mut Config, files: &Files<'_>, notes: &mut Notes<'_>) {
    let said = &mut config.escalation;
    if let Some(value) = table.take("threshold", notes) {
        said.threshold = value.count(1..=10_000, notes).unwrap_or(said.threshold);
    }
    if let Some(value) = table.take("repages-max", notes) {
        said.repages_max = value.count(0..=100, notes).unwrap_or(said.repages_max);
    }
    for (key, span) in [
        ("window", &mut said.window),
        ("repage-after", &mut said.repage_after),
        ("reminder-after", &mut said.reminder_after),
    ] {
        if let Some(value) = table.take(key, notes) {
            *span = value.duration(SECOND..=DAY * 7, notes).unwrap_or(*span);
        }
    }
    if let Some(value) = table.take("runbook", notes) {
        said.runbook = value.text(notes);
    }
    if let Some(value) = table.take("on-call", notes) {
        for person in value.list(notes) {
            let Some(mut entry) = person.table(notes) else { continue };
            let name = entry.must("name", "say who is called", notes).and_then(|v| v.text(notes));
            let channels = entry.must("channels", "say how: `channels: [log]`", notes);
            let channels = channels.map_or_else(Vec::new, |value| value.list(notes));
            let channels = channels.iter().filter_map(|value| channel(value, files, notes)).collect();
            entry.finish(&ours_only, notes);
            said.on_call.extend(name.map(|name| OnCall { name, channels }));
        }
    }
    table.finish(&ours_only, notes);
}

/// What a channel is called that must be told more than that, and how it is written.
const WRITTEN: [(&str, &str); 3] = [
    ("pagerduty", "{ pagerduty: { routing-key: \"${PAGERDUTY_ROUTING_KEY}\" } }"),
    ("email", "{ email: { smtp: \"${SMTP_URL}\", from: backstop@example.com, to: name@example.com } }"),
    ("webhook", "{ webhook: { url: \"https://example.com/page\", secret: \"${PAGE_WEBHOOK_SECRET}\" } }"),
];

fn channel(value: &Value, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<ChannelConfig> {
    const KINDS: &str = "write log, or one of { pagerduty: … }, { email: … }, { webhook: … }";
    if let Kind::Scalar { text, .. } = &value.node.kind
        && let Some((name, written)) = WRITTEN.iter().find(|(name, _)| text == *name)
    {
        value.error(notes, format!("`{name}` alone does not say where to"), format!("write {written}"));
        return None;
    }
    if !matches!(value.node.kind, Kind::Map(_)) {
        return value
            .word::<LogWord>(&["log", "pagerduty", "email", "webhook"], notes)
            .map(|LogWord| ChannelConfig::Log);
    }
    let mut table = value.table(notes)?;
    let pagerduty = table.take("pagerduty", notes);
    let email = table.take("email", notes);
    let webhook = table.take("webhook", notes);
    table.finish(&ours_only, notes);
    match (pagerduty, email, webhook) {
        (Some(value), None, None) => {
            let mut table = value.table(notes)?;
            let key = must_secret(&mut table, "routing-key", files, notes);
            let at = match table.take("url", notes) {
                Some(value) => url(&value, &["http", "https"], files, notes),
                None => Some("https://events.pagerduty.com/v2/enqueue".to_owned()),
            };
            let webhook_secret = match secret(&mut table, "webhook-secret", files, notes) {
                Some(Secret::Known(secret)) => Some(secret),
                Some(Secret::Unset(names)) => {
                    let field = format!("{}.webhook-secret", table.value.path);
                    files.unset(&field, &names, "what is acknowledged in PagerDuty would not be heard here", notes);
                    None
                }
                None => None,
            };
            table.finish(&ours_only, notes);
            Some(ChannelConfig::PagerDuty { routing_key: key, url: at?, webhook_secret })
        }
        (None, Some(value), None) => {
            let mut table = value.table(notes)?;
            let smtp = must_secret(&mut table, "smtp", files, notes);
            let from = table.must("from", "write the sender's address", notes).and_then(|v| address(&v, notes));
            let wanted = "write one address or a list";
            let to = table.must("to", wanted, notes).map_or_else(Vec::new, |v| v.some(wanted, notes));
            let to: Vec<Option<String>> = to.iter().map(|item| address(item, notes)).collect();
            table.finish(&ours_only, notes);
            let to = to.into_iter().collect::<Option<Vec<_>>>()?;
            if to.is_empty() {
                return None;
            }
            Some(ChannelConfig::Email { smtp, from: from?, to })
        }
        (None, None, Some(value)) => {
            let mut table = value.table(notes)?;
            let at =
                table.must("url", "write where to POST", notes).and_then(|v| url(&v, &["http", "https"], files, notes));
            let secret = must_secret(&mut table, "secret", files, notes);
            table.finish(&ours_only, notes);
            Some(ChannelConfig::Webhook { url: at?.into(), secret })
        }
        (None, None, None) | (Some(_), _, _) | (_, Some(_), _) => {
            value.error(notes, "one channel is wanted", KINDS);
            None
        }
    }
}

struct LogWord;

impl std::str::FromStr for LogWord {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        if word == "log" { Ok(Self) } else { Err(()) }
    }
}

fn address(value: &Value, notes: &mut Notes<'_>) -> Option<String> {
    let text = value.text(notes)?;
    let sound = text.split_once('@').is_some_and(|(who, host)| !who.is_empty() && !host.is_empty())
        && !text.contains(char::is_control);
    if !sound {
        value.error(notes, format!("`{}` is no e-mail address", cut(&text)), "write it as name@example.com");
    }
    sound.then_some(text)
}
