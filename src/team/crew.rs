//! The supervisor of the agents: starts each, restarts the dead with growing delays, and leaves alone what dies too often.
//!
//! Trivial on purpose: its own death kills every agent and so every paid call in flight. It awaits nothing long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

use super::agent::{AgentActor, AgentMessage};
use super::desk::AgentState;
use super::dispatcher::hand_back;
use super::office::Office;
use crate::agent::Incarnation;
use crate::cause::{Cause, Crash, Death};
use crate::event::Happening;
use crate::health::{AfterDeath, Health, RestartPolicy};
use crate::task::AgentName;

/// How often the calls of busy agents are looked after, and how long an agent may be deaf.
const ROUND: Duration = Duration::from_secs(15);
const DEAF: Duration = Duration::from_secs(5);

/// What the crew can be told.
pub(crate) enum CrewMessage {
    /// Start this agent (again).
    Start(AgentName),
    /// Somebody works: look after them until nobody does.
    Watch,
    /// Ask every agent that works whether it still hears.
    Round,
    /// This start of an agent did not answer.
    Deaf(AgentName, Incarnation),
    /// Stop everybody who has nothing left to do; the reply comes when all are gone.
    Stop(RpcReplyPort<()>),
}

/// The supervisor.
pub(crate) struct Crew(pub(crate) Arc<Office>);

/// Who is up.
pub(crate) struct Roster {
    up: BTreeMap<ActorId, (AgentName, Incarnation)>,
    cells: BTreeMap<AgentName, ActorCell>,
    health: BTreeMap<AgentName, Health>,
    deaf: Vec<(AgentName, Incarnation)>,
    watching: bool,
    stopping: Option<RpcReplyPort<()>>,
}

impl Actor for Crew {
    type Msg = CrewMessage;
    type State = Roster;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<CrewMessage>, (): ()) -> Result<Roster, ActorProcessingErr> {
        let policy = |name: &AgentName| match self.0.seats.get(name) {
            Some(seat) => RestartPolicy {
                max: seat.agent.restart.max,
                within: seat.agent.restart.within,
                ..RestartPolicy::default()
            },
            None => RestartPolicy::default(),
        };
        let health = |name: &AgentName| (name.clone(), Health::new(policy(name)));
        self.0.crew.here(myself.clone());
        for name in self.0.seats.keys() {
            // What the agents of a crew before this one held: they died with it.
            self.hand_back(name, None, Death::Killed, "its supervisor died").await;
            myself.cast(CrewMessage::Start(name.clone()))?;
        }
        Ok(Roster {
            up: BTreeMap::new(),
            cells: BTreeMap::new(),
            health: self.0.seats.keys().map(health).collect(),
            deaf: Vec::new(),
            watching: false,
            stopping: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<CrewMessage>,
        message: CrewMessage,
        roster: &mut Roster,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CrewMessage::Start(name) => self.start(&myself, roster, name).await,
            CrewMessage::Watch => self.watch(&myself, roster),
            CrewMessage::Round => self.round(&myself, roster),
            CrewMessage::Deaf(name, incarnation) => self.deaf(&myself, roster, name, incarnation).await,
            CrewMessage::Stop(reply) => {
                for cell in roster.cells.values() {
                    cell.stop(Some("drained".to_owned()));
                }
                if roster.up.is_empty() {
                    let _ = reply.send(());
                } else {
                    roster.stopping = Some(reply);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<CrewMessage>,
        event: SupervisionEvent,
        roster: &mut Roster,
    ) -> Result<(), ActorProcessingErr> {
        let (who, how, detail) = match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            SupervisionEvent::ActorFailed(who, error) => (who, Death::Panic, error.to_string()),
            // The state in the event is dropped here, at once: it holds the agent's calls.
            SupervisionEvent::ActorTerminated(who, _state, reason) => match reason.as_deref() {
                Some("killed") => (who, Death::Killed, "its actor was killed".to_owned()),
                Some("actor_task_cancelled") => (who, Death::Cancelled, "its actor was cancelled".to_owned()),
                Some(_) | None => {
                    self.gone(roster, who.get_id());
                    return Ok(());
                }
            },
        };
        if let Some((name, incarnation)) = self.gone(roster, who.get_id()) {
            self.died(&myself, roster, name, incarnation, how, detail).await;
        }
        Ok(())
    }
}

impl Crew {
    fn gone(&self, roster: &mut Roster, id: ActorId) -> Option<(AgentName, Incarnation)> {
        let found = roster.up.remove(&id);
        if roster.up.is_empty()
            && let Some(reply) = roster.stopping.take()
        {
            let _ = reply.send(());
        }
        found
    }

    async fn start(&self, myself: &ActorRef<CrewMessage>, roster: &mut Roster, name: AgentName) {
        let Some(seat) = self.0.seats.get(&name) else { return };
        if self.0.draining() || roster.up.values().any(|(other, _)| *other == name) {
            return;
        }
        // Counted at the seat, which outlives this supervisor: a number is never used twice in a process.
        let incarnation = Incarnation(seat.view().incarnation.0 + 1);
        let agent = AgentActor { office: Arc::clone(&self.0), seat: Arc::clone(seat) };
        match AgentActor::spawn_linked(None, agent, (), myself.get_cell()).await {
            Ok((actor, _)) => {
                roster.up.insert(actor.get_id(), (name.clone(), incarnation));
                roster.cells.insert(name.clone(), actor.get_cell());
                if let Some(health) = roster.health.get_mut(&name) {
                    health.started(self.0.now());
                }
                seat.up(incarnation, self.0.now());
                self.0.publish(vec![Happening::AgentStarted { agent: name, incarnation }.into()]).await;
                self.0.kick();
            }
            // A start that fails is a death, without a supervision event.
            Err(error) => self.died(myself, roster, name, incarnation, Death::StartFailed, error.to_string()).await,
        }
    }

    async fn died(
        &self,
        myself: &ActorRef<CrewMessage>,
        roster: &mut Roster,
        name: AgentName,
        incarnation: Incarnation,
        how: Death,
        detail: String,
    ) {
        let now = self.0.now();
        let (Some(seat), Some(health)) = (self.0.seats.get(&name), roster.health.get_mut(&name)) else { return };
        roster.cells.remove(&name);
        let roll = self.0.dice.roll("restart", name.as_str(), incarnation.0);
        let restart = health.died(now, &seat.view().killers, roll);
        let deaths = health.in_a_row();
        let detail = self.0.one_line(&detail, 300);
        let (condition, wait) = match restart {
            AfterDeath::Restart { after } => (AgentState::Restarting, after),
            AfterDeath::CrashLoop { probe_at } => (AgentState::CrashLoop, now.until(probe_at)),
        };
        let newly_looping = condition == AgentState::CrashLoop && seat.condition() != AgentState::CrashLoop;
        seat.down(condition, deaths, format!("{how}: {detail}"), now);
        let mut events = vec![
            Happening::AgentDied {
                agent: name.clone(),
                incarnation,
                how: how.to_string(),
                detail: detail.clone(),
                restart_in: wait,
            }
            .into(),
        ];
        if newly_looping {
            events.push(Happening::CrashLoop { agent: name.clone(), deaths }.into());
        }
        self.0.publish(events).await;
        self.hand_back(&name, Some(incarnation), how, &detail).await;
        self.again(myself, wait, CrewMessage::Start(name));
        self.0.kick();
    }

    /// What it held goes back at once; without this notice it would at the end of its lease.
    async fn hand_back(&self, name: &AgentName, incarnation: Option<Incarnation>, how: Death, detail: &str) {
        let held = match self.0.engine.held_by(name.clone(), incarnation).await {
            Ok(held) => held,
            Err(error) => {
                tracing::error!(agent = %name, error = &error as &dyn std::error::Error, "what a dead agent held could not be read; its leases will lapse");
                return;
            }
        };
        let epoch = self.0.engine.epoch();
        // Those of an earlier run of the process are the dispatcher's to bury.
        for record in held.into_iter().filter(|record| record.lease.as_ref().is_some_and(|lease| lease.epoch == epoch))
        {
            let cause = Cause::Crash(Crash { how, detail: detail.to_owned() });
            if let Err(error) = hand_back(&self.0, &record, cause).await {
                tracing::error!(task = %record.task.id, error = &error as &dyn std::error::Error, "a dead agent's delivery could not be handed back; its lease will lapse");
            }
        }
    }

    fn watch(&self, myself: &ActorRef<CrewMessage>, roster: &mut Roster) {
        if !std::mem::replace(&mut roster.watching, true) {
            self.again(myself, ROUND, CrewMessage::Round);
        }
    }

    /// Only while somebody works: an idle team has nothing to be watched for, and no timer runs.
    fn round(&self, myself: &ActorRef<CrewMessage>, roster: &mut Roster) {
        let mut busy = false;
        let mut asked = Vec::new();
        for (name, incarnation) in roster.up.values() {
            let Some(seat) = self.0.seats.get(name).filter(|seat| seat.works()) else { continue };
            busy = true;
            let Some(agent) = seat.addr.get() else { continue };
            let (myself, name, incarnation) = (myself.clone(), name.clone(), *incarnation);
            asked.push(async move {
                let heard = agent.call(AgentMessage::Health, Some(DEAF)).await;
                if !matches!(heard, Ok(ractor::rpc::CallResult::Success(_))) {
                    let _ = myself.cast(CrewMessage::Deaf(name, incarnation));
                }
            });
        }
        // Not awaited here: a supervisor that waits is deaf to deaths.
        tokio::spawn(futures_util::future::join_all(asked));
        roster.watching = false;
        if busy {
            self.watch(myself, roster);
        }
    }

    /// Deaf once: killed. Still there at the next round: its thread is stuck; a new start works beside it, and the
    /// fence keeps the old one from doing harm.
    async fn deaf(
        &self,
        myself: &ActorRef<CrewMessage>,
        roster: &mut Roster,
        name: AgentName,
        incarnation: Incarnation,
    ) {
        let Some((id, _)) = roster.up.iter().find(|(_, up)| **up == (name.clone(), incarnation)) else { return };
        let id = *id;
        if let Some(seat) = self.0.seats.get(&name) {
            seat.down(AgentState::Wedged, seat.view().deaths, "it does not answer".to_owned(), self.0.now());
        }
        if !roster.deaf.contains(&(name.clone(), incarnation)) {
            tracing::warn!(agent = %name, "the agent does not answer; it is killed");
            if let Some(cell) = roster.cells.get(&name) {
                cell.kill();
            }
            roster.deaf.push((name.clone(), incarnation));
            self.again(myself, 2 * DEAF, CrewMessage::Deaf(name, incarnation));
            return;
        }
        roster.up.remove(&id);
        tracing::error!(agent = %name, "the agent is stuck in a blocking call; a new one is started beside it");
        self.died(myself, roster, name, incarnation, Death::Wedged, "stuck in a blocking call".to_owned()).await;
    }

    fn again(&self, myself: &ActorRef<CrewMessage>, after: Duration, message: CrewMessage) {
        let (clock, myself) = (self.0.clock.clone(), myself.clone());
        tokio::spawn(async move {
            clock.sleep(after).await;
            // A crew that is gone starts nobody.
            let _ = myself.cast(message);
        });
    }
}
