//! Services and their EndpointSlices, as Kubernetes has them.

use portway_testkit::{Answer, Client, Gateway, Origin};

use crate::{GATEWAY, HOST, documents, route};

const TO_A: &str = "- backendRefs: [{name: a, port: 80}]";

/// What a route to the Service `apps/a` of this YAML answers.
async fn answer(service: &str) -> anyhow::Result<String> {
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", TO_A), service]))?;
    let answer = Client::connect(gateway.addr("http")?).await?.get(HOST, "/").await?;
    Ok(format!("{} {}", answer.status(), answer.text()))
}

fn slice(name: &str, family: &str, address: &str, ports: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: apps\n  \
         labels: {{kubernetes.io/service-name: a}}\naddressType: {family}\nports: {ports}\n\
         endpoints: [{{addresses: ['{address}'], conditions: {{ready: true}}}}]\n"
    )
}

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: apps}}\nspec: {spec}\n")
}

#[tokio::test]
async fn an_external_name_is_looked_up() -> anyhow::Result<()> {
    let origin = Origin::named("external").await?;
    let port = origin.address().port();
    let external =
        service(&format!("{{type: ExternalName, externalName: localhost, ports: [{{port: {port}}}]}}"));
    let rules = format!("- backendRefs: [{{name: a, port: {port}}}]");
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", &rules), &external]))?;
    assert_eq!(Client::connect(gateway.addr("http")?).await?.get(HOST, "/").await?.text(), "external");
    Ok(())
}

#[tokio::test]
async fn headless_services_and_named_target_ports_lead_to_the_slices_ports() -> anyhow::Result<()> {
    let (web, other) = (Origin::named("web").await?, Origin::named("other").await?);
    let ports = format!(
        "[{{name: admin, port: {}}}, {{name: web, port: {}}}]",
        other.address().port(),
        web.address().port()
    );
    let slice = slice("a-1", "IPv4", "127.0.0.1", &ports);
    let spec = "ports: [{name: admin, port: 81}, {name: web, port: 80, targetPort: pods-web}]";
    for head in ["", "clusterIP: None, "] {
        assert_eq!(answer(&documents([&service(&format!("{{{head}{spec}}}")), &slice])).await?, "200 web");
    }
    Ok(())
}

#[tokio::test]
async fn endpoints_of_ipv6_serve() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("[::1]:0").await?;
    let port = listener.local_addr()?.port();
    let slice = slice("a-6", "IPv6", "::1", &format!("[{{name: '', port: {port}}}]"));
    let service = service("{ports: [{port: 80}], ipFamilies: [IPv4, IPv6]}");
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", TO_A), &service, &slice]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await?;
    let (stream, _) = portway_testkit::soon("a connection over IPv6", listener.accept()).await??;
    let mut origin = portway_testkit::wire::Wire::new(stream);
    origin.head().await?;
    origin.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv6").await?;
    assert_eq!(client.response().await?.text(), "v6");
    Ok(())
}

#[tokio::test]
async fn an_http_1_0_client_gets_its_answer_and_the_end() -> anyhow::Result<()> {
    let origin = Origin::new(|_| {
        Answer::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec())
    })
    .await?;
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", TO_A), &origin.service("apps", "a")]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    client.write(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n")).await?;
    let answer = client.response().await?;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("transfer-encoding"), None, "HTTP/1.0 has no chunks");
    assert!(client.wire().rest().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn several_mirrors_get_exactly_their_parts() -> anyhow::Result<()> {
    let ([a, half, third], services) = crate::named(["a", "half", "third"]).await?;
    let rules = "\
- filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: half, port: 80}, percent: 50}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: third, port: 80}, fraction: {numerator: 1, denominator: 3}}}
  backendRefs: [{name: a, port: 80}]";
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", rules), &services]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    for _ in 0..60 {
        assert_eq!(client.get(HOST, "/").await?.text(), "a");
    }
    for (mirror, count) in [(&half, 30), (&third, 20)] {
        for _ in 0..count {
            mirror.next().await?;
        }
    }
    assert_eq!([&a, &half, &third].map(|origin| origin.requests().len()), [60, 30, 20]);
    Ok(())
}
