//! Time: clients that are slow, and workers that drain. The clock is the runtime's, and jumps to whatever is
//! due as soon as nothing else can happen.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use portway_proxy::drain::Drain;
use portway_proxy::fault::FaultKind;
use portway_proxy::http::h1::{self, End, Settings};
use portway_proxy::http::{Body, Connection, Counted, Handler, Request, Response, TlsInfo, reply};
use portway_testkit::engine::{Answering, connection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::harness::{channel, collect, run_paused as run};

fn served<H: Handler + 'static>(handler: H, drain: &Drain, buffer: usize) -> (DuplexStream, JoinHandle<End>) {
    let (client, server) = tokio::io::duplex(buffer);
    let watch = drain.watch();
    let task = tokio::task::spawn_local(async move {
        h1::serve(server, Bytes::new(), connection(), &handler, &Settings::default(), watch).await
    });
    (client, task)
}

/// Reads the body; says how that went.
async fn sink(request: Request) -> Response {
    match collect(request.body).await {
        Ok(_) => Response::new(StatusCode::OK, Body::Empty),
        Err(fault) => reply::fault(fault.kind),
    }
}

async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    all
}

async fn read_head(client: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n") {
        all.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(all).unwrap()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

#[test]
fn an_idle_connection_is_closed_a_minute_after_its_last_request() {
    run(async {
        let began = Instant::now();
        let (mut client, task) = served(Answering(sink), &Drain::default(), 4096);
        for _ in 0..3 {
            sleep(Duration::from_secs(50)).await;
            client.write_all(GET).await.unwrap();
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(read_to_end(&mut client).await, "");
        assert_eq!((task.await.unwrap(), seconds(began)), (End::Idle, 150 + 60));
    });
}

#[test]
fn a_head_has_ten_seconds_however_it_drips() {
    run(async {
        let (client, task) = served(Answering(sink), &Drain::default(), 4096);
        sleep(Duration::from_secs(30)).await;
        let began = Instant::now();
        let (mut reading, mut writing) = tokio::io::split(client);
        let drip = tokio::task::spawn_local(async move {
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().chain(&[b'x'; 100]) {
                if writing.write_u8(*byte).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        let mut all = String::new();
        reading.read_to_string(&mut all).await.unwrap();
        assert!(all.starts_with("HTTP/1.1 408 ") && all.contains("connection: close\r\n"), "{all}");
        assert_eq!(seconds(began), 10);
        drip.abort();
        drop(reading);
        assert_eq!(task.await.unwrap(), End::Rejected(FaultKind::RequestTimeout));
    });
}

#[test]
fn a_body_has_thirty_seconds_for_each_byte() {
    run(async {
        let began = Instant::now();
        let (mut client, task) = served(Answering(sink), &Drain::default(), 4096);
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await.unwrap();
        for _ in 0..4 {
            sleep(Duration::from_secs(25)).await;
            client.write_all(b"x").await.unwrap();
        }
        let all = read_to_end(&mut client).await;
        assert!(all.starts_with("HTTP/1.1 408 ") && all.contains("connection: close\r\n"), "{all}");
        assert_eq!(seconds(began), 4 * 25 + 30);
        drop(client);
        assert_eq!(task.await.unwrap(), End::Finished);
    });
}

#[test]
fn a_body_pulled_by_another_task_is_timed_too() {
    run(async {
        let began = Instant::now();
        let handler = Answering(|mut request: Request| async move {
            let pull = tokio::task::spawn_local(async move { request.body.frame().await });
            let fault = pull.await.unwrap().unwrap().unwrap_err();
            reply::fault(fault.kind)
        });
        let (mut client, _task) = served(handler, &Drain::default(), 4096);
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 408 "));
        assert_eq!(seconds(began), 30);
    });
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    run(async {
        let began = Instant::now();
        let handler = Answering(|_| async {
            Response::new(StatusCode::OK, Body::Full(Bytes::from(vec![b'x'; 1_000_000])))
        });
        let (mut client, task) = served(handler, &Drain::default(), 256);
        client.write_all(GET).await.unwrap();
        for _ in 0..3 {
            // As long as it takes something, it is waited for.
            sleep(Duration::from_secs(20)).await;
            client.read_exact(&mut [0; 256]).await.unwrap();
        }
        assert_eq!(task.await.unwrap(), End::WriteTimeout);
        assert_eq!(seconds(began), 3 * 20 + 30);
    });
}

/// Takes all at once and writes it when it is flushed, as TLS does with its last 64 KiB.
struct Buffering {
    io: Counted<DuplexStream>,
    buffered: BytesMut,
}

impl AsyncRead for Buffering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.buffered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, buffered } = &mut *self;
        while !buffered.is_empty() {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, buffered))?;
            buffered.advance(count);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[test]
fn what_a_slow_client_takes_is_seen_below_tls() {
    run(async {
        let began = Instant::now();
        let (mut client, server) = tokio::io::duplex(256);
        let io = Counted::new(server);
        let local = "127.0.0.1:443".parse().unwrap();
        let tls = Some(TlsInfo { server_name: None });
        let mut connection = Connection::new(local, local, 443);
        (connection.tls, connection.taken) = (tls, Some(io.taken()));
        let task = tokio::task::spawn_local(async move {
            let handler = Answering(|_| async {
                Response::new(StatusCode::OK, Body::Full(Bytes::from(vec![b'x'; 60_000])))
            });
            let io = Buffering { io, buffered: BytesMut::new() };
            let drain = Drain::default();
            let settings = Settings::default();
            h1::serve(io, Bytes::new(), Rc::new(connection), &handler, &settings, drain.watch()).await
        });
        client.write_all(GET).await.unwrap();
        for _ in 0..5 {
            sleep(Duration::from_secs(20)).await;
            client.read_exact(&mut [0; 256]).await.unwrap();
        }
        assert_eq!(task.await.unwrap(), End::WriteTimeout);
        assert_eq!(seconds(began), 5 * 20 + 30);
    });
}

#[test]
fn a_handler_may_take_as_long_as_it_likes() {
    run(async {
        let handler = Answering(|_| async {
            sleep(Duration::from_secs(3600)).await;
            Response::new(StatusCode::OK, Body::Empty)
        });
        let (mut client, _task) = served(handler, &Drain::default(), 4096);
        client.write_all(GET).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn a_drain_closes_idle_connections_and_lets_requests_finish() {
    run(async {
        let drain = Drain::default();
        let (mut idle, idle_task) = served(Answering(sink), &drain, 4096);
        let (feed, body) = channel();
        let body = std::cell::Cell::new(Some(body));
        let handler =
            Answering(move |_| std::future::ready(Response::new(StatusCode::OK, body.take().unwrap())));
        let (mut busy, busy_task) = served(handler, &drain, 4096);
        busy.write_all(GET).await.unwrap();
        feed.send("first").await;
        read_head(&mut busy).await;

        let began = Instant::now();
        drain.begin(Instant::now() + Duration::from_secs(30));
        assert_eq!(read_to_end(&mut idle).await, "");
        assert_eq!((idle_task.await.unwrap(), seconds(began)), (End::Drained, 0));
        feed.send("last").await;
        drop(feed);
        let mut rest = String::new();
        while !rest.ends_with("0\r\n\r\n") {
            rest.push(char::from(busy.read_u8().await.unwrap()));
        }
        assert_eq!(rest, "5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n");
        assert_eq!(read_to_end(&mut busy).await, "");
        drop(busy);
        assert_eq!(busy_task.await.unwrap(), End::Drained);
    });
}

#[test]
fn a_request_that_begins_while_the_worker_drains_is_the_last() {
    run(async {
        let drain = Drain::default();
        let (mut client, task) = served(Answering(sink), &drain, 4096);
        client.write_all(&GET[..10]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        drain.begin(Instant::now() + Duration::from_secs(30));
        client.write_all(&GET[10..]).await.unwrap();
        let all = read_to_end(&mut client).await;
        assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("connection: close\r\n"), "{all}");
        drop(client);
        assert_eq!(task.await.unwrap(), End::Drained);
    });
}

/// A tunnel to what is returned, which is the backend's side.
fn tunnelled(drain: &Drain) -> (DuplexStream, DuplexStream, JoinHandle<End>) {
    let (near, far) = tokio::io::duplex(4096);
    let near = Rc::new(std::cell::Cell::new(Some(near)));
    let handler = Answering(move |request: Request| {
        assert_eq!(request.upgrade.as_deref(), Some(&b"websocket"[..]));
        let mut response = Response::new(StatusCode::SWITCHING_PROTOCOLS, Body::Empty);
        response.head.headers.append("Upgrade", "websocket");
        response.tunnel = near.take().map(|near| Box::new(near) as Box<dyn portway_proxy::http::Tunnel>);
        std::future::ready(response)
    });
    let (client, task) = served(handler, drain, 4096);
    (client, far, task)
}

const HANDSHAKE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nahead";

#[test]
fn a_tunnel_copies_both_ways_and_closes_each_way_apart() {
    run(async {
        let (mut client, mut far, task) = tunnelled(&Drain::default());
        client.write_all(HANDSHAKE).await.unwrap();
        let head = read_head(&mut client).await;
        assert_eq!(
            head,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        );
        let mut ahead = [0; 5];
        far.read_exact(&mut ahead).await.unwrap();
        assert_eq!(&ahead, b"ahead");
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut far).await, "last");
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut client).await, "answer");
        assert_eq!(task.await.unwrap(), End::Tunnel);
    });
}

#[test]
fn a_tunnel_ends_an_hour_after_its_last_byte_or_at_the_drain_s_deadline() {
    run(async {
        let (mut client, mut far, task) = tunnelled(&Drain::default());
        let began = Instant::now();
        client.write_all(HANDSHAKE).await.unwrap();
        sleep(Duration::from_secs(3000)).await;
        far.write_all(b"x").await.unwrap();
        assert_eq!((task.await.unwrap(), seconds(began)), (End::Tunnel, 3000 + 3600));

        let drain = Drain::default();
        let (mut client, _far, task) = tunnelled(&drain);
        client.write_all(HANDSHAKE).await.unwrap();
        read_head(&mut client).await;
        let began = Instant::now();
        drain.begin(Instant::now() + Duration::from_secs(30));
        assert_eq!((task.await.unwrap(), seconds(began)), (End::Tunnel, 30));
    });
}

#[test]
fn a_tunnel_of_which_one_side_has_closed_ends_a_minute_after_its_last_byte() {
    run(async {
        for client_closes in [true, false] {
            let (mut client, mut far, task) = tunnelled(&Drain::default());
            client.write_all(HANDSHAKE).await.unwrap();
            read_head(&mut client).await;
            sleep(Duration::from_secs(600)).await;
            let began = Instant::now();
            let (closes, stays) =
                if client_closes { (&mut client, &mut far) } else { (&mut far, &mut client) };
            closes.shutdown().await.unwrap();
            for _ in 0..3 {
                sleep(Duration::from_secs(50)).await;
                stays.write_all(b"x").await.unwrap();
            }
            assert_eq!((task.await.unwrap(), seconds(began)), (End::Tunnel, 3 * 50 + 60));
        }
    });
}

/// A handler whose futures are large.
struct Large;

impl Handler for Large {
    async fn handle(&self, request: Request) -> Response {
        let room = [0u8; 16_384];
        let response = sink(request).await;
        assert_eq!(room.iter().filter(|byte| **byte != 0).count(), 0);
        response
    }
}

#[test]
fn a_connection_keeps_no_room_for_a_request_while_it_has_none() {
    let (_client, server) = tokio::io::duplex(1);
    let (settings, drain) = (Settings::default(), Drain::default());
    let task = h1::serve(server, Bytes::new(), connection(), &Large, &settings, drain.watch());
    let size = std::mem::size_of_val(&task);
    assert!(size <= 1024, "the task of a connection takes {size} bytes");
}
