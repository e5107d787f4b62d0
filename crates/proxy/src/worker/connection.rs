//! One client's connection, from the accepted socket to its end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Worker;
use super::port::PortState;
use crate::http::{Connection, TlsInfo, h1, h2};
use crate::observe::Handshake;
use crate::snapshot::PortKey;
use crate::sniff::{self, Sniffed};
use crate::tls::{self, Handshaken};

/// Counts a connection as long as it is open.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.recorder.counts.connections.add(-1);
        self.0.crew.loads.remove(self.0.index);
    }
}

/// Serves a connection in a task of its own. It is already counted in the worker's load.
pub(super) fn begin(worker: &Rc<Worker>, key: PortKey, stream: TcpStream, peer: SocketAddr) {
    worker.recorder.counts.connections.add(1);
    let open = Open(worker.clone());
    let port = worker.port(key);
    tokio::task::spawn_local(async move {
        let worker = &open.0;
        let served = AssertUnwindSafe(serve(worker, &port, stream, peer)).catch_unwind();
        tokio::select! {
            ended = served => {
                if ended.is_err() {
                    worker.recorder.counts.panics.add(1);
                }
            }
            () = port.cut() => worker.recorder.counts.cut.add(1),
        }
    });
}

/// All but plain HTTP/1.1 is boxed, so that an idle connection does not hold room for what it does not do.
async fn serve(worker: &Rc<Worker>, port: &Rc<PortState>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    // Sockets of both families show IPv4 clients as ::ffff:a.b.c.d.
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (peer, local) = (canonical(peer), canonical(local));
    let connection = Connection { peer, local, port: port.key.port, tls: None, taken: None };
    if port.secure {
        Box::pin(secure(worker, port, stream, connection)).await;
    } else {
        plain(worker, port, stream, connection).await;
    }
}

async fn plain(worker: &Rc<Worker>, port: &Rc<PortState>, mut stream: TcpStream, connection: Connection) {
    let sniffed = tokio::select! {
        sniffed = timeout(worker.limits.head_timeout, sniff::sniff(&mut stream)) => sniffed,
        () = silent_in_drain(port) => return,
    };
    match sniffed {
        Ok(Ok(Sniffed::Http1(initial))) => http1(worker, port, stream, initial, connection).await,
        Ok(Ok(Sniffed::Http2(initial))) => {
            Box::pin(http2(worker, port, stream, initial, connection)).await;
        }
        Ok(Ok(Sniffed::Closed) | Err(_)) | Err(_) => {}
    }
}

async fn secure(worker: &Rc<Worker>, port: &Rc<PortState>, stream: TcpStream, mut connection: Connection) {
    let counts = &worker.recorder.counts;
    let table = || worker.snapshot().tls(port.key).cloned();
    let handshake = Box::pin(tls::accept(stream, table));
    match timeout(worker.limits.handshake_timeout, handshake).await {
        Ok(Ok(Handshaken { stream, server_name, http2: with_http2 })) => {
            counts.handshake(Handshake::Ok);
            connection.tls = Some(TlsInfo { server_name });
            connection.taken = Some(stream.get_ref().0.taken());
            if with_http2 {
                Box::pin(http2(worker, port, stream, Bytes::new(), connection)).await;
            } else {
                http1(worker, port, stream, Bytes::new(), connection).await;
            }
        }
        Ok(Err(outcome)) => counts.handshake(outcome),
        Err(_) => counts.handshake(Handshake::Timeout),
    }
}

/// Ends a moment after the port has begun to drain: a connection that was accepted just then has its first
/// request on the way.
async fn silent_in_drain(port: &PortState) {
    const GRACE: Duration = Duration::from_secs(1);
    let mut watch = port.drain.watch();
    poll_fn(|cx| watch.poll_draining(cx)).await;
    sleep(GRACE).await;
}

async fn http1<I>(worker: &Rc<Worker>, port: &Rc<PortState>, io: I, initial: Bytes, connection: Connection)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = worker.service(port.key);
    h1::serve(io, initial, Rc::new(connection), &service, &worker.http1, port.drain.watch()).await;
}

async fn http2<I>(worker: &Rc<Worker>, port: &Rc<PortState>, io: I, initial: Bytes, connection: Connection)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = Rc::new(worker.service(port.key));
    let settings = h2::server::Settings {
        limits: &worker.limits,
        recorder: worker.recorder.clone(),
        drain: port.drain.watch(),
    };
    h2::server::serve(io, initial, Rc::new(connection), service, settings).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[tokio::test]
    async fn an_idle_connection_takes_little() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let measured = async {
            let worker = Worker::detached(Options::default());
            let peer = stream.peer_addr().unwrap();
            let transport = portway_plan::Transport::Tcp;
            let port = PortState::new(PortKey { address: None, port: 80, transport }, false);
            std::mem::size_of_val(&serve(&worker, &port, stream, peer))
        };
        let size = tokio::task::LocalSet::new().run_until(measured).await;
        assert!(size <= 1536, "{size} bytes");
    }
}
