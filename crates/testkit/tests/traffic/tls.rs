//! TLS termination: which certificate, which listener, and what becomes of bad ones.

use portway_testkit::certificates::{Certificate, trust};
use portway_testkit::{Client, Gateway, Http2};

use crate::{documents, named};

/// A Gateway `infra/edge` with the HTTPS listeners `exact` for `shop.example.com` and `wild` for
/// `*.example.com` on one port, and a route to the Service of the same name on each.
const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: portway
  listeners:
    - name: exact
      protocol: HTTPS
      port: 443
      hostname: shop.example.com
      tls: {certificateRefs: [{name: exact}]}
      allowedRoutes: {namespaces: {from: All}}
    - name: wild
      protocol: HTTPS
      port: 443
      hostname: '*.example.com'
      tls: {certificateRefs: [{name: wild}]}
      allowedRoutes: {namespaces: {from: All}}
";

fn route(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: apps}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: infra, sectionName: {name}}}]\n  rules:\n    \
         - backendRefs: [{{name: {name}, port: 80}}]\n"
    )
}

#[tokio::test]
async fn the_server_name_picks_listener_and_certificate() -> anyhow::Result<()> {
    let (exact, wild) = (Certificate::new(["shop.example.com"])?, Certificate::new(["*.example.com"])?);
    let (_origins, services) = named(["exact", "wild"]).await?;
    let secrets = documents([&exact.secret("infra", "exact"), &wild.secret("infra", "wild")]);
    let yaml = documents([GATEWAY, &secrets, &route("exact"), &route("wild"), &services]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&exact, &wild])?;
    for (name, certificate, answer) in
        [("shop.example.com", &exact, "exact"), ("www.example.com", &wild, "wild")]
    {
        let mut client = Client::connect_tls(gateway.addr("exact")?, name, &roots).await?;
        assert!(client.certificate.as_deref() == Some(certificate.der()), "{name}");
        assert_eq!(client.get(name, "/").await?.text(), answer);
        let http2 = Http2::connect_tls(gateway.addr("exact")?, name, &roots).await?;
        let request = http::Request::get(format!("https://{name}/")).body(bytes::Bytes::new())?;
        assert_eq!(http2.send(request).await?.body, answer);
    }
    let unknown = Client::connect_tls(gateway.addr("exact")?, "example.org", &roots).await;
    assert!(unknown.is_err(), "no listener is for that name");
    Ok(())
}

#[tokio::test]
async fn a_connection_for_one_listener_serves_no_other() -> anyhow::Result<()> {
    let (exact, wild) = (Certificate::new(["shop.example.com"])?, Certificate::new(["*.example.com"])?);
    let (_origins, services) = named(["exact", "wild"]).await?;
    let secrets = documents([&exact.secret("infra", "exact"), &wild.secret("infra", "wild")]);
    let yaml = documents([GATEWAY, &secrets, &route("exact"), &route("wild"), &services]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&exact, &wild])?;
    let mut client = Client::connect_tls(gateway.addr("exact")?, "www.example.com", &roots).await?;
    assert_eq!(client.get("shop.example.com", "/").await?.status(), 421);
    Ok(())
}

#[tokio::test]
async fn a_bad_certificate_costs_its_own_listener_only() -> anyhow::Result<()> {
    let (exact, other) = (Certificate::new(["shop.example.com"])?, Certificate::new(["*.example.com"])?);
    let (_origins, services) = named(["exact", "wild"]).await?;
    let mut mismatched = Certificate::new(["*.example.com"])?;
    mismatched.key = other.key;
    let secrets = documents([&exact.secret("infra", "exact"), &mismatched.secret("infra", "wild")]);
    let yaml = documents([GATEWAY, &secrets, &route("exact"), &route("wild"), &services]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client =
        Client::connect_tls(gateway.addr("exact")?, "shop.example.com", &trust([&exact])?).await?;
    assert_eq!(client.get("shop.example.com", "/").await?.text(), "exact");
    assert!(gateway.addr("wild").is_err(), "a listener without a usable certificate does not serve");
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_closes_none() -> anyhow::Result<()> {
    let (old, wild) = (Certificate::new(["shop.example.com"])?, Certificate::new(["*.example.com"])?);
    let (_origins, services) = named(["exact", "wild"]).await?;
    let with = |certificate: &Certificate| {
        let secrets = documents([&certificate.secret("infra", "exact"), &wild.secret("infra", "wild")]);
        documents([GATEWAY, &secrets, &route("exact"), &route("wild"), &services])
    };
    let mut gateway = Gateway::from_yaml(&with(&old))?;
    let address = gateway.addr("exact")?;
    let mut before = Client::connect_tls(address, "shop.example.com", &trust([&old])?).await?;
    assert_eq!(before.get("shop.example.com", "/").await?.text(), "exact");
    let new = Certificate::new(["shop.example.com"])?;
    gateway.apply(&with(&new))?;
    assert_eq!(gateway.addr("exact")?, address);
    let mut after = Client::connect_tls(address, "shop.example.com", &trust([&new])?).await?;
    assert_eq!(after.get("shop.example.com", "/").await?.text(), "exact");
    assert_eq!(before.get("shop.example.com", "/").await?.text(), "exact");
    Ok(())
}
