//! One connection to a backend, which many share: what one does must not stop the others.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::Method;
use portway_proxy::fault::FaultKind;
use portway_proxy::http::h1::Answer;
use portway_proxy::http::h2::Loans;
use portway_proxy::http::h2::client::Client;
use portway_proxy::http::{Body, Frame, Version};
use portway_testkit::engine::drained;
use tokio::task::spawn_local;

use crate::peer::{BACKEND_STREAM, DATA, END, HEADERS, OK, Peer, RESET, WHOLE, WINDOW, ask, get, run};

/// The head of an answer to `GET /` on that stream.
async fn answered(peer: &mut Peer, client: &Client, stream: u32) -> Answer {
    let answering = async {
        peer.until(HEADERS, stream).await;
        peer.frame(HEADERS, WHOLE, stream, OK).await;
    };
    let (answer, ()) = tokio::join!(get(client), answering);
    answer.expect("an answer")
}

#[test]
fn answers_that_nobody_reads_do_not_stop_the_others() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let mut unread = Vec::new();
        for n in 0..128 {
            let stream = 1 + 2 * n;
            unread.push(answered(&mut peer, &client, stream).await);
            peer.data(stream, 15_000, 0).await;
        }
        let mut answer = answered(&mut peer, &client, 257).await;
        let read = spawn_local(async move { drained(&mut answer.body).await.0.len() });
        for _ in 0..100 {
            peer.data(257, 10_000, 0).await;
        }
        peer.frame(DATA, END, 257, b"").await;
        assert_eq!(read.await.expect("no panic"), 1_000_000);
        // Those that waited have lost nothing.
        for (n, mut answer) in (0..).zip(unread) {
            peer.frame(DATA, END, 1 + 2 * n, b"").await;
            assert_eq!(drained(&mut answer.body).await.0.len(), 15_000);
        }
    });
}

#[test]
fn only_windows_of_answers_that_are_read_grow_and_only_while_there_is_room() {
    run(async {
        // For one of them.
        let (mut peer, client) = Peer::backend_with(4 << 20, Loans::new(64 * 1024)).await;
        let mut unread = answered(&mut peer, &client, 1).await;
        peer.data(1, 16_000, 0).await;
        let mut windows = Vec::new();
        let mut read = Vec::new();
        for stream in [3, 5, 7] {
            let mut answer = answered(&mut peer, &client, stream).await;
            peer.data(stream, 16_000, 0).await;
            peer.barrier().await;
            let frame = poll_fn(|cx| answer.body.poll_frame(cx)).await;
            assert!(matches!(frame, Some(Ok(Frame::Data(data))) if data.len() == 16_000));
            peer.barrier().await;
            // Whoever has it in hand may wait for a client that does not read.
            assert_eq!(peer.window(stream), BACKEND_STREAM - 16_000);
            let more = poll_fn(|cx| Poll::Ready(answer.body.poll_frame(cx))).await;
            assert!(more.is_pending());
            peer.barrier().await;
            windows.push(peer.window(stream));
            if stream == 5 {
                // What the first one held is there for the next.
                read.clear();
            } else {
                read.push(answer);
            }
        }
        let grown = BACKEND_STREAM + 48 * 1024;
        assert_eq!(windows, [grown, BACKEND_STREAM, grown]);
        assert_eq!(peer.window(1), BACKEND_STREAM - 16_000);
        peer.frame(DATA, END, 1, b"").await;
        assert_eq!(drained(&mut unread.body).await.0.len(), 16_000);
    });
}

#[test]
fn an_answer_that_is_reset_before_its_end_is_not_whole() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        for (stream, flags, fault) in [(1, 0, Some("upstream_closed")), (3, END, None)] {
            let mut answer = answered(&mut peer, &client, stream).await;
            peer.frame(DATA, flags, stream, b"half").await;
            peer.frame(RESET, 0, stream, &[0; 4]).await;
            let (data, _, got) = drained(&mut answer.body).await;
            assert_eq!((&data[..], got), (&b"half"[..], fault));
        }
    });
}

/// Posts more than the connection's window has room for: 1 has it all, 3 to 9 wait for it. Each is answered
/// with a head; and all of the answer, if it is `whole`, which refuses the rest of the request.
async fn uploads(peer: &mut Peer, client: &Client, version: Version, whole: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    for stream in [1, 3, 5, 7, 9] {
        let body = Body::from(Bytes::from(vec![b'x'; 70_000]));
        let answering = async {
            peer.until(HEADERS, stream).await;
            peer.frame(HEADERS, WHOLE, stream, OK).await;
            if whole {
                peer.frame(DATA, END, stream, b"enough").await;
                peer.frame(RESET, 0, stream, &[0; 4]).await;
            }
        };
        let (answer, ()) = tokio::join!(ask(client, version, Method::POST, body), answering);
        answers.push(answer.ok().expect("an answer"));
    }
    peer.barrier().await;
    answers
}

/// There is room again: a further upload gets it, whoever else has asked for it and does not use it.
async fn goes_on(peer: &mut Peer, client: &Client) {
    peer.frame(WINDOW, 0, 0, &65_535u32.to_be_bytes()).await;
    peer.barrier().await;
    let sending = async {
        peer.until(DATA, 11).await;
        peer.frame(HEADERS, WHOLE | END, 11, OK).await;
    };
    let (answer, ()) = tokio::join!(ask(client, Version::Http2, Method::POST, "little".into()), sending);
    assert!(answer.is_ok());
}

#[test]
fn those_who_do_not_send_hold_no_window() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let mut answers = uploads(&mut peer, &client, Version::Http11, false).await;
        goes_on(&mut peer, &client).await;
        // Whoever reads its answer again goes on sending, too.
        let mut answer = answers.remove(1);
        let reading = spawn_local(async move { drained(&mut answer.body).await.2 });
        peer.until(DATA, 3).await;
        peer.frame(DATA, END, 3, b"").await;
        assert_eq!(reading.await.expect("no panic"), None);
    });
}

#[test]
fn those_who_are_not_to_send_get_no_window() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let answers = uploads(&mut peer, &client, Version::Http2, true).await;
        goes_on(&mut peer, &client).await;
        for mut answer in answers {
            assert_eq!(drained(&mut answer.body).await.0, b"enough");
        }
    });
}

/// A request that is answered with a head that ends the stream.
async fn asked(peer: &mut Peer, client: &Client, stream: u32, head: &[u8]) -> Result<(), FaultKind> {
    let answering = async {
        peer.until(HEADERS, stream).await;
        peer.frame(HEADERS, WHOLE | END, stream, head).await;
    };
    tokio::join!(get(client), answering).0.map(drop)
}

#[test]
fn a_backend_with_many_malformed_answers_keeps_its_connection() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        for n in 0..1_100 {
            let got = asked(&mut peer, &client, 1 + 2 * n, b"\x82").await;
            assert_eq!(got, Err(FaultKind::UpstreamProtocol));
        }
        assert_eq!(asked(&mut peer, &client, 2_201, OK).await, Ok(()));
    });
}
