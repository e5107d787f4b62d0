//! BackendRefs: which Service port they name, how to speak to it, and where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portway_api::core::{Service, ServicePort};
use portway_api::gateway::{BackendObjectReference, BackendRef, GRPCBackendRef, HTTPBackendRef};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{
    Backend, BackendKey, BackendProtocol, Endpoint, EndpointAddress, EndpointState, Endpoints, HostPattern,
    NoBackend, ObjectRef, Target, Transport,
};
use portway_store::Resources;

use crate::backend_tls::{self, Policies};
use crate::condition::Finding;
use crate::grants;
use crate::x_backend::{self, Secured};

/// What a translation of a route has looked at, and must look at again when it changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dependency {
    /// A Service, there or not: namespace and name.
    Service(Arc<str>, Arc<str>),
    /// An XBackend, there or not: namespace and name.
    XBackend(Arc<str>, Arc<str>),
    /// The ReferenceGrants of a namespace.
    Grants(Arc<str>),
    /// The BackendTLSPolicies of a namespace.
    BackendTls(Arc<str>),
    /// The labels of a namespace.
    Namespace(Arc<str>),
    /// A Gateway or ListenerSet that the route names as a parent, there or not.
    Parent(ObjectKey),
}

/// The parts that all backend references of the API share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i32>,
}

macro_rules! references {
    ($($type:ty),+) => {$(
        impl<'a> From<&'a $type> for Reference<'a> {
            fn from(reference: &'a $type) -> Self {
                Self {
                    group: reference.group.as_deref(),
                    kind: reference.kind.as_deref(),
                    namespace: reference.namespace.as_deref(),
                    name: &reference.name,
                    port: reference.port,
                }
            }
        }
    )+};
}

references!(BackendObjectReference, BackendRef, HTTPBackendRef, GRPCBackendRef);

/// Follows the backend references of one route, and remembers what it met.
pub(crate) struct Resolver<'a> {
    resources: &'a Resources,
    route: &'a ObjectKey,
    pub(crate) faults: Vec<Finding>,
    pub(crate) dependencies: BTreeSet<Dependency>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(resources: &'a Resources, route: &'a ObjectKey) -> Self {
        Self { resources, route, faults: Vec::new(), dependencies: BTreeSet::new() }
    }

    /// Notes a reference, other than to a backend, that cannot be followed.
    pub(crate) fn fault(&mut self, path: &str, reason: &'static str, message: String) {
        self.faults.push(Finding::new(path, reason, message));
    }

    /// The backend that the reference at `path` leads to.
    pub(crate) fn backend(&mut self, reference: Reference<'_>, path: &str) -> Target {
        match self.find(reference) {
            Ok(key) => Target::Backend(key),
            Err((reason, message)) => {
                let finding = Finding::new(path, reason, message);
                let message = finding.to_string().into();
                self.faults.push(finding);
                Target::Invalid(Box::new(NoBackend { reason: reason.into(), message }))
            }
        }
    }

    fn find(&mut self, reference: Reference<'_>) -> Result<BackendKey, (&'static str, String)> {
        let (group, kind) = (reference.group.unwrap_or_default(), reference.kind.unwrap_or("Service"));
        let is_x_backend = group == x_backend::GROUP && kind == KindId::XBackend.as_str();
        if !is_x_backend && (!group.is_empty() || kind != "Service") {
            let group = if group.is_empty() { "core" } else { group };
            return Err((
                "InvalidKind",
                format!(
                    "{kind} of the API group {group} is no kind of backend that Portway supports; use a Service or an \
                     XBackend"
                ),
            ));
        }
        let namespace =
            reference.namespace.filter(|given| !given.is_empty()).unwrap_or(&self.route.namespace);
        let (resources, name) = (self.resources, reference.name);
        if *namespace != *self.route.namespace {
            self.dependencies.insert(Dependency::Grants(namespace.into()));
        }
        grants::permit(resources, self.route, grants::Target { group, kind, namespace, name })
            .map_err(|message| ("RefNotPermitted", message))?;
        if is_x_backend {
            self.dependencies.insert(Dependency::XBackend(namespace.into(), name.into()));
            return x_backend::resolve(resources, self.route.kind, namespace, name);
        }
        self.dependencies.insert(Dependency::Service(namespace.into(), name.into()));
        let Some(number) = reference.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
        else {
            return Err((
                "UnsupportedValue",
                format!("the reference to Service {namespace}/{name} needs a port from 1 to 65535"),
            ));
        };
        let Some(service) = resources.get::<Service>(namespace, name) else {
            return Err(("BackendNotFound", format!("there is no Service {namespace}/{name}")));
        };
        let transport = if self.route.kind == KindId::UDPRoute { Transport::Udp } else { Transport::Tcp };
        let mut numbered = service.spec.ports.iter().filter(|port| port.port == i32::from(number)).peekable();
        let first = numbered.peek().copied();
        // A Service may have a TCP and a UDP port of one number.
        let Some(port) = numbered.find(|port| port_transport(port) == Some(transport)).or(first) else {
            let known: Vec<_> = service.spec.ports.iter().map(|port| port.port.to_string()).collect();
            return Err((
                "BackendNotFound",
                format!(
                    "Service {namespace}/{name} has no port {number}; its ports: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ),
            ));
        };
        self.speakable(port, transport, namespace, name)
            .map_err(|message| ("UnsupportedProtocol", message))?;
        let object = ObjectRef { kind: "Service".into(), namespace: namespace.into(), name: name.into() };
        Ok(BackendKey { object: Arc::new(object), port: number, transport })
    }

    /// Whether this route can send its traffic to the port.
    fn speakable(
        &mut self,
        port: &ServicePort,
        transport: Transport,
        namespace: &str,
        name: &str,
    ) -> Result<(), String> {
        let number = port.port;
        if port_transport(port) != Some(transport) {
            return Err(format!(
                "port {number} of Service {namespace}/{name} is a {} port, and {}s need {}",
                port.protocol.as_deref().unwrap_or("TCP"),
                self.route.kind,
                match transport {
                    Transport::Tcp => "TCP",
                    Transport::Udp => "UDP",
                }
            ));
        }
        if matches!(self.route.kind, KindId::TLSRoute | KindId::TCPRoute | KindId::UDPRoute) {
            return Ok(());
        }
        let app = port.app_protocol.as_deref().unwrap_or_default();
        match protocol(app) {
            None => {
                return Err(format!(
                    "port {number} of Service {namespace}/{name} has the appProtocol {app:?}, which Portway does not \
                     speak to backends"
                ));
            }
            Some(BackendProtocol::Http1) if self.route.kind == KindId::GRPCRoute => {
                return Err(format!(
                    "port {number} of Service {namespace}/{name} has the appProtocol {app:?}, and gRPC needs HTTP/2; \
                     use kubernetes.io/h2c"
                ));
            }
            Some(_) => {}
        }
        if demands_tls(app) {
            self.dependencies.insert(Dependency::BackendTls(namespace.into()));
            if !backend_tls::demanded(self.resources, namespace, name, port) {
                return Err(format!(
                    "port {number} of Service {namespace}/{name} has the appProtocol {app:?}, and no BackendTLSPolicy \
                     says how to speak TLS to it"
                ));
            }
        }
        Ok(())
    }
}

/// Whether an `appProtocol` is one over TLS.
fn demands_tls(app: &str) -> bool {
    app.eq_ignore_ascii_case("https") || app.eq_ignore_ascii_case("kubernetes.io/wss")
}

/// What an `appProtocol` stands for (GEP-1911, KEP-3726); `None` for what Portway does not speak.
fn protocol(app: &str) -> Option<BackendProtocol> {
    match app.to_ascii_lowercase().as_str() {
        "" | "https" => Some(BackendProtocol::Unspecified),
        "http" | "kubernetes.io/ws" | "kubernetes.io/wss" => Some(BackendProtocol::Http1),
        "kubernetes.io/h2c" | "grpc" | "http2" => Some(BackendProtocol::H2c),
        _ => None,
    }
}

/// What a port is for; `None` for SCTP.
pub(crate) fn port_transport(port: &ServicePort) -> Option<Transport> {
    match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        _ => None,
    }
}

fn port_of<'a>(resources: &'a Resources, key: &BackendKey) -> Option<(&'a Service, &'a ServicePort)> {
    let service = resources.get::<Service>(&key.object.namespace, &key.object.name)?;
    let fits =
        |port: &&ServicePort| port.port == i32::from(key.port) && port_transport(port) == Some(key.transport);
    let port = service.spec.ports.iter().find(fits)?;
    Some((service, port))
}

/// How to speak to a backend that a route resolved.
pub(crate) fn describe(
    resources: &Resources,
    policies: &Policies,
    x_backends: &BTreeMap<ObjectKey, Secured>,
    key: &BackendKey,
) -> Backend {
    if x_backend::is_one(key) {
        return x_backend::describe(resources, x_backends, key);
    }
    let port = port_of(resources, key).map(|(_, port)| port);
    let app = port.and_then(|port| port.app_protocol.as_deref()).unwrap_or_default();
    let mut backend = Backend::new(key.clone(), protocol(app).unwrap_or_default());
    if key.transport == Transport::Tcp {
        let service = (Arc::clone(&key.object.namespace), Arc::clone(&key.object.name));
        backend.tls = policies.tls(&service, port.and_then(|port| port.name.as_deref()));
    }
    backend
}

/// Where a backend is: its Service's EndpointSlices, or the name that an ExternalName Service stands for.
///
/// A Service with slices of both IP families has each of its pods in two slices; one family is used, the
/// Service's first unless only the other has endpoints, so that no pod counts twice.
pub(crate) fn locate(resources: &Resources, key: &BackendKey) -> Endpoints {
    if x_backend::is_one(key) {
        return x_backend::locate(resources, key);
    }
    let Some((service, port)) = port_of(resources, key) else { return Endpoints::default() };
    if service.spec.is_external_name() {
        let name = service.spec.external_name.as_deref().and_then(|name| {
            let name = name.trim_end_matches('.');
            matches!(HostPattern::parse(name), Ok(HostPattern::Exact(_))).then(|| name.to_ascii_lowercase())
        });
        let list = name.map(|name| Endpoint {
            address: EndpointAddress::Name(name.into()),
            port: key.port,
            state: EndpointState::Active,
            zone: None,
        });
        return Endpoints { list: list.into_iter().collect() };
    }
    let mut found: BTreeMap<(EndpointAddress, u16), News> = BTreeMap::new();
    for slice in resources.endpoint_slices(&key.object.namespace, &key.object.name) {
        let named = |name: &Option<String>| name.clone().unwrap_or_default();
        let number = slice.spec.ports.iter().find_map(|candidate| {
            let fits = named(&candidate.name) == named(&port.name)
                && candidate.protocol.as_deref().unwrap_or("TCP")
                    == port.protocol.as_deref().unwrap_or("TCP");
            fits.then(|| u16::try_from(candidate.port?).ok()).flatten()
        });
        let Some(number) = number else { continue };
        for endpoint in &slice.spec.endpoints {
            let Some(state) = state(endpoint, service.spec.publish_not_ready_addresses) else { continue };
            let Some(address) =
                endpoint.addresses.first().and_then(|text| address(text, &slice.spec.address_type))
            else {
                continue;
            };
            let zone = endpoint.zone.as_deref().map(Arc::from);
            // An endpoint may be in two slices while it moves between them; the better news is the newer.
            let news = (state, zone);
            found
                .entry((address, number))
                .and_modify(|known| *known = news.clone().min(known.clone()))
                .or_insert(news);
        }
    }
    let family = family(service, found.keys().map(|(address, _)| address));
    let list = found
        .into_iter()
        .filter(|((address, _), _)| match address {
            EndpointAddress::Ip(ip) => family == Some(ip.is_ipv4()),
            EndpointAddress::Name(_) => true,
        })
        .map(|((address, port), (state, zone))| Endpoint { address, port, state, zone });
    Endpoints { list: list.collect() }
}

/// What a slice says of an endpoint: its state and its zone.
type News = (EndpointState, Option<Arc<str>>);

/// Whether an endpoint takes requests: `Active` when ready, or serving and not on its way out.
fn state(endpoint: &portway_api::core::Endpoint, publish_not_ready: bool) -> Option<EndpointState> {
    if publish_not_ready || endpoint.ready || (endpoint.serving && !endpoint.terminating) {
        Some(EndpointState::Active)
    } else if endpoint.serving {
        Some(EndpointState::Terminating)
    } else {
        None
    }
}

fn address(text: &str, address_type: &str) -> Option<EndpointAddress> {
    match address_type {
        "FQDN" => match HostPattern::parse(text.trim_end_matches('.')) {
            Ok(HostPattern::Exact(name)) => Some(EndpointAddress::Name(name)),
            _ => None,
        },
        _ => text.parse().ok().map(EndpointAddress::Ip),
    }
}

/// `Some(true)` for IPv4.
fn family<'a>(service: &Service, addresses: impl Iterator<Item = &'a EndpointAddress>) -> Option<bool> {
    let first = service.spec.cluster_ips.first().and_then(|ip| ip.parse::<IpAddr>().ok());
    let preferred = first.is_none_or(|ip| ip.is_ipv4());
    let mut other = None;
    for address in addresses {
        match address {
            EndpointAddress::Ip(ip) if ip.is_ipv4() == preferred => return Some(preferred),
            EndpointAddress::Ip(_) => other = Some(!preferred),
            EndpointAddress::Name(_) => {}
        }
    }
    other
}
