//! A UDP port on one worker. The kernel gives all datagrams of a client to the same worker (it spreads by the
//! addresses and ports of both sides), so a client's session is one worker's alone.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::panic::AssertUnwindSafe;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use portway_plan::HostPattern;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ForwardRule;
use super::datagrams::{Datagrams, Flow};
use crate::drain::Drain;
use crate::fault::{Fault, FaultKind};
use crate::observe::{End, Session, Spoken};
use crate::snapshot::PortKey;
use crate::upstream::{Endpoint, InFlight};
use crate::worker::Worker;

/// The longest datagram there is (RFC 768), and more than IP lets through.
const LONGEST: usize = 65_535;

/// Datagrams that are taken in one go before others have their turn.
const BATCH: usize = 64;

/// How long a session may be silent once the proxy goes away: a client that is in the middle of something
/// sends again well before.
const SILENT_IN_DRAIN: Duration = Duration::from_secs(5);

/// How long datagrams go nowhere when a backend had no endpoint for them.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Those who read from sessions borrow it for as long as they copy.
type Buffer = RefCell<Box<[u8]>>;

thread_local! {
    static REPLY: Buffer = RefCell::new(vec![0; LONGEST].into());
}

/// A port's socket on one worker, and the sessions of its clients.
struct UdpPort {
    worker: Rc<Worker>,
    key: PortKey,
    socket: Datagrams,
    drain: Drain,
    sessions: RefCell<HashMap<Flow, Rc<UdpSession>, RandomState>>,
    /// Every session once, roughly by the time of its last datagram, with that time as it was when it was
    /// put there; and some that are over.
    silent: RefCell<VecDeque<(Weak<UdpSession>, Instant)>>,
    /// Told when a session has ended.
    ended: Notify,
    rng: RefCell<SmallRng>,
}

/// The datagrams of one client, and the answers to them.
struct UdpSession {
    flow: Flow,
    /// Where they go, or why nowhere: then they are dropped.
    upstream: Result<Upstream, FaultKind>,
    rule: Option<Arc<ForwardRule>>,
    begun: Instant,
    last: Cell<Instant>,
    /// The revision of the plan that last permitted it.
    revision: Cell<u64>,
    record: RefCell<Session>,
    over: Cell<Option<End>>,
    /// Told when it is over.
    told: Notify,
}

struct Upstream {
    socket: UdpSocket,
    in_flight: InFlight,
}

/// Serves a port until it is told to `stop`, which ends its sessions, or the worker drains and they have ended.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    key: PortKey,
    socket: StdSocket,
    drain: Drain,
    cut: impl Future<Output = ()>,
    stop: &Notify,
) {
    let socket = match Datagrams::new(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, port = key.port, "cannot receive datagrams"),
    };
    let port = Rc::new(UdpPort {
        worker,
        key,
        socket,
        drain,
        sessions: RefCell::default(),
        silent: RefCell::default(),
        ended: Notify::new(),
        rng: RefCell::new(SmallRng::seed_from_u64(rand::random())),
    });
    let mut buffer = vec![0; LONGEST];
    let mut watch = port.drain.watch();
    tokio::select! {
        () = port.receive(&mut buffer) => {}
        () = stop.notified() => {}
        () = cut => {}
        () = async {
            poll_fn(|cx| watch.poll_draining(cx)).await;
            port.hurry();
            while !port.sessions.borrow().is_empty() {
                port.ended.notified().await;
            }
        } => {}
    }
    let left: Vec<_> = port.sessions.borrow().values().cloned().collect();
    left.iter().for_each(|session| session.end(End::Cut));
    // They hold the socket.
    while !port.sessions.borrow().is_empty() {
        port.ended.notified().await;
    }
}

impl UdpPort {
    /// Takes datagrams for ever.
    async fn receive(self: &Rc<Self>, buffer: &mut [u8]) {
        loop {
            if let Err(error) = self.socket.readable().await {
                return tracing::error!(%error, port = self.key.port, "cannot receive datagrams");
            }
            for _ in 0..BATCH {
                match self.socket.try_receive(buffer) {
                    Ok((length, flow)) => {
                        let bytes = &buffer[..length];
                        let taken = std::panic::catch_unwind(AssertUnwindSafe(|| self.take(flow, bytes)));
                        if taken.is_err() {
                            self.worker.recorder.counts.panics.add(1);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What ICMP has to say about an earlier answer; the socket goes on.
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Passes a client's datagram on.
    fn take(self: &Rc<Self>, flow: Flow, bytes: &[u8]) {
        let known = self.sessions.borrow().get(&flow).cloned();
        let known = known.filter(|session| {
            let holds = session.over.get().is_none() && self.permits(session);
            if !holds {
                self.remove(session, End::Cut);
            }
            holds
        });
        let Some(session) = known.or_else(|| self.begin(flow, None)) else { return self.drop_one() };
        let Some(failed) = self.send(&session, bytes) else { return };
        // The endpoint does not answer there: another one may.
        self.remove(&session, End::BackendReset);
        if let Some(session) = self.begin(flow, Some(&failed)) {
            self.send(&session, bytes);
        }
    }

    /// Sends to the backend. Gives the endpoint back if it has refused a datagram before.
    fn send(&self, session: &UdpSession, bytes: &[u8]) -> Option<Arc<Endpoint>> {
        session.last.set(Instant::now());
        let Ok(upstream) = &session.upstream else {
            self.drop_one();
            return None;
        };
        // Past the runtime, which would have to learn first that there is room: datagrams do not wait for any.
        match SockRef::from(&upstream.socket).send(bytes) {
            Ok(_) => session.record.borrow_mut().moved_more(0, bytes.len() as u64),
            Err(error) if is_refusal(&error) => {
                let endpoint = upstream.in_flight.endpoint();
                endpoint.connect_failed(crate::upstream::now_ms());
                return Some(endpoint.clone());
            }
            Err(_) => self.drop_one(),
        }
        None
    }

    /// Begins a session; `None` when datagrams of this client go nowhere for now.
    fn begin(self: &Rc<Self>, flow: Flow, failed: Option<&Endpoint>) -> Option<Rc<UdpSession>> {
        if self.drain.deadline().is_some() || !self.make_room() {
            return None;
        }
        let snapshot = self.worker.snapshot();
        let listener = snapshot.forwards(self.key)?.listener(&HostPattern::Any)?;
        let canonical = SocketAddr::new(flow.client.ip().to_canonical(), flow.client.port());
        let mut record = Session::begin(&self.worker.recorder, Spoken::Udp, canonical);
        record.set_listener(listener.metrics());
        let rule = listener.rule(None).cloned();
        // One that leads nowhere is a session too: an invalid share keeps its clients, or they would all end up
        // elsewhere, and each is logged once.
        let upstream = self.connect(rule.as_deref(), failed, &mut record).map_err(|fault| {
            record.set_fault(&fault);
            fault.kind
        });
        let now = Instant::now();
        let session = Rc::new(UdpSession {
            flow,
            upstream,
            rule,
            begun: now,
            last: Cell::new(now),
            revision: Cell::new(snapshot.revision),
            record: RefCell::new(record),
            over: Cell::default(),
            told: Notify::new(),
        });
        self.sessions.borrow_mut().insert(flow, session.clone());
        self.silent.borrow_mut().push_back((Rc::downgrade(&session), session.last.get()));
        self.worker.recorder.counts.udp_sessions.add(1);
        self.worker.begin_session();
        tokio::task::spawn_local(run(self.clone(), session.clone()));
        Some(session)
    }

    fn connect(
        &self,
        rule: Option<&ForwardRule>,
        failed: Option<&Endpoint>,
        record: &mut Session,
    ) -> Result<Upstream, Fault> {
        let rule = rule.ok_or(FaultKind::NoRoute)?;
        record.set_rule(rule.metrics());
        let backend = rule.choose().ok_or(FaultKind::InvalidRoute)?;
        record.set_backend(backend.metrics());
        let endpoints = backend.endpoints();
        let endpoint = endpoints
            .choose(&mut *self.rng.borrow_mut(), failed.map(Endpoint::id))
            .ok_or_else(|| Fault::new(FaultKind::NoEndpoints, backend.key()))?;
        record.begin_try(endpoint.address());
        let failed = |error: io::Error| {
            Fault::new(FaultKind::Connect, format_args!("{}: {error}", endpoint.address()))
        };
        let socket = connected(endpoint.address()).map_err(failed)?;
        Ok(Upstream { socket, in_flight: InFlight::new(backend.clone(), endpoint.clone()) })
    }

    /// Whether the plan still sends the session where it goes.
    fn permits(&self, session: &UdpSession) -> bool {
        let moot = match &session.upstream {
            Ok(upstream) => upstream.in_flight.endpoint().is_removed(),
            Err(FaultKind::NoEndpoints | FaultKind::Connect) => session.begun.elapsed() >= TRY_AGAIN,
            Err(_) => false,
        };
        if moot {
            return false;
        }
        let snapshot = self.worker.snapshot();
        if session.revision.get() == snapshot.revision {
            return true;
        }
        let listener = snapshot.forwards(self.key).and_then(|table| table.listener(&HostPattern::Any));
        let rule = listener.and_then(|listener| listener.rule(None));
        let same = match (rule, &session.rule, &session.upstream) {
            (None, None, _) => true,
            (Some(new), Some(old), _) if Arc::ptr_eq(new, old) => true,
            (Some(new), Some(old), Ok(upstream)) => {
                new.plan().source == old.plan().source && new.leads_to(upstream.in_flight.backend())
            }
            _ => false,
        };
        if same {
            session.revision.set(snapshot.revision);
        }
        same
    }

    /// Makes room for one more session, at the cost of the one that has been silent for the longest.
    fn make_room(&self) -> bool {
        if self.worker.has_room_for_session() {
            return true;
        }
        let mut silent = self.silent.borrow_mut();
        // Each comes up twice at most: with the time as it was, and with the time as it is.
        for _ in 0..2 * silent.len() {
            let Some((weak, noted)) = silent.pop_front() else { break };
            let Some(session) = weak.upgrade().filter(|session| session.over.get().is_none()) else {
                continue;
            };
            let last = session.last.get();
            if last == noted {
                drop(silent);
                self.remove(&session, End::Evicted);
                return true;
            }
            silent.push_back((weak, last));
        }
        false
    }

    fn remove(&self, session: &Rc<UdpSession>, end: End) {
        session.end(end);
        let mut sessions = self.sessions.borrow_mut();
        if sessions.get(&session.flow).is_some_and(|there| Rc::ptr_eq(there, session)) {
            sessions.remove(&session.flow);
        }
        let count = sessions.len();
        drop(sessions);
        let mut silent = self.silent.borrow_mut();
        if silent.len() > 2 * count + BATCH {
            silent.retain(|(weak, _)| weak.upgrade().is_some_and(|session| session.over.get().is_none()));
        }
    }

    /// Wakes the sessions, which may be silent for less long now.
    fn hurry(&self) {
        self.sessions.borrow().values().for_each(|session| session.told.notify_one());
    }

    fn patience(&self) -> Duration {
        let limit = self.worker.options.limits.udp_session_timeout;
        if self.drain.deadline().is_some() { limit.min(SILENT_IN_DRAIN) } else { limit }
    }

    fn drop_one(&self) {
        self.worker.recorder.counts.datagrams_dropped.add(1);
    }
}

impl UdpSession {
    fn end(&self, end: End) {
        if self.over.get().is_none() {
            self.over.set(Some(end));
            self.record.borrow_mut().end(end);
            self.told.notify_one();
        }
    }
}

/// Gives answers back to the client until the session is over.
async fn run(port: Rc<UdpPort>, session: Rc<UdpSession>) {
    /// Also when something in here panics.
    struct Leaving(Rc<UdpPort>, Rc<UdpSession>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            let Self(port, session) = self;
            port.remove(session, End::Cut);
            port.worker.recorder.counts.udp_sessions.add(-1);
            port.worker.end_session();
            port.ended.notify_one();
        }
    }
    let leaving = Leaving(port, session);
    let Leaving(port, session) = &leaving;
    while session.over.get().is_none() {
        let due = session.last.get() + port.patience();
        if Instant::now() >= due {
            session.end(End::Idle);
            break;
        }
        tokio::select! {
            biased;
            () = session.told.notified() => {}
            () = readable(session.upstream.as_ref().ok()) => answer(port, session),
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

async fn readable(upstream: Option<&Upstream>) {
    match upstream {
        // An error is met again by whoever reads.
        Some(upstream) => drop(upstream.socket.readable().await),
        None => std::future::pending().await,
    }
}

/// Passes on what the backend has answered.
fn answer(port: &Rc<UdpPort>, session: &Rc<UdpSession>) {
    let Ok(upstream) = &session.upstream else { return };
    REPLY.with_borrow_mut(|buffer| {
        for _ in 0..BATCH {
            match upstream.socket.try_recv(buffer) {
                Ok(length) => {
                    session.last.set(Instant::now());
                    match port.socket.try_send(&buffer[..length], session.flow) {
                        Ok(()) => session.record.borrow_mut().moved_more(length as u64, 0),
                        Err(_) => port.drop_one(),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if is_refusal(&error) {
                        upstream.in_flight.endpoint().connect_failed(crate::upstream::now_ms());
                    }
                    return port.remove(session, End::BackendReset);
                }
            }
        }
    });
}

/// Whether ICMP says that nobody is there.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}

/// A socket that sends to an endpoint and receives from it only.
fn connected(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any = match endpoint {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = StdSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    UdpSocket::from_std(socket)
}
