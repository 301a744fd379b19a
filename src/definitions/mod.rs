//! The files an operator writes: `backstop.yaml`, `agents/`, `prompts/`, `schemas/`; read once, refused with every mistake at once.
//!
//! Values come from, each above the one before: the built-in defaults, `/etc/backstop/backstop.yaml`,
//! `$XDG_CONFIG_HOME/backstop/backstop.yaml` (or `~/.config/…`), `./backstop.yaml`, and `BACKSTOP_*` variables with `__`
//! between levels (`BACKSTOP_API__LISTEN` is `api.listen`); flags are laid over the result by who has them. Secrets are
//! never in a file: `${NAME}`, or a path under `<key>-file`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::agent::Agent;
use crate::check::check;
use crate::config::Config;
use crate::task::Integration;

use decode::{Keys, Notes, Value};
use files::{Files, Home};
use team_file::TeamWide;
use yaml::{Kind, Node, Place};

mod decode;
mod documents;
mod files;
mod people;
mod policies;
mod providers;
mod scenario_file;
mod scenario_load;
mod secrets;
mod team_file;
mod templates;
mod tools;
mod yaml;

pub use scenario_file::{LoadedScenario, scenario, scenario_for, scenario_text, shipped_team};
pub use templates::templates;

/// The file that makes a directory a team.
pub const TEAM_FILE: &str = "backstop.yaml";

/// Where an environment variable comes from; a function, so that tests need no process-wide state.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How strictly to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For `check`: a missing key is a warning, because the machine that checks is often not the one that runs.
    Check,
    /// For `up`: everything that is used must be there.
    Run,
    /// For `bound`: as if every key were there, because the bound must hold where they are.
    Bound,
}

/// A configuration that was read, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, sound.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Where each value came from, by its path with dots: `agents.cto.model`. What is not here is a default.
    pub origins: BTreeMap<String, String>,
}

/// Something wrong in a file: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file, relative to the directory that was read; for a scenario, from where the program runs.
    pub file: String,
    /// The line, first = 1; 0 for the file as a whole.
    pub line: usize,
    /// The column, first = 1; 0 for the file as a whole.
    pub column: usize,
    /// The key, with dots between levels; empty for the file as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    /// `agents/cto.md:4:3: model: there is no provider …`, and the remedy on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}\n  help: {}", self.message, self.remedy)
    }
}

/// Everything that keeps the files from being used, and what else is odd about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the configuration has {} error(s)", errors.len())]
pub struct Problems {
    /// What must be corrected.
    pub errors: Vec<Diagnostic>,
    /// What is odd besides.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a directory.
///
/// # Errors
/// All errors of all files.
pub fn load(dir: &Path, env: Env<'_>, purpose: Purpose) -> Result<Loaded, Problems> {
    load_from(Home::Directory(dir), env, purpose)
}

/// Reads a directory that is at hand as paths and texts, for tests that have thousands of them.
///
/// # Errors
/// As [`load`].
#[cfg(any(test, feature = "testing"))]
pub fn load_given(files: &[(&str, &str)], env: Env<'_>, purpose: Purpose) -> Result<Loaded, Problems> {
    load_from(Home::Given(files), env, purpose)
}

fn load_from(home: Home<'_>, env: Env<'_>, purpose: Purpose) -> Result<Loaded, Problems> {
    let mut notes = Notes { env: Some(env), ..Notes::default() };
    let files = Files::new(home, env, purpose);
    let mut config = Config::new("unnamed");
    for (path, _) in files.list("schemas", "json", &mut notes) {
        files.schema_file(&path, &mut notes);
    }
    let wide = match layers(home, env, &files, &mut notes) {
        Some(root) => {
            let root = Value::root(root, "", Keys::Kebab, &mut notes);
            root.table(&mut notes).map(|table| team_file::read(table, &mut config, &files, &mut notes))
        }
        None => None,
    };
    let team_read = wide.is_some();
    let wide = wide.unwrap_or_default();
    documents::agents(&mut config, &wide, &files, &mut notes);
    documents::prompts(&mut config, &files, &mut notes);
    match purpose {
        Purpose::Check | Purpose::Run => without_keys(&mut config, &wide, &files, &mut notes),
        Purpose::Bound => {}
    }
    config.fingerprint = files.fingerprint();
    // A team file that could not be read declares nothing; to complain of all that is missing from it would bury why.
    if team_read {
        relations(&config, &mut notes);
    }
    notes.errors.sort();
    notes.errors.dedup();
    notes.warnings.sort();
    notes.warnings.dedup();
    if notes.errors.is_empty() {
        let origins = notes.origins.iter().filter(|(path, _)| !path.is_empty());
        let origins = origins.map(|(path, place)| (path.clone(), told(place))).collect();
        Ok(Loaded { config, warnings: notes.warnings, origins })
    } else {
        Err(Problems { errors: notes.errors, warnings: notes.warnings })
    }
}

fn told(place: &Place) -> String {
    if place.line == 0 { place.file.to_string() } else { format!("{}:{}", place.file, place.line) }
}

/// The files of all layers, laid over each other. The project's own must exist.
fn layers(home: Home<'_>, env: Env<'_>, files: &Files<'_>, notes: &mut Notes<'_>) -> Option<Node> {
    let system = env("BACKSTOP_SYSTEM_DIR").unwrap_or_else(|| "/etc/backstop".to_owned());
    let user = env("XDG_CONFIG_HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".config")));
    let mut shared = vec![PathBuf::from(system).join(TEAM_FILE)];
    shared.extend(user.map(|home| home.join("backstop").join(TEAM_FILE)));
    let shared = shared.iter().filter(|path| path.is_absolute() && path.is_file()).filter_map(|path| path.to_str());

    let mut merged: Option<Node> = None;
    let mut sound = true;
    if !home.has(TEAM_FILE) {
        notes.error(
            &Place::file(TEAM_FILE),
            "",
            "does not exist",
            "run `backstop init` here, or name the directory of the team",
        );
        return None;
    }
    // What is shipped is the same everywhere.
    let shared = shared.filter(|_| matches!(home, Home::Directory(_)));
    for path in shared.chain([TEAM_FILE]) {
        let node = files.read(path, files::TEAM_LIMIT, notes).and_then(|text| match yaml::parse(path, &text, 0) {
            Ok(node) => Some(node),
            Err(broken) => {
                notes.broken(broken);
                None
            }
        });
        match node {
            Some(Node { kind: Kind::Scalar { .. } | Kind::List(_), place }) => {
                notes.error(&place, "", "the file must be a map", "write `key: value` lines, first `team: <name>`");
                sound = false;
            }
            Some(node) => match &mut merged {
                Some(below) => below.overlay(node),
                None => merged = Some(node),
            },
            None => sound = false,
        }
    }
    merged.filter(|_| sound)
}

/// Providers whose key is not set cannot be asked. As somebody's first choice that is an error for `up`; as a fallback it
/// is one fallback less, so that a team starts with the one key its operator has.
fn without_keys(config: &mut Config, wide: &TeamWide, files: &Files<'_>, notes: &mut Notes<'_>) {
    for (name, (variables, path)) in &wide.keyless {
        let place = notes.place_of(path).cloned().unwrap_or_else(|| Place::file(TEAM_FILE));
        let first_choice: Vec<&str> = config
            .agents
            .values()
            .filter(|agent| agent.model.provider == *name)
            .map(|agent| agent.name.as_str())
            .collect();
        if !first_choice.is_empty() {
            files.unset(path, variables, &format!("{} cannot ask {name}", first_choice.join(", ")), notes);
            continue;
        }
        let falls_back = |agent: &&mut Agent| agent.fallback_models.iter().any(|model| model.provider == *name);
        let mut fewer: Vec<String> = Vec::new();
        for agent in config.agents.values_mut().filter(falls_back) {
            agent.fallback_models.retain(|model| model.provider != *name);
            fewer.push(agent.name.to_string());
        }
        if !fewer.is_empty() {
            let message =
                format!("{} is not set: {} cannot fall back to {name}", variables.join(" and "), fewer.join(", "));
            notes.warning(
                &place,
                path,
                message,
                format!("set it, for example `export {}=…`", variables.first().map_or("NAME", String::as_str)),
            );
        }
        if adviser_is(config, name) {
            files.unset(path, variables, "the CEO's adviser cannot be asked", notes);
        }
    }
}

fn adviser_is(config: &Config, name: &Integration) -> bool {
    config.ceo.adviser.as_ref().is_some_and(|adviser| adviser.model.provider == *name)
}

/// What the parts mean together, told at the places where they stand.
fn relations(config: &Config, notes: &mut Notes<'_>) {
    let read = notes.errors.len();
    for flaw in check(config, &[]) {
        // What is odd about a half-read team is mostly that it is half-read.
        if read > 0 && !flaw.fatal {
            continue;
        }
        let mut place = notes.place_of(&flaw.path).cloned().unwrap_or_else(|| Place::file(TEAM_FILE));
        place.line += flaw.line;
        // In a file of its own, a value is named as it stands there.
        let own = ["agents.", "prompts."]
            .iter()
            .find(|prefix| flaw.path.starts_with(*prefix))
            .filter(|_| &*place.file != TEAM_FILE);
        let field = match own {
            Some(prefix) => {
                let stem = place.file.rsplit('/').next().and_then(|name| name.strip_suffix(".md")).unwrap_or_default();
                let rest = &flaw.path[prefix.len()..];
                rest.strip_prefix(stem).map_or(rest, |rest| rest.trim_start_matches('.'))
            }
            None => flaw.path.as_str(),
        };
        let same_place =
            |known: &Diagnostic| known.file == *place.file && known.line == place.line && known.field == field;
        if flaw.fatal && !notes.errors[..read].iter().any(same_place) {
            notes.error(&place, field, flaw.message, flaw.remedy);
        } else if !flaw.fatal {
            notes.warning(&place, field, flaw.message, flaw.remedy);
        }
    }
}
