//! Everything an operator can ask of a running team: what the HTTP API, the CLI and the demo call.
//!
//! Reads go to the engine; orders are commands to it, and a kick for whoever carries them out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::agent::AgentMessage;
use super::bells::Bell;
use super::drawer::{self, Written};
use super::escalate::{self, TellError};
use super::office::{Office, readable};
use super::outcome;
pub use super::views::{
    AgentState, AgentView, BreakerView, DeskError, Explanation, FieldProblem, NewTask, Overridden, PageTest, Readiness,
};
use crate::answer::Validator;
use crate::config::Config;
use crate::delivery::Hold;
use crate::engine::{self, Engine, Submitted};
use crate::guard::{Guard, Transition};
use crate::incident::{self, Incident, IncidentCommand, Opening, PageAction, PageDraft, Trigger};
use crate::ledger::{Command, Letter, LetterStatus, Record, Refused, Seen, State};
use crate::outbox;
use crate::prompt;
use crate::query::{Filter, PageAsk};
use crate::replay::{self, Plan, Replay, ReplayAsk, ReplayCommand, ReplayRefused, ReplayState, Taken};
use crate::task::{AgentName, Effect, Integration, PAYLOAD_LIMIT, Priority, Task, TaskError, TaskId, TaskType};
use crate::time::{self, Timestamp};
use crate::triage::{Decided, DeciderKind, Decision};

/// The operator's view of a running team. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub(super) office: Arc<Office>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("team", &self.office.config.team).finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn new(office: Arc<Office>) -> Self {
        Self { office }
    }

    /// The durable record, for reading.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.office.engine
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.office.config
    }

    /// The team's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.office.now()
    }

    /// Accepts a task. What is left out is filled in from its type's declaration.
    ///
    /// # Errors
    /// [`DeskError::Invalid`] with everything that is wrong with it, [`DeskError::Draining`], or the engine's.
    pub async fn submit(&self, ask: NewTask) -> Result<Submitted, DeskError> {
        if self.office.draining() {
            return Err(DeskError::Draining);
        }
        let now = self.now();
        self.check(&ask, now)?;
        let declared = self.office.config.task_types.get(&ask.task_type);
        let agent = match &ask.agent {
            Some(agent) => agent.clone(),
            None => self.least_loaded(&ask.task_type).await?,
        };
        let prompt = self.office.config.prompt_for(&ask.task_type, ask.prompt.as_deref());
        let effect = ask.effect.unwrap_or_else(|| self.office.config.effect(&ask.task_type, prompt));
        let task = Task {
            id: self.office.dice.task_id(now),
            task_type: ask.task_type.clone(),
            agent: agent.clone(),
            payload: ask.payload,
            effect,
            priority: ask
                .priority
                .or_else(|| declared.and_then(|declared| declared.priority))
                .unwrap_or(Priority::Normal),
            idempotency_key: ask.idempotency_key,
            deadline: ask.deadline,
            tenant: ask.tenant,
            prompt: ask.prompt,
            created_at: now,
        };
        let integration = self.office.config.agents.get(&agent).map(|agent| agent.model.provider.clone());
        let integration = integration.ok_or_else(|| DeskError::NotFound { what: "agent", name: agent.to_string() })?;
        let submitted = self.office.engine.submit(task, integration, now).await?;
        self.office.kick();
        Ok(submitted)
    }

    /// Everything that is wrong with a submission, at once.
    fn check(&self, ask: &NewTask, now: Timestamp) -> Result<(), DeskError> {
        let config = &self.office.config;
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: String| problems.push(FieldProblem { field: field.to_owned(), message });
        if let Some(agent) = ask.agent.as_ref().filter(|agent| !config.agents.contains_key(*agent)) {
            let known: Vec<&str> = config.agents.keys().map(AgentName::as_str).collect();
            wrong("/agent", format!("there is no agent `{agent}`; the team has {}", known.join(", ")));
        }
        if let Some(prompt) = ask.prompt.as_ref().filter(|prompt| !config.prompts.contains_key(*prompt)) {
            wrong("/prompt", format!("there is no prompt `{prompt}`"));
        }
        let prompt = config.prompt_for(&ask.task_type, ask.prompt.as_deref());
        for lacking in config.prompts.get(prompt).into_iter().flat_map(|prompt| prompt::lacking(prompt, &ask.payload)) {
            wrong(&format!("/payload/{lacking}"), format!("is missing; prompt `{prompt}` requires it"));
        }
        let of_type = config.task_types.get(&ask.task_type).and_then(|declared| declared.effect);
        let declared = of_type.or_else(|| config.prompts.get(prompt).and_then(|prompt| prompt.class));
        if let (Some(effect), Some(declared)) = (ask.effect, declared)
            && effect < declared
        {
            wrong(
                "/effect",
                format!("`{effect}` is weaker than `{declared}`, which is declared for `{}`", ask.task_type),
            );
        }
        if ask.deadline.is_some_and(|deadline| deadline <= now) {
            wrong("/deadline", format!("has passed; it is {now}"));
        }
        let size = ask.payload.to_string().len();
        if size > PAYLOAD_LIMIT {
            wrong("/payload", TaskError::PayloadTooLarge { size, limit: PAYLOAD_LIMIT }.to_string());
        }
        if let Some(tenant) = ask.tenant.as_ref().filter(|tenant| tenant.is_empty() || tenant.len() > 255) {
            wrong("/tenant", format!("must have 1 to 255 bytes, not {}", tenant.len()));
        }
        let schema = config.task_types.get(&ask.task_type).and_then(|declared| declared.input_schema.as_ref());
        if let Some(validator) = schema.and_then(|schema| self.office.validators.of(schema)) {
            for violation in Validator::violations(&validator, &ask.payload) {
                wrong(&format!("/payload{}", violation.path), violation.message);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(DeskError::Invalid(problems)) }
    }

    /// The agent in reach that handles this type and has the least to do.
    async fn least_loaded(&self, task_type: &TaskType) -> Result<AgentName, DeskError> {
        let depths = self.office.engine.depths().await?;
        let load = |name: &AgentName| -> u64 {
            let open = |state: State| matches!(state, State::Ready | State::Scheduled | State::Parked | State::Running);
            depths.iter().filter(|depth| depth.agent == *name && open(depth.state)).map(|depth| depth.tasks).sum()
        };
        let handling = self.office.config.agents.values().filter(|agent| agent.handles(task_type));
        // An agent that is down is chosen only when nobody else handles the type: then the task waits for it.
        let best = handling.min_by_key(|agent| (!self.office.in_reach(&agent.name), load(&agent.name)));
        best.map(|agent| agent.name.clone()).ok_or_else(|| {
            let message = format!(
                "no agent handles `{task_type}`; name one with `agent`, or add the type to an agent's `handles`"
            );
            DeskError::Invalid(vec![FieldProblem { field: "/type".to_owned(), message }])
        })
    }

    /// One task.
    ///
    /// # Errors
    /// [`DeskError::NotFound`], or the engine's.
    pub async fn task(&self, id: TaskId) -> Result<Record, DeskError> {
        self.office.engine.record(id).await?.ok_or_else(|| DeskError::NotFound { what: "task", name: id.to_string() })
    }

    /// Waits until a task has come to an end, or to a person.
    ///
    /// # Errors
    /// [`DeskError::NotFound`], or the engine's.
    pub async fn wait(&self, id: TaskId) -> Result<Record, DeskError> {
        let bell = Bell::of(&self.office, id);
        loop {
            let rings = bell.next();
            let record = self.task(id).await?;
            let open = record.letter.as_ref().is_some_and(|letter| letter.status == LetterStatus::Open);
            match record.state {
                State::Done | State::WaitingHuman | State::Cancelled => return Ok(record),
                State::Dead if !open => return Ok(record),
                State::Ready | State::Scheduled | State::Parked | State::Running | State::Dead => rings.await,
            }
        }
    }

    /// Cancels a task that has not ended.
    ///
    /// # Errors
    /// When there is none, or it has ended.
    pub async fn cancel(&self, id: TaskId, by: &str, reason: &str) -> Result<Record, DeskError> {
        let command = Command::Cancel { by: by.to_owned(), reason: reason.to_owned() };
        let record = self.office.engine.command(id, command, self.now()).await?;
        self.office.guards.came(id, record.fence);
        for seat in self.office.seats.values() {
            seat.addr.tell(AgentMessage::Cancel(id));
        }
        self.office.kick();
        Ok(record)
    }

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
        let integration = self.office.integration_after(&record, &decision);
        let decided = Decided {
            number: 0,
            generation: record.generation,
            decision,
            by: DeciderKind::Human,
            who: Some(by.to_owned()),
            at: self.now(),
            reasons: vec![reason.to_owned()],
            rejected: Vec::new(),
        };
        let command = Command::Decide { decided, seen: None, integration };
        let record = self.office.engine.command(id, command, self.now()).await?;
        self.office.kick();
        Ok(record)
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

    /// Every agent, by name.
    ///
    /// # Errors
    /// The engine's.
    pub async fn agents(&self) -> Result<Vec<AgentView>, DeskError> {
        let depths = self.office.engine.depths().await?;
        let count = |name: &AgentName, states: &[State]| -> u64 {
            depths
                .iter()
                .filter(|depth| depth.agent == *name && states.contains(&depth.state))
                .map(|depth| depth.tasks)
                .sum()
        };
        let view = |seat: &Arc<super::seat::Seat>| {
            let (agent, state) = (&seat.agent, seat.view());
            AgentView {
                name: agent.name.clone(),
                description: agent.description.clone(),
                state: state.condition,
                since: state.since,
                incarnation: state.incarnation,
                deaths: state.deaths,
                last_death: state.last_death,
                model: agent.model.clone(),
                fallback_models: agent.fallback_models.clone(),
                handles: agent.handles.clone(),
                covers_for: agent.covers_for.clone(),
                slots: agent.concurrency,
                running: state.running.into_keys().collect(),
                waiting: count(&agent.name, &[State::Ready, State::Scheduled, State::Parked]),
                dead: count(&agent.name, &[State::Dead, State::WaitingHuman]),
            }
        };
        Ok(self.office.seats.values().map(view).collect())
    }

    /// Kills an agent's actor, as a bug would: for drills. Its work is handed back and it is restarted.
    ///
    /// # Errors
    /// When there is no such agent.
    pub fn crash_agent(&self, agent: &AgentName, message: &str) -> Result<(), DeskError> {
        let seat = self
            .office
            .seats
            .get(agent)
            .ok_or_else(|| DeskError::NotFound { what: "agent", name: agent.to_string() })?;
        seat.addr.tell(AgentMessage::Crash(message.to_owned()));
        Ok(())
    }

    /// Has an agent's actor hear nothing for so long, as if stuck: for drills. What it does goes on; it is found out,
    /// killed and restarted.
    ///
    /// # Errors
    /// When there is no such agent.
    pub fn hang_agent(&self, agent: &AgentName, span: Duration) -> Result<(), DeskError> {
        let seat = self
            .office
            .seats
            .get(agent)
            .ok_or_else(|| DeskError::NotFound { what: "agent", name: agent.to_string() })?;
        seat.addr.tell(AgentMessage::Hang(span));
        Ok(())
    }

    /// Every integration, by name.
    ///
    /// # Errors
    /// The engine's.
    pub async fn breakers(&self) -> Result<Vec<BreakerView>, DeskError> {
        let mut views = Vec::new();
        for integration in self.office.guards.integrations() {
            views.push(self.breaker(integration).await?);
        }
        Ok(views)
    }

    async fn breaker(&self, integration: &Integration) -> Result<BreakerView, DeskError> {
        let filter =
            Filter { states: vec![State::Parked], integration: Some(integration.clone()), ..Filter::default() };
        let page = PageAsk { limit: 1000, ..PageAsk::default() };
        let parked = self.office.engine.records(filter, page).await?;
        let parked = parked.items.len() + parked.unreadable.len();
        let now = self.now();
        let view = |guard: &mut Guard| BreakerView {
            integration: integration.clone(),
            state: guard.state(now).to_string(),
            until: guard.until(now).into_iter().chain(guard.gate_until(now)).max(),
            failures: guard.failures(now),
            threshold: guard.threshold(),
            gate_closed: guard.gate_until(now).is_some(),
            ramp: guard.ramp(now),
            parked: parked as u64,
            why: guard.why().to_owned(),
        };
        self.office.guards.with(integration, view).ok_or_else(|| no_integration(integration))
    }

    /// Forces a breaker open, until it is closed by hand or `span` has passed.
    ///
    /// # Errors
    /// When there is no such integration.
    pub async fn open_breaker(
        &self,
        integration: &Integration,
        span: Option<Duration>,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        let now = self.now();
        let until = span.map(|span| now + span);
        self.force(integration, |guard| guard.force_open(until, &format!("opened by {by}: {reason}"), now)).await
    }

    /// Closes a breaker and its gate, and forgets its failures.
    ///
    /// # Errors
    /// When there is no such integration.
    pub async fn close_breaker(
        &self,
        integration: &Integration,
        by: &str,
        reason: &str,
    ) -> Result<BreakerView, DeskError> {
        let now = self.now();
        let view = self.force(integration, |guard| guard.close(&format!("closed by {by}: {reason}"), now)).await?;
        self.unpark(integration).await?;
        self.end_integration_incident(integration, by, reason).await?;
        Ok(view)
    }

    async fn force(
        &self,
        integration: &Integration,
        change: impl FnOnce(&mut Guard) -> Vec<Transition>,
    ) -> Result<BreakerView, DeskError> {
        let transitions = self.office.guards.with(integration, change).ok_or_else(|| no_integration(integration))?;
        // Said to be done when it is durable. Said again after an error, it changes nothing and is stored then.
        if transitions.is_empty() {
            // The gate may have been opened, which is no event.
            self.office.store_guard(integration, Vec::new()).await?;
        } else {
            self.office.announce(integration, transitions, Vec::new()).await?;
        }
        self.breaker(integration).await
    }

    /// What waited for it need not wait until the old time. What somebody paused goes on waiting.
    async fn unpark(&self, integration: &Integration) -> Result<(), DeskError> {
        let now = self.now();
        let filter =
            Filter { states: vec![State::Parked], integration: Some(integration.clone()), ..Filter::default() };
        for record in self.office.every(filter).await? {
            let why = record.parking.as_ref().map_or(Hold::BreakerOpen, |parking| parking.why);
            if why == Hold::Paused {
                continue;
            }
            let command = Command::Park { seen: Seen::of(&record), until: now, why };
            match self.office.engine.command(record.task.id, command, now).await {
                // Claimed meanwhile: so much the better.
                Ok(_) | Err(engine::Error::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.office.kick();
        Ok(())
    }

    async fn end_integration_incident(
        &self,
        integration: &Integration,
        by: &str,
        reason: &str,
    ) -> Result<(), DeskError> {
        for incident in self.incidents().await? {
            if incident.is_open()
                && incident.trigger == Trigger::Integration
                && incident.subject == integration.as_str()
            {
                self.resolve(&incident.id, by, reason).await?;
            }
        }
        Ok(())
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
        self.tell(incident, IncidentCommand::Acknowledge { by: by.to_owned(), note: note.to_owned() }).await
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
        let open = self.incident(incident).await?;
        self.possible(&decision)?;
        let words = crate::triage::in_words(&decision);
        let command = |tasks| IncidentCommand::Override {
            by: by.to_owned(),
            note: note.to_owned(),
            decision: words.clone(),
            tasks,
        };
        // Asked before anything is decided: a second override must not reach a single task.
        incident::apply(&open, command(0), &escalate::rules(&self.office), self.now())
            .map_err(|refused| DeskError::Policy(refused.to_string()))?;
        let (mut decided, mut refused) = (Vec::new(), Vec::new());
        let tasks: BTreeSet<TaskId> = open.deaths.iter().map(|(task, _)| *task).collect();
        for task in tasks {
            let record = match self.task(task).await {
                Err(DeskError::Engine(error @ engine::Error::Unreadable { .. })) => {
                    refused.push((task, error.to_string()));
                    continue;
                }
                record => record?,
            };
            // What was discarded or resolved meanwhile stays so.
            let open = record.letter.as_ref().is_some_and(Letter::is_open);
            if !open || !matches!(record.state, State::Dead | State::WaitingHuman) {
                continue;
            }
            match self.unanswered(&record, &decision).await {
                Ok(None) => {}
                Ok(Some(why)) => {
                    refused.push((task, why));
                    continue;
                }
                Err(DeskError::Engine(error @ engine::Error::Unreadable { .. })) => {
                    refused.push((task, error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            }
            // Deciding for a group names nobody's payment.
            if record.task.effect == Effect::Payment && runs_again(&decision) {
                refused.push((task, Refused::PaymentNeedsPerson.to_string()));
                continue;
            }
            match self.decide(task, decision.clone(), by, note).await {
                Ok(_) => decided.push(task),
                Err(DeskError::Engine(engine::Error::Refused(why))) => refused.push((task, why.to_string())),
                Err(error) => return Err(error),
            }
        }
        let incident = self.tell(incident, command(u32::try_from(decided.len()).unwrap_or(u32::MAX))).await?;
        Ok(Overridden { incident, decided, refused })
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
        self.tell(incident, IncidentCommand::Resolve { by: by.to_owned(), note: note.to_owned() }).await
    }

    /// What a replay would do; changes nothing.
    ///
    /// # Errors
    /// When the ask is not sound.
    pub async fn plan_replay(&self, ask: &ReplayAsk) -> Result<Plan, DeskError> {
        replay::check(ask).map_err(not_replayed)?;
        let busy = self
            .replays()
            .await?
            .into_iter()
            .filter(|replay| matches!(replay.state, ReplayState::Running | ReplayState::Paused));
        let busy: BTreeSet<TaskId> = busy
            .flat_map(|replay| replay.pending.into_iter().chain(replay.released.into_iter().map(|(task, _)| task)))
            .collect();
        let mut records = Vec::new();
        let mut page = PageAsk { after: None, limit: 1000, oldest_first: true };
        loop {
            let found = self.office.engine.dead_letters(ask.filter.clone(), page.clone()).await?;
            records.extend(found.items);
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let in_doubt = outcome::in_doubt(&self.office, &records).await?;
        Ok(replay::plan(ask, &records, &|record| self.office.capable(record), &Taken { busy, in_doubt }))
    }

    /// Starts a replay.
    ///
    /// # Errors
    /// When the ask is not sound.
    pub async fn start_replay(&self, ask: ReplayAsk) -> Result<Replay, DeskError> {
        let mut taken = 0;
        loop {
            let plan = self.plan_replay(&ask).await?;
            let known = self.replays().await?;
            let number = known
                .iter()
                .filter_map(|replay| replay.id.strip_prefix("RPL-")?.parse::<u64>().ok())
                .max()
                .unwrap_or(0)
                .max(taken)
                + 1;
            let (replay, events) =
                replay::start(format!("RPL-{number}"), ask.clone(), plan, self.now()).map_err(not_replayed)?;
            match self.office.engine.save(vec![drawer::document(&replay, 0)], events, self.now()).await {
                Ok(()) => {
                    self.office.kick();
                    return Ok(replay);
                }
                // Another replay took the number: plan anew, for it may have taken letters too.
                Err(engine::Error::DocumentConflict { .. }) => taken = number,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Every replay, newest first.
    ///
    /// # Errors
    /// The engine's.
    pub async fn replays(&self) -> Result<Vec<Replay>, DeskError> {
        let stored = drawer::all::<Replay>(self.engine()).await?;
        let mut replays: Vec<Replay> = stored.into_iter().map(|stored| stored.value).collect();
        replays.sort_by(|one, other| other.started_at.cmp(&one.started_at).then_with(|| other.id.cmp(&one.id)));
        Ok(replays)
    }

    async fn order(&self, id: &str, command: ReplayCommand, by: &str) -> Result<Replay, DeskError> {
        let now = self.now();
        let changed = drawer::change(self.engine(), id, now, |replay: &Replay| {
            let (value, events) = replay::command(replay, command, by, now).map_err(not_replayed)?;
            Ok::<_, DeskError>(Written { value, with: Vec::new(), events })
        })
        .await?;
        self.office.kick();
        changed.ok_or_else(|| DeskError::NotFound { what: "replay", name: id.to_owned() })
    }

    /// Holds a running replay.
    ///
    /// # Errors
    /// When there is none, or it is not running.
    pub async fn pause_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Pause, by).await
    }

    /// Lets a paused replay go on.
    ///
    /// # Errors
    /// When there is none, or it is not paused.
    pub async fn resume_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Resume, by).await
    }

    /// Ends a replay; what was not released stays in the queue.
    ///
    /// # Errors
    /// When there is none, or it has ended.
    pub async fn cancel_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Cancel, by).await
    }

    /// Which policy applies to a task type (in an agent's hands), and why.
    ///
    /// # Errors
    /// When there is no such agent, or nobody handles the type.
    pub fn explain_type(&self, task_type: &TaskType, agent: Option<&AgentName>) -> Result<Explanation, DeskError> {
        let config = &self.office.config;
        let agent = match agent {
            Some(name) => {
                config.agents.get(name).ok_or_else(|| DeskError::NotFound { what: "agent", name: name.to_string() })?
            }
            None => config.agents.values().find(|agent| agent.handles(task_type)).ok_or_else(|| {
                DeskError::NotFound { what: "task type (nobody handles it)", name: task_type.to_string() }
            })?,
        };
        let declared = config.task_types.get(task_type).and_then(|declared| declared.effect);
        Ok(self.explanation(task_type.to_string(), task_type, &agent.name, &agent.model.provider, declared))
    }

    /// Which policy applies to a task, and what happened to it by which rule.
    ///
    /// # Errors
    /// When there is no such task.
    pub async fn explain_task(&self, id: TaskId) -> Result<Explanation, DeskError> {
        let record = self.task(id).await?;
        let task = &record.task;
        let mut explanation =
            self.explanation(id.to_string(), &task.task_type, &record.agent, &record.integration, Some(task.effect));
        let told = self.why(id).await?.lines;
        explanation.story = told.into_iter().map(|line| format!("{}  {}", line.at, line.words)).collect();
        Ok(explanation)
    }

    fn explanation(
        &self,
        subject: String,
        task_type: &TaskType,
        agent: &AgentName,
        integration: &Integration,
        effect: Option<Effect>,
    ) -> Explanation {
        let effective = self.office.policy(task_type, agent, integration);
        let words = |policy: &crate::retry::RetryPolicy| {
            let waits: Vec<String> = policy.waits().into_iter().map(time::format_duration).collect();
            format!(
                "{} deliveries, waits {}",
                policy.max_deliveries,
                if waits.is_empty() { "none".to_owned() } else { waits.join(", ") }
            )
        };
        let effect = match effect {
            None => {
                "not declared, so taken as a mutation: retried only while no side effect can have happened".to_owned()
            }
            Some(effect @ Effect::ReadOnly) => format!("{effect}: repeated freely within the policy"),
            Some(effect @ Effect::Notification) => format!("{effect}: repeated within the policy"),
            Some(effect @ Effect::Mutation) => format!("{effect}: retried only while no side effect can have happened"),
            Some(effect @ Effect::Payment) => {
                format!("{effect}: never repeated automatically, by anybody; a person decides")
            }
        };
        Explanation {
            subject,
            waits_s: effective.policy.waits().iter().map(Duration::as_secs_f64).collect(),
            levels: effective
                .levels
                .iter()
                .map(|(level, policy)| (level.clone(), policy.as_ref().map(words)))
                .collect(),
            policy: effective.policy,
            winner: effective.winner,
            effect,
            story: Vec::new(),
        }
    }

    /// Sends a test page through every channel (or those of this name) and ends it again.
    ///
    /// # Errors
    /// When no channel has this name.
    pub async fn page_test(&self, channel: Option<&str>, by: &str) -> Result<Vec<PageTest>, DeskError> {
        let opening = Opening {
            id: format!("TEST-{}", self.now().millis()),
            trigger: Trigger::Test,
            subject: String::new(),
            deaths: Vec::new(),
            why: format!("{by} tries the pager; nothing is wrong"),
            runbook: None,
            in_doubt: Vec::new(),
        };
        let test = incident::open(opening, &escalate::rules(&self.office), self.now()).incident;
        let mut seen = Vec::new();
        for person in &self.office.on_call {
            for (name, way) in person
                .channels
                .iter()
                .filter(|(name, way)| channel.is_none_or(|wanted| wanted == way.name() || wanted == name))
            {
                let steps = [vec![name.clone()]];
                let mut result = PageTest { channel: name.clone(), delivered: true, detail: String::new() };
                for action in [PageAction::Trigger, PageAction::Resolve] {
                    let draft = PageDraft { action, again: false, level: 0 };
                    for page in outbox::pages(&test, &draft, &self.office.config.team, &steps, self.now()) {
                        let detail = match way.send(&page).await {
                            Ok(receipt) => format!("{action}: {} ({})", receipt.detail, receipt.to),
                            Err(error) => {
                                result.delivered = false;
                                format!("{action}: {error}")
                            }
                        };
                        let detail = self.office.one_line(&detail, 300);
                        result.detail =
                            if result.detail.is_empty() { detail } else { format!("{}; {detail}", result.detail) };
                    }
                }
                seen.push(result);
            }
        }
        match (seen.is_empty(), channel) {
            (true, Some(channel)) => Err(DeskError::NotFound { what: "channel", name: channel.to_owned() }),
            _ => Ok(seen),
        }
    }

    /// Is the team ready to take work?
    pub async fn readiness(&self) -> Readiness {
        let store = self.office.engine.writable().await;
        let detail = store.as_ref().map_or_else(ToString::to_string, |()| "takes writes".to_owned());
        let draining = self.office.draining();
        let up = |part: &str, there: bool| {
            (part.to_owned(), there, if there { "up" } else { "down; it is being restarted" }.to_owned())
        };
        let checks = vec![
            ("store".to_owned(), store.is_ok(), detail),
            ("intake".to_owned(), !draining, if draining { "draining" } else { "open" }.to_owned()),
            up("dispatcher", self.office.dispatcher.alive()),
            up("ceo", self.office.ceo.alive()),
            up("incidents", self.office.pager.alive()),
            up("replayer", self.office.replayer.alive()),
            up("crew", self.office.crew.alive()),
        ];
        Readiness { ready: checks.iter().all(|(_, passed, _)| *passed), checks }
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

fn no_integration(integration: &Integration) -> DeskError {
    DeskError::NotFound { what: "integration", name: integration.to_string() }
}

fn not_replayed(refused: ReplayRefused) -> DeskError {
    DeskError::Policy(refused.to_string())
}
