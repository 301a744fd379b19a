//! An agent that dies too often is left down, and nobody else with it.

use std::time::Duration;

use backstop::health::{Ending, Intensity, Restart, RestartOrder, Strategy, stop_order};
use backstop::time::Timestamp;
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
    cfg: Cfg,
    /// When it died, in ms.
    deaths: Option<Vec<i64>>,
    /// At which death the supervisor gives up; -1: never.
    give_up: Option<i64>,
    /// How it ended, when.
    events: Option<Vec<(i64, String)>>,
    /// At what time the supervisor gives up; -1: never.
    give_up_at: Option<i64>,
    order: Option<Order>,
    /// The wall clock is no argument of anything here: time only comes in as the deaths' own.
    wall_jump_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cfg {
    intensity: u32,
    period: u64,
    restart: Option<String>,
    strategy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Who died; absent: the supervisor gives up, all stop and none starts.
    dies: Option<u32>,
    children: Vec<u32>,
    stops: Vec<u32>,
    #[serde(default)]
    starts: Vec<u32>,
    counted: Option<u32>,
}

impl Cfg {
    fn intensity(&self) -> Intensity {
        Intensity::new(self.intensity, Duration::from_millis(self.period))
    }
}

/// The table's words for endings; panics for those it does not know.
fn ending(word: &str) -> Ending {
    match word {
        "kill" => Ending::Killed,
        "error" | "crash" => Ending::Panic,
        "failed_start" | "start_failed" => Ending::FailedStart,
        known => known.parse().expect("a known ending"),
    }
}

fn gives_up(cfg: &Cfg, deaths: &[i64]) -> Option<usize> {
    let mut intensity = cfg.intensity();
    deaths.iter().position(|at| intensity.death(Timestamp::from_millis(*at)))
}

fn run(case: &Case) {
    let mut checked = 0;
    if let Some(deaths) = &case.deaths {
        let expected = usize::try_from(case.give_up.expect("`deaths` comes with `give_up`")).ok();
        assert_eq!(gives_up(&case.cfg, deaths), expected, "{}", case.id);
        checked += 1;
    }
    if let Some(events) = &case.events {
        let restart: Restart = case.cfg.restart.as_deref().unwrap_or("permanent").parse().expect("a known restart");
        let deaths: Vec<i64> =
            events.iter().filter(|(_, how)| restart.is_death(ending(how))).map(|(at, _)| *at).collect();
        let given_up_at = gives_up(&case.cfg, &deaths).map_or(-1, |index| deaths[index]);
        assert_eq!(Some(given_up_at), case.give_up_at, "{}", case.id);
        checked += 1;
    }
    if let Some(order) = &case.order {
        let strategy: Strategy = case.cfg.strategy.as_deref().unwrap_or("one_for_one").parse().expect("a strategy");
        let found = match &order.dies {
            Some(dead) => strategy.order(&order.children, dead),
            None => RestartOrder { stops: stop_order(&order.children), starts: Vec::new() },
        };
        assert_eq!((&found.stops, &found.starts), (&order.stops, &order.starts), "{}", case.id);
        if let Some(counted) = order.counted {
            // One call of `death` is one restart: with an intensity of `counted - 1` it is the first that is too much.
            let mut intensity = Intensity::new(counted - 1, Duration::from_secs(1));
            assert!(intensity.death(Timestamp::from_millis(0)), "{}: one death counts once", case.id);
        }
        checked += 1;
    }
    assert!(checked > 0, "{} says nothing", case.id);
    let _ = case.wall_jump_ms;
}

const CASES: &str = include_str!("conformance/restart_intensity.toml");

#[test]
fn restart_intensity_follows_its_table() {
    let table: Table = toml::from_str(CASES).expect("a known table");
    let mut roll = Roll::of("restart_intensity", CASES);
    for case in &table.case {
        run(case);
        roll.held(&case.id);
    }
    roll.complete();
}
