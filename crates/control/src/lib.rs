//! Side effects in a Kubernetes cluster: watches, statuses, the lease, and the proxies of each Gateway.
#![forbid(unsafe_code)]

pub mod source;
pub mod status;

mod outage;

pub use outage::Outages;
