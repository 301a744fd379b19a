//! `backstop up`: runs the team of a directory, and its API, until told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::check::{env, lines};
use super::{Context, Error, LogFormat, now};
use crate::api::{self, guard};
use crate::config::Config;
use crate::definitions::{self, Purpose};
use crate::engine::embedded::Embedded;
use crate::error_chain::in_full;
use crate::team::Team;

/// Run the team of a directory until told to stop.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop up\n  backstop up my-team --data /var/lib/backstop --listen 127.0.0.1:7420\n  BACKSTOP_TOKEN=... backstop up --listen 0.0.0.0:7420"
)]
pub(super) struct Up {
    /// The directory with backstop.yaml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the durable record is kept; .backstop/data in that directory unless told otherwise
    #[arg(long, env = "BACKSTOP_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the API listens; beyond this machine only with a token
    #[arg(long, env = "BACKSTOP_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// A team that runs, and how long it may take to stop.
struct Running {
    team: Team,
    grace: Duration,
}

impl Up {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        start_log(context);
        let mut config = match definitions::load(&self.dir, &env, Purpose::Run) {
            Ok(loaded) => {
                tell(context, lines(&loaded.warnings, "warning").trim_end());
                loaded.config
            }
            Err(problems) => {
                let text = lines(&problems.errors, "error") + &lines(&problems.warnings, "warning");
                let message = format!("the team was not started\n{}", text.trim_end());
                let next = format!("backstop check {}", self.dir.display());
                return Err(Error::Config { message, next: Some(next) });
            }
        };
        if let Some(listen) = self.listen {
            config.api.listen = listen;
        }
        if let Some(token) = env("BACKSTOP_TOKEN").filter(|token| !token.trim().is_empty()) {
            config.api.token = Some(token.into());
        }
        let refused = |error: guard::NeedsToken| Error::Config {
            message: error.to_string(),
            next: Some("backstop up --listen 127.0.0.1:7420".to_owned()),
        };
        let tokens = api::Tokens { all: config.api.token.clone(), read: config.api.read_token.clone() };
        guard::check_bind(config.api.listen, &tokens).map_err(refused)?;
        let listen = config.api.listen;
        let (team, agents) = (config.team.clone(), config.agents.len());
        // Before the store is opened: an address in use must not leave a lock or a started team behind.
        let listener = TcpListener::bind(listen).await.map_err(|source| Error::Failed {
            message: format!("cannot listen on {listen}: {source}"),
            next: Some("backstop up --listen 127.0.0.1:0".to_owned()),
        })?;
        let address = listener.local_addr().unwrap_or(listen);
        let data = self.data.unwrap_or_else(|| self.dir.join(".backstop").join("data"));
        let running = start_team(config, &data).await?;
        let told = CancellationToken::new();
        let serving = tokio::spawn(api::serve(running.team.desk(), listener, tokens, told.clone().cancelled_owned()));
        let forgetting = tokio::spawn(running.team.desk().keep_retention());
        let mut stop = Stop::listen();
        tell(context, &format!("{team}: {agents} agents, http://{address}, data in {}", data.display()));
        if context.log == LogFormat::Text {
            context.out.next("backstop status");
        }
        stop.told().await;
        // Between two of its batches or in the middle of one: what is written is sound.
        forgetting.abort();
        tell(context, "draining; once more to stop at once");
        tokio::select! {
            biased;
            ended = drain(running, serving, told) => ended,
            () = stop.told() => {
                tell(context, "stopped at once; what was running will be delivered again");
                Err(Error::Silent(130))
            }
        }
    }
}

/// Lets running work finish, then closes the door: the API answers (503 for new work) until the very end.
async fn drain(
    running: Running,
    serving: tokio::task::JoinHandle<Result<(), api::Error>>,
    told: CancellationToken,
) -> Result<(), Error> {
    let drained = running.team.drain(running.grace).await;
    told.cancel();
    let served = serving.await;
    if let Err(error) = drained {
        let message = format!("the store was not closed cleanly: {error}; what was acknowledged is durable");
        return Err(Error::Failed { message, next: Some("backstop up".to_owned()) });
    }
    match served {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Failed { message: error.to_string(), next: None }),
        Err(error) => Err(Error::Failed { message: format!("the API ended badly: {error}"), next: None }),
    }
}

/// Opens the store and starts the team on it.
async fn start_team(config: Config, data: &Path) -> Result<Running, Error> {
    let grace = config.drain_timeout;
    let engine = Embedded::open(data, now()).map_err(|error| not_started(&error, data))?;
    let team = Team::builder(config).engine(Arc::new(engine)).start().await;
    Ok(Running { team: team.map_err(|error| not_started(&error, data))?, grace })
}

fn not_started(error: &dyn std::error::Error, data: &Path) -> Error {
    let message = format!("the team was not started: {}", in_full(error));
    let next = format!("backstop up --data {}-2", data.display());
    let in_use = message.contains("in use by another backstop process");
    Error::Config { message, next: Some(if in_use { next } else { "backstop check".to_owned() }) }
}

/// SIGTERM and SIGINT, heard from one moment on: a second one that comes while the first is being obeyed is not missed.
pub(super) struct Stop {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    interrupt: Option<tokio::signal::unix::Signal>,
}

impl Stop {
    #[cfg(unix)]
    pub(super) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        // Where one cannot be heard its default applies: the process ends, and what ran is delivered again.
        let hear = |kind| signal(kind).ok();
        Self { terminate: hear(SignalKind::terminate()), interrupt: hear(SignalKind::interrupt()) }
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> Self {
        Self {}
    }

    /// Returns when the process was told to stop, once for each time it was told.
    #[cfg(unix)]
    pub(super) async fn told(&mut self) {
        use tokio::signal::unix::Signal;
        async fn heard(signal: &mut Option<Signal>) {
            let heard = match signal {
                Some(signal) => signal.recv().await,
                None => None,
            };
            if heard.is_none() {
                std::future::pending().await
            }
        }
        tokio::select! {
            () = heard(&mut self.terminate) => {}
            () = heard(&mut self.interrupt) => {}
        }
    }

    /// Returns when the process was told to stop.
    #[cfg(not(unix))]
    pub(super) async fn told(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Words for people; in a log of JSON they are a line of it, so that whatever reads it can read every line.
fn tell(context: &Context, words: &str) {
    match context.log {
        LogFormat::Text => context.out.say(words),
        LogFormat::Json => words.lines().for_each(|line| tracing::info!("{line}")),
    }
}

/// Logs go to stderr, as text or JSON; `BACKSTOP_LOG` filters them as `RUST_LOG` does elsewhere.
pub(super) fn start_log(context: &Context) {
    let default = match (context.out.quiet, context.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,backstop=info",
        (false, 1) => "info,backstop=debug",
        (false, _) => "debug,backstop=trace",
    };
    let filter = env("BACKSTOP_LOG").and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    // The MCP SDK logs what servers say as it came, arguments and results among it; what matters of that we say, redacted.
    let filter = filter.add_directive("rmcp=off".parse().expect("a directive"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process keeps the first one's log.
    let _ = match context.log {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(context.out.color).try_init(),
    };
}
