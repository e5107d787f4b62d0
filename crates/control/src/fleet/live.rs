//! What there is in the cluster: the objects of Gateways, and their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use portway_api::object::{KindId, ObjectKey};
use serde_json::Value;

use super::{CONTROLLER, FIELD_MANAGER, GATEWAY, GATEWAY_NAME};

/// The kinds of objects that Gateways own, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum OwnedKind {
    ServiceAccount,
    ConfigMap,
    Service,
    Deployment,
    DaemonSet,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
}

impl OwnedKind {
    pub(super) const ALL: [Self; 7] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::Deployment,
        Self::DaemonSet,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
    ];

    /// Group, version, kind and plural.
    const fn parts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::DaemonSet => ("apps", "v1", "DaemonSet", "daemonsets"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::HorizontalPodAutoscaler => {
                ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            }
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        self.parts().2
    }

    pub(super) fn plural(self) -> &'static str {
        self.parts().3
    }

    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.parts();
        resource(group, version, kind, plural)
    }

    fn find(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

/// How the API server serves pods.
pub(super) fn pods() -> ApiResource {
    resource("", "v1", "Pod", "pods")
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) kind: OwnedKind,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Id {
    /// Of an object as it shall be.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let kind = OwnedKind::find(object["kind"].as_str()?)?;
        let meta = &object["metadata"];
        Some(Self {
            kind,
            namespace: meta["namespace"].as_str()?.into(),
            name: meta["name"].as_str()?.into(),
        })
    }

    /// Of an object as it is.
    pub(super) fn read(kind: OwnedKind, object: &DynamicObject) -> Self {
        let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
        Self { kind, namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// What matters of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Changes when anything does that Portway may want otherwise.
    pub(super) print: u64,
    /// Tells it from a later one of the same name.
    pub(super) uid: Option<String>,
    /// The uid of the controller that owns it.
    pub(super) owner: Option<String>,
    /// The name of the Gateway that it says to be of.
    pub(super) gateway: Option<String>,
    /// The name of the Portway controller that made it.
    pub(super) controller: Option<String>,
    /// The replicas of a Deployment, if it was Portway that set them.
    pub(super) replicas: Option<i64>,
    /// Of a Service: its addresses in the cluster.
    pub(super) cluster: Vec<IpAddr>,
    /// Of a Service: the addresses of its load balancer.
    pub(super) balancer: Vec<String>,
    /// Of a workload: why it cannot make pods.
    pub(super) failure: Option<String>,
}

impl Seen {
    /// Looks at an object as the API server has it.
    pub(super) fn of(object: &DynamicObject) -> Self {
        let meta = &object.metadata;
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let data = &object.data;
        Self {
            print: print(object),
            uid: meta.uid.clone(),
            owner: owner.map(|owner| owner.uid.clone()),
            gateway: gateway_name(object).map(str::to_owned),
            controller: meta.annotations.as_ref().and_then(|map| map.get(CONTROLLER)).cloned(),
            replicas: owned_replicas(object),
            cluster: texts(&data["spec"]["clusterIPs"]).filter_map(|ip| ip.parse().ok()).collect(),
            balancer: ingress(data),
            failure: failure(data),
        }
    }

    /// Whether it belongs to the Gateway with this uid: or to none any more, as after a deletion with
    /// `--cascade=orphan`.
    pub(super) fn is_of(&self, uid: Option<&str>) -> bool {
        match &self.owner {
            Some(owner) => Some(owner.as_str()) == uid,
            None => self.gateway.is_some(),
        }
    }
}

/// A pod of a Gateway's proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) gateway: ObjectKey,
    /// The workload that made it.
    pub(super) workload: Option<OwnedKind>,
    pub(super) uid: Arc<str>,
    /// On its way out, or at its end.
    pub(super) leaves: bool,
    pub(super) ready: bool,
    /// The addresses of its node.
    pub(super) hosts: Vec<IpAddr>,
    /// Why no node has it.
    pub(super) unscheduled: Option<String>,
}

impl PodSeen {
    pub(super) fn of(pod: &DynamicObject) -> Option<Self> {
        let meta = &pod.metadata;
        let status = &pod.data["status"];
        let condition = |type_: &str| {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().find(|condition| condition["type"] == type_).cloned()
        };
        let scheduled = condition("PodScheduled").filter(|condition| condition["status"] == "False");
        let ips = status["hostIPs"].as_array().into_iter().flatten();
        Some(Self {
            gateway: gateway(meta.namespace.as_deref()?, pod)?,
            workload: meta.owner_references.iter().flatten().find_map(|owner| match owner.kind.as_str() {
                "ReplicaSet" => Some(OwnedKind::Deployment),
                "DaemonSet" => Some(OwnedKind::DaemonSet),
                _ => None,
            }),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            leaves: meta.deletion_timestamp.is_some()
                || matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
            ready: condition("Ready").is_some_and(|condition| condition["status"] == "True"),
            hosts: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
            unscheduled: scheduled.map(|it| it["message"].as_str().unwrap_or_default().to_owned()),
        })
    }
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    pub(super) objects: BTreeMap<Id, Seen>,
    /// By namespace and name.
    pub(super) pods: BTreeMap<(Arc<str>, Arc<str>), PodSeen>,
    /// The kinds of which all that there is is in here; `None` for pods.
    listed: BTreeSet<Option<OwnedKind>>,
}

impl Live {
    /// Whether all kinds have been listed.
    pub(super) fn is_complete(&self) -> bool {
        self.listed.len() > OwnedKind::ALL.len()
    }

    /// An object came or changed; the Gateways of before and after.
    pub(super) fn put(&mut self, kind: Option<OwnedKind>, object: &DynamicObject) -> Vec<ObjectKey> {
        let mut of = Vec::with_capacity(2);
        match kind {
            Some(kind) => {
                let id = Id::read(kind, object);
                let seen = Seen::of(object);
                of.extend(key_of(&id, &seen));
                if let Some(before) = self.objects.insert(id.clone(), seen) {
                    of.extend(key_of(&id, &before));
                }
            }
            None => {
                let name = pod_name(object);
                let seen = PodSeen::of(object);
                of.extend(seen.iter().map(|pod| pod.gateway.clone()));
                let before = match seen {
                    Some(seen) => self.pods.insert(name, seen),
                    None => self.pods.remove(&name),
                };
                of.extend(before.map(|pod| pod.gateway));
            }
        }
        of
    }

    /// An object is gone.
    pub(super) fn take(&mut self, kind: Option<OwnedKind>, object: &DynamicObject) -> Vec<ObjectKey> {
        let of = match kind {
            Some(kind) => {
                let id = Id::read(kind, object);
                self.objects.remove(&id).and_then(|seen| key_of(&id, &seen))
            }
            None => self.pods.remove(&pod_name(object)).map(|pod| pod.gateway),
        };
        of.into_iter().collect()
    }

    /// A kind was listed, and these are all there are.
    pub(super) fn list(
        &mut self,
        kind: Option<OwnedKind>,
        names: &BTreeSet<(Arc<str>, Arc<str>)>,
    ) -> Vec<ObjectKey> {
        let mut of = Vec::new();
        match kind {
            Some(kind) => self.objects.retain(|id, seen| {
                let stays =
                    id.kind != kind || names.contains(&(Arc::clone(&id.namespace), Arc::clone(&id.name)));
                if !stays {
                    of.extend(key_of(id, seen));
                }
                stays
            }),
            None => self.pods.retain(|name, pod| {
                let stays = names.contains(name);
                if !stays {
                    of.push(pod.gateway.clone());
                }
                stays
            }),
        }
        self.listed.insert(kind);
        of
    }

    /// The objects that say to be of a Gateway.
    pub(super) fn of(&self, gateway: &ObjectKey) -> impl Iterator<Item = (&Id, &Seen)> {
        let ours = |seen: &Seen| seen.gateway.as_deref() == Some(&*gateway.name);
        OwnedKind::ALL.into_iter().flat_map(move |kind| {
            let first = Id { kind, namespace: Arc::clone(&gateway.namespace), name: Arc::from("") };
            self.objects
                .range(first..)
                .take_while(move |(id, _)| id.kind == kind && id.namespace == gateway.namespace)
                .filter(move |(_, seen)| ours(seen))
        })
    }

    /// The pods of a Gateway, by name.
    pub(super) fn pods_of(&self, gateway: &ObjectKey) -> impl Iterator<Item = (&Arc<str>, &PodSeen)> {
        self.pods
            .range((Arc::clone(&gateway.namespace), Arc::from(""))..)
            .take_while(move |((namespace, _), _)| *namespace == gateway.namespace)
            .filter(move |(_, pod)| pod.gateway == *gateway)
            .map(|((_, name), pod)| (name, pod))
    }
}

pub(super) fn pod_name(object: &DynamicObject) -> (Arc<str>, Arc<str>) {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (text(&object.metadata.namespace), text(&object.metadata.name))
}

fn key_of(id: &Id, seen: &Seen) -> Option<ObjectKey> {
    seen.gateway.as_deref().map(|name| ObjectKey::new(KindId::Gateway, &id.namespace, name))
}

fn gateway(namespace: &str, object: &DynamicObject) -> Option<ObjectKey> {
    gateway_name(object).map(|name| ObjectKey::new(KindId::Gateway, namespace, name))
}

/// The annotation has the whole name; the label, which may be cut, stands in where someone removed it.
fn gateway_name(object: &DynamicObject) -> Option<&str> {
    let meta = &object.metadata;
    let annotation = meta.annotations.as_ref().and_then(|map| map.get(GATEWAY));
    annotation.or_else(|| meta.labels.as_ref()?.get(GATEWAY_NAME)).map(String::as_str)
}

/// A hash of all but what others count, date and report.
fn print(object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &object.metadata;
    for labels in [&meta.labels, &meta.annotations] {
        for (name, value) in labels.iter().flatten() {
            // The Deployment's controller counts its revisions here.
            if !name.starts_with("deployment.kubernetes.io/") {
                (name, value).hash(&mut hasher);
            }
        }
        hasher.write_u8(0);
    }
    for owner in meta.owner_references.iter().flatten() {
        (&owner.uid, owner.controller).hash(&mut hasher);
    }
    meta.uid.hash(&mut hasher);
    for (name, value) in object.data.as_object().into_iter().flatten().filter(|(name, _)| *name != "status") {
        (name, value.to_string()).hash(&mut hasher);
    }
    hasher.finish()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn ingress(data: &Value) -> Vec<String> {
    let points = data["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    points
        .filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str()))
        .map(str::to_owned)
        .collect()
}

/// Why a Deployment has no pods: a quota, or an admission that refuses them.
fn failure(data: &Value) -> Option<String> {
    let conditions = data["status"]["conditions"].as_array().into_iter().flatten();
    let mut failures = conditions
        .filter(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True")
        .filter_map(|condition| condition["message"].as_str());
    failures.next().map(str::to_owned)
}

/// `spec.replicas`, if Portway's own field manager has it.
fn owned_replicas(object: &DynamicObject) -> Option<i64> {
    let owned = object.metadata.managed_fields.iter().flatten().any(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && fields.is_some_and(|fields| fields["f:spec"].get("f:replicas").is_some())
    });
    if owned { object.data["spec"]["replicas"].as_i64() } else { None }
}
