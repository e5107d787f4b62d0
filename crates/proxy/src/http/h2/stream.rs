//! One stream: what has come on it, what may be sent, and the halves by which it is handled.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::fields::Length;
use super::frame::Reason;
use super::mux::{Mux, Shared};
use crate::http::{Headers, Informational, ResponseHead};

/// Why a stream can go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The peer has reset it.
    Reset(Reason),
    /// The peer goes away and has not looked at it (RFC 9113 section 6.8).
    LeftBehind {
        /// But at others.
        others: bool,
    },
    /// The same, for a reason that is an error.
    TurnedAway(Reason),
    /// The peer has broken the protocol, on this stream or the connection.
    Violation(&'static str),
    /// The peer has ended the connection for this reason.
    GoneAway(Reason),
    /// The connection has ended.
    Closed,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset(reason) => write!(f, "the stream was reset: {reason}"),
            Self::LeftBehind { .. } => f.write_str("the peer goes away and has not looked at the stream"),
            Self::TurnedAway(reason) => {
                write!(f, "the peer goes away and has not looked at the stream: {reason}")
            }
            Self::Violation(what) => write!(f, "the peer breaks the protocol: {what}"),
            Self::GoneAway(reason) => write!(f, "the peer has ended the connection: {reason}"),
            Self::Closed => f.write_str("the connection has ended"),
        }
    }
}

/// What has come on a stream.
pub(super) enum Piece {
    Data(Bytes),
    Trailers(Box<Headers>),
}

/// The head of a final response, and the length that it says.
pub(super) struct Answered {
    pub(super) head: ResponseHead,
    pub(super) length: Length,
}

/// One stream.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// It has ended both ways, or is broken: it does not count any more.
    pub(super) closed: bool,
    pub(super) broken: Option<Broken>,
    /// We have reset it: what the peer still sends, it sends without knowing.
    pub(super) cut: bool,
    /// The head has come.
    pub(super) begun: bool,
    /// The head of the response, until it is taken; and those of 1xx responses before it.
    pub(super) head: Option<Box<Answered>>,
    pub(super) interim: VecDeque<ResponseHead>,
    /// How many of those there were.
    pub(super) interims: u8,
    /// What has come of the body, in order: then `small`.
    pub(super) queue: VecDeque<Bytes>,
    pub(super) small: BytesMut,
    pub(super) trailers: Option<Box<Headers>>,
    pub(super) received_all: bool,
    /// Bytes that are to come, if `content-length` has told.
    pub(super) expected: Option<u64>,
    /// The response has no body, whatever its length says (RFC 9110 section 6.4.1).
    pub(super) bodiless: bool,
    pub(super) receive_window: i64,
    /// The window has grown.
    pub(super) lent: bool,
    /// Bytes that were taken last, and may wait for the other side.
    pub(super) in_hand: usize,
    /// Bytes that were taken before, and for which no window has been given back.
    pub(super) credit: u32,
    pub(super) reader: Option<Waker>,
    pub(super) reader_gone: bool,
    pub(super) head_sent: bool,
    pub(super) sent_all: bool,
    pub(super) send_window: i64,
    /// Bytes that wait for a window, and of those the ones that may go.
    pub(super) wants: usize,
    pub(super) granted: usize,
    pub(super) queued: bool,
    pub(super) writer: Option<Waker>,
    pub(super) writer_gone: bool,
}

impl Stream {
    pub(super) fn new(id: u32, receive_window: i64, send_window: i64) -> Self {
        Self { id, receive_window, send_window, ..Self::default() }
    }

    pub(super) fn wake_reader(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn wake(&mut self) {
        self.wake_reader();
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    /// Bytes that have come and were not taken.
    pub(super) fn unread(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }
}

/// Names a stream of a connection. What is done with one that has ended has no effect.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) mux: Shared,
    pub(super) key: usize,
    pub(super) id: u32,
}

/// The receiving half of a stream. Dropped: what else comes is not wanted.
pub(super) struct Receiver(pub(super) Line);

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut mux = self.0.mux.borrow_mut();
        let Some(stream) = mux.stream(&self.0) else { return };
        stream.reader_gone = true;
        stream.reader = None;
        if stream.writer_gone {
            return mux.release(self.0.key);
        }
        let unread = stream.unread();
        stream.queue.clear();
        stream.small = BytesMut::new();
        mux.give_back(unread);
    }
}

/// The sending half of a stream. Dropped before the end: it is reset.
pub(super) struct Sender(pub(super) Line);

impl Drop for Sender {
    fn drop(&mut self) {
        let mut mux = self.0.mux.borrow_mut();
        let Some(stream) = mux.stream(&self.0) else { return };
        stream.writer_gone = true;
        stream.writer = None;
        if stream.reader_gone {
            mux.release(self.0.key);
        } else if !stream.sent_all {
            // It was given up, or whoever sent has panicked: the rest will not come.
            mux.reset(&self.0, Reason::CANCEL);
        }
    }
}

impl Mux {
    /// The next piece that has come on a stream; `None` at its end.
    pub(super) fn poll_piece(
        &mut self,
        line: &Line,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        let Some(stream) = self.stream(line) else { return Poll::Ready(Some(Err(Broken::Closed))) };
        // Whoever asks for more is done with what it has.
        let in_hand = std::mem::take(&mut stream.in_hand);
        self.give_back_on(line.key, in_hand);
        let stream = &mut self.streams[line.key];
        let data = match stream.queue.pop_front() {
            Some(data) => data,
            None => std::mem::take(&mut stream.small).freeze(),
        };
        if !data.is_empty() {
            stream.in_hand = data.len();
            self.give_back(data.len());
            return Poll::Ready(Some(Ok(Piece::Data(data))));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Some(Ok(Piece::Trailers(trailers))));
        }
        if stream.received_all {
            return Poll::Ready(None);
        }
        if let Some(broken) = stream.broken {
            return Poll::Ready(Some(Err(broken)));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The head of the final response. Those before it are told.
    pub(super) fn poll_head(
        &mut self,
        line: &Line,
        informational: Option<&Informational>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Answered>, Broken>> {
        let Some(stream) = self.stream(line) else { return Poll::Ready(Err(Broken::Closed)) };
        while let Some(head) = stream.interim.pop_front() {
            if let Some(tell) = informational.filter(|_| head.status != StatusCode::CONTINUE) {
                tell(head);
            }
        }
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Whether all of a stream has come, and been taken.
    pub(super) fn has_ended(&mut self, line: &Line) -> bool {
        let ended = |s: &mut Stream| s.received_all && s.unread() == 0 && s.trailers.is_none();
        self.stream(line).is_none_or(ended)
    }

    /// Whether the stream is broken.
    pub(super) fn is_broken(&mut self, line: &Line) -> bool {
        self.stream(line).is_none_or(|stream| stream.broken.is_some())
    }

    /// Ready when the stream is broken.
    pub(super) fn poll_broken(&mut self, line: &Line, cx: &mut Context<'_>) -> Poll<Broken> {
        let Some(stream) = self.stream(line) else { return Poll::Ready(Broken::Closed) };
        if let Some(broken) = stream.broken {
            return Poll::Ready(broken);
        }
        register(&mut stream.writer, cx);
        Poll::Pending
    }
}

/// Has the task woken.
pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}
