//! How a proxy is set up, apart from its plan.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::limits::Limits;
use crate::upstream;

/// The set-up of a [`crate::Proxy`]. `Options::default()` serves as planned, with no admin address, no
/// access log and no traces.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Worker threads; `None` for as many as the CPU quota (cgroup v1 and v2) or the machine has CPUs.
    pub workers: Option<NonZeroUsize>,
    /// Where the plan's ports are bound.
    pub bind: BindMode,
    /// Where `/livez`, `/readyz`, `/metrics`, `/status`, `/plan` and `/version` answer; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Host names, besides IP addresses and `localhost`, under which the admin server may be asked
    /// (it refuses others against DNS rebinding).
    pub admin_hosts: Vec<String>,
    /// What `/status` answers.
    pub status: Option<StatusSource>,
    /// While it is there and false, `/readyz` says that the plan is not complete.
    pub complete: Option<Arc<AtomicBool>>,
    /// Limits on the client's side.
    pub limits: Limits,
    /// Limits on the backends' side.
    pub upstream: upstream::Limits,
    /// How many proxies in front of this one are trusted to have written `X-Forwarded-*`; 0 when clients
    /// connect directly.
    pub trusted_hops: u32,
    /// Whether and where requests are logged.
    pub access_log: Option<AccessLog>,
    /// Whether and where traces go.
    pub tracing: Option<Tracing>,
    /// Times of the shutdown.
    pub drain: DrainTimes,
}

/// Where the plan's ports are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindMode {
    /// At the address and port of the plan.
    #[default]
    AsPlanned,
    /// Each at a free port of 127.0.0.1, for tests.
    Ephemeral,
}

/// Makes the JSON text that `/status` answers. Called on the admin thread for each request.
#[derive(Clone)]
pub struct StatusSource(pub Arc<dyn Fn() -> String + Send + Sync>);

impl fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusSource")
    }
}

/// The access log: a line for each request, written to its target by a thread of its own, a few milliseconds
/// later. Lines that come faster than they can be written are dropped and counted
/// (`portway_access_log_dropped_total`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Where it goes.
    pub target: AccessLogTarget,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// The combined log format of Apache and nginx.
    Common,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to a file, which is opened again when it has been moved away (log rotation).
    File(PathBuf),
}

/// Traces: W3C Trace Context in and out, spans exported with OTLP over HTTP (protobuf).
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The collector, such as `http://127.0.0.1:4318/v1/traces`. Plain HTTP.
    pub endpoint: http::Uri,
    /// The part of the traces begun here that are sampled, from 0.0 to 1.0. Where the client's
    /// `traceparent` says whether to sample, that counts.
    pub sampling: f64,
    /// `service.name` of the exported resource.
    pub service_name: String,
}

/// Times of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// From the signal on, new connections are still accepted for this long, while the news that this
    /// proxy goes away reaches those who send to it. 0 by default: nobody has to hear of it on one machine.
    pub min: Duration,
    /// From the signal on, exchanges that are still open after this long are cut. 30 s by default.
    pub max: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self { min: Duration::ZERO, max: Duration::from_secs(30) }
    }
}
