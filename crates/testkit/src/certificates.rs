//! Certificates for tests.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A self-signed certificate and its key.
pub struct Certificate {
    /// PEM.
    pub chain: String,
    /// PEM, PKCS #8.
    pub key: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// For these DNS names; ECDSA P-256, valid now.
    ///
    /// # Errors
    /// When a name is no DNS name.
    pub fn new<const N: usize>(names: [&str; N]) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names.map(str::to_owned))?.self_signed(&key)?;
        Ok(Self { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() })
    }

    /// The DER of the certificate, as a client sees it.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The DER of the key.
    ///
    /// # Errors
    /// When [`Certificate::key`] is no key any more.
    pub fn key_der(&self) -> anyhow::Result<Vec<u8>> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?.secret_der().to_vec())
    }

    /// A Secret of type `kubernetes.io/tls` that holds it, as YAML.
    pub fn secret(&self, namespace: &str, name: &str) -> String {
        let block = |pem: &str| pem.trim_end().replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
             type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
            block(&self.chain),
            block(&self.key)
        )
    }
}

/// What a client needs in order to trust these certificates and no others.
///
/// # Errors
/// When one cannot be a trust anchor.
pub fn trust<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.der.clone())?;
    }
    Ok(Arc::new(roots))
}
