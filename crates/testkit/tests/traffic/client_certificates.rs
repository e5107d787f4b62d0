//! Certificates of clients: who is let in by which listener.

use std::net::SocketAddr;
use std::sync::Arc;

use portway_testkit::certificates::{Authority, Certificate, bundle, trust};
use portway_testkit::{Client, Gateway};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{documents, named};

const HOST: &str = "shop.example.com";

/// A Gateway with the HTTPS listeners `first` (443) and `second` (8443), and what it says of clients, as YAML.
fn edge(frontend: &str) -> String {
    let listener = |name: &str, port: u16| {
        format!(
            "    - {{name: {name}, protocol: HTTPS, port: {port}, tls: {{certificateRefs: [{{name: edge}}]}}, \
             allowedRoutes: {{namespaces: {{from: All}}}}}}\n"
        )
    };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: portway}}\nspec: \
         {{controllerName: portway.dev/gateway-controller}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: edge, namespace: infra}}\nspec:\n  gatewayClassName: portway\n  tls: {{frontend: {{{frontend}}}}}\n  \
         listeners:\n{}{}",
        listener("first", 443),
        listener("second", 8443),
    )
}

/// Validation by a ConfigMap.
fn validation(ca: &str, mode: &str) -> String {
    format!(
        "{{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: {ca}}}], mode: {mode}}}}}"
    )
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: apps}\nspec:\n  \
                     parentRefs: [{name: edge, namespace: infra}]\n  rules:\n    - backendRefs: [{name: web, port: 80}]\n";

/// Whether a client is served.
async fn is_served(
    address: SocketAddr,
    roots: &Arc<RootCertStore>,
    own: Option<&Certificate>,
) -> anyhow::Result<bool> {
    // With TLS 1.3, the server's verdict comes after the client's handshake.
    let Ok(mut client) = Client::connect_as(address, HOST, roots, own).await else { return Ok(false) };
    Ok(client.get(HOST, "/").await.is_ok_and(|answer| answer.text() == "web"))
}

#[tokio::test]
async fn each_port_lets_in_whom_its_own_authority_has_signed() -> anyhow::Result<()> {
    let (one, two, server) = (Authority::new()?, Authority::new()?, Certificate::new([HOST])?);
    let (_origins, services) = named(["web"]).await?;
    let frontend = format!(
        "default: {}, perPort: [{{port: 8443, tls: {}}}]",
        validation("one", "AllowValidOnly"),
        validation("two", "AllowValidOnly")
    );
    let yaml = documents([
        &edge(&frontend),
        &server.secret("infra", "edge"),
        &one.config_map("infra", "one"),
        &two.config_map("infra", "two"),
        ROUTE,
        &services,
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&server])?;
    let (of_one, of_two) = (one.issue(["a.client"])?, two.issue(["b.client"])?);
    for (listener, own, served) in [
        ("first", Some(&of_one), true),
        ("first", Some(&of_two), false),
        ("first", None, false),
        ("second", Some(&of_two), true),
        ("second", Some(&of_one), false),
        ("second", None, false),
    ] {
        let found = is_served(gateway.addr(listener)?, &roots, own).await?;
        assert_eq!(found, served, "{listener}, {}", own.map_or("none", |own| &own.chain));
    }
    Ok(())
}

#[tokio::test]
async fn the_insecure_fallback_lets_everyone_in() -> anyhow::Result<()> {
    let (one, two, server) = (Authority::new()?, Authority::new()?, Certificate::new([HOST])?);
    let (_origins, services) = named(["web"]).await?;
    let yaml = documents([
        &edge(&format!("default: {}", validation("one", "AllowInsecureFallback"))),
        &server.secret("infra", "edge"),
        &one.config_map("infra", "one"),
        ROUTE,
        &services,
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&server])?;
    for own in [Some(&one.issue(["a.client"])?), Some(&two.issue(["b.client"])?), None] {
        assert!(is_served(gateway.addr("first")?, &roots, own).await?);
    }
    Ok(())
}

#[tokio::test]
async fn without_an_authority_the_listener_stays_shut_and_others_serve() -> anyhow::Result<()> {
    let server = Certificate::new([HOST])?;
    let (_origins, services) = named(["web"]).await?;
    let frontend =
        format!("default: {}, perPort: [{{port: 8443, tls: {{}}}}]", validation("missing", "AllowValidOnly"));
    let yaml = documents([&edge(&frontend), &server.secret("infra", "edge"), ROUTE, &services]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&server])?;
    assert!(gateway.addr("first").is_err());
    assert!(is_served(gateway.addr("second")?, &roots, None).await?);
    Ok(())
}

#[tokio::test]
async fn an_authority_that_goes_takes_its_clients_along() -> anyhow::Result<()> {
    let (one, two, server) = (Authority::new()?, Authority::new()?, Certificate::new([HOST])?);
    let (_origins, services) = named(["web"]).await?;
    let with = |authorities: &[&Authority]| {
        documents([
            &edge(&format!("default: {}", validation("ca", "AllowValidOnly"))),
            &server.secret("infra", "edge"),
            &bundle("infra", "ca", authorities),
            ROUTE,
            &services,
        ])
    };
    let roots = trust([&server])?;
    let (of_one, of_two) = (one.issue(["a.client"])?, two.issue(["b.client"])?);
    let mut gateway = Gateway::from_yaml(&with(&[&one]))?;
    let address = gateway.addr("first")?;
    let mut before = Client::connect_as(address, HOST, &roots, Some(&of_one)).await?;
    assert_eq!(before.get(HOST, "/").await?.text(), "web");
    gateway.apply(&with(&[&one, &two]))?;
    assert!(
        is_served(address, &roots, Some(&of_one)).await? && is_served(address, &roots, Some(&of_two)).await?
    );
    gateway.apply(&with(&[&two]))?;
    assert!(
        !is_served(address, &roots, Some(&of_one)).await?
            && is_served(address, &roots, Some(&of_two)).await?
    );
    // A change closes no connection.
    assert_eq!(before.get(HOST, "/").await?.text(), "web");
    Ok(())
}

/// One exchange with a configuration that remembers sessions; how the handshake went, if the client is served.
async fn visit(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<Option<HandshakeKind>> {
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = TcpStream::connect(address).await?;
    let Ok(mut stream) = connector.connect(HOST.try_into()?, stream).await else { return Ok(None) };
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let served = stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.ends_with(b"web");
    Ok(stream.get_ref().1.handshake_kind().filter(|_| served))
}

#[tokio::test]
async fn a_ticket_of_one_listener_opens_no_other() -> anyhow::Result<()> {
    let (one, server) = (Authority::new()?, Certificate::new([HOST])?);
    let (_origins, services) = named(["web"]).await?;
    let frontend =
        format!("default: {{}}, perPort: [{{port: 8443, tls: {}}}]", validation("one", "AllowValidOnly"));
    let yaml = documents([
        &edge(&frontend),
        &server.secret("infra", "edge"),
        &one.config_map("infra", "one"),
        ROUTE,
        &services,
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust([&server])?)
        .with_no_client_auth();
    let config = Arc::new(config);
    assert_eq!(visit(gateway.addr("first")?, &config).await?, Some(HandshakeKind::Full));
    assert_eq!(visit(gateway.addr("first")?, &config).await?, Some(HandshakeKind::Resumed));
    assert_eq!(visit(gateway.addr("second")?, &config).await?, None, "no certificate was shown");
    Ok(())
}
