//! Objects as the API server sends them, and what is kept of them.

use std::borrow::Cow;
use std::fmt;

use kube::api::{ApiResource, ObjectMeta, Resource};
use kube::core::DynamicResourceScope;
use portway_api::core::SERVICE_NAME_LABEL;
use portway_api::object::{KindId, Metadata, ObjectKey, ResourceVersion};
use portway_store::AnyObject;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The prefix of the annotations that Portway reads.
const OURS: &str = "portway.dev/";

/// Any object, as JSON. Only for the way from the wire to [`read`].
#[derive(Clone)]
pub(super) struct Raw {
    /// Name, namespace and version; the rest stays in `value`.
    meta: ObjectMeta,
    value: Value,
}

impl fmt::Debug for Raw {
    /// Names it: it may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Raw {
    /// The object's key.
    pub(super) fn key(&self, kind: KindId) -> ObjectKey {
        key(kind, &self.meta)
    }
}

/// The key of an object with this metadata.
pub(super) fn key(kind: KindId, meta: &ObjectMeta) -> ObjectKey {
    let namespace = meta.namespace.as_deref().filter(|_| kind.info().namespaced);
    ObjectKey::new(kind, namespace.unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let mut text = |field: &str| match value.get_mut("metadata").and_then(|meta| meta.get_mut(field)) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        // By far the largest part of many objects, and nobody's business.
        if let Some(fields) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            fields.remove("managedFields");
        }
        Ok(Self { meta, value })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// The version in which the API server has the kinds that every cluster has.
pub(super) fn version(kind: KindId) -> &'static str {
    kind.info().versions.first().copied().unwrap_or_default()
}

/// Where the API server has the objects of a kind.
pub(crate) fn resource(kind: KindId, version: &str) -> ApiResource {
    let info = kind.info();
    let group = info.group;
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        kind: info.kind.to_owned(),
        plural: info.plural.to_owned(),
    }
}

/// What is kept of an object.
///
/// # Errors
/// Where a field is missing or of the wrong type: the CRD that the cluster has is not one that Portway knows. The
/// error does not quote the object.
pub(super) fn read(kind: KindId, raw: Raw) -> Result<AnyObject, serde_json::Error> {
    AnyObject::read(kind, raw.value, None, |metadata| prune(kind, metadata))
}

/// Drops the metadata that nothing reads.
fn prune(kind: KindId, metadata: &mut Metadata) {
    metadata.annotations.retain(|name, _| name.starts_with(OURS));
    match kind {
        // Selectors see the labels of namespaces and pods.
        KindId::Namespace | KindId::Pod => {}
        KindId::EndpointSlice => {
            metadata.labels.retain(|name, _| name == SERVICE_NAME_LABEL);
        }
        _ => metadata.labels.clear(),
    }
    if matches!(
        kind,
        KindId::Namespace
            | KindId::Service
            | KindId::EndpointSlice
            | KindId::Pod
            | KindId::Secret
            | KindId::ConfigMap
            | KindId::ClusterTrustBundle
    ) {
        // Nothing is written to them.
        metadata.uid = None;
        metadata.creation_timestamp = None;
        metadata.resource_version = ResourceVersion::default();
    }
    if kind == KindId::Pod {
        // It is in what is read of the pod.
        metadata.deletion_timestamp = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(kind: KindId, value: Value) -> AnyObject {
        read(kind, serde_json::from_value(value).unwrap()).unwrap()
    }

    #[test]
    fn what_nothing_reads_is_dropped() {
        let slice = read_json(
            KindId::EndpointSlice,
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
                "metadata": {
                    "name": "cart-1", "namespace": "store", "uid": "u", "resourceVersion": "7",
                    "labels": {
                        "kubernetes.io/service-name": "cart", "app": "cart",
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-23T05:00:00Z"},
                    "managedFields": [{"manager": "kube-controller-manager"}],
                },
            }),
        );
        let metadata = slice.metadata();
        assert_eq!(slice.key().to_string(), "EndpointSlice store/cart-1");
        assert_eq!(metadata.labels.keys().collect::<Vec<_>>(), ["kubernetes.io/service-name"], "the Service");
        assert!(metadata.annotations.is_empty() && metadata.uid.is_none());

        let service = read_json(
            KindId::Service,
            json!({"metadata": {"name": "cart", "namespace": "store", "labels": {"app": "cart"},
                "annotations": {"portway.dev/a": "1", "meta.helm.sh/release-name": "store"}}}),
        );
        assert!(service.metadata().labels.is_empty());
        assert_eq!(service.metadata().annotations.keys().collect::<Vec<_>>(), ["portway.dev/a"]);
    }

    #[test]
    fn a_secret_is_not_printed_on_its_way() {
        let secret = json!({"metadata": {"name": "cart"}, "data": {"tls.key": "c2VjcmV0"}});
        let printed = format!("{:?}", serde_json::from_value::<Raw>(secret).unwrap());
        assert!(printed.contains("cart") && !printed.contains("c2VjcmV0"), "{printed}");
    }

    #[test]
    fn an_object_with_a_status_keeps_what_its_writer_needs() {
        let route = read_json(
            KindId::HTTPRoute,
            json!({
                "metadata": {"name": "cart", "namespace": "store", "resourceVersion": "12", "generation": 3},
                "spec": {},
                "status": {"parents": [{"controllerName": "example.com/other", "parentRef": {"name": "g"}, "conditions": []}]},
            }),
        );
        assert_eq!(route.metadata().resource_version.0.as_deref(), Some("12"));
        let AnyObject::HTTPRoute(route) = route else { panic!("{route:?}") };
        assert_eq!(route.status.as_ref().unwrap().parents[0].controller_name, "example.com/other");
    }
}
