//! The guard of one integration: its breaker, and the gate that keeps a promise of silence for the whole team.
//!
//! The breaker knows health, the gate knows manners. When the other side says "come back in 60 s" the gate holds
//! everybody, not only the caller who was told. Then one call goes to see, and if it is well, two may be out, then
//! four, until the gate stands open again. Asked too early, [`Guard::admit`] says when to look again; jitter on that
//! time is only ever upwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::breaker::{Breaker, BreakerConfig, BreakerState, CallEnd, Memory, Ticket};
use crate::delivery::Hold;
use crate::failure::{Failure, Kind, Origin, Signal};
use crate::gate::{Gate, Place, SILENCE_MAX};
use crate::mutant;
use crate::time::Timestamp;

/// When to look again while the probes or the places of the ramp are taken.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// When to look again at an integration that waits for a person.
const LOOK_AT_PARKED: Duration = Duration::from_secs(300);

/// How a guard would answer now, without asking for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Everybody may call.
    Free,
    /// Only so many may call at the moment; the others wait for those that are out to come back.
    Probing {
        /// How many; 0 while all are out.
        free: u32,
    },
    /// Nobody may call.
    Held {
        /// Why not.
        why: Hold,
        /// When to look again.
        until: Timestamp,
    },
}

/// The answer to somebody who wants to call.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Go ahead, and report how it ended.
    Go(Permit),
    /// Not now.
    Held {
        /// Why not.
        why: Hold,
        /// When to look again; jittered, never earlier than the integration asked.
        until: Timestamp,
    },
}

/// The right to make one call, to be handed back with [`Guard::report`].
#[derive(Clone, Debug, PartialEq)]
pub struct Permit {
    ticket: Ticket,
    place: Option<Place>,
    /// Is it the one call that is let through after a gate was closed?
    first: bool,
    since: Timestamp,
}

impl Permit {
    /// Is it the single call that finds out whether others may follow?
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.ticket.probe || self.first
    }

    /// Is it a probe of the breaker: one for a whole period in which it stood open?
    #[must_use]
    pub const fn is_of_breaker(&self) -> bool {
        self.ticket.probe
    }
}

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report<'a> {
    /// The integration answered as it should, whatever became of the answer.
    Healthy,
    /// It failed; the failure's signal says what that means here.
    Failed(&'a Failure),
    /// It was never made or never finished, through no fault of the integration.
    Dropped,
}

/// A change worth an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Where the breaker stood.
    pub from: BreakerState,
    /// Where it stands.
    pub to: BreakerState,
    /// Until when, if a time is set.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub why: String,
}

/// The breaker and the gate of one integration.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    breaker: Breaker,
    gate: Gate,
    /// The state that was last told to anybody.
    told: BreakerState,
    why: String,
    /// Was it forced open by a person?
    by_person: bool,
}

/// What to keep of a guard over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    breaker: Memory,
    gate: Gate,
    told: BreakerState,
    why: String,
    #[serde(default)]
    by_person: bool,
}

impl Guard {
    /// A guard that lets everybody pass.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: Breaker::new(config),
            gate: Gate::new(),
            told: BreakerState::Closed,
            why: String::new(),
            by_person: false,
        }
    }

    /// A guard as it was before a restart. Calls that were out died with their process.
    #[must_use]
    pub fn restore(config: BreakerConfig, snapshot: Snapshot) -> Self {
        let Snapshot { breaker, gate, told, why, by_person } = snapshot;
        Self { breaker: Breaker::restore(config, breaker), gate, told, why, by_person }
    }

    /// What to keep over a restart. Worth storing after every transition, and whenever the gate closes or stands open again.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            breaker: self.breaker.memory().clone(),
            gate: self.gate.clone(),
            told: self.told,
            why: self.why.clone(),
            by_person: self.by_person,
        }
    }

    /// How it would answer now.
    #[must_use]
    pub fn peek(&self, now: Timestamp) -> Stance {
        let look_again = now + LOOK_AGAIN;
        let probes = match self.breaker.state(now) {
            BreakerState::Open => {
                let until = self.breaker.retry_at(now).unwrap_or(look_again);
                return Stance::Held {
                    why: Hold::BreakerOpen,
                    until: until.max(self.gate_until(now).unwrap_or(until)),
                };
            }
            BreakerState::ForcedOpen => {
                let until = self.breaker.retry_at(now).unwrap_or(now + LOOK_AT_PARKED);
                let until = until.max(self.gate_until(now).unwrap_or(until));
                return Stance::Held { why: Hold::IntegrationParked, until };
            }
            BreakerState::HalfOpen => Some(self.breaker.free_probes(now)),
            BreakerState::Closed | BreakerState::Disabled => None,
        };
        if let Some(until) = self.gate_until(now).filter(|_| !mutant::on("gate-not-shared")) {
            return Stance::Held { why: Hold::Gate, until };
        }
        let places = self.gate.free_places(now, self.lease()).filter(|_| !mutant::on("gate-not-shared"));
        match (probes, places) {
            (Some(a), Some(b)) => Stance::Probing { free: a.min(b) },
            (Some(free), None) | (None, Some(free)) => Stance::Probing { free },
            (None, None) => Stance::Free,
        }
    }

    /// May a call be made now? `roll` spreads those who have to wait, so that they do not come back together.
    pub fn admit(&mut self, now: Timestamp, roll: f64) -> Admission {
        match self.peek(now) {
            Stance::Held { why, until } => return Admission::Held { why, until: later(until, now, roll) },
            Stance::Probing { free: 0 } => {
                let why = if !self.gate.stands_open() { Hold::Gate } else { Hold::BreakerOpen };
                return Admission::Held { why, until: later(now + LOOK_AGAIN, now, roll) };
            }
            Stance::Probing { .. } | Stance::Free => {}
        }
        match self.breaker.acquire(now) {
            Some(ticket) => {
                let place = self.gate.take_place(now, self.lease());
                let first = place.is_some() && self.gate.goes_alone();
                Admission::Go(Permit { ticket, place, first, since: now })
            }
            None => Admission::Held { why: Hold::BreakerOpen, until: later(now + LOOK_AGAIN, now, roll) },
        }
    }

    /// An admitted call ended. Returns what changed, for the feed.
    pub fn report(&mut self, permit: Permit, report: Report<'_>, now: Timestamp) -> Vec<Transition> {
        let Permit { ticket, place, since, .. } = permit;
        let (end, manners) = match report {
            Report::Healthy => (CallEnd::Ok, Manners::Well),
            Report::Dropped => (CallEnd::Dropped, Manners::Silent),
            Report::Failed(failure) => judged(failure),
        };
        let timely = self.breaker.is_current(ticket, now);
        self.breaker.complete(ticket, end, now.since(since), now);
        match manners {
            Manners::Well => self.gate.well(place),
            Manners::Silent => {
                self.gate.give_back(place);
            }
            Manners::Busy(hint) => self.gate.close(place, hint, self.open_until(now), now),
        }
        if let Report::Failed(failure) = report {
            // A straggler from before a person closed it must not open it again.
            let counts = timely && self.state(now) != BreakerState::Disabled;
            match failure.signal {
                // Until the time it named, if it named one, as far as that is believed; else until a person acts.
                Signal::Open if counts => {
                    self.by_person = false;
                    self.breaker.force_open(failure.retry_after.map(|hint| now + hint.min(SILENCE_MAX)), now);
                }
                Signal::Open | Signal::Count | Signal::Throttle | Signal::Ignore => {}
            }
            if self.breaker.state(now) != self.told || failure.signal == Signal::Throttle {
                self.why.clone_from(&failure.message);
            }
        }
        self.changes(now)
    }

    /// Until when the breaker by itself lets nobody through.
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        (self.breaker.state(now) == BreakerState::Open).then(|| self.breaker.retry_at(now)).flatten()
    }

    /// The call this permit was given for still runs: its place as a probe or on the ramp is kept.
    pub fn renew(&mut self, permit: &Permit, now: Timestamp) {
        self.breaker.renew(permit.ticket, now);
        self.gate.renew(permit.place, now);
    }

    /// Is it held because a person said so, and not because of what was seen?
    #[must_use]
    pub const fn held_by_person(&self) -> bool {
        self.by_person
    }

    /// Holds everybody until a time, or (without one) until [`Guard::close`]. Both are a person's.
    pub fn force_open(&mut self, until: Option<Timestamp>, why: &str, now: Timestamp) -> Vec<Transition> {
        self.by_person = true;
        self.breaker.force_open(until, now);
        why.clone_into(&mut self.why);
        self.changes(now)
    }

    /// Closes the breaker and opens the gate, whatever they thought.
    pub fn close(&mut self, why: &str, now: Timestamp) -> Vec<Transition> {
        self.breaker.reset(now);
        self.by_person = false;
        self.gate.open();
        why.clone_into(&mut self.why);
        self.changes(now)
    }

    /// What changed since this was last asked, the passing of time included. Worth asking at every look at the clock.
    pub fn changes(&mut self, now: Timestamp) -> Vec<Transition> {
        let to = self.state(now);
        let from = std::mem::replace(&mut self.told, to);
        if from == to {
            return Vec::new();
        }
        let why = match to {
            BreakerState::Closed if from == BreakerState::HalfOpen => "the probe succeeded".to_owned(),
            BreakerState::HalfOpen => "time to try one call".to_owned(),
            BreakerState::Closed | BreakerState::Open | BreakerState::ForcedOpen | BreakerState::Disabled => {
                self.why.clone()
            }
        };
        why.clone_into(&mut self.why);
        vec![Transition { from, to, until: self.until(now), why }]
    }

    /// Where the breaker stands.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        self.breaker.state(now)
    }

    /// The failures the breaker counts at the moment.
    #[must_use]
    pub fn failures(&self, now: Timestamp) -> u32 {
        self.breaker.calls(now).failed
    }

    /// How many of them open it.
    #[must_use]
    pub const fn threshold(&self) -> u32 {
        self.breaker.config().failures
    }

    /// When an open breaker lets a probe pass; `None` when it is not open, or waits for a person.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            BreakerState::Open | BreakerState::ForcedOpen => self.breaker.retry_at(now),
            BreakerState::Closed | BreakerState::HalfOpen | BreakerState::Disabled => None,
        }
    }

    /// Until when the gate is closed, if it is.
    #[must_use]
    pub fn gate_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.gate.closed_until(now)
    }

    /// How many calls may be out at once while the gate opens step by step; `None`: it, or the breaker, lets nobody pass, or
    /// it stands open.
    #[must_use]
    pub fn ramp(&self, now: Timestamp) -> Option<u32> {
        let shut = matches!(self.state(now), BreakerState::Open | BreakerState::ForcedOpen);
        self.gate.ramp(now).filter(|_| !shut)
    }

    /// Does the gate let everybody pass, uncounted?
    #[must_use]
    pub const fn gate_stands_open(&self) -> bool {
        self.gate.stands_open()
    }

    /// Why it last changed, for people; empty when it never did.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// A place of the ramp is lent for as long as a probe is.
    const fn lease(&self) -> Duration {
        self.breaker.config().half_open_max_wait
    }
}

/// What a call's end says to the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manners {
    Well,
    Silent,
    Busy(Option<Duration>),
}

fn judged(failure: &Failure) -> (CallEnd, Manners) {
    let hinted = failure.retry_after.map_or(Manners::Silent, |hint| Manners::Busy(Some(hint)));
    match failure.signal {
        // Out of capacity is both: unhealthy, and a reason not to push.
        Signal::Count if failure.kind == Kind::Overloaded => (CallEnd::Err, Manners::Busy(failure.retry_after)),
        Signal::Count => (CallEnd::Err, hinted),
        Signal::Throttle => (CallEnd::Ignored, Manners::Busy(failure.retry_after)),
        // Of several calls that were out together only the first opens the breaker; the gate hears how long each asks for.
        Signal::Open => (CallEnd::Ignored, hinted),
        // An answer came, in full and in time; that it is a bad one is not the integration's illness.
        Signal::Ignore if failure.origin == Origin::AgentOutput => (CallEnd::Ok, Manners::Well),
        Signal::Ignore => (CallEnd::Ignored, Manners::Silent),
    }
}

/// Spreads those who wait over a tenth of the wait, at least two seconds and at most thirty; never earlier.
fn later(until: Timestamp, now: Timestamp, roll: f64) -> Timestamp {
    let spread = (now.until(until) / 10).clamp(LOOK_AGAIN, Duration::from_secs(30));
    until + spread.mul_f64(roll.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Action, Class, Fallback};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn failure(signal: Signal, retry_after: Option<u64>) -> Failure {
        Failure {
            class: Class::Transient,
            kind: Kind::ServerError,
            origin: Origin::Integration,
            action: Action::Backoff,
            retry: true,
            retry_after: retry_after.map(Duration::from_secs),
            fallback: Fallback::AfterRetries,
            signal,
            page: false,
            message: "overloaded".to_owned(),
            rule: "test".to_owned(),
            integration: None,
            status: None,
            code: None,
            request_id: None,
        }
    }

    fn go(guard: &mut Guard, now: Timestamp) -> Permit {
        match guard.admit(now, 0.0) {
            Admission::Go(permit) => permit,
            Admission::Held { why, until } => panic!("held: {why} until {until}"),
        }
    }

    fn fails(guard: &mut Guard, failure: &Failure, now: Timestamp) -> Vec<Transition> {
        let permit = go(guard, now);
        guard.report(permit, Report::Failed(failure), now)
    }

    #[test]
    fn five_failures_hold_everybody_until_one_probe_succeeds() {
        let mut guard = Guard::new(BreakerConfig::default());
        let broken = failure(Signal::Count, None);
        for second in 0..4 {
            assert_eq!(fails(&mut guard, &broken, at(second)), []);
        }
        let changes = fails(&mut guard, &broken, at(4));
        assert_eq!((changes[0].to, changes[0].until), (BreakerState::Open, Some(at(64))));
        assert_eq!((guard.why(), guard.failures(at(4)), guard.threshold()), ("overloaded", 5, 5));
        assert_eq!(guard.peek(at(63)), Stance::Held { why: Hold::BreakerOpen, until: at(64) });
        assert_eq!(guard.peek(at(64)), Stance::Probing { free: 1 });
        let probe = go(&mut guard, at(64));
        assert!(probe.is_probe());
        assert_eq!(guard.peek(at(64)), Stance::Probing { free: 0 });
        assert!(
            matches!(guard.admit(at(64), 0.0), Admission::Held { why: Hold::BreakerOpen, until } if until == at(66))
        );
        assert_eq!(guard.changes(at(64))[0].to, BreakerState::HalfOpen);
        let changes = guard.report(probe, Report::Healthy, at(65));
        assert_eq!((changes[0].to, changes[0].why.as_str()), (BreakerState::Closed, "the probe succeeded"));
        assert_eq!(guard.peek(at(65)), Stance::Free);
    }

    #[test]
    fn retry_after_holds_the_whole_team_then_one_then_two_then_four() {
        let mut guard = Guard::new(BreakerConfig::default());
        assert_eq!(fails(&mut guard, &failure(Signal::Throttle, Some(60)), at(0)), []);
        assert_eq!(guard.peek(at(59)), Stance::Held { why: Hold::Gate, until: at(60) });
        assert_eq!((guard.ramp(at(59)), guard.gate_stands_open()), (None, false));
        let mut rounds = Vec::new();
        while guard.peek(at(60)) != Stance::Free {
            let mut out = Vec::new();
            assert_eq!((guard.ramp(at(60)), guard.gate_stands_open()), (Some(1 << rounds.len()), false));
            while let Admission::Go(permit) = guard.admit(at(60), 0.0) {
                assert_eq!(permit.is_probe(), rounds.is_empty(), "only the first finds out");
                out.push(permit);
            }
            rounds.push(out.len());
            for permit in out {
                assert_eq!(guard.report(permit, Report::Healthy, at(60)), []);
            }
        }
        assert_eq!(rounds, [1, 2, 4, 8, 16]);
        assert_eq!((guard.ramp(at(60)), guard.gate_stands_open()), (None, true));
    }

    #[test]
    fn those_who_wait_come_back_later_never_earlier() {
        let mut guard = Guard::new(BreakerConfig::default());
        fails(&mut guard, &failure(Signal::Throttle, Some(60)), at(0));
        for (roll, until) in [(0.0, 60), (0.5, 63), (1.0, 66)] {
            assert_eq!(guard.admit(at(0), roll), Admission::Held { why: Hold::Gate, until: at(until) });
        }
    }

    #[test]
    fn busy_without_a_time_waits_longer_each_time_but_calls_that_were_out_together_count_once() {
        let mut guard = Guard::new(BreakerConfig::default());
        let busy = failure(Signal::Throttle, None);
        let together: Vec<Permit> = (0..10).map(|_| go(&mut guard, at(0))).collect();
        for permit in together {
            guard.report(permit, Report::Failed(&busy), at(0));
        }
        assert_eq!(guard.gate_until(at(0)), Some(at(1)));
        fails(&mut guard, &busy, at(1));
        assert_eq!(guard.gate_until(at(1)), Some(at(3)));
        fails(&mut guard, &busy, at(3));
        assert_eq!(guard.gate_until(at(3)), Some(at(7)));
    }

    #[test]
    fn out_of_capacity_counts_and_holds_the_gate() {
        let mut guard = Guard::new(BreakerConfig::default());
        let overloaded = Failure { kind: Kind::Overloaded, ..failure(Signal::Count, None) };
        fails(&mut guard, &overloaded, at(0));
        assert_eq!((guard.failures(at(0)), guard.gate_until(at(0))), (1, Some(at(1))));
        for second in [1, 3, 7] {
            assert_eq!(fails(&mut guard, &overloaded, at(second)), []);
        }
        assert_eq!(fails(&mut guard, &overloaded, at(15))[0].to, BreakerState::Open);
    }

    #[test]
    fn a_guess_of_the_gate_ends_with_the_breakers_period_and_a_hint_does_not() {
        let second = Duration::from_secs(1);
        let config = BreakerConfig { failures: 1, open_for: second, open_max: second, ..BreakerConfig::default() };
        let mut guard = Guard::new(config);
        let overloaded = Failure { kind: Kind::Overloaded, ..failure(Signal::Count, None) };
        for now in 0..9 {
            assert_eq!(guard.peek(at(now)), if now == 0 { Stance::Free } else { Stance::Probing { free: 1 } });
            fails(&mut guard, &overloaded, at(now));
            assert_eq!(guard.peek(at(now)), Stance::Held { why: Hold::BreakerOpen, until: at(now + 1) });
        }
        let hinted = Failure { retry_after: Some(Duration::from_secs(60)), ..overloaded };
        fails(&mut guard, &hinted, at(9));
        assert_eq!(guard.peek(at(9)), Stance::Held { why: Hold::BreakerOpen, until: at(69) });
    }

    #[test]
    fn a_shorter_hint_does_not_shorten_a_longer_one() {
        let mut guard = Guard::new(BreakerConfig::default());
        let (a, b) = (go(&mut guard, at(0)), go(&mut guard, at(0)));
        guard.report(a, Report::Failed(&failure(Signal::Count, Some(60))), at(0));
        guard.report(b, Report::Failed(&failure(Signal::Throttle, Some(5))), at(1));
        assert_eq!(guard.gate_until(at(1)), Some(at(60)));
    }

    #[test]
    fn bad_credentials_park_the_integration_until_a_person_closes_it() {
        let mut guard = Guard::new(BreakerConfig::default());
        let (first, straggler) = (go(&mut guard, at(0)), go(&mut guard, at(0)));
        let unusable = failure(Signal::Open, None);
        let changes = guard.report(first, Report::Failed(&unusable), at(1));
        assert_eq!((changes[0].to, changes[0].until), (BreakerState::ForcedOpen, None));
        assert!(matches!(guard.peek(at(1_000_000)), Stance::Held { why: Hold::IntegrationParked, .. }));
        assert_eq!(guard.close("new key", at(9))[0].to, BreakerState::Closed);
        assert_eq!(guard.report(straggler, Report::Failed(&unusable), at(10)), [], "it was asked with the old key");
        assert_eq!(guard.peek(at(10)), Stance::Free);
    }

    /// Seed 4615: two calls were out, and both were told to come back in ten minutes, the second a moment later. The first
    /// opened the breaker until its time; the second was a straggler, and its time was undercut by that moment.
    #[test]
    fn of_two_that_were_out_together_and_name_a_time_the_later_one_counts() {
        let mut guard = Guard::new(BreakerConfig::default());
        let (first, second) = (go(&mut guard, at(0)), go(&mut guard, at(0)));
        let used_up = failure(Signal::Open, Some(600));
        guard.report(first, Report::Failed(&used_up), at(1));
        guard.report(second, Report::Failed(&used_up), at(3));
        for (now, held) in [(1, Some(603)), (600, Some(603)), (602, Some(603)), (603, None)] {
            let until = match guard.peek(at(now)) {
                Stance::Held { until, .. } => Some(until),
                Stance::Probing { .. } | Stance::Free => None,
            };
            assert_eq!(until, held.map(at), "at {now}");
        }
    }

    /// A quota that was used up "for 999999999 s" held its integration for decades: the gate believed a day of it, and the
    /// breaker all.
    #[test]
    fn an_absurd_time_is_believed_for_a_day_and_then_a_probe_goes() {
        let mut guard = Guard::new(BreakerConfig::default());
        let day = 24 * 3_600;
        let changes = fails(&mut guard, &failure(Signal::Open, Some(1_000_000_000)), at(0));
        assert_eq!((changes[0].to, changes[0].until), (BreakerState::ForcedOpen, Some(at(day))));
        assert_eq!(guard.peek(at(day - 1)), Stance::Held { why: Hold::IntegrationParked, until: at(day) });
        assert!(go(&mut guard, at(day)).is_probe());
    }

    #[test]
    fn a_bad_answer_is_a_sign_of_health() {
        let mut guard = Guard::new(BreakerConfig::default());
        guard.force_open(Some(at(10)), "by hand", at(0));
        let answer = Failure { origin: Origin::AgentOutput, ..failure(Signal::Ignore, None) };
        fails(&mut guard, &answer, at(10));
        assert_eq!(guard.state(at(10)), BreakerState::Closed);
    }

    #[test]
    fn a_restart_keeps_breaker_and_gate_and_frees_what_was_lent() {
        let mut guard = Guard::new(BreakerConfig::default());
        fails(&mut guard, &failure(Signal::Throttle, Some(60)), at(0));
        let _never_reported = go(&mut guard, at(60));
        assert_eq!(guard.peek(at(60)), Stance::Probing { free: 0 });
        let json = serde_json::to_string(&guard.snapshot()).expect("json");
        let again = Guard::restore(BreakerConfig::default(), serde_json::from_str(&json).expect("json"));
        assert_eq!(again.peek(at(59)), Stance::Held { why: Hold::Gate, until: at(60) });
        assert_eq!(again.peek(at(60)), Stance::Probing { free: 1 });
    }

    #[test]
    fn a_dead_prober_gives_its_place_back() {
        let mut guard = Guard::new(BreakerConfig::default());
        fails(&mut guard, &failure(Signal::Throttle, Some(60)), at(0));
        let _never_reported = go(&mut guard, at(60));
        assert_eq!(guard.peek(at(179)), Stance::Probing { free: 0 });
        assert_eq!(guard.peek(at(180)), Stance::Probing { free: 1 });
    }
}
