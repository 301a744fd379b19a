//! MCP servers: one connection each, started when first used, shared by all, started anew on the next use after it died.
//!
//! Nothing loops here: a use starts a server at most once, and whether it is used again is the breaker's to say.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, ErrorCode, ErrorData, Implementation,
    ListToolsRequest, MetaObject, PaginatedRequestParams, ProtocolVersion, RequestMetaObject, ServerResult,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient, RunningService,
};
use rmcp::{ClientHandler, ServiceError};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

use self::answer::{List, protocol_fault};
use self::remote::Remote;
use self::stdio::{Aside, Running};
use super::{Calling, Error, Offered, Pending, Said, Teller, ToolServer, Trouble, child, with_key};
use crate::cause::ToolFault;
use crate::task::Integration;
use crate::tool_config::{McpConfig, Transport};

mod answer;
mod remote;
mod stdio;

/// Where the idempotency key of a call goes, in `_meta`: a prefix of our own, as the protocol wants it.
const KEY: &str = "backstop/idempotency-key";
/// How long a list of tools is believed of a server that says nothing: some cannot say when theirs changes.
const LIST_FRESH: Duration = Duration::from_secs(300);
/// Pages of a list that are read: a server that never ends its list ends there.
const PAGES_MAX: usize = 64;
/// How long the end of a program is waited for, to say how it ended.
const ENDING: Duration = Duration::from_secs(1);

/// An MCP server.
pub(super) struct Server {
    teller: Teller,
    config: McpConfig,
    remote: Option<Remote>,
    state: tokio::sync::Mutex<State>,
    /// Starts so far, to know whether somebody else's attempt was made while one waited for it.
    starts: AtomicU64,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// How the last start failed, if it did.
    failed: Option<Box<Trouble>>,
}

/// A server that has shaken hands.
struct Connection {
    service: RunningService<RoleClient, Listener>,
    program: Option<(Running, Arc<Mutex<Aside>>)>,
    list: Mutex<Option<Held>>,
    /// Counts the changes of its list.
    changes: Arc<AtomicU64>,
    calls: AtomicUsize,
    /// Nobody begins anything on it any more.
    over: AtomicBool,
}

#[derive(Clone)]
struct Held {
    list: Arc<List>,
    as_of: u64,
    at: Instant,
}

/// Hears what a server says unasked. It is asked for nothing: no sampling, no roots, and questions to people are declined.
struct Listener {
    changes: Arc<AtomicU64>,
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let ours = Implementation::new("backstop", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), ours)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Connection {
    fn usable(&self) -> bool {
        !self.over.load(Ordering::Acquire) && !self.service.is_closed() && !self.service.peer().is_transport_closed()
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Nothing came in time. A program that has not said a word meanwhile, to anybody, is hung: the next use starts
    /// another. Of a server elsewhere nobody knows, and there is nothing to start.
    fn silent_since(&self, heard: Option<u64>) {
        let alone = self.calls.load(Ordering::Acquire) <= 1;
        if alone && heard.is_some() && self.aside(|aside| aside.heard) == heard {
            self.end();
        }
    }

    fn held(&self) -> Option<Held> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn aside<T>(&self, look: impl FnOnce(&Aside) -> T) -> Option<T> {
        self.program.as_ref().map(|(_, aside)| look(&aside.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Counts a call while it lasts.
struct Underway<'a>(&'a AtomicUsize);

impl<'a> Underway<'a> {
    fn on(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::AcqRel);
        Self(calls)
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    /// A server, not started.
    pub(super) fn new(name: Integration, config: &McpConfig) -> Result<Self, Error> {
        let (remote, secrets) = match &config.transport {
            Transport::Stdio { command, .. } if command.is_empty() => return Err(Error::NoCommand { server: name }),
            Transport::Stdio { env, .. } => (None, env),
            Transport::Http { url, headers } => (Some(Remote::new(&name, url, headers)?), headers),
        };
        let teller = Teller::new(name, secrets.values());
        let (state, starts) = (tokio::sync::Mutex::default(), AtomicU64::new(0));
        Ok(Self { teller, config: config.clone(), remote, state, starts })
    }

    /// The connection, started if there is none. Those who wait for a start that fails share how it failed.
    async fn connected(&self) -> Result<Arc<Connection>, Box<Trouble>> {
        let before = self.starts.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| connection.usable()) {
            return Ok(Arc::clone(connection));
        }
        state.connection = None;
        if let Some(failed) = state.failed.as_ref().filter(|_| self.starts.load(Ordering::Acquire) > before) {
            return Err(failed.clone());
        }
        let within = self.config.start_within;
        let started = match timeout(within, self.started()).await {
            Ok(started) => started,
            Err(_) => Err(self.teller.late("", within, false)),
        };
        self.starts.fetch_add(1, Ordering::AcqRel);
        match started {
            Ok(connection) => {
                state.failed = None;
                Ok(Arc::clone(state.connection.insert(Arc::new(connection))))
            }
            Err(trouble) => {
                state.failed = Some(trouble.clone());
                Err(trouble)
            }
        }
    }

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
                let what = format!("no handshake: {}", super::cut(&other.to_string(), 1_000));
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

    /// Its tools, asked for if they may have changed.
    async fn list(&self, connection: &Connection) -> Result<Arc<List>, Box<Trouble>> {
        let as_of = connection.changes.load(Ordering::Acquire);
        let fresh = |held: &Held| held.as_of == as_of && held.at.elapsed() < LIST_FRESH;
        if let Some(held) = connection.held().filter(fresh) {
            return Ok(held.list);
        }
        let within = self.config.start_within;
        let heard = connection.aside(|aside| aside.heard);
        let _underway = Underway::on(&connection.calls);
        let list = match timeout(within, self.pages(connection)).await {
            Ok(Ok(list)) => Arc::new(list),
            Ok(Err(error)) => {
                let trouble = *self.trouble(connection, "tools/list", &error).await;
                return Err(Box::new(Trouble { sent: false, ..trouble }));
            }
            Err(_) => {
                connection.silent_since(heard);
                return Err(self.teller.late("tools/list", within, false));
            }
        };
        for (tool, why) in &list.left_out {
            tracing::warn!(server = %self.teller.server, tool, "not offered: {}", self.teller.clean(why));
        }
        if list.more_left_out > 0 {
            tracing::warn!(server = %self.teller.server, "not offered: {} more tools", list.more_left_out);
        }
        let held = Held { list: Arc::clone(&list), as_of, at: Instant::now() };
        *connection.list.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(list)
    }

    /// All pages of a list of tools, or as many as are taken: one page at a time is held, however many come.
    async fn pages(&self, connection: &Connection) -> Result<List, ServiceError> {
        let (mut list, mut cursor) = (List::default(), None);
        for _ in 0..PAGES_MAX {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            // Not through the SDK's own cache, which answers from memory when the server does not.
            let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
            #[allow(clippy::wildcard_enum_match_arm, reason = "there is one answer to this question")]
            match connection.service.peer().send_request(request).await? {
                ServerResult::ListToolsResult(page) => {
                    list.take(page.tools);
                    cursor = page.next_cursor;
                }
                _ => return Err(ServiceError::UnexpectedResponse),
            }
            if cursor.is_none() || list.full {
                break;
            }
        }
        if cursor.is_some() {
            let (server, taken) = (&self.teller.server, list.offered.len());
            tracing::warn!(%server, "its list of tools goes on after the {taken} that are taken; the rest is not read");
        }
        Ok(list)
    }

    async fn made(&self, calling: &Calling) -> Result<Said, Box<Trouble>> {
        let doing = calling.tool.as_str();
        let Value::Object(arguments) = with_key(calling) else {
            return Err(self.teller.unsent(ToolFault::BadArguments, doing, "the arguments are no object"));
        };
        // A server may take longer to start than the call may: what runs out here never left.
        let connected = timeout(calling.within, self.connected()).await;
        let connection = connected.map_err(|_| self.teller.late(doing, calling.within, false))??;
        let mut params = CallToolRequestParams::new(calling.tool.clone()).with_arguments(arguments);
        let key = Value::String(calling.key.as_str().to_owned());
        params.meta = Some(RequestMetaObject(MetaObject(Map::from_iter([(KEY.to_owned(), key)]))));
        let heard = connection.aside(|aside| aside.heard);
        let _underway = Underway::on(&connection.calls);
        // Given up, the SDK tells the server so.
        let response = match timeout(calling.within, connection.service.peer().call_tool_once(params)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.trouble(&connection, doing, &error).await),
            Err(_) => {
                connection.silent_since(heard);
                let trouble = self.teller.late(doing, calling.within, true);
                let noise = connection.aside(|aside| aside.noise).filter(|noise| *noise > 0);
                return Err(match noise {
                    Some(noise) => {
                        let detail = format!("{}; it wrote {noise} lines that are no messages", trouble.detail);
                        Box::new(Trouble { detail, ..*trouble })
                    }
                    None => trouble,
                });
            }
        };
        let list = connection.held().map(|held| held.list).unwrap_or_default();
        let said = list.said(doing, response);
        said.map_err(|(fault, what)| self.teller.sent(fault, doing, what))
    }

    /// What an error of the SDK means.
    async fn trouble(&self, connection: &Connection, doing: &str, error: &ServiceError) -> Box<Trouble> {
        if let Some((fault, what)) = protocol_fault(error) {
            if fault == ToolFault::Gone {
                connection.changes.fetch_add(1, Ordering::AcqRel);
            }
            return self.teller.sent(fault, doing, what);
        }
        #[allow(clippy::wildcard_enum_match_arm, reason = "all the SDK's other words mean that the connection is over")]
        let http = match error {
            ServiceError::TransportSend(error) => remote::broken(error.error.as_ref()),
            ServiceError::UnexpectedResponse => {
                return self.teller.sent(
                    ToolFault::Protocol,
                    doing,
                    "it answers with something the protocol does not know",
                );
            }
            _ => None,
        };
        if let Some(broken) = http {
            if broken.over {
                connection.end();
            }
            return Box::new(Trouble {
                sent: broken.sent,
                status: broken.status,
                retry_after_s: broken.retry_after_s,
                ..*self.teller.sent(broken.fault, doing, broken.what)
            });
        }
        connection.end();
        let ended = match &connection.program {
            Some((running, aside)) => ending(running, aside).await,
            None => String::new(),
        };
        let what = if ended.is_empty() { "the connection broke".to_owned() } else { ended };
        self.teller.sent(ToolFault::Died, doing, what)
    }
}

fn in_words(error: &ErrorData) -> String {
    format!("error {}: {}", error.code.0, error.message)
}

/// How a program ended, and the last it said.
async fn ending(running: &Running, aside: &Mutex<Aside>) -> String {
    let mut ended = running.ended.clone();
    let status = timeout(ENDING, ended.wait_for(Option::is_some)).await;
    let status = status.ok().and_then(Result::ok).and_then(|status| status.clone());
    let log = aside.lock().unwrap_or_else(PoisonError::into_inner).log.clone();
    let status = status.unwrap_or_else(|| "it closed its output".to_owned());
    if log.is_empty() { status } else { format!("{status}; its last words: {log}") }
}

impl ToolServer for Server {
    fn name(&self) -> &Integration {
        &self.teller.server
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        Box::pin(async {
            let connection = self.connected().await?;
            Ok(self.list(&connection).await?.offered.clone())
        })
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(self.made(calling))
    }
}
