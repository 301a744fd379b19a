//! A team's directory and its real process: `backstop up`, asked over HTTP, told to stop, killed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Outcome;
use crate::disk::Disk;
use crate::world::World;

/// The longest a start, an end or an answer may take before it is called hanging.
pub(crate) const TOO_LONG: Duration = Duration::from_secs(30);

/// The binary under test: cargo's, unless the environment names another.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("BACKSTOP_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_backstop").into(), PathBuf::from)
}

/// A team's directory, and where its store is.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    dir: PathBuf,
    data: PathBuf,
    /// An address of this machine that no other project of this run has: see [`home_of_its_own`].
    ip: Ipv4Addr,
}

/// Projects are played side by side, and the port of a process that was killed is given to whoever starts next: at one
/// address the client of a dead process spoke to the process of another point, was acknowledged there, and missed here what
/// it had been promised.
fn home_of_its_own() -> Ipv4Addr {
    static PROJECTS: AtomicU32 = AtomicU32::new(0);
    let number = PROJECTS.fetch_add(1, Ordering::Relaxed);
    let octet = |number: u32| u8::try_from(1 + number % 250).expect("less than 251");
    Ipv4Addr::new(127, octet(std::process::id()), octet(number / 250), octet(number))
}

const TEAM: &str = r#"team: faults
providers:
  anthropic: { api-key: "${TEAM_KEY}", base-url: "{model}" }
tools: { http: { hosts: { "{shop}": { methods: [GET, POST] } } } }
task-types:
  review: { effect: read-only }
  fail: { effect: read-only, output-schema: fail.json, retry: { max-deliveries: 3, backoff: [1ms] } }
  later: { effect: read-only, retry: { max-deliveries: 3, backoff: [1h] } }
  order: { effect: mutation }
  charge: { effect: payment }
retry: { max-deliveries: 3, backoff: [1ms], jitter: none, ack-wait: 10m, park-at-most: 10m }
breaker: { failures: 10000, window: 30s, open-for: 60s }
escalation:
  threshold: 3
  window: 1h
  on-call: [{ name: founder, channels: [{ pagerduty: { routing-key: "${PAGER_KEY}", url: "{pager}" } }] }]
drain-timeout: 5s
"#;

const AGENT: &str = "---
name: {name}
description: Works.
model: anthropic/claude-sonnet-5-5
handles: [{handles}]
tools: [{tools}]
limits: { concurrency: 8 }
---
You answer.
";

impl Project {
    /// A team in `dir` that works in this world; its store is in `data`.
    pub(crate) fn new(dir: &Path, data: &Path, world: &World) -> Outcome<Self> {
        let team = TEAM.replace("{model}", &world.model()).replace("{pager}", &world.pager());
        let agent = |name: &str, handles: &str, tools: &str| {
            AGENT.replace("{name}", name).replace("{handles}", handles).replace("{tools}", tools)
        };
        let files = [
            ("backstop.yaml", team.replace("{shop}", &world.shop())),
            ("fail.json", r#"{ "type": "object", "required": ["works"] }"#.to_owned()),
            ("agents/cto.md", agent("cto", "review, fail, later", "")),
            ("agents/coo.md", agent("coo", "order, charge", "http")),
        ];
        Self::of(dir, data, &files)
    }

    /// A team of these files, by their names in its directory.
    pub(crate) fn of(dir: &Path, data: &Path, files: &[(&str, String)]) -> Outcome<Self> {
        let project = Self { dir: dir.join("team"), data: data.to_owned(), ip: home_of_its_own() };
        for (name, text) in files {
            let path = project.dir.join(name);
            let written =
                std::fs::create_dir_all(path.parent().expect("a parent")).and_then(|()| std::fs::write(&path, text));
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        std::fs::create_dir_all(dir.join("home")).map_err(|error| error.to_string())?;
        Ok(project)
    }

    /// Where its store is.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it; it is up, or it has ended, when this returns.
    pub(crate) async fn start(&self, disk: Option<&Disk>) -> Outcome<Started> {
        let mut command = Command::new(binary());
        command.args(["up", "--listen", &format!("{}:0", self.ip), "--data"]).arg(&self.data);
        command.env_clear().env("HOME", self.dir.join("../home")).env("TEAM_KEY", "a-key").env("PAGER_KEY", "a-key");
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        if let Some(disk) = disk {
            disk.under(&mut command, &self.data);
        }
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", binary().display()))?;
        let (told, news) = watch::channel(0);
        let said = Said { lines: Arc::default(), news };
        said.listen(child.stdout.take().expect("stdout"), told.clone());
        said.listen(child.stderr.take().expect("stderr"), told);
        let url = said
            .until(|line| line.split_once("http://").filter(|_| line.contains(", data in ")).map(|it| it.1.to_owned()));
        let url = url.await.map_err(|late| format!("it neither came up nor ended: {late}\n{}", said.all()))?;
        let Some(url) = url else {
            let status = timeout(TOO_LONG, child.wait()).await.map_err(|_| "it does not end")?;
            let code = status.map_err(|error| error.to_string())?.code();
            return Ok(Started::Ended { code, said: said.all() });
        };
        let url = format!("http://{}", url.split(',').next().unwrap_or_default());
        Ok(Started::Up(Box::new(Up { child, said, client: Client::new(url) })))
    }

    /// Starts it on a disk that is well: it must come up.
    pub(crate) async fn up(&self) -> Outcome<Up> {
        match self.start(None).await? {
            Started::Up(up) => Ok(*up),
            Started::Ended { code, said } => Err(format!("it did not start again (exit {code:?}):\n{said}")),
        }
    }
}

/// What became of a start.
pub(crate) enum Started {
    /// It is up.
    Up(Box<Up>),
    /// It has ended: with a code, or by a signal.
    Ended { code: Option<i32>, said: String },
}

/// A running team.
pub(crate) struct Up {
    child: Child,
    said: Said,
    /// Its API.
    pub(crate) client: Client,
}

impl Up {
    /// Everything it has said.
    pub(crate) fn said(&self) -> String {
        self.said.all()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended meanwhile.
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Tells it to stop.
    pub(crate) fn terminate(&self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
    }

    /// Stands still, as a laptop that is shut.
    pub(crate) fn stop(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Dies at once, as by `kill -9`.
    pub(crate) async fn kill(mut self) -> Outcome<()> {
        self.child.kill().await.map_err(|error| format!("kill: {error}"))
    }

    /// Waits until it has ended: its code, none if a signal ended it.
    pub(crate) async fn ended(&mut self) -> Outcome<Option<i32>> {
        let waited = timeout(TOO_LONG, self.child.wait()).await;
        let status = waited.map_err(|_| format!("it does not end:\n{}", self.said()))?;
        status.map(|status| status.code()).map_err(|error| error.to_string())
    }
}

/// What a process says, line by line.
#[derive(Clone)]
struct Said {
    lines: Arc<Mutex<Vec<String>>>,
    news: watch::Receiver<usize>,
}

impl Said {
    fn listen(&self, from: impl tokio::io::AsyncRead + Unpin + Send + 'static, told: watch::Sender<usize>) {
        let lines = Arc::clone(&self.lines);
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                told.send_modify(|count| *count += 1);
            }
        });
    }

    fn all(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits for a line in which something is found; none when it can say no more.
    async fn until(
        &self,
        found: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, tokio::time::error::Elapsed> {
        let mut news = self.news.clone();
        let look = || self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|line| found(line));
        timeout(TOO_LONG, async {
            loop {
                if let Some(found) = look() {
                    return Some(found);
                }
                if news.changed().await.is_err() {
                    return look();
                }
            }
        })
        .await
    }
}

/// Nobody answers: the process is dead, or hangs.
#[derive(Debug)]
pub(crate) struct Gone;

/// The API of a running team.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    fn new(url: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(TOO_LONG).build().expect("a client");
        Self { url, http }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<(u16, Value), Gone> {
        let response = request.send().await.map_err(|_| Gone)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|_| Gone)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value), Gone> {
        self.ask(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value), Gone> {
        self.ask(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// What is there; it must be.
    pub(crate) async fn read(&self, path: &str) -> Outcome<Value> {
        match self.get(path).await {
            Ok((200, value)) => Ok(value),
            Ok((status, value)) => Err(format!("GET {path}: {status} {value}")),
            Err(Gone) => Err(format!("GET {path}: nobody answers")),
        }
    }

    /// All items of a list; they must be there.
    pub(crate) async fn all(&self, path: &str) -> Outcome<Vec<Value>> {
        self.every(path, None).await.unwrap_or_else(|Gone| Err(format!("GET {path}: nobody answers")))
    }

    /// All items of a list, page after page, from behind this place in it on.
    pub(crate) async fn every(&self, path: &str, after: Option<String>) -> Result<Outcome<Vec<Value>>, Gone> {
        let mut items = Vec::new();
        let mut next = after;
        loop {
            let glue = if path.contains('?') { '&' } else { '?' };
            let after = next.map_or_else(String::new, |after| format!("&after={after}"));
            let (status, page) = self.get(&format!("{path}{glue}limit=500{after}")).await?;
            if status != 200 {
                return Ok(Err(format!("GET {path}: {status} {page}")));
            }
            if let Some(unreadable) = page.get("unreadable") {
                return Ok(Err(format!("{path}: some cannot be read: {unreadable}")));
            }
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            next = page["next"].as_str().map(str::to_owned);
            if next.is_none() {
                return Ok(Ok(items));
            }
        }
    }
}
