//! What the journal costs: beside the same calls without one, when work is resumed, and on disk.
//!
//! `cargo bench --bench journal`. Sixty-four tasks at once, each a loop of a model and a tool on the durable engine; the
//! same loop without a team, a journal or a disk, in the same run, is what the ratios are to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::agent::{Agent, Incarnation};
use backstop::cause::Usage;
use backstop::config::{Config, TaskTypeConfig};
use backstop::conversation::{Message, ToolCall, call_id};
use backstop::engine::conformance::{at, integration, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Engine, LeaseAsk};
use backstop::journal::{Ask, Call, Entry, Intent, Line, Outcome, Purpose, Replied};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::llm::{Progress, Provider, Request};
use backstop::stand;
use backstop::task::{AgentName, Effect, Integration, TaskType};
use backstop::team::Team;
use backstop::team::desk::NewTask;
use backstop::tool::{CallClass, Hints, LOCAL, Repeat, call_key};
use backstop::tools::{Calling, Offered, Pending, Said, ToolServer};
use futures_util::future::join_all;
use serde_json::json;

/// Tasks in flight.
const TASKS: usize = 64;
/// Turns of a task: a model and a tool each, and one model more.
const TURNS: usize = 10;
/// Bytes of what a tool returns.
const RESULT: usize = 1_000;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("{:>10}  {:>14}  {:>14}  {:>12}  {:>6}", "a call", "bare steps/s", "steps/s", "more a step", "ratio");
    for millis in [0, 10, 100] {
        let call = Duration::from_millis(millis);
        let bare = runtime.block_on(bare(call));
        let ours = runtime.block_on(ours(call));
        // Of tasks that run side by side each waits for its own steps only.
        let more = (TASKS as f64 / ours - TASKS as f64 / bare) * 1e3;
        println!("{millis:>7} ms  {bare:>14.0}  {ours:>14.0}  {more:>9.2} ms  {:>6.2}", ours / bare);
    }
    runtime.block_on(resumed(100));
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("backstop-bench-{}-{name}", std::process::id()));
    let _not_there = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// The tool: answers at once.
struct Reader(Integration);

impl ToolServer for Reader {
    fn name(&self) -> &Integration {
        &self.0
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        let hints = Some(Hints { read_only: Some(true), ..Hints::default() });
        let schema = json!({ "type": "object" });
        let tool = Offered { tool: "read".to_owned(), description: "Reads.".to_owned(), schema, hints };
        Box::pin(std::future::ready(Ok(vec![tool])))
    }

    fn call<'a>(&'a self, _: &'a Calling) -> Pending<'a, Said> {
        Box::pin(std::future::ready(Ok(Said { text: "x".repeat(RESULT), failed: false })))
    }
}

/// The model: wants the tool so many times, then answers.
fn model(call: Duration) -> Simulated {
    Simulated::new(integration("primary"), move |request, _| {
        let turns = request.messages.iter().filter(|message| matches!(message, Message::Results { .. })).count();
        let mut scripted = Scripted::text("done").after(call);
        if turns < TURNS
            && let Ok(reply) = &mut scripted.result
        {
            reply.calls = vec![ToolCall::written("x", "read", &json!({ "n": turns }).to_string())];
        }
        scripted
    })
}

const STEPS: usize = 2 * TURNS + 1;

/// The loop by itself.
async fn bare(call: Duration) -> f64 {
    let (model, reader) = (model(call), Arc::new(Reader(integration(LOCAL))));
    let began = now();
    let tasks = (0..TASKS).map(|_| {
        let (model, reader) = (model.clone(), Arc::clone(&reader));
        tokio::spawn(async move {
            let mut request = Request {
                model: "opus".to_owned(),
                system: String::new(),
                messages: vec![Message::user("go")],
                tools: Vec::new(),
                max_output_tokens: 100,
                schema: None,
            };
            loop {
                let reply = model.ask(&request, &Progress::default()).await.expect("an answer");
                let Some(call) = reply.calls.first() else { return };
                let calling = Calling {
                    tool: call.name.clone(),
                    arguments: call.arguments.clone(),
                    key: call_key(task(1, at(0)).id, 1, 0),
                    key_place: Default::default(),
                    within: Duration::from_secs(1),
                };
                let said = reader.call(&calling).await.expect("a result");
                let result = backstop::conversation::ToolResult {
                    id: call_id(1, 0),
                    name: call.name.clone(),
                    text: said.text,
                    failed: false,
                };
                request.messages.push(Message::Results { results: vec![result] });
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.expect("a task"));
    (TASKS * STEPS) as f64 / now().duration_since(began).as_secs_f64()
}

/// The same loop as tasks of a team on the durable engine.
async fn ours(call: Duration) -> f64 {
    let dir = scratch("journal");
    let engine = Arc::new(Embedded::open(&dir, at(0)).expect("the store opens"));
    let mut agent = Agent::new("cto", "primary/opus").expect("an agent").handling("work");
    agent.tools = vec!["read".to_owned()];
    agent.concurrency = u32::try_from(TASKS).expect("few");
    agent.max_tokens_per_minute = u64::MAX;
    let mut config = Config::new("bench").agent(agent);
    let reads = TaskTypeConfig { effect: Some(Effect::ReadOnly), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("work").expect("a name"), reads);
    let builder = Team::builder(config).engine(engine).provider(model(call)).tools(Reader(integration(LOCAL)));
    let team = builder.start().await.expect("a team");
    let desk = team.desk();
    let began = now();
    let tasks = (0..TASKS).map(|_| async {
        let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "text": "go" }));
        let id = desk.submit(ask).await.expect("accepted").record.task.id;
        desk.wait(id).await.expect("an end").answer.expect("an answer")
    });
    join_all(tasks).await;
    let rate = (TASKS * STEPS) as f64 / now().duration_since(began).as_secs_f64();
    team.drain(Duration::from_secs(5)).await.expect("closed");
    let _left_behind = std::fs::remove_dir_all(dir);
    rate
}

/// How long it takes to read where a task of so many steps stands, and what its steps take on disk.
async fn resumed(steps: u32) {
    let dir = scratch("resume");
    let engine = Embedded::open(&dir, at(0)).expect("the store opens");
    let path = engine.path();
    let empty = size(&path);
    let mut ids = Vec::new();
    for n in 0..100 {
        let id = task(n, at(0)).id;
        engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        ids.push(id);
    }
    engine.close().await.expect("closed");
    let before = size(&path);
    drop(engine);
    let engine = written(&dir, steps).await;
    engine.close().await.expect("closed");
    drop(engine);
    let after = size(&path);
    let engine = Embedded::open(&dir, at(0)).expect("the store opens");
    let mut took = Vec::new();
    for id in &ids {
        let began = now();
        let journal = engine.steps(*id).await.expect("read");
        let stand = stand::stand(&journal, 1);
        took.push(now().duration_since(began));
        assert_eq!((journal.len(), stand.steps), (steps as usize, steps), "all of it is there");
    }
    took.sort();
    println!(
        "a task of {steps} steps is read and stands again in {:.2} ms (median of {})",
        took[took.len() / 2].as_secs_f64() * 1e3,
        took.len()
    );
    println!(
        "a step takes {} bytes on disk (half are results of {RESULT} bytes; an empty store {} KB)",
        (after - before) / u64::from(steps) / ids.len() as u64,
        empty / 1024
    );
    drop(engine);
    let _left_behind = std::fs::remove_dir_all(dir);
}

/// Writes journals of so many steps for each task.
async fn written(dir: &Path, steps: u32) -> Embedded {
    let engine = Embedded::open(dir, at(0)).expect("the store opens");
    let ask = LeaseAsk {
        agent: AgentName::new("cto").expect("a name"),
        incarnation: Incarnation(1),
        slots: 100,
        lease_for: Duration::from_secs(300),
        except: Vec::new(),
    };
    for record in engine.lease(ask, at(0)).await.expect("leased") {
        for n in 0..steps / 2 {
            let ask = 2 * n + 1;
            let intent = Intent::Ask(Box::new(Ask {
                model: "anthropic/claude-opus-5-5".parse().expect("a model"),
                purpose: Purpose::Work,
                hash: "0".repeat(64),
                fresh: n == 0,
                system: None,
                said: if n == 0 { vec![Message::user("go")] } else { Vec::new() },
                amended: 0,
                compaction: None,
            }));
            let reply = Replied {
                calls: vec![ToolCall::written(call_id(ask, 0), "read", &json!({ "n": n }).to_string())],
                model: "claude-opus-5-5".to_owned(),
                usage: Usage { input: 1_000, output: 100, ..Usage::default() },
                ..Replied::default()
            };
            let class = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
            let key = call_key(record.task.id, ask, 0);
            let call = Intent::Call(Call { ask, index: 0, tool: "local/read".parse().expect("a tool"), class, key });
            let said = Outcome::Returned { text: "x".repeat(RESULT), failed: false, failure: None };
            for lines in [
                vec![Line::Intend { intent, worst: 1 }],
                vec![
                    Line::Conclude { step: ask, outcome: Outcome::Replied(Box::new(reply)), counted: 1 },
                    Line::Intend { intent: call, worst: 0 },
                ],
                vec![Line::Conclude { step: ask + 1, outcome: said, counted: 0 }],
            ] {
                let entry = Entry { fence: record.fence, lines, ..Entry::default() };
                engine.journal(record.task.id, entry, at(0)).await.expect("written");
            }
        }
    }
    engine
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file").len()
}
