//! Nothing paid for is asked again, nothing done is done again: a task of ten steps, cut at every step in every way.
//!
//! Five calls of a model, five of tools (three that read, two that write under a key). Whatever cuts it, the requests
//! models get are those of the undisturbed run and one more for each answer that was really lost, and the world ends up
//! with the same effects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::cause::{Fault, Phase, ToolFault};
use backstop::config::{Config, TaskTypeConfig};
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::event::Happening;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::llm::{Request, ToolCall};
use backstop::query::Filter;
use backstop::record::{Record, State};
use backstop::replay::ReplayAsk;
use backstop::retry::Jitter;
use backstop::task::{AgentName, Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, NewTask};
use backstop::time::Timestamp;
use backstop::tool::LOCAL;
use backstop::tools::Trouble;
use backstop::triage::Decision;
use serde_json::{Value, json};

use crate::world::{Act, IDEMPOTENT, READS, Workshop, calling, evening, offered, results};

/// What cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Nothing: the undisturbed run.
    Not,
    /// 529.
    Busy,
    /// Sent, and no answer.
    Lost,
    /// Arguments, or an answer, that break their schema.
    Schema,
    /// The code under the step panics.
    Panic,
    /// The process ends while the step is out.
    Kill,
    /// Given up, and the CEO (of a tool's trouble: a person) goes to another vendor.
    Fallback,
    /// Given up, and another agent goes on.
    Reassign,
    /// Given up, and replayed.
    Replay,
}

const CUTS: [Cut; 8] =
    [Cut::Busy, Cut::Lost, Cut::Schema, Cut::Panic, Cut::Kill, Cut::Fallback, Cut::Reassign, Cut::Replay];

/// Where: the n-th call of a model, or the n-th call of a tool, first = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Ask(u64),
    Call(u64),
}

/// The ten steps.
const STEPS: [At; 10] = [
    At::Ask(0),
    At::Call(0),
    At::Call(1),
    At::Ask(1),
    At::Call(2),
    At::Ask(2),
    At::Call(3),
    At::Ask(3),
    At::Call(4),
    At::Ask(4),
];

/// What the model wants, turn by turn: two calls at once first.
const PLAN: [&[(&str, u64)]; 4] = [&[("read", 0), ("read", 1)], &[("write", 2)], &[("read", 3)], &[("write", 4)]];

/// The next turn of a model that sees these results: calls of whatever is not done, then the answer.
fn next(request: &Request) -> Scripted {
    let seen = results(request);
    let done = |n: u64| seen.iter().any(|text| text.contains(&format!("\"n\":{n}")));
    let open = PLAN.iter().find(|turn| turn.iter().any(|(_, n)| !done(*n)));
    match open {
        Some(turn) => {
            let calls: Vec<(&str, Value)> =
                turn.iter().filter(|(_, n)| !done(*n)).map(|(name, n)| (*name, json!({ "n": n }))).collect();
            calling(&calls)
        }
        None => Scripted::text(r#"{"ok":true}"#),
    }
}

fn failing(status: Option<u16>, fault: Fault, body: &str) -> Scripted {
    let name = Integration::new("primary").expect("a name");
    let mut scripted = Scripted::status(name, status.unwrap_or(0), body, Timestamp::from_millis(0));
    if let Err(failure) = &mut scripted.result {
        failure.status = status;
        failure.fault = fault;
        failure.phase = Phase::Headers;
    }
    scripted
}

/// What the model does when it is cut at this call.
fn cut_ask(cut: Cut, request: &Request) -> Scripted {
    match cut {
        Cut::Not => next(request),
        Cut::Busy | Cut::Fallback | Cut::Reassign => failing(Some(529), Fault::Status, "{}"),
        Cut::Lost => failing(None, Fault::Timeout, ""),
        Cut::Schema => {
            let mut scripted = next(request);
            if let Ok(reply) = &mut scripted.result {
                match reply.calls.first_mut() {
                    Some(call) => *call = ToolCall::written("x", call.name.clone(), "[not an object"),
                    None => reply.text = r#"{"ok":"certainly"}"#.to_owned(),
                }
                reply.calls.truncate(1);
            }
            scripted
        }
        Cut::Panic => panic!("the provider's own code broke"),
        Cut::Kill => next(request).after(Duration::from_secs(100_000)),
        Cut::Replay => failing(
            Some(400),
            Fault::Status,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#,
        ),
    }
}

/// What a tool does when it is cut at this call.
fn cut_call(cut: Cut) -> Act {
    let status = |status| {
        let detail = format!("answered {status}");
        Box::new(Trouble { status: Some(status), ..*Trouble::sent(ToolFault::Status, detail) })
    };
    match cut {
        Cut::Not => Act::Do,
        Cut::Busy => Act::Fail(status(529)),
        Cut::Lost => Act::DoThen(Trouble::sent(ToolFault::Timeout, "no answer")),
        Cut::Schema => Act::Fail(Trouble::sent(ToolFault::BadArguments, "n must be a number of mine")),
        Cut::Panic => Act::Panic,
        Cut::Kill => Act::DoThenHang,
        Cut::Fallback | Cut::Reassign => Act::DoThen(status(500)),
        Cut::Replay => Act::Fail(status(403)),
    }
}

struct Run {
    cut: Cut,
    at: At,
    engine: Arc<Memory>,
    primary: Simulated,
    second: Simulated,
    tools: Workshop,
    asks: Arc<AtomicU64>,
    config: Config,
}

fn config(cut: Cut) -> Config {
    let tools = vec!["read".to_owned(), "write".to_owned()];
    let agent = |name: &str| {
        let mut agent = Agent::new(name, "primary/opus").expect("an agent");
        agent.tools.clone_from(&tools);
        agent
    };
    let mut cto = agent("cto").handling("work");
    if cut == Cut::Fallback {
        cto = cto.falling_back_to("second/gpt").expect("a model");
    }
    let backend = agent("backend").covering_for("cto").expect("an agent");
    let mut config = Config::new("acme").agent(cto).agent(backend);
    config.retry.jitter = Jitter::None;
    if matches!(cut, Cut::Fallback | Cut::Reassign) {
        config.retry.max_deliveries = 1;
    }
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] });
    let declared =
        TaskTypeConfig { effect: Some(Effect::Mutation), output_schema: Some(schema), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("work").expect("a name"), declared);
    config
}

impl Run {
    fn new(cut: Cut, at: At) -> Self {
        let asks = Arc::new(AtomicU64::new(0));
        let provider = |name: &str| {
            let asks = Arc::clone(&asks);
            Simulated::new(Integration::new(name).expect("a name"), move |request, _| {
                let number = asks.fetch_add(1, Ordering::Relaxed);
                if at == At::Ask(number) { cut_ask(cut, request) } else { next(request) }
            })
        };
        let (primary, second) = (provider("primary"), provider("second"));
        let tools = Workshop::new(vec![offered("read", READS), offered("write", IDEMPOTENT)], move |_, number| {
            if at == At::Call(number) { cut_call(cut) } else { Act::Do }
        });
        Self { cut, at, engine: Arc::new(Memory::new()), primary, second, tools, asks, config: config(cut) }
    }

    async fn team(&self, now: Timestamp) -> Team {
        let builder = Team::builder(self.config.clone())
            .engine(self.engine.clone())
            .provider(self.primary.clone())
            .provider(self.second.clone())
            .tools(self.tools.clone());
        builder.clock(Clock::starting_at(now, 1.0)).seed(7).start().await.expect("a team")
    }

    /// Has the step that is cut begun?
    fn reached(&self) -> bool {
        match self.at {
            At::Ask(n) => self.asks.load(Ordering::Relaxed) > n,
            At::Call(n) => self.tools.seen().len() as u64 > n,
        }
    }

    async fn finish(&mut self) -> Record {
        let mut team = self.team(evening()).await;
        let mut desk = team.desk();
        let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "text": "go" }));
        let id = desk.submit(ask).await.expect("accepted").record.task.id;
        match self.cut {
            Cut::Not | Cut::Busy | Cut::Lost | Cut::Schema | Cut::Panic => {}
            Cut::Kill => {
                while !self.reached() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let now = desk.now();
                drop(team);
                self.engine = Arc::new(self.engine.reopened());
                team = self.team(now).await;
                desk = team.desk();
            }
            Cut::Fallback if matches!(self.at, At::Ask(_)) => {}
            Cut::Fallback => {
                let model = "second/gpt".parse().expect("a model");
                decide(&desk, id, Decision::RetryOnFallback { model }).await;
            }
            Cut::Reassign => {
                let agent = AgentName::new("backend").expect("a name");
                decide(&desk, id, Decision::Reassign { agent, amendment: "Go on with it.".to_owned() }).await;
            }
            Cut::Replay => {
                until(&desk, id, |record| record.state == State::WaitingHuman).await;
                let local = Integration::new(LOCAL).expect("a name");
                // Its incident stays open while the task waits for a person; the breaker closes all the same.
                desk.close_breaker(&local, "ana", "mended").await.expect("closed");
                let filter = Filter { ids: vec![id], ..Filter::default() };
                desk.start_replay(ReplayAsk::new(filter, "ana", "mended")).await.expect("a replay");
                until(&desk, id, |record| record.state == State::Done).await;
            }
        }
        let record = until(&desk, id, |record| matches!(record.state, State::Done | State::WaitingHuman)).await;
        drop(team);
        record
    }
}

/// Decides about a task once it has been given up and waits.
async fn decide(desk: &Desk, id: TaskId, decision: Decision) {
    let given_up =
        |record: &Record| record.letter.is_some() && matches!(record.state, State::Parked | State::WaitingHuman);
    until(desk, id, given_up).await;
    desk.decide(id, decision, "ana", "go on").await.expect("decided");
}

async fn until(desk: &Desk, id: TaskId, look: impl Fn(&Record) -> bool) -> Record {
    let mut watch = desk.engine().watch();
    let patience = tokio::time::timeout(Duration::from_secs(30 * 24 * 3600), async {
        loop {
            let record = desk.task(id).await.expect("the task");
            if look(&record) {
                return record;
            }
            watch.changed().await.expect("the engine lives");
        }
    });
    match patience.await {
        Ok(record) => record,
        Err(_) => panic!("never came about: {:#?}", desk.task(id).await.expect("the task")),
    }
}

/// Requests that came to nothing because of the cut: one when it was a model's answer that was lost or worthless.
fn lost(cut: Cut, at: At) -> u64 {
    match (cut, at) {
        (Cut::Not, _) => 0,
        (_, At::Ask(_)) => 1,
        // The answer that wanted the call was worthless too: the model has to correct itself.
        (Cut::Schema, At::Call(_)) => 1,
        (_, At::Call(_)) => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn cut_at_every_step_in_every_way_it_pays_only_for_what_was_lost_and_does_everything_once() {
    let mut undisturbed = Run::new(Cut::Not, At::Ask(99));
    let record = undisturbed.finish().await;
    assert_eq!((record.state, record.answer), (State::Done, Some(json!({ "ok": true }))));
    let effects = |run: &Run| -> Vec<(String, String)> {
        let mut done: Vec<_> =
            run.tools.effects().into_values().map(|(tool, arguments, _)| (tool, arguments)).collect();
        done.sort();
        done
    };
    let (asks, wanted) = (undisturbed.asks.load(Ordering::Relaxed), effects(&undisturbed));
    assert_eq!((asks, wanted.len()), (5, 5));
    let mut saved = 0;
    for cut in CUTS {
        for at in STEPS {
            let mut run = Run::new(cut, at);
            let record = run.finish().await;
            let story = format!("{cut:?} at {at:?}: {:#?}", run.engine.steps(record.task.id).await.expect("steps"));
            assert_eq!((record.state, &record.answer), (State::Done, &Some(json!({ "ok": true }))), "{story}");
            assert_eq!(run.asks.load(Ordering::Relaxed), asks + lost(cut, at), "requests, {story}");
            assert_eq!(effects(&run), wanted, "effects, {story}");
            let events = run.engine.events(0, 10_000).await.expect("events");
            saved += events
                .iter()
                .map(|event| if let Happening::Resumed { usage, .. } = &event.what { usage.total() } else { 0 })
                .sum::<u64>();
        }
    }
    println!("tokens not paid again in {} cuts: {saved}", CUTS.len() * STEPS.len());
    assert!(saved > 0);
}
