//! How many tasks of each agent stand in each state: counted in memory, stored with the change that moved them.
//!
//! The dispatcher and the CEO ask at every turn. Counting a million tasks for each answer took 60 ms; a group of
//! commits moves few counts, so only those are written, once a group.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::row;
use crate::record::State;
use crate::task::AgentName;

/// A count, and whether it has moved since it was stored.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    tasks: i64,
    moved: bool,
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Depths {
    agents: BTreeMap<AgentName, [Count; State::ALL.len()]>,
    moved: bool,
    /// They were counted anew, and replace all that is stored.
    anew: bool,
}

impl Depths {
    /// As they are stored; all counted anew where one of them cannot be read.
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Self> {
        let mut stored = Self::default();
        if stored.add(db, "SELECT agent, state, tasks FROM depth")? {
            return Ok(stored);
        }
        tracing::error!("a count of tasks cannot be read; they are counted anew");
        let mut counted = Self { anew: true, moved: true, ..Self::default() };
        // What is left out is told as a task that cannot be read when somebody comes across it.
        let _whole = counted.add(db, "SELECT agent, state, count(*) FROM task GROUP BY agent, state")?;
        Ok(counted)
    }

    /// Were these all of them?
    fn add(&mut self, db: &Connection, sql: &str) -> rusqlite::Result<bool> {
        let moved = self.anew;
        let mut found = db.prepare(sql)?;
        let mut rows = found.query([])?;
        let mut whole = true;
        while let Some(row) = rows.next()? {
            let count = |row| Ok((row::word::<AgentName>(row, 0)?, row::word::<State>(row, 1)?, row.get(2)?));
            match row::sound(count(row))? {
                Some((agent, state, tasks)) => {
                    self.agents.entry(agent).or_default()[state as usize] = Count { tasks, moved };
                }
                None => whole = false,
            }
        }
        Ok(whole)
    }

    /// One more stands there.
    pub(super) fn enter(&mut self, agent: &AgentName, state: State) {
        self.shift(agent, state, 1);
    }

    /// One less stands there.
    pub(super) fn leave(&mut self, agent: &AgentName, state: State) {
        self.shift(agent, state, -1);
    }

    fn shift(&mut self, agent: &AgentName, state: State, by: i64) {
        let counts = match self.agents.get_mut(agent) {
            Some(counts) => counts,
            None => self.agents.entry(agent.clone()).or_default(),
        };
        let count = &mut counts[state as usize];
        *count = Count { tasks: count.tasks.saturating_add(by), moved: true };
        self.moved = true;
    }

    /// Stores those that have moved.
    pub(super) fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if !self.moved {
            return Ok(());
        }
        self.moved = false;
        if std::mem::take(&mut self.anew) {
            db.execute("DELETE FROM depth", [])?;
        }
        let mut store = db
            .prepare_cached("INSERT INTO depth VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET tasks = excluded.tasks")?;
        for (agent, counts) in &mut self.agents {
            for (state, count) in State::ALL.iter().zip(counts).filter(|(_, count)| count.moved) {
                store.execute(params![agent.as_str(), state.as_str(), count.tasks])?;
                count.moved = false;
            }
        }
        Ok(())
    }
}
