//! The routing plan: everything that a proxy needs to serve, as plain data.
//!
//! `translate` writes a plan from Gateway API objects; `proxy` compiles and serves it; `explain` reads it
//! aloud. Nothing in here knows Kubernetes, tokio or sockets, and nothing in here still has to be checked:
//! a [`HostPattern`] is lower case and valid, a [`Regex`] compiles, a weight is not negative.
//!
//! ```text
//! Plan ─┬─ ports: Port (what to bind) ── listeners: Listener ─┬ hosts: Host ── entries: Entry ── rule: Rule
//!       │                                                     └ forwards: Forward ── rule: ForwardRule
//!       │                                                              filters, shares ──► BackendKey
//!       ├─ backends: Backend (how to speak to a Service port)
//!       ├─ endpoints: Endpoints (where it is; swapped apart from routes)
//!       ├─ certificates: Certificate (the only place that holds keys)
//!       └─ trust: Trust (the authorities that clients and backends are checked against)
//! ```
//!
//! The plan is sharded: ports, listeners, hosts, backends, endpoints and certificates each sit behind an
//! `Arc`, so that a new plan shares all that did not change with the one before it, and who compares two
//! plans can stop at equal pointers.
//!
//! Every node carries its [`Source`]: the object, and the place in it, that asked for it.

mod backend;
mod certificate;
mod filter;
mod forward;
mod listener;
mod pattern;
mod rule;
mod session;
mod shards;
mod source;
mod ticket;
mod trust;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use backend::{
    Backend, BackendKey, BackendProtocol, BackendTls, Endpoint, EndpointAddress, EndpointState, Endpoints,
    TrustAnchors,
};
pub use certificate::{Certificate, CertificateKey, PrivateKey};
pub use filter::{
    AuthProtocol, Cors, CorsOrigin, ExternalAuth, Filter, HeaderEdit, HeaderPair, Mirror, PathRewrite,
    Redirect, RedirectPort, Rewrite,
};
pub use forward::{Forward, ForwardKind, ForwardRule};
pub use listener::{ClientValidation, Host, Listener, ListenerProtocol, Port, TlsTermination, Transport};
pub use pattern::{HostPattern, InvalidPattern, Regex, StringMatch};
pub use rule::{
    Entry, HeaderMatch, NoBackend, PathMatch, QueryMatch, Retry, Rule, RuleKind, Share, Target, Timeouts,
};
pub use session::{Session, SessionCarrier};
pub use shards::Shards;
pub use source::{ObjectRef, Source};
pub use ticket::TicketKey;
pub use trust::{SubjectName, Trust, TrustKey};

/// Everything one proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What to bind, ordered by address, port and transport.
    pub ports: Vec<Arc<Port>>,
    /// How to speak to each backend that a rule or filter names.
    pub backends: Shards<BackendKey, Arc<Backend>>,
    /// Where each backend is. A backend without an entry has no endpoints.
    pub endpoints: Shards<BackendKey, Arc<Endpoints>>,
    /// The certificates that listeners name.
    pub certificates: Shards<CertificateKey, Arc<Certificate>>,
    /// The certificate authorities that listeners and backends name.
    #[serde(default, skip_serializing_if = "Shards::is_empty")]
    pub trust: Shards<TrustKey, Arc<Trust>>,
}
