//! Frames of a stream: server-sent events, and lines of JSON.
//!
//! Our own parser, because it decides what counts as content and what as a ping, and because every way of cutting the
//! bytes into chunks must give the same events (a proptest says so). Events are bounded: a peer that never ends one
//! must not fill our memory.

use std::borrow::Cow;

/// The most one event or line may have, in bytes.
pub(crate) const EVENT_LIMIT: usize = 4 * 1024 * 1024;

/// One event: its name, if it had one, and its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The `event:` field; empty when there was none.
    pub(crate) name: String,
    /// The `data:` fields, joined by line feeds; for a line of JSON, the line.
    pub(crate) data: String,
}

/// An event over [`EVENT_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Bytes in, events out.
#[derive(Debug)]
pub(crate) enum Frames {
    /// Server-sent events.
    Sse(Sse),
    /// One JSON document a line.
    Lines(Lines),
}

impl Frames {
    /// Takes a piece of the body and appends the events it completes to `out`.
    pub(crate) fn feed(&mut self, chunk: &[u8], out: &mut Vec<Event>) -> Result<(), TooLarge> {
        match self {
            Self::Sse(sse) => sse.feed(chunk, out),
            Self::Lines(lines) => lines.feed(chunk, out),
        }
    }

    /// What lay unfinished when the body ended: some servers leave out the last line end.
    pub(crate) fn finish(&mut self) -> Option<Event> {
        match self {
            Self::Sse(sse) => sse.finish(),
            Self::Lines(lines) => lines.finish(),
        }
    }
}

/// A parser of server-sent events (WHATWG HTML, section 9.2), lenient where LLM servers are.
#[derive(Debug)]
pub(crate) struct Sse {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    first_line: bool,
    after_cr: bool,
}

impl Sse {
    pub(crate) fn new() -> Self {
        Self { line: Vec::new(), event: Event::default(), has_data: false, first_line: true, after_cr: false }
    }

    fn feed(&mut self, chunk: &[u8], out: &mut Vec<Event>) -> Result<(), TooLarge> {
        let mut rest = chunk;
        while let Some(first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = line_end(rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            if piece.len() > EVENT_LIMIT.saturating_sub(self.line.len() + self.event.data.len()) {
                return Err(TooLarge);
            }
            let Some(end) = end else {
                self.line.extend_from_slice(piece);
                break;
            };
            self.after_cr = rest[end] == b'\r';
            if self.line.is_empty() {
                // It came whole, as most do.
                out.extend(self.line(&text(piece)));
            } else {
                self.line.extend_from_slice(piece);
                out.extend(self.end_of_line());
            }
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    fn finish(&mut self) -> Option<Event> {
        let of_the_line = self.end_of_line();
        of_the_line.or_else(|| self.dispatch())
    }

    /// Takes the line up; an empty one completes the event.
    fn end_of_line(&mut self) -> Option<Event> {
        let mut bytes = std::mem::take(&mut self.line);
        let event = self.line(&text(&bytes));
        bytes.clear();
        // Its room serves the next line.
        self.line = bytes;
        event
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        let line = match std::mem::take(&mut self.first_line) {
            true => line.trim_start_matches('\u{feff}'),
            false => line,
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.push_data(value),
            "event" => self.event.name = value.to_owned(),
            // llama.cpp writes a failure in mid-stream as a field of its own.
            "error" => {
                self.event.name = "error".to_owned();
                self.push_data(value);
            }
            // A comment (empty field), `id`, `retry`, or something we need not know.
            _ => {}
        }
        None
    }

    fn push_data(&mut self, value: &str) {
        if std::mem::replace(&mut self.has_data, true) {
            self.event.data.push('\n');
        }
        self.event.data.push_str(value);
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

/// What is no UTF-8 shows as such. Asked whether it is all sound first: that is the quicker question.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Where the first line in these bytes ends.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // Sixteen at a time, without a way out in between: that is a handful of instructions.
    let none = |piece: &&[u8]| !piece.iter().fold(false, |found, byte| found | ends(byte));
    let searched = 16 * bytes.chunks_exact(16).take_while(none).count();
    bytes[searched..].iter().position(ends).map(|at| searched + at)
}

/// A splitter of newline-delimited JSON. Blank lines are nothing.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn feed(&mut self, chunk: &[u8], out: &mut Vec<Event>) -> Result<(), TooLarge> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (line, ended) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            if line.len() > EVENT_LIMIT.saturating_sub(self.line.len()) {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(line);
            if ended {
                out.extend(self.finish());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace()).trim_end();
        (!line.is_empty()).then(|| Event { name: String::new(), data: line.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut frames: Frames, chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut events = Vec::new();
        for chunk in chunks {
            frames.feed(chunk, &mut events).expect("within the limit");
        }
        events.extend(frames.finish());
        events.into_iter().map(|event| (event.name, event.data)).collect()
    }

    fn sse(text: &str) -> Vec<(String, String)> {
        all(Frames::Sse(Sse::new()), &[text.as_bytes()])
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|&(name, data)| (name.to_owned(), data.to_owned())).collect()
    }

    #[test]
    fn server_sent_events_are_read_as_they_are_written() {
        for (text, expected) in [
            ("data: a\n\n", &[("", "a")][..]),
            ("data:a\n\ndata:  b\n\n", &[("", "a"), ("", " b")]),
            ("event: ping\ndata: {}\n\n", &[("ping", "{}")]),
            ("data: a\r\n\r\ndata: b\r\rdata: c\n\n", &[("", "a"), ("", "b"), ("", "c")]),
            ("\u{feff}data: a\n\n", &[("", "a")]),
            (": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: a\n\n", &[("", "a")]),
            ("data: a\ndata: b\ndata\ndata: c\n\n", &[("", "a\nb\n\nc")]),
            ("id: 7\nretry: 10\nunknown: x\ndata: a\n\n", &[("", "a")]),
            ("event: lonely\n\ndata: a\n\n", &[("", "a")]),
            ("error: {\"code\":500}\n\n", &[("error", "{\"code\":500}")]),
            ("data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]),
            ("data: a\n\ndata: [DONE]\n", &[("", "a"), ("", "[DONE]")]),
            ("<html>login</html>", &[]),
            ("", &[]),
        ] {
            assert_eq!(sse(text), pairs(expected), "{text:?}");
        }
    }

    #[test]
    fn lines_of_json_are_split_and_trimmed() {
        let lines = |text: &str| all(Frames::Lines(Lines::new()), &[text.as_bytes()]);
        assert_eq!(lines("{\"a\":1}\r\n\n  \n{\"b\":2}\n"), pairs(&[("", "{\"a\":1}"), ("", "{\"b\":2}")]));
        assert_eq!(lines("{\"a\":1}"), pairs(&[("", "{\"a\":1}")]));
        // Found by fuzzing: a byte order mark was taken away unless a blank stood before it, and then the line was no JSON.
        assert_eq!(lines("\u{feff} \u{feff}{\"a\":1} \n"), pairs(&[("", "{\"a\":1}")]));
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let long = vec![b'x'; EVENT_LIMIT + 1];
        assert_eq!(Frames::Lines(Lines::new()).feed(&long, &mut Vec::new()), Err(TooLarge));
        assert_eq!(Frames::Sse(Sse::new()).feed(&long, &mut Vec::new()), Err(TooLarge));
        // Many short data lines of one event count together.
        let many = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(EVENT_LIMIT / 50);
        assert_eq!(Frames::Sse(Sse::new()).feed(&many, &mut Vec::new()), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "data: ", "data", "event: x", "error: y", ":", "c", "é", "\u{feff}", "\n", "\r", "\r\n", "\n\n", "{\"a\":1}", " ",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let text = pieces.concat();
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(all(Frames::Sse(Sse::new()), &chunks), sse(&text));
            prop_assert_eq!(all(Frames::Lines(Lines::new()), &chunks), all(Frames::Lines(Lines::new()), &[bytes]));
        }
    }
}
