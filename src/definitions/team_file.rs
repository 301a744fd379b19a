//! `backstop.yaml`: the team as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::decode::{Notes, Secret, Table, Value, ours_only};
use super::files::Files;
use super::people::escalation;
use super::policies::{breaker, retry};
use super::providers::provider;
use super::secrets::secret;
use super::tools::{tools, verify};
use super::yaml::{Kind, cut};
use crate::agent::ModelRef;
use crate::config::{AdviserConfig, BudgetConfig, Config, TaskTypeConfig, defaults};
use crate::retention::KEY_RETENTION;
use crate::retry::RetryPolicy;
use crate::task::{Effect, Integration, Priority, TaskType};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// The least the record may be bound to, in bytes: below it what is open alone would press.
const SIZE_LEAST: u64 = 100_000_000;

/// What `backstop.yaml` says for agents that do not say it themselves, and what is still open about providers.
#[derive(Default)]
pub(super) struct TeamWide {
    pub(super) model: Option<ModelRef>,
    pub(super) fallback_models: Vec<ModelRef>,
    /// Providers whose key is not set: by which variables, at which path.
    pub(super) keyless: BTreeMap<Integration, (Vec<String>, String)>,
}

/// Reads the merged tree of all `backstop.yaml` into `config`.
pub(super) fn read(mut root: Table, config: &mut Config, files: &Files<'_>, notes: &mut Notes<'_>) -> TeamWide {
    let mut wide = TeamWide::default();
    let named = root.take("team", notes);
    match named {
        Some(value) => config.team = value.text(notes).unwrap_or_else(|| "unnamed".to_owned()),
        None => {
            let unsaid = notes.errors.iter().all(|error| error.field != "team");
            if unsaid {
                notes.error(root.value.place(), "team", "`team` is missing", "name the team: `team: acme`");
            }
            config.team = "unnamed".to_owned();
        }
    }
    wide.model = root.take("model", notes).and_then(|value| model(&value, notes));
    if let Some(value) = root.take("fallback-models", notes) {
        wide.fallback_models = value.list(notes).iter().filter_map(|item| model(item, notes)).collect();
    }
    config.retry = retry(&root.take_or_empty("retry", notes), &config.retry, notes);
    config.breaker = breaker(&root.take_or_empty("breaker", notes), &config.breaker, notes);
    if let Some(value) = root.take("providers", notes) {
        for (name, value) in value.named::<Integration>("a provider", notes) {
            let team = (&config.retry, &config.breaker);
            if let Some(read) = provider(&name, &value, team, &mut wide, files, notes) {
                config.providers.insert(name, read);
            }
        }
    }
    if let Some(value) = root.take("task-types", notes) {
        for (name, value) in value.named::<TaskType>("a task type", notes) {
            let said = task_type(&value, &config.retry, files, notes).unwrap_or_default();
            config.task_types.insert(name, said);
        }
    }
    budget(root.section("budget", notes), config, notes);
    config.tools = tools(root.section("tools", notes), files, notes);
    ceo(root.section("ceo", notes), config, notes);
    escalation(root.section("escalation", notes), config, files, notes);
    api(root.section("api", notes), config, files, notes);
    if let Some(value) = root.take("drain-timeout", notes) {
        config.drain_timeout = value.duration(Duration::ZERO..=HOUR, notes).unwrap_or(config.drain_timeout);
    }
    retention(root.section("retention", notes), config, notes);
    root.finish(&ours_only, notes);
    wide
}

fn retention(mut table: Table, config: &mut Config, notes: &mut Notes<'_>) {
    for (key, span) in [("done", &mut config.retention.done), ("dead-letters", &mut config.retention.dead_letters)] {
        let Some(value) = table.take(key, notes) else { continue };
        if matches!(&value.node.kind, Kind::Scalar { text, .. } if text == "forever") {
            *span = None;
        } else if let Some(said) = value.duration(KEY_RETENTION..=KEY_RETENTION * 36_500, notes) {
            *span = Some(said);
        }
    }
    if let Some(value) = table.take("max-size", notes) {
        config.retention.size_max = value.bytes(SIZE_LEAST, notes);
    }
    table.finish(&ours_only, notes);
}

/// `provider/model`.
pub(super) fn model(value: &Value, notes: &mut Notes<'_>) -> Option<ModelRef> {
    let text = value.text(notes)?;
    match text.parse() {
        Ok(model) => Some(model),
        Err(_) => {
            let remedy = match text.as_str() {
                "opus" | "sonnet" | "haiku" => format!("write anthropic/claude-{text}-5-5"),
                "inherit" => "remove the key: an agent without a model takes the team's `model`".to_owned(),
                _ => "write provider/model, such as anthropic/claude-opus-5-5; the provider is a key of `providers` in backstop.yaml".to_owned(),
            };
            value.error(notes, format!("`{}` is no model", cut(&text)), remedy);
            None
        }
    }
}

fn task_type(
    value: &Value,
    team_retry: &RetryPolicy,
    files: &Files<'_>,
    notes: &mut Notes<'_>,
) -> Option<TaskTypeConfig> {
    let mut table = value.table(notes)?;
    let said = TaskTypeConfig {
        effect: table.take("effect", notes).and_then(|v| effect(&v, notes)),
        retry: table.take("retry", notes).map(|v| retry(&v, team_retry, notes)),
        prompt: table.take("prompt", notes).and_then(|v| v.text(notes)),
        priority: table.take("priority", notes).and_then(|v| v.word::<Priority>(&["high", "normal", "low"], notes)),
        input_schema: table.take("input-schema", notes).and_then(|v| files.schema(&v, notes)),
        output_schema: table.take("output-schema", notes).and_then(|v| files.schema(&v, notes)),
        max_micro_usd: table.take("max-cost-usd", notes).and_then(|v| v.dollars(notes)),
        verify: table.take("verify", notes).and_then(|v| verify(&v, files, notes)),
    };
    table.finish(&ours_only, notes);
    Some(said)
}

/// What doing something does to the world.
pub(super) fn effect(value: &Value, notes: &mut Notes<'_>) -> Option<Effect> {
    value.word::<Effect>(&["read-only", "notification", "mutation", "payment"], notes)
}

fn budget(mut table: Table, config: &mut Config, notes: &mut Notes<'_>) {
    config.budget = BudgetConfig {
        micro_usd_per_task: table.take("max-usd-per-task", notes).and_then(|v| v.dollars(notes)),
        micro_usd_per_hour: table.take("max-usd-per-hour", notes).and_then(|v| v.dollars(notes)),
        micro_usd_per_day: table.take("max-usd-per-day", notes).and_then(|v| v.dollars(notes)),
    };
    table.finish(&ours_only, notes);
}

fn ceo(mut table: Table, config: &mut Config, notes: &mut Notes<'_>) {
    if let Some(value) = table.take("adviser", notes)
        && let Some(mut adviser) = value.table(notes)
    {
        let asked = adviser.must("model", "name the model that advises: `model: anthropic/claude-haiku-5-5`", notes);
        let model = asked.and_then(|v| model(&v, notes));
        let within = adviser.take("within", notes).and_then(|v| v.duration(SECOND..=MINUTE * 10, notes));
        let tokens = adviser.take("max-output-tokens", notes).and_then(|v| v.count(1..=100_000, notes));
        let dollars = adviser.take("max-usd-per-hour", notes).and_then(|v| v.dollars(notes));
        adviser.finish(&ours_only, notes);
        config.ceo.adviser = model.map(|model| AdviserConfig {
            model,
            within: within.unwrap_or(defaults::ADVICE_WITHIN),
            max_output_tokens: tokens.unwrap_or(defaults::ADVICE_TOKENS),
            micro_usd_per_hour: dollars.unwrap_or(defaults::ADVICE_MICRO_USD_PER_HOUR),
        });
    }
    table.finish(&ours_only, notes);
}

fn api(mut table: Table, config: &mut Config, files: &Files<'_>, notes: &mut Notes<'_>) {
    if let Some(value) = table.take("listen", notes) {
        let remedy = "write an address and a port, such as 127.0.0.1:7420";
        let text = value.text(notes);
        match text.as_deref().map(str::parse) {
            Some(Ok(listen)) => config.api.listen = listen,
            Some(Err(_)) => {
                value.error(notes, format!("`{}` is no address", cut(text.as_deref().unwrap_or_default())), remedy)
            }
            None => {}
        }
    }
    let open = "the operator's door would be open to everybody on this machine";
    config.api.token = token(&mut table, "token", open, files, notes);
    config.api.read_token = token(&mut table, "read-token", "nobody could look with it", files, notes);
    table.finish(&ours_only, notes);
}

fn token(table: &mut Table, key: &str, unset: &str, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<SecretString> {
    match secret(table, key, files, notes)? {
        // Whoever sends it cannot send the end of its line. Blank it opens nothing, and stays so.
        Secret::Known(token) => match token.expose_secret().trim() {
            "" => Some(token),
            trimmed => Some(SecretString::from(trimmed.to_owned())),
        },
        Secret::Unset(names) => {
            let field = format!("{}.{key}", table.value.path);
            files.unset(&field, &names, unset, notes);
            None
        }
    }
}
