//! Backends of HTTP/2 that do what few do, and clients that harm others through a backend's connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Buf;
use h2::Reason;
use portway_proxy::http::{Body, Handler, Response};
use portway_testkit::engine::frames::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::gateway::{Harness, refused, run};
use crate::grpc::{Exchange, call, echo, origin, setup, wire_call};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK.
const OK: &[u8] = &[0x88];
/// `:status: 103` in HPACK.
const EARLY: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

/// The backend's end of a connection, which sends any frames.
struct Raw(TcpStream);

impl Raw {
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // Whoever is gone by now shows in what the client gets.
        let _ = self.0.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// The kind and stream of the next frame; `None` at the end.
    async fn next(&mut self) -> Option<(u8, u32)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut rest = &head[..];
        let (length, kind, _) = (rest.get_uint(3), rest.get_u8(), rest.get_u8());
        let mut payload = vec![0; usize::try_from(length).expect("short")];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((kind, rest.get_u32()))
    }

    /// The next stream that is opened; `None` at the end.
    async fn opened(&mut self) -> Option<u32> {
        loop {
            if let (HEADERS, stream) = self.next().await? {
                return Some(stream);
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, OK).await;
    }
}

/// A backend: `act` gets each connection, after its preface and SETTINGS.
async fn raw<F>(act: impl Fn(Raw) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.read_exact(&mut [0; 24]).await.expect("a preface");
            let mut raw = Raw(stream);
            raw.send(SETTINGS, 0, 0, b"").await;
            spawn_local(act(raw));
        }
    });
    address
}

#[test]
fn a_call_that_was_not_processed_goes_again_with_its_body() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let a = origin(100, move |(mut request, mut respond): Exchange| {
            let first = counted.replace(counted.get() + 1) == 0;
            async move {
                if first {
                    request.body_mut().data().await.expect("a piece").expect("no error");
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    echo((request, respond)).await;
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let (mut stream, response) = wire_call(&gateway.connect_h2().await).await;
        stream.send_data("again".into(), true).expect("send");
        let mut body = response.await.expect("a response").into_body();
        assert_eq!(body.data().await.expect("a piece").expect("no error"), "again");
        assert_eq!(count.get(), 2);
    });
}

#[test]
fn a_call_that_is_left_behind_time_and_again_is_not_lost() {
    run(async {
        let leaving = Rc::new(Cell::new(4));
        let address = raw(move |mut raw| {
            let leaving = leaving.clone();
            async move {
                while let Some(stream) = raw.opened().await {
                    if leaving.get() == 0 {
                        raw.answer(stream).await;
                    } else {
                        leaving.set(leaving.get() - 1);
                        // NO_ERROR, and no stream was looked at.
                        raw.send(GOAWAY, 0, 0, &[0; 8]).await;
                    }
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(address)).await;
        let response = gateway.handle(call(Body::Empty, &[])).await;
        assert_eq!(response.head.headers.get("grpc-status"), None);
    });
}

#[test]
fn many_calls_to_a_backend_that_takes_few_from_each_connection_are_not_lost() {
    const EACH: usize = 10;
    run(async {
        let address = raw(|mut raw| async move {
            let mut taken = 0;
            while let Some(stream) = raw.opened().await {
                taken += 1;
                if taken <= EACH {
                    raw.answer(stream).await;
                }
                if taken == EACH {
                    raw.send(GOAWAY, 0, 0, &[&stream.to_be_bytes()[..], &[0; 4]].concat()).await;
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(address)).await;
        let client = async || {
            for _ in 0..20 {
                let response = gateway.handle(call(Body::Empty, &[])).await;
                assert_eq!(response.head.headers.get("grpc-status"), None);
            }
        };
        futures_util::future::join_all((0..8 * EACH).map(|_| client())).await;
    });
}

#[test]
fn a_backend_that_turns_calls_away_for_an_error_is_not_pressed() {
    run(async {
        let asked = Rc::new(Cell::new(0));
        let counted = asked.clone();
        let address = raw(move |mut raw| {
            let counted = counted.clone();
            async move {
                while raw.opened().await.is_some() {
                    counted.set(counted.get() + 1);
                    // ENHANCE_YOUR_CALM, and no stream was looked at.
                    raw.send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]).await;
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(address)).await;
        let response = gateway.handle(call(Body::Empty, &[])).await;
        assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
        assert_eq!(asked.get(), 2);
    });
}

/// A backend that goes away from each connection before anybody has looked at it; and how many those are.
fn gone_at_once(last_words: Vec<u8>) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("not blocking");
    let taken = Rc::new(Cell::new(0));
    let counted = taken.clone();
    let mut held = Vec::new();
    spawn_local(poll_fn(move |cx| -> Poll<()> {
        while let Ok((mut stream, _)) = listener.accept() {
            counted.set(counted.get() + 1);
            if !last_words.is_empty() {
                stream.write_all(&last_words).expect("room");
                held.push(stream);
            }
        }
        // Looks again before the worker hears of anything: that a connection is made, and what came on it, is one
        // piece of news then.
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    (address, taken)
}

#[test]
fn a_backend_that_is_gone_before_anything_is_sent_is_not_asked_without_end() {
    run(async {
        let leaves = [frame(SETTINGS, 0, 0, b""), frame(GOAWAY, 0, 0, &[0; 8])].concat();
        for last_words in [Vec::new(), leaves] {
            let (address, taken) = gone_at_once(last_words);
            let gateway = Harness::start(&setup(address)).await;
            let response = gateway.handle(call(Body::Empty, &[])).await;
            assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
            assert_eq!(taken.get(), 2);
        }
    });
}

#[test]
fn who_waits_for_a_connection_that_fails_does_not_wait_for_the_tries_of_others() {
    run(async {
        let gateway = Harness::start(&setup(refused().await)).await;
        let calls = (0..10).map(|_| gateway.handle(call(Body::Empty, &[])));
        for response in futures_util::future::join_all(calls).await {
            assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
        }
        // The first, and the one that all tries that follow it wait for together.
        assert_eq!(gateway.counts("a").connect_failures.get(), 2);
    });
}

#[test]
fn what_comes_late_for_cancelled_streams_harms_no_other() {
    run(async {
        const CONNECTIONS: usize = 2;
        const CANCELLED: usize = 200;
        let opened = Rc::new(Notify::new());
        let tell = opened.clone();
        // Its answers to the first streams are on their way when they are cancelled.
        let address = raw(move |mut raw| {
            let tell = tell.clone();
            async move {
                let mut streams = Vec::new();
                while let Some(stream) = raw.opened().await {
                    streams.push(stream);
                    tell.notify_one();
                    if streams.len() > CONNECTIONS * CANCELLED {
                        raw.answer(streams[0]).await;
                        raw.send(HEADERS, END_HEADERS, streams[1], OK).await;
                        raw.send(DATA, END_STREAM, streams[1], b"late").await;
                        raw.answer(stream).await;
                    }
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(address)).await;
        for _ in 0..CONNECTIONS {
            let send = gateway.connect_h2().await;
            for _ in 0..CANCELLED {
                let cancelled = wire_call(&send).await;
                opened.notified().await;
                drop(cancelled);
            }
        }
        let (_stream, response) = wire_call(&gateway.connect_h2().await).await;
        let response = response.await.expect("a response");
        assert_eq!(response.headers().get("grpc-status"), None);
    });
}

#[test]
fn interim_responses_are_counted_although_they_are_passed_on() {
    run(async {
        let passed = Rc::new(Notify::new());
        let next = passed.clone();
        let address = raw(move |mut raw| {
            let next = next.clone();
            async move {
                let Some(stream) = raw.opened().await else { return };
                for _ in 0..100 {
                    raw.send(HEADERS, END_HEADERS, stream, EARLY).await;
                    next.notified().await;
                }
                raw.answer(stream).await;
            }
        })
        .await;
        let gateway = Harness::start(&setup(address)).await;
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let mut request = call(Body::Empty, &[]);
        request.informational = Some(Rc::new(move |_| {
            counted.set(counted.get() + 1);
            passed.notify_one();
        }));
        let response = gateway.handle(request).await;
        assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
        assert_eq!(count.get(), 32);
    });
}

#[test]
fn who_waits_for_room_gets_what_the_backend_offers_later() {
    run(async {
        let raise = Rc::new(Notify::new());
        let raised = raise.clone();
        let address = raw(move |mut raw| {
            let raised = raised.clone();
            async move {
                let Some(stream) = raw.opened().await else { return };
                raw.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]).await;
                raw.answer(stream).await;
                raised.notified().await;
                raw.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).await;
                if let Some(stream) = raw.opened().await {
                    raw.answer(stream).await;
                }
            }
        })
        .await;
        let mut setup = setup(address);
        setup.limits.h2_connections_per_endpoint = 1;
        let gateway = Harness::start(&setup).await;
        let status = |response: Response| response.head.headers.get("grpc-status").map(<[u8]>::to_vec);
        assert_eq!(status(gateway.handle(call(Body::Empty, &[])).await), None);
        let mut second = pin!(gateway.handle(call(Body::Empty, &[])));
        assert!(poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await.is_pending());
        raise.notify_one();
        assert_eq!(status(second.await), None);
    });
}
