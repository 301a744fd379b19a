//! A call of which nobody knows whether it happened waits for a person, says everything they need to answer, and goes
//! on with the answer: through a real team, its API and its command line.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::agent::{Agent, Incarnation};
use backstop::api;
use backstop::cause::ToolFault;
use backstop::config::Config;
use backstop::conversation::{Message, ToolCall};
use backstop::engine::embedded::Embedded;
use backstop::engine::{Engine, LeaseAsk};
use backstop::event::Happening;
use backstop::failure::Kind;
use backstop::journal::{Ask, Call, Entry, Intent, Judge, Line, Outcome, Purpose, Replied, Step};
use backstop::llm::Request;
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::pager::{Channel, Receipt, Sending};
use backstop::record::{LetterStatus, Record, State};
use backstop::replay::{ReplayAsk, Verdict};
use backstop::task::{AgentName, Effect, Integration, Priority, Task, TaskId};
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, DeskError, NewTask};
use backstop::team::{Builder, Team};
use backstop::time::Timestamp;
use backstop::told::ToldKind;
use backstop::tool::{CallClass, Repeat, ToolRef, call_key};
use backstop::tools::{Calling, Offered, Pending, Said, ToolServer, Trouble};
use backstop::triage::Decision;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::world::evening;

/// A bank that does what it is asked and, the first `silent` times, dies before it can say so.
#[derive(Clone)]
struct Bank {
    name: Integration,
    silent: Arc<AtomicU32>,
    /// Is it silent without an end, instead of dying?
    hangs: bool,
    /// The keys under which it was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bank {
    fn silent(times: u32) -> Self {
        let name = Integration::new("local").expect("a name");
        Self { name, silent: Arc::new(AtomicU32::new(times)), hangs: false, asked: Arc::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

impl ToolServer for Bank {
    fn name(&self) -> &Integration {
        &self.name
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        let charge = Offered {
            tool: "charge".to_owned(),
            description: "Charges a card.".to_owned(),
            schema: json!({"type": "object"}),
            hints: None,
        };
        Box::pin(async move { Ok(vec![charge]) })
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(async move {
            self.asked.lock().expect("not poisoned").push(calling.key.to_string());
            let left = self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            match left {
                Ok(_) if self.hangs => std::future::pending().await,
                Ok(_) => Err(Trouble::sent(ToolFault::Died, "local went away; its password=hunter2-of-the-bank")),
                Err(_) => Ok(Said { text: "ch_42".to_owned(), failed: false }),
            }
        })
    }
}

/// Wants as many charges as the task says, then answers with what it was told.
fn script(request: &Request, _: u64) -> Scripted {
    let results = request.messages.iter().rev().find_map(|message| match message {
        Message::Results { results } => Some(results.iter().map(|result| result.text.as_str()).collect::<Vec<_>>()),
        Message::User { .. } | Message::Assistant { .. } => None,
    });
    if let Some(results) = results {
        return Scripted::text(format!("told: {}", results.join(" | ")));
    }
    let twice = request.messages.iter().any(|message| message.text().contains("twice"));
    let mut scripted = Scripted::text("");
    if let Ok(reply) = &mut scripted.result {
        let charge = |amount: u32| {
            ToolCall::written("", "charge", &format!(r#"{{"amount":{amount},"card_token":"tok-of-the-card"}}"#))
        };
        reply.calls = if twice { vec![charge(5), charge(7)] } else { vec![charge(5)] };
    }
    scripted
}

/// A channel that keeps what it is sent.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<backstop::incident::Page>>>);

impl Channel for Inbox {
    fn name(&self) -> &str {
        "inbox"
    }

    fn send<'a>(&'a self, page: &'a backstop::incident::Page) -> Sending<'a> {
        Box::pin(async move {
            self.0.lock().expect("not poisoned").push(page.clone());
            Ok(Receipt { to: "ana".into(), detail: "taken".into() })
        })
    }
}

struct Shop {
    desk: Desk,
    bank: Bank,
    model: Simulated,
    inbox: Inbox,
    url: String,
    stop: CancellationToken,
    _team: Team,
}

impl Shop {
    async fn open(silent: u32) -> Self {
        Self::open_with(Bank::silent(silent), |_| {}, |builder| builder).await
    }

    async fn open_with(bank: Bank, clerk: impl FnOnce(&mut Agent), team: impl FnOnce(Builder) -> Builder) -> Self {
        let shape = clerk;
        let mut clerk = Agent::new("clerk", "sim/model").expect("an agent").handling("order");
        clerk.tools = vec!["charge".to_owned()];
        shape(&mut clerk);
        let ceo = Agent::new("ceo", "sim/model").expect("an agent");
        let inbox = Inbox::default();
        let model = Simulated::new(Integration::new("sim").expect("a name"), script);
        let mut config = Config::new("shop").agent(clerk).agent(ceo);
        config.prompts = backstop::prompt::builtin();
        let builder = Team::builder(config)
            .provider(model.clone())
            .tools(bank.clone())
            .on_call("ana", vec![Arc::new(inbox.clone())])
            .seed(7);
        let team = team(builder).start().await.expect("the team starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let desk = team.desk();
        tokio::spawn(api::serve(desk.clone(), listener, api::Tokens::default(), stop.clone().cancelled_owned()));
        backstop::cli::client::install_tls();
        Self { desk, bank, model, inbox, url, stop, _team: team }
    }

    /// Hands an order in and waits until a person is asked.
    async fn doubtful(&self, what: &str) -> Record {
        let task = NewTask::new("order".parse().expect("a type"), json!({ "what": what }));
        let id = self.desk.submit(task).await.expect("accepted").record.task.id;
        let record = self.desk.wait(id).await.expect("it ends");
        assert_eq!(record.state, State::WaitingHuman, "{record:?}");
        record
    }

    async fn steps(&self, id: TaskId) -> Vec<Step> {
        self.desk.journal(id).await.expect("a journal")
    }

    /// The real binary against this team: its exit code, stdout and stderr.
    async fn cli(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(arguments).env_clear().env("BACKSTOP_URL", &self.url).env("USER", "ana").stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The same, flattened: words wrapped over lines are found again.
    async fn says(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.cli(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}\n{stdout}\n{stderr}");
        stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    async fn page(&self) -> backstop::incident::Page {
        let mut watch = self.desk.engine().watch();
        loop {
            watch.borrow_and_update();
            let page = self.inbox.0.lock().expect("not poisoned").first().cloned();
            match page {
                Some(page) => return page,
                None => watch.changed().await.expect("the engine lives"),
            }
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_doubt_is_told_with_everything_needed_to_decide() {
    let shop = Shop::open(1).await;
    let record = shop.doubtful("once").await;
    let id = record.task.id;
    let letter = record.letter.as_ref().expect("a letter");
    assert_eq!((letter.failure.kind, letter.failure.rule.as_str()), (Kind::OutcomeUnknown, "tool-outcome"));
    assert_eq!(shop.bank.asked().len(), 1, "not asked again blindly");
    let steps = shop.steps(id).await;
    let call = steps.iter().find_map(Step::call).expect("a call");
    let sent = steps.iter().find(|step| step.call().is_some()).expect("a step").at;
    let id_text = id.to_string();
    let needed = [
        "step 2: local/charge (mutation)",
        r#"{"amount":5,"card_token":"[redacted]"}"#,
        call.key.as_str(),
        &format!("sent {sent} by clerk in attempt 1 of round 1"),
        "local went away",
    ];
    let page = shop.page().await;
    assert_eq!(page.incident.in_doubt.len(), 1, "{:?}", page.incident);
    let by_page = page.incident.in_doubt[0].clone();
    let by_why = shop.says(&["why", &id_text]).await;
    let by_show = shop.says(&["task", "show", &id_text]).await;
    let by_letter = shop.says(&["dlq", "show", &id_text]).await;
    for (whose, text) in [("page", &by_page), ("why", &by_why), ("show", &by_show), ("letter", &by_letter)] {
        for needed in needed {
            assert!(text.contains(needed), "{whose} does not say {needed}:\n{text}");
        }
        assert!(!text.contains("tok-of-the-card") && !text.contains("hunter2"), "{whose}: {text}");
    }
    assert!(page.incident.summary.contains("did this happen? task"), "{}", page.incident.summary);
    let command = format!("backstop task outcome {id}");
    for text in [&by_why, &by_show, &by_letter] {
        assert!(text.contains(&command), "{text}");
    }
    let journal = shop.says(&["task", "journal", &id_text]).await;
    assert!(journal.contains("local/charge") && journal.contains("OUTCOME UNKNOWN"), "{journal}");
    // The store stays exact: the work goes on from it.
    let reply = steps[0].reply().expect("an answer");
    assert_eq!(reply.calls[0].arguments["card_token"], "tok-of-the-card");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_told_to_the_model_and_not_made_again() {
    let shop = Shop::open(1).await;
    let id = shop.doubtful("once").await.task.id;
    let id_text = id.to_string();
    let (code, stdout, stderr) =
        shop.cli(&["task", "outcome", &id_text, "--happened", "--note", "the bank shows ch_7"]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("{id} ")), "{stdout}");
    let record = shop.desk.wait(id).await.expect("it ends");
    assert_eq!(record.state, State::Done, "{record:?}");
    let answer = record.answer.as_ref().and_then(Value::as_str).expect("an answer");
    assert!(
        answer.contains("was carried out, as a person confirmed") && answer.contains("the bank shows ch_7"),
        "{answer}"
    );
    assert_eq!(shop.bank.asked().len(), 1, "not made again");
    assert_eq!(shop.model.calls(), 2, "what was paid for is not asked again");
    let decided = record.decisions.last().expect("a decision");
    assert_eq!((decided.who.as_deref(), &decided.decision), (Some("ana"), &Decision::RunAgain { amendment: None }));
    assert_eq!(decided.reasons, ["step 2, local/charge, happened", "the bank shows ch_7"]);

    // Answered twice, it is refused, by number and without.
    for step in [&["--step", "2"][..], &[]] {
        let arguments: Vec<&str> =
            ["task", "outcome", &id_text, "--did-not-happen"].iter().chain(step).copied().collect();
        let (code, stdout, stderr) = shop.cli(&arguments).await;
        assert_eq!(code, Some(1), "{stdout}{stderr}");
        assert!(stderr.contains("what came of step 2 is known already") && stdout.is_empty(), "{stdout}{stderr}");
    }
    let (code, _, stderr) = shop.cli(&["task", "outcome", &id_text, "--happened", "--step", "99"]).await;
    assert_eq!((code, stderr.contains("has no step 99")), (Some(1), true), "{stderr}");

    // Every change of its state is told with its rule, and the person's word with it.
    let why = shop.desk.why(id).await.expect("a story");
    for line in &why.lines {
        match line.kind {
            ToldKind::Model | ToldKind::Tool | ToldKind::Probe | ToldKind::Resume | ToldKind::Other => {}
            ToldKind::Accepted
            | ToldKind::Delivery
            | ToldKind::Compaction
            | ToldKind::Doubt
            | ToldKind::Failure
            | ToldKind::Wait
            | ToldKind::Decision
            | ToldKind::Human
            | ToldKind::End => assert!(line.rule.as_ref().is_some_and(|rule| !rule.is_empty()), "{line:?}"),
        }
    }
    let kinds: Vec<ToldKind> = why.lines.iter().map(|line| line.kind).collect();
    assert_eq!(
        kinds,
        [
            ToldKind::Accepted,
            ToldKind::Delivery,
            ToldKind::Model,
            ToldKind::Tool,
            ToldKind::Doubt,
            ToldKind::Failure,
            ToldKind::End,
            ToldKind::Decision,
            ToldKind::Doubt,
            ToldKind::Human,
            ToldKind::Delivery,
            ToldKind::Resume,
            ToldKind::Model,
            ToldKind::End,
        ],
        "{:#?}",
        why.lines
    );
    assert_eq!((why.totals.deliveries, why.totals.spent.asks, why.totals.saved.total()), (2, 2, 15));
    let diff = shop.says(&["task", "show", &id_text, "--prompt-diff"]).await;
    assert!(diff.contains("+ [results]") && diff.contains("the bank shows ch_7"), "{diff}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_happen_is_made_again_under_the_same_key() {
    let shop = Shop::open(1).await;
    let id = shop.doubtful("once").await.task.id;
    shop.desk.judge(id, None, false, "no such charge", "ana").await.expect("taken");
    let record = shop.desk.wait(id).await.expect("it ends");
    assert_eq!((record.state, record.answer), (State::Done, Some(json!("told: ch_42"))));
    let asked = shop.bank.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1], "the other side can tell that it is the same call");
    let steps = shop.steps(id).await;
    let judged = steps.iter().any(|step| {
        matches!(&step.outcome, Some(Outcome::Judged { happened: false, by: Judge::Person { who }, .. }) if who == "ana")
    });
    assert!(judged, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_decided_before_it_is_answered() {
    let shop = Shop::open(1).await;
    let id = shop.doubtful("once").await.task.id;
    for decision in [
        Decision::RunAgain { amendment: None },
        Decision::RetryOnFallback { model: "sim/other".parse().expect("a model") },
        Decision::Reassign { agent: "ceo".parse().expect("a name"), amendment: String::new() },
    ] {
        let refused = shop.desk.decide(id, decision.clone(), "ana", "please").await.expect_err("refused");
        let DeskError::Policy(why) = &refused else { panic!("{decision:?}: {refused:?}") };
        assert!(why.contains("step 2 (local/charge)") && why.contains("answer first: `backstop task outcome"), "{why}");
    }
    let plan =
        shop.desk.plan_replay(&ReplayAsk { all: true, ..ReplayAsk::new(Default::default(), "ana", "now") }).await;
    assert_eq!(plan.expect("a plan").entries, [(id, Verdict::AnswerFirst)]);
    let (code, stdout, stderr) =
        shop.cli(&["dlq", "replay", &id.to_string(), "--payment", &id.to_string(), "--reason", "x", "--yes"]).await;
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("answer-first") && stderr.contains("task outcome"), "{stderr}");
    let page = shop.page().await;
    let again = Decision::RunAgain { amendment: None };
    let overridden = shop.desk.override_incident(&page.incident.id, again, "ana", "all").await.expect("an answer");
    assert!(overridden.decided.is_empty(), "{overridden:?}");
    assert!(overridden.refused[0].1.contains("answer first"), "{overridden:?}");
    assert_eq!(shop.bank.asked().len(), 1);
    // To give it up for good needs no answer; and an answer that comes later is only written down.
    let discard = Decision::Discard { why: "the order is off".to_owned() };
    shop.desk.decide(id, discard, "ana", "the order is off").await.expect("discarded");
    let record = shop.desk.judge(id, None, true, "it was charged", "ana").await.expect("written");
    assert_eq!((record.state, record.letter.map(|letter| letter.status)), (State::Dead, Some(LetterStatus::Discarded)));
    assert_eq!(shop.bank.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_in_doubt_is_asked_about_by_itself_and_made_once() {
    // The first charge dies; the answer sends the task on, and the second dies, too.
    let shop = Shop::open(2).await;
    let id = shop.doubtful("twice").await.task.id;
    let doubtful = |steps: &[Step]| -> Vec<u32> {
        backstop::stand::in_doubt(steps, 0).into_iter().map(|step| step.number).collect()
    };
    assert_eq!(doubtful(&shop.steps(id).await), [2], "the second is not made before the first is known");
    shop.desk.judge(id, None, true, "seen", "ana").await.expect("taken");
    assert_eq!(shop.desk.wait(id).await.expect("it ends").state, State::WaitingHuman);
    assert_eq!(doubtful(&shop.steps(id).await), [3]);
    shop.desk.judge(id, Some(3), true, "seen too", "ana").await.expect("taken");
    assert_eq!(shop.desk.wait(id).await.expect("it ends").state, State::Done);
    let asked = shop.bank.asked();
    assert_eq!(asked.len(), 2, "each was made once");
    assert_ne!(asked[0], asked[1]);
    let events = shop.desk.engine().history(id).await.expect("a history");
    let judged = events.iter().filter(|event| matches!(event.what, Happening::OutcomeJudged { .. })).count();
    assert_eq!(judged, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_reads_an_answer_strictly() {
    let shop = Shop::open(1).await;
    let id = shop.doubtful("once").await.task.id;
    let http = reqwest::Client::new();
    let post = async |body: Value| {
        let url = format!("{}/api/v1/tasks/{id}/outcome", shop.url);
        let response = http.post(url).json(&body).send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    for (body, status, expected) in [
        (json!({}), 400, "/happened: is missing"),
        (json!({"happened": "yes"}), 400, "/happened: must be true or false"),
        (json!({"happened": true, "step": 0}), 400, "/step: must be the number"),
        (json!({"happened": true, "step": 77}), 404, "has no step 77"),
        (json!({"happened": true, "step": 1}), 409, "what came of step 1 is known already"),
        (json!({"happened": true, "hapened": true}), 400, "did you mean"),
        (json!({"happened": true, "note": 5}), 400, "/note: must be a text"),
    ] {
        let (code, problem) = post(body.clone()).await;
        assert_eq!(code, status, "{body}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(expected)), "{body}: {problem}");
    }
    let (code, record) = post(json!({"happened": true, "note": "seen", "by": "ana"})).await;
    assert_eq!((code, &record["task"]["id"]), (200, &json!(id.to_string())), "{record}");
    assert_eq!(record["decisions"].as_array().and_then(|all| all.last()).map(|last| &last["who"]), Some(&json!("ana")));
}

/// Only letters that said so themselves were looked at: a task given up for a stall or its deadline, with a call sent
/// and not answered, could be replayed with a thousand others, and its page did not name the call.
#[tokio::test(start_paused = true)]
async fn a_call_in_doubt_is_asked_about_whatever_the_task_was_given_up_for() {
    let start = evening();
    let within = Duration::from_secs(20);
    for (stall, deadline, kind) in [(within, None, Kind::Loop), (within * 9, Some(start + within), Kind::Deadline)] {
        let bank = Bank { hangs: true, ..Bank::silent(9) };
        let clock = Clock::starting_at(start, 1.0);
        let shop = Shop::open_with(bank, |clerk| clerk.stall = stall, |builder| builder.clock(clock)).await;
        let task = NewTask::new("order".parse().expect("a type"), json!({ "what": "once" }));
        let id = shop.desk.submit(NewTask { deadline, ..task }).await.expect("accepted").record.task.id;
        let record = shop.desk.wait(id).await.expect("it ends");
        assert_eq!(record.letter.as_ref().map(|letter| letter.failure.kind), Some(kind), "{record:#?}");
        let ask = ReplayAsk { all: true, ..ReplayAsk::new(Default::default(), "ana", "now") };
        let plan = shop.desk.plan_replay(&ask).await.expect("a plan");
        assert_eq!(plan.entries, [(id, Verdict::AnswerFirst)], "{kind:?}");
        let page = shop.page().await;
        let [line] = page.incident.in_doubt.as_slice() else { panic!("{kind:?}: {:?}", page.incident) };
        assert!(line.starts_with(&format!("task {id}, step 2: local/charge (mutation)")), "{line}");
        assert_eq!(shop.bank.asked().len(), 1);
    }
}

/// A task with two calls sent and not answered, left behind by somebody who is gone.
async fn two_in_doubt(engine: &dyn Engine, now: Timestamp) -> TaskId {
    let (clerk, charge) = (AgentName::new("clerk").expect("a name"), "local/charge".parse().expect("a tool"));
    let task = Task {
        id: TaskId::new(now, [1; 10]),
        task_type: "order".parse().expect("a type"),
        agent: clerk.clone(),
        payload: json!({ "what": "twice" }),
        effect: Effect::Mutation,
        priority: Priority::Normal,
        idempotency_key: None,
        deadline: None,
        tenant: None,
        prompt: None,
        created_at: now,
    };
    let id = task.id;
    engine.submit(task, Integration::new("sim").expect("a name"), now).await.expect("accepted");
    let lease_for = Duration::from_secs(60);
    let ask = LeaseAsk { agent: clerk, incarnation: Incarnation(1), slots: 1, lease_for, except: Vec::new() };
    let fence = engine.lease(ask, now).await.expect("leased")[0].fence;
    let ask = Ask {
        model: "sim/model".parse().expect("a model"),
        purpose: Purpose::Work,
        hash: String::new(),
        fresh: true,
        system: None,
        said: vec![Message::user("twice")],
        amended: 0,
        compaction: None,
    };
    let wants = |number| ToolCall::written("", "charge", &format!(r#"{{"amount":{number}}}"#));
    let reply = Replied { calls: vec![wants(5), wants(7)], model: "model".to_owned(), ..Replied::default() };
    let class = CallClass { effect: Effect::Mutation, repeat: Repeat::Never };
    let call = |index: usize, tool: &ToolRef| {
        let key = call_key(id, 1, index);
        let index = u32::try_from(index).expect("few");
        Line::Intend { intent: Intent::Call(Call { ask: 1, index, tool: tool.clone(), class, key }), worst: 0 }
    };
    let lines = vec![
        Line::Intend { intent: Intent::Ask(Box::new(ask)), worst: 0 },
        Line::Conclude { step: 1, outcome: Outcome::Replied(Box::new(reply)), counted: 0 },
        call(0, &charge),
        call(1, &charge),
    ];
    engine.journal(id, Entry { fence, lines, ..Entry::default() }, now).await.expect("written");
    id
}

/// Two people answered two doubts at the same moment: each saw two of them, so neither let the task go on, and it waited
/// for ever for an answer that had been given.
#[tokio::test]
async fn of_two_answers_at_the_same_moment_the_last_lets_the_task_go_on() {
    let start = evening();
    // In a store that takes its time, so that each reads before the other writes.
    let scratch = crate::engine::Scratch::new();
    let engine: Arc<dyn Engine> = Arc::new(Embedded::open(scratch.path(), start).expect("the store opens"));
    let id = two_in_doubt(&*engine, start).await;
    // Its lease is long over; the wait before its next delivery need not be sat through.
    let later = Clock::starting_at(start + Duration::from_secs(3_600), 60.0);
    let shop = Shop::open_with(Bank::silent(0), |_| {}, |team| team.engine(engine).clock(later)).await;
    let record = shop.desk.wait(id).await.expect("it ends");
    assert_eq!(record.state, State::WaitingHuman, "{record:#?}");
    let (ana, bob) =
        tokio::join!(shop.desk.judge(id, Some(2), true, "", "ana"), shop.desk.judge(id, Some(3), true, "", "bob"));
    ana.expect("taken");
    bob.expect("taken");
    let mut watch = shop.desk.engine().watch();
    let gone_on = async {
        loop {
            watch.borrow_and_update();
            let record = shop.desk.task(id).await.expect("a task");
            match record.state {
                State::Done => return record,
                State::Ready
                | State::Running
                | State::Scheduled
                | State::Parked
                | State::Dead
                | State::WaitingHuman
                | State::Cancelled => watch.changed().await.expect("the engine lives"),
            }
        }
    };
    let record = tokio::time::timeout(Duration::from_secs(60), gone_on).await.expect("it goes on");
    let again = record.decisions.iter().filter(|decided| decided.decision == Decision::RunAgain { amendment: None });
    assert_eq!(again.count(), 1, "once: {:?}", record.decisions);
    assert!(shop.bank.asked().is_empty(), "what happened is not made again");
}
