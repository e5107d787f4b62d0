//! A worker's thread: takes commands from the proxy and connections from other workers.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender as Ack;
use std::{io, thread};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::port::PortState;
use super::{Loads, Worker, accept};
use crate::listen::BoundSocket;
use crate::observe::Recorder;
use crate::options::Options;
use crate::snapshot::{PortKey, Snapshot, Speaks};

/// How many connections may be on their way to a worker; further ones stay where they were accepted.
const HANDED_OVER: usize = 1024;

/// What the proxy tells a worker. An `Ack` is dropped when the command is done.
pub(crate) enum Command {
    /// Accept nothing more on these ports.
    StopAccepting(Vec<PortKey>, Ack<()>),
    /// Serve with this snapshot. Ports that it does not have drain until the deadline.
    Swap(Arc<Snapshot>, Instant, Ack<()>),
    /// Accept on these new sockets, of ports that the snapshot has.
    Listen(Vec<(PortKey, BoundSocket)>, Ack<()>),
    /// The proxy will go away: connections are closed after their next answer. Still accepts.
    Announce,
    /// The proxy goes away: stop accepting; connections are closed now or after their exchange, and cut at
    /// the deadline.
    Drain(Instant, Ack<()>),
    /// Answer, to show that the worker runs.
    Ping(oneshot::Sender<()>),
    /// End the thread; what is open is cut.
    Stop,
}

/// A connection that another worker accepted.
pub(super) struct Handed {
    pub(super) key: PortKey,
    pub(super) stream: StdStream,
    pub(super) peer: SocketAddr,
}

/// What a worker knows of all workers.
pub(super) struct Crew {
    pub(super) loads: Arc<Loads>,
    others: Box<[mpsc::Sender<Handed>]>,
}

impl Crew {
    /// Of a worker that is the only one.
    pub(super) fn alone() -> Self {
        Self { loads: Arc::new(Loads::new(1)), others: Box::new([]) }
    }

    /// Gives a connection to another worker, or back if that one has too much to do.
    pub(super) fn hand_over(&self, to: usize, handed: Handed) -> Result<(), Handed> {
        match self.others.get(to) {
            Some(worker) => worker.try_send(handed).map_err(|error| match error {
                mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed) => handed,
            }),
            None => Err(handed),
        }
    }
}

/// A worker as the proxy sees it.
pub(crate) struct WorkerThread {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<thread::JoinHandle<()>>,
}

impl WorkerThread {
    /// Tells the worker. Commands to a worker that has ended are dropped, and their acks with them.
    pub(crate) fn send(&self, command: Command) {
        // An ended worker has nothing to serve and nothing to drain.
        let _ = self.commands.send(command);
    }

    /// Another way to tell the worker.
    pub(crate) fn commands(&self) -> mpsc::UnboundedSender<Command> {
        self.commands.clone()
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told on standard error.
            let _ = thread.join();
        }
    }
}

/// Starts a thread for each recorder. `departures` tells when endpoints have left.
///
/// # Errors
/// When a thread or its runtime cannot be made.
pub(crate) fn start(
    options: &Arc<Options>,
    recorders: Vec<Recorder>,
    departures: &watch::Receiver<u64>,
    loads: &Arc<Loads>,
) -> io::Result<Vec<WorkerThread>> {
    let (others, handed): (Vec<_>, Vec<_>) = recorders.iter().map(|_| mpsc::channel(HANDED_OVER)).unzip();
    let mut threads = Vec::with_capacity(recorders.len());
    for (index, (recorder, handed)) in recorders.into_iter().zip(handed).enumerate() {
        let (commands, receiver) = mpsc::unbounded_channel();
        let crew = Crew { loads: loads.clone(), others: others.clone().into() };
        let (departures, options) = (departures.clone(), options.clone());
        let (ready, started) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let built = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            // Whoever starts the threads waits for it.
            let tell = |outcome| drop(ready.send(outcome));
            match built {
                Ok(runtime) => {
                    tell(Ok(()));
                    runtime.block_on(async {
                        let worker = Worker::new(index, options, recorder, departures, crew);
                        run(worker, receiver, handed).await;
                    });
                }
                Err(error) => tell(Err(error)),
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended at once")))?;
        threads.push(WorkerThread { commands, thread: Some(thread) });
    }
    Ok(threads)
}

async fn run(
    worker: Rc<Worker>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut handed: mpsc::Receiver<Handed>,
) {
    let recorder = worker.recorder.clone();
    let mut deliver = pin!(recorder.deliver());
    loop {
        tokio::select! {
            // Never ends.
            () = &mut deliver => {}
            command = commands.recv() => match command {
                Some(Command::Stop) | None => return,
                Some(command) => worker.obey(command, &mut handed).await,
            },
            Some(connection) = handed.recv() => accept::take(&worker, connection),
        }
    }
}

impl Worker {
    async fn obey(self: &Rc<Self>, command: Command, handed: &mut mpsc::Receiver<Handed>) {
        match command {
            Command::StopAccepting(keys, _ack) => {
                for key in keys {
                    let port = self.ports.borrow().get(&key).cloned();
                    if let Some(port) = port {
                        port.stop_accepting().await;
                    }
                }
            }
            Command::Swap(snapshot, deadline, _ack) => {
                // What came over a port that goes is counted among its connections, so that it drains.
                while let Ok(connection) = handed.try_recv() {
                    accept::take(self, connection);
                }
                self.swap(snapshot, deadline);
            }
            Command::Listen(sockets, _ack) => {
                for (key, socket) in sockets {
                    let port = self.port(key);
                    match socket {
                        BoundSocket::Tcp(socket) => match TcpListener::from_std(socket) {
                            Ok(listener) => port.set_accepting(accept::begin(self, key, listener)),
                            Err(error) => tracing::error!(%error, port = key.port, "cannot listen"),
                        },
                        BoundSocket::Udp(socket) => {
                            port.set_accepting(accept::begin_datagrams(self, &port, socket));
                        }
                    }
                }
            }
            Command::Announce => {
                self.draining.set(true);
                self.ports.borrow().values().for_each(|port| port.drain.announce());
            }
            Command::Drain(deadline, _ack) => {
                self.draining.set(true);
                let ports: Vec<_> = self.ports.borrow().values().cloned().collect();
                // Sessions of UDP clients go on through the socket that they came by; it takes no new ones.
                for port in ports.iter().filter(|port| port.speaks != Speaks::Udp) {
                    port.stop_accepting().await;
                }
                while let Ok(connection) = handed.try_recv() {
                    accept::take(self, connection);
                }
                ports.iter().for_each(|port| port.leave(deadline));
            }
            // Who asked may have stopped waiting.
            Command::Ping(reply) => drop(reply.send(())),
            Command::Stop => {}
        }
    }

    fn swap(&self, snapshot: Arc<Snapshot>, deadline: Instant) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|key, port| {
            let kept = snapshot.has(*key);
            if !kept {
                port.leave(deadline);
            }
            kept
        });
        for (key, port) in ports.iter_mut() {
            let speaks = snapshot.speaks(*key).unwrap_or(port.speaks);
            if let Some(table) = snapshot.forwards(*key) {
                port.live.revise(table, deadline);
            }
            if port.speaks != speaks {
                let next = PortState::new(*key, speaks);
                port.take_accepting().into_iter().for_each(|accepting| next.set_accepting(accepting));
                port.leave(deadline);
                *port = next;
            }
        }
        self.set_snapshot(snapshot);
    }

    /// The state of a port; made when the first of its sockets or connections arrives.
    pub(super) fn port(&self, key: PortKey) -> Rc<PortState> {
        let speaks = self.snapshot().speaks(key).unwrap_or(Speaks::Http);
        self.ports.borrow_mut().entry(key).or_insert_with(|| PortState::new(key, speaks)).clone()
    }
}
