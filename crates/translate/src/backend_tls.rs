//! BackendTLSPolicies: how backends are reached over TLS.
//!
//! ```text
//! BackendTLSPolicy ─► PolicyNode ─► of_service ─► describe: Backend.tls
//!   ConfigMap … ◄── readers ┘            └► who takes precedence ─► status, for each Gateway that sends there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::core::{Service, ServicePort};
use portway_api::gateway::{
    BackendTLSPolicy, BackendTLSPolicyValidation, ParentReference, PolicyAncestorStatus, PolicyStatus,
    SubjectAltName, SubjectAltNameType,
};
use portway_api::object::{KindId, ObjectKey};
use portway_plan::{BackendTls, HostPattern, SubjectName, Transport, TrustAnchors};
use portway_store::{Resources, Stored};

use crate::Options;
use crate::backend::port_transport;
use crate::condition::{self, Finding, History, Past, RESOLVED_REFS, Verdict, no, yes};
use crate::grants::GATEWAY_GROUP;
use crate::listener::ignored_fields;
use crate::precedence::Seniority;
use crate::survey::seniority;
use crate::trust::{self, Bundles, Reasons};

/// The API's bound on `status.ancestors`.
const ANCESTORS_LIMIT: usize = 16;

/// What conditions of BackendTLSPolicies call bad references.
const REASONS: Reasons = Reasons { kind: "InvalidKind", reference: "InvalidCACertificateRef" };

/// A Service: its namespace and name.
pub(crate) type ServiceName = (Arc<str>, Arc<str>);

/// A `validation` of the API (BackendTLSPolicy, XBackend), examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validation {
    /// How to speak TLS. Where nothing may be trusted, it trusts no one, so that no connection succeeds.
    pub(crate) tls: Arc<BackendTls>,
    /// Why it can be used for nothing.
    pub(crate) refused: Option<Finding>,
    /// References that cannot be followed.
    pub(crate) unresolved: Vec<Finding>,
    /// The objects that it depends on, there or not.
    pub(crate) asked: Vec<ObjectKey>,
}

impl Validation {
    /// Examines the validation at `path` of `owner`.
    pub(crate) fn new(
        spec: &BackendTLSPolicyValidation,
        owner: &ObjectKey,
        path: &str,
        resources: &Resources,
        bundles: &mut Bundles,
    ) -> Self {
        let references = spec.ca_certificate_refs.iter().map(|reference| trust::Reference {
            group: &reference.group,
            kind: &reference.kind,
            namespace: None,
            name: &reference.name,
        });
        let found = bundles.find(resources, owner, &format!("{path}.caCertificateRefs"), references, REASONS);
        let invalid = |field: &str, why: String| Finding::new(format!("{path}.{field}"), "Invalid", why);
        let mut refused = None;
        let well_known = spec.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
        let trust = match (spec.ca_certificate_refs.is_empty(), well_known) {
            (false, _) => {
                if found.trust.is_empty() {
                    let why = "none of the certificate authorities can be used";
                    let path = format!("{path}.caCertificateRefs");
                    refused = Some(Finding::new(path, "NoValidCACertificate", why));
                }
                TrustAnchors::Of(found.trust)
            }
            (true, Some("System")) => TrustAnchors::System,
            (true, Some(other)) => {
                let why = format!("{other:?} is not known; System is");
                refused = Some(invalid("wellKnownCACertificates", why));
                TrustAnchors::Of(Vec::new())
            }
            (true, None) => {
                let why = "either caCertificateRefs or wellKnownCACertificates is needed".to_owned();
                refused = Some(invalid("caCertificateRefs", why));
                TrustAnchors::Of(Vec::new())
            }
        };
        let server_name = match HostPattern::parse(&spec.hostname) {
            Ok(HostPattern::Exact(name)) => name,
            _ => {
                let why = format!("{:?} is no host name", spec.hostname);
                refused.get_or_insert(invalid("hostname", why));
                "invalid.invalid".into()
            }
        };
        let mut names = Vec::new();
        for (i, name) in spec.subject_alt_names.iter().enumerate() {
            match subject_name(name) {
                Ok(name) if names.contains(&name) => {}
                Ok(name) => names.push(name),
                Err(why) => {
                    refused.get_or_insert(invalid(&format!("subjectAltNames[{i}]"), why));
                }
            }
        }
        let trust = if refused.is_some() { TrustAnchors::Of(Vec::new()) } else { trust };
        let tls = BackendTls { server_name, names, trust, client_certificate: None };
        Self { tls: Arc::new(tls), refused, unresolved: found.unresolved, asked: found.asked }
    }
}

fn subject_name(name: &SubjectAltName) -> Result<SubjectName, String> {
    match &name.type_ {
        SubjectAltNameType::Hostname => {
            let hostname = name.hostname.as_deref().unwrap_or_default();
            match HostPattern::parse(hostname) {
                Ok(HostPattern::Any) | Err(_) => Err(format!("{hostname:?} is no host name")),
                Ok(_) => Ok(SubjectName::Hostname(hostname.to_ascii_lowercase().into())),
            }
        }
        SubjectAltNameType::Uri => match name.uri.as_deref() {
            Some(uri) if uri.contains(':') => Ok(SubjectName::Uri(uri.into())),
            other => Err(format!("{:?} is no absolute URI", other.unwrap_or_default())),
        },
        SubjectAltNameType::Other(other) => Err(format!("the type {other:?} is not known")),
    }
}

/// Whether a target of a policy is this Service, and at most which port of it.
fn target<'p>(policy: &'p BackendTLSPolicy, service: &str) -> impl Iterator<Item = Option<&'p str>> {
    policy
        .spec
        .target_refs
        .iter()
        .filter(move |target| target.group.is_empty() && target.kind == "Service" && target.name == service)
        .map(|target| target.section_name.as_deref().filter(|section| !section.is_empty()))
}

/// Of which port of a Service something is said, for people.
fn of_port(section: Option<&str>) -> String {
    section.map(|section| format!("port {section} of ")).unwrap_or_default()
}

/// Whether a policy demands TLS to a port of a Service.
pub(crate) fn demanded(resources: &Resources, namespace: &str, service: &str, port: &ServicePort) -> bool {
    resources.in_namespace::<BackendTLSPolicy>(namespace).any(|policy| {
        target(policy, service).any(|section| section.is_none() || section == port.name.as_deref())
    })
}

/// A policy, examined.
#[derive(Clone, Debug)]
pub(crate) struct PolicyNode {
    object: Arc<Stored<BackendTLSPolicy>>,
    validation: Validation,
    /// Targets that are no Service.
    strange: Option<Finding>,
    ignored: Vec<String>,
}

impl PolicyNode {
    fn new(object: &Arc<Stored<BackendTLSPolicy>>, resources: &Resources, bundles: &mut Bundles) -> Self {
        let path = "spec.validation";
        let validation = Validation::new(&object.spec.validation, &object.key, path, resources, bundles);
        let strange = object.spec.target_refs.iter().enumerate().find_map(|(i, target)| {
            (!target.group.is_empty() || target.kind != "Service").then(|| {
                let group = if target.group.is_empty() { "core" } else { &target.group };
                let why =
                    format!("{} of the API group {group} is no target that Portway supports", target.kind);
                Finding::new(format!("spec.targetRefs[{i}]"), "Invalid", why)
            })
        });
        let ignored = match object.spec.options.is_empty() {
            true => Vec::new(),
            false => vec!["spec.options".to_owned()],
        };
        Self { object: Arc::clone(object), validation, strange, ignored }
    }

    /// The Services that it names.
    fn services(&self) -> BTreeSet<ServiceName> {
        let services = self.object.spec.target_refs.iter();
        services
            .filter(|target| target.group.is_empty() && target.kind == "Service")
            .map(|target| (Arc::clone(&self.object.key.namespace), target.name.as_str().into()))
            .collect()
    }
}

/// All policies, by what they are about.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    nodes: BTreeMap<ObjectKey, PolicyNode>,
    /// The policies that target a Service, the most senior first.
    of_service: BTreeMap<ServiceName, BTreeMap<Seniority, ObjectKey>>,
    /// Who depends on a ConfigMap, Secret or ClusterTrustBundle.
    readers: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

/// Why a policy does nothing for one of its targets, or for a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    /// What the condition says when this is all that there is; `None` for a part of a target.
    reason: Option<&'static str>,
    why: String,
}

impl Loss {
    fn whole(reason: &'static str, why: String) -> Self {
        Self { reason: Some(reason), why }
    }
}

impl Policies {
    /// Looks at policies again that have changed, or something that they refer to. Returns the Services that
    /// they target or targeted.
    pub(crate) fn update(
        &mut self,
        resources: &Resources,
        changed: &BTreeSet<ObjectKey>,
        bundles: &mut Bundles,
    ) -> BTreeSet<ServiceName> {
        let mut services = BTreeSet::new();
        for key in changed {
            if let Some(before) = self.nodes.remove(key) {
                self.forget(&before, &mut services);
            }
            let Some(object) = resources.get::<BackendTLSPolicy>(&key.namespace, &key.name) else { continue };
            let node = PolicyNode::new(object, resources, bundles);
            for asked in &node.validation.asked {
                self.readers.entry(asked.clone()).or_default().insert(key.clone());
            }
            for service in node.services() {
                let policies = self.of_service.entry(service.clone()).or_default();
                policies.insert(seniority(&object.metadata), key.clone());
                services.insert(service);
            }
            self.nodes.insert(key.clone(), node);
        }
        services
    }

    fn forget(&mut self, node: &PolicyNode, services: &mut BTreeSet<ServiceName>) {
        for asked in &node.validation.asked {
            if let Some(readers) = self.readers.get_mut(asked) {
                readers.remove(&node.object.key);
                if readers.is_empty() {
                    self.readers.remove(asked);
                }
            }
        }
        for service in node.services() {
            if let Some(policies) = self.of_service.get_mut(&service) {
                policies.remove(&seniority(&node.object.metadata));
                if policies.is_empty() {
                    self.of_service.remove(&service);
                }
            }
            services.insert(service);
        }
    }

    /// The policies that depend on an object.
    pub(crate) fn readers(&self, object: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.readers.get(object).into_iter().flatten()
    }

    /// The objects that policies depend on, there or not.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &ObjectKey> {
        self.readers.keys()
    }

    /// Whether a policy depends on an object.
    pub(crate) fn asks(&self, object: &ObjectKey) -> bool {
        self.readers.contains_key(object)
    }

    /// The policies that target a Service.
    pub(crate) fn of_service(
        &self,
        namespace: &Arc<str>,
        name: &Arc<str>,
    ) -> impl Iterator<Item = &ObjectKey> {
        let policies = self.of_service.get(&(Arc::clone(namespace), Arc::clone(name)));
        policies.into_iter().flatten().map(|(_, key)| key)
    }

    /// All policies.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.nodes.keys()
    }

    fn ranked(&self, service: &ServiceName) -> impl Iterator<Item = &PolicyNode> {
        self.of_service.get(service).into_iter().flatten().filter_map(|(_, key)| self.nodes.get(key))
    }

    /// The policy that holds for one port of a Service, or for all ports for which no other does.
    fn winner(&self, service: &ServiceName, section: Option<&str>) -> Option<&PolicyNode> {
        self.ranked(service).find(|node| target(&node.object, &service.1).any(|named| named == section))
    }

    /// How to speak TLS to a port of a Service, if someone demands it.
    pub(crate) fn tls(&self, service: &ServiceName, port: Option<&str>) -> Option<Arc<BackendTls>> {
        let of_port = port.and_then(|port| self.winner(service, Some(port)));
        let node = of_port.or_else(|| self.winner(service, None))?;
        Some(Arc::clone(&node.validation.tls))
    }

    /// Why a policy does nothing for a target, if so.
    fn loss(
        &self,
        node: &PolicyNode,
        service: &ServiceName,
        section: Option<&str>,
        resources: &Resources,
    ) -> Option<Loss> {
        let (namespace, name) = service;
        let Some(found) = resources.get::<Service>(namespace, name) else {
            return Some(Loss::whole("TargetNotFound", format!("there is no Service {namespace}/{name}")));
        };
        let (udp, other): (Vec<_>, Vec<_>) = found
            .spec
            .ports
            .iter()
            .filter(|port| section.is_none() || port.name.as_deref() == section)
            .partition(|port| port_transport(port) == Some(Transport::Udp));
        if let Some(section) = section
            && other.is_empty()
            && udp.is_empty()
        {
            let why = format!("Service {namespace}/{name} has no port named {section}");
            return Some(Loss::whole("TargetNotFound", why));
        }
        if other.is_empty() && !udp.is_empty() {
            // GEP-1897: "applies only to TCP traffic".
            let of = of_port(section);
            let why = format!("{of}Service {namespace}/{name} is UDP, and TLS needs TCP");
            return Some(Loss::whole("Invalid", why));
        }
        self.conflict(node, service, section).or_else(|| {
            let port = udp.first()?.port;
            let why = format!("port {port} of Service {namespace}/{name} is UDP, and TLS needs TCP");
            Some(Loss { reason: None, why })
        })
    }

    /// Whether another policy holds for a target.
    fn conflict(&self, node: &PolicyNode, service: &ServiceName, section: Option<&str>) -> Option<Loss> {
        let winner = &self.winner(service, section)?.object.key;
        (*winner != node.object.key).then(|| {
            let (of, (namespace, name)) = (of_port(section), service);
            let why = format!("{winner} already applies to {of}Service {namespace}/{name}");
            Loss::whole("Conflicted", why)
        })
    }

    /// What becomes of a policy for those who send to the Services that are `used`.
    fn accepted(
        &self,
        node: &PolicyNode,
        resources: &Resources,
        used: impl Fn(&ServiceName) -> bool,
    ) -> Verdict {
        if let Some(finding) = node.validation.refused.as_ref().or(node.strange.as_ref()) {
            return no(condition::ACCEPTED, finding.reason, finding.to_string());
        }
        let (mut losses, mut wins) = (Vec::new(), 0);
        for service in node.services().iter().filter(|service| used(service)) {
            for section in target(&node.object, &service.1) {
                let loss = self.loss(node, service, section, resources);
                wins += usize::from(loss.as_ref().is_none_or(|loss| loss.reason.is_none()));
                losses.extend(loss);
            }
        }
        let conflict = losses.iter().find(|loss| loss.reason == Some("Conflicted"));
        match conflict.or(losses.first()) {
            None => yes(condition::ACCEPTED, "Accepted", "the policy is accepted"),
            Some(Loss { reason: Some(reason), why }) if wins == 0 => {
                no(condition::ACCEPTED, reason, why.as_str())
            }
            Some(Loss { why, .. }) => {
                yes(condition::ACCEPTED, "Accepted", format!("the policy is accepted, except that {why}"))
            }
        }
    }

    fn verdicts(
        &self,
        node: &PolicyNode,
        resources: &Resources,
        used: impl Fn(&ServiceName) -> bool,
    ) -> Vec<Verdict> {
        let mut verdicts = vec![self.accepted(node, resources, used)];
        verdicts.push(match node.validation.unresolved.first() {
            Some(first) => {
                let all: Vec<_> = node.validation.unresolved.iter().map(ToString::to_string).collect();
                no(RESOLVED_REFS, first.reason, all.join("; "))
            }
            None => yes(RESOLVED_REFS, "ResolvedRefs", "all references are resolved"),
        });
        if !node.ignored.is_empty() {
            verdicts.push(ignored_fields(&node.ignored));
        }
        verdicts
    }

    /// The status of a policy. `senders` tells which Gateways send to a Service. `None` where there is
    /// nothing to say and nothing to take back.
    pub(crate) fn status(
        &self,
        key: &ObjectKey,
        resources: &Resources,
        options: &Options,
        said: Option<&PolicyStatus>,
        senders: impl Fn(&ServiceName) -> BTreeSet<ObjectKey>,
    ) -> Option<PolicyStatus> {
        let node = self.nodes.get(key)?;
        let mut gateways: BTreeMap<ObjectKey, BTreeSet<ServiceName>> = BTreeMap::new();
        for service in node.services() {
            for gateway in senders(&service) {
                gateways.entry(gateway).or_default().insert(service.clone());
            }
        }
        let own = |entry: &&PolicyAncestorStatus| entry.controller_name == options.controller_name;
        let past = Past { said, object: node.object.object.status.as_ref() };
        let mut entries: Vec<_> = gateways
            .into_iter()
            .map(|(gateway, used)| {
                let ancestor = ancestor(&gateway);
                let history = History::of(past, |status| {
                    let mut known = status.ancestors.iter().filter(own);
                    Some(&known.find(|entry| entry.ancestor_ref == ancestor)?.conditions)
                });
                let verdicts = self.verdicts(node, resources, |service| used.contains(service));
                let generation = node.object.metadata.generation;
                PolicyAncestorStatus {
                    conditions: condition::dated(&verdicts, generation, options.now, history),
                    controller_name: options.controller_name.clone(),
                    ancestor_ref: ancestor,
                }
            })
            .collect();
        let existing = past.object.map(|status| status.ancestors.as_slice()).unwrap_or_default();
        let others = existing.iter().filter(|entry| !own(entry)).count();
        entries.truncate(ANCESTORS_LIMIT.saturating_sub(others));
        let mut ancestors = Vec::with_capacity(others + entries.len());
        for entry in existing {
            if !own(&entry) {
                ancestors.push(entry.clone());
            } else if let Some(at) = entries.iter().position(|new| new.ancestor_ref == entry.ancestor_ref) {
                ancestors.push(entries.remove(at));
            }
        }
        ancestors.append(&mut entries);
        (!ancestors.is_empty() || !existing.is_empty()).then_some(PolicyStatus { ancestors })
    }

    /// What keeps a policy from doing what it asks for.
    pub(crate) fn findings(&self, key: &ObjectKey, resources: &Resources) -> (Vec<Finding>, &[String]) {
        let Some(node) = self.nodes.get(key) else { return (Vec::new(), &[]) };
        let mut findings: Vec<Finding> = node
            .validation
            .refused
            .iter()
            .chain(&node.strange)
            .chain(&node.validation.unresolved)
            .cloned()
            .collect();
        for (i, reference) in node.object.spec.target_refs.iter().enumerate() {
            if !reference.group.is_empty() || reference.kind != "Service" {
                continue;
            }
            let service = (Arc::clone(&key.namespace), Arc::from(reference.name.as_str()));
            let section = reference.section_name.as_deref().filter(|section| !section.is_empty());
            let path = format!("spec.targetRefs[{i}]");
            let loss = self.loss(node, &service, section, resources);
            findings.extend(loss.and_then(|Loss { reason, why }| Some(Finding::new(path, reason?, why))));
        }
        (findings, &node.ignored)
    }
}

/// A Gateway as statuses of what is behind it name it.
pub(crate) fn ancestor(gateway: &ObjectKey) -> ParentReference {
    ParentReference {
        group: Some(GATEWAY_GROUP.to_owned()),
        kind: Some(KindId::Gateway.as_str().to_owned()),
        namespace: Some(gateway.namespace.to_string()),
        name: gateway.name.to_string(),
        ..ParentReference::default()
    }
}
