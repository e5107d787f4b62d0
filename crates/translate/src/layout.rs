//! What is known of where Gateways are served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portway_api::gateway::GatewayStatusAddress;
use portway_api::object::ObjectKey;
use portway_plan::{Shards, Source, Transport};

/// Who serves the Gateways, and what is known of these proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One proxy, on one machine, serves all Gateways: they share one plan, and contend for its ports.
    Shared(Machine),
    /// In Kubernetes: each Gateway has proxies, an address and a plan of its own, so that no two of them are
    /// in each other's way. Of a Gateway that is not in the map nothing is known yet.
    PerGateway(Shards<ObjectKey, Fleet>),
}

impl Default for Layout {
    fn default() -> Self {
        Self::Shared(Machine::default())
    }
}

impl Layout {
    /// Whether two are of different kinds.
    pub(crate) fn is_other_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) != std::mem::discriminant(other)
    }

    /// The machine that serves all Gateways, if one does.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Shared(machine) => Some(machine),
            Self::PerGateway(_) => None,
        }
    }
}

/// What is known of the one machine that serves all Gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The addresses to report of Gateways that bind all addresses.
    pub addresses: Vec<IpAddr>,
    /// The addresses of this machine; a Gateway that asks for another is told that it is not usable. `None`
    /// if they are not known: then any is taken to be usable.
    pub local_addresses: Option<BTreeSet<IpAddr>>,
    /// Ports of the plan that could not be opened, and why; statuses say so.
    pub unavailable: BTreeMap<(Option<IpAddr>, u16, Transport), String>,
    /// Listeners of the plan that do not serve although their port is open, and why; statuses say so.
    pub failed: BTreeMap<Source, String>,
}

/// What is known of the proxies of one Gateway. What they have made of their plan is not in here: it changes
/// the `Programmed` condition after the translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The Gateway's addresses, to be reported as they are (Gateway `status.addresses`). While there is none,
    /// the Gateway is not programmed, for `AddressNotAssigned`.
    pub addresses: Vec<GatewayStatusAddress>,
    /// What keeps the Gateway from being programmed.
    pub trouble: Option<Trouble>,
}

/// What is wrong with the infrastructure of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which condition says it, and for what reason.
    pub reason: TroubleReason,
    /// The sentence for people.
    pub message: String,
    /// The field of the Gateway that is to blame, such as `spec.addresses[0]`; empty for none.
    pub path: String,
}

/// The reasons that the specification has for faults of a Gateway's infrastructure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TroubleReason {
    /// `Accepted` is `False`: an address of this type cannot be had (`UnsupportedAddress`).
    UnsupportedAddress,
    /// `Accepted` is `False`: the parameters are there, and nothing can be made of them (`InvalidParameters`).
    InvalidParameters,
    /// `Programmed` is `False`: no address could be assigned (`AddressNotAssigned`).
    AddressNotAssigned,
    /// `Programmed` is `False`: the address that was asked for cannot be had (`AddressNotUsable`).
    AddressNotUsable,
    /// `Programmed` is `False`: there are not the resources to serve, such as pods that cannot be scheduled
    /// or a quota that is used up (`NoResources`).
    NoResources,
    /// `Programmed` is `False`: the infrastructure that the Gateway asks for is refused by the API server
    /// (`Invalid`).
    Invalid,
}

impl TroubleReason {
    /// The reason as conditions have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedAddress => "UnsupportedAddress",
            Self::InvalidParameters => "InvalidParameters",
            Self::AddressNotAssigned => "AddressNotAssigned",
            Self::AddressNotUsable => "AddressNotUsable",
            Self::NoResources => "NoResources",
            Self::Invalid => "Invalid",
        }
    }
}

/// The CRDs of the Gateway API that a cluster has, by the annotations that their bundle carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crds {
    /// `gateway.networking.k8s.io/bundle-version`, such as `v1.7.0`. Where the CRDs differ, one that is not
    /// supported if there is any; empty if a CRD has none.
    pub bundle_version: String,
    /// `gateway.networking.k8s.io/channel`: `standard` or `experimental`.
    pub channel: String,
}
