//! Replays are slow, ordered, bounded and stop by themselves.
