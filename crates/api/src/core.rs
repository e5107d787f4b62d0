//! The core kinds, cut down to what a gateway reads.
//!
//! k8s-openapi's types read them; what is kept is smaller by far, because a cluster has many more Services,
//! EndpointSlices and Secrets than Gateway API objects, and most of their fields are nothing to a gateway.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize as _;
use serde_json::Value;
use time::OffsetDateTime;

use crate::object::{Kind, KindId, KindInfo, Metadata, Object, ResourceVersion, Time};

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that every namespace has, its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace; what matters is its labels.
pub type Namespace = Object<NamespaceSpec>;
/// A named set of endpoints.
pub type Service = Object<ServiceSpec>;
/// Some of a Service's endpoints.
pub type EndpointSlice = Object<EndpointSliceSpec>;
/// Some containers that run together; what matters is where they answer.
pub type Pod = Object<PodSpec>;
/// Certificates and other secrets.
pub type Secret = Object<SecretSpec>;
/// Plain configuration, such as CA certificates.
pub type ConfigMap = Object<ConfigMapSpec>;
/// Certificate authorities for the whole cluster (KEP-3257).
pub type ClusterTrustBundle = Object<ClusterTrustBundleSpec>;

/// Nothing: a gateway reads only a namespace's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec {}

/// What a gateway reads of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `ClusterIP` unless given.
    pub type_: Option<String>,
    /// The ports.
    pub ports: Vec<ServicePort>,
    /// The cluster IPs, one per IP family; `None` for a headless Service.
    pub cluster_ips: Vec<String>,
    /// The DNS name that an `ExternalName` Service stands for.
    pub external_name: Option<String>,
    /// Whether endpoints that are not ready are used too.
    pub publish_not_ready_addresses: bool,
}

impl ServiceSpec {
    /// Whether the Service stands for a DNS name.
    pub fn is_external_name(&self) -> bool {
        self.type_.as_deref() == Some("ExternalName")
    }

    /// Whether the Service has endpoints only, and no address of its own.
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.iter().any(|ip| ip == "None")
    }
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// The name, by which EndpointSlices name the port too.
    pub name: Option<String>,
    /// The port that references name.
    pub port: i32,
    /// `TCP` unless given.
    pub protocol: Option<String>,
    /// What is spoken on it: `kubernetes.io/h2c`, `kubernetes.io/ws`, `https` and the like.
    pub app_protocol: Option<String>,
    /// The port of the pods.
    pub target_port: Option<TargetPort>,
}

/// The port of the pods that a Service's port stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A port's number.
    Number(i32),
    /// The name of a container's port.
    Name(String),
}

/// What a gateway reads of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSliceSpec {
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The ports that each of the endpoints has.
    pub ports: Vec<EndpointPort>,
}

/// One endpoint, usually a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The addresses, of which the first is used.
    pub addresses: Vec<String>,
    /// Whether it takes new requests; unknown counts as yes.
    pub ready: bool,
    /// Whether it answers, be it ready or terminating; unknown counts as `ready`.
    pub serving: bool,
    /// Whether it is shutting down.
    pub terminating: bool,
    /// The zone that it runs in.
    pub zone: Option<String>,
}

/// A port of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Option<String>,
    /// The number; absent means all ports.
    pub port: Option<i32>,
    /// `TCP` unless given.
    pub protocol: Option<String>,
    /// What is spoken on it.
    pub app_protocol: Option<String>,
}

/// What a gateway reads of a pod, which is in its status. Its labels are in its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// The first of its addresses, once it has one. None when it has ended.
    pub ip: Option<String>,
    /// Whether its containers say that they are ready.
    pub ready: bool,
    /// Whether it is shutting down.
    pub terminating: bool,
}

/// A Secret's type and contents; `stringData` is folded in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretSpec {
    /// `kubernetes.io/tls` and the like.
    pub type_: Option<String>,
    /// The contents, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for SecretSpec {
    /// Names what is there, and shows none of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSpec")
            .field("type_", &self.type_)
            .field("data", &self.data.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// A ConfigMap's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapSpec {
    /// Texts.
    pub data: BTreeMap<String, String>,
    /// Bytes.
    pub binary_data: BTreeMap<String, Vec<u8>>,
}

/// Certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterTrustBundleSpec {
    /// The signer whose certificates they verify, if it is one's.
    pub signer_name: Option<String>,
    /// PEM certificates.
    pub trust_bundle: String,
}

impl Kind for Namespace {
    const ID: KindId = KindId::Namespace;
    const INFO: KindInfo = KindInfo { namespaced: false, ..core_kind("Namespace", "namespaces", &["ns"]) };

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let namespace = core::Namespace::deserialize(value)?;
        Ok(object(namespace.metadata, NamespaceSpec {}))
    }
}

impl Kind for Service {
    const ID: KindId = KindId::Service;
    const INFO: KindInfo = core_kind("Service", "services", &["svc"]);

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let service = core::Service::deserialize(value)?;
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default().into_iter().map(|port| ServicePort {
            name: port.name,
            port: port.port,
            protocol: port.protocol,
            app_protocol: port.app_protocol,
            target_port: port.target_port.map(|target| match target {
                IntOrString::Int(number) => TargetPort::Number(number),
                IntOrString::String(name) => TargetPort::Name(name),
            }),
        });
        let spec = ServiceSpec {
            type_: spec.type_,
            ports: ports.collect(),
            cluster_ips: spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect()),
            external_name: spec.external_name,
            publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or(false),
        };
        Ok(object(service.metadata, spec))
    }
}

impl Kind for EndpointSlice {
    const ID: KindId = KindId::EndpointSlice;
    const INFO: KindInfo =
        KindInfo { group: "discovery.k8s.io", ..core_kind("EndpointSlice", "endpointslices", &[]) };

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let slice = discovery::EndpointSlice::deserialize(value)?;
        let endpoints = slice.endpoints.unwrap_or_default().into_iter().map(|endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            Endpoint {
                addresses: endpoint.addresses,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                zone: endpoint.zone,
            }
        });
        let ports = slice.ports.unwrap_or_default().into_iter().map(|port| EndpointPort {
            name: port.name,
            port: port.port,
            protocol: port.protocol,
            app_protocol: port.app_protocol,
        });
        let spec = EndpointSliceSpec {
            address_type: slice.address_type,
            endpoints: endpoints.collect(),
            ports: ports.collect(),
        };
        Ok(object(slice.metadata, spec))
    }
}

impl Kind for Pod {
    const ID: KindId = KindId::Pod;
    const INFO: KindInfo = core_kind("Pod", "pods", &["po"]);

    fn from_value(mut value: Value) -> Result<Self, serde_json::Error> {
        if let Some(fields) = value.as_object_mut() {
            // Large, and nothing to a gateway.
            fields.remove("spec");
        }
        let pod = core::Pod::deserialize(value)?;
        let status = pod.status.unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let first = status.pod_ips.unwrap_or_default().into_iter().next().map(|address| address.ip);
        let is_ready =
            |condition: &core::PodCondition| condition.type_ == "Ready" && condition.status == "True";
        let spec = PodSpec {
            ip: first.or(status.pod_ip).filter(|ip| !ip.is_empty() && !ended),
            ready: status.conditions.unwrap_or_default().iter().any(is_ready),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        };
        Ok(object(pod.metadata, spec))
    }
}

impl Kind for Secret {
    const ID: KindId = KindId::Secret;
    const INFO: KindInfo = core_kind("Secret", "secrets", &[]);

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let secret = core::Secret::deserialize(value)?;
        let mut data = bytes(secret.data);
        let strings = secret.string_data.unwrap_or_default();
        data.extend(strings.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Ok(object(secret.metadata, SecretSpec { type_: secret.type_, data }))
    }
}

impl Kind for ConfigMap {
    const ID: KindId = KindId::ConfigMap;
    const INFO: KindInfo = core_kind("ConfigMap", "configmaps", &["cm"]);

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let map = core::ConfigMap::deserialize(value)?;
        let spec = ConfigMapSpec { data: map.data.unwrap_or_default(), binary_data: bytes(map.binary_data) };
        Ok(object(map.metadata, spec))
    }
}

impl Kind for ClusterTrustBundle {
    const ID: KindId = KindId::ClusterTrustBundle;
    const INFO: KindInfo = KindInfo {
        group: "certificates.k8s.io",
        versions: &["v1", "v1beta1", "v1alpha1"],
        kind: "ClusterTrustBundle",
        plural: "clustertrustbundles",
        short_names: &[],
        namespaced: false,
    };

    fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let bundle = certificates::ClusterTrustBundle::deserialize(value)?;
        let spec = ClusterTrustBundleSpec {
            signer_name: bundle.spec.signer_name.filter(|name| !name.is_empty()),
            trust_bundle: bundle.spec.trust_bundle,
        };
        Ok(object(bundle.metadata, spec))
    }
}

const fn core_kind(
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
) -> KindInfo {
    KindInfo { group: "", versions: &["v1"], kind, plural, short_names, namespaced: true }
}

fn bytes(data: Option<BTreeMap<String, k8s_openapi::ByteString>>) -> BTreeMap<String, Vec<u8>> {
    data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
}

fn object<Spec>(metadata: ObjectMeta, spec: Spec) -> Object<Spec> {
    let metadata = Metadata {
        name: metadata.name.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        generation: metadata.generation.unwrap_or(0),
        creation_timestamp: metadata.creation_timestamp.and_then(|time| timestamp(&time)),
        uid: metadata.uid.map(String::into_boxed_str),
        deletion_timestamp: metadata.deletion_timestamp.and_then(|time| timestamp(&time)),
        resource_version: ResourceVersion(metadata.resource_version.map(String::into_boxed_str)),
    };
    Object { metadata, spec, status: None }
}

fn timestamp(time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> Option<Time> {
    OffsetDateTime::from_unix_timestamp(time.0.as_second()).ok().map(Time)
}
