//! Copying both ways until both have ended, with no buffer held while nothing moves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::poll_read;

/// One direction.
pub(super) struct Half {
    /// Read from one side, and not yet written to the other.
    pending: Bytes,
    state: State,
    unflushed: bool,
    /// Bytes written.
    pub(super) copied: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader's side has ended; the writer's is told.
    Ending,
    Done,
}

impl Half {
    /// `pending` is what has already been read.
    pub(super) fn new(pending: Bytes) -> Self {
        Self { pending, state: State::Open, unflushed: false, copied: 0 }
    }

    /// Whether the reader's side has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state != State::Open
    }

    /// Copies until there is nothing to read or no room to write. Ready: this direction has ended, and the
    /// writer's side knows.
    pub(super) fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        loop {
            if !self.pending.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(count);
                self.copied += count as u64;
                self.unflushed = true;
                continue;
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Done;
                }
                State::Open => match poll_read(from, cx, usize::MAX) {
                    Poll::Ready(read) => {
                        self.pending = read?;
                        if self.pending.is_empty() {
                            self.state = State::Ending;
                        }
                    }
                    Poll::Pending => {
                        // The empty rest would keep the read buffer alive.
                        self.pending = Bytes::new();
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}
