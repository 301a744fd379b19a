//! The socket of the door: how many may stand in it, and for how long without saying what they want.
//!
//! Why not `axum::serve`: it lets in as many connections as there are file descriptors and waits for ever for the head
//! of a request, so anybody who reaches the port could keep the operator out and the store from opening its file.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// The most connections at a time; more wait in the system's queue (`abuse.jsonl` AB-088). An operator, a few
/// dashboards and event streams need a dozen; each takes a file descriptor, of which 1,024 are usual.
const CONNECTIONS_MAX: usize = 512;
/// How long the head of a request may take, and so how long a connection may idle: longer than clients keep a pool.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of a head (`nginx` takes 32 KiB); more is refused with 431, as are more than a hundred headers.
const HEAD_MAX: usize = 64 * 1024;
/// How long answers may take to be read once the door closes.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
/// After an accept that failed for want of something (file descriptors, memory).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Who stands at the other end, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves until it is told to stop, then lets running requests be answered.
pub(super) async fn serve(listener: TcpListener, app: Router, stopping: CancellationToken) {
    serve_so_many(listener, app, stopping, CONNECTIONS_MAX).await;
}

async fn serve_so_many(listener: TcpListener, app: Router, stopping: CancellationToken, most: usize) {
    let room = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            next = next => next,
        };
        // Nobody closes the semaphore.
        let Ok(permit) = permit else { break };
        match accepted {
            Ok((stream, from)) => {
                connections.spawn(connection(stream, from, app.clone(), stopping.clone(), permit));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSING_PATIENCE, ended).await.is_err() {
        tracing::debug!(left = connections.len(), "answers nobody reads are cut off");
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    app: Router,
    stopping: CancellationToken,
    _room: OwnedSemaphorePermit,
) {
    // Small answers, one at a time: nothing is gained by waiting for more. Without it they are late, not wrong.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(from.ip()));
        let mut app = app.clone();
        async move { Ok::<_, Infallible>(app.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_MAX);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %from, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
        let mut said = [0; 15];
        stream.read_exact(&mut said).await.expect("an answer");
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_only_so_many_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, app) = (CancellationToken::new(), Router::new().route("/", get(|| async { "in" })));
        let serving = tokio::spawn(serve_so_many(listener, app, stop.clone(), 3));
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            assert_eq!(ask(&mut stream).await, "HTTP/1.1 200 OK");
            streams.push(stream);
        }
        let mut fourth = TcpStream::connect(address).await.expect("in the queue of the system");
        {
            let mut waits = std::pin::pin!(ask(&mut fourth));
            // Another round of the three shows that the door has had its turn, and the fourth still waits.
            for stream in &mut streams {
                let mut rest = [0; 1_024];
                let _ = stream.read(&mut rest).await.expect("the rest of the answer");
                assert_eq!(ask(stream).await, "HTTP/1.1 200 OK");
                assert!(futures_util::poll!(waits.as_mut()).is_pending(), "there is room for three");
            }
            drop(streams.pop());
            assert_eq!(waits.await, "HTTP/1.1 200 OK");
        }
        stop.cancel();
        serving.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_waited_for_half_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Router::new(), stop.clone()));
        let before = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.expect("sent");
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert!(before.elapsed() >= HEAD_PATIENCE, "{:?}", before.elapsed());
        stop.cancel();
        serving.await.expect("no panic");
    }
}
