//! Makes a failing seed small: the fewest faults and loads, each as short as it may be, that still break the same rule.

use std::time::Duration;

use super::Drawn;
use crate::scenario::Arrival;

/// How many smaller ones are tried in all.
const TRIES: u32 = 300;

/// The smallest version of what was drawn for which `breaks` still says yes.
#[must_use]
pub fn shrink(drawn: &Drawn, breaks: &dyn Fn(&Drawn) -> bool) -> Drawn {
    let mut best = drawn.clone();
    let mut tries = 0;
    loop {
        let smaller = smaller(&best).into_iter().find(|candidate| {
            tries += 1;
            tries <= TRIES && breaks(candidate)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// Everything that is one step smaller, the largest steps first.
fn smaller(drawn: &Drawn) -> Vec<Drawn> {
    let mut all = Vec::new();
    let mut offer = |change: &dyn Fn(&mut Drawn)| {
        let mut next = drawn.clone();
        change(&mut next);
        if next != *drawn {
            all.push(next);
        }
    };
    offer(&|next| next.scenario.faults.clear());
    for place in 0..drawn.scenario.faults.len() {
        offer(&|next| drop(next.scenario.faults.remove(place)));
    }
    for place in 0..drawn.scenario.load.len() {
        offer(&|next| drop(next.scenario.load.remove(place)));
    }
    for place in 0..drawn.scenario.load.len() {
        offer(&|next| match &mut next.scenario.load[place].arrival {
            Arrival::Burst { count, .. } | Arrival::Total(count) => *count = count.div_ceil(2),
            Arrival::Every(_) | Arrival::PerDay(_) | Arrival::At(_) => {}
        });
    }
    offer(&|next| next.knobs.adviser = None);
    offer(&|next| next.knobs.tool_troubles = 0.0);
    offer(&|next| (next.knobs.task_cap, next.knobs.hour_cap) = (None, None));
    offer(&|next| next.knobs.drains = false);
    offer(&|next| {
        for (_, behaviour) in &mut next.scenario.models {
            (behaviour.schema_breaks, behaviour.loops, behaviour.refusals, behaviour.cuts) = (0.0, 0.0, 0.0, 0.0);
        }
    });
    for place in 0..drawn.scenario.faults.len() {
        offer(&|next| {
            let fault = &mut next.scenario.faults[place];
            (fault.share, fault.flap, fault.calls) = (1.0, None, None);
        });
        offer(&|next| {
            let (least, most) = &mut next.scenario.faults[place].lasts;
            if *least > Duration::from_secs(4) {
                (*least, *most) = (whole(*least / 2), whole(*most / 2));
            }
        });
    }
    all
}

fn whole(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::FaultKind;
    use crate::sim::fuzz::draw;

    #[test]
    fn only_what_breaks_is_left() {
        let with = |drawn: &Drawn, kind| drawn.scenario.faults.iter().any(|fault| fault.kind == kind);
        let seed = (0..).find(|seed| with(&draw(*seed), FaultKind::Overloaded) && with(&draw(*seed), FaultKind::Reset));
        let drawn = draw(seed.expect("some seed has both"));
        let small = shrink(&drawn, &|drawn| with(drawn, FaultKind::Overloaded));
        assert_eq!(small.scenario.faults.len(), 1);
        assert_eq!(small.scenario.faults[0].kind, FaultKind::Overloaded);
        assert!(small.scenario.load.is_empty() && small.scenario.faults[0].lasts.0 <= Duration::from_secs(4));
        assert_eq!(shrink(&drawn, &|_| false), drawn, "what breaks nothing is left as it is");
    }
}
