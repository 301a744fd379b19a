//! What every part of a played scenario shares: the time since its beginning, its dice, which faults are on, the books.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::books::Books;
use super::cast::Cast;
use crate::config::Config;
use crate::prompt::Prompt;
use crate::scenario::{CallSeen, Fault, FaultKind, Scenario, Scope, Target, Window};
use crate::task::{AgentName, Integration, TaskId, TaskType};
use crate::team::clock::{Clock, Dice};
use crate::time::Timestamp;

/// The stage of one run.
#[derive(Debug)]
pub struct Stage {
    /// What is played.
    pub scenario: Scenario,
    /// The chances of the world.
    pub dice: Dice,
    /// When which fault strikes.
    pub windows: Vec<Window>,
    /// What the world saw.
    pub books: Books,
    /// Who else is on the stage.
    pub cast: Option<Arc<dyn Cast>>,
    /// By how much the wall clock was set since, in milliseconds.
    set_by: AtomicI64,
    /// No fault strikes any more: the time of the last check.
    calm: AtomicBool,
    room: Mutex<Room>,
}

#[derive(Debug)]
struct Room {
    began: Instant,
    /// How often each fault saw a call in its scope.
    seen: BTreeMap<usize, u64>,
    /// How often each fixed answer fitted: by provider, model and place.
    said: BTreeMap<(Integration, String, usize), u64>,
    /// Which task has which ticket.
    tickets: BTreeMap<TaskId, Ticket>,
    /// The clock of the team that is up.
    clock: Option<Clock>,
    /// The windows that may be on: an index into `windows`, which only moves forward.
    passed: usize,
    open: Vec<usize>,
}

impl Room {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            seen: BTreeMap::new(),
            said: BTreeMap::new(),
            tickets: BTreeMap::new(),
            clock: None,
            passed: 0,
            open: Vec::new(),
        }
    }
}

/// What is known of a task by its ticket.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Its number, first = 1.
    pub number: u64,
    /// Its type.
    pub task_type: TaskType,
    /// How many calls it made so far.
    pub calls: u64,
}

/// The mark of a task in its prompts; the stage adds it to every prompt, so that a model knows who asks.
const TASK_MARK: &str = "(simulated task ";
/// The mark of an agent in its system prompt.
const AGENT_MARK: &str = "(simulated agent ";
/// The mark of the CEO's adviser.
const ADVISER_MARK: &str = "(simulated adviser)";

impl Stage {
    /// A stage whose time begins now.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let dice = Self::dice(seed);
        let windows = scenario.windows(&|purpose, about, number| dice.roll(purpose, about, number));
        Self {
            scenario,
            dice,
            windows,
            books: Books::default(),
            cast: None,
            set_by: AtomicI64::new(0),
            calm: AtomicBool::new(false),
            room: Mutex::new(Room::new()),
        }
    }

    /// The dice of the world for a seed; the team's are others.
    #[must_use]
    pub fn dice(seed: u64) -> Dice {
        Dice::seeded(seed ^ 0x005E_ED0F_7E57)
    }

    /// With these others on it.
    #[must_use]
    pub fn with(self, cast: Option<Arc<dyn Cast>>) -> Self {
        Self { cast, ..self }
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it has been played.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        // Whole milliseconds: what everybody here counts in.
        let began = self.room().began;
        Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The scenario begins now.
    pub(super) fn begin(&self) {
        self.room().began = Instant::now();
    }

    /// Waits until then.
    pub async fn until(&self, then: Duration) {
        let began = self.room().began;
        tokio::time::sleep_until(began + then).await;
    }

    /// What the wall clock shows.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        let shown = self.scenario.start + self.elapsed();
        Timestamp::from_millis(shown.millis() + self.set_by.load(Ordering::Relaxed))
    }

    /// Sets the wall clock.
    pub fn set_wall(&self, by_millis: i64) {
        self.set_by.fetch_add(by_millis, Ordering::Relaxed);
    }

    /// What the clock of the team that is up shows.
    #[must_use]
    pub fn team_time(&self) -> Timestamp {
        // Asked with the room free: the wall's time is in it, too.
        let clock = self.room().clock.clone();
        clock.map_or_else(|| self.wall(), |clock| clock.now())
    }

    /// A team is up, with this clock.
    pub fn team_is_up(&self, clock: Clock) {
        self.books.open().starts.push((self.elapsed(), clock.now()));
        self.room().clock = Some(clock);
    }

    /// From now on nothing breaks: models answer, and well.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Does nothing break any more?
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// A task was accepted.
    pub fn knows(&self, id: TaskId, ticket: Ticket) {
        self.room().tickets.insert(id, ticket);
    }

    /// The ticket of a task, and one call more of it.
    pub fn called(&self, id: TaskId) -> Option<Ticket> {
        let mut room = self.room();
        let ticket = room.tickets.get_mut(&id)?;
        ticket.calls += 1;
        Some(ticket.clone())
    }

    /// Is a fault of this kind on, of the world's kind?
    #[must_use]
    pub fn is_on(&self, kind: FaultKind) -> bool {
        let elapsed = self.elapsed();
        if self.is_calm() {
            return false;
        }
        let mut room = self.room();
        self.keep_up(&mut room, elapsed);
        room.open.iter().any(|place| {
            let window = self.windows[*place];
            let fault = &self.scenario.faults[window.fault];
            fault.kind == kind && fault.is_on(window.from, elapsed)
        })
    }

    /// The fault that strikes this call, if one does: the first in the order of the scenario, with its place.
    pub fn strikes(&self, call: &CallSeen<'_>, about: &str, nth: u64) -> Option<(usize, &Fault)> {
        let elapsed = self.elapsed();
        if self.is_calm() {
            return None;
        }
        let mut room = self.room();
        self.keep_up(&mut room, elapsed);
        let mut on: Vec<Window> = room.open.iter().map(|place| self.windows[*place]).collect();
        on.sort_by_key(|window| window.fault);
        for window in on {
            let fault = &self.scenario.faults[window.fault];
            let adviser_only = fault.kind == FaultKind::AdviserDown;
            if fault.kind.target() != Target::Calls
                || adviser_only != call.adviser
                || !fault.is_on(window.from, elapsed)
                || !fault.scope.fits(call)
            {
                continue;
            }
            let count = room.seen.entry(window.fault).or_default();
            *count += 1;
            if fault.calls.is_some_and(|(first, last)| !(first..=last).contains(count)) {
                continue;
            }
            let about = format!("{} {about}", fault.name);
            if fault.share < 1.0 && self.dice.roll("fault strikes", &about, nth) >= fault.share {
                continue;
            }
            return Some((window.fault, fault));
        }
        None
    }

    /// Is a fixed answer given this time? Counts that it fitted.
    pub(super) fn says(&self, provider: &Integration, model: &str, place: usize, calls: Option<(u64, u64)>) -> bool {
        let mut room = self.room();
        let count = room.said.entry((provider.clone(), model.to_owned(), place)).or_default();
        *count += 1;
        calls.is_none_or(|(first, last)| (first..=last).contains(count))
    }

    /// Opens the windows that have begun and closes those that are over: time only moves forward.
    fn keep_up(&self, room: &mut Room, elapsed: Duration) {
        while room.passed < self.windows.len() && self.windows[room.passed].from <= elapsed {
            room.open.push(room.passed);
            room.passed += 1;
        }
        room.open.retain(|place| elapsed < self.windows[*place].until);
    }

    /// The team's configuration with the marks by which models know who asks, and without what the stage plays itself.
    #[must_use]
    pub fn dressed(&self, mut config: Config) -> Config {
        let marked = |prompt: &mut Prompt, mark: &str| prompt.body = format!("{}\n\n{mark}", prompt.body);
        for (name, prompt) in &mut config.prompts {
            match name.as_str() {
                "triage" => marked(prompt, ADVISER_MARK),
                "page" | "verify" => {}
                partial if partial.starts_with('_') => {}
                _ => marked(prompt, &format!("{TASK_MARK}{{{{ task.id }}}} of {{{{ task.type }}}})")),
            }
        }
        for (name, agent) in &mut config.agents {
            agent.system_prompt = format!("{}\n\n{AGENT_MARK}{name})", agent.system_prompt);
        }
        config.escalation.on_call.clear();
        config
    }
}

/// The words by which the calls in a scope are told apart on a wire, when prompts bear the marks.
#[must_use]
pub(crate) fn marks(scope: &Scope, kind: FaultKind) -> Vec<String> {
    let agent = scope.agent.as_ref().map(|name| format!("{AGENT_MARK}{name})"));
    let of_type = scope.task_type.as_ref().map(|task_type| format!(" of {task_type})"));
    let adviser = (kind == FaultKind::AdviserDown).then(|| ADVISER_MARK.to_owned());
    [agent, of_type, adviser, scope.prompt_has.clone()].into_iter().flatten().collect()
}

/// Who asks, read from the marks of a request.
#[must_use]
pub(crate) fn asker(system: &str, first: &str) -> (Option<AgentName>, Option<TaskId>, bool) {
    let marked = |text: &str, mark: &str| {
        let rest = &text[text.rfind(mark)? + mark.len()..];
        Some(rest[..rest.find(')')?].to_owned())
    };
    let agent = marked(system, AGENT_MARK).and_then(|name| AgentName::new(name).ok());
    let task = marked(first, TASK_MARK).and_then(|mark| mark.split(' ').next()?.parse().ok());
    (agent, task, first.contains(ADVISER_MARK) || system.contains(ADVISER_MARK))
}

/// A handle that everybody on the stage has.
pub type Shared = Arc<Stage>;
