//! An incident: one per cause, triggered, acknowledged or overridden, resolved; and the pages it sends.
//!
//! An incident is a value; [`open`] makes one, [`apply`] changes it and says which messages that sends; `outbox.rs`
//! writes them out, one a channel. What is stored is stored before anything is sent, so a crash sends it again under
//! the same dedup key and nobody is called for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::escalation::{self, Rules};
use crate::event::{Happening, NewEvent};
use crate::query::Death;
use crate::task::{AgentName, TaskId, words};
use crate::time::{Timestamp, format_duration};

words! {
    /// Where an incident stands.
    IncidentState, "incident state", "triggered, acknowledged, overridden, resolved" {
        /// A human was called and has not answered.
        Triggered = "triggered",
        /// A human has it.
        Acknowledged = "acknowledged",
        /// A human decided for all its tasks.
        Overridden = "overridden",
        /// It is over.
        Resolved = "resolved",
    }
}

words! {
    /// Why an incident was opened.
    Trigger, "trigger", "dead-letters, integration, judgement, ceo-down, unreadable, store-down, test" {
        /// Three dead letters within the hour.
        DeadLetters = "dead-letters",
        /// An integration is unusable until somebody acts.
        Integration = "integration",
        /// A single task needs a person's judgement.
        Judgement = "judgement",
        /// The CEO itself died or stalls.
        CeoDown = "ceo-down",
        /// Tasks cannot be read: their rows are damaged, or of a newer version.
        Unreadable = "unreadable",
        /// The store takes no writes: nothing is accepted, and nothing that is done can be written down.
        StoreDown = "store-down",
        /// A person tries the pager.
        Test = "test",
    }
}

/// One incident, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name, such as `INC-1`.
    pub id: String,
    /// Why it was opened.
    pub trigger: Trigger,
    /// What it is about, beyond the trigger: an integration's name, a task's id; one open incident per (trigger, subject).
    pub subject: String,
    /// Where it stands.
    pub state: IncidentState,
    /// One sentence for the pager's screen.
    pub summary: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it last changed in a way a human should see.
    pub updated_at: Timestamp,
    /// The dead letters in it: (task, round).
    pub deaths: Vec<(TaskId, u32)>,
    /// When the first of them died, and the last; none without any, or as stored before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<(Timestamp, Timestamp)>,
    /// Agents affected, with their number of dead letters.
    pub agents: BTreeMap<AgentName, u32>,
    /// What fails, most frequent first, such as "transient/overloaded via anthropic: 4".
    pub pattern: Vec<String>,
    /// What the human should do first.
    pub runbook: String,
    /// Who took it on or ended it, and when.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// How often it was sent again.
    #[serde(default)]
    pub repages: u32,
    /// When it is next sent again, unless somebody answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repage_at: Option<Timestamp>,
    /// When updates may next be sent (at most one per minute).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_at: Option<Timestamp>,
    /// What happened, in words, when its dead letters do not tell it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What fails, with how often: what `pattern` is made of.
    #[serde(default)]
    pub causes: BTreeMap<String, u32>,
    /// How many of its dead letters humans were told of.
    #[serde(default)]
    pub told: u32,
    /// How many messages it has sent, each to one or more channels.
    #[serde(default)]
    pub messages: u32,
    /// The calls of its tasks of which nobody knows whether they happened, a line each: what, when, under which key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_doubt: Vec<String>,
}

/// What a human said to an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What: acknowledged, overridden, resolved.
    pub state: IncidentState,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Their words.
    #[serde(default)]
    pub note: String,
    /// How many dead letters of the incident that answers: what came later, or was refused, is not answered.
    #[serde(default)]
    pub covers: u32,
}

words! {
    /// What a page does at the other end.
    PageAction, "page action", "trigger, update, acknowledge, resolve" {
        /// Calls somebody.
        Trigger = "trigger",
        /// Adds to a call already made.
        Update = "update",
        /// Says that somebody has it.
        Acknowledge = "acknowledge",
        /// Says that it is over.
        Resolve = "resolve",
    }
}

/// A page: one message of one incident for one channel, stored before it is sent and until it is delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Its name in the outbox.
    pub id: String,
    /// The incident as it was when the page was written.
    pub incident: Incident,
    /// The channel it goes through.
    pub channel: String,
    /// What it does there.
    pub action: PageAction,
    /// The same for every page of one incident: `backstop/<team>/<incident>`, at most 255 characters.
    pub dedup_key: String,
    /// Has this incident called before?
    pub again: bool,
    /// The escalation step it is for: 0 the first on call, 1 the next …
    pub level: u32,
    /// When it may be tried next.
    pub due: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// When it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// What the channel said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Given up: the channel refused it for good, or for too long.
    #[serde(default)]
    pub abandoned: bool,
}

/// What opens an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// Its name, such as `INC-1`; the caller numbers them.
    pub id: String,
    /// Why.
    pub trigger: Trigger,
    /// What it is about: see [`Incident::subject`]. Empty for dead letters.
    pub subject: String,
    /// The dead letters in it; may be none.
    pub deaths: Vec<Death>,
    /// What happened, in words, for triggers whose dead letters do not tell it.
    pub why: String,
    /// What the human should do first; the built-in text when absent.
    pub runbook: Option<String>,
    /// The calls in doubt of its dead letters, a line each, without credentials.
    pub in_doubt: Vec<String>,
}

/// What can happen to an open incident.
#[derive(Clone, Debug, PartialEq)]
pub enum IncidentCommand {
    /// More dead letters belong to it. Sends nothing by itself.
    Append(Vec<Death>),
    /// More calls are in doubt. Sends nothing by itself.
    Doubt(Vec<String>),
    /// What was appended is told.
    Update,
    /// Nobody answered, or it was acknowledged long ago: it is sent again.
    Repage,
    /// A person takes it on.
    Acknowledge {
        /// Who.
        by: String,
        /// Their words.
        note: String,
    },
    /// A person decides for all its undecided tasks.
    Override {
        /// Who.
        by: String,
        /// Their words.
        note: String,
        /// The decision, in words.
        decision: String,
        /// For how many tasks.
        tasks: u32,
        /// How many dead letters of the incident that answers: those it had when its tasks were read, without those of which
        /// the decision was refused.
        covers: u32,
    },
    /// A person, or the recovery itself, ends it.
    Resolve {
        /// Who.
        by: String,
        /// Their words.
        note: String,
    },
}

/// Why an answer to an incident changed nothing: somebody was first. Says who, what and when.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IncidentRefused {
    /// Somebody answered before.
    #[error("{incident} was {state} by {by} at {at}{}", if note.is_empty() { String::new() } else { format!(" ({note})") })]
    Answered {
        /// Which incident.
        incident: String,
        /// What they did.
        state: IncidentState,
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
        /// Their words.
        note: String,
    },
}

/// A message an incident sends, not yet written out for the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageDraft {
    /// What it does.
    pub action: PageAction,
    /// Has this incident called before?
    pub again: bool,
    /// The step it is for, counted up with every re-page; [`crate::outbox::pages`] begins again after the last.
    pub level: u32,
}

/// An incident after a change, and what goes out with it.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentChange {
    /// The incident as it is now.
    pub incident: Incident,
    /// For the feed.
    pub events: Vec<NewEvent>,
    /// For the humans.
    pub pages: Vec<PageDraft>,
}

/// Opens an incident: calls the first on call.
#[must_use]
pub fn open(opening: Opening, rules: &Rules, now: Timestamp) -> IncidentChange {
    let Opening { id, trigger, subject, deaths, why, runbook, in_doubt } = opening;
    let mut incident = Incident {
        runbook: runbook.unwrap_or_else(|| built_in_runbook(trigger, &id)),
        id,
        trigger,
        subject,
        state: IncidentState::Triggered,
        summary: String::new(),
        opened_at: now,
        updated_at: now,
        deaths: Vec::new(),
        died: None,
        agents: BTreeMap::new(),
        pattern: Vec::new(),
        answers: Vec::new(),
        repages: 0,
        repage_at: (rules.repages_max > 0).then(|| now + rules.repage_after),
        update_at: None,
        why,
        causes: BTreeMap::new(),
        told: 0,
        messages: 1,
        in_doubt: Vec::new(),
    };
    incident.add(&deaths);
    incident.doubt(in_doubt);
    incident.told = incident.size();
    incident.summary = summary(&incident, rules);
    let opened = Happening::IncidentOpened { incident: incident.id.clone(), summary: incident.summary.clone() };
    let page = PageDraft { action: PageAction::Trigger, again: false, level: 0 };
    IncidentChange { incident, events: vec![opened.into()], pages: vec![page] }
}

/// Changes an incident. Answers are refused once somebody gave a contradicting one, or the same as another person.
///
/// # Errors
/// [`IncidentRefused`] says who answered what and when; nothing changed.
pub fn apply(
    incident: &Incident,
    command: IncidentCommand,
    rules: &Rules,
    now: Timestamp,
) -> Result<IncidentChange, IncidentRefused> {
    let mut next = incident.clone();
    let (events, pages) = match command {
        IncidentCommand::Append(deaths) => {
            open_still(&next)?;
            append(&mut next, &deaths, rules, now);
            (Vec::new(), Vec::new())
        }
        IncidentCommand::Doubt(lines) => {
            open_still(&next)?;
            next.doubt(lines);
            (Vec::new(), Vec::new())
        }
        IncidentCommand::Update => {
            open_still(&next)?;
            tell(&mut next, rules, now);
            let updated = Happening::IncidentUpdated { incident: next.id.clone(), dead_letters: next.size() };
            (vec![updated], vec![PageAction::Update])
        }
        IncidentCommand::Repage => {
            open_still(&next)?;
            repage(&mut next, rules, now);
            let updated = Happening::IncidentUpdated { incident: next.id.clone(), dead_letters: next.size() };
            (vec![updated], vec![PageAction::Trigger])
        }
        IncidentCommand::Acknowledge { by, note } => {
            match acknowledgeable(&next, &by)? {
                false => return Ok(IncidentChange { incident: next, events: Vec::new(), pages: Vec::new() }),
                true => next.answered(IncidentState::Acknowledged, &by, note, next.size(), now),
            }
            next.repage_at = Some(now + rules.reminder_after);
            let acknowledged = Happening::IncidentAcknowledged { incident: next.id.clone(), by };
            (vec![acknowledged], vec![PageAction::Acknowledge])
        }
        IncidentCommand::Override { by, note, decision, tasks, covers } => {
            overridable(&next)?;
            next.answered(IncidentState::Overridden, &by, note, covers.min(next.size()), now);
            // What came while it was carried out nobody has decided about.
            next.repage_at = (covers < next.size()).then(|| now + rules.reminder_after);
            let overridden = Happening::IncidentOverridden { incident: next.id.clone(), by, decision, tasks };
            (vec![overridden], vec![PageAction::Acknowledge])
        }
        IncidentCommand::Resolve { by, note } => {
            if !resolvable(&next)? {
                return Ok(IncidentChange { incident: next, events: Vec::new(), pages: Vec::new() });
            }
            next.answered(IncidentState::Resolved, &by, note, next.size(), now);
            next.repage_at = None;
            next.update_at = None;
            next.told = next.size();
            let resolved = Happening::IncidentResolved { incident: next.id.clone(), by };
            (vec![resolved], vec![PageAction::Resolve])
        }
    };
    next.messages += u32::try_from(pages.len()).unwrap_or(0);
    let level = next.repages;
    let pages = pages.into_iter().map(|action| PageDraft { action, again: true, level }).collect();
    Ok(IncidentChange { incident: next, events: events.into_iter().map(NewEvent::from).collect(), pages })
}

fn append(incident: &mut Incident, deaths: &[Death], rules: &Rules, now: Timestamp) {
    let before = incident.size();
    incident.add(deaths);
    if incident.size() == before {
        return;
    }
    incident.updated_at = now;
    incident.summary = summary(incident, rules);
    // An override answered for everything by then; what comes after it nobody has seen.
    if incident.state == IncidentState::Overridden && incident.repage_at.is_none() {
        incident.repage_at = Some(now + rules.reminder_after);
    }
}

fn tell(incident: &mut Incident, rules: &Rules, now: Timestamp) {
    incident.told = incident.size();
    incident.update_at = Some(now + rules.update_every);
    incident.updated_at = now;
}

fn repage(incident: &mut Incident, rules: &Rules, now: Timestamp) {
    tell(incident, rules, now);
    match incident.state {
        IncidentState::Triggered => {
            incident.repages += 1;
            incident.repage_at = (incident.repages < rules.repages_max).then(|| now + rules.repage_after);
        }
        // A reminder, once: it goes to whoever was called last.
        IncidentState::Acknowledged | IncidentState::Overridden | IncidentState::Resolved => incident.repage_at = None,
    }
}

fn refused(incident: &Incident) -> IncidentRefused {
    let last = incident.answers.last();
    IncidentRefused::Answered {
        incident: incident.id.clone(),
        state: incident.state,
        by: last.map(|answer| answer.by.clone()).unwrap_or_default(),
        at: last.map_or(incident.updated_at, |answer| answer.at),
        note: last.map(|answer| answer.note.clone()).unwrap_or_default(),
    }
}

fn open_still(incident: &Incident) -> Result<(), IncidentRefused> {
    if incident.is_open() { Ok(()) } else { Err(refused(incident)) }
}

/// `Ok(false)`: it ended by itself, and whoever ends it too is not told that somebody was faster.
fn resolvable(incident: &Incident) -> Result<bool, IncidentRefused> {
    let by_itself = incident.answers.last().is_some_and(|answer| answer.by == BY_ITSELF);
    if !incident.is_open() && by_itself { Ok(false) } else { open_still(incident).map(|()| true) }
}

/// `Ok(false)`: the same person again, nothing to do. After the reminder, anybody may take it on anew.
fn acknowledgeable(incident: &Incident, by: &str) -> Result<bool, IncidentRefused> {
    match incident.state {
        IncidentState::Triggered => Ok(true),
        IncidentState::Acknowledged if incident.repage_at.is_none() => Ok(true),
        IncidentState::Acknowledged if incident.answers.last().is_some_and(|answer| answer.by == by) => Ok(false),
        IncidentState::Acknowledged | IncidentState::Overridden | IncidentState::Resolved => Err(refused(incident)),
    }
}

/// An acknowledgement is ownership, not a decision: a decision may follow. A second decision only about what came later.
fn overridable(incident: &Incident) -> Result<(), IncidentRefused> {
    let more = incident.answers.last().is_none_or(|answer| answer.covers < incident.size());
    match incident.state {
        IncidentState::Triggered | IncidentState::Acknowledged => Ok(()),
        IncidentState::Overridden if more => Ok(()),
        IncidentState::Overridden | IncidentState::Resolved => Err(refused(incident)),
    }
}

impl Incident {
    /// Is it not over yet?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != IncidentState::Resolved
    }

    /// How many dead letters are in it.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.agents.values().sum()
    }

    /// What the escalation rules need to know of it; none once it is over.
    #[must_use]
    pub fn standing(&self) -> Option<escalation::Open> {
        self.is_open().then(|| escalation::Open {
            untold: self.size() > self.told,
            update_at: self.update_at,
            repage_at: self.repage_at,
        })
    }

    fn answered(&mut self, state: IncidentState, by: &str, note: String, covers: u32, now: Timestamp) {
        self.state = state;
        self.updated_at = now;
        self.answers.push(Answer { state, by: by.to_owned(), at: now, note, covers });
    }

    fn doubt(&mut self, lines: Vec<String>) {
        for line in lines {
            if self.in_doubt.len() < DOUBTS_MAX && !self.in_doubt.contains(&line) {
                self.in_doubt.push(line);
            }
        }
    }

    fn add(&mut self, deaths: &[Death]) {
        let mut known: BTreeSet<(TaskId, u32)> = self.deaths.iter().copied().collect();
        // Of those before, all that is known when their times were not kept: they were there when it was opened.
        let before = (!known.is_empty()).then_some((self.opened_at, self.opened_at));
        self.died = self.died.or(before);
        for death in deaths {
            if !known.insert((death.task, death.generation)) {
                continue;
            }
            self.deaths.push((death.task, death.generation));
            let (first, last) = self.died.unwrap_or((death.at, death.at));
            self.died = Some((first.min(death.at), last.max(death.at)));
            *self.agents.entry(death.agent.clone()).or_default() += 1;
            let via = death.integration.as_ref().map(|name| format!(" via {name}")).unwrap_or_default();
            *self.causes.entry(format!("{}/{}{via}", death.class, death.kind)).or_default() += 1;
        }
        let mut causes: Vec<(&String, &u32)> = self.causes.iter().collect();
        causes.sort_by(|(name, count), (other, others)| others.cmp(count).then_with(|| name.cmp(other)));
        self.pattern = causes.into_iter().map(|(cause, count)| format!("{cause}: {count}")).collect();
    }
}

/// Where a task that needs a person's judgement is brought up. One page per task would be a storm in an outage.
#[derive(Clone, Debug, PartialEq)]
pub enum Home<'a> {
    /// Within this open incident: it is about the same trouble.
    In(&'a Incident),
    /// In an incident of its own, under this subject; others of the same agent, type and kind will join it.
    Own(String),
}

/// Finds the incident a single task belongs to: the open one about dead letters, else the one of its integration,
/// else the judgement of the same agent, type and kind.
#[must_use]
pub fn home<'a>(incidents: &'a [Incident], death: &Death) -> Home<'a> {
    let subject = format!("{}/{}/{}", death.agent, death.task_type, death.kind);
    let integration = death.integration.as_ref().map(|name| name.as_str());
    let find = |is: &dyn Fn(&Incident) -> bool| incidents.iter().find(|incident| incident.is_open() && is(incident));
    find(&|incident| incident.trigger == Trigger::DeadLetters)
        .or_else(|| {
            find(&|incident| incident.trigger == Trigger::Integration && Some(incident.subject.as_str()) == integration)
        })
        .or_else(|| find(&|incident| incident.trigger == Trigger::Judgement && incident.subject == subject))
        .map_or(Home::Own(subject), Home::In)
}

/// Who ends an incident that no person ended.
pub const BY_ITSELF: &str = "backstop";

/// Why an incident is over although nobody ended it: what it called for has been done. One that stayed open would call
/// again for nothing, and what comes later would join it, which calls nobody. `waiting` are the tasks that wait for a
/// person, with their rounds; `well` says whether the integration it is about has taken calls again for a while, or the part
/// of the team has been up and done its work.
#[must_use]
pub fn over(
    incident: &Incident,
    waiting: &BTreeSet<(TaskId, u32)>,
    rules: &Rules,
    well: impl FnOnce(&str) -> bool,
) -> Option<&'static str> {
    if !incident.is_open() || incident.deaths.iter().any(|death| waiting.contains(death)) {
        return None;
    }
    match incident.trigger {
        Trigger::Judgement => Some("none of its tasks waits for a person any more"),
        // As many as call a person by themselves count here and nowhere else: somebody has to have seen them.
        Trigger::Integration if incident.answers.is_empty() && incident.size() >= rules.threshold => None,
        Trigger::Integration => well(&incident.subject).then_some("calls go through again"),
        // It has no dead letters of its own: those that lay there were decided about, and count where they belong.
        Trigger::CeoDown => well(&incident.subject).then_some("it is up, and nothing was left lying"),
        // What fails together is for a person to look at, also when all of it was decided; whether the store is well again
        // cannot be told from here; and one about writes is stored only when it is over.
        Trigger::DeadLetters | Trigger::Unreadable | Trigger::StoreDown | Trigger::Test => None,
    }
}

/// Dead letters that an open incident about their integration explains already: they are appended there, instead of
/// calling a human a second time for the same cause. The others are for [`escalation::judge`].
#[must_use]
pub fn explained<'a>(incidents: &'a [Incident], deaths: &[Death]) -> Vec<(&'a Incident, Vec<Death>)> {
    let known = counted(incidents);
    let open = incidents.iter().filter(|incident| incident.is_open() && incident.trigger == Trigger::Integration);
    let of = |incident: &Incident| -> Vec<Death> {
        let about = |death: &&Death| {
            let integration = death.integration.as_ref().map(|name| name.as_str());
            integration == Some(incident.subject.as_str())
                && death.at >= incident.opened_at
                && !known.contains(&(death.task, death.generation))
        };
        deaths.iter().filter(about).cloned().collect()
    };
    open.map(|incident| (incident, of(incident))).filter(|(_, deaths)| !deaths.is_empty()).collect()
}

/// The pairs that count no more: those of every incident about dead letters or about their integration. What
/// [`escalation::judge`] wants to know.
#[must_use]
pub fn counted(incidents: &[Incident]) -> BTreeSet<(TaskId, u32)> {
    incidents
        .iter()
        .filter(|incident| matches!(incident.trigger, Trigger::DeadLetters | Trigger::Integration))
        .flat_map(|incident| incident.deaths.iter().copied())
        .collect()
}

/// The most calls in doubt an incident names; the dead letters name them all.
pub const DOUBTS_MAX: usize = 20;
/// The most characters of a summary (PagerDuty's limit).
pub const SUMMARY_MAX: usize = 1024;

/// One sentence for the pager's screen: how many, whose, what.
fn summary(incident: &Incident, rules: &Rules) -> String {
    let agents: Vec<String> = incident.agents.iter().map(|(agent, count)| format!("{agent} {count}")).collect();
    let letters = match incident.size() {
        1 => "1 dead letter".to_owned(),
        n => format!("{n} dead letters"),
    };
    let mut text = match incident.trigger {
        Trigger::DeadLetters => format!("{letters} within {}", format_duration(within(incident, rules))),
        Trigger::Integration => format!("{} is unusable until somebody acts", incident.subject),
        Trigger::Judgement => format!("{letters} of {} need a person's judgement", incident.subject),
        Trigger::CeoDown => "the CEO is down or stalls; dead letters wait undecided".to_owned(),
        Trigger::Unreadable => "what is stored cannot be read; nobody works on the tasks among it".to_owned(),
        Trigger::StoreDown => "the store takes no writes; nothing new is accepted, and work stands still".to_owned(),
        Trigger::Test => "test page: nothing is wrong".to_owned(),
    };
    if incident.trigger == Trigger::Integration && incident.size() > 0 {
        text.push_str(&format!(", {letters}"));
    }
    if !agents.is_empty() {
        text.push_str(&format!(" ({})", shortened(&agents, 5)));
    }
    if !incident.pattern.is_empty() {
        text.push_str(&format!(": {}", shortened(&incident.pattern, 3)));
    }
    match incident.in_doubt.as_slice() {
        [] => {}
        [one] => text.push_str(&format!("; did this happen? {}", visible(one))),
        several => text.push_str(&format!("; {} calls may or may not have happened", several.len())),
    }
    let why = visible(&incident.why);
    if !why.is_empty() {
        text.push_str(&format!("; {why}"));
    }
    text.chars().take(SUMMARY_MAX).collect()
}

/// The time in which its dead letters died: the window that called, or longer when more came later, in whole minutes.
fn within(incident: &Incident, rules: &Rules) -> Duration {
    let span = incident.died.map(|(first, last)| last.since(first)).unwrap_or_default();
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    if span <= rules.window { rules.window } else { Duration::from_secs(seconds.div_ceil(60) * 60) }
}

fn shortened(list: &[String], most: usize) -> String {
    let mut text = list.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    if list.len() > most {
        text.push_str(&format!(" and {} more", list.len() - most));
    }
    text
}

/// Text of others on one line, with nothing in it that a screen would obey instead of show: control characters and
/// the invisible ones that reorder or hide text become `U+XXXX` in brackets; line breaks become blanks.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() || hides(c) => out.push_str(&format!("[U+{:04X}]", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Zero-width, direction and tag characters, and the line separators some mail readers obey.
const fn hides(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What to do first, when the configuration says nothing of its own: commands that exist, in the order to run them.
pub(crate) fn built_in_runbook(trigger: Trigger, id: &str) -> String {
    let first = match trigger {
        Trigger::DeadLetters => {
            "see what fails together: `backstop dlq groups`, `backstop breaker ls`; once the cause is gone: `backstop dlq replay --all --dry-run`"
        }
        Trigger::Integration => {
            "check its credentials, billing and address (`backstop check`); then close its breaker and the parked tasks go on by themselves"
        }
        Trigger::Judgement => {
            "read the dead letter (`backstop dlq show <task>`) and decide (`backstop ceo decide <task> <decision>`); if a call is in doubt, look at the other side and say what happened (`backstop task outcome <task> --happened` or `backstop task outcome <task> --did-not-happen`)"
        }
        Trigger::CeoDown => {
            "read the log for why; decide by hand meanwhile (`backstop dlq ls`, `backstop ceo decide <task> <decision>`)"
        }
        Trigger::Unreadable => {
            "all others go on; copy the directory of the store aside before anything else; `backstop task ls` names such tasks beside the others, and what stands in brackets is another row, by what it is of; the version that wrote them can read them, and the tables of the store hold what is left"
        }
        // Who takes it on cannot be written down either.
        Trigger::StoreDown => {
            return format!(
                "see what it says: `backstop status`; make room on its disk, or mend that; nothing accepted is lost; once writes \
                 are taken work goes on, and this ends, by itself: `backstop incident show {id}`, `backstop task ls`"
            );
        }
        Trigger::Test => "nothing to do",
    };
    format!("take it on: `backstop incident ack {id}`; {first}; end it: `backstop incident resolve {id}`")
}
