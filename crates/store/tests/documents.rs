//! Documents in, objects and findings out.

use portway_api::core::{EndpointSlice, Namespace, Secret, Service};
use portway_api::gateway::{Gateway, HTTPRoute, PathMatchType};
use portway_api::object::{KindId, ObjectKey};
use portway_api::validate::Validator;
use portway_store::{Change, Changes, Loaded, Resources};

fn findings(text: &str) -> Vec<String> {
    Loaded::from_documents("f.yaml", text).diagnostics.iter().map(|found| found.one_line()).collect()
}

#[test]
fn objects_are_completed_as_the_api_server_does() {
    let resources = Resources::from_documents(
        "
apiVersion: v1
kind: Namespace
metadata: {name: store, labels: {team: store}}
---
apiVersion: v1
kind: Secret
metadata: {name: cert}
data: {a: eA==, b: eA==}
stringData: {b: text}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: {name: edge, namespace: infra, generation: 7, uid: x}
spec:
  gatewayClassName: portway
  listeners: [{name: http, port: 80, protocol: HTTP}]
status: nonsense
",
    )
    .unwrap();
    let namespace = resources.get::<Namespace>("", "store").unwrap();
    assert_eq!(namespace.metadata.labels["kubernetes.io/metadata.name"], "store");
    assert_eq!(resources.namespace_labels("store").get("team"), Some("store"));
    let undeclared = resources.namespace_labels("site");
    assert_eq!(undeclared.get("kubernetes.io/metadata.name"), Some("site"));
    assert_eq!(undeclared.get("team"), None);

    let secret = resources.get::<Secret>("default", "cert").unwrap();
    assert_eq!(secret.spec.data["a"], b"x");
    assert_eq!(secret.spec.data["b"], b"text", "stringData goes over data");
    assert!(!format!("{secret:?}").contains("text"), "what a Secret holds is never printed");

    let gateway = resources.get::<Gateway>("infra", "edge").unwrap();
    assert_eq!((gateway.metadata.generation, gateway.metadata.uid.as_deref()), (1, None));
    assert_eq!(gateway.status, None);
    assert_eq!(gateway.origin.as_ref().unwrap().to_string(), "documents.yaml:12:1");
}

#[test]
fn the_items_of_a_list_are_objects() {
    let resources = Resources::from_documents(
        "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: cart, namespace: store}
  spec: {ports: [{port: 80, targetPort: http}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: cart-2, namespace: store, labels: {kubernetes.io/service-name: cart}}
  addressType: IPv4
  endpoints: [{addresses: [10.0.0.2], conditions: {ready: false}}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: cart-1, namespace: store, labels: {kubernetes.io/service-name: cart}}
  addressType: IPv4
  endpoints: [{addresses: [10.0.0.1]}]
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: other, namespace: store}
  addressType: IPv4
  endpoints: []
",
    )
    .unwrap();
    assert_eq!(resources.all::<Service>().count(), 1);
    let ready: Vec<_> = resources
        .endpoint_slices("store", "cart")
        .map(|slice| (&*slice.key.name, slice.spec.endpoints[0].ready))
        .collect();
    assert_eq!(ready, [("cart-1", true), ("cart-2", false)]);
    assert_eq!(resources.all::<EndpointSlice>().count(), 3);
}

#[test]
fn a_slice_that_changes_its_service_is_found_under_the_new_one() {
    let slice = |service: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [], \
             metadata: {{name: s, labels: {{kubernetes.io/service-name: {service}}}}}}}"
        )
    };
    let mut resources = Resources::from_documents(&slice("a")).unwrap();
    let later = Resources::from_documents(&slice("b")).unwrap();
    let object = later.any(&later.keys(KindId::EndpointSlice)[0]).unwrap();
    let key = object.key().clone();
    resources.insert(object);
    assert_eq!(resources.endpoint_slices("default", "a").count(), 0);
    assert_eq!(resources.endpoint_slices("default", "b").count(), 1);
    resources.remove(&key);
    assert_eq!(resources.endpoint_slices("default", "b").count(), 0);
}

#[test]
fn other_kinds_are_ignored_and_said_so_once() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n";
    assert_eq!(
        findings(&deployment.repeat(3)),
        [
            "f.yaml:1:1: notice: Deployment apps/v1: not used by Portway, ignored (3 objects; this is the first)"
        ]
    );
}

#[test]
fn what_cannot_be_named_is_an_error_and_the_rest_is_used() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: HTTPRoute
metadata: {name: x}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HttpRoute
metadata: {name: x}
---
kind: HTTPRoute
metadata: {name: x}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: x}
spec: {}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: good}
spec: {}
";
    let loaded = Loaded::from_documents("f.yaml", text);
    let found: Vec<_> = loaded.diagnostics.iter().map(|found| found.one_line()).collect();
    assert_eq!(
        found,
        [
            "f.yaml:2:13: error: HTTPRoute x: apiVersion: HTTPRoute is not served as \
             gateway.networking.k8s.io/v1alpha2 by Gateway API v1.7.0: use gateway.networking.k8s.io/v1 or \
             gateway.networking.k8s.io/v1beta1",
            "f.yaml:7:7: error: HttpRoute x: kind: gateway.networking.k8s.io has no kind \"HttpRoute\" \
             (did you mean HTTPRoute?)",
            "f.yaml:10:1: error: HTTPRoute x: apiVersion: Required value",
            "f.yaml:15:1: error: HTTPRoute: metadata.name: Required value",
        ]
    );
    assert!(loaded.resources.get::<HTTPRoute>("default", "good").is_some());
}

#[test]
fn each_kind_and_version_that_is_held_can_be_validated() {
    for info in KindId::ALL.iter().map(|kind| kind.info()) {
        for version in info.versions {
            let group = if info.group.is_empty() { String::new() } else { format!("{}/", info.group) };
            let text =
                format!("{{apiVersion: {group}{version}, kind: {}, metadata: {{name: x}}}}", info.kind);
            let parsed = portway_api::yaml::parse("f.yaml", text.as_bytes());
            let validated = Validator::shared().validate(&parsed.documents[0], None);
            assert!(validated.known, "{text}: {:?}", validated.diagnostics);
        }
    }
}

#[test]
fn defaults_are_filled_in() {
    let resources = Resources::from_documents(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: x}
spec:
  rules:
  - backendRefs: [{name: cart, port: 80}]
",
    )
    .unwrap();
    let route = resources.get::<HTTPRoute>("default", "x").unwrap();
    let path = route.spec.rules[0].matches[0].path.as_ref().unwrap();
    assert_eq!((path.type_.clone(), path.value.as_deref()), (Some(PathMatchType::PathPrefix), Some("/")));
    assert_eq!(route.spec.rules[0].backend_refs[0].weight, Some(1));
}

#[test]
fn a_bad_secret_is_told_without_its_contents() {
    let secret = |data: &str| format!("{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, {data}}}");
    let loaded = Loaded::from_documents("f.yaml", &secret("data: {a: '!'}"));
    let found: Vec<_> = loaded.diagnostics.iter().map(|found| found.render(false)).collect();
    assert_eq!(found.len(), 1);
    assert!(!found[0].contains('!'), "what a Secret holds is never shown: {found:?}");
}

#[test]
fn objects_are_in_order_of_namespace_and_name() {
    let services = ["b/z", "a/y", "b/a", "c/x", "b/m"].map(|name| {
        let (namespace, name) = name.split_once('/').unwrap();
        format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{ports: [{{port: 1}}]}}}}\n")
    });
    let resources = Resources::from_documents(&services.concat()).unwrap();
    let all: Vec<_> = resources.all::<Service>().map(|service| service.key.to_string()).collect();
    assert_eq!(all, ["Service a/y", "Service b/a", "Service b/m", "Service b/z", "Service c/x"]);
    let some: Vec<_> = resources.in_namespace::<Service>("b").map(|service| &*service.key.name).collect();
    assert_eq!(some, ["a", "m", "z"]);
    assert_eq!(resources.in_namespace::<Service>("bb").count(), 0);
}

#[test]
fn changes_add_up_to_what_is_different_in_the_end() {
    let key = ObjectKey::new(KindId::Service, "a", "b");
    let after = |steps: &[Change]| {
        let mut changes = Changes::default();
        steps.iter().for_each(|step| changes.record(key.clone(), *step));
        changes.get(&key)
    };
    assert_eq!(after(&[Change::Added, Change::Removed]), None);
    assert_eq!(after(&[Change::Added, Change::Changed]), Some(Change::Added));
    assert_eq!(after(&[Change::Removed, Change::Added]), Some(Change::Changed));
    assert_eq!(after(&[Change::Changed, Change::Removed]), Some(Change::Removed));
}
