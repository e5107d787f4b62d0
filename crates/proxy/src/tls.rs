//! TLS: which listener a client gets, and how a handshake goes where it ends here.

mod anchors;
mod clients;
#[cfg(test)]
mod tests;
mod tickets;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use portway_plan::{Certificate, CertificateKey, HostPattern, ListenerProtocol, Plan, Port, TrustKey};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) use self::anchors::{AnchorStore, Anchors};
use self::tickets::Scope;
pub(crate) use self::tickets::{Tickets, expire};
use crate::http::Counted;
use crate::observe::Handshake;
use crate::prefixed::Prefixed;
use crate::proxy::FailedListener;

/// What all TLS of a proxy shares, for as long as it runs.
pub(crate) struct TlsContext {
    pub(crate) provider: Arc<CryptoProvider>,
    /// One set of keys for all listeners and workers, so that a client resumes wherever it lands. rustls
    /// checks that a ticket is used for the name it was made for.
    tickets: Arc<Tickets>,
}

/// The certificates of a plan, ready for use, or why they are not.
#[derive(Clone, Default)]
pub(crate) struct Certificates(BTreeMap<CertificateKey, Loaded>);

#[derive(Clone)]
struct Loaded {
    planned: Arc<Certificate>,
    key: Result<Arc<ServerCertificate>, String>,
}

/// A certificate with its key.
struct ServerCertificate {
    names: Vec<HostPattern>,
    key: Arc<CertifiedKey>,
}

/// The TLS listeners of one port: HTTPS, TLS that ends here and TLS that goes through, told apart by server name.
pub(crate) struct TlsTable {
    /// As in the plan: the most specific hostname first.
    listeners: Vec<TlsListener>,
}

struct TlsListener {
    hostname: HostPattern,
    carries: Carries,
    certificates: Vec<Arc<ServerCertificate>>,
    clients: Option<Clients>,
    /// `None` when none of its certificates can be used.
    terms: Option<Arc<Terms>>,
}

/// How TLS ends at a listener.
struct Terms {
    /// Of all connections.
    config: ServerConfig,
    tickets: Scope,
}

/// What is inside of the TLS of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// Bytes for a backend.
    Bytes,
    /// Nobody here knows: it does not end here.
    Unknown,
}

/// Where a client's hello leads.
pub(crate) enum Way<'a> {
    /// TLS ends here.
    Ends,
    /// It goes through, by the forwards of the listener with this hostname.
    Through(&'a HostPattern),
    /// No listener is for that name.
    Nowhere,
}

/// Whom a listener lets in.
#[derive(Clone)]
struct Clients {
    anchors: Result<Arc<Anchors>, String>,
    optional: bool,
}

impl PartialEq for Clients {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.anchors, &other.anchors) {
            (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
            (Err(a), Err(b)) => a == b,
            _ => false,
        };
        same && self.optional == other.optional
    }
}

/// Chooses among the certificates of one listener.
struct Chooser(Vec<Arc<ServerCertificate>>);

impl TlsContext {
    /// With these keys of tickets.
    pub(crate) fn new(tickets: Arc<Tickets>) -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), tickets }
    }

    fn load(&self, certificate: &Certificate) -> Result<Arc<ServerCertificate>, String> {
        let chain: Vec<_> = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        if chain.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let der = PrivateKeyDer::try_from(certificate.key.0.clone()).map_err(str::to_owned)?;
        let key = self.provider.key_provider.load_private_key(der).map_err(|error| error.to_string())?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(Arc::new(ServerCertificate { names: certificate.names.clone(), key: Arc::new(key) }))
    }

    fn terms(
        &self,
        certificates: &[Arc<ServerCertificate>],
        carries: Carries,
        hostname: &HostPattern,
        clients: Option<&Clients>,
    ) -> Result<Arc<Terms>, String> {
        let error = |error: rustls::Error| error.to_string();
        let (verifier, scope): (Arc<dyn ClientCertVerifier>, _) = match clients {
            None => (Arc::new(NoClientAuth), Vec::new()),
            Some(Clients { anchors, optional }) => {
                let anchors = anchors.as_ref()?;
                // A ticket stands for the certificate that was shown when its session began: it opens no
                // listener that trusts others, nor this one under another rule.
                let scope = anchors.digest(hostname, *optional);
                (clients::verifier(anchors, *optional, &self.provider)?, scope)
            }
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(error)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Chooser(certificates.to_vec())));
        if carries == Carries::Http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // RFC 8446 section 8: early data can be replayed.
        config.max_early_data_size = 0;
        Ok(Arc::new(Terms { config, tickets: Scope::new(self.tickets.clone(), scope) }))
    }
}

impl Terms {
    /// For one connection: what rustls tells its maker of tickets does not say which connection it is about.
    /// The copy takes less than half a microsecond, and is gone after the handshake.
    fn config(&self) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.ticketer = self.tickets.connection();
        Arc::new(config)
    }
}

impl Certificates {
    /// Loads the certificates of a plan; those of the previous one that have not changed are taken over.
    pub(crate) fn load(context: &TlsContext, plan: &Plan, previous: &Self) -> Self {
        let load = |(name, planned): (&CertificateKey, &Arc<Certificate>)| {
            let loaded = match previous.0.get(name) {
                Some(old) if Arc::ptr_eq(&old.planned, planned) || old.planned == *planned => old.clone(),
                _ => Loaded { planned: planned.clone(), key: context.load(planned) },
            };
            (name.clone(), loaded)
        };
        Self(plan.certificates.iter().map(load).collect())
    }

    /// A certificate to show, with its key.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(crate) fn get(&self, name: &CertificateKey) -> Result<Arc<CertifiedKey>, String> {
        self.server(name).map(|certificate| certificate.key.clone())
    }

    fn server(&self, name: &CertificateKey) -> Result<Arc<ServerCertificate>, String> {
        match self.0.get(name) {
            Some(loaded) => loaded.key.clone().map_err(|error| format!("certificate {}: {error}", name.0)),
            None => Err(format!("certificate {} is missing", name.0)),
        }
    }
}

impl TlsTable {
    /// The table of a port; `None` for a port without TLS. What cannot be used is added to `failed`.
    pub(crate) fn build(
        context: &TlsContext,
        port: &Port,
        certificates: &Certificates,
        mut trusted: impl FnMut(&[TrustKey]) -> Result<Arc<Anchors>, String>,
        previous: Option<&Self>,
        failed: &mut Vec<FailedListener>,
    ) -> Option<Self> {
        let mut listeners: Vec<TlsListener> = Vec::new();
        for listener in &port.listeners {
            let (carries, termination) = match &listener.protocol {
                ListenerProtocol::Https(termination) => (Carries::Http, Some(termination)),
                ListenerProtocol::Tls(termination) => (Carries::Bytes, Some(termination)),
                ListenerProtocol::TlsPassthrough => (Carries::Unknown, None),
                ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp => continue,
            };
            let (mut usable, mut errors) = (Vec::new(), Vec::new());
            for name in termination.iter().flat_map(|termination| &termination.certificates) {
                match certificates.server(name) {
                    Ok(certificate) => usable.push(certificate),
                    Err(error) => errors.push(error),
                }
            }
            let validation = termination.and_then(|termination| termination.client.as_ref());
            let clients = validation.map(|validation| Clients {
                anchors: trusted(&validation.trust),
                optional: validation.optional,
            });
            let same = |old: &&TlsListener| {
                old.carries == carries
                    && old.clients == clients
                    && (clients.is_none() || old.hostname == listener.hostname)
                    && old.certificates.len() == usable.len()
                    && old.certificates.iter().zip(&usable).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            // Most often it is where it was.
            let old = previous.and_then(|p| {
                let there = p.listeners.get(listeners.len()).filter(same);
                there.or_else(|| p.listeners.iter().find(same))
            });
            let terms = match old {
                Some(old) => old.terms.clone(),
                None if usable.is_empty() => None,
                None => match context.terms(&usable, carries, &listener.hostname, clients.as_ref()) {
                    Ok(terms) => Some(terms),
                    Err(error) => {
                        errors.push(error);
                        None
                    }
                },
            };
            if old.is_some() && terms.is_none() && !usable.is_empty() {
                let why = clients.as_ref().and_then(|clients| clients.anchors.as_ref().err());
                errors.extend(why.cloned());
            }
            if !errors.is_empty() {
                let (reason, serves) = (errors.join("; "), terms.is_some());
                failed.push(FailedListener { listener: listener.source.clone(), reason, serves });
            }
            let hostname = listener.hostname.clone();
            listeners.push(TlsListener { hostname, carries, certificates: usable, clients, terms });
        }
        (!listeners.is_empty()).then_some(Self { listeners })
    }

    /// The listener for a client that asks for this name. A client that names none, or an IP address (which
    /// is no server name: RFC 6066 section 3), gets the listener for all hosts, or else the HTTPS listener
    /// that is the least specific (`PortTable::shown_listener` has the same rule: requests for the hosts of
    /// other listeners are misdirected).
    fn select(&self, server_name: Option<&str>) -> Option<&TlsListener> {
        match server_name {
            Some(name) => self.listeners.iter().find(|l| l.hostname.matches(name)),
            None => {
                let all = self.listeners.last().filter(|l| l.hostname == HostPattern::Any);
                all.or_else(|| self.listeners.iter().rfind(|l| l.carries == Carries::Http))
            }
        }
    }

    /// Whether some TLS goes through, so that a client's hello must be read before anything is answered.
    pub(crate) fn has_passthrough(&self) -> bool {
        self.listeners.iter().any(|listener| listener.carries == Carries::Unknown)
    }

    /// Where a client goes that asks for this name.
    pub(crate) fn way(&self, server_name: Option<&str>) -> Way<'_> {
        match self.select(server_name) {
            Some(listener) if listener.carries == Carries::Unknown => Way::Through(&listener.hostname),
            Some(_) => Way::Ends,
            None => Way::Nowhere,
        }
    }
}

/// Why no handshake is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    UnknownName,
    NoCertificate,
}

impl Refusal {
    /// A fatal alert in a record of its own (RFC 8446 sections 5.1 and 6).
    fn alert(self) -> [u8; 7] {
        const UNRECOGNIZED_NAME: u8 = 112;
        const INTERNAL_ERROR: u8 = 80;
        let description = match self {
            Self::UnknownName => UNRECOGNIZED_NAME,
            Self::NoCertificate => INTERNAL_ERROR,
        };
        [21, 3, 3, 0, 2, 2, description]
    }
}

impl ResolvesServerCert for Chooser {
    /// The first that fits name and signature schemes; then the first that the client can check at all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs =
            |c: &&Arc<ServerCertificate>| c.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |c: &&Arc<ServerCertificate>| match hello.server_name() {
            Some(name) => c.names.iter().any(|pattern| certifies(pattern, &name.to_ascii_lowercase())),
            None => true,
        };
        let best = self.0.iter().find(|c| signs(c) && named(c)).or_else(|| self.0.iter().find(signs));
        best.map(|c| c.key.clone())
    }
}

/// Whether a certificate's name covers a host: its wildcard stands for just one label (RFC 9525 section 6.3).
fn certifies(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Wildcard(suffix) => {
            host.strip_suffix(&**suffix).is_some_and(|label| !label.is_empty() && !label.contains('.'))
        }
        pattern => pattern.matches(host),
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chooser of {}", self.0.len())
    }
}

impl fmt::Debug for TlsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.listeners.iter().map(|l| &l.hostname)).finish()
    }
}

/// A handshake that succeeded.
pub(crate) struct Handshaken {
    pub(crate) stream: TlsStream<Counted<Prefixed<TcpStream>>>,
    /// Lower case.
    pub(crate) server_name: Option<Arc<str>>,
    pub(crate) inside: Inside,
}

/// What comes after a handshake.
pub(crate) enum Inside {
    Http1,
    /// As the client and we agreed (ALPN).
    Http2,
    /// Bytes, for the forwards of the listener with this hostname.
    Bytes(HostPattern),
}

/// Performs the server's side of a handshake. The table is asked for when the client's hello is there.
pub(crate) async fn accept(
    stream: Prefixed<TcpStream>,
    table: impl FnOnce() -> Option<Arc<TlsTable>>,
) -> Result<Handshaken, Handshake> {
    let mut begun =
        LazyConfigAcceptor::new(Acceptor::default(), Counted::new(stream)).await.map_err(|e| classify(&e))?;
    let server_name: Option<Arc<str>> =
        begun.client_hello().server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into());
    let table = table();
    let selected = table.as_ref().and_then(|table| table.select(server_name.as_deref()));
    let config = match selected {
        None => Err(Refusal::UnknownName),
        Some(listener) => match &listener.terms {
            Some(terms) => Ok((terms.config(), listener)),
            None => Err(Refusal::NoCertificate),
        },
    };
    let (config, listener) = match config {
        Ok(found) => found,
        Err(refusal) => {
            // The client may be gone; there is nobody else to tell.
            let _ = begun.io.write_all(&refusal.alert()).await;
            let _ = begun.io.shutdown().await;
            return Err(Handshake::UnknownName);
        }
    };
    let stream = begun.into_stream(config).await.map_err(|error| classify(&error))?;
    let inside = match (listener.carries, stream.get_ref().1.alpn_protocol()) {
        (Carries::Bytes | Carries::Unknown, _) => Inside::Bytes(listener.hostname.clone()),
        (Carries::Http, Some(b"h2")) => Inside::Http2,
        (Carries::Http, _) => Inside::Http1,
    };
    Ok(Handshaken { stream, server_name, inside })
}

/// What a failed handshake is counted as.
fn classify(error: &io::Error) -> Handshake {
    use rustls::Error as E;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
        Some(E::PeerIncompatible(_) | E::General(_) | E::NoApplicationProtocol) => Handshake::Incompatible,
        Some(E::NoCertificatesPresented | E::InvalidCertificate(_)) => Handshake::Untrusted,
        Some(E::AlertReceived(_)) => Handshake::Alert,
        Some(_) => Handshake::Malformed,
        None => Handshake::Closed,
    }
}
