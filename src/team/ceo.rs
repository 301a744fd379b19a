//! The CEO: decides about every dead letter by a table, optionally advised by a language model.
//!
//! It reads open letters from the engine and writes each decision and its effect as one command, so a CEO that dies
//! half-way has either decided or not. It needs no model to be safe: an adviser may only choose among admissible
//! decisions, within a time and money limit, and silence or nonsense gets the table's decision. What it said is written
//! down by whoever asked, and not by the CEO, so that it is there for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use super::desk::AgentState;
use super::guards::{Admitted, Lent};
use super::office::{Office, readable};
use super::seat::Seat;
use crate::advice::{brief, parse_advice};
use crate::agent::ModelRef;
use crate::budget::DAY;
use crate::cause::{Cause, Usage};
use crate::config::AdviserConfig;
use crate::delivery::{AttemptEnd, Hold};
use crate::engine;
use crate::fees::{Fee, Fees, Opinion};
use crate::guard::{Report, Stance};
use crate::judgement::{Judgement, Scene, classify, cost_unknown};
use crate::ledger::{self, Command, Refused};
use crate::llm::{Message, Progress, Provider, Request};
use crate::mutant;
use crate::prices;
use crate::prompt;
use crate::query::{Filter, PageAsk};
use crate::record::{Letter, LetterStatus, Record, Seen, State};
use crate::task::{AgentName, Effect, Integration, TaskId};
use crate::time::Timestamp;
use crate::triage::{self, AgentFacts, Condition, Decided, DeciderKind, Decision, Facts, ModelStanding, Ruling};

/// How long after a start an agent counts as just restarted.
const YOUNG: Duration = Duration::from_secs(600);

/// What the CEO can be told.
pub(crate) enum CeoMessage {
    /// Something changed: look again.
    Kick,
}

/// The letters the adviser is thinking about, each with its round. Whoever asks holds it there, also when the CEO has died
/// meanwhile: the next one asks nothing beside it.
#[derive(Default)]
pub(crate) struct Asking(Mutex<BTreeSet<(TaskId, u32)>>);

impl Asking {
    /// How many answers are awaited.
    pub(crate) fn count(&self) -> usize {
        self.letters().len()
    }

    fn letters(&self) -> MutexGuard<'_, BTreeSet<(TaskId, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to the adviser; dropped, it is asked no more, and the CEO looks again.
struct Question {
    office: Arc<Office>,
    letter: (TaskId, u32),
}

impl Question {
    fn begin(office: &Arc<Office>, letter: (TaskId, u32)) -> Self {
        office.asking.letters().insert(letter);
        Self { office: Arc::clone(office), letter }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.office.asking.letters().remove(&self.letter);
        self.office.ceo.hint(CeoMessage::Kick);
    }
}

/// The CEO.
pub(crate) struct Ceo(pub(crate) Arc<Office>);

/// What it need not look at twice, and its timer.
#[derive(Default)]
pub(crate) struct Desk {
    /// Parked tasks that were looked at once: what could not be moved then waits for its bound.
    unmoved: BTreeSet<(TaskId, u32)>,
    retry: Option<AbortOnDropHandle<()>>,
}

impl Actor for Ceo {
    type Msg = CeoMessage;
    type State = Desk;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<CeoMessage>, (): ()) -> Result<Desk, ActorProcessingErr> {
        self.0.ceo.here(myself.clone());
        myself.cast(CeoMessage::Kick)?;
        Ok(Desk::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<CeoMessage>,
        message: CeoMessage,
        desk: &mut Desk,
    ) -> Result<(), ActorProcessingErr> {
        let CeoMessage::Kick = message;
        self.0.ceo.heard();
        match self.look(desk).await {
            Ok(()) | Err(engine::Error::Closed) => desk.retry = None,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the CEO could not use the store");
                let (clock, myself) = (self.0.clock.clone(), myself.clone());
                desk.retry = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    clock.sleep(Duration::from_secs(1)).await;
                    let _ = myself.cast(CeoMessage::Kick);
                })));
            }
        }
        Ok(())
    }
}

impl Ceo {
    async fn look(&self, desk: &mut Desk) -> Result<(), engine::Error> {
        if self.0.draining() {
            return Ok(());
        }
        self.move_parked(desk).await?;
        let filter = Filter { states: vec![State::Dead], status: vec![LetterStatus::Open], ..Filter::default() };
        let mut page = PageAsk { after: None, limit: 200, oldest_first: true };
        let letters = loop {
            let found = self.0.engine.dead_letters(filter.clone(), page.clone()).await?;
            // Where nothing of a page can be read, the next is looked at.
            if !found.items.is_empty() || found.next.is_none() {
                break found.items;
            }
            page.after = found.next;
        };
        for record in letters {
            // In this order: what was said is written down before it is asked no more.
            if self.0.asking.letters().contains(&(record.task.id, record.generation)) {
                continue;
            }
            let said = self.said_about(&record).await?;
            let ruling = readable(rule(&self.0, &record).await)?.unwrap_or_else(of_unreadable_journal);
            match (said, self.adviser(&ruling)) {
                (Some(fee), _) => self.follow(&record, ruling, fee).await?,
                (None, Some(adviser)) => self.ask(adviser, record, ruling).await?,
                (None, None) => decide(&self.0, &record, ruling, DeciderKind::Table).await?,
            }
        }
        Ok(())
    }

    /// What the adviser has said about this letter, perhaps to a CEO or a process that died before it was carried out.
    async fn said_about(&self, record: &Record) -> Result<Option<Fee>, engine::Error> {
        let fees = self.0.kept::<Fees>().await?;
        Ok(fees.iter().find_map(|stored| stored.value.said_about(record.task.id, record.generation)).cloned())
    }

    /// Carries out what was said, and forgets it then. Where it cannot be forgotten it goes with its fee.
    async fn follow(&self, record: &Record, ruling: Ruling, mut fee: Fee) -> Result<(), engine::Error> {
        if let Some(opinion) = fee.opinion.take() {
            self.advised(record, ruling, opinion).await?;
        }
        self.0.note_fee(fee).await
    }

    /// What waits for an integration that only a person can repair is moved to a fallback at once, not after the bound.
    async fn move_parked(&self, desk: &mut Desk) -> Result<(), engine::Error> {
        let now = self.0.now();
        for integration in self.0.guards.integrations() {
            let Stance::Held { why: Hold::IntegrationParked, .. } = self.0.guards.peek(integration, now) else {
                continue;
            };
            // A breaker opened by hand is somebody's doing, and their tasks wait for them.
            if self.0.guards.with(integration, |guard| guard.held_by_person()) == Some(true) {
                continue;
            }
            let filter =
                Filter { states: vec![State::Parked], integration: Some(integration.clone()), ..Filter::default() };
            // What somebody parked until a time waits for them.
            let waits = |record: &Record| record.parking.as_ref().is_none_or(|parking| parking.why != Hold::Paused);
            for record in self.0.every(filter).await?.into_iter().filter(waits) {
                let look = (record.task.id, record.generation);
                if !desk.unmoved.contains(&look)
                    && !move_on(&self.0, &record, &parked_too_long(&self.0, &record)).await?
                {
                    desk.unmoved.insert(look);
                }
            }
        }
        Ok(())
    }

    /// The adviser, if there is one, there is something to choose, and the money for it is not used up.
    fn adviser(&self, ruling: &Ruling) -> Option<AdviserConfig> {
        let adviser = self.0.config.ceo.adviser.clone().filter(|_| ruling.admissible.len() > 1)?;
        let spent = self.0.advice_of_the_hour();
        let held = matches!(self.0.guards.peek(&adviser.model.provider, self.0.now()), Stance::Held { .. });
        (spent < adviser.micro_usd_per_hour && !held).then_some(adviser)
    }

    async fn ask(&self, adviser: AdviserConfig, record: Record, ruling: Ruling) -> Result<(), engine::Error> {
        let brief = with_facts(&self.0, &record, |facts| brief(facts, &ruling)).await?;
        let question = self.0.redactor.redact(&self.question(&brief)).into_owned();
        let request = Request {
            model: adviser.model.model.clone(),
            system: self
                .0
                .config
                .agents
                .values()
                .find(|agent| agent.name.as_str() == "ceo")
                .map(|ceo| ceo.system_prompt.clone())
                .unwrap_or_default(),
            messages: vec![Message::user(question.clone())],
            tools: Vec::new(),
            max_output_tokens: adviser.max_output_tokens,
            schema: None,
        };
        // The worst it can cost is set aside before it is asked; an unknown price is taken as the whole hour's money.
        // A token has at least one byte, so there are no more of them than bytes.
        let usage =
            Usage { input: question.len() as u64, output: u64::from(adviser.max_output_tokens), ..Usage::default() };
        let worst = prices::price(usage, &self.0.facts(&adviser.model));
        let worst = worst.unwrap_or(adviser.micro_usd_per_hour);
        let (task, generation) = (record.task.id, record.generation);
        let reserved = match self.0.set_aside_for_advice(task, worst) {
            Ok(reserved) => reserved,
            Err(over) => return self.advised(&record, ruling, Opinion::Useless(over)).await,
        };
        let fee = Fee { at: self.0.now(), task, generation, micro_usd: worst, opinion: None };
        if let Err(error) = self.0.note_fee(fee.clone()).await {
            // Not sent, so not spent.
            reserved.settle(0);
            // What advice has cost cannot be read, now or later: the letter does not wait for it.
            if let engine::Error::DocumentConflict { .. } = error {
                let why = "what advice has cost so far cannot be read".to_owned();
                return self.advised(&record, ruling, Opinion::Useless(why)).await;
            }
            return Err(error);
        }
        let question = Question::begin(&self.0, (task, generation));
        tokio::spawn(async move {
            let office = &question.office;
            // An adviser that panics has given no usable advice; the letter must not wait for it for ever.
            let asked = AssertUnwindSafe(advice(office, &adviser, &request, &ruling)).catch_unwind().await;
            let (opinion, counted) = asked.unwrap_or_else(|_| (Opinion::Useless("it panicked".to_owned()), None));
            // What was set aside and is not known stays spent.
            let micro_usd = counted.unwrap_or(fee.micro_usd);
            if let Some(counted) = counted {
                reserved.settle(counted);
            }
            // Paid for: written down before anything else can happen to it, and as often as it takes.
            let said = Fee { micro_usd, opinion: Some(opinion), ..fee };
            if let Err(error) = office.insist(said.at + DAY, || office.note_fee(said.clone())).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "what the adviser said could not be stored");
            }
            drop(question);
        });
        Ok(())
    }

    /// What the adviser is asked: `prompts/triage.md`, or the bare facts if that does not render.
    fn question(&self, brief: &serde_json::Value) -> String {
        let args = serde_json::json!({ "letter": brief, "admissible": brief["choices"] });
        let template = self.0.config.prompts.get("triage");
        let rendered = template.map(|template| prompt::fill(template, &args, &self.0.config.team, self.0.now()));
        match rendered {
            Some(Ok(text)) => text,
            Some(Err(error)) => {
                tracing::error!(%error, "prompts/triage.md does not render; the adviser gets the bare facts");
                brief.to_string()
            }
            None => brief.to_string(),
        }
    }

    /// Decides as was said, as far as that is admissible still: the adviser may have spoken long ago, to another process.
    async fn advised(&self, record: &Record, mut ruling: Ruling, opinion: Opinion) -> Result<(), engine::Error> {
        let by = match opinion {
            Opinion::Chosen(decision) if is_admissible(&ruling, &decision) => {
                if !ledger::same(&ruling.decision, &decision) {
                    ruling
                        .reasons
                        .push(format!("the adviser chose it over the table's {}", triage::in_words(&ruling.decision)));
                }
                ruling.decision = decision;
                DeciderKind::Adviser
            }
            Opinion::Chosen(decision) => {
                let chosen = triage::in_words(&decision);
                ruling
                    .reasons
                    .push(format!("the adviser chose {chosen}, which will not do any more; the table decides"));
                DeciderKind::Table
            }
            Opinion::Useless(why) => {
                ruling.reasons.push(format!("the adviser gave no usable advice ({why}); the table decides"));
                DeciderKind::Table
            }
        };
        decide(&self.0, record, ruling, by).await
    }
}

fn is_admissible(ruling: &Ruling, decision: &Decision) -> bool {
    ruling.admissible.iter().any(|one| ledger::same(one, decision)) || mutant::on("adviser-unbounded")
}

/// Asks the adviser, within its time: what it says, and what that counts for, where that is known.
async fn advice(
    office: &Arc<Office>,
    adviser: &AdviserConfig,
    request: &Request,
    ruling: &Ruling,
) -> (Opinion, Option<u64>) {
    let (provider, lent) = match through_to(office, adviser).await {
        Ok(through) => through,
        Err(why) => return (Opinion::Useless(why), Some(0)),
    };
    let progress = Progress::default();
    let reply = tokio::select! {
        biased;
        reply = provider.ask(request, &progress) => reply,
        () = office.clock.sleep(adviser.within) => {
            return (Opinion::Useless("it did not answer in time".to_owned()), None);
        }
    };
    match reply {
        Ok(reply) => {
            // What is not told is taken for the most it can have been: a token has at least one byte.
            let read = request.system.len() + request.messages.iter().map(Message::bytes).sum::<usize>();
            let most = Usage { input: read as u64, output: u64::from(request.max_output_tokens), ..Usage::default() };
            let usage = if reply.usage.is_told() { reply.usage } else { most };
            let counted = office.counted(&adviser.model, usage, None);
            lent.report(Report::Healthy).await;
            let opinion = match parse_advice(&reply.text, &ruling.admissible) {
                Ok(advice) => Opinion::Chosen(advice.decision),
                Err(error) => Opinion::Useless(error.to_string()),
            };
            (opinion, Some(counted))
        }
        Err(failure) => {
            let known = !cost_unknown(&failure);
            let counted = known.then(|| office.counted(&adviser.model, failure.usage, None));
            let why = format!("{} while {}", failure.fault, failure.phase);
            match classify(&Cause::Llm(failure), &Scene::new(Effect::ReadOnly, office.now())) {
                Judgement::Failed(failure) => lent.report(Report::Failed(&failure)).await,
                Judgement::Cancelled | Judgement::Continue => lent.report(Report::Dropped).await,
            }
            (Opinion::Useless(why), counted)
        }
    }
}

/// The way to the adviser, or why there is none.
async fn through_to(office: &Arc<Office>, adviser: &AdviserConfig) -> Result<(Arc<dyn Provider>, Lent), String> {
    let name = &adviser.model.provider;
    let provider = office.providers.get(name).cloned().ok_or_else(|| format!("no provider {name} is configured"))?;
    let asker = AgentName::new("ceo").map_err(|error| error.to_string())?;
    match office.admit(name, &asker).await {
        Some(Admitted::Through(lent)) => Ok((provider, lent)),
        Some(Admitted::Held { why, .. }) => Err(format!("its integration is held ({why})")),
        None => Err("its integration has no guard".to_owned()),
    }
}

/// How an agent is, in the CEO's words.
fn condition(seat: &Seat, now: Timestamp) -> Condition {
    let view = seat.view();
    match view.condition {
        AgentState::Healthy | AgentState::Busy => match view.died_at {
            Some(died_at) if now.since(died_at) < YOUNG => Condition::Restarted,
            Some(_) | None => Condition::Up,
        },
        AgentState::Restarting => Condition::Restarting,
        AgentState::CrashLoop => Condition::CrashLoop,
        AgentState::Wedged => Condition::Wedged,
        AgentState::Draining => Condition::Draining,
    }
}

/// Gathers what a decision is made of.
async fn with_facts<T>(
    office: &Office,
    record: &Record,
    look: impl FnOnce(&Facts<'_>) -> T,
) -> Result<T, engine::Error> {
    let now = office.now();
    let mut load: BTreeMap<_, u64> = BTreeMap::new();
    for depth in office.engine.depths().await? {
        match depth.state {
            State::Ready | State::Scheduled | State::Parked | State::Running => {
                *load.entry(depth.agent).or_default() += depth.tasks
            }
            State::Done | State::Dead | State::WaitingHuman | State::Cancelled => {}
        }
    }
    let agents: Vec<AgentFacts<'_>> = office
        .seats
        .values()
        .map(|seat| AgentFacts {
            agent: &seat.agent,
            condition: condition(seat, now),
            load: load.get(&seat.agent.name).copied().unwrap_or(0),
        })
        .collect();
    let mut models: BTreeMap<ModelRef, ModelStanding> = BTreeMap::new();
    for agent in office.config.agents.values() {
        for model in std::iter::once(&agent.model).chain(&agent.fallback_models) {
            let held = !office.providers.contains_key(&model.provider)
                || matches!(office.guards.peek(&model.provider, now), Stance::Held { .. });
            let context = office.facts(model).context;
            models.insert(model.clone(), ModelStanding { held, context });
        }
    }
    let systemic = super::escalate::systemic(office).await?;
    let steps = office.engine.steps(record.task.id).await?;
    let servers: BTreeSet<Integration> = office.tools.keys().cloned().collect();
    Ok(look(&Facts { record, steps: &steps, agents: &agents, models: &models, servers: &servers, systemic, now }))
}

async fn rule(office: &Office, record: &Record) -> Result<Ruling, engine::Error> {
    Ok(clean(office, with_facts(office, record, triage::decide).await?))
}

/// What was done nobody knows, so no rule may send it again.
fn of_unreadable_journal() -> Ruling {
    let decision = Decision::PageHuman { why: "its journal cannot be read".to_owned() };
    let reasons = vec!["what was done, and what was paid, stands in its journal".to_owned()];
    Ruling { admissible: vec![decision.clone()], decision, reasons, rejected: Vec::new() }
}

/// A ruling quotes what models and tools said: without the secrets of this process, which only the office knows.
fn clean(office: &Office, ruling: Ruling) -> Ruling {
    let text = |text: String| office.redactor.redact(&text).into_owned();
    let decision = |decision: Decision| match decision {
        Decision::Reassign { agent, amendment } => Decision::Reassign { agent, amendment: text(amendment) },
        Decision::PageHuman { why } => Decision::PageHuman { why: text(why) },
        Decision::Park { until, why } => Decision::Park { until, why: text(why) },
        // These hold no words of others.
        decision @ (Decision::RetryOnFallback { .. }
        | Decision::RetryAfterCheck { .. }
        | Decision::Discard { .. }
        | Decision::Resolve { .. }
        | Decision::RunAgain { .. }) => decision,
    };
    Ruling {
        decision: decision(ruling.decision),
        reasons: ruling.reasons.into_iter().map(text).collect(),
        rejected: ruling.rejected,
        admissible: ruling.admissible.into_iter().map(decision).collect(),
    }
}

/// Writes a decision and its effect, as one command.
async fn decide(office: &Office, record: &Record, ruling: Ruling, by: DeciderKind) -> Result<(), engine::Error> {
    let kind = ruling.decision.kind();
    let person = Decision::PageHuman { why: "the ledger refused what the table chose".to_owned() };
    match order(office, record, ruling.clone(), by).await {
        Err(engine::Error::Refused(refused)) => {
            // The table and the ledger agree on what is allowed; if they ever should not, a person is the safe side.
            tracing::error!(task = %record.task.id, decision = %kind, %refused, "the ledger refused a decision");
            let ruling = Ruling { decision: person, reasons: vec![format!("{kind} was refused: {refused}")], ..ruling };
            match order(office, record, ruling, DeciderKind::Table).await {
                // Somebody else decided meanwhile.
                Err(engine::Error::Refused(_)) => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

async fn order(office: &Office, record: &Record, ruling: Ruling, by: DeciderKind) -> Result<(), engine::Error> {
    let integration = office.integration_after(record, &ruling.decision);
    tracing::info!(task = %record.task.id, decision = %ruling.decision.kind(), by = %by, "the CEO decided");
    let decided = Decided {
        number: 0,
        generation: record.generation,
        decision: ruling.decision,
        by,
        who: None,
        at: office.now(),
        reasons: ruling.reasons,
        rejected: ruling.rejected,
    };
    let command = Command::Decide { decided, seen: Some(Seen::of(record)), integration };
    office.engine.command(record.task.id, command, office.now()).await?;
    office.kick();
    Ok(())
}

/// A task that waits, and should not wait any longer: moved to another model or agent if the table knows one; then it
/// never died, and nobody is woken. Answers whether it was moved.
pub(crate) async fn move_on(office: &Arc<Office>, record: &Record, cause: &Cause) -> Result<bool, engine::Error> {
    let scene = Scene::new(record.task.effect, office.now());
    let Judgement::Failed(failure) = classify(cause, &scene) else { return Ok(false) };
    let mut asked = record.clone();
    asked.letter = Some(Letter {
        status: LetterStatus::Open,
        at: office.now(),
        first_at: office.now(),
        generation: record.generation,
        deliveries: record.attempt,
        why: failure.message.clone(),
        failure,
        circumstances: office.circumstances(&office.policy_of(record)),
    });
    let Some(ruling) = readable(rule(office, &asked).await)? else { return Ok(false) };
    match ruling.decision {
        Decision::RetryOnFallback { .. } | Decision::Reassign { .. } => {
            match order(office, record, ruling, DeciderKind::Table).await {
                // Somebody was faster: it is where they put it, and no business of this look any more.
                Ok(())
                | Err(engine::Error::Refused(
                    Refused::OtherRound { .. } | Refused::WrongState { .. } | Refused::Changed,
                )) => Ok(true),
                Err(engine::Error::Refused(_)) => Ok(false),
                Err(error) => Err(error),
            }
        }
        Decision::RetryAfterCheck { .. }
        | Decision::Park { .. }
        | Decision::Discard { .. }
        | Decision::PageHuman { .. }
        | Decision::Resolve { .. }
        | Decision::RunAgain { .. } => Ok(false),
    }
}

fn parked_too_long(office: &Office, record: &Record) -> Cause {
    let waited = office.waited_at_holds(record, office.now());
    Cause::ParkedTooLong { integration: record.integration.clone(), waited }
}

/// What was parked as long as its policy allows: moved on, or else given up.
pub(crate) async fn move_or_bury(office: &Arc<Office>, record: &Record, why: Hold) -> Result<(), engine::Error> {
    let cause = parked_too_long(office, record);
    if move_on(office, record, &cause).await? {
        return Ok(());
    }
    let Judgement::Failed(failure) = classify(&cause, &Scene::new(record.task.effect, office.now())) else {
        return Ok(());
    };
    let policy = office.policy_of(record);
    // What may not wait at all dies of what it was told, not of waiting.
    let told = record.round().last().filter(|last| last.end == Some(AttemptEnd::Released));
    let told = told.and_then(|last| last.failure.clone()).filter(|_| policy.policy.park_at_most.is_zero());
    let failure = told.filter(|told| told.integration.as_ref() == Some(&record.integration)).unwrap_or(failure);
    let waited = office.waited_at_holds(record, office.now());
    let circumstances = office.circumstances(&policy);
    let why = format!("parked for {} ({why})", crate::time::format_duration(waited));
    let give_up = Command::GiveUp { seen: Seen::of(record), failure, why, circumstances };
    match office.engine.command(record.task.id, give_up, office.now()).await {
        Ok(_) | Err(engine::Error::Refused(_)) => {
            office.kick();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
