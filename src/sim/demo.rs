//! `backstop demo`: the whole team through an outage, in one process, on real HTTP, in less than a minute.
//!
//! The director here holds no truth: what is to be submitted follows from the team's clock and is safe to submit
//! again (each task has its idempotency key), and the person's deeds follow from what the record says. So a demo that
//! was killed goes on from its directory as if nothing had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outage::OutageServer;
use super::pagerduty::PagerDutyStub;
use super::panic::PanickingProvider;
use super::repository::Repository;
use super::scene::{Scene, Watcher};
use super::screen::{Screen, Style, grouped};
use super::smtp::SmtpStub;
use super::story::{
    ACKNOWLEDGE_AFTER, CANCEL_AT, CURTAIN, OUTAGE_SWITCH, OVERRIDE_AT, PAID_AT, PERMISSION, PERSON, Part, Story, Stubs,
    TASKS,
};
use crate::balance::Balance;
use crate::cause::Usage;
use crate::config::{Config, Wire};
use crate::definitions::{self, Purpose};
use crate::engine::embedded::Embedded;
use crate::engine::{self, Engine};
use crate::event::Event;
use crate::incident::{IncidentState, Trigger};
use crate::journal::{self, Step};
use crate::llm;
use crate::query::{Filter, PageAsk};
use crate::record::{Record, State};
use crate::task::{Integration, TaskError, TaskId};
use crate::team::clock::{Clock, wall};
use crate::team::desk::{Desk, DeskError};
use crate::team::{self, Team};
use crate::time::{Timestamp, format_duration};
use crate::tools;
use crate::triage::Decision;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all chances come from.
    pub seed: u64,
    /// How many times as fast as the world the team's clock runs: 1 to 200.
    pub speed: f64,
    /// No colour, no cursor movement.
    pub plain: bool,
    /// Keep the state in this directory, which must be empty or new.
    pub keep: Option<PathBuf>,
    /// Go on with the state in this directory.
    pub resume: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 7, speed: 20.0, plain: false, keep: None, resume: None }
    }
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Where the tasks stand. It balances, or there would be an error instead.
    pub balance: Balance,
    /// What was seen.
    pub scenes_seen: BTreeSet<Scene>,
    /// What was not.
    pub scenes_missing: Vec<Scene>,
    /// Tokens of answers that came to nothing.
    pub failed: Usage,
    /// Tokens of all answers.
    pub spent: Usage,
    /// What answers that came to nothing cost, in millionths of a US dollar at list prices; unknown when a price is.
    pub failed_micro_usd: Option<u64>,
    /// Tokens that were not paid again, because the journal knew the answers.
    pub saved: Usage,
    /// Calls the tools saw, in this run.
    pub tool_calls: u64,
    /// How long it took, by the wall.
    pub took: Duration,
}

/// Why the demo could not be given, or failed to prove its point.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The speed is out of range.
    #[error("--speed must be between 1 and 200, not {0}")]
    Speed(f64),
    /// The directory to keep the state in has something in it.
    #[error("{0} is not empty; name a new directory, or go on with this one: backstop demo --resume {0}")]
    NotEmpty(String),
    /// There is no demo in the directory.
    #[error("{0} holds no demo to go on with; begin one there: backstop demo --keep {0}")]
    NoDemo(String),
    /// A file or a socket.
    #[error("the demo could not {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The built-in team is not sound: a bug of this version.
    #[error("the built-in team cannot be read: {0}")]
    Team(#[from] definitions::Problems),
    /// The store.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The team.
    #[error(transparent)]
    Start(#[from] team::Error),
    /// A provider.
    #[error(transparent)]
    Llm(#[from] llm::Error),
    /// The operator's door.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// A name.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A tool.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// The point was not proved.
    #[error("the ledger does not balance: {lost} tasks are lost, {open} are still open")]
    Unbalanced {
        /// Accepted tasks that are nowhere.
        lost: u64,
        /// Tasks that came to no end in time.
        open: u64,
    },
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Io { doing, source }
}

/// The longest the team's clock runs before the demo gives up on open tasks.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// What is remembered of a demo beside its store.
const MEMORY: &str = "demo.json";

#[derive(Serialize, Deserialize)]
struct Memory {
    seed: u64,
}

/// Gives the demo, writing to `out` as things happen.
///
/// # Errors
/// When it cannot be set up; and when its ledger does not balance.
pub async fn run(options: Options, out: &mut (dyn Write + Send)) -> Result<Outcome, Error> {
    if !(1.0..=200.0).contains(&options.speed) {
        return Err(Error::Speed(options.speed));
    }
    keep_cued_panics_off_the_screen();
    let began = tokio::time::Instant::now();
    let home = Home::of(&options)?;
    let stage = Stage::set(&home, &options).await?;
    let written = |result: io::Result<()>| result.map_err(io_error("write to the screen"));
    written(opening(&home, &stage, out))?;
    let Stage { story, engine, clock, origin, server, team, .. } = &stage;
    let desk = team.desk();

    let mut screen = Screen::new(style(options.plain));
    let mut watcher = Watcher::default();
    let mut seen = stage.told.last().map_or(0, |event| event.seq);
    for event in &stage.told {
        watcher.note(event);
        screen.remember(event);
    }
    let mut person = Person { desk: &desk, story, ids: BTreeMap::new() };
    let tick = Duration::from_secs(1).div_f64(options.speed).max(Duration::from_millis(10));
    loop {
        let elapsed = clock.now().since(*origin);
        for (switch, on) in story.switches(elapsed, clock.now(), &watcher) {
            server.switch(switch, on);
        }
        person.submit_what_is_due(elapsed).await?;
        person.act(elapsed, watcher.seen()).await?;
        // Asked before the events are read, so that the screen has seen the end, too.
        // A dead letter is not the end: the CEO is about to decide.
        let balance = engine.balance().await?;
        let settled = balance.settled() && balance.dead == 0;
        loop {
            let events = engine.events(seen, 500).await?;
            for event in &events {
                seen = event.seq;
                watcher.note(event);
                screen.feed(event);
            }
            if events.len() < 500 {
                break;
            }
        }
        written(screen.print(clock.now(), out))?;
        let seen_all = watcher.missing().is_empty() || elapsed >= CURTAIN + Duration::from_secs(90);
        let all_asked = person.ids.len() == TASKS;
        let over = elapsed >= CURTAIN && seen_all && all_asked && settled;
        if over || elapsed >= LIMIT {
            break;
        }
        tokio::time::sleep(tick).await;
    }
    written(screen.finish(clock.now(), out))?;

    let records = all_records(&**engine).await?;
    let balance = engine.balance().await?;
    let mut steps: Vec<Step> = Vec::new();
    for record in &records {
        steps.extend(engine.steps(record.task.id).await?);
    }
    let cost = journal::tally(&steps);
    let outcome = Outcome {
        balance,
        scenes_seen: watcher.seen().clone(),
        scenes_missing: watcher.missing(),
        failed: cost.wasted,
        spent: cost.usage,
        failed_micro_usd: (cost.unpriced == 0).then_some(cost.wasted_micro_usd),
        saved: watcher.saved(),
        tool_calls: stage.repository.calls(),
        took: began.elapsed(),
    };
    written(closing(&home, &outcome, &records, server, out))?;
    let Stage { team, server, .. } = stage;
    team.drain(Duration::from_secs(1)).await?;
    server.shutdown().await;
    let (lost, open) = (outcome.balance.lost(), outcome.balance.waiting + outcome.balance.running);
    if lost > 0 || open > 0 {
        return Err(Error::Unbalanced { lost, open });
    }
    Ok(outcome)
}

/// Where the state lives, and whether it goes when the demo ends.
struct Home {
    dir: PathBuf,
    temporary: bool,
    seed: u64,
    resumed: bool,
}

impl Home {
    fn of(options: &Options) -> Result<Self, Error> {
        if let Some(dir) = &options.resume {
            let name = dir.display().to_string();
            let memory = fs::read_to_string(dir.join(MEMORY)).map_err(|_| Error::NoDemo(name.clone()))?;
            let memory: Memory = serde_json::from_str(&memory).map_err(|_| Error::NoDemo(name))?;
            return Ok(Self { dir: dir.clone(), temporary: false, seed: memory.seed, resumed: true });
        }
        let (dir, temporary) = match &options.keep {
            Some(dir) => (dir.clone(), false),
            None => {
                let name = format!("backstop-demo-{}-{}", std::process::id(), wall().millis());
                (std::env::temp_dir().join(name), true)
            }
        };
        let name = dir.display().to_string();
        if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::NotEmpty(name));
        }
        fs::create_dir_all(&dir).map_err(io_error(format!("create {name}")))?;
        let home = Self { dir, temporary, seed: options.seed, resumed: false };
        home.write(MEMORY, &serde_json::json!({"seed": options.seed}).to_string())?;
        Ok(home)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.dir.join(file);
        let doing = || format!("write {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error(doing()))?;
        }
        fs::write(&path, text).map_err(io_error(doing()))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing is lost but room if this fails.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Everything that plays: the team and its store, the models, the inboxes.
struct Stage {
    story: Story,
    engine: Arc<dyn Engine>,
    clock: Clock,
    origin: Timestamp,
    /// What happened in the runs before.
    told: Vec<Event>,
    server: OutageServer,
    repository: Repository,
    team: Team,
    _pagerduty: PagerDutyStub,
    _smtp: SmtpStub,
}

impl Stage {
    async fn set(home: &Home, options: &Options) -> Result<Self, Error> {
        let story = Story::new(home.seed)?;
        let engine: Arc<dyn Engine> = Arc::new(Embedded::open(&home.dir.join("store"), wall())?);
        let told = all_events(&*engine).await?;
        let first = told.first().map(|event| event.at);
        let team = default_team(home)?;
        // The story's time stands still while nobody plays.
        let clock = Clock::starting_at(first.map_or_else(wall, |_| engine.high_water()), options.speed);
        let origin = first.unwrap_or_else(|| clock.now());

        let ticking = clock.clone();
        let now: llm::Clock = Arc::new(move || ticking.now());
        let server = OutageServer::start_at(story.script(options.speed), now.clone(), origin)
            .await
            .map_err(io_error("start the outage server"))?;
        let mut earlier = Watcher::default();
        told.iter().for_each(|event| earlier.note(event));
        for (switch, on) in story.switches(clock.now().since(origin), clock.now(), &earlier) {
            server.switch(switch, on);
        }
        let pagerduty = PagerDutyStub::start().await.map_err(io_error("start the PagerDuty stub"))?;
        let smtp = SmtpStub::start().await.map_err(io_error("start the SMTP stub"))?;
        let stubs = Stubs {
            anthropic: server.base_url(Wire::Anthropic),
            openai: server.base_url(Wire::OpenAi),
            pagerduty: pagerduty.url(),
            smtp: smtp.url(),
        };
        let config = story.config(team, &stubs)?;
        let earlier = all_records(&*engine).await?;
        let panics = recall(&story, &earlier, &server);
        let openai = Integration::new("openai")?;
        let repository = Repository::default();
        let mut builder = Team::builder(config.clone()).engine(engine.clone()).clock(clock.clone()).seed(home.seed);
        builder = builder.tools(repository.server()?);
        if let (Some(settings), Some(victim)) = (config.providers.get(&openai), story.cast(Part::Panic).next()) {
            let provider = llm::provider(openai.clone(), settings, now)?;
            builder = builder.provider(PanickingProvider::new(provider, victim.ticket(), u32::from(!panics)));
        }
        let team = builder.start().await?;
        Ok(Self { story, engine, clock, origin, told, server, repository, team, _pagerduty: pagerduty, _smtp: smtp })
    }
}

/// The files of `backstop init`, written beside the store and read as `backstop up` reads them.
fn default_team(home: &Home) -> Result<Config, Error> {
    for (file, text) in definitions::templates() {
        home.write(&format!("team/{file}"), text)?;
    }
    // No key is needed: the models are stubs.
    Ok(definitions::load(&home.dir.join("team"), &|_| None, Purpose::Check)?.config)
}

/// Tells a new outage server what the one before had served; and whether the panic has been.
fn recall(story: &Story, records: &[Record], server: &OutageServer) -> bool {
    let mut panicked = false;
    for ask in &story.asks {
        let key = story.key(ask);
        let of_key = |record: &&Record| record.task.idempotency_key.as_ref().is_some_and(|known| known.as_str() == key);
        let Some(record) = records.iter().find(of_key) else { continue };
        // A delivery that died with its process had no answer: the model may say the same again.
        let calls = record.attempts.iter().filter(|attempt| attempt.spent.model.is_some()).count() as u64;
        for (rule, calls) in story.recalled(ask, calls) {
            server.recall(&rule, calls);
        }
        panicked |= ask.part == Some(Part::Panic) && !record.attempts.is_empty();
    }
    panicked
}

/// The one at the keyboard: submits the work, and does what only a person may.
struct Person<'a> {
    desk: &'a Desk,
    story: &'a Story,
    ids: BTreeMap<usize, TaskId>,
}

impl Person<'_> {
    async fn submit_what_is_due(&mut self, elapsed: Duration) -> Result<(), Error> {
        for ask in self.story.asks.iter().skip(self.ids.len()).take_while(|ask| ask.at <= elapsed) {
            let submitted = self.desk.submit(ask.task(self.story.seed)?).await?;
            self.ids.insert(ask.number, submitted.record.task.id);
        }
        Ok(())
    }

    async fn act(&self, elapsed: Duration, seen: &BTreeSet<Scene>) -> Result<(), Error> {
        self.answer_incidents(elapsed, seen.contains(&Scene::BreakerClosed)).await?;
        if elapsed >= PAID_AT {
            for (id, record) in self.cast(Part::Payment).await? {
                if record.state == State::WaitingHuman {
                    let decision = Decision::Resolve { note: "paid by bank transfer".to_owned() };
                    attempted(self.desk.decide(id, decision, PERSON, "paid by bank transfer").await)?;
                }
            }
        }
        if elapsed >= CANCEL_AT {
            for (id, record) in self.cast(Part::Obsolete).await? {
                if !matches!(record.state, State::Done | State::Cancelled | State::Running) {
                    attempted(self.desk.cancel(id, PERSON, "the release goes out without it").await)?;
                }
            }
        }
        Ok(())
    }

    async fn answer_incidents(&self, elapsed: Duration, models_are_back: bool) -> Result<(), Error> {
        let now = self.desk.now();
        for incident in self.desk.incidents().await? {
            let id = incident.id.as_str();
            let taken = matches!(incident.state, IncidentState::Acknowledged);
            if incident.state == IncidentState::Triggered && now.since(incident.opened_at) >= ACKNOWLEDGE_AFTER {
                attempted(self.desk.acknowledge(id, PERSON, "looking into it").await)?;
            } else if taken && incident.trigger == Trigger::DeadLetters && elapsed >= OVERRIDE_AT && models_are_back {
                let decision = Decision::RunAgain { amendment: Some(PERMISSION.to_owned()) };
                attempted(self.desk.override_incident(id, decision, PERSON, "the audit is agreed").await)?;
            } else if taken && incident.trigger == Trigger::Judgement && elapsed >= PAID_AT {
                let mut open = false;
                for (task, _) in &incident.deaths {
                    let record = self.desk.engine().record(*task).await?;
                    open |= record.is_some_and(|record| matches!(record.state, State::Dead | State::WaitingHuman));
                }
                if !open {
                    attempted(self.desk.resolve(id, PERSON, "paid").await)?;
                }
            }
        }
        Ok(())
    }

    /// The submitted tasks with this part, as they are now.
    async fn cast(&self, part: Part) -> Result<Vec<(TaskId, Record)>, Error> {
        let mut found = Vec::new();
        for ask in self.story.cast(part) {
            let Some(id) = self.ids.get(&ask.number) else { continue };
            found.extend(self.desk.engine().record(*id).await?.map(|record| (*id, record)));
        }
        Ok(found)
    }
}

/// A deed that came too late is no error: the team was faster.
fn attempted<T>(result: Result<T, DeskError>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(DeskError::Policy(why)) => {
            tracing::info!(%why, "refused");
            Ok(())
        }
        Err(DeskError::Engine(engine::Error::Refused(why))) => {
            tracing::info!(%why, "refused");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn all_events(engine: &dyn Engine) -> Result<Vec<Event>, engine::Error> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.seq);
        let more = engine.events(after, 500).await?;
        if more.is_empty() {
            return Ok(events);
        }
        events.extend(more);
    }
}

async fn all_records(engine: &dyn Engine) -> Result<Vec<Record>, engine::Error> {
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let ask = PageAsk { after, limit: 500, oldest_first: true };
        let page = engine.records(Filter::default(), ask).await?;
        records.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(records),
        }
    }
}

fn opening(home: &Home, stage: &Stage, out: &mut dyn Write) -> io::Result<()> {
    let speed = stage.clock.factor();
    let minute = format_duration(Duration::from_millis((60_000.0 / speed) as u64));
    let at = |span: Duration| format!("{:02}:{:02}", span.as_secs() / 60, span.as_secs() % 60);
    let agents = stage.team.desk().config().agents.len();
    writeln!(out, " A team of {agents} agents, {TASKS} tasks; models over real HTTP on loopback, seed {}.", home.seed)?;
    writeln!(out, " No key, no account, no network. The clock runs {speed}x: a minute takes {minute}.")?;
    writeln!(
        out,
        " At {} OpenAI asks for {} of silence; from {} Anthropic is down for {}.",
        at(stage.story.rate_limit.0),
        format_duration(stage.story.rate_limit.1),
        at(stage.story.outage.0),
        format_duration(stage.story.outage.1 - stage.story.outage.0)
    )?;
    let fate = if home.temporary { "removed at the end; --keep DIR keeps it" } else { "kept" };
    writeln!(out, " State in {} ({fate}).", home.dir.display())?;
    if home.resumed {
        writeln!(out, " Going on at {}.", at(stage.clock.now().since(stage.origin)))?;
    }
    writeln!(out)?;
    out.flush()
}

fn closing(
    home: &Home,
    outcome: &Outcome,
    records: &[Record],
    server: &OutageServer,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Balance { submitted, done, dead, waiting_human, cancelled, .. } = outcome.balance;
    let (lost, open) = (outcome.balance.lost(), outcome.balance.waiting + outcome.balance.running);
    writeln!(out)?;
    writeln!(
        out,
        " {submitted} submitted = {done} done + {dead} dead + {waiting_human} waiting for a human + {cancelled} cancelled, lost {lost}"
    )?;
    if open > 0 {
        writeln!(out, " and {open} still open: this does not balance")?;
    }
    let (failed, spent) = (outcome.failed.total(), outcome.spent.total());
    let share = failed.saturating_mul(1_000).checked_div(spent).unwrap_or(0);
    let money = outcome.failed_micro_usd.map(|micro| format!(", ${}.{:06}", micro / 1_000_000, micro % 1_000_000));
    writeln!(
        out,
        " Cost of failure: {} of {} tokens ({}.{} %{}) were for nothing.",
        grouped(failed),
        grouped(spent),
        share / 10,
        share % 10,
        money.unwrap_or_default()
    )?;
    writeln!(out, " {} tokens not paid again thanks to the journal.", grouped(outcome.saved.total()))?;
    let requests = server.requests();
    let answered = requests.iter().filter(|request| request.answered()).count();
    let refused = requests.iter().filter(|request| request.rule.as_deref() == Some(OUTAGE_SWITCH)).count();
    writeln!(out, " The models saw {} requests and answered {answered}; {refused} met the outage.", requests.len())?;
    for record in records.iter().filter(|record| record.state == State::WaitingHuman) {
        let why = record.letter.as_ref().map(|letter| letter.failure.kind.to_string()).unwrap_or_default();
        writeln!(out, " Waiting for you: {}/{} ({why}); only you may repeat it.", record.agent, record.task.task_type)?;
    }
    if !outcome.scenes_missing.is_empty() {
        let missing: Vec<_> = outcome.scenes_missing.iter().map(|scene| scene.as_str()).collect();
        writeln!(out, " Not seen this time: {}.", missing.join(", "))?;
    }
    writeln!(out, " Took {} s.", outcome.took.as_secs())?;
    writeln!(out)?;
    writeln!(out, " Next:")?;
    if home.temporary {
        writeln!(out, "   backstop demo --keep DIR      kill -9 it, then: backstop demo --resume DIR")?;
    } else {
        writeln!(out, "   backstop check {}", home.dir.join("team").display())?;
    }
    writeln!(out, "   backstop init my-team         a team of your own")?;
    writeln!(out, "   backstop check my-team        is it sound?")?;
    out.flush()
}

fn style(plain: bool) -> Style {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let cursor = !plain && io::stdout().is_terminal() && set("TERM").is_none_or(|term| term != "dumb");
    Style { colour: cursor && set("NO_COLOR").is_none(), cursor }
}

/// A panic on cue is told by the screen; its message and backtrace would tear it. All other panics are reported as ever.
fn keep_cued_panics_off_the_screen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let on_cue = panic.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("on cue at "));
            if !on_cue {
                usual(panic);
            }
        }));
    });
}

/// Is there a demo in this directory?
#[must_use]
pub fn is_demo(dir: &Path) -> bool {
    dir.join(MEMORY).is_file()
}
