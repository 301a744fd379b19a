//! The verdict: what a settled process says of itself, held against what its clients were promised and the world saw.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::called::{self, Watch};
use crate::ledger::{AGAIN, Ledger, Promises, Ticket};
use crate::project::{Client, Gone};
use crate::world::{Books, World};

/// Why it has not settled yet; none when it has.
pub(crate) async fn unsettled(client: &Client, watch: &mut Watch, books: &Books) -> Result<Option<String>, Gone> {
    let (_, balance) = client.get("/api/v1/balance").await?;
    let number = |name: &str| balance[name].as_u64().unwrap_or(0);
    if number("running") > 0 || number("waiting") > number("retrying") {
        return Ok(Some(format!("work goes on: {balance}")));
    }
    let mut scheduled = Vec::new();
    for state in ["ready", "running", "parked", "scheduled"] {
        let (status, page) = client.get(&format!("/api/v1/tasks?states={state}&limit=500")).await?;
        let Some(items) = page["items"].as_array().filter(|_| status == 200) else {
            return Ok(Some(format!("tasks cannot be read: {status} {page}")));
        };
        // Those that fail wait as they were told to; one whose last delivery was cut, as the CEO decided.
        let waits = |item: &Value| item["task"]["type"] == "later" || item["letter"]["status"] == "sent-again";
        scheduled.extend(items.iter().filter(|item| state != "scheduled" || !waits(item)).cloned());
    }
    if let Some(task) = scheduled.first() {
        return Ok(Some(format!("{} of {} is {}", task["task"]["id"], task["task"]["type"], task["state"])));
    }
    if let Some(why) = watch.owed(client).await? {
        return Ok(Some(why));
    }
    let (status, replays) = client.get("/api/v1/replays").await?;
    if status != 200 {
        return Ok(Some(format!("replays cannot be read: {status} {replays}")));
    }
    if let Some(replay) = replays["items"].as_array().into_iter().flatten().find(|replay| replay["state"] == "running")
    {
        return Ok(Some(format!("a replay goes on: {replay}")));
    }
    Ok(watch.incidents().iter().find_map(|incident| unpaged(incident, books)))
}

/// The key under which the pages of an incident go.
fn key_of(incident: &str) -> String {
    format!("backstop/faults/{incident}")
}

/// What a person has not been told of an incident; none when all. A call that was overtaken by its end is not sent.
fn unpaged(incident: &Value, books: &Books) -> Option<String> {
    let key = key_of(incident["id"].as_str().unwrap_or_default());
    let sent: Vec<&str> = books.pages.iter().filter(|(_, of)| *of == key).map(|(action, _)| action.as_str()).collect();
    let over = incident["state"] == "resolved";
    let told = match sent.as_slice() {
        [] => over,
        pages => !over || pages.last() == Some(&"resolve"),
    };
    (!told).then(|| format!("{key}: it is {}, and its pages were {sent:?}", incident["state"]))
}

/// Everything a process says of its work.
struct Said {
    records: BTreeMap<String, Value>,
    events: Vec<Value>,
    incidents: Vec<Value>,
    replays: Vec<Value>,
    balance: Value,
}

impl Said {
    async fn of(client: &Client) -> Outcome<Self> {
        let records = client.all("/api/v1/tasks").await?;
        let id = |record: &Value| record["task"]["id"].as_str().unwrap_or_default().to_owned();
        let mut whole = BTreeMap::new();
        for record in &records {
            let id = id(record);
            whole.insert(id.clone(), client.read(&format!("/api/v1/tasks/{id}")).await?);
        }
        let list = |value: &Value| value["items"].as_array().cloned().unwrap_or_default();
        Ok(Self {
            records: whole,
            events: client.all("/api/v1/events").await?,
            incidents: list(&client.read("/api/v1/incidents").await?),
            replays: list(&client.read("/api/v1/replays").await?),
            balance: client.read("/api/v1/balance").await?,
        })
    }

    /// Everything that is wrong with it.
    fn wrong(&self, promises: &Promises, books: &Books, cuts: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        tasks(self, promises, books, cuts, &mut wrong);
        people(self, promises, books, cuts, &mut wrong);
        wrong
    }
}

/// Holds a settled process against the ledger: everything that is wrong. `cuts`: how often it was killed or failed.
/// What is wrong at one moment and not any more a little later had not settled: the last page was on its way.
pub(crate) async fn verdict(client: &Client, ledger: &Ledger, world: &World, cuts: u32) -> Outcome<()> {
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        match judged(client, &ledger.promises(), &world.books(), cuts).await {
            Err(_) if Instant::now() < until => sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}

/// What is found when nobody was called about the dead letters: their incident and its pages are taken out of what a settled
/// process said and the world saw. For the control.
pub(crate) async fn uncalled(client: &Client, ledger: &Ledger, world: &World) -> Outcome<String> {
    let (mut said, mut books) = (Said::of(client).await?, world.books());
    let key = key_of(&called::take_away(&mut said.incidents)?);
    books.pages.retain(|(_, of)| *of != key);
    Ok(said.wrong(&ledger.promises(), &books, 0).join("\n"))
}

async fn judged(client: &Client, promises: &Promises, books: &Books, cuts: u32) -> Outcome<()> {
    let wrong = Said::of(client).await?.wrong(promises, books, cuts);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The events of a feed about one task.
fn about<'a>(events: &'a [Value], id: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["task"] == id)
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
    let cut = kinds.iter().filter(|kind| **kind == "process_died").count();
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
    let counts = |it: &&Value| it["generation"] == record["generation"] && it["end"] != "released";
    let counted = attempts.iter().filter(counts).count() as u64;
    if record["attempt"] != counted {
        say(format!("it counts {} attempts of this round and has {counted}: {kinds:?}", record["attempt"]));
    }
    let bought = books.shop.iter().filter(|(ticket, _)| *ticket == name).count();
    let unknown = record["letter"]["failure"]["kind"] == "outcome_unknown";
    let fits = match ticket {
        Ticket::Review(_) => state == "done",
        Ticket::Fail(_) if promises.discarded.contains(&ticket) => record["letter"]["status"] == "discarded",
        Ticket::Fail(_) => {
            matches!(state, "dead" | "waiting-human")
                || (state == "done" && record["generation"] != 1)
                || (state == "scheduled" && cuts > 0 && record["letter"]["status"] == "sent-again")
        }
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
    // It is given up on when it fails in the same way again, and after three deliveries in any case.
    if matches!(ticket, Ticket::Fail(_)) && record["generation"] == 1 {
        let most = if cuts > 0 { 3 } else { 2 };
        if !(2..=most).contains(&attempts.len()) {
            say(format!("it was given up on after {} attempts: {kinds:?}", attempts.len()));
        }
    }
    if let Some(due) = promises.due.get(&ticket)
        && record["due"] != due.as_str()
    {
        say(format!("it was due at {due}"));
    }
}

fn people(said: &Said, promises: &Promises, books: &Books, cuts: u32, wrong: &mut Vec<String>) {
    let known: BTreeMap<String, &Value> =
        said.incidents.iter().map(|incident| (key_of(incident["id"].as_str().unwrap_or_default()), incident)).collect();
    wrong.extend(called::owed(said.records.values(), &said.events, &said.incidents));
    for (action, key) in &books.pages {
        if !known.contains_key(key) {
            wrong.push(format!("a page ({action}) under {key}, of which no incident knows"));
        }
    }
    for (key, incident) in &known {
        let sent = books.pages.iter().filter(|(_, of)| of == key).count() as u64;
        let messages = incident["messages"].as_u64().unwrap_or(0);
        wrong.extend(unpaged(incident, books));
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
