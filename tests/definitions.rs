//! What operators write is read strictly: the shipped files are sound, and every mistake is told at once, with its place and its remedy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::budget::Caps;
use backstop::config::{Config, Verify, Wire};
use backstop::definitions::{Diagnostic, Problems, Purpose, load, templates};
use backstop::prompt;
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::task::{Effect, Integration, TaskType};
use backstop::tool::{KeyPlace, Probe, Sign, ToolRef, ToolRule};
use backstop::tools::servers;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::json;

/// A directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn with<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("backstop-definitions-{}-{number}", std::process::id()));
        for (path, content) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("inside the directory")).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The environment of the tests: one key, and no files of the machine.
fn env(name: &str) -> Option<String> {
    match name {
        "ANTHROPIC_API_KEY" => Some("sk-test".to_owned()),
        "BACKSTOP_SYSTEM_DIR" | "XDG_CONFIG_HOME" => Some("/nonexistent".to_owned()),
        _ => None,
    }
}

const TEAM: &str = "team: t
providers: { anthropic: { api-key: \"${ANTHROPIC_API_KEY}\" } }
task-types: { code_review: { effect: read-only } }
";
const CTO: &str = "---
name: cto
description: Reviews
model: anthropic/claude-opus-5-5
handles: [code_review]
---
You are the CTO of {{ team.name }}.
";

fn good() -> Vec<(String, Vec<u8>)> {
    vec![("backstop.yaml".to_owned(), TEAM.into()), ("agents/cto.md".to_owned(), CTO.into())]
}

/// The good team with these files instead.
fn but(changes: &[(&str, &[u8])]) -> Dir {
    let mut files = good();
    for (path, content) in changes {
        files.retain(|(known, _)| known != path);
        files.push(((*path).to_owned(), content.to_vec()));
    }
    Dir::with(files.iter().map(|(path, content)| (path.as_str(), content.as_slice())))
}

fn told(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

struct Case {
    name: String,
    files: Vec<(String, Vec<u8>)>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut open: Option<String> = None;
    for line in include_str!("definitions/bad.txt").lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case { name: name.to_owned(), files: good() });
            open = None;
        } else if let Some(rest) = line.strip_prefix("-- ") {
            let case = cases.last_mut().expect("a case began");
            let (path, removed) = match rest.strip_suffix(" -- removed") {
                Some(path) => (path, true),
                None => (rest.strip_suffix(" --").expect("`-- path --`"), false),
            };
            case.files.retain(|(known, _)| known != path);
            open = (!removed).then(|| path.to_owned());
            case.files.extend(open.clone().map(|path| (path, Vec::new())));
        } else if let (Some(path), Some(case)) = (&open, cases.last_mut()) {
            let (_, content) = case.files.iter_mut().find(|(known, _)| known == path).expect("opened");
            content.extend_from_slice(line.as_bytes());
            content.push(b'\n');
        }
    }
    cases
}

#[test]
fn every_bad_configuration_is_refused_with_place_and_remedy() {
    let mut all = String::new();
    let cases = cases();
    assert!(cases.len() >= 45, "{} cases", cases.len());
    for Case { name, files } in cases {
        let dir = Dir::with(files.iter().map(|(path, content)| (path.as_str(), content.as_slice())));
        let Err(Problems { errors, warnings }) = load(&dir.0, &env, Purpose::Run) else {
            panic!("{name}: accepted");
        };
        assert!(!errors.is_empty(), "{name}: refused without an error");
        for error in &errors {
            assert!(
                !error.message.is_empty() && !error.remedy.is_empty() && !error.file.is_empty(),
                "{name}: {error:?}"
            );
        }
        all.push_str(&format!("== {name}\n{}", told(&errors)));
        let noteworthy: Vec<Diagnostic> =
            warnings.into_iter().filter(|warning| !warning.message.contains("only reaches the log")).collect();
        if !noteworthy.is_empty() {
            all.push_str(&format!("warnings:\n{}", told(&noteworthy)));
        }
        all.push('\n');
    }
    insta::with_settings!({ snapshot_path => "definitions/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("bad_configurations", all);
    });
}

#[test]
fn tools_are_read_as_they_are_written() {
    let team = r#"team: t
providers: { anthropic: { api-key: "${ANTHROPIC_API_KEY}" } }
task-types:
  code_review: { effect: read-only, verify: { command: [cargo, test], within: 10m } }
  bug_fix: { effect: read-only, verify: { url: "https://api.example.com/verify" } }
  deploy: { effect: mutation, verify: { agent: cto } }
tools:
  mcp:
    github:
      command: [github-mcp-server, stdio]
      env: { GITHUB_TOKEN: "${ANTHROPIC_API_KEY}", LOG: verbose }
      trusted: true
      start-within: 10s
      tools:
        create_issue:
          effect: mutation
          idempotent: true
          key: { argument: idempotency_key }
          call-within: 2m
          probe:
            tool: search_issues
            arguments: { q: "$key", limit: 1 }
            happened: { at: /found, is: true }
            did-not-happen: { at: /found, is: false }
    docs: { url: "https://mcp.example.com/mcp", headers: { Authorization: "Bearer ${ANTHROPIC_API_KEY}" } }
  http:
    hosts:
      api.example.com: { methods: [GET, POST], headers: { Authorization: "Bearer ${ANTHROPIC_API_KEY}" } }
      "localhost:8080": {}
    call-within: 20s
  local: { weather: { effect: read-only } }
"#;
    let dir = but(&[("backstop.yaml", team.as_bytes())]);
    let loaded = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    let config = loaded.config;
    let tool = |text: &str| text.parse::<ToolRef>().expect("a tool");
    let expected = ToolRule {
        effect: Some(Effect::Mutation),
        idempotent: Some(true),
        key: KeyPlace::Argument("idempotency_key".to_owned()),
        probe: Some(Probe {
            tool: "search_issues".to_owned(),
            arguments: json!({"q": "$key", "limit": 1}).as_object().expect("an object").clone(),
            happened: Sign { at: "/found".to_owned(), is: json!(true) },
            did_not_happen: Sign { at: "/found".to_owned(), is: json!(false) },
        }),
        timeout: Some(Duration::from_secs(120)),
    };
    assert_eq!(config.tools.rule(&tool("github/create_issue")), Some(&expected));
    assert_eq!(config.tools.rule(&tool("local/weather")).and_then(|rule| rule.effect), Some(Effect::ReadOnly));
    for (name, within, trusted) in [
        ("github/create_issue", 120, true),
        ("github/search_issues", 60, true),
        ("docs/search", 60, false),
        ("http/get", 20, true),
        ("local/weather", 30, true),
        ("nobody/knows", 60, false),
    ] {
        assert_eq!(config.tools.call_within(&tool(name)), Duration::from_secs(within), "{name}");
        assert_eq!(config.tools.trusted(&tool(name).server), trusted, "{name}");
    }
    let verify = |name: &str| {
        config.task_types.iter().find(|(known, _)| known.as_str() == name).and_then(|(_, said)| said.verify.clone())
    };
    let command = ["cargo", "test"].map(str::to_owned).into();
    assert_eq!(verify("code_review"), Some(Verify::Command { command, within: Duration::from_secs(600) }));
    let url = "https://api.example.com/verify".to_owned();
    assert_eq!(verify("bug_fix"), Some(Verify::Url { url, within: Duration::from_secs(600) }));
    let agent = config.agents.keys().next().expect("cto").clone();
    assert_eq!(verify("deploy"), Some(Verify::Agent { agent, prompt: "verify".to_owned() }));
    let secrets: Vec<String> = config.tools.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect();
    assert_eq!(secrets, ["Bearer sk-test", "sk-test", "Bearer sk-test"], "not what stands in the file for all to see");
    assert!(!format!("{:?}", config.tools).contains("sk-test"));
    // Nothing is started, and what is configured can be made.
    let names: Vec<String> = servers(&config).expect("made").iter().map(|server| server.name().to_string()).collect();
    assert_eq!(names, if cfg!(feature = "mcp") { &["docs", "github", "http"][..] } else { &["http"] });
}

#[test]
fn the_shipped_files_are_sound() {
    let loaded = load(Path::new(env!("CARGO_MANIFEST_DIR")), &env, Purpose::Run)
        .unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    assert_eq!(loaded.config.agents.len(), 7);
    let warnings: Vec<String> =
        loaded.warnings.iter().map(|warning| format!("{}: {}", warning.field, warning.message)).collect();
    assert_eq!(
        warnings,
        [
            "providers.openai.api-key: OPENAI_API_KEY is not set: backend, ceo, cso, cto, devops, frontend, marketing cannot fall back to openai",
            "providers.gemini.api-key: GEMINI_API_KEY is not set: backend, frontend, marketing cannot fall back to gemini",
            "escalation.on-call: a page only reaches the log",
        ]
    );
    for task_type in loaded.config.task_types.keys() {
        let capable = loaded.config.agents.values().filter(|agent| agent.handles(task_type)).count();
        assert!(capable >= 2, "{task_type} has {capable} capable agents");
    }
}

#[test]
fn what_init_writes_is_what_is_shipped_and_sound_and_holds_every_file() {
    let dir = Dir::with(templates().iter().map(|(path, content)| (*path, content.as_bytes())));
    let loaded = load(&dir.0, &env, Purpose::Check).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    assert_eq!(loaded.config.agents.len(), 7);
    for folder in ["agents", "prompts", "schemas"] {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("shipped") {
            let path = format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy());
            assert!(templates().iter().any(|(known, _)| *known == path), "{path} is not written by init");
        }
    }
}

#[test]
fn the_built_in_prompts_are_those_of_the_shipped_files() {
    let shipped = load(Path::new(env!("CARGO_MANIFEST_DIR")), &env, Purpose::Check).expect("sound").config;
    for (name, built_in) in prompt::builtin() {
        let file = &shipped.prompts[&name];
        let names =
            |prompt: &prompt::Prompt| prompt.arguments.iter().map(|a| (a.name.clone(), a.required)).collect::<Vec<_>>();
        assert_eq!(
            (&built_in.body, &built_in.description, names(&built_in)),
            (&file.body, &file.description, names(file)),
            "{name}"
        );
    }
}

#[test]
fn a_team_of_one_file_and_one_agent_loads_with_every_default() {
    let dir = but(&[]);
    let loaded = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    let defaults = Config::new("t");
    assert_eq!((loaded.config.retry, loaded.config.breaker), (defaults.retry, defaults.breaker));
    assert_eq!(loaded.config.fingerprint.len(), 12);
    assert_eq!(loaded.origins["agents.cto.model"], "agents/cto.md:4");
    assert_eq!(
        loaded.config.agents.values().next().map(|cto| cto.system_prompt.as_str()),
        Some("You are the CTO of {{ team.name }}.")
    );
}

#[test]
fn each_wire_has_its_word_and_known_names_need_none() {
    for (name, said, wire, base_url) in [
        ("openai", "", Wire::OpenAi, "https://api.openai.com/v1"),
        ("openai", "wire: openai-responses", Wire::Responses, "https://api.openai.com/v1"),
        ("mine", "wire: openai, base-url: \"http://127.0.0.1:1/v1\"", Wire::OpenAi, "http://127.0.0.1:1/v1"),
        ("mine", "wire: openai-responses, base-url: \"http://127.0.0.1:1\"", Wire::Responses, "http://127.0.0.1:1"),
        ("mine", "wire: anthropic, base-url: \"http://127.0.0.1:1\"", Wire::Anthropic, "http://127.0.0.1:1"),
        ("mine", "wire: gemini, base-url: \"http://127.0.0.1:1\"", Wire::Gemini, "http://127.0.0.1:1"),
        ("mine", "wire: ollama, base-url: \"http://127.0.0.1:1\"", Wire::Ollama, "http://127.0.0.1:1"),
    ] {
        let anthropic = "anthropic: { api-key: \"${ANTHROPIC_API_KEY}\" }";
        let team = TEAM.replace(anthropic, &format!("{anthropic}, {name}: {{ {said} }}"));
        let dir = but(&[("backstop.yaml", team.as_bytes())]);
        let loaded = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
        let (_, provider) = loaded.config.providers.iter().find(|(known, _)| known.as_str() == name).expect(name);
        assert_eq!((provider.wire, provider.base_url.as_str()), (wire, base_url), "{name} {said}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes();
    let (team, cto) = (windows(TEAM), windows(CTO));
    let dir = but(&[("backstop.yaml", &team), ("agents/cto.md", &cto)]);
    let loaded = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    assert_eq!(
        loaded.config.agents.values().next().map(|cto| cto.system_prompt.as_str()),
        Some("You are the CTO of {{ team.name }}.")
    );
}

#[test]
fn keys_of_agents_may_be_written_in_three_ways() {
    for keys in [
        "covers-for: []\nfallback-models: []",
        "covers_for: []\nfallback_models: []",
        "coversFor: []\nfallbackModels: []",
    ] {
        let cto = CTO.replace("handles:", &format!("{keys}\nhandles:"));
        let dir = but(&[("agents/cto.md", cto.as_bytes())]);
        assert!(load(&dir.0, &env, Purpose::Run).is_ok(), "{keys}");
    }
}

#[test]
fn keys_of_other_tools_are_warnings_with_a_name() {
    let cto = CTO.replace("handles:", "permissionMode: plan\nmax_turns: 3\nhandles:");
    let dir = but(&[("agents/cto.md", cto.as_bytes())]);
    let warnings = told(&load(&dir.0, &env, Purpose::Run).expect("sound").warnings);
    assert!(
        warnings.contains("agents/cto.md:5:1: permission-mode: `permission-mode` belongs to Claude Code; ignored"),
        "{warnings}"
    );
    assert!(
        warnings.contains("agents/cto.md:6:1: max-turns: `max-turns` belongs to Claude Code; ignored"),
        "{warnings}"
    );
}

#[test]
fn files_that_are_no_text_or_too_large_are_refused() {
    let large = vec![b'#'; 2 * 1024 * 1024];
    for (path, content, expected) in [
        ("backstop.yaml", b"team: \xff".as_slice(), "backstop.yaml: is not UTF-8 (line 1)"),
        ("backstop.yaml", large.as_slice(), "backstop.yaml: is larger than 1024 KiB"),
        ("agents/big.md", large.as_slice(), "agents/big.md: is larger than 256 KiB"),
        ("agents/a b.md", CTO.as_bytes(), "agents/a b.md: `a b` cannot be the name of an agent"),
        ("schemas/x.json", b"{\"a\": \"\xf0\"}".as_slice(), "schemas/x.json: is not UTF-8 (line 1)"),
    ] {
        let dir = but(&[(path, content)]);
        let Problems { errors, .. } = load(&dir.0, &env, Purpose::Run).expect_err(path);
        assert!(told(&errors).starts_with(expected), "{}", told(&errors));
    }
}

/// A link in the project was followed wherever it led: whoever could write into the project had any file of the machine read.
#[cfg(unix)]
#[test]
fn a_link_that_leads_out_of_the_project_is_not_followed() {
    use std::os::unix::fs::symlink;

    let shape: &[u8] = br#"{ "type": "object", "title": "canary" }"#;
    let document: &[u8] = b"---\nname: out\ndescription: canary\nmodel: canary/canary\n---\nYou are the canary.\n";
    let outside = Dir::with([("secret.json", shape), ("secret.md", document)]);
    let with_schema = |path: &str| {
        let team = TEAM.replace("read-only", &format!("read-only, output-schema: {path}"));
        let dir = but(&[("backstop.yaml", team.as_bytes()), ("shapes/own.json", shape)]);
        for folder in ["prompts", "schemas"] {
            fs::create_dir_all(dir.0.join(folder)).expect("a folder");
        }
        dir
    };
    for (link, to, schema, expected) in [
        (
            "schemas/out.json",
            "secret.json",
            "schemas/out.json",
            "output-schema: `schemas/out.json` leads out of the project",
        ),
        ("schemas/out.json", "secret.json", "shapes/own.json", "schemas/out.json: leads out of the project"),
        ("shared", "", "shared/secret.json", "output-schema: `shared/secret.json` leads out of the project"),
        ("prompts/out.md", "secret.md", "shapes/own.json", "prompts/out.md: leads out of the project"),
        ("agents/out.md", "secret.md", "shapes/own.json", "agents/out.md: leads out of the project"),
    ] {
        let dir = with_schema(schema);
        assert!(load(&dir.0, &env, Purpose::Run).is_ok() || schema != "shapes/own.json", "{link}: sound without it");
        symlink(outside.0.join(to), dir.0.join(link)).expect("a link");
        let Err(Problems { errors, .. }) = load(&dir.0, &env, Purpose::Run) else { panic!("{link}: followed") };
        let told = told(&errors);
        assert!(told.contains(expected) && told.contains("or a link to one"), "{link}: {told}");
        assert_eq!(told.contains("backstop.yaml:3:"), schema != "shapes/own.json", "where it is named: {told}");
        assert!(!told.contains("canary"), "{link}: {told}");
    }
    // No link, and it looks like a path below the project.
    let Err(Problems { errors, .. }) = load(&with_schema(".//etc/passwd").0, &env, Purpose::Run) else {
        panic!("read");
    };
    assert!(told(&errors).contains("output-schema: `/etc/passwd` leads out of the project"), "{}", told(&errors));
    // A link that leads nowhere is a file that is not there.
    let dir = with_schema("schemas/gone.json");
    symlink(outside.0.join("gone.json"), dir.0.join("schemas/gone.json")).expect("a link");
    let Err(Problems { errors, .. }) = load(&dir.0, &env, Purpose::Run) else { panic!("read") };
    assert!(told(&errors).contains("schemas/gone.json: does not exist"), "{}", told(&errors));

    let dir = with_schema("schemas/in.json");
    symlink("../shapes/own.json", dir.0.join("schemas/in.json")).expect("a link");
    // The project itself is reached over a link, as all of macOS's /tmp is.
    symlink(&dir.0, outside.0.join("project")).expect("a link");
    for root in [dir.0.clone(), outside.0.join("project")] {
        let loaded = load(&root, &env, Purpose::Run);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{}: {}", root.display(), told(&problems.errors)));
        let declared = &loaded.config.task_types[&TaskType::new("code_review").expect("a name")];
        assert_eq!(declared.output_schema, Some(json!({ "type": "object", "title": "canary" })), "{}", root.display());
    }
}

#[test]
fn a_key_that_is_not_set_is_a_warning_for_check_and_an_error_for_up() {
    let dir = but(&[]);
    let keyless = |name: &str| env(name).filter(|_| name != "ANTHROPIC_API_KEY");
    let loaded = load(&dir.0, &keyless, Purpose::Check).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    assert!(
        told(&loaded.warnings).contains(
            "backstop.yaml:2:36: providers.anthropic.api-key: ANTHROPIC_API_KEY is not set: cto cannot ask anthropic"
        ),
        "{}",
        told(&loaded.warnings)
    );
    assert_eq!(load(&dir.0, &keyless, Purpose::Run).expect_err("no key").errors.len(), 1);
}

#[test]
fn layers_are_laid_over_each_other_and_the_environment_over_them() {
    let home = Dir::with([(
        "backstop/backstop.yaml",
        b"team: shared\nretry: { max-deliveries: 7, ack-wait: 9m }\n".as_slice(),
    )]);
    let team = format!("{TEAM}retry: {{ max-deliveries: 4 }}\n");
    let dir = but(&[("backstop.yaml", team.as_bytes())]);
    let home_path = home.0.to_string_lossy().into_owned();
    let layered = |name: &str| match name {
        "XDG_CONFIG_HOME" => Some(home_path.clone()),
        "BACKSTOP_API__LISTEN" => Some("127.0.0.1:9000".to_owned()),
        "BACKSTOP_ESCALATION__REPAGE_AFTER" => Some("20m".to_owned()),
        name => env(name),
    };
    let config =
        load(&dir.0, &layered, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors))).config;
    assert_eq!((config.team.as_str(), config.retry.max_deliveries, config.retry.ack_wait.as_secs()), ("t", 4, 540));
    assert_eq!((config.api.listen.port(), config.escalation.repage_after.as_secs()), (9000, 1200));

    let wrong = |name: &str| if name == "BACKSTOP_API__LISTEN" { Some("here".to_owned()) } else { env(name) };
    let errors = told(&load(&dir.0, &wrong, Purpose::Run).expect_err("no address").errors);
    assert!(
        errors.starts_with("environment variable BACKSTOP_API__LISTEN: api.listen: `here` is no address"),
        "{errors}"
    );
}

#[test]
fn policies_begin_with_a_preset_and_differ_where_they_say_so() {
    for (written, expected) in [
        ("{ preset: quick }", RetryPolicy::seed_a()),
        ("{ preset: patient }", RetryPolicy::seed_b()),
        ("{ preset: quick, max-deliveries: 2 }", RetryPolicy { max_deliveries: 2, ..RetryPolicy::seed_a() }),
        ("{ max-deliveries: unlimited }", RetryPolicy { max_deliveries: u32::MAX, ..RetryPolicy::team_default() }),
        (
            "{ backoff: [1s, 9s], jitter: full }",
            RetryPolicy {
                backoff: Backoff::List([1, 9].map(Duration::from_secs).to_vec()),
                jitter: Jitter::Full,
                park_at_most: Duration::from_secs(10),
                ..RetryPolicy::team_default()
            },
        ),
    ] {
        let team = format!("{TEAM}retry: {written}\n");
        let dir = but(&[("backstop.yaml", team.as_bytes())]);
        let loaded = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
        assert_eq!(loaded.config.retry, expected, "{written}");
    }
}

/// `channels: [email]` was answered with "`email` is none of log, pagerduty, email, webhook" and "did you mean `email`?".
#[test]
fn a_channel_that_is_only_named_is_told_what_it_lacks() {
    for (name, lacks) in [("email", "smtp:"), ("pagerduty", "routing-key:"), ("webhook", "url:")] {
        let team = format!("{TEAM}escalation: {{ on-call: [{{ name: ana, channels: [log, {name}] }}] }}\n");
        let dir = but(&[("backstop.yaml", team.as_bytes())]);
        let Err(Problems { errors, .. }) = load(&dir.0, &env, Purpose::Check) else { panic!("{name}: accepted") };
        let [error] = errors.as_slice() else { panic!("{}", told(&errors)) };
        assert_eq!(error.field, "escalation.on-call.0.channels.1");
        assert_eq!(error.message, format!("`{name}` alone does not say where to"));
        assert!(error.remedy.starts_with(&format!("write {{ {name}: {{ {lacks}")), "{}", error.remedy);
    }
}

/// A token whose variable ended with its line let nobody in: no header can carry that.
#[test]
fn a_token_is_read_without_the_end_of_its_line() {
    let with_line_end = |name: &str| if name == "VIEWER" { Some("look\n".to_owned()) } else { env(name) };
    let dir = but(&[("backstop.yaml", format!("{TEAM}api: {{ read-token: \"${{VIEWER}}\" }}\n").as_bytes())]);
    let loaded =
        load(&dir.0, &with_line_end, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors)));
    let token = loaded.config.api.read_token.expect("a token");
    assert_eq!(token.expose_secret(), "look");
}

#[test]
fn what_may_be_spent_is_said_of_the_team_an_agent_and_a_type() {
    let team = TEAM.replace("effect: read-only", "effect: read-only, max-cost-usd: 0.5").replace(
        "${ANTHROPIC_API_KEY}\"",
        "${ANTHROPIC_API_KEY}\", models: { claude-opus-5-5: { context: 200000, max-output: 9000 } }",
    ) + "budget: { max-usd-per-task: 1, max-usd-per-hour: 2.5, max-usd-per-day: 20 }\n";
    let limits = "limits: { max-cost-usd: 0.75, max-usd-per-hour: 2, max-steps: 9, max-tool-calls: 3, max-tokens-per-minute: 5000, stall: 90s }";
    let cto = CTO.replace("handles:", &format!("{limits}\nhandles:"));
    let dir = but(&[("backstop.yaml", team.as_bytes()), ("agents/cto.md", cto.as_bytes())]);
    let config =
        load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors))).config;
    let cto = config.agents.values().next().expect("an agent");
    assert_eq!((cto.max_steps, cto.max_tool_calls, cto.max_tokens_per_minute), (9, 3, 5_000));
    assert_eq!(cto.stall, Duration::from_secs(90));
    let task_type = TaskType::new("code_review").expect("a type");
    assert_eq!(
        config.caps(&task_type, &cto.name),
        Caps {
            task: Some(500_000),
            agent_hour: Some(2_000_000),
            team_hour: Some(2_500_000),
            team_day: Some(20_000_000)
        }
    );
    let facts = config.model_facts(&cto.model);
    assert_eq!((facts.context, facts.max_output), (Some(200_000), Some(9_000)));
    assert_eq!(facts.usd_per_million_input, Some(4.0), "what is not said is as in the snapshot");
}

#[test]
fn secrets_are_not_printed_and_not_in_the_fingerprint() {
    let dir = but(&[
        ("key.txt", b"sk-from-a-file\n"),
        ("backstop.yaml", TEAM.replace("api-key: \"${ANTHROPIC_API_KEY}\"", "api-key-file: key.txt").as_bytes()),
    ]);
    let first = load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors))).config;
    assert!(!format!("{first:?}").contains("sk-from-a-file"));
    fs::write(dir.0.join("key.txt"), "sk-another").expect("a file");
    assert_eq!(load(&dir.0, &env, Purpose::Run).expect("sound").config.fingerprint, first.fingerprint);
    fs::write(dir.0.join("agents/cto.md"), CTO.replace("CTO of", "chief of")).expect("a file");
    assert_ne!(load(&dir.0, &env, Purpose::Run).expect("sound").config.fingerprint, first.fingerprint);
}

#[test]
fn what_came_from_the_environment_is_not_printed_wherever_it_stands() {
    let team = "team: t
providers:
  anthropic: { api-key: \"${ANTHROPIC_API_KEY}\", headers: { x-org: acme, api-key: \"${AZURE_KEY}\", x-route: \"${AZURE_KEY}\" } }
task-types: { code_review: { effect: read-only } }
escalation:
  on-call: [{ name: ana, channels: [{ webhook: { url: \"https://hooks.example/${HOOK}\", secret: \"${HOOK}\" } }] }]
";
    let dir = but(&[("backstop.yaml", team.as_bytes())]);
    let env = |name: &str| match name {
        "AZURE_KEY" => Some("azure-1b2f3c4d5e6f".to_owned()),
        "HOOK" => Some("T0/B0/s3cr3t-path".to_owned()),
        _ => env(name),
    };
    let config =
        load(&dir.0, &env, Purpose::Run).unwrap_or_else(|problems| panic!("{}", told(&problems.errors))).config;
    let printed = format!("{config:?}");
    assert!(!printed.contains("azure-1b2f") && !printed.contains("s3cr3t"), "{printed}");
    assert!(printed.contains("acme"), "what stands in the file is no secret");
    let headers = &config.providers[&Integration::new("anthropic").expect("a name")].headers;
    assert_eq!(headers["api-key"].expose(), "azure-1b2f3c4d5e6f");
}

/// A key in a provider's header was taken from the file, where a tool's is refused.
#[test]
fn a_secret_of_a_header_does_not_stand_in_the_file() {
    let text = TEAM.replace("} }\ntask", ", headers: { api-key: \"azure-1b2f3c4d5e6f\" } } }\ntask");
    assert_ne!(text, TEAM);
    let dir = but(&[("backstop.yaml", text.as_bytes())]);
    let problems = load(&dir.0, &env, Purpose::Run).expect_err("a mistake");
    let said = told(&problems.errors);
    assert!(said.contains("headers.api-key") && said.contains("a secret stands in the file"), "{said}");
    assert!(!said.contains("azure-1b2f"), "{said}");
}

#[test]
fn diagnostics_are_also_json() {
    let dir = but(&[("backstop.yaml", b"team: t\nx: 1\n")]);
    let problems = load(&dir.0, &env, Purpose::Run).expect_err("unknown key");
    let json = serde_json::to_value(&problems).expect("json");
    assert_eq!(json["errors"][0]["file"], "agents/cto.md");
    assert_eq!(
        (&json["errors"][1]["line"], &json["errors"][1]["column"], &json["errors"][1]["field"]),
        (&2.into(), &1.into(), &"x".into())
    );
}

/// Text that is nearly YAML finds more than random bytes do.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(
        prop_oneof![
            Just("---\n"),
            Just("name: cto\n"),
            Just("team: t\n"),
            Just("providers:\n"),
            Just("  a: "),
            Just("[x, "),
            Just("]"),
            Just("{"),
            Just("}"),
            Just("&a "),
            Just("*a"),
            Just("- "),
            Just("\""),
            Just("'"),
            Just("|\n"),
            Just(": "),
            Just("\n"),
            Just("\t"),
            Just("{{ x "),
            Just("{% if"),
            Just("\u{feff}"),
            Just("é"),
            Just("# "),
            Just("!!int "),
            Just("<<: *a\n"),
            Just("? "),
            Just("retry: { backoff: [1s"),
            Just("%YAML 1.2\n"),
            Just("...\n"),
        ],
        0..40,
    );
    pieces.prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_in_any_file_make_it_panic(content in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..300)], which in 0..4_usize) {
        let path = ["backstop.yaml", "agents/cto.md", "prompts/task.md", "schemas/x.json"][which];
        let dir = but(&[(path, &content)]);
        if let Err(problems) = load(&dir.0, &env, Purpose::Check) {
            prop_assert!(!problems.errors.is_empty());
        }
    }
}
