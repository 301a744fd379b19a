//! Effects happen at most once: thousands of tasks that pay, ship and write, under faults at every step, and the other
//! side's own books.
//!
//! The books are kept by the fake provider of payments and by the shipper, by key. Whatever cuts the work, whoever sends
//! it round again, no order is charged twice, nothing is shipped twice, what may be repeated is repeated under the same
//! key only, and every call of which nobody knows is looked up or asked about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::cause::{Fault, Phase, ToolFault};
use backstop::config::{Config, TaskTypeConfig};
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::journal::{Judge, Outcome};
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::query::Filter;
use backstop::record::{Record, State};
use backstop::replay::ReplayAsk;
use backstop::stand;
use backstop::task::{AgentName, Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, NewTask};
use backstop::time::Timestamp;
use backstop::tool::{Probe, Sign, ToolRule};
use backstop::tools::{Calling, Trouble};
use backstop::triage::Decision;
use serde_json::json;

use crate::money::{dice, schedules};
use crate::world::{Act, IDEMPOTENT, ONCE, READS, Seen, Workshop, calling, evening, offered, results};

/// How many of the schedules one team works on.
const AT_ONCE: u64 = 100;

/// What was really done, by key.
type Book = Arc<Mutex<BTreeMap<String, u32>>>;

/// What a task has done, in this order, before its answer.
const PLAN: [&str; 4] = ["find", "upsert", "charge", "ship"];

fn order(request: &Request) -> String {
    let text = request.messages[0].text();
    let at = text.find("O-").expect("the order's name");
    text[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, 'O' | '-')).collect()
}

/// The model: one tool after the other, as far as it sees them done, under faults of its own.
fn model(seed: u64, number: u64, request: &Request) -> Scripted {
    let fails = |status: Option<u16>, fault, body: &str| {
        let name = Integration::new("primary").expect("a name");
        let mut scripted = Scripted::status(name, status.unwrap_or(0), body, Timestamp::from_millis(0));
        if let Err(failure) = &mut scripted.result {
            (failure.status, failure.fault, failure.phase) = (status, fault, Phase::Headers);
        }
        scripted
    };
    let order = order(request);
    let seen = results(request);
    let done = |tool: &str| seen.iter().any(|text| text.contains(&format!("\"tool\":\"{tool}\"")));
    let answer = match PLAN.iter().find(|tool| !done(tool)) {
        Some(tool) => calling(&[(tool, json!({ "order": order, "tool": tool }))]),
        None => Scripted::text(r#"{"ok":true}"#),
    };
    match dice(seed, &[number, 1]) % 100 {
        0..=7 => fails(Some(529), Fault::Status, "{}"),
        8..=11 => fails(None, Fault::Timeout, ""),
        12..=13 => panic!("the provider's own code broke"),
        14..=16 => Scripted::text("not what was asked"),
        17 => fails(
            Some(400),
            Fault::Status,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#,
        ),
        _ => answer.after(Duration::from_millis(dice(seed, &[number, 2]) % 2_000)),
    }
}

/// The other side: does what is asked, or not, and tells of it, or not.
fn act(seed: u64, number: u64, calling: &Calling, book: &Book) -> Act {
    let key = calling.arguments["key"].as_str().unwrap_or(calling.key.as_str()).to_owned();
    let status = |status: u16| {
        Box::new(Trouble { status: Some(status), ..*Trouble::sent(ToolFault::Status, format!("answered {status}")) })
    };
    let act = match dice(seed, &[number, 3]) % 100 {
        0..=6 => Act::DoThen(Trouble::sent(ToolFault::Timeout, "no answer in time")),
        7..=10 => Act::DoThen(Trouble::sent(ToolFault::Died, "the connection broke")),
        11..=13 => Act::Fail(Trouble::sent(ToolFault::Died, "the connection broke")),
        14..=18 => Act::Fail(Trouble::unsent(ToolFault::Unreachable, "refused")),
        19..=21 => Act::Fail(status(500)),
        22..=23 => Act::DoThen(status(502)),
        24 => Act::Fail(status(429)),
        25..=26 => Act::Panic,
        27..=28 => Act::DoThenPanic,
        29 => Act::DoThenHang,
        30 => Act::DoThen(Trouble::sent(ToolFault::TooLarge, format!("much of \"tool\":\"{}\"", calling.tool))),
        31 => Act::DoThen(Trouble::sent(ToolFault::NotText, format!("a picture of \"tool\":\"{}\"", calling.tool))),
        _ => Act::Do,
    };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    match calling.tool.as_str() {
        "get_charge" => match act {
            Act::Do | Act::DoThen(_) | Act::DoThenHang | Act::DoThenPanic => {
                let found = if book.contains_key(&key) { "succeeded" } else { "none" };
                Act::Say(json!({ "status": found, "tool": "charge" }).to_string())
            }
            other @ (Act::Fail(_) | Act::Say(_) | Act::SayNo(_) | Act::Hang | Act::Panic) => other,
        },
        _ => {
            if matches!(act, Act::Do | Act::DoThen(_) | Act::DoThenHang | Act::DoThenPanic) {
                *book.entry(key).or_default() += 1;
            }
            act
        }
    }
}

fn config() -> Config {
    let tools: Vec<String> = PLAN.iter().map(|tool| (*tool).to_owned()).collect();
    let agent = |name: &str| {
        let mut agent = Agent::new(name, "primary/opus").expect("an agent");
        agent.tools.clone_from(&tools);
        agent.concurrency = 10;
        agent.restart.max = 1_000_000;
        agent
    };
    let cto = agent("cto").falling_back_to("second/gpt").expect("a model").handling("order");
    let backend = agent("backend").covering_for("cto").expect("an agent");
    let sign = |is: &str| Sign { at: "/status".to_owned(), is: json!(is) };
    let arguments = json!({ "key": "$key" });
    let charge = ToolRule {
        effect: Some(Effect::Payment),
        probe: Some(Probe {
            tool: "get_charge".to_owned(),
            arguments: arguments.as_object().expect("an object").clone(),
            happened: sign("succeeded"),
            did_not_happen: sign("none"),
        }),
        ..ToolRule::default()
    };
    let mut config = Config::new("acme").agent(cto).agent(backend).local_tool("charge", charge);
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] });
    let declared =
        TaskTypeConfig { effect: Some(Effect::Mutation), output_schema: Some(schema), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("order").expect("a name"), declared);
    // Breakers that open under so many faults would only make it quieter.
    config.breaker.failures = 1_000_000;
    config
}

struct Shop {
    seed: u64,
    book: Book,
    engine: Arc<Memory>,
    tools: Workshop,
    primary: Simulated,
    second: Simulated,
    team: Team,
    desk: Desk,
}

impl Shop {
    async fn open(seed: u64) -> Self {
        let book = Book::default();
        let kept = Arc::clone(&book);
        let mutation = backstop::tool::Hints { ..ONCE };
        let offers = vec![
            offered("find", READS),
            offered("get_charge", READS),
            offered("upsert", IDEMPOTENT),
            offered("charge", mutation),
            offered("ship", ONCE),
        ];
        let tools = Workshop::new(offers, move |calling, number| act(seed, number, calling, &kept));
        let provider = |name: &str, salt: u64| {
            let salt = dice(seed, &[salt]);
            Simulated::new(Integration::new(name).expect("a name"), move |request, n| model(salt, n, request))
        };
        let (primary, second) = (provider("primary", 1), provider("second", 2));
        let engine = Arc::new(Memory::new());
        let now = evening();
        let team = start(&engine, &primary, &second, &tools, seed, now).await;
        let desk = team.desk();
        Self { seed, book, engine, tools, primary, second, team, desk }
    }

    /// The process ends, and starts again.
    async fn kill(mut self) -> Self {
        let now = self.desk.now();
        drop(self.team);
        self.engine = Arc::new(self.engine.reopened());
        self.team = start(&self.engine, &self.primary, &self.second, &self.tools, self.seed, now).await;
        self.desk = self.team.desk();
        self
    }
}

async fn start(
    engine: &Arc<Memory>,
    primary: &Simulated,
    second: &Simulated,
    tools: &Workshop,
    seed: u64,
    now: Timestamp,
) -> Team {
    Team::builder(config())
        .engine(engine.clone())
        .provider(primary.clone())
        .provider(second.clone())
        .tools(tools.clone())
        .clock(Clock::starting_at(now, 1.0))
        .seed(seed)
        .start()
        .await
        .expect("a team")
}

/// What a person does about a task that waits for one: answers what is in doubt, truthfully; else sends it on somehow.
async fn person(shop: &Shop, record: &Record, turn: u64) {
    let (desk, id) = (&shop.desk, record.task.id);
    let steps = shop.engine.steps(id).await.expect("the journal");
    let doubt: Vec<(u32, String)> = stand::in_doubt(&steps, 0)
        .iter()
        .filter_map(|step| Some((step.number, step.call()?.key.as_str().to_owned())))
        .collect();
    if doubt.is_empty() {
        let decision = match dice(shop.seed, &[turn, 4]) % 4 {
            0 => Decision::RunAgain { amendment: None },
            1 => {
                Decision::Reassign { agent: AgentName::new("backend").expect("a name"), amendment: "Go on.".to_owned() }
            }
            2 => Decision::RetryOnFallback { model: "second/gpt".parse().expect("a model") },
            _ => {
                let filter = Filter { ids: vec![id], ..Filter::default() };
                // Replayed as often as it may be, it is somebody's to decide about.
                let _replays_used_up = desk.start_replay(ReplayAsk::new(filter, "ana", "go on")).await;
                Decision::RunAgain { amendment: None }
            }
        };
        // A replay may have been faster.
        let _decided = desk.decide(id, decision, "ana", "go on").await;
        return;
    }
    let blind = desk.decide(id, Decision::RunAgain { amendment: None }, "ana", "go on").await;
    assert!(blind.is_err(), "what is in doubt is answered first");
    for (step, key) in doubt {
        let happened = shop.book.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key);
        let note = json!({ "tool": tool_of(&steps, step) }).to_string();
        desk.judge(id, Some(step), happened, &note, "ana").await.expect("an answer");
    }
}

fn tool_of(steps: &[backstop::journal::Step], number: u32) -> String {
    let step = steps.iter().find(|step| step.number == number).expect("the step");
    step.call().expect("a call").tool.tool.clone()
}

/// One team's orders, worked off to the last; how many calls were in doubt, and how many were asked of a person.
async fn orders(seed: u64, schedules: u64) -> (u64, u64) {
    let mut shop = Shop::open(seed).await;
    let mut ids: Vec<(TaskId, String)> = Vec::new();
    for n in 0..schedules {
        let order = format!("O-{n}");
        let ask = NewTask::new(TaskType::new("order").expect("a name"), json!({ "order": order }));
        ids.push((shop.desk.submit(ask).await.expect("accepted").record.task.id, order));
    }
    for turn in 0..10_000 {
        // Some time passes, sometimes with a death in it.
        tokio::time::sleep(Duration::from_millis(500 + dice(seed, &[turn, 5]) % 60_000)).await;
        match dice(seed, &[turn, 6]) % 12 {
            0 => shop = shop.kill().await,
            1 => shop.desk.crash_agent(&AgentName::new("cto").expect("a name"), "on cue").expect("an agent"),
            _ => {}
        }
        let mut open = 0;
        for (id, _) in &ids {
            let record = shop.desk.task(*id).await.expect("the task");
            match record.state {
                State::Done => {}
                State::WaitingHuman => {
                    open += 1;
                    person(&shop, &record, turn).await;
                }
                State::Ready | State::Scheduled | State::Parked | State::Running | State::Dead => open += 1,
                State::Cancelled => panic!("nobody cancelled {id}"),
            }
        }
        if open == 0 {
            return settle_up(&shop, &ids).await;
        }
    }
    panic!("seed {seed} never ends");
}

/// The books are compared with what may have happened.
async fn settle_up(shop: &Shop, ids: &[(TaskId, String)]) -> (u64, u64) {
    let seen = shop.tools.seen();
    let (mut doubts, mut asked) = (0, 0);
    for (id, order) in ids {
        let about = format!("{order} of seed {}", shop.seed);
        let steps = shop.engine.steps(*id).await.expect("the journal");
        let of = |tool: &str| -> Vec<&Seen> {
            seen.iter().filter(|call| call.tool == tool && call.arguments["order"] == json!(order)).collect()
        };
        for tool in ["charge", "ship", "upsert"] {
            let done = of(tool).into_iter().filter(|call| call.done).count();
            let keys: BTreeSet<&str> =
                of(tool).into_iter().filter(|call| call.done).map(|call| call.key.as_str()).collect();
            assert_eq!(keys.len(), 1, "{about}: {tool} under one key, {keys:?}");
            if tool != "upsert" {
                assert_eq!(done, 1, "{about}: {tool} happened {done} times");
                let judged = |step: &&backstop::journal::Step| {
                    matches!(&step.outcome,
                        Some(Outcome::Judged { happened: false, by: Judge::Person { .. }, .. })
                        if step.call().is_some_and(|call| call.tool.tool == tool))
                };
                let authorised = steps.iter().filter(judged).count();
                let made = of(tool).len();
                if tool == "charge" {
                    assert!(made <= 1 + authorised, "{about}: charged {made} times, authorised {authorised}");
                }
            }
        }
        // Every call that was done and not heard of again was looked up, or asked about.
        for step in &steps {
            let Some(call) = step.call().filter(|call| matches!(call.tool.tool.as_str(), "charge" | "ship")) else {
                continue;
            };
            match &step.outcome {
                Some(Outcome::Judged { by: Judge::Person { .. }, .. }) => {
                    doubts += 1;
                    asked += 1;
                }
                Some(Outcome::Judged { by: Judge::Probe { .. }, .. }) => {
                    doubts += 1;
                    let looked = seen
                        .iter()
                        .any(|seen| seen.tool == "get_charge" && seen.arguments["key"] == json!(call.key.as_str()));
                    assert!(looked, "{about}: step {} was not looked up", step.number);
                }
                Some(Outcome::Returned { .. } | Outcome::Failed { .. }) => {}
                Some(Outcome::Unknown { .. } | Outcome::Replied(_)) | None => {
                    panic!("{about}: nobody ever found out about step {}: {step:#?}", step.number)
                }
            }
        }
    }
    (doubts, asked)
}

#[tokio::test(start_paused = true)]
async fn no_effect_happens_twice_whatever_cuts_it_and_whoever_sends_it_on() {
    let (mut doubts, mut asked) = (0, 0);
    let schedules = schedules();
    for seed in 0..schedules.div_ceil(AT_ONCE) {
        let (in_doubt, of_a_person) = orders(seed, AT_ONCE.min(schedules)).await;
        doubts += in_doubt;
        asked += of_a_person;
    }
    println!("{schedules} schedules; {doubts} calls in doubt, {asked} of them answered by a person, 0 made twice");
    assert!(doubts > 0 && asked > 0, "nothing was ever in doubt: nothing was shown");
}

#[tokio::test(start_paused = true)]
async fn money_that_was_refused_is_a_persons_matter_and_not_tried_again_by_a_model() {
    let script = |request: &Request, _: u64| match results(request).len() {
        0 => calling(&[("charge", json!({ "order": "O-1" }))]),
        _ => Scripted::text(r#"{"ok":true}"#),
    };
    let tools =
        Workshop::new(vec![offered("charge", ONCE), offered("get_charge", READS)], |_, _| Act::SayNo("card declined"));
    let model = Simulated::new(Integration::new("primary").expect("a name"), script);
    let team = Team::builder(config())
        .provider(model.clone())
        .tools(tools.clone())
        .clock(Clock::starting_at(evening(), 1.0))
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("order").expect("a name"), json!({ "order": "O-1" }));
    let id = desk.submit(ask).await.expect("accepted").record.task.id;
    let record = desk.wait(id).await.expect("an end");
    let failure = record.letter.as_ref().expect("a letter").failure.clone();
    assert_eq!((record.state, failure.kind), (State::WaitingHuman, backstop::failure::Kind::Declined));
    assert_eq!(failure.message, "local/charge: card declined");
    // Sent on by a person, the model wants the very same payment again: it is told that only a person may.
    desk.decide(id, Decision::RunAgain { amendment: None }, "ana", "try").await.expect("decided");
    let record = desk.wait(id).await.expect("an end");
    let steps = desk.engine().steps(id).await.expect("the journal");
    assert_eq!(tools.seen().len(), 1, "{record:#?}\n{steps:#?}");
}

/// What happened: a write got no answer, though it was done. The next delivery repeated it under its key, as it may, and
/// the server turned that one away. The model was told that its call had failed, called again, under another key, and
/// the write was done twice. What a repeat is told says nothing of the first try: that one is still in doubt.
#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_turned_away_leaves_its_first_try_in_doubt() {
    in_doubt_until_a_person_says(|number| match number {
        0 => Act::DoThen(Trouble::sent(ToolFault::Timeout, "no answer in time")),
        1 => Act::Fail(Trouble::unsent(ToolFault::Refused, "not now")),
        _ => Act::Do,
    })
    .await;
}

/// What happened: the same, but it was the tool itself that said no to the repeat, in an answer like any other. Only
/// failures were asked whether an earlier try was in doubt: the model was told, called again, and it was done twice.
#[tokio::test(start_paused = true)]
async fn a_repeat_that_says_no_leaves_its_first_try_in_doubt() {
    in_doubt_until_a_person_says(|number| match number {
        0 => Act::DoThen(Trouble::sent(ToolFault::Timeout, "no answer in time")),
        1 => Act::SayNo("locked by another request"),
        _ => Act::Do,
    })
    .await;
}

/// What happened: a write was done and answered with 503, and its repeat was turned away. By one rule a 503 says nothing
/// of what was done; by another, of its own making, it said that nothing was: the write was done twice.
#[tokio::test(start_paused = true)]
async fn a_first_try_that_was_answered_with_503_is_in_doubt() {
    in_doubt_until_a_person_says(|number| match number {
        0 => {
            let overloaded = *Trouble::sent(ToolFault::Status, "answered 503");
            Act::DoThen(Box::new(Trouble { status: Some(503), ..overloaded }))
        }
        1 => Act::Fail(Trouble::unsent(ToolFault::Refused, "not now")),
        _ => Act::Do,
    })
    .await;
}

/// What happened: a server could not be reached, so that nothing was sent, and turned the repeat away when it was back. A
/// person was asked whether a write happened that had never left.
#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_not_in_doubt() {
    let act = |number: u64| match number {
        0 => Act::Fail(Trouble::unsent(ToolFault::Unreachable, "refused")),
        1 => Act::Fail(Trouble::unsent(ToolFault::Refused, "not now")),
        _ => Act::Do,
    };
    let (_team, desk, tools, id) = until_done(config(), "upsert", act).await;
    let record = desk.wait(id).await.expect("an end");
    assert_eq!((record.state, tools.seen().len()), (State::Done, 3), "{record:#?}");
}

/// What happened: a read was cut off, by its time or by a death, and its repeat was answered with 404. A person was asked
/// whether the read had happened, on which nothing depends.
#[tokio::test(start_paused = true)]
async fn a_read_is_never_in_doubt() {
    let cuts: [fn() -> Act; 2] = [|| Act::Fail(Trouble::sent(ToolFault::Timeout, "no answer in time")), || Act::Panic];
    for cut in cuts {
        let act = move |number: u64| match number {
            0 => cut(),
            1 => {
                let gone = *Trouble::sent(ToolFault::Status, "answered 404");
                Act::Fail(Box::new(Trouble { status: Some(404), ..gone }))
            }
            _ => Act::Do,
        };
        let (_team, desk, tools, id) = until_done(config(), "find", act).await;
        let record = desk.wait(id).await.expect("an end");
        assert_eq!((record.state, tools.seen().len()), (State::Done, 3), "{record:#?}");
    }
}

/// What happened: a look said that the first try had not happened. The repeat's own no was then the end of the task, and a
/// person's matter, though nothing was in doubt any more and the model could have been told.
#[tokio::test(start_paused = true)]
async fn a_no_is_the_models_to_hear_once_a_look_says_that_nothing_happened() {
    let mut config = config();
    let probe = config.tools.local["charge"].probe.clone();
    config = config.local_tool("upsert", ToolRule { probe, ..ToolRule::default() });
    let act = |number: u64| match number {
        0 => Act::Fail(Trouble::sent(ToolFault::Timeout, "no answer in time")),
        1 | 3 => Act::SayNo("locked by another request"),
        2 => Act::Say(json!({ "status": "none" }).to_string()),
        _ => Act::Do,
    };
    let (_team, desk, tools, id) = until_done(config, "upsert", act).await;
    let record = desk.wait(id).await.expect("an end");
    let called: Vec<(String, bool)> = tools.seen().into_iter().map(|seen| (seen.tool, seen.done)).collect();
    let called: Vec<(&str, bool)> = called.iter().map(|(tool, done)| (tool.as_str(), *done)).collect();
    let expected = [("upsert", false), ("upsert", false), ("get_charge", false), ("upsert", false), ("upsert", true)];
    assert_eq!((record.state, called.as_slice()), (State::Done, &expected[..]), "{record:#?}");
}

/// A team whose model has one tool called until it hears that it is done, and one task of it.
async fn until_done(
    config: Config,
    tool: &'static str,
    act: impl Fn(u64) -> Act + Send + Sync + 'static,
) -> (Team, Desk, Workshop, TaskId) {
    let script = move |request: &Request, _: u64| match results(request).len() {
        0 => calling(&[(tool, json!({ "order": "O-1" }))]),
        _ => Scripted::text(r#"{"ok":true}"#),
    };
    let offers = vec![offered("find", READS), offered("get_charge", READS), offered("upsert", IDEMPOTENT)];
    let tools = Workshop::new(offers, move |_, number| act(number));
    let team = Team::builder(config)
        .provider(Simulated::new(Integration::new("primary").expect("a name"), script))
        .tools(tools.clone())
        .clock(Clock::starting_at(evening(), 1.0))
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("order").expect("a name"), json!({ "order": "O-1" }));
    let id = desk.submit(ask).await.expect("accepted").record.task.id;
    (team, desk, tools, id)
}

/// Of a write that was done, unheard of, and repeated in vain a person is asked, and nobody does it again.
async fn in_doubt_until_a_person_says(act: impl Fn(u64) -> Act + Send + Sync + 'static) {
    let (_team, desk, tools, id) = until_done(config(), "upsert", act).await;
    let record = desk.wait(id).await.expect("an end");
    let kind = record.letter.as_ref().map(|letter| letter.failure.kind);
    let expected = (State::WaitingHuman, Some(backstop::failure::Kind::OutcomeUnknown));
    assert_eq!((record.state, kind), expected, "{record:#?}");
    desk.judge(id, None, true, "it is there", "ana").await.expect("an answer");
    let record = desk.wait(id).await.expect("an end");
    let keys: BTreeSet<String> = tools.seen().into_iter().filter(|seen| seen.done).map(|seen| seen.key).collect();
    assert_eq!((record.state, tools.seen().len(), keys.len()), (State::Done, 2, 1), "{record:#?}");
}
