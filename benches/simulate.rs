//! What a simulated day costs, how many drawn worlds a second are played, and what the outage server serves and delays.
//!
//! `cargo bench --bench simulate`. The server's figures stand beside a server in the same process that knows one answer
//! and reads nothing of what it is asked: what sockets cost here. Through the proxy and past it turns are taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::definitions::{LoadedScenario, scenario_text};
use backstop::sim::fuzz::{draw, hush};
use backstop::sim::library;
use backstop::sim::outage::{Options, OutageServer};
use backstop::sim::play::play;
use backstop::sim::report::Report;
use backstop::sim::script::Script;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The command's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCENARIOS: [&str; 2] = ["thirty-days", "genbrain-fleet"];
const SEEDS: u64 = 60;
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 2_000;
const DAY: f64 = 86_400.0;

fn main() {
    hush();
    for name in SCENARIOS {
        virtual_time(name);
    }
    drawn_worlds();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(server());
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn shipped(name: &str) -> LoadedScenario {
    let (name, text) = library::named(name).expect("it is shipped");
    scenario_text(&format!("{name}.yaml"), text, None).expect("it is sound")
}

/// A run with its report, every invariant looked at included.
fn virtual_time(name: &str) {
    let loaded = shipped(name);
    let began = now();
    let run = play(&loaded, 1).expect("it is played");
    let report = Report::of(&loaded, &run);
    let took = now().duration_since(began).as_secs_f64();
    assert!(report.holds(), "{name} does not hold");
    let (days, tasks) = (run.elapsed.as_secs_f64() / DAY, run.records.len() as f64);
    println!(
        "{name}: {days:.0} days, {tasks} tasks in {took:.2} s: {:.0} days and {:.0} tasks a second",
        days / took,
        tasks / took
    );
}

/// Drawn worlds, each once, on one thread.
fn drawn_worlds() {
    let began = now();
    let mut tasks = 0;
    for seed in 0..SEEDS {
        let drawn = draw(seed);
        let (verdict, _) = drawn.judge_once(&drawn.loaded());
        assert!(verdict.violations.is_empty(), "seed {seed} does not hold");
        tasks += verdict.tasks;
    }
    let took = now().duration_since(began).as_secs_f64();
    println!(
        "{SEEDS} drawn worlds of {} tasks, each once, on one core: {:.0} a second, {:.0} tasks a second",
        tasks / SEEDS,
        SEEDS as f64 / took,
        tasks as f64 / took
    );
}

const BODY: &str =
    r#"{"model":"gpt-6-sol","messages":[{"role":"user","content":"Say hello in one word, and then say why."}]}"#;

fn request(to: SocketAddr) -> Vec<u8> {
    let length = BODY.len();
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer any\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{BODY}").into_bytes()
}

async fn server() {
    let own = OutageServer::start(Script::new(7)).await.expect("a server");
    let mut line = Line::to(own.address()).await;
    line.ask().await;
    let bare = stub(line.answer().into()).await;
    let (ours, limit) = (rate(own.address()).await, rate(bare).await);
    println!(
        "outage server: {ours:.0} requests a second over {CONNECTIONS} connections, {:.2} of a server that knows one answer",
        ours / limit
    );

    let upstream = Some(format!("http://{bare}"));
    let proxy = OutageServer::open(Script::new(7), Options { upstream, ..Options::default() }).await.expect("a proxy");
    let (mut past, mut through) = (Line::to(bare).await, Line::to(proxy.address()).await);
    let (mut straight, mut detour) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        straight.push(past.ask().await);
        detour.push(through.ask().await);
    }
    let (straight, detour) = (median(straight), median(detour));
    println!("proxy: {straight:.0?} past it and {detour:.0?} through it, {:.0?} more", detour.saturating_sub(straight));
    own.shutdown().await;
    proxy.shutdown().await;
}

/// Requests a second.
async fn rate(address: SocketAddr) -> f64 {
    let began = now();
    let all = (0..CONNECTIONS).map(|_| {
        tokio::spawn(async move {
            let mut line = Line::to(address).await;
            for _ in 0..REQUESTS {
                line.ask().await;
            }
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.expect("every answer came");
    }
    (CONNECTIONS * REQUESTS) as f64 / now().duration_since(began).as_secs_f64()
}

/// A connection that is kept.
struct Line {
    stream: TcpStream,
    request: Vec<u8>,
    heard: Vec<u8>,
}

impl Line {
    async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option of every socket");
        Self { stream, request: request(address), heard: Vec::new() }
    }

    /// Asks once and reads the whole answer.
    async fn ask(&mut self) -> Duration {
        let began = now();
        self.stream.write_all(&self.request).await.expect("it listens");
        self.heard.clear();
        while end(&self.heard).is_none_or(|end| self.heard.len() < end) {
            let read = self.stream.read_buf(&mut self.heard).await.expect("it answers");
            assert!(read > 0, "the connection was closed");
        }
        assert!(self.heard.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.heard));
        now().duration_since(began)
    }

    fn answer(&self) -> Vec<u8> {
        self.heard.clone()
    }
}

/// Where the message ends that begins here, once its head is there.
fn end(message: &[u8]) -> Option<usize> {
    let head = message.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&message[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(head + length.expect("the length is told"))
}

/// A server that gives every request the same answer.
async fn stub(answer: Arc<[u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut heard = Vec::new();
                while stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
                    if end(&heard).is_some_and(|end| heard.len() >= end) {
                        heard.clear();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}
