//! Bodies of HTTP/2 streams, both ways, with flow control: a window is given back when the bytes are
//! pulled, and no more than one piece is pulled before the peer has a window for it.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::fields;
use super::stream::{Broken, Line, Piece, Receiver};
use crate::fault::Fault;
use crate::http::{Body, BodySource, Frame, Headers};

/// A body that comes in on a stream.
pub(super) struct Incoming {
    receiver: Receiver,
    remaining: Option<u64>,
    /// The fault that a stream stands for which is broken before its end.
    broken: fn(Broken) -> Fault,
}

impl Incoming {
    /// The body of a stream; `remaining` as its `content-length` says, which is enforced where it is received.
    /// `broken` makes the fault when the stream or its connection breaks before the body's end, whatever the
    /// reason: a backend that wants no more of the request says so after its answer (RFC 9113 section 8.1).
    pub(super) fn new(receiver: Receiver, remaining: Option<u64>, broken: fn(Broken) -> Fault) -> Self {
        Self { receiver, remaining, broken }
    }

    /// Its stream.
    pub(super) fn line(&self) -> &Line {
        &self.receiver.0
    }
}

impl BodySource for Incoming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let line = &self.receiver.0;
        let piece = ready!(line.mux.borrow_mut().poll_piece(line, cx));
        Poll::Ready(match piece {
            Some(Ok(Piece::Data(data))) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining.saturating_sub(data.len() as u64);
                }
                Some(Ok(Frame::Data(data)))
            }
            Some(Ok(Piece::Trailers(trailers))) => Some(Ok(Frame::Trailers(trailers))),
            Some(Err(broken)) => Some(Err((self.broken)(broken))),
            None => None,
        })
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

/// Why a body could not be sent.
#[derive(Debug)]
pub(super) enum SendError {
    /// The body failed; the caller resets the stream.
    Body(Fault),
    /// The stream is broken. [`Reason::NO_ERROR`](super::Reason::NO_ERROR) from the peer: it has answered and
    /// wants no more of the body.
    Broken,
    /// The peer has taken nothing for too long.
    Stalled,
}

/// Sends a body: waits for each piece, then for the window for it. Watches for the peer's reset meanwhile.
/// `sent` is told of each piece's length when it goes out. `patience` is how long the peer may take nothing;
/// with `whole`, of the whole connection as long as that is what the stream waits for.
///
/// # Errors
/// When the body fails or the peer wants no more. When it fails, and when this future is dropped, the
/// caller resets the stream, unless dropping its last handle does.
pub(super) async fn send(
    line: &Line,
    body: &mut Body,
    patience: Duration,
    whole: bool,
    mut sent: impl FnMut(usize),
) -> Result<(), SendError> {
    let mut ahead = None;
    loop {
        let frame = match ahead.take() {
            Some(frame) => frame,
            None => next(line, body).await?,
        };
        let mut data = match frame {
            None => return send_data(line, Bytes::new(), true),
            Some(Frame::Trailers(trailers)) => return send_trailers(line, &trailers),
            Some(Frame::Data(data)) => data,
        };
        // The end is told along with the last bytes where it is known already.
        if body.remaining() == Some(0) {
            ahead = match poll_fn(|cx| Poll::Ready(body.poll_frame(cx))).await {
                Poll::Ready(next) => Some(next.transpose().map_err(SendError::Body)?),
                Poll::Pending => None,
            };
        }
        let last = matches!(ahead, Some(None));
        while !data.is_empty() {
            let wants = data.len();
            let now = poll_fn(|cx| Poll::Ready(line.mux.borrow_mut().poll_room(line, wants, cx))).await;
            let room = match now {
                Poll::Ready(room) => room.map_err(|_| SendError::Broken)?,
                Poll::Pending => room(line, wants, patience, whole).await?,
            };
            let piece = data.split_to(room);
            sent(piece.len());
            send_data(line, piece, last && data.is_empty())?;
        }
        if last {
            return Ok(());
        }
    }
}

fn send_data(line: &Line, data: Bytes, end: bool) -> Result<(), SendError> {
    line.mux.borrow_mut().send_data(line, data, end).map_err(|_| SendError::Broken)
}

fn send_trailers(line: &Line, trailers: &Headers) -> Result<(), SendError> {
    fields::check(trailers).map_err(SendError::Body)?;
    let encode = |encoder: &mut _, out: &mut _| fields::encode(trailers, encoder, out);
    line.mux.borrow_mut().send_block(line, true, encode).map_err(|_| SendError::Broken)
}

/// The next piece of the body, or the peer's reset, whichever is first.
async fn next(line: &Line, body: &mut Body) -> Result<Option<Frame>, SendError> {
    poll_fn(|cx| match body.poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(SendError::Body)),
        Poll::Pending => line.mux.borrow_mut().poll_broken(line, cx).map(|_| Err(SendError::Broken)),
    })
    .await
}

/// How many bytes the peer has room for, as soon as it has some.
async fn room(line: &Line, wants: usize, patience: Duration, whole: bool) -> Result<usize, SendError> {
    let mut before = line.mux.borrow().taken();
    loop {
        let room = poll_fn(|cx| line.mux.borrow_mut().poll_room(line, wants, cx));
        if let Ok(room) = timeout(patience, room).await {
            return room.map_err(|_| SendError::Broken);
        }
        if !(whole && line.mux.borrow().advances(&mut before)) {
            return Err(SendError::Stalled);
        }
    }
}
