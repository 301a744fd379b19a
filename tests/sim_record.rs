//! A real feed made a scenario: what came comes again, what failed is a fault, and what is made can be played.

use backstop::sim::record::{RecordError, feed, record};
use backstop::time::Timestamp;
use serde_json::{Value, json};

const START: i64 = 1_790_000_000_000;

/// A feed of events, each at its second.
fn events(lines: &[(i64, Option<u8>, Value)]) -> String {
    let line = |(number, (second, task, what)): (usize, &(i64, Option<u8>, Value))| {
        let mut event = what.clone();
        event["seq"] = json!(number + 1);
        event["at"] = json!(Timestamp::from_millis(START + second * 1_000).to_string());
        if let Some(task) = task {
            event["task"] = json!(format!("019c1bab-b349-7d55-b66c-9146080b3b{task:02x}"));
        }
        format!("{event}\n")
    };
    lines.iter().enumerate().map(line).collect()
}

fn started(epoch: u64) -> Value {
    json!({ "event": "team-started", "epoch": epoch, "agents": 7, "open_tasks": 0 })
}

fn submitted() -> Value {
    json!({ "event": "submitted", "agent": "cto", "task_type": "code_review", "effect": "read-only", "priority": "high" })
}

fn claimed() -> Value {
    json!({ "event": "claimed", "agent": "cto", "incarnation": 1, "task_type": "code_review", "attempt": 1, "generation": 1, "fence": 1 })
}

fn usage() -> Value {
    json!({ "input": 100, "output": 300, "cache_read": 0, "cache_write": 0 })
}

fn done(model: &str) -> Value {
    json!({ "event": "done", "agent": "cto", "task_type": "code_review", "attempt": 1, "generation": 1, "model": model, "usage": usage(), "micro_usd": 10 })
}

fn failed(integration: &str, kind: &str, retry_after: Option<f64>) -> Value {
    let mut failure = json!({ "class": "transient", "kind": kind, "origin": "integration", "action": "backoff", "retry": true,
        "fallback": "after_retries", "signal": "count", "page": false, "message": "it failed", "rule": "r", "integration": integration });
    if let Some(seconds) = retry_after {
        failure["retry_after"] = json!(seconds);
    }
    json!({ "event": "retry-scheduled", "agent": "cto", "task_type": "code_review", "attempt": 1,
        "due": Timestamp::from_millis(START + 9_000_000).to_string(), "failure": failure, "amended": false,
        "model": format!("{integration}/m"), "usage": usage(), "micro_usd": null })
}

/// The lines under `faults`.
fn faults(lines: &[(i64, Option<u8>, Value)]) -> Vec<String> {
    let mut all = vec![(0, None, started(1)), (0, Some(1), submitted())];
    all.extend(lines.iter().cloned());
    all.push((7_200, None, json!({ "event": "draining", "running": 0 })));
    let recorded = record(&feed(&events(&all)).expect("a feed"), "night.jsonl", "shipped").expect("a scenario");
    let rest = recorded.yaml.split_once("faults:\n").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    rest.lines().filter(|line| line.contains("fault: ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn failures_of_one_kind_are_one_fault_until_they_are_far_apart() {
    let overloaded = || failed("anthropic", "overloaded", None);
    assert_eq!(
        faults(&[
            (60, Some(1), claimed()),
            (70, Some(1), overloaded()),
            (400, Some(1), claimed()),
            (410, Some(1), overloaded()),
            // More than ten minutes later: another one. Another kind in between is a fault of its own.
            (500, Some(1), claimed()),
            (501, Some(1), failed("anthropic", "quota_exhausted", None)),
            (3_000, Some(1), claimed()),
            (3_005, Some(1), overloaded()),
        ]),
        [
            "- { fault: overloaded, provider: anthropic, at: 1m, for: 5m51s }",
            "- { fault: quota, provider: anthropic, at: 8m20s, for: 2s }",
            "- { fault: overloaded, provider: anthropic, at: 50m, for: 6s }",
        ]
    );
}

#[test]
fn what_struck_not_all_calls_is_a_brown_out() {
    let mut lines = Vec::new();
    for second in [100, 120, 140] {
        lines.push((second, Some(1), claimed()));
        lines.push((second + 5, Some(1), failed("openai", "server_error", None)));
    }
    lines.push((106, Some(2), claimed()));
    lines.push((116, Some(2), done("openai/m")));
    // Of another provider, and before it began: no sign that it worked.
    lines.push((107, Some(3), claimed()));
    lines.push((117, Some(3), done("anthropic/m")));
    lines.sort_by_key(|(second, ..)| *second);
    assert_eq!(faults(&lines), ["- { fault: server-error, provider: openai, at: 1m40s, for: 46s, share: 75% }"]);
}

#[test]
fn a_gate_is_a_rate_limit_with_its_hint() {
    let gate = |second: i64, until: i64, asked: &str| {
        let until = Timestamp::from_millis(START + until * 1_000).to_string();
        (second, None, json!({ "event": "gate-closed", "integration": "openai", "until": until, "asked": asked }))
    };
    assert_eq!(
        faults(&[
            gate(100, 220, "retry after 2m"),
            (110, Some(1), claimed()),
            (110, Some(1), failed("openai", "rate_limited", Some(90.0))),
        ]),
        ["- { fault: rate-limited, provider: openai, at: 1m40s, for: 2m1s, retry-after: 2m }"]
    );
    // Who is out of capacity asks for silence too, and a team at a limit holds its own calls back: no rate limits.
    assert_eq!(
        faults(&[
            (90, Some(1), claimed()),
            gate(100, 220, "retry after 2m"),
            (100, Some(1), failed("openai", "overloaded", Some(120.0))),
            gate(300, 310, "its limit is reached"),
        ]),
        ["- { fault: overloaded, provider: openai, at: 1m30s, for: 11s }"]
    );
}

#[test]
fn a_broken_connection_that_billed_nothing_was_never_one() {
    let mut nothing = failed("openai", "network", None);
    nothing["usage"] = json!({ "input": 0, "output": 0, "cache_read": 0, "cache_write": 0 });
    let half = failed("anthropic", "network", None);
    assert_eq!(
        faults(&[(60, Some(1), nothing), (90, Some(1), half)]),
        [
            "- { fault: refused, provider: openai, at: 1m, for: 1s }",
            "- { fault: reset, provider: anthropic, at: 1m30s, for: 1s }",
        ]
    );
}

#[test]
fn deaths_of_agents_and_of_the_process_are_faults() {
    let died = json!({ "event": "agent-died", "agent": "devops", "incarnation": 1, "how": "panic", "detail": "a bug", "restart_in": 1.0 });
    assert_eq!(
        faults(&[
            (300, None, died),
            (400, None, started(2)),
            (500, None, json!({ "event": "draining", "running": 0 })),
            // Stopped on purpose: nothing broke.
            (600, None, started(3)),
        ]),
        ["- { fault: agent-kill, agent: devops, at: 5m }", "- { fault: process-kill, at: 5m, for: 1m40s }"]
    );
}

#[test]
fn what_cannot_be_recorded_is_told() {
    assert_eq!(feed("{\"seq\":1}\n").map_err(|error| error.to_string().contains("line 1 is no event")), Err(true));
    assert_eq!(record(&[], "a.jsonl", "shipped"), Err(RecordError::NoWork));
    let only_started = feed(&events(&[(0, None, started(1))])).expect("a feed");
    assert_eq!(record(&only_started, "a.jsonl", "shipped"), Err(RecordError::NoWork));
    // What no fault can bring about is said at the top of the file.
    let odd =
        feed(&events(&[(0, Some(1), submitted()), (5, Some(1), failed("anthropic", "in_flight_conflict", None))]));
    let recorded = record(&odd.expect("a feed"), "a.jsonl", "shipped").expect("a scenario");
    assert!(recorded.yaml.contains("1 failures of in_flight_conflict are of no kind"), "{}", recorded.yaml);
    assert_eq!((recorded.tasks, recorded.faults), (1, 0));
}
