//! h2spec, the conformance test of HTTP/2, against the client's side: over h2c and over TLS.
//! `cargo xtask ci h2spec` builds it and runs this.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use portway_testkit::certificates::Certificate;
use portway_testkit::{Gateway, Origin};

use crate::documents;

/// What it may find on a listener, by section and title, and why.
const ACCEPTED: [(&str, &str, &str, &str); 1] = [(
    "plain",
    "http2/3.5",
    "Sends invalid connection preface",
    "the port speaks HTTP/1.1, too: what is no preface is a request of that, answered 400 before it is closed",
)];

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
    - {name: plain, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}
    - name: secure
      protocol: HTTPS
      port: 443
      tls: {certificateRefs: [{name: cert}]}
      allowedRoutes: {namespaces: {from: All}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: apps}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  rules:
    - backendRefs: [{name: origin, port: 80}]
";

/// What is wrong: sections and titles of the cases that fail; and how many cases there are.
fn run(address: SocketAddr, tls: bool) -> anyhow::Result<(BTreeSet<(String, String)>, usize)> {
    let tool = std::env::var_os("H2SPEC").expect("H2SPEC is the path of h2spec: cargo xtask ci h2spec");
    let report = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(tool);
    command.args(["--strict", "--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(if tls { &["--tls", "--insecure"][..] } else { &[] });
    let output = command.arg("--junit-report").arg(report.path()).output()?;
    let text = std::fs::read_to_string(report.path())?;
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let (mut failed, mut all) = (BTreeSet::new(), 0);
    for case in text.split("<testcase").skip(1) {
        all += 1;
        let (Some(section), Some(title)) = (attribute(case, "package"), attribute(case, "classname")) else {
            anyhow::bail!("a test case without a name: {case}");
        };
        assert!(!case.contains("<skipped"), "{section} {title} was skipped");
        if case.contains("<failure") || case.contains("<error") {
            failed.insert((section, title));
        }
    }
    println!("{}", String::from_utf8_lossy(&output.stdout));
    Ok((failed, all))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs h2spec: cargo xtask ci h2spec"]
async fn h2spec() -> anyhow::Result<()> {
    let origin = Origin::named("origin").await?;
    let certificate = Certificate::new(["a.example"])?;
    let yaml = documents([GATEWAY, &certificate.secret("infra", "cert"), &origin.service("apps", "origin")]);
    let gateway = Gateway::from_yaml(&yaml)?;
    for (listener, tls) in [("plain", false), ("secure", true)] {
        let address = gateway.addr(listener)?;
        let (failed, all) = tokio::task::spawn_blocking(move || run(address, tls)).await??;
        assert!(all > 140, "h2spec ran {all} cases only");
        let accepted = ACCEPTED.iter().filter(|(on, ..)| *on == listener);
        let accepted = accepted.map(|(_, section, title, _)| ((*section).to_owned(), (*title).to_owned()));
        assert_eq!(failed, accepted.collect(), "{listener}: what fails, and what may");
    }
    Ok(())
}
