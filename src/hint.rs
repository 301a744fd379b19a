//! When the other side says to come back: `Retry-After` and its many relatives, read from headers and bodies.
//!
//! The first that speaks wins: `retry-after-ms`, `x-ms-retry-after-ms`, `x-amz-retry-after` (milliseconds),
//! `retry-after` (seconds, decimals, or one of three date forms), the body (`RetryInfo`, "try again in 1m2.5s"), the
//! reset header of a dimension that is exhausted. Zero, the past and nonsense are no hint, and what is read is never
//! shortened: parts of a millisecond round up, numbers that overflow saturate.

use std::time::Duration;

use crate::error_body::{self, ErrorBody};
use crate::time::Timestamp;

/// What was seen of an answer, as far as a hint may hide in it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The HTTP status, once there was one.
    pub status: Option<u16>,
    /// Response headers, names in lower case.
    pub headers: &'a [(String, String)],
    /// The body, or the data of the event that reported the error; empty when there is none.
    pub body: &'a str,
    /// When it was received, by our clock.
    pub at: Timestamp,
}

/// How long the other side asked us to stay away; `None` when it did not say, or said nothing of use.
///
/// A status below 400 with no error in its body asks for nothing, whatever its headers say.
#[must_use]
pub fn asked(seen: &Seen<'_>) -> Option<Duration> {
    let value = error_body::parse(seen.body);
    asked_with(seen, &ErrorBody::of(seen.body, value.as_ref()))
}

/// [`asked`], for those who have read the body already.
#[must_use]
pub fn asked_with(seen: &Seen<'_>, body: &ErrorBody<'_>) -> Option<Duration> {
    let failing = seen.status.is_none_or(|status| status >= 400);
    if !failing && seen.body.is_empty() {
        return None;
    }
    let origin = header(seen.headers, "date").find_map(http_date).unwrap_or(seen.at);
    let from_headers = if failing { said_by_headers(seen.headers, origin) } else { None };
    from_headers.or_else(|| said_by_body(body)).or_else(|| exhausted(seen.headers, body, origin))
}

/// Values of a header, under its own name or as a LiteLLM proxy renames it.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(move |(key, _)| {
            let key = key.strip_prefix("llm_provider-").unwrap_or(key);
            key.eq_ignore_ascii_case(name)
        })
        .map(|(_, value)| value.trim_matches([' ', '\t']))
}

fn said_by_headers(headers: &[(String, String)], origin: Timestamp) -> Option<Duration> {
    // Several headers of one name: the longer wait, so that nobody is disobeyed.
    let longest = |name, read: &dyn Fn(&str) -> Option<Duration>| header(headers, name).filter_map(read).max();
    longest("retry-after-ms", &|value| decimal(value, 1))
        .or_else(|| longest("x-ms-retry-after-ms", &|value| decimal(value, 1)))
        .or_else(|| longest("x-amz-retry-after", &|value| decimal(value, 1)))
        .or_else(|| longest("retry-after", &|value| delay_or_date(value, origin)))
}

/// The value of `Retry-After`: seconds, or a date measured against the other side's own clock.
fn delay_or_date(value: &str, origin: Timestamp) -> Option<Duration> {
    if let Some(at) = http_date(value) {
        return some(origin.until(at));
    }
    // Two header lines joined by a proxy: "10, 40".
    let parts = value.split(',').map(|part| decimal(part.trim(), 1_000));
    parts.collect::<Option<Vec<_>>>().and_then(|spans| spans.into_iter().max())
}

fn said_by_body(body: &ErrorBody<'_>) -> Option<Duration> {
    body.retry_delay
        .and_then(span)
        .and_then(some)
        .or_else(|| body.retry_seconds.and_then(seconds))
        .or_else(|| header_in(body, "retry-after").and_then(|value| decimal(value, 1_000)))
        .or_else(|| said_in(&body.message))
        .or_else(|| body.raw.and_then(said_in))
}

fn header_in<'b>(body: &'b ErrorBody<'_>, name: &str) -> Option<&'b str> {
    body.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// "Please try again in 1m2.5s", "retry after 86400 seconds".
fn said_in(text: &str) -> Option<Duration> {
    const OPENINGS: [&str; 5] = ["try again in ", "retry in ", "retry after ", "try again after ", "wait "];
    let text = text.to_ascii_lowercase();
    OPENINGS.iter().find_map(|opening| {
        text.match_indices(opening).find_map(|(at, _)| span(&text[at + opening.len()..]).and_then(some))
    })
}

/// Reset headers count only where nothing is left: they tell when the bucket is *full* again.
fn exhausted(headers: &[(String, String)], body: &ErrorBody<'_>, origin: Timestamp) -> Option<Duration> {
    let spent = |value: &str| value.trim().parse::<f64>() == Ok(0.0);
    let reset_of = |name: &str| -> Option<String> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("llm_provider-").unwrap_or(&name);
        name.contains("ratelimit").then_some(())?;
        name.contains("remaining").then(|| name.replace("remaining", "reset"))
    };
    let outside = headers
        .iter()
        .filter(|(_, value)| spent(value))
        .filter_map(|(name, _)| reset_of(name))
        .filter_map(|name| header(headers, &name).find_map(|value| reset(value, origin)));
    let inside = body
        .headers
        .iter()
        .filter(|(_, value)| spent(value))
        .filter_map(|(name, _)| reset_of(name))
        .filter_map(|name| header_in(body, &name).and_then(|value| reset(value, origin)));
    outside.chain(inside).max()
}

/// A reset: RFC 3339, `1m30s`, seconds, or a Unix time in seconds or milliseconds.
fn reset(value: &str, origin: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(at) = Timestamp::parse(value) {
        return some(origin.until(at));
    }
    if let Ok(number) = value.parse::<i64>() {
        // No bucket takes thirty years to fill: large numbers are points in time.
        let at = match number {
            1_000_000_000..100_000_000_000 => Some(number * 1_000),
            100_000_000_000.. => Some(number),
            _ => None,
        };
        if let Some(at) = at {
            return some(origin.until(Timestamp::from_millis(at)));
        }
    }
    decimal(value, 1_000).or_else(|| span(value).and_then(some))
}

/// Nobody asks for no time at all.
fn some(span: Duration) -> Option<Duration> {
    (!span.is_zero()).then_some(span)
}

/// A number of seconds; rounded up to a millisecond, saturating, never zero.
fn seconds(seconds: f64) -> Option<Duration> {
    let millis = (seconds * 1_000.0).ceil();
    // The cast saturates.
    (millis >= 1.0).then(|| Duration::from_millis(millis as u64))
}

/// Digits with or without a fraction, times `unit` milliseconds; rounded up, saturating, never zero.
fn decimal(text: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') || fraction.contains('.') {
        return None;
    }
    let millis = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit);
    // Nine digits are more than any clock here can tell; what follows can only round up.
    let digits = &fraction[..fraction.len().min(9)];
    let scale = 10_u64.pow(u32::try_from(digits.len()).unwrap_or(9));
    let mut parts = digits.parse::<u64>().unwrap_or(0).saturating_mul(unit).div_ceil(scale);
    if parts == 0 && fraction.bytes().any(|byte| byte != b'0') {
        parts = 1;
    }
    some(Duration::from_millis(millis.saturating_add(parts)))
}

/// The span a text begins with: `34.07s`, `1m2.5s`, `900ms`, `2 seconds`, `114h18m0s`.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text.trim_start();
    let mut total: Option<Duration> = None;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let digits = rest[..end].trim_end_matches('.');
        let after = rest[end..].trim_start_matches(' ');
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit = match after[..letters].to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            _ => return total,
        };
        if digits.is_empty() || !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return total;
        }
        // A zero part ("114h18m0s") adds nothing but does not end the span.
        let part = decimal(digits, unit).unwrap_or_default();
        total = Some(total.unwrap_or_default().saturating_add(part));
        rest = after[letters..].trim_start_matches([' ', ',']);
    }
}

/// An HTTP date in any of the three forms of RFC 9110, section 5.6.7.
fn http_date(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, clock) = match words.as_slice() {
        // Fri, 21 Nov 2025 22:00:30 GMT; Friday, 21-Nov-25 22:00:45 GMT
        [_, day, month, year, clock, "GMT" | "UTC"] => (day, month, year, clock),
        // Fri Nov 21 22:00:45 2025
        [_, month, day, clock, year] => (day, month, year, clock),
        _ => return None,
    };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i8::try_from(MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? + 1).ok()?;
    let year = match (year.len(), year.parse::<i16>().ok()?) {
        (4, year) => year,
        // Two digits: RFC 9110 takes what looks more than 50 years ahead as the past. Nothing here is older than 1976.
        (2, short @ 0..76) => 2000 + short,
        (2, short) => 1900 + short,
        _ => return None,
    };
    let mut clock = clock.split(':').map(|part| part.parse::<i8>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let at = jiff::civil::DateTime::new(year, month, day.parse().ok()?, hour, minute, second.min(59), 0).ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    // A leap second is the first of the next minute.
    (0..=60).contains(&second).then(|| Timestamp::from_millis(at + if second == 60 { 1_000 } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-21T23:00:00Z").expect("a time")
    }

    fn asks(status: u16, headers: &[(&str, &str)], body: &str) -> Option<u128> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        asked(&Seen { status: Some(status), headers: &headers, body, at: now() }).map(|span| span.as_millis())
    }

    #[test]
    fn headers_speak_in_a_fixed_order() {
        let all = [
            ("retry-after", "9"),
            ("x-amz-retry-after", "3000"),
            ("x-ms-retry-after-ms", "2000"),
            ("retry-after-ms", "1854"),
        ];
        assert_eq!(asks(429, &all, ""), Some(1_854));
        assert_eq!(asks(429, &all[..3], ""), Some(2_000));
        assert_eq!(asks(429, &all[..2], ""), Some(3_000));
        assert_eq!(asks(429, &all[..1], r#"{"error":{"message":"try again in 1s"}}"#), Some(9_000));
        assert_eq!(asks(429, &[("llm_provider-retry-after", "7")], ""), Some(7_000));
    }

    #[test]
    fn values_are_read_leniently_and_never_shortened() {
        for (value, millis) in [
            ("60", Some(60_000)),
            (" 60\t", Some(60_000)),
            ("1.5", Some(1_500)),
            ("0.0001", Some(1)),
            ("1.0009", Some(1_001)),
            ("1.00000000001", Some(1_001)),
            ("10, 40", Some(40_000)),
            ("0", None),
            ("0.0", None),
            ("-5", None),
            ("+5", None),
            ("soon", None),
            ("", None),
            ("1e3", None),
            ("60s", None),
            ("99999999999999999999", Some(u128::from(u64::MAX))),
            ("Sat, 21 Nov 2026 23:00:45 GMT", Some(45_000)),
            ("Saturday, 21-Nov-26 23:00:45 GMT", Some(45_000)),
            ("Sat Nov 21 23:00:45 2026", Some(45_000)),
            ("Sun Nov  1 23:00:45 2026", None),
            ("Sat, 21 Nov 2026 22:59:00 GMT", None),
            ("Sat, 99 Nov 2026 23:00:45 GMT", None),
            ("Sat, 21 Nov 2026 23:00:60 GMT", Some(60_000)),
        ] {
            assert_eq!(asks(503, &[("retry-after", value)], ""), millis, "{value:?}");
        }
        assert_eq!(asks(200, &[("retry-after", "60")], ""), None);
        assert_eq!(
            asks(
                503,
                &[("retry-after", "Sat, 21 Nov 2026 10:00:30 GMT"), ("date", "Sat, 21 Nov 2026 10:00:00 GMT")],
                ""
            ),
            Some(30_000)
        );
    }

    #[test]
    fn texts_name_spans_in_many_ways() {
        for (text, millis) in [
            ("Please try again in 1m2.5s.", Some(62_500)),
            ("Please try again in 1.854s. Visit us", Some(1_854)),
            ("try again in 900ms", Some(900)),
            ("Please retry in 34.074824224s.", Some(34_075)),
            ("Try again in 2 seconds.", Some(2_000)),
            ("Please retry after 86400 seconds.", Some(86_400_000)),
            ("Please try again in 114h18m0s.", Some(411_480_000)),
            ("try again in 7 minutes and", Some(420_000)),
            ("Please retry shortly.", None),
            ("Please wait before trying again", None),
            ("retry after 0 seconds", None),
            ("try again in a moment", None),
        ] {
            let body = serde_json::json!({"error": {"message": text}}).to_string();
            assert_eq!(asks(429, &[], &body), millis, "{text}");
        }
    }

    /// Found by fuzzing: a tenth of a millisecond was a hint of no milliseconds, and 10^20 s were none.
    #[test]
    fn seconds_in_a_body_round_up_and_saturate() {
        for (seconds, millis) in [
            ("1.5", Some(1_500)),
            ("0.0001", Some(1)),
            ("1e20", Some(u128::from(u64::MAX))),
            ("0", None),
            ("-1", None),
            ("-1e-9", None),
        ] {
            let body = format!(r#"{{"error":{{"message":"m","metadata":{{"retry_after_seconds":{seconds}}}}}}}"#);
            assert_eq!(asks(429, &[], &body), millis, "{seconds}");
        }
    }

    #[test]
    fn resets_count_only_where_nothing_is_left() {
        let left = [("x-ratelimit-remaining-tokens", "3028"), ("x-ratelimit-reset-tokens", "47.888s")];
        assert_eq!(asks(429, &left, ""), None);
        let spent =
            [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1m30s"), left[0], left[1]];
        assert_eq!(asks(429, &spent, ""), Some(90_000));
        let anthropic = [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-21T23:00:11Z"),
            ("anthropic-ratelimit-requests-remaining", "44"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T23:05:00Z"),
        ];
        assert_eq!(asks(429, &anthropic, ""), Some(11_000));
        assert_eq!(asks(429, &[("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")], ""), None);
        let inside = r#"{"error":{"code":429,"message":"m","metadata":{"headers":{"X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795302010000"}}}}"#;
        assert_eq!(asks(429, &[], inside), Some(10_000));
    }
}
