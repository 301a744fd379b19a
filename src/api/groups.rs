//! Dead letters by what went wrong: one line for a thousand letters of one cause.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::failure::{Class, Kind};
use crate::record::{LetterStatus, Record};
use crate::task::{AgentName, Integration, TaskId, TaskType};
use crate::time::Timestamp;

/// Dead letters that failed the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Of which class.
    pub class: Class,
    /// Of which kind.
    pub kind: Kind,
    /// Through which integration, if one is known.
    pub integration: Option<Integration>,
    /// Of which type of task.
    #[serde(rename = "type")]
    pub task_type: TaskType,
    /// The error without what differs from task to task.
    pub error: String,
    /// How many.
    pub letters: u64,
    /// Still undecided, among them.
    pub open: u64,
    /// The first death.
    pub first_at: Timestamp,
    /// The last death.
    pub last_at: Timestamp,
    /// Agents that met it.
    pub agents: BTreeSet<AgentName>,
    /// Sent round again before, and back.
    pub replayed: u64,
    /// One of them, to look at.
    pub example: TaskId,
}

/// Groups letters, the largest group first.
#[must_use]
pub fn groups(records: &[Record]) -> Vec<Group> {
    let mut found: BTreeMap<(Class, Kind, Option<Integration>, TaskType, String), Group> = BTreeMap::new();
    for record in records {
        let Some(letter) = &record.letter else { continue };
        let failure = &letter.failure;
        let error = normalise(&failure.message);
        let key =
            (failure.class, failure.kind, failure.integration.clone(), record.task.task_type.clone(), error.clone());
        let group = found.entry(key).or_insert_with(|| Group {
            class: failure.class,
            kind: failure.kind,
            integration: failure.integration.clone(),
            task_type: record.task.task_type.clone(),
            error,
            letters: 0,
            open: 0,
            first_at: letter.first_at,
            last_at: letter.at,
            agents: BTreeSet::new(),
            replayed: 0,
            example: record.task.id,
        });
        group.letters += 1;
        group.open += u64::from(matches!(letter.status, LetterStatus::Open | LetterStatus::WithHuman));
        group.first_at = group.first_at.min(letter.first_at);
        group.last_at = group.last_at.max(letter.at);
        group.agents.insert(record.agent.clone());
        group.replayed += u64::from(record.replays > 0);
    }
    let mut groups: Vec<Group> = found.into_values().collect();
    groups.sort_by(|a, b| b.letters.cmp(&a.letters).then(b.last_at.cmp(&a.last_at)));
    groups
}

/// Numbers and long identifiers differ from task to task; the rest is the cause.
fn normalise(message: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let digits = bare.chars().filter(char::is_ascii_digit).count();
        let varies = digits > 0 && (digits * 2 >= bare.len() || bare.len() >= 16);
        if varies && !bare.is_empty() { word.replace(bare, "#") } else { word.to_owned() }
    };
    let words: Vec<String> = message.split_whitespace().map(word).collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_task_to_task_is_left_out() {
        for (message, expected) in [
            ("timed out after 30s (request req_011CSHoEeqs5C35K2UUqR7Fy)", "timed out after # (request #)"),
            ("timed out after 31s (request req_022DTHoEeqs5C35K2UUqR7Fy)", "timed out after # (request #)"),
            ("order 12345 has no title", "order # has no title"),
            ("/title is missing", "/title is missing"),
            ("gpt4 said no", "gpt4 said no"),
        ] {
            assert_eq!(normalise(message), expected, "{message}");
        }
    }
}
