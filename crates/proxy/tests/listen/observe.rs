//! What is seen of the traffic.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use portway_proxy::{AccessLog, AccessLogFormat, AccessLogTarget, Limits, Options, Proxy, Tracing};
use portway_testkit::{Answer, Client, Origin, soon};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::plans::{issue, listener, plan, port, trust, with_certificates};
use crate::{metric, options, serving, until};

#[tokio::test]
async fn metrics_tell_the_traffic() -> anyhow::Result<()> {
    let origin = Origin::new(|request| match request.target() {
        "/bad" => Answer::status(502, "bad"),
        _ => Answer::text("hello"),
    })
    .await?;
    let certificate = issue("tls", &["a.example"], false);
    let ports = [
        port(80, &[listener("plain", "", "a", &[])]),
        port(443, &[listener("tls", "a.example", "a", &["tls"])]),
    ];
    let planned = with_certificates(plan(&ports, &[("a", origin.address())]), &[&certificate]);
    let (proxy, address) = serving(options(2), planned);
    let secure = proxy.addresses()[1].1;

    let mut client = Client::connect(address).await?;
    for path in ["/", "/", "/bad"] {
        client.get("x", path).await?;
    }
    client.request("POST", "x", "/", &[], b"12345678").await?;
    let mut refused = Client::connect(address).await?;
    refused.write("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await?;
    assert_eq!(refused.response().await?.status(), 400);
    let roots = trust(&[&certificate]);
    assert!(Client::connect_tls(secure, "b.example", &roots).await.is_err());
    let mut client = Client::connect_tls(secure, "a.example", &roots).await?;
    client.get("a.example", "/").await?;

    until(&proxy, "portway_requests_total{code=\"200\"}", 4.0).await?;
    let rule = "route_kind=\"HTTPRoute\",route_namespace=\"test\",route=\"a\",rule=\"spec.rules[0]\"";
    let gateway = "parent_kind=\"Gateway\",parent_namespace=\"test\",parent=\"shared\"";
    let backend = "backend_kind=\"Service\",backend_namespace=\"test\",backend=\"a\",backend_port=\"80\"";
    // Each worker has connections of its own.
    let opened = origin.connections() as f64;
    for (series, value) in [
        ("portway_requests_total{code=\"502\"}".to_owned(), 1.0),
        ("portway_requests_total{code=\"400\"}".to_owned(), 1.0),
        ("portway_request_faults_total{reason=\"bad_request\",side=\"client\"}".to_owned(), 1.0),
        (format!("portway_rule_requests_total{{{rule},code_class=\"2xx\"}}"), 4.0),
        (format!("portway_rule_requests_total{{{rule},code_class=\"5xx\"}}"), 1.0),
        (format!("portway_rule_sent_bytes_total{{{rule}}}"), 23.0),
        (format!("portway_rule_request_duration_seconds_count{{{rule}}}"), 5.0),
        (format!("portway_listener_requests_total{{{gateway},listener=\"plain\",code_class=\"2xx\"}}"), 3.0),
        (format!("portway_listener_requests_total{{{gateway},listener=\"tls\",code_class=\"2xx\"}}"), 1.0),
        (format!("portway_backend_requests_total{{{backend},code_class=\"2xx\"}}"), 4.0),
        (format!("portway_backend_try_duration_seconds_count{{{backend}}}"), 5.0),
        (format!("portway_backend_connections_reused_total{{{backend}}}"), 5.0 - opened),
        (format!("portway_backend_connections{{{backend}}}"), opened),
        ("portway_tls_handshakes_total{outcome=\"ok\"}".to_owned(), 1.0),
        ("portway_tls_handshakes_total{outcome=\"unknown_name\"}".to_owned(), 1.0),
        ("portway_connections_accepted_total".to_owned(), 4.0),
        ("portway_requests_in_flight".to_owned(), 0.0),
        ("portway_panics_total".to_owned(), 0.0),
        ("portway_plan_revision".to_owned(), 1.0),
    ] {
        assert_eq!(metric(&proxy, &series), Some(value), "{series}\n{}", proxy.metrics().expose());
    }
    assert!(proxy.metrics().expose().ends_with("# EOF\n"));
    Ok(())
}

/// A disk that is full.
#[tokio::test]
async fn lines_that_cannot_be_written_are_counted() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("a", "", "a", &[])])], &[("a", origin.address())]);
    let target = AccessLogTarget::File("/dev/full".into());
    let access_log = AccessLog { format: AccessLogFormat::Json, target };
    let (proxy, address) = serving(Options { access_log: Some(access_log), ..options(1) }, planned);
    let mut client = Client::connect(address).await?;
    for _ in 0..3 {
        assert_eq!(client.get("a.example", "/").await?.status(), 200);
    }
    until(&proxy, "portway_access_log_dropped_total", 3.0).await
}

#[tokio::test]
async fn a_line_for_each_request() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("access.log");
    let access_log = AccessLog { format: AccessLogFormat::Json, target: AccessLogTarget::File(path.clone()) };
    let planned = plan(&[port(80, &[listener("plain", "a.example", "a", &[])])], &[("a", origin.address())]);
    let (proxy, address) = serving(Options { access_log: Some(access_log), ..options(1) }, planned);
    let mut client = Client::connect(address).await?;
    client.request("GET", "a.example", "/x?y=1", &[("User-Agent", "t\u{1b}\"")], b"").await.ok();
    let mut client = Client::connect(address).await?;
    client.request("GET", "a.example", "/x?y=1", &[("User-Agent", "t\"}")], b"").await?;
    client.get("nowhere.example", "/").await?;
    // Dropping the proxy writes what waits.
    drop(proxy);
    let text = std::fs::read_to_string(&path)?;
    let lines: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [refused, served, lost] = &lines[..] else { panic!("{text}") };
    assert_eq!((&refused["status"], &refused["fault"]), (&400.into(), &"bad_request".into()));
    assert_eq!(served["method"], "GET");
    assert_eq!(served["host"], "a.example");
    assert_eq!(served["path"], "/x?y=1");
    assert_eq!(served["status"], 200);
    assert_eq!(served["sent"], 1);
    assert_eq!(served["user_agent"], "t\"}");
    assert_eq!(served["client"], "127.0.0.1");
    assert_eq!(served["listener"], "Gateway test/shared spec.listeners[0] (plain)");
    assert_eq!(served["rule"], "HTTPRoute test/a spec.rules[0]");
    assert_eq!(served["backend"], "Service test/a:80");
    assert_eq!(served["endpoint"], origin.address().to_string());
    assert_eq!(served["complete"], true);
    let id = origin.requests()[0].header("x-request-id").map(str::to_owned);
    assert_eq!(served["request_id"].as_str(), id.as_deref());
    assert_eq!((&lost["status"], &lost["fault"]), (&404.into(), &"no_route".into()));
    Ok(())
}

#[tokio::test]
async fn a_request_s_bytes_are_counted_to_its_end_even_after_the_answer_s_head() -> anyhow::Result<()> {
    let backend = TcpListener::bind("127.0.0.1:0").await?;
    let planned = plan(&[port(80, &[listener("plain", "", "a", &[])])], &[("a", backend.local_addr()?)]);
    let (proxy, address) = serving(options(1), planned);
    let mut client = TcpStream::connect(address).await?;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
        .await?;
    let (mut backend, _) = backend.accept().await?;
    read_until(&mut backend, b"body\r\n").await?;
    backend.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    read_until(&mut client, b"\r\n\r\n").await?;
    client.write_all(b"5\r\n, end\r\n0\r\n\r\n").await?;
    read_until(&mut backend, b"0\r\n\r\n").await?;
    backend.write_all(b"0\r\n\r\n").await?;
    read_until(&mut client, b"0\r\n\r\n").await?;
    until(&proxy, "portway_requests_total{code=\"200\"}", 1.0).await?;
    let rule = "route_kind=\"HTTPRoute\",route_namespace=\"test\",route=\"a\",rule=\"spec.rules[0]\"";
    let series = format!("portway_rule_received_bytes_total{{{rule}}}");
    assert_eq!(metric(&proxy, &series), Some(9.0), "{}", proxy.metrics().expose());
    Ok(())
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        all.push(soon("a byte", stream.read_u8()).await??);
    }
    Ok(())
}

#[tokio::test]
async fn spans_reach_the_collector_and_carry_the_trace_on() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let collector = Origin::named("collector").await?;
    let tracing = Tracing {
        endpoint: format!("http://{}/v1/traces", collector.address()).parse()?,
        sampling: 0.0,
        service_name: "edge".to_owned(),
    };
    let planned = plan(&[port(80, &[listener("plain", "", "a", &[])])], &[("a", origin.address())]);
    let (_proxy, address) = serving(Options { tracing: Some(tracing), ..options(1) }, planned);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = Client::connect(address).await?;
    client.get("x", "/unsampled").await?;
    client.request("GET", "x", "/traced?q", &[("traceparent", parent), ("tracestate", "k=v")], b"").await?;

    let export = collector.next().await?;
    assert_eq!(export.target(), "/v1/traces");
    assert_eq!(export.header("content-type"), Some("application/x-protobuf"));
    let export = ExportTraceServiceRequest::decode(&export.body[..])?;
    let spans: Vec<&Span> =
        export.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect();
    let [attempt, server] = &spans[..] else { panic!("{spans:?}") };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&server.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
    assert_eq!(server.trace_state, "k=v");
    assert_eq!(attempt.parent_span_id, server.span_id);
    assert!(server.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= server.end_time_unix_nano);
    let attribute = |span: &Span, key: &str| {
        let found = span.attributes.iter().find(|a| a.key == key);
        found.and_then(|a| a.value.clone()).and_then(|v| v.value)
    };
    assert_eq!(attribute(server, "url.path"), Some(Value::StringValue("/traced".into())));
    assert_eq!(attribute(server, "http.response.status_code"), Some(Value::IntValue(200)));
    let route = attribute(server, "http.route");
    assert_eq!(route, Some(Value::StringValue("HTTPRoute test/a spec.rules[0]".into())));

    let sent: Vec<_> = origin.requests().iter().map(|r| r.header("traceparent").map(str::to_owned)).collect();
    assert!(sent[0].as_ref().is_some_and(|t| t.ends_with("-00")), "{sent:?}");
    assert_eq!(sent[1], Some(format!("00-{}-{}-01", hex(&server.trace_id), hex(&attempt.span_id))));
    assert_eq!(origin.requests()[1].header("tracestate"), Some("k=v"));
    Ok(())
}

#[tokio::test]
async fn too_many_connections_are_closed_and_counted() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let planned = plan(&[port(80, &[listener("plain", "", "a", &[])])], &[("a", origin.address())]);
    let limits = Limits { connections: 2, ..Limits::default() };
    let (proxy, address) = serving(Options { limits, ..options(2) }, planned);
    let mut first = Client::connect(address).await?;
    let mut second = Client::connect(address).await?;
    assert_eq!(first.get("x", "/").await?.status(), 200);
    assert_eq!(second.get("x", "/").await?.status(), 200);
    let mut third = Client::connect(address).await?;
    assert!(soon("the end", third.get("x", "/")).await?.is_err());
    assert_eq!(metric(&proxy, "portway_connections_refused_total"), Some(1.0));
    assert_eq!(first.get("x", "/").await?.status(), 200);
    Ok(())
}

#[test]
fn an_endpoint_that_is_none_is_named() {
    let endpoint = "https://collector.example/v1/traces".parse().expect("a URI");
    let tracing = Tracing { endpoint, sampling: 1.0, service_name: "edge".to_owned() };
    let error = Proxy::start(Options { tracing: Some(tracing), ..options(1) }).err().expect("no TLS");
    assert!(error.to_string().contains("collector.example"), "{error}");
}
