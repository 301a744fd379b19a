//! `backstop outage serve`: model providers that fail on cue, for any client that speaks to one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::log::Log;
use super::up::Stop;
use super::{Context, Error};
use crate::sim::breakage;
use crate::sim::outage::{self, Options, OutageServer};
use crate::sim::play::stage::Stage;
use crate::sim::script::Script;
use crate::sim::{spec, wire};

/// Outages on demand, on the wire.
#[derive(Debug, Subcommand)]
pub(super) enum Outage {
    /// Speak the wires of Anthropic, OpenAI (both), Gemini and Ollama, and fail on cue
    Serve(Serve),
}

/// Speak the wires of Anthropic, OpenAI (both), Gemini and Ollama, and fail on cue.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  backstop outage serve                                        every model answers\n  backstop outage serve --fault overloaded,wire=anthropic,from=30s,to=2m\n  backstop outage serve --fault rate-limited,share=0.3,retry-after=5s --fault hang,model=gpt-6*\n  backstop outage serve --scenario anthropic-outage             its faults strike from the start on\n  backstop outage serve --upstream https://api.openai.com --fault truncated,share=0.1\n\nA fault is written name[,key=value]...; names: answer, slow, cut, refusal, schema-invalid, wrong-arguments, loop,\noverloaded, server-error, unavailable, gateway-timeout, rate-limited, unauthorized, forbidden, out-of-credit,\nno-such-model, too-long, error-mid-stream, truncated, reset, stall, hang, malformed, html.\nKeys: name, wire, model, prompt-has, prompt-lacks, turns, tool, calls, from, to, for, switch, stream, share;\nretry-after and hint of rate-limited; pause of slow; text of answer, slow, cut and refusal.\n\nWhile it runs, from this machine:\n  curl -d '{\"add\": {\"fault\": \"overloaded\", \"for\": \"30s\"}}' http://127.0.0.1:7430/_outage\n  curl -d '{\"clear\": true}' http://127.0.0.1:7430/_outage\n  curl http://127.0.0.1:7430/_outage/log"
)]
pub(super) struct Serve {
    /// The port it listens on; 0 lets the system choose
    #[arg(long, default_value_t = 7430)]
    port: u16,
    /// The address it listens on; /_outage is only for this machine in any case
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// How many seconds of the faults' time pass in a real one
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// The real provider: what no fault is for goes there and comes back as it is
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where answers, ids and shares are drawn from
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// A scenario, or the name of one that is shipped: its faults strike and its models answer from the start on
    #[arg(long, value_name = "FILE")]
    scenario: Option<String>,
    /// What fails, and when; the first that matches decides, before anything of a scenario
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
}

impl Outage {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Serve(command) => command.run(context).await,
        }
    }
}

impl Serve {
    async fn run(self, context: &Context) -> Result<(), Error> {
        let played = match &self.scenario {
            Some(file) => self.played(file, context)?,
            None => Script::new(self.seed),
        };
        let mut script = Script { rules: Vec::new(), ..played.clone() };
        for fault in &self.faults {
            let mut rule = spec::rule_of(fault).map_err(|error| usage(format!("--fault {fault}: {error}")))?;
            // Two faults of one kind are two rules.
            let taken = |name: &str| script.rules.iter().any(|rule| rule.name == name);
            if taken(&rule.name) {
                let numbered = (2..).map(|number| format!("{}-{number}", rule.name));
                rule.name = numbered.into_iter().find(|name| !taken(name)).unwrap_or_default();
            }
            script.rules.push(rule);
        }
        script.rules.extend(played.rules);
        let listen = SocketAddr::new(self.host, self.port);
        let options = Options { listen, speed: self.speed, upstream: self.upstream, ..Options::default() };
        serve(script, options, context).await
    }
}

impl Serve {
    /// The scenario as rules; says what of it is not played on a wire.
    fn played(&self, file: &str, context: &Context) -> Result<Script, Error> {
        let loaded = super::sim::load(context, file, None)?;
        let dice = Stage::dice(self.seed);
        let windows = loaded.scenario.windows(&|purpose, about, number| dice.roll(purpose, about, number));
        let on_the_wire = breakage::on_the_wire(&loaded, &windows, self.seed, false);
        for line in &on_the_wire.left_out {
            context.out.say(&format!("not played on the wire: {line}"));
        }
        Ok(on_the_wire.script)
    }
}

/// Serves this script until the process is told to stop.
pub(super) async fn serve(script: Script, options: Options, context: &Context) -> Result<(), Error> {
    let log = Log::start(context);
    let beyond = !options.listen.ip().is_loopback();
    let server = OutageServer::open(script, options).await.map_err(not_started)?;
    let mut stop = Stop::listen();
    let url = server.url();
    let bases: Map<String, Value> =
        wire::WIRES.iter().map(|wire| (wire::name(*wire).to_owned(), json!(server.base_url(*wire)))).collect();
    let raw = json!({"url": url, "wires": bases, "control": format!("{url}/_outage")});
    context.out.data(&raw, "/url", || table(&server))?;
    if beyond {
        log.tell("whoever reaches this address is answered; /_outage is for this machine only");
    }
    log.next(&format!("curl -d '{{\"add\": {{\"fault\": \"overloaded\", \"for\": \"30s\"}}}}' {url}/_outage"));
    stop.told().await;
    let counters = server.counters();
    server.shutdown().await;
    log.tell(&format!("stopped after {} requests", counters.requests));
    Ok(())
}

/// The base URL of each wire, and how its vendor's own client is pointed at it.
fn table(server: &OutageServer) -> String {
    let url = server.url();
    format!(
        "anthropic         {url}\n                  Anthropic(base_url=\"{url}\", api_key=\"any\")\n\
         openai            {url}/v1   (chat completions and responses)\n                  OpenAI(base_url=\"{url}/v1\", api_key=\"any\")\n\
         gemini            {url}\n                  genai.Client(api_key=\"any\", http_options={{\"base_url\": \"{url}\"}})\n\
         ollama            {url}\n                  ollama.Client(host=\"{url}\")\n\
         control           {url}/_outage\n"
    )
}

fn usage(message: String) -> Error {
    Error::Usage { message, next: Some("backstop outage serve --help".to_owned()) }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "only a taken address is told apart from wrong usage")]
fn not_started(error: outage::Error) -> Error {
    match error {
        outage::Error::Listen { listen, source } => Error::Failed {
            message: format!("cannot listen on {listen}: {source}"),
            next: Some("backstop outage serve --port 0".to_owned()),
        },
        error => usage(error.to_string()),
    }
}
