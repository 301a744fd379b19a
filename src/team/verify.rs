//! Verification of an answer before it is accepted: by a program, an address, or a second agent.
//!
//! The answer is durable by then. Where nobody can say whether it stands, the delivery fails and the next one asks the
//! verifier again, not the worker.

use super::toolbox;
use super::work::{Tried, Work};
use crate::answer;
use crate::budget::CALLS_SPARE;
use crate::cause::{Cause, OutputFault, OutputReason, Violation};
use crate::config::Verify;
use crate::conversation::Message;
use crate::failure::{Class, Kind};
use crate::journal::{self, Ask, Purpose, Step};
use crate::llm::Request;
use crate::prompt;
use crate::stuck;
use crate::task::{AgentName, Effect, Integration};
use crate::tool::{CallClass, Repeat, ToolRef};
use crate::verdict::{self, Verdict};

impl Work {
    /// What is wrong with an answer by its verification, if anything is. Types without one accept what meets the schema.
    pub(super) async fn verified(
        &mut self,
        answer: &serde_json::Value,
        text: &str,
    ) -> Result<Option<OutputFault>, Tried> {
        let declared = self.office.config.task_types.get(&self.record.task.task_type);
        let Some(verify) = declared.and_then(|declared| declared.verify.clone()) else { return Ok(None) };
        // Verification may take its time; what is paid for is not left to it.
        self.write(Vec::new(), Vec::new()).await?;
        let verdict = match &verify {
            Verify::Command { .. } | Verify::Url { .. } => self.checked(&verify, answer).await?,
            Verify::Agent { agent, prompt } => self.judged_by(agent, prompt, answer).await?,
        };
        self.progressed();
        Ok(match verdict {
            Verdict::Accepted => None,
            Verdict::Refused(why) => {
                let message = format!("verification refused it: {}", self.office.redactor.redact(&why));
                Some(OutputFault {
                    reason: OutputReason::NotVerified,
                    violations: vec![Violation { path: String::new(), message }],
                    excerpt: answer::excerpt(text).to_owned(),
                })
            }
        })
    }

    async fn checked(&mut self, verify: &Verify, answer: &serde_json::Value) -> Result<Verdict, Tried> {
        if let Verify::Command { within, .. } | Verify::Url { within, .. } = verify {
            // Somebody said how long it may take: a stall is counted from then.
            self.quiet_for(*within);
        }
        let task = &self.record.task;
        let began = self.office.now();
        let checked = self.office.verifier.check(verify, task.id, &task.task_type, answer).await;
        checked.map_err(|trouble| {
            // Whatever a verifier did, it did not do the task: it is asked again.
            let class = CallClass { effect: Effect::ReadOnly, repeat: Repeat::Freely };
            let tool = ToolRef { server: verifier(), tool: task.task_type.to_string() };
            let elapsed = self.office.now().since(began);
            Tried::Failed(Cause::Tool(Box::new(toolbox::failure(&self.office, tool, class, *trouble, elapsed))))
        })
    }

    /// Asks a second agent: a step of the journal like any other call of a model, under the same limits.
    async fn judged_by(
        &mut self,
        agent: &AgentName,
        prompt: &str,
        answer: &serde_json::Value,
    ) -> Result<Verdict, Tried> {
        let unusable = |message: String| {
            Tried::Failed(Cause::Reported { class: Class::Transient, kind: Kind::MalformedResponse, message })
        };
        let office = std::sync::Arc::clone(&self.office);
        let Some(second) = office.config.agents.get(agent) else {
            return Err(Tried::Failed(Cause::NoAgent { wanted: agent.to_string() }));
        };
        let Some(template) = office.config.prompts.get(prompt) else {
            let detail = format!("the prompt `{prompt}` of its verification is not defined");
            return Err(Tried::Failed(Cause::Unknown { detail }));
        };
        let args = serde_json::json!({ "task": self.record.task.payload, "answer": answer });
        let said = prompt::fill(template, &args, &office.config.team, office.now())
            .map_err(|error| Tried::Failed(Cause::Unknown { detail: error.to_string() }))?;
        let system = prompt::system(second, &office.config.team, office.now())
            .map_err(|error| Tried::Failed(Cause::Unknown { detail: error.to_string() }))?;
        let request = Request {
            model: second.model.model.clone(),
            system: system.clone(),
            messages: vec![Message::user(said.clone())],
            tools: Vec::new(),
            max_output_tokens: second.max_output_tokens,
            schema: Some(verdict::schema()),
        };
        let ask = Ask {
            model: second.model.clone(),
            purpose: Purpose::Verify,
            hash: super::work::hash(&request),
            fresh: true,
            system: Some(system),
            said: vec![Message::user(said)],
            amended: 0,
            compaction: None,
        };
        // A verdict of this round on the same answer is paid for.
        let known = self.steps.iter().rev().find(|step| {
            let same = |said: &Ask| said.purpose == Purpose::Verify && said.hash == ask.hash;
            step.generation == self.record.generation && step.ask().is_some_and(same)
        });
        if let Some(verdict) = known.and_then(Step::reply).and_then(|reply| verdict::parse(&reply.text).ok()) {
            return Ok(verdict);
        }
        // Its calls are none of the worker's: one for each delivery, and some to spare for those given back uncounted.
        let effect = office.effect_of_asking(&self.record);
        let deliveries = office.retry_of(&self.record).limit(effect, self.record.task.deadline);
        let made = u64::from(journal::asked(&self.steps, self.record.generation, Purpose::Verify));
        if let Some(stuck) = stuck::out_of_steps(made, u64::from(deliveries) + CALLS_SPARE) {
            return Err(Tried::Failed(Cause::Loop { evidence: format!("{agent} verifies: {}", stuck.evidence()) }));
        }
        let step = self.put(ask, &second.model, &request, Vec::new()).await?;
        let known = self.steps.iter().find(|known| known.number == step);
        let said = known.and_then(Step::reply).map_or("", |reply| reply.text.as_str());
        verdict::parse(said).map_err(|error| unusable(format!("{agent} gave no usable verdict: {error}")))
    }
}

/// What verification is called where servers of tools are named.
fn verifier() -> Integration {
    Integration::new("verify").expect("`verify` is a name")
}
