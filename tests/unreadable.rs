//! A store that holds rows that are not what was written: all else goes on, and a person is called for them, once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::{Config, TaskTypeConfig};
use backstop::engine::conformance::{ack, ask, at, conclude, dead, failure, intent, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Engine, PruneAsk};
use backstop::failure::{Class, Kind};
use backstop::incident::{PageAction, Trigger};
use backstop::journal::{Entry, Line};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::query::{Filter, PageAsk};
use backstop::record::{Record, State};
use backstop::retention::Retention;
use backstop::task::{Effect, TaskType};
use backstop::team::clock::Clock;
use backstop::team::desk::Desk;
use backstop::team::{Builder, Team};

use crate::engine::Scratch;
use crate::team::{Inbox, integration};

/// The numbers of the tasks: of each kind one that will be damaged and one that will not.
const WAIT: [u64; 2] = [1, 2];
const RUN: [u64; 2] = [3, 4];
const DEAD: [u64; 2] = [5, 6];

/// Where a task's record stands, and its journal: table, column, and the task's number.
const RECORD: (&str, &str, &str) = ("progress", "record", "seq");
const JOURNAL: (&str, &str, &str) = ("step", "step", "task");

/// A worker of one provider, that answers whatever it is asked.
fn config() -> Config {
    Config::new("acme").agent(Agent::new("cto", "primary/opus").expect("an agent").handling("code_review"))
}

fn builder(config: Config, engine: Arc<Embedded>) -> Builder {
    Team::builder(config)
        .engine(engine)
        .provider(Simulated::new(integration("primary"), |_, _| Scripted::text("done")))
        .clock(Clock::starting_at(at(1), 600.0))
        .seed(7)
}

/// Something to stand in a journal.
async fn asks(engine: &Embedded, held: &Record) {
    let lines = vec![Line::Intend { intent: intent(), worst: 7 }, conclude(1, 5)];
    let entry = Entry { fence: held.fence, lines, ..Entry::default() };
    engine.journal(held.task.id, entry, at(0)).await.expect("written");
}

/// What a process leaves that died with two at work, two in the queue and two dead letters.
async fn left(engine: &Embedded) {
    let accept = async |n| engine.submit(task(n, at(0)), integration("primary"), at(0)).await.expect("accepted");
    for n in DEAD {
        accept(n).await;
        let held = engine.lease(ask(1, 1), at(0)).await.expect("leased").remove(0);
        asks(engine, &held).await;
        let end = dead(failure(Class::Logic, Kind::Loop, "in circles"));
        engine.command(held.task.id, settle(held.fence, end), at(0)).await.expect("settled");
    }
    for n in RUN {
        accept(n).await;
    }
    let held = engine.lease(ask(1, 2), at(0)).await.expect("leased");
    assert_eq!(held.len(), 2);
    for held in held {
        asks(engine, &held).await;
    }
    for n in WAIT {
        accept(n).await;
    }
}

async fn until(desk: &Desk, what: &str, look: impl AsyncFn() -> bool) {
    let mut watch = desk.engine().watch();
    let happens = async {
        while !look().await {
            watch.changed().await.expect("the engine lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), happens).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// A team over such a store in which this column of these is damaged.
async fn goes_on(of: (&str, &str, &str), damaged: &[u64], listed: bool) {
    goes_on_beside(of, damaged, listed, "", &[]).await;
}

/// And in which this was done, of which those are told as well.
async fn goes_on_beside(
    (table, column, key): (&str, &str, &str),
    damaged: &[u64],
    listed: bool,
    done: &str,
    told: &[&str],
) {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("a store");
    left(&engine).await;
    engine.close().await.expect("closed");
    drop(engine);
    let id = |n| task(n, at(0)).id;
    let db = rusqlite::Connection::open(scratch.path().join("backstop.db")).expect("a store");
    for n in damaged {
        let of = "(SELECT seq FROM task WHERE id = ?1)";
        let sql = format!("UPDATE {table} SET {column} = replace({column}, '{{', '[') WHERE {key} = {of}");
        assert_eq!(db.execute(&sql, [id(*n).to_string()]), Ok(1));
    }
    db.execute_batch(done).expect("damaged");
    drop(db);

    let engine = Arc::new(Embedded::open(scratch.path(), at(1)).expect("a store"));
    if listed {
        let page = engine.records(Filter::default(), PageAsk::default()).await.expect("read");
        let told: BTreeSet<String> = page.unreadable.into_iter().map(|one| one.id).collect();
        assert_eq!(told, damaged.iter().map(|n| id(*n).to_string()).collect());
        assert_eq!(page.items.len(), 6 - damaged.len());
    }
    let inbox = Inbox::default();
    let mut config = config().agent(Agent::new("ceo", "primary/opus").expect("an agent"));
    let mutates = TaskTypeConfig { effect: Some(Effect::Mutation), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("code_review").expect("a name"), mutates);
    let team = builder(config, engine).on_call("ana", vec![Arc::new(inbox.clone())]).start().await.expect("a team");
    let desk = team.desk();
    for n in WAIT.into_iter().chain(RUN).filter(|n| !damaged.contains(n)) {
        assert_eq!(desk.wait(id(n)).await.expect("an end").state, State::Done, "task {n}");
    }
    // With its record it can be said of one without a journal, too.
    let decided = DEAD.into_iter().chain(RUN.into_iter().filter(|n| damaged.contains(n)));
    for n in decided.filter(|n| key == "task" || !damaged.contains(n)) {
        assert_eq!(desk.wait(id(n)).await.expect("an end").state, State::WaitingHuman, "the CEO has decided");
    }
    let calls = |trigger| {
        let pages = inbox.pages.lock().expect("not poisoned");
        pages
            .iter()
            .filter(|page| page.incident.trigger == trigger && page.action == PageAction::Trigger && !page.again)
            .count()
    };
    let both = async || calls(Trigger::Unreadable) == 1 && calls(Trigger::Judgement) > 0;
    until(&desk, "a call for what cannot be read, and one for the dead letter", both).await;
    let incidents = desk.incidents().await.expect("read");
    let of_them = incidents.iter().find(|incident| incident.trigger == Trigger::Unreadable).expect("an incident");
    for n in damaged {
        assert!(of_them.summary.contains(&id(*n).to_string()), "{of_them:?}");
    }
    for row in told {
        assert!(of_them.summary.contains(row), "{row}: {of_them:?}");
    }
    // What was stored of it could not be read, perhaps, and is stored anew.
    desk.close_breaker(&integration("primary"), "ana", "it is well").await.expect("closed");
    // Ended by a person it stays so: nobody is called a second time for what they know.
    desk.resolve(&of_them.id, "ana", "they are looked after").await.expect("resolved");
    let more = desk.engine().submit(task(9, at(2)), integration("primary"), desk.now()).await.expect("accepted").record;
    desk.wait(more.task.id).await.expect("an end");
    team.drain(Duration::from_secs(5)).await.expect("drained");
    assert_eq!(calls(Trigger::Unreadable), 1);
}

/// A task that could not be read when it was claimed was told in the log, and to nobody.
#[tokio::test]
async fn what_cannot_be_claimed_calls_a_person() {
    goes_on(RECORD, &WAIT[..1], false).await;
}

/// One damaged row among what a crash had left running kept the team from starting anything; one among the dead letters kept
/// the CEO from deciding about any, and the pager from calling anybody about anything.
#[tokio::test]
async fn what_cannot_be_read_holds_up_nobody_and_calls_a_person_once() {
    goes_on(RECORD, &[WAIT[0], RUN[0], DEAD[0]], true).await;
}

/// One journal that could not be read did the same; what it is about may not be sent again, so a person decides.
#[tokio::test]
async fn a_journal_that_cannot_be_read_is_a_persons() {
    goes_on(JOURNAL, &RUN[..1], false).await;
    goes_on(JOURNAL, &DEAD[..1], false).await;
}

/// A damaged count kept the team from starting, a death the CEO and the pager from their work, an event whoever waited for the
/// end of a task, an incident everybody who looked at any.
#[tokio::test]
async fn what_is_of_no_one_task_holds_up_nobody_either() {
    let done = "UPDATE depth SET state = 'gone' WHERE state = 'running';
                UPDATE task SET agent = '' WHERE state = 'ready';
                UPDATE death SET class = 'none' WHERE n = 1;
                INSERT INTO document VALUES ('breaker', 'primary', 3, '{');
                INSERT INTO document VALUES ('incident', 'INC-1', 1, '{')";
    goes_on_beside(RECORD, &[], true, done, &["(death 1)", "(incident INC-1)", "(breaker primary)"]).await;
    // What is JSON, and no incident.
    let done = "INSERT INTO document VALUES ('incident', 'INC-1', 1, '{\"n\":1}')";
    goes_on_beside(RECORD, &[], true, done, &["(incident INC-1)"]).await;
}

/// Whoever waited for the end of a task was woken by what the feed told of it, and not if that could not be read.
#[tokio::test]
async fn an_end_that_cannot_be_read_wakes_whoever_waits() {
    let scratch = Scratch::new();
    let engine = Arc::new(Embedded::open(scratch.path(), at(0)).expect("a store"));
    let db = rusqlite::Connection::open(scratch.path().join("backstop.db")).expect("a store");
    let damages = "CREATE TRIGGER damages AFTER INSERT ON event BEGIN
                     UPDATE event SET what = '{' WHERE seq = NEW.seq; END";
    db.execute_batch(damages).expect("damaging");
    let team = builder(config(), engine).start().await.expect("a team");
    let desk = team.desk();
    for n in 1..=5 {
        let record =
            desk.engine().submit(task(n, at(0)), integration("primary"), desk.now()).await.expect("accepted").record;
        let ends = tokio::time::timeout(Duration::from_secs(60), desk.wait(record.task.id));
        assert_eq!(ends.await.expect("woken").expect("an end").state, State::Done);
    }
    team.drain(Duration::from_secs(5)).await.expect("drained");
}

/// One finished task whose body was damaged ended every prune, and failed whoever wrote at the same time.
#[tokio::test]
async fn what_is_damaged_and_over_is_forgotten_like_the_rest() {
    let scratch = Scratch::new();
    let engine = Embedded::open(scratch.path(), at(0)).expect("a store");
    for n in 1..=2 {
        engine.submit(task(n, at(0)), integration("primary"), at(0)).await.expect("accepted");
        let held = engine.lease(ask(1, 1), at(0)).await.expect("leased").remove(0);
        engine.command(held.task.id, settle(held.fence, ack()), at(0)).await.expect("settled");
    }
    engine.close().await.expect("closed");
    drop(engine);
    let db = rusqlite::Connection::open(scratch.path().join("backstop.db")).expect("a store");
    assert_eq!(db.execute("UPDATE body SET task = '{' WHERE seq = 1", []), Ok(1));
    drop(db);
    let now = at(31 * 24 * 3_600);
    let engine = Embedded::open(scratch.path(), now).expect("a store");
    let needed = Arc::new(BTreeSet::new());
    let all = PruneAsk { retention: Retention::default(), needed, dry_run: false, after: 0 };
    let stretch = engine.prune(all, now).await.expect("pruned");
    assert_eq!((stretch.pruned.done, stretch.next), (2, None));
}
