//! What may still be spent: every call sets its worst cost aside before it is sent, and a cap is never passed.
//!
//! A cost is known when the answer is there, and then it is spent. So the most a call can cost is reserved first, and
//! replaced by what it did cost; an answer that was lost has cost what was reserved. The trap is the unknown price:
//! here, and only here, it is taken for the dearest, while records keep it unknown.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::agent::Agent;
use crate::cause::Usage;
use crate::mutant;
use crate::prices::{self, ModelFacts};
use crate::retry::RetryPolicy;
use crate::task::{AgentName, Effect, TaskId};
use crate::time::Timestamp;

/// What a provider may add to the tokens we send: the marks of turns, and its own words on how tools are called.
/// Turned up: more is set aside for each call.
pub const OVERHEAD_TOKENS: u64 = 1_000;

/// The most tokens a request may have a model read whose context is not known; see [`fits`].
pub const INPUT_TOKENS_MAX: u64 = 800_000;

/// Calls of one round besides its deliveries: for those given back uncounted, because of a drain or at a closed door.
pub const CALLS_SPARE: u64 = 5;

/// The caps of a team look back so far.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// And so far.
pub const DAY: Duration = Duration::from_secs(86_400);

/// The most model calls in one round of a task, for an agent under a policy; the team makes no more. With tools, that
/// is the agent's own limit; without, one for each delivery and [`CALLS_SPARE`], and as many again for who verifies.
/// `None`: as many as fit before its deadline.
#[must_use]
pub fn calls_max(agent: &Agent, policy: &RetryPolicy, effect: Effect, deadline: Option<Timestamp>) -> Option<u64> {
    if !agent.tools.is_empty() {
        return Some(u64::from(agent.max_steps));
    }
    match policy.limit(effect, deadline) {
        RetryPolicy::UNLIMITED => None,
        deliveries => Some(u64::from(deliveries) + CALLS_SPARE),
    }
}

/// The most tokens a model can be made to read in one call: what its context holds, else [`INPUT_TOKENS_MAX`].
#[must_use]
pub fn input_max(facts: &ModelFacts) -> u64 {
    facts.context.unwrap_or(INPUT_TOKENS_MAX)
}

/// The most tokens a call can have the model read: `known_prefix_tokens`, counted by this very model in an earlier call,
/// and at most one for each byte that follows. A token has at least one byte.
fn input_tokens(input_bytes: u64, known_prefix_tokens: u64) -> u64 {
    known_prefix_tokens.saturating_add(input_bytes).saturating_add(OVERHEAD_TOKENS)
}

/// May a request of this size be sent? Where the context is known, the provider itself refuses what is too large,
/// without a charge; where it is not, we do, or nobody could say what a call costs at most.
#[must_use]
pub fn fits(input_bytes: u64, known_prefix_tokens: u64, facts: &ModelFacts) -> bool {
    facts.context.is_some() || input_tokens(input_bytes, known_prefix_tokens) <= INPUT_TOKENS_MAX
}

/// Bytes of a conversation that surely fit into one token of context, on average: fewer than English has, so that a
/// conversation is shortened a little early rather than refused.
pub const BYTES_PER_TOKEN: u64 = 3;

/// About how many tokens these bytes are: what they count for against a limit of speed when a provider told none. The worst
/// would be four times as many, and call healthy work too fast.
#[must_use]
pub const fn about(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The most tokens it can read.
fn read_max(input_bytes: u64, known_prefix_tokens: u64, facts: &ModelFacts) -> u64 {
    let input = input_tokens(input_bytes, known_prefix_tokens);
    facts.context.map_or(input, |context| input.min(context))
}

/// The most a call can cost, in micro-USD. `input_bytes` is all of the request that follows the prefix whose tokens
/// this model has counted before (0 and 0 when nothing is known), tools and schema included.
#[must_use]
pub fn worst(
    input_bytes: u64,
    known_prefix_tokens: u64,
    max_output_tokens: u64,
    facts: &ModelFacts,
    dearest: &ModelFacts,
) -> u64 {
    worst_of(read_max(input_bytes, known_prefix_tokens, facts), max_output_tokens, facts, dearest)
}

/// The most a call can cost that reads and writes at most so many tokens, in micro-USD; `u64::MAX` when no price is
/// known at all, so that no cap lets it pass.
#[must_use]
pub fn worst_of(input: u64, max_output_tokens: u64, facts: &ModelFacts, dearest: &ModelFacts) -> u64 {
    let output = max_output_tokens.min(facts.max_output.unwrap_or(u64::MAX));
    let facts = facts.at_worst(dearest);
    let none = Usage { output, ..Usage::default() };
    // All of it read anew, written to the cache or read from it: whichever is dearest at this provider.
    let ways = [Usage { input, ..none }, Usage { cache_write: input, ..none }, Usage { cache_read: input, ..none }];
    // A call may also turn out shorter than `above`, and short calls may be the dearer ones.
    let tables = [facts, ModelFacts { long: None, ..facts }];
    let costs = tables.iter().flat_map(|facts| ways.iter().map(|usage| prices::price(*usage, facts)));
    costs.map(|cost| cost.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
}

/// What a call did cost as far as caps are concerned, in micro-USD: an unknown price is the dearest here.
///
/// Not for an answer whose provider told no usage: [`Purse::forfeit`] its reservation instead.
#[must_use]
pub fn charge(usage: Usage, facts: &ModelFacts, dearest: &ModelFacts) -> u64 {
    prices::price(usage, &facts.at_worst(dearest)).unwrap_or(u64::MAX)
}

/// The caps that apply to a call, in micro-USD; `None` is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// On one task, over all its rounds.
    pub task: Option<u64>,
    /// On its agent, within an hour.
    pub agent_hour: Option<u64>,
    /// On the team, within an hour.
    pub team_hour: Option<u64>,
    /// On the team, within a day.
    pub team_day: Option<u64>,
}

/// Which cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// On one task.
    Task,
    /// On an agent within an hour.
    AgentHour,
    /// On the team within an hour.
    TeamHour,
    /// On the team within a day.
    TeamDay,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Task => "task",
            Self::AgentHour => "agent hour",
            Self::TeamHour => "team hour",
            Self::TeamDay => "team day",
        })
    }
}

/// A call that could pass a cap, and is not made. Its words are the evidence of [`crate::cause::Cause::Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cap}: {} of {} spent or reserved, this call may cost {}", dollars(*.taken), dollars(*.of), dollars(*.asked))]
pub struct OverCap {
    /// Which cap.
    pub cap: Cap,
    /// Where it stands, in micro-USD.
    pub of: u64,
    /// How much of it is spent or reserved, in micro-USD.
    pub taken: u64,
    /// What the call may cost, in micro-USD.
    pub asked: u64,
}

/// An amount for people: cents, rounded up; below ten cents to the micro-dollar.
#[must_use]
pub fn dollars(micro_usd: u64) -> String {
    if micro_usd >= 100_000 {
        let cents = micro_usd.div_ceil(10_000);
        return format!("${}.{:02}", cents / 100, cents % 100);
    }
    let exact = format!("{micro_usd:06}");
    let (cents, rest) = exact.split_at(2);
    format!("$0.{cents}{}", rest.trim_end_matches('0'))
}

/// What a call wants to have set aside.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// For which task.
    pub task: TaskId,
    /// What the task has spent so far, in micro-USD, as its journal knows it; what is still reserved for it not included.
    pub task_spent: u64,
    /// In whose hands.
    pub agent: &'a AgentName,
    /// The most the call can cost, in micro-USD.
    pub micro_usd: u64,
}

/// Money set aside for one call, until it is settled or forfeited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is reserved stays reserved until it is settled or forfeited"]
pub struct Reservation {
    /// Its number in this purse.
    pub id: u64,
    /// How much, in micro-USD.
    pub micro_usd: u64,
}

/// Money that was spent, as the journal tells it at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub agent: AgentName,
    /// How much, in micro-USD: the reserved amount where a call's cost or its end is not known.
    pub micro_usd: u64,
}

/// What the team has spent within the last day, and what is set aside for calls that are out.
#[derive(Clone, Debug)]
pub struct Purse {
    team_hour: Window,
    team_day: Window,
    agent_hours: BTreeMap<AgentName, Window>,
    out: BTreeMap<u64, Out>,
    numbers: u64,
    /// The latest time heard of: a clock that steps back does not bring spent money back.
    now: Timestamp,
}

#[derive(Clone, Debug)]
struct Out {
    task: TaskId,
    agent: AgentName,
    micro_usd: u64,
}

impl Default for Purse {
    fn default() -> Self {
        Self::new()
    }
}

impl Purse {
    /// A purse out of which nothing was spent yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            team_hour: Window::new(HOUR),
            team_day: Window::new(DAY),
            agent_hours: BTreeMap::new(),
            out: BTreeMap::new(),
            numbers: 0,
            now: Timestamp::default(),
        }
    }

    /// A purse as it was before a restart. Calls that were out then come as spendings of what was reserved for them.
    #[must_use]
    pub fn restore(spendings: impl IntoIterator<Item = Spending>, now: Timestamp) -> Self {
        let mut purse = Self::new();
        purse.look(now);
        let mut spendings: Vec<Spending> = spendings.into_iter().collect();
        spendings.sort_by_key(|spending| spending.at);
        for spending in spendings {
            purse.spend(&spending.agent, spending.micro_usd, spending.at);
        }
        purse.look(now);
        purse
    }

    /// Sets the worst cost of a call aside.
    ///
    /// # Errors
    /// When a cap could be passed: what is spent, what is reserved and this call together are more than it.
    pub fn reserve(&mut self, ask: &Ask<'_>, caps: &Caps, now: Timestamp) -> Result<Reservation, OverCap> {
        self.look(now);
        let of_task = self.reserved(|out| out.task == ask.task) + u128::from(ask.task_spent);
        let out = if mutant::on("budget-not-reserved") { 0 } else { self.reserved(|_| true) };
        for (cap, of, taken) in [
            (Cap::Task, caps.task, of_task),
            (Cap::AgentHour, caps.agent_hour, self.agent_hour_taken(ask.agent)),
            (Cap::TeamHour, caps.team_hour, self.team_hour.sum + out),
            (Cap::TeamDay, caps.team_day, self.team_day.sum + out),
        ] {
            let Some(of) = of else { continue };
            if taken + u128::from(ask.micro_usd) > u128::from(of) {
                return Err(OverCap { cap, of, taken: narrow(taken), asked: ask.micro_usd });
            }
        }
        self.numbers += 1;
        let out = Out { task: ask.task, agent: ask.agent.clone(), micro_usd: ask.micro_usd };
        self.out.insert(self.numbers, out);
        Ok(Reservation { id: self.numbers, micro_usd: ask.micro_usd })
    }

    /// The call ended and cost this much; 0 when it was never sent. More than was reserved counts in full: a provider
    /// may write more than it was asked for. A reservation that is settled already is left alone.
    pub fn settle(&mut self, id: u64, actual: u64, now: Timestamp) {
        self.look(now);
        if let Some(out) = self.out.remove(&id) {
            self.spend(&out.agent, actual, self.now);
        }
    }

    /// Nobody knows what the call cost: its answer was lost, or told no usage. All that was reserved is spent.
    pub fn forfeit(&mut self, id: u64, now: Timestamp) {
        if let Some(micro_usd) = self.out.get(&id).map(|out| out.micro_usd) {
            self.settle(id, micro_usd, now);
        }
    }

    /// What the team has spent or reserved within the hour, in micro-USD.
    pub fn team_hour(&mut self, now: Timestamp) -> u64 {
        self.look(now);
        narrow(self.team_hour.sum + self.reserved(|_| true))
    }

    /// What the team has spent or reserved within the day, in micro-USD.
    pub fn team_day(&mut self, now: Timestamp) -> u64 {
        self.look(now);
        narrow(self.team_day.sum + self.reserved(|_| true))
    }

    /// What an agent has spent or reserved within the hour, in micro-USD.
    pub fn agent_hour(&mut self, agent: &AgentName, now: Timestamp) -> u64 {
        self.look(now);
        narrow(self.agent_hour_taken(agent))
    }

    fn agent_hour_taken(&self, agent: &AgentName) -> u128 {
        let spent = self.agent_hours.get(agent).map_or(0, |window| window.sum);
        spent + self.reserved(|out| out.agent == *agent)
    }

    /// Calls that are out are few: as many as the team works on at once.
    fn reserved(&self, which: impl Fn(&Out) -> bool) -> u128 {
        self.out.values().filter(|out| which(out)).map(|out| u128::from(out.micro_usd)).sum()
    }

    fn spend(&mut self, agent: &AgentName, micro_usd: u64, at: Timestamp) {
        let of_agent = self.agent_hours.entry(agent.clone()).or_insert_with(|| Window::new(HOUR));
        for window in [&mut self.team_hour, &mut self.team_day, of_agent] {
            window.add(at, micro_usd);
        }
    }

    fn look(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        for window in [&mut self.team_hour, &mut self.team_day].into_iter().chain(self.agent_hours.values_mut()) {
            window.forget(self.now);
        }
    }
}

/// What was spent within a span, oldest first, with its sum.
#[derive(Clone, Debug)]
struct Window {
    span: Duration,
    spent: VecDeque<(Timestamp, u64)>,
    sum: u128,
}

impl Window {
    const fn new(span: Duration) -> Self {
        Self { span, spent: VecDeque::new(), sum: 0 }
    }

    fn add(&mut self, at: Timestamp, micro_usd: u64) {
        if micro_usd == 0 {
            return;
        }
        // Nearly always at the end; from elsewhere only times of a clock that is ahead of ours.
        let place = self.spent.iter().rposition(|(before, _)| *before <= at).map_or(0, |before| before + 1);
        self.spent.insert(place, (at, micro_usd));
        self.sum += u128::from(micro_usd);
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((_, micro_usd)) = self.spent.pop_front_if(|(at, _)| now.since(*at) >= self.span) {
            self.sum -= u128::from(micro_usd);
        }
    }
}

fn narrow(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn task(number: u8) -> TaskId {
        TaskId::new(at(0), [number; 10])
    }

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).expect("a name")
    }

    fn facts(context: Option<u64>, input: Option<f64>, output: Option<f64>, write: Option<f64>) -> ModelFacts {
        ModelFacts {
            context,
            usd_per_million_input: input,
            usd_per_million_output: output,
            usd_per_million_cache_write: write,
            ..ModelFacts::default()
        }
    }

    fn reserve(purse: &mut Purse, whose: &str, micro_usd: u64, caps: Caps, now: i64) -> Result<u64, String> {
        let ask = Ask { task: task(1), task_spent: 0, agent: &agent(whose), micro_usd };
        purse.reserve(&ask, &caps, at(now)).map(|reservation| reservation.id).map_err(|over| over.to_string())
    }

    #[test]
    fn the_worst_is_a_token_a_byte_at_the_dearest_price_and_never_more_than_the_context() {
        let dearest = facts(None, Some(60.0), Some(270.0), Some(75.0));
        let known = facts(Some(200_000), Some(3.0), Some(15.0), Some(3.75));
        for (bytes, prefix, output, facts, expected) in [
            // (9000 + 1000) * 3.75 + 100 * 15
            (9_000, 0, 100, known, 39_000),
            // what was counted before is no longer a guess: (9000 + 500 + 1000) * 3.75
            (500, 9_000, 0, known, 39_375),
            // the context: 200000 * 3.75
            (10_000_000, 0, 0, known, 750_000),
            (u64::MAX, u64::MAX, 0, known, 750_000),
            // it writes 50 at most: 1000 * 3.75 + 50 * 15
            (0, 0, 100, ModelFacts { max_output: Some(50), ..known }, 4_500),
            // nothing is known: 10000 * 75 + 100 * 270
            (9_000, 0, 100, ModelFacts::default(), 777_000),
            // the input price is known: 10000 * 3 + 100 * 270
            (9_000, 0, 100, self::facts(None, Some(3.0), None, None), 57_000),
            (9_000, 0, 100, self::facts(None, Some(0.0), Some(0.0), None), 0),
        ] {
            assert_eq!(worst(bytes, prefix, output, &facts, &dearest), expected, "{bytes} {prefix} {output} {facts:?}");
        }
        assert_eq!(worst(1, 0, 1, &ModelFacts::default(), &ModelFacts::default()), u64::MAX, "no price at all");
    }

    #[test]
    fn long_requests_are_set_aside_at_the_dearer_of_both_prices() {
        for (long_input, expected) in [(4.0, 44_000), (1.0, 22_000)] {
            let long =
                prices::LongPrices { above: 5_000, usd_per_million_input: Some(long_input), ..Default::default() };
            let facts = ModelFacts { long: Some(long), ..facts(None, Some(2.0), Some(0.0), None) };
            assert_eq!(worst(10_000, 0, 0, &facts, &facts), expected, "{long_input}");
        }
    }

    #[test]
    fn no_call_costs_more_than_its_worst() {
        let dearest = prices::dearest([]);
        for listed in prices::snapshot() {
            let set_aside = worst(300_000, 0, 8_000, &listed.facts, &dearest);
            for usage in [
                Usage { input: 301_000, output: 8_000, ..Usage::default() },
                Usage { input: 1_000, cache_write: 300_000, output: 8_000, ..Usage::default() },
                Usage { input: 50_000, cache_read: 150_000, cache_write: 50_000, output: 10 },
            ] {
                let read = usage.input + usage.cache_read + usage.cache_write;
                if listed.facts.context.is_none_or(|context| read <= context) {
                    assert!(charge(usage, &listed.facts, &dearest) <= set_aside, "{listed:?} {usage:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_bounded_is_not_sent() {
        for (bytes, prefix, context, expected) in [
            (799_000, 0, None, true),
            (799_001, 0, None, false),
            (1, 799_000, None, false),
            (10_000_000, 0, Some(200_000), true),
        ] {
            assert_eq!(
                fits(bytes, prefix, &facts(context, None, None, None)),
                expected,
                "{bytes} {prefix} {context:?}"
            );
        }
    }

    #[test]
    fn calls_of_a_round_are_bounded_by_steps_or_deliveries() {
        let plain = Agent::new("a", "simulated/x").expect("an agent");
        let tooled = Agent { tools: vec!["mcp:github/*".to_owned()], max_steps: 7, ..plain.clone() };
        let policy = RetryPolicy::team_default();
        let endless = RetryPolicy { max_deliveries: RetryPolicy::UNLIMITED, ..policy.clone() };
        for (agent, policy, effect, deadline, expected) in [
            (&plain, &policy, Effect::ReadOnly, None, Some(8)),
            (&plain, &policy, Effect::Payment, None, Some(6)),
            (&tooled, &policy, Effect::ReadOnly, None, Some(7)),
            (&plain, &endless, Effect::ReadOnly, None, Some(15)),
            (&plain, &endless, Effect::ReadOnly, Some(at(1)), None),
            (&tooled, &endless, Effect::ReadOnly, Some(at(1)), Some(7)),
        ] {
            assert_eq!(calls_max(agent, policy, effect, deadline), expected, "{effect} {deadline:?}");
        }
    }

    #[test]
    fn a_cap_is_reached_by_what_is_spent_reserved_and_asked_together() {
        for (caps, asked, expected) in [
            (Caps { team_hour: Some(5_000_000), ..Caps::default() }, 20_000, None),
            (
                Caps { team_hour: Some(5_000_000), ..Caps::default() },
                90_000,
                Some("team hour: $4.98 of $5.00 spent or reserved, this call may cost $0.09"),
            ),
            (
                Caps { team_day: Some(5_000_000), ..Caps::default() },
                20_001,
                Some("team day: $4.98 of $5.00 spent or reserved, this call may cost $0.020001"),
            ),
            (
                Caps { task: Some(2_000_000), ..Caps::default() },
                1,
                Some("task: $2.00 of $2.00 spent or reserved, this call may cost $0.000001"),
            ),
            (Caps { agent_hour: Some(1_000_000), ..Caps::default() }, 1_000_000, None),
            (Caps::default(), u64::MAX, None),
        ] {
            let mut purse = Purse::new();
            let first = reserve(&mut purse, "other", 2_980_000, Caps::default(), 0).expect("no caps");
            purse.settle(first, 2_980_000, at(0));
            let _out = reserve(&mut purse, "other", 2_000_000, Caps::default(), 0).expect("no caps");
            let refused = reserve(&mut purse, "a", asked, caps, 10).err();
            assert_eq!(refused.as_deref(), expected, "{caps:?} {asked}");
        }
    }

    #[test]
    fn what_a_task_has_spent_comes_from_its_journal() {
        let mut purse = Purse::new();
        let caps = Caps { task: Some(100), ..Caps::default() };
        for (task_spent, micro_usd, expected) in [(90, 10, true), (90, 1, false), (0, 90, true), (0, 1, false)] {
            let ask = Ask { task: task(1), task_spent, agent: &agent("a"), micro_usd };
            assert_eq!(purse.reserve(&ask, &caps, at(0)).is_ok(), expected, "{task_spent} {micro_usd}");
        }
        let other = Ask { task: task(2), task_spent: 0, agent: &agent("a"), micro_usd: 100 };
        assert!(purse.reserve(&other, &caps, at(0)).is_ok(), "another task has a cap of its own");
    }

    #[test]
    fn a_settled_call_costs_what_it_cost_and_a_lost_one_what_was_reserved() {
        let mut purse = Purse::new();
        let [a, b, c] = [1, 2, 3].map(|_| reserve(&mut purse, "a", 100, Caps::default(), 0).expect("no caps"));
        assert_eq!(purse.team_hour(at(0)), 300);
        purse.settle(a, 30, at(1));
        purse.settle(a, 30, at(1));
        assert_eq!(purse.team_hour(at(1)), 230);
        purse.forfeit(b, at(1));
        purse.forfeit(b, at(1));
        assert_eq!(purse.team_hour(at(1)), 230);
        purse.settle(c, 0, at(1));
        assert_eq!(
            (purse.team_hour(at(1)), purse.team_day(at(1)), purse.agent_hour(&agent("a"), at(1))),
            (130, 130, 130)
        );
        let d = reserve(&mut purse, "b", 100, Caps::default(), 1).expect("no caps");
        purse.settle(d, 150, at(1));
        assert_eq!(
            (purse.team_hour(at(1)), purse.agent_hour(&agent("a"), at(1))),
            (280, 130),
            "it wrote more than asked"
        );
    }

    #[test]
    fn windows_slide_and_a_call_that_is_out_does_not_age() {
        let mut purse = Purse::new();
        let _out = reserve(&mut purse, "a", 1, Caps::default(), 0).expect("no caps");
        let spent = reserve(&mut purse, "a", 10, Caps::default(), 0).expect("no caps");
        purse.settle(spent, 10, at(100));
        for (now, hour, day) in [(3_699, 11, 11), (3_700, 1, 11), (86_499, 1, 11), (86_500, 1, 1), (0, 1, 1)] {
            assert_eq!((purse.team_hour(at(now)), purse.team_day(at(now))), (hour, day), "{now}");
        }
    }

    #[test]
    fn a_restart_remembers_a_day_in_whatever_order_it_is_told() {
        let spending = |seconds, name: &str, micro_usd| Spending { at: at(seconds), agent: agent(name), micro_usd };
        let told =
            [spending(86_000, "b", 3), spending(90_000, "a", 5), spending(3_600, "a", 100), spending(50_000, "a", 7)];
        let mut purse = Purse::restore(told, at(90_000));
        assert_eq!((purse.team_hour(at(90_000)), purse.team_day(at(90_000))), (5, 15));
        assert_eq!(purse.agent_hour(&agent("b"), at(89_599)), 0, "a clock that steps back brings nothing back");
    }

    #[test]
    fn a_hundred_thousand_calls_leave_nothing_behind() {
        let told = (0..100_000).rev().map(|n| Spending {
            at: Timestamp::from_millis(n * 10),
            agent: agent(["a", "b"][usize::try_from(n % 2).expect("0 or 1")]),
            micro_usd: 2,
        });
        let mut purse = Purse::restore(told, at(1_000));
        assert_eq!((purse.team_hour(at(1_000)), purse.agent_hour(&agent("a"), at(1_000))), (200_000, 100_000));
        assert_eq!((purse.team_hour(at(4_100)), purse.team_hour(at(4_600))), (99_998, 0));
        assert_eq!((purse.team_hour.spent.len(), purse.team_day.spent.len()), (0, 100_000));
    }

    #[test]
    fn amounts_are_told_to_the_cent_and_small_ones_exactly() {
        for (micro_usd, expected) in [
            (0, "$0.00"),
            (400, "$0.0004"),
            (90_000, "$0.09"),
            (99_999, "$0.099999"),
            (100_001, "$0.11"),
            (4_980_000, "$4.98"),
            (165_120_000, "$165.12"),
        ] {
            assert_eq!(dollars(micro_usd), expected);
        }
    }

    #[derive(Clone, Debug)]
    enum Does {
        Reserves { task: u8, agent: usize, micro_usd: u64 },
        Settles { which: usize, share: u64 },
        Forfeits { which: usize },
        Waits { seconds: i64 },
    }

    fn does() -> impl Strategy<Value = Does> {
        prop_oneof![
            4 => (0..4_u8, 0..3_usize, 0..500_u64)
                .prop_map(|(task, agent, micro_usd)| Does::Reserves { task, agent, micro_usd }),
            3 => (0..8_usize, 0..=100_u64).prop_map(|(which, share)| Does::Settles { which, share }),
            1 => (0..8_usize).prop_map(|which| Does::Forfeits { which }),
            1 => (0..5_000_i64).prop_map(|seconds| Does::Waits { seconds }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a book that keeps everything and looks back at every instant.
        #[test]
        fn no_cap_is_ever_passed(history in prop::collection::vec(does(), 1..120)) {
            let caps = Caps { task: Some(1_500), agent_hour: Some(900), team_hour: Some(1_200), team_day: Some(4_000) };
            let names = ["a", "b", "c"].map(agent);
            let (mut purse, mut now) = (Purse::new(), 0_i64);
            let mut out: Vec<(u64, u8, usize, u64)> = Vec::new();
            let mut book: Vec<(i64, u8, usize, u64)> = Vec::new();
            for step in history {
                match step {
                    Does::Waits { seconds } => now += seconds,
                    Does::Reserves { task: number, agent, micro_usd } => {
                        let task_spent = book.iter().filter(|spent| spent.1 == number).map(|spent| spent.3).sum();
                        let ask = Ask { task: task(number), task_spent, agent: &names[agent], micro_usd };
                        if let Ok(reservation) = purse.reserve(&ask, &caps, at(now)) {
                            out.push((reservation.id, number, agent, micro_usd));
                        }
                    }
                    Does::Settles { which, share } if which < out.len() => {
                        let (id, task, agent, micro_usd) = out.swap_remove(which);
                        purse.settle(id, micro_usd * share / 100, at(now));
                        book.push((now, task, agent, micro_usd * share / 100));
                    }
                    Does::Forfeits { which } if which < out.len() => {
                        let (id, task, agent, micro_usd) = out.swap_remove(which);
                        purse.forfeit(id, at(now));
                        book.push((now, task, agent, micro_usd));
                    }
                    Does::Settles { .. } | Does::Forfeits { .. } => {}
                }
                let taken = |span: i64, of: &dyn Fn(u8, usize) -> bool| -> u64 {
                    let spent = book.iter().filter(|spent| now - spent.0 < span && of(spent.1, spent.2)).map(|spent| spent.3);
                    let reserved = out.iter().filter(|out| of(out.1, out.2)).map(|out| out.3);
                    spent.chain(reserved).sum()
                };
                prop_assert_eq!(purse.team_hour(at(now)), taken(3_600, &|_, _| true));
                prop_assert_eq!(purse.team_day(at(now)), taken(86_400, &|_, _| true));
                prop_assert!(taken(3_600, &|_, _| true) <= 1_200 && taken(86_400, &|_, _| true) <= 4_000);
                for (number, name) in names.iter().enumerate() {
                    prop_assert_eq!(purse.agent_hour(name, at(now)), taken(3_600, &|_, agent| agent == number));
                    prop_assert!(taken(3_600, &|_, agent| agent == number) <= 900);
                }
                for number in 0..4 {
                    prop_assert!(taken(i64::MAX, &|task, _| task == number) <= 1_500);
                }
            }
        }
    }
}
