//! Side effects in a Kubernetes cluster: watches, statuses, the lease, and the proxies of each Gateway.
#![forbid(unsafe_code)]

mod client;
pub mod controller;
pub mod fleet;
pub mod lease;
pub mod push;
pub mod source;
pub mod status;

#[cfg(test)]
mod fake;
mod outage;

pub use client::client;
pub use outage::Outages;
