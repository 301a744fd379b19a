//! Which request fails how: rules in order, the first that matches decides.
//!
//! Nothing here reads a clock or throws dice: the time is an argument, and what looks random is drawn from the seed and
//! the request itself, so that the same team under the same script sees the same failures in whatever order it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::agent::matches_pattern;
use crate::config::Wire;
use crate::scenario::Latency;

/// What the outage server does, request by request.
#[derive(Clone, Debug)]
pub struct Script {
    /// Where ids, latencies and filler words come from.
    pub seed: u64,
    /// Tried in order; the first that matches decides.
    pub rules: Vec<Rule>,
    /// What happens when no rule matches.
    pub otherwise: Behaviour,
    /// How long an answer takes at least and at most, in the server's (wall) time.
    pub latency: (Duration, Duration),
    /// How long answers of some models take instead, by the first pattern that fits.
    pub paces: Vec<(String, Latency)>,
    /// How long a refused request takes; none: as long as an answer.
    pub refusal: Option<Duration>,
}

/// One rule: when it matches, this happens.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for the record of requests and for [`Turns::recall`].
    pub name: String,
    /// Which requests it is for.
    pub when: When,
    /// What happens to them.
    pub then: Behaviour,
}

/// Which requests. All conditions given must hold; none given matches everything.
#[derive(Clone, Debug, Default)]
pub struct When {
    pub(super) wire: Option<Wire>,
    pub(super) model: Option<String>,
    pub(super) has: Vec<String>,
    pub(super) lacks: Vec<String>,
    pub(super) last: Vec<String>,
    pub(super) turns: Option<u64>,
    pub(super) tool: Option<String>,
    pub(super) calls: Option<RangeInclusive<u64>>,
    pub(super) between: Option<(Duration, Duration)>,
    pub(super) switch: Option<String>,
    pub(super) streamed: Option<bool>,
    pub(super) share: Option<f64>,
}

/// What the server does with a request. Statuses are Anthropic's and OpenAI's; other vendors have their own.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Answers, in full.
    Answer(Answer),
    /// Answers, piece by piece, with this long between pieces.
    Slow {
        /// What it says.
        answer: Answer,
        /// Between two pieces.
        pause: Duration,
    },
    /// Answers up to the token limit: `max_tokens`, `length`.
    Cut(Answer),
    /// The model declines, in these words.
    Refuse(String),
    /// An answer that violates the schema in the request; without a schema, prose in place of JSON.
    SchemaInvalid,
    /// A call of the first tool on offer with arguments that violate its schema; without tools, an answer.
    WrongArguments,
    /// The same call of the first tool on offer every turn; without tools, an answer.
    Loop,
    /// Out of capacity: 529 from Anthropic, 503 from OpenAI.
    Overloaded,
    /// 500.
    ServerError,
    /// 503, not for want of capacity.
    Unavailable,
    /// 504: somebody between us and the model gave up waiting.
    GatewayTimeout,
    /// 429 with the vendor's own hint; without a time, what is left of the rule's window.
    RateLimited {
        /// What the client is told to wait; rounded up to seconds where the vendor counts in seconds.
        retry_after: Option<Duration>,
    },
    /// 429 with a hint in a style that need not be the vendor's; without a time, what is left of the rule's window.
    RateLimitedHinting {
        /// How the hint is written.
        hint: Hint,
        /// What the client is told to wait.
        retry_after: Option<Duration>,
    },
    /// 429 that does not say for how long.
    RateLimitedSilently,
    /// 401: the key is revoked. Gemini says so with a 400.
    Unauthorized,
    /// 403: the key is known and may not do this.
    Forbidden,
    /// The account is out of money: 400 from Anthropic, 429 `insufficient_quota` from OpenAI.
    OutOfCredit,
    /// 404: no such model, or no longer.
    NoSuchModel,
    /// 400: the prompt is longer than the context.
    TooLong,
    /// A 200 whose stream turns into an error event half-way; without streaming, [`Behaviour::Overloaded`].
    ErrorMidStream,
    /// The stream (or body) ends half-way, cleanly, without its terminal event.
    Truncated,
    /// The connection breaks half-way.
    Reset,
    /// A stream that begins and then says no more: only pings, where the vendor has some.
    Stall,
    /// Nothing at all: not even headers.
    Hang,
    /// A 200 whose JSON is none: the whole body, or one event in the middle of the stream.
    Malformed,
    /// A 200 with a proxy's HTML page.
    Html,
}

/// How a 429 says how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `retry-after` in seconds.
    Seconds,
    /// `retry-after-ms`.
    Millis,
    /// `retry-after` as an HTTP date.
    Date,
    /// Only in the body: Gemini's `RetryInfo`, elsewhere in words.
    Body,
}

impl Behaviour {
    /// The same with its spans changed by `real`: for a server whose clock runs at another speed than its clients'.
    #[must_use]
    pub fn paced(mut self, real: impl Fn(Duration) -> Duration) -> Self {
        if let Some(Some(wait)) = self.wait() {
            *wait = real(*wait);
        }
        if let Self::Slow { pause, .. } = &mut self {
            *pause = real(*pause);
        }
        self
    }

    /// Is the request refused with a status, before any model has thought?
    #[must_use]
    pub const fn refuses(&self) -> bool {
        match self {
            Self::Overloaded
            | Self::ServerError
            | Self::Unavailable
            | Self::RateLimited { .. }
            | Self::RateLimitedHinting { .. }
            | Self::RateLimitedSilently
            | Self::Unauthorized
            | Self::Forbidden
            | Self::OutOfCredit
            | Self::NoSuchModel
            | Self::TooLong => true,
            Self::Answer(_)
            | Self::Slow { .. }
            | Self::Cut(_)
            | Self::Refuse(_)
            | Self::SchemaInvalid
            | Self::WrongArguments
            | Self::Loop
            | Self::GatewayTimeout
            | Self::ErrorMidStream
            | Self::Truncated
            | Self::Reset
            | Self::Stall
            | Self::Hang
            | Self::Malformed
            | Self::Html => false,
        }
    }

    /// The time a client is told to wait, if this behaviour tells one.
    const fn wait(&mut self) -> Option<&mut Option<Duration>> {
        match self {
            Self::RateLimited { retry_after } | Self::RateLimitedHinting { retry_after, .. } => Some(retry_after),
            Self::Answer(_)
            | Self::Slow { .. }
            | Self::Cut(_)
            | Self::Refuse(_)
            | Self::SchemaInvalid
            | Self::WrongArguments
            | Self::Loop
            | Self::Overloaded
            | Self::ServerError
            | Self::Unavailable
            | Self::GatewayTimeout
            | Self::RateLimitedSilently
            | Self::Unauthorized
            | Self::Forbidden
            | Self::OutOfCredit
            | Self::NoSuchModel
            | Self::TooLong
            | Self::ErrorMidStream
            | Self::Truncated
            | Self::Reset
            | Self::Stall
            | Self::Hang
            | Self::Malformed
            | Self::Html => None,
        }
    }
}

/// What a model says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These words.
    Text(String),
    /// The smallest JSON that meets the schema in the request, with words for its strings; without a schema a line of JSON.
    Sample,
    /// These words, if any, and then these tools are called.
    Calls {
        /// What is said before.
        text: String,
        /// The tools and their arguments. A string in place of an object stands for arguments that are none, as written.
        calls: Vec<(String, Value)>,
    },
}

impl Answer {
    /// Words, if any, and calls of tools with their arguments.
    #[must_use]
    pub fn calls<'a>(text: impl Into<String>, calls: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let calls = calls.into_iter().map(|(name, arguments)| (name.to_owned(), arguments)).collect();
        Self::Calls { text: text.into(), calls }
    }
}

/// A request, as far as a rule can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// On which wire.
    pub wire: Wire,
    /// Of which model.
    pub model: String,
    /// System prompt and all messages, one after the other, results of tools included.
    pub prompt: String,
    /// What was said since the model's last turn: the asker's words, or results of tools.
    pub last: String,
    /// How often the model had its turn before.
    pub turns: u64,
    /// The names of the tools on offer.
    pub tools: Vec<String>,
    /// Is a stream wanted?
    pub stream: bool,
}

/// How often each rule matched, and which switches are on: all that changes while a script runs.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    calls: BTreeMap<String, u64>,
    on: BTreeSet<String>,
}

/// What a script decided about a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Cue {
    /// The rule that matched; none when it was [`Script::otherwise`].
    pub rule: Option<String>,
    /// What happens. A rate limit that tells a time has it filled in.
    pub then: Behaviour,
}

impl Script {
    /// A script without rules: everything is answered by a sample, at once.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rules: Vec::new(),
            otherwise: Behaviour::Answer(Answer::Sample),
            latency: (Duration::ZERO, Duration::ZERO),
            paces: Vec::new(),
            refusal: None,
        }
    }

    /// Adds a rule after those there are.
    #[must_use]
    pub fn rule(mut self, name: impl Into<String>, when: When, then: Behaviour) -> Self {
        self.rules.push(Rule { name: name.into(), when, then });
        self
    }

    /// Puts a rule before those there are, in place of the one of the same name, if there is one.
    pub fn add(&mut self, rule: Rule) {
        self.remove(&rule.name);
        self.rules.insert(0, rule);
    }

    /// Takes a rule away. Was there one of this name?
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.name != name);
        self.rules.len() < before
    }

    /// Sets how long answers take, in the server's (wall) time.
    #[must_use]
    pub const fn latency(mut self, least: Duration, most: Duration) -> Self {
        self.latency = (least, most);
        self
    }

    /// Decides about one request, `elapsed` after the beginning, and counts it.
    pub fn cue(&self, asked: &Asked, elapsed: Duration, turns: &mut Turns) -> Cue {
        for rule in &self.rules {
            if !rule.when.holds(asked, elapsed, &turns.on) {
                continue;
            }
            let count = turns.calls.entry(rule.name.clone()).or_default();
            *count += 1;
            if rule.when.calls.as_ref().is_some_and(|calls| !calls.contains(count)) {
                continue;
            }
            let nth = count.to_string();
            if rule.when.share.is_some_and(|share| self.chance(&["share", &rule.name, &nth]) >= share) {
                continue;
            }
            return Cue { rule: Some(rule.name.clone()), then: rule.resolved(elapsed) };
        }
        Cue { rule: None, then: self.otherwise.clone() }
    }

    /// A number that depends on the seed and these words only.
    #[must_use]
    pub fn dice(&self, words: &[&str]) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        for word in words {
            hash.update((word.len() as u64).to_be_bytes());
            hash.update(word.as_bytes());
        }
        let digest = hash.finalize();
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// A number from 0 up to, not including, 1 that depends on the seed and these words only.
    #[must_use]
    pub fn chance(&self, words: &[&str]) -> f64 {
        // The upper 53 bits: as many as an `f64` tells apart.
        (self.dice(words) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How long the response to this request takes, whatever it is.
    #[must_use]
    pub fn takes(&self, then: &Behaviour, asked: &Asked) -> Duration {
        self.refusal.filter(|_| then.refuses()).unwrap_or_else(|| self.thinking(asked))
    }

    /// How long the answer to this request takes.
    #[must_use]
    pub fn thinking(&self, asked: &Asked) -> Duration {
        if let Some((_, latency)) = self.paces.iter().find(|(pattern, _)| matches_pattern(pattern, &asked.model)) {
            return latency.at(self.chance(&["latency", &asked.model, &asked.prompt]));
        }
        let (least, most) = self.latency;
        let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
        let more = self.dice(&["latency", &asked.model, &asked.prompt]) % span.saturating_add(1);
        least + Duration::from_micros(more)
    }
}

impl Rule {
    fn resolved(&self, elapsed: Duration) -> Behaviour {
        let mut then = self.then.clone();
        if let Some(wait @ None) = then.wait() {
            // What has no end gives no time: come back at once.
            let end = self.when.between.map(|(_, end)| end).filter(|end| *end < Duration::MAX);
            *wait = Some(end.unwrap_or(elapsed).saturating_sub(elapsed));
        }
        then
    }
}

impl When {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Only on this wire.
    #[must_use]
    pub const fn wire(mut self, wire: Wire) -> Self {
        self.wire = Some(wire);
        self
    }

    /// Only of this model; a `*` at the end stands for any rest.
    #[must_use]
    pub fn model(mut self, pattern: impl Into<String>) -> Self {
        self.model = Some(pattern.into());
        self
    }

    /// Only with these words somewhere in the prompt, such as a task's key. May be said more than once.
    #[must_use]
    pub fn prompt_has(mut self, words: impl Into<String>) -> Self {
        self.has.push(words.into());
        self
    }

    /// Only without these words in the prompt. May be said more than once.
    #[must_use]
    pub fn prompt_lacks(mut self, words: impl Into<String>) -> Self {
        self.lacks.push(words.into());
        self
    }

    /// Only with these words in what was said since the model's last turn, such as a tool's result. May be said more
    /// than once.
    #[must_use]
    pub fn last_has(mut self, words: impl Into<String>) -> Self {
        self.last.push(words.into());
        self
    }

    /// Only when the model had its turn so often before: 0 for the first request of a conversation.
    #[must_use]
    pub const fn turns(mut self, turns: u64) -> Self {
        self.turns = Some(turns);
        self
    }

    /// Only with this tool on offer.
    #[must_use]
    pub fn offers(mut self, tool: impl Into<String>) -> Self {
        self.tool = Some(tool.into());
        self
    }

    /// Only the n-th of the requests that meet everything else, the first = 1.
    #[must_use]
    pub const fn calls(mut self, which: RangeInclusive<u64>) -> Self {
        self.calls = Some(which);
        self
    }

    /// Only at `from <= t < to` after the beginning, on the server's clock.
    #[must_use]
    pub const fn between(mut self, from: Duration, to: Duration) -> Self {
        self.between = Some((from, to));
        self
    }

    /// Only while this switch is on. Switches are off at first.
    #[must_use]
    pub fn switch(mut self, name: impl Into<String>) -> Self {
        self.switch = Some(name.into());
        self
    }

    /// Only streams, or only the others.
    #[must_use]
    pub const fn streamed(mut self, streamed: bool) -> Self {
        self.streamed = Some(streamed);
        self
    }

    /// Only this share of the requests that meet everything else, 0 to 1: a brown-out. Which of them is drawn from the
    /// script's seed and the number of the request among those.
    #[must_use]
    pub const fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }

    fn holds(&self, asked: &Asked, elapsed: Duration, on: &BTreeSet<String>) -> bool {
        self.wire.is_none_or(|wire| wire == asked.wire)
            && self.model.as_ref().is_none_or(|pattern| matches_pattern(pattern, &asked.model))
            && self.has.iter().all(|words| asked.prompt.contains(words))
            && !self.lacks.iter().any(|words| asked.prompt.contains(words))
            && self.last.iter().all(|words| asked.last.contains(words))
            && self.turns.is_none_or(|turns| turns == asked.turns)
            && self.tool.as_ref().is_none_or(|tool| asked.tools.contains(tool))
            && self.between.is_none_or(|(from, to)| (from..to).contains(&elapsed))
            && self.switch.as_ref().is_none_or(|name| on.contains(name))
            && self.streamed.is_none_or(|streamed| streamed == asked.stream)
    }
}

impl Turns {
    /// Turns a switch on or off.
    pub fn switch(&mut self, name: &str, on: bool) {
        if on {
            self.on.insert(name.to_owned());
        } else {
            self.on.remove(name);
        }
    }

    /// The switches that are on.
    pub fn switches(&self) -> impl Iterator<Item = &str> {
        self.on.iter().map(String::as_str)
    }

    /// Forgets how often a rule matched.
    pub fn forget(&mut self, rule: &str) {
        self.calls.remove(rule);
    }

    /// Takes `calls` earlier matches of a rule as made: what a resumed scenario tells a new server.
    pub fn recall(&mut self, rule: &str, calls: u64) {
        self.calls.insert(rule.to_owned(), calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(model: &str, prompt: &str) -> Asked {
        Asked {
            wire: Wire::Anthropic,
            model: model.into(),
            prompt: prompt.into(),
            last: "a cat".into(),
            turns: 2,
            tools: vec!["look".into()],
            stream: true,
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_condition_decides() {
        let good = asked("claude-opus-5-5", "review BS-014 please");
        let table = [
            ("any", When::any(), true),
            ("wire", When::any().wire(Wire::Anthropic), true),
            ("other wire", When::any().wire(Wire::OpenAi), false),
            ("model", When::any().model("claude-*"), true),
            ("other model", When::any().model("gpt-*"), false),
            ("words", When::any().prompt_has("BS-014"), true),
            ("one of two words", When::any().prompt_has("BS-014").prompt_has("BS-015"), false),
            ("without", When::any().prompt_lacks("is a required property"), true),
            ("not without", When::any().prompt_lacks("review"), false),
            ("last words", When::any().last_has("cat"), true),
            ("words of before", When::any().last_has("review"), false),
            ("third turn", When::any().turns(2), true),
            ("first turn", When::any().turns(0), false),
            ("tool", When::any().offers("look"), true),
            ("other tool", When::any().offers("lo"), false),
            ("window begins", When::any().between(s(20), s(30)), true),
            ("window ends", When::any().between(s(10), s(20)), false),
            ("switch off", When::any().switch("blip"), false),
            ("switch on", When::any().switch("flood"), true),
            ("stream", When::any().streamed(true), true),
            ("no stream", When::any().streamed(false), false),
            ("second call", When::any().calls(2..=2), false),
        ];
        for (name, when, matches) in table {
            let script = Script::new(1).rule("it", when, Behaviour::Overloaded);
            let mut turns = Turns::default();
            turns.switch("flood", true);
            let cue = script.cue(&good, s(20), &mut turns);
            assert_eq!(cue.then == Behaviour::Overloaded, matches, "{name}");
        }
    }

    #[test]
    fn calls_count_only_what_meets_the_rest() {
        let script =
            Script::new(1).rule("first two", When::any().prompt_has("BS-014").calls(2..=3), Behaviour::ServerError);
        let mut turns = Turns::default();
        let mut run = |prompt| script.cue(&asked("m", prompt), s(0), &mut turns).rule.is_some();
        let seen: Vec<bool> = ["BS-014", "BS-015", "BS-014", "BS-014", "BS-014"].into_iter().map(&mut run).collect();
        assert_eq!(seen, [false, false, true, true, false]);
        turns.recall("first two", 1);
        assert!(script.cue(&asked("m", "BS-014"), s(0), &mut turns).rule.is_some(), "one call was made before");
    }

    #[test]
    fn a_brown_out_takes_its_share_and_the_same_requests_each_time() {
        let run = |seed, share| -> Vec<bool> {
            let script = Script::new(seed).rule("brown", When::any().share(share), Behaviour::Overloaded);
            let mut turns = Turns::default();
            (0..1_000).map(|_| script.cue(&asked("m", "p"), s(0), &mut turns).rule.is_some()).collect()
        };
        let hit = |hits: &[bool]| hits.iter().filter(|hit| **hit).count();
        assert_eq!((hit(&run(7, 0.0)), hit(&run(7, 1.0))), (0, 1_000));
        assert!((250..350).contains(&hit(&run(7, 0.3))), "{}", hit(&run(7, 0.3)));
        assert_eq!(run(7, 0.3), run(7, 0.3));
        assert_ne!(run(7, 0.3), run(8, 0.3));
    }

    #[test]
    fn a_rule_added_later_comes_first_and_replaces_its_namesake() {
        let mut script = Script::new(1).rule("old", When::any(), Behaviour::ServerError);
        let said = |script: &Script| script.cue(&asked("m", "p"), s(0), &mut Turns::default()).then;
        script.add(Rule { name: "new".into(), when: When::any(), then: Behaviour::Overloaded });
        assert_eq!(said(&script), Behaviour::Overloaded);
        script.add(Rule { name: "new".into(), when: When::any(), then: Behaviour::Html });
        assert_eq!((said(&script), script.rules.len()), (Behaviour::Html, 2));
        assert!(script.remove("new") && !script.remove("new"));
        assert_eq!(said(&script), Behaviour::ServerError);
    }

    #[test]
    fn a_rate_limit_without_a_time_lasts_to_the_end_of_its_window() {
        let script = Script::new(1).rule(
            "quota",
            When::any().between(s(80), s(140)),
            Behaviour::RateLimited { retry_after: None },
        );
        let cue = script.cue(&asked("m", "p"), s(90), &mut Turns::default());
        assert_eq!(cue.then, Behaviour::RateLimited { retry_after: Some(s(50)) });
        let endless = When::any().between(s(80), Duration::MAX);
        let script = Script::new(1).rule("quota", endless, Behaviour::RateLimited { retry_after: None });
        let cue = script.cue(&asked("m", "p"), s(90), &mut Turns::default());
        assert_eq!(cue.then, Behaviour::RateLimited { retry_after: Some(s(0)) });
    }

    #[test]
    fn dice_and_latency_depend_on_seed_and_request_only() {
        let script = Script::new(7).latency(s(1), s(3));
        let ask = asked("m", "p");
        assert_eq!(script.thinking(&ask), script.thinking(&ask));
        assert!((s(1)..=s(3)).contains(&script.thinking(&ask)));
        assert_ne!(script.dice(&["a", "b"]), script.dice(&["ab"]), "words do not run together");
        assert_ne!(script.dice(&["a"]), Script::new(8).dice(&["a"]));
    }
}
