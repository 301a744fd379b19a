//! Secrets: what is planted where the team keeps its keys is seen nowhere.

use super::Violation;
use super::case::Case;
use crate::config::ChannelConfig;
use secrecy::ExposeSecret;

pub(super) fn check(case: &Case<'_>, found: &mut Vec<Violation>) {
    let config = &case.run.config;
    let keys = config.providers.values().filter_map(|provider| provider.api_key.as_ref());
    let mut planted: Vec<String> = keys.map(|key| key.expose_secret().to_owned()).collect();
    let headers = config.providers.values().flat_map(|provider| provider.headers.values());
    planted.extend(headers.map(|value| value.expose().to_owned()));
    for channel in config.escalation.on_call.iter().flat_map(|person| &person.channels) {
        if let ChannelConfig::PagerDuty { routing_key, .. } = channel {
            planted.push(routing_key.expose_secret().to_owned());
        }
    }
    // Short words are no secrets: a test key may be anything.
    planted.retain(|secret| secret.len() >= 16);
    planted.sort();
    planted.dedup();
    if planted.is_empty() {
        return;
    }
    let shows = |text: &str| planted.iter().find(|secret| text.contains(secret.as_str()));
    let mut wrong = |task, at, place: &str, text: &str, secret: &str| {
        let from = text.find(secret).unwrap_or(0).saturating_sub(80);
        let around: String = text.chars().skip(from).take(200).collect();
        found.push(Violation { id: "I-30", text: format!("a secret is in {place}"), task, at, evidence: around });
    };
    for event in &case.run.events {
        let text = serde_json::to_string(event).unwrap_or_default();
        if let Some(secret) = shows(&text) {
            wrong(event.task, Some(event.at), "the feed", &text, secret);
        }
    }
    for incident in &case.run.incidents {
        let text = serde_json::to_string(incident).unwrap_or_default();
        if let Some(secret) = shows(&text) {
            wrong(None, Some(incident.opened_at), "a page", &text, secret);
        }
    }
    for record in &case.run.records {
        let text = serde_json::to_string(&(&record.letter, &record.decisions)).unwrap_or_default();
        if let Some(secret) = shows(&text) {
            wrong(Some(record.task.id), Some(record.updated_at), "a dead letter", &text, secret);
        }
    }
}
