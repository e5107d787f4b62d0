//! ListenerSets (GEP-1713).

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::gateway::{ListenerSet, ListenerSetStatus};
use portway_api::object::{KindId, ObjectKey};
use portway_store::{Resources, Stored};

use crate::Options;
use crate::condition::{self, Finding, History, PROGRAMMED, Past, Verdict, no, yes};
use crate::draft::object_ref;
use crate::grants::GATEWAY_GROUP;
use crate::listener::{self, ListenerNode, Namespaces};
use crate::survey::{GatewayNode, SetNode, Surveyor, seniority};
use crate::{gateway, selector};

/// All ListenerSets by the Gateway that they name, the most senior first.
pub(crate) fn by_gateway(resources: &Resources) -> BTreeMap<ObjectKey, Vec<&Arc<Stored<ListenerSet>>>> {
    let mut sets: BTreeMap<ObjectKey, Vec<_>> = BTreeMap::new();
    for set in resources.all::<ListenerSet>() {
        if let Some(gateway) = gateway_key(set) {
            sets.entry(gateway).or_default().push(set);
        }
    }
    for group in sets.values_mut() {
        group.sort_by_cached_key(|set| seniority(&set.metadata));
    }
    sets
}

/// The Gateway that a ListenerSet names, if it is one.
#[must_use]
pub fn gateway_key(set: &Stored<ListenerSet>) -> Option<ObjectKey> {
    let parent = &set.spec.parent_ref;
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if group != GATEWAY_GROUP || kind != "Gateway" {
        return None;
    }
    let namespace = parent.namespace.as_deref().filter(|given| !given.is_empty());
    Some(ObjectKey::new(KindId::Gateway, namespace.unwrap_or(&set.key.namespace), &parent.name))
}

/// Examines a set of a Gateway.
pub(crate) fn examine(
    set: &Arc<Stored<ListenerSet>>,
    gateway: &GatewayNode,
    surveyor: &mut Surveyor<'_>,
) -> SetNode {
    let parent = &gateway.object;
    let object = Arc::new(object_ref(&set.key));
    let frontend = parent.spec.tls.as_ref().and_then(|tls| tls.frontend.as_deref());
    let listeners = set.spec.listeners.iter().enumerate();
    let listeners = listeners
        .map(|(i, spec)| listener::examine(spec, &set.key, &object, i, frontend, surveyor))
        .collect();
    let allowed = parent.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let allowed = Namespaces::new(
        allowed.and_then(|allowed| allowed.from.as_ref()),
        allowed.and_then(|allowed| allowed.selector.as_deref()),
        Namespaces::None,
    );
    let is_allowed = match &allowed {
        Namespaces::All => true,
        Namespaces::None => false,
        Namespaces::Same => set.key.namespace == parent.key.namespace,
        Namespaces::Selector(labels) => {
            selector::selects(labels, surveyor.resources.namespace_labels(&set.key.namespace))
        }
    };
    let refused = if is_allowed {
        gateway.refused.as_ref().map(|_| {
            Finding::new(
                "spec.parentRef",
                "ParentNotAccepted",
                format!("{} is not accepted; see its conditions", parent.key),
            )
        })
    } else {
        Some(Finding::new(
            "spec.parentRef",
            "NotAllowed",
            format!(
                "{} takes ListenerSets from {} (spec.allowedListeners), and this one is in namespace {}",
                parent.key,
                allowed.describe(&parent.key.namespace),
                set.key.namespace
            ),
        ))
    };
    SetNode { object: Arc::clone(set), refused, listeners }
}

/// Whether the set counts as attached to its Gateway.
pub(crate) fn is_attached(set: &SetNode) -> bool {
    set.refused.is_none() && set.listeners.iter().any(is_sound)
}

fn is_sound(node: &ListenerNode) -> bool {
    node.is_valid() && node.is_usable()
}

fn verdicts(set: &SetNode, gateway: &GatewayNode) -> Vec<Verdict> {
    if let Some(finding) = &set.refused {
        let programmed = match finding.reason {
            "ParentNotAccepted" => "ParentNotProgrammed",
            reason => reason,
        };
        return vec![
            no(condition::ACCEPTED, finding.reason, finding.to_string()),
            no(PROGRAMMED, programmed, finding.to_string()),
        ];
    }
    let invalid: Vec<_> =
        set.listeners.iter().filter(|node| !is_sound(node)).map(|node| &*node.id.name).collect();
    let invalid = invalid.join(", ");
    let accepted = if !is_attached(set) {
        let message = format!("no listener is valid: {invalid}; see their conditions");
        no(condition::ACCEPTED, "ListenersNotValid", message)
    } else if !invalid.is_empty() {
        let message = format!("the set is accepted, but without {invalid}; see their conditions");
        yes(condition::ACCEPTED, "ListenersNotValid", message)
    } else {
        yes(condition::ACCEPTED, "Accepted", "the set is accepted")
    };
    let programmed = match gateway::obstacle(gateway) {
        Some(finding) => no(PROGRAMMED, "ParentNotProgrammed", finding.to_string()),
        None if set.listeners.iter().any(ListenerNode::is_programmed) => {
            yes(PROGRAMMED, "Programmed", "the set serves")
        }
        None => no(PROGRAMMED, "ListenersNotValid", "no listener serves; see their conditions"),
    };
    vec![accepted, programmed]
}

/// The status of a set. `attached` tells how many routes a listener has.
pub(crate) fn status(
    set: &SetNode,
    gateway: &GatewayNode,
    options: &Options,
    past: Past<'_, ListenerSetStatus>,
    attached: impl Fn(&ListenerNode) -> usize,
) -> ListenerSetStatus {
    let generation = set.object.metadata.generation;
    let date = |verdicts: &[Verdict], history| condition::dated(verdicts, generation, options.now, history);
    let history = History::of(past, |status| Some(&status.conditions));
    let conditions = date(&verdicts(set, gateway), history);
    // Of a set that may not attach, nothing is said listener by listener.
    let listeners = set.listeners.iter().filter(|_| set.refused.is_none()).map(|node| {
        let history = History::of(past, |status| {
            let known = status.listeners.iter().find(|known| known.name == *node.id.name)?;
            Some(&known.conditions)
        });
        node.status(attached(node), date(&node.verdicts(gateway::obstacle(gateway)), history))
    });
    ListenerSetStatus { conditions, listeners: listeners.collect() }
}
