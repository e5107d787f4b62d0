//! Limits in time.

use std::time::{Duration, Instant};

use crate::gateway::{Harness, Setup, run};
use crate::origins::{Act, origin};

#[test]
fn a_late_answer_is_504_and_the_backend_is_told() {
    run(async {
        let a = origin(|_| Act::Hang).await;
        for setup in [
            Setup::to(&[a.address]).timeouts(Some(100), None),
            Setup::to(&[a.address]).timeouts(None, Some(100)),
            Setup::to(&[a.address]).timeouts(Some(5000), Some(100)),
        ] {
            let gateway = Harness::start(&setup).await;
            let begun = Instant::now();
            assert_eq!(gateway.get("/").await, (504, "Gateway Timeout".into()));
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(4), "{took:?}");
            while a.open.get() > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(gateway.in_flight("a"), 0);
        }
    });
}

#[test]
fn zero_is_no_limit() {
    run(async {
        let a = origin(|_| Act::Late(Duration::from_millis(50), 200)).await;
        let gateway = Harness::start(&Setup::to(&[a.address]).timeouts(Some(0), Some(0))).await;
        assert_eq!(gateway.get("/").await, (200, "late".into()));
    });
}

#[test]
fn the_request_timeout_holds_to_the_end_of_the_response() {
    run(async {
        let a = origin(|_| Act::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec())).await;
        for setup in [
            Setup::to(&[a.address]).timeouts(Some(150), None),
            Setup::to(&[a.address]).timeouts(None, Some(150)),
        ] {
            let gateway = Harness::start(&setup).await;
            let mut client = gateway.connect().await;
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            // Cut: the head said 10 bytes, and they never come.
            assert!(client.message().await.is_none());
        }
    });
}

#[test]
fn retries_end_with_the_request_timeout() {
    run(async {
        let a = origin(|_| Act::Late(Duration::from_millis(200), 500)).await;
        let setup = Setup::to(&[a.address]).retry(&[500], 100).timeouts(Some(300), None);
        let gateway = Harness::start(&setup).await;
        let begun = Instant::now();
        assert_eq!(gateway.get("/").await.0, 504);
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert_eq!(a.seen.borrow().len(), 2);
    });
}

#[test]
fn an_answer_at_hand_is_better_than_a_pause_into_the_timeout() {
    run(async {
        let a = origin(|_| Act::Answer(500, "reason".into())).await;
        let mut setup = Setup::to(&[a.address]).retry(&[500], 5).timeouts(Some(2000), None);
        if let Some(retry) = &mut setup.retry {
            retry.backoff = Some(Duration::from_secs(3));
        }
        let gateway = Harness::start(&setup).await;
        assert_eq!(gateway.get("/").await, (500, "reason".into()));
    });
}

#[test]
fn a_try_that_takes_too_long_is_tried_again() {
    run(async {
        let a = origin(|seen| match seen.index {
            0 => Act::Hang,
            _ => Act::Answer(200, "second".into()),
        })
        .await;
        let setup = Setup::to(&[a.address]).retry(&[500], 1).timeouts(Some(5000), Some(100));
        let gateway = Harness::start(&setup).await;
        assert_eq!(gateway.get("/").await, (200, "second".into()));
    });
}

#[test]
fn pauses_between_tries_are_kept() {
    run(async {
        let a = origin(|seen| match seen.index {
            0 | 1 => Act::Answer(503, "no".into()),
            _ => Act::Answer(200, "yes".into()),
        })
        .await;
        let mut setup = Setup::to(&[a.address]).retry(&[503], 2);
        if let Some(retry) = &mut setup.retry {
            retry.backoff = Some(Duration::from_millis(60));
        }
        let gateway = Harness::start(&setup).await;
        let begun = Instant::now();
        assert_eq!(gateway.get("/").await, (200, "yes".into()));
        assert!(begun.elapsed() >= Duration::from_millis(180), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_stalled_stream_is_given_up() {
    run(async {
        tokio::time::pause();
        let a = origin(|_| Act::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec())).await;
        let mut setup = Setup::to(&[a.address]);
        setup.limits.stream_idle_timeout = Duration::from_secs(10);
        let gateway = Harness::start(&setup).await;
        let mut client = gateway.connect().await;
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let begun = tokio::time::Instant::now();
        assert!(crate::origins::request(&mut client.stream, &mut client.buffer).await.is_none());
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(10) && took <= Duration::from_secs(30), "{took:?}");
    });
}
