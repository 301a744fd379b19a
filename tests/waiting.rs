//! Waiting for a task: woken by what happens to it, and never for ever.

use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::Config;
use backstop::engine::embedded::Embedded;
use backstop::engine::{self, Engine};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::record::State;
use backstop::task::{Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::wall;
use backstop::team::desk::{Desk, DeskError, NewTask};
use serde_json::json;

use crate::engine::Scratch;

fn integration() -> Integration {
    Integration::new("sim").expect("a name")
}

async fn team(scratch: &Scratch, answers: bool) -> Team {
    let model = Simulated::new(integration(), move |_, _| match answers {
        true => Scripted::text("done"),
        false => Scripted { after: Duration::from_secs(3_600), ..Scripted::text("late") },
    });
    let agent = Agent::new("cto", "sim/model").expect("an agent").handling("work");
    let store = Embedded::open(scratch.path(), wall()).expect("the store opens");
    Team::builder(Config::new("test").agent(agent))
        .engine(Arc::new(store))
        .provider(model)
        .start()
        .await
        .expect("a team")
}

async fn submitted(desk: &Desk) -> TaskId {
    let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({}));
    desk.submit(ask).await.expect("accepted").record.task.id
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_waits_is_told_of_their_own_task() {
    let scratch = Scratch::new();
    let team = team(&scratch, true).await;
    let desk = team.desk();
    let waits = (0..200).map(|_| {
        let desk = desk.clone();
        async move {
            let id = submitted(&desk).await;
            // Two who wait for one task are both told; one that waits once more is told at once.
            let (first, second) = tokio::join!(desk.wait(id), desk.wait(id));
            assert_eq!(first.expect("ended").task.id, id);
            assert_eq!(second.expect("ended").state, State::Done);
            desk.wait(id).await.expect("ended").task.id
        }
    });
    let mut told = futures_util::future::join_all(waits).await;
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 200);
    team.drain(Duration::from_secs(5)).await.expect("drained");
}

/// Who waited for a task that did not end before the team was stopped waited for ever: the store was closed under them,
/// and nobody woke them to see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_team() {
    let scratch = Scratch::new();
    let team = team(&scratch, false).await;
    let desk = team.desk();
    let id = submitted(&desk).await;
    let waits = tokio::spawn({
        let desk = desk.clone();
        async move { desk.wait(id).await }
    });
    team.drain(Duration::ZERO).await.expect("drained");
    let ended = tokio::time::timeout(Duration::from_secs(30), waits).await.expect("the wait ends").expect("no panic");
    assert!(matches!(ended, Err(DeskError::Engine(engine::Error::Closed))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_that_is_dropped_lets_go_of_its_store_whoever_waited_before() {
    let scratch = Scratch::new();
    let team = team(&scratch, true).await;
    let desk = team.desk();
    let id = submitted(&desk).await;
    desk.wait(id).await.expect("ended");
    let engine = desk.engine().epoch();
    drop((team, desk));
    // Actors that are told to stop let go in their own time; counted in turns it was too little on a busy machine.
    let again = async {
        loop {
            match Embedded::open(scratch.path(), wall()) {
                Err(engine::Error::InUse { .. }) => tokio::task::yield_now().await,
                opened => return opened,
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), again).await.expect("in the end it is free");
    assert_eq!(again.expect("it is free").epoch(), engine + 1);
}
