use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use portway_plan::BackendKey;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{ClientTls, Limits};
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
    /// TLS. Boxed, since it is ten times as large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Whether nothing has come that was not read, as far as can be told without asking to be woken: over TLS
    /// not at all.
    pub(super) fn is_quiet(&self) -> Option<bool> {
        match &self.stream {
            Stream::Tcp(stream) => {
                let nothing = stream.try_read(&mut [0]);
                Some(nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock))
            }
            Stream::Tls(_) => None,
        }
    }

    /// Has the connection reset when it is dropped, so that the other side does not take the end for a
    /// regular one.
    pub fn abort(&self) {
        reset(match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        });
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

/// What is needed for TLS.
pub(super) struct Secure<'a> {
    pub(super) tls: &'a ClientTls,
    /// That of the endpoint.
    pub(super) config: Arc<ClientConfig>,
    pub(super) alpn: &'a [u8],
}

/// Connects, over TLS if that is given, and counts it there.
///
/// # Errors
/// [`FaultKind::Connect`] when the endpoint refuses, cannot be reached or does not answer in time;
/// [`FaultKind::UpstreamTls`] when one side does not trust the other.
pub(super) async fn connect(
    address: SocketAddr,
    tls: Option<Secure<'_>>,
    limits: &Limits,
    counts: &Arc<Shard<BackendKey>>,
) -> Result<Transport, Fault> {
    let failed = |kind: FaultKind, why: &dyn std::fmt::Display| {
        counts.connect_failures.add(1);
        Err(Fault::new(kind, format_args!("{address}: {why}")))
    };
    let stream = match tokio::time::timeout(limits.connect_timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(FaultKind::Connect, &error),
        Err(_) => return failed(FaultKind::Connect, &"no answer in time"),
    };
    // Fails only on a connection that is already dead, which the first write will tell.
    let _ = stream.set_nodelay(true);
    let stream = match tls {
        None => Stream::Tcp(stream),
        Some(Secure { tls, config, alpn }) => {
            match Box::pin(tls.handshake(config, alpn, stream, limits.handshake_timeout)).await {
                Ok(stream) => Stream::Tls(Box::new(stream)),
                Err(fault) => return failed(fault.kind, &fault.detail.unwrap_or_default()),
            }
        }
    };
    counts.connects.add(1);
    counts.connections.add(1);
    Ok(Transport { stream, counts: counts.clone() })
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
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
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
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
