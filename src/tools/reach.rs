//! What may be reached over HTTP: listed hosts at public addresses, checked where they are connected to.
//!
//! A URL is read twice, by our own strict eye and by the client's forgiving one, and refused unless both see the same
//! host. A name is resolved once, its addresses are checked, and only those are connected to: what the name means a
//! moment later does not matter. Redirects are not followed, nothing is sent twice, and no connection is kept.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, Url};
use tokio::time::{Instant, timeout_at};

use super::{Error, RESULT_MAX, Teller, Trouble};
use crate::cause::ToolFault;
use crate::error_chain::in_full;
use crate::hint::{self, Seen};
use crate::task::Integration;
use crate::time::Timestamp;
use crate::tool_config::{Host, HostRule};

/// How long a connection may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How much of an error's body is kept, in bytes.
const ERROR_BODY: usize = 2 * 1024;
/// A hint longer than this is a date read without knowing the other side's own.
const WAIT_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Where a name leads.
type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// The listed hosts, and the one client that asks them.
pub(super) struct Door {
    hosts: Arc<BTreeMap<Host, HostRule>>,
    headers: BTreeMap<Host, HeaderMap>,
    /// None where no host is listed: setting one up reads every certificate of the system.
    client: Option<Client>,
}

/// An address that may be asked.
pub(super) struct Target<'a> {
    pub(super) url: Url,
    host: &'a Host,
    client: &'a Client,
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) target: Target<'a>,
    /// Ours go over them.
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) within: Duration,
    /// Statuses from 400 on that are answers here, and no trouble.
    pub(super) takes: &'a [u16],
}

/// A response that is an answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) text: String,
}

impl Door {
    pub(super) fn new(server: &Integration, hosts: &BTreeMap<Host, HostRule>) -> Result<Self, Error> {
        let system: Lookup = Arc::new(|name| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()) })
        });
        Self::with_lookup(server, hosts, system)
    }

    fn with_lookup(server: &Integration, hosts: &BTreeMap<Host, HostRule>, lookup: Lookup) -> Result<Self, Error> {
        let mut headers = BTreeMap::new();
        for (host, rule) in hosts {
            let mut map = HeaderMap::new();
            for (name, value) in &rule.headers {
                let bad = || Error::BadHeader { of: host.to_string(), name: name.clone() };
                let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
                let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
                value.set_sensitive(true);
                map.insert(key, value);
            }
            headers.insert(host.clone(), map);
        }
        let hosts = Arc::new(hosts.clone());
        let resolver = Arc::new(Checked { hosts: Arc::clone(&hosts), lookup });
        let builder = || {
            Client::builder()
                .user_agent(concat!("backstop/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_WITHIN)
                .dns_resolver(Arc::clone(&resolver))
        };
        let client = || {
            // An application may have chosen a provider before us; then that one serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
            builder().build().or_else(|source| {
                // A host is asked by HTTP or HTTPS, as the call says: what is plain does without the system's certificates.
                let why = in_full(&source);
                let plain = builder().tls_certs_only([]).build();
                plain
                    .inspect(|_| tracing::warn!(%server, "no certificates, so nobody is reached by https://: {why}"))
                    .map_err(|_| Error::Client { server: server.clone(), source })
            })
        };
        let client = if hosts.is_empty() { None } else { Some(client()?) };
        Ok(Self { hosts, headers, client })
    }

    /// The address, when it may be asked with this method; else why not.
    pub(super) fn target(&self, method: &str, text: &str) -> Result<Target<'_>, String> {
        let (url, asked) = read(text)?;
        let default = url.scheme() == "https" && asked.port == 443 || url.scheme() == "http" && asked.port == 80;
        let listed = |port| self.hosts.get_key_value(&Host { name: asked.name.clone(), port });
        let found = listed(Some(asked.port)).or_else(|| listed(None).filter(|_| default));
        let (Some((host, rule)), Some(client)) = (found, &self.client) else {
            return Err(format!("{} is not among the hosts that may be asked: {}", asked.shown(), self.told()));
        };
        if !rule.allows(method) {
            return Err(format!("{method} is not allowed for {host}; what is: {}", methods(rule)));
        }
        if url.scheme() == "http" && !rule.headers.is_empty() && !is_this_machine(&host.name) {
            return Err(format!("{host} is asked with headers of ours, which go over https only"));
        }
        Ok(Target { url, host, client })
    }

    /// The hosts and their methods, for the model.
    pub(super) fn told(&self) -> String {
        let each = self.hosts.iter().map(|(host, rule)| format!("{host} ({})", methods(rule)));
        each.collect::<Vec<_>>().join(", ")
    }

    /// Sends one request, and reads its answer as text.
    pub(super) async fn ask(&self, ask: Ask<'_>, doing: &str, teller: &Teller) -> Result<Got, Box<Trouble>> {
        let until = deadline(ask.within);
        let sent = Arc::new(AtomicBool::new(ask.body.is_none()));
        let mut headers = ask.headers;
        headers.extend(self.headers.get(ask.target.host).cloned().unwrap_or_default());
        let mut request = ask.target.client.request(ask.method, ask.target.url).headers(headers);
        if let Some(body) = ask.body {
            request = request.body(reqwest::Body::wrap(Upload { body: Some(body), sent: Arc::clone(&sent) }));
        }
        let response = match timeout_at(until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broke(error, sent.load(Ordering::Acquire), doing, teller)),
            Err(_) => return Err(teller.late(doing, ask.within, sent.load(Ordering::Acquire))),
        };
        let status = response.status().as_u16();
        let headers: Vec<(String, String)> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let trouble = status >= 400 && !ask.takes.contains(&status);
        let limit = if trouble { ERROR_BODY } else { RESULT_MAX };
        let body = match body(response, limit, until).await {
            Ok(body) => body,
            // That its body breaks off does not change that the status is an error.
            Err(_) if trouble => Body::default(),
            Err(Some(error)) => return Err(broke(error, true, doing, teller)),
            Err(None) => return Err(teller.late(doing, ask.within, true)),
        };
        let seen = |trouble: Box<Trouble>| Box::new(Trouble { status: Some(status), ..*trouble });
        if trouble {
            let text = String::from_utf8_lossy(&body.bytes).into_owned();
            let seen_of_it =
                Seen { status: Some(status), headers: &headers, body: &text, at: Timestamp::from_millis(0) };
            let wait = hint::asked(&seen_of_it).filter(|wait| header("date").is_some() || *wait < WAIT_MAX);
            let what =
                if text.trim().is_empty() { format!("status {status}") } else { format!("status {status}: {text}") };
            let trouble = *seen(teller.sent(ToolFault::Status, doing, what));
            return Err(Box::new(Trouble {
                retry_after_s: wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
                ..trouble
            }));
        }
        if body.more {
            let what = format!("status {status}, and its body has more than the {RESULT_MAX} bytes that are taken");
            return Err(seen(teller.sent(ToolFault::TooLarge, doing, what)));
        }
        match String::from_utf8(body.bytes) {
            Ok(text) if !text.contains('\0') => {
                Ok(Got { status, location: header("location").map(str::to_owned), text })
            }
            Ok(_) | Err(_) => {
                let kind = header("content-type").unwrap_or("of no declared type");
                let what = format!("status {status}, and its body is no text but {kind}");
                Err(seen(teller.sent(ToolFault::NotText, doing, what)))
            }
        }
    }
}

/// What the methods of a host are, in words.
fn methods(rule: &HostRule) -> String {
    if rule.methods.is_empty() { "GET".to_owned() } else { rule.methods.join(", ") }
}

/// A host and its port as they are connected to.
struct Asked {
    name: String,
    port: u16,
}

impl Asked {
    fn shown(&self) -> String {
        Host { name: self.name.clone(), port: Some(self.port) }.to_string()
    }
}

/// Reads a URL strictly: what a forgiving reader would have to interpret is refused.
fn read(text: &str) -> Result<(Url, Asked), String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("a URL holds no blanks, control characters or backslashes".to_owned());
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let scheme = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else { return Err("only http:// and https:// are asked".to_owned()) };
    let authority = text[scheme.len()..].split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a URL with a user in it is not asked".to_owned());
    }
    let ours: Host = authority.parse().map_err(|_| "its host is not plainly written".to_owned())?;
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    let theirs = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or_default();
    if theirs != ours.name || ours.port.is_some_and(|ours| ours != port) || !url.username().is_empty() {
        return Err("its host is not plainly written".to_owned());
    }
    Ok((url, Asked { name: ours.name, port }))
}

/// Resolves names, and gives only the addresses that may be connected to.
struct Checked {
    hosts: Arc<BTreeMap<Host, HostRule>>,
    lookup: Lookup,
}

/// A name that leads only where nobody may go.
#[derive(Debug, thiserror::Error)]
#[error("{name} leads to {address}, which is no public address")]
struct Forbidden {
    name: String,
    address: IpAddr,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_ascii_lowercase();
        let private = self.hosts.iter().any(|(host, rule)| host.name == name && rule.private);
        let found = (self.lookup)(name.clone());
        Box::pin(async move {
            let found = found.await?;
            if let Some(address) = found.iter().find(|address| !permitted(**address, &name, private)) {
                // One bad address among good ones is no accident.
                return Err(Box::new(Forbidden { name, address: *address }) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

fn permitted(address: IpAddr, name: &str, private: bool) -> bool {
    match reach(address) {
        Reach::Public => true,
        Reach::Machine => private || name == "localhost",
        Reach::Private => private,
        Reach::Never => false,
    }
}

fn is_this_machine(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| reach(address) == Reach::Machine)
}

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The internet.
    Public,
    /// This machine.
    Machine,
    /// A network of somebody's own.
    Private,
    /// This link, where cloud machines keep their credentials, everybody, or nobody.
    Never,
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Machine,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        [0, ..] | [169, 254, ..] | [224..=255, ..] | [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] => {
            Reach::Never
        }
        [203, 0, 113, _] => Reach::Never,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Machine,
        // An IPv4 address in another dress: mapped, translated (NAT64), tunnelled (6to4).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Documentation, Teredo, and everything outside 2000::/3.
        [0x2001, 0 | 0xdb8, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    more: bool,
}

/// Reads at most `limit` bytes. `None` in the error: time ran out.
async fn body(mut response: Response, limit: usize, until: Instant) -> Result<Body, Option<reqwest::Error>> {
    let mut bytes = Vec::new();
    loop {
        // A peer that never pauses always has a chunk ready: time is looked at first.
        if Instant::now() >= until {
            return Err(None);
        }
        match timeout_at(until, response.chunk()).await {
            Err(_) => return Err(None),
            Ok(Err(error)) => return Err(Some(error)),
            Ok(Ok(None)) => return Ok(Body { bytes, more: false }),
            Ok(Ok(Some(chunk))) => {
                let room = limit - bytes.len();
                bytes.extend_from_slice(&chunk[..room.min(chunk.len())]);
                if chunk.len() > room {
                    return Ok(Body { bytes, more: true });
                }
            }
        }
    }
}

fn deadline(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

/// What an error of the client means.
fn broke(error: reqwest::Error, sent: bool, doing: &str, teller: &Teller) -> Box<Trouble> {
    let error = error.without_url();
    let mut words = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return teller.unsent(ToolFault::Refused, doing, forbidden.to_string());
        }
        words.push(cause.to_string());
        source = cause.source();
    }
    words.dedup();
    let what = words.join(": ");
    match (error.is_connect(), sent) {
        (true, _) => teller.unsent(ToolFault::Unreachable, doing, what),
        (false, sent) => Box::new(Trouble { sent, ..*teller.sent(ToolFault::Died, doing, what) }),
    }
}

/// The request's body, which notes when it is asked for: then the connection stands, and what follows has been sent.
struct Upload {
    body: Option<Bytes>,
    sent: Arc<AtomicBool>,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.sent.store(true, Ordering::Release);
        Poll::Ready(self.body.take().map(|body| Ok(http_body::Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::tool_config::Setting;

    fn server() -> Integration {
        Integration::new("http").expect("a name")
    }

    fn rule(methods: &[&str]) -> HostRule {
        HostRule { methods: methods.iter().map(|method| (*method).to_owned()).collect(), ..HostRule::default() }
    }

    fn door(hosts: &[(&str, HostRule)], leads: &'static [&'static str]) -> Door {
        let hosts = hosts.iter().map(|(host, rule)| (host.parse().expect("a host"), rule.clone())).collect();
        let lookup: Lookup = Arc::new(move |_| {
            Box::pin(async move { Ok(leads.iter().map(|text| text.parse().expect("an address")).collect()) })
        });
        Door::with_lookup(&server(), &hosts, lookup).expect("a door")
    }

    #[test]
    fn only_what_is_plainly_written_and_listed_is_asked() {
        let with_header = HostRule {
            headers: [("X-Key".to_owned(), Setting::Secret("secret".into()))].into(),
            ..HostRule::default()
        };
        let door = door(
            &[
                ("allowed.example", rule(&["GET", "POST"])),
                ("reads.example", rule(&[])),
                ("localhost:8080", rule(&[])),
                ("127.0.0.1:9", rule(&[])),
                ("keyed.example", with_header.clone()),
                ("localhost:7", with_header),
            ],
            &[],
        );
        for (method, url, expected) in [
            ("GET", "https://allowed.example/a?b#c", Ok(())),
            ("GET", "HTTPS://ALLOWED.example", Ok(())),
            ("POST", "http://allowed.example:80/", Ok(())),
            ("HEAD", "https://reads.example/", Ok(())),
            ("GET", "http://localhost:8080/x", Ok(())),
            ("GET", "http://127.0.0.1:9/", Ok(())),
            ("GET", "https://keyed.example/", Ok(())),
            ("GET", "http://localhost:7/", Ok(())),
            ("GET", "http://keyed.example/", Err("https only")),
            ("POST", "https://reads.example/", Err("POST is not allowed for reads.example; what is: GET")),
            ("GET", "https://allowed.example:8443/", Err("allowed.example:8443 is not among")),
            ("GET", "http://localhost/", Err("localhost:80 is not among")),
            ("GET", "https://other.example/", Err("other.example:443 is not among")),
            ("GET", "https://sub.allowed.example/", Err("is not among")),
            ("GET", "https://allowed.example.evil.example/", Err("is not among")),
            ("GET", "https://allowed.example./", Err("plainly")),
            // AB-058 to AB-067 of reference/abuse.jsonl, and their kin.
            ("GET", "http://169.254.169.254/latest/meta-data/", Err("is not among")),
            ("GET", "http://127.0.0.1:4222/", Err("is not among")),
            ("GET", "http://[::1]:4222/", Err("is not among")),
            ("GET", "http://[::ffff:127.0.0.1]:9/", Err("plainly")),
            ("GET", "http://0x7f000001/", Err("plainly")),
            ("GET", "http://0x7f000001:9/", Err("plainly")),
            ("GET", "http://2130706433:9/", Err("plainly")),
            ("GET", "http://127.1:9/", Err("plainly")),
            ("GET", "http://0177.0.0.1:9/", Err("plainly")),
            ("GET", "http://127.0.0.1。:9/", Err("plainly")),
            ("GET", "http://①②⑦.0.0.1:9/", Err("plainly")),
            ("GET", "file:///etc/passwd", Err("only http")),
            ("GET", "gopher://127.0.0.1:6379/_FLUSHALL", Err("only http")),
            ("GET", "http://user@127.0.0.1#@allowed.example/", Err("user")),
            ("GET", "http://allowed.example@127.0.0.1/", Err("user")),
            ("GET", "http://allowed.example:80@127.0.0.1/", Err("user")),
            ("GET", "http:/127.0.0.1:4222/", Err("only http")),
            ("GET", "http:127.0.0.1", Err("only http")),
            ("GET", "//allowed.example/", Err("only http")),
            ("GET", "http:///127.0.0.1/", Err("plainly")),
            ("GET", "http://127.0.0.1\\@allowed.example/", Err("backslashes")),
            ("GET", "https://allowed.example/\r\nHost: x", Err("blanks")),
            ("GET", " https://allowed.example/", Err("blanks")),
            ("GET", "https://аllowed.example/", Err("plainly")),
            ("GET", "https://allowed%2eexample/", Err("plainly")),
            ("GET", "https://allowed.example:443:443/", Err("plainly")),
            ("GET", "", Err("only http")),
        ] {
            match (door.target(method, url), expected) {
                (Ok(_), Ok(())) => {}
                (Err(why), Err(part)) => assert!(why.contains(part), "{url}: {why}"),
                (Ok(_), Err(_)) => panic!("{url} may be asked"),
                (Err(why), Ok(())) => panic!("{url}: {why}"),
            }
        }
    }

    #[test]
    fn addresses_reach_as_far_as_they_say() {
        for (address, expected) in [
            ("8.8.8.8", Reach::Public),
            ("172.15.0.1", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("100.63.0.1", Reach::Public),
            ("127.0.0.1", Reach::Machine),
            ("127.8.8.8", Reach::Machine),
            ("::1", Reach::Machine),
            ("::ffff:127.0.0.1", Reach::Machine),
            ("10.0.0.1", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("::ffff:10.0.0.1", Reach::Private),
            ("64:ff9b::a00:1", Reach::Private),
            ("2002:a00:1::", Reach::Private),
            ("169.254.169.254", Reach::Never),
            ("::ffff:169.254.169.254", Reach::Never),
            ("64:ff9b::a9fe:a9fe", Reach::Never),
            ("fe80::1", Reach::Never),
            ("fec0::1", Reach::Never),
            ("ff02::1", Reach::Never),
            ("::", Reach::Never),
            ("::7f00:1", Reach::Never),
            ("0.0.0.0", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("2001::1", Reach::Never),
            ("2001:db8::1", Reach::Never),
            ("2606:4700::1111", Reach::Public),
        ] {
            assert_eq!(reach(address.parse().expect("an address")), expected, "{address}");
        }
    }

    /// A listener that only counts.
    async fn counting() -> (u16, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let port = listener.local_addr().expect("its address").port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        (port, count)
    }

    /// AB-058: a listed name that leads into this machine or the metadata service is refused, and nobody is connected to.
    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_after_it_was_resolved() {
        let (port, connections) = counting().await;
        let teller = Teller::new(server(), []);
        let private = HostRule { private: true, ..rule(&[]) };
        for (leads, rule, fault) in [
            (&["127.0.0.1"][..], rule(&[]), ToolFault::Refused),
            (&["169.254.169.254"], rule(&[]), ToolFault::Refused),
            (&["169.254.169.254"], private.clone(), ToolFault::Refused),
            (&["8.8.8.8", "127.0.0.1"], rule(&[]), ToolFault::Refused),
            (&["::ffff:127.0.0.1"], rule(&[]), ToolFault::Refused),
            (&[], rule(&[]), ToolFault::Unreachable),
        ] {
            let listed = format!("allowed.example:{port}");
            let door = door(&[(listed.as_str(), rule)], leads);
            let target = door.target("GET", &format!("http://{listed}/")).expect("listed");
            let within = Duration::from_secs(5);
            let ask = Ask { method: Method::GET, target, headers: HeaderMap::new(), body: None, within, takes: &[] };
            let trouble = door.ask(ask, "get", &teller).await.expect_err("refused");
            assert_eq!((trouble.fault, trouble.sent), (fault, false), "{leads:?}: {}", trouble.detail);
        }
        assert_eq!(connections.load(Ordering::Relaxed), 0);
        // The same listener, by a name that may lead there: the check is what kept the others out.
        let listed = format!("inside.example:{port}");
        let door = door(&[(listed.as_str(), private)], &["127.0.0.1"]);
        let target = door.target("GET", &format!("http://{listed}/")).expect("listed");
        let within = Duration::from_millis(200);
        let ask = Ask { method: Method::GET, target, headers: HeaderMap::new(), body: None, within, takes: &[] };
        let trouble = door.ask(ask, "get", &teller).await.expect_err("it says nothing");
        assert_ne!(trouble.fault, ToolFault::Refused);
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }
}
