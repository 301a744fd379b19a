//! Who may come in: loopback callers, or whoever holds the token; never a web page of another site.
//!
//! Why the `Host` must be a loopback name and an `Origin` this very host is said in `visitor`. With a token any `Host`
//! will do, because no foreign page knows the token.

use std::net::SocketAddr;

use axum::http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::visitor;

/// Is it safe to listen there? A loopback address always, another only with a token.
///
/// # Errors
/// When it is not, with what to do about it.
pub fn check_bind(listen: SocketAddr, token: Option<&SecretString>) -> Result<(), NeedsToken> {
    let has_token = token.is_some_and(|token| !token.expose_secret().trim().is_empty());
    if listen.ip().is_loopback() || has_token { Ok(()) } else { Err(NeedsToken(listen)) }
}

/// Listening beyond this machine without a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and no token is set: anybody there could submit and replay tasks; set `api.token` (BACKSTOP_TOKEN), or listen on 127.0.0.1"
)]
pub struct NeedsToken(SocketAddr);

/// Lets a request in or says why not.
///
/// # Errors
/// 401 without the right token, 403 for a foreign `Host` or `Origin`.
pub fn admit(path: &str, headers: &HeaderMap, token: Option<&SecretString>) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    if token.is_none() && !visitor::is_loopback(host) {
        let detail =
            format!("`{host}` is not a name of this machine's loopback; use 127.0.0.1 or localhost, or set a token");
        return Err(Problem::new(StatusCode::FORBIDDEN, "host-not-allowed", "Host not allowed", detail));
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| !visitor::is_own_page(origin, host)) {
        let detail = format!("pages of `{origin}` may not call this API");
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin-not-allowed", "Origin not allowed", detail));
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if site.is_some_and(visitor::is_other_site) {
        let detail = "pages of other sites may not call this API";
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin-not-allowed", "Origin not allowed", detail));
    }
    match token {
        Some(token) if !open_to_all(path) && !presents(headers, token) => {
            let detail = "send `Authorization: Bearer <token>`; the CLI takes it from BACKSTOP_TOKEN";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "token-needed", "A token is needed", detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// Probes of orchestrators carry no token, and learn nothing but alive and ready.
fn open_to_all(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz")
}

/// Compares digests, every byte of them, so that the time it takes says nothing about how much was right.
fn presents(headers: &HeaderMap, token: &SecretString) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = match given.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        Some(_) | None => b"",
    };
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
        let token = token.map(SecretString::from);
        match admit("/api/v1/tasks", &headers, token.as_ref()) {
            Ok(()) => "in".to_owned(),
            Err(problem) => format!("{} {}", problem.status, problem.slug()),
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
        ] {
            assert_eq!(verdict(&[host, ("authorization", given)], Some("s3cret")), expected, "{given}");
        }
        assert_eq!(verdict(&[host], Some("s3cret")), "401 token-needed");
        let probe = HeaderMap::new();
        assert!(admit("/livez", &probe, Some(&SecretString::from("s3cret"))).is_ok());
    }

    #[test]
    fn listening_beyond_the_machine_needs_a_token() {
        let open: SocketAddr = "0.0.0.0:7420".parse().expect("an address");
        let loopback: SocketAddr = "[::1]:7420".parse().expect("an address");
        assert!(check_bind(loopback, None).is_ok());
        assert!(check_bind(open, Some(&SecretString::from("t"))).is_ok());
        assert!(check_bind(open, Some(&SecretString::from(" "))).is_err());
        let said = check_bind(open, None).expect_err("refused").to_string();
        assert!(said.contains("0.0.0.0:7420") && said.contains("BACKSTOP_TOKEN"), "{said}");
    }
}
