//! The root of the team: starts everybody, restarts who dies, runs nobody's code but this.
//!
//! If the CEO cannot be kept alive, the root calls a human itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};

use super::ceo::Ceo;
use super::crew::{Crew, CrewMessage};
use super::dispatcher::Dispatcher;
use super::escalate;
use super::incident::{Pager, PagerMessage};
use super::office::Office;
use super::replayer::Replayer;
use crate::health::{AfterDeath, Health, RestartPolicy};
use crate::incident::Trigger;
use crate::time::Timestamp;

/// The parts of a team, in the order they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Calls humans.
    Incidents,
    /// Decides about dead letters.
    Ceo,
    /// Supervises the agents.
    Crew,
    /// Hands out work.
    Dispatcher,
    /// Runs replays.
    Replayer,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [Self::Incidents, Self::Ceo, Self::Crew, Self::Dispatcher, Self::Replayer];

    /// Its name in logs and incidents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incidents => "incident actor",
            Self::Ceo => "ceo",
            Self::Crew => "crew",
            Self::Dispatcher => "dispatcher",
            Self::Replayer => "replayer",
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Since when each part is up, and does its work as far as anybody can see. Begun anew with the process.
#[derive(Default)]
pub(crate) struct Well(Mutex<BTreeMap<Part, Timestamp>>);

impl Well {
    /// It was started.
    fn started(&self, part: Part, now: Timestamp) {
        self.parts().insert(part, now);
    }

    /// Nothing is against it: it is well, from now on if it was not.
    pub(crate) fn begin(&self, part: Part, now: Timestamp) {
        self.parts().entry(part).or_insert(now);
    }

    /// It died, or leaves its work lying.
    pub(crate) fn end(&self, part: Part) {
        self.parts().remove(&part);
    }

    /// Since when the part of this name is well; none while it is not.
    pub(crate) fn since(&self, name: &str) -> Option<Timestamp> {
        let part = Part::ALL.into_iter().find(|part| part.as_str() == name)?;
        self.parts().get(&part).copied()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the root can be told.
pub(crate) enum RootMessage {
    /// Start this part again.
    Start(Part),
    /// Kill this part, as a bug would: for drills.
    Crash(Part),
    /// Stop everybody, the agents first; the reply comes when all are gone.
    Stop(RpcReplyPort<()>),
}

/// The root.
pub(crate) struct Root(pub(crate) Arc<Office>);

/// Who is up.
#[derive(Default)]
pub(crate) struct Tree {
    up: BTreeMap<ActorId, Part>,
    cells: BTreeMap<Part, ActorCell>,
    health: BTreeMap<Part, Health>,
    crew: Option<ActorRef<CrewMessage>>,
    stopping: bool,
}

impl Actor for Root {
    type Msg = RootMessage;
    type State = Tree;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<RootMessage>, (): ()) -> Result<Tree, ActorProcessingErr> {
        let mut tree = Tree::default();
        for part in Part::ALL {
            tree.health.insert(part, Health::new(RestartPolicy::default()));
            self.start(&myself, &mut tree, part).await?;
        }
        Ok(tree)
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMessage>,
        message: RootMessage,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMessage::Start(part) => {
                if let Err(error) = self.start(&myself, tree, part).await {
                    self.died(&myself, tree, part, &error.to_string()).await;
                }
            }
            RootMessage::Crash(part) => {
                if let Some(cell) = tree.cells.get(&part) {
                    cell.kill();
                }
            }
            RootMessage::Stop(reply) => {
                tree.stopping = true;
                if let Some(crew) = &tree.crew {
                    // The crew answers when the last agent is gone; if it is gone itself, so are they.
                    let _ = crew.call(CrewMessage::Stop, None).await;
                }
                for cell in tree.cells.values() {
                    // One that does not end in time is ended with the process; it owns nothing.
                    let _ =
                        cell.stop_and_wait(Some("drained".to_owned()), Some(std::time::Duration::from_secs(1))).await;
                }
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMessage>,
        event: SupervisionEvent,
        tree: &mut Tree,
    ) -> Result<(), ActorProcessingErr> {
        let (who, detail) = match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _state, reason) => {
                (who, reason.unwrap_or_else(|| "it stopped".to_owned()))
            }
        };
        if let Some(part) = tree.up.remove(&who.get_id())
            && !tree.stopping
        {
            self.died(&myself, tree, part, &detail).await;
        }
        Ok(())
    }
}

impl Root {
    async fn start(&self, myself: &ActorRef<RootMessage>, tree: &mut Tree, part: Part) -> Result<(), SpawnErr> {
        let office = Arc::clone(&self.0);
        let root = myself.get_cell();
        let cell = match part {
            Part::Incidents => Pager::spawn_linked(None, Pager(office), (), root).await?.0.get_cell(),
            Part::Ceo => Ceo::spawn_linked(None, Ceo(office), (), root).await?.0.get_cell(),
            Part::Dispatcher => Dispatcher::spawn_linked(None, Dispatcher(office), (), root).await?.0.get_cell(),
            Part::Replayer => Replayer::spawn_linked(None, Replayer(office), (), root).await?.0.get_cell(),
            Part::Crew => {
                let crew = Crew::spawn_linked(None, Crew(office), (), root).await?.0;
                tree.crew = Some(crew.clone());
                crew.get_cell()
            }
        };
        tree.up.insert(cell.get_id(), part);
        tree.cells.insert(part, cell);
        if let Some(health) = tree.health.get_mut(&part) {
            health.started(self.0.now());
        }
        self.0.well.started(part, self.0.now());
        // Its incident may be over when it has been up for long enough.
        self.0.pager.hint(PagerMessage::Kick);
        Ok(())
    }

    async fn died(&self, myself: &ActorRef<RootMessage>, tree: &mut Tree, part: Part, detail: &str) {
        let detail = self.0.one_line(detail, 300);
        tracing::error!(%part, %detail, "a part of the team died; it is started again");
        self.0.well.end(part);
        let Some(health) = tree.health.get_mut(&part) else { return };
        let roll = self.0.dice.roll("restart", part.as_str(), u64::try_from(self.0.now().millis()).unwrap_or(0));
        let wait = match health.died(self.0.now(), &BTreeSet::new(), roll) {
            AfterDeath::Restart { after } => after,
            AfterDeath::CrashLoop { probe_at } => {
                self.call_a_human(part, &detail).await;
                self.0.now().until(probe_at)
            }
        };
        let (clock, myself) = (self.0.clock.clone(), myself.clone());
        tokio::spawn(async move {
            clock.sleep(wait).await;
            let _ = myself.cast(RootMessage::Start(part));
        });
    }

    /// Nobody would decide, or nobody would call: that itself is an incident. The page stays in the outbox if it is
    /// the incident actor that is down, so it is also said in the log.
    async fn call_a_human(&self, part: Part, detail: &str) {
        let why = format!("the team's {part} dies again and again: {detail}");
        tracing::error!("{why}");
        let open = super::drawer::all::<crate::incident::Incident>(&*self.0.engine).await;
        let known = open.is_ok_and(|open| {
            open.iter().any(|stored| {
                stored.value.is_open()
                    && stored.value.trigger == Trigger::CeoDown
                    && stored.value.subject == part.as_str()
            })
        });
        if known {
            return;
        }
        if let Err(error) = escalate::open_one(&self.0, Trigger::CeoDown, part.as_str(), Vec::new(), &why).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the incident could not be stored");
        }
        self.0.kick();
    }
}
