//! A scenario played in virtual time: the production actors, CEO, pager and engine code on tokio's paused clock with
//! seeded dice, so that months take seconds and the same seed tells the same story to the byte.
//!
//! - [`stage`] is the time, the dice and which faults are on; [`books`] what the world saw.
//! - [`cast`] is who else is on it: the other side of tools, and who knows what really happened.
//! - `model`, `pager` and `person` stand in for the world; `store` is the disk.
//! - [`play`] is the director: work comes, things break, and in the end everything comes to rest.
//! - [`play_on_the_wire`] is the same director in real time: the team asks the outage server through its own adapters.
//!
//! Each run has a runtime of its own on the thread that plays it: nothing of one run is seen by another.

pub mod books;
pub mod cast;
pub mod stage;
pub(super) mod model;
mod pager;
mod person;
mod store;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use self::books::{Asked, Call, CallEnd, Ledgers, Refused};
use self::cast::Cast;
use self::model::VirtualModel;
use self::pager::Inbox;
use self::person::Person;
use self::stage::{Shared, Stage, Ticket};
use self::store::Store;
use crate::balance::Balance;
use crate::cause::Usage;
use crate::config::{Config, Wire};
use crate::definitions::LoadedScenario;
use crate::engine::memory::Memory;
use crate::engine::{self, Engine};
use crate::error_chain::in_full;
use crate::event::Event;
use crate::incident::Incident;
use crate::journal::Step;
use crate::query::{Filter, PageAsk};
use crate::record::{LetterStatus, Record, State};
use crate::scenario::{FaultKind, Load, Target, Window};
use crate::sim::breakage::on_the_wire;
use crate::sim::outage::{Now, OutageServer, Served};
use crate::task::{IdempotencyKey, Integration, TaskError, hex};
use crate::team::clock::Clock;
use crate::team::desk::{Desk, NewTask};
use crate::team::{self, Part, Team};
use crate::time::Timestamp;

/// A run that has come to its end, or to the end of its time.
#[derive(Debug)]
pub struct Run {
    /// The seed of its dice.
    pub seed: u64,
    /// The configuration of the team.
    pub config: Config,
    /// When which fault struck.
    pub windows: Vec<Window>,
    /// What the world saw.
    pub books: Ledgers,
    /// The event feed.
    pub events: Vec<Event>,
    /// Every task as the engine has it, in the order of submission.
    pub records: Vec<Record>,
    /// Their journals, in the same order, when they were kept.
    pub steps: Vec<Vec<Step>>,
    /// Every incident.
    pub incidents: Vec<Incident>,
    /// Where the tasks stand.
    pub balance: Balance,
    /// Did everything come to rest in time?
    pub at_rest: bool,
    /// How long it was played, in virtual time.
    pub elapsed: Duration,
    /// SHA-256 over the feed as JSON lines: what two runs of one seed have in common.
    pub hash: String,
}

/// Why a scenario could not be played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The runtime could not be made.
    #[error("no runtime could be made")]
    Runtime(#[from] std::io::Error),
    /// The team did not start.
    #[error("the team did not start")]
    Start(#[from] team::Error),
    /// The store.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A name.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// On the wire providers are told apart by what they speak.
    #[error(
        "{one} and {other} speak the same wire, and the outage server could not tell them apart; play it in virtual time (`backstop sim run`)"
    )]
    SameWire {
        /// One of them.
        one: Integration,
        /// The other.
        other: Integration,
    },
    /// The code that is simulated ended in a panic that nobody caught: a bug.
    #[error("seed {seed}: the simulated team panicked: {panic}")]
    Panicked {
        /// Of which run.
        seed: u64,
        /// Its words.
        panic: String,
    },
}

/// Plays a scenario to its end, on this thread.
///
/// # Errors
/// When the team does not start or the code under simulation panics where nobody catches it.
pub fn play(loaded: &LoadedScenario, seed: u64) -> Result<Run, Error> {
    play_with(loaded, seed, None)
}

/// As [`play`], with others on the stage besides models and people.
///
/// # Errors
/// As [`play`].
pub fn play_with(loaded: &LoadedScenario, seed: u64, cast: Option<Arc<dyn Cast>>) -> Result<Run, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    caught(seed, || runtime.block_on(Director::direct(loaded, seed, cast, false)))
}

/// Plays a scenario to its end in real time, on this thread: the team asks the outage server over HTTP, through the
/// adapters it asks real providers with, and the server follows the same scenario with the same seed.
///
/// # Errors
/// As [`play`]; and when two providers speak the same wire, or no port on loopback can be had.
pub fn play_on_the_wire(loaded: &LoadedScenario, seed: u64) -> Result<Run, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    caught(seed, || runtime.block_on(Director::direct(loaded, seed, None, true)))
}

fn caught(seed: u64, work: impl FnOnce() -> Result<Run, Error>) -> Result<Run, Error> {
    let played = catch_unwind(AssertUnwindSafe(work));
    played.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Error::Panicked { seed, panic: words.unwrap_or_else(|| "without words".to_owned()) })
    })
}

/// The feed as JSON lines, the way `backstop events -o jsonl` writes it.
#[must_use]
pub fn feed(events: &[Event]) -> String {
    events.iter().map(line).collect()
}

fn line(event: &Event) -> String {
    let mut line = serde_json::to_string(event).expect("an event is JSON");
    line.push('\n');
    line
}

/// Where the models are.
enum World {
    /// In this process, in virtual time.
    Virtual,
    /// Behind HTTP, in real time.
    Wire(OutageServer),
}

/// A client that comes with a task.
#[derive(Clone, Copy)]
struct Visit {
    /// Of which load of the scenario.
    load: usize,
    /// Its ticket.
    number: u64,
    /// When it first came.
    first_at: Duration,
}

struct Director<'a> {
    loaded: &'a LoadedScenario,
    seed: u64,
    world: World,
    stage: Shared,
    store: Arc<Store>,
    team: Option<Team>,
    up_since: Duration,
    /// When the process is started again, while it is dead.
    up_again: Option<Duration>,
    person: Person,
    calls: (mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<String>),
    blows: (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    tickets: u64,
    /// What was refused because the process was dead or the disk full: submitted again, as a client would.
    put_off: Vec<(Duration, Visit)>,
    /// Beginnings of the windows of faults that are struck by hand, in order of time; and how many are done.
    blows_due: Vec<Window>,
    struck: usize,
}

impl<'a> Director<'a> {
    async fn direct(
        loaded: &'a LoadedScenario,
        seed: u64,
        cast: Option<Arc<dyn Cast>>,
        wire: bool,
    ) -> Result<Run, Error> {
        let stage = Arc::new(Stage::new(loaded.scenario.clone(), seed).with(cast));
        let world = if wire {
            let (script, clock) = (on_the_wire(loaded, &stage.windows, seed, true).script, Arc::clone(&stage));
            let now: Now = Arc::new(move || Timestamp::default() + clock.elapsed());
            World::Wire(OutageServer::start_at(script, now, Timestamp::default()).await?)
        } else {
            World::Virtual
        };
        let by_hand = |window: &&Window| {
            let kind = loaded.scenario.faults[window.fault].kind;
            let looked_up = matches!(kind, FaultKind::DiskFull | FaultKind::PagerDown | FaultKind::MailDown);
            !looked_up && kind.target() != Target::Calls
        };
        let blows_due = stage.windows.iter().filter(by_hand).copied().collect();
        let mut director = Self {
            loaded,
            seed,
            world,
            store: Arc::new(Store::new(Memory::new(), Arc::clone(&stage))),
            stage,
            team: None,
            up_since: Duration::ZERO,
            up_again: None,
            person: Person::default(),
            calls: mpsc::unbounded_channel(),
            blows: mpsc::unbounded_channel(),
            tickets: 0,
            put_off: Vec::new(),
            blows_due,
            struck: 0,
        };
        director.start().await?;
        // In real time a team takes a moment to start; the scenario begins when it is up.
        director.stage.begin();
        director.perform().await?;
        let at_rest = director.come_to_rest().await?;
        director.close(at_rest).await
    }

    /// Starts the process, as `backstop up` would.
    async fn start(&mut self) -> Result<(), Error> {
        let stage = &self.stage;
        // The wall clock may be wrong; the store knows the latest time there has been.
        let clock = Clock::starting_at(stage.wall().max(self.store.high_water()), 1.0);
        stage.team_is_up(clock.clone());
        let engine: Arc<dyn Engine> = self.store.clone();
        let epoch = engine.epoch();
        let mut config = stage.dressed(self.loaded.config.clone());
        if let World::Wire(server) = &self.world {
            point_at(server, &mut config)?;
        }
        let mut builder = Team::builder(config)
            .engine(engine)
            .clock(clock)
            // Another process has other dice, but the same ones for the same seed.
            .seed(self.seed.wrapping_mul(1_000_003).wrapping_add(epoch));
        let in_process = matches!(self.world, World::Virtual);
        for (name, settings) in self.loaded.config.providers.iter().filter(|_| in_process) {
            builder = builder.provider(VirtualModel::new(name.clone(), settings.clone(), Arc::clone(stage)));
        }
        if let Some(server) = stage.cast.as_ref().and_then(|cast| cast.tools(stage)) {
            builder = builder.tools(server);
        }
        let person: Vec<Arc<dyn crate::pager::Channel>> = vec![
            Arc::new(Inbox::pagerduty(Arc::clone(stage), self.calls.0.clone())),
            Arc::new(Inbox::mail(Arc::clone(stage), self.calls.0.clone())),
        ];
        self.team = Some(builder.on_call("ana", person).start().await?);
        self.up_since = stage.elapsed();
        self.up_again = None;
        Ok(())
    }

    fn desk(&self) -> Option<Desk> {
        self.team.as_ref().map(Team::desk)
    }

    /// The process dies: nothing is drained, the disk is what it is. One of the cast may have it told before, as by a
    /// SIGTERM.
    async fn kill(&mut self, until: Duration) {
        if let Some(team) = self.team.take() {
            match self.stage.cast.as_ref().and_then(|cast| cast.grace()) {
                // A store that cannot be closed has lost nothing that was acknowledged.
                Some(grace) => drop(team.drain(grace).await),
                None => drop(team),
            }
            let up = (self.up_since, self.stage.elapsed());
            self.stage.books.open().runs.push(up);
            self.store = Arc::new(self.store.reopened());
        }
        // Killed again while it is dead, it stays dead for the longer of the two.
        self.up_again = self.up_again.max(Some(until));
    }

    /// Everything up to the end of the run: work comes, things break, the person acts.
    async fn perform(&mut self) -> Result<(), Error> {
        let stage = Arc::clone(&self.stage);
        let arrivals = stage.scenario.arrivals(&|purpose, about, number| stage.dice.roll(purpose, about, number));
        let mut due = arrivals.into_iter().peekable();
        loop {
            let next_arrival = due.peek().map(|(at, _)| *at);
            let next_blow = self.blows_due.get(self.struck).map(|window| window.from);
            let next = [next_arrival, next_blow].into_iter().flatten().min().unwrap_or(stage.scenario.run);
            let next = next.min(stage.scenario.run);
            if self.wait(next).await? < next {
                continue;
            }
            if next_blow == Some(next) {
                self.strike().await?;
            } else if next_arrival == Some(next) {
                let (_, load) = due.next().expect("it was peeked at");
                self.tickets += 1;
                let visit = Visit { load, number: self.tickets, first_at: stage.elapsed() };
                self.submit(visit).await?;
            } else if next >= stage.scenario.run {
                return Ok(());
            }
        }
    }

    /// Waits until `then`, or until something else is to be done, and does it. The time it is.
    async fn wait(&mut self, then: Duration) -> Result<Duration, Error> {
        let stage = Arc::clone(&self.stage);
        let put_off = self.put_off.iter().map(|(at, _)| *at).min();
        let soonest = [Some(then), self.person.next(), self.up_again, put_off].into_iter().flatten().min();
        let soonest = soonest.unwrap_or(then).max(stage.elapsed());
        tokio::select! {
            biased;
            Some(()) = self.blows.1.recv() => {
                if let Some(team) = &self.team {
                    team.crash(Part::Ceo);
                }
                return Ok(stage.elapsed());
            }
            Some(incident) = self.calls.1.recv() => {
                self.person.called(&stage, incident);
                return Ok(stage.elapsed());
            }
            () = stage.until(soonest) => {}
        }
        let now = stage.elapsed();
        if self.up_again.is_some_and(|at| at <= now) {
            self.start().await?;
        }
        if self.person.next().is_some_and(|at| at <= now) {
            let desk = self.desk();
            self.person.act(&stage, desk.as_ref()).await;
        }
        let again: Vec<(Duration, Visit)> = self.put_off.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, visit) in again {
            self.submit(visit).await?;
        }
        Ok(now)
    }

    /// What is broken by hand.
    async fn strike(&mut self) -> Result<(), Error> {
        let window = self.blows_due[self.struck];
        self.struck += 1;
        let stage = Arc::clone(&self.stage);
        let fault = &stage.scenario.faults[window.fault];
        stage.books.open().struck.push((stage.elapsed(), window.fault));
        let desk = self.desk();
        match (fault.kind, &fault.scope.agent, desk) {
            (FaultKind::ProcessKill, _, _) => self.kill(window.until).await,
            (FaultKind::ClockJump, _, _) => stage.set_wall(fault.by_millis),
            (FaultKind::AgentKill, Some(agent), Some(desk)) => {
                // Whether there is such an agent was checked before anything ran.
                let _ = desk.crash_agent(agent, "killed on cue");
            }
            (FaultKind::AgentWedge, Some(agent), Some(desk)) => {
                let _ = desk.hang_agent(agent, window.until.saturating_sub(window.from));
            }
            (FaultKind::CeoKill, _, Some(_)) => {
                let blows = self.blows.0.clone();
                let before = stage.dice.roll("ceo dies before it writes", &fault.name, self.struck as u64) < 0.5;
                // Nobody listens after the last scene.
                self.store.arm(
                    Box::new(move || {
                        let _ = blows.send(());
                    }),
                    before,
                );
            }
            // Who is dead already cannot be struck; what strikes calls is played by the models.
            _ => {}
        }
        Ok(())
    }

    /// A client submits a task; refused, it comes again in a minute with the same key.
    async fn submit(&mut self, visit: Visit) -> Result<(), Error> {
        let Visit { load, number, first_at } = visit;
        let stage = Arc::clone(&self.stage);
        let ask = &stage.scenario.load[load];
        let now = stage.elapsed();
        let again = (now + Duration::from_secs(60), visit);
        let Some(desk) = self.desk() else {
            self.put_off.push(again);
            return Ok(());
        };
        match desk.submit(task(ask, number, self.seed)?).await {
            Ok(submitted) => {
                let task = &submitted.record.task;
                stage.knows(task.id, Ticket { number, task_type: task.task_type.clone(), calls: 0 });
                let resubmits = stage.cast.is_some() && stage.dice.roll("submitted twice", "client", number) < 0.1;
                if resubmits {
                    // A client that never saw the answer asks again, under the same key.
                    let again = desk.submit(self::task(ask, number, self.seed)?).await;
                    let again = again.map(|again| again.record.task.id).map_err(|error| error.to_string());
                    stage.books.open().asked_again.push((task.id, again));
                }
                stage.books.open().asked.push(Asked {
                    id: task.id,
                    number,
                    first_at,
                    at: now,
                    task_type: task.task_type.clone(),
                    effect: task.effect,
                });
            }
            Err(error) => {
                stage.books.open().refused.push(Refused { at: now, number, why: in_full(&error) });
                self.put_off.push(again);
            }
        }
        Ok(())
    }

    /// Nothing breaks any more; waits until nothing is left to be done. Did it come to that in time?
    async fn come_to_rest(&mut self) -> Result<bool, Error> {
        let stage = Arc::clone(&self.stage);
        stage.calm_down();
        let end = stage.elapsed() + stage.scenario.drain;
        loop {
            if self.is_at_rest().await? {
                return Ok(true);
            }
            let now = stage.elapsed();
            if now >= end {
                return Ok(false);
            }
            // Looked at often at first, and then as often as anything in the team looks by itself.
            let waited = now.saturating_sub(stage.scenario.run);
            let pause = (waited / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
            self.wait((now + pause).min(end)).await?;
        }
    }

    async fn is_at_rest(&self) -> Result<bool, Error> {
        if self.team.is_none() || !self.put_off.is_empty() || self.person.next().is_some() {
            return Ok(false);
        }
        let balance = self.store.balance().await?;
        if balance.waiting + balance.running > 0 {
            return Ok(false);
        }
        if balance.waiting_human > 0
            && self.stage.scenario.human.as_ref().is_some_and(|human| human.decides_after.is_some())
        {
            return Ok(false);
        }
        let undecided = Filter { states: vec![State::Dead], status: vec![LetterStatus::Open], ..Filter::default() };
        if !self.store.dead_letters(undecided, PageAsk::default()).await?.items.is_empty() {
            return Ok(false);
        }
        // A call that nobody has taken yet is something to be done.
        let waits = |page: &Value| page["delivered_at"].is_null() && page["abandoned"] == Value::Bool(false);
        Ok(!self.store.documents("page").await?.iter().any(|page| waits(&page.body)))
    }

    async fn close(mut self, at_rest: bool) -> Result<Run, Error> {
        let incidents = match self.desk() {
            // Read as an operator would; none are lost if it cannot be.
            Some(desk) => desk.incidents().await.unwrap_or_default(),
            None => Vec::new(),
        };
        let elapsed = self.stage.elapsed();
        self.stage.books.open().runs.push((self.up_since, elapsed));
        let mut records = Vec::new();
        let mut page = PageAsk { after: None, limit: 1_000, oldest_first: true };
        loop {
            let found = self.store.records(Filter::default(), page.clone()).await?;
            records.extend(found.items);
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let mut steps = Vec::new();
        for record in &records {
            steps.push(self.store.steps(record.task.id).await?);
        }
        let events = self.store.events(0, u32::MAX).await?;
        let balance = self.store.balance().await?;
        let mut hash = Sha256::new();
        events.iter().for_each(|event| hash.update(line(event)));
        let hash = hex(&hash.finalize());
        drop(self.team.take());
        let mut books = std::mem::take(&mut *self.stage.books.open());
        if let World::Wire(server) = self.world {
            books.calls = server.requests().iter().map(|served| heard(served, self.loaded)).collect();
            server.shutdown().await;
        }
        Ok(Run {
            seed: self.seed,
            config: self.loaded.config.clone(),
            windows: self.stage.windows.clone(),
            books,
            events,
            records,
            steps,
            incidents,
            balance,
            at_rest,
            elapsed,
            hash,
        })
    }
}

/// Has every provider ask the outage server, with a key it does not look at.
fn point_at(server: &OutageServer, config: &mut Config) -> Result<(), Error> {
    let mut seen: Vec<(Wire, Integration)> = Vec::new();
    for (name, settings) in &mut config.providers {
        if let Some((_, other)) = seen.iter().find(|(wire, _)| *wire == settings.wire) {
            return Err(Error::SameWire { one: other.clone(), other: name.clone() });
        }
        seen.push((settings.wire, name.clone()));
        settings.base_url = server.base_url(settings.wire);
        settings.api_key = Some("a key the server does not look at".into());
    }
    Ok(())
}

/// A request as the outage server wrote it down, as the books have it.
fn heard(served: &Served, loaded: &LoadedScenario) -> Call {
    let provider = loaded.config.providers.iter().find(|(_, settings)| settings.wire == served.wire);
    let at = served.at.since(Timestamp::default());
    let fault = served.rule.as_ref();
    let fault = fault.and_then(|rule| loaded.scenario.faults.iter().position(|fault| fault.name == *rule));
    let (agent, task, adviser) = stage::asker(&served.prompt, &served.prompt);
    Call {
        at,
        clock: loaded.scenario.start + at,
        // Requests come from the team's own adapters, one wire each.
        provider: provider.map(|(name, _)| name.clone()).expect("the wire is of a provider of the team"),
        model: served.model.clone(),
        agent,
        task,
        adviser,
        fault,
        ended: Some((at, if served.answered() { CallEnd::Answered } else { CallEnd::Failed })),
        usage: Usage { input: served.input_tokens, output: served.output_tokens, ..Usage::default() },
        prompt: served.prompt.clone(),
        retry_after: None,
    }
}

/// The submission of a ticket. Its key makes a second one the same task.
fn task(load: &Load, number: u64, seed: u64) -> Result<NewTask, TaskError> {
    let ticket = format!("T-{number:05}");
    Ok(NewTask {
        agent: load.agent.clone(),
        priority: load.priority,
        idempotency_key: Some(IdempotencyKey::new(format!("sim/{seed}/{number}"))?),
        ..NewTask::new(load.task_type.clone(), filled(&load.payload, &ticket))
    })
}

/// A payload with the ticket in its place.
pub(crate) fn filled(payload: &Value, ticket: &str) -> Value {
    match payload {
        Value::String(text) => Value::String(text.replace("{ticket}", ticket)),
        Value::Array(items) => items.iter().map(|item| filled(item, ticket)).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), filled(value, ticket))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => payload.clone(),
    }
}
