//! Outages: servers on loopback that fail on cue, and the demo that shows what the team does about it.
