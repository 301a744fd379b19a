//! How fast durable work is, beside a raw group commit of rows of the same size in the same run.
//!
//! `cargo bench --bench engine`. The raw figure is what SQLite and this disk can do at all, so the ratios say what our
//! bookkeeping costs; the absolute figures are this machine's.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use backstop::agent::Incarnation;
use backstop::delivery::{Settlement, Spent};
use backstop::engine::conformance::{at, dead, failure, integration, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Engine, LeaseAsk};
use backstop::failure::{Class, Kind};
use backstop::ledger::Command;
use backstop::query::{Filter, PageAsk};
use backstop::task::{Task, TaskId};
use rusqlite::Connection;
use serde_json::json;
use tokio::sync::oneshot;

/// How long each figure is measured.
const SPAN: Duration = Duration::from_millis(1_500);
/// Bytes of a payload: a short request to an agent.
const PAYLOAD: usize = 500;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!(
        "{:>8}  {:>14}  {:>14}  {:>6}  {:>16}  {:>6}",
        "callers", "raw rows/s", "submits/s", "ratio", "lifecycles/s", "ratio"
    );
    for callers in [1, 64, 1_000] {
        let raw = runtime.block_on(raw(callers));
        let submits = runtime.block_on(ours(callers, false));
        let lives = runtime.block_on(ours(callers, true));
        println!(
            "{callers:>8}  {raw:>14.0}  {submits:>14.0}  {:>6.2}  {lives:>16.0}  {:>6.2}",
            submits / raw,
            lives / raw
        );
    }
    runtime.block_on(listings());
}

fn scratch(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("backstop-bench-{}-{name}", std::process::id()));
    let _not_there = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// Runs `once` from so many callers for [`SPAN`]: how often a second it was done.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    callers: u64,
    once: impl Fn(u64) -> F + Clone + Send + 'static,
) -> f64 {
    let started = now();
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let once = once.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while now().duration_since(started) < SPAN {
                    once((caller << 32) + done).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.expect("a caller");
    }
    done as f64 / now().duration_since(started).as_secs_f64()
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// One row a call, with an id and a body of the size of a task, all that has gathered in one transaction.
async fn raw(callers: u64) -> f64 {
    let dir = scratch("raw");
    let rows = raw_writer(&dir);
    let body = "x".repeat(PAYLOAD + 300);
    let rate = rate(callers, move |n| {
        let (rows, body) = (rows.clone(), body.clone());
        async move {
            let (done, committed) = oneshot::channel();
            rows.send((n, body, done)).expect("a writer");
            committed.await.expect("committed");
        }
    })
    .await;
    let _left_behind = std::fs::remove_dir_all(dir);
    rate
}

type Row = (u64, String, oneshot::Sender<()>);

fn raw_writer(dir: &Path) -> Sender<Row> {
    let db = Connection::open(dir.join("raw.db")).expect("a file");
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000;
         CREATE TABLE row (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL) STRICT;",
    )
    .expect("a table");
    let (inbox, rows) = channel::<Row>();
    std::thread::spawn(move || {
        while let Ok(first) = rows.recv() {
            db.execute_batch("BEGIN IMMEDIATE").expect("begun");
            let mut done = Vec::new();
            for (n, body, reply) in std::iter::once(first).chain(rows.try_iter().take(2_048)) {
                db.prepare_cached("INSERT INTO row (id, body) VALUES (?1, ?2)")
                    .and_then(|mut insert| insert.execute((task(n, at(0)).id.to_string(), body)))
                    .expect("inserted");
                done.push(reply);
            }
            db.execute_batch("COMMIT").expect("committed");
            done.into_iter().for_each(|reply| reply.send(()).expect("somebody waits"));
        }
    });
    inbox
}

async fn ours(callers: u64, whole_life: bool) -> f64 {
    let dir = scratch("ours");
    let engine = Arc::new(Embedded::open(&dir, at(0)).expect("the store opens"));
    let shared = Arc::clone(&engine);
    let rate = rate(callers, move |n| {
        let engine = Arc::clone(&shared);
        async move {
            submit(&*engine, n).await;
            if whole_life {
                let ask = LeaseAsk { slots: 1, ..ask() };
                for record in engine.lease(ask, at(0)).await.expect("leased") {
                    let settlement = Settlement::Ack { answer: json!({ "ok": true }) };
                    finish(&*engine, record.task.id, record.fence, settlement).await;
                }
            }
        }
    })
    .await;
    drop(engine);
    let _left_behind = std::fs::remove_dir_all(dir);
    rate
}

fn ask() -> LeaseAsk {
    LeaseAsk {
        agent: task(0, at(0)).agent,
        incarnation: Incarnation(1),
        slots: 1_000,
        lease_for: Duration::from_secs(300),
        except: Vec::new(),
    }
}

async fn submit(engine: &dyn Engine, n: u64) {
    let new = Task { payload: json!("x".repeat(PAYLOAD)), ..task(n, at(0)) };
    engine.submit(new, integration("anthropic"), at(0)).await.expect("accepted");
}

async fn finish(engine: &dyn Engine, id: TaskId, fence: u64, settlement: Settlement) {
    let command = Command::Settle { fence, settlement, spent: Spent::default() };
    engine.command(id, command, at(1)).await.expect("settled");
}

/// Filters over 100,000 dead letters, worst first: one that matches nothing looks at every one.
async fn listings() {
    let dir = scratch("letters");
    let engine = Embedded::open(&dir, at(0)).expect("the store opens");
    for thousand in 0..100_u64 {
        futures_util::future::join_all((0..1_000).map(|n| submit(&engine, thousand * 1_000 + n))).await;
        let claimed = engine.lease(ask(), at(0)).await.expect("leased");
        let kinds = [Kind::Overloaded, Kind::Timeout, Kind::Network];
        let finished = claimed.iter().enumerate().map(|(n, record)| {
            let failure = failure(Class::Transient, kinds[n % 3], &format!("call {n} was not answered within 30s"));
            finish(&engine, record.task.id, record.fence, dead(failure))
        });
        futures_util::future::join_all(finished).await;
    }
    let filters = [
        ("all", Filter::default()),
        ("kind", Filter { kind: Some(Kind::Timeout), ..Filter::default() }),
        ("text of one in a thousand", Filter { text: Some("CALL 999 ".to_owned()), ..Filter::default() }),
        ("text of none", Filter { text: Some("nowhere".to_owned()), ..Filter::default() }),
        ("kind of none", Filter { kind: Some(Kind::Loop), ..Filter::default() }),
    ];
    for (name, filter) in filters {
        let started = now();
        let page = engine.dead_letters(filter, PageAsk::default()).await.expect("read");
        println!(
            "100,000 dead letters, {name}: {} of a page in {:.1?}",
            page.items.len(),
            now().duration_since(started)
        );
    }
    drop(engine);
    let _left_behind = std::fs::remove_dir_all(dir);
}
