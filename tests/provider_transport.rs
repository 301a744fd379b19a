//! What breaks between us and a provider, and which timer ends a call.
//!
//! Timers are short where they are tested and long everywhere else: which one fired is asserted, never how fast.

use std::time::Duration;

use backstop::cause::{Fault, Phase, Usage};
use backstop::config::{ProviderConfig, Timeouts, Wire};
use backstop::llm::Progress;

use crate::provider_stubs::{
    PATIENT, SHORT, WIRES, ask, config, document, event, fail, fails, fails_once, half, serve, stops, stream,
    stream_headers,
};
use crate::support::{self, Play, Stub, chunk, chunked};

#[tokio::test]
async fn what_broke_before_anything_was_sent_is_named() {
    let refused = fail(&config(Wire::OpenAi, &support::refused_url().await)).await;
    assert_eq!((refused.fault, refused.phase, refused.sent), (Fault::Refused, Phase::Connect, false));

    let lost = fail(&config(Wire::OpenAi, "http://backstop-nowhere.invalid/v1")).await;
    assert_eq!((lost.fault, lost.phase, lost.sent), (Fault::Dns, Phase::Dns, false), "{lost:?}");

    let untrusted = fail(&config(Wire::OpenAi, &support::untrusted_tls())).await;
    assert_eq!(
        (untrusted.fault, untrusted.phase, untrusted.sent),
        (Fault::Certificate, Phase::Tls, false),
        "{untrusted:?}"
    );

    let garbage = Stub::playing(vec![Play::Send(b"this is no TLS at all\n".to_vec()), Play::Close]).await;
    let garbage = fail(&config(Wire::OpenAi, &garbage.https())).await;
    assert_eq!((garbage.fault, garbage.phase, garbage.sent), (Fault::Tls, Phase::Tls, false), "{garbage:?}");

    let closed = Stub::playing(vec![Play::Close]).await;
    let closed = fail(&config(Wire::OpenAi, &closed.https())).await;
    assert!(matches!(closed.fault, Fault::Eof | Fault::Reset), "{closed:?}");
    assert_eq!((closed.phase, closed.sent), (Phase::Tls, false));

    for failure in [refused, lost, untrusted, garbage, closed] {
        assert_eq!((failure.status, failure.usage), (None, Usage::default()));
        assert!(!failure.detail.is_empty() && !failure.detail.contains("/chat/completions"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_connection_lost_before_the_headers_was_sent_all_the_same() {
    for (play, expected) in [(Play::Reset, &[Fault::Reset, Fault::Eof][..]), (Play::Close, &[Fault::Eof])] {
        for wire in WIRES {
            let failure = fails(wire, vec![play.clone()], PATIENT).await;
            assert!(expected.contains(&failure.fault), "{failure:?}");
            assert_eq!((failure.phase, failure.status), (Phase::Headers, None));
        }
    }
}

#[tokio::test]
async fn a_connection_lost_in_the_body_keeps_what_came() {
    for wire in WIRES {
        for ending in [Play::Reset, Play::Close] {
            let failure = fails(wire, stream(wire, &half(wire), &[ending]), PATIENT).await;
            assert!(matches!(failure.fault, Fault::Reset | Fault::Eof), "{wire:?} {failure:?}");
            assert_eq!((failure.phase, failure.status, failure.partial.as_str()), (Phase::Stream, Some(200), "Half"));
        }
        let whole = document(wire, "text", stops(wire).0);
        let short = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            whole.len(),
            &whole[..20]
        );
        let failure = fails(wire, vec![Play::Send(short.into_bytes()), Play::Close], PATIENT).await;
        assert_eq!((failure.fault, failure.phase), (Fault::Eof, Phase::Body), "{wire:?} {failure:?}");
    }
}

#[tokio::test]
async fn each_timer_ends_the_call_with_its_own_reason() {
    let pings = |wire| match wire {
        Wire::Anthropic => event(wire, Some("ping"), r#"{"type":"ping"}"#),
        Wire::OpenAi | Wire::Responses | Wire::Gemini => event(wire, Some(":"), " keep-alive"),
        Wire::Ollama => "\n".to_owned(),
    };
    for wire in WIRES {
        let begun = stream(wire, &half(wire), &[]);
        let hang = |mut plays: Vec<Play>| {
            plays.push(Play::Hang);
            plays
        };
        let flood = |mut plays: Vec<Play>| {
            plays.push(Play::Flood(chunk(&pings(wire))));
            plays
        };
        let headers = vec![Play::Send(chunked(200, stream_headers(wire)))];
        let first_content = Timeouts { first_content: SHORT, ..PATIENT };
        let idle = Timeouts { idle: SHORT, ..PATIENT };
        // Long enough for the headers to come on a busy machine.
        let total = Timeouts { total: Duration::from_secs(2), ..PATIENT };
        // Content in time for the idle timer, but without end.
        let mut busy = headers.clone();
        busy.push(Play::Flood(chunk(half(wire).last().expect("an event"))));
        let mut calls = Vec::new();
        for (plays, timeouts, timer, phase) in [
            (vec![Play::Hang], Timeouts { first_byte: SHORT, ..PATIENT }, "first byte timeout", Phase::Headers),
            (vec![Play::Hang], total, "total timeout", Phase::Headers),
            (hang(headers.clone()), first_content, "first content timeout", Phase::Stream),
            // Pings are no content, however many.
            (flood(headers.clone()), first_content, "first content timeout", Phase::Stream),
            (hang(headers), total, "total timeout", Phase::Stream),
            (hang(begun.clone()), idle, "idle timeout", Phase::Stream),
            (flood(begun.clone()), idle, "idle timeout", Phase::Stream),
            (busy, total, "total timeout", Phase::Stream),
            (hang(begun), total, "total timeout", Phase::Stream),
        ] {
            // Made beforehand: it takes a while, and no clock runs yet.
            let served = serve(wire, plays, timeouts).await;
            calls.push(async move {
                let failure = fails_once(served).await;
                assert_eq!((failure.fault, failure.phase), (Fault::Timeout, phase), "{wire:?} {timer}: {failure:?}");
                assert!(failure.detail.starts_with(timer), "{wire:?}: {} instead of {timer}", failure.detail);
                assert!(failure.elapsed >= SHORT);
            });
        }
        // Together, or the test would take as long as all its timers.
        futures_util::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn a_connection_that_does_not_come_to_stand_is_the_connect_timers() {
    // The handshake is a part of connecting, and this peer never answers it.
    let stub = Stub::playing(vec![Play::Hang]).await;
    let connect = Timeouts { connect: SHORT, ..PATIENT };
    let failure = fail(&ProviderConfig { timeouts: connect, ..config(Wire::OpenAi, &stub.https()) }).await;
    assert_eq!((failure.fault, failure.phase, failure.sent), (Fault::Timeout, Phase::Connect, false));
    assert!(failure.detail.starts_with("connect timeout: no connection within 200ms"), "{}", failure.detail);

    let total = Timeouts { total: SHORT, ..PATIENT };
    let failure = fail(&ProviderConfig { timeouts: total, ..config(Wire::OpenAi, &stub.https()) }).await;
    assert_eq!((failure.fault, failure.phase, failure.sent), (Fault::Timeout, Phase::Connect, false));
    assert!(failure.detail.starts_with("total timeout"), "{}", failure.detail);

    // The first-byte timer does not run before the connection stands.
    let both = Timeouts { connect: SHORT, first_byte: Duration::from_millis(1), ..PATIENT };
    let failure = fail(&ProviderConfig { timeouts: both, ..config(Wire::OpenAi, &stub.https()) }).await;
    assert!(failure.detail.starts_with("connect timeout"), "{}", failure.detail);
}

#[tokio::test]
async fn what_is_no_http_is_the_transports() {
    let failure =
        fails(Wire::OpenAi, vec![Play::Send(b"220 mail.example.com ESMTP\r\n".to_vec()), Play::Close], PATIENT).await;
    assert_eq!((failure.fault, failure.phase, failure.status), (Fault::Transport, Phase::Headers, None), "{failure:?}");
}

#[tokio::test]
async fn a_dropped_call_hangs_up() {
    let stub = Stub::playing(stream(Wire::OpenAi, &half(Wire::OpenAi), &[Play::Hang])).await;
    let (config, progress) = (config(Wire::OpenAi, &stub.url()), Progress::default());
    tokio::select! {
        outcome = ask("stub", &config, &progress) => panic!("it hangs: {outcome:?}"),
        () = stub.next_request() => {}
    }
    stub.next_hang_up().await;
    assert_eq!(stub.heard().len(), 1);
}
