//! What the command line prints: data on stdout in the asked format, words for people on stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, presets};
use serde_json::Value;

use super::Error;
use crate::error_chain::in_full;
use crate::query::Unreadable;
use crate::task::TaskId;
use crate::time::{Timestamp, format_duration};

/// How data is written on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The server's answer, verbatim.
    Json,
    /// One item a line.
    Jsonl,
    /// The same as YAML.
    Yaml,
    /// Only the names, one a line: for `xargs`.
    Name,
}

/// When colour is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR, CLICOLOR=0 or TERM=dumb say otherwise.
    #[default]
    Auto,
    /// Also into pipes.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Is colour wanted on a stream? (no-color.org, bixense.com/clicolors)
    #[must_use]
    pub fn wanted(self, terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR").is_some() => false,
            Self::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => {
                terminal && set("CLICOLOR").is_none_or(|v| v != "0") && set("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

/// Where a command prints to.
#[derive(Clone, Debug)]
pub struct Output {
    /// How data is written.
    pub format: Format,
    /// No words on stderr but errors.
    pub quiet: bool,
    /// Colour on stderr?
    pub color: bool,
}

impl Output {
    /// Data for stdout: the server's answer, and how people read it.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn data(&self, raw: &Value, name_key: &str, table: impl FnOnce() -> String) -> Result<(), Error> {
        let text = match self.format {
            Format::Table => table(),
            Format::Json => json_page(raw),
            Format::Jsonl => items(raw).iter().map(json_line).collect(),
            Format::Yaml => yaml(raw),
            Format::Name => items(raw).iter().fold(String::new(), |mut text, item| {
                let name = item.pointer(name_key).and_then(Value::as_str).unwrap_or("-");
                let _ = writeln!(text, "{}", visible(name));
                text
            }),
        };
        self.text(&text)
    }

    /// Text for stdout as it is.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn text(&self, text: &str) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Stdout)
    }

    /// Words for people, on stderr.
    pub fn say(&self, words: &str) {
        if let Some(words) = self.said(words) {
            let _ = writeln!(io::stderr().lock(), "{words}");
        }
    }

    /// What [`Self::say`] writes, if anything; for those that write it elsewhere.
    pub(super) fn said(&self, words: &str) -> Option<String> {
        (!self.quiet && !words.is_empty()).then(|| visible_lines(words))
    }

    /// The likely next command, on stderr.
    pub fn next(&self, command: &str) {
        if let Some(words) = self.said_next(command) {
            let _ = writeln!(io::stderr().lock(), "{words}");
        }
    }

    /// What [`Self::next`] writes, if anything.
    pub(super) fn said_next(&self, command: &str) -> Option<String> {
        (!self.quiet).then(|| self.dim(&format!("next: {}", visible(command))))
    }

    /// What belongs to a listing and could not be read. An error, as what was printed is not all there is.
    ///
    /// # Errors
    /// When there is any.
    pub fn unreadable(&self, found: &[Unreadable]) -> Result<(), Error> {
        let named: Vec<String> =
            found.iter().map(|one| format!("{} ({})", visible(&one.id), visible(&one.why))).collect();
        if named.is_empty() {
            return Ok(());
        }
        let message = format!("these belong here and cannot be read: {}", named.join(", "));
        Err(Error::Failed { message, next: Some("backstop incident ls".to_owned()) })
    }

    /// An error, and a command to try, on stderr.
    pub fn error(&self, error: &Error) {
        let _ = writeln!(io::stderr().lock(), "{}", self.said_error(error));
    }

    /// What [`Self::error`] writes.
    pub(super) fn said_error(&self, error: &Error) -> String {
        // What is behind it comes from elsewhere: it stays on its line.
        let (said, whole) = (error.to_string(), in_full(error));
        let text = visible_lines(&said) + &visible(whole.strip_prefix(&said).unwrap_or_default());
        let mark = if self.color { "\u{1b}[31merror:\u{1b}[0m" } else { "error:" };
        match error.try_next() {
            Some(command) => format!("{mark} {text}\n  try: {}", visible(&command)),
            None => format!("{mark} {text}"),
        }
    }

    fn dim(&self, text: &str) -> String {
        if self.color { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// What stands on a line of its own: each item of a page or a list, or the one thing there is.
fn items(raw: &Value) -> &[Value] {
    let listed = raw.get("items").and_then(Value::as_array).or_else(|| raw.as_array());
    listed.map_or(std::slice::from_ref(raw), Vec::as_slice)
}

/// Is somebody there to answer a question?
#[must_use]
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Text that came from elsewhere, with everything that could move the cursor, reorder or hide characters made visible.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if hides(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", c as u32);
            }
            c => shown.push(c),
        }
    }
    shown
}

/// A value as JSON on several lines, for people and programs.
#[must_use]
pub fn json_page(value: &Value) -> String {
    format!("{}\n", escaped(&format!("{value:#}")))
}

/// A value as JSON on one line, with its end.
#[must_use]
pub fn json_line(value: &Value) -> String {
    format!("{}\n", escaped(&value.to_string()))
}

/// The same JSON with everything that [`visible`] would show written as JSON's own escapes: a terminal acts on DEL, on the
/// C1 controls and on direction marks, which JSON may hold as they are.
#[must_use]
pub fn escaped(json: &str) -> String {
    escaped_by(json, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

fn escaped_by(text: &str, escape: impl Fn(char, &mut String)) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // A line's end stands between values; in a text it is escaped already.
        if hides(c) && c != '\n' { escape(c, &mut shown) } else { shown.push(c) }
    }
    shown
}

/// [`visible`], but lines stay lines.
#[must_use]
pub fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// Control characters, direction marks, zero-width and invisible ones.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A table for people: 80 columns unless the terminal says otherwise, no borders, every cell made [`visible`].
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width());
        table.set_header(columns.iter().map(|column| (*column).to_owned()).collect::<Vec<String>>());
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        Self(table)
    }

    /// One more row.
    pub fn row(&mut self, cells: &[String]) {
        let cells: Vec<String> =
            cells.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { visible(cell) }).collect();
        self.0.add_row(cells);
    }

    /// The table as text, or what to say when it has no rows.
    #[must_use]
    pub fn render(&self, empty: &str) -> String {
        if self.0.is_empty() {
            return format!("{empty}\n");
        }
        self.0.lines().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{}", line.trim_end());
            text
        })
    }
}

/// `name: value` lines, aligned and wrapped; values made visible, their lines indented.
#[must_use]
pub fn details(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let wrapped = wrapped(value, widest + 2);
        let _ = writeln!(text, "{name:<widest$}  {}", wrapped.trim_start());
    }
    text
}

/// Text for people within the width of the screen: lines stay lines, long ones are broken at blanks, all are indented
/// and made visible. A word longer than a line is left whole, so that it can be copied.
#[must_use]
pub fn wrapped(text: &str, indent: usize) -> String {
    let room = usize::from(width()).saturating_sub(indent).max(20);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in visible(line).split(' ') {
            if !current.is_empty() && current.chars().count() + 1 + word.chars().count() > room {
                lines.push(std::mem::take(&mut current));
            }
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    let blank = " ".repeat(indent);
    lines.iter().map(|line| format!("{blank}{line}")).collect::<Vec<_>>().join("\n")
}

fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| (40..=500).contains(columns)).unwrap_or(80)
}

/// How many characters of these ids tell them apart, at least 8: what a table shows and every command takes.
#[must_use]
pub fn short(ids: &[TaskId]) -> usize {
    let mut texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    let common = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count() + 1;
    let needed = texts.windows(2).map(common).max().unwrap_or(0).max(13);
    // Not to end in a hyphen.
    if texts.first().is_some_and(|text| text[..needed].ends_with('-')) { needed + 1 } else { needed }
}

/// The beginning of an id.
#[must_use]
pub fn cut_id(id: TaskId, length: usize) -> String {
    id.to_string()[..length.min(36)].to_owned()
}

/// How long ago, in its largest unit or two: `5m12s`, `3d4h`.
#[must_use]
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    let rounded = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    format_duration(std::time::Duration::from_secs(rounded))
}

/// The first `length` characters, and a mark when there are more.
#[must_use]
pub fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(3)).chain("...".chars()).collect()
}

/// A JSON value as YAML: block style, every text that could be misread in double quotes.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(value, 0, &mut text);
    text
}

fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(out, "{indent}{}:", scalar(key));
                write_child(value, depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "{indent}-");
                write_child(item, depth, out);
            }
        }
        Value::String(text) => {
            let _ = writeln!(out, "{indent}{}", scalar(text));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let _ = writeln!(out, "{indent}{value}");
        }
    }
}

fn write_child(value: &Value, depth: usize, out: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if nested {
        out.push('\n');
        write_yaml(value, depth + 1, out);
    } else {
        out.push(' ');
        write_yaml(value, 0, out);
    }
}

/// Plain only when nobody could take it for anything but a text.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | "nan" | "inf"
        );
    if plain {
        return text.to_owned();
    }
    // A text of JSON is one of YAML, but for characters beyond 16 bits, which YAML writes as one.
    escaped_by(&Value::String(text.to_owned()).to_string(), |c, shown| {
        let _ = write!(shown, "\\U{:08x}", u32::from(c));
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_from_elsewhere_moves_the_cursor_or_hides() {
        for (text, expected) in [
            ("plain ü 漢", "plain ü 漢"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{202e}evil", "\\u{202e}evil"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
        ] {
            assert_eq!(visible(text), expected);
        }
        let mut table = Table::new(&["ID", "ERROR"]);
        table.row(&["1".to_owned(), "\u{1b}[31mred\u{7}".to_owned()]);
        let text = table.render("none");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
        assert!(!details(&[("error", "a\u{1b}b\nc\u{202e}".to_owned())]).contains(['\u{1b}', '\u{202e}']));
    }

    #[test]
    fn tables_fit_the_width_and_say_when_they_are_empty() {
        let mut table = Table::new(&["ID", "STATE", "ERROR"]);
        assert_eq!(table.render("no tasks"), "no tasks\n");
        table.row(&["0192".to_owned(), "dead".to_owned(), "word ".repeat(60)]);
        for line in table.render("").lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn long_texts_are_wrapped_and_long_words_left_whole() {
        let text = wrapped(&format!("{} {}", "word ".repeat(30).trim(), "x".repeat(100)), 2);
        let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(lengths, [76, 76, 102]);
        assert_eq!(wrapped("a\nb", 1), " a\n b");
    }

    /// A list that was no page went out as one line, and its names as `-`: the decisions of `ceo explain`.
    #[test]
    fn each_item_of_a_page_or_a_list_is_one() {
        for (raw, expected) in [
            (json!({ "items": [1, 2], "next": null }), vec![json!(1), json!(2)]),
            (json!({ "items": [] }), vec![]),
            (json!([{ "a": 1 }, { "a": 2 }]), vec![json!({ "a": 1 }), json!({ "a": 2 })]),
            (json!([]), vec![]),
            (json!({ "a": 1 }), vec![json!({ "a": 1 })]),
            (json!({ "items": 3 }), vec![json!({ "items": 3 })]),
        ] {
            assert_eq!(items(&raw), expected, "{raw}");
        }
    }

    #[test]
    fn ids_are_cut_where_they_differ() {
        let id = |millis, dice| TaskId::new(Timestamp::from_millis(millis), [dice; 10]);
        let apart = [id(1_000_000_000_000, 1), id(1_700_000_000_000, 2)];
        assert_eq!(short(&apart), 13);
        let twins = [id(1_700_000_000_000, 1), id(1_700_000_000_000, 2)];
        let length = short(&twins);
        assert_ne!(cut_id(twins[0], length), cut_id(twins[1], length));
        assert_eq!(short(&[]), 13);
    }

    #[test]
    fn yaml_quotes_what_could_be_misread() {
        let value =
            json!({"a": "no", "b": ["x", {"c": 1, "d": []}], "e": "a: b", "f": null, "g": "on time", "h": "1e3"});
        assert_eq!(
            yaml(&value),
            "a: \"no\"\nb:\n  - x\n  -\n    c: 1\n    d: []\ne: \"a: b\"\nf: null\ng: \"on time\"\nh: \"1e3\"\n"
        );
    }

    #[test]
    fn data_for_programs_moves_no_cursor_either_and_says_the_same() {
        let text = "\u{7f}\u{9b}31m\u{202e}evil\u{e0041} ü 漢\n";
        let value = json!({ "said": [text] });
        for json in [json_page(&value), json_line(&value)] {
            assert!(!json.chars().any(|c| hides(c) && c != '\n'), "{json:?}");
            assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), value);
        }
        let yaml = yaml(&value);
        assert_eq!(yaml, "said:\n  - \"\\U0000007f\\U0000009b31m\\U0000202eevil\\U000e0041 ü 漢\\n\"\n");
    }

    #[test]
    fn colour_follows_the_conventions() {
        let with =
            |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.to_owned());
        assert!(Color::Auto.wanted(true, with("X", "")));
        assert!(!Color::Auto.wanted(false, with("X", "")));
        assert!(!Color::Auto.wanted(true, with("NO_COLOR", "1")));
        assert!(Color::Auto.wanted(true, with("NO_COLOR", "")));
        assert!(!Color::Auto.wanted(true, with("CLICOLOR", "0")));
        assert!(!Color::Auto.wanted(true, with("TERM", "dumb")));
        assert!(Color::Auto.wanted(false, with("CLICOLOR_FORCE", "1")));
        assert!(Color::Always.wanted(false, with("NO_COLOR", "1")));
        assert!(!Color::Never.wanted(true, with("CLICOLOR_FORCE", "1")));
    }

    #[test]
    fn ages_are_short() {
        let now = Timestamp::from_millis(1_000_000_000);
        for (seconds, expected) in [(0, "0s"), (72, "1m12s"), (3_725, "1h2m"), (93_784, "1d2h")] {
            assert_eq!(ago(now, Timestamp::from_millis(1_000_000_000 - seconds * 1_000)), expected);
        }
    }
}
