//! Which tasks or dead letters a command is about: flags, the filter language, or ids.

use clap::Args;

use super::{Error, now};
use crate::api::filter::{all_errors, parse_where, point};
use crate::failure::{Class, Kind};
use crate::query::Filter;
use crate::task::{AgentName, Integration, TaskType};

/// A choice of tasks, as flags.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Select {
    /// A filter, such as 'class:transient agent:cto age:>1h error:~timeout'
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
    /// Whose turn it is
    #[arg(long)]
    agent: Option<AgentName>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<TaskType>,
    /// Whose last failure has this class
    #[arg(long)]
    class: Option<Class>,
    /// Whose last failure has this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// That go to this integration
    #[arg(long)]
    integration: Option<Integration>,
    /// Not older than this: 2h, or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Whose error holds this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

fn wrong(message: String) -> Error {
    let next = Some("backstop dlq ls --where 'class:transient agent:cto age:>1h'".to_owned());
    Error::Usage { message, next }
}

impl Select {
    /// The filter they make together, for dead letters: they cannot be asked everything a task can.
    pub(super) fn letters(&self) -> Result<Filter, Error> {
        let filter = self.filter()?;
        filter.asks_letters().map_err(|error| wrong(error.to_string()))?;
        Ok(filter)
    }

    /// The filter they make together.
    pub(super) fn filter(&self) -> Result<Filter, Error> {
        let now = now();
        let text = self.filter.as_deref().unwrap_or("");
        let mut filter = parse_where(text, now).map_err(|errors| wrong(all_errors(&errors)))?;
        let twice = |word: &str| wrong(format!("--{word} and `{word}:` in --where both choose; give one of them"));
        if let Some(agent) = &self.agent
            && filter.agent.replace(agent.clone()).is_some()
        {
            return Err(twice("agent"));
        }
        if let Some(task_type) = &self.task_type
            && filter.task_type.replace(task_type.clone()).is_some()
        {
            return Err(twice("type"));
        }
        if let Some(class) = self.class
            && filter.class.replace(class).is_some()
        {
            return Err(twice("class"));
        }
        if let Some(kind) = self.kind
            && filter.kind.replace(kind).is_some()
        {
            return Err(twice("kind"));
        }
        if let Some(integration) = &self.integration
            && filter.integration.replace(integration.clone()).is_some()
        {
            return Err(twice("integration"));
        }
        // An unset variable of a script, more often than a wish for every task.
        if self.error.as_deref() == Some("") {
            return Err(wrong("--error is empty; leave it out, or say which text".to_owned()));
        }
        if let Some(text) = &self.error
            && filter.text.replace(text.clone()).is_some()
        {
            return Err(twice("error"));
        }
        if let Some(since) = &self.since
            && filter.since.replace(point(since, now).map_err(wrong)?).is_some()
        {
            return Err(twice("since"));
        }
        Ok(filter)
    }
}
