//! The tools a model wants called, each under the one rule about what may have happened.
//!
//! Calls that change nothing run side by side, the others one after the other in the model's order. An error the model
//! can do something about is told to it; any other ends the delivery, and the next one goes on here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::guards::Lent;
use super::toolbox::{self, Tool, Toolbox};
use super::work::{Tried, Work, beat};
use crate::bound::MARGIN;
use crate::cause::{Cause, ToolFailure, ToolFault};
use crate::conversation::ToolCall;
use crate::event::Happening;
use crate::failure::Failure;
use crate::guard::Report;
use crate::journal::{Call, Intent, Judge, Line, Outcome, Step};
use crate::mutant;
use crate::spelling::nearest;
use crate::stand::{self, CallState, Remedy, Standing};
use crate::task::Effect;
use crate::time::format_duration;
use crate::tool::{CallClass, KeyPlace, Probe, Repeat, ToolRef, call_key};
use crate::tool_config::CALL_WITHIN;
use crate::tool_failure::{self, Concern};
use crate::tools::{Calling, RESULT_MAX, Said, Trouble};

/// How many calls that change nothing run at once.
const AT_ONCE: usize = 8;

/// A call about to be made.
struct Ready {
    index: usize,
    call: ToolCall,
    tool: Tool,
}

/// A call that was made, and what came of it.
struct Made {
    step: u32,
    tool: Tool,
    result: Result<Said, Box<ToolFailure>>,
    /// Was it a probe of an open breaker?
    probe: bool,
    /// Its place at its guard, where that has not heard of it yet.
    lent: Option<Lent>,
}

impl Work {
    /// Has the calls of one answer made, as far as they are not.
    pub(super) async fn act(&mut self, ask: u32, calls: Vec<Standing>, toolbox: &Toolbox) -> Result<(), Tried> {
        let most = self.office.limits(&self.record).calls_at_once;
        if calls.len() > most {
            let evidence = format!("{} calls of tools in one answer; at most {most} are made", calls.len());
            // Refused, so that whoever takes the task up again can leave this answer behind.
            self.unwritten.push(Line::Refuse { step: ask, why: evidence.clone() });
            return Err(Tried::Failed(Cause::Loop { evidence }));
        }
        let mut batch: Vec<Ready> = Vec::new();
        for Standing { index, call, state } in calls {
            let doubt = match state {
                CallState::Done(_) => continue,
                CallState::Due => self.stricter_now(ask, index, &call, toolbox).await?,
                CallState::InDoubt { step } => Some(step),
            };
            match doubt {
                None => {}
                Some(step) => {
                    self.flush(ask, &mut batch).await?;
                    if !self.resolve(step, &call, toolbox).await? {
                        continue;
                    }
                }
            }
            match self.ready(ask, index, &call, toolbox) {
                Ok(tool) => {
                    let alone = tool.class.effect != Effect::ReadOnly;
                    if alone {
                        self.flush(ask, &mut batch).await?;
                    }
                    batch.push(Ready { index, call, tool });
                    if alone || batch.len() >= AT_ONCE {
                        self.flush(ask, &mut batch).await?;
                    }
                }
                Err(failure) => {
                    if let Some(step) = self.refused_in_doubt(ask, index, &failure).await? {
                        self.flush(ask, &mut batch).await?;
                        if !self.resolve(step, &call, toolbox).await? {
                            continue;
                        }
                    }
                    self.tell(ask, index, *failure).await?;
                }
            }
        }
        self.flush(ask, &mut batch).await
    }

    /// The step of a call that may not be made today (its tool is not offered any more, its arguments break today's schema),
    /// although it was made before, and what came of that is not known. Told that it failed, a model would have it done once
    /// more, as another call: so it is written down anew, in doubt.
    async fn refused_in_doubt(&mut self, ask: u32, index: usize, failure: &ToolFailure) -> Result<Option<u32>, Tried> {
        let of_this = |step: &&Step| {
            step.call().is_some_and(|made| {
                made.ask == ask && made.index as usize == index && made.class.effect != Effect::ReadOnly
            })
        };
        let mut before = self.steps.iter().rev().filter(of_this);
        let Some(made) = before.find_map(doubted).flatten().cloned() else { return Ok(None) };
        let why = format!("an earlier try got no answer, and it may not be made today: {}", failure.detail);
        let class = CallClass { repeat: Repeat::Never, ..made.class };
        self.doubt_anew(ask, index, made.tool, class, why).await.map(Some)
    }

    /// Writes a call down anew, in doubt; its step.
    async fn doubt_anew(
        &mut self,
        ask: u32,
        index: usize,
        name: ToolRef,
        class: CallClass,
        why: String,
    ) -> Result<u32, Tried> {
        let intent = self.call_intent(ask, index, name.clone(), class);
        let key = self.key_of(ask, index);
        let step = self.intend(intent, 0, Vec::new()).await?;
        let failure = self.judged(&Cause::OutcomeUnknown { step, tool: name.clone(), key, why });
        let unknown = self.unknown(step, name, failure.message.clone());
        self.conclude(step, Outcome::Unknown { failure }, 0);
        self.write(Vec::new(), vec![unknown]).await?;
        Ok(step)
    }

    /// The step of a call that was made under a rule that let it be repeated, came to nothing that is known, and may not
    /// be repeated by the rule of today. It is written down anew under that rule, in doubt.
    async fn stricter_now(
        &mut self,
        ask: u32,
        index: usize,
        call: &ToolCall,
        toolbox: &Toolbox,
    ) -> Result<Option<u32>, Tried> {
        let Some(tool) = toolbox.get(&call.name).filter(|tool| tool.class.repeat == Repeat::Never) else {
            return Ok(None);
        };
        let of_this = |step: &&Step| step.call().is_some_and(|made| made.ask == ask && made.index as usize == index);
        let Some(before) = self.steps.iter().rev().find(of_this) else { return Ok(None) };
        let known = matches!(before.outcome, Some(Outcome::Judged { .. } | Outcome::Returned { .. }));
        let number = before.number;
        let Some(made) = before.call().filter(|made| !known && made.class.repeat != Repeat::Never) else {
            return Ok(None);
        };
        let name = made.tool.clone();
        let why =
            format!("it was called in step {number}, when its rule let it be repeated; what came of it is not known");
        self.doubt_anew(ask, index, name, tool.class, why).await.map(Some)
    }

    /// May this call be made at all? Else why not, in words for the model.
    fn ready(&self, ask: u32, index: usize, call: &ToolCall, toolbox: &Toolbox) -> Result<Tool, Box<ToolFailure>> {
        let nobody = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
        let unsent = |tool: ToolRef, class, fault, detail: String| {
            Err(Box::new(toolbox::unsent(&self.office, tool, class, fault, detail)))
        };
        let Some(tool) = toolbox.get(&call.name) else {
            let near = nearest(&call.name, toolbox.names());
            let hint = near.map(|name| format!("; did you mean `{name}`")).unwrap_or_default();
            let known: Vec<&str> = toolbox.names().take(20).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let detail = format!("there is no tool `{}`{hint}. The tools are: {known}", cut(&call.name, 80));
            return unsent(nameless(&call.name), nobody, ToolFault::NotOffered, detail);
        };
        if let Some(written) = &call.malformed {
            let detail = format!("the arguments are not a JSON object: {}", cut(written, 200));
            return unsent(tool.tool.clone(), tool.class, ToolFault::BadArguments, detail);
        }
        if let Some(validator) = &tool.validator {
            let violations: Vec<String> =
                validator.violations(&call.arguments).iter().map(ToString::to_string).collect();
            if !violations.is_empty() {
                let detail = format!("the arguments break the tool's schema: {}", violations.join("; "));
                return unsent(tool.tool.clone(), tool.class, ToolFault::BadArguments, detail);
            }
        }
        if tool.class.effect == Effect::Payment
            && let Some(step) = self.paid_before(&tool.tool, &call.arguments, (ask, index))
        {
            let detail = format!("this payment was made or tried in step {step}; only a person may have it made again");
            return unsent(tool.tool.clone(), tool.class, ToolFault::Refused, detail);
        }
        Ok(tool.clone())
    }

    /// The step in which this very payment was made or tried, by another call of this task.
    fn paid_before(&self, tool: &ToolRef, arguments: &Value, this: (u32, usize)) -> Option<u32> {
        let same = |step: &&Step| {
            step.call().is_some_and(|call| {
                call.tool == *tool
                    && (call.ask, call.index as usize) != this
                    && self.arguments_of(call) == Some(arguments)
            })
        };
        self.steps.iter().find(same).map(|step| step.number)
    }

    /// The arguments of a call, out of the answer that wanted it.
    fn arguments_of(&self, call: &Call) -> Option<&Value> {
        let reply = self.steps.iter().find(|step| step.number == call.ask)?.reply()?;
        reply.calls.get(call.index as usize).map(|call| &call.arguments)
    }

    /// A call that was not made: the model is told why.
    async fn tell(&mut self, ask: u32, index: usize, failure: ToolFailure) -> Result<(), Tried> {
        let intent = self.call_intent(ask, index, failure.tool.clone(), failure.class);
        let step = self.intend(intent, 0, Vec::new()).await?;
        let outcome = self.told(&failure);
        self.conclude(step, outcome, 0);
        self.write(Vec::new(), Vec::new()).await
    }

    /// What the model is told of a failed call.
    fn told(&self, failure: &ToolFailure) -> Outcome {
        let judged = self.judged(&Cause::Tool(Box::new(failure.clone())));
        tracing::info!(tool = %failure.tool, fault = %failure.fault, kind = %judged.kind, "{}", judged.message);
        // It answered; told that it failed, a model would do it a second time.
        let acted = failure.sent && failure.class.effect != Effect::ReadOnly;
        if acted && matches!(failure.fault, ToolFault::TooLarge | ToolFault::NotText) {
            let text = format!(
                "It was called and answered, but the answer could not be taken: {}. Take it as carried out and do not \
                 call it again; look at what came of it if you can.",
                failure.detail
            );
            return Outcome::Returned { text, failed: false, failure: Some(judged) };
        }
        Outcome::Returned { text: format!("Error: {}", failure.detail), failed: true, failure: Some(judged) }
    }

    /// The key of a call: the same on every delivery.
    fn key_of(&self, ask: u32, index: usize) -> crate::task::IdempotencyKey {
        let ask = if mutant::on("key-changes") { ask + 1_000 * self.record.attempt } else { ask };
        call_key(self.record.task.id, ask, index)
    }

    fn call_intent(&self, ask: u32, index: usize, tool: ToolRef, class: CallClass) -> Intent {
        let key = self.key_of(ask, index);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Intent::Call(Call { ask, index, tool, class, key })
    }

    /// Makes the calls that are ready: their intents at once, then all of them, then what came of each.
    async fn flush(&mut self, ask: u32, batch: &mut Vec<Ready>) -> Result<(), Tried> {
        if batch.is_empty() {
            return Ok(());
        }
        let ready = std::mem::take(batch);
        let mut ready = ready;
        let mut permits = Vec::with_capacity(ready.len());
        let mut held = None;
        for Ready { tool, .. } in &ready {
            match self.admit(&tool.tool.server).await {
                Ok(lent) => permits.push(lent),
                Err(tried) => {
                    held = Some(tried);
                    break;
                }
            }
        }
        // Those that are let through are made: a guard that lets one probe through would never see it otherwise.
        ready.truncate(permits.len());
        if ready.is_empty() {
            return held.map_or(Ok(()), Err);
        }
        let intents = ready.iter().map(|ready| {
            let intent = self.call_intent(ask, ready.index, ready.tool.tool.clone(), ready.tool.class);
            Line::Intend { intent, worst: 0 }
        });
        let before = self.steps.len();
        let intents = intents.collect();
        self.write(intents, Vec::new()).await?;
        let numbers: Vec<u32> = self.steps[before..].iter().map(|step| step.number).collect();
        let made = {
            let calls = ready
                .into_iter()
                .zip(numbers)
                .zip(permits)
                .map(|((ready, step), lent)| self.call(ask, step, ready, lent));
            join_all(calls.collect::<Vec<_>>()).await
        };
        self.progressed();
        let (mut ended, mut probe) = (Ok(()), false);
        for made in made {
            // All are noted, also when one of them ends the delivery.
            if let Err(tried) = self.made(made).await {
                (ended, probe) = (Err(tried), self.probe);
            }
        }
        // Of the one that ends it, whatever was asked about another since.
        self.probe = probe;
        self.write(Vec::new(), Vec::new()).await?;
        ended.and(held.map_or(Ok(()), Err))
    }

    /// Makes one call.
    async fn call(&self, ask: u32, step: u32, ready: Ready, lent: Lent) -> Made {
        let Ready { index, call, tool } = ready;
        let key = self.key_of(ask, index);
        let mut arguments = call.arguments;
        if let (KeyPlace::Argument(name), Value::Object(members)) = (&tool.rule.key, &mut arguments) {
            members.insert(name.clone(), Value::String(key.as_str().to_owned()));
        }
        let result = self.send(&tool, arguments, key, &lent).await;
        let probe = lent.is_of_breaker();
        let lent = match tool.class.effect {
            // Those that run side by side are told of each as it ends: how long a call took, and for how long it holds
            // a probe's place, is not its slowest sibling's to say. A read that is lost with this is read again.
            Effect::ReadOnly => {
                self.tell_guard(lent, result.as_ref().err().map(|failure| &**failure)).await;
                None
            }
            Effect::Notification | Effect::Mutation | Effect::Payment => Some(lent),
        };
        Made { step, tool, result, probe, lent }
    }

    /// Tells the guard of its server how a call went. Who answers is well, whatever it says.
    async fn tell_guard(&self, lent: Lent, failure: Option<&ToolFailure>) {
        let Some(failure) = failure else { return lent.report(Report::Healthy).await };
        match (failure.sent, tool_failure::concern(failure)) {
            (false, Concern::Model) => lent.report(Report::Dropped).await,
            (true, Concern::Model) => lent.report(Report::Healthy).await,
            (_, Concern::Delivery) => {
                let judged = self.judged(&Cause::Tool(Box::new(failure.clone())));
                lent.report(Report::Failed(&judged)).await;
            }
        }
    }

    /// Sends one call and waits for what comes of it, no longer than it may take.
    async fn send(
        &self,
        tool: &Tool,
        arguments: Value,
        key: crate::task::IdempotencyKey,
        lent: &Lent,
    ) -> Result<Said, Box<ToolFailure>> {
        let within = tool.rule.timeout.unwrap_or(CALL_WITHIN);
        let calling =
            Calling { tool: tool.tool.tool.clone(), arguments, key, key_place: tool.rule.key.clone(), within };
        let tools = &self.office.config.tools;
        let declared = tools.rule(&tool.tool).and_then(|rule| rule.timeout).unwrap_or(tools.call_within(&tool.tool));
        if within > CALL_WITHIN && within == declared {
            // The files say that it may take so long: a stall is counted from then.
            self.quiet_for(within + MARGIN);
        }
        let began = self.office.now();
        let said = tokio::select! {
            biased;
            said = tool.server.call(&calling) => said,
            () = beat(&self.office, lent) => Err(silent(&tool.tool, within)),
            () = tokio::time::sleep(within + MARGIN) => Err(silent(&tool.tool, within)),
        };
        let said = said.and_then(|said| match said.text.len() {
            size if size > RESULT_MAX => Err(Trouble::sent(
                ToolFault::TooLarge,
                format!("{} answered {size} bytes; at most {RESULT_MAX} are taken", tool.tool),
            )),
            _ => Ok(said),
        });
        let elapsed = self.office.now().since(began);
        said.map_err(|trouble| {
            Box::new(toolbox::failure(&self.office, tool.tool.clone(), tool.class, *trouble, elapsed))
        })
    }

    /// Notes what came of a call, and says whether the delivery can go on.
    async fn made(&mut self, made: Made) -> Result<(), Tried> {
        let Made { step, tool, result, probe, lent } = made;
        let payment = tool.class.effect == Effect::Payment;
        let failure = match result {
            Ok(Said { text, failed: true }) if !payment && self.tried_in_doubt(step) => self.said_no(step, &tool, text),
            Ok(Said { text, failed }) => {
                self.conclude(step, Outcome::Returned { text: text.clone(), failed, failure: None }, 0);
                if let Some(lent) = lent {
                    self.tell_guard(lent, None).await;
                }
                return match failed && payment {
                    // Money that was refused is a matter for people, not for another try of a model's.
                    true => Err(Tried::Failed(Cause::Declined {
                        reason: format!("{}: {}", tool.tool, self.office.one_line(&text, 400)),
                    })),
                    false => Ok(()),
                };
            }
            Err(failure) => failure,
        };
        let judged = self.judged(&Cause::Tool(failure.clone()));
        let concern = tool_failure::concern(&failure);
        let unknown = failure.outcome_unknown();
        let for_the_model = concern == Concern::Model && !payment;
        let doubt = for_the_model && self.tried_in_doubt(step);
        // What is known is noted before anything is waited for: whoever halts this finds it.
        let outcome = match () {
            () if for_the_model && !doubt => self.told(&failure),
            // Also of what may be made again, under its key: what the repeat is told says nothing of this try.
            () if !failure.outcome_seen() && tool.class.effect != Effect::ReadOnly => {
                Outcome::Unknown { failure: judged.clone() }
            }
            () => Outcome::Failed { failure: judged.clone(), usage: Default::default(), micro_usd: None },
        };
        self.conclude(step, outcome, 0);
        if concern == Concern::Delivery {
            self.probe = probe;
        }
        if let Some(lent) = lent {
            self.tell_guard(lent, Some(&*failure)).await;
        }
        match () {
            () if doubt => self.doubt_again(step, &tool, failure, judged).await,
            () if for_the_model => Ok(()),
            () if unknown => self.in_doubt(step, &tool, failure, judged.message).await,
            // Money that did not move is not moved again but by a person.
            () if payment => Err(self.ask_a_person(step)),
            () => Err(Tried::Failed(Cause::Tool(failure))),
        }
    }

    /// A tool's own word that it failed, as a failure.
    fn said_no(&self, step: u32, tool: &Tool, text: String) -> Box<ToolFailure> {
        let made = self.steps.iter().find(|known| known.number == step);
        let elapsed = made.map_or(Duration::ZERO, |made| self.office.now().since(made.at));
        let trouble = Trouble::sent(ToolFault::SaidNo, text);
        Box::new(toolbox::failure(&self.office, tool.tool.clone(), tool.class, *trouble, elapsed))
    }

    /// Was this call made before, under its key, and came to nothing that is known? What a later try is told says
    /// nothing of the earlier one: told that it failed, a model would have it done once more, as another call.
    fn tried_in_doubt(&self, step: u32) -> bool {
        let Some(call) = self.steps.iter().find(|known| known.number == step).and_then(Step::call) else {
            return false;
        };
        // A read is never in doubt; by today's rule and by that of its time, of which either may be wrong.
        let reads = |made: &Call| [made.class, call.class].iter().all(|class| class.effect == Effect::ReadOnly);
        let same = |before: &&Step| {
            let made = before.call().filter(|made| !reads(made));
            before.number < step && made.is_some_and(|made| (made.ask, made.index) == (call.ask, call.index))
        };
        self.steps.iter().rev().filter(same).find_map(doubted).flatten().is_some()
    }

    /// A repeat was turned away, and its first try is still in doubt: the call is written down anew as one that is not
    /// repeated, and looked up, or asked about.
    async fn doubt_again(
        &mut self,
        step: u32,
        tool: &Tool,
        failure: Box<ToolFailure>,
        judged: Failure,
    ) -> Result<(), Tried> {
        let made = self.steps.iter().find(|known| known.number == step).and_then(Step::call).cloned();
        let Some(made) = made else { return Err(Tried::Failed(Cause::Tool(failure))) };
        let why = format!("an earlier try got no answer, and this one was turned away: {}", judged.message);
        let class = CallClass { repeat: Repeat::Never, ..tool.class };
        let intent = Intent::Call(Call { class, ..made.clone() });
        let doubt = self.intend(intent, 0, Vec::new()).await?;
        let (name, key) = (made.tool, made.key);
        let cause = Cause::OutcomeUnknown { step: doubt, tool: name, key, why };
        let unknown = self.judged(&cause);
        self.conclude(doubt, Outcome::Unknown { failure: unknown.clone() }, 0);
        self.in_doubt(doubt, tool, failure, unknown.message).await
    }

    /// Nobody knows whether a call that was just made happened: its probe is asked, else a person.
    async fn in_doubt(&mut self, step: u32, tool: &Tool, failure: Box<ToolFailure>, why: String) -> Result<(), Tried> {
        let unknown = self.unknown(step, tool.tool.clone(), why);
        self.write(Vec::new(), vec![unknown]).await?;
        let call = self.steps.iter().find(|known| known.number == step).and_then(Step::call).cloned();
        let Some(call) = call else { return Err(Tried::Failed(Cause::Tool(failure))) };
        let payment = tool.class.effect == Effect::Payment;
        match tool.rule.probe.clone() {
            Some(probe) => match self.look(step, &call, tool, &probe).await? {
                Some(true) => Ok(()),
                // Known not to have happened. What was turned away is made again at once, and is the model's to hear then;
                // anything else by the next delivery; money by a person.
                Some(false) if !payment && tool_failure::concern(&failure) == Concern::Model => Ok(()),
                Some(false) if !payment => Err(Tried::Failed(Cause::Tool(Box::new(not_done(*failure))))),
                Some(false) | None => Err(self.ask_a_person(step)),
            },
            None => Err(self.ask_a_person(step)),
        }
    }

    fn unknown(&self, step: u32, tool: ToolRef, why: String) -> Happening {
        Happening::OutcomeUnknown {
            agent: self.record.agent.clone(),
            task_type: self.record.task.task_type.clone(),
            step,
            tool,
            why,
        }
    }

    /// A call in doubt, found in the journal: is it to be made now? Errs when only a person can tell.
    async fn resolve(&mut self, step: u32, wanted: &ToolCall, toolbox: &Toolbox) -> Result<bool, Tried> {
        let Some(found) = self.steps.iter().find(|known| known.number == step).cloned() else { return Ok(true) };
        let Some(call) = found.call().cloned() else { return Ok(true) };
        if found.outcome.is_none() {
            // Whoever made it died under it: from now on the journal says so.
            let cause = Cause::OutcomeUnknown {
                step,
                tool: call.tool.clone(),
                key: call.key.clone(),
                why: "the delivery that made it ended without a word".to_owned(),
            };
            let failure = self.judged(&cause);
            let why = failure.message.clone();
            self.conclude(step, Outcome::Unknown { failure }, 0);
            let unknown = self.unknown(step, call.tool.clone(), why);
            self.write(Vec::new(), vec![unknown]).await?;
        }
        let tool = toolbox.find(&call.tool).cloned();
        let probe = tool.as_ref().and_then(|tool| tool.rule.probe.clone());
        let looked = stand::looked(&self.steps, step, self.record.generation);
        match (stand::remedy(call.class, probe.is_some(), looked), tool, probe) {
            (Remedy::Repeat, ..) => Ok(true),
            (Remedy::Look, Some(tool), Some(probe)) => match self.look(step, &call, &tool, &probe).await? {
                Some(true) => Ok(false),
                Some(false) if call.class.effect != Effect::Payment => {
                    tracing::info!(tool = %call.tool, wanted = %wanted.name, "it did not happen; it is made now");
                    Ok(true)
                }
                Some(false) | None => Err(self.ask_a_person(step)),
            },
            (Remedy::Look | Remedy::Ask, ..) => Err(self.ask_a_person(step)),
        }
    }

    /// Only a person can say whether it happened.
    fn ask_a_person(&self, step: u32) -> Tried {
        let found = self.steps.iter().find(|known| known.number == step);
        let Some((found, call)) = found.and_then(|found| Some((found, found.call()?))) else {
            return Tried::Failed(Cause::Unknown { detail: format!("step {step} is no call of a tool") });
        };
        let why = match &found.outcome {
            Some(Outcome::Unknown { failure } | Outcome::Failed { failure, .. }) => failure.message.clone(),
            Some(Outcome::Judged { note, .. }) => format!("a look says that it did not happen ({note}), but money"),
            Some(Outcome::Replied(_) | Outcome::Returned { .. }) | None => "its outcome was never seen".to_owned(),
        };
        // What is noted of a call in doubt says so by itself.
        let said = format!("step {step}, {}, may or may not have happened: ", call.tool);
        let why = format!("{}; say which with `backstop task outcome`", why.strip_prefix(&said).unwrap_or(&why));
        Tried::Failed(Cause::OutcomeUnknown { step, tool: call.tool.clone(), key: call.key.clone(), why })
    }

    /// Asks the declared probe whether a call happened: yes, no, or nothing to be read from it.
    async fn look(&mut self, of: u32, call: &Call, tool: &Tool, probe: &Probe) -> Result<Option<bool>, Tried> {
        let asked = self.arguments_of(call).cloned().unwrap_or(Value::Null);
        let arguments = probe.arguments_for(&call.key, &asked);
        let name = ToolRef { server: tool.tool.server.clone(), tool: probe.tool.clone() };
        let lent = self.admit(&name.server).await?;
        let intent = Intent::Probe { of, tool: name.clone(), arguments: arguments.clone() };
        let step = self.intend(intent, 0, Vec::new()).await?;
        let reading = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
        let rule = crate::tool::ToolRule { key: KeyPlace::Default, ..tool.rule.clone() };
        let prober = Tool { tool: name, class: reading, rule, server: Arc::clone(&tool.server), ..tool.clone() };
        let result = self.send(&prober, arguments, call.key.clone(), &lent).await;
        self.progressed();
        match result {
            Ok(Said { text, failed }) => {
                let verdict = if failed { None } else { probe.verdict(&text) };
                let note = format!("{} says: {}", prober.tool, self.office.one_line(&text, 500));
                self.conclude(step, Outcome::Returned { text, failed, failure: None }, 0);
                lent.report(Report::Healthy).await;
                let mut events = Vec::new();
                if let Some(happened) = verdict {
                    let by = Judge::Probe { step };
                    self.conclude(of, Outcome::Judged { happened, by, note: note.clone() }, 0);
                    events.push(Happening::OutcomeJudged {
                        agent: self.record.agent.clone(),
                        task_type: self.record.task.task_type.clone(),
                        step: of,
                        happened,
                        by: format!("probe (step {step})"),
                        note,
                    });
                }
                self.write(Vec::new(), events).await?;
                Ok(verdict)
            }
            Err(failure) => {
                let cause = Cause::Tool(failure);
                let judged = self.judged(&cause);
                self.failed(lent, &judged).await;
                let outcome = Outcome::Failed { failure: judged, usage: Default::default(), micro_usd: None };
                self.conclude(step, outcome, 0);
                self.write(Vec::new(), Vec::new()).await?;
                // The look itself changes nothing: it is tried again by the usual rules.
                Err(Tried::Failed(cause))
            }
        }
    }
}

/// The call of this try, if nobody knows whether it happened; `Some(None)`: it is known. None: it is known not to have
/// happened, which says nothing of the tries before it.
fn doubted(step: &Step) -> Option<Option<&Call>> {
    match &step.outcome {
        None | Some(Outcome::Unknown { .. }) => Some(step.call()),
        Some(Outcome::Failed { .. }) => None,
        Some(Outcome::Judged { .. } | Outcome::Returned { .. } | Outcome::Replied(_)) => Some(None),
    }
}

/// A failure of a call that is known not to have happened: an ordinary one.
fn not_done(failure: ToolFailure) -> ToolFailure {
    ToolFailure { sent: false, detail: format!("{}; a look says that it did not happen", failure.detail), ..failure }
}

fn silent(tool: &ToolRef, within: Duration) -> Box<Trouble> {
    Trouble::sent(ToolFault::Timeout, format!("{tool} did not answer within {}", format_duration(within)))
}

/// A tool a model made up, as something that can be written down.
fn nameless(name: &str) -> ToolRef {
    let clean: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    format!("{}/{}", crate::tool::LOCAL, if clean.is_empty() { "(nothing)" } else { &clean })
        .parse()
        .expect("a server of ours, a slash and a name without control characters")
}

fn cut(text: &str, most: usize) -> String {
    crate::redact::one_line(text, most)
}
