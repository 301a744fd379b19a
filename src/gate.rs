//! The gate of one integration: silence that was asked for, kept by everybody, then a ramp.
//!
//! The first call after it goes alone, then two may be out, then four, until it stands open again. Part of a
//! [`Guard`](crate::guard::Guard), which asks the breaker as well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mutant;
use crate::time::Timestamp;

/// The first wait at a gate when the other side is busy but names no time; doubled for each time in a row.
const BUSY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait at a gate when the other side names no time.
const BUSY_MAX: Duration = Duration::from_secs(60);
/// The longest silence that is believed; past it, a probe.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// With so many calls out at once and well, the gate stands open.
const RAMP_TOP: u32 = 16;

/// Open, closed until a time, or letting more and more pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gate {
    /// Closed until then; a ramp after that. `None`: open.
    until: Option<Timestamp>,
    /// How often in a row it was closed.
    strikes: u32,
    /// Grows with every closing: what was let through before says nothing about after.
    generation: u64,
    /// How many may be out at once on the ramp.
    limit: u32,
    /// How many have ended well since the limit was last raised.
    well: u32,
    /// Calls of the ramp that are out.
    #[serde(skip)]
    out: Vec<(u64, Timestamp)>,
    numbers: u64,
}

/// A call of the ramp that was let through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    generation: u64,
    number: u64,
}

impl Gate {
    pub(crate) const fn new() -> Self {
        Self { until: None, strikes: 0, generation: 0, limit: 1, well: 0, out: Vec::new(), numbers: 0 }
    }

    /// Until when it is closed.
    pub(crate) fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| now < *until)
    }

    /// How many may be out at once while it opens.
    pub(crate) fn ramp(&self, now: Timestamp) -> Option<u32> {
        self.until.filter(|until| *until <= now).map(|_| self.limit)
    }

    /// Does everybody pass, uncounted?
    pub(crate) const fn stands_open(&self) -> bool {
        self.until.is_none()
    }

    /// Would a call that is let through now be the one that finds out?
    pub(crate) const fn goes_alone(&self) -> bool {
        self.limit == 1
    }

    /// Opens it, whatever it thought. Who was let through before says nothing about after.
    pub(crate) fn open(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::new() };
    }

    /// `None`: the gate is open, nobody counts.
    pub(crate) fn free_places(&self, now: Timestamp, lease: Duration) -> Option<u32> {
        self.until?;
        let out = self.out.iter().filter(|(_, since)| lease.is_zero() || now.since(*since) < lease).count();
        Some(self.limit.saturating_sub(u32::try_from(out).unwrap_or(u32::MAX)))
    }

    pub(crate) fn take_place(&mut self, now: Timestamp, lease: Duration) -> Option<Place> {
        self.until?;
        self.out.retain(|(_, since)| lease.is_zero() || now.since(*since) < lease);
        self.numbers += 1;
        self.out.push((self.numbers, now));
        Some(Place { generation: self.generation, number: self.numbers })
    }

    pub(crate) fn renew(&mut self, place: Option<Place>, now: Timestamp) {
        let Some(place) = place.filter(|place| place.generation == self.generation) else { return };
        for (number, since) in &mut self.out {
            if *number == place.number {
                *since = now;
            }
        }
    }

    /// Gives a place back; `true` when it was one of the present ramp.
    pub(crate) fn give_back(&mut self, place: Option<Place>) -> bool {
        let Some(place) = place.filter(|place| place.generation == self.generation) else { return false };
        let before = self.out.len();
        self.out.retain(|(number, _)| *number != place.number);
        self.out.len() < before
    }

    pub(crate) fn well(&mut self, place: Option<Place>) {
        if !self.give_back(place) {
            return;
        }
        self.well += 1;
        if self.well >= self.limit {
            self.well = 0;
            self.limit *= 2;
        }
        if self.limit > RAMP_TOP {
            *self = Self { generation: self.generation, numbers: self.numbers, ..Self::new() };
        }
    }

    /// Closes it for as long as was asked; where nobody said, by a guess that grows, which ends with the breaker's own
    /// period (`open_until`): how often a dead integration is looked at is the operator's word, and no guess delays it.
    pub(crate) fn close(
        &mut self,
        place: Option<Place>,
        hint: Option<Duration>,
        open_until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let of_this_ramp = self.give_back(place);
        let closed = self.closed_until(now).is_some();
        // A hundred calls that were out together and all hear "busy" are one strike, not a hundred.
        if self.until.is_none() || of_this_ramp {
            self.strikes = self.strikes.saturating_add(1);
        } else if closed && hint.is_none() {
            return;
        }
        let doublings = self.strikes.saturating_sub(1).min(16);
        let busy = BUSY_FIRST.saturating_mul(1 << doublings).min(BUSY_MAX);
        let hint = if mutant::on("retry-after-undercut") { hint.map(|hint| hint / 2) } else { hint };
        let guess = open_until.map_or(now + busy, |open| open.min(now + busy));
        let until = hint.map_or(guess, |hint| now + hint.min(SILENCE_MAX));
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        self.generation += 1;
        self.limit = 1;
        self.well = 0;
        self.out.clear();
    }
}
