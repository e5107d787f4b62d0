//! How connections live and end: slow peers, silent ones, and what either side leaves behind.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::fault::{Fault, FaultKind};
use portway_proxy::http::{Body, BodySource, Frame, Headers, Request, RequestHead, Response, Version};
use portway_testkit::engine::frames::{PREFACE, frame};
use portway_testkit::engine::{Answering, drained, head};
use tokio::task::spawn_local;
use tokio::time::{Instant, advance, sleep};

use crate::peer::{
    ACK, DATA, END, GET, GOAWAY, HEADERS, OK, PING, POST, Peer, RESET, SET, WHOLE, WINDOW, ask, ask_with,
    get, run,
};

/// SETTINGS_INITIAL_WINDOW_SIZE.
fn stream_windows(bytes: u32) -> Vec<u8> {
    frame(SET, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
}

#[test]
fn a_backend_is_not_silent_because_the_proxy_was_stopped() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let asked = spawn_local(async move { get(&client).await.map(drop) });
        peer.until(HEADERS, 1).await;
        advance(Duration::from_secs(100)).await;
        peer.barrier().await;
        peer.frame(HEADERS, WHOLE | END, 1, OK).await;
        assert_eq!(asked.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn a_backend_that_reads_slowly_is_not_a_silent_one() {
    run(async {
        let (mut peer, client) = Peer::backend_over(16 * 1024).await;
        peer.send(&stream_windows(1 << 20)).await;
        peer.frame(WINDOW, 0, 0, &(1u32 << 20).to_be_bytes()).await;
        peer.barrier().await;
        let body = Body::from(Bytes::from(vec![b'x'; 300_000]));
        let sending = spawn_local(async move {
            ask(&client, Version::Http2, Method::POST, body).await.map(drop).map_err(|error| error.fault.kind)
        });
        peer.until(HEADERS, 1).await;
        let mut count = 0;
        while count < 300_000 {
            let got = peer.next().await.expect("a frame");
            if got.kind == PING {
                peer.frame(PING, ACK, 0, &got.payload).await;
            } else if got.kind == DATA {
                count += got.payload.len();
                // The clock is the test's: it takes what comes slowly.
                sleep(Duration::from_secs(10)).await;
            }
        }
        peer.frame(HEADERS, WHOLE | END, 1, OK).await;
        assert_eq!(sending.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn a_connection_that_nobody_wants_ends_with_its_last_stream() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let answering = async {
            peer.until(HEADERS, 1).await;
            peer.frame(HEADERS, WHOLE, 1, OK).await;
        };
        let (answer, ()) = tokio::join!(get(&client), answering);
        drop(client);
        peer.barrier().await;
        let begun = Instant::now();
        let mut body = answer.expect("an answer").body;
        let reading = spawn_local(async move { drained(&mut body).await.0 });
        peer.frame(DATA, END, 1, b"last").await;
        assert_eq!(peer.next().await, None);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(reading.await.expect("no panic"), b"last");
    });
}

#[test]
fn a_backend_that_does_not_read_yet_is_heard() {
    run(async {
        let (mut peer, client) = Peer::backend_over(16 * 1024).await;
        peer.send(&stream_windows(1 << 20)).await;
        peer.frame(WINDOW, 0, 0, &(1u32 << 20).to_be_bytes()).await;
        peer.barrier().await;
        let body = Body::from(Bytes::from(vec![b'x'; 300_000]));
        let post = ask(&client, Version::Http2, Method::POST, body);
        let asked = async |n: usize| {
            let headers = Headers::from([("x", &*format!("{n:01000}"))]);
            let head = RequestHead { version: Version::Http2, headers, ..head(Method::GET) };
            ask_with(&client, head, Body::Empty).await.is_ok()
        };
        // More than waits for a client that does not read: full buffers of bodies, and many heads.
        let gets = futures_util::future::join_all((0..100).map(asked));
        let answering = async {
            tokio::task::yield_now().await;
            for n in 0..101 {
                peer.frame(HEADERS, WHOLE | END, 1 + 2 * n, OK).await;
            }
        };
        let (post, gets, ()) = tokio::join!(post, gets, answering);
        assert!(post.is_ok() && gets.into_iter().all(|ok| ok));
    });
}

/// Goes wrong when it is asked for the second time.
struct Panics(bool);

impl BodySource for Panics {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        assert!(!self.0, "as the test wants");
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_request_whose_body_panics_is_not_left_open() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let body = Body::Stream(Box::new(Panics(false)));
        let (answer, _) =
            tokio::join!(ask(&client, Version::Http2, Method::POST, body), peer.until(RESET, 1));
        assert!(answer.is_err());
    });
}

/// Fails once it is told to.
struct Fails(Rc<Cell<bool>>);

impl BodySource for Fails {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if self.0.get() { Poll::Ready(Some(Err(FaultKind::RequestTimeout.into()))) } else { Poll::Pending }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_request_whose_body_fails_while_the_answer_comes_says_so() {
    run(async {
        let (mut peer, client) = Peer::backend().await;
        let failed = Rc::new(Cell::new(false));
        let body = Body::Stream(Box::new(Fails(failed.clone())));
        let answering = async {
            peer.until(HEADERS, 1).await;
            peer.frame(HEADERS, WHOLE, 1, OK).await;
            peer.frame(DATA, 0, 1, b"half").await;
            peer.barrier().await;
        };
        let (answer, ()) = tokio::join!(ask(&client, Version::Http11, Method::POST, body), answering);
        failed.set(true);
        let (data, _, fault) = drained(&mut answer.ok().expect("an answer").body).await;
        assert_eq!((&data[..], fault), (&b"half"[..], Some(FaultKind::RequestTimeout.reason())));
    });
}

/// Never answers a POST.
async fn answer(request: Request) -> Response {
    if request.head.method == Method::POST {
        return pending().await;
    }
    Response::new(StatusCode::OK, Body::from(Bytes::from(vec![b'l'; 300_000])))
}

#[test]
fn what_came_before_the_connection_was_served_is_answered() {
    run(async {
        let initial = [PREFACE, &frame(HEADERS, WHOLE | END, 1, GET)].concat();
        let mut peer = Peer::after(Answering(answer), initial.into());
        let begun = Instant::now();
        peer.until(HEADERS, 1).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_client_that_does_not_say_that_it_has_seen_a_goaway_gets_the_last_one() {
    run(async {
        let mut peer = Peer::client(Answering(answer)).await;
        // It has been idle for long.
        assert_eq!(peer.until(GOAWAY, 0).await.number(), 0x7fff_ffff);
        peer.frame(HEADERS, WHOLE | END, 1, POST).await;
        assert_eq!(peer.until(GOAWAY, 0).await.number(), 1);
        peer.frame(HEADERS, WHOLE | END, 3, GET).await;
        assert_eq!(peer.barrier().await, []);
    });
}

#[test]
fn a_window_is_not_too_large_because_some_of_it_is_granted() {
    run(async {
        let mut peer = Peer::client(Answering(answer)).await;
        peer.frame(HEADERS, WHOLE | END, 1, GET).await;
        let mut count = 0;
        while count < 65_535 {
            count += peer.until(DATA, 1).await.payload.len();
        }
        peer.frame(WINDOW, 0, 1, &(0x7fff_ffffu32 - 70_000).to_be_bytes()).await;
        // One byte more than there can be, of which some is granted and not sent.
        let frames = [frame(WINDOW, 0, 0, &16_384u32.to_be_bytes()), stream_windows(65_535 + 70_001)];
        peer.send(&frames.concat()).await;
        assert_eq!(peer.until(GOAWAY, 0).await.payload[4..], [0, 0, 0, 3], "FLOW_CONTROL_ERROR");
    });
}

#[test]
fn a_head_that_grows_without_end_is_not_decoded_to_its_end() {
    run(async {
        let mut peer = Peer::client(Answering(answer)).await;
        // A name of 4,000 bytes enters the table; then 3,000 fields have it.
        let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'n'; 4_000], &[0]].concat();
        let block = [GET, &name, &[0x0f, 0x2f, 0].repeat(3_000)].concat();
        peer.frame(HEADERS, WHOLE | END, 1, &block).await;
        assert_eq!(peer.until(GOAWAY, 0).await.payload[4..], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
    });
}
