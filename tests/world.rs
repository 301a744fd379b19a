//! A world for agents with tools: scripted models, tools that keep their own book, and faults on cue.
//!
//! The books here are what the world saw. What the product counts itself is compared with them, never trusted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop::llm::simulated::Scripted;
use backstop::llm::{Message, Request, ToolCall};
use backstop::task::Integration;
use backstop::time::Timestamp;
pub(crate) use backstop::tool::Hints;
use backstop::tool::LOCAL;
use backstop::tools::{Calling, Offered, Pending, Said, ToolServer, Trouble};
use serde_json::{Value, json};

/// When most stories begin.
pub(crate) fn evening() -> Timestamp {
    Timestamp::parse("2026-11-21T23:00:00Z").expect("a time")
}

/// What a tool does when it is called.
pub(crate) enum Act {
    /// What it is for, and says so.
    Do,
    /// What it is for, but its answer is lost.
    DoThen(Box<Trouble>),
    /// Nothing, and says why.
    Fail(Box<Trouble>),
    /// Nothing but this answer.
    Say(String),
    /// Says no in so many words.
    SayNo(&'static str),
    /// What it is for, then nothing more is heard of it.
    DoThenHang,
    /// Nothing is ever heard of it.
    Hang,
    /// Its own code breaks.
    Panic,
    /// Its own code breaks once it has done what it is for.
    DoThenPanic,
}

/// A call as the world saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) tool: String,
    pub(crate) arguments: Value,
    pub(crate) key: String,
    /// Did it have its effect (again)?
    pub(crate) done: bool,
}

type Script = Box<dyn Fn(&Calling, u64) -> Act + Send + Sync>;

struct Inner {
    name: Integration,
    offered: Vec<Offered>,
    script: Script,
    seen: Mutex<Vec<Seen>>,
}

/// A server of tools with a book of its own. Clones share it.
#[derive(Clone)]
pub(crate) struct Workshop(Arc<Inner>);

/// A tool without a schema worth speaking of.
pub(crate) fn offered(tool: &str, hints: Hints) -> Offered {
    Offered {
        tool: tool.to_owned(),
        description: format!("Does {tool}."),
        schema: json!({ "type": "object" }),
        hints: Some(hints),
    }
}

pub(crate) const READS: Hints = Hints { read_only: Some(true), destructive: None, idempotent: None };
pub(crate) const IDEMPOTENT: Hints = Hints { read_only: None, destructive: None, idempotent: Some(true) };
pub(crate) const ONCE: Hints = Hints { read_only: None, destructive: None, idempotent: None };

impl Workshop {
    /// Tools of the name `local`, which is trusted; `script` is given each call and its number, first = 0.
    pub(crate) fn new(offered: Vec<Offered>, script: impl Fn(&Calling, u64) -> Act + Send + Sync + 'static) -> Self {
        let name = Integration::new(LOCAL).expect("a name");
        Self(Arc::new(Inner { name, offered, script: Box::new(script), seen: Mutex::default() }))
    }

    /// Everything it was asked, oldest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was done, by key: how often a world that honours keys was asked for the same.
    pub(crate) fn effects(&self) -> BTreeMap<String, (String, String, u32)> {
        let mut effects = BTreeMap::new();
        for seen in self.seen().into_iter().filter(|seen| seen.done) {
            let (_, _, times) = effects.entry(seen.key).or_insert((seen.tool, seen.arguments.to_string(), 0));
            *times += 1;
        }
        effects
    }
}

impl ToolServer for Workshop {
    fn name(&self) -> &Integration {
        &self.0.name
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        Box::pin(std::future::ready(Ok(self.0.offered.clone())))
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(async move {
            let number = self.seen().len() as u64;
            let act = (self.0.script)(calling, number);
            let done = matches!(act, Act::Do | Act::DoThen(_) | Act::DoThenHang | Act::DoThenPanic);
            self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Seen {
                tool: calling.tool.clone(),
                arguments: calling.arguments.clone(),
                key: calling.key.as_str().to_owned(),
                done,
            });
            match act {
                Act::Do => Ok(Said { text: format!("did {}", calling.arguments), failed: false }),
                Act::DoThen(trouble) | Act::Fail(trouble) => Err(trouble),
                Act::Say(text) => Ok(Said { text, failed: false }),
                Act::SayNo(words) => Ok(Said { text: words.to_owned(), failed: true }),
                Act::DoThenHang | Act::Hang => {
                    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
                    std::future::pending().await
                }
                Act::Panic | Act::DoThenPanic => panic!("the tool's own code broke"),
            }
        })
    }
}

/// A model's turn that wants these tools called.
pub(crate) fn calling(calls: &[(&str, Value)]) -> Scripted {
    let mut scripted = Scripted::text("");
    if let Ok(reply) = &mut scripted.result {
        reply.stop = "tool_use".to_owned();
        reply.calls = calls
            .iter()
            .enumerate()
            .map(|(n, (name, arguments))| ToolCall::written(format!("vendor-{n}"), *name, &arguments.to_string()))
            .collect();
    }
    scripted
}

/// The results a model sees, as far as they did not fail.
pub(crate) fn results(request: &Request) -> Vec<String> {
    let of = |message: &Message| match message {
        Message::Results { results } => {
            results.iter().filter(|result| !result.failed).map(|result| result.text.clone()).collect()
        }
        Message::User { .. } | Message::Assistant { .. } => Vec::new(),
    };
    request.messages.iter().flat_map(of).collect()
}
