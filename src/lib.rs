//! Backstop runs a team of LLM agents as supervised actors and treats failure as a first-class citizen.
//!
//! Files decide, folders do: every file directly under `src/` is pure, every folder is one door to the world.

// Files decide: in reading order.
pub mod time;
pub mod task;
pub mod agent;
pub mod cause;
pub mod failure;
pub mod hint;
pub mod provider_failure;
pub mod stuck;
pub mod retry;
pub mod retry_budget;
pub mod breaker;
pub mod delivery;
pub mod dead_letter;
pub mod event;
pub mod ledger;
pub mod query;
pub mod queue;
pub mod health;
pub mod triage;
pub mod escalation;
pub mod incident;
pub mod replay;
pub mod prompt;
pub mod answer;
pub mod redact;
pub mod config;

// Folders do.
pub mod engine;
pub mod llm;
pub mod pager;
pub mod team;
pub mod definitions;
pub mod sim;
pub mod api;
pub mod cli;
