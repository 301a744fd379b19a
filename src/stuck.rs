//! Whether an agent goes in circles: the same call again and again, or a cycle of calls, compared with their arguments.

use std::time::Duration;

use crate::time::format_duration;

/// One call of a tool, as it is compared: its name and the arguments to the letter.
pub type Step<'a> = (&'a str, &'a str);

/// How often a call, or a cycle of calls, must repeat to be a loop.
pub const REPEATS: usize = 5;

/// The longest cycle that is looked for.
pub const LONGEST_CYCLE: usize = 5;

/// What shows that an agent is going nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// The last calls are [`REPEATS`] rounds of one cycle.
    Circle {
        /// Calls in one round; 1 for the same call again and again.
        length: usize,
        /// One round, in words.
        evidence: String,
    },
    /// It says the same thing over and over.
    Chant {
        /// The words it repeats.
        words: String,
    },
    /// It made as many steps as it may.
    Steps {
        /// Steps made.
        made: u64,
        /// Steps allowed.
        allowed: u64,
    },
    /// It reads and writes tokens faster than work does.
    Velocity {
        /// Tokens within the window.
        tokens: u64,
        /// Tokens allowed in it.
        allowed: u64,
    },
    /// It is busy, and nothing gets finished.
    Stalled {
        /// How long ago something was finished.
        since_progress: Duration,
        /// How long that may be.
        limit: Duration,
    },
}

/// Looks at the end of a history, oldest first. The same tool over different arguments is a batch, not a loop.
#[must_use]
pub fn circle(history: &[Step<'_>]) -> Option<Stuck> {
    (1..=LONGEST_CYCLE).find_map(|length| {
        let tail = history.len().checked_sub(length * REPEATS).map(|start| &history[start..])?;
        let round = &tail[..length];
        if !tail.chunks(length).all(|other| other == round) {
            return None;
        }
        let evidence =
            round.iter().map(|(name, arguments)| format!("{name} {arguments}")).collect::<Vec<_>>().join(", ");
        Some(Stuck::Circle { length, evidence: format!("{evidence} {REPEATS} times in a row") })
    })
}

/// How many characters a chanted phrase has at least.
pub const CHANT_LENGTH: usize = 50;

/// How often a phrase must follow upon itself to be a chant.
pub const CHANT_REPEATS: usize = 10;

/// Looks at the end of a text for one phrase of at most [`CHANT_LENGTH`] characters that fills at least
/// [`CHANT_REPEATS`] times [`CHANT_LENGTH`] characters without a pause. A long table repeats its borders, not its rows.
#[must_use]
pub fn chant(text: &str) -> Option<Stuck> {
    let tail: Vec<char> = text.chars().rev().take(CHANT_LENGTH * CHANT_REPEATS).collect();
    if tail.len() < CHANT_LENGTH * CHANT_REPEATS {
        return None;
    }
    let period = (1..=CHANT_LENGTH).find(|period| tail.iter().zip(&tail[*period..]).all(|(a, b)| a == b))?;
    let words: String = tail[..period].iter().rev().collect();
    // Blank lines and rules of dashes are layout.
    words.contains(char::is_alphanumeric).then_some(Stuck::Chant { words })
}

/// Has it made more steps than it may? Zero allowed means none.
#[must_use]
pub fn out_of_steps(made: u64, allowed: u64) -> Option<Stuck> {
    (made >= allowed).then_some(Stuck::Steps { made, allowed })
}

/// Has it used more tokens within a window than it may? All that were allowed may be used.
#[must_use]
pub fn too_fast(tokens_in_window: u64, allowed: u64) -> Option<Stuck> {
    (tokens_in_window > allowed).then_some(Stuck::Velocity { tokens: tokens_in_window, allowed })
}

/// Has nothing been finished for so long that nothing will be?
#[must_use]
pub fn stalled(since_progress: Duration, limit: Duration) -> Option<Stuck> {
    (since_progress >= limit).then_some(Stuck::Stalled { since_progress, limit })
}

impl Stuck {
    /// What was seen, in words, for [`crate::cause::Cause::Loop`].
    #[must_use]
    pub fn evidence(&self) -> String {
        match self {
            Self::Circle { evidence, .. } => evidence.clone(),
            Self::Chant { words } => format!("says {CHANT_REPEATS} times in a row: {words}"),
            Self::Steps { made, allowed } => format!("step {made} of at most {allowed}"),
            Self::Velocity { tokens, allowed } => format!("{tokens} tokens within a minute of at most {allowed}"),
            Self::Stalled { since_progress, limit } => {
                // Whole seconds: a timer is a millisecond late, and nobody wants to know.
                let since = Duration::from_secs(since_progress.as_secs());
                let [since, limit] = [since, *limit].map(format_duration);
                format!("no step finished for {since}; at most {limit} are allowed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_of_circle(history: &[Step<'_>]) -> Option<usize> {
        match circle(history)? {
            Stuck::Circle { length, .. } => Some(length),
            Stuck::Chant { .. } | Stuck::Steps { .. } | Stuck::Velocity { .. } | Stuck::Stalled { .. } => None,
        }
    }

    #[test]
    fn the_same_call_is_a_loop_the_fifth_time() {
        let call = ("read_file", r#"{"path":"a"}"#);
        assert_eq!(length_of_circle(&[call; 4]), None);
        assert_eq!(length_of_circle(&[call; 5]), Some(1));
        assert_eq!(circle(&[call; 5]).expect("a loop").evidence(), "read_file {\"path\":\"a\"} 5 times in a row");
        let mut broken = vec![call; 4];
        broken.push(("read_file", r#"{"path":"b"}"#));
        broken.push(call);
        assert_eq!(length_of_circle(&broken), None);
    }

    #[test]
    fn cycles_of_up_to_five_calls_are_loops_after_five_rounds() {
        let calls = [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("d", "1"), ("e", "1")];
        for length in 1..=6 {
            let rounds = |count: usize| -> Vec<Step<'_>> {
                let cycle = calls[..length].iter().copied().cycle().take(length * count);
                [("first", "")].into_iter().chain(cycle).collect()
            };
            assert_eq!(length_of_circle(&rounds(5)), (length <= 5).then_some(length), "{length}");
            assert_eq!(length_of_circle(&rounds(4)), None, "{length}");
        }
    }

    #[test]
    fn a_batch_over_many_files_is_no_loop() {
        let paths: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let history: Vec<Step<'_>> = paths.iter().map(|path| ("read_file", path.as_str())).collect();
        assert_eq!(circle(&history), None);
    }

    #[test]
    fn a_phrase_that_follows_upon_itself_is_a_chant() {
        assert!(chant(&"I will now read the file. ".repeat(30)).is_some());
        assert_eq!(chant(&"I will now read the file. ".repeat(5)), None);
        assert_eq!(chant(&"-".repeat(2_000)), None);
        let rows: String = (0..200).map(|n| format!("| {n} | ok |\n")).collect();
        assert_eq!(chant(&rows), None);
    }

    #[test]
    fn limits_are_reached_when_nothing_is_left() {
        assert_eq!(out_of_steps(49, 50), None);
        assert_eq!(out_of_steps(50, 50), Some(Stuck::Steps { made: 50, allowed: 50 }));
    }

    #[test]
    fn a_runaway_is_told_by_its_tokens_within_a_minute() {
        for (tokens, allowed, expected) in [
            (0, 0, None),
            (1_000_000, 1_000_000, None),
            (1_000_001, 1_000_000, Some("1000001 tokens within a minute of at most 1000000")),
        ] {
            let evidence = too_fast(tokens, allowed).map(|stuck| stuck.evidence());
            assert_eq!(evidence.as_deref(), expected, "{tokens} {allowed}");
        }
    }

    #[test]
    fn a_stall_is_told_by_the_time_since_a_step_was_finished() {
        let limit = Duration::from_secs(900);
        for (since, expected) in [
            (0, None),
            (899, None),
            (900, Some("no step finished for 15m; at most 15m are allowed")),
            (930, Some("no step finished for 15m30s; at most 15m are allowed")),
        ] {
            let evidence = stalled(Duration::from_secs(since), limit).map(|stuck| stuck.evidence());
            assert_eq!(evidence.as_deref(), expected, "{since}");
        }
    }
}
