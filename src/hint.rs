//! When the other side says to come back: `Retry-After` and its many relatives, read from headers and bodies.
