//! What a simulated run came to: every measure against answers known beforehand, told the same in every form.

use std::time::Duration;

use backstop::assertion::Measure;
use backstop::definitions::{LoadedScenario, scenario_text};
use backstop::event::Happening;
use backstop::failure::Class;
use backstop::sim::library;
use backstop::sim::many::play_all;
use backstop::sim::play::books::{Message, Refused, Word};
use backstop::sim::play::{Run, feed, play};
use backstop::sim::report::figures::percentile;
use backstop::sim::report::spread::Played;
use backstop::sim::report::{Report, html, junit, text};
use backstop::task::Effect;

/// Three tasks a minute apart, answered in ten seconds each with a hundred tokens.
const QUIET: &str = r#"
run: 10m
load: [{ type: code_review, at: [0s, 1m, 2m] }]
models: { "*": { latency: 10s, output-tokens: 100 } }
"#;

fn loaded(text: &str) -> LoadedScenario {
    scenario_text("test.yaml", text, None).unwrap_or_else(|problems| panic!("{:#?}", problems.errors))
}

fn shipped(name: &str) -> LoadedScenario {
    let (name, text) = library::named(name).expect("it is shipped");
    scenario_text(&format!("{name}.yaml"), text, None).expect("it is sound")
}

fn report(text: &str) -> Report {
    let loaded = loaded(text);
    Report::of(&loaded, &play(&loaded, 7).expect("it is played"))
}

/// The quiet run with something changed by hand in what was written down of it.
pub(crate) fn changed(change: impl Fn(&mut Run)) -> Report {
    let loaded = loaded(QUIET);
    let mut run = play(&loaded, 7).expect("it is played");
    change(&mut run);
    Report::of(&loaded, &run)
}

fn assert_measures(report: &Report, expected: &[(Measure, f64)]) {
    for (measure, value) in expected {
        let measured = report.measure(*measure);
        assert!((measured - value).abs() < 1e-9, "{measure}: {measured}, not {value}\n{:#?}", report.measures);
    }
}

#[test]
fn a_quiet_run_is_counted_to_the_second() {
    let report = report(QUIET);
    assert_measures(
        &report,
        &[
            (Measure::Submitted, 3.0),
            (Measure::Lost, 0.0),
            (Measure::Done, 3.0),
            (Measure::DoneShare, 1.0),
            (Measure::DoneFirstTry, 3.0),
            (Measure::DeadLetters, 0.0),
            (Measure::DeadLetterShare, 0.0),
            (Measure::RecoveredShare, 1.0),
            (Measure::Pages, 0.0),
            (Measure::Calls, 3.0),
            (Measure::CallsPerTask, 1.0),
            (Measure::CallsPerLogicalCall, 1.0),
            (Measure::CallsWhileDown, 0.0),
            (Measure::DelayP50, 10.0),
            (Measure::DelayMax, 10.0),
            (Measure::WastedTokens, 0.0),
            (Measure::WastedUsd, 0.0),
            (Measure::Open, 0.0),
        ],
    );
    assert_eq!(report.story, ["Nothing went wrong: 3 tasks came, and nothing was broken."]);
    assert!(report.measure(Measure::Usd) > 0.0);
}

#[test]
fn every_measure_is_known() {
    let report = report(QUIET);
    for measure in Measure::ALL {
        assert!(!report.measure(*measure).is_nan(), "{measure}");
    }
}

#[test]
fn that_no_invariant_is_broken_must_be_true_of_every_run() {
    let loaded = loaded(QUIET);
    let mut run = play(&loaded, 7).expect("it is played");
    let sound = Report::of(&loaded, &run);
    assert!(sound.holds() && sound.violations.is_empty());
    // A client that was told "accepted" and whose task nobody knows.
    let lost = run.records.pop().expect("three tasks");
    run.steps.pop();
    run.events.retain(|event| event.task != Some(lost.task.id));
    let report = Report::of(&loaded, &run);
    assert!(report.violations[0].starts_with("I-01"), "{:?}", report.violations);
    let checked = report.assertions.last().expect("one is always there");
    assert_eq!((checked.assertion.as_str(), checked.holds), ("violations == 0", false));
    assert!(!report.holds());
}

/// A payment failed, a person was called and had it made again, and it failed again. That nobody was called for the second time
/// was not seen: the first call, answered long ago, counted for every round there would ever be.
#[test]
fn a_call_that_was_answered_is_none_for_the_next_round() {
    for (decides, seen) in [("14m", 1), ("5m", 0)] {
        let loaded = loaded(&format!(
            r#"
run: 2h
load: [{{ type: charge_card, at: [0s] }}]
models: {{ "*": {{ latency: 10s, output-tokens: 100 }} }}
faults: [{{ fault: server-error, calls: [1, 2] }}]
human: {{ decides-after: {decides}, decision: run-again }}
"#
        ));
        let mut run = play(&loaded, 7).expect("it is played");
        assert_eq!(Report::of(&loaded, &run).violations, Vec::<String>::new());
        assert_eq!(run.incidents.len(), 2, "one for each round: {:#?}", run.incidents);
        // As if the second had never been opened. What is decided within minutes need not have called anybody.
        run.incidents.retain(|incident| incident.id == "INC-1");
        let violations = Report::of(&loaded, &run).violations;
        let of_calls = violations.iter().filter(|violation| violation.starts_with("I-09: a person is waited for"));
        assert_eq!(of_calls.count(), seen, "{violations:?}");
    }
}

#[test]
fn a_failure_and_its_retry_are_counted() {
    let report = report(&format!("{QUIET}faults: [{{ fault: server-error, calls: 1 }}]\n"));
    assert_measures(
        &report,
        &[
            (Measure::Done, 3.0),
            (Measure::DoneFirstTry, 2.0),
            (Measure::DoneAfterRetry, 1.0),
            (Measure::Retries, 1.0),
            (Measure::Calls, 4.0),
            (Measure::CallsPerLogicalCall, 4.0 / 3.0),
            (Measure::CallsWhileDown, 1.0),
            // An error bills nothing.
            (Measure::WastedTokens, 0.0),
        ],
    );
    assert_eq!((report.faults[0].times, report.faults[0].calls), (1, 1));
}

#[test]
fn an_answer_that_is_refused_is_waste() {
    let report = report(&format!("{QUIET}faults: [{{ fault: schema-invalid, calls: 1 }}]\n"));
    assert_measures(&report, &[(Measure::Done, 3.0), (Measure::Calls, 4.0), (Measure::CallsPerLogicalCall, 4.0 / 3.0)]);
    let (wasted, all) = (report.measure(Measure::WastedTokens), report.measure(Measure::Tokens));
    // A hundred are written each time, and the prompt is read again.
    assert!(wasted > 100.0 && wasted < all / 3.0, "{wasted} of {all}");
    assert!(
        report.measure(Measure::WastedUsd) > 0.0 && report.measure(Measure::WastedUsd) < report.measure(Measure::Usd)
    );
}

#[test]
fn a_payment_waits_for_the_person_and_is_done_by_them() {
    let report = report(
        r#"
run: 1h
load: [{ type: charge_card, at: [0s] }]
models: { "*": { latency: 10s, output-tokens: 100 } }
faults: [{ fault: mid-stream-timeout, calls: 1 }]
human: { acknowledges-after: 1m, decides-after: 5m, decision: run-again }
"#,
    );
    assert_measures(
        &report,
        &[
            (Measure::Done, 1.0),
            (Measure::DoneByHuman, 1.0),
            (Measure::DoneFirstTry, 0.0),
            (Measure::DeadLetters, 1.0),
            (Measure::DeadLetterShare, 1.0),
            (Measure::RecoveredShare, 0.0),
            (Measure::Incidents, 1.0),
            (Measure::Pages, 1.0),
            (Measure::Calls, 2.0),
            (Measure::PaymentsRepeated, 0.0),
        ],
    );
    assert_eq!(report.deaths_by_class.values().sum::<u64>(), 1);
}

#[test]
fn what_the_books_say_is_believed_and_not_the_product() {
    use Measure::*;
    let first_done = |run: &mut Run| {
        let place = run.events.iter().position(|event| matches!(event.what, Happening::Done { .. }));
        place.expect("one was done")
    };
    let done = |run: &mut Run, change: &dyn Fn(&mut Happening)| {
        let place = first_done(run);
        change(&mut run.events[place].what);
    };
    let message = |number, channel: &str, taken| Message {
        at: Duration::from_secs(60),
        channel: channel.to_owned(),
        incident: "INC-1".to_owned(),
        number,
        action: "trigger".to_owned(),
        again: number > 1,
        summary: "3 dead letters within 1h".to_owned(),
        taken,
        dedup_key: "key".to_owned(),
    };
    let lost = changed(|run| drop(run.records.remove(0)));
    assert_measures(&lost, &[(Lost, 1.0), (Submitted, 3.0), (Done, 2.0), (DoneShare, 2.0 / 3.0)]);
    let twice = changed(|run| {
        let place = first_done(run);
        run.events.push(run.events[place].clone());
    });
    assert_measures(&twice, &[(Doubled, 1.0), (Done, 3.0)]);
    let by_other = changed(|run| {
        let other = run.config.agents.keys().find(|name| name.as_str() == "marketing").expect("an agent").clone();
        done(run, &|what| {
            if let Happening::Done { agent, .. } = what {
                *agent = other.clone();
            }
        });
    });
    assert_measures(&by_other, &[(DoneAfterReassignment, 1.0), (DoneFirstTry, 2.0)]);
    let elsewhere = changed(|run| {
        done(run, &|what| {
            if let Happening::Done { model, .. } = what {
                *model = Some("openai/gpt-6-sol".parse().expect("a model"));
            }
        });
    });
    assert_measures(&elsewhere, &[(DoneOnFallback, 1.0), (DoneFirstTry, 2.0)]);
    let again = |run: &mut Run| {
        let mut call = run.books.calls[0].clone();
        call.at += Duration::from_secs(1);
        run.books.asked[0].effect = Effect::Payment;
        run.books.calls.push(call);
    };
    assert_measures(&changed(again), &[(PaymentsRepeated, 1.0), (Calls, 4.0), (CallsPerLogicalCall, 4.0 / 3.0)]);
    let allowed = changed(|run| {
        again(run);
        let (task, what) = (Some(run.books.asked[0].id), "run-again".to_owned());
        run.books.words.push(Word { at: Duration::ZERO, about: "INC-1".to_owned(), what, task });
    });
    assert_measures(&allowed, &[(PaymentsRepeated, 0.0)]);
    let unknown = changed(|run| run.books.calls[0].model = "nobody-knows".to_owned());
    assert!(unknown.measure(Usd).is_nan() && unknown.measure(WastedUsd).is_nan(), "{:?}", unknown.measures);
    let screen = text::text(&Played::of(vec![unknown]));
    let words = screen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("nobody knows the price of anthropic/nobody-knows"), "{screen}");
    for (pages, expected) in [
        (vec![message(1, "pagerduty", true), message(1, "email", true)], 1.0),
        (vec![message(1, "pagerduty", false), message(1, "email", true)], 1.0),
        (vec![message(1, "pagerduty", false), message(1, "email", false)], 0.0),
        (vec![message(1, "pagerduty", true), message(2, "pagerduty", true)], 2.0),
    ] {
        assert_measures(&changed(|run| run.books.pages.clone_from(&pages)), &[(Pages, expected)]);
    }
    // What no journal knows was used by nobody.
    let no_steps = changed(|run| run.steps.clear());
    assert!(no_steps.measure(CallsPerLogicalCall).is_infinite(), "{:?}", no_steps.measures);
    assert_eq!(no_steps.measure(WastedTokens), no_steps.measure(Tokens));
}

#[test]
fn ranks_are_the_nearest() {
    let seconds = |numbers: &[u64]| numbers.iter().map(|number| Duration::from_secs(*number)).collect::<Vec<_>>();
    let hundred: Vec<u64> = (1..=100).collect();
    for (values, percent, expected) in [
        (vec![], 50, 0),
        (vec![7], 99, 7),
        (vec![1, 2], 50, 1),
        (vec![1, 2, 3], 50, 2),
        (vec![1, 2, 3, 4], 95, 4),
        (hundred.clone(), 50, 50),
        (hundred.clone(), 95, 95),
        (hundred.clone(), 99, 99),
        (hundred, 100, 100),
    ] {
        assert_eq!(percentile(&seconds(&values), percent), Duration::from_secs(expected), "{percent} of {values:?}");
    }
}

#[test]
fn an_outage_is_told_in_plain_words_and_adds_up() {
    // A file of its own: what is told here to the second must not change when a shipped scenario does.
    let text = include_str!("sim_report/outage.yaml");
    let loaded = backstop::definitions::scenario_text("outage.yaml", text, None).expect("it is sound");
    let run = play(&loaded, 1).expect("it is played");
    let report = Report::of(&loaded, &run);
    let by = [
        Measure::DoneFirstTry,
        Measure::DoneAfterRetry,
        Measure::DoneOnFallback,
        Measure::DoneAfterReassignment,
        Measure::DoneByHuman,
    ];
    let sum: f64 = by.iter().map(|measure| report.measure(*measure)).sum();
    assert!((sum - report.measure(Measure::Done)).abs() < 1e-9, "{:#?}", report.measures);
    assert!(report.holds(), "{:#?}", report.assertions);
    let story = report.story.join("\n");
    assert!((5..=10).contains(&report.story.len()), "{story}");
    for words in [
        "The worst hour began on 2026-02-02 at 00:12:14 UTC, 12m14s into the run.",
        "server-error of anthropic from 00:10:00 (10m in) for 12m, and 22 calls met it",
        "The breaker of anthropic opened at 00:20:55 (20m55s in)",
        "4 tasks were given up: 4 for transient/server_error.",
        "was to retry on openai/gpt-6-sol, because",
        "The person on call was paged at 00:17:27 (17m27s in) for INC-1",
        "they took it on at 00:22:27",
        "It was over at ",
    ] {
        assert!(story.contains(words), "{words}\n{story}");
    }
    assert_eq!(report.deaths_by_class.get(&Class::Transient), Some(&4));
    let breaker = &report.timeline.breakers[0];
    assert_eq!(breaker.name, "anthropic");
    assert!(breaker.stretches[0].from_s > 1_255.0 && breaker.stretches[0].what == "open", "{breaker:?}");
    let spent = report.timeline.spend.last().expect("a line").usd;
    assert!((spent - report.measure(Measure::Usd)).abs() < 1e-6, "{spent}");
}

/// Whoever starts with the disk full cannot write that it started; its times were once counted from an earlier start.
#[test]
fn a_start_that_could_not_be_written_down_moves_no_times() {
    let text = r#"
run: 1h
load: [{ type: code_review, every: 1m }]
models: { "*": { latency: 40s } }
faults:
  - { fault: process-kill, at: 5m, for: 5m }
  - { fault: disk-full, at: 7m, for: 8m }
  - { fault: process-kill, at: 40m, for: 1m }
  - { fault: server-error, at: 50m, for: 3m }
"#;
    let loaded = loaded(text);
    let run = play(&loaded, 7).expect("it is played");
    let told = run.events.iter().filter(|event| matches!(event.what, Happening::TeamStarted { .. })).count();
    assert_eq!((run.books.starts.len(), told), (3, 2), "the second start is not in the feed");
    // No clock was set: what the clock showed is when it was.
    let moments = run.books.moments(&run.events);
    for (event, at) in run.events.iter().zip(&moments) {
        assert_eq!(*at, event.at.since(loaded.scenario.start), "{event:?}");
    }
    let story = Report::of(&loaded, &run).story.join("\n");
    assert!(story.contains("its first decision, at 00:53:00 (53m in)"), "{story}");
}

/// With the wall clock set forwards and back, and the process dying under a full disk, no task is done sooner than its
/// model answers.
#[test]
fn times_hold_when_the_clock_is_set_and_the_disk_is_full() {
    let text = r#"
run: 1h
load: [{ type: code_review, every: 2m }]
models: { "*": { latency: 40s } }
faults:
  - { fault: clock-jump, at: 4m, by: -2h }
  - { fault: process-kill, at: 5m, for: 5m }
  - { fault: disk-full, at: 9m, for: 11m }
  - { fault: clock-jump, at: 12m, by: +3h }
  - { fault: process-kill, at: 15m, for: 1m }
  - { fault: process-kill, at: 30m, for: 1m }
  - { fault: clock-jump, at: 30m30s, by: -3h }
"#;
    let loaded = loaded(text);
    let run = play(&loaded, 7).expect("it is played");
    let moments = run.books.moments(&run.events);
    let mut ended = 0;
    for (event, at) in run.events.iter().zip(&moments) {
        if matches!(event.what, Happening::Done { .. }) {
            let calls = run.books.calls.iter().filter(|call| call.task == event.task);
            let answered = calls.filter_map(|call| call.ended).map(|(at, _)| at).find(|answered| answered == at);
            assert_eq!(answered, Some(*at), "done when its model had answered: {event:?}");
            ended += 1;
        }
    }
    assert_eq!(ended, run.books.asked.len());
}

/// Uptime was once read off the wall clock, and hours that it was set on by were hours after the end.
#[test]
fn a_clock_that_is_set_is_no_uptime() {
    let uptime = |jump: &str| {
        let text = format!(
            r#"
run: 1h
load: [{{ type: code_review, every: 1m }}]
models: {{ "*": {{ latency: 10s }} }}
faults:
  - {{ fault: process-kill, at: 5m, for: 1m }}
  - {{ fault: quota, provider: anthropic, at: 30m, for: 10m }}
{jump}human: {{ acknowledges-after: 1m, decides-after: 10m }}
"#
        );
        report(&text).measure(Measure::Uptime)
    };
    let (quiet, set) = (uptime(""), uptime("  - { fault: clock-jump, at: 5m30s, by: +2h }\n"));
    assert!(quiet < 0.95, "the breaker held: {quiet}");
    assert!((quiet - set).abs() < 1e-9, "{quiet} without, {set} with the clock set");
}

/// Sixty tasks a minute apart, answered in forty seconds each, with these faults.
fn hour_with(faults: &str) -> String {
    format!(
        "run: 1h\nload: [{{ type: code_review, every: 1m }}]\nmodels: {{ \"*\": {{ latency: 40s }} }}\nfaults: [{faults}]\n"
    )
}

/// What struck neither a call nor an agent was once told as "Nothing went wrong".
#[test]
fn whatever_was_broken_is_told_until_it_was_whole_again() {
    for (faults, expected) in [
        (
            "{ fault: disk-full, at: 10m, for: 30m }",
            vec![
                "What broke: disk-full from 00:10:00 (10m in) for 30m.",
                "30 submissions were refused, the first at 00:10:00 (10m in): \"",
                "no space left on device",
                "It was over at 00:4",
            ],
        ),
        (
            "{ fault: pager-down, at: 10m, for: 20m }",
            vec![
                "The worst hour began on 2026-02-02 at 00:10:00 UTC, 10m into the run.",
                "What broke: pager-down from 00:10:00 (10m in) for 20m.",
                "It was over at 00:30:00 (30m in), 20m after it began",
            ],
        ),
        (
            "{ fault: mail-down, at: 10m, for: 20m }",
            vec![
                "What broke: mail-down from 00:10:00 (10m in) for 20m.",
                "It was over at 00:30:00 (30m in), 20m after it began",
            ],
        ),
        (
            "{ fault: process-kill, at: 10m30s, for: 20m }",
            vec![
                "The process died at 00:10:30 (10m30s in) and was up again 20m later.",
                "20 clients found no process to submit to, and came again.",
                "It was over at 00:34:30 (34m30s in), 24m after it began",
            ],
        ),
    ] {
        let story = report(&hour_with(faults)).story.join("\n");
        for words in expected {
            assert!(story.contains(words), "{faults}: {words}\n{story}");
        }
    }
}

#[test]
fn submissions_that_are_refused_are_told_with_the_reason() {
    let full = report(&hour_with("{ fault: disk-full, at: 10m, for: 30m }"));
    let refused = full.refused.as_ref().expect("the disk was full");
    assert_eq!((refused.submissions, refused.never_taken), (30, 0), "{refused:?}");
    assert!(refused.times > 30 && refused.first.contains("no space left on device"), "{refused:?}");
    assert!(text::text(&Played::of(vec![full])).contains("\nREFUSED       30 submissions, "));
    let text = "run: 5m\ndrain: 3h\nload: [{ type: code_review, every: 1m, payload: hallo }]\n";
    let never = report(text);
    let refused = never.refused.as_ref().expect("no payload of this team is a text");
    assert_eq!((refused.submissions, refused.never_taken), (5, 5), "{refused:?}");
    let story = never.story.join("\n");
    for words in [&refused.first, "5 submissions were refused, the first at 00:00:00 (0s in): \"", "never been taken"] {
        assert!(story.contains(words), "{words}\n{story}");
    }
    assert!(!story.contains("Nothing went wrong"), "{story}");
    let json = serde_json::to_value(&never).expect("JSON");
    assert_eq!(json["refused"]["submissions"], 5);
    let screen = text::text(&Played::of(vec![never]));
    assert!(screen.contains("\nREFUSED       5 submissions, ") && screen.contains(", never taken; the"), "{screen}");
    // Nothing is said where nothing was refused; what others say is data.
    let quiet = report(QUIET);
    assert!(quiet.refused.is_none() && !text::text(&Played::of(vec![quiet])).contains("REFUSED"));
    let hostile = changed(|run| {
        let why = "no\n\u{1b}[31m\u{202e}thing".to_owned();
        run.books.refused.push(Refused { at: Duration::from_secs(60), number: 2, why });
    });
    let told = format!("{}{}", hostile.story.join(""), text::text(&Played::of(vec![hostile])));
    assert!(!told.contains(['\u{1b}', '\u{202e}']), "{told}");
}

/// The summary of the incident in the end was once quoted as what the person had been paged with.
#[test]
fn a_page_is_quoted_as_it_was_sent() {
    let loaded = scenario_text("outage.yaml", include_str!("sim_report/outage.yaml"), None).expect("it is sound");
    let run = play(&loaded, 1).expect("it is played");
    let told = run.events.iter().find_map(|event| {
        let Happening::IncidentOpened { summary, .. } = &event.what else { return None };
        Some(summary.clone())
    });
    let told = told.expect("an incident");
    assert_ne!(told, run.incidents[0].summary, "more was appended");
    let story = Report::of(&loaded, &run).story.join("\n");
    let quoted = format!("paged at 00:17:27 (17m27s in) for INC-1 (\"{told}\")");
    assert!(story.contains(&quoted), "{quoted}\n{story}");
}

/// From acceptance, half an hour without a process was once a delay of minutes.
#[test]
fn a_client_that_is_turned_away_waits_from_its_first_try() {
    for faults in ["{ fault: process-kill, at: 10m30s, for: 30m }", "{ fault: disk-full, at: 10m30s, for: 30m }"] {
        let report = report(&hour_with(faults));
        let (longest, middle) = (report.measure(Measure::DelayMax), report.measure(Measure::DelayP50));
        // The first came when it had begun, came again when it was over, and stood in the queue then.
        assert!((1_740.0..2_400.0).contains(&longest) && middle > 60.0, "{faults}: {longest}, {middle}");
    }
}

#[test]
fn the_same_seed_tells_the_same_story_in_every_thread() {
    let loaded = shipped("anthropic-outage");
    let told = play_all(&loaded, &[3, 3, 4], |run| (feed(&run.events), run.hash.clone())).expect("played");
    assert!(!told[0].0.is_empty());
    assert_eq!(told[0], told[1]);
    assert_ne!(told[0].0, told[2].0);
    assert_ne!(told[0].1, told[2].1);
}

/// Text of others in every place where it can stand.
const HOSTILE: &str = r#"
name: "<b>bold</b> \" onload=\"x"
about: "</title><script>alert(1)</script> & <img src=x>"
run: 10m
load: [{ type: code_review, at: [0s, 1m] }]
faults: [{ name: "<svg onload='x'>", fault: server-error, provider: anthropic, at: 0s, for: 5m }]
assert: ["pages == 5"]
"#;

#[test]
fn the_page_needs_nothing_but_itself_and_escapes_everything() {
    let again = |seed: u64| format!("backstop sim run x --seed {seed}");
    let loaded = shipped("anthropic-outage");
    let run = play(&loaded, 1).expect("it is played");
    let page = html::html(&Played::of(vec![Report::of(&loaded, &run)]), &again);
    for word in ["http", "src=", "url(", "<script", "@import", "<iframe", "<object", "<foreignObject"] {
        assert!(!page.contains(word), "the page has {word}");
    }
    for word in [
        "prefers-color-scheme: dark",
        "role=\"img\"",
        "<title id=\"what-when\">",
        "lang=\"en\"",
        "backstop sim run x --seed 1",
    ] {
        assert!(page.contains(word), "the page lacks {word}");
    }
    assert!(tags_are_balanced(&page), "{page}");
    let hostile = html::html(&Played::of(vec![report(HOSTILE)]), &again);
    for word in ["<b>bold", "<script", "<img", "<svg onload", "\" onload=\"", "</title><script"] {
        assert!(!hostile.contains(word), "the page has {word}");
    }
    assert!(hostile.contains("&lt;b&gt;bold&lt;/b&gt; &quot; onload=&quot;x"));
    assert!(hostile.contains("1 of 2 assertions failed"));
    assert!(tags_are_balanced(&hostile), "{hostile}");
}

#[test]
fn the_xml_is_well_formed_and_names_what_failed() {
    let again = |seed: u64| format!("backstop sim run 'it<s>' --seed {seed} && true");
    let mut reports = vec![report(HOSTILE)];
    reports.push(reports[0].clone());
    let xml = junit::junit(&Played::of(reports), &again);
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect("a declaration");
    assert!(tags_are_balanced(body), "{xml}");
    assert!(
        !body
            .replace("&amp;", "")
            .replace("&lt;", "")
            .replace("&gt;", "")
            .replace("&quot;", "")
            .replace("&#39;", "")
            .contains('&')
    );
    assert_eq!(body.matches("<testcase ").count(), 4, "its own assertion, and that no invariant is broken");
    assert!(body.contains("tests=\"4\" failures=\"2\""), "{xml}");
    assert!(body.contains("message=\"pages == 5 with seed 7: it is 0\""), "{xml}");
    assert!(body.contains("backstop sim run &#39;it&lt;s&gt;&#39; --seed 7 &amp;&amp; true"), "{xml}");
}

/// Every element that is opened is closed in its turn, and every attribute is in quotes.
pub(crate) fn tags_are_balanced(text: &str) -> bool {
    const VOID: [&str; 3] = ["meta", "link", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let Some(end) = rest[start..].find('>') else { return false };
        let tag = &rest[start + 1..start + end];
        rest = &rest[start + end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        let unquoted = tag.split('"').step_by(2).any(|outside| outside.contains('\'') || outside.contains('<'));
        if unquoted || tag.matches('"').count() % 2 == 1 {
            return false;
        }
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    open.is_empty()
}

#[test]
fn every_screen_fits_eighty_columns() {
    let loaded = shipped("anthropic-outage");
    let reports = play_all(&loaded, &[1, 2], |run| Report::of(&loaded, run)).expect("played");
    for played in [Played::of(reports[..1].to_vec()), Played::of(reports)] {
        for line in text::text(&played).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn the_form_for_programs_says_its_version_and_every_measure() {
    let played = Played::of(vec![report(QUIET)]);
    let json = serde_json::to_value(&played).expect("JSON");
    assert_eq!(json["format"], 1);
    assert_eq!(json["reports"][0]["measures"]["delay-p50"], 10.0);
    assert_eq!(json["reports"][0]["measures"]["violations"], 0.0);
    assert_eq!(json["reports"][0]["measures"].as_object().map(serde_json::Map::len), Some(Measure::ALL.len()));
    assert_eq!(json["reports"][0]["timeline"]["depth"].as_array().map(Vec::len), Some(480));
}
