//! An incident has one story: who was called, who answered first, what came later; and one page per cause.

use std::time::Duration;

use backstop::escalation::{self, Rules, Step};
use backstop::failure::{Class, Kind};
use backstop::incident::{
    self, Home, Incident, IncidentCommand, IncidentState, Opening, Page, PageAction, PageDraft, Trigger, visible,
};
use backstop::outbox;
use backstop::query::Death;
use backstop::task::{AgentName, Integration, TaskId, TaskType};
use backstop::time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn after(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn death(i: u8, kind: Kind, integration: &str) -> Death {
    Death {
        task: TaskId::new(NOW, [i; 10]),
        generation: 1,
        at: NOW,
        agent: AgentName::new("cto").expect("a name"),
        task_type: TaskType::new("code_review").expect("a name"),
        class: Class::Transient,
        kind,
        integration: Some(Integration::new(integration).expect("a name")),
    }
}

fn opened(id: &str, trigger: Trigger, subject: &str, deaths: Vec<Death>) -> Incident {
    let (id, subject) = (id.to_owned(), subject.to_owned());
    let opening = Opening { id, trigger, subject, deaths, why: String::new(), runbook: None, in_doubt: Vec::new() };
    incident::open(opening, &Rules::default(), NOW).incident
}

fn three() -> Incident {
    let deaths = (0..3).map(|i| death(i, Kind::Overloaded, "anthropic")).collect();
    opened("INC-1", Trigger::DeadLetters, "", deaths)
}

fn said(what: &str, by: &str) -> IncidentCommand {
    let (by, note) = (by.to_owned(), String::new());
    match what {
        "ack" => IncidentCommand::Acknowledge { by, note },
        "override" => {
            IncidentCommand::Override { by, note, decision: "discard".to_owned(), tasks: 3, covers: u32::MAX }
        }
        "resolve" => IncidentCommand::Resolve { by, note },
        "update" => IncidentCommand::Update,
        "repage" => IncidentCommand::Repage,
        "append" => IncidentCommand::Append(vec![death(9, Kind::Timeout, "openai")]),
        other => panic!("{other}"),
    }
}

fn does(incident: &Incident, what: &str, by: &str, at: u64) -> Incident {
    incident::apply(incident, said(what, by), &Rules::default(), after(at)).expect("accepted").incident
}

/// Where every command leads from every state: the state and what is sent, or who was first.
#[test]
fn every_command_in_every_state_has_one_outcome() {
    let triggered = three();
    let acknowledged = does(&triggered, "ack", "ana", 10);
    let overridden = does(&triggered, "override", "ana", 10);
    let resolved = does(&triggered, "resolve", "ana", 10);
    let over = "INC-1 was resolved by ana at 2026-09-21T14:13:30.000Z";
    let acked = "INC-1 was acknowledged by ana at 2026-09-21T14:13:30.000Z";
    let decided = "INC-1 was overridden by ana at 2026-09-21T14:13:30.000Z";
    for (incident, expected) in [
        (
            &triggered,
            [
                "acknowledged acknowledge",
                "overridden acknowledge",
                "resolved resolve",
                "triggered update",
                "triggered trigger",
                "triggered",
            ],
        ),
        (
            &acknowledged,
            [
                acked,
                "overridden acknowledge",
                "resolved resolve",
                "acknowledged update",
                "acknowledged trigger",
                "acknowledged",
            ],
        ),
        (&overridden, [decided, decided, "resolved resolve", "overridden update", "overridden trigger", "overridden"]),
        (&resolved, [over; 6]),
    ] {
        for (what, expected) in ["ack", "override", "resolve", "update", "repage", "append"].into_iter().zip(expected) {
            let outcome = match incident::apply(incident, said(what, "ben"), &Rules::default(), after(20)) {
                Ok(change) => {
                    let sent = change.pages.iter().map(|page| format!(" {}", page.action)).collect::<String>();
                    assert_eq!(change.pages.len() as u32, change.incident.messages - incident.messages);
                    format!("{}{sent}", change.incident.state)
                }
                Err(refused) => refused.to_string(),
            };
            assert_eq!(outcome, expected, "{what} when {}", incident.state);
        }
    }
}

#[test]
fn the_same_person_twice_changes_nothing() {
    let acknowledged = does(&three(), "ack", "ana", 10);
    let again = incident::apply(&acknowledged, said("ack", "ana"), &Rules::default(), after(20)).expect("no error");
    assert_eq!((again.incident, again.pages, again.events.len()), (acknowledged, Vec::new(), 0));
}

#[test]
fn what_comes_after_an_override_is_not_answered_by_it() {
    let overridden = does(&three(), "override", "ana", 10);
    assert_eq!(overridden.repage_at, None);
    let grown = does(&overridden, "append", "", 100);
    assert_eq!(grown.repage_at, Some(after(3_700)));
    let decided = does(&grown, "override", "ben", 200);
    assert_eq!((decided.state, decided.answers.len(), decided.repage_at), (IncidentState::Overridden, 2, None));
}

/// An override decided task by task, and answered in the end for all that had come meanwhile: nobody was reminded of those,
/// and a second decision was refused.
#[test]
fn an_override_answers_for_what_was_read_and_for_nothing_that_came_meanwhile() {
    let grown = does(&three(), "append", "", 5);
    let command = |covers| IncidentCommand::Override {
        by: "ana".to_owned(),
        note: String::new(),
        decision: "run again".to_owned(),
        tasks: 3,
        covers,
    };
    let tell = |incident: &Incident, covers| incident::apply(incident, command(covers), &Rules::default(), after(10));
    let late = tell(&grown, 3).expect("decided").incident;
    assert_eq!((late.state, late.repage_at), (IncidentState::Overridden, Some(after(3_610))));
    let decided = tell(&late, 4).expect("what came meanwhile is decided, too").incident;
    assert_eq!(decided.repage_at, None);
    tell(&decided, 4).expect_err("all of it was decided");
    // Two of three were refused, and wait on.
    let refused = incident::apply(&three(), command(1), &Rules::default(), after(10)).expect("decided").incident;
    assert_eq!(refused.repage_at, Some(after(3_610)));
}

/// An incident that only a person could end called again for what had been done, and, once it called no more, took in what
/// came months later, which calls nobody.
#[test]
fn an_incident_whose_cause_is_gone_is_over() {
    let loops = |i| death(i, Kind::Loop, "openai");
    let judgement = opened("INC-1", Trigger::Judgement, "cto/code_review/loop", vec![loops(1), loops(2)]);
    let parked = opened("INC-2", Trigger::Integration, "openai", vec![loops(3)]);
    let pair = |i| (loops(i).task, 1);
    let over = |incident: &Incident, waiting: &[u8], well: bool| {
        let waiting = waiting.iter().map(|i| pair(*i)).collect();
        incident::over(incident, &waiting, &Rules::default(), |subject| well && ["openai", "ceo"].contains(&subject))
    };
    let many = opened("INC-4", Trigger::Integration, "openai", (4..7).map(loops).collect());
    let seen = does(&many, "ack", "ana", 10);
    for (incident, waiting, well, expected) in [
        (&judgement, &[1, 2][..], true, None),
        (&judgement, &[2], true, None),
        (&judgement, &[3], false, Some("none of its tasks waits for a person any more")),
        (&parked, &[], false, None),
        (&parked, &[3], true, None),
        (&parked, &[1], true, Some("calls go through again")),
        (&many, &[], true, None),
        (&seen, &[], true, Some("calls go through again")),
        (&three(), &[], true, None),
        (&opened("INC-3", Trigger::CeoDown, "ceo", vec![]), &[], false, None),
        (&opened("INC-3", Trigger::CeoDown, "ceo", vec![]), &[], true, Some("it is up, and nothing was left lying")),
        (&opened("INC-5", Trigger::CeoDown, "crew", vec![]), &[], true, None),
    ] {
        assert_eq!(over(incident, waiting, well), expected, "{} {waiting:?} {well}", incident.id);
    }
    let ended = does(&judgement, "resolve", incident::BY_ITSELF, 10);
    assert_eq!(over(&ended, &[], true), None, "once");
    let change = incident::apply(&ended, said("resolve", "ana"), &Rules::default(), after(20)).expect("no error");
    assert_eq!((change.incident, change.pages), (ended, vec![]), "whoever ends it too is told nothing else");
}

#[test]
fn nobody_answers_four_more_calls_and_then_silence() {
    let mut incident = three();
    let mut calls = Vec::new();
    while let Some(at) = incident.standing().and_then(|open| escalation::next_at(&open)) {
        let open = incident.standing().expect("open");
        assert_eq!(escalation::remind(&open, at), [Step::Repage]);
        calls.push(at.since(NOW).as_secs());
        incident = does(&incident, "repage", "", at.since(NOW).as_secs());
    }
    assert_eq!(calls, [900, 1_800, 2_700, 3_600]);
}

#[test]
fn a_call_goes_to_the_next_person_and_news_to_everybody_called() {
    let steps = [
        vec!["ana/pagerduty".to_owned(), "ana/email".to_owned()],
        vec!["ben/pagerduty".to_owned()],
        vec!["log".to_owned()],
    ];
    let channels = |action, level| -> Vec<String> {
        let draft = PageDraft { action, again: true, level };
        outbox::pages(&three(), &draft, "acme", &steps, NOW).into_iter().map(|page| page.channel).collect()
    };
    assert_eq!(channels(PageAction::Trigger, 0), ["ana/pagerduty", "ana/email"]);
    assert_eq!(channels(PageAction::Trigger, 1), ["ben/pagerduty"]);
    assert_eq!(channels(PageAction::Trigger, 3), ["ana/pagerduty", "ana/email"], "and round again");
    assert_eq!(channels(PageAction::Resolve, 1), ["ana/pagerduty", "ana/email", "ben/pagerduty"]);
}

#[test]
fn a_call_that_was_answered_before_it_was_delivered_is_not_made() {
    let steps = [vec!["pagerduty".to_owned()]];
    let mut incident = three();
    let call = PageDraft { action: PageAction::Trigger, again: false, level: 0 };
    let mut all = outbox::pages(&incident, &call, "acme", &steps, NOW);
    for (what, at) in [("append", 1), ("update", 1), ("repage", 900), ("resolve", 1_000)] {
        let change = incident::apply(&incident, said(what, "ana"), &Rules::default(), after(at)).expect("open");
        incident = change.incident;
        let before: Vec<bool> = all.iter().map(|page| outbox::superseded(page, &all)).collect();
        match what {
            "repage" => assert_eq!(before, [false, false], "an update does not replace a call"),
            "resolve" => assert_eq!(before, [true, true, false], "a second call replaces the first"),
            _ => assert!(!before.contains(&true)),
        }
        for draft in &change.pages {
            all.extend(outbox::pages(&incident, draft, "acme", &steps, after(at)));
        }
    }
    let open: Vec<PageAction> =
        all.iter().filter(|page| !outbox::superseded(page, &all)).map(|page| page.action).collect();
    assert_eq!(open, [PageAction::Resolve]);
    assert_eq!(outbox::stand_ins(&all, &steps, after(9_000)), [], "nor through any other channel");
}

/// An answer that the pager refused for an hour arrived behind the reminder, and quieted the alert that had just been raised
/// again.
#[test]
fn an_answer_that_a_later_call_overtook_is_not_sent() {
    let steps = [vec!["pagerduty".to_owned(), "email".to_owned()]];
    let draft = |action| PageDraft { action, again: true, level: 0 };
    let mut incident = three();
    let mut all = Vec::new();
    for (action, at) in [(PageAction::Acknowledge, 10), (PageAction::Trigger, 3_600)] {
        incident.messages += 1;
        all.extend(outbox::pages(&incident, &draft(action), "acme", &steps, after(at)));
    }
    all.retain(|page| page.action == PageAction::Acknowledge || page.channel == "pagerduty");
    let overtaken: Vec<&str> =
        all.iter().filter(|page| outbox::superseded(page, &all)).map(|page| page.id.as_str()).collect();
    assert_eq!(overtaken, ["INC-1.2.pagerduty"], "and the mail, which says no more of it, is sent");
}

/// What may have gone out under the process before counts as gone; what this one wrote, tried or gave up is known.
#[test]
fn what_the_process_before_may_have_sent_counts_as_sent() {
    let steps = [vec!["pagerduty".to_owned()]];
    let call = PageDraft { action: PageAction::Trigger, again: false, level: 0 };
    let page = outbox::pages(&three(), &call, "acme", &steps, after(5)).remove(0);
    let gone = |change: fn(&mut Page), began| {
        let mut page = page.clone();
        change(&mut page);
        outbox::may_have_gone(&page, after(began))
    };
    assert_eq!([4, 5, 6].map(|began| gone(|_| {}, began)), [false, true, true]);
    assert!(!gone(|page| page.tries = 1, 6) && !gone(|page| page.abandoned = true, 6));
    let under_way = std::iter::once(page.id.clone()).collect();
    assert!(outbox::is_calling(std::slice::from_ref(&page), &under_way));
    assert!(!outbox::is_calling(&[Page { action: PageAction::Resolve, ..page.clone() }], &under_way));
    assert!(!outbox::is_calling(&[page], &Default::default()), "it waits");
}

/// A process killed with three dead letters undecided came back, opened an incident for the first, and found at the
/// next look that it was part of the incident about all three. Its end was sent beside its call, and arrived first:
/// PagerDuty was left with an alert that nobody ends. (Kill point 206 of the phase `recovery`, once in many runs.)
#[test]
fn an_end_does_not_overtake_the_call_that_is_on_its_way() {
    let steps = [vec!["pagerduty".to_owned(), "email".to_owned()]];
    let draft = |action| PageDraft { action, again: false, level: 0 };
    let incident = three();
    let mut all = outbox::pages(&incident, &draft(PageAction::Trigger), "acme", &steps, NOW);
    let over = does(&incident, "resolve", "backstop", 1);
    all.extend(outbox::pages(&over, &draft(PageAction::Resolve), "acme", &steps, after(1)));
    let other = opened("INC-2", Trigger::Judgement, "x", vec![death(7, Kind::Timeout, "openai")]);
    all.extend(outbox::pages(&other, &draft(PageAction::Trigger), "acme", &steps, after(1)));
    let free = |sending: &[&str]| -> Vec<&str> {
        let sending = sending.iter().map(|id| (*id).to_owned()).collect();
        all.iter().filter(|page| !outbox::stands_back(page, &all, &sending)).map(|page| page.id.as_str()).collect()
    };
    let (call, end) = (["INC-1.1.pagerduty", "INC-1.1.email"], ["INC-1.2.pagerduty", "INC-1.2.email"]);
    let others = ["INC-2.1.pagerduty", "INC-2.1.email"];
    assert_eq!(free(&[]), [call, end, others].concat(), "nothing is under way");
    assert_eq!(free(&[call[0]]), [&call[..], &end[1..], &others].concat(), "only the same channel, the same incident");
    assert_eq!(free(&[end[0]]), [&call[1..], &end, &others].concat(), "whichever was first");
    assert_eq!(free(&call), [call, others].concat());
}

/// A call that stood in for one that nobody took went to another person's channel, which was never told of the end: the end
/// goes to those who were called in their turn.
#[test]
fn who_stood_in_is_told_of_the_end() {
    let steps = [vec!["ana/mail".to_owned()], vec!["ben/pagerduty".to_owned()]];
    let draft = |action| PageDraft { action, again: false, level: 0 };
    let incident = three();
    let written = |incident: &Incident, action, at| outbox::pages(incident, &draft(action), "acme", &steps, after(at));
    for (how, tries, delivered, under_way, expected) in [
        ("delivered", 1, true, false, Some("INC-1.2.ben/pagerduty")),
        ("refused once", 1, false, false, Some("INC-1.2.ben/pagerduty")),
        ("on its way", 0, false, true, Some("INC-1.2.ben/pagerduty")),
        ("not yet tried", 0, false, false, None),
    ] {
        let mut all = written(&incident, PageAction::Trigger, 0);
        let mut stood_in = outbox::stand_ins(&all, &steps, after(301)).remove(0);
        (stood_in.tries, stood_in.delivered_at) = (tries, delivered.then_some(after(302)));
        let sending = under_way.then(|| stood_in.id.clone()).into_iter().collect();
        all.push(stood_in.clone());
        assert_eq!(outbox::ends(&all, &sending, after(303)), [], "{how}: it is not over");
        let over = does(&incident, "resolve", "ana", 310);
        all.extend(written(&over, PageAction::Resolve, 310));
        assert_eq!(all.last().map(|page| page.channel.as_str()), Some("ana/mail"));
        assert!(outbox::superseded(&all[1], &all) != delivered, "{how}: nobody is called for what is over");
        let ends = outbox::ends(&all, &sending, after(311));
        assert_eq!(ends.first().map(|page| page.id.as_str()), expected, "{how}");
        for end in &ends {
            assert_eq!((end.action, end.level, end.due, end.tries), (PageAction::Resolve, 1, after(311), 0), "{how}");
        }
        all.extend(ends);
        assert_eq!(outbox::ends(&all, &sending, after(312)), [], "{how}: once");
    }
}

/// Nothing woke the pager when it was the next one's turn: they were called whenever something else was looked at, with a
/// channel that asks for an hour's patience an hour later.
#[test]
fn it_is_known_when_the_next_one_stands_in() {
    let steps = [vec!["ana/mail".to_owned()], vec!["ben/pagerduty".to_owned()]];
    let call = PageDraft { action: PageAction::Trigger, again: false, level: 0 };
    let mut all = outbox::pages(&three(), &call, "acme", &steps, NOW);
    let mut turns = Vec::new();
    while let Some(at) = outbox::next_stand_in(&all, &steps, turns.last().copied().unwrap_or(NOW)) {
        turns.push(at);
        all.extend(outbox::stand_ins(&all, &steps, at));
    }
    assert_eq!(turns, [after(300)], "then ben and the log");
    assert_eq!(all.len(), 3);
    all.truncate(1);
    assert_eq!(outbox::next_stand_in(&all, &steps, after(300)), None, "now, and not in the future");
    let taken = Page { delivered_at: Some(after(9)), ..all[0].clone() };
    assert_eq!(outbox::next_stand_in(&[taken], &steps, NOW), None);
    let answered = does(&three(), "ack", "ana", 10);
    let answer = PageDraft { action: PageAction::Acknowledge, ..call };
    all.extend(outbox::pages(&answered, &answer, "acme", &steps, after(10)));
    assert_eq!(outbox::next_stand_in(&all, &steps, after(10)), None);
}

#[test]
fn one_incident_per_cause() {
    let parked = opened("INC-1", Trigger::Integration, "anthropic", Vec::new());
    let deaths: Vec<Death> = (0..4).map(|i| death(i, Kind::ParkedTooLong, "anthropic")).collect();
    let incidents = [parked];
    let explained = incident::explained(&incidents, &deaths);
    assert_eq!(
        explained.iter().map(|(incident, deaths)| (incident.id.as_str(), deaths.len())).collect::<Vec<_>>(),
        [("INC-1", 4)]
    );
    let command = IncidentCommand::Append(explained[0].1.clone());
    let grown = incident::apply(&incidents[0], command, &Rules::default(), NOW).expect("open").incident;
    let incidents = [grown];
    assert_eq!(incident::explained(&incidents, &deaths), [], "each once");
    let steps = escalation::judge(&deaths, &incident::counted(&incidents), None, &Rules::default(), NOW);
    assert_eq!(steps, [], "nobody is called a second time for it");
    assert_eq!(
        incidents[0].summary,
        "anthropic is unusable until somebody acts, 4 dead letters (cto 4): transient/parked_too_long via anthropic: 4"
    );

    let other = death(9, Kind::Loop, "openai");
    assert_eq!(incident::home(&incidents, &deaths[0]), Home::In(&incidents[0]));
    assert_eq!(incident::home(&incidents, &other), Home::Own("cto/code_review/loop".to_owned()));
    let judged = [opened("INC-2", Trigger::Judgement, "cto/code_review/loop", vec![other.clone()])];
    assert_eq!(incident::home(&judged, &other), Home::In(&judged[0]));
    let systemic = [judged[0].clone(), three()];
    assert_eq!(incident::home(&systemic, &other), Home::In(&systemic[1]), "an outage is one story");
    let over = [does(&judged[0], "resolve", "ana", 1)];
    assert!(matches!(incident::home(&over, &other), Home::Own(_)));
}

#[test]
fn an_incident_reads_back_as_it_was_stored() {
    let incident = does(&does(&three(), "append", "", 5), "ack", "ana", 10);
    let text = serde_json::to_string(&incident).expect("JSON");
    assert_eq!(serde_json::from_str::<Incident>(&text).expect("JSON"), incident);
    assert_eq!(incident.pattern, ["transient/overloaded via anthropic: 3", "transient/timeout via openai: 1"]);
}

#[test]
fn dedup_keys_and_summaries_keep_pagerduty_s_limits() {
    assert_eq!(outbox::dedup_key("acme", "INC-1"), "backstop/acme/INC-1");
    let long = outbox::dedup_key(&"t".repeat(400), "INC-1");
    assert_eq!(long.chars().count(), 255);
    assert!(long.ends_with("/INC-1"));
    let mut many = Vec::new();
    for (i, kind) in Kind::ALL.iter().enumerate() {
        let i = u8::try_from(i).expect("few");
        many.push(Death {
            agent: AgentName::new(format!("a{i}-{}", "x".repeat(55))).expect("a name"),
            ..death(i, *kind, "anthropic")
        });
    }
    let incident = opened("INC-1", Trigger::DeadLetters, "", many);
    assert!(incident.summary.chars().count() <= 1024, "{}", incident.summary);
    assert!(
        incident.summary.contains(" and ") && incident.summary.contains("dead letters within 1h ("),
        "{}",
        incident.summary
    );
}

/// What was appended hours later was once told as if all of it had died within the window.
#[test]
fn the_summary_says_in_which_time_its_dead_letters_died() {
    for (later, expected) in [
        (vec![], "3 dead letters within 1h ("),
        (vec![0], "4 dead letters within 1h ("),
        (vec![59 * 60], "4 dead letters within 1h ("),
        (vec![60 * 60], "4 dead letters within 1h ("),
        (vec![60 * 60 + 1], "4 dead letters within 1h1m ("),
        (vec![7 * 3_600, 600], "5 dead letters within 7h ("),
    ] {
        let mut incident = three();
        for (i, seconds) in (10..).zip(&later) {
            let at = NOW + Duration::from_secs(*seconds);
            let died = Death { at, ..death(i, Kind::Overloaded, "anthropic") };
            let command = IncidentCommand::Append(vec![died]);
            incident = incident::apply(&incident, command, &Rules::default(), at).expect("it is open").incident;
        }
        assert!(incident.summary.starts_with(expected), "{later:?}: {}", incident.summary);
    }
    // One that was stored without their times: from when it was opened.
    let stored = Incident { died: None, ..three() };
    let at = NOW + Duration::from_secs(7_200);
    let died = Death { at, ..death(10, Kind::Overloaded, "anthropic") };
    let told =
        incident::apply(&stored, IncidentCommand::Append(vec![died]), &Rules::default(), at).expect("it is open");
    assert!(told.incident.summary.starts_with("4 dead letters within 2h ("), "{}", told.incident.summary);
}

#[test]
fn what_hides_is_shown() {
    for (text, expected) in [
        ("plain\ttext\n", "plain text"),
        ("a\u{200b}b", "a[U+200B]b"),
        ("\u{202e}evil\u{202c}", "[U+202E]evil[U+202C]"),
        ("\u{1b}[2J", "[U+001B][2J"),
        ("Grüße, 東京", "Grüße, 東京"),
    ] {
        assert_eq!(visible(text), expected);
    }
}
