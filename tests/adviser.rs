//! The CEO's adviser is asked once about a death: what it said outlives whoever was to carry it out.

use std::sync::Arc;
use std::time::Duration;

use backstop::config::{AdviserConfig, Config};
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::fees::Fees;
use backstop::incident::Trigger;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::record::State;
use backstop::task::{AgentName, TaskId, TaskType};
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, NewTask};
use backstop::team::{Part, Team};
use backstop::time::Timestamp;
use backstop::triage::{Decided, DeciderKind, DecisionKind};
use serde_json::json;

use crate::team::{config, integration, status};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// An adviser that takes twenty seconds for its answer: the first of the choices.
fn adviser() -> Simulated {
    Simulated::new(integration("adviser"), |_, _| Scripted::text(r#"{"choice": 1}"#).after(Duration::from_secs(20)))
}

/// The team of three, and the adviser. What asking it costs at the most is far below what it may cost in an hour.
fn advised() -> Config {
    let mut advised = config();
    advised.ceo.adviser = Some(AdviserConfig {
        model: "adviser/claude-haiku-4-5".parse().expect("a model"),
        within: Duration::from_secs(60),
        max_output_tokens: 200,
        micro_usd_per_hour: 10_000_000,
    });
    advised
}

/// Its first provider fails, and its second answers.
async fn begun(config: Config, engine: &Arc<Memory>, adviser: &Simulated, now: Timestamp) -> Team {
    Team::builder(config)
        .engine(engine.clone())
        .provider(Simulated::new(integration("primary"), |_, _| status(500, "{}")))
        .provider(Simulated::new(integration("second"), |_, _| Scripted::text("ok")))
        .provider(adviser.clone())
        .clock(Clock::starting_at(now, 1.0))
        .seed(7)
        .start()
        .await
        .expect("a team")
}

/// A task that was given up on; the adviser has just been asked about it.
async fn asked_about(desk: &Desk, adviser: &Simulated) -> TaskId {
    let ask = NewTask::new(TaskType::new("code_review").expect("a name"), json!({}));
    let id = desk.submit(ask).await.expect("accepted").record.task.id;
    let asked = async {
        while adviser.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), asked).await.expect("asked");
    id
}

/// The first decision about a task.
async fn decided_about(desk: &Desk, id: TaskId) -> Decided {
    let decided = async {
        loop {
            if let Some(first) = desk.task(id).await.expect("a task").decisions.first() {
                return first.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), decided).await.expect("decided")
}

/// What advice has cost, and what of it is not carried out yet.
async fn fees(engine: &Memory) -> Fees {
    let stored = engine.documents("advice").await.expect("documents").remove(0);
    serde_json::from_value(stored.body).expect("fees")
}

/// One question was paid for, for what the answer cost, and nothing of it is left to be done.
async fn paid_once(engine: &Memory, adviser: &Simulated) {
    let fees = fees(engine).await.0;
    assert_eq!((adviser.calls(), fees.len()), (1, 1), "{fees:?}");
    assert!(fees[0].opinion.is_none() && fees[0].micro_usd < 1_000, "{fees:?}");
}

/// The CEO died while its adviser was thinking. The next one put the same question beside the first, both were paid for, and
/// the answer to the first was heard by nobody.
#[tokio::test(start_paused = true)]
async fn a_ceo_that_dies_meanwhile_leaves_the_answer_to_the_next() {
    let (engine, adviser) = (Arc::new(Memory::new()), adviser());
    let team = begun(advised(), &engine, &adviser, NOW).await;
    let desk = team.desk();
    let id = asked_about(&desk, &adviser).await;
    team.crash(Part::Ceo);
    let record = desk.wait(id).await.expect("an end");
    assert_eq!((record.state, record.decisions.len(), record.decisions[0].by), (State::Done, 1, DeciderKind::Adviser));
    paid_once(&engine, &adviser).await;
}

/// The process ended between the answer and the decision, or was told to end while the adviser was thinking: the next one
/// asked, and paid, again. What was chosen must still be admissible then, as for any other decision. The next process called a
/// person about a CEO that leaves its work lying before that had looked at what had lain there while nobody was up.
#[tokio::test(start_paused = true)]
async fn an_answer_outlives_the_process() {
    for (drained, fallback, by) in
        [(false, true, DeciderKind::Adviser), (true, true, DeciderKind::Adviser), (false, false, DeciderKind::Table)]
    {
        let (engine, adviser) = (Arc::new(Memory::new()), adviser());
        let team = begun(advised(), &engine, &adviser, NOW).await;
        let desk = team.desk();
        let id = asked_about(&desk, &adviser).await;
        if drained {
            team.drain(Duration::from_secs(60)).await.expect("closed");
        } else {
            // The answer finds no CEO: the next one is started half a second after the death of this one.
            tokio::time::sleep(Duration::from_millis(19_800)).await;
            team.crash(Part::Ceo);
            tokio::time::sleep(Duration::from_millis(350)).await;
            assert_eq!(desk.task(id).await.expect("a task").decisions, []);
            drop(team);
        }
        let now = desk.now() + Duration::from_secs(3_600);
        let engine = Arc::new(engine.reopened());
        assert!(fees(&engine).await.0[0].opinion.is_some(), "drained: {drained}");
        let mut config = advised();
        if !fallback {
            let cto = config.agents.get_mut(&AgentName::new("cto").expect("a name")).expect("the cto");
            cto.fallback_models.clear();
        }
        let team = begun(config, &engine, &adviser, now).await;
        let decided = decided_about(&team.desk(), id).await;
        assert_eq!(decided.by, by, "{decided:?}");
        let incidents = team.desk().incidents().await.expect("read");
        assert!(incidents.iter().all(|incident| incident.trigger != Trigger::CeoDown), "{incidents:?}");
        if !fallback {
            let why = "the adviser chose retry on second/gpt, which will not do any more; the table decides";
            assert_eq!(decided.decision.kind(), DecisionKind::Park);
            assert!(decided.reasons.iter().any(|reason| reason == why), "{decided:?}");
        }
        paid_once(&engine, &adviser).await;
    }
}
