//! A code review with tools, killed half-way by a rate limit, and finished by another vendor: `cargo run --example code_review`.
//!
//! The reviewer lists, searches and reads a little repository. Half-way its vendor says 429 for longer than its retries
//! last, so the team goes on with the second vendor, at the step where the first was stopped. You should see the journal
//! grow, a `~` where a delivery goes on from it, and at the end what was saved: no file is read twice, and nothing that
//! was paid for is asked again. No key, no network; paused time, so the minutes of waiting pass at once.
//!
//! Both vendors are [`Simulated`]: closures that stand in for a model. For real ones leave them out, and put the vendors
//! into `Config::providers` (as `examples/llm_outage.rs` does) or into a `backstop.yaml`; nothing else changes.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::event::{Event, Happening};
use backstop::journal::{Intent, Outcome, Step};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::llm::{Message, Request, ToolCall};
use backstop::record::State;
use backstop::task::{Effect, Integration, TaskType};
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::time::Timestamp;
use backstop::tool::Hints;
use backstop::tools::{Local, function};
use backstop::triage::in_words;
use backstop::{Config, Team};
use serde_json::{Value, json};

const FILES: [(&str, &str); 3] = [
    (
        "src/orders.rs",
        "pub fn page(items: &[Order], n: usize) -> &[Order] {\n    &items[n * SIZE..=(n + 1) * SIZE]\n}\n",
    ),
    ("src/size.rs", "/// Orders on one page.\npub const SIZE: usize = 20;\n"),
    ("tests/orders.rs", "#[test]\nfn a_page_has_twenty() {\n    assert_eq!(page(&orders(100), 0).len(), 20);\n}\n"),
];

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let reads = Arc::new(AtomicU64::new(0));
    let mut reviewer = Agent::new("reviewer", "anthropic/claude-opus-5-5")?
        .falling_back_to("openai/gpt-6-sol")?
        .told("You review changes. Look at the files before you judge.")
        .handling("code_review")
        .answering(json!({
            "type": "object",
            "required": ["verdict", "finding"],
            "properties": { "verdict": { "enum": ["approve", "request_changes"] }, "finding": { "type": "string" } },
        }));
    reviewer.tools = vec!["list_files".to_owned(), "search".to_owned(), "read_file".to_owned()];

    // The first vendor is at its limit whenever the review has come to its third turn.
    let first = Simulated::new(Integration::new("anthropic")?, |request, _call| match turns(request) {
        2 => rate_limited(),
        turn => review(turn, request),
    });
    let second = Simulated::new(Integration::new("openai")?, |request, _call| review(turns(request), request));

    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let team = Team::builder(Config::new("example").agent(reviewer))
        .engine(engine.clone())
        .provider(first.clone())
        .provider(second.clone())
        .tools(repository(reads.clone())?)
        .clock(Clock::starting_at(Timestamp::from_millis(0), 1.0))
        .seed(1)
        .start()
        .await?;

    let desk = team.desk();
    let diff = json!({ "diff": "-    &items[n * SIZE..(n + 1) * SIZE]\n+    &items[n * SIZE..=(n + 1) * SIZE]" });
    let ask = NewTask { effect: Some(Effect::ReadOnly), ..NewTask::new(TaskType::new("code_review")?, diff) };
    let id = desk.submit(ask).await?.record.task.id;

    // The journal says what is known, the feed what happened besides: both are read as they grow, and told by time.
    let (mut watch, mut known, mut seen, mut saved) = (engine.watch(), 0, 0, 0);
    let ended = loop {
        let record = desk.task(id).await?;
        let mut lines: Vec<(Timestamp, String)> = Vec::new();
        for step in engine.steps(id).await?.iter().skip(known) {
            let (Some(outcome), Some(at)) = (&step.outcome, step.ended_at) else { break };
            lines.push((at, line(step, outcome)));
            known += 1;
        }
        for event in engine.events(seen, 100).await? {
            seen = event.seq;
            if let Happening::Resumed { usage, .. } = &event.what {
                saved += usage.total();
            }
            lines.extend(told(&event).map(|text| (event.at, text)));
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().for_each(|(_, text)| println!("{text}"));
        if matches!(record.state, State::Done | State::WaitingHuman) {
            break record;
        }
        watch.changed().await?;
    };

    println!("\n{}: {}", ended.state, ended.answer.unwrap_or_default());
    let (asked, read) = (first.calls() + second.calls(), reads.load(Ordering::Relaxed));
    println!("{asked} requests to models, 3 of them refused; {read} calls of tools, none of them made twice.");
    println!("{saved} tokens not paid again.");
    team.drain(Duration::from_secs(5)).await?;
    if asked == 7 && read == 5 && saved > 0 { Ok(()) } else { Err("something was done twice".into()) }
}

/// The tools: functions over the files, each of which only reads and may therefore be called again.
fn repository(reads: Arc<AtomicU64>) -> Result<Local, backstop::tools::Error> {
    let only_reads = Hints { read_only: Some(true), ..Hints::default() };
    let tool = |name: &str, about: &str, argument: &str, answer: fn(&str) -> String| {
        let (reads, argument) = (reads.clone(), argument.to_owned());
        let schema = json!({ "type": "object", "properties": { argument.as_str(): { "type": "string" } } });
        function(name, about, schema, only_reads, move |arguments, _key| {
            reads.fetch_add(1, Ordering::Relaxed);
            let text = answer(arguments[argument.as_str()].as_str().unwrap_or_default());
            async move { Ok(text) }
        })
    };
    Local::new([
        tool("list_files", "The files there are", "below", |_| FILES.map(|(path, _)| path).join("\n")),
        tool("search", "The files that hold a text", "text", |text| {
            let holds = FILES.iter().filter(|(_, content)| content.contains(text));
            holds.map(|(path, _)| *path).collect::<Vec<_>>().join("\n")
        }),
        tool("read_file", "One file", "path", |path| {
            let found = FILES.iter().find(|(known, _)| *known == path);
            found.map_or_else(|| format!("there is no {path}"), |(_, content)| (*content).to_owned())
        }),
    ])
}

/// How often the model had its turn in this conversation.
fn turns(request: &Request) -> usize {
    request.messages.iter().filter(|message| matches!(message, Message::Assistant { .. })).count()
}

/// What a model would do: the script of the review, which both vendors follow.
fn review(turn: usize, request: &Request) -> Scripted {
    let calls = |calls: &[(&str, Value)]| {
        let written = |(n, (name, arguments)): (usize, &(&str, Value))| {
            ToolCall::written(format!("call-{n}"), *name, &arguments.to_string())
        };
        Scripted::calls("", calls.iter().enumerate().map(written).collect())
    };
    let mut scripted = match turn {
        0 => calls(&[("list_files", json!({})), ("search", json!({ "text": "SIZE" }))]),
        1 => {
            calls(&[("read_file", json!({ "path": "src/orders.rs" })), ("read_file", json!({ "path": "src/size.rs" }))])
        }
        2 => calls(&[("read_file", json!({ "path": "tests/orders.rs" }))]),
        _ => Scripted::text(
            json!({ "verdict": "request_changes", "finding": "src/orders.rs:2: `..=` is one order too many" })
                .to_string(),
        ),
    };
    if let Ok(reply) = &mut scripted.result {
        // About what a vendor would count, and how long it would think.
        let said: usize = request.messages.iter().map(Message::bytes).sum();
        reply.usage.input = (request.system.len() + said) as u64 / 4;
    }
    scripted.after(Duration::from_secs(3))
}

fn rate_limited() -> Scripted {
    let name = Integration::new("anthropic").expect("a name");
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"too many requests"}}"#;
    let mut scripted = Scripted::status(name, 429, body, Timestamp::from_millis(0));
    if let Err(failure) = &mut scripted.result {
        failure.provider = "anthropic".to_owned();
        failure.headers.push(("retry-after".to_owned(), "60".to_owned()));
    }
    scripted.after(Duration::from_secs(1))
}

/// What happened besides, as far as it is worth a line.
fn told(event: &Event) -> Option<String> {
    if let Happening::Resumed { model, steps, usage, .. } = &event.what {
        Some(format!("~  goes on after step {steps} on {model}: {} tokens not paid again", usage.total()))
    } else if let Happening::RetryScheduled { due, .. } = &event.what {
        Some(format!("!  tried again in {} s", event.at.until(*due).as_secs()))
    } else if let Happening::DeadLettered { why, .. } = &event.what {
        Some(format!("!  given up: {why}"))
    } else if let Happening::Decided { decided, .. } = &event.what {
        Some(format!("!  the CEO: {}", in_words(&decided.decision)))
    } else {
        None
    }
}

/// One step of the journal, on one line.
fn line(step: &Step, outcome: &Outcome) -> String {
    let what = match &step.intent {
        Intent::Ask(ask) => format!("ask {}", ask.model),
        Intent::Call(call) => format!("call {}", call.tool),
        Intent::Probe { tool, .. } => format!("probe {tool}"),
    };
    let came = match outcome {
        Outcome::Replied(reply) if reply.calls.is_empty() => "an answer".to_owned(),
        Outcome::Replied(reply) => format!("wants {} called", names(&reply.calls)),
        Outcome::Returned { text, .. } => format!("{} bytes", text.len()),
        Outcome::Failed { failure, .. } | Outcome::Unknown { failure } => failure.message.clone(),
        Outcome::Judged { note, .. } => note.clone(),
    };
    format!("{:<2} {what}: {came}", step.number)
}

fn names(calls: &[ToolCall]) -> String {
    calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>().join(" and ")
}
