//! Who was called: at rest every dead letter is decided about, each task that waits for a person is in an open incident, and
//! three dead letters of an hour are counted in one.
//!
//! Both verdicts hold what a process says against this. Whether an incident was paged about is theirs to see; where none was
//! opened there is no page to miss, and a person who was never called was not missed by anybody.
//!
//! The trap: an incident that is over calls nobody. People of the harness end incidents, and what comes to wait after that is
//! brought up anew by the next look of the team: within moments, or a second after the store takes something again. So this
//! is waited for before it is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstop::time::Timestamp;
use serde_json::Value;

use crate::Outcome;
use crate::project::{Client, Gone};

/// So many dead letters within an hour call a person: what the teams of this harness are configured to.
const TOGETHER: usize = 3;
/// Dead letters as close as this were together within the hour when they were looked at, however late that was, and although
/// the clock was wrong by a minute, and then by a minute the other way.
const WITHIN: Duration = Duration::from_secs(3_600 - 300);

/// What is said when nobody was called: about one task, and about dead letters that come together.
const WAITS: &str = "waits for a person, and no open incident is about it";
const UNCOUNTED: &str = "dead letters within an hour, and no incident counts them";

/// A task given up on, in one of its rounds.
type Round<'a> = (&'a str, u64);

/// What is owed to people. `records`: all tasks, or those of them that wait for a person and those nobody has decided about;
/// `events`: the whole feed, or the deaths in it; `incidents`: all, those that are over too.
pub(crate) fn owed<'a>(
    records: impl IntoIterator<Item = &'a Value>,
    events: impl IntoIterator<Item = &'a Value>,
    incidents: &[Value],
) -> Vec<String> {
    let open = rounds(incidents.iter().filter(|incident| incident["state"] != "resolved"));
    let mut owed = Vec::new();
    for record in records {
        let (task, letter) = (&record["task"], &record["letter"]);
        let round = round_of(&task["id"], &letter["generation"]);
        let name = || format!("{} ({}, round {})", task["idempotency_key"], round.0, round.1);
        if record["state"] == "waiting-human" && !open.contains(&round) {
            owed.push(format!("nobody was called: {} {WAITS}", name()));
        }
        if letter["status"] == "open" {
            owed.push(format!("nobody has decided about {}", name()));
        }
    }
    owed.extend(uncounted(events, incidents));
    owed
}

/// Dead letters that should have called somebody together. One counts once in its life: by the incident that it was in.
fn uncounted<'a>(events: impl IntoIterator<Item = &'a Value>, incidents: &[Value]) -> Option<String> {
    let counts = |incident: &&Value| incident["trigger"] == "dead-letters" || incident["trigger"] == "integration";
    let counted = rounds(incidents.iter().filter(counts));
    let mut died: BTreeMap<Round<'a>, Timestamp> = BTreeMap::new();
    for event in events {
        let round = round_of(&event["task"], &event["generation"]);
        if event["event"] == "dead-lettered" && !counted.contains(&round) {
            // Times that cannot be read are all the same.
            let at = event["at"].as_str().and_then(|at| Timestamp::parse(at).ok()).unwrap_or_default();
            died.entry(round).or_insert(at);
        }
    }
    let mut died: Vec<(Timestamp, Round<'a>)> = died.into_iter().map(|(round, at)| (at, round)).collect();
    died.sort_unstable();
    let together = died.windows(TOGETHER).find(|few| few[TOGETHER - 1].0.since(few[0].0) < WITHIN)?;
    Some(format!("nobody was called: {TOGETHER} {UNCOUNTED}: {together:?}"))
}

/// The dead letters that are in any of these incidents.
fn rounds<'a>(incidents: impl Iterator<Item = &'a Value>) -> BTreeSet<Round<'a>> {
    let deaths = incidents.flat_map(|incident| incident["deaths"].as_array().into_iter().flatten());
    deaths.map(|death| round_of(&death[0], &death[1])).collect()
}

fn round_of<'a>(task: &'a Value, generation: &Value) -> Round<'a> {
    (task.as_str().unwrap_or_default(), generation.as_u64().unwrap_or(0))
}

/// Looks again and again whether anything is owed to people by a process, and reads no event twice.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The number of the last event that was read.
    read: u64,
    deaths: Vec<Value>,
    incidents: Vec<Value>,
}

impl Watch {
    /// The incidents as they were at the last look, those that are over too.
    pub(crate) fn incidents(&self) -> &[Value] {
        &self.incidents
    }

    /// What is owed still; none when nothing is.
    pub(crate) async fn owed(&mut self, client: &Client) -> Result<Option<String>, Gone> {
        Ok(match self.look(client).await? {
            Ok(records) => owed(&records, &self.deaths, &self.incidents).into_iter().next(),
            Err(why) => Some(why),
        })
    }

    /// In this order: who is decided about meanwhile is found among those that wait, and who waits, in an incident.
    async fn look(&mut self, client: &Client) -> Result<Outcome<Vec<Value>>, Gone> {
        let mut records = Vec::new();
        for path in ["/api/v1/dead-letters?status=open", "/api/v1/tasks?states=waiting-human"] {
            match client.every(path, None).await? {
                Ok(found) => records.extend(found),
                Err(why) => return Ok(Err(why)),
            }
        }
        let events = match client.every("/api/v1/events", Some(self.read.to_string())).await? {
            Ok(events) => events,
            Err(why) => return Ok(Err(why)),
        };
        self.read = events.last().and_then(|event| event["seq"].as_u64()).unwrap_or(self.read);
        self.deaths.extend(events.into_iter().filter(|event| event["event"] == "dead-lettered"));
        // All there are, on one page.
        let (status, page) = client.get("/api/v1/incidents").await?;
        let Some(incidents) = page["items"].as_array().filter(|_| status == 200) else {
            return Ok(Err(format!("incidents cannot be read: {status} {page}")));
        };
        self.incidents.clone_from(incidents);
        Ok(Ok(records))
    }
}

/// As if nobody had been called about the dead letters there are: takes their open incident out of what was read, and names
/// it, so that its pages can go, too. For controls.
pub(crate) fn take_away(incidents: &mut Vec<Value>) -> Outcome<String> {
    let about = |incident: &Value| incident["trigger"] == "dead-letters" && incident["state"] != "resolved";
    let nth = incidents.iter().position(about).ok_or("no incident about dead letters is open")?;
    Ok(incidents.remove(nth)["id"].as_str().unwrap_or_default().to_owned())
}

/// What should be said after [`take_away`], and was not.
pub(crate) fn unsaid(found: &str) -> Option<&'static str> {
    [WAITS, UNCOUNTED].into_iter().find(|words| !found.contains(words))
}
