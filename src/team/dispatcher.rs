//! The scheduler: finds what is due, hands it to agents with free slots, and buries what has waited too long.
//!
//! Everybody who changes something kicks it; one timer stands for the nearest due time. Stateless: if it dies it looks
//! again when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use super::agent::AgentMessage;
use super::attempt;
use super::desk::AgentState;
use super::incident::PagerMessage;
use super::office::{Office, readable};
use super::seat::Seat;
use crate::agent::Incarnation;
use crate::cause::{Cause, Crash, Death, Usage};
use crate::delivery::{Hold, Outcome, Settlement, Spent};
use crate::engine::{self, LeaseAsk};
use crate::guard::Stance;
use crate::journal;
use crate::judgement::{Judgement, Scene, classify};
use crate::ledger::Command;
use crate::query::Filter;
use crate::record::{Record, Seen, State};
use crate::task::{AgentName, Integration};
use crate::time::Timestamp;

/// How many records one look takes at once; what is left is looked at again at once.
const BATCH: u32 = 200;
/// A look even when nobody asks for one: a belt, should a hint ever be lost.
const SWEEP: Duration = Duration::from_secs(60);
/// How often the belt is doubled, at most, while nothing waits and nothing runs: up to 16 minutes.
const DOUBLINGS: u32 = 4;
/// How often a guard whose probes are all out is looked at when nothing else happens.
const PROBE_LOOK: Duration = Duration::from_secs(30);

/// What the dispatcher can be told.
pub(crate) enum DispatcherMessage {
    /// Something changed: look again.
    Kick,
    /// The nearest due time has come (the number tells a live timer from an old one).
    Due(u64),
}

/// The dispatcher.
pub(crate) struct Dispatcher(pub(crate) Arc<Office>);

/// Its one timer.
#[derive(Default)]
pub(crate) struct Timer {
    number: u64,
    armed: Option<AbortOnDropHandle<()>>,
    /// How many looks in a row, since the last hint, found nothing that waits or runs.
    idle: u32,
}

/// For whom something waits, and whether anything runs.
#[derive(Default)]
struct Standing {
    waiting: BTreeSet<AgentName>,
    running: bool,
}

impl Actor for Dispatcher {
    type Msg = DispatcherMessage;
    type State = Timer;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<DispatcherMessage>, (): ()) -> Result<Timer, ActorProcessingErr> {
        self.0.dispatcher.here(myself.clone());
        myself.cast(DispatcherMessage::Kick)?;
        Ok(Timer::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<DispatcherMessage>,
        message: DispatcherMessage,
        timer: &mut Timer,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DispatcherMessage::Due(number) if number != timer.number => return Ok(()),
            DispatcherMessage::Kick => {
                self.0.dispatcher.heard();
                timer.idle = 0;
            }
            DispatcherMessage::Due(_) => {}
        }
        match self.look().await {
            Ok(_) if self.0.draining() => {}
            Ok((standing, due)) => {
                let sweep = self.0.now() + belt(&mut timer.idle, &standing);
                let guards = if standing.waiting.is_empty() { sweep } else { self.guards_due() };
                // What is owed to the store is stored as soon as it takes anything again.
                let owed = if self.0.guards.owing() { self.soon() } else { sweep };
                self.arm(&myself, timer, due.unwrap_or(sweep).min(guards).min(sweep).min(owed));
            }
            Err(engine::Error::Closed) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the dispatcher could not read the store");
                self.arm(&myself, timer, self.0.now() + Duration::from_secs(1));
            }
        }
        Ok(())
    }
}

/// How long until the next look that nobody asked for.
fn belt(idle: &mut u32, standing: &Standing) -> Duration {
    if !standing.waiting.is_empty() || standing.running {
        *idle = 0;
        return SWEEP;
    }
    let doublings = (*idle).min(DOUBLINGS);
    *idle = doublings + 1;
    SWEEP * (1 << doublings)
}

impl Dispatcher {
    fn arm(&self, myself: &ActorRef<DispatcherMessage>, timer: &mut Timer, due: Timestamp) {
        timer.number += 1;
        let (clock, myself, number) = (self.0.clock.clone(), myself.clone(), timer.number);
        let wait = async move {
            clock.sleep_until(due).await;
            // A dead dispatcher has no use for its timer.
            let _ = myself.cast(DispatcherMessage::Due(number));
        };
        timer.armed = Some(AbortOnDropHandle::new(tokio::spawn(wait)));
    }

    /// When a guard may let calls through again, if work waits for it.
    fn guards_due(&self) -> Timestamp {
        let now = self.0.now();
        let until = |integration: &Integration| match self.0.guards.peek(integration, now) {
            Stance::Held { until, .. } => until,
            // A probe that comes back kicks; one that never does is given up by the guard after a while.
            Stance::Probing { free: 0 } => now + PROBE_LOOK,
            Stance::Free | Stance::Probing { .. } => Timestamp::from_millis(i64::MAX),
        };
        self.0.guards.integrations().map(until).min().unwrap_or(Timestamp::from_millis(i64::MAX))
    }

    /// Does what there is to do; how things stood before anything was handed out, and when something is due next.
    async fn look(&self) -> Result<(Standing, Option<Timestamp>), engine::Error> {
        let looked = self.look_at_all().await;
        // Nothing happened to a task that cannot be read, so nothing else tells the pager.
        if self.0.engine.unreadable().len() > self.0.called_for.load(Ordering::Acquire) {
            self.0.pager.hint(PagerMessage::Kick);
        }
        looked
    }

    async fn look_at_all(&self) -> Result<(Standing, Option<Timestamp>), engine::Error> {
        self.0.repay().await;
        self.bury_lapsed().await?;
        if self.0.draining() {
            return Ok((Standing::default(), None));
        }
        let now = self.0.now();
        let standing = self.standing().await?;
        if standing.waiting.is_empty() {
            let due = self.next_due(now).await;
            return Ok((standing, due));
        }
        let stances = self.stances();
        self.park_held(&stances).await?;
        self.end_homeless(&standing.waiting).await?;
        let due = self.hand_out(stances, &standing.waiting).await?;
        Ok((standing, due))
    }

    /// When something is due after `now`, the time by which was looked for what is due already: what falls between two
    /// times would be seen by neither.
    async fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        // A store that cannot say what is due is asked again soon; a sweep covers what nobody thought of.
        self.0.engine.next_due(now).await.unwrap_or_else(|_| Some(self.soon()))
    }

    fn soon(&self) -> Timestamp {
        self.0.now() + Duration::from_secs(1)
    }

    async fn standing(&self) -> Result<Standing, engine::Error> {
        let mut standing = Standing::default();
        for depth in self.0.engine.depths().await? {
            match depth.state {
                State::Ready | State::Scheduled | State::Parked => drop(standing.waiting.insert(depth.agent)),
                State::Running => standing.running = true,
                State::Done | State::Dead | State::WaitingHuman | State::Cancelled => {}
            }
        }
        Ok(standing)
    }

    fn stances(&self) -> BTreeMap<Integration, Stance> {
        let now = self.0.now();
        self.0
            .guards
            .integrations()
            .map(|integration| (integration.clone(), self.0.guards.peek(integration, now)))
            .collect()
    }

    /// Leases that ended without a word: the worker fell silent, or the process died under it.
    async fn bury_lapsed(&self) -> Result<(), engine::Error> {
        let epoch = self.0.engine.epoch();
        loop {
            let lapsed = self.0.engine.lapsed(self.0.now(), BATCH).await?;
            let found = lapsed.len();
            let handed_back = lapsed.into_iter().map(async |record| {
                let earlier_run = record.lease.as_ref().is_some_and(|lease| lease.epoch != epoch);
                let cause = if earlier_run {
                    Cause::Crash(Crash {
                        how: Death::ProcessDied,
                        detail: "the process ended under this delivery".to_owned(),
                    })
                } else {
                    Cause::LeaseLapsed
                };
                hand_back(&self.0, &record, cause).await
            });
            // At once, so that they share a commit: a crash may leave a thousand. Each to its end, whatever befell another:
            // one that is dropped after its commit would leave its agent's slot taken.
            join_all(handed_back).await.into_iter().collect::<Result<(), _>>()?;
            if found < BATCH as usize {
                return Ok(());
            }
        }
    }

    /// What would call a held integration waits, visibly, without spending a delivery; what may not, or not longer, is moved.
    async fn park_held(&self, stances: &BTreeMap<Integration, Stance>) -> Result<(), engine::Error> {
        let now = self.0.now();
        for (integration, stance) in stances {
            let Stance::Held { why, until } = stance else { continue };
            let filter = Filter {
                states: vec![State::Ready, State::Scheduled, State::Parked],
                integration: Some(integration.clone()),
                due_by: Some(now),
                ..Filter::default()
            };
            let held = self.all(filter).await?;
            let moved = held.iter().map(async |record| {
                let at_most = self.0.retry_of(record).park_at_most;
                let left = at_most.saturating_sub(self.0.waited_at_holds(record, now));
                if left.is_zero() {
                    super::ceo::move_or_bury(&self.0, record, *why).await
                } else {
                    let until = (now + left).min(*until);
                    self.say(record, Command::Park { seen: Seen::of(record), until, why: *why }).await
                }
            });
            // A commit for all of them, not one each.
            join_all(moved).await.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    /// What waits past its deadline goes to the dead letter queue.
    async fn overdue(&self, now: Timestamp) -> Result<(), engine::Error> {
        for record in self.0.engine.overdue(now, BATCH).await? {
            self.give_up(&record, Cause::DeadlinePassed, "its deadline passed while it waited").await?;
        }
        Ok(())
    }

    /// What waits for an agent that will not come back soon goes to others, or to the dead letter queue.
    async fn end_homeless(&self, agents: &BTreeSet<AgentName>) -> Result<(), engine::Error> {
        let waiting = |agent: &AgentName| Filter {
            states: vec![State::Ready, State::Scheduled, State::Parked],
            agent: Some(agent.clone()),
            ..Filter::default()
        };
        // What is past its deadline ends for that, whoever was to do it.
        let now = self.0.now();
        let in_time = |record: &Record| record.task.deadline.is_none_or(|deadline| deadline > now);
        // Agents that are in the team no more: their work goes to others, or to the dead letter queue.
        for name in agents.iter().filter(|name| !self.0.seats.contains_key(*name)) {
            for record in self.all(waiting(name)).await?.into_iter().filter(in_time) {
                let cause = Cause::NoAgent { wanted: name.to_string() };
                self.give_up(&record, cause, "its agent is not in the team any more").await?;
            }
        }
        for (name, seat) in self.0.seats.iter().filter(|(name, _)| agents.contains(*name)) {
            if seat.condition() != AgentState::CrashLoop {
                continue;
            }
            for record in self.all(waiting(name)).await?.into_iter().filter(in_time) {
                let detail = format!("{name} is in a crash loop: {}", seat.view().last_death.unwrap_or_default());
                let cause = Cause::Crash(Crash { how: Death::StartFailed, detail });
                // What a peer can take over never died of it, and nobody is woken.
                if !super::ceo::move_on(&self.0, &record, &cause).await? {
                    self.give_up(&record, cause, "its agent is in a crash loop").await?;
                }
            }
        }
        Ok(())
    }

    async fn give_up(&self, record: &Record, cause: Cause, why: &str) -> Result<(), engine::Error> {
        let scene = Scene::new(record.task.effect, self.0.now());
        let Judgement::Failed(failure) = classify(&cause, &scene) else { return Ok(()) };
        let circumstances = self.0.circumstances(&self.0.policy_of(record));
        self.say(record, Command::GiveUp { seen: Seen::of(record), failure, why: why.to_owned(), circumstances })
            .await?;
        self.0.ceo.hint(super::ceo::CeoMessage::Kick);
        Ok(())
    }

    /// A command the ledger may refuse because somebody was faster; that is no error.
    async fn say(&self, record: &Record, command: Command) -> Result<(), engine::Error> {
        match self.0.engine.command(record.task.id, command, self.0.now()).await {
            Ok(_) | Err(engine::Error::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every record that matches, page by page.
    async fn all(&self, filter: Filter) -> Result<Vec<Record>, engine::Error> {
        self.0.every(filter).await
    }

    /// Gives what is due to agents with free slots; when something is due next. What is moved to another agent meanwhile
    /// comes with a hint of its own.
    async fn hand_out(
        &self,
        stances: BTreeMap<Integration, Stance>,
        agents: &BTreeSet<AgentName>,
    ) -> Result<Option<Timestamp>, engine::Error> {
        let mut probes: BTreeMap<Integration, u32> = BTreeMap::new();
        let mut held: Vec<Integration> = Vec::new();
        for (integration, stance) in stances {
            match stance {
                Stance::Free => {}
                Stance::Held { .. } => held.push(integration),
                Stance::Probing { free } => match free.saturating_sub(self.0.guards.on_their_way(&integration)) {
                    0 => held.push(integration),
                    left => drop(probes.insert(integration, left)),
                },
            }
        }
        let now = self.0.now();
        let waited_for = || self.0.seats.iter().filter(|(name, _)| agents.contains(*name));
        if probes.is_empty() {
            let claims = waited_for().map(async |(name, seat)| {
                let (free, incarnation) = seat.free();
                (seat, self.claim((name, seat), incarnation, free, &held, now).await)
            });
            // One commit for all that is asked, in this order: what was claimed is due at the end of its lease.
            let (overdue, claims, due) = join3(self.overdue(now), join_all(claims), self.next_due(now)).await;
            let mut all_well = overdue;
            for (seat, claimed) in claims {
                match claimed {
                    Ok(claimed) => {
                        for record in claimed {
                            all_well = all_well.and(self.assign(seat, record).await);
                        }
                    }
                    Err(error) => all_well = all_well.and(Err(error)),
                }
            }
            return all_well.map(|()| due);
        }
        self.overdue(now).await?;
        for (name, seat) in waited_for() {
            let (mut free, incarnation) = seat.free();
            // One at a time, so that no more are than may go.
            while free > 0 {
                let Some(record) = self.claim((name, seat), incarnation, 1, &held, now).await?.pop() else { break };
                free -= 1;
                if let Some(left) = probes.get_mut(&record.integration) {
                    *left -= 1;
                    if *left == 0 {
                        held.push(record.integration.clone());
                    }
                }
                probes.retain(|_, left| *left > 0);
                self.assign(seat, record).await?;
            }
        }
        Ok(self.next_due(now).await)
    }

    async fn claim(
        &self,
        (name, seat): (&AgentName, &Seat),
        incarnation: Incarnation,
        slots: u32,
        held: &[Integration],
        now: Timestamp,
    ) -> Result<Vec<Record>, engine::Error> {
        if slots == 0 {
            return Ok(Vec::new());
        }
        let lease_for = self.lease_for(seat);
        let ask = LeaseAsk { agent: name.clone(), incarnation, slots, lease_for, except: held.to_vec() };
        self.0.engine.lease(ask, now).await
    }

    /// The longest of the agent's policies: a type with a longer one must not lapse for another's sake.
    fn lease_for(&self, seat: &Seat) -> Duration {
        let types = self.0.config.task_types.values().filter_map(|declared| declared.retry.as_ref());
        let types = types.chain(self.0.config.providers.values().filter_map(|provider| provider.retry.as_ref()));
        let own = seat.agent.retry.as_ref().unwrap_or(&self.0.config.retry).ack_wait;
        types.map(|policy| policy.ack_wait).fold(own, Duration::max)
    }

    async fn assign(&self, seat: &Seat, record: Record) -> Result<(), engine::Error> {
        seat.begin(record.task.id, record.fence);
        self.0.guards.coming(&record.integration, record.task.id, record.fence);
        let record = Arc::new(record);
        if seat.addr.tell(AgentMessage::Assign(Arc::clone(&record))) {
            self.0.crew.tell(super::crew::CrewMessage::Watch);
            return Ok(());
        }
        // The agent died between the look and the word: nothing was begun.
        seat.end(record.task.id, record.fence);
        self.0.guards.came(record.task.id, record.fence);
        let settlement = Settlement::Release { due: self.0.now(), why: Hold::Drain, failure: None };
        self.say(&record, Command::Lapse { fence: record.fence, settlement, spent: Spent::default() }).await
    }
}

/// Settles a delivery whose holder is gone.
pub(crate) async fn hand_back(office: &Office, record: &Record, cause: Cause) -> Result<(), engine::Error> {
    let scene = Scene::new(record.task.effect, office.now());
    let Judgement::Failed(failure) = classify(&cause, &scene) else { return Ok(()) };
    let settlement = attempt::decide(office, record, Outcome::Failed(failure), Some(&cause), None, false);
    // What cannot be read is looked at again, and refused, by whoever takes it up; here it only adds up what was used.
    let steps = readable(office.engine.steps(record.task.id).await)?.unwrap_or_default();
    let used = journal::tally(steps.iter().filter(|step| step.fence == record.fence));
    let spent = Spent {
        model: steps.iter().rev().find_map(|step| step.ask().map(|ask| ask.model.clone())),
        usage: used.usage,
        micro_usd: (used.unpriced == 0 && used.usage != Usage::default()).then_some(used.micro_usd),
        excerpt: None,
        cause: Some(Box::new(cause)),
    };
    match office
        .engine
        .command(record.task.id, Command::Lapse { fence: record.fence, settlement, spent }, office.now())
        .await
    {
        // It may be a dead letter now: at a start the CEO and the pager have looked before it was one.
        Ok(_) => office.kick(),
        Err(engine::Error::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    office.guards.came(record.task.id, record.fence);
    if let Some(seat) = office.seats.get(&record.agent) {
        seat.end(record.task.id, record.fence);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_belt_is_doubled_while_nothing_waits_or_runs_up_to_sixteen_minutes() {
        let mut idle = 0;
        let mut next = |standing: &Standing| belt(&mut idle, standing).as_secs();
        let nothing = Standing::default();
        let waits: Vec<u64> = (0..7).map(|_| next(&nothing)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 960, 960]);
        let waiting = BTreeSet::from([AgentName::new("cto").expect("a name")]);
        for standing in [Standing { waiting, running: false }, Standing { running: true, ..Standing::default() }] {
            assert_eq!([next(&standing), next(&standing), next(&nothing), next(&nothing)], [60, 60, 60, 120]);
        }
    }
}
