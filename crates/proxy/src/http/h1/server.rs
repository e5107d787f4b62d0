//! The client's side: one connection, one task.

use std::rc::Rc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Settings;
use crate::drain::DrainWatch;
use crate::fault::FaultKind;
use crate::http::{Connection, Handler};

/// Why a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed it between requests.
    Closed,
    /// It was closed after an answer, as the client or the answer said.
    Finished,
    /// Nothing came for too long between requests.
    Idle,
    /// It was closed because the worker drains.
    Drained,
    /// A request was refused, and the connection with it.
    Rejected(FaultKind),
    /// The client went away, or the connection broke, in the middle of a request.
    ClientGone,
    /// The client did not take the response in time.
    WriteTimeout,
    /// A response could not be completed, so the connection was cut.
    Cut,
    /// It became a tunnel, which has ended.
    Tunnel,
}

/// Serves one connection until its end. `initial` is what has already been read from it.
pub async fn serve<I, H>(
    io: I,
    initial: Bytes,
    connection: Rc<Connection>,
    handler: &H,
    settings: &Settings,
    drain: DrainWatch,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    // Lands next; until then every connection is closed unserved.
    let _ = (io, initial, connection, handler, settings, drain);
    End::Closed
}
