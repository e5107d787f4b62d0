//! Tries after the first.

use std::cell::Cell;

use crate::gateway::{Harness, Setup, run};
use crate::origins::{Act, origin};

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn codes_are_tried_again_up_to_the_attempts() {
    run(async {
        let a = origin(|seen| match seen.index {
            0 | 1 => Act::Answer(503, "no".into()),
            _ => Act::Answer(200, "yes".into()),
        })
        .await;
        let gateway = Harness::start(&Setup::to(&[a.address]).retry(&[500, 503], 2)).await;
        assert_eq!(gateway.get("/").await, (200, "yes".into()));
        assert_eq!(a.seen.borrow().len(), 3);

        let b = origin(|_| Act::Answer(503, "no".into())).await;
        let gateway = Harness::start(&Setup::to(&[b.address]).retry(&[503], 2)).await;
        assert_eq!(gateway.get("/").await, (503, "no".into()));
        assert_eq!(b.seen.borrow().len(), 3);
    });
}

#[test]
fn other_codes_and_rules_without_retry_are_not_tried_again() {
    run(async {
        let a = origin(|_| Act::Answer(502, "no".into())).await;
        let gateway = Harness::start(&Setup::to(&[a.address]).retry(&[503], 5)).await;
        assert_eq!(gateway.get("/").await, (502, "no".into()));
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        assert_eq!(gateway.get("/").await, (502, "no".into()));
        let gateway = Harness::start(&Setup::to(&[a.address]).retry(&[502], 0)).await;
        assert_eq!(gateway.get("/").await, (502, "no".into()));
        assert_eq!(a.seen.borrow().len(), 3);
    });
}

#[test]
fn a_body_is_sent_again_whole() {
    run(async {
        let a = origin(|seen| match seen.index {
            0 => Act::Answer(503, "no".into()),
            _ => Act::Answer(200, String::from_utf8_lossy(&seen.body).into_owned()),
        })
        .await;
        let gateway = Harness::start(&Setup::to(&[a.address]).retry(&[503], 1)).await;
        let mut client = gateway.connect().await;
        assert_eq!(client.send(&post("some body")).await, (200, "some body".into()));
        let chunked =
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n0\r\n\r\n";
        a.seen.borrow_mut().clear();
        assert_eq!(client.send(chunked).await, (200, "wiki".into()));
    });
}

#[test]
fn a_body_beyond_the_buffer_is_not_sent_again() {
    run(async {
        let a = origin(|_| Act::Answer(503, "no".into())).await;
        let mut setup = Setup::to(&[a.address]).retry(&[503], 3);
        setup.limits.replay_buffer = 1000;
        let gateway = Harness::start(&setup).await;
        assert_eq!(gateway.connect().await.send(&post(&"x".repeat(200_000))).await.0, 503);
        assert_eq!(a.seen.borrow().len(), 1);
    });
}

#[test]
fn an_idle_connection_that_was_closed_is_replaced() {
    run(async {
        // Closes each connection right after its first answer, while the gateway keeps it.
        let a = origin(|_| Act::RawThenClose(crate::origins::answer(200, "once"))).await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        let mut client = gateway.connect().await;
        for _ in 0..10 {
            assert_eq!(client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, (200, "once".into()));
            assert_eq!(client.send(&post("b")).await, (200, "once".into()));
        }
    });
}

#[test]
fn a_connection_that_breaks_unanswered_is_tried_again_only_if_that_is_safe() {
    run(async {
        // The second request of each connection meets a closed one after it has been sent.
        let a = origin(|seen| match seen.index {
            0 | 2 => Act::Answer(200, "ok".into()),
            _ => Act::Close,
        })
        .await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        let mut client = gateway.connect().await;
        let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(client.send(get).await, (200, "ok".into()));
        assert_eq!(client.send(get).await, (200, "ok".into()));
        assert_eq!(a.seen.borrow().len(), 3);
        assert_eq!(client.send(&post("b")).await.0, 502);
        assert_eq!(a.seen.borrow().len(), 4);
        // On a fresh connection, the backend is to blame.
        assert_eq!(client.send(get).await.0, 502);
        assert_eq!(a.seen.borrow().len(), 5);
    });
}

#[test]
fn a_response_that_has_begun_is_never_tried_again() {
    run(async {
        let a = origin(|_| Act::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec())).await;
        let gateway = Harness::start(&Setup::to(&[a.address]).retry(&[502], 3)).await;
        assert_eq!(gateway.get("/").await.0, 502);
        assert_eq!(a.seen.borrow().len(), 1);
    });
}

#[test]
fn another_endpoint_is_tried_next() {
    run(async {
        let hits = std::rc::Rc::new(Cell::new(0));
        let counted = hits.clone();
        let bad = origin(move |_| {
            counted.set(counted.get() + 1);
            Act::Answer(500, "bad".into())
        })
        .await;
        let good = crate::origins::named("good").await;
        let gateway = Harness::start(&Setup::to(&[bad.address, good.address]).retry(&[500], 1)).await;
        for _ in 0..30 {
            assert_eq!(gateway.get("/").await, (200, "good".into()));
        }
        assert!(hits.get() > 0);
    });
}
