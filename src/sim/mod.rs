//! Outages on purpose: model servers that fail on cue, inboxes that stand in for people, and the demo that uses both.
//!
//! - [`script`] says which request fails how; [`heard`] reads requests and [`wire`] writes answers in the vendors' own
//!   words; [`outage`] serves them.
//! - [`play`] plays a scenario in virtual time, [`invariants`] is what must hold of every run, [`fuzz`] draws scenarios.
//! - [`pagerduty`] and [`smtp`] take the pages.
//! - [`repository`] is what its agents read with tools.
//! - [`scenario`] is the story of `backstop demo`, [`scene`] what must be seen of it, [`screen`] how it looks, [`demo`] runs it.
//!
//! Everything listens on loopback, on a port the system chooses, and ends with its handle.

pub mod script;
pub mod sample;
pub mod wire;
pub mod heard;
pub mod breakage;
pub mod play;
pub mod invariants;
pub mod fuzz;
pub mod outage;
pub mod pagerduty;
pub mod smtp;
pub mod panic;
pub mod repository;
pub mod scene;
pub mod scenario;
pub mod demo;
pub mod screen;

pub use outage::{OutageServer, Served};
pub use pagerduty::PagerDutyStub;
pub use panic::PanickingProvider;
pub use script::{Answer, Behaviour, Rule, Script, When};
pub use smtp::SmtpStub;
