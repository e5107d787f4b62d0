//! The client's side: one connection, one task.

mod ends;

use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Settings;
use super::encode::{self, Encoding};
use super::io::{Deadline, after, within_reason};
use super::parse::{self, ReceivedRequest, Refusal};
use super::request_body::{self, Conn, Shared};
use crate::drain::DrainWatch;
use crate::fault::FaultKind;
use crate::http::{
    Body, Connection, Frame, Handler, Headers, Informational, Request, Response, Scheme, Taken, Tunnel,
    Version,
};
use crate::observe::Exchange;
use crate::tunnel::{Copying, Ended, Patience};

/// What a client may send ahead while its request is served; beyond it nothing is read, so its going away
/// goes unnoticed until the answer is written.
const AHEAD: usize = 16 * 1024;

/// Why a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed it between requests.
    Closed,
    /// It was closed after an answer, as the client or the answer said.
    Finished,
    /// Nothing came for too long between requests.
    Idle,
    /// It was closed because the worker drains.
    Drained,
    /// A request was refused, and the connection with it.
    Rejected(FaultKind),
    /// The client went away, or the connection broke, in the middle of a request.
    ClientGone,
    /// The client did not take the response in time.
    WriteTimeout,
    /// A response could not be completed, so the connection was cut.
    Cut,
    /// It became a tunnel, which has ended.
    Tunnel,
}

/// Serves one connection until its end. `initial` is what has already been read from it.
///
/// No `async fn`: its future would hold the arguments a second time.
pub fn serve<I, H, S>(
    io: I,
    initial: Bytes,
    connection: Rc<Connection>,
    handler: H,
    settings: S,
    drain: DrainWatch,
) -> impl Future<Output = End>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
    S: Deref<Target = Settings>,
{
    let conn = Rc::new(RefCell::new(Conn::new(io, initial, settings.body_timeout)));
    let deadline = Deadline::default();
    let (write_due, informational) = (None, None);
    let mut server = Server {
        conn,
        connection,
        settings,
        deadline,
        write_due,
        taken: 0,
        informational,
        drain,
        ended: None,
    };
    async move {
        let end = loop {
            let (mut progress, mut due) = (parse::Progress::default(), None);
            // Boxed, so that a connection without a request does not keep the room for one.
            let served = match poll_fn(|cx| server.poll_request(cx, &mut progress, &mut due)).await {
                Next::Request(received) => server.serve_one(received, &handler).boxed_local(),
                Next::Refused(refusal) => server.reject(refusal).boxed_local(),
                Next::End(end) => server.leave(end).boxed_local(),
            };
            if let Err(end) = served.await {
                break end;
            }
        };
        server.conn.borrow_mut().end();
        end
    }
}

struct Server<I, S> {
    conn: Shared<I>,
    connection: Rc<Connection>,
    settings: S,
    deadline: Deadline,
    /// When the client must have taken something of what is queued.
    write_due: Option<Instant>,
    /// What it had taken when that was last looked at.
    taken: u64,
    informational: Option<Informational>,
    drain: DrainWatch,
    /// When the last response ended, until someone asks: it saves a look at the clock.
    ended: Option<Instant>,
}

/// What came of waiting for a request.
enum Next {
    Request(ReceivedRequest),
    Refused(Refusal),
    End(End),
}

/// What came of asking the handler.
enum Handled {
    Response(Response),
    Panicked,
    End(End),
}

/// A response on its way.
struct Sending {
    body: Body,
    encoding: Encoding,
    /// Of a body of known length, what has not been queued.
    left: u64,
    /// All is queued.
    ended: bool,
    exchange: Option<Box<Exchange>>,
    /// Body bytes queued since the last flush.
    queued: usize,
}

impl<I, S> Server<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Deref<Target = Settings>,
{
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        progress: &mut parse::Progress,
        due: &mut Option<(bool, Instant)>,
    ) -> Poll<Next> {
        let scheme = if self.connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let mut conn = self.conn.borrow_mut();
        let idle = loop {
            match parse::request(&mut conn.wire.input, progress, scheme, &self.settings) {
                Ok(Some(received)) => return Poll::Ready(Next::Request(received)),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Next::Refused(refusal)),
            }
            let idle = conn.wire.input.is_empty();
            match conn.wire.poll_fill(cx, usize::MAX) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    return Poll::Ready(Next::End(if idle { End::Closed } else { End::ClientGone }));
                }
                Poll::Pending => break idle,
            }
        };
        drop(conn);
        if idle && self.drain.poll_draining(cx).is_ready() {
            return Poll::Ready(Next::End(End::Drained));
        }
        let limit = if idle { self.settings.idle_timeout } else { self.settings.head_timeout };
        let due = match due {
            Some((was_idle, due)) if *was_idle == idle => *due,
            due => {
                let from = self.ended.take().unwrap_or_else(Instant::now);
                due.insert((idle, from + within_reason(limit))).1
            }
        };
        ready!(self.deadline.poll(cx, due));
        Poll::Ready(match idle {
            true => Next::End(End::Idle),
            false => Next::Refused(Refusal { kind: FaultKind::RequestTimeout, detail: "a slow head" }),
        })
    }

    /// Serves one request; `Err`: the connection has come to its end.
    async fn serve_one<H: Handler>(&mut self, received: ReceivedRequest, handler: &H) -> Result<(), End> {
        let ReceivedRequest { head, body, upgrade, expects_continue, keep_alive } = received;
        let (to_head, version) = (head.method == Method::HEAD, head.version);
        let asks_upgrade = upgrade.is_some();
        self.conn.borrow_mut().begin(body, expects_continue);
        let informational = (version == Version::Http11)
            .then(|| request_body::informational(&self.conn, &mut self.informational));
        let request = Request {
            head,
            body: request_body::body(&self.conn),
            upgrade,
            expects_continue,
            informational,
            connection: self.connection.clone(),
        };
        let response = match self.handle(request, handler).await {
            Handled::Response(response) => response,
            Handled::Panicked => {
                self.panicked();
                self.refuse(FaultKind::Internal).await;
                return Err(End::Rejected(FaultKind::Internal));
            }
            Handled::End(end) => return Err(end),
        };
        if response.head.status.is_informational() || response.tunnel.is_some() {
            let switches = response.head.status == StatusCode::SWITCHING_PROTOCOLS && asks_upgrade;
            let Some(tunnel) = response.tunnel.filter(|_| switches) else {
                self.refuse(FaultKind::Internal).await;
                return Err(End::Rejected(FaultKind::Internal));
            };
            self.conn.borrow_mut().responding = true;
            encode::switching(self.conn.borrow_mut().wire.out(), &response.head);
            return Err(self.tunnel(tunnel, response.exchange).await);
        }
        self.respond(response, to_head, version, keep_alive).await
    }

    async fn handle<H: Handler>(&mut self, request: Request, handler: &H) -> Handled {
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| handler.handle(request))) else {
            return Handled::Panicked;
        };
        let mut future = pin!(future);
        poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Err(_) => return Poll::Ready(Handled::Panicked),
                Ok(Poll::Ready(response)) => return Poll::Ready(Handled::Response(response)),
                Ok(Poll::Pending) => {}
            }
            self.attend(cx).map(Handled::End)
        })
        .await
    }

    /// Looks after the connection while something else is waited for: writes what is queued, notices that
    /// the client goes away, and keeps the time. Ready: the connection has come to its end.
    fn attend(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut conn = self.conn.borrow_mut();
        conn.served_by(cx);
        match conn.wire.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.write_due = None,
            Poll::Ready(Err(_)) => return Poll::Ready(gone(&mut conn)),
            Poll::Pending => {
                let taken = self.connection.taken.as_ref().map_or(0, Taken::get);
                let more = std::mem::replace(&mut self.taken, taken) != taken;
                if std::mem::take(&mut conn.wire.wrote) || more || self.write_due.is_none() {
                    self.write_due = Some(after(self.settings.write_timeout));
                }
            }
        }
        // Whoever pulls the body reads, and is woken by what comes.
        while !conn.is_being_read() && conn.wire.input.len() < AHEAD {
            let room = AHEAD - conn.wire.input.len();
            match conn.wire.poll_fill(cx, room) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(gone(&mut conn)),
                Poll::Pending => break,
            }
        }
        while let Some(due) = self.write_due.into_iter().chain(conn.reader_due).min() {
            ready!(self.deadline.poll(cx, due));
            if self.write_due.is_some_and(|write| write <= due) {
                gone(&mut conn);
                return Poll::Ready(End::WriteTimeout);
            }
            conn.fail(FaultKind::RequestTimeout);
        }
        Poll::Pending
    }

    async fn respond(
        &mut self,
        response: Response,
        to_head: bool,
        version: Version,
        keep_alive: bool,
    ) -> Result<(), End> {
        let Response { head, body, exchange, .. } = response;
        let bodiless = to_head || head.is_bodiless();
        let length = body.remaining();
        let encoding = match length {
            // What the gateway itself would send; a backend's own Content-Length is among the headers.
            Some(length @ 1..) if to_head && !head.headers.contains("content-length") => {
                Encoding::Length(length)
            }
            _ if bodiless => Encoding::None,
            Some(length) => Encoding::Length(length),
            None if version == Version::Http11 => Encoding::Chunked,
            None => Encoding::UntilClose,
        };
        let asked_to_close = !keep_alive;
        let mut keep_alive = keep_alive && encoding != Encoding::UntilClose && !self.drain.is_draining();
        {
            let mut conn = self.conn.borrow_mut();
            conn.responding = true;
            // A client that still waits for 100 Continue may send the body or not, and a body that failed
            // has no end: where the next request begins cannot be known.
            keep_alive &= !conn.continue_due && conn.failed.is_none();
            let connection = match (keep_alive, version) {
                (false, _) => Some("close"),
                (true, Version::Http10) => Some("keep-alive"),
                (true, _) => None,
            };
            let describes = bodiless && head.status != StatusCode::NO_CONTENT;
            encode::response(conn.wire.out(), &head, encoding, describes, connection);
        }
        drop(head);
        let mut sending = Sending {
            left: length.unwrap_or(0),
            ended: bodiless || length == Some(0),
            body: if bodiless { Body::Empty } else { body },
            encoding,
            exchange,
            queued: 0,
        };
        let sent = poll_fn(|cx| self.poll_send(cx, &mut sending)).await;
        let Sending { exchange, body, .. } = sending;
        drop(body);
        match sent {
            Ok(()) => self.ended = exchange.map(|exchange| exchange.end().into()),
            Err(end) => {
                if let Some(mut exchange) = exchange
                    && exchange.fault.is_none()
                    && end != End::Cut
                {
                    exchange.fault = Some(FaultKind::ClientGone);
                }
                return Err(end);
            }
        }
        self.finish(keep_alive, asked_to_close).await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, sending: &mut Sending) -> Poll<Result<(), End>> {
        loop {
            let mut waits = false;
            while !sending.ended && !waits && self.conn.borrow().wire.has_room() {
                match catch_unwind(AssertUnwindSafe(|| sending.body.poll_frame(cx))) {
                    Ok(Poll::Pending) => waits = true,
                    Ok(Poll::Ready(frame)) => {
                        let kind = match frame {
                            Some(Err(fault)) => Some(fault.kind),
                            Some(Ok(Frame::Data(data))) => self.queue(sending, data).err(),
                            Some(Ok(Frame::Trailers(trailers))) => {
                                self.queue_end(sending, Some(&trailers)).err()
                            }
                            None => self.queue_end(sending, None).err(),
                        };
                        if let Some(kind) = kind {
                            return Poll::Ready(Err(self.cut(cx, sending, kind)));
                        }
                    }
                    Err(_) => {
                        self.panicked();
                        return Poll::Ready(Err(self.cut(cx, sending, FaultKind::Internal)));
                    }
                }
            }
            let flushed = {
                let mut conn = self.conn.borrow_mut();
                match conn.wire.poll_flush(cx) {
                    Poll::Ready(Ok(())) => true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(gone(&mut conn))),
                    Poll::Pending => false,
                }
            };
            if flushed {
                self.write_due = None;
                if let Some(exchange) = &mut sending.exchange {
                    exchange.count_sent(std::mem::take(&mut sending.queued));
                    exchange.complete |= sending.ended;
                }
                if sending.ended {
                    return Poll::Ready(Ok(()));
                }
                if !waits {
                    continue;
                }
            }
            return self.attend(cx).map(Err);
        }
    }

    fn queue(&mut self, sending: &mut Sending, data: Bytes) -> Result<(), FaultKind> {
        if data.is_empty() {
            // As a chunk it would end the body.
            return Ok(());
        }
        let wire = &mut self.conn.borrow_mut().wire;
        sending.queued += data.len();
        match sending.encoding {
            Encoding::Length(_) => {
                // More than was announced would be taken for the next response.
                sending.left =
                    sending.left.checked_sub(data.len() as u64).ok_or(FaultKind::UpstreamProtocol)?;
                sending.ended = sending.left == 0;
                wire.queue(data, b"");
            }
            Encoding::Chunked => {
                encode::chunk_size(wire.out(), data.len());
                wire.queue(data, b"\r\n");
            }
            Encoding::UntilClose | Encoding::None => wire.queue(data, b""),
        }
        Ok(())
    }

    fn queue_end(&mut self, sending: &mut Sending, trailers: Option<&Headers>) -> Result<(), FaultKind> {
        match sending.encoding {
            Encoding::Length(_) if sending.left > 0 => return Err(FaultKind::UpstreamClosed),
            Encoding::Chunked => encode::last_chunk(self.conn.borrow_mut().wire.out(), trailers),
            _ => {}
        }
        sending.ended = true;
        Ok(())
    }

    /// The response cannot be completed: the connection ends without the response's end, so that the client
    /// knows.
    fn cut(&mut self, cx: &mut Context<'_>, sending: &mut Sending, kind: FaultKind) -> End {
        if let Some(exchange) = &mut sending.exchange {
            exchange.fault.get_or_insert(kind);
        }
        // What there is may still be of use; but nothing is waited for.
        let _ = self.conn.borrow_mut().wire.poll_flush(cx);
        End::Cut
    }

    /// Copies both ways until both sides have ended, one breaks, nothing moves for too long, or the drain's
    /// deadline comes.
    async fn tunnel(&mut self, mut backend: Box<dyn Tunnel>, mut exchange: Option<Box<Exchange>>) -> End {
        let patience =
            Patience { silent: self.settings.tunnel_timeout, half_closed: self.settings.half_closed_timeout };
        let mut copying: Option<Copying> = None;
        let complete = poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            let wire = &mut conn.wire;
            let copying = match &mut copying {
                Some(copying) => copying,
                none => {
                    if ready!(wire.poll_flush(cx)).is_err() {
                        return Poll::Ready(false);
                    }
                    none.insert(Copying::new(std::mem::take(&mut wire.input), patience))
                }
            };
            self.drain.register(cx);
            let taken = self.connection.taken.as_ref().map_or(0, Taken::get);
            let cut = self.drain.deadline();
            copying
                .poll(cx, &mut wire.io, &mut *backend, taken, &mut self.deadline, cut)
                .map(|ended| ended == Ended::Closed)
        })
        .await;
        if let Some(exchange) = &mut exchange {
            exchange.sent += copying.map_or(0, |copying| copying.sent_down());
            exchange.complete = complete;
        }
        End::Tunnel
    }

    fn panicked(&self) {
        if let Some(observer) = &self.settings.observer {
            observer.panicked(&self.connection);
        }
    }
}

/// The client has gone away.
fn gone<I>(conn: &mut Conn<I>) -> End {
    conn.wire.discard_output();
    conn.fail(FaultKind::ClientGone);
    End::ClientGone
}
