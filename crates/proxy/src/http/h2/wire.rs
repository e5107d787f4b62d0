//! The connection as the `h2` crate sees it: what has been read of it already, then the rest; and a count
//! of what comes, from which it is seen whether the peer lives.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::Taken;

/// What of the output has gone.
#[derive(Default)]
pub(super) struct Outflow {
    written: Cell<u64>,
    /// Told from below TLS, if there is TLS.
    below: Option<Taken>,
    /// There is more, for which the peer has no room.
    blocked: Cell<bool>,
}

impl Outflow {
    /// `below` counts what the socket takes, if that is not the stream itself.
    pub(super) fn new(below: Option<Taken>) -> Self {
        Self { below, ..Self::default() }
    }

    /// Whether the peer is slow rather than silent: it has taken something since `before`, and more waits
    /// for it. `before` is brought up to date.
    pub(super) fn advances(&self, before: &mut u64) -> bool {
        let taken = self.taken();
        std::mem::replace(before, taken) != taken && self.blocked.get()
    }

    /// Bytes that the peer has taken.
    pub(super) fn taken(&self) -> u64 {
        self.below.as_ref().map_or(self.written.get(), Taken::get)
    }
}

/// A byte stream with some bytes ahead of it.
pub(super) struct Wire<I> {
    io: I,
    ahead: Bytes,
    received: Rc<Cell<u64>>,
    outflow: Rc<Outflow>,
}

impl<I> Wire<I> {
    /// `ahead` is read first. `received` counts the bytes that come after.
    pub(super) fn new(io: I, ahead: Bytes, received: Rc<Cell<u64>>, outflow: Rc<Outflow>) -> Self {
        Self { io, ahead, received, outflow }
    }

    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.outflow.blocked.set(polled.is_pending());
        if let Poll::Ready(Ok(n)) = polled {
            self.outflow.written.set(self.outflow.written.get() + n as u64);
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..n]);
            self.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let n = buffer.filled().len() - before;
        self.received.set(self.received.get() + n as u64);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.count(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.outflow.blocked.set(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
