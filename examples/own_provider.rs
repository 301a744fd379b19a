//! A provider of one's own: a team that sorts letters by rules instead of a language model.
//!
//! `cargo run --example own_provider` needs no key and shows three letters sorted. The second is first answered with
//! something the schema refuses: the team asks again with the error in the prompt, and then it is right.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::cause::Usage;
use backstop::llm::{Call, Progress, Provider, Reply, Request};
use backstop::task::{Integration, TaskType};
use backstop::team::desk::NewTask;
use backstop::{Config, Team};
use serde_json::json;

/// Knows three words. Exactly one answer per call; whether to ask again is decided by the team.
struct Rules {
    integration: Integration,
    calls: AtomicU32,
}

impl Provider for Rules {
    fn integration(&self) -> &Integration {
        &self.integration
    }

    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> Call<'a> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let said: String = request.messages.iter().map(|message| message.text().to_lowercase()).collect();
            // The prompt of the next delivery shows what was refused, and why.
            let corrected = said.contains("the developers");
            let queue = match (said.contains("money back"), said.contains("crash")) {
                (true, _) => "billing",
                (false, true) if corrected => "engineering",
                // Not one of the queues that the schema knows.
                (false, true) => "the developers",
                (false, false) => "sales",
            };
            let text = json!({ "queue": queue }).to_string();
            progress.advance(text.len());
            // Who tells none is taken to have used the most that the call can.
            let usage = Usage { input: said.split_whitespace().count() as u64, output: 1, ..Usage::default() };
            Ok(Reply {
                text,
                calls: Vec::new(),
                opaque: Vec::new(),
                model: request.model.clone(),
                usage,
                stop: "stop".to_owned(),
                request_id: None,
                headers: Vec::new(),
            })
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rules = Rules { integration: Integration::new("rules")?, calls: AtomicU32::new(0) };
    let schema = json!({
        "type": "object",
        "required": ["queue"],
        "properties": { "queue": { "enum": ["billing", "engineering", "sales"] } },
    });
    let sorter = Agent::new("sorter", "rules/three-words")?.handling("letter").answering(schema);
    let team = Team::builder(Config::new("post-room").agent(sorter)).provider(rules).start().await?;

    let desk = team.desk();
    for letter in ["I want my money back", "It does crash on Mondays", "What does it cost?"] {
        let ask = NewTask::new(TaskType::new("letter")?, json!({ "text": letter }));
        let accepted = desk.submit(ask).await?.record;
        let ended = desk.wait(accepted.task.id).await?;
        println!("{letter:26} {} after {} deliveries", ended.answer.unwrap_or_default(), ended.attempts.len());
    }

    team.drain(Duration::from_secs(5)).await?;
    Ok(())
}
