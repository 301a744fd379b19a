//! Why a task is where it is: what happened to it and by which rule, in the order in which it happened.
//!
//! Made of the record, the journal and the events whenever somebody asks. Every change of its state names the rule that
//! made it; every text of a model, a tool or a provider is quoted without credentials and on one line.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::cause::Usage;
use crate::doubt::{self, Doubt};
use crate::event::{Event, Happening};
use crate::journal::{self, Step, Tally};
use crate::record::{Record, State};
use crate::redact::Redactor;
use crate::task::{AgentName, TaskId, TaskType};
use crate::told::{Told, of_event, of_step};

/// The story of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The task.
    pub task: TaskId,
    /// Its type.
    pub task_type: TaskType,
    /// Whose turn it is.
    pub agent: AgentName,
    /// Where it stands.
    pub state: State,
    /// Where it stands and why, in a sentence.
    pub stands: String,
    /// What happened, oldest first.
    pub lines: Vec<Told>,
    /// What it took.
    pub totals: Totals,
    /// Calls of which nobody knows whether they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_doubt: Vec<Doubt>,
}

/// What a task took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How often an agent took it.
    pub deliveries: u32,
    /// Calls, tokens and money; what came to nothing is the cost of failure.
    pub spent: Tally,
    /// Tokens that were not paid again because a delivery went on where another had stopped.
    pub saved: Usage,
    /// Seconds in the hands of agents.
    pub worked_s: f64,
    /// Seconds in queues, backoffs and parking.
    pub waited_s: f64,
}

/// Tells the story of a task. `events` are its own, oldest first.
#[must_use]
pub fn why(record: &Record, steps: &[Step], events: &[Event], redactor: &Redactor) -> Why {
    let running = if record.state == State::Running { record.fence } else { 0 };
    let doubts = Doubt::all(steps, running).into_iter().map(|doubt| doubt.without_secrets(redactor));
    let doubts: Vec<Doubt> = doubts.collect();
    let attempts = || record.attempts.iter();
    let worked = attempts().filter_map(|attempt| Some(attempt.ended_at?.since(attempt.started_at).as_secs_f64()));
    Why {
        task: record.task.id,
        task_type: record.task.task_type.clone(),
        agent: record.agent.clone(),
        state: record.state,
        stands: stands(record, &doubts, redactor),
        lines: in_order(steps, events, redactor),
        totals: Totals {
            deliveries: count(events, |what| matches!(what, Happening::Claimed { .. })),
            spent: journal::tally(steps),
            saved: events.iter().filter_map(kept).fold(Usage::default(), Usage::plus),
            worked_s: worked.sum(),
            waited_s: attempts().map(|attempt| attempt.waited.as_secs_f64()).sum(),
        },
        in_doubt: doubts,
    }
}

const fn kept(event: &Event) -> Option<Usage> {
    if let Happening::Resumed { usage, .. } = &event.what { Some(*usage) } else { None }
}

fn count(events: &[Event], is: fn(&Happening) -> bool) -> u32 {
    u32::try_from(events.iter().filter(|event| is(&event.what)).count()).unwrap_or(u32::MAX)
}

/// Events in the order in which they were committed, and between them the steps of the delivery that was under way.
fn in_order(steps: &[Step], events: &[Event], redactor: &Redactor) -> Vec<Told> {
    let mut lines = Vec::new();
    let mut left: Vec<&Step> = steps.iter().collect();
    let mut open: VecDeque<&Step> = VecDeque::new();
    for event in events {
        if let Happening::Claimed { fence, .. } = &event.what {
            // What a lost delivery wrote late belongs before the next.
            lines.extend(open.drain(..).map(|step| of_step(step, steps, redactor)));
            let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|step| step.fence == *fence);
            (open, left) = (mine.into(), others);
        }
        // These are written with the intent they speak of, so they stand before it.
        let with_it =
            matches!(event.what, Happening::Claimed { .. } | Happening::Resumed { .. } | Happening::Compacted { .. });
        let before = |step: &Step| if with_it { step.at < event.at } else { step.at <= event.at };
        while let Some(step) = open.front().copied().filter(|step| before(step)) {
            lines.push(of_step(step, steps, redactor));
            open.pop_front();
        }
        lines.extend(of_event(event, redactor));
    }
    lines.extend(open.into_iter().chain(left).map(|step| of_step(step, steps, redactor)));
    lines
}

/// Where it stands and why.
fn stands(record: &Record, doubts: &[Doubt], redactor: &Redactor) -> String {
    let id = record.task.id;
    if !doubts.is_empty() && !matches!(record.state, State::Done | State::Running) {
        let lines: Vec<String> = doubts.iter().map(Doubt::line).collect();
        return format!("{}; {}. {}", record.state, doubt::answer_first(id, doubts), lines.join(". "));
    }
    let failed = || record.last_failure().map(|failure| redactor.redact(&failure.message).into_owned());
    let because = |failed: Option<String>| failed.map(|failed| format!(": {failed}")).unwrap_or_default();
    match record.state {
        State::Ready => "ready; waits for a free slot of its agent".to_owned(),
        State::Running => format!("running in attempt {} of round {}", record.attempt, record.generation),
        State::Scheduled => format!("waits until {} to be tried again{}", record.due, because(failed())),
        State::Parked => {
            let why = record.parking.as_ref().map_or("parked", |parking| parking.why.as_str());
            format!("parked until {} ({why}, {})", record.due, record.held_by())
        }
        State::Done => format!("done by {} in round {}", record.agent, record.generation),
        State::Dead => {
            let why = record.letter.as_ref().map(|letter| format!("; {}", letter.why)).unwrap_or_default();
            format!("given up{}{why}", because(failed()))
        }
        State::WaitingHuman => {
            format!("a person is asked (`backstop ceo decide {id} …`){}", because(failed()))
        }
        State::Cancelled => "cancelled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doubt::tests::{asks, calls, failure, looks_at};
    use crate::journal::Outcome;
    use crate::task::Effect;
    use crate::told::ToldKind;
    use crate::told::tests::{agent, claimed, events, review, transitions};

    #[test]
    fn steps_stand_where_they_were_made_and_say_what_came_of_them() {
        let unknown = Outcome::Unknown { failure: failure("it did not answer") };
        let steps = [
            asks(1, 1, "Charge it.", &[("charge", json!({"amount": 5, "token": "hunter2"}))]),
            calls(2, 1, 1, Effect::Payment, Some(unknown)),
            looks_at(3, 2, 2, "{\"status\":\"pending\",\"api_key\":\"hunter2\"}"),
            asks(4, 2, "", &[]),
        ];
        let doubt = Happening::OutcomeUnknown {
            agent: agent(),
            task_type: review(),
            step: 2,
            tool: "shop/charge".parse().expect("a tool"),
            why: "it did not answer".to_owned(),
        };
        let retry = transitions().swap_remove(3);
        let history = events(vec![(0, claimed(1)), (22, doubt), (24, retry), (30, claimed(2))]);
        let told = in_order(&steps, &history, &Redactor::default());
        let kinds: Vec<(ToldKind, Option<u32>)> = told.iter().map(|line| (line.kind, line.step)).collect();
        assert_eq!(
            kinds,
            [
                (ToldKind::Delivery, None),
                (ToldKind::Model, Some(1)),
                (ToldKind::Tool, Some(2)),
                (ToldKind::Doubt, None),
                (ToldKind::Failure, None),
                (ToldKind::Wait, None),
                (ToldKind::Delivery, None),
                (ToldKind::Probe, Some(3)),
                (ToldKind::Model, Some(4)),
            ]
        );
        for (line, expected) in [
            (1, "step 1: sim/m was asked for 2s: it wants charge called [10 tokens in, 5 out, $0.01]"),
            (
                2,
                "step 2: shop/charge was called (payment, never repeated blindly) with {\"amount\":5,\"token\":\"[redacted]\"} under key",
            ),
            (
                7,
                "step 3: shop/get_charge was asked whether step 2 happened: it said \"{\"api_key\":\"[redacted]\",\"status\":\"pending\"}\"",
            ),
            (8, "step 4: sim/m was asked for 2s: it answered [10 tokens in, 5 out, $0.01]"),
        ] {
            assert!(told[line].words.starts_with(expected), "{line}: {}", told[line].words);
        }
        assert_eq!((told[1].took_s, told[1].micro_usd), (Some(2.0), Some(10_000)));
    }
}
