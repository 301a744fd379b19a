//! Whether a configuration is sound: every relation between its parts, all flaws at once.
//!
//! What one value may be is decided where it is read; here is what values mean together. A flaw names the value by its
//! path (`agents.cto.model`); `definitions/` knows in which line that stands.

use std::collections::BTreeSet;

use crate::agent::{Agent, ModelRef};
use crate::answer::Validator;
use crate::config::{ChannelConfig, Config};
use crate::prompt::{self, FILL_VARIABLES, FILLED, SYSTEM_VARIABLES, VARIABLES};
use crate::spelling::nearest;
use crate::task::{AgentName, Effect, Integration};

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
        template_flaws(&format!("prompts.{name}"), name, &prompt.body, variables, &prompt.arguments, &mut flaws);
        schema_flaw(&format!("prompts.{name}.output-schema"), prompt.output_schema.as_ref(), &mut flaws);
    }
    task_type_flaws(config, &mut flaws);
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
    template_flaws(&at, agent.name.as_str(), &agent.system_prompt, SYSTEM_VARIABLES, &[], flaws);
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

fn template_flaws(
    path: &str,
    name: &str,
    body: &str,
    variables: &[&str],
    arguments: &[prompt::Argument],
    flaws: &mut Flaws,
) {
    for (line, message) in prompt::template_flaws(name, body, variables, arguments) {
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
    fn a_door_open_to_others_needs_a_token() {
        let mut config = Config::new("t").agent(Agent::new("a", "simulated/x").expect("an agent"));
        config.api.listen = "0.0.0.0:7420".parse().expect("an address");
        assert!(check(&config, &[]).iter().any(|flaw| flaw.fatal && flaw.path == "api.listen"));
        config.api.token = Some("t".into());
        assert!(!check(&config, &[]).iter().any(|flaw| flaw.fatal));
    }
}
