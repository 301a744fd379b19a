//! An answer read from a body that comes in pieces, without a server: for tests that cut it everywhere (feature `testing`).
//!
//! A network cuts where it likes, so nothing of what is told here may depend on where. That cannot be tried over a socket:
//! what is sent as two pieces may come as one.

use super::body::Body;
use super::calling::Called;
use super::http::reader;
use super::sse::{Frames, Lines, Sse};
use super::wire::{Reader, Trouble};
use super::{Opaque, ToolCall};
use crate::cause::{Fault, Phase, Usage};
use crate::config::Wire;

/// All that is told of an answer, whether it is one or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Why it is no usable answer: how far it had come, what broke, the evidence and the words.
    pub trouble: Option<(Phase, Fault, String, String)>,
    /// The text, as far as it came.
    pub text: String,
    /// Tools called.
    pub calls: Vec<ToolCall>,
    /// What only the vendor understands.
    pub opaque: Vec<Opaque>,
    /// Tokens.
    pub usage: Usage,
    /// The raw stop reason.
    pub stop: Option<String>,
    /// The model, as it names itself.
    pub model: String,
    /// Bytes of content of an answer, by which a slow one and a hung one differ; of a trouble nobody asks.
    pub content: usize,
}

/// Reads the body of a success. `offered`: were there tools to call?
pub fn answer<'a>(wire: Wire, content_type: &str, offered: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Told {
    let mut reader = reader(wire, "openai");
    let mut content = 0;
    let outcome = whole(Body::new(wire, offered, content_type.to_owned()), pieces, &mut *reader, &mut content);
    let answer = reader.answer();
    let content = if outcome.is_ok() { content } else { 0 };
    Told {
        trouble: outcome.err().map(|trouble| (trouble.phase, trouble.fault, trouble.body, trouble.detail)),
        text: answer.text.clone(),
        calls: answer.calls.iter().map(Called::call).collect(),
        opaque: answer.opaque.clone(),
        usage: answer.usage,
        stop: answer.stop.clone(),
        model: answer.model.clone(),
        content,
    }
}

fn whole<'a>(
    mut body: Body,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    reader: &mut dyn Reader,
    content: &mut usize,
) -> Result<(), Trouble> {
    for piece in pieces {
        let step = body.take(piece, reader)?;
        *content += step.content;
        if step.over {
            break;
        }
    }
    body.end(reader)
}

/// Name and data of each event of a stream: server-sent events, or one line of JSON each. `None`: one is larger than any
/// we take.
pub fn events<'a>(lines: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<(String, String)>> {
    let mut frames = if lines { Frames::Lines(Lines::new()) } else { Frames::Sse(Sse::new()) };
    let mut events = Vec::new();
    for piece in pieces {
        frames.feed(piece, &mut events).ok()?;
    }
    events.extend(frames.finish());
    Some(events.into_iter().map(|event| (event.name, event.data)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: half an event behind `[DONE]` was read when the network brought both at once, and was not when it
    /// brought them one after the other, so that the same bytes were a cut stream or an error of the provider.
    #[test]
    fn what_stands_behind_the_end_of_a_stream_is_never_read() {
        for (wire, body) in [
            (Wire::Responses, "data: [DONE]\n\nevent: error\ndata: {\"error\":{\"message\":\"x\"}}\n"),
            (Wire::OpenAi, "data: [DONE]\n\nevent: error\ndata: {\"error\":{\"message\":\"x\"}}\n"),
        ] {
            let told = answer(wire, "text/event-stream", false, [body.as_bytes()]);
            assert_eq!(told.trouble.as_ref().map(|(_, fault, _, _)| *fault), Some(Fault::Truncated), "{told:?}");
            assert_eq!(answer(wire, "text/event-stream", false, body.as_bytes().chunks(1)), told);
        }
    }
}
