//! Dead letters are sent round again slowly, oldest first, and never more than asked: the table `dlq_replay.toml`,
//! played against real records and the real ledger.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is matched are the values of a table, not our enums")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstop::agent::Incarnation;
use backstop::delivery::{AttemptEnd, Settlement, Spent};
use backstop::failure::{Action, Class, Failure, Fallback, Kind, Origin, Signal};
use backstop::ledger::{self, Command};
use backstop::query::Filter;
use backstop::queue::{self, Queues};
use backstop::record::Record;
use backstop::replay::{self, Fate, Plan, Replay, ReplayAsk, ReplayCommand, ReplayState, Taken, Turn, Verdict};
use backstop::task::{AgentName, Effect, Integration, Priority, Task, TaskId, TaskType};
use backstop::time::Timestamp;
use serde_json::json;
use toml::{Table, Value};

use crate::support::Roll;

/// How long a released letter runs before its result is in.
const RUNS_FOR: i64 = 200;
/// An agent that is not in the team.
const GONE: &str = "gone";

#[test]
fn the_replay_table_holds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/dlq_replay.toml");
    let read = std::fs::read_to_string(path).expect("the table");
    let table: Table = read.parse().expect("TOML");
    let cases = table["case"].as_array().expect("cases");
    let mut wrong = Vec::new();
    let mut roll = Roll::of("dlq_replay", &read);
    for case in cases {
        let case = case.as_table().expect("a case");
        if let Err(why) = check(case) {
            wrong.push(format!("{} {}: {why}", text(&case["id"]), text(&case["title"])));
        }
        roll.held(&text(&case["id"]));
    }
    assert!(!cases.is_empty() && wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    roll.complete();
}

fn check(case: &Table) -> Result<(), String> {
    let given = case["given"].as_table().expect("what is given");
    if given.contains_key("live_rate") {
        return check_share(given, case);
    }
    let mut world = World::of(given);
    let before = world.records.clone();
    let ask = world.ask.clone();
    let plan = world.plan(&ask, &BTreeSet::new());
    if world.records != before {
        return Err("the plan changed something".to_owned());
    }
    let only_planned = case.contains_key("plan") || case.contains_key("matches");
    let others = given.get("parallel_replays_of_same_entry").map_or(1, whole);
    let mut refused = 0;
    for _ in 1..others {
        let busy = plan.chosen().collect();
        refused += world.plan(&ask, &busy).count(Verdict::AlreadyReplaying);
    }
    let run = if only_planned { None } else { Some(world.run(plan.clone())) };
    for (key, expected) in case {
        match key.as_str() {
            "id" | "title" | "source" | "note" | "given" => {}
            "plan" => holds(expected, |what| world.planned(&plan, what))?,
            "matches" => same("matches", whole(expected), count(plan.entries.len()))?,
            "state_changes" => same("state_changes", whole(expected), i64::from(world.records != before))?,
            "releases" => world.check_releases(expected)?,
            "order" => same("order", words(expected), world.order())?,
            "expect" => {
                let run = run.as_ref().expect("it ran");
                world.check_end(expected, given, run, refused)?;
            }
            other => panic!("unknown key {other}"),
        }
    }
    Ok(())
}

/// Live work keeps its share beside a replay that sends more than their agent can do: what is submitted and what is released
/// stand in its one queue, which is asked for the next task as often as a slot is free.
fn check_share(given: &Table, case: &Table) -> Result<(), String> {
    const MINUTE: i64 = 60_000;
    let every = |rate: &str| 1_000 / whole(&given[rate]);
    let letters = format!("entries=1000\nrate={}", whole(&given["replay_rate"]));
    let mut world = World::of(&letters.parse::<Table>().expect("TOML"));
    let plan = world.plan(&world.ask, &BTreeSet::new());
    let begin = 10_000_000;
    let at = |ms: i64| Timestamp::from_millis(begin + ms);
    let (mut replay, _) = replay::start("RPL-1".to_owned(), world.ask.clone(), plan, at(0)).expect("begun");
    let agent = AgentName::new("backend").expect("a name");
    let mut line = Line::default();
    let (mut look_at, mut over) = (Some(at(0)), Vec::new());
    let (mut submitted, mut served, mut helped) = (0_u32, 0_u32, 0_u32);
    for ms in 0..MINUTE {
        let now = at(ms);
        if ms % every("live_rate") == 0 {
            let live = Entry { created: now.millis(), ..Entry::named("live".to_owned(), 0) };
            line.enter(&fresh(&live, line.entered.len()), None);
            submitted += 1;
        }
        if look_at.is_some_and(|due| due <= now) || !over.is_empty() {
            let crowded = replay::crowded(&agent, line.letters);
            let turn = world.turn(&replay, ms).map(|turn| Turn { held: crowded, ..turn });
            let stepped = replay::step(&replay, &over, turn, now);
            over.clear();
            (replay, look_at) = (stepped.replay, stepped.look_at);
            if let Some(release) = stepped.release {
                world.send(release.task, begin + ms);
                line.enter(&world.records[&release.task], Some(release.task));
            }
        }
        if ms % every("capacity") == 0 {
            match line.next(&agent, now) {
                None => {}
                Some(None) => served += 1,
                Some(Some(letter)) => {
                    world.finish(letter, false, begin + ms);
                    over.push((letter, Fate::Succeeded));
                    helped += 1;
                }
            }
        }
    }
    let share = f64::from(served) / f64::from(submitted);
    let at_least = number(&case["expect"]["live_share_min"]);
    if share < at_least {
        return Err(format!("live work keeps {share}, not {at_least}"));
    }
    if helped == 0 { Err("the replay is starved".to_owned()) } else { Ok(()) }
}

/// The queue of an agent, and what entered it by its number: a letter of the replay, or live work.
#[derive(Default)]
struct Line {
    queues: Queues,
    entered: Vec<Option<TaskId>>,
    /// How many letters wait.
    letters: usize,
}

impl Line {
    fn enter(&mut self, record: &Record, letter: Option<TaskId>) {
        let number = u64::try_from(self.entered.len()).expect("few");
        self.queues.enter(number, &queue::Entry::of(record).expect("it waits"));
        self.letters += usize::from(letter.is_some());
        self.entered.push(letter);
    }

    fn next(&mut self, agent: &AgentName, now: Timestamp) -> Option<Option<TaskId>> {
        let number = self.queues.next(agent, now, &[])?;
        let letter = self.entered[usize::try_from(number).expect("few")];
        self.letters -= usize::from(letter.is_some());
        Some(letter)
    }
}

pub(crate) struct World {
    pub(crate) records: BTreeMap<TaskId, Record>,
    names: BTreeMap<TaskId, String>,
    pub(crate) ask: ReplayAsk,
    /// When each letter was released, in milliseconds since the replay began.
    pub(crate) released: Vec<(i64, TaskId)>,
    fails: Fails,
    /// Letters with a call of which nobody knows whether it happened.
    in_doubt: BTreeSet<TaskId>,
    held: Option<(i64, i64)>,
    paused: Option<(i64, i64)>,
    cancelled: Option<i64>,
    crashes: Option<i64>,
}

enum Fails {
    None,
    All,
    First(usize),
}

impl World {
    pub(crate) fn of(given: &Table) -> Self {
        let mut ask = ReplayAsk::new(Filter::default(), "ana", "the cause is fixed");
        ask.all = true;
        let mut world = Self {
            records: BTreeMap::new(),
            names: BTreeMap::new(),
            ask,
            released: Vec::new(),
            fails: Fails::None,
            in_doubt: BTreeSet::new(),
            held: None,
            paused: None,
            cancelled: None,
            crashes: None,
        };
        world.entries(given);
        let at = |key: &str| given.get(key).map(millis);
        for (key, value) in given {
            match key.as_str() {
                "entries" | "entry" | "payments" | "agent_missing" | "already_resolved" | "generation" => {}
                "parallel_replays_of_same_entry" => {}
                "rate" => world.ask.rate = number(value),
                "abort_rate" => world.ask.abort_rate = number(value),
                "abort_min" => world.ask.abort_min = u32::try_from(whole(value)).expect("a count"),
                "ordering_key" => world.ask.ordering_key = Some(text(value)),
                "all_fail" => world.fails = if value.as_bool() == Some(true) { Fails::All } else { Fails::None },
                "fail_first" => world.fails = Fails::First(usize::try_from(whole(value)).expect("a count")),
                "replay_result" => match text(value).as_str() {
                    "fail" => world.fails = Fails::All,
                    "ok" | "success" => world.fails = Fails::None,
                    other => panic!("unknown result {other}"),
                },
                "breaker_open_from_s" => world.held = at("breaker_open_from_s").zip(at("breaker_open_to_s")),
                "pause_from_s" => world.paused = at("pause_from_s").zip(at("pause_to_s")),
                "breaker_open_to_s" | "pause_to_s" => {}
                "cancel_at_s" | "stop_at_s" => world.cancelled = Some(millis(value)),
                "crash_at_s" => world.crashes = Some(millis(value)),
                "flags" => {
                    for flag in words(value) {
                        // `--yes` only answers the question whether to go on.
                        assert!(["--all", "--yes"].contains(&flag.as_str()), "unknown flag {flag}");
                    }
                }
                "filter" if value.as_str() == Some("all") => {}
                "filter" => world.ask.filter = filter(value.as_table().expect("a filter")),
                "in_doubt" => {
                    let doubted = words(value);
                    let ids = world.names.iter().filter(|(_, name)| doubted.contains(name)).map(|(id, _)| *id);
                    world.in_doubt = ids.collect();
                }
                "named" => {
                    let named = words(value);
                    let ids = world.names.iter().filter(|(_, name)| named.contains(name)).map(|(id, _)| *id);
                    world.ask.payments = ids.collect();
                }
                other => panic!("unknown given {other}"),
            }
        }
        world
    }

    fn entries(&mut self, given: &Table) {
        let one = Value::Integer(1);
        let number = |key: &str| given.get(key).map_or(0, whole);
        match given.get("entries").unwrap_or(&one) {
            Value::Integer(n) => {
                let (payments, missing, resolved) =
                    (number("payments"), number("agent_missing"), number("already_resolved"));
                for i in 0..*n {
                    let mut letter = Entry::named(given.get("entry").map_or_else(|| format!("e{i}"), text), i);
                    if i < payments {
                        letter.effect = Effect::Payment;
                    } else if i < payments + missing {
                        letter.agent = GONE.to_owned();
                    }
                    let id = self.add(&letter);
                    if i >= payments + missing && i < payments + missing + resolved {
                        self.send(id, 1_000_000);
                        self.finish(id, false, 1_000_000);
                    }
                }
            }
            Value::Array(entries) => {
                for (i, entry) in entries.iter().enumerate() {
                    let i = count(i);
                    let letter = match entry {
                        Value::String(name) => match name.split_once('@') {
                            Some((name, at)) => {
                                let mut letter = Entry::named(name.to_owned(), at.parse().expect("a time"));
                                // Submitted in the order of writing, so that age decides and not the id.
                                letter.created = i;
                                letter
                            }
                            None => Entry::named(name.clone(), i),
                        },
                        Value::Array(parts) => Entry::of(parts, given, i),
                        other => panic!("unknown entry {other:?}"),
                    };
                    self.add(&letter);
                }
            }
            other => panic!("unknown entries {other:?}"),
        }
        let generation = given.get("generation").map_or(1, whole);
        for _ in 1..generation {
            for id in self.records.keys().copied().collect::<Vec<_>>() {
                self.send(id, 1_000_000);
                self.finish(id, true, 1_000_000);
            }
        }
    }

    /// A task that was submitted, tried once and given up.
    fn add(&mut self, entry: &Entry) -> TaskId {
        let record = fresh(entry, self.records.len());
        let id = record.task.id;
        self.records.insert(id, record);
        self.names.insert(id, entry.name.clone());
        let kind = entry.kind;
        self.end_with(id, entry.at * 1_000, |_| Settlement::DeadLetter {
            failure: failure(kind),
            why: "3 of 3 deliveries used".to_owned(),
            circumstances: Box::default(),
        });
        id
    }

    fn end_with(&mut self, id: TaskId, at: i64, settlement: impl FnOnce(&Record) -> Settlement) {
        let now = Timestamp::from_millis(at);
        let record = &self.records[&id];
        let claim = Command::Claim {
            agent: record.agent.clone(),
            incarnation: Incarnation(1),
            epoch: 1,
            lease_for: Duration::from_secs(300),
        };
        let (record, _) = ledger::apply(record, claim, now).expect("claimed");
        let command = Command::Settle { fence: record.fence, settlement: settlement(&record), spent: Spent::default() };
        let (record, _) = ledger::apply(&record, command, now).expect("settled");
        self.records.insert(id, record);
    }

    pub(crate) fn send(&mut self, id: TaskId, at: i64) {
        let command = Command::Replay {
            by: "ana".to_owned(),
            named_by_person: self.ask.payments.contains(&id),
            reason: "the cause is fixed".to_owned(),
            amendment: None,
        };
        let (record, _) =
            ledger::apply(&self.records[&id], command, Timestamp::from_millis(at)).expect("may be replayed");
        self.records.insert(id, record);
    }

    pub(crate) fn finish(&mut self, id: TaskId, fails: bool, at: i64) {
        let kind = self.records[&id].letter.as_ref().expect("a letter").failure.kind;
        self.end_with(id, at, |_| match fails {
            false => Settlement::Ack { answer: json!("done") },
            true => Settlement::DeadLetter {
                failure: failure(kind),
                why: "3 of 3 deliveries used".to_owned(),
                circumstances: Box::default(),
            },
        });
    }

    pub(crate) fn plan(&self, ask: &ReplayAsk, busy: &BTreeSet<TaskId>) -> Plan {
        let taken = Taken { busy: busy.clone(), in_doubt: self.in_doubt.clone() };
        let records: Vec<Record> = self.records.values().cloned().collect();
        replay::plan(ask, &records, &|record| record.agent.as_str() != GONE, &taken)
    }

    /// What a team does: stores each step before it releases, and comes back when it said it would.
    pub(crate) fn run(&mut self, plan: Plan) -> Replay {
        let begin = 10_000_000;
        let at = |ms: i64| Timestamp::from_millis(begin + ms);
        let (mut replay, _) = replay::start("RPL-1".to_owned(), self.ask.clone(), plan, at(0)).expect("begun");
        let mut now = 0;
        let mut ends: Vec<(i64, TaskId)> = Vec::new();
        let mut crashed = false;
        for _ in 0..1_000_000 {
            for (_, id) in ends.extract_if(.., |(end, _)| *end <= now).collect::<Vec<_>>() {
                let fails = match self.fails {
                    Fails::None => false,
                    Fails::All => true,
                    Fails::First(n) => replay.results.len() < n,
                };
                self.finish(id, fails, begin + now);
                let fates = self.fates(&replay);
                replay = replay::step(&replay, &fates, None, at(now)).replay;
            }
            if let Some((from, to)) = self.paused {
                if now >= from && now < to && replay.state == ReplayState::Running {
                    (replay, _) = replay::command(&replay, ReplayCommand::Pause, "ana", at(now)).expect("paused");
                }
                if now >= to && replay.state == ReplayState::Paused {
                    (replay, _) = replay::command(&replay, ReplayCommand::Resume, "ana", at(now)).expect("resumed");
                }
            }
            if self.cancelled.is_some_and(|at| now >= at) && !replay.is_over() {
                (replay, _) = replay::command(&replay, ReplayCommand::Cancel, "ana", at(now)).expect("cancelled");
            }
            let fates = self.fates(&replay);
            let stepped = replay::step(&replay, &fates, self.turn(&replay, now), at(now));
            // Stored; and read again, as after a crash.
            let stored = serde_json::to_string(&stepped.replay).expect("JSON");
            replay = serde_json::from_str(&stored).expect("JSON");
            if let Some(release) = stepped.release {
                self.released.push((now, release.task));
                let dies_here = !crashed && self.crashes.is_some_and(|at| now >= at);
                crashed |= dies_here;
                if dies_here {
                    // The process ends between storing and sending; the next one finds it unsent.
                    let fate = replay::fate(&self.records[&release.task], release.generation);
                    assert_eq!(fate, Fate::Unsent);
                }
                self.send(release.task, begin + now);
                assert_eq!(self.records[&release.task].generation, release.generation);
                ends.push((now + RUNS_FOR, release.task));
                continue;
            }
            let looks = stepped.look_at.map(|at| at.millis() - begin);
            let edges = [self.held, self.paused].into_iter().flatten().flat_map(|(from, to)| [from, to]);
            let others = edges.chain(self.cancelled).chain(ends.iter().map(|(end, _)| *end));
            match others.chain(looks).filter(|at| *at > now).min() {
                Some(next) => now = next,
                None => return replay,
            }
        }
        panic!("the replay does not end: {replay:?}");
    }

    fn fates(&self, replay: &Replay) -> Vec<(TaskId, Fate)> {
        replay.released.iter().map(|(id, round)| (*id, replay::fate(&self.records[id], *round))).collect()
    }

    fn turn(&self, replay: &Replay, now: i64) -> Option<Turn> {
        let task = replay.turn()?;
        let record = &self.records[&task];
        let capable = record.agent.as_str() != GONE;
        let held = self.held.is_some_and(|(from, to)| now >= from && now < to);
        Some(Turn {
            task,
            generation: record.generation,
            verdict: replay::verdict(
                &replay.ask,
                record,
                capable,
                &Taken { busy: BTreeSet::new(), in_doubt: self.in_doubt.clone() },
            ),
            held: held.then(|| "the breaker of anthropic is open".to_owned()),
        })
    }

    fn planned(&self, plan: &Plan, what: &str) -> i64 {
        count(match what {
            "would_replay" => plan.count(Verdict::Replay),
            "answer_first" => plan.count(Verdict::AnswerFirst),
            "needs_human" => plan.count(Verdict::NeedsPerson),
            "would_fail_no_agent" => plan.count(Verdict::NoAgent),
            "skipped_resolved" => plan.count(Verdict::Resolved),
            "skipped_replays_used_up" => plan.count(Verdict::ReplaysUsedUp),
            "skipped_already_replaying" => plan.count(Verdict::AlreadyReplaying),
            other => panic!("unknown verdict {other}"),
        })
    }

    fn check_releases(&self, expected: &Value) -> Result<(), String> {
        let times: Vec<i64> = self.released.iter().map(|(at, _)| *at).collect();
        for (key, value) in expected.as_table().expect("expectations") {
            match key.as_str() {
                "first" => same("first", Some(&millis(value)), times.first())?,
                "last" => same("last", Some(&millis(value)), times.last())?,
                "count" => same("count", whole(value), count(times.len()))?,
                "max_in_any_1s" => {
                    let within = |from: i64| times.iter().filter(|at| **at >= from && **at < from + 1_000).count();
                    let most = times.iter().map(|from| within(*from)).max().unwrap_or(0);
                    at_most("max_in_any_1s", count(most), whole(value))?;
                }
                other => panic!("unknown expectation {other}"),
            }
        }
        Ok(())
    }

    fn check_end(&self, expected: &Value, given: &Table, run: &Replay, refused: usize) -> Result<(), String> {
        let (from, to) = self.held.or(self.paused).unwrap_or((0, 0));
        let between =
            |from: i64, to: i64| count(self.released.iter().filter(|(at, _)| *at >= from && *at < to).count());
        let the_one = || self.records.values().next().expect("an entry");
        let names =
            |ids: &mut dyn Iterator<Item = TaskId>| ids.map(|id| self.names[&id].clone()).collect::<BTreeSet<String>>();
        for (key, value) in expected.as_table().expect("expectations") {
            match key.as_str() {
                "entry" => same("entry", text(value), self.names[&the_one().task.id].clone())?,
                "generation" => same("generation", whole(value), i64::from(the_one().generation))?,
                "history" => {
                    let given_up = |end: Option<AttemptEnd>| end == Some(AttemptEnd::DeadLetter);
                    let deaths = the_one().attempts.iter().filter(|attempt| given_up(attempt.end)).count();
                    same("history", whole(value), count(deaths))?;
                }
                "entries_total" => same("entries_total", whole(value), count(self.records.len()))?,
                "runs" => same("runs", whole(value), count(self.released.len()))?,
                "refused" => same("refused", whole(value), count(refused))?,
                "released_max" => at_most("released", count(run.sent()), whole(value))?,
                "left_min" => at_most("-left", -count(run.pending.len()), -whole(value))?,
                "state" => same("state", text(value), run.state.to_string())?,
                "finished" => same("finished", whole(value), count(run.succeeded.len()))?,
                "attempts_per_task" => {
                    let attempts = self.records.values().map(|record| i64::from(record.attempt));
                    same("attempts_per_task", BTreeSet::from([whole(value)]), attempts.collect())?;
                }
                "released_between" => same("released_between", whole(value), between(from, to))?,
                "released" if value.is_integer() => same("released", whole(value), count(run.sent()))?,
                "released" => {
                    let released = names(&mut self.released.iter().map(|(_, id)| *id));
                    same("released", words(value).into_iter().collect(), released)?;
                }
                "waiting_human" => {
                    let waiting = run.left_out.iter().filter(|(_, verdict)| *verdict == Verdict::NeedsPerson);
                    let waiting = names(&mut waiting.map(|(id, _)| *id));
                    same("waiting_human", words(value).into_iter().collect(), waiting)?;
                }
                other => match other.strip_prefix("released_before_").and_then(|at| at.strip_suffix('s')) {
                    Some(at) => {
                        let at: f64 = at.parse().expect("a time");
                        same(other, whole(value), between(0, millis(&Value::Float(at))))?;
                    }
                    None => panic!("unknown expectation {other} of {given:?}"),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn order(&self) -> Vec<String> {
        self.released.iter().map(|(_, id)| self.names[id].clone()).collect()
    }
}

struct Entry {
    name: String,
    agent: String,
    task_type: String,
    effect: Effect,
    kind: Kind,
    payload: serde_json::Value,
    /// When it was submitted, in milliseconds.
    created: i64,
    /// When it was given up, in seconds.
    at: i64,
}

impl Entry {
    fn named(name: String, at: i64) -> Self {
        Self {
            name,
            agent: "backend".to_owned(),
            task_type: "order".to_owned(),
            effect: Effect::Mutation,
            kind: Kind::Timeout,
            payload: json!({}),
            created: 0,
            at,
        }
    }

    /// `[agent, type, error, at]`, `[key, name, at]` when there is an ordering key, else `[name, type]`.
    fn of(parts: &[Value], given: &Table, i: i64) -> Self {
        match (given.get("ordering_key"), parts) {
            (Some(field), [key, name, at]) => {
                let mut entry = Self::named(text(name), whole(at));
                entry.payload = json!({ text(field): text(key) });
                entry.created = whole(at);
                entry
            }
            (None, [agent, task_type, error, at]) => {
                let mut entry = Self::named(format!("e{i}"), whole(at));
                (entry.agent, entry.task_type) = (text(agent), text(task_type));
                entry.kind = text(error).parse().expect("a kind");
                entry
            }
            (None, [name, task_type]) => {
                let mut entry = Self::named(text(name), i);
                entry.task_type = text(task_type);
                if entry.task_type == "payment" {
                    entry.effect = Effect::Payment;
                }
                entry
            }
            (_, other) => panic!("unknown entry {other:?}"),
        }
    }
}

/// A task that was just submitted, with a number of its own.
fn fresh(entry: &Entry, n: usize) -> Record {
    let n = u64::try_from(n).expect("few").to_be_bytes();
    let dice = [0, 0, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
    let created_at = Timestamp::from_millis(entry.created);
    let task = Task {
        id: TaskId::new(created_at, dice),
        task_type: TaskType::new(&entry.task_type).expect("a name"),
        agent: AgentName::new(&entry.agent).expect("a name"),
        payload: entry.payload.clone(),
        effect: entry.effect,
        priority: Priority::Normal,
        idempotency_key: None,
        deadline: None,
        tenant: None,
        prompt: None,
        created_at,
    };
    Record::new(task, Integration::new("anthropic").expect("a name"), created_at).0
}

fn filter(given: &Table) -> Filter {
    let mut filter = Filter::default();
    for (key, value) in given {
        match key.as_str() {
            "agent" => filter.agent = Some(text(value).parse().expect("a name")),
            "type" => filter.task_type = Some(text(value).parse().expect("a name")),
            "error" | "kind" => filter.kind = Some(text(value).parse().expect("a kind")),
            "class" => filter.class = Some(text(value).parse().expect("a class")),
            "effect" => filter.effect = Some(text(value).parse().expect("an effect")),
            "integration" => filter.integration = Some(text(value).parse().expect("a name")),
            "text" => filter.text = Some(text(value)),
            "since" => filter.since = Some(Timestamp::from_millis(millis(value))),
            "until" => filter.until = Some(Timestamp::from_millis(millis(value))),
            other => panic!("unknown filter {other}"),
        }
    }
    filter
}

fn failure(kind: Kind) -> Failure {
    let validation = matches!(kind, Kind::Schema | Kind::MissingField | Kind::Constraint);
    let class = if validation { Class::Validation } else { Class::Transient };
    Failure {
        class,
        kind,
        origin: Origin::Integration,
        action: Action::Backoff,
        retry: true,
        retry_after: None,
        fallback: Fallback::AfterRetries,
        signal: Signal::Count,
        page: false,
        message: format!("{kind}"),
        rule: "test".to_owned(),
        integration: None,
        status: None,
        code: None,
        request_id: None,
    }
}

fn holds(expected: &Value, is: impl Fn(&str) -> i64) -> Result<(), String> {
    let expected = expected.as_table().expect("expectations");
    expected.iter().try_for_each(|(what, value)| same(what, whole(value), is(what)))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, is: T) -> Result<(), String> {
    if expected == is { Ok(()) } else { Err(format!("{what} is {is:?}, expected {expected:?}")) }
}

fn at_most(what: &str, is: i64, most: i64) -> Result<(), String> {
    if is <= most { Ok(()) } else { Err(format!("{what} is {is}, more than {most}")) }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).expect("few")
}

fn whole(value: &Value) -> i64 {
    value.as_integer().unwrap_or_else(|| panic!("{value:?} is no whole number"))
}

fn number(value: &Value) -> f64 {
    value.as_float().unwrap_or_else(|| whole(value) as f64)
}

fn millis(value: &Value) -> i64 {
    (number(value) * 1_000.0).round() as i64
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text")).to_owned()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().unwrap_or_else(|| panic!("{value:?} is no list")).iter().map(text).collect()
}
