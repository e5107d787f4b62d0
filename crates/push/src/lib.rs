//! The push: how a controller hands plans to its proxies.
//!
//! ```text
//! controller                                            proxy
//!   Server::publish(gateway, plan)                        Client::run
//!      └► encode: shards by content hash                     └► Hello: the hashes it has
//!          └► the shards that the proxy lacks ──── Part ────►    assemble ─► plan ─► Apply::apply
//!   Server::state(gateway) ◄── what it said ────── Outcome ◄─────────────────────────┘
//! ```
//!
//! A gRPC stream over TLS 1.3; `proto/push.proto` is its contract. What is sent costs what has changed: a plan is a
//! set of shards, each named by the hash of its content, and only those that the proxy lacks are sent. At most one
//! revision is on its way to a proxy; when it has answered, it gets the newest, not those between.
//!
//! Bounds are in [`limits`].
#![forbid(unsafe_code)]

mod assemble;
mod auth;
mod client;
mod encode;
pub mod limits;
mod message;
mod outcome;
mod server;
mod shard;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;

pub use auth::{Authenticator, GatewayName, Identity, Pod, Refusal, ServiceAccount};
pub use client::{Apply, Client, ClientOptions, ClientState};
pub use outcome::{FailedListener, Outcome, UnavailablePort};
pub use server::{Counters, GatewayState, PeerOptions, PublishError, Rejection, Replica, Server};
pub use tickets::TicketRoot;
pub use tls::{ServingCertificate, TlsError};

/// The audience that a proxy's ServiceAccount token must have.
pub const AUDIENCE: &str = "portway.dev/push";
