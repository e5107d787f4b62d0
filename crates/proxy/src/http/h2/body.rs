//! Bodies of HTTP/2 streams, both ways, with flow control: a window is given back when the bytes are
//! pulled, and nothing is pulled before the peer has a window for it.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::time::timeout;

use super::fields;
use super::wire::Outflow;
use crate::fault::Fault;
use crate::http::{Body, BodySource, Frame};

/// A body that comes in on a stream.
pub struct Incoming {
    stream: RecvStream,
    remaining: Option<u64>,
    /// The fault that a broken stream stands for, if it is one.
    broken: fn(&h2::Error) -> Option<Fault>,
    data_ended: bool,
}

impl Incoming {
    /// The body of a stream; `remaining` as its `content-length` says, which `h2` enforces. `broken` makes
    /// the fault when the stream or its connection breaks, or takes that for the body's clean end.
    pub fn new(stream: RecvStream, remaining: Option<u64>, broken: fn(&h2::Error) -> Option<Fault>) -> Self {
        Self { stream, remaining, broken, data_ended: false }
    }
}

impl BodySource for Incoming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only on a stream that is gone, which the next poll tells.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready((self.broken)(&error).map(Err)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(map)) => {
                let trailers = fields::received_trailers(&map);
                if trailers.is_empty() {
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(Frame::Trailers(Box::new(trailers)))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready((self.broken)(&error).map(Err)),
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

/// Why a body could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The body failed; the stream has been reset.
    Body(Fault),
    /// The peer reset the stream. [`Reason::NO_ERROR`]: it has answered and wants no more of the body.
    Reset(Reason),
    /// The connection is gone.
    Connection(h2::Error),
    /// The peer has taken nothing for too long.
    Stalled,
}

/// Sends a body: waits for each piece, then for the window for it. Watches for the peer's reset meanwhile.
/// `sent` is told of each piece's length when it goes out. `patience` is how long the peer may take nothing;
/// with an `outflow`, of the whole connection as long as that is what the stream waits for.
///
/// # Errors
/// When the body fails or the peer wants no more. When it fails, and when this future is dropped, the
/// caller resets the stream, unless dropping its last handle does.
pub(super) async fn send(
    stream: &mut SendStream<Bytes>,
    body: &mut Body,
    patience: Duration,
    outflow: Option<&Outflow>,
    mut sent: impl FnMut(usize),
) -> Result<(), SendError> {
    let mut ahead = None;
    loop {
        let frame = match ahead.take() {
            Some(frame) => frame,
            None => next(stream, body).await?,
        };
        let mut data = match frame {
            None => return stream.send_data(Bytes::new(), true).map_err(SendError::Connection),
            Some(Frame::Trailers(trailers)) => {
                let map = fields::to_send(&trailers).map_err(SendError::Body)?;
                return stream.send_trailers(map).map_err(SendError::Connection);
            }
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
            stream.reserve_capacity(data.len());
            let room = match stream.capacity() {
                0 => room(stream, patience, outflow).await?,
                room => room,
            };
            let piece = data.split_to(room.min(data.len()));
            if !piece.is_empty() {
                sent(piece.len());
                stream.send_data(piece, last && data.is_empty()).map_err(SendError::Connection)?;
            }
        }
        if last {
            return Ok(());
        }
    }
}

/// The next piece of the body, or the peer's reset, whichever is first.
async fn next(stream: &mut SendStream<Bytes>, body: &mut Body) -> Result<Option<Frame>, SendError> {
    poll_fn(|cx| {
        match body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Ok(Some(frame))),
            Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(SendError::Body(fault))),
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Pending => {}
        }
        poll_reset(stream, cx)
    })
    .await
}

fn poll_reset<T>(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<T, SendError>> {
    match ready!(stream.poll_reset(cx)) {
        Ok(reason) => Poll::Ready(Err(SendError::Reset(reason))),
        Err(error) => Poll::Ready(Err(SendError::Connection(error))),
    }
}

/// How many bytes the peer has room for, as soon as it has some.
async fn room(
    stream: &mut SendStream<Bytes>,
    patience: Duration,
    outflow: Option<&Outflow>,
) -> Result<usize, SendError> {
    let mut before = outflow.map_or(0, Outflow::taken);
    loop {
        if let Ok(room) = timeout(patience, poll_fn(|cx| poll_room(stream, cx))).await {
            return room;
        }
        if !outflow.is_some_and(|outflow| outflow.advances(&mut before)) {
            return Err(SendError::Stalled);
        }
    }
}

/// How many bytes the peer has room for.
fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, SendError>> {
    match stream.poll_capacity(cx) {
        Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room)),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => SendError::Reset(reason),
            _ => SendError::Connection(error),
        })),
        // The stream is closed for sending.
        Poll::Ready(None) => Poll::Ready(Err(SendError::Reset(Reason::STREAM_CLOSED))),
        Poll::Pending => poll_reset(stream, cx),
    }
}
