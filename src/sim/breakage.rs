//! What a scenario means on the wire: the same faults, answers and latencies for the outage server and the simulation.

use std::time::Duration;

use super::heard::Incoming;
use super::script::{Answer, Asked, Behaviour, Script, When};
use super::wire::{self, Draw};
use crate::config::{Config, Wire};
use crate::definitions::LoadedScenario;
use crate::scenario::{Fault, FaultKind, ModelBehaviour, Scenario, Target, Window};
use crate::task::Integration;

/// A refusal of a request, as its vendor words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOnTheWire {
    /// The status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// What the outage server does for a fault, `left` before it is over. None for what is not seen on a wire: what
/// strikes the team itself, and connections that do not come about.
#[must_use]
pub fn behaviour(fault: &Fault) -> Option<Behaviour> {
    Some(match fault.kind {
        FaultKind::RateLimited => match fault.retry_after {
            Some(wait) => Behaviour::RateLimited { retry_after: Some(wait) },
            None => Behaviour::RateLimitedSilently,
        },
        FaultKind::Overloaded => Behaviour::Overloaded,
        FaultKind::ServerError | FaultKind::AdviserDown => Behaviour::ServerError,
        FaultKind::Unavailable => Behaviour::Unavailable,
        FaultKind::FirstByteTimeout | FaultKind::Hang => Behaviour::Hang,
        FaultKind::MidStreamTimeout => Behaviour::Stall,
        FaultKind::SlowStream => Behaviour::Slow { answer: Answer::Sample, pause: pause(fault.times) },
        FaultKind::Truncated => Behaviour::Truncated,
        FaultKind::Reset => Behaviour::Reset,
        FaultKind::ErrorEvent => Behaviour::ErrorMidStream,
        FaultKind::MalformedJson => Behaviour::Malformed,
        FaultKind::Html => Behaviour::Html,
        FaultKind::Refusal => Behaviour::Refuse("I can't help with that.".to_owned()),
        FaultKind::Cut => Behaviour::Cut(Answer::Sample),
        FaultKind::SchemaInvalid => Behaviour::SchemaInvalid,
        FaultKind::WrongArguments => Behaviour::WrongArguments,
        FaultKind::Loop => Behaviour::Loop,
        FaultKind::Quota => Behaviour::OutOfCredit,
        FaultKind::RevokedKey => Behaviour::Unauthorized,
        FaultKind::ModelRetired => Behaviour::NoSuchModel,
        FaultKind::TooLong => Behaviour::TooLong,
        FaultKind::Refused
        | FaultKind::Dns
        | FaultKind::ConnectTimeout
        | FaultKind::AgentPanic
        | FaultKind::AgentKill
        | FaultKind::AgentWedge
        | FaultKind::ProcessKill
        | FaultKind::DiskFull
        | FaultKind::PagerDown
        | FaultKind::MailDown
        | FaultKind::ClockJump
        | FaultKind::CeoKill => return None,
    })
}

/// Between two pieces of a slow stream: a tenth of a second for each time it is slower.
fn pause(times: f64) -> Duration {
    Duration::from_secs_f64((times / 10.0).clamp(0.05, 25.0))
}

/// The refusal that a fault of a status shows on this wire; a plain 500 for faults that are no refusal.
#[must_use]
pub fn refused(fault: &Fault, wire: Wire, model: &str) -> RefusedOnTheWire {
    let behaviour = behaviour(fault).unwrap_or(Behaviour::ServerError);
    let out = wire::write(&Incoming::plain(asked(wire, model)), &behaviour, DRAW);
    RefusedOnTheWire {
        status: out.status,
        headers: out.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        body: out.pieces.concat(),
    }
}

/// The data of the error event that ends a stream on this wire.
#[must_use]
pub fn error_event(wire: Wire) -> String {
    let out = wire::write(&Incoming::plain(asked(wire, "model")), &Behaviour::ErrorMidStream, DRAW);
    let last = out.pieces.last().cloned().unwrap_or_default();
    let data = last.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&last);
    data.to_owned()
}

/// Bodies of a simulation need no ids of their own.
const DRAW: Draw = Draw { dice: 1, words: 1, created: 1_769_990_400 };

fn asked(wire: Wire, model: &str) -> Asked {
    Asked {
        wire,
        model: model.to_owned(),
        prompt: String::new(),
        last: String::new(),
        turns: 0,
        tools: Vec::new(),
        stream: true,
    }
}

/// How long a provider takes to refuse a request.
pub const REFUSAL: Duration = Duration::from_millis(200);

/// A scenario as the outage server plays it, and what of it is not played on a wire, a line each.
#[derive(Clone, Debug)]
pub struct OnTheWire {
    /// Its rules, in the order of its faults; times count from the beginning, at the scenario's own pace.
    pub script: Script,
    /// What is not played, and why.
    pub left_out: Vec<String>,
}

/// Writes a scenario as rules of the outage server. `windows` says when its faults strike; `marked` whether prompts
/// bear the marks of the stage, by which calls of one agent are told apart.
#[must_use]
pub fn on_the_wire(loaded: &LoadedScenario, windows: &[Window], seed: u64, marked: bool) -> OnTheWire {
    let LoadedScenario { scenario, config } = loaded;
    let mut script = Script::new(seed);
    let mut left_out = Vec::new();
    for (place, fault) in scenario.faults.iter().enumerate() {
        let scoped =
            fault.scope.agent.is_some() || fault.scope.task_type.is_some() || fault.kind == FaultKind::AdviserDown;
        let why = match behaviour(fault) {
            None if fault.kind.target() == Target::Calls => Some("an HTTP server cannot fail to be connected to"),
            None => Some("it strikes the team, not its provider"),
            Some(_) if scoped && !marked => Some("on the wire nobody knows which agent asks, or for what"),
            Some(_) => None,
        };
        if let Some(why) = why {
            left_out.push(format!("{}: {fault}: {why}", fault.name));
            continue;
        }
        for window in windows.iter().filter(|window| window.fault == place) {
            script = add(script, scenario, config, fault, *window);
        }
    }
    for (pattern, behaviour) in &scenario.models {
        script = model(script, pattern, behaviour);
    }
    let vendors = |pattern: &str| pattern.rsplit('/').next().unwrap_or(pattern).to_owned();
    script.paces = scenario.models.iter().map(|(pattern, behaviour)| (vendors(pattern), behaviour.latency)).collect();
    script.paces.push(("*".to_owned(), ModelBehaviour::default().latency));
    script.refusal = Some(REFUSAL);
    OnTheWire { script, left_out }
}

/// The rules of one fault in one window: one for each wire it is on and each stretch in which it is on.
fn add(mut script: Script, scenario: &Scenario, config: &Config, fault: &Fault, window: Window) -> Script {
    let Some(then) = behaviour(fault) else { return script };
    let providers: Vec<Option<Integration>> = match fault.scope.providers.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    for provider in providers {
        let wire = provider.as_ref().and_then(|name| config.providers.get(name)).map(|settings| settings.wire);
        for (from, until) in stretches(fault, window, scenario.run) {
            let mut when = When::any().between(from, until).share(fault.share);
            if let Some(wire) = wire {
                when = when.wire(wire);
            }
            if let Some(model) = &fault.scope.model {
                when = when.model(model.clone());
            }
            for words in super::play::stage::marks(&fault.scope, fault.kind) {
                when = when.prompt_has(words);
            }
            if let Some(words) = &fault.scope.prompt_lacks {
                when = when.prompt_lacks(words.clone());
            }
            if let Some((first, last)) = fault.calls {
                when = when.calls(first..=last);
            }
            script = script.rule(fault.name.clone(), when, then.clone());
        }
    }
    script
}

/// The stretches of a window in which a fault is on: one, unless it flaps.
fn stretches(fault: &Fault, window: Window, run: Duration) -> Vec<(Duration, Duration)> {
    let end = window.until.min(run);
    let Some((on, off)) = fault.flap else { return vec![(window.from, end)] };
    let mut stretches = Vec::new();
    let mut from = window.from;
    while from < end {
        stretches.push((from, (from + on).min(end)));
        from += on + off;
    }
    stretches
}

/// The name of the rule by which a model of this pattern gives its n-th fixed answer, the first = 0.
#[must_use]
pub fn said_by(pattern: &str, number: usize) -> String {
    format!("{pattern} says {}", number + 1)
}

/// What a model does wrong now and then, and what it says.
fn model(mut script: Script, pattern: &str, behaviour: &ModelBehaviour) -> Script {
    // The outage server knows models by the name the vendor gave them.
    let name = pattern.rsplit('/').next().unwrap_or(pattern);
    let mut taken = 0.0;
    for (what, share, then) in [
        ("breaks its schema", behaviour.schema_breaks, Behaviour::SchemaInvalid),
        ("goes in circles", behaviour.loops, Behaviour::Loop),
        ("declines", behaviour.refusals, Behaviour::Refuse("I can't help with that.".to_owned())),
        ("is cut", behaviour.cuts, Behaviour::Cut(Answer::Sample)),
    ] {
        if share > 0.0 {
            // Of what the rules before have left.
            let of_rest = share / (1.0 - taken);
            taken += share;
            script = script.rule(format!("{pattern} {what}"), When::any().model(name).share(of_rest), then);
        }
    }
    for (number, said) in behaviour.answers.iter().enumerate() {
        let mut when = When::any().model(name);
        if let Some(words) = &said.prompt_has {
            when = when.prompt_has(words.clone());
        }
        if let Some(words) = &said.prompt_lacks {
            when = when.prompt_lacks(words.clone());
        }
        if let Some((first, last)) = said.calls {
            when = when.calls(first..=last);
        }
        let then = Behaviour::Answer(Answer::Text(said.text.clone()));
        script = script.rule(said_by(pattern, number), when, then);
    }
    script
}
