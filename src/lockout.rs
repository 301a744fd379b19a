//! Who presents wrong tokens is not heard for a while: guessing is made slow, and everybody else is served meanwhile.
//!
//! Counted by address; of IPv6 by /64, which is what one customer is given. What is kept is bounded: past it the address
//! whose last wrong token is the oldest is forgotten.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// So many wrong tokens within [`WINDOW`] are an accident; the next are guesses (OWASP's cheat sheet on authentication
/// leaves the number to the operator; ten is what `abuse.jsonl` AB-055 asks for).
const WRONG_MAX: u32 = 10;
/// How long wrong tokens are remembered after the last of them, and how long nobody is heard from there.
const WINDOW: Duration = Duration::from_secs(60);
/// The most addresses remembered: with what is kept of each, below half a megabyte.
const ADDRESSES_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Wrong {
    times: u32,
    last: Duration,
}

/// The wrong tokens of late. Times are spans since any fixed moment, such as the start of the server.
#[derive(Debug, Default)]
pub struct Lockout(BTreeMap<IpAddr, Wrong>);

impl Lockout {
    /// How long nobody from there is heard yet, whatever token they present; `None`: they are heard.
    #[must_use]
    pub fn refused(&self, from: IpAddr, now: Duration) -> Option<Duration> {
        let wrong = self.0.get(&house(from)).filter(|wrong| wrong.times >= WRONG_MAX)?;
        (wrong.last + WINDOW).checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Counts a wrong token. One that comes while nobody is heard does not count, so that a client with an old token is
    /// heard again when it stops for a while.
    pub fn wrong(&mut self, from: IpAddr, now: Duration) {
        let house = house(from);
        let known = self.0.get(&house).filter(|wrong| now.saturating_sub(wrong.last) < WINDOW);
        let times = known.map_or(0, |wrong| wrong.times).saturating_add(1);
        if known.is_none() && self.0.len() >= ADDRESSES_MAX {
            let oldest = self.0.iter().min_by_key(|(_, wrong)| wrong.last).map(|(house, _)| *house);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(house, Wrong { times, last: now });
    }
}

/// Whose address it is: of IPv6 the first 64 bits.
fn house(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(from) => IpAddr::V4(from),
        IpAddr::V6(from) => IpAddr::V6(Ipv6Addr::from_bits(from.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(from: &str) -> IpAddr {
        from.parse().expect("an address")
    }

    #[test]
    fn ten_wrong_tokens_are_one_too_many_for_a_minute() {
        let ms = Duration::from_millis;
        let mut lockout = Lockout::default();
        for guess in 0..9 {
            lockout.wrong(at("203.0.113.9"), ms(guess * 10));
            assert_eq!(lockout.refused(at("203.0.113.9"), ms(guess * 10)), None, "{guess}");
        }
        lockout.wrong(at("203.0.113.9"), ms(90));
        for (from, now, expected) in [
            ("203.0.113.9", 90, Some(60_000)),
            ("203.0.113.9", 60_089, Some(1)),
            ("203.0.113.9", 60_090, None),
            ("::ffff:203.0.113.9", 90, Some(60_000)),
            ("203.0.113.10", 90, None),
        ] {
            assert_eq!(lockout.refused(at(from), ms(now)), expected.map(ms), "{from} at {now}");
        }
        lockout.wrong(at("203.0.113.9"), ms(60_090));
        assert_eq!(lockout.refused(at("203.0.113.9"), ms(60_090)), None, "it begins anew");
    }

    #[test]
    fn slow_mistakes_and_neighbours_are_no_guesses() {
        let mut lockout = Lockout::default();
        for minute in 0..100 {
            lockout.wrong(at("203.0.113.9"), Duration::from_secs(minute * 60));
        }
        assert_eq!(lockout.refused(at("203.0.113.9"), Duration::from_secs(99 * 60)), None);
        for last in 0..10 {
            lockout.wrong(at(&format!("2001:db8::{last:x}")), Duration::from_secs(6_000));
        }
        let now = Duration::from_secs(6_000);
        assert!(lockout.refused(at("2001:db8::ffff"), now).is_some(), "one /64 is one house");
        assert_eq!(lockout.refused(at("2001:db8:0:1::1"), now), None);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut lockout = Lockout::default();
        for number in 0..10_000_u32 {
            lockout.wrong(IpAddr::V4(number.into()), Duration::from_millis(number.into()));
        }
        assert_eq!(lockout.0.len(), ADDRESSES_MAX);
        assert!(lockout.0.contains_key(&IpAddr::V4(9_999_u32.into())), "the newest stay");
    }
}
