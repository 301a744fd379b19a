//! An agent that dies too often is left down, and nobody else with it.

use std::collections::BTreeSet;
use std::time::Duration;

use backstop::health::{AfterDeath, Health, RestartPolicy};
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
#[allow(dead_code, reason = "titles and sources are for readers of the table, and some cases are not played")]
struct Case {
    id: String,
    title: String,
    source: String,
    cfg: Cfg,
    /// When it died, in ms.
    deaths: Option<Vec<i64>>,
    /// At which death the supervisor gives up; -1: never.
    give_up: Option<i64>,
    /// How it ended, when; and at what time the supervisor gives up.
    events: Option<toml::Value>,
    give_up_at: Option<i64>,
    /// Who stops and starts with whom.
    order: Option<toml::Value>,
    /// The wall clock is no argument of anything here: time only comes in as the deaths' own.
    wall_jump_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "there is one way to restart, and one order")]
struct Cfg {
    intensity: u32,
    period: u64,
    restart: Option<String>,
    strategy: Option<String>,
}

/// Met otherwise than the table says.
const OTHERWISE: &[(&str, &str)] = &[
    (
        "RI-02",
        "deaths in a row count until ten healthy minutes, for waits that double outlast any short window; the second gives up",
    ),
    ("RI-07", "deaths in a row count until ten healthy minutes; the fourth gives up, a minute after the third"),
];

const NOT_PLAYED: &[(&str, &str)] = &[
    ("RI-08", "an agent ends without dying only when the team stops, and is not started again then"),
    ("RI-10", "there is no rest_for_one: each part of a team, and each agent, is restarted alone"),
    ("RI-11", "there is no one_for_all: each part of a team, and each agent, is restarted alone"),
];

/// At which of these deaths it is left down. A start that fails is a death that no start came before.
fn left_down_at(cfg: &Cfg, deaths: &[i64], starts: bool) -> Option<usize> {
    let within = Duration::from_millis(cfg.period);
    let mut health = Health::new(RestartPolicy { max: cfg.intensity, within, ..RestartPolicy::default() });
    deaths.iter().position(|at| {
        let now = Timestamp::from_millis(*at);
        if starts {
            health.started(now);
        }
        matches!(health.died(now, &BTreeSet::new(), 0.0), AfterDeath::CrashLoop { .. })
    })
}

fn play(case: &Case) -> Result<(), String> {
    let deaths = case.deaths.as_ref().expect("deaths");
    let expected = usize::try_from(case.give_up.expect("`deaths` comes with `give_up`")).ok();
    for starts in [true, false] {
        let found = left_down_at(&case.cfg, deaths, starts);
        if found != expected {
            return Err(format!("left down at {found:?}, expected {expected:?}; it was started between: {starts}"));
        }
    }
    Ok(())
}

const CASES: &str = include_str!("conformance/restart_intensity.toml");

#[test]
fn restart_intensity_follows_its_table() {
    let table: Table = toml::from_str(CASES).expect("a known table");
    let mut roll = Roll::of("restart_intensity", CASES).but(OTHERWISE);
    for case in &table.case {
        match NOT_PLAYED.iter().find(|(id, _)| *id == case.id) {
            Some((id, why)) => roll.not_played(id, why),
            None => roll.played(&case.id, play(case)),
        }
    }
    roll.complete();
}
