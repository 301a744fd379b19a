//! What a call costs, in millionths of a US dollar; an unknown price is unknown, never 0.
//!
//! Integers, because sums of money are compared with limits: a price is held as micro-dollars for a million tokens, a
//! cost is rounded up once, at the end.

use std::str::FromStr;

use crate::agent::ModelRef;
use crate::cause::Usage;

/// What is known of a model. Everything may be unknown, and unknown is never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// How many tokens its context holds: the most a request may have it read.
    pub context: Option<u64>,
    /// The most tokens it can write in one answer, whatever it is asked for.
    pub max_output: Option<u64>,
    /// US dollars for a million tokens read.
    pub usd_per_million_input: Option<f64>,
    /// US dollars for a million tokens written.
    pub usd_per_million_output: Option<f64>,
    /// US dollars for a million tokens read from the provider's cache; the input price when unknown.
    pub usd_per_million_cache_read: Option<f64>,
    /// US dollars for a million tokens written to the provider's cache; the input price when unknown.
    pub usd_per_million_cache_write: Option<f64>,
    /// What long requests cost instead, where the vendor makes that difference.
    pub long: Option<LongPrices>,
}

/// The prices of a request that reads more than `above` tokens, for all of it. What is unknown is as for a short one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LongPrices {
    /// More tokens read than this, from the cache and to it included, and these prices apply.
    pub above: u64,
    /// US dollars for a million tokens read.
    pub usd_per_million_input: Option<f64>,
    /// US dollars for a million tokens written.
    pub usd_per_million_output: Option<f64>,
    /// US dollars for a million tokens read from the provider's cache.
    pub usd_per_million_cache_read: Option<f64>,
    /// US dollars for a million tokens written to the provider's cache.
    pub usd_per_million_cache_write: Option<f64>,
}

impl ModelFacts {
    /// These facts, and `other`'s for what is not known here, field by field. Who sets a price of its own has said
    /// what long requests cost too: `other`'s long prices do not come with it.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let priced = self.usd_per_million_input.is_some() || self.usd_per_million_output.is_some();
        Self {
            context: self.context.or(other.context),
            max_output: self.max_output.or(other.max_output),
            usd_per_million_input: self.usd_per_million_input.or(other.usd_per_million_input),
            usd_per_million_output: self.usd_per_million_output.or(other.usd_per_million_output),
            usd_per_million_cache_read: self.usd_per_million_cache_read.or(other.usd_per_million_cache_read),
            usd_per_million_cache_write: self.usd_per_million_cache_write.or(other.usd_per_million_cache_write),
            long: self.long.or(other.long.filter(|_| !priced)),
        }
    }

    /// With `dearest`'s price where the input or the output price is unknown: for promises, never for records.
    #[must_use]
    pub fn at_worst(self, dearest: &Self) -> Self {
        let mut facts = self;
        if micros(facts.usd_per_million_input).is_none() {
            facts.usd_per_million_input = dearest.usd_per_million_input;
            facts.usd_per_million_cache_write =
                dearer([facts.usd_per_million_cache_write, dearest.usd_per_million_cache_write]);
            facts.long = None;
        }
        if micros(facts.usd_per_million_output).is_none() {
            facts.usd_per_million_output = dearest.usd_per_million_output;
        }
        facts
    }
}

/// The cost of `usage` in micro-USD, rounded up; `None` unless both the input and the output price are known.
///
/// Cache reads and writes fall back to the input price, which never understates a read. `usage` is of one call: whether
/// the long prices apply is decided by what the call read.
#[must_use]
pub fn price(usage: Usage, facts: &ModelFacts) -> Option<u64> {
    let read = usage.input.saturating_add(usage.cache_read).saturating_add(usage.cache_write);
    let long = facts.long.filter(|long| read > long.above).unwrap_or_default();
    let input = micros(long.usd_per_million_input.or(facts.usd_per_million_input))?;
    let output = micros(long.usd_per_million_output.or(facts.usd_per_million_output))?;
    let cache_read = micros(long.usd_per_million_cache_read.or(facts.usd_per_million_cache_read)).unwrap_or(input);
    let cache_write = micros(long.usd_per_million_cache_write.or(facts.usd_per_million_cache_write)).unwrap_or(input);
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

/// The dearest of these prices that makes sense.
fn dearer(prices: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    prices.into_iter().flatten().filter(|price| micros(Some(*price)).is_some()).reduce(f64::max)
}

/// What the snapshot was read from.
pub const SNAPSHOT_SOURCE: &str = "litellm 1.109.1 (PyPI, MIT), model_prices_and_context_window_backup.json";

/// When the snapshot was read. Prices move: the operator's own configuration goes before it.
pub const SNAPSHOT_DATE: &str = "2026-11-25";

/// The snapshot, as it was written down: one model a line, its header says what the columns are.
const SNAPSHOT: &str = include_str!("prices.tsv");

/// A model of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    /// Who serves it under this name.
    pub vendor: &'static str,
    /// Its name, as the vendor knows it.
    pub model: &'static str,
    /// What is known of it.
    pub facts: ModelFacts,
}

/// Every model of the dated snapshot.
pub fn snapshot() -> impl Iterator<Item = Listed> {
    lines().filter_map(read)
}

/// Its lines, without the header.
fn lines() -> impl Iterator<Item = &'static str> {
    SNAPSHOT.lines().filter(|line| !line.starts_with('#'))
}

/// A line of the snapshot. A test reads them all, so none is left out here unseen.
fn read(line: &'static str) -> Option<Listed> {
    let columns: Vec<&'static str> = line.split('\t').collect();
    let [vendor, model, context, max_output, input, output, cache_read, cache_write, long @ ..] = columns.as_slice()
    else {
        return None;
    };
    let [above, long_input, long_output, long_read, long_write] = long else { return None };
    let long = match *above {
        "-" => None,
        above => Some(LongPrices {
            above: above.parse().ok()?,
            usd_per_million_input: known(long_input)?,
            usd_per_million_output: known(long_output)?,
            usd_per_million_cache_read: known(long_read)?,
            usd_per_million_cache_write: known(long_write)?,
        }),
    };
    let facts = ModelFacts {
        context: known(context)?,
        max_output: known(max_output)?,
        usd_per_million_input: known(input)?,
        usd_per_million_output: known(output)?,
        usd_per_million_cache_read: known(cache_read)?,
        usd_per_million_cache_write: known(cache_write)?,
        long,
    };
    Some(Listed { vendor, model, facts })
}

/// A cell: `-` is unknown, and what is no number is no cell.
fn known<T: FromStr>(cell: &str) -> Option<Option<T>> {
    if cell == "-" { Some(None) } else { cell.parse().ok().map(Some) }
}

/// What the snapshot knows of a model of exactly this name. The same open model is served by many under names with
/// slashes, each at a price of its own: such a name is known of its own vendor only.
#[must_use]
pub fn listed(model: &ModelRef) -> Option<ModelFacts> {
    // Asked at every call of a model: only lines that have the name in a cell are read.
    let cell = format!("\t{}\t", model.model);
    let line = |(at, _)| SNAPSHOT[..at].rfind('\n').map_or(0, |end| end + 1);
    let named = SNAPSHOT.match_indices(&cell).map(line).filter_map(|at| SNAPSHOT[at..].lines().next()).filter_map(read);
    let is = |listed: &Listed| {
        let ours = listed.vendor == model.provider.as_str() || !model.model.contains('/');
        listed.model == model.model && ours
    };
    named.filter(is).map(|listed| listed.facts).next()
}

/// The dearest there is: the highest price of each kind among the snapshot and `known`, long requests included. What a
/// model without a known price is taken to cost when money is set aside for it, until somebody says otherwise.
#[must_use]
pub fn dearest(known: impl IntoIterator<Item = ModelFacts>) -> ModelFacts {
    let mut dearest = ModelFacts::default();
    for facts in snapshot().map(|listed| listed.facts).chain(known) {
        let long = facts.long.unwrap_or_default();
        for (dear, prices) in [
            (&mut dearest.usd_per_million_input, [facts.usd_per_million_input, long.usd_per_million_input]),
            (&mut dearest.usd_per_million_output, [facts.usd_per_million_output, long.usd_per_million_output]),
            (
                &mut dearest.usd_per_million_cache_read,
                [facts.usd_per_million_cache_read, long.usd_per_million_cache_read],
            ),
            (
                &mut dearest.usd_per_million_cache_write,
                [facts.usd_per_million_cache_write, long.usd_per_million_cache_write],
            ),
        ] {
            *dear = dearer([*dear].into_iter().chain(prices));
        }
    }
    dearest
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage { input: 1_000, output: 100, cache_read: 10_000, cache_write: 500 };

    fn facts(input: Option<f64>, output: Option<f64>, read: Option<f64>, write: Option<f64>) -> ModelFacts {
        ModelFacts {
            usd_per_million_input: input,
            usd_per_million_output: output,
            usd_per_million_cache_read: read,
            usd_per_million_cache_write: write,
            ..ModelFacts::default()
        }
    }

    fn model(name: &str) -> ModelRef {
        name.parse().expect("a model")
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
    fn a_long_request_is_charged_at_the_long_prices_all_of_it() {
        let long = LongPrices { above: 1_000, usd_per_million_input: Some(4.0), ..LongPrices::default() };
        let facts = ModelFacts { long: Some(long), ..facts(Some(2.0), Some(10.0), Some(0.2), None) };
        for (input, cache_read, expected) in [
            // 1000 * 2 + 10 * 10
            (1_000, 0, 2_100),
            // 1001 * 4 + 10 * 10: the output price of long requests is not known to differ
            (1_001, 0, 4_104),
            // 500 * 4 + 501 * 0.2 + 10 * 10, rounded up: what is read from the cache is read
            (500, 501, 2_201),
        ] {
            let usage = Usage { input, output: 10, cache_read, cache_write: 0 };
            assert_eq!(price(usage, &facts), Some(expected), "{input} {cache_read}");
        }
    }

    #[test]
    fn every_line_of_the_snapshot_is_read_and_knows_its_prices() {
        let lines = SNAPSHOT.lines().filter(|line| !line.starts_with('#'));
        assert_eq!((lines.clone().count(), snapshot().count()), (64, 64));
        for line in lines {
            let listed = read(line).unwrap_or_else(|| panic!("{line}"));
            assert!(price(USAGE, &listed.facts).is_some_and(|cost| cost > 0), "{line}");
            assert!(listed.facts.context.is_some_and(|context| context >= 100_000), "{line}");
            let twins = snapshot().filter(|other| (other.vendor, other.model) == (listed.vendor, listed.model));
            assert_eq!(twins.count(), 1, "{line}");
        }
        for broken in ["", "a\tb\t1\t1\t1\t1\t1\t1", "a\tb\tx\t1\t1\t1\t1\t1\t-\t-\t-\t-\t-"] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_snapshot_says_where_it_comes_from() {
        let header: String = SNAPSHOT.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(header.contains(SNAPSHOT_SOURCE) && header.contains(SNAPSHOT_DATE), "{header}");
    }

    #[test]
    fn the_snapshot_knows_exact_names_only() {
        let opus = listed(&model("anthropic/claude-opus-5-5")).expect("listed");
        assert_eq!(
            opus,
            ModelFacts {
                context: Some(1_000_000),
                max_output: Some(128_000),
                ..facts(Some(4.0), Some(20.0), Some(0.2), Some(5.0))
            }
        );
        assert_eq!(price(Usage { input: 10, output: 1, ..Usage::default() }, &opus), Some(60));
        let sol = listed(&model("openai/gpt-6-sol")).expect("listed");
        let long = sol.long.expect("long prices");
        assert_eq!((long.above, long.usd_per_million_output), (272_000, Some(15.0)));
        for (name, known) in [
            ("anthropic/claude-opus-9", false),
            ("azure/gpt-5.4", true),
            ("groq/openai/gpt-oss-120b", true),
            ("openrouter/openai/gpt-oss-120b", false),
        ] {
            assert_eq!(listed(&model(name)).is_some(), known, "{name}");
        }
    }

    #[test]
    fn what_the_operator_says_goes_before_the_snapshot_field_by_field() {
        let sol = listed(&model("openai/gpt-6-sol")).expect("listed");
        let context = ModelFacts { context: Some(100_000), ..ModelFacts::default() };
        assert_eq!(context.or(sol), ModelFacts { context: Some(100_000), ..sol });
        let agreed = facts(Some(1.5), None, None, None);
        let expected = ModelFacts { usd_per_million_input: Some(1.5), long: None, ..sol };
        assert_eq!(agreed.or(sol), expected);
    }

    #[test]
    fn the_dearest_is_the_highest_of_each_price_and_stands_in_for_unknown_ones() {
        // gpt-5.5-pro on long requests; claude-mythos writes the cache at 12.5, gpt-6-astra's long requests at 25.
        let listed = facts(Some(60.0), Some(270.0), Some(2.0), Some(25.0));
        assert_eq!(dearest([]), listed);
        let own = facts(Some(75.0), Some(f64::NAN), None, None);
        assert_eq!(dearest([own]), ModelFacts { usd_per_million_input: Some(75.0), ..listed });
        for (known, expected) in [
            (ModelFacts::default(), facts(Some(60.0), Some(270.0), None, Some(25.0))),
            (facts(Some(1.0), None, None, None), facts(Some(1.0), Some(270.0), None, None)),
            (facts(Some(0.0), Some(0.0), None, None), facts(Some(0.0), Some(0.0), None, None)),
        ] {
            assert_eq!(known.at_worst(&listed), expected, "{known:?}");
        }
    }
}
