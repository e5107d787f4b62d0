use super::*;

fn service(spec: &str) -> Vec<String> {
    lines(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n"))
}

#[test]
fn services() {
    for good in [
        "{ports: [{port: 80}], selector: {app: x}, sessionAffinity: None}",
        "{ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8081}]}",
        "{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}",
        "{clusterIP: None}",
        "{type: ExternalName, externalName: example.com.}",
    ] {
        assert_eq!(service(good), [""; 0], "{good}");
    }
    for (bad, expected) in [
        ("{}", "spec.ports: Required value"),
        (
            "{ports: [{port: 0}]}",
            "spec.ports[0].port: Invalid value: 0: should be greater than or equal to 1",
        ),
        ("{ports: [{port: \"80\"}]}", "spec.ports[0].port: Invalid value: \"80\": must be of type integer"),
        (
            "{ports: [{port: 80, targetPort: 1.5}]}",
            "spec.ports[0].targetPort: Invalid value: 1.5: must be of type",
        ),
        ("{ports: [{port: 80}, {name: b, port: 81}]}", "spec.ports[0].name: Required value"),
        ("{ports: [{name: b, port: 80}, {name: b, port: 81}]}", "spec.ports[1].name: Duplicate value: \"b\""),
        ("{ports: [{name: a, port: 80}, {name: b, port: 80}]}", "spec.ports[1]: Duplicate value: port 80"),
        ("{ports: [{port: 80, appProtocol: 'a b'}]}", "spec.ports[0].appProtocol: Invalid value: \"a b\""),
        ("{type: Cluster, ports: [{port: 1}]}", "spec.type: Unsupported value: \"Cluster\""),
        ("{type: ExternalName}", "spec.externalName: Required value"),
        ("{type: ExternalName, externalName: a_b}", "spec.externalName: Invalid value: \"a_b\""),
    ] {
        let found = service(bad);
        assert!(found.len() == 1 && found[0].contains(expected), "{bad}: {found:?}");
    }
}

#[test]
fn endpoint_slices() {
    let slice = |body: &str| {
        let labels = "{kubernetes.io/service-name: s}";
        lines(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, labels: {labels}}}, {body}}}"
        ))
    };
    for good in [
        "addressType: IPv4, endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}], ports: [{port: 80}]",
        "addressType: IPv6, endpoints: [{addresses: ['::1']}]",
        "addressType: FQDN, endpoints: [{addresses: [a.example.com]}], ports: [{name: a, port: 1}, {name: b, port: 2}]",
    ] {
        assert_eq!(slice(good), [""; 0], "{good}");
    }
    for (bad, expected) in [
        ("endpoints: []", "addressType: Required value"),
        ("addressType: IPv5", "addressType: Unsupported value: \"IPv5\""),
        (
            "addressType: IPv4, endpoints: [{addresses: ['::1']}]",
            "endpoints[0].addresses[0]: Invalid value: \"::1\"",
        ),
        (
            "addressType: IPv6, endpoints: [{addresses: [1.1.1.1]}]",
            "endpoints[0].addresses[0]: Invalid value",
        ),
        (
            "addressType: IPv4, endpoints: [{addresses: [0.0.0.0]}]",
            "endpoints[0].addresses[0]: Invalid value",
        ),
        ("addressType: IPv4, endpoints: [{addresses: []}]", "endpoints[0].addresses: Invalid value: 0"),
        ("addressType: IPv4, ports: [{port: 65536}]", "ports[0].port: Invalid value: 65536"),
        ("addressType: IPv4, ports: [{port: 1}, {port: 2}]", "ports[1].name: Duplicate value: \"\""),
    ] {
        let found = slice(bad);
        assert!(found.len() == 1 && found[0].contains(expected), "{bad}: {found:?}");
    }
    let many = format!(
        "addressType: IPv4, ports: [{}]",
        (0..101).map(|n| format!("{{name: p{n}, port: 1}}, ")).collect::<String>()
    );
    assert!(slice(&many)[0].contains("ports: Too many: 101: must have at most 100 items"));
    let orphan = lines(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv4}",
    );
    assert!(
        orphan.len() == 1 && orphan[0].contains("warning: EndpointSlice default/s: metadata.labels"),
        "{orphan:?}"
    );
}

#[test]
fn secrets_are_checked_and_never_shown() {
    let secret = |body: &str| {
        check(
            Validator::shared(),
            "t.yaml",
            format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{body}\n").as_bytes(),
        )
    };
    assert_eq!(secret("type: kubernetes.io/tls\ndata: {tls.crt: YQ==, tls.key: YQ==}"), []);
    assert_eq!(secret("type: kubernetes.io/tls\ndata: {tls.crt: YQ==}\nstringData: {tls.key: a}"), []);
    for (bad, expected) in [
        ("data: {a: 'hunter2!'}", "data[a]: Invalid value: (not shown): must be base64"),
        (
            "data: {a: 12345671}",
            "data[a]: Invalid value: (not shown): must be of type string, not integer (quote it)",
        ),
        ("data: hunter2", "data: Invalid value: (not shown): must be of type object"),
        ("data: {a b: aHVudGVyMg==}", "data[a b]: Invalid value: \"a b\": a key is letters"),
        ("type: kubernetes.io/tls\ndata: {tls.crt: aHVudGVyMg==}", "data[tls.key]: Required value"),
        ("stringData: {hunter2: on}", "stringData[hunter2]: Kubernetes reads an unquoted on"),
    ] {
        let found = secret(bad);
        assert!(found.len() == 1 && found[0].one_line().contains(expected), "{bad}: {found:?}");
        let shown = found[0].render(true);
        assert!(
            !shown.contains('|') && !shown.contains("12345671") && !shown.contains("aHVudGVyMg"),
            "{shown}"
        );
    }
}

#[test]
fn what_may_be_meant_as_a_secret_is_not_shown_either() {
    for text in [
        "{apiVersion: v1, kind: secret, metadata: {name: a}, data: {a: hunter2}}",
        "{apiVersion: v1, kind: Secrets, metadata: {name: a}, data: {a: hunter2}}",
        "{apiVersion: v1, stringData: {a: hunter2}}",
        "{kind: Secret, stringData: {a: hunter2}}",
        "{kind: Secret, stringData: {a: hunter2}, stringData: {}}",
    ] {
        let found = check(Validator::shared(), "t.yaml", text.as_bytes());
        assert!(
            !found.is_empty() && found.iter().all(|found| !found.render(false).contains("hunter2")),
            "{found:?}"
        );
    }
}

#[test]
fn config_maps_and_namespaces() {
    let map =
        |body: &str| lines(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: s}}, {body}}}"));
    assert_eq!(map("data: {a.b_c-1: x}, binaryData: {b: YQ==}"), [""; 0]);
    assert!(
        map("data: {a: 1}")[0].contains("data[a]: Invalid value: 1: must be of type string, not integer")
    );
    assert!(map("data: {a: x}, binaryData: {a: YQ==}")[0].contains("binaryData[a]: Duplicate value"));
    let namespace =
        |name: &str| lines(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"));
    assert_eq!(namespace("a-b"), [""; 0]);
    assert!(namespace("a.b")[0].contains("must be an RFC 1123 label"));
}

#[test]
fn cluster_trust_bundles() {
    let bundle = |version: &str, name: &str, spec: &str| {
        lines(&format!(
            "{{apiVersion: certificates.k8s.io/{version}, kind: ClusterTrustBundle, metadata: {{name: {name:?}}}, spec: {spec}}}"
        ))
    };
    for version in ["v1", "v1beta1", "v1alpha1"] {
        assert_eq!(bundle(version, "a.b", "{trustBundle: x}"), [""; 0]);
        assert_eq!(
            bundle(version, "example.com:mine:v1", "{signerName: example.com/mine, trustBundle: x}"),
            [""; 0]
        );
    }
    let bad = |name: &str, spec: &str, wanted: &str| {
        let found = bundle("v1", name, spec);
        assert!(found.iter().any(|line| line.contains(wanted)), "{found:?}");
    };
    bad("a", "{trustBundle: ''}", "spec.trustBundle");
    bad("a", "{}", "spec.trustBundle: Required value");
    bad("a:b", "{trustBundle: x}", "without a signerName, the name has no ':'");
    bad("a:B", "{trustBundle: x}", "must be an RFC 1123 subdomain");
    bad("a", "{signerName: example.com/mine, trustBundle: x}", "begins with \"example.com:mine:\"");
    bad("example.com:a", "{signerName: example.com, trustBundle: x}", "spec.signerName");
}
