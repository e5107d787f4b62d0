//! Sessions that are resumed: on which worker, on which replica, and for how long.

use std::net::SocketAddr;
use std::sync::Arc;

use portway_plan::{ClientValidation, Listener, ListenerProtocol, PrivateKey, TicketKey, Trust, TrustKey};
use portway_proxy::{Options, Proxy};
use portway_testkit::{Client, Origin};
use rustls::RootCertStore;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::plans::{Issued, issue, listener, plan, port, trust, with_certificates};
use crate::{metric, options, serving};

/// A client that keeps sessions, for these versions of TLS.
fn resuming(
    roots: Arc<RootCertStore>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // As far as it lies with the client.
    config.enable_early_data = true;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection that has had an answer, since tickets come with the first; and whether it was resumed.
async fn resumed(
    connector: &TlsConnector,
    address: SocketAddr,
) -> anyhow::Result<(tokio_rustls::client::TlsStream<TcpStream>, bool)> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from("a.example")?, stream).await?;
    let kind = stream.get_ref().1.handshake_kind();
    assert!(!stream.get_ref().1.is_early_data_accepted(), "early data can be replayed");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await?;
    assert!(stream.read(&mut [0; 1024]).await? > 0);
    Ok((stream, kind == Some(rustls::HandshakeKind::Resumed)))
}

#[tokio::test]
async fn a_client_resumes_on_whichever_worker_it_lands() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let issued = issue("a", &["a.example"], false);
    let with = |name| {
        let listeners = [listener(name, "", "a", &["a"])];
        with_certificates(plan(&[port(443, &listeners)], &[("a", origin.address())]), &[&issued])
    };
    let (proxy, address) = serving(options(4), with("a"));
    for version in rustls::ALL_VERSIONS {
        let connector = resuming(trust(&[&issued]), &[*version])?;
        let mut held = Vec::new();
        for round in 0..16 {
            // Connections that stay open are spread over the workers.
            let (stream, resumed) = resumed(&connector, address).await?;
            assert_eq!(resumed, round > 0, "connection {round} of {version:?}");
            held.push(stream);
        }
        for worker in 0..4 {
            let held = metric(&proxy, &format!("portway_connections{{worker=\"{worker}\"}}"));
            assert!(held >= Some(2.0), "worker {worker} has {held:?} of 16 connections");
        }
        // A new plan does not make new keys.
        proxy.apply(with("b").into());
        assert!(resumed(&connector, address).await?.1, "{version:?}, with another plan");
        proxy.apply(with("a").into());
    }
    Ok(())
}

/// Keys that a controller would hand out which has that secret. Epochs are counted from this one on; each has
/// its own key, which another epoch may get to see what becomes of it when time goes by.
fn keys(secret: u8, of: [u8; 3]) -> Vec<TicketKey> {
    let now = TicketKey::epoch(std::time::SystemTime::now());
    // An epoch may end while a test runs.
    let more = [of[0], of[1], of[2], of[2] + 1];
    let key = |(epoch, number): (u64, u8)| TicketKey {
        epoch,
        key: PrivateKey([[secret; 16], [number; 16]].concat()),
    };
    (now - 1..).zip(more).map(key).collect()
}

/// Proxies that serve the same, and a client's trust in them.
struct Fleet {
    _origin: Origin,
    replicas: Vec<(Proxy, SocketAddr)>,
    roots: Arc<RootCertStore>,
}

impl Fleet {
    async fn of(count: usize) -> anyhow::Result<Self> {
        let origin = Origin::named("a").await?;
        let issued = issue("a", &["a.example"], false);
        let listeners = [listener("a", "", "a", &["a"])];
        let plan = with_certificates(plan(&[port(443, &listeners)], &[("a", origin.address())]), &[&issued]);
        let admin = Some(([127, 0, 0, 1], 0).into());
        let start = |_| serving(Options { admin, ..options(1) }, plan.clone());
        Ok(Self { _origin: origin, replicas: (0..count).map(start).collect(), roots: trust(&[&issued]) })
    }

    fn give(&self, replica: usize, keys: &[TicketKey]) {
        self.replicas[replica].0.set_ticket_keys(keys);
    }

    /// Whether a client that has been elsewhere is resumed there.
    async fn resumes(&self, client: &TlsConnector, replica: usize) -> anyhow::Result<bool> {
        Ok(resumed(client, self.replicas[replica].1).await?.1)
    }
}

#[tokio::test]
async fn a_client_resumes_on_another_replica_that_has_the_same_keys() -> anyhow::Result<()> {
    for version in rustls::ALL_VERSIONS {
        let fleet = Fleet::of(3).await?;
        for (replica, secret) in [1, 1, 2].into_iter().enumerate() {
            fleet.give(replica, &keys(secret, [6, 7, 8]));
        }
        let client = resuming(fleet.roots.clone(), &[*version])?;
        assert!(!fleet.resumes(&client, 0).await?);
        assert!(fleet.resumes(&client, 1).await?, "{version:?}");
        assert!(!fleet.resumes(&client, 2).await?, "{version:?}, other keys: a whole handshake");
    }
    Ok(())
}

#[tokio::test]
async fn keys_that_are_handed_out_end_no_session_that_own_ones_have_sealed() -> anyhow::Result<()> {
    for version in rustls::ALL_VERSIONS {
        let fleet = Fleet::of(2).await?;
        let client = resuming(fleet.roots.clone(), &[*version])?;
        assert!(!fleet.resumes(&client, 0).await?);
        fleet.give(0, &keys(1, [6, 7, 8]));
        fleet.give(1, &keys(1, [6, 7, 8]));
        assert!(fleet.resumes(&client, 0).await?, "{version:?}");
        assert!(fleet.resumes(&client, 1).await?, "{version:?}, with a ticket of the new key");
    }
    Ok(())
}

#[tokio::test]
async fn another_secret_revokes_the_tickets_of_before() -> anyhow::Result<()> {
    for version in rustls::ALL_VERSIONS {
        let fleet = Fleet::of(1).await?;
        let client = resuming(fleet.roots.clone(), &[*version])?;
        fleet.give(0, &keys(1, [6, 7, 8]));
        assert!(!fleet.resumes(&client, 0).await?);
        assert!(fleet.resumes(&client, 0).await?, "{version:?}");
        fleet.give(0, &keys(2, [6, 7, 8]));
        assert!(!fleet.resumes(&client, 0).await?, "{version:?}: a whole handshake");
        assert!(fleet.resumes(&client, 0).await?, "{version:?}, under the new keys");
    }
    Ok(())
}

#[tokio::test]
async fn a_ticket_is_good_for_the_next_epoch_and_no_more() -> anyhow::Result<()> {
    for version in rustls::ALL_VERSIONS {
        for (then, good) in [([7, 8, 9], true), ([8, 9, 10], false)] {
            let fleet = Fleet::of(2).await?;
            let client = resuming(fleet.roots.clone(), &[*version])?;
            fleet.give(0, &keys(1, [6, 7, 8]));
            fleet.give(1, &keys(1, [6, 7, 8]));
            assert!(!fleet.resumes(&client, 0).await?);
            // To whoever has these keys, time has gone by.
            fleet.give(1, &keys(1, then));
            assert_eq!(fleet.resumes(&client, 1).await?, good, "{version:?} {then:?}");
            // What it got there is of the new epoch.
            fleet.give(0, &keys(1, then));
            assert!(fleet.resumes(&client, 0).await?, "{version:?} {then:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_that_a_proxy_shows_has_a_byte_of_its_keys() -> anyhow::Result<()> {
    let fleet = Fleet::of(1).await?;
    let given = keys(0xA7, [6, 7, 8]);
    fleet.give(0, &given);
    let client = resuming(fleet.roots.clone(), rustls::ALL_VERSIONS)?;
    assert!(!fleet.resumes(&client, 0).await?);
    let admin = fleet.replicas[0].0.admin_address().expect("an admin address");
    let mut shown = format!("{given:?}");
    for path in ["/plan", "/metrics", "/version"] {
        let answer = Client::connect(admin).await?.get("localhost", path).await?;
        assert_eq!(answer.status(), 200, "{path}");
        shown += &answer.text();
    }
    assert!(shown.contains("Service test/a:80"), "the plan is there");
    let shown: String = shown.split_whitespace().collect();
    for written in ["167,167,167", "a7a7a7a7", "A7A7A7A7", "p6enp6en"] {
        assert!(!shown.contains(written), "bytes, hexadecimal or base64: {written}");
    }
    Ok(())
}

/// The listener, which asks clients for a certificate that `ca` has signed.
fn asking(listener: Arc<Listener>, optional: bool) -> Arc<Listener> {
    let mut listener = Arc::unwrap_or_clone(listener);
    let ListenerProtocol::Https(termination) = &mut listener.protocol else { panic!("it has no TLS") };
    termination.client = Some(ClientValidation { trust: vec![TrustKey("ca".into())], optional });
    Arc::new(listener)
}

#[tokio::test]
async fn a_ticket_stands_for_a_certificate_only_where_that_was_asked_for() -> anyhow::Result<()> {
    let origin = Origin::named("a").await?;
    let (server, own, other) = (
        issue("a", &["a.example"], false),
        issue("own", &["own.client"], false),
        issue("other", &["other.client"], false),
    );
    let with = |ca: &Issued, optional| {
        let listeners = [asking(listener("a", "", "a", &["a"]), optional)];
        let plan = plan(&[port(443, &listeners)], &[("a", origin.address())]);
        let mut plan = with_certificates(plan, &[&server]);
        let certificates = vec![ca.root.to_vec()];
        plan.trust.insert(TrustKey("ca".into()), Arc::new(Trust { certificates }));
        plan
    };
    for version in rustls::ALL_VERSIONS {
        let (strict, same) = (serving(options(1), with(&own, false)), serving(options(1), with(&own, false)));
        let lenient = serving(options(1), with(&own, true));
        for (proxy, _) in [&strict, &same, &lenient] {
            proxy.set_ticket_keys(&keys(1, [6, 7, 8]));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[*version])?
            .with_root_certificates(trust(&[&server]))
            .with_client_auth_cert(
                vec![own.root.clone()],
                PrivatePkcs8KeyDer::from(own.certificate.key.0.clone()).into(),
            )?;
        let client = TlsConnector::from(Arc::new(config));
        assert!(!resumed(&client, strict.1).await?.1, "{version:?}");
        assert!(resumed(&client, strict.1).await?.1, "{version:?}");
        assert!(resumed(&client, same.1).await?.1, "{version:?}, on another replica");
        assert!(!resumed(&client, lenient.1).await?.1, "{version:?}, under another rule");

        let stranger = resuming(trust(&[&server]), &[*version])?;
        assert!(!resumed(&stranger, lenient.1).await?.1, "{version:?}");
        assert!(resumed(&stranger, lenient.1).await?.1, "{version:?}");
        assert!(resumed(&stranger, strict.1).await.is_err(), "{version:?}: it has shown no certificate");

        assert!(!resumed(&client, strict.1).await?.1, "{version:?}: its last ticket is of the lenient one");
        strict.0.apply(with(&other, false).into());
        assert!(resumed(&client, strict.1).await.is_err(), "{version:?}: its authority has gone");
    }
    Ok(())
}
