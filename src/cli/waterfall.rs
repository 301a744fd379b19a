//! The attempts of a task as a picture in text: one lane a delivery, one bar a step, and the waits between them.

use std::time::Duration;

use super::output::{Table, cut, visible, wrapped};
use crate::budget::dollars;
use crate::delivery::{Attempt, AttemptEnd};
use crate::journal::{Intent, Outcome, Step, tally};
use crate::time::{Timestamp, format_duration};

/// Characters of a bar's lane: with name and numbers a line has 80.
const BAR: usize = 20;
/// Characters of a step's name.
const NAME: usize = 18;
/// Characters of what came of it.
const CAME: usize = 25;

/// The lanes, oldest first. Deliveries that left no attempt (given back before their end) are known by their steps.
pub(super) fn waterfall(attempts: &[Attempt], steps: &[Step], now: Timestamp) -> String {
    let mut fences: Vec<u64> = attempts.iter().map(|attempt| attempt.fence).collect();
    fences.extend(steps.iter().map(|step| step.fence));
    fences.sort_unstable();
    fences.dedup();
    let mut text = String::new();
    let mut before: Option<&Attempt> = None;
    for fence in fences {
        let attempt = attempts.iter().find(|attempt| attempt.fence == fence);
        let mine: Vec<&Step> = steps.iter().filter(|step| step.fence == fence).collect();
        text.push_str(&lane(fence, attempt, before, &mine, now));
        before = attempt.or(before);
    }
    text
}

fn lane(fence: u64, attempt: Option<&Attempt>, before: Option<&Attempt>, steps: &[&Step], now: Timestamp) -> String {
    let sum = tally(steps.iter().copied());
    let tokens = if sum.usage.total() > 0 {
        format!(", {}", price(sum.usage.total(), (sum.unpriced == 0).then_some(sum.micro_usd)))
    } else {
        String::new()
    };
    let mut text = String::new();
    let head = match attempt {
        Some(attempt) => {
            if !attempt.waited.is_zero() {
                let waited = format!("~~~ {} {} ~~~", format_duration(whole(attempt.waited)), waiting(before, attempt));
                text.push_str(&format!("    {waited}\n"));
            }
            let took = attempt.ended_at.map_or(now, |end| end).since(attempt.started_at);
            let end = attempt.end.map_or("running", |end| end.as_str());
            let failed = attempt.failure.as_ref().map(|failure| format!(" ({})", failure.kind)).unwrap_or_default();
            format!(
                "delivery {fence}: round {} attempt {}, {}, {}{tokens}: {end}{failed}",
                attempt.generation,
                attempt.number,
                attempt.agent,
                format_duration(whole(took))
            )
        }
        None => format!("delivery {fence}: given back{tokens}"),
    };
    text.push_str(&format!("{}\n", wrapped(&head, 0)));
    let start = attempt.map(|attempt| attempt.started_at).into_iter().chain(steps.iter().map(|step| step.at)).min();
    let ends = steps.iter().map(|step| step.ended_at.unwrap_or(step.at));
    let end = attempt.and_then(|attempt| attempt.ended_at).into_iter().chain(ends).max();
    let (Some(start), Some(end)) = (start, end) else { return text };
    for step in steps {
        let (name, came) = (name(step), came(step));
        // What a person found out long after is no work of the delivery.
        let ended = step.ended_at.map_or(end, |at| at.min(end));
        let took = step.ended_at.map(|at| format_duration(whole(at.since(step.at)))).unwrap_or_default();
        text.push_str(
            format!(
                "{:>4} {:<NAME$} |{}| {:<7} {}",
                step.number,
                cut(&visible(&name), NAME),
                bar(step.at.since(start), ended.since(start), end.since(start)),
                took,
                cut(&visible(&came), CAME),
            )
            .trim_end(),
        );
        text.push('\n');
    }
    text
}

/// A bar from one point of a span to another, at least one character.
fn bar(from: Duration, to: Duration, whole: Duration) -> String {
    let place = |at: Duration| {
        let share = if whole.is_zero() { 0.0 } else { at.as_secs_f64() / whole.as_secs_f64() };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of so many characters")]
        let place = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
        place
    };
    let start = place(from).min(BAR - 1);
    let end = place(to).clamp(start + 1, BAR);
    format!("{}{}{}", " ".repeat(start), "=".repeat(end - start), " ".repeat(BAR - end))
}

/// What it waited for.
fn waiting(before: Option<&Attempt>, this: &Attempt) -> &'static str {
    match before.and_then(|before| Some((before.end?, before.generation))) {
        None => "in the queue",
        Some((_, round)) if round != this.generation => "until it was sent round again",
        Some((AttemptEnd::Retry, _)) => "backoff",
        Some((AttemptEnd::Released, _)) => "parked",
        Some((AttemptEnd::Done | AttemptEnd::DeadLetter | AttemptEnd::Cancelled, _)) => "until it was sent round again",
    }
}

/// What a step is, in a few words.
pub(super) fn name(step: &Step) -> String {
    match &step.intent {
        Intent::Ask(ask) if ask.purpose.is_work() => ask.model.to_string(),
        Intent::Ask(ask) => format!("verify {}", ask.model),
        Intent::Call(call) => call.tool.to_string(),
        Intent::Probe { tool, of, .. } => format!("probe of {of}: {tool}"),
    }
}

/// What came of it, in a few words.
pub(super) fn came(step: &Step) -> String {
    let usage = step.usage();
    let mut text = match &step.outcome {
        None => "nothing known yet".to_owned(),
        Some(Outcome::Replied(reply)) if reply.calls.is_empty() => "answered".to_owned(),
        Some(Outcome::Replied(reply)) => format!("wants {}", reply.calls.len()),
        Some(Outcome::Returned { failed: false, .. }) => "ok".to_owned(),
        Some(Outcome::Returned { failed: true, .. }) => "failed, told".to_owned(),
        Some(Outcome::Failed { failure, .. }) => failure.kind.to_string(),
        Some(Outcome::Unknown { .. }) => "OUTCOME UNKNOWN".to_owned(),
        Some(Outcome::Judged { happened: true, .. }) => "happened".to_owned(),
        Some(Outcome::Judged { happened: false, .. }) => "did not happen".to_owned(),
    };
    if usage.total() > 0 {
        text.push_str(&format!(", {}", price(usage.total(), step.micro_usd())));
    }
    if step.refused.is_some() {
        text.push_str(", refused");
    }
    if step.late {
        text.push_str(", late");
    }
    text
}

fn price(tokens: u64, micro_usd: Option<u64>) -> String {
    format!("{tokens} tok {}", micro_usd.map_or("$?".to_owned(), dollars))
}

/// To the tenth of a second: a lane has no room for more.
fn whole(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis() / 100 * 100).unwrap_or(u64::MAX))
}

/// The steps of a journal as a table.
pub(super) fn table(steps: &[Step]) -> String {
    let mut table = Table::new(&["STEP", "DELIVERY", "WHAT", "OUTCOME", "TOKENS", "COST", "TOOK"]);
    for step in steps {
        let outcome = came(step);
        table.row(&[
            step.number.to_string(),
            format!("{} (round {} attempt {})", step.fence, step.generation, step.attempt),
            name(step),
            outcome.split(", ").filter(|part| !part.contains(" tok ")).collect::<Vec<_>>().join(", "),
            step.usage().total().to_string(),
            step.micro_usd().map(dollars).unwrap_or_default(),
            step.ended_at.map(|end| format_duration(whole(end.since(step.at)))).unwrap_or_default(),
        ]);
    }
    table.render("nothing was asked or called yet")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::Incarnation;
    use crate::delivery::Spent;
    use crate::doubt::tests::{asks, at, calls};
    use crate::task::{AgentName, Effect};

    #[test]
    fn a_bar_is_proportional_and_never_nothing() {
        let s = Duration::from_secs;
        for (from, to, whole, expected) in [
            (0, 12, 24, "==========          "),
            (12, 24, 24, "          =========="),
            (0, 0, 24, "=                   "),
            (24, 24, 24, "                   ="),
            (0, 0, 0, "=                   "),
        ] {
            assert_eq!(bar(s(from), s(to), s(whole)), expected, "{from} {to} {whole}");
        }
    }

    #[test]
    fn one_lane_a_delivery_with_waits_steps_and_what_they_came_to() {
        let attempt = |fence: u64, from: i64, to: i64, waited: u64, end| Attempt {
            generation: 1,
            number: u32::try_from(fence).expect("few"),
            fence,
            agent: AgentName::new("cto").expect("a name"),
            incarnation: Incarnation(1),
            started_at: at(from),
            waited: Duration::from_secs(waited),
            ended_at: Some(at(to)),
            end: Some(end),
            failure: None,
            spent: Spent::default(),
        };
        let attempts = [attempt(1, 8, 32, 8, AttemptEnd::Retry), attempt(2, 38, 50, 6, AttemptEnd::Done)];
        let unknown = Outcome::Unknown { failure: crate::doubt::tests::failure("gone") };
        let steps = [
            asks(1, 1, "x", &[("charge", json!({}))]),
            calls(2, 1, 1, Effect::Mutation, Some(unknown)),
            asks(4, 2, "", &[]),
        ];
        let text = waterfall(&attempts, &steps, at(60));
        let expected = "    ~~~ 8s in the queue ~~~
delivery 1: round 1 attempt 1, cto, 24s, 15 tok $0.01: retry
   1 sim/m              |  =                 | 2s      wants 1, 15 tok $0.01
   2 shop/charge        |          ==        | 2s      OUTCOME UNKNOWN
    ~~~ 6s backoff ~~~
delivery 2: round 1 attempt 2, cto, 12s, 15 tok $0.01: done
   4 sim/m              |   ====             | 2s      answered, 15 tok $0.01
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let table = table(&steps);
        assert!(table.contains("OUTCOME UNKNOWN") && table.contains("shop/charge"), "{table}");
    }
}
