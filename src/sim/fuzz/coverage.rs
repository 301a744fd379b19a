//! Which states a run reached: a fuzzer that never opens a breaker shows nothing about breakers.

use std::collections::BTreeMap;

use crate::decision::{DeciderKind, Decision};
use crate::event::Happening;
use crate::failure::Class;
use crate::sim::play::Run;

/// How often each state was reached. Every one of [`Coverage::ALL`] must be, over a set of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    /// The states that must be reached.
    pub const ALL: &[&str] = &[
        "breaker opened",
        "breaker half-open",
        "breaker forced open",
        "probe sent",
        "gate closed",
        "task parked",
        "retry scheduled",
        "retry with a correction",
        "resumed from the journal",
        "outcome unknown",
        "outcome judged by a probe",
        "outcome judged by a person",
        "dead letter: transient",
        "dead letter: infrastructure",
        "dead letter: validation",
        "dead letter: logic",
        "decided: fallback",
        "decided: retry after a check",
        "decided: reassigned",
        "decided: parked",
        "decided: a human asked",
        "decided: by the adviser",
        "decided: by a human",
        "agent died",
        "crash loop",
        "process restarted",
        "process drained",
        "submission refused",
        "submitted twice",
        "page delivered",
        "page failed",
        "page repeated",
        "incident of dead letters",
        "incident acknowledged",
        "budget stopped work",
    ];

    /// What one run reached.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let mut reached = Self::default();
        for event in &run.events {
            if let Some(word) = word(&event.what) {
                reached.count(word, 1);
            }
        }
        let by_adviser = run.records.iter().flat_map(|record| &record.decisions);
        reached.count("decided: by the adviser", by_adviser.filter(|of| of.by == DeciderKind::Adviser).count());
        reached.count("process restarted", run.books.runs.len().saturating_sub(1));
        reached.count("submission refused", run.books.refused.len());
        reached.count("submitted twice", run.books.asked_again.len());
        reached.count(
            "page repeated",
            run.books.pages.iter().filter(|page| page.again && page.action == "trigger").count(),
        );
        let of_letters =
            |incident: &&crate::incident::Incident| incident.trigger == crate::incident::Trigger::DeadLetters;
        reached.count("incident of dead letters", run.incidents.iter().filter(of_letters).count());
        let broke = run.records.iter().filter_map(|record| record.letter.as_ref());
        let broke = broke.filter(|letter| letter.failure.kind == crate::failure::Kind::Budget);
        reached.count("budget stopped work", broke.count());
        reached
    }

    /// So many more times.
    pub fn count(&mut self, word: &'static str, times: usize) {
        if times > 0 {
            *self.0.entry(word).or_default() += times as u64;
        }
    }

    /// What another run reached as well.
    pub fn add(&mut self, other: &Self) {
        for (word, times) in &other.0 {
            *self.0.entry(word).or_default() += times;
        }
    }

    /// What was never reached.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        Self::ALL.iter().copied().filter(|word| !self.0.contains_key(word)).collect()
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what is not listed is no state worth counting")]
fn word(what: &Happening) -> Option<&'static str> {
    Some(match what {
        Happening::BreakerChanged { to, .. } => match to.as_str() {
            "open" => "breaker opened",
            "half-open" => "breaker half-open",
            "forced-open" => "breaker forced open",
            _ => return None,
        },
        Happening::ProbeSent { .. } => "probe sent",
        Happening::GateClosed { .. } => "gate closed",
        Happening::Parked { .. } => "task parked",
        Happening::RetryScheduled { amended: true, .. } => "retry with a correction",
        Happening::RetryScheduled { .. } => "retry scheduled",
        Happening::Resumed { .. } => "resumed from the journal",
        Happening::OutcomeUnknown { .. } => "outcome unknown",
        Happening::OutcomeJudged { by, .. } if by.starts_with("probe") => "outcome judged by a probe",
        Happening::OutcomeJudged { .. } => "outcome judged by a person",
        Happening::DeadLettered { failure, .. } => match failure.class {
            Class::Transient => "dead letter: transient",
            Class::Infrastructure => "dead letter: infrastructure",
            Class::Validation => "dead letter: validation",
            Class::Logic => "dead letter: logic",
        },
        Happening::Decided { decided, .. } if decided.by == DeciderKind::Human => "decided: by a human",
        Happening::Decided { decided, .. } => match decided.decision {
            Decision::RetryOnFallback { .. } => "decided: fallback",
            Decision::RetryAfterCheck { .. } => "decided: retry after a check",
            Decision::Reassign { .. } => "decided: reassigned",
            Decision::Park { .. } => "decided: parked",
            Decision::PageHuman { .. } => "decided: a human asked",
            Decision::Discard { .. } | Decision::Resolve { .. } | Decision::RunAgain { .. } => return None,
        },
        Happening::AgentDied { .. } => "agent died",
        Happening::CrashLoop { .. } => "crash loop",
        Happening::Draining { .. } => "process drained",
        Happening::PageDelivered { .. } => "page delivered",
        Happening::PageFailed { .. } => "page failed",
        Happening::IncidentAcknowledged { .. } => "incident acknowledged",
        _ => return None,
    })
}
