//! What must be seen in the demo, and how it is told from the event feed alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::agent::ModelRef;
use crate::cause::Usage;
use crate::delivery::Hold;
use crate::event::{Event, Happening};
use crate::failure::{Class, Kind};
use crate::task::{AgentName, Effect, Integration, TaskId, words};
use crate::time::Timestamp;
use crate::triage::Decision;

words! {
    /// A thing worth seeing once.
    Scene, "scene", "retry, breaker-open, parked, probe, breaker-closed, retry-after, correction, panic, logic, payment, fallback, reassignment, pagerduty, email, acknowledged, overridden, resumed" {
        /// A transient failure was retried by schedule, and done.
        Retry = "retry",
        /// A breaker opened.
        BreakerOpen = "breaker-open",
        /// A task waits at an open breaker without spending a delivery.
        Parked = "parked",
        /// One call was let through to see.
        Probe = "probe",
        /// A half-open breaker closed again.
        BreakerClosed = "breaker-closed",
        /// A Retry-After held the whole team: tasks of agents other than the one that was told waited, too.
        RetryAfter = "retry-after",
        /// An answer was refused, requeued with the error in its prompt, and then accepted.
        Correction = "correction",
        /// An agent panicked in mid-task, and its task was delivered again and done.
        Panic = "panic",
        /// A logic failure went to the dead letter queue at its first delivery.
        Logic = "logic",
        /// A payment failed and was not tried again.
        Payment = "payment",
        /// The CEO chose another model, and it answered.
        Fallback = "fallback",
        /// The CEO gave a task to another agent, and that one did it.
        Reassignment = "reassignment",
        /// PagerDuty took a page.
        PagerDuty = "pagerduty",
        /// A mail server took a page.
        Email = "email",
        /// A person took the incident on.
        Acknowledged = "acknowledged",
        /// A person decided for all its tasks.
        Overridden = "overridden",
        /// The CEO chose another model for work half done; that one went on where it stood, and answered.
        Resumed = "resumed",
    }
}

/// Reads the feed and notes what was seen.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    seen: BTreeSet<Scene>,
    effects: BTreeMap<TaskId, Effect>,
    /// What each unfinished task went through last that would be a scene if it ended well.
    hopes: BTreeMap<TaskId, BTreeSet<Scene>>,
    reassigned: BTreeMap<TaskId, AgentName>,
    /// Which model the CEO chose for a task.
    chosen: BTreeMap<TaskId, ModelRef>,
    gates: BTreeMap<Integration, Gate>,
    saved: Usage,
}

/// An integration's first silence.
#[derive(Clone, Debug)]
struct Gate {
    until: Timestamp,
    /// Whose tasks waited for its end.
    waiting: BTreeSet<AgentName>,
}

impl Watcher {
    /// What was seen so far.
    #[must_use]
    pub const fn seen(&self) -> &BTreeSet<Scene> {
        &self.seen
    }

    /// What was not seen yet.
    #[must_use]
    pub fn missing(&self) -> Vec<Scene> {
        Scene::ALL.iter().copied().filter(|scene| !self.seen.contains(scene)).collect()
    }

    /// Until when this integration first asked for silence, once it has.
    #[must_use]
    pub fn first_gate(&self, integration: &Integration) -> Option<Timestamp> {
        self.gates.get(integration).map(|gate| gate.until)
    }

    /// Tokens that were not paid again, because the journal knew the answers.
    #[must_use]
    pub const fn saved(&self) -> Usage {
        self.saved
    }

    /// Reads the next event.
    pub fn note(&mut self, event: &Event) {
        match &event.what {
            Happening::Submitted { effect, .. } => self.remember_effect(event.task, *effect),
            Happening::Claimed { .. } => self.claimed(event.task),
            Happening::Done { agent, .. } => self.done(event.task, agent),
            Happening::RetryScheduled { failure, amended, due, .. } => {
                let scene = match (failure.class, failure.kind) {
                    (Class::Validation, _) if *amended => Some(Scene::Correction),
                    (Class::Infrastructure, Kind::Crash) => Some(Scene::Panic),
                    (Class::Transient, _) if *due > event.at => Some(Scene::Retry),
                    (Class::Transient | Class::Infrastructure | Class::Validation | Class::Logic, _) => None,
                };
                self.hope(event.task, scene);
            }
            Happening::Parked { agent, why, integration, .. } => match why {
                Hold::BreakerOpen => self.saw(Scene::Parked),
                Hold::Gate => self.waits_at_gate(integration.as_ref(), agent),
                Hold::Drain | Hold::RetryBudget | Hold::IntegrationParked | Hold::DiskFull | Hold::Paused => {}
            },
            Happening::GateClosed { integration, until, .. } => {
                let first = || Gate { until: *until, waiting: BTreeSet::new() };
                self.gates.entry(integration.clone()).or_insert_with(first);
            }
            Happening::DeadLettered { failure, attempts, .. } => {
                // What it hoped for did not help.
                if let Some(task) = event.task {
                    self.hopes.remove(&task);
                }
                let payment = event.task.and_then(|task| self.effects.get(&task)) == Some(&Effect::Payment);
                if payment && *attempts <= 1 {
                    self.saw(Scene::Payment);
                } else if failure.class == Class::Logic && *attempts <= 1 {
                    self.saw(Scene::Logic);
                }
            }
            Happening::Decided { decided, .. } => match &decided.decision {
                Decision::RetryOnFallback { model } => {
                    self.chosen.extend(event.task.map(|task| (task, model.clone())));
                    self.hope(event.task, Some(Scene::Fallback));
                }
                Decision::Reassign { agent, .. } => {
                    if let Some(task) = event.task {
                        self.reassigned.insert(task, agent.clone());
                    }
                    self.hope(event.task, Some(Scene::Reassignment));
                }
                Decision::RetryAfterCheck { .. }
                | Decision::Park { .. }
                | Decision::Discard { .. }
                | Decision::PageHuman { .. }
                | Decision::Resolve { .. }
                | Decision::RunAgain { .. } => {}
            },
            Happening::BreakerChanged { to, from, .. } => {
                if to == "open" {
                    self.saw(Scene::BreakerOpen);
                }
                if from == "half-open" && to == "closed" {
                    self.saw(Scene::BreakerClosed);
                }
            }
            Happening::ProbeSent { .. } => self.saw(Scene::Probe),
            // `person/channel`, or the channel alone.
            Happening::PageDelivered { channel, .. } => match channel.rsplit('/').next() {
                Some("pagerduty") => self.saw(Scene::PagerDuty),
                Some("email") => self.saw(Scene::Email),
                Some(_) | None => {}
            },
            Happening::IncidentAcknowledged { .. } => self.saw(Scene::Acknowledged),
            Happening::IncidentOverridden { .. } => self.saw(Scene::Overridden),
            Happening::Resumed { model, steps, usage, .. } => {
                self.saved = self.saved.plus(*usage);
                if *steps > 0 && self.chosen(event.task).is_some_and(|chosen| chosen == model) {
                    self.hope(event.task, Some(Scene::Resumed));
                }
            }
            Happening::Compacted { .. }
            | Happening::OutcomeUnknown { .. }
            | Happening::OutcomeJudged { .. }
            | Happening::Released { .. }
            | Happening::Replayed { .. }
            | Happening::Cancelled { .. }
            | Happening::AgentStarted { .. }
            | Happening::AgentDied { .. }
            | Happening::CrashLoop { .. }
            | Happening::IncidentOpened { .. }
            | Happening::IncidentUpdated { .. }
            | Happening::IncidentResolved { .. }
            | Happening::PageFailed { .. }
            | Happening::ReplayChanged { .. }
            | Happening::TeamStarted { .. }
            | Happening::Draining { .. }
            | Happening::Pruned { .. } => {}
        }
    }

    fn chosen(&self, task: Option<TaskId>) -> Option<&ModelRef> {
        self.chosen.get(&task?)
    }

    fn saw(&mut self, scene: Scene) {
        self.seen.insert(scene);
    }

    fn remember_effect(&mut self, task: Option<TaskId>, effect: Effect) {
        self.effects.extend(task.map(|task| (task, effect)));
    }

    fn hope(&mut self, task: Option<TaskId>, scene: Option<Scene>) {
        if let (Some(task), Some(scene)) = (task, scene) {
            self.hopes.entry(task).or_default().insert(scene);
        }
    }

    /// A payment that is delivered again although it failed is the scene's opposite.
    fn claimed(&mut self, task: Option<TaskId>) {
        let Some(task) = task else { return };
        if self.hopes.contains_key(&task) && self.effects.get(&task) == Some(&Effect::Payment) {
            self.seen.remove(&Scene::Payment);
        }
    }

    fn done(&mut self, task: Option<TaskId>, by: &AgentName) {
        let Some(task) = task else { return };
        for scene in self.hopes.remove(&task).unwrap_or_default() {
            if scene != Scene::Reassignment || self.reassigned.get(&task) == Some(by) {
                self.saw(scene);
            }
        }
    }

    fn waits_at_gate(&mut self, integration: Option<&Integration>, agent: &AgentName) {
        let Some(gate) = integration.and_then(|integration| self.gates.get_mut(integration)) else { return };
        gate.waiting.insert(agent.clone());
        if gate.waiting.len() >= 2 {
            self.saw(Scene::RetryAfter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Incarnation;
    use crate::failure::{Action, Failure, Fallback, Origin, Signal};
    use crate::task::{Priority, TaskType};
    use crate::triage::{Decided, DeciderKind};

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).expect("a name")
    }

    fn failure(class: Class, kind: Kind) -> Failure {
        Failure {
            class,
            kind,
            origin: Origin::Integration,
            action: Action::Backoff,
            retry: true,
            retry_after: None,
            fallback: Fallback::AfterRetries,
            signal: Signal::Count,
            page: false,
            message: String::new(),
            rule: String::new(),
            integration: None,
            status: None,
            code: None,
            request_id: None,
        }
    }

    fn task_type() -> TaskType {
        TaskType::new("x").expect("a name")
    }

    fn submitted(effect: Effect) -> Happening {
        Happening::Submitted { agent: agent("cto"), task_type: task_type(), effect, priority: Priority::Normal }
    }

    fn claimed() -> Happening {
        Happening::Claimed {
            agent: agent("cto"),
            incarnation: Incarnation(1),
            task_type: task_type(),
            attempt: 2,
            generation: 1,
            fence: 2,
        }
    }

    fn retried(class: Class, kind: Kind, amended: bool) -> Happening {
        Happening::RetryScheduled {
            agent: agent("cto"),
            task_type: task_type(),
            attempt: 1,
            model: None,
            due: Timestamp::from_millis(30_000),
            failure: Box::new(failure(class, kind)),
            amended,
            usage: Usage::default(),
            micro_usd: None,
        }
    }

    fn dead(class: Class, kind: Kind, attempts: u32) -> Happening {
        Happening::DeadLettered {
            agent: agent("cto"),
            task_type: task_type(),
            generation: 1,
            attempts,
            model: None,
            failure: Box::new(failure(class, kind)),
            why: String::new(),
            usage: Usage::default(),
            micro_usd: None,
        }
    }

    fn done(by: &str) -> Happening {
        Happening::Done {
            agent: agent(by),
            task_type: task_type(),
            attempt: 1,
            generation: 1,
            model: None,
            usage: Usage::default(),
            micro_usd: None,
        }
    }

    fn reassigned(to: &str) -> Happening {
        Happening::Decided {
            agent: agent("cto"),
            task_type: task_type(),
            decided: Box::new(Decided {
                number: 1,
                generation: 1,
                decision: Decision::Reassign { agent: agent(to), amendment: String::new() },
                by: DeciderKind::Table,
                who: None,
                at: Timestamp::default(),
                reasons: vec![],
                rejected: vec![],
            }),
        }
    }

    fn chosen(model: &str) -> Happening {
        let Happening::Decided { agent, task_type, mut decided } = reassigned("backend") else { unreachable!() };
        decided.decision = Decision::RetryOnFallback { model: model.parse().expect("a model") };
        Happening::Decided { agent, task_type, decided }
    }

    fn resumed(model: &str, steps: u32) -> Happening {
        let usage = Usage { input: 100, output: 10, ..Usage::default() };
        let model = model.parse().expect("a model");
        Happening::Resumed { agent: agent("cto"), task_type: task_type(), model, steps, usage, micro_usd: None }
    }

    fn held(agent_name: &str, why: Hold) -> Happening {
        Happening::Parked {
            agent: agent(agent_name),
            task_type: task_type(),
            why,
            integration: Integration::new("openai").ok(),
            until: Timestamp::from_millis(60_000),
        }
    }

    fn gate() -> Happening {
        let integration = Integration::new("openai").expect("a name");
        Happening::GateClosed { integration, until: Timestamp::from_millis(60_000), asked: String::new() }
    }

    #[test]
    fn a_scene_is_seen_when_it_has_come_to_its_end_and_not_before() {
        let read = Effect::ReadOnly;
        let table: Vec<(&str, Vec<Happening>, &[Scene])> = vec![
            ("retried", vec![submitted(read), retried(Class::Transient, Kind::Timeout, false)], &[]),
            ("and done", vec![retried(Class::Transient, Kind::Timeout, false), done("cto")], &[Scene::Retry]),
            ("corrected", vec![retried(Class::Validation, Kind::Schema, true), done("cto")], &[Scene::Correction]),
            (
                "not corrected",
                vec![
                    retried(Class::Validation, Kind::Schema, true),
                    dead(Class::Validation, Kind::Schema, 2),
                    done("cto"),
                ],
                &[],
            ),
            ("panicked", vec![retried(Class::Infrastructure, Kind::Crash, false), done("cto")], &[Scene::Panic]),
            ("logic", vec![submitted(read), dead(Class::Logic, Kind::Refused, 1)], &[Scene::Logic]),
            ("logic, but retried", vec![submitted(read), dead(Class::Logic, Kind::Refused, 2)], &[]),
            ("payment", vec![submitted(Effect::Payment), dead(Class::Transient, Kind::Timeout, 1)], &[Scene::Payment]),
            ("payment twice", vec![submitted(Effect::Payment), dead(Class::Transient, Kind::Timeout, 2)], &[]),
            ("reassigned", vec![reassigned("backend"), done("backend")], &[Scene::Reassignment]),
            ("reassigned in vain", vec![reassigned("backend"), done("cto")], &[]),
            ("fallback", vec![chosen("b/y"), done("cto")], &[Scene::Fallback]),
            ("resumed", vec![chosen("b/y"), resumed("b/y", 6), done("cto")], &[Scene::Fallback, Scene::Resumed]),
            ("resumed in vain", vec![chosen("b/y"), resumed("b/y", 6)], &[]),
            ("resumed on its own model", vec![resumed("a/x", 6), done("cto")], &[]),
            ("one waits at the gate", vec![gate(), held("cto", Hold::Gate)], &[]),
            ("the team waits", vec![gate(), held("cto", Hold::Gate), held("ceo", Hold::Gate)], &[Scene::RetryAfter]),
            ("parked", vec![held("cto", Hold::BreakerOpen)], &[Scene::Parked]),
            ("nothing", vec![submitted(read), claimed(), done("cto")], &[]),
        ];
        for (name, events, expected) in table {
            let mut watcher = Watcher::default();
            for what in events {
                let task = Some(TaskId::new(Timestamp::default(), [1; 10]));
                watcher.note(&Event { seq: 1, at: Timestamp::default(), task, what });
            }
            assert_eq!(watcher.seen().iter().copied().collect::<Vec<_>>(), expected, "{name}");
        }
    }
}
