//! Which listeners a route attaches to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::gateway::ParentReference;
use portway_api::object::{KindId, ObjectKey};
use portway_plan::HostPattern;
use portway_store::Resources;

use crate::backend::Dependency;
use crate::grants::GATEWAY_GROUP;
use crate::listener::{ListenerId, Namespaces, Protocol};
use crate::selector;

/// What a route sees of a Gateway or ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentView {
    pub(crate) listeners: Vec<ListenerView>,
    /// Why a ListenerSet is no part of its Gateway.
    pub(crate) refused: Option<String>,
}

/// What a route sees of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerView {
    pub(crate) id: ListenerId,
    pub(crate) port: u16,
    /// [`HostPattern::Any`] where the protocol knows no hostnames.
    pub(crate) hostname: HostPattern,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) kinds: Vec<KindId>,
    pub(crate) namespaces: Namespaces,
}

/// What became of one of a route's parentRefs, for a parent that is Portway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Which of the parentRefs.
    pub(crate) index: usize,
    pub(crate) parent: ObjectKey,
    pub(crate) result: Result<Box<[Binding]>, Refusal>,
}

/// A route on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) listener: ListenerId,
    /// The intersections of the listener's hostname with the route's, each with the most specific of the
    /// route's hostnames that make it.
    pub(crate) hostnames: Hostnames,
}

/// Hostnames that a route serves on a listener, each with the route's own; in order.
pub(crate) type Hostnames = Box<[(HostPattern, HostPattern)]>;

/// Why a parent does not take a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The parts of a route that matter to attachment.
pub(crate) struct Candidate<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) parent_refs: &'a [ParentReference],
    /// [`HostPattern::Any`] alone for a route without hostnames; never that for want of valid ones.
    pub(crate) hostnames: Vec<HostPattern>,
}

/// The key of the Gateway or ListenerSet that a parentRef names; `None` for other kinds.
pub(crate) fn parent_key(reference: &ParentReference, namespace: &str) -> Option<ObjectKey> {
    let group = reference.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = match reference.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => KindId::Gateway,
        "ListenerSet" => KindId::ListenerSet,
        _ => return None,
    };
    let given = reference.namespace.as_deref().filter(|given| !given.is_empty());
    (group == GATEWAY_GROUP).then(|| ObjectKey::new(kind, given.unwrap_or(namespace), &reference.name))
}

/// Attaches a route to those of its parents that are Portway's, and notes what that depends on.
pub(crate) fn attach(
    route: &Candidate<'_>,
    parents: &BTreeMap<ObjectKey, Arc<ParentView>>,
    resources: &Resources,
    dependencies: &mut BTreeSet<Dependency>,
) -> Vec<Attachment> {
    let mut attachments = Vec::with_capacity(route.parent_refs.len());
    for (index, reference) in route.parent_refs.iter().enumerate() {
        let Some(parent) = parent_key(reference, &route.key.namespace) else { continue };
        dependencies.insert(Dependency::Parent(parent.clone()));
        let Some(view) = parents.get(&parent) else { continue };
        let result = to_parent(route, reference, &parent, view, resources, dependencies);
        attachments.push(Attachment { index, parent, result });
    }
    attachments
}

fn to_parent(
    route: &Candidate<'_>,
    reference: &ParentReference,
    parent: &ObjectKey,
    view: &ParentView,
    resources: &Resources,
    dependencies: &mut BTreeSet<Dependency>,
) -> Result<Box<[Binding]>, Refusal> {
    if let Some(why) = &view.refused {
        let message = format!("{parent} is not part of its Gateway: {why}");
        return Err(Refusal { reason: "NoMatchingParent", message });
    }
    let section = reference.section_name.as_deref().filter(|name| !name.is_empty());
    let named = view.listeners.iter().filter(|listener| {
        section.is_none_or(|name| *listener.id.name == *name)
            && reference.port.is_none_or(|port| i32::from(listener.port) == port)
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return Err(no_such_listener(section, reference.port, parent, view));
    }
    let allowing = named.iter().filter(|listener| {
        listener.kinds.contains(&route.key.kind)
            && match &listener.namespaces {
                Namespaces::All => true,
                Namespaces::None => false,
                Namespaces::Same => route.key.namespace == parent.namespace,
                Namespaces::Selector(labels) => {
                    dependencies.insert(Dependency::Namespace(Arc::clone(&route.key.namespace)));
                    selector::selects(labels, resources.namespace_labels(&route.key.namespace))
                }
            }
    });
    let allowing: Vec<_> = allowing.collect();
    if allowing.is_empty() {
        return Err(not_allowed(route.key, parent, &named));
    }
    let bindings = allowing.iter().filter_map(|listener| {
        let hostnames = intersections(&listener.hostname, &route.hostnames);
        (!hostnames.is_empty()).then(|| Binding { listener: listener.id.clone(), hostnames })
    });
    let bindings: Box<[_]> = bindings.collect();
    if bindings.is_empty() {
        let theirs: Vec<_> = allowing.iter().map(|listener| listener.hostname.to_string()).collect();
        let own: Vec<_> = route.hostnames.iter().map(ToString::to_string).collect();
        return Err(Refusal {
            reason: "NoMatchingListenerHostname",
            message: format!(
                "no hostname of the route ({}) is one of {parent}'s listeners ({})",
                own.join(", "),
                theirs.join(", ")
            ),
        });
    }
    Ok(bindings)
}

/// The hostnames that a route serves on a listener.
fn intersections(listener: &HostPattern, route: &[HostPattern]) -> Hostnames {
    let mut found: BTreeMap<HostPattern, HostPattern> = BTreeMap::new();
    for hostname in route {
        if let Some(both) = listener.intersect(hostname) {
            let known = found.entry(both).or_insert_with(|| hostname.clone());
            if *known < *hostname {
                *known = hostname.clone();
            }
        }
    }
    found.into_iter().collect()
}

fn no_such_listener(
    section: Option<&str>,
    port: Option<i32>,
    parent: &ObjectKey,
    view: &ParentView,
) -> Refusal {
    let mut asked = Vec::new();
    asked.extend(section.map(|name| format!("named {name:?}")));
    asked.extend(port.map(|port| format!("on port {port}")));
    let known: Vec<_> =
        view.listeners.iter().map(|listener| format!("{} ({})", listener.id.name, listener.port)).collect();
    Refusal {
        reason: "NoMatchingParent",
        message: format!(
            "{parent} has no listener {}; its listeners: {}",
            asked.join(" "),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        ),
    }
}

fn not_allowed(route: &ObjectKey, parent: &ObjectKey, listeners: &[&ListenerView]) -> Refusal {
    let reasons: Vec<_> = listeners
        .iter()
        .map(|listener| {
            if listener.protocol.is_none() {
                return format!("listener {} has a protocol that is not supported", listener.id.name);
            }
            let kinds: Vec<_> = listener.kinds.iter().map(|kind| kind.as_str()).collect();
            let kinds =
                if kinds.is_empty() { "no routes".to_owned() } else { format!("{}s", kinds.join("s and ")) };
            let from = listener.namespaces.describe(&parent.namespace);
            format!("listener {} takes {kinds} from {from}", listener.id.name)
        })
        .collect();
    let field =
        if listeners.iter().any(|listener| listener.protocol.is_some()) { " (allowedRoutes)" } else { "" };
    Refusal {
        reason: "NotAllowedByListeners",
        message: format!(
            "{parent} takes no {} from namespace {} here: {}{field}",
            route.kind,
            route.namespace,
            reasons.join("; ")
        ),
    }
}
