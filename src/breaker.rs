//! The circuit breaker of one integration: closed, open, half-open.
//!
//! Think of a fuse that mends itself. While *closed*, calls pass and their failures are counted; too many within the
//! window and it *opens*: nobody calls, everybody is told when to come back. That moment reached, it is *half-open*:
//! a few calls pass as probes. They succeed and it closes; one fails and it opens again, for longer. A person may
//! force it open (then no timer counts) or disable it (then nothing counts).
//!
//! Three complications. A result may arrive when the world has moved on: every call carries the generation it was
//! admitted in, and results of an earlier one are dropped. A prober may die: a probe is lent, not given, and one that
//! is out for too long counts as failed. And time passes without calls: [`Breaker::state`] is a pure function of
//! `now`, so nobody has to poke the breaker for it to turn half-open.
//!
//! What is *not* here: which failures count (`failure.rs` says), Retry-After (`guard.rs` holds a gate for it), and
//! any clock.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mutant;
use crate::retry::PolicyError;
use crate::task::words;
use crate::time::{self, Timestamp};

words! {
    /// What makes a closed breaker open.
    BreakerKind, "kind", "failures, count, time" {
        /// So many failures within the window.
        Failures = "failures",
        /// A share of the last so many calls.
        Count = "count",
        /// A share of the calls within the window.
        Time = "time",
    }
}

words! {
    /// How a half-open breaker makes up its mind.
    HalfOpenRule, "half-open", "strict, rate" {
        /// Any failure opens it again, `successes` successes close it.
        Strict = "strict",
        /// After `permits` results their rate decides.
        Rate = "rate",
    }
}

/// How a breaker judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BreakerConfig {
    /// What makes it open.
    pub kind: BreakerKind,
    /// How many failures within `window` open it (kind `failures`). Turned up: opens later, more calls are wasted first.
    pub failures: u32,
    /// The sliding window of kinds `failures` and `time`.
    #[serde(with = "time::text")]
    pub window: Duration,
    /// The window of kind `count`: the last so many calls.
    pub window_calls: u32,
    /// The share of failures in percent that opens it (kinds `count` and `time`), at or above.
    pub rate: f64,
    /// Below so many calls there is no rate.
    pub min_calls: u32,
    /// A call that took longer is slow; zero: no call is.
    #[serde(with = "time::text")]
    pub slow_after: Duration,
    /// The share of slow calls in percent that opens it, at or above.
    pub slow_rate: f64,
    /// How long it stays open. Turned up: fewer probes on a dead integration, later return to a healthy one.
    #[serde(with = "time::text")]
    pub open_for: Duration,
    /// By what the open period grows each time a probe fails.
    pub open_mult: f64,
    /// The longest open period; below `open-for` it says nothing.
    #[serde(with = "time::text")]
    pub open_max: Duration,
    /// How it makes up its mind when half-open.
    pub half_open: HalfOpenRule,
    /// How many probes may be out at once.
    pub permits: u32,
    /// How many must succeed (rule `strict`).
    pub successes: u32,
    /// How long a probe may be out before it counts as failed; zero: forever.
    #[serde(with = "time::text")]
    pub half_open_max_wait: Duration,
}

impl Default for BreakerConfig {
    /// 5 failures in 30 s (seed A); 60 s open, doubled up to 15 min; exactly one probe, for 120 s at most.
    fn default() -> Self {
        Self {
            kind: BreakerKind::Failures,
            failures: 5,
            window: Duration::from_secs(30),
            window_calls: 100,
            rate: 50.0,
            min_calls: 1,
            slow_after: Duration::ZERO,
            slow_rate: 100.0,
            open_for: Duration::from_secs(60),
            open_mult: 2.0,
            open_max: Duration::from_secs(900),
            half_open: HalfOpenRule::Strict,
            permits: 1,
            successes: 1,
            half_open_max_wait: Duration::from_secs(120),
        }
    }
}

impl BreakerConfig {
    /// Everything that is wrong with it, by the key an operator wrote; empty when it is sound.
    #[must_use]
    pub fn check(&self) -> Vec<PolicyError> {
        let at_least_one = [
            ("failures", self.failures),
            ("window-calls", self.window_calls),
            ("min-calls", self.min_calls),
            ("permits", self.permits),
            ("successes", self.successes),
        ];
        let some_time = [("window", self.window), ("open-for", self.open_for)];
        // Above 100 is allowed: it switches that rule off.
        let percent = [("rate", self.rate), ("slow-rate", self.slow_rate)];
        let error = |field, message: &str| PolicyError { field, message: message.to_owned() };
        let mut errors: Vec<PolicyError> =
            at_least_one.iter().filter(|(_, n)| *n == 0).map(|(field, _)| error(field, "must be at least 1")).collect();
        errors.extend(some_time.iter().filter(|(_, d)| d.is_zero()).map(|(field, _)| error(field, "must not be zero")));
        let no_percent = percent.iter().filter(|(_, p)| !(p.is_finite() && *p > 0.0));
        errors.extend(no_percent.map(|(field, _)| error(field, "must be a share in percent, above 0")));
        if !(self.open_mult.is_finite() && self.open_mult >= 1.0) {
            errors.push(error("open-mult", "must be 1 or more"));
        }
        errors
    }
}

words! {
    /// Where a breaker stands.
    BreakerState, "breaker state", "closed, open, half-open, forced-open, disabled" {
        /// Calls pass and are counted.
        Closed = "closed",
        /// Nobody calls until a time.
        Open = "open",
        /// Probes pass.
        HalfOpen = "half-open",
        /// Nobody calls until somebody says so.
        ForcedOpen = "forced-open",
        /// Everything passes, nothing is counted.
        Disabled = "disabled",
    }
}

/// How an admitted call ended, as far as the breaker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It speaks for the integration.
    Ok,
    /// It speaks against it.
    Err,
    /// It says nothing about it; a probe's slot is free again.
    Ignored,
    /// It was never finished; a probe's slot is free again.
    Dropped,
}

/// The right to make one call, to be handed back with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    number: u64,
    /// Is it a probe of a half-open breaker?
    pub probe: bool,
}

/// The calls a breaker remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All of them.
    pub total: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that were slow, failed or not.
    pub slow: u32,
}

/// The breaker of one integration. Tolerates being asked too often; see the module for the story.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    config: BreakerConfig,
    memory: Memory,
}

/// What a breaker knows: everything but its configuration, so that a restart may bring another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    mode: Mode,
    /// Grows with every transition.
    generation: u64,
    /// How often it opened since it was last closed: the exponent of the open period.
    openings: u32,
    /// While closed or open: the window. While half-open: the probes' results.
    calls: Window,
    /// Probes that are out.
    #[serde(skip)]
    lent: Vec<Lent>,
    numbers: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
enum Mode {
    Closed,
    Open { until: Timestamp },
    HalfOpen,
    ForcedOpen { until: Option<Timestamp> },
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Call {
    at: Timestamp,
    failed: bool,
    slow: bool,
}

/// Calls in the order they ended, and their counts: asked at every call, so they are kept and not taken each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "VecDeque<Call>", into = "VecDeque<Call>")]
struct Window {
    calls: VecDeque<Call>,
    sum: Calls,
}

impl From<VecDeque<Call>> for Window {
    fn from(calls: VecDeque<Call>) -> Self {
        let mut window = Self::new();
        calls.into_iter().for_each(|call| window.push(call));
        window
    }
}

impl From<Window> for VecDeque<Call> {
    fn from(window: Window) -> Self {
        window.calls
    }
}

impl Window {
    const fn new() -> Self {
        Self { calls: VecDeque::new(), sum: Calls { total: 0, failed: 0, slow: 0 } }
    }

    fn push(&mut self, call: Call) {
        self.sum.add(&call);
        self.calls.push_back(call);
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.calls.pop_front() {
            self.sum.take(&oldest);
        }
    }

    fn clear(&mut self) {
        *self = Self::new();
    }
}

impl Calls {
    fn add(&mut self, call: &Call) {
        self.total += 1;
        self.failed += u32::from(call.failed);
        self.slow += u32::from(call.slow);
    }

    fn take(&mut self, call: &Call) {
        self.total -= 1;
        self.failed -= u32::from(call.failed);
        self.slow -= u32::from(call.slow);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Lent {
    number: u64,
    at: Timestamp,
}

/// Where the passing of time alone has brought the breaker.
#[derive(Clone, Copy)]
struct View {
    mode: Mode,
    generation: u64,
    openings: u32,
}

impl Breaker {
    /// A closed breaker that remembers nothing.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        let memory = Memory {
            mode: Mode::Closed,
            generation: 0,
            openings: 0,
            calls: Window::new(),
            lent: Vec::new(),
            numbers: 0,
        };
        Self { config, memory }
    }

    /// A breaker as it was before a restart. Probes that were out died with their process: they are free again.
    #[must_use]
    pub const fn restore(config: BreakerConfig, memory: Memory) -> Self {
        Self { config, memory }
    }

    /// What to keep over a restart.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How it judges.
    #[must_use]
    pub const fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// May a call be made now? `None`: no; [`Breaker::retry_at`] says when to come back.
    pub fn acquire(&mut self, now: Timestamp) -> Option<Ticket> {
        self.advance(now);
        let probe = match self.memory.mode {
            Mode::Closed | Mode::Disabled => false,
            Mode::Open { .. } | Mode::ForcedOpen { .. } => return None,
            Mode::HalfOpen if self.free_probes(now) == 0 => return None,
            Mode::HalfOpen => true,
        };
        self.memory.numbers += 1;
        let number = self.memory.numbers;
        if probe {
            self.memory.lent.push(Lent { number, at: now });
        }
        Some(Ticket { generation: self.memory.generation, number, probe })
    }

    /// A probe is still being worked on: its loan begins anew, so that only a prober that is really gone loses it.
    pub fn renew(&mut self, ticket: Ticket, now: Timestamp) {
        if self.is_current(ticket, now)
            && let Some(lent) = self.memory.lent.iter_mut().find(|lent| lent.number == ticket.number)
        {
            lent.at = now;
        }
    }

    /// A call ended. Results of an earlier generation, and second results of a probe, change nothing.
    pub fn complete(&mut self, ticket: Ticket, end: CallEnd, took: Duration, now: Timestamp) {
        self.advance(now);
        if ticket.generation != self.memory.generation {
            return;
        }
        let failed = match end {
            CallEnd::Ok => Some(false),
            CallEnd::Err => Some(true),
            CallEnd::Ignored | CallEnd::Dropped => None,
        };
        match self.memory.mode {
            Mode::Closed => {
                if let Some(failed) = failed {
                    self.remember(failed, took, now);
                    if self.too_bad(self.config.min_calls, now) && !mutant::on("breaker-never-opens") {
                        self.open(now);
                    }
                }
            }
            Mode::HalfOpen => {
                let out = self.memory.lent.len();
                self.memory.lent.retain(|lent| lent.number != ticket.number);
                if let Some(failed) = failed.filter(|_| self.memory.lent.len() < out) {
                    self.remember(failed, took, now);
                    self.judge_probes(failed, now);
                }
            }
            Mode::Open { .. } | Mode::ForcedOpen { .. } | Mode::Disabled => {}
        }
    }

    /// Was this call admitted since the last transition?
    #[must_use]
    pub fn is_current(&self, ticket: Ticket, now: Timestamp) -> bool {
        self.view(now).generation == ticket.generation
    }

    /// Opens it as if the threshold had been met. Says nothing to one that is open, forced open or disabled.
    pub fn trip(&mut self, now: Timestamp) {
        self.advance(now);
        match self.memory.mode {
            Mode::Closed | Mode::HalfOpen => self.open(now),
            Mode::Open { .. } | Mode::ForcedOpen { .. } | Mode::Disabled => {}
        }
    }

    /// Opens it until a person closes it, or until a time at which it turns half-open.
    pub fn force_open(&mut self, until: Option<Timestamp>, now: Timestamp) {
        self.advance(now);
        self.turn(Mode::ForcedOpen { until });
    }

    /// Lets everything pass and counts nothing, until it is reset.
    pub fn disable(&mut self, now: Timestamp) {
        self.advance(now);
        self.memory.calls.clear();
        self.memory.openings = 0;
        self.turn(Mode::Disabled);
    }

    /// Closes it and forgets everything.
    pub fn reset(&mut self, now: Timestamp) {
        self.advance(now);
        self.close();
    }

    /// The integration asked to be left alone for so long: open at least until then, never shorter than configured.
    pub fn open_for(&mut self, span: Duration, now: Timestamp) {
        self.trip(now);
        if let Mode::Open { until } = &mut self.memory.mode {
            *until = (*until).max(now + span);
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.view(now).mode {
            Mode::Closed => BreakerState::Closed,
            Mode::Open { .. } => BreakerState::Open,
            Mode::HalfOpen => BreakerState::HalfOpen,
            Mode::ForcedOpen { .. } => BreakerState::ForcedOpen,
            Mode::Disabled => BreakerState::Disabled,
        }
    }

    /// When to come back: now if calls pass, the end of the open period, or the end of the oldest probe's time when
    /// all probes are out. `None`: when a person says so.
    #[must_use]
    pub fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.view(now).mode {
            Mode::Closed | Mode::Disabled => Some(now),
            Mode::Open { until } => Some(until),
            Mode::ForcedOpen { until } => until,
            Mode::HalfOpen if self.free_probes(now) > 0 => Some(now),
            Mode::HalfOpen => Some(self.oldest_probe_ends().map_or(now, |end| end.max(now))),
        }
    }

    /// How many probes may go out now: 0 unless it is half-open.
    #[must_use]
    pub fn free_probes(&self, now: Timestamp) -> u32 {
        let view = self.view(now);
        if !matches!(view.mode, Mode::HalfOpen) {
            return 0;
        }
        let (out, results) = if view.generation == self.memory.generation {
            (self.memory.lent.len(), self.memory.calls.calls.len())
        } else {
            (0, 0)
        };
        let taken = match self.config.half_open {
            HalfOpenRule::Strict => out,
            HalfOpenRule::Rate => out + results,
        };
        let permits = self.config.permits + u32::from(mutant::on("two-probes"));
        permits.saturating_sub(count(taken))
    }

    /// The calls it remembers: those of the window, or the probes' results while it is half-open.
    #[must_use]
    pub fn calls(&self, now: Timestamp) -> Calls {
        let view = self.view(now);
        let half_open = matches!(view.mode, Mode::HalfOpen);
        let forgotten = half_open && view.generation != self.memory.generation;
        let sliding = !half_open && self.config.kind != BreakerKind::Count;
        if forgotten {
            return Calls::default();
        }
        let mut calls = self.memory.calls.sum;
        if sliding {
            // The oldest stand in front: only what has grown too old since the last call is looked at.
            let window = self.memory.calls.calls.iter();
            window.take_while(|call| !self.within(call, now)).for_each(|old| calls.take(old));
        }
        calls
    }

    /// The share of failures in percent; `None` below the minimum of calls.
    #[must_use]
    pub fn rate(&self, now: Timestamp) -> Option<f64> {
        let min = match self.view(now).mode {
            Mode::HalfOpen => self.config.permits,
            Mode::Closed | Mode::Open { .. } | Mode::ForcedOpen { .. } | Mode::Disabled => self.config.min_calls,
        };
        let calls = self.calls(now);
        (calls.total >= self.enough(min)).then(|| percent(calls.failed, calls.total))
    }

    /// Time passes by itself: an open period ends, a probe stays out too long, and then an open period ends again.
    fn view(&self, now: Timestamp) -> View {
        let Memory { mode, generation, openings, .. } = self.memory;
        let mut view = View { mode, generation, openings };
        loop {
            view.mode = match view.mode {
                Mode::Open { until } | Mode::ForcedOpen { until: Some(until) } if now >= until => Mode::HalfOpen,
                Mode::HalfOpen if view.generation == generation => match self.oldest_probe_ends() {
                    Some(end) if now >= end => {
                        view.openings += 1;
                        Mode::Open { until: end + self.open_period(view.openings) }
                    }
                    Some(_) | None => return view,
                },
                Mode::Closed | Mode::HalfOpen | Mode::Open { .. } | Mode::ForcedOpen { .. } | Mode::Disabled => {
                    return view;
                }
            };
            view.generation += 1;
        }
    }

    fn advance(&mut self, now: Timestamp) {
        let View { mode, generation, openings } = self.view(now);
        if generation == self.memory.generation {
            return;
        }
        if matches!(mode, Mode::HalfOpen) {
            self.memory.calls.clear();
        }
        self.memory.lent.clear();
        self.memory.mode = mode;
        self.memory.generation = generation;
        self.memory.openings = openings;
    }

    fn turn(&mut self, mode: Mode) {
        self.memory.mode = mode;
        self.memory.generation += 1;
        self.memory.lent.clear();
    }

    fn open(&mut self, now: Timestamp) {
        self.memory.openings += 1;
        self.turn(Mode::Open { until: now + self.open_period(self.memory.openings) });
    }

    fn close(&mut self) {
        self.memory.calls.clear();
        self.memory.openings = 0;
        self.turn(Mode::Closed);
    }

    fn judge_probes(&mut self, failed: bool, now: Timestamp) {
        let results = self.calls(now);
        match self.config.half_open {
            HalfOpenRule::Strict if failed => self.open(now),
            HalfOpenRule::Strict if results.total >= self.config.successes => self.close(),
            HalfOpenRule::Rate if results.total >= self.config.permits => {
                let slow = self.config.slow_after > Duration::ZERO
                    && percent(results.slow, results.total) >= self.config.slow_rate;
                match slow || percent(results.failed, results.total) >= self.config.rate {
                    true => self.open(now),
                    false => self.close(),
                }
            }
            HalfOpenRule::Strict | HalfOpenRule::Rate => {}
        }
    }

    fn remember(&mut self, failed: bool, took: Duration, now: Timestamp) {
        let slow = self.config.slow_after > Duration::ZERO && took > self.config.slow_after;
        self.memory.calls.push(Call { at: now, failed, slow });
        if matches!(self.memory.mode, Mode::HalfOpen) {
            return;
        }
        while self.memory.calls.calls.front().is_some_and(|oldest| match self.config.kind {
            BreakerKind::Count => count(self.memory.calls.calls.len()) > self.config.window_calls,
            BreakerKind::Failures | BreakerKind::Time => !self.within(oldest, now),
        }) {
            self.memory.calls.forget_oldest();
        }
    }

    fn too_bad(&self, min_calls: u32, now: Timestamp) -> bool {
        let calls = self.calls(now);
        let enough = calls.total >= self.enough(min_calls);
        let failing = match self.config.kind {
            BreakerKind::Failures => calls.failed >= self.config.failures,
            BreakerKind::Count | BreakerKind::Time => enough && percent(calls.failed, calls.total) >= self.config.rate,
        };
        let slow = self.config.slow_after > Duration::ZERO
            && enough
            && percent(calls.slow, calls.total) >= self.config.slow_rate;
        failing || slow
    }

    /// A window of ten calls never holds the hundred that somebody asked for.
    fn enough(&self, min_calls: u32) -> u32 {
        match self.config.kind {
            BreakerKind::Count => min_calls.min(self.config.window_calls).max(1),
            BreakerKind::Failures | BreakerKind::Time => min_calls.max(1),
        }
    }

    fn within(&self, call: &Call, now: Timestamp) -> bool {
        now.since(call.at) < self.config.window
    }

    fn oldest_probe_ends(&self) -> Option<Timestamp> {
        let wait = Some(self.config.half_open_max_wait).filter(|wait| !wait.is_zero())?;
        self.memory.lent.iter().map(|lent| lent.at + wait).min()
    }

    fn open_period(&self, openings: u32) -> Duration {
        let power = i32::try_from(openings.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.config.open_for.as_secs_f64() * self.config.open_mult.powi(power);
        let longest = self.config.open_max.max(self.config.open_for);
        if grown < longest.as_secs_f64() { Duration::from_secs_f64(grown) } else { longest }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn percent(part: u32, whole: u32) -> f64 {
    100.0 * f64::from(part) / f64::from(whole.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// One failure opens it for a second; one probe, for a second; 100 s later nothing but time has passed.
    fn breaker() -> Breaker {
        let second = Duration::from_secs(1);
        Breaker::new(BreakerConfig {
            failures: 1,
            open_for: second,
            half_open_max_wait: second,
            ..BreakerConfig::default()
        })
    }

    fn in_state(state: BreakerState) -> Breaker {
        let mut breaker = breaker();
        match state {
            BreakerState::Closed => {}
            BreakerState::Open => breaker.trip(at(0)),
            BreakerState::HalfOpen => breaker.trip(at(-1_000)),
            BreakerState::ForcedOpen => breaker.force_open(None, at(0)),
            BreakerState::Disabled => breaker.disable(at(0)),
        }
        assert_eq!(breaker.state(at(0)), state);
        breaker
    }

    /// What can happen to a breaker.
    type Happens = fn(&mut Breaker);

    fn call(breaker: &mut Breaker, end: CallEnd) {
        if let Some(ticket) = breaker.acquire(at(0)) {
            breaker.complete(ticket, end, Duration::ZERO, at(0));
        }
    }

    fn hang(breaker: &mut Breaker) {
        breaker.acquire(at(0));
    }

    #[test]
    fn every_state_meets_every_event() {
        use BreakerState::{Closed, Disabled, ForcedOpen, HalfOpen, Open};
        let table: [(&str, Happens, [BreakerState; 5]); 11] = [
            // From:                                          Closed      Open        HalfOpen    ForcedOpen  Disabled
            ("a success", |b| call(b, CallEnd::Ok), /*     */ [Closed, Open, Closed, ForcedOpen, Disabled]),
            ("a failure", |b| call(b, CallEnd::Err), /*    */ [Open, Open, Open, ForcedOpen, Disabled]),
            ("a shrug", |b| call(b, CallEnd::Ignored), /*  */ [Closed, Open, HalfOpen, ForcedOpen, Disabled]),
            ("a drop", |b| call(b, CallEnd::Dropped), /*   */ [Closed, Open, HalfOpen, ForcedOpen, Disabled]),
            ("trip", |b| b.trip(at(0)), /*                 */ [Open, Open, Open, ForcedOpen, Disabled]),
            ("force open", |b| b.force_open(None, at(0)), /**/ [ForcedOpen; 5]),
            ("disable", |b| b.disable(at(0)), /*           */ [Disabled; 5]),
            ("reset", |b| b.reset(at(0)), /*               */ [Closed; 5]),
            ("open for", |b| b.open_for(Duration::ZERO, at(0)), [Open, Open, Open, ForcedOpen, Disabled]),
            ("a call that hangs", hang, [Closed, Open, HalfOpen, ForcedOpen, Disabled]),
            ("a second", |b| b.advance(at(1_000)), /*      */ [Closed, HalfOpen, HalfOpen, ForcedOpen, Disabled]),
        ];
        for (event, happens, expected) in table {
            for (from, to) in BreakerState::ALL.iter().zip(expected) {
                let mut breaker = in_state(*from);
                happens(&mut breaker);
                assert_eq!(breaker.state(at(0)), to, "{event} while {from}");
            }
        }
    }

    #[test]
    fn a_probe_that_stays_out_counts_as_failed_and_the_next_open_period_is_longer() {
        let mut breaker = in_state(BreakerState::HalfOpen);
        let hung = breaker.acquire(at(0)).expect("a probe");
        assert!(hung.probe);
        assert_eq!(breaker.retry_at(at(0)), Some(at(1_000)));
        assert_eq!((breaker.state(at(999)), breaker.state(at(1_000))), (BreakerState::HalfOpen, BreakerState::Open));
        assert_eq!(breaker.retry_at(at(1_000)), Some(at(3_000)), "two seconds: it opened for the second time");
        breaker.complete(hung, CallEnd::Ok, Duration::ZERO, at(3_000));
        assert_eq!(breaker.state(at(3_000)), BreakerState::HalfOpen, "it came too late to speak for anybody");
    }

    #[test]
    fn a_half_open_breaker_nobody_calls_waits_forever() {
        let breaker = in_state(BreakerState::HalfOpen);
        assert_eq!(breaker.state(at(1_000_000_000)), BreakerState::HalfOpen);
    }

    #[test]
    fn forced_open_until_a_time_turns_half_open_then() {
        let mut breaker = breaker();
        breaker.force_open(Some(at(500)), at(0));
        assert_eq!(
            (breaker.state(at(499)), breaker.state(at(500))),
            (BreakerState::ForcedOpen, BreakerState::HalfOpen)
        );
        assert_eq!(in_state(BreakerState::ForcedOpen).retry_at(at(9)), None);
    }

    #[test]
    fn a_failure_from_before_the_outage_does_not_speak_against_the_recovery() {
        let mut breaker = breaker();
        let slow = breaker.acquire(at(0)).expect("closed");
        breaker.trip(at(1));
        breaker.reset(at(2));
        assert!(!breaker.is_current(slow, at(3)));
        breaker.complete(slow, CallEnd::Err, Duration::ZERO, at(3));
        assert_eq!((breaker.state(at(3)), breaker.calls(at(3)).total), (BreakerState::Closed, 0));
    }

    #[test]
    fn by_rate_so_many_probes_go_out_in_all_strictly_so_many_at_once() {
        for (half_open, expected) in [(HalfOpenRule::Rate, 1), (HalfOpenRule::Strict, 2)] {
            let config = BreakerConfig { half_open, permits: 2, successes: 2, ..breaker().config };
            let mut breaker = Breaker::restore(config, in_state(BreakerState::HalfOpen).memory);
            call(&mut breaker, CallEnd::Ok);
            assert_eq!(breaker.free_probes(at(0)), expected, "{half_open}");
        }
    }

    #[test]
    fn a_probe_is_answered_once() {
        let config = BreakerConfig { successes: 2, ..breaker().config };
        let mut breaker = Breaker::restore(config, in_state(BreakerState::HalfOpen).memory);
        let probe = breaker.acquire(at(0)).expect("a probe");
        for _ in 0..2 {
            breaker.complete(probe, CallEnd::Ok, Duration::ZERO, at(0));
        }
        assert_eq!(breaker.state(at(0)), BreakerState::HalfOpen);
    }

    #[test]
    fn it_survives_a_restart_but_its_probes_do_not() {
        let mut before = in_state(BreakerState::HalfOpen);
        assert!(before.acquire(at(0)).is_some());
        assert_eq!(before.free_probes(at(0)), 0);
        let json = serde_json::to_string(before.memory()).expect("json");
        let after = Breaker::restore(before.config.clone(), serde_json::from_str(&json).expect("json"));
        assert_eq!((after.state(at(0)), after.free_probes(at(0))), (BreakerState::HalfOpen, 1));
    }

    #[test]
    fn unsound_configurations_are_named() {
        assert_eq!(BreakerConfig::default().check(), []);
        let config = BreakerConfig {
            failures: 0,
            window: Duration::ZERO,
            rate: f64::NAN,
            open_mult: 0.5,
            ..BreakerConfig::default()
        };
        let fields: Vec<&str> = config.check().iter().map(|error| error.field).collect();
        assert_eq!(fields, ["failures", "window", "rate", "open-mult"]);
    }
}
