//! A gateway from YAML, real sockets, real HTTP: each test tells what a user would notice.

mod answers;
mod auth;
mod auth_grpc;
mod backend_tls;
mod change;
mod client_certificates;
mod filters;
mod grpc;
mod h2spec;
mod l4;
mod l4_udp;
mod matching;
mod messages;
mod pre_routing;
mod resilience;
mod services;
mod sessions;
mod splitting;
mod tls;
mod upgrades;
mod x_backends;

use portway_testkit::Origin;

/// A class, and the Gateway `infra/edge` with an HTTP listener `http` that takes routes from everywhere.
const GATEWAY: &str = r"
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
    - {name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}
";

/// The HTTPRoute `apps/{name}` on that Gateway for `shop.example.com`; `rules` is the YAML of its rules,
/// each beginning with `- `.
fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: apps}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: infra}}]\n  hostnames: [shop.example.com]\n  rules:\n{}",
        indented(rules)
    )
}

fn indented(rules: &str) -> String {
    rules.lines().map(|line| format!("    {line}\n")).collect()
}

/// One YAML text of several documents.
fn documents<const N: usize>(parts: [&str; N]) -> String {
    parts.join("\n---\n")
}

/// Services in the namespace `apps`, each with an origin that answers with the Service's name.
async fn named<const N: usize>(names: [&str; N]) -> anyhow::Result<([Origin; N], String)> {
    let mut origins = Vec::new();
    let mut yaml = Vec::new();
    for name in names {
        let origin = Origin::named(name).await?;
        yaml.push(origin.service("apps", name));
        origins.push(origin);
    }
    let origins = origins.try_into().map_err(|_| anyhow::anyhow!("as many origins as names"))?;
    Ok((origins, yaml.join("---\n")))
}

const HOST: &str = "shop.example.com";
