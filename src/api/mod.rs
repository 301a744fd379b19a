//! The operator's door: the team over HTTP, as JSON, for the command line, dashboards and programs.
//!
//! Every handler is three lines: read the request strictly, ask the [`Desk`], answer as JSON. Nothing here decides
//! about tasks. Errors are problem documents ([`problem`]), callers are admitted by [`guard`].

#![allow(
    clippy::result_large_err,
    reason = "a problem document is made once per refused request; a box would save nothing"
)]

pub mod filter;
pub mod groups;
pub mod guard;
pub mod input;
pub mod problem;
pub mod status;
mod letters;
mod people;
mod stream;
mod tasks;
mod team;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::team::desk::Desk;
use crate::team::metrics::Metrics;
pub use letters::Groups;
use problem::Problem;

/// What a handler needs: the team, its counters, and whether the server is about to stop.
#[derive(Clone)]
struct Door {
    desk: Desk,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
}

/// An answer, or the problem document that stands for it.
type Answer = Result<Response, Problem>;

/// Why the door could not be opened, or fell shut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Listening beyond this machine without a token.
    #[error(transparent)]
    NeedsToken(#[from] guard::NeedsToken),
    /// The socket failed.
    #[error("the API's socket failed")]
    Socket(#[from] std::io::Error),
}

/// Serves the API on `listener` until `shutdown` ends; then open event streams end, running requests are answered,
/// and this returns.
///
/// # Errors
/// When the listener can be reached from other machines and there is no token, or when the socket fails.
pub async fn serve(
    desk: Desk,
    listener: TcpListener,
    token: Option<SecretString>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    guard::check_bind(listener.local_addr()?, token.as_ref())?;
    let stopping = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let counting = tokio::spawn(Arc::clone(&metrics).follow(desk.clone(), stopping.clone()));
    let app = guarded(routes(Door { desk, metrics, stopping: stopping.clone() }), token);
    let signal = {
        let stopping = stopping.clone();
        async move {
            shutdown.await;
            stopping.cancel();
        }
    };
    let served = axum::serve(listener, app).with_graceful_shutdown(signal).await;
    stopping.cancel();
    if let Err(error) = counting.await {
        tracing::error!(%error, "counting events ended badly");
    }
    Ok(served?)
}

/// Puts the guard and the problem documents around any routes.
fn guarded(routes: Router, token: Option<SecretString>) -> Router {
    routes
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", "there is nothing here") })
        .layer(middleware::from_fn_with_state(token, admit))
        .layer(middleware::from_fn(finish))
}

fn routes(door: Door) -> Router {
    let v1 = Router::new()
        .route("/tasks", get(tasks::list).post(tasks::submit))
        .route("/tasks/{id}", get(tasks::show))
        .route("/tasks/{id}/cancel", post(tasks::cancel))
        .route("/tasks/{id}/events", get(tasks::history))
        .route("/tasks/{id}/journal", get(tasks::journal))
        .route("/tasks/{id}/outcome", post(tasks::outcome))
        .route("/tasks/{id}/why", get(tasks::why))
        .route("/dead-letters", get(letters::list))
        .route("/dead-letters/groups", get(letters::groups))
        .route("/dead-letters/{id}", get(letters::show))
        .route("/dead-letters/{id}/decide", post(letters::decide))
        .route("/dead-letters/{id}/discard", post(letters::discard))
        .route("/decisions", get(letters::decisions))
        .route("/replays", get(letters::replays).post(letters::start_replay))
        .route("/replays/{id}", get(letters::replay))
        .route("/replays/{id}/{verb}", post(letters::steer_replay))
        .route("/incidents", get(people::incidents))
        .route("/incidents/{id}", get(people::incident))
        .route("/incidents/{id}/acknowledge", post(people::acknowledge))
        .route("/incidents/{id}/override", post(people::override_all))
        .route("/incidents/{id}/resolve", post(people::resolve))
        .route("/page-test", post(people::page_test))
        .route("/agents", get(team::agents))
        .route("/agents/{name}", get(team::agent))
        .route("/breakers", get(team::breakers))
        .route("/breakers/{integration}/open", post(team::open_breaker))
        .route("/breakers/{integration}/close", post(team::close_breaker))
        .route("/events", get(team::events))
        .route("/explain", get(team::explain))
        .route("/balance", get(team::balance))
        .route("/prune", post(team::prune))
        .route("/status", get(team::status));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(team::metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(team::readyz))
        .route("/healthz", get(team::readyz))
        .with_state(door)
}

async fn admit(State(token): State<Option<SecretString>>, request: Request, next: Next) -> Response {
    match guard::admit(request.uri().path(), request.headers(), token.as_ref()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The last hand on every answer: errors name the path they are about and are problem documents, whoever made them.
async fn finish(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let problem = response.extensions_mut().remove::<Problem>();
        if let Some(mut problem) = problem.or_else(|| stray(status, &response)) {
            let kept = std::mem::take(response.headers_mut());
            problem.instance = path;
            response = problem.into_response();
            for (name, value) in &kept {
                if *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE {
                    response.headers_mut().insert(name, value.clone());
                }
            }
        }
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An error of the HTTP layer itself: a method that a path does not have, a path that is not UTF-8.
fn stray(status: StatusCode, response: &Response) -> Option<Problem> {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if kind.starts_with("application/json") {
        return None;
    }
    let reason = status.canonical_reason().unwrap_or("Error");
    let allow = response.headers().get(header::ALLOW).and_then(|value| value.to_str().ok());
    let detail = match allow {
        Some(allow) => format!("this path takes {allow}"),
        None => reason.to_owned(),
    };
    Some(Problem::new(status, &reason.to_lowercase().replace(' ', "-"), reason, detail))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    Ok((status, axum::Json(value)).into_response())
}

fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

/// A listing that is not paged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Items<T> {
    /// All of it.
    pub items: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guard and the error documents around two small routes, on a loopback port.
    async fn door() -> (String, reqwest::Client) {
        let inner = Router::new()
            .route("/echo", post(|input: input::Input| async move { input.object().map(axum::Json) }))
            .route("/named/{name}", get(|axum::extract::Path(name): axum::extract::Path<String>| async move { name }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, guarded(inner, None)).await });
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        (url, reqwest::Client::new())
    }

    #[tokio::test]
    async fn every_error_is_a_problem_document() {
        let json = Some("application/json");
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(input::BODY_LIMIT));
        let (url, client) = door().await;
        let ask = async |method: &str, path: &str, body: &str, kind: Option<&str>| {
            let method = method.parse().expect("a method");
            let mut request = client.request(method, format!("{url}{path}")).body(body.to_owned());
            if let Some(kind) = kind {
                request = request.header(header::CONTENT_TYPE, kind);
            }
            request.send().await.expect("an answer")
        };
        for (method, path, body, kind, status, slug) in [
            ("GET", "/nowhere", "", None, 404, "not-found"),
            ("GET", "/echo", "", None, 405, "method-not-allowed"),
            ("POST", "/echo", "{}", Some("text/plain"), 415, "not-json"),
            ("POST", "/echo", "{}", None, 415, "not-json"),
            ("POST", "/echo", "{", json, 400, "malformed-json"),
            ("POST", "/echo", &large, json, 413, "too-large"),
            ("GET", "/named/%ff", "", None, 400, "bad-request"),
        ] {
            let response = ask(method, path, body, kind).await;
            assert_eq!(response.status().as_u16(), status, "{method} {path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], problem::PROBLEM_JSON);
            if status == 405 {
                assert_eq!(response.headers()[header::ALLOW], "POST");
            }
            let problem: Problem = response.json().await.expect("a problem");
            assert_eq!((problem.status, problem.slug()), (status, slug), "{problem:?}");
            assert_eq!(problem.instance, path);
        }
        assert_eq!(ask("POST", "/echo", "", None).await.status(), StatusCode::OK);
        let charset = ask("POST", "/echo", "{}", Some("application/json; charset=utf-8")).await;
        assert_eq!(charset.status(), StatusCode::OK);
    }
}
