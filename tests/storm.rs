//! Thousands of dead letters within a minute are one incident, one call and an update a minute, and none of them is lost.
//!
//! What a storm costs is counted here, and not timed: how often its incident is written, how large that and its pages are.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::config::Config;
use backstop::engine::Engine;
use backstop::incident::{PageAction, Trigger};
use backstop::llm::simulated::Scripted;
use backstop::outbox::PAGE_DEATHS_MAX;
use backstop::task::{AgentName, TaskId, TaskType};
use backstop::team::Part;
use backstop::team::desk::NewTask;
use backstop::time::Timestamp;
use backstop::triage::DecisionKind;
use serde_json::json;

use crate::team::{Stage, config, status};

/// The most bytes of a page, however many died.
const PAGE_BYTES_MAX: usize = 16 * 1024;
/// The most often that an incident is written for a storm of a minute.
const WRITTEN_MAX: u64 = 40;

/// The team of three, whose reviewer works on a quarter of a thousand tasks at once.
fn wide() -> Config {
    let mut wide = config();
    let cto = AgentName::new("cto").expect("a name");
    wide.agents.get_mut(&cto).expect("the cto").concurrency = 250;
    wide
}

async fn submitted(stage: &Stage, tasks: u32, deadline: Option<Timestamp>) -> Vec<TaskId> {
    let review = TaskType::new("code_review").expect("a name");
    let mut ids = Vec::new();
    for n in 0..tasks {
        let ask = NewTask { deadline, ..NewTask::new(review.clone(), json!({ "n": n })) };
        ids.push(stage.desk.submit(ask).await.expect("accepted").record.task.id);
    }
    ids
}

/// How often this incident was written, and its size in bytes.
async fn stored(stage: &Stage, incident: &str) -> (u64, usize) {
    let documents = stage.engine.documents("incident").await.expect("incidents");
    let stored = documents.iter().find(|document| document.key == incident).expect("it is there");
    (stored.version, stored.body.to_string().len())
}

/// What must hold once a storm of all these tasks is over, each of which the CEO decided about in the same way.
async fn is_one_story(stage: &Stage, ids: &[TaskId], decision: DecisionKind) {
    let balance = stage.engine.balance().await.expect("a balance");
    assert_eq!((balance.submitted, balance.lost(), balance.settled()), (ids.len() as u64, 0, true), "{balance:?}");

    let incidents = stage.desk.incidents().await.expect("incidents");
    let found: Vec<(&str, Trigger)> = incidents.iter().map(|one| (one.id.as_str(), one.trigger)).collect();
    assert_eq!(found, [("INC-1", Trigger::DeadLetters)]);
    let incident = &incidents[0];
    let known: BTreeSet<TaskId> = incident.deaths.iter().map(|(task, _)| *task).collect();
    let all: BTreeSet<TaskId> = ids.iter().copied().collect();
    assert_eq!(incident.deaths.len(), ids.len(), "each once");
    assert!(known == all, "it knows every one of them");
    let (first, last) = incident.died.expect("they died");
    assert!(last.since(first) < Duration::from_secs(60), "from {first} to {last}");

    let pages = stage.inbox.pages.lock().expect("not poisoned").clone();
    let calls = pages.iter().filter(|page| page.action == PageAction::Trigger).count();
    assert_eq!((calls, pages[0].action), (1, PageAction::Trigger));
    let updates = pages.iter().filter(|page| page.action == PageAction::Update);
    let told: Vec<Timestamp> = updates.map(|page| page.incident.updated_at).collect();
    assert!(
        told.windows(2).all(|two| two[1].since(two[0]) >= Duration::from_secs(60)),
        "at most one a minute: {told:?}"
    );
    let last = pages.last().expect("a page");
    assert_eq!(
        last.incident.size() as usize,
        ids.len(),
        "in the end people were told of all: {}",
        last.incident.summary
    );
    for page in &pages {
        let bytes = serde_json::to_vec(page).expect("JSON").len();
        assert!(page.incident.deaths.len() <= PAGE_DEATHS_MAX && bytes <= PAGE_BYTES_MAX, "{bytes} bytes");
    }
    assert_eq!(stage.engine.documents("page").await.expect("pages").len(), 1, "the call, and no update, is kept");

    let (written, bytes) = stored(stage, "INC-1").await;
    assert!(written <= WRITTEN_MAX, "it was written {written} times");
    assert!(bytes < 48 * ids.len() + PAGE_BYTES_MAX, "{bytes} bytes for {} dead letters", ids.len());

    for id in ids {
        let record = stage.desk.task(*id).await.expect("a task");
        let died = record.letter.as_ref().expect("a letter").at;
        let decided = record.decisions.iter().map(|one| (one.decision.kind(), one.at.since(died).as_secs()));
        assert_eq!(decided.collect::<Vec<_>>(), [(decision, 0)], "{id}: the CEO decides once, within a second");
    }
}

/// Each has to be decided by a person, which is the most that a dead letter asks for. A quarter of ten thousand, for what each of
/// them takes in a debug build: it is asked of a model, refused, and written down.
#[tokio::test(start_paused = true)]
async fn thousands_that_are_refused_within_a_minute_are_one_incident_and_one_call() {
    let stage = Stage::new(wide(), |_, _| status(400, "{}").after(Duration::from_secs(5))).await;
    let ids = submitted(&stage, 2_500, None).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    is_one_story(&stage, &ids, DecisionKind::PageHuman).await;
}

/// No model answers, and all that waits for one passes its deadline at the same moment.
#[tokio::test(start_paused = true)]
async fn ten_thousand_deadlines_that_pass_at_once_are_one_incident_and_one_call() {
    let stage = Stage::new(config(), |_, _| Scripted::text("too late").after(Duration::from_secs(86_400))).await;
    let deadline = stage.desk.now() + Duration::from_secs(60);
    let ids = submitted(&stage, 10_000, Some(deadline)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    is_one_story(&stage, &ids, DecisionKind::Discard).await;
}

/// While the CEO was away a person ended the incident of six hundred dead letters, and the CEO came back and asked for a person's
/// judgement of each. Each was brought up by itself, and the whole incident read and written anew for it.
#[tokio::test(start_paused = true)]
async fn many_who_are_asked_about_together_are_brought_up_together() {
    let stage = Stage::new(wide(), |_, _| status(400, "{}")).await;
    stage.team.crash(Part::Ceo);
    let ids = submitted(&stage, 600, None).await;
    // The CEO is started again after half a second.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let balance = stage.engine.balance().await.expect("a balance");
    assert_eq!((balance.dead, balance.waiting_human), (600, 0), "nobody has decided yet");
    let over = stage.desk.resolve("INC-1", "ana", "looks fine to me").await.expect("none waits for a person yet");
    assert_eq!((over.trigger, over.deaths.len()), (Trigger::DeadLetters, 600));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let asked = stage.desk.incident("INC-2").await.expect("it is there");
    assert_eq!((asked.trigger, asked.deaths.len()), (Trigger::Judgement, ids.len()));
    let (written, _) = stored(&stage, "INC-2").await;
    assert!(written <= WRITTEN_MAX, "it was written {written} times");
    let calls = stage.inbox.actions().iter().filter(|action| **action == PageAction::Trigger).count();
    assert_eq!(calls, 2, "one for each incident");
}
