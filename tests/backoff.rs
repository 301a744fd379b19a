//! Waits are what the policy says, to the millisecond.

use std::time::Duration;

use backstop::dead_letter::Circumstances;
use backstop::delivery::{Outcome, Settlement};
use backstop::failure::{Action, Class, Failure, Fallback, Kind, Origin, Signal};
use backstop::retry::{Backoff, Jitter, PolicyError, RetryPolicy};
use backstop::settle::{SettleFacts, settle};
use backstop::task::Effect;
use backstop::time::Timestamp;
use proptest::prelude::*;
use serde::Deserialize;

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
    cfg: Option<Cfg>,
    /// The dice, one for each retry asked for.
    r: Option<Vec<f64>>,
    /// The waits; -1: none is left.
    delays: Option<Vec<i64>>,
    /// Their sum.
    total: Option<i64>,
    invalid: Option<Vec<Invalid>>,
    stat: Option<Stat>,
    timeline: Option<Timeline>,
}

/// Spans in ms. A bare `f` means additive jitter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cfg {
    initial: Option<u64>,
    factor: Option<f64>,
    cap: Option<u64>,
    list: Option<Vec<u64>>,
    jitter: Option<String>,
    f: Option<f64>,
    retries: Option<i64>,
    max_deliveries: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalid {
    field: String,
    initial: Option<u64>,
    factor: Option<f64>,
    cap: Option<u64>,
    list: Option<Vec<u64>>,
    jitter: Option<String>,
    f: Option<f64>,
    retries: Option<i64>,
    max_deliveries: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stat {
    n: u32,
    attempt: u32,
    min_ge: u64,
    max_le: u64,
    mean: f64,
    mean_tol: f64,
    buckets: Option<usize>,
    chi2_max: Option<f64>,
}

/// A task that never succeeds, in ms from its submission.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeline {
    run_ms: Option<u64>,
    ack_wait: Option<u64>,
    outcome: String,
    starts: Vec<i64>,
    dlq_at: i64,
}

impl Cfg {
    fn policy(&self) -> Result<RetryPolicy, Vec<PolicyError>> {
        let ms = Duration::from_millis;
        let backoff = match &self.list {
            Some(list) => Backoff::List(list.iter().copied().map(ms).collect()),
            None => Backoff::Exponential {
                initial: ms(self.initial.unwrap_or(1_000)),
                factor: self.factor.unwrap_or(2.0),
                cap: ms(self.cap.unwrap_or(3_600_000)),
            },
        };
        let f = self.f.unwrap_or(0.1);
        let jitter = match self.jitter.as_deref() {
            Some("none") => Jitter::None,
            None if self.f.is_none() => Jitter::None,
            Some("additive") | None => Jitter::Additive(f),
            Some("around") => Jitter::Around(f),
            Some("full") => Jitter::Full,
            Some("equal") => Jitter::Equal,
            Some("decorrelated") => Jitter::Decorrelated,
            Some(other) => panic!("unknown jitter {other}"),
        };
        let max_deliveries = match (self.max_deliveries, self.retries) {
            (Some(deliveries), _) => deliveries,
            (None, Some(retries)) => RetryPolicy::deliveries(retries).map_err(|error| vec![error])?,
            (None, None) => 3,
        };
        let policy = RetryPolicy { max_deliveries, backoff, jitter, ..RetryPolicy::seed_b() };
        let errors = policy.check();
        if errors.is_empty() { Ok(policy) } else { Err(errors) }
    }
}

fn delays(id: &str, policy: &RetryPolicy, rolls: &[f64], expected: &[i64], total: Option<i64>) {
    assert_eq!(rolls.len(), expected.len(), "{id}: as many dice as waits");
    let mut previous = Duration::ZERO;
    let mut found = Vec::new();
    for (n, roll) in (1..).zip(rolls) {
        let wait = policy.delay(n, previous, *roll);
        previous = wait.unwrap_or_default();
        found.push(wait.map_or(-1, |wait| i64::try_from(wait.as_millis()).expect("small")));
    }
    assert_eq!(found, expected, "{id}");
    if let Some(total) = total {
        assert_eq!(found.iter().filter(|wait| **wait >= 0).sum::<i64>(), total, "{id}");
    }
}

fn invalid(id: &str, case: &Invalid) {
    let cfg = Cfg {
        initial: case.initial,
        factor: case.factor,
        cap: case.cap,
        list: case.list.clone(),
        jitter: case.jitter.clone(),
        f: case.f,
        retries: case.retries,
        max_deliveries: case.max_deliveries,
    };
    let errors = cfg.policy().expect_err("an unsound policy");
    let fields: Vec<&str> = errors.iter().map(|error| error.field).collect();
    assert_eq!(fields, [case.field.as_str()], "{id}");
    assert!(errors[0].to_string().starts_with(&format!("{}: ", case.field)), "{id}: {}", errors[0]);
}

/// SplitMix64: dice that fall the same way in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let top = u32::try_from((z ^ (z >> 31)) >> 32).expect("32 bits");
        f64::from(top) / f64::from(u32::MAX).next_up()
    }
}

fn statistics(id: &str, policy: &RetryPolicy, stat: &Stat) {
    let mut dice = Dice(14);
    let wait = |dice: &mut Dice| {
        let wait = policy.delay(stat.attempt, Duration::ZERO, dice.roll()).expect("a retry");
        u32::try_from(wait.as_millis()).expect("small")
    };
    let waits: Vec<u32> = (0..stat.n).map(|_| wait(&mut dice)).collect();
    let within = |wait: &&u32| (stat.min_ge..=stat.max_le).contains(&u64::from(**wait));
    assert_eq!(waits.iter().filter(within).count(), waits.len(), "{id}: all within bounds");
    let mean = waits.iter().map(|wait| f64::from(*wait)).sum::<f64>() / f64::from(stat.n);
    assert!((mean - stat.mean).abs() <= stat.mean_tol, "{id}: mean {mean}");
    if let (Some(buckets), Some(chi2_max)) = (stat.buckets, stat.chi2_max) {
        let chi2 = chi_square(&waits, stat.min_ge, stat.max_le, buckets);
        assert!(chi2 <= chi2_max, "{id}: chi square {chi2}");
    }
}

/// Against a uniform distribution rounded to whole milliseconds: the two edges get half a millisecond's share each.
fn chi_square(waits: &[u32], min: u64, max: u64, buckets: usize) -> f64 {
    let bucket = |wait: u64| {
        let index = (wait - min) * buckets as u64 / (max - min);
        usize::try_from(index).expect("small").min(buckets - 1)
    };
    let mut observed = vec![0.0; buckets];
    let mut expected = vec![0.0; buckets];
    for wait in waits {
        observed[bucket(u64::from(*wait))] += 1.0;
    }
    let share =
        f64::from(u32::try_from(waits.len()).expect("small")) / f64::from(u32::try_from(max - min).expect("small"));
    for wait in min..=max {
        expected[bucket(wait)] += if wait == min || wait == max { share / 2.0 } else { share };
    }
    observed.iter().zip(&expected).map(|(o, e): (&f64, &f64)| (o - e).powi(2) / e).sum()
}

/// A failure of this class, kind and action, otherwise unremarkable.
pub(crate) fn failure(class: Class, kind: Kind, action: Action) -> Failure {
    Failure {
        class,
        kind,
        origin: Origin::Integration,
        action,
        retry: action == Action::Backoff,
        retry_after: None,
        fallback: Fallback::AfterRetries,
        signal: Signal::Count,
        page: false,
        message: "it broke".to_owned(),
        rule: "test".to_owned(),
        integration: None,
        status: None,
        code: None,
        request_id: None,
    }
}

/// A first delivery of a read-only task.
pub(crate) fn facts(policy: &RetryPolicy) -> SettleFacts<'_> {
    SettleFacts {
        effect: Effect::ReadOnly,
        attempt: 1,
        due: Timestamp::from_millis(0),
        crashes: 0,
        outcome_unknown: false,
        previous_delay: Duration::ZERO,
        deadline: None,
        policy,
        probe: false,
        given_back: 0,
        own: true,
        integration: None,
        hold: None,
        parked_for: Duration::ZERO,
        correction: None,
        same_output_again: false,
        circumstances: Circumstances::default(),
    }
}

/// Lives through a task that fails every time, on a clock of its own.
fn timeline(id: &str, policy: &RetryPolicy, story: &Timeline) {
    let ack_wait = story.ack_wait.map_or(policy.ack_wait, Duration::from_millis);
    let (kind, runs, silent) = match story.outcome.as_str() {
        "error" => (Kind::ServerError, Duration::from_millis(story.run_ms.unwrap_or(0)), false),
        "silent" => (Kind::LeaseLapsed, ack_wait, true),
        other => panic!("{id}: unknown outcome {other}"),
    };
    let class = if silent { Class::Infrastructure } else { Class::Transient };
    let mut now = Timestamp::from_millis(0);
    let (mut starts, mut previous_delay) = (Vec::new(), Duration::ZERO);
    for attempt in 1.. {
        starts.push(now.millis());
        let ended = now + runs;
        let crashes = if silent { attempt } else { 0 };
        let facts = SettleFacts { attempt, crashes, previous_delay, ..facts(policy) };
        let outcome = Outcome::Failed(failure(class, kind, Action::Backoff));
        match settle(&facts, outcome, None, ended, 0.5) {
            Settlement::Retry { due, .. } => (previous_delay, now) = (ended.until(due), due),
            Settlement::DeadLetter { .. } => {
                assert_eq!((&starts, ended.millis()), (&story.starts, story.dlq_at), "{id}");
                return;
            }
            other @ (Settlement::Ack { .. } | Settlement::Release { .. } | Settlement::Held { .. }) => {
                panic!("{id}: {other:?}")
            }
        }
    }
}

const CASES: &str = include_str!("conformance/backoff.toml");

#[test]
fn backoff_follows_its_table() {
    let table: Table = toml::from_str(CASES).expect("a known table");
    let mut roll = Roll::of("backoff", CASES);
    for case in &table.case {
        let id = case.id.as_str();
        let policy = case.cfg.as_ref().map(|cfg| cfg.policy().unwrap_or_else(|errors| panic!("{id}: {errors:?}")));
        let mut checked = 0;
        if let Some(expected) = &case.delays {
            let policy = policy.as_ref().expect("`delays` come with `cfg`");
            delays(id, policy, case.r.as_ref().expect("`delays` come with `r`"), expected, case.total);
            checked += 1;
        }
        for wrong in case.invalid.iter().flatten() {
            invalid(id, wrong);
            checked += 1;
        }
        if let Some(stat) = &case.stat {
            statistics(id, policy.as_ref().expect("`stat` comes with `cfg`"), stat);
            checked += 1;
        }
        if let Some(story) = &case.timeline {
            timeline(id, policy.as_ref().unwrap_or(&RetryPolicy::seed_b()), story);
            checked += 1;
        }
        assert!(checked > 0, "{id} says nothing");
        roll.held(id);
    }
    roll.complete();
}

/// 100 agents failing at the same instant do not come back together (ACCEPTANCE R6).
#[test]
fn a_herd_is_spread() {
    let mut dice = Dice(6);
    let mut per_bucket = std::collections::BTreeMap::<u128, u32>::new();
    for _ in 0..100 {
        let wait = RetryPolicy::seed_a().delay(1, Duration::ZERO, dice.roll()).expect("a retry");
        *per_bucket.entry(wait.as_millis() / 10).or_default() += 1;
    }
    assert!(per_bucket.values().all(|n| *n <= 20), "{per_bucket:?}");
}

proptest! {
    #[test]
    fn waits_stay_within_what_their_jitter_promises(n in 1_u32..20, roll in 0.0_f64..1.0, f in 0.0_f64..1.0) {
        let ms = Duration::from_millis;
        let bounds = [
            (Jitter::None, 1.0, 1.0),
            (Jitter::Additive(f), 1.0, 1.0 + f),
            (Jitter::Around(f), 1.0 - f, 1.0 + f),
            (Jitter::Full, 0.0, 1.0),
            (Jitter::Equal, 0.5, 1.0),
        ];
        for (jitter, least, most) in bounds {
            let policy = RetryPolicy { jitter, max_deliveries: 21, ..RetryPolicy::seed_a() };
            let base = policy.waits()[usize::try_from(n - 1).expect("small")];
            let wait = policy.delay(n, Duration::ZERO, roll).expect("a retry");
            prop_assert!(wait + ms(1) >= base.mul_f64(least) && wait <= base.mul_f64(most) + ms(1), "{jitter:?} {wait:?}");
        }
    }

    /// Whatever fails, however often, on whichever try: no second delivery of a payment is ever scheduled.
    #[test]
    fn a_payment_is_never_retried(
        kind in prop::sample::select(Kind::ALL),
        action in prop::sample::select(Action::ALL),
        class in prop::sample::select(Class::ALL),
        attempt in 1_u32..4,
        unknown in any::<bool>(),
        hint in prop::option::of(0_u64..1_000),
    ) {
        let policy = RetryPolicy { max_deliveries: RetryPolicy::UNLIMITED, ..RetryPolicy::team_default() };
        let facts = SettleFacts { effect: Effect::Payment, attempt, outcome_unknown: unknown, ..facts(&policy) };
        let failure = Failure { retry_after: hint.map(Duration::from_secs), ..failure(class, kind, action) };
        let settled = settle(&facts, Outcome::Failed(failure), None, Timestamp::from_millis(0), 0.5);
        let again = !matches!(settled, Settlement::DeadLetter { .. });
        prop_assert!(!again || (action == Action::ParkIntegration && !unknown), "{settled:?}");
        prop_assert!(!matches!(settled, Settlement::Retry { .. }), "{settled:?}");
    }
}
