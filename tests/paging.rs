//! Calls through the incident actor: in order, once, and to everybody whom they concern.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstop::engine::memory::Memory;
use backstop::engine::{Document, Engine};
use backstop::escalation::Rules;
use backstop::event::Happening;
use backstop::incident::{self, Incident, IncidentCommand, PageAction};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::outbox;
use backstop::task::TaskType;
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::team::{Part, Team};
use backstop::time::Timestamp;
use backstop::triage::Decision;
use serde_json::json;

use crate::team::{Inbox, Stage, config, integration, status};

/// The team of three, whose provider refuses everything; when nobody takes a call to ana, ben stands in.
async fn two_on_call(engine: Arc<Memory>, ana: &Inbox, ben: &Inbox, now: &str) -> Team {
    Team::builder(config())
        .engine(engine)
        .provider(Simulated::new(integration("primary"), |_, _| status(400, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("not asked")))
        .on_call("ana", vec![Arc::new(ana.clone())])
        .on_call("ben", vec![Arc::new(ben.clone())])
        .clock(Clock::starting_at(Timestamp::parse(now).expect("a time"), 1.0))
        .start()
        .await
        .expect("a team")
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_page_goes_out_again_and_a_page_that_cannot_be_delivered_stays() {
    let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
    stage.inbox.down.store(true, Ordering::Relaxed);
    let id = stage.submit("code_review").await;
    stage.ended(id).await;
    stage
        .until("a failed page", async |desk| {
            let events = desk.engine().events(0, 1000).await.expect("events");
            events.iter().any(|event| matches!(event.what, Happening::PageFailed { .. }))
        })
        .await;
    stage.inbox.down.store(false, Ordering::Relaxed);
    stage
        .until("two calls", async |_| {
            stage.inbox.actions().iter().filter(|action| **action == PageAction::Trigger).count() >= 2
        })
        .await;
    let keys: std::collections::BTreeSet<String> =
        stage.inbox.pages.lock().expect("not poisoned").iter().map(|page| page.dedup_key.clone()).collect();
    assert_eq!(keys.len(), 1, "one incident, one key");
}

/// A channel that panicked or hung was tried for ever, uncounted, and its page held up what came after it.
#[tokio::test(start_paused = true)]
async fn a_channel_that_is_broken_counts_as_a_try() {
    for (broken, said) in [(1, "the channel panicked"), (2, "the channel did not answer in 60s")] {
        let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
        stage.inbox.broken.store(broken, Ordering::Relaxed);
        stage.submit("code_review").await;
        stage.until("the page", async |_| !stage.inbox.actions().is_empty()).await;
        let happened = stage.happened().await;
        let failed = happened.iter().find_map(|what| {
            if let Happening::PageFailed { error, next, .. } = what {
                Some((error.as_str(), next.is_some()))
            } else {
                None
            }
        });
        assert_eq!(failed, Some((said, true)));
        assert_eq!(stage.inbox.actions(), [PageAction::Trigger]);
        assert_eq!(stage.inbox.pages.lock().expect("not poisoned")[0].tries, 1);
    }
}

/// The same as in tests/incidents.rs, through the actor: one trouble that becomes part of a larger one while its call is
/// on its way ends after the call, not before.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_incident_is_heard_after_its_call() {
    let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
    stage.inbox.slow.store(true, Ordering::Relaxed);
    stage.submit("code_review").await;
    stage.until("an incident", async |desk| !desk.incidents().await.expect("incidents").is_empty()).await;
    for n in 0..2 {
        stage.submit_with("code_review", json!({ "n": n })).await;
    }
    let first = || {
        let pages = stage.inbox.pages.lock().expect("not poisoned");
        let first = pages.iter().filter(|page| page.incident.id == "INC-1");
        first.map(|page| page.action).collect::<Vec<_>>()
    };
    stage.until("the end", async |_| first().contains(&PageAction::Resolve)).await;
    let events = stage.desk.engine().events(0, 1_000).await.expect("events");
    let at = |what: fn(&Happening) -> bool| events.iter().find(|event| what(&event.what)).expect("it happened").at;
    let resolved = at(|what| matches!(what, Happening::IncidentResolved { .. }));
    let delivered = at(|what| matches!(what, Happening::PageDelivered { .. }));
    assert!(resolved < delivered, "it was over while its call was on its way");
    assert_eq!(first(), [PageAction::Trigger, PageAction::Resolve]);
}

/// The call of somebody who stood in was answered for the one who was meant, and only that one was told: the other kept an
/// alert that nobody ended.
#[tokio::test(start_paused = true)]
async fn whoever_stood_in_is_told_of_the_end() {
    let (ana, ben) = (Inbox::default(), Inbox::default());
    ana.down.store(true, Ordering::Relaxed);
    let team = two_on_call(Arc::new(Memory::new()), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = team.desk();
    let id = desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await;
    let id = id.expect("accepted").record.task.id;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![], vec![PageAction::Trigger]));
    desk.decide(id, Decision::Discard { why: "not worth it".to_owned() }, "ana", "not worth it")
        .await
        .expect("decided");
    let incident = desk.incidents().await.expect("incidents").remove(0);
    desk.resolve(&incident.id, "ana", "over").await.expect("resolved");
    ana.down.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        (ana.actions(), ben.actions()),
        (vec![PageAction::Resolve], vec![PageAction::Trigger, PageAction::Resolve])
    );
}

/// A process died while the call of somebody who stood in was on its way, and the incident was over when the next one began:
/// the call counted as one that was never made, and nobody ended the alert it had raised.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_out_when_the_process_died_is_ended() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    ana.down.store(true, Ordering::Relaxed);
    ben.slow.store(true, Ordering::Relaxed);
    let first = two_on_call(engine.clone(), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = first.desk();
    desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await.expect("accepted");
    let pages = async |engine: &Memory| engine.documents("page").await.expect("pages");
    let called = async {
        while !pages(&engine).await.iter().any(|page| page.key.contains("ben/")) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), called).await.expect("ben stands in");
    let now = desk.now();
    drop(first);
    let engine = Arc::new(engine.reopened());
    // What the dead process had written last, and not looked at any more.
    let stored = engine.documents("incident").await.expect("incidents").remove(0);
    let incident: Incident = serde_json::from_value(stored.body.clone()).expect("an incident");
    let resolve = IncidentCommand::Resolve { by: "ana".to_owned(), note: String::new() };
    let change = incident::apply(&incident, resolve, &Rules::default(), now).expect("resolved");
    let steps = [vec!["ana/inbox".to_owned()], vec!["ben/inbox".to_owned()]];
    let ends = change.pages.iter().flat_map(|draft| outbox::pages(&change.incident, draft, "acme", &steps, now));
    let ends = ends.map(|page| Document {
        kind: "page".to_owned(),
        key: page.id.clone(),
        version: 0,
        body: serde_json::to_value(&page).expect("JSON"),
    });
    let body = serde_json::to_value(&change.incident).expect("JSON");
    let mut documents = vec![Document { body, ..stored }];
    documents.extend(ends);
    assert!(documents.len() == 2, "only ana was meant: {documents:?}");
    engine.save(documents, Vec::new(), now).await.expect("saved");
    ana.down.store(false, Ordering::Relaxed);
    let _second = two_on_call(engine, &ana, &ben, &now.to_string()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(ana.actions(), [PageAction::Resolve]);
    assert!(ben.actions().contains(&PageAction::Resolve), "{:?}", ben.actions());
}

/// The incident actor forgot with its life what it was sending: the next one sent it beside it, and somebody was called twice
/// as if for the first time.
#[tokio::test(start_paused = true)]
async fn a_page_on_its_way_outlives_the_incident_actor() {
    let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
    stage.inbox.slow.store(true, Ordering::Relaxed);
    stage.submit("code_review").await;
    stage.until("an incident", async |desk| !desk.incidents().await.expect("incidents").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.inbox.actions(), [], "it is on its way");
    stage.team.crash(Part::Incidents);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.inbox.actions(), [PageAction::Trigger]);
    let incident = stage.desk.incidents().await.expect("incidents").remove(0);
    stage.desk.acknowledge(&incident.id, "ana", "looking").await.expect("acknowledged");
    stage.until("the next one's work", async |_| stage.inbox.actions().contains(&PageAction::Acknowledge)).await;
}
