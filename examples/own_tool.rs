//! A tool of one's own that must not be called twice: `cargo run --example own_tool`.
//!
//! An agent books a room. The booking is made, but its answer is lost on the way, so nobody on this side knows whether
//! it happened. The tool is given a key for each call and has a probe: the team looks the key up instead of booking
//! again. You should see the call go out, the doubt, what the look says, and a book with exactly one booking in it.
//! No key, no network; paused time, so the minute of waiting passes at once.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::engine::Engine;
use backstop::engine::memory::Memory;
use backstop::event::Happening;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::llm::{Message, ToolCall};
use backstop::task::{Effect, Integration, TaskType};
use backstop::team::desk::NewTask;
use backstop::tool::{Hints, Probe, Sign, ToolRule};
use backstop::tools::{Function, Local, function};
use backstop::{Config, Team};
use serde_json::json;

/// The hotel's own book: key and room of every booking. It does not look whether a key is there already.
type Book = Arc<Mutex<Vec<(String, String)>>>;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let book = Book::default();
    let schema = json!({ "type": "object", "properties": { "booked": { "type": "boolean" } } });
    let mut clerk = Agent::new("clerk", "local-model/any")?.told("You book rooms.").handling("trip").answering(schema);
    // Nothing listed, nothing allowed. The probe is the team's, not the agent's.
    clerk.tools = vec!["book_room".to_owned()];

    // Stands in for a model: wants a room booked, and says so once it is.
    let model = Simulated::new(Integration::new("local-model")?, |request, _call| {
        let result = request.messages.iter().rev().find_map(|message| match message {
            Message::Results { results } => results.first().map(|result| result.text.clone()),
            Message::User { .. } | Message::Assistant { .. } => None,
        });
        match result {
            None => Scripted::calls("", vec![ToolCall::written("call-1", "book_room", r#"{"room":"sea view"}"#)]),
            Some(result) => Scripted::text(json!({ "booked": result.contains("was carried out") }).to_string()),
        }
    });

    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let tools = Local::new([book_room(book.clone()), find_booking(book.clone())])?;
    let team = Team::builder(Config::new("hotel").agent(clerk)).engine(engine.clone()).provider(model).tools(tools);
    let team = team.start().await?;

    let desk = team.desk();
    let ask = NewTask::new(TaskType::new("trip")?, json!({ "wish": "a room with a view of the sea" }));
    let id = desk.submit(ask).await?.record.task.id;
    let ended = desk.wait(id).await?;
    for event in engine.history(id).await? {
        if let Happening::OutcomeUnknown { step, tool, why, .. } = event.what {
            println!("step {step}, {tool}, in doubt: {why}");
        } else if let Happening::OutcomeJudged { step, happened, note, .. } = event.what {
            println!("step {step} {}: {note}", if happened { "happened" } else { "did not happen" });
        }
    }
    println!("{}: {}", ended.state, ended.answer.unwrap_or_default());
    team.drain(Duration::from_secs(5)).await?;

    let book = book.lock().unwrap_or_else(PoisonError::into_inner);
    println!("the book has {} booking: {:?}", book.len(), book.iter().map(|(_, room)| room).collect::<Vec<_>>());
    if book.len() == 1 { Ok(()) } else { Err("not exactly one booking".into()) }
}

/// Books a room under the key of the call, and never gets round to saying so.
fn book_room(book: Book) -> Function {
    let schema = json!({
        "type": "object",
        "required": ["room"],
        "properties": { "room": { "type": "string" } },
    });
    let book_room = function("book_room", "Books a room", schema, Hints::default(), move |arguments, key| {
        let book = book.clone();
        async move {
            let room = arguments["room"].as_str().unwrap_or("any").to_owned();
            println!("book_room({room}): booked, and the line is cut");
            book.lock().unwrap_or_else(PoisonError::into_inner).push((key.as_str().to_owned(), room));
            // Here a real one would answer with the booking.
            std::future::pending().await
        }
    });
    let sign = |is| Sign { at: "/found".to_owned(), is: json!(is) };
    let arguments = json!({ "key": "$key" });
    book_room.declared(ToolRule {
        // Without the probe a person would be asked; with `idempotent` it would simply be called again under its key.
        effect: Some(Effect::Mutation),
        probe: Some(Probe {
            tool: "find_booking".to_owned(),
            arguments: arguments.as_object().cloned().unwrap_or_default(),
            happened: sign(true),
            did_not_happen: sign(false),
        }),
        timeout: Some(Duration::from_secs(20)),
        ..ToolRule::default()
    })
}

/// Looks a key up. Only reads.
fn find_booking(book: Book) -> Function {
    let schema = json!({ "type": "object", "required": ["key"], "properties": { "key": { "type": "string" } } });
    let only_reads = Hints { read_only: Some(true), ..Hints::default() };
    function("find_booking", "Was a room booked under this key?", schema, only_reads, move |arguments, _key| {
        let book = book.lock().unwrap_or_else(PoisonError::into_inner);
        let room = book.iter().find(|(key, _)| arguments["key"] == *key).map(|(_, room)| room.clone());
        std::future::ready(Ok(json!({ "found": room.is_some(), "room": room }).to_string()))
    })
}
