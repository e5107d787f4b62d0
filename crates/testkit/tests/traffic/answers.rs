//! What the gateway answers when it cannot pass a request on.

use portway_testkit::{Client, Gateway, origin};

use crate::{GATEWAY, HOST, documents, named, route};

async fn status(rules: &str, more: &str, host: &str) -> anyhow::Result<u16> {
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), more]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    Ok(client.get(host, "/").await?.status())
}

#[tokio::test]
async fn no_route_is_404() -> anyhow::Result<()> {
    let (_a, service) = named(["a"]).await?;
    assert_eq!(status("- backendRefs: [{name: a, port: 80}]", &service, "other.example.com").await?, 404);
    Ok(())
}

#[tokio::test]
async fn a_backend_that_does_not_exist_is_500() -> anyhow::Result<()> {
    assert_eq!(status("- backendRefs: [{name: gone, port: 80}]", "", HOST).await?, 500);
    Ok(())
}

#[tokio::test]
async fn a_backend_in_another_namespace_needs_a_grant() -> anyhow::Result<()> {
    let a = portway_testkit::Origin::named("a").await?;
    let service = a.service("private", "a");
    let rules = "- backendRefs: [{name: a, namespace: private, port: 80}]";
    assert_eq!(status(rules, &service, HOST).await?, 500);
    let grant = "\
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: apps, namespace: private}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: apps}]
  to: [{group: '', kind: Service}]
";
    assert_eq!(status(rules, &documents([&service, grant]), HOST).await?, 200);
    Ok(())
}

#[tokio::test]
async fn an_invalid_backend_costs_only_its_share() -> anyhow::Result<()> {
    let (_a, service) = named(["a"]).await?;
    let rules = "- backendRefs: [{name: a, port: 80, weight: 3}, {name: gone, port: 80, weight: 1}]";
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &service]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let mut failed = 0;
    for _ in 0..40 {
        match client.get(HOST, "/").await?.status() {
            200 => {}
            500 => failed += 1,
            other => panic!("status {other}"),
        }
    }
    assert_eq!(failed, 10);
    Ok(())
}

#[tokio::test]
async fn no_endpoints_is_503() -> anyhow::Result<()> {
    let service = origin::service("apps", "empty", &[]);
    assert_eq!(status("- backendRefs: [{name: empty, port: 80}]", &service, HOST).await?, 503);
    Ok(())
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_503() -> anyhow::Result<()> {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let service = origin::service("apps", "gone", &[gone]);
    assert_eq!(status("- backendRefs: [{name: gone, port: 80}]", &service, HOST).await?, 503);
    Ok(())
}
