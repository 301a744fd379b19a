//! An HTTP server that speaks the wires of five vendors, and fails on cue.
//!
//! It listens on loopback unless told otherwise, and follows a [`Script`], whose rules can change while it runs. The
//! latest requests are remembered with what became of them, so that a test can hold a team's record against the truth;
//! all of them are counted. With an upstream it is a proxy that breaks real traffic. Dropping the handle ends it.
//!
//! `house` is what the server knows, `serve` answers, `proxy` asks the upstream, `control` is `/_outage`.

mod control;
mod house;
mod proxy;
mod serve;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::any;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use house::{Counters, Served};
pub use proxy::BadUpstream;

use super::script::{Rule, Script};
use crate::config::Wire;
use crate::time::Timestamp;
use house::House;

/// What tells the server the time; the team's own clock in the demo.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The largest request taken, in bytes: Anthropic's own limit.
const REQUEST_LIMIT: usize = 32 * 1024 * 1024;

/// How a server is started.
#[derive(Clone)]
pub struct Options {
    /// Where it listens. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How many seconds of the script pass in one real one: windows, waits, pauses and hints are that much shorter.
    pub speed: f64,
    /// Whom to ask when no rule matches; none answers everything itself.
    pub upstream: Option<String>,
    /// How many requests are remembered; all are counted.
    pub remembered: usize,
    /// The clock, if not the real one, and when the script began.
    pub clock: Option<(Now, Timestamp)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 0).into(), speed: 1.0, upstream: None, remembered: 10_000, clock: None }
    }
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be had.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Time does not pass that way.
    #[error("{0} is no speed; it must be above 0 and finite")]
    Speed(f64),
    /// The upstream is none.
    #[error(transparent)]
    Upstream(#[from] BadUpstream),
}

/// A running server.
pub struct OutageServer {
    address: SocketAddr,
    house: Arc<House>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl OutageServer {
    /// Starts a server on loopback whose clock counts from now.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start(script: Script) -> io::Result<Self> {
        let began = Instant::now();
        let now: Now = Arc::new(move || Timestamp::default() + began.elapsed());
        Self::start_at(script, now, Timestamp::default()).await
    }

    /// Starts a server on loopback and another clock; windows of rules count from `origin`.
    ///
    /// # Errors
    /// When no port on loopback can be had.
    pub async fn start_at(script: Script, now: Now, origin: Timestamp) -> io::Result<Self> {
        let options = Options { clock: Some((now, origin)), ..Options::default() };
        Self::open(script, options).await.map_err(io::Error::other)
    }

    /// Starts a server with these options.
    ///
    /// # Errors
    /// When the address cannot be had, or an option cannot be.
    pub async fn open(script: Script, options: Options) -> Result<Self, Error> {
        if !(options.speed.is_finite() && options.speed > 0.0) {
            return Err(Error::Speed(options.speed));
        }
        let listen = options.listen;
        let upstream = options.upstream.as_deref().map(proxy::Upstream::new).transpose()?;
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| Error::Listen { listen, source })?;
        let stop = CancellationToken::new();
        let house = Arc::new(House::new(script, &options, upstream, stop.clone()));
        let app = Router::new()
            .fallback(any(serve::anything))
            .layer(DefaultBodyLimit::max(REQUEST_LIMIT))
            .with_state(house.clone())
            .into_make_service_with_connect_info::<SocketAddr>();
        let until = stop.clone();
        let served = tokio::spawn(async move {
            let server = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned());
            if let Err(error) = server.await {
                tracing::warn!(%error, "the outage server ended");
            }
        });
        Ok(Self { address, house, stop, served })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is: `http://127.0.0.1:port`, the base URL of most wires.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL of one wire: OpenAI's ends in `/v1`.
    #[must_use]
    pub fn base_url(&self, wire: Wire) -> String {
        match wire {
            Wire::Anthropic | Wire::Gemini | Wire::Ollama => self.url(),
            Wire::OpenAi | Wire::Responses => format!("{}/v1", self.url()),
        }
    }

    /// Turns a switch of the script on or off.
    pub fn switch(&self, name: &str, on: bool) {
        self.house.room().turns.switch(name, on);
    }

    /// Puts a rule before all others, in place of the one of the same name, if there is one.
    pub fn add(&self, rule: Rule) {
        self.house.room().add(rule);
    }

    /// Takes a rule away. Was there one of this name?
    pub fn remove(&self, name: &str) -> bool {
        self.house.room().remove(name)
    }

    /// Takes `calls` earlier matches of a rule as made: what a resumed scenario tells a new server.
    pub fn recall(&self, rule: &str, calls: u64) {
        self.house.room().turns.recall(rule, calls);
    }

    /// The latest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Served> {
        self.house.room().served.iter().cloned().collect()
    }

    /// How many requests there were of each kind, from the beginning.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.house.room().counters.clone()
    }

    /// Waits until at least `count` requests have come.
    pub async fn seen(&self, count: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.house.count.subscribe().wait_for(|so_far| *so_far >= count).await;
    }

    /// Ends it: hanging requests are let go, connections closed.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.served).await {
            tracing::warn!(%error, "the outage server did not end in order");
        }
    }
}

impl Drop for OutageServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
