//! What an engine forgets, and what it goes on counting.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Site, ack, ask, at, claim_one, dead, failure, integration, intent, settle, submit, task};
use crate::decision::{Decided, DeciderKind, Decision};
use crate::engine::{Engine, Error, PruneAsk};
use crate::event::Happening;
use crate::failure::{Class, Kind};
use crate::journal::{Entry, Line};
use crate::ledger::Command;
use crate::query::{Filter, PageAsk};
use crate::record::{Record, State};
use crate::retention::{Pruned, Retention};
use crate::task::{IdempotencyKey, Task, TaskId};
use crate::time::Timestamp;

/// Forgets all that may go, stretch after stretch.
///
/// # Panics
/// When the engine refuses, or finds no end.
pub async fn prune(
    engine: &dyn Engine,
    retention: Retention,
    needed: &[TaskId],
    dry_run: bool,
    now: Timestamp,
) -> Pruned {
    let mut ask = PruneAsk { retention, needed: Arc::new(needed.iter().copied().collect()), dry_run, after: 0 };
    let mut pruned = Pruned::default();
    for _ in 0..1_000 {
        let stretch = engine.prune(ask.clone(), now).await.expect("forgotten");
        pruned.add(stretch.pruned);
        match stretch.next {
            Some(next) => ask.after = next,
            None => return pruned,
        }
    }
    panic!("there is no end to it");
}

/// A person's decision to give a dead letter up for good.
fn discard(record: &Record, now: Timestamp) -> Command {
    let decided = Decided {
        number: 0,
        generation: record.generation,
        decision: Decision::Discard { why: "obsolete".to_owned() },
        by: DeciderKind::Human,
        who: None,
        at: now,
        reasons: Vec::new(),
        rejected: Vec::new(),
    };
    Command::Decide { decided, seen: None, integration: record.integration.clone() }
}

pub(super) async fn forgets(site: &mut dyn Site) {
    const DAY: i64 = 24 * 3_600;
    let engine = site.open(at(0));
    let key = Some(IdempotencyKey::new("k").expect("a key"));
    submit(&*engine, Task { idempotency_key: key.clone(), ..task(0, at(0)) }, at(0)).await;
    for n in 1..=5 {
        submit(&*engine, task(n, at(0)), at(0)).await;
    }
    let claimed = engine.lease(ask(1, 5), at(0)).await.expect("leased");
    let ids: Vec<TaskId> = claimed.iter().map(|record| record.task.id).collect();
    for (record, done) in claimed.iter().zip([true, true, false, false, true]) {
        let lines = vec![Line::Intend { intent: intent(), worst: 1 }];
        engine.journal(record.task.id, Entry { fence: 1, lines, ..Entry::default() }, at(0)).await.expect("written");
        let fate = if done { ack() } else { dead(failure(Class::Transient, Kind::Overloaded, "busy")) };
        engine.command(record.task.id, settle(1, fate), at(0)).await.expect("settled");
    }
    let letter = engine.record(ids[3]).await.expect("read").expect("there");
    engine.command(ids[3], discard(&letter, at(0)), at(0)).await.expect("discarded");
    let waiting = claim_one(&*engine, at(0)).await.task.id;
    let cancel = Command::Cancel { by: "a person".to_owned(), reason: "no".to_owned() };
    engine.command(waiting, cancel, at(0)).await.expect("cancelled");
    let open = submit(&*engine, task(6, at(0)), at(0)).await.task.id;
    engine.publish(vec![Happening::Draining { running: 0 }.into()], at(0)).await.expect("told");
    let before = (engine.balance().await.expect("read"), engine.events(0, 99).await.expect("read"));
    let last = before.1.last().expect("events").seq;

    // Done tasks go after thirty days, the needed one not; what was discarded after ninety; what is open never.
    let nothing = Pruned::default();
    let young = prune(&*engine, Retention::default(), &[], false, at(30 * DAY - 1)).await;
    assert_eq!(young, nothing, "not a second early");
    let dry = prune(&*engine, Retention::default(), &ids[4..], true, at(30 * DAY)).await;
    assert_eq!((dry.done, dry.dead, dry.cancelled), (2, 0, 1));
    let after = (engine.balance().await.expect("read"), engine.events(0, 99).await.expect("read"));
    assert_eq!(before, after, "a dry run changes nothing");
    let month = prune(&*engine, Retention::default(), &ids[4..], false, at(30 * DAY)).await;
    assert_eq!((month.done, month.dead, month.cancelled), (2, 0, 1), "as the dry run said");
    assert_eq!(month.events, 9, "submitted, claimed, ended, of three");
    for id in [ids[0], ids[1], waiting] {
        assert_eq!(engine.record(id).await.expect("read"), None);
        assert!(engine.history(id).await.expect("read").is_empty());
        assert!(engine.steps(id).await.expect("read").is_empty());
        assert!(matches!(engine.command(id, settle(1, ack()), at(30 * DAY)).await, Err(Error::NoTask(_))));
    }
    let left = engine.records(Filter::default(), PageAsk::default()).await.expect("read").items;
    let left: Vec<TaskId> = left.iter().map(|record| record.task.id).collect();
    assert_eq!(left, [open, ids[4], ids[3], ids[2]], "the others stay");
    assert_eq!(engine.steps(ids[4]).await.expect("read").len(), 1, "with all that is theirs");
    let balance = engine.balance().await.expect("read");
    let told = (balance.submitted, balance.done, balance.dead, balance.cancelled, balance.waiting, balance.pruned);
    assert_eq!((told, balance.lost()), ((7, 1, 2, 0, 1, 3), 0), "what is forgotten is still counted");
    let depths = engine.depths().await.expect("read");
    let depths: Vec<_> = depths.iter().map(|depth| (depth.state, depth.tasks)).collect();
    assert_eq!(depths, [(State::Ready, 1), (State::Done, 1), (State::Dead, 2)]);
    assert_eq!(engine.events(0, 99).await.expect("read").last().map(|event| event.seq), Some(last));
    assert_eq!(prune(&*engine, Retention::default(), &ids[4..], false, at(30 * DAY)).await, nothing, "once");
    let quarter = prune(&*engine, Retention::default(), &[], false, at(90 * DAY)).await;
    assert_eq!((quarter.done, quarter.dead, quarter.cancelled), (1, 1, 0));
    let letters = engine.dead_letters(Filter::default(), PageAsk::default()).await.expect("read").items;
    assert_eq!(letters.iter().map(|record| record.task.id).collect::<Vec<_>>(), [ids[2]], "a person is waited for");

    // Counts outlive their tasks until the longest window that is kept is over, to the hour.
    let counted = async |engine: &dyn Engine| {
        let (rates, deaths) = (engine.failure_rates(at(-1)).await, engine.deaths(at(-1)).await);
        (rates.expect("read").iter().map(|rate| rate.failures).sum::<u64>(), deaths.expect("read").len())
    };
    assert_eq!(counted(&*engine).await, (2, 2));
    let hour = prune(&*engine, Retention::default(), &[], false, at(90 * DAY + 3_600)).await;
    assert_eq!((hour.tasks(), hour.events), (0, 1), "the one event of no task");
    assert_eq!(counted(&*engine).await, (0, 0));

    // A key of a task that is forgotten is free, and numbers go on where they were, also after a restart.
    let again = Task { idempotency_key: key, payload: json!("other"), ..task(7, at(0)) };
    let again = engine.submit(again, integration("anthropic"), at(90 * DAY)).await.expect("accepted");
    assert!(again.new);
    let command = Command::Cancel { by: "a person".to_owned(), reason: "no".to_owned() };
    engine.command(again.record.task.id, command, at(90 * DAY)).await.expect("cancelled");
    let week = Retention::older_than(Duration::from_secs(7 * 24 * 3_600));
    let gone = prune(&*engine, week, &[], false, at(97 * DAY)).await;
    assert_eq!((gone.cancelled, gone.events), (1, 2));
    let balance = engine.balance().await.expect("read");
    drop(engine);
    let engine = site.open(at(97 * DAY));
    assert_eq!(engine.balance().await.expect("read"), balance, "a restart forgets no count");
    assert_eq!(*engine.watch().borrow(), last + 2, "the last event is gone, its number is not given again");
    let next = submit(&*engine, task(8, at(97 * DAY)), at(97 * DAY)).await;
    assert_eq!(engine.history(next.task.id).await.expect("read")[0].seq, last + 3);
    assert_eq!(engine.balance().await.expect("read").submitted, balance.submitted + 1);
}
