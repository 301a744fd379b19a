//! The fixed workload, in phases: each begins with a store of its own and ends with a SIGTERM.

use std::path::Path;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::called::Watch;
use crate::ledger::{AGAIN, BIG, Ledger, Ticket};
use crate::project::{Client, Gone, TOO_LONG};
use crate::verdict::unsettled;
use crate::world::World;

/// A stretch of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The first start in an empty directory, a little work, the end.
    Birth,
    /// Group commits, steps of a journal, tools, dead letters, decisions, an incident and its pages, a long wait.
    Work,
    /// A person discards, replays, acknowledges and resolves; a start on a store that is there.
    People,
    /// A start after a kill in the middle of work.
    Recovery,
    /// A store of format 1 is brought to ours.
    Format1,
    /// A store of format 2 is brought to ours.
    Format2,
    /// A store of format 3, with its journals, is brought to ours.
    Format3,
    /// So much is written that the log is copied into the file while work goes on.
    Checkpoint,
}

/// What a phase begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// Nothing: not even a directory.
    Empty,
    /// What the phase of work left, as it is or in an older format.
    Worked { format: Option<usize> },
    /// What a kill in the middle of the phase of work left.
    Killed,
}

impl Phase {
    pub(crate) const ALL: [Self; 8] = [
        Self::Birth,
        Self::Work,
        Self::People,
        Self::Recovery,
        Self::Format1,
        Self::Format2,
        Self::Format3,
        Self::Checkpoint,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::Work => "work",
            Self::People => "people",
            Self::Recovery => "recovery",
            Self::Format1 => "format-1",
            Self::Format2 => "format-2",
            Self::Format3 => "format-3",
            Self::Checkpoint => "checkpoint",
        }
    }

    pub(crate) const fn begins(self) -> Begins {
        match self {
            Self::Birth | Self::Work | Self::Checkpoint => Begins::Empty,
            Self::People => Begins::Worked { format: None },
            Self::Format1 => Begins::Worked { format: Some(1) },
            Self::Format2 => Begins::Worked { format: Some(2) },
            Self::Format3 => Begins::Worked { format: Some(3) },
            Self::Recovery => Begins::Killed,
        }
    }

    /// Every how many of its operations one is a point: the log takes thousands of writes that are all alike.
    pub(crate) const fn stride(self) -> u64 {
        match self {
            Self::Checkpoint => 401,
            Self::Birth
            | Self::Work
            | Self::People
            | Self::Recovery
            | Self::Format1
            | Self::Format2
            | Self::Format3 => 1,
        }
    }

    /// What is handed in.
    pub(crate) fn tickets(self) -> Vec<Ticket> {
        let reviews = |numbers: std::ops::RangeInclusive<u32>| numbers.map(Ticket::Review);
        match self {
            Self::Birth => reviews(1..=3).collect(),
            Self::Work => reviews(11..=18)
                .chain([Ticket::Later(1), Ticket::Order(1), Ticket::Order(2), Ticket::Charge(1), Ticket::Charge(2)])
                .chain((1..=3).map(Ticket::Fail))
                .collect(),
            Self::People => reviews(31..=32).collect(),
            Self::Recovery => Self::Work.tickets().into_iter().chain(reviews(41..=42)).collect(),
            Self::Format1 => reviews(51..=52).collect(),
            Self::Format2 => reviews(61..=62).collect(),
            Self::Format3 => reviews(71..=72).collect(),
            Self::Checkpoint => reviews(BIG..=BIG + 67).collect(),
        }
    }

    /// Plays it to its end against a process that is up. `Err(Gone)`: the process died of it.
    pub(crate) async fn play(self, client: &Client, ledger: &Ledger, world: &World) -> Result<Outcome<()>, Gone> {
        if self == Self::People
            && let Err(why) = people(client, ledger, world).await?
        {
            return Ok(Err(why));
        }
        for few in self.tickets().chunks(16) {
            if let Err(why) = ledger.submit_all(client, few).await? {
                return Ok(Err(why));
            }
        }
        settle(client, ledger, world).await
    }
}

/// Every ticket there is.
pub(crate) fn tickets() -> Vec<Ticket> {
    let mut all: Vec<Ticket> = Phase::ALL.into_iter().flat_map(Phase::tickets).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a person does about three dead letters and their incident.
async fn people(client: &Client, ledger: &Ledger, world: &World) -> Result<Outcome<()>, Gone> {
    let known = ledger.promises().tickets;
    let id = |ticket| known.get(&ticket).cloned().flatten().unwrap_or_default();
    world.mend();
    let said = json!({ "by": "ana", "reason": "sent by mistake" });
    let path = format!("/api/v1/dead-letters/{}/discard", id(Ticket::Fail(1)));
    match ledger.insist(client, &path, &said).await? {
        Ok(_) => ledger.note(|promises| promises.discarded.push(Ticket::Fail(1))),
        Err(why) => return Ok(Err(why)),
    }
    let all = json!({ "all": true, "by": "ana", "reason": "the model is well again" });
    match ledger.insist(client, "/api/v1/replays", &all).await? {
        Ok(said) => ledger.note(|promises| promises.replays.extend(said["id"].as_str().map(str::to_owned))),
        Err(why) => return Ok(Err(why)),
    }
    let (_, incidents) = client.get("/api/v1/incidents").await?;
    for incident in incidents["items"].as_array().into_iter().flatten() {
        let id = incident["id"].as_str().unwrap_or_default().to_owned();
        for verb in ["acknowledge", "resolve"] {
            let path = format!("/api/v1/incidents/{id}/{verb}");
            match ledger.insist(client, &path, &json!({ "by": "ana", "note": "looked" })).await? {
                Ok(_) if verb == "resolve" => ledger.note(|promises| promises.resolved.push(id.clone())),
                Ok(_) => {}
                // By now it has ended by itself, or by a request of which no answer came.
                Err(why) if why.contains(": 409 ") => {}
                Err(why) => return Ok(Err(why)),
            }
        }
    }
    Ok(Ok(()))
}

/// Waits until all that was handed in has come to an end, or to an hour's wait, and everybody who is to know has been told.
pub(crate) async fn settle(client: &Client, ledger: &Ledger, world: &World) -> Result<Outcome<()>, Gone> {
    let until = Instant::now() + TOO_LONG;
    let mut watch = Watch::default();
    loop {
        note_due(client, ledger).await?;
        let why = match unsettled(client, &mut watch, &world.books()).await? {
            None => {
                note_due(client, ledger).await?;
                return Ok(Ok(()));
            }
            Some(why) => why,
        };
        if Instant::now() > until {
            return Ok(Err(format!("it does not settle: {why}")));
        }
        sleep(AGAIN).await;
    }
}

/// When they are due that failed and wait for an hour, as soon as it is said: whatever is killed after that must not move it.
async fn note_due(client: &Client, ledger: &Ledger) -> Result<(), Gone> {
    let promises = ledger.promises();
    for (ticket, id) in &promises.tickets {
        let (Ticket::Later(_), Some(id)) = (ticket, id) else { continue };
        if promises.due.contains_key(ticket) {
            continue;
        }
        let (status, record) = client.get(&format!("/api/v1/tasks/{id}")).await?;
        if status == 200
            && record["state"] == "scheduled"
            && let Some(due) = record["due"].as_str()
        {
            ledger.note(|promises| drop(promises.due.insert(*ticket, due.to_owned())));
        }
    }
    Ok(())
}

/// Writes a store as an older version would have left it.
pub(crate) fn downgraded(from: &Path, to: &Path, format: usize) -> Outcome<()> {
    const FORMATS: [&str; 3] = [
        include_str!("../../src/engine/embedded/1.sql"),
        include_str!("../../src/engine/embedded/2.sql"),
        include_str!("../../src/engine/embedded/3.sql"),
    ];
    const TABLES: [&str; 9] =
        ["meta", "task", "body", "progress", "idempotency", "event", "letter", "death", "failure"];
    let write = || -> rusqlite::Result<()> {
        let old = rusqlite::Connection::open(to)?;
        old.execute_batch("PRAGMA journal_mode=WAL; PRAGMA application_id=0x42535450;")?;
        old.execute_batch(FORMATS[0])?;
        old.execute_batch("DELETE FROM meta")?;
        old.execute("ATTACH ?1 AS new", [from.display().to_string()])?;
        for table in TABLES.iter().chain(&["document"]) {
            old.execute_batch(&format!("INSERT INTO main.{table} SELECT * FROM new.{table}"))?;
        }
        for later in &FORMATS[1..format] {
            old.execute_batch(later)?;
        }
        if format > 2 {
            old.execute_batch("INSERT INTO main.step SELECT * FROM new.step")?;
        }
        old.execute_batch("DETACH new; DELETE FROM meta WHERE key NOT IN ('epoch', 'high_water')")?;
        old.pragma_update(None, "user_version", format)?;
        old.close().map_err(|(_, error)| error)
    };
    write().map_err(|error| format!("a store of format {format}: {error}"))
}
