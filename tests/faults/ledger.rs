//! What the clients were promised, kept outside of the process: who holds a 2xx must find it kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::project::{Client, Gone, TOO_LONG};

/// Between two tries of a client that was refused, and two looks at something that is awaited.
pub(crate) const AGAIN: Duration = Duration::from_millis(10);

/// A piece of work, by its kind and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ticket {
    /// Is answered at once.
    Review(u32),
    /// Fails for as long as the world is broken, twice at most; a dead letter then.
    Fail(u32),
    /// Fails, and is due again in an hour.
    Later(u32),
    /// Tells the shop something, once.
    Order(u32),
    /// Takes money, once.
    Charge(u32),
}

impl Ticket {
    pub(crate) const fn task_type(self) -> &'static str {
        match self {
            Self::Review(_) => "review",
            Self::Fail(_) => "fail",
            Self::Later(_) => "later",
            Self::Order(_) => "order",
            Self::Charge(_) => "charge",
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Review(n) | Self::Fail(n) | Self::Later(n) | Self::Order(n) | Self::Charge(n) => n,
        }
    }

    /// Its name, and the idempotency key it is handed in with.
    pub(crate) fn name(self) -> String {
        format!("{}-{:04}", self.task_type(), self.number())
    }

    /// What its prompt holds, and no other's.
    pub(crate) fn words(self) -> String {
        format!("ticket {}.", self.name())
    }

    /// How large its payload is made, in bytes: the last hundred reviews fill the log.
    fn ballast(self) -> usize {
        match self {
            Self::Review(n) if n >= BIG => 256 * 1024,
            Self::Review(_) | Self::Fail(_) | Self::Later(_) | Self::Order(_) | Self::Charge(_) => 64,
        }
    }
}

/// Reviews from this number on are large.
pub(crate) const BIG: u32 = 9_000;

/// What was promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    /// Tickets that were handed in, and the task each was acknowledged as; none when no answer came.
    pub(crate) tickets: BTreeMap<Ticket, Option<String>>,
    /// When tasks that wait were seen to be due, as their record said.
    pub(crate) due: BTreeMap<Ticket, String>,
    /// Dead letters a person's decision was acknowledged for.
    pub(crate) discarded: Vec<Ticket>,
    /// Replays that were acknowledged.
    pub(crate) replays: Vec<String>,
    /// Incidents whose end was acknowledged.
    pub(crate) resolved: Vec<String>,
}

/// The ledger, shared by all clients of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    promises: Arc<Mutex<Promises>>,
    refusals: Arc<Mutex<Vec<(u16, Value)>>>,
}

impl Ledger {
    pub(crate) fn new(promises: Promises) -> Self {
        Self { promises: Arc::new(Mutex::new(promises)), refusals: Arc::default() }
    }

    pub(crate) fn promises(&self) -> Promises {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut Promises)) {
        change(&mut self.promises.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Every refusal a client got: its status, and its words.
    pub(crate) fn refusals(&self) -> Vec<(u16, Value)> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until it is granted; a refusal of the store is waited out, for as long as anybody would.
    pub(crate) async fn insist(&self, client: &Client, path: &str, body: &Value) -> Result<Outcome<Value>, Gone> {
        let until = Instant::now() + TOO_LONG;
        loop {
            let (status, said) = client.post(path, body).await?;
            match status {
                200..300 => return Ok(Ok(said)),
                // Somebody else changed it in the same moment.
                409 if said["type"].as_str().is_some_and(|kind| kind.ends_with("/changed-meanwhile")) => {
                    sleep(AGAIN).await
                }
                500.. if Instant::now() < until => {
                    self.refusals.lock().unwrap_or_else(PoisonError::into_inner).push((status, said));
                    sleep(AGAIN).await;
                }
                _ => return Ok(Err(format!("POST {path}: {status} {said}"))),
            }
        }
    }

    /// Hands in a ticket, and insists.
    pub(crate) async fn submit(&self, client: &Client, ticket: Ticket) -> Result<Outcome<()>, Gone> {
        self.note(|promises| {
            promises.tickets.entry(ticket).or_default();
        });
        let answer = self.insist(client, "/api/v1/tasks", &asked(ticket)).await?;
        Ok(answer.and_then(|said| {
            let id = said["record"]["task"]["id"].as_str().ok_or_else(|| format!("no id in {said}"))?.to_owned();
            self.note(|promises| drop(promises.tickets.insert(ticket, Some(id))));
            Ok(())
        }))
    }

    /// Hands in many at once.
    pub(crate) async fn submit_all(&self, client: &Client, tickets: &[Ticket]) -> Result<Outcome<()>, Gone> {
        let answers = futures_util::future::join_all(tickets.iter().map(|ticket| self.submit(client, *ticket))).await;
        for answer in answers {
            if let Err(why) = answer? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }
}

/// The request that hands in a ticket.
pub(crate) fn asked(ticket: Ticket) -> Value {
    json!({
        "type": ticket.task_type(),
        "idempotency_key": ticket.name(),
        "payload": { "ballast": "x".repeat(ticket.ballast()), "about": ticket.words() },
    })
}
