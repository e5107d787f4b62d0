//! What the real binary tells of its traffic: access log, metrics, traces, the plan.

#[allow(dead_code, reason = "shared by tests that each use a part")]
mod binary;

use std::path::Path;

use binary::{GATEWAY, HOST, Portway, folder, route};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Attribute};
use opentelemetry_proto::tonic::trace::v1::Span;
use portway_testkit::certificates::{Certificate, trust};
use portway_testkit::{Client, Origin, soon};
use prost::Message as _;
use serde_json::Value;

const RULES: &str = "[{name: cart, matches: [{path: {value: /cart}}], backendRefs: [{name: a, port: 80}]}]";

/// The lines of a log, once it has so many.
async fn lines(log: &Path, count: usize) -> anyhow::Result<Vec<Value>> {
    let complete = async {
        loop {
            let text = std::fs::read_to_string(log)?;
            if text.matches('\n').count() >= count {
                return text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect();
            }
            tokio::task::yield_now().await;
        }
    };
    soon("lines in the access log", complete).await?
}

/// The first page of the admin server in which the text is.
async fn page_with(client: &mut Client, path: &str, text: &str) -> anyhow::Result<String> {
    let told = async {
        loop {
            let page = client.get("localhost", path).await?.text();
            if page.contains(text) {
                return Ok(page);
            }
        }
    };
    soon(text, told).await?
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Attribute::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_metrics_and_traces_name_listener_rule_and_backend() -> anyhow::Result<()> {
    let (origin, collector) = (Origin::named("a").await?, Origin::named("").await?);
    let folder = folder(&route(RULES), &[origin.service("apps", "a")])?;
    let log = folder.path().join("access.log");
    let endpoint = format!("http://{}/v1/traces", collector.address());
    let log_file = log.to_string_lossy();
    let options = ["--access-log", "json", "--access-log-file", &*log_file, "--otlp", &*endpoint];
    let portway = Portway::run(folder.path(), &options)?;
    let mut client = Client::connect(portway.address("http")?).await?;
    assert_eq!(client.get(HOST, "/cart").await?.text(), "a");
    assert_eq!(client.get(HOST, "/nothing").await?.status(), 404);

    let lines = lines(&log, 2).await?;
    let [served, lost] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&served["path"], &served["status"]), (&"/cart".into(), &200.into()));
    assert_eq!(served["listener"], "Gateway infra/edge spec.listeners[0] (http)");
    assert_eq!(served["rule"], "HTTPRoute apps/r spec.rules[0] (cart)");
    assert_eq!(served["backend"], "Service apps/a:80");
    assert_eq!(served["endpoint"], origin.address().to_string());
    assert_eq!((&lost["status"], &lost["fault"]), (&404.into(), &"no_route".into()));
    assert!(lost.get("rule").is_none() && lost.get("backend").is_none(), "{lost}");

    let mut admin = Client::connect(portway.admin()?).await?;
    let of_listener = "portway_listener_requests_total{parent_kind=\"Gateway\",parent_namespace=\"infra\",\
                       parent=\"edge\",listener=\"http\"";
    let metrics =
        page_with(&mut admin, "/metrics", &format!("{of_listener},code_class=\"4xx\"}} 1\n")).await?;
    for series in [
        &format!("{of_listener},code_class=\"2xx\"}} 1"),
        "portway_rule_requests_total{route_kind=\"HTTPRoute\",route_namespace=\"apps\",route=\"r\",rule=\"cart\",code_class=\"2xx\"} 1",
        "portway_backend_requests_total{backend_kind=\"Service\",backend_namespace=\"apps\",backend=\"a\",backend_port=\"80\",code_class=\"2xx\"} 1",
    ] {
        assert!(metrics.lines().any(|line| line == series), "{series} is not in:\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    let mut spans: Vec<Span> = Vec::new();
    let served_span = loop {
        let export = collector.next().await?;
        assert_eq!(export.target(), "/v1/traces");
        for resource in ExportTraceServiceRequest::decode(&export.body[..])?.resource_spans {
            let attributes = resource.resource.as_ref().map(|it| &it.attributes[..]).unwrap_or_default();
            assert_eq!(text(attributes, "service.name").as_deref(), Some("portway"));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        let served = |span: &&Span| text(&span.attributes, "url.path").as_deref() == Some("/cart");
        if let Some(span) = spans.iter().find(served) {
            break span;
        }
    };
    let route = text(&served_span.attributes, "http.route");
    assert_eq!(route.as_deref(), Some("HTTPRoute apps/r spec.rules[0] (cart)"));
    let trace: String = served_span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(served["trace_id"].as_str(), Some(trace.as_str()), "log and trace are of one request");
    let carried = origin.requests()[0].header("traceparent").map(str::to_owned);
    assert!(carried.as_ref().is_some_and(|parent| parent.contains(&trace)), "{carried:?}");
    Ok(())
}

#[tokio::test]
async fn the_common_log_goes_to_standard_output() -> anyhow::Result<()> {
    let origin = Origin::named("hello").await?;
    let folder = folder(&route(RULES), &[origin.service("apps", "a")])?;
    let mut portway = Portway::run(folder.path(), &["--access-log", "common"])?;
    Client::connect(portway.address("http")?).await?.get(HOST, "/cart?q=1").await?;
    let line = portway.wait_for("/cart?q=1")?;
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("\"GET /cart?q=1 HTTP/1.1\" 200 5 "), "{line}");
    Ok(())
}

#[tokio::test]
async fn the_plan_is_told_without_its_keys() -> anyhow::Result<()> {
    let (origin, certificate) = (Origin::named("a").await?, Certificate::new([HOST])?);
    let services = [origin.service("apps", "a"), certificate.secret("infra", "edge")];
    let folder = folder(&route(RULES), &services)?;
    let https = "    - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: edge}]}, \
                 allowedRoutes: {namespaces: {from: All}}}\n";
    std::fs::write(folder.path().join("gateway.yaml"), format!("{GATEWAY}{https}"))?;
    let portway = Portway::run(folder.path(), &[])?;
    let mut client = Client::connect_tls(portway.address("https")?, HOST, &trust([&certificate])?).await?;
    assert_eq!(client.get(HOST, "/cart").await?.text(), "a", "the key is in use");
    let mut admin = Client::connect(portway.admin()?).await?;
    // The private number of a P-256 key in PKCS #8 (RFC 5915); the public one follows, which anyone may see.
    let secret = certificate.key_der()?[36..68].to_vec();
    for path in ["/plan", "/status", "/metrics"] {
        let page = admin.get("localhost", path).await?.text();
        let numbers = secret.iter().map(u8::to_string).collect::<Vec<_>>();
        let squeezed: String = page.chars().filter(|c| !c.is_whitespace()).collect();
        assert!(!squeezed.contains(&numbers.join(",")), "{path} tells the key, byte by byte");
        for line in certificate.key.lines() {
            assert!(!page.contains(line), "{path} tells the key");
        }
    }
    assert!(admin.get("localhost", "/plan").await?.text().contains("[redacted]"));
    Ok(())
}
