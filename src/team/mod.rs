//! The actors: the only place where decisions meet the world.
//!
//! No actor owns any truth. The engine does; actors are stateless workers over it, and a message is a hint to look
//! again. So every actor may die at any time, and nothing is lost but the time until it is back.
//!
//! ```text
//! root          starts and restarts; runs nobody's code
//! |- incidents  counts dead letters, opens incidents, sends pages from the outbox
//! |- ceo        decides about dead letters
//! |- crew       one agent actor each; every model call is a child task of its agent
//! |- dispatcher leases what is due to agents with free slots, buries what waited too long
//! `- replayer   releases dead letters at their rate
//! ```

mod absences;
mod act;
mod addr;
mod alarm;
mod agent;
mod attempt;
mod bells;
mod breakers;
mod callbacks;
mod ceo;
pub mod clock;
mod crew;
mod decisions;
pub mod desk;
mod dispatcher;
mod drawer;
mod escalate;
mod guards;
mod incident;
pub mod metrics;
mod office;
mod outcome;
mod purse;
mod replayer;
mod replays;
pub mod retention;
mod root;
mod seat;
mod toolbox;
pub mod views;
mod verify;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr};
use secrecy::{ExposeSecret, SecretString};

use self::agent::AgentMessage;
use self::clock::{Clock, Dice};
use self::desk::Desk;
use self::guards::Guards;
use self::office::{Office, Parts, Person};
use self::purse::Money;
pub use self::root::Part;
use self::root::{Root, RootMessage};
use crate::absence::Absences;
use crate::config::{ChannelConfig, Config, Setting};
use crate::engine::memory::Memory;
use crate::engine::{self, Engine};
use crate::event::Happening;
use crate::incident::Page;
use crate::llm::{self, Provider};
use crate::mutant;
use crate::pager::{self, Channel};
use crate::redact::{self, Redactor};
use crate::task::Integration;
use crate::tools::verify::Verifier;
use crate::tools::{self, ToolServer};

/// Why a team could not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A provider of language models cannot work as configured.
    #[error(transparent)]
    Llm(#[from] llm::Error),
    /// A server of tools cannot work as configured.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// A channel to a human cannot work as configured.
    #[error(transparent)]
    Pager(#[from] pager::Error),
    /// An actor could not start.
    #[error("the team's actors could not start")]
    Actors(#[source] Box<SpawnErr>),
    /// Panics would end the process instead of one agent.
    #[error("this build aborts on panic; build with `panic = \"unwind\"`, or one agent's bug ends the whole team")]
    PanicAborts,
}

/// A team about to start. What is not given is made from the configuration.
#[must_use]
pub struct Builder {
    config: Config,
    engine: Option<Arc<dyn Engine>>,
    providers: Vec<Arc<dyn Provider>>,
    tools: Vec<Arc<dyn ToolServer>>,
    on_call: Vec<Person>,
    clock: Option<Clock>,
    dice: Dice,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("team", &self.config.team).finish_non_exhaustive()
    }
}

impl Builder {
    /// Where the work is recorded. Without one it is kept in memory and gone with the process.
    pub fn engine(mut self, engine: Arc<dyn Engine>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// A provider of language models, instead of (or besides) the configured one of the same name.
    pub fn provider(mut self, provider: impl Provider) -> Self {
        self.providers.push(Arc::new(provider));
        self
    }

    /// A server of tools, instead of (or besides) the configured one of the same name.
    pub fn tools(mut self, server: impl ToolServer) -> Self {
        self.tools.push(Arc::new(server));
        self
    }

    /// A person on call and how to reach them, instead of those configured. Called in the order given.
    pub fn on_call(mut self, name: impl Into<String>, channels: Vec<Arc<dyn Channel>>) -> Self {
        self.on_call.push(Person::new(&name.into(), channels));
        self
    }

    /// The team's clock. Without one it is the world's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The seed of the team's dice. Without one nobody can foresee them.
    pub fn seed(mut self, seed: u64) -> Self {
        self.dice = Dice::seeded(seed);
        self
    }

    /// Starts the team.
    ///
    /// # Errors
    /// When a door to the world cannot be opened as configured, or the store cannot be read.
    pub async fn start(self) -> Result<Team, Error> {
        if cfg!(panic = "abort") {
            return Err(Error::PanicAborts);
        }
        let engine = self.engine.unwrap_or_else(|| Arc::new(Memory::new()));
        let clock = self.clock.unwrap_or_else(|| Clock::world(engine.high_water()));
        let providers = providers(&self.config, self.providers, &clock)?;
        let on_call = if self.on_call.is_empty() { channels(&self.config)? } else { self.on_call };
        // What is given in code is laid over what is configured.
        let servers = tools::servers(&self.config)?.into_iter().chain(self.tools);
        let tools: BTreeMap<Integration, Arc<dyn ToolServer>> =
            servers.map(|server| (server.name().clone(), server)).collect();
        let verifier = Verifier::new(&self.config.tools)?;
        let guards = Guards::restore(&self.config, providers.keys().chain(tools.keys()), &*engine).await?;
        let money = Money::restore(&*engine, clock.now()).await?;
        let balance = engine.balance().await?;
        let open_tasks = balance.waiting + balance.running;
        // Where nothing waits, nothing has waited since before.
        let now = clock.now();
        let absences = if open_tasks == 0 { Absences::default() } else { absences::restore(&*engine, now).await? };
        let hidden = if mutant::on("secret-in-feed") { Vec::new() } else { secrets(&self.config) };
        let redactor = Redactor::new(hidden);
        let dice = self.dice;
        let parts = Parts {
            config: self.config,
            engine,
            providers,
            on_call,
            clock,
            dice,
            guards,
            tools,
            verifier,
            money,
            absences,
            redactor,
        };
        let office = Arc::new(Office::new(parts));
        let started = Happening::TeamStarted {
            epoch: office.engine.epoch(),
            agents: u32::try_from(office.seats.len()).unwrap_or(u32::MAX),
            open_tasks,
        };
        office.publish(vec![started.into()]).await;
        let (root, _) =
            Root::spawn(None, Root(Arc::clone(&office)), ()).await.map_err(|error| Error::Actors(Box::new(error)))?;
        Ok(Team { office, root })
    }
}

/// The configured providers, with those given in their place.
fn providers(
    config: &Config,
    given: Vec<Arc<dyn Provider>>,
    clock: &Clock,
) -> Result<BTreeMap<Integration, Arc<dyn Provider>>, llm::Error> {
    let mut providers: BTreeMap<Integration, Arc<dyn Provider>> =
        given.into_iter().map(|provider| (provider.integration().clone(), provider)).collect();
    for (integration, settings) in &config.providers {
        if !providers.contains_key(integration) {
            let clock = clock.clone();
            let now: llm::Clock = Arc::new(move || clock.now());
            providers.insert(integration.clone(), llm::provider(integration.clone(), settings, now)?);
        }
    }
    Ok(providers)
}

/// The configured people on call, with the channels that reach them.
fn channels(config: &Config) -> Result<Vec<Person>, pager::Error> {
    let mut people = Vec::new();
    for person in &config.escalation.on_call {
        let channels: Result<Vec<_>, _> =
            person.channels.iter().map(|channel| pager::channel(channel, &config.team)).collect();
        people.push(Person::new(&person.name, channels?));
    }
    Ok(people)
}

/// Everything that must never be shown.
fn secrets(config: &Config) -> Vec<String> {
    let keys = config.providers.values().filter_map(|provider| provider.api_key.as_ref());
    let channels = config.escalation.on_call.iter().flat_map(|person| &person.channels);
    let channels = channels.flat_map(|channel| match channel {
        ChannelConfig::PagerDuty { routing_key, webhook_secret, .. } => [Some(routing_key), webhook_secret.as_ref()],
        ChannelConfig::Email { smtp, .. } => [Some(smtp), None],
        ChannelConfig::Webhook { url, secret } => [Some(secret), Some(url).filter(|url| is_more_than_a_host(url))],
        ChannelConfig::Log => [None, None],
    });
    let channels = channels.flatten();
    let tokens = config.api.token.iter().chain(&config.api.read_token);
    let known = keys.chain(channels).chain(tokens).map(|secret| secret.expose_secret().to_owned());
    let headers = config.providers.values().flat_map(|provider| &provider.headers);
    let headers = headers.flat_map(|(name, value)| match value {
        Setting::Plain(text) if redact::is_secret_header(name) => vec![text.clone()],
        Setting::Plain(_) => Vec::new(),
        Setting::Secret(_) => value.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect(),
    });
    let of_tools = config.tools.secrets().into_iter().map(|secret| secret.expose_secret().to_owned());
    known.chain(headers).chain(of_tools).collect()
}

/// Is there anything in an address that could be a secret? The name of a host alone would be taken out of every address there.
fn is_more_than_a_host(url: &SecretString) -> bool {
    let beyond = url.expose_secret().split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    beyond.is_some_and(|(_, path)| !path.is_empty())
}

/// A running team. Dropped without [`Team::drain`] it stops at once, as in a crash: nothing is lost, and what ran is
/// delivered again by the next team over the same engine.
pub struct Team {
    office: Arc<Office>,
    root: ActorRef<RootMessage>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("name", &self.office.config.team).finish_non_exhaustive()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        // Takes everybody with it; after a drain nobody is left.
        self.office.leave();
        self.root.kill();
    }
}

impl Team {
    /// A team of this configuration, about to start.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            engine: None,
            providers: Vec::new(),
            tools: Vec::new(),
            on_call: Vec::new(),
            clock: None,
            dice: Dice::from_the_system(),
        }
    }

    /// Everything one can ask of it.
    #[must_use]
    pub fn desk(&self) -> Desk {
        Desk::new(Arc::clone(&self.office))
    }

    /// Kills one part of the team, as a bug would: for drills. It is started again, and nothing is lost but time.
    pub fn crash(&self, part: Part) {
        // A root that is gone has no parts to crash.
        let _ = self.root.cast(RootMessage::Crash(part));
    }

    /// Stops the team by its own protocol: no new work, running work may finish for `grace`, what does not is given
    /// back without losing an attempt; then the actors, leaves first; then the store.
    ///
    /// # Errors
    /// When the store cannot be closed: what was acknowledged is durable all the same.
    pub async fn drain(self, grace: Duration) -> Result<(), engine::Error> {
        self.office.drain();
        let running = self.running();
        self.office
            .publish(vec![Happening::Draining { running: u32::try_from(running).unwrap_or(u32::MAX) }.into()])
            .await;
        // What the CEO's adviser is about to say is paid for, too.
        if !self.idle_within(grace, || self.running() + self.office.asking.count()).await {
            for seat in self.office.seats.values() {
                seat.addr.tell(AgentMessage::HandBack);
            }
            // Giving back is a write or two; what is stuck beyond that is covered by its lease.
            self.idle_within(Duration::from_secs(5), || self.running()).await;
        }
        self.flush_pages().await;
        // The root answers when everybody is gone; if it is gone itself, so are they.
        let _ = self.root.call(RootMessage::Stop, Some(Duration::from_secs(5))).await;
        self.root.stop(Some("drained".to_owned()));
        let closed = self.office.engine.close().await;
        // Who still waits for a task is told that nothing more will come of it here.
        self.office.bells.ring_all();
        closed
    }

    /// Gives pages that are due a moment to leave: a human who is called now should not be called at the next start.
    async fn flush_pages(&self) {
        let mut watch = self.office.engine.watch();
        let empty = async {
            loop {
                let pages = drawer::all::<Page>(&*self.office.engine).await.unwrap_or_default();
                let now = self.office.now();
                let due =
                    |page: &Page| page.delivered_at.is_none() && !page.abandoned && page.due <= now && page.tries == 0;
                if !pages.iter().any(|stored| due(&stored.value)) {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), empty).await.is_err() {
            tracing::warn!("pages are left in the outbox; they go out at the next start");
        }
    }

    fn running(&self) -> usize {
        self.office.seats.values().map(|seat| seat.view().running.len()).sum()
    }

    /// Waits until nothing runs, at most so long of real time.
    async fn idle_within(&self, span: Duration, running: impl Fn() -> usize) -> bool {
        let mut watch = self.office.engine.watch();
        let idle = async {
            while running() > 0 {
                // Every end of a delivery is an event; a look now and then covers calls that end without one.
                let _ = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
            }
        };
        tokio::time::timeout(span, idle).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host_alone_is_no_secret() {
        for (url, secret) in [
            ("https://ops.example.com", false),
            ("https://ops.example.com/", false),
            ("https://hooks.example/services/T0/B0/x", true),
            ("http://127.0.0.1:9/?token=x", true),
        ] {
            assert_eq!(is_more_than_a_host(&url.into()), secret, "{url}");
        }
    }
}
