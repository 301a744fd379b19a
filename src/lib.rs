//! Backstop runs a team of LLM agents as supervised actors and treats failure as a first-class citizen.
//!
//! Files decide, folders do: every file directly under `src/` is pure, every folder is one door to the world.
//!
//! # Layers
//!
//! From the ground up; each uses only what stands above it in this list.
//!
//! - **Files** decide: facts, the time and a roll of the dice go in, a decision comes out. `judgement` says what a failure
//!   is, `settle` what becomes of a delivery, `triage` what the CEO may decide, `budget` what may be spent, and `ledger`
//!   is the only one that changes the record of a task.
//! - `journal`, one of them, is what a task has done so far: every call of a model or a tool is a step, its intent kept
//!   before it is sent and its outcome after. `journal::write` is the only function that writes one, `stand` reads from
//!   them where the work goes on, and `tool` says what a call does and whether it may be made again.
//! - `engine` keeps records, journals and events: `engine::embedded` in one SQLite file, `engine::memory` in none.
//! - `llm` asks models, `tools` calls tools (MCP servers, HTTP, functions in code), `pager` reaches people. Each makes
//!   exactly one call per call, judges nothing, and knows neither the others nor the engine.
//! - `team` is the actors that carry out what the files decide; `Team` starts them.
//! - `definitions` reads a team from its directory, `sim` plays outages and the demo, `api` and `cli` are how people speak
//!   to a team.

// Files decide: in reading order.
pub mod mutant;
pub mod error_chain;
pub mod time;
pub mod spelling;
pub mod visitor;
pub mod lockout;
pub mod diff;
pub mod task;
pub mod retry;
pub mod agent;
pub mod conversation;
pub mod template;
pub mod tool;
pub mod failure;
pub mod cause;
pub mod secret_name;
pub mod redact;
pub mod error_body;
pub mod hint;
pub mod provider_code;
pub mod provider_failure;
pub mod tool_failure;
pub mod judgement;
pub mod stuck;
pub mod retry_budget;
pub mod breaker;
pub mod dead_letter;
pub mod decision;
pub mod delivery;
pub mod settle;
pub mod gate;
pub mod guard;
pub mod event;
pub mod absence;
pub mod record;
pub mod balance;
pub mod ledger;
pub mod retention;
pub mod journal;
pub mod stand;
pub mod evidence;
pub mod doubt;
pub mod said;
pub mod letter;
pub mod query;
pub mod queue;
pub mod health;
pub mod triage;
pub mod advice;
pub mod verdict;
pub mod escalation;
pub mod incident;
pub mod outbox;
pub mod callback;
pub mod replay;
pub mod bygone;
pub mod prompt;
pub mod schema_cost;
pub mod answer;
pub mod prices;
pub mod budget;
pub mod fees;
pub mod tool_config;
pub mod config;
pub mod check;
pub mod bound;
pub mod normal;
pub mod assertion;
pub mod scenario;
pub mod impossible;
pub mod told;
pub mod why;

// Folders do.
pub mod engine;
pub mod llm;
pub mod pager;
pub mod tools;
pub mod team;
pub mod definitions;
pub mod sim;
pub mod api;
pub mod cli;

pub use config::Config;
pub use failure::Failure;
pub use task::Task;
pub use team::Team;
