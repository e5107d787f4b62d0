//! ExternalAuth filters that ask over HTTP.

use portway_testkit::{Answer, Client, Gateway, Message, Origin};

use crate::{GATEWAY, HOST, documents, named, route};

/// The rules of a route to `app` that asks the Service `auth`; `settings` are those of `http`, and `more` of
/// the filter.
fn rules(settings: &str, more: &str) -> String {
    format!(
        "\
- filters:
    - type: ExternalAuth
      externalAuth: {{protocol: HTTP, http: {settings}, backendRef: {{name: auth, port: 80}}{more}}}
  backendRefs: [{{name: app, port: 80}}]"
    )
}

/// A gateway in front of `app`, asking an origin that says yes to requests with `Authorization: ann` and names
/// the user, and that sends others away.
async fn guarded(rules: &str) -> anyhow::Result<(Gateway, Origin, Origin)> {
    let auth = Origin::new(|asked: &Message| match asked.header("authorization") {
        Some("ann") => Answer::Raw(
            b"HTTP/1.1 200 OK\r\nX-User: ann\r\nX-Secret: s\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        ),
        Some("moved") => Answer::Raw(
            b"HTTP/1.1 302 Found\r\nLocation: https://login/\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        Some("empty") => Answer::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        _ => Answer::Raw(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 4\r\n\r\nwho?".to_vec(),
        ),
    })
    .await?;
    let ([app], services) = named(["app"]).await?;
    let yaml = documents([GATEWAY, &route("r", rules), &services, &auth.service("apps", "auth")]);
    Ok((Gateway::from_yaml(&yaml)?, app, auth))
}

#[tokio::test]
async fn who_may_pass_does_and_brings_what_the_service_adds() -> anyhow::Result<()> {
    let (gateway, app, auth) = guarded(&rules(
        "{path: /check, allowedHeaders: [x-asked], allowedResponseHeaders: [X-User, X-Groups]}",
        "",
    ))
    .await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let headers = [
        ("authorization", "ann"),
        ("x-asked", "1"),
        ("x-other", "2"),
        ("X-USER", "root"),
        ("x-groups", "admin"),
    ];
    let answer = client.request("POST", HOST, "/cart?q=1", &headers, b"body").await?;
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"app"[..]));
    let asked = auth.requests().pop().expect("the service was asked");
    assert_eq!(asked.start, "POST /check/cart?q=1 HTTP/1.1");
    assert_eq!(asked.header("host"), Some(HOST));
    assert_eq!(asked.header("content-length"), Some("0"));
    assert_eq!((asked.header("x-asked"), asked.header("x-other")), (Some("1"), None));
    let got = app.requests().pop().expect("the request arrived");
    assert_eq!((got.target(), got.body.as_slice()), ("/cart?q=1", &b"body"[..]));
    // What the client made up under the service's names is gone, whether the service gave one or not.
    assert_eq!(got.all("x-user").collect::<Vec<_>>(), ["ann"]);
    assert_eq!((got.header("x-groups"), got.header("x-secret")), (None, None));
    Ok(())
}

#[tokio::test]
async fn who_may_not_gets_the_services_answer() -> anyhow::Result<()> {
    let (gateway, app, _auth) = guarded(&rules("{}", "")).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.get(HOST, "/").await?;
    assert_eq!((answer.status(), answer.body.as_slice()), (401, &b"who?"[..]));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let answer = client.request("GET", HOST, "/", &[("authorization", "moved")], b"").await?;
    assert_eq!((answer.status(), answer.header("location")), (302, Some("https://login/")));
    // A success that is no 200 is no yes, and would look like one.
    let answer = client.request("GET", HOST, "/", &[("authorization", "empty")], b"").await?;
    assert_eq!(answer.status(), 403);
    assert!(app.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_body_is_told_and_sent_on_unchanged() -> anyhow::Result<()> {
    let (gateway, app, auth) = guarded(&rules("{}", ", forwardBody: {maxSize: 8}")).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let chunked = "POST / HTTP/1.1\r\nHost: shop.example.com\r\nAuthorization: ann\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    client.write(chunked).await?;
    assert_eq!(client.response().await?.status(), 200);
    assert_eq!(auth.requests().pop().expect("asked").body, b"abcdef");
    assert_eq!(app.requests().pop().expect("arrived").body, b"abcdef");
    let answer = client.request("PUT", HOST, "/", &[("authorization", "ann")], b"12345678").await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(app.requests().pop().expect("arrived").body, b"12345678");
    // One byte too many: nobody is asked.
    let answer = client.request("PUT", HOST, "/", &[("authorization", "ann")], b"123456789").await?;
    assert_eq!((answer.status(), auth.requests().len(), app.requests().len()), (413, 2, 2));
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(chunked.replace("3\r\ndef", "6\r\ndefghi")).await?;
    assert_eq!((client.response().await?.status(), auth.requests().len()), (413, 2));
    Ok(())
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on() -> anyhow::Result<()> {
    let (gateway, app, auth) = guarded(&rules("{}", ", forwardBody: {maxSize: 8}")).await?;
    let head = |length: usize| {
        format!(
            "PUT / HTTP/1.1\r\nHost: shop.example.com\r\nAuthorization: ann\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(head(4)).await?;
    assert_eq!(client.wire().head().await?.map(|head| head.status()), Some(100));
    client.write("body").await?;
    assert_eq!(client.response().await?.status(), 200);
    assert_eq!(auth.requests().pop().expect("asked").body, b"body");
    assert_eq!(app.requests().pop().expect("arrived").body, b"body");
    // One that is too long need not be sent at all.
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(head(9)).await?;
    assert_eq!(client.wire().head().await?.map(|head| head.status()), Some(413));
    Ok(())
}

#[tokio::test]
async fn nobody_passes_while_the_service_is_away() -> anyhow::Result<()> {
    let (gateway, app, auth) = guarded(&rules("{}", "")).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    drop(auth);
    let answer = client.request("GET", HOST, "/", &[("authorization", "ann")], b"").await?;
    assert_eq!((answer.status(), app.requests().len()), (503, 0));
    Ok(())
}

#[tokio::test]
async fn a_service_that_does_not_answer_keeps_to_the_rules_time() -> anyhow::Result<()> {
    let auth = Origin::new(|_| Answer::Hang).await?;
    let ([app], services) = named(["app"]).await?;
    let rules = rules("{}", "") + "\n  timeouts: {request: 300ms}";
    let yaml = documents([GATEWAY, &route("r", &rules), &services, &auth.service("apps", "auth")]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let begun = std::time::Instant::now();
    assert_eq!(client.get(HOST, "/").await?.status(), 503);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4) && app.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn an_invalid_reference_lets_nobody_pass() -> anyhow::Result<()> {
    let (gateway, app, _auth) = guarded(&rules("{}", "").replace("name: auth", "name: none")).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!((client.get(HOST, "/").await?.status(), app.requests().len()), (500, 0));
    Ok(())
}

#[tokio::test]
async fn preflights_are_answered_by_a_cors_filter_that_comes_first() -> anyhow::Result<()> {
    let rules = rules("{}", "").replace(
        "- filters:\n",
        "- filters:\n    - {type: CORS, cors: {allowOrigins: [\"https://o\"], allowMethods: [GET]}}\n",
    );
    let (gateway, _app, auth) = guarded(&rules).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let preflight = [("origin", "https://o"), ("access-control-request-method", "GET")];
    let answer = client.request("OPTIONS", HOST, "/", &preflight, b"").await?;
    assert_eq!((answer.status(), auth.requests().len()), (204, 0));
    // A script can read why it was refused.
    let answer = client.request("GET", HOST, "/", &[("origin", "https://o")], b"").await?;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (401, Some("https://o")));
    Ok(())
}

#[tokio::test]
async fn a_backends_own_filter_asks_for_that_backend_only() -> anyhow::Result<()> {
    let rules = "\
- backendRefs:
    - name: app
      port: 80
      filters:
        - {type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, forwardBody: {maxSize: 9}, backendRef: {name: auth, port: 80}}}";
    let (gateway, app, auth) = guarded(rules).await?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!(client.get(HOST, "/").await?.status(), 401);
    let answer = client.request("POST", HOST, "/", &[("authorization", "ann")], b"body").await?;
    assert_eq!((answer.status(), auth.requests().len()), (200, 2));
    assert_eq!(app.requests().pop().expect("arrived").body, b"body");
    Ok(())
}
