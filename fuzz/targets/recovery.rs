//! The start of the durable engine over a store that was damaged: all that a sound log holds, or a refusal with a name.

use std::cell::OnceCell;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use backstop::engine::conformance::{ack, ask, at, dead, failure, integration, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Document, Engine, Error};
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::query::{Filter, PageAsk};
use serde_json::{Value, json};

/// A store as a process that died leaves it: what stood in the file, what in the log, and what there was to be seen
/// after each commit.
struct Left {
    scratch: Scratch,
    db: Vec<u8>,
    log: Vec<u8>,
    /// The length of the log after a commit, and all that could be read then. The first is the file alone.
    commits: Vec<(usize, Value)>,
    runtime: tokio::runtime::Runtime,
}

/// A directory in memory where there is one, gone when dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(what: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let dir = base.join(format!("backstop-{what}-{}-{:?}", std::process::id(), std::thread::current().id()));
        let _nothing_there = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

thread_local! {
    static LEFT: OnceCell<Left> = const { OnceCell::new() };
}

/// Steps of four bytes: what is done (replaced, zeroed, cut, appended, in the file or in the log), where, and with what.
pub(crate) fn recovery(data: &[u8]) {
    LEFT.with(|left| left.get_or_init(left_behind).open_damaged(data));
}

fn left_behind() -> Left {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let scratch = Scratch::new("recovery");
    let (db, log, commits) = runtime.block_on(work(&scratch));
    Left { scratch, db, log, commits, runtime }
}

/// Some of all that a store holds, half of it in the file and half in the log.
async fn work(scratch: &Scratch) -> (Vec<u8>, Vec<u8>, Vec<(usize, Value)>) {
    let (db, log) = (scratch.file("backstop.db"), scratch.file("backstop.db-wal"));
    let engine = Embedded::open(&scratch.0, at(0)).expect("a new store");
    for n in 1..=3 {
        engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
    }
    engine.close().await.expect("closed");
    drop(engine);
    let engine = Embedded::open(&scratch.0, at(1)).expect("a store");
    let mut commits = vec![(0, seen(&engine).await.expect("read"))];
    let length = || usize::try_from(fs::metadata(&log).expect("a log").len()).expect("a small log");
    for n in 4..=12 {
        match n % 3 {
            0 => {
                engine.submit(task(n, at(2)), integration("openai"), at(2)).await.expect("accepted");
            }
            1 => {
                let held = engine.lease(ask(1, 1), at(3)).await.expect("leased").remove(0);
                commits.push((length(), seen(&engine).await.expect("read")));
                let lost = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
                let end = if n == 4 { ack() } else { lost };
                engine.command(held.task.id, settle(held.fence, end), at(4)).await.expect("settled");
            }
            _ => {
                let document = Document {
                    kind: "incident".to_owned(),
                    key: format!("INC-{n}"),
                    version: 0,
                    body: json!({ "n": n }),
                };
                let told = vec![Happening::Draining { running: 0 }.into()];
                engine.save(vec![document], told, at(5)).await.expect("saved");
            }
        }
        commits.push((length(), seen(&engine).await.expect("read")));
    }
    let left = (fs::read(db).expect("the file"), fs::read(&log).expect("the log"));
    drop(engine);
    (left.0, left.1, commits)
}

/// All there is to be read, but for what a start changes.
async fn seen(engine: &Embedded) -> Result<Value, Error> {
    let page = PageAsk { limit: 1_000, ..PageAsk::default() };
    let records = engine.records(Filter::default(), page.clone()).await?.items;
    let letters = engine.dead_letters(Filter::default(), page).await?.items;
    let mut steps = Vec::new();
    for record in records.iter().take(3) {
        steps.push(engine.steps(record.task.id).await?);
    }
    Ok(json!({
        "records": records,
        "letters": letters.iter().map(|record| record.task.id).collect::<Vec<_>>(),
        "steps": steps,
        "events": engine.events(0, 1_000).await?,
        "documents": engine.documents("incident").await?,
        "balance": engine.balance().await?,
        "deaths": engine.deaths(at(0)).await?.len(),
        "next": engine.next_due(at(3)).await?,
    }))
}

impl Left {
    fn open_damaged(&self, data: &[u8]) {
        let (mut db, mut log) = (self.db.clone(), self.log.clone());
        for step in data.chunks_exact(4).take(16) {
            let in_log = step[0] & 1 != 0;
            let file = if in_log { &mut log } else { &mut db };
            let place = (usize::from(step[1]) << 8 | usize::from(step[2])) * 4 + usize::from(step[0] >> 6);
            let place = place % (file.len() + 1);
            match step[0] >> 1 & 7 {
                0 => file.truncate(place),
                1 => file.extend(std::iter::repeat_n(step[3], place % 600)),
                2 => file.iter_mut().skip(place).take(4096).for_each(|byte| *byte = 0),
                3 => file.iter_mut().skip(place).take(32).for_each(|byte| *byte = step[3]),
                4 => file.iter_mut().skip(place % 128).take(1).for_each(|byte| *byte = step[3]),
                _ => file.iter_mut().skip(place).take(1).for_each(|byte| *byte = step[3]),
            }
        }
        for name in ["backstop.db-shm", "backstop.db-journal", "backstop.db.new", "lock"] {
            let _not_there = fs::remove_file(self.scratch.file(name));
        }
        over(&self.scratch.file("backstop.db"), &db).expect("written");
        over(&self.scratch.file("backstop.db-wal"), &log).expect("written");
        let opened = Embedded::open(&self.scratch.0, at(10));
        match opened {
            Ok(engine) => {
                let sound = (db == self.db).then(|| same_until(&log, &self.log));
                self.runtime.block_on(self.opened(&engine, sound));
            }
            Err(error) => {
                named(&error);
                assert!(db != self.db, "the file is sound and its log is none of its trouble: {error:?}");
            }
        }
    }

    /// `sound`: where the file is as it was, how much of the log is.
    async fn opened(&self, engine: &Embedded, sound: Option<usize>) {
        match (seen(engine).await, sound) {
            (Ok(seen), Some(sound)) => {
                // A damaged log is read up to its damage: what was committed before is there, and nothing else is.
                let kept = self.commits.iter().rposition(|(end, _)| *end <= sound).expect("the file itself");
                let found = self.commits.iter().skip(kept).find(|(_, then)| *then == seen);
                assert!(found.is_some(), "of {} bytes of a sound log: {seen:#}", sound);
            }
            (Ok(_), None) => {}
            (Err(error), sound) => {
                named(&error);
                assert!(sound.is_none(), "a sound file cannot be read: {error:?}");
            }
        }
        for outcome in [
            engine.submit(task(99, at(10)), integration("anthropic"), at(10)).await.map(drop),
            engine.lease(ask(2, 1), at(10)).await.map(drop),
            engine.writable().await,
        ] {
            match outcome {
                Ok(()) => {}
                Err(error) => {
                    told(&error);
                    assert!(sound.is_none(), "a sound file cannot be written: {error:?}");
                }
            }
        }
        let closed = engine.close().await;
        assert!(closed.is_ok(), "{closed:?}");
    }
}

/// Writes a file over what it was. `fs::write` would first give all of it back, to take it again.
fn over(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// How far two are the same. Page by page: a comparison byte by byte is a fifth of what an execution takes.
fn same_until(a: &[u8], b: &[u8]) -> usize {
    let pages = a.chunks(4096).zip(b.chunks(4096)).take_while(|(a, b)| a == b);
    let whole = pages.map(|(page, _)| page.len()).sum();
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

/// A row that says another state, key or id than the truth is believed: what is asked of it may be refused.
pub(super) fn told(error: &Error) {
    let refused = matches!(error, Error::Refused(_) | Error::NoTask(_) | Error::SameId(_) | Error::KeyConflict { .. });
    if !refused {
        named(error);
    }
}

/// Whoever reads it knows which file, or which task in it, to look at. A thread that panicked would answer that the store is
/// closed.
fn named(error: &Error) {
    let names = if let Error::Unreadable { id, .. } = error { id.as_str() } else { "backstop.db" };
    assert!(!names.is_empty() && error.to_string().contains(names), "which? {error} ({error:?})");
}
