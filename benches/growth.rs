//! How the store bears growth: the same questions and changes over 10^4, 10^5 and 10^6 tasks, a start, and bytes.
//!
//! `cargo bench --bench growth`, or with other numbers of tasks after `--`. Filled through the engine itself, by many
//! callers: of a hundred tasks ten are dead letters, one is open, the others are done by one call of a model. What
//! stands under `ratio` is the largest store beside the smallest, in the same run: flat is 1.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use backstop::agent::{Agent, Incarnation};
use backstop::cause::Usage;
use backstop::conversation::Message;
use backstop::delivery::Spent;
use backstop::engine::conformance::{ack, agent, at, dead, failure, integration, settle, task};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Engine, LeaseAsk, PruneAsk};
use backstop::failure::{Class, Kind};
use backstop::journal::{Ask, Entry, Intent, Line, Outcome, Purpose, Replied};
use backstop::ledger::Command;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::query::{Filter, PageAsk};
use backstop::record::{LetterStatus, Record, State};
use backstop::retention::Retention;
use backstop::task::{AgentName, Task, TaskType};
use backstop::team::clock::Clock;
use backstop::time::Timestamp;
use backstop::{Config, Team};
use futures_util::future::join_all;
use serde_json::json;

/// Bytes of a payload and of an answer: a short request to an agent.
const PAYLOAD: usize = 500;
/// Tasks submitted and claimed together while filling.
const CHUNK: u64 = 500;
/// What the life of the store spans: thirty days.
const SPAN: i64 = 30 * 24 * 3_600;
/// The end of it: the `now` of every question.
const NOW: Timestamp = at(SPAN);
const AGENTS: [&str; 7] = ["ceo", "cto", "cso", "backend", "frontend", "marketing", "devops"];
const TYPES: [&str; 10] =
    ["review", "audit", "build", "deploy", "write", "answer", "plan", "test", "measure", "translate"];
const CLASSES: [(Class, Kind); 4] = [
    (Class::Transient, Kind::Overloaded),
    (Class::Infrastructure, Kind::Timeout),
    (Class::Validation, Kind::Schema),
    (Class::Logic, Kind::Loop),
];

fn main() {
    let mut sizes: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000, 1_000_000];
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let columns: Vec<Column> = sizes.iter().map(|tasks| runtime.block_on(column(*tasks))).collect();
    print(&sizes, &columns);
}

/// What was measured of one store, in the order it is shown: a name, a number, its unit.
type Column = Vec<(&'static str, f64, &'static str)>;

fn print(sizes: &[u64], columns: &[Column]) {
    let heads: Vec<String> = sizes.iter().map(|tasks| format!("{tasks:>12}")).collect();
    println!("{:<44}  {}  {:>6}", "tasks", heads.join("  "), "ratio");
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return };
    for (row, (name, small, unit)) in first.iter().enumerate() {
        let cells: Vec<String> = columns.iter().map(|column| format!("{:>12.3}", column[row].1)).collect();
        println!("{:<44}  {}  {:>6.2}", format!("{name}, {unit}"), cells.join("  "), last[row].1 / small);
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("backstop-bench-{}-{name}", std::process::id()));
    let _not_there = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

async fn column(tasks: u64) -> Column {
    let dir = scratch(&tasks.to_string());
    let began = now();
    let path = fill(&dir, tasks).await;
    let filled = now().duration_since(began);
    let bytes = std::fs::metadata(&path).expect("the file").len();
    eprintln!("{tasks} tasks in {filled:.1?}");
    let mut starts: Vec<Duration> = (0..5).map(|_| start(&dir)).collect();
    starts.sort();
    let mut column = vec![
        ("filling, a task", filled.as_secs_f64() * 1e6 / tasks as f64, "us"),
        ("on disk, a task", bytes as f64 / tasks as f64, "bytes"),
        ("start", starts[2].as_secs_f64() * 1e3, "ms"),
    ];
    let engine = Embedded::open(&dir, NOW).expect("the store opens");
    questions(&engine, &mut column).await;
    changes(&engine, tasks, &mut column).await;
    engine.close().await.expect("closed");
    drop(engine);
    column.push(("start of a team, to its first call", team_start(&dir).await.as_secs_f64() * 1e3, "ms"));
    let engine = Embedded::open(&dir, NOW).expect("the store opens");
    forgetting(Arc::new(engine), tasks, &path, &mut column).await;
    let _left_behind = std::fs::remove_dir_all(dir);
    column
}

/// How long a submission waits by itself, and while everything older than a day is forgotten beside it.
async fn forgetting(engine: Arc<Embedded>, tasks: u64, path: &Path, column: &mut Column) {
    let mut next = 2 * tasks;
    let quiet = waits(&engine, &mut next, tasks, async { tokio::time::sleep(Duration::from_secs(3)).await }).await;
    let pruning = tokio::spawn(forget(Arc::clone(&engine)));
    let began = now();
    let mut gone = 0;
    let disk = Disk::spawn(path);
    let busy = waits(&engine, &mut next, tasks, async { gone = pruning.await.expect("forgotten") }).await;
    let took = now().duration_since(began);
    let disk = disk.waits();
    let all = [
        (["submit alone, median", "submit alone, p99", "submit alone, longest"], quiet),
        (
            ["submit beside forgetting, median", "submit beside forgetting, p99", "submit beside forgetting, longest"],
            busy,
        ),
        (["a bare write beside it, median", "a bare write beside it, p99", "a bare write beside it, longest"], disk),
    ];
    for (names, mut spans) in all {
        spans.sort_by(f64::total_cmp);
        let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
        column.extend(names.into_iter().zip([0.5, 0.99, 1.0].map(at)).map(|(name, span)| (name, span, "ms")));
    }
    column.push(("forgotten", gone as f64, "tasks"));
    column.push(("forgetting, a task", took.as_secs_f64() * 1e6 / gone as f64, "us"));
    drop(engine);
    let db = rusqlite::Connection::open(path).expect("the file");
    let pages =
        |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0)).expect("a number") as f64;
    column.push(("pages free after it", pages("freelist_count") / pages("page_count") * 100.0, "%"));
}

/// The least that a commit waits for: a bare write of its size, synced, to another file of the same disk, now and then.
struct Disk {
    end: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl Disk {
    /// Bytes of a commit: 13 pages, as a submission beside forgetting writes.
    const COMMIT: usize = 13 * 4096;
    /// After so many commits the file is written over, as a log is.
    const COMMITS: u64 = 64;

    fn spawn(store: &Path) -> Self {
        let path = store.with_extension("bare");
        let (end, ended) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut file = std::fs::File::create(path).expect("a file");
            let commit = vec![0x5a; Self::COMMIT];
            let mut spans = Vec::new();
            loop {
                let began = now();
                let place = spans.len() as u64 % Self::COMMITS * Self::COMMIT as u64;
                file.seek(SeekFrom::Start(place)).expect("a place");
                file.write_all(&commit).expect("written");
                file.sync_data().expect("synced");
                spans.push(now().duration_since(began).as_secs_f64() * 1e3);
                if ended.recv_timeout(Duration::from_millis(5)) != Err(RecvTimeoutError::Timeout) {
                    return spans;
                }
            }
        });
        Self { end, thread }
    }

    /// Its waits until now, in milliseconds.
    fn waits(self) -> Vec<f64> {
        drop(self.end);
        self.thread.join().expect("it only writes")
    }
}

async fn forget(engine: Arc<Embedded>) -> u64 {
    let mut ask = PruneAsk {
        retention: Retention::older_than(Duration::from_secs(24 * 3_600)),
        needed: Arc::default(),
        dry_run: false,
        after: 0,
    };
    let mut gone = 0;
    loop {
        let stretch = engine.prune(ask.clone(), NOW).await.expect("forgotten");
        gone += stretch.pruned.tasks();
        match stretch.next {
            Some(next) => ask.after = next,
            None => return gone,
        }
    }
}

/// The waits of one who submits one task after another until something has ended, in milliseconds.
async fn waits(engine: &Embedded, next: &mut u64, tasks: u64, until: impl Future<Output = ()>) -> Vec<f64> {
    let mut spans = Vec::new();
    let mut until = std::pin::pin!(until);
    loop {
        let new = nth(*next, tasks);
        *next += 1;
        let submit = async {
            let began = now();
            engine.submit(new, integration("anthropic"), NOW).await.expect("accepted");
            now().duration_since(began).as_secs_f64() * 1e3
        };
        let mut submit = std::pin::pin!(submit);
        tokio::select! {
            biased;
            span = &mut submit => spans.push(span),
            () = &mut until => {
                spans.push(submit.await);
                return spans;
            }
        }
    }
}

fn start(dir: &Path) -> Duration {
    let began = now();
    let engine = Embedded::open(dir, NOW).expect("the store opens");
    let took = now().duration_since(began);
    drop(engine);
    took
}

/// From opening the store to the first call of a model by a team of seven: what is open waits for it, and every dead letter
/// for its CEO.
async fn team_start(dir: &Path) -> Duration {
    let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let model = Simulated::new(integration("anthropic"), move |_, _| {
        // The first is waited for, and the others are not.
        let _nobody_listens = tell.send(());
        Scripted::text("too late").after(Duration::from_secs(3_600))
    });
    let agents = AGENTS.map(|name| Agent::new(name, "anthropic/claude-opus-5-5").expect("an agent"));
    let config = agents.into_iter().fold(Config::new("growth"), Config::agent);
    let began = now();
    let engine = Embedded::open(dir, NOW).expect("the store opens");
    let team = Team::builder(config).engine(Arc::new(engine)).provider(model).clock(Clock::starting_at(NOW, 1.0));
    let team = team.start().await.expect("a team");
    asked.recv().await.expect("a call");
    let took = now().duration_since(began);
    team.drain(Duration::ZERO).await.expect("closed");
    took
}

fn ask(agent: AgentName, slots: u32) -> LeaseAsk {
    LeaseAsk { agent, incarnation: Incarnation(1), slots, lease_for: Duration::from_secs(300), except: Vec::new() }
}

/// How many of so many come to an end; the others are those submitted last.
const fn ended(tasks: u64) -> u64 {
    tasks - tasks / 100
}

/// The task of this number, among so many.
fn nth(n: u64, tasks: u64) -> Task {
    let millis = n.min(ended(tasks)) * (SPAN as u64 * 1_000) / ended(tasks);
    let moment = Timestamp::from_millis(i64::try_from(millis).expect("a time"));
    Task {
        agent: agent(AGENTS[n as usize % AGENTS.len()]),
        task_type: TaskType::new(TYPES[n as usize / 7 % TYPES.len()]).expect("a name"),
        payload: json!({ "n": n, "text": "x".repeat(PAYLOAD) }),
        ..task(n, moment)
    }
}

/// Fills a store, one filler for each agent, and closes it.
async fn fill(dir: &Path, tasks: u64) -> PathBuf {
    let engine = Arc::new(Embedded::open(dir, at(0)).expect("the store opens"));
    let fillers = (0..AGENTS.len() as u64).map(|of| tokio::spawn(fill_one(Arc::clone(&engine), of, tasks)));
    join_all(fillers).await.into_iter().for_each(|filler| filler.expect("filled"));
    engine.close().await.expect("closed");
    engine.path()
}

async fn fill_one(engine: Arc<Embedded>, of: u64, tasks: u64) {
    let own: Vec<u64> = (of..tasks).step_by(AGENTS.len()).collect();
    let open = ended(tasks);
    for chunk in own.chunks(CHUNK as usize) {
        let submits = chunk.iter().map(|n| {
            let new = nth(*n, tasks);
            let moment = new.created_at;
            engine.submit(new, integration("anthropic"), moment)
        });
        join_all(submits).await.into_iter().for_each(|answer| drop(answer.expect("accepted")));
        let moment = nth(chunk[chunk.len() - 1], tasks).created_at;
        let claimable = chunk.iter().filter(|n| **n < open).count();
        let slots = u32::try_from(claimable).expect("few");
        let claimed = engine.lease(ask(agent(AGENTS[of as usize]), slots), moment).await.expect("leased");
        assert_eq!(claimed.len(), claimable, "everything before is claimed");
        join_all(claimed.iter().map(|record| live(&engine, record, moment))).await;
    }
}

/// One call of a model, and done; or given up.
async fn live(engine: &Embedded, record: &Record, now: Timestamp) {
    let (id, fence) = (record.task.id, record.fence);
    let n = record.task.payload["n"].as_u64().expect("a number");
    if n % 10 == 3 {
        let (class, kind) = CLASSES[n as usize / 10 % 4];
        let failure = failure(class, kind, &format!("call {} of {n} was not answered within 30s", n % 1_000));
        let command = Command::Settle { fence, settlement: dead(failure), spent: Spent::default() };
        engine.command(id, command, now).await.expect("settled");
        return;
    }
    let intent = Intent::Ask(Box::new(Ask {
        model: "anthropic/claude-opus-5-5".parse().expect("a model"),
        purpose: Purpose::Work,
        hash: "0".repeat(64),
        fresh: true,
        system: None,
        said: vec![Message::user("go")],
        amended: 0,
        compaction: None,
    }));
    let asked = Entry { fence, lines: vec![Line::Intend { intent, worst: 900 }], ..Entry::default() };
    engine.journal(id, asked, now).await.expect("written");
    let reply = Replied {
        text: "y".repeat(PAYLOAD),
        model: "claude-opus-5-5".to_owned(),
        usage: Usage { input: 1_000, output: 100, ..Usage::default() },
        ..Replied::default()
    };
    let lines = vec![Line::Conclude { step: 1, outcome: Outcome::Replied(Box::new(reply)), counted: 700 }];
    let done = Entry { fence, lines, command: Some(settle(fence, ack())), ..Entry::default() };
    engine.journal(id, done, now).await.expect("written");
}

/// The median of so many answers, in milliseconds.
async fn median<T, E: std::fmt::Debug>(times: usize, ask: impl AsyncFn() -> Result<T, E>) -> f64 {
    let mut spans = Vec::new();
    for _ in 0..times {
        let began = now();
        ask().await.expect("an answer");
        spans.push(now().duration_since(began).as_secs_f64() * 1e3);
    }
    spans.sort_by(f64::total_cmp);
    spans[spans.len() / 2]
}

async fn questions(engine: &Embedded, column: &mut Column) {
    column.push(("next due", median(51, async || engine.next_due(NOW).await).await, "ms"));
    column.push(("lapsed", median(51, async || engine.lapsed(NOW, 100).await).await, "ms"));
    column.push(("overdue", median(51, async || engine.overdue(NOW, 100).await).await, "ms"));
    let before = |seconds| Timestamp::from_millis(NOW.millis() - seconds * 1_000);
    let (hour, month) = (before(3_600), before(SPAN));
    column.push(("deaths of the last hour", median(21, async || engine.deaths(hour).await).await, "ms"));
    let day = before(24 * 3_600);
    column.push(("failure rates, a day", median(11, async || engine.failure_rates(day).await).await, "ms"));
    column.push(("failure rates, thirty days", median(11, async || engine.failure_rates(month).await).await, "ms"));
    column.push(("balance", median(11, async || engine.balance().await).await, "ms"));
    column.push(("depths", median(11, async || engine.depths().await).await, "ms"));
    for (name, filter) in filters() {
        let page = async || engine.dead_letters(filter.clone(), PageAsk::default()).await;
        column.push((name, median(11, page).await, "ms"));
    }
    let deep = deep_page(engine).await;
    let page = async || engine.dead_letters(Filter::default(), deep.clone()).await;
    column.push(("letters, a page deep down", median(11, page).await, "ms"));
    for (name, filter) in task_filters() {
        let page = async || engine.records(filter.clone(), PageAsk::default()).await;
        column.push((name, median(5, page).await, "ms"));
    }
}

/// Filters of the dead letter queue; the worst match nothing, or little that is old.
fn filters() -> Vec<(&'static str, Filter)> {
    let day = |days: i64| Some(at(days * 24 * 3_600));
    let text = |text: &str| Filter { text: Some(text.to_owned()), ..Filter::default() };
    let task_type = |name| Some(TaskType::new(name).expect("a name"));
    vec![
        ("letters, all", Filter::default()),
        ("letters, agent", Filter { agent: Some(agent("cso")), ..Filter::default() }),
        ("letters, type", Filter { task_type: task_type("audit"), ..Filter::default() }),
        ("letters, class", Filter { class: Some(Class::Validation), ..Filter::default() }),
        ("letters, two days of time", Filter { since: day(3), until: day(5), ..Filter::default() }),
        ("letters, text of one in a hundred", text("CALL 993 ")),
        ("letters, text of none", text("nowhere")),
        ("letters, kind of none", Filter { kind: Some(Kind::Auth), ..Filter::default() }),
        ("letters, agent of none", Filter { agent: Some(agent("nobody")), ..Filter::default() }),
        ("letters, status of none", Filter { status: vec![LetterStatus::Resolved], ..Filter::default() }),
        (
            "letters, agent, type, class, text, old",
            Filter {
                agent: Some(agent("cto")),
                task_type: task_type("build"),
                class: Some(Class::Logic),
                until: day(2),
                ..text("was not answered")
            },
        ),
    ]
}

fn task_filters() -> Vec<(&'static str, Filter)> {
    let standing = |state| Filter { states: vec![state], ..Filter::default() };
    vec![
        ("tasks, all", Filter::default()),
        ("tasks, of an agent", Filter { agent: Some(agent("cso")), ..Filter::default() }),
        ("tasks, ready", standing(State::Ready)),
        (
            "tasks, waiting for an integration (none)",
            Filter {
                states: vec![State::Ready, State::Scheduled, State::Parked],
                integration: Some(integration("openai")),
                due_by: Some(NOW),
                ..Filter::default()
            },
        ),
        ("tasks, with a person (none)", standing(State::WaitingHuman)),
        ("tasks, dead, of an agent", Filter { agent: Some(agent("cso")), ..standing(State::Dead) }),
        ("tasks, parked (none)", standing(State::Parked)),
        ("tasks, class", Filter { class: Some(Class::Validation), ..Filter::default() }),
        ("tasks, kind of none", Filter { kind: Some(Kind::Auth), ..Filter::default() }),
        ("tasks, agent of none", Filter { agent: Some(agent("nobody")), ..Filter::default() }),
        ("tasks, text of none", Filter { text: Some("nowhere".to_owned()), ..Filter::default() }),
        (
            "tasks, type of none",
            Filter { task_type: Some(TaskType::new("none").expect("a name")), ..Filter::default() },
        ),
        ("tasks, of the first day", Filter { until: Some(at(24 * 3_600)), ..Filter::default() }),
    ]
}

/// The page in the middle of all dead letters.
async fn deep_page(engine: &Embedded) -> PageAsk {
    let half = Filter { until: Some(at(SPAN / 2)), ..Filter::default() };
    let found = engine.dead_letters(half, PageAsk::default()).await.expect("read");
    PageAsk { after: found.next, ..PageAsk::default() }
}

/// What one of 64 that come together costs: submitted, claimed, done.
async fn changes(engine: &Embedded, tasks: u64, column: &mut Column) {
    const TOGETHER: u64 = 64;
    let (mut submits, mut leases, mut settles) = (Vec::new(), Vec::new(), Vec::new());
    let per_one = |began: Instant| now().duration_since(began).as_secs_f64() * 1e6 / TOGETHER as f64;
    for round in 0..101 {
        let new = (0..TOGETHER).map(|n| Task { agent: agent("cto"), ..nth(tasks + round * TOGETHER + n, tasks) });
        let new: Vec<Task> = new.collect();
        let began = now();
        let submitted = join_all(new.into_iter().map(|task| engine.submit(task, integration("anthropic"), NOW))).await;
        submits.push(per_one(began));
        submitted.into_iter().for_each(|answer| drop(answer.expect("accepted")));
        let began = now();
        let claimed = engine.lease(ask(agent("cto"), TOGETHER as u32), NOW).await.expect("leased");
        leases.push(per_one(began));
        let began = now();
        let settled =
            join_all(claimed.iter().map(|record| engine.command(record.task.id, settle(record.fence, ack()), NOW)));
        settled.await.into_iter().for_each(|answer| drop(answer.expect("settled")));
        settles.push(per_one(began));
    }
    for (name, mut spans) in [("submit", submits), ("lease", leases), ("settle", settles)] {
        spans.sort_by(f64::total_cmp);
        column.push((name, spans[spans.len() / 2], "us"));
    }
}
