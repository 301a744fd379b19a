//! What the models cost, as their providers saw it, and how much of it came to nothing.

use std::collections::BTreeMap;

use super::BillLine;
use super::ends::Ends;
use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::config::Config;
use crate::journal::{Intent, Outcome, Step};
use crate::prices::{self, ModelFacts};
use crate::sim::play::Run;
use crate::sim::play::books::{Call, CallEnd};

/// The bill of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Bill {
    /// A line for each model.
    pub(super) lines: Vec<BillLine>,
    /// Tokens of all calls.
    pub(super) tokens: u64,
    /// Their price; none when that of one is not known.
    pub(super) micro_usd: Option<u64>,
    /// Tokens that came to nothing.
    pub(super) wasted_tokens: u64,
    /// Their price.
    pub(super) wasted_micro_usd: Option<u64>,
    /// Calls for tasks: all but those of the CEO's adviser.
    pub(super) work_calls: u64,
    /// Answers that were used: those in the conversation that led to an accepted answer.
    pub(super) used: u64,
    /// The price of each call, in their order.
    pub(super) each: Vec<Option<u64>>,
}

/// Prices, looked up once a model.
struct Prices<'a> {
    config: &'a Config,
    known: BTreeMap<ModelRef, ModelFacts>,
}

impl Prices<'_> {
    /// Nothing costs nothing, whoever does not bill it.
    fn of(&mut self, model: &ModelRef, usage: Usage) -> Option<u64> {
        if usage.total() == 0 {
            return Some(0);
        }
        if !self.known.contains_key(model) {
            self.known.insert(model.clone(), self.config.model_facts(model));
        }
        prices::price(usage, &self.known[model])
    }
}

/// The sum of two prices; unknown when one is.
fn plus(sum: Option<u64>, more: Option<u64>) -> Option<u64> {
    Some(sum?.saturating_add(more?))
}

impl Bill {
    pub(super) fn of(run: &Run, ends: &Ends) -> Self {
        let mut prices = Prices { config: &run.config, known: BTreeMap::new() };
        let mut bill = Self { micro_usd: Some(0), ..Self::default() };
        let mut lines: BTreeMap<ModelRef, BillLine> = BTreeMap::new();
        // Advice that was given came to something, whatever was done with it.
        let (mut advice, mut advice_usd) = (0, Some(0));
        for call in &run.books.calls {
            let model = ModelRef { provider: call.provider.clone(), model: call.model.clone() };
            let tokens = call.usage.total();
            let price = prices.of(&model, call.usage);
            let line =
                lines.entry(model.clone()).or_insert(BillLine { model, calls: 0, tokens: 0, micro_usd: Some(0) });
            line.calls += 1;
            line.tokens += tokens;
            line.micro_usd = plus(line.micro_usd, price);
            bill.tokens += tokens;
            bill.micro_usd = plus(bill.micro_usd, price);
            bill.each.push(price);
            bill.work_calls += u64::from(!call.adviser);
            if call.adviser && answered(call) {
                advice += tokens;
                advice_usd = plus(advice_usd, price);
            }
        }
        bill.lines = lines.into_values().collect();
        let (mut used, mut tokens, mut micro_usd) = (0, advice, advice_usd);
        for (record, steps) in run.records.iter().zip(&run.steps) {
            if !ends.answered.contains(&record.task.id) {
                continue;
            }
            for (model, usage) in used_answers(steps) {
                used += 1;
                tokens += usage.total();
                micro_usd = plus(micro_usd, prices.of(model, usage));
            }
        }
        bill.used = used;
        bill.wasted_tokens = bill.tokens.saturating_sub(tokens);
        bill.wasted_micro_usd = bill.micro_usd.zip(micro_usd).map(|(all, used)| all.saturating_sub(used));
        bill
    }

    /// Calls for each answer that was used; without end when there was none.
    #[allow(clippy::cast_precision_loss, reason = "a count of calls")]
    pub(super) fn calls_per_answer(&self) -> f64 {
        if self.work_calls == 0 { 0.0 } else { self.work_calls as f64 / self.used as f64 }
    }
}

fn answered(call: &Call) -> bool {
    matches!(call.ended, Some((_, CallEnd::Answered)))
}

/// The answers of a task that was done that led to its end: accepted as they came, and since the conversation last
/// began anew.
fn used_answers(steps: &[Step]) -> impl Iterator<Item = (&ModelRef, Usage)> {
    let anew = |step: &Step| matches!(&step.intent, Intent::Ask(ask) if ask.fresh && ask.purpose.is_work());
    let first = steps.iter().filter(|step| anew(step)).map(|step| step.number).max().unwrap_or_default();
    steps.iter().filter(move |step| step.number >= first && step.refused.is_none() && !step.late).filter_map(|step| {
        match (&step.intent, &step.outcome) {
            (Intent::Ask(ask), Some(Outcome::Replied(reply))) => Some((&ask.model, reply.usage)),
            (Intent::Ask(_) | Intent::Call(_) | Intent::Probe { .. }, _) => None,
        }
    })
}
