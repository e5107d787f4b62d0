//! Side effects in a Kubernetes cluster: watches, statuses, the lease, and the proxies of each Gateway.
#![forbid(unsafe_code)]

pub mod source;

mod outage;

pub use outage::Outages;
