//! Routes of all kinds: their parts in common, and their statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::gateway::{
    GRPCRoute, HTTPRoute, ParentReference, RouteParentStatus, RouteStatus, TCPRoute, TLSRoute, UDPRoute,
};
use portway_api::object::{KindId, Metadata, ObjectKey};
use portway_plan::{BackendKey, ForwardKind, HostPattern, RuleKind};
use portway_store::{Resources, Stored};

use crate::attach::{self, Attachment, Candidate, Hostnames, ParentView, Refusal};
use crate::backend::Dependency;
use crate::condition::{self, Finding, History, PARTIALLY_INVALID, Past, RESOLVED_REFS, Verdict, no, yes};
use crate::draft::{Draft, InvalidRule};
use crate::listener::{ListenerId, ignored_fields};
use crate::precedence::Seniority;
use crate::survey::seniority;
use crate::{Options, grpc, http, l4};

/// A route of any kind.
#[derive(Clone, Debug)]
pub(crate) enum RouteObject {
    Http(Arc<Stored<HTTPRoute>>),
    Grpc(Arc<Stored<GRPCRoute>>),
    Tls(Arc<Stored<TLSRoute>>),
    Tcp(Arc<Stored<TCPRoute>>),
    Udp(Arc<Stored<UDPRoute>>),
}

/// The kinds of routes.
pub(crate) const KINDS: [KindId; 5] =
    [KindId::HTTPRoute, KindId::GRPCRoute, KindId::TLSRoute, KindId::TCPRoute, KindId::UDPRoute];

macro_rules! common {
    ($self:ident, $route:ident => $field:expr) => {
        match $self {
            Self::Http($route) => $field,
            Self::Grpc($route) => $field,
            Self::Tls($route) => $field,
            Self::Tcp($route) => $field,
            Self::Udp($route) => $field,
        }
    };
}

impl RouteObject {
    pub(crate) fn get(resources: &Resources, key: &ObjectKey) -> Option<Self> {
        let (namespace, name) = (&*key.namespace, &*key.name);
        match key.kind {
            KindId::HTTPRoute => resources.get(namespace, name).cloned().map(Self::Http),
            KindId::GRPCRoute => resources.get(namespace, name).cloned().map(Self::Grpc),
            KindId::TLSRoute => resources.get(namespace, name).cloned().map(Self::Tls),
            KindId::TCPRoute => resources.get(namespace, name).cloned().map(Self::Tcp),
            KindId::UDPRoute => resources.get(namespace, name).cloned().map(Self::Udp),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> &ObjectKey {
        common!(self, route => &route.key)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        common!(self, route => &route.object.metadata)
    }

    pub(crate) fn parent_refs(&self) -> &[ParentReference] {
        common!(self, route => &route.object.spec.parent_refs)
    }

    pub(crate) fn status(&self) -> Option<&RouteStatus> {
        common!(self, route => route.object.status.as_ref())
    }

    /// The hostnames of the route, [`HostPattern::Any`] if it names none. What is no hostname names nothing.
    fn hostnames(&self) -> Vec<HostPattern> {
        let given = match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
            Self::Tls(route) => &route.spec.hostnames,
            Self::Tcp(_) | Self::Udp(_) => return vec![HostPattern::Any],
        };
        if given.is_empty() {
            return vec![HostPattern::Any];
        }
        given.iter().filter_map(|text| HostPattern::parse(text).ok()).collect()
    }

    pub(crate) fn draft(&self, resources: &Resources) -> Draft {
        match self {
            Self::Http(route) => http::draft(resources, &route.key, route),
            Self::Grpc(route) => grpc::draft(resources, &route.key, route),
            Self::Tls(route) => {
                let spec = &route.spec;
                let scope = spec.use_default_gateways.as_ref();
                l4::draft(resources, &route.key, ForwardKind::Tls, &spec.rules, scope)
            }
            Self::Tcp(route) => {
                let spec = &route.spec;
                let scope = spec.use_default_gateways.as_ref();
                l4::draft(resources, &route.key, ForwardKind::Tcp, &spec.rules, scope)
            }
            Self::Udp(route) => {
                let spec = &route.spec;
                let scope = spec.use_default_gateways.as_ref();
                l4::draft(resources, &route.key, ForwardKind::Udp, &spec.rules, scope)
            }
        }
    }
}

/// What is kept of a route between two translations.
#[derive(Clone, Debug)]
pub(crate) struct RouteNode {
    pub(crate) object: RouteObject,
    pub(crate) seniority: Arc<Seniority>,
    pub(crate) faults: Vec<Finding>,
    pub(crate) invalid: Vec<InvalidRule>,
    /// All rules are invalid.
    pub(crate) is_refused: bool,
    pub(crate) ignored: Vec<String>,
    pub(crate) attachments: Box<[Attachment]>,
    pub(crate) dependencies: Box<[Dependency]>,
    /// The backends of the rules to serve.
    pub(crate) backends: Box<[BackendKey]>,
}

impl RouteNode {
    /// Translates a route; the draft is for who places its rules.
    pub(crate) fn new(
        object: RouteObject,
        parents: &BTreeMap<ObjectKey, Arc<ParentView>>,
        resources: &Resources,
    ) -> (Self, Draft) {
        let mut draft = object.draft(resources);
        let mut dependencies = std::mem::take(&mut draft.dependencies);
        let candidate =
            Candidate { key: object.key(), parent_refs: object.parent_refs(), hostnames: object.hostnames() };
        let attachments = attach::attach(&candidate, parents, resources, &mut dependencies);
        let node = Self {
            seniority: Arc::new(seniority(object.metadata())),
            faults: std::mem::take(&mut draft.faults),
            is_refused: draft.refusal().is_some(),
            invalid: std::mem::take(&mut draft.invalid),
            ignored: std::mem::take(&mut draft.ignored),
            attachments: attachments.into(),
            dependencies: dependencies.into_iter().collect(),
            backends: std::mem::take(&mut draft.backends).into_iter().collect(),
            object,
        };
        (node, draft)
    }

    /// Which contest between HTTPRoutes and GRPCRoutes the route is in.
    pub(crate) fn rule_kind(&self) -> Option<RuleKind> {
        match self.object {
            RouteObject::Http(_) => Some(RuleKind::Http),
            RouteObject::Grpc(_) => Some(RuleKind::Grpc),
            _ => None,
        }
    }

    /// The listeners that would take the route, each once, with the hostnames that it would serve there.
    pub(crate) fn bindings(&self) -> BTreeMap<&ListenerId, &Hostnames> {
        let taken = self.attachments.iter().filter_map(|attachment| attachment.result.as_ref().ok());
        taken.flatten().map(|binding| (&binding.listener, &binding.hostnames)).collect()
    }

    /// The route's entry for one parentRef. `rival` names the route of the other kind that holds a hostname
    /// on a listener, if one does.
    fn verdicts(
        &self,
        attachment: &Attachment,
        rival: &impl Fn(&ListenerId) -> Option<Arc<str>>,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(3);
        let accepted = match (self.accepted(attachment, rival), self.invalid.first()) {
            (Err(refusal), _) => no(condition::ACCEPTED, refusal.reason, refusal.message),
            (Ok(()), Some(first)) if self.is_refused => {
                no(condition::ACCEPTED, first.reason, self.invalid_rules())
            }
            (Ok(()), _) => yes(condition::ACCEPTED, "Accepted", "the route is accepted"),
        };
        let is_accepted = accepted.holds;
        verdicts.push(accepted);
        verdicts.push(match self.faults.first() {
            Some(first) => {
                let all: Vec<_> = self.faults.iter().map(ToString::to_string).collect();
                no(RESOLVED_REFS, first.reason, all.join("; "))
            }
            None => yes(RESOLVED_REFS, "ResolvedRefs", "all references are resolved"),
        });
        if is_accepted && !self.invalid.is_empty() {
            let message = format!("Dropped Rule: {}", self.invalid_rules());
            verdicts.push(yes(PARTIALLY_INVALID, "UnsupportedValue", message));
        }
        if !self.ignored.is_empty() {
            verdicts.push(ignored_fields(&self.ignored));
        }
        verdicts
    }

    /// Whether a parent takes the route, and keeps it.
    pub(crate) fn accepted(
        &self,
        attachment: &Attachment,
        rival: &impl Fn(&ListenerId) -> Option<Arc<str>>,
    ) -> Result<(), Refusal> {
        let bindings = attachment.result.as_ref().map_err(Clone::clone)?;
        let mut rivals = Vec::new();
        for binding in bindings {
            match rival(&binding.listener) {
                None => return Ok(()),
                Some(name) => rivals.push(format!("{name} on listener {}", binding.listener.name)),
            }
        }
        Err(Refusal {
            reason: "HostnameConflict",
            message: format!(
                "an older route of the other kind (HTTPRoute or GRPCRoute) serves the same hostname: {}",
                rivals.join(", ")
            ),
        })
    }

    fn invalid_rules(&self) -> String {
        let each = self.invalid.iter().map(|rule| {
            let answer = if rule.answers { " (the rule answers 500)" } else { "" };
            format!("{}: {}{answer}", rule.path, rule.message)
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// The route's status: the entries of other controllers where they are, Portway's in their places, and
    /// new ones after them. `None` where there is nothing to say and nothing to take back.
    pub(crate) fn status(
        &self,
        options: &Options,
        said: Option<&RouteStatus>,
        rival: impl Fn(&ListenerId) -> Option<Arc<str>>,
    ) -> Option<RouteStatus> {
        let own = |entry: &&RouteParentStatus| entry.controller_name == options.controller_name;
        let past = Past { said, object: self.object.status() };
        let references = self.object.parent_refs();
        let mut entries: Vec<_> = self
            .attachments
            .iter()
            .filter_map(|attachment| {
                let reference = references.get(attachment.index)?;
                let history = History::of(past, |status| {
                    let known =
                        status.parents.iter().filter(own).find(|entry| entry.parent_ref == *reference)?;
                    Some(&known.conditions)
                });
                let generation = self.object.metadata().generation;
                let verdicts = self.verdicts(attachment, &rival);
                Some(RouteParentStatus {
                    conditions: condition::dated(&verdicts, generation, options.now, history),
                    controller_name: options.controller_name.clone(),
                    parent_ref: reference.clone(),
                })
            })
            .collect();
        let existing = self.object.status().map(|status| status.parents.as_slice()).unwrap_or_default();
        let mut parents = Vec::with_capacity(entries.len() + existing.len());
        for entry in existing {
            if !own(&entry) {
                parents.push(entry.clone());
            } else if let Some(at) = entries.iter().position(|new| new.parent_ref == entry.parent_ref) {
                parents.push(entries.remove(at));
            }
        }
        parents.append(&mut entries);
        (!parents.is_empty() || !existing.is_empty()).then_some(RouteStatus { parents })
    }
}
