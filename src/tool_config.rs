//! Which tools a team has, as its operator declares them: servers, hosts, rules, and how an answer is verified.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::task::{AgentName, Integration};
use crate::tool::{HTTP, LOCAL, ToolRef, ToolRule};

/// How long a server of tools may take to start and shake hands, and to list its tools.
pub const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a call of an MCP tool may take.
pub const CALL_WITHIN: Duration = Duration::from_secs(60);
/// How long a call of the HTTP tool may take, and of a function made in code.
pub const HTTP_WITHIN: Duration = Duration::from_secs(30);
/// How long the verification of an answer may take.
pub const VERIFY_WITHIN: Duration = Duration::from_secs(600);

/// All tools of a team: `tools` in `backstop.yaml`.
#[derive(Clone, Debug, Default)]
pub struct ToolsConfig {
    /// MCP servers, by the name agents know them under.
    pub mcp: BTreeMap<Integration, McpConfig>,
    /// The built-in HTTP request.
    pub http: HttpConfig,
    /// What is declared of functions made in code, above what their code says.
    pub local: BTreeMap<String, ToolRule>,
}

/// An MCP server.
#[derive(Clone, Debug)]
pub struct McpConfig {
    /// How it is reached.
    pub transport: Transport,
    /// Is what it says of its own tools believed?
    pub trusted: bool,
    /// How long it may take to start and shake hands, and to list its tools.
    pub start_within: Duration,
    /// How long a call may take, unless its tool's rule says otherwise.
    pub call_within: Duration,
    /// What is declared of its tools.
    pub tools: BTreeMap<String, ToolRule>,
}

/// How an MCP server is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A program of ours, spoken to through its standard input and output.
    Stdio {
        /// The program and its arguments; no shell reads them.
        command: Vec<String>,
        /// Its environment, besides `PATH` and `HOME`.
        env: BTreeMap<String, Setting>,
    },
    /// A server elsewhere, spoken to in streamable HTTP.
    Http {
        /// Where.
        url: String,
        /// Headers of every request.
        headers: BTreeMap<String, Setting>,
    },
}

impl McpConfig {
    /// A program started by us, with every default.
    #[must_use]
    pub fn stdio<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self::over(Transport::Stdio { command, env: BTreeMap::new() })
    }

    /// A server elsewhere, with every default.
    #[must_use]
    pub fn url(url: impl Into<String>) -> Self {
        Self::over(Transport::Http { url: url.into(), headers: BTreeMap::new() })
    }

    fn over(transport: Transport) -> Self {
        let tools = BTreeMap::new();
        Self { transport, trusted: false, start_within: START_WITHIN, call_within: CALL_WITHIN, tools }
    }

    /// With one more variable of its environment, or header, whose value is secret.
    #[must_use]
    pub fn secret(self, name: impl Into<String>, value: impl Into<SecretString>) -> Self {
        self.with(name.into(), Setting::Secret(value.into()))
    }

    /// With one more variable of its environment, or header, whose value anybody may see.
    #[must_use]
    pub fn setting(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(name.into(), Setting::Plain(value.into()))
    }

    fn with(mut self, name: String, value: Setting) -> Self {
        let (Transport::Stdio { env: held, .. } | Transport::Http { headers: held, .. }) = &mut self.transport;
        held.insert(name, value);
        self
    }

    /// Believed in what it says of its own tools.
    #[must_use]
    pub fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// With this declared of one of its tools.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>, rule: ToolRule) -> Self {
        self.tools.insert(name.into(), rule);
        self
    }

    fn held(&self) -> impl Iterator<Item = &Setting> {
        let (Transport::Stdio { env: held, .. } | Transport::Http { headers: held, .. }) = &self.transport;
        held.values()
    }
}

/// The value of a variable or a header.
#[derive(Clone, Debug)]
pub enum Setting {
    /// Written in a file, for everybody to see.
    Plain(String),
    /// Never to be shown.
    Secret(SecretString),
}

impl Setting {
    /// The value itself, for who sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose_secret(),
        }
    }

    /// What must never be shown of it: the whole, and of `Bearer …` what follows.
    pub(crate) fn secrets(&self) -> Vec<SecretString> {
        let Self::Secret(secret) = self else { return Vec::new() };
        let value = secret.expose_secret();
        let credential = value.split_once(' ').map(|(_, credential)| credential.trim()).filter(|text| text.len() >= 8);
        [Some(value), credential].into_iter().flatten().map(|text| SecretString::from(text.to_owned())).collect()
    }
}

/// The built-in HTTP request: which hosts it may ask, and for what.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The hosts; none, and there is no such tool.
    pub hosts: BTreeMap<Host, HostRule>,
    /// How long a call may take, unless its tool's rule says otherwise.
    pub call_within: Duration,
    /// What is declared of its two tools, `get` and `request`.
    pub tools: BTreeMap<String, ToolRule>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { hosts: BTreeMap::new(), call_within: HTTP_WITHIN, tools: BTreeMap::new() }
    }
}

impl HttpConfig {
    /// May this address be asked with this method? For configured addresses; what a model writes is read more strictly.
    #[must_use]
    pub fn lists(&self, url: &str, method: &str) -> bool {
        let Some((scheme, rest)) = url.split_once("://") else { return false };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let Ok(Host { name, port }) = authority.parse::<Host>() else { return false };
        let own = if scheme == "https" { 443 } else { 80 };
        let port = port.unwrap_or(own);
        let exact = self.hosts.get(&Host { name: name.clone(), port: Some(port) });
        let rule = exact.or_else(|| self.hosts.get(&Host { name, port: None }).filter(|_| port == own));
        rule.is_some_and(|rule| rule.allows(method))
    }
}

/// A host that may be asked, as it is written in the allow-list: `api.example.com`, `localhost:8080`, `[::1]:80`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    /// A name in lower case, or an address.
    pub name: String,
    /// The port; the scheme's own when absent.
    pub port: Option<u16>,
}

/// Not the name of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host; write one such as api.example.com, 10.0.0.7 or localhost:8080, without http:// and path")]
pub struct NoHost;

impl FromStr for Host {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, port) = rest.split_once(']').ok_or(NoHost)?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(NoHost)?) };
                (name, port)
            }
            None if text.parse::<IpAddr>().is_ok() => (text, None),
            None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(NoHost)).transpose()?;
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Self { name: address.to_string(), port });
        }
        // A last label of digits is an address in disguise: 127.1, 0x7f000001, 2130706433.
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        let last = name.rsplit('.').next().unwrap_or_default();
        if name.len() > 253 || !name.split('.').all(label) || last.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(NoHost);
        }
        Ok(Self { name: name.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.name),
            (false, Some(port)) => write!(f, "{}:{port}", self.name),
            (_, None) => f.write_str(&self.name),
        }
    }
}

/// What may be asked of a host.
#[derive(Clone, Debug, Default)]
pub struct HostRule {
    /// The methods, in capitals; empty means `GET`. Whoever may `GET` may `HEAD`.
    pub methods: Vec<String>,
    /// Headers we add. They go over https, or to the machine itself.
    pub headers: BTreeMap<String, Setting>,
    /// May its name lead to a private address? An address in the list itself, and `localhost`, always may.
    pub private: bool,
}

impl HostRule {
    /// May it be asked for this?
    #[must_use]
    pub fn allows(&self, method: &str) -> bool {
        let listed = |method: &str| self.methods.iter().any(|known| known == method);
        match method {
            "GET" => self.methods.is_empty() || listed("GET"),
            "HEAD" => self.methods.is_empty() || listed("GET") || listed("HEAD"),
            other => listed(other),
        }
    }
}

impl ToolsConfig {
    /// Is a server of this name believed in what it says of its own tools? What is ours is.
    #[must_use]
    pub fn trusted(&self, server: &Integration) -> bool {
        match server.as_str() {
            HTTP | LOCAL => true,
            _ => self.mcp.get(server).is_some_and(|server| server.trusted),
        }
    }

    /// What is declared of a tool.
    #[must_use]
    pub fn rule(&self, tool: &ToolRef) -> Option<&ToolRule> {
        match tool.server.as_str() {
            HTTP => self.http.tools.get(&tool.tool),
            LOCAL => self.local.get(&tool.tool),
            _ => self.mcp.get(&tool.server)?.tools.get(&tool.tool),
        }
    }

    /// How long a call of a tool may take.
    #[must_use]
    pub fn call_within(&self, tool: &ToolRef) -> Duration {
        let server = || match tool.server.as_str() {
            HTTP => self.http.call_within,
            LOCAL => HTTP_WITHIN,
            _ => self.mcp.get(&tool.server).map_or(CALL_WITHIN, |server| server.call_within),
        };
        self.rule(tool).and_then(|rule| rule.timeout).unwrap_or_else(server)
    }

    /// How long a call of the slowest tool that these patterns allow may take, and whether any of them has a probe; `None`
    /// where code may have its say, of which nothing is known here. A server that is declared is taken as declared.
    #[must_use]
    pub fn slowest(&self, patterns: &[String]) -> Option<(Duration, bool)> {
        let mut slowest = (Duration::ZERO, false);
        let mut may_take = |server: &str, within: Duration, rules: &BTreeMap<String, ToolRule>| {
            slowest.0 = slowest.0.max(within);
            for (tool, rule) in rules {
                let server = Integration::new(server).expect("a server's name is one");
                if (ToolRef { server, tool: tool.clone() }).allowed(patterns) {
                    slowest.0 = slowest.0.max(rule.timeout.unwrap_or(within));
                    slowest.1 |= rule.probe.is_some();
                }
            }
        };
        for pattern in patterns {
            match pattern.strip_prefix("mcp:") {
                Some(tools) => {
                    // A server that is not named here word for word may be one made in code.
                    let server = tools.split('/').next().unwrap_or_default();
                    let declared = self.mcp.iter().find(|(name, _)| name.as_str() == server)?.1;
                    may_take(server, declared.call_within, &declared.tools);
                }
                None if pattern == HTTP || pattern.starts_with("http:") => {
                    may_take(HTTP, self.http.call_within, &self.http.tools);
                }
                None if self.local.contains_key(pattern) => may_take(LOCAL, HTTP_WITHIN, &self.local),
                None => return None,
            }
        }
        Some(slowest)
    }

    /// The names of all servers there are, made in code or not.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.mcp.keys().map(Integration::as_str).chain([HTTP, LOCAL])
    }

    /// Everything in it that must never be shown: the values of environments and headers, and of `Bearer …` what follows.
    #[must_use]
    pub fn secrets(&self) -> Vec<SecretString> {
        let of_hosts = self.http.hosts.values().flat_map(|host| host.headers.values());
        let held = self.mcp.values().flat_map(McpConfig::held).chain(of_hosts);
        held.flat_map(Setting::secrets).collect()
    }
}

/// How an answer of a task type is verified before it is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// A program: the answer on its standard input as JSON; accepted when it exits with 0.
    Command {
        /// The program and its arguments; no shell reads them.
        command: Vec<String>,
        /// How long it may take.
        within: Duration,
    },
    /// A POST of the answer as JSON to a host of `tools.http.hosts`; accepted with a status of 2xx.
    Url {
        /// Where.
        url: String,
        /// How long it may take.
        within: Duration,
    },
    /// A second agent is asked.
    Agent {
        /// Whom.
        agent: AgentName,
        /// With which prompt.
        prompt: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{Probe, Sign};

    #[test]
    fn hosts_are_names_or_plain_addresses() {
        let host = |name: &str, port| Ok(Host { name: name.to_owned(), port });
        for (text, expected) in [
            ("api.example.com", host("api.example.com", None)),
            ("API.Example.com:8443", host("api.example.com", Some(8443))),
            ("localhost:8080", host("localhost", Some(8080))),
            ("127.0.0.1", host("127.0.0.1", None)),
            ("127.0.0.1:80", host("127.0.0.1", Some(80))),
            ("::1", host("::1", None)),
            ("[::1]:80", host("::1", Some(80))),
            ("http://example.com", Err(NoHost)),
            ("example.com/path", Err(NoHost)),
            ("user@example.com", Err(NoHost)),
            ("*.example.com", Err(NoHost)),
            ("example.com.", Err(NoHost)),
            ("example.com:0", Err(NoHost)),
            ("example.com:http", Err(NoHost)),
            ("2130706433", Err(NoHost)),
            ("0x7f000001", Err(NoHost)),
            ("127.1", Err(NoHost)),
            ("", Err(NoHost)),
        ] {
            assert_eq!(text.parse::<Host>(), expected, "{text}");
        }
    }

    #[test]
    fn who_may_get_may_head_and_nothing_more_unless_said() {
        let rule = |methods: &[&str]| HostRule {
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            ..HostRule::default()
        };
        for (methods, method, expected) in [
            (&[][..], "GET", true),
            (&[], "HEAD", true),
            (&[], "POST", false),
            (&["POST"], "POST", true),
            (&["POST"], "GET", false),
            (&["POST"], "HEAD", false),
            (&["GET", "POST"], "HEAD", true),
            (&["GET"], "get", false),
        ] {
            assert_eq!(rule(methods).allows(method), expected, "{methods:?} {method}");
        }
    }

    #[test]
    fn the_slowest_tool_is_known_where_files_alone_declare_it() {
        let rule = |timeout: u64, probe: bool| ToolRule {
            timeout: Some(Duration::from_secs(timeout)),
            probe: probe.then(|| Probe {
                tool: "find".to_owned(),
                arguments: serde_json::Map::new(),
                happened: Sign { at: String::new(), is: true.into() },
                did_not_happen: Sign { at: String::new(), is: false.into() },
            }),
            ..ToolRule::default()
        };
        let bank = McpConfig::stdio(["bank-mcp"]).tool("transfer", rule(90, true)).tool("report", rule(300, false));
        let mut tools = ToolsConfig::default();
        tools.mcp.insert(Integration::new("bank").expect("a name"), bank);
        tools.http.tools.insert("get".to_owned(), rule(40, false));
        tools.local.insert("weather".to_owned(), rule(20, false));
        for (patterns, expected) in [
            (&[][..], Some((0, false))),
            (&["mcp:bank/balance"], Some((60, false))),
            (&["mcp:bank/transfer"], Some((90, true))),
            (&["mcp:bank/*"], Some((300, true))),
            (&["http"], Some((40, false))),
            (&["http:request"], Some((30, false))),
            (&["weather", "mcp:bank/report"], Some((300, false))),
            (&["mcp:*"], None),
            (&["mcp:made-in-code/*"], None),
            (&["weather", "wind"], None),
            (&["*"], None),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            let slowest = tools.slowest(&patterns).map(|(within, probe)| (within.as_secs(), probe));
            assert_eq!(slowest, expected, "{patterns:?}");
        }
    }

    #[test]
    fn secrets_are_told_whole_and_without_their_scheme() {
        let name = |text: &str| Integration::new(text).expect("a name");
        let mut tools = ToolsConfig::default();
        tools.mcp.insert(name("docs"), McpConfig::url("https://x").secret("Authorization", "Bearer abcdefgh"));
        tools.mcp.insert(name("git"), McpConfig::stdio(["git-mcp"]).secret("TOKEN", "ghp_1").setting("LOG", "verbose"));
        let rule =
            HostRule { headers: [("X-Key".to_owned(), Setting::Secret("k-1".into()))].into(), ..HostRule::default() };
        tools.http.hosts.insert("a.example".parse().expect("a host"), rule);
        let told: Vec<String> = tools.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect();
        assert_eq!(told, ["Bearer abcdefgh", "abcdefgh", "ghp_1", "k-1"]);
    }
}
