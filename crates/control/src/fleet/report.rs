//! What a Gateway's fleet has come to: its addresses, and what is wrong.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::gateway::GatewayStatusAddress;
use portway_api::portway::ServiceType;
use portway_translate::{Fleet, Trouble, TroubleReason};

use super::live::{Id, Live, OwnedKind, Seen};
use super::wanted::{CLUSTER, IP_ADDRESS, Request, SENTINEL, Wanted};

/// The most addresses that a Gateway's status may have.
const MOST: usize = 16;

/// Why an object cannot be as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) id: Id,
    pub(super) message: String,
    /// Whether there is not enough of something, rather than something wrong.
    pub(super) is_quota: bool,
}

/// What is to be said of a Gateway's infrastructure.
pub(super) fn report(wanted: &Wanted, live: &Live, faults: &[Fault]) -> Fleet {
    let mut found = Found { addresses: Vec::new(), trouble: None };
    let service = |name: &str| live.objects.get(&id(wanted, name));
    let names = wanted.names();
    let main = service(&names.base);
    let default = default_addresses(wanted, main, live);
    let roles = wanted.services();
    for (i, request) in wanted.requests().enumerate() {
        let path = || format!("spec.addresses[{i}]");
        match request {
            Request::UnknownType => found.trouble(
                TroubleReason::UnsupportedAddress,
                path(),
                "addresses are of the type IPAddress".to_owned(),
            ),
            Request::UnknownRoutability => found.trouble(
                TroubleReason::AddressNotAssigned,
                path(),
                "addresses have the routability Cluster or none".to_owned(),
            ),
            Request::Default(None) => found.one_of(default.clone()),
            Request::Sentinel => found.one_of(
                default
                    .iter()
                    .map(|address| GatewayStatusAddress {
                        routability: Some(SENTINEL.to_owned()),
                        ..address.clone()
                    })
                    .collect(),
            ),
            Request::Cluster(None) => {
                found.one_of(main.into_iter().flat_map(in_cluster).collect());
            }
            Request::Default(Some(value)) | Request::Cluster(Some(value)) => {
                let role = roles.iter().find(|role| role.address == Some(value));
                let seen = role.and_then(|role| service(&role.name));
                let has = match request {
                    Request::Cluster(_) => seen.map_or_else(Vec::new, |seen| in_cluster(seen).collect()),
                    _ if role.is_some() => seen.map_or_else(Vec::new, balancer),
                    // There is no load balancer to ask: it has to be one of those that there are anyhow.
                    _ => default.clone(),
                };
                match has.into_iter().find(|address| same(&address.value, value)) {
                    Some(address) => found.addresses.push(address),
                    None => {
                        let mine = role.map(|role| id(wanted, &role.name));
                        let why = faults.iter().find(|fault| Some(&fault.id) == mine.as_ref());
                        let message = match (why, role) {
                            (Some(fault), _) => fault.message.clone(),
                            (None, Some(role)) => format!("Service {} has not been given {value}", role.name),
                            (None, None) => format!("the Gateway is not reached at {value}"),
                        };
                        let reason = match request {
                            Request::Cluster(_) => TroubleReason::AddressNotAssigned,
                            _ => TroubleReason::AddressNotUsable,
                        };
                        found.trouble(reason, path(), message);
                    }
                }
            }
        }
    }
    if wanted.gateway.spec.addresses.is_empty() {
        found.addresses = default;
    }
    for fault in faults {
        let reason = if fault.is_quota { TroubleReason::NoResources } else { TroubleReason::Invalid };
        found.trouble(reason, String::new(), format!("{}: {}", fault.id, fault.message));
    }
    if let Some(message) = no_pods(wanted, live) {
        found.trouble(TroubleReason::NoResources, String::new(), message);
    }
    let mut seen = BTreeSet::new();
    found.addresses.retain(|address| seen.insert((address.value.clone(), address.routability.clone())));
    found.addresses.truncate(MOST);
    Fleet { addresses: found.addresses, trouble: found.trouble }
}

struct Found {
    addresses: Vec<GatewayStatusAddress>,
    trouble: Option<Trouble>,
}

impl Found {
    /// Takes the first that is not taken yet: each request has one address of its own (GEP-5093).
    fn one_of(&mut self, candidates: Vec<GatewayStatusAddress>) {
        let free = candidates.into_iter().find(|address| !self.addresses.contains(address));
        self.addresses.extend(free);
    }

    /// The first fault is told, but that a type of addresses is not known goes before all.
    fn trouble(&mut self, reason: TroubleReason, path: String, message: String) {
        let before = self.trouble.as_ref().map(|trouble| trouble.reason);
        let weighs_more = reason == TroubleReason::UnsupportedAddress && before != Some(reason);
        if before.is_none() || weighs_more {
            self.trouble = Some(Trouble { reason, message, path });
        }
    }
}

fn id(wanted: &Wanted, service: &str) -> Id {
    Id {
        kind: OwnedKind::Service,
        namespace: Arc::clone(&wanted.gateway.key.namespace),
        name: service.into(),
    }
}

/// The addresses of a Gateway that asks for none by value.
fn default_addresses(wanted: &Wanted, main: Option<&Seen>, live: &Live) -> Vec<GatewayStatusAddress> {
    let type_ = wanted.service_type();
    if wanted.host_ports() || type_ == ServiceType::NodePort {
        return nodes(wanted, live);
    }
    let Some(main) = main else { return Vec::new() };
    if type_ == ServiceType::ClusterIP { in_cluster(main).collect() } else { balancer(main) }
}

/// The nodes where proxies are ready.
fn nodes(wanted: &Wanted, live: &Live) -> Vec<GatewayStatusAddress> {
    let pods = live.pods_of(&wanted.gateway.key).filter(|(_, pod)| pod.ready && !pod.leaves);
    let hosts: BTreeSet<IpAddr> = pods.flat_map(|(_, pod)| pod.hosts.iter().copied()).collect();
    hosts.into_iter().map(|ip| address(ip.to_string(), None)).collect()
}

fn balancer(service: &Seen) -> Vec<GatewayStatusAddress> {
    service.balancer.iter().map(|value| address(value.clone(), None)).collect()
}

fn in_cluster(service: &Seen) -> impl Iterator<Item = GatewayStatusAddress> + use<'_> {
    service.cluster.iter().map(|ip| address(ip.to_string(), Some(CLUSTER)))
}

fn address(value: String, routability: Option<&str>) -> GatewayStatusAddress {
    let type_ = if value.parse::<IpAddr>().is_ok() { IP_ADDRESS } else { "Hostname" };
    GatewayStatusAddress { type_: Some(type_.to_owned()), value, routability: routability.map(str::to_owned) }
}

fn same(a: &str, b: &str) -> bool {
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Why there is no proxy that is ready, if the cluster says why.
fn no_pods(wanted: &Wanted, live: &Live) -> Option<String> {
    let key = &wanted.gateway.key;
    let mut pods = live.pods_of(key).map(|(_, pod)| pod).filter(|pod| !pod.leaves).peekable();
    if pods.peek().is_none() {
        return live.of(key).find_map(|(_, seen)| seen.failure.clone());
    }
    let mut unscheduled = None;
    for pod in pods {
        if pod.ready {
            return None;
        }
        unscheduled = unscheduled.or_else(|| pod.unscheduled.clone());
    }
    unscheduled.map(|message| format!("no node takes the proxies: {message}"))
}
