//! A server, seen by a client that sends the frames that a test wants.

use std::future::pending;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::http::{Body, Handler, Request, Response};
use portway_testkit::engine::frames::frame;
use portway_testkit::engine::{Answering, drained};

use crate::peer::{ACK, DATA, END, GET, Got, HEADERS, POST, Peer, SET, WHOLE, WINDOW, run};

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

#[test]
fn a_window_that_shrinks_holds_at_once() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        peer.frame(HEADERS, WHOLE | END, 1, GET).await;
        let sent = |got: Vec<_>| -> usize {
            got.iter().filter(|got: &&Got| got.kind == DATA).map(|got| got.payload.len()).sum()
        };
        let mut count = 0;
        while count < 65_535 {
            count += peer.until(DATA, 1).await.payload.len();
        }
        // There is room, and in the same moment it is taken back.
        let more = 1_000u32.to_be_bytes();
        let frames =
            [frame(WINDOW, 0, 1, &more), frame(WINDOW, 0, 0, &more), frame(SET, 0, 0, b"\0\x04\0\0\0\0")];
        peer.send(&frames.concat()).await;
        while peer.until(SET, 0).await.flags != ACK {}
        assert_eq!(sent(peer.barrier().await), 0);
        // What comes next pays first what the stream owes.
        for (more, bytes) in [(64_535u32, 0), (300, 300), (10_000, 700)] {
            peer.frame(WINDOW, 0, 1, &more.to_be_bytes()).await;
            let got = [peer.barrier().await, peer.barrier().await].concat();
            assert_eq!(sent(got), bytes);
        }
    });
}
