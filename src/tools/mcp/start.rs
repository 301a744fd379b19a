//! The start of a server: one at a time, bounded by its own limit and not by the patience of whoever waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use rmcp::model::{ErrorCode, ErrorData, ProtocolVersion};
use rmcp::service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::remote::{self, Remote};
use super::stdio::{self, Aside, Running};
use super::{Connection, Listener, ending};
use crate::cause::ToolFault;
use crate::tool_config::{McpConfig, Transport};
use crate::tools::{Teller, Trouble, child, cut};

/// How a start ended: all who waited for it share that.
pub(super) type Started = Result<Arc<Connection>, Box<Trouble>>;

/// What it takes to start a server.
pub(super) struct Starter {
    pub(super) teller: Arc<Teller>,
    pub(super) config: McpConfig,
    pub(super) remote: Option<Remote>,
}

/// A start under way, or how it ended. It goes on when nobody waits for it any more: begun anew by each who comes, a server
/// that takes longer than they wait would never serve. Dropped, it ends.
pub(super) struct Start {
    ended: watch::Receiver<Option<Started>>,
    task: AbortOnDropHandle<()>,
}

impl Start {
    /// Begins one.
    pub(super) fn begin(starter: Arc<Starter>) -> Self {
        let (tell, ended) = watch::channel(None);
        let task = tokio::spawn(async move {
            let within = starter.config.start_within;
            let started = match timeout(within, starter.started()).await {
                Ok(started) => started.map(Arc::new),
                Err(_) => Err(starter.teller.late("", within, false)),
            };
            tell.send_replace(Some(started));
        });
        Self { ended, task: AbortOnDropHandle::new(task) }
    }

    /// Is it to be joined, or is there a connection to be used? Else another is begun.
    pub(super) fn is_of_use(&self) -> bool {
        match &*self.ended.borrow() {
            Some(Ok(connection)) => connection.usable(),
            Some(Err(_)) => false,
            // One that panicked ended without a word.
            None => !self.task.is_finished(),
        }
    }

    /// Where its end is told.
    pub(super) fn ended(&self) -> watch::Receiver<Option<Started>> {
        self.ended.clone()
    }
}

impl Starter {
    /// Starts the server and shakes hands: in the way nearly all servers know, else in the one that came after it.
    async fn started(&self) -> Result<Connection, Box<Trouble>> {
        let no_handshake = |what| self.teller.unsent(ToolFault::Protocol, "", format!("no handshake: {what}"));
        let refused = match self.handshake(ClientLifecycleMode::Initialize).await? {
            Ok(connection) => return Ok(connection),
            Err(refused) => refused,
        };
        if !matches!(refused.code, ErrorCode::METHOD_NOT_FOUND | ErrorCode::UNSUPPORTED_PROTOCOL_VERSION) {
            return Err(no_handshake(in_words(&refused)));
        }
        let preferred_versions = vec![ProtocolVersion::LATEST];
        let other = self.handshake(ClientLifecycleMode::Discover { preferred_versions }).await?;
        other.map_err(|error| no_handshake(format!("{}; and then {}", in_words(&refused), in_words(&error))))
    }

    /// One handshake. The inner error: what the server says to it.
    async fn handshake(&self, mode: ClientLifecycleMode) -> Result<Result<Connection, ErrorData>, Box<Trouble>> {
        let changes = Arc::new(AtomicU64::new(0));
        let listener = Listener { changes: Arc::clone(&changes) };
        let (service, program) = match (&self.config.transport, &self.remote) {
            (Transport::Stdio { command, env }, _) => {
                let cannot = |error: std::io::Error| {
                    self.teller.unsent(ToolFault::Unreachable, "", format!("cannot be started: {error}"))
                };
                let (child, group) = child::start(command, env).map_err(cannot)?;
                let secrets = self.teller.secrets.clone();
                let (pipes, running, aside) =
                    stdio::take_over(&self.teller.server, child, group, secrets).map_err(cannot)?;
                (listener.serve_with_lifecycle(pipes, mode).await, Some((running, aside)))
            }
            (Transport::Http { .. }, Some(remote)) => {
                (listener.serve_with_lifecycle(remote.transport(), mode).await, None)
            }
            (Transport::Http { .. }, None) => unreachable!("`new` makes a remote for every address"),
        };
        let error = match service {
            Ok(service) => {
                let (list, calls, over) = (Mutex::new(None), AtomicUsize::new(0), AtomicBool::new(false));
                return Ok(Ok(Connection { service, program, list, changes, calls, over }));
            }
            Err(error) => error,
        };
        #[allow(clippy::wildcard_enum_match_arm, reason = "the SDK has many words for a handshake that failed")]
        match error {
            ClientInitializeError::JsonRpcError(error) => Ok(Err(error)),
            ClientInitializeError::TransportError { error, .. } => {
                let broken = remote::broken(error.error.as_ref());
                Err(match broken {
                    Some(broken) => Box::new(Trouble {
                        status: broken.status,
                        retry_after_s: broken.retry_after_s,
                        ..*self.teller.unsent(broken.fault, "", format!("no handshake: {}", broken.what))
                    }),
                    None => self.ended_early(program, error.error.to_string()).await,
                })
            }
            ClientInitializeError::ConnectionClosed(what) => Err(self.ended_early(program, what).await),
            other => {
                let what = format!("no handshake: {}", cut(&other.to_string(), 1_000));
                Err(self.teller.unsent(ToolFault::Protocol, "", what))
            }
        }
    }

    /// A program that ended, or closed its output, before it shook hands.
    async fn ended_early(&self, program: Option<(Running, Arc<Mutex<Aside>>)>, what: String) -> Box<Trouble> {
        let ended = match program {
            Some((running, aside)) => ending(&running, &aside).await,
            None => String::new(),
        };
        let what = if ended.is_empty() { what } else { ended };
        self.teller.unsent(ToolFault::Unreachable, "", format!("ended before it shook hands: {what}"))
    }
}

fn in_words(error: &ErrorData) -> String {
    format!("error {}: {}", error.code.0, error.message)
}
