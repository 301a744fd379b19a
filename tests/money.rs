//! No failure costs more than was agreed: ten thousand tasks under random faults, and the provider's own bill.
//!
//! The bill is kept by the models themselves: every request they get is billed, lost answers included, by the tokens
//! they say they used. It never exceeds what `backstop bound` computes from the configuration alone, nor any cap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::bound;
use backstop::cause::{Fault, Phase, Usage};
use backstop::config::{BudgetConfig, Config, ProviderConfig, TaskTypeConfig, Wire};
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::failure::Kind;
use backstop::journal;
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::prices::{self, ModelFacts};
use backstop::record::{Record, State};
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::task::{Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::time::Timestamp;
use backstop::tool::{Hints, ToolRule};
use backstop::tools::{Local, function};
use serde_json::json;

use crate::world::{Act, READS, Workshop, calling, evening, offered, results};

/// How many of the schedules one team works on.
const AT_ONCE: u64 = 250;

/// Schedules in all: a thousand, or as many as `BACKSTOP_SCHEDULES` says.
pub(crate) fn schedules() -> u64 {
    std::env::var("BACKSTOP_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

/// Micro-dollars by task, as the provider bills them.
type Bill = Arc<Mutex<BTreeMap<String, u64>>>;

/// A number that depends on these words only.
pub(crate) fn dice(seed: u64, words: &[u64]) -> u64 {
    // SplitMix64: enough to draw faults with.
    words.iter().fold(seed, |state, word| {
        let mut z = state.wrapping_add(*word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Which task a request is for: its name stands in its prompt.
fn task_of(request: &Request) -> String {
    let text = request.messages[0].text();
    let at = text.find("T-").expect("the task's name");
    text[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, 'T' | '-')).collect()
}

const KNOWN: ModelFacts = ModelFacts {
    context: Some(60_000),
    usd_per_million_input: Some(4.0),
    usd_per_million_output: Some(20.0),
    usd_per_million_cache_read: Some(0.4),
    usd_per_million_cache_write: Some(5.0),
    max_output: None,
    long: None,
};

/// What the unknown model costs in truth: no more than the dearest that is known, which it is taken for.
const SECRET: ModelFacts =
    ModelFacts { usd_per_million_input: Some(50.0), usd_per_million_output: Some(200.0), context: None, ..KNOWN };

/// One request: what becomes of it, and what it costs.
fn ask(seed: u64, number: u64, request: &Request, facts: &ModelFacts, bill: &Bill) -> Scripted {
    let task = task_of(request);
    let roll = |what: u64| dice(seed, &[number, what, task.len() as u64]);
    let bytes: u64 = request.messages.iter().map(|message| message.bytes() as u64).sum();
    // A token has at least one byte; how many bytes it has in truth is the vendor's affair.
    let read = (bytes / (1 + roll(1) % 4)).min(facts.context.unwrap_or(u64::MAX));
    let cached = read * (roll(2) % 3) / 4;
    let written = roll(3) % (u64::from(request.max_output_tokens) + 1);
    let usage =
        Usage { input: read - cached, output: written, cache_read: cached / 2, cache_write: cached - cached / 2 };
    let charge = |usage: Usage| {
        let cost = prices::price(usage, facts).expect("a price");
        *bill.lock().unwrap_or_else(PoisonError::into_inner).entry(task.clone()).or_default() += cost;
    };
    let fails = |status: Option<u16>, fault, phase, usage: Usage, body: &str| {
        let name = Integration::new("primary").expect("a name");
        let mut scripted = Scripted::status(name, status.unwrap_or(0), body, Timestamp::from_millis(0));
        if let Err(failure) = &mut scripted.result {
            (failure.status, failure.fault, failure.phase, failure.usage) = (status, fault, phase, usage);
        }
        scripted
    };
    let none = Usage::default();
    let mut answer = match roll(4) % 100 {
        0..=9 => return fails(Some(529), Fault::Status, Phase::Headers, none, "{}"),
        10..=17 => {
            charge(usage);
            return fails(None, Fault::Timeout, Phase::Headers, none, "");
        }
        18..=23 => {
            charge(usage);
            // It says less than it bills for.
            return fails(Some(200), Fault::Truncated, Phase::Stream, Usage { output: 1, ..usage }, "");
        }
        24..=26 => {
            charge(usage);
            return fails(
                Some(200),
                Fault::ErrorEvent,
                Phase::Stream,
                none,
                r#"{"error":{"type":"overloaded_error"}}"#,
            );
        }
        27..=28 => {
            let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#;
            return fails(Some(400), Fault::Status, Phase::Headers, none, body);
        }
        29..=30 => {
            let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"}}"#;
            return fails(Some(400), Fault::Status, Phase::Headers, none, body);
        }
        31..=40 => Scripted::text("not what was asked"),
        81..=84 => {
            charge(usage);
            // Cut at its length, and its usage never came.
            return fails(Some(200), Fault::Stop, Phase::Semantic, none, "");
        }
        41..=80 if !request.tools.is_empty() && results(request).len() < 12 => {
            calling(&[("read", json!({ "n": roll(5) % 1_000 }))])
        }
        _ => Scripted::text(r#"{"ok":true}"#),
    };
    charge(usage);
    if let Ok(reply) = &mut answer.result {
        // Some tell no usage, and send the bill all the same.
        reply.usage = if roll(7) % 8 == 0 { none } else { usage };
    }
    answer.after(Duration::from_millis(roll(6) % 3_000))
}

fn provider(models: &[(&str, ModelFacts)]) -> ProviderConfig {
    ProviderConfig {
        models: models.iter().map(|(name, facts)| ((*name).to_owned(), *facts)).collect(),
        ..ProviderConfig::new(Wire::Anthropic, "http://127.0.0.1:9")
    }
}

fn config(seed: u64) -> Config {
    let agent = |name: &str, model: &str| {
        let mut agent = Agent::new(name, model).expect("an agent");
        agent.concurrency = 20;
        agent.max_output_tokens = 500;
        agent.max_steps = 12;
        agent
    };
    let falling = |agent: Agent, model: &str| agent.falling_back_to(model).expect("a model");
    let mut reader = falling(agent("reader", "primary/opus"), "second/unheard-of").handling("read_up");
    reader.tools = vec!["read".to_owned()];
    let writer = falling(agent("writer", "primary/opus"), "second/unheard-of").handling("write_up");
    let spare = agent("spare", "primary/opus").covering_for("writer").expect("an agent");
    let mut config = Config::new("acme")
        .agent(reader)
        .agent(writer)
        .agent(spare)
        .provider(Integration::new("primary").expect("a name"), provider(&[("opus", KNOWN)]))
        .provider(Integration::new("second").expect("a name"), provider(&[]));
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] });
    for name in ["read_up", "write_up"] {
        let declared = TaskTypeConfig {
            effect: Some(Effect::ReadOnly),
            output_schema: Some(schema.clone()),
            // Some teams have a cap on a task, low enough to be met.
            max_micro_usd: seed.is_multiple_of(2).then_some(150_000),
            ..TaskTypeConfig::default()
        };
        config.task_types.insert(TaskType::new(name).expect("a name"), declared);
    }
    // A breaker that opens under so many faults would only keep the bill low.
    config.breaker.failures = 100_000;
    if seed % 4 == 1 {
        config = config.budget(BudgetConfig {
            micro_usd_per_task: None,
            micro_usd_per_hour: Some(3_000_000),
            micro_usd_per_day: Some(4_000_000),
        });
    }
    config
}

/// How long a task took, from its first delivery on; nothing where it was given up before it had one.
fn took(record: &Record) -> Duration {
    let ended = record.ended_at.unwrap_or(record.updated_at);
    record.attempts.first().map_or(Duration::ZERO, |first| ended.since(first.started_at))
}

/// What one team came to: met caps.
async fn team(seed: u64, schedules: u64) -> u64 {
    let config = config(seed);
    let bill = Bill::default();
    let model = |name: &'static str, facts: ModelFacts| {
        let bill = Arc::clone(&bill);
        let salt = dice(seed, &[name.len() as u64]);
        Simulated::new(Integration::new(name).expect("a name"), move |request, number| {
            ask(salt, number, request, &facts, &bill)
        })
    };
    let engine = Arc::new(Memory::new());
    let tools = Workshop::new(vec![offered("read", READS)], |_, _| Act::Do);
    let team = Team::builder(config.clone())
        .engine(engine.clone())
        .provider(model("primary", KNOWN))
        .provider(model("second", SECRET))
        .tools(tools)
        .clock(Clock::starting_at(evening(), 1.0))
        .seed(seed)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let mut tasks: Vec<(TaskId, String, &str)> = Vec::new();
    for n in 0..schedules {
        let task_type = if n % 2 == 0 { "read_up" } else { "write_up" };
        let name = format!("T-{n}");
        let ask =
            NewTask::new(TaskType::new(task_type).expect("a name"), json!({ "name": name, "pad": "x".repeat(50) }));
        tasks.push((desk.submit(ask).await.expect("accepted").record.task.id, name, task_type));
    }
    let mut met = 0;
    let (mut counted_in_all, mut billed_in_all) = (0, 0);
    for (id, name, task_type) in &tasks {
        let record = desk.wait(*id).await.expect("an end");
        assert!(matches!(record.state, State::Done | State::WaitingHuman | State::Dead), "{:?}", record.state);
        met += u64::from(record.letter.as_ref().is_some_and(|letter| letter.failure.kind == Kind::Budget));
        let billed = bill.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(0);
        let task_type = TaskType::new(*task_type).expect("a name");
        let bound = bound::task_type(&config, &task_type);
        let steps = engine.steps(*id).await.expect("read");
        let tally = journal::tally(&steps);
        assert!(u64::from(tally.asks) <= bound.calls.expect("bounded"), "{name} of seed {seed}: {tally:?} {bound:?}");
        let most = bound.micro_usd.expect("bounded");
        assert!(billed <= most, "{name} of seed {seed}: billed {billed}, bound {most}");
        assert!(billed <= tally.counted, "{name} of seed {seed}: billed {billed}, counted {}", tally.counted);
        if let Some(cap) = config.caps(&task_type, &record.agent).task {
            assert!(tally.counted <= cap, "{name} of seed {seed}: {} of {cap}", tally.counted);
        }
        let most = bound.lasts.expect("bounded");
        let took = took(&record);
        assert!(took <= most, "{name} of seed {seed}: took {took:?}, bound {most:?}");
        let in_attempts: u64 = record.attempts.iter().map(|attempt| attempt.spent.usage.total()).sum();
        assert_eq!(in_attempts, tally.usage.total(), "{name} of seed {seed}: failed attempts count");
        counted_in_all += tally.counted;
        billed_in_all += billed;
    }
    assert!(billed_in_all <= counted_in_all);
    if let Some(day) = config.budget.micro_usd_per_day {
        assert!(counted_in_all <= day, "seed {seed}: {counted_in_all} of {day} a day");
    }
    met
}

#[tokio::test(start_paused = true)]
async fn tasks_under_random_faults_cost_no_more_than_their_bound_and_pass_no_cap() {
    let mut met = 0;
    let schedules = schedules();
    for seed in 0..schedules.div_ceil(AT_ONCE) {
        met += team(seed, AT_ONCE).await;
    }
    println!("{schedules} schedules; {met} tasks ended at a cap");
    assert!(met > 0, "no cap was ever met: nothing was shown");
}

/// A server that never tells its usage, or whose stream ended before it, was taken to have used nothing: its answers
/// counted for $0, and no cap on money was ever met, whatever the bill said.
#[tokio::test(start_paused = true)]
async fn an_answer_that_tells_no_usage_counts_as_the_most_it_can_cost() {
    let model = |name: &str| {
        Simulated::new(Integration::new(name).expect("a name"), |_, number| {
            let mut scripted = Scripted::text(if number == 1 { "not what was asked" } else { r#"{"ok":true}"# });
            if let Ok(reply) = &mut scripted.result {
                reply.usage = Usage::default();
            }
            scripted
        })
    };
    let engine = Arc::new(Memory::new());
    let team = Team::builder(config(3))
        .engine(engine.clone())
        .provider(model("primary"))
        .provider(model("second"))
        .tools(Workshop::new(vec![offered("read", READS)], |_, _| Act::Do))
        .clock(Clock::starting_at(evening(), 1.0))
        .seed(3)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("write_up").expect("a name"), json!({ "name": "T-0" }));
    let record = desk.wait(desk.submit(ask).await.expect("accepted").record.task.id).await.expect("an end");
    assert_eq!((record.state, record.attempts.len()), (State::Done, 2));
    assert!(record.attempts.iter().all(|attempt| attempt.spent.micro_usd.is_none()), "unknown, which is not nothing");
    let steps = engine.steps(record.task.id).await.expect("read");
    // The most it may write is 500 tokens of $20 a million, and what it reads comes on top.
    assert!(steps.iter().all(|step| step.micro_usd().is_none() && step.counted > 10_000), "{steps:#?}");
    assert_eq!((steps.len(), journal::tally(&steps).unpriced), (2, 2));
}

/// Slow, and nothing is wrong with it: a payment by an agent with tools is asked for again, and each of many calls of
/// tools in one answer takes nearly as long as it may.
#[tokio::test(start_paused = true)]
async fn a_payment_with_slow_tools_lasts_no_longer_than_its_bound() {
    let primary = || Integration::new("primary").expect("a name");
    let mut cashier = Agent::new("cashier", "primary/opus").expect("an agent").handling("pay_up");
    cashier.tools = vec!["note".to_owned()];
    (cashier.max_steps, cashier.stall) = (6, Duration::from_secs(60));
    let pay_up = TaskType::new("pay_up").expect("a name");
    let mut config = Config::new("acme")
        .agent(cashier)
        .provider(primary(), provider(&[("opus", KNOWN)]))
        .task_type(pay_up.clone(), TaskTypeConfig { effect: Some(Effect::Payment), ..TaskTypeConfig::default() })
        .local_tool("note", ToolRule::default())
        .retry(RetryPolicy {
            max_deliveries: 3,
            backoff: Backoff::List(vec![Duration::from_secs(6 * 3_600)]),
            jitter: Jitter::None,
            ack_wait: Duration::from_secs(60),
            park_at_most: Duration::ZERO,
        });
    config.breaker.failures = 100_000;
    let model = Simulated::new(primary(), |_, number| match number {
        1 | 2 => Scripted::status(Integration::new("primary").expect("a name"), 529, "{}", Timestamp::from_millis(0)),
        3..=5 => {
            let calls: Vec<_> = (0..64).map(|n| ("note", json!({ "n": n, "of": number }))).collect();
            calling(&calls)
        }
        _ => Scripted::text("done"),
    });
    let note = function("note", "Notes it.", json!({ "type": "object" }), Hints::default(), |_, _| async {
        tokio::time::sleep(Duration::from_secs(29)).await;
        Ok::<_, String>("noted".to_owned())
    });
    let team = Team::builder(config.clone())
        .engine(Arc::new(Memory::new()))
        .provider(model)
        .tools(Local::new([note]).expect("sound"))
        .clock(Clock::starting_at(evening(), 1.0))
        .seed(1)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let submitted = desk.submit(NewTask::new(pay_up.clone(), json!({ "name": "T-0" }))).await.expect("accepted");
    let record = desk.wait(submitted.record.task.id).await.expect("an end");
    assert_eq!((record.state, record.attempts.len()), (State::Done, 3));
    let bound = bound::task_type(&config, &pay_up);
    let (took, most) = (took(&record), bound.lasts.expect("bounded"));
    // Two waits of six hours, and three times 64 calls of 29 s one after the other.
    assert!(took >= Duration::from_secs(2 * 6 * 3_600 + 3 * 64 * 29), "{took:?}");
    assert!(took <= most, "took {took:?}, bound {most:?}");
}
