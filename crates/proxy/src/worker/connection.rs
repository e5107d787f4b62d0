//! One client's connection, from the accepted socket to its end.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use portway_plan::HostPattern;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Worker;
use super::port::PortState;
use crate::drain::DrainWatch;
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
    let Ok(local) = stream.local_addr() else { return };
    let stage = first(worker, &port, stream, peer, local);
    tokio::task::spawn_local(Task { cut: port.cut(), port, stage, open });
}

/// A part of a connection's life, which gives the one that follows. Each has a box of its own, so that an
/// idle connection does not hold room for what it did before, or never does.
struct Stage(Pin<Box<dyn Future<Output = Option<Stage>>>>);

impl Stage {
    fn new(stage: impl Future<Output = Option<Self>> + 'static) -> Self {
        Self(Box::pin(stage))
    }

    fn last(stage: impl Future + 'static) -> Self {
        Self::new(stage.map(|_| None))
    }
}

/// The task of a connection.
struct Task {
    stage: Stage,
    port: Rc<PortState>,
    cut: DrainWatch,
    open: Open,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stage, port, cut, open: Open(worker) } = self.get_mut();
        let counts = &worker.recorder.counts;
        loop {
            match catch_unwind(AssertUnwindSafe(|| stage.0.as_mut().poll(cx))) {
                Ok(Poll::Ready(Some(next))) => *stage = next,
                Ok(Poll::Pending) => return cut.poll_draining(cx).map(|()| counts.cut.add(1)),
                Ok(Poll::Ready(None)) => {
                    // It has seen to the deadline by itself, as tunnels do.
                    if port.drain.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                        counts.cut.add(1);
                    }
                    return Poll::Ready(());
                }
                Err(_) => {
                    counts.panics.add(1);
                    return Poll::Ready(());
                }
            }
        }
    }
}

fn first(
    worker: &Rc<Worker>,
    port: &Rc<PortState>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
) -> Stage {
    // Sockets of both families show IPv4 clients as ::ffff:a.b.c.d.
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (peer, local) = (canonical(peer), canonical(local));
    let connection = Connection::new(peer, local, port.key.port);
    let (worker, port) = (worker.clone(), port.clone());
    match port.speaks {
        Speaks::Http => Stage::new(plain(worker, port, stream, connection)),
        Speaks::Tls => Stage::new(secure(worker, port, stream, connection)),
        Speaks::Tcp | Speaks::Udp => Stage::last(async move {
            let session = Session::begin(&worker.recorder, Spoken::Tcp, peer);
            let way = way(&worker, &port, Some(&HostPattern::Any));
            l4::relay(stream, way, session).await;
        }),
    }
}

async fn plain(
    worker: Rc<Worker>,
    port: Rc<PortState>,
    mut stream: TcpStream,
    connection: Connection,
) -> Option<Stage> {
    let sniffed = tokio::select! {
        sniffed = timeout(worker.limits.head_timeout, sniff::sniff(&mut stream)) => sniffed,
        () = silent_in_drain(&port) => return None,
    };
    match sniffed {
        Ok(Ok(Sniffed::Http1(initial))) => Some(http1(&worker, &port, stream, initial, connection)),
        Ok(Ok(Sniffed::Http2(initial))) => Some(http2(&worker, &port, stream, initial, connection)),
        Ok(Ok(Sniffed::Closed) | Err(_)) | Err(_) => None,
    }
}

async fn secure(
    worker: Rc<Worker>,
    port: Rc<PortState>,
    mut stream: TcpStream,
    mut connection: Connection,
) -> Option<Stage> {
    let counts = &worker.recorder.counts;
    let table = || worker.snapshot().tls(port.key).cloned();
    let deadline = Instant::now() + worker.limits.handshake_timeout;
    let mut initial = Bytes::new();
    if table().is_some_and(|table| table.has_passthrough()) {
        let hello = match timeout_at(deadline, l4::read_hello(&mut stream)).await {
            Ok(Ok(hello)) => hello,
            failed => {
                counts.handshake(match failed {
                    Ok(Err(NoHello::Malformed)) => Handshake::Malformed,
                    Ok(_) => Handshake::Closed,
                    Err(_) => Handshake::Timeout,
                });
                return None;
            }
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
            let way = l4::Way { initial: hello.bytes, through: true, ..way(&worker, &port, hostname) };
            drop(table);
            Box::pin(l4::relay(stream, way, session)).await;
            return None;
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
                let way = l4::Way { taken: Some(taken), ..way(&worker, &port, Some(&hostname)) };
                Box::pin(l4::relay(stream, way, session)).await;
                return None;
            }
            connection.tls = Some(TlsInfo { server_name });
            connection.taken = Some(taken);
            let stage = if let Inside::Http2 = inside { http2 } else { http1 };
            Some(stage(&worker, &port, stream, Bytes::new(), connection))
        }
        failed => {
            counts.handshake(match failed {
                Ok(Err(outcome)) => outcome,
                _ => Handshake::Timeout,
            });
            None
        }
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

fn http1<I>(worker: &Rc<Worker>, port: &Rc<PortState>, io: I, initial: Bytes, connection: Connection) -> Stage
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (service, settings) = (worker.service(port.key), worker.http1.clone());
    Stage::last(h1::serve(io, initial, Rc::new(connection), service, settings, port.drain.watch()))
}

fn http2<I>(worker: &Rc<Worker>, port: &Rc<PortState>, io: I, initial: Bytes, connection: Connection) -> Stage
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (worker, service, drain) = (worker.clone(), worker.service(port.key), port.drain.watch());
    Stage::last(async move {
        let settings =
            h2::server::Settings { limits: &worker.limits, recorder: worker.recorder.clone(), drain };
        h2::server::serve(io, initial, Rc::new(connection), Rc::new(service), settings).await;
    })
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
            let transport = portway_plan::Transport::Tcp;
            let port = PortState::new(PortKey { address: None, port: 80, transport }, Speaks::Http);
            let peer = stream.peer_addr().unwrap();
            let Stage(idle) = http1(&worker, &port, stream, Bytes::new(), Connection::new(peer, peer, 80));
            std::mem::size_of_val(&*idle) + std::mem::size_of::<Task>()
        };
        let size = tokio::task::LocalSet::new().run_until(measured).await;
        assert!(size <= 320, "{size} bytes");
    }
}
