//! The clients' side of HTTP/2: one task drives a connection, and one more each of its streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, interval_at, sleep};

use super::Reason;
use super::body::{self, Incoming, SendError};
use super::fields::{self, Bounds, Fields};
use super::mux::{Config, Mux, Ping, Role, Shared, Violation};
use super::request::{self, Received};
use super::stream::{Broken, Line, Receiver, Sender};
use super::wire::{self, Step};
use crate::drain::DrainWatch;
use crate::fault::{Fault, FaultKind};
use crate::http::{
    Body, BodySource, Connection, Frame, Handler, Headers, Request, Response, ResponseHead, reply,
};
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

/// Serves one connection until its end. `initial` is what has already been read from it.
pub async fn serve<I, H>(
    mut io: I,
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
    let mut mux = Mux::new(Config {
        role: Role::Server,
        stream_window: http2.stream_window,
        connection_window: http2.connection_window,
        frame_bytes: http2.frame_bytes,
        streams: http2.concurrent_streams,
        bounds: Bounds { bytes: limits.head_bytes, lines: limits.header_lines },
        own_resets: http2.own_resets,
        send_buffer: http2.send_buffer,
    });
    mux.below.clone_from(&connection.taken);
    if let Err(Violation(reason, what)) = mux.receive(&mut BytesMut::from(initial)) {
        mux.fail(Broken::Violation(what), Some(reason));
    }
    let mux = Rc::new(RefCell::new(mux));
    let streams = Rc::new(Streams { recorder, limits: limits.clone(), connection });
    let mut life = Life::new(limits);
    // Dropped with this future, whatever becomes of it: the streams are not to wait for a connection that
    // nobody drives.
    let driven = Driven(mux);
    let mux = &driven.0;
    poll_fn(|cx| {
        loop {
            if drain.poll_draining(cx).is_ready() {
                life.leave(&mut mux.borrow_mut());
            }
            if life.poll_dead(cx, &mut mux.borrow_mut()).is_ready() {
                return Poll::Ready(());
            }
            // Also of what came before this future was polled, after which nothing more may come.
            loop {
                let Some((key, fields)) = mux.borrow_mut().accepted.pop_front() else { break };
                if drain.is_draining() {
                    // A drain is announced: this request is served, further ones come on another connection.
                    life.leave(&mut mux.borrow_mut());
                }
                let stream = Stream::new(&streams, mux, key);
                tokio::task::spawn_local(stream.serve(fields, handler.clone()));
            }
            match ready!(wire::poll_step(&mut io, mux, cx)) {
                Step::Ended => return Poll::Ready(()),
                Step::Received => {}
            }
        }
    })
    .await;
    let is_there = driven.0.borrow().dead != Some(Broken::Closed);
    drop(driven);
    if is_there {
        wire::close(&mut io).await;
    }
}

/// A connection that is driven; dropped, it has ended.
struct Driven(Shared);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.borrow_mut().fail(Broken::Closed, None);
    }
}

/// What the streams of a connection share.
struct Streams {
    recorder: Rc<Recorder>,
    limits: Rc<Limits>,
    connection: Rc<Connection>,
}

/// Whether the connection is still of use.
struct Life {
    /// When the PING that waits for its answer was sent.
    pinged: Option<Instant>,
    received_before: u64,
    taken_before: u64,
    tick: tokio::time::Interval,
    idle_since: Instant,
    /// Until when the client has to have sent its preface.
    greeting: Instant,
    expires: Option<Instant>,
    /// When the first GOAWAY was sent.
    left: Option<Instant>,
    idle_timeout: Duration,
    ping_interval: Duration,
    ping_timeout: Duration,
    heard: Instant,
}

impl Life {
    fn new(limits: &Limits) -> Self {
        let http2 = &limits.http2;
        let now = Instant::now();
        let every = http2.idle_timeout.min(http2.ping_interval).min(http2.ping_timeout);
        let every = every.min(limits.head_timeout).max(Duration::from_millis(10));
        // Spread, so that clients that came together do not go together.
        let age = |age: Duration| now + age.mul_f64(rand::random_range(0.9..1.1));
        Self {
            pinged: None,
            received_before: 0,
            taken_before: 0,
            tick: interval_at(now + every, every),
            idle_since: now,
            greeting: now + limits.head_timeout,
            expires: http2.max_age.map(age),
            left: None,
            idle_timeout: http2.idle_timeout,
            ping_interval: http2.ping_interval,
            ping_timeout: http2.ping_timeout,
            heard: now,
        }
    }

    fn leave(&mut self, mux: &mut Mux) {
        if mux.leaving.is_none() {
            mux.leave();
            self.left = Some(Instant::now());
        }
    }

    /// Ready when the connection is to be dropped. Begins to leave when it is idle or old, and asks a silent
    /// peer whether it lives.
    fn poll_dead(&mut self, cx: &mut Context<'_>, mux: &mut Mux) -> Poll<()> {
        loop {
            ready!(self.tick.poll_tick(cx));
            let now = Instant::now();
            mux.idle_frames = 0;
            if !mux.pings[Ping::Alive as usize] {
                self.pinged = None;
            }
            if !mux.greeted && now >= self.greeting {
                return Poll::Ready(());
            }
            if std::mem::replace(&mut self.received_before, mux.received) != mux.received {
                self.heard = now;
            }
            if mux.advances(&mut self.taken_before) {
                // A PING waits behind what a slow client takes, which may be the rest of streams that have
                // ended here.
                self.heard = now;
                self.idle_since = now;
            }
            if self.pinged.is_some_and(|at| now - at.max(self.heard) >= self.ping_timeout) {
                return Poll::Ready(());
            }
            let open = !mux.streams.is_empty();
            if open {
                self.idle_since = now;
            }
            if open && self.pinged.is_none() && now - self.heard >= self.ping_interval {
                mux.ping(Ping::Alive);
                self.pinged = Some(now);
            }
            if let Some(left) = self.left {
                // The client has had its time to answer the first GOAWAY.
                if now - left >= self.ping_timeout {
                    mux.leave_finally();
                }
                if !open && now - left.max(self.idle_since) >= self.ping_timeout {
                    return Poll::Ready(());
                }
            } else if now - self.idle_since >= self.idle_timeout || self.expires.is_some_and(|at| now >= at) {
                self.leave(mux);
            }
        }
    }
}

/// One stream.
struct Stream {
    streams: Rc<Streams>,
    receiver: Option<Receiver>,
    sender: Sender,
}

impl Stream {
    fn new(streams: &Rc<Streams>, mux: &Shared, key: usize) -> Self {
        let line = Line { mux: mux.clone(), key, id: mux.borrow().streams[key].id };
        Self { streams: streams.clone(), receiver: Some(Receiver(line.clone())), sender: Sender(line) }
    }

    async fn serve<H: Handler>(mut self, fields: Fields, handler: Rc<H>) {
        if AssertUnwindSafe(self.answer(fields, &*handler)).catch_unwind().await.is_err() {
            self.streams.recorder.counts.panics.add(1);
            let line = &self.sender.0;
            // Where the head has been sent already, the stream is reset.
            if !send_head(line, StatusCode::INTERNAL_SERVER_ERROR, &Headers::default(), None, true) {
                line.mux.borrow_mut().reset(line, Reason::INTERNAL_ERROR);
            }
        }
    }

    /// `None` when the client has reset the stream before its answer.
    async fn answer<H: Handler>(&mut self, fields: Fields, handler: &H) -> Option<()> {
        let Streams { recorder, limits, connection, .. } = &*self.streams;
        let line = &self.sender.0;
        if line.mux.borrow_mut().is_broken(line) {
            // Reset along with the request, before anything has been done for it.
            return None;
        }
        let is_head = fields.method == Some(Method::HEAD);
        let response = match request::receive(fields, connection.tls.is_some(), limits) {
            Ok(received) => {
                let receiver = self.receiver.take()?;
                let request = self.request(received, receiver);
                let line = &self.sender.0;
                let mut handled = pin!(handler.handle(request));
                poll_fn(|cx| match handled.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => line.mux.borrow_mut().poll_broken(line, cx).map(|_| None),
                })
                .await?
            }
            Err((kind, detail)) => {
                recorder.refused(connection, kind, detail);
                reply::fault(kind)
            }
        };
        send(&self.sender.0, response, is_head, limits.send_timeout).await;
        Some(())
    }

    fn request(&self, received: Received, receiver: Receiver) -> Request {
        let Received { head, expects_continue, content_length } = received;
        // A stream of gRPC may be silent in one direction for as long as the call likes; what bounds it is
        // the call as a whole.
        let grpc = reply::is_grpc(head.headers.get("content-type"));
        let line = &self.sender.0;
        let body = if line.mux.borrow_mut().has_ended(line) {
            Body::Empty
        } else {
            Body::Stream(Box::new(ClientBody {
                incoming: Incoming::new(receiver, content_length, |broken| match broken {
                    Broken::Violation(what) => Fault::new(FaultKind::BadRequest, what),
                    _ => FaultKind::ClientGone.into(),
                }),
                proceed: expects_continue.then(|| line.clone()),
                patience: (!grpc).then_some(self.streams.limits.body_timeout),
                waiting: None,
            }))
        };
        let line = line.clone();
        let informational = move |head: ResponseHead| {
            let mux = line.mux.borrow();
            // A client that does not read goes without: nothing else holds back whoever sends them.
            let has_room = mux.out.len() < mux.config.send_buffer;
            drop(mux);
            if has_room {
                send_interim(&line, &head);
            }
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
    proceed: Option<Line>,
    patience: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl BodySource for ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        if let Some(line) = self.proceed.take() {
            let head = ResponseHead { status: StatusCode::CONTINUE, headers: Headers::default() };
            send_interim(&line, &head);
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

/// Sends a 1xx response. A client that is gone, or has its answer, needs none.
fn send_interim(line: &Line, head: &ResponseHead) {
    if fields::check(&head.headers).is_err() {
        return;
    }
    let mut mux = line.mux.borrow_mut();
    if mux.stream(line).is_some_and(|stream| !stream.head_sent) {
        let _ = mux.send_block(line, false, |encoder, out| {
            encoder.status(head.status.as_u16(), out);
            fields::encode(&head.headers, encoder, out);
        });
    }
}

/// Sends the head of the final response; says whether it could. Its fields have been checked.
fn send_head(line: &Line, status: StatusCode, headers: &Headers, length: Option<u64>, end: bool) -> bool {
    let mut mux = line.mux.borrow_mut();
    let Some(stream) = mux.stream(line) else { return false };
    if std::mem::replace(&mut stream.head_sent, true) || stream.broken.is_some() {
        return false;
    }
    mux.answered += 1;
    let encode = |encoder: &mut super::hpack::Encoder, out: &mut BytesMut| {
        encoder.status(status.as_u16(), out);
        fields::encode(headers, encoder, out);
        if let Some(length) = length {
            encoder.field(b"content-length", itoa::Buffer::new().format(length).as_bytes(), out);
        }
    };
    mux.send_block(line, end, encode).is_ok()
}

/// Sends a response; a client that takes nothing of its body for so long is given up.
async fn send(line: &Line, response: Response, is_head: bool, patience: Duration) {
    let Response { mut head, mut body, mut exchange, tunnel: _ } = response;
    if let Err(fault) = fields::check(&head.headers) {
        head = ResponseHead { status: fault.kind.status(), headers: Headers::default() };
        body = Body::Empty;
        exchange.iter_mut().for_each(|e| e.set_fault(&fault));
    }
    let end = is_head || body.is_empty() || head.is_bodiless();
    let length = if end { None } else { body.remaining() };
    let gone = |exchange: &mut Option<Box<crate::observe::Exchange>>| {
        exchange.iter_mut().for_each(|e| e.fault = e.fault.or(Some(FaultKind::ClientGone)));
    };
    if !send_head(line, head.status, &head.headers, length, end) {
        return gone(&mut exchange);
    }
    if end {
        exchange.iter_mut().for_each(|e| e.complete = true);
        return;
    }
    let reset = |reason| line.mux.borrow_mut().reset(line, reason);
    let count = |n| exchange.iter_mut().for_each(|e| e.count_sent(n));
    match body::send(line, &mut body, patience, true, count).await {
        Ok(()) => exchange.iter_mut().for_each(|e| e.complete = true),
        Err(SendError::Body(fault)) => {
            reset(Reason::INTERNAL_ERROR);
            exchange.iter_mut().for_each(|e| e.set_fault(&fault));
        }
        Err(SendError::Stalled) => {
            reset(Reason::CANCEL);
            gone(&mut exchange);
        }
        Err(SendError::Broken) => gone(&mut exchange),
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
            assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
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
