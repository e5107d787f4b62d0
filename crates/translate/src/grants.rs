//! The one place that decides whether an object may refer to another across namespaces.

use portway_api::gateway::ReferenceGrant;
use portway_api::object::{KindId, ObjectKey};
use portway_store::Resources;

/// The group of all Gateway API kinds that refer to others.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// What a reference points to, resolved to full names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Whether `from` may refer to the target: within a namespace always, across namespaces when a
/// ReferenceGrant in the target's namespace says so.
///
/// # Errors
/// Why not, for people. The sentence is the same whether the target exists or not: who may not refer to an
/// object shall not learn about it.
pub(crate) fn permit(resources: &Resources, from: &ObjectKey, to: Target<'_>) -> Result<(), String> {
    if to.namespace == &*from.namespace || granted(resources, from.kind, &from.namespace, to) {
        return Ok(());
    }
    let Target { kind, namespace, name, .. } = to;
    Err(format!(
        "{kind} {namespace}/{name} is in another namespace, and no ReferenceGrant in namespace {namespace} \
         lets {from_kind}s of namespace {from_namespace} refer to it",
        from_kind = from.kind,
        from_namespace = from.namespace,
    ))
}

fn granted(resources: &Resources, kind: KindId, namespace: &str, to: Target<'_>) -> bool {
    resources.in_namespace::<ReferenceGrant>(to.namespace).any(|grant| {
        let from = grant.spec.from.iter().any(|from| {
            from.group == kind.info().group && from.kind == kind.as_str() && from.namespace == namespace
        });
        from && grant.spec.to.iter().any(|granted| {
            // An empty name is an absent one: the API server prunes neither.
            let named = granted.name.as_deref().filter(|name| !name.is_empty());
            granted.group == to.group && granted.kind == to.kind && named.is_none_or(|name| name == to.name)
        })
    })
}
