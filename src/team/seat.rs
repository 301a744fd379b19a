//! An agent's place in the team: how it is and what it holds, for everybody to read without asking the agent.
//!
//! A view, not a truth: who holds which task is the engine's to say. Lost with the process, and rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::addr::Addr;
use super::agent::AgentMessage;
use super::desk::AgentState;
use crate::agent::{Agent, Incarnation};
use crate::task::TaskId;
use crate::time::Timestamp;

/// An agent's place.
pub(crate) struct Seat {
    pub(crate) agent: Arc<Agent>,
    pub(crate) addr: Addr<AgentMessage>,
    state: Mutex<SeatState>,
}

/// How an agent is, now.
#[derive(Clone, Debug)]
pub(crate) struct SeatState {
    pub(crate) condition: AgentState,
    pub(crate) since: Timestamp,
    pub(crate) incarnation: Incarnation,
    pub(crate) deaths: u32,
    pub(crate) last_death: Option<String>,
    pub(crate) died_at: Option<Timestamp>,
    pub(crate) running: BTreeMap<TaskId, u64>,
    /// Whose calls panicked since it was started.
    pub(crate) killers: BTreeSet<TaskId>,
}

impl Seat {
    pub(crate) fn new(agent: Arc<Agent>, now: Timestamp) -> Self {
        let state = SeatState {
            condition: AgentState::Restarting,
            since: now,
            incarnation: Incarnation(0),
            deaths: 0,
            last_death: None,
            died_at: None,
            running: BTreeMap::new(),
            killers: BTreeSet::new(),
        };
        Self { agent, addr: Addr::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is, with `busy` told from `healthy` by its slots.
    pub(crate) fn view(&self) -> SeatState {
        let mut view = self.lock().clone();
        view.condition = self.told(&view);
        view
    }

    /// The condition of its [`Seat::view`].
    pub(crate) fn condition(&self) -> AgentState {
        self.told(&self.lock())
    }

    /// Does it hold anything?
    pub(crate) fn works(&self) -> bool {
        !self.lock().running.is_empty()
    }

    fn told(&self, state: &SeatState) -> AgentState {
        let full = state.running.len() >= self.slots();
        if state.condition == AgentState::Healthy && full { AgentState::Busy } else { state.condition }
    }

    fn slots(&self) -> usize {
        usize::try_from(self.agent.concurrency).unwrap_or(usize::MAX)
    }

    /// How many deliveries it can take now, and under which incarnation: none while it is down.
    pub(crate) fn free(&self) -> (u32, Incarnation) {
        let state = self.lock();
        let free = match state.condition {
            AgentState::Healthy | AgentState::Busy => self.slots().saturating_sub(state.running.len()),
            AgentState::Restarting | AgentState::CrashLoop | AgentState::Wedged | AgentState::Draining => 0,
        };
        (u32::try_from(free).unwrap_or(u32::MAX), state.incarnation)
    }

    pub(crate) fn begin(&self, task: TaskId, fence: u64) {
        self.lock().running.insert(task, fence);
    }

    pub(crate) fn end(&self, task: TaskId, fence: u64) {
        let mut state = self.lock();
        if state.running.get(&task) == Some(&fence) {
            state.running.remove(&task);
        }
    }

    /// A new start of it is up.
    pub(crate) fn up(&self, incarnation: Incarnation, now: Timestamp) {
        let mut state = self.lock();
        state.condition = AgentState::Healthy;
        state.since = now;
        state.incarnation = incarnation;
        state.running.clear();
    }

    /// A call for this task panicked: it takes nothing new until it is restarted.
    pub(crate) fn condemn(&self, task: TaskId) {
        let mut state = self.lock();
        state.condition = AgentState::Restarting;
        state.killers.insert(task);
    }

    /// It is down, in this condition, after so many deaths in a row.
    pub(crate) fn down(&self, condition: AgentState, deaths: u32, how: String, now: Timestamp) {
        let mut state = self.lock();
        state.condition = condition;
        state.since = now;
        state.deaths = deaths;
        state.last_death = Some(how);
        state.died_at = Some(now);
        state.running.clear();
        // What it dies of next is not theirs, unless they are named again.
        state.killers.clear();
    }

    pub(crate) fn drain(&self) {
        self.lock().condition = AgentState::Draining;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_killed_it_is_not_blamed_for_its_next_death() {
        let now = Timestamp::from_millis(0);
        let seat = Seat::new(Arc::new(Agent::new("cto", "local/large").expect("an agent")), now);
        let task = TaskId::new(now, [1; 10]);
        seat.up(Incarnation(1), now);
        seat.condemn(task);
        assert_eq!(seat.view().killers, BTreeSet::from([task]));
        seat.down(AgentState::Restarting, 1, "it panicked".to_owned(), now);
        assert_eq!(seat.view().killers, BTreeSet::new(), "a start that fails, say");
    }
}
