//! Servers of tools, the hosts of the HTTP tool, what is declared of tools, and how answers are verified.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::decode::{Notes, Table, Value, ours_only};
use super::files::Files;
use super::providers::HeaderName;
use super::secrets::{UNSET_URL, settings, url};
use super::team_file::effect;
use super::yaml::{Kind, Node, cut};
use crate::task::{AgentName, Integration};
use crate::tool::{KeyPlace, Probe, Sign, ToolRule};
use crate::tool_config::{
    CALL_WITHIN, Host, HostRule, HttpConfig, McpConfig, START_WITHIN, ToolsConfig, Transport, VERIFY_WITHIN, Verify,
};
use crate::verdict;

/// What it means when a variable of a header is not set.
const WITHOUT: &str = "the server would be without it";
const SHORT: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn tools(mut table: Table, files: &Files<'_>, notes: &mut Notes<'_>) -> ToolsConfig {
    let mut config = ToolsConfig::default();
    if let Some(value) = table.take("mcp", notes) {
        for (name, value) in value.named::<Integration>("a server", notes) {
            if let Some(server) = mcp(&value, files, notes) {
                config.mcp.insert(name, server);
            }
        }
    }
    if let Some(value) = table.take("http", notes)
        && let Some(table) = value.table(notes)
    {
        config.http = http(table, files, notes);
    }
    if let Some(value) = table.take("local", notes) {
        config.local = rules(&value, notes);
    }
    table.finish(&ours_only, notes);
    config
}

fn mcp(value: &Value, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<McpConfig> {
    let mut table = value.table(notes)?;
    let command = table.take("command", notes);
    let address = table.take("url", notes);
    let env = table.take("env", notes);
    let headers = table.take("headers", notes);
    let trusted = table.take("trusted", notes).and_then(|v| v.flag(notes)).unwrap_or(false);
    let mut within =
        |key: &str, notes: &mut Notes<'_>| table.take(key, notes).and_then(|v| v.duration(SHORT..=DAY, notes));
    let start_within = within("start-within", notes).unwrap_or(START_WITHIN);
    let call_within = within("call-within", notes).unwrap_or(CALL_WITHIN);
    let tools = table.take("tools", notes).map_or_else(BTreeMap::new, |value| rules(&value, notes));
    table.finish(&ours_only, notes);
    let transport = match (command, address) {
        (Some(command), None) => {
            misplaced(headers, "a program has no headers", "give it what it needs under `env`", notes);
            let env = env.map_or_else(BTreeMap::new, |value| {
                settings::<VariableName>(&value, "a variable", WITHOUT, files, notes)
            });
            Transport::Stdio { command: self::command(&command, notes)?, env }
        }
        (None, Some(address)) => {
            misplaced(env, "a server elsewhere has no environment of ours", "use `headers`", notes);
            let headers = headers
                .map_or_else(BTreeMap::new, |value| settings::<HeaderName>(&value, "a header", WITHOUT, files, notes));
            Transport::Http { url: url(&address, &["http", "https"], files, notes)?, headers }
        }
        (None, None) | (Some(_), Some(_)) => {
            let remedy =
                "write `command: [program, argument]` for a program we start, or `url: https://…` for a server";
            value.error(notes, "one way to reach the server is wanted", remedy);
            return None;
        }
    };
    Some(McpConfig { transport, trusted, start_within, call_within, tools })
}

fn misplaced(value: Option<Value>, message: &str, remedy: &str, notes: &mut Notes<'_>) {
    if let Some(value) = value {
        value.error(notes, message, remedy);
    }
}

/// A program and its arguments.
fn command(value: &Value, notes: &mut Notes<'_>) -> Option<Vec<String>> {
    let items = value.list(notes);
    let words: Vec<String> = items.iter().map(|item| item.text(notes)).collect::<Option<_>>()?;
    let wanted = "write the program and its arguments as a list, such as [npx, -y, some-server]";
    match words.as_slice() {
        [] => value.error(notes, "there is no program", wanted),
        [only] if only.trim().contains(char::is_whitespace) => {
            value.error(notes, "no shell reads this: it would be the name of one program", wanted);
        }
        words if words.iter().any(|word| word.contains('\0')) || words[0].is_empty() => {
            value.error(notes, "this cannot be started", wanted);
        }
        _ => return Some(words),
    }
    None
}

struct VariableName(String);

impl FromStr for VariableName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(sound) {
            return Err("not the name of a variable");
        }
        Ok(Self(name.to_owned()))
    }
}

impl From<VariableName> for String {
    fn from(name: VariableName) -> Self {
        name.0
    }
}

fn http(mut table: Table, files: &Files<'_>, notes: &mut Notes<'_>) -> HttpConfig {
    let mut config = HttpConfig::default();
    if let Some(value) = table.take("hosts", notes) {
        for (host, value) in value.named::<Host>("a host", notes) {
            let Some(mut table) = value.table(notes) else { continue };
            let methods = table.take("methods", notes).map_or_else(Vec::new, |value| {
                let items = value.list(notes);
                items.iter().filter_map(|item| item.word::<Method>(METHODS, notes)).map(|method| method.0).collect()
            });
            let headers = table.take("headers", notes);
            let headers = headers
                .map_or_else(BTreeMap::new, |value| settings::<HeaderName>(&value, "a header", WITHOUT, files, notes));
            let private = table.take("private", notes).and_then(|v| v.flag(notes)).unwrap_or(false);
            table.finish(&ours_only, notes);
            config.hosts.insert(host, HostRule { methods, headers, private });
        }
    }
    if let Some(value) = table.take("call-within", notes) {
        config.call_within = value.duration(SHORT..=DAY, notes).unwrap_or(config.call_within);
    }
    if let Some(value) = table.take("tools", notes) {
        config.tools = rules(&value, notes);
    }
    table.finish(&ours_only, notes);
    config
}

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

struct Method(String);

impl FromStr for Method {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        if METHODS.contains(&word) { Ok(Self(word.to_owned())) } else { Err(()) }
    }
}

struct ToolName(String);

impl FromStr for ToolName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
            return Err("not the name of a tool");
        }
        Ok(Self(name.to_owned()))
    }
}

/// What is declared of tools, by name.
fn rules(value: &Value, notes: &mut Notes<'_>) -> BTreeMap<String, ToolRule> {
    let mut rules = BTreeMap::new();
    for (name, value) in value.named::<ToolName>("a tool", notes) {
        let Some(mut table) = value.table(notes) else { continue };
        let rule = ToolRule {
            effect: table.take("effect", notes).and_then(|v| effect(&v, notes)),
            idempotent: table.take("idempotent", notes).and_then(|v| v.flag(notes)),
            key: table.take("key", notes).and_then(|v| key(&v, notes)).unwrap_or_default(),
            probe: table.take("probe", notes).and_then(|v| probe(&v, notes)),
            timeout: table.take("call-within", notes).and_then(|v| v.duration(SHORT..=DAY, notes)),
        };
        table.finish(&ours_only, notes);
        rules.insert(name.0, rule);
    }
    rules
}

fn key(value: &Value, notes: &mut Notes<'_>) -> Option<KeyPlace> {
    let mut table = value.table(notes)?;
    let argument = table.take("argument", notes).and_then(|v| v.text(notes));
    let header =
        table.take("header", notes).and_then(|v| v.parsed::<HeaderName>("write one such as Idempotency-Key", notes));
    table.finish(&ours_only, notes);
    match (argument, header) {
        (Some(name), None) => Some(KeyPlace::Argument(name)),
        (None, Some(name)) => Some(KeyPlace::Header(name.into())),
        (None, None) | (Some(_), Some(_)) => {
            value.error(notes, "one place for the key is wanted", "write { argument: name } or { header: Name }");
            None
        }
    }
}

fn probe(value: &Value, notes: &mut Notes<'_>) -> Option<Probe> {
    let mut table = value.table(notes)?;
    let tool = table.must("tool", "name the read-only tool of this server that can tell", notes);
    let tool = tool.and_then(|v| v.text(notes));
    let arguments = table.take("arguments", notes).and_then(|value| match json(&value.node) {
        Json::Object(arguments) => Some(arguments),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
            value.error(notes, "arguments are a map", "write such as { q: \"$key\" }");
            None
        }
    });
    let mut sign = |key: &str, notes: &mut Notes<'_>| {
        let remedy = format!("say what its answer holds then: `{key}: {{ at: /status, is: done }}`");
        table.must(key, &remedy, notes).and_then(|value| sign(&value, notes))
    };
    let (happened, did_not_happen) = (sign("happened", notes), sign("did-not-happen", notes));
    table.finish(&ours_only, notes);
    Some(Probe {
        tool: tool?,
        arguments: arguments.unwrap_or_default(),
        happened: happened?,
        did_not_happen: did_not_happen?,
    })
}

fn sign(value: &Value, notes: &mut Notes<'_>) -> Option<Sign> {
    let mut table = value.table(notes)?;
    let at = match table.take("at", notes) {
        Some(value) => {
            let at = value.text(notes)?;
            if !at.is_empty() && !at.starts_with('/') {
                value.error(
                    notes,
                    format!("`{}` is no JSON pointer", cut(&at)),
                    "write a path such as /items/0/status",
                );
                return None;
            }
            at
        }
        None => String::new(),
    };
    let is = table.must("is", "say what stands there", notes).map(|value| json(&value.node));
    table.finish(&ours_only, notes);
    Some(Sign { at, is: is? })
}

/// YAML as the JSON it means.
pub(super) fn json(node: &Node) -> Json {
    match &node.kind {
        Kind::Scalar { .. } if node.is_null() => Json::Null,
        Kind::Scalar { text, plain: true } => match serde_json::from_str::<Json>(text) {
            Ok(value @ (Json::Bool(_) | Json::Number(_))) => value,
            Ok(_) | Err(_) => Json::String(text.clone()),
        },
        Kind::Scalar { text, plain: false } => Json::String(text.clone()),
        Kind::List(items) => Json::Array(items.iter().map(json).collect()),
        Kind::Map(entries) => {
            Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), json(node))).collect::<Map<_, _>>())
        }
    }
}

/// How an answer is verified.
pub(super) fn verify(value: &Value, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<Verify> {
    let mut table = value.table(notes)?;
    let (program, address) = (table.take("command", notes), table.take("url", notes));
    let (agent, prompt) = (table.take("agent", notes), table.take("prompt", notes));
    let within = table.take("within", notes);
    table.finish(&ours_only, notes);
    if agent.is_some() {
        misplaced(within.clone(), "an agent has a time limit of its own", "remove it", notes);
    } else {
        misplaced(prompt.clone(), "only an agent is asked with a prompt", "remove it, or name an `agent`", notes);
    }
    let within = within.and_then(|v| v.duration(SHORT..=DAY, notes)).unwrap_or(VERIFY_WITHIN);
    match (program, address, agent) {
        (Some(program), None, None) => Some(Verify::Command { command: command(&program, notes)?, within }),
        (None, Some(address), None) => {
            // What is not set has been said, and is no host that could be listed.
            let url = url(&address, &["http", "https"], files, notes).filter(|url| url != UNSET_URL)?;
            Some(Verify::Url { url, within })
        }
        (None, None, Some(agent)) => Some(Verify::Agent {
            agent: agent.parsed::<AgentName>("write the name of an agent, such as cso", notes)?,
            prompt: prompt.map_or_else(|| Some(verdict::PROMPT.to_owned()), |v| v.text(notes))?,
        }),
        (None, None, None) | (Some(_), _, _) | (_, Some(_), _) => {
            let remedy = "write { command: [cargo, test] }, { url: https://… } or { agent: name }";
            value.error(notes, "one way to verify is wanted", remedy);
            None
        }
    }
}
