//! GatewayParameters: which ones a Gateway has, and what they come to.

use std::sync::Arc;

use portway_api::gateway::{Gateway, GatewayClass};
use portway_api::object::Kind as _;
use portway_api::portway::{GatewayParameters, GatewayParametersSpec, Workload, WorkloadKind};
use portway_store::{Resources, Stored};
use serde_json::{Map, Value};

use crate::condition::Finding;

const REASON: &str = "InvalidParameters";
const CLASS_PATH: &str = "spec.parametersRef";
const GATEWAY_PATH: &str = "spec.infrastructure.parametersRef";

/// What is given as a whole: of the class's there is nothing left where the Gateway says anything.
const WHOLE: [&str; 2] = ["podDisruptionBudget", "affinity"];

/// The parameters with which the proxies of a Gateway run: those that it names, and under them those of its class.
///
/// # Errors
/// Why they are not valid, as the Gateway's `Accepted` condition has it.
pub fn parameters(resources: &Resources, gateway: &Stored<Gateway>) -> Result<GatewayParametersSpec, String> {
    let class = resources.get::<GatewayClass>("", &gateway.spec.gateway_class_name);
    let of_class = match class {
        Some(class) => of_class(resources, class).map_err(|finding| finding.to_string())?,
        None => None,
    };
    of_gateway(resources, gateway, of_class).map_err(|finding| finding.to_string())
}

/// The parameters that a GatewayClass names.
pub(crate) fn of_class<'a>(
    resources: &'a Resources,
    class: &GatewayClass,
) -> Result<Option<&'a GatewayParametersSpec>, Finding> {
    let Some(reference) = class.spec.parameters_ref.as_deref() else { return Ok(None) };
    let Some(namespace) = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()) else {
        is_ours(&reference.group, &reference.kind, CLASS_PATH)?;
        let message = "GatewayParameters are in a namespace, which must be given";
        return Err(Finding::new(CLASS_PATH, REASON, message));
    };
    find(resources, (&reference.group, &reference.kind, namespace, &reference.name), CLASS_PATH).map(Some)
}

/// The parameters of a Gateway, whose class has those given.
pub(crate) fn of_gateway(
    resources: &Resources,
    gateway: &Stored<Gateway>,
    class: Option<&GatewayParametersSpec>,
) -> Result<GatewayParametersSpec, Finding> {
    let reference = gateway.spec.infrastructure.as_ref().and_then(|it| it.parameters_ref.as_ref());
    let Some(reference) = reference else { return Ok(class.cloned().unwrap_or_default()) };
    let target = (&*reference.group, &*reference.kind, &*gateway.key.namespace, &*reference.name);
    let own = find(resources, target, GATEWAY_PATH)?;
    let Some(class) = class else { return Ok(own.clone()) };
    merge(class, own).map_err(|message| Finding::new(GATEWAY_PATH, REASON, message))
}

fn is_ours(group: &str, kind: &str, path: &'static str) -> Result<(), Finding> {
    let known = GatewayParameters::INFO;
    if (group, kind) == (known.group, known.kind) {
        return Ok(());
    }
    let named = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let message = format!("{named} is no kind of parameters that Portway knows");
    Err(Finding::new(path, REASON, message))
}

fn find<'a>(
    resources: &'a Resources,
    (group, kind, namespace, name): (&str, &str, &str, &str),
    path: &'static str,
) -> Result<&'a GatewayParametersSpec, Finding> {
    is_ours(group, kind, path)?;
    let found: Option<&Arc<Stored<GatewayParameters>>> = resources.get(namespace, name);
    found.map(|stored| &stored.spec).ok_or_else(|| {
        Finding::new(path, REASON, format!("there is no GatewayParameters {namespace}/{name}"))
    })
}

/// `over` on `under`, field by field.
fn merge(
    under: &GatewayParametersSpec,
    over: &GatewayParametersSpec,
) -> Result<GatewayParametersSpec, String> {
    let mut under = under.clone();
    if let (Some(below), Some(above)) = (&mut under.workload, &over.workload) {
        give_way(below, above);
    }
    let [mut merged, over] = [&under, over].map(serde_json::to_value);
    if let (Ok(Value::Object(merged)), Ok(Value::Object(over))) = (&mut merged, over) {
        overlay(merged, over);
    }
    let merged: GatewayParametersSpec =
        merged.and_then(serde_json::from_value).map_err(|error| error.to_string())?;
    contradiction(&merged).map_or(Ok(merged), Err)
}

/// Takes away what would contradict `above`: who sets replicas does not want the class's autoscaler.
fn give_way(below: &mut Workload, above: &Workload) {
    let is_daemon_set = above.kind == Some(WorkloadKind::DaemonSet);
    if is_daemon_set || above.replicas.is_some() {
        below.autoscaling = None;
    }
    if is_daemon_set || above.autoscaling.is_some() {
        below.replicas = None;
    }
}

fn overlay(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Object(below)), Value::Object(above)) if !WHOLE.contains(&&*name) => {
                overlay(below, above);
            }
            (_, value) => {
                under.insert(name, value);
            }
        }
    }
}

/// What the CRD's rules forbid in one object, and what two together may still come to.
fn contradiction(spec: &GatewayParametersSpec) -> Option<String> {
    let with_class = "together with the parameters of the GatewayClass";
    if let Some(workload) = &spec.workload {
        let scaled = workload.replicas.is_some() || workload.autoscaling.is_some();
        if workload.kind == Some(WorkloadKind::DaemonSet) && scaled {
            return Some(format!(
                "{with_class}: workload: a DaemonSet has one proxy per node: neither replicas nor autoscaling"
            ));
        }
        let bounds = workload.autoscaling.as_ref().map(|it| (it.min_replicas, it.max_replicas));
        if let Some((Some(min), max)) = bounds
            && min > max
        {
            return Some(format!(
                "{with_class}: workload.autoscaling: minReplicas {min} exceeds maxReplicas {max}"
            ));
        }
    }
    let drain = spec.proxy.as_ref().and_then(|proxy| proxy.drain.as_ref());
    if let Some((Some(min), Some(max))) = drain.map(|it| (it.min_seconds, it.max_seconds))
        && min > max
    {
        return Some(format!("{with_class}: proxy.drain: minSeconds {min} exceeds maxSeconds {max}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(class: Value, gateway: Value) -> Result<Value, String> {
        let read = |value| serde_json::from_value(value).unwrap();
        merge(&read(class), &read(gateway)).map(|merged| serde_json::to_value(merged).unwrap())
    }

    #[test]
    fn the_gateway_s_fields_win_one_by_one() {
        let class = json!({
            "workload": {"autoscaling": {"minReplicas": 3, "maxReplicas": 9}},
            "proxy": {"workers": 2, "drain": {"minSeconds": 5, "maxSeconds": 30}},
            "pod": {
                "labels": {"team": "a", "tier": "edge"},
                "affinity": {"nodeAffinity": {}},
                "tolerations": [{"operator": "Exists"}],
            },
            "podDisruptionBudget": {"maxUnavailable": 1},
        });
        let gateway = json!({
            "workload": {"replicas": 4},
            "proxy": {"drain": {"maxSeconds": 60}},
            "pod": {"labels": {"team": "b"}, "affinity": {"podAffinity": {}}, "tolerations": [{"key": "x"}]},
            "podDisruptionBudget": {"minAvailable": "50%"},
        });
        let expected = json!({
            "workload": {"replicas": 4},
            "proxy": {"workers": 2, "drain": {"minSeconds": 5, "maxSeconds": 60}},
            "pod": {
                "labels": {"team": "b", "tier": "edge"},
                "affinity": {"podAffinity": {}},
                "tolerations": [{"key": "x"}],
            },
            "podDisruptionBudget": {"minAvailable": "50%"},
        });
        assert_eq!(merged(class, gateway).unwrap(), expected);
    }

    #[test]
    fn a_daemon_set_takes_the_class_s_replicas_away() {
        let merged = merged(json!({"workload": {"replicas": 4}}), json!({"workload": {"kind": "DaemonSet"}}));
        assert_eq!(merged.unwrap(), json!({"workload": {"kind": "DaemonSet"}}));
    }

    #[test]
    fn what_contradicts_only_together_is_told() {
        for (class, gateway, wanted) in [
            (
                json!({"workload": {"kind": "DaemonSet"}}),
                json!({"workload": {"replicas": 2}}),
                "a DaemonSet has one proxy per node",
            ),
            (
                json!({"workload": {"autoscaling": {"minReplicas": 5, "maxReplicas": 9}}}),
                json!({"workload": {"autoscaling": {"maxReplicas": 3}}}),
                "minReplicas 5 exceeds maxReplicas 3",
            ),
            (
                json!({"proxy": {"drain": {"minSeconds": 60}}}),
                json!({"proxy": {"drain": {"maxSeconds": 30}}}),
                "minSeconds 60 exceeds maxSeconds 30",
            ),
        ] {
            let error = merged(class, gateway).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
