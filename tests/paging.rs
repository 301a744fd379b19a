//! Calls through the incident actor: in order, once, and to everybody whom they concern.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstop::config::{AdviserConfig, ChannelConfig};
use backstop::engine::memory::Memory;
use backstop::engine::{Document, Engine};
use backstop::escalation::Rules;
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::incident::{self, Incident, IncidentCommand, IncidentState, Opening, Page, PageAction, Trigger};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::outbox;
use backstop::pager::{Channel, Sending};
use backstop::query::Death;
use backstop::task::{AgentName, TaskId, TaskType};
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::team::{Part, Team};
use backstop::time::Timestamp;
use backstop::triage::Decision;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::team::{Inbox, Stage, config, integration, status};
use crate::world::evening;

/// The team of three, whose provider refuses everything; when nobody takes a call to ana, ben stands in.
async fn two_on_call(engine: Arc<Memory>, ana: &Inbox, ben: &Inbox, now: &str) -> Team {
    on_call(engine, [("ana", ana), ("ben", ben)], now).await
}

async fn on_call(engine: Arc<Memory>, people: [(&str, &Inbox); 2], now: &str) -> Team {
    let team = Team::builder(config())
        .engine(engine)
        .provider(Simulated::new(integration("primary"), |_, _| status(400, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("not asked")));
    people
        .into_iter()
        .fold(team, |team, (name, inbox)| team.on_call(name, vec![Arc::new(inbox.clone())]))
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

/// The next one was called when something else was looked at, here the next try to reach ana: after seven minutes, not five.
#[tokio::test(start_paused = true)]
async fn the_next_one_stands_in_when_it_is_time() {
    let (ana, ben) = (Inbox::default(), Inbox::default());
    ana.down.store(true, Ordering::Relaxed);
    let team = two_on_call(Arc::new(Memory::new()), &ana, &ben, "2026-11-21T23:00:00Z").await;
    team.desk().submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(ben.actions(), [], "ana has five minutes");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ben.actions(), [PageAction::Trigger]);
}

/// Those on call had been put in another order when the process came back: a call that was not delivered yet was looked for
/// at the place of the one who was meant, went to the log, and counted as delivered.
#[tokio::test(start_paused = true)]
async fn a_call_finds_its_person_wherever_they_stand_now() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    ana.down.store(true, Ordering::Relaxed);
    let first = two_on_call(engine.clone(), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = first.desk();
    desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(90)).await;
    let now = desk.now();
    drop(first);
    let engine = Arc::new(engine.reopened());
    ana.down.store(false, Ordering::Relaxed);
    let _second = on_call(engine, [("ben", &ben), ("ana", &ana)], &now.to_string()).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![PageAction::Trigger], vec![]));
}

/// While the CEO was away a person ended the incident about three dead letters; the CEO came back and asked for a person's
/// judgement of each. They were in an incident, so nobody was called, and they waited for ever.
#[tokio::test(start_paused = true)]
async fn who_is_asked_after_the_incident_ended_is_called_anew() {
    let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
    stage.team.crash(Part::Ceo);
    for n in 0..3 {
        stage.submit_with("code_review", json!({ "n": n })).await;
    }
    stage.until("an incident", async |desk| !desk.incidents().await.expect("incidents").is_empty()).await;
    let balance = stage.desk.engine().balance().await.expect("a balance");
    assert_eq!((balance.dead, balance.waiting_human), (3, 0), "nobody has decided yet");
    stage.desk.resolve("INC-1", "ana", "looks fine to me").await.expect("nothing of it waits for a person yet");
    stage
        .until("another incident", async |desk| {
            let incidents = desk.incidents().await.expect("incidents");
            let asked: usize = incidents.iter().filter(|one| one.is_open()).map(|incident| incident.deaths.len()).sum();
            asked == 3
        })
        .await;
    let calls = || stage.inbox.actions().iter().filter(|action| **action == PageAction::Trigger).count();
    stage.until("another call", async |_| calls() == 2).await;
}

/// A process died after it had opened the incident about three dead letters, and before it had ended the one about the first
/// of them: nothing ended that later, and it called again every quarter of an hour for the same trouble.
#[tokio::test(start_paused = true)]
async fn a_part_ends_also_when_the_process_died_right_after_the_whole_was_opened() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    let now = evening();
    let deaths: Vec<Death> = (0..3)
        .map(|i| Death {
            task: TaskId::new(now, [i; 10]),
            generation: 1,
            at: now,
            agent: AgentName::new("cto").expect("a name"),
            task_type: TaskType::new("code_review").expect("a name"),
            class: Class::Logic,
            kind: Kind::Loop,
            integration: None,
        })
        .collect();
    let opened = |id: &str, trigger, subject: &str, deaths| {
        let (id, subject) = (id.to_owned(), subject.to_owned());
        let opening = Opening { id, trigger, subject, deaths, why: String::new(), runbook: None, in_doubt: Vec::new() };
        let incident = incident::open(opening, &Rules::default(), now).incident;
        let body = serde_json::to_value(&incident).expect("JSON");
        Document { kind: "incident".to_owned(), key: incident.id, version: 0, body }
    };
    let part = opened("INC-1", Trigger::Judgement, "cto/code_review/loop", deaths[..1].to_vec());
    let whole = opened("INC-2", Trigger::DeadLetters, "", deaths);
    engine.save(vec![part, whole], Vec::new(), now).await.expect("saved");
    let team = two_on_call(engine, &ana, &ben, &now.to_string()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let over = team.desk().incident("INC-1").await.expect("it is there");
    assert_eq!((over.state, over.answers[0].note.as_str()), (IncidentState::Resolved, "it is part of INC-2"));
    assert!(team.desk().incident("INC-2").await.expect("it is there").is_open());
}

/// A person decided about the one task of an incident, and was called about it again after a quarter of an hour.
#[tokio::test(start_paused = true)]
async fn what_was_decided_calls_nobody_again() {
    let discard = || Decision::Discard { why: "not worth it".to_owned() };
    for overridden in [false, true] {
        let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
        let id = stage.submit("code_review").await;
        stage.until("the call", async |_| stage.inbox.actions() == [PageAction::Trigger]).await;
        if overridden {
            let said = stage.desk.override_incident("INC-1", discard(), "ana", "no").await.expect("overridden");
            assert_eq!((said.decided, said.incident.state), (vec![id], IncidentState::Overridden));
        } else {
            stage.desk.decide(id, discard(), "ana", "no").await.expect("decided");
        }
        tokio::time::sleep(Duration::from_secs(6 * 3_600)).await;
        let over = stage.desk.incident("INC-1").await.expect("it is there");
        let last = over.answers.last().expect("an answer");
        assert_eq!((over.state, last.by.as_str()), (IncidentState::Resolved, incident::BY_ITSELF));
        let actions = stage.inbox.actions();
        assert_eq!(actions.iter().filter(|action| **action == PageAction::Trigger).count(), 1, "{actions:?}");
        assert_eq!(actions.last(), Some(&PageAction::Resolve));
        stage.desk.resolve("INC-1", "ana", "done").await.expect("whoever ends it too is told nothing else");
    }
}

/// An integration that was parked until a time it had named, and was well again then, left its incident open. When its key was
/// revoked later that was taken for the same trouble: nobody was called.
#[tokio::test(start_paused = true)]
async fn an_integration_that_is_parked_again_calls_again() {
    let stage = Stage::new(config(), |_, call| match call {
        1 => {
            let mut scripted = status(429, r#"{"error":{"message":"out of quota"}}"#);
            if let Err(failure) = &mut scripted.result {
                failure.headers = vec![("retry-after".to_owned(), "3600".to_owned())];
            }
            scripted
        }
        2 => Scripted::text("well again"),
        _ => status(401, r#"{"type":"error","error":{"type":"authentication_error","message":"no"}}"#),
    })
    .await;
    let calls = || stage.inbox.actions().iter().filter(|action| **action == PageAction::Trigger).count();
    stage.submit("code_review").await;
    stage.until("a call", async |_| calls() == 1).await;
    stage.desk.acknowledge("INC-1", "ana", "I see").await.expect("acknowledged");
    tokio::time::sleep(Duration::from_secs(3_700)).await;
    assert!(stage.desk.incident("INC-1").await.expect("it is there").is_open(), "nobody has seen whether it is well");
    let id = stage.submit("build").await;
    assert_eq!(stage.ended(id).await.answer, Some(json!("well again")));
    stage.until("the end", async |desk| !desk.incident("INC-1").await.expect("it is there").is_open()).await;
    let over = stage.desk.incident("INC-1").await.expect("it is there");
    assert_eq!((over.trigger, over.answers[1].note.as_str()), (Trigger::Integration, "calls go through again"));
    stage.submit_with("code_review", json!({ "n": 2 })).await;
    stage.until("a second call", async |_| calls() == 2).await;
}

/// A CEO that died again and again called a person, and was well again a quarter of an hour later. Its incident stayed open, and
/// took in the crash loops that came later: nobody was called for those.
#[tokio::test(start_paused = true)]
async fn a_ceo_that_dies_again_and_again_a_second_time_calls_again() {
    let stage = Stage::new(config(), |_, _| Scripted::text("fine")).await;
    let called = |id: &str| {
        let pages = stage.inbox.pages.lock().expect("not poisoned");
        pages.iter().any(|page| page.incident.id == id && page.action == PageAction::Trigger)
    };
    let dies_six_times = async || {
        for _ in 0..6 {
            stage.team.crash(Part::Ceo);
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    };
    dies_six_times().await;
    assert!(called("INC-1"));
    stage.desk.acknowledge("INC-1", "ana", "I see").await.expect("acknowledged");
    // It is tried again after a quarter of an hour, and has to stay up for an hour then.
    tokio::time::sleep(Duration::from_secs(4_400)).await;
    assert!(stage.desk.incident("INC-1").await.expect("it is there").is_open(), "it may die again");
    stage.until("the end", async |desk| !desk.incident("INC-1").await.expect("it is there").is_open()).await;
    let over = stage.desk.incident("INC-1").await.expect("it is there");
    assert_eq!((over.trigger, over.subject.as_str()), (Trigger::CeoDown, "ceo"));
    assert_eq!(over.answers.last().map(|last| last.by.as_str()), Some(incident::BY_ITSELF));
    assert_eq!(over.updated_at.since(over.opened_at).as_secs(), 4_500);
    dies_six_times().await;
    assert!(called("INC-2"));
}

/// A dead letter had lain undecided for ten minutes, here behind an adviser that was silent for longer, and was decided. The
/// incident about that was never over.
#[tokio::test(start_paused = true)]
async fn a_ceo_that_decides_again_ends_its_incident() {
    let mut slow = config();
    slow.ceo.adviser = Some(AdviserConfig {
        model: "adviser/wise".parse().expect("a model"),
        within: Duration::from_secs(700),
        max_output_tokens: 200,
        micro_usd_per_hour: 10_000_000,
    });
    let inbox = Inbox::default();
    let team = Team::builder(slow)
        .engine(Arc::new(Memory::new()))
        .provider(Simulated::new(integration("primary"), |_, _| status(500, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("from the fallback")))
        .provider(Simulated::new(integration("adviser"), |_, _| Scripted::text("?").after(Duration::from_secs(3_600))))
        .on_call("ana", vec![Arc::new(inbox.clone())])
        .clock(Clock::starting_at(evening(), 1.0))
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let id = desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await;
    let record = desk.wait(id.expect("accepted").record.task.id).await.expect("an end");
    assert_eq!(record.answer, Some(json!("from the fallback")));
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    let open = desk.incident("INC-1").await.expect("it is there");
    assert_eq!((open.trigger, open.is_open()), (Trigger::CeoDown, true));
    tokio::time::sleep(Duration::from_secs(200)).await;
    let over = desk.incident("INC-1").await.expect("it is there");
    let last = over.answers.last().expect("an answer");
    assert_eq!((over.state, last.by.as_str()), (IncidentState::Resolved, incident::BY_ITSELF));
    assert_eq!(over.updated_at.since(record.decisions[0].at).as_secs(), 3_600);
    assert_eq!(inbox.actions().last(), Some(&PageAction::Resolve));
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
    // Its task still waits, and is brought up anew.
    let first = |inbox: &Inbox| {
        let pages = inbox.pages.lock().expect("not poisoned");
        pages.iter().filter(|page| page.incident.id == "INC-1").map(|page| page.action).collect::<Vec<_>>()
    };
    assert_eq!(first(&ana), [PageAction::Resolve]);
    assert!(first(&ben).contains(&PageAction::Resolve), "{:?}", first(&ben));
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

/// A channel that never answers.
struct Mute;

impl Channel for Mute {
    fn name(&self) -> &str {
        "mute"
    }

    fn send<'a>(&'a self, _: &'a Page) -> Sending<'a> {
        Box::pin(std::future::pending())
    }
}

/// Channels were tried one after another, each twice: where none answered, whoever tried the pager gave up first, and was told
/// that there was no team.
#[tokio::test(start_paused = true)]
async fn a_test_of_channels_that_never_answer_ends_and_says_so() {
    let mute = || -> Arc<dyn Channel> { Arc::new(Mute) };
    let team = Team::builder(config())
        .provider(Simulated::new(integration("primary"), |_, _| status(400, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("not asked")))
        .on_call("ana", vec![mute(), mute(), Arc::new(Inbox::default())])
        .on_call("ben", vec![mute(), mute()])
        .clock(Clock::starting_at(evening(), 1.0))
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let tested = tokio::time::timeout(Duration::from_secs(60), desk.page_test(None, "ana")).await;
    let tested = tested.expect("it ends").expect("there are channels");
    let seen: Vec<(&str, bool)> = tested.iter().map(|test| (test.channel.as_str(), test.delivered)).collect();
    let expected =
        [("ana/mute", false), ("ana/mute-2", false), ("ana/inbox", true), ("ben/mute", false), ("ben/mute-2", false)];
    assert_eq!(seen, expected);
    assert_eq!(tested[2].detail, "trigger: taken (ana); resolve: taken (ana)");
    assert_eq!(
        tested[0].detail,
        "trigger: the channel did not answer in 20s; resolve: the channel did not answer in 20s"
    );
}

/// Whoever tried the pager went away between the call and its end: the alert stayed.
#[tokio::test(start_paused = true)]
async fn a_test_is_ended_although_whoever_asked_for_it_has_gone() {
    let stage = Stage::new(config(), |_, _| status(400, "{}")).await;
    stage.inbox.slow.store(true, Ordering::Relaxed);
    let asked = tokio::time::timeout(Duration::from_secs(1), stage.desk.page_test(None, "ana")).await;
    asked.expect_err("the call takes five seconds");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.inbox.actions(), [PageAction::Trigger, PageAction::Resolve]);
}

/// A team in which somebody is asked about a task, and the incident's name.
async fn asking(now: &str) -> (Team, String) {
    let channel = ChannelConfig::PagerDuty {
        routing_key: "key".into(),
        url: "http://127.0.0.1:9/".to_owned(),
        webhook_secret: Some("a secret".into()),
    };
    let team = Team::builder(config().on_call("ana", vec![channel]))
        .provider(Simulated::new(integration("primary"), |_, _| status(400, "{}")))
        .on_call("ana", vec![Arc::new(Inbox::default())])
        .clock(Clock::starting_at(Timestamp::parse(now).expect("a time"), 1.0))
        .seed(7)
        .start()
        .await
        .expect("a team");
    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("code_review").expect("a name"), json!({ "text": "look" }));
    desk.submit(ask).await.expect("accepted");
    let mut watch = desk.engine().watch();
    let incident = loop {
        if let Some(incident) = desk.incidents().await.expect("incidents").pop() {
            break incident.id;
        }
        watch.changed().await.expect("the engine lives");
    };
    (team, incident)
}

/// That Bo has acknowledged this incident, as PagerDuty says it: the signature, and the body.
fn acknowledged(incident: &str, number: u32, at: &str) -> (String, String) {
    let body = json!({ "event": {
        "id": format!("event-{number}"), "event_type": "incident.acknowledged", "occurred_at": at,
        "agent": { "summary": "Bo" }, "data": { "incident_key": format!("backstop/acme/{incident}") },
    }})
    .to_string();
    let mac = Hmac::<Sha256>::new_from_slice(b"a secret").expect("a key").chain_update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    (format!("v1={hex}"), body)
}

/// The clock of a host was three days ahead. What people acknowledged in PagerDuty was taken for something from long ago, and
/// dropped without a word: they were called again and again. It is said where one looks now.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_heard_for_its_age_is_said_aloud() {
    let (team, incident) = asking("2001-06-03T00:00:00Z").await;
    let desk = team.desk();
    let say = async |number, at: &str| {
        let (signature, body) = acknowledged(&incident, number, at);
        desk.pagerduty_said(&signature, body.as_bytes()).await.expect("the store").expect("it is signed")
    };
    let state = async || desk.incident(&incident).await.expect("an incident").state;
    let why = say(1, "2001-05-31T00:00:00Z").await.expect("it is not heard");
    assert!(why.contains("Bo (PagerDuty)") && why.contains("the clock of this host is at least 3d"), "{why}");
    assert_eq!(desk.unheard().await, Some(why));
    assert_eq!(state().await, IncidentState::Triggered);

    let now = desk.now().to_string();
    assert_eq!(say(2, &now).await, None);
    assert_eq!(state().await, IncidentState::Acknowledged);
    assert_eq!(desk.unheard().await, None, "one was heard");
}

/// The clock of the host was set right, and nobody was heard all the same, after a restart neither: the team's own clock never
/// goes back, and was three days ahead for good.
#[tokio::test(start_paused = true)]
async fn once_the_clock_of_the_host_is_right_answers_are_heard() {
    let (team, incident) = asking("2090-06-03T00:00:00Z").await;
    let desk = team.desk();
    let (signature, body) = acknowledged(&incident, 1, "2090-05-31T00:00:00Z");
    let say = async || desk.pagerduty_said(&signature, body.as_bytes()).await.expect("the store");
    assert_eq!(say().await, Ok(None));
    assert_eq!(desk.incident(&incident).await.expect("an incident").state, IncidentState::Acknowledged);
    assert_eq!(say().await, Ok(Some("it was heard before".to_owned())), "once");
}

/// What happened: a full disk brought everything to a stand, the log and `status` said so, and nobody was called: every call
/// went through the outbox, which lies on that disk. And whoever asked whether the team is ready had it write.
#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_writes_calls_past_the_outbox() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    let team = two_on_call(engine.clone(), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = team.desk();
    let submit = || desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({})));
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.fail_writes(true);
    assert!(desk.readiness().ready, "nobody has written since, and whoever asks does not either");
    submit().await.expect_err("not accepted");
    let store = desk.readiness().checks.remove(0);
    let said = "the store at memory failed to write: it was told to fail";
    assert_eq!(store, ("store".to_owned(), false, said.to_owned()));
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![], vec![]), "it may pass");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![PageAction::Trigger], vec![]));
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![PageAction::Trigger], vec![PageAction::Trigger]));
    engine.fail_writes(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(desk.readiness().ready, "it was seen without anybody's asking");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let both = [PageAction::Trigger, PageAction::Resolve];
    assert_eq!((ana.actions(), ben.actions()), (both.to_vec(), both.to_vec()));
    let incidents = desk.incidents().await.expect("incidents");
    let [incident] = incidents.as_slice() else { panic!("{incidents:?}") };
    assert_eq!((incident.trigger, incident.is_open(), incident.why.as_str()), (Trigger::StoreDown, false, said));
    assert_eq!(incident.answers[0].note, "the store takes writes again");
    let pages = [ana, ben].map(|inbox| inbox.pages.lock().expect("not poisoned").clone()).concat();
    assert!(pages.iter().all(|page| page.dedup_key == format!("backstop/acme/{}", incident.id)), "{pages:?}");
    submit().await.expect("accepted");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_on_and_off_calls_once_and_for_half_a_minute_nobody() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    let team = two_on_call(engine.clone(), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = team.desk();
    let fail = async |seconds| {
        engine.fail_writes(true);
        let submitted = desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await;
        submitted.expect_err("not accepted");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    };
    let mend = async || {
        engine.fail_writes(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
    };
    fail(30).await;
    mend().await;
    assert_eq!((ana.actions(), desk.incidents().await.expect("incidents").len()), (vec![], 0));
    // Its channel takes nothing either, at first.
    ana.down.store(true, Ordering::Relaxed);
    fail(70).await;
    ana.down.store(false, Ordering::Relaxed);
    assert!(ana.actions().is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ana.actions(), [PageAction::Trigger], "tried again, from memory");
    mend().await;
    assert_eq!(ana.actions(), [PageAction::Trigger, PageAction::Resolve]);
    fail(300).await;
    mend().await;
    assert_eq!(ana.actions(), [PageAction::Trigger, PageAction::Resolve], "she was called a quarter of an hour ago");
    fail(900).await;
    assert_eq!(ana.actions(), [PageAction::Trigger, PageAction::Resolve, PageAction::Trigger]);
    mend().await;
    let incidents = desk.incidents().await.expect("incidents");
    assert!(incidents.len() == 2 && incidents.iter().all(|incident| !incident.is_open()), "{incidents:?}");
    assert!(ben.actions().is_empty());
}

/// The store was tried with the smallest write there is, which a full disk may take: each time that the minute began, it was
/// forgotten. And one that was restarted as soon as there was room had forgotten whom it had called.
#[tokio::test(start_paused = true)]
async fn a_small_write_that_is_taken_is_no_end_and_the_next_process_tells_of_that() {
    let (engine, ana, ben) = (Arc::new(Memory::new()), Inbox::default(), Inbox::default());
    let first = two_on_call(engine.clone(), &ana, &ben, "2026-11-21T23:00:00Z").await;
    let desk = first.desk();
    for n in 0..9 {
        engine.fail_writes(true);
        let submitted = desk.submit(NewTask::new(TaskType::new("code_review").expect("a name"), json!({}))).await;
        submitted.expect_err("not accepted");
        engine.fail_writes(false);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(ana.actions().len(), usize::from(n >= 6), "after {n}");
    }
    let store = ana.pages.lock().expect("not poisoned")[0].incident.id.clone();
    desk.acknowledge(&store, "ana", "on it").await.expect("taken on, though it is not stored");
    desk.acknowledge(&store, "ben", "me too").await.expect_err("ana has it");
    // What came of the call is stored by now, and the incident is not.
    assert_eq!(desk.incidents().await.expect("incidents").len(), 0);
    drop(first);
    let now = Timestamp::parse("2026-11-21T23:30:00Z").expect("a time").to_string();
    let second = two_on_call(Arc::new(engine.reopened()), &ana, &ben, &now).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((ana.actions(), ben.actions()), (vec![PageAction::Trigger, PageAction::Resolve], vec![]));
    let incidents = second.desk().incidents().await.expect("incidents");
    let [over] = incidents.as_slice() else { panic!("{incidents:?}") };
    assert_eq!((&over.id, over.is_open()), (&store, false));
}
