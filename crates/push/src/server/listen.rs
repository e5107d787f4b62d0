//! Accepts connections, speaks TLS with them, and hands them to gRPC.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::Shared;
use super::service::PushService;
use crate::limits;

/// Serves until `end` completes.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    listener: TcpListener,
    config: ServerConfig,
    end: impl Future<Output = ()> + Send,
) {
    let (close, closing) = watch::channel(false);
    let service = PushService { shared: Arc::clone(shared), closing };
    let (sender, connections) = mpsc::channel(16);
    let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
    let (every, patience) = limits::PING;
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(every))
        .http2_keepalive_timeout(Some(patience))
        .max_concurrent_streams(2)
        .http2_max_header_list_size(16 * 1024)
        .serve_with_incoming_shutdown(
            service,
            ReceiverStream::new(connections).map(Ok::<_, Infallible>),
            async {
                end.await;
                accepting.abort();
                close.send_replace(true);
            },
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the push server has ended");
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptors left, or the like: they may come back.
                tracing::debug!(%error, "a proxy's connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            // Where it fails, the larger frames of the stream wait for nothing but a little longer.
            let _ = stream.set_nodelay(true);
            match timeout(limits::HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let deadline = Box::pin(sleep(limits::PROOF));
                    let connection =
                        Connection { stream, proven: Proven::default(), deadline, _place: place };
                    // An error is that the server has ended.
                    drop(sender.send(connection).await);
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake has failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

/// A connection, which takes one of the places as long as it lasts. It ends if nobody proves in time who it is.
struct Connection {
    stream: TlsStream<TcpStream>,
    proven: Proven,
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Whether a valid token was shown on a connection.
#[derive(Clone, Default)]
pub(super) struct Proven(Arc<AtomicBool>);

impl Proven {
    pub(super) fn prove(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected for Connection {
    type ConnectInfo = Proven;

    fn connect_info(&self) -> Proven {
        self.proven.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.proven.0.load(Ordering::Relaxed) && self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
