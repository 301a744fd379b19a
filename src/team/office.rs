//! What all actors of a team share: the engine, the doors to the world, the clock, and where everybody is.
//!
//! Nothing here is truth that a crash could lose: breakers are saved at every transition, leases and records are the
//! engine's, and the rest is found again at the next start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::addr::Addr;
use super::ceo::CeoMessage;
use super::clock::{Clock, Dice};
use super::crew::CrewMessage;
use super::desk::AgentState;
use super::dispatcher::DispatcherMessage;
use super::guards::Guards;
use super::incident::PagerMessage;
use super::replayer::ReplayerMessage;
use super::seat::Seat;
use crate::agent::{Agent, ModelRef};
use crate::answer::Validator;
use crate::config::Config;
use crate::dead_letter::Circumstances;
use crate::engine::{self, Engine};
use crate::event::NewEvent;
use crate::ledger::Record;
use crate::llm::Provider;
use crate::pager::Channel;
use crate::prompt::Prompt;
use crate::query::{Filter, PageAsk};
use crate::redact::{self, Redactor};
use crate::retry::{Effective, Level, Levels, RetryPolicy};
use crate::task::{AgentName, Integration, TaskType};
use crate::time::Timestamp;
use crate::triage::Decision;

/// A person on call, and the channels that reach them.
pub(crate) struct Person {
    /// By a name of their own, such as `ana/pagerduty`: several people may be reached through the same kind.
    pub(crate) channels: Vec<(String, Arc<dyn Channel>)>,
}

impl Person {
    pub(crate) fn new(name: &str, channels: Vec<Arc<dyn Channel>>) -> Self {
        let mut named: Vec<(String, Arc<dyn Channel>)> = Vec::with_capacity(channels.len());
        for channel in channels {
            let plain = format!("{name}/{}", channel.name());
            let taken = |wanted: &String| named.iter().any(|(other, _)| other == wanted);
            let mut unique = plain.clone();
            for number in 2.. {
                if !taken(&unique) {
                    break;
                }
                unique = format!("{plain}-{number}");
            }
            named.push((unique, channel));
        }
        Self { channels: named }
    }
}

/// Everything a team's actors share.
pub(crate) struct Office {
    pub(crate) config: Config,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) providers: BTreeMap<Integration, Arc<dyn Provider>>,
    pub(crate) on_call: Vec<Person>,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) guards: Guards,
    pub(crate) seats: BTreeMap<AgentName, Arc<Seat>>,
    pub(crate) redactor: Redactor,
    pub(crate) validators: Validators,
    pub(crate) dispatcher: Addr<DispatcherMessage>,
    pub(crate) ceo: Addr<CeoMessage>,
    pub(crate) pager: Addr<PagerMessage>,
    pub(crate) replayer: Addr<ReplayerMessage>,
    pub(crate) crew: Addr<CrewMessage>,
    draining: AtomicBool,
}

/// The parts an office is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) providers: BTreeMap<Integration, Arc<dyn Provider>>,
    pub(crate) on_call: Vec<Person>,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) guards: Guards,
    pub(crate) redactor: Redactor,
}

impl Office {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = parts.clock.now();
        let seat = |agent: &Agent| (agent.name.clone(), Arc::new(Seat::new(Arc::new(agent.clone()), now)));
        let seats = parts.config.agents.values().map(seat).collect();
        Self {
            config: parts.config,
            engine: parts.engine,
            providers: parts.providers,
            on_call: parts.on_call,
            clock: parts.clock,
            dice: parts.dice,
            guards: parts.guards,
            seats,
            redactor: parts.redactor,
            validators: Validators::default(),
            dispatcher: Addr::default(),
            ceo: Addr::default(),
            pager: Addr::default(),
            replayer: Addr::default(),
            crew: Addr::default(),
            draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Something changed: everybody who may have work because of it looks again. Hints only.
    pub(crate) fn kick(&self) {
        self.dispatcher.hint(DispatcherMessage::Kick);
        self.ceo.hint(CeoMessage::Kick);
        self.pager.hint(PagerMessage::Kick);
        self.replayer.hint(ReplayerMessage::Kick);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        for seat in self.seats.values() {
            seat.drain();
        }
    }

    /// The model the next delivery of a task asks.
    pub(crate) fn model_of<'a>(&'a self, record: &'a Record) -> Option<&'a ModelRef> {
        record.model.as_ref().or_else(|| self.config.agents.get(&record.agent).map(|agent| &agent.model))
    }

    /// The integration a task will call once this decision stands.
    pub(crate) fn integration_after(&self, record: &Record, decision: &Decision) -> Integration {
        match decision {
            Decision::RetryOnFallback { model } => model.provider.clone(),
            Decision::Reassign { agent, .. } => self
                .config
                .agents
                .get(agent)
                .map_or_else(|| record.integration.clone(), |agent| agent.model.provider.clone()),
            Decision::RetryAfterCheck { .. }
            | Decision::Park { .. }
            | Decision::Discard { .. }
            | Decision::PageHuman { .. }
            | Decision::Resolve { .. }
            | Decision::RunAgain { .. } => record.integration.clone(),
        }
    }

    /// The policy in force for a type of task in an agent's hands, calling an integration.
    pub(crate) fn policy(&self, task_type: &TaskType, agent: &AgentName, integration: &Integration) -> Effective {
        let declared = self.config.task_types.get(task_type).and_then(|declared| declared.retry.as_ref());
        let agents = self.config.agents.get(agent).and_then(|agent| agent.retry.as_ref());
        let provider = self.config.providers.get(integration).and_then(|provider| provider.retry.as_ref());
        let level =
            |name: &str, policy: Option<&RetryPolicy>| Some(Level { name: name.to_owned(), policy: policy.cloned() });
        Levels {
            step: None,
            task_type: level(task_type.as_str(), declared),
            agent: level(agent.as_str(), agents),
            integration: level(integration.as_str(), provider),
            team: self.config.retry.clone(),
        }
        .effective()
    }

    /// [`Office::policy`] for a record.
    pub(crate) fn policy_of(&self, record: &Record) -> Effective {
        self.policy(&record.task.task_type, &record.agent, &record.integration)
    }

    /// The prompt a task is rendered with.
    pub(crate) fn prompt_of(&self, record: &Record) -> Option<&Prompt> {
        self.config.prompts.get(self.config.prompt_for(&record.task.task_type, record.task.prompt.as_deref()))
    }

    /// The schema an answer must meet.
    pub(crate) fn schema_of(&self, record: &Record) -> Option<&serde_json::Value> {
        let prompt = self.config.prompt_for(&record.task.task_type, record.task.prompt.as_deref());
        self.config.output_schema(&record.task.task_type, prompt, &record.agent)
    }

    /// How things stand, for a dead letter.
    pub(crate) fn circumstances(&self, policy: &Effective) -> Box<Circumstances> {
        let now = self.now();
        Box::new(Circumstances {
            breakers: self.guards.words(now),
            agents: self
                .seats
                .iter()
                .map(|(name, seat)| (name.clone(), seat.view().condition.as_str().to_owned()))
                .collect(),
            policy: Some(policy.policy.clone()),
            policy_from: policy.winner.clone(),
            config: self.config.fingerprint.clone(),
        })
    }

    /// Appends events; what cannot be stored is said in the log and nowhere else, for nothing waits for it.
    pub(crate) async fn publish(&self, events: Vec<NewEvent>) {
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.engine.publish(events, self.now()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "events could not be stored");
        }
    }

    /// A text from outside as one line that can be shown: credentials out, control characters visible.
    pub(crate) fn one_line(&self, text: &str, max: usize) -> String {
        redact::one_line(&self.redactor.redact(text), max)
    }

    /// Can any agent do this task now?
    pub(crate) fn capable(&self, record: &Record) -> bool {
        self.in_reach(&record.agent)
            || self
                .config
                .agents
                .values()
                .any(|agent| self.in_reach(&agent.name) && agent.can_take_over(&record.agent, &record.task.task_type))
    }

    /// Is this agent there to take work, now or in a moment?
    pub(crate) fn in_reach(&self, agent: &AgentName) -> bool {
        self.seats.get(agent).is_some_and(|seat| match seat.view().condition {
            AgentState::Healthy | AgentState::Busy | AgentState::Restarting => true,
            AgentState::CrashLoop | AgentState::Wedged | AgentState::Draining => false,
        })
    }

    /// Every record that matches, page by page, oldest first.
    pub(crate) async fn every(&self, filter: Filter) -> Result<Vec<Record>, engine::Error> {
        let mut page = PageAsk { after: None, limit: 1000, oldest_first: true };
        let mut records = Vec::new();
        loop {
            let found = self.engine.records(filter.clone(), page.clone()).await?;
            records.extend(found.items);
            match found.next {
                Some(next) => page.after = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// Tries a write of the engine until it is taken, refused, or `until` has passed: an answer that is paid for must
    /// not be lost to a disk that is full for a minute.
    pub(crate) async fn insist<T, F>(&self, until: Timestamp, write: impl Fn() -> F) -> Result<T, engine::Error>
    where
        F: Future<Output = Result<T, engine::Error>>,
    {
        loop {
            match write().await {
                Err(error @ engine::Error::Io { .. }) if self.now() < until => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the store did not take a result; trying again"
                    );
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
                other => return other,
            }
        }
    }
}

/// Compiled schemas, each compiled once.
#[derive(Default)]
pub(crate) struct Validators(Mutex<BTreeMap<String, Arc<Validator>>>);

impl Validators {
    /// The validator of a schema; `None` when the schema is none, which the check of the configuration has refused.
    pub(crate) fn of(&self, schema: &serde_json::Value) -> Option<Arc<Validator>> {
        let key = schema.to_string();
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(validator) = compiled.get(&key) {
            return Some(Arc::clone(validator));
        }
        let validator = Arc::new(Validator::new(schema).ok()?);
        compiled.insert(key, Arc::clone(&validator));
        Some(validator)
    }
}
