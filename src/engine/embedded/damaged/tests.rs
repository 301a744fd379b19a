//! What becomes of a store that was damaged in one place: of that place, and of all the others.

use rusqlite::params;

use super::*;
use crate::engine::conformance::{dead, failure, intent};
use crate::engine::embedded::Embedded;
use crate::engine::{Document, Engine};
use crate::failure::{Class, Kind};
use crate::journal::{Entry, Line};
use crate::query::Unreadable;
use crate::task::Task;
use crate::time::Timestamp;

/// A store of its own, gone when dropped; nobody has it open.
struct Site(PathBuf);

impl Site {
    async fn new(name: &str, work: impl AsyncFn(&Embedded)) -> Self {
        let dir = std::env::temp_dir().join(format!("backstop-damaged-{name}-{}", std::process::id()));
        let engine = Embedded::open(&dir, at(0)).expect("a store");
        work(&engine).await;
        engine.close().await.expect("closed");
        Self(dir)
    }

    async fn of_two_that_wait(name: &str) -> Self {
        Self::of_those_that_wait(name, 2).await
    }

    async fn of_those_that_wait(name: &str, count: u64) -> Self {
        let work = async |engine: &Embedded| {
            for n in 1..=count {
                engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
            }
        };
        Self::new(name, work).await
    }

    fn open(&self) -> Damaged {
        Damaged::open(&self.0).expect("a store")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("cleared away");
    }
}

impl Damaged {
    /// All cells of this column, the first task's first.
    fn column(&self, table: &str, column: &str) -> Vec<usize> {
        let is = |n: &usize| self.cells[*n].table == table && self.cells[*n].column == column;
        (0..self.cells.len()).filter(is).collect()
    }

    /// The same bytes in all of these.
    fn damaged(&mut self, cells: &[usize], bytes: &[u8]) -> Answers {
        assert!(!cells.is_empty() && cells.iter().all(|cell| self.cells[*cell].told() != bytes), "nothing is changed");
        let changes: Vec<_> = cells.iter().map(|cell| (*cell, bytes.to_vec())).collect();
        self.with(&changes).expect("damaged and mended")
    }
}

impl Answers {
    fn failed(&self) -> Vec<&'static str> {
        self.all.iter().filter(|(_, said)| said.is_err()).map(|(what, _)| *what).collect()
    }
}

#[tokio::test]
async fn what_is_changed_is_seen_and_nothing_stays_of_it() {
    let site = Site::of_two_that_wait("seen").await;
    let mut store = site.open();
    let sound = store.with(&[]).expect("undamaged");
    assert_eq!(sound.failed(), [""; 0], "{sound:?}");
    let first = store.column("progress", "record")[0];
    let damaged = store.damaged(&[first], b"{\xff");
    let error = damaged.records[&1].as_ref().expect_err("it cannot be read");
    assert!(error.to_string().contains(&store.ids[0].1.to_string()), "{error}");
    assert_eq!(damaged.records[&2].as_ref().expect("read"), sound.records[&2].as_ref().expect("read"));
    assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
    assert_eq!(damaged.unreadable, [store.ids[0].1.to_string()], "{damaged:?}");
    let again = store.with(&[]).expect("mended");
    assert_eq!(again.failed(), [""; 0]);
    assert_eq!(again.records[&1].as_ref().expect("read"), sound.records[&1].as_ref().expect("read"));
}

/// One task that could not be read failed every listing it belonged to: of tasks, of dead letters, of what is parked.
#[tokio::test]
async fn a_listing_tells_what_it_cannot_read_beside_all_that_it_can() {
    let work = async |engine: &Embedded| {
        for n in 1..=2 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
            let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
            engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
        }
    };
    let site = Site::new("listing", work).await;
    let store = site.open();
    let (db, noted) = (store.db.as_ref().expect("open"), UnreadableTasks::default());
    let (first, second) = (store.ids[0].1, store.ids[1].1);
    db.execute("UPDATE progress SET record = '{' WHERE seq = 1", []).expect("damaged");
    for id in [first.to_string(), "(row 1)".to_owned()] {
        for size in [1, 2, 50] {
            let mut page = PageAsk { limit: size, ..PageAsk::default() };
            for list in [find::records, find::dead_letters] {
                let (mut read, mut not_read) = (Vec::new(), Vec::new());
                page.after = None;
                loop {
                    let found = list(db, &noted, &Filter::default(), &page).expect("read");
                    read.extend(found.items.iter().map(|record| record.task.id));
                    not_read.extend(found.unreadable);
                    page.after = found.next;
                    if page.after.is_none() {
                        break;
                    }
                }
                assert_eq!(read, [second]);
                let [Unreadable { id: told, why }] = not_read.as_slice() else { panic!("{not_read:?}") };
                assert_eq!(*told, id);
                assert!(why.contains("EOF"), "{why}");
            }
        }
        db.execute("UPDATE task SET id = CAST(x'ff' AS TEXT) WHERE seq = 1", []).expect("damaged");
    }
}

/// An agent with two free slots asked for two tasks. The second could not be read, so it was told of an error; the claim
/// of the first was stored all the same, and nobody did it until its lease lapsed.
#[tokio::test]
async fn what_was_claimed_before_one_that_cannot_be_read_is_told() {
    let site = Site::of_two_that_wait("told").await;
    let mut store = site.open();
    let second = store.column("progress", "record")[1];
    for bytes in [&b"{"[..], b"\xff"] {
        let damaged = store.damaged(&[second], bytes);
        assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
        assert_eq!(damaged.after.keys().copied().collect::<Vec<_>>(), [2], "the first was worked on");
    }
}

/// One task that cannot be read kept all others from being handed back after a crash, and from ending at their deadlines.
#[tokio::test]
async fn one_that_cannot_be_read_holds_up_no_other() {
    let work = async |engine: &Embedded| {
        engine.submit(task(1, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        assert_eq!(engine.lease(ask(1, 1), at(1)).await.expect("leased").len(), 1);
        let late = Task { deadline: Some(at(5)), ..task(2, at(0)) };
        engine.submit(late, integration("anthropic"), at(1)).await.expect("accepted");
    };
    let site = Site::new("others", work).await;
    let mut store = site.open();
    let records = store.column("progress", "record");
    let damaged = store.damaged(&records, b"{");
    assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
    assert_eq!(damaged.unreadable.len(), 2);
}

/// Of two lapsed leases and two deadlines that have passed only the first were looked at when one was asked for, and those
/// could not be read: whatever stood behind as many as are asked for at once was never taken back.
#[tokio::test]
async fn those_that_cannot_be_read_take_nobodys_place() {
    let work = async |engine: &Embedded| {
        for n in 1..=4 {
            let late = Task { deadline: Some(at(5)), ..task(n, at(0)) };
            engine.submit(late, integration("anthropic"), at(0)).await.expect("accepted");
        }
        assert_eq!(engine.lease(ask(1, 2), at(1)).await.expect("leased").len(), 2);
    };
    let site = Site::new("place", work).await;
    let mut store = site.open();
    let ids: Vec<TaskId> = store.ids.iter().map(|(_, id)| *id).collect();
    let (db, noted) = (store.db.take().expect("open"), Arc::new(UnreadableTasks::default()));
    db.execute("UPDATE progress SET record = '{' WHERE seq IN (1, 3)", []).expect("damaged");
    db.execute("UPDATE event SET what = '{' WHERE seq = 2", []).expect("damaged");
    // Whoever pages takes a page that is not full for the last.
    let events = find::events(&db, &noted, 0, 2).expect("read");
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 3]);
    let lapsed = find::lapsed(&db, &noted, at(1_000), 9, 1).expect("read");
    assert_eq!(lapsed.iter().map(|record| record.task.id).collect::<Vec<_>>(), [ids[1]]);
    let mut store = Store::over(db, Arc::clone(&noted), &Indexes::default()).expect("a start");
    let overdue = store.overdue(at(10), 1).expect("read");
    assert_eq!(overdue.iter().map(|record| record.task.id).collect::<Vec<_>>(), [ids[3]]);
    assert_eq!(noted.all().len(), 3);
}

/// One damaged row of a count kept the team from starting, one of a death the CEO and the pager from their work, one of an
/// event everybody who followed the feed, one of an incident all who look at any.
#[tokio::test]
async fn a_row_of_no_one_task_is_told_and_left_out() {
    let work = async |engine: &Embedded| {
        for n in 1..=3 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        for (held, gone) in engine.lease(ask(1, 2), at(1)).await.expect("leased").into_iter().zip([true, false]) {
            let lines = vec![Line::Intend { intent: intent(), worst: 7 }];
            let asked = Entry { fence: held.fence, lines, ..Entry::default() };
            engine.journal(held.task.id, asked, at(1)).await.expect("written");
            if gone {
                let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
                engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
            }
        }
        let body = serde_json::json!({ "n": 1 });
        let incident = Document { kind: "incident".to_owned(), key: "INC-1".to_owned(), version: 0, body };
        engine.save(vec![incident], Vec::new(), at(3)).await.expect("saved");
    };
    let site = Site::new("others-rows", work).await;
    let mut store = site.open();
    let sound = store.with(&[]).expect("undamaged");
    let (first, waits) = (store.ids[0].1, 2);
    let metas = store.column("meta", "key");
    let is_count = |cell: &usize| store.cells[*cell].told().starts_with(b"type_first/");
    let counted = metas.iter().position(is_count).expect("a count of types");
    let read = |records: &BTreeMap<u64, Result<Option<Record>, Error>>| -> Vec<Record> {
        let each = records.values().map(|record| record.as_ref().expect("read").clone().expect("a task"));
        each.collect()
    };
    // What is damaged, and what is noted of it.
    let told = |what: String| vec![what];
    for (table, column, row, noted) in [
        ("death", "class", 0, told("(death 1)".to_owned())),
        ("death", "task", 0, told("(death 1)".to_owned())),
        ("event", "what", 0, told("(event 1)".to_owned())),
        ("document", "body", 0, told("(incident INC-1)".to_owned())),
        ("failure", "class", 0, told("(failures of cto)".to_owned())),
        ("step", "agent", 0, told(format!("(spending of {first})"))),
        ("depth", "state", 0, told("(count of cto)".to_owned())),
        // What a row of a task says is in its record, too.
        ("task", "agent", waits, Vec::new()),
        ("task", "state", waits, Vec::new()),
        ("task", "priority", waits, Vec::new()),
        ("task", "integration", waits, Vec::new()),
        ("letter", "status", 0, Vec::new()),
        ("meta", "key", counted, Vec::new()),
    ] {
        let cell = store.column(table, column)[row];
        for bytes in [&b"{"[..], b"\xff"] {
            let damaged = store.damaged(&[cell], bytes);
            let case = format!("{table}.{column}: {bytes:?}");
            assert_eq!(damaged.failed(), [""; 0], "{case}: {damaged:?}");
            assert_eq!(damaged.unreadable, noted, "{case}");
            assert_eq!(read(&damaged.records), read(&sound.records), "{case}");
            assert_eq!(read(&damaged.after), read(&sound.after), "{case}: another task was worked on");
        }
    }
}

/// One row that holds no JSON failed whatever was asked of a view in the sqlite3 shell.
#[tokio::test]
async fn the_views_show_what_can_be_read() {
    let work = async |engine: &Embedded| {
        for n in 1..=2 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
            let lines = vec![Line::Intend { intent: intent(), worst: 7 }];
            let asked = Entry { fence: held.fence, lines, ..Entry::default() };
            engine.journal(held.task.id, asked, at(1)).await.expect("written");
            let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
            engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
        }
    };
    let site = Site::new("views", work).await;
    let mut store = site.open();
    let db = store.db.take().expect("open");
    let shown = |view, column| {
        let mut all = db.prepare(&format!("SELECT {column} FROM {view}"))?;
        all.query_map([], |row| row.get::<_, Option<String>>(0))?.collect::<rusqlite::Result<Vec<_>>>()
    };
    for (damage, view, column) in [
        ("UPDATE body SET task = '{' WHERE seq = 1", "tasks", "payload"),
        ("UPDATE progress SET record = '{' WHERE seq = 1", "dlq", "why"),
        ("UPDATE step SET step = '{' WHERE task = 1", "steps", "asks"),
    ] {
        let before = shown(view, column).expect("shown");
        assert!(before.len() == 2 && before.iter().all(Option::is_some), "{view}: {before:?}");
        db.execute(damage, []).expect("damaged");
        let after = shown(view, column).expect("shown");
        assert_eq!(after.len(), 2, "{view}");
        assert_eq!(after.iter().flatten().count(), 1, "{view}: {after:?}");
    }
}

/// Under another id the journal of a task was not found, and it began again from nothing: what it had done to the world was
/// done a second time. And who asked the ledger by the id of the record was told that there is no such task, which ended
/// every look of the dispatcher.
#[tokio::test]
async fn a_task_of_two_ids_is_nobodys_to_work_on() {
    let site = Site::of_two_that_wait("two-ids").await;
    let mut store = site.open();
    let [first, second] = [store.ids[0].1, store.ids[1].1];
    let (ids, bodies) = (store.column("task", "id"), store.column("body", "task"));
    let other = task(7, at(0)).id.to_string();
    let body = String::from_utf8(store.cells[bodies[0]].told()).expect("JSON").replace(&first.to_string(), &other);
    for (cell, bytes, named) in [(ids[0], other.clone(), other), (bodies[0], body, first.to_string())] {
        let damaged = store.damaged(&[cell], bytes.as_bytes());
        assert_eq!(damaged.failed(), [""; 0], "{damaged:?}");
        assert_eq!(damaged.unreadable, [named]);
        assert!(!damaged.after.contains_key(&2), "{second} was worked on: {:?}", damaged.after);
    }
}

/// A row that is due before its record failed the claim; one whose record is claimed already, or is due before its row,
/// waited for nobody.
#[tokio::test]
async fn a_row_gives_way_to_its_record() {
    let site = Site::of_two_that_wait("gives-way").await;
    let engine = Embedded::open(&site.0, at(0)).expect("a store");
    for held in engine.lease(ask(1, 2), at(1)).await.expect("leased") {
        let failure = failure(Class::Transient, Kind::RateLimited, "rate limit");
        let due = if held.task.id == task(1, at(0)).id { at(100) } else { at(5) };
        let retry = crate::delivery::Settlement::Retry { due, failure, amendment: None };
        engine.command(held.task.id, settle(held.fence, retry), at(2)).await.expect("settled");
    }
    engine.close().await.expect("closed");
    drop(engine);
    let db = Connection::open(site.0.join("backstop.db")).expect("a store");
    let due = |seq: u64, at: Timestamp| {
        assert_eq!(db.execute("UPDATE task SET due = ?2 WHERE seq = ?1", params![seq, at.millis()]), Ok(1));
    };
    due(1, at(3));
    due(2, at(1_000_000));
    drop(db);
    let engine = Embedded::open(&site.0, at(10)).expect("a store");
    let held = engine.lease(ask(2, 2), at(10)).await.expect("leased");
    assert_eq!(held.iter().map(|held| held.task.id).collect::<Vec<_>>(), [task(2, at(0)).id]);
    let held = engine.lease(ask(2, 2), at(100)).await.expect("leased");
    assert_eq!(held.iter().map(|held| held.task.id).collect::<Vec<_>>(), [task(1, at(0)).id]);
    engine.close().await.expect("closed");
    drop(engine);
    // Claimed by the process that died, which its row does not say.
    let db = Connection::open(site.0.join("backstop.db")).expect("a store");
    let lies = "UPDATE task SET state = 'ready', due = created_at WHERE seq = 1";
    assert_eq!(db.execute(lies, []), Ok(1));
    drop(db);
    let engine = Embedded::open(&site.0, at(100)).expect("a store");
    assert_eq!(engine.lease(ask(3, 2), at(100)).await.expect("leased"), []);
    let lapsed = engine.lapsed(at(100), 9).await.expect("read");
    assert_eq!(lapsed.len(), 2, "it is taken back like the other: {lapsed:?}");
    engine.close().await.expect("closed");
}

/// Writes other bytes over these, wherever they stand in the file behind no text: in an index, whose entries begin with
/// them, and not in a table.
fn overwrite(path: &Path, old: &[u8], new: &[u8]) {
    let mut bytes = std::fs::read(path).expect("read");
    let here = |from: &usize| bytes[*from..].starts_with(old) && bytes[from - 1] < b' ';
    let places: Vec<usize> = (1..bytes.len() - old.len()).filter(here).collect();
    assert!(!places.is_empty(), "nothing is damaged");
    for place in places {
        bytes[place..place + new.len()].copy_from_slice(new);
    }
    std::fs::write(path, bytes).expect("written");
}

fn integrity(path: &Path) -> String {
    let db = Connection::open(path).expect("a store");
    db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).expect("checked")
}

/// An index entry that no longer fits its row fails whoever changes the row, and a start that mends it: for ever, with
/// everybody whose change was in the same group.
#[tokio::test]
async fn indexes_that_do_not_fit_are_made_anew() {
    let work = async |engine: &Embedded| {
        for n in 1..=3 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        let held = engine.lease(ask(1, 1), at(1)).await.expect("leased").remove(0);
        let end = dead(failure(Class::Transient, Kind::RateLimited, "rate limit"));
        engine.command(held.task.id, settle(held.fence, end), at(2)).await.expect("settled");
    };
    for (old, new) in [(&b"ctoready"[..], &b"ctoreadx"[..]), (b"open", b"opex")] {
        let site = Site::new("index", work).await;
        let path = site.0.join("backstop.db");
        overwrite(&path, old, new);
        assert_ne!(integrity(&path), "ok", "nothing is damaged");
        let engine = Embedded::open(&site.0, at(0)).expect("a start");
        assert_eq!(engine.lease(ask(1, 2), at(1)).await.expect("leased").len(), 2);
        let letters = engine.dead_letters(Filter::default(), PageAsk::default()).await.expect("read");
        assert_eq!(letters.items.len(), 1);
        engine.close().await.expect("closed");
        drop(engine);
        assert_eq!(integrity(&path), "ok");
    }
}

/// The page that a table or an index begins at.
fn root(path: &Path, name: &str) -> usize {
    let db = Connection::open(path).expect("a store");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    db.query_row(root, [name], |row| row.get(0)).expect("it has one")
}

fn page(number: usize) -> std::ops::Range<usize> {
    (number - 1) * 4096..number * 4096
}

/// What lies on this page of a table is no more; nobody has the store open.
fn lose(path: &Path, table: &str, leaf: impl Fn(&[u8]) -> bool) {
    let root = root(path, table);
    let mut bytes = std::fs::read(path).expect("read");
    let count = bytes.len() / 4096;
    let lost = std::iter::once(root).chain(1..=count).find(|number| leaf(&bytes[page(*number)])).expect("a page");
    bytes[page(lost)][0] = 0xff;
    std::fs::write(path, bytes).expect("written");
}

/// Is this the leaf of a table that holds the first task, and these words of the table?
fn is_first_leaf(page: &[u8], of_table: &[u8]) -> bool {
    let first = task(1, at(0)).id.to_string().into_bytes();
    let holds = |what: &[u8]| page.windows(what.len()).any(|bytes| bytes == what);
    page[0] == 0x0d && holds(&first) && holds(of_table)
}

/// Changes each entry of an index of one page; nobody has the store open.
fn garble(path: &Path, index: &str, change: impl Fn(&mut [u8])) {
    let root = root(path, index);
    let mut bytes = std::fs::read(path).expect("read");
    let page = &mut bytes[page(root)];
    assert_eq!(page[0], 0x0a, "a leaf of an index");
    let cells = usize::from(u16::from_be_bytes([page[3], page[4]]));
    assert!(cells > 0, "nothing is damaged");
    for cell in 0..cells {
        let place = usize::from(u16::from_be_bytes([page[8 + cell * 2], page[9 + cell * 2]]));
        change(&mut page[place..]);
    }
    std::fs::write(path, bytes).expect("written");
}

/// A start over two rows with one number wrote commits until the disk was full: each mend of the second was written to the
/// first, and the look that went on behind the first came to the second again. That takes a look through the table itself:
/// the definition of the index it has otherwise was damaged, too. Found by the fuzz target `recovery`.
#[tokio::test]
async fn two_rows_of_one_number_are_mended_once() {
    let site = Site::of_those_that_wait("twice", 3).await;
    let path = site.0.join("backstop.db");
    let root = root(&path, "task");
    let mut bytes = std::fs::read(&path).expect("read");
    let definition = b"WHERE state IN ('ready', 'scheduled', 'parked')";
    let places: Vec<usize> = (0..bytes.len()).filter(|from| bytes[*from..].starts_with(definition)).collect();
    assert!(!places.is_empty(), "nothing is damaged");
    for place in places {
        bytes[place + definition.len() - 15] = 0xff;
    }
    let page = &mut bytes[page(root)];
    assert_eq!((page[0], page[4]), (0x0d, 3), "a leaf of a table, of three rows");
    let place = usize::from(u16::from_be_bytes([page[12], page[13]]));
    // Its length is one byte, and so is its number.
    let row = &mut page[place..];
    assert_eq!((row[0] & 0x80, row[1]), (0, 3), "the third row");
    row[1] = 2;
    let agent = row.windows(3).position(|bytes| bytes == b"cto").expect("its agent");
    row[agent + 1] = 0xff;
    std::fs::write(&path, bytes).expect("written");
    let engine = Embedded::open(&site.0, at(0)).expect("a start");
    assert_eq!(engine.lease(ask(1, 3), at(1)).await.expect("leased")[0].task.id, task(1, at(0)).id);
    let log = std::fs::metadata(site.0.join("backstop.db-wal")).expect("a log").len();
    assert!(log < 1 << 20, "a start wrote {log} bytes");
    engine.close().await.expect("closed");
}

/// Where an index of what waits leads nowhere it looks as if a page of tasks were lost: what lay there was not, and is found.
#[tokio::test]
async fn an_index_that_leads_nowhere_loses_no_task() {
    let site = Site::of_two_that_wait("nowhere").await;
    let path = site.0.join("backstop.db");
    // The first task's number, twice, as the constant 1: the constant 0, which no task has.
    garble(&path, "task_waiting", |entry| {
        if entry.starts_with(&[3, 3, 9, 9]) {
            entry[2..4].copy_from_slice(&[8, 8]);
        }
    });
    assert_ne!(integrity(&path), "ok", "nothing is damaged");
    let engine = Embedded::open(&site.0, at(0)).expect("a start");
    assert_eq!(engine.lease(ask(1, 2), at(1)).await.expect("leased").len(), 2);
    assert_eq!(engine.unreadable(), []);
    engine.close().await.expect("closed");
}

/// Who only read through an index that was garbled was failed for ever: nobody told the writer, who alone can mend it.
#[tokio::test]
async fn an_index_that_fails_a_reader_is_made_anew() {
    let site = Site::of_two_that_wait("reader").await;
    let path = site.0.join("backstop.db");
    // They no longer say where their values begin.
    garble(&path, "event_task", |entry| entry[1] = 0x7f);
    let engine = Embedded::open(&site.0, at(0)).expect("a start");
    // Somebody looks at it from a shell meanwhile: the log cannot be written into the file.
    let shell = Connection::open(&path).expect("a store");
    shell.execute_batch("BEGIN; SELECT count(*) FROM task").expect("read");
    let of_first = task(1, at(0)).id;
    assert_eq!(engine.history(of_first).await.expect("read").len(), 1);
    engine.submit(task(3, at(0)), integration("anthropic"), at(0)).await.expect("what writes is none the worse for it");
    drop(shell);
    engine.close().await.expect("closed");
    drop(engine);
    assert_eq!(integrity(&path), "ok");
}

/// One task on a page that was lost failed whatever was written at the same time, whenever its turn came: first in its line, it
/// let no other pass. Where the page was of the table of tasks, no start came any further.
#[tokio::test]
async fn a_task_on_a_page_that_is_lost_lets_the_others_pass() {
    // A leaf of the table that holds what was asked of the first task, or of the one that says where it stands.
    for (table, of_table) in [("body", &b"payload"[..]), ("task", b"anthropicready")] {
        let site = Site::of_those_that_wait("lost", 60).await;
        lose(&site.0.join("backstop.db"), table, |page| is_first_leaf(page, of_table));
        let engine = Embedded::open(&site.0, at(0)).expect("a start");
        let mut held = 0;
        for _ in 0..60 {
            // A claim that meets it fails once; then it is left aside.
            held += engine.lease(ask(1, 60), at(1)).await.map_or(0, |claimed| claimed.len());
        }
        let lost = engine.unreadable().len();
        assert!(lost > 0 && held > 0 && held + lost == 60, "{table}: {held} claimed, {lost} lost");
        engine.close().await.expect("closed");
    }
}

/// Whoever looked through tasks on a page that was lost was failed once for each of them, and had all indexes made anew.
#[tokio::test]
async fn a_listing_tells_all_that_lie_on_a_page_that_is_lost() {
    let site = Site::of_those_that_wait("listing-lost", 60).await;
    lose(&site.0.join("backstop.db"), "body", |page| is_first_leaf(page, b"payload"));
    let engine = Embedded::open(&site.0, at(0)).expect("a start");
    let all = PageAsk { limit: 100, ..PageAsk::default() };
    let page = engine.records(Filter::default(), all).await.expect("read");
    assert!(page.unreadable.len() > 1, "{:?}", page.unreadable);
    assert_eq!(page.items.len() + page.unreadable.len(), 60);
    assert!(!engine.shared.indexes.made_anew(), "no index leads there");
    engine.close().await.expect("closed");
}

/// Damage that no index can mend failed every change from then on, of whatever: each began with making the indexes anew.
#[tokio::test]
async fn a_page_that_is_lost_fails_who_touches_it_and_nobody_else() {
    let site = Site::of_two_that_wait("page").await;
    let path = site.0.join("backstop.db");
    lose(&path, "idempotency", |_| true);
    let engine = Embedded::open(&site.0, at(0)).expect("a start");
    let key = Some(crate::task::IdempotencyKey::new("once").expect("a key"));
    for n in 3..=8 {
        let idempotency_key = key.clone().filter(|_| n % 2 == 1);
        let fails = idempotency_key.is_some();
        let task = Task { idempotency_key, ..task(n, at(0)) };
        let submitted = engine.submit(task, integration("anthropic"), at(0)).await;
        assert_eq!(submitted.is_err(), fails, "{n}: {submitted:?}");
    }
    assert_eq!(engine.lease(ask(1, 9), at(1)).await.expect("leased").len(), 5);
    engine.close().await.expect("closed");
}

/// Work with time left was buried for a deadline that only its row had.
#[tokio::test]
async fn a_deadline_is_its_records() {
    let work = async |engine: &Embedded| {
        for (n, deadline) in [(1, Some(at(500))), (2, None)] {
            let task = Task { deadline, ..task(n, at(0)) };
            engine.submit(task, integration("anthropic"), at(0)).await.expect("accepted");
        }
    };
    let site = Site::new("deadline", work).await;
    let db = Connection::open(site.0.join("backstop.db")).expect("a store");
    assert_eq!(db.execute("UPDATE task SET deadline = ?1", [at(5).millis()]), Ok(2));
    drop(db);
    let engine = Embedded::open(&site.0, at(10)).expect("a store");
    assert_eq!(engine.overdue(at(10), 9).await.expect("read"), []);
    let overdue = engine.overdue(at(500), 9).await.expect("read");
    assert_eq!(overdue.iter().map(|record| record.task.id).collect::<Vec<_>>(), [task(1, at(0)).id]);
    assert_eq!(engine.lease(ask(1, 2), at(499)).await.expect("leased").len(), 2, "both still stand in line");
    engine.close().await.expect("closed");
}

/// A document whose damaged version was the highest there is failed whoever saved it, with all that was written at that time.
#[tokio::test]
async fn a_document_of_the_last_version_is_saved_like_another() {
    let document = |version| Document {
        kind: "incident".to_owned(),
        key: "INC-1".to_owned(),
        version,
        body: serde_json::json!({ "n": 1 }),
    };
    let site = Site::new("version", async |engine: &Embedded| {
        engine.save(vec![document(0)], Vec::new(), at(0)).await.expect("saved");
    })
    .await;
    let db = Connection::open(site.0.join("backstop.db")).expect("a store");
    assert_eq!(db.execute("UPDATE document SET version = ?1", [i64::MAX]), Ok(1));
    drop(db);
    let engine = Embedded::open(&site.0, at(0)).expect("a store");
    let version = async || engine.documents("incident").await.expect("read")[0].version;
    let last = version().await;
    engine.save(vec![document(last)], Vec::new(), at(1)).await.expect("saved");
    assert_eq!(version().await, 1);
    engine.save(vec![document(last)], Vec::new(), at(1)).await.expect_err("it was saved meanwhile");
    engine.close().await.expect("closed");
}

/// Counts are of rows that are there, so they are made again.
#[tokio::test]
async fn counts_that_cannot_be_read_are_counted_anew() {
    for damage in ["type_tasks", "type_first", "type_last"] {
        let site = Site::of_two_that_wait("anew").await;
        let path = site.0.join("backstop.db");
        let engine = Embedded::open(&site.0, at(0)).expect("a store");
        let sound = engine.balance().await.expect("read");
        assert_eq!(sound.waiting, 2);
        engine.close().await.expect("closed");
        drop(engine);
        let counts = |db: &Connection| -> Vec<(String, i64)> {
            let mut all = db.prepare("SELECT key, value FROM meta WHERE key GLOB 'type_*' ORDER BY key").expect("read");
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("read");
            rows.collect::<Result<_, _>>().expect("read")
        };
        let db = Connection::open(&path).expect("a store");
        let before = counts(&db);
        assert_eq!(db.execute("UPDATE depth SET state = 'gone', tasks = 7", []), Ok(1));
        let damaged = db.execute("UPDATE meta SET value = -1 WHERE key GLOB ?1 || '/*'", [damage]);
        assert_eq!(damaged, Ok(1));
        drop(db);
        let engine = Embedded::open(&site.0, at(0)).expect("a store");
        assert_eq!(engine.balance().await.expect("read"), sound);
        let of_type = Filter { task_type: Some(task(1, at(0)).task_type), ..Filter::default() };
        assert_eq!(engine.records(of_type, PageAsk::default()).await.expect("read").items.len(), 2);
        assert_eq!(engine.unreadable(), []);
        engine.close().await.expect("closed");
        drop(engine);
        assert_eq!(counts(&Connection::open(&path).expect("a store")), before, "{damage}");
    }
}

/// A number that stood at the end of its range was counted further: in a build with checks that ended the writer's thread,
/// without them a fence began anew.
#[tokio::test]
async fn a_number_at_the_end_of_its_range_stays_there() {
    let work = async |engine: &Embedded| {
        for n in 1..=4 {
            engine.submit(task(n, at(0)), integration("anthropic"), at(0)).await.expect("accepted");
        }
        let held = engine.lease(ask(1, 2), at(1)).await.expect("leased").remove(0);
        engine.command(held.task.id, settle(held.fence, ack()), at(2)).await.expect("settled");
    };
    // One done, one that runs, two that wait: something is counted in each of these when the next is claimed and done.
    let site = Site::new("range", work).await;
    let mut store = site.open();
    let waits = store.column("progress", "record")[2];
    let told = String::from_utf8(store.cells[waits].told()).expect("JSON");
    for (name, most) in [("fence", u64::MAX), ("attempt", u64::from(u32::MAX))] {
        let other = told.replace(&format!("\"{name}\":0"), &format!("\"{name}\":{most}"));
        store.damaged(&[waits], other.as_bytes());
    }
    // One at a time, and counts all together: what adds them up is another place.
    let (depths, metas) = (store.column("depth", "tasks"), store.column("meta", "value"));
    let each = depths.iter().chain(&metas).map(|&cell| vec![cell]);
    for cells in each.chain([depths.clone()]) {
        store.damaged(&cells, i64::MAX.to_string().as_bytes());
    }
}
