//! An LLM outage from start to end, as a user of the library sees it: `cargo run --example llm_outage`.
//!
//! Two agents share one model provider. It goes down, the breaker opens, tasks are parked, the provider comes back,
//! and every task is done. No key, no network; the team's clock runs sixty times as fast as the wall's.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::{Config, ProviderConfig, Timeouts, Wire};
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::event::Happening;
use backstop::sim::screen::{Screen, Style};
use backstop::sim::{Behaviour, OutageServer, Script, When};
use backstop::task::{Effect, Integration, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::NewTask;
use backstop::time::Timestamp;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A server that speaks OpenAI's wire format, and answers 500 while its switch is on.
    let script = Script::new(1).rule("outage", When::any().switch("outage"), Behaviour::ServerError);
    let server = OutageServer::start(script).await?;

    let mut config = Config::new("example")
        .agent(Agent::new("backend", "openai/gpt-6-sol")?.handling("bug_fix"))
        .agent(Agent::new("marketing", "openai/gpt-6-sol")?.handling("blog"));
    config.providers.insert(Integration::new("openai")?, openai(server.base_url(Wire::OpenAi)));

    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let clock = Clock::starting_at(Timestamp::from_millis(0), 60.0);
    let team = Team::builder(config).engine(engine.clone()).clock(clock.clone()).seed(1).start().await?;

    server.switch("outage", true);
    for number in 0..12 {
        let task_type = TaskType::new(if number % 2 == 0 { "bug_fix" } else { "blog" })?;
        let payload = serde_json::json!({"ticket": number});
        team.desk().submit(NewTask { effect: Some(Effect::ReadOnly), ..NewTask::new(task_type, payload) }).await?;
    }

    // Everything worth telling is in the event feed: read it until every task has come to its end.
    let mut screen = Screen::new(Style::default());
    let (mut seen, mut out) = (0, std::io::stdout());
    let mut settled = false;
    while !settled {
        settled = engine.balance().await?.settled();
        for event in engine.events(seen, 100).await? {
            seen = event.seq;
            screen.feed(&event);
            if let Happening::ProbeSent { .. } = event.what {
                server.switch("outage", false);
            }
        }
        screen.print(clock.now(), &mut out)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    screen.finish(clock.now(), &mut out)?;

    let balance = engine.balance().await?;
    println!("\n{} submitted, {} done, {} lost", balance.submitted, balance.done, balance.lost());
    team.drain(Duration::from_secs(1)).await?;
    server.shutdown().await;
    if balance.done == 12 { Ok(()) } else { Err("not every task was done".into()) }
}

fn openai(base_url: String) -> ProviderConfig {
    ProviderConfig {
        wire: Wire::OpenAi,
        base_url,
        api_key: Some("a key the server does not look at".into()),
        self_hosted: false,
        headers: Default::default(),
        retry: None,
        breaker: None,
        timeouts: Timeouts::default(),
        models: Default::default(),
    }
}
