//! Runs replays: releases dead letters at their rate, watches what becomes of them, stops when it does not help.
//!
//! A replay is a stored document; if this actor dies it goes on from there. What to release is written down before it
//! is released, so a crash between the two releases it late and never twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use super::drawer::{self, Stored};
use super::office::{Office, readable};
use super::outcome;
use crate::engine;
use crate::guard::Stance;
use crate::ledger::Command;
use crate::record::State;
use crate::replay::{self, Fate, Release, Replay, ReplayState, Taken, Turn, Verdict};
use crate::task::{AgentName, TaskId};
use crate::time::Timestamp;

/// What the replayer can be told.
pub(crate) enum ReplayerMessage {
    /// Something changed: look again.
    Kick,
    /// The next release is due.
    Due(u64),
}

/// The replayer.
pub(crate) struct Replayer(pub(crate) Arc<Office>);

/// Its one timer.
#[derive(Default)]
pub(crate) struct Timer {
    number: u64,
    armed: Option<AbortOnDropHandle<()>>,
}

impl Actor for Replayer {
    type Msg = ReplayerMessage;
    type State = Timer;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<ReplayerMessage>, (): ()) -> Result<Timer, ActorProcessingErr> {
        self.0.replayer.here(myself.clone());
        myself.cast(ReplayerMessage::Kick)?;
        Ok(Timer::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<ReplayerMessage>,
        message: ReplayerMessage,
        timer: &mut Timer,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReplayerMessage::Due(number) if number != timer.number => return Ok(()),
            ReplayerMessage::Kick => self.0.replayer.heard(),
            ReplayerMessage::Due(_) => {}
        }
        let next = self.look().await.unwrap_or_else(|error| {
            if matches!(error, engine::Error::Closed) {
                return None;
            }
            tracing::error!(error = &error as &dyn std::error::Error, "the replayer could not use the store");
            Some(self.0.now() + Duration::from_secs(1))
        });
        timer.number += 1;
        timer.armed = next.map(|due| {
            let (clock, myself, number) = (self.0.clock.clone(), myself.clone(), timer.number);
            AbortOnDropHandle::new(tokio::spawn(async move {
                clock.sleep_until(due).await;
                let _ = myself.cast(ReplayerMessage::Due(number));
            }))
        });
        Ok(())
    }
}

impl Replayer {
    async fn look(&self) -> Result<Option<Timestamp>, engine::Error> {
        if self.0.draining() {
            return Ok(None);
        }
        let mut next: Option<Timestamp> = None;
        for stored in self.0.kept::<Replay>().await?.iter() {
            if !matches!(stored.value.state, ReplayState::Running | ReplayState::Paused) {
                continue;
            }
            let due = self.advance(stored.clone()).await?;
            next = [next, due].into_iter().flatten().min();
        }
        Ok(next)
    }

    async fn advance(&self, stored: Stored<Replay>) -> Result<Option<Timestamp>, engine::Error> {
        let Stored { version, value: replay } = stored;
        let mut fates = Vec::new();
        let mut waiting: BTreeMap<AgentName, usize> = BTreeMap::new();
        for (task, generation) in &replay.released {
            let record = match readable(self.0.engine.record(*task).await)? {
                Some(Some(record)) => record,
                Some(None) => continue,
                // A person looks after what cannot be read; the replay does not wait for them.
                None => {
                    fates.push((*task, Fate::Dropped));
                    continue;
                }
            };
            let fate = replay::fate(&record, *generation);
            if fate == Fate::Unsent && replay.state == ReplayState::Running {
                let release = Release {
                    task: *task,
                    generation: *generation,
                    named_by_person: replay.ask.payments.contains(task),
                };
                self.release(&replay, release).await?;
            }
            // What waits for its backoff, or for an agent that is held, stands in nobody's way.
            if fate == Fate::Underway && record.state == State::Ready {
                *waiting.entry(record.agent).or_default() += 1;
            }
            fates.push((*task, fate));
        }
        let turn = match replay.turn() {
            Some(task) => Some(self.turn(&replay, task, &waiting).await?),
            None => None,
        };
        let stepped = replay::step(&replay, &fates, turn, self.0.now());
        if stepped.replay != replay {
            let documents = vec![drawer::document(&stepped.replay, version)];
            match self.0.engine.save(documents, stepped.events, self.0.now()).await {
                Ok(()) => {}
                // A person was faster (pause, cancel): look again with what they said.
                Err(engine::Error::DocumentConflict { .. }) => return Ok(Some(self.0.now())),
                Err(error) => return Err(error),
            }
        }
        if let Some(release) = stepped.release {
            self.release(&stepped.replay, release).await?;
        }
        Ok(stepped.look_at)
    }

    /// The letter whose turn it is; `waiting`: how many letters of this replay wait for each agent.
    async fn turn(
        &self,
        replay: &Replay,
        task: TaskId,
        waiting: &BTreeMap<AgentName, usize>,
    ) -> Result<Turn, engine::Error> {
        let Some(record) = readable(self.0.engine.record(task).await)?.flatten() else {
            return Ok(Turn { task, generation: 0, verdict: Verdict::Resolved, held: None });
        };
        let in_doubt = outcome::in_doubt(&self.0, std::slice::from_ref(&record)).await?;
        let taken = Taken { in_doubt, ..Taken::default() };
        let verdict = replay::verdict(&replay.ask, &record, self.0.capable(&record), &taken);
        let held = match self.0.guards.peek(&record.integration, self.0.now()) {
            Stance::Held { why, .. } => Some(format!("{} is held: {why}", record.integration)),
            Stance::Free | Stance::Probing { .. } => {
                replay::crowded(&record.agent, waiting.get(&record.agent).copied().unwrap_or_default())
            }
        };
        Ok(Turn { task, generation: record.generation, verdict, held })
    }

    async fn release(&self, replay: &Replay, release: Release) -> Result<(), engine::Error> {
        let command = Command::Replay {
            by: replay.id.clone(),
            named_by_person: release.named_by_person,
            reason: format!("{}: {}", replay.ask.by, replay.ask.reason),
            amendment: replay.ask.amendment.clone(),
        };
        match self.0.engine.command(release.task, command, self.0.now()).await {
            Ok(_) => self.0.kick(),
            // It moved on meanwhile; the next look finds out what became of it.
            Err(engine::Error::Refused(refused)) => {
                tracing::info!(task = %release.task, %refused, "a dead letter was not replayed")
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
