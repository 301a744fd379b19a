//! The limit of W1: a bare program with the same calls. One row at submission and one update at the end, all that has
//! gathered in one transaction, and between the two the model, by reqwest as our adapters use it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use tokio::sync::oneshot;

use super::{now, scratch};

enum Change {
    Submit(u64, String),
    Done(u64, String),
}

type Asked = (Change, oneshot::Sender<()>);

/// So many callers go on until so many tasks are done: how long each took.
pub(crate) async fn in_a_loop<F: Future<Output = Duration> + Send + 'static>(
    callers: usize,
    tasks: u64,
    once: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Vec<Duration> {
    let next = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (next, once) = (Arc::clone(&next), once.clone());
            tokio::spawn(async move {
                let mut spans = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= tasks {
                        return spans;
                    }
                    spans.push(once(number).await);
                }
            })
        })
        .collect();
    let mut spans = Vec::new();
    for caller in callers {
        spans.extend(caller.await.expect("a caller"));
    }
    spans
}

/// Tasks a second, and how long each took.
pub(crate) async fn run(url: &str, callers: usize, tasks: u64) -> (f64, Vec<Duration>) {
    let dir = scratch("bare");
    let writer = writer(&dir.join("bare.db"));
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    let url = format!("{url}/v1/chat/completions");
    let started = now();
    let spans = in_a_loop(callers, tasks, move |number| {
        let (writer, http, url) = (writer.clone(), http.clone(), url.clone());
        async move {
            let started = now();
            let commit = async |change| {
                let (done, committed) = oneshot::channel();
                writer.send((change, done)).expect("a writer");
                committed.await.expect("committed");
            };
            let text = "x".repeat(400);
            commit(Change::Submit(number, json!({ "number": number, "text": text }).to_string())).await;
            let body = json!({ "model": "model", "stream": true, "messages": [{ "role": "user", "content": text }] });
            let answer = http.post(&url).json(&body).send().await.expect("an answer").bytes().await.expect("a body");
            commit(Change::Done(number, String::from_utf8_lossy(&answer).into_owned())).await;
            now().duration_since(started)
        }
    })
    .await;
    let rate = tasks as f64 / now().duration_since(started).as_secs_f64();
    let _left_behind = std::fs::remove_dir_all(dir);
    (rate, spans)
}

fn writer(path: &std::path::Path) -> Sender<Asked> {
    let db = Connection::open(path).expect("a file");
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000;
         CREATE TABLE task (id INTEGER PRIMARY KEY, state TEXT NOT NULL, payload TEXT NOT NULL, answer TEXT) STRICT;",
    )
    .expect("a table");
    // As the store does: statements are prepared once.
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).expect("taken");
    let (inbox, changes) = channel::<Asked>();
    std::thread::spawn(move || {
        while let Ok(first) = changes.recv() {
            db.execute_batch("BEGIN IMMEDIATE").expect("begun");
            let mut waiting = Vec::new();
            for (change, done) in std::iter::once(first).chain(changes.try_iter().take(2_048)) {
                let written = match change {
                    Change::Submit(id, payload) => db
                        .prepare_cached("INSERT INTO task VALUES (?1, 'ready', ?2, NULL)")
                        .and_then(|mut insert| insert.execute((id, payload))),
                    Change::Done(id, answer) => db
                        .prepare_cached("UPDATE task SET state = 'done', answer = ?2 WHERE id = ?1")
                        .and_then(|mut update| update.execute((id, answer))),
                };
                assert_eq!(written.expect("written"), 1);
                waiting.push(done);
            }
            db.execute_batch("COMMIT").expect("committed");
            waiting.into_iter().for_each(|done| done.send(()).expect("somebody waits"));
        }
    });
    inbox
}
