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

    /// The waits between deliveries at the upper edge of their jitter, or as long as a Retry-After that is slept on.
    fn backoffs(&self) -> Duration {
        let deliveries = self.policy.limit(self.effect, None);
        let hint = HINT_MAX.mul_f64(1.1);
        let (mut sum, mut previous) = (Duration::ZERO, Duration::ZERO);
        for n in 1..deliveries {
            previous = self.policy.delay(n, previous, 1.0).unwrap_or_default();
            sum = sum.saturating_add(previous.max(hint));
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
            "time of a round with {}: {calls} calls of {}{tools}, {} at closed doors (park-at-most), {} of backoff, {} until dead workers are noticed (ack-wait)",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BudgetConfig, McpConfig, ProviderConfig, TaskTypeConfig, Timeouts, Wire};
    use crate::retry::{Backoff, Jitter};
    use crate::task::Integration;
    use crate::tool::{Probe, Sign, ToolRule};

    const REVIEW: &str = "review";

    fn name(text: &str) -> TaskType {
        TaskType::new(text).expect("a type")
    }

    /// An agent on the model of the same name, which reads 1,000 tokens and writes 100.
    fn agent(of: &str) -> Agent {
        let agent = Agent::new(of, &format!("local/{of}")).expect("an agent");
        Agent { max_output_tokens: 100, ..agent }
    }

    /// Models by name, with the dollars a million tokens cost, in and out.
    fn team(effect: Effect, models: &[(&str, f64)]) -> Config {
        let facts = |dollars: f64| ModelFacts {
            context: Some(1_000),
            usd_per_million_input: Some(dollars),
            usd_per_million_output: Some(dollars),
            ..ModelFacts::default()
        };
        let provider = ProviderConfig {
            wire: Wire::OpenAi,
            base_url: "http://127.0.0.1:1".to_owned(),
            api_key: None,
            self_hosted: true,
            headers: BTreeMap::new(),
            retry: None,
            breaker: None,
            timeouts: Timeouts { total: Duration::from_secs(40), ..Timeouts::default() },
            models: models.iter().map(|(model, dollars)| ((*model).to_owned(), facts(*dollars))).collect(),
        };
        let said = TaskTypeConfig { effect: Some(effect), ..TaskTypeConfig::default() };
        let retry = RetryPolicy {
            max_deliveries: 2,
            backoff: Backoff::List(vec![Duration::from_secs(1_000)]),
            jitter: Jitter::Around(0.5),
            ack_wait: Duration::from_secs(10),
            park_at_most: Duration::from_secs(20),
        };
        Config::new("t")
            .provider(Integration::new("local").expect("a name"), provider)
            .task_type(name(REVIEW), said)
            .retry(retry)
    }

    fn of(config: &Config) -> Bound {
        task_type(config, &name(REVIEW))
    }

    #[test]
    fn every_factor_is_in_it() {
        let config = team(Effect::ReadOnly, &[("a", 10.0)]).agent(agent("a").handling(REVIEW));
        let bound = of(&config);
        // 4 rounds of 2 + 5 calls; 1000 in and 100 out each, at 10 micro-dollars.
        assert_eq!((bound.calls, bound.tokens, bound.micro_usd), (Some(28), Some(30_800), Some(308_000)));
        // A round: 7 calls of 100 s, 7 times 20 s parked, 1500 s of backoff, 2 leases of 10 s. Three hours between.
        assert_eq!(bound.lasts, Some(Duration::from_secs(4 * (700 + 140 + 1_500 + 20) + 3 * 3_600)));
        assert_eq!(
            bound.path,
            [
                "4 rounds: the first, and one for each of 3 decisions of the CEO",
                "7 calls a round by a: 2 deliveries, 5 spare for calls given back",
                "each call at most 1000 tokens in and 100 out on local/a: $0.011",
                "time of a round with a: 7 calls of 1m40s, 2m20s at closed doors (park-at-most), 25m of backoff, 20s until dead workers are noticed (ack-wait)",
                "1h before each further round: the longest the CEO lets it wait",
                "not in it: what people or replays send round again, waiting for a free agent, a Retry-After above 5m",
            ]
        );
    }

    #[test]
    fn with_tools_steps_are_what_counts() {
        let tooled = Agent { tools: vec!["http".to_owned()], max_steps: 50, ..agent("a").handling(REVIEW) };
        let bound = of(&team(Effect::Mutation, &[("a", 10.0)]).agent(tooled));
        assert_eq!((bound.calls, bound.micro_usd), (Some(200), Some(2_200_000)));
        assert_eq!(bound.path[1], "50 calls a round (limits.max-steps) by a");
        // 50 calls; before each, and before 57 answers' tools, 15 min until they are listed; 64 calls of 35 s each time.
        let round = 50 * 100 + 107 * 900 + 57 * 64 * 35 + 140 + 1_500 + 20;
        assert_eq!(bound.lasts, Some(Duration::from_secs(4 * round + 3 * 3_600)));
        assert_eq!(
            bound.path[3],
            "time of a round with a: 50 calls of 1m40s, 1d2h45m until tools are listed (limits.stall each time), 57 times 64 calls of tools (limits.max-tool-calls) of 35s, 2m20s at closed doors (park-at-most), 25m of backoff, 20s until dead workers are noticed (ack-wait)"
        );
    }

    #[test]
    fn tools_take_as_long_as_each_of_their_calls_may() {
        let lasts = |tools: &[&str], stall: u64, at_once: u32, probe: bool| {
            let sign = |happened: bool| Sign { at: String::new(), is: happened.into() };
            let probe = probe.then(|| Probe {
                tool: "find".to_owned(),
                arguments: serde_json::Map::new(),
                happened: sign(true),
                did_not_happen: sign(false),
            });
            let rule = ToolRule { timeout: Some(Duration::from_secs(95)), probe, ..ToolRule::default() };
            let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
            let stall = Duration::from_secs(stall);
            let agent = Agent { tools, stall, max_steps: 1, max_tool_calls: at_once, ..agent("a").handling(REVIEW) };
            let config = team(Effect::Payment, &[("a", 10.0)]).agent(agent);
            let bank = McpConfig::stdio(["bank-mcp"]).tool("transfer", rule);
            of(&config.mcp(Integration::new("bank").expect("a name"), bank)).lasts.expect("bounded").as_secs()
        };
        // A payment, 1 call, 2 deliveries: 100 s of the call, 140 s parked, 1500 s of backoff, 20 s of leases; 9 lists of
        // tools; the tools of 8 answers.
        let besides = |stall: u64| 100 + 140 + 1_500 + 20 + 9 * stall;
        for (tools, stall, at_once, probe, expected) in [
            (&[][..], 900, 64, false, 600 + 120 + 10),
            (&["http"], 900, 64, false, besides(900) + 8 * 64 * 35),
            (&["mcp:bank/*"], 900, 64, false, besides(900) + 8 * 64 * 100),
            (&["mcp:bank/*"], 900, 2, false, besides(900) + 8 * 2 * 100),
            (&["mcp:bank/*"], 900, 2, true, besides(900) + 8 * 2 * 300),
            (&["mcp:bank/*"], 60, 2, true, besides(60) + 8 * 2 * 300),
            (&["made_in_code"], 900, 2, false, besides(900) + 8 * 2 * 2_700),
        ] {
            assert_eq!(lasts(tools, stall, at_once, probe), expected, "{tools:?} {stall} {at_once} {probe}");
        }
    }

    #[test]
    fn a_payment_is_one_delivery_and_stays_where_it_is() {
        let config = team(Effect::Payment, &[("a", 10.0), ("b", 1_000.0)])
            .agent(agent("a").handling(REVIEW))
            .agent(agent("b").covering_for("a").expect("a name"));
        let bound = of(&config);
        assert_eq!((bound.calls, bound.micro_usd), (Some(6), Some(66_000)));
        assert_eq!(bound.lasts, Some(Duration::from_secs(600 + 120 + 10)));
        assert_eq!(bound.path[0], "1 round of 1 delivery: a payment is never repeated automatically");
        // Where a tool makes it, asking is repeated like any other.
        let tooled = Agent { tools: vec!["http".to_owned()], ..agent("a").handling(REVIEW) };
        assert_eq!(
            of(&config.agent(tooled)).path[0],
            "1 round of 2 deliveries: asking moves no money, and a payment with a tool is never repeated automatically"
        );
    }

    #[test]
    fn whoever_may_take_it_over_counts_within_three_moves() {
        let chain = |dear: &str| {
            let models = ["a", "b", "c", "d", "e"].map(|of| (of, if of == dear { 100.0 } else { 1.0 }));
            let mut config = team(Effect::ReadOnly, &models).agent(agent("a").handling(REVIEW));
            for (of, from) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")] {
                config = config.agent(agent(of).covering_for(from).expect("a name"));
            }
            of(&config)
        };
        for (dear, micro_usd) in
            [("a", 3_080_000), ("b", 3_080_000), ("d", 3_080_000), ("e", 30_800), ("nobody", 30_800)]
        {
            assert_eq!(chain(dear).micro_usd, Some(micro_usd), "{dear}");
        }
        assert_eq!(
            chain("d").path[1],
            "7 calls a round by d, which takes over from a and b and c: 2 deliveries, 5 spare for calls given back"
        );
    }

    #[test]
    fn the_dearest_of_its_models_counts_and_an_unknown_price_is_the_dearest_of_all() {
        let falling = |model: &str| {
            let agent = agent("a").handling(REVIEW).falling_back_to(model).expect("a model");
            of(&team(Effect::ReadOnly, &[("a", 10.0), ("b", 20.0)]).agent(agent))
        };
        assert_eq!(falling("local/b").micro_usd, Some(616_000));
        let unknown = falling("local/new");
        // 28 calls of 800000 tokens at 60 and 100 at 270.
        assert_eq!((unknown.calls, unknown.micro_usd), (Some(28), Some(28 * (48_000_000 + 27_000))));
        assert_eq!(
            unknown.path[3..5],
            [
                "the context of local/new is not known: a larger request is not sent",
                "the price of local/new is not known: it is taken for the dearest that is, until providers.local.models says it",
            ]
        );
    }

    #[test]
    fn unlimited_deliveries_are_unbounded_until_a_deadline_and_a_cap_bounds_the_money() {
        let mut config = team(Effect::ReadOnly, &[("a", 10.0)]).agent(agent("a").handling(REVIEW));
        config.retry.max_deliveries = RetryPolicy::UNLIMITED;
        let bound = of(&config);
        assert_eq!((bound.calls, bound.tokens, bound.micro_usd, bound.lasts), (None, None, None, None));
        assert_eq!(bound.path[1], "by a, with unlimited deliveries: unbounded until its deadline");
        config.budget.micro_usd_per_task = Some(5_000_000);
        let bound = of(&config);
        assert_eq!((bound.calls, bound.micro_usd, bound.uncut_micro_usd), (None, Some(5_000_000), None));
        assert!(bound.path.iter().any(|step| step == "cut to $5.00 by budget.max-usd-per-task of the team"));
        let mutation = task_type(
            &config.task_type(name("deploy"), TaskTypeConfig { effect: Some(Effect::Mutation), ..Default::default() }),
            &name("deploy"),
        );
        assert_eq!(mutation.calls, Some(60), "only reads are tried without an end");
    }

    #[test]
    fn caps_on_a_task_cut_when_whoever_gets_it_has_one() {
        let capped = |of_a: Option<u64>, of_b: Option<u64>, of_type: Option<u64>, of_team: Option<u64>| {
            let budget = BudgetConfig { micro_usd_per_task: of_team, ..BudgetConfig::default() };
            let a = Agent { max_micro_usd: of_a, ..agent("a").handling(REVIEW) };
            let b = Agent { max_micro_usd: of_b, ..agent("b").covering_for("a").expect("a name") };
            let mut config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 10.0)]).agent(a).agent(b).budget(budget);
            config.task_types.get_mut(&name(REVIEW)).expect("declared").max_micro_usd = of_type;
            let bound = of(&config);
            assert_eq!(bound.uncut_micro_usd, Some(308_000));
            (bound.micro_usd.expect("bounded"), bound.path.into_iter().find(|step| step.starts_with("cut")))
        };
        for (caps, micro_usd, told) in [
            ((None, None, None, None), 308_000, None),
            ((Some(1_000), None, None, None), 308_000, None),
            (
                (Some(1_000), Some(2_000), None, None),
                2_000,
                Some("cut from $0.31 to $0.002 by limits.max-cost-usd of b"),
            ),
            (
                (Some(1_000), None, None, Some(100_000)),
                100_000,
                Some("cut from $0.31 to $0.10 by budget.max-usd-per-task of the team"),
            ),
            (
                (None, None, Some(50_000), Some(100_000)),
                50_000,
                Some("cut from $0.31 to $0.05 by max-cost-usd of task type review"),
            ),
            ((None, None, None, Some(1_000_000)), 308_000, None),
        ] {
            let (of_a, of_b, of_type, of_team) = caps;
            assert_eq!(capped(of_a, of_b, of_type, of_team), (micro_usd, told.map(str::to_owned)), "{caps:?}");
        }
    }

    #[test]
    fn a_verifier_is_asked_about_every_delivery() {
        let verified = |verify: Option<Verify>| {
            let mut config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 100.0)])
                .agent(agent("a").handling(REVIEW))
                .agent(agent("b"));
            config.task_types.get_mut(&name(REVIEW)).expect("declared").verify = verify;
            of(&config)
        };
        let without = verified(None);
        let within = Duration::from_secs(600);
        let by_agent = Verify::Agent { agent: AgentName::new("b").expect("a name"), prompt: "verify".to_owned() };
        let by_program = Verify::Command { command: vec!["true".to_owned()], within };
        let by_address = Verify::Url { url: "http://127.0.0.1:1".to_owned(), within };
        for (verify, calls, micro_usd, each, told) in [
            (by_agent, 56, 3_388_000, 100, ": 7 calls a round by b: 2 deliveries, 5 spare for calls given back"),
            (by_program, 28, 308_000, 605, " by a program within 10m5s: 1h10m35s in a round"),
            (by_address, 28, 308_000, 605, " by an address within 10m5s: 1h10m35s in a round"),
        ] {
            let bound = verified(Some(verify));
            assert_eq!((bound.calls, bound.micro_usd), (Some(calls), Some(micro_usd)), "{told}");
            let lasts = without.lasts.map(|lasts| lasts + Duration::from_secs(4 * 7 * each));
            assert_eq!(bound.lasts, lasts, "{told}");
            assert_eq!(bound.path[3], format!("every answer is verified{told}"));
        }
    }

    #[test]
    fn a_type_nobody_handles_may_be_given_to_anybody_and_a_team_of_nobody_costs_nothing() {
        let config = team(Effect::ReadOnly, &[("a", 10.0), ("b", 20.0)]);
        assert_eq!((of(&config).calls, of(&config).micro_usd), (Some(0), Some(0)));
        let config = config.agent(agent("a")).agent(agent("b"));
        assert_eq!(of(&config).micro_usd, Some(616_000));
    }
}
