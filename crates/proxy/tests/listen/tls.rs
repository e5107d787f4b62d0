//! Which certificate a client gets, and what it may then ask for.

use std::sync::Arc;

use http::Request;
use portway_testkit::{Client, Http2, Origin};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::plans::{issue, listener, plan, port, trust, with_certificates};
use crate::{options, serving};

async fn get(client: &mut Client, host: &str) -> anyhow::Result<(u16, String)> {
    let response = client.get(host, "/").await?;
    Ok((response.status(), response.text()))
}

#[tokio::test]
async fn the_server_name_chooses_listener_and_certificate() -> anyhow::Result<()> {
    let (shop, any) = (Origin::named("shop").await?, Origin::named("any").await?);
    let exact = issue("exact", &["shop.example.com"], false);
    let wild = issue("wild", &["*.example.com"], false);
    let listeners = [
        listener("shop", "shop.example.com", "shop", &["exact"]),
        listener("wild", "*.example.com", "any", &["wild"]),
    ];
    let backends = [("shop", shop.address()), ("any", any.address())];
    let certificates = [&exact, &wild];
    let plan = with_certificates(plan(&[port(443, &listeners)], &backends), &certificates);
    let (_proxy, address) = serving(options(1), plan);
    let roots = trust(&certificates);

    let mut client = Client::connect_tls(address, "shop.example.com", &roots).await?;
    assert_eq!(client.certificate.as_deref(), Some(&exact.root[..]));
    assert_eq!(get(&mut client, "shop.example.com").await?, (200, "shop".into()));
    assert_eq!(get(&mut client, "other.example.com").await?.0, 421, "another listener's host");

    let mut client = Client::connect_tls(address, "other.example.com", &roots).await?;
    assert_eq!(client.certificate.as_deref(), Some(&wild.root[..]));
    assert_eq!(get(&mut client, "other.example.com").await?, (200, "any".into()));

    let refused = Client::connect_tls(address, "example.org", &roots).await.err().expect("no listener");
    assert!(format!("{refused:#}").contains("UnrecognisedName"), "{refused:#}");
    Ok(())
}

#[tokio::test]
async fn a_client_gets_the_certificate_that_it_can_check() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let rsa = issue("rsa", &["a.example"], true);
    let ecdsa = issue("ecdsa", &["a.example"], false);
    let other = issue("other", &["b.example"], false);
    let listeners = [listener("a", "", "a", &["other", "ecdsa", "rsa"])];
    let certificates = [&rsa, &ecdsa, &other];
    let plan = with_certificates(plan(&[port(443, &listeners)], &[("a", origin.address())]), &certificates);
    let (_proxy, address) = serving(options(1), plan);

    let client = Client::connect_tls(address, "a.example", &trust(&certificates)).await?;
    assert_eq!(client.certificate.as_deref(), Some(&ecdsa.root[..]), "the first that fits the name");

    // TLS 1.2 with RSA only: a client that cannot check ECDSA.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS12])?
        .with_root_certificates(trust(&certificates))
        .with_no_client_auth();
    config.enable_sni = true;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream =
        connector.connect(ServerName::try_from("a.example")?, TcpStream::connect(address).await?).await?;
    let shown = stream.get_ref().1.peer_certificates().expect("certificates")[0].clone();
    assert_eq!(shown, rsa.root);
    Ok(())
}

#[tokio::test]
async fn without_a_server_name_the_listener_for_all_hosts_serves() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let certificate = issue("ip", &["127.0.0.1"], false);
    let listeners = [listener("a", "", "a", &["ip"])];
    let plan = with_certificates(plan(&[port(443, &listeners)], &[("a", origin.address())]), &[&certificate]);
    let (_proxy, address) = serving(options(1), plan);
    // rustls sends no server name for an IP address.
    let mut client = Client::connect_tls(address, "127.0.0.1", &trust(&[&certificate])).await?;
    assert_eq!(get(&mut client, "whoever.example").await?, (200, "a".into()));
    Ok(())
}

#[tokio::test]
async fn http2_by_alpn_and_by_prior_knowledge() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let certificate = issue("a", &["a.example"], false);
    let ports =
        [port(80, &[listener("plain", "", "a", &[])]), port(443, &[listener("tls", "", "a", &["a"])])];
    let plan = with_certificates(plan(&ports, &[("a", origin.address())]), &[&certificate]);
    let (proxy, plain) = serving(options(1), plan);
    let secure = proxy.addresses()[1].1;

    let request = || Request::get("http://a.example/x").body(bytes::Bytes::new());
    let answer = Http2::connect(plain).await?.send(request()?).await?;
    assert_eq!((answer.head.status().as_u16(), &answer.body[..]), (200, &b"a"[..]));
    assert_eq!(answer.head.headers()["content-length"], "1");
    let answer =
        Http2::connect_tls(secure, "a.example", &trust(&[&certificate])).await?.send(request()?).await?;
    assert_eq!((answer.head.status().as_u16(), &answer.body[..]), (200, &b"a"[..]));
    let seen = origin.requests();
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen[1].header("x-forwarded-proto"), Some("https"));

    // The same port speaks HTTP/1.1, also to a client whose first bytes look like the preface.
    let mut client = Client::connect(plain).await?;
    assert_eq!(get(&mut client, "a.example").await?, (200, "a".into()));
    let mut client = Client::connect(plain).await?;
    client.write("P").await?;
    client.write("UT / HTTP/1.1\r\nHost: a.example\r\n\r\n").await?;
    assert_eq!(client.response().await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_takes_nothing_else_down() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let good = issue("good", &["a.example"], false);
    let mut bad = issue("bad", &["b.example"], false);
    bad.certificate.key = good.certificate.key.clone();
    let listeners = [listener("a", "a.example", "a", &["good"]), listener("b", "b.example", "a", &["bad"])];
    let plan = with_certificates(plan(&[port(443, &listeners)], &[("a", origin.address())]), &[&good, &bad]);
    let proxy = portway_proxy::Proxy::start(options(1))?;
    let applied = proxy.apply(plan.into());
    let [failed] = &applied.failed[..] else { panic!("{applied:?}") };
    assert_eq!(failed.listener.section.as_deref(), Some("b"));
    assert!(failed.reason.contains("bad"), "{}", failed.reason);
    let address = applied.ports[0].bound.clone().map_err(anyhow::Error::msg)?;
    let roots = trust(&[&good, &bad]);
    let mut client = Client::connect_tls(address, "a.example", &roots).await?;
    assert_eq!(get(&mut client, "a.example").await?, (200, "a".into()));
    assert!(Client::connect_tls(address, "b.example", &roots).await.is_err());
    Ok(())
}
