//! What all actors of a team share: the engine, the doors to the world, the clock, and where everybody is.
//!
//! Nothing here is truth that a crash could lose: breakers are saved at every transition, leases and records are the
//! engine's, and the rest is found again at the next start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::addr::Addr;
use super::alarm::Alarm;
use super::bells::Bells;
use super::ceo::{Asking, CeoMessage};
use super::clock::{Clock, Dice};
use super::crew::CrewMessage;
use super::decisions::Deciding;
use super::desk::AgentState;
use super::dispatcher::DispatcherMessage;
use super::drawer::{Drawer, Kept, Stored};
use super::guards::Guards;
use super::incident::{PagerMessage, UnderWay};
use super::purse::Money;
use super::replayer::ReplayerMessage;
use super::root::Well;
use super::seat::Seat;
use crate::absence::Absences;
use crate::agent::{Agent, ModelRef};
use crate::answer::Validator;
use crate::budget;
use crate::config::{Config, ModelFacts};
use crate::dead_letter::Circumstances;
use crate::engine::{self, Engine};
use crate::event::NewEvent;
use crate::llm::Provider;
use crate::mutant;
use crate::pager::Channel;
use crate::prompt::{Prompt, Prompted};
use crate::query::{Filter, PageAsk};
use crate::record::Record;
use crate::redact::{self, Redactor};
use crate::retry::{Effective, RetryPolicy};
use crate::task::{AgentName, Effect, Integration, TaskType};
use crate::time::Timestamp;
use crate::tool::{ToolRef, ToolRule};
use crate::tools::ToolServer;
use crate::tools::verify::Verifier;
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
    /// [`Config::dearest`], found once: it is asked at every call, and reads the whole price list.
    pub(crate) dearest: ModelFacts,
    /// What the models of the team hold and cost, found once: they are asked at every call too.
    facts: BTreeMap<ModelRef, ModelFacts>,
    /// The prompts of [`Config`], read once.
    pub(crate) prompted: Prompted,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) providers: BTreeMap<Integration, Arc<dyn Provider>>,
    pub(crate) on_call: Vec<Person>,
    pub(crate) clock: Clock,
    pub(crate) dice: Dice,
    pub(crate) guards: Guards,
    pub(crate) seats: BTreeMap<AgentName, Arc<Seat>>,
    pub(crate) tools: BTreeMap<Integration, Arc<dyn ToolServer>>,
    pub(crate) verifier: Verifier,
    pub(crate) money: Money,
    absences: Absences,
    pub(crate) redactor: Redactor,
    pub(crate) validators: Validators,
    pub(crate) drawer: Drawer,
    pub(crate) dispatcher: Addr<DispatcherMessage>,
    pub(crate) ceo: Addr<CeoMessage>,
    pub(crate) asking: Asking,
    pub(crate) pager: Addr<PagerMessage>,
    pub(crate) under_way: UnderWay,
    pub(crate) alarm: Alarm,
    pub(crate) deciding: Deciding,
    pub(crate) replayer: Addr<ReplayerMessage>,
    pub(crate) crew: Addr<CrewMessage>,
    pub(crate) well: Well,
    pub(crate) bells: Bells,
    /// For how many tasks that cannot be read a person was called since the start.
    pub(crate) called_for: AtomicUsize,
    /// Until when a crowd is not looked through again, in Unix milliseconds: see [`escalation::rest`](crate::escalation::rest).
    pub(crate) rests_until: AtomicI64,
    /// Until when a human is called in any case, as far as anybody asked, in Unix milliseconds.
    pub(crate) systemic_until: AtomicI64,
    /// The last answer of a person that was not heard for its age: to which incident, and why.
    unheard: Mutex<Option<(String, String)>>,
    draining: AtomicBool,
    gone: AtomicBool,
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
    pub(crate) tools: BTreeMap<Integration, Arc<dyn ToolServer>>,
    pub(crate) verifier: Verifier,
    pub(crate) money: Money,
    pub(crate) absences: Absences,
    pub(crate) redactor: Redactor,
}

/// What could be read. Of a task that cannot be the engine has taken note: it holds up nothing else.
pub(crate) fn readable<T>(read: Result<T, engine::Error>) -> Result<Option<T>, engine::Error> {
    match read {
        Err(engine::Error::Unreadable { .. }) => Ok(None),
        read => read.map(Some),
    }
}

impl Office {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = parts.clock.now();
        let seat = |agent: &Agent| (agent.name.clone(), Arc::new(Seat::new(Arc::new(agent.clone()), now)));
        let seats = parts.config.agents.values().map(seat).collect();
        let models =
            parts.config.agents.values().flat_map(|agent| std::iter::once(&agent.model).chain(&agent.fallback_models));
        Self {
            facts: models.map(|model| (model.clone(), parts.config.model_facts(model))).collect(),
            dearest: parts.config.dearest(),
            prompted: parts.config.prompted(),
            config: parts.config,
            engine: parts.engine,
            providers: parts.providers,
            on_call: parts.on_call,
            clock: parts.clock,
            dice: parts.dice,
            guards: parts.guards,
            seats,
            tools: parts.tools,
            verifier: parts.verifier,
            money: parts.money,
            absences: parts.absences,
            redactor: parts.redactor,
            validators: Validators::default(),
            drawer: Drawer::default(),
            dispatcher: Addr::default(),
            ceo: Addr::default(),
            asking: Asking::default(),
            pager: Addr::default(),
            under_way: UnderWay::since(now),
            alarm: Alarm::default(),
            deciding: Deciding::default(),
            replayer: Addr::default(),
            crew: Addr::default(),
            well: Well::default(),
            bells: Bells::default(),
            called_for: AtomicUsize::new(0),
            rests_until: AtomicI64::new(i64::MIN),
            systemic_until: AtomicI64::new(i64::MIN),
            unheard: Mutex::default(),
            draining: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Something changed: everybody who may have work because of it looks again. Hints only.
    pub(crate) fn kick(&self) {
        self.dispatcher.hint(DispatcherMessage::Kick);
        if !mutant::on("ceo-kick-lost") {
            self.ceo.hint(CeoMessage::Kick);
        }
        self.pager.hint(PagerMessage::Kick);
        self.replayer.hint(ReplayerMessage::Kick);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The team is no more: what outlives its actors begins nothing.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(crate) fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// A person's answer was not heard, or one was.
    pub(crate) fn unheard(&self, answer: Option<(String, String)>) {
        *self.unheard.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    pub(crate) fn last_unheard(&self) -> Option<(String, String)> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        for seat in self.seats.values() {
            seat.drain();
        }
    }

    /// [`Config::model_facts`], at hand for the models of the team.
    pub(crate) fn facts(&self, model: &ModelRef) -> ModelFacts {
        self.facts.get(model).copied().unwrap_or_else(|| self.config.model_facts(model))
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
        self.config.policy(task_type, agent, integration)
    }

    /// [`Office::policy`] for a record.
    pub(crate) fn policy_of(&self, record: &Record) -> Effective {
        self.policy(&record.task.task_type, &record.agent, &record.integration)
    }

    /// The same, where nobody asks how it came about.
    pub(crate) fn retry_of(&self, record: &Record) -> &RetryPolicy {
        self.config.policy_in_force(&record.task.task_type, &record.agent, &record.integration)
    }

    /// [`Record::waited_at_holds`], by what is known of absences.
    pub(crate) fn waited_at_holds(&self, record: &Record, now: Timestamp) -> Duration {
        record.waited_at_holds(&self.absences, now)
    }

    /// What the work on a task may take in one round.
    pub(crate) fn limits(&self, record: &Record) -> Limits {
        let policy = self.retry_of(record);
        let Some(agent) = self.config.agents.get(&record.agent) else { return Limits::default() };
        Limits {
            asks: budget::calls_max(agent, policy, record.task.effect, record.task.deadline),
            calls_at_once: usize::try_from(agent.max_tool_calls).unwrap_or(usize::MAX),
            tokens_per_minute: agent.max_tokens_per_minute,
            stall: agent.stall,
        }
    }

    /// [`Agent::effect_of_asking`](crate::agent::Agent::effect_of_asking) for a record.
    pub(crate) fn effect_of_asking(&self, record: &Record) -> Effect {
        let agent = self.config.agents.get(&record.agent);
        agent.map_or(record.task.effect, |agent| agent.effect_of_asking(record.task.effect))
    }

    /// What the operator declares of a tool.
    pub(crate) fn tool_rule(&self, server: &dyn ToolServer, tool: &ToolRef) -> ToolRule {
        let declared = self.config.tools.rule(tool).cloned().or_else(|| server.rule(&tool.tool)).unwrap_or_default();
        let timeout = declared.timeout.unwrap_or_else(|| self.config.tools.call_within(tool));
        ToolRule { timeout: Some(timeout), ..declared }
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
                .map(|(name, seat)| (name.clone(), seat.condition().as_str().to_owned()))
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
        self.seats.get(agent).is_some_and(|seat| match seat.condition() {
            AgentState::Healthy | AgentState::Busy | AgentState::Restarting => true,
            AgentState::CrashLoop | AgentState::Wedged | AgentState::Draining => false,
        })
    }

    /// Every document of a kind, as it stands now.
    pub(crate) async fn kept<T: Kept + Clone + Send + Sync + 'static>(
        &self,
    ) -> Result<Arc<Vec<Stored<T>>>, engine::Error> {
        self.drawer.all(&*self.engine).await
    }

    /// Every record that matches and can be read, page by page, oldest first.
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
    /// not be lost to a disk that is full for a minute. A team that was dropped leaves its store to others.
    pub(crate) async fn insist<T, F>(&self, until: Timestamp, write: impl Fn() -> F) -> Result<T, engine::Error>
    where
        F: Future<Output = Result<T, engine::Error>>,
    {
        loop {
            match write().await {
                Err(error @ (engine::Error::Io { .. } | engine::Error::Full { .. }))
                    if self.now() < until && !self.gone() =>
                {
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

/// What the work on a task may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Calls of models in one round; `None`: as many as fit before its deadline.
    pub(crate) asks: Option<u64>,
    /// Calls of tools in one answer.
    pub(crate) calls_at_once: usize,
    /// Tokens within a minute.
    pub(crate) tokens_per_minute: u64,
    /// How long nothing new may become known.
    pub(crate) stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { asks: Some(0), calls_at_once: 0, tokens_per_minute: 0, stall: Duration::MAX }
    }
}

/// The most bytes of schemas that are kept compiled. What the configuration holds is far less; the rest is what servers
/// of tools say, and theirs may be another every time they are asked.
const COMPILED_MAX: usize = 8 * 1024 * 1024;
/// What even the smallest counts for.
const COMPILED_LEAST: usize = 1024;

/// Compiled schemas, each compiled once while it is kept.
#[derive(Default)]
pub(crate) struct Validators(Mutex<Compiled>);

#[derive(Default)]
struct Compiled {
    by_schema: BTreeMap<String, Arc<Validator>>,
    /// The bytes of the schemas, and the least for each.
    bytes: usize,
}

impl Validators {
    /// The validator of a schema; `None` when the schema is none, which the check of the configuration has refused.
    pub(crate) fn of(&self, schema: &serde_json::Value) -> Option<Arc<Validator>> {
        let key = schema.to_string();
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(validator) = compiled.by_schema.get(&key) {
            return Some(Arc::clone(validator));
        }
        let validator = Arc::new(Validator::new(schema).ok()?);
        // All go, and those in use are compiled anew: which they are only their users know.
        let bytes = COMPILED_LEAST + key.len();
        if compiled.bytes + bytes > COMPILED_MAX {
            *compiled = Compiled::default();
        }
        compiled.bytes += bytes;
        compiled.by_schema.insert(key, Arc::clone(&validator));
        Some(validator)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A server of tools that said at each call that its list had changed, and had another schema each time, filled the
    /// memory: every schema ever seen was kept, compiled.
    #[test]
    fn schemas_that_are_ever_new_do_not_fill_the_memory() {
        let validators = Validators::default();
        let kept = || validators.0.lock().expect("not poisoned").bytes;
        let of = |n: usize| validators.of(&json!({"type": "object", "title": "x".repeat(1_000_000 + n)}));
        let first = of(0).expect("a schema");
        assert!(Arc::ptr_eq(&first, &of(0).expect("a schema")), "compiled once");
        for n in 1..20 {
            assert!(of(n).is_some());
            assert!(kept() <= COMPILED_MAX, "{} bytes are kept", kept());
        }
        assert!(!Arc::ptr_eq(&first, &of(0).expect("a schema")), "dropped meanwhile, and compiled anew");
        assert!(first.violations(&json!({})).is_empty(), "whoever holds it keeps it");
    }
}
