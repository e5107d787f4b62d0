//! TLS to backends: whom the gateway trusts, by which names, and what it shows of itself.

use portway_testkit::certificates::{Authority, Certificate, bundle, trust};
use portway_testkit::origin::service_speaking;
use portway_testkit::{Answer, Client, Gateway, H2Origin, Load, Origin, Target};

use crate::{GATEWAY, HOST, documents, l4, route};

const RULES: &str = "- backendRefs: [{name: web, port: 80}]";

/// A BackendTLSPolicy for the Service `apps/web` with this validation.
fn policy(validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: web, namespace: apps}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: web}}]\n  validation: {{{validation}}}\n"
    )
}

/// The validation of `name` by the ConfigMap `ca`.
fn by_ca(name: &str) -> String {
    format!("hostname: {name}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]")
}

async fn origin(certificate: &Certificate) -> anyhow::Result<Origin> {
    Origin::over_tls(&certificate.server(b"http/1.1", None)?, |_| Answer::text("secure")).await
}

async fn get(gateway: &Gateway) -> anyhow::Result<portway_testkit::Message> {
    Client::connect(gateway.addr("http")?).await?.get(HOST, "/").await
}

#[tokio::test]
async fn a_backend_that_is_who_it_should_be_is_reached_by_its_name() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let origin = origin(&ca.issue(["web.internal"])?).await?;
    let yaml = documents([
        GATEWAY,
        &route("r", RULES),
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("web.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for _ in 0..3 {
        assert_eq!(client.get(HOST, "/").await?.text(), "secure");
    }
    let seen = origin.handshakes();
    assert_eq!(seen.len(), 1, "connections over TLS are reused");
    assert_eq!(seen[0].server_name.as_deref(), Some("web.internal"));
    assert_eq!(seen[0].protocol.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(seen[0].certificate, None);
    assert_eq!(origin.requests()[0].header("host"), Some(HOST), "the server name changes no header");
    Ok(())
}

#[tokio::test]
async fn a_backend_that_is_someone_else_gets_no_request() -> anyhow::Result<()> {
    let (ca, other) = (Authority::new()?, Authority::new()?);
    let own = Certificate::new(["web.internal"])?;
    for (what, certificate, validation, served) in [
        ("another authority", other.issue(["web.internal"])?, by_ca("web.internal"), false),
        ("another name", ca.issue(["other.internal"])?, by_ca("web.internal"), false),
        ("nobody's", own, by_ca("web.internal"), false),
        (
            "no authority",
            ca.issue(["web.internal"])?,
            "hostname: web.internal, caCertificateRefs: [{group: '', kind: ConfigMap, name: missing}]"
                .to_owned(),
            false,
        ),
        ("as it should be", ca.issue(["web.internal"])?, by_ca("web.internal"), true),
    ] {
        let origin = origin(&certificate).await?;
        let yaml = documents([
            GATEWAY,
            &route("r", RULES),
            &origin.service("apps", "web"),
            &ca.config_map("apps", "ca"),
            &policy(&validation),
        ]);
        let gateway = Gateway::from_yaml(&yaml)?;
        let answer = get(&gateway).await?;
        assert_eq!(answer.status(), if served { 200 } else { 502 }, "{what}");
        assert_eq!(origin.requests().len(), usize::from(served), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn subject_alternative_names_take_the_place_of_the_host_name() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let origin = origin(&ca.issue(["web.internal", "spiffe://cluster/ns/apps/sa/web"])?).await?;
    for (names, status) in [
        ("{type: Hostname, hostname: web.internal}", 200),
        ("{type: Hostname, hostname: '*.internal'}", 200),
        ("{type: URI, uri: 'spiffe://cluster/ns/apps/sa/web'}", 200),
        (
            "{type: URI, uri: 'spiffe://cluster/ns/apps/sa/other'}, {type: Hostname, hostname: web.internal}",
            200,
        ),
        ("{type: URI, uri: 'spiffe://cluster/ns/apps/sa/other'}", 502),
        ("{type: Hostname, hostname: front.internal}", 502),
    ] {
        let yaml = documents([
            GATEWAY,
            &route("r", RULES),
            &origin.service("apps", "web"),
            &ca.config_map("apps", "ca"),
            // A name that the certificate does not have: it is for the server name only.
            &policy(&format!("{}, subjectAltNames: [{names}]", by_ca("front.internal"))),
        ]);
        let gateway = Gateway::from_yaml(&yaml)?;
        assert_eq!(get(&gateway).await?.status(), status, "{names}");
    }
    assert!(origin.handshakes().iter().all(|seen| seen.server_name.as_deref() == Some("front.internal")));
    Ok(())
}

#[tokio::test]
async fn http2_is_spoken_over_tls_to_those_who_speak_it() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let origin = H2Origin::over_tls(&ca.issue(["web.internal"])?.server(b"h2", None)?).await?;
    let yaml = documents([
        GATEWAY,
        &route("r", RULES),
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("web.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    assert_eq!(get(&gateway).await?.status(), 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.uri().scheme_str(), Some("https"));
    assert_eq!(seen.uri().authority().map(|authority| authority.as_str()), Some(HOST));
    Ok(())
}

#[tokio::test]
async fn websockets_go_over_tls() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let config = ca.issue(["web.internal"])?.server(b"http/1.1", None)?;
    let origin = Origin::over_tls(&config, |_| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        Answer::Upgrade(answer.into())
    })
    .await?;
    let yaml = documents([
        GATEWAY,
        &route("r", RULES),
        &service_speaking("apps", "web", &[origin.address()], Some("kubernetes.io/wss")),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("web.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.write(head).await?;
    assert_eq!(client.response().await?.status(), 101);
    client.write("to and fro").await?;
    assert_eq!(client.wire().exactly(10).await?, b"to and fro");
    Ok(())
}

#[tokio::test]
async fn sessions_are_resumed() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let config = ca.issue(["web.internal"])?.server(b"http/1.1", None)?;
    let origin = Origin::over_tls(&config, |_| {
        Answer::RawThenClose(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await?;
    let yaml = documents([
        GATEWAY,
        &route("r", RULES),
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("web.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    // One connection stays with one worker, whose sessions are its own.
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for _ in 0..3 {
        assert_eq!(client.get(HOST, "/").await?.status(), 200);
    }
    let resumed: Vec<_> = origin.handshakes().iter().map(|seen| seen.resumed).collect();
    assert_eq!(resumed, [false, true, true]);
    Ok(())
}

/// A Gateway `infra/{name}` with an HTTP listener `{name}` that shows the certificate `infra/{name}`.
fn showing(name: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n  \
         gatewayClassName: portway\n  tls: {{backend: {{clientCertificateRef: {{name: {name}}}}}}}\n  listeners:\n    \
         - {{name: {name}, protocol: HTTP, port: {port}, allowedRoutes: {{namespaces: {{from: All}}}}}}\n"
    )
}

#[tokio::test]
async fn each_gateway_shows_its_own_certificate() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let clients = trust([ca.certificate()])?;
    let config = ca.issue(["web.internal"])?.server(b"http/1.1", Some(&clients))?;
    let origin = Origin::over_tls(&config, |_| Answer::text("secure")).await?;
    let (one, two) = (ca.issue(["one.internal"])?, ca.issue(["two.internal"])?);
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: apps}\nspec:\n  \
                 parentRefs: [{name: edge, namespace: infra}, {name: one, namespace: infra}, {name: two, namespace: infra}]\n  \
                 rules:\n    - backendRefs: [{name: web, port: 80}]\n";
    let yaml = documents([
        GATEWAY,
        &showing("one", 81),
        &showing("two", 82),
        &one.secret("infra", "one"),
        &two.secret("infra", "two"),
        route,
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("web.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    for _ in 0..2 {
        for (listener, certificate) in [("one", &one), ("two", &two)] {
            let mut client = Client::connect(gateway.addr(listener)?).await?;
            assert_eq!(client.get(HOST, "/").await?.text(), "secure");
            let seen = origin.handshakes();
            let shown = seen.iter().any(|seen| seen.certificate.as_deref() == Some(certificate.der()));
            assert!(shown, "{listener}");
        }
    }
    assert!(origin.handshakes().iter().all(|seen| seen.certificate.is_some()));
    // The Gateway without a certificate is refused, and does not borrow a connection of the others.
    assert_eq!(get(&gateway).await?.status(), 502);
    Ok(())
}

#[tokio::test]
async fn who_is_no_longer_trusted_gets_no_further_request() -> anyhow::Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let origin = origin(&old.issue(["web.internal"])?).await?;
    let trusting = |authorities: &[&Authority]| {
        documents([
            GATEWAY,
            &route("r", RULES),
            &origin.service("apps", "web"),
            &bundle("apps", "ca", authorities),
            &policy(&by_ca("web.internal")),
        ])
    };
    let mut gateway = Gateway::from_yaml(&trusting(&[&old, &new]))?;
    // On one worker's connection, which now idles in its pool.
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!(client.get(HOST, "/").await?.status(), 200);
    gateway.apply(&trusting(&[&new]))?;
    assert_eq!(client.get(HOST, "/").await?.status(), 502);
    assert_eq!(origin.requests().len(), 1);
    gateway.apply(&trusting(&[&old]))?;
    assert_eq!(client.get(HOST, "/").await?.status(), 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_rotate_under_load_without_a_failure() -> anyhow::Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let (before, after) =
        (origin(&old.issue(["web.internal"])?).await?, origin(&new.issue(["web.internal"])?).await?);
    let at = |origin: &Origin, authorities: &[&Authority], identity: &Certificate| {
        let gateway = GATEWAY.replace(
            "gatewayClassName: portway",
            "gatewayClassName: portway\n  tls: {backend: {clientCertificateRef: {name: own}}}",
        );
        documents([
            &gateway,
            &identity.secret("infra", "own"),
            &route("r", RULES),
            &origin.service("apps", "web"),
            &bundle("apps", "ca", authorities),
            &policy(&by_ca("web.internal")),
        ])
    };
    let identities = [old.issue(["gateway.internal"])?, new.issue(["gateway.internal"])?];
    let mut gateway = Gateway::from_yaml(&at(&before, &[&old], &identities[0]))?;
    let mut load = Load::on(&Target::plain(gateway.addr("http")?, HOST)).await?;
    for round in 0..10 {
        load.answered(5).await?;
        let (from, to) = if round % 2 == 0 { (&before, &after) } else { (&after, &before) };
        let (first, second) = if round % 2 == 0 { (&old, &new) } else { (&new, &old) };
        gateway.apply(&at(from, &[first, second], &identities[0]))?;
        load.answered(5).await?;
        gateway.apply(&at(to, &[first, second], &identities[1]))?;
        load.answered(5).await?;
        gateway.apply(&at(to, &[second], &identities[round % 2]))?;
    }
    assert!(load.end().await? > 0, "every client was answered");
    assert!(!after.requests().is_empty() && !before.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn plain_text_ends_when_a_policy_comes() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let secure = origin(&ca.issue(["web.internal"])?).await?;
    let plain = Origin::named("plain").await?;
    let with = |origin: &Origin, policy: &str| {
        let (routes, service) = (route("r", RULES), origin.service("apps", "web"));
        documents([GATEWAY, &routes, &service, &ca.config_map("apps", "ca"), policy])
    };
    let policy = policy(&by_ca("web.internal"));
    let mut gateway = Gateway::from_yaml(&with(&plain, "# no policy"))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    assert_eq!(client.get(HOST, "/").await?.text(), "plain");
    gateway.apply(&with(&plain, &policy))?;
    // The connection that idles is in plain text, and the backend speaks nothing else.
    assert!(client.get(HOST, "/").await?.status() >= 500);
    assert_eq!(plain.requests().len(), 1);
    gateway.apply(&with(&secure, &policy))?;
    assert_eq!(client.get(HOST, "/").await?.text(), "secure");
    Ok(())
}

#[tokio::test]
async fn bytes_of_a_terminated_tls_route_go_over_tls_again() -> anyhow::Result<()> {
    let (ca, server) = (Authority::new()?, Certificate::new(["db.example.com"])?);
    let clients = trust([ca.certificate()])?;
    let config = ca.issue(["db.internal"])?.server(b"http/1.1", Some(&clients))?;
    let origin = Origin::over_tls(&config, |_| Answer::text("secure")).await?;
    let own = ca.issue(["gateway.internal"])?;
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: portway}\nspec: \
                   {controllerName: portway.dev/gateway-controller}\n---\napiVersion: gateway.networking.k8s.io/v1\n\
                   kind: Gateway\nmetadata: {name: edge, namespace: apps}\nspec:\n  gatewayClassName: portway\n  \
                   tls: {backend: {clientCertificateRef: {name: own}}}\n  listeners:\n    \
                   - {name: db, protocol: TLS, port: 443, tls: {mode: Terminate, certificateRefs: [{name: server}]}}\n";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: db, namespace: apps}\nspec:\n  \
                 parentRefs: [{name: edge}]\n  hostnames: [db.example.com]\n  \
                 rules: [{backendRefs: [{name: web, port: 80}]}]\n";
    let yaml = documents([
        gateway,
        route,
        &server.secret("apps", "server"),
        &own.secret("apps", "own"),
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("db.internal")),
    ]);
    let gateway = Gateway::from_yaml(&yaml)?;
    let roots = trust([&server])?;
    let mut client = Client::connect_tls(gateway.addr("db")?, "db.example.com", &roots).await?;
    assert_eq!(client.get("db.example.com", "/").await?.text(), "secure");
    let seen = &origin.handshakes()[0];
    assert_eq!(seen.server_name.as_deref(), Some("db.internal"));
    assert_eq!(seen.certificate.as_deref(), Some(own.der()));
    Ok(())
}

#[tokio::test]
async fn bytes_of_a_tcp_route_go_over_tls_where_the_backend_wants_it() -> anyhow::Result<()> {
    let ca = Authority::new()?;
    let origin = origin(&ca.issue(["db.internal"])?).await?;
    let yaml = documents([
        &l4::gateway("name: db, protocol: TCP, port: 5432"),
        &l4::passes("TCPRoute", "db", "db", "", "[{name: web, port: 80}]"),
        &origin.service("apps", "web"),
        &ca.config_map("apps", "ca"),
        &policy(&by_ca("db.internal")),
    ]);
    let mut gateway = Gateway::from_yaml(&yaml)?;
    let mut client = Client::connect(gateway.addr("db")?).await?;
    assert_eq!(client.get("db", "/").await?.text(), "secure");
    let seen = &origin.handshakes()[0];
    assert_eq!(seen.server_name.as_deref(), Some("db.internal"));
    assert_eq!(seen.protocol, None, "what is spoken is between the client and the backend");

    gateway.apply(&yaml.replace("hostname: db.internal", "hostname: other.internal"))?;
    let mut client = Client::connect(gateway.addr("db")?).await?;
    assert!(client.get("db", "/").await.is_err(), "nobody that the policy does not trust gets a byte");
    assert_eq!(origin.requests().len(), 1);
    Ok(())
}
