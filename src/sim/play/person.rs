//! The person on call in virtual time: takes incidents on after a while, and decides about what waits after a longer one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::books::Word;
use super::stage::Shared;
use crate::decision::Decision;
use crate::incident::{IncidentState, Trigger};
use crate::query::{Filter, PageAsk};
use crate::record::State;
use crate::scenario::HumanDecision;
use crate::task::{Integration, TaskId};
use crate::team::desk::{Desk, DeskError};

/// The one on call.
const NAME: &str = "ana";

/// What the person has in mind: at which moments they act, and on which incidents.
#[derive(Debug, Default)]
pub(super) struct Person {
    /// Incidents to take on, by when.
    acknowledge: BTreeSet<(Duration, String)>,
    /// Incidents to decide, by when.
    decide: BTreeSet<(Duration, String)>,
    known: BTreeMap<String, Duration>,
    /// How often each task was sent round again: what does not help three times is given up.
    sent_again: BTreeMap<TaskId, u32>,
}

/// How often a person sends the same task round again.
const PATIENCE: u32 = 3;

impl Person {
    /// A page came.
    pub(super) fn called(&mut self, stage: &Shared, incident: String) {
        let Some(human) = &stage.scenario.human else { return };
        if self.known.contains_key(&incident) {
            return;
        }
        let now = stage.elapsed();
        self.known.insert(incident.clone(), now);
        self.acknowledge.extend(human.acknowledges_after.map(|after| (now + after, incident.clone())));
        self.decide.extend(human.decides_after.map(|after| (now + after, incident)));
    }

    /// When they act next.
    pub(super) fn next(&self) -> Option<Duration> {
        self.acknowledge.iter().chain(&self.decide).map(|(at, _)| *at).min()
    }

    /// Does what is due. Without a team that is up it is done when there is one.
    pub(super) async fn act(&mut self, stage: &Shared, desk: Option<&Desk>) {
        const LATER: Duration = Duration::from_secs(60);
        let now = stage.elapsed();
        let due = |plan: &mut BTreeSet<(Duration, String)>| {
            let rest = plan.split_off(&(now + Duration::from_millis(1), String::new()));
            std::mem::replace(plan, rest)
        };
        for (_, incident) in due(&mut self.acknowledge) {
            match desk {
                Some(desk) => {
                    // One that is over needs nobody.
                    if desk.acknowledge(&incident, NAME, "looking at it").await.is_ok() {
                        word(stage, &incident, "acknowledge", None);
                    }
                }
                None => drop(self.acknowledge.insert((now + LATER, incident))),
            }
        }
        for (_, incident) in due(&mut self.decide) {
            let again = match desk {
                Some(desk) => !decide(stage, desk, &incident, &mut self.sent_again).await,
                None => true,
            };
            // What does not work now (the disk is full, the process down) is tried again in a minute.
            if again {
                self.decide.insert((now + LATER, incident));
            }
        }
    }
}

fn word(stage: &Shared, about: &str, what: &str, task: Option<TaskId>) {
    let word = Word { at: stage.elapsed(), about: about.to_owned(), what: what.to_owned(), task };
    stage.books.open().words.push(word);
}

/// Does the store take writes?
fn takes_writes(desk: &Desk) -> bool {
    desk.engine().write_trouble().borrow().is_none()
}

/// Answers every question and decides about every task that waits for a person, then ends the incident; what an
/// integration wanted of them is done by then. False when
/// something could not be said.
async fn decide(stage: &Shared, desk: &Desk, incident: &str, sent_again: &mut BTreeMap<TaskId, u32>) -> bool {
    let Some(human) = &stage.scenario.human else { return true };
    let waiting = Filter { states: vec![State::WaitingHuman], ..Filter::default() };
    let Ok(waiting) = desk.engine().records(waiting, PageAsk { limit: 1_000, oldest_first: true, after: None }).await
    else {
        return false;
    };
    let mut said = true;
    for record in waiting.items {
        let id = record.task.id;
        // First what is in doubt; a task whose last doubt is gone goes on by itself.
        let mut in_doubt = false;
        while let Ok(steps) = desk.engine().steps(id).await {
            let doubts = crate::doubt::Doubt::all(&steps, 0);
            let Some(doubt) = doubts.first() else { break };
            in_doubt = true;
            let looked = stage.cast.as_ref().map(|cast| cast.happened(stage, doubt.key.as_str()));
            let (happened, note) = looked.unwrap_or_else(|| (human.happened, "looked it up".to_owned()));
            let what = if happened { "happened" } else { "did-not-happen" };
            word(stage, incident, what, Some(id));
            if desk.judge(id, Some(doubt.step), happened, &note, NAME).await.is_err() {
                said = false;
                break;
            }
        }
        if in_doubt {
            continue;
        }
        let times = sent_again.entry(id).or_default();
        *times += 1;
        let chosen = if *times > PATIENCE { HumanDecision::Discard } else { human.decision };
        let decision = match chosen {
            HumanDecision::RunAgain => Decision::RunAgain { amendment: None },
            HumanDecision::Discard => Decision::Discard { why: "not needed any more".to_owned() },
        };
        // Written down first: what is allowed must be in the books before it can happen.
        word(stage, incident, chosen.as_str(), Some(id));
        if desk.decide(id, decision, NAME, "decided by the person on call").await.is_err() {
            // Somebody else was faster, or it cannot be said now; the state tells which at the next look.
            said &= desk.task(id).await.is_ok_and(|record| record.state != State::WaitingHuman);
        }
    }
    let open = match desk.incident(incident).await {
        Ok(open) if open.state != IncidentState::Resolved => open,
        Ok(_) => return said,
        // The process forgot it: it was about a store that takes writes again, and is ended at the pager.
        Err(DeskError::NotFound { .. }) if takes_writes(desk) => return said,
        Err(_) => return false,
    };
    // An integration that waits for a person waits until its breaker is closed, whatever becomes of the incident.
    if open.trigger == Trigger::Integration
        && let Ok(integration) = Integration::new(open.subject.as_str())
    {
        // About the integration: it is let go, whatever becomes of the incident.
        word(stage, integration.as_str(), "close-breaker", None);
        let closed = desk.close_breaker(&integration, NAME, "seen to").await.is_ok();
        // Open still, tasks of it wait for a person: they come back for those.
        let over = desk.incident(incident).await.is_ok_and(|incident| !incident.is_open());
        return closed && over && said;
    }
    word(stage, incident, "resolve", None);
    desk.resolve(incident, NAME, "over").await.is_ok() && said
}
