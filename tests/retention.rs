//! What ended long ago is forgotten, by the hour and by hand; what somebody still needs is not.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::Config;
use backstop::engine::conformance::{ack, ask, at, dead, failure, integration, prune, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::memory::Memory;
use backstop::engine::{Document, Engine};
use backstop::escalation::Rules;
use backstop::event::{Happening, NewEvent};
use backstop::failure::{Class, Kind};
use backstop::incident::{self, Incident, IncidentCommand, Opening, Page, Trigger};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::outbox;
use backstop::query::{Filter, PageAsk};
use backstop::replay::{self, Plan, ReplayAsk, ReplayCommand, Verdict};
use backstop::retention::{Pruned, Retention};
use backstop::task::{TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::team::retention::round;
use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::engine::Scratch;
use crate::team::status;

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
    assert_eq!(last.what, told(Pruned { done: 2, events: 6, ..Pruned::default() }));
    let (over, _) = replay::command(&running, ReplayCommand::Cancel, "ana", now).expect("cancelled");
    engine.save(vec![document("replay", "RPL-1", 1, json!(over))], Vec::new(), now).await.expect("saved");
    round(&engine, Retention::default(), 0, false, "ana", now).await.expect("forgotten");
    assert_eq!(left(&engine).await, [ids[0], ids[4]], "the replay is over");
    let balance = engine.balance().await.expect("read");
    assert_eq!((balance.submitted, balance.pruned, balance.lost()), (5, 3, 0));
}

/// What the feed says of a round of ana's.
fn told(pruned: Pruned) -> Happening {
    let Pruned { done, dead, cancelled, incidents, replays, events } = pruned;
    Happening::Pruned { done, dead, cancelled, incidents, replays, events, by: "ana".to_owned() }
}

/// An incident of the first day that nobody but a person ends.
fn opened(number: u64) -> Incident {
    let opening = Opening {
        id: format!("INC-{number}"),
        trigger: Trigger::CeoDown,
        subject: "ceo".to_owned(),
        deaths: Vec::new(),
        why: String::new(),
        runbook: None,
        in_doubt: Vec::new(),
    };
    incident::open(opening, &Rules::default(), at(0)).incident
}

/// One that was over on the second day, and its end as written for ana.
fn over(number: u64) -> (Incident, Page) {
    let resolve = IncidentCommand::Resolve { by: "ana".to_owned(), note: String::new() };
    let change = incident::apply(&opened(number), resolve, &Rules::default(), at(DAY)).expect("it was open");
    let steps = [vec!["ana/email".to_owned()]];
    let page = outbox::pages(&change.incident, &change.pages[0], "test", &steps, at(DAY)).remove(0);
    (change.incident, page)
}

/// A replay of the first day that found nothing to replay.
fn replayed(number: u64) -> Document {
    let id = format!("RPL-{number}");
    let (replay, _) = replay::start(id.clone(), everything(), Plan::default(), at(0)).expect("sound");
    document("replay", &id, 0, json!(replay))
}

fn everything() -> ReplayAsk {
    ReplayAsk { all: true, ..ReplayAsk::new(Filter::default(), "ana", "fixed") }
}

fn filed(incident: &Incident) -> Document {
    document("incident", &incident.id, 0, json!(incident))
}

async fn names(engine: &dyn Engine, kind: &'static str) -> Vec<String> {
    engine.documents(kind).await.expect("read").into_iter().map(|document| document.key).collect()
}

/// Incidents that were over, the pages they had sent, and replays that had ended stayed in the record for ever, and were read at
/// each start and each look. The last of each stays, for the next is numbered after it: one of the same name would have the key
/// of one that is forgotten.
#[tokio::test(start_paused = true)]
async fn incidents_and_replays_that_are_over_are_forgotten_and_their_numbers_are_not_given_again() {
    let (engine, now) = (Arc::new(Memory::new()), at(400 * DAY));
    let ((gone, sent), (needed, waits), (last, _)) = (over(2), over(3), over(4));
    let sent = Page { delivered_at: Some(at(DAY)), ..sent };
    let pages = [&sent, &waits].map(|page| document("page", &page.id, 0, json!(page)));
    let incidents = [&opened(1), &gone, &needed, &last].map(filed);
    let stored = [&incidents[..], &pages, &[replayed(1), replayed(2)]].concat();
    engine.save(stored, Vec::new(), at(DAY)).await.expect("saved");
    let left = async || {
        let kinds = [names(&*engine, "incident").await, names(&*engine, "page").await, names(&*engine, "replay").await];
        kinds.concat()
    };
    let before = left().await;
    let young = round(&*engine, Retention::default(), 0, false, "ana", at(90 * DAY)).await.expect("looked");
    assert_eq!((young.pruned.incidents, young.pruned.replays), (0, 1), "the replay is a day older");
    engine.save(vec![replayed(1)], Vec::new(), at(90 * DAY)).await.expect("as before");

    let dry = round(&*engine, Retention::default(), 0, true, "ana", now).await.expect("looked");
    assert_eq!((dry.pruned.incidents, dry.pruned.replays, dry.next), (1, 1, None));
    assert_eq!(left().await, before, "looking changes nothing");
    let went = round(&*engine, Retention::default(), 0, false, "ana", now).await.expect("forgotten");
    assert_eq!((went.pruned.incidents, went.pruned.replays, went.next), (1, 1, None), "as the dry run said");
    let kept = ["INC-1", "INC-3", "INC-4", &waits.id, "RPL-2"];
    assert_eq!(left().await, kept, "open, with a page to be sent, the last, that page, the last");
    let event = engine.events(0, 99).await.expect("read").pop().expect("an event");
    assert_eq!(event.what, told(went.pruned));
    let again = round(&*engine, Retention::default(), 0, false, "ana", now).await.expect("looked");
    assert_eq!((again.pruned, again.next), (Pruned::default(), None), "once");

    let shared: Arc<dyn Engine> = engine.clone();
    let team = Team::builder(crate::team::config())
        .engine(shared)
        .provider(Simulated::new(integration("primary"), |_, _| status(400, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("not asked")))
        .clock(Clock::starting_at(now, 1.0))
        .start()
        .await
        .expect("a team");
    assert_eq!(team.desk().start_replay(everything()).await.expect("begun").id, "RPL-3");
    let mut feed = engine.watch();
    let task = NewTask::new(TaskType::new("code_review").expect("a name"), json!({}));
    team.desk().submit(task).await.expect("accepted");
    while names(&*engine, "incident").await.len() < 4 {
        feed.changed().await.expect("the engine is open");
    }
    assert_eq!(names(&*engine, "incident").await, ["INC-1", "INC-3", "INC-4", "INC-5"]);
    team.drain(Duration::from_secs(1)).await.expect("closed");
}

/// Nine hundred taken out at once would have everybody else wait for it.
#[tokio::test]
async fn many_incidents_are_forgotten_few_at_a_time() {
    let engine = Memory::new();
    let stored = (1..=900).map(|number| filed(&over(number).0)).collect();
    engine.save(stored, Vec::new(), at(DAY)).await.expect("saved");
    let before = engine.saves().expect("they are counted");
    let (mut gone, mut rounds, mut next) = (0, 0, Some(0));
    while let Some(after) = next {
        let went = round(&engine, Retention::default(), after, false, "ana", at(400 * DAY)).await.expect("forgotten");
        (gone, rounds, next) = (gone + went.pruned.incidents, rounds + 1, went.next);
    }
    let saves = engine.saves().expect("they are counted") - before;
    assert_eq!((gone, rounds, saves), (899, 3, 45), "twenty in each save, twenty saves in each round");
    assert_eq!(names(&engine, "incident").await, ["INC-900"]);
}

#[tokio::test(start_paused = true)]
async fn a_team_forgets_by_the_hour_what_its_configuration_keeps_no_longer() {
    for (retention, expected, stays) in [(Retention::default(), 2, false), (Retention::FOR_EVER, 0, true)] {
        let engine = Arc::new(Memory::new());
        worked(&*engine, 3).await;
        engine.save([1, 2].map(|number| filed(&over(number).0)).to_vec(), Vec::new(), at(DAY)).await.expect("saved");
        let is_there = async || names(&*engine, "incident").await.contains(&"INC-1".to_owned());
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
            while is_there().await {
                feed.changed().await.expect("the engine is open");
            }
            keeping.abort();
        }
        assert_eq!(engine.balance().await.expect("read").pruned, expected);
        assert_eq!(is_there().await, stays);
        team.drain(Duration::from_secs(1)).await.expect("closed");
    }
}

/// `backstop prune` of a stopped team: how it ended, what it told as JSON, and in words.
fn by_hand(scratch: &Scratch, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(["prune", "--json", "--data"]).arg(scratch.path()).args(arguments).env_clear().stdin(Stdio::null());
    let output = command.output().expect("the binary runs");
    let words = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), words)
}

/// `prune` of a team that was stopped left every incident and every replay it ever had.
#[tokio::test]
async fn incidents_and_replays_of_a_stopped_team_are_forgotten_by_hand() {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let (gone, sent) = over(1);
    let sent = Page { delivered_at: Some(at(DAY)), ..sent };
    let page = document("page", &sent.id, 0, json!(sent));
    let stored = vec![filed(&gone), page, filed(&over(2).0), replayed(1), replayed(2)];
    engine.save(stored, vec![Happening::Draining { running: 0 }.into()], at(DAY)).await.expect("saved");
    engine.close().await.expect("closed");
    drop(engine);
    let run = |arguments: &[&str]| by_hand(&scratch, &[&["--older-than", "60d"][..], arguments].concat());
    let counts = |told: &Value| (told["done"].as_u64(), told["incidents"].as_u64(), told["replays"].as_u64());
    let (code, told, words) = run(&["--dry-run"]);
    assert_eq!((code, counts(&told)), (Some(0), (Some(0), Some(1), Some(1))), "{words}");
    let (code, _, words) = run(&[]);
    assert_eq!(code, Some(2), "nobody is there to confirm it: {words}");
    assert!(words.contains("forget 2 tasks, incidents and replays"), "{words}");
    let (code, told, words) = run(&["--yes"]);
    assert_eq!((code, counts(&told)), (Some(0), (Some(0), Some(1), Some(1))), "{words}");
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    assert_eq!(names(&engine, "incident").await, ["INC-2"], "the next is numbered after it");
    assert_eq!(names(&engine, "page").await, Vec::<String>::new());
    assert_eq!(names(&engine, "replay").await, ["RPL-2"], "the next is numbered after it");
    // What it told the feed was taken for the team's last sign of life: what had been held since then had waited for days.
    let gone = engine.documents("absences").await.expect("read").remove(0).body;
    assert_eq!(gone[0][0], json!(at(DAY)), "{gone}");
}

#[tokio::test]
async fn the_record_of_a_stopped_team_is_pruned_by_hand() {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let ids = worked(&engine, 4).await;
    let run = |arguments: &[&str]| by_hand(&scratch, arguments);
    let (code, _, words) = run(&["--older-than", "7d", "--dry-run"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("is in use by another backstop process"), "{words}");
    engine.close().await.expect("closed");
    drop(engine);
    let (code, told, _) = run(&["--older-than", "7d", "--dry-run"]);
    let expected =
        json!({ "done": 3, "dead": 0, "cancelled": 0, "incidents": 0, "replays": 0, "events": 0, "dry_run": true });
    assert_eq!((code, told), (Some(0), expected));
    let (code, _, words) = run(&["--older-than", "7d"]);
    assert_eq!(code, Some(2), "nobody is there to confirm it: {words}");
    let (code, told, words) = run(&["--older-than", "7d", "--compact", "--yes"]);
    assert_eq!((code, &told["done"], &told["events"]), (Some(0), &json!(3), &json!(9)), "{words}");
    assert!(told["bytes_after"].as_u64() <= told["bytes_before"].as_u64(), "{told}");
    let (_, told, _) = run(&["--older-than", "7d", "--yes"]);
    assert_eq!(told["done"], json!(0), "once");
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    assert_eq!(left(&engine).await, ids[3..], "the dead letter waits for a person");
    let (code, _, words) = run(&["--older-than", "1h"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("too short"), "{words}");
}

/// A stopped team that kept everything for ever had the file written anew, and lost its history: without a span the default
/// of a running team was taken, whatever `retention` in its backstop.yaml said.
#[tokio::test]
async fn nothing_of_a_stopped_team_is_forgotten_without_a_span() {
    let scratch = Scratch::new();
    done_and_closed(&scratch, 3).await;
    let dir = scratch.path().display().to_string();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["prune", "--data", &dir]).args(arguments).env_clear().stdin(Stdio::null());
        let output = command.output().expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    for (arguments, ends, says) in [
        (&[][..], 2, "give --older-than"),
        (&["--yes"], 2, "give --older-than"),
        (&["--dry-run"], 2, "give --older-than"),
        (&["--compact", "--yes"], 0, "nothing was forgotten"),
        (&["--compact"], 0, "nothing was forgotten"),
    ] {
        let (code, words) = run(arguments);
        assert_eq!(code, Some(ends), "{arguments:?}: {words}");
        assert!(words.contains(says), "{arguments:?}: {words}");
        let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
        let balance = engine.balance().await.expect("read");
        assert_eq!((balance.done, balance.pruned), (3, 0), "{arguments:?}");
        engine.close().await.expect("closed");
    }
}

/// So many tasks, done, in a store that is closed.
async fn done_and_closed(scratch: &Scratch, tasks: u64) {
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let all = (0..tasks).map(|n| engine.submit(task(n, at(0)), integration("anthropic"), at(0)));
    join_all(all).await.into_iter().for_each(|answer| drop(answer.expect("accepted")));
    let claimed = engine.lease(ask(1, u32::try_from(tasks).expect("few")), at(0)).await.expect("leased");
    let all = claimed.iter().map(|record| engine.command(record.task.id, settle(record.fence, ack()), at(0)));
    join_all(all).await.into_iter().for_each(|answer| drop(answer.expect("settled")));
    engine.close().await.expect("closed");
}

/// A submission beside it waited 143 ms for a commit that wrote all the log at once.
#[tokio::test]
async fn forgetting_much_keeps_the_log_short() {
    let (day, tasks) = (Retention::older_than(Duration::from_secs(DAY.unsigned_abs())), 4_000);
    let scratch = Scratch::new();
    done_and_closed(&scratch, tasks).await;
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let pruned = prune(&engine, day, &[], false, at(2 * DAY)).await;
    assert_eq!(pruned.done, tasks);
    let pages = log_pages(&engine);
    assert!(pages < 1_000, "{pages} pages of log");
}

fn log_pages(engine: &Embedded) -> u64 {
    std::fs::metadata(engine.path().with_extension("db-wal")).expect("a log").len() / 4_096
}

/// What is read from cannot be written into the file: the log waits for the reader, and nobody else does.
#[tokio::test]
async fn who_reads_for_long_holds_up_no_forgetting() {
    let (day, tasks) = (Retention::older_than(Duration::from_secs(DAY.unsigned_abs())), 4_000);
    let scratch = Scratch::new();
    done_and_closed(&scratch, tasks).await;
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let reader = Connection::open(engine.path()).expect("a file");
    let count = || reader.query_row("SELECT count(*) FROM task", [], |row| row.get::<_, u64>(0)).expect("read");
    reader.execute_batch("BEGIN").expect("a moment");
    assert_eq!(count(), tasks);
    let pruned = prune(&engine, day, &[], false, at(2 * DAY)).await;
    assert_eq!((pruned.done, count()), (tasks, tasks), "all are gone, but not from what it looks at");
    let held = log_pages(&engine);
    reader.execute_batch("COMMIT").expect("it ends");
    assert_eq!(count(), 0);
    assert!(held > 1_500, "{held} pages of log: it was held up");
}

/// A task goes whole, however much hangs on it, and what is accepted beside it is accepted.
#[tokio::test]
async fn what_is_accepted_while_long_tasks_are_forgotten_stays() {
    let scratch = Scratch::new();
    done_and_closed(&scratch, 300).await;
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let old = engine.records(Filter::default(), PageAsk { limit: 3, ..PageAsk::default() }).await.expect("read").items;
    for record in &old {
        let told =
            || Happening::GateClosed { integration: integration("a"), until: at(9), asked: "a while".to_owned() };
        let events = (0..700).map(|_| NewEvent { task: Some(record.task.id), what: told() }).collect();
        engine.publish(events, at(0)).await.expect("told");
    }
    let day = Retention::older_than(Duration::from_secs(DAY.unsigned_abs()));
    let later = at(2 * DAY);
    let new = async {
        for n in 1_000..1_200 {
            engine.submit(task(n, later), integration("anthropic"), later).await.expect("accepted");
        }
    };
    let (pruned, ()) = tokio::join!(prune(&engine, day, &[], false, later), new);
    assert_eq!((pruned.done, pruned.events >= 2_100), (300, true), "{pruned:?}");
    let balance = engine.balance().await.expect("read");
    assert_eq!((balance.submitted, balance.pruned, balance.lost()), (500, 300, 0));
    assert!(engine.history(old[0].task.id).await.expect("read").is_empty());
    let of_type = Filter { task_type: Some(old[0].task.task_type.clone()), ..Filter::default() };
    let first = PageAsk { limit: 1, oldest_first: true, after: None };
    let found = engine.records(of_type, first).await.expect("read").items;
    assert_eq!(found[0].task.created_at, later, "the first of its type is a new one");
}
