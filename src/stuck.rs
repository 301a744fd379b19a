//! Whether an agent goes in circles: the same call again and again, or a cycle of calls, compared with their arguments.

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

impl Stuck {
    /// What was seen, in words, for [`crate::cause::Cause::Loop`].
    #[must_use]
    pub fn evidence(&self) -> String {
        match self {
            Self::Circle { evidence, .. } => evidence.clone(),
            Self::Chant { words } => format!("says {CHANT_REPEATS} times in a row: {words}"),
            Self::Steps { made, allowed } => format!("step {made} of at most {allowed}"),
        }
    }
}

/// Has it spent its budget? Answers with the evidence for [`crate::cause::Cause::Budget`]. Amounts are in USD.
#[must_use]
pub fn out_of_budget(spent: f64, budget: f64) -> Option<String> {
    // An amount nobody knows is not one that is left.
    (spent >= budget || spent.is_nan() || budget.is_nan()).then(|| format!("spent ${spent:.2} of ${budget:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_of_circle(history: &[Step<'_>]) -> Option<usize> {
        match circle(history)? {
            Stuck::Circle { length, .. } => Some(length),
            Stuck::Chant { .. } | Stuck::Steps { .. } => None,
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
        assert_eq!(out_of_budget(4.99, 5.0), None);
        assert_eq!(out_of_budget(5.2, 5.0).as_deref(), Some("spent $5.20 of $5.00"));
        assert!(out_of_budget(f64::NAN, 5.0).is_some());
    }
}
