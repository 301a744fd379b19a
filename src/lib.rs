//! Backstop runs a team of LLM agents as supervised actors and treats failure as a first-class citizen.
//!
//! Files decide, folders do: every file directly under `src/` is pure, every folder is one door to the world.

// Files decide: in reading order.
pub mod time;
pub mod spelling;
pub mod task;
pub mod retry;
pub mod agent;
pub mod failure;
pub mod cause;
pub mod redact;
pub mod error_body;
pub mod hint;
pub mod provider_code;
pub mod provider_failure;
pub mod judgement;
pub mod stuck;
pub mod retry_budget;
pub mod breaker;
pub mod dead_letter;
pub mod decision;
pub mod delivery;
pub mod guard;
pub mod event;
pub mod ledger;
pub mod letter;
pub mod query;
pub mod queue;
pub mod health;
pub mod triage;
pub mod advice;
pub mod story;
pub mod escalation;
pub mod incident;
pub mod outbox;
pub mod replay;
pub mod prompt;
pub mod answer;
pub mod prices;
pub mod config;
pub mod check;

// Folders do.
pub mod engine;
pub mod llm;
pub mod pager;
pub mod team;
pub mod definitions;
pub mod sim;
pub mod api;
pub mod cli;

pub use config::Config;
pub use failure::Failure;
pub use task::Task;
pub use team::Team;
