//! The breaker opens, holds, probes once and closes; the gate holds everybody.
