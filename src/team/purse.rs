//! The team's money: what a call may cost is set aside before it is sent, and what it did cost takes its place.
//!
//! A mutex and no actor, like the guards. The journal is the truth: at a start the purse is filled from it.

use std::sync::{Arc, Mutex, PoisonError};

use super::drawer;
use super::office::Office;
use crate::agent::ModelRef;
use crate::budget::{self, Ask, Caps, DAY, Purse, Spending};
use crate::cause::Usage;
use crate::conversation::Message;
use crate::engine::{self, Engine};
use crate::fees::{Fee, Fees};
use crate::journal::Step;
use crate::llm::Request;
use crate::record::Record;
use crate::task::{AgentName, TaskId};
use crate::time::Timestamp;

/// What is spent and set aside, for all to see.
pub(crate) struct Money(Mutex<Purse>);

impl Money {
    /// As the journals tell it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn restore(engine: &dyn Engine, now: Timestamp) -> Result<Self, engine::Error> {
        let day_ago = Timestamp::from_millis(now.millis() - i64::try_from(DAY.as_millis()).unwrap_or(i64::MAX));
        let spent = engine.spendings(day_ago).await?.into_iter();
        let spent = spent.map(|spent| Spending { at: spent.at, agent: spent.agent, micro_usd: spent.micro_usd });
        let fees = drawer::all::<Fees>(engine).await?.into_iter().flat_map(|stored| stored.value.0);
        let fees = fees.map(|fee| Spending { at: fee.at, agent: adviser(), micro_usd: fee.micro_usd });
        Ok(Self(Mutex::new(Purse::restore(spent.chain(fees), now))))
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Purse) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Money set aside for one call. Dropped without a word it stays spent: nobody knows what came of the call.
pub(crate) struct Reserved {
    office: Arc<Office>,
    id: u64,
    worst: u64,
    read_about: u64,
}

impl Reserved {
    /// The most the call can cost, in millionths of a US dollar.
    pub(crate) const fn worst(&self) -> u64 {
        self.worst
    }

    /// About how many tokens it reads.
    pub(crate) const fn read_about(&self) -> u64 {
        self.read_about
    }

    /// What the call did cost, as far as caps are concerned.
    pub(crate) fn settle(self, counted: u64) {
        let now = self.office.now();
        self.office.money.with(|purse| purse.settle(self.id, counted, now));
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Settled before, this changes nothing.
        let now = self.office.now();
        self.office.money.with(|purse| purse.forfeit(self.id, now));
    }
}

/// Under which name advice is paid for: no agent's, as it is work on no task.
fn adviser() -> AgentName {
    AgentName::new("ceo-adviser").expect("`ceo-adviser` is a name")
}

impl Office {
    /// Sets the worst cost of a call aside; else says which cap stands against it.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        record: &Record,
        model: &ModelRef,
        request: &Request,
        steps: &[Step],
    ) -> Result<Reserved, String> {
        let facts = self.facts(model);
        let schema = request.schema.as_ref().map_or(0, |schema| schema.to_string().len());
        let tools: usize =
            request.tools.iter().map(|tool| tool.description.len() + tool.schema.to_string().len()).sum();
        let said: usize = request.messages.iter().map(Message::bytes).sum();
        let bytes = (request.system.len() + said + schema + tools) as u64;
        if !budget::fits(bytes, 0, &facts) {
            return Err(format!(
                "the request has {bytes} bytes; a model whose context is unknown is sent at most {} tokens; declare \
                 `context` of {model}",
                budget::INPUT_TOKENS_MAX
            ));
        }
        let written = u64::from(request.max_output_tokens);
        let worst = budget::worst(bytes, 0, written, &facts, &self.dearest);
        let caps = self.config.caps(&record.task.task_type, &record.agent);
        let task_spent = steps.iter().fold(0, |sum: u64, step| sum.saturating_add(step.counted));
        let ask = Ask { task: record.task.id, task_spent, agent: &record.agent, micro_usd: worst };
        self.set_aside(&ask, &caps, budget::about(bytes))
    }

    /// Sets the worst a call of the CEO's adviser can cost aside. It is work on no task: the team's caps hold for it.
    ///
    /// # Errors
    /// Which cap it could pass, in words.
    pub(crate) fn set_aside_for_advice(self: &Arc<Self>, task: TaskId, worst: u64) -> Result<Reserved, String> {
        let budget = &self.config.budget;
        let caps = Caps { team_hour: budget.micro_usd_per_hour, team_day: budget.micro_usd_per_day, ..Caps::default() };
        // Its speed has no limit.
        self.set_aside(&Ask { task, task_spent: 0, agent: &adviser(), micro_usd: worst }, &caps, 0)
    }

    /// What advice has cost within the hour, what is set aside for it included, in millionths of a US dollar.
    pub(crate) fn advice_of_the_hour(&self) -> u64 {
        let now = self.now();
        self.money.with(|purse| purse.agent_hour(&adviser(), now))
    }

    /// Writes down what asking the adviser costs: before it is asked, with what it said when it has, and without that once it
    /// is carried out.
    pub(crate) async fn note_fee(&self, fee: Fee) -> Result<(), engine::Error> {
        drawer::change_only(&*self.engine, self.now(), |fees: Fees| fees.with(fee.clone())).await
    }

    fn set_aside(self: &Arc<Self>, ask: &Ask<'_>, caps: &Caps, read_about: u64) -> Result<Reserved, String> {
        let now = self.now();
        let reserved = self.money.with(|purse| purse.reserve(ask, caps, now)).map_err(|over| over.to_string())?;
        Ok(Reserved { office: Arc::clone(self), id: reserved.id, worst: ask.micro_usd, read_about })
    }

    /// What a call counts for once its tokens are known.
    pub(crate) fn counted(&self, model: &ModelRef, usage: Usage, micro_usd: Option<u64>) -> u64 {
        micro_usd.unwrap_or_else(|| budget::charge(usage, &self.facts(model), &self.dearest))
    }
}
