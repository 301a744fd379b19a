//! Agent and prompt files: YAML front matter, then Markdown with Jinja.

use super::decode::{Keys, Notes, Table, Value, kebab};
use super::files::Files;
use super::policies::retry;
use super::team_file::{TeamWide, effect, model};
use super::yaml::{self, Kind, Node, Place, cut};
use crate::agent::{Agent, RestartLimits};
use crate::check::SIMULATED;
use crate::config::Config;
use crate::prompt::{Argument, Prompt, front_matter};
use crate::task::AgentName;
use std::time::Duration;

/// Keys of other tools' agent files, as kebab-case, and whose they are.
const FOREIGN: &[(&str, &str)] = &[
    ("disallowed-tools", "Claude Code"),
    ("permission-mode", "Claude Code"),
    ("max-turns", "Claude Code"),
    ("skills", "Claude Code"),
    ("mcp-servers", "Claude Code"),
    ("hooks", "Claude Code"),
    ("memory", "Claude Code"),
    ("background", "Claude Code"),
    ("isolation", "Claude Code"),
    ("effort", "Claude Code"),
    ("fallback-model", "Claude Code"),
    ("allowed-tools", "Claude Code"),
    ("argument-hint", "Claude Code"),
    ("disable-model-invocation", "Claude Code"),
    ("user-invocable", "Claude Code"),
    ("target", "GitHub Copilot"),
    ("handoffs", "GitHub Copilot"),
    ("timeout-mins", "Gemini CLI"),
    ("temperature", "Gemini CLI"),
    ("developer-instructions", "Codex"),
    ("sandbox-mode", "Codex"),
    ("model-reasoning-effort", "Codex"),
    ("role", "CrewAI"),
    ("goal", "CrewAI"),
    ("backstory", "CrewAI"),
    ("llm", "CrewAI"),
    ("allow-delegation", "CrewAI"),
    ("verbose", "CrewAI"),
    ("input", "dotprompt"),
    ("output", "dotprompt"),
    ("config", "dotprompt"),
    ("sample", "Prompty"),
    ("template", "Prompty"),
];

fn foreign(key: &str) -> Option<&'static str> {
    let key = kebab(key);
    FOREIGN.iter().find(|(name, _)| *name == key).map(|(_, tool)| *tool)
}

/// Reads all of `agents/` into `config`.
pub(super) fn agents(config: &mut Config, wide: &TeamWide, files: &Files<'_>, notes: &mut Notes<'_>) {
    for (path, stem) in files.list("agents", "md", notes) {
        let Ok(name) = AgentName::new(stem.as_str()) else {
            let message = format!("`{}` cannot be the name of an agent", cut(&stem));
            notes.error(&Place::file(&path), "", message, "name the file with letters, digits, `_`, `-` and `.`");
            continue;
        };
        // An agent that could not be read is still there: others that cover for it are not wrong.
        if let Ok(mut agent) = Agent::new(&stem, &format!("{SIMULATED}/unread")) {
            if let Some((table, body)) = open(&path, "agents", &stem, files, notes) {
                read_agent(table, &mut agent, config, wide, files, notes);
                agent.system_prompt = body;
            }
            config.agents.insert(name, agent);
        }
    }
}

/// Reads all of `prompts/` into `config`, over the built-in ones.
pub(super) fn prompts(config: &mut Config, files: &Files<'_>, notes: &mut Notes<'_>) {
    for (path, stem) in files.list("prompts", "md", notes) {
        let mut prompt = Prompt::new(stem.as_str(), "");
        if let Some((table, body)) = open(&path, "prompts", &stem, files, notes) {
            read_prompt(table, &mut prompt, files, notes);
            prompt.body = body;
        }
        config.prompts.insert(stem, prompt);
    }
}

/// Splits a file, checks that it is named as it says, and notes where its body begins.
fn open(path: &str, folder: &str, stem: &str, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<(Table, String)> {
    let text = files.read_own(path, super::files::DOCUMENT_LIMIT, notes)?;
    let start = Place { file: path.into(), line: 1, column: 1 };
    let Some((head, body)) = front_matter(&text) else {
        let message =
            if text.starts_with("---") { "the front matter does not end" } else { "the front matter is missing" };
        let remedy = format!("begin with the lines `---`, `name: {stem}`, `description: …`, `---`; the prompt follows");
        notes.error(&start, "", message, remedy);
        return None;
    };
    let node = match yaml::parse(path, head, 1) {
        Ok(node) => node,
        Err(broken) => {
            notes.broken(broken);
            return None;
        }
    };
    let node = match node.kind {
        Kind::Map(_) => node,
        Kind::Scalar { .. } if node.is_null() => Node::nothing(start),
        Kind::Scalar { .. } | Kind::List(_) => {
            let message = format!("the front matter must be a map, found {}", node.describe());
            notes.error(&node.place, "", message, format!("write `key: value` lines, first `name: {stem}`"));
            return None;
        }
    };
    let prefix = format!("{folder}.{stem}");
    let root = Value::root(node, &prefix, Keys::AnyCase, notes);
    // The line above the body's first: a template's own line numbers are added to it.
    let above = text.len() - text[text.rfind(body).unwrap_or(0)..].len();
    let above = text[..above].matches('\n').count();
    notes.origins.insert(format!("{prefix}.body"), Place { file: path.into(), line: above, column: 1 });
    let mut table = root.table(notes)?;
    if let Some(value) = table.must("name", &format!("write `name: {stem}`"), notes)
        && let Some(name) = value.text(notes)
        && name != stem
    {
        value.error(
            notes,
            format!("the file is called {stem}.md, the name in it is `{}`", cut(&name)),
            format!("write `name: {stem}`, or rename the file"),
        );
    }
    Some((table, body.to_owned()))
}

fn read_agent(
    mut table: Table,
    agent: &mut Agent,
    config: &Config,
    wide: &TeamWide,
    files: &Files<'_>,
    notes: &mut Notes<'_>,
) {
    let described =
        table.must("description", "say in a sentence what the agent is for; the CEO's adviser reads it", notes);
    agent.description = described.and_then(|v| v.text(notes)).unwrap_or_default();
    match (table.take("model", notes), &wide.model) {
        (Some(value), _) => {
            if let Some(model) = model(&value, notes) {
                agent.model = model;
            }
        }
        (None, Some(model)) => agent.model = model.clone(),
        (None, None) => {
            let remedy = "write `model: provider/model` here, or once for all agents in backstop.yaml";
            notes.error(table.value.place(), "model", "the agent has no model, and the team has none", remedy);
        }
    }
    agent.fallback_models = match table.take("fallback-models", notes) {
        Some(value) => value.list(notes).iter().filter_map(|item| model(item, notes)).collect(),
        None => wide.fallback_models.iter().filter(|model| **model != agent.model).cloned().collect(),
    };
    let texts = |table: &mut Table, key: &str, notes: &mut Notes<'_>| -> Vec<String> {
        let items = table.take(key, notes).map_or_else(Vec::new, |value| value.list(notes));
        items.iter().filter_map(|item| item.text(notes)).collect()
    };
    agent.tools = texts(&mut table, "tools", notes);
    agent.handles = texts(&mut table, "handles", notes);
    if let Some(value) = table.take("covers-for", notes) {
        let remedy = "write the names of agents, such as [backend, devops]";
        agent.covers_for =
            value.list(notes).iter().filter_map(|item| item.parsed::<AgentName>(remedy, notes)).collect();
    }
    agent.output_schema = table.take("output-schema", notes).and_then(|value| files.schema(&value, notes));
    agent.retry = table.take("retry", notes).map(|value| retry(&value, &config.retry, notes));
    if let Some(value) = table.take("limits", notes)
        && let Some(mut limits) = value.table(notes)
    {
        if let Some(value) = limits.take("concurrency", notes) {
            agent.concurrency = value.count(1..=1_000, notes).unwrap_or(agent.concurrency);
        }
        if let Some(value) = limits.take("max-output-tokens", notes) {
            agent.max_output_tokens = value.count(1..=1_000_000, notes).unwrap_or(agent.max_output_tokens);
        }
        agent.max_micro_usd = limits.take("max-cost-usd", notes).and_then(|value| value.dollars(notes));
        agent.max_micro_usd_per_hour = limits.take("max-usd-per-hour", notes).and_then(|value| value.dollars(notes));
        if let Some(value) = limits.take("max-steps", notes) {
            agent.max_steps = value.count(1..=10_000, notes).unwrap_or(agent.max_steps);
        }
        if let Some(value) = limits.take("max-tool-calls", notes) {
            agent.max_tool_calls = value.count(1..=1_000, notes).unwrap_or(agent.max_tool_calls);
        }
        if let Some(value) = limits.take("max-tokens-per-minute", notes) {
            agent.max_tokens_per_minute = value.whole(1..=1_000_000_000, notes).unwrap_or(agent.max_tokens_per_minute);
        }
        if let Some(value) = limits.take("stall", notes) {
            let span = Duration::from_secs(1)..=Duration::from_secs(86_400);
            agent.stall = value.duration(span, notes).unwrap_or(agent.stall);
        }
        limits.finish(&super::decode::ours_only, notes);
    }
    if let Some(value) = table.take("restart", notes)
        && let Some(mut restart) = value.table(notes)
    {
        let default = RestartLimits::default();
        let max = restart.take("max", notes).and_then(|value| value.count(0..=1_000, notes));
        let span = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let within = restart.take("within", notes).and_then(|value| value.duration(span, notes));
        restart.finish(&super::decode::ours_only, notes);
        agent.restart = RestartLimits { max: max.unwrap_or(default.max), within: within.unwrap_or(default.within) };
    }
    if let Some(value) = table.take("color", notes) {
        value.text(notes);
    }
    table.finish(&foreign, notes);
}

fn read_prompt(mut table: Table, prompt: &mut Prompt, files: &Files<'_>, notes: &mut Notes<'_>) {
    let described = table.must("description", "say in a sentence what the prompt is for", notes);
    prompt.description = described.and_then(|v| v.text(notes)).unwrap_or_default();
    if let Some(value) = table.take("arguments", notes) {
        for item in value.list(notes) {
            let Some(mut entry) = item.table(notes) else { continue };
            let name = entry.must("name", "name the argument as the payload does", notes);
            let description = entry.take("description", notes).and_then(|v| v.text(notes));
            let required = entry.take("required", notes).and_then(|v| v.flag(notes)).unwrap_or(false);
            entry.finish(&super::decode::ours_only, notes);
            let Some((value, name)) = name.and_then(|value| Some((value.clone(), value.text(notes)?))) else {
                continue;
            };
            let identifier = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !identifier || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                value.error(
                    notes,
                    format!("`{}` cannot be spoken of as args.…", cut(&name)),
                    "use letters, digits and `_`, a letter first",
                );
            } else if prompt.arguments.iter().any(|argument| argument.name == name) {
                value.error(notes, format!("the argument `{name}` is declared twice"), "remove one");
            } else {
                prompt.arguments.push(Argument { name, description, required });
            }
        }
    }
    prompt.class = table.take("class", notes).and_then(|value| effect(&value, notes));
    prompt.output_schema = table.take("output-schema", notes).and_then(|value| files.schema(&value, notes));
    table.finish(&foreign, notes);
}
