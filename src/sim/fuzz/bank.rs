//! The other side of the tools of a drawn team: a shop that finds, writes, charges and ships, and keeps books of its own.
//!
//! Its `charge` honours keys, as payment providers do, and counts every call all the same; `ship` knows no keys at all,
//! so that what is sent twice is shipped twice. It may lose an answer after the effect, fail before it, hang, or break.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::team::Knobs;
use crate::cause::ToolFault;
use crate::llm::{Message, Request};
use crate::sim::play::books::Used;
use crate::sim::play::cast::Cast;
use crate::sim::play::stage::Shared;
use crate::task::Integration;
use crate::tool::{Hints, LOCAL};
use crate::tools::{Calling, Offered, Pending, Said, ToolServer, Trouble};

/// What an order takes, in this order.
pub const PLAN: [&str; 4] = ["find", "upsert", "charge", "ship"];
/// What looks up whether a charge happened.
pub const PROBE: &str = "get_charge";

/// The shop, and the words of those who know it.
#[derive(Debug)]
pub struct Shop {
    troubles: f64,
    grace: Option<Duration>,
    secret: &'static str,
}

impl Shop {
    /// The shop of a drawn team.
    #[must_use]
    pub fn new(knobs: &Knobs) -> Arc<Self> {
        let grace = knobs.drains.then_some(Duration::from_secs(20));
        Arc::new(Self { troubles: knobs.tool_troubles, grace, secret: super::team::CANARIES[0] })
    }
}

/// The ticket that a text speaks of.
fn ticket(text: &str) -> Option<String> {
    let at = text.find("T-")?;
    Some(text[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, 'T' | '-')).collect())
}

impl Cast for Shop {
    fn tools(&self, stage: &Shared) -> Option<Arc<dyn ToolServer>> {
        let name = Integration::new(LOCAL).expect("a name");
        let counter = Counter { name, stage: Arc::clone(stage), troubles: self.troubles, secret: self.secret };
        Some(Arc::new(counter))
    }

    fn wants(&self, request: &Request) -> Vec<(String, Value)> {
        if request.tools.is_empty() {
            return Vec::new();
        }
        let first = request.messages.first().map(Message::text).unwrap_or_default();
        let Some(order) = ticket(&first) else { return Vec::new() };
        let done = |tool: &&str| {
            let mark = format!("\"tool\":\"{tool}\"");
            request.messages.iter().any(|message| match message {
                Message::Results { results } => {
                    results.iter().any(|result| !result.failed && result.text.contains(&mark))
                }
                Message::User { .. } | Message::Assistant { .. } => false,
            })
        };
        let next = PLAN.iter().find(|tool| !done(tool));
        next.map(|tool| ((*tool).to_owned(), json!({ "order": order, "tool": tool }))).into_iter().collect()
    }

    fn happened(&self, stage: &Shared, key: &str) -> (bool, String) {
        let books = stage.books.open();
        let of_key = || books.tools.iter().filter(|used| used.key == key && used.tool != PROBE);
        let tool = of_key().next().map_or("nothing", |used| used.tool.as_str());
        (of_key().any(|used| used.done), json!({ "tool": tool }).to_string())
    }

    fn grace(&self) -> Option<Duration> {
        self.grace
    }
}

/// Where the calls come in.
struct Counter {
    name: Integration,
    stage: Shared,
    troubles: f64,
    secret: &'static str,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Do,
    DoThenTimeout,
    DoThenDied,
    DoThen502,
    DoThenPanic,
    DoThenHang,
    TurnAway,
    Quotes,
    Panic,
}

impl Act {
    const fn does(self) -> bool {
        match self {
            Self::Do
            | Self::DoThenTimeout
            | Self::DoThenDied
            | Self::DoThen502
            | Self::DoThenPanic
            | Self::DoThenHang => true,
            Self::TurnAway | Self::Quotes | Self::Panic => false,
        }
    }
}

const TROUBLES: [Act; 8] = [
    Act::DoThenTimeout,
    Act::DoThenDied,
    Act::DoThen502,
    Act::DoThenPanic,
    Act::DoThenHang,
    Act::TurnAway,
    Act::Quotes,
    Act::Panic,
];

impl Counter {
    fn act(&self, number: u64) -> Act {
        let roll = |purpose| self.stage.dice.roll(purpose, "shop", number);
        if self.stage.is_calm() || roll("a tool's trouble") >= self.troubles {
            return Act::Do;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short list")]
        let place = (roll("which trouble") * TROUBLES.len() as f64) as usize;
        TROUBLES.get(place).copied().unwrap_or(Act::Do)
    }
}

impl ToolServer for Counter {
    fn name(&self) -> &Integration {
        &self.name
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        let once = Hints::default();
        let hints = |tool: &str| match tool {
            "find" | PROBE => Hints { read_only: Some(true), ..once },
            "upsert" => Hints { idempotent: Some(true), ..once },
            _ => once,
        };
        let offered = PLAN.iter().chain(&[PROBE]).map(|tool| Offered {
            tool: (*tool).to_owned(),
            description: format!("Does {tool}."),
            schema: json!({"type": "object"}),
            hints: Some(hints(tool)),
        });
        Box::pin(std::future::ready(Ok(offered.collect())))
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(async move {
            let tool = calling.tool.as_str();
            let key = calling.arguments["key"].as_str().unwrap_or(calling.key.as_str()).to_owned();
            let looks = tool == PROBE || tool == "find";
            let act = {
                let mut books = self.stage.books.open();
                let act = self.act(books.tools.len() as u64);
                let ticket = calling.arguments["order"].as_str().map(str::to_owned);
                let charge = |used: &&Used| used.key == key;
                let known = books.tools.iter().find(charge).map(|used| used.ticket.clone());
                books.tools.push(Used {
                    at: self.stage.elapsed(),
                    clock: self.stage.team_time(),
                    tool: tool.to_owned(),
                    ticket: ticket.or(known).unwrap_or_default(),
                    key: key.clone(),
                    done: act.does() && !looks,
                    told: act == Act::Do,
                });
                act
            };
            tokio::time::sleep(Duration::from_millis(700)).await;
            let died = |fault, what: &str| Err(Trouble::sent(fault, format!("{tool}: {what}")));
            match act {
                Act::Do if tool == PROBE => {
                    let books = self.stage.books.open();
                    let done = books.tools.iter().any(|used| used.key == key && used.tool == "charge" && used.done);
                    let status = if done { "succeeded" } else { "none" };
                    Ok(Said { text: json!({ "status": status, "tool": "charge" }).to_string(), failed: false })
                }
                Act::Do => {
                    Ok(Said { text: json!({ "did": calling.arguments, "tool": tool }).to_string(), failed: false })
                }
                Act::DoThenTimeout => died(ToolFault::Timeout, "no answer in time"),
                Act::DoThenDied => died(ToolFault::Died, "the connection broke"),
                Act::DoThen502 => {
                    let trouble = *Trouble::sent(ToolFault::Status, format!("{tool}: answered 502"));
                    Err(Box::new(Trouble { status: Some(502), ..trouble }))
                }
                Act::TurnAway => {
                    let trouble = *Trouble::sent(ToolFault::Status, format!("{tool}: answered 429"));
                    Err(Box::new(Trouble { status: Some(429), ..trouble }))
                }
                Act::Quotes => {
                    // A careless server that quotes what it was given.
                    let trouble = *Trouble::unsent(ToolFault::Refused, format!("{tool}: refused key {}", self.secret));
                    Err(Box::new(trouble))
                }
                Act::DoThenHang => {
                    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
                    std::future::pending().await
                }
                Act::DoThenPanic | Act::Panic => panic!("a bug in the tool's own code, on cue"),
            }
        })
    }
}
