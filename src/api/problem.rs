//! What the door says when it will not: one problem document (RFC 9457) for every error.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::engine;
use crate::error_chain::in_full;
use crate::ledger::Refused;
use crate::task::TaskError;
use crate::team::desk::{DeskError, FieldProblem};

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
const PAGES: &str = "https://backstop.dev/problems/";

/// An error as a document that programs and people can read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind of problem: a page that explains it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time, and what to do.
    pub detail: String,
    /// The path that was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Pointed>,
    /// When to come back, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointed {
    /// Where: a JSON pointer into the body, or the name of a query parameter.
    pub pointer: String,
    /// What is wrong with it and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem of one kind.
    #[must_use]
    pub fn new(status: StatusCode, slug: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{PAGES}{slug}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    /// The request is wrong, in these places.
    #[must_use]
    pub fn invalid(errors: Vec<Pointed>) -> Self {
        let detail = errors.iter().map(|error| format!("{}: {}", error.pointer, error.detail)).collect::<Vec<_>>();
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, "invalid-request", "The request is not valid", detail.join("; "));
        problem.errors = errors;
        problem
    }

    /// Too many wrong tokens came from there.
    #[must_use]
    pub fn guessed_too_often(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = format!("too many wrong tokens came from this address; it is heard again in {seconds} s");
        let mut problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "guessed-too-often", "Too many wrong tokens", detail);
        problem.retry_after_s = Some(seconds);
        problem
    }

    /// Nothing of that name.
    #[must_use]
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", format!("there is no {what} `{name}`"))
    }

    /// The last word of its type: `payment-needs-person`.
    #[must_use]
    pub fn slug(&self) -> &str {
        self.kind.strip_prefix(PAGES).unwrap_or(&self.kind)
    }

    /// Was it a rule that said no, rather than a mistake or a fault?
    #[must_use]
    pub fn by_policy(&self) -> bool {
        matches!(
            self.slug(),
            "payment-needs-person"
                | "person-needed"
                | "refused-by-policy"
                | "decisions-used-up"
                | "same-decision-again"
                | "replays-used-up"
        )
    }

    const fn after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl From<FieldProblem> for Pointed {
    fn from(problem: FieldProblem) -> Self {
        Self { pointer: problem.field, detail: problem.message }
    }
}

impl From<DeskError> for Problem {
    fn from(error: DeskError) -> Self {
        let said = error.to_string();
        match error {
            DeskError::Invalid(fields) => Self::invalid(fields.into_iter().map(Pointed::from).collect()),
            DeskError::NotFound { what, name } => Self::not_found(what, &name),
            DeskError::Policy(why) => Self::new(StatusCode::CONFLICT, "refused-by-policy", "Refused by policy", why),
            DeskError::Draining => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "The team is draining", said).after(30)
            }
            DeskError::Task(TaskError::PayloadTooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", said)
            }
            DeskError::Task(error) => Self::from(error),
            DeskError::Engine(error) => Self::from(error),
        }
    }
}

impl From<TaskError> for Problem {
    fn from(error: TaskError) -> Self {
        let detail = error.to_string();
        let pointer = match error {
            TaskError::NotAnId(_) => "/id".to_owned(),
            TaskError::BadKey(_) => "/idempotency_key".to_owned(),
            TaskError::BadName { field, .. } | TaskError::UnknownWord { field, .. } => {
                format!("/{}", field.replace(' ', "_"))
            }
            TaskError::PayloadTooLarge { .. } => "/payload".to_owned(),
        };
        Self::invalid(vec![Pointed { pointer, detail }])
    }
}

impl From<engine::Error> for Problem {
    fn from(error: engine::Error) -> Self {
        use engine::Error as E;
        let said = error.to_string();
        // What the system said is the half an operator needs: the disk is full, or the disk is broken.
        let whole = in_full(&error);
        let conflict = |slug, title| Self::new(StatusCode::CONFLICT, slug, title, said.clone());
        match error {
            E::Refused(refused) => Self::from(refused),
            E::NoTask(id) => Self::not_found("task", &id.to_string()),
            E::KeyConflict { .. } => conflict("idempotency-key-conflict", "The key names another task"),
            E::SameId(_) | E::DocumentConflict { .. } => conflict("changed-meanwhile", "Changed meanwhile"),
            E::BadCursor(_) => Self::invalid(vec![Pointed { pointer: "after".to_owned(), detail: said }]),
            E::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "The team has stopped", said).after(30),
            E::InUse { .. } | E::NewerFormat { .. } | E::NotAStore { .. } | E::Unreadable { .. } | E::Io { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed a request");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store-failed", "The store failed", whole)
            }
            E::Full { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "the store has no room for a request");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "No room is left", whole).after(5)
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let (status, slug, title) = match refused {
            Refused::PaymentNeedsPerson => (StatusCode::FORBIDDEN, "payment-needs-person", "A payment needs a person"),
            Refused::OnlyPerson(_) => (StatusCode::FORBIDDEN, "person-needed", "Only a person may decide this"),
            Refused::DecisionsUsedUp => (StatusCode::CONFLICT, "decisions-used-up", "No decisions left"),
            Refused::SameDecisionAgain => (StatusCode::CONFLICT, "same-decision-again", "Decided before"),
            Refused::ReplaysUsedUp => (StatusCode::CONFLICT, "replays-used-up", "No replays left"),
            Refused::NoStep { .. } => (StatusCode::NOT_FOUND, "not-found", "No such step"),
            Refused::Concluded { .. } => (StatusCode::CONFLICT, "outcome-known", "The outcome is known"),
            Refused::Stale { .. }
            | Refused::PastDeadline { .. }
            | Refused::WrongState { .. }
            | Refused::NotDue { .. }
            | Refused::Changed
            | Refused::OtherRound { .. } => {
                (StatusCode::CONFLICT, "wrong-state", "The task is not in a state for this")
            }
        };
        Self::new(status, slug, title, refused.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"backstop\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_status_and_page() {
        for (error, status, slug, by_policy) in [
            (DeskError::Policy("no".to_owned()), 409, "refused-by-policy", true),
            (DeskError::Draining, 503, "draining", false),
            (DeskError::NotFound { what: "incident", name: "INC-9".to_owned() }, 404, "not-found", false),
            (DeskError::Engine(engine::Error::Refused(Refused::PaymentNeedsPerson)), 403, "payment-needs-person", true),
            (DeskError::Engine(engine::Error::Refused(Refused::ReplaysUsedUp)), 409, "replays-used-up", true),
            (
                DeskError::Engine(engine::Error::Refused(Refused::OtherRound { said: 1, current: 2 })),
                409,
                "wrong-state",
                false,
            ),
            (DeskError::Engine(failed()), 500, "store-failed", false),
            (DeskError::Engine(full()), 507, "storage-full", false),
            (DeskError::Engine(engine::Error::BadCursor("x".to_owned())), 400, "invalid-request", false),
            (DeskError::Task(TaskError::PayloadTooLarge { size: 2, limit: 1 }), 413, "too-large", false),
            (DeskError::Task(TaskError::BadKey("must not be empty")), 400, "invalid-request", false),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.status, problem.slug(), problem.by_policy()), (status, slug, by_policy));
        }
    }

    fn failed() -> engine::Error {
        let source = Box::new(std::io::Error::other("disk I/O error"));
        engine::Error::Io { path: "data/backstop.db".to_owned(), doing: "write", source }
    }

    fn full() -> engine::Error {
        let source = Box::new(std::io::Error::other("database or disk is full"));
        engine::Error::Full { path: "data/backstop.db".to_owned(), source }
    }

    /// A client was once told that "the store failed to write" and nothing else, whether the disk was full or broken:
    /// what the system had said stood in the log only.
    #[test]
    fn a_refusal_of_the_store_says_why() {
        assert_eq!(Problem::from(failed()).detail, "the store at data/backstop.db failed to write: disk I/O error");
        let full = Problem::from(full());
        assert_eq!(
            full.detail,
            "no room is left for the store at data/backstop.db; nothing was written, and work goes on once there is \
             room: database or disk is full"
        );
        assert_eq!(full.retry_after_s, Some(5));
    }

    #[test]
    fn draining_says_when_to_come_back() {
        let response = Problem::from(DeskError::Draining).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "30");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
    }
}
