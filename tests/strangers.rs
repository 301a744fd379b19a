//! Our own client, judged by programs nobody here wrote: they read its requests by their own rules, answer as vendors
//! do, and break on cue.
//!
//! `.ci/peers` installs them. Where they are not there, that is said and the tests are skipped; under `CI=true` they
//! have to be there.

#[path = "strangers/aimock.rs"]
mod aimock;
#[path = "strangers/llmock.rs"]
mod llmock;

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Long enough for a machine under load; nothing waits for it that goes well.
const LONG: Duration = Duration::from_secs(120);

/// A running program nobody here wrote. It ends with this, also when a test panics.
struct Stranger {
    /// `http://127.0.0.1:<port>`; the port is one the system picked.
    url: String,
    client: Client,
    _child: Child,
}

impl Stranger {
    /// How to start it. What the environment says to it is for somebody else's run.
    fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("PYTHONUNBUFFERED", "1");
        command
    }

    /// Starts it, and waits for the line in which it says where it listens.
    async fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a program that starts");
        let (tell, mut told) = mpsc::unbounded_channel();
        says(child.stdout.take().expect("its words"), tell.clone());
        says(child.stderr.take().expect("its log"), tell);
        let mut words = String::new();
        let url = tokio::time::timeout(LONG, async {
            loop {
                let Some(line) = told.recv().await else { panic!("it ended before it listened:\n{words}") };
                let heard =
                    ["Uvicorn running on ", "server listening on "].iter().find_map(|said| line.split_once(said));
                if let Some(url) = heard.and_then(|(_, url)| url.split_whitespace().next()) {
                    return url.to_owned();
                }
                words.push_str(&line);
                words.push('\n');
            }
        });
        let url = url.await.expect("it listens in time");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().expect("a client");
        Self { url, client, _child: child }
    }

    /// Asks its control API. Answers with the JSON it says.
    async fn control(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = body.into_iter().fold(request, |request, body| request.json(&body));
        let response = request.send().await.expect("an answer");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.expect("JSON")
    }
}

/// Tells the lines a program says, and reads on when nobody listens any more, so that it never waits for a reader.
fn says(log: impl AsyncRead + Unpin + Send + 'static, tell: mpsc::UnboundedSender<String>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(log).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = tell.send(line);
        }
    });
}
