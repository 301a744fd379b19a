//! The incident actor: calls humans, and keeps calling until somebody answers.
//!
//! Pages lie in the engine's outbox before they are sent and until they are delivered; if the process dies they are sent
//! when it is back, at worst twice under the same dedup key. It needs nothing but the disk and the network.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use super::alarm;
use super::drawer::{self, Stored};
use super::escalate;
use super::office::Office;
use crate::engine;
use crate::incident::{Incident, Page, PageAction};
use crate::outbox::{self, Tried, tried};
use crate::pager::{self, Channel};
use crate::time::Timestamp;

/// What the incident actor can be told.
pub(crate) enum PagerMessage {
    /// Something changed: look again.
    Kick,
    /// The nearest due time has come.
    Due(u64),
}

/// The pages under way, by name. Whoever sends one holds it there, also when the incident actor has died meanwhile: the
/// next one sends nothing beside it.
pub(crate) struct UnderWay {
    /// When this process began: see [`outbox::may_have_gone`].
    pub(super) began: Timestamp,
    names: Mutex<BTreeSet<String>>,
}

impl UnderWay {
    pub(crate) fn since(began: Timestamp) -> Self {
        Self { began, names: Mutex::default() }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is a page of this incident on its way, or what came of it not written down yet?
    pub(super) fn holds(&self, incident: &str) -> bool {
        self.names().iter().any(|page| page.strip_prefix(incident).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The same, through this channel.
    pub(super) fn holds_through(&self, incident: &str, channel: &str) -> bool {
        let through = |rest: &str| rest.split_once('.').is_some_and(|(_, through)| through == channel);
        let names = self.names();
        let mut of = names.iter().filter_map(|page| page.strip_prefix(incident)?.strip_prefix('.'));
        of.any(through)
    }
}

/// A page that is being sent; dropped, it is under way no more, and the incident actor looks again.
struct Sending {
    office: Arc<Office>,
    page: String,
}

impl Sending {
    fn begin(office: &Arc<Office>, page: &str) -> Self {
        office.under_way.names().insert(page.to_owned());
        Self { office: Arc::clone(office), page: page.to_owned() }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.office.under_way.names().remove(&self.page);
        self.office.pager.hint(PagerMessage::Kick);
    }
}

/// How long a channel may take in all; each has a shorter timer of its own.
const CHANNEL_PATIENCE: Duration = Duration::from_secs(60);

/// For the whole life of a process: what it knows of a page dies with it.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(365 * 86_400);

/// The incident actor.
pub(crate) struct Pager(pub(crate) Arc<Office>);

/// The timer that is armed, by its number: an older one says nothing any more.
pub(crate) struct Timer {
    number: u64,
    armed: Option<AbortOnDropHandle<()>>,
    /// Wakes the actor when writes fail, and when they are taken again.
    _follower: AbortOnDropHandle<()>,
}

impl Actor for Pager {
    type Msg = PagerMessage;
    type State = Timer;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<PagerMessage>, (): ()) -> Result<Timer, ActorProcessingErr> {
        self.0.pager.here(myself.clone());
        // Before the first look: what becomes otherwise meanwhile is looked at again.
        let follower = AbortOnDropHandle::new(tokio::spawn(follow_writes(&self.0)));
        myself.cast(PagerMessage::Kick)?;
        Ok(Timer { number: 0, armed: None, _follower: follower })
    }

    async fn handle(
        &self,
        myself: ActorRef<PagerMessage>,
        message: PagerMessage,
        timer: &mut Timer,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PagerMessage::Due(number) if number != timer.number => return Ok(()),
            PagerMessage::Kick => self.0.pager.heard(),
            PagerMessage::Due(_) => {}
        }
        match self.look().await {
            Ok(next) => self.arm(&myself, timer, next),
            Err(engine::Error::Closed) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the incident actor could not use the store");
                self.arm(&myself, timer, Some(self.0.now() + Duration::from_secs(1)));
            }
        }
        Ok(())
    }
}

impl Pager {
    fn arm(&self, myself: &ActorRef<PagerMessage>, timer: &mut Timer, due: Option<Timestamp>) {
        timer.number += 1;
        timer.armed = due.map(|due| {
            let (clock, myself, number) = (self.0.clock.clone(), myself.clone(), timer.number);
            AbortOnDropHandle::new(tokio::spawn(async move {
                clock.sleep_until(due).await;
                let _ = myself.cast(PagerMessage::Due(number));
            }))
        });
    }

    async fn look(&self) -> Result<Option<Timestamp>, engine::Error> {
        // First, for whatever is stored below fails with the store.
        let (past_the_outbox, alarm) = alarm::look(&self.0).await;
        past_the_outbox.into_iter().for_each(|page| self.send(Stored { version: 0, value: page }));
        // What cannot be written now holds up no page that is written.
        let brought_up = escalate::look(&self.0).await;
        let sent = self.send_due().await;
        Ok(brought_up?.into_iter().chain(sent?).chain(alarm).min())
    }

    /// Sends what is due; when the next is.
    async fn send_due(&self) -> Result<Option<Timestamp>, engine::Error> {
        // In this order. Of an incident that is over the pages that are read then hold the end; and a page that is sent
        // meanwhile is looked at again, and not taken for one that is not sent.
        let incidents = self.0.kept::<Incident>().await?;
        let mut sending = self.0.under_way.names().clone();
        let pages = self.0.kept::<Page>().await?;
        if pages.is_empty() {
            return Ok(None);
        }
        let (mut pages, written) = self.keep_up(&incidents, pages.to_vec(), &sending).await;
        let now = self.0.now();
        let mut next = self.next_stand_in(&incidents, &pages, now);
        // Of those that are due now, as they were written.
        pages.sort_by_key(|page| page.value.incident.messages);
        for page in &pages {
            if page.value.delivered_at.is_some() || page.value.abandoned || sending.contains(&page.value.id) {
                continue;
            }
            if page.value.due > now {
                next = Some(next.map_or(page.value.due, |next| next.min(page.value.due)));
                continue;
            }
            // It is looked at again when the other has been sent.
            if outbox::stands_back(&page.value, pages.iter().map(|other| &other.value), &sending) {
                continue;
            }
            sending.insert(page.value.id.clone());
            self.send(page.clone());
        }
        written.map(|()| next)
    }

    /// When somebody else is called next, if nobody takes a call until then.
    fn next_stand_in(
        &self,
        incidents: &[Stored<Incident>],
        pages: &[Stored<Page>],
        now: Timestamp,
    ) -> Option<Timestamp> {
        let steps = escalate::steps(&self.0);
        let open = incidents.iter().filter(|incident| incident.value.is_open());
        let next = open.filter_map(|incident| {
            let of = pages.iter().filter(|page| page.value.incident.id == incident.value.id);
            let outbox: Vec<Page> = of.map(|page| page.value.clone()).collect();
            outbox::next_stand_in(&outbox, &steps, now)
        });
        next.min()
    }

    /// Where a step's channels do not take a call, the others stand in, and are told of the end; and what was delivered for
    /// an incident that is over leaves the outbox. The outbox as it is then, and whether that could be written: if not, it
    /// holds nothing new, and what was overtaken is not sent all the same.
    async fn keep_up(
        &self,
        incidents: &[Stored<Incident>],
        pages: Vec<Stored<Page>>,
        sending: &BTreeSet<String>,
    ) -> (Vec<Stored<Page>>, Result<(), engine::Error>) {
        let over: BTreeSet<&str> = incidents
            .iter()
            .filter(|incident| !incident.value.is_open())
            .map(|incident| incident.value.id.as_str())
            .collect();
        let now = self.0.now();
        let mut outboxes: BTreeMap<String, Vec<Page>> = BTreeMap::new();
        let mut documents = Vec::new();
        let mut left = Vec::new();
        let mut sent = sending.clone();
        for page in &pages {
            outboxes.entry(page.value.incident.id.clone()).or_default().push(page.value.clone());
            if outbox::may_have_gone(&page.value, self.0.under_way.began) {
                sent.insert(page.value.id.clone());
            }
        }
        for mut page in pages {
            let settled = page.value.delivered_at.is_some() || page.value.abandoned;
            let over = over.contains(page.value.incident.id.as_str()) || page.value.action == PageAction::Update;
            if settled && !sending.contains(&page.value.id) && over {
                documents.push(drawer::removed(&page.value, page.version));
                continue;
            }
            let rest = outboxes.get(&page.value.incident.id).map_or(&[][..], Vec::as_slice);
            if !sending.contains(&page.value.id) && outbox::superseded(&page.value, rest) {
                page.value.abandoned = true;
                documents.push(drawer::document(&page.value, page.version));
                page.version += 1;
            }
            left.push(page);
        }
        let steps = escalate::steps(&self.0);
        let mut new = Vec::new();
        for (incident, pages) in &outboxes {
            new.extend(outbox::ends(pages, &sent, now));
            if !over.contains(incident.as_str()) && !outbox::is_calling(pages, sending) {
                new.extend(outbox::stand_ins(pages, &steps, now));
            }
        }
        documents.extend(new.iter().map(|page| drawer::document(page, 0)));
        if documents.is_empty() {
            return (left, Ok(()));
        }
        let written = self.0.engine.save(documents, Vec::new(), now).await;
        match written {
            Ok(()) => left.extend(new.into_iter().map(|page| Stored { version: 1, value: page })),
            Err(engine::Error::Closed) => left.clear(),
            Err(_) => {}
        }
        (left, written)
    }

    /// In a task of its own: a channel that hangs holds up no other.
    fn send(&self, page: Stored<Page>) {
        let sending = Sending::begin(&self.0, &page.value.id);
        tokio::spawn(async move {
            deliver(&sending.office, page).await;
            drop(sending);
        });
    }
}

/// Wakes the incident actor when the store begins to fail, and when it takes writes again.
fn follow_writes(office: &Arc<Office>) -> impl Future<Output = ()> + use<> {
    let (mut trouble, office) = (office.engine.write_trouble(), Arc::downgrade(office));
    async move {
        while trouble.changed().await.is_ok() {
            let met = trouble.borrow_and_update().clone();
            let Some(office) = office.upgrade() else { return };
            if let Some(why) = met {
                office.alarm.hears(why);
            }
            office.pager.hint(PagerMessage::Kick);
        }
    }
}

/// One attempt, and what came of it written down. Until then it counts as being sent, so that whoever was called is not
/// called again as if for the first time; and where the disk takes nothing until the next attempt is due, that is made all
/// the same.
async fn deliver(office: &Arc<Office>, page: Stored<Page>) {
    let Stored { version, value: mut page } = page;
    let mut events = Vec::new();
    while !office.gone() {
        // A channel that panics or hangs has not taken the page, and must not hold it either.
        let attempt = AssertUnwindSafe(attempt(office, &page)).catch_unwind();
        let how = match tokio::time::timeout(CHANNEL_PATIENCE, attempt).await {
            Ok(Ok(how)) => how,
            Ok(Err(_)) => broken(&page, "the channel panicked".to_owned()),
            Err(_) => broken(&page, format!("the channel did not answer in {CHANNEL_PATIENCE:?}")),
        };
        let now = office.now();
        let (next, event) = tried(&page, how, now);
        events.push(event);
        let again = next.delivered_at.is_none() && !next.abandoned;
        let until = if again { next.due } else { now + AS_LONG_AS_IT_TAKES };
        let document = drawer::document(&next, version);
        let write = || office.engine.save(vec![document.clone()], events.clone(), office.now());
        match office.insist(until, write).await {
            Ok(()) => return,
            Err(engine::Error::Io { .. } | engine::Error::Full { .. }) if again => page = next,
            // Sent again under the same dedup key at the worst.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the fate of a page could not be stored");
                return;
            }
        }
    }
}

/// The channel a page goes through, wherever its person stands among those on call now; the log when it is configured no
/// more.
fn channel(office: &Office, page: &Page) -> Arc<dyn Channel> {
    let mut channels = office.on_call.iter().flat_map(|person| &person.channels);
    let found = channels.find(|(name, _)| *name == page.channel);
    found.map(|(_, channel)| Arc::clone(channel)).unwrap_or_else(|| pager::last_resort(&office.config.team))
}

/// What came of it when the channel itself failed.
fn broken(page: &Page, error: String) -> Tried {
    tracing::error!(incident = page.incident.id, channel = page.channel, "{error}");
    Tried::Later { error, retry_after: None }
}

/// Sends it once: what came of it.
async fn attempt(office: &Office, page: &Page) -> Tried {
    match channel(office, page).send(page).await {
        Ok(receipt) => Tried::Taken { to: office.one_line(&receipt.to, 300) },
        Err(error) => {
            let text = office.one_line(&error.to_string(), 500);
            tracing::error!(incident = page.incident.id, channel = page.channel, "{text}");
            match error {
                pager::Error::Later { retry_after_s, .. } => {
                    Tried::Later { error: text, retry_after: retry_after_s.map(Duration::from_secs) }
                }
                pager::Error::Never { .. } => Tried::Never { error: text },
            }
        }
    }
}
