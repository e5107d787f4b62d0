//! Gateways.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::gateway::{
    FrontendTLSConfig, FrontendValidationModeType, Gateway, GatewayClass, GatewaySpecAddress, GatewayStatus,
    GatewayStatusAddress,
};
use portway_plan::ObjectRef;
use portway_store::Stored;

use crate::condition::{
    self, Finding, History, INSECURE_FRONTEND, PROGRAMMED, Past, RESOLVED_REFS, Verdict, no, yes,
};
use crate::draft::object_ref;
use crate::listener::{self, ListenerNode, ignored_fields};
use crate::survey::{GatewayNode, Surveyor};
use crate::{Fleet, Layout, Machine, Options, Trouble, TroubleReason, listenerset, parameters, routability};

const IP_ADDRESS: &str = "IPAddress";

/// Examines a Gateway and its own listeners.
pub(crate) fn examine(
    gateway: &Arc<Stored<Gateway>>,
    class: Option<&Finding>,
    surveyor: &mut Surveyor<'_>,
) -> GatewayNode {
    let mut node = GatewayNode {
        object: Arc::clone(gateway),
        site: None,
        refused: None,
        addresses: Vec::new(),
        unusable: None,
        reported: Vec::new(),
        assigned: None,
        unresolved: None,
        ignored: Vec::new(),
        client_certificate: None,
        insecure: Vec::new(),
        listeners: Vec::new(),
        sets: Vec::new(),
    };
    match &surveyor.options.layout {
        Layout::Shared(machine) => addresses(gateway, &mut node, machine),
        Layout::PerGateway(fleets) => {
            let known = fleets.get(&gateway.key);
            fleet(gateway, &mut node, known);
            if known.is_some() && routability::is_reported(surveyor.options) {
                for address in &mut node.reported {
                    address.routability.get_or_insert_default();
                }
                let is_final = known.is_some_and(|fleet| fleet.trouble.is_some());
                node.assigned = routability::assigned(&gateway.spec.addresses, &node.reported, is_final);
            }
        }
    }
    let class_object = surveyor.resources.get::<GatewayClass>("", &gateway.spec.gateway_class_name);
    let of_class =
        class_object.and_then(|class| parameters::of_class(surveyor.resources, class).ok().flatten());
    if let Err(finding) = parameters::of_gateway(surveyor.resources, gateway, of_class) {
        node.refused = Some(finding);
    }
    if class.is_some() {
        let name = &gateway.spec.gateway_class_name;
        node.refused = Some(Finding::new(
            "spec.gatewayClassName",
            "InvalidParameters",
            format!("GatewayClass {name} is not accepted; see its conditions"),
        ));
    }
    if gateway.spec.default_scope.is_some() {
        node.ignored.push("spec.defaultScope".to_owned());
    }
    backend_tls(gateway, &mut node, surveyor);
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_deref());
    node.insecure = insecure(frontend);
    let object: Arc<ObjectRef> = Arc::new(object_ref(&gateway.key));
    node.listeners = gateway
        .spec
        .listeners
        .iter()
        .enumerate()
        .map(|(i, spec)| listener::examine(spec, &gateway.key, &object, i, frontend, surveyor))
        .collect();
    node
}

/// The addresses to bind on one machine. Without any in the spec, the Gateway's listeners bind all addresses that
/// no other Gateway claims by name for the same port.
fn addresses(gateway: &Gateway, node: &mut GatewayNode, machine: &Machine) {
    let mut wanted = BTreeSet::new();
    for (i, address) in gateway.spec.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{i}]");
        if address.routability.as_deref().is_some_and(|routability| !routability.is_empty()) {
            node.ignored.push(format!("{path}.routability"));
        }
        let value = match requested(address, &path) {
            Ok(value) => value,
            Err(finding) => {
                node.refused.get_or_insert(finding);
                continue;
            }
        };
        if value.is_empty() {
            wanted.insert(None);
            continue;
        }
        let usable = match value.parse::<IpAddr>() {
            Err(_) => Err(format!("{value:?} is no IP address")),
            Ok(ip) if machine.local_addresses.as_ref().is_some_and(|local| !local.contains(&ip)) => {
                Err(format!("this machine does not have the address {ip}"))
            }
            Ok(ip) => Ok(ip),
        };
        match usable {
            Ok(ip) => {
                wanted.insert(Some(ip));
            }
            Err(message) => {
                node.unusable.get_or_insert(Finding::new(path, "AddressNotUsable", message));
            }
        }
    }
    if gateway.spec.addresses.is_empty() {
        wanted.insert(None);
    }
    node.addresses = wanted.into_iter().collect();
}

/// The value of an address that is asked for, empty for any.
fn requested<'a>(address: &'a GatewaySpecAddress, path: &str) -> Result<&'a str, Finding> {
    let type_ = address.type_.as_deref().unwrap_or(IP_ADDRESS);
    if type_ == IP_ADDRESS {
        return Ok(address.value.as_deref().unwrap_or_default());
    }
    let message = format!("addresses of the type {type_} are not supported; use {IP_ADDRESS}");
    Err(Finding::new(path, "UnsupportedAddress", message))
}

/// Proxies of the Gateway's own bind all addresses of their pods; the Gateway's addresses are those of the
/// Service in front of them.
fn fleet(gateway: &Stored<Gateway>, node: &mut GatewayNode, fleet: Option<&Fleet>) {
    node.site = Some(gateway.key.clone());
    node.addresses = vec![None];
    for (i, address) in gateway.spec.addresses.iter().enumerate() {
        if let Err(finding) = requested(address, &format!("spec.addresses[{i}]")) {
            node.refused.get_or_insert(finding);
        }
    }
    node.reported = fleet.map(|fleet| fleet.addresses.clone()).unwrap_or_default();
    match fleet.and_then(|fleet| fleet.trouble.as_ref()) {
        Some(Trouble { reason, path, message }) => {
            let finding = Finding::new(path.as_str(), reason.as_str(), message.as_str());
            let place = match reason {
                TroubleReason::UnsupportedAddress | TroubleReason::InvalidParameters => &mut node.refused,
                _ => &mut node.unusable,
            };
            place.get_or_insert(finding);
        }
        None if node.reported.is_empty() && node.refused.is_none() => {
            let message = "the Gateway has no address yet";
            node.unusable = Some(Finding::new("", "AddressNotAssigned", message));
        }
        None => {}
    }
}

/// The certificate that is shown to backends (GEP-3155). Without it, backends that demand one refuse.
fn backend_tls(gateway: &Stored<Gateway>, node: &mut GatewayNode, surveyor: &mut Surveyor<'_>) {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_deref()) else {
        return;
    };
    match listener::certificate(&gateway.key, reference, "InvalidClientCertificateRef", surveyor) {
        Ok(key) => node.client_certificate = Some(key),
        Err((reason, message)) => {
            node.unresolved = Some(Finding::new("spec.tls.backend.clientCertificateRef", reason, message));
        }
    }
}

/// Where the Gateway lets clients in whose certificates are not valid.
fn insecure(frontend: Option<&FrontendTLSConfig>) -> Vec<String> {
    let Some(frontend) = frontend else { return Vec::new() };
    let of_ports = frontend.per_port.iter().enumerate();
    let of_ports = of_ports.map(|(i, port)| (format!("spec.tls.frontend.perPort[{i}]"), &port.tls));
    std::iter::once(("spec.tls.frontend.default".to_owned(), &frontend.default))
        .chain(of_ports)
        .filter(|(_, config)| {
            let mode = config.validation.as_ref().and_then(|validation| validation.mode.as_ref());
            mode == Some(&FrontendValidationModeType::AllowInsecureFallback)
        })
        .map(|(path, _)| path)
        .collect()
}

/// Tells the listeners what stands in their way where they are served: a port that could not be opened, or
/// what the proxy could not make of them.
pub(crate) fn mark_obstacles(node: &mut GatewayNode, options: &Options) {
    let Some(Machine { unavailable, failed, .. }) = options.layout.machine() else { return };
    if unavailable.is_empty() && failed.is_empty() {
        return;
    }
    let addresses = node.addresses.clone();
    let sets = node.sets.iter_mut().flat_map(|set| set.listeners.iter_mut());
    for listener in node.listeners.iter_mut().chain(sets).filter(|listener| listener.is_valid()) {
        let transport = listener.transport();
        let why = addresses.iter().find_map(|address| unavailable.get(&(*address, listener.port, transport)));
        listener.unavailable = why.map(|why| format!("port {} could not be opened: {why}", listener.port));
        listener.failed = failed.get(&listener.source).cloned();
    }
}

/// Why nothing of the Gateway is served, if so.
pub(crate) fn obstacle(node: &GatewayNode) -> Option<&Finding> {
    match &node.refused {
        None if node.addresses.is_empty() => node.unusable.as_ref(),
        refused => refused.as_ref(),
    }
}

/// The Gateway's own conditions.
pub(crate) fn verdicts(node: &GatewayNode) -> Vec<Verdict> {
    // What is wrong with the listeners of a set is the set's to say: whoever may add one cannot make the
    // Gateway look broken.
    let invalid: Vec<String> = node
        .listeners
        .iter()
        .filter(|listener| !listener.is_usable())
        .map(|listener| listener.source.to_string())
        .collect();
    let accepted = node.merged().any(ListenerNode::is_usable);
    let mut verdicts = Vec::with_capacity(4);
    verdicts.push(match &node.refused {
        Some(finding) => no(condition::ACCEPTED, finding.reason, finding.to_string()),
        None if !accepted => no(
            condition::ACCEPTED,
            "ListenersNotValid",
            format!("no listener is accepted: {}; see their conditions", invalid.join(", ")),
        ),
        None if !invalid.is_empty() => yes(
            condition::ACCEPTED,
            "ListenersNotValid",
            format!("the Gateway is accepted, but without {}; see their conditions", invalid.join(", ")),
        ),
        None => yes(condition::ACCEPTED, "Accepted", "the Gateway is accepted"),
    });
    verdicts.push(match (obstacle(node), &node.unusable) {
        (None, None) if node.merged().any(ListenerNode::is_programmed) => {
            yes(PROGRAMMED, "Programmed", "the Gateway serves")
        }
        (_, Some(unusable)) if node.refused.is_none() => {
            no(PROGRAMMED, unusable.reason, unusable.to_string())
        }
        (Some(finding), _) => no(PROGRAMMED, "Invalid", finding.to_string()),
        _ => no(PROGRAMMED, "Invalid", "no listener serves; see their conditions"),
    });
    verdicts.extend(node.assigned.clone());
    let unresolved = node.listeners.iter().filter(|listener| !listener.unresolved.is_empty());
    let unresolved: Vec<_> = unresolved.map(|listener| &*listener.id.name).collect();
    verdicts.push(match &node.unresolved {
        Some(finding) => no(RESOLVED_REFS, finding.reason, finding.to_string()),
        None if !unresolved.is_empty() => no(
            RESOLVED_REFS,
            "ListenersNotResolved",
            format!("listeners have references that cannot be followed: {}", unresolved.join(", ")),
        ),
        None => yes(RESOLVED_REFS, "ResolvedRefs", "all references are resolved"),
    });
    if !node.insecure.is_empty() {
        let message =
            format!("clients are let in whose certificates are not valid: {}", node.insecure.join(", "));
        verdicts.push(yes(INSECURE_FRONTEND, "ConfigurationChanged", message));
    }
    if !node.ignored.is_empty() {
        verdicts.push(ignored_fields(&node.ignored));
    }
    verdicts
}

/// The status of a Gateway. `attached` tells how many routes a listener has.
pub(crate) fn status(
    node: &GatewayNode,
    options: &Options,
    past: Past<'_, GatewayStatus>,
    attached: impl Fn(&ListenerNode) -> usize,
) -> GatewayStatus {
    let generation = node.object.metadata.generation;
    let obstacle = obstacle(node);
    let listeners = node.listeners.iter().map(|listener| {
        let history = History::of(past, |status| {
            let known = status.listeners.iter().find(|known| known.name == *listener.id.name)?;
            Some(&known.conditions)
        });
        let verdicts = listener.verdicts(obstacle);
        listener.status(attached(listener), condition::dated(&verdicts, generation, options.now, history))
    });
    let addresses = match obstacle {
        Some(_) => Vec::new(),
        None => reported(node, options),
    };
    let sets = node.sets.iter().filter(|set| listenerset::is_attached(set)).count();
    let history = History::of(past, |status| Some(&status.conditions));
    GatewayStatus {
        addresses,
        attached_listener_sets: Some(i32::try_from(sets).unwrap_or(i32::MAX)),
        conditions: condition::dated(&verdicts(node), generation, options.now, history),
        listeners: listeners.collect(),
    }
}

/// The addresses at which the Gateway is to be found.
fn reported(node: &GatewayNode, options: &Options) -> Vec<GatewayStatusAddress> {
    let Some(machine) = options.layout.machine() else {
        let mut reported = node.reported.clone();
        if !routability::is_reported(options) {
            // What the API server would drop would have to be written again and again.
            reported.iter_mut().for_each(|address| address.routability = None);
        }
        return reported;
    };
    let own = node.addresses.iter().flatten();
    let any = node.addresses.contains(&None).then_some(&machine.addresses);
    let address = |ip: &IpAddr| GatewayStatusAddress {
        routability: None,
        type_: Some(IP_ADDRESS.to_owned()),
        value: ip.to_string(),
    };
    own.chain(any.into_iter().flatten()).map(address).collect()
}
