//! Rows that hold something else than was written: whatever a start makes of them, it says which file, and the other tasks
//! are what they were.

use std::cell::RefCell;
use std::collections::BTreeSet;

use backstop::delivery::{Amendment, AmendmentSource, Settlement};
use backstop::engine::conformance::{ack, ask, at, conclude, dead, failure, integration, intent, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::embedded::damaged::{Answers, Damaged};
use backstop::engine::{Document, Engine};
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::journal::{Entry, Line};
use backstop::task::{IdempotencyKey, Task};
use serde_json::json;

use super::recovery::{Scratch, told};

struct Store {
    damaged: Damaged,
    sound: Answers,
    _scratch: Scratch,
}

thread_local! {
    static STORE: RefCell<Option<Store>> = const { RefCell::new(None) };
}

/// Changes, each of six bytes and what they say is to be put in: which value (two bytes), from where in it (two), how much
/// is taken out (one), how much is put in (one).
pub(crate) fn rows(data: &[u8]) {
    STORE.with(|store| store.borrow_mut().get_or_insert_with(whole).damaged_by(data));
}

fn whole() -> Store {
    let scratch = Scratch::new("rows");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(work(&scratch));
    let mut damaged = Damaged::open(&scratch.0).expect("a store");
    let sound = damaged.with(&[]).expect("read");
    let well = sound.all.iter().all(|(_, said)| said.is_ok());
    assert!(well && sound.records.len() == 5, "what was not damaged can be read: {sound:?}");
    Store { damaged, sound, _scratch: scratch }
}

/// One of each: a task that waits, one that is retried, one in the dead letter queue, one done, one that runs.
async fn work(scratch: &Scratch) {
    let engine = Embedded::open(&scratch.0, at(0)).expect("a new store");
    let key = Some(IdempotencyKey::new("once").expect("a key"));
    for n in 1..=5 {
        let task = Task { deadline: Some(at(900)), idempotency_key: key.clone().filter(|_| n == 1), ..task(n, at(0)) };
        engine.submit(task, integration("anthropic"), at(0)).await.expect("accepted");
    }
    let busy = || failure(Class::Transient, Kind::RateLimited, "rate limit");
    let shorter = Amendment { from: AmendmentSource::Human, text: "shorter".to_owned() };
    let fates = [
        Some(Settlement::Retry { due: at(5), failure: busy(), amendment: Some(shorter) }),
        Some(dead(busy())),
        Some(ack()),
        None,
    ];
    for (held, fate) in engine.lease(ask(1, 4), at(1)).await.expect("leased").into_iter().zip(fates) {
        let lines = vec![Line::Intend { intent: intent(), worst: 7 }];
        let asked = Entry { fence: held.fence, lines, ..Entry::default() };
        engine.journal(held.task.id, asked, at(1)).await.expect("written");
        if let Some(fate) = fate {
            let said = Entry { fence: held.fence, lines: vec![conclude(1, 5)], ..Entry::default() };
            engine.journal(held.task.id, said, at(2)).await.expect("written");
            engine.command(held.task.id, settle(held.fence, fate), at(2)).await.expect("settled");
        }
    }
    let document =
        Document { kind: "incident".to_owned(), key: "INC-1".to_owned(), version: 0, body: json!({ "n": 1 }) };
    engine.save(vec![document], vec![Happening::Draining { running: 0 }.into()], at(3)).await.expect("saved");
    engine.close().await.expect("closed");
}

impl Store {
    fn damaged_by(&mut self, data: &[u8]) {
        let (mut changes, mut touched, mut of_store, mut rest) = (Vec::new(), BTreeSet::new(), false, data);
        while let Some((&[cell, cell_low, place, place_low, out, put], said)) = rest.split_first_chunk() {
            let cells = self.damaged.cells();
            let cell = usize::from(u16::from_be_bytes([cell, cell_low])) % cells.len();
            let mut bytes = cells[cell].told();
            let from = usize::from(u16::from_be_bytes([place, place_low])) % (bytes.len() + 1);
            let to = (from + usize::from(out)).min(bytes.len());
            let (put, left) = said.split_at(usize::from(put).min(said.len()));
            bytes.splice(from..to, put.iter().copied());
            touched.extend(cells[cell].record_of);
            of_store |= cells[cell].of_store;
            changes.push((cell, bytes));
            rest = left;
            if changes.len() == 8 {
                break;
            }
        }
        let answers = self.damaged.with(&changes).expect("damaged and mended");
        for (what, error) in answers.all.iter().filter_map(|(what, said)| Some((what, said.as_ref().err()?))) {
            told(error);
            // What is asked about one task may be refused for its sake; what is about all of them holds without it.
            let of_one = matches!(*what, "steps" | "settle" | "submit");
            assert!(of_one || of_store, "{what} fails for a row: {error:?}");
        }
        for (number, said) in answers.records.iter().chain(&answers.after) {
            match said {
                Ok(said) if !touched.contains(number) => {
                    let sound = self.sound.records[number].as_ref().expect("it was sound");
                    assert_eq!(said, sound, "nothing of task {number} was changed");
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(touched.contains(number), "nothing of task {number} was changed: {error:?}");
                    assert!(!answers.unreadable.is_empty(), "nobody is told of task {number}: {error:?}");
                    told(error);
                }
            }
        }
    }
}
