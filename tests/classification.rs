//! Every failure gets the class, the retry verdict, the hint and the action it deserves.
//!
//! Two tables are read as data: `provider-failures.json` (what providers really answer) and `classification.toml`
//! (everything else). The readers here only turn a row into the cause an adapter or an actor would have written.

#[path = "classification/observe.rs"]
pub(crate) mod observe;

#[path = "classification/facts.rs"]
mod facts;

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::cause::{Cause, Crash, Death, Fault, LlmFailure, OutputFault, OutputReason, Phase};
use backstop::engine;
use backstop::failure::{Action, Class, Kind, Signal};
use backstop::judgement::{Judgement, Scene, classify, outcome_unknown};
use backstop::task::Effect;
use backstop::time::Timestamp;
use backstop::triage::recommended_action;
use serde::Deserialize;
use serde_json::Value;

use crate::support::Roll;

/// What a row expects, in the words of the corpus.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    class: String,
    cause: String,
    retry: bool,
    retry_after_ms: Option<u64>,
    action: String,
    fallback_model: String,
    breaker: String,
    page: bool,
}

/// A judgement in the words of the corpus.
fn in_corpus_words(judgement: Judgement) -> Expected {
    let nothing = |word: &str| Expected {
        class: "none".into(),
        cause: word.into(),
        retry: false,
        retry_after_ms: None,
        action: word.into(),
        fallback_model: "never".into(),
        breaker: "ignore".into(),
        page: false,
    };
    match judgement {
        Judgement::Cancelled => nothing("cancelled"),
        Judgement::Continue => nothing("continue"),
        Judgement::Failed(failure) => Expected {
            class: failure.class.to_string(),
            cause: match failure.kind.as_str() {
                "loop" => "tool_loop".into(),
                "budget" => "budget_exceeded".into(),
                // Finer than the corpus.
                "schema" | "missing_field" | "constraint" => "bad_output".into(),
                same => same.into(),
            },
            retry: failure.retry,
            retry_after_ms: failure.retry_after.map(|span| u64::try_from(span.as_millis()).expect("a short wait")),
            action: failure.action.to_string(),
            fallback_model: failure.fallback.to_string(),
            breaker: failure.signal.to_string(),
            page: failure.page,
        },
    }
}

/// Every row: its id, what is expected, what was judged, by which rule.
fn judged_rows() -> Vec<(String, Expected, Expected, String)> {
    let text = include_str!("conformance/provider-failures.json");
    let file: Value = serde_json::from_str(text).expect("the corpus is JSON");
    let keys = ["version", "now", "hint_cap_ms", "notes", "causes", "rows"];
    assert!(file.as_object().expect("an object").keys().all(|key| keys.contains(&key.as_str())), "an unknown key");
    let now = Timestamp::parse(file["now"].as_str().expect("now")).expect("a time");
    let cap = Duration::from_millis(file["hint_cap_ms"].as_u64().expect("a cap"));
    let scene = Scene { hint_cap: cap, ..Scene::new(Effect::ReadOnly, now) };
    file["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let id = row["id"].as_str().expect("an id").to_owned();
            let expected: Expected =
                serde_json::from_value(row["expect"].clone()).unwrap_or_else(|error| panic!("{id}: {error}"));
            let cause = observe::row(row, now);
            let judgement = cause.map_or(Judgement::Continue, |cause| classify(&cause, &scene));
            let rule = match &judgement {
                Judgement::Failed(failure) => format!("{} ({})", failure.rule, failure.message),
                Judgement::Cancelled | Judgement::Continue => "-".to_owned(),
            };
            (id, expected, in_corpus_words(judgement), rule)
        })
        .collect()
}

#[test]
fn every_answer_of_a_provider_gets_the_class_the_retry_the_hint_and_the_action_it_deserves() {
    let normative = |one: &Expected| (one.class.clone(), one.retry, one.retry_after_ms, one.action.clone());
    let rows = judged_rows();
    let mut roll = Roll::of("provider-failures", include_str!("conformance/provider-failures.json"));
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, expected, found, _)| normative(expected) != normative(found))
        .map(|(id, expected, found, rule)| format!("{id}\n  expected {expected:?}\n  found    {found:?}\n  by {rule}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    rows.iter().for_each(|(id, ..)| roll.held(id));
    roll.complete();
}

#[test]
fn the_labels_of_the_corpus_are_ours() {
    let rows = judged_rows();
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, expected, found, _)| expected != found)
        .map(|(id, expected, found, rule)| format!("{id}\n  expected {expected:?}\n  found    {found:?}\n  by {rule}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn the_corpus_and_our_table_of_kinds_agree() {
    let file: Value = serde_json::from_str(include_str!("conformance/provider-failures.json")).expect("JSON");
    for (name, profile) in file["causes"].as_object().expect("causes") {
        let name = match name.as_str() {
            "tool_loop" => "loop",
            "budget_exceeded" => "budget",
            "cancelled" | "continue" => continue,
            same => same,
        };
        let kind: Kind = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let ours = kind.profile();
        let found = serde_json::json!({
            "class": ours.class, "retry": ours.retry, "action": ours.action,
            "fallback_model": ours.fallback, "breaker": ours.signal, "page": ours.page,
        });
        assert_eq!(&found, profile, "{name}");
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    r#in: Observed,
    expect: Fate,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "title", default)]
    _title: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Observed {
    http: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    net: Option<String>,
    timeout: Option<String>,
    stream: Option<String>,
    output: Option<String>,
    r#loop: Option<String>,
    actor: Option<String>,
    app: Option<String>,
    side: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fate {
    class: Class,
    breaker: String,
    gate: bool,
    action: String,
    human: Option<String>,
    recommended: Option<String>,
    #[serde(default)]
    partial_discarded: bool,
}

const PARTIAL: &str = "three hundred tokens of half an answer";

const CASES: &str = include_str!("conformance/classification.toml");

#[test]
fn every_other_failure_gets_what_it_deserves() {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("classification", CASES).but(OTHERWISE);
    for case in table.case {
        roll.played(&case.id, check(&case));
    }
    roll.complete();
}

/// Met otherwise than the table says.
const OTHERWISE: &[(&str, &str)] = &[(
    "CL-32",
    "the task waits, and the API says why; a person is called about the store, after a minute, and not for the task",
)];

fn check(case: &Case) -> Result<(), String> {
    let id = &case.id;
    let effect = match case.r#in.side.as_deref() {
        None | Some("read" | "read-only" | "none") => Effect::ReadOnly,
        Some("notification" | "notify") => Effect::Notification,
        Some("mutation" | "write") => Effect::Mutation,
        Some("payment") => Effect::Payment,
        Some(side) => panic!("{id}: unknown side {side:?}"),
    };
    let cause = cause_of(id, &case.r#in);
    let now = Timestamp::from_millis(0);
    let Judgement::Failed(failure) = classify(&cause, &Scene::new(effect, now)) else { panic!("{id}: not a failure") };
    let must = |what: &str, so: bool| if so { Ok(()) } else { Err(format!("{what}: {failure:?}")) };
    must("class", failure.class == case.expect.class)?;

    let counts = match case.expect.breaker.as_str() {
        "fail" => &[Signal::Count][..],
        "open" => &[Signal::Open],
        "ignore" | "ok" => &[Signal::Ignore, Signal::Throttle],
        breaker => panic!("{id}: unknown breaker {breaker:?}"),
    };
    must("breaker", counts.contains(&failure.signal))?;

    let busy = matches!(failure.kind, Kind::Overloaded | Kind::RateLimited) || failure.retry_after.is_some();
    let gate = busy || matches!(failure.signal, Signal::Throttle | Signal::Open);
    must("gate", gate == case.expect.gate)?;

    let unknown = outcome_unknown(&cause, effect);
    let action = match failure.action {
        Action::Backoff if effect == Effect::Payment => "dlq",
        Action::Backoff if failure.retry => "retry",
        Action::ModifyRequeue => "reprompt",
        Action::ParkIntegration => "park",
        Action::Backoff | Action::FallbackNow | Action::DeadLetter | Action::Human => "dlq",
    };
    must("action", action == case.expect.action)?;

    let asked_for: &[&str] = match failure.kind.as_str() {
        _ if unknown => &["outcome_unknown"],
        _ if !failure.page => &[],
        "quota_exhausted" => &["spend_limit", "quota"],
        "auth" => &["credentials"],
        "permission" => &["credentials", "permission", "permissions"],
        "endpoint_config" => &["endpoint", "endpoint_config", "certificate", "tls", "configuration"],
        "policy_block" => &["policy", "policy_block"],
        kind => panic!("{id}: a page for {kind}"),
    };
    must("human", case.expect.human.as_deref().map_or(asked_for.is_empty(), |human| asked_for.contains(&human)))?;
    if let Some(recommended) = &case.expect.recommended {
        must("recommended", recommended_action(&failure).as_str() == recommended)?;
    }
    let Cause::Llm(call) = &cause else {
        assert!(!case.expect.partial_discarded, "{id}: nothing partial here");
        return Ok(());
    };
    if case.expect.partial_discarded {
        assert_eq!(call.partial, PARTIAL, "{id}");
        must("partial", !failure.message.contains(PARTIAL))?;
    }
    Ok(())
}

/// The cause that an observation in words describes. Words nobody knows fail the test.
fn cause_of(id: &str, observed: &Observed) -> Cause {
    let call = |phase, fault, status, body: &str, detail: &str| LlmFailure {
        body: body.to_owned(),
        detail: detail.to_owned(),
        headers: observed.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect(),
        ..observe::blank("anthropic", phase, fault, status, Timestamp::from_millis(0))
    };
    if let Some(status @ 400..) = observed.http {
        return Cause::Llm(Box::new(call(Phase::Headers, Fault::Status, Some(status), &observed.body, "")));
    }
    if observed.http.is_some() {
        let row = serde_json::json!({
            "id": id, "provider": "anthropic", "api": if observed.body.contains("choices") { "chat" } else { "messages" },
            "phase": "body", "status": observed.http, "headers": observed.headers, "body": observed.body,
        });
        return observe::row(&row, Timestamp::from_millis(0)).unwrap_or_else(|| panic!("{id}: a usable answer"));
    }
    let says = |text: &str, words: &[&str]| words.iter().any(|word| text.to_lowercase().contains(word));
    if let Some(text) = &observed.net {
        let (phase, fault) = match text.as_str() {
            _ if says(text, &["dns", "resolve"]) => (Phase::Dns, Fault::Dns),
            _ if says(text, &["refused"]) => (Phase::Connect, Fault::Refused),
            _ if says(text, &["certificate", "cert "]) => (Phase::Tls, Fault::Certificate),
            _ if says(text, &["tls", "handshake"]) => (Phase::Tls, Fault::Tls),
            _ if says(text, &["proxy"]) => (Phase::Connect, Fault::ProxyAuth),
            _ if says(text, &["timeout", "timed out"]) => (Phase::Connect, Fault::Timeout),
            _ if says(text, &["url"]) => (Phase::Connect, Fault::InvalidUrl),
            _ if says(text, &["reset", "broken pipe", "aborted"]) => (Phase::Headers, Fault::Reset),
            _ if says(text, &["closed", "eof"]) => (Phase::Headers, Fault::Eof),
            _ if says(text, &["unreachable", "network"]) => (Phase::Connect, Fault::Transport),
            _ => panic!("{id}: unknown trouble of the network {text:?}"),
        };
        let sent = says(text, &["after request", "after the request", "was sent", "while reading", "body", "response"]);
        return Cause::Llm(Box::new(LlmFailure { sent, ..call(phase, fault, None, "", text) }));
    }
    if let Some(text) = &observed.timeout {
        let (phase, sent) = match says(text, &["connect"]) {
            true => (Phase::Connect, false),
            false if says(text, &["stream", "idle", "content"]) => (Phase::Stream, true),
            false => (Phase::Headers, true),
        };
        return Cause::Llm(Box::new(LlmFailure { sent, ..call(phase, Fault::Timeout, None, "", text) }));
    }
    if let Some(text) = &observed.stream {
        let (fault, body) = match text.find("error ") {
            _ if says(text, &["hang", "no byte", "stall"]) => (Fault::Timeout, String::new()),
            Some(at) if text.contains("event: error") => {
                let word = text[at + 6..].split([' ', ',']).next().expect("a word");
                (Fault::ErrorEvent, serde_json::json!({"type": "error", "error": {"type": word}}).to_string())
            }
            _ if says(text, &["reset", "abort", "dropped"]) => (Fault::Reset, String::new()),
            _ if says(text, &["without", "no message_stop", "cut", "truncated", "ends", "closed", "eof"]) => {
                (Fault::Truncated, String::new())
            }
            _ => panic!("{id}: unknown trouble of a stream {text:?}"),
        };
        let call = call(Phase::Stream, fault, Some(200), &body, "");
        return Cause::Llm(Box::new(LlmFailure { partial: PARTIAL.to_owned(), sent: true, ..call }));
    }
    if let Some(text) = &observed.output {
        if let Some(stop) = text.split("stop_reason=").nth(1).and_then(|rest| rest.split([',', ' ']).next()) {
            let call = call(Phase::Semantic, Fault::Stop, Some(200), "", "");
            return Cause::Llm(Box::new(LlmFailure { stop: Some(stop.to_owned()), sent: true, ..call }));
        }
        if says(text, &["refus", "content_filter", "content filter"]) {
            let call = call(Phase::Semantic, Fault::Stop, Some(200), "", "refused");
            return Cause::Llm(Box::new(LlmFailure { sent: true, ..call }));
        }
        if says(text, &["tool"]) {
            let call = call(Phase::Semantic, Fault::Stop, Some(200), "", "tool arguments are not JSON");
            return Cause::Llm(Box::new(LlmFailure { sent: true, ..call }));
        }
        let reason = match text.as_str() {
            _ if says(text, &["same invalid", "same answer", "same output"]) => OutputReason::SameAgain,
            _ if says(text, &["schema", "wrong type"]) => OutputReason::Schema,
            _ if says(text, &["missing"]) => OutputReason::MissingField,
            _ if says(text, &["must be", "range", "constraint"]) => OutputReason::Constraint,
            _ if says(text, &["not json", "prose", "markdown"]) => OutputReason::NotJson,
            _ if says(text, &["empty", "no text"]) => OutputReason::Empty,
            _ if says(text, &["json", "fence", "parse"]) => OutputReason::NotJson,
            _ => panic!("{id}: unknown trouble with an answer {text:?}"),
        };
        return Cause::Output(OutputFault { reason, violations: Vec::new(), excerpt: text.clone() });
    }
    if let Some(text) = &observed.r#loop {
        return match says(text, &["budget", "cost", "$", "usd", "token"]) {
            true => Cause::Budget { evidence: text.clone() },
            false => Cause::Loop { evidence: text.clone() },
        };
    }
    if let Some(text) = &observed.actor {
        let how = match text.as_str() {
            _ if says(text, &["disk full", "no space"]) => {
                let source = Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
                return engine::Error::Full { path: text.clone(), source }.to_cause();
            }
            _ if says(text, &["disk", "i/o error", "storing"]) => {
                let source = Box::new(std::io::Error::other("disk I/O error"));
                return engine::Error::Io { path: text.clone(), doing: "write", source }.to_cause();
            }
            _ if says(text, &["lease", "heartbeat", "silent"]) => return Cause::LeaseLapsed,
            _ if says(text, &["panic"]) => Death::Panic,
            _ if says(text, &["137", "oom", "out of memory"]) => Death::OutOfMemory,
            _ if says(text, &["evict"]) => Death::Evicted,
            _ if says(text, &["could not start", "pre_start", "start failed"]) => Death::StartFailed,
            _ if says(text, &["wedged", "stopped answering", "hang"]) => Death::Wedged,
            _ if says(text, &["process", "exit", "sigkill", "signal", "crash", "power"]) => Death::ProcessDied,
            _ if says(text, &["killed", "terminated", "stopped"]) => Death::Killed,
            _ if says(text, &["cancel"]) => Death::Cancelled,
            _ => panic!("{id}: unknown death {text:?}"),
        };
        return Cause::Crash(Crash { how, detail: text.clone() });
    }
    let Some(text) = &observed.app else { panic!("{id}: nothing was observed: {observed:?}") };
    let (class, kind) = match text.as_str() {
        _ if says(text, &["declined", "out of stock", "business"]) => return Cause::Declined { reason: text.clone() },
        _ if says(text, &["input"]) => return Cause::Input { violations: Vec::new() },
        _ if says(text, &["deadline"]) => return Cause::DeadlinePassed,
        _ if says(text, &["contradict"]) => (Class::Logic, Kind::Contradiction),
        _ if says(text, &["dependency", "depends"]) => (Class::Logic, Kind::Dependency),
        _ if says(text, &["permanent", "logic", "unrecoverable"]) => (Class::Logic, Kind::Unknown),
        _ if says(text, &["transient", "temporary", "retry"]) => (Class::Transient, Kind::Unknown),
        _ if says(text, &["infrastructure", "resource"]) => (Class::Infrastructure, Kind::Unknown),
        _ if says(text, &["validation", "invalid"]) => (Class::Validation, Kind::BadOutput),
        _ => return Cause::Unknown { detail: text.clone() },
    };
    Cause::Reported { class, kind, message: text.clone() }
}
