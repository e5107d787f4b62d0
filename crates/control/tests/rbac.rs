//! What the controller may do in the cluster: these rules, and no others (`deploy/manifests/portway.yaml`).

use std::collections::BTreeSet;

use serde_json::Value;

const MANIFESTS: &str = include_str!("../../../deploy/manifests/portway.yaml");

/// What is read only as it changes.
const WATCH: &[&str] = &["list", "watch"];
const READ: &[&str] = &["get", "list", "watch"];
/// Server-side apply is `patch`, and `create` for what is not there yet.
const OWN: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];

/// Role, API group, resources, verbs.
const ALLOWED: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "ClusterRole",
        "gateway.networking.k8s.io",
        &[
            "gatewayclasses",
            "gateways",
            "listenersets",
            "httproutes",
            "grpcroutes",
            "tlsroutes",
            "tcproutes",
            "udproutes",
            "backendtlspolicies",
        ],
        READ,
    ),
    ("ClusterRole", "gateway.networking.x-k8s.io", &["xbackends"], READ),
    ("ClusterRole", "gateway.networking.k8s.io", &["referencegrants"], WATCH),
    ("ClusterRole", "portway.dev", &["gatewayparameters"], WATCH),
    (
        "ClusterRole",
        "gateway.networking.k8s.io",
        &[
            "gatewayclasses/status",
            "gateways/status",
            "listenersets/status",
            "httproutes/status",
            "grpcroutes/status",
            "tlsroutes/status",
            "tcproutes/status",
            "udproutes/status",
            "backendtlspolicies/status",
        ],
        &["patch"],
    ),
    ("ClusterRole", "gateway.networking.x-k8s.io", &["xbackends/status"], &["patch"]),
    ("ClusterRole", "", &["secrets"], READ),
    ("ClusterRole", "", &["namespaces", "pods"], WATCH),
    ("ClusterRole", "discovery.k8s.io", &["endpointslices"], WATCH),
    ("ClusterRole", "certificates.k8s.io", &["clustertrustbundles"], WATCH),
    ("ClusterRole", "apiextensions.k8s.io", &["customresourcedefinitions"], WATCH),
    ("ClusterRole", "", &["services", "serviceaccounts", "configmaps"], OWN),
    ("ClusterRole", "apps", &["deployments", "daemonsets"], OWN),
    ("ClusterRole", "autoscaling", &["horizontalpodautoscalers"], OWN),
    ("ClusterRole", "policy", &["poddisruptionbudgets"], OWN),
    ("ClusterRole", "authentication.k8s.io", &["tokenreviews"], &["create"]),
    ("Role", "coordination.k8s.io", &["leases"], &["create", "get", "update"]),
    ("Role", "", &["secrets"], &["create"]),
    // With the name of the one Secret.
    ("Role", "", &["secrets"], &["get", "update"]),
];

/// One permission: role, names, group, resource, verb.
type Grant = (String, Vec<String>, String, String, String);

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_rendered_rules_are_those_that_are_listed() {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(MANIFESTS, serde_saphyr::options! { budget: None }).unwrap();
    let mut granted = BTreeSet::<Grant>::new();
    for document in &documents {
        let kind = document["kind"].as_str().unwrap_or_default();
        for rule in document["rules"].as_array().into_iter().flatten() {
            assert!(rule.get("nonResourceURLs").is_none(), "{rule}");
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let names = texts(&rule["resourceNames"]);
                        granted.insert((kind.to_owned(), names, group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    let mut allowed = BTreeSet::<Grant>::new();
    for (role, group, resources, verbs) in ALLOWED {
        for resource in *resources {
            for verb in *verbs {
                let is_named = (*role, *resource) == ("Role", "secrets") && *verb != "create";
                let names = if is_named { vec!["portway-authority".to_owned()] } else { Vec::new() };
                let [role, group, resource, verb] = [*role, *group, *resource, *verb].map(str::to_owned);
                allowed.insert((role, names, group, resource, verb));
            }
        }
    }
    let surplus: Vec<_> = granted.difference(&allowed).collect();
    let missing: Vec<_> = allowed.difference(&granted).collect();
    assert!(surplus.is_empty(), "granted and not listed: {surplus:?}");
    assert!(missing.is_empty(), "listed and not granted: {missing:?}");
}

#[test]
fn no_pod_of_ours_has_privileges() {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(MANIFESTS, serde_saphyr::options! { budget: None }).unwrap();
    let controller = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let pod = &controller["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    }
}
