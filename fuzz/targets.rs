//! What is fuzzed: one function a target, given any bytes, that panics where something does not hold.
//!
//! It is included twice: by `fuzz/fuzz_targets/`, where libFuzzer makes the bytes up, and by `tests/corpus.rs`, where
//! `cargo test` plays what it found worth keeping. Each function says more than "does not panic": what is read is written
//! and read again, a stream reads the same however it is cut, and a mistake is told at a place that is in the file.

#![allow(dead_code, reason = "each target's own program needs one of these")]

#[path = "targets/definitions.rs"]
mod definitions;
#[path = "targets/recovery.rs"]
mod recovery;
#[path = "targets/rows.rs"]
mod rows;

use std::time::Duration;

use backstop::api::filter::{all_errors, parse_where, query_pairs, set};
use backstop::callback::{self, Heard, Unheard, Wish};
use backstop::config::Wire;
use backstop::hint::{Seen, asked};
use backstop::llm::pieces;
use backstop::outbox::dedup_key;
use backstop::query::Filter;
use backstop::time::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;

pub(crate) use definitions::{configuration, front_matter, scenario};
pub(crate) use recovery::recovery;
pub(crate) use rows::rows;

/// A target's name and function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them; each has its folder in `fuzz/corpus/`.
pub(crate) const TARGETS: [Target; 10] = [
    ("front_matter", front_matter),
    ("configuration", configuration),
    ("scenario", scenario),
    ("filter", filter),
    ("hint", hint),
    ("frames", frames),
    ("answer", answer),
    ("callback", callback),
    ("recovery", recovery),
    ("rows", rows),
];

/// 2026-11-21T23:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_302_000_000);

/// The filter language: what was read is written as query parameters and as JSON, and both read back as the same filter;
/// any text can be looked for.
pub(crate) fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse_where(text, NOW) {
        Ok(filter) => {
            let mut back = Filter::default();
            for (word, value) in query_pairs(&filter) {
                set(&mut back, &word, &value, NOW).unwrap_or_else(|error| panic!("{word}={value}: {error}"));
            }
            assert_eq!(back, filter, "what a filter prints reads back as the same");
            let json = serde_json::to_string(&filter).expect("a filter is JSON");
            assert_eq!(serde_json::from_str::<Filter>(&json).expect("JSON of a filter"), filter);
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused for nothing");
            assert!(!all_errors(&errors).is_empty(), "refused without a word");
        }
    }
    if !text.is_empty() {
        let quoted = format!("error:~\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""));
        let filter = parse_where(&quoted, NOW).expect("any text can be looked for");
        assert_eq!(filter.text.as_deref(), Some(text));
    }
}

/// `Retry-After` and its relatives: a status, then headers a line each, an empty line, the body.
pub(crate) fn hint(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status: Option<u16> = lines.next().and_then(|line| line.trim().parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let hint = asked(&Seen { status, headers: &headers, body, at: NOW });
    if let Some(asked) = hint {
        assert!(asked >= Duration::from_millis(1), "nobody asks for no time at all: {asked:?}");
        assert_eq!(
            asked.subsec_nanos() % 1_000_000,
            0,
            "in parts of a millisecond, which no clock here keeps: {asked:?}"
        );
        assert!(status.is_none_or(|status| status >= 400) || !body.is_empty(), "a success asks for nothing");
    }
    let until = NOW + hint.unwrap_or_default();
    assert!(until >= NOW, "a wait ends before it begins");
    assert_eq!(Timestamp::parse(&until.to_string()), Ok(until), "it is kept, and must be read again");
    // The rule of RFC 9110, said again: digits alone are seconds.
    if let ([(name, value)], Some(500..=599)) = (headers.as_slice(), status)
        && name == "retry-after"
        && let Ok(asked) = value.trim_matches([' ', '\t']).parse::<u32>()
        && !value.contains('+')
        && asked > 0
    {
        assert_eq!(hint, Some(Duration::from_secs(asked.into())));
    }
}

/// Cuts at the front, the rest behind: how many cuts, and a byte for each that says how far the next piece goes.
fn cuts(data: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return (Vec::new(), data) };
    let (lengths, stream) = rest.split_at(usize::from(count % 32).min(rest.len()));
    let (mut pieces, mut left) = (Vec::new(), stream);
    for &length in lengths {
        let (piece, after) = left.split_at(usize::from(length).min(left.len()));
        pieces.push(piece);
        left = after;
    }
    pieces.push(left);
    (pieces, stream)
}

/// Server-sent events and lines of JSON: the same however they are cut, and the same once they are written again.
pub(crate) fn frames(data: &[u8]) {
    let (cut, stream) = cuts(data);
    for lines in [false, true] {
        let whole = pieces::events(lines, [stream]).expect("a small stream has no large event");
        assert_eq!(pieces::events(lines, cut.iter().copied()).as_ref(), Some(&whole), "as it was cut");
        assert_eq!(pieces::events(lines, stream.chunks(1)).as_ref(), Some(&whole), "byte by byte");
        let mut written = String::new();
        for (name, data) in &whole {
            assert!(!name.contains(['\n', '\r']), "a name of two lines");
            if lines {
                assert!(!data.contains('\n') && !data.trim().is_empty() && name.is_empty());
                written.push_str(&format!("{data}\n"));
            } else {
                assert!(!data.contains('\r'), "a line end in the data");
                written.push_str(&format!("event: {name}\n"));
                data.split('\n').for_each(|line| written.push_str(&format!("data: {line}\n")));
                written.push('\n');
            }
        }
        assert!(written.len() <= stream.len() * 16, "more comes out than went in");
        assert_eq!(pieces::events(lines, [written.as_bytes()]), Some(whole), "what is written reads back");
    }
}

/// Answers on all five wires: which wire, what it is called, whether tools were offered; then cuts, then the body.
pub(crate) fn answer(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let wire = match mode & 7 {
        0 => Wire::Anthropic,
        1 => Wire::OpenAi,
        2 => Wire::Responses,
        3 => Wire::Gemini,
        _ => Wire::Ollama,
    };
    let offered = mode & 8 != 0;
    let called = match mode >> 4 & 3 {
        0 => "text/event-stream",
        1 => "application/json",
        2 => "application/x-ndjson",
        _ => "",
    };
    let (cut, stream) = cuts(rest);
    let whole = pieces::answer(wire, called, offered, [stream]);
    assert_eq!(pieces::answer(wire, called, offered, cut), whole, "as it was cut");
    assert_eq!(pieces::answer(wire, called, offered, stream.chunks(1)), whole, "byte by byte");
    match &whole.trouble {
        None => {
            assert!(!whole.text.trim().is_empty() || !whole.calls.is_empty(), "an answer that says and does nothing");
            assert!(offered || whole.calls.is_empty(), "tools are called that nobody offered");
            assert!(whole.calls.iter().all(|call| !call.name.is_empty()), "a call of nothing");
        }
        Some((_, _, _, words)) => assert!(!words.is_empty(), "a trouble without a word"),
    }
}

const SECRET: &str = "whsec-of-the-tests";

/// Webhook bodies: a header of signatures, a line end, the body; an empty header stands for the right one.
pub(crate) fn callback(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, body) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let secrets = [SecretString::from(""), SecretString::from(SECRET)];
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    let right: String =
        mac.chain_update(body).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let right = format!("v1={right}");
    match callback::signed(body, &header, &secrets) {
        Ok(()) => assert!(header.to_lowercase().contains(&right), "{header} was taken for {right}"),
        Err(Unheard::Unsigned) => assert!(header.trim().is_empty()),
        Err(Unheard::Forged) => assert!(!header.trim().is_empty()),
        Err(Unheard::Unreadable) => panic!("the body is not read before its signature is"),
    }
    assert_eq!(callback::signed(body, &right, &secrets), Ok(()));
    assert_eq!(callback::signed(&[body, b" "].concat(), &right, &secrets), Err(Unheard::Forged));
    let Ok(event) = callback::read(body) else { return };
    assert!((1..=100).contains(&event.id.len()), "an id of {} bytes would be remembered", event.id.len());
    assert!(event.by.chars().count() <= 100 && !event.by.chars().any(char::is_control), "{:?}", event.by);
    let none = Heard::default();
    for now in [NOW, event.at, event.at + Duration::from_secs(48 * 3600)] {
        match callback::wish(&event, &none, "acme", now) {
            Wish::Acknowledge(incident) | Wish::Resolve(incident) => {
                assert_eq!(event.key.as_deref(), Some(&*dedup_key("acme", &incident)), "of another team");
                assert!(!incident.is_empty() && incident.len() <= 1_024, "about no incident: {incident:?}");
                assert!(now < event.at + Duration::from_secs(48 * 3600), "older than it is tried for");
            }
            Wish::Nothing(why) => assert!(!why.is_empty()),
        }
    }
    let heard = none.with(&event).with(&event);
    assert_eq!(heard.0, [(event.id.clone(), event.at)], "the same event is remembered once");
    assert!(matches!(callback::wish(&event, &heard, "acme", event.at), Wish::Nothing(_)), "an event is heard twice");
}
