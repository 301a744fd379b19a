//! A model in virtual time: it answers as the scenario says, or fails the way its vendor fails, with the evidence the
//! real adapter would have seen.

use std::time::Duration;

use serde_json::json;

use super::books::{Call, CallEnd};
use super::stage::{Shared, asker};
use crate::cause::{Fault as Broken, LlmFailure, Phase, Usage};
use crate::config::{ProviderConfig, Wire};
use crate::llm::{self, Progress, Provider, Reply, Request, ToolCall, simulated};
use crate::scenario::{CallSeen, Fault, FaultKind, ModelBehaviour, Said};
use crate::sim::breakage;
use crate::sim::sample::sample;
use crate::stuck::{CHANT_LENGTH, CHANT_REPEATS};
use crate::task::Integration;

/// A provider of models in virtual time.
pub(in crate::sim) struct VirtualModel {
    integration: Integration,
    settings: ProviderConfig,
    stage: Shared,
    usual: ModelBehaviour,
}

impl VirtualModel {
    pub(in crate::sim) fn new(integration: Integration, settings: ProviderConfig, stage: Shared) -> Self {
        Self { integration, settings, stage, usual: ModelBehaviour::default() }
    }
}

/// What a call comes to, and when.
struct Plan {
    after: Duration,
    end: CallEnd,
    result: Result<Reply, Box<LlmFailure>>,
    usage: Usage,
    retry_after: Option<Duration>,
}

/// Writes down that the asker went away, unless the call came to its end before.
struct Open<'a> {
    stage: &'a Shared,
    number: usize,
    usage: Usage,
    done: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.stage.books.end(self.number, self.stage.elapsed(), CallEnd::GivenUp, self.usage);
        }
    }
}

impl Provider for VirtualModel {
    fn integration(&self) -> &Integration {
        &self.integration
    }

    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> llm::Call<'a> {
        Box::pin(async move {
            let stage = &self.stage;
            let first = request.messages.first().map(llm::Message::text).unwrap_or_default();
            let (agent, task, adviser) = asker(&request.system, &first);
            let ticket = task.and_then(|id| stage.called(id));
            let about =
                ticket.as_ref().map_or_else(|| format!("{}", self.integration), |ticket| ticket.number.to_string());
            let nth = ticket.as_ref().map_or_else(|| stage.books.open().calls.len() as u64, |ticket| ticket.calls);
            let prompt = said(request);
            let seen = CallSeen {
                provider: &self.integration,
                model: &request.model,
                agent: agent.as_ref(),
                task_type: ticket.as_ref().map(|ticket| &ticket.task_type),
                adviser,
                prompt: &prompt,
            };
            let struck = stage.strikes(&seen, &about, nth);
            let plan = match &struck {
                Some((_, fault)) => self.broken(fault, request, &about, nth),
                None => self.sound(request, &about, nth),
            };
            let number = stage.books.begin(Call {
                at: stage.elapsed(),
                clock: stage.team_time(),
                provider: self.integration.clone(),
                model: request.model.clone(),
                agent: agent.clone(),
                task,
                adviser,
                fault: struck.as_ref().map(|(place, _)| *place),
                ended: None,
                usage: Usage::default(),
                prompt,
                retry_after: plan.retry_after,
            });
            // Who goes away half-way has had what was read billed.
            let read = Usage { output: 0, ..plan.usage };
            let mut open = Open { stage, number, usage: read, done: false };
            if struck.as_ref().is_some_and(|(_, fault)| fault.kind == FaultKind::AgentPanic) {
                open.done = true;
                stage.books.end(number, stage.elapsed(), CallEnd::Failed, Usage::default());
                drop(open);
                panic!("a bug in the provider's code, on cue of the scenario");
            }
            answer_after(plan.after, &plan.result, progress).await;
            open.done = true;
            stage.books.end(number, stage.elapsed(), plan.end, plan.usage);
            plan.result
        })
    }
}

/// Waits, once: a wake for each piece of an answer is a twentieth of a simulated year, and nobody looks at them.
async fn answer_after(after: Duration, result: &Result<Reply, Box<LlmFailure>>, progress: &Progress) {
    if after > Duration::ZERO {
        tokio::time::sleep(after).await;
    }
    match result {
        Ok(reply) => progress.advance(reply.text.len().max(1)),
        Err(failure) => progress.advance(failure.partial.len()),
    }
}

/// Everything that is said to the model since its last turn, and the first words, where tickets stand.
fn said(request: &Request) -> String {
    let mut words = request.messages.first().map(llm::Message::text).unwrap_or_default();
    if request.messages.len() > 1 {
        words.push('\n');
        words.push_str(&request.messages.last().map(llm::Message::text).unwrap_or_default());
    }
    words
}

/// A token is about four characters.
fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4).max(1)
}

impl VirtualModel {
    fn roll(&self, purpose: &str, about: &str, nth: u64) -> f64 {
        self.stage.dice.roll(purpose, about, nth)
    }

    fn behaviour(&self, model: &str) -> &ModelBehaviour {
        self.stage.scenario.behaviour(&self.integration, model).unwrap_or(&self.usual)
    }

    fn usage(&self, request: &Request, about: &str, nth: u64) -> Usage {
        let behaviour = self.behaviour(&request.model);
        let (least, most) = behaviour.output_tokens;
        let span = (most - least + 1) as f64 * self.roll("output tokens", about, nth);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count of tokens")]
        let output = (least + span as u64).min(u64::from(request.max_output_tokens));
        let read: u64 = request.messages.iter().map(|message| tokens(&message.text())).sum();
        Usage { input: tokens(&request.system) + read, output, ..Usage::default() }
    }

    fn latency(&self, request: &Request, about: &str, nth: u64) -> Duration {
        let span = self.behaviour(&request.model).latency.at(self.roll("latency", about, nth));
        // Whole milliseconds, as the clock counts.
        Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    /// An answer while nothing is broken: mostly a good one.
    fn sound(&self, request: &Request, about: &str, nth: u64) -> Plan {
        let behaviour = self.behaviour(&request.model);
        let roll = if self.stage.is_calm() { 1.0 } else { self.roll("answer", about, nth) };
        let mut edge = 0.0;
        for (share, kind) in [
            (behaviour.schema_breaks, FaultKind::SchemaInvalid),
            (behaviour.loops, FaultKind::Loop),
            (behaviour.refusals, FaultKind::Refusal),
            (behaviour.cuts, FaultKind::Cut),
        ] {
            edge += share;
            if roll < edge {
                return self.flawed(kind, request, about, nth);
            }
        }
        let wanted = self.stage.cast.as_ref().map(|cast| cast.wants(request)).unwrap_or_default();
        if !wanted.is_empty() && !request.tools.is_empty() {
            let call = |(index, (tool, arguments)): (usize, (String, serde_json::Value))| {
                ToolCall::written(format!("call-{about}-{nth}-{index}"), tool, &arguments.to_string())
            };
            let calls = wanted.into_iter().enumerate().map(call).collect();
            return self.says(request, about, nth, CallEnd::Answered, String::new(), calls);
        }
        let prompt = said(request);
        let fits = |(number, said): &(usize, &Said)| {
            said.fits(&prompt) && self.stage.says(&self.integration, &request.model, *number, said.calls)
        };
        let text = behaviour.answers.iter().enumerate().find(fits).map(|(_, said)| said.text.clone());
        let text = text.unwrap_or_else(|| self.good(request, about, nth));
        self.says(request, about, nth, CallEnd::Answered, text, Vec::new())
    }

    fn good(&self, request: &Request, about: &str, nth: u64) -> String {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a roll in [0, 1)")]
        let words = (self.roll("words", about, nth) * 1e9) as u64;
        match &request.schema {
            Some(schema) => sample(schema, words).to_string(),
            None => json!({ "summary": sample(&json!({}), words) }).to_string(),
        }
    }

    fn says(&self, request: &Request, about: &str, nth: u64, end: CallEnd, text: String, calls: Vec<ToolCall>) -> Plan {
        let usage = self.usage(request, about, nth);
        let stop = if calls.is_empty() { "end_turn" } else { "tool_use" };
        let reply = Reply {
            text,
            calls,
            opaque: Vec::new(),
            model: request.model.clone(),
            usage,
            stop: stop.to_owned(),
            request_id: None,
            headers: Vec::new(),
        };
        Plan { after: self.latency(request, about, nth), end, result: Ok(reply), usage, retry_after: None }
    }

    /// An answer that is none, though it came whole.
    fn flawed(&self, kind: FaultKind, request: &Request, about: &str, nth: u64) -> Plan {
        let usage = self.usage(request, about, nth);
        let stopped = |stop: &str, text: &str| {
            let failure = LlmFailure {
                stop: Some(stop.to_owned()),
                partial: text.to_owned(),
                status: Some(200),
                detail: format!("stopped: {stop}"),
                ..self.failure(request, Phase::Semantic, Broken::Stop, usage)
            };
            Plan {
                after: self.latency(request, about, nth),
                end: CallEnd::Flawed,
                result: Err(Box::new(failure)),
                usage,
                retry_after: None,
            }
        };
        let tool = request.tools.first();
        match (kind, tool) {
            // Ollama knows no stop for it: the model only says so.
            (FaultKind::Refusal, _) if self.settings.wire == Wire::Ollama => {
                self.says(request, about, nth, CallEnd::Flawed, "I can't help with that.".to_owned(), Vec::new())
            }
            (FaultKind::Refusal, _) => stopped(refusal(self.settings.wire), "I can't help with that."),
            (FaultKind::Cut, _) => stopped(length(self.settings.wire), "{\"summary\": \"half of"),
            (FaultKind::Loop, Some(tool)) => {
                let call = ToolCall::written(
                    format!("call-{about}-{nth}"),
                    tool.name.clone(),
                    &sample(&tool.schema, 1).to_string(),
                );
                self.says(request, about, nth, CallEnd::Flawed, String::new(), vec![call])
            }
            (FaultKind::Loop, None) => {
                let phrase =
                    format!("{:<width$}", "I will now look at it once more, and then again.", width = CHANT_LENGTH);
                let text = phrase.repeat(CHANT_REPEATS + 2);
                self.says(request, about, nth, CallEnd::Flawed, text, Vec::new())
            }
            (FaultKind::WrongArguments, Some(tool)) => {
                let call = ToolCall::written(format!("call-{about}-{nth}"), tool.name.clone(), "{\"half");
                self.says(request, about, nth, CallEnd::Flawed, String::new(), vec![call])
            }
            // Against any schema that asks for something; without one, an answer that says nothing.
            _ if request.schema.is_some() => {
                let text = json!({ "unasked": nth }).to_string();
                self.says(request, about, nth, CallEnd::Flawed, text, Vec::new())
            }
            _ => self.says(request, about, nth, CallEnd::Flawed, "  ".to_owned(), Vec::new()),
        }
    }

    /// What a broken provider does.
    fn broken(&self, fault: &Fault, request: &Request, about: &str, nth: u64) -> Plan {
        let timers = self.settings.timeouts;
        let usage = self.usage(request, about, nth);
        let (read, half) = (Usage { output: 0, ..usage }, Usage { output: usage.output.div_ceil(2), ..usage });
        let latency = self.latency(request, about, nth);
        let fails = |after: Duration, billed: Usage, failure: LlmFailure| Plan {
            after,
            end: CallEnd::Failed,
            result: Err(Box::new(LlmFailure { elapsed: after, ..failure })),
            usage: billed,
            retry_after: None,
        };
        let no_connection = |after, phase, broken, detail: &str| {
            let failure = self.failure(request, phase, broken, Usage::default());
            fails(after, Usage::default(), LlmFailure { sent: false, detail: detail.to_owned(), ..failure })
        };
        let mid_stream = |after, broken, detail: &str| {
            let failure = self.failure(request, Phase::Stream, broken, half);
            let partial = "{\"summary\": \"half of".to_owned();
            fails(after, half, LlmFailure { status: Some(200), partial, detail: detail.to_owned(), ..failure })
        };
        let decoded = |body: &str, detail: &str| {
            let failure = self.failure(request, Phase::Decode, Broken::Malformed, Usage::default());
            let failure = LlmFailure { status: Some(200), body: body.to_owned(), detail: detail.to_owned(), ..failure };
            fails(latency, usage, failure)
        };
        match fault.kind {
            FaultKind::Refused => {
                no_connection(Duration::from_millis(1), Phase::Connect, Broken::Refused, "connection refused")
            }
            FaultKind::Dns => {
                no_connection(Duration::from_millis(5), Phase::Dns, Broken::Dns, "the name does not resolve")
            }
            FaultKind::ConnectTimeout => {
                no_connection(timers.connect, Phase::Connect, Broken::Timeout, "connect timeout: no connection")
            }
            FaultKind::FirstByteTimeout | FaultKind::Hang => {
                let failure = self.failure(request, Phase::Headers, Broken::Timeout, Usage::default());
                let detail = "first byte timeout: no response".to_owned();
                fails(timers.first_byte.min(timers.total), read, LlmFailure { detail, ..failure })
            }
            FaultKind::MidStreamTimeout => {
                let after = (latency / 2 + timers.idle).min(timers.total);
                mid_stream(after, Broken::Timeout, "idle timeout: no content")
            }
            FaultKind::SlowStream => {
                let slow = latency.mul_f64(fault.times);
                if slow >= timers.total {
                    mid_stream(timers.total, Broken::Timeout, "total timeout: no complete answer")
                } else {
                    Plan { after: slow, ..self.sound(request, about, nth) }
                }
            }
            FaultKind::Truncated => {
                mid_stream(latency / 2, Broken::Truncated, "the stream ended without its terminal event")
            }
            FaultKind::Reset => mid_stream(latency / 2, Broken::Reset, "connection reset"),
            FaultKind::MalformedJson => decoded("{\"id\": \"msg_01\", \"content\": [{\"ty", "the body is no JSON"),
            FaultKind::Html => decoded(
                "<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>",
                "the body is no JSON but HTML",
            ),
            FaultKind::Refusal
            | FaultKind::Cut
            | FaultKind::SchemaInvalid
            | FaultKind::WrongArguments
            | FaultKind::Loop => self.flawed(fault.kind, request, about, nth),
            FaultKind::ErrorEvent => {
                let body = breakage::error_event(self.settings.wire);
                let failure = self.failure(request, Phase::Stream, Broken::ErrorEvent, half);
                let code = simulated::code(&body);
                fails(latency / 2, half, LlmFailure { status: Some(200), body, code, ..failure })
            }
            FaultKind::RateLimited
            | FaultKind::Overloaded
            | FaultKind::ServerError
            | FaultKind::Unavailable
            | FaultKind::Quota
            | FaultKind::RevokedKey
            | FaultKind::ModelRetired
            | FaultKind::TooLong
            | FaultKind::AdviserDown => {
                let refused = breakage::refused(fault, self.settings.wire, &request.model);
                let failure = self.failure(request, Phase::Headers, Broken::Status, Usage::default());
                let plan = fails(
                    Duration::from_millis(200),
                    Usage::default(),
                    LlmFailure {
                        status: Some(refused.status),
                        headers: refused.headers,
                        code: simulated::code(&refused.body),
                        detail: format!("status {}", refused.status),
                        body: refused.body,
                        ..failure
                    },
                );
                Plan { retry_after: fault.retry_after, ..plan }
            }
            FaultKind::AgentPanic => fails(
                Duration::ZERO,
                Usage::default(),
                self.failure(request, Phase::Headers, Broken::Transport, Usage::default()),
            ),
            FaultKind::AgentKill
            | FaultKind::AgentWedge
            | FaultKind::ProcessKill
            | FaultKind::DiskFull
            | FaultKind::PagerDown
            | FaultKind::MailDown
            | FaultKind::ClockJump
            | FaultKind::CeoKill => self.sound(request, about, nth),
        }
    }

    fn failure(&self, request: &Request, phase: Phase, fault: Broken, usage: Usage) -> LlmFailure {
        LlmFailure {
            integration: self.integration.clone(),
            provider: simulated::vendor(self.integration.as_str(), &self.settings).to_owned(),
            model: request.model.clone(),
            phase,
            fault,
            status: None,
            headers: Vec::new(),
            body: String::new(),
            code: None,
            stop: None,
            request_id: None,
            partial: String::new(),
            usage,
            sent: true,
            self_hosted: self.settings.self_hosted,
            at: self.stage.team_time(),
            elapsed: Duration::ZERO,
            detail: String::new(),
        }
    }
}

/// The raw stop reason of an answer that was declined.
const fn refusal(wire: Wire) -> &'static str {
    match wire {
        Wire::Anthropic => "refusal",
        Wire::OpenAi | Wire::Responses | Wire::Ollama => "content_filter",
        Wire::Gemini => "SAFETY",
    }
}

/// The raw stop reason of an answer that was cut at its limit.
const fn length(wire: Wire) -> &'static str {
    match wire {
        Wire::Anthropic => "max_tokens",
        Wire::OpenAi | Wire::Ollama => "length",
        Wire::Responses => "max_output_tokens",
        Wire::Gemini => "MAX_TOKENS",
    }
}
