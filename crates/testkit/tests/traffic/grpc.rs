//! GRPCRoutes: methods, streams both ways, trailers.

use bytes::Bytes;
use http::Request;
use portway_testkit::{Gateway, H2Origin, Http2};

use crate::{GATEWAY, documents};

async fn through(matches: &str) -> anyhow::Result<(Gateway, H2Origin)> {
    let origin = H2Origin::new().await?;
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: g, namespace: apps}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: infra}}]\n  hostnames: [grpc.example.com]\n  rules:\n    \
         - matches: {matches}\n      backendRefs: [{{name: orders, port: 80}}]\n"
    );
    let yaml = documents([GATEWAY, &route, &origin.service("apps", "orders")]);
    Ok((Gateway::from_yaml(&yaml)?, origin))
}

fn call(method: &str) -> http::request::Builder {
    let request = Request::post(format!("http://grpc.example.com/{method}"));
    request.header("content-type", "application/grpc").header("te", "trailers")
}

#[tokio::test]
async fn a_call_reaches_the_backend_and_its_status_comes_back() -> anyhow::Result<()> {
    let (gateway, origin) = through("[{method: {service: store.Orders, method: Get}}]").await?;
    let client = Http2::connect(gateway.addr("http")?).await?;
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let answer = client.send(call("store.Orders/Get").body(message.clone())?).await?;
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.body, message);
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(origin.requests()[0].uri().path(), "/store.Orders/Get");
    Ok(())
}

#[tokio::test]
async fn a_method_without_a_rule_is_no_route() -> anyhow::Result<()> {
    let (gateway, origin) = through("[{method: {service: store.Orders, method: Get}}]").await?;
    let client = Http2::connect(gateway.addr("http")?).await?;
    let answer = client.send(call("store.Orders/Delete").body(Bytes::from_static(b"\0\0\0\0\0"))?).await?;
    let refused = answer.head.headers().get("grpc-status").or_else(|| answer.trailers.get("grpc-status"));
    assert!(answer.head.status() == 404 || refused.is_some_and(|status| status == "12"), "{answer:?}");
    assert!(origin.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn messages_stream_both_ways_before_the_call_ends() -> anyhow::Result<()> {
    let (gateway, _origin) = through("[{method: {service: store.Orders}}]").await?;
    let client = Http2::connect(gateway.addr("http")?).await?;
    let (response, mut stream) = client.open(call("store.Orders/Chat").body(())?, false).await?;
    let response = portway_testkit::soon("the head before the body's end", response).await??;
    let mut incoming = response.into_body();
    for nth in 0..3_u8 {
        let message = Bytes::from(vec![0, 0, 0, 0, 1, nth]);
        stream.send_data(message.clone(), false)?;
        let data = portway_testkit::soon("the message back", incoming.data()).await?;
        assert_eq!(data.transpose()?, Some(message));
    }
    stream.send_data(Bytes::new(), true)?;
    while let Some(data) = incoming.data().await {
        assert!(data?.is_empty());
    }
    let trailers = portway_testkit::soon("trailers", incoming.trailers()).await??;
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    Ok(())
}
