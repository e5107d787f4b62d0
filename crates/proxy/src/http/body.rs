//! Message bodies: pulled by whoever sends them on, so that back-pressure needs no buffers.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::Headers;
use crate::fault::Fault;

/// A message body. It is pulled: what is not polled is not read from the other side.
#[derive(Default)]
pub enum Body {
    /// None. On the wire: no body, or a length of 0.
    #[default]
    Empty,
    /// All there is.
    Full(Bytes),
    /// From a connection, piece by piece.
    Stream(Box<dyn BodySource>),
}

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes, not empty.
    Data(Bytes),
    /// The trailer section; the last frame. Without framing, routing or authentication fields.
    Trailers(Box<Headers>),
}

/// Where a streamed body comes from.
pub trait BodySource {
    /// The next piece; `None` at the clean end. After an error or the end it is not polled again.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>>;

    /// How many bytes are still to come, if that is known (Content-Length).
    fn remaining(&self) -> Option<u64>;
}

impl Body {
    /// How many bytes are still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::Stream(source) => source.remaining(),
        }
    }

    /// Whether nothing is to come: the message can be sent without a body.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(_) => false,
        }
    }

    /// The next piece; `None` at the clean end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::Data(std::mem::take(bytes))))),
            Self::Stream(source) => source.poll_frame(cx),
        }
    }

    /// The next piece; `None` at the clean end.
    ///
    /// # Errors
    /// When the other side fails or breaks the protocol.
    pub async fn frame(&mut self) -> Option<Result<Frame, Fault>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Full(Bytes::from_static(text.as_bytes()))
    }
}
