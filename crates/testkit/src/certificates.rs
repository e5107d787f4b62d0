//! Certificates for tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

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

    /// What a server needs to show it, and to ask for certificates of clients if there are roots to check
    /// them against.
    ///
    /// # Errors
    /// When [`Certificate::key`] is not its key, or there is no root.
    pub fn server(
        &self,
        alpn: &[u8],
        clients: Option<&Arc<RootCertStore>>,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider).build()?,
            ),
        };
        let (chain, key) = self.pair()?;
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }

    pub(crate) fn pair(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        Ok((vec![self.der.clone()], PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
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

/// A certificate authority.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// One that trusts nobody but itself, valid now.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        let certificate = params.self_signed(&key)?;
        let certificate = Certificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
        };
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// A certificate with these subject alternative names (URIs where they have a `:`), for servers and
    /// clients.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn issue<const N: usize>(&self, names: [&str; N]) -> anyhow::Result<Certificate> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(match name.contains(':') {
                true => SanType::URI(name.try_into()?),
                false => SanType::DnsName(name.try_into()?),
            });
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certificate { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() })
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A ConfigMap that holds its certificate as `ca.crt`, as YAML.
    pub fn config_map(&self, namespace: &str, name: &str) -> String {
        bundle(namespace, name, &[self])
    }
}

/// A ConfigMap that holds the certificates of these authorities as `ca.crt`, as YAML.
pub fn bundle(namespace: &str, name: &str, authorities: &[&Authority]) -> String {
    let pem: String = authorities.iter().map(|authority| authority.certificate.chain.as_str()).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: {namespace}\ndata:\n  \
         ca.crt: |\n    {}\n",
        pem.trim_end().replace('\n', "\n    ")
    )
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
