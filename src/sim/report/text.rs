//! A report as a screen of text: 80 columns, what matters first, no colour needed.

use std::fmt::Write as _;
use std::time::Duration;

use super::spread::{Compared, Played};
use super::story::{many, rounded};
use super::{Refusals, Report, words};
use crate::assertion::Measure;
use crate::redact::one_line;

/// How wide the screen is, in columns.
const WIDTH: usize = 80;
/// How wide the names on its left are.
const NAMES: usize = 14;

/// What is shown: one seed in full, several by their spread.
#[must_use]
pub fn text(played: &Played) -> String {
    match played.reports.as_slice() {
        [] => "nothing was played\n".to_owned(),
        [one] => single(one),
        _ => several(played),
    }
}

/// Text within the width, the lines after the first indented.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

fn row(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<NAMES$}{}", wrapped(value, NAMES));
}

fn head(out: &mut String, name: &str, about: &str, what: &str) {
    let _ = writeln!(out, "{}", wrapped(&format!("{} | {what}", one_line(name, 200)), 0));
    if !about.is_empty() {
        let _ = writeln!(out, "{}", wrapped(&one_line(about, 1_000), 0));
    }
    out.push('\n');
}

fn span(seconds: f64) -> String {
    rounded(Duration::from_secs_f64(seconds.max(0.0)))
}

fn single(report: &Report) -> String {
    let mut out = String::new();
    let rest = if report.at_rest { "all at rest after" } else { "not at rest after" };
    let what = format!("seed {} | {} of work, {rest} {}", report.seed, span(report.run_s), span(report.elapsed_s));
    head(&mut out, &report.scenario, &report.about, &what);
    for (name, value) in rows(report) {
        row(&mut out, name, &value);
    }
    out.push_str("\nTHE WORST HOUR\n");
    for sentence in &report.story {
        let _ = writeln!(out, "  {}", wrapped(sentence, 2));
    }
    if let Some(beside) = &report.published {
        out.push_str("\nWHAT WAS PUBLISHED\n");
        for line in beside.text.lines() {
            // Rows of the table stand as they are.
            let line = if line.starts_with("  ") { line.to_owned() } else { format!("  {}", wrapped(line, 2)) };
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    if !report.assertions.is_empty() {
        out.push_str("\nWHAT MUST BE TRUE\n");
    }
    for checked in &report.assertions {
        let mark = if checked.holds { "ok" } else { "FAILED" };
        let _ = writeln!(out, "  {mark:<8}{:<40}{}", checked.assertion, checked.words);
    }
    for violation in &report.violations {
        let _ = writeln!(out, "  broken  {}", wrapped(&one_line(violation, 500), 10));
    }
    out
}

/// The figures of one run, a row each: its name and what is said.
pub(super) fn rows(report: &Report) -> Vec<(&'static str, String)> {
    let is = |measure| report.words(measure);
    let classes: Vec<String> =
        report.deaths_by_class.iter().map(|(class, number)| format!("{number} {class}")).collect();
    let classes = if classes.is_empty() { String::new() } else { format!(" ({})", classes.join(", ")) };
    let unpriced: Vec<String> =
        report.bill.iter().filter(|line| line.micro_usd.is_none()).map(|line| line.model.to_string()).collect();
    let unpriced = match unpriced.is_empty() {
        true => String::new(),
        false => format!("; nobody knows the price of {}", unpriced.join(", ")),
    };
    let mut rows = vec![
        (
            "TASKS",
            format!(
                "{} submitted, {} done ({}), {} lost, {} open, {} dead, {} with a person, {} cancelled",
                is(Measure::Submitted),
                is(Measure::Done),
                is(Measure::DoneShare),
                is(Measure::Lost),
                is(Measure::Open),
                is(Measure::Dead),
                is(Measure::WaitingHuman),
                is(Measure::Cancelled)
            ),
        ),
        (
            "DONE",
            format!(
                "{} on the first try, {} after a retry, {} on a fallback, {} after reassignment, {} by a human",
                is(Measure::DoneFirstTry),
                is(Measure::DoneAfterRetry),
                is(Measure::DoneOnFallback),
                is(Measure::DoneAfterReassignment),
                is(Measure::DoneByHuman)
            ),
        ),
        (
            "DEAD LETTERS",
            match report.words(Measure::DeadLetters) {
                none if none == "0" => "none".to_owned(),
                deaths => format!(
                    "{deaths}{classes}, of {} of the tasks; {} of those recovered without a person",
                    is(Measure::DeadLetterShare),
                    is(Measure::RecoveredShare)
                ),
            },
        ),
        (
            "PEOPLE",
            format!(
                "{} in {}; {} of the CEO and of people",
                report.many(Measure::Pages, "page"),
                report.many(Measure::Incidents, "incident"),
                report.many(Measure::Decisions, "decision")
            ),
        ),
        (
            "DELAY",
            format!(
                "p50 {}, p95 {}, p99 {}, at most {}",
                is(Measure::DelayP50),
                is(Measure::DelayP95),
                is(Measure::DelayP99),
                is(Measure::DelayMax)
            ),
        ),
        (
            "CALLS",
            format!(
                "{} of models: {} a task, {} for each answer that was used; {} met a fault; retries: {}, parks: {}",
                is(Measure::Calls),
                is(Measure::CallsPerTask),
                is(Measure::CallsPerLogicalCall),
                is(Measure::CallsWhileDown),
                is(Measure::Retries),
                is(Measure::Parks)
            ),
        ),
        (
            "TWICE",
            format!(
                "{} done twice, {} repeated",
                report.many(Measure::Doubled, "task"),
                report.many(Measure::PaymentsRepeated, "payment")
            ),
        ),
        (
            "COST",
            format!(
                "{} tokens, {}; for nothing: {} tokens, {}{unpriced}",
                is(Measure::Tokens),
                is(Measure::Usd),
                is(Measure::WastedTokens),
                is(Measure::WastedUsd)
            ),
        ),
    ];
    if let Some(refused) = &report.refused {
        // Beside what was taken.
        rows.insert(1, ("REFUSED", refused_words(refused)));
    }
    rows
}

fn refused_words(refused: &Refusals) -> String {
    let times = match refused.times {
        times if times == refused.submissions => String::new(),
        times => format!(", {times} times in all"),
    };
    let later = match refused.never_taken {
        0 => "all taken later".to_owned(),
        never if never == refused.submissions => "never taken".to_owned(),
        never => format!("{never} of them never taken"),
    };
    format!("{}{times}, {later}; the first: {}", many(refused.submissions, "submission"), refused.first)
}

fn several(played: &Played) -> String {
    let mut out = String::new();
    let seeds: Vec<u64> = played.reports.iter().map(|report| report.seed).collect();
    let (first, last) = (seeds.first().copied().unwrap_or_default(), seeds.last().copied().unwrap_or_default());
    head(&mut out, &played.scenario, &played.about, &format!("{} seeds, {first} to {last}", seeds.len()));
    let _ = writeln!(out, "{:<26}{:>11}{:>11}{:>11}{:>10}{:>11}", "MEASURE", "MEDIAN", "P10", "P90", "LEAST", "MOST");
    for (measure, spread) in &played.spread {
        let [median, p10, p90, least, most] =
            [spread.median, spread.p10, spread.p90, spread.least, spread.most].map(|value| short(*measure, value));
        let _ = writeln!(out, "{:<26}{median:>11}{p10:>11}{p90:>11}{least:>10}{most:>11}", measure.as_str());
    }
    let asked = played.reports.first().map(|report| report.assertions.as_slice()).unwrap_or_default();
    if !asked.is_empty() {
        out.push_str("\nWHAT MUST BE TRUE\n");
    }
    for (place, checked) in asked.iter().enumerate() {
        let fails = played.reports.iter().filter(|report| report.assertions.get(place).is_some_and(|one| !one.holds));
        let failed: Vec<String> = fails.map(|report| report.seed.to_string()).collect();
        let mark = if failed.is_empty() { "ok" } else { "FAILED" };
        let held = format!("{} of {} seeds", seeds.len() - failed.len(), seeds.len());
        let not = if failed.is_empty() { String::new() } else { format!("; not with {}", failed.join(", ")) };
        let _ = writeln!(out, "  {mark:<8}{:<32}{}", checked.assertion, wrapped(&format!("{held}{not}"), 42));
    }
    out
}

fn short(measure: Measure, value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { words(measure, value) }
}

/// Two on the same seeds, a row for each measure that says anything.
#[must_use]
pub fn compared(compared: &Compared) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "A  {}", wrapped(&one_line(&compared.a, 300), 3));
    let _ = writeln!(out, "B  {}", wrapped(&one_line(&compared.b, 300), 3));
    let (first, last) = (compared.seeds.first(), compared.seeds.last());
    if let (Some(first), Some(last)) = (first, last) {
        let what = "the difference is B less A of the same seed: its median, and from P10 to P90";
        let _ =
            writeln!(out, "{}\n", wrapped(&format!("{} seeds, {first} to {last}; {what}", compared.seeds.len()), 0));
    }
    let _ = writeln!(out, "{:<24}{:>9} {:>9} {:>10} {:>17} {:>7}", "MEASURE", "A", "B", "B - A", "P10..P90", "SEEDS");
    let mut nothing = Vec::new();
    for row in &compared.measures {
        if row.is_nothing() {
            nothing.push(row.measure.as_str());
            continue;
        }
        let range = row.range();
        let seeds = format!("{}/{}", row.agree, row.of);
        let _ = writeln!(
            out,
            "{:<24}{:>9} {:>9} {:>10} {range:>17} {seeds:>7}",
            row.measure.as_str(),
            short(row.measure, row.a),
            short(row.measure, row.b),
            row.signed(row.difference.median),
        );
    }
    if !nothing.is_empty() {
        let _ = writeln!(out, "\n{}", wrapped(&format!("Nothing, or not known, in both: {}.", nothing.join(", ")), 0));
    }
    out
}
