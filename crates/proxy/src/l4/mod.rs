//! Connections and datagrams that are passed on as they are: TLS, TCP and UDP listeners.
//!
//! ```text
//! TLS port: hello ─┬ passes through ─────────────┐
//!                  └ ends here ─► tls ─┬ HTTPS ─► http
//!                                      └ TLS ────┤ server name
//! TCP port ──────────────────────────────────────┤
//!                                                └► ForwardRule ─► backend, by weight ─► endpoint ─► Copying
//! UDP port: datagram ─► session of its client ──────► the same ─► endpoint: replies go back the same way
//! ```
//!
//! A connection chooses its backend once and keeps it, whatever becomes of the plan, until its listener goes
//! (it drains) or leave to go to the backend is taken back (`ForwardRule::revokes`).

mod datagrams;
mod hello;
mod relay;
mod table;
mod udp;

pub(crate) use hello::{NoHello, read as read_hello};
pub(crate) use relay::{Live, Way, relay};
pub use table::{ForwardListener, ForwardRule, ForwardTable};
pub(crate) use udp::serve as serve_datagrams;
