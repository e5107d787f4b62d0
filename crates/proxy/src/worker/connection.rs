//! One client's connection, from the accepted socket to its end.

use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use portway_plan::HostPattern;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Worker;
use super::port::PortState;
use crate::http::{Connection, TlsInfo, h1, h2};
use crate::l4::{self, NoHello};
use crate::observe::{Handshake, Session, Spoken};
use crate::prefixed::Prefixed;
use crate::snapshot::{PortKey, Speaks};
use crate::sniff::{self, Sniffed};
use crate::tls::{self, Handshaken, Inside};

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
        let mut served = pin!(AssertUnwindSafe(serve(worker, &port, stream, peer)).catch_unwind());
        let mut cut = port.cut();
        // Not select!: the connection is polled several times for each request, and the cut needs a look once.
        poll_fn(|cx| {
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                if ended.is_err() {
                    worker.recorder.counts.panics.add(1);
                } else if port.drain.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                    // It has seen to the deadline by itself, as tunnels do.
                    worker.recorder.counts.cut.add(1);
                }
                return Poll::Ready(());
            }
            cut.poll_draining(cx).map(|()| worker.recorder.counts.cut.add(1))
        })
        .await;
    });
}

/// All but plain HTTP/1.1 is boxed, so that an idle connection does not hold room for what it does not do.
async fn serve(worker: &Rc<Worker>, port: &Rc<PortState>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    // Sockets of both families show IPv4 clients as ::ffff:a.b.c.d.
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (peer, local) = (canonical(peer), canonical(local));
    let connection = Connection::new(peer, local, port.key.port);
    match port.speaks {
        Speaks::Http => plain(worker, port, stream, connection).await,
        Speaks::Tls => Box::pin(secure(worker, port, stream, connection)).await,
        Speaks::Tcp | Speaks::Udp => {
            let session = Session::begin(&worker.recorder, Spoken::Tcp, connection.peer);
            let way = way(worker, port, Some(&HostPattern::Any));
            Box::pin(l4::relay(stream, way, session)).await;
        }
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

async fn secure(
    worker: &Rc<Worker>,
    port: &Rc<PortState>,
    mut stream: TcpStream,
    mut connection: Connection,
) {
    let counts = &worker.recorder.counts;
    let table = || worker.snapshot().tls(port.key).cloned();
    let deadline = Instant::now() + worker.limits.handshake_timeout;
    let mut initial = Bytes::new();
    if table().is_some_and(|table| table.has_passthrough()) {
        let hello = match timeout_at(deadline, l4::read_hello(&mut stream)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(NoHello::Gone)) => return counts.handshake(Handshake::Closed),
            Ok(Err(NoHello::Malformed)) => return counts.handshake(Handshake::Malformed),
            Err(_) => return counts.handshake(Handshake::Timeout),
        };
        let table = table();
        let hostname = match table.as_ref().map(|table| table.way(hello.server_name.as_deref())) {
            Some(tls::Way::Ends) => {
                initial = hello.bytes.clone();
                None
            }
            Some(tls::Way::Through(hostname)) => Some(Some(hostname)),
            Some(tls::Way::Nowhere) | None => {
                counts.handshake(Handshake::UnknownName);
                Some(None)
            }
        };
        if let Some(hostname) = hostname {
            let mut session = Session::begin(&worker.recorder, Spoken::Tls, connection.peer);
            session.set_server_name(hello.server_name);
            let way = l4::Way { initial: hello.bytes, through: true, ..way(worker, port, hostname) };
            drop(table);
            return Box::pin(l4::relay(stream, way, session)).await;
        }
    }
    let handshake = Box::pin(tls::accept(Prefixed::new(initial, stream), table));
    match timeout_at(deadline, handshake).await {
        Ok(Ok(Handshaken { stream, server_name, inside })) => {
            counts.handshake(Handshake::Ok);
            let taken = stream.get_ref().0.taken();
            if let Inside::Bytes(hostname) = inside {
                let mut session = Session::begin(&worker.recorder, Spoken::Tls, connection.peer);
                session.set_server_name(server_name);
                let way = l4::Way { taken: Some(taken), ..way(worker, port, Some(&hostname)) };
                return Box::pin(l4::relay(stream, way, session)).await;
            }
            connection.tls = Some(TlsInfo { server_name });
            connection.taken = Some(taken);
            if let Inside::Http2 = inside {
                Box::pin(http2(worker, port, stream, Bytes::new(), connection)).await;
            } else {
                http1(worker, port, stream, Bytes::new(), connection).await;
            }
        }
        Ok(Err(outcome)) => counts.handshake(outcome),
        Err(_) => counts.handshake(Handshake::Timeout),
    }
}

/// How connections of the listener with that hostname are passed on; of none, how they are refused.
fn way<'a>(worker: &'a Rc<Worker>, port: &'a PortState, hostname: Option<&HostPattern>) -> l4::Way<'a> {
    let snapshot = worker.snapshot();
    let listener = hostname.and_then(|hostname| snapshot.forwards(port.key)?.listener(hostname)).cloned();
    l4::Way {
        listener,
        initial: Bytes::new(),
        through: false,
        taken: None,
        silent: worker.limits.tunnel_timeout,
        live: &port.live,
        pools: worker.gateway.pools(),
    }
}

/// Ends a moment after the port has begun to drain: a connection that was accepted just then has its first
/// request on the way.
async fn silent_in_drain(port: &PortState) {
    const GRACE: Duration = Duration::from_secs(1);
    port.drain.watch().draining().await;
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
            let port = PortState::new(PortKey { address: None, port: 80, transport }, Speaks::Http);
            std::mem::size_of_val(&serve(&worker, &port, stream, peer))
        };
        let size = tokio::task::LocalSet::new().run_until(measured).await;
        assert!(size <= 1536, "{size} bytes");
    }
}
