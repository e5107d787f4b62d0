//! XBackends (GEP-4894): backends of the Gateway API's own kind, which say themselves how they are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::core::Pod;
use portway_api::gateway::{
    BackendAncestorStatus, BackendProtocol as Spoken, BackendStatus, BackendTLSMode, BackendType, XBackend,
};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{
    Backend, BackendKey, BackendProtocol, BackendTls, Endpoint, EndpointAddress, EndpointState, Endpoints,
    HostPattern, ObjectRef, TrustAnchors,
};
use portway_store::{Resources, Stored};

use crate::backend::Dependency;
use crate::backend_tls::{Validation, ancestor};
use crate::condition::{ACCEPTED, Finding, History, Past, RESOLVED_REFS, Verdict, dated, no, yes};
use crate::listener::certificate;
use crate::route::RouteNode;
use crate::survey::Surveyor;
use crate::{Options, session};

/// The group of XBackends.
pub(crate) const GROUP: &str = "gateway.networking.x-k8s.io";

/// The API's bound on `status.ancestors`.
const ANCESTORS_LIMIT: usize = 32;

/// Whether a backend of the plan is an XBackend.
pub(crate) fn is_one(key: &BackendKey) -> bool {
    &*key.object.kind == KindId::XBackend.as_str()
}

/// The name of an XBackend in the plan. It has one port, which is not part of the name.
pub(crate) fn key(namespace: &str, name: &str) -> BackendKey {
    let kind = KindId::XBackend.as_str().into();
    BackendKey::tcp(ObjectRef { kind, namespace: namespace.into(), name: name.into() }, 0)
}

/// The backend that a reference from a route, or a Gateway, of that kind leads to.
pub(crate) fn resolve(
    resources: &Resources,
    from: KindId,
    namespace: &str,
    name: &str,
) -> Result<BackendKey, (&'static str, String)> {
    let Some(object) = resources.get::<XBackend>(namespace, name) else {
        return Err(("BackendNotFound", format!("there is no XBackend {namespace}/{name}")));
    };
    if let Some(finding) = fault(object) {
        return Err(("UnsupportedValue", format!("XBackend {namespace}/{name} is not accepted: {finding}")));
    }
    let spoken = object.spec.protocol.as_ref();
    let fits = match from {
        KindId::UDPRoute => false,
        KindId::TLSRoute | KindId::TCPRoute => true,
        KindId::GRPCRoute => !matches!(spoken, Some(Spoken::Tcp | Spoken::Http11 | Spoken::Wss)),
        _ => spoken != Some(&Spoken::Tcp),
    };
    if !fits {
        let spoken = spoken.map_or("TCP", Spoken::as_str);
        let message = format!("XBackend {namespace}/{name} speaks {spoken}, which is nothing to {from}s");
        return Err(("UnsupportedProtocol", message));
    }
    Ok(key(namespace, name))
}

/// What cannot be honoured; the backend is used for nothing then.
pub(crate) fn fault(object: &Stored<XBackend>) -> Option<Finding> {
    let unsupported =
        |path: &str, message: String| Some(Finding::new(format!("spec.{path}"), "UnsupportedValue", message));
    let spec = &object.spec;
    if port(object).is_none() {
        return unsupported("port.number", "a port from 1 to 65535 is needed".to_owned());
    }
    match &spec.type_ {
        BackendType::ExternalHostname if hostname(object).is_none() => {
            return unsupported("externalHostname.hostname", "a host name is needed".to_owned());
        }
        BackendType::EndpointSelector if selector(object).is_none() => {
            return unsupported("endpointSelector.matchLabels", "labels are needed".to_owned());
        }
        BackendType::Other(other) => return unsupported("type", format!("the type {other:?} is not known")),
        BackendType::ExternalHostname | BackendType::EndpointSelector => {}
    }
    if let Some(Spoken::Other(other)) = &spec.protocol {
        return unsupported("protocol", format!("the protocol {other:?} is not known"));
    }
    if let Some(tls) = &spec.tls {
        let (has_validation, has_certificate) =
            (tls.validation.is_some(), tls.client_certificate_ref.is_some());
        match &tls.mode {
            BackendTLSMode::None => {}
            BackendTLSMode::ServerOnly if has_validation => {}
            BackendTLSMode::ClientAndServer if has_validation && has_certificate => {}
            BackendTLSMode::Other(other) => {
                return unsupported("tls.mode", format!("the mode {other:?} is not known"));
            }
            mode => {
                let message =
                    format!("the mode {mode} needs a validation, and ClientAndServer a certificate");
                return unsupported("tls", message);
            }
        }
    }
    match sessions(object)? {
        Ok(_) => None,
        Err(fault) => Some(Finding::new(fault.path, "UnsupportedValue", fault.message)),
    }
}

fn sessions(object: &Stored<XBackend>) -> Option<Result<Arc<portway_plan::Session>, session::Fault>> {
    let spec = object.spec.session_persistence.as_deref()?;
    Some(session::translate(spec, "spec.sessionPersistence", &object.key, &object.metadata, "spec"))
}

fn port(object: &XBackend) -> Option<u16> {
    object.spec.port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

fn hostname(object: &XBackend) -> Option<Arc<str>> {
    let name = &object.spec.external_hostname.as_ref()?.hostname;
    match HostPattern::parse(name.trim_end_matches('.')) {
        Ok(HostPattern::Exact(name)) => Some(name),
        _ => None,
    }
}

/// The labels of the pods that it selects.
fn selector(object: &XBackend) -> Option<&BTreeMap<String, String>> {
    let selector = object.spec.endpoint_selector.as_ref().map(|selector| &selector.match_labels);
    // One without labels would select all pods of the namespace, which the API does not let anyone ask for.
    selector.filter(|labels| object.spec.type_ == BackendType::EndpointSelector && !labels.is_empty())
}

/// Whether pods are selected at all: only then are they to be read.
pub(crate) fn selects_pods(resources: &Resources) -> bool {
    resources.all::<XBackend>().any(|object| selector(object).is_some())
}

/// The names of the XBackends that select a pod.
pub(crate) fn selecting<'r>(resources: &'r Resources, pod: &'r Stored<Pod>) -> impl Iterator<Item = &'r str> {
    let selects =
        |object: &&Arc<Stored<XBackend>>| selector(object).is_some_and(|labels| has_labels(pod, labels));
    resources.in_namespace::<XBackend>(&pod.key.namespace).filter(selects).map(|object| &*object.key.name)
}

fn has_labels(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(name, value)| pod.metadata.labels.get(name) == Some(value))
}

/// How an XBackend is reached over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Secured {
    /// `None` for plain text.
    pub(crate) tls: Option<Arc<BackendTls>>,
    /// What keeps every connection from being made.
    pub(crate) refused: Option<Finding>,
    /// References that cannot be followed.
    pub(crate) unresolved: Vec<Finding>,
}

impl Secured {
    /// Follows the references of an XBackend.
    pub(crate) fn new(object: &Stored<XBackend>, surveyor: &mut Surveyor<'_>) -> Self {
        let Some(tls) = object.spec.tls.as_ref().filter(|tls| tls.mode != BackendTLSMode::None) else {
            return Self::default();
        };
        let Some(validation) = &tls.validation else { return Self::default() };
        let (resources, path) = (surveyor.resources, "spec.tls.validation");
        let found = Validation::new(validation, &object.key, path, resources, surveyor.bundles);
        surveyor.asked.extend(found.asked);
        let mut secured = Self { refused: found.refused, unresolved: found.unresolved, tls: None };
        let mut tls_to = Arc::unwrap_or_clone(found.tls);
        if tls.mode == BackendTLSMode::ClientAndServer
            && let Some(reference) = &tls.client_certificate_ref
        {
            match certificate(&object.key, reference, "InvalidClientCertificateRef", surveyor) {
                Ok(key) => tls_to.client_certificate = Some(key),
                Err((reason, message)) => {
                    let finding = Finding::new("spec.tls.clientCertificateRef", reason, message);
                    // Without its certificate, the gateway would be somebody else to the backend.
                    tls_to.trust = TrustAnchors::Of(Vec::new());
                    secured.refused.get_or_insert(finding.clone());
                    secured.unresolved.push(finding);
                }
            }
        }
        secured.tls = Some(Arc::new(tls_to));
        secured
    }
}

/// The XBackends that a route refers to.
pub(crate) fn referred(node: &RouteNode) -> impl Iterator<Item = ObjectKey> {
    node.dependencies.iter().filter_map(|dependency| match dependency {
        Dependency::XBackend(namespace, name) => Some(ObjectKey::new(KindId::XBackend, namespace, name)),
        _ => None,
    })
}

/// What is said of an XBackend to each Gateway that sends to it.
fn verdicts(object: &Stored<XBackend>, secured: &Secured) -> Vec<Verdict> {
    let accepted = match fault(object).as_ref().or(secured.refused.as_ref()) {
        Some(finding) => no(ACCEPTED, finding.reason, finding.to_string()),
        None => yes(ACCEPTED, "Accepted", "the backend is accepted"),
    };
    let resolved = match secured.unresolved.first() {
        Some(first) => {
            let all: Vec<_> = secured.unresolved.iter().map(ToString::to_string).collect();
            no(RESOLVED_REFS, first.reason, all.join("; "))
        }
        None => yes(RESOLVED_REFS, "ResolvedRefs", "all references are resolved"),
    };
    vec![accepted, resolved]
}

/// What keeps an XBackend from doing what it asks for.
pub(crate) fn findings(object: &Stored<XBackend>, secured: &Secured) -> Vec<Finding> {
    let mut findings: Vec<_> = fault(object).into_iter().chain(secured.refused.clone()).collect();
    findings.extend(secured.unresolved.iter().filter(|one| secured.refused.as_ref() != Some(one)).cloned());
    findings
}

/// The status of an XBackend, with an entry for each of the Gateways that send to it. `None` where there is
/// nothing to say and nothing to take back.
pub(crate) fn status(
    object: &Stored<XBackend>,
    secured: &Secured,
    gateways: BTreeSet<ObjectKey>,
    options: &Options,
    said: Option<&BackendStatus>,
) -> Option<BackendStatus> {
    let own = |entry: &&BackendAncestorStatus| entry.controller_name == options.controller_name;
    let past = Past { said, object: object.object.status.as_ref() };
    let verdicts = verdicts(object, secured);
    let existing = past.object.map(|status| status.ancestors.as_slice()).unwrap_or_default();
    let others = existing.iter().filter(|entry| !own(entry)).count();
    let mut entries: Vec<_> = gateways
        .iter()
        .take(ANCESTORS_LIMIT.saturating_sub(others))
        .map(|gateway| {
            let ancestor_ref = ancestor(gateway);
            let history = History::of(past, |status| {
                let mut known = status.ancestors.iter().filter(own);
                Some(&known.find(|entry| entry.ancestor_ref == ancestor_ref)?.conditions)
            });
            BackendAncestorStatus {
                conditions: dated(&verdicts, object.metadata.generation, options.now, history),
                controller_name: options.controller_name.clone(),
                ancestor_ref,
            }
        })
        .collect();
    let mut ancestors = Vec::with_capacity(others + entries.len());
    for entry in existing {
        if !own(&entry) {
            ancestors.push(entry.clone());
        } else if let Some(at) = entries.iter().position(|new| new.ancestor_ref == entry.ancestor_ref) {
            ancestors.push(entries.remove(at));
        }
    }
    ancestors.append(&mut entries);
    (!ancestors.is_empty() || !existing.is_empty()).then_some(BackendStatus { ancestors })
}

/// How to speak to a backend that a route resolved.
pub(crate) fn describe(
    resources: &Resources,
    secured: &BTreeMap<ObjectKey, Secured>,
    key: &BackendKey,
) -> Backend {
    let object = resources.get::<XBackend>(&key.object.namespace, &key.object.name);
    let protocol = match object.and_then(|object| object.spec.protocol.as_ref()) {
        Some(Spoken::Http2 | Spoken::H2c | Spoken::Grpc) => BackendProtocol::H2c,
        Some(Spoken::Http11 | Spoken::Wss) => BackendProtocol::Http1,
        _ => BackendProtocol::Unspecified,
    };
    let session = object.and_then(|object| sessions(object)).and_then(Result::ok);
    let tls = object.and_then(|object| secured.get(&object.key)).and_then(|secured| secured.tls.clone());
    Backend { session, tls, ..Backend::new(key.clone(), protocol) }
}

/// Where a backend is: its host, or the pods that it selects.
pub(crate) fn locate(resources: &Resources, key: &BackendKey) -> Endpoints {
    let namespace = &key.object.namespace;
    let object = resources.get::<XBackend>(namespace, &key.object.name);
    let Some((object, port)) = object.and_then(|object| Some((object, port(object)?))) else {
        return Endpoints::default();
    };
    let endpoint = |address, state| Endpoint { address, port, state, zone: None };
    if object.spec.type_ == BackendType::ExternalHostname {
        let address = hostname(object).map(EndpointAddress::Name);
        return Endpoints {
            list: address.map(|name| endpoint(name, EndpointState::Active)).into_iter().collect(),
        };
    }
    let Some(labels) = selector(object) else { return Endpoints::default() };
    let pods = resources.in_namespace::<Pod>(namespace).filter(|pod| has_labels(pod, labels));
    let mut list: Vec<Endpoint> = pods
        .filter(|pod| pod.spec.ready)
        .filter_map(|pod| {
            let address = pod.spec.ip.as_deref()?.parse().ok()?;
            let state = match pod.spec.terminating {
                true => EndpointState::Terminating,
                false => EndpointState::Active,
            };
            Some(endpoint(EndpointAddress::Ip(address), state))
        })
        .collect();
    list.sort();
    list.dedup_by(|a, b| a.address == b.address);
    Endpoints { list }
}
