//! The clients: they hand in mixed work until it is acknowledged, read, and act on pages; and the ledger of what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use super::TEAM;
use super::dice::Dice;
use super::outside::{Outside, Paged};
use crate::Outcome;
use crate::project::Client;

/// What kind of work a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads, and answers.
    Review,
    /// Has a schema; one in five is wrong at first.
    Extract,
    /// Has a schema, and is never met.
    Fail,
    /// Notifies somebody, by a tool.
    Tell,
    /// Changes something, by a tool.
    Order,
    /// Takes money, by a tool.
    Charge,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Review, Self::Extract, Self::Fail, Self::Tell, Self::Order, Self::Charge];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Review => "review",
            Self::Extract => "extract",
            Self::Fail => "fail",
            Self::Tell => "tell",
            Self::Order => "order",
            Self::Charge => "charge",
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        match dice.between(0, 99) {
            0..=39 => Self::Review,
            40..=57 => Self::Extract,
            58..=60 => Self::Fail,
            61..=72 => Self::Tell,
            73..=86 => Self::Order,
            _ => Self::Charge,
        }
    }
}

/// The kind of a ticket, by its name.
pub(super) fn kind_of(name: &str) -> Option<Kind> {
    let (word, _) = name.split_once('-')?;
    Kind::ALL.into_iter().find(|kind| kind.word() == word)
}

/// What was promised to clients and seen by them.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    /// Tickets that were handed in, and the task each was acknowledged as; none when no answer came.
    pub(super) tickets: BTreeMap<String, Option<String>>,
    /// What no client should ever see.
    pub(super) wrong: Vec<String>,
    /// Incidents whose end a person was acknowledged.
    pub(super) resolved: Vec<String>,
    /// Refusals, by status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// How often nobody answered.
    pub(super) gone: u64,
}

/// Clients and their ledger.
#[derive(Clone)]
pub(super) struct Load {
    promises: Arc<Mutex<Promises>>,
    team: watch::Receiver<Option<Client>>,
    stop: Arc<AtomicBool>,
    number: Arc<AtomicU64>,
    /// No client waits longer than this.
    until: Instant,
}

/// Between two tries of a client that was refused or not heard.
const AGAIN: Duration = Duration::from_millis(100);
/// Clients that wait for an acknowledgement at once.
const CLIENTS: usize = 64;

impl Load {
    pub(super) fn new(team: watch::Receiver<Option<Client>>, until: Instant) -> Self {
        Self { promises: Arc::default(), team, stop: Arc::default(), number: Arc::default(), until }
    }

    pub(super) fn promises(&self) -> Promises {
        self.with(|promises| promises.clone())
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Promises) -> T) -> T {
        change(&mut self.promises.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nothing new is handed in; what was is insisted on.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() > self.until
    }

    fn team(&self) -> Option<Client> {
        self.team.borrow().clone()
    }

    /// Hands a ticket in and insists, over however many deaths, until it is acknowledged.
    pub(super) async fn submit(&self, kind: Kind) -> Outcome<String> {
        let name = format!("{}-{:06}", kind.word(), self.number.fetch_add(1, Ordering::Relaxed));
        self.with(|promises| drop(promises.tickets.insert(name.clone(), None)));
        let body = json!({
            "type": kind.word(), "idempotency_key": name, "payload": { "about": format!("ticket {name}.") },
        });
        while Instant::now() < self.until {
            let Some(client) = self.team() else {
                sleep(AGAIN).await;
                continue;
            };
            match client.post("/api/v1/tasks", &body).await {
                Ok((200..300, said)) => {
                    let id =
                        said["record"]["task"]["id"].as_str().ok_or_else(|| format!("no id in {said}"))?.to_owned();
                    self.with(|promises| drop(promises.tickets.insert(name.clone(), Some(id))));
                    return Ok(name);
                }
                Ok((status @ (429 | 500..), _)) => {
                    self.with(|promises| *promises.refused.entry(status).or_default() += 1);
                }
                Ok((status, said)) => {
                    let why = format!("{name} was refused: {status} {said}");
                    self.with(|promises| promises.wrong.push(why.clone()));
                    return Err(why);
                }
                Err(_) => self.with(|promises| promises.gone += 1),
            }
            sleep(AGAIN).await;
        }
        Err(format!("{name} was never acknowledged"))
    }

    /// Hands in so many a second, of all kinds, until told to stop; then waits for the last acknowledgement.
    pub(super) async fn hand_in(self, rate: u64, seed: u64) {
        let mut dice = Dice::new(seed ^ 0x10ad);
        let clients = Arc::new(Semaphore::new(CLIENTS));
        let mut at_work = tokio::task::JoinSet::new();
        let mut beat = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopped() {
            beat.tick().await;
            let kind = Kind::draw(&mut dice);
            let turn = Arc::clone(&clients).acquire_owned().await.expect("never closed");
            let load = self.clone();
            at_work.spawn(async move {
                let _turn = turn;
                // What went wrong is in the ledger: a ticket without an id, or a word of refusal.
                let _told = load.submit(kind).await;
            });
            while at_work.try_join_next().is_some() {}
        }
        while at_work.join_next().await.is_some() {}
    }

    /// Reads what anybody may read at any time; what was acknowledged is always there, and nothing is lost.
    pub(super) async fn read(self, seed: u64) {
        let mut dice = Dice::new(seed ^ 0x4ead);
        while !self.stopped() {
            sleep(Duration::from_millis(150)).await;
            let Some(client) = self.team() else { continue };
            let known: Option<(String, String)> = self.with(|promises| {
                let nth = usize::try_from(dice.between(0, promises.tickets.len() as u64)).ok()?;
                let (name, id) = promises.tickets.iter().nth(nth)?;
                Some((name.clone(), id.clone()?))
            });
            if let Some((name, id)) = known
                && let Ok((404, said)) = client.get(&format!("/api/v1/tasks/{id}")).await
            {
                self.with(|promises| promises.wrong.push(format!("LOST: {name} was acknowledged as {id}: {said}")));
            }
            if let Ok((200, balance)) = client.get("/api/v1/balance").await
                && balance["lost"].as_u64() != Some(0)
            {
                self.with(|promises| promises.wrong.push(format!("LOST: {balance}")));
            }
            for path in ["/api/v1/tasks?limit=20", "/api/v1/dead-letters?limit=20", "/livez"] {
                // Nobody answers while it is dead.
                let _seen = client.get(path).await;
            }
        }
    }

    /// Somebody on call: two seconds after a page they look at its incident, discard what nobody can do, and resolve it.
    /// What nobody paged them about they do not know of.
    pub(super) async fn answer_pages(self, outside: Arc<Outside>) {
        while !self.stopped() {
            sleep(Duration::from_secs(1)).await;
            let Some(client) = self.team() else { continue };
            let paged: BTreeSet<String> = outside.look(|books| {
                let old = |page: &&Paged| page.action == "trigger" && page.at.elapsed().as_secs() >= 2;
                books.pages.iter().filter(old).map(|page| page.key.clone()).collect()
            });
            let Ok((200, incidents)) = client.get("/api/v1/incidents").await else { continue };
            for incident in incidents["items"].as_array().into_iter().flatten() {
                let id = incident["id"].as_str().unwrap_or_default();
                if incident["state"] != "resolved" && paged.contains(&format!("backstop/{TEAM}/{id}")) {
                    self.resolve(&client, id).await;
                }
            }
        }
    }

    /// What is refused, or not answered, is done the next time.
    async fn resolve(&self, client: &Client, id: &str) {
        let Ok((200, letters)) = client.get("/api/v1/tasks?states=waiting-human&limit=200").await else { return };
        for letter in letters["items"].as_array().into_iter().flatten() {
            let task = letter["task"]["id"].as_str().unwrap_or_default();
            let said = json!({ "by": "ana", "reason": "nobody can do it" });
            let _next_time = client.post(&format!("/api/v1/dead-letters/{task}/discard"), &said).await;
        }
        let said = json!({ "by": "ana", "note": "looked" });
        let _next_time = client.post(&format!("/api/v1/incidents/{id}/acknowledge"), &said).await;
        if let Ok((200..300, _)) = client.post(&format!("/api/v1/incidents/{id}/resolve"), &said).await {
            self.with(|promises| promises.resolved.push(id.to_owned()));
        }
    }
}
