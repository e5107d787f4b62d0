//! The crate's public face: starts the workers, applies plans, drains.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portway_plan::{Plan, Port, Source, TicketKey};
use tokio::sync::Notify;

use crate::admin;
use crate::background::{self, Background};
use crate::drain::{self, Phase};
use crate::limits;
use crate::listen::{self, Bound};
use crate::observe::{Metrics, Observation};
use crate::options::{BindMode, Options};
use crate::snapshot::{Compiler, PortKey, Snapshot};
use crate::tls::{self, Tickets, TlsContext};
use crate::upstream::Backends;
use crate::worker::{self, Command, Loads, WorkerThread};

/// A running proxy. Dropping it stops it at once; [`Proxy::shutdown`] is the graceful way.
pub struct Proxy {
    shared: Arc<Shared>,
    state: Mutex<State>,
    tickets: Arc<Tickets>,
    // Dropped in this order: first those who serve, then those who write down what was served.
    workers: Vec<WorkerThread>,
    admin_address: Option<SocketAddr>,
    applied: Arc<Notify>,
    _observation: Observation,
    _background: Background,
}

/// What the admin server sees too.
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) commands: Vec<tokio::sync::mpsc::UnboundedSender<Command>>,
    pub(crate) serving: ArcSwap<Serving>,
    pub(crate) draining: AtomicBool,
    loads: Arc<Loads>,
}

/// What is served.
#[derive(Default)]
pub(crate) struct Serving {
    pub(crate) snapshot: Arc<Snapshot>,
    /// One of its ports is bound, or it has none.
    pub(crate) bound: bool,
}

/// What `apply` keeps from one plan to the next.
struct State {
    compiler: Compiler,
    bound: Vec<(PortKey, SocketAddr)>,
}

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A worker's or the admin thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The admin address cannot be bound.
    #[error("cannot bind the admin address {address}: {error}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The access log's file cannot be opened.
    #[error("cannot open the access log {path}: {error}")]
    AccessLog {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The tracing endpoint is no plain HTTP address.
    #[error("cannot send traces to {0}: only http:// addresses are supported")]
    Tracing(http::Uri),
}

/// What became of a plan. All workers serve it when this is returned.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Counts up with each plan that is applied.
    pub revision: u64,
    /// Every port of the plan, in its order.
    pub ports: Vec<AppliedPort>,
    /// Listeners that cannot serve, or not with all their certificates, although their port is bound; each once.
    pub failed: Vec<FailedListener>,
    /// How long it took.
    pub took: Duration,
}

/// What became of a port of a plan.
#[derive(Clone, Debug)]
pub struct AppliedPort {
    /// Which port.
    pub key: PortKey,
    /// The listeners that share it.
    pub listeners: Vec<Source>,
    /// The address that is bound, or why none is (in use, no permission, …). It is tried again with the next
    /// plan.
    pub bound: Result<SocketAddr, String>,
}

/// A listener that cannot serve as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedListener {
    /// The listener.
    pub listener: Source,
    /// Why, for people.
    pub reason: String,
    /// Whether it serves all the same, with its other certificates.
    pub serves: bool,
}

/// How long workers may take to cut what is left at the end of a drain.
const TO_CUT: Duration = Duration::from_secs(1);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they were still busy at the deadline.
    pub cut: usize,
    /// How long it took.
    pub took: Duration,
}

impl Applied {
    /// Whether every port is bound and every listener serves.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.ports.iter().all(|p| p.bound.is_ok())
    }
}

impl Proxy {
    /// Starts the workers and, if it is wanted, the admin server. Nothing is served before the first plan.
    ///
    /// # Errors
    /// When a thread cannot be started or the admin address cannot be bound.
    pub fn start(mut options: Options) -> Result<Self, StartError> {
        let open_files = limits::open_files();
        options.limits.connections = options.limits.connections_within(open_files);
        options.limits.udp_sessions = options.limits.udp_sessions_within(open_files);
        let count = options.workers.or_else(|| std::thread::available_parallelism().ok());
        let count = count.map_or(1, NonZeroUsize::get);
        let options = Arc::new(options);
        let background = Background::start().map_err(StartError::Thread)?;
        let metrics = Arc::new(Metrics::new(count));
        let loads = Arc::new(Loads::new(count));
        let tickets = Arc::new(Tickets::default());
        background.handle().spawn(tls::expire(tickets.clone()));
        let applied = Arc::new(Notify::new());
        background.handle().spawn(background::tidy_after(applied.clone()));
        let tls = TlsContext::new(tickets.clone());
        let backends = Backends::new(background.handle().clone(), metrics.clone());
        let observation = Observation::start(&options, metrics.clone(), background.handle())?;
        let recorders = (0..count).map(|index| observation.recorder(index)).collect();
        let departures = backends.departures();
        let workers = worker::start(&options, recorders, &departures, &loads).map_err(StartError::Thread)?;
        let shared = Arc::new(Shared {
            commands: workers.iter().map(WorkerThread::commands).collect(),
            metrics: metrics.clone(),
            loads,
            serving: ArcSwap::from_pointee(Serving::default()),
            draining: AtomicBool::new(false),
            options: options.clone(),
        });
        let admin_address = match options.admin {
            Some(address) => Some(admin::start(address, &shared, background.handle())?),
            None => None,
        };
        Ok(Self {
            shared,
            state: Mutex::new(State { compiler: Compiler::new(tls, metrics, backends), bound: Vec::new() }),
            tickets,
            workers,
            admin_address,
            applied,
            _observation: observation,
            _background: background,
        })
    }

    /// Makes TLS session tickets with these keys from now on: replicas that have the same resume each other's
    /// sessions. They take the place of those set before, whose tickets are then worth nothing, if they are
    /// others. Without, or when their epochs have passed, a proxy makes keys of its own.
    pub fn set_ticket_keys(&self, keys: &[TicketKey]) {
        self.tickets.set(keys);
    }

    /// Serves this plan from now on. Binds its new ports, swaps the plan on all workers and lets ports that
    /// are gone drain; sockets and connections of ports that remain are not touched. Returns when every
    /// worker has taken it. Calls from several threads take turns.
    pub fn apply(&self, plan: Arc<Plan>) -> Applied {
        let begun = Instant::now();
        let mut state = self.state();
        let State { compiler, bound } = &mut *state;
        let (snapshot, failed) = compiler.compile(plan, &self.snapshot());
        let snapshot = Arc::new(snapshot);
        let (gone, kept): (Vec<_>, Vec<_>) = bound.drain(..).partition(|(key, _)| !snapshot.has(*key));
        *bound = kept;

        let mut own: Vec<PortKey> = bound.iter().chain(&gone).map(|(key, _)| *key).collect();
        let mut outcomes = Vec::with_capacity(snapshot.plan.ports.len());
        for port in &snapshot.plan.ports {
            let outcome = self.bind(port, bound, &own);
            if let Outcome::New(_) = outcome {
                own.push(PortKey::from(&**port));
            }
            outcomes.push(outcome);
        }
        if !gone.is_empty() {
            let keys: Vec<_> = gone.iter().map(|(key, _)| *key).collect();
            self.tell(|ack| Command::StopAccepting(keys.clone(), ack));
            // A port that goes may have stood in the way of one that comes.
            for (outcome, port) in outcomes.iter_mut().zip(&snapshot.plan.ports) {
                if matches!(outcome, Outcome::Failed(_)) {
                    *outcome = self.bind(port, bound, &own);
                }
            }
        }
        let deadline = Instant::now() + self.shared.options.drain.max;
        self.tell(|ack| Command::Swap(snapshot.clone(), deadline.into(), ack));

        let mut sockets: Vec<Vec<_>> = self.workers.iter().map(|_| Vec::new()).collect();
        let mut ports = Vec::with_capacity(outcomes.len());
        for (outcome, port) in outcomes.into_iter().zip(&snapshot.plan.ports) {
            let key = PortKey::from(&**port);
            let address = match outcome {
                Outcome::Bound(address) => Ok(address),
                Outcome::Failed(error) => Err(error),
                Outcome::New(new) => {
                    bound.push((key, new.address));
                    for (worker, socket) in sockets.iter_mut().zip(new.sockets) {
                        worker.push((key, socket));
                    }
                    Ok(new.address)
                }
            };
            let listeners = port.listeners.iter().map(|l| l.source.clone()).collect();
            ports.push(AppliedPort { key, listeners, bound: address });
        }
        if sockets.iter().any(|s| !s.is_empty()) {
            let mut sockets = sockets.into_iter();
            self.tell(|ack| Command::Listen(sockets.next().unwrap_or_default(), ack));
        }
        let revision = snapshot.revision;
        let took = begun.elapsed();
        let bound = ports.is_empty() || ports.iter().any(|p| p.bound.is_ok());
        self.shared.metrics.applied(revision, took, failed.len());
        self.shared.serving.store(Arc::new(Serving { snapshot, bound }));
        self.applied.notify_one();
        Applied { revision, ports, failed, took }
    }

    /// What becomes of a port: bound before, bound now, or not. `own` are the ports of which there are
    /// sockets.
    fn bind(&self, port: &Port, bound: &[(PortKey, SocketAddr)], own: &[PortKey]) -> Outcome {
        let key = PortKey::from(port);
        if let Some((_, address)) = bound.iter().find(|(other, _)| *other == key) {
            return Outcome::Bound(*address);
        }
        if self.shared.draining.load(Ordering::Relaxed) {
            return Outcome::Failed("the proxy is shutting down".to_owned());
        }
        let (address, number) = match self.shared.options.bind {
            BindMode::AsPlanned => (key.address, key.port),
            BindMode::Ephemeral => (Some(Ipv4Addr::LOCALHOST.into()), 0),
        };
        let is_wide = |key: &PortKey| key.address.is_none_or(|address| address.is_unspecified());
        let beside = own.iter().any(|other| {
            let same = (other.port, other.transport) == (key.port, key.transport);
            same && *other != key && (is_wide(other) || is_wide(&key))
        });
        match listen::bind(address, number, key.transport, self.workers.len(), beside) {
            Ok(new) => Outcome::New(new),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Tells every worker and waits until each has done it.
    fn tell(&self, mut command: impl FnMut(mpsc::Sender<()>) -> Command) {
        let (ack, done) = mpsc::channel();
        for worker in &self.workers {
            worker.send(command(ack.clone()));
        }
        drop(ack);
        // Ends when the last worker has dropped its ack.
        while done.recv().is_ok() {}
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses that are bound, by the plan's port.
    pub fn addresses(&self) -> Vec<(PortKey, SocketAddr)> {
        self.state().bound.clone()
    }

    /// The address of the admin server.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.serving.load().snapshot.clone()
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Goes away gracefully, in the times of [`Options::drain`]: not ready at once; still accepts for the
    /// minimum, with connections that are closed after each response; then stops accepting and waits for the
    /// exchanges under way, at most to the maximum. Returns when nothing is open any more.
    pub fn drain(&self) -> Drained {
        let times = self.shared.options.drain;
        let begun = Instant::now();
        self.shared.draining.store(true, Ordering::Relaxed);
        self.workers.iter().for_each(|worker| worker.send(Command::Announce));
        let cut_before = self.shared.metrics.connections_cut();
        let mut closing = false;
        loop {
            let open = self.shared.loads.open();
            let (phase, left) = drain::phase(times, begun.elapsed(), open);
            match phase {
                Phase::Announced => self.shared.loads.wait(open, left),
                Phase::Closing | Phase::Over if !closing => {
                    let deadline = begun + times.max.max(times.min);
                    self.tell(|ack| Command::Drain(deadline.into(), ack));
                    self.state().bound.clear();
                    closing = true;
                }
                Phase::Closing => self.shared.loads.wait(open, left),
                // Each worker cuts what it has left, and counts it, when it gets to that.
                Phase::Over if open > 0 && begun.elapsed() < times.max.max(times.min) + TO_CUT => {
                    self.shared.loads.wait(open, TO_CUT);
                }
                Phase::Over => {
                    let cut = self.shared.metrics.connections_cut().saturating_sub(cut_before);
                    let cut = usize::try_from(cut).unwrap_or(usize::MAX).saturating_add(open);
                    return Drained { cut, took: begun.elapsed() };
                }
            }
        }
    }

    /// [`Proxy::drain`], then stops all threads.
    pub fn shutdown(self) -> Drained {
        self.drain()
    }
}

/// What became of binding a port.
enum Outcome {
    /// It was bound before.
    Bound(SocketAddr),
    /// It is bound now and waits for its workers.
    New(Bound),
    Failed(String),
}
