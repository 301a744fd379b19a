//! The verdict on chaos: what the settled process says, held against what its clients were promised and the world saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::load::{Kind, Load, Promises, kind_of};
use super::outside::{Books, Outside};
use super::{Cut, TEAM};
use crate::Outcome;
use crate::called::{self, Watch};
use crate::project::{Client, Gone};

/// What was counted, for the table.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) tasks: usize,
    pub(super) states: BTreeMap<String, u64>,
    pub(super) attempts: u64,
    pub(super) released: u64,
    pub(super) cut: u64,
    pub(super) shop: u64,
    pub(super) payments: u64,
    pub(super) incidents: usize,
    pub(super) pages: usize,
    pub(super) sent_again: u64,
}

/// What is wrong, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Wrong {
    pub(super) lost: Vec<String>,
    pub(super) doubled: Vec<String>,
    pub(super) repeated: Vec<String>,
    pub(super) pages: Vec<String>,
    pub(super) counted: Vec<String>,
    pub(super) other: Vec<String>,
}

impl Wrong {
    pub(super) fn all(&self) -> Vec<String> {
        let named = [
            ("LOST", &self.lost),
            ("DOUBLED", &self.doubled),
            ("REPEATED", &self.repeated),
            ("PAGES", &self.pages),
            ("COUNTED AS AN ATTEMPT", &self.counted),
            ("WRONG", &self.other),
        ];
        named.into_iter().flat_map(|(name, all)| all.iter().map(move |why| format!("{name}: {why}"))).collect()
    }
}

/// Is this task at rest? One whose last delivery was cut waits half a minute by decision, and is waited for.
fn open(record: &Value) -> bool {
    matches!(record["state"].as_str(), Some("ready" | "running" | "parked" | "scheduled"))
}

/// Why it has not settled yet; none when it has.
async fn unsettled(client: &Client, watch: &mut Watch, outside: &Outside) -> Result<Option<String>, Gone> {
    if let Some(why) = at_work(client).await? {
        return Ok(Some(why));
    }
    if let Some(why) = watch.owed(client).await? {
        return Ok(Some(why));
    }
    // A letter that was decided about between the two may have gone round again.
    if let Some(why) = at_work(client).await? {
        return Ok(Some(why));
    }
    Ok(outside.look(|books| watch.incidents().iter().find_map(|incident| unpaged(incident, books))))
}

async fn at_work(client: &Client) -> Result<Option<String>, Gone> {
    let (_, balance) = client.get("/api/v1/balance").await?;
    let number = |name: &str| balance[name].as_u64().unwrap_or(1);
    let at_work = ["running", "waiting", "parked", "retrying"].into_iter().any(|name| number(name) > 0);
    Ok(at_work.then(|| format!("work goes on: {balance}")))
}

/// Waits until everything is at rest and everybody who is to know has been told.
pub(super) async fn settle(client: &Client, outside: &Outside, most: Duration) -> Outcome<()> {
    let until = Instant::now() + most;
    let mut watch = Watch::default();
    loop {
        let why = match unsettled(client, &mut watch, outside).await {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why,
            Err(Gone) => "nobody answers".to_owned(),
        };
        if Instant::now() > until {
            return Err(format!("it does not settle within {most:?}: {why}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Everything a settled process says of its work.
struct Said {
    records: Vec<Value>,
    events: Vec<Value>,
    incidents: Vec<Value>,
    balance: Value,
}

impl Said {
    async fn of(client: &Client) -> Outcome<Self> {
        Ok(Self {
            records: client.all("/api/v1/tasks").await?,
            events: client.all("/api/v1/events").await?,
            incidents: client.read("/api/v1/incidents").await?["items"].as_array().cloned().unwrap_or_default(),
            balance: client.read("/api/v1/balance").await?,
        })
    }
}

/// Holds a settled process against the ledger and the books. `cuts` are the ends of its starts, one after the other;
/// `spells` are when it stood still or could not write.
pub(super) async fn judge(
    client: &Client,
    load: &Load,
    outside: &Outside,
    cuts: &[Cut],
    spells: &[Cut],
) -> Outcome<(Wrong, Counts)> {
    let said = Said::of(client).await?;
    Ok(held(&said, &load.promises(), &outside.look(Books::clone), cuts, spells))
}

/// What is found when nobody was called about the dead letters: their incident and its pages are taken out of what a settled
/// process said and the world saw. For the control.
pub(super) async fn uncalled(client: &Client, load: &Load, outside: &Outside) -> Outcome<Wrong> {
    let mut said = Said::of(client).await?;
    let mut books = outside.look(Books::clone);
    let key = key_of(&called::take_away(&mut said.incidents)?);
    books.pages.retain(|page| page.key != key);
    Ok(held(&said, &load.promises(), &books, &[], &[]).0)
}

fn held(said: &Said, promises: &Promises, books: &Books, cuts: &[Cut], spells: &[Cut]) -> (Wrong, Counts) {
    let Said { records, events, incidents, balance } = said;
    let (mut wrong, mut counts) = (Wrong::default(), Counts::default());
    wrong.other.clone_from(&promises.wrong);
    tasks(records, events, promises, books, &mut wrong, &mut counts);
    told_to_stop(events, cuts, &mut wrong);
    let unheard: Vec<Cut> = cuts.iter().chain(spells).copied().collect();
    pages(incidents, promises, books, &unheard, &mut wrong, &mut counts);
    wrong.pages.extend(called::owed(records, events, incidents).into_iter().map(|why| format!("missed: {why}")));
    if balance["submitted"].as_u64() != Some(records.len() as u64) || balance["lost"].as_u64() != Some(0) {
        wrong.lost.push(format!("the balance does not fit {} tasks: {balance}", records.len()));
    }
    (wrong, counts)
}

fn tasks(
    records: &[Value],
    events: &[Value],
    promises: &Promises,
    books: &Books,
    wrong: &mut Wrong,
    counts: &mut Counts,
) {
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut claims, mut released): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = Default::default();
    for event in events {
        let Some(task) = event["task"].as_str() else { continue };
        match event["event"].as_str() {
            Some("done") => *done.entry(task).or_default() += 1,
            Some("claimed") => *claims.entry(task).or_default() += 1,
            Some("released") => *released.entry(task).or_default() += 1,
            Some(_) | None => {}
        }
    }
    let mut of_ticket: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for record in records {
        of_ticket.entry(record["task"]["idempotency_key"].as_str().unwrap_or_default()).or_default().push(record);
    }
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &books.calls {
        *asked.entry(&call.ticket).or_default() += 1;
    }
    counts.tasks = records.len();
    for (name, acknowledged) in &promises.tickets {
        let found = of_ticket.remove(name.as_str()).unwrap_or_default();
        let ids: Vec<&str> = found.iter().filter_map(|record| record["task"]["id"].as_str()).collect();
        match acknowledged {
            Some(id) if !ids.contains(&id.as_str()) => {
                wrong.lost.push(format!("{name} was acknowledged as {id}; the store has {ids:?}"));
            }
            None => wrong.other.push(format!("{name} was never acknowledged; the store has {ids:?}")),
            Some(_) => {}
        }
        let [record] = found.as_slice() else {
            if ids.len() > 1 {
                wrong.doubled.push(format!("{name} is {ids:?}"));
            }
            continue;
        };
        let bought = books.shop.get(name).map_or(0, Vec::len);
        task(name, record, bought, wrong, counts);
        let count = done.get(ids[0]).copied().unwrap_or(0);
        if count > 1 || (record["state"] == "done") != (count == 1) {
            wrong.doubled.push(format!("{name} is {} and was done {count} times", record["state"]));
        }
        let attempts = record["attempts"].as_array().map_or(0, Vec::len);
        let claimed = claims.get(ids[0]).copied().unwrap_or(0);
        // What was given back and used nothing leaves no trace among the attempts.
        let given_back = released.get(ids[0]).copied().unwrap_or(0);
        let ends = record["attempts"].as_array().into_iter().flatten();
        let in_record = ends.filter(|attempt| attempt["end"] == "released").count();
        counts.released += given_back as u64;
        if claimed + in_record != attempts + given_back {
            wrong.counted.push(format!(
                "{name} was claimed {claimed} times, given back {given_back} times and has {attempts} attempts: {record}"
            ));
        }
        if claimed == 0 && asked.contains_key(name.as_str()) {
            wrong.other.push(format!("the model was asked about {name}, which was never claimed"));
        }
    }
    for (name, found) in of_ticket {
        wrong.other.push(format!("nobody handed in `{name}`: {found:?}"));
    }
}

fn task(name: &str, record: &Value, bought: usize, wrong: &mut Wrong, counts: &mut Counts) {
    let kind = kind_of(name).expect("it was handed in");
    let state = record["state"].as_str().unwrap_or_default();
    *counts.states.entry(state.to_owned()).or_default() += 1;
    let none = Vec::new();
    let attempts = record["attempts"].as_array().unwrap_or(&none);
    let kinds: Vec<&str> = attempts.iter().filter_map(|it| it["failure"]["kind"].as_str()).collect();
    counts.attempts += attempts.len() as u64;
    counts.cut += kinds.iter().filter(|kind| **kind == "process_died").count() as u64;
    counts.shop += bought as u64;
    // What was given back does not count as an attempt.
    let generation = &record["generation"];
    let of_round = |it: &&Value| it["generation"] == *generation && it["end"] != "released";
    let counted = attempts.iter().filter(of_round).count() as u64;
    if record["attempt"].as_u64() != Some(counted) {
        wrong.counted.push(format!("{name}: attempt {} after {counted} that count: {record}", record["attempt"]));
    }
    if attempts.iter().any(|it| it["end"].is_null()) && !open(record) {
        wrong.other.push(format!("{name} is {state} and has an attempt without an end: {record}"));
    }
    let mut say = |what: &str| wrong.lost.push(format!("{name} {what}: {record}"));
    if open(record) || state.is_empty() {
        return say("did not come to an end");
    }
    let unknown = record["letter"]["failure"]["kind"] == "outcome_unknown";
    let given_up = matches!(state, "dead" | "waiting-human");
    match kind {
        Kind::Fail if given_up => {}
        Kind::Fail => say("cannot be done, and is not given up on"),
        // Given up on only after failures that somebody can read.
        Kind::Review | Kind::Extract if state == "done" || (given_up && !kinds.is_empty()) => {}
        Kind::Review | Kind::Extract => say("was given up on without a failure"),
        Kind::Tell | Kind::Order | Kind::Charge => match (state, bought) {
            ("done", 0) => say("is done, and the shop never heard of it"),
            ("done", _) => {}
            _ if given_up && (unknown || !kinds.is_empty()) => {}
            _ => say("was given up on without a failure"),
        },
    }
    if kind == Kind::Charge {
        counts.payments += bought as u64;
    }
    // A notification may be sent again when nobody knows whether it was; money and changes may not.
    if matches!(kind, Kind::Order | Kind::Charge) && bought > 1 {
        wrong.repeated.push(format!("{name}: the shop heard of it {bought} times: {record}"));
    }
}

/// A stop on demand ends or gives back everything: the start after it finds nobody's work cut off.
fn told_to_stop(events: &[Value], cuts: &[Cut], wrong: &mut Wrong) {
    let mut ended_well = false;
    for event in events {
        if event["event"] == "team-started" {
            // The first start has epoch 1, and the first cut ends it.
            let before = event["epoch"].as_u64().and_then(|epoch| epoch.checked_sub(2));
            let cut = before.and_then(|nth| cuts.get(usize::try_from(nth).ok()?));
            ended_well = cut.is_some_and(|cut| cut.told);
        } else if ended_well && event["failure"]["kind"] == "process_died" {
            wrong.counted.push(format!("it was told to stop, and: {event}"));
        }
    }
}

/// The key under which the pages of an incident go.
fn key_of(incident: &str) -> String {
    format!("backstop/{TEAM}/{incident}")
}

/// What a person has not been told of an incident; none when all. A call that was overtaken by its end is not sent.
fn unpaged(incident: &Value, books: &Books) -> Option<String> {
    let key = key_of(incident["id"].as_str().unwrap_or_default());
    let sent: Vec<&str> = books.pages.iter().filter(|page| page.key == key).map(|page| page.action.as_str()).collect();
    let over = incident["state"] == "resolved";
    let told = match sent.as_slice() {
        [] => over,
        // One that was refused until it was over: only its end is told.
        pages => pages.contains(if over { &"resolve" } else { &"trigger" }),
    };
    (!told).then(|| format!("{key}: it is {}, and its pages were {sent:?}", incident["state"]))
}

fn pages(
    incidents: &[Value],
    promises: &Promises,
    books: &Books,
    cuts: &[Cut],
    wrong: &mut Wrong,
    counts: &mut Counts,
) {
    let name = |incident: &Value| key_of(incident["id"].as_str().unwrap_or_default());
    let known: BTreeMap<String, &Value> = incidents.iter().map(|incident| (name(incident), incident)).collect();
    counts.incidents = known.len();
    counts.pages = books.pages.len();
    let strangers: BTreeSet<&String> =
        books.pages.iter().map(|page| &page.key).filter(|key| !known.contains_key(*key)).collect();
    wrong.pages.extend(strangers.into_iter().map(|key| format!("doubled: under {key}, of which no incident knows")));
    for (key, incident) in &known {
        wrong.pages.extend(unpaged(incident, books).map(|why| format!("missed: {why}")));
        let sent: Vec<_> = books.pages.iter().filter(|page| page.key == *key).collect();
        let messages = usize::try_from(incident["messages"].as_u64().unwrap_or(0)).expect("a count");
        // One that was taken when the process died, or could not write down that it was, may come again under its key.
        let excused = sent
            .iter()
            .enumerate()
            .filter(|(nth, page)| {
                let before = sent[..*nth].iter().rev().find(|it| it.action == page.action);
                before.is_some_and(|before| cuts.iter().any(|cut| cut.within(before.at, page.at)))
            })
            .count();
        let more = sent.len().saturating_sub(messages);
        counts.sent_again += more.min(excused) as u64;
        if more > excused {
            wrong.pages.push(format!("doubled: {key}: {messages} were meant, {} were sent: {incident}", sent.len()));
        }
        let id = incident["id"].as_str().unwrap_or_default();
        if promises.resolved.iter().any(|resolved| resolved == id) && incident["state"] != "resolved" {
            wrong.other.push(format!("{key} was resolved, and is {}", incident["state"]));
        }
    }
    let open = incidents.iter().filter(|it| it["state"] != "resolved");
    let mut about: BTreeMap<String, u32> = BTreeMap::new();
    for incident in open {
        *about.entry(format!("{} {}", incident["trigger"], incident["subject"])).or_default() += 1;
    }
    let twice = about.into_iter().filter(|(_, count)| *count > 1);
    wrong.pages.extend(twice.map(|(about, count)| format!("doubled: {count} open incidents about {about}")));
}
