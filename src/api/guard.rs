//! Who may come in, and what for: loopback callers, or whoever holds a token; never a web page of another site.
//!
//! Why the `Host` must be a loopback name and an `Origin` this very host is said in `visitor`. With a token any `Host`
//! will do, because no foreign page knows the token.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::visitor;

/// What callers present. Neither is ever printed.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// For everything.
    pub all: Option<SecretString>,
    /// For looking only: GET, never a change.
    pub read: Option<SecretString>,
}

/// Why a request is not let in.
#[derive(Debug)]
pub struct Refusal {
    /// What it is told.
    pub problem: Box<Problem>,
    /// Was a token presented, and a wrong one?
    pub wrong_token: bool,
}

impl Refusal {
    fn new(status: StatusCode, slug: &str, title: &str, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(status, slug, title, detail)), wrong_token: false }
    }
}

/// Is it safe to listen there? A loopback address always, another only with a token.
///
/// # Errors
/// When it is not, with what to do about it.
pub fn check_bind(listen: SocketAddr, tokens: &Tokens) -> Result<(), NeedsToken> {
    let says_something = |token: &&SecretString| !token.expose_secret().trim().is_empty();
    match (tokens.all.as_ref().filter(says_something), &tokens.read) {
        (Some(_), _) => Ok(()),
        (None, Some(_)) => Err(NeedsToken::ForChanges),
        (None, None) if listen.ip().is_loopback() => Ok(()),
        (None, None) => Err(NeedsToken::Beyond(listen)),
    }
}

/// A door that would be open to too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NeedsToken {
    /// Listening beyond this machine without a token.
    #[error(
        "{0} can be reached from other machines, and no token is set: anybody there could submit and replay tasks; set `api.token` (BACKSTOP_TOKEN), or listen on 127.0.0.1"
    )]
    Beyond(SocketAddr),
    /// Only the token for looking is set.
    #[error(
        "`api.read-token` is set and `api.token` is not: who has neither could change everything; set `api.token` (BACKSTOP_TOKEN) too"
    )]
    ForChanges,
}

/// Lets a request in or says why not.
///
/// # Errors
/// 401 without a right token, 403 for a foreign `Host` or `Origin`, and for a change with the token for looking.
pub fn admit(method: &Method, path: &str, headers: &HeaderMap, tokens: &Tokens) -> Result<(), Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    if tokens.all.is_none() && !visitor::is_loopback(host) {
        let detail =
            format!("`{host}` is not a name of this machine's loopback; use 127.0.0.1 or localhost, or set a token");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "host-not-allowed", "Host not allowed", detail));
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| !visitor::is_own_page(origin, host)) {
        let detail = format!("pages of `{origin}` may not call this API");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "origin-not-allowed", "Origin not allowed", detail));
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if site.is_some_and(visitor::is_other_site) {
        let detail = "pages of other sites may not call this API";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "origin-not-allowed", "Origin not allowed", detail));
    }
    let Some(all) = tokens.all.as_ref().filter(|_| !open_to_all(path)) else { return Ok(()) };
    let given = presented(headers);
    // Both are compared, whatever the first says.
    let (may_change, may_look) = (is(given, all), tokens.read.as_ref().is_some_and(|read| is(given, read)));
    if may_change || (may_look && method.is_safe()) {
        return Ok(());
    }
    if may_look {
        let detail = "this token is for looking only; changing anything needs the other one";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "read-only-token", "This token may only look", detail));
    }
    let detail = "send `Authorization: Bearer <token>`; the CLI takes it from BACKSTOP_TOKEN";
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "token-needed", "A token is needed", detail);
    Err(Refusal { wrong_token: !given.is_empty(), ..refusal })
}

/// Probes of orchestrators carry no token, and learn nothing but alive and ready; callbacks carry a signature instead.
pub(super) fn open_to_all(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/webhooks/pagerduty")
}

/// The token of a request; empty when it has none.
fn presented(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    match given.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        Some(_) | None => b"",
    }
}

/// Compares digests, every byte of them, so that the time it takes says nothing about how much was right.
fn is(given: &[u8], token: &SecretString) -> bool {
    let digest = |bytes: &[u8]| Sha256::digest(bytes);
    let differ =
        digest(given).iter().zip(digest(token.expose_secret().as_bytes()).iter()).fold(0, |d, (a, b)| d | (a ^ b));
    differ == 0 && !given.is_empty()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn verdict(headers: &[(&'static str, &str)], token: Option<&str>) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect();
        let tokens = Tokens { all: token.map(SecretString::from), read: token.map(|_| "l00k".into()) };
        match admit(&Method::POST, "/api/v1/tasks", &headers, &tokens) {
            Ok(()) => "in".to_owned(),
            Err(refusal) => format!("{} {}", refusal.problem.status, refusal.problem.slug()),
        }
    }

    #[test]
    fn only_loopback_names_come_in_without_a_token() {
        for (host, expected) in [
            ("127.0.0.1:7420", "in"),
            ("localhost", "in"),
            ("LOCALHOST:80", "in"),
            ("[::1]:7420", "in"),
            ("127.8.9.1", "in"),
            ("backstop.example.com:7420", "403 host-not-allowed"),
            ("localhost.evil.com", "403 host-not-allowed"),
            ("127.0.0.1.evil.com", "403 host-not-allowed"),
            ("192.168.1.7:7420", "403 host-not-allowed"),
            ("", "403 host-not-allowed"),
        ] {
            assert_eq!(verdict(&[("host", host)], None), expected, "{host}");
        }
    }

    #[test]
    fn foreign_pages_are_refused_even_on_loopback() {
        let host = ("host", "127.0.0.1:7420");
        for (header, expected) in [
            (("origin", "http://127.0.0.1:7420"), "in"),
            (("origin", "http://evil.com"), "403 origin-not-allowed"),
            (("origin", "http://127.0.0.1:8080"), "403 origin-not-allowed"),
            (("origin", "null"), "403 origin-not-allowed"),
            (("sec-fetch-site", "cross-site"), "403 origin-not-allowed"),
            (("sec-fetch-site", "same-site"), "403 origin-not-allowed"),
            (("sec-fetch-site", "same-origin"), "in"),
            (("sec-fetch-site", "none"), "in"),
        ] {
            assert_eq!(verdict(&[host, header], None), expected, "{header:?}");
        }
    }

    #[test]
    fn with_a_token_only_the_token_comes_in() {
        let host = ("host", "team.example.com");
        for (given, expected) in [
            ("Bearer s3cret", "in"),
            ("bearer s3cret", "in"),
            ("Bearer s3cre", "401 token-needed"),
            ("Bearer s3cret2", "401 token-needed"),
            ("Bearer ", "401 token-needed"),
            ("Basic s3cret", "401 token-needed"),
            ("s3cret", "401 token-needed"),
            ("Bearer l00k", "403 read-only-token"),
        ] {
            assert_eq!(verdict(&[host, ("authorization", given)], Some("s3cret")), expected, "{given}");
        }
        assert_eq!(verdict(&[host], Some("s3cret")), "401 token-needed");
        let probe = HeaderMap::new();
        assert!(admit(&Method::GET, "/livez", &probe, &tokens()).is_ok());
    }

    fn tokens() -> Tokens {
        Tokens { all: Some("s3cret".into()), read: Some("l00k".into()) }
    }

    #[test]
    fn the_token_for_looking_looks() {
        let said = |method, token: &str| {
            let value = HeaderValue::from_str(token).expect("a value");
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            admit(&method, "/api/v1/tasks", &headers, &tokens()).map_err(|refusal| refusal.wrong_token)
        };
        for (method, token, expected) in [
            (Method::GET, "Bearer l00k", Ok(())),
            (Method::HEAD, "Bearer l00k", Ok(())),
            (Method::POST, "Bearer l00k", Err(false)),
            (Method::DELETE, "Bearer l00k", Err(false)),
            (Method::POST, "Bearer s3cret", Ok(())),
            (Method::GET, "Bearer l0ok", Err(true)),
            (Method::GET, "Bearer ", Err(false)),
        ] {
            assert_eq!(said(method.clone(), token), expected, "{method} {token}");
        }
        let said = format!("{:?}", tokens());
        assert!(!said.contains("s3cret") && !said.contains("l00k"), "{said}");
    }

    #[test]
    fn listening_beyond_the_machine_needs_a_token() {
        let open: SocketAddr = "0.0.0.0:7420".parse().expect("an address");
        let loopback: SocketAddr = "[::1]:7420".parse().expect("an address");
        let with = |all: Option<&str>, read: Option<&str>| Tokens {
            all: all.map(SecretString::from),
            read: read.map(SecretString::from),
        };
        assert!(check_bind(loopback, &with(None, None)).is_ok());
        assert!(check_bind(open, &with(Some("t"), None)).is_ok());
        assert!(check_bind(open, &with(Some("t"), Some("l"))).is_ok());
        assert!(check_bind(open, &with(Some(" "), None)).is_err());
        assert_eq!(check_bind(loopback, &with(None, Some("l"))), Err(NeedsToken::ForChanges));
        let said = check_bind(open, &with(None, None)).expect_err("refused").to_string();
        assert!(said.contains("0.0.0.0:7420") && said.contains("BACKSTOP_TOKEN"), "{said}");
    }
}
