//! HTTP/2 to backends: gRPC's streams and trailers, shared connections, cancelling.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use portway_plan::{BackendProtocol, RuleKind};
use portway_proxy::fault::Fault;
use portway_proxy::http::{
    Authority, Body, BodySource, Connection, Frame, Handler, Headers, Request, RequestHead, Response, Scheme,
    Target, Version,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::gateway::{Harness, Setup, run, run_within};

/// An HTTP/2 origin: requests as `act` serves them, each in a task of its own.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

pub(crate) type Exchange = (http::Request<RecvStream>, SendResponse<Bytes>);

pub(crate) async fn origin<F>(streams: u32, act: impl Fn(Exchange) -> F + 'static) -> Origin
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let accepted = Rc::new(Cell::new(0));
    let (counted, act) = (accepted.clone(), Rc::new(act));
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            counted.set(counted.get() + 1);
            let act = act.clone();
            spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams);
                let mut connection = builder.handshake(stream).await.expect("a handshake");
                while let Some(Ok(exchange)) = connection.accept().await {
                    spawn_local(act(exchange));
                }
            });
        }
    });
    Origin { address, accepted }
}

fn grpc_head() -> http::Response<()> {
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(()).expect("a response")
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static(status));
    map
}

/// Answers at once and sends every piece back as it comes; then the trailers.
pub(crate) async fn echo((request, mut respond): Exchange) {
    let mut send = respond.send_response(grpc_head(), false).expect("send");
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        let mut left = data;
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            let piece = left.split_to(room.min(left.len()));
            if send.send_data(piece, false).is_err() {
                return;
            }
        }
    }
    let received = body.trailers().await.ok().flatten();
    let mut map = trailers("0");
    if let Some(value) = received.as_ref().and_then(|t| t.get("x-checksum")) {
        map.insert("x-checksum", value.clone());
    }
    let _ = send.send_trailers(map);
}

/// A body that a test feeds; counts what has been pulled.
struct Fed(mpsc::UnboundedReceiver<Frame>, Rc<Cell<usize>>);

impl BodySource for Fed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.0.poll_recv(cx).map(|frame| {
            self.1.set(self.1.get() + usize::from(frame.is_some()));
            frame.map(Ok)
        })
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

struct Feed {
    send: Option<mpsc::UnboundedSender<Frame>>,
    pulled: Rc<Cell<usize>>,
}

impl Feed {
    fn data(&self, text: impl Into<Bytes>) {
        let send = self.send.as_ref().expect("open");
        let _ = send.send(Frame::Data(text.into()));
    }
}

fn fed() -> (Feed, Body) {
    let (send, receive) = mpsc::unbounded_channel();
    let pulled = Rc::new(Cell::new(0));
    let body = Body::Stream(Box::new(Fed(receive, pulled.clone())));
    (Feed { send: Some(send), pulled }, body)
}

/// A gRPC request as the engine of HTTP/2 hands it over.
pub(crate) fn call(body: Body, extra: &[(&'static str, &'static str)]) -> Request {
    let mut headers = Headers::from([("content-type", "application/grpc"), ("te", "trailers")]);
    extra.iter().for_each(|(name, value)| headers.append(*name, *value));
    Request {
        head: Box::new(RequestHead {
            method: Method::POST,
            scheme: Scheme::Https,
            authority: Authority::parse(Bytes::from_static(b"grpc.example.com")).expect("an authority"),
            target: Target::new(Bytes::from_static(b"/pkg.Service/Method")),
            version: Version::Http2,
            headers,
        }),
        body,
        upgrade: None,
        expects_continue: false,
        informational: None,
        connection: Rc::new(Connection::new(
            "10.0.0.9:1".parse().expect("an address"),
            "10.0.0.1:80".parse().expect("an address"),
            80,
        )),
    }
}

pub(crate) fn setup(address: SocketAddr) -> Setup {
    Setup { kind: RuleKind::Grpc, ..Setup::to(&[address]) }
}

async fn text(response: &mut Response) -> String {
    match response.body.frame().await {
        Some(Ok(Frame::Data(data))) => String::from_utf8_lossy(&data).into_owned(),
        Some(Ok(Frame::Trailers(trailers))) => format!("{trailers:?}"),
        Some(Err(fault)) => format!("!{}", fault.kind.reason()),
        None => "end".into(),
    }
}

#[test]
fn only_calls_on_a_connection_that_was_there_count_as_such() {
    run(async {
        let a = origin(100, echo).await;
        let gateway = Harness::start(&setup(a.address)).await;
        for reused in 0..3 {
            let mut response = gateway.handle(call(Body::Empty, &[])).await;
            while text(&mut response).await != "end" {}
            assert_eq!(gateway.counts("a").reused.get(), reused);
        }
        assert_eq!(a.accepted.get(), 1);
    });
}

#[test]
fn a_call_goes_both_ways_at_once_with_trailers() {
    run(async {
        let heads = Rc::new(RefCell::new(Vec::new()));
        let seen = heads.clone();
        let a = origin(100, move |(request, respond)| {
            let head = format!("{:?} {:?}", request.uri(), request.headers());
            seen.borrow_mut().push(head);
            echo((request, respond))
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let (mut feed, body) = fed();
        let mut response = gateway.handle(call(body, &[])).await;
        assert_eq!(response.head.status, StatusCode::OK);
        for piece in ["one", "two", "three"] {
            feed.data(piece);
            assert_eq!(text(&mut response).await, piece);
        }
        let sum = Headers::from([("X-Checksum", "abc")]);
        let _ = feed.send.as_ref().expect("open").send(Frame::Trailers(Box::new(sum)));
        feed.send = None;
        assert_eq!(text(&mut response).await, r#"{"grpc-status": "0", "x-checksum": "abc"}"#);
        assert_eq!(text(&mut response).await, "end");
        drop(response);
        assert_eq!(gateway.in_flight("a"), 0);
        let heads = heads.borrow();
        assert!(heads[0].contains("http://grpc.example.com/pkg.Service/Method"), "{}", heads[0]);
        assert!(heads[0].contains(r#""te": "trailers""#), "{}", heads[0]);
    });
}

#[test]
fn the_request_goes_on_while_nobody_reads_the_response() {
    run(async {
        let a = origin(100, |(request, mut respond)| async move {
            let _send = respond.send_response(grpc_head(), false).expect("send");
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let (feed, body) = fed();
        let _response = gateway.handle(call(body, &[])).await;
        for _ in 0..100 {
            feed.data(vec![0; 16 * 1024]);
        }
        while feed.pulled.get() < 100 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_backend_that_does_not_read_holds_the_client_back() {
    run(async {
        let a = origin(100, |(request, mut respond)| async move {
            let _send = respond.send_response(grpc_head(), false).expect("send");
            let _unread = request.into_body();
            std::future::pending::<()>().await;
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let (feed, body) = fed();
        let _response = gateway.handle(call(body, &[])).await;
        for _ in 0..100 {
            feed.data(vec![0; 16 * 1024]);
        }
        // 64 KiB fit into the stream's window.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!((4..=6).contains(&feed.pulled.get()), "{} pieces", feed.pulled.get());
    });
}

#[test]
fn giving_up_cancels_the_stream() {
    run(async {
        let reset = Rc::new(Cell::new(None));
        let told = reset.clone();
        let a = origin(100, move |(request, mut respond)| {
            let told = told.clone();
            async move {
                let _unread = request.into_body();
                told.set(poll_fn(|cx| respond.poll_reset(cx)).await.ok());
            }
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let (_feed, body) = fed();
        {
            let handling = gateway.handle(call(body, &[]));
            let gone = tokio::time::timeout(Duration::from_millis(200), handling).await;
            assert!(gone.is_err());
        }
        while reset.get().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(reset.get(), Some(Reason::CANCEL));
        assert_eq!(gateway.in_flight("a"), 0);
        assert_eq!(gateway.pools.held(), (0, 1), "the connection lives on");
    });
}

#[test]
fn calls_share_a_connection_and_get_another_when_it_is_full() {
    run(async {
        let a = origin(3, echo).await;
        let gateway = Harness::start(&setup(a.address)).await;
        // The backend's limit is known once it has spoken.
        drop(gateway.handle(call(Body::from("x"), &[])).await);
        let mut open = Vec::new();
        for _ in 0..7 {
            let (feed, body) = fed();
            let mut response = gateway.handle(call(body, &[])).await;
            feed.data("ping");
            assert_eq!(text(&mut response).await, "ping");
            open.push((feed, response));
        }
        assert_eq!(a.accepted.get(), 3);
        open.clear();
        for _ in 0..20 {
            let mut response = gateway.handle(call(Body::from("x"), &[])).await;
            while text(&mut response).await != "end" {}
        }
        assert_eq!(a.accepted.get(), 3);
    });
}

#[test]
fn faults_are_grpc_statuses() {
    run(async {
        let a = origin(100, |exchange| async move {
            let _held = exchange;
            std::future::pending::<()>().await;
        })
        .await;
        let setup = setup(a.address);
        let gateway = Harness::start(&setup).await;
        let late = gateway.handle(call(Body::from("x"), &[("grpc-timeout", "100m")])).await;
        assert_eq!(late.head.status, StatusCode::OK);
        assert_eq!(late.head.headers.get("grpc-status"), Some(&b"4"[..]));
        assert!(late.body.is_empty());
        let mut nowhere = setup.clone();
        nowhere.backends[0].2.clear();
        gateway.apply(&nowhere);
        let response = gateway.handle(call(Body::from("x"), &[])).await;
        assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
        assert_eq!(response.head.headers.get("content-type"), Some(&b"application/grpc"[..]));
    });
}

#[test]
fn a_refused_stream_is_tried_again_and_a_broken_one_is_not() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let a = origin(100, move |(request, mut respond)| {
            let index = counted.get();
            counted.set(index + 1);
            async move {
                match index {
                    0 => respond.send_reset(Reason::REFUSED_STREAM),
                    1 => echo((request, respond)).await,
                    _ => respond.send_reset(Reason::INTERNAL_ERROR),
                }
            }
        })
        .await;
        let gateway = Harness::start(&setup(a.address)).await;
        let mut response = gateway.handle(call(Body::from("again"), &[])).await;
        assert_eq!(text(&mut response).await, "again");
        assert_eq!(count.get(), 2);
        let response = gateway.handle(call(Body::from("x"), &[])).await;
        assert_eq!(response.head.headers.get("grpc-status"), Some(&b"14"[..]));
        assert_eq!(count.get(), 3);
    });
}

#[test]
fn a_connection_that_goes_away_is_drained_and_replaced() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let accepted = Rc::new(Cell::new(0));
        let leave = Rc::new(tokio::sync::Notify::new());
        let (counted, leaving) = (accepted.clone(), leave.clone());
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                counted.set(counted.get() + 1);
                let leaving = leaving.clone();
                spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("a handshake");
                    loop {
                        tokio::select! {
                            next = connection.accept() => match next {
                                Some(Ok(exchange)) => { spawn_local(echo(exchange)); }
                                _ => return,
                            },
                            () = leaving.notified() => connection.graceful_shutdown(),
                        }
                    }
                });
            }
        });
        let gateway = Harness::start(&setup(address)).await;
        let (mut feed, body) = fed();
        let mut response = gateway.handle(call(body, &[])).await;
        leave.notify_one();
        // The first stream goes on, new ones find a new connection, none fails.
        while accepted.get() < 2 {
            let mut other = gateway.handle(call(Body::from("x"), &[])).await;
            assert_eq!(text(&mut other).await, "x");
        }
        feed.data("still here");
        assert_eq!(text(&mut response).await, "still here");
        feed.send = None;
        assert_eq!(text(&mut response).await, r#"{"grpc-status": "0"}"#);
    });
}

#[test]
fn a_client_of_http_1_reaches_a_backend_of_http_2() {
    run(async {
        let a = origin(100, |(request, mut respond)| async move {
            assert_eq!(request.uri().to_string(), "http://shop.example.com/path?q=1");
            assert!(request.headers().get("connection").is_none() && request.headers().get("host").is_none());
            let length = request.headers().get("content-length").cloned();
            let mut body = request.into_body();
            let mut all = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                all.extend_from_slice(&data);
            }
            let text = format!("{} {:?}", String::from_utf8_lossy(&all), length);
            let response =
                http::Response::builder().header("set-cookie", "a=b").body(()).expect("a response");
            let mut send = respond.send_response(response, false).expect("send");
            send.send_data(text.into(), true).expect("send");
        })
        .await;
        let mut setup = Setup::to(&[a.address]);
        setup.backends[0].1 = BackendProtocol::H2c;
        let gateway = Harness::start(&setup).await;
        let mut client = gateway.connect().await;
        let request = "POST /path?q=1 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(client.send(request).await, (200, r#"body Some("4")"#.into()));
        let chunked = "POST /path?q=1 HTTP/1.1\r\nHost: shop.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(client.send(chunked).await, (200, "abc None".into()));
        assert_eq!(a.accepted.get(), 1);
    });
}

/// A call over the wire: what to send on, and its response.
pub(crate) async fn wire_call(
    send: &h2::client::SendRequest<Bytes>,
) -> (h2::SendStream<Bytes>, h2::client::ResponseFuture) {
    let request = http::Request::post("http://grpc.example.com/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let mut send = send.clone().ready().await.expect("ready");
    let (response, stream) = send.send_request(request, false).expect("send");
    (stream, response)
}

#[test]
fn from_http_2_to_http_2_a_silent_call_lives_until_it_is_idle() {
    run_within(Duration::from_secs(3600), async {
        let a = origin(100, echo).await;
        let mut setup = setup(a.address);
        setup.limits.stream_idle_timeout = Duration::from_secs(300);
        let gateway = Harness::start(&setup).await;
        let send = gateway.connect_h2().await;
        let (mut stream, response) = wire_call(&send).await;
        let mut body = response.await.expect("a response").into_body();
        tokio::time::pause();
        for piece in ["one", "two"] {
            stream.send_data(Bytes::from_static(piece.as_bytes()), false).expect("send");
            assert_eq!(body.data().await.expect("a piece").expect("no error"), piece);
            // Longer than any single direction of a plain request may be silent.
            tokio::time::sleep(Duration::from_secs(200)).await;
        }
        let begun = tokio::time::Instant::now();
        assert!(body.data().await.expect("an end").is_err());
        assert!(begun.elapsed() < Duration::from_secs(200), "{:?}", begun.elapsed());
    });
}

#[test]
fn from_http_2_to_http_2_with_trailers_both_ways() {
    run(async {
        let a = origin(100, echo).await;
        let gateway = Harness::start(&setup(a.address)).await;
        let send = gateway.connect_h2().await;
        let (mut stream, response) = wire_call(&send).await;
        stream.send_data(Bytes::from_static(b"ping"), false).expect("send");
        let mut map = HeaderMap::new();
        map.insert("x-checksum", HeaderValue::from_static("abc"));
        stream.send_trailers(map).expect("send");
        let mut body = response.await.expect("a response").into_body();
        assert_eq!(body.data().await.expect("a piece").expect("no error"), "ping");
        assert!(body.data().await.is_none());
        let got = body.trailers().await.expect("no error").expect("trailers");
        assert_eq!(
            (&got["grpc-status"], &got["x-checksum"]),
            (&"0".parse().unwrap(), &"abc".parse().unwrap())
        );
    });
}

#[test]
fn many_calls_at_once_over_one_connection() {
    run(async {
        let a = origin(50, echo).await;
        let gateway = Harness::start(&setup(a.address)).await;
        let send = gateway.connect_h2().await;
        let calls = (0..100).map(|index| {
            let send = send.clone();
            async move {
                let (mut stream, response) = wire_call(&send).await;
                let text = format!("{index} ").repeat(10_000);
                let mut left = Bytes::from(text.clone());
                let sending = async {
                    while !left.is_empty() {
                        stream.reserve_capacity(left.len());
                        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("room");
                        let piece = left.split_to(room.min(left.len()));
                        let last = left.is_empty();
                        stream.send_data(piece, last).expect("send");
                    }
                };
                let reading = async {
                    let mut body = response.await.expect("a response").into_body();
                    let mut all = Vec::new();
                    while let Some(data) = body.data().await {
                        let data = data.expect("no error");
                        let _ = body.flow_control().release_capacity(data.len());
                        all.extend_from_slice(&data);
                    }
                    assert_eq!(
                        body.trailers().await.expect("no error").expect("trailers")["grpc-status"],
                        "0"
                    );
                    all
                };
                let ((), got) = tokio::join!(sending, reading);
                assert!(got == text.as_bytes(), "call {index}: {} bytes of {}", got.len(), text.len());
            }
        });
        futures_util::future::join_all(calls).await;
        assert_eq!(gateway.in_flight("a"), 0);
    });
}

#[test]
fn idle_http_2_connections_are_closed_too() {
    run_within(Duration::from_secs(3600), async {
        let a = origin(50, echo).await;
        let gateway = Harness::start(&setup(a.address)).await;
        drop(gateway.handle(call(Body::from("x"), &[])).await);
        assert_eq!(gateway.pools.held(), (0, 1));
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(gateway.pools.held(), (0, 0));
    });
}
