//! The data plane: serves a [`portway_plan::Plan`].
//!
//! ```text
//! worker 0..N, each one thread, one current-thread runtime, its own sockets, pools and timers:
//!
//!   listen ─► accept ─► tls ─► http::{h1,h2} ─► http::route ─► http::filters ─► http::forward ─► upstream
//!                                  │  Request ───────────────────────────────────────►   │
//!                                  └◄─────────────────────────────── Response (head, Body) ┘
//! ```
//!
//! Nothing on the request path is locked, or shared between workers but atomics and the snapshot of the
//! plan. A request keeps the snapshot that it began with.

mod admin;
mod background;
pub mod drain;
pub mod fault;
pub mod http;
mod ids;
pub mod l4;
mod limits;
mod listen;
pub mod observe;
mod options;
mod patterns;
mod prefixed;
mod proxy;
pub mod snapshot;
mod sniff;
mod tls;
mod tunnel;
pub mod upstream;
pub mod worker;

pub use limits::{Http2Limits, Limits};
pub use listen::listen;
pub use options::{
    AccessLog, AccessLogFormat, AccessLogTarget, BindMode, DrainTimes, Options, StatusSource, Tracing,
};
pub use proxy::{Applied, AppliedPort, Drained, FailedListener, Proxy, StartError};
pub use snapshot::Snapshot;
