//! MCP servers: one connection each, started when first used, shared by all, started anew on the next use after it died.
//!
//! Nothing loops here: a use starts a server at most once, or joins a start that is under way (`start.rs`), and whether it
//! is used again is the breaker's to say.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, Implementation, ListToolsRequest,
    MetaObject, PaginatedRequestParams, ProtocolVersion, RequestMetaObject, ServerResult,
};
use rmcp::service::{NotificationContext, RoleClient, RunningService};
use rmcp::{ClientHandler, ServiceError};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::answer::{List, protocol_fault};
use self::remote::Remote;
use self::start::{Start, Started, Starter};
use self::stdio::{Aside, Running};
use super::{Calling, Error, Offered, Pending, Said, Teller, ToolServer, Trouble, with_key};
use crate::cause::ToolFault;
use crate::task::Integration;
use crate::tool_config::{McpConfig, Transport};

mod answer;
mod remote;
mod start;
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
    teller: Arc<Teller>,
    starter: Arc<Starter>,
    /// The last start, and the connection it made.
    last: Mutex<Option<Start>>,
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
        let teller = Arc::new(Teller::new(name, secrets.values()));
        let starter = Starter { teller: Arc::clone(&teller), config: config.clone(), remote };
        Ok(Self { teller, starter: Arc::new(starter), last: Mutex::default() })
    }

    /// The connection, started if there is none. Those who wait for a start that fails share how it failed.
    async fn connected(&self) -> Started {
        let mut ended = self.start();
        let ended = ended.wait_for(Option::is_some).await;
        let started = ended.ok().and_then(|started| started.clone());
        started.unwrap_or_else(|| Err(self.teller.unsent(ToolFault::Unreachable, "", "its start was cut off")))
    }

    /// The start that is under way or of which there is a connection, else a new one.
    fn start(&self) -> watch::Receiver<Option<Started>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = last.as_ref().filter(|start| start.is_of_use()) {
            return start.ended();
        }
        // What there was ends before another begins.
        *last = None;
        last.insert(Start::begin(Arc::clone(&self.starter))).ended()
    }

    /// Its tools, asked for if they may have changed.
    async fn list(&self, connection: &Connection) -> Result<Arc<List>, Box<Trouble>> {
        let as_of = connection.changes.load(Ordering::Acquire);
        let fresh = |held: &Held| held.as_of == as_of && held.at.elapsed() < LIST_FRESH;
        if let Some(held) = connection.held().filter(fresh) {
            return Ok(held.list);
        }
        let within = self.starter.config.start_within;
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
