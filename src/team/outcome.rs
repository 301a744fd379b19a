//! What happened and what nobody knows: the story of a task, its journal, and a person's answer about a call in doubt.
//!
//! Everything handed out here to be read by people is without credentials; the journal itself stays exact, for the work
//! goes on from it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::decisions::runs_again;
use super::desk::{Desk, DeskError, FieldProblem};
use super::office::{Office, readable};
use crate::doubt::{self, Doubt};
use crate::engine;
use crate::event::Happening;
use crate::journal::{Entry, Judge, Line, Outcome, Step};
use crate::ledger::{Command, Refused};
use crate::letter::DeadLetter;
use crate::query::Death;
use crate::record::{Letter, Record, State};
use crate::task::TaskId;
use crate::triage::Decision;
use crate::why::{self, Why};

/// The calls of a task of which nobody knows whether they happened, to be shown.
async fn doubts(office: &Office, record: &Record) -> Result<Vec<Doubt>, engine::Error> {
    let running = if record.state == State::Running { record.fence } else { 0 };
    let steps = office.engine.steps(record.task.id).await?;
    Ok(Doubt::all(&steps, running).into_iter().map(|doubt| doubt.without_secrets(&office.redactor)).collect())
}

/// Which of these dead letters have a call in doubt. The journal of each is read, whatever it was given up for: a
/// deadline, a stall or a crash may have cut a call as well.
pub(crate) async fn in_doubt(office: &Office, records: &[Record]) -> Result<BTreeSet<TaskId>, engine::Error> {
    let open = |record: &&Record| record.letter.as_ref().is_some_and(Letter::is_open);
    let mut found = BTreeSet::new();
    for record in records.iter().filter(open) {
        // What a journal that cannot be read holds, nobody knows.
        if readable(doubts(office, record).await)?.is_none_or(|doubts| !doubts.is_empty()) {
            found.insert(record.task.id);
        }
    }
    Ok(found)
}

/// The calls in doubt behind these deaths, a line each, as pages name them.
pub(crate) async fn lines(office: &Office, deaths: &[Death]) -> Result<Vec<String>, engine::Error> {
    let mut lines = Vec::new();
    for death in deaths {
        if lines.len() >= crate::incident::DOUBTS_MAX {
            break;
        }
        let Some(record) = readable(office.engine.record(death.task).await)?.flatten() else { continue };
        let doubts = readable(doubts(office, &record).await)?.unwrap_or_default();
        lines.extend(doubts.iter().map(|doubt| format!("task {}, {}", death.task, doubt.line())));
    }
    Ok(lines)
}

impl Desk {
    /// A value as it may be shown to people: without credentials.
    #[must_use]
    pub fn shown<T: Serialize>(&self, value: &T) -> Value {
        match serde_json::to_value(value) {
            Ok(value) => self.office.redactor.value(&value),
            Err(error) => {
                tracing::error!(%error, "something could not be written as JSON");
                Value::Null
            }
        }
    }

    /// A task as its owner sees it: its payload and its answer are theirs and stay as they are.
    #[must_use]
    pub fn owned(&self, record: &Record) -> Value {
        let mut shown = self.shown(record);
        if let Some(payload) = shown.pointer_mut("/task/payload") {
            *payload = record.task.payload.clone();
        }
        if let (Some(shown), Some(answer)) = (shown.get_mut("answer"), &record.answer) {
            *shown = answer.clone();
        }
        shown
    }

    /// The journal of a task, exact. Show it through [`Desk::shown`].
    ///
    /// # Errors
    /// The engine's.
    pub async fn journal(&self, id: TaskId) -> Result<Vec<Step>, DeskError> {
        Ok(self.office.engine.steps(id).await?)
    }

    /// Why a task is where it is, without credentials.
    ///
    /// # Errors
    /// When there is no such task.
    pub async fn why(&self, id: TaskId) -> Result<Why, DeskError> {
        let record = self.task(id).await?;
        let steps = self.office.engine.steps(id).await?;
        let events = self.office.engine.history(id).await?;
        Ok(why::why(&record, &steps, &events, &self.office.redactor))
    }

    /// A dead letter with its journal, exact. Show it through [`Desk::shown`].
    ///
    /// # Errors
    /// When there is no such task, or it was never given up on.
    pub async fn letter(&self, id: TaskId) -> Result<DeadLetter, DeskError> {
        let record = self.task(id).await?;
        let steps = self.office.engine.steps(id).await?;
        DeadLetter::of(&record, &steps).ok_or_else(|| DeskError::NotFound { what: "dead letter", name: id.to_string() })
    }

    /// A person says whether a call in doubt happened. With one in doubt `step` may be left out. When it was the last
    /// one and the task was given up, it goes on at once: what happened is told to the model, what did not is made
    /// again under its key, and that it is made again is this person's word.
    ///
    /// # Errors
    /// When there is no such task or step, its outcome is known, or several are in doubt and none is named.
    pub async fn judge(
        &self,
        id: TaskId,
        step: Option<u32>,
        happened: bool,
        note: &str,
        by: &str,
    ) -> Result<Record, DeskError> {
        let record = self.task(id).await?;
        if record.state == State::Running {
            let needs = "it is running; what came of its calls is known when it has ended";
            return Err(refused(Refused::WrongState { state: record.state, needs }));
        }
        let steps = self.office.engine.steps(id).await?;
        let doubts = Doubt::all(&steps, 0);
        let doubt = asked_about(&steps, &doubts, step)?;
        let word = if happened { "happened" } else { "did not happen" };
        let mut reasons = vec![format!("step {}, {}, {word}", doubt.step, doubt.tool)];
        reasons.extend((!note.trim().is_empty()).then(|| self.office.one_line(note, 500)));
        let command = (given_up(&record) && doubts.len() == 1).then(|| self.go_on(&record, reasons.clone(), by));
        let alone = command.is_some();
        let judged = Happening::OutcomeJudged {
            agent: record.agent.clone(),
            task_type: record.task.task_type.clone(),
            step: doubt.step,
            happened,
            by: by.to_owned(),
            note: self.office.one_line(note, 500),
        };
        let (who, note) = (by.to_owned(), note.to_owned());
        let lines = vec![Line::Judge { step: doubt.step, happened, who, note }];
        let entry = Entry { fence: 0, lines, events: vec![judged], command };
        let mut record = self.office.engine.journal(id, entry, self.now()).await?.record;
        // Another answer, or the end of a delivery, may have come between what was read and what was written: each saw
        // a doubt of the other's, and whoever sees none now lets the task go on.
        if !alone && given_up(&record) && Doubt::all(&self.office.engine.steps(id).await?, 0).is_empty() {
            record = match self.office.engine.command(id, self.go_on(&record, reasons, by), self.now()).await {
                // So did the other, and was faster.
                Err(engine::Error::Refused(_)) => self.task(id).await?,
                other => other?,
            };
        }
        self.office.kick();
        Ok(record)
    }

    /// The command by which a task goes on when nothing is in doubt any more.
    fn go_on(&self, record: &Record, reasons: Vec<String>, by: &str) -> Command {
        self.decided(record, Decision::RunAgain { amendment: None }, reasons, by)
    }

    /// Why a decision must wait for an answer, if it must: what has the task done again would meet the doubt at once.
    pub(super) async fn unanswered(&self, record: &Record, decision: &Decision) -> Result<Option<String>, DeskError> {
        if !runs_again(decision) || !matches!(record.state, State::Dead | State::WaitingHuman) {
            return Ok(None);
        }
        let doubts = doubts(&self.office, record).await?;
        Ok((!doubts.is_empty()).then(|| doubt::answer_first(record.task.id, &doubts)))
    }
}

/// Does it wait, given up, for somebody to decide?
fn given_up(record: &Record) -> bool {
    let open = record.letter.as_ref().is_some_and(Letter::is_open);
    open && matches!(record.state, State::Dead | State::WaitingHuman)
}

/// The doubt somebody speaks of.
fn asked_about<'a>(steps: &[Step], doubts: &'a [Doubt], step: Option<u32>) -> Result<&'a Doubt, DeskError> {
    let problem = |message: String| DeskError::Invalid(vec![FieldProblem { field: "/step".to_owned(), message }]);
    match (step, doubts) {
        (Some(number), _) => doubts.iter().find(|doubt| doubt.step == number).ok_or_else(|| {
            refused(match steps.iter().any(|known| known.number == number) {
                true => Refused::Concluded { step: number },
                false => Refused::NoStep { step: number },
            })
        }),
        (None, [one]) => Ok(one),
        (None, []) => Err(match steps.iter().rev().find(|step| answered(step)) {
            Some(before) => refused(Refused::Concluded { step: before.number }),
            None => {
                DeskError::Policy("no call of this task is in doubt; `backstop why` tells what happened".to_owned())
            }
        }),
        (None, several) => {
            let named: Vec<String> = several.iter().map(|doubt| format!("{} ({})", doubt.step, doubt.tool)).collect();
            Err(problem(format!("several calls are in doubt; name one of {}", named.join(", "))))
        }
    }
}

/// Did a person say what became of it?
const fn answered(step: &Step) -> bool {
    matches!(&step.outcome, Some(Outcome::Judged { by: Judge::Person { .. }, .. }))
}

fn refused(refused: Refused) -> DeskError {
    DeskError::Engine(engine::Error::Refused(refused))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doubt::tests::{asks, calls};
    use crate::task::Effect;

    #[test]
    fn an_answer_is_about_one_call_in_doubt() {
        let wants = [("charge", json!({}))];
        let person =
            Outcome::Judged { happened: true, by: Judge::Person { who: "ana".to_owned() }, note: String::new() };
        let answered = calls(2, 1, 1, Effect::Mutation, Some(person));
        let first = [asks(1, 1, "x", &wants), answered];
        let one = [asks(3, 2, "", &wants), calls(4, 2, 3, Effect::Mutation, None)];
        let two = [asks(5, 3, "", &wants), calls(6, 3, 5, Effect::Payment, None)];
        let none: Vec<Step> = first.to_vec();
        let single: Vec<Step> = first.iter().chain(&one).cloned().collect();
        let several: Vec<Step> = single.iter().chain(&two).cloned().collect();
        let known = "what came of step 2 is known already; `backstop why` tells it";
        for (steps, step, expected) in [
            (&single, None, Ok(4)),
            (&single, Some(4), Ok(4)),
            (&single, Some(2), Err(known)),
            (&single, Some(9), Err("the task's journal has no step 9")),
            (&several, Some(6), Ok(6)),
            (&several, None, Err("/step: several calls are in doubt; name one of 4 (shop/charge), 6 (shop/charge)")),
            (&none, None, Err(known)),
            (&first[..1].to_vec(), None, Err("no call of this task is in doubt; `backstop why` tells what happened")),
        ] {
            let doubts = Doubt::all(steps, 0);
            let found = asked_about(steps, &doubts, step).map(|doubt| doubt.step).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{step:?} of {}", steps.len());
        }
    }
}
