use std::sync::Arc;

use portway_api::gateway::{
    BackendStatus, Condition, GatewayClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus,
    PolicyStatus, RouteStatus,
};
use portway_api::object::ObjectKey;
use portway_plan::Shards;
use serde::Serialize;

/// The status of one object, as the API would show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// Of a GatewayClass.
    GatewayClass(GatewayClassStatus),
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of a ListenerSet.
    ListenerSet(ListenerSetStatus),
    /// Of an HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute.
    Route(RouteStatus),
    /// Of a BackendTLSPolicy.
    Policy(PolicyStatus),
    /// Of an XBackend.
    XBackend(BackendStatus),
}

impl Status {
    /// The conditions of the object as a whole; none for routes, policies and XBackends, whose conditions are
    /// per parent and ancestor.
    pub fn conditions(&self) -> &[Condition] {
        match self {
            Self::GatewayClass(status) => &status.conditions,
            Self::Gateway(status) => &status.conditions,
            Self::ListenerSet(status) => &status.conditions,
            Self::Route(_) | Self::Policy(_) | Self::XBackend(_) => &[],
        }
    }

    /// The listeners of a Gateway or ListenerSet; none for other kinds.
    pub fn listeners(&self) -> &[ListenerStatus] {
        match self {
            Self::Gateway(status) => &status.listeners,
            Self::ListenerSet(status) => &status.listeners,
            Self::GatewayClass(_) | Self::Route(_) | Self::Policy(_) | Self::XBackend(_) => &[],
        }
    }

    /// The status of a policy.
    pub fn policy(&self) -> Option<&PolicyStatus> {
        match self {
            Self::Policy(status) => Some(status),
            _ => None,
        }
    }

    /// The status of a route.
    pub fn route(&self) -> Option<&RouteStatus> {
        match self {
            Self::Route(status) => Some(status),
            _ => None,
        }
    }
}

/// The statuses of all objects that Portway has something to say about: its own classes, their Gateways with
/// their ListenerSets, the routes that name these as parents, and the policies for what these send to.
///
/// The status of a route or policy holds the entries of other controllers too, as they are on the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(Shards<ObjectKey, Arc<Status>>);

impl Statuses {
    /// The status of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Status>> {
        self.0.get(key)
    }

    /// All statuses, in order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Status>)> {
        self.0.iter()
    }

    /// How many objects have a status.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no object has a status.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, key: &ObjectKey, status: Option<Arc<Status>>) {
        match status {
            Some(status) if self.0.get(key).is_some_and(|known| *known == status) => {}
            Some(status) => {
                self.0.insert(key.clone(), status);
            }
            None if self.0.contains_key(key) => {
                self.0.remove(key);
            }
            None => {}
        }
    }
}
