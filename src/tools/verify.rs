//! Verification of an answer before it is accepted: by a program, or by a POST to a listed host.
//!
//! The third way, a second agent, is the team's to carry out; `verdict.rs` reads what that agent says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::reach::{Ask, Door};
use super::{Error, Teller, Trouble, child};
use crate::cause::ToolFault;
use crate::redact::one_line;
use crate::task::{Integration, TaskId, TaskType};
use crate::tool_config::{Setting, ToolsConfig, Verify};
pub use crate::verdict::Verdict;
use crate::verdict::WHY_MAX;

/// The name verification goes by in troubles.
const NAME: &str = "verify";
/// How much of a program's output is kept, in bytes: its end.
const OUTPUT: usize = 8 * 1024;
/// How many lines of it are told.
const LINES: usize = 20;
/// The statuses by which an address refuses.
const REFUSALS: [u16; 2] = [400, 422];
/// How long its output may take to end once the program has.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Verifies answers, as task types declare it.
pub struct Verifier {
    teller: Teller,
    door: Door,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier that may ask the hosts of the HTTP tool.
    ///
    /// # Errors
    /// When a header of a host cannot be sent, or the client cannot be set up.
    pub fn new(tools: &ToolsConfig) -> Result<Self, Error> {
        let name = Integration::new(NAME).expect("`verify` is a name");
        let door = Door::new(&name, &tools.http.hosts)?;
        Ok(Self { teller: Teller::hiding(name, tools.secrets()), door })
    }

    /// Verifies one answer. Nothing is retried.
    ///
    /// A program is given the answer as JSON on its standard input, `BACKSTOP_TASK_ID` and `BACKSTOP_TASK_TYPE` besides
    /// `PATH` and `HOME`, and accepts by exiting with 0. An address accepts with 2xx and refuses with 400 or 422. A
    /// refusal carries its last words, for the next attempt's prompt.
    ///
    /// # Errors
    /// When neither was said: the program could not be started, was killed or did not end in time; the host could not be
    /// asked or answered something else; or it is an agent who is to be asked, which is not done here.
    pub async fn check(
        &self,
        verify: &Verify,
        task: TaskId,
        task_type: &TaskType,
        answer: &Value,
    ) -> Result<Verdict, Box<Trouble>> {
        match verify {
            Verify::Command { command, within } => self.by_command(command, *within, task, task_type, answer).await,
            Verify::Url { url, within } => self.by_url(url, *within, answer).await,
            Verify::Agent { agent, .. } => {
                Err(self.teller.unsent(ToolFault::Refused, agent.as_str(), "an agent is asked by the team"))
            }
        }
    }

    async fn by_command(
        &self,
        command: &[String],
        within: Duration,
        task: TaskId,
        task_type: &TaskType,
        answer: &Value,
    ) -> Result<Verdict, Box<Trouble>> {
        let doing = command.first().map_or("command", String::as_str);
        let env: BTreeMap<String, Setting> = [
            ("BACKSTOP_TASK_ID".to_owned(), Setting::Plain(task.to_string())),
            ("BACKSTOP_TASK_TYPE".to_owned(), Setting::Plain(task_type.to_string())),
        ]
        .into();
        let (mut child, mut group) = child::start(command, &env).map_err(|error| {
            self.teller.unsent(ToolFault::Unreachable, doing, format!("cannot be started: {error}"))
        })?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let question = answer.to_string();
        let told = async {
            if let Some(mut stdin) = stdin {
                // Who decides without reading the answer closes its end, and that is its business.
                let _unread = stdin.write_all(question.as_bytes()).await;
                let _unread = stdin.shutdown().await;
            }
        };
        let heard = async { tokio::join!(listen(stdout, &tail), listen(stderr, &tail)) };
        let mut heard = std::pin::pin!(heard);
        let ended = async {
            let ((), status) = tokio::join!(told, child.wait());
            status
        };
        let status = {
            let mut ended = std::pin::pin!(ended);
            let both = async {
                tokio::select! {
                    status = &mut ended => (status, false),
                    _ = &mut heard => (ended.await, true),
                }
            };
            timeout(within, both).await
        };
        let Ok((status, silent)) = status else {
            group.end();
            let _status = child.wait().await;
            let trouble = *self.teller.late(doing, within, true);
            return Err(Box::new(trouble));
        };
        // What it left behind keeps its output open.
        group.end();
        if !silent {
            let _still_open = timeout(AFTERWARDS, heard).await;
        }
        let status = status.map_err(|error| self.teller.sent(ToolFault::Died, doing, error.to_string()))?;
        match status.code() {
            Some(0) => Ok(Verdict::Accepted),
            Some(code) => {
                let output: Vec<u8> = tail.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
                let text = last_lines(&self.teller.clean(&String::from_utf8_lossy(&output)));
                Ok(Verdict::Refused(match text.is_empty() {
                    true => format!("{doing} ended with {code} and said nothing"),
                    false => format!("{doing} ended with {code}:\n{text}"),
                }))
            }
            None => Err(self.teller.sent(ToolFault::Died, doing, format!("it was killed: {status}"))),
        }
    }

    async fn by_url(&self, url: &str, within: Duration, answer: &Value) -> Result<Verdict, Box<Trouble>> {
        let target =
            self.door.target("POST", url).map_err(|why| self.teller.unsent(ToolFault::Refused, "POST", why))?;
        let doing = format!("POST {}{}", target.url.host_str().unwrap_or_default(), target.url.path());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Some(Bytes::from(answer.to_string()));
        let ask = Ask { method: Method::POST, target, headers, body, within, takes: &REFUSALS };
        match self.door.ask(ask, &doing, &self.teller).await {
            Ok(got) => self.verdict(&doing, got.status, got.text.trim()),
            // It answered; what it wrote besides is of no interest.
            Err(trouble) if matches!(trouble.fault, ToolFault::TooLarge | ToolFault::NotText) => {
                self.verdict(&doing, trouble.status.unwrap_or_default(), "")
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn verdict(&self, doing: &str, status: u16, text: &str) -> Result<Verdict, Box<Trouble>> {
        match status {
            200..=299 => Ok(Verdict::Accepted),
            _ if REFUSALS.contains(&status) && text.is_empty() => Ok(Verdict::Refused(format!("status {status}"))),
            _ if REFUSALS.contains(&status) => {
                Ok(Verdict::Refused(self.teller.clean(text).chars().take(WHY_MAX).collect()))
            }
            _ => {
                let trouble = *self.teller.sent(ToolFault::Protocol, doing, "it says neither yes nor no");
                Err(Box::new(Trouble { status: Some(status), ..trouble }))
            }
        }
    }
}

/// Keeps the end of what is said.
async fn listen(stream: Option<impl AsyncRead + Unpin>, tail: &Mutex<VecDeque<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&chunk[..length]);
        let more = tail.len().saturating_sub(OUTPUT);
        tail.drain(..more);
    }
}

fn last_lines(output: &str) -> String {
    let lines: Vec<String> = output.lines().map(|line| one_line(line, 300)).filter(|line| !line.is_empty()).collect();
    let kept = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let more = kept.chars().count().saturating_sub(WHY_MAX);
    kept.chars().skip(more).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time::Timestamp;

    async fn checked(script: &str, within: Duration) -> Result<Verdict, Box<Trouble>> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let verifier = Verifier::new(&ToolsConfig::default()).expect("a verifier");
        let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
        let task_type = TaskType::new("bug_fix").expect("a type");
        verifier.check(&Verify::Command { command, within }, task, &task_type, &json!({"patch": "…"})).await
    }

    #[tokio::test]
    async fn a_program_accepts_with_0_and_refuses_with_its_last_words() {
        let minute = Duration::from_secs(60);
        for (script, expected) in [
            ("exit 0", Verdict::Accepted),
            ("test \"$(cat)\" = '{\"patch\":\"…\"}' && test \"$BACKSTOP_TASK_TYPE\" = bug_fix", Verdict::Accepted),
            ("test -z \"$CARGO_MANIFEST_DIR\" && test -n \"$PATH\"", Verdict::Accepted),
            ("exit 3", Verdict::Refused("/bin/sh ended with 3 and said nothing".to_owned())),
            (
                "echo one; echo two >&2; sleep 0; printf 'password=hunter2'; exit 1",
                Verdict::Refused("/bin/sh ended with 1:\none\npassword=[redacted]".to_owned()),
            ),
        ] {
            let verdict = match checked(script, minute).await.expect("a verdict") {
                // The two streams are read side by side, in no order.
                Verdict::Refused(text) => Verdict::Refused(text.replace("two\n", "")),
                Verdict::Accepted => Verdict::Accepted,
            };
            assert_eq!(verdict, expected, "{script}");
        }
        let Verdict::Refused(words) = checked("seq 1 100000; exit 1", minute).await.expect("a verdict") else {
            panic!("accepted");
        };
        assert_eq!((words.lines().count(), words.lines().last()), (21, Some("100000")));
    }

    #[tokio::test]
    async fn without_an_end_there_is_no_verdict_and_nothing_is_left_running() {
        let trouble = checked("sleep 600 & sleep 600", Duration::from_millis(100)).await.expect_err("late");
        assert_eq!((trouble.fault, trouble.sent), (ToolFault::Timeout, true));
        let trouble = checked("kill -9 $$", Duration::from_secs(60)).await.expect_err("killed");
        assert_eq!(trouble.fault, ToolFault::Died);
        // What it left behind keeps nobody waiting.
        assert_eq!(checked("sleep 600 & exit 0", Duration::from_secs(60)).await, Ok(Verdict::Accepted));
        let verifier = Verifier::new(&ToolsConfig::default()).expect("a verifier");
        let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
        let nowhere = Verify::Command { command: vec!["/nowhere/program".to_owned()], within: Duration::from_secs(1) };
        let task_type = TaskType::new("bug_fix").expect("a type");
        let trouble = verifier.check(&nowhere, task, &task_type, &json!(1)).await.expect_err("not there");
        assert_eq!((trouble.fault, trouble.sent), (ToolFault::Unreachable, false));
        assert!(trouble.detail.starts_with("verify//nowhere/program: cannot be started"), "{}", trouble.detail);
    }
}
