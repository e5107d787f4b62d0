//! Taking connections from a port's socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::port::{Accepting, PortState};
use super::run::Handed;
use super::{Worker, connection};
use crate::l4;
use crate::snapshot::PortKey;

/// How long to wait when there are no descriptors or no memory for a connection; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a port says that connections cannot be had: a flood of clients is no flood of lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Begins to accept on a socket.
pub(super) fn begin(worker: &Rc<Worker>, key: PortKey, listener: TcpListener) -> Accepting {
    let stop = Rc::new(Notify::new());
    let task = tokio::task::spawn_local(accept(worker.clone(), key, listener, stop.clone()));
    Accepting { stop, task }
}

/// Begins to take datagrams from a socket.
pub(super) fn begin_datagrams(worker: &Rc<Worker>, port: &Rc<PortState>, socket: UdpSocket) -> Accepting {
    let stop = Rc::new(Notify::new());
    let (worker, port, stopped) = (worker.clone(), port.clone(), stop.clone());
    let task = tokio::task::spawn_local(async move {
        let drain = port.drain.clone();
        l4::serve_datagrams(worker, port.key, socket, drain, port.cut().draining(), &stopped).await;
    });
    Accepting { stop, task }
}

async fn accept(worker: Rc<Worker>, key: PortKey, listener: TcpListener, stop: Rc<Notify>) {
    let mut pause = FIRST_PAUSE;
    let mut told = Told(None);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.notified() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                if !place(&worker, key, stream, peer) && told.is_due() {
                    let most = worker.limits.connections;
                    tracing::warn!(
                        most,
                        port = key.port,
                        "too many connections: closed as soon as they come"
                    );
                }
            }
            Err(error) => {
                worker.recorder.counts.accept_errors.add(1);
                if is_shortage(&error) {
                    if told.is_due() {
                        tracing::warn!(%error, port = key.port, "cannot accept a connection");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stop.notified() => break,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
    // Closing the socket would reset the connections that wait in it.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            place(&worker, key, stream, peer);
        }
    }
}

/// When it was last told that connections cannot be had.
struct Told(Option<Instant>);

impl Told {
    /// Whether it is time to tell (again), which it then counts as told.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// Whether it failed for want of descriptors or memory, which another try at once will not find either.
fn is_shortage(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

/// Serves the connection here or hands it to a worker that has fewer. `false` if there are too many.
fn place(worker: &Rc<Worker>, key: PortKey, stream: TcpStream, peer: SocketAddr) -> bool {
    let counts = &worker.recorder.counts;
    counts.accepted.add(1);
    let loads = &worker.crew.loads;
    if loads.total() >= worker.limits.connections {
        counts.refused.add(1);
        return false;
    }
    let target = loads.place(worker.index);
    loads.add(target);
    if target == worker.index {
        connection::begin(worker, key, stream, peer);
        return true;
    }
    let Ok(stream) = stream.into_std() else {
        loads.remove(target);
        return true;
    };
    if let Err(back) = worker.crew.hand_over(target, Handed { key, stream, peer }) {
        loads.remove(target);
        loads.add(worker.index);
        take(worker, back);
    }
    true
}

/// Serves a connection that another worker has accepted and counted for this one.
pub(super) fn take(worker: &Rc<Worker>, handed: Handed) {
    let Handed { key, stream, peer } = handed;
    match TcpStream::from_std(stream) {
        Ok(stream) => connection::begin(worker, key, stream, peer),
        Err(error) => {
            worker.recorder.counts.accept_errors.add(1);
            worker.crew.loads.remove(worker.index);
            tracing::warn!(%error, port = key.port, "cannot take a connection over");
        }
    }
}
