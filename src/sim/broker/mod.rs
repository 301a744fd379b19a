//! Seed B's own configuration on the real broker, played against the same arrivals, models and faults: what it would have done.
//!
//! It is a model, built of what was measured on nats-server 2.15.1 and of what seed B says; where neither says anything,
//! the broker's side gets the kinder reading, so that what is worse about it is worse for a reason that is known:
//!
//! - The server: [`consumer`] says which measurement each rule comes from.
//! - A worker whose call fails says nothing (seed B's sequence diagram: "No ACK within 5 min"), and so waits for the
//!   redelivery. It pulls whenever it has a free slot; seed B does not say how many it has, so as many as ours.
//! - There is no breaker and no gate: every delivery calls, whatever the provider has just said to others.
//! - "Headers of the stored message never change": `X-Last-Error` is never set, so the monitor reads its default,
//!   `timeout`, and `classifyFailure` says `retry_with_different_model` of everything.
//! - "Deliveries used up, monitor not listening: advisory lost for good; the message stays asleep." The monitor is one
//!   pod more: down while its machine is, and it dies as often as one of the agents' does in the mean.
//! - The CEO needs no time and no model, and follows its tree: first the agent's next model, then the founder. Three
//!   entries within the hour page, once an hour. The founder sends what waits for them round again.
//! - A pod that dies takes all its work with it and is back after [`RESTART`].
//!
//! Faults of the pager, of the CEO's process and of the wall clock have no counterpart there and do not strike.

pub mod consumer;
mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};

use self::consumer::{Consumer, ConsumerConfig};
use self::run::number;
pub use self::run::{BrokerRun, Order};
use crate::agent::ModelRef;
use crate::answer::Validator;
use crate::cause::LlmFailure;
use crate::config::Config;
use crate::definitions::LoadedScenario;
use crate::llm::{Message, Progress, Provider, Reply, Request};
use crate::prompt::{self, Prompted};
use crate::scenario::{FaultKind, Target, Window};
use crate::sim::play::books::Asked;
use crate::sim::play::model::VirtualModel;
use crate::sim::play::stage::{Shared, Stage, Ticket};
use crate::sim::play::{Error, filled};
use crate::sim::uptime::{Span, covered};
use crate::task::{AgentName, Integration, Priority, Task};

/// How long a pod that died is away: what Kubernetes waits before it starts a container again for the first time.
pub const RESTART: Duration = Duration::from_secs(10);
/// Entries within an hour that call the founder (seed B: "3+ DLQ entries in 1 hour").
const THRESHOLD: usize = 3;
const HOUR: Duration = Duration::from_secs(3_600);
/// When a client comes again that could not publish.
const COME_AGAIN: Duration = Duration::from_secs(60);

/// Plays a scenario against seed B's configuration, on this thread.
///
/// # Errors
/// When the runtime cannot be made, or the model of the broker itself panics.
pub fn play(loaded: &LoadedScenario, seed: u64) -> Result<BrokerRun, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(Floor::new(loaded, seed).work())));
    played.map_err(|_| Error::Panicked { seed, panic: "the model of the broker".to_owned() })
}

/// A message of the stream: which order it is for, and which model it is to be tried on.
#[derive(Clone, Debug)]
struct Letter {
    order: usize,
    model: ModelRef,
}

type Answer = Result<Reply, Box<LlmFailure>>;

/// The broker, its workers, the monitor and the CEO.
struct Floor<'a> {
    loaded: &'a LoadedScenario,
    config: Config,
    prompted: Prompted,
    stage: Shared,
    models: BTreeMap<Integration, Arc<VirtualModel>>,
    consumers: BTreeMap<AgentName, Consumer>,
    /// By their number in the stream, the first = 1.
    letters: Vec<Letter>,
    orders: Vec<Order>,
    running: JoinSet<Answer>,
    /// Whose work a running call is: of which agent, on which message.
    work: BTreeMap<Id, (AgentName, u64)>,
    aborts: BTreeMap<Id, AbortHandle>,
    /// Agents that are away, until when.
    away: BTreeMap<AgentName, Duration>,
    /// When each agent was away.
    absences: BTreeMap<AgentName, Vec<Span>>,
    monitor_back: Duration,
    entries: VecDeque<Duration>,
    pages: Vec<Duration>,
    /// When the founder sends what round again.
    founder: BTreeSet<(Duration, usize)>,
    put_off: Vec<(Duration, usize, u64, Duration)>,
    unheard: u64,
    deliveries: u64,
}

impl<'a> Floor<'a> {
    fn new(loaded: &'a LoadedScenario, seed: u64) -> Self {
        let stage = Arc::new(Stage::new(loaded.scenario.clone(), seed));
        let config = stage.dressed(loaded.config.clone());
        let models = config.providers.iter().map(|(name, settings)| {
            (name.clone(), Arc::new(VirtualModel::new(name.clone(), settings.clone(), Arc::clone(&stage))))
        });
        Self {
            models: models.collect(),
            consumers: config
                .agents
                .keys()
                .map(|name| (name.clone(), Consumer::new(ConsumerConfig::seed_b())))
                .collect(),
            loaded,
            prompted: config.prompted(),
            config,
            stage,
            letters: Vec::new(),
            orders: Vec::new(),
            running: JoinSet::new(),
            work: BTreeMap::new(),
            aborts: BTreeMap::new(),
            away: BTreeMap::new(),
            absences: BTreeMap::new(),
            monitor_back: Duration::ZERO,
            entries: VecDeque::new(),
            pages: Vec::new(),
            founder: BTreeSet::new(),
            put_off: Vec::new(),
            unheard: 0,
            deliveries: 0,
        }
    }

    async fn work(mut self) -> BrokerRun {
        let stage = Arc::clone(&self.stage);
        let scenario = &self.loaded.scenario;
        let arrivals = scenario.arrivals(&|purpose, about, number| stage.dice.roll(purpose, about, number));
        let mut arrivals = arrivals.into_iter().peekable();
        let by_hand = |window: &&Window| {
            matches!(
                scenario.faults[window.fault].kind,
                FaultKind::AgentKill | FaultKind::AgentWedge | FaultKind::ProcessKill
            )
        };
        let mut blows = stage.windows.iter().filter(by_hand).copied().collect::<VecDeque<_>>();
        let end = scenario.run + scenario.drain;
        let mut tickets = 0;
        loop {
            let now = stage.elapsed();
            if now >= scenario.run {
                stage.calm_down();
            }
            while blows.front().is_some_and(|window| window.from <= now) {
                let window = blows.pop_front().expect("it was looked at");
                self.strike(window, now);
            }
            while let Some((_, load)) = arrivals.next_if(|(at, _)| *at <= now) {
                tickets += 1;
                self.publish(load, tickets, now, now);
            }
            for (_, load, ticket, first) in self.put_off.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
                self.publish(load, ticket, first, now);
            }
            while self.founder.first().is_some_and(|(at, _)| *at <= now) {
                let (_, order) = self.founder.pop_first().expect("it was looked at");
                self.send_again(order);
            }
            self.hand_out(now);
            let idle = self.work.is_empty()
                && self.put_off.is_empty()
                && self.founder.is_empty()
                && self.consumers.values().all(|consumer| consumer.open() == 0);
            if now >= end || (now >= scenario.run && arrivals.peek().is_none() && idle) {
                return self.close();
            }
            let next = self.next(now, &arrivals.peek().map(|(at, _)| *at), blows.front(), end);
            tokio::select! {
                biased;
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => self.ended(ended),
                () = stage.until(next) => {}
            }
        }
    }

    /// When something is next to be done unless a call comes to its end before.
    fn next(&self, now: Duration, arrival: &Option<Duration>, blow: Option<&Window>, end: Duration) -> Duration {
        let redelivered = self.consumers.iter().filter(|(name, _)| self.free(name, now) > 0);
        let redelivered = redelivered.filter_map(|(_, consumer)| consumer.next_due());
        let others = [*arrival, blow.map(|window| window.from), self.founder.first().map(|(at, _)| *at)];
        let others = others.into_iter().flatten();
        let back = self.away.values().copied().chain(self.put_off.iter().map(|(at, ..)| *at));
        let run = (now < self.loaded.scenario.run).then_some(self.loaded.scenario.run);
        let next = redelivered.chain(others).chain(back).chain(run).filter(|at| *at > now).min();
        next.unwrap_or(end).min(end)
    }

    /// How many tasks more an agent would take on.
    fn free(&self, agent: &AgentName, now: Duration) -> usize {
        if self.away.get(agent).is_some_and(|until| *until > now) {
            return 0;
        }
        let slots = self.config.agents.get(agent).map_or(1, |agent| agent.concurrency);
        let busy = self.work.values().filter(|(name, _)| name == agent).count();
        usize::try_from(slots).unwrap_or(1).saturating_sub(busy)
    }

    /// A client publishes a task; without a disk it comes again in a minute.
    fn publish(&mut self, load: usize, ticket: u64, first_at: Duration, now: Duration) {
        if self.stage.is_on(FaultKind::DiskFull) {
            self.put_off.push((now + COME_AGAIN, load, ticket, first_at));
            return;
        }
        let ask = &self.loaded.scenario.load[load];
        // Subjects name the agent: the one that is asked for, else the one with the fewest messages.
        let capable = self.config.agents.values().filter(|agent| agent.handles(&ask.task_type));
        let least = capable.min_by_key(|agent| self.consumers.get(&agent.name).map_or(0, Consumer::open));
        let Some(agent) = ask.agent.clone().or_else(|| least.map(|agent| agent.name.clone())) else { return };
        let Some(model) = self.config.agents.get(&agent).map(|agent| agent.model.clone()) else { return };
        let prompt = self.config.prompt_for(&ask.task_type, None).to_owned();
        let at = self.loaded.scenario.start + now;
        let task = Task {
            id: self.stage.dice.task_id(at),
            task_type: ask.task_type.clone(),
            agent,
            payload: filled(&ask.payload, &format!("T-{ticket:05}")),
            effect: self.config.effect(&ask.task_type, &prompt),
            priority: ask.priority.unwrap_or(Priority::Normal),
            idempotency_key: None,
            deadline: None,
            tenant: None,
            prompt: None,
            created_at: at,
        };
        self.stage.knows(task.id, Ticket { number: ticket, task_type: task.task_type.clone(), calls: 0 });
        self.stage.books.open().asked.push(Asked {
            id: task.id,
            number: ticket,
            first_at,
            at: now,
            task_type: task.task_type.clone(),
            effect: task.effect,
        });
        self.orders.push(Order {
            task,
            at: first_at,
            executions: 0,
            answers: 0,
            done: None,
            entries: 0,
            founder: false,
            waits: false,
            by_founder: false,
            on_fallback: false,
        });
        self.put(self.orders.len() - 1, model);
    }

    /// A message for an order's agent.
    fn put(&mut self, order: usize, model: ModelRef) {
        self.letters.push(Letter { order, model });
        if let Some(consumer) = self.consumers.get_mut(&self.orders[order].task.agent) {
            consumer.publish(self.letters.len() as u64);
        }
    }

    fn letter(&self, message: u64) -> &Letter {
        let place = usize::try_from(message).unwrap_or(usize::MAX) - 1;
        &self.letters[place]
    }

    /// Every agent with a free slot pulls.
    fn hand_out(&mut self, now: Duration) {
        self.away.retain(|_, until| *until > now);
        let names: Vec<AgentName> = self.consumers.keys().cloned().collect();
        for name in names {
            while self.free(&name, now) > 0 {
                let consumer = self.consumers.get_mut(&name).expect("each agent has one");
                let pulled = consumer.pull(now);
                let told = !pulled.advisories.is_empty();
                for message in pulled.advisories {
                    self.used_up(message, now);
                }
                match pulled.message {
                    Some((message, _)) => {
                        self.deliveries += 1;
                        self.begin(&name, message);
                    }
                    // The CEO may have put something in its place.
                    None if told => {}
                    None => break,
                }
            }
        }
    }

    /// A worker begins to work on a message: one call of its model.
    fn begin(&mut self, name: &AgentName, message: u64) {
        let Letter { order, model } = self.letter(message).clone();
        self.orders[order].executions += 1;
        let (Some(request), Some(provider)) =
            (self.request(order, &model), self.models.get(&model.provider).map(Arc::clone))
        else {
            return;
        };
        let handle = self.running.spawn(async move {
            let progress = Progress::default();
            provider.ask(&request, &progress).await
        });
        self.work.insert(handle.id(), (name.clone(), message));
        self.aborts.insert(handle.id(), handle);
    }

    fn request(&self, order: usize, model: &ModelRef) -> Option<Request> {
        let task = &self.orders[order].task;
        let agent = self.config.agents.get(&task.agent)?;
        let name = self.config.prompt_for(&task.task_type, None);
        let schema = self.config.output_schema(&task.task_type, name, &task.agent);
        let scene = prompt::Scene {
            team: &self.config.team,
            agent,
            task,
            attempt: 1,
            max_deliveries: ConsumerConfig::seed_b().max_deliver,
            fault: None,
            amendments: &[],
            schema,
            prompts: &self.config.prompts,
            now: task.created_at,
        };
        let said = self.prompted.render(self.config.prompts.get(name)?, &scene).ok()?;
        Some(Request {
            model: model.model.clone(),
            system: said.system,
            messages: vec![Message::user(said.user)],
            tools: Vec::new(),
            max_output_tokens: agent.max_output_tokens,
            schema: schema.cloned(),
        })
    }

    /// A call came to its end, or took its pod with it.
    fn ended(&mut self, ended: Result<(Id, Answer), tokio::task::JoinError>) {
        let now = self.stage.elapsed();
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Some(answer)),
            Err(error) => (error.id(), None),
        };
        self.aborts.remove(&id);
        // Work of a pod that died meanwhile is nobody's.
        let Some((agent, message)) = self.work.remove(&id) else { return };
        match answer {
            Some(Ok(reply)) if self.is_good(message, &reply) => self.answered(message, now),
            // What fails says nothing.
            Some(_) => {}
            None => {
                self.pod_dies(&agent, now, now + RESTART);
                let pods = number(self.config.agents.len()).max(1.0);
                if self.stage.dice.roll("the monitor dies", agent.as_str(), message) < 1.0 / pods {
                    self.monitor_back = self.monitor_back.max(now + RESTART);
                }
            }
        }
    }

    /// Does the worker's own validation let this through?
    fn is_good(&self, message: u64, reply: &Reply) -> bool {
        let task = &self.orders[self.letter(message).order].task;
        let name = self.config.prompt_for(&task.task_type, None);
        let circles = crate::stuck::chant(&reply.text).is_some();
        if circles || reply.text.trim().is_empty() {
            return false;
        }
        match self.config.output_schema(&task.task_type, name, &task.agent) {
            None => true,
            Some(schema) => {
                let validator = Validator::new(schema).ok();
                let value = serde_json::from_str(&reply.text).ok();
                validator.zip(value).is_some_and(|(validator, value)| validator.violations(&value).is_empty())
            }
        }
    }

    fn answered(&mut self, message: u64, now: Duration) {
        let Letter { order, model } = self.letter(message).clone();
        let own = self.config.agents.get(&self.orders[order].task.agent).map(|agent| agent.model.clone());
        let order = &mut self.orders[order];
        order.answers += 1;
        if order.done.is_none() {
            order.done = Some(now);
            order.on_fallback = own.is_some_and(|own| own != model);
            order.by_founder = order.founder && !order.waits;
        }
        if let Some(consumer) = self.consumers.get_mut(&order.task.agent) {
            consumer.ack(message);
        }
    }

    /// The server says that the deliveries of a message are used up; the monitor hears it, or nobody does.
    fn used_up(&mut self, message: u64, now: Duration) {
        if now < self.monitor_back {
            self.unheard += 1;
            return;
        }
        let Letter { order, model } = self.letter(message).clone();
        self.orders[order].entries += 1;
        self.entries.push_back(now);
        while self.entries.front().is_some_and(|at| now.saturating_sub(*at) >= HOUR) {
            self.entries.pop_front();
        }
        if self.entries.len() >= THRESHOLD {
            self.page(now);
        }
        // Everything is a timeout to the CEO: the next model, and when that was tried, the founder.
        let agent = self.config.agents.get(&self.orders[order].task.agent);
        let next = agent.filter(|agent| agent.model == model).and_then(|agent| agent.fallback_models.first()).cloned();
        match next.filter(|_| self.orders[order].entries == 1) {
            Some(next) => self.put(order, next),
            None => {
                let called = self.page(now);
                (self.orders[order].founder, self.orders[order].waits) = (true, true);
                let human = self.loaded.scenario.human.as_ref();
                if let Some(after) = human.and_then(|human| human.decides_after) {
                    self.founder.insert(((called + after).max(now), order));
                }
            }
        }
    }

    /// Calls the founder, unless they were called within the hour; when they were called.
    fn page(&mut self, now: Duration) -> Duration {
        match self.pages.last() {
            Some(last) if now.saturating_sub(*last) < HOUR => *last,
            _ => {
                self.pages.push(now);
                now
            }
        }
    }

    fn send_again(&mut self, order: usize) {
        self.orders[order].waits = false;
        let model = self.config.agents.get(&self.orders[order].task.agent).map(|agent| agent.model.clone());
        // What came to an answer after all needs nothing more.
        if let Some(model) = model.filter(|_| self.orders[order].done.is_none()) {
            self.put(order, model);
        }
    }

    /// What is broken by hand.
    fn strike(&mut self, window: Window, now: Duration) {
        let fault = &self.loaded.scenario.faults[window.fault];
        let named = fault.scope.agent.clone();
        match (fault.kind, named) {
            (FaultKind::AgentKill, Some(agent)) => self.pod_dies(&agent, now, now + RESTART),
            // A wedged worker goes on with what it has and takes no more.
            (FaultKind::AgentWedge, Some(agent)) => self.absent(&agent, now, window.until),
            // The machine with all pods; the broker is on another.
            (FaultKind::ProcessKill, _) => {
                for agent in self.config.agents.keys().cloned().collect::<Vec<_>>() {
                    self.pod_dies(&agent, now, window.until);
                }
                self.monitor_back = window.until;
            }
            _ => {}
        }
    }

    fn pod_dies(&mut self, agent: &AgentName, now: Duration, until: Duration) {
        let theirs = self.work.extract_if(.., |_, (name, _)| name == agent).map(|(id, _)| id).collect::<Vec<_>>();
        for id in theirs {
            if let Some(handle) = self.aborts.remove(&id) {
                handle.abort();
            }
        }
        self.absent(agent, now, until);
    }

    fn absent(&mut self, agent: &AgentName, now: Duration, until: Duration) {
        let back = self.away.get(agent).copied().unwrap_or_default().max(until);
        self.away.insert(agent.clone(), back);
        self.absences.entry(agent.clone()).or_default().push((now, until));
    }

    /// An agent could work while its pod was up and its provider did not turn everybody away.
    fn uptime(&self) -> f64 {
        let run = self.loaded.scenario.run;
        let mut lost = Duration::ZERO;
        for agent in self.config.agents.values() {
            let mut spans = self.absences.get(&agent.name).cloned().unwrap_or_default();
            spans.extend(self.stage.windows.iter().filter_map(|window| {
                let fault = &self.loaded.scenario.faults[window.fault];
                let providers = &fault.scope.providers;
                let all = fault.kind.target() == Target::Calls && fault.share >= 1.0 && fault.flap.is_none();
                let theirs = providers.is_empty() || providers.contains(&agent.model.provider);
                (all && theirs
                    && fault.scope == crate::scenario::Scope { providers: providers.clone(), ..Default::default() })
                .then_some((window.from, window.until))
            }));
            lost += covered(spans, run);
        }
        let all = run.as_secs_f64() * number(self.config.agents.len());
        if all > 0.0 { 1.0 - lost.as_secs_f64() / all } else { 1.0 }
    }

    fn close(self) -> BrokerRun {
        let uptime = self.uptime();
        let books = self.stage.books.open().clone();
        BrokerRun {
            books,
            orders: self.orders,
            pages: self.pages,
            unheard: self.unheard,
            deliveries: self.deliveries,
            uptime,
            config: self.config,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::scenario_text;

    #[test]
    fn an_advisory_that_nobody_hears_is_lost_for_good_and_three_entries_call_once_an_hour() {
        let text = "run: 1h\nload: [{ type: code_review, agent: cto, every: 10s }]\n";
        let loaded = scenario_text("t.yaml", text, None).expect("sound");
        let mut floor = Floor::new(&loaded, 1);
        let secs = Duration::from_secs;
        for ticket in 1..=5 {
            floor.publish(0, ticket, secs(ticket), secs(ticket));
        }
        floor.monitor_back = secs(500);
        floor.used_up(1, secs(499));
        assert_eq!((floor.unheard, floor.orders[0].entries, floor.orders[0].waits), (1, 0, false));
        // (message, when, entries of its order, pages so far, letters so far)
        for (message, at, entries, pages, letters) in [
            (2, 500, 1, 0, 6),
            (3, 1_000, 1, 0, 7),
            (4, 1_500, 1, 1, 8),
            (5, 1_600, 1, 1, 9),
            // The second of the same order, on its agent's next model: nothing is left but the founder.
            (6, 1_700, 2, 1, 9),
            (7, 5_200, 2, 2, 9),
        ] {
            floor.used_up(message, secs(at));
            let order = floor.letter(message).order;
            let seen = (floor.orders[order].entries, floor.pages.len(), floor.letters.len());
            assert_eq!(seen, (entries, pages, letters), "message {message} at {at} s");
            assert_eq!(floor.orders[order].waits, entries == 2);
        }
    }
}
