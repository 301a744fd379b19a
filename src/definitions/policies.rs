//! Retry policies and breakers, as they are written in every file.

use std::time::Duration;

use super::decode::{Notes, Value, ours_only};
use super::yaml::{Kind, cut};
use crate::breaker::{BreakerConfig, BreakerKind, HalfOpenRule};
use crate::config::defaults;
use crate::retry::{Backoff, Jitter, RetryPolicy};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A retry policy; what is not said is as in `base`.
pub(super) fn retry(value: &Value, base: &RetryPolicy, notes: &mut Notes<'_>) -> RetryPolicy {
    let mut policy = base.clone();
    let Some(mut table) = value.table(notes) else { return policy };
    if let Some(value) = table.take("preset", notes)
        && let Some(name) = value.word::<String>(defaults::PRESETS, notes)
    {
        match defaults::preset(&name) {
            Some(preset) => policy = preset,
            None => value.error(
                notes,
                format!("there is no preset `{}`", cut(&name)),
                format!("write one of: {}", defaults::PRESETS.join(", ")),
            ),
        }
    }
    if let Some(value) = table.take("max-deliveries", notes) {
        // Only reads are really tried for as long as it takes, and only up to a deadline: `RetryPolicy::limit`.
        let unlimited = matches!(&value.node.kind, Kind::Scalar { text, .. } if text == "unlimited");
        let said = if unlimited { Some(RetryPolicy::UNLIMITED) } else { value.count(1..=100, notes) };
        policy.max_deliveries = said.unwrap_or(policy.max_deliveries);
    }
    let backoff = table.take("backoff", notes);
    if let Some(value) = &backoff {
        policy.backoff = self::backoff(value, notes).unwrap_or(policy.backoff);
    }
    if let Some(value) = table.take("jitter", notes) {
        policy.jitter = jitter(&value, notes).unwrap_or(policy.jitter);
    }
    if let Some(value) = table.take("ack-wait", notes) {
        policy.ack_wait = value.duration(SECOND..=DAY, notes).unwrap_or(policy.ack_wait);
    }
    match table.take("park-at-most", notes) {
        Some(value) => {
            policy.park_at_most = value.duration(Duration::ZERO..=DAY * 7, notes).unwrap_or(policy.park_at_most)
        }
        None if backoff.is_some() => policy.park_at_most = sum_of_waits(&policy),
        None => {}
    }
    table.finish(&ours_only, notes);
    policy
}

/// How long parking may last unless said: as long as the waits together.
fn sum_of_waits(policy: &RetryPolicy) -> Duration {
    match &policy.backoff {
        Backoff::List(waits) => waits.iter().fold(Duration::ZERO, |sum, wait| sum.saturating_add(*wait)),
        Backoff::Exponential { initial, factor, cap } => {
            let mut wait = initial.as_secs_f64();
            let mut sum = 0.0;
            for _ in 1..policy.max_deliveries {
                sum += wait.min(cap.as_secs_f64());
                wait *= factor;
            }
            Duration::from_secs_f64(sum.min(DAY.as_secs_f64() * 7.0))
        }
    }
}

fn backoff(value: &Value, notes: &mut Notes<'_>) -> Option<Backoff> {
    if !matches!(value.node.kind, Kind::Map(_)) {
        let items = value.list(notes);
        if items.is_empty() || items.len() > 50 {
            value.error(
                notes,
                format!("{} waits are listed", items.len()),
                "list 1 to 50 waits, such as [30s, 2m, 5m]",
            );
            return None;
        }
        let waits: Vec<Option<Duration>> =
            items.iter().map(|item| item.duration(Duration::ZERO..=DAY, notes)).collect();
        return waits.into_iter().collect::<Option<Vec<_>>>().map(Backoff::List);
    }
    let mut table = value.table(notes)?;
    let initial = table
        .must("initial", "write the first wait: `initial: 1s`", notes)
        .and_then(|v| v.duration(Duration::from_millis(1)..=DAY, notes));
    let factor = match table.take("factor", notes) {
        Some(value) => value.number(1.0..=100.0, notes),
        None => Some(2.0),
    };
    let cap = table
        .must("cap", "write the longest wait: `cap: 5m`", notes)
        .and_then(|v| v.duration(Duration::from_millis(1)..=DAY, notes));
    table.finish(&ours_only, notes);
    Some(Backoff::Exponential { initial: initial?, factor: factor?, cap: cap? })
}

fn jitter(value: &Value, notes: &mut Notes<'_>) -> Option<Jitter> {
    if matches!(value.node.kind, Kind::Map(_)) {
        let mut table = value.table(notes)?;
        let around = table.take("around", notes).map(|v| v.number(0.0..=1.0, notes).map(Jitter::Around));
        let additive = table.take("additive", notes).map(|v| v.number(0.0..=10.0, notes).map(Jitter::Additive));
        table.finish(&ours_only, notes);
        return match (around, additive) {
            (Some(jitter), None) | (None, Some(jitter)) => jitter,
            (None, None) | (Some(_), Some(_)) => {
                value.error(notes, "one kind of jitter is wanted", "write { around: 0.5 } or { additive: 0.1 }");
                None
            }
        };
    }
    let word: String = value.text(notes)?;
    match word.as_str() {
        "none" => Some(Jitter::None),
        "full" => Some(Jitter::Full),
        "equal" => Some(Jitter::Equal),
        "decorrelated" => Some(Jitter::Decorrelated),
        _ => {
            value.error(
                notes,
                format!("`{}` is no jitter", cut(&word)),
                "write none, full, equal, decorrelated, { around: 0.5 } or { additive: 0.1 }",
            );
            None
        }
    }
}

pub(super) fn breaker(value: &Value, base: &BreakerConfig, notes: &mut Notes<'_>) -> BreakerConfig {
    let mut config = base.clone();
    let Some(mut table) = value.table(notes) else { return config };
    if let Some(value) = table.take("kind", notes) {
        config.kind = value.word::<BreakerKind>(&["failures", "count", "time"], notes).unwrap_or(config.kind);
    }
    if let Some(value) = table.take("half-open", notes) {
        config.half_open = value.word::<HalfOpenRule>(&["strict", "rate"], notes).unwrap_or(config.half_open);
    }
    for (key, count) in [
        ("failures", &mut config.failures),
        ("window-calls", &mut config.window_calls),
        ("min-calls", &mut config.min_calls),
        ("permits", &mut config.permits),
        ("successes", &mut config.successes),
    ] {
        if let Some(value) = table.take(key, notes) {
            *count = value.count(1..=100_000, notes).unwrap_or(*count);
        }
    }
    for (key, least, span) in [
        ("window", SECOND, &mut config.window),
        ("open-for", SECOND, &mut config.open_for),
        ("open-max", SECOND, &mut config.open_max),
        ("slow-after", Duration::ZERO, &mut config.slow_after),
        ("half-open-max-wait", Duration::ZERO, &mut config.half_open_max_wait),
    ] {
        if let Some(value) = table.take(key, notes) {
            *span = value.duration(least..=DAY, notes).unwrap_or(*span);
        }
    }
    // A share above 100 % is never reached: it switches its rule off.
    for (key, range, share) in [
        ("rate", 0.001..=1_000.0, &mut config.rate),
        ("slow-rate", 0.001..=1_000.0, &mut config.slow_rate),
        ("open-mult", 1.0..=100.0, &mut config.open_mult),
    ] {
        if let Some(value) = table.take(key, notes) {
            *share = value.number(range, notes).unwrap_or(*share);
        }
    }
    table.finish(&ours_only, notes);
    config
}
