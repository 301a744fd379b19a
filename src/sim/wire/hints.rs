//! How long to wait, said in the vendor's own way or in another: headers, dates, words.

use std::time::Duration;

use super::{Complaint, Draw, Outgoing, anthropic, complain, openai};
use crate::config::Wire;
use crate::sim::script::Hint;
use crate::time::Timestamp;

/// What is left of the account's rate limits; with a time, nothing until then.
pub(super) fn limits(wire: Wire, draw: Draw, used_up: Option<Duration>) -> Vec<(&'static str, String)> {
    match wire {
        Wire::Anthropic => anthropic::limits(draw, used_up),
        Wire::OpenAi | Wire::Responses => openai::limits(used_up),
        Wire::Gemini | Wire::Ollama => Vec::new(),
    }
}

/// Whole seconds, at least one: a client must not come back too early, nor at once.
pub(super) fn seconds(wait: Duration) -> u128 {
    wait.as_millis().div_ceil(1_000).max(1)
}

/// 429 with the vendor's own hint.
pub(super) fn rate_limited(wire: Wire, draw: Draw, wait: Duration) -> Outgoing {
    let mut response = match wire {
        Wire::Gemini => return hinted(wire, draw, Hint::Body, wait),
        Wire::OpenAi | Wire::Responses => {
            let mut response = hinted(wire, draw, Hint::Millis, wait);
            response.headers.push(("retry-after", seconds(wait).to_string()));
            response
        }
        Wire::Anthropic | Wire::Ollama => hinted(wire, draw, Hint::Seconds, wait),
    };
    response.headers.extend(limits(wire, draw, Some(wait)));
    response
}

/// 429 with a hint in this style and no other.
pub(super) fn hinted(wire: Wire, draw: Draw, hint: Hint, wait: Duration) -> Outgoing {
    let wait = if wait.is_zero() { Duration::from_secs(1) } else { wait };
    let in_body = (hint == Hint::Body).then_some(wait);
    let mut response = complain(wire, draw, Complaint::RateLimited(in_body));
    match hint {
        Hint::Seconds => response.headers.push(("retry-after", seconds(wait).to_string())),
        Hint::Millis => response.headers.push(("retry-after-ms", wait.as_millis().to_string())),
        Hint::Date => {
            let date = |second: i64| http_date(second).unwrap_or_default();
            let then = draw.created.saturating_add(i64::try_from(seconds(wait)).unwrap_or(i64::MAX));
            // Both by the same clock: a client that looks at the difference is right whatever its own clock shows.
            response.headers.push(("date", date(draw.created)));
            response.headers.push(("retry-after", date(then)));
        }
        Hint::Body => {}
    }
    response
}

/// `Sat, 21 Nov 2026 23:00:45 GMT`.
fn http_date(second: i64) -> Option<String> {
    let at = jiff::Timestamp::from_second(second).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// `2026-11-21T23:00:45Z`.
pub(super) fn rfc3339(second: i64) -> String {
    Timestamp::from_millis(second.saturating_mul(1_000)).to_string().replace(".000", "")
}

/// A hint in words, as a part of a message.
pub(super) fn in_words(wait: Option<Duration>) -> String {
    wait.map_or_else(
        || "Please try again later.".to_owned(),
        |wait| format!("Please try again in {}s.", wait.as_secs_f64()),
    )
}
