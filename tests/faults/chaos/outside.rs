//! What stands outside of the process under chaos: the outage server as a process of its own, the model behind it, the shop, the pager.
//!
//! All but the outage server live in the harness and write down what they saw, and when, by a clock nobody steps.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::dice::Dice;
use super::load::{Kind, kind_of};
use crate::Outcome;
use crate::project::{TOO_LONG, binary};

/// One call of the model that came through.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) ticket: String,
    pub(super) at: Instant,
    pub(super) answered: Option<Instant>,
    /// Whoever asked is gone, and was not answered.
    dropped: bool,
}

/// One page that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Paged {
    pub(super) action: String,
    pub(super) key: String,
    pub(super) at: Instant,
}

/// What was seen from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    pub(super) calls: Vec<Call>,
    /// How often the shop was told to do something, by ticket, and the keys it came under.
    pub(super) shop: BTreeMap<String, Vec<String>>,
    pub(super) pages: Vec<Paged>,
    /// Pages that were refused while the pager was down.
    pub(super) refused: u32,
    pager_down: bool,
    asked: BTreeMap<String, u32>,
}

impl Books {
    /// Who has waited for an answer of the model since some moment after this, and is still there.
    pub(super) fn waiting(&self, since: Instant) -> BTreeSet<String> {
        let recent = self.calls.iter().rev().take(RECENT).take_while(|call| call.at >= since);
        let open = recent.filter(|call| call.answered.is_none() && !call.dropped);
        open.map(|call| call.ticket.clone()).collect()
    }

    /// Who was answered, or asked, after this moment; the first time.
    pub(super) fn since(&self, moment: Instant, of: impl Fn(&Call) -> Option<Instant>) -> BTreeMap<String, Instant> {
        let mut found = BTreeMap::new();
        for call in &self.calls[self.calls.len().saturating_sub(RECENT)..] {
            if let Some(at) = of(call).filter(|at| *at >= moment) {
                let first = found.entry(call.ticket.clone()).or_insert(at);
                *first = at.min(*first);
            }
        }
        found
    }
}

/// Calls further back than this are not looked at to see who waits: none takes as long as this many others.
const RECENT: usize = 20_000;

type Shared = Arc<Mutex<Books>>;

#[derive(Clone)]
struct Street {
    books: Shared,
    shop: Arc<String>,
    seed: u64,
}

/// The outside.
pub(super) struct Outside {
    books: Shared,
    address: std::net::SocketAddr,
    serving: tokio::task::JoinHandle<()>,
    // Killed when this is dropped.
    _outage: Child,
    outage: String,
    http: reqwest::Client,
}

impl Outside {
    pub(super) async fn start(seed: u64) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let books = Shared::default();
        let street = Street { books: Arc::clone(&books), shop: Arc::new(address.to_string()), seed };
        let app = Router::new()
            .route("/shop/{ticket}", post(sell))
            .route("/page", post(page))
            .fallback(any(answer))
            .with_state(street);
        let serving = tokio::spawn(async move {
            // It ends with the harness.
            let _ended = axum::serve(listener, app).await;
        });
        let mut command = Command::new(binary());
        command.args(["outage", "serve", "--port", "0", "--json", "--seed", &seed.to_string()]);
        command.args(["--upstream", &format!("http://{address}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", binary().display()))?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let url = timeout(TOO_LONG, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, url)) = line.split_once("\"url\": \"") {
                    return url.split('"').next().map(str::to_owned);
                }
            }
            None
        });
        let url = url.await.ok().flatten().ok_or("the outage server did not say where it is")?;
        let http = reqwest::Client::builder().no_proxy().timeout(TOO_LONG).build().expect("a client");
        Ok(Self { books, address, serving, _outage: child, outage: url, http })
    }

    /// Where the provider is: the outage server.
    pub(super) fn provider(&self) -> &str {
        &self.outage
    }

    /// Where the shop is: host and port.
    pub(super) fn shop(&self) -> String {
        self.address.to_string()
    }

    /// Where the pager is.
    pub(super) fn pager(&self) -> String {
        format!("http://{}/page", self.address)
    }

    /// Tells the outage server something.
    pub(super) async fn order(&self, order: &Value) -> Outcome<()> {
        let sent = self.http.post(format!("{}/_outage", self.outage)).json(order).send().await;
        match sent {
            Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
            Ok(answer) => Err(format!("the outage server: {}", answer.text().await.unwrap_or_default())),
            Err(error) => Err(format!("the outage server: {error}")),
        }
    }

    /// How many requests the outage server had, and how many of them failed, by status.
    pub(super) async fn traffic(&self) -> Outcome<(u64, Value)> {
        let seen = self.http.get(format!("{}/_outage", self.outage)).send().await;
        let seen = seen.map_err(|error| format!("the outage server: {error}"))?;
        let seen: Value = seen.json().await.map_err(|error| format!("the outage server: {error}"))?;
        Ok((seen["counters"]["requests"].as_u64().unwrap_or(0), seen["counters"]["by_status"].clone()))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pager refuses everything, or not any more.
    pub(super) fn pager_down(&self, down: bool) {
        self.with(|books| books.pager_down = down);
    }

    /// Looks at what was seen.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        self.with(|books| look(books))
    }

    /// Somebody buys, and pages, once more, so that it can be seen that this would be seen.
    pub(super) fn forge(&self, ticket: &str) {
        self.with(|books| {
            books.shop.entry(ticket.to_owned()).or_default().push("forged".to_owned());
            let page = books.pages.first().cloned();
            books.pages.extend(page.map(|page| Paged { at: Instant::now(), ..page }));
        });
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The name of the ticket in a prompt.
fn ticket_in(prompt: &str) -> Option<&str> {
    let (_, after) = prompt.split_once("ticket ")?;
    let (name, _) = after.split_once('.')?;
    kind_of(name).map(|_| name)
}

/// The model: it thinks for a while, and says what the ticket's kind wants.
async fn answer(State(street): State<Street>, body: Bytes) -> Response {
    let prompt = String::from_utf8_lossy(&body);
    let Some(name) = ticket_in(&prompt).map(str::to_owned) else {
        return streamed(&json!({ "type": "text", "text": "Nothing to do." }), "end_turn");
    };
    let kind = kind_of(&name).expect("it was looked up");
    let told = prompt.contains("\"tool_result\"");
    let (index, asked) = {
        let mut books = street.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.calls.push(Call { ticket: name.clone(), at: Instant::now(), answered: None, dropped: false });
        let asked = books.asked.entry(name.clone()).or_default();
        *asked += 1;
        let asked = *asked;
        (books.calls.len() - 1, asked)
    };
    let asking = Asking { books: Arc::clone(&street.books), index };
    let mut dice = Dice::new(street.seed ^ fnv(&name) ^ u64::from(asked));
    // One in forty thinks for longer than a drain may last.
    let thinks = if dice.one_in(40) { dice.between(6_000, 9_000) } else { dice.between(40, 700) };
    sleep(Duration::from_millis(thinks)).await;
    let text = |text: &str| (json!({ "type": "text", "text": text }), "end_turn");
    let (block, stop) = match kind {
        Kind::Review => text("Seen."),
        Kind::Fail => text("I would rather not say it in JSON."),
        Kind::Extract if asked == 1 && dice.one_in(5) => text("Here it is, in prose."),
        Kind::Extract => text(r#"{ "works": true }"#),
        Kind::Tell | Kind::Order | Kind::Charge if told => text("It is done."),
        Kind::Tell | Kind::Order | Kind::Charge => {
            let url = format!("http://{}/shop/{name}", street.shop);
            let input = json!({ "method": "POST", "url": url, "body": { "ticket": name } });
            (
                json!({ "type": "tool_use", "id": format!("toolu_{index}"), "name": "http_request", "input": input }),
                "tool_use",
            )
        }
    };
    let answered = Instant::now();
    street.books.lock().unwrap_or_else(PoisonError::into_inner).calls[index].answered = Some(answered);
    drop(asking);
    streamed(&block, stop)
}

/// A call that is being thought about; dropped with its connection.
struct Asking {
    books: Shared,
    index: usize,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let call = &mut books.calls[self.index];
        call.dropped = call.answered.is_none();
    }
}

/// An answer of one block, as Anthropic streams it.
fn streamed(block: &Value, stop: &str) -> Response {
    let call = block["type"] == "tool_use";
    let (mut begun, delta) = (
        block.clone(),
        if call {
            json!({ "type": "input_json_delta", "partial_json": block["input"].to_string() })
        } else {
            json!({ "type": "text_delta", "text": block["text"] })
        },
    );
    begun[if call { "input" } else { "text" }] = if call { json!({}) } else { json!("") };
    let message = json!({
        "id": "msg_chaos", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 40, "output_tokens": 1 },
    });
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": begun }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null },
            "usage": { "output_tokens": 9 } }),
        json!({ "type": "message_stop" }),
    ];
    let written = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default());
    let body: String = events.iter().map(written).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn sell(
    State(street): State<Street>,
    Path(ticket): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, &'static str) {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    // Written down when it comes: what is done is done, whether or not anybody hears of it.
    street.books.lock().unwrap_or_else(PoisonError::into_inner).shop.entry(ticket.clone()).or_default().push(key);
    let mut dice = Dice::new(street.seed ^ fnv(&ticket));
    sleep(Duration::from_millis(dice.between(5, 200))).await;
    (StatusCode::CREATED, "taken")
}

async fn page(State(street): State<Street>, body: Bytes) -> StatusCode {
    let page: Value = serde_json::from_slice(&body).unwrap_or_default();
    let word = |name: &str| page[name].as_str().unwrap_or_default().to_owned();
    let mut books = street.books.lock().unwrap_or_else(PoisonError::into_inner);
    if books.pager_down {
        books.refused += 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    books.pages.push(Paged { action: word("event_action"), key: word("dedup_key"), at: Instant::now() });
    StatusCode::ACCEPTED
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
