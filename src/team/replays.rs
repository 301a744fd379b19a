//! Replays as an operator asks for them; the replayer carries them out.

use std::collections::BTreeSet;

use super::desk::{Desk, DeskError};
use super::drawer::{self, Written};
use super::outcome;
use crate::bygone;
use crate::engine;
use crate::query::PageAsk;
use crate::replay::{self, Plan, Replay, ReplayAsk, ReplayCommand, ReplayRefused, ReplayState, Taken};
use crate::task::TaskId;

impl Desk {
    /// What a replay would do; changes nothing.
    ///
    /// # Errors
    /// When the ask is not sound.
    pub async fn plan_replay(&self, ask: &ReplayAsk) -> Result<Plan, DeskError> {
        replay::check(ask).map_err(not_replayed)?;
        let busy = self
            .replays()
            .await?
            .into_iter()
            .filter(|replay| matches!(replay.state, ReplayState::Running | ReplayState::Paused));
        let busy: BTreeSet<TaskId> = busy
            .flat_map(|replay| replay.pending.into_iter().chain(replay.released.into_iter().map(|(task, _)| task)))
            .collect();
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        let mut page = PageAsk { after: None, limit: 1000, oldest_first: true };
        loop {
            let found = self.office.engine.dead_letters(ask.filter.clone(), page.clone()).await?;
            records.extend(found.items);
            unreadable.extend(found.unreadable);
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let in_doubt = outcome::in_doubt(&self.office, &records).await?;
        let plan = replay::plan(ask, &records, &|record| self.office.capable(record), &Taken { busy, in_doubt });
        Ok(Plan { unreadable, ..plan })
    }

    /// Starts a replay.
    ///
    /// # Errors
    /// When the ask is not sound.
    pub async fn start_replay(&self, ask: ReplayAsk) -> Result<Replay, DeskError> {
        let mut taken = 0;
        loop {
            // Before the plan: a replay that is stored behind the back of the plan has the number then.
            let names = drawer::names::<Replay>(self.engine()).await?;
            let plan = self.plan_replay(&ask).await?;
            let number = bygone::last(bygone::REPLAY, &names).max(taken) + 1;
            let name = format!("{}{number}", bygone::REPLAY);
            let (replay, events) = replay::start(name, ask.clone(), plan, self.now()).map_err(not_replayed)?;
            match self.office.engine.save(vec![drawer::document(&replay, 0)], events, self.now()).await {
                Ok(()) => {
                    self.office.kick();
                    return Ok(replay);
                }
                // Another replay took the number: plan anew, for it may have taken letters too.
                Err(engine::Error::DocumentConflict { .. }) => taken = number,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Every replay, newest first.
    ///
    /// # Errors
    /// The engine's.
    pub async fn replays(&self) -> Result<Vec<Replay>, DeskError> {
        let stored = drawer::all::<Replay>(self.engine()).await?;
        let mut replays: Vec<Replay> = stored.into_iter().map(|stored| stored.value).collect();
        replays.sort_by(|one, other| other.started_at.cmp(&one.started_at).then_with(|| other.id.cmp(&one.id)));
        Ok(replays)
    }

    async fn order(&self, id: &str, command: ReplayCommand, by: &str) -> Result<Replay, DeskError> {
        let now = self.now();
        let changed = drawer::change(self.engine(), id, now, |replay: &Replay| {
            let (value, events) = replay::command(replay, command, by, now).map_err(not_replayed)?;
            Ok::<_, DeskError>(Written { value, with: Vec::new(), events })
        })
        .await?;
        self.office.kick();
        changed.ok_or_else(|| DeskError::NotFound { what: "replay", name: id.to_owned() })
    }

    /// Holds a running replay.
    ///
    /// # Errors
    /// When there is none, or it is not running.
    pub async fn pause_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Pause, by).await
    }

    /// Lets a paused replay go on.
    ///
    /// # Errors
    /// When there is none, or it is not paused.
    pub async fn resume_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Resume, by).await
    }

    /// Ends a replay; what was not released stays in the queue.
    ///
    /// # Errors
    /// When there is none, or it has ended.
    pub async fn cancel_replay(&self, id: &str, by: &str) -> Result<Replay, DeskError> {
        self.order(id, ReplayCommand::Cancel, by).await
    }
}

fn not_replayed(refused: ReplayRefused) -> DeskError {
    DeskError::Policy(refused.to_string())
}
