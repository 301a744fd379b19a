//! `backstop up`: runs the team of a directory, and its API, until told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::check::{env, lines, with_mail};
use super::log::{Log, Started};
use super::{Context, Error, now, token};
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
        let log = Log::start(context);
        self.serve(&log).await.map_err(|error| log.ends(error))
    }

    async fn serve(self, log: &Started) -> Result<(), Error> {
        let mut config = match definitions::load(&self.dir, &env, Purpose::Run).and_then(with_mail) {
            Ok(loaded) => {
                log.tell(lines(&loaded.warnings, "warning").trim_end());
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
        if let Some(token) = token(env) {
            config.api.token = Some(token);
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
        log.tell(&format!("{team}: {agents} agents, http://{address}, data in {}", data.display()));
        log.next("backstop status");
        stop.told().await;
        // Between two of its batches or in the middle of one: what is written is sound.
        forgetting.abort();
        log.tell("draining; once more to stop at once");
        tokio::select! {
            biased;
            ended = drain(running, serving, told) => ended,
            () = stop.told_again() => {
                log.tell("stopped at once; what was running will be delivered again");
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

/// SIGTERM, SIGINT and SIGHUP, heard from one moment on: a second one that comes while the first is being obeyed is not
/// missed.
pub(super) struct Stop {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    interrupt: Option<tokio::signal::unix::Signal>,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Stop {
    pub(super) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        // Where one cannot be heard its default applies: the process ends, and what ran is delivered again.
        let hear = |kind| signal(kind).ok();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            terminate: hear(SignalKind::terminate()),
            interrupt: hear(SignalKind::interrupt()),
            hangup: if goes_on_without_terminal(&status) { None } else { hear(SignalKind::hangup()) },
        }
    }

    /// Returns when the process was told to stop, for the first time.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            () = heard(&mut self.terminate) => {}
            () = heard(&mut self.interrupt) => {}
            () = heard(&mut self.hangup) => {}
        }
    }

    /// Returns when it was told once more. A terminal that goes away says so twice, by itself and by its shell: that is no
    /// second word.
    pub(super) async fn told_again(&mut self) {
        tokio::select! {
            () = heard(&mut self.terminate) => {}
            () = heard(&mut self.interrupt) => {}
        }
    }
}

#[cfg(unix)]
async fn heard(signal: &mut Option<tokio::signal::unix::Signal>) {
    let heard = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

/// Was it started to outlive its terminal (`nohup`)? Whoever listens for SIGHUP no longer ignores it. `status` is
/// `/proc/self/status`: signal 1 is the lowest bit of `SigIgn`. Where nobody knows, nobody listens: the default applies.
#[cfg(unix)]
fn goes_on_without_terminal(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask & 1 != 0)
}

#[cfg(not(unix))]
impl Stop {
    pub(super) fn listen() -> Self {
        Self {}
    }

    /// Returns when the process was told to stop.
    pub(super) async fn told(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }

    /// Returns when it was told once more.
    pub(super) async fn told_again(&mut self) {
        self.told().await;
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    #[test]
    fn who_was_started_by_nohup_goes_on_without_its_terminal() {
        let status = |mask: &str| format!("Name:\tbackstop\nSigBlk:\t0000000000000000\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        assert!(super::goes_on_without_terminal(&status("0000000000001001")));
        assert!(!super::goes_on_without_terminal(&status("0000000000001000")));
        assert!(super::goes_on_without_terminal(""), "nobody knows");
    }
}
