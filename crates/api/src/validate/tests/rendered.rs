//! What users see, to the letter.

use super::*;

#[track_caller]
fn rendered(text: &str, expected: &str) {
    let found = check(Validator::shared(), "shop.yaml", text.as_bytes());
    let found = found.iter().map(|diagnostic| diagnostic.render(false)).collect::<Vec<_>>().join("\n");
    assert_eq!(found, expected.trim_matches('\n'), "\n{found}\n");
}

#[test]
fn a_filter_type_that_does_not_exist() {
    rendered(
        &route("rules:\n- filters:\n  - type: RequestRedirct\n    requestRedirect:\n      scheme: https\n"),
        r#"
error: HTTPRoute store/cart: spec.rules[0].filters[0].type: Unsupported value: "RequestRedirct": supported values: "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "ExtensionRef", "CORS", "ExternalAuth"
 --> shop.yaml:9:13
  |
9 |     - type: RequestRedirct
  |             ^^^^^^^^^^^^^^
  = help: did you mean "RequestRedirect"?
"#,
    );
}

#[test]
fn a_misspelt_field() {
    rendered(
        &route("rules:\n- backendRef:\n  - name: cart\n    port: 80\n"),
        r#"
error: HTTPRoute store/cart: spec.rules[0].backendRef: unknown field
 --> shop.yaml:8:5
  |
8 |   - backendRef:
  |     ^^^^^^^^^^
  = help: did you mean "backendRefs"?
"#,
    );
}

#[test]
fn a_missing_port() {
    rendered(
        &route("rules:\n- backendRefs:\n  - name: cart\n  matches:\n  - path:\n      value: cart\n"),
        r#"
error: HTTPRoute store/cart: spec.rules[0].backendRefs[0]: Invalid value: Must have port for Service reference
 --> shop.yaml:9:7
  |
9 |     - name: cart
  |       ^^^^^^^^^^
error: HTTPRoute store/cart: spec.rules[0].matches[0].path: Invalid value: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']
  --> shop.yaml:11:7
   |
11 |     - path:
   |       ^^^^
"#,
    );
}

#[test]
fn a_number_where_a_name_is_wanted() {
    rendered(
        &route("hostnames:\n- 1.10\nrules: []\n"),
        r#"
error: HTTPRoute store/cart: spec.hostnames[0]: Invalid value: 1.1: must be of type string, not number
 --> shop.yaml:8:5
  |
8 |   - 1.10
  |     ^^^^
  = help: quote it: "1.10"
error: HTTPRoute store/cart: spec.rules: Invalid value: 0: should have at least 1 items
 --> shop.yaml:9:3
  |
9 |   rules: []
  |   ^^^^^
"#,
    );
}

#[test]
fn a_broken_file() {
    rendered(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n\tlabels: {}\n",
        r#"
error: not valid YAML: while scanning a plain scalar, found a tab
 --> shop.yaml:5:1
  |
5 |  labels: {}
  | ^
  = help: indent with spaces: YAML does not allow tabs there
"#,
    );
}

#[test]
fn a_duplicate_key() {
    rendered(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80}]\n  ports: [{port: 81}]\n",
        r#"
error: duplicate key "ports": the first is at 5:3
 --> shop.yaml:6:3
  |
6 |   ports: [{port: 81}]
  |   ^^^^^
  = help: keep one of the two
"#,
    );
}

#[test]
fn a_secret_shows_nothing_of_itself() {
    rendered(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  password: hunter2!\n",
        r#"
error: Secret default/a: data[password]: Invalid value: (not shown): must be base64
 --> shop.yaml:5:13
  = help: plain text goes under stringData instead of data
"#,
    );
}

#[test]
fn a_bad_address() {
    rendered(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: portway\n  addresses:\n  - type: IPAddress\n    value: 1.1.1\n  listeners:\n  - {name: http, port: 80, protocol: HTTP}\n",
        r#"
error: Gateway default/g: spec.addresses[0]: Invalid value: {"type":"IPAddress","value":"1.1.1"}: must validate one and only one schema (oneOf)
 --> shop.yaml:7:5
  |
7 |   - type: IPAddress
  |     ^^^^^^^^^^^^^^^
  = help: for example, spec.addresses[0].value: Invalid value: "1.1.1": must be an IPv4 address
"#,
    );
}

#[test]
fn long_lines_are_cut_around_the_caret_and_controls_are_made_harmless() {
    let text = format!(
        "{{\"apiVersion\": \"gateway.networking.k8s.io/v1\", \"kind\": \"HTTPRoute\", \"metadata\": {{\"name\": \"{}\"}}, \"spec\": {{\"hostnames\":\t[\"é\u{1b}[31m!\"], \"rules\": []}}, \"status\": \"{}\"}}\n",
        "a".repeat(100),
        "b".repeat(200),
    );
    rendered(
        &text,
        r#"
error: not valid YAML: unexpected character: `\u{1b}'
 --> shop.yaml:1:220
  |
1 | …aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "spec": {"hostnames": ["é�[31m!"], "rules": []}, "status": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…
  |                                                              ^
"#,
    );
}

#[test]
fn colours_are_for_terminals_only() {
    let found = check(Validator::shared(), "shop.yaml", route("rules: 1\n").as_bytes());
    assert!(found[0].render(true).contains("\u{1b}[1;31merror"));
    assert!(!found[0].render(false).contains('\u{1b}'));
    assert_eq!(found[0].to_string(), found[0].render(false));
}

#[test]
fn the_json_form_has_every_part() {
    let found = check(Validator::shared(), "shop.yaml", route("rules:\n- nam: x\n").as_bytes());
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        json!([{
            "severity": "error", "file": "shop.yaml", "line": 8, "column": 5, "length": 3,
            "object": "HTTPRoute store/cart", "path": "spec.rules[0].nam", "message": "unknown field",
            "hint": "did you mean \"name\"?",
        }])
    );
}
