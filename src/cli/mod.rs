//! The `backstop` command: one file a noun, all of them over the HTTP API of a running team.
//!
//! Data goes to stdout, words to stderr. Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 configuration, 4 team not
//! reachable, 5 refused by policy, 130 interrupted; `status --exit-code` adds 10 degraded and 11 incident.

pub mod client;
pub mod output;
mod agent;
mod bound;
mod breaker;
mod ceo;
mod check;
mod confirm;
mod decision;
mod demo;
mod dlq;
mod events;
mod explain;
mod incident;
mod init;
mod log;
mod outage;
mod page;
mod prune;
mod replay;
mod select;
mod sim;
mod status;
mod task;
mod up;
mod waterfall;
mod why;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use secrecy::SecretString;
use serde_json::json;

use crate::api::problem::Problem;
use crate::time::Timestamp;
use client::Client;
use output::{Color, Format, Output};

/// Run a team of LLM agents as supervised actors: no task lost, no side effect twice, a human called when needed.
#[derive(Debug, Parser)]
#[command(
    name = "backstop",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:\n  backstop demo                     see a team survive an outage, no key needed\n  backstop init my-team && cd my-team && backstop check\n  backstop up                       run the team of this directory\n  backstop status                   how it is, in a sentence\n\nBackstop collects no telemetry."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// How data is written on stdout
    #[arg(
        short,
        long,
        value_enum,
        global = true,
        default_value_t,
        hide_possible_values = true,
        value_name = "table|json|jsonl|yaml|name"
    )]
    output: Format,
    /// The same as --output json
    #[arg(long, global = true)]
    json: bool,
    /// When to use colour; NO_COLOR and CLICOLOR are honoured
    #[arg(
        long,
        value_enum,
        global = true,
        default_value_t,
        hide_possible_values = true,
        value_name = "auto|always|never"
    )]
    color: Color,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log more (-v debug, -vv trace)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// How logs are written on stderr
    #[arg(long, value_enum, global = true, default_value_t, hide_possible_values = true, value_name = "text|json")]
    log: LogFormat,
    /// The address of the team; its token is taken from BACKSTOP_TOKEN
    #[arg(
        long,
        env = "BACKSTOP_URL",
        global = true,
        default_value = "http://127.0.0.1:7420",
        hide_default_value = true,
        hide_env_values = true
    )]
    url: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take a team through an LLM outage, in this process, without a key
    Demo(demo::Demo),
    /// Model providers that fail on cue, for any client
    #[command(subcommand)]
    Outage(outage::Outage),
    /// Write the files of a team: backstop.yaml, agents/, prompts/
    Init(init::Init),
    /// Check the files of a team, all mistakes at once
    Check(check::Check),
    /// The most a task can come to: calls, tokens, dollars, hours
    Bound(bound::BoundOf),
    /// Run the team of a directory until told to stop
    Up(up::Up),
    /// How the team is, in a sentence
    Status(status::Status),
    /// Give the team work and see what became of it
    #[command(subcommand, visible_alias = "tasks")]
    Task(task::Task),
    /// Work that was given up on: look, send round again, discard
    #[command(subcommand, visible_aliases = ["dead-letter", "dead-letters"])]
    Dlq(dlq::Dlq),
    /// Dead letters being sent round again
    #[command(subcommand, visible_alias = "replays")]
    Replay(replay::Replay),
    /// The agents of the team
    #[command(subcommand, visible_alias = "agents")]
    Agent(agent::Agent),
    /// What the CEO decided and why; decide yourself
    #[command(subcommand)]
    Ceo(ceo::Ceo),
    /// What people were called for
    #[command(subcommand, visible_alias = "incidents")]
    Incident(incident::Incident),
    /// The circuit breakers of integrations
    #[command(subcommand, visible_alias = "breakers")]
    Breaker(breaker::Breaker),
    /// What happens, as JSON lines
    Events(events::Events),
    /// Try the pager
    #[command(subcommand)]
    Page(page::Page),
    /// Simulate outages against a team in virtual time, and compare
    #[command(subcommand)]
    Sim(sim::Sim),
    /// Forget what ended long ago, to keep the record small
    Prune(prune::Prune),
    /// Which retry policy applies to a task or type, and why
    Explain(explain::Explain),
    /// Why a task is where it is: every step, failure, wait, cost and decision, with its rule
    Why(why::WhyOf),
    /// Is the team ready? For containers: exit code 0, 1 or 4
    #[command(after_help = "Examples:\n  backstop healthcheck && echo ready")]
    Healthcheck,
    /// Completions for a shell
    #[command(
        after_help = "Examples:\n  backstop completions bash > ~/.local/share/bash-completion/completions/backstop"
    )]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// The version of this program
    #[command(after_help = "Examples:\n  backstop version --json")]
    Version,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers.
    #[error("no team answers at {url} (is `backstop up` running?)")]
    Unreachable {
        /// Where.
        url: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The team refused.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// Something answers, but not Backstop.
    #[error("what answers at {url} is not a backstop team (HTTP {status})")]
    NotBackstop {
        /// Where.
        url: String,
        /// With which status.
        status: u16,
    },
    /// The team's answer is not understood: another version, probably.
    #[error("the answer of {url} is not understood; are `backstop` here and there of the same version?")]
    Strange {
        /// Where.
        url: String,
        /// What was odd.
        source: serde_json::Error,
    },
    /// The command line is wrong.
    #[error("{message}")]
    Usage {
        /// How.
        message: String,
        /// What to run instead.
        next: Option<String>,
    },
    /// The configuration is wrong.
    #[error("{message}")]
    Config {
        /// How.
        message: String,
        /// What to run to see.
        next: Option<String>,
    },
    /// It was tried and did not work.
    #[error("{message}")]
    Failed {
        /// What.
        message: String,
        /// What to run next.
        next: Option<String>,
    },
    /// A rule of ours says no.
    #[error("{message}")]
    Policy {
        /// Which.
        message: String,
        /// What to run instead.
        next: Option<String>,
    },
    /// A file could not be read or written.
    #[error("{path} could not be {doing}")]
    File {
        /// Which.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody reads our output any more, or the disk is full.
    #[error("stdout could not be written")]
    Stdout(#[source] io::Error),
    /// Everything was said already; only the exit code is left.
    #[error("exit {0}")]
    Silent(u8),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::NotBackstop { .. } => 4,
            Self::Refused(problem) if problem.by_policy() => 5,
            Self::Refused(problem) => match problem.status {
                400 | 413 | 415 => 2,
                401 => 3,
                503 => 4,
                _ => 1,
            },
            Self::Usage { .. } => 2,
            Self::Config { .. } => 3,
            Self::Policy { .. } => 5,
            Self::Strange { .. } | Self::Failed { .. } | Self::File { .. } | Self::Stdout(_) => 1,
            Self::Silent(code) => *code,
        }
    }

    fn try_next(&self) -> Option<String> {
        let said = match self {
            Self::Unreachable { .. } => "backstop up",
            Self::NotBackstop { .. } => "backstop --url http://127.0.0.1:7420 status",
            Self::Refused(problem) => match problem.slug() {
                "payment-needs-person" => "backstop dlq replay --payment <task id> --reason '...'",
                "token-needed" => "BACKSTOP_TOKEN=... backstop status",
                "replays-used-up" | "decisions-used-up" => "backstop ceo decide <task id> run-again --reason '...'",
                "not-found" => where_listed(&problem.detail),
                "outcome-known" => "backstop why <task id>",
                _ => "backstop status",
            },
            Self::Strange { .. } => "backstop version",
            Self::Usage { next, .. }
            | Self::Config { next, .. }
            | Self::Failed { next, .. }
            | Self::Policy { next, .. } => {
                return next.clone();
            }
            Self::File { .. } | Self::Stdout(_) | Self::Silent(_) => return None,
        };
        Some(said.to_owned())
    }

    fn quiet(&self) -> bool {
        matches!(self, Self::Silent(_))
    }
}

/// The listing that shows what there is, when something was not there.
fn where_listed(detail: &str) -> &'static str {
    let listings = [
        ("task", "backstop task ls"),
        ("agent", "backstop agent ls"),
        ("incident", "backstop incident ls"),
        ("replay", "backstop replay ls"),
        ("dead letter", "backstop dlq ls"),
        ("integration", "backstop breaker ls"),
    ];
    let missing = |what: &str| detail.starts_with(&format!("there is no {what} `"));
    listings.iter().find(|(what, _)| missing(what)).map_or("backstop agent ls", |(_, command)| command)
}

/// What every command is given.
struct Context {
    out: Output,
    client: Client,
    color: Color,
    log: LogFormat,
    verbose: u8,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, everything else to stderr with 2. A closed pipe is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let global = cli.global;
    let color = global.color.wanted(io::stderr().is_terminal(), env);
    let format = if global.json { Format::Json } else { global.output };
    let out = Output { format, quiet: global.quiet, color };
    let ended = Client::new(&global.url, token(env)).and_then(|client| {
        let context =
            Context { out: out.clone(), client, color: global.color, log: global.log, verbose: global.verbose };
        dispatch(cli.command, &context)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            if !error.quiet() {
                out.error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command, context: &Context) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::File { path: "the runtime".to_owned(), doing: "started", source })?;
    runtime.block_on(async {
        match command {
            Command::Demo(demo) => demo.run(context).await,
            Command::Outage(outage) => outage.run(context).await,
            Command::Init(init) => init.run(context),
            Command::Check(check) => check.run(context),
            Command::Bound(bound) => bound.run(context),
            Command::Up(up) => up.run(context).await,
            Command::Status(status) => status.run(context).await,
            Command::Task(task) => task.run(context).await,
            Command::Dlq(dlq) => dlq.run(context).await,
            Command::Replay(replay) => replay.run(context).await,
            Command::Agent(agent) => agent.run(context).await,
            Command::Ceo(ceo) => ceo.run(context).await,
            Command::Incident(incident) => incident.run(context).await,
            Command::Breaker(breaker) => breaker.run(context).await,
            Command::Events(events) => events.run(context).await,
            Command::Page(page) => page.run(context).await,
            Command::Sim(sim) => sim.run(context).await,
            Command::Prune(prune) => prune.run(context).await,
            Command::Explain(explain) => explain.run(context).await,
            Command::Why(why) => why.run(context).await,
            Command::Healthcheck => status::healthcheck(context).await,
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "backstop", &mut script);
                context.out.text(&String::from_utf8_lossy(&script))
            }
            Command::Version => {
                let version = env!("CARGO_PKG_VERSION");
                let raw = json!({ "name": "backstop", "version": version });
                context.out.data(&raw, "/version", || format!("backstop {version}\n"))
            }
        }
    })
}

/// The token of the environment, read alike by the team and by whoever asks it: without the end of the line it came in.
fn token(env: impl Fn(&str) -> Option<String>) -> Option<SecretString> {
    let token = env("BACKSTOP_TOKEN")?;
    let token = token.trim();
    (!token.is_empty()).then(|| SecretString::from(token.to_owned()))
}

/// What the wall clock of this machine shows: for ages on screens and spans in filters.
#[allow(clippy::disallowed_methods, reason = "a screen shows how long ago something was for the person before it")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Who is at the keyboard, as far as the environment knows.
fn actor() -> String {
    let names = ["BACKSTOP_ACTOR", "USER", "LOGNAME"];
    let name = names.iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.trim().is_empty()));
    name.unwrap_or_else(|| "cli".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_shows_an_example() {
        fn walk(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if command.get_subcommands().next().is_none() || command.get_name() == "backstop" {
                assert!(help.contains("backstop "), "`{}` shows no example", command.get_name());
            }
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(walk);
        }
        Cli::command().debug_assert();
        walk(&Cli::command());
    }

    /// A page once told whoever it woke to run `backstop doctor` and `backstop breakers`; neither can be run.
    #[test]
    fn the_runbooks_of_pages_name_commands_that_exist() {
        use crate::incident::{Trigger, built_in_runbook};
        let all = [
            Trigger::DeadLetters,
            Trigger::Integration,
            Trigger::Judgement,
            Trigger::CeoDown,
            Trigger::Unreadable,
            Trigger::StoreDown,
        ];
        for trigger in all {
            let runbook = built_in_runbook(trigger, "INC-1");
            let commands: Vec<&str> = runbook.split('`').filter(|part| part.starts_with("backstop ")).collect();
            assert!(commands.len() >= 3, "{runbook}");
            for command in commands {
                let given = command.replace("<task>", "0192d5a1-7c3e").replace("<decision>", "run-again");
                let parsed = Cli::try_parse_from(given.split(' '));
                assert!(parsed.is_ok(), "{command}: {}", parsed.map(|_| ()).unwrap_err());
            }
        }
    }

    #[test]
    fn exit_codes_follow_the_kind_of_problem() {
        use axum::http::StatusCode;
        for (status, slug, code) in [
            (StatusCode::BAD_REQUEST, "invalid-request", 2),
            (StatusCode::UNAUTHORIZED, "token-needed", 3),
            (StatusCode::FORBIDDEN, "payment-needs-person", 5),
            (StatusCode::CONFLICT, "refused-by-policy", 5),
            (StatusCode::CONFLICT, "wrong-state", 1),
            (StatusCode::NOT_FOUND, "not-found", 1),
            (StatusCode::SERVICE_UNAVAILABLE, "draining", 4),
            (StatusCode::INTERNAL_SERVER_ERROR, "store-failed", 1),
            (StatusCode::INSUFFICIENT_STORAGE, "storage-full", 1),
        ] {
            let error = Error::Refused(Box::new(Problem::new(status, slug, "", "")));
            assert_eq!(error.exit_code(), code, "{slug}");
            assert!(error.try_next().is_some(), "{slug}");
        }
    }
}
