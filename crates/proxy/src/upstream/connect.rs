use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portway_plan::BackendKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::fault::{Fault, FaultKind};
use crate::observe::Shard;

/// A connection's byte stream. Counts as open while it exists.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    counts: Arc<Shard<BackendKey>>,
}

#[derive(Debug)]
enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
}

impl Transport {
    /// Has the connection reset when it is dropped, so that the other side does not take the end for a
    /// regular one.
    pub fn abort(&self) {
        let Stream::Tcp(stream) = &self.stream;
        reset(stream);
    }
}

/// Has a connection reset when it is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    // Fails only on a connection that is already dead.
    let _ = stream.set_zero_linger();
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.counts.connections.add(-1);
    }
}

/// Connects within the time given, and counts it there.
///
/// # Errors
/// [`FaultKind::Connect`] when the endpoint refuses, cannot be reached or does not answer in time.
pub async fn connect(
    address: SocketAddr,
    timeout: Duration,
    counts: &Arc<Shard<BackendKey>>,
) -> Result<Transport, Fault> {
    let failed = |why: &dyn std::fmt::Display| {
        counts.connect_failures.add(1);
        Err(Fault::new(FaultKind::Connect, format_args!("{address}: {why}")))
    };
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(&error),
        Err(_) => return failed(&"no answer in time"),
    };
    // Fails only on a connection that is already dead, which the first write will tell.
    let _ = stream.set_nodelay(true);
    counts.connects.add(1);
    counts.connections.add(1);
    Ok(Transport { stream: Stream::Tcp(stream), counts: counts.clone() })
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
