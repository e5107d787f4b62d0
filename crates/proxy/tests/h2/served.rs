//! A server, seen by a client that sends the frames that a test wants.

use std::future::pending;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::http::{Body, Handler, Headers, Request, Response, ResponseHead};
use portway_testkit::engine::frames::frame;
use portway_testkit::engine::{Answering, drained};

use crate::peer::{
    ACK, DATA, END, GET, GOAWAY, Got, HEADERS, PING, POST, Peer, RESET, SET, WHOLE, WINDOW, run,
};

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

#[test]
fn requests_that_are_cancelled_at_once_end_the_connection_before_much_is_done_for_them() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        let both = |n| [frame(HEADERS, WHOLE | END, n, POST), frame(RESET, 0, n, b"\0\0\0\x08")].concat();
        peer.send(&(0..5_000).flat_map(|n| both(1 + 2 * n)).collect::<Vec<u8>>()).await;
        let end = peer.until(GOAWAY, 0).await;
        assert_eq!(end.payload[4..], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
        assert!(end.number() < 2 * 300, "{} streams", end.number() / 2);
    });
}

#[test]
fn hints_do_not_pile_up_for_a_client_that_does_not_read() {
    run(async {
        let mut peer = Peer::client(Answering(|request: Request| async move {
            let tell = request.informational.expect("HTTP/2");
            for _ in 0..100 {
                let headers = Headers::from([("link", &*"x".repeat(10_000))]);
                tell(ResponseHead { status: StatusCode::EARLY_HINTS, headers });
            }
            Response::new(StatusCode::OK, Body::Empty)
        }))
        .await;
        peer.frame(HEADERS, WHOLE | END, 1, GET).await;
        let mut hints = 0;
        while peer.until(HEADERS, 1).await.flags & END == 0 {
            hints += 1;
        }
        assert!((5..20).contains(&hints), "{hints}");
    });
}

#[test]
fn errors_of_a_client_that_has_answers_too_do_not_end_the_connection() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        for n in 0..300 {
            let (wrong, right) = (1 + 4 * n, 3 + 4 * n);
            peer.frame(HEADERS, WHOLE | END, wrong, b"\x82").await;
            peer.until(RESET, wrong).await;
            peer.frame(HEADERS, WHOLE, right, GET).await;
            peer.frame(DATA, END, right, b"x").await;
            peer.until(DATA, right).await;
        }
    });
}

#[test]
fn a_client_hears_once_that_a_stream_has_ended() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        peer.frame(HEADERS, WHOLE | END, 1, b"\x82").await;
        for n in 1..=300 {
            let stream = 1 + 2 * n;
            peer.frame(HEADERS, WHOLE, stream, GET).await;
            peer.frame(DATA, END, stream, b"x").await;
            peer.until(DATA, stream).await;
        }
        let mut late = async |stream, times| {
            peer.send(&frame(DATA, 0, stream, b"late").repeat(times)).await;
            peer.barrier().await.into_iter().filter(|got| got.kind == RESET).count()
        };
        // One that was reset, whatever has ended since; one that ended long ago.
        assert_eq!((late(1, 10).await, late(3, 10).await), (0, 1));
    });
}

#[test]
fn a_client_may_ask_for_much_before_it_knows_how_much_it_may() {
    run(async {
        let mut peer = Peer::beginning(handler()).await;
        let all = (0..500).flat_map(|n| frame(HEADERS, WHOLE | END, 1 + 2 * n, POST));
        peer.send(&all.collect::<Vec<u8>>()).await;
        let refused = peer.barrier().await.iter().filter(|got| got.kind == RESET).count();
        assert_eq!(refused, 500 - 128);
    });
}

#[test]
fn a_client_that_falls_silent_while_a_ping_waits_for_it_is_given_up() {
    run(async {
        let mut peer = Peer::client(handler()).await;
        peer.frame(HEADERS, WHOLE | END, 1, POST).await;
        while peer.until(PING, 0).await.flags == ACK {}
        // Sent before the PING has come there.
        peer.frame(WINDOW, 0, 0, &1u32.to_be_bytes()).await;
        assert_eq!(peer.next().await, None);
    });
}
