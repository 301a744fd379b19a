//! What several promises need to be tested: files of tables, loopback stubs, programs nobody here wrote, waiting without
//! sleeping.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a stub does on a connection once it has read the request.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again until the other side is gone.
    Flood(Vec<u8>),
    /// Keeps the connection open and says no more, until the other side is gone.
    Hang,
    /// Closes cleanly.
    Close,
    /// Resets the connection.
    Reset,
}

/// A request as it was heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The request line, such as `POST /v1/messages HTTP/1.1`.
    pub(crate) line: String,
    /// Headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Heard {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// A server on a loopback port that does as it is told on every connection and remembers what it heard.
#[derive(Debug)]
pub(crate) struct Stub {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    news: Arc<Notify>,
    gone: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Stub {
    /// Reads the request of each connection, then plays.
    pub(crate) async fn playing(plays: Vec<Play>) -> Self {
        Self::in_turn(vec![plays]).await
    }

    /// The same with a play for each connection; the last is played for all that follow.
    pub(crate) async fn in_turn(plays: Vec<Vec<Play>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let record = Arc::clone(&heard);
        let (news, gone): (Arc<Notify>, Arc<Notify>) = Default::default();
        let signals = (Arc::clone(&news), Arc::clone(&gone));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let last = plays.last().cloned().unwrap_or_default();
            let mut plays = plays.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                let now = plays.next().unwrap_or_else(|| last.clone());
                connections.spawn(serve(stream, now, Arc::clone(&record), signals.clone()));
            }
        });
        Self { address, heard, news, gone, task }
    }

    /// Answers every request with one whole response.
    pub(crate) async fn answering(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        Self::playing(vec![Play::Send(response(status, headers, body)), Play::Close]).await
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `https://localhost:<port>`, whatever it speaks.
    pub(crate) fn https(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Waits until it has heard a request that was not waited for yet.
    pub(crate) async fn next_request(&self) {
        self.news.notified().await;
    }

    /// Waits until the other side of a connection that hangs is gone.
    pub(crate) async fn next_hang_up(&self) {
        self.gone.notified().await;
    }

    /// Everything it heard, oldest first.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    plays: Vec<Play>,
    record: Arc<Mutex<Vec<Heard>>>,
    signals: (Arc<Notify>, Arc<Notify>),
) {
    let (news, gone) = signals;
    // Else it is no HTTP: a TLS handshake, or a connection closed at once. The play goes on.
    if let Some(heard) = hear(&mut stream).await {
        record.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
        news.notify_one();
    }
    for play in plays {
        let sent = match play {
            Play::Send(bytes) => stream.write_all(&bytes).await,
            Play::Flood(bytes) => {
                while stream.write_all(&bytes).await.is_ok() {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Play::Hang => {
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                gone.notify_one();
                return;
            }
            Play::Close => stream.shutdown().await,
            Play::Reset => stream.set_zero_linger(),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads one request, or the first bytes of something else.
async fn hear(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes: Vec<u8> = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if !bytes.is_empty() && !bytes[0].is_ascii_uppercase() {
            return None;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[head_end + 4..]).into_owned();
    Some(Heard { line, headers, body })
}

/// A whole response with its length.
pub(crate) fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = head(status, headers);
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// The beginning of a response that comes in chunks.
pub(crate) fn chunked(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = head(status, headers);
    text.push_str("transfer-encoding: chunked\r\n\r\n");
    text.into_bytes()
}

/// One chunk.
pub(crate) fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// The end of a response that came in chunks.
pub(crate) fn last_chunk() -> Vec<u8> {
    b"0\r\n\r\n".to_vec()
}

fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let mut text = format!("HTTP/1.1 {status} Stub\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text
}

/// An address nobody listens at: it was free a moment ago.
pub(crate) async fn refused_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    format!("http://{}", listener.local_addr().expect("its address"))
}

/// `https://localhost:<port>` with a certificate nobody trusts; serves one handshake.
pub(crate) fn untrusted_tls() -> String {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificate =
        CertificateDer::from_pem_slice(include_bytes!("fixtures/self-signed.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixtures/self-signed.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a server");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).expect("a connection");
        // The client gives up; that is the test.
        let _ = connection.complete_io(&mut stream);
    });
    format!("https://localhost:{port}")
}

/// Where `.ci/peers` has put a program nobody here wrote, or where the environment says it is. Where it is not, that is
/// said, and under `CI=true` it is a failure.
pub(crate) fn peer(variable: &str, path: &str, what: &str, needs: &str) -> Option<PathBuf> {
    let said = std::env::var_os(variable).map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(target).join("tools").join(path);
    let found = said.or(Some(ours)).filter(|path| path.is_file());
    if found.is_none() {
        let why = format!("SKIPPED: {what} is not there; run .ci/peers (needs {needs}) to try it");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
        // Past the harness, which keeps what a test that succeeds prints.
        writeln!(std::io::stderr(), "{why}").expect("stderr");
    }
    found
}

/// A case of a table, and a sentence about it.
type Remarks = &'static [(&'static str, &'static str)];

/// The roll of a conformance table: each case is called once, and in the end all of them have been. What is met otherwise than
/// the table says, or cannot be played, is said with its reason.
pub(crate) struct Roll {
    table: &'static str,
    cases: Vec<String>,
    called: Vec<String>,
    held: Vec<String>,
    otherwise: Remarks,
    not_played: Vec<(String, &'static str)>,
}

impl Roll {
    /// The ids of a table, read from its text: a case that was skipped by whoever reads it is missed here.
    pub(crate) fn of(table: &'static str, text: &str) -> Self {
        let id = |line: &str| {
            let rest = line.trim_start().trim_start_matches(['{', '"']).strip_prefix("id")?;
            let value = rest.trim_start_matches('"').trim_start().strip_prefix(['=', ':'])?.trim_start();
            Some(value.strip_prefix('"')?.split('"').next()?.to_owned())
        };
        let cases: Vec<String> = text.lines().filter_map(id).collect();
        assert!(!cases.is_empty(), "{table} has no cases");
        Self { table, cases, called: Vec::new(), held: Vec::new(), otherwise: &[], not_played: Vec::new() }
    }

    /// The same with cases that are met otherwise than the table says, and how.
    pub(crate) fn but(self, otherwise: Remarks) -> Self {
        Self { otherwise, ..self }
    }

    /// A case held.
    pub(crate) fn held(&mut self, id: &str) {
        self.played(id, Ok(()));
    }

    /// A case was played: it held, or here is what was found instead. What is listed as met otherwise must be found so: a
    /// remark that is true no more fails, as what is not remarked on does.
    pub(crate) fn played(&mut self, id: &str, found: Result<(), String>) {
        let remarked = self.otherwise.iter().any(|(case, _)| *case == id);
        match (found, remarked) {
            (Ok(()), false) => self.held.push(id.to_owned()),
            (Err(_), true) => {}
            (Ok(()), true) => panic!("{}: {id} holds, and is listed as met otherwise", self.table),
            (Err(found), false) => panic!("{}: {id}: {found}", self.table),
        }
        self.called.push(id.to_owned());
    }

    /// A case cannot be played here, and why.
    pub(crate) fn not_played(&mut self, id: &str, why: &'static str) {
        self.not_played.push((id.to_owned(), why));
        self.called.push(id.to_owned());
    }

    /// All have been called: says what became of each, past the capture of the tests' output.
    pub(crate) fn complete(self) {
        let Self { table, cases, called, held, otherwise, not_played } = self;
        assert_eq!(called, cases, "{table}: the cases of the table, each once");
        let gone: Vec<&str> =
            otherwise.iter().map(|(id, _)| *id).filter(|id| !cases.iter().any(|case| case == id)).collect();
        assert!(gone.is_empty(), "{table}: remarks on cases that are in the table no more: {gone:?}");
        if !held.is_empty() {
            say(&format!("conformance {table}: {} held: {}", held.len(), held.join(" ")));
        }
        for (id, what) in otherwise {
            say(&format!("conformance {table}: {id}, otherwise than the table says: {what}"));
        }
        for (id, why) in not_played {
            say(&format!("conformance {table}: {id} is not played: {why}"));
        }
    }
}

/// Says something past the capture of the tests' output.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).expect("stderr");
}
