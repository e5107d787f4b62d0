//! Every field of the API that refers to another object is accounted for: by a golden in which the reference
//! crosses a namespace or is of a kind that is not supported, or by the reason why it needs none. A CRD that
//! gains a reference fails this test until someone has decided about it.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use portway_api::crds;
use serde_json::Value;

/// How a reference is accounted for.
enum Account {
    /// The golden that shows what becomes of it.
    Golden(&'static str),
    /// Portway does not read it: nothing can leak through it.
    Unread(&'static str),
}

use Account::{Golden, Unread};

const X_KIND: &str = "the kind is not read by translation";

/// The fields that refer, in the order of the alphabet.
const REFERENCES: &[(&str, Account)] = &[
    ("BackendTLSPolicy.spec.targetRefs[]", Golden("backendtls/invalid")),
    ("BackendTLSPolicy.spec.validation.caCertificateRefs[]", Golden("backendtls/invalid")),
    ("GRPCRoute.spec.parentRefs[]", Golden("attach/http-and-grpc")),
    ("GRPCRoute.spec.rules[].backendRefs[]", Golden("grpc/grants")),
    ("GRPCRoute.spec.rules[].backendRefs[].filters[].extensionRef", Golden("grpc/backend-extension")),
    ("GRPCRoute.spec.rules[].backendRefs[].filters[].requestMirror.backendRef", Golden("grpc/grants")),
    ("GRPCRoute.spec.rules[].filters[].extensionRef", Golden("grpc/filters")),
    ("GRPCRoute.spec.rules[].filters[].requestMirror.backendRef", Golden("grpc/grants")),
    ("Gateway.spec.infrastructure.parametersRef", Golden("gateway/parameters")),
    ("Gateway.spec.listeners[].filters.requests[].extensionRef", Golden("gateway/listener-filters")),
    (
        "Gateway.spec.listeners[].filters.requests[].externalAuth.backendRef",
        Golden("gateway/listener-filters"),
    ),
    ("Gateway.spec.listeners[].tls.certificateRefs[]", Golden("certificate/grants")),
    ("Gateway.spec.tls.backend.clientCertificateRef", Golden("gateway/backend-certificate")),
    (
        "Gateway.spec.tls.frontend.default.validation.caCertificateRefs[]",
        Golden("gateway/frontend-validation"),
    ),
    (
        "Gateway.spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[]",
        Golden("gateway/frontend-validation-per-port"),
    ),
    ("GatewayClass.spec.parametersRef", Golden("gatewayclass/parameters")),
    ("HTTPRoute.spec.parentRefs[]", Golden("attach/not-allowed")),
    ("HTTPRoute.spec.rules[].backendRefs[]", Golden("backend/grants")),
    ("HTTPRoute.spec.rules[].backendRefs[].filters[].extensionRef", Golden("http/backend-extension")),
    (
        "HTTPRoute.spec.rules[].backendRefs[].filters[].externalAuth.backendRef",
        Golden("backend/mirror-and-auth-grants"),
    ),
    (
        "HTTPRoute.spec.rules[].backendRefs[].filters[].requestMirror.backendRef",
        Golden("backend/mirror-and-auth-grants"),
    ),
    ("HTTPRoute.spec.rules[].filters[].extensionRef", Golden("http/extension")),
    ("HTTPRoute.spec.rules[].filters[].externalAuth.backendRef", Golden("backend/mirror-and-auth-grants")),
    ("HTTPRoute.spec.rules[].filters[].requestMirror.backendRef", Golden("backend/mirror-and-auth-grants")),
    ("ListenerSet.spec.listeners[].filters.requests[].extensionRef", Golden("listenerset/listener-filters")),
    (
        "ListenerSet.spec.listeners[].filters.requests[].externalAuth.backendRef",
        Golden("listenerset/listener-filters"),
    ),
    ("ListenerSet.spec.listeners[].tls.certificateRefs[]", Golden("listenerset/grants")),
    ("ListenerSet.spec.parentRef", Golden("listenerset/allowed")),
    ("TCPRoute.spec.parentRefs[]", Golden("l4/grants")),
    ("TCPRoute.spec.rules[].backendRefs[]", Golden("l4/grants")),
    ("TLSRoute.spec.parentRefs[]", Golden("l4/hostnames")),
    ("TLSRoute.spec.rules[].backendRefs[]", Golden("l4/grants")),
    ("UDPRoute.spec.parentRefs[]", Golden("l4/grants")),
    ("UDPRoute.spec.rules[].backendRefs[]", Golden("l4/grants")),
    ("XBackend.spec.tls.clientCertificateRef", Unread(X_KIND)),
    ("XBackend.spec.tls.validation.caCertificateRefs[]", Unread(X_KIND)),
    ("XBackendTrafficPolicy.spec.targetRefs[]", Unread(X_KIND)),
    ("XMesh.spec.parametersRef", Unread(X_KIND)),
    ("XTelemetryPolicy.spec.targetRefs[]", Unread(X_KIND)),
    ("XTelemetryPolicy.spec.tracing.provider.backendRef", Unread(X_KIND)),
];

/// A reference is an object with a name and a kind, or a field that is called one.
fn find(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        if schema["items"].is_object() {
            find(&schema["items"], &format!("{path}[]"), found);
        }
        return;
    };
    let last = path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
    let called = last.ends_with("Ref") || last.ends_with("Refs");
    if called || (properties.contains_key("name") && properties.contains_key("kind")) {
        found.insert(path.to_owned());
    }
    for (name, schema) in properties {
        find(schema, &format!("{path}.{name}"), found);
    }
}

#[test]
fn every_reference_is_accounted_for() {
    let mut found = BTreeSet::new();
    let crds = crds::EXPERIMENTAL.iter().chain(crds::PORTWAY);
    for (file, text) in crds.filter(|(file, _)| !file.contains("_vap_")) {
        let crd: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            find(spec, &format!("{kind}.spec"), &mut found);
        }
    }
    // Grants name kinds and namespaces; a grant refers to nothing itself.
    found.retain(|path| !path.starts_with("ReferenceGrant."));
    let listed: BTreeSet<_> = REFERENCES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn every_listed_golden_has_the_reference() {
    let goldens: BTreeMap<String, String> = common::goldens()
        .into_iter()
        .map(|(path, text)| {
            let name =
                path.with_extension("").components().rev().take(2).fold(String::new(), |rest, part| {
                    let part = part.as_os_str().to_string_lossy();
                    if rest.is_empty() { part.into_owned() } else { format!("{part}/{rest}") }
                });
            (name, text)
        })
        .collect();
    for (path, account) in REFERENCES {
        match account {
            Golden(name) => {
                let text = goldens.get(*name).unwrap_or_else(|| panic!("no golden {name} for {path}"));
                let (input, expected) = text.split_once(common::MARK).unwrap();
                let kind = path.split('.').next().unwrap();
                let field = path.rsplit('.').next().unwrap().trim_end_matches("[]");
                assert!(input.contains(&format!("kind: {kind}")), "{name} has no {kind}");
                assert!(input.contains(field), "{name} has no {field}");
                assert!(
                    expected.contains("=False") || expected.contains("IgnoredFields"),
                    "{name} refuses nothing"
                );
            }
            Unread(why) => assert!(!why.is_empty()),
        }
    }
}
