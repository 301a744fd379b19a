//! Points in time and spans as Backstop counts them: Unix milliseconds, handed in, never read here.
//!
//! Pure files take `now: Timestamp` as an argument; the clock itself lives in `team/clock.rs`. Windows count
//! `age < window`, thresholds are `>=`, a lease is void at `t >= deadline` (DESIGN.md section 6).

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, in milliseconds since the Unix epoch (UTC). Serialized as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first moment that RFC 3339 can write: the beginning of the year 0.
    pub const FIRST: Self = Self(-62_167_219_200_000);
    /// The last moment that can be written and read again: two days before the year 10000, in any zone.
    pub const LAST: Self = Self(253_402_207_200_999);

    /// The point `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.since(self)
    }

    /// Reads an RFC 3339 time.
    ///
    /// # Errors
    /// When the text is not an RFC 3339 time; the error quotes it and shows one that is.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        text.parse::<jiff::Timestamp>()
            .map(|at| Self(at.as_millisecond()))
            .map_err(|_| TimeError::NotATime(text.to_owned()))
    }
}

/// What is wrong with a time or a span somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Not an RFC 3339 time.
    #[error("`{0}` is not a time; write RFC 3339, such as 2026-11-21T23:00:00Z")]
    NotATime(String),
    /// Not a span of time.
    #[error("`{0}` is not a duration; write a number with a unit, such as 250ms, 30s, 2m, 1h30m or 1d")]
    NotADuration(String),
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever is written must be read again: a record with a time that cannot be is a record that is lost.
        let end = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let at = jiff::Timestamp::from_millisecond(self.0).unwrap_or(end);
        write!(f, "{at:.3}")
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates: a wait of ten thousand years is a wait until [`Timestamp::LAST`], not an overflow.
    fn add(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis)).min(Self::LAST).max(self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Reads `250ms`, `30s`, `2m`, `1h30m`, `1d`: numbers with units, largest first, nothing between. `0` is zero.
///
/// # Errors
/// When the text is anything else, or too large for 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let wrong = || TimeError::NotADuration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut smallest_so_far = u64::MAX;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        if unit >= smallest_so_far {
            return Err(wrong());
        }
        smallest_so_far = unit;
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    Ok(Duration::from_millis(total))
}

/// Writes a span the way [`parse_duration`] reads it, dropping what is zero: `1h30m`, `2m`, `1s500ms`, `0s`.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        if left >= unit {
            text.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `#[serde(with = "time::seconds")]`: a span as seconds with millisecond precision, the form of every JSON we emit.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// More than 64 bits of milliseconds hold.
    const LONGEST: f64 = 1.8e16;

    /// Writes seconds.
    ///
    /// # Errors
    /// Only those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = u32::try_from(span.as_millis()).map_or(span.as_secs_f64(), |ms| f64::from(ms) / 1_000.0);
        serializer.serialize_f64(millis)
    }

    /// Reads seconds.
    ///
    /// # Errors
    /// When the number is negative or not finite. One that is too large saturates: we write such, of a server that asks
    /// for centuries.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if seconds.is_finite() && seconds > LONGEST {
            return Ok(Duration::from_millis(u64::MAX));
        }
        let span = Duration::try_from_secs_f64(seconds).map_err(de::Error::custom)?;
        let rounded = (span.as_nanos() + 500_000) / 1_000_000;
        Ok(Duration::from_millis(u64::try_from(rounded).unwrap_or(u64::MAX)))
    }
}

/// `#[serde(with = "time::text")]`: a span as an operator writes it, `30s` or `1h30m`; the form of every file we read.
pub mod text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the shortest text that reads back as the same span.
    ///
    /// # Errors
    /// Only those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*span))
    }

    /// Reads what [`super::parse_duration`] reads.
    ///
    /// # Errors
    /// When the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_operators_write_them() {
        for (text, millis) in
            [("30s", 30_000), ("2m", 120_000), ("1h30m", 5_400_000), ("250ms", 250), ("1d", 86_400_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "30 s", "30m2h", "1h1h", "-1s", "1.5s", "99999999999999999999s", "1w"] {
            assert_eq!(parse_duration(text), Err(TimeError::NotADuration(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for millis in [0, 1, 999, 1_000, 61_000, 3_600_000, 86_399_999, 90_061_001] {
            let span = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let at = Timestamp::parse("2026-11-21T23:00:00.5Z").expect("a time");
        assert_eq!(at.to_string(), "2026-11-21T23:00:00.500Z");
        assert_eq!(serde_json::to_string(&at).expect("json"), "\"2026-11-21T23:00:00.500Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>("\"2026-11-21T23:00:00.500Z\"").expect("json"), at);
        assert!(Timestamp::parse("yesterday").is_err());
    }

    /// Found by fuzzing hints: a server that asked us to stay away for 10^14 s closed its gate until "9000000000000000 ms",
    /// which was written into the feed and could never be read again; and with it no event after it.
    #[test]
    fn every_time_and_span_that_is_written_reads_back() {
        let now = Timestamp::parse("2026-11-21T23:00:00Z").expect("a time");
        for far in [now + Duration::MAX, now + Duration::from_secs(100_000_000_000_000), Timestamp::FIRST] {
            assert_eq!(Timestamp::parse(&far.to_string()), Ok(far));
        }
        assert_eq!(now + Duration::MAX, Timestamp::LAST);
        for beyond in [i64::MIN, i64::MAX] {
            assert!(Timestamp::parse(&Timestamp::from_millis(beyond).to_string()).is_ok(), "{beyond}");
        }
        #[derive(Serialize, Deserialize)]
        struct Said(#[serde(with = "seconds")] Duration);
        for span in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_millis(u64::MAX)] {
            let json = serde_json::to_string(&Said(span)).expect("JSON");
            let Said(back) = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert!(back >= Duration::from_secs(18_000_000_000_000_000), "{json}: {back:?}");
        }
    }

    #[test]
    fn adding_saturates_and_since_never_goes_below_zero() {
        let end = Timestamp::from_millis(i64::MAX);
        assert_eq!(end + Duration::MAX, end);
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(5).until(Timestamp::from_millis(9)), Duration::from_millis(4));
    }
}
