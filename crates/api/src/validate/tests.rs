use serde_json::json;

use super::*;

mod core_kinds;
mod go_module;
mod official;
mod parameters;
mod rendered;

pub(super) use official::{documents as official_documents, module};

/// Validates the only document of a text.
fn one(text: &str) -> Validated {
    let parsed = yaml::parse("t.yaml", text.as_bytes());
    assert_eq!((parsed.documents.len(), parsed.diagnostics.as_slice()), (1, [].as_slice()));
    Validator::shared().validate(&parsed.documents[0], None)
}

/// The findings about a text, one line each, without the file's name.
fn lines(text: &str) -> Vec<String> {
    let found = check(Validator::shared(), "t.yaml", text.as_bytes());
    found.iter().map(|diagnostic| diagnostic.one_line().replacen("t.yaml:", "", 1)).collect()
}

fn route(spec: &str) -> String {
    let indented = spec.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: cart\n  namespace: store\nspec:\n{indented}"
    )
}

#[test]
fn every_embedded_schema_compiles_and_none_of_its_rules_is_left_to_the_slow_engine() {
    let validator = Validator::new();
    assert_eq!(
        validator.kinds.len(),
        crds::EXPERIMENTAL.len() - 1 + crds::PORTWAY.len() + 7,
        "all CRDs and seven core kinds"
    );
    for entry in &validator.kinds {
        let definition = entry.definition().unwrap_or_else(|error| panic!("{}: {error}", entry.kind));
        assert!(definition.versions.iter().any(|version| version.served), "{}", entry.kind);
        for version in &definition.versions {
            assert_eq!(cel::interpreted_rules(&version.schema), [""; 0], "{}", entry.kind);
        }
    }
}

#[test]
fn defaults_are_applied_and_status_is_dropped() {
    let found = one(&(route("rules:\n- backendRefs:\n  - name: a\n    port: 80\n  filters: null\n")
        + "status: {parents: []}\n"));
    assert_eq!(found.diagnostics, []);
    assert!(found.is_usable());
    assert_eq!(
        found.value,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "cart", "namespace": "store"},
            "spec": {"rules": [{
                "backendRefs": [{"group": "", "kind": "Service", "name": "a", "port": 80, "weight": 1}],
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            }]},
        })
    );
}

#[test]
fn transition_rules_compare_with_the_previous_object() {
    let class = |controller: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: c}}\nspec: {{controllerName: {controller}}}\n"
        )
    };
    let old = one(&class("example.com/a"));
    assert!(old.is_usable());
    assert_eq!(old.value.get("status"), None, "the CRD has a default for it");
    let next = yaml::parse("t.yaml", class("example.com/b").as_bytes());
    let found = Validator::shared().validate(&next.documents[0], Some(&old.value));
    assert_eq!(
        found.diagnostics.iter().map(Diagnostic::one_line).collect::<Vec<_>>(),
        ["t.yaml:4:24: error: GatewayClass c: spec.controllerName: Invalid value: field is immutable"]
    );
    assert!(Validator::shared().validate(&next.documents[0], None).is_usable());
    let same = yaml::parse("t.yaml", class("example.com/a").as_bytes());
    assert!(Validator::shared().validate(&same.documents[0], Some(&old.value)).is_usable());
}

#[test]
fn kinds_that_portway_does_not_read_are_noticed_and_slips_are_errors() {
    assert_eq!(
        lines("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
        ["2:7: notice: Deployment x: kind: Deployment (apps/v1) is not a kind that Portway reads: ignored"]
    );
    assert_eq!(
        lines("apiVersion: gateway.networking.k8s.io/v1\nkind: HttpRoute\nmetadata: {name: x}\n"),
        [
            "2:7: error: HttpRoute x: kind: gateway.networking.k8s.io has no kind \"HttpRoute\" (did you mean HTTPRoute?)"
        ]
    );
    assert_eq!(
        lines("apiVersion: gateway.networking.k8s.oi/v1\nkind: HTTPRoute\nmetadata: {name: x}\n"),
        [
            "1:13: error: HTTPRoute x: apiVersion: there is no API group \"gateway.networking.k8s.oi\" with kind HTTPRoute (did you mean gateway.networking.k8s.io/v1?)"
        ]
    );
    assert_eq!(
        lines("apiVersion: gateway.networking.k8s.io/v1alpha1\nkind: TCPRoute\nmetadata: {name: x}\n"),
        [
            "1:13: error: TCPRoute x: apiVersion: TCPRoute is not served as gateway.networking.k8s.io/v1alpha1 by Gateway API v1.7.0: use gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1alpha2"
        ]
    );
    assert_eq!(
        lines("- a\n"),
        ["1:1: error: object: a Kubernetes object is a map with apiVersion, kind and metadata"]
    );
    assert_eq!(lines("a: 1\n").len(), 2);
    assert_eq!(lines("apiVersion: 1\nkind: true\n").len(), 2);
}

#[test]
fn names_labels_and_annotations_are_checked() {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: {}\n";
    assert_eq!(
        lines(&format!("{head}metadata: {{}}\n")),
        ["4:1: error: HTTPRoute default: metadata.name: Required value"]
            .map(|l| l.replace("HTTPRoute default", "HTTPRoute"))
    );
    assert!(lines(&format!("{head}metadata: {{generateName: x-}}\n"))[0].contains("needs an API server"));
    assert_eq!(
        lines(&format!("{head}metadata:\n  name: Cart\n  namespace: a.b\n  labels: {{a b: c, d: '-'}}\n")),
        [
            "5:9: error: HTTPRoute a.b/Cart: metadata.name: Invalid value: \"Cart\": must be an RFC 1123 subdomain (lowercase letters, digits and '-', starting and ending with a letter or digit, at most 253, with '.' between labels)",
            "6:14: error: HTTPRoute a.b/Cart: metadata.namespace: Invalid value: \"a.b\": must be an RFC 1123 label (lowercase letters, digits and '-', starting and ending with a letter or digit, at most 63)",
            "7:12: error: HTTPRoute a.b/Cart: metadata.labels[a b]: Invalid value: \"a b\": must be a name such as \"app\" or \"example.com/app\"",
            "7:23: error: HTTPRoute a.b/Cart: metadata.labels[d]: Invalid value: \"-\": a label's value is at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit",
        ]
    );
    assert!(
        lines(&format!("{head}metadata: {{name: a, lables: {{}}}}\n"))[0]
            .contains("did you mean \"labels\"?")
    );
    assert_eq!(one(&format!("{head}metadata: {{name: a}}\n")).value["metadata"]["namespace"], "default");
    let class =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nspec: {controllerName: a.b/c}\n";
    let found = one(&format!("{class}metadata: {{name: a, namespace: b}}\n"));
    assert_eq!(found.diagnostics[0].severity, Severity::Warning);
    assert_eq!(found.value["metadata"], json!({"name": "a"}));
}

#[test]
fn types_are_not_guessed() {
    assert_eq!(
        lines(&route(
            "rules:\n- backendRefs:\n  - name: a\n    port: \"80\"\n  - name: 1.10\n    port: 80\n  - name: on\n    port: 80\n  - name: \"off\"\n    port: 80\n"
        )),
        [
            "10:13: error: HTTPRoute store/cart: spec.rules[0].backendRefs[0].port: Invalid value: \"80\": must be of type integer, not string (write the number without quotes)",
            "11:13: error: HTTPRoute store/cart: spec.rules[0].backendRefs[1].name: Invalid value: 1.1: must be of type string, not number (quote it: \"1.10\")",
            "13:13: warning: HTTPRoute store/cart: spec.rules[0].backendRefs[2].name: Kubernetes reads an unquoted on as a boolean (quote it: \"on\")",
        ]
    );
    let policy = |value: &str| {
        let filter = format!("rules:\n- filters:\n  - type: CORS\n    cors: {{allowCredentials: {value}}}\n");
        lines(&route(&filter))
    };
    assert_eq!(policy("true"), [""; 0]);
    assert!(
        policy("yes")[0]
            .contains("must be of type boolean, not string (write true or false, without quotes)")
    );
    assert!(lines(&route("rules: {matches: []}\n"))[0].contains("start each item with"));
}

#[test]
fn bounds_and_lists_are_checked() {
    let hosts: String = (0..17).map(|n| format!("h{n}.example, ")).collect();
    assert_eq!(
        lines(&route(&format!("hostnames: [{hosts}]\n"))),
        ["7:3: error: HTTPRoute store/cart: spec.hostnames: Too many: 17: must have at most 16 items"]
    );
    assert_eq!(
        lines(&route(
            "rules:\n- name: a\n  matches:\n  - headers: [{name: X, value: a}, {name: X, value: b}]\n"
        )),
        [
            "10:38: error: HTTPRoute store/cart: spec.rules[0].matches[0].headers[1]: Duplicate value: {\"name\":\"X\"}"
        ]
    );
    assert_eq!(
        lines(&route("rules:\n- backendRefs: [{name: a, port: 70000}, {name: '', port: 1, weight: -1}]\n")),
        [
            "8:35: error: HTTPRoute store/cart: spec.rules[0].backendRefs[0].port: Invalid value: 70000: should be less than or equal to 65535",
            "8:50: error: HTTPRoute store/cart: spec.rules[0].backendRefs[1].name: Invalid value: \"\": should be at least 1 characters long",
            "8:71: error: HTTPRoute store/cart: spec.rules[0].backendRefs[1].weight: Invalid value: -1: should be greater than or equal to 0",
        ]
    );
    // Counted in characters, not bytes.
    let long = |length: usize| {
        lines(&route(&format!(
            "rules:\n- name: a\n  matches: [{{headers: [{{name: X, value: {}}}]}}]\n",
            "é".repeat(length)
        )))
    };
    assert!(long(4096).iter().all(|line| !line.contains("Too long")), "{:.300?}", long(4096));
    assert!(long(4097)[0].contains("Too long: 4097 characters"));
}

#[test]
fn findings_about_one_object_are_bounded_and_so_is_what_they_show() {
    let junk: String = (0..5000).map(|n| format!("junk{n}: 1\n")).collect();
    assert_eq!(lines(&route(&junk)).len(), 50);
    let many = lines(&format!("{}---\n", route(&junk)).repeat(30));
    assert_eq!(many.len(), 1001);
    assert_eq!(many[1000], " error: too many findings: the file's last 10 objects were not checked");
    let found = lines(&route(&format!("hostnames: ['{}']\n", "!".repeat(200))));
    assert!(found[0].len() < 500 && found[0].contains('…'), "{found:?}");
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-zA-Z/*.0-9:%-]{0,12}".prop_map(Value::from),
            proptest::sample::select(vec![
                "Exact",
                "HTTP",
                "TLS",
                "Cookie",
                "10s",
                "*.a",
                "CORS",
                "RequestRedirect"
            ])
            .prop_map(Value::from),
        ];
        let keys = vec![
            "rules",
            "matches",
            "path",
            "type",
            "value",
            "filters",
            "backendRefs",
            "name",
            "port",
            "parentRefs",
            "hostnames",
            "headers",
            "requestRedirect",
            "urlRewrite",
            "timeouts",
            "request",
            "listeners",
            "protocol",
            "tls",
            "mode",
            "labels",
            "data",
            "ports",
            "endpoints",
            "addresses",
            "spec",
            "metadata",
            "to",
            "from",
        ];
        leaf.prop_recursive(6, 60, 5, move |inner| {
            let key = proptest::sample::select(keys.clone()).prop_map(str::to_owned);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn on_any_object(
            (group, kind) in proptest::sample::select(vec![
                ("gateway.networking.k8s.io/v1", "HTTPRoute"),
                ("gateway.networking.k8s.io/v1", "Gateway"),
                ("gateway.networking.k8s.io/v1", "GRPCRoute"),
                ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
                ("v1", "Service"), ("v1", "Secret"), ("v1", "ConfigMap"), ("discovery.k8s.io/v1", "EndpointSlice"),
            ]),
            mut body in json(),
            metadata in json(),
        ) {
            if let Value::Object(map) = &mut body {
                map.insert("apiVersion".to_owned(), group.into());
                map.insert("kind".to_owned(), kind.into());
                map.insert("metadata".to_owned(), metadata);
            }
            for diagnostic in check(Validator::shared(), "t.yaml", body.to_string().as_bytes()) {
                let _ = (diagnostic.render(true), diagnostic.one_line());
            }
        }
    }
}
