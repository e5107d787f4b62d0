//! XBackends: host names and pods.

use portway_testkit::{Client, Gateway, Origin};

use crate::{GATEWAY, HOST, documents, route};

fn x_backend(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\n\
         metadata: {{name: {name}, namespace: apps}}\nspec: {{{spec}}}\n"
    )
}

fn pod(labels: &str, ready: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: apps, labels: {labels}}}\n\
         status: {{podIP: 127.0.0.1, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    )
}

const RULES: &str = "- backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: x}]";

#[tokio::test]
async fn pods_are_found_by_their_labels_and_while_they_are_ready() -> anyhow::Result<()> {
    let origin = Origin::named("pod").await?;
    let port = origin.address().port();
    let backend = x_backend(
        "x",
        &format!(
            "type: EndpointSelector, endpointSelector: {{matchLabels: {{app: web}}}}, port: {{number: {port}}}, \
             sessionPersistence: {{type: Header, header: {{name: x-session}}}}"
        ),
    );
    let with = |pod: &str| documents([GATEWAY, &route("r", RULES), &backend, pod]);
    let mut gateway = Gateway::from_yaml(&with(&pod("{app: web, track: a}", "True")))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.get(HOST, "/").await?;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "pod"));
    assert!(answer.header("x-session").is_some());
    for (labels, ready, status) in
        [("{app: web}", "False", 503), ("{app: web}", "True", 200), ("{app: other}", "True", 503)]
    {
        gateway.apply(&with(&pod(labels, ready)))?;
        assert_eq!(client.get(HOST, "/").await?.status(), status, "{labels} {ready}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_name_is_resolved() -> anyhow::Result<()> {
    let origin = Origin::named("host").await?;
    let port = origin.address().port();
    let spec = format!(
        "type: ExternalHostname, externalHostname: {{hostname: localhost}}, port: {{number: {port}}}"
    );
    let gateway = Gateway::from_yaml(&documents([GATEWAY, &route("r", RULES), &x_backend("x", &spec)]))?;
    let mut client = Client::connect(gateway.addr("http")?).await?;
    let answer = client.get(HOST, "/").await?;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "host"));
    Ok(())
}
