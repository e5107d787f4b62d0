//! Buffered reading and writing of one connection, with no buffer held while there is nothing in it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Bytes asked for in one read. A read that leaves room tells the reactor that the socket is empty and
/// saves the call that would only say so.
const READ: usize = 128 * 1024;

/// From here on, bytes are passed on by reference rather than copied. A piece that is passed on keeps the
/// whole read buffer alive, so this also bounds what a slow receiver can pin to four times what it is sent.
const BY_REFERENCE: usize = 32 * 1024;

/// Bytes waiting to be written from which on nothing more is pulled.
const WRITE_MARK: usize = 32 * 1024;

/// A write buffer of more than this is not kept for the next connection.
const WRITE_KEEP: usize = 128 * 1024;

thread_local! {
    // One of each per worker: connections borrow them for one poll, and keep nothing while they wait.
    static READ_BUFFER: RefCell<BytesMut> = RefCell::default();
    static WRITE_BUFFER: Cell<BytesMut> = Cell::default();
}

/// Reads once, up to `limit` bytes. No bytes: the end.
pub(crate) fn poll_read<I>(io: &mut I, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<Bytes>>
where
    I: AsyncRead + Unpin + ?Sized,
{
    READ_BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.reserve(READ);
        ready!(pin!(io.read_buf(&mut buffer.limit(limit))).poll(cx))?;
        Poll::Ready(Ok(match buffer.len() {
            ..BY_REFERENCE => Bytes::copy_from_slice(buffer),
            _ => buffer.split().freeze(),
        }))
    })
}

/// A connection with what has been read and not yet taken, and what has been queued and not yet written.
pub(super) struct Wire<I> {
    pub(super) io: I,
    /// Read, and not yet taken.
    pub(super) input: Bytes,
    /// Queued first; then what is large.
    out: BytesMut,
    /// Boxed, since an idle connection has none.
    large: Option<Box<Large>>,
    unflushed: bool,
    /// Bytes have been written since this was last cleared.
    pub(super) wrote: bool,
}

/// A piece that is passed on by reference, and what follows it on the wire.
struct Large {
    bytes: Bytes,
    tail: &'static [u8],
}

impl<I> Wire<I> {
    pub(super) fn new(io: I, input: Bytes) -> Self {
        Self { io, input, out: BytesMut::new(), large: None, unflushed: false, wrote: false }
    }

    /// Whether more can be queued. Only one large piece waits at a time.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_none() && self.out.len() < WRITE_MARK
    }

    /// Where small things are queued. Only while there is room: what is put here goes before a large piece.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        debug_assert!(self.large.is_none());
        if self.out.capacity() == 0 {
            self.out = WRITE_BUFFER.take();
            self.out.reserve(4096);
        }
        &mut self.out
    }

    /// Queues a piece of a body and what follows it on the wire. Only while there is room.
    pub(super) fn queue(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() < BY_REFERENCE {
            let out = self.out();
            out.extend_from_slice(&data);
            out.extend_from_slice(tail);
        } else {
            self.large = Some(Box::new(Large { bytes: data, tail }));
        }
    }

    /// Forgets what is queued: the connection is about to be cut.
    pub(super) fn discard_output(&mut self) {
        self.out = BytesMut::new();
        self.large = None;
    }
}

impl<I: AsyncRead + Unpin> Wire<I> {
    /// Reads once, up to `limit` bytes, behind what is there already. 0: the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        let more = ready!(poll_read(&mut self.io, cx, limit))?;
        let count = more.len();
        if self.input.is_empty() {
            self.input = more;
        } else if count > 0 {
            let mut joined = Vec::with_capacity(self.input.len() + count);
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&more);
            self.input = joined.into();
        }
        Poll::Ready(Ok(count))
    }

    /// Whether the peer has neither closed the connection nor sent anything. Does not block.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty()
            && Pin::new(&mut self.io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl<I: AsyncWrite + Unpin> Wire<I> {
    /// Writes all that is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let io = Pin::new(&mut self.io);
            let count = match &self.large {
                None if self.out.is_empty() => break,
                None => ready!(io.poll_write(cx, &self.out))?,
                Some(large) => {
                    let slices = [&self.out[..], &large.bytes, large.tail].map(IoSlice::new);
                    let begin = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
                    ready!(io.poll_write_vectored(cx, &slices[begin..]))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote = true;
            self.unflushed = true;
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        let mut buffer = std::mem::take(&mut self.out);
        if (1..=WRITE_KEEP).contains(&buffer.capacity()) {
            buffer.clear();
            WRITE_BUFFER.set(buffer);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        let from_out = count.min(self.out.len());
        if from_out == self.out.len() {
            // Not advance(): that would give the room before the end of the buffer away.
            self.out.clear();
        } else {
            self.out.advance(from_out);
        }
        count -= from_out;
        let Some(large) = &mut self.large else { return };
        let from_large = count.min(large.bytes.len());
        large.bytes.advance(from_large);
        large.tail = &large.tail[count - from_large..];
        if large.bytes.is_empty() {
            if large.tail.is_empty() {
                self.large = None;
            } else {
                // The empty rest would keep its buffer alive.
                large.bytes = Bytes::new();
            }
        }
    }
}

/// One timer for all of a connection's limits, so that a request costs none: it is set when something has
/// to be waited for and it is not yet set or set too late, and moved on only when it fires too early.
#[derive(Default)]
pub(crate) struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl Deadline {
    /// Ready once `due` has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
            self.waker = None;
        }
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        // Apart from the task's budget: a task that has used it up would not be registered with the timer,
        // and is not polled here again before something else wakes it.
        while pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// An instant from now. A limit beyond what the clock can tell is a year.
pub(crate) fn after(limit: Duration) -> Instant {
    Instant::now() + within_reason(limit)
}

/// A limit that the clock can tell.
pub(super) fn within_reason(limit: Duration) -> Duration {
    limit.min(Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// As it is when a fast transfer has just been stopped by the client.
    #[tokio::test(start_paused = true)]
    async fn the_time_is_kept_even_by_a_task_that_has_used_up_its_budget() {
        let mut deadline = Deadline::default();
        let due = after(Duration::from_secs(30));
        let mut busy = true;
        let kept = poll_fn(|cx| {
            while busy {
                busy = pin!(tokio::task::consume_budget()).poll(cx).is_ready();
            }
            deadline.poll(cx, due)
        });
        assert!(tokio::time::timeout(Duration::from_secs(60), kept).await.is_ok());
        assert!(Instant::now() < due + Duration::from_secs(1));
    }
}
