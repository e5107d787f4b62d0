//! The quickstart does what the README says.

#[allow(dead_code, reason = "shared by tests that each use a part")]
mod binary;

use std::sync::Arc;

use binary::{Portway, copy, root};
use bytes::Bytes;
use portway_testkit::{Client, Http2};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

const STORE: &str = "shop.example.com";

/// Trusts the demo certificate, which is in the folder.
fn roots() -> anyhow::Result<Arc<RootCertStore>> {
    use base64::Engine as _;
    let yaml = std::fs::read_to_string(root().join("examples/quickstart/infra/certificate.yaml"))?;
    let line =
        yaml.lines().find_map(|line| line.trim().strip_prefix("tls.crt: ")).expect("the certificate's line");
    let pem = base64::engine::general_purpose::STANDARD.decode(line)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem)?)?;
    Ok(Arc::new(roots))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn the_tour_of_the_readme() -> anyhow::Result<()> {
    let portway = Portway::run(&root().join("examples/quickstart"), &[])?;
    let (http, https, roots) = (portway.address("http")?, portway.address("https")?, roots()?);

    // The operator's redirect holds for all hosts.
    for host in [STORE, "www.example.com", "party.example.com"] {
        let answer = Client::connect(http).await?.get(host, "/cart").await?;
        assert_eq!(answer.status(), 301);
        assert_eq!(answer.header("location"), Some(format!("https://{host}:8443/cart").as_str()));
    }

    // The store's rollout: 90/10, and who asks for v2 gets it.
    let mut store = Client::connect_tls(https, STORE, &roots).await?;
    let mut v2 = 0;
    for _ in 0..100 {
        let told = json(&store.get(STORE, "/cart").await?.text());
        v2 += usize::from(told["service"] == "cart-v2");
    }
    assert_eq!(v2, 10);
    let canary = store.request("GET", STORE, "/cart", &[("x-canary", "yes")], b"").await?;
    assert_eq!(json(&canary.text())["service"], "cart-v2");

    // The rewrite.
    let products = store.get(STORE, "/api/products?page=2").await?;
    assert_eq!(products.header("x-served-by"), Some("portway"));
    assert_eq!(json(&products.text())["path"], "/v2/products?page=2");

    // The site team uses the store's catalog by its grant, and its own home.
    let mut site = Client::connect_tls(https, "www.example.com", &roots).await?;
    let catalog = json(&site.get("www.example.com", "/catalog").await?.text());
    assert_eq!(
        (&catalog["namespace"], &catalog["service"]),
        (&Value::from("store"), &Value::from("catalog"))
    );
    assert_eq!(json(&site.get("www.example.com", "/").await?.text())["service"], "home");

    // gRPC.
    let grpc = Http2::connect_tls(https, "grpc.example.com", &roots).await?;
    let request = http::Request::post("https://grpc.example.com/store.Orders/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Bytes::from_static(b"\0\0\0\0\x05hello"))?;
    let answer = grpc.send(request).await?;
    assert_eq!(
        (&answer.body[..], &answer.trailers["grpc-status"]),
        (&b"\0\0\0\0\x05hello"[..], &"0".parse()?)
    );

    // The guest is refused, and told why with its file and line.
    assert!(portway.printed.contains("NotAllowedByListeners"), "{}", portway.printed);
    assert!(portway.printed.contains("guest/party.yaml:23:7"), "{}", portway.printed);
    let mut guest = Client::connect_tls(https, "party.example.com", &roots).await?;
    assert_eq!(guest.get("party.example.com", "/").await?.status(), 404);

    // The admin address, as it was printed.
    let mut admin = Client::connect(portway.admin()?).await?;
    assert_eq!(admin.get("localhost", "/readyz").await?.status(), 200);
    let metrics = admin.get("localhost", "/metrics").await?.text();
    assert!(metrics.contains("portway_request_duration_seconds_bucket{le=\"+Inf\"}"), "{metrics}");
    let reference = std::fs::read_to_string(root().join("docs/reference/observability.md"))?;
    for name in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE portway_")?.split(' ').next()) {
        let known = [format!("`{name}`"), format!("`{name}_total`")];
        assert!(known.iter().any(|name| reference.contains(name)), "{name} is not in the reference");
    }
    let status = json(&admin.get("localhost", "/status").await?.text());
    let objects = status["objects"].as_array().expect("objects");
    let party = objects.iter().find(|object| object["name"] == "party").expect("the guest's route");
    assert_eq!(party["problems"][0]["reason"], "NotAllowedByListeners");
    let plan = admin.get("localhost", "/plan").await?.text();
    assert!(plan.contains("[redacted]") && !plan.contains("PRIVATE KEY"));

    // The lines to try are for what serves.
    let lines: Vec<&str> = portway.printed.lines().filter(|line| line.trim().starts_with("curl ")).collect();
    assert!(lines.iter().any(|line| line.contains("x-canary: yes")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("party")), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn files_are_followed_and_half_written_ones_change_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    copy(&root().join("examples/quickstart"), folder.path())?;
    let mut portway = Portway::run(folder.path(), &[])?;
    let mut site = Client::connect_tls(portway.address("https")?, "www.example.com", &roots()?).await?;
    let file = folder.path().join("site/site.yaml");
    let before = std::fs::read_to_string(&file)?;

    let half = before.split_once("timeouts").expect("the route's text").0.to_owned() + "timeouts: {request";
    std::fs::write(&file, half)?;
    let found = portway.wait_for("site.yaml:")?;
    assert!(found.contains("-->"), "{found}");
    assert_eq!(json(&site.get("www.example.com", "/").await?.text())["service"], "home");

    std::fs::write(&file, before.replace("value: /catalog", "value: /shelf"))?;
    portway.wait_for("~ HTTPRoute site/home: applied in")?;
    assert_eq!(json(&site.get("www.example.com", "/shelf").await?.text())["service"], "catalog");
    assert_eq!(json(&site.get("www.example.com", "/catalog").await?.text())["service"], "home");

    // The operator lets the guest in: one label.
    let namespaces = folder.path().join("infra/namespaces.yaml");
    let text = std::fs::read_to_string(&namespaces)?;
    std::fs::write(
        &namespaces,
        text.replace("  name: guest", "  name: guest\n  labels: {shared-gateway: allowed}"),
    )?;
    portway.wait_for("HTTPRoute guest/party: no longer NotAllowedByListeners")?;
    let mut guest = Client::connect_tls(portway.address("https")?, "party.example.com", &roots()?).await?;
    assert_eq!(json(&guest.get("party.example.com", "/").await?.text())["service"], "party");

    // What nothing acts on is told when it comes, too.
    std::fs::write(
        folder.path().join("site/policy.yaml"),
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {name: home, namespace: site}\nspec:\n  targetRefs: [{group: '', kind: Service, name: home}]\n",
    )?;
    portway.wait_for("XBackendTrafficPolicy site/home: NotSupported")?;

    std::fs::remove_file(&file)?;
    portway.wait_for("- HTTPRoute site/home: applied in")?;
    assert_eq!(site.get("www.example.com", "/").await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_requests_end() -> anyhow::Result<()> {
    let mut portway = Portway::run(&root().join("examples/quickstart"), &[])?;
    let https = portway.address("https")?;
    let mut client = Client::connect_tls(https, "www.example.com", &roots()?).await?;
    client
        .write(
            "POST / HTTP/1.1\r\nHost: www.example.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await?;
    assert_eq!(client.wire().head().await?.map(|head| head.status()), Some(100));
    portway.terminate()?;
    portway.wait_for("Draining")?;
    client.write("hello").await?;
    let answer = client.response().await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(json(&answer.text())["bodyBytes"], 5);
    assert!(client.wire().rest().await?.is_empty(), "the connection ends with its last request");
    let refused = async { while Client::connect(https).await.is_ok() {} };
    portway_testkit::soon("new connections are refused", refused).await?;
    let (status, printed) = portway.ended()?;
    assert!(status.success(), "{status}");
    assert!(printed.contains("Drained in"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_told_and_bound_once_it_is_free() -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = taken.local_addr()?.port();
    let folder = tempfile::tempdir()?;
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: portway}}\nspec: {{controllerName: portway.dev/gateway-controller}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: infra}}\nspec:\n  gatewayClassName: portway\n  \
         listeners:\n    - {{name: taken, protocol: HTTP, port: {port}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: moved, namespace: infra}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  rules:\n    - filters: [{{type: RequestRedirect, requestRedirect: {{path: \
         {{type: ReplaceFullPath, replaceFullPath: /new}}}}}}]\n"
    );
    std::fs::write(folder.path().join("gateway.yaml"), yaml)?;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portway"));
    command.args(["run", "--admin", "127.0.0.1:0", "--workers", "1"]).arg(folder.path());
    let mut portway = Portway::from(command)?;
    let said = portway.printed.clone();
    assert!(said.contains(&format!("port {port} not bound")), "{said}");
    assert!(said.contains("PortUnavailable"), "{said}");
    assert!(said.contains("✗ *") && !said.contains('✓'), "nothing is served there: {said}");
    drop(taken);
    portway.wait_for(&format!("port {port} is bound now"))?;
    let address = format!("127.0.0.1:{port}").parse()?;
    assert_eq!(Client::connect(address).await?.get("any", "/").await?.status(), 302);
    Ok(())
}
