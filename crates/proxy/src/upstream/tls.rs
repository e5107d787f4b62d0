//! TLS towards backends: what a handshake needs, made when a plan is applied.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portway_plan::{BackendTls, CertificateKey, Plan};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::BackendVerifier;
use crate::fault::{Fault, FaultKind};
use crate::tls::{AnchorStore, Anchors, Certificates};

/// How many sessions are kept to resume at one endpoint.
const SESSIONS: usize = 8;

/// Names a [`ClientTls`] within this process; 0 is plain text.
pub(super) type ClientTlsId = u64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// TLS towards one backend with one certificate to show, or with none. Connections that were made with one
/// are never used for another.
pub struct ClientTls {
    id: ClientTlsId,
    server_name: Option<ServerName<'static>>,
    /// Or why no connection can succeed.
    config: Result<ClientConfig, String>,
    retired: AtomicBool,
    /// A failure has been logged since the last success.
    told: AtomicBool,
}

/// TLS towards one backend, for each certificate that may be shown to it.
pub(crate) struct Connectors {
    planned: Option<Arc<BackendTls>>,
    anchors: Result<Arc<Anchors>, String>,
    /// The first shows none, or the backend's own.
    list: Vec<Connector>,
}

struct Connector {
    identity: Option<CertificateKey>,
    key: Option<Result<Arc<CertifiedKey>, String>>,
    tls: Arc<ClientTls>,
}

/// What connectors of a plan are made of.
pub(crate) struct Ingredients<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) provider: &'a Arc<CryptoProvider>,
    pub(crate) certificates: &'a Certificates,
    pub(crate) anchors: &'a mut AnchorStore,
    /// The certificates that listeners show to backends.
    pub(crate) identities: &'a [CertificateKey],
}

impl Connectors {
    /// For a backend that is to be reached over TLS and of which no more is known: no connection succeeds.
    pub(super) fn shut() -> Self {
        let why = "TLS has not been set up yet".to_owned();
        let tls = Arc::new(ClientTls::new(None, Err(why.clone())));
        Self { planned: None, anchors: Err(why), list: vec![Connector { identity: None, key: None, tls }] }
    }

    /// For a backend of a plan. What has not changed is taken over from the ones before.
    pub(crate) fn new(
        planned: &Arc<BackendTls>,
        previous: Option<&Self>,
        with: &mut Ingredients<'_>,
    ) -> Self {
        let anchors = with.anchors.get(with.plan, &planned.trust);
        let same_anchors = |other: &Result<Arc<Anchors>, String>| match (&anchors, other) {
            (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
            (Err(a), Err(b)) => a == b,
            _ => false,
        };
        let previous = previous.filter(|p| p.planned.as_ref() == Some(planned) && same_anchors(&p.anchors));
        let own = planned.client_certificate.is_some();
        let identities = with.identities.iter().filter(|_| !own).map(Some);
        let list = std::iter::once(None).chain(identities).map(|identity| {
            let shown = planned.client_certificate.as_ref().or(identity);
            let key = shown.map(|name| with.certificates.get(name));
            let known = previous.and_then(|p| p.list.iter().find(|c| c.identity.as_ref() == identity));
            let tls = match known {
                Some(known) if same_key(known.key.as_ref(), key.as_ref()) => known.tls.clone(),
                _ => Arc::new(ClientTls::build(planned, &anchors, key.as_ref(), with.provider)),
            };
            Connector { identity: identity.cloned(), key, tls }
        });
        let list = list.collect();
        Self { planned: Some(planned.clone()), anchors, list }
    }

    /// How to connect for a listener with this certificate.
    pub(super) fn get(&self, identity: Option<&CertificateKey>) -> Option<&Arc<ClientTls>> {
        let own = identity.and_then(|name| self.list.iter().find(|c| c.identity.as_ref() == Some(name)));
        own.or(self.list.first()).map(|connector| &connector.tls)
    }

    /// Makes sure that no connection outlives what is not in `next`. Returns whether there was any.
    pub(super) fn retire(&self, next: Option<&Self>) -> bool {
        let mut any = false;
        for Connector { tls, .. } in &self.list {
            let stays = next.is_some_and(|next| next.list.iter().any(|c| Arc::ptr_eq(&c.tls, tls)));
            if !stays {
                tls.retired.store(true, Ordering::Relaxed);
                any = true;
            }
        }
        any
    }

    /// Whether these are no other than those before.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.planned == other.planned
            && self.list.len() == other.list.len()
            && self.list.iter().zip(&other.list).all(|(a, b)| Arc::ptr_eq(&a.tls, &b.tls))
    }
}

type Key<'a> = Option<&'a Result<Arc<CertifiedKey>, String>>;

fn same_key(a: Key<'_>, b: Key<'_>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Ok(a)), Some(Ok(b))) => Arc::ptr_eq(a, b),
        (Some(Err(a)), Some(Err(b))) => a == b,
        _ => false,
    }
}

impl ClientTls {
    fn new(server_name: Option<ServerName<'static>>, config: Result<ClientConfig, String>) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            server_name,
            config,
            retired: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    fn build(
        planned: &BackendTls,
        anchors: &Result<Arc<Anchors>, String>,
        key: Key<'_>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        let name = ServerName::try_from(planned.server_name.to_string()).ok();
        let config = || {
            let anchors = anchors.clone()?;
            let key = key.cloned().transpose()?;
            let verifier = BackendVerifier {
                anchors,
                names: planned.names.clone(),
                algorithms: provider.signature_verification_algorithms,
            };
            let builder = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier));
            Ok(match key {
                None => builder.with_no_client_auth(),
                Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            })
        };
        let config = match &name {
            Some(_) => config(),
            None => Err(format!("{:?} is no server name", planned.server_name)),
        };
        Self::new(name, config)
    }

    /// Its name within this process.
    pub(super) fn id(&self) -> ClientTlsId {
        self.id
    }

    /// Whether the plan has another now: streams finish, and no connection is kept.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The configuration for one endpoint, whose sessions are kept apart: one endpoint knows nothing of
    /// another's.
    ///
    /// # Errors
    /// [`FaultKind::UpstreamTls`] when nothing could succeed.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, Fault> {
        let mut config = self.config.clone().map_err(|why| self.failed(&why))?;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Arc::new(config))
    }

    /// Performs the client's side of a handshake, and agrees on what is spoken then (ALPN; empty for bytes
    /// of any kind).
    ///
    /// # Errors
    /// [`FaultKind::UpstreamTls`] when one side refuses the other, [`FaultKind::Connect`] when the
    /// connection breaks or it takes too long.
    pub(super) async fn handshake(
        &self,
        config: Arc<ClientConfig>,
        alpn: &[u8],
        stream: TcpStream,
        timeout: Duration,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let Some(name) = self.server_name.clone() else { return Err(self.failed(&"no server name")) };
        let connector = TlsConnector::from(config);
        let alpn = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
        match tokio::time::timeout(timeout, connector.with_alpn(alpn).connect(name, stream)).await {
            Ok(Ok(stream)) => {
                self.told.store(false, Ordering::Relaxed);
                Ok(stream)
            }
            Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => Err(self.failed(error)),
                None => Err(Fault::new(FaultKind::Connect, format_args!("the TLS handshake: {error}"))),
            },
            Err(_) => Err(Fault::new(FaultKind::Connect, "the TLS handshake took too long")),
        }
    }

    fn failed(&self, why: &dyn fmt::Display) -> Fault {
        let name = self.server_name.as_ref().map(ServerName::to_str).unwrap_or_default();
        // One line until it succeeds again: the access log has each.
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(server_name = %name, error = %why, "TLS to a backend fails");
        }
        Fault::new(FaultKind::UpstreamTls, format_args!("{name}: {why}"))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS as {:?}", self.server_name)
    }
}
