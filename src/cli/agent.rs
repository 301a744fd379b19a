//! `backstop agent`: the agents of the team.

use clap::Subcommand;

use super::output::{Table, ago, details};
use super::{Context, Error, now};
use crate::api::Items;
use crate::team::desk::AgentView;

/// The agents of the team.
#[derive(Debug, Subcommand)]
pub(super) enum Agent {
    /// List the agents
    #[command(visible_alias = "list", after_help = "Examples:\n  backstop agent ls")]
    Ls,
    /// Everything known of an agent
    #[command(after_help = "Examples:\n  backstop agent show cto")]
    Show {
        /// Its name
        name: String,
    },
}

impl Agent {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Ls => {
                let got = context.client.get::<Items<AgentView>>(&["api", "v1", "agents"], &[]).await?;
                context.out.data(&got.raw, "/name", || table(&got.it.items))?;
                context.out.next("backstop agent show <name>");
            }
            Self::Show { name } => {
                let got = context.client.get::<AgentView>(&["api", "v1", "agents", &name], &[]).await?;
                context.out.data(&got.raw, "/name", || show(&got.it))?;
                context.out.next(&format!("backstop task ls --agent {}", got.it.name));
            }
        }
        Ok(())
    }
}

fn table(agents: &[AgentView]) -> String {
    let mut table = Table::new(&["NAME", "STATE", "BUSY", "WAITING", "DEAD", "DEATHS", "MODEL"]);
    for agent in agents {
        table.row(&[
            agent.name.to_string(),
            agent.state.to_string(),
            format!("{}/{}", agent.running.len(), agent.slots),
            agent.waiting.to_string(),
            agent.dead.to_string(),
            agent.deaths.to_string(),
            agent.model.to_string(),
        ]);
    }
    table.render("no agents")
}

fn show(agent: &AgentView) -> String {
    let join = |items: Vec<String>| items.join(", ");
    details(&[
        ("name", agent.name.to_string()),
        ("description", agent.description.clone()),
        ("state", format!("{} for {}", agent.state, ago(now(), agent.since))),
        ("incarnation", agent.incarnation.0.to_string()),
        ("deaths in a row", agent.deaths.to_string()),
        ("last death", agent.last_death.clone().unwrap_or_default()),
        ("model", agent.model.to_string()),
        ("fallback models", join(agent.fallback_models.iter().map(ToString::to_string).collect())),
        ("handles", agent.handles.join(", ")),
        ("covers for", join(agent.covers_for.iter().map(ToString::to_string).collect())),
        ("slots", format!("{} of {} busy", agent.running.len(), agent.slots)),
        ("running", join(agent.running.iter().map(ToString::to_string).collect())),
        ("waiting", agent.waiting.to_string()),
        ("dead", agent.dead.to_string()),
    ])
}
