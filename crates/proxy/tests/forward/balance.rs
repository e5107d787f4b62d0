//! Weights, endpoints, connections.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use portway_plan::EndpointState;
use portway_proxy::upstream::Limits;
use tokio::io::AsyncWriteExt;

use crate::gateway::{Harness, Setup, active, refused, run, run_within};
use crate::origins::{Act, named, origin};

#[test]
fn shares_get_their_weights_and_invalid_ones_answer_500() {
    run(async {
        let (a, b) = (named("a").await, named("b").await);
        let mut setup = Setup::to(&[a.address]);
        setup.backends.push(("b", setup.backends[0].1, active(&[b.address])));
        setup.shares = vec![(7, Some("a")), (2, Some("b")), (1, None), (0, Some("b"))];
        let gateway = Harness::start(&setup).await;
        let mut counts = [0; 3];
        for _ in 0..100 {
            match gateway.get("/").await {
                (200, name) if name == "a" => counts[0] += 1,
                (200, name) if name == "b" => counts[1] += 1,
                (500, _) => counts[2] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(counts, [70, 20, 10]);
    });
}

#[test]
fn no_backends_is_500_and_no_endpoints_is_503() {
    run(async {
        let mut setup = Setup::to(&[]);
        let gateway = Harness::start(&setup).await;
        assert_eq!(gateway.get("/").await, (503, "Service Unavailable".into()));
        setup.shares = vec![(0, Some("a"))];
        gateway.apply(&setup);
        assert_eq!(gateway.get("/").await.0, 500);
        setup.shares = vec![];
        gateway.apply(&setup);
        assert_eq!(gateway.get("/").await.0, 500);
    });
}

#[test]
fn terminating_endpoints_serve_when_none_is_active() {
    run(async {
        let (a, b) = (named("a").await, named("b").await);
        let mut setup = Setup::to(&[]);
        setup.backends[0].2 =
            vec![(a.address, EndpointState::Terminating), (b.address, EndpointState::Active)];
        let gateway = Harness::start(&setup).await;
        for _ in 0..10 {
            assert_eq!(gateway.get("/").await, (200, "b".into()));
        }
        setup.backends[0].2 = vec![(a.address, EndpointState::Terminating)];
        gateway.apply(&setup);
        assert_eq!(gateway.get("/").await, (200, "a".into()));
    });
}

#[test]
fn the_busy_endpoint_gets_no_more() {
    run(async {
        let (slow, quick) = (origin(|_| Act::Hang).await, named("quick").await);
        let gateway = Harness::start(&Setup::to(&[slow.address, quick.address])).await;
        // Until one hangs at the slow one, which then is the busier of the two.
        let mut hanging = Vec::new();
        while slow.seen.borrow().is_empty() {
            let mut client = gateway.connect().await;
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let answered = tokio::time::timeout(Duration::from_millis(500), client.message()).await;
            if answered.is_err() {
                hanging.push(client);
            }
        }
        for _ in 0..30 {
            assert_eq!(gateway.get("/").await, (200, "quick".into()));
        }
        assert_eq!(slow.seen.borrow().len(), 1);
    });
}

#[test]
fn connections_are_used_again() {
    run(async {
        let a = named("a").await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        for _ in 0..20 {
            assert_eq!(gateway.get("/").await.0, 200);
        }
        assert_eq!(a.accepted.get(), 1);
        assert_eq!(gateway.in_flight("a"), 0);
        assert_eq!(gateway.pools.held(), (1, 0));
    });
}

#[test]
fn idle_connections_of_endpoints_that_leave_are_closed_and_streams_finish() {
    run(async {
        let finish = Rc::new(tokio::sync::Notify::new());
        let a = streaming_origin(finish.clone()).await;
        let b = named("b").await;
        let mut setup = Setup::to(&[a.0]);
        let gateway = Harness::start(&setup).await;
        let mut idle = gateway.connect().await;
        assert_eq!(idle.send("GET /quick HTTP/1.1\r\nHost: x\r\n\r\n").await.0, 200);
        let mut busy = gateway.connect().await;
        busy.write("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut second = gateway.connect().await;
        assert_eq!(second.send("GET /quick HTTP/1.1\r\nHost: x\r\n\r\n").await.0, 200);
        while a.1.get() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gateway.pools.held().0, 1);
        setup.backends[0].2 = active(&[b.address]);
        gateway.apply(&setup);
        while gateway.pools.held().0 > 0 || a.1.get() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, (200, "b".into()));
        finish.notify_one();
        assert_eq!(busy.response().await, (200, "beginning, end".into()));
        // And the stream's connection is not kept.
        while a.1.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

/// Answers `/stream` with a body whose end waits; counts open connections.
async fn streaming_origin(finish: Rc<tokio::sync::Notify>) -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let open = Rc::new(Cell::new(0));
    let counted = open.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let (open, finish) = (counted.clone(), finish.clone());
            open.set(open.get() + 1);
            tokio::task::spawn_local(async move {
                let mut buffer = Vec::new();
                while let Some((head, _)) = crate::origins::request(&mut stream, &mut buffer).await {
                    if head.starts_with("GET /stream") {
                        let begin =
                            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nbeginning, \r\n";
                        stream.write_all(begin.as_bytes()).await.expect("write");
                        finish.notified().await;
                        stream.write_all(b"3\r\nend\r\n0\r\n\r\n").await.expect("write");
                    } else {
                        stream.write_all(&crate::origins::answer(200, "quick")).await.expect("write");
                    }
                }
                open.set(open.get() - 1);
            });
        }
    });
    (address, open)
}

#[test]
fn connections_are_limited_and_waiting_is_bounded() {
    run(async {
        let a = origin(|_| Act::Hang).await;
        let mut setup = Setup::to(&[a.address]);
        setup.limits = Limits {
            connections_per_endpoint: 2,
            waiting_per_endpoint: 1,
            wait_timeout: Duration::from_millis(300),
            ..Limits::default()
        };
        let gateway = Harness::start(&setup).await;
        let mut hanging = Vec::new();
        for _ in 0..2 {
            let mut client = gateway.connect().await;
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            hanging.push(client);
        }
        while a.seen.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        let begun = std::time::Instant::now();
        let mut waiting = gateway.connect().await;
        waiting.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        while gateway.in_flight("a") < 3 {
            tokio::task::yield_now().await;
        }
        // The second to wait is one too many, at once.
        assert_eq!(gateway.get("/").await.0, 503);
        assert!(begun.elapsed() < Duration::from_millis(300));
        let (head, _) = waiting.message().await.expect("an answer");
        assert!(
            head.starts_with("HTTP/1.1 503") && head.to_ascii_lowercase().contains("retry-after"),
            "{head}"
        );
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(a.accepted.get(), 2);
    });
}

#[test]
fn an_endpoint_that_refuses_is_passed_over() {
    run(async {
        let a = named("a").await;
        let gateway = Harness::start(&Setup::to(&[refused().await, a.address])).await;
        for _ in 0..20 {
            assert_eq!(gateway.get("/").await, (200, "a".into()));
        }
        let gateway = Harness::start(&Setup::to(&[refused().await])).await;
        assert_eq!(gateway.get("/").await.0, 503);
    });
}

#[test]
fn who_waits_gets_the_connection_that_becomes_free() {
    run(async {
        let a = origin(|_| Act::Late(Duration::from_millis(30), 200)).await;
        let mut setup = Setup::to(&[a.address]);
        setup.limits.connections_per_endpoint = 1;
        let gateway = Harness::start(&setup).await;
        let requests = (0..5).map(|_| gateway.get("/"));
        for answer in futures_util::future::join_all(requests).await {
            assert_eq!(answer, (200, "late".into()));
        }
        assert_eq!(a.accepted.get(), 1);
    });
}

#[test]
fn a_roll_of_all_endpoints_loses_no_request() {
    run(async {
        let mut old = origin(|_| Act::Late(Duration::from_millis(5), 200)).await;
        let gateway = Harness::start(&Setup::to(&[old.address])).await;
        let done = Rc::new(Cell::new(false));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (gateway, done) = (gateway.clone(), done.clone());
                tokio::task::spawn_local(async move {
                    let mut client = gateway.connect().await;
                    let mut count = 0;
                    while !done.get() {
                        let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
                        assert_eq!(client.send(post).await, (200, "late".into()));
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..20 {
            while old.seen.borrow().len() < 10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let new = origin(|_| Act::Late(Duration::from_millis(5), 200)).await;
            gateway.apply(&Setup::to(&[new.address]));
            // Takes no new connections; those that it has end when the gateway lets go of them.
            let last = std::mem::replace(&mut old, new);
            let open = last.open.clone();
            drop(last);
            while open.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        done.set(true);
        for client in clients {
            assert!(client.await.expect("no failure") > 0);
        }
    });
}

#[test]
fn idle_connections_grow_old_and_are_closed() {
    run_within(Duration::from_secs(3600), async {
        let a = named("a").await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        assert_eq!(gateway.get("/").await.0, 200);
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(gateway.pools.held(), (1, 0));
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(gateway.pools.held(), (0, 0));
        while a.open.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_connection_that_the_backend_closed_is_let_go() {
    run(async {
        let a = origin(|_| Act::RawThenClose(crate::origins::answer(200, "once"))).await;
        let gateway = Harness::start(&Setup::to(&[a.address])).await;
        assert_eq!(gateway.get("/").await.0, 200);
        assert_eq!(gateway.pools.held(), (1, 0));
        // The sweep comes every few seconds.
        while gateway.pools.held() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}
