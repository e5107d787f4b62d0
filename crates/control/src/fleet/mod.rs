//! The fleet: what runs the proxies of each Gateway.
//!
//! ```text
//! Resources, plans ──► Wanted ──desired──► objects ──apply──► API server
//!                                            ▲ drift               │ watch: owned objects, pods
//!                                            └──── Live ◄──────────┘
//!                                                   └──report──► addresses, faults, pods ──► the next round
//! ```
//!
//! For each accepted Gateway there are, in its namespace and owned by it: a Deployment or DaemonSet, a Service (and
//! one more for each further static address), a ServiceAccount without any right, a ConfigMap with the authority by
//! which the proxies know the controller, a PodDisruptionBudget, and a HorizontalPodAutoscaler if asked for.
//!
//! - [`desired()`] is pure; all effects are in `effects`.
//! - Server-side apply: what users add to the objects stays, what they change of ours is set again.
//! - An object of that name that is not the Gateway's is left alone, and told.
//! - A Gateway that is for now not accepted keeps its proxies; one that another controller took over, or that is
//!   gone, loses them.
//! - Only the leader writes.

mod desired;
mod effects;
mod live;
mod names;
mod pod;
mod report;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::object::ObjectKey;
use portway_plan::Shards;
use portway_translate::Fleet;

pub use desired::desired;
pub use effects::Fleets;
pub use names::{Names, label, names};
pub use wanted::Wanted;

/// The field manager of all that is applied.
pub const FIELD_MANAGER: &str = "portway.dev/gateway-controller";
/// The label with the Gateway's name (GEP-1762); cut where the name is longer than a label may be.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label with the name of the Gateway's class (GEP-1762).
pub const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// The annotation with the Gateway's whole name.
pub const GATEWAY: &str = "portway.dev/gateway";
/// The annotation with the name of the controller that made the object: another one does not take it away.
pub const CONTROLLER: &str = "portway.dev/controller";
/// By these labels the objects and pods of all Gateways are found.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=portway,app.kubernetes.io/component=proxy";

/// What the proxies of all Gateways have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The controller's name, which GatewayClasses give to be its own.
    pub controller_name: String,
    /// The container image, unless parameters name another.
    pub image: String,
    /// Where the proxies find the controllers' push server: host and port.
    pub controller: String,
    /// The name in the push server's certificate.
    pub server_name: String,
}

/// What is known of the fleets of all Gateways that have, or are to have, one. Clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Addresses and faults, as a translation wants them.
    pub fleets: Shards<ObjectKey, Fleet>,
    /// The pods that are not on their way out, by name; those that are not ready yet are in here too.
    pub pods: Shards<ObjectKey, Arc<BTreeMap<Arc<str>, Pod>>>,
}

/// A pod with a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its uid.
    pub uid: Arc<str>,
    /// Whether the cluster sends it connections.
    pub ready: bool,
}
