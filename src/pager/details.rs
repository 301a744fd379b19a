//! What every page tells, whatever the channel: counts, agents, tasks, pattern and what to do first.
//!
//! Names and numbers come from the store; words of others are made visible and cut, so that nothing in them can act on
//! the reader's screen.

use serde_json::{Map, Value, json};

use crate::incident::{Page, PageAction, Trigger, visible};

/// The most characters of a runbook in a page.
pub(super) const RUNBOOK_MAX: usize = 4_000;

/// The details, with at most `most` entries in each list; the counts stay complete.
pub(super) fn details(page: &Page, team: &str, most: usize) -> Value {
    let incident = &page.incident;
    let agents: Map<String, Value> =
        incident.agents.iter().take(most).map(|(agent, count)| (agent.to_string(), json!(count))).collect();
    let tasks: Vec<String> =
        incident.deaths.iter().take(most).map(|(task, round)| format!("{task} (round {round})")).collect();
    let pattern: Vec<String> = incident.pattern.iter().take(most).map(|line| visible(line)).collect();
    let doubts: Vec<String> = incident.in_doubt.iter().take(most).map(|line| cut(&visible(line), 1_000)).collect();
    json!({
        "team": team,
        "incident": incident.id,
        "trigger": incident.trigger,
        "subject": visible(&incident.subject),
        "state": incident.state,
        "opened_at": incident.opened_at,
        "dead_letters": incident.size(),
        "agents_affected": incident.agents.len(),
        "agents": agents,
        "tasks": tasks,
        "pattern": pattern,
        "in_doubt": doubts,
        "runbook": cut(&visible(&incident.runbook), RUNBOOK_MAX),
        "escalation_level": page.level,
        "sent_before": page.again,
    })
}

/// The one sentence, at most 1,024 characters.
pub(super) fn summary(page: &Page) -> String {
    cut(&visible(&page.incident.summary), crate::incident::SUMMARY_MAX)
}

/// What kind of message it is, in a word for a subject line.
pub(super) const fn heading(page: &Page) -> &'static str {
    match (page.action, page.again) {
        (PageAction::Trigger, false) => "PAGE",
        (PageAction::Trigger, true) => "PAGE AGAIN",
        (PageAction::Update, _) => "update",
        (PageAction::Acknowledge, _) => "acknowledged",
        (PageAction::Resolve, _) => "resolved",
    }
}

/// PagerDuty's word for how bad it is.
pub(super) const fn severity(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::DeadLetters | Trigger::CeoDown | Trigger::Unreadable | Trigger::StoreDown => "critical",
        Trigger::Integration | Trigger::Judgement => "error",
        Trigger::Test => "info",
    }
}

/// The first characters of a text, with a word on it when that is not all.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let end = " [cut]";
    text.chars().take(most.saturating_sub(end.len())).chain(end.chars()).collect()
}
