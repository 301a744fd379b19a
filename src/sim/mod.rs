//! Outages on purpose: model servers that fail on cue, inboxes that stand in for people, and the demo that uses both.
//!
//! - [`script`] says which request fails how, [`spec`] reads a rule of one from words; [`heard`] reads requests and
//!   [`wire`] writes answers in the vendors' own words; [`outage`] serves them, or breaks those of a real provider.
//! - [`play`] plays a scenario in virtual time or on the wire, [`breakage`] says what its faults look like there, [`agree`]
//!   holds the two against each other; [`library`] is what is shipped.
//! - [`broker`] plays the same on seed B's own configuration, [`uptime`] is one of its measures, and [`published`] puts
//!   both beside what was published.
//! - [`invariants`] is what must hold of every run, [`fuzz`] draws scenarios to hold against it.
//! - [`pagerduty`] and [`smtp`] take the pages.
//! - [`repository`] is what its agents read with tools.
//! - [`report`] says what came of a run; [`many`] plays many seeds at once, [`record`] makes a scenario of a feed.
//! - [`story`] is that of `backstop demo`, [`scene`] what must be seen of it, [`screen`] how it looks, [`demo`] runs it.
//!
//! Everything listens on loopback, on a port the system chooses, and ends with its handle.

pub mod script;
pub mod spec;
pub mod sample;
pub mod wire;
pub mod heard;
pub mod breakage;
pub mod play;
pub mod many;
pub mod report;
pub mod record;
pub mod agree;
pub mod library;
pub mod uptime;
pub mod broker;
pub mod published;
pub mod invariants;
pub mod fuzz;
pub mod outage;
pub mod pagerduty;
pub mod smtp;
pub mod panic;
pub mod repository;
pub mod scene;
pub mod story;
pub mod demo;
pub mod screen;

pub use outage::{Counters, OutageServer, Served};
pub use pagerduty::PagerDutyStub;
pub use panic::PanickingProvider;
pub use script::{Answer, Behaviour, Hint, Rule, Script, When};
pub use smtp::SmtpStub;
