//! A scenario: how much work comes, how the models answer, what breaks when, and what must be true at the end.
//!
//! One scenario drives both ways of breaking a provider: the simulation in virtual time and the outage server on the
//! wire. Here is what it says and what it means at a moment; who reads the file is `definitions/scenario_file.rs`, who plays
//! it is `sim/`. Spans count from the beginning of the run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::matches_pattern;
use crate::assertion::{Assertion, Measure};
use crate::normal;
use crate::task::{AgentName, Integration, Priority, TaskType, words};
use crate::time::Timestamp;

/// Where a recorded or simulated run begins unless the scenario says so: a Monday morning.
pub const START: Timestamp = Timestamp::from_millis(1_769_990_400_000);
/// How long a run may take to come to rest after its last fault and its last task, unless the scenario says so: the
/// longest a page waits for its next reminder, and a day of people deciding.
pub const DRAIN: Duration = Duration::from_secs(2 * 86_400);
/// The longest run: two years.
pub const LONGEST_RUN: Duration = Duration::from_secs(2 * 366 * 86_400);
/// The most tasks a scenario may submit, and the most often its faults may strike.
pub const MOST_TASKS: u64 = 1_000_000;

/// A whole scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name, for people and reports.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Whose agents work in it.
    pub team: TeamSource,
    /// What the clock shows at the beginning.
    pub start: Timestamp,
    /// How long work comes and faults strike.
    pub run: Duration,
    /// How long everything may take to come to its end after that.
    pub drain: Duration,
    /// The work that comes.
    pub load: Vec<Load>,
    /// How models answer; the first whose pattern fits the model decides, and [`ModelBehaviour::default`] when none does.
    pub models: Vec<(String, ModelBehaviour)>,
    /// Names for groups of providers that go down together.
    pub regions: BTreeMap<String, Vec<Integration>>,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// The person on call; without one nobody ever answers.
    pub human: Option<Human>,
    /// What must be true at the end.
    pub assertions: Vec<Assertion>,
    /// What somebody published of the real thing this is built from, to stand beside our figures.
    pub published: Option<Published>,
}

/// Figures that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where they stand.
    pub source: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// One published figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What it is called there.
    pub name: String,
    /// Their value, as they write it: `24,500`, `< 0.5 %`.
    pub theirs: String,
    /// What of ours stands beside it.
    pub measure: Measure,
    /// What has to be known to compare the two.
    pub note: String,
}

/// Whose agents work in a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TeamSource {
    /// The team every `backstop init` begins with.
    #[default]
    Shipped,
    /// The team in this directory, relative to the scenario's file.
    Directory(String),
}

/// Some work that comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Of which type.
    pub task_type: TaskType,
    /// To whom; without, to whoever handles the type.
    pub agent: Option<AgentName>,
    /// How urgent; without, as the type says.
    pub priority: Option<Priority>,
    /// What is asked. `{ticket}` in a text stands for the task's ticket, such as `T-00042`.
    pub payload: Value,
    /// When it comes.
    pub arrival: Arrival,
    /// From when.
    pub from: Duration,
    /// Until when; never later than the run.
    pub until: Duration,
}

/// When work comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// One every so often, to the millisecond.
    Every(Duration),
    /// At random (a Poisson process), so many a day in the mean.
    PerDay(f64),
    /// So many in all, each at a random moment.
    Total(u64),
    /// So many at `from`, spread evenly over a span.
    Burst {
        /// How many.
        count: u64,
        /// Over how long.
        over: Duration,
    },
    /// At these moments: what was recorded.
    At(Vec<Duration>),
}

/// How a model answers while nothing is broken.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelBehaviour {
    /// How long an answer takes.
    pub latency: Latency,
    /// How many tokens it writes: at least, at most.
    pub output_tokens: (u64, u64),
    /// The share of answers that break their schema, or are empty where there is none.
    pub schema_breaks: f64,
    /// The share of answers that go round in circles.
    pub loops: f64,
    /// The share of answers that decline.
    pub refusals: f64,
    /// The share of answers cut at their limit.
    pub cuts: f64,
    /// What it says to whom; without one that fits, the smallest answer that meets the schema.
    pub answers: Vec<Said>,
}

impl Default for ModelBehaviour {
    /// Between 5 s and 60 s, no mistakes: a large model at ordinary work.
    fn default() -> Self {
        Self {
            latency: Latency::Between(Duration::from_secs(5), Duration::from_secs(60)),
            output_tokens: (200, 1_200),
            schema_breaks: 0.0,
            loops: 0.0,
            refusals: 0.0,
            cuts: 0.0,
            answers: Vec::new(),
        }
    }
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// To prompts with these words; without, to all.
    pub prompt_has: Option<String>,
    /// To prompts without these words.
    pub prompt_lacks: Option<String>,
    /// Only the n-th to the m-th time that it fits, the first = 1.
    pub calls: Option<(u64, u64)>,
    /// What is said.
    pub text: String,
}

impl Said {
    /// Is it said to this prompt, but for the count of calls?
    #[must_use]
    pub fn fits(&self, prompt: &str) -> bool {
        self.prompt_has.as_ref().is_none_or(|words| prompt.contains(words.as_str()))
            && self.prompt_lacks.as_ref().is_none_or(|words| !prompt.contains(words.as_str()))
    }
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// Evenly spread between the two.
    Between(Duration, Duration),
    /// Log-normal: half of the answers take less than `median`, one in a hundred more than `p99`.
    LogNormal {
        /// The middle one.
        median: Duration,
        /// The 99th of 100.
        p99: Duration,
    },
}

impl Latency {
    /// The latency of one answer, for a roll of the dice in [0, 1).
    #[must_use]
    pub fn at(self, roll: f64) -> Duration {
        match self {
            Self::Between(least, most) => least + most.saturating_sub(least).mul_f64(roll.clamp(0.0, 1.0)),
            Self::LogNormal { median, p99 } => {
                // ln(p99 / median) is the 99 % quantile of the normal distribution, 2.326, times sigma.
                let sigma = (p99.as_secs_f64().max(f64::MIN_POSITIVE) / median.as_secs_f64().max(f64::MIN_POSITIVE))
                    .ln()
                    / 2.326;
                Duration::from_secs_f64((median.as_secs_f64() * (sigma * normal::quantile(roll)).exp()).min(86_400.0))
            }
        }
    }
}

/// The person on call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Human {
    /// How long after the page they take an incident on; none: never.
    pub acknowledges_after: Option<Duration>,
    /// How long after the page they decide about everything that waits for them; none: never.
    pub decides_after: Option<Duration>,
    /// What they decide.
    pub decision: HumanDecision,
    /// What they answer when asked whether a call happened.
    pub happened: bool,
}

words! {
    /// What a simulated person decides about work that waits for them.
    HumanDecision, "decision", "run-again, discard" {
        /// Do it again.
        RunAgain = "run-again",
        /// Give it up.
        Discard = "discard",
    }
}

words! {
    /// What breaks.
    FaultKind, "fault", "rate-limited, overloaded, server-error, unavailable, refused, dns, connect-timeout, first-byte-timeout, hang, mid-stream-timeout, slow-stream, truncated, reset, error-event, malformed-json, html, refusal, cut, schema-invalid, wrong-arguments, loop, quota, revoked-key, model-retired, too-long, adviser-down, agent-panic, agent-kill, agent-wedge, process-kill, disk-full, pager-down, mail-down, clock-jump, ceo-kill" {
        /// 429; with `retry-after`, the hint it gives.
        RateLimited = "rate-limited",
        /// Out of capacity: 529 from Anthropic, 503 elsewhere.
        Overloaded = "overloaded",
        /// 500.
        ServerError = "server-error",
        /// 503.
        Unavailable = "unavailable",
        /// The connection is refused.
        Refused = "refused",
        /// The name does not resolve.
        Dns = "dns",
        /// The connection never stands.
        ConnectTimeout = "connect-timeout",
        /// The answer begins later than the client waits.
        FirstByteTimeout = "first-byte-timeout",
        /// Accepted, and never answered.
        Hang = "hang",
        /// The stream begins and then stands still.
        MidStreamTimeout = "mid-stream-timeout",
        /// The stream drips: the answer takes `times` as long.
        SlowStream = "slow-stream",
        /// The stream ends half-way, in order, without its end.
        Truncated = "truncated",
        /// The connection breaks half-way.
        Reset = "reset",
        /// An error event after a 200.
        ErrorEvent = "error-event",
        /// A 200 whose body is no JSON.
        MalformedJson = "malformed-json",
        /// A 200 with a proxy's page.
        Html = "html",
        /// The model declines.
        Refusal = "refusal",
        /// The answer is cut at its limit.
        Cut = "cut",
        /// The answer breaks its schema.
        SchemaInvalid = "schema-invalid",
        /// A tool is called with arguments it cannot take.
        WrongArguments = "wrong-arguments",
        /// The model goes round in circles.
        Loop = "loop",
        /// The money has run out.
        Quota = "quota",
        /// The key is revoked: 401.
        RevokedKey = "revoked-key",
        /// The model is gone: 404.
        ModelRetired = "model-retired",
        /// The prompt is longer than the context: 400.
        TooLong = "too-long",
        /// The CEO's own model answers with 500.
        AdviserDown = "adviser-down",
        /// The code of the provider panics under the agent.
        AgentPanic = "agent-panic",
        /// The agent's actor is killed.
        AgentKill = "agent-kill",
        /// The agent's actor hangs and hears nothing.
        AgentWedge = "agent-wedge",
        /// The process dies, and starts again when the fault is over.
        ProcessKill = "process-kill",
        /// The disk is full: the store takes nothing.
        DiskFull = "disk-full",
        /// PagerDuty answers nothing.
        PagerDown = "pager-down",
        /// The mail server takes nothing.
        MailDown = "mail-down",
        /// The wall clock is set: by `by`.
        ClockJump = "clock-jump",
        /// The CEO is killed in the middle of its next decision.
        CeoKill = "ceo-kill",
    }
}

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Calls of models, as long as it lasts.
    Calls,
    /// One agent.
    Agent,
    /// The team or what is around it.
    World,
}

impl FaultKind {
    /// What it strikes.
    #[must_use]
    pub const fn target(self) -> Target {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::ServerError
            | Self::Unavailable
            | Self::Refused
            | Self::Dns
            | Self::ConnectTimeout
            | Self::FirstByteTimeout
            | Self::Hang
            | Self::MidStreamTimeout
            | Self::SlowStream
            | Self::Truncated
            | Self::Reset
            | Self::ErrorEvent
            | Self::MalformedJson
            | Self::Html
            | Self::Refusal
            | Self::Cut
            | Self::SchemaInvalid
            | Self::WrongArguments
            | Self::Loop
            | Self::Quota
            | Self::RevokedKey
            | Self::ModelRetired
            | Self::TooLong
            | Self::AdviserDown
            | Self::AgentPanic => Target::Calls,
            Self::AgentKill | Self::AgentWedge => Target::Agent,
            Self::ProcessKill | Self::DiskFull | Self::PagerDown | Self::MailDown | Self::ClockJump | Self::CeoKill => {
                Target::World
            }
        }
    }

    /// The keys of a file that narrow down what a fault strikes.
    pub const LIMITS: [&str; 10] =
        ["provider", "region", "model", "agent", "type", "prompt-has", "prompt-lacks", "share", "flap", "calls"];

    /// Does one of [`FaultKind::LIMITS`] narrow it down? What it does not heed would be said in vain.
    #[must_use]
    pub fn heeds(self, limit: &str) -> bool {
        match self.target() {
            // The CEO's adviser is no agent and works on no task.
            Target::Calls => self != Self::AdviserDown || !matches!(limit, "agent" | "type"),
            Target::Agent => limit == "agent",
            Target::World => limit == "flap" && matches!(self, Self::DiskFull | Self::PagerDown | Self::MailDown),
        }
    }

    /// Does it strike once, at a moment, rather than last?
    #[must_use]
    pub const fn is_moment(self) -> bool {
        matches!(self, Self::AgentKill | Self::ClockJump | Self::CeoKill)
    }
}

/// Something that breaks.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Its name, for reports and for the log of the outage server.
    pub name: String,
    /// What breaks.
    pub kind: FaultKind,
    /// When it strikes.
    pub when: When,
    /// How long it lasts: at least, at most; drawn anew each time. Zero for what strikes at a moment.
    pub lasts: (Duration, Duration),
    /// Which calls, or which agent.
    pub scope: Scope,
    /// The share of the calls in its scope that it strikes: a brown-out is less than 1.
    pub share: f64,
    /// On for so long, off for so long, in turns.
    pub flap: Option<(Duration, Duration)>,
    /// Only the n-th to the m-th call in its scope, the first = 1.
    pub calls: Option<(u64, u64)>,
    /// The hint of a 429; none: it gives none.
    pub retry_after: Option<Duration>,
    /// How many times as slow, for [`FaultKind::SlowStream`].
    pub times: f64,
    /// By how much the clock is set, in milliseconds, for [`FaultKind::ClockJump`].
    pub by_millis: i64,
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// Once, then.
    At(Duration),
    /// Again and again, at random moments, so far apart in the mean.
    Recurring(Duration),
}

/// Which calls a fault strikes. Everything that is said must fit; nothing said fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Of one of these providers.
    pub providers: Vec<Integration>,
    /// Of a model that fits this pattern.
    pub model: Option<String>,
    /// By this agent.
    pub agent: Option<AgentName>,
    /// For a task of this type.
    pub task_type: Option<TaskType>,
    /// With these words in the prompt, such as a ticket.
    pub prompt_has: Option<String>,
    /// Without these words in the prompt.
    pub prompt_lacks: Option<String>,
}

/// A call, as far as a fault can see it.
#[derive(Clone, Copy, Debug)]
pub struct CallSeen<'a> {
    /// Of which provider.
    pub provider: &'a Integration,
    /// Of which model.
    pub model: &'a str,
    /// By whom, if that is known.
    pub agent: Option<&'a AgentName>,
    /// For a task of which type, if that is known.
    pub task_type: Option<&'a TaskType>,
    /// Is it the CEO's adviser who is asked?
    pub adviser: bool,
    /// Everything that is said to it.
    pub prompt: &'a str,
}

impl Scope {
    /// Does a call fit?
    #[must_use]
    pub fn fits(&self, call: &CallSeen<'_>) -> bool {
        (self.providers.is_empty() || self.providers.contains(call.provider))
            && self.model.as_ref().is_none_or(|pattern| matches_pattern(pattern, call.model))
            && self.agent.as_ref().is_none_or(|agent| call.agent == Some(agent))
            && self.task_type.as_ref().is_none_or(|wanted| call.task_type == Some(wanted))
            && self.prompt_has.as_ref().is_none_or(|words| call.prompt.contains(words.as_str()))
            && self.prompt_lacks.as_ref().is_none_or(|words| !call.prompt.contains(words.as_str()))
    }
}

/// One stretch of time in which a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// From when.
    pub from: Duration,
    /// Until when, exclusive; the same as `from` for what strikes at a moment.
    pub until: Duration,
    /// Which fault, by its place in [`Scenario::faults`].
    pub fault: usize,
}

/// A roll of the dice in [0, 1) for a purpose, about something, for the n-th time.
pub type Roll<'a> = &'a dyn Fn(&str, &str, u64) -> f64;

impl Scenario {
    /// When which fault strikes, in order of time, drawn by the dice.
    #[must_use]
    pub fn windows(&self, roll: Roll<'_>) -> Vec<Window> {
        let mut windows = Vec::new();
        for (place, fault) in self.faults.iter().enumerate() {
            let lasts = |number| {
                let (least, most) = fault.lasts;
                // Whole milliseconds, as clocks count here: who waits for a fraction of one never sees it pass.
                millis(least + most.saturating_sub(least).mul_f64(roll("fault lasts", &fault.name, number)))
            };
            match fault.when {
                When::At(from) => windows.push(Window { from, until: from + lasts(0), fault: place }),
                When::Recurring(mean) => {
                    let mut from = Duration::ZERO;
                    for number in 0_u64.. {
                        from += exponential(mean, roll("fault comes", &fault.name, number));
                        if from >= self.run {
                            break;
                        }
                        let until = (from + lasts(number)).min(self.run);
                        windows.push(Window { from, until, fault: place });
                        from = until;
                    }
                }
            }
        }
        windows.sort();
        windows
    }

    /// The moments at which work comes: which load, in order of time, drawn by the dice.
    #[must_use]
    pub fn arrivals(&self, roll: Roll<'_>) -> Vec<(Duration, usize)> {
        let mut arrivals = Vec::new();
        for (place, load) in self.load.iter().enumerate() {
            let until = load.until.min(self.run);
            let span = until.saturating_sub(load.from);
            let about = format!("{place} {}", load.task_type);
            match &load.arrival {
                Arrival::Every(gap) => {
                    let mut at = load.from;
                    while at < until {
                        arrivals.push((at, place));
                        at += *gap;
                    }
                }
                Arrival::PerDay(rate) => {
                    let mean = Duration::from_secs_f64(86_400.0 / rate);
                    let mut at = load.from;
                    for number in 0_u64.. {
                        at += exponential(mean, roll("arrival", &about, number));
                        if at >= until {
                            break;
                        }
                        arrivals.push((at, place));
                    }
                }
                Arrival::Total(count) => {
                    let at = |number| load.from + span.mul_f64(roll("arrival", &about, number));
                    arrivals.extend((0..*count).map(|number| (millis(at(number)), place)));
                }
                Arrival::Burst { count, over } => {
                    let at = |number: u64| load.from + over.mul_f64(fraction(number, *count));
                    arrivals.extend((0..*count).map(|number| (millis(at(number)), place)));
                }
                Arrival::At(moments) => arrivals.extend(moments.iter().map(|at| (*at, place))),
            }
        }
        arrivals.sort();
        arrivals
    }

    /// How the model of this name answers.
    #[must_use]
    pub fn behaviour(&self, provider: &Integration, model: &str) -> Option<&ModelBehaviour> {
        let full = format!("{provider}/{model}");
        let fits = |pattern: &str| matches_pattern(pattern, &full) || matches_pattern(pattern, model);
        self.models.iter().find(|(pattern, _)| fits(pattern)).map(|(_, behaviour)| behaviour)
    }
}

impl Load {
    /// How many tasks come of it in a run, in the mean.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "to be held against MOST_TASKS")]
    pub fn expected(&self, run: Duration) -> f64 {
        let span = self.until.min(run).saturating_sub(self.from).as_secs_f64();
        match &self.arrival {
            Arrival::Every(gap) => (span / gap.as_secs_f64()).ceil(),
            Arrival::PerDay(rate) => rate * span / 86_400.0,
            Arrival::Total(count) | Arrival::Burst { count, .. } => *count as f64,
            Arrival::At(moments) => moments.len() as f64,
        }
    }

    /// When the last task of it comes at the latest, if that is not up to `until`.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        match &self.arrival {
            Arrival::Burst { count, over } => Some(self.from + over.mul_f64(fraction(count.saturating_sub(1), *count))),
            Arrival::At(moments) => moments.iter().max().copied(),
            Arrival::Every(_) | Arrival::PerDay(_) | Arrival::Total(_) => None,
        }
    }
}

impl Fault {
    /// How often it strikes in a run, in the mean.
    #[must_use]
    pub fn expected(&self, run: Duration) -> f64 {
        match self.when {
            When::At(_) => 1.0,
            When::Recurring(mean) => {
                let turn = mean.as_secs_f64() + (self.lasts.0.as_secs_f64() + self.lasts.1.as_secs_f64()) / 2.0;
                run.as_secs_f64() / turn
            }
        }
    }

    /// Is it on at `elapsed`, within a window that began at `from`? Flapping turns it off and on.
    #[must_use]
    pub fn is_on(&self, from: Duration, elapsed: Duration) -> bool {
        let Some((on, off)) = self.flap else { return true };
        let turn = (on + off).as_millis().max(1);
        elapsed.saturating_sub(from).as_millis() % turn < on.as_millis()
    }
}

/// Whole milliseconds: what the team's clock counts in.
fn millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn exponential(mean: Duration, roll: f64) -> Duration {
    let span = mean.mul_f64(-(1.0 - roll).max(1e-12).ln());
    millis(span).max(Duration::from_millis(1))
}

#[allow(clippy::cast_precision_loss, reason = "below MOST_TASKS")]
fn fraction(number: u64, of: u64) -> f64 {
    number as f64 / of.max(1) as f64
}

impl fmt::Display for Fault {
    /// `overloaded of anthropic`, for reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        let providers: Vec<&str> = self.scope.providers.iter().map(Integration::as_str).collect();
        if !providers.is_empty() {
            write!(f, " of {}", providers.join(", "))?;
        }
        if let Some(model) = &self.scope.model {
            write!(f, " of {model}")?;
        }
        if let Some(agent) = &self.scope.agent {
            write!(f, " of {agent}")?;
        }
        Ok(())
    }
}
