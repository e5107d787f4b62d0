//! The clients' side of HTTP/2: one task drives a connection, and one more each of its streams.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, interval_at, sleep, timeout};

use super::body::{self, Incoming, SendError};
use super::fields;
use super::request::{self, Received};
use super::wire::{Outflow, Wire};
use crate::drain::DrainWatch;
use crate::fault::{Fault, FaultKind};
use crate::http::{Body, BodySource, Connection, Frame, Handler, Request, Response, ResponseHead, reply};
use crate::limits::Limits;
use crate::observe::Recorder;

/// How a connection is served.
pub struct Settings<'a> {
    /// Limits on the client.
    pub limits: &'a Rc<Limits>,
    /// Where faults and panics are counted.
    pub recorder: Rc<Recorder>,
    /// When to go away.
    pub drain: DrainWatch,
}

/// Streams that a client may cancel before their answer beyond those that it lets end; then the connection
/// is ended (CVE-2023-44487, where the `h2` crate does not see it because the stream was accepted before).
const CANCELLED: u64 = 256;

/// Serves one connection until its end. `initial` is what has already been read from it.
pub async fn serve<I, H>(
    io: I,
    initial: Bytes,
    connection: Rc<Connection>,
    handler: Rc<H>,
    settings: Settings<'_>,
) where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler + 'static,
{
    let Settings { limits, recorder, mut drain } = settings;
    let http2 = &limits.http2;
    let received = Rc::new(Cell::new(0));
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(http2.concurrent_streams)
        .initial_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        .max_frame_size(http2.frame_bytes)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(http2.send_buffer)
        .max_pending_accept_reset_streams(http2.pending_resets)
        .max_local_error_reset_streams(Some(http2.own_resets));
    let outflow = Rc::new(Outflow::new(connection.taken.clone()));
    let wired = Wire::new(io, initial, received.clone(), outflow.clone());
    let handshake = builder.handshake::<_, Bytes>(wired);
    let Ok(Ok(mut wire)) = timeout(limits.head_timeout, handshake).await else { return };
    let streams = Rc::new(Streams {
        recorder,
        limits: limits.clone(),
        connection,
        outflow,
        open: Cell::default(),
        ended: Cell::default(),
        cancelled: Cell::default(),
    });
    let mut life = Life::new(&mut wire, received, limits);
    loop {
        let accepted = poll_fn(|cx| {
            if !life.leaving && drain.poll_draining(cx).is_ready() {
                life.leave(&mut wire);
            }
            if life.poll_dead(cx, &mut wire, &streams).is_ready() {
                return Poll::Ready(None);
            }
            wire.poll_accept(cx)
        });
        let Some(Ok((request, respond))) = accepted.await else { return };
        streams.open.set(streams.open.get() + 1);
        if !life.leaving && drain.is_draining() {
            // A drain is announced: this request is served, further ones come on another connection.
            life.leave(&mut wire);
        }
        if streams.cancelled.get() > CANCELLED + streams.ended.get() {
            wire.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        let served = Stream { streams: streams.clone() }.serve(request, respond, handler.clone());
        tokio::task::spawn_local(served);
    }
}

/// What the streams of a connection share.
struct Streams {
    recorder: Rc<Recorder>,
    limits: Rc<Limits>,
    connection: Rc<Connection>,
    outflow: Rc<Outflow>,
    open: Cell<u32>,
    /// Streams that ended with an answer.
    ended: Cell<u64>,
    /// Streams that the client reset before their answer.
    cancelled: Cell<u64>,
}

/// Whether the connection is still of use.
struct Life {
    ping: Option<h2::PingPong>,
    /// When the PING that waits for its answer was sent.
    pinged: Option<Instant>,
    received: Rc<Cell<u64>>,
    received_before: u64,
    taken_before: u64,
    tick: tokio::time::Interval,
    idle_since: Instant,
    leaving: bool,
    expires: Option<Instant>,
    idle_timeout: Duration,
    ping_interval: Duration,
    ping_timeout: Duration,
    heard: Instant,
}

impl Life {
    fn new<I>(
        wire: &mut h2::server::Connection<Wire<I>, Bytes>,
        received: Rc<Cell<u64>>,
        limits: &Limits,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let http2 = &limits.http2;
        let now = Instant::now();
        let every = http2.idle_timeout.min(http2.ping_interval).min(http2.ping_timeout);
        let every = every.max(Duration::from_millis(10));
        // Spread, so that clients that came together do not go together.
        let age = |age: Duration| now + age.mul_f64(rand::random_range(0.9..1.1));
        Self {
            ping: wire.ping_pong(),
            pinged: None,
            received_before: received.get(),
            taken_before: 0,
            received,
            tick: interval_at(now + every, every),
            idle_since: now,
            leaving: false,
            expires: http2.max_age.map(age),
            idle_timeout: http2.idle_timeout,
            ping_interval: http2.ping_interval,
            ping_timeout: http2.ping_timeout,
            heard: now,
        }
    }

    /// Two-step GOAWAY (RFC 9113 section 6.8): first one that refuses nothing, and when the client has seen
    /// that, one with the last stream.
    fn leave<I>(&mut self, wire: &mut h2::server::Connection<Wire<I>, Bytes>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        wire.graceful_shutdown();
        self.leaving = true;
        self.idle_since = Instant::now();
    }

    /// Ready when the connection is to be dropped. Begins to leave when it is idle or old, and asks a silent
    /// peer whether it lives.
    fn poll_dead<I>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut h2::server::Connection<Wire<I>, Bytes>,
        streams: &Streams,
    ) -> Poll<()>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(ping) = &mut self.ping
            && self.pinged.is_some()
            && ping.poll_pong(cx).is_ready()
        {
            self.pinged = None;
        }
        loop {
            ready!(self.tick.poll_tick(cx));
            let now = Instant::now();
            if self.received.get() != self.received_before {
                self.received_before = self.received.get();
                self.heard = now;
            }
            if streams.outflow.advances(&mut self.taken_before) {
                // A PING waits behind what a slow client takes, which may be the rest of streams that have
                // ended here.
                self.heard = now;
                self.idle_since = now;
            }
            if self.pinged.is_some_and(|at| now - at >= self.ping_timeout && self.heard < at) {
                return Poll::Ready(());
            }
            let open = streams.open.get() > 0;
            if open {
                self.idle_since = now;
            }
            if self.leaving {
                // The client has had its time to answer the first GOAWAY.
                if !open && now - self.idle_since >= self.ping_timeout {
                    return Poll::Ready(());
                }
            } else if now - self.idle_since >= self.idle_timeout || self.expires.is_some_and(|at| now >= at) {
                self.leave(wire);
            }
            if open && self.pinged.is_none() && now - self.heard >= self.ping_interval {
                let sent = self.ping.as_mut().map(|ping| ping.send_ping(h2::Ping::opaque()));
                self.pinged = sent.and_then(Result::ok).map(|()| now);
            }
        }
    }
}

/// One stream; counts as open while it exists.
struct Stream {
    streams: Rc<Streams>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.open.set(self.streams.open.get() - 1);
    }
}

/// The sending side of a stream, also for 1xx responses while the request is handled.
type Sender = Rc<RefCell<SendResponse<Bytes>>>;

impl Stream {
    async fn serve<H: Handler>(
        self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        handler: Rc<H>,
    ) {
        let sender = Rc::new(RefCell::new(respond));
        let answered = AssertUnwindSafe(self.answer(request, &sender, &*handler)).catch_unwind().await;
        let count = |cell: &Cell<u64>| cell.set(cell.get() + 1);
        match answered {
            Ok(Some(())) => count(&self.streams.ended),
            Ok(None) => count(&self.streams.cancelled),
            Err(_) => {
                self.streams.recorder.counts.panics.add(1);
                let mut sender = sender.borrow_mut();
                // Where the head has been sent already, this fails, and the stream is reset.
                let response = plain(StatusCode::INTERNAL_SERVER_ERROR);
                if sender.send_response(response, true).is_err() {
                    sender.send_reset(Reason::INTERNAL_ERROR);
                }
            }
        }
    }

    /// `None` when the client has reset the stream before its answer.
    async fn answer<H: Handler>(
        &self,
        request: http::Request<RecvStream>,
        sender: &Sender,
        handler: &H,
    ) -> Option<()> {
        let (parts, stream) = request.into_parts();
        let Streams { recorder, limits, connection, outflow, .. } = &*self.streams;
        let is_head = parts.method == Method::HEAD;
        let response = match request::receive(&parts, connection.tls.is_some(), limits) {
            Ok(received) => {
                let request = self.request(received, stream, sender);
                let mut handled = pin!(handler.handle(request));
                poll_fn(|cx| match handled.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => sender.borrow_mut().poll_reset(cx).map(|_| None),
                })
                .await?
            }
            Err((kind, detail)) => {
                recorder.refused(connection, kind, detail);
                reply::fault(kind)
            }
        };
        send(sender, response, is_head, limits.send_timeout, outflow).await;
        Some(())
    }

    fn request(&self, received: Received, stream: RecvStream, sender: &Sender) -> Request {
        let Received { head, expects_continue, content_length } = received;
        // A stream of gRPC may be silent in one direction for as long as the call likes; what bounds it is
        // the call as a whole.
        let grpc = reply::is_grpc(head.headers.get("content-type"));
        let body = if stream.is_end_stream() {
            Body::Empty
        } else {
            Body::Stream(Box::new(ClientBody {
                incoming: Incoming::new(stream, content_length, |error| {
                    Some(if error.is_io() || (error.is_reset() && error.is_remote()) {
                        FaultKind::ClientGone.into()
                    } else {
                        Fault::new(FaultKind::BadRequest, error)
                    })
                }),
                proceed: expects_continue.then(|| sender.clone()),
                patience: (!grpc).then_some(self.streams.limits.body_timeout),
                waiting: None,
            }))
        };
        let sender = sender.clone();
        let informational = move |head: ResponseHead| {
            let Ok(headers) = fields::to_send(&head.headers) else { return };
            let mut response = plain(head.status);
            *response.headers_mut() = headers;
            // A client that is gone, or has its answer, needs no interim response.
            let _ = sender.borrow_mut().send_informational(response);
        };
        Request {
            head,
            body,
            upgrade: None,
            expects_continue,
            informational: Some(Rc::new(informational)),
            connection: self.streams.connection.clone(),
        }
    }
}

/// A request's body: sends `100 Continue` when it is wanted, and waits only so long for each piece, if there
/// is a limit.
struct ClientBody {
    incoming: Incoming,
    proceed: Option<Sender>,
    patience: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl BodySource for ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if let Some(sender) = self.proceed.take() {
            // A client that is gone shows when the body is read.
            let _ = sender.borrow_mut().send_informational(plain(StatusCode::CONTINUE));
        }
        if let Poll::Ready(frame) = self.incoming.poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame);
        }
        let Some(patience) = self.patience else { return Poll::Pending };
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Some(Err(FaultKind::RequestTimeout.into())))
    }

    fn remaining(&self) -> Option<u64> {
        self.incoming.remaining()
    }
}

fn plain(status: StatusCode) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = status;
    response
}

/// Sends a response; a client that takes nothing of its body for so long is given up.
async fn send(sender: &Sender, response: Response, is_head: bool, patience: Duration, outflow: &Outflow) {
    let Response { head, mut body, mut exchange, tunnel: _ } = response;
    let mut message = plain(head.status);
    let end = is_head || body.is_empty() || matches!(head.status.as_u16(), 204 | 304);
    match fields::to_send(&head.headers) {
        Ok(headers) => *message.headers_mut() = headers,
        Err(fault) => {
            message = plain(fault.kind.status());
            body = Body::Empty;
            exchange.iter_mut().for_each(|e| e.set_fault(&fault));
        }
    }
    if !end && let Some(length) = body.remaining() {
        message.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    let end = end || body.is_empty();
    let sent = sender.borrow_mut().send_response(message, end);
    let gone = |exchange: &mut Option<Box<crate::observe::Exchange>>| {
        exchange.iter_mut().for_each(|e| e.fault = e.fault.or(Some(FaultKind::ClientGone)));
    };
    let mut stream = match sent {
        Ok(_) if end => {
            exchange.iter_mut().for_each(|e| e.complete = true);
            return;
        }
        Ok(stream) => stream,
        Err(_) => return gone(&mut exchange),
    };
    let count = |n| exchange.iter_mut().for_each(|e| e.count_sent(n));
    match body::send(&mut stream, &mut body, patience, Some(outflow), count).await {
        Ok(()) => exchange.iter_mut().for_each(|e| e.complete = true),
        Err(SendError::Body(fault)) => {
            stream.send_reset(Reason::INTERNAL_ERROR);
            exchange.iter_mut().for_each(|e| e.set_fault(&fault));
        }
        Err(SendError::Stalled) => {
            stream.send_reset(Reason::CANCEL);
            gone(&mut exchange);
        }
        Err(SendError::Reset(_) | SendError::Connection(_)) => gone(&mut exchange),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::ReadBuf;

    use super::*;
    use crate::drain::Drain;

    /// Panics when it is told to, before the response or within its body.
    struct Panics;

    impl Handler for Panics {
        async fn handle(&self, request: Request) -> Response {
            match request.head.target.path() {
                "/now" => panic!("as the test wants"),
                "/later" => Response::new(StatusCode::OK, Body::Stream(Box::new(PanickingBody))),
                _ => Response::new(StatusCode::OK, Body::from("fine")),
            }
        }
    }

    struct PanickingBody;

    impl BodySource for PanickingBody {
        fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            panic!("as the test wants")
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_stream_only() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let recorder = Rc::new(Recorder::detached());
        let test = async {
            let limits = Rc::new(Limits::default());
            let local = "127.0.0.1:1".parse().unwrap();
            let connection = Rc::new(Connection::new(local, local, 80));
            let recorder = recorder.clone();
            tokio::task::spawn_local(async move {
                let drain = Drain::default();
                let settings = Settings { limits: &limits, recorder, drain: drain.watch() };
                serve(server, Bytes::new(), connection, Rc::new(Panics), settings).await;
            });
            let (sender, connection) = h2::client::handshake(client).await.unwrap();
            tokio::task::spawn_local(connection);
            let get = async |path: &str| {
                let request = http::Request::get(format!("http://x{path}")).body(()).unwrap();
                let mut sender = sender.clone().ready().await.unwrap();
                sender.send_request(request, true).unwrap().0.await
            };
            assert_eq!(get("/now").await.unwrap().status(), 500);
            // The reset may overtake the head.
            let error = match get("/later").await {
                Ok(response) => response.into_body().data().await.unwrap().unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
            assert_eq!(get("/").await.unwrap().status(), 200);
        };
        tokio::task::LocalSet::new().run_until(test).await;
        assert_eq!(recorder.counts.panics.get(), 2);
    }

    /// Reads 200 bytes a second.
    struct Slow {
        io: tokio::io::DuplexStream,
        next: Pin<Box<Sleep>>,
    }

    impl AsyncRead for Slow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            ready!(self.next.as_mut().poll(cx));
            let mut room = [0; 200];
            let mut few = ReadBuf::new(&mut room[..buffer.remaining().min(200)]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut few))?;
            buffer.put_slice(few.filled());
            self.next.set(sleep(Duration::from_secs(1)));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(cx, b)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    struct Large;

    impl Handler for Large {
        async fn handle(&self, _: Request) -> Response {
            Response::new(StatusCode::OK, Body::Full(Bytes::from(vec![b'x'; 400_000])))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_a_silent_one() {
        let (client, server) = tokio::io::duplex(256);
        let test = async {
            let limits = Rc::new(Limits::default());
            let local = "127.0.0.1:1".parse().unwrap();
            let connection = Rc::new(Connection::new(local, local, 80));
            let recorder = Rc::new(Recorder::detached());
            tokio::task::spawn_local(async move {
                let drain = Drain::default();
                let settings = Settings { limits: &limits, recorder, drain: drain.watch() };
                serve(server, Bytes::new(), connection, Rc::new(Large), settings).await;
            });
            let slow = Slow { io: client, next: Box::pin(sleep(Duration::ZERO)) };
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
            let (sender, connection) = builder.handshake::<_, Bytes>(slow).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut sender = sender.ready().await.unwrap();
            let request = http::Request::get("http://x/").body(()).unwrap();
            let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
            let mut count = 0;
            while let Some(data) = body.data().await {
                count += data.unwrap().len();
            }
            assert_eq!(count, 400_000);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}
