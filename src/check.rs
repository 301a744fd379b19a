//! Whether a configuration is sound: every relation between its parts, all flaws at once.
//!
//! What one value may be is decided where it is read; here is what values mean together. A flaw names the value by its
//! path (`agents.cto.model`); `definitions/` knows in which line that stands.

use std::collections::BTreeSet;

use crate::agent::{Agent, ModelRef};
use crate::answer::Validator;
use crate::budget;
use crate::config::{ChannelConfig, Config, Verify};
use crate::prompt::{self, FILL_VARIABLES, FILLED, SYSTEM_VARIABLES, VARIABLES};
use crate::spelling::nearest;
use crate::task::{AgentName, Effect, Integration};
use crate::tool::{GET, HTTP, KeyPlace, LOCAL, REQUEST, ToolRule, smells_of_money};

/// The integration of scripted models, for tests and demonstrations; it needs no declaration.
pub const SIMULATED: &str = "simulated";

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which value, as a path with dots.
    pub path: String,
    /// Does it keep the team from starting? Otherwise it is allowed, but probably not meant.
    pub fatal: bool,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// How many lines below the value's place, for templates.
    pub line: usize,
}

/// Everything that does not fit. `integrations` are those whose providers are made in code.
#[must_use]
pub fn check(config: &Config, integrations: &[Integration]) -> Vec<Flaw> {
    let mut flaws = Flaws(Vec::new());
    if AgentName::new(config.team.as_str()).is_err() {
        let message = format!("`{}` cannot be the name of a team", config.team);
        flaws.error("team", message, "use letters, digits, `_`, `-` and `.`, a letter or digit first, at most 64");
    }
    if config.agents.is_empty() {
        flaws.error("agents", "the team has no agents", "write agents/<name>.md, or run `backstop init`");
    }
    for agent in config.agents.values() {
        agent_flaws(config, agent, integrations, &mut flaws);
    }
    if let Some(adviser) = &config.ceo.adviser {
        model_flaws(config, "ceo.adviser.model", &adviser.model, integrations, &mut flaws);
    }
    for (name, prompt) in &config.prompts {
        let variables = if FILLED.contains(&name.as_str()) { FILL_VARIABLES } else { VARIABLES };
        template_flaws(&format!("prompts.{name}"), &prompt.body, variables, &prompt.arguments, &mut flaws);
        schema_flaw(&format!("prompts.{name}.output-schema"), prompt.output_schema.as_ref(), &mut flaws);
    }
    task_type_flaws(config, &mut flaws);
    budget_flaws(config, &mut flaws);
    server_flaws(config, integrations, &mut flaws);
    escalation_flaws(config, &mut flaws);
    if !config.api.listen.ip().is_loopback() && config.api.token.is_none() {
        let message = format!("{} can be reached from other machines, and anybody may call it", config.api.listen);
        flaws.error("api.listen", message, "set `api.token: ${BACKSTOP_TOKEN}`, or listen on 127.0.0.1");
    }
    flaws.0
}

struct Flaws(Vec<Flaw>);

impl Flaws {
    fn error(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, true, message, remedy, 0);
    }

    fn warning(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(path, false, message, remedy, 0);
    }

    fn push(&mut self, path: &str, fatal: bool, message: impl Into<String>, remedy: impl Into<String>, line: usize) {
        self.0.push(Flaw { path: path.to_owned(), fatal, message: message.into(), remedy: remedy.into(), line });
    }
}

fn agent_flaws(config: &Config, agent: &Agent, integrations: &[Integration], flaws: &mut Flaws) {
    let at = format!("agents.{}", agent.name);
    model_flaws(config, &format!("{at}.model"), &agent.model, integrations, flaws);
    let mut seen = BTreeSet::from([&agent.model]);
    for (i, model) in agent.fallback_models.iter().enumerate() {
        let path = format!("{at}.fallback-models.{i}");
        model_flaws(config, &path, model, integrations, flaws);
        if !seen.insert(model) {
            let what = if *model == agent.model { "is the model it falls back from" } else { "is named twice" };
            flaws.error(&path, format!("{model} {what}"), "name another model, best of another provider");
        }
    }
    for (i, other) in agent.covers_for.iter().enumerate() {
        let path = format!("{at}.covers-for.{i}");
        if *other == agent.name {
            flaws.error(&path, "an agent cannot cover for itself", "remove it");
        } else if !config.agents.contains_key(other) {
            let names = config.agents.keys().map(AgentName::as_str);
            flaws.error(
                &path,
                format!("there is no agent `{other}`"),
                instead(other.as_str(), names, "write its file in agents/"),
            );
        }
    }
    for (i, pattern) in agent.handles.iter().enumerate() {
        let path = format!("{at}.handles.{i}");
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if pattern.is_empty() || stem.len() > 64 || !stem.chars().all(sound) {
            flaws.error(
                &path,
                format!("`{pattern}` is no pattern of task types"),
                "write a type such as `code_review`, or a beginning and a star such as `architecture.*`",
            );
        } else if agent.handles[..i].contains(pattern) {
            flaws.error(&path, format!("`{pattern}` is named twice"), "remove one");
        } else if stem == pattern && !config.task_types.keys().any(|declared| declared.as_str() == pattern) {
            let names = config.task_types.keys().map(|name| name.as_str());
            let remedy = instead(
                pattern,
                names,
                &format!("add `{pattern}: {{ effect: read-only }}`, or what it does, to `task-types`"),
            );
            flaws.warning(
                &path,
                format!("nothing is said of task type `{pattern}`: it is taken for a mutation"),
                remedy,
            );
        }
    }
    tool_pattern_flaws(config, agent, &at, flaws);
    template_flaws(&at, &agent.system_prompt, SYSTEM_VARIABLES, &[], flaws);
    schema_flaw(&format!("{at}.output-schema"), agent.output_schema.as_ref(), flaws);
}

fn model_flaws(config: &Config, path: &str, model: &ModelRef, integrations: &[Integration], flaws: &mut Flaws) {
    let provider = &model.provider;
    if config.providers.contains_key(provider) || integrations.contains(provider) || provider.as_str() == SIMULATED {
        return;
    }
    let names = config.providers.keys().chain(integrations).map(Integration::as_str);
    let remedy = instead(provider.as_str(), names, &format!("declare `{provider}` under `providers` in backstop.yaml"));
    flaws.error(path, format!("there is no provider `{provider}`"), remedy);
}

fn task_type_flaws(config: &Config, flaws: &mut Flaws) {
    for (name, said) in &config.task_types {
        let at = format!("task-types.{name}");
        if let Some(prompt) = &said.prompt
            && !config.prompts.contains_key(prompt)
        {
            let names = config.prompts.keys().map(String::as_str);
            flaws.error(
                &format!("{at}.prompt"),
                format!("there is no prompt `{prompt}`"),
                instead(prompt, names, "write its file in prompts/"),
            );
        }
        schema_flaw(&format!("{at}.input-schema"), said.input_schema.as_ref(), flaws);
        schema_flaw(&format!("{at}.output-schema"), said.output_schema.as_ref(), flaws);
        let effect = config.effect(name, config.prompt_for(name, None));
        let declared = said.effect.is_some()
            || config.prompts.get(config.prompt_for(name, None)).is_some_and(|p| p.class.is_some());
        if !declared {
            flaws.warning(
                &at,
                "no effect is declared: it is taken for a mutation",
                "write `effect: read-only`, notification, mutation or payment",
            );
        }
        if effect != Effect::Payment
            && ["pay", "charge", "refund", "transfer"].iter().any(|word| name.as_str().contains(word))
        {
            flaws.warning(
                &at,
                format!("sounds as if money moved, but its effect is {effect}"),
                "write `effect: payment`; a payment is never repeated automatically",
            );
        }
        if effect == Effect::Payment && said.retry.is_some() {
            flaws.warning(
                &format!("{at}.retry"),
                "a payment is never retried automatically; this has no effect",
                "remove it",
            );
        }
        verify_flaws(config, &at, said.verify.as_ref(), flaws);
        let capable: Vec<&str> =
            config.agents.values().filter(|agent| agent.handles(name)).map(|agent| agent.name.as_str()).collect();
        match capable.as_slice() {
            [] => flaws.warning(&at, "no agent handles it", format!("add `{name}` to the `handles` of an agent")),
            [only]
                if config.agents.len() > 1
                    && !config.agents.values().any(|a| a.covers_for.iter().any(|name| name.as_str() == *only)) =>
            {
                let message = format!("only `{only}` can do it: when it fails there, nobody can take over");
                flaws.warning(&at, message, format!("let another agent handle it, or cover for `{only}`"));
            }
            [..] => {}
        }
    }
}

fn verify_flaws(config: &Config, at: &str, verify: Option<&Verify>, flaws: &mut Flaws) {
    match verify {
        Some(Verify::Agent { agent, prompt }) => {
            if !config.agents.contains_key(agent) {
                let names = config.agents.keys().map(AgentName::as_str);
                let remedy = instead(agent.as_str(), names, "write its file in agents/");
                flaws.error(&format!("{at}.verify.agent"), format!("there is no agent `{agent}`"), remedy);
            }
            if !config.prompts.contains_key(prompt) {
                let names = config.prompts.keys().map(String::as_str);
                let remedy = instead(prompt, names, "write its file in prompts/");
                flaws.error(&format!("{at}.verify.prompt"), format!("there is no prompt `{prompt}`"), remedy);
            }
        }
        Some(Verify::Url { url, .. }) if !config.tools.http.lists(url, "POST") => {
            let remedy = "add its host to `tools.http.hosts`, with `methods: [POST]`";
            flaws.error(&format!("{at}.verify.url"), "its host may not be asked with POST", remedy);
        }
        Some(Verify::Url { .. } | Verify::Command { .. }) | None => {}
    }
}

fn server_flaws(config: &Config, integrations: &[Integration], flaws: &mut Flaws) {
    let tools = &config.tools;
    for (name, server) in &tools.mcp {
        let at = format!("tools.mcp.{name}");
        let taken = match name.as_str() {
            LOCAL => Some("the functions made in code are that server"),
            HTTP => Some("the built-in HTTP request is that server"),
            SIMULATED => Some("the scripted models are that integration"),
            _ if config.providers.contains_key(name) || integrations.contains(name) => Some("a provider has that name"),
            _ => None,
        };
        if let Some(why) = taken {
            let remedy = "give it another name: a name is one remote party with one breaker";
            flaws.error(&at, format!("a server cannot be called `{name}`: {why}"), remedy);
        }
        for (tool, rule) in &server.tools {
            let at = format!("{at}.tools.{tool}");
            rule_flaws(&at, tool, rule, flaws);
            if matches!(rule.key, KeyPlace::Header(_)) {
                let remedy = "write { argument: name }, or nothing: then it goes into `_meta`";
                flaws.error(&format!("{at}.key"), "a call of an MCP tool has no headers of its own", remedy);
            }
            probe_flaws(&at, (tool, rule), &server.tools, server.trusted, flaws);
        }
    }
    for (tool, rule) in &tools.http.tools {
        let at = format!("tools.http.tools.{tool}");
        if ![GET, REQUEST].contains(&tool.as_str()) {
            let remedy = instead(tool, [GET, REQUEST], "there are `get` and `request`");
            flaws.error(&at, format!("the HTTP server has no tool `{tool}`"), remedy);
        }
        if matches!(rule.key, KeyPlace::Argument(_)) {
            flaws.error(
                &format!("{at}.key"),
                "the key of an HTTP request goes into a header",
                "write { header: Name }",
            );
        }
        // `get` is read-only by itself.
        probe_flaws(&at, (tool, rule), &tools.http.tools, true, flaws);
    }
    for (tool, rule) in &tools.local {
        let at = format!("tools.local.{tool}");
        rule_flaws(&at, tool, rule, flaws);
        if matches!(rule.key, KeyPlace::Header(_)) {
            flaws.error(&format!("{at}.key"), "a function has no headers", "write { argument: name }, or nothing");
        }
        probe_flaws(&at, (tool, rule), &tools.local, true, flaws);
    }
}

fn rule_flaws(at: &str, tool: &str, rule: &ToolRule, flaws: &mut Flaws) {
    if smells_of_money(tool) && rule.effect != Some(Effect::Payment) {
        let said = rule.effect.map_or("not declared".to_owned(), |effect| effect.to_string());
        let message = format!("sounds as if money moved, but its effect is {said}");
        flaws.warning(at, message, "write `effect: payment`; a payment is never repeated automatically");
    }
    if rule.effect == Some(Effect::Payment) && rule.idempotent == Some(true) {
        let message = "a payment is never repeated automatically; this has no effect";
        flaws.warning(&format!("{at}.idempotent"), message, "remove it");
    }
}

/// A probe that changes something would be a second call in doubt.
fn probe_flaws<'a>(
    at: &str,
    (tool, rule): (&str, &ToolRule),
    others: impl IntoIterator<Item = (&'a String, &'a ToolRule)>,
    trusted: bool,
    flaws: &mut Flaws,
) {
    let Some(probe) = &rule.probe else { return };
    let declared = others.into_iter().find(|(name, _)| **name == probe.tool).and_then(|(_, rule)| rule.effect);
    let remedy = match declared {
        _ if probe.tool == tool => "name another tool of this server, one that only reads",
        Some(Effect::ReadOnly) => return,
        None if trusted => return,
        None => {
            "declare it under `tools`: `effect: read-only`, if that is so; nothing an untrusted server says is believed"
        }
        Some(Effect::Notification | Effect::Mutation | Effect::Payment) => "name one that only reads",
    };
    let what = if probe.tool == tool { "the call in doubt itself" } else { "not known to be read-only" };
    flaws.error(&format!("{at}.probe.tool"), format!("the probe `{}` is {what}", probe.tool), remedy);
}

fn tool_pattern_flaws(config: &Config, agent: &Agent, at: &str, flaws: &mut Flaws) {
    const FORMS: &str =
        "write mcp:server/tool, mcp:server/*, mcp:*, http, http:get, or the name of a function made in code";
    let servers = || config.tools.mcp.keys().map(Integration::as_str);
    for (i, pattern) in agent.tools.iter().enumerate() {
        let path = format!("{at}.tools.{i}");
        if agent.tools[..i].contains(pattern) {
            flaws.error(&path, format!("`{pattern}` is named twice"), "remove one");
            continue;
        }
        if let Some(rest) = pattern.strip_prefix("mcp:") {
            let (server, tool) = rest.split_once('/').unwrap_or((rest, ""));
            if rest == "*" {
                continue;
            }
            if !config.tools.mcp.keys().any(|known| known.as_str() == server) {
                let otherwise = format!("declare `{server}` under `tools.mcp` in backstop.yaml");
                let message = format!("there is no MCP server `{server}`");
                flaws.error(&path, message, instead(server, servers(), &otherwise));
            } else if tool.is_empty() {
                flaws.error(
                    &path,
                    format!("`{pattern}` names no tool"),
                    format!("write mcp:{server}/*, or one tool of it"),
                );
            } else {
                let rules = config.tools.mcp.iter().find(|(known, _)| known.as_str() == server);
                let declared = rules.is_some_and(|(_, server)| server.tools.contains_key(tool));
                undeclared_money(&path, tool, declared, &format!("tools.mcp.{server}.tools"), flaws);
            }
        } else if let Some(tool) = pattern.strip_prefix("http:") {
            if ![GET, REQUEST].contains(&tool) {
                let message = format!("the HTTP server has no tool `{tool}`");
                flaws.error(&path, message, instead(tool, [GET, REQUEST], "write http, http:get or http:request"));
            }
        } else if pattern == HTTP {
            if config.tools.http.hosts.is_empty() {
                flaws.warning(&path, "no host may be asked", "list some under `tools.http.hosts` in backstop.yaml");
            }
        } else if let Some((server, _)) = pattern.split_once('/') {
            let known = servers().any(|known| known == server);
            let remedy = if known { format!("write mcp:{pattern}") } else { FORMS.to_owned() };
            flaws.error(&path, format!("`{pattern}` is no pattern of tools"), remedy);
        } else if !pattern
            .strip_suffix('*')
            .unwrap_or(pattern)
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            || matches!(pattern.as_str(), "" | "*")
        {
            flaws.error(&path, format!("`{pattern}` is no pattern of tools"), FORMS);
        } else {
            let declared = config.tools.local.contains_key(pattern);
            if servers().any(|known| known == pattern) {
                let message = format!("`{pattern}` is a server, not a tool");
                flaws.error(&path, message, format!("write mcp:{pattern}/*, or mcp:{pattern}/ and one of its tools"));
            } else {
                undeclared_money(&path, pattern, declared, "tools.local", flaws);
            }
        }
    }
}

fn undeclared_money(path: &str, tool: &str, declared: bool, section: &str, flaws: &mut Flaws) {
    // What is declared is looked at where that stands.
    if smells_of_money(tool) && !declared {
        let message = format!("`{tool}` sounds as if money moved, and nothing is declared of it");
        let remedy = format!("write `{tool}: {{ effect: payment }}` under `{section}` in backstop.yaml");
        flaws.warning(path, message, remedy);
    }
}

/// A cap below what a single call sets aside lets nothing pass.
fn budget_flaws(config: &Config, flaws: &mut Flaws) {
    let dearest = config.dearest();
    let mut told = BTreeSet::new();
    for agent in config.agents.values() {
        for model in std::iter::once(&agent.model).chain(&agent.fallback_models) {
            let facts = config.model_facts(model);
            let least = budget::worst(0, 0, u64::from(agent.max_output_tokens), &facts, &dearest);
            let limits = format!("agents.{}.limits", agent.name);
            let mut caps = vec![
                (format!("{limits}.max-cost-usd"), agent.max_micro_usd),
                (format!("{limits}.max-usd-per-hour"), agent.max_micro_usd_per_hour),
                ("budget.max-usd-per-task".to_owned(), config.budget.micro_usd_per_task),
                ("budget.max-usd-per-hour".to_owned(), config.budget.micro_usd_per_hour),
                ("budget.max-usd-per-day".to_owned(), config.budget.micro_usd_per_day),
            ];
            let handled = config.task_types.iter().filter(|(name, _)| agent.handles(name));
            caps.extend(handled.map(|(name, said)| (format!("task-types.{name}.max-cost-usd"), said.max_micro_usd)));
            for (path, cap) in caps {
                let Some(cap) = cap.filter(|cap| *cap < least) else { continue };
                if told.insert(path.clone()) {
                    let [least, cap] = [least, cap].map(budget::dollars);
                    let message = format!(
                        "{least} are set aside for a call of {model} by {}: under {cap} none can be made",
                        agent.name
                    );
                    let remedy = "raise it, lower `limits.max-output-tokens`, or say what the model costs under `models` of its provider";
                    flaws.warning(&path, message, remedy);
                }
            }
        }
    }
}

fn escalation_flaws(config: &Config, flaws: &mut Flaws) {
    let mut names = BTreeSet::new();
    let mut reaches_somebody = false;
    for (i, person) in config.escalation.on_call.iter().enumerate() {
        let at = format!("escalation.on-call.{i}");
        if !names.insert(&person.name) {
            flaws.error(
                &format!("{at}.name"),
                format!("`{}` is called twice", person.name),
                "give each step its own name",
            );
        }
        if person.channels.is_empty() {
            flaws.error(
                &format!("{at}.channels"),
                format!("`{}` cannot be reached", person.name),
                "add a channel: pagerduty, email, webhook or log",
            );
        }
        reaches_somebody |= person.channels.iter().any(|channel| !matches!(channel, ChannelConfig::Log));
    }
    if !reaches_somebody {
        flaws.warning(
            "escalation.on-call",
            "a page only reaches the log",
            "add PagerDuty, e-mail or a webhook under `escalation.on-call`; then run `backstop page test`",
        );
    }
}

fn template_flaws(path: &str, body: &str, variables: &[&str], arguments: &[prompt::Argument], flaws: &mut Flaws) {
    for (line, message) in prompt::template_flaws(body, variables, arguments) {
        let declared = arguments.iter().map(|argument| argument.name.as_str());
        let remedy = if message.contains("not among the declared") {
            let word = message.split('`').nth(1).and_then(|path| path.split('.').nth(1)).unwrap_or_default();
            instead(word, declared, "declare it under `arguments`")
        } else if message.contains("nothing a template is given") {
            format!("a template may speak of: {}", variables.join(", "))
        } else if message.contains("include") || message.contains("template") {
            "a prompt stands alone: write the text of the other one into it".to_owned()
        } else if message.contains("fuel") {
            "a template may take 500000 steps: shorten its loops".to_owned()
        } else {
            "the syntax is Jinja's: https://docs.rs/minijinja/latest/minijinja/syntax/".to_owned()
        };
        flaws.push(&format!("{path}.body"), true, message, remedy, line);
    }
}

fn schema_flaw(path: &str, schema: Option<&serde_json::Value>, flaws: &mut Flaws) {
    if let Some(Err(error)) = schema.map(Validator::new) {
        flaws.error(path, error.to_string(), "correct the schema; https://json-schema.org/learn explains the keywords");
    }
}

/// The nearest right word, or what else can be done.
fn instead<'a>(word: &str, names: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    match nearest(word, names) {
        Some(name) => format!("did you mean `{name}`? Otherwise {otherwise}"),
        None => otherwise.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_made_in_code_is_sound_in_a_few_words() {
        let writer = Agent::new("writer", "simulated/any").expect("an agent").handling("*");
        let flaws = check(&Config::new("hello").agent(writer), &[]);
        assert_eq!(flaws.iter().filter(|flaw| flaw.fatal).count(), 0, "{flaws:?}");
    }

    #[test]
    fn all_flaws_come_at_once_with_their_paths() {
        let agent = Agent::new("cto", "antropic/opus").expect("an agent");
        let agent = agent
            .covering_for("cto")
            .expect("a name")
            .covering_for("cso")
            .expect("a name")
            .told("{{ team.name }} {{ teem }}");
        let paths: Vec<String> =
            check(&Config::new("").agent(agent), &[]).into_iter().filter(|f| f.fatal).map(|f| f.path).collect();
        assert_eq!(
            paths,
            ["team", "agents.cto.model", "agents.cto.covers-for.0", "agents.cto.covers-for.1", "agents.cto.body"]
        );
    }

    #[test]
    fn a_schema_that_takes_for_ever_is_refused_and_one_of_a_tree_is_not() {
        let back = serde_json::json!({"$ref": "#"});
        for (schema, flawed) in [
            (serde_json::json!({"anyOf": [back, {"type": "string"}]}), true),
            (serde_json::json!({"properties": {"left": back, "right": back}}), false),
        ] {
            let agent = Agent::new("a", "simulated/x").expect("an agent").answering(schema);
            let fatal: Vec<_> =
                check(&Config::new("t").agent(agent), &[]).into_iter().filter(|flaw| flaw.fatal).collect();
            assert_eq!(fatal.len(), usize::from(flawed), "{fatal:?}");
        }
    }

    #[test]
    fn a_door_open_to_others_needs_a_token() {
        let mut config = Config::new("t").agent(Agent::new("a", "simulated/x").expect("an agent"));
        config.api.listen = "0.0.0.0:7420".parse().expect("an address");
        assert!(check(&config, &[]).iter().any(|flaw| flaw.fatal && flaw.path == "api.listen"));
        config.api.token = Some("t".into());
        assert!(!check(&config, &[]).iter().any(|flaw| flaw.fatal));
    }
}
