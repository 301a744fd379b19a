//! The one reading of filters: `class:transient agent:cto age:>1h error:~"rate limit"`, and the same words as query parameters.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::query::Filter;
use crate::record::{LetterStatus, State};
use crate::spelling::nearest;
use crate::task::{TaskError, TaskId};
use crate::time::{Timestamp, parse_duration};

/// The words of the language, for errors and completion.
pub const WORDS: [&str; 14] = [
    "state",
    "agent",
    "type",
    "class",
    "kind",
    "integration",
    "effect",
    "priority",
    "status",
    "since",
    "until",
    "age",
    "error",
    "id",
];

/// What is wrong with one term of a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A word the language does not have.
    #[error("`{word}` is not a filter word{}; the words are {}", meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default(), WORDS.join(", "))]
    UnknownWord {
        /// What stood there.
        word: String,
        /// The nearest word there is.
        meant: Option<&'static str>,
    },
    /// A term without a colon.
    #[error("`{0}` is not `word:value`, such as `agent:cto`; to search in the error text write `error:~{0}`")]
    NoColon(String),
    /// A word without a value.
    #[error("`{0}:` needs a value")]
    NoValue(String),
    /// The same word twice where one value is possible.
    #[error("`{0}:` is given twice; all terms must hold at once")]
    Twice(String),
    /// A quotation mark that is never closed.
    #[error("the quotation mark at column {0} is never closed")]
    OpenQuote(usize),
    /// A value that does not fit its word.
    #[error("`{word}:{value}`: {why}")]
    BadValue {
        /// The word.
        word: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads a filter as operators write it. An empty text is the empty filter.
///
/// # Errors
/// Every term that is wrong, at once.
pub fn parse_where(text: &str, now: Timestamp) -> Result<Filter, Vec<FilterError>> {
    let mut filter = Filter::default();
    let mut errors = Vec::new();
    for term in terms(text).map_err(|error| vec![error])? {
        let set = match term.split_once(':') {
            Some((word, value)) => set(&mut filter, word, value, now),
            None => Err(FilterError::NoColon(term)),
        };
        errors.extend(set.err());
    }
    if errors.is_empty() { Ok(filter) } else { Err(errors) }
}

/// Sets one word of a filter. `status:open,with-human` may list; the words that may are `state`, `status` and `id`.
///
/// # Errors
/// When the word is unknown, set before, or the value does not fit it.
pub fn set(filter: &mut Filter, word: &str, value: &str, now: Timestamp) -> Result<(), FilterError> {
    if value.is_empty() || value == "~" {
        return Err(FilterError::NoValue(word.to_owned()));
    }
    let bad = |why: String| FilterError::BadValue { word: word.to_owned(), value: value.to_owned(), why };
    let task = |error: TaskError| bad(error.to_string());
    let once = |is_set: bool| if is_set { Err(FilterError::Twice(word.to_owned())) } else { Ok(()) };
    match word {
        "state" | "states" => filter.states.extend(list::<State>(value).map_err(task)?),
        "status" => filter.status.extend(list::<LetterStatus>(value).map_err(task)?),
        "id" | "ids" => filter.ids.extend(list::<TaskId>(value).map_err(task)?),
        "agent" => {
            once(filter.agent.is_some())?;
            filter.agent = Some(value.parse().map_err(task)?);
        }
        "type" => {
            once(filter.task_type.is_some())?;
            filter.task_type = Some(value.parse().map_err(task)?);
        }
        "class" => {
            once(filter.class.is_some())?;
            filter.class = Some(value.parse().map_err(task)?);
        }
        "kind" => {
            once(filter.kind.is_some())?;
            filter.kind = Some(value.parse().map_err(task)?);
        }
        "integration" => {
            once(filter.integration.is_some())?;
            filter.integration = Some(value.parse().map_err(task)?);
        }
        "effect" => {
            once(filter.effect.is_some())?;
            filter.effect = Some(value.parse().map_err(task)?);
        }
        "priority" => {
            once(filter.priority.is_some())?;
            filter.priority = Some(value.parse().map_err(task)?);
        }
        "error" | "text" => {
            once(filter.text.is_some())?;
            filter.text = Some(value.strip_prefix('~').unwrap_or(value).to_owned());
        }
        "since" => {
            once(filter.since.is_some())?;
            filter.since = Some(point(value, now).map_err(bad)?);
        }
        "until" => {
            once(filter.until.is_some())?;
            filter.until = Some(point(value, now).map_err(bad)?);
        }
        "due_by" => {
            once(filter.due_by.is_some())?;
            filter.due_by = Some(point(value, now).map_err(bad)?);
        }
        "age" => match value.split_at_checked(1) {
            Some((">", span)) => {
                once(filter.until.is_some())?;
                filter.until = Some(ago(span, now).map_err(bad)?);
            }
            Some(("<", span)) => {
                once(filter.since.is_some())?;
                filter.since = Some(ago(span, now).map_err(bad)?);
            }
            Some(_) | None => return Err(bad("write `age:>1h` for older or `age:<1h` for younger".to_owned())),
        },
        other => {
            return Err(FilterError::UnknownWord { word: other.to_owned(), meant: nearest(other, WORDS) });
        }
    }
    Ok(())
}

/// The filter as query parameters: what [`set`] reads back.
#[must_use]
pub fn query_pairs(filter: &Filter) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(filter) else { return Vec::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields
        .into_iter()
        .map(|(word, value)| match &value {
            Value::Array(items) => (word, items.iter().map(text).collect::<Vec<_>>().join(",")),
            // The first of them is taken for the sign of a search.
            Value::String(searched) if word == "text" && searched.starts_with('~') => (word, format!("~{searched}")),
            single @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                (word, text(single))
            }
        })
        .collect()
}

/// A point in time: RFC 3339, or a span before now.
///
/// # Errors
/// When it is neither, in words.
pub fn point(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    ago(text, now).or_else(|_| Timestamp::parse(text)).map_err(|_| {
        format!("`{text}` is not a time; write a span before now such as 2h, or RFC 3339 such as 2026-11-21T23:00:00Z")
    })
}

fn ago(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let span: Duration = parse_duration(text).map_err(|error| error.to_string())?;
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_millis(now.millis().saturating_sub(millis)).max(Timestamp::FIRST))
}

fn list<T: std::str::FromStr<Err = TaskError>>(value: &str) -> Result<Vec<T>, TaskError> {
    value.split(',').map(|word| word.trim().parse()).collect()
}

/// Terms are separated by blanks; double quotes keep blanks together, a backslash keeps the next character.
fn terms(text: &str) -> Result<Vec<String>, FilterError> {
    let mut terms = Vec::new();
    let mut term = String::new();
    let mut quote = None;
    let mut any = false;
    let mut characters = text.chars().enumerate();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' if quote.is_some() => quote = None,
            '"' => (quote, any) = (Some(at + 1), true),
            '\\' => term.extend(characters.next().map(|(_, next)| next)),
            c if c.is_whitespace() && quote.is_none() => {
                if any || !term.is_empty() {
                    terms.push(std::mem::take(&mut term));
                }
                any = false;
            }
            c => term.push(c),
        }
    }
    if let Some(column) = quote {
        return Err(FilterError::OpenQuote(column));
    }
    if any || !term.is_empty() {
        terms.push(term);
    }
    Ok(terms)
}

/// All errors of a filter in one text, one a line.
#[must_use]
pub fn all_errors(errors: &[FilterError]) -> String {
    errors.iter().enumerate().fold(String::new(), |mut text, (i, error)| {
        let _ = write!(text, "{}{error}", if i == 0 { "" } else { "\n" });
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, Kind};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    #[test]
    fn filters_read_as_operators_write_them() {
        let filter =
            parse_where(r#"class:transient agent:cto age:>1h error:~"rate limit" status:open,with-human"#, NOW);
        assert_eq!(
            filter,
            Ok(Filter {
                class: Some(Class::Transient),
                agent: Some("cto".parse().expect("a name")),
                until: Some(Timestamp::from_millis(6_400_000)),
                text: Some("rate limit".to_owned()),
                status: vec![LetterStatus::Open, LetterStatus::WithHuman],
                ..Filter::default()
            })
        );
        assert_eq!(parse_where("", NOW), Ok(Filter::default()));
        assert_eq!(parse_where("  \t", NOW), Ok(Filter::default()));
        let window = parse_where("age:<2h age:>1h kind:rate_limited", NOW).expect("a filter");
        assert_eq!(window.since, Some(Timestamp::from_millis(2_800_000)));
        assert_eq!(window.until, Some(Timestamp::from_millis(6_400_000)));
        assert_eq!(window.kind, Some(Kind::RateLimited));
        let since = parse_where("since:1970-01-01T00:00:01Z", NOW).expect("a filter");
        assert_eq!(since.since, Some(Timestamp::from_millis(1_000)));
        assert_eq!(parse_where(r"error:a\ \~b", NOW).expect("a filter").text.as_deref(), Some("a ~b"));
    }

    #[test]
    fn what_is_wrong_with_a_filter_is_said_at_once_and_with_the_nearest_word() {
        for (text, expected) in [
            ("clas:transient", "`clas` is not a filter word (did you mean `class`?)"),
            ("quux:1", "`quux` is not a filter word; the words are state, agent"),
            ("timeout", "`timeout` is not `word:value`, such as `agent:cto`"),
            ("agent:", "`agent:` needs a value"),
            ("error:~", "`error:` needs a value"),
            ("class:transiant", "class `transiant` is not one of transient, infrastructure"),
            ("age:1h", "write `age:>1h` for older"),
            ("age:>1 h", "`1` is not a duration"),
            ("since:yesterday", "`yesterday` is not a time; write a span before now"),
            ("agent:a agent:b", "`agent:` is given twice"),
            (r#"error:~"open"#, "the quotation mark at column 8 is never closed"),
            ("agent:a/b", "may only hold letters"),
            ("id:42", "`42` is not a task id"),
        ] {
            let errors = parse_where(text, NOW).expect_err(text);
            assert!(all_errors(&errors).contains(expected), "{text}: {errors:?}");
        }
        assert_eq!(parse_where("clas:x agnt:y", NOW).expect_err("two").len(), 2);
    }

    #[test]
    fn query_parameters_read_back_as_the_same_filter() {
        let text =
            "class:logic agent:cto status:open,discarded since:1h error:~timeout state:dead priority:high type:mail";
        let filter = parse_where(text, NOW).expect("a filter");
        assert_eq!(sent(&filter), Ok(filter));
    }

    fn sent(filter: &Filter) -> Result<Filter, FilterError> {
        let mut back = Filter::default();
        query_pairs(filter).iter().try_for_each(|(word, value)| set(&mut back, word, value, NOW)).map(|()| back)
    }

    /// Found by fuzzing: `backstop dlq ls --where 'error:~~b'` asked the server for `b`, `error:~~` for nothing at all,
    /// and an age beyond the calendar was sent as a number of milliseconds, which the server refused.
    #[test]
    fn a_tilde_and_an_age_beyond_the_calendar_reach_the_server() {
        for text in
            ["error:~~b", "error:~~", "error:~~~", "age:>999999999d", "age:<99999999999d", "due_by:99999999999d"]
        {
            let filter = parse_where(text, NOW).expect(text);
            assert_eq!(sent(&filter), Ok(filter), "{text}");
        }
    }
}
