//! The shipped scenarios keep what they promise, and seed B's configuration on its broker does what was measured of it.

use std::time::Duration;

use backstop::assertion::Measure;
use backstop::definitions::{LoadedScenario, scenario_text};
use backstop::scenario::When;
use backstop::sim::broker::{self, BrokerRun};
use backstop::sim::library::SHIPPED;
use backstop::sim::play::play;
use backstop::sim::published;
use backstop::sim::report::Report;

/// Months are for a release build: `backstop sim run`.
const LONG: &[&str] = &["genbrain-fleet", "thirty-days"];

fn loaded(name: &str, text: &str) -> LoadedScenario {
    let read = scenario_text(&format!("{name}.yaml"), text, None);
    read.unwrap_or_else(|problems| panic!("{name}: {:#?}", problems.errors))
}

#[test]
fn every_shipped_scenario_keeps_its_promises() {
    let mut broken = Vec::new();
    for (name, text) in SHIPPED.iter().filter(|(name, _)| !LONG.contains(name)) {
        let loaded = loaded(name, text);
        let run = play(&loaded, 1).unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = Report::of(&loaded, &run);
        let failed = report.assertions.iter().filter(|checked| !checked.holds);
        broken.extend(failed.map(|checked| format!("{name}: {}, measured {}", checked.assertion, checked.words)));
        broken.extend(report.violations.iter().map(|violation| format!("{name}: {violation}")));
        assert!(run.at_rest || loaded.scenario.human.is_none(), "{name} never came to rest: {:?}", run.balance);
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// friday-night, seed 14: a task went from the agent it was meant for to a second and a third, and then to one that stands
/// in for the first. The checks knew only who stands in for the third, and cried.
#[test]
fn no_invariant_is_broken_on_a_friday_night() {
    let (name, text) = backstop::sim::library::named("friday-night").expect("shipped");
    let loaded = loaded(name, text);
    for seed in [1, 14, 21, 36] {
        let report = Report::of(&loaded, &play(&loaded, seed).expect("played"));
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_ceo_that_is_killed_deciding_holds_up_nobody_else() {
    // The dispatcher decides about parked work by the CEO's table; killed in the CEO's place it hung, and the whole team
    // with it, for two days. Seed 2 was the first to show it.
    let (name, text) = backstop::sim::library::named("ceo-kill").expect("shipped");
    let loaded = loaded(name, text);
    let run = play(&loaded, 2).expect("played");
    assert_eq!((Report::of(&loaded, &run).measure(Measure::Open), run.at_rest), (0.0, true));
}

#[test]
fn a_full_disk_holds_up_no_call_that_is_written() {
    // A call that the pager refused was tried again when the disk had taken that it was refused, and not before; nor was any
    // other sent while a reminder, or what was to go out of the outbox, could not be written.
    let text = "run: 3h\nload: [{ type: code_review, per-hour: 30 }]\n\
                faults:\n  - { fault: unavailable, at: 10m, for: 2h }\n  - { fault: pager-down, at: 10m, for: 80m }\n  \
                - { fault: mail-down, at: 10m, for: 80m }\n  - { fault: disk-full, at: 80m, for: 60m }\n";
    let loaded = loaded("unheard", text);
    let run = play(&loaded, 1).expect("played");
    let minute = |page: &&backstop::sim::play::books::Message| page.at.as_secs() / 60;
    let tried: Vec<u64> = run.books.pages.iter().map(|page| minute(&page)).collect();
    assert!(tried.iter().any(|minute| *minute < 80), "nobody was to be called yet: {tried:?}");
    let first = run.books.pages.iter().filter(|page| page.taken).map(|page| minute(&page)).min();
    assert!(first.is_some_and(|minute| (90..=96).contains(&minute)), "{first:?} of {tried:?}");
}

#[test]
fn who_is_killed_while_dead_stays_dead_for_the_longer_of_the_two() {
    // What comes again and again cannot be told before; here two that a file may not say.
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let text = "run: 1h\nload: [{ type: code_review, per-hour: 6 }]\n\
                faults: [{ fault: process-kill, at: 5m, for: 20m }]\n";
    for (at, lasts, up_again) in [(6, 1, 25), (10, 30, 40)] {
        let mut loaded = loaded("twice", text);
        let mut second = loaded.scenario.faults[0].clone();
        (second.when, second.lasts) = (When::At(minutes(at)), (minutes(lasts), minutes(lasts)));
        loaded.scenario.faults.push(second);
        let run = play(&loaded, 1).expect("played");
        let starts: Vec<Duration> = run.books.starts.iter().map(|(at, _)| *at).collect();
        assert_eq!(starts, [Duration::ZERO, minutes(up_again)]);
    }
}

#[test]
fn a_fault_is_over_at_a_whole_millisecond() {
    // The fleet's broker stood still after day 150, at full speed: a node was to be back at a fraction of a millisecond, and
    // a clock that counts whole ones never showed that it had passed.
    let text = "run: 30d\nload: [{ type: code_review, per-day: 1 }]\n\
                faults: [{ fault: process-kill, every: 1d, for: [1m, 3m] }]\n";
    let loaded = loaded("fractions", text);
    let windows = loaded.scenario.windows(&|purpose, _, number| {
        if purpose == "fault lasts" { 1.0 / (number as f64 + 3.0) } else { 0.5 }
    });
    assert!(windows.len() > 10);
    for window in windows {
        assert_eq!(
            (window.from.subsec_nanos() % 1_000_000, window.until.subsec_nanos() % 1_000_000),
            (0, 0),
            "{window:?}"
        );
    }
}

#[test]
fn what_was_published_is_read_strictly() {
    let text =
        |published: &str| format!("run: 1h\nload: [{{ type: code_review, per-hour: 1 }}]\npublished: {published}\n");
    for (published, words) in [
        ("{ figures: [] }", "source"),
        ("{ source: a post }", "figures"),
        ("{ source: a post, figures: [{ name: tasks, theirs: '1' }] }", "measure"),
        ("{ source: a post, figures: [{ name: tasks, theirs: '1', measure: submited }] }", "submitted"),
        ("{ source: a post, figures: [{ name: tasks, theirs: '1', measure: submitted, nota: x }] }", "note"),
        ("{ sauce: a post, source: a post, figures: [] }", "source"),
    ] {
        let problems = scenario_text("t.yaml", &text(published), None).expect_err(published);
        let told: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|line| line.contains(words) && line.contains("t.yaml")), "{published}: {told:?}");
    }
    let sound = "{ source: a post, figures: [{ name: tasks, theirs: '24,500', measure: submitted, note: all }] }";
    let read = loaded("t", &text(sound)).scenario.published.expect("published");
    let figure = &read.figures[0];
    let said =
        (read.source.as_str(), figure.name.as_str(), figure.theirs.as_str(), figure.measure, figure.note.as_str());
    assert_eq!(said, ("a post", "tasks", "24,500", Measure::Submitted, "all"));
}

fn on_the_broker(text: &str) -> BrokerRun {
    broker::play(&loaded("t", text), 1).expect("played")
}

#[test]
fn the_broker_does_what_was_measured_of_it() {
    let four_minutes = "models: { '*': { latency: 4m } }\n";
    let quick = "models: { '*': { latency: 10s } }\n";
    for (name, text, expected) in [
        // The CTO has two slots: at 30 s the second takes the same task, and at 150 s none is free.
        (
            "a healthy task of four minutes is done twice by two slots",
            format!("run: 1h\n{four_minutes}load: [{{ type: code_review, agent: cto, burst: 1, at: 1m, over: 1s }}]\n"),
            [(Measure::Done, 1.0), (Measure::Doubled, 1.0), (Measure::Calls, 2.0), (Measure::DeadLetters, 0.0)],
        ),
        (
            "one slot is busy when the message is due again, and its late ack is taken",
            format!("run: 1h\n{four_minutes}load: [{{ type: deploy, agent: devops, burst: 1, at: 1m, over: 1s }}]\n"),
            [(Measure::Done, 1.0), (Measure::Doubled, 0.0), (Measure::Calls, 1.0), (Measure::DeadLetters, 0.0)],
        ),
        (
            "a blip of twenty seconds costs a redelivery",
            format!(
                "run: 1h\n{quick}load: [{{ type: code_review, agent: cto, burst: 1, at: 1m, over: 1s }}]\n\
                 faults: [{{ fault: overloaded, at: 50s, for: 20s }}]\n"
            ),
            [(Measure::Done, 1.0), (Measure::Doubled, 0.0), (Measure::Calls, 2.0), (Measure::DeadLetters, 0.0)],
        ),
        // Three calls at 0, 30 and 150 s; the entry at 450 s, when it is over; the CEO's next model answers at once.
        (
            "what outlasts 150 s is an entry, and the next model answers",
            format!(
                "run: 1h\n{quick}load: [{{ type: code_review, agent: cto, burst: 1, at: 1m, over: 1s }}]\n\
                 faults: [{{ fault: overloaded, at: 50s, for: 5m }}]\n"
            ),
            [
                (Measure::DelayMax, 460.0),
                (Measure::DoneOnFallback, 1.0),
                (Measure::Calls, 4.0),
                (Measure::DeadLetters, 1.0),
            ],
        ),
        (
            "nobody falls back before the CEO does, and then the founder is called",
            format!(
                "run: 1h\ndrain: 1h\n{quick}load: [{{ type: code_review, agent: cto, burst: 1, at: 1m, over: 1s }}]\n\
                 faults: [{{ fault: overloaded, provider: anthropic, at: 50s, for: 40m }}]\n"
            ),
            [(Measure::Done, 0.0), (Measure::WaitingHuman, 1.0), (Measure::Calls, 6.0), (Measure::Pages, 1.0)],
        ),
        (
            "a payment whose stream broke is made again, for nothing there knows what a payment is",
            format!(
                "run: 1h\n{quick}load: [{{ type: charge_card, agent: backend, burst: 1, at: 1m, over: 1s }}]\n\
                 faults: [{{ fault: cut, at: 50s, for: 20s }}]\n"
            ),
            [(Measure::Done, 1.0), (Measure::PaymentsRepeated, 1.0), (Measure::Calls, 2.0), (Measure::Lost, 0.0)],
        ),
        (
            "a pod that dies takes its work with it, and the message comes again",
            format!(
                "run: 1h\n{four_minutes}load: [{{ type: deploy, agent: devops, burst: 1, at: 1m, over: 1s }}]\n\
                 faults: [{{ fault: agent-kill, agent: devops, at: 2m }}]\n"
            ),
            [(Measure::Done, 1.0), (Measure::Doubled, 0.0), (Measure::Calls, 2.0), (Measure::DeadLetters, 0.0)],
        ),
    ] {
        let run = on_the_broker(&text);
        for (measure, value) in expected {
            assert_eq!(run.measure(measure), Some(value), "{name}: {measure}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run_on_the_broker_and_the_same_world_as_ours() {
    let text = "run: 6h\nload: [{ type: code_review, per-hour: 20 }, { type: blog_post, per-hour: 10 }]\n\
                faults: [{ fault: overloaded, provider: anthropic, at: 1h, for: 10m }]\n\
                human: { acknowledges-after: 5m, decides-after: 1h }\n\
                published: { source: a post, figures: [{ name: tasks, theirs: '1', measure: submitted }] }\n";
    let loaded = loaded("t", text);
    let story = |run: &BrokerRun| -> Vec<_> {
        run.orders.iter().map(|order| (order.at, order.executions, order.answers, order.done, order.entries)).collect()
    };
    let (first, second) = (broker::play(&loaded, 3).expect("played"), broker::play(&loaded, 3).expect("played"));
    assert_eq!(story(&first), story(&second));
    assert_ne!(story(&first), story(&broker::play(&loaded, 4).expect("played")));
    let ours = play(&loaded, 3).expect("played");
    let came = |asked: &[backstop::sim::play::books::Asked]| -> Vec<_> {
        asked.iter().map(|asked| (asked.number, asked.at, asked.task_type.clone())).collect()
    };
    assert_eq!(came(&first.books.asked), came(&ours.books.asked));

    let report = Report::of(&loaded, &ours);
    let figures = |measure| report.measure(measure);
    let sides = published::Sides { scenario: &loaded.scenario, run: &ours, ours: &figures, broker: &first };
    let said = loaded.scenario.published.as_ref().expect("published");
    let rows = published::rows(said, &sides);
    let tasks = ours.books.asked.len().to_string();
    assert_eq!((rows[0].ours.as_str(), rows[0].broker.as_str()), (tasks.as_str(), tasks.as_str()));
    assert!(rows[0].why.contains(&tasks), "{}", rows[0].why);
}
