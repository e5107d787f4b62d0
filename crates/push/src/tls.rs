//! TLS 1.3 on both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The application protocol: gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// The certificate that the controller shows, which may be exchanged while it serves. Clones are the same one.
#[derive(Clone, Default)]
pub struct ServingCertificate(Arc<Slot>);

#[derive(Default)]
struct Slot(ArcSwapOption<CertifiedKey>);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM is no certificate chain or no key.
    #[error("it is no PEM")]
    Pem,
    /// The key or the authorities cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file of authorities has none.
    #[error("{0}: there is no certificate in it")]
    NoAuthority(PathBuf),
}

impl From<rustls::pki_types::pem::Error> for TlsError {
    /// Without its words, which quote the bytes that it stumbled over, be they a private key.
    fn from(_: rustls::pki_types::pem::Error) -> Self {
        Self::Pem
    }
}

impl ServingCertificate {
    /// None yet: handshakes fail until there is one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this one from the next handshake on: the chain and the key, both in PEM.
    ///
    /// # Errors
    /// When they are no PEM, or do not belong together. The one before stays.
    pub fn set(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        self.0.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    pub(crate) fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.0.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A proxy connects once; to remember it would only cost.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServingCertificate")
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl ResolvesServerCert for Slot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Trusts the authorities of a PEM file, and no others.
pub(crate) fn client(authorities: &Path) -> Result<ClientConfig, TlsError> {
    let file = |error| TlsError::File { path: authorities.to_owned(), error };
    let pem = std::fs::read(authorities).map_err(file)?;
    trusting(&pem)?.ok_or_else(|| TlsError::NoAuthority(authorities.to_owned()))
}

/// Trusts these authorities, in PEM, and no others; `None` if there are none.
pub(crate) fn trusting(pem: &[u8]) -> Result<Option<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(config))
}
