//! Waits are what the policy says, to the millisecond.
