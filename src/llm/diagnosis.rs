//! What broke on the way: reads the error of the HTTP client.
//!
//! It takes four sources of truth. The client's own flags know timeouts, connecting and DNS; the chain of sources holds
//! an [`io::ErrorKind`]; rustls tells a bad certificate from a failed handshake; and that the peer closed early is only
//! in the words of the HTTP library.

use std::error::Error as StdError;
use std::io;

use super::wire::Trouble;
use crate::cause::{Fault, Phase};

/// What an error before the headers means. `https`: was encryption to be agreed on?
pub(super) fn before_headers(error: reqwest::Error, https: bool) -> Trouble {
    let error = error.without_url();
    let connecting = error.is_connect();
    let seen = Seen::of(&error);
    let detail = seen.words.clone();
    let (phase, fault) = if error.is_builder() {
        (Phase::Connect, Fault::InvalidUrl)
    } else if error.is_dns() {
        (Phase::Dns, Fault::Dns)
    } else if connecting && error.is_timeout() {
        (Phase::Connect, Fault::Timeout)
    } else if connecting && seen.proxy_auth {
        (Phase::Connect, Fault::ProxyAuth)
    } else {
        let fault = seen.fault();
        let shaking_hands = match fault {
            Fault::Tls | Fault::Certificate => true,
            Fault::Refused | Fault::Timeout | Fault::Transport => false,
            // The connection stood, or it would have been refused: it broke while encryption was agreed on.
            Fault::Reset | Fault::Eof => connecting && https,
            // None of these comes from reading an error chain.
            Fault::Dns
            | Fault::ProxyAuth
            | Fault::InvalidUrl
            | Fault::Status
            | Fault::ErrorEvent
            | Fault::ErrorBody
            | Fault::Truncated
            | Fault::Malformed
            | Fault::Stop
            | Fault::Cancelled => false,
        };
        let phase = match (shaking_hands, connecting) {
            (true, _) => Phase::Tls,
            (false, true) => Phase::Connect,
            (false, false) => Phase::Headers,
        };
        (phase, fault)
    };
    Trouble::new(phase, fault, detail)
}

/// What an error while reading the body means. `phase` is [`Phase::Stream`] or [`Phase::Body`].
pub(super) fn in_body(error: reqwest::Error, phase: Phase) -> Trouble {
    let seen = Seen::of(&error.without_url());
    Trouble::new(phase, seen.fault(), seen.words)
}

/// What the chain of sources says.
#[derive(Debug, Default)]
struct Seen {
    kind: Option<io::ErrorKind>,
    certificate: bool,
    tls: bool,
    cut: bool,
    proxy_auth: bool,
    words: String,
}

impl Seen {
    fn of(error: &reqwest::Error) -> Self {
        let mut seen = Self::default();
        let mut parts: Vec<String> = Vec::new();
        // The outermost text says only that sending failed.
        let mut next = error.source();
        while let Some(error) = next {
            seen.look(error);
            let text = error.to_string();
            // Wrappers often repeat what they wrap.
            if !parts.iter().any(|part| part.contains(&text)) {
                parts.push(text);
            }
            next = below(error);
        }
        seen.words = if parts.is_empty() { error.to_string() } else { parts.join(": ") };
        seen
    }

    fn look(&mut self, error: &(dyn StdError + 'static)) {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            self.kind = Some(error.kind());
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            self.tls = true;
            self.certificate |= matches!(error, rustls::Error::InvalidCertificate(_));
        }
        let text = error.to_string();
        self.certificate |= text.contains("invalid peer certificate");
        self.cut |= text.contains("connection closed before message completed")
            || text.contains("end of file before message length reached")
            || text.contains("unexpected EOF");
        self.proxy_auth |= text.contains("proxy authorization required") || text.contains("407 Proxy");
    }

    fn fault(&self) -> Fault {
        if self.certificate {
            return Fault::Certificate;
        }
        if self.tls {
            return Fault::Tls;
        }
        match self.kind {
            Some(io::ErrorKind::ConnectionRefused) => Fault::Refused,
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe) => {
                Fault::Reset
            }
            Some(io::ErrorKind::UnexpectedEof) => Fault::Eof,
            Some(io::ErrorKind::TimedOut) => Fault::Timeout,
            Some(_) | None if self.cut => Fault::Eof,
            // An HTTP/2 peer that gives up a stream or the connection says so in a frame.
            Some(_) | None if self.words_say_reset() => Fault::Reset,
            Some(_) | None => Fault::Transport,
        }
    }

    fn words_say_reset(&self) -> bool {
        self.words.contains("stream error received")
            || self.words.contains("GOAWAY")
            || self.words.contains("connection reset")
    }
}

/// The next error down. An `io::Error` hides what it wraps from `source()`.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
