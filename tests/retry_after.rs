//! When a server says when to come back, nobody comes earlier.
