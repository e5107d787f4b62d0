//! Flow control, seen by a client that is not ours.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::http::h2::server;
use portway_proxy::http::{Body, Request, Response};
use portway_proxy::observe::Recorder;
use portway_testkit::engine::{Answering, connection, drained};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

/// What `GET /large` answers.
const LARGE: usize = 300_000;

/// A connection to a server that answers `/large` with much, and all else with the body that it got.
async fn connect(
    builder: h2::client::Builder,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    spawn_local(async move {
        let handler = Answering(|mut request: Request| async move {
            if request.head.target.path() == "/large" {
                return Response::new(StatusCode::OK, Body::from(Bytes::from(vec![b'l'; LARGE])));
            }
            let (body, ..) = drained(&mut request.body).await;
            Response::new(StatusCode::OK, Body::from(Bytes::from(body)))
        });
        let limits = Rc::default();
        let settings = server::Settings {
            limits: &limits,
            recorder: Rc::new(Recorder::detached()),
            drain: Drain::default().watch(),
        };
        server::serve(theirs, Bytes::new(), connection(), Rc::new(handler), settings).await;
    });
    let (send, connection) = builder.handshake(ours).await.expect("a handshake");
    (send, spawn_local(connection))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let test = async { timeout(Duration::from_secs(60), test).await.expect("in time") };
    runtime.block_on(LocalSet::new().run_until(test));
}

fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://x{path}")).body(()).expect("a request")
}

/// Reads so many bytes of a body, in pieces, and gives the window back for each.
async fn read(body: &mut h2::RecvStream, most: usize) -> usize {
    let mut count = 0;
    while count < most
        && let Some(data) = body.data().await
    {
        let data = data.expect("no error");
        count += data.len();
        body.flow_control().release_capacity(data.len()).expect("a window");
    }
    count
}

#[test]
fn a_large_answer_comes_through_a_small_window() {
    for window in [1, 100, 65_535] {
        run(async move {
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(65_535);
            let (mut send, _connection) = connect(builder).await;
            let (response, _) = send.send_request(get("/large"), true).expect("send");
            let mut body = response.await.expect("a response").into_body();
            let enough = if window == 1 { 2_000 } else { LARGE };
            assert!(read(&mut body, enough).await >= enough);
        });
    }
}

#[test]
fn one_who_does_not_read_a_stream_gets_the_others() {
    run(async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(50_000).initial_connection_window_size(1 << 20);
        let (mut send, _connection) = connect(builder).await;
        let mut unread = Vec::new();
        for _ in 0..10 {
            let (response, _) = send.send_request(get("/large"), true).expect("send");
            unread.push(response.await.expect("a response").into_body());
        }
        let (response, _) = send.send_request(get("/large"), true).expect("send");
        let mut body = response.await.expect("a response").into_body();
        assert_eq!(read(&mut body, usize::MAX).await, LARGE);
        // Those that waited have lost nothing.
        for mut body in unread {
            assert_eq!(read(&mut body, usize::MAX).await, LARGE);
        }
    });
}

#[test]
fn streams_share_the_connections_window() {
    run(async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(65_535);
        let (mut send, _connection) = connect(builder).await;
        let mut bodies = Vec::new();
        for _ in 0..4 {
            let (response, _) = send.send_request(get("/large"), true).expect("send");
            bodies.push(response.await.expect("a response").into_body());
        }
        // Each has had about the same when the first is done.
        let mut counts = [0; 4];
        while counts.iter().all(|count| *count < LARGE) {
            let (index, data) = poll_fn(|cx| {
                for (index, body) in bodies.iter_mut().enumerate() {
                    if let std::task::Poll::Ready(Some(data)) = body.poll_data(cx) {
                        return std::task::Poll::Ready((index, data.expect("no error")));
                    }
                }
                std::task::Poll::Pending
            })
            .await;
            counts[index] += data.len();
            bodies[index].flow_control().release_capacity(data.len()).expect("a window");
        }
        assert!(counts.iter().all(|count| *count > LARGE / 2), "{counts:?}");
    });
}

#[test]
fn a_body_of_many_small_frames_comes_whole() {
    run(async {
        let (mut send, _connection) = connect(h2::client::Builder::new()).await;
        let request = http::Request::post("http://x/").body(()).expect("a request");
        let (response, mut stream) = send.send_request(request, false).expect("send");
        for n in 0..100_000u32 {
            stream.reserve_capacity(1);
            poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("room");
            stream.send_data(Bytes::copy_from_slice(&[n as u8]), n == 99_999).expect("send");
        }
        let mut body = response.await.expect("a response").into_body();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.expect("no error");
            all.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).expect("a window");
        }
        assert!(all.len() == 100_000 && all.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    });
}
