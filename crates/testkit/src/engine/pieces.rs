//! A connection in memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Story;

/// A connection whose reads return these pieces, one each, with a wait before each; then it ends.
pub struct Pieces {
    input: VecDeque<Bytes>,
    waited: bool,
    /// At the end of the input nothing comes any more, until the other side has closed.
    open: bool,
    /// Nothing comes before the request there has come whole.
    after: Option<Rc<Story>>,
    /// It does not end while a request there waits.
    staying: Option<Rc<Story>>,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Pieces {
    /// What is written to it goes into `output`.
    pub fn new(input: Vec<Bytes>, output: Rc<RefCell<Vec<u8>>>) -> Self {
        Self { input: input.into(), waited: false, open: false, after: None, staying: None, output }
    }

    /// Does not end before the other side does, as a client that waits for its answers.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Says nothing before all of the request has come, as most backends do.
    pub(super) fn after(mut self, story: Rc<Story>) -> Self {
        self.after = Some(story);
        self
    }

    /// Waits for the answers to what it has asked for, and then ends.
    pub(super) fn staying(mut self, story: Rc<Story>) -> Self {
        self.staying = Some(story);
        self
    }

    /// Whether all pieces have been read.
    pub fn is_exhausted(&self) -> bool {
        self.input.is_empty()
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.waited = !self.waited;
        let early = self.after.as_ref().is_some_and(|story| !story.waits.get());
        let stays = self.input.is_empty() && self.staying.as_ref().is_some_and(|story| story.waits.get());
        if self.waited || early || stays {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.input.is_empty() && self.open {
            return Poll::Pending;
        }
        if let Some(mut piece) = self.input.pop_front() {
            out.put_slice(&piece.split_to(piece.len().min(out.remaining())));
            if !piece.is_empty() {
                self.input.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open = false;
        Poll::Ready(Ok(()))
    }
}
