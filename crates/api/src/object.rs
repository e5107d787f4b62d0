//! What all objects have in common: metadata, kinds and names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{core, gateway, portway};

/// An object of the API: its metadata, what its owner wants, and what its controllers say about it.
///
/// `()` as the status is for kinds that have none or whose status Portway does not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(bound(deserialize = "Spec: Deserialize<'de>, Status: Deserialize<'de>"))]
pub struct Object<Spec, Status = ()> {
    /// Name, namespace, labels and the like.
    #[serde(default)]
    pub metadata: Metadata,
    /// What the owner wants.
    pub spec: Spec,
    /// What the controllers say.
    #[serde(default = "none")]
    pub status: Option<Status>,
}

fn none<T>() -> Option<T> {
    None
}

impl<Spec: Serialize, Status: Serialize> Serialize for Object<Spec, Status>
where
    Self: Kind,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct(Self::INFO.kind, 5)?;
        out.serialize_field("apiVersion", &Self::INFO.api_version())?;
        out.serialize_field("kind", Self::INFO.kind)?;
        out.serialize_field("metadata", &self.metadata)?;
        out.serialize_field("spec", &self.spec)?;
        match &self.status {
            Some(status) => out.serialize_field("status", status)?,
            None => out.skip_field("status")?,
        }
        out.end()
    }
}

impl<Spec, Status> Object<Spec, Status>
where
    Self: Kind,
{
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        let namespace = if Self::INFO.namespaced { self.metadata.namespace.as_str() } else { "" };
        ObjectKey::new(Self::ID, namespace, &self.metadata.name)
    }
}

/// The part of an object's metadata that Portway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The name, unique for its kind within the namespace.
    pub name: String,
    /// The namespace; empty for cluster-scoped kinds.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels, by which selectors find the object.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations: notes that selectors do not see.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Counts the changes of the spec, from 1; 0 if unknown.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the object came to be; the older one wins where routes or listeners are equal otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// Tells an object from a later one of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Box<str>>,
    /// Set once the object's deletion has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// Which state of the object this is, for writes that must not overwrite a later one.
    #[serde(skip_serializing_if = "ResourceVersion::is_unknown")]
    pub resource_version: ResourceVersion,
}

/// What the API server calls one state of an object; opaque.
///
/// It says nothing of the object itself, so objects are equal whatever their versions: two values of this type
/// always are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceVersion(pub Option<Box<str>>);

impl ResourceVersion {
    fn is_unknown(&self) -> bool {
        self.0.is_none()
    }
}

impl PartialEq for ResourceVersion {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ResourceVersion {}

/// Reads `null` as absent, as the API server does (`labels:` with nothing after it).
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A point in time, written as RFC 3339 (`metav1.Time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub OffsetDateTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map(Time).map_err(serde::de::Error::custom)
    }
}

/// What the API server knows about a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The served versions; the types are of the first.
    pub versions: &'static [&'static str],
    /// The name of the kind, `HTTPRoute`.
    pub kind: &'static str,
    /// The name of the kind in URLs and on command lines, `httproutes`.
    pub plural: &'static str,
    /// Short names for command lines, `gtw`.
    pub short_names: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl KindInfo {
    /// The `apiVersion` that the types are of: `gateway.networking.k8s.io/v1`, `v1`.
    pub fn api_version(&self) -> String {
        let version = self.versions.first().copied().unwrap_or_default();
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }
}

/// A kind of object, as a Rust type.
pub trait Kind: Sized {
    /// Which kind it is.
    const ID: KindId;
    /// What the API server knows about it.
    const INFO: KindInfo;

    /// Reads an object from its JSON form.
    ///
    /// # Errors
    /// Where a field is missing or of the wrong type.
    fn from_value(value: serde_json::Value) -> Result<Self, serde_json::Error>;
}

macro_rules! kinds {
    ($($module:ident :: $kind:ident,)+) => {
        /// The kinds that Portway reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum KindId {
            $(#[doc = concat!("[`", stringify!($kind), "`](", stringify!($module), "::", stringify!($kind), ").")] $kind,)+
        }

        impl KindId {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// What the API server knows about the kind.
            pub const fn info(self) -> &'static KindInfo {
                match self {
                    $(Self::$kind => const { &<$module::$kind as Kind>::INFO },)+
                }
            }
        }
    };
}

kinds! {
    core::Namespace,
    gateway::GatewayClass,
    gateway::Gateway,
    gateway::ListenerSet,
    gateway::HTTPRoute,
    gateway::GRPCRoute,
    gateway::TLSRoute,
    gateway::TCPRoute,
    gateway::UDPRoute,
    gateway::ReferenceGrant,
    gateway::BackendTLSPolicy,
    gateway::XBackend,
    gateway::XBackendTrafficPolicy,
    gateway::XMesh,
    gateway::XTelemetryPolicy,
    portway::GatewayParameters,
    core::Service,
    core::EndpointSlice,
    core::Pod,
    core::Secret,
    core::ConfigMap,
    core::ClusterTrustBundle,
}

impl KindId {
    /// The kind of a `group` (empty for the core group) by its `kind` name.
    pub fn find(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.info().kind == kind && id.info().group == group)
    }

    /// The kind that a user names on a command line: `httproutes`, `HTTPRoute`, `gtw`.
    pub fn from_word(word: &str) -> Option<Self> {
        let matches = |name: &str| name.eq_ignore_ascii_case(word);
        Self::ALL.iter().copied().find(|id| {
            let info = id.info();
            matches(info.kind) || matches(info.plural) || info.short_names.iter().any(|name| matches(name))
        })
    }

    /// The name of the kind, `HTTPRoute`.
    pub fn as_str(self) -> &'static str {
        self.info().kind
    }
}

impl fmt::Display for KindId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object, and displays as `HTTPRoute store/cart`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind.
    pub kind: KindId,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of the object `name` in `namespace` (empty for cluster-scoped kinds).
    pub fn new(kind: KindId, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::{HTTPRoute, PathMatchType};

    #[test]
    fn a_route_is_read_and_written() {
        let value = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "cart", "namespace": "store", "labels": null, "creationTimestamp": "2026-11-22T10:00:00Z"},
            "spec": {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}, {"path": {"type": "Newer"}}]}]}
        });
        let route = HTTPRoute::from_value(value.clone()).unwrap();
        assert_eq!(route.key().to_string(), "HTTPRoute store/cart");
        let types: Vec<_> = route.spec.rules[0]
            .matches
            .iter()
            .filter_map(|matches| matches.path.as_ref()?.type_.clone())
            .collect();
        assert_eq!(types, [PathMatchType::PathPrefix, PathMatchType::Other("Newer".into())]);
        let mut expected = value;
        expected["metadata"].as_object_mut().unwrap().remove("labels");
        assert_eq!(serde_json::to_value(&route).unwrap(), expected);
    }

    #[test]
    fn kinds_are_found_by_what_users_call_them() {
        assert_eq!(KindId::find("gateway.networking.k8s.io", "Gateway"), Some(KindId::Gateway));
        assert_eq!(KindId::find("", "Gateway"), None);
        assert_eq!(KindId::from_word("httproutes"), Some(KindId::HTTPRoute));
        assert_eq!(KindId::from_word("svc"), Some(KindId::Service));
        assert_eq!(KindId::from_word("gtw"), Some(KindId::Gateway));
    }
}
