//! A server, seen by a client that sends the frames that a test wants.

use std::future::pending;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::http::{Body, Handler, Request, Response};
use portway_testkit::engine::{Answering, drained};

use crate::peer::{DATA, END, GET, HEADERS, POST, Peer, WHOLE, run};

/// What a GET without a body is answered with.
const LARGE: usize = 300_000;

/// Never answers a POST; a GET with the length of its body, or with much if it has none.
fn handler() -> impl Handler {
    Answering(|mut request: Request| async move {
        if request.head.method == Method::POST {
            return pending().await;
        }
        let (body, ..) = drained(&mut request.body).await;
        let answer = match body.len() {
            0 => Bytes::from(vec![b'l'; LARGE]),
            length => Bytes::from(length.to_string()),
        };
        Response::new(StatusCode::OK, Body::from(answer))
    })
}

#[test]
fn uploads_that_nobody_reads_do_not_stop_the_others() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        for n in 0..9 {
            let stream = 1 + 2 * n;
            peer.frame(HEADERS, WHOLE, stream, POST).await;
            for _ in 0..4 {
                peer.data(stream, 15_000, 0).await;
            }
        }
        peer.frame(HEADERS, WHOLE, 19, GET).await;
        for _ in 0..100 {
            peer.data(19, 10_000, 0).await;
        }
        peer.frame(DATA, END, 19, b"").await;
        assert_eq!(peer.until(DATA, 19).await.payload, b"1000000");
    });
}

#[test]
fn padding_uses_no_window_up() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        peer.frame(HEADERS, WHOLE, 1, GET).await;
        for n in 0..1000 {
            peer.data(1, n % 2, 255).await;
        }
        peer.frame(DATA, END, 1, b"").await;
        assert_eq!(peer.until(DATA, 1).await.payload, b"500");
    });
}
