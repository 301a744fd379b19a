//! The team's tools: every server, and what of it each agent is offered.
//!
//! Holds no truth: what was called and what came of it is in the journal. Servers are asked for their tools before
//! every call of a model, because they may change; what they say of themselves is believed of trusted ones only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::office::Office;
use crate::agent::Agent;
use crate::answer::Validator;
use crate::cause::{ToolFailure, ToolFault};
use crate::conversation::{self, ToolSpec};
use crate::task::{Effect, Integration};
use crate::tool::{self, CallClass, Repeat, ToolRef, ToolRule};
use crate::tools::{ToolServer, Trouble};

/// A tool an agent may use.
#[derive(Clone)]
pub(crate) struct Tool {
    /// Which.
    pub(crate) tool: ToolRef,
    /// As models are offered it.
    pub(crate) spec: ToolSpec,
    /// What calling it does.
    pub(crate) class: CallClass,
    /// What the operator declares of it.
    pub(crate) rule: ToolRule,
    /// Whose it is.
    pub(crate) server: Arc<dyn ToolServer>,
    /// The schema of its arguments, compiled; `None` when it is none.
    pub(crate) validator: Option<Arc<Validator>>,
}

/// The tools of one agent, by the names models know them by.
#[derive(Clone, Default)]
pub(crate) struct Toolbox {
    tools: BTreeMap<String, Tool>,
}

impl Toolbox {
    /// These tools. Two that have one name for models are both left out: a server that names its tool so that it is
    /// taken for another server's must not be given its calls, whichever of them comes first.
    fn of(found: Vec<Tool>) -> Self {
        let mut named: BTreeMap<String, Vec<Tool>> = BTreeMap::new();
        for tool in found {
            named.entry(tool.spec.name.clone()).or_default().push(tool);
        }
        let mut tools = BTreeMap::new();
        for (name, mut same) in named {
            if let (Some(tool), true) = (same.pop(), same.is_empty()) {
                tools.insert(name, tool);
                continue;
            }
            tracing::warn!(name, "not offered: several tools have this name for models; rename one of their servers");
        }
        Self { tools }
    }

    /// The tool a model means.
    pub(crate) fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// The tool of this reference.
    pub(crate) fn find(&self, tool: &ToolRef) -> Option<&Tool> {
        self.tools.values().find(|known| known.tool == *tool)
    }

    /// What models are offered, in a fixed order.
    pub(crate) fn specs(&self) -> Vec<ToolSpec> {
        self.tools.values().map(|tool| tool.spec.clone()).collect()
    }

    /// The names, for a model that used another.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }
}

/// Collects what an agent may use, now.
///
/// # Errors
/// When a server it needs cannot say what it has.
pub(crate) async fn of(office: &Office, agent: &Agent) -> Result<Toolbox, Box<ToolFailure>> {
    let mut found = Vec::new();
    for (name, server) in &office.tools {
        if !may_use(agent, name) {
            continue;
        }
        let offered = server.offered().await.map_err(|trouble| cannot_list(office, name, *trouble))?;
        for offered in offered {
            let tool = ToolRef { server: name.clone(), tool: offered.tool };
            if !tool.allowed(&agent.tools) {
                continue;
            }
            let rule = office.tool_rule(&**server, &tool);
            let class = tool::class(Some(&rule), offered.hints.as_ref(), office.config.tools.trusted(name));
            let description = conversation::visible(&offered.description).into_owned();
            let spec = ToolSpec { name: tool.wire_name(), description, schema: offered.schema };
            let validator = office.validators.of(&spec.schema);
            let server = Arc::clone(server);
            found.push(Tool { tool, spec, class, rule, server, validator });
        }
    }
    Ok(Toolbox::of(found))
}

/// Could any pattern of this agent mean a tool of this server?
fn may_use(agent: &Agent, server: &Integration) -> bool {
    agent.tools.iter().any(|pattern| match pattern.strip_prefix("mcp:") {
        Some(pattern) => {
            let whose = pattern.split('/').next().unwrap_or_default();
            crate::agent::matches_pattern(whose, server.as_str())
        }
        None => matches!(server.as_str(), tool::LOCAL | tool::HTTP),
    })
}

fn cannot_list(office: &Office, server: &Integration, trouble: Trouble) -> Box<ToolFailure> {
    let class = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
    let tool = ToolRef { server: server.clone(), tool: "(its list of tools)".to_owned() };
    Box::new(failure(office, tool, class, trouble, Duration::ZERO))
}

/// Trouble of a server, as a failure of a call.
pub(crate) fn failure(
    office: &Office,
    tool: ToolRef,
    class: CallClass,
    trouble: Trouble,
    elapsed: Duration,
) -> ToolFailure {
    let Trouble { fault, sent, status, retry_after_s, detail } = trouble;
    let detail = office.one_line(&detail, 2_000);
    ToolFailure { tool, fault, class, sent, status, retry_after_s, detail, at: office.now(), elapsed }
}

/// A failure of the model's making: nothing was sent.
pub(crate) fn unsent(
    office: &Office,
    tool: ToolRef,
    class: CallClass,
    fault: ToolFault,
    detail: String,
) -> ToolFailure {
    failure(office, tool, class, *Trouble::unsent(fault, detail), Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tools::{Calling, Offered, Pending, Said};

    struct Nobody(Integration);

    impl ToolServer for Nobody {
        fn name(&self) -> &Integration {
            &self.0
        }

        fn offered(&self) -> Pending<'_, Vec<Offered>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn call<'a>(&'a self, _: &'a Calling) -> Pending<'a, Said> {
            Box::pin(std::future::ready(Err(Trouble::unsent(ToolFault::Gone, "nobody"))))
        }
    }

    /// The tool that came later silently took the place of the other, with its name: calls went to the wrong server.
    #[test]
    fn of_two_tools_with_one_name_neither_is_offered() {
        let made = |of: &str, name: Option<&str>| {
            let tool: ToolRef = of.parse().expect("a tool");
            let name = name.map_or_else(|| tool.wire_name(), str::to_owned);
            Tool {
                spec: ToolSpec { name, description: String::new(), schema: json!({"type": "object"}) },
                class: CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely },
                rule: ToolRule::default(),
                server: Arc::new(Nobody(tool.server.clone())),
                validator: None,
                tool,
            }
        };
        // One that was told the other's name beforehand.
        let marked = made("a__b/c", None).spec.name;
        let liar = format!("a/{}", marked.strip_prefix("a__").expect("its server's name"));
        let toolbox =
            Toolbox::of(vec![made("a__b/c", None), made(&liar, None), made("x/c", None), made("a/b__c", None)]);
        assert_eq!(toolbox.names().collect::<Vec<_>>(), ["a__b__c", "x__c"]);
        assert!(toolbox.get(&marked).is_none() && toolbox.find(&liar.parse().expect("a tool")).is_none());
        let thrice = vec![made("a/c", Some("c")), made("b/c", Some("c")), made("c/c", Some("c"))];
        assert_eq!(Toolbox::of(thrice).names().count(), 0);
    }
}
