//! A provider that answers from a script: for tests, examples and the outage simulator.
//!
//! It waits in tokio time, so that under a paused clock an outage of hours takes no time at all.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Call, Progress, Provider, Reply, Request, ToolCall};
use crate::cause::{Fault, LlmFailure, Phase, Usage};
use crate::config::ProviderConfig;
use crate::task::Integration;
use crate::time::Timestamp;

/// What one call comes to.
#[derive(Clone, Debug)]
pub struct Scripted {
    /// How long the answer takes.
    pub after: Duration,
    /// The answer, or why there is none.
    pub result: Result<Reply, Box<LlmFailure>>,
}

impl Scripted {
    /// An answer of this text, at once: 10 tokens in, 5 out.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        let usage = Usage { input: 10, output: 5, ..Usage::default() };
        Self {
            after: Duration::ZERO,
            result: Ok(Reply {
                text: text.into(),
                calls: Vec::new(),
                opaque: Vec::new(),
                model: "simulated".to_owned(),
                usage,
                stop: "end_turn".to_owned(),
                request_id: None,
                headers: Vec::new(),
            }),
        }
    }

    /// A turn of these words, which may be none, and these calls, at once: 10 tokens in, 5 out.
    #[must_use]
    pub fn calls(text: impl Into<String>, calls: Vec<ToolCall>) -> Self {
        let mut scripted = Self::text(text);
        if let Ok(reply) = &mut scripted.result {
            reply.calls = calls;
            reply.stop = "tool_use".to_owned();
        }
        scripted
    }

    /// This failure, at once.
    #[must_use]
    pub fn fails(failure: LlmFailure) -> Self {
        Self { after: Duration::ZERO, result: Err(Box::new(failure)) }
    }

    /// An error status with this body, at once.
    #[must_use]
    pub fn status(integration: Integration, status: u16, body: impl Into<String>, at: Timestamp) -> Self {
        Self::fails(LlmFailure {
            integration,
            provider: "simulated".to_owned(),
            model: "simulated".to_owned(),
            phase: Phase::Headers,
            fault: Fault::Status,
            status: Some(status),
            headers: Vec::new(),
            body: body.into(),
            code: None,
            stop: None,
            request_id: None,
            partial: String::new(),
            usage: Usage::default(),
            sent: true,
            self_hosted: false,
            at,
            elapsed: Duration::ZERO,
            detail: format!("status {status}"),
        })
    }

    /// The same, but after this long.
    #[must_use]
    pub fn after(mut self, span: Duration) -> Self {
        self.after = span;
        self
    }
}

/// The machine-readable code in an error body, found as the adapters find it.
#[must_use]
pub fn code(body: &str) -> Option<String> {
    super::wire::code(body)
}

/// The vendor behind a provider, as the adapters name it in their evidence.
#[must_use]
pub fn vendor(integration: &str, config: &ProviderConfig) -> &'static str {
    super::wire::vendor(integration, config)
}

/// What decides: the request and the number of the call, first = 1.
type Script = Box<dyn Fn(&Request, u64) -> Scripted + Send + Sync>;

/// A provider that answers from a script. Clones share the script and the record.
#[derive(Clone)]
pub struct Simulated {
    integration: Integration,
    script: Arc<Script>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("integration", &self.integration).field("calls", &self.calls()).finish()
    }
}

impl Simulated {
    /// A provider whose every call comes to what `script` says; the number of the first call is 1.
    #[must_use]
    pub fn new(integration: Integration, script: impl Fn(&Request, u64) -> Scripted + Send + Sync + 'static) -> Self {
        Self { integration, script: Arc::new(Box::new(script)), requests: Arc::default() }
    }

    /// How often it was asked; calls given up half-way count.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.record().len() as u64
    }

    /// Everything it was asked, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.record().clone()
    }

    fn record(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for Simulated {
    fn integration(&self) -> &Integration {
        &self.integration
    }

    fn ask<'a>(&'a self, request: &'a Request, progress: &'a Progress) -> Call<'a> {
        Box::pin(async move {
            let number = {
                let mut record = self.record();
                record.push(request.clone());
                record.len() as u64
            };
            let Scripted { after, result } = (self.script)(request, number);
            if after > Duration::ZERO {
                tokio::time::sleep(after).await;
            }
            match &result {
                Ok(reply) => {
                    let call = |call: &ToolCall| call.name.len() + call.arguments.to_string().len();
                    progress.advance(reply.text.len() + reply.calls.iter().map(call).sum::<usize>());
                }
                Err(failure) => progress.advance(failure.partial.len()),
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        let message = super::super::Message::user(text);
        Request {
            model: "m".to_owned(),
            system: String::new(),
            messages: vec![message],
            max_output_tokens: 10,
            tools: Vec::new(),
            schema: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_script_counts_and_remembers() {
        let integration = Integration::new("sim").expect("a name");
        let failing = integration.clone();
        let simulated = Simulated::new(integration, move |_, number| match number {
            1 => Scripted::status(failing.clone(), 529, "{}", Timestamp::default()).after(Duration::from_secs(7_200)),
            _ => Scripted::text("fine"),
        });
        let progress = Progress::default();
        let started = tokio::time::Instant::now();

        let failure = simulated.ask(&request("a"), &progress).await.expect_err("the first fails");
        assert_eq!((failure.status, started.elapsed()), (Some(529), Duration::from_secs(7_200)));
        assert_eq!(progress.bytes(), 0);

        let reply = simulated.ask(&request("b"), &progress).await.expect("the second answers");
        assert_eq!((reply.text.as_str(), progress.bytes()), ("fine", 4));
        assert_eq!(simulated.calls(), 2);
        assert_eq!(simulated.requests().iter().map(|r| r.messages[0].text()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[tokio::test]
    async fn it_calls_tools_by_script() {
        let call = ToolCall::written("c1", "look", "{}");
        let scripted = call.clone();
        let integration = Integration::new("sim").expect("a name");
        let simulated = Simulated::new(integration, move |_, _| Scripted::calls("", vec![scripted.clone()]));
        let progress = Progress::default();
        let reply = simulated.ask(&request("a"), &progress).await.expect("an answer");
        assert_eq!((reply.text.as_str(), reply.stop.as_str(), progress.bytes()), ("", "tool_use", 6));
        assert_eq!(reply.calls, [call]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_is_over() {
        let simulated = Simulated::new(Integration::new("sim").expect("a name"), |_, _| {
            Scripted::text("late").after(Duration::from_secs(60))
        });
        let progress = Progress::default();
        let asked = request("a");
        let given_up = tokio::time::timeout(Duration::from_secs(1), simulated.ask(&asked, &progress)).await;
        assert!(given_up.is_err());
        assert_eq!((simulated.calls(), progress.bytes()), (1, 0));
    }
}
