//! Change while serving: no request fails and no connection is closed.

use std::net::SocketAddr;

use portway_testkit::certificates::{Certificate, trust};
use portway_testkit::{Answer, Client, Gateway, Load, Origin, Target, origin};

use crate::{GATEWAY, HOST, documents, named, route};

/// An origin that switches protocols when it is asked to, and answers 200 else.
async fn chatty() -> anyhow::Result<Origin> {
    Origin::new(|request| match request.header("upgrade") {
        Some(_) => Answer::Upgrade(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
        None => Answer::text("chat"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_route_edits_fail_no_request() -> anyhow::Result<()> {
    let ([_a, _b], services) = named(["a", "b"]).await?;
    let chat = chatty().await?;
    let edit = |nth: usize| {
        let backend = if nth.is_multiple_of(2) { "a" } else { "b" };
        let rules = format!(
            "- matches: [{{path: {{type: PathPrefix, value: /chat}}}}]\n  backendRefs: [{{name: chat, port: 80}}]\n\
             - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-edit, value: '{nth}'}}]}}}}]\n  \
             backendRefs: [{{name: {backend}, port: 80}}]"
        );
        let other = route(&format!("other-{}", nth % 3), "- matches: [{path: {type: Exact, value: /other}}]");
        documents([GATEWAY, &route("r", &rules), &other, &services, &chat.service("apps", "chat")])
    };
    let mut gateway = Gateway::from_yaml(&edit(0))?;
    let address = gateway.addr("http")?;
    let target = Target::plain(address, HOST);
    let mut load = Load::on(&target).await?.with_websocket(&target, "/chat").await?;
    for nth in 1..=300 {
        gateway.apply(&edit(nth))?;
        let seen = Client::connect(address).await?.get(HOST, "/").await?;
        assert_eq!(seen.header("x-edit"), Some(nth.to_string().as_str()), "an edit holds once it is applied");
    }
    load.answered(20).await?;
    assert!(load.end().await? > 0, "every client was answered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_of_all_endpoints_fails_no_request() -> anyhow::Result<()> {
    let mut origins = vec![Origin::named("pod").await?, Origin::named("pod").await?];
    let of = |origins: &[Origin]| {
        let endpoints: Vec<SocketAddr> = origins.iter().map(Origin::address).collect();
        let service = origin::service("apps", "rolled", &endpoints);
        documents([GATEWAY, &route("r", "- backendRefs: [{name: rolled, port: 80}]"), &service])
    };
    let mut gateway = Gateway::from_yaml(&of(&origins))?;
    let mut load = Load::on(&Target::plain(gateway.addr("http")?, HOST)).await?;
    let mut retired = Vec::new();
    for _ in 0..20 {
        origins.push(Origin::named("pod").await?);
        gateway.apply(&of(&origins))?;
        // As a pod: it is taken from the endpoints first, and ends when nothing is on its way to it any more.
        retired.push(origins.remove(0));
        gateway.apply(&of(&origins))?;
        load.answered(10).await?;
    }
    assert!(load.end().await? > 0);
    let newest = origins.iter().map(|origin| origin.requests().len()).sum::<usize>();
    assert!(newest > 0, "the newest endpoints serve");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_certificates_in_turn_fail_no_handshake_and_no_request() -> anyhow::Result<()> {
    let (_a, service) = named(["a"]).await?;
    let gateway = GATEWAY.replace(
        "{name: http, protocol: HTTP, port: 80,",
        "{name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: edge}]},",
    );
    let with = |certificate: &Certificate| {
        let secret = certificate.secret("infra", "edge");
        documents([&gateway, &route("r", "- backendRefs: [{name: a, port: 80}]"), &service, &secret])
    };
    let certificates = (0..=50).map(|_| Certificate::new([HOST])).collect::<anyhow::Result<Vec<_>>>()?;
    let mut gateway = Gateway::from_yaml(&with(&certificates[0]))?;
    let address = gateway.addr("https")?;
    let target = Target::tls(address, HOST, &trust(&certificates)?);
    let mut load = Load::on(&target).await?.with_new_connections(&target);
    for certificate in &certificates[1..] {
        gateway.apply(&with(certificate))?;
        let fresh = Client::connect_tls(address, HOST, &trust([certificate])?).await?;
        assert!(fresh.certificate.as_deref() == Some(certificate.der()), "new connections get the new one");
        load.answered(8).await?;
    }
    assert!(load.end().await? > 0, "every client was answered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_weights_and_backends_fail_no_request() -> anyhow::Result<()> {
    let ([a, b, c], services) = named(["a", "b", "c"]).await?;
    let edit = |nth: usize| {
        let (weight, other) = (nth % 11, if nth.is_multiple_of(3) { "b" } else { "c" });
        let rules = format!(
            "- backendRefs:\n    - {{name: a, port: 80, weight: {weight}}}\n    \
             - {{name: {other}, port: 80, weight: {}}}\n    - {{name: moving, port: 80, weight: 1}}",
            10 - weight
        );
        // The Service behind one of the shares has other endpoints each time.
        let moving = match nth % 4 {
            0 => vec![a.address()],
            1 => vec![b.address(), a.address()],
            2 => vec![c.address()],
            _ => vec![a.address(), b.address(), c.address()],
        };
        let moving = origin::service("apps", "moving", &moving);
        documents([GATEWAY, &route("r", &rules), &services, &moving])
    };
    let mut gateway = Gateway::from_yaml(&edit(0))?;
    let address = gateway.addr("http")?;
    let target = Target::plain(address, HOST);
    let mut load = Load::on(&target).await?.with_new_connections(&target);
    for nth in 1..=110 {
        gateway.apply(&edit(nth))?;
        load.answered(3).await?;
    }
    assert!(load.end().await? > 0, "every client was answered");

    // After all these edits, the shares are those of the last one: 0 of a, 10 of c, 1 of the Service that moved.
    let before = [&a, &b, &c].map(|origin| origin.requests().len());
    let mut client = Client::connect(address).await?;
    for _ in 0..110 {
        assert_eq!(client.get(HOST, "/").await?.status(), 200);
    }
    let after = [&a, &b, &c].map(|origin| origin.requests().len());
    assert_eq!([0, 1, 2].map(|nth| after[nth] - before[nth]), [0, 0, 110]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_listeners_come_and_go_without_a_trace() -> anyhow::Result<()> {
    let (_a, service) = named(["a"]).await?;
    let more = "    - {name: more, protocol: HTTP, port: 81, allowedRoutes: {namespaces: {from: All}}}\n";
    let with = |listener: &str| {
        let gateway = format!("{GATEWAY}{listener}");
        documents([&gateway, &route("r", "- backendRefs: [{name: a, port: 80}]"), &service])
    };
    let mut gateway = Gateway::from_yaml(&with(""))?;
    let mut load = Load::on(&Target::plain(gateway.addr("http")?, HOST)).await?;
    for _ in 0..10 {
        gateway.apply(&with(more))?;
        let extra = gateway.addr("more")?;
        assert_eq!(Client::connect(extra).await?.get(HOST, "/").await?.text(), "a");
        gateway.apply(&with(""))?;
        assert!(Client::connect(extra).await.is_err(), "the listener is gone");
        load.answered(10).await?;
    }
    assert!(load.end().await? > 0);
    Ok(())
}

#[tokio::test]
async fn a_request_under_way_ends_on_the_plan_that_it_began_with() -> anyhow::Result<()> {
    let ([_a, _b], services) = named(["a", "b"]).await?;
    let to = |name: &str| {
        let rules = format!("- backendRefs: [{{name: {name}, port: 80}}]");
        documents([GATEWAY, &route("r", &rules), &services])
    };
    let mut gateway = Gateway::from_yaml(&to("a"))?;
    let address = gateway.addr("http")?;
    let mut slow = Client::connect(address).await?;
    slow.write(
        "POST / HTTP/1.1\r\nHost: shop.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )
    .await?;
    // The interim answer shows that the gateway has begun with the request.
    assert_eq!(slow.wire().head().await?.map(|head| head.status()), Some(100));
    gateway.apply(&to("b"))?;
    assert_eq!(Client::connect(address).await?.get(HOST, "/").await?.text(), "b");
    slow.write("late").await?;
    assert_eq!(slow.response().await?.text(), "a");
    Ok(())
}
