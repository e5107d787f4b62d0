//! A worker: one thread, one current-thread runtime, its own sockets, pools and timers.
//!
//! ```text
//!             ┌ run: takes Commands (a new snapshot, sockets, drain) and connections handed over
//! thread ─────┼ accept, for each port: gives a connection to the worker that has the fewest
//!             └ connection, for each client: handshake or sniffing, then http::{h1,h2}
//! ```

mod accept;
mod connection;
mod load;
mod port;
mod run;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) use load::Loads;
pub(crate) use run::{Command, WorkerThread, start};

use crate::http::h1;
use crate::http::service::{Gateway, Service};
use crate::limits::Limits;
use crate::observe::Recorder;
use crate::options::Options;
use crate::snapshot::{PortKey, Snapshot};
use crate::upstream::Pools;
use port::PortState;
use run::Crew;
use tokio::sync::watch;

/// What the tasks of a worker share. Never leaves its thread.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// How the proxy is set up.
    pub options: Arc<Options>,
    /// Its part of the observation.
    pub recorder: Rc<Recorder>,
    gateway: Rc<Gateway>,
    limits: Rc<Limits>,
    http1: Rc<h1::Settings>,
    current: RefCell<Rc<Current>>,
    draining: Cell<bool>,
    ports: RefCell<HashMap<PortKey, Rc<PortState>>>,
    crew: Crew,
}

/// A worker's own handle of the snapshot. Behind an `Rc`, so that workers, which take one for each request,
/// do not count references in one place.
pub struct Current(Arc<Snapshot>);

impl Deref for Current {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        &self.0
    }
}

impl Worker {
    /// A worker on its own, for tests of what requests meet: it has no sockets.
    pub fn detached(options: Options) -> Rc<Self> {
        let departures = watch::channel(0).1;
        Self::new(0, Arc::new(options), Recorder::detached(), departures, Crew::alone())
    }

    fn new(
        index: usize,
        options: Arc<Options>,
        recorder: Recorder,
        departures: watch::Receiver<u64>,
        crew: Crew,
    ) -> Rc<Self> {
        let recorder = Rc::new(recorder);
        let pools = Pools::new(index, options.upstream.clone(), departures);
        Rc::new(Self {
            index,
            limits: Rc::new(options.limits.clone()),
            http1: Rc::new(http1_settings(&options, recorder.clone())),
            gateway: Rc::new(Gateway::new(recorder.clone(), pools, options.trusted_hops)),
            options,
            recorder,
            current: RefCell::new(Rc::new(Current(Arc::new(Snapshot::empty())))),
            draining: Cell::new(false),
            ports: RefCell::default(),
            crew,
        })
    }

    /// The current snapshot. Loaded once at the head of a request and passed down.
    pub fn snapshot(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    /// From now on requests are served with this one.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.current.replace(Rc::new(Current(snapshot)));
    }

    /// What answers the requests of a port.
    fn service(self: &Rc<Self>, port: PortKey) -> Service {
        Service::new(self.clone(), self.gateway.clone(), port)
    }

    /// Whether the proxy may hold one more session of a UDP client.
    pub(crate) fn has_room_for_session(&self) -> bool {
        self.crew.loads.sessions() < self.limits.udp_sessions
    }

    /// A session of a UDP client begins.
    pub(crate) fn begin_session(&self) {
        self.crew.loads.add_session(self.index);
    }

    /// A session of a UDP client has ended.
    pub(crate) fn end_session(&self) {
        self.crew.loads.remove_session(self.index);
    }

    /// Whether the proxy is going away: connections are closed after the response that is under way.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }
}

fn http1_settings(options: &Options, recorder: Rc<Recorder>) -> h1::Settings {
    let limits = &options.limits;
    h1::Settings {
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        write_timeout: limits.send_timeout,
        tunnel_timeout: limits.tunnel_timeout,
        max_head: limits.head_bytes,
        max_headers: limits.header_lines,
        max_target: limits.target_bytes,
        observer: Some(recorder),
        ..h1::Settings::default()
    }
}
