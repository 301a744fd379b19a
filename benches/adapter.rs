//! What an adapter costs beside bare reqwest, on the same loopback stub and in the same run.
//!
//! `cargo bench --bench adapter`. Both open one connection a call and read a streamed answer to its end; only the
//! adapter understands it. Turns are taken call by call, so that what disturbs one disturbs the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backstop::config::{ProviderConfig, Wire};
use backstop::llm::{self, Message, Progress, Request};
use backstop::task::Integration;
use backstop::time::Timestamp;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// As the command has it, for both.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLS: usize = 1_000;
/// Words of an answer, each in an event of its own.
const WORDS: usize = 200;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(compare());
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

async fn compare() {
    let url = stub().await;
    let integration = Integration::new("stub").expect("a name");
    let config = provider_config(&url);
    let adapter = llm::provider(integration, &config, Arc::new(|| Timestamp::from_millis(0))).expect("an adapter");
    let request = Request {
        model: "m".to_owned(),
        system: "You are brief.".to_owned(),
        messages: vec![Message::user("Go on.")],
        max_output_tokens: 1_000,
        tools: Vec::new(),
        schema: None,
    };
    let bare = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    let body = json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "Go on." }] });

    let (mut ours, mut theirs) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for _ in 0..CALLS {
        let started = now();
        let read = bare.post(format!("{url}/v1/chat/completions")).json(&body).send().await.expect("an answer");
        assert!(read.bytes().await.expect("a body").len() > WORDS);
        theirs.push(now().duration_since(started));

        let started = now();
        let reply = adapter.ask(&request, &Progress::default()).await.expect("an answer");
        assert_eq!(reply.text.len(), WORDS * 5);
        ours.push(now().duration_since(started));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("a streamed answer of {WORDS} events, median of {CALLS}:");
    println!(
        "  bare reqwest {theirs:.1?}, adapter {ours:.1?}: ratio {ratio:.2}, {:.1?} more",
        ours.saturating_sub(theirs)
    );
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

fn provider_config(url: &str) -> ProviderConfig {
    ProviderConfig::new(Wire::OpenAi, format!("{url}/v1"))
}

/// A server that gives every request the same answer, in one write, and closes.
async fn stub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let mut body = String::new();
    for n in 0..WORDS {
        let word = json!({ "id": "c", "model": "m", "choices": [{ "index": 0, "delta": { "content": format!(" w{n:03}") } }] });
        body.push_str(&format!("data: {word}\n\n"));
    }
    let stop = json!({ "id": "c", "model": "m", "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let usage =
        json!({ "id": "c", "model": "m", "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": WORDS } });
    body.push_str(&format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n"));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer: Arc<[u8]> = [head.as_bytes(), body.as_bytes()].concat().into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&answer)));
        }
    });
    url
}

async fn serve(mut stream: TcpStream, answer: Arc<[u8]>) {
    let mut heard = Vec::new();
    // Both clients send a JSON object last.
    while !heard.ends_with(b"}") {
        if stream.read_buf(&mut heard).await.is_ok_and(|read| read == 0) {
            return;
        }
    }
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}
