//! The objects of a Gateway as they shall be.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::names::{Names, label};
use super::wanted::Wanted;
use super::{CONTROLLER, GATEWAY, GATEWAY_CLASS, GATEWAY_NAME, Settings, pod, service};

/// How many proxies there are where nobody says.
const REPLICAS: i32 = 2;
/// The CPU use, in percent, that an autoscaler holds where nobody says.
const CPU_UTILIZATION: i32 = 70;

/// The objects that a Gateway is to have, in the order in which they are applied; `authority` is the certificate
/// authority of the push server, as PEM.
///
/// They hold only the fields that are Portway's.
#[must_use]
pub fn desired(wanted: &Wanted, settings: &Settings, authority: &str) -> Vec<Value> {
    let names = wanted.names();
    let meta = |name: &str| metadata(wanted, &names, name, [&BTreeMap::new(), &BTreeMap::new()]);
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(&names.base),
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(&names.config),
            "data": {pod::AUTHORITY_FILE: authority},
        }),
    ];
    objects.extend(wanted.services().iter().map(|role| service::service(wanted, &names, role)));
    objects.push(workload(wanted, &names, settings));
    objects.extend(disruption_budget(wanted, &names));
    objects.extend(autoscaler(wanted, &names));
    for object in &mut objects {
        object["metadata"]["annotations"][CONTROLLER] = settings.controller_name.as_str().into();
    }
    objects
}

/// The labels by which the Gateway's own pods are found: never changed, as workloads cannot change theirs.
pub(super) fn selector(names: &Names) -> Map<String, Value> {
    let labels = [
        ("app.kubernetes.io/component", "proxy"),
        ("app.kubernetes.io/managed-by", "portway"),
        (GATEWAY_NAME, &*names.label),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Labels and annotations: `given` by the parameters, over them those of the Gateway, over them Portway's own.
pub(super) fn metadata(
    wanted: &Wanted,
    names: &Names,
    name: &str,
    given: [&BTreeMap<String, String>; 2],
) -> Value {
    let gateway = &wanted.gateway;
    let (labels, annotations) = labels(wanted, names, given);
    let mut owner = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": *gateway.key.name,
        "controller": true,
    });
    owner["uid"] = gateway.metadata.uid.as_deref().unwrap_or_default().into();
    json!({
        "name": name, "namespace": *gateway.key.namespace, "labels": labels, "annotations": annotations,
        "ownerReferences": [owner],
    })
}

/// Labels and annotations, of objects and pods.
pub(super) fn labels(
    wanted: &Wanted,
    names: &Names,
    [given_labels, given_annotations]: [&BTreeMap<String, String>; 2],
) -> (Map<String, Value>, Map<String, Value>) {
    let gateway = &wanted.gateway;
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let add = |to: &mut Map<String, Value>, map: &BTreeMap<String, String>| {
        to.extend(map.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
    };
    let (mut labels, mut annotations) = (Map::new(), Map::new());
    add(&mut labels, given_labels);
    add(&mut annotations, given_annotations);
    if let Some(infrastructure) = infrastructure {
        add(&mut labels, &infrastructure.labels);
        add(&mut annotations, &infrastructure.annotations);
    }
    labels.insert("app.kubernetes.io/name".to_owned(), "portway".into());
    labels.insert(GATEWAY_CLASS.to_owned(), label(&gateway.spec.gateway_class_name).into());
    labels.extend(selector(names));
    annotations.insert(GATEWAY.to_owned(), (*gateway.key.name).into());
    (labels, annotations)
}

fn workload(wanted: &Wanted, names: &Names, settings: &Settings) -> Value {
    let none = BTreeMap::new();
    let meta = metadata(wanted, names, &names.base, [&none, &none]);
    // One goes only when another is ready; but two pods cannot have one port of a node.
    let rolling = if wanted.host_ports() {
        json!({"maxUnavailable": 1, "maxSurge": 0})
    } else {
        json!({"maxUnavailable": 0, "maxSurge": 1})
    };
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
    let mut spec = json!({
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector(names)},
        "template": pod::template(wanted, names, settings),
    });
    if wanted.is_daemon_set() {
        spec["updateStrategy"] = strategy;
        return json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec});
    }
    spec["strategy"] = strategy;
    let workload = wanted.parameters.workload.as_ref();
    if workload.and_then(|workload| workload.autoscaling.as_ref()).is_none() {
        spec["replicas"] = workload.and_then(|workload| workload.replicas).unwrap_or(REPLICAS).into();
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
}

/// A DaemonSet's pods are not evicted when a node is drained; it has a budget only if asked for.
fn disruption_budget(wanted: &Wanted, names: &Names) -> Option<Value> {
    let asked = wanted.parameters.pod_disruption_budget.as_ref();
    if wanted.is_daemon_set() && asked.is_none() {
        return None;
    }
    let none = BTreeMap::new();
    let mut spec = json!({
        "selector": {"matchLabels": selector(names)},
        // Proxies that do not work keep no node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    });
    match asked {
        Some(budget) => {
            let bounds =
                [("minAvailable", &budget.min_available), ("maxUnavailable", &budget.max_unavailable)];
            for (name, value) in bounds {
                if let Some(value) = value {
                    spec[name] = value.clone();
                }
            }
        }
        None => spec["maxUnavailable"] = 1.into(),
    }
    let meta = metadata(wanted, names, &names.base, [&none, &none]);
    Some(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}))
}

fn autoscaler(wanted: &Wanted, names: &Names) -> Option<Value> {
    if wanted.is_daemon_set() {
        return None;
    }
    let asked = wanted.parameters.workload.as_ref()?.autoscaling.as_ref()?;
    let none = BTreeMap::new();
    let utilization = asked.target_cpu_utilization.unwrap_or(CPU_UTILIZATION);
    let target = json!({"type": "Utilization", "averageUtilization": utilization});
    Some(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(wanted, names, &names.base, [&none, &none]),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.base},
            "minReplicas": asked.min_replicas.unwrap_or(REPLICAS.min(asked.max_replicas)),
            "maxReplicas": asked.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }))
}
