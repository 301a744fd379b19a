//! Everything an operator can ask of a running team: what the HTTP API, the CLI and the demo call.
//!
//! Reads go to the engine; orders are commands to it, and a kick for whoever carries them out.

use std::sync::Arc;
use std::time::Duration;

use super::agent::AgentMessage;
use super::bells::Bell;
use super::escalate;
use super::office::Office;
pub use super::views::{
    AgentState, AgentView, BreakerView, DeskError, Explanation, FieldProblem, NewTask, Overridden, PageTest, Readiness,
};
use crate::answer::Validator;
use crate::config::Config;
use crate::engine::{Engine, Submitted};
use crate::incident::{self, Opening, Page, PageAction, PageDraft, Trigger};
use crate::ledger::Command;
use crate::outbox;
use crate::pager::Channel;
use crate::prompt;
use crate::record::{Record, State};
use crate::task::{AgentName, Effect, Integration, PAYLOAD_LIMIT, Priority, Task, TaskError, TaskId, TaskType};
use crate::time::{self, Timestamp};

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
            match record.state {
                State::Done | State::WaitingHuman | State::Cancelled => return Ok(record),
                State::Dead if !record.is_undecided() => return Ok(record),
                State::Ready | State::Scheduled | State::Parked | State::Running | State::Dead => {}
            }
            // Thousands may wait: none of them holds a copy of its task meanwhile.
            drop(record);
            rings.await;
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

    /// Sends a test page through every channel (or those of this name) and ends it again. It takes less than a minute, whatever
    /// the channels do.
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
        let channels = self.office.on_call.iter().flat_map(|person| &person.channels);
        let wanted = channels.filter(|(name, way)| channel.is_none_or(|wanted| wanted == way.name() || wanted == name));
        let mut tries = Vec::new();
        for (name, way) in wanted {
            let steps = [vec![name.clone()]];
            let pages = [PageAction::Trigger, PageAction::Resolve].into_iter().flat_map(|action| {
                let draft = PageDraft { action, again: false, level: 0 };
                outbox::pages(&test, &draft, &self.office.config.team, &steps, self.now())
            });
            // Side by side, and in tasks of their own: what was triggered is resolved although whoever asked has gone.
            tries.push((name.clone(), tokio::spawn(send_all(Arc::clone(way), pages.collect()))));
        }
        let mut seen = Vec::new();
        for (channel, trying) in tries {
            let sent = trying.await.unwrap_or_else(|_| vec![(false, "the channel panicked".to_owned())]);
            let delivered = sent.iter().all(|(taken, _)| *taken);
            let details: Vec<String> = sent.iter().map(|(_, detail)| self.office.one_line(detail, 300)).collect();
            seen.push(PageTest { channel, delivered, detail: details.join("; ") });
        }
        match (seen.is_empty(), channel) {
            (true, Some(channel)) => Err(DeskError::NotFound { what: "channel", name: channel.to_owned() }),
            _ => Ok(seen),
        }
    }

    /// Is the team ready to take work? Of the store it is told what the last write met: whoever asks writes nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let trouble = self.office.engine.write_trouble().borrow().clone();
        let takes_writes = trouble.is_none();
        let detail = trouble.unwrap_or_else(|| "takes writes".to_owned());
        let draining = self.office.draining();
        let up = |part: &str, there: bool| {
            (part.to_owned(), there, if there { "up" } else { "down; it is being restarted" }.to_owned())
        };
        let checks = vec![
            ("store".to_owned(), takes_writes, detail),
            ("intake".to_owned(), !draining, if draining { "draining" } else { "open" }.to_owned()),
            up("dispatcher", self.office.dispatcher.alive()),
            up("ceo", self.office.ceo.alive()),
            up("incidents", self.office.pager.alive()),
            up("replayer", self.office.replayer.alive()),
            up("crew", self.office.crew.alive()),
        ];
        let ready = checks.iter().all(|(_, passed, _)| *passed);
        Readiness { ready, checks }
    }
}

/// How long a channel may take for a page that is a test; each has a shorter timer of its own. Two of them end before whoever
/// waits for the answer gives up.
const TEST_PATIENCE: Duration = Duration::from_secs(20);

/// Sends these through a channel, one after another: whether each was taken, and what was said.
async fn send_all(way: Arc<dyn Channel>, pages: Vec<Page>) -> Vec<(bool, String)> {
    let mut said = Vec::new();
    for page in &pages {
        let (taken, detail) = match tokio::time::timeout(TEST_PATIENCE, way.send(page)).await {
            Ok(Ok(receipt)) => (true, format!("{} ({})", receipt.detail, receipt.to)),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, format!("the channel did not answer in {TEST_PATIENCE:?}")),
        };
        said.push((taken, format!("{}: {detail}", page.action)));
    }
    said
}
