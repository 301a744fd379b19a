//! What an agent with tools meets on its way to an accepted answer: verification, a full context, servers at their worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstop::agent::Agent;
use backstop::breaker::BreakerKind;
use backstop::cause::ToolFault;
use backstop::config::{Config, ProviderConfig, TaskTypeConfig, Verify, Wire};
use backstop::decision::Decision;
use backstop::engine::memory::Memory;
use backstop::event::Happening;
use backstop::failure::{Class, Kind};
use backstop::journal::{Intent, Outcome, Purpose, Step};
use backstop::llm::simulated::{Scripted, Simulated};
use backstop::llm::{Message, Request};
use backstop::prices::ModelFacts;
use backstop::prompt;
use backstop::record::{Record, State};
use backstop::retry::{Backoff, Jitter};
use backstop::task::{Effect, Integration, TaskId, TaskType};
use backstop::team::Team;
use backstop::team::clock::Clock;
use backstop::team::desk::{Desk, NewTask};
use backstop::tool::ToolRule;
use backstop::tools::{Calling, Local, Offered, Pending, Said, ToolServer, Trouble, function};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::world::{Act, Hints, IDEMPOTENT, ONCE, READS, Workshop, calling, evening, offered, results};

fn name(name: &str) -> Integration {
    Integration::new(name).expect("a name")
}

/// A team of a worker with every tool, an heir without any, and a checker; tasks of the type `work`.
struct House {
    _team: Team,
    desk: Desk,
    model: Simulated,
    workshop: Workshop,
}

fn config(shape: impl FnOnce(&mut Config)) -> Config {
    let agent = |name: &str| Agent::new(name, "primary/opus").expect("an agent").told(name);
    let mut worker = agent("worker").handling("work");
    worker.tools = vec!["act".to_owned()];
    let mut config = Config::new("acme").agent(worker).agent(agent("checker").handling("check"));
    config.prompts = prompt::builtin();
    config.retry.jitter = Jitter::None;
    let declared = TaskTypeConfig { effect: Some(Effect::Mutation), ..TaskTypeConfig::default() };
    config.task_types.insert(TaskType::new("work").expect("a name"), declared);
    shape(&mut config);
    config
}

async fn team(engine: Arc<Memory>, config: Config, tools: impl ToolServer + 'static, model: &Simulated) -> Team {
    let team = Team::builder(config).engine(engine).provider(model.clone()).tools(tools);
    team.clock(Clock::starting_at(evening(), 1.0)).seed(7).start().await.expect("a team")
}

async fn submitted(desk: &Desk) -> TaskId {
    let ask = NewTask::new(TaskType::new("work").expect("a name"), json!({ "text": "go" }));
    desk.submit(ask).await.expect("accepted").record.task.id
}

impl House {
    async fn new(
        shape: impl FnOnce(&mut Config),
        hints: Hints,
        act: impl Fn(u64) -> Act + Send + Sync + 'static,
        script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let workshop = Workshop::new(vec![offered("act", hints)], move |_, n| act(n));
        let model = Simulated::new(name("primary"), script);
        let team = team(Arc::new(Memory::new()), config(shape), workshop.clone(), &model).await;
        Self { desk: team.desk(), _team: team, model, workshop }
    }

    async fn ended(&self) -> (Record, Vec<Step>) {
        let id = submitted(&self.desk).await;
        let record = self.desk.wait(id).await.expect("an end");
        (record, self.desk.journal(id).await.expect("a journal"))
    }
}

fn verified_by(verify: Verify) -> impl FnOnce(&mut Config) {
    move |config| {
        let declared = config.task_types.get_mut(&TaskType::new("work").expect("a name")).expect("declared");
        declared.verify = Some(verify);
    }
}

fn asks(steps: &[Step], purpose: Purpose) -> usize {
    steps.iter().filter(|step| matches!(&step.intent, Intent::Ask(ask) if ask.purpose == purpose)).count()
}

/// A refusal's words reach the next attempt's prompt; tools that were called before are not called again.
#[tokio::test]
async fn a_program_refuses_until_the_answer_is_right() {
    let command = ["sh", "-c", "grep -q tested && exit 0; echo 'no word of a test'; exit 1"].map(str::to_owned);
    let verify = Verify::Command { command: command.into(), within: Duration::from_secs(30) };
    let shape = |config: &mut Config| {
        verified_by(verify)(config);
        config.retry.backoff = Backoff::List(vec![Duration::from_millis(1)]);
    };
    let house = House::new(
        shape,
        ONCE,
        |_| Act::Do,
        |request, _| {
            let said = request.messages.iter().map(|message| format!("{message:?}")).collect::<String>();
            match (results(request).len(), said.contains("no word of a test")) {
                (0, _) => calling(&[("act", json!({ "n": 1 }))]),
                (_, false) => Scripted::text("it works"),
                (_, true) => Scripted::text("it works, and is tested"),
            }
        },
    )
    .await;
    let (record, steps) = house.ended().await;
    assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("it works, and is tested"))), "{record:#?}");
    let refused: Vec<&str> = steps.iter().filter_map(|step| step.refused.as_deref()).collect();
    assert!(matches!(refused[..], [why] if why.contains("no word of a test")), "{refused:?}");
    let failure = record.attempts[0].failure.as_ref().expect("a failure");
    assert_eq!((failure.class, failure.kind), (Class::Validation, Kind::BadOutput), "{failure:?}");
    assert_eq!((house.workshop.seen().len(), house.model.calls()), (1, 3));
}

/// Where nobody can say whether an answer stands, the verifier is asked again, not the worker.
#[tokio::test(start_paused = true)]
async fn a_second_agent_has_the_last_word() {
    let verify = Verify::Agent { agent: "checker".parse().expect("a name"), prompt: "verify".to_owned() };
    let house = House::new(
        verified_by(verify),
        ONCE,
        |_| Act::Do,
        |request, n| match (&*request.system, n) {
            ("worker", 1) => calling(&[("act", json!({ "n": 1 }))]),
            ("worker", 2) => Scripted::text("half of it"),
            ("worker", _) => Scripted::text("all of it"),
            ("checker", 3) => Scripted::text("I think it is fine, mostly."),
            ("checker", 4) => Scripted::text(r#"{"accept": false, "why": "the second half is missing"}"#),
            ("checker", _) => Scripted::text(r#"{"accept": true, "why": "complete"}"#),
            (other, _) => panic!("who is {other}?"),
        },
    )
    .await;
    let (record, steps) = house.ended().await;
    assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("all of it"))), "{record:#?}");
    let kinds: Vec<Kind> = record.attempts.iter().filter_map(|at| at.failure.as_ref()).map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::MalformedResponse, Kind::BadOutput]);
    assert_eq!([Purpose::Work, Purpose::Verify].map(|it| asks(&steps, it)), [3, 3], "{steps:#?}");
    assert_eq!(house.workshop.seen().len(), 1, "what was done is done");
    let last = house.model.requests();
    let asked = last.iter().rev().find(|request| request.system == "worker").expect("one");
    assert!(format!("{:?}", asked.messages).contains("the second half is missing"), "{asked:#?}");
}

/// Every verdict was counted as a call of the worker: of eight deliveries the last died as a loop, because a verifier had
/// refused those before, as it may.
#[tokio::test(start_paused = true)]
async fn a_verifier_does_not_use_up_the_workers_calls() {
    let verify = Verify::Agent { agent: "checker".parse().expect("a name"), prompt: "verify".to_owned() };
    let shape = |config: &mut Config| {
        verified_by(verify)(config);
        config.agents.values_mut().for_each(|agent| agent.tools.clear());
        config.retry.max_deliveries = 8;
    };
    let house = House::new(
        shape,
        ONCE,
        |_| Act::Do,
        |request, n| match (&*request.system, n) {
            ("worker", _) => Scripted::text(format!("draft {n}")),
            ("checker", 16) => Scripted::text(r#"{"accept": true, "why": "complete"}"#),
            ("checker", _) => Scripted::text(r#"{"accept": false, "why": "not yet"}"#),
            (other, _) => panic!("who is {other}?"),
        },
    )
    .await;
    let (record, steps) = house.ended().await;
    assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("draft 15"))), "{record:#?}");
    assert_eq!([Purpose::Work, Purpose::Verify].map(|it| asks(&steps, it)), [8, 8], "{steps:#?}");
}

/// Results of tools were once given whole however many there were; the provider refused the request, and every retry.
#[tokio::test(start_paused = true)]
async fn a_full_context_is_shortened_by_rule_and_says_so() {
    let small = ModelFacts { context: Some(20_000), ..ModelFacts::default() };
    let shape = |config: &mut Config| {
        let provider = ProviderConfig {
            self_hosted: true,
            models: [("opus".to_owned(), small)].into(),
            ..ProviderConfig::new(Wire::Anthropic, "http://127.0.0.1:9")
        };
        config.providers.insert(name("primary"), provider);
        config.agents.values_mut().for_each(|agent| agent.max_output_tokens = 1_000);
    };
    let long = |n: u64| Act::Say(format!("{n}: {}", "long result. ".repeat(1_000)));
    let house = House::new(shape, READS, long, |request, _| {
        let bytes: usize = request.messages.iter().map(Message::bytes).sum();
        assert!(bytes < 19_000 * 3, "{bytes} bytes would not fit");
        let turns = request.messages.iter().filter(|message| matches!(message, Message::Results { .. })).count();
        match turns {
            10 => Scripted::text("read them all"),
            n => calling(&[("act", json!({ "n": n }))]),
        }
    })
    .await;
    let (record, steps) = house.ended().await;
    assert_eq!(record.answer, Some(json!("read them all")), "{record:#?}");
    let compactions: Vec<u32> =
        steps.iter().filter_map(Step::ask).filter_map(|ask| ask.compaction).map(|it| it.results).collect();
    assert!(compactions.len() >= 5 && compactions.is_sorted(), "{compactions:?}");
    let history = house.desk.engine().history(record.task.id).await.expect("a history");
    let told: Vec<u32> = history
        .iter()
        .filter_map(|event| {
            let Happening::Compacted { results, before, after, .. } = &event.what else { return None };
            assert!(after < before, "{before} to {after}");
            Some(*results)
        })
        .collect();
    assert_eq!(told, compactions, "each is in the feed");
    let whole: Vec<usize> = steps
        .iter()
        .filter_map(|step| {
            let Some(Outcome::Returned { text, .. }) = &step.outcome else { return None };
            Some(text.len())
        })
        .collect();
    assert!(whole.len() == 10 && whole.iter().all(|len| *len > 13_000), "the journal keeps them whole: {whole:?}");
}

/// Each fault of a server, on each kind of tool: what becomes of the task, and what its failure says.
#[tokio::test(start_paused = true)]
async fn a_server_at_its_worst_costs_its_task_a_classified_failure_and_nothing_else() {
    use ToolFault::*;
    let trouble = |fault, status, sent| {
        move || Box::new(Trouble { fault, sent, status, retry_after_s: None, detail: "local/act: broken".to_owned() })
    };
    let ended = |state, kind| (state, Some(kind));
    let (waiting, done) = (State::WaitingHuman, (State::Done, None));
    for (fault, status, sent, hints, expected) in [
        // Told to the model: nothing happened, or it did and only the answer is lost.
        (Gone, None, true, ONCE, done),
        (TooLarge, None, true, ONCE, done),
        (NotText, None, true, ONCE, done),
        (TooLarge, None, true, READS, done),
        (SaidNo, None, true, ONCE, done),
        (Refused, None, false, ONCE, done),
        (BadArguments, None, false, ONCE, done),
        (Status, Some(404), true, ONCE, done),
        // Nothing happened, or nothing of it matters: tried again until the deliveries are spent.
        (Unreachable, None, false, ONCE, ended(waiting, Kind::Network)),
        (Status, Some(503), true, READS, ended(waiting, Kind::Overloaded)),
        (Timeout, None, true, IDEMPOTENT, ended(waiting, Kind::Timeout)),
        (Died, None, true, READS, ended(waiting, Kind::Network)),
        (Protocol, None, true, READS, ended(waiting, Kind::MalformedResponse)),
        (Status, Some(500), true, IDEMPOTENT, ended(waiting, Kind::ServerError)),
        (Status, Some(429), true, ONCE, ended(waiting, Kind::RateLimited)),
        // It may have happened, and must not happen twice.
        (Timeout, None, true, ONCE, ended(waiting, Kind::OutcomeUnknown)),
        (Died, None, true, ONCE, ended(waiting, Kind::OutcomeUnknown)),
        (Protocol, None, true, ONCE, ended(waiting, Kind::OutcomeUnknown)),
        (Status, Some(500), true, ONCE, ended(waiting, Kind::OutcomeUnknown)),
    ] {
        let broken = trouble(fault, status, sent);
        let house = House::new(
            |_| {},
            hints,
            move |_| Act::DoThen(broken()),
            |request, _| match request.messages.last() {
                Some(Message::Results { .. }) => Scripted::text("another way, then"),
                _ => calling(&[("act", json!({ "n": 1 }))]),
            },
        )
        .await;
        let (record, steps) = house.ended().await;
        let what = format!("{fault} {status:?} sent {sent}");
        let letter = record.letter.as_ref();
        assert_eq!((record.state, letter.map(|letter| letter.failure.kind)), expected, "{what}: {record:#?}");
        let keys: Vec<String> = house.workshop.seen().into_iter().map(|seen| seen.key).collect();
        match letter {
            Some(letter) => assert!(letter.failure.message.contains("local/act"), "{what}: {}", letter.failure.message),
            None => {
                let known = steps.iter().find(|step| step.call().is_some()).and_then(|step| step.outcome.as_ref());
                let Some(Outcome::Returned { text, failed, .. }) = known else { panic!("{what}: {steps:#?}") };
                // A model that hears of a failure does it again.
                let carried_out = matches!(fault, TooLarge | NotText) && hints != READS;
                assert_eq!(
                    (*failed, text.contains("do not call it again")),
                    (!carried_out, carried_out),
                    "{what}: {text}"
                );
            }
        }
        if letter.is_some_and(|letter| letter.failure.kind == Kind::OutcomeUnknown) {
            assert_eq!(keys.len(), 1, "{what}: never again by itself");
        }
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{what}: one call, one key: {keys:?}");
    }
}

/// What is not in an agent's list does not exist for it, whatever it says it calls.
#[tokio::test(start_paused = true)]
async fn a_tool_that_is_not_allowed_is_refused_and_the_model_told() {
    let shape = |config: &mut Config| {
        config.agents.values_mut().for_each(|agent| agent.tools.clear());
    };
    let house = House::new(
        shape,
        ONCE,
        |_| Act::Do,
        |request, _| {
            assert!(request.tools.is_empty(), "none is offered");
            match request.messages.last() {
                Some(Message::Results { results }) => {
                    assert!(results.len() == 2 && results.iter().all(|result| result.failed), "{results:?}");
                    assert!(results[0].text.contains("act"), "{results:?}");
                    Scripted::text("nothing was done")
                }
                _ => calling(&[("act", json!({ "n": 1 })), ("local__act", json!({}))]),
            }
        },
    )
    .await;
    let (record, _) = house.ended().await;
    assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("nothing was done"))), "{record:#?}");
    assert_eq!(house.workshop.seen(), []);
}

/// What was given up for a phrase without end once lay there as an answer nobody had refused: sent on by a person, it
/// was accepted as the result.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_as_a_loop_is_left_behind_when_it_goes_on() {
    let many: Vec<(&str, Value)> = (0..70).map(|n| ("act", json!({ "n": n }))).collect();
    for first in [Scripted::text("I will now read the file. ".repeat(40)), calling(&many)] {
        let first = std::sync::Mutex::new(Some(first));
        let once = move || first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let house = House::new(
            |_| {},
            ONCE,
            |_| Act::Do,
            move |_, _| once().unwrap_or_else(|| Scripted::text("in a word: done")),
        )
        .await;
        let (record, _) = house.ended().await;
        let letter = record.letter.as_ref().expect("a letter");
        assert_eq!((record.state, letter.failure.kind), (State::WaitingHuman, Kind::Loop), "{record:#?}");
        let again = Decision::RunAgain { amendment: None };
        house.desk.decide(record.task.id, again, "ana", "once more").await.expect("decided");
        let record = house.desk.wait(record.task.id).await.expect("an end");
        assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("in a word: done"))), "{record:#?}");
        assert_eq!((house.model.calls(), house.workshop.seen().len()), (2, 0));
    }
}

/// What happened: of two reads in one answer one took a second, the other twenty. Their guard heard of both when the slower
/// one had ended: both were slow, and the breaker of a healthy server opened. A probe's place ran out in the same way.
#[tokio::test(start_paused = true)]
async fn a_quick_read_is_not_slow_beside_a_slow_one() {
    let reads = |name: &'static str, takes: u64| {
        function(name, "Reads.", json!({ "type": "object" }), READS, move |_, _| async move {
            tokio::time::sleep(Duration::from_secs(takes)).await;
            Ok::<_, String>("read".to_owned())
        })
    };
    let config = config(|config| {
        let tools = vec!["quick".to_owned(), "slow".to_owned()];
        config.agents.values_mut().for_each(|agent| agent.tools.clone_from(&tools));
        config.breaker.kind = BreakerKind::Count;
        config.breaker.min_calls = 2;
        config.breaker.slow_after = Duration::from_secs(10);
        config.breaker.slow_rate = 60.0;
    });
    let model = Simulated::new(name("primary"), |request, _| match results(request).len() {
        0 => calling(&[("quick", json!({})), ("slow", json!({}))]),
        _ => Scripted::text("read both"),
    });
    let local = Local::new([reads("quick", 1), reads("slow", 20)]).expect("sound");
    let team = team(Arc::new(Memory::new()), config, local, &model).await;
    let desk = team.desk();
    let id = submitted(&desk).await;
    assert_eq!(desk.wait(id).await.expect("an end").state, State::Done);
    let breakers = desk.breakers().await.expect("breakers");
    let local = breakers.iter().find(|view| view.integration == name("local")).expect("a guard");
    assert_eq!(local.state, "closed", "{}", local.why);
}

/// What happened: a server of tools was taken out of service by hand, and the work it held was written down, and shown, as
/// waiting for its model. When the server's breaker was closed nobody woke it: it slept on for up to five minutes.
#[tokio::test(start_paused = true)]
async fn what_a_server_of_tools_holds_waits_for_it_and_is_woken_when_its_breaker_is_closed() {
    let house = House::new(
        |_| {},
        READS,
        |_| Act::Do,
        |request, _| match results(request).len() {
            0 => calling(&[("act", json!({ "n": 1 }))]),
            _ => Scripted::text("read"),
        },
    )
    .await;
    let (desk, local) = (&house.desk, name("local"));
    desk.open_breaker(&local, None, "ana", "maintenance").await.expect("opened");
    let id = submitted(desk).await;
    while desk.task(id).await.expect("a task").state != State::Parked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let record = desk.task(id).await.expect("a task");
    let parking = record.parking.as_ref().expect("it is parked");
    assert_eq!((parking.integration.as_ref(), &record.integration), (Some(&local), &name("primary")));
    let why = desk.why(id).await.expect("told");
    assert!(why.stands.ends_with("(integration-parked, local)"), "{}", why.stands);
    let views = desk.breakers().await.expect("breakers");
    let waiting: Vec<(&str, u64)> = views.iter().map(|view| (view.integration.as_str(), view.parked)).collect();
    assert_eq!(waiting, [("local", 1), ("primary", 0)]);
    let closed = desk.now();
    desk.close_breaker(&local, "ana", "it is back").await.expect("closed");
    let record = desk.wait(id).await.expect("an end");
    assert_eq!((record.state, house.model.calls(), house.workshop.seen().len()), (State::Done, 2, 1), "{record:#?}");
    let slept = record.ended_at.expect("an end").since(closed);
    assert!(slept < Duration::from_secs(60), "it slept for another {slept:?}");
}

/// A server of tools that says at once what it has, but waits for a word the second time.
struct Slow {
    workshop: Workshop,
    asked: AtomicU32,
    word: Arc<Notify>,
}

impl ToolServer for Slow {
    fn name(&self) -> &Integration {
        self.workshop.name()
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        Box::pin(async {
            if self.asked.fetch_add(1, Ordering::SeqCst) == 1 {
                self.word.notified().await;
            }
            self.workshop.offered().await
        })
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        self.workshop.call(calling)
    }
}

/// An answer that wanted tools once lay in memory alone while their server was asked what it has: a process that died
/// within those seconds had it answered, and paid for, again.
#[tokio::test(start_paused = true)]
async fn an_answer_is_durable_before_a_server_is_waited_for() {
    let workshop = Workshop::new(vec![offered("act", ONCE)], |_, _| Act::Do);
    let word = Arc::new(Notify::new());
    let slow = Slow { workshop: workshop.clone(), asked: AtomicU32::new(0), word: Arc::clone(&word) };
    let model = Simulated::new(name("primary"), |request, _| match results(request).len() {
        0 => calling(&[("act", json!({ "n": 1 }))]),
        _ => Scripted::text("done"),
    });
    let team = team(Arc::new(Memory::new()), config(|_| {}), slow, &model).await;
    let desk = team.desk();
    let id = submitted(&desk).await;
    let replied = async || desk.journal(id).await.expect("a journal").iter().any(|step| step.reply().is_some());
    for _ in 0..1_000 {
        if replied().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(replied().await && workshop.seen().is_empty(), "it is written, and the server has not spoken");
    word.notify_one();
    assert_eq!(desk.wait(id).await.expect("an end").state, State::Done);
    assert_eq!((model.calls(), workshop.seen().len()), (2, 1));
}

/// What a process kept that died in the first call of a tool, and the task it was working on.
async fn cut_off(workshop: &Workshop, model: &Simulated) -> (Arc<Memory>, TaskId) {
    let engine = Arc::new(Memory::new());
    let first = team(Arc::clone(&engine), config(|_| {}), workshop.clone(), model).await;
    let id = submitted(&first.desk()).await;
    while workshop.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(first);
    (Arc::new(engine.reopened()), id)
}

/// A tool was trusted to be idempotent when the process died in a call of it, and declared a payment before the next
/// start: the rule of the first try was the only one asked, and the payment was sent again by itself.
#[tokio::test(start_paused = true)]
async fn a_rule_that_became_stricter_holds_for_what_was_begun_before() {
    for happened in [true, false] {
        let acts = |_: &Calling, n| if n == 0 { Act::DoThenHang } else { Act::Do };
        let workshop = Workshop::new(vec![offered("act", IDEMPOTENT)], acts);
        let model = Simulated::new(name("primary"), |request, _| match results(request).len() {
            0 => calling(&[("act", json!({ "n": 1 }))]),
            _ => Scripted::text("paid"),
        });
        let (engine, id) = cut_off(&workshop, &model).await;
        let stricter = config(|config| {
            let rule = ToolRule { effect: Some(Effect::Payment), ..ToolRule::default() };
            config.tools.local.insert("act".to_owned(), rule);
        });
        let second = team(engine, stricter, workshop.clone(), &model).await;
        let desk = second.desk();
        let record = desk.wait(id).await.expect("an end");
        let kind = record.letter.as_ref().map(|letter| letter.failure.kind);
        assert_eq!((record.state, kind), (State::WaitingHuman, Some(Kind::OutcomeUnknown)), "{record:#?}");
        assert_eq!(workshop.seen().len(), 1, "not sent again by itself");
        desk.judge(id, None, happened, "asked the bank", "ana").await.expect("judged");
        let record = desk.wait(id).await.expect("an end");
        assert_eq!((record.state, &record.answer), (State::Done, &Some(json!("paid"))), "{record:#?}");
        assert_eq!((workshop.seen().len(), model.calls()), (if happened { 1 } else { 2 }, 2));
    }
}

/// A write was cut off under its key, and could not be made at the next start (its tool was not offered any more, its arguments
/// broke the schema of today): the model was told that it had failed, and could have had it done once more, another way.
#[tokio::test(start_paused = true)]
async fn a_write_in_doubt_that_may_not_be_made_today_is_a_persons_to_judge() {
    let told = |request: &Request| -> Vec<String> {
        let results = request.messages.iter().filter_map(|message| match message {
            Message::Results { results } => Some(results),
            Message::User { .. } | Message::Assistant { .. } => None,
        });
        results.flatten().map(|result| result.text.clone()).collect()
    };
    let stricter = Offered { schema: json!({ "type": "object", "required": ["m"] }), ..offered("act", IDEMPOTENT) };
    for (today, happened) in [(stricter.clone(), true), (stricter, false), (offered("other", READS), true)] {
        let workshop = Workshop::new(vec![offered("act", IDEMPOTENT)], |_: &Calling, _| Act::DoThenHang);
        let model = Simulated::new(name("primary"), move |request, _| match told(request).as_slice() {
            [] => calling(&[("act", json!({ "n": 1 }))]),
            [said] => Scripted::text(if said.contains("break the tool's schema") { "refused" } else { "done" }),
            more => panic!("{more:?}"),
        });
        let (engine, id) = cut_off(&workshop, &model).await;
        let next = Workshop::new(vec![today], |_: &Calling, _| Act::Do);
        let second = team(engine, config(|_| {}), next.clone(), &model).await;
        let desk = second.desk();
        let record = desk.wait(id).await.expect("an end");
        let kind = record.letter.as_ref().map(|letter| letter.failure.kind);
        assert_eq!((record.state, kind), (State::WaitingHuman, Some(Kind::OutcomeUnknown)), "{record:#?}");
        assert_eq!(model.calls(), 1, "it was told nothing");
        desk.judge(id, None, happened, "asked the other side", "ana").await.expect("judged");
        let record = desk.wait(id).await.expect("an end");
        let answer = json!(if happened { "done" } else { "refused" });
        assert_eq!((record.state, &record.answer), (State::Done, &Some(answer)), "{record:#?}");
        assert_eq!((workshop.seen().len(), next.seen().len()), (1, 0), "not sent again");
    }
}
