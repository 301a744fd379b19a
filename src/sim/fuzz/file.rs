//! A drawn seed as a file: its knobs, and its scenario in the words of every scenario file, read as strictly.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::team::{self, Knobs};
use super::{Drawn, Violation};
use crate::definitions::{self, Problems};
use crate::scenario::{Arrival, Fault, FaultKind, Latency, Load, ModelBehaviour, Scenario, When};
use crate::time::format_duration;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Kept {
    /// What it broke when it was found, for people.
    about: String,
    seed: u64,
    knobs: Knobs,
    scenario: Value,
}

/// Why a kept seed cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file.
    #[error("{path} could not be used")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no kept seed.
    #[error("{path} is no kept seed")]
    NotKept {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its scenario is not sound.
    #[error("the scenario of {path}: {}", problems.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Scenario {
        /// Of which file.
        path: String,
        /// What is wrong.
        problems: Problems,
    },
}

/// The text of a file that keeps this seed. JSON, which is YAML.
#[must_use]
pub fn text(drawn: &Drawn, broke: &Violation) -> String {
    let kept = Kept {
        about: broke.to_string().lines().next().unwrap_or_default().to_owned(),
        seed: drawn.seed,
        knobs: drawn.knobs.clone(),
        scenario: scenario(&drawn.scenario),
    };
    let mut text = serde_json::to_string_pretty(&kept).expect("knobs and scenarios are JSON");
    text.push('\n');
    text
}

/// Keeps a seed in a directory, as `<invariant>-<seed>.yaml`; where.
///
/// # Errors
/// When the file cannot be written.
pub fn keep(dir: &Path, drawn: &Drawn, broke: &Violation) -> Result<String, Error> {
    let path = dir.join(format!("{}-{}.yaml", broke.id, drawn.seed));
    let shown = path.display().to_string();
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text(drawn, broke)));
    written.map(|()| shown.clone()).map_err(|source| Error::File { path: shown, source })
}

/// Reads a kept seed.
///
/// # Errors
/// When it is none.
pub fn read(path: &Path) -> Result<Drawn, Error> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: shown.clone(), source })?;
    parse(&shown, &text)
}

/// Reads the text of a kept seed.
///
/// # Errors
/// When it is none.
pub fn parse(path: &str, text: &str) -> Result<Drawn, Error> {
    let not_kept = |source| Error::NotKept { path: path.to_owned(), source };
    let kept: Kept = serde_json::from_str(text).map_err(not_kept)?;
    let config = team::config(&kept.knobs).expect("the drawn team has constant names");
    let scenario = definitions::scenario_for("scenario.yaml", &kept.scenario.to_string(), config);
    let scenario = scenario.map_err(|problems| Error::Scenario { path: path.to_owned(), problems })?.scenario;
    Ok(Drawn { seed: kept.seed, knobs: kept.knobs, scenario })
}

/// A scenario in the words of its file.
#[must_use]
pub fn scenario(scenario: &Scenario) -> Value {
    let mut value = json!({
        "name": scenario.name,
        "about": scenario.about,
        "start": scenario.start.to_string(),
        "run": format_duration(scenario.run),
        "drain": format_duration(scenario.drain),
        "load": scenario.load.iter().map(load).collect::<Vec<_>>(),
        "models": scenario.models.iter().map(|(name, said)| (name.clone(), model(said))).collect::<Map<_, _>>(),
        "faults": scenario.faults.iter().map(fault).collect::<Vec<_>>(),
    });
    if let Some(human) = &scenario.human {
        let mut said = json!({ "decision": human.decision, "happened": human.happened });
        set(&mut said, "acknowledges-after", human.acknowledges_after);
        set(&mut said, "decides-after", human.decides_after);
        value["human"] = said;
    }
    if !scenario.assertions.is_empty() {
        value["assert"] = scenario.assertions.iter().map(|held| Value::from(held.to_string())).collect();
    }
    value
}

fn set(value: &mut Value, key: &str, span: Option<Duration>) {
    if let Some(span) = span {
        value[key] = format_duration(span).into();
    }
}

fn load(load: &Load) -> Value {
    let mut value = json!({ "type": load.task_type, "payload": load.payload });
    if let Some(agent) = &load.agent {
        value["agent"] = json!(agent);
    }
    if let Some(priority) = &load.priority {
        value["priority"] = json!(priority);
    }
    match &load.arrival {
        Arrival::Every(gap) => set(&mut value, "every", Some(*gap)),
        Arrival::PerDay(rate) => value["per-day"] = json!(rate),
        Arrival::Total(count) => value["total"] = json!(count),
        Arrival::Burst { count, over } => {
            value["burst"] = json!(count);
            set(&mut value, "over", Some(*over));
        }
        Arrival::At(moments) => value["at"] = moments.iter().map(|at| Value::from(format_duration(*at))).collect(),
    }
    set(&mut value, "from", Some(load.from));
    set(&mut value, "until", Some(load.until));
    value
}

fn model(said: &ModelBehaviour) -> Value {
    let latency = match said.latency {
        Latency::Between(least, most) => json!([format_duration(least), format_duration(most)]),
        Latency::LogNormal { median, p99 } => {
            json!({ "median": format_duration(median), "p99": format_duration(p99) })
        }
    };
    let answer = |said: &crate::scenario::Said| {
        let mut value = json!({ "text": said.text });
        for (key, words) in [("prompt-has", &said.prompt_has), ("prompt-lacks", &said.prompt_lacks)] {
            if let Some(words) = words {
                value[key] = json!(words);
            }
        }
        if let Some((first, last)) = said.calls {
            value["calls"] = json!([first, last]);
        }
        value
    };
    json!({
        "latency": latency,
        "output-tokens": [said.output_tokens.0, said.output_tokens.1],
        "schema-breaks": said.schema_breaks,
        "loops": said.loops,
        "refusals": said.refusals,
        "cuts": said.cuts,
        "answers": said.answers.iter().map(answer).collect::<Vec<_>>(),
    })
}

fn fault(fault: &Fault) -> Value {
    let mut value = json!({ "name": fault.name, "fault": fault.kind });
    match fault.when {
        When::At(at) => set(&mut value, "at", Some(at)),
        When::Recurring(mean) => set(&mut value, "every", Some(mean)),
    }
    if !fault.kind.is_moment() {
        value["for"] = json!([format_duration(fault.lasts.0), format_duration(fault.lasts.1)]);
    }
    if !fault.scope.providers.is_empty() {
        value["provider"] = json!(fault.scope.providers);
    }
    let scope = &fault.scope;
    let words = [("model", &scope.model), ("prompt-has", &scope.prompt_has), ("prompt-lacks", &scope.prompt_lacks)];
    for (key, word) in words {
        if let Some(word) = word {
            value[key] = json!(word);
        }
    }
    if let Some(agent) = &scope.agent {
        value["agent"] = json!(agent);
    }
    if let Some(task_type) = &scope.task_type {
        value["type"] = json!(task_type);
    }
    if fault.share < 1.0 {
        value["share"] = json!(fault.share);
    }
    if let Some((on, off)) = fault.flap {
        value["flap"] = json!({ "on": format_duration(on), "off": format_duration(off) });
    }
    if let Some((first, last)) = fault.calls {
        value["calls"] = json!([first, last]);
    }
    set(&mut value, "retry-after", fault.retry_after);
    if fault.kind == FaultKind::SlowStream {
        value["times"] = json!(fault.times);
    }
    if fault.kind == FaultKind::ClockJump {
        let sign = if fault.by_millis < 0 { '-' } else { '+' };
        value["by"] =
            format!("{sign}{}", format_duration(Duration::from_millis(fault.by_millis.unsigned_abs()))).into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::fuzz::draw;

    #[test]
    fn what_is_kept_reads_back() {
        let broke = Violation::of_run("I-01", "a task is lost", "T-00001".to_owned());
        for seed in 0..200 {
            let drawn = draw(seed);
            let back = parse("seed", &text(&drawn, &broke)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(back, drawn, "seed {seed}");
        }
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        for (text, expected) in [("{}", "is no kept seed"), ("load: []", "is no kept seed")] {
            let said = parse("seed", text).expect_err("refused").to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
