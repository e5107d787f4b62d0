//! From a client through to a backend, with hyper for the backend: one request in, at most one request out.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portway_proxy::drain::Drain;
use portway_proxy::http::h1::{self, Client, SendOptions, Settings};
use portway_proxy::http::{Request, Response, reply};
use portway_testkit::engine::{Answering, Pieces, connection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

use crate::harness::{channel, run, run_paused};
use crate::hostile;

/// What the backend saw: requests, and for each whether its body came whole.
type Seen = Rc<RefCell<Vec<(String, bool)>>>;

type Backends = Rc<RefCell<Vec<JoinHandle<()>>>>;

async fn backend(io: DuplexStream, seen: Seen) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let fields = ["content-length", "transfer-encoding"].map(|name| head.headers.contains_key(name));
            assert_ne!(fields, [true, true], "ambiguous framing");
            let line = format!("{} {}", head.method, head.uri);
            seen.borrow_mut().push((line, false));
            let whole = body.collect().await.is_ok();
            if let Some(last) = seen.borrow_mut().last_mut() {
                last.1 = whole;
            }
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"ok"))))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

/// Sends the request on, over a connection of its own.
async fn forward(request: Request, seen: Seen, backends: Backends) -> Response {
    let (near, far) = tokio::io::duplex(4096);
    backends.borrow_mut().push(tokio::task::spawn_local(backend(far, seen)));
    let options = SendOptions {
        expects_continue: request.expects_continue,
        upgrade: request.upgrade,
        informational: request.informational,
        read_limit: usize::MAX,
        recycle: None,
    };
    match Client::new(near).send(&request.head, request.body, options).await {
        Ok(answer) => {
            Response { head: answer.head, body: answer.body, tunnel: answer.tunnel, exchange: None }
        }
        Err(error) => reply::fault(error.fault.kind),
    }
}

#[test]
fn the_backend_sees_the_accepted_requests_and_nothing_else() {
    run_paused(async {
        for case in hostile::cases() {
            let seen = Seen::default();
            let backends = Backends::default();
            let (record, keep) = (seen.clone(), backends.clone());
            let handler = Answering(move |request| forward(request, record.clone(), keep.clone()));
            let wire = [&case.payload, hostile::SMUGGLED.as_bytes()].concat();
            let client = Pieces::new(vec![Bytes::from(wire)], Rc::default()).open();
            let watch = Drain::default().watch();
            h1::serve(client, Bytes::new(), connection(), &handler, &hostile::settings(), watch).await;
            for backend in backends.take() {
                backend.await.unwrap();
            }
            let seen = seen.take();
            let told = format!("{}: the backend saw {seen:?}", case.name);
            match (case.verdict(), case.get("then")) {
                ("200", then) => {
                    assert_eq!(seen.len(), if then == Some("smuggled") { 2 } else { 1 }, "{told}");
                    assert!(seen.iter().all(|(_, whole)| *whole), "{told}");
                }
                // It may have seen the head, but never a body's clean end.
                ("body", _) => {
                    assert!(seen.len() <= 1 && seen.iter().all(|(_, whole)| !whole), "{told}");
                }
                _ => assert!(seen.is_empty(), "{told}"),
            }
        }
    });
}

/// Counts what would be system calls.
struct Counting {
    io: DuplexStream,
    calls: Rc<RefCell<(u32, u32)>>,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.calls.borrow_mut().0 += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.calls.borrow_mut().1 += 1;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.calls.borrow_mut().1 += 1;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[test]
fn a_small_exchange_is_one_read_and_one_write_on_each_side() {
    run(async {
        let calls: Rc<RefCell<(u32, u32)>> = Rc::default();
        let (mut client, near) = tokio::io::duplex(1 << 20);
        let server = Counting { io: near, calls: calls.clone() };
        let upstream_calls: Rc<RefCell<(u32, u32)>> = Rc::default();
        let count = upstream_calls.clone();
        let handler = Answering(move |request: Request| {
            let (near, mut far) = tokio::io::duplex(4096);
            let near = Counting { io: near, calls: count.clone() };
            async move {
                tokio::task::spawn_local(async move {
                    let mut request = [0; 4096];
                    let _ = far.read(&mut request).await;
                    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
                    let _ = far.write_all(answer.as_bytes()).await;
                });
                let options = SendOptions {
                    expects_continue: false,
                    upgrade: None,
                    informational: None,
                    read_limit: usize::MAX,
                    recycle: None,
                };
                let sent = Client::new(near).send(&request.head, request.body, options).await;
                let answer = sent.ok().unwrap();
                Response { head: answer.head, body: answer.body, tunnel: None, exchange: None }
            }
        });
        tokio::task::spawn_local(async move {
            let watch = Drain::default().watch();
            h1::serve(server, Bytes::new(), connection(), &handler, &Settings::default(), watch).await
        });
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"2\r\nok\r\n0\r\n\r\n") {
            all.push(client.read_u8().await.unwrap());
        }
        assert_eq!((*calls.borrow(), *upstream_calls.borrow()), ((1, 1), (1, 1)));
    });
}

#[test]
fn a_large_body_is_one_vectored_write_for_each_piece() {
    run(async {
        let calls: Rc<RefCell<(u32, u32)>> = Rc::default();
        let (mut client, near) = tokio::io::duplex(1 << 20);
        let server = Counting { io: near, calls: calls.clone() };
        let handler = Answering(|_| {
            let (feed, body) = channel();
            tokio::task::spawn_local(async move {
                feed.bytes(Bytes::from(vec![b'x'; 60_000])).await;
                feed.bytes(Bytes::from(vec![b'x'; 60_000])).await;
            });
            std::future::ready(Response::new(StatusCode::OK, body))
        });
        tokio::task::spawn_local(async move {
            let watch = Drain::default().watch();
            h1::serve(server, Bytes::new(), connection(), &handler, &Settings::default(), watch).await
        });
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n0\r\n\r\n") {
            client.read_buf(&mut all).await.unwrap();
        }
        // The head, or the head with the first piece; two pieces; the last chunk.
        assert!(calls.borrow().1 <= 4, "{} writes", calls.borrow().1);
        assert!(all.len() > 120_000);
    });
}
