//! What stands outside of the process and remembers what it saw: a model, a shop that takes money, a pager.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use backstop::sim::OutageServer;
use backstop::sim::script::{Answer, Behaviour, Script, When};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Outcome;
use crate::ledger::Ticket;
use crate::project::TOO_LONG;

/// While it is on, tasks that fail do fail.
const BROKEN: &str = "broken";

/// What was seen from outside, by ticket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// How often the model was asked to begin a ticket.
    pub(crate) begun: BTreeMap<String, u32>,
    /// What the shop was told to do: charges and orders, each with the key it came under.
    pub(crate) shop: Vec<(String, String)>,
    /// Pages, in order: what was done, and under which dedup key.
    pub(crate) pages: Vec<(String, String)>,
}

type Shared = Arc<Mutex<Books>>;

/// The outside.
pub(crate) struct World {
    model: OutageServer,
    address: SocketAddr,
    /// Connections to the shop and the pager.
    open: watch::Sender<usize>,
    books: Shared,
    before: Books,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    /// A world in which these tickets can be worked on, that remembers what went before.
    pub(crate) async fn start(tickets: &[Ticket], before: Books) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let books = Shared::default();
        let app =
            Router::new().route("/shop/{ticket}", post(sell)).route("/page", post(page)).with_state(Arc::clone(&books));
        let open = watch::Sender::new(0);
        let door = Door { listener, open: open.clone() };
        let serving = tokio::spawn(async move {
            // It ends with the harness.
            let _ended = axum::serve(door, app).await;
        });
        let mut script = Script::new(7);
        for ticket in tickets {
            let name = ticket.name();
            let (about, asked) = (ticket.words(), || When::any().prompt_has(ticket.words()));
            script = match ticket {
                Ticket::Review(_) => {
                    script.rule(&name, asked(), Behaviour::Answer(Answer::Text(format!("Seen: {about}"))))
                }
                Ticket::Fail(_) => script.rule(&name, asked().switch(BROKEN), Behaviour::SchemaInvalid).rule(
                    format!("{name} well"),
                    asked(),
                    Behaviour::Answer(Answer::Text(r#"{ "works": true }"#.to_owned())),
                ),
                Ticket::Later(_) => script.rule(&name, asked(), Behaviour::ServerError),
                Ticket::Order(_) | Ticket::Charge(_) => {
                    let url = format!("http://{address}/shop/{name}");
                    let call = ("http_request", json!({ "method": "POST", "url": url, "body": { "ticket": name } }));
                    script.rule(&name, asked().turns(0), Behaviour::Answer(Answer::calls("I do it.", [call]))).rule(
                        format!("{name} done"),
                        asked(),
                        Behaviour::Answer(Answer::Text("It is done.".to_owned())),
                    )
                }
            };
        }
        let model = OutageServer::start(script).await.map_err(|error| error.to_string())?;
        model.switch(BROKEN, true);
        Ok(Self { model, address, open, books, before, serving })
    }

    /// Where the model is.
    pub(crate) fn model(&self) -> String {
        self.model.url()
    }

    /// Where the shop is: host and port.
    pub(crate) fn shop(&self) -> String {
        self.address.to_string()
    }

    /// Where the pager is.
    pub(crate) fn pager(&self) -> String {
        format!("http://{}/page", self.address)
    }

    /// Returns when all that a process that is dead by now had sent to the shop and the pager has been written down. On a busy
    /// machine the harness itself may come to it late, and find a call behind the end that the next process sent: an order
    /// that nobody outside of the harness has seen.
    pub(crate) async fn quiet(&self) -> Outcome<()> {
        let asked = async {
            // Whoever came before this one has been let in when it is answered.
            let mut last = TcpStream::connect(self.address).await?;
            last.write_all(b"GET /quiet HTTP/1.0\r\n\r\n").await?;
            last.read_to_end(&mut Vec::new()).await
        };
        let gone = async {
            asked.await.map_err(|error| format!("the world does not answer: {error}"))?;
            let mut open = self.open.subscribe();
            open.wait_for(|open| *open == 0).await.map(drop).map_err(|error| error.to_string())
        };
        timeout(TOO_LONG, gone).await.map_err(|_| "somebody dead is still connected to the world")?
    }

    /// What failed works again.
    pub(crate) fn mend(&self) {
        self.model.switch(BROKEN, false);
    }

    /// Somebody buys once more under this ticket, so that it can be seen that this would be seen.
    pub(crate) fn forge(&self, ticket: Ticket) {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).shop.push((ticket.name(), "forged".to_owned()));
    }

    /// Everything that was seen, ever.
    pub(crate) fn books(&self) -> Books {
        let mut books = self.before.clone();
        for served in self.model.requests() {
            let Some(rule) = served.rule else { continue };
            // The turns after the first carry another name.
            if let Some(name) = rule.split(' ').next().filter(|name| *name == rule || rule.ends_with(" well")) {
                *books.begun.entry(name.to_owned()).or_default() += 1;
            }
        }
        let seen = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.shop.extend(seen.shop.iter().cloned());
        books.pages.extend(seen.pages.iter().cloned());
        books
    }
}

/// The door to the shop and the pager, which knows how many are inside.
struct Door {
    listener: TcpListener,
    open: watch::Sender<usize>,
}

impl axum::serve::Listener for Door {
    type Io = Inside;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Inside, SocketAddr) {
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        self.open.send_modify(|open| *open += 1);
        (Inside { stream, open: self.open.clone() }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, counted until it is closed.
struct Inside {
    stream: TcpStream,
    open: watch::Sender<usize>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

impl AsyncRead for Inside {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Inside {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn sell(
    State(books): State<Shared>,
    Path(ticket): Path<String>,
    headers: axum::http::HeaderMap,
) -> (StatusCode, &'static str) {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    books.lock().unwrap_or_else(PoisonError::into_inner).shop.push((ticket, key));
    (StatusCode::CREATED, "taken")
}

async fn page(State(books): State<Shared>, body: Bytes) -> StatusCode {
    let page: Value = serde_json::from_slice(&body).unwrap_or_default();
    let word = |name: &str| page[name].as_str().unwrap_or_default().to_owned();
    books.lock().unwrap_or_else(PoisonError::into_inner).pages.push((word("event_action"), word("dedup_key")));
    StatusCode::ACCEPTED
}
