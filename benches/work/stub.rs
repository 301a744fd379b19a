//! A model on a thread of its own: OpenAI's chat completions over HTTP, as few instructions as that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::now;

/// How it answers.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// How long an answer takes.
    pub(crate) takes: Duration,
    /// How long after its first call it is down: 503 without a hint.
    pub(crate) down_for: Duration,
}

impl Manner {
    pub(crate) const fn at_once() -> Self {
        Self { takes: Duration::ZERO, down_for: Duration::ZERO }
    }
}

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    refused: AtomicU64,
}

/// A running model.
pub(crate) struct Stub {
    url: String,
    counts: Arc<Counts>,
}

const ANSWER: &str = concat!(
    "data: {\"id\":\"c\",\"model\":\"model\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"done\"}}]}\n\n",
    "data: {\"id\":\"c\",\"model\":\"model\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"id\":\"c\",\"model\":\"model\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n",
    "data: [DONE]\n\n",
);

impl Stub {
    pub(crate) fn start(manner: Manner) -> Self {
        let counts = Arc::<Counts>::default();
        let (told, heard) = std::sync::mpsc::channel();
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                // A thousand callers connect at once: the queue of the system must hold them.
                let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
                socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
                let listener = socket.listen(16_384).expect("a listener");
                told.send(listener.local_addr().expect("an address")).expect("somebody waits");
                serve(listener, manner, shared).await;
            });
        });
        Self { url: format!("http://{}", heard.recv().expect("it started")), counts }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Calls that came in, refused ones included.
    pub(crate) fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::Relaxed)
    }

    /// Calls that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, manner: Manner, counts: Arc<Counts>) {
    let up: Arc<str> = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    )
    .into();
    let down: Arc<str> =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".into();
    let mut first: Option<Instant> = None;
    while let Ok((stream, _)) = listener.accept().await {
        let since = *first.get_or_insert_with(now);
        let (up, down, counts) = (Arc::clone(&up), Arc::clone(&down), Arc::clone(&counts));
        tokio::spawn(async move {
            // A caller that hangs up is answered no more.
            let _ = connection(stream, manner, since, &up, &down, &counts).await;
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    manner: Manner,
    since: Instant,
    up: &str,
    down: &str,
    counts: &Counts,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = Vec::with_capacity(4_096);
    loop {
        heard.clear();
        while !whole(&heard) {
            if stream.read_buf(&mut heard).await? == 0 {
                return Ok(());
            }
        }
        counts.calls.fetch_add(1, Ordering::Relaxed);
        if now().duration_since(since) < manner.down_for {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            stream.write_all(down.as_bytes()).await?;
            continue;
        }
        if !manner.takes.is_zero() {
            tokio::time::sleep(manner.takes).await;
        }
        stream.write_all(up.as_bytes()).await?;
    }
}

/// Has a request come as a whole?
fn whole(heard: &[u8]) -> bool {
    let Some(end) = heard.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&heard[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    heard.len() >= end + 4 + length
}
