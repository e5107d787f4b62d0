//! The backend's side: one connection, one request at a time.

use std::rc::Rc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::fault::{Fault, FaultKind};
use crate::http::{Body, Informational, RequestHead, ResponseHead, Tunnel};

/// One idle connection to a backend. Sending a request takes it; it comes back through [`Recycle`] when,
/// and only when, the exchange ended so cleanly that nothing of it can be taken for a part of the next.
pub struct Client<I> {
    io: I,
}

/// Takes back connections that can be used again.
pub trait Recycle<I> {
    /// The connection is idle.
    fn recycle(&self, client: Client<I>);
}

/// How a request is sent.
pub struct SendOptions<I> {
    /// Wait for `100 Continue` (at most a second) before the body is pulled.
    pub expects_continue: bool,
    /// Ask to switch to this protocol. The connection does not come back.
    pub upgrade: Option<Bytes>,
    /// Told of 1xx responses other than 100 and 101.
    pub informational: Option<Informational>,
    /// Where the connection goes afterwards; `None`: it is closed.
    pub recycle: Option<Rc<dyn Recycle<I>>>,
}

/// A backend's answer.
pub struct Answer {
    /// Its head. `Upgrade` is among its headers if the status is 101.
    pub head: ResponseHead,
    /// Its body. While it is polled, what is left of the request's body is sent.
    pub body: Body,
    /// With status 101: the connection, which is the other protocol's now.
    pub tunnel: Option<Box<dyn Tunnel>>,
}

/// Why there is no answer.
pub struct SendError {
    /// What went wrong. The client's side of fault if the request's body failed.
    pub fault: Fault,
    /// How far it had got; from which follows whether the request may be sent again.
    pub progress: Progress,
    /// The request's body, if nothing has been pulled from it.
    pub body: Option<Body>,
}

/// How far a request had got when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not one byte was written: it is safe to send it elsewhere.
    Unsent,
    /// Written in part or whole, and the connection ended or broke before one byte of an answer. On a
    /// connection that had been idle the backend has most likely closed it before it came: idempotent
    /// requests may be sent again (RFC 9110 section 9.2.2).
    Unanswered,
    /// The backend has begun to answer, so it has processed it.
    Answered,
}

impl<I: AsyncRead + AsyncWrite + Unpin + 'static> Client<I> {
    /// A fresh connection.
    pub fn new(io: I) -> Self {
        Self { io }
    }

    /// Whether the idle connection can still be used: the backend has neither closed it nor sent anything.
    /// Does not block.
    pub fn is_alive(&mut self) -> bool {
        let _ = &self.io;
        false
    }

    /// Sends a request and waits for the head of the final answer. No time limit: drop the future to give
    /// the request up.
    ///
    /// # Errors
    /// When the connection fails, the backend breaks the protocol, or the request's body fails.
    pub async fn send(
        self,
        head: &RequestHead,
        body: Body,
        options: SendOptions<I>,
    ) -> Result<Answer, SendError> {
        // Lands next.
        let _ = (head, options);
        let fault = Fault::new(FaultKind::NotImplemented, "the HTTP/1.1 client has not landed yet");
        Err(SendError { fault, progress: Progress::Unsent, body: Some(body) })
    }
}
