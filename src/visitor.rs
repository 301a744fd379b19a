//! Where a caller comes from: this machine, or a web page of somewhere else.
//!
//! A browser can be made to send requests to 127.0.0.1 by any page it shows (CSRF), and a name the attacker owns can be
//! made to resolve to 127.0.0.1 (DNS rebinding). So the `Host` must be a loopback name, and the page, when there is one,
//! must be this very host's.

use std::net::IpAddr;

/// Is this `Host` a name of this machine's loopback?
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Is this `Origin` a page of this very host?
#[must_use]
pub fn is_own_page(origin: &str, host: &str) -> bool {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host)
}

/// Does this `Sec-Fetch-Site` say that a page of another site asks?
#[must_use]
pub fn is_other_site(fetch_site: &str) -> bool {
    matches!(fetch_site, "cross-site" | "same-site")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_its_own_pages_are_at_home() {
        for (host, expected) in [
            ("127.0.0.1:7420", true),
            ("LOCALHOST", true),
            ("[::1]:7420", true),
            ("localhost.evil.com", false),
            ("192.168.1.7:7420", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
        assert!(is_own_page("http://127.0.0.1:1", "127.0.0.1:1") && !is_own_page("http://evil.com", "127.0.0.1:1"));
        assert!(!is_own_page("null", "127.0.0.1:1"));
        assert!(is_other_site("cross-site") && is_other_site("same-site") && !is_other_site("none"));
    }
}
