//! How long sessions last, over sockets and by a clock of the test's.

use std::net::Ipv4Addr;

use bytes::Bytes;
use portway_plan::{ClientValidation, Host, Listener, ObjectRef, PrivateKey, Source, TlsTermination};
use portway_plan::{Transport, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::tickets::tests::{epoch, set_clock, tickets};
use super::*;

const HOST: &str = "shop.example.com";

/// A listener whose clients must show a certificate.
struct Strict {
    table: Arc<TlsTable>,
    authority: CertifiedIssuer<'static, KeyPair>,
    sockets: TcpListener,
}

impl Strict {
    async fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (chain, key) = issue(&authority);
        let certificate = CertificateKey("infra/edge".into());
        let trust = TrustKey("ConfigMap infra/ca".into());
        let termination = TlsTermination {
            certificates: vec![certificate.clone()],
            client: Some(ClientValidation { trust: vec![trust.clone()], optional: false }),
        };
        let gateway = ObjectRef { kind: "Gateway".into(), namespace: "infra".into(), name: "edge".into() };
        let source = Source { object: Arc::new(gateway), path: "spec.listeners[0]".into(), section: None };
        let listener = Listener {
            source,
            hostname: HostPattern::Any,
            protocol: ListenerProtocol::Https(termination),
            hosts: Vec::<Arc<Host>>::new(),
            forwards: Vec::new(),
            filters: Vec::new(),
            client_certificate: None,
        };
        let listeners = vec![Arc::new(listener)];
        let port = Port { address: None, port: 443, transport: Transport::Tcp, listeners };
        let mut plan = Plan { ports: vec![Arc::new(port)], ..Plan::default() };
        let names = vec![HostPattern::parse(HOST).unwrap()];
        let planned = Certificate { chain: vec![chain], key: PrivateKey(key), names, not_after: i64::MAX };
        plan.certificates.insert(certificate, Arc::new(planned));
        plan.trust.insert(trust, Arc::new(Trust { certificates: vec![authority.der().to_vec()] }));

        let context = TlsContext::new(tickets());
        let certificates = Certificates::load(&context, &plan, &Certificates::default());
        let (mut anchors, mut failed) = (AnchorStore::default(), Vec::new());
        let trusted = |keys: &[TrustKey]| anchors.of(&plan, keys);
        let table = TlsTable::build(&context, &plan.ports[0], &certificates, trusted, None, &mut failed);
        assert_eq!(failed, []);
        let sockets = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { table: Arc::new(table.unwrap()), authority, sockets }
    }

    /// A client with a certificate that remembers sessions.
    fn client(&self, version: &'static SupportedProtocolVersion) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let (chain, key) = issue(&self.authority);
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![chain.into()], PrivatePkcs8KeyDer::from(key).into())
            .unwrap();
        TlsConnector::from(Arc::new(config))
    }

    /// One connection.
    async fn visit(&self, client: &TlsConnector) -> HandshakeKind {
        let ours = async {
            let (stream, _) = self.sockets.accept().await.unwrap();
            let stream = Prefixed::new(Bytes::new(), stream);
            let table = self.table.clone();
            let Ok(mut handshaken) = accept(stream, || Some(table)).await else { panic!("no handshake") };
            assert!(handshaken.stream.get_ref().1.peer_certificates().is_some(), "we know who it is");
            handshaken.stream.write_all(b"!").await.unwrap();
            handshaken.stream.get_ref().1.handshake_kind().unwrap()
        };
        let theirs = async {
            let stream = TcpStream::connect(self.sockets.local_addr().unwrap()).await.unwrap();
            let mut stream = client.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap();
            // Tickets come before it.
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
        };
        tokio::join!(ours, theirs).0
    }
}

/// A certificate that the authority has signed, and its key, in DER.
fn issue(authority: &CertifiedIssuer<'static, KeyPair>) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().der().to_vec(), key.serialize_der())
}

#[tokio::test]
async fn a_client_that_resumes_again_and_again_shows_its_certificate_every_twelve_hours() {
    for version in [&TLS12, &TLS13] {
        let strict = Strict::new().await;
        let client = strict.client(version);
        let begun = epoch(1000) + 17;
        for hours in [0, 5, 10, 11, 12, 17, 23, 24] {
            set_clock(begun + hours * 3600);
            let expected = if hours % 12 > 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
            assert_eq!(strict.visit(&client).await, expected, "{version:?}, after {hours} hours");
        }
    }
}
