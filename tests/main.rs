//! The promises, one file each, in one binary.

mod api;
mod architecture;
mod backoff;
mod breaker;
mod classification;
mod cli;
mod definitions;
mod demo;
mod dlq_replay;
mod engine;
mod idempotency;
mod leases;
mod page_window;
mod pager;
mod priority;
mod providers;
mod readme;
mod restart_intensity;
mod retry_after;
mod retry_budget;
mod support;
mod team;
