//! The backends' side: where each is, which endpoint gets a request, and the connections to it.
//!
//! ```text
//! Plan ─► Backends::sync ─► BackendMap ─► rules' shares ─► Backend (shared by all workers)
//!              │                                              │ EndpointSet: swapped, counters live on
//!              └─► names: resolved apart from requests ───────┘
//!
//! worker: Backend ─► choose an Endpoint ─► Pools (this worker's connections) ─► h1 or h2 connection
//! ```
//!
//! [`Backend`] and [`Endpoint`] are shared and hold atomics only; [`Pools`] is one worker's own.

mod backend;
mod backends;
mod connect;
mod limits;
mod permits;
mod pool;
mod queue;
mod resolve;
mod tls;
mod verify;
mod weights;

pub(crate) use backend::now_ms;
pub use backend::{Backend, Departures, Endpoint, EndpointId, EndpointSet, InFlight, Retrying};
pub use backends::{BackendMap, Backends};
pub use connect::Transport;
pub(crate) use connect::reset;
pub use limits::Limits;
pub use pool::{Connection, HeldBack, Lease, Mirroring, Pools, Protocol};
pub use tls::ClientTls;
pub(crate) use tls::{Connectors, Ingredients};
pub use weights::Weights;
