//! The difference between two texts, line by line: what went and what came.
//!
//! The longest common subsequence, exactly, of what is left between a common beginning and a common end. Texts whose
//! middles are too long for that are shown as replaced: correct, if not small.

use serde::{Deserialize, Serialize};

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", content = "text", rename_all = "kebab-case")]
pub enum Line {
    /// In both.
    Same(String),
    /// Only in the first.
    Gone(String),
    /// Only in the second.
    New(String),
}

/// More pairs of lines than this are not compared: 16 million are 64 MB for a moment.
const PAIRS_MAX: usize = 16_000_000;

/// The lines of two texts, what went before what came.
#[must_use]
pub fn lines(before: &str, after: &str) -> Vec<Line> {
    let (one, other): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let tail = one[head..].iter().rev().zip(other[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle, other_middle) = (&one[head..one.len() - tail], &other[head..other.len() - tail]);
    let same = |line: &&str| Line::Same((*line).to_owned());
    let mut all: Vec<Line> = one[..head].iter().map(same).collect();
    all.extend(between(middle, other_middle));
    all.extend(one[one.len() - tail..].iter().map(same));
    all
}

fn between(one: &[&str], other: &[&str]) -> Vec<Line> {
    let gone = |line: &&str| Line::Gone((*line).to_owned());
    let new = |line: &&str| Line::New((*line).to_owned());
    if one.len().saturating_mul(other.len()) > PAIRS_MAX {
        return one.iter().map(gone).chain(other.iter().map(new)).collect();
    }
    // longest[i][j]: how many lines the rests from i and from j have in common at most.
    let width = other.len() + 1;
    let mut longest = vec![0_u32; (one.len() + 1) * width];
    for i in (0..one.len()).rev() {
        for j in (0..other.len()).rev() {
            longest[i * width + j] = if one[i] == other[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::with_capacity(one.len().max(other.len()));
    while i < one.len() || j < other.len() {
        if i < one.len() && j < other.len() && one[i] == other[j] {
            all.push(Line::Same(one[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if i < one.len() && (j == other.len() || longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            all.push(gone(&one[i]));
            i += 1;
        } else {
            all.push(new(&other[j]));
            j += 1;
        }
    }
    all
}

/// The difference as people read it: `-` went, `+` came, with `around` lines of what is the same at each place; what is
/// left out between places is counted. Empty when nothing differs.
#[must_use]
pub fn told(lines: &[Line], around: usize) -> Vec<String> {
    let changed: Vec<usize> =
        lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Same(_))).map(|(at, _)| at).collect();
    let near = |at: usize| {
        let next = changed.partition_point(|other| *other < at);
        let after = changed.get(next).is_some_and(|other| other - at <= around);
        after || next.checked_sub(1).is_some_and(|before| at - changed[before] <= around)
    };
    let mut told = Vec::new();
    let mut skipped = 0;
    for (at, line) in lines.iter().enumerate() {
        if changed.is_empty() || !near(at) {
            skipped += 1;
            continue;
        }
        if skipped > 0 {
            told.push(left_out(skipped));
            skipped = 0;
        }
        told.push(match line {
            Line::Same(text) => format!("  {text}"),
            Line::Gone(text) => format!("- {text}"),
            Line::New(text) => format!("+ {text}"),
        });
    }
    if skipped > 0 && !changed.is_empty() {
        told.push(left_out(skipped));
    }
    told
}

fn left_out(lines: usize) -> String {
    format!("  ({lines} {} the same)", if lines == 1 { "line is" } else { "lines are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_and_what_came_is_told_and_no_more() {
        for (before, after, expected) in [
            ("", "", &[][..]),
            ("a\nb\nc", "a\nb\nc", &[]),
            ("a", "b", &["- a", "+ b"]),
            ("", "a\nb", &["+ a", "+ b"]),
            ("a\nb", "", &["- a", "- b"]),
            ("a\nb\nc", "a\nx\nc", &["  a", "- b", "+ x", "  c"]),
            ("a\nb\nc\nd", "b\nc\ne\nd", &["- a", "  b", "  c", "+ e", "  d"]),
            ("1\n2\n3\n4\n5", "1\n2\n3\n4\n6", &["  (3 lines are the same)", "  4", "- 5", "+ 6"]),
            ("0\n1\n2\n3", "x\n1\n2\n3", &["- 0", "+ x", "  1", "  (2 lines are the same)"]),
        ] {
            assert_eq!(told(&lines(before, after), 1), expected, "{before:?} {after:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn both_texts_are_found_again(before in "[abc\n]{0,40}", after in "[abc\n]{0,40}") {
            let all = lines(&before, &after);
            let of = |side: fn(&Line) -> Option<&String>| all.iter().filter_map(side).cloned().collect::<Vec<_>>();
            let first = of(|line| match line { Line::Same(text) | Line::Gone(text) => Some(text), Line::New(_) => None });
            let second = of(|line| match line { Line::Same(text) | Line::New(text) => Some(text), Line::Gone(_) => None });
            assert_eq!(first, before.lines().collect::<Vec<_>>());
            assert_eq!(second, after.lines().collect::<Vec<_>>());
        }
    }

    #[test]
    fn long_texts_are_not_compared_to_death() {
        let text = |word: &str| (0..5_000).map(|n| format!("{word} {n}\n")).collect::<String>();
        assert_eq!(lines(&text("a"), &text("b")).len(), 10_000);
    }
}
