//! Bugs on purpose: in a build with the feature `mutants`, one of them can be switched on to see whether the simulation finds it.
//!
//! Without the feature [`on`] is `false` for the compiler, and what it guards is not in the program. With it the switch
//! belongs to the thread that plays, so that runs on other threads stay sound. This is the one file that decides and yet
//! remembers something: where a bug is seeded, nobody could hand the switch down.

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Is this bug switched on?
    #[must_use]
    pub fn on(name: &str) -> bool {
        ON.get() == Some(name)
    }

    /// Switches one bug on for this thread, or none.
    pub fn switch(name: Option<&'static str>) {
        ON.set(name);
    }
}

#[cfg(feature = "mutants")]
pub use switch::{on, switch};

/// Is this bug switched on? Never, in a build without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn on(_name: &str) -> bool {
    false
}
