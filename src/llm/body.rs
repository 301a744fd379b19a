//! The body of a success: recognized by its first character, bounded, and judged when it ends.
//!
//! What a body is called is often wrong: proxies relabel streams, servers answer a stream's request with a document,
//! and login pages come with 200. So the content type is only asked where the first character leaves it open.

use serde_json::Value;

use super::sse::{Event, Frames, Lines, Sse};
use super::wire::{self, Reader, Step, Trouble};
use crate::cause::{BODY_LIMIT, Fault, Phase};
use crate::config::Wire;

/// The most content of one answer, and the most a document may have, in bytes.
const CONTENT_LIMIT: usize = 16 * 1024 * 1024;

/// The body of a success, read in the form it turns out to have.
pub(super) struct Body {
    wire: Wire,
    /// Were tools offered?
    offered: bool,
    content_type: String,
    form: Form,
    /// Bytes of content so far.
    pub(super) content: usize,
    /// The beginning, as evidence.
    beginning: Vec<u8>,
    /// Events seen.
    events: usize,
    /// The stream said that nothing more will come: what came with it is not looked at.
    over: bool,
}

/// What a body turns out to be.
enum Form {
    /// Only blanks so far.
    Unknown,
    /// Events or lines.
    Stream(Frames),
    /// A document, or something else that comes whole.
    Document(Vec<u8>),
}

impl Body {
    pub(super) fn new(wire: Wire, offered: bool, content_type: String) -> Self {
        Self {
            wire,
            offered,
            content_type,
            form: Form::Unknown,
            content: 0,
            beginning: Vec::new(),
            events: 0,
            over: false,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.form {
            Form::Stream(_) => Phase::Stream,
            Form::Document(_) => Phase::Body,
            Form::Unknown if self.promises_stream() => Phase::Stream,
            Form::Unknown => Phase::Body,
        }
    }

    fn promises_stream(&self) -> bool {
        self.content_type.contains("event-stream") || self.content_type.contains("ndjson")
    }

    fn form_by(&self, first: u8) -> Form {
        let json_lines = self.wire == Wire::Ollama && !self.content_type.contains("application/json");
        match first {
            b'{' if json_lines => Form::Stream(Frames::Lines(Lines::new())),
            b'{' | b'[' | b'<' => Form::Document(Vec::new()),
            // data, event, error, id, retry, or a comment.
            b'd' | b'e' | b'i' | b'r' | b':' => Form::Stream(Frames::Sse(Sse::new())),
            _ => Form::Document(Vec::new()),
        }
    }

    pub(super) fn take(&mut self, chunk: &[u8], reader: &mut dyn Reader) -> Result<Step, Trouble> {
        let room = BODY_LIMIT.saturating_sub(self.beginning.len()).min(chunk.len());
        self.beginning.extend_from_slice(&chunk[..room]);
        let mut chunk = chunk;
        if let Form::Unknown = self.form {
            // Blanks, and the bytes of a byte order mark.
            let Some(start) =
                chunk.iter().position(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte))
            else {
                return Ok(Step::default());
            };
            chunk = &chunk[start..];
            self.form = self.form_by(chunk[0]);
        }
        let step = match &mut self.form {
            // Set just above.
            Form::Unknown => Step::default(),
            Form::Document(document) => {
                document.extend_from_slice(chunk);
                if document.len() > CONTENT_LIMIT {
                    return Err(self.too_large());
                }
                // Some providers keep a connection alive with blanks.
                Step { content: chunk.iter().filter(|byte| !byte.is_ascii_whitespace()).count(), over: false }
            }
            Form::Stream(frames) => {
                let mut events = Vec::new();
                let fed = frames.feed(chunk, &mut events);
                let step = self.hand_over(&events, reader)?;
                if fed.is_err() && !step.over {
                    return Err(self.too_large());
                }
                step
            }
        };
        self.content += step.content;
        if self.content > CONTENT_LIMIT {
            return Err(self.too_large());
        }
        Ok(step)
    }

    fn hand_over(&mut self, events: &[Event], reader: &mut dyn Reader) -> Result<Step, Trouble> {
        let mut sum = Step::default();
        for event in events {
            self.events += 1;
            // A ping, whatever else it holds.
            if event.name == "ping" || event.data.trim().is_empty() {
                continue;
            }
            let step = reader.event(event)?;
            wire::bounded(reader)?;
            sum.content += step.content;
            if step.over {
                (sum.over, self.over) = (true, true);
                break;
            }
        }
        Ok(sum)
    }

    fn too_large(&self) -> Trouble {
        Trouble::malformed(self.evidence(), "the answer is larger than any we take")
    }

    fn evidence(&self) -> String {
        String::from_utf8_lossy(&self.beginning).into_owned()
    }

    /// Nothing more will come: is it an answer?
    pub(super) fn end(mut self, reader: &mut dyn Reader) -> Result<(), Trouble> {
        match std::mem::replace(&mut self.form, Form::Unknown) {
            Form::Unknown if self.promises_stream() => wire::verdict(reader, self.offered),
            Form::Unknown => Err(Trouble::malformed(self.evidence(), "an empty body")),
            Form::Stream(mut frames) => {
                if let Some(event) = frames.finish().filter(|_| !self.over && !reader.answer().complete) {
                    match self.hand_over(&[event], reader) {
                        Ok(_) => {}
                        // Half an event at the end is not malformed: the stream was cut there.
                        Err(trouble) if trouble.fault == Fault::Malformed => {}
                        Err(trouble) => return Err(trouble),
                    }
                }
                let only_comments = || self.evidence().lines().all(|line| line.is_empty() || line.starts_with(':'));
                if self.events == 0 && !only_comments() {
                    return Err(Trouble::malformed(self.evidence(), "not a stream of events"));
                }
                wire::verdict(reader, self.offered)
            }
            Form::Document(document) => self.document(&String::from_utf8_lossy(&document), reader),
        }
    }

    /// A document: one JSON value, a list of responses (Gemini without `alt=sse`), or lines that were called a document.
    fn document(&self, text: &str, reader: &mut dyn Reader) -> Result<(), Trouble> {
        let mut values = Vec::new();
        for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            values.push(value.map_err(|error| Trouble::malformed(self.evidence(), format!("not JSON: {error}")))?);
        }
        if let Some(error) = values.iter().find(|value| wire::is_error(value)) {
            return Err(Trouble::error_body(if values.len() == 1 { text.to_owned() } else { error.to_string() }));
        }
        let responses = match values.as_slice() {
            [Value::Array(responses)] if self.wire == Wire::Gemini && !responses.is_empty() => responses.as_slice(),
            [_] => values.as_slice(),
            [_, ..] if self.wire == Wire::Ollama => values.as_slice(),
            [] | [_, ..] => return Err(Trouble::malformed(text, "not one JSON document")),
        };
        for response in responses {
            if wire::is_error(response) {
                return Err(Trouble::error_body(response.to_string()));
            }
            reader.document(response, text)?;
        }
        wire::verdict(reader, self.offered).map_err(|trouble| {
            let cut = trouble.fault == Fault::Truncated && responses.len() == 1;
            if cut { Trouble::malformed(text, "no stop reason in the answer") } else { trouble }
        })
    }
}
