//! What is said between us and a model: turns, the tools it may call, and the calls it makes.
//!
//! Neutral of vendors: each wire format is a translation of this in `llm/`. What only one vendor understands (thoughts,
//! signatures) travels as [`Opaque`] and is given back to that vendor alone. Everything in here is said by somebody
//! else: data, never instructions to us.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Message {
    /// The asker's words.
    User {
        /// What is said.
        text: String,
    },
    /// The model's turn: words, and the tools it wants called.
    Assistant {
        /// Its words; may be empty when it calls tools.
        text: String,
        /// The tools it wants called, in its order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        calls: Vec<ToolCall>,
        /// What only its vendor understands, in order; to be given back before everything else of this turn.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        opaque: Vec<Opaque>,
    },
    /// What became of the calls of the turn before: one result for each, in the same order.
    Results {
        /// The results.
        results: Vec<ToolResult>,
    },
}

impl Message {
    /// The asker's words.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self::User { text: text.into() }
    }

    /// A model's words, without calls.
    #[must_use]
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::Assistant { text: text.into(), calls: Vec::new(), opaque: Vec::new() }
    }

    /// Its words; of results all of them, one after the other.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::User { text } | Self::Assistant { text, .. } => text.clone(),
            Self::Results { results } => {
                results.iter().map(|result| result.text.as_str()).collect::<Vec<_>>().join("\n")
            }
        }
    }

    /// Bytes of everything in it that a model reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::User { text } => text.len(),
            Self::Assistant { text, calls, opaque } => {
                text.len()
                    + calls.iter().map(ToolCall::bytes).sum::<usize>()
                    + opaque.iter().map(|opaque| opaque.value.to_string().len()).sum::<usize>()
            }
            Self::Results { results } => {
                results.iter().map(|result| result.id.len() + result.name.len() + result.text.len()).sum()
            }
        }
    }
}

/// A tool a model wants called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The call's name in this conversation, ours ([`call_id`]) once it is in the journal: the same for every vendor.
    pub id: String,
    /// The tool, as it was offered.
    pub name: String,
    /// The arguments, an object. Empty when they were none.
    pub arguments: Value,
    /// What stood there instead of an object, when it was none: an error of the model's, to be told to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malformed: Option<String>,
    /// What its vendor wants back with this call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Opaque>,
}

impl ToolCall {
    /// A call with its arguments as they were written: an object, nothing (an empty object), or something malformed.
    #[must_use]
    pub fn written(id: impl Into<String>, name: impl Into<String>, arguments: &str) -> Self {
        let (arguments, malformed) = match serde_json::from_str::<Value>(arguments) {
            Ok(Value::Object(members)) => (Value::Object(members), None),
            Ok(Value::Null) => (Value::Object(Map::new()), None),
            Err(_) if arguments.trim().is_empty() => (Value::Object(Map::new()), None),
            Ok(_) | Err(_) => (Value::Object(Map::new()), Some(arguments.to_owned())),
        };
        Self { id: id.into(), name: name.into(), arguments, malformed, signature: None }
    }

    fn bytes(&self) -> usize {
        let signature = self.signature.as_ref().map_or(0, |signature| signature.value.to_string().len());
        let malformed = self.malformed.as_ref().map_or(0, String::len);
        self.id.len() + self.name.len() + self.arguments.to_string().len() + malformed + signature
    }
}

/// What became of a call, as the model is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call's name in this conversation.
    pub id: String,
    /// The tool.
    pub name: String,
    /// What it said.
    pub text: String,
    /// Did it fail? Then `text` says why.
    #[serde(default)]
    pub failed: bool,
}

/// A tool as it is offered to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Its name: 1 to 64 letters, digits, `_` and `-`, which every vendor takes.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON Schema of its arguments: an object.
    pub schema: Value,
}

/// A piece of a model's turn that only its own vendor understands: a thought, a signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opaque {
    /// Whose: the name of the wire (`anthropic`, `gemini`, `responses` …). Nobody else is given it.
    pub vendor: String,
    /// As it came.
    pub value: Value,
}

/// The name of a call in a conversation: nine letters and digits, made of the step that asked for it and its place there.
///
/// Every vendor takes it (Mistral wants exactly nine, others at most 40), so a conversation begun with one goes on with
/// another.
#[must_use]
pub fn call_id(step: u32, index: usize) -> String {
    format!("s{:04}{:04}", step % 10_000, index % 10_000)
}

/// The same conversation without calls, for a model that is offered no tools: vendors refuse calls and results then.
/// What was called and what came of it is told as text, marked as such.
#[must_use]
pub fn flattened(messages: &[Message]) -> Vec<Message> {
    let mut flat: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match message {
            Message::User { text } => say(&mut flat, text),
            Message::Assistant { text, calls, .. } if calls.is_empty() => flat.push(Message::assistant(text.clone())),
            Message::Assistant { text, calls, .. } => {
                let called = calls.iter().map(|call| format!("[called {} with {}]", call.name, call.arguments));
                let words = (!text.trim().is_empty()).then(|| text.clone());
                flat.push(Message::assistant(words.into_iter().chain(called).collect::<Vec<_>>().join("\n")));
            }
            Message::Results { results } => {
                let told = results.iter().map(|result| {
                    let how = if result.failed { "failed" } else { "returned" };
                    format!("[{} {how}]\n{}", result.name, result.text)
                });
                say(&mut flat, &told.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    flat
}

/// Adds the asker's words; two turns of the same side in a row are one.
fn say(messages: &mut Vec<Message>, words: &str) {
    match messages.last_mut() {
        Some(Message::User { text }) => {
            text.push_str("\n\n");
            text.push_str(words);
        }
        Some(Message::Assistant { .. } | Message::Results { .. }) | None => messages.push(Message::user(words)),
    }
}

/// A text as a model may be given it: characters that do not show, or that change what others look like, are written
/// out as `\u{…}`, so that a model is told nothing that a person who reads the same text does not see.
///
/// Ordinary text stays as it is: line breaks, emoji and their joiners, marks of direction in Hebrew and Arabic, joiners
/// in Persian and Indic scripts, soft hyphens. Two of these in a row are not ordinary. Tag characters are always
/// written out, those in the flags of Scotland and Wales as well.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut before = '\n';
    for (at, c) in text.char_indices() {
        if hides(c, before) {
            out.push_str(&text[copied..at]);
            out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            copied = at + c.len_utf8();
        }
        before = c;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Does this character hide something, where it stands?
fn hides(c: char, before: char) -> bool {
    // Nearly all there is.
    if c == ' ' || c.is_ascii_graphic() {
        return false;
    }
    let after_a_letter = !is_invisible(before) && (before.is_alphanumeric() || !before.is_ascii());
    match c {
        '\n' | '\r' | '\t' | '\u{c}' => false,
        // Soft hyphens and joiners.
        '\u{ad}' | '\u{200c}' => !after_a_letter,
        '\u{200d}' => !(after_a_letter || before == '\u{fe0f}'),
        // Marks of direction: also at the beginning of a line or a word.
        '\u{61c}' | '\u{200e}' | '\u{200f}' => !(after_a_letter || before.is_ascii_whitespace()),
        // Selectors of a variant: text or emoji (keycaps stand after ASCII), and the shapes of Chinese characters.
        '\u{fe00}'..='\u{fe0f}' => !(after_a_letter || matches!(before, '#' | '*')),
        '\u{e0100}'..='\u{e01ef}' => !after_a_letter || before.is_ascii(),
        _ => c.is_control() || is_invisible(c),
    }
}

/// Characters that do not show, or that change what others look like.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// What was taken out of a conversation so that it fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// How many results of tools were replaced by a line that says so.
    pub results: u32,
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// A result no longer than this is not worth removing.
const SHORT: usize = 400;

/// Makes a conversation fit into `limit` bytes by rule: the results of tools, the oldest first, are replaced by a line
/// that says what stood there, but never those of the last turn; what the asker and the model said stays. `reads`: the
/// ids of calls that change nothing, which the model may simply make again; of any other it is told not to. `None`: it
/// fits as it is. What does not fit even so is cut as far as the rule goes; whoever sends it finds out.
#[must_use]
pub fn compact(messages: &mut [Message], limit: usize, reads: &BTreeSet<String>) -> Option<Compaction> {
    let before: usize = messages.iter().map(Message::bytes).sum();
    let mut after = before;
    let mut removed = 0;
    let last = messages.iter().rposition(|message| matches!(message, Message::Results { .. }));
    for (at, message) in messages.iter_mut().enumerate() {
        let Message::Results { results } = message else { continue };
        for result in results.iter_mut() {
            if after <= limit || Some(at) == last {
                break;
            }
            if result.text.len() <= SHORT {
                continue;
            }
            let then = match (reads.contains(&result.id), result.failed) {
                (true, _) => "call it again if you need them",
                (false, false) => "the call was carried out: do not make it again",
                (false, true) => "the call had failed",
            };
            let size = result.text.len();
            let line = format!(
                "[{size} bytes that {} returned here were removed so that the conversation fits; {then}]",
                result.name
            );
            after -= result.text.len() - line.len();
            result.text = line;
            removed += 1;
        }
    }
    (removed > 0).then_some(Compaction { results: removed, before: before as u64, after: after as u64 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn called(name: &str, arguments: Value) -> Message {
        let call = ToolCall { id: call_id(1, 0), name: name.to_owned(), arguments, malformed: None, signature: None };
        Message::Assistant { text: String::new(), calls: vec![call], opaque: Vec::new() }
    }

    fn returned(name: &str, text: &str) -> Message {
        let result = ToolResult { id: call_id(1, 0), name: name.to_owned(), text: text.to_owned(), failed: false };
        Message::Results { results: vec![result] }
    }

    #[test]
    fn arguments_are_an_object_or_said_to_be_malformed() {
        for (written, arguments, malformed) in [
            (r#"{"a":1}"#, json!({"a": 1}), None),
            ("", json!({}), None),
            (" ", json!({}), None),
            ("null", json!({}), None),
            ("[1]", json!({}), Some("[1]")),
            (r#""text""#, json!({}), Some(r#""text""#)),
            (r#"{"a":"#, json!({}), Some(r#"{"a":"#)),
        ] {
            let call = ToolCall::written("x", "t", written);
            assert_eq!((call.arguments, call.malformed.as_deref()), (arguments, malformed), "{written}");
        }
    }

    #[test]
    fn what_does_not_show_is_written_out_and_ordinary_text_stays() {
        for ordinary in [
            "plain ASCII\twith\r\nbreaks",
            "\u{2764}\u{fe0f}\u{200d}\u{1f525} 1\u{fe0f}\u{20e3} #\u{fe0f}\u{20e3} \u{1f469}\u{1f3fd}\u{200d}\u{1f4bb}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "\u{200f}\u{5e9}\u{5dc}\u{5d5}\u{5dd}\u{200e} (abc)",
            "Donau\u{ad}dampf\u{ad}schiff",
            "\u{845b}\u{e0100}\u{57ce}",
        ] {
            assert_eq!(visible(ordinary), ordinary);
        }
        for (hidden, shown) in [
            ("\u{e0049}\u{e0067}", "\\u{e0049}\\u{e0067}"),
            ("\u{202e}ignore\u{202c}", "\\u{202e}ignore\\u{202c}"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("\u{1f525}\u{200d}\u{200c}\u{200d}", "\u{1f525}\u{200d}\\u{200c}\\u{200d}"),
            ("\u{1f600}\u{fe01}\u{fe02}", "\u{1f600}\u{fe01}\\u{fe02}"),
            ("\u{1f600}\u{e0101}\u{e0102}", "\u{1f600}\u{e0101}\\u{e0102}"),
            ("<\u{200d}/diff> </\u{ad}diff>", "<\\u{200d}/diff> </\\u{ad}diff>"),
            ("\u{1b}[2Jx\u{0}", "\\u{1b}[2Jx\\u{0}"),
        ] {
            assert_eq!(visible(hidden), shown);
        }
    }

    #[test]
    fn names_of_calls_have_nine_letters_and_digits() {
        assert_eq!(call_id(3, 12), "s00030012");
        assert_eq!(call_id(9_999, 9_999).len(), 9);
        assert_eq!(call_id(123_456, 0).len(), 9);
    }

    #[test]
    fn without_tools_calls_and_results_are_told_as_text() {
        let conversation = [
            Message::user("Review it."),
            called("read_file", json!({"path": "a.rs"})),
            returned("read_file", "fn main() {}"),
            Message::user("Be brief."),
            Message::assistant("Fine."),
        ];
        assert_eq!(
            flattened(&conversation),
            [
                Message::user("Review it."),
                Message::assistant("[called read_file with {\"path\":\"a.rs\"}]"),
                Message::user("[read_file returned]\nfn main() {}\n\nBe brief."),
                Message::assistant("Fine."),
            ]
        );
    }

    #[test]
    fn the_oldest_results_go_first_and_the_last_turn_stays() {
        let long = "x".repeat(1_000);
        let mut conversation = vec![
            Message::user("y".repeat(2_000)),
            called("a", json!({})),
            returned("a", &long),
            called("b", json!({})),
            returned("b", &long),
            called("c", json!({})),
            returned("c", &long),
        ];
        // `a` and `c` read, `b` acts.
        for (n, message) in conversation.iter_mut().enumerate() {
            if let Message::Results { results } = message {
                results[0].id = call_id(u32::try_from(n).expect("few"), 0);
            }
        }
        let reads: BTreeSet<String> = [2, 6].map(|n| call_id(n, 0)).into();
        let whole = conversation.clone();
        assert_eq!(compact(&mut conversation, 10_000, &reads), None);
        assert_eq!(conversation, whole);
        let compaction = compact(&mut conversation, 4_500, &reads).expect("too long");
        assert_eq!(compaction.results, 1);
        let bytes: usize = conversation.iter().map(Message::bytes).sum();
        assert_eq!(compaction.after, bytes as u64);
        assert!(bytes <= 4_500);
        assert!(conversation[2].text().starts_with("[1000 bytes that a returned here were removed"));
        assert!(conversation[2].text().ends_with("call it again if you need them]"));
        assert_eq!(conversation[4].text(), long);
        assert_eq!(
            compact(&mut conversation, 10, &reads).expect("too long").results,
            1,
            "of `b`; that of `c` is the last turn's"
        );
        // It was once told to call that again, too: what it had done was done a second time.
        assert!(conversation[4].text().ends_with("the call was carried out: do not make it again]"));
        assert_eq!(conversation[6].text(), long);
    }
}
