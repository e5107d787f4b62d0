//! What a Gateway's proxies are made from.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::gateway::{Gateway, GatewaySpecAddress};
use portway_api::portway::{GatewayParametersSpec, ServiceParameters, ServiceType, WorkloadKind};
use portway_plan::{Plan, Transport};
use portway_store::Stored;

use super::names::{Names, names};

/// The type of an address that is one by its value.
pub(super) const IP_ADDRESS: &str = "IPAddress";
/// The routability of an address that is reached from inside the cluster only (GEP-5093).
pub(super) const CLUSTER: &str = "Cluster";

/// A routability that promises nothing: conformance tests ask for it, to see it reported (GEP-5093).
pub(super) const SENTINEL: &str = "testing.x-k8s.io/sentinel";

/// A Gateway that is to have proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The Gateway.
    pub gateway: Arc<Stored<Gateway>>,
    /// Its parameters, those of its class included.
    pub parameters: Arc<GatewayParametersSpec>,
    /// The ports of its plan, those of its ListenerSets included. Never empty: without a port there can be no
    /// Service.
    pub ports: BTreeSet<(u16, Transport)>,
}

/// What one of a Gateway's Services is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRole<'a> {
    /// Its name.
    pub(super) name: String,
    /// Its type.
    pub(super) kind: ServiceType,
    /// The address that it is to have, and where the Gateway asks for it.
    pub(super) address: Option<&'a str>,
    /// Whether it is the Gateway's first Service, with the defaults of the cluster's address families.
    pub(super) is_main: bool,
}

/// A request for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Reached as the Gateway's Service is; with a value, at that one.
    Default(Option<&'a str>),
    /// Reached from inside the cluster.
    Cluster(Option<&'a str>),
    /// As the Gateway's Service is, but reported with [`SENTINEL`].
    Sentinel,
    /// Of a type that Portway does not know.
    UnknownType,
    /// Of a routability that Portway does not know.
    UnknownRoutability,
}

impl<'a> Request<'a> {
    pub(super) fn of(address: &'a GatewaySpecAddress) -> Self {
        let value = address.value.as_deref().filter(|value| !value.is_empty());
        if address.type_.as_deref().unwrap_or(IP_ADDRESS) != IP_ADDRESS {
            return Self::UnknownType;
        }
        match address.routability.as_deref().unwrap_or_default() {
            "" => Self::Default(value),
            CLUSTER => Self::Cluster(value),
            SENTINEL if value.is_none() => Self::Sentinel,
            _ => Self::UnknownRoutability,
        }
    }
}

impl Wanted {
    /// The ports that a plan binds.
    #[must_use]
    pub fn ports_of(plan: &Plan) -> BTreeSet<(u16, Transport)> {
        plan.ports.iter().map(|port| (port.port, port.transport)).collect()
    }

    /// Whether the same objects follow from it, though the Gateway may be a newer one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.gateway.spec == other.gateway.spec
            && self.gateway.metadata.uid == other.gateway.metadata.uid
            && self.parameters == other.parameters
            && self.ports == other.ports
    }

    /// The names of its objects.
    #[must_use]
    pub fn names(&self) -> Names {
        names(&self.gateway.key.name)
    }

    pub(super) fn service_parameters(&self) -> Option<&ServiceParameters> {
        self.parameters.service.as_deref()
    }

    pub(super) fn host_ports(&self) -> bool {
        self.parameters.pod.as_ref().and_then(|pod| pod.host_ports).unwrap_or(false)
    }

    pub(super) fn is_daemon_set(&self) -> bool {
        let kind = self.parameters.workload.as_ref().and_then(|workload| workload.kind.as_ref());
        kind == Some(&WorkloadKind::DaemonSet)
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.gateway.spec.addresses.iter().map(Request::of)
    }

    /// The type of the first Service.
    pub(super) fn service_type(&self) -> ServiceType {
        if let Some(type_) = self.service_parameters().and_then(|service| service.type_.clone()) {
            return type_;
        }
        let in_cluster = |request| matches!(request, Request::Cluster(_));
        let only_in_cluster = !self.gateway.spec.addresses.is_empty() && self.requests().all(in_cluster);
        if self.host_ports() || only_in_cluster { ServiceType::ClusterIP } else { ServiceType::LoadBalancer }
    }

    /// The Services that there are to be, the first one first. A Service has one address of a load balancer and one
    /// of the cluster, so each further address that is asked for by value has a Service of its own.
    pub(super) fn services(&self) -> Vec<ServiceRole<'_>> {
        let names = self.names();
        let kind = self.service_type();
        let balanced = kind == ServiceType::LoadBalancer;
        let mut main = ServiceRole { name: names.base.clone(), kind, address: None, is_main: true };
        let mut further = Vec::new();
        for request in self.requests() {
            let (Request::Default(Some(address)) | Request::Cluster(Some(address))) = request else {
                continue;
            };
            if address.parse::<IpAddr>().is_err() {
                continue;
            }
            let kind = match request {
                Request::Default(_) if balanced && main.address.is_none() => {
                    main.address = Some(address);
                    continue;
                }
                Request::Default(_) if balanced => ServiceType::LoadBalancer,
                Request::Default(_) => continue,
                _ => ServiceType::ClusterIP,
            };
            let name = names.service_for(address);
            further.push(ServiceRole { name, kind, address: Some(address), is_main: false });
        }
        std::iter::once(main).chain(further).collect()
    }

    /// Where the proxies' admin server listens: 9900, or the next port that no listener has.
    pub(super) fn admin_port(&self) -> u16 {
        let taken = |port: &u16| self.ports.contains(&(*port, Transport::Tcp));
        (9900..=u16::MAX).find(|port| !taken(port)).unwrap_or(9900)
    }
}
