//! How an exchange or a connection ends: ready for the next request, refused, closed.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::Settings;
use super::super::encode::{self, Encoding};
use super::super::framing::Decoded;
use super::super::io::after;
use super::super::parse::Refusal;
use super::{End, Server};
use crate::fault::FaultKind;
use crate::http::{Body, Response, reply};

/// The rest of a request's body that is read and thrown away to keep the connection.
const DISCARD: u64 = 64 * 1024;

/// What is read and thrown away from a client that was told to go away. Far more than the sockets between
/// hold, and than most uploads have: where it ends, the system resets the connection, and the client may lose
/// its answer.
const LINGER: usize = 64 * 1024 * 1024;

impl<I, S> Server<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Deref<Target = Settings>,
{
    pub(super) async fn reject(&mut self, Refusal { kind, detail }: Refusal) -> Result<(), End> {
        if let Some(observer) = &self.settings.observer {
            observer.rejected(&self.connection, kind, detail);
        }
        self.refuse(kind).await;
        Err(End::Rejected(kind))
    }

    pub(super) async fn leave(&mut self, end: End) -> Result<(), End> {
        self.close(false).await;
        Err(end)
    }

    /// After a response: makes the connection ready for the next request, or closes it.
    pub(super) async fn finish(&mut self, keep_alive: bool, asked_to_close: bool) -> Result<(), End> {
        let unread = {
            let mut conn = self.conn.borrow_mut();
            conn.end();
            !conn.body.is_done()
        };
        if keep_alive && (!unread || self.discard_body().await) {
            return Ok(());
        }
        // A client that asked for it sends nothing more.
        self.close(unread || !asked_to_close).await;
        Err(if self.drain.is_draining() { End::Drained } else { End::Finished })
    }

    /// Reads the rest of the request's body, if it is short and comes soon.
    async fn discard_body(&mut self) -> bool {
        if self.conn.borrow().body.remaining().is_some_and(|rest| rest > DISCARD) {
            return false;
        }
        let mut left = DISCARD;
        let due = after(self.settings.linger_timeout);
        poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            let conn = &mut *conn;
            loop {
                match conn.body.decode(&mut conn.wire.input) {
                    Ok(Decoded::Data(data)) => match left.checked_sub(data.len() as u64) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(false),
                    },
                    Ok(Decoded::Trailers(_) | Decoded::End) => return Poll::Ready(true),
                    Ok(Decoded::More) => match conn.wire.poll_fill(cx, usize::MAX) {
                        Poll::Ready(Ok(1..)) => {}
                        Poll::Ready(_) => return Poll::Ready(false),
                        Poll::Pending => return self.deadline.poll(cx, due).map(|()| false),
                    },
                    Err(_) => return Poll::Ready(false),
                }
            }
        })
        .await
    }

    /// Answers with the fault's status and closes.
    pub(super) async fn refuse(&mut self, kind: FaultKind) {
        let Response { head, body, .. } = reply::fault(kind);
        {
            let mut conn = self.conn.borrow_mut();
            conn.responding = true;
            let length = Encoding::Length(body.remaining().unwrap_or(0));
            let out = conn.wire.out();
            encode::response(out, &head, length, false, Some("close"));
            if let Body::Full(text) = &body {
                out.extend_from_slice(text);
            }
        }
        self.close(true).await;
    }

    /// Writes what is queued and closes the writing side. With `linger`, listens for a while: closing a
    /// socket with unread bytes would reset it, and the client might lose the answer (RFC 9112 section 9.6).
    async fn close(&mut self, linger: bool) {
        let due = after(self.settings.linger_timeout);
        let mut left = LINGER;
        let mut shut = false;
        poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            let wire = &mut conn.wire;
            wire.input = Bytes::new();
            if !shut {
                let closed = match wire.poll_flush(cx) {
                    Poll::Ready(Ok(())) => Pin::new(&mut wire.io).poll_shutdown(cx),
                    other => other,
                };
                match closed {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.deadline.poll(cx, due),
                }
            }
            while linger && left > 0 {
                match wire.poll_fill(cx, left) {
                    Poll::Ready(Ok(count @ 1..)) => left -= count,
                    Poll::Ready(_) => break,
                    Poll::Pending => return self.deadline.poll(cx, due),
                }
                wire.input = Bytes::new();
            }
            Poll::Ready(())
        })
        .await;
    }
}
