//! One listener of a Gateway or ListenerSet: what it asks for, and what of it can be had.

use std::sync::Arc;

use portway_api::core::Secret;
use portway_api::gateway::{
    FromNamespaces, FrontendTLSConfig, FrontendValidationModeType, LabelSelector, Listener,
    ListenerFilterType, ListenerStatus, LocalObjectReference, RouteGroupKind, SecretObjectReference,
    TLSModeType,
};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{CertificateKey, ClientValidation, Filter, HostPattern, ObjectRef, Source, Transport};

use crate::backend::Resolver;
use crate::condition::{
    self, CONFLICTED, Finding, OVERLAPPING_TLS, PROGRAMMED, RESOLVED_REFS, Verdict, no, yes,
};
use crate::grants::{self, GATEWAY_GROUP};
use crate::survey::Surveyor;
use crate::trust::{self, Reasons};
use crate::{external_auth, selector};

/// What conditions of listeners call bad references to certificate authorities.
const REASONS: Reasons = Reasons { kind: "InvalidCACertificateKind", reference: "InvalidCACertificateRef" };

/// Names a listener; stays the same while listeners beside it come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerId {
    pub(crate) parent: ObjectKey,
    pub(crate) name: Arc<str>,
}

/// The protocols of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Http,
    Https,
    Tls,
    Tcp,
    Udp,
}

impl Protocol {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "HTTP" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls,
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            _ => return None,
        })
    }

    /// Whether hostnames mean something to it.
    pub(crate) fn has_hostnames(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Tls)
    }

    fn route_kinds(self) -> &'static [KindId] {
        match self {
            Self::Http | Self::Https => &[KindId::HTTPRoute, KindId::GRPCRoute],
            Self::Tls => &[KindId::TLSRoute],
            Self::Tcp => &[KindId::TCPRoute],
            Self::Udp => &[KindId::UDPRoute],
        }
    }
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Namespaces {
    All,
    None,
    Same,
    Selector(LabelSelector),
}

impl Namespaces {
    pub(crate) fn new(
        from: Option<&FromNamespaces>,
        selector: Option<&LabelSelector>,
        default: Self,
    ) -> Self {
        match from {
            None => default,
            Some(FromNamespaces::All) => Self::All,
            Some(FromNamespaces::Same) => Self::Same,
            Some(FromNamespaces::Selector) => selector.cloned().map_or(Self::None, Self::Selector),
            // What is not understood lets nobody in.
            Some(FromNamespaces::None | FromNamespaces::Other(_)) => Self::None,
        }
    }

    /// For people: `namespace infra`, `namespaces with team=a`.
    pub(crate) fn describe(&self, own: &str) -> String {
        match self {
            Self::All => "all namespaces".to_owned(),
            Self::None => "no namespace".to_owned(),
            Self::Same => format!("namespace {own}"),
            Self::Selector(_) => "the namespaces that its selector selects".to_owned(),
        }
    }
}

/// A listener, examined.
#[derive(Clone, Debug)]
pub(crate) struct ListenerNode {
    pub(crate) id: ListenerId,
    pub(crate) source: Source,
    pub(crate) port: u16,
    pub(crate) hostname: HostPattern,
    /// `None` for a protocol that is not of the spec.
    pub(crate) protocol: Option<Protocol>,
    /// TLS ends here.
    pub(crate) terminates: bool,
    pub(crate) kinds: Vec<KindId>,
    pub(crate) namespaces: Namespaces,
    /// Why it is not accepted.
    pub(crate) refused: Option<Finding>,
    /// References that cannot be followed; the first gives the condition its reason.
    pub(crate) unresolved: Vec<Finding>,
    pub(crate) conflict: Option<Finding>,
    /// Whose TLS settings overlap.
    pub(crate) overlap: Option<String>,
    /// The certificates that can be used.
    pub(crate) certificates: Vec<CertificateKey>,
    /// What every request passes before it is matched.
    pub(crate) filters: Vec<Filter>,
    /// How certificates of clients are checked.
    pub(crate) validation: Option<ClientValidation>,
    /// Why the port could not be opened.
    pub(crate) unavailable: Option<String>,
    /// Why it does not serve although its port is open.
    pub(crate) failed: Option<String>,
    /// Field paths that are read past.
    pub(crate) ignored: Vec<String>,
}

impl ListenerNode {
    /// Whether it is accepted and holds its place among its peers.
    pub(crate) fn is_accepted(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none()
    }

    /// Whether its `Accepted` condition holds: it is accepted, and its port could be opened.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_accepted() && self.unavailable.is_none()
    }

    /// Whether it lacks nothing that it needs to serve. The plan has those that do not.
    pub(crate) fn is_valid(&self) -> bool {
        self.is_accepted() && !(self.terminates && self.certificates.is_empty())
    }

    /// Which kind of socket it needs.
    pub(crate) fn transport(&self) -> Transport {
        match self.protocol {
            Some(Protocol::Udp) => Transport::Udp,
            _ => Transport::Tcp,
        }
    }

    /// Whether it serves.
    pub(crate) fn is_programmed(&self) -> bool {
        self.is_valid() && self.unavailable.is_none() && self.failed.is_none()
    }

    /// The listener's conditions; `parent` says why nothing of the whole Gateway or set is served, if so.
    pub(crate) fn verdicts(&self, parent: Option<&Finding>) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(5);
        verdicts.push(match (&self.conflict, &self.refused, &self.unavailable) {
            (Some(conflict), ..) => no(condition::ACCEPTED, conflict.reason, conflict.to_string()),
            (_, Some(refused), _) => no(condition::ACCEPTED, refused.reason, refused.to_string()),
            (.., Some(why)) => no(condition::ACCEPTED, "PortUnavailable", why.as_str()),
            _ => yes(condition::ACCEPTED, "Accepted", "the listener is accepted"),
        });
        verdicts.push(self.programmed(parent));
        verdicts.push(match self.unresolved.first() {
            Some(first) => {
                let all: Vec<_> = self.unresolved.iter().map(ToString::to_string).collect();
                no(RESOLVED_REFS, first.reason, all.join("; "))
            }
            None => yes(RESOLVED_REFS, "ResolvedRefs", "all references are resolved"),
        });
        verdicts.push(match &self.conflict {
            Some(conflict) => yes(CONFLICTED, conflict.reason, conflict.to_string()),
            None => no(CONFLICTED, "NoConflicts", "no other listener is in its way"),
        });
        if let Some(peers) = &self.overlap {
            verdicts.push(yes(OVERLAPPING_TLS, "OverlappingHostnames", peers.as_str()));
        }
        if !self.ignored.is_empty() {
            verdicts.push(ignored_fields(&self.ignored));
        }
        verdicts
    }

    fn programmed(&self, parent: Option<&Finding>) -> Verdict {
        if let Some(conflict) = &self.conflict {
            return no(PROGRAMMED, conflict.reason, conflict.to_string());
        }
        if let Some(finding) = self.refused.as_ref().or(parent) {
            return no(PROGRAMMED, "Invalid", finding.to_string());
        }
        if !self.is_valid() {
            return no(
                PROGRAMMED,
                "Invalid",
                "there is no certificate to serve; see the ResolvedRefs condition",
            );
        }
        match self.unavailable.as_ref().or(self.failed.as_ref()) {
            Some(why) => no(PROGRAMMED, "Invalid", why.as_str()),
            None => yes(PROGRAMMED, "Programmed", "the listener serves"),
        }
    }

    pub(crate) fn status(
        &self,
        attached: usize,
        conditions: Vec<portway_api::gateway::Condition>,
    ) -> ListenerStatus {
        let kind = |kind: &KindId| RouteGroupKind {
            group: Some(GATEWAY_GROUP.to_owned()),
            kind: kind.as_str().to_owned(),
        };
        ListenerStatus {
            attached_routes: i32::try_from(attached).unwrap_or(i32::MAX),
            conditions,
            name: self.id.name.to_string(),
            supported_kinds: self.kinds.iter().map(kind).collect(),
        }
    }
}

/// The condition that names fields which are read past.
pub(crate) fn ignored_fields(paths: &[String]) -> Verdict {
    yes(
        condition::IGNORED_FIELDS,
        "NotSupported",
        format!("this version of Portway does nothing about {}", paths.join(", ")),
    )
}

/// Examines one listener of `owner`. `frontend` is what its Gateway says about clients' certificates.
pub(crate) fn examine(
    spec: &Listener,
    owner: &ObjectKey,
    object: &Arc<ObjectRef>,
    index: usize,
    frontend: Option<&FrontendTLSConfig>,
    surveyor: &mut Surveyor<'_>,
) -> ListenerNode {
    let path = format!("spec.listeners[{index}]");
    let protocol = Protocol::parse(&spec.protocol);
    let mut node = ListenerNode {
        id: ListenerId { parent: owner.clone(), name: spec.name.as_str().into() },
        source: Source {
            object: Arc::clone(object),
            path: path.as_str().into(),
            section: Some(spec.name.as_str().into()),
        },
        port: 0,
        hostname: HostPattern::Any,
        protocol,
        terminates: false,
        kinds: Vec::new(),
        namespaces: Namespaces::Same,
        refused: None,
        unresolved: Vec::new(),
        conflict: None,
        overlap: None,
        certificates: Vec::new(),
        filters: Vec::new(),
        validation: None,
        unavailable: None,
        failed: None,
        ignored: Vec::new(),
    };
    let unsupported = |field: &str, message: String| {
        Some(Finding::new(format!("{path}.{field}"), "UnsupportedValue", message))
    };
    match u16::try_from(spec.port) {
        Ok(port @ 1..) => node.port = port,
        _ => node.refused = unsupported("port", format!("{} is no port number", spec.port)),
    }
    if protocol.is_some_and(Protocol::has_hostnames) {
        match HostPattern::parse(spec.hostname.as_deref().unwrap_or_default()) {
            Ok(hostname) => node.hostname = hostname,
            Err(why) => node.refused = unsupported("hostname", why.to_string()),
        }
    }
    filters(spec, &path, &mut node, surveyor);
    allowed_routes(spec, &path, &mut node);
    tls(spec, &path, frontend, &mut node, surveyor);
    if protocol.is_none() {
        node.refused = Some(Finding::new(
            format!("{path}.protocol"),
            "UnsupportedProtocol",
            format!("the protocol {} is not supported; HTTP, HTTPS, TLS, TCP and UDP are", spec.protocol),
        ));
    }
    node
}

/// The filters that requests pass before they are matched (GEP-5224). They guard the listener: with one that
/// cannot be honoured, it stays shut.
fn filters(spec: &Listener, path: &str, node: &mut ListenerNode, surveyor: &mut Surveyor<'_>) {
    let requests = spec.filters.as_ref().map(|filters| filters.requests.as_slice()).unwrap_or_default();
    if requests.is_empty() {
        return;
    }
    let path = format!("{path}.filters");
    let refuse = |node: &mut ListenerNode, path: String, message: String| {
        node.refused.get_or_insert(Finding::new(path, "UnsupportedValue", message));
    };
    if !matches!(node.protocol, Some(Protocol::Http | Protocol::Https)) {
        refuse(
            node,
            path,
            format!("{} listeners have no filters; HTTP and HTTPS listeners do", spec.protocol),
        );
        return;
    }
    let mut resolver = Resolver::new(surveyor.resources, &node.id.parent);
    let mut refused = None;
    for (i, filter) in requests.iter().enumerate() {
        let path = format!("{path}.requests[{i}]");
        let translated = match (&filter.type_, &filter.external_auth, filter.extension_ref.as_deref()) {
            (ListenerFilterType::ExternalAuth, Some(settings), _) => {
                external_auth::translate(settings, &format!("{path}.externalAuth"), &mut resolver)
                    .map(Filter::ExternalAuth)
                    .map_err(|fault| (fault.path, fault.message))
            }
            (ListenerFilterType::ExtensionRef, _, Some(LocalObjectReference { group, kind, name })) => {
                let message = format!("{kind}.{group} {name} is no kind of filter that Portway knows");
                Err((format!("{path}.extensionRef"), message))
            }
            (ListenerFilterType::ExternalAuth | ListenerFilterType::ExtensionRef, ..) => {
                let message = format!("the filter has no settings for its type {}", filter.type_);
                Err((path, message))
            }
            (ListenerFilterType::Other(name), ..) => {
                Err((path, format!("the filter type {name:?} is not known")))
            }
        };
        match translated {
            Ok(filter) => node.filters.push(filter),
            Err(fault) => {
                refused.get_or_insert(fault);
            }
        }
    }
    node.unresolved.append(&mut resolver.faults);
    surveyor.dependencies.append(&mut resolver.dependencies);
    if let Some((path, message)) = refused {
        refuse(node, path, message);
    }
}

fn allowed_routes(spec: &Listener, path: &str, node: &mut ListenerNode) {
    let own = node.protocol.map_or(&[][..], Protocol::route_kinds);
    let allowed = spec.allowed_routes.as_ref();
    let asked = allowed.map(|allowed| allowed.kinds.as_slice()).unwrap_or_default();
    if asked.is_empty() {
        node.kinds = own.to_vec();
    }
    for (i, kind) in asked.iter().enumerate() {
        let group = kind.group.as_deref().unwrap_or(GATEWAY_GROUP);
        match own.iter().find(|own| own.as_str() == kind.kind && group == GATEWAY_GROUP) {
            Some(found) if node.kinds.contains(found) => {}
            Some(found) => node.kinds.push(*found),
            None => node.unresolved.push(Finding::new(
                format!("{path}.allowedRoutes.kinds[{i}]"),
                "InvalidRouteKinds",
                format!("{}.{group} is no kind of route that {} listeners take", kind.kind, spec.protocol),
            )),
        }
    }
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    node.namespaces = Namespaces::new(
        namespaces.and_then(|namespaces| namespaces.from.as_ref()),
        namespaces.and_then(|namespaces| namespaces.selector.as_deref()),
        Namespaces::Same,
    );
    if let Namespaces::Selector(labels) = &node.namespaces
        && let Some(why) = selector::fault(labels)
    {
        node.refused =
            Some(Finding::new(format!("{path}.allowedRoutes.namespaces.selector"), "UnsupportedValue", why));
    }
}

fn tls(
    spec: &Listener,
    path: &str,
    frontend: Option<&FrontendTLSConfig>,
    node: &mut ListenerNode,
    surveyor: &mut Surveyor<'_>,
) {
    let Some(protocol @ (Protocol::Https | Protocol::Tls)) = node.protocol else { return };
    let tls = spec.tls.as_deref();
    let terminates = match tls.and_then(|tls| tls.mode.as_ref()) {
        None | Some(TLSModeType::Terminate) => true,
        Some(TLSModeType::Passthrough) => false,
        Some(TLSModeType::Other(other)) => {
            node.refused = Some(Finding::new(
                format!("{path}.tls.mode"),
                "UnsupportedValue",
                format!("the mode {other:?} is not known"),
            ));
            return;
        }
    };
    if tls.is_some_and(|tls| !tls.options.is_empty()) {
        node.ignored.push(format!("{path}.tls.options"));
    }
    if !terminates {
        if protocol == Protocol::Https {
            node.refused = Some(Finding::new(
                format!("{path}.tls.mode"),
                "UnsupportedValue",
                "an HTTPS listener cannot pass TLS through; use the protocol TLS",
            ));
        }
        return;
    }
    node.terminates = true;
    let references = tls.map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    if references.is_empty() {
        node.unresolved.push(Finding::new(
            format!("{path}.tls.certificateRefs"),
            "InvalidCertificateRef",
            "there is no certificate to serve",
        ));
    }
    for (i, reference) in references.iter().enumerate() {
        let path = format!("{path}.tls.certificateRefs[{i}]");
        let found = certificate(&node.id.parent, reference, "InvalidCertificateRef", surveyor);
        match found {
            Ok(key) if node.certificates.contains(&key) => {}
            Ok(key) => node.certificates.push(key),
            Err((reason, message)) => {
                node.unresolved.push(Finding::new(path.as_str(), reason, message));
            }
        }
    }
    if protocol == Protocol::Https {
        validation(frontend, node, surveyor);
    }
}

/// Follows a reference to a Secret with a certificate. `invalid` is what conditions call one that is bad.
pub(crate) fn certificate(
    owner: &ObjectKey,
    reference: &SecretObjectReference,
    invalid: &'static str,
    surveyor: &mut Surveyor<'_>,
) -> Result<CertificateKey, (&'static str, String)> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if !group.is_empty() || kind != "Secret" {
        let group = if group.is_empty() { "core" } else { group };
        let message = format!("{kind} of the API group {group} is no kind of certificate; use a Secret");
        return Err((invalid, message));
    }
    let given = reference.namespace.as_deref().filter(|given| !given.is_empty());
    let (namespace, name) = (given.unwrap_or(&owner.namespace), &*reference.name);
    let target = grants::Target { group, kind, namespace, name };
    grants::permit(surveyor.resources, owner, target).map_err(|why| ("RefNotPermitted", why))?;
    surveyor.secrets.insert((namespace.into(), name.into()));
    let Some(secret) = surveyor.resources.get::<Secret>(namespace, name) else {
        return Err((invalid, format!("there is no Secret {namespace}/{name}")));
    };
    let key = CertificateKey(format!("{namespace}/{name}").into());
    let usable = surveyor.certificate(&key, secret);
    usable.map(|()| key).map_err(|why| (invalid, format!("Secret {namespace}/{name}: {why}")))
}

/// How clients' certificates are checked (GEP-91): the Gateway says it, for all its HTTPS listeners or for
/// those of a port, ListenerSets' included.
fn validation(frontend: Option<&FrontendTLSConfig>, node: &mut ListenerNode, surveyor: &mut Surveyor<'_>) {
    let Some(frontend) = frontend else { return };
    let of_port = frontend.per_port.iter().position(|config| config.port == i32::from(node.port));
    let (path, config) = match of_port {
        Some(i) => (format!("spec.tls.frontend.perPort[{i}].tls"), &frontend.per_port[i].tls),
        None => ("spec.tls.frontend.default".to_owned(), &frontend.default),
    };
    let Some(validation) = &config.validation else { return };
    let path = format!("{path}.validation");
    let optional = match &validation.mode {
        None | Some(FrontendValidationModeType::AllowValidOnly) => false,
        Some(FrontendValidationModeType::AllowInsecureFallback) => true,
        Some(FrontendValidationModeType::Other(other)) => {
            let why = format!("the mode {other:?} is not known");
            node.refused = Some(Finding::new(format!("{path}.mode"), "UnsupportedValue", why));
            return;
        }
    };
    let references = validation.ca_certificate_refs.iter().map(|reference| trust::Reference {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    });
    let path = format!("{path}.caCertificateRefs");
    let (resources, gateway) = (surveyor.resources, &surveyor.gateway);
    let found = surveyor.bundles.find(resources, gateway, &path, references, REASONS);
    surveyor.asked.extend(found.asked);
    node.unresolved.extend(found.unresolved);
    if found.trust.is_empty() {
        let why = "none of the certificate authorities can be used to check clients";
        node.refused = Some(Finding::new(path, "NoValidCACertificate", why));
    }
    node.validation = Some(ClientValidation { trust: found.trust, optional });
}
