//! The seeded bugs, and whether the simulation finds them: a test of the tests.

use super::{Verdict, draw};
use crate::mutant;

/// A seeded bug: its name in the code, the file it is in, and what it does, in a few words.
pub type Mutant = (&'static str, &'static str, &'static str);

/// Every seeded bug.
pub const MUTANTS: &[Mutant] = &[
    ("attempt-off-by-one", "src/settle.rs", "one delivery more than the policy allows"),
    ("submit-not-durable", "src/engine/memory.rs", "a submission is acknowledged before it is durable"),
    ("done-not-durable", "src/engine/memory.rs", "a result is acknowledged before it is durable"),
    ("no-fence", "src/ledger.rs", "a result under a lost lease is taken"),
    ("two-probes", "src/breaker.rs", "a half-open breaker lets two probes through"),
    ("breaker-never-opens", "src/breaker.rs", "failures are counted and nothing comes of it"),
    ("retry-after-undercut", "src/gate.rs", "half of the silence that was asked for"),
    ("gate-not-shared", "src/guard.rs", "only who was told keeps silent"),
    ("page-at-two", "src/escalation.rs", "one dead letter too few calls a human"),
    ("page-at-four", "src/escalation.rs", "one dead letter more than said calls a human"),
    ("window-inclusive", "src/escalation.rs", "a dead letter as old as the window still counts"),
    ("payment-retried", "src/settle.rs", "a payment is retried by schedule"),
    ("payment-on-fallback", "src/triage.rs", "the CEO sends a payment to another model"),
    ("ceo-kick-lost", "src/team/office.rs", "nobody tells the CEO of a dead letter"),
    ("lost-at-drain", "src/ledger.rs", "what is handed back at a drain is never due again"),
    ("jitter-below-floor", "src/retry.rs", "waits may be shorter than their spread allows"),
    ("lease-never-lapses", "src/engine/memory.rs", "what a dead process held is never handed back"),
    ("decision-repeated", "src/ledger.rs", "the same is decided again for the same task"),
    ("ceo-decides-twice", "src/ledger.rs", "a letter a person is asked about stays open for the CEO"),
    ("ceo-without-cap", "src/triage.rs", "the CEO decides as often as it likes"),
    ("no-correction", "src/team/work.rs", "a refused answer is asked for again without a word"),
    ("logic-retried", "src/settle.rs", "what cannot be helped is retried"),
    ("letter-dropped", "src/ledger.rs", "a dead letter is discarded without a decision"),
    ("page-key-changes", "src/outbox.rs", "each page has a key of its own"),
    ("page-lost", "src/outbox.rs", "a page is given up at the first failure"),
    ("pages-side-by-side", "src/outbox.rs", "an incident's end may overtake its call"),
    ("reminder-lost", "src/escalation.rs", "nobody is called again"),
    ("reminder-in-circles", "src/escalation.rs", "a call that is due is looked at for ever and never made"),
    ("journal-not-read", "src/team/attempt.rs", "a retry begins from nothing"),
    ("effect-repeated", "src/stand.rs", "a call in doubt is made again"),
    ("key-changes", "src/team/act.rs", "each delivery uses keys of its own"),
    ("budget-not-reserved", "src/budget.rs", "calls that are out count nothing"),
    ("adviser-unbounded", "src/advice.rs", "an adviser may choose what was not on its list"),
    ("secret-in-feed", "src/team/mod.rs", "the keys of the team are not hidden"),
    ("real-dice", "src/team/clock.rs", "waits are drawn from the real world"),
];

/// What came of looking for a bug.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// Which bug.
    pub mutant: Mutant,
    /// By which invariant it was found, at which seed, after how many; none: not found.
    pub found: Option<(&'static str, u64, u64)>,
    /// How many seeds were tried.
    pub tried: u64,
}

/// Looks for one bug, from a seed on, in so many seeds at most, on this thread. A seed that breaks a rule without
/// the bug as well shows nothing about it.
#[must_use]
pub fn hunt(mutant: Mutant, from: u64, seeds: u64) -> Hunted {
    let mut hunted = Hunted { mutant, found: None, tried: 0 };
    for seed in from..from.saturating_add(seeds) {
        hunted.tried += 1;
        mutant::switch(Some(mutant.0));
        let seen = verdict(seed);
        mutant::switch(None);
        if let Some(violation) = seen.violations.first()
            && verdict(seed).violations.is_empty()
        {
            hunted.found = Some((violation.id, seed, hunted.tried));
            break;
        }
    }
    hunted
}

/// That the same is told twice is seen as well in one seed of four.
fn verdict(seed: u64) -> Verdict {
    let drawn = draw(seed);
    if seed.is_multiple_of(4) { drawn.judge() } else { drawn.judge_once(&drawn.loaded()).0 }
}
