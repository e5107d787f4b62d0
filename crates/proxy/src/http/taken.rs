//! How much of what was written a client has taken, seen from below TLS: rustls takes up to 64 KiB at once,
//! so that above it a client that reads slowly looks like one that does not read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that a [`Counted`] stream has taken.
#[derive(Clone, Debug, Default)]
pub struct Taken(Rc<Cell<u64>>);

impl Taken {
    /// So far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A stream that counts what is written to it.
#[derive(Debug)]
pub struct Counted<I> {
    io: I,
    taken: Taken,
}

impl<I> Counted<I> {
    /// Counts from now on.
    pub fn new(io: I) -> Self {
        Self { io, taken: Taken::default() }
    }

    /// The count, which goes on.
    pub fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// The stream.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = polled {
            self.taken.0.set(self.taken.0.get() + count as u64);
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.count(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
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
