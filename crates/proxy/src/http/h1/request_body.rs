//! What a connection's task shares with the body of the request that it serves, which may be pulled by
//! another task.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::encode;
use super::framing::{Decoded, Decoder};
use super::io::{Wire, after};
use super::parse::Malformed;
use crate::fault::{Fault, FaultKind};
use crate::http::{Body, BodySource, Frame, Informational, ResponseHead};

pub(super) type Shared<I> = Rc<RefCell<Conn<I>>>;

/// A client's connection.
pub(super) struct Conn<I> {
    pub(super) wire: Wire<I>,
    /// Of the current request's body.
    pub(super) body: Decoder,
    /// The current request; bodies of earlier ones read nothing.
    number: u64,
    /// Bears the interim responses of the requests since it was made.
    informational: u64,
    /// The client waits for `100 Continue`.
    pub(super) continue_due: bool,
    /// The final response has begun: no interim one may follow.
    pub(super) responding: bool,
    /// Waits for bytes of the body.
    reader: Option<Waker>,
    /// When those bytes are overdue.
    pub(super) reader_due: Option<Instant>,
    /// The body cannot be read to its end.
    pub(super) failed: Option<FaultKind>,
    /// The task that serves the connection.
    task: Option<Waker>,
    body_timeout: Duration,
}

impl<I> Conn<I> {
    pub(super) fn new(io: I, initial: Bytes, body_timeout: Duration) -> Self {
        Self {
            wire: Wire::new(io, initial),
            body: Decoder::Done,
            number: 0,
            informational: 0,
            continue_due: false,
            responding: false,
            reader: None,
            reader_due: None,
            failed: None,
            task: None,
            body_timeout,
        }
    }

    /// Begins a request.
    pub(super) fn begin(&mut self, body: Decoder, expects_continue: bool) {
        self.number += 1;
        self.body = body;
        self.continue_due = expects_continue;
        self.responding = false;
        self.failed = None;
    }

    /// Ends the request: whoever still holds its body reads nothing more.
    pub(super) fn end(&mut self) {
        self.number += 1;
        self.responding = true;
        self.fail(FaultKind::ClientGone);
    }

    /// The body fails, and whoever waits for it is told.
    pub(super) fn fail(&mut self, kind: FaultKind) {
        self.failed = Some(kind);
        self.reader_due = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn is_being_read(&self) -> bool {
        self.reader.is_some()
    }

    /// The task that is polled now serves the connection.
    pub(super) fn served_by(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task that serves the connection, unless it is the one that is polled now: that one looks
    /// after the connection anyway before it waits.
    fn attract(&self, cx: Option<&Context<'_>>) {
        if let Some(task) = &self.task
            && !cx.is_some_and(|cx| task.will_wake(cx.waker()))
        {
            task.wake_by_ref();
        }
    }
}

/// What takes interim responses of the current request. It is made anew only if someone kept the last.
pub(super) fn informational<I: 'static>(conn: &Shared<I>, last: &mut Option<Informational>) -> Informational {
    if let Some(last) = last
        && Rc::strong_count(last) == 1
    {
        return last.clone();
    }
    let mine = {
        let mut conn = conn.borrow_mut();
        conn.informational += 1;
        conn.informational
    };
    let conn = Rc::downgrade(conn);
    let send = move |head: ResponseHead| {
        let Some(conn) = conn.upgrade() else { return };
        let Ok(mut conn) = conn.try_borrow_mut() else { return };
        let current = conn.informational == mine && !conn.responding;
        let interim = head.status.is_informational()
            && head.status != StatusCode::CONTINUE
            && head.status != StatusCode::SWITCHING_PROTOCOLS;
        if current && interim && conn.wire.has_room() {
            encode::interim(conn.wire.out(), &head);
            conn.attract(None);
        }
    };
    last.insert(Rc::new(send)).clone()
}

/// The body of the current request: what is here already, or a stream.
pub(super) fn body<I: AsyncRead + AsyncWrite + Unpin + 'static>(shared: &Shared<I>) -> Body {
    let mut conn = shared.borrow_mut();
    let conn = &mut *conn;
    if conn.body.is_done() {
        return Body::Empty;
    }
    if let Decoder::Length(length) = conn.body
        && length <= conn.wire.input.len() as u64
        && let Ok(Decoded::Data(all)) = conn.body.decode(&mut conn.wire.input)
    {
        conn.continue_due = false;
        return Body::Full(all);
    }
    Body::Stream(Box::new(RequestBody { conn: shared.clone(), number: conn.number }))
}

/// The body of a request, as it comes in.
struct RequestBody<I> {
    conn: Shared<I>,
    number: u64,
}

impl<I: AsyncRead + AsyncWrite + Unpin> BodySource for RequestBody<I> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let gone = || Poll::Ready(Some(Err(FaultKind::ClientGone.into())));
        let Ok(mut conn) = self.conn.try_borrow_mut() else { return gone() };
        let conn = &mut *conn;
        if conn.number != self.number {
            return gone();
        }
        if let Some(kind) = conn.failed {
            return Poll::Ready(Some(Err(kind.into())));
        }
        if std::mem::take(&mut conn.continue_due) && !conn.responding && conn.wire.has_room() {
            conn.wire.out().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            conn.attract(Some(cx));
        }
        let waited = conn.reader.is_some();
        let frame = loop {
            match conn.body.decode(&mut conn.wire.input) {
                Ok(Decoded::Data(data)) => break Some(Ok(Frame::Data(data))),
                Ok(Decoded::Trailers(trailers)) => break Some(Ok(Frame::Trailers(trailers))),
                Ok(Decoded::End) => break None,
                Err(Malformed(detail)) => {
                    conn.failed = Some(FaultKind::BadRequest);
                    break Some(Err(Fault::new(FaultKind::BadRequest, detail)));
                }
                Ok(Decoded::More) => {}
            }
            match conn.wire.poll_fill(cx, usize::MAX) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    conn.failed = Some(FaultKind::ClientGone);
                    break Some(Err(FaultKind::ClientGone.into()));
                }
                Poll::Pending => {
                    match &mut conn.reader {
                        Some(reader) => reader.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    if !waited {
                        conn.reader_due = Some(after(conn.body_timeout));
                        conn.attract(Some(cx));
                    }
                    return Poll::Pending;
                }
            }
        };
        conn.reader = None;
        conn.reader_due = None;
        if waited {
            // The connection's task watches the client again.
            conn.attract(Some(cx));
        }
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        self.conn.try_borrow().ok().filter(|conn| conn.number == self.number)?.body.remaining()
    }
}

impl<I> Drop for RequestBody<I> {
    fn drop(&mut self) {
        if let Ok(mut conn) = self.conn.try_borrow_mut()
            && conn.number == self.number
            && conn.reader.take().is_some()
        {
            conn.reader_due = None;
            conn.attract(None);
        }
    }
}
