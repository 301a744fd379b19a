//! The verdict: what a settled process says of itself, held against what its clients were promised and the world saw.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Outcome;
use crate::ledger::{Promises, Ticket};
use crate::phases::about;
use crate::project::{Client, Gone};
use crate::world::{Books, World};

/// Why it has not settled yet; none when it has.
pub(crate) async fn unsettled(client: &Client, world: &World) -> Result<Option<String>, Gone> {
    let mut scheduled = Vec::new();
    for state in ["ready", "running", "parked", "scheduled"] {
        let (status, page) = client.get(&format!("/api/v1/tasks?states={state}&limit=500")).await?;
        let Some(items) = page["items"].as_array().filter(|_| status == 200) else {
            return Ok(Some(format!("tasks cannot be read: {status} {page}")));
        };
        scheduled.extend(items.iter().filter(|item| state != "scheduled" || item["task"]["type"] != "later").cloned());
    }
    if let Some(task) = scheduled.first() {
        return Ok(Some(format!("{} of {} is {}", task["task"]["id"], task["task"]["type"], task["state"])));
    }
    let (status, letters) = client.get("/api/v1/dead-letters?limit=500").await?;
    if status != 200 {
        return Ok(Some(format!("dead letters cannot be read: {status} {letters}")));
    }
    let decided = |letter: &Value| {
        let decisions = letter["letter"]["decisions"].as_array().or(letter["decisions"].as_array());
        letter["letter"]["status"] != "open" || decisions.is_some_and(|decisions| !decisions.is_empty())
    };
    if let Some(letter) = letters["items"].as_array().into_iter().flatten().find(|letter| !decided(letter)) {
        return Ok(Some(format!("nobody has decided about {letter}")));
    }
    let (status, replays) = client.get("/api/v1/replays").await?;
    if status != 200 {
        return Ok(Some(format!("replays cannot be read: {status} {replays}")));
    }
    if let Some(replay) = replays["items"].as_array().into_iter().flatten().find(|replay| replay["state"] == "running") {
        return Ok(Some(format!("a replay goes on: {replay}")));
    }
    let (status, incidents) = client.get("/api/v1/incidents").await?;
    if status != 200 {
        return Ok(Some(format!("incidents cannot be read: {status} {incidents}")));
    }
    let (_, events) = client.get("/api/v1/events?after=0&limit=1000").await?;
    let none = Vec::new();
    let events = events["items"].as_array().unwrap_or(&none);
    for incident in incidents["items"].as_array().into_iter().flatten() {
        let told = |event: &&Value| event["event"] == "page-delivered" && event["incident"] == incident["id"];
        let delivered = events.iter().filter(told).count() as u64;
        let sent = incident["messages"].as_u64().unwrap_or(0);
        if delivered < sent {
            return Ok(Some(format!("{delivered} of {sent} pages of {} were delivered", incident["id"])));
        }
    }
    // Three dead letters within the hour call somebody.
    let deaths = events.iter().filter(|event| event["event"] == "dead-lettered").count();
    let called = world.books().pages.iter().any(|(action, _)| action == "trigger");
    if deaths >= 3 && !called {
        return Ok(Some(format!("{deaths} dead letters, and nobody was called")));
    }
    Ok(None)
}

/// Everything a process says of its work.
struct Said {
    records: BTreeMap<String, Value>,
    events: Vec<Value>,
    incidents: Vec<Value>,
    replays: Vec<Value>,
    balance: Value,
}

/// Holds a settled process against the ledger: everything that is wrong. `cuts`: how often it was killed or failed.
pub(crate) async fn verdict(client: &Client, promises: &Promises, books: &Books, cuts: u32) -> Outcome<()> {
    let records = client.all("/api/v1/tasks").await?;
    let id = |record: &Value| record["task"]["id"].as_str().unwrap_or_default().to_owned();
    let mut whole = BTreeMap::new();
    for record in &records {
        let id = id(record);
        whole.insert(id.clone(), client.read(&format!("/api/v1/tasks/{id}")).await?);
    }
    let list = |value: &Value| value["items"].as_array().cloned().unwrap_or_default();
    let said = Said {
        records: whole,
        events: client.all("/api/v1/events?after=0").await.or(client.read("/api/v1/events?after=0&limit=1000").await.map(|page| list(&page)))?,
        incidents: list(&client.read("/api/v1/incidents").await?),
        replays: list(&client.read("/api/v1/replays").await?),
        balance: client.read("/api/v1/balance").await?,
    };
    let mut wrong = Vec::new();
    tasks(&said, promises, books, cuts, &mut wrong);
    people(&said, promises, books, cuts, &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn tasks(said: &Said, promises: &Promises, books: &Books, cuts: u32, wrong: &mut Vec<String>) {
    let mut of_ticket: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, record) in &said.records {
        let key = record["task"]["idempotency_key"].as_str().unwrap_or_default();
        of_ticket.entry(key).or_default().push(id);
    }
    for (ticket, acknowledged) in &promises.tickets {
        let name = ticket.name();
        let found = of_ticket.remove(name.as_str()).unwrap_or_default();
        if let Some(id) = acknowledged
            && found != [id.as_str()]
        {
            wrong.push(format!("LOST: {name} was acknowledged as {id}; the store has {found:?}"));
        }
        match found.as_slice() {
            [] => {}
            [id] => task(*ticket, &said.records[*id], said, promises, books, cuts, wrong),
            several => wrong.push(format!("DOUBLED: {name} is {several:?}")),
        }
    }
    for (name, ids) in of_ticket {
        wrong.push(format!("nobody handed in `{name}`: {ids:?}"));
    }
    let (submitted, lost) = (said.balance["submitted"].as_u64(), said.balance["lost"].as_u64());
    if submitted != Some(said.records.len() as u64) || lost.is_some_and(|lost| lost > 0) {
        wrong.push(format!("the balance does not fit {} tasks: {}", said.records.len(), said.balance));
    }
}

fn task(
    ticket: Ticket,
    record: &Value,
    said: &Said,
    promises: &Promises,
    books: &Books,
    cuts: u32,
    wrong: &mut Vec<String>,
) {
    let name = ticket.name();
    let id = record["task"]["id"].as_str().unwrap_or_default();
    let state = record["state"].as_str().unwrap_or_default();
    let mut say = |what: String| wrong.push(format!("{name}: {what}\n    {record}"));
    let done = about(&said.events, id).filter(|event| event["event"] == "done").count();
    if done > 1 || (state == "done") != (done == 1) {
        say(format!("it is {state} and was done {done} times"));
    }
    let none = Vec::new();
    let attempts = record["attempts"].as_array().unwrap_or(&none);
    let kinds: Vec<&str> = attempts.iter().map(|it| it["failure"]["kind"].as_str().unwrap_or("-")).collect();
    let cut = kinds.iter().filter(|kind| matches!(**kind, "process_died" | "outcome_unknown")).count();
    if cut > cuts as usize {
        say(format!("{cut} attempts were cut by {cuts} cuts: {kinds:?}"));
    }
    // Whoever began has an attempt to show for it.
    let begun = books.begun.get(&name).copied().unwrap_or(0);
    if begun as usize > attempts.len() {
        say(format!("the model was asked to begin {begun} times in {} attempts", attempts.len()));
    }
    let claims = about(&said.events, id).filter(|event| event["event"] == "claimed").count();
    if claims != attempts.len() {
        say(format!("it was claimed {claims} times and has {} attempts: {kinds:?}", attempts.len()));
    }
    let bought = books.shop.iter().filter(|(ticket, _)| *ticket == name).count();
    let unknown = record["letter"]["failure"]["kind"] == "outcome_unknown";
    let fits = match ticket {
        Ticket::Review(_) => state == "done",
        Ticket::Fail(_) if promises.discarded.contains(&ticket) => record["letter"]["status"] == "discarded",
        Ticket::Fail(_) => matches!(state, "dead" | "waiting-human") || (state == "done" && record["generation"] != 1),
        Ticket::Later(_) => state == "scheduled" && attempts.len() <= 1 + cuts as usize,
        // In doubt only if somebody cut it.
        Ticket::Order(_) | Ticket::Charge(_) => {
            (state == "done" && bought == 1) || (state == "waiting-human" && unknown && cuts > 0 && bought <= 1)
        }
    };
    if !fits {
        say(format!("it is {state} after {kinds:?}, and the shop heard of it {bought} times"));
    }
    if bought > 1 {
        say(format!("REPEATED: the shop heard of it {bought} times"));
    }
    // A failure more than was asked for, or an attempt that was forgotten.
    if matches!(ticket, Ticket::Fail(_)) && state == "dead" && record["generation"] == 1 && attempts.len() != 2 {
        say(format!("it was given up on after {} attempts, not 2: {kinds:?}", attempts.len()));
    }
    if let Some(due) = promises.due.get(&ticket)
        && record["due"] != due.as_str()
    {
        say(format!("it was due at {due}"));
    }
}

fn people(said: &Said, promises: &Promises, books: &Books, cuts: u32, wrong: &mut Vec<String>) {
    let known: BTreeMap<String, &Value> = said
        .incidents
        .iter()
        .map(|incident| (format!("backstop/faults/{}", incident["id"].as_str().unwrap_or_default()), incident))
        .collect();
    for (action, key) in &books.pages {
        if !known.contains_key(key) {
            wrong.push(format!("a page ({action}) under {key}, of which no incident knows"));
        }
    }
    for (key, incident) in &known {
        let sent = books.pages.iter().filter(|(_, of)| of == key).count() as u64;
        let messages = incident["messages"].as_u64().unwrap_or(0);
        if sent < messages {
            wrong.push(format!("{key}: {messages} pages were meant, {sent} were sent: {incident}"));
        }
        // One that was taken when the process died may come again, under its key.
        if sent > messages + u64::from(cuts) {
            wrong.push(format!("{key}: {messages} pages were meant, {sent} were sent: {incident}"));
        }
        if promises.resolved.iter().any(|id| incident["id"] == id.as_str()) && incident["state"] != "resolved" {
            wrong.push(format!("{key} was resolved, and is {}", incident["state"]));
        }
    }
    let about_letters = said.incidents.iter().filter(|incident| incident["trigger"] == "dead-letters").count();
    if about_letters > 1 {
        wrong.push(format!("{about_letters} incidents about the same dead letters"));
    }
    for id in &promises.replays {
        match said.replays.iter().find(|replay| replay["id"] == id.as_str()) {
            None => wrong.push(format!("LOST: the replay {id} was acknowledged")),
            Some(replay) if replay["state"] == "finished" => {}
            Some(replay) => wrong.push(format!("the replay {id} did not finish: {replay}")),
        }
    }
}
