//! The connection's own task: reads frames for the streams, and writes what they have queued.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, timeout};

use super::frame::Reason;
use super::mux::{Mux, Violation};
use super::stream::Broken;

/// Bytes asked for in one read.
pub(super) const READ: usize = 32 * 1024;
/// How long a peer that has broken the protocol may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How much it may send meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

thread_local! {
    // One per worker: a connection holds no buffer while it waits.
    static BUFFER: Cell<BytesMut> = Cell::default();
}

/// What has happened on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something has come.
    Received,
    /// It has ended: nothing more will be read or written.
    Ended,
}

/// Writes what there is to write; then reads once.
pub(super) fn poll_step<I>(io: &mut I, mux: &RefCell<Mux>, cx: &mut Context<'_>) -> Poll<Step>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mux = &mut *mux.borrow_mut();
    mux.attend(cx);
    loop {
        if !mux.out.is_done() {
            let (out, written) = (&mut mux.out, &mut mux.written);
            let polled = out.poll_write(io, cx, |n| *written += n as u64);
            mux.blocked = polled.is_pending();
            if !mux.blocked {
                mux.replies = 0;
            }
            if let Poll::Ready(Err(_)) = polled {
                mux.fail(Broken::Closed, None);
                return Poll::Ready(Step::Ended);
            }
            mux.distribute();
        }
        // A peer that has broken the protocol is not waited for.
        if mux.is_over() && (mux.out.is_done() || mux.dead.is_some()) {
            return Poll::Ready(Step::Ended);
        }
        if mux.reads() {
            match poll_read(io, cx, mux) {
                Poll::Ready(Ok(())) => return Poll::Ready(Step::Received),
                Poll::Ready(Err((broken, reason))) => mux.fail(broken, reason),
                Poll::Pending => {}
            }
        }
        if mux.blocked || (mux.out.is_done() && !mux.is_over()) {
            mux.woken = false;
            return Poll::Pending;
        }
    }
}

/// Reads once, and takes in what has come.
fn poll_read<I>(io: &mut I, cx: &mut Context<'_>, mux: &mut Mux) -> Poll<Result<(), (Broken, Option<Reason>)>>
where
    I: AsyncRead + Unpin,
{
    let mut buffer = BUFFER.take();
    buffer.clear();
    buffer.reserve(READ);
    let polled = pin!(io.read_buf(&mut (&mut buffer).limit(READ))).poll(cx);
    let outcome = polled.map(|read| match read {
        Ok(0) => Err((mux.gone_away.map_or(Broken::Closed, Broken::GoneAway), None)),
        Ok(_) => match mux.receive(&mut buffer) {
            Ok(()) => Ok(()),
            Err(Violation(reason, what)) => Err((Broken::Violation(what), Some(reason))),
        },
        Err(_) => Err((Broken::Closed, None)),
    });
    BUFFER.set(buffer);
    outcome
}

/// Closes a connection. Where the peer still sends, it is listened to for a moment: closed at once, the
/// system would take back what we have told it last.
pub(super) async fn close<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I) {
    let lingering = async {
        if io.shutdown().await.is_ok() {
            let mut nowhere = [0; 1024];
            let mut heard = 0;
            while heard < LINGER_BYTES
                && let Ok(n @ 1..) = io.read(&mut nowhere).await
            {
                heard += n;
            }
        }
    };
    let _ = timeout(LINGER, lingering).await;
}
