//! What a fault of a scenario looks like on the wire: the same words in the simulation and on the outage server.

use std::time::Duration;

use super::heard::Incoming;
use super::script::{Asked, Behaviour};
use super::wire::{self, Draw};
use crate::config::Wire;
use crate::scenario::{Fault, FaultKind};

/// A refusal of a request, as its vendor words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOnTheWire {
    /// The status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// The refusal that a fault of a status shows on this wire.
#[must_use]
pub fn refused(fault: &Fault, left: Duration, wire: Wire, model: &str) -> RefusedOnTheWire {
    let behaviour = match fault.kind {
        FaultKind::RateLimited => Behaviour::RateLimited { retry_after: fault.retry_after.or(Some(left)) },
        FaultKind::Overloaded => Behaviour::Overloaded,
        FaultKind::Quota => Behaviour::OutOfCredit,
        FaultKind::RevokedKey => Behaviour::Unauthorized,
        FaultKind::ModelRetired => Behaviour::NoSuchModel,
        FaultKind::TooLong => Behaviour::TooLong,
        _ => Behaviour::ServerError,
    };
    let out = wire::write(&asked(wire, model), &behaviour, DRAW);
    RefusedOnTheWire {
        status: out.status,
        headers: out.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        body: out.pieces.concat(),
    }
}

/// The data of the error event that ends a stream on this wire.
#[must_use]
pub fn error_event(wire: Wire) -> String {
    let out = wire::write(&asked(wire, "model"), &Behaviour::ErrorMidStream, DRAW);
    let last = out.pieces.last().cloned().unwrap_or_default();
    let data = last.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&last);
    data.to_owned()
}

/// Bodies of a simulation need no ids of their own.
const DRAW: Draw = Draw { dice: 1, words: 1, created: 1_769_990_400 };

fn asked(wire: Wire, model: &str) -> Incoming {
    Incoming {
        asked: Asked {
            wire,
            model: model.to_owned(),
            prompt: String::new(),
            last: String::new(),
            turns: 0,
            tools: Vec::new(),
            stream: true,
        },
        schema: None,
        usage_chunk: false,
    }
}
