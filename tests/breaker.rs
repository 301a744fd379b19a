//! The breaker opens, holds, probes once and closes; the gate holds everybody.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstop::breaker::{Breaker, BreakerConfig, BreakerKind, BreakerState, CallEnd, Calls, Ticket};
use backstop::failure::{Action, Class, Failure, Kind, Signal};
use backstop::guard::{Admission, Guard, Permit, Report, Stance};
use backstop::time::Timestamp;
use proptest::prelude::*;
use serde::Deserialize;
use toml::Value;

use crate::backoff::failure;
use crate::support::Roll;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "titles and sources are for readers of the table")]
struct Case {
    id: String,
    title: String,
    source: String,
    cfg: Cfg,
    #[serde(default)]
    steps: Vec<Vec<Value>>,
    burst: Option<Burst>,
}

/// Spans in ms; `window` is a number of calls for kind `count`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cfg {
    kind: String,
    failures: Option<u32>,
    window: Option<u32>,
    rate: Option<f64>,
    min_calls: Option<u32>,
    slow_ms: Option<u64>,
    slow_rate: Option<f64>,
    open_for: u64,
    open_mult: Option<f64>,
    open_max: Option<u64>,
    half_open: Option<String>,
    permits: Option<u32>,
    successes: Option<u32>,
    half_open_successes: Option<u32>,
    half_open_max_wait: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Burst {
    t: i64,
    callers: usize,
    admitted: usize,
}

impl Cfg {
    fn breaker(&self) -> Breaker {
        let ms = Duration::from_millis;
        let default = BreakerConfig::default();
        let kind: BreakerKind = self.kind.parse().expect("a known kind");
        let config = BreakerConfig {
            kind,
            failures: self.failures.unwrap_or(default.failures),
            window: match kind {
                BreakerKind::Failures | BreakerKind::Time => self.window.map_or(default.window, |w| ms(w.into())),
                BreakerKind::Count => default.window,
            },
            window_calls: match kind {
                BreakerKind::Count => self.window.unwrap_or(default.window_calls),
                BreakerKind::Failures | BreakerKind::Time => default.window_calls,
            },
            rate: self.rate.unwrap_or(default.rate),
            min_calls: self.min_calls.unwrap_or(default.min_calls),
            slow_after: self.slow_ms.map_or(Duration::ZERO, ms),
            slow_rate: self.slow_rate.unwrap_or(default.slow_rate),
            open_for: ms(self.open_for),
            open_mult: self.open_mult.unwrap_or(1.0),
            open_max: self.open_max.map_or(default.open_max, ms).max(ms(self.open_for)),
            half_open: self.half_open.as_deref().unwrap_or("strict").parse().expect("a known rule"),
            permits: self.permits.unwrap_or(default.permits),
            successes: self.successes.or(self.half_open_successes).unwrap_or(default.successes),
            half_open_max_wait: self.half_open_max_wait.map_or(Duration::ZERO, ms),
        };
        assert_eq!(config.check(), []);
        Breaker::new(config)
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn whole(value: &Value) -> i64 {
    value.as_integer().expect("a whole number")
}

fn number(value: &Value) -> f64 {
    value.as_float().unwrap_or_else(|| f64::from(i32::try_from(whole(value)).expect("small")))
}

fn span(value: &Value) -> Duration {
    Duration::from_millis(u64::try_from(whole(value)).expect("not negative"))
}

fn end(word: &str) -> CallEnd {
    match word {
        "ok" => CallEnd::Ok,
        "err" => CallEnd::Err,
        "ign" => CallEnd::Ignored,
        "drop" => CallEnd::Dropped,
        other => panic!("unknown end {other}"),
    }
}

/// The table writes `half_open`, we say `half-open`.
fn state(word: &str) -> BreakerState {
    word.replace('_', "-").parse().expect("a known state")
}

fn step(id: &str, breaker: &mut Breaker, tickets: &mut BTreeMap<String, Ticket>, step: &[Value]) {
    let now = at(whole(&step[0]));
    let words: Vec<&str> = step.iter().filter_map(Value::as_str).collect();
    let told = format!("{id} {step:?}");
    match (words.as_slice(), &step[2..]) {
        ([word @ ("ok" | "err" | "ign" | "drop")], [took]) => {
            let ticket = breaker.acquire(now).unwrap_or_else(|| panic!("{told}: not admitted"));
            breaker.complete(ticket, end(word), span(took), now);
        }
        (["acq", name, expected], [_, _]) => {
            let ticket = breaker.acquire(now);
            let admitted = match *expected {
                "yes" => true,
                "no" => false,
                other => panic!("{told}: unknown answer {other}"),
            };
            assert_eq!(ticket.is_some(), admitted, "{told}");
            tickets.extend(ticket.map(|ticket| ((*name).to_owned(), ticket)));
        }
        (["done", name, word], [_, _, took]) => {
            let ticket = tickets.get(*name).unwrap_or_else(|| panic!("{told}: was not admitted"));
            breaker.complete(*ticket, end(word), span(took), now);
        }
        (["state", expected], [_]) => assert_eq!(breaker.state(now), state(expected), "{told}"),
        (["rate"], [expected]) => {
            let rate = breaker.rate(now).unwrap_or(-1.0);
            assert!((rate - number(expected)).abs() < 0.01, "{told}: {rate}");
        }
        (["calls"], [total, failed, slow]) => {
            let n = |value: &Value| u32::try_from(whole(value)).expect("a count");
            let expected = Calls { total: n(total), failed: n(failed), slow: n(slow) };
            assert_eq!(breaker.calls(now), expected, "{told}");
        }
        (["retry_at"], [expected]) => {
            let told_to_callers = breaker.retry_at(now).map_or(-1, Timestamp::millis);
            assert_eq!(told_to_callers, whole(expected), "{told}");
        }
        (["trip"], []) => breaker.trip(now),
        (["force_open"], []) => breaker.force_open(None, now),
        (["disable"], []) => breaker.disable(now),
        (["reset"], []) => breaker.reset(now),
        (["open_for"], [ms]) => breaker.open_for(span(ms), now),
        (_, _) => panic!("{told}: unknown step"),
    }
}

/// Eight threads ask at the same instant.
fn burst(breaker: Breaker, burst: &Burst) -> usize {
    let breaker = Mutex::new(breaker);
    let (asked, admitted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while asked.fetch_add(1, Ordering::Relaxed) < burst.callers {
                    if breaker.lock().expect("nobody panicked").acquire(at(burst.t)).is_some() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    admitted.into_inner()
}

const CASES: &str = include_str!("conformance/circuit_breaker.toml");

#[test]
fn the_breaker_follows_its_table() {
    let table: Table = toml::from_str(CASES).expect("a known table");
    let mut roll = Roll::of("circuit_breaker", CASES);
    for case in &table.case {
        let mut breaker = case.cfg.breaker();
        let mut tickets = BTreeMap::new();
        for found in &case.steps {
            step(&case.id, &mut breaker, &mut tickets, found);
        }
        if let Some(found) = &case.burst {
            assert_eq!(burst(breaker, found), found.admitted, "{}", case.id);
        }
        roll.held(&case.id);
    }
    roll.complete();
}

proptest! {
    /// Whatever happens: an open breaker admits nobody, a half-open one never more than its permits, looking changes
    /// nothing, and who comes back when told is admitted.
    #[test]
    fn nobody_gets_through_an_open_breaker(
        moves in prop::collection::vec((0_i64..2_000, 0_u8..9, 0_usize..4), 1..120),
        permits in 1_u32..4,
    ) {
        let config = BreakerConfig {
            failures: 3,
            open_for: Duration::from_secs(2),
            half_open_max_wait: Duration::from_secs(3),
            permits,
            successes: permits,
            ..BreakerConfig::default()
        };
        let mut breaker = Breaker::new(config);
        let mut out: Vec<Ticket> = Vec::new();
        let mut t = 0;
        for (wait, what, which) in moves {
            t += wait;
            let now = at(t);
            let before = breaker.clone();
            let state = breaker.state(now);
            let free = breaker.free_probes(now);
            prop_assert!(free <= permits);
            prop_assert_eq!(&before, &breaker);
            if let (BreakerState::Open, Some(back)) = (state, breaker.retry_at(now)) {
                prop_assert!(back > now);
                prop_assert!(before.clone().acquire(back).is_some());
            }
            match what {
                0..4 => {
                    let ticket = breaker.acquire(now);
                    let expected = match state {
                        BreakerState::Closed | BreakerState::Disabled => true,
                        BreakerState::Open | BreakerState::ForcedOpen => false,
                        BreakerState::HalfOpen => free > 0,
                    };
                    prop_assert_eq!(ticket.is_some(), expected);
                    out.extend(ticket);
                }
                4 => breaker.force_open((which > 0).then(|| now + Duration::from_secs(1)), now),
                5 if which == 0 => breaker.reset(now),
                _ if !out.is_empty() => {
                    let ticket = out.swap_remove(which % out.len());
                    let end = [CallEnd::Ok, CallEnd::Err, CallEnd::Err, CallEnd::Dropped][which];
                    breaker.complete(ticket, end, Duration::ZERO, now);
                }
                _ => {}
            }
        }
    }

    /// Whatever is reported: nobody is admitted while held, nobody is told to come back earlier than the gate says,
    /// the gate never opens earlier than it promised, and once everything ends well everybody may call again.
    #[test]
    fn nobody_gets_past_a_closed_gate(
        moves in prop::collection::vec((0_i64..3_000, 0_u8..8, 0_usize..8, 0.0_f64..1.0), 1..120),
    ) {
        let mut guard = Guard::new(BreakerConfig { open_for: Duration::from_secs(5), ..BreakerConfig::default() });
        let mut out: Vec<Permit> = Vec::new();
        let (mut t, mut promised) = (0, at(0));
        for (wait, what, which, roll) in moves {
            t += wait;
            let now = at(t);
            let stance = guard.peek(now);
            match (guard.admit(now, roll), stance) {
                (Admission::Go(permit), Stance::Free | Stance::Probing { .. }) => {
                    prop_assert!(now >= promised);
                    prop_assert!(!permit.is_probe() || stance != Stance::Free);
                    prop_assert_ne!(stance, Stance::Probing { free: 0 });
                    out.push(permit);
                }
                (Admission::Held { until, .. }, Stance::Held { until: earliest, .. }) => {
                    prop_assert!(until >= earliest && earliest > now && until >= promised);
                }
                (Admission::Held { until, .. }, Stance::Probing { free: 0 }) => {
                    prop_assert!(until > now && until >= promised);
                }
                (admission, stance) => prop_assert!(false, "{admission:?} {stance:?}"),
            }
            if what < 6 && !out.is_empty() {
                let permit = out.swap_remove(which % out.len());
                let hint = Duration::from_secs(u64::from(what));
                let busy = Failure {
                    signal: Signal::Throttle,
                    retry_after: Some(hint),
                    ..failure(Class::Transient, Kind::RateLimited, Action::Backoff)
                };
                let broken = failure(Class::Transient, Kind::ServerError, Action::Backoff);
                let report = match what {
                    0 | 1 => Report::Healthy,
                    2 => Report::Dropped,
                    3 => Report::Failed(&broken),
                    _ => Report::Failed(&busy),
                };
                if what > 3 {
                    promised = promised.max(now + hint);
                }
                guard.report(permit, report, now);
            }
        }
        for _ in 0..100 {
            t += 130_000;
            if let Admission::Go(permit) = guard.admit(at(t), 0.5) {
                guard.report(permit, Report::Healthy, at(t));
            }
        }
        prop_assert_eq!(guard.peek(at(t)), Stance::Free);
    }
}
