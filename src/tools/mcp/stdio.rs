//! The other end of a program's pipes: one JSON-RPC message a line, each bounded, and the program ends with us.
//!
//! The SDK's own transport throws a line away that is too long or no answer, and the call that waits for it waits until
//! its time is up. Here such a line ends the call it belongs to, with what it was.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::service::{RoleClient, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::redact::{Redactor, one_line};
use crate::task::Integration;
use crate::tools::child::Group;

/// The longest message that is read, in bytes: the largest list of tools, and every answer that is taken.
pub(super) const LINE_MAX: usize = 4 * 1024 * 1024;
/// How much of both ends of a longer one is looked at for the call it answers.
const ENDS: usize = 512;
/// The longest line of a program's own log that is kept, in bytes.
const LOG_LINE: usize = 4 * 1024;
/// How long a program may take to end by itself once its input is closed.
const GRACE: Duration = Duration::from_secs(2);
/// The error codes by which a call learns that its answer was there and could not be taken. No server uses them.
pub(super) const TOO_LONG: i32 = -1_000_001;
/// As [`TOO_LONG`], for what is no answer.
pub(super) const NO_ANSWER: i32 = -1_000_002;

/// What was seen of a program besides its answers.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Lines that are no messages.
    pub(super) noise: usize,
    /// The last line of its log.
    pub(super) log: String,
    /// Messages heard.
    pub(super) heard: u64,
}

/// The pipes of a program.
pub(super) struct Pipes {
    lines: Lines<ChildStdout>,
    stdin: Arc<tokio::sync::Mutex<Option<ChildStdin>>>,
    aside: Arc<Mutex<Aside>>,
    server: Integration,
}

/// Keeps a program running; when dropped, the program is told to end, and after a moment made to.
pub(super) struct Running {
    _keep: oneshot::Sender<()>,
    /// How it ended, once it has.
    pub(super) ended: watch::Receiver<Option<String>>,
}

/// Takes a started program over.
pub(super) fn take_over(
    server: &Integration,
    mut child: Child,
    group: Group,
    secrets: Redactor,
) -> io::Result<(Pipes, Running, Arc<Mutex<Aside>>)> {
    let missing = || io::Error::other("its pipes are missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let aside = Arc::new(Mutex::new(Aside::default()));
    tokio::spawn(log(server.clone(), stderr, secrets, Arc::clone(&aside)));
    let (keep, dropped) = oneshot::channel();
    let (tell, ended) = watch::channel(None);
    tokio::spawn(watch(child, group, dropped, tell));
    let pipes = Pipes {
        lines: Lines::new(stdout),
        stdin: Arc::new(tokio::sync::Mutex::new(Some(stdin))),
        aside: Arc::clone(&aside),
        server: server.clone(),
    };
    Ok((pipes, Running { _keep: keep, ended }, aside))
}

/// Waits for the program's end, or brings it about. When the runtime ends first, dropping what it holds does.
async fn watch(mut child: Child, group: Group, dropped: oneshot::Receiver<()>, tell: watch::Sender<Option<String>>) {
    let status = tokio::select! {
        status = child.wait() => Some(status),
        _ = dropped => timeout(GRACE, child.wait()).await.ok(),
    };
    // The program and all it started that is still there.
    drop(group);
    let status = match status {
        Some(status) => status,
        None => child.wait().await,
    };
    tell.send_replace(Some(status.map_or_else(|error| error.to_string(), |status| status.to_string())));
}

/// What a program writes beside its answers is for who looks for its trouble.
async fn log(server: Integration, stderr: impl AsyncRead + Unpin, secrets: Redactor, aside: Arc<Mutex<Aside>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(LOG_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = one_line(&secrets.redact(&String::from_utf8_lossy(&line)), 500);
                if !text.is_empty() {
                    tracing::debug!(%server, "{text}");
                    aside.lock().unwrap_or_else(PoisonError::into_inner).log = text;
                }
            }
        }
    }
}

impl Transport<RoleClient> for Pipes {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let stdin = Arc::clone(&self.stdin);
        async move {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            let mut stdin = stdin.lock().await;
            let stdin = stdin.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            stdin.write_all(&line).await?;
            stdin.flush().await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let line = self.lines.next().await?;
            let read = match &line {
                Line::Whole(line) => read(line),
                Line::TooLong { ends } => match id_in(ends) {
                    Some(id) => instead(&id, TOO_LONG, "too long"),
                    // Nobody knows whose it is: no call can be told, and none may wait for it.
                    None => {
                        tracing::warn!(server = %self.server, "a message of more than {LINE_MAX} bytes; the server is given up");
                        return None;
                    }
                },
            };
            let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
            match read {
                Some(message) => {
                    aside.heard += 1;
                    return Some(message);
                }
                None => {
                    aside.noise += 1;
                    tracing::debug!(server = %self.server, "a line that is no message");
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        // Not waited for: who is writing to a program that does not read holds it.
        if let Ok(mut stdin) = self.stdin.try_lock() {
            drop(stdin.take());
        }
        Ok(())
    }
}

/// A line as a message; what is an answer and cannot be read as one is an error for the call it answers.
fn read(line: &[u8]) -> Option<RxJsonRpcMessage<RoleClient>> {
    if let Ok(message) = serde_json::from_slice(line) {
        return Some(message);
    }
    let value: Value = serde_json::from_slice(line).ok()?;
    let id = value.get("id").filter(|id| id.is_u64() || id.is_string())?;
    if value.get("method").is_some() { None } else { instead(id, NO_ANSWER, "neither a result nor an error") }
}

fn instead(id: &Value, code: i32, message: &str) -> Option<RxJsonRpcMessage<RoleClient>> {
    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
    serde_json::from_value(error).ok()
}

/// The id of a message of which only both ends are there: before its result, or after it.
fn id_in(ends: &[Vec<u8>; 2]) -> Option<Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (head, tail) = (text(&ends[0]), text(&ends[1]));
    let after = |text: &str| {
        let rest = text.trim_start().strip_prefix(':')?.trim_start();
        let end = rest.find([',', '}'])?;
        serde_json::from_str::<Value>(rest[..end].trim()).ok().filter(|id| id.is_u64() || id.is_string())
    };
    let before_result = head.split("\"result\"").next().filter(|before| before.len() < head.len());
    let first = before_result.and_then(|before| before.split_once("\"id\"")).and_then(|(_, rest)| after(rest));
    first.or_else(|| tail.rsplit_once("\"id\"").and_then(|(_, rest)| after(rest)))
}

/// Lines of bounded length. What was read of one is kept when reading is given up.
struct Lines<R> {
    stream: BufReader<R>,
    line: Vec<u8>,
    /// The end of a line that is too long.
    tail: Option<VecDeque<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Vec<u8>),
    TooLong { ends: [Vec<u8>; 2] },
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(stream: R) -> Self {
        Self { stream: BufReader::with_capacity(64 * 1024, stream), line: Vec::new(), tail: None }
    }

    /// The next line; `None` when there is none any more, however the stream ended.
    async fn next(&mut self) -> Option<Line> {
        loop {
            let chunk = self.stream.fill_buf().await.ok()?;
            if chunk.is_empty() {
                return None;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let piece = &chunk[..end.unwrap_or(chunk.len())];
            match &mut self.tail {
                None if self.line.len() + piece.len() <= LINE_MAX => self.line.extend_from_slice(piece),
                None => {
                    self.line.truncate(ENDS);
                    let room = ENDS.saturating_sub(self.line.len()).min(piece.len());
                    self.line.extend_from_slice(&piece[..room]);
                    self.line.shrink_to_fit();
                    self.tail = Some(piece[piece.len().saturating_sub(ENDS)..].iter().copied().collect());
                }
                Some(tail) => {
                    tail.extend(&piece[piece.len().saturating_sub(ENDS)..]);
                    let more = tail.len().saturating_sub(ENDS);
                    tail.drain(..more);
                }
            }
            let used = piece.len() + usize::from(end.is_some());
            self.stream.consume(used);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                return Some(match self.tail.take() {
                    None => Line::Whole(line),
                    Some(tail) => Line::TooLong { ends: [line, tail.into()] },
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_or_known_by_their_ends() {
        let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"{}\"}}", "x".repeat(LINE_MAX));
        let late = format!("{{\"result\":{{\"a\":\"{}\"}},\"id\":\"k\"}}", "\"id\\\":9,".repeat(LINE_MAX / 8));
        let text = format!("one\n\ntwo\r\n{long}\n{late}\nthree\nhalf a line");
        let mut lines = Lines::new(text.as_bytes());
        let whole = |text: &str| Some(Line::Whole(text.as_bytes().to_vec()));
        for expected in ["one", "", "two\r"] {
            assert_eq!(lines.next().await, whole(expected));
        }
        for expected in [json!(7), json!("k")] {
            let Some(Line::TooLong { ends }) = lines.next().await else { panic!("not too long") };
            assert!(ends[0].len() <= ENDS && ends[1].len() <= ENDS);
            assert_eq!(id_in(&ends), Some(expected));
        }
        assert_eq!(lines.next().await, whole("three"));
        assert_eq!(lines.next().await, None);
    }

    #[test]
    fn what_is_no_answer_is_an_error_for_its_call_and_the_rest_is_noise() {
        let told = |line: &str| read(line.as_bytes()).map(|message| serde_json::to_value(message).expect("JSON"));
        let code = |line: &str| told(line).and_then(|message| message["error"]["code"].as_i64());
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":3}"#), Some(i64::from(NO_ANSWER)));
        assert_eq!(code(r#"{"id":3,"result":5}"#), Some(i64::from(NO_ANSWER)));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"m"}}"#), Some(-32602));
        for noise in ["", "Listening on stdio", "{", "[]", "null", r#"{"id":{}}"#, r#"{"method":"x","id":1,"a":}"#] {
            assert_eq!(told(noise), None, "{noise}");
        }
    }
}
