//! Loops and stalls are logic failures with evidence, and a long batch is neither.

use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::cause::Usage;
use backstop::config::{Config, ProviderConfig, TaskTypeConfig, Timeouts, Wire};
use backstop::engine::conformance::Site;
use backstop::engine::memory::Memory;
use backstop::failure::{Class, Kind};
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::record::{Record, State};
use backstop::task::{Effect, Integration, TaskType};
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::team::{Builder, Team};
use backstop::tool::ToolRule;
use backstop::tools::{Local, function};
use serde_json::{Value, json};

use crate::engine::OnDisk;
use crate::world::{Act, READS, Workshop, calling, evening, offered, results};

/// One task of a team on a clean slate, to its end.
async fn one_task(team: Builder) -> Record {
    let team = team
        .engine(Arc::new(Memory::new()))
        .clock(Clock::starting_at(evening(), 1.0))
        .seed(7)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "text": "go" }));
    let id = desk.submit(ask).await.expect("accepted").record.task.id;
    desk.wait(id).await.expect("an end")
}

/// One task of an agent with the tool `read`, worked on to its end; and how often a model was asked.
async fn work(
    shape: impl FnOnce(&mut Agent),
    act: fn(u64) -> Act,
    script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static,
) -> (Record, u64) {
    let mut agent = Agent::new("cto", "primary/opus").expect("an agent").handling("work");
    agent.tools = vec!["read".to_owned()];
    shape(&mut agent);
    let mut config = Config::new("acme").agent(agent);
    let reads = TaskTypeConfig { effect: Some(Effect::ReadOnly), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("work").expect("a name"), reads);
    let model = Simulated::new(Integration::new("primary").expect("a name"), script);
    let team = Team::builder(config)
        .provider(model.clone())
        .tools(Workshop::new(vec![offered("read", READS)], move |_, n| act(n)));
    let record = one_task(team).await;
    (record, model.calls())
}

fn read(path: &str) -> (&'static str, Value) {
    ("read", json!({ "path": path }))
}

/// Why a task was given up, with a person, as a loop.
fn looped(record: &Record) -> String {
    assert_eq!(record.state, State::WaitingHuman, "{record:#?}");
    let letter = record.letter.as_ref().expect("a letter");
    assert_eq!((letter.failure.class, letter.failure.kind), (Class::Logic, Kind::Loop));
    assert_eq!(letter.deliveries, 1, "more tries only burn money");
    letter.failure.message.clone()
}

#[tokio::test(start_paused = true)]
async fn the_same_call_is_a_loop_the_fifth_time() {
    let (record, asked) = work(|_| {}, |_| Act::Do, |_, _| calling(&[read("a")])).await;
    assert_eq!(looped(&record), r#"read {"path":"a"} 5 times in a row"#);
    assert_eq!(asked, 5);
}

#[tokio::test(start_paused = true)]
async fn a_cycle_of_calls_is_a_loop_after_five_rounds() {
    let (record, asked) =
        work(|_| {}, |_| Act::Do, |_, n| calling(&[read(["a", "b", "c"][usize::try_from(n).expect("few") % 3])])).await;
    assert!(looped(&record).ends_with("5 times in a row"));
    assert_eq!(asked, 15);
}

#[tokio::test(start_paused = true)]
async fn malformed_calls_that_do_not_change_are_a_loop_too() {
    let (record, asked) = work(|_| {}, |_| Act::Do, |_, _| calling(&[("reed", json!({ "path": "a" }))])).await;
    assert_eq!(looped(&record), r#"reed {"path":"a"} 5 times in a row"#);
    assert_eq!(asked, 5);
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_many_files_is_no_loop() {
    let (record, asked) = work(
        |_| {},
        |_| Act::Do,
        |request, _| match results(request).len() {
            40 => Scripted::text("read them all"),
            n => calling(&[read(&n.to_string())]),
        },
    )
    .await;
    assert_eq!((record.state, record.answer, asked), (State::Done, Some(json!("read them all")), 41));
}

#[tokio::test(start_paused = true)]
async fn steps_calls_in_one_answer_and_speed_have_limits() {
    let on = |request: &Request, _: u64| calling(&[read(&results(request).len().to_string())]);
    let (record, asked) = work(|agent| agent.max_steps = 7, |_| Act::Do, on).await;
    assert_eq!(looped(&record), "step 7 of at most 7");
    assert_eq!(asked, 7);
    let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let all = move |_: &Request, _: u64| calling(&many.iter().map(|n| read(n)).collect::<Vec<_>>());
    let (record, asked) = work(|agent| agent.max_tool_calls = 19, |_| Act::Do, all).await;
    assert_eq!(looped(&record), "20 calls of tools in one answer; at most 19 are made");
    assert_eq!(asked, 1);
    // 15 tokens a call, no time passes.
    let (record, asked) = work(|agent| agent.max_tokens_per_minute = 100, |_| Act::Do, on).await;
    assert_eq!(looped(&record), "105 tokens within a minute of at most 100");
    assert_eq!(asked, 7);
}

#[tokio::test(start_paused = true)]
async fn speed_is_measured_by_the_minute() {
    let (record, _) = work(
        |agent| agent.max_tokens_per_minute = 100,
        |_| Act::Do,
        |request, _| match results(request).len() {
            20 => Scripted::text("no hurry"),
            n => calling(&[read(&n.to_string())]).after(Duration::from_secs(15)),
        },
    )
    .await;
    assert_eq!(record.answer, Some(json!("no hurry")));
}

/// Answers that told no usage counted for no tokens, so that no runaway was too fast on a server that tells none.
#[tokio::test(start_paused = true)]
async fn who_tells_no_usage_is_taken_for_the_fastest() {
    let on = |request: &Request, _: u64| {
        let mut scripted = calling(&[read(&results(request).len().to_string())]);
        if let Ok(reply) = &mut scripted.result {
            reply.usage = Usage::default();
        }
        scripted
    };
    // Some hundred tokens a call, by its bytes.
    let (record, asked) = work(|agent| agent.max_tokens_per_minute = 300, |_| Act::Do, on).await;
    assert!(looped(&record).ends_with("tokens within a minute of at most 300"), "{record:#?}");
    assert!(asked <= 10, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_phrase_without_end_is_a_loop() {
    let (record, asked) =
        work(|_| {}, |_| Act::Do, |_, _| Scripted::text("I will now read the file. ".repeat(40))).await;
    assert!(looped(&record).starts_with("says 10 times in a row: "), "{record:#?}");
    assert_eq!(asked, 1);
}

#[tokio::test(start_paused = true)]
async fn what_finishes_no_step_within_the_stall_limit_is_stuck() {
    let (record, _) =
        work(|agent| agent.stall = Duration::from_secs(20), |_| Act::Hang, |_, _| calling(&[read("a")])).await;
    assert_eq!(looped(&record), "no step finished for 20s; at most 20s are allowed");
}

/// A model that may take 40 minutes by its file, and took 20 over a good answer, was cut by the stall limit of 15: the
/// answer was lost, and paid for, and a person was called for a loop that was none.
#[tokio::test(start_paused = true)]
async fn a_call_that_may_take_longer_than_a_stall_is_none() {
    let primary = Integration::new("primary").expect("a name");
    let slow = ProviderConfig {
        self_hosted: true,
        timeouts: Timeouts { total: Duration::from_secs(40 * 60), ..Timeouts::default() },
        ..ProviderConfig::new(Wire::Anthropic, "http://127.0.0.1:9")
    };
    let agent = Agent::new("cto", "primary/opus").expect("an agent").handling("work");
    let model =
        Simulated::new(primary.clone(), |_, _| Scripted::text("well thought").after(Duration::from_secs(1_200)));
    let team = Team::builder(Config::new("acme").agent(agent).provider(primary, slow)).provider(model.clone());
    let record = one_task(team).await;
    assert_eq!((record.state, record.answer, model.calls()), (State::Done, Some(json!("well thought")), 1));
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hangs_ends_and_is_tried_again() {
    let hang = |n| if n == 0 { Act::Hang } else { Act::Do };
    let (record, asked) = work(
        |_| {},
        hang,
        |request, _| match results(request).len() {
            0 => calling(&[read("a")]),
            _ => Scripted::text("in the end"),
        },
    )
    .await;
    assert_eq!((record.state, record.attempts.len(), asked), (State::Done, 2, 2));
    let failure = record.attempts[0].failure.as_ref().expect("a failure");
    assert_eq!((failure.class, failure.kind), (Class::Transient, Kind::Timeout));
    assert!(failure.message.contains("local/read"), "{}", failure.message);
}

/// What happened: of two reads in one answer one was declared to take up to 45 minutes, the other 5. The second word went
/// over the first, and the long read was cut after 20 minutes and given up as a loop.
#[tokio::test(start_paused = true)]
async fn of_reads_side_by_side_the_longest_word_counts() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let reads = |name: &'static str, takes: Duration| {
        function(name, "Reads.", json!({ "type": "object" }), READS, move |_, _| async move {
            tokio::time::sleep(takes).await;
            Ok::<_, String>("read".to_owned())
        })
    };
    let declared = |within: Duration| ToolRule { timeout: Some(within), ..ToolRule::default() };
    let mut agent = Agent::new("cto", "primary/opus").expect("an agent").handling("work");
    agent.tools = vec!["long".to_owned(), "short".to_owned()];
    let config = Config::new("acme")
        .agent(agent)
        .local_tool("long", declared(minutes(45)))
        .local_tool("short", declared(minutes(5)));
    let model =
        Simulated::new(Integration::new("primary").expect("a name"), |request, _| match results(request).len() {
            0 => calling(&[("long", json!({})), ("short", json!({}))]),
            _ => Scripted::text("read both"),
        });
    let team = Team::builder(config)
        .provider(model)
        .tools(Local::new([reads("long", minutes(30)), reads("short", minutes(1))]).expect("sound"));
    let record = one_task(team).await;
    assert_eq!((record.state, record.attempts.len()), (State::Done, 1), "{record:#?}");
}

/// A provider of somebody's own that never gives its thread back: a loop without end, a call that blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_hangs_costs_its_task_a_lease_and_nobody_else_anything() {
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let hangs = std::sync::Mutex::new(hangs);
    let (began, mut begun) = tokio::sync::watch::channel(false);
    let model = Simulated::new(Integration::new("primary").expect("a name"), move |request, _| {
        if !format!("{request:?}").contains("never-ends") {
            return Scripted::text("at once");
        }
        if began.send_replace(true) {
            return Scripted::text("the second time");
        }
        hangs.lock().expect("nobody else hangs").recv().expect_err("its other end is dropped");
        Scripted::text("too late")
    });
    let mut agent = Agent::new("cto", "primary/opus").expect("an agent").handling("work");
    agent.concurrency = 2;
    let (mut site, start) = (OnDisk::new(), evening());
    // A lease of five minutes is one second.
    let team = Team::builder(Config::new("acme").agent(agent))
        .engine(site.open(start))
        .provider(model)
        .clock(Clock::starting_at(start, 300.0))
        .seed(7)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let submit = async |text: &str| {
        let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "text": text }));
        desk.submit(ask).await.expect("accepted").record.task.id
    };
    let stuck = submit("never-ends").await;
    begun.wait_for(|begun| *begun).await.expect("asked");
    for _ in 0..20 {
        let id = submit("go").await;
        assert_eq!(desk.wait(id).await.expect("an end").answer, Some(json!("at once")));
    }
    let record = desk.wait(stuck).await.expect("an end");
    assert_eq!(record.answer, Some(json!("the second time")), "{record:#?}");
    let failure = record.attempts[0].failure.as_ref().expect("a failure");
    assert_eq!(failure.kind, Kind::LeaseLapsed);
    drop(release);
    drop(desk);
    team.drain(Duration::from_secs(600)).await.expect("drained");
    let store = site.open(start);
    let left = store.record(stuck).await.expect("read").expect("a task");
    assert_eq!(left, record, "what came too late changes nothing");
    assert_eq!(store.balance().await.expect("a balance").done, 21);
}
