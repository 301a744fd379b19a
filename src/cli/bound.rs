//! `backstop bound`: the most a task can come to, from the files of a team, offline.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::check::{directory, env, lines};
use super::output::{Table, visible, wrapped};
use super::{Context, Error};
use crate::bound::{self, Bound};
use crate::budget::dollars;
use crate::definitions::{self, Problems, Purpose};
use crate::task::TaskType;
use crate::time::format_duration;

/// The most a task can come to: calls, tokens, dollars, hours.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop bound\n  backstop bound my-team --type code_review\n  backstop bound -o json"
)]
pub(super) struct BoundOf {
    /// The directory with backstop.yaml
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Only this type of task
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<TaskType>,
}

impl BoundOf {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let loaded = match definitions::load(&directory(&self.path), &env, Purpose::Bound) {
            Ok(loaded) => loaded,
            Err(Problems { errors, .. }) => {
                context.out.say(&lines(&errors, "error"));
                let message = format!("{} error(s) in the files of this team", errors.len());
                return Err(Error::Config { message, next: Some("backstop check".to_owned()) });
            }
        };
        let bounds = match &self.task_type {
            Some(name) => vec![bound::task_type(&loaded.config, name)],
            None => bound::all(&loaded.config),
        };
        let raw = json!({ "config": loaded.config.fingerprint, "items": bounds });
        context.out.data(&raw, "/task_type", || show(&bounds))?;
        if let Some(first) = bounds.first() {
            context.out.next(&format!("backstop explain {}", first.task_type));
        }
        Ok(())
    }
}

/// What is unbounded until its deadline.
const UNBOUNDED: &str = "unbounded";

fn show(bounds: &[Bound]) -> String {
    let mut table = Table::new(&["TYPE", "EFFECT", "CALLS", "TOKENS", "DOLLARS", "TIME"]);
    let count = |count: Option<u64>| count.map_or(UNBOUNDED.to_owned(), |count| count.to_string());
    for bound in bounds {
        table.row(&[
            bound.task_type.to_string(),
            bound.effect.to_string(),
            count(bound.calls),
            count(bound.tokens),
            bound.micro_usd.map_or(UNBOUNDED.to_owned(), dollars),
            bound.lasts.map_or(UNBOUNDED.to_owned(), format_duration),
        ]);
    }
    let mut text = table.render("no task types are declared");
    for bound in bounds {
        text.push_str(&format!("\n{}\n", visible(bound.task_type.as_str())));
        for step in &bound.path {
            text.push_str(&format!("{}\n", wrapped(step, 2)));
        }
    }
    text
}
