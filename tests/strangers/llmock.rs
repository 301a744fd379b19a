//! PyPI's llmock breaks the calls of a real team on cue, and says what it thinks of a client that meets it so.
//!
//! It sees every request and when it came: whether the hint was waited for, what was repeated that never can succeed,
//! whether half an answer was taken for a whole one. Its verdict is asked of it in its own words and may hold no error.
//! That it finds bad clients is shown on one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::config::{Config, ProviderConfig, TaskTypeConfig, Timeouts, Wire};
use backstop::failure::Kind;
use backstop::record::{Record, State};
use backstop::retry::{Backoff, Jitter, RetryPolicy};
use backstop::task::{Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::desk::{Desk, NewTask};
use backstop::tool::Hints;
use backstop::tools::{Local, function};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{LONG, Stranger};
use crate::support::peer;

/// llmock, if it is there.
async fn llmock(more: &[&str]) -> Option<Stranger> {
    let python = peer("BACKSTOP_TEST_LLMOCK", "llmock/bin/python", "llmock, the judge of clients,", "Python")?;
    let mut command = Stranger::command(python);
    command.args(["-m", "llmock.cli", "serve", "--port", "0"]).args(more);
    Some(Stranger::start(command).await)
}

/// What it sends where it breaks a stream in the middle: long enough that it has not sent it all by the time somebody on
/// a busy machine hangs up.
const STORY: &str = "Once upon a time there was a model that said a good deal more than one was waiting for. ";

/// What becomes of a task whose calls it answers so.
struct Case {
    name: &'static str,
    /// What it does, in order; when it has nothing more to do it answers.
    does: Vec<Value>,
    /// Are tools offered?
    tools: bool,
    /// Must the answer meet a schema?
    schema: bool,
    state: State,
    /// What was wrong with each attempt but the one that was right.
    failures: Vec<Kind>,
}

impl Case {
    fn attempts(&self) -> usize {
        self.failures.len() + usize::from(self.state == State::Done)
    }

    /// The requests it is to hear: one an attempt, and the second of a conversation with a tool.
    fn requests(&self) -> usize {
        self.attempts() + usize::from(self.tools)
    }
}

fn done(name: &'static str, does: Vec<Value>, failures: &[Kind]) -> Case {
    Case { name, does, tools: false, schema: false, state: State::Done, failures: failures.to_vec() }
}

/// An error so often; without a number always.
fn fails(status: u16, times: Option<u32>) -> Value {
    json!({"type": "fail", "status": status, "times": times})
}

/// A stream that breaks once, after so many events.
fn breaks(kind: &str, after: u32) -> Vec<Value> {
    let broken = json!({"type": "stream_fault", "kind": kind, "after_chunks": after, "stall_seconds": 600});
    vec![json!({"type": "reply", "text": STORY.repeat(50)}), broken]
}

/// What every vendor is put through.
fn common() -> Vec<Case> {
    vec![
        done("plain", vec![], &[]),
        done("500", vec![fails(500, Some(1))], &[Kind::ServerError]),
        done("disconnect", breaks("disconnect", 6), &[Kind::Network]),
        done("truncate", breaks("truncate", 6), &[Kind::TruncatedStream]),
        Case { tools: true, ..done("tool", vec![], &[]) },
    ]
}

/// What each wire is put through besides.
fn cases(wire: Wire) -> Vec<Case> {
    // The status is the same; the word beside it is the vendor's, and is believed before the status.
    let (of_502, of_503) = match wire {
        Wire::Anthropic => (Kind::ServerError, Kind::Overloaded),
        Wire::Gemini => (Kind::Overloaded, Kind::Overloaded),
        Wire::OpenAi | Wire::Responses | Wire::Ollama => (Kind::ServerError, Kind::ServerError),
    };
    let tool =
        |name, kind: &str| Case { tools: true, ..done(name, vec![json!({"type": "tool_fault", "kind": kind})], &[]) };
    let ends = |name, state, does, failures: &[Kind]| Case { state, ..done(name, vec![does], failures) };
    // Long enough that one who comes back in half the time is early on a busy machine too.
    let slow = json!({"type": "fail", "status": 429, "retry_after": 3, "times": 2});
    let mut cases = vec![
        done("429", vec![slow], &[Kind::RateLimited, Kind::RateLimited]),
        done("408", vec![fails(408, Some(1))], &[Kind::Timeout]),
        done("409", vec![fails(409, Some(1))], &[Kind::InFlightConflict]),
        done("500-twice", vec![fails(500, Some(2))], &[Kind::ServerError, Kind::ServerError]),
        done("502", vec![fails(502, Some(1))], &[of_502]),
        done("503", vec![fails(503, Some(1))], &[of_503]),
        done("504", vec![fails(504, Some(1))], &[Kind::Timeout]),
        done("529", vec![fails(529, Some(1))], &[Kind::Overloaded]),
        done(
            "503-then-truncate",
            [vec![fails(503, Some(1))], breaks("truncate", 6)].concat(),
            &[of_503, Kind::TruncatedStream],
        ),
        ends("outage", State::Parked, fails(503, None), &[of_503; 3]),
        ends("400", State::WaitingHuman, fails(400, None), &[Kind::InvalidRequest]),
        ends("401", State::Parked, fails(401, None), &[Kind::Auth]),
        ends("403", State::Parked, fails(403, None), &[Kind::Permission]),
        ends("404", State::WaitingHuman, fails(404, None), &[Kind::ModelUnavailable]),
        ends("422", State::WaitingHuman, fails(422, None), &[Kind::InvalidRequest]),
        done("truncate-at-once", breaks("truncate", 0), &[Kind::TruncatedStream]),
        done("malformed", breaks("malformed", 6), &[Kind::MalformedResponse]),
        done("stall", breaks("stall", 6), &[Kind::Timeout]),
        done("stall-at-once", breaks("stall", 0), &[Kind::Timeout]),
        tool("tool-unknown", "unknown_tool"),
        tool("tool-malformed", "malformed_arguments"),
    ];
    // llmock 0.2.2 looks for the schema of an answer where Anthropic had it in its beta (`output_format`), not where it
    // is now (`output_config`), and would answer ours in prose.
    if wire != Wire::Anthropic {
        cases.push(Case { schema: true, ..done("schema", vec![], &[]) });
    }
    cases
}

/// A team in the making: an agent, a type of task and an integration for each case.
struct House {
    config: Config,
    behaviors: Vec<Value>,
    cases: Vec<(TaskType, Case)>,
}

impl House {
    fn new() -> Self {
        let mut config = Config::new("strangers");
        config.retry = RetryPolicy {
            backoff: Backoff::Exponential { initial: Duration::from_millis(400), factor: 4.0, cap: LONG },
            jitter: Jitter::None,
            ..RetryPolicy::team_default()
        };
        Self { config, behaviors: Vec::new(), cases: Vec::new() }
    }

    /// With a case, whose model bears the name of its task type, so that the stranger can tell whose turn it is.
    fn case(&mut self, integration: &str, vendor: &str, wire: Wire, base_url: &str, case: Case) {
        let name = format!("{vendor}-{}", case.name);
        let integration = Integration::new(integration).expect("a name");
        let task_type = TaskType::new(&name).expect("a name");
        let mut agent = Agent::new(&name, &format!("{integration}/{name}")).expect("an agent").handling(&name);
        if case.tools {
            agent.tools = vec!["weather".to_owned()];
        }
        let schema = json!({"type": "object", "properties": {"verdict": {"enum": ["good", "bad"]}, "score": {"type": "integer"}},
            "required": ["verdict", "score"], "additionalProperties": false});
        let declared = TaskTypeConfig {
            effect: Some(Effect::ReadOnly),
            output_schema: case.schema.then_some(schema),
            ..TaskTypeConfig::default()
        };
        for behavior in &case.does {
            let mut behavior = behavior.clone();
            behavior["match"] = json!({"model": name});
            self.behaviors.push(behavior);
        }
        // Only where it stalls does one of our timers run out.
        let quiet = if case.name.starts_with("stall") { Duration::from_secs(3) } else { LONG };
        let timeouts = Timeouts { connect: LONG, first_byte: LONG, first_content: quiet, idle: quiet, total: LONG };
        let provider = ProviderConfig {
            api_key: Some(SecretString::from("sk-judged-by-strangers")),
            timeouts,
            ..ProviderConfig::new(wire, base_url)
        };
        let config = std::mem::replace(&mut self.config, Config::new(""));
        self.config = config.agent(agent).provider(integration, provider).task_type(task_type.clone(), declared);
        self.cases.push((task_type, case));
    }
}

async fn submitted(desk: &Desk, task_type: &TaskType) -> TaskId {
    let ask = NewTask::new(task_type.clone(), json!({"text": format!("the weather, for {task_type}")}));
    desk.submit(ask).await.expect("accepted").record.task.id
}

/// Waits until a task has come to rest in this state; where it could be on its way still, after so many attempts.
async fn rests(desk: &Desk, id: TaskId, state: State, attempts: usize) -> Record {
    let mut watch = desk.engine().watch();
    let rested = tokio::time::timeout(LONG, async {
        loop {
            watch.borrow_and_update();
            let record = desk.task(id).await.expect("a task");
            let ended = record.attempts.iter().filter(|attempt| attempt.ended_at.is_some()).count();
            if record.state == state && (state == State::Done || ended >= attempts) {
                return record;
            }
            watch.changed().await.expect("the engine lives");
        }
    });
    match rested.await {
        Ok(record) => record,
        Err(_) => panic!("not {state}, but {:#?}", desk.task(id).await),
    }
}

/// What it thinks of us. There is no error in it, and no warning but of waits that did not grow: how much later than it
/// was due an attempt begins is a matter of how busy the machine is.
async fn verdict(llmock: &Stranger) -> Value {
    let verdict = llmock.control(Method::GET, "/_llmock/verdict", None).await;
    assert_eq!((&verdict["passed"], &verdict["errors"]), (&json!(true), &json!(0)), "{verdict:#}");
    let findings = verdict["findings"].as_array().expect("findings");
    assert!(findings.iter().all(|finding| finding["code"] == "no_backoff"), "{verdict:#}");
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn llmock_finds_no_error_in_how_a_team_meets_what_it_breaks() {
    // Streams take a moment, so that it sees who hangs up at what is no JSON: what it has sent to the end it counts as
    // taken, whatever was made of it.
    let Some(llmock) = llmock(&["--stream-chunk-delay-ms", "10"]).await else { return };
    let mut house = House::new();
    for (vendor, wire, path) in [
        ("anthropic", Wire::Anthropic, "/anthropic"),
        ("openai", Wire::OpenAi, "/v1"),
        ("responses", Wire::Responses, "/v1"),
        ("gemini", Wire::Gemini, "/gemini/v1beta"),
    ] {
        for case in common().into_iter().chain(cases(wire)) {
            // One each: a gate that closes for one case is none of another's.
            let integration = format!("{vendor}-{}", case.name);
            house.case(&integration, vendor, wire, &format!("{}{path}", llmock.url), case);
        }
    }
    // Vendors of the OpenAI wire, under the names by which their manners are known.
    for (vendor, path) in [
        ("groq", "/groq/openai/v1"),
        ("mistral", "/mistral/v1"),
        ("xai", "/xai/v1"),
        ("together", "/together/v1"),
        ("perplexity", "/perplexity/v1"),
        ("ai21", "/ai21/v1"),
    ] {
        for case in common() {
            house.case(vendor, vendor, Wire::OpenAi, &format!("{}{path}", llmock.url), case);
        }
    }
    let House { config, behaviors, cases } = house;
    llmock.control(Method::POST, "/_llmock/scenario", Some(json!({"behaviors": behaviors}))).await;

    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let reads = Hints { read_only: Some(true), ..Hints::default() };
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let heard = Arc::clone(&asked);
    let weather = function("weather", "Today's weather of a city", schema, reads, move |arguments, _| {
        heard.lock().expect("not poisoned").push(arguments);
        async { Ok::<_, String>("It rains.".to_owned()) }
    });
    let tools = Local::new([weather]).expect("a server");
    let team = Team::builder(config).tools(tools).seed(7).start().await.expect("a team");
    let desk = team.desk();
    let rested = cases.iter().map(async |(task_type, case)| {
        let id = submitted(&desk, task_type).await;
        rests(&desk, id, case.state, case.attempts()).await
    });
    let records = futures_util::future::join_all(rested).await;
    // The stranger speaks first.
    let verdict = verdict(&llmock).await;
    for ((task_type, case), record) in cases.iter().zip(&records) {
        let failures = record.attempts.iter().filter_map(|attempt| attempt.failure.as_ref());
        let found: Vec<Kind> = failures.map(|failure| failure.kind).collect();
        let expected = (&case.failures, case.attempts());
        assert_eq!((&found, record.attempts.len()), expected, "{task_type}: {:#?}", record.attempts);
        let answered = record.answer.as_ref().is_some_and(|answer| match case.schema {
            true => *answer == json!({"verdict": "good", "score": 1}),
            // Never with a piece of what broke.
            false => answer.as_str().is_some_and(|text| !text.is_empty() && !text.contains("Once upon")),
        });
        assert_eq!(answered, case.state == State::Done, "{task_type}: {:?}", record.answer);
    }
    let requests: usize = cases.iter().map(|(_, case)| case.requests()).sum();
    assert_eq!(verdict["attempts"], json!(requests), "{verdict:#}");
    // Its tools are called with what fits their schemas; what it broke of a call was no call.
    let called = cases.iter().filter(|(_, case)| case.name == "tool").count();
    assert_eq!(*asked.lock().expect("not poisoned"), vec![json!({"city": "mock-city"}); called]);
}

/// It counts by the minute, and says how long it really takes until there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn llmock_finds_no_error_in_how_a_team_meets_a_quota() {
    let Some(llmock) = llmock(&["--rpm", "20"]).await else { return };
    let mut house = House::new();
    house.case(
        "anthropic",
        "anthropic",
        Wire::Anthropic,
        &format!("{}/anthropic", llmock.url),
        done("plain", vec![], &[]),
    );
    let (task_type, _) = house.cases.remove(0);
    let team = Team::builder(house.config).seed(7).start().await.expect("a team");
    let desk = team.desk();
    let mut ids = Vec::new();
    for n in 0..22 {
        let ask = NewTask::new(task_type.clone(), json!({ "n": n }));
        ids.push(desk.submit(ask).await.expect("accepted").record.task.id);
    }
    let mut refused = 0;
    for id in ids {
        let record = rests(&desk, id, State::Done, 1).await;
        let failures: Vec<Kind> =
            record.attempts.iter().filter_map(|attempt| Some(attempt.failure.as_ref()?.kind)).collect();
        assert!(failures.iter().all(|kind| *kind == Kind::RateLimited), "{failures:?}");
        refused += failures.len();
    }
    let verdict = verdict(&llmock).await;
    assert!(refused > 0, "{verdict:#}");
    assert_eq!(verdict["faults_injected"], json!(refused), "{verdict:#}");
}

/// What it is worth: a client that repeats what cannot succeed, and one that takes half an answer, are found.
#[tokio::test]
async fn llmock_does_find_bad_clients() {
    let Some(llmock) = llmock(&[]).await else { return };
    let breaks = json!([fails(400, Some(1)), {"type": "stream_fault", "kind": "truncate", "after_chunks": 3}]);
    llmock.control(Method::POST, "/_llmock/scenario", Some(json!({"behaviors": breaks}))).await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
    for status in [400, 200] {
        let url = format!("{}/v1/chat/completions", llmock.url);
        let response = llmock.client.post(url).json(&body).send().await.expect("an answer");
        assert_eq!(response.status(), status);
        response.bytes().await.expect("a body");
    }
    let verdict = llmock.control(Method::GET, "/_llmock/verdict", None).await;
    let codes: Vec<&Value> =
        verdict["findings"].as_array().expect("findings").iter().map(|finding| &finding["code"]).collect();
    assert_eq!(codes, ["retried_non_retryable", "truncated_stream_accepted"], "{verdict:#}");
}
