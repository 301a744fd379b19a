//! What can be asked of the record of all work: filters, pages and counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::delivery::Settlement;
use crate::event::{Happening, NewEvent};
use crate::failure::{Class, Failure, Kind};
use crate::ledger::Command;
use crate::record::{LetterStatus, Record, State};
use crate::task::{AgentName, Effect, Integration, Priority, TaskId, TaskType};
use crate::time::Timestamp;

/// Which tasks or dead letters. All given must hold; an empty filter matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Standing in one of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// Whose turn it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Of this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub task_type: Option<TaskType>,
    /// That failed with this class, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// That failed with this kind, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Whose next (or failed) call goes to this integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integration: Option<Integration>,
    /// With this effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// With this priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Whose dead letter stands in one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<LetterStatus>,
    /// Accepted (tasks) or given up (dead letters) at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Accepted (tasks) or given up (dead letters) before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whose failure message holds this text, ignoring case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Tasks only: whose due time is at or before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_by: Option<Timestamp>,
    /// Exactly these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskId>,
}

impl Filter {
    /// Does this task match, as one among all tasks?
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        let failure = record.last_failure();
        self.is_about(record)
            && self.is_in(record.task.created_at)
            && self.due_by.is_none_or(|by| record.due <= by)
            && self.integration.as_ref().is_none_or(|wanted| *wanted == record.integration)
            && self.class.is_none_or(|class| failure.is_some_and(|failure| failure.class == class))
            && self.kind.is_none_or(|kind| failure.is_some_and(|failure| failure.kind == kind))
            && self
                .folded_text()
                .is_none_or(|text| failure.is_some_and(|failure| fold(&failure.message).contains(&text)))
    }

    /// Does this task have a dead letter that matches? It is asked for the failure and time of the letter.
    #[must_use]
    pub fn matches_letter(&self, record: &Record) -> bool {
        let Some(letter) = &record.letter else { return false };
        let failure = &letter.failure;
        self.is_about(record)
            && self.is_in(letter.at)
            && self.integration.as_ref().is_none_or(|wanted| wanted == failed_integration(record, failure))
            && self.class.is_none_or(|class| failure.class == class)
            && self.kind.is_none_or(|kind| failure.kind == kind)
            && self.folded_text().is_none_or(|text| fold(&failure.message).contains(&text))
    }

    /// Can it be asked of dead letters?
    ///
    /// # Errors
    /// Says which of its words would be passed over, so that it chose more letters than it was meant to.
    pub fn asks_letters(&self) -> Result<(), NotOfLetters> {
        if self.text.as_deref() == Some("") {
            return Err(NotOfLetters::EmptyText);
        }
        if self.due_by.is_some() {
            return Err(NotOfLetters::DueBy);
        }
        Ok(())
    }

    /// Does it choose among dead letters, rather than mean every one of them?
    #[must_use]
    pub fn chooses_letters(&self) -> bool {
        let text = self.text.clone().filter(|text| !text.is_empty());
        Self { text, due_by: None, ..self.clone() } != Self::default()
    }

    /// The text looked for, as [`fold`] writes it.
    #[must_use]
    pub fn folded_text(&self) -> Option<String> {
        self.text.as_deref().filter(|text| !text.is_empty()).map(fold)
    }

    fn is_about(&self, record: &Record) -> bool {
        let status = record.letter.as_ref().map(|letter| letter.status);
        (self.states.is_empty() || self.states.contains(&record.state))
            && self.agent.as_ref().is_none_or(|agent| *agent == record.agent)
            && self.task_type.as_ref().is_none_or(|task_type| *task_type == record.task.task_type)
            && self.effect.is_none_or(|effect| effect == record.task.effect)
            && self.priority.is_none_or(|priority| priority == record.task.priority)
            && (self.status.is_empty() || status.is_some_and(|status| self.status.contains(&status)))
            && (self.ids.is_empty() || self.ids.contains(&record.task.id))
    }

    fn is_in(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// A word of a filter that is no question to a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotOfLetters {
    /// It is found in every error.
    #[error("the text looked for in the error is empty, and every error holds that; leave it out, or say which text")]
    EmptyText,
    /// Tasks are due, letters are not.
    #[error("`due_by` is for tasks: a dead letter is not due; choose by `since:`, `until:` or `age:`")]
    DueBy,
}

impl NotOfLetters {
    /// Which field of the filter it is.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::EmptyText => "text",
            Self::DueBy => "due_by",
        }
    }
}

/// The integration a dead letter speaks of: that of its failure, or the one the next call would go to.
#[must_use]
pub fn failed_integration<'a>(record: &'a Record, failure: &'a Failure) -> &'a Integration {
    failure.integration.as_ref().unwrap_or(&record.integration)
}

/// Text as it is compared when case is ignored.
#[must_use]
pub fn fold(text: &str) -> String {
    text.to_lowercase()
}

/// A page of a listing: where to go on, and how many. Keyset paging: stable under writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageAsk {
    /// The cursor of the page before; none for the first.
    pub after: Option<String>,
    /// How many; at most 1,000.
    pub limit: u32,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
}

impl Default for PageAsk {
    fn default() -> Self {
        Self { after: None, limit: 50, oldest_first: false }
    }
}

/// The most items of one page.
pub const PAGE_MAX: u32 = 1_000;

impl PageAsk {
    /// How many items the page has at most: between 1 and [`PAGE_MAX`].
    #[must_use]
    pub fn size(&self) -> usize {
        usize::try_from(self.limit.clamp(1, PAGE_MAX)).unwrap_or(1)
    }
}

/// Where a page ended: the key of its last item. Opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cursor {
    /// In a listing of tasks: the number of the task.
    Task(u64),
    /// In a listing of dead letters: when the last one was given up, and its number.
    Letter(Timestamp, u64),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(seq) => write!(f, "t{seq}"),
            Self::Letter(at, seq) => write!(f, "d{}.{seq}", at.millis()),
        }
    }
}

impl Cursor {
    /// Reads what [`fmt::Display`] wrote; nothing else is a cursor.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let cursor = match text.split_at_checked(1)? {
            ("t", seq) => Self::Task(seq.parse().ok()?),
            ("d", rest) => {
                let (at, seq) = rest.split_once('.')?;
                Self::Letter(Timestamp::from_millis(at.parse().ok()?), seq.parse().ok()?)
            }
            _ => return None,
        };
        (cursor.to_string() == text).then_some(cursor)
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// Where the next one begins; none when this is the last.
    pub next: Option<String>,
    /// What belongs on this page and cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
}

/// A task, or another row, that does not hold what was written there. It takes nothing from the others, and is told beside
/// them, so that nobody takes what is left for all there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// What stands where its id was written, on one line. In brackets, what row it is: of a task whose id cannot be read
    /// either, or of something else, as `(death 12)`, `(event 40)` or `(incident INC-3)`.
    pub id: String,
    /// What is wrong, on one line and without credentials.
    pub why: String,
}

/// A task given up on, once for each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// Which task.
    pub task: TaskId,
    /// In which round.
    pub generation: u32,
    /// When.
    pub at: Timestamp,
    /// On whose hands.
    pub agent: AgentName,
    /// Of which type.
    pub task_type: TaskType,
    /// Of which class.
    pub class: Class,
    /// Of which kind.
    pub kind: Kind,
    /// Through which integration, if one is known.
    pub integration: Option<Integration>,
}

impl Death {
    /// The death this event of a task tells of, if it tells of one.
    #[must_use]
    pub fn told_by(event: &NewEvent, at: Timestamp) -> Option<Self> {
        let task = event.task?;
        let Happening::DeadLettered { agent, task_type, generation, failure, .. } = &event.what else { return None };
        Some(Self {
            task,
            generation: *generation,
            at,
            agent: agent.clone(),
            task_type: task_type.clone(),
            class: failure.class,
            kind: failure.kind,
            integration: failure.integration.clone(),
        })
    }
}

/// The failure of a delivery that a command reports, if it reports one: what [`FailureRate`] counts.
#[must_use]
pub fn failure_told(command: &Command) -> Option<&Failure> {
    match command {
        Command::Settle { settlement, .. } | Command::Lapse { settlement, .. } => match settlement {
            Settlement::Ack { .. } | Settlement::Held { .. } => None,
            Settlement::Retry { failure, .. } | Settlement::DeadLetter { failure, .. } => Some(failure),
            Settlement::Release { failure, .. } => failure.as_ref(),
        },
        Command::Claim { .. }
        | Command::Renew { .. }
        | Command::Park { .. }
        | Command::GiveUp { .. }
        | Command::Decide { .. }
        | Command::Replay { .. }
        | Command::Cancel { .. } => None,
    }
}

/// Failures of deliveries, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureRate {
    /// Whose.
    pub agent: AgentName,
    /// Of which type of task.
    pub task_type: TaskType,
    /// Of which class.
    pub class: Class,
    /// How many.
    pub failures: u64,
}

/// Tasks of one agent in one state, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// Whose turn it is.
    pub agent: AgentName,
    /// Where they stand.
    pub state: State,
    /// How many.
    pub tasks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_out_is_a_cursor() {
        for cursor in [Cursor::Task(0), Cursor::Task(u64::MAX), Cursor::Letter(Timestamp::from_millis(-5), 7)] {
            assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "t", "t01", "t+1", "t-1", "d1", "d1.", "d1.2.3", "d 1.2", "x1", "ä1"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    /// Filters that every dead letter matches were told from an empty one by being unlike it: `dlq replay --error ''` and
    /// `dlq discard --where 'due_by:1h'` took the whole queue without `--all`.
    #[test]
    fn what_no_letter_is_asked_chooses_none() {
        let due_by = Some(Timestamp::from_millis(7));
        let text = |text: &str| Some(text.to_owned());
        for (filter, asks, chooses) in [
            (Filter::default(), Ok(()), false),
            (Filter { text: text(""), ..Filter::default() }, Err(NotOfLetters::EmptyText), false),
            (Filter { due_by, ..Filter::default() }, Err(NotOfLetters::DueBy), false),
            (Filter { text: text(""), due_by, ..Filter::default() }, Err(NotOfLetters::EmptyText), false),
            (Filter { kind: Some(Kind::Timeout), due_by, ..Filter::default() }, Err(NotOfLetters::DueBy), true),
            (Filter { text: text("x"), ..Filter::default() }, Ok(()), true),
            (Filter { status: vec![LetterStatus::Open], ..Filter::default() }, Ok(()), true),
        ] {
            assert_eq!((filter.asks_letters(), filter.chooses_letters()), (asks, chooses), "{filter:?}");
        }
    }

    #[test]
    fn a_page_holds_between_one_and_a_thousand() {
        for (limit, size) in [(0, 1), (1, 1), (1_000, 1_000), (1_001, 1_000), (u32::MAX, 1_000)] {
            assert_eq!(PageAsk { limit, ..PageAsk::default() }.size(), size);
        }
    }
}
