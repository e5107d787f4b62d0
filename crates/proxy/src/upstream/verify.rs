//! Whether a backend is who it should be: its certificate's signer and its names.

use std::sync::Arc;

use portway_plan::SubjectName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::tls::Anchors;

/// Checks the certificates of one backend (GEP-1897).
#[derive(Debug)]
pub(super) struct BackendVerifier {
    pub(super) anchors: Arc<Anchors>,
    /// If not empty, one of these names it, instead of the server name.
    pub(super) names: Vec<SubjectName>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.anchors.roots, self.algorithms.all);
        let signed =
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms);
        // A certificate that signs itself, and that the bundle names: no authority stands above it.
        if signed.is_err() && !(self.anchors.names(end_entity) && is_valid(end_entity, now)) {
            signed?;
        }
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.names.iter().any(|name| has(end_entity, &parsed, name)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else { return false };
    let validity = parsed.validity();
    let seconds = |at: i64| u64::try_from(at).unwrap_or_default();
    let span = seconds(validity.not_before.timestamp())..=seconds(validity.not_after.timestamp());
    span.contains(&now.as_secs())
}

/// Whether a certificate has a subject alternative name.
fn has(certificate: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, wanted: &SubjectName) -> bool {
    match wanted {
        SubjectName::Hostname(pattern) => match pattern.strip_prefix("*.") {
            None => {
                ServerName::try_from(&**pattern).is_ok_and(|name| verify_server_name(parsed, &name).is_ok())
            }
            Some(parent) => any_name(certificate, |name| match name {
                GeneralName::DNSName(name) => {
                    let rest = name.split_once('.');
                    rest.is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
                }
                _ => false,
            }),
        },
        SubjectName::Uri(uri) => {
            any_name(certificate, |name| matches!(name, GeneralName::URI(name) if *name == &**uri))
        }
    }
}

fn any_name(certificate: &CertificateDer<'_>, fits: impl Fn(&GeneralName<'_>) -> bool) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let names = parsed.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| names.value.general_names.iter().any(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(names: &[&str], wanted: &SubjectName) -> bool {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains(':') {
                true => rcgen::SanType::URI((*name).try_into().unwrap()),
                false => rcgen::SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let certificate = params.self_signed(&key).unwrap();
        has(certificate.der(), &ParsedCertificate::try_from(certificate.der()).unwrap(), wanted)
    }

    #[test]
    fn subject_names() {
        let dns = |name: &str| SubjectName::Hostname(name.into());
        let uri = |name: &str| SubjectName::Uri(name.into());
        assert!(fits(&["b.example", "a.example"], &dns("a.example")));
        assert!(fits(&["A.example"], &dns("a.example")));
        assert!(fits(&["*.example.com"], &dns("a.example.com")));
        assert!(!fits(&["*.example.com"], &dns("a.b.example.com")));
        assert!(fits(&["a.example"], &dns("*.example")) && fits(&["*.example"], &dns("*.example")));
        assert!(!fits(&["a.b.example", "example"], &dns("*.example")));
        assert!(fits(&["spiffe://a/b"], &uri("spiffe://a/b")));
        assert!(!fits(&["spiffe://a/b/c", "a.example"], &uri("spiffe://a/b")));
        assert!(!fits(&["spiffe://a/B"], &uri("spiffe://a/b")));
        assert!(!fits(&[], &uri("spiffe://a/b")) && !fits(&[], &dns("a.example")));
    }
}
