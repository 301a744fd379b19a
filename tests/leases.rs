//! Leases, heartbeats and fences, as `conformance/lease.toml` tells them, on both engines.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Incarnation;
use backstop::cause::Cause;
use backstop::dead_letter::Circumstances;
use backstop::delivery::{Outcome, Settlement, Spent};
use backstop::engine::conformance::{Site, ack, agent, at, failure, integration, settle, task};
use backstop::engine::{Engine, Error, LeaseAsk};
use backstop::failure::{Class, Failure, Kind};
use backstop::judgement::{Judgement, Scene, classify};
use backstop::ledger::{Command, Refused};
use backstop::record::{Record, State};
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::settle::{SettleFacts, is_crash, settle as settle_it};
use backstop::task::{Effect, Task, TaskId};
use backstop::time::Timestamp;
use serde::Deserialize;
use toml::Value;

use crate::engine::{InMemory, OnDisk};
use crate::support::Roll;

#[derive(Deserialize)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    #[serde(rename = "source")]
    _source: String,
    kind: Option<Effect>,
    #[serde(default = "five_minutes")]
    ttl: u64,
    steps: Vec<Vec<Value>>,
}

fn five_minutes() -> u64 {
    300
}

/// What becomes of a delivery that failed or lapsed: the real decision, with three deliveries and no backoff.
fn fate(record: &Record, failure: Failure, now: Timestamp) -> Settlement {
    let policy = RetryPolicy {
        backoff: Backoff::List(vec![Duration::ZERO]),
        jitter: Jitter::None,
        ..RetryPolicy::team_default()
    };
    let earlier = record.round().filter_map(|attempt| attempt.failure.as_ref());
    let crashes = earlier.chain([&failure]).filter(|failure| is_crash(failure.kind)).count();
    let facts = SettleFacts {
        effect: record.task.effect,
        attempt: record.attempt,
        due: record.due,
        crashes: u32::try_from(crashes).expect("few"),
        outcome_unknown: false,
        previous_delay: Duration::ZERO,
        deadline: None,
        policy: &policy,
        probe: false,
        given_back: 0,
        own: true,
        integration: None,
        hold: None,
        parked_for: Duration::ZERO,
        correction: None,
        same_output_again: false,
        circumstances: Circumstances::default(),
    };
    settle_it(&facts, Outcome::Failed(failure), None, now, 0.0)
}

struct Run<'a> {
    site: &'a mut dyn Site,
    engine: Option<Arc<dyn Engine>>,
    task: TaskId,
    ttl: Duration,
    workers: HashMap<String, u64>,
    /// How far the wall clock was moved, and how far our clock is ahead of the table's, in seconds.
    wall: i64,
    ahead: i64,
}

impl Run<'_> {
    fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().expect("an open engine")
    }

    fn incarnation(&mut self, worker: &str) -> Incarnation {
        let next = self.workers.len() as u64 + 1;
        Incarnation(*self.workers.entry(worker.to_owned()).or_insert(next))
    }

    async fn record(&self) -> Record {
        self.engine().record(self.task).await.expect("read").expect("the task")
    }

    /// What the team does when a lease is over.
    async fn reap(&self, now: Timestamp) {
        for record in self.engine().lapsed(now, 100).await.expect("read") {
            let Judgement::Failed(lost) = classify(&Cause::LeaseLapsed, &Scene::new(record.task.effect, now)) else {
                panic!("a lapsed lease is a failure");
            };
            let settlement = fate(&record, lost, now);
            let command = Command::Lapse { fence: record.fence, settlement, spent: Spent::default() };
            self.engine().command(record.task.id, command, now).await.expect("lapsed");
        }
    }

    async fn step(&mut self, step: &[Value]) {
        let [Value::Integer(seconds), Value::String(op), rest @ ..] = step else { panic!("not a step: {step:?}") };
        let now = at(seconds + self.ahead);
        match (op.as_str(), rest) {
            ("claim", [Value::String(worker), Value::String(expected)]) => {
                self.reap(now).await;
                let incarnation = self.incarnation(worker);
                let ask = LeaseAsk { agent: agent("cto"), incarnation, slots: 1, lease_for: self.ttl, except: vec![] };
                let claimed = self.engine().lease(ask, now).await.expect("leased");
                let fence = claimed.first().map_or("none".to_owned(), |record| record.fence.to_string());
                assert_eq!(fence, *expected, "claim by {worker}");
            }
            ("hb", [Value::String(_), fence, Value::String(expected)]) => {
                let renew = Command::Renew { fence: number(fence), lease_for: self.ttl };
                assert_eq!(told(self.engine().command(self.task, renew, now).await, "lost"), expected, "heartbeat");
            }
            ("done", [Value::String(_), fence, Value::String(expected)]) => {
                let done = settle(number(fence), ack());
                assert_eq!(told(self.engine().command(self.task, done, now).await, "stale"), expected, "done");
            }
            ("fail", [Value::String(_), fence, Value::String(expected)]) => {
                let fate = fate(&self.record().await, failure(Class::Transient, Kind::ServerError, "500"), now);
                let failed = settle(number(fence), fate);
                assert_eq!(told(self.engine().command(self.task, failed, now).await, "stale"), expected, "fail");
            }
            ("state", [Value::String(expected)]) => {
                self.reap(now).await;
                let expected: State = expected.replace('_', "-").parse().expect("a state");
                assert_eq!(self.record().await.state, expected, "state");
            }
            ("attempts", [expected]) => {
                self.reap(now).await;
                assert_eq!(u64::from(self.record().await.attempt), number(expected), "attempts");
            }
            ("reason", [Value::String(expected)]) => {
                self.reap(now).await;
                let kind = self.record().await.letter.map(|letter| letter.failure.kind);
                assert_eq!(kind, Some(expected.parse().expect("a kind")), "reason");
            }
            ("wall_jump", [Value::Integer(by)]) => self.wall += by,
            ("restart", []) => {
                self.engine = None;
                let engine = self.site.open(at(seconds + self.wall));
                // Across restarts time is the later of the stored and the wall's.
                let now = engine.high_water().max(at(seconds + self.wall));
                self.ahead = now.millis() / 1_000 - seconds;
                self.engine = Some(engine);
                self.reap(now).await;
            }
            (op, rest) => panic!("no such step: {op} {rest:?}"),
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_integer().and_then(|number| u64::try_from(number).ok()).unwrap_or_else(|| panic!("no number: {value:?}"))
}

fn told(answer: Result<Record, Error>, stale: &'static str) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(Error::Refused(Refused::Stale { .. })) => stale,
        Err(other) => panic!("{other}"),
    }
}

const CASES: &str = include_str!("conformance/lease.toml");

async fn check<S: Site>(make: impl Fn() -> S) {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("lease", CASES);
    for case in table.case {
        let mut site = make();
        let engine = site.open(at(0));
        let submitted = Task { effect: case.kind.unwrap_or(Effect::Mutation), ..task(1, at(0)) };
        let task = submitted.id;
        engine.submit(submitted, integration("anthropic"), at(0)).await.expect("accepted");
        let mut run = Run {
            site: &mut site,
            engine: Some(engine),
            task,
            ttl: Duration::from_secs(case.ttl),
            workers: HashMap::new(),
            wall: 0,
            ahead: 0,
        };
        for step in &case.steps {
            eprintln!("{} {}: {step:?}", case.id, case.title);
            run.step(step).await;
        }
        roll.held(&case.id);
    }
    roll.complete();
}

#[tokio::test]
async fn leases_in_memory() {
    check(InMemory::default).await;
}

#[tokio::test]
async fn leases_on_disk() {
    check(OnDisk::new).await;
}
