//! The work of one delivery: models asked and tools called, step by step, from where the journal says it stands.
//!
//! Each step is durable before it is sent and again when its outcome is known. What is known and not yet written waits
//! in [`Work::unwritten`], which outlives the loop: whoever halts it writes that too.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::guards::{Admitted, Lent};
use super::office::Office;
use super::purse::Reserved;
use super::seat::Seat;
use super::toolbox::{self, Toolbox};
use crate::agent::ModelRef;
use crate::answer;
use crate::budget;
use crate::cause::{Cause, Fault, LlmFailure, OutputFault, Phase, Usage, Violation};
use crate::conversation::{self, Message, call_id};
use crate::delivery::{Hold, Spent};
use crate::engine;
use crate::event::Happening;
use crate::failure::{Class, Failure, Kind};
use crate::guard::Report;
use crate::journal::{self, Ask, Entry, Intent, Line, Outcome, Purpose, Replied, Step};
use crate::judgement::{self, Judgement, Scene, classify};
use crate::llm::{Progress, Reply, Request};
use crate::mutant;
use crate::prices;
use crate::prompt;
use crate::record::Record;
use crate::stand::{self, Found, Next, Stand};
use crate::stuck;
use crate::task::{Effect, Integration, hex};
use crate::time::{Timestamp, format_duration};

/// How the world's part of an attempt ended.
#[derive(Debug)]
pub(crate) enum Tried {
    /// There is an answer, to be accepted or not.
    Answered {
        /// The step that gave it.
        ask: u32,
        /// The answer, or what is wrong with it.
        answer: Result<serde_json::Value, OutputFault>,
    },
    /// It went wrong.
    Failed(Cause),
    /// An earlier delivery of this round went wrong for good, and could not settle.
    Known(Box<Failure>),
    /// Not let through, or stopped by ourselves: given back uncounted.
    Held {
        /// Why.
        why: Hold,
        /// When to look again.
        until: Timestamp,
        /// Who holds it.
        integration: Option<Integration>,
    },
    /// The lease is lost, or the task was cancelled: nobody waits for a settlement.
    Abandoned,
}

/// One delivery being worked on.
pub(crate) struct Work {
    pub(crate) office: Arc<Office>,
    pub(crate) seat: Arc<Seat>,
    pub(crate) record: Arc<Record>,
    /// The journal as far as it is known, what is unwritten included.
    pub(crate) steps: Vec<Step>,
    /// What is known and not yet durable.
    pub(crate) unwritten: Vec<Line>,
    /// The model asked last, in this delivery.
    pub(crate) model: Option<ModelRef>,
    /// The beginning of what a model said before it broke.
    pub(crate) excerpt: Option<String>,
    /// The system prompt of this delivery: rendered once, so that a clock in it does not make every call another one.
    system: Option<String>,
    /// Of answers in this delivery whose providers told no usage: their steps, and about how many tokens these used.
    untold: Vec<(u32, u64)>,
    /// Since when nothing new is known, in Unix milliseconds.
    pub(crate) progress: Arc<AtomicI64>,
    /// Was the first thing this delivery does begun?
    begun: bool,
    /// Was the call that failed last a probe of an open breaker?
    pub(super) probe: bool,
}

/// How often a call that runs says so at its integration's guard.
const BEAT: Duration = Duration::from_secs(30);
/// How long a retry that its budget held waits at least until it is looked at again.
const LOOK_AT_BUDGET: Duration = Duration::from_secs(1);
/// What a model is taken to hold when nobody says: what the smallest of the large vendors' current models do.
const CONTEXT_UNKNOWN: u64 = 200_000;

impl Work {
    pub(crate) fn new(office: Arc<Office>, seat: Arc<Seat>, record: Arc<Record>, steps: Vec<Step>) -> Self {
        let progress = Arc::new(AtomicI64::new(office.now().millis()));
        Self {
            office,
            seat,
            record,
            steps,
            unwritten: Vec::new(),
            model: None,
            excerpt: None,
            system: None,
            untold: Vec::new(),
            progress,
            begun: false,
            probe: false,
        }
    }

    /// Goes on from where the journal says it stands, until there is an answer or something stands against it.
    pub(crate) async fn go(&mut self) -> Tried {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(ended) => {
                    self.office.guards.came(self.record.task.id, self.record.fence);
                    return ended;
                }
            }
        }
    }

    /// One turn: an answer, a round of tools, or the model asked once.
    async fn step(&mut self) -> Result<(), Tried> {
        if self.record.task.deadline.is_some_and(|deadline| deadline <= self.office.now()) {
            return Err(Tried::Failed(Cause::DeadlinePassed));
        }
        let stand = stand::stand(&self.steps, self.record.fence);
        if let Next::Answer { ask, text } = stand.next {
            let answer = self.accepted(&text).await?;
            return Err(Tried::Answered { ask, answer });
        }
        // What waits for a guard, or for us to go, is given back between two steps, never within one.
        if self.begun && self.office.draining() {
            return Err(Tried::Held { why: Hold::Drain, until: self.office.now(), integration: None });
        }
        let toolbox = self.toolbox().await?;
        match &stand.next {
            // Boxed: most deliveries have no tools, and none should carry the room for them.
            Next::Act { ask, calls } => Box::pin(self.act(*ask, calls.clone(), &toolbox)).await,
            Next::Begin | Next::Ask { .. } | Next::Answer { .. } => self.ask(stand, &toolbox).await,
        }
    }

    /// Whether an answer is accepted: by its schema, then by its verification.
    async fn accepted(&mut self, text: &str) -> Result<Result<serde_json::Value, OutputFault>, Tried> {
        let validator = self.office.schema_of(&self.record).and_then(|schema| self.office.validators.of(schema));
        // To the letter, where the journal has it; else as far as the dead letter goes.
        let refused = self.steps.iter().rev().find(|step| step.refused.is_some()).and_then(Step::reply);
        let before = refused.map(|reply| reply.text.as_str());
        let before = before.or_else(|| last_fault(&self.record).map(|fault| fault.excerpt.as_str()));
        match answer::validate(text, validator.as_deref(), before) {
            Ok(answer) => Ok(Box::pin(self.verified(&answer, text)).await?.map_or(Ok(answer), Err)),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// The tools its agent may use now. Where a server takes its time to say, what was paid for is written first.
    async fn toolbox(&mut self) -> Result<Toolbox, Tried> {
        if self.seat.agent.tools.is_empty() {
            return Ok(Toolbox::default());
        }
        let (office, seat) = (Arc::clone(&self.office), Arc::clone(&self.seat));
        let mut listing = std::pin::pin!(toolbox::of(&office, &seat.agent));
        let listed = match futures_util::poll!(listing.as_mut()) {
            Poll::Ready(listed) => listed,
            Poll::Pending => {
                self.write(Vec::new(), Vec::new()).await?;
                listing.await
            }
        };
        match listed {
            Ok(toolbox) => Ok(toolbox),
            Err(failure) => {
                let server = failure.tool.server.clone();
                let lent = self.admit(&server).await?;
                let cause = Cause::Tool(failure);
                self.failed(lent, &self.judged(&cause)).await;
                Err(Tried::Failed(cause))
            }
        }
    }

    /// Asks to be let through to an integration.
    pub(super) async fn admit(&mut self, integration: &Integration) -> Result<Lent, Tried> {
        let admission = self.office.admit(integration, &self.record.agent).await;
        self.office.guards.came(self.record.task.id, self.record.fence);
        match admission {
            Some(Admitted::Through(lent)) => {
                self.probe = false;
                Ok(lent)
            }
            Some(Admitted::Held { why, until }) => {
                Err(Tried::Held { why, until, integration: Some(integration.clone()) })
            }
            None => Err(Tried::Failed(Cause::Unknown { detail: format!("{integration} has no guard") })),
        }
    }

    /// A call that was let through failed: its guard is told, and whoever settles the delivery what kind of call it was.
    pub(super) async fn failed(&mut self, lent: Lent, failure: &Failure) {
        self.probe = lent.is_of_breaker();
        lent.report(Report::Failed(failure)).await;
    }

    async fn ask(&mut self, stand: Stand, toolbox: &Toolbox) -> Result<(), Tried> {
        self.found_out()?;
        self.within_limits()?;
        let Some(model) = self.office.model_of(&self.record).cloned() else {
            return Err(Tried::Failed(Cause::NoAgent { wanted: self.record.agent.to_string() }));
        };
        let Composed { request, ask, events } = self.compose(&stand, &model, toolbox)?;
        let step = self.put(ask, &model, &request, events).await?;
        self.said_too_often(step)
    }

    /// Whether it is known already that asking cannot help.
    fn found_out(&self) -> Result<(), Tried> {
        match stand::found_out(&self.steps, self.record.generation, self.record.fence) {
            Some(Found::Failed(failure)) => Err(Tried::Known(Box::new(failure.clone()))),
            Some(Found::Circles(evidence)) => Err(Tried::Failed(Cause::Loop { evidence })),
            None => Ok(()),
        }
    }

    /// Puts a request to a model, as a step of the journal; the number of the step, which has an answer.
    pub(super) async fn put(
        &mut self,
        ask: Ask,
        model: &ModelRef,
        request: &Request,
        events: Vec<Happening>,
    ) -> Result<u32, Tried> {
        let Some(provider) = self.office.providers.get(&model.provider).cloned() else {
            let detail = format!("no provider `{}` is configured for model {model}", model.provider);
            return Err(Tried::Failed(Cause::Unknown { detail }));
        };
        let lent = self.admit(&model.provider).await?;
        self.take_owed_retry()?;
        let reserved = self.office.reserve(&self.record, model, request, &self.steps);
        let reserved = reserved.map_err(|evidence| Tried::Failed(Cause::Budget { evidence }))?;
        let step = match self.intend(Intent::Ask(Box::new(ask)), reserved.worst(), events).await {
            Ok(step) => step,
            Err(tried) => {
                // Not sent, so not spent.
                reserved.settle(0);
                return Err(tried);
            }
        };
        // A try that did not count is no first one the next time: failures would fill the budget that holds them back.
        if !self.begun && self.record.round().count() <= 1 {
            let now = self.office.now();
            self.office.guards.with_budget(&model.provider, |budget| budget.deposit(now));
        }
        self.begun = true;
        self.model = Some(model.clone());
        let progress = Progress::default();
        let patience = self.office.config.call_takes(&model.provider);
        if patience > self.office.limits(&self.record).stall {
            // It may take so long, by the files or because it is made in code: a stall is counted from its end.
            self.quiet_for(patience);
        }
        let asked = tokio::select! {
            biased;
            result = provider.ask(request, &progress) => result,
            () = beat(&self.office, &lent) => Err(Box::new(self.hung(model, patience))),
            () = tokio::time::sleep(patience) => Err(Box::new(self.hung(model, patience))),
        };
        self.progressed();
        match asked {
            Ok(reply) => {
                let counted = self.replied(step, model, reply, &reserved);
                reserved.settle(counted);
                lent.report(Report::Healthy).await;
                Ok(step)
            }
            Err(failure) => {
                let usage = failure.usage;
                let micro_usd = self.price(model, usage).filter(|_| !judgement::usage_untold(&failure));
                if !failure.partial.is_empty() {
                    let partial: String = failure.partial.chars().take(4096).collect();
                    self.excerpt = Some(self.office.redactor.redact(&partial).into_owned());
                }
                // What was sent and not answered may have been answered, and billed, all the same.
                let unknown = judgement::cost_unknown(&failure);
                let cause = Cause::Llm(failure);
                let judgement = classify(&cause, &self.scene());
                let judged = self.judged(&cause);
                let counted = if unknown { reserved.worst() } else { self.office.counted(model, usage, micro_usd) };
                self.conclude(step, Outcome::Failed { failure: judged.clone(), usage, micro_usd }, counted);
                reserved.settle(counted);
                match judgement {
                    Judgement::Failed(_) => self.failed(lent, &judged).await,
                    Judgement::Cancelled | Judgement::Continue => lent.report(Report::Dropped).await,
                }
                Err(Tried::Failed(cause))
            }
        }
    }

    /// A retry that the budget of its integration held is taken out of it by the call it is made with: once, however often it
    /// was held. Where there is none it waits on, if it can look again before its patience or its deadline ends; else it is
    /// made, and counted, all the same: nobody dies of a budget of ours.
    fn take_owed_retry(&self) -> Result<(), Tried> {
        let (office, record) = (&self.office, &self.record);
        if self.begun || !record.owes_retry() {
            return Ok(());
        }
        let (now, policy) = (office.now(), office.retry_of(record));
        let roll = office.dice.roll("retry-budget", &record.task.id.to_string(), record.fence);
        let wait = policy.delay(record.attempt, record.backed_off(), roll).map(|wait| wait.max(LOOK_AT_BUDGET));
        let in_time = |wait: &Duration| {
            office.waited_at_holds(record, now) + *wait < policy.park_at_most
                && record.task.deadline.is_none_or(|deadline| now + *wait < deadline)
        };
        let wait = wait.filter(in_time);
        let taken = office.guards.with_budget(&record.integration, |budget| budget.take(wait.is_none(), now));
        match wait {
            Some(wait) if taken == Some(false) => {
                let integration = Some(record.integration.clone());
                Err(Tried::Held { why: Hold::RetryBudget, until: now + wait, integration })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Keeps a model's answer: what it counts for.
    fn replied(&mut self, step: u32, model: &ModelRef, reply: Reply, reserved: &Reserved) -> u64 {
        // Where no usage is told it is not nothing: nobody knows what it is, so it is taken for the most it can be.
        let told = reply.usage.is_told();
        let micro_usd = self.price(model, reply.usage).filter(|_| told);
        let counted = if told { self.office.counted(model, reply.usage, micro_usd) } else { reserved.worst() };
        if !told {
            self.untold.push((step, reserved.read_about() + budget::about(reply.text.len() as u64)));
        }
        let mut calls = reply.calls;
        for (index, call) in calls.iter_mut().enumerate() {
            call.id = call_id(step, index);
        }
        let replied = Replied {
            text: reply.text,
            calls,
            opaque: reply.opaque,
            model: reply.model,
            stop: reply.stop,
            request_id: reply.request_id,
            usage: reply.usage,
            micro_usd,
        };
        self.conclude(step, Outcome::Replied(Box::new(replied)), counted);
        counted
    }

    /// A model that says the same phrase over and over will not stop by being asked again.
    /// The answer is refused, so that nobody who takes the task up again takes it for a result.
    fn said_too_often(&mut self, step: u32) -> Result<(), Tried> {
        let known = self.steps.iter().find(|known| known.number == step);
        let Some(chant) = known.and_then(Step::reply).and_then(|reply| stuck::chant(&reply.text)) else {
            return Ok(());
        };
        let evidence = chant.evidence();
        self.unwritten.push(Line::Refuse { step, why: evidence.clone() });
        Err(Tried::Failed(Cause::Loop { evidence }))
    }

    /// Steps, circles and speed: what shows that more asking only burns money.
    fn within_limits(&self) -> Result<(), Tried> {
        let limits = self.office.limits(&self.record);
        let generation = self.record.generation;
        let wanted = journal::wanted(&self.steps, generation);
        let wanted: Vec<stuck::Step<'_>> =
            wanted.iter().map(|(name, arguments)| (name.as_str(), arguments.as_str())).collect();
        let made = u64::from(journal::asked(&self.steps, generation, Purpose::Work));
        let minute_ago = Timestamp::from_millis(self.office.now().millis() - 60_000);
        let recent = self.steps.iter().filter(|step| step.ended_at.is_some_and(|at| at > minute_ago));
        let untold =
            |step: &Step| self.untold.iter().find(|(number, _)| *number == step.number).map(|(_, about)| *about);
        let tokens: u64 = recent.map(|step| untold(step).unwrap_or_else(|| step.usage().total())).sum();
        let stuck = stuck::circle(&wanted)
            .or_else(|| stuck::out_of_steps(made, limits.asks.unwrap_or(u64::MAX)))
            .or_else(|| stuck::too_fast(tokens, limits.tokens_per_minute));
        stuck.map_or(Ok(()), |stuck| Err(Tried::Failed(Cause::Loop { evidence: stuck.evidence() })))
    }

    /// What is sent, and what of it is new.
    fn compose(&mut self, stand: &Stand, model: &ModelRef, toolbox: &Toolbox) -> Result<Composed, Tried> {
        let input = |message: String| {
            Tried::Failed(Cause::Input { violations: vec![Violation { path: String::new(), message }] })
        };
        let office = Arc::clone(&self.office);
        let record = &self.record;
        let template = office.prompt_of(record).ok_or_else(|| input("its prompt is not defined".to_owned()))?;
        let schema = office.schema_of(record);
        let scene = prompt::Scene {
            team: &office.config.team,
            agent: &self.seat.agent,
            task: &record.task,
            attempt: record.attempt,
            max_deliveries: office.retry_of(record).max_deliveries,
            fault: last_fault(record),
            amendments: &record.amendments,
            schema,
            prompts: &office.config.prompts,
            now: office.now(),
        };
        let rendered = office.prompted.render(template, &scene).map_err(|error| input(error.to_string()))?;
        let known = usize::try_from(stand.amended).unwrap_or(usize::MAX).min(record.amendments.len());
        let said: Vec<Message> = match &stand.next {
            Next::Begin => vec![Message::user(rendered.user)],
            Next::Ask { refused: Some(_) } if mutant::on("no-correction") => {
                vec![Message::user("Once more.".to_owned())]
            }
            Next::Ask { refused } => {
                let added = &record.amendments[known..];
                let follow_up = prompt::follow_up(&scene, refused.as_deref(), added);
                follow_up.map_err(|error| input(error.to_string()))?.map(Message::user).into_iter().collect()
            }
            Next::Act { .. } | Next::Answer { .. } => Vec::new(),
        };
        let fresh = matches!(stand.next, Next::Begin);
        let system = self.system.get_or_insert(rendered.system).clone();
        let mut messages: Vec<Message> = if fresh { Vec::new() } else { stand.messages_for(model) };
        messages.extend(said.iter().cloned());
        let mut request = Request {
            model: model.model.clone(),
            system,
            messages,
            tools: toolbox.specs(),
            max_output_tokens: self.seat.agent.max_output_tokens,
            schema: schema.cloned(),
        };
        let mut events = Vec::new();
        if !self.begun && !fresh {
            events.push(self.resumed(stand, model));
        }
        let compaction = self.compact(&mut request, model);
        events.extend(compaction.map(|compaction| Happening::Compacted {
            agent: record.agent.clone(),
            task_type: record.task.task_type.clone(),
            model: model.clone(),
            results: compaction.results,
            before: compaction.before,
            after: compaction.after,
        }));
        let changed = fresh || stand.system.as_ref() != Some(&request.system);
        let ask = Ask {
            model: model.clone(),
            purpose: Purpose::Work,
            hash: hash(&request),
            fresh,
            system: changed.then(|| request.system.clone()),
            said,
            amended: u32::try_from(record.amendments.len()).unwrap_or(u32::MAX),
            compaction,
        };
        Ok(Composed { request, ask, events })
    }

    /// Shortens the conversation by rule when it would not fit the model, or did not fit the time before.
    fn compact(&self, request: &mut Request, model: &ModelRef) -> Option<conversation::Compaction> {
        let context = self.office.facts(model).context.unwrap_or(CONTEXT_UNKNOWN);
        let for_input = context.saturating_sub(u64::from(request.max_output_tokens)).max(context / 4);
        let around =
            request.system.len() + request.tools.iter().map(|tool| tool.schema.to_string().len()).sum::<usize>();
        let fits = usize::try_from(for_input * budget::BYTES_PER_TOKEN).unwrap_or(usize::MAX).saturating_sub(around);
        let refused =
            self.steps.iter().rev().find(|step| step.ask().is_some()).is_some_and(|step| match &step.outcome {
                Some(Outcome::Failed { failure, .. }) => {
                    matches!(failure.kind, Kind::ContextTooLong | Kind::RequestTooLarge)
                }
                Some(
                    Outcome::Replied(_) | Outcome::Returned { .. } | Outcome::Unknown { .. } | Outcome::Judged { .. },
                )
                | None => false,
            });
        let bytes: usize = request.messages.iter().map(Message::bytes).sum();
        let limit = if refused { fits.min(bytes / 2) } else { fits };
        let reads = |step: &Step| {
            let call = step.call().filter(|call| call.class.effect == Effect::ReadOnly)?;
            Some(call_id(call.ask, call.index as usize))
        };
        conversation::compact(&mut request.messages, limit, &self.steps.iter().filter_map(reads).collect())
    }

    fn resumed(&self, stand: &Stand, model: &ModelRef) -> Happening {
        let kept = journal::tally(self.steps.iter().filter(|step| step.reply().is_some() && !step.late));
        Happening::Resumed {
            agent: self.record.agent.clone(),
            task_type: self.record.task.task_type.clone(),
            model: model.clone(),
            steps: stand.steps,
            usage: stand.kept,
            micro_usd: (kept.unpriced == 0).then_some(kept.micro_usd),
        }
    }

    /// Something new is known.
    pub(super) fn progressed(&self) {
        self.progress.store(self.office.now().millis(), Ordering::Relaxed);
    }

    /// Nothing new need become known for so long; of several that are out at once the longest counts.
    pub(super) fn quiet_for(&self, span: Duration) {
        self.progress.fetch_max((self.office.now() + span).millis(), Ordering::Relaxed);
    }

    /// Writes an intent, and with it whatever is unwritten; the number of the new step.
    pub(super) async fn intend(&mut self, intent: Intent, worst: u64, events: Vec<Happening>) -> Result<u32, Tried> {
        self.write(vec![Line::Intend { intent, worst }], events).await?;
        Ok(self.steps.last().map_or(0, |step| step.number))
    }

    /// Notes what came of a step; it is durable with the next entry.
    pub(super) fn conclude(&mut self, number: u32, outcome: Outcome, counted: u64) {
        let now = self.office.now();
        if let Some(step) = self.steps.iter_mut().find(|step| step.number == number) {
            step.outcome = Some(outcome.clone());
            step.ended_at = Some(now);
            step.counted = counted;
        }
        self.unwritten.push(Line::Conclude { step: number, outcome, counted });
    }

    /// Makes these lines durable, and before them whatever is unwritten.
    pub(super) async fn write(&mut self, lines: Vec<Line>, events: Vec<Happening>) -> Result<(), Tried> {
        let mut all = self.unwritten.clone();
        all.extend(lines);
        if all.is_empty() && events.is_empty() {
            return Ok(());
        }
        let entry = Entry { fence: self.record.fence, lines: all, events, command: None };
        let (office, id) = (Arc::clone(&self.office), self.record.task.id);
        let until = office.now() + office.retry_of(&self.record).ack_wait;
        // On its own: an agent that dies now must not take with it what is known.
        let writing =
            async move { office.insist(until, || office.engine.journal(id, entry.clone(), office.now())).await };
        match tokio::spawn(writing.in_current_span()).await {
            Ok(Ok(written)) => {
                self.unwritten.clear();
                self.keep(written.steps);
                Ok(())
            }
            Ok(Err(engine::Error::Refused(refused))) => {
                tracing::info!(%refused, "the delivery is not this agent's any more");
                Err(Tried::Abandoned)
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the journal could not be written");
                Err(Tried::Failed(error.to_cause()))
            }
            // What writes it broke, and not the disk.
            Err(error) => Err(Tried::Failed(Cause::Storage { detail: error.to_string(), full: false })),
        }
    }

    fn keep(&mut self, steps: Vec<Step>) {
        for step in steps {
            match self.steps.iter_mut().find(|known| known.number == step.number) {
                Some(known) => *known = step,
                None => self.steps.push(step),
            }
        }
    }

    /// What this delivery used, as far as it is known.
    pub(crate) fn spent(&self) -> Spent {
        let tally = journal::tally(self.steps.iter().filter(|step| step.fence == self.record.fence));
        let priced = tally.unpriced == 0 && (tally.usage != Usage::default() || self.priced_model());
        Spent {
            model: self.model.clone(),
            usage: tally.usage,
            micro_usd: priced.then_some(tally.micro_usd),
            excerpt: self.excerpt.clone(),
            cause: None,
        }
    }

    fn priced_model(&self) -> bool {
        self.model.as_ref().is_some_and(|model| self.price(model, Usage::default()).is_some())
    }

    fn price(&self, model: &ModelRef, usage: Usage) -> Option<u64> {
        prices::price(usage, &self.office.facts(model))
    }

    pub(super) fn scene(&self) -> Scene {
        scene(&self.office, &self.record)
    }

    /// The judgement on a cause. What the other side ended without an answer counts like any answer that is none.
    pub(super) fn judged(&self, cause: &Cause) -> Failure {
        judged(&self.office, &self.record, cause)
    }

    /// A provider that neither answers nor fails: our own timer ends the wait.
    fn hung(&self, model: &ModelRef, patience: Duration) -> LlmFailure {
        LlmFailure {
            integration: model.provider.clone(),
            provider: model.provider.to_string(),
            model: model.model.clone(),
            phase: Phase::Headers,
            fault: Fault::Timeout,
            status: None,
            headers: Vec::new(),
            body: String::new(),
            code: None,
            stop: None,
            request_id: None,
            partial: String::new(),
            usage: Usage::default(),
            sent: true,
            self_hosted: false,
            at: self.office.now(),
            elapsed: patience,
            detail: format!("total timeout: no answer for {}", format_duration(patience)),
        }
    }
}

/// A request, and what the journal says of it.
struct Composed {
    request: Request,
    ask: Ask,
    events: Vec<Happening>,
}

/// Keeps a call's place at its guard for as long as it runs; never ends by itself.
pub(super) async fn beat(office: &Office, lent: &Lent) {
    loop {
        office.clock.sleep(BEAT).await;
        lent.renew();
    }
}

pub(super) fn hash(request: &Request) -> String {
    let text = serde_json::to_string(request).unwrap_or_default();
    hex(&Sha256::digest(text.as_bytes()))
}

/// What was wrong with the last answer, if that is why this delivery is made.
pub(crate) fn last_fault(record: &Record) -> Option<&OutputFault> {
    let before = record.attempts.iter().rev().find(|attempt| attempt.end.is_some())?;
    match before.spent.cause.as_deref() {
        Some(Cause::Output(fault)) => Some(fault),
        Some(_) | None => None,
    }
}

pub(crate) fn scene(office: &Office, record: &Record) -> Scene {
    let unknown_before =
        record.round().any(|attempt| attempt.failure.as_ref().is_some_and(|failure| failure.kind == Kind::Unknown));
    Scene { unknown_before, ..Scene::new(record.task.effect, office.now()) }
}

/// The judgement on a cause. Where the other side ended the call (a 499, a turn it wants continued), not at our word, it
/// counts like any other answer that is none: given back uncounted it would be asked, and paid for, without an end.
pub(crate) fn judged(office: &Office, record: &Record, cause: &Cause) -> Failure {
    let ended = || {
        let message = "the other side ended the call without an answer".to_owned();
        Cause::Reported { class: Class::Transient, kind: Kind::TruncatedStream, message }
    };
    let mut cause = std::borrow::Cow::Borrowed(cause);
    loop {
        match classify(&cause, &scene(office, record)) {
            // A failure may quote secrets of this process which no pattern knows.
            Judgement::Failed(failure) => {
                let message = office.one_line(&failure.message, judgement::MESSAGE_MAX);
                return Failure { message, ..failure };
            }
            Judgement::Cancelled | Judgement::Continue => cause = std::borrow::Cow::Owned(ended()),
        }
    }
}
