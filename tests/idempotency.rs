//! Idempotency keys, as `conformance/idempotency.toml` tells them, on both engines.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use backstop::agent::Incarnation;
use backstop::engine::conformance::{Site, ack, agent, at, dead, failure, integration, settle, task};
use backstop::engine::{Engine, Error, Submitted};
use backstop::failure::{Class, Kind};
use backstop::ledger::Command;
use backstop::task::{IdempotencyKey, Task, TaskId, TaskType, effect_key};
use futures_util::future::join_all;
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
    #[serde(default)]
    steps: Vec<Vec<Value>>,
    #[serde(default)]
    effect_keys: Vec<[String; 3]>,
    distinct: Option<usize>,
}

struct Run<'a> {
    site: &'a mut dyn Site,
    engine: Option<Arc<dyn Engine>>,
    /// The task each key names now.
    known: HashMap<String, TaskId>,
    submitted: u64,
}

/// `@255` stands for a key of that many characters.
fn spelled(key: &str) -> String {
    match key.strip_prefix('@').and_then(|count| count.parse().ok()) {
        Some(count) => "k".repeat(count),
        None => key.to_owned(),
    }
}

impl Run<'_> {
    fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().expect("an open engine")
    }

    /// The submission as it comes through the door: `None` when the door itself refuses it.
    fn task(&mut self, seconds: i64, key: Option<&str>, task_type: &str, body: &str) -> Option<Task> {
        self.submitted += 1;
        Some(Task {
            idempotency_key: key.map(IdempotencyKey::new).transpose().ok()?,
            task_type: TaskType::new(task_type).ok()?,
            payload: serde_json::from_str(body).ok()?,
            ..task(self.submitted, at(seconds))
        })
    }

    async fn submit(&mut self, seconds: i64, key: Option<&str>, task_type: &str, body: &str) -> &'static str {
        let Some(task) = self.task(seconds, key, task_type, body) else { return "bad" };
        match self.engine().submit(task, integration("anthropic"), at(seconds)).await {
            Ok(Submitted { record, new: true }) => {
                self.known.extend(key.map(|key| (key.to_owned(), record.task.id)));
                "new"
            }
            Ok(Submitted { record, new: false }) => {
                let first = key.and_then(|key| self.known.get(key)).expect("a key used before");
                assert_eq!(self.engine().record(*first).await.expect("read").as_ref(), Some(&record), "the same task");
                "same"
            }
            Err(Error::KeyConflict { .. }) => "conflict",
            Err(other) => panic!("{other}"),
        }
    }

    async fn step(&mut self, step: &[Value]) {
        let [Value::Integer(seconds), Value::String(op), rest @ ..] = step else { panic!("not a step: {step:?}") };
        let texts: Vec<_> = rest.iter().filter_map(Value::as_str).collect();
        match (op.as_str(), texts.as_slice(), rest) {
            ("submit", [key, task_type, body, expected], [_, _, _, _]) => {
                assert_eq!(self.submit(*seconds, Some(&spelled(key)), task_type, body).await, *expected);
            }
            ("submit_nokey", [_, task_type, body, expected], [_, _, _, _]) => {
                assert_eq!(self.submit(*seconds, None, task_type, body).await, *expected);
            }
            ("finish", [key, how], [_, _]) => self.finish(*seconds, &spelled(key), how).await,
            ("restart", [], []) => {
                self.engine = None;
                self.engine = Some(self.site.open(at(*seconds)));
            }
            ("par", [key, task_type, body], [Value::Integer(count), _, _, _, Value::Integer(expected)]) => {
                let key = spelled(key);
                let tasks: Vec<_> =
                    (0..*count).map(|_| self.task(*seconds, Some(&key), task_type, body).expect("a task")).collect();
                let engine = self.engine();
                let send = |task| engine.submit(task, integration("anthropic"), at(*seconds));
                let answers = join_all(tasks.into_iter().map(send)).await;
                let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("accepted")).collect();
                let new = answers.iter().filter(|answer| answer.new).count();
                assert_eq!(i64::try_from(new).expect("few"), *expected, "new tasks");
                let ids: BTreeSet<_> = answers.iter().map(|answer| answer.record.task.id).collect();
                assert_eq!(ids.len(), 1, "all name one task");
                self.known.insert(key, answers[0].record.task.id);
            }
            (op, _, rest) => panic!("no such step: {op} {rest:?}"),
        }
    }

    async fn finish(&self, seconds: i64, key: &str, how: &str) {
        let (id, now) = (self.known[key], at(seconds));
        if how == "cancelled" {
            let cancel = Command::Cancel { by: "a person".to_owned(), reason: "not needed".to_owned() };
            self.engine().command(id, cancel, now).await.expect("cancelled");
            return;
        }
        let claim = Command::Claim {
            agent: agent("cto"),
            incarnation: Incarnation(1),
            epoch: self.engine().epoch(),
            lease_for: Duration::from_secs(300),
        };
        let fence = self.engine().command(id, claim, now).await.expect("claimed").fence;
        let settlement = match how {
            "done" => ack(),
            "dead" => dead(failure(Class::Logic, Kind::Loop, "in circles")),
            other => panic!("no such end: {other}"),
        };
        self.engine().command(id, settle(fence, settlement), now).await.expect("settled");
    }
}

const CASES: &str = include_str!("conformance/idempotency.toml");

async fn check<S: Site>(make: impl Fn() -> S) {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("idempotency", CASES);
    for case in table.case {
        let mut site = make();
        let engine = Some(site.open(at(0)));
        let mut run = Run { site: &mut site, engine, known: HashMap::new(), submitted: 0 };
        for step in &case.steps {
            eprintln!("{} {}: {step:?}", case.id, case.title);
            run.step(step).await;
        }
        let keys = case.effect_keys.iter().map(|[workflow, step, direction]| effect_key(workflow, step, direction));
        let keys: BTreeSet<_> = keys.collect();
        assert_eq!(keys.len(), case.distinct.unwrap_or(0), "{} {}", case.id, case.title);
        roll.held(&case.id);
    }
    roll.complete();
}

#[tokio::test]
async fn keys_in_memory() {
    check(InMemory::default).await;
}

#[tokio::test]
async fn keys_on_disk() {
    check(OnDisk::new).await;
}
