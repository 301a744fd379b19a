//! Backstop runs a team of LLM agents as supervised actors and treats failure as a first-class citizen.
//!
//! Files decide, folders do: every file directly under `src/` is pure, every folder is one door to the world.

// Files decide: in reading order.
pub mod agent;
pub mod answer;
pub mod breaker;
pub mod cause;
pub mod config;
pub mod dead_letter;
pub mod delivery;
pub mod escalation;
pub mod event;
pub mod failure;
pub mod health;
pub mod hint;
pub mod incident;
pub mod ledger;
pub mod prompt;
pub mod provider_failure;
pub mod query;
pub mod queue;
pub mod redact;
pub mod replay;
pub mod retry;
pub mod retry_budget;
pub mod stuck;
pub mod task;
pub mod time;
pub mod triage;

// Folders do.
pub mod api;
pub mod cli;
pub mod definitions;
pub mod engine;
pub mod llm;
pub mod pager;
pub mod sim;
pub mod team;
