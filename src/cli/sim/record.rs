//! `backstop sim record`: a stretch of a real event feed, made a scenario.

use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{refuse, shell, write};
use crate::api::filter::point;
use crate::cli::{Context, Error};
use crate::definitions::{self, TEAM_FILE};
use crate::event::Event;
use crate::query::Page;
use crate::sim::record;

/// Make a scenario of a stretch of a real event feed: the work that came, and the faults it seems to have met.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop sim record --since 8h --out scenarios/night.yaml\n  backstop events > night.jsonl; backstop sim record --feed night.jsonl --out scenarios/night.yaml"
)]
pub(in crate::cli) struct Record {
    /// From when on: 1h (the default for the running team's), or an RFC 3339 time; of a feed that was kept, a span before its last event
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// A feed that was kept (`backstop events -o jsonl`), instead of the running team's
    #[arg(long, value_name = "FILE")]
    feed: Option<PathBuf>,
    /// The scenario; the work goes into a file of the same name that ends in .jsonl
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Whose agents play it: a directory, or `shipped`; the team of this directory if there is one
    #[arg(long, value_name = "DIR|shipped")]
    team: Option<String>,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

impl Record {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let usage = |message: String| Error::Usage { message, next: Some("backstop sim record --help".to_owned()) };
        if self.out.extension().is_none_or(|end| end != "yaml") {
            return Err(usage(format!("--out {} must end in .yaml", self.out.display())));
        }
        let load = self.out.with_extension("jsonl");
        let there = [&self.out, &load].into_iter().find(|path| path.exists());
        if let Some(path) = there.filter(|_| !self.force) {
            return Err(usage(format!("{} is there already; --force writes over it", path.display())));
        }
        if self.feed.as_deref() == Some(load.as_path()) {
            return Err(usage(format!("{} would be written over by the work in it", load.display())));
        }
        let events = match &self.feed {
            Some(path) => self.kept(path)?,
            None => self.fetched(context).await?,
        };
        let load_file = load.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let recorded = record::record(&events, &load_file, &self.team()).map_err(failed)?;
        write(&load, &recorded.load)?;
        write(&self.out, &recorded.yaml)?;
        // What cannot be played is told now and not when it is needed.
        if let Err(problems) = definitions::scenario(&self.out, None) {
            context.out.say("what was recorded is written, but cannot be played with this team; name another: --team");
            return Err(refuse(context, &problems));
        }
        let out = self.out.display().to_string();
        let raw = json!({
            "scenario": out,
            "load": load.display().to_string(),
            "events": events.len(),
            "tasks": recorded.tasks,
            "faults": recorded.faults,
        });
        context.out.data(&raw, "/scenario", || {
            format!("{out}: tasks {}, events {}, faults {}\n", recorded.tasks, events.len(), recorded.faults)
        })?;
        context.out.next(&format!("backstop sim run {}", shell(&out)));
        Ok(())
    }

    /// The feed of the running team, page by page.
    async fn fetched(&self, context: &Context) -> Result<Vec<Event>, Error> {
        let limit = ("limit".to_owned(), "1000".to_owned());
        let mut query =
            vec![limit.clone(), ("since".to_owned(), self.since.clone().unwrap_or_else(|| "1h".to_owned()))];
        let mut events = Vec::new();
        loop {
            let page = context.client.get::<Page<Value>>(&["api", "v1", "events"], &query).await?;
            for raw in page.it.items {
                let place = events.len() + 1;
                let event = serde_json::from_value(raw);
                events.push(
                    event.map_err(|error| {
                        failed(record::RecordError::NoEvent { line: place, why: error.to_string() })
                    })?,
                );
            }
            let Some(next) = page.it.next else { break };
            query = vec![limit.clone(), ("after".to_owned(), next)];
        }
        Ok(events)
    }

    /// A feed in a file, or the end of it: what is long ago was not when it was kept.
    fn kept(&self, path: &Path) -> Result<Vec<Event>, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            path: path.display().to_string(),
            doing: "read",
            source,
        })?;
        let mut events = record::feed(&text).map_err(failed)?;
        if let Some(since) = &self.since {
            let last = events.iter().map(|event| event.at).max().unwrap_or_default();
            let since = point(since, last).map_err(|message| Error::Usage {
                message: format!("--since: {message}"),
                next: Some("backstop sim record --help".to_owned()),
            })?;
            events.retain(|event| event.at >= since);
        }
        Ok(events)
    }

    /// What stands under `team` in the file: relative to it.
    fn team(&self) -> String {
        let named = match &self.team {
            Some(team) => team.as_str(),
            None if Path::new(TEAM_FILE).is_file() => ".",
            None => "shipped",
        };
        if named == "shipped" {
            return named.to_owned();
        }
        let dir = super::super::check::directory(Path::new(named));
        let below = self.out.parent().unwrap_or(Path::new(""));
        let steps = |path: &Path| path.components().filter(|step| *step != Component::CurDir).count();
        let plain =
            |path: &Path| path.components().all(|step| matches!(step, Component::Normal(_) | Component::CurDir));
        if plain(&dir) && plain(below) {
            let up = "../".repeat(steps(below));
            let dir: PathBuf = dir.components().filter(|step| *step != Component::CurDir).collect();
            let path = format!("{up}{}", dir.display());
            return match path.trim_end_matches('/') {
                "" => ".".to_owned(),
                path => path.to_owned(),
            };
        }
        fs::canonicalize(&dir).unwrap_or(dir).display().to_string()
    }
}

fn failed(error: record::RecordError) -> Error {
    Error::Failed { message: error.to_string(), next: Some("backstop events --since 1h".to_owned()) }
}
