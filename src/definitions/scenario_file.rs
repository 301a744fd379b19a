//! A scenario file: read as strictly as a team's, every mistake at its line, then held against the team it is for.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::decode::{Keys, Notes, Table, Value, ours_only};
use super::files::{Files, Home};
use super::scenario_load::load;
use super::templates::{TEAMS, templates};
use super::tools::json;
use super::yaml::{self, Kind, Place, cut};
use super::{Env, Problems, Purpose, load_from};
use crate::assertion::{Assertion, Measure};
use crate::config::Config;
use crate::impossible::impossible;
use crate::scenario::{
    DRAIN, Fault, FaultKind, Figure, Human, HumanDecision, LONGEST_RUN, Latency, MOST_TASKS, ModelBehaviour, Published,
    START, Said, Scenario, Scope, TeamSource, When,
};
use crate::task::{AgentName, Integration, TaskType};
use crate::time::Timestamp;

/// A scenario file, in bytes.
const SCENARIO_LIMIT: u64 = 1024 * 1024;
/// The shortest span that is one.
pub(super) const SHORT: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A scenario and the team it is for, both sound.
#[derive(Clone, Debug)]
pub struct LoadedScenario {
    /// The scenario.
    pub scenario: Scenario,
    /// The configuration of its team, as if every key were there.
    pub config: Config,
}

/// Reads a scenario file and the team it names; `team`, when given, is used instead of the one it names.
///
/// # Errors
/// All mistakes of the file, those of the team's files, and what the two make impossible together.
pub fn scenario(path: &Path, team: Option<&TeamSource>) -> Result<LoadedScenario, Problems> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("scenario.yaml").to_owned();
    let loaded = read(&Files::new(Home::Directory(dir), &|_| None, Purpose::Bound), &name, Some(dir), team);
    loaded.map_err(|problems| {
        named(problems, &|file| if file == name { path.display().to_string() } else { file.to_owned() })
    })
}

/// The same problems, their files called otherwise.
fn named(mut problems: Problems, called: &dyn Fn(&str) -> String) -> Problems {
    for told in problems.errors.iter_mut().chain(&mut problems.warnings) {
        told.file = called(&told.file);
    }
    problems
}

/// A file of a directory, without the steps that lead nowhere.
fn below(dir: &Path, file: &str) -> String {
    let mut path = PathBuf::new();
    for step in dir.join(file).components() {
        match step {
            Component::CurDir => {}
            // Up from a link is not where it stands.
            Component::ParentDir if path.file_name().is_some() && !path.is_symlink() => drop(path.pop()),
            Component::ParentDir | Component::Normal(_) | Component::RootDir | Component::Prefix(_) => path.push(step),
        }
    }
    path.display().to_string()
}

/// Reads a scenario from a text, such as one that is shipped; a team it names is looked for among those that are shipped
/// with scenarios, `..` being the one beside them that every `backstop init` writes, then from where the program runs.
///
/// # Errors
/// As [`scenario`].
pub fn scenario_text(name: &str, text: &str, team: Option<&TeamSource>) -> Result<LoadedScenario, Problems> {
    let given = [(name, text)];
    read(&Files::new(Home::Given(&given), &|_| None, Purpose::Bound), name, None, team)
}

/// Reads a scenario from a text, for a team whose configuration is made in code.
///
/// # Errors
/// All mistakes of the text, and what it and the team make impossible together.
pub fn scenario_for(name: &str, text: &str, config: Config) -> Result<LoadedScenario, Problems> {
    let given = [(name, text)];
    let files = Files::new(Home::Given(&given), &|_| None, Purpose::Bound);
    let mut notes = Notes::default();
    let scenario = document(&files, name, &mut notes);
    match scenario.filter(|_| notes.errors.is_empty()) {
        Some((scenario, entries)) => together(scenario, &entries, config, name, notes),
        None => Err(problems(notes)),
    }
}

/// The team every `backstop init` begins with, as if every key were there.
///
/// # Errors
/// Never for what is shipped; the checks are those of every team.
pub fn shipped_team() -> Result<Config, Problems> {
    let none: Env<'_> = &|_| None;
    load_from(Home::Given(templates()), none, Purpose::Bound).map(|loaded| loaded.config)
}

/// `dir` is where the scenario's file is; a shipped one is in none, and its team is shipped with it.
fn team_of(source: &TeamSource, dir: Option<&Path>) -> Result<Config, Problems> {
    let none: Env<'_> = &|_| None;
    let shipped = |path: &str| match path {
        _ if dir.is_some() => None,
        ".." => Some(templates()),
        path => TEAMS.iter().find(|(team, _)| *team == path).map(|(_, files)| *files),
    };
    match source {
        TeamSource::Shipped => shipped_team(),
        TeamSource::Directory(path) => {
            let there = dir.unwrap_or(Path::new(".")).join(path);
            let home = shipped(path).map_or(Home::Directory(&there), Home::Given);
            let loaded = load_from(home, none, Purpose::Bound).map(|loaded| loaded.config);
            loaded.map_err(|problems| named(problems, &|file| below(&there, file)))
        }
    }
}

fn read(
    files: &Files<'_>,
    name: &str,
    dir: Option<&Path>,
    team: Option<&TeamSource>,
) -> Result<LoadedScenario, Problems> {
    let mut notes = Notes::default();
    let scenario = document(files, name, &mut notes);
    let Some((mut scenario, entries)) = scenario.filter(|_| notes.errors.is_empty()) else {
        return Err(problems(notes));
    };
    if let Some(team) = team {
        scenario.team = team.clone();
    }
    // A team given on the command line is relative to where the command is.
    let config = team_of(&scenario.team, if team.is_some() { Some(Path::new(".")) } else { dir })?;
    together(scenario, &entries, config, name, notes)
}

fn problems(notes: Notes<'_>) -> Problems {
    let mut errors = notes.errors;
    errors.sort();
    errors.dedup();
    Problems { errors, warnings: notes.warnings }
}

/// A scenario held against its team.
fn together(
    scenario: Scenario,
    entries: &[usize],
    config: Config,
    name: &str,
    mut notes: Notes<'_>,
) -> Result<LoadedScenario, Problems> {
    for flaw in impossible(&scenario, &config) {
        let path = written(flaw.path, entries);
        let place = notes.place_of(&path).cloned().unwrap_or_else(|| Place::file(name));
        notes.error(&place, &path, flaw.message, flaw.remedy);
    }
    if notes.errors.is_empty() { Ok(LoadedScenario { scenario, config }) } else { Err(problems(notes)) }
}

/// The path of a load as it is written: one that was recorded is several, and moves those below it.
fn written(path: String, entries: &[usize]) -> String {
    let Some(load) = path.strip_prefix("load.") else { return path };
    let (place, key) = load.split_once('.').map_or((load, None), |(place, key)| (place, Some(key)));
    match (place.parse::<usize>().ok().and_then(|place| entries.get(place)), key) {
        (Some(entry), Some(key)) => format!("load.{entry}.{key}"),
        (Some(entry), None) => format!("load.{entry}"),
        (None, _) => path,
    }
}

/// The scenario, and for each of its loads the entry of the file that it comes from.
fn document(files: &Files<'_>, name: &str, notes: &mut Notes<'_>) -> Option<(Scenario, Vec<usize>)> {
    let text = files.read(name, SCENARIO_LIMIT, notes)?;
    let node = match yaml::parse(name, &text, 0) {
        Ok(node) => node,
        Err(broken) => {
            notes.broken(broken);
            return None;
        }
    };
    let root = Value::root(node, "", Keys::Kebab, notes);
    let mut table = root.table(notes)?;
    let stem = name.rsplit('/').next().and_then(|file| file.strip_suffix(".yaml")).unwrap_or(name);
    let titled = table.take("name", notes).and_then(|value| value.text(notes)).unwrap_or_else(|| stem.to_owned());
    let about = table.take("about", notes).and_then(|value| value.text(notes)).unwrap_or_default();
    let team = match table.take("team", notes).and_then(|value| value.text(notes)) {
        None => TeamSource::Shipped,
        Some(word) if word == "shipped" => TeamSource::Shipped,
        Some(path) => TeamSource::Directory(path),
    };
    let start = table.take("start", notes).and_then(|value| {
        value.parsed::<Moment>("write a time such as 2026-02-01T09:00:00Z", notes).map(|moment| moment.0)
    });
    let remedy = "write how long work comes and faults strike: `run: 1h`";
    let run = table.must("run", remedy, notes).and_then(|value| value.duration(SHORT..=LONGEST_RUN, notes));
    let drain = table.take("drain", notes).and_then(|value| value.duration(Duration::ZERO..=DAY * 60, notes));
    // What was refused is told already; the rest is read against the longest run.
    let until = run.unwrap_or(LONGEST_RUN);
    let regions = match table.take("regions", notes) {
        Some(value) => regions(&value, notes),
        None => BTreeMap::new(),
    };
    let items = |table: &mut Table, key: &str, notes: &mut Notes<'_>| {
        table.take(key, notes).map(|value| value.list(notes)).unwrap_or_default()
    };
    let (mut loads, mut entries) = (Vec::new(), Vec::new());
    let remedy = "write what is asked: `load: [{ type: code_review, per-day: 40 }]`";
    let listed = table.must("load", remedy, notes).map(|value| value.some(remedy, notes)).unwrap_or_default();
    for (number, item) in listed.iter().enumerate() {
        loads.extend(load(item, until, files, notes));
        entries.resize(loads.len(), number);
    }
    let mut models = Vec::new();
    if let Some(value) = table.take("models", notes) {
        for (pattern, value) in value.named::<ModelPattern>("a model, or a pattern of models,", notes) {
            models.extend(model(&value, notes).map(|behaviour| (pattern.0, behaviour)));
        }
    }
    let mut faults = Vec::new();
    for (number, item) in items(&mut table, "faults", notes).iter().enumerate() {
        faults.extend(fault(item, number, until, &regions, notes));
    }
    let human = table.take("human", notes).and_then(|value| human(&value, notes));
    let mut assertions = Vec::new();
    for item in items(&mut table, "assert", notes) {
        assertions.extend(item.parsed::<Assertion>("write a measure, a comparison and a value: `lost == 0`", notes));
    }
    let published = table.take("published", notes).and_then(|value| published(&value, notes));
    table.finish(&ours_only, notes);
    let scenario = Scenario {
        name: titled,
        about,
        team,
        start: start.unwrap_or(START),
        run: run?,
        drain: drain.unwrap_or(DRAIN),
        load: loads,
        models,
        regions,
        faults,
        human,
        assertions,
        published,
    };
    Some((scenario, entries))
}

fn published(value: &Value, notes: &mut Notes<'_>) -> Option<Published> {
    let mut table = value.table(notes)?;
    let source = table.must("source", "write where it was published", notes).and_then(|value| value.text(notes));
    let remedy = "write what was published: `figures: [{ name: tasks, theirs: \"24,500\", measure: submitted }]`";
    let mut figures = Vec::new();
    let listed = table.must("figures", remedy, notes);
    for item in listed.as_ref().map(|value| value.list(notes)).unwrap_or_default() {
        let Some(mut table) = item.table(notes) else { continue };
        let name = table.must("name", "write what it is called there", notes).and_then(|value| value.text(notes));
        let theirs = table.must("theirs", "write their value as they do", notes).and_then(|value| value.text(notes));
        let words: Vec<&str> = Measure::ALL.iter().map(|measure| measure.as_str()).collect();
        let remedy = "write what of ours stands beside it: `measure: submitted`";
        let measure = table.must("measure", remedy, notes).and_then(|value| value.word::<Measure>(&words, notes));
        let note = table.take("note", notes).and_then(|value| value.text(notes)).unwrap_or_default();
        table.finish(&ours_only, notes);
        if let (Some(name), Some(theirs), Some(measure)) = (name, theirs, measure) {
            figures.push(Figure { name, theirs, measure, note });
        }
    }
    table.finish(&ours_only, notes);
    Some(Published { source: source?, figures })
}

fn regions(value: &Value, notes: &mut Notes<'_>) -> BTreeMap<String, Vec<Integration>> {
    let mut regions = BTreeMap::new();
    for (name, value) in value.named::<Integration>("a region", notes) {
        let remedy = "name a provider of the team";
        let members = value.some(remedy, notes);
        let members = members.iter().filter_map(|item| item.parsed::<Integration>(remedy, notes)).collect();
        regions.insert(name.to_string(), members);
    }
    regions
}

fn model(value: &Value, notes: &mut Notes<'_>) -> Option<ModelBehaviour> {
    let usual = ModelBehaviour::default();
    let mut table = value.table(notes)?;
    let latency = table.take("latency", notes).and_then(|value| latency(&value, notes)).unwrap_or(usual.latency);
    let output_tokens = match table.take("output-tokens", notes) {
        Some(value) => {
            range(&value, notes, &|item, notes| item.whole(1..=1_000_000, notes)).unwrap_or(usual.output_tokens)
        }
        None => usual.output_tokens,
    };
    let mut share = |key: &str, notes: &mut Notes<'_>| {
        table.take(key, notes).and_then(|value| self::share(&value, notes)).unwrap_or(0.0)
    };
    let (schema_breaks, loops) = (share("schema-breaks", notes), share("loops", notes));
    let (refusals, cuts) = (share("refusals", notes), share("cuts", notes));
    let mut answers = Vec::new();
    for item in table.take("answers", notes).map(|value| value.list(notes)).unwrap_or_default() {
        let Some(mut table) = item.table(notes) else { continue };
        let prompt_has = table.take("prompt-has", notes).and_then(|value| value.text(notes));
        let prompt_lacks = table.take("prompt-lacks", notes).and_then(|value| value.text(notes));
        let calls = table.take("calls", notes).and_then(|value| self::calls(&value, notes));
        let remedy = "write what it says: `text: \"…\"`, or `json: { … }`";
        let text = match table.take("json", notes) {
            Some(value) => Some(json(&value.node).to_string()),
            None => table.must("text", remedy, notes).and_then(|value| value.text(notes)),
        };
        table.finish(&ours_only, notes);
        answers.extend(text.map(|text| Said { prompt_has, prompt_lacks, calls, text }));
    }
    table.finish(&ours_only, notes);
    let wrong = schema_breaks + loops + refusals + cuts;
    if wrong > 1.0 {
        value.error(notes, format!("the shares come to {:.0} %", wrong * 100.0), "let them come to 100 % at most");
    }
    Some(ModelBehaviour { latency, output_tokens, schema_breaks, loops, refusals, cuts, answers })
}

fn latency(value: &Value, notes: &mut Notes<'_>) -> Option<Latency> {
    if !matches!(value.node.kind, Kind::Map(_)) {
        let (least, most) = range(value, notes, &|item, notes| item.duration(Duration::ZERO..=DAY, notes))?;
        return Some(Latency::Between(least, most));
    }
    let mut table = value.table(notes)?;
    let mut must = |key: &str, remedy: &str, notes: &mut Notes<'_>| {
        table.must(key, remedy, notes).and_then(|value| value.duration(SHORT..=DAY, notes))
    };
    let median = must("median", "write the middle one: `median: 40s`", notes);
    let p99 = must("p99", "write the 99th of 100: `p99: 4m`", notes);
    table.finish(&ours_only, notes);
    let (median, p99) = (median?, p99?);
    if p99 < median {
        value.error(notes, "`p99` is below `median`", "write a longer `p99`");
        return None;
    }
    Some(Latency::LogNormal { median, p99 })
}

/// One value, or a list of two: the least and the most.
fn range<T: Copy + PartialOrd>(
    value: &Value,
    notes: &mut Notes<'_>,
    one: &dyn Fn(&Value, &mut Notes<'_>) -> Option<T>,
) -> Option<(T, T)> {
    if !matches!(value.node.kind, Kind::List(_)) {
        return one(value, notes).map(|only| (only, only));
    }
    let items = value.list(notes);
    let read: Vec<Option<T>> = items.iter().map(|item| one(item, notes)).collect();
    match read.as_slice() {
        [Some(least), Some(most)] if least <= most => Some((*least, *most)),
        [Some(_), Some(_)] => {
            value.error(notes, "the first is more than the second", "write the least first: `[30s, 90s]`");
            None
        }
        [None, _] | [_, None] => None,
        _ => {
            value.error(notes, format!("{} values are listed", read.len()), "write one value, or `[least, most]`");
            None
        }
    }
}

/// Which calls: the n-th, or the n-th to the m-th.
fn calls(value: &Value, notes: &mut Notes<'_>) -> Option<(u64, u64)> {
    range(value, notes, &|item, notes| item.whole(1..=MOST_TASKS, notes))
}

/// A share in percent (`30%`), or of one (`0.3`).
fn share(value: &Value, notes: &mut Notes<'_>) -> Option<f64> {
    let Kind::Scalar { text, .. } = &value.node.kind else {
        value.error(notes, format!("expected a share, found {}", value.node.describe()), "write it in percent: `30%`");
        return None;
    };
    let read = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse::<f64>().ok(),
    };
    match read.filter(|share| (0.0..=1.0).contains(share)) {
        Some(share) => Some(share),
        None => {
            value.error(notes, format!("`{}` is no share", cut(text)), "write 0% to 100%");
            None
        }
    }
}

fn fault(
    value: &Value,
    number: usize,
    run: Duration,
    regions: &BTreeMap<String, Vec<Integration>>,
    notes: &mut Notes<'_>,
) -> Option<Fault> {
    let mut table = value.table(notes)?;
    let words: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let remedy = "write what breaks: `fault: overloaded`";
    let kind = table.must("fault", remedy, notes).and_then(|value| value.word::<FaultKind>(&words, notes));
    let name = table.take("name", notes).and_then(|value| value.text(notes));
    let range_of = Duration::ZERO..=LONGEST_RUN;
    let at = table.take("at", notes).map(|value| value.duration(range_of.clone(), notes));
    let every = table.take("every", notes).map(|value| value.duration(Duration::from_secs(1)..=LONGEST_RUN, notes));
    let lasts = table.take("for", notes);
    let lasts_said = lasts.as_ref().map(|value| (value.place().clone(), value.field().to_owned()));
    let lasts = lasts.map(|value| range(&value, notes, &|item, notes| item.duration(SHORT..=LONGEST_RUN, notes)));
    let said: Vec<&str> = FaultKind::LIMITS.iter().copied().filter(|key| table.says(key)).collect();
    let scope = scope(&mut table, regions, notes);
    let share = table.take("share", notes).and_then(|value| self::share(&value, notes)).unwrap_or(1.0);
    let flap = table.take("flap", notes).and_then(|value| flap(&value, notes));
    let calls = table.take("calls", notes).and_then(|value| self::calls(&value, notes));
    let retry_after = table.take("retry-after", notes);
    let hint = retry_after.as_ref().and_then(|value| value.duration(Duration::ZERO..=DAY, notes));
    let times = table.take("times", notes);
    let slower = times.as_ref().and_then(|value| value.number(1.0..=10_000.0, notes)).unwrap_or(10.0);
    let by = table.take("by", notes);
    let by_millis = by.as_ref().and_then(|value| value.parsed::<Jump>("write `+2h` or `-2h`", notes));
    table.finish(&ours_only, notes);
    let kind = kind?;

    let mut only_with = |said: Option<&Value>, wanted: FaultKind, key: &str| {
        if let Some(value) = said
            && kind != wanted
        {
            value.error(notes, format!("`{key}` goes with `fault: {wanted}`"), "remove it");
        }
    };
    only_with(retry_after.as_ref(), FaultKind::RateLimited, "retry-after");
    only_with(times.as_ref(), FaultKind::SlowStream, "times");
    only_with(by.as_ref(), FaultKind::ClockJump, "by");
    for key in said.iter().filter(|key| !kind.heeds(key)) {
        let path = format!("{}.{key}", value.path);
        let place = notes.place_of(&path).unwrap_or(value.place()).clone();
        let field = format!("{}.{key}", value.field());
        notes.error(&place, &field, format!("`{key}` means nothing to {kind}"), "remove it");
    }
    let place = value.place();
    if kind == FaultKind::ClockJump && by.is_none() {
        notes.error(place, value.field(), "nothing says how far the clock jumps", "write `by: +2h` or `by: -2h`");
    }
    if matches!(kind, FaultKind::AgentKill | FaultKind::AgentWedge) && scope.agent.is_none() {
        notes.error(place, value.field(), format!("{kind} strikes one agent"), "write which: `agent: devops`");
    }
    let when = match (at, every) {
        (Some(at), None) => at.map(When::At),
        (None, Some(every)) => every.map(When::Recurring),
        (Some(_), Some(_)) => {
            notes.error(place, value.field(), "`at` and `every` are both written", "keep one of them");
            None
        }
        (None, None) => Some(When::At(Duration::ZERO)),
    };
    let lasts = match (lasts, kind.is_moment(), lasts_said) {
        (Some(_), true, Some((place, field))) => {
            notes.error(&place, &field, format!("{kind} strikes at a moment"), "remove it");
            None
        }
        (Some(lasts), _, _) => lasts,
        (None, true, _) => Some((Duration::ZERO, Duration::ZERO)),
        // Said nothing, it lasts until the end.
        (None, false, _) if !matches!(when, Some(When::Recurring(_))) => {
            let from = if let Some(When::At(at)) = when { at } else { Duration::ZERO };
            let rest = run.saturating_sub(from);
            Some((rest, rest))
        }
        (None, false, _) => {
            notes.error(
                place,
                value.field(),
                "nothing says how long it lasts",
                "write `for: 90s`, or `for: [30s, 90s]`",
            );
            None
        }
    };
    Some(Fault {
        name: name.unwrap_or_else(|| format!("{kind} {}", number + 1)),
        kind,
        when: when?,
        lasts: lasts?,
        scope,
        share,
        flap,
        calls,
        retry_after: hint,
        times: slower,
        by_millis: by_millis.map_or(0, |jump| jump.0),
    })
}

fn scope(table: &mut Table, regions: &BTreeMap<String, Vec<Integration>>, notes: &mut Notes<'_>) -> Scope {
    let mut providers = Vec::new();
    if let Some(value) = table.take("provider", notes) {
        let remedy = "name a provider of the team";
        for item in value.some(remedy, notes) {
            providers.extend(item.parsed::<Integration>(remedy, notes));
        }
    }
    if let Some(value) = table.take("region", notes)
        && let Some(name) = value.text(notes)
    {
        match regions.get(&name) {
            Some(members) => providers.extend(members.iter().cloned()),
            None => {
                let remedy = "name it under `regions`, with the providers that are in it";
                value.error(notes, format!("there is no region `{}`", cut(&name)), remedy);
            }
        }
    }
    let mut text = |key: &str, notes: &mut Notes<'_>| table.take(key, notes).and_then(|value| value.text(notes));
    let (model, has, lacks) = (text("model", notes), text("prompt-has", notes), text("prompt-lacks", notes));
    Scope {
        providers,
        model,
        agent: table.take("agent", notes).and_then(|v| v.parsed::<AgentName>("name an agent", notes)),
        task_type: table.take("type", notes).and_then(|v| v.parsed::<TaskType>("name a task type", notes)),
        prompt_has: has,
        prompt_lacks: lacks,
    }
}

fn flap(value: &Value, notes: &mut Notes<'_>) -> Option<(Duration, Duration)> {
    let mut table = value.table(notes)?;
    let mut must = |key: &str, notes: &mut Notes<'_>| {
        let remedy = "write both: `flap: { on: 30s, off: 30s }`";
        table.must(key, remedy, notes).and_then(|value| value.duration(SHORT..=DAY, notes))
    };
    let (on, off) = (must("on", notes), must("off", notes));
    table.finish(&ours_only, notes);
    on.zip(off)
}

fn human(value: &Value, notes: &mut Notes<'_>) -> Option<Human> {
    let mut table = value.table(notes)?;
    let mut span = |key: &str, notes: &mut Notes<'_>| {
        table.take(key, notes).and_then(|value| value.duration(Duration::ZERO..=DAY * 30, notes))
    };
    let (acknowledges_after, decides_after) = (span("acknowledges-after", notes), span("decides-after", notes));
    let words: Vec<&str> = HumanDecision::ALL.iter().map(|decision| decision.as_str()).collect();
    let decision = table.take("decision", notes).and_then(|value| value.word::<HumanDecision>(&words, notes));
    let happened = table.take("happened", notes).and_then(|value| value.flag(notes));
    table.finish(&ours_only, notes);
    Some(Human {
        acknowledges_after,
        decides_after,
        decision: decision.unwrap_or(HumanDecision::RunAgain),
        happened: happened.unwrap_or(false),
    })
}

struct Moment(Timestamp);

impl FromStr for Moment {
    type Err = crate::time::TimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Timestamp::parse(text).map(Self)
    }
}

/// A name of a model or a pattern that stands for several: `anthropic/*`.
struct ModelPattern(String);

impl FromStr for ModelPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let odd = text.is_empty() || text.len() > 128 || text.chars().any(|c| c.is_whitespace() || c.is_control());
        if odd { Err(format!("`{}` is no pattern of models", cut(text))) } else { Ok(Self(text.to_owned())) }
    }
}

/// A span with its sign, in milliseconds.
struct Jump(i64);

impl FromStr for Jump {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no jump", cut(text));
        let (sign, span) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(span), _) => (1, span),
            (None, Some(span)) => (-1, span),
            (None, None) => return Err(wrong()),
        };
        let span = crate::time::parse_duration(span).map_err(|_| wrong())?;
        i64::try_from(span.as_millis())
            .ok()
            .filter(|millis| *millis > 0)
            .map(|millis| Self(sign * millis))
            .ok_or_else(wrong)
    }
}
