//! What waits to be written on a connection: frames one after another, long pieces of bodies by reference.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// From here on, bytes are queued by reference rather than copied.
const BY_REFERENCE: usize = 4096;
/// Pieces for one write.
const SLICES: usize = 32;
/// A buffer of more than this is not kept for the next connection.
const KEEP: usize = 128 * 1024;

thread_local! {
    // One per worker: a connection holds no buffer while nothing waits in it.
    static BUFFER: Cell<BytesMut> = Cell::default();
}

/// Bytes to be written, in order.
#[derive(Default)]
pub(super) struct Output {
    /// Ahead of the tail.
    pieces: VecDeque<Bytes>,
    pieces_len: usize,
    tail: BytesMut,
    /// Written, and not yet flushed.
    unflushed: bool,
}

impl Output {
    /// Bytes that wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.pieces_len + self.tail.len()
    }

    /// Whether all is written and flushed.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Where frames are appended.
    #[inline]
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = BUFFER.take();
            self.tail.reserve(4096);
        }
        &mut self.tail
    }

    /// Appends a piece of a body.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < BY_REFERENCE {
            self.tail().extend_from_slice(&piece);
            return;
        }
        if !self.tail.is_empty() {
            let before = self.tail.split().freeze();
            self.pieces_len += before.len();
            self.pieces.push_back(before);
        }
        self.pieces_len += piece.len();
        self.pieces.push_back(piece);
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes and flushes as much as the peer takes; `count` is told of each write.
    pub(super) fn poll_write<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        mut count: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let n = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let waiting = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
                let used = slices.iter_mut().zip(waiting).map(|(s, piece)| *s = IoSlice::new(piece)).count();
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
            self.unflushed = true;
            count(n);
        }
        if self.tail.capacity() > 0 {
            let mut buffer = std::mem::take(&mut self.tail);
            if buffer.capacity() <= KEEP {
                buffer.clear();
                BUFFER.set(buffer);
            }
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        while let Some(piece) = self.pieces.front_mut()
            && n > 0
        {
            let taken = n.min(piece.len());
            self.pieces_len -= taken;
            n -= taken;
            if taken == piece.len() {
                self.pieces.pop_front();
            } else {
                piece.advance(taken);
            }
        }
        self.tail.advance(n);
    }
}
