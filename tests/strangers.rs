//! Our own client, judged by programs nobody here wrote: they read its requests by their own rules, answer as vendors
//! do, and break on cue.
//!
//! `.ci/peers` installs them. Where they are not there, that is said and the tests are skipped; under `CI=true` they
//! have to be there.

#[path = "strangers/aimock.rs"]
mod aimock;
#[path = "strangers/llmock.rs"]
mod llmock;

use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Long enough for a machine under load; nothing waits for it that goes well.
const LONG: Duration = Duration::from_secs(60);

/// A running program nobody here wrote. It ends with this, also when a test panics.
struct Stranger {
    /// `http://127.0.0.1:<port>`; the port is one the system picked.
    url: String,
    client: Client,
    _child: Child,
}

impl Stranger {
    /// Starts it, and waits for the line in which it says where it listens.
    async fn start(command: &mut Command) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // What the environment says of it is for somebody else's run.
        command.env_clear().env("PATH", path).env("PYTHONUNBUFFERED", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a program that starts");
        let (tell, mut told) = mpsc::unbounded_channel();
        listens(child.stdout.take().expect("its words"), tell.clone());
        listens(child.stderr.take().expect("its log"), tell);
        let url = tokio::time::timeout(LONG, told.recv()).await.expect("it listens in time");
        let url = url.expect("it ended before it listened");
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

/// Reads all a program says, so that it never waits for a reader, and tells at which address it says it listens.
fn listens(log: impl AsyncRead + Unpin + Send + 'static, tell: mpsc::UnboundedSender<String>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(log).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let said = ["Uvicorn running on ", "server listening on "].iter().find_map(|words| line.split_once(words));
            let url = said.and_then(|(_, url)| url.split_whitespace().next());
            // Nobody waits for it twice.
            let _ = url.map(|url| tell.send(url.to_owned()));
        }
    });
}
