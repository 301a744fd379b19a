//! What ended long ago is forgotten, by the hour and by hand; what somebody still needs is not.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::Config;
use backstop::engine::conformance::{ack, ask, at, dead, failure, integration, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::memory::Memory;
use backstop::engine::{Document, Engine};
use backstop::escalation::Rules;
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::incident::{self, Opening, Trigger};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::query::{Filter, PageAsk};
use backstop::replay::{self, Plan, ReplayAsk, ReplayCommand, Verdict};
use backstop::retention::Retention;
use backstop::task::TaskId;
use backstop::team::Team;
use backstop::team::retention::round;
use serde_json::{Value, json};

use crate::engine::Scratch;

const DAY: i64 = 24 * 3_600;

/// So many tasks of the first day, done; the last of them given up on instead.
async fn worked(engine: &dyn Engine, tasks: u64) -> Vec<TaskId> {
    for n in 0..tasks {
        engine.submit(task(n, at(0)), integration("sim"), at(0)).await.expect("accepted");
    }
    let claimed = engine.lease(ask(1, u32::try_from(tasks).expect("few")), at(0)).await.expect("leased");
    for (n, record) in (1..).zip(&claimed) {
        let fate = if n < tasks { ack() } else { dead(failure(Class::Transient, Kind::Timeout, "slow")) };
        engine.command(record.task.id, settle(record.fence, fate), at(0)).await.expect("settled");
    }
    claimed.iter().map(|record| record.task.id).collect()
}

async fn left(engine: &dyn Engine) -> Vec<TaskId> {
    let page = PageAsk { oldest_first: true, ..PageAsk::default() };
    let found = engine.records(Filter::default(), page).await.expect("read");
    found.items.iter().map(|record| record.task.id).collect()
}

fn document(kind: &str, key: &str, version: u64, body: Value) -> Document {
    Document { kind: kind.to_owned(), key: key.to_owned(), version, body }
}

#[tokio::test]
async fn an_incident_or_a_replay_that_is_not_over_keeps_its_tasks() {
    let engine = Memory::new();
    let ids = worked(&engine, 5).await;
    let opening = Opening {
        id: "INC-1".to_owned(),
        trigger: Trigger::Judgement,
        subject: ids[0].to_string(),
        deaths: Vec::new(),
        why: String::new(),
        runbook: None,
        in_doubt: Vec::new(),
    };
    let open = incident::open(opening, &Rules::default(), at(0)).incident;
    let plan = Plan { entries: vec![(ids[1], Verdict::Replay)], ..Plan::default() };
    let asked = ReplayAsk { all: true, ..ReplayAsk::new(Filter::default(), "ana", "fixed") };
    let (running, _) = replay::start("RPL-1".to_owned(), asked, plan, at(0)).expect("sound");
    let kept = [("incident", "INC-1", json!(open)), ("replay", "RPL-1", json!(running))];
    let kept = kept.map(|(kind, key, body)| document(kind, key, 0, body));
    engine.save(kept.to_vec(), Vec::new(), at(0)).await.expect("saved");
    let now = at(400 * DAY);
    let went = round(&engine, Retention::default(), 0, true, "ana", now).await.expect("looked");
    assert_eq!((went.pruned.done, went.next), (2, None), "two are done and of no use");
    assert_eq!(left(&engine).await, ids, "looking changes nothing");
    let went = round(&engine, Retention::default(), 0, false, "ana", now).await.expect("forgotten");
    assert_eq!(went.pruned.done, 2);
    assert_eq!(left(&engine).await, [ids[0], ids[1], ids[4]], "needed, needed, and waiting for a person");
    let last = engine.events(0, 99).await.expect("read").pop().expect("an event");
    let told = Happening::Pruned { done: 2, dead: 0, cancelled: 0, events: 6, by: "ana".to_owned() };
    assert_eq!(last.what, told);
    let (over, _) = replay::command(&running, ReplayCommand::Cancel, "ana", now).expect("cancelled");
    engine.save(vec![document("replay", "RPL-1", 1, json!(over))], Vec::new(), now).await.expect("saved");
    round(&engine, Retention::default(), 0, false, "ana", now).await.expect("forgotten");
    assert_eq!(left(&engine).await, [ids[0], ids[4]], "the replay is over");
    let balance = engine.balance().await.expect("read");
    assert_eq!((balance.submitted, balance.pruned, balance.lost()), (5, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_team_forgets_by_the_hour_what_its_configuration_keeps_no_longer() {
    for (retention, expected) in [(Retention::default(), 2), (Retention::FOR_EVER, 0)] {
        let engine = Arc::new(Memory::new());
        worked(&*engine, 3).await;
        let mut config = Config::new("test").agent(Agent::new("cto", "sim/model").expect("an agent"));
        config.retention = retention;
        let answer = |_: &backstop::llm::Request, _| Scripted::text("{}");
        let provider = Simulated::new(integration("sim"), answer);
        let shared: Arc<dyn Engine> = engine.clone();
        let team = Team::builder(config).engine(shared).provider(provider).start().await.expect("a team");
        let mut feed = engine.watch();
        let keeping = tokio::spawn(team.desk().keep_retention());
        if expected == 0 {
            keeping.await.expect("nothing to do, for ever");
        } else {
            while engine.balance().await.expect("read").pruned == 0 {
                feed.changed().await.expect("the engine is open");
            }
            keeping.abort();
        }
        assert_eq!(engine.balance().await.expect("read").pruned, expected);
        team.drain(Duration::from_secs(1)).await.expect("closed");
    }
}

#[tokio::test]
async fn the_record_of_a_stopped_team_is_pruned_by_hand() {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let ids = worked(&engine, 4).await;
    let dir = scratch.path().display().to_string();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["prune", "--data", &dir, "--json"]).args(arguments).env_clear().stdin(Stdio::null());
        let output = command.output().expect("the binary runs");
        let words = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), words)
    };
    let (code, _, words) = run(&["--dry-run"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("is in use by another backstop process"), "{words}");
    engine.close().await.expect("closed");
    drop(engine);
    let (code, told, _) = run(&["--dry-run"]);
    let expected = json!({ "done": 3, "dead": 0, "cancelled": 0, "events": 0, "dry_run": true });
    assert_eq!((code, told), (Some(0), expected));
    let (code, _, words) = run(&["--older-than", "7d"]);
    assert_eq!(code, Some(2), "nobody is there to confirm it: {words}");
    let (code, told, words) = run(&["--older-than", "7d", "--compact", "--yes"]);
    assert_eq!((code, &told["done"], &told["events"]), (Some(0), &json!(3), &json!(9)), "{words}");
    assert!(told["bytes_after"].as_u64() <= told["bytes_before"].as_u64(), "{told}");
    let (_, told, _) = run(&["--yes"]);
    assert_eq!(told["done"], json!(0), "once");
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    assert_eq!(left(&engine).await, ids[3..], "the dead letter waits for a person");
    let (code, _, words) = run(&["--older-than", "1h"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("too short"), "{words}");
}
