//! Replays beyond their table: payments, crashes, pauses, what follows under one key, and what became of a letter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::ledger::{self, Command};
use backstop::llm::simulated::Scripted;
use backstop::query::Filter;
use backstop::record::State;
use backstop::replay::{self, Fate, ReplayAsk, ReplayState, Verdict, WAITING_MAX};
use backstop::task::{AgentName, Integration, TaskId};
use backstop::time::Timestamp;
use backstop::triage::{Decided, DeciderKind, Decision};
use serde_json::json;
use toml::Table;

use crate::dlq_replay::World;
use crate::team::{Stage, config, status};

#[test]
fn only_a_named_payment_is_released_and_says_so() {
    let given: Table = "entries=[[\"p1\",\"payment\"],[\"p2\",\"payment\"]]\nnamed=[\"p2\"]".parse().expect("TOML");
    let mut world = World::of(&given);
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let run = world.run(plan);
    assert_eq!(world.order(), ["p2"]);
    assert_eq!(run.left_out.len(), 1);
    assert!(world.records.values().any(|record| record.state == State::Dead), "p1 stays where it is");
}

#[test]
fn a_crash_between_storing_and_sending_releases_nothing_twice() {
    let given: Table = "entries=20\nrate=10\ncrash_at_s=1".parse().expect("TOML");
    let mut world = World::of(&given);
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let run = world.run(plan);
    assert_eq!((run.state, run.succeeded.len(), world.released.len()), (ReplayState::Finished, 20, 20));
}

#[test]
fn a_paused_replay_releases_nothing_and_goes_on_at_its_rate() {
    let given: Table = "entries=30\nrate=10\npause_from_s=1\npause_to_s=5".parse().expect("TOML");
    let mut world = World::of(&given);
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let run = world.run(plan);
    let times: Vec<i64> = world.released.iter().map(|(at, _)| *at).collect();
    assert_eq!((times.len(), times[9], times[10], times[29]), (30, 900, 5_000, 6_900));
    assert_eq!(run.state, ReplayState::Finished);
}

/// `dlq replay --rate 1/h` was accepted, and sent a letter round every thousand seconds.
#[test]
fn a_letter_an_hour_is_a_letter_an_hour() {
    let given: Table = "entries=3".parse().expect("TOML");
    let mut world = World::of(&given);
    world.ask.rate = 1.0 / 3_600.0;
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let run = world.run(plan);
    let times: Vec<i64> = world.released.iter().map(|(at, _)| *at).collect();
    assert_eq!((run.state, times), (ReplayState::Finished, vec![0, 3_600_000, 7_200_000]));
}

#[test]
fn what_follows_a_failure_under_the_same_key_stays() {
    let given: Table =
        "entries=[[\"u1\",\"create\",30],[\"u2\",\"other\",20],[\"u1\",\"update\",40]]\nordering_key=\"user\"\nall_fail=true"
            .parse()
            .expect("TOML");
    let mut world = World::of(&given);
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let run = world.run(plan);
    assert_eq!(world.order(), ["other", "create"]);
    assert_eq!(run.left_out.iter().map(|(_, why)| *why).collect::<Vec<_>>(), [Verdict::AfterFailed]);
}

#[test]
fn a_fifth_of_the_first_twenty_stops_it_and_less_does_not() {
    for (fails, state) in [(3, ReplayState::Finished), (4, ReplayState::Aborted)] {
        let given: Table = format!("entries=60\nrate=10\nfail_first={fails}").parse().expect("TOML");
        let mut world = World::of(&given);
        let plan = world.plan(&world.ask, &BTreeSet::new());
        assert_eq!(world.run(plan).state, state, "{fails} of 20");
    }
}

/// `dlq ls`, `groups` and `discard` went by the integration that had failed, a replay by the one the next call would go to:
/// of letters that were moved to another model it found none.
#[test]
fn a_replay_of_an_integration_takes_the_letters_listed_under_it() {
    let given: Table = "entries=1".parse().expect("TOML");
    let mut world = World::of(&given);
    let integration = |name: &str| Integration::new(name).expect("a name");
    let record = world.records.values_mut().next().expect("one");
    record.integration = integration("next");
    record.letter.as_mut().expect("a letter").failure.integration = Some(integration("failed"));
    let record = record.clone();
    for (name, taken) in [("failed", 1), ("next", 0)] {
        let filter = Filter { integration: Some(integration(name)), ..Filter::default() };
        let ask = ReplayAsk::new(filter, "ana", "it is back");
        let plan = world.plan(&ask, &BTreeSet::new());
        assert_eq!((plan.entries.len(), ask.filter.matches_letter(&record)), (taken, taken == 1), "{name}");
    }
}

/// What was moved to another model while it waited its turn counted as failed, and four of twenty stopped a replay whose
/// letters all ended well. One that was discarded before it was sent was sent again at each look, and refused, for ever.
#[test]
fn what_becomes_of_a_letter_is_what_its_record_says_of_its_round() {
    let one = || {
        let given: Table = "entries=1".parse().expect("TOML");
        let world = World::of(&given);
        let id = *world.records.keys().next().expect("one");
        (world, id)
    };
    let decide = |world: &mut World, id, decision, by| {
        let before = &world.records[&id];
        let decided = Decided {
            number: 0,
            generation: before.generation,
            decision,
            by,
            who: None,
            at: Timestamp::from_millis(2_000_000),
            reasons: vec!["its model is held".to_owned()],
            rejected: Vec::new(),
        };
        let command = Command::Decide { decided, seen: None, integration: before.integration.clone() };
        let (record, _) = ledger::apply(before, command, Timestamp::from_millis(2_000_000)).expect("decided");
        world.records.insert(id, record);
    };
    let elsewhere =
        || Decision::Reassign { agent: AgentName::new("frontend").expect("a name"), amendment: "as before".to_owned() };
    let is = |world: &World, id: &TaskId| replay::fate(&world.records[id], 2);

    let (mut world, id) = one();
    assert_eq!(is(&world, &id), Fate::Unsent);
    world.send(id, 1_000_000);
    assert_eq!((world.records[&id].generation, is(&world, &id)), (2, Fate::Underway));
    decide(&mut world, id, elsewhere(), DeciderKind::Human);
    assert_eq!((world.records[&id].generation, is(&world, &id)), (3, Fate::Underway), "moved while it waited");
    world.finish(id, true, 3_000_000);
    assert_eq!(is(&world, &id), Fate::Failed);

    let (mut world, id) = one();
    world.send(id, 1_000_000);
    world.finish(id, true, 1_500_000);
    decide(&mut world, id, elsewhere(), DeciderKind::Human);
    assert_eq!((world.records[&id].generation, is(&world, &id)), (3, Fate::Failed), "sent on after it failed");

    let (mut world, id) = one();
    decide(&mut world, id, Decision::Discard { why: "not worth it".to_owned() }, DeciderKind::Human);
    assert_eq!(is(&world, &id), Fate::Dropped, "there is nothing to send");
}

#[test]
fn an_ask_that_means_everything_must_say_so() {
    let mut ask = ReplayAsk::new(Filter::default(), "ana", "fixed");
    assert!(replay::check(&ask).expect_err("empty").to_string().contains("`all`"));
    let due_by = Some(Timestamp::from_millis(0));
    for filter in [Filter { text: Some(String::new()), ..Filter::default() }, Filter { due_by, ..Filter::default() }] {
        for all in [false, true] {
            assert!(replay::check(&ReplayAsk { filter: filter.clone(), all, ..ask.clone() }).is_err(), "{filter:?}");
        }
    }
    ask.all = true;
    assert_eq!(replay::check(&ask), Ok(()));
    for rate in [0.0, -1.0, 0.000_001, 1_000.1, f64::NAN, f64::INFINITY] {
        assert!(replay::check(&ReplayAsk { rate, ..ask.clone() }).is_err(), "{rate}");
    }
    assert!(replay::check(&ReplayAsk { reason: " ".to_owned(), ..ask }).is_err());
}

/// A replay put everything in line at its rate, however slow the agent was: new work went before it all the same, but what was
/// tried again stood behind all of it.
#[tokio::test(start_paused = true)]
async fn a_replay_beside_live_work_leaves_it_its_share_and_stands_in_nobodys_way() {
    let broken = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&broken);
    let stage = Stage::new(config(), move |_, _| match still.load(Ordering::Relaxed) {
        true => status(400, "{}"),
        false => Scripted::text("ok").after(Duration::from_secs(1)),
    })
    .await;
    let mut letters = Vec::new();
    for n in 0..60 {
        letters.push(stage.submit_with("build", json!({ "letter": n })).await);
    }
    for id in letters {
        stage.ended(id).await;
    }
    broken.store(false, Ordering::Relaxed);
    // Two slots and calls of a second: two a second can be done. Ten a second are sent again, 1.6 are new.
    let ask = ReplayAsk { all: true, ..ReplayAsk::new(Filter::default(), "ana", "fixed") };
    stage.desk.start_replay(ask).await.expect("a replay");
    let mut live = Vec::new();
    for n in 0..48 {
        live.push(stage.submit_with("build", json!({ "live": n })).await);
        tokio::time::sleep(Duration::from_millis(625)).await;
        let replay = stage.desk.replays().await.expect("replays").remove(0);
        // Besides those that wait two run, and of two more the end may not be known yet.
        assert!(replay.released.len() <= WAITING_MAX + 4, "{} are in line after {n}", replay.released.len());
    }
    let mut done = 0;
    for id in &live {
        done += usize::from(stage.desk.task(*id).await.expect("a task").state == State::Done);
    }
    assert!(done * 5 >= live.len() * 4, "{done} of {} are done, with a replay beside them", live.len());
    let replay = stage.desk.replays().await.expect("replays").remove(0);
    assert!(replay.succeeded.len() >= 8 && !replay.pending.is_empty(), "it goes on, slowly: {replay:?}");
    stage
        .until("the replay's end", async |desk| {
            desk.replays().await.expect("replays")[0].state == ReplayState::Finished
        })
        .await;
    assert_eq!(stage.desk.replays().await.expect("replays")[0].succeeded.len(), 60);
}
