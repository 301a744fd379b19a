//! Whole work under load: tasks submitted durably, one model called over HTTP each, their end durable.
//!
//! `cargo bench --bench work [-- w1 w2 w3 w4 w5 burst]`. Each figure stands beside a limit measured in the same run: a bare
//! program that makes the same calls and commits its rows in groups (W1), or the arithmetic of the load (W2 to W5).

#[path = "work/bare.rs"]
mod bare;
#[path = "work/stub.rs"]
mod stub;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::agent::Agent;
use backstop::breaker::BreakerConfig;
use backstop::config::{ProviderConfig, Wire};
use backstop::engine::embedded::Embedded;
use backstop::event::Happening;
use backstop::record::State;
use backstop::retry::{Backoff, RetryPolicy};
use backstop::task::{Integration, TaskType};
use backstop::team::clock::wall;
use backstop::team::desk::{Desk, NewTask};
use backstop::{Config, Team};
use serde_json::json;

use stub::{Manner, Stub};

/// The allocator of the command, for both programs.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    backstop::cli::client::install_tls();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let [child, dir, url] = arguments.as_slice()
        && child == "child"
    {
        return run_until_done(Path::new(dir), url);
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    if wanted("w1") {
        runtime.block_on(durable_throughput());
    }
    if wanted("w2") {
        runtime.block_on(many_in_flight());
    }
    if wanted("w3") {
        runtime.block_on(outage());
    }
    if wanted("w4") {
        runtime.block_on(fallback());
    }
    if wanted("w5") {
        killed();
    }
    if wanted("burst") {
        runtime.block_on(burst());
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("backstop-bench-work-{}-{name}", std::process::id()));
    let _not_there = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

pub(crate) fn percentile(spans: &mut [Duration], percent: usize) -> Duration {
    spans.sort();
    spans.get((spans.len() * percent / 100).min(spans.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn provider(url: &str) -> ProviderConfig {
    ProviderConfig::new(Wire::OpenAi, format!("{url}/v1"))
}

fn name(name: &str) -> Integration {
    Integration::new(name).expect("a name")
}

/// A team whose agents work on so many tasks at once, each of which calls the model at `url`.
fn config(url: &str, slots: usize) -> Config {
    let mut config = Config::new("bench");
    let agents = slots.div_ceil(1_000);
    for number in 0..agents {
        let mut agent = Agent::new(&format!("agent-{number}"), "stub/model").expect("an agent").handling("work");
        agent.concurrency = u32::try_from(slots.div_ceil(agents)).expect("a small number");
        config = config.agent(agent);
    }
    config.providers.insert(name("stub"), provider(url));
    config
}

/// A running team over a file.
struct Works {
    team: Team,
    desk: Desk,
    dir: PathBuf,
}

impl Works {
    async fn start(config: Config, name: &str) -> Self {
        let dir = scratch(name);
        let engine = Arc::new(open(&dir));
        let team = Team::builder(config).engine(engine).start().await.expect("a team");
        let desk = team.desk();
        Self { team, desk, dir }
    }

    /// Submits a task and waits until its end is durable.
    async fn work(&self, number: u64) -> Duration {
        let started = now();
        let payload = json!({ "number": number, "text": "x".repeat(400) });
        let ask = NewTask::new(TaskType::new("work").expect("a name"), payload);
        let id = self.desk.submit(ask).await.expect("accepted").record.task.id;
        let ended = self.desk.wait(id).await.expect("ended");
        assert_eq!(ended.state, State::Done);
        now().duration_since(started)
    }

    async fn stop(self) {
        self.team.drain(Duration::from_secs(5)).await.expect("drained");
        let _left_behind = std::fs::remove_dir_all(self.dir);
    }
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, wall()).expect("the store opens")
}

/// W1: a closed loop of callers, each submits, waits for the end, submits again.
async fn durable_throughput() {
    const CALLERS: usize = 1_000;
    const TASKS: u64 = 20_000;
    let stub = Stub::start(Manner::at_once());
    println!("W1 durable throughput: {CALLERS} callers, {TASKS} tasks, a model that answers at once");
    let (bare_rate, mut bare_spans) = bare::run(stub.url(), CALLERS, TASKS).await;
    let works = Arc::new(Works::start(config(stub.url(), CALLERS), "w1").await);
    let started = now();
    let mut spans = bare::in_a_loop(CALLERS, TASKS, {
        let works = Arc::clone(&works);
        move |number| {
            let works = Arc::clone(&works);
            async move { works.work(number).await }
        }
    })
    .await;
    let rate = TASKS as f64 / now().duration_since(started).as_secs_f64();
    Arc::into_inner(works).expect("nobody works").stop().await;
    let (bare_p99, p99) = (percentile(&mut bare_spans, 99), percentile(&mut spans, 99));
    println!("  bare {bare_rate:.0} tasks/s, p50 {:.1?}, p99 {bare_p99:.1?}", percentile(&mut bare_spans, 50));
    println!("  ours {rate:.0} tasks/s, p50 {:.1?}, p99 {p99:.1?}", percentile(&mut spans, 50));
    println!(
        "  ratio {:.2} (goal 0.8), p99 {:.2} of its p99 (goal 1.25)",
        rate / bare_rate,
        p99.as_secs_f64() / bare_p99.as_secs_f64()
    );
}

/// Resident memory of this process, in kilobytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(f64::NAN)
}

/// W2: many tasks in flight at a model that takes 200 ms.
async fn many_in_flight() {
    const TASKS: usize = 10_000;
    const TAKES: Duration = Duration::from_millis(200);
    for (slots, goal) in [(1_000, 1.1), (10_000, 1.25)] {
        let stub = Stub::start(Manner { takes: TAKES, ..Manner::at_once() });
        let works = Works::start(config(stub.url(), slots), "w2").await;
        // Those who wait are the bench's and not the team's.
        let all = futures_util::future::join_all((0..TASKS as u64).map(|number| works.work(number)));
        let before = resident();
        let started = now();
        let most = async {
            let mut most: f64 = 0.0;
            loop {
                most = most.max(resident());
                // The peak is looked for, not timed.
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stub.calls() >= TASKS as u64 {
                    return most;
                }
            }
        };
        let (_, most) = tokio::join!(all, most);
        let took = now().duration_since(started);
        let ideal = TAKES * u32::try_from(TASKS.div_ceil(slots)).expect("a small number");
        println!(
            "W2 {TASKS} tasks, {slots} in flight at {TAKES:?}: {took:.2?}, {:.2} of the ideal {ideal:.1?} (goal {goal}); \
             {:.0} KB more per task in flight (goal 40)",
            took.as_secs_f64() / ideal.as_secs_f64(),
            (most - before) / slots as f64
        );
        works.stop().await;
    }
}

/// W3: the model is down for the first five seconds.
async fn outage() {
    const TASKS: usize = 2_000;
    const DOWN: Duration = Duration::from_secs(5);
    const TAKES: Duration = Duration::from_millis(50);
    const SLOTS: usize = 40;
    let stub = Stub::start(Manner { takes: TAKES, down_for: DOWN });
    // Whoever wants to be back within a second looks twice a second, and always as often.
    let half = Duration::from_millis(500);
    let mut config = config(stub.url(), SLOTS);
    config.breaker = BreakerConfig { open_for: half, open_max: half, ..config.breaker };
    config.retry = RetryPolicy { backoff: Backoff::List(vec![half]), ..config.retry };
    let works = Works::start(config, "w3").await;
    let started = now();
    futures_util::future::join_all((0..TASKS as u64).map(|number| works.work(number))).await;
    let took = now().duration_since(started);
    let ideal = DOWN + TAKES * u32::try_from(TASKS / SLOTS).expect("a small number");
    let balance = works.desk.engine().balance().await.expect("a balance");
    println!(
        "W3 {TASKS} tasks, down for {DOWN:?}, {TAKES:?} after, {SLOTS} in flight: {took:.2?}, {:.2} of the optimum {ideal:.1?} \
         (goal 1.2); {} calls during the outage (goal 60); {} done, {} submitted",
        took.as_secs_f64() / ideal.as_secs_f64(),
        stub.refused(),
        balance.done,
        balance.submitted,
    );
    works.stop().await;
}

/// W4: the primary is down for good, every agent has a second model; beside the same work with a primary that is well.
async fn fallback() {
    const TASKS: u64 = 1_000;
    const SLOTS: usize = 10;
    let mut p99 = Vec::new();
    for down_for in [Duration::ZERO, Duration::MAX] {
        let (primary, second) =
            (Stub::start(Manner { takes: Duration::ZERO, down_for }), Stub::start(Manner::at_once()));
        let mut config = config(primary.url(), SLOTS);
        // Nobody waits for a model that is held when there is another; nor for long where it failed.
        let retry = RetryPolicy { park_at_most: Duration::ZERO, ..config.retry };
        config.retry = RetryPolicy { backoff: Backoff::List(vec![Duration::from_millis(50)]), ..retry };
        config.providers.insert(name("second"), provider(second.url()));
        for agent in config.agents.values_mut() {
            agent.fallback_models = vec!["second/model".parse().expect("a model")];
        }
        let works = Arc::new(Works::start(config, "w4").await);
        let started = now();
        let mut spans = bare::in_a_loop(SLOTS, TASKS, {
            let works = Arc::clone(&works);
            move |number| {
                let works = Arc::clone(&works);
                async move { works.work(number).await }
            }
        })
        .await;
        p99.push(percentile(&mut spans, 99));
        println!(
            "W4 {TASKS} tasks, {SLOTS} in flight, the primary {}: {:.2?}; {} calls to it, {} to the second; p50 {:.1?}, p99 {:.1?}",
            if down_for.is_zero() { "well" } else { "down for good (goal 10 calls)" },
            now().duration_since(started),
            primary.calls(),
            second.calls(),
            percentile(&mut spans, 50),
            percentile(&mut spans, 99),
        );
        Arc::into_inner(works).expect("nobody works").stop().await;
    }
    println!("  p99 {:.2} of the p99 with a primary that is well", p99[1].as_secs_f64() / p99[0].as_secs_f64());
}

/// Far more than can be worked on, as fast as they are taken (F-41): all are kept, and done.
async fn burst() {
    const TASKS: u64 = 100_000;
    const SUBMITTERS: usize = 1_000;
    const SLOTS: usize = 100;
    let stub = Stub::start(Manner::at_once());
    let works = Arc::new(Works::start(config(stub.url(), SLOTS), "burst").await);
    let (before, started) = (resident(), now());
    let mut spans = bare::in_a_loop(SUBMITTERS, TASKS, {
        let works = Arc::clone(&works);
        move |number| {
            let works = Arc::clone(&works);
            async move {
                let started = now();
                let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "number": number }));
                works.desk.submit(ask).await.expect("accepted");
                now().duration_since(started)
            }
        }
    })
    .await;
    let (taken, waiting) = (now().duration_since(started), TASKS.saturating_sub(stub.calls()));
    let mut most = resident();
    let engine = works.desk.engine();
    let mut watch = engine.watch();
    loop {
        let balance = engine.balance().await.expect("a balance");
        assert_eq!((balance.submitted, balance.lost()), (TASKS, 0), "{balance:?}");
        most = most.max(resident());
        if balance.done == TASKS {
            break;
        }
        watch.changed().await.expect("the engine lives");
    }
    println!(
        "burst of {TASKS} tasks, {SLOTS} in flight: taken in {taken:.2?} (p99 {:.1?}), {waiting} waiting then; all done after \
         {:.2?}, 0 lost; {:.0} MB more at most",
        percentile(&mut spans, 99),
        now().duration_since(started),
        (most - before) / 1_024.0,
    );
    assert_eq!(stub.calls(), TASKS, "each is asked for once");
    Arc::into_inner(works).expect("nobody works").stop().await;
}

/// In flight when the process of W5 is killed.
const IN_FLIGHT: usize = 1_000;

/// W5: kill -9 with a thousand calls in flight; the next process has all of them running again.
fn killed() {
    let stub = Stub::start(Manner { takes: Duration::from_secs(4), ..Manner::at_once() });
    let dir = scratch("w5");
    let child = || {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.arg("child").arg(&dir).arg(stub.url()).stdout(Stdio::piped()).spawn().expect("started")
    };
    #[allow(clippy::disallowed_methods, reason = "a bench watches another process, and has nothing else to do")]
    let reached = |calls: u64| {
        let started = now();
        while stub.calls() < calls {
            std::thread::sleep(Duration::from_millis(2));
            assert!(now().duration_since(started) < Duration::from_secs(60), "{} of {calls} calls", stub.calls());
        }
        now().duration_since(started)
    };
    let mut first = child();
    reached(IN_FLIGHT as u64);
    first.kill().expect("killed");
    first.wait().expect("ended");
    let second = child();
    let again = reached(2 * IN_FLIGHT as u64);
    let output = second.wait_with_output().expect("ended");
    println!(
        "W5 kill -9 with {IN_FLIGHT} in flight: all running again {again:.2?} after the start (goal 2 s); {}",
        String::from_utf8_lossy(&output.stdout).trim()
    );
    let _left_behind = std::fs::remove_dir_all(dir);
}

/// The process of W5: submits once, works until all is done, says what became of it.
fn run_until_done(dir: &Path, url: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let team = Team::builder(config(url, IN_FLIGHT)).engine(Arc::new(open(dir))).start().await.expect("a team");
        let desk = team.desk();
        if desk.engine().balance().await.expect("a balance").submitted == 0 {
            let submit = |number| {
                let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "number": number }));
                desk.submit(ask)
            };
            for accepted in futures_util::future::join_all((0..IN_FLIGHT).map(submit)).await {
                accepted.expect("accepted");
            }
        }
        let mut watch = desk.engine().watch();
        while desk.engine().balance().await.expect("a balance").done < IN_FLIGHT as u64 {
            watch.changed().await.expect("the engine lives");
        }
        let (mut after, mut ends) = (0, 0);
        loop {
            let events = desk.engine().events(after, 10_000).await.expect("events");
            let Some(last) = events.last() else { break };
            after = last.seq;
            ends += events.iter().filter(|event| matches!(event.what, Happening::Done { .. })).count();
        }
        let balance = desk.engine().balance().await.expect("a balance");
        println!("{} submitted, {} done, {ends} ends", balance.submitted, balance.done);
        team.drain(Duration::from_secs(1)).await.expect("drained");
    });
}
