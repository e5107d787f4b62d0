//! Filters, at rules and at backends.

use portway_testkit::{Client, Gateway, Message};

use crate::{GATEWAY, HOST, documents, named, route};

/// Sends one request through a route with these rules, whose backends are `a` and `b`; returns the answer and
/// what `a` got, if anything.
async fn through(
    rules: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<(Message, Option<Message>)> {
    let ([a, _b], services) = named(["a", "b"]).await?;
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.request(method, HOST, target, headers, b"").await?;
    Ok((answer, a.requests().pop()))
}

#[tokio::test]
async fn request_headers_are_set_added_and_removed() -> anyhow::Result<()> {
    let (_, got) = through(
        "\
- filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: new}]
        add: [{name: X-Add, value: second}]
        remove: [X-Remove]
  backendRefs: [{name: a, port: 80}]",
        "GET",
        "/",
        &[("x-set", "old"), ("x-add", "first"), ("x-remove", "gone"), ("x-other", "kept")],
    )
    .await?;
    let got = got.expect("the request arrived");
    assert_eq!(got.all("x-set").collect::<Vec<_>>(), ["new"]);
    assert_eq!(got.all("x-add").collect::<Vec<_>>().join(","), "first,second");
    assert_eq!(got.header("x-remove"), None);
    assert_eq!(got.header("x-other"), Some("kept"));
    Ok(())
}

#[tokio::test]
async fn a_backends_own_filters_come_after_the_rules() -> anyhow::Result<()> {
    let (answer, got) = through(
        "\
- filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-answer, value: rule}]}
  backendRefs:
    - name: a
      port: 80
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: x-share, value: a}]}",
        "GET",
        "/",
        &[],
    )
    .await?;
    assert_eq!(answer.header("x-answer"), Some("rule"));
    assert_eq!(got.expect("the request arrived").header("x-share"), Some("a"));
    Ok(())
}

#[tokio::test]
async fn redirects_name_the_new_place() -> anyhow::Result<()> {
    let rules = |redirect: &str| {
        format!(
            "- matches: [{{path: {{type: PathPrefix, value: /old}}}}]\n  filters: [{{type: RequestRedirect, requestRedirect: {redirect}}}]"
        )
    };
    for (redirect, status, location) in [
        ("{scheme: https, statusCode: 301}", 301, "https://shop.example.com/old/x?q=1"),
        ("{hostname: new.example.com, port: 8080}", 302, "http://new.example.com:8080/old/x?q=1"),
        (
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308, port: 80}",
            308,
            "http://shop.example.com/new/x?q=1",
        ),
        (
            "{path: {type: ReplaceFullPath, replaceFullPath: /all}, statusCode: 303, scheme: https, port: 8443}",
            303,
            "https://shop.example.com:8443/all?q=1",
        ),
    ] {
        let (answer, _) = through(&rules(redirect), "GET", "/old/x?q=1", &[]).await?;
        assert_eq!((answer.status(), answer.header("location")), (status, Some(location)), "{redirect}");
    }
    Ok(())
}

#[tokio::test]
async fn rewrites_change_path_and_host_and_keep_the_query() -> anyhow::Result<()> {
    for (rewrite, target, host) in [
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}", "/new/x?q=1", HOST),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}", "/x?q=1", HOST),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /all}}", "/all?q=1", HOST),
        ("{hostname: inner.example.com}", "/old/x?q=1", "inner.example.com"),
    ] {
        let rules = format!(
            "- matches: [{{path: {{type: PathPrefix, value: /old}}}}]\n  filters: [{{type: URLRewrite, urlRewrite: {rewrite}}}]\n  backendRefs: [{{name: a, port: 80}}]"
        );
        let (_, got) = through(&rules, "GET", "/old/x?q=1", &[]).await?;
        let got = got.expect("the request arrived");
        assert_eq!((got.target(), got.header("host")), (target, Some(host)), "{rewrite}");
    }
    Ok(())
}

#[tokio::test]
async fn mirrors_get_a_copy_and_their_answer_goes_nowhere() -> anyhow::Result<()> {
    let ([a, b], services) = named(["a", "b"]).await?;
    let rules = "\
- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}]
  backendRefs: [{name: a, port: 80}]";
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.request("POST", HOST, "/x", &[("x-one", "1")], b"hello").await?;
    assert_eq!(answer.text(), "a");
    let (original, copy) = (a.next().await?, b.next().await?);
    assert_eq!((copy.target(), copy.header("x-one"), &copy.body[..]), ("/x", Some("1"), &b"hello"[..]));
    assert_eq!(original.body, copy.body);
    Ok(())
}

#[tokio::test]
async fn preflights_are_answered_for_origins_that_may() -> anyhow::Result<()> {
    let rules = "\
- filters:
    - type: CORS
      cors:
        allowOrigins: ['https://*.example.com']
        allowMethods: [GET, PUT]
        allowHeaders: [x-one]
        maxAge: 600
  backendRefs: [{name: a, port: 80}]";
    let asks = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
    let (answer, got) = through(rules, "OPTIONS", "/", &asks("https://app.example.com")).await?;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert!(got.is_none(), "the gateway answers a preflight by itself");
    let (answer, _) = through(rules, "OPTIONS", "/", &asks("https://evil.example.org")).await?;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let (answer, got) = through(rules, "GET", "/", &[("origin", "https://app.example.com")]).await?;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(got.is_some());
    Ok(())
}
