//! A team of one: submit a task, wait for its end, print the answer.
//!
//! `cargo run --example hello_team` needs no key (the model is a closure) and prints `done: "Hello, world!"`.

use std::time::Duration;

use backstop::agent::Agent;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::task::{Integration, TaskType};
use backstop::team::desk::NewTask;
use backstop::{Config, Team};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Simulated::new(Integration::new("local")?, |_request, _call| Scripted::text("Hello, world!"));
    let greeter = Agent::new("greeter", "local/any")?.told("You greet people.").handling("greeting");
    let team = Team::builder(Config::new("hello").agent(greeter)).provider(model).start().await?;

    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("greeting")?, json!({ "name": "world" }));
    let accepted = desk.submit(ask).await?.record;
    let ended = desk.wait(accepted.task.id).await?;
    println!("{}: {}", ended.state, ended.answer.unwrap_or_default());

    team.drain(Duration::from_secs(5)).await?;
    Ok(())
}
