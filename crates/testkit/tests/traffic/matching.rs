//! HTTPRouteMatch: paths, headers, queries, methods, and which match wins.

use portway_testkit::{Client, Gateway};

use crate::{GATEWAY, HOST, documents, named, route};

/// Method, target, headers, and who answers.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// Sends requests (method, target, header) and compares who answers.
async fn answers(rules: &str, names: [&str; 3], expected: &[Case]) -> anyhow::Result<()> {
    let (_origins, services) = named(names).await?;
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for (method, target, headers, name) in expected {
        let answer = client.request(method, HOST, target, headers, b"").await?;
        let body = if answer.status() == 200 { answer.text() } else { answer.status().to_string() };
        assert_eq!(body, *name, "{method} {target} {headers:?}");
    }
    Ok(())
}

#[tokio::test]
async fn exact_paths_win_over_longer_prefixes_over_shorter_ones() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{path: {type: PathPrefix, value: /a}}]
  backendRefs: [{name: short, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a/b}}]
  backendRefs: [{name: long, port: 80}]
- matches: [{path: {type: Exact, value: /a/b/c}}]
  backendRefs: [{name: exact, port: 80}]",
        ["short", "long", "exact"],
        &[
            ("GET", "/a", &[], "short"),
            ("GET", "/a/", &[], "short"),
            ("GET", "/a/bc", &[], "short"),
            ("GET", "/a/b", &[], "long"),
            ("GET", "/a/b/cd", &[], "long"),
            ("GET", "/a/b/c?q=1", &[], "exact"),
            ("GET", "/a/b/c/", &[], "long"),
            ("GET", "/ab", &[], "404"),
            ("GET", "/", &[], "404"),
        ],
    )
    .await
}

#[tokio::test]
async fn the_path_is_matched_as_it_will_be_sent() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{name: rest, port: 80}]
- matches: [{path: {type: PathPrefix, value: /admin}}]
  backendRefs: [{name: admin, port: 80}]",
        ["rest", "admin", "unused"],
        &[
            ("GET", "/public/../admin/x", &[], "admin"),
            ("GET", "/%61dmin", &[], "admin"),
            ("GET", "/./admin", &[], "admin"),
        ],
    )
    .await
}

#[tokio::test]
async fn regular_expressions_match_whole_paths() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{path: {type: RegularExpression, value: '/v[0-9]+/items/.*'}}]
  backendRefs: [{name: items, port: 80}]
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{name: rest, port: 80}]",
        ["items", "rest", "unused"],
        &[
            ("GET", "/v1/items/7", &[], "items"),
            ("GET", "/x/v1/items/7", &[], "rest"),
            ("GET", "/v/items/7", &[], "rest"),
        ],
    )
    .await
}

#[tokio::test]
async fn headers_match_by_value_and_expression() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{headers: [{name: X-Canary, value: 'yes'}]}]
  backendRefs: [{name: canary, port: 80}]
- matches: [{headers: [{name: x-version, type: RegularExpression, value: 'v[12]'}]}]
  backendRefs: [{name: versioned, port: 80}]
- backendRefs: [{name: rest, port: 80}]",
        ["canary", "versioned", "rest"],
        &[
            ("GET", "/", &[("x-canary", "yes")], "canary"),
            ("GET", "/", &[("X-CANARY", "yes")], "canary"),
            ("GET", "/", &[("x-canary", "YES")], "rest"),
            ("GET", "/", &[("x-version", "v2")], "versioned"),
            ("GET", "/", &[("x-version", "v21")], "rest"),
            ("GET", "/", &[], "rest"),
        ],
    )
    .await
}

#[tokio::test]
async fn queries_and_methods_match() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{method: DELETE}]
  backendRefs: [{name: delete, port: 80}]
- matches: [{queryParams: [{name: color, value: blue}]}]
  backendRefs: [{name: blue, port: 80}]
- backendRefs: [{name: rest, port: 80}]",
        ["delete", "blue", "rest"],
        &[
            ("DELETE", "/?color=blue", &[], "delete"),
            ("GET", "/?a=b&color=blue", &[], "blue"),
            ("GET", "/?color=bl%75e", &[], "blue"),
            ("GET", "/?color=red&color=blue", &[], "rest"),
            ("POST", "/", &[], "rest"),
        ],
    )
    .await
}

#[tokio::test]
async fn more_headers_win_over_fewer_and_the_first_rule_over_later_ones() -> anyhow::Result<()> {
    answers(
        "\
- matches: [{headers: [{name: a, value: '1'}]}]
  backendRefs: [{name: one, port: 80}]
- matches: [{headers: [{name: a, value: '1'}, {name: b, value: '2'}]}]
  backendRefs: [{name: two, port: 80}]
- matches: [{headers: [{name: c, value: '3'}]}]
  backendRefs: [{name: later, port: 80}]",
        ["one", "two", "later"],
        &[
            ("GET", "/", &[("a", "1")], "one"),
            ("GET", "/", &[("a", "1"), ("b", "2")], "two"),
            ("GET", "/", &[("c", "3"), ("a", "1")], "one"),
            ("GET", "/", &[("c", "3")], "later"),
        ],
    )
    .await
}

#[tokio::test]
async fn the_more_specific_hostname_gets_the_request_and_hides_no_other() -> anyhow::Result<()> {
    let (_origins, services) = named(["exact", "wild", "any"]).await?;
    let of = |name: &str, hostnames: &str, path: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: apps}}\nspec:\n  \
             parentRefs: [{{name: edge, namespace: infra}}]\n  hostnames: {hostnames}\n  rules:\n    \
             - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: {name}, port: 80}}]\n"
        )
    };
    let yaml = documents([
        GATEWAY,
        &of("exact", "[shop.example.com]", "/cart"),
        &of("wild", "['*.example.com']", "/"),
        &of("any", "[]", "/"),
        &services,
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for (host, target, name) in [
        ("shop.example.com", "/cart", "exact"),
        ("SHOP.example.com:80", "/cart", "exact"),
        ("shop.example.com", "/", "wild"),
        ("a.b.example.com", "/", "wild"),
        ("example.com", "/", "any"),
        ("example.org", "/cart", "any"),
    ] {
        assert_eq!(client.get(host, target).await?.text(), name, "{host}{target}");
    }
    Ok(())
}
