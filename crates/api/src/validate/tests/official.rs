//! The Gateway API's own examples, read from its Go module at test time.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::*;
use crate::yaml::parse;

/// The folder of the Gateway API's Go module.
pub(in super::super) fn module() -> PathBuf {
    super::go_module::folder(&format!("sigs.k8s.io/gateway-api@{}", crds::VERSION))
}

/// All YAML files below a folder, by their path within it, with what they hold.
pub(in super::super) fn documents(folder: &Path) -> Vec<(String, Vec<Document>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                let parsed = parse(&name, &fs::read(&path).unwrap());
                assert_eq!(parsed.diagnostics, [], "{name}");
                found.push((name, parsed.documents));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn all_valid_examples_pass() {
    let mut deprecated = Vec::new();
    let mut objects = 0;
    for (file, documents) in documents(&module().join("examples")) {
        for document in documents {
            let found = Validator::shared().validate(&document, None);
            let found_lines: Vec<_> = found.diagnostics.iter().map(Diagnostic::one_line).collect();
            match found_lines.as_slice() {
                [warning] if warning.contains("has been deprecate") => deprecated.push(file.clone()),
                _ => assert_eq!(found_lines, [""; 0], "{file}"),
            }
            assert!(found.is_usable(), "{file}");
            objects += 1;
        }
    }
    assert!(objects > 100, "{objects}");
    assert_eq!(deprecated.len(), 3, "TCPRoute v1alpha2, TLSRoute v1alpha2 and v1alpha3: {deprecated:?}");
}

/// Each invalid example and the field that must be blamed.
const INVALID: &[(&str, &str)] = &[
    (
        "experimental/httproute/invalid-filter-externalauth-bad-http-path.yaml",
        "spec.rules[0].filters[0].externalAuth",
    ),
    ("experimental/httproute/invalid-filter-externalauth-empty.yaml", "spec.rules[0].filters[0]"),
    (
        "experimental/httproute/invalid-filter-externalauth-no-protocol.yaml",
        "spec.rules[0].filters[0].externalAuth",
    ),
    (
        "experimental/httproute/invalid-header-value.yaml",
        "spec.rules[0].filters[0].responseHeaderModifier.add[0].value",
    ),
    ("standard/gateway/duplicate-listeners.yaml", "spec.listeners[1]"),
    ("standard/gateway/hostname-tcp.yaml", "spec.listeners"),
    ("standard/gateway/hostname-udp.yaml", "spec.listeners"),
    ("standard/gateway/invalid-addresses.yaml", "spec.addresses["),
    ("standard/gateway/invalid-listener-name.yaml", "spec.listeners[0].name"),
    ("standard/gateway/invalid-listener-port.yaml", "spec.listeners[0].port"),
    ("standard/gateway/invalid-tls-mode.yaml", "spec.listeners"),
    ("standard/gateway/tlsconfig-tcp.yaml", "spec.listeners"),
    ("standard/gatewayclass/invalid-controller.yaml", "spec.controllerName"),
    ("standard/httproute/duplicate-header-match.yaml", "spec.rules[0].matches[0].headers[1]"),
    ("standard/httproute/duplicate-query-match.yaml", "spec.rules[0].matches[0].queryParams[1]"),
    ("standard/httproute/httproute-portless-backend.yaml", "spec.rules[0].backendRefs[0]"),
    ("standard/httproute/httproute-portless-service.yaml", "spec.rules[0].backendRefs[0]"),
    ("standard/httproute/invalid-backend-group.yaml", "spec.rules[0].backendRefs[0].group"),
    ("standard/httproute/invalid-backend-kind.yaml", "spec.rules[0].backendRefs[0].kind"),
    ("standard/httproute/invalid-backend-port.yaml", "spec.rules[0].backendRefs[0].port"),
    (
        "standard/httproute/invalid-filter-duplicate-header.yaml",
        "spec.rules[0].filters[0].requestHeaderModifier.remove[1]",
    ),
    ("standard/httproute/invalid-filter-duplicate.yaml", "spec.rules[0].filters"),
    ("standard/httproute/invalid-filter-empty.yaml", "spec.rules[0].filters[0]"),
    ("standard/httproute/invalid-filter-wrong-field.yaml", "spec.rules[0].filters[0]"),
    ("standard/httproute/invalid-header-name.yaml", "spec.rules[0].matches[0].headers[0].name"),
    ("standard/httproute/invalid-hostname.yaml", "spec.hostnames[0]"),
    (
        "standard/httproute/invalid-httpredirect-hostname.yaml",
        "spec.rules[0].filters[0].requestRedirect.hostname",
    ),
    ("standard/httproute/invalid-method.yaml", "spec.rules[0].matches[0].method"),
    ("standard/httproute/invalid-path-alphanum-specialchars-mix.yaml", "spec.rules[0].matches[0].path"),
    ("standard/httproute/invalid-path-specialchars.yaml", "spec.rules[0].matches[0].path"),
    ("standard/httproute/invalid-request-redirect-with-backendref.yaml", "spec.rules[0]"),
    ("standard/referencegrant/missing-from.yaml", "spec.from"),
    ("standard/referencegrant/missing-ns.yaml", "spec.from[0].namespace"),
    ("standard/referencegrant/missing-to.yaml", "spec.to"),
    ("standard/tlsroute/invalid-hostname.yaml", "spec.hostnames[0]"),
    ("standard/tlsroute/no-hostname.yaml", "spec.hostnames"),
];

#[test]
fn all_invalid_examples_fail_at_the_right_field() {
    let files = documents(&module().join("hack/invalid-examples"));
    let names: Vec<_> = files.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(names, INVALID.iter().map(|(file, _)| *file).collect::<Vec<_>>());
    for ((file, documents), (_, path)) in files.iter().zip(INVALID) {
        for document in documents {
            let found = Validator::shared().validate(document, None).diagnostics;
            let errors: Vec<_> = found.iter().filter(|found| found.is_error()).collect();
            assert!(!errors.is_empty(), "{file} passes");
            for error in errors {
                assert!(error.path.starts_with(path), "{file}: {}", error.one_line());
                assert!(error.line > 1 && error.snippet.is_some(), "{file}: {}", error.one_line());
            }
        }
    }
}
