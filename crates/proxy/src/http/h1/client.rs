//! The backend's side: one connection, one request at a time.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::encode::{self, Encoding};
use super::framing::{Decoded, Decoder};
use super::io::Wire;
use super::parse::{self, Malformed, ReceivedResponse};
use crate::fault::{Fault, FaultKind};
use crate::http::{Body, BodySource, Frame, Headers, Informational, RequestHead, ResponseHead, Tunnel};

/// Bytes of a response's head.
const MAX_HEAD: usize = 64 * 1024;

/// Field lines of a response's head, or of its trailer section.
const MAX_HEADERS: usize = 128;

/// 1xx responses ahead of a final one.
const MAX_INTERIM: u8 = 32;

/// How long `100 Continue` is waited for. Backends that know nothing of it never send it (RFC 9110
/// section 10.1.1: a client does not wait indefinitely).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// One idle connection to a backend. Sending a request takes it; it comes back through [`Recycle`] when,
/// and only when, the exchange ended so cleanly that nothing of it can be taken for a part of the next.
pub struct Client<I> {
    wire: Wire<I>,
}

/// Takes back connections that can be used again.
pub trait Recycle<I> {
    /// The connection is idle.
    fn recycle(&self, client: Client<I>);
}

/// How a request is sent.
pub struct SendOptions<I> {
    /// Wait for `100 Continue` (at most a second) before the body is pulled, unless all of it is here.
    pub expects_continue: bool,
    /// Ask to switch to this protocol. The connection does not come back.
    pub upgrade: Option<Bytes>,
    /// Told of 1xx responses other than 100 and 101.
    pub informational: Option<Informational>,
    /// Bytes of the answer that are read at once: what is held of it while the client takes nothing. There are
    /// many streams on a client's connection of HTTP/2, each with an answer of its own.
    pub read_limit: usize,
    /// Where the connection goes afterwards; `None`: it is closed.
    pub recycle: Option<Rc<dyn Recycle<I>>>,
}

/// A backend's answer.
pub struct Answer {
    /// Its head. `Upgrade` is among its headers if the status is 101.
    pub head: ResponseHead,
    /// Its body. While it is polled, what is left of the request's body is sent.
    pub body: Body,
    /// With status 101: the connection, which is the other protocol's now.
    pub tunnel: Option<Box<dyn Tunnel>>,
}

/// Why there is no answer.
pub struct SendError {
    /// What went wrong. The client's side of fault if the request's body failed.
    pub fault: Fault,
    /// How far it had got; from which follows whether the request may be sent again.
    pub progress: Progress,
}

/// How far a request had got when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not one byte was written: it is safe to send it elsewhere.
    Unsent,
    /// The backend has refused it unprocessed (HTTP/2): it is safe to send it elsewhere, but the backend may
    /// have too much to do.
    Refused,
    /// The connection ends as they all do, and the backend has not looked at the request (HTTP/2's GOAWAY):
    /// it is safe to send it elsewhere, and nothing is wrong with the backend.
    LeftBehind {
        /// It has looked at other requests on that connection.
        others: bool,
    },
    /// Written in part or whole, and the connection ended or broke before one byte of an answer. On a
    /// connection that had been idle the backend has most likely closed it before it came: idempotent
    /// requests may be sent again (RFC 9110 section 9.2.2).
    Unanswered,
    /// The backend has begun to answer, so it has processed it.
    Answered,
}

impl<I: AsyncRead + AsyncWrite + Unpin + 'static> Client<I> {
    /// A fresh connection.
    pub fn new(io: I) -> Self {
        Self { wire: Wire::new(io, Bytes::new()) }
    }

    /// Whether the idle connection can still be used: the backend has neither closed it nor sent anything.
    /// Does not block.
    pub fn is_alive(&mut self) -> bool {
        self.wire.is_quiet()
    }

    /// Ready once the idle connection cannot be used any more: so that a pool can drop it at once.
    pub fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whatever comes on an idle connection was not asked for.
        self.wire.poll_fill(cx, 1).map(|_| ())
    }

    /// The connection itself.
    pub fn io(&self) -> &I {
        &self.wire.io
    }

    /// Sends a request and waits for the head of the final answer. No time limit: drop the future to give
    /// the request up.
    ///
    /// # Errors
    /// When the connection fails, the backend breaks the protocol, or the request's body fails.
    pub async fn send(
        self,
        head: &RequestHead,
        body: Body,
        options: SendOptions<I>,
    ) -> Result<Answer, SendError> {
        let Self { mut wire } = self;
        let SendOptions { expects_continue, upgrade, informational, read_limit, recycle } = options;
        wire.wrote = false;
        // A body that is here already is not waited for.
        let expects_continue = expects_continue && matches!(body, Body::Stream(_));
        let encoding = encode::request(wire.out(), head, &body, upgrade.as_deref(), expects_continue);
        let upload = Upload {
            left: body.remaining().unwrap_or(0),
            ended: body.is_empty(),
            body,
            encoding,
            sent: false,
            broken: false,
            wait: expects_continue.then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT))),
        };
        let mut sending = Sending {
            wire,
            upload,
            progress: parse::Progress::default(),
            answered: false,
            interim: 0,
            read_limit,
            to_head: head.method == Method::HEAD,
        };
        match poll_fn(|cx| sending.poll_answer(cx, informational.as_ref())).await {
            Ok(response) => sending.answer(response, upgrade.as_deref(), recycle),
            Err(fault) => Err(sending.error(fault)),
        }
    }
}

/// The request's side of an exchange.
struct Upload {
    body: Body,
    encoding: Encoding,
    /// Of a body of known length, what has not been queued.
    left: u64,
    /// All is queued.
    ended: bool,
    /// All is written.
    sent: bool,
    /// The backend takes no more; it may have answered all the same.
    broken: bool,
    /// `100 Continue` is waited for.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// Sends what can be sent. Ready: all is sent, or nothing more can be; an error: the body failed.
    fn poll<I>(&mut self, cx: &mut Context<'_>, wire: &mut Wire<I>) -> Poll<Result<(), Fault>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if self.sent || self.broken {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(wait) = &mut self.wait
                && wait.as_mut().poll(cx).is_ready()
            {
                self.wait = None;
            }
            let mut waits = self.wait.is_some();
            while !self.ended && !waits && wire.has_room() {
                match self.body.poll_frame(cx) {
                    Poll::Pending => waits = true,
                    Poll::Ready(Some(Ok(Frame::Data(data)))) => self.queue(wire, data)?,
                    Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                        self.queue_end(wire, Some(&trailers))?;
                    }
                    Poll::Ready(None) => self.queue_end(wire, None)?,
                    Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(fault)),
                }
            }
            match ready!(wire.poll_flush(cx)) {
                Ok(()) if self.ended => {
                    self.sent = true;
                    // What it holds, the client's connection among it, is needed no longer.
                    self.body = Body::Empty;
                    return Poll::Ready(Ok(()));
                }
                Ok(()) if waits => return Poll::Pending,
                Ok(()) => {}
                Err(_) => {
                    self.broken = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn queue<I>(&mut self, wire: &mut Wire<I>, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            // As a chunk it would end the body.
            return Ok(());
        }
        if self.encoding == Encoding::Chunked {
            encode::chunk_size(wire.out(), data.len());
            wire.queue(data, b"\r\n");
        } else {
            // More than was announced would be taken for the next request.
            let left = self.left.checked_sub(data.len() as u64);
            self.left =
                left.ok_or_else(|| Fault::new(FaultKind::BadRequest, "a body longer than it said"))?;
            self.ended = self.left == 0;
            wire.queue(data, b"");
        }
        Ok(())
    }

    fn queue_end<I>(&mut self, wire: &mut Wire<I>, trailers: Option<&Headers>) -> Result<(), Fault> {
        if self.encoding == Encoding::Chunked {
            encode::last_chunk(wire.out(), trailers);
        } else if self.left > 0 {
            return Err(Fault::new(FaultKind::BadRequest, "a body shorter than it said"));
        }
        self.ended = true;
        Ok(())
    }
}

/// An exchange until the head of its answer.
struct Sending<I> {
    wire: Wire<I>,
    upload: Upload,
    progress: parse::Progress,
    /// Something of an answer has come.
    answered: bool,
    interim: u8,
    read_limit: usize,
    to_head: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin + 'static> Sending<I> {
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        informational: Option<&Informational>,
    ) -> Poll<Result<ReceivedResponse, Fault>> {
        if let Poll::Ready(Err(fault)) = self.upload.poll(cx, &mut self.wire) {
            return Poll::Ready(Err(fault));
        }
        loop {
            let input = &mut self.wire.input;
            let parsed = parse::response(input, &mut self.progress, self.to_head, MAX_HEAD, MAX_HEADERS);
            let received = match parsed {
                Ok(Some(received)) => received,
                Err(Malformed(detail)) => return Poll::Ready(Err(protocol(detail))),
                Ok(None) => match ready!(self.wire.poll_fill(cx, self.read_limit)) {
                    Ok(1..) => {
                        self.answered = true;
                        continue;
                    }
                    Ok(_) => return Poll::Ready(Err(closed("closed before an answer"))),
                    Err(error) => return Poll::Ready(Err(closed(error))),
                },
            };
            self.progress = parse::Progress::default();
            let status = received.head.status;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(received));
            }
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(protocol("too many interim responses")));
            }
            if status == StatusCode::CONTINUE {
                self.upload.wait = None;
                if let Poll::Ready(Err(fault)) = self.upload.poll(cx, &mut self.wire) {
                    return Poll::Ready(Err(fault));
                }
            } else if let Some(send) = informational {
                send(received.head);
            }
        }
    }

    fn error(self, fault: Fault) -> SendError {
        let progress = match (self.answered, self.wire.wrote) {
            (true, _) => Progress::Answered,
            (false, true) => Progress::Unanswered,
            (false, false) => Progress::Unsent,
        };
        SendError { fault, progress }
    }

    fn answer(
        mut self,
        received: ReceivedResponse,
        upgrade: Option<&[u8]>,
        recycle: Option<Rc<dyn Recycle<I>>>,
    ) -> Result<Answer, SendError> {
        let ReceivedResponse { head, body: mut decoder, keep_alive } = received;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let named = |asked: &[u8]| {
                let mut given = head.headers.get_all("upgrade");
                given.next().is_some_and(|name| name.eq_ignore_ascii_case(asked)) && given.next().is_none()
            };
            // Nobody asked, or not for that; or the backend reads the rest of the request as the other
            // protocol's.
            if !upgrade.is_some_and(named) || !self.upload.sent {
                return Err(self.error(protocol("a switch of protocols that was not asked for")));
            }
            let tunnel = Some(Box::new(Switched(self.wire)) as Box<dyn Tunnel>);
            return Ok(Answer { head, body: Body::Empty, tunnel });
        }
        let recycle = recycle.filter(|_| keep_alive && upgrade.is_none());
        let whole = match &decoder {
            Decoder::Length(length) if *length <= self.wire.input.len() as u64 => {
                match decoder.decode(&mut self.wire.input) {
                    Ok(Decoded::Data(data)) => Some(Body::Full(data)),
                    _ => None,
                }
            }
            Decoder::Done => Some(Body::Empty),
            _ => None,
        };
        let Self { wire, upload, read_limit, .. } = self;
        let mut response = Download { wire: Some(wire), upload, decoder, read_limit, recycle };
        let body = match whole {
            Some(body) => {
                response.release();
                body
            }
            None => Body::Stream(Box::new(response)),
        };
        Ok(Answer { head, body, tunnel: None })
    }
}

/// A response's body as it comes in, and what is left of the request's.
struct Download<I> {
    wire: Option<Wire<I>>,
    upload: Upload,
    decoder: Decoder,
    read_limit: usize,
    recycle: Option<Rc<dyn Recycle<I>>>,
}

impl<I> Download<I> {
    /// The response has ended: the connection goes back, or, when anything about the exchange is not as it
    /// should be, is closed.
    fn release(&mut self) {
        let (Some(mut wire), Some(recycle)) = (self.wire.take(), self.recycle.take()) else { return };
        if self.upload.sent && wire.input.is_empty() {
            // The empty rest would keep the read buffer alive.
            wire.input = Bytes::new();
            recycle.recycle(Client { wire });
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> BodySource for Download<I> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
        if let Poll::Ready(Err(fault)) = self.upload.poll(cx, wire) {
            self.wire = None;
            return Poll::Ready(Some(Err(fault)));
        }
        let frame = loop {
            match self.decoder.decode(&mut wire.input) {
                Ok(Decoded::Data(data)) => break Some(Ok(Frame::Data(data))),
                Ok(Decoded::Trailers(trailers)) => break Some(Ok(Frame::Trailers(trailers))),
                Ok(Decoded::End) => break None,
                Err(Malformed(detail)) => break Some(Err(protocol(detail))),
                Ok(Decoded::More) => {}
            }
            match ready!(wire.poll_fill(cx, self.read_limit)) {
                Ok(1..) => {}
                Ok(_) if matches!(self.decoder, Decoder::UntilClose) => break None,
                Ok(_) => break Some(Err(closed("closed within the body"))),
                Err(error) => break Some(Err(closed(error))),
            }
        };
        match &frame {
            Some(Err(_)) => self.wire = None,
            Some(Ok(Frame::Data(_))) if !self.decoder.is_done() => {}
            _ => self.release(),
        }
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }
}

/// A connection that has become another protocol's.
struct Switched<I>(Wire<I>);

impl<I: AsyncRead + Unpin> AsyncRead for Switched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Wire { input, io, .. } = &mut self.0;
        if input.is_empty() {
            return Pin::new(io).poll_read(cx, buffer);
        }
        let count = input.len().min(buffer.remaining());
        buffer.put_slice(&input[..count]);
        input.advance(count);
        if input.is_empty() {
            *input = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Switched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.io).poll_shutdown(cx)
    }
}

fn protocol(detail: &'static str) -> Fault {
    Fault::new(FaultKind::UpstreamProtocol, detail)
}

fn closed(detail: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::UpstreamClosed, detail)
}
