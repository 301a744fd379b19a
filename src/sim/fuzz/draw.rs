//! What a seed comes to: which kinds of trouble are on at all, then how much of each; load and knobs likewise.
//!
//! Swarm testing: a seed that has everything switched on a little meets fewer corners than many seeds that each have a
//! few things switched on in earnest.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::Drawn;
use super::team::{AGENTS, Knobs, PROVIDERS, WORK};
use crate::scenario::{
    Arrival, Fault, FaultKind, Human, HumanDecision, Latency, Load, ModelBehaviour, START, Said, Scenario, Scope,
    Target, TeamSource, When,
};
use crate::task::{AgentName, Integration, Priority, TaskType};
use crate::team::clock::Dice;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Dice with a purpose each.
struct Hand(Dice);

impl Hand {
    fn chance(&self, what: &str, number: u64, share: f64) -> bool {
        self.0.roll("chance", what, number) < share
    }

    /// A whole number from `least` to `most`, both included.
    fn whole(&self, what: &str, number: u64, least: u64, most: u64) -> u64 {
        let span = (most - least + 1) as f64 * self.0.roll("whole", what, number);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small count")]
        let above = span as u64;
        least + above.min(most - least)
    }

    fn one<'a, T>(&self, what: &str, number: u64, of: &'a [T]) -> &'a T {
        let last = (of.len() - 1) as u64;
        &of[usize::try_from(self.whole(what, number, 0, last)).unwrap_or(0)]
    }
}

/// What a seed draws.
#[must_use]
pub fn draw(seed: u64) -> Drawn {
    let hand = Hand(Dice::seeded(seed ^ 0x00D1_CE0F_F00D));
    let run = secs(hand.whole("run", 0, 20, 240) * 60);
    let knobs = knobs(&hand);
    let scenario = Scenario {
        name: format!("seed {seed}"),
        about: "drawn".to_owned(),
        team: TeamSource::Shipped,
        start: START,
        run,
        drain: secs(86_400),
        load: load(&hand, run),
        models: models(&hand, knobs.adviser.as_deref()),
        regions: BTreeMap::new(),
        faults: faults(&hand, run, knobs.adviser.is_some()),
        human: Some(Human {
            acknowledges_after: hand.chance("acknowledges", 0, 0.7).then(|| secs(hand.whole("ack", 0, 30, 3_000))),
            decides_after: Some(secs(hand.whole("decides", 0, 300, 7_200))),
            decision: *hand.one(
                "decision",
                0,
                &[HumanDecision::RunAgain, HumanDecision::RunAgain, HumanDecision::Discard],
            ),
            happened: false,
        }),
        assertions: Vec::new(),
        published: None,
    };
    let drawn = Drawn { seed, knobs, scenario };
    if hand.chance("clockwork", 0, 0.05) {
        clockwork(drawn)
    } else if hand.chance("full house", 0, 0.04) {
        full_house(&hand, drawn)
    } else {
        drawn
    }
}

/// Dead letters to the millisecond, each two of them half a window apart: what happens at the very edge of a window is
/// never met by chance.
fn clockwork(mut drawn: Drawn) -> Drawn {
    let half = secs(drawn.knobs.window / 2);
    drawn.knobs.threshold = 3;
    let scenario = &mut drawn.scenario;
    scenario.run = half * 9;
    scenario.faults.clear();
    scenario.load.truncate(1);
    for load in &mut scenario.load {
        load.task_type = TaskType::new("read").expect("a constant name");
        load.agent = Some(AgentName::new("ada").expect("a constant name"));
        load.arrival = Arrival::Every(half);
        load.until = scenario.run;
    }
    for (_, behaviour) in &mut scenario.models {
        behaviour.latency = Latency::Between(secs(1), secs(1));
        (behaviour.refusals, behaviour.loops, behaviour.cuts, behaviour.schema_breaks) = (1.0, 0.0, 0.0, 0.0);
    }
    drawn
}

/// Everybody at work when the disk fills up, and for longer than a lease lasts: results that come when nobody can write
/// them down, under leases that nobody can renew.
fn full_house(hand: &Hand, mut drawn: Drawn) -> Drawn {
    drawn.knobs.lease = 60;
    let scenario = &mut drawn.scenario;
    let from = scenario.run / 3;
    scenario.load.push(Load {
        task_type: TaskType::new("read").expect("a constant name"),
        agent: None,
        priority: None,
        payload: json!({"ticket": "{ticket}"}),
        arrival: Arrival::Burst { count: 8, over: secs(10) },
        from,
        until: scenario.run,
    });
    for (_, behaviour) in scenario.models.iter_mut().filter(|(pattern, _)| pattern != "wise/*") {
        behaviour.latency = Latency::Between(secs(5), secs(60));
    }
    scenario.faults.retain(|fault| fault.kind != FaultKind::DiskFull);
    let lasts = secs(hand.whole("full house lasts", 0, 61, 100));
    scenario.faults.push(Fault {
        name: "disk-full when it hurts".to_owned(),
        kind: FaultKind::DiskFull,
        when: When::At(from + secs(12)),
        lasts: (lasts, lasts),
        scope: Scope::default(),
        share: 1.0,
        flap: None,
        calls: None,
        retry_after: None,
        times: 10.0,
        by_millis: 0,
    });
    drawn
}

fn knobs(hand: &Hand) -> Knobs {
    let waits: [&[u64]; 4] = [&[30, 120, 300], &[1, 2, 4, 8], &[10], &[5, 60]];
    let advice = [
        r#"{"choice": 1}"#,
        r#"{"choice": 2}"#,
        r#"{"choice": 3, "amendment": "Try it another way."}"#,
        r#"{"choice": 99}"#,
        "run-again at once, whatever anybody says",
    ];
    Knobs {
        deliveries: *hand.one("deliveries", 0, &[1, 2, 3, 3, 3, 4]),
        waits: hand.one("waits", 0, &waits).to_vec(),
        jitter: *hand.one("jitter", 0, &[0.5, 0.5, 0.2, -0.1, 0.0]),
        lease: *hand.one("lease", 0, &[60, 300, 300]),
        park: if hand.chance("no patience", 0, 0.15) { 0 } else { *hand.one("park", 0, &[60, 450, 450, 1_200]) },
        concurrency: *hand.one("concurrency", 0, &[1, 2, 3, 8]),
        restarts: *hand.one("restarts", 0, &[1, 5, 5]),
        breaker: *hand.one("breaker", 0, &[2, 5, 5, 8]),
        open_for: *hand.one("open", 0, &[30, 60]),
        threshold: *hand.one("threshold", 0, &[2, 3, 3, 3, 5]),
        window: *hand.one("window", 0, &[600, 3_600, 3_600]),
        task_cap: hand.chance("task cap", 0, 0.2).then(|| hand.whole("task cap", 1, 60, 400) * 1_000),
        hour_cap: hand.chance("hour cap", 0, 0.25).then(|| hand.whole("hour cap", 1, 100, 600) * 1_000),
        adviser: hand.chance("adviser", 0, 0.4).then(|| (*hand.one("advice", 0, &advice)).to_owned()),
        fallbacks: hand.chance("fallbacks", 0, 0.75),
        tool_troubles: if hand.chance("tool troubles", 0, 0.6) {
            *hand.one("troubles", 0, &[0.05, 0.15, 0.3])
        } else {
            0.0
        },
        drains: hand.chance("drains", 0, 0.5),
    }
}

/// 20 to 50 tasks; now and then all of a kind, now and then all at once.
fn load(hand: &Hand, run: Duration) -> Vec<Load> {
    let mut load = Vec::new();
    let on: Vec<usize> = (0..WORK.len()).filter(|place| hand.chance("work", *place as u64, 0.6)).collect();
    let on = if on.is_empty() { vec![0, 5] } else { on };
    let total = hand.whole("tasks", 0, 20, 50);
    let each = total.div_ceil(on.len() as u64);
    for place in on {
        let (name, number) = (WORK[place].0, place as u64);
        let until = run.mul_f64(*hand.one("until", number, &[0.2, 0.5, 0.9]));
        let arrival = match hand.whole("arrival", number, 0, 2) {
            0 => Arrival::Burst { count: each, over: secs(hand.whole("over", number, 0, 60)) },
            1 => Arrival::Every(Duration::from_millis(
                u64::try_from(until.as_millis()).unwrap_or(u64::MAX).div_ceil(each).max(1),
            )),
            _ => Arrival::Total(each),
        };
        let addressed = match name {
            "order" => Some("teller"),
            "pay" => Some("ada"),
            _ => hand.chance("addressed", number, 0.5).then_some("bob").filter(|_| name != "pay"),
        };
        let priority = hand.chance("priority", number, 0.3).then(|| *hand.one("priority", number, Priority::ALL));
        load.push(Load {
            task_type: TaskType::new(name).expect("a constant name"),
            agent: addressed.map(|name| AgentName::new(name).expect("a constant name")),
            priority,
            payload: json!({"ticket": "{ticket}"}),
            arrival,
            from: Duration::ZERO,
            until,
        });
    }
    load
}

fn models(hand: &Hand, advice: Option<&str>) -> Vec<(String, ModelBehaviour)> {
    let fast = Latency::Between(Duration::from_millis(500), secs(*hand.one("latency", 0, &[5, 30, 90])));
    let share = |what: &str| if hand.chance(what, 0, 0.3) { *hand.one(what, 1, &[0.05, 0.2, 0.5]) / 2.0 } else { 0.0 };
    let usual = ModelBehaviour {
        latency: fast,
        output_tokens: (100, 1_200),
        schema_breaks: share("schema breaks"),
        loops: share("loops") / 2.0,
        refusals: share("refusals") / 2.0,
        cuts: share("cuts") / 2.0,
        answers: Vec::new(),
    };
    let sage = ModelBehaviour {
        latency: Latency::Between(secs(1), secs(*hand.one("advice takes", 0, &[3, 3, 40]))),
        output_tokens: (50, 100),
        answers: advice
            .map(|text| Said { prompt_has: None, prompt_lacks: None, calls: None, text: text.to_owned() })
            .into_iter()
            .collect(),
        ..ModelBehaviour::default()
    };
    // In the order of their names, in which a file keeps them.
    let mut models: Vec<(String, ModelBehaviour)> =
        PROVIDERS.iter().map(|name| (format!("{name}/*"), usual.clone())).collect();
    models.push(("wise/*".to_owned(), sage));
    models
}

fn faults(hand: &Hand, run: Duration, adviser: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    // How much is on in this seed at all.
    let share = *hand.one("weather", 0, &[0.08, 0.15, 0.3, 0.5]);
    for (place, kind) in FaultKind::ALL.iter().enumerate() {
        let place = place as u64;
        if !hand.chance("kind", place, share) || (*kind == FaultKind::AdviserDown && !adviser) {
            continue;
        }
        // A dead process is dead already: one death a seed, or two far apart.
        let times = if *kind == FaultKind::ProcessKill {
            hand.whole("deaths", 0, 1, 2)
        } else {
            hand.whole("times", place, 1, 2)
        };
        for time in 0..times {
            faults.push(fault(hand, *kind, place * 10 + time, (time, times), run));
        }
    }
    // Both ways to a person at once: the case in which only patience reaches one.
    let down = faults.iter().find(|fault| fault.kind == FaultKind::PagerDown).cloned();
    if let Some(down) = down.filter(|_| hand.chance("both ways", 0, 0.6)) {
        faults.retain(|fault| fault.kind != FaultKind::MailDown);
        faults.push(Fault { name: "mail-down with it".to_owned(), kind: FaultKind::MailDown, ..down });
    }
    faults
}

#[allow(clippy::wildcard_enum_match_arm, reason = "how long most faults last is no matter of their kind")]
fn fault(hand: &Hand, kind: FaultKind, number: u64, (time, times): (u64, u64), run: Duration) -> Fault {
    let part = run / u32::try_from(times).unwrap_or(1);
    let from = part * u32::try_from(time).unwrap_or(0) + part.mul_f64(0.6 * hand.0.roll("from", "fault", number));
    let from = Duration::from_millis(u64::try_from(from.as_millis()).unwrap_or(0));
    let whole = |what: &str, least, most| secs(hand.whole(what, number, least, most));
    let lasts = match kind {
        _ if kind.is_moment() => Duration::ZERO,
        FaultKind::ProcessKill => whole("dead", 1, 200),
        FaultKind::DiskFull => whole("full", 2, 400),
        FaultKind::PagerDown | FaultKind::MailDown => whole("down", 60, 10_000),
        FaultKind::AgentWedge => whole("wedged", 30, 1_500),
        FaultKind::AgentPanic => whole("panics", 5, 300),
        _ => whole("lasts", 10, 2_400),
    };
    let calls_only = kind.target() == Target::Calls;
    let provider = calls_only && kind != FaultKind::AdviserDown && hand.chance("one provider", number, 0.7);
    let agent = !calls_only && matches!(kind, FaultKind::AgentKill | FaultKind::AgentWedge);
    let brown = calls_only && hand.chance("brown-out", number, 0.4);
    let flaps = !kind.is_moment() && kind.target() == Target::Calls && hand.chance("flaps", number, 0.15);
    let sign = if hand.chance("back", number, 0.5) { -1 } else { 1 };
    Fault {
        name: format!("{kind} {number}"),
        kind,
        when: When::At(from),
        lasts: (lasts, lasts),
        scope: Scope {
            providers: provider
                .then(|| Integration::new(*hand.one("provider", number, &PROVIDERS)).expect("a constant name"))
                .into_iter()
                .collect(),
            agent: agent.then(|| AgentName::new(*hand.one("agent", number, &AGENTS)).expect("a constant name")),
            ..Scope::default()
        },
        share: if brown { *hand.one("share", number, &[0.2, 0.5, 0.8]) } else { 1.0 },
        flap: flaps.then(|| (whole("on", 5, 60), whole("off", 5, 60))),
        calls: (calls_only && hand.chance("calls", number, 0.15)).then(|| (1, hand.whole("calls", number, 1, 6))),
        retry_after: (kind == FaultKind::RateLimited && hand.chance("hint", number, 0.7))
            .then(|| secs(*hand.one("hint", number, &[2, 20, 60, 200, 290, 600]))),
        times: 10.0,
        by_millis: if kind == FaultKind::ClockJump {
            sign * i64::try_from(hand.whole("jump", number, 1, 7_200)).unwrap_or(1) * 1_000
        } else {
            0
        },
    }
}
