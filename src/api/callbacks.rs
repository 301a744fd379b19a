//! What other systems tell back: who acknowledged or resolved an incident in PagerDuty.

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::input::Input;
use super::problem::Problem;
use super::{Answer, Door, json};
use crate::callback::Unheard;

/// Signed, so no token is asked for. Whatever is understood is 202, acted on or not: see [`crate::callback`].
pub(super) async fn pagerduty(State(door): State<Door>, input: Input) -> Answer {
    let signature =
        input.headers.get("x-pagerduty-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match door.desk.pagerduty_said(signature, input.raw()).await? {
        Ok(said) => json(StatusCode::ACCEPTED, &json!({ "taken": said.is_none(), "why": said })),
        Err(unheard) => {
            let (status, slug) = match unheard {
                Unheard::Unsigned => (StatusCode::BAD_REQUEST, "not-signed"),
                Unheard::Forged => (StatusCode::FORBIDDEN, "wrong-signature"),
                Unheard::Unreadable => (StatusCode::BAD_REQUEST, "not-an-event"),
            };
            Err(Problem::new(status, slug, "Not listened to", unheard.to_string()))
        }
    }
}
