//! A small team for the abuse table: scripted models, tools that remember their calls, an inbox.

use std::sync::{Arc, Mutex, PoisonError};

use backstop::agent::Agent;
use backstop::config::{Config, TaskTypeConfig};
use backstop::conversation::ToolCall;
use backstop::incident::Page;
use backstop::journal::Step;
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::pager::{Channel, Receipt, Sending};
use backstop::prompt;
use backstop::record::Record;
use backstop::retry::Jitter;
use backstop::task::{Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, NewTask};
use backstop::time::Timestamp;
use backstop::tool::Hints;
use backstop::tools::{self, Calling, Offered, Said, ToolServer, Trouble};
use serde_json::{Value, json};

pub(crate) fn integration(name: &str) -> Integration {
    Integration::new(name).expect("a name")
}

pub(crate) fn hiccup() -> Scripted {
    Scripted::status(integration("primary"), 500, "{}", Timestamp::from_millis(0))
}

/// An answer that wants tools called.
pub(crate) fn wants(calls: &[(&str, Value)]) -> Scripted {
    let mut scripted = Scripted::text("");
    if let Ok(reply) = &mut scripted.result {
        let call = |(name, arguments): &(&str, Value)| ToolCall::written("x", *name, &arguments.to_string());
        reply.calls = calls.iter().map(call).collect();
    }
    scripted
}

/// What a tool does when it is called.
pub(crate) type Deed = fn(&Calling) -> Result<Said, Box<Trouble>>;

/// Tools of the house, which remember what they were called for.
#[derive(Clone)]
pub(crate) struct Tools {
    name: Integration,
    offered: Vec<(Offered, Deed)>,
    called: Arc<Mutex<Vec<String>>>,
}

impl Tools {
    pub(crate) fn new(tools: &[(&str, bool, Deed)]) -> Self {
        let offered = tools.iter().map(|(name, read_only, deed)| {
            let hints = Hints { read_only: Some(*read_only), ..Hints::default() };
            let tool = (*name).to_owned();
            let schema = json!({ "type": "object" });
            (Offered { tool, description: "A tool.".to_owned(), schema, hints: Some(hints) }, *deed)
        });
        Self { name: integration("local"), offered: offered.collect(), called: Arc::default() }
    }

    pub(crate) fn called(&self) -> Vec<String> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ToolServer for Tools {
    fn name(&self) -> &Integration {
        &self.name
    }

    fn offered(&self) -> tools::Pending<'_, Vec<Offered>> {
        Box::pin(async { Ok(self.offered.iter().map(|(offered, _)| offered.clone()).collect()) })
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> tools::Pending<'a, Said> {
        Box::pin(async move {
            self.called.lock().unwrap_or_else(PoisonError::into_inner).push(calling.tool.clone());
            let (_, deed) = self.offered.iter().find(|(offered, _)| offered.tool == calling.tool).expect("offered");
            deed(calling)
        })
    }
}

/// A channel that keeps what it is sent.
#[derive(Clone, Default)]
pub(crate) struct Inbox(pub(crate) Arc<Mutex<Vec<Page>>>);

impl Channel for Inbox {
    fn name(&self) -> &str {
        "inbox"
    }

    fn send<'a>(&'a self, page: &'a Page) -> Sending<'a> {
        Box::pin(async move {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(page.clone());
            Ok(Receipt { to: "ana".into(), detail: "taken".into() })
        })
    }
}

/// A team of one, with a second model and tools.
pub(crate) struct Stage {
    /// Dropped, it would stop.
    _team: Team,
    pub(crate) desk: Desk,
    pub(crate) primary: Simulated,
    pub(crate) second: Simulated,
    pub(crate) tools: Tools,
    pub(crate) inbox: Inbox,
}

pub(crate) fn config() -> Config {
    let cto = Agent::new("cto", "primary/opus").and_then(|agent| agent.falling_back_to("second/gpt"));
    let mut cto = cto.expect("an agent").handling("*").told("You are the {{ agent.name }} of {{ team.name }}.");
    cto.tools = vec!["*".to_owned()];
    let mut config = Config::new("acme").agent(cto);
    config.prompts = prompt::builtin();
    config.retry.jitter = Jitter::None;
    for (name, effect) in [("read", Effect::ReadOnly), ("charge", Effect::Payment)] {
        let declared = TaskTypeConfig { effect: Some(effect), ..TaskTypeConfig::default() };
        config.task_types.insert(TaskType::new(name).expect("a name"), declared);
    }
    config
}

pub(crate) fn without_tools(mut config: Config) -> Config {
    for agent in config.agents.values_mut() {
        agent.tools.clear();
    }
    config
}

impl Stage {
    pub(crate) async fn new(
        config: Config,
        tools: Tools,
        adviser: &str,
        script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let primary = Simulated::new(integration("primary"), script);
        let second = Simulated::new(integration("second"), |_, _| Scripted::text("from the second"));
        let advice = adviser.to_owned();
        let inbox = Inbox::default();
        let team = Team::builder(config)
            .provider(primary.clone())
            .provider(second.clone())
            .provider(Simulated::new(integration("adviser"), move |_, _| Scripted::text(advice.as_str())))
            .tools(tools.clone())
            .on_call("ana", vec![Arc::new(inbox.clone())])
            .clock(Clock::starting_at(Timestamp::parse("2026-11-21T23:00:00Z").expect("a time"), 1.0))
            .seed(7)
            .start()
            .await
            .expect("a team");
        let desk = team.desk();
        Self { _team: team, desk, primary, second, tools, inbox }
    }

    /// A team whose model answers, or not, by this script; without tools.
    pub(crate) async fn plain(script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static) -> Self {
        Self::new(without_tools(config()), Tools::new(&[]), "", script).await
    }

    pub(crate) async fn ended(&self, task_type: &str, payload: Value) -> Record {
        let ask = NewTask::new(TaskType::new(task_type).expect("a name"), payload);
        let id = self.desk.submit(ask).await.expect("accepted").record.task.id;
        self.desk.wait(id).await.expect("an end")
    }

    pub(crate) async fn steps(&self, id: TaskId) -> Vec<Step> {
        self.desk.engine().steps(id).await.expect("a journal")
    }
}
