//! Who goes next, as `conformance/priority.toml` tells it, on both engines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use backstop::delivery::Settlement;
use backstop::engine::Engine;
use backstop::engine::conformance::{Site, ack, ask, at, failure, integration, settle, task};
use backstop::failure::{Class, Kind};
use backstop::record::Record;
use backstop::task::{Priority, Task};
use backstop::time::Timestamp;
use futures_util::future::join_all;
use serde::Deserialize;

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
    queues: BTreeMap<Priority, u64>,
    first: Option<usize>,
    #[serde(default)]
    counts: BTreeMap<Priority, usize>,
    max_gap_high: Option<usize>,
    max_gap_normal: Option<usize>,
    max_gap_low: Option<usize>,
    #[serde(default)]
    arrive_high_after: Vec<usize>,
    #[serde(default)]
    arrive_normal_after: Vec<usize>,
    #[serde(default)]
    arrive_low_after: Vec<usize>,
    max_wait_high: Option<usize>,
    max_wait_normal: Option<usize>,
    max_wait_low: Option<usize>,
    fifo: Option<toml::Table>,
    ceo: Option<toml::Table>,
    fair: Option<toml::Table>,
}

/// An agent with one free slot.
struct Run<S> {
    _site: S,
    engine: Arc<dyn Engine>,
    submitted: u64,
}

impl<S: Site> Run<S> {
    fn new(mut site: S) -> Self {
        let engine = site.open(at(0));
        Self { _site: site, engine, submitted: 0 }
    }

    async fn submit(&mut self, count: u64, priority: Priority, tenant: Option<&str>) {
        let tasks: Vec<_> = (self.submitted..self.submitted + count)
            .map(|n| Task { priority, tenant: tenant.map(str::to_owned), ..task(n, at(0)) })
            .collect();
        self.submitted += count;
        for tasks in tasks.chunks(5_000) {
            let send = |task: &Task| self.engine.submit(task.clone(), integration("anthropic"), at(0));
            for answer in join_all(tasks.iter().map(send)).await {
                answer.expect("accepted");
            }
        }
    }

    async fn submit_all(&mut self, queues: &BTreeMap<Priority, u64>) {
        for (priority, count) in queues {
            self.submit(*count, *priority, None).await;
        }
    }

    async fn next(&self, now: Timestamp) -> Option<Record> {
        self.engine.lease(ask(1, 1), now).await.expect("leased").pop()
    }

    async fn dispatch(&self, count: usize) -> Vec<Record> {
        let mut dispatched = Vec::new();
        while dispatched.len() < count {
            match self.next(at(0)).await {
                Some(record) => dispatched.push(record),
                None => break,
            }
        }
        dispatched
    }

    /// How many others go before the first that is meant.
    async fn wait_for(&self, meant: impl Fn(&Record) -> bool) -> usize {
        let mut others = 0;
        while !meant(&self.next(at(0)).await.expect("it comes some time")) {
            others += 1;
        }
        others
    }
}

const CASES: &str = include_str!("conformance/priority.toml");

async fn check<S: Site>(make: impl Fn() -> S) {
    let table: Table = toml::from_str(CASES).expect("the table");
    let mut roll = Roll::of("priority", CASES);
    for case in table.case {
        let name = format!("{} {}", case.id, case.title);
        eprintln!("{name}");
        let checked = [
            counts(&make, &case, &name).await,
            gaps(&make, &case, &name).await,
            arrivals(&make, &case, &name).await,
            fifo(&make, &case, &name).await,
            ceo(&make, &case, &name).await,
            fair(&make, &case, &name).await,
        ];
        assert!(checked.contains(&true), "{name}: nothing was checked");
        roll.held(&case.id);
    }
    roll.complete();
}

async fn counts<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let Some(first) = case.first else {
        assert!(case.counts.is_empty(), "{name}: counts of how many?");
        return false;
    };
    let mut run = Run::new(make());
    run.submit_all(&case.queues).await;
    let dispatched = run.dispatch(first).await;
    assert_eq!(dispatched.len(), first, "{name}: dispatches");
    for &priority in Priority::ALL {
        let count = dispatched.iter().filter(|record| record.task.priority == priority).count();
        assert_eq!(count, case.counts.get(&priority).copied().unwrap_or(0), "{name}: {priority}");
    }
    true
}

async fn gaps<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let wanted = [
        (Priority::High, case.max_gap_high),
        (Priority::Normal, case.max_gap_normal),
        (Priority::Low, case.max_gap_low),
    ];
    if wanted.iter().all(|(_, gap)| gap.is_none()) {
        return false;
    }
    let mut run = Run::new(make());
    run.submit_all(&case.queues).await;
    for (priority, max) in wanted {
        let Some(max) = max else { continue };
        for _ in 0..case.queues[&priority] {
            let gap = run.wait_for(|record| record.task.priority == priority).await + 1;
            assert!(gap <= max, "{name}: {priority} after {gap}");
        }
    }
    true
}

async fn arrivals<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let mut checked = false;
    for (priority, after, max) in [
        (Priority::High, &case.arrive_high_after, case.max_wait_high),
        (Priority::Normal, &case.arrive_normal_after, case.max_wait_normal),
        (Priority::Low, &case.arrive_low_after, case.max_wait_low),
    ] {
        assert_eq!(after.is_empty(), max.is_none(), "{name}: an arrival needs a wait and a wait an arrival");
        let Some(max) = max else { continue };
        for &after in after {
            let mut run = Run::new(make());
            run.submit_all(&case.queues).await;
            run.dispatch(after).await;
            let newcomer = run.submitted;
            run.submit(1, priority, None).await;
            let wait = run.wait_for(|record| record.task.payload["n"] == newcomer).await;
            assert!(wait <= max, "{name}: {priority} after {after} waited for {wait}");
        }
        checked = true;
    }
    checked
}

async fn fifo<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let Some(fifo) = &case.fifo else { return false };
    let names = |key: &str| -> Vec<String> {
        let names = fifo[key].as_array().expect("names").iter();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let (submit, order) = (names("submit"), names("order"));
    let mut backoffs = HashMap::new();
    for (key, value) in fifo {
        if let Some(fails) = key.strip_suffix("_fails_backoff_ms") {
            let millis = value.as_integer().and_then(|millis| u64::try_from(millis).ok()).expect("milliseconds");
            backoffs.insert(fails.to_owned(), Duration::from_millis(millis));
        } else {
            assert!(["submit", "order"].contains(&key.as_str()), "{name}: no such key: {key}");
        }
    }
    let mut run = Run::new(make());
    for _ in &submit {
        run.submit(1, Priority::Normal, None).await;
    }
    let (mut now, mut dispatched) = (at(0), Vec::new());
    while dispatched.len() < order.len() {
        let Some(record) = run.next(now).await else {
            now = run.engine.next_due(now).await.expect("read").expect("something is still to come");
            continue;
        };
        let n = record.task.payload["n"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("its number");
        let settlement = match backoffs.remove(&submit[n]) {
            Some(backoff) => {
                let failure = failure(Class::Transient, Kind::Overloaded, "busy");
                Settlement::Retry { due: now + backoff, failure, amendment: None }
            }
            None => ack(),
        };
        run.engine.command(record.task.id, settle(record.fence, settlement), now).await.expect("settled");
        dispatched.push(submit[n].clone());
    }
    assert_eq!(dispatched, order, "{name}");
    true
}

async fn ceo<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let Some(ceo) = &case.ceo else { return false };
    let mut inbox = BTreeMap::new();
    let mut max = None;
    for (key, value) in ceo {
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok()).expect("a number");
        match key.strip_prefix("inbox_") {
            Some(class) => {
                inbox.insert(class.parse::<Priority>().expect("a class"), number);
            }
            None if key == "escalation_wait_max" => max = usize::try_from(number).ok(),
            None => panic!("{name}: no such key: {key}"),
        }
    }
    let max = max.expect("escalation_wait_max");
    // An escalation may come at any point of a round.
    let mut run = Run::new(make());
    run.submit_all(&inbox).await;
    for busy in 0..12 {
        run.dispatch(busy).await;
        run.submit(1, Priority::High, None).await;
        let escalation = run.submitted - 1;
        let wait = run.wait_for(|record| record.task.payload["n"] == escalation).await;
        assert!(wait <= max, "{name}: after {busy} waited for {wait}");
    }
    true
}

async fn fair<S: Site>(make: &impl Fn() -> S, case: &Case, name: &str) -> bool {
    let Some(fair) = &case.fair else { return false };
    let number =
        |value: &toml::Value| value.as_integer().and_then(|number| u64::try_from(number).ok()).expect("a number");
    let (waits, mut tenants): (Vec<_>, Vec<_>) =
        fair.iter().map(|(key, value)| (key.as_str(), number(value))).partition(|(key, _)| key.ends_with("_wait_max"));
    // Whoever has most was there first: the hardest case for the others.
    tenants.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    assert!(!waits.is_empty(), "{name}: nobody waits");
    for (tenant, max) in waits {
        let tenant = tenant.trim_end_matches("_wait_max");
        assert!(tenants.iter().any(|(other, _)| *other == tenant), "{name}: no such tenant: {tenant}");
        let mut run = Run::new(make());
        for (tenant, count) in &tenants {
            run.submit(*count, Priority::Normal, Some(tenant)).await;
        }
        let wait = run.wait_for(|record| record.task.tenant.as_deref() == Some(tenant)).await;
        assert!(wait as u64 <= max, "{name}: {tenant} waited for {wait}");
    }
    true
}

#[tokio::test]
async fn order_in_memory() {
    check(InMemory::default).await;
}

#[tokio::test]
async fn order_on_disk() {
    check(OnDisk::new).await;
}
