//! What a failed call of a tool means: something to tell the model, or a failure of the delivery, and of which kind.

use crate::cause::{ToolFailure, ToolFault};
use crate::failure::Kind;

/// Who can do something about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The model: it is told, and the conversation goes on.
    Model,
    /// Not the model: the delivery fails, and the usual rules apply.
    Delivery,
}

/// Whose concern a failed call is. What may have happened is never the model's: it would only ask again.
#[must_use]
pub fn concern(call: &ToolFailure) -> Concern {
    match call.fault {
        ToolFault::NotOffered
        | ToolFault::BadArguments
        | ToolFault::Refused
        | ToolFault::Gone
        | ToolFault::TooLarge
        | ToolFault::NotText
        | ToolFault::SaidNo => Concern::Model,
        ToolFault::Status => match call.status {
            Some(400 | 402 | 404..=407 | 409..=428 | 430..=499) => Concern::Model,
            Some(_) | None => Concern::Delivery,
        },
        ToolFault::Unreachable | ToolFault::Timeout | ToolFault::Died | ToolFault::Protocol => Concern::Delivery,
    }
}

/// The kind of failure it is.
#[must_use]
pub fn kind(call: &ToolFailure) -> Kind {
    if call.outcome_unknown() {
        return Kind::OutcomeUnknown;
    }
    match call.fault {
        ToolFault::NotOffered | ToolFault::BadArguments | ToolFault::Gone => Kind::BadOutput,
        ToolFault::Refused | ToolFault::SaidNo => Kind::Declined,
        ToolFault::Unreachable | ToolFault::Died => Kind::Network,
        ToolFault::Timeout => Kind::Timeout,
        ToolFault::Protocol | ToolFault::TooLarge | ToolFault::NotText => Kind::MalformedResponse,
        ToolFault::Status => match call.status {
            Some(429) => Kind::RateLimited,
            Some(401) => Kind::Auth,
            Some(403) => Kind::Permission,
            Some(408) => Kind::Timeout,
            Some(503 | 529) => Kind::Overloaded,
            Some(400..=499) => Kind::InvalidRequest,
            Some(_) | None => Kind::ServerError,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::Effect;
    use crate::time::Timestamp;
    use crate::tool::{CallClass, Repeat};

    fn call(fault: ToolFault, status: Option<u16>, repeat: Repeat, sent: bool) -> ToolFailure {
        ToolFailure {
            tool: "shop/charge".parse().expect("a tool"),
            fault,
            class: CallClass { effect: Effect::Mutation, repeat },
            sent,
            status,
            retry_after_s: None,
            detail: String::new(),
            at: Timestamp::from_millis(0),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn what_fails_is_the_models_concern_or_the_deliverys_and_of_a_kind() {
        use Concern::{Delivery, Model};
        use ToolFault::*;
        for (fault, status, repeat, sent, expected) in [
            (NotOffered, None, Repeat::Never, false, (Model, Kind::BadOutput)),
            (BadArguments, None, Repeat::Never, false, (Model, Kind::BadOutput)),
            (Refused, None, Repeat::Never, false, (Model, Kind::Declined)),
            (Gone, None, Repeat::Never, true, (Model, Kind::BadOutput)),
            (TooLarge, None, Repeat::Never, true, (Model, Kind::MalformedResponse)),
            (NotText, None, Repeat::Freely, true, (Model, Kind::MalformedResponse)),
            (SaidNo, None, Repeat::Never, true, (Model, Kind::Declined)),
            (Unreachable, None, Repeat::Never, false, (Delivery, Kind::Network)),
            (Timeout, None, Repeat::Freely, true, (Delivery, Kind::Timeout)),
            (Timeout, None, Repeat::SameKey, true, (Delivery, Kind::Timeout)),
            (Timeout, None, Repeat::Never, true, (Delivery, Kind::OutcomeUnknown)),
            (Timeout, None, Repeat::Never, false, (Delivery, Kind::Timeout)),
            (Died, None, Repeat::Freely, true, (Delivery, Kind::Network)),
            (Died, None, Repeat::Never, true, (Delivery, Kind::OutcomeUnknown)),
            (Protocol, None, Repeat::SameKey, true, (Delivery, Kind::MalformedResponse)),
            (Protocol, None, Repeat::Never, true, (Delivery, Kind::OutcomeUnknown)),
            (Status, Some(404), Repeat::Never, true, (Model, Kind::InvalidRequest)),
            (Status, Some(422), Repeat::Never, true, (Model, Kind::InvalidRequest)),
            (Status, Some(401), Repeat::Never, true, (Delivery, Kind::Auth)),
            (Status, Some(403), Repeat::Never, true, (Delivery, Kind::Permission)),
            (Status, Some(408), Repeat::Never, true, (Delivery, Kind::OutcomeUnknown)),
            (Status, Some(408), Repeat::Freely, true, (Delivery, Kind::Timeout)),
            (Status, Some(429), Repeat::Never, true, (Delivery, Kind::RateLimited)),
            (Status, Some(500), Repeat::Never, true, (Delivery, Kind::OutcomeUnknown)),
            (Status, Some(500), Repeat::Freely, true, (Delivery, Kind::ServerError)),
            (Status, Some(503), Repeat::SameKey, true, (Delivery, Kind::Overloaded)),
        ] {
            let call = call(fault, status, repeat, sent);
            assert_eq!((concern(&call), kind(&call)), expected, "{fault} {status:?} {repeat} sent {sent}");
        }
    }
}
