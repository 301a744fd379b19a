//! Engines keep their contract, and the durable one keeps its word through crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use backstop::delivery::{Hold, Settlement};
use backstop::engine::conformance::{self, Site, ack, agent, ask, at, dead, failure, integration, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::memory::Memory;
use backstop::engine::{Document, Engine, Error};
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::hint;
use backstop::ledger::Command;
use backstop::query::{Filter, PageAsk};
use backstop::record::{LetterStatus, Record, Seen, State};
use backstop::retention::Retention;
use backstop::task::{Effect, Priority, Task, TaskId, TaskType};
use backstop::time::Timestamp;
use backstop::triage::{Decided, DeciderKind, Decision};
use futures_util::future::join_all;
use proptest::prelude::{ProptestConfig, Strategy, any, proptest};
use proptest::test_runner::FileFailurePersistence;
use rusqlite::Connection;
use serde_json::json;

/// A directory of its own, gone when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("backstop-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A memory engine that survives "restarts" of the process.
#[derive(Default)]
pub(crate) struct InMemory(Option<Arc<Memory>>);

impl Site for InMemory {
    fn open(&mut self, _now: Timestamp) -> Arc<dyn Engine> {
        let engine = Arc::new(self.0.take().map_or_else(Memory::new, |before| before.reopened()));
        self.0 = Some(Arc::clone(&engine));
        engine
    }
}

/// The embedded engine in a directory of its own.
pub(crate) struct OnDisk(Scratch);

impl OnDisk {
    pub(crate) fn new() -> Self {
        Self(Scratch::new())
    }
}

impl Site for OnDisk {
    fn open(&mut self, now: Timestamp) -> Arc<dyn Engine> {
        Arc::new(Embedded::open(self.0.path(), now).expect("the store opens"))
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    assert_eq!(conformance::check(InMemory::default).await.len(), 15);
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    assert_eq!(conformance::check(OnDisk::new).await.len(), 15);
}

/// Where the child of a crash test works, and what it does there.
const CRASH_DIR: &str = "BACKSTOP_TEST_CRASH_DIR";

/// The child of the crash tests: works until it is killed. Without its directory it is no test at all.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else { return };
    let engine: Arc<dyn Engine> = Arc::new(Embedded::open(Path::new(&dir), at(0)).expect("the store opens"));
    println!("@@ epoch {}", engine.epoch());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let next = Arc::new(AtomicU64::new(engine.epoch() << 32));
    let workers: Vec<_> = (0..16).map(|_| runtime.spawn(work(Arc::clone(&engine), Arc::clone(&next)))).collect();
    runtime.block_on(async {
        for worker in workers {
            worker.await.expect("works until it is killed");
        }
    });
}

/// Says what was acknowledged, after it was.
async fn work(engine: Arc<dyn Engine>, next: Arc<AtomicU64>) {
    loop {
        let new = task(next.fetch_add(1, Ordering::Relaxed), at(0));
        let id = engine.submit(new, integration("anthropic"), at(0)).await.expect("accepted").record.task.id;
        println!("@@ submitted {id}");
        for record in engine.lease(ask(1, 1), at(0)).await.expect("leased") {
            println!("@@ claimed {}", record.task.id);
            if record.task.payload["n"].as_u64().expect("a number") % 3 > 0 {
                engine.command(record.task.id, settle(record.fence, ack()), at(1)).await.expect("settled");
                println!("@@ done {}", record.task.id);
            }
        }
    }
}

fn crash_here(dir: &Path) -> Child {
    Process::new(std::env::current_exe().expect("this program"))
        .args(["engine::crash_child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CRASH_DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

/// Kills it once it has said so many lines, and gives back all that it said.
fn kill_after(mut child: Child, lines: usize) -> Vec<(String, TaskId)> {
    let mut out = child.stdout.take().expect("its output");
    let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
    while said.iter().filter(|byte| **byte == b'\n').count() < lines {
        let count = out.read(&mut chunk).expect("its output");
        assert!(count > 0, "it ended by itself: {}", String::from_utf8_lossy(&said));
        said.extend(&chunk[..count]);
    }
    child.kill().expect("killed");
    out.read_to_end(&mut said).expect("its last words");
    child.wait().expect("it is gone");
    let said = String::from_utf8(said).expect("text");
    let whole = said.rsplit_once('\n').expect("lines").0;
    let words = whole.lines().filter_map(|line| line.split_once("@@ ")?.1.split_once(' '));
    words.filter_map(|(what, id)| Some((what.to_owned(), id.parse().ok()?))).collect()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let scratch = Scratch::new();
    let mut acknowledged: BTreeMap<TaskId, State> = BTreeMap::new();
    for round in 1..=5_u64 {
        for (what, id) in kill_after(crash_here(scratch.path()), 40 + 173 * usize::try_from(round).expect("few")) {
            let state = match what.as_str() {
                "submitted" => State::Ready,
                "claimed" => State::Running,
                "done" => State::Done,
                other => panic!("what is {other}?"),
            };
            let known = acknowledged.entry(id).or_insert(state);
            *known = (*known).max(state);
        }
        let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
        assert_eq!(engine.epoch(), 2 * round, "every start is an epoch");
        for (id, state) in &acknowledged {
            let record = engine.record(*id).await.expect("read").unwrap_or_else(|| panic!("{id} is lost"));
            assert!(record.state >= *state, "{id} was acknowledged as {state} and is {}", record.state);
            assert_eq!(record.attempts.len(), usize::from(record.state != State::Ready), "one delivery each");
        }
        let balance = engine.balance().await.expect("read");
        assert_eq!(balance.lost(), 0);
        let lapsed = engine.lapsed(at(0), u32::MAX).await.expect("read");
        assert_eq!(lapsed.len() as u64, balance.running, "every lease of the dead process is void at once");
        let events = engine.events(0, u32::MAX).await.expect("read");
        assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "events have no gaps");
        let submitted: BTreeSet<_> = events.iter().filter_map(|event| event.task).collect();
        assert_eq!(submitted.len() as u64, balance.submitted, "every task has its events");
    }
    assert!(acknowledged.values().any(|state| *state == State::Done), "the children did work");
}

#[tokio::test]
async fn killed_while_it_is_created_it_is_created_again() {
    for moment in ["lock", "backstop.db.new", "backstop.db.new-journal", "backstop.db", "backstop.db-wal"] {
        let scratch = Scratch::new();
        let mut child = crash_here(scratch.path());
        while !scratch.path().join(moment).exists() && !scratch.path().join("backstop.db-wal").exists() {
            assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
            std::thread::yield_now();
        }
        child.kill().expect("killed");
        child.wait().expect("it is gone");
        let engine =
            Embedded::open(scratch.path(), at(0)).unwrap_or_else(|error| panic!("killed at {moment}: {error}"));
        assert_eq!(engine.balance().await.expect("read").lost(), 0);
        engine.submit(task(1, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
    }
}

#[tokio::test]
async fn leftovers_of_an_unfinished_creation_are_cleared_away() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("backstop.db.new"), "half a file").expect("written");
    std::fs::write(scratch.path().join("backstop.db.new-journal"), "half a journal").expect("written");
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    assert_eq!(engine.epoch(), 1);
    assert!(!scratch.path().join("backstop.db.new").exists());
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_has_it() {
    let scratch = Scratch::new();
    let child = crash_here(scratch.path());
    let mut child = child;
    let mut first = [0; 1];
    // Its first word comes from the test harness, its store is open when it says its epoch.
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("@@ epoch") {
        child.stdout.as_mut().expect("its output").read_exact(&mut first).expect("its output");
        said.extend(first);
    }
    let refused = Embedded::open(scratch.path(), at(0)).expect_err("it is in use");
    let told = refused.to_string();
    assert!(matches!(refused, Error::InUse { pid: Some(pid), .. } if pid == child.id()), "{told}");
    assert!(told.contains("is in use by another backstop process (pid"), "{told}");
    child.kill().expect("killed");
    child.wait().expect("it is gone");
    Embedded::open(scratch.path(), at(0)).expect("free again");
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let send = |n| engine.submit(Task { payload: json!("x".repeat(9_000)), ..task(n, at(0)) }, integration("a"), at(0));
    let mut accepted = vec![send(0).await.expect("accepted").record];
    engine.limit_pages(150);
    let mut n = 1;
    let refused = loop {
        match send(n).await {
            Ok(submitted) => accepted.push(submitted.record),
            Err(refused) => break refused,
        }
        n += 1;
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(accepted.len() > 2, "some fitted");
    assert!(send(n + 1).await.is_err(), "still full");
    let trouble = engine.write_trouble();
    assert!(trouble.borrow().as_deref().is_some_and(|why| why.contains("no room is left")), "{trouble:?}");
    engine.next_due(at(0)).await.expect("asked");
    assert!(trouble.borrow().is_some(), "who only asked has not shown that anything can be written");
    assert_eq!(engine.balance().await.expect("reading goes on").submitted, accepted.len() as u64);
    engine.limit_pages(0);
    accepted.push(send(n + 2).await.expect("room again").record);
    assert!(trouble.borrow().is_none());
    let claimed = engine.lease(ask(1, 1_000), at(0)).await.expect("leased");
    assert_eq!(claimed.len(), accepted.len(), "the queue holds what was accepted and nothing else");
    drop(engine);
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    for record in &accepted {
        assert!(engine.record(record.task.id).await.expect("read").is_some(), "{} is lost", record.task.id);
    }
    assert_eq!(engine.balance().await.expect("read").submitted, accepted.len() as u64);
}

/// What format 4 brought, taken back.
const BACK_TO_3: &str = "DROP TABLE depth; DROP TABLE pruned; DROP INDEX event_team; DROP INDEX task_over;
    DROP INDEX task_failed; DROP INDEX letter_agent; DROP INDEX letter_type; DROP INDEX letter_class;
    DROP INDEX letter_kind; DROP INDEX letter_status; DELETE FROM meta WHERE key LIKE 'last_%';
    PRAGMA user_version=3;";

#[tokio::test]
async fn a_store_of_format_1_is_brought_to_ours() {
    brought_to_ours(
        "DROP TABLE step; DROP VIEW steps; DROP TABLE failure_hour; DROP VIEW tasks; DROP VIEW dlq;
         PRAGMA user_version=1;",
    )
    .await;
}

#[tokio::test]
async fn a_store_of_format_2_is_brought_to_ours() {
    brought_to_ours("DROP TABLE step; DROP VIEW steps; PRAGMA user_version=2;").await;
}

#[tokio::test]
async fn a_store_of_format_3_is_brought_to_ours() {
    brought_to_ours("").await;
}

/// The bytes that hold something, as SQLite tells them.
fn bytes(path: &Path) -> u64 {
    let file = Connection::open(path).expect("a file");
    let number = |pragma| file.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0)).expect("a number");
    (number("page_count") - number("freelist_count")) * number("page_size")
}

#[tokio::test]
async fn a_record_that_is_too_large_forgets_the_oldest_first_and_uses_its_room_again() {
    let scratch = Scratch::new();
    let day = 24 * 3_600;
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    let work = async |from: u64, now: Timestamp| {
        let new = |n| Task { payload: json!("x".repeat(1_000)), ..task(n, now) };
        let all = (from..from + 2_500).map(|n| engine.submit(new(n), integration("anthropic"), now));
        join_all(all).await.into_iter().for_each(|answer| drop(answer.expect("accepted")));
        let claimed = engine.lease(ask(1, 2_500), now).await.expect("leased");
        let all = claimed.iter().map(|record| engine.command(record.task.id, settle(record.fence, ack()), now));
        join_all(all).await.into_iter().for_each(|answer| drop(answer.expect("settled")));
    };
    work(0, at(0)).await;
    let size_max = bytes(&engine.path());
    work(10_000, at(60)).await;
    let bound = Retention { size_max: Some(size_max), ..Retention::FOR_EVER };
    let dry = conformance::prune(&engine, bound, &[], true, at(2 * day)).await;
    assert_eq!(dry.tasks(), 0, "a dry run frees nothing, so it cannot tell when enough has gone");
    let early = conformance::prune(&engine, bound, &[], false, at(day - 1)).await;
    assert_eq!(early.tasks(), 0, "nothing goes within a day, however large");
    let pruned = conformance::prune(&engine, bound, &[], false, at(2 * day)).await;
    assert!((2_000..=4_000).contains(&pruned.done), "{pruned:?}: as much as presses, and not all");
    let newest = PageAsk { limit: 1, ..PageAsk::default() };
    let left = engine.records(Filter::default(), newest).await.expect("read").items;
    assert_eq!(left[0].task.payload, json!("x".repeat(1_000)), "the youngest stay");
    assert!(bytes(&engine.path()) <= size_max);
    let path = engine.path();
    let pages = || {
        let file = Connection::open(&path).expect("a file");
        file.pragma_query_value(None, "page_count", |row| row.get::<_, u64>(0)).expect("a number")
    };
    let grown = pages();
    work(20_000, at(2 * day)).await;
    assert!(pages() < grown + grown / 10, "{} pages before, {} after: room is used again", grown, pages());
    conformance::prune(&engine, Retention::older_than(Duration::ZERO), &[], false, at(9 * day)).await;
    engine.close().await.expect("closed");
    drop(engine);
    let (before, after) = Embedded::compact(scratch.path()).expect("written anew");
    assert!(after < before / 4, "{before} bytes before, {after} after");
    let engine = Embedded::open(scratch.path(), at(9 * day)).expect("the store opens");
    let balance = engine.balance().await.expect("read");
    assert_eq!((balance.submitted, balance.pruned, balance.lost()), (7_500, 7_500, 0));
}

/// A listing that looks at every task is one the team cannot ask for at every turn: the dispatcher's took 176 ms among a
/// million.
#[test]
fn what_is_rare_is_found_by_an_index() {
    let scratch = Scratch::new();
    drop(Embedded::open(scratch.path(), at(0)).expect("the store opens"));
    let file = Connection::open(scratch.path().join("backstop.db")).expect("a file");
    // As the store's own connections are: no plan depends on what is bound.
    file.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).expect("taken");
    let plan = |sql: &str| -> String {
        let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a plan");
        let rows = plan.query_map([51], |row| row.get::<_, String>(3)).expect("a plan");
        rows.map(|row| row.expect("a row")).collect::<Vec<_>>().join("; ")
    };
    let tasks = |words: &str| plan(&format!("SELECT seq FROM task WHERE {words} ORDER BY seq DESC LIMIT ?"));
    let letters =
        |words: &str| plan(&format!("SELECT at FROM letter WHERE {words} ORDER BY at DESC, seq DESC LIMIT ?"));
    for (plan, index) in [
        (tasks("state IN ('ready') AND state IN ('ready', 'scheduled', 'parked')"), "task_waiting"),
        (tasks("state IN ('dead') AND state IN ('dead', 'waiting-human', 'cancelled')"), "task_over"),
        (tasks("+agent = 'cto' AND +class = 'logic' AND instr(folded, 'x') > 0 AND kind IS NOT NULL"), "task_failed"),
        (letters("kind = 'loop' AND +status = 'open' AND at > 5"), "letter_kind"),
        (letters("status = 'open'"), "letter_status"),
    ] {
        assert!(plan.contains(index), "{index}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{index}: in order already: {plan}");
    }
}

async fn brought_to_ours(back: &str) {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    for n in 0..3 {
        engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        let now = at(4_000 * i64::try_from(n).expect("few"));
        let claimed = engine.lease(ask(1, 1), now).await.expect("leased").remove(0);
        let fate = dead(failure(Class::Transient, Kind::Overloaded, "busy"));
        engine.command(claimed.task.id, settle(claimed.fence, fate), now).await.expect("settled");
    }
    let (rates, path) = (engine.failure_rates(at(3_000)).await.expect("read"), engine.path());
    let (balance, depths) = (engine.balance().await.expect("read"), engine.depths().await.expect("read"));
    drop(engine);
    let file = Connection::open(&path).expect("a file");
    file.execute_batch(BACK_TO_3).expect("back");
    file.execute_batch(back).expect("back");
    drop(file);
    let engine = Embedded::open(scratch.path(), at(0)).expect("the store opens");
    assert_eq!(rates[0].failures, 2);
    assert_eq!(engine.balance().await.expect("read"), balance);
    assert_eq!(engine.depths().await.expect("read"), depths);
    assert_eq!(engine.failure_rates(at(3_000)).await.expect("read"), rates);
    let file = Connection::open(&path).expect("a file");
    let shown = |sql| file.query_row(sql, [], |row| row.get::<_, String>(0)).expect("a view");
    assert_eq!(
        shown("SELECT group_concat(kind || ' ' || message || ' ' || why, ';') FROM (SELECT * FROM dlq LIMIT 1)"),
        "overloaded busy 3 of 3 deliveries used"
    );
    assert_eq!(
        shown("SELECT group_concat(state || ' ' || attempt || ' ' || payload, ';') FROM (SELECT * FROM tasks LIMIT 1)"),
        "dead 1 {\"n\":0}"
    );
}

#[test]
fn a_file_that_is_not_our_store_is_refused() {
    let opened = |write: &dyn Fn(&Path)| {
        let scratch = Scratch::new();
        write(&scratch.path().join("backstop.db"));
        Embedded::open(scratch.path(), at(0)).expect_err("refused")
    };
    let newer = opened(&|path| {
        drop(Embedded::open(path.parent().expect("a directory"), at(0)).expect("the store opens"));
        let file = Connection::open(path).expect("a file");
        file.pragma_update(None, "user_version", 99).expect("written");
    });
    assert!(matches!(newer, Error::NewerFormat { found: 99, known: 4, .. }), "{newer}");
    let garbage = opened(&|path| std::fs::write(path, "not a database, however long ".repeat(99)).expect("written"));
    assert!(matches!(garbage, Error::NotAStore { .. }), "{garbage}");
    let foreign = opened(&|path| {
        Connection::open(path).expect("a file").execute_batch("CREATE TABLE x (y)").expect("written");
    });
    assert!(matches!(foreign, Error::NotAStore { .. }), "{foreign}");
}

/// One thing done to both engines, made of three dice.
async fn do_one(engine: &dyn Engine, n: u64, (what, which, how): (u8, u8, u8), now: Timestamp) -> Option<String> {
    let kinds = [Kind::Overloaded, Kind::Timeout, Kind::Loop];
    let classes = [Class::Transient, Class::Infrastructure, Class::Logic];
    let pick = usize::from(how) % 3;
    let mut failure = failure(classes[pick], kinds[usize::from(how / 3) % 3], ["Busy", "TIME is up", "100% ä_Ö"][pick]);
    failure.integration = (how % 2 == 0).then(|| integration("openai"));
    let answer = match what % 5 {
        0 | 1 => {
            let new = Task {
                agent: agent(["cto", "cso"][usize::from(which % 2)]),
                task_type: TaskType::new(["code_review", "audit"][usize::from(which / 2 % 2)]).expect("a name"),
                effect: Effect::ALL[usize::from(how % 4)],
                priority: Priority::ALL[pick],
                tenant: (how % 5 == 0).then(|| "blue".to_owned()),
                deadline: (how % 7 == 0).then(|| now + Duration::from_secs(5)),
                ..task(n, now)
            };
            format!("{:?}", engine.submit(new, integration("anthropic"), now).await)
        }
        2 => format!("{:?}", engine.lease(ask(1, 1 + u32::from(which % 3)), now).await),
        _ => {
            let all = PageAsk { limit: 1_000, oldest_first: true, after: None };
            let tasks = engine.records(Filter::default(), all).await.expect("read").items;
            let record = tasks.get(usize::from(which) % tasks.len().max(1))?;
            let command = command_on(record, how, failure, now);
            format!("{:?}", engine.command(record.task.id, command, now).await)
        }
    };
    Some(answer)
}

fn command_on(record: &Record, how: u8, failure: backstop::failure::Failure, now: Timestamp) -> Command {
    match (record.state, how % 4) {
        (State::Running, 0) => settle(record.fence, ack()),
        (State::Running, 1) => settle(record.fence, dead(failure)),
        (State::Running, 2) => settle(record.fence, Settlement::Retry { due: now, failure, amendment: None }),
        (State::Running, _) => {
            settle(record.fence, Settlement::Release { due: now, why: Hold::Gate, failure: Some(failure) })
        }
        (State::Dead | State::WaitingHuman, 0 | 1) => {
            let decided = Decided {
                number: 0,
                generation: record.generation,
                decision: if how.is_multiple_of(4) {
                    Decision::PageHuman { why: "look".to_owned() }
                } else {
                    Decision::Reassign { agent: agent("cto"), amendment: "again".to_owned() }
                },
                by: DeciderKind::Human,
                who: None,
                at: now,
                reasons: Vec::new(),
                rejected: Vec::new(),
            };
            Command::Decide { decided, seen: None, integration: integration("openai") }
        }
        (State::Dead | State::WaitingHuman, _) => Command::Replay {
            by: "a person".to_owned(),
            named_by_person: true,
            reason: "fixed".to_owned(),
            amendment: None,
        },
        (_, 0) => Command::Cancel { by: "a person".to_owned(), reason: "no".to_owned() },
        (_, _) => Command::Park { seen: Seen::of(record), until: now + Duration::from_secs(3), why: Hold::Gate },
    }
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let some = |max: u8| proptest::option::weighted(0.25, 0..max);
    let words = (some(2), some(3), some(3), some(3), some(3), some(4), some(3), some(4));
    (words, some(5), some(8), some(30), some(30)).prop_map(|(words, status, state, since, until)| {
        let (agent_name, task_type, class, kind, of, effect, priority, text) = words;
        let at_index = usize::from;
        Filter {
            agent: agent_name.map(|n| agent(["cto", "cso"][at_index(n)])),
            task_type: task_type
                .map(|n| TaskType::new(["code_review", "audit", "nobody_s"][at_index(n)]).expect("a name")),
            class: class.map(|n| [Class::Transient, Class::Infrastructure, Class::Logic][at_index(n)]),
            kind: kind.map(|n| [Kind::Overloaded, Kind::Timeout, Kind::Loop][at_index(n)]),
            integration: of.map(|n| integration(["anthropic", "openai", "gemini"][at_index(n)])),
            effect: effect.map(|n| Effect::ALL[at_index(n)]),
            priority: priority.map(|n| Priority::ALL[at_index(n)]),
            text: text.map(|n| ["busy", "%", "Ä_ö", ""][at_index(n)].to_owned()),
            due_by: None,
            status: status.map(|n| LetterStatus::ALL[at_index(n)]).into_iter().collect(),
            states: state.map(|n| State::ALL[at_index(n)]).into_iter().collect(),
            since: since.map(|n| at(n.into())),
            until: until.map(|n| at(n.into())),
            ids: Vec::new(),
        }
    })
}

async fn agree(steps: Vec<(u8, u8, u8)>, filters: Vec<Filter>) {
    let (mut disk, memory) = (OnDisk::new(), Memory::new());
    let on_disk = disk.open(at(0));
    for (n, step) in (0..).zip(steps) {
        let now = at(i64::try_from(n).expect("few"));
        assert_eq!(do_one(&memory, n, step, now).await, do_one(&*on_disk, n, step, now).await, "{step:?}");
    }
    list_alike(&memory, &*on_disk, &filters).await;
    for seconds in [0, 7, 30] {
        let now = at(seconds);
        assert_eq!(memory.deaths(now).await.expect("read"), on_disk.deaths(now).await.expect("read"));
        assert_eq!(memory.failure_rates(now).await.expect("read"), on_disk.failure_rates(now).await.expect("read"));
        assert_eq!(memory.next_due(now).await.expect("read"), on_disk.next_due(now).await.expect("read"));
        assert_eq!(memory.overdue(now, 9).await.expect("read"), on_disk.overdue(now, 9).await.expect("read"));
        assert_eq!(memory.lapsed(now, 9).await.expect("read"), on_disk.lapsed(now, 9).await.expect("read"));
    }
    assert_eq!(memory.balance().await.expect("read"), on_disk.balance().await.expect("read"));
    assert_eq!(memory.depths().await.expect("read"), on_disk.depths().await.expect("read"));
    // Then most of it is forgotten, by both alike.
    let (week, day) = (at(7 * 24 * 3_600), Retention::older_than(Duration::from_secs(24 * 3_600)));
    let tasks = memory.records(Filter::default(), PageAsk::default()).await.expect("read").items;
    let needed: Vec<TaskId> = tasks.iter().step_by(3).map(|record| record.task.id).collect();
    let gone = conformance::prune(&memory, day, &needed, false, week).await;
    assert_eq!(gone, conformance::prune(&*on_disk, day, &needed, false, week).await);
    assert_eq!(memory.balance().await.expect("read"), on_disk.balance().await.expect("read"));
    assert_eq!(memory.depths().await.expect("read"), on_disk.depths().await.expect("read"));
    let page = || (Filter::default(), PageAsk { limit: 7, oldest_first: true, after: None });
    let (one, other) = (memory.records(page().0, page().1), on_disk.records(page().0, page().1));
    assert!(one.await.expect("read") == other.await.expect("read"), "tasks that are left");
    let (one, other) = (memory.dead_letters(page().0, page().1), on_disk.dead_letters(page().0, page().1));
    assert!(one.await.expect("read") == other.await.expect("read"), "dead letters that are left");
    list_alike(&memory, &*on_disk, &filters).await;
    assert_eq!(memory.next_due(at(0)).await.expect("read"), on_disk.next_due(at(0)).await.expect("read"));
    let events = memory.events(0, u32::MAX).await.expect("read");
    assert_eq!(events, on_disk.events(0, u32::MAX).await.expect("read"));
    // Recovering twice gives what recovering once gave (the file says so, not the process).
    on_disk.close().await.expect("closed");
    drop(on_disk);
    drop(disk.open(at(0)));
    let again = disk.open(at(0));
    assert_eq!(events, again.events(0, u32::MAX).await.expect("read"));
    assert_eq!(memory.balance().await.expect("read"), again.balance().await.expect("read"));
    list_alike(&memory, &*again, &filters).await;
}

async fn list_alike(memory: &Memory, on_disk: &dyn Engine, filters: &[Filter]) {
    for filter in filters {
        let page = PageAsk { limit: 7, ..PageAsk::default() };
        let (one, other) =
            (memory.records(filter.clone(), page.clone()), on_disk.records(filter.clone(), page.clone()));
        assert!(one.await.expect("read") == other.await.expect("read"), "tasks: {filter:?}");
        let (one, other) =
            (memory.dead_letters(filter.clone(), page.clone()), on_disk.dead_letters(filter.clone(), page));
        assert!(one.await.expect("read") == other.await.expect("read"), "dead letters: {filter:?}");
    }
}

proptest! {
    // What fails is printed, and its seed kept where it is played again first, here and at everybody's once committed.
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/engine.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_engines_give_the_same_answers(
        steps in proptest::collection::vec(any::<(u8, u8, u8)>(), 10..60),
        filters in proptest::collection::vec(any_filter(), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(agree(steps, filters));
    }
}

#[tokio::test]
async fn documents_and_events_survive_together() {
    let mut site = OnDisk::new();
    let engine = site.open(at(0));
    let document =
        |version| Document { kind: "incident".into(), key: "i".into(), version, body: json!({"v": version}) };
    engine.save(vec![document(0)], Vec::new(), at(0)).await.expect("saved");
    drop(engine);
    let engine = site.open(at(0));
    engine.save(vec![document(1)], Vec::new(), at(0)).await.expect("the version goes on");
    assert_eq!(engine.documents("incident").await.expect("read")[0].version, 2);
}

/// Found by fuzzing what servers say: `Retry-After: 99999999999999` closes the gate of a provider until a year that cannot
/// be written as a date. It was written as a number of milliseconds, which cannot be read as one: the whole page of the
/// feed that had it in it was refused as damaged, at every start from then on.
#[tokio::test]
async fn a_server_that_asks_for_three_million_years_leaves_the_feed_readable() {
    let headers = [("retry-after".to_owned(), "99999999999999".to_owned())];
    let asked = hint::asked(&hint::Seen { status: Some(429), headers: &headers, body: "", at: at(0) }).expect("a hint");
    let closed = Happening::GateClosed {
        integration: integration("anthropic"),
        until: at(0) + asked,
        asked: "retry after a while".to_owned(),
    };
    let mut site = OnDisk::new();
    let engine = site.open(at(0));
    engine.publish(vec![closed.clone().into()], at(0)).await.expect("told");
    drop(engine);
    let events = site.open(at(1)).events(0, 10).await.expect("read");
    assert_eq!(events.iter().map(|event| &event.what).collect::<Vec<_>>(), [&closed]);
}
