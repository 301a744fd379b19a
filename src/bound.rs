//! The most a task can come to, from configuration alone: calls, tokens, money and time, with the path that leads there.
//!
//! Nothing here is likely; it is what no failure can exceed. Every factor is a limit that the team enforces, so the path
//! names for each where it is set. What people send round again is a new round and comes on top.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::agent::{Agent, ModelRef};
use crate::budget::{CALLS_SPARE, calls_max, dollars, input_max, worst_of};
use crate::cause::Usage;
use crate::config::{Config, Verify};
use crate::ledger::DECISIONS_MAX;
use crate::prices::{self, ModelFacts};
use crate::retry::RetryPolicy;
use crate::settle::HINT_MAX;
use crate::task::{AgentName, Effect, TaskType};
use crate::time::{Timestamp, format_duration};
use crate::tool_config::CALL_WITHIN;
use crate::triage::PARK_MAX;

/// How much longer than it may take we wait for a call of a tool, or a verification, to say so itself.
pub const MARGIN: Duration = Duration::from_secs(5);

/// The most a task of one type can come to. `None` is unbounded until its deadline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The type.
    pub task_type: TaskType,
    /// What doing it does to the world.
    pub effect: Effect,
    /// Calls of models.
    pub calls: Option<u64>,
    /// Tokens, read and written.
    pub tokens: Option<u64>,
    /// Millionths of a US dollar, cut by the caps on a task.
    pub micro_usd: Option<u64>,
    /// The same without the caps.
    pub uncut_micro_usd: Option<u64>,
    /// From its first delivery to its end or a person, while the team runs.
    #[serde(rename = "lasts_s", serialize_with = "seconds")]
    pub lasts: Option<Duration>,
    /// How it comes to that, a sentence a step.
    pub path: Vec<String>,
}

/// Every declared type, by name.
#[must_use]
pub fn all(config: &Config) -> Vec<Bound> {
    config.task_types.keys().map(|name| task_type(config, name)).collect()
}

/// The most a task of this type can come to.
#[must_use]
pub fn task_type(config: &Config, task_type: &TaskType) -> Bound {
    let verify = config.task_types.get(task_type).and_then(|said| said.verify.as_ref());
    // Whom every answer is shown, once for each delivery: another agent, or what is no model and has its own time.
    let (verifier, by_others) = match verify {
        Some(Verify::Agent { agent, .. }) => (Some(agent), None),
        Some(Verify::Command { within, .. }) => (None, Some(("a program", *within))),
        Some(Verify::Url { within, .. }) => (None, Some(("an address", *within))),
        None => (None, None),
    };
    let by_others = by_others.map(|(by, within)| (by, within.saturating_add(MARGIN)));
    let effect = config.effect(task_type, config.prompt_for(task_type, None));
    let rounds = rounds(effect);
    let reached = reached(config, task_type, rounds - 1);
    let dearest = config.dearest();
    let workers: Vec<Leg<'_>> = reached
        .keys()
        .filter_map(|name| config.agents.get(*name))
        .flat_map(|agent| models(agent).map(move |model| (agent, model)))
        .map(|(agent, model)| Leg::new(config, task_type, effect, agent, model, &dearest))
        .collect();
    // Of equals, who gets it soonest: that is the shortest path to tell.
    let handed_on = |leg: &Leg<'_>| Reverse(reached[&leg.agent.name].len());
    let Some(costliest) = workers.iter().max_by_key(|leg| (leg.per_round(leg.micro_usd), handed_on(leg))) else {
        return nobody(task_type, effect);
    };
    let deliveries = most(workers.iter().map(|leg| leg.deliveries));
    let checks: Vec<Leg<'_>> = verifier
        .and_then(|name| config.agents.get(name))
        .into_iter()
        .flat_map(|agent| models(agent).map(move |model| (agent, model)))
        .map(|(agent, model)| Leg {
            calls: deliveries.map(|deliveries| deliveries + CALLS_SPARE),
            ..Leg::new(config, task_type, effect, agent, model, &dearest)
        })
        .collect();
    let sum = |of: &dyn Fn(&Leg<'_>) -> Option<u64>| {
        let (work, check) = (most(workers.iter().map(of))?, most(checks.iter().map(of))?);
        Some(work.saturating_add(check).saturating_mul(rounds))
    };
    let calls = sum(&|leg| leg.calls);
    let tokens = sum(&|leg| Some(leg.calls?.saturating_mul(leg.input + leg.output)));
    let uncut_micro_usd = sum(&|leg| Some(leg.calls?.saturating_mul(leg.micro_usd)));
    let cap = cap(config, task_type, reached.keys().copied().chain(checks.iter().map(|leg| &leg.agent.name)));
    let micro_usd = match (uncut_micro_usd, &cap) {
        (Some(uncut), Some((cap, _))) => Some(uncut.min(*cap)),
        (uncut, cap) => uncut.or(cap.as_ref().map(|(cap, _)| *cap)),
    };
    let slowest =
        workers.iter().max_by_key(|leg| (leg.lasts().unwrap_or(Duration::MAX), leg.agent.name == costliest.agent.name));
    let check_takes = checks.iter().map(|leg| leg.call_takes).chain(by_others.map(|(_, takes)| takes)).max();
    let checking = deliveries.map(|deliveries| times(check_takes.unwrap_or_default(), deliveries + CALLS_SPARE));
    let decided = between_rounds(config);
    let lasts = slowest.and_then(Leg::lasts).zip(checking).map(|(work, checking)| {
        times(work.saturating_add(checking), rounds).saturating_add(times(decided, rounds - 1))
    });

    let mut path = vec![match (effect, deliveries) {
        (Effect::Payment, Some(more @ 2..)) => format!(
            "1 round of {more} deliveries: asking moves no money, and a payment with a tool is never repeated automatically"
        ),
        (Effect::Payment, Some(_) | None) => {
            "1 round of 1 delivery: a payment is never repeated automatically".to_owned()
        }
        (Effect::ReadOnly | Effect::Notification | Effect::Mutation, _) => {
            format!("{rounds} rounds: the first, and one for each of {DECISIONS_MAX} decisions of the CEO")
        }
    }];
    path.push(costliest.told(&reached[&costliest.agent.name]));
    path.extend(costliest.told_call());
    if let Some(busiest) = workers.iter().max_by_key(|leg| leg.calls.unwrap_or(u64::MAX))
        && busiest.calls.unwrap_or(u64::MAX) > costliest.calls.unwrap_or(u64::MAX)
    {
        path.push(format!("most calls, at a lower price: {}", busiest.told(&reached[&busiest.agent.name])));
    }
    if let Some(check) = checks.iter().max_by_key(|leg| leg.micro_usd) {
        path.push(format!("every answer is verified: {}", check.told(&[])));
        path.extend(check.told_call());
    }
    if let (Some((by, takes)), Some(checking)) = (by_others, checking) {
        let [takes, checking] = [takes, checking].map(format_duration);
        path.push(format!("every answer is verified by {by} within {takes}: {checking} in a round"));
    }
    match (&cap, uncut_micro_usd) {
        (Some((cap, by)), Some(uncut)) if *cap < uncut => {
            path.push(format!("cut from {} to {} by {by}", dollars(uncut), dollars(*cap)));
        }
        (Some((cap, by)), None) => path.push(format!("cut to {} by {by}", dollars(*cap))),
        (Some(_) | None, Some(_)) => {}
        (None, None) => path.push("no cap on a task is set: its deadline alone ends the spending".to_owned()),
    }
    path.extend(slowest.map(Leg::told_time));
    if rounds > 1 {
        path.push(format!("{} before each further round: the longest the CEO lets it wait", format_duration(decided)));
    }
    path.push(format!(
        "not in it: what people or replays send round again, waiting for a free agent, a Retry-After above {}{}",
        format_duration(HINT_MAX),
        if config.ceo.adviser.is_some() { ", the adviser (ceo.adviser.max-usd-per-hour)" } else { "" },
    ));
    Bound { task_type: task_type.clone(), effect, calls, tokens, micro_usd, uncut_micro_usd, lasts, path }
}

fn nobody(task_type: &TaskType, effect: Effect) -> Bound {
    Bound {
        task_type: task_type.clone(),
        effect,
        calls: Some(0),
        tokens: Some(0),
        micro_usd: Some(0),
        uncut_micro_usd: Some(0),
        lasts: Some(Duration::ZERO),
        path: vec!["the team has no agents: nobody can be asked".to_owned()],
    }
}

/// How often a task is begun without a person: once, and once more for each decision the CEO may take about it.
const fn rounds(effect: Effect) -> u64 {
    match effect {
        Effect::Payment => 1,
        Effect::ReadOnly | Effect::Notification | Effect::Mutation => 1 + DECISIONS_MAX as u64,
    }
}

/// Every agent that may get it, and who had it before: those that handle it, and within so many moves those that may
/// take over. Of a type nobody handles, all: it can be addressed by name.
fn reached<'a>(config: &'a Config, task_type: &TaskType, moves: u64) -> BTreeMap<&'a AgentName, Vec<&'a AgentName>> {
    let handling = || config.agents.values().filter(|agent| agent.handles(task_type));
    let everybody = handling().next().is_none();
    let first = config.agents.values().filter(|agent| everybody || agent.handles(task_type));
    let mut reached: BTreeMap<&AgentName, Vec<&AgentName>> = first.map(|agent| (&agent.name, Vec::new())).collect();
    for _ in 0..moves {
        let mut more = Vec::new();
        for agent in config.agents.values().filter(|agent| !reached.contains_key(&agent.name)) {
            if let Some((from, before)) = reached.iter().find(|(from, _)| agent.can_take_over(from, task_type)) {
                more.push((&agent.name, before.iter().chain([from]).copied().collect()));
            }
        }
        reached.extend(more);
    }
    reached
}

/// The models an agent may be made to ask.
fn models(agent: &Agent) -> impl Iterator<Item = &ModelRef> {
    std::iter::once(&agent.model).chain(&agent.fallback_models)
}

/// The largest cap on the task among these agents, and who sets it; `None` when one of them has none.
fn cap<'a>(
    config: &Config,
    task_type: &TaskType,
    agents: impl Iterator<Item = &'a AgentName>,
) -> Option<(u64, String)> {
    let mut largest: Option<(u64, String)> = None;
    for agent in agents {
        let cap = config.caps(task_type, agent).task?;
        if largest.as_ref().is_none_or(|(most, _)| cap > *most) {
            let of_type = config.task_types.get(task_type).and_then(|said| said.max_micro_usd);
            let by = if of_type == Some(cap) {
                format!("max-cost-usd of task type {task_type}")
            } else if config.budget.micro_usd_per_task == Some(cap) {
                "budget.max-usd-per-task of the team".to_owned()
            } else {
                format!("limits.max-cost-usd of {agent}")
            };
            largest = Some((cap, by));
        }
    }
    largest
}

/// The longest between a dead letter and the next round: the adviser thinks, and the task is made to wait.
fn between_rounds(config: &Config) -> Duration {
    let advice = config.ceo.adviser.as_ref().map_or(Duration::ZERO, |adviser| adviser.within);
    PARK_MAX.saturating_add(advice)
}

/// One round of a task in an agent's hands, on one of its models, at its worst.
struct Leg<'a> {
    agent: &'a Agent,
    model: &'a ModelRef,
    policy: RetryPolicy,
    /// What asking does to the world.
    effect: Effect,
    deliveries: Option<u64>,
    calls: Option<u64>,
    /// Tokens one call reads.
    input: u64,
    /// Tokens one call writes.
    output: u64,
    /// What one call costs.
    micro_usd: u64,
    facts: ModelFacts,
    call_takes: Duration,
    /// One call of a tool, with the looks before and after it.
    tool_takes: Duration,
}

impl<'a> Leg<'a> {
    fn new(
        config: &Config,
        task_type: &TaskType,
        effect: Effect,
        agent: &'a Agent,
        model: &'a ModelRef,
        dearest: &ModelFacts,
    ) -> Self {
        let effect = agent.effect_of_asking(effect);
        let policy = config.policy(task_type, &agent.name, &model.provider).policy;
        // Whether a task has a deadline is said at its submission; with one, reads may be unlimited.
        let deadline = Some(Timestamp::default());
        let facts = config.model_facts(model);
        let (input, asked) = (input_max(&facts), u64::from(agent.max_output_tokens));
        // Every call is a finished step, so that a stall ends what is longer; but not what the files let take longer.
        let ended = |within: Duration| if within > CALL_WITHIN { Duration::MAX } else { agent.stall };
        let tools =
            config.tools.slowest(&agent.tools).map(|(within, looks)| (ended(within).min(within + MARGIN), looks));
        let (tool_takes, looks) = tools.unwrap_or((agent.stall, true));
        Self {
            effect,
            tool_takes: times(tool_takes, if looks { 3 } else { 1 }),
            deliveries: Some(policy.limit(effect, deadline)).filter(|n| *n < RetryPolicy::UNLIMITED).map(u64::from),
            calls: calls_max(agent, &policy, effect, deadline),
            input,
            output: asked.min(facts.max_output.unwrap_or(u64::MAX)),
            micro_usd: worst_of(input, asked, &facts, dearest),
            call_takes: config.call_takes(&model.provider),
            facts,
            policy,
            agent,
            model,
        }
    }

    fn per_round(&self, of_a_call: u64) -> u128 {
        self.calls.map_or(u128::MAX, |calls| u128::from(calls) * u128::from(of_a_call))
    }

    fn has_tools(&self) -> bool {
        !self.agent.tools.is_empty()
    }

    /// How long one round can last.
    fn lasts(&self) -> Option<Duration> {
        let (calls, deliveries) = (self.calls?, self.deliveries?);
        let (acts, lists) = self.acts(calls, deliveries);
        let spans = [
            times(self.call_takes, calls),
            lists,
            times(self.tool_takes, acts * u64::from(self.agent.max_tool_calls)),
            times(self.policy.park_at_most, deliveries + CALLS_SPARE),
            self.backoffs(),
            times(self.policy.ack_wait, deliveries),
        ];
        Some(spans.into_iter().fold(Duration::ZERO, Duration::saturating_add))
    }

    /// How often the tools of an answer are seen to: after each call of the model, and by each delivery that finds some
    /// still to be called. And how long servers take to say what they have, before that and before each call.
    fn acts(&self, calls: u64, deliveries: u64) -> (u64, Duration) {
        if !self.has_tools() {
            return (0, Duration::ZERO);
        }
        let acts = calls + deliveries + CALLS_SPARE;
        (acts, times(self.agent.stall, calls + acts))
    }

    /// The waits between deliveries: at the upper edge of their jitter, as long as a Retry-After that is slept on, or for the
    /// end of a hold, which is waited for no longer than parking may last.
    fn backoffs(&self) -> Duration {
        let deliveries = self.policy.limit(self.effect, None);
        let hint = HINT_MAX.mul_f64(1.1);
        let (mut sum, mut previous) = (Duration::ZERO, Duration::ZERO);
        for n in 1..deliveries {
            previous = self.policy.delay(n, previous, 1.0).unwrap_or_default();
            sum = sum.saturating_add(previous.max(hint).max(self.policy.park_at_most));
        }
        sum
    }

    fn told(&self, before: &[&AgentName]) -> String {
        let whose = match before {
            [] => self.agent.name.to_string(),
            [..] => {
                let names: Vec<&str> = before.iter().map(|name| name.as_str()).collect();
                format!("{}, which takes over from {}", self.agent.name, names.join(" and "))
            }
        };
        match (self.has_tools(), self.calls, self.deliveries) {
            (true, Some(calls), _) => format!("{calls} calls a round (limits.max-steps) by {whose}"),
            (false, Some(calls), Some(1)) => {
                format!("{calls} calls a round by {whose}: 1 delivery, {CALLS_SPARE} spare for calls given back")
            }
            (false, Some(calls), Some(deliveries)) => format!(
                "{calls} calls a round by {whose}: {deliveries} deliveries, {CALLS_SPARE} spare for calls given back"
            ),
            (_, None, _) | (false, Some(_), None) => {
                format!("by {whose}, with unlimited deliveries: unbounded until its deadline")
            }
        }
    }

    fn told_call(&self) -> Vec<String> {
        let mut told = vec![format!(
            "each call at most {} tokens in and {} out on {}: {}",
            self.input,
            self.output,
            self.model,
            dollars(self.micro_usd)
        )];
        if self.facts.context.is_none() {
            told.push(format!("the context of {} is not known: a larger request is not sent", self.model));
        }
        if prices::price(Usage::default(), &self.facts).is_none() {
            told.push(format!(
                "the price of {} is not known: it is taken for the dearest that is, until providers.{}.models says it",
                self.model, self.model.provider
            ));
        }
        told
    }

    fn told_time(&self) -> String {
        let (Some(calls), Some(deliveries)) = (self.calls, self.deliveries) else {
            return format!("time with {}: unbounded until its deadline", self.agent.name);
        };
        let tools = if self.has_tools() {
            let (acts, lists) = self.acts(calls, deliveries);
            format!(
                ", {} until tools are listed (limits.stall each time), {acts} times {} calls of tools (limits.max-tool-calls) of {}",
                format_duration(lists),
                self.agent.max_tool_calls,
                format_duration(self.tool_takes),
            )
        } else {
            String::new()
        };
        format!(
            "time of a round with {}: {calls} calls of {}{tools}, {} at closed doors (park-at-most), {} between deliveries (backoff, or a hold), {} until dead workers are noticed (ack-wait)",
            self.agent.name,
            format_duration(self.call_takes),
            format_duration(times(self.policy.park_at_most, deliveries + CALLS_SPARE)),
            format_duration(self.backoffs()),
            format_duration(times(self.policy.ack_wait, deliveries)),
        )
    }
}

/// The largest; `None`, unbounded, is larger than all, and of none it is 0.
fn most(counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let mut largest = 0;
    for count in counts {
        largest = largest.max(count?);
    }
    Some(largest)
}

fn times(span: Duration, count: u64) -> Duration {
    span.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

fn seconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs()).serialize(serializer)
}
