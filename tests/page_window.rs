//! A human is called for three dead letters within an hour, once: the table `page_window.toml`, played event by event.
//!
//! The rules are given what a team would give them: deaths, the stored incidents, the outbox of pages, and a clock that
//! is monotonic inside a process and resumes at `max(stored, wall)` after a restart.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is matched are the values of a table, not our enums")]

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::escalation::{self, Rules, Step};
use backstop::failure::{Class, Kind};
use backstop::incident::{self, Incident, IncidentChange, IncidentCommand, Opening, Page, PageAction, Trigger};
use backstop::outbox::{self, Tried};
use backstop::query::Death;
use backstop::task::{AgentName, Integration, TaskId, TaskType};
use backstop::time::Timestamp;
use toml::{Table, Value};

use crate::support::Roll;

#[test]
fn the_page_window_table_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/page_window.toml");
    let text = std::fs::read_to_string(path).expect("the table");
    let table: Table = text.parse().expect("TOML");
    let cases = table["case"].as_array().expect("cases");
    let mut wrong = Vec::new();
    let mut roll = Roll::of("page_window", &text);
    for case in cases {
        let case = case.as_table().expect("a case");
        let id = case["id"].as_str().expect("an id");
        if let Err(why) = check(case) {
            wrong.push(format!("{id} {}: {why}", case["title"].as_str().unwrap_or_default()));
        }
        roll.held(id);
    }
    assert!(!cases.is_empty() && wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    roll.complete();
}

fn check(case: &Table) -> Result<(), String> {
    for key in case.keys() {
        assert!(
            ["id", "title", "source", "note", "events", "burst", "expect", "expect_counts"].contains(&key.as_str()),
            "unknown key {key}"
        );
    }
    let mut world = World::new();
    if let Some(burst) = case.get("burst") {
        let n = whole(&burst["n"]);
        let (from, to) = (millis(&burst["from"]), millis(&burst["to"]));
        for i in 0..n {
            let at = if n > 1 { from + (to - from) * i / (n - 1) } else { from };
            world.pass_to(at);
            world.dead_letter(&format!("entry-{i}"), 1);
        }
        world.pass_to(to);
    }
    for event in case.get("events").and_then(Value::as_array).unwrap_or(&Vec::new()) {
        let event = event.as_array().expect("an event");
        world.pass_to(millis(&event[0]));
        world.happens(event[1].as_str().expect("an op"), &event[2..]);
    }
    if let Some(expected) = case.get("expect") {
        let expected: Vec<(i64, String)> = expected
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (millis(&one[0]), one[1].as_str().expect("a kind").to_owned()))
            .filter(|(_, kind)| kind != "none")
            .collect();
        if world.said != expected {
            return Err(format!("said {:?}, expected {expected:?} (milliseconds)", world.said));
        }
    }
    if let Some(counts) = case.get("expect_counts") {
        world.drain();
        for (what, expected) in counts.as_table().expect("counts") {
            let (name, bound) = match what.strip_suffix("_max") {
                Some(name) => (name, Bound::Most),
                None => what.strip_suffix("_min").map_or((what.as_str(), Bound::Exactly), |name| (name, Bound::Least)),
            };
            let (count, expected) = (world.count(name), whole(expected));
            let holds = match bound {
                Bound::Exactly => count == expected,
                Bound::Most => count <= expected,
                Bound::Least => count >= expected,
            };
            if !holds {
                return Err(format!("{what} is {count}, expected {expected}"));
            }
        }
    }
    Ok(())
}

enum Bound {
    Exactly,
    Most,
    Least,
}

fn whole(value: &Value) -> i64 {
    value.as_integer().unwrap_or_else(|| panic!("{value:?} is no whole number"))
}

/// Seconds as the table writes them, in milliseconds as the world counts them.
fn millis(value: &Value) -> i64 {
    match value {
        Value::Integer(seconds) => seconds * 1_000,
        Value::Float(seconds) => Duration::from_secs_f64(*seconds).as_millis().try_into().expect("a time"),
        other => panic!("{other:?} is no time"),
    }
}

/// True time passes; what the rules see is the window's clock.
struct World {
    /// True milliseconds since the beginning.
    now: i64,
    /// By how much the wall clock is off the true time.
    wall_off: i64,
    /// By how much the window's clock is off the true time, in this process.
    clock_off: i64,
    /// The latest time the store was told.
    stored: i64,
    deaths: Vec<Death>,
    ids: BTreeMap<String, TaskId>,
    incidents: Vec<Incident>,
    outbox: Vec<Page>,
    pager_down: bool,
    said: Vec<(i64, String)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            wall_off: 0,
            clock_off: 0,
            stored: 0,
            deaths: Vec::new(),
            ids: BTreeMap::new(),
            incidents: Vec::new(),
            outbox: Vec::new(),
            pager_down: false,
            said: Vec::new(),
        }
    }

    /// Lets time pass: whatever the rules want to look at on the way is looked at when it is due.
    fn pass_to(&mut self, to: i64) {
        while let Some(next) = self.next_due().filter(|next| *next <= to) {
            self.now = self.now.max(next);
            self.look();
        }
        self.now = self.now.max(to);
        self.look();
    }

    /// Lets time pass until every page is delivered or given up. Nobody is called again meanwhile.
    fn drain(&mut self) {
        while let Some(due) = self.outbox.iter().filter(|page| undelivered(page)).map(|page| page.due).min() {
            self.now = self.now.max(self.true_time(due));
            self.send_due();
        }
    }

    fn next_due(&self) -> Option<i64> {
        let open = self.incidents.iter().filter_map(Incident::standing).filter_map(|open| escalation::next_at(&open));
        let pages = self.outbox.iter().filter(|page| undelivered(page)).map(|page| page.due);
        open.chain(pages).min().map(|at| self.true_time(at))
    }

    fn clock(&self) -> Timestamp {
        Timestamp::from_millis(self.now + self.clock_off)
    }

    fn true_time(&self, at: Timestamp) -> i64 {
        at.millis() - self.clock_off
    }

    fn happens(&mut self, op: &str, rest: &[Value]) {
        let word = |i: usize| rest.get(i).and_then(Value::as_str).expect("a word").to_owned();
        match op {
            "dlq" => self.dead_letter(&word(0), u32::try_from(whole(&rest[1])).expect("a generation")),
            // The same notification once more: the store has the death already and notes nothing.
            "dup" => {
                let id = self.id(&word(0));
                let generation = u32::try_from(whole(&rest[1])).expect("a generation");
                if !self.deaths.iter().any(|death| (death.task, death.generation) == (id, generation)) {
                    self.dead_letter(&word(0), generation);
                }
                self.look();
            }
            // A dry run writes nothing.
            "dry_run" => self.look(),
            "ack" => self.answer(IncidentCommand::Acknowledge { by: word(0), note: String::new() }),
            "resolve" => self.answer(IncidentCommand::Resolve { by: word(0), note: String::new() }),
            "override" => self.answer(IncidentCommand::Override {
                by: word(0),
                note: String::new(),
                decision: "discard".to_owned(),
                tasks: 0,
                covers: u32::MAX,
            }),
            "jump" => self.wall_off += millis(&rest[0]),
            "restart" => {
                self.stored = self.stored.max(self.now + self.clock_off);
                self.clock_off = self.stored.max(self.now + self.wall_off) - self.now;
                // What a process knows beyond its store is gone: there is nothing.
                let text = serde_json::to_string(&(&self.deaths, &self.incidents, &self.outbox)).expect("JSON");
                (self.deaths, self.incidents, self.outbox) = serde_json::from_str(&text).expect("JSON");
                self.look();
            }
            "pager_down" => self.pager_down = true,
            "pager_up" => self.pager_down = false,
            "tick" => self.look(),
            other => panic!("unknown op {other}"),
        }
    }

    fn id(&mut self, entry: &str) -> TaskId {
        let n = u8::try_from(self.ids.len()).expect("few entries");
        *self.ids.entry(entry.to_owned()).or_insert_with(|| TaskId::new(Timestamp::from_millis(0), [n; 10]))
    }

    fn dead_letter(&mut self, entry: &str, generation: u32) {
        let task_type = if entry.starts_with("page-task") { escalation::PAGE_TASK_TYPE } else { "order" };
        let death = Death {
            task: self.id(entry),
            generation,
            at: self.clock(),
            agent: AgentName::new("backend").expect("a name"),
            task_type: TaskType::new(task_type).expect("a name"),
            class: Class::Transient,
            kind: Kind::Overloaded,
            integration: Some(Integration::new("anthropic").expect("a name")),
        };
        self.stored = self.stored.max(self.now + self.clock_off);
        self.deaths.push(death);
        self.look();
    }

    fn answer(&mut self, command: IncidentCommand) {
        // An answer that comes second, or to nothing, changes nothing.
        let Some(incident) = self.incidents.iter().find(|incident| incident.is_open()) else { return };
        if let Ok(change) = incident::apply(incident, command, &Rules::default(), self.clock()) {
            self.store(change);
        }
    }

    /// What a team does whenever it is woken: ask the rules, store, send.
    fn look(&mut self) {
        let (rules, now) = (Rules::default(), self.clock());
        let at = self.incidents.iter().position(Incident::is_open);
        let standing = at.and_then(|at| self.incidents[at].standing());
        let counted = incident::counted(&self.incidents);
        for step in escalation::judge(&self.deaths, &counted, standing.as_ref(), &rules, now) {
            let command = match step {
                Step::Open(deaths) => {
                    let opening = Opening {
                        id: format!("INC-{}", self.incidents.len() + 1),
                        trigger: Trigger::DeadLetters,
                        subject: String::new(),
                        deaths,
                        why: String::new(),
                        runbook: None,
                        in_doubt: Vec::new(),
                    };
                    self.said.push((self.now, "page".to_owned()));
                    self.store(incident::open(opening, &rules, now));
                    continue;
                }
                Step::Append(deaths) => IncidentCommand::Append(deaths),
                Step::Update => {
                    self.said.push((self.now, "update".to_owned()));
                    IncidentCommand::Update
                }
                Step::Repage => {
                    self.said.push((self.now, "repage".to_owned()));
                    IncidentCommand::Repage
                }
            };
            let at = at.expect("an open incident");
            let change = incident::apply(&self.incidents[at], command, &rules, now).expect("it is open");
            self.store(change);
        }
        self.send_due();
    }

    fn store(&mut self, change: IncidentChange) {
        let now = self.clock();
        let on_call = [vec!["pagerduty".to_owned(), "email".to_owned()]];
        for draft in &change.pages {
            self.outbox.extend(outbox::pages(&change.incident, draft, "acme", &on_call, now));
        }
        match self.incidents.iter_mut().find(|incident| incident.id == change.incident.id) {
            Some(incident) => *incident = change.incident,
            None => self.incidents.push(change.incident),
        }
        self.stored = self.stored.max(self.now + self.clock_off);
    }

    fn send_due(&mut self) {
        let now = self.clock();
        let steps = [vec!["pagerduty".to_owned(), "email".to_owned()]];
        for incident in &self.incidents {
            let of: Vec<Page> = self.outbox.iter().filter(|page| page.incident.id == incident.id).cloned().collect();
            self.outbox.extend(outbox::stand_ins(&of, &steps, now));
        }
        let before = self.outbox.clone();
        for page in &mut self.outbox {
            if outbox::superseded(page, &before) {
                page.abandoned = true;
            } else if undelivered(page) && page.due <= now {
                let how = if page.channel == "pagerduty" && self.pager_down {
                    Tried::Later { error: "503".to_owned(), retry_after: None }
                } else {
                    Tried::Taken { to: page.channel.clone() }
                };
                (*page, _) = outbox::tried(page, how, now);
            }
        }
    }

    fn count(&self, name: &str) -> i64 {
        let said = |kind: &str| self.said.iter().filter(|(_, said)| said == kind).count();
        let delivered = |channel: &str, actions: &[PageAction]| {
            let taken = self.outbox.iter().filter(|page| page.channel == channel && page.delivered_at.is_some());
            taken.filter(|page| actions.contains(&page.action)).count()
        };
        let count = match name {
            "page" | "repage" | "update" => said(name),
            "page_delivered" => delivered("pagerduty", &[PageAction::Trigger]),
            "email" => delivered("email", &[PageAction::Trigger]),
            "update_delivered" => delivered("pagerduty", &[PageAction::Update]),
            "incidents" => self.incidents.len(),
            "open" => self.incidents.iter().filter(|incident| incident.is_open()).count(),
            "dedup_keys" => {
                let keys: std::collections::BTreeSet<&str> =
                    self.outbox.iter().map(|page| page.dedup_key.as_str()).collect();
                keys.len()
            }
            other => panic!("unknown count {other}"),
        };
        i64::try_from(count).expect("few")
    }
}

fn undelivered(page: &Page) -> bool {
    page.delivered_at.is_none() && !page.abandoned
}

#[test]
fn a_page_that_is_refused_goes_through_every_other_channel_at_once() {
    let now = Timestamp::from_millis(0);
    let steps = [vec!["pagerduty".to_owned()], vec!["webhook".to_owned()]];
    let opening = Opening {
        id: "INC-1".to_owned(),
        trigger: Trigger::Test,
        subject: String::new(),
        deaths: Vec::new(),
        why: String::new(),
        runbook: None,
        in_doubt: Vec::new(),
    };
    let opened = incident::open(opening, &Rules::default(), now);
    let first = outbox::pages(&opened.incident, &opened.pages[0], "acme", &steps, now);
    let channels = |pages: &[Page]| pages.iter().map(|page| page.channel.clone()).collect::<Vec<_>>();
    assert_eq!(channels(&first), ["pagerduty"]);
    assert_eq!(outbox::stand_ins(&first, &steps, now), [], "it is only being tried");

    let (refused, _) = outbox::tried(&first[0], Tried::Never { error: "400".to_owned() }, now);
    let stand_ins = outbox::stand_ins(std::slice::from_ref(&refused), &steps, now);
    assert_eq!(channels(&stand_ins), ["webhook", "log"]);
    let mut all = vec![refused];
    all.extend(stand_ins);
    assert_eq!(outbox::stand_ins(&all, &steps, now), [], "each once");

    let down = || Tried::Later { error: "503".to_owned(), retry_after: None };
    let (waiting, _) = outbox::tried(&first[0], down(), now);
    assert_eq!(waiting.due, now + Duration::from_secs(60));
    let at = now + Duration::from_secs(299);
    assert_eq!(outbox::stand_ins(std::slice::from_ref(&waiting), &steps, at), []);
    let at = now + Duration::from_secs(300);
    let stand_ins = outbox::stand_ins(std::slice::from_ref(&waiting), &steps, at);
    assert_eq!(channels(&stand_ins), ["webhook", "log"]);

    let three = [vec!["pagerduty".to_owned()], vec!["webhook".to_owned()], vec!["email".to_owned()]];
    let mut all = vec![waiting];
    all.extend(outbox::stand_ins(&all, &three, at).into_iter().filter(|page| page.channel == "webhook"));
    let later = now + Duration::from_secs(599);
    assert_eq!(outbox::stand_ins(&all, &three, later), [], "the next step has its own five minutes");
    let later = now + Duration::from_secs(600);
    assert_eq!(channels(&outbox::stand_ins(&all, &three, later)), ["email", "log"]);
}

/// A page that nobody has tried to send yet, written at 0.
fn untried() -> Page {
    let opening = Opening {
        id: "INC-1".to_owned(),
        trigger: Trigger::CeoDown,
        subject: String::new(),
        deaths: Vec::new(),
        why: String::new(),
        runbook: None,
        in_doubt: Vec::new(),
    };
    let opened = incident::open(opening, &Rules::default(), Timestamp::from_millis(0));
    outbox::pages(&opened.incident, &opened.pages[0], "acme", &[], Timestamp::from_millis(0)).remove(0)
}

#[test]
fn a_page_is_tried_for_a_day_and_retry_after_is_a_floor() {
    let mut page = untried();
    assert_eq!(page.channel, "log", "without anybody on call");
    let asked = Tried::Later { error: "429".to_owned(), retry_after: Some(Duration::from_secs(600)) };
    (page, _) = outbox::tried(&page, asked, Timestamp::from_millis(0));
    assert_eq!(page.due, Timestamp::from_millis(600_000));
    let mut tries = 1;
    while !page.abandoned {
        let now = page.due;
        (page, _) = outbox::tried(&page, Tried::Later { error: "503".to_owned(), retry_after: None }, now);
        tries += 1;
    }
    assert_eq!(tries, 290, "1 + 2 + 4 minutes and then every 5, for 24 hours");
}

/// A gateway under repair answered 503 with a Retry-After of a day, and was back in five minutes: the person on call heard of
/// the incident a day later. However long a channel has been down, it is tried again within minutes.
#[test]
fn a_channel_that_asks_for_a_day_is_tried_again_within_minutes() {
    for (tries, hint, minutes) in [(1, 86_400, 15), (100, 86_400, 15), (1, u64::MAX, 15), (1, 30, 1), (288, 30, 5)] {
        let mut page = untried();
        page.tries = tries - 1;
        let asked = Tried::Later { error: "503".to_owned(), retry_after: Some(Duration::from_secs(hint)) };
        let (page, _) = outbox::tried(&page, asked, Timestamp::from_millis(0));
        let due = Timestamp::from_millis(minutes * 60_000);
        assert_eq!((page.due, page.abandoned), (due, false), "try {tries}, told {hint} s");
    }
}
