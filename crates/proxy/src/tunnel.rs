//! Copying both ways until both have ended, with no buffer held while nothing moves: upgrades and connections
//! of TLS and TCP listeners.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use tokio::time::Instant;

use crate::http::h1::io::{Deadline, after, poll_read};

/// A client's connection and a backend's, copied both ways until both sides have ended.
pub(crate) struct Copying {
    up: Half,
    down: Half,
    patience: Patience,
    /// What had moved when the deadline was set, and the deadline.
    due: Option<((u64, bool), Instant)>,
}

/// How long a tunnel may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Both ways; `None` for ever.
    pub(crate) silent: Option<Duration>,
    /// Once one side has ended.
    pub(crate) half_closed: Duration,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides closed, and each was told of the other.
    Closed,
    /// Reading from or writing to the client failed.
    ClientBroke,
    /// Reading from or writing to the backend failed.
    BackendBroke,
    /// Nothing moved for too long, or the drain's deadline came.
    TimedOut,
}

/// Which side of a direction failed.
enum Failed {
    Reading,
    Writing,
}

impl Copying {
    /// `initial` is what has already been read from the client.
    pub(crate) fn new(initial: Bytes, patience: Patience) -> Self {
        Self { up: Half::new(initial), down: Half::new(Bytes::new()), patience, due: None }
    }

    /// Bytes that the backend has been sent.
    pub(crate) fn sent_up(&self) -> u64 {
        self.up.copied
    }

    /// Bytes that the client has been sent.
    pub(crate) fn sent_down(&self) -> u64 {
        self.down.copied
    }

    /// Ready once it is over. `taken` is what the client has taken, where that is not seen from above; with
    /// `cut` it ends then at the latest.
    pub(crate) fn poll<C, B>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        backend: &mut B,
        taken: u64,
        deadline: &mut Deadline,
        cut: Option<Instant>,
    ) -> Poll<Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin + ?Sized,
        B: AsyncRead + AsyncWrite + Unpin + ?Sized,
    {
        let up = self.up.poll_copy(cx, client, backend);
        let down = self.down.poll_copy(cx, backend, client);
        match (up, down) {
            (Poll::Ready(Err(Failed::Reading)), _) | (_, Poll::Ready(Err(Failed::Writing))) => {
                return Poll::Ready(Ended::ClientBroke);
            }
            (Poll::Ready(Err(Failed::Writing)), _) | (_, Poll::Ready(Err(Failed::Reading))) => {
                return Poll::Ready(Ended::BackendBroke);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Closed),
            _ => {}
        }
        let half_closed = self.up.has_ended() || self.down.has_ended();
        let moved = (self.up.copied + self.down.copied + taken, half_closed);
        if self.due.is_none_or(|(before, _)| before != moved) {
            let half = half_closed.then_some(self.patience.half_closed);
            let limit = self.patience.silent.into_iter().chain(half).min();
            self.due = limit.map(|limit| (moved, after(limit)));
        }
        let idle = self.due.map(|(_, due)| due);
        let Some(due) = idle.into_iter().chain(cut).min() else { return Poll::Pending };
        deadline.poll(cx, due).map(|()| Ended::TimedOut)
    }
}

/// One direction.
struct Half {
    /// Read from one side, and not yet written to the other.
    pending: Bytes,
    state: State,
    unflushed: bool,
    /// Bytes written.
    copied: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader's side has ended; the writer's is told.
    Ending,
    Done,
}

fn writing(_: io::Error) -> Failed {
    Failed::Writing
}

impl Half {
    /// `pending` is what has already been read.
    fn new(pending: Bytes) -> Self {
        Self { pending, state: State::Open, unflushed: false, copied: 0 }
    }

    /// Whether the reader's side has ended.
    fn has_ended(&self) -> bool {
        self.state != State::Open
    }

    /// Copies until there is nothing to read or no room to write. Ready: this direction has ended, and the
    /// writer's side knows.
    fn poll_copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        loop {
            if !self.pending.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending)).map_err(writing)?;
                if count == 0 {
                    return Poll::Ready(Err(Failed::Writing));
                }
                self.pending.advance(count);
                self.copied += count as u64;
                self.unflushed = true;
                continue;
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(writing)?;
                    self.state = State::Done;
                }
                State::Open => match poll_read(from, cx, usize::MAX) {
                    Poll::Ready(read) => {
                        self.pending = read.map_err(|_| Failed::Reading)?;
                        if self.pending.is_empty() {
                            self.state = State::Ending;
                        }
                    }
                    Poll::Pending => {
                        // The empty rest would keep the read buffer alive.
                        self.pending = Bytes::new();
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(writing)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}
