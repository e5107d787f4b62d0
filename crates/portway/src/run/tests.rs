//! What the proxy says of a plan reaches the statuses.

use std::sync::Arc;

use portway_plan::ObjectRef;
use portway_proxy::FailedListener;
use portway_store::Resources;

use super::*;

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: portway
  listeners:
    - {name: one, protocol: HTTP, port: 80}
    - {name: two, protocol: HTTP, port: 81}
";

#[test]
fn a_listener_that_the_proxy_cannot_serve_is_not_programmed() {
    let object = ObjectRef { kind: "Gateway".into(), namespace: "infra".into(), name: "edge".into() };
    let object = Arc::new(object);
    let failed = |index: usize, name: &str, serves| FailedListener {
        listener: Source {
            object: Arc::clone(&object),
            path: format!("spec.listeners[{index}]").into(),
            section: Some(name.into()),
        },
        reason: "its certificate is of no use".to_owned(),
        serves,
    };
    let applied = Applied {
        revision: 1,
        ports: Vec::new(),
        failed: vec![failed(0, "one", false), failed(1, "two", true)],
        took: Duration::ZERO,
    };
    let options = world::options(Obstacles::of(&applied).machine());
    let resources = Resources::from_documents(GATEWAY).expect("valid objects");
    let translation = Translator::new().update(&resources, &Changes::default(), &options);
    let told = Told { translation, diagnostics: Vec::new() }.json();
    let objects = told["objects"].as_array().expect("objects");
    let gateway = objects.iter().find(|object| object["name"] == "edge").expect("the Gateway");
    let programmed = |listener: usize| {
        let conditions = gateway["status"]["listeners"][listener]["conditions"].as_array();
        conditions.and_then(|all| all.iter().find(|one| one["type"] == "Programmed")).cloned()
    };
    let one = programmed(0).expect("a condition");
    assert_eq!((&one["status"], &one["message"]), (&"False".into(), &"its certificate is of no use".into()));
    assert_eq!(
        programmed(1).expect("a condition")["status"],
        "True",
        "it serves with its other certificates"
    );
    assert_eq!(gateway["problems"].as_array().map(Vec::len), Some(1));
}
