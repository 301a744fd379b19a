//! The promises, one file each, in one binary.

mod backoff;
mod breaker;
mod classification;
mod definitions;
mod dlq_replay;
mod engine;
mod idempotency;
mod incidents;
mod leases;
mod page_window;
mod pager;
mod priority;
mod provider_failures;
mod provider_transport;
mod providers;
mod restart_intensity;
mod retry_after;
mod retry_budget;
mod simulation;
mod support;
mod team;
mod triage;
