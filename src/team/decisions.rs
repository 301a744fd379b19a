//! What a person decides: about a dead letter, and about an incident and all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::alarm;
use super::desk::{Desk, DeskError, FieldProblem, Overridden};
use super::drawer;
use super::escalate::{self, TellError};
use super::office::{Office, readable};
use crate::engine;
use crate::incident::{self, Incident, IncidentCommand};
use crate::ledger::{Command, Refused};
use crate::record::{Letter, Record, State};
use crate::task::{Effect, Integration, TaskId};
use crate::triage::{Decided, DeciderKind, Decision};

/// The incidents that somebody decides about now, task by task, and how many do. They are not over before that is told of
/// them, although none of their tasks waits any more.
#[derive(Default)]
pub(crate) struct Deciding(Mutex<BTreeMap<String, u32>>);

impl Deciding {
    pub(crate) fn about(&self, incident: &str) -> bool {
        self.names().contains_key(incident)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody decides about an incident; dropped, they do so no more, and the incident actor looks again.
pub(super) struct Underway {
    office: Arc<Office>,
    incident: String,
}

impl Underway {
    pub(super) fn begin(office: &Arc<Office>, incident: &str) -> Self {
        *office.deciding.names().entry(incident.to_owned()).or_default() += 1;
        Self { office: Arc::clone(office), incident: incident.to_owned() }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut names = self.office.deciding.names();
        match names.get_mut(&self.incident) {
            Some(others) if *others > 1 => *others -= 1,
            Some(_) | None => drop(names.remove(&self.incident)),
        }
        drop(names);
        self.office.kick();
    }
}

impl Desk {
    /// A person's decision about a dead letter.
    ///
    /// # Errors
    /// When there is none to decide about, the decision cannot be carried out, or it would have the task done again
    /// while nobody knows whether a call of it happened: that is answered first, see [`Desk::judge`].
    pub async fn decide(&self, id: TaskId, decision: Decision, by: &str, reason: &str) -> Result<Record, DeskError> {
        let record = self.task(id).await?;
        self.possible(&decision)?;
        if let Some(why) = self.unanswered(&record, &decision).await? {
            return Err(DeskError::Policy(why));
        }
        let command = self.decided(&record, decision, vec![reason.to_owned()], by);
        let record = self.office.engine.command(id, command, self.now()).await?;
        self.office.kick();
        Ok(record)
    }

    /// The command that a person's decision about this task is.
    pub(super) fn decided(&self, record: &Record, decision: Decision, reasons: Vec<String>, by: &str) -> Command {
        let integration = self.office.integration_after(record, &decision);
        let decided = Decided {
            number: 0,
            generation: record.generation,
            decision,
            by: DeciderKind::Human,
            who: Some(by.to_owned()),
            at: self.now(),
            reasons,
            rejected: Vec::new(),
        };
        Command::Decide { decided, seen: None, integration }
    }

    /// Are the agent and the model of a decision there?
    fn possible(&self, decision: &Decision) -> Result<(), DeskError> {
        let invalid = |field: &str, message: String| {
            Err(DeskError::Invalid(vec![FieldProblem { field: field.to_owned(), message }]))
        };
        match decision {
            Decision::RetryOnFallback { model } if !self.office.providers.contains_key(&model.provider) => {
                let known: Vec<&str> = self.office.providers.keys().map(Integration::as_str).collect();
                invalid(
                    "/model",
                    format!("no provider `{}` is configured; there are {}", model.provider, known.join(", ")),
                )
            }
            Decision::Reassign { agent, .. } if !self.office.config.agents.contains_key(agent) => {
                invalid("/agent", format!("there is no agent `{agent}`"))
            }
            Decision::RetryOnFallback { .. }
            | Decision::Reassign { .. }
            | Decision::RetryAfterCheck { .. }
            | Decision::Park { .. }
            | Decision::Discard { .. }
            | Decision::PageHuman { .. }
            | Decision::Resolve { .. }
            | Decision::RunAgain { .. } => Ok(()),
        }
    }

    /// Every incident, newest first.
    ///
    /// # Errors
    /// The engine's.
    pub async fn incidents(&self) -> Result<Vec<Incident>, DeskError> {
        let stored = drawer::all::<Incident>(self.engine()).await?;
        let mut incidents: Vec<Incident> = stored.into_iter().map(|stored| stored.value).collect();
        incidents.sort_by(|one, other| other.opened_at.cmp(&one.opened_at).then_with(|| other.id.cmp(&one.id)));
        Ok(incidents)
    }

    /// One incident.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn incident(&self, id: &str) -> Result<Incident, DeskError> {
        let found = drawer::one::<Incident>(self.engine(), id).await?;
        found.map(|stored| stored.value).ok_or_else(|| DeskError::NotFound { what: "incident", name: id.to_owned() })
    }

    async fn tell(&self, id: &str, command: IncidentCommand) -> Result<Incident, DeskError> {
        let told = escalate::tell(&self.office, id, command).await.map_err(|error| match error {
            TellError::Refused(refused) => DeskError::Policy(refused.to_string()),
            TellError::Engine(error) => DeskError::Engine(error),
        })?;
        self.office.kick();
        told.ok_or_else(|| DeskError::NotFound { what: "incident", name: id.to_owned() })
    }

    /// Takes an incident on.
    ///
    /// # Errors
    /// When there is none, or somebody else has it: says who and since when.
    pub async fn acknowledge(&self, incident: &str, by: &str, note: &str) -> Result<Incident, DeskError> {
        let note = self.note(note);
        if let Some(told) = alarm::acknowledge(&self.office, incident, by, &note) {
            return told.map_err(|refused| DeskError::Policy(refused.to_string()));
        }
        self.tell(incident, IncidentCommand::Acknowledge { by: by.to_owned(), note }).await
    }

    /// What a person says to an incident is sent to everybody on call, and may hold a secret of ours.
    fn note(&self, note: &str) -> String {
        self.office.redactor.redact(note).into_owned()
    }

    /// Decides for every undecided task of an incident.
    ///
    /// # Errors
    /// When there is none, it was overridden or resolved before, or the decision cannot be carried out.
    pub async fn override_incident(
        &self,
        incident: &str,
        decision: Decision,
        by: &str,
        note: &str,
    ) -> Result<Overridden, DeskError> {
        let _underway = Underway::begin(&self.office, incident);
        let open = self.incident(incident).await?;
        self.possible(&decision)?;
        let words = crate::triage::in_words(&decision);
        let command = |tasks, left| IncidentCommand::Override {
            by: by.to_owned(),
            note: self.note(note),
            decision: words.clone(),
            tasks,
            // What was refused still waits for somebody.
            covers: open.size().saturating_sub(left),
        };
        // Asked before anything is decided: a second override must not reach a single task.
        incident::apply(&open, command(0, 0), &escalate::rules(&self.office), self.now())
            .map_err(|refused| DeskError::Policy(refused.to_string()))?;
        let (mut decided, mut refused) = (Vec::new(), Vec::new());
        let tasks: BTreeSet<TaskId> = open.deaths.iter().map(|(task, _)| *task).collect();
        for task in tasks {
            match self.override_one(task, &decision, by, note).await {
                Ok(true) => decided.push(task),
                Ok(false) => {}
                Err(DeskError::Policy(why)) => refused.push((task, why)),
                Err(DeskError::Engine(error @ (engine::Error::Refused(_) | engine::Error::Unreadable { .. }))) => {
                    refused.push((task, error.to_string()))
                }
                Err(error) => return Err(error),
            }
        }
        let count = |tasks: usize| u32::try_from(tasks).unwrap_or(u32::MAX);
        let incident = self.tell(incident, command(count(decided.len()), count(refused.len()))).await?;
        Ok(Overridden { incident, decided, refused })
    }

    /// Was there still something to decide?
    async fn override_one(&self, task: TaskId, decision: &Decision, by: &str, note: &str) -> Result<bool, DeskError> {
        let record = self.task(task).await?;
        // What was discarded or resolved meanwhile stays so.
        let open = record.letter.as_ref().is_some_and(Letter::is_open);
        if !open || !matches!(record.state, State::Dead | State::WaitingHuman) {
            return Ok(false);
        }
        if let Some(why) = self.unanswered(&record, decision).await? {
            return Err(DeskError::Policy(why));
        }
        // Deciding for a group names nobody's payment.
        if record.task.effect == Effect::Payment && runs_again(decision) {
            return Err(DeskError::Policy(Refused::PaymentNeedsPerson.to_string()));
        }
        self.decide(task, decision.clone(), by, note).await.map(|_| true)
    }

    /// Ends an incident.
    ///
    /// # Errors
    /// When there is none, it has ended, or tasks of it still wait for a person: ended, it would remind nobody of them.
    pub async fn resolve(&self, incident: &str, by: &str, note: &str) -> Result<Incident, DeskError> {
        let mut waiting = Vec::new();
        for (task, generation) in self.incident(incident).await?.deaths {
            // What cannot be read nobody can decide about; that has an incident of its own.
            let record = readable(self.office.engine.record(task).await)?.flatten();
            if record.is_some_and(|record| record.state == State::WaitingHuman && record.generation == generation) {
                waiting.push(task.to_string());
            }
        }
        if !waiting.is_empty() {
            let (count, some) = (waiting.len(), waiting.into_iter().take(3).collect::<Vec<_>>().join(", "));
            let left = format!(
                "{count} of its tasks wait for a person ({some}); decide about them first (`backstop ceo decide`, or `backstop incident override {incident}` for all)"
            );
            return Err(DeskError::Policy(left));
        }
        self.tell(incident, IncidentCommand::Resolve { by: by.to_owned(), note: self.note(note) }).await
    }
}

/// Does this decision have the task done again?
pub(super) fn runs_again(decision: &Decision) -> bool {
    match decision {
        Decision::RetryOnFallback { .. }
        | Decision::RetryAfterCheck { .. }
        | Decision::Reassign { .. }
        | Decision::Park { .. }
        | Decision::RunAgain { .. } => true,
        Decision::Discard { .. } | Decision::PageHuman { .. } | Decision::Resolve { .. } => false,
    }
}
