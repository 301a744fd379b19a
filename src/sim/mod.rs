//! Outages on purpose: model servers that fail on cue, inboxes that stand in for people, and the demo that uses both.
//!
//! - [`script`] says which request fails how; [`heard`] reads requests and [`wire`] writes answers in the vendors' own
//!   words; [`outage`] serves them.
//! - [`pagerduty`] and [`smtp`] take the pages.
//! - [`repository`] is what its agents read with tools.
//! - [`play`] plays a scenario file in virtual time, [`report`] says what came of it; [`many`] plays many
//!   seeds at once, [`record`] makes a scenario of a feed, and [`library`] has those that are shipped.
//! - [`scenario`] is the story of `backstop demo`, [`scene`] what must be seen of it, [`screen`] how it looks, [`demo`] runs it.
//!
//! Everything listens on loopback, on a port the system chooses, and ends with its handle.

pub mod script;
pub mod sample;
pub mod wire;
pub mod heard;
pub mod breakage;
pub mod play;
pub mod many;
pub mod report;
pub mod record;
pub mod library;
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
