//! What assertions of the shipped scenarios measure, read from the books of the world and the records of the engine.

use std::collections::{BTreeMap, BTreeSet};

use backstop::agent::ModelRef;
use backstop::assertion::Measure;
use backstop::decision::DeciderKind;
use backstop::event::Happening;
use backstop::ledger::State;
use backstop::prices;
use backstop::sim::play::Run;
use backstop::sim::play::books::{Call, CallEnd};
use backstop::task::{Effect, TaskId};

/// One measure of a run.
///
/// # Panics
/// When the measure is one that no shipped scenario asserts.
pub(crate) fn measured(run: &Run, measure: Measure) -> f64 {
    let accepted: BTreeSet<TaskId> = run.books.asked.iter().map(|asked| asked.id).collect();
    let in_state = |state: State| run.records.iter().filter(|record| record.state == state).count();
    let died: BTreeSet<TaskId> = run
        .events
        .iter()
        .filter_map(|event| matches!(event.what, Happening::DeadLettered { .. }).then_some(event.task).flatten())
        .collect();
    let mut done: BTreeMap<TaskId, u32> = BTreeMap::new();
    for event in &run.events {
        if let (Some(task), Happening::Done { .. }) = (event.task, &event.what) {
            *done.entry(task).or_default() += 1;
        }
    }
    let count = |number: usize| number as f64;
    let share = |number: usize, of: usize| if of == 0 { 0.0 } else { number as f64 / of as f64 };
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are the report's; none is asserted here")]
    match measure {
        Measure::Submitted => count(accepted.len()),
        Measure::Lost => {
            let known: BTreeSet<TaskId> = run.records.iter().map(|record| record.task.id).collect();
            count(accepted.difference(&known).count())
        }
        Measure::Done => count(in_state(State::Done)),
        Measure::DoneShare => share(in_state(State::Done), accepted.len()),
        Measure::Doubled => count(done.values().filter(|times| **times > 1).count()),
        Measure::PaymentsRepeated => {
            let mut repeated = 0;
            for asked in run.books.asked.iter().filter(|asked| asked.effect == Effect::Payment) {
                // A call that was not even taken (no connection, turned away at the door) charged nobody.
                let calls = run.books.calls.iter().filter(|call| call.task == Some(asked.id));
                let acted = calls.filter(|call| {
                    let how = call.ended.map(|(_, end)| end);
                    !matches!(how, Some(CallEnd::Failed))
                });
                let allowed = run.books.words.iter().filter(|word| word.task == Some(asked.id));
                let allowed = allowed.filter(|word| word.what == "run-again").count();
                repeated += usize::from(acted.count() > 1 + allowed);
            }
            count(repeated)
        }
        Measure::DeadLetters => {
            let deaths = run.events.iter().filter(|event| matches!(event.what, Happening::DeadLettered { .. }));
            count(deaths.count())
        }
        Measure::DeadLetterShare => share(died.len(), accepted.len()),
        Measure::WaitingHuman => count(in_state(State::WaitingHuman)),
        Measure::Dead => count(in_state(State::Dead)),
        Measure::Cancelled => count(in_state(State::Cancelled)),
        Measure::Open => count(
            run.records
                .iter()
                .filter(|r| !matches!(r.state, State::Done | State::Dead | State::WaitingHuman | State::Cancelled))
                .count(),
        ),
        Measure::Incidents => count(run.incidents.len()),
        Measure::Pages => {
            let pages = run.books.pages.iter().filter(|page| page.taken && page.action == "trigger");
            let pages: BTreeSet<_> = pages.map(|page| (&page.incident, page.at.as_secs() / 60)).collect();
            count(pages.len())
        }
        Measure::Calls => count(run.books.calls.len()),
        Measure::CallsPerTask => share(run.books.calls.len(), accepted.len()),
        Measure::Decisions => {
            count(run.events.iter().filter(|event| matches!(event.what, Happening::Decided { .. })).count())
        }
        Measure::Parks => {
            count(run.events.iter().filter(|event| matches!(event.what, Happening::Parked { .. })).count())
        }
        Measure::Retries => {
            count(run.events.iter().filter(|event| matches!(event.what, Happening::RetryScheduled { .. })).count())
        }
        Measure::DelayMax => run
            .records
            .iter()
            .filter(|record| record.state == State::Done)
            .filter_map(|record| Some(record.ended_at?.since(record.task.created_at).as_secs_f64()))
            .fold(0.0, f64::max),
        Measure::RecoveredShare => {
            let people = decided_by_people(run);
            let alone = died.iter().filter(|task| done.contains_key(task) && !people.contains(task)).count();
            share(alone, died.len())
        }
        Measure::DoneByHuman => count(decided_by_people(run).iter().filter(|task| done.contains_key(task)).count()),
        Measure::Tokens => count(tokens(run)),
        Measure::Usd => dollars(run),
        other => panic!("{other} is not measured here"),
    }
}

fn decided_by_people(run: &Run) -> BTreeSet<TaskId> {
    let decided = run.events.iter().filter_map(|event| match (&event.what, event.task) {
        (Happening::Decided { decided, .. }, Some(task)) if decided.by == DeciderKind::Human => Some(task),
        _ => None,
    });
    decided.collect()
}

fn tokens(run: &Run) -> usize {
    let tokens: u64 = run.books.calls.iter().map(|call| call.usage.input + call.usage.output).sum();
    usize::try_from(tokens).expect("fits")
}

fn dollars(run: &Run) -> f64 {
    let price = |call: &Call| {
        let model = ModelRef { provider: call.provider.clone(), model: call.model.clone() };
        prices::price(call.usage, &run.config.model_facts(&model)).unwrap_or_default()
    };
    run.books.calls.iter().map(price).sum::<u64>() as f64 / 1e6
}
