//! Whether an agent is well: deaths, restarts, and when to stop restarting it.
