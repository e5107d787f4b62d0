//! Filters of listeners, which requests pass before they are matched.

use portway_testkit::{Answer, Client, Gateway, Message, Origin};

use crate::{GATEWAY, HOST, documents, named, route};

/// The Gateway with two filters on its listener: `first` and `second` are asked, in this order.
fn guarded() -> String {
    let filter = |name: &str| {
        format!(
            "{{type: ExternalAuth, externalAuth: {{protocol: HTTP, backendRef: {{name: {name}, port: 80}}, \
             http: {{allowedHeaders: [x-user], allowedResponseHeaders: [x-user, host]}}}}}}"
        )
    };
    let filters =
        format!("filters: {{requests: [{}, {}]}}, allowedRoutes", filter("first"), filter("second"));
    GATEWAY.replace("allowedRoutes", &filters)
}

/// Says yes and names the user; sends those without `Authorization` away.
async fn first() -> anyhow::Result<Origin> {
    Origin::new(|asked: &Message| match asked.header("authorization") {
        Some(user) => Answer::Raw(
            format!(
                "HTTP/1.1 200 OK\r\nx-user: {user}\r\nhost: other.example.com\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes(),
        ),
        None => Answer::status(401, "who?"),
    })
    .await
}

#[tokio::test]
async fn what_they_add_decides_the_route() -> anyhow::Result<()> {
    let first = first().await?;
    let second = Origin::new(|asked: &Message| match asked.header("x-user") {
        Some(user) => Answer::Raw(
            format!("HTTP/1.1 200 OK\r\nx-user: {user}-checked\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        ),
        None => Answer::status(500, "not in order"),
    })
    .await?;
    let ([ann, others], services) = named(["ann", "others"]).await?;
    let rules = "\
- matches: [{headers: [{name: x-user, value: ann-checked}]}]
  backendRefs: [{name: ann, port: 80}]
- backendRefs: [{name: others, port: 80}]";
    let (a, b) = (first.service("infra", "first"), second.service("infra", "second"));
    let gateway = Gateway::from_yaml(&documents([&guarded(), &route("r", rules), &services, &a, &b]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.request("GET", HOST, "/", &[("authorization", "ann")], b"").await?;
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ann"[..]));
    // The host stays, and with it the listener and its routes.
    assert_eq!(ann.requests().pop().expect("arrived").header("host"), Some(HOST));
    let made_up = [("authorization", "bob"), ("x-user", "ann-checked")];
    let answer = client.request("GET", HOST, "/", &made_up, b"").await?;
    assert_eq!(answer.body, b"others");
    assert_eq!(others.requests().pop().expect("arrived").header("x-user"), Some("bob-checked"));
    Ok(())
}

#[tokio::test]
async fn who_is_refused_meets_no_further_filter_and_no_route() -> anyhow::Result<()> {
    let (first, second) = (first().await?, Origin::named("second").await?);
    let ([app], services) = named(["app"]).await?;
    let rules = "- backendRefs: [{name: app, port: 80}]";
    let (a, b) = (first.service("infra", "first"), second.service("infra", "second"));
    let gateway = Gateway::from_yaml(&documents([&guarded(), &route("r", rules), &services, &a, &b]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for host in [HOST, "no-route.example.com"] {
        assert_eq!(client.get(host, "/").await?.status(), 401);
    }
    assert_eq!((first.requests().len(), second.requests().len(), app.requests().len()), (2, 0, 0));
    // They run for requests that no route wants, too.
    let answer = client.request("GET", "no-route.example.com", "/", &[("authorization", "ann")], b"").await?;
    assert_eq!((answer.status(), second.requests().len()), (404, 1));
    Ok(())
}

#[tokio::test]
async fn a_service_that_comes_and_goes_opens_and_shuts_the_listener() -> anyhow::Result<()> {
    let (first, second) = (first().await?, Origin::named("second").await?);
    let ([_app], services) = named(["app"]).await?;
    let (gateway, route) = (guarded(), route("r", "- backendRefs: [{name: app, port: 80}]"));
    let (a, b) = (first.service("infra", "first"), second.service("infra", "second"));
    let without = documents([&gateway, &route, &services, &a]);
    let with = documents([&gateway, &route, &services, &a, &b]);
    let mut gateway = Gateway::from_yaml(&without)?;
    let address = gateway.addr("http")?;
    for (yaml, status) in [(&without, 500), (&with, 200), (&without, 500), (&with, 200)] {
        gateway.apply(yaml)?;
        let mut client = Client::connect(address).await?;
        let answer = client.request("GET", HOST, "/", &[("authorization", "ann")], b"").await?;
        assert_eq!(answer.status(), status);
    }
    Ok(())
}
