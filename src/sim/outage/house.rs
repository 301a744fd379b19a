//! What an outage server knows: its script, its clock, the latest requests, and how many there were.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::proxy::Upstream;
use super::{Now, Options};
use crate::config::Wire;
use crate::sim::heard::Incoming;
use crate::sim::script::{Asked, Behaviour, Cue, Rule, Script, Turns};
use crate::sim::spec;
use crate::sim::wire::{self, Draw, Outgoing};
use crate::time::Timestamp;

/// How much of a prompt is remembered, in characters.
const EXCERPT: usize = 400;

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its number, in the order it was decided about, first = 1.
    pub number: u64,
    /// When it came, by the server's clock.
    pub at: Timestamp,
    /// On which wire.
    pub wire: Wire,
    /// Of which model; empty when the request was not read.
    pub model: String,
    /// Was a stream wanted?
    pub stream: bool,
    /// The rule that decided; none when no rule matched, or the request was refused before any was asked.
    pub rule: Option<String>,
    /// What happened; none when the request was refused before any rule was asked, or left to the upstream.
    pub behaviour: Option<Behaviour>,
    /// The status sent.
    pub status: u16,
    /// The end of its prompt, at most 400 characters.
    pub prompt: String,
    /// Tokens said to be read; 0 where the upstream answered.
    pub input_tokens: u64,
    /// Tokens said to be written; 0 where the upstream answered.
    pub output_tokens: u64,
    /// Was the upstream asked?
    pub upstream: bool,
}

impl Served {
    /// Was it given a whole answer by this server?
    #[must_use]
    pub fn answered(&self) -> bool {
        matches!(self.behaviour, Some(Behaviour::Answer(_) | Behaviour::Slow { .. })) && !self.upstream
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "number": self.number, "at": self.at.to_string(), "wire": wire::name(self.wire), "model": self.model,
            "stream": self.stream, "rule": self.rule, "fault": self.behaviour.as_ref().map(spec::fault),
            "status": self.status, "upstream": self.upstream, "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens, "prompt": self.prompt,
        })
    }
}

/// How many requests there were, from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// All.
    pub requests: u64,
    /// By wire.
    pub by_wire: BTreeMap<&'static str, u64>,
    /// By the status sent.
    pub by_status: BTreeMap<u16, u64>,
    /// By the rule that decided.
    pub by_rule: BTreeMap<String, u64>,
}

impl Counters {
    pub(super) fn shown(&self) -> Value {
        json!({"requests": self.requests, "by_wire": self.by_wire, "by_status": self.by_status, "by_rule": self.by_rule})
    }
}

/// All that a request handler needs.
pub(super) struct House {
    pub(super) speed: f64,
    pub(super) upstream: Option<Upstream>,
    pub(super) count: watch::Sender<u64>,
    pub(super) stop: CancellationToken,
    now: Now,
    origin: Timestamp,
    remembered: usize,
    room: Mutex<Room>,
}

/// All that changes while it runs.
pub(super) struct Room {
    pub(super) script: Script,
    pub(super) turns: Turns,
    pub(super) served: VecDeque<Served>,
    pub(super) counters: Counters,
    /// Requests that came, decided about or not.
    came: u64,
}

impl Room {
    pub(super) fn add(&mut self, rule: Rule) {
        self.turns.forget(&rule.name);
        self.script.add(rule);
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.turns.forget(name);
        self.script.remove(name)
    }
}

impl House {
    pub(super) fn new(script: Script, options: &Options, upstream: Option<Upstream>, stop: CancellationToken) -> Self {
        let (now, origin) = options.clock.clone().unwrap_or_else(|| {
            let (began, since) = (wall(), tokio::time::Instant::now());
            let speed = options.speed;
            let now: Now = Arc::new(move || began + scaled(since.elapsed(), speed));
            (now, began)
        });
        let room =
            Room { script, turns: Turns::default(), served: VecDeque::new(), counters: Counters::default(), came: 0 };
        Self {
            speed: options.speed,
            upstream,
            count: watch::Sender::new(0),
            stop,
            now,
            origin,
            remembered: options.remembered,
            room: Mutex::new(room),
        }
    }

    pub(super) fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Since the script began, by the server's clock.
    pub(super) fn elapsed(&self) -> Duration {
        self.now().since(self.origin)
    }

    /// A span of the script in real time.
    pub(super) fn real(&self, span: Duration) -> Duration {
        scaled(span, 1.0 / self.speed)
    }

    /// Names and numbers for this request: words that depend on it alone, ids that differ from all others'.
    pub(super) fn draw(&self, wire: Wire, body: &[u8]) -> Draw {
        let mut room = self.room();
        let nth = room.came.to_string();
        room.came += 1;
        let body = String::from_utf8_lossy(body);
        let wire = wire::name(wire);
        Draw {
            dice: room.script.dice(&["ids", wire, &nth, &body]),
            words: room.script.dice(&["words", wire, &body]),
            created: self.now().millis().div_euclid(1_000),
        }
    }

    /// What happens to this request, and how long that takes: spans in real time.
    pub(super) fn cue(&self, asked: &Asked) -> (Cue, Duration) {
        let elapsed = self.elapsed();
        let mut room = self.room();
        let Room { script, turns, .. } = &mut *room;
        let cue = script.cue(asked, elapsed, turns);
        let thinking = self.real(script.takes(&cue.then, asked));
        let then = cue.then.paced(|span| self.real(span));
        (Cue { rule: cue.rule, then }, thinking)
    }

    pub(super) fn remember(&self, at: Timestamp, wire: Wire, incoming: Option<&Incoming>, fate: Fate, out: Sent) {
        let number = {
            let mut room = self.room();
            let counters = &mut room.counters;
            counters.requests += 1;
            *counters.by_wire.entry(wire::name(wire)).or_default() += 1;
            *counters.by_status.entry(out.status).or_default() += 1;
            if let Some(rule) = &fate.rule {
                *counters.by_rule.entry(rule.clone()).or_default() += 1;
            }
            let number = counters.requests;
            let prompt = incoming.map(|incoming| incoming.asked.prompt.as_str()).unwrap_or_default();
            while room.served.len() >= self.remembered.max(1) {
                room.served.pop_front();
            }
            room.served.push_back(Served {
                number,
                at,
                wire,
                model: incoming.map(|incoming| incoming.asked.model.clone()).unwrap_or_default(),
                stream: incoming.is_some_and(|incoming| incoming.asked.stream),
                rule: fate.rule,
                behaviour: fate.behaviour,
                status: out.status,
                prompt: prompt.chars().skip(prompt.chars().count().saturating_sub(EXCERPT)).collect(),
                input_tokens: out.input_tokens,
                output_tokens: out.output_tokens,
                upstream: fate.upstream,
            });
            number
        };
        self.count.send_replace(number);
    }
}

/// Who decided about a request, and how.
#[derive(Default)]
pub(super) struct Fate {
    pub(super) rule: Option<String>,
    pub(super) behaviour: Option<Behaviour>,
    pub(super) upstream: bool,
}

/// What went out, in numbers.
pub(super) struct Sent {
    pub(super) status: u16,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
}

impl From<&Outgoing> for Sent {
    fn from(out: &Outgoing) -> Self {
        Self { status: out.status, input_tokens: out.input_tokens, output_tokens: out.output_tokens }
    }
}

impl Sent {
    /// A status, and nothing known of tokens.
    pub(super) const fn status(status: u16) -> Self {
        Self { status, input_tokens: 0, output_tokens: 0 }
    }
}

/// A span times this; centuries when that is more than there is.
fn scaled(span: Duration, by: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * by).unwrap_or(Duration::MAX)
}

/// The wall clock of this machine: ids and dates of a server for strangers are of today.
#[allow(clippy::disallowed_methods, reason = "the outside world this server plays has the real date")]
fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
