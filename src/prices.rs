//! What a call costs, in millionths of a US dollar; an unknown price is unknown, never 0.
//!
//! Integers, because sums of money are compared with limits: a price is held as micro-dollars for a million tokens, a
//! cost is rounded up once, at the end.

use crate::cause::Usage;

/// What is known of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// How many tokens its context holds.
    pub context: Option<u64>,
    /// US dollars for a million tokens read. Unknown is unknown, never 0.
    pub usd_per_million_input: Option<f64>,
    /// US dollars for a million tokens written.
    pub usd_per_million_output: Option<f64>,
    /// US dollars for a million tokens read from the provider's cache; the input price when unknown.
    pub usd_per_million_cache_read: Option<f64>,
    /// US dollars for a million tokens written to the provider's cache; the input price when unknown.
    pub usd_per_million_cache_write: Option<f64>,
}

/// The cost of `usage` in micro-USD, rounded up; `None` unless both the input and the output price are known.
///
/// Cache reads and writes fall back to the input price, which never understates a read.
#[must_use]
pub fn price(usage: Usage, facts: &ModelFacts) -> Option<u64> {
    let input = micros(facts.usd_per_million_input)?;
    let output = micros(facts.usd_per_million_output)?;
    let cache_read = micros(facts.usd_per_million_cache_read).unwrap_or(input);
    let cache_write = micros(facts.usd_per_million_cache_write).unwrap_or(input);
    let sum = [
        (usage.input, input),
        (usage.output, output),
        (usage.cache_read, cache_read),
        (usage.cache_write, cache_write),
    ]
    .into_iter()
    .map(|(tokens, price)| u128::from(tokens) * u128::from(price))
    .sum::<u128>();
    Some(u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// US dollars for a million tokens as micro-dollars for a million tokens; nonsense is unknown.
fn micros(usd: Option<f64>) -> Option<u64> {
    let micros = (usd? * 1_000_000.0).round();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite, not negative and below 10^15, where every integer is exact"
    )]
    (0.0..1e15).contains(&micros).then_some(micros as u64)
}

/// What [`SNAPSHOT`] was read from.
pub const SNAPSHOT_SOURCE: &str = "litellm 1.109.1, model_prices_and_context_window_backup.json (MIT)";

/// When [`SNAPSHOT`] was read. Prices move: the operator's own configuration goes before it.
pub const SNAPSHOT_DATE: &str = "2026-11";

/// Known prices in US dollars for a million tokens: model, input, output, cache read.
pub const SNAPSHOT: &[(&str, f64, f64, f64)] = &[
    ("claude-opus-5-5", 4.0, 20.0, 0.2),
    ("claude-sonnet-5-5", 2.0, 10.0, 0.1),
    ("claude-haiku-5-5", 0.1, 0.5, 0.01),
    ("gpt-6-astra", 10.0, 50.0, 1.0),
    ("gpt-6-sol", 2.0, 10.0, 0.2),
    ("gpt-6-luna", 0.1, 0.5, 0.01),
    ("gpt-5.4-mini", 0.75, 4.5, 0.075),
    ("gemini-3.8-flash", 0.75, 3.75, 0.075),
    ("gemini-4-argon", 2.0, 10.0, 0.1),
    ("deepseek-v4-pro", 1.32, 3.96, 0.044),
    ("mistral-large", 0.5, 1.5, 0.05),
];

/// What the snapshot knows of a model of exactly this name. The size of its context is not in it.
#[must_use]
pub fn listed(model: &str) -> Option<ModelFacts> {
    SNAPSHOT.iter().find(|(name, ..)| *name == model).map(|&(_, input, output, cache_read)| ModelFacts {
        context: None,
        usd_per_million_input: Some(input),
        usd_per_million_output: Some(output),
        usd_per_million_cache_read: Some(cache_read),
        usd_per_million_cache_write: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage { input: 1_000, output: 100, cache_read: 10_000, cache_write: 500 };

    fn facts(input: Option<f64>, output: Option<f64>, read: Option<f64>, write: Option<f64>) -> ModelFacts {
        ModelFacts {
            context: None,
            usd_per_million_input: input,
            usd_per_million_output: output,
            usd_per_million_cache_read: read,
            usd_per_million_cache_write: write,
        }
    }

    #[test]
    fn a_cost_is_tokens_times_price_rounded_up_once() {
        for (facts, expected) in [
            // 1000 * 3 + 100 * 15 + 10000 * 0.3 + 500 * 3.75
            (facts(Some(3.0), Some(15.0), Some(0.3), Some(3.75)), Some(9_375)),
            // cache at the input price: 11500 * 3 + 100 * 15
            (facts(Some(3.0), Some(15.0), None, None), Some(36_000)),
            // 11500 * 0.07 + 100 * 0.07 is 812 exactly, whatever floating point thinks
            (facts(Some(0.07), Some(0.07), None, None), Some(812)),
            (facts(Some(0.000_001), Some(0.0), None, None), Some(1)),
            (facts(Some(0.0), Some(0.0), None, None), Some(0)),
        ] {
            assert_eq!(price(USAGE, &facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn an_unknown_price_is_unknown_even_for_nothing() {
        for facts in [
            facts(None, None, None, None),
            facts(Some(3.0), None, None, None),
            facts(None, Some(15.0), Some(1.0), Some(1.0)),
            facts(Some(-1.0), Some(1.0), None, None),
            facts(Some(f64::NAN), Some(1.0), None, None),
            facts(Some(f64::INFINITY), Some(1.0), None, None),
        ] {
            assert_eq!(price(USAGE, &facts), None, "{facts:?}");
            assert_eq!(price(Usage::default(), &facts), None, "{facts:?}");
        }
    }

    #[test]
    fn the_snapshot_knows_exact_names_only() {
        let opus = listed("claude-opus-5-5").expect("listed");
        assert_eq!(price(Usage { input: 10, output: 1, ..Usage::default() }, &opus), Some(60));
        assert_eq!(listed("claude-opus-9"), None);
        for (name, ..) in SNAPSHOT {
            assert!(price(USAGE, &listed(name).expect("listed")).is_some_and(|cost| cost > 0), "{name}");
        }
    }
}
