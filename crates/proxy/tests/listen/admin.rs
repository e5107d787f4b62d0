//! What operators and probes ask.

use std::sync::Arc;

use portway_plan::Plan;
use portway_proxy::{Options, Proxy, StatusSource};
use portway_testkit::{Client, Message, Origin};

use crate::options;
use crate::plans::{issue, listener, plan, port, with_certificates};

async fn ask(proxy: &Proxy, host: &str, path: &str) -> anyhow::Result<Message> {
    let address = proxy.admin_address().expect("an admin address");
    Client::connect(address).await?.get(host, path).await
}

fn with_admin() -> anyhow::Result<Proxy> {
    let admin = Some(([127, 0, 0, 1], 0).into());
    let status = Some(StatusSource(Arc::new(|| "{\"fine\":true}".to_owned())));
    Ok(Proxy::start(Options { admin, status, admin_hosts: vec!["gateway.internal".into()], ..options(2) })?)
}

#[tokio::test]
async fn ready_when_the_first_plan_is_served() -> anyhow::Result<()> {
    let proxy = with_admin()?;
    assert_eq!(ask(&proxy, "localhost", "/livez").await?.status(), 200);
    let unready = ask(&proxy, "localhost", "/readyz").await?;
    assert_eq!((unready.status(), unready.text().contains("no plan")), (503, true));
    proxy.apply(Arc::new(Plan::default()));
    assert_eq!(ask(&proxy, "localhost", "/readyz").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn the_plan_shows_no_keys() -> anyhow::Result<()> {
    let proxy = with_admin()?;
    let origin = Origin::named("a").await?;
    let issued = issue("tls", &["a.example"], false);
    let planned = plan(&[port(443, &[listener("a", "", "a", &["tls"])])], &[("a", origin.address())]);
    proxy.apply(Arc::new(with_certificates(planned, &[&issued])));
    let dump = ask(&proxy, "127.0.0.1", "/plan").await?;
    assert_eq!(dump.header("content-type"), Some("application/json"));
    let text = dump.text();
    assert!(text.contains("Service test/a:80"), "{text}");
    assert!(text.contains("\"key\": \"[redacted]\""), "{text}");
    let bytes: Vec<String> = issued.certificate.key.0[..8].iter().map(u8::to_string).collect();
    let without_space: String = text.split_whitespace().collect();
    assert!(!without_space.contains(&bytes.join(",")));
    Ok(())
}

#[tokio::test]
async fn only_reads_and_only_for_those_who_know_its_name() -> anyhow::Result<()> {
    let proxy = with_admin()?;
    assert_eq!(ask(&proxy, "rebound.example", "/plan").await?.status(), 421);
    assert_eq!(ask(&proxy, "gateway.internal:9901", "/status").await?.text(), "{\"fine\":true}");
    assert_eq!(ask(&proxy, "localhost", "/nothing").await?.status(), 404);
    assert!(ask(&proxy, "localhost", "/version").await?.text().contains(env!("CARGO_PKG_VERSION")));
    let address = proxy.admin_address().expect("an admin address");
    let posted = Client::connect(address).await?.request("POST", "localhost", "/plan", &[], b"{}").await?;
    assert_eq!(posted.status(), 405);
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let error =
        Proxy::start(Options { admin: Some(address), ..options(1) }).err().expect("in use").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
}
