//! Settlement: what becomes of a delivery that ended, and the only place where another try is scheduled.
//!
//! [`settle`] is pure: how the delivery ended, the facts around it, the time and a roll of the dice decide.

use std::time::Duration;

use crate::dead_letter::Circumstances;
use crate::delivery::{Amendment, AmendmentSource, Hold, Outcome, Settlement};
use crate::failure::{Action, Class, Failure, Fallback, Kind, Origin, Signal};
use crate::mutant;
use crate::retry::RetryPolicy;
use crate::retry_budget::RetryBudget;
use crate::task::{Effect, Integration};
use crate::time::{self, Timestamp};

/// Deaths under one task, in one round, after which it is suspected of causing them.
pub const CRASHES_MAX: u32 = 3;
/// The longest hint that is slept on; a longer one parks the task, and then it is the CEO's.
pub const HINT_MAX: Duration = Duration::from_secs(300);
/// So many probes of a breaker are nobody's try, in one round; they are made of the calls that a round has to spare
/// (`CALLS_SPARE` in `budget.rs`), and leave some for drains and doors.
const PROBES_FREE: u32 = 3;
/// How long after the hold such a one comes back where the policy knows no wait.
const PROBE_BEHIND: Duration = Duration::from_secs(1);
/// When to look again at an integration that is parked without a time.
const LOOK_AT_PARKED: Duration = Duration::from_secs(300);
/// When a task goes on whose results found no room on disk.
const LOOK_AT_DISK: Duration = Duration::from_secs(60);

/// Everything [`settle`] wants to know about a delivery besides how it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SettleFacts<'a> {
    /// What doing the task does to the world.
    pub effect: Effect,
    /// The number of this delivery in its round, first = 1; it has been counted.
    pub attempt: u32,
    /// Since when it was due when this delivery was begun.
    pub due: Timestamp,
    /// How many deliveries of this round ended in a death or in silence, this one included if it did.
    pub crashes: u32,
    /// May something outside have happened without our knowing? A model call alone is nothing of the kind; a tool
    /// call or a charge that was sent and not answered is. A payment whose worker died counts as such in any case.
    pub outcome_unknown: bool,
    /// The wait before this delivery, zero for the first of a round.
    pub previous_delay: Duration,
    /// When the task must be done.
    pub deadline: Option<Timestamp>,
    /// The policy in force.
    pub policy: &'a RetryPolicy,
    /// The integration the delivery called, or would have.
    pub integration: Option<Integration>,
    /// Was the call that failed the one that an open breaker lets through to find out whether the integration is back?
    pub probe: bool,
    /// How many deliveries of this round were given back uncounted although they had called, and failed.
    pub given_back: u32,
    /// Is that integration the one the task's own model is asked at? For a server of tools, or the provider of who
    /// verifies, another model would have to wait just the same.
    pub own: bool,
    /// Whether that integration is held now, after this delivery was reported to its guard, and until when.
    pub hold: Option<(Hold, Timestamp)>,
    /// How long the task has waited at holds in this round.
    pub parked_for: Duration,
    /// What the next delivery is told about a refused answer; the failure's message when absent.
    pub correction: Option<String>,
    /// Is the refused answer to the letter the one refused before?
    pub same_output_again: bool,
    /// How things stand, kept with a dead letter.
    pub circumstances: Circumstances,
}

/// Decides the fate of a delivery: the only place in this program where another try is scheduled.
///
/// `budget` is the integration's budget of retries, if it has one; a retry withdraws from it. `roll` is uniform in
/// [0, 1). First of all: a payment is never repeated.
#[must_use]
pub fn settle(
    facts: &SettleFacts<'_>,
    outcome: Outcome,
    budget: Option<&mut RetryBudget>,
    now: Timestamp,
    roll: f64,
) -> Settlement {
    match outcome {
        Outcome::Answered(answer) => Settlement::Ack { answer },
        Outcome::NotBegun { why, until } => facts.not_begun(why, until, now),
        Outcome::Failed(failure) => {
            if let Some(settlement) = facts.never_again(&failure, now).filter(|_| !mutant::on("payment-retried")) {
                return settlement;
            }
            match failure.action {
                Action::Backoff => facts.back_off(failure, budget, now, roll),
                // What is full is our own disk, and no integration's.
                Action::ParkIntegration if failure.kind == Kind::Storage => facts.wait_for_room(failure, now, roll),
                Action::ParkIntegration => facts.park(failure, now),
                Action::FallbackNow => facts.give_up(failure, "this model cannot do it; the CEO chooses another"),
                Action::ModifyRequeue => facts.requeue(failure, budget, now),
                Action::DeadLetter if mutant::on("logic-retried") => facts.back_off(failure, budget, now, roll),
                Action::DeadLetter => facts.give_up(failure, "trying again cannot help"),
                Action::Human => facts.give_up(failure, "only a person can judge"),
            }
        }
    }
}

impl SettleFacts<'_> {
    /// What may have happened already, and must not happen twice.
    fn never_again(&self, failure: &Failure, now: Timestamp) -> Option<Settlement> {
        let silent = is_crash(failure.kind);
        let unknown = self.outcome_unknown || failure.kind == Kind::OutcomeUnknown;
        match self.effect {
            Effect::Payment if unknown || silent => {
                Some(self.give_up(outcome_unknown(failure), "a payment that may have happened is never repeated"))
            }
            // Turned away at the door: nothing was done, and nothing is repeated.
            Effect::Payment if failure.action == Action::ParkIntegration => Some(self.park(failure.clone(), now)),
            Effect::Payment => Some(self.give_up(failure.clone(), "a payment is never repeated automatically")),
            Effect::Mutation if unknown => {
                Some(self.give_up(outcome_unknown(failure), "what may have happened is not done again unseen"))
            }
            Effect::ReadOnly | Effect::Notification | Effect::Mutation => None,
        }
    }

    fn not_begun(&self, why: Hold, until: Timestamp, now: Timestamp) -> Settlement {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return self.give_up(deadline_passed(None), "its deadline passed");
        }
        let due = match why {
            Hold::Drain | Hold::Paused => {
                let due = self.deadline.map_or(until, |deadline| until.min(deadline));
                return Settlement::Release { due, why, failure: None };
            }
            _ if self.moves_on_at(why) => now,
            Hold::BreakerOpen | Hold::Gate | Hold::RetryBudget | Hold::IntegrationParked | Hold::DiskFull => {
                match self.may_wait_until(until, now) {
                    Some(due) => due,
                    None => {
                        let failure = parked_too_long(self.integration.clone(), self.parked_for);
                        let fallback = if self.own { failure.fallback } else { Fallback::Never };
                        let failure = Failure { fallback, ..failure };
                        return self.give_up(failure, &self.waited_enough());
                    }
                }
            }
        };
        match &self.integration {
            Some(by) => Settlement::Held { due, why, by: by.clone() },
            None => Settlement::Release { due, why, failure: None },
        }
    }

    fn back_off(&self, failure: Failure, budget: Option<&mut RetryBudget>, now: Timestamp, roll: f64) -> Settlement {
        if let Some(hint) = failure.retry_after.filter(|hint| *hint > HINT_MAX) {
            return self.release(failure, Hold::Gate, now + hint, now);
        }
        if let Some((why, due)) = self.as_probe(&failure, now, roll) {
            return Settlement::Release { due, why, failure: Some(failure) };
        }
        let crash = is_crash(failure.kind);
        if crash && self.crashes >= CRASHES_MAX {
            return self.give_up(failure, &format!("{} deaths of {CRASHES_MAX} in this round", self.crashes));
        }
        let Some(backoff) = self.backoff(roll) else { return self.used_up(failure) };
        // It was at work, and nothing it did failed: it has its place in the line back, before those that came later, at once.
        // Only once at once: what the process died under again may be why, and waits its backoff, apart from its fellow
        // sufferers.
        if failure.kind == Kind::ProcessDied && self.crashes <= 1 {
            // By the clock of before: one that has been set back since would make it wait.
            let due = self.not_before_hold(self.due.min(now), now);
            return self.try_again(failure, due, None, None, now);
        }
        // The hint is a floor, spread upwards only.
        let floor = failure.retry_after.map_or(Duration::ZERO, |hint| hint.mul_f64(1.0 + 0.1 * roll.clamp(0.0, 1.0)));
        if self.hold.is_some_and(|(why, until)| until > now + backoff && self.moves_on_at(why)) {
            // No retry of what it will not call: that has a budget.
            return self.try_again(failure, now, None, None, now);
        }
        let due = self.not_before_hold(now + backoff.max(floor), now);
        // Whoever died under it, it was not the integration: its budget is not touched.
        let budget = if crash { None } else { budget };
        self.try_again(failure, due, None, budget, now)
    }

    /// A probe of the breaker was sent for all who wait; that it found the integration as it was is nobody's try, as long as
    /// there is patience to wait: one call more for a whole period in which the breaker stands open. The next time another
    /// goes: it is due behind them, its backoff after the hold, and has its place in the line from then on.
    fn as_probe(&self, failure: &Failure, now: Timestamp, roll: f64) -> Option<(Hold, Timestamp)> {
        let sick = matches!(failure.signal, Signal::Count | Signal::Throttle);
        let free = self.probe && sick && self.given_back < PROBES_FREE;
        let (why, until) = self.hold.filter(|_| free)?;
        let next = self.attempt.min(self.policy.max_deliveries.saturating_sub(1));
        let behind = self.policy.delay(next, self.previous_delay, roll).unwrap_or(PROBE_BEHIND);
        Some((why, self.may_wait_until(until + behind, now)?))
    }

    fn requeue(&self, failure: Failure, budget: Option<&mut RetryBudget>, now: Timestamp) -> Settlement {
        if self.backoff(0.0).is_none() {
            let kind = if self.same_output_again { Kind::SameOutput } else { failure.kind };
            return self.used_up(Failure { kind, ..failure });
        }
        let text = self.correction.clone().unwrap_or_else(|| failure.message.clone());
        let amendment = Amendment { from: AmendmentSource::Validation, text };
        let due = self.not_before_hold(now, now);
        self.try_again(failure, due, Some(amendment), budget, now)
    }

    fn try_again(
        &self,
        failure: Failure,
        due: Timestamp,
        amendment: Option<Amendment>,
        budget: Option<&mut RetryBudget>,
        now: Timestamp,
    ) -> Settlement {
        if self.deadline.is_some_and(|deadline| deadline <= due.max(now)) {
            return self.give_up(deadline_passed(Some(&failure)), "the next try would come after its deadline");
        }
        if budget.is_some_and(|budget| !budget.withdraw(now)) {
            let backoff = self.backoff(0.5).unwrap_or_default();
            return self.release(failure, Hold::RetryBudget, due.max(now + backoff), now);
        }
        Settlement::Retry { due, failure, amendment }
    }

    fn park(&self, failure: Failure, now: Timestamp) -> Settlement {
        let (why, until) = self.hold.unwrap_or((Hold::IntegrationParked, now + LOOK_AT_PARKED));
        self.release(failure, why, until, now)
    }

    /// The store had no room for what was found out: nobody's try, as long as there is patience to wait. That this can be
    /// written says that there is room again, for a while at least.
    fn wait_for_room(&self, failure: Failure, now: Timestamp, roll: f64) -> Settlement {
        // No delivery begins at its deadline, and there may be room long before.
        let left = self.deadline.map_or(LOOK_AT_DISK, |deadline| deadline.since(now) / 2);
        match self.may_wait_until(now + LOOK_AT_DISK.min(left), now) {
            Some(due) => Settlement::Release { due, why: Hold::DiskFull, failure: Some(failure) },
            None => self.back_off(failure, None, now, roll),
        }
    }

    /// Gives it back unworked, with what was found out; to the dead letter queue when it has waited long enough.
    fn release(&self, failure: Failure, why: Hold, until: Timestamp, now: Timestamp) -> Settlement {
        match self.may_wait_until(until, now) {
            // Only where it is held for whoever asks next: what would be let in again would fail again, uncounted.
            _ if self.hold.is_some() && self.moves_on_at(why) && self.deadline.is_none_or(|end| end > now) => {
                Settlement::Release { due: now, why, failure: Some(failure) }
            }
            Some(due) => Settlement::Release { due, why, failure: Some(failure) },
            None if self.deadline.is_some_and(|deadline| deadline <= now) => {
                self.give_up(deadline_passed(Some(&failure)), "its deadline passed")
            }
            None => self.give_up(failure, &self.waited_enough()),
        }
    }

    /// Parking is bounded by the policy and the deadline: when to look again, `None` when both patience and time are up.
    fn may_wait_until(&self, until: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let left = self.policy.park_at_most.checked_sub(self.parked_for).filter(|left| !left.is_zero())?;
        let patience = now + left;
        let end = self.deadline.map_or(patience, |deadline| deadline.min(patience));
        (end > now).then(|| until.min(end))
    }

    fn waited_enough(&self) -> String {
        let [waited, at_most] = [self.parked_for, self.policy.park_at_most].map(time::format_duration);
        format!("it waited {waited} at holds; park-at-most is {at_most}")
    }

    /// The wait before the next delivery; `None` when there is none.
    fn backoff(&self, roll: f64) -> Option<Duration> {
        let limit = self.policy.limit(self.effect, self.deadline);
        if mutant::on("attempt-off-by-one") && self.attempt == limit {
            return Some(Duration::from_secs(30));
        }
        let allowed = self.attempt < limit;
        allowed.then(|| self.policy.delay(self.attempt, self.previous_delay, roll)).flatten()
    }

    /// No look before the hold is over, or patience is.
    fn not_before_hold(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        self.hold.map_or(due, |(_, until)| due.max(until.min(now + self.policy.park_at_most)))
    }

    /// May it not wait at this hold at all? Then it is due at once, and the dispatcher moves it: another model need not wait
    /// for this one, nor does a backoff spare it.
    fn moves_on_at(&self, why: Hold) -> bool {
        let waits_for_the_model = matches!(why, Hold::BreakerOpen | Hold::Gate | Hold::IntegrationParked);
        self.own && waits_for_the_model && self.policy.park_at_most.is_zero()
    }

    fn used_up(&self, failure: Failure) -> Settlement {
        let limit = self.policy.limit(self.effect, self.deadline);
        self.give_up(failure, &format!("{} of {limit} deliveries used", self.attempt))
    }

    fn give_up(&self, failure: Failure, why: &str) -> Settlement {
        Settlement::DeadLetter { failure, why: why.to_owned(), circumstances: Box::new(self.circumstances.clone()) }
    }
}

/// Did the worker die or fall silent, as opposed to reporting a failure?
#[must_use]
pub const fn is_crash(kind: Kind) -> bool {
    matches!(kind, Kind::Crash | Kind::Oom | Kind::Evicted | Kind::ProcessDied | Kind::LeaseLapsed)
}

/// The failure of a task that waited at holds for as long as it may; also for tasks that were never claimed.
#[must_use]
pub fn parked_too_long(integration: Option<Integration>, waited: Duration) -> Failure {
    let whom = integration.as_ref().map_or("its integration", Integration::as_str);
    let message = format!("waited {} for {whom}", time::format_duration(waited));
    Failure { integration, ..ours(Kind::ParkedTooLong, Origin::Integration, Action::DeadLetter, message) }
}

/// The failure of a task whose deadline passed, or would pass before another try; `last` is what went wrong before.
#[must_use]
pub fn deadline_passed(last: Option<&Failure>) -> Failure {
    let message = match last {
        Some(last) => format!("no time is left before its deadline; last failure: {}", last.message),
        None => "its deadline passed before it was done".to_owned(),
    };
    let failure = ours(Kind::Deadline, Origin::Policy, Action::DeadLetter, message);
    Failure { class: Class::Logic, integration: last.and_then(|last| last.integration.clone()), ..failure }
}

/// The failure of something that may or may not have happened: a person looks. What was judged so keeps its rule.
fn outcome_unknown(last: &Failure) -> Failure {
    if last.kind == Kind::OutcomeUnknown {
        return last.clone();
    }
    let message = format!("it may or may not have happened: {}", last.message);
    let failure = ours(Kind::OutcomeUnknown, last.origin, Action::Human, message);
    Failure {
        page: true,
        integration: last.integration.clone(),
        status: last.status,
        code: last.code.clone(),
        request_id: last.request_id.clone(),
        ..failure
    }
}

fn ours(kind: Kind, origin: Origin, action: Action, message: String) -> Failure {
    Failure {
        class: Class::Infrastructure,
        kind,
        origin,
        action,
        retry: false,
        retry_after: None,
        fallback: if kind == Kind::ParkedTooLong { Fallback::Now } else { Fallback::Never },
        signal: Signal::Ignore,
        page: false,
        message: message.chars().take(500).collect(),
        rule: "settle".to_owned(),
        integration: None,
        status: None,
        code: None,
        request_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    use crate::retry::Jitter;
    use crate::retry_budget::RetryBudgetConfig;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn failed(kind: Kind, action: Action) -> Failure {
        Failure { class: Class::Transient, ..ours(kind, Origin::Integration, action, "it broke".to_owned()) }
    }

    fn busy(retry_after: u64) -> Failure {
        Failure { retry_after: Some(Duration::from_secs(retry_after)), ..failed(Kind::RateLimited, Action::Backoff) }
    }

    /// The settlement in a line, times in seconds.
    fn told(settlement: &Settlement) -> String {
        match settlement {
            Settlement::Ack { .. } => "ack".to_owned(),
            Settlement::Retry { due, amendment, .. } => {
                let words = amendment.as_ref().map_or(String::new(), |words| format!(" saying {}", words.text));
                format!("retry at {}{words}", due.millis() / 1_000)
            }
            Settlement::Release { due, why, .. } => format!("release until {}: {why}", due.millis() / 1_000),
            Settlement::Held { due, why, by } => format!("held by {by} until {}: {why}", due.millis() / 1_000),
            Settlement::DeadLetter { failure, why, .. } => format!("dead {}: {why}", failure.kind),
        }
    }

    /// One rule a line: what failed, what is special about the facts, what comes of it. It is 1,000 s, the first of
    /// three deliveries, waits are 30 s and 120 s.
    #[test]
    fn one_line_a_rule() {
        type Special = fn(&mut SettleFacts<'_>);
        fn impatient(facts: &mut SettleFacts<'_>) {
            let at_once = RetryPolicy { park_at_most: Duration::ZERO, ..facts.policy.clone() };
            (facts.hold, facts.policy) = (Some((Hold::BreakerOpen, at(1_060))), Box::leak(Box::new(at_once)));
        }
        let plain: Special = |_| {};
        let second: Special = |facts| facts.attempt = 2;
        let last: Special = |facts| facts.attempt = 3;
        let payment: Special = |facts| facts.effect = Effect::Payment;
        let held: Special = |facts| facts.hold = Some((Hold::BreakerOpen, at(1_060)));
        let impatient_second: Special = |facts| (facts.attempt, _) = (2, impatient(facts));
        let impatient_unheld: Special = |facts| {
            impatient(facts);
            facts.hold = None;
        };
        let waited: Special = |facts| facts.parked_for = Duration::from_secs(450);
        let soon: Special = |facts| facts.deadline = Some(at(1_030));
        let timeout = || failed(Kind::Timeout, Action::Backoff);
        let sick = || Failure { signal: Signal::Count, ..failed(Kind::Timeout, Action::Backoff) };
        let probe: Special = |facts| (facts.probe, facts.hold) = (true, Some((Hold::BreakerOpen, at(1_060))));
        let last_probe: Special =
            |facts| (facts.attempt, facts.probe, facts.hold) = (3, true, Some((Hold::BreakerOpen, at(1_060))));
        let fourth_probe: Special =
            |facts| (facts.given_back, facts.probe, facts.hold) = (3, true, Some((Hold::BreakerOpen, at(1_060))));
        let late_probe: Special = |facts| {
            (facts.parked_for, facts.probe) = (Duration::from_secs(450), true);
            facts.hold = Some((Hold::BreakerOpen, at(1_060)));
        };
        let schema = || failed(Kind::Schema, Action::ModifyRequeue);
        let auth = || failed(Kind::Auth, Action::ParkIntegration);
        let full = || failed(Kind::Storage, Action::ParkIntegration);
        let crash = || failed(Kind::Crash, Action::Backoff);
        let lapsed = || failed(Kind::LeaseLapsed, Action::Backoff);
        let died = || failed(Kind::ProcessDied, Action::Backoff);
        let table: Vec<(Failure, Special, &str)> = vec![
            // Payments, first of all.
            (timeout(), payment, "dead timeout: a payment is never repeated automatically"),
            (schema(), payment, "dead schema: a payment is never repeated automatically"),
            (lapsed(), payment, "dead outcome_unknown: a payment that may have happened is never repeated"),
            (crash(), payment, "dead outcome_unknown: a payment that may have happened is never repeated"),
            (auth(), payment, "release until 1300: integration-parked"),
            (
                auth(),
                |facts| (facts.effect, facts.outcome_unknown) = (Effect::Payment, true),
                "dead outcome_unknown: a payment that may have happened is never repeated",
            ),
            // What else may have happened.
            (
                timeout(),
                |facts| (facts.effect, facts.outcome_unknown) = (Effect::Mutation, true),
                "dead outcome_unknown: what may have happened is not done again unseen",
            ),
            (timeout(), |facts| facts.outcome_unknown = true, "retry at 1030"),
            (timeout(), |facts| facts.effect = Effect::Mutation, "retry at 1030"),
            (timeout(), |facts| facts.effect = Effect::Notification, "retry at 1030"),
            // Backoff, and the hint as its floor.
            (timeout(), plain, "retry at 1030"),
            (timeout(), second, "retry at 1120"),
            (timeout(), last, "dead timeout: 3 of 3 deliveries used"),
            (busy(10), plain, "retry at 1030"),
            (busy(60), plain, "retry at 1060"),
            (busy(300), plain, "retry at 1300"),
            (busy(301), plain, "release until 1301: gate"),
            (busy(3_600), plain, "release until 1450: gate"),
            (busy(3_600), last, "release until 1450: gate"),
            (busy(3_600), waited, "dead rate_limited: it waited 7m30s at holds; park-at-most is 7m30s"),
            (timeout(), held, "retry at 1060"),
            (timeout(), |facts| facts.hold = Some((Hold::BreakerOpen, at(1_900))), "retry at 1450"),
            // Nobody waits there: moved on at once, unless the hold is over by then.
            (timeout(), impatient, "retry at 1000"),
            (timeout(), impatient_second, "retry at 1120"),
            (timeout(), |facts| (facts.own, _) = (false, impatient(facts)), "retry at 1030"),
            (auth(), impatient, "release until 1000: breaker-open"),
            (auth(), impatient_unheld, "dead auth: it waited 0s at holds; park-at-most is 0s"),
            (busy(3_600), impatient, "release until 1000: gate"),
            (busy(200), impatient, "retry at 1000"),
            (sick(), |facts| (facts.probe, _) = (true, impatient(facts)), "retry at 1000"),
            // A probe that found the integration as it was: nobody's try, and the next goes another.
            (sick(), probe, "release until 1090: breaker-open"),
            (sick(), last_probe, "release until 1180: breaker-open"),
            (sick(), late_probe, "retry at 1060"),
            (sick(), fourth_probe, "retry at 1060"),
            (sick(), held, "retry at 1060"),
            (sick(), |facts| facts.probe = true, "retry at 1030"),
            (timeout(), probe, "retry at 1060"),
            (schema(), probe, "retry at 1060 saying it broke"),
            (crash(), probe, "retry at 1060"),
            (
                sick(),
                |facts| (facts.probe, facts.effect) = (true, Effect::Payment),
                "dead timeout: a payment is never repeated automatically",
            ),
            // The integration is unusable: no delivery is spent, whichever it is.
            (auth(), plain, "release until 1300: integration-parked"),
            (auth(), last, "release until 1300: integration-parked"),
            (
                auth(),
                |facts| facts.hold = Some((Hold::IntegrationParked, at(1_100))),
                "release until 1100: integration-parked",
            ),
            (auth(), waited, "dead auth: it waited 7m30s at holds; park-at-most is 7m30s"),
            (auth(), |facts| facts.deadline = Some(at(999)), "dead deadline: its deadline passed"),
            // Our own disk was full: no delivery is spent while there is patience, and no integration waited for.
            (full(), plain, "release until 1060: disk-full"),
            (full(), last, "release until 1060: disk-full"),
            (full(), soon, "release until 1015: disk-full"),
            (full(), waited, "retry at 1030"),
            (full(), impatient_unheld, "retry at 1030"),
            (
                full(),
                |facts| facts.deadline = Some(at(999)),
                "dead deadline: the next try would come after its deadline",
            ),
            (
                full(),
                |facts| (facts.effect, facts.outcome_unknown) = (Effect::Payment, true),
                "dead outcome_unknown: a payment that may have happened is never repeated",
            ),
            // Not the same again.
            (schema(), plain, "retry at 1000 saying it broke"),
            (schema(), |facts| facts.correction = Some("field x".to_owned()), "retry at 1000 saying field x"),
            (schema(), held, "retry at 1060 saying it broke"),
            (schema(), |facts| facts.same_output_again = true, "retry at 1000 saying it broke"),
            (schema(), last, "dead schema: 3 of 3 deliveries used"),
            (
                schema(),
                |facts| (facts.attempt, facts.same_output_again) = (3, true),
                "dead same_output: 3 of 3 deliveries used",
            ),
            // Nothing automatic.
            (
                failed(Kind::ModelUnavailable, Action::FallbackNow),
                plain,
                "dead model_unavailable: this model cannot do it; the CEO chooses another",
            ),
            (failed(Kind::Refused, Action::DeadLetter), plain, "dead refused: trying again cannot help"),
            (failed(Kind::PolicyBlock, Action::Human), plain, "dead policy_block: only a person can judge"),
            // Deaths.
            (crash(), |facts| facts.crashes = 1, "retry at 1030"),
            (crash(), |facts| (facts.attempt, facts.crashes) = (2, 3), "dead crash: 3 deaths of 3 in this round"),
            (lapsed(), |facts| (facts.attempt, facts.crashes) = (2, 2), "retry at 1120"),
            // The process died under it: the first time it takes its old place, as soon as nothing holds it.
            (died(), |facts| facts.crashes = 1, "retry at 990"),
            (died(), |facts| (facts.crashes, facts.due) = (1, at(1_060)), "retry at 1000"),
            (died(), |facts| (facts.crashes, facts.hold) = (1, Some((Hold::Gate, at(1_060)))), "retry at 1060"),
            (died(), |facts| (facts.crashes, facts.deadline) = (1, Some(at(1_001))), "retry at 990"),
            (
                died(),
                |facts| (facts.crashes, facts.deadline) = (1, Some(at(1_000))),
                "dead deadline: the next try would come after its deadline",
            ),
            (died(), |facts| (facts.attempt, facts.crashes) = (2, 2), "retry at 1120"),
            (died(), |facts| (facts.attempt, facts.crashes) = (2, 3), "dead process_died: 3 deaths of 3 in this round"),
            (died(), |facts| (facts.attempt, facts.crashes) = (3, 1), "dead process_died: 3 of 3 deliveries used"),
            (lapsed(), |facts| (facts.attempt, facts.crashes) = (3, 1), "dead lease_lapsed: 3 of 3 deliveries used"),
            // The deadline.
            (timeout(), soon, "dead deadline: the next try would come after its deadline"),
            (timeout(), |facts| facts.deadline = Some(at(1_031)), "retry at 1030"),
            (schema(), soon, "retry at 1000 saying it broke"),
            (auth(), soon, "release until 1030: integration-parked"),
        ];
        let policy = RetryPolicy::seed_b();
        for (failure, special, expected) in table {
            let mut facts = plain_facts(&policy);
            special(&mut facts);
            let case = format!("{} {facts:?}", failure.kind);
            let settled = settle(&facts, Outcome::Failed(failure), None, at(1_000), 0.0);
            assert_eq!(told(&settled), expected, "{case}");
        }
    }

    fn plain_facts(policy: &RetryPolicy) -> SettleFacts<'_> {
        SettleFacts {
            effect: Effect::ReadOnly,
            attempt: 1,
            due: at(990),
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

    #[test]
    fn what_was_not_begun_costs_nothing_until_patience_is_up() {
        let policy = RetryPolicy::seed_b();
        for (why, until, parked_for, deadline, expected) in [
            (Hold::BreakerOpen, 60, 0, None, "release until 60: breaker-open"),
            (Hold::Gate, 3_600, 400, None, "release until 50: gate"),
            (Hold::Gate, 60, 449, None, "release until 1: gate"),
            (Hold::Gate, 60, 450, None, "dead parked_too_long: it waited 7m30s at holds; park-at-most is 7m30s"),
            (Hold::IntegrationParked, 60, 0, Some(30), "release until 30: integration-parked"),
            (Hold::BreakerOpen, 60, 0, Some(0), "dead deadline: its deadline passed"),
            (Hold::Drain, 0, 10_000, None, "release until 0: drain"),
            (Hold::Paused, 60, 10_000, None, "release until 60: paused"),
        ] {
            for effect in Effect::ALL {
                let parked_for = Duration::from_secs(parked_for);
                let facts =
                    SettleFacts { effect: *effect, parked_for, deadline: deadline.map(at), ..plain_facts(&policy) };
                let settled = settle(&facts, Outcome::NotBegun { why, until: at(until) }, None, at(0), 0.0);
                assert_eq!(told(&settled), expected, "{why} {effect}");
            }
        }
        // Whoever lets nobody through is who it waits for; a team that stops is nobody's hold.
        let github = Integration::new("github").expect("a name");
        for (why, expected) in
            [(Hold::BreakerOpen, "held by github until 60: breaker-open"), (Hold::Drain, "release until 60: drain")]
        {
            let facts = SettleFacts { own: false, integration: Some(github.clone()), ..plain_facts(&policy) };
            let settled = settle(&facts, Outcome::NotBegun { why, until: at(60) }, None, at(0), 0.0);
            assert_eq!(told(&settled), expected);
        }
        let impatient = RetryPolicy { park_at_most: Duration::ZERO, ..policy };
        let outcome = Outcome::NotBegun { why: Hold::Gate, until: at(1) };
        let settled = settle(&plain_facts(&impatient), outcome, None, at(0), 0.0);
        assert_eq!(told(&settled), "release until 0: gate", "to be moved");
        let outcome = Outcome::NotBegun { why: Hold::Gate, until: at(1) };
        let of_tools = SettleFacts { own: false, ..plain_facts(&impatient) };
        let settled = settle(&of_tools, outcome, None, at(0), 0.0);
        assert_eq!(told(&settled), "dead parked_too_long: it waited 0s at holds; park-at-most is 0s");
        let mut empty = RetryBudget::new(RetryBudgetConfig { min_per_sec: 0, ..RetryBudgetConfig::default() });
        let held = SettleFacts { hold: Some((Hold::BreakerOpen, at(60))), ..plain_facts(&impatient) };
        let timeout = Outcome::Failed(failed(Kind::Timeout, Action::Backoff));
        assert_eq!(told(&settle(&held, timeout, Some(&mut empty), at(0), 0.0)), "retry at 0", "it is no retry");
    }

    #[test]
    fn an_answer_is_an_answer() {
        let policy = RetryPolicy::team_default();
        let facts = SettleFacts { effect: Effect::Payment, attempt: 9, ..plain_facts(&policy) };
        let settled = settle(&facts, Outcome::Answered(Value::Null), None, at(0), 0.0);
        assert_eq!(settled, Settlement::Ack { answer: Value::Null });
    }

    #[test]
    fn jitter_on_a_hint_is_only_upwards() {
        let policy = RetryPolicy { jitter: Jitter::Around(0.5), ..RetryPolicy::seed_b() };
        for (roll, expected) in [(0.0, "retry at 200"), (0.5, "retry at 210"), (1.0, "retry at 220")] {
            let settled = settle(&plain_facts(&policy), Outcome::Failed(busy(200)), None, at(0), roll);
            assert_eq!(told(&settled), expected, "{roll}");
        }
    }

    #[test]
    fn an_empty_budget_parks_and_a_death_does_not_touch_it() {
        let policy = RetryPolicy::seed_b();
        for (failure, waited, expected) in [
            (failed(Kind::Timeout, Action::Backoff), 0, "release until 30: retry-budget"),
            (failed(Kind::Schema, Action::ModifyRequeue), 0, "release until 30: retry-budget"),
            (failed(Kind::Crash, Action::Backoff), 0, "retry at 30"),
            (
                failed(Kind::Timeout, Action::Backoff),
                450,
                "dead timeout: it waited 7m30s at holds; park-at-most is 7m30s",
            ),
        ] {
            let empty = RetryBudgetConfig { min_per_sec: 0, ..RetryBudgetConfig::default() };
            let mut budget = RetryBudget::new(empty);
            let facts = SettleFacts { parked_for: Duration::from_secs(waited), ..plain_facts(&policy) };
            let kind = failure.kind;
            let settled = settle(&facts, Outcome::Failed(failure), Some(&mut budget), at(0), 0.0);
            assert_eq!(told(&settled), expected, "{kind}");
        }
    }
}
